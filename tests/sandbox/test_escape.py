"""Attacks on the live sandbox, watched from outside; each works where its own defence is switched off."""

import contextlib
import ctypes
import errno
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from places import ROOT
from reaching import MODULES

from puzzles.verify import truth_pool, verify_texts
from sandbox import child, codec, selfcheck
from sandbox.pool import PURE_MODULES, RUN_PROGRAM, Job, Pool
from sandbox.result import Limits, Status

LIMITS = Limits(cpu_seconds=0.4, wall_seconds=0.8)
SECRET = "a-secret-that-no-program-may-see"
MARK = "escaped-"
NOBODY = 65534
IPC_KEY = 0x5E1F5E1F
MACHINE = platform.machine()

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what a privileged zygote gives up can be shown by root only")

# From the kernel's headers (asm/unistd_64.h, asm-generic/unistd.h).
NUMBERS = {
    "x86_64": {
        "mmap": 9, "mprotect": 10, "munmap": 11, "ioctl": 16, "sigaction": 13, "mremap": 25, "shmget": 29,
        "shmctl": 31, "getpid": 39, "clone": 56, "semget": 64, "semctl": 66, "msgget": 68, "msgctl": 71,
        "gettimeofday": 96, "getrlimit": 97, "sysinfo": 99, "times": 100, "ptrace": 101, "syslog": 103,
        "rt_sigqueueinfo": 129, "personality": 135, "prctl": 157, "adjtimex": 159, "chroot": 161, "mount": 165,
        "swapoff": 168, "reboot": 169, "init_module": 175, "gettid": 186, "tkill": 200, "timer_create": 222,
        "timer_settime": 223, "timer_gettime": 224, "timer_delete": 226,
        "clock_gettime": 228, "clock_nanosleep": 230, "tgkill": 234, "mq_open": 240, "mq_unlink": 241,
        "add_key": 248, "request_key": 249, "keyctl": 250, "ioprio_set": 251, "inotify_init1": 294, "openat": 257,
        "unshare": 272, "signalfd4": 289, "eventfd2": 290, "epoll_create1": 291, "perf_event_open": 298,
        "rt_tgsigqueueinfo": 297, "prlimit64": 302, "setns": 308, "getcpu": 309, "process_vm_readv": 310,
        "process_vm_writev": 311, "kcmp": 312, "seccomp": 317, "getrandom": 318, "memfd_create": 319, "bpf": 321,
        "userfaultfd": 323, "membarrier": 324, "pkey_mprotect": 329, "statx": 332, "timerfd_create": 283,
        "pivot_root": 155, "execveat": 322,
    },
    "aarch64": {
        "mmap": 222, "mprotect": 226, "munmap": 215, "ioctl": 29, "sigaction": 134, "mremap": 216, "shmget": 194,
        "shmctl": 195, "getpid": 172, "clone": 220, "semget": 190, "semctl": 191, "msgget": 186, "msgctl": 187,
        "gettimeofday": 169, "getrlimit": 163, "sysinfo": 179, "times": 153, "ptrace": 117, "syslog": 116,
        "rt_sigqueueinfo": 138, "personality": 92, "prctl": 167, "adjtimex": 171, "chroot": 51, "mount": 40,
        "swapoff": 225, "reboot": 142, "init_module": 105, "gettid": 178, "tkill": 130, "timer_create": 107,
        "timer_settime": 110, "timer_gettime": 108, "timer_delete": 111,
        "clock_gettime": 113, "clock_nanosleep": 115, "tgkill": 131, "mq_open": 180, "mq_unlink": 181,
        "add_key": 217, "request_key": 218, "keyctl": 219, "ioprio_set": 30, "inotify_init1": 26, "openat": 56,
        "unshare": 97, "signalfd4": 74, "eventfd2": 19, "epoll_create1": 20, "perf_event_open": 241,
        "rt_tgsigqueueinfo": 240, "prlimit64": 261, "setns": 268, "getcpu": 168, "process_vm_readv": 270,
        "process_vm_writev": 271, "kcmp": 272, "seccomp": 277, "getrandom": 278, "memfd_create": 279, "bpf": 280,
        "userfaultfd": 282, "membarrier": 283, "pkey_mprotect": 288, "statx": 291, "timerfd_create": 85,
        "pivot_root": 41, "execveat": 281,
    },
}[MACHINE] | {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "fsopen": 430, "pidfd_open": 434, "clone3": 435, "openat2": 437,
    "pidfd_getfd": 438,
}  # fmt: skip

# Modules that programs reach although they cannot import them, and the kernel without libc's manners.
TOOLS = (
    MODULES
    + """
posix, ctypes, socket, signal, time = (modules[name] for name in ("posix", "ctypes", "socket", "signal", "time"))
mmap, resource, struct = (modules[name] for name in ("mmap", "resource", "struct"))
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
number_of = NUMBERS

def refused(returned):
    if returned < 0:
        raise OSError(ctypes.get_errno(), posix.strerror(ctypes.get_errno()))
    return returned

def raw(name, *arguments):
    number = number_of[name] if isinstance(name, str) else name
    plain = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return refused(libc.syscall(ctypes.c_long(number), *plain))

def asked(name, *arguments):
    # For what must not succeed even where it could: how the kernel answers to nonsense, if it looks at it at all.
    try:
        return raw(name, *arguments)
    except OSError as error:
        if error.errno == 1:
            raise
        return modules["errno"].errorcode[error.errno]

def read(path):
    descriptor = posix.open(path, posix.O_RDONLY)
    try:
        return posix.read(descriptor, 4096).decode("latin-1")
    finally:
        posix.close(descriptor)

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

class Where(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("file", "base", "symbol", "address")]

def word(address, size):
    return int.from_bytes(ctypes.string_at(address, size), "little")

def segments(base):
    for index in range(word(base + 56, 2)):
        header = base + word(base + 32, 8) + index * word(base + 54, 2)
        yield word(header, 4), word(header + 4, 4), word(header + 16, 8), word(header + 40, 8)

def code_around(function):
    where = Where()
    assert libc.dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(where))
    for kind, rights, offset, size in segments(where.base):
        if kind == 1 and rights & 1:
            return where.base + offset, ctypes.string_at(where.base + offset, size)

def vdso(symbol):
    # The kernel's own library, found without a file: its symbol table by the hash chain's length.
    base = libc.getauxval(33)
    (dynamic,) = [offset for kind, _, offset, _ in segments(base) if kind == 2]
    tags, at = {}, base + dynamic
    while word(at, 8):
        tags[word(at, 8)] = word(at + 8, 8)
        at += 16
    place = lambda tag: base + (tags[tag] - base if tags[tag] > base else tags[tag])
    for index in range(64):
        entry = place(6) + 24 * index
        if ctypes.string_at(place(5) + word(entry, 4)) == symbol:
            return base + word(entry + 8, 8)
    raise LookupError(symbol)
""".replace("NUMBERS", repr(NUMBERS))
)

RUN = """
libc.getauxval.restype = ctypes.c_ulong

def g(names, facts):
    outcomes = {}
    for name in names:
        try:
            outcomes[name] = ["reached", globals()["attack_" + name](facts)]
        except BaseException as error:
            outcomes[name] = [type(error).__name__, getattr(error, "errno", None), str(error)[:100]]
    return outcomes
"""


@dataclass(frozen=True)
class Attack:
    body: str
    off: tuple[str, ...]
    """The defences that have to be off for it to work: no fewer will do (see the tests)."""
    proof: object
    """What it returned and the watch: whether it got there."""
    held: str = "refused"
    """In the whole sandbox: "refused" with EPERM, "fails" in another way, or "crash"."""
    alone: bool = False
    """It changes or ends its own process when it works."""
    root: bool = False
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    able: object = lambda: True
    """Whether this machine has what the attack is after."""


def opens(family):
    try:
        socket.socket(family, socket.SOCK_SEQPACKET if family == 38 else socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def capabilities():
    return int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)


def may_trace():
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return not scope.exists() or scope.read_text().strip() == "0"


def secret(value, watch):
    return SECRET in str(value)


def anything(value, watch):
    return value is not None


def clock(value, watch):
    return abs(value - time.time()) < 3600


def hit(name):
    return lambda value, watch: watch.hit(name)


def made(name):
    return lambda value, watch: watch.made(name)


def among(*values):
    return lambda value, watch: value in values


def more_than(least):
    return lambda value, watch: isinstance(value, int) and value > least


FILES = ("seal", "descriptors", "namespaces", "landlock")
PATHS = ("seal", "namespaces")
CHANGES = ("seal", "namespaces", "landlock")
NET = ("seal", "descriptors", "namespaces")
NETLOCK = ("seal", "descriptors", "namespaces", "landlock")
SEAL = ("seal",)
HANDLES = ("seal", "descriptors")
OTHERS = ("seal", "namespaces")
SIGNALS = ("seal", "namespaces", "landlock")
ROOT_ONLY = ("seal", "namespaces", "identity", "capabilities")

ATTACKS = {
    # files
    "open_and_read": Attack("return read(facts['secret'])", FILES, secret),
    "builtin_open": Attack("return open(facts['secret']).read()", FILES, secret),
    "file_object": Attack("return modules['_io'].FileIO(facts['secret']).readall().decode()", FILES, secret),
    "open_relative": Attack(
        "return posix.read(raw('openat', -100, facts['secret'].encode(), 0, 0), 99).decode()", FILES, secret
    ),
    "open_by_the_new_call": Attack(
        "return posix.read(raw('openat2', -100, facts['secret'].encode(), bytes(24), 24), 99).decode()", FILES, secret
    ),
    "libc_fopen": Attack(
        "libc.fopen.restype = ctypes.c_void_p\nfile = libc.fopen(facts['secret'].encode(), b'r')\n"
        "if not file: refused(-1)\ntext = ctypes.create_string_buffer(99)\n"
        "libc.fread(text, 1, 98, ctypes.c_void_p(file))\nreturn text.value.decode()",
        FILES,
        secret,
    ),
    "create_a_file": Attack(
        "posix.close(posix.open(facts['new'], posix.O_CREAT | posix.O_WRONLY))", FILES, made("file")
    ),
    "append_to_a_file": Attack(
        "descriptor = posix.open(facts['spare'], posix.O_WRONLY | posix.O_APPEND)\nposix.write(descriptor, b'more')",
        (*FILES, "rlimits"),
        lambda value, watch: watch.spare() == "sparemore",
    ),
    "truncate_a_file": Attack("posix.truncate(facts['spare'], 0)", CHANGES, lambda value, watch: watch.spare() == ""),
    "remove_a_file": Attack("posix.unlink(facts['spare'])", CHANGES, lambda value, watch: watch.spare() is None),
    "rename_a_file": Attack(
        "posix.rename(facts['spare'], facts['new'])", CHANGES, lambda value, watch: watch.spare() is None
    ),
    "symbolic_link": Attack("posix.symlink('/', facts['new'])", CHANGES, made("link")),
    "make_a_folder": Attack("posix.mkdir(facts['new'])", CHANGES, made("folder")),
    "make_a_pipe_file": Attack("posix.mkfifo(facts['new'])", CHANGES, made("fifo")),
    "make_a_node": Attack("posix.mknod(facts['new'], 0o100644)", CHANGES, made("file")),
    "touch": Attack("posix.utime(facts['spare'])\nreturn True", PATHS, anything),
    "change_a_mode": Attack("posix.chmod(facts['spare'], 0o600)\nreturn True", PATHS, anything),
    "stat": Attack("return posix.stat(facts['secret']).st_size", PATHS, more_than(8)),
    "stat_by_the_new_call": Attack(
        "return raw('statx', -100, facts['secret'].encode(), 0, 0x7FF, ctypes.create_string_buffer(256))",
        PATHS,
        anything,
    ),
    "stat_the_root": Attack("return posix.stat('/').st_mode", SEAL, anything),
    "may_i": Attack("return posix.access(facts['secret'], posix.R_OK) or refused(-1)", PATHS, among(True), "fails"),
    "read_a_link": Attack("return posix.readlink(facts['link'])", PATHS, secret),
    "list_a_folder": Attack("return posix.listdir(facts['folder'])", FILES, lambda value, watch: "secret" in value),
    "change_folder": Attack("posix.chdir(facts['folder'])\nreturn posix.getcwd()", PATHS, anything),
    "free_space": Attack("return posix.statvfs(facts['folder']).f_blocks", PATHS, anything),
    "watch_a_folder": Attack("return raw('inotify_init1', 0)", HANDLES, anything),
    "own_memory_file": Attack(
        "buffer = ctypes.create_string_buffer(b'before')\ndescriptor = posix.open('/proc/self/mem', posix.O_RDWR)\n"
        "posix.lseek(descriptor, ctypes.addressof(buffer), 0)\nreturn posix.read(descriptor, 6) == b'before' or None",
        (*FILES, "identity"),
        anything,
        root=True,
    ),
    "parents_memory_file": Attack(
        "try: parent = posix.getppid()\nexcept OSError: parent = 1\n"
        "posix.open(f'/proc/{parent}/mem', posix.O_RDWR)\nreturn True",
        (*FILES, "not_dumpable", "identity"),
        anything,
        root=True,
    ),
    "victims_memory_file": Attack(
        "descriptor = posix.open(f'/proc/{facts[\"victim\"]}/mem', posix.O_RDONLY)\n"
        "posix.lseek(descriptor, facts['address'], 0)\nreturn posix.read(descriptor, 40).decode('latin-1')",
        FILES,
        secret,
        able=may_trace,
    ),
    "victims_environment": Attack("return read(f'/proc/{facts[\"victim\"]}/environ')", FILES, secret),
    "victims_open_file": Attack(
        'return posix.readlink(f\'/proc/{facts["victim"]}/fd/{facts["descriptor"]}\')',
        ("seal", "namespaces", "landlock"),
        lambda value, watch: value.endswith("/secret"),
    ),
    "supervisors_environment": Attack(
        "posix.open(f'/proc/{facts[\"supervisor\"]}/environ', posix.O_RDONLY)\nreturn True",
        (*ROOT_ONLY, "descriptors", "landlock"),
        anything,
        root=True,
    ),
    "kernel_random_file": Attack("return read('/dev/urandom')[:4]", FILES, anything),
    # network
    "internet_stream": Attack("socket.socket().connect(('127.0.0.1', facts['tcp']))\nreturn True", NETLOCK, hit("tcp")),
    "internet_stream_six": Attack(
        "socket.socket(socket.AF_INET6).connect(('::1', facts['tcp6']))\nreturn True",
        NETLOCK,
        hit("tcp6"),
        able=lambda: opens(socket.AF_INET6),
    ),
    "internet_datagram": Attack(
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', facts['udp']))", NET, hit("udp")
    ),
    "internet_listener": Attack(
        "door = socket.socket()\ndoor.bind(('127.0.0.1', 0))\nreturn door.getsockname()[1]",
        (*HANDLES, "landlock"),
        more_than(0),
    ),
    "unix_path": Attack("socket.socket(socket.AF_UNIX).connect(facts['unix'])\nreturn True", NET, hit("unix")),
    "unix_abstract": Attack(
        "socket.socket(socket.AF_UNIX).connect(facts['abstract'])\nreturn True", NETLOCK, hit("abstract")
    ),
    "unix_pair": Attack("socket.socketpair()\nreturn True", HANDLES, anything),
    "vsock": Attack("socket.socket(40, socket.SOCK_STREAM)\nreturn True", HANDLES, anything),
    "netlink": Attack("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nreturn True", HANDLES, anything),
    "packet": Attack(
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nreturn True", (*HANDLES, "capabilities"), anything
    ),
    "raw_internet": Attack(
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nreturn True", (*HANDLES, "capabilities"), anything
    ),
    "kernel_crypto": Attack(
        "socket.socket(38, socket.SOCK_SEQPACKET)\nreturn True", HANDLES, anything, able=lambda: opens(38)
    ),
    # processes
    "fork": Attack("if posix.fork() == 0: posix._exit(0)\nreturn posix.wait()[1]", ("seal", "processes"), among(0)),
    "clone": Attack(
        "if raw('clone', 17, 0, 0, 0, 0) == 0: posix._exit(0)\nreturn posix.wait()[1]", ("seal", "processes"), among(0)
    ),
    "clone_by_the_new_call": Attack(
        "if raw('clone3', struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64) == 0: posix._exit(0)\nreturn posix.wait()[1]",
        ("seal", "processes"),
        among(0),
    ),
    "thread": Attack(
        "done = []\nmodules['_thread'].start_new_thread(done.append, (1,))\nwhile not done: pass\nreturn done[0]",
        ("seal", "processes"),
        among(1),
        "fails",
    ),
    "spawn": Attack(
        "pid = posix.posix_spawn('/bin/sh', ['sh', '-c', 'exit 7'], {})\n"
        "return posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])",
        (*FILES, "processes", "no_clock"),
        among(7),
    ),
    "execute": Attack(
        "posix.execv('/bin/sh', ['sh', '-c', 'exit 77'])",
        (*FILES, "no_clock"),
        among("it left with exit status 77"),
        alone=True,
    ),
    "execute_an_open_file": Attack(
        "descriptor = posix.open('/bin/sh', posix.O_RDONLY)\nposix.execve(descriptor, ['sh', '-c', 'exit 77'], {})",
        (*FILES, "no_clock"),
        among("it left with exit status 77"),
        alone=True,
    ),
    # signals
    "signal_the_parent": Attack("posix.kill(posix.getppid(), 0)\nreturn True", SEAL, anything),
    "signal_the_group": Attack("posix.kill(0, 0)\nreturn True", SEAL, anything),
    "signal_the_victim": Attack("posix.kill(facts['victim'], signal.SIGUSR1)", SIGNALS, hit("victim")),
    "signal_a_thread": Attack(
        "raw('tgkill', facts['victim'], facts['victim'], signal.SIGUSR1)", SIGNALS, hit("victim")
    ),
    "signal_a_task": Attack("raw('tkill', facts['victim'], signal.SIGUSR1)", SIGNALS, hit("victim")),
    "queue_a_signal": Attack(
        "raw('rt_sigqueueinfo', facts['victim'], int(signal.SIGUSR1), struct.pack('iii', int(signal.SIGUSR1), 0, -1)"
        " + bytes(116))",
        SIGNALS,
        hit("victim"),
    ),
    "signal_by_descriptor": Attack(
        "raw('pidfd_send_signal', raw('pidfd_open', facts['victim'], 0), int(signal.SIGUSR1), None, 0)",
        ("seal", "descriptors", "namespaces", "landlock"),
        hit("victim"),
    ),
    "handle_the_timers_signal": Attack("signal.signal(signal.SIGPROF, signal.SIG_IGN)\nreturn True", SEAL, anything),
    "block_the_timers_signal": Attack(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])\nreturn True", SEAL, anything
    ),
    "read_the_timer": Attack("return raw('timer_gettime', 0, ctypes.create_string_buffer(32)) == 0", SEAL, among(True)),
    "disarm_the_timer": Attack(
        "return raw('timer_settime', 0, 0, bytes(32), None) == 0 and raw('timer_delete', 0) == 0", SEAL, among(True)
    ),
    "own_timer": Attack("return raw('timer_create', 0, None, ctypes.byref(ctypes.c_int()))", SEAL, anything),
    # other processes' memory and descriptors
    "trace": Attack("return raw('ptrace', 0x4206, facts['victim'], 0, 0)", SIGNALS, among(0), able=may_trace),
    "trace_me": Attack("return raw('ptrace', 0, 0, 0, 0)", SEAL, among(0), alone=True),
    "read_the_victims_memory": Attack(
        "buffer = ctypes.create_string_buffer(40)\n"
        "mine, theirs = Vector(ctypes.addressof(buffer), 40), Vector(facts['address'], 40)\n"
        "raw('process_vm_readv', facts['victim'], ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)\n"
        "return buffer.value.decode()",
        SIGNALS,
        secret,
        able=may_trace,
    ),
    "write_the_victims_memory": Attack(
        f"buffer = ctypes.create_string_buffer({SECRET!r}[:1].encode())\n"
        "mine, theirs = Vector(ctypes.addressof(buffer), 1), Vector(facts['address'], 1)\n"
        "return raw('process_vm_writev', facts['victim'], ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)",
        SIGNALS,
        among(1),
        able=may_trace,
    ),
    "steal_a_descriptor": Attack(
        "stolen = raw('pidfd_getfd', raw('pidfd_open', facts['victim'], 0), facts['descriptor'], 0)\n"
        "return posix.pread(stolen, 99, 0).decode()",
        ("seal", "descriptors", "namespaces", "landlock"),
        secret,
        able=may_trace,
    ),
    "compare_processes": Attack("return raw('kcmp', facts['victim'], facts['victim'], 1, 0, 0)", SIGNALS, among(0)),
    # what the kernel keeps for all
    "add_a_key": Attack("return raw('add_key', b'user', b'escaped-key', b'x', 1, -2)", SEAL, more_than(0)),
    "key_ring": Attack("return raw('keyctl', 0, -2, 1)", SEAL, more_than(0)),
    "request_a_key": Attack("return asked('request_key', b'user', b'escaped-none', None, 0)", SEAL, among("ENOKEY")),
    "shared_memory": Attack(
        "name = raw('shmget', 0, 4096, 0o1600)\nraw('shmctl', name, 0, None)\nreturn True", SEAL, anything
    ),
    "shared_memory_that_stays": Attack(
        f"return raw('shmget', {IPC_KEY}, 4096, 0o1666)", OTHERS, lambda value, watch: watch.shared_memory()
    ),
    "semaphores": Attack(
        "name = raw('semget', 0, 1, 0o1600)\nraw('semctl', name, 0, 0, 0)\nreturn True", SEAL, anything
    ),
    "messages": Attack("name = raw('msgget', 0, 0o1600)\nraw('msgctl', name, 0, None)\nreturn True", SEAL, anything),
    "message_queue": Attack(
        "raw('mq_open', b'escaped-queue', 0o102, 0o600, None)\nreturn raw('mq_unlink', b'escaped-queue')",
        (*HANDLES, "landlock"),
        anything,
    ),
    "memory_file": Attack("return raw('memfd_create', b'escaped', 0)", HANDLES, anything),
    "event_descriptor": Attack("return raw('eventfd2', 0, 0)", HANDLES, anything),
    "poll_descriptor": Attack("return raw('epoll_create1', 0)", HANDLES, anything),
    "timer_descriptor": Attack("return raw('timerfd_create', 0, 0)", HANDLES, anything),
    "signal_descriptor": Attack("return raw('signalfd4', -1, bytes(8), 8, 0)", HANDLES, anything),
    "pipe": Attack("return posix.pipe()[0]", HANDLES, anything),
    # memory that can be run
    "executable_memory": Attack(
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\nreturn True", SEAL, anything
    ),
    "written_and_run": Attack(
        "libc.mmap.restype = ctypes.c_void_p\n"
        "page = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0)))\n"
        "code = {'x86_64': 'b82a000000c3', 'aarch64': '40058052c0035fd6'}[facts['machine']]\n"
        "ctypes.memmove(page, bytes.fromhex(code), len(code) // 2)\nraw('mprotect', page, 4096, 5)\n"
        "return ctypes.CFUNCTYPE(ctypes.c_int)(page.value)()",
        SEAL,
        among(42),
    ),
    "moved_and_run": Attack(
        "libc.mmap.restype = ctypes.c_void_p\n"
        "page = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0)))\n"
        "code = {'x86_64': 'b82a000000c3', 'aarch64': '40058052c0035fd6'}[facts['machine']]\n"
        "ctypes.memmove(page, bytes.fromhex(code), len(code) // 2)\n"
        "moved = raw('mremap', page, 4096, 1 << 20, 1)\nraw('mprotect', moved, 4096, 5)\n"
        "return ctypes.CFUNCTYPE(ctypes.c_int)(moved)()",
        SEAL,
        among(42),
    ),
    "executable_by_key": Attack(
        "libc.mmap.restype = ctypes.c_void_p\n"
        "page = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0)))\n"
        "return raw('pkey_mprotect', page, 4096, 5, -1)",
        SEAL,
        among(0),
    ),
    # clocks
    "clock": Attack("return time.time()", SEAL, clock),
    "clock_of_the_vdso": Attack("return time.time()", ("no_clock",), clock),
    "clock_of_the_vdso_by_hand": Attack(
        "now = (ctypes.c_long * 2)()\n"
        "name = {'x86_64': b'__vdso_clock_gettime', 'aarch64': b'__kernel_clock_gettime'}\n"
        "read_clock = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)(vdso(name[facts['machine']]))\n"
        "if read_clock(0, ctypes.addressof(now)): raise PermissionError(1, 'the clock')\nreturn now[0]",
        ("no_clock",),
        clock,
    ),
    "clock_of_the_kernel": Attack(
        "now = (ctypes.c_long * 2)()\nraw('clock_gettime', 0, now)\nreturn now[0]", SEAL, clock
    ),
    "day_time_of_the_kernel": Attack(
        "now = (ctypes.c_long * 2)()\nraw('gettimeofday', now, None)\nreturn now[0]", SEAL, clock
    ),
    "clock_of_the_old_page": Attack(
        "seconds = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xFFFFFFFFFF600400)(None)\n"
        "if seconds < 1: raise PermissionError(1, 'the clock')\nreturn seconds",
        SEAL,
        clock,
        machines=("x86_64",),
        able=lambda: "[vsyscall]" in Path("/proc/self/maps").read_text(),
    ),
    "clock_of_the_processor": Attack(
        "for library in ('libcrypto.so.3', None):\n"
        "    try: function = getattr(ctypes.CDLL(library, mode=6), 'EVP_sha256' if library else 'Py_GetVersion')\n"
        "    except (OSError, AttributeError): continue\n"
        "    start, code = code_around(function)\n"
        "    if bytes.fromhex('0f31c3') in code:\n"
        "        at = start + code.index(bytes.fromhex('0f31c3'))\n"
        "        return [ctypes.CFUNCTYPE(ctypes.c_uint)(at)() for _ in range(2)]\n"
        "raise LookupError('no rdtsc in reach')",
        ("no_clock",),
        lambda value, watch: type(value) is list,
        "crash",
        alone=True,
        machines=("x86_64",),
    ),
    "processor_time": Attack("return time.process_time()", SEAL, lambda value, watch: value > 0, "fails"),
    "ticks": Attack("return raw('times', None)", SEAL, anything),
    "clock_adjustment": Attack("return raw('adjtimex', ctypes.create_string_buffer(256))", SEAL, anything),
    "uptime": Attack("return raw('sysinfo', ctypes.create_string_buffer(128))", SEAL, anything),
    "sleep": Attack("time.sleep(0.001)\nreturn True", SEAL, anything),
    # randomness, and who I am
    "randomness": Attack("return posix.getrandom(4).hex()", SEAL, anything),
    "randomness_by_number": Attack("return raw('getrandom', ctypes.create_string_buffer(8), 8, 0)", SEAL, among(8)),
    "process_number": Attack("return posix.getpid()", SEAL, more_than(0), "fails"),
    "processor_number": Attack("return raw('getcpu', ctypes.create_string_buffer(8), None, None)", SEAL, among(0)),
    "host_name": Attack("return posix.uname().nodename", SEAL, anything),
    "kernel_log": Attack(
        "return asked('syslog', 10, None, 0)",
        (*SEAL, "capabilities", "identity", "namespaces"),
        more_than(0),
        root=True,
    ),
    # the machine itself; arguments that can do nothing
    "io_ring": Attack("return asked('io_uring_setup', 0, None)", SEAL, among("EFAULT", "EINVAL", "ENOSYS")),
    "io_ring_in_earnest": Attack("return raw('io_uring_setup', 1, bytes(120))", (*HANDLES, "rlimits"), anything),
    "kernel_program": Attack(
        "return raw('bpf', 0, struct.pack('5I', 2, 4, 4, 1, 0) + bytes(100), 120)",
        (*ROOT_ONLY, "descriptors"),
        anything,
        root=True,
    ),
    "performance_counter": Attack(
        "return raw('perf_event_open', struct.pack('IIQQQQQ', 1, 112, 0, 0, 0, 0, 0x60) + bytes(64), 0, -1, -1, 0)",
        HANDLES,
        anything,
    ),
    "page_faults": Attack("return raw('userfaultfd', 1)", HANDLES, anything),
    "mount": Attack(
        "return raw('mount', b'none', b'/', b'tmpfs', 0, None)", ("seal", "capabilities", "landlock"), among(0)
    ),
    "pivot_root": Attack("return asked('pivot_root', b'.', b'.')", ("seal", "capabilities", "landlock"), anything),
    "chroot": Attack("return raw('chroot', b'/')", ("seal", "capabilities"), among(0)),
    "file_system": Attack("return raw('fsopen', b'tmpfs', 0)", (*HANDLES, "capabilities"), anything),
    "join_a_namespace": Attack("return asked('setns', -1, 0)", SEAL, among("EBADF")),
    "reboot": Attack("return asked('reboot', 1, 2, 3, None)", ("seal", "capabilities"), among("EINVAL")),
    "stop_swapping": Attack("return asked('swapoff', b'/no/such/device')", ROOT_ONLY, among("ENOENT"), root=True),
    "number_of_another_abi": Attack(
        "return asked(0x40000000 | number_of['getpid'])", SEAL, anything, machines=("x86_64",)
    ),
    "negative_number": Attack("return asked(-1)", SEAL, among("ENOSYS")),
    "huge_number": Attack("return asked(0x7FFFFFFF)", SEAL, among("ENOSYS")),
    "number_with_a_high_word": Attack("return asked((1 << 32) | number_of['getpid'])", SEAL, anything),
    "unused_number": Attack("return asked(1023)", SEAL, among("ENOSYS")),
    # its own shackles
    "read_a_limit": Attack("return resource.getrlimit(resource.RLIMIT_AS)[0]", SEAL, anything),
    "raise_the_soft_limit": Attack(
        "hard = resource.getrlimit(resource.RLIMIT_STACK)[1]\nresource.setrlimit(resource.RLIMIT_STACK, (hard, hard))\n"
        "return True",
        SEAL,
        anything,
    ),
    "raise_the_hard_limit": Attack(
        "raw('prlimit64', 0, int(resource.RLIMIT_AS), struct.pack('2Q', 1 << 45, 1 << 45), None)\n"
        "return resource.getrlimit(resource.RLIMIT_AS)[1]",
        ROOT_ONLY,
        among(1 << 45),
        root=True,
        able=lambda: 1 << 24 & capabilities(),
    ),
    "become_dumpable": Attack("return raw('prctl', 4, 1, 0, 0, 0)", SEAL, among(0)),
    "outlive_the_parent": Attack("return raw('prctl', 1, 0, 0, 0, 0)", SEAL, among(0)),
    "another_name": Attack("return raw('prctl', 15, b'init', 0, 0, 0)", SEAL, among(0)),
    "seal_again": Attack("return raw('seccomp', 2, 0, ctypes.byref(ctypes.c_uint(0x7FFF0000)))", SEAL, among(0)),
    "choose_a_core": Attack("posix.sched_setaffinity(0, posix.sched_getaffinity(0))\nreturn True", SEAL, anything),
    "be_nice": Attack("return posix.nice(1)", SEAL, anything),
    "schedule": Attack(
        "posix.sched_setscheduler(0, posix.SCHED_BATCH, posix.sched_param(0))\nreturn True", SEAL, anything
    ),
    "disk_priority": Attack("return raw('ioprio_set', 1, 0, 3 << 13)", SEAL, among(0)),
    "barrier": Attack("return raw('membarrier', 0, 0, 0)", SEAL, anything),
    # these change what comes after them
    "another_session": Attack("return posix.setpgid(0, 0) is None", SEAL, among(True)),
    "personality": Attack("return raw('personality', 0x0400000)", SEAL, anything),
    "new_namespaces": Attack("return raw('unshare', 0x10000000 | 0x40000000)", SEAL, among(0)),
}
ATTACKS = {name: attack for name, attack in ATTACKS.items() if MACHINE in attack.machines}
TOGETHER = [name for name, attack in ATTACKS.items() if not attack.alone]

WEAK = """
import resource, signal, types
from sandbox import child, confine

OFF = {off!r}
apply_layer = confine._layer

def weak_layer(layers, name, apply):
    if name in OFF:
        layers.states[name] = "switched off"
    else:
        apply_layer(layers, name, apply)

def weak_limit(number, limits):
    names = {{resource.RLIMIT_NOFILE: "descriptors", resource.RLIMIT_NPROC: "processes", resource.RLIMIT_CPU: "timer"}}
    if names.get(number) not in OFF:
        resource.setrlimit(number, limits)

confine._layer = weak_layer
child.resource = types.SimpleNamespace(**{{**vars(resource), "setrlimit": weak_limit}})
if "seal" in OFF:
    confine.seal = lambda: confine._prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)
if "timer" in OFF:
    confine.limit_cpu = lambda seconds: None
"""
LAYERS = (
    "parent_death", "no_clock", "identity", "namespaces", "empty_root", "no_new_privs", "landlock", "capabilities",
    "rlimits", "not_dumpable",
)  # fmt: skip

VICTIM = """
import ctypes, os, signal, sys
memory = ctypes.create_string_buffer(os.environ["ESCAPE_SECRET"].encode())
descriptor = os.open(sys.argv[1], os.O_RDONLY)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
print(ctypes.addressof(memory), descriptor, flush=True)
while signal.sigwait([signal.SIGUSR1]):
    print("signalled", flush=True)
"""


@dataclass
class Watch:
    """What a program must not reach, and whether it did."""

    folder: Path
    victim: subprocess.Popen
    listeners: dict[str, socket.socket]
    facts: dict = field(default_factory=dict)

    def tell(self, seconds):
        """What the victim says within some time: nothing, unless somebody signals it."""
        ready, _, _ = select.select([self.victim.stdout], [], [], seconds)
        return self.victim.stdout.readline() if ready else b""

    def hit(self, name, seconds=2.0):
        if name == "victim":
            return self.tell(seconds) == b"signalled\n"
        listener = self.listeners[name]
        listener.settimeout(seconds)
        try:
            if listener.type == socket.SOCK_DGRAM:
                return listener.recv(9) == b"x"
            listener.accept()[0].close()
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def spare(self):
        path = Path(self.facts["spare"])
        return path.read_text() if path.exists() else None

    def made(self, kind):
        path = Path(self.facts["new"])
        return {"file": path.is_file, "link": path.is_symlink, "folder": path.is_dir, "fifo": path.is_fifo}[kind]()

    def shared_memory(self):
        libc = ctypes.CDLL(None)
        number = libc.shmget(IPC_KEY, 0, 0)
        return number >= 0 and libc.shmctl(number, 0, None) == 0

    def restore(self):
        """After an attack that was let through."""
        new, spare = Path(self.facts["new"]), Path(self.facts["spare"])
        if new.is_dir() and not new.is_symlink():
            new.rmdir()
        elif new.is_symlink() or new.exists():
            new.unlink()
        spare.unlink(missing_ok=True)
        spare.write_text("spare")
        spare.chmod(0o666)
        if os.geteuid() == 0:
            os.chown(spare, NOBODY, NOBODY)
        self.state = self.seen()

    def seen(self):
        return {
            path.name: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in [self.folder, *self.folder.iterdir()]
        }

    def assert_clean(self):
        assert self.victim.poll() is None, "the victim is dead"
        assert self.tell(0) == b"", "the victim was signalled"
        assert self.seen() == self.state
        assert Path(self.facts["secret"]).read_text() == SECRET
        for name in self.listeners:
            assert not self.hit(name, 0), f"somebody reached the {name} listener"


def listener(family, kind, address):
    door = socket.socket(family, kind)
    door.bind(address)
    if kind == socket.SOCK_STREAM:
        door.listen()
    return door


def below(pid):
    """Every process below one."""
    parents = {}
    for path in (folder / "stat" for folder in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new:
        new = {process for process, parent in parents.items() if parent in new} - found
        found |= new
    return found


def traces():
    """What the machine holds that an escape would add to."""
    rows = [
        line.split()
        for kind in ("shm", "sem", "msg")
        if Path(f"/proc/sysvipc/{kind}").exists()
        for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    ]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "processes": below(os.getpid()),
        "ipc": [row[:2] for row in rows if str(NOBODY) in row or row[0] == str(IPC_KEY)],
        "files": [path for place in ("/", "/tmp", "/dev/shm", "/var/tmp") for path in Path(place).glob(MARK + "*")],
    }


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def watch():
    before, memory = traces(), resident()
    folder = Path(tempfile.mkdtemp(prefix="canary-", dir="/tmp"))
    folder.chmod(0o777)
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o644)
    (folder / "link").symlink_to("/" + SECRET)
    os.environ["ESCAPE_SECRET"] = SECRET
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    abstract = f"\0{MARK}{os.getpid()}"
    listeners = {
        "tcp": listener(socket.AF_INET, stream, ("127.0.0.1", 0)),
        "udp": listener(socket.AF_INET, datagram, ("127.0.0.1", 0)),
        "unix": listener(socket.AF_UNIX, stream, str(folder / "door")),
        "abstract": listener(socket.AF_UNIX, stream, abstract),
    }
    with contextlib.suppress(OSError):
        listeners["tcp6"] = listener(socket.AF_INET6, stream, ("::1", 0))
    (folder / "door").chmod(0o777)
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, folder / "secret"], stdout=subprocess.PIPE, bufsize=0)
    address, descriptor = map(int, victim.stdout.readline().split())
    facts = {
        "folder": str(folder),
        "secret": str(folder / "secret"),
        "spare": str(folder / "spare"),
        "new": str(folder / (MARK + "new")),
        "link": str(folder / "link"),
        "unix": str(folder / "door"),
        "abstract": abstract,
        "victim": victim.pid,
        "supervisor": os.getpid(),
        "address": address,
        "descriptor": descriptor,
        "machine": MACHINE,
        **{name: listeners[name].getsockname()[1] for name in ("tcp", "udp", "tcp6") if name in listeners},
    }
    watch = Watch(folder, victim, listeners, facts)
    watch.restore()
    yield watch
    watch.assert_clean()
    victim.kill()
    victim.wait()
    victim.stdout.close()
    for door in listeners.values():
        door.close()
    del os.environ["ESCAPE_SECRET"]
    shutil.rmtree(folder)
    assert traces() == before
    assert resident() - memory < 128 * 1024**2


@pytest.fixture(autouse=True)
def unharmed(watch):
    yield
    watch.assert_clean()


@pytest.fixture(scope="module")
def open_pool(watch, tmp_path_factory):
    """Pools with defences off, by name: each made once."""
    folder = tmp_path_factory.mktemp("escape")
    package = folder / "escape_weak"
    package.mkdir()
    (package / "__init__.py").write_text("")
    sys.path.insert(0, str(folder))
    with contextlib.ExitStack() as stack:
        pools = {}

        def pool(*off, limits=LIMITS):
            key = (tuple(sorted(off)), limits)
            if key not in pools:
                (package / f"w{len(pools)}.py").write_text(WEAK.format(off=set(off) or ()))
                modules = (*PURE_MODULES, "random", "hashlib", f"escape_weak.w{len(pools)}")
                pools[key] = stack.enter_context(Pool(limits=limits, lanes=1, modules=modules))
            return pools[key]

        yield pool
    sys.path.remove(str(folder))
    sys.modules.pop("escape_weak", None)


def attempt(pool, watch, names):
    """The outcomes of attacks made in one child, or the result of a child that did not finish."""
    bodies = "".join(
        f"def attack_{name}(facts):\n" + "".join(f"    {line}\n" for line in ATTACKS[name].body.splitlines())
        for name in names
    )
    call = codec.encode([names, watch.facts], LIMITS.answer_bytes)
    payload = child.program([TOOLS + bodies + RUN], "g", [call], LIMITS.answer_bytes)
    result = next(pool.run([Job(RUN_PROGRAM, payload)]))
    if result.status != Status.FINISHED:
        return result
    assert result.records[0][:1] == child.VALUE, result
    return codec.decode(result.records[0][1:])


def works(watch, name, outcome):
    """Whether an attack got where it wanted to; a process that ended is known by how."""
    attack = ATTACKS[name]
    if not isinstance(outcome, dict):
        return outcome.status == Status.DIED and bool(attack.proof(outcome.detail, watch))
    happened = outcome[name]
    return happened[0] == "reached" and bool(attack.proof(happened[1], watch))


# ---- every attack on the whole sandbox ----


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(open_pool, watch, name):
    outcome = attempt(open_pool(), watch, [name])
    if ATTACKS[name].held == "crash":
        assert (outcome.status, outcome.records) == (Status.DIED, ())
    elif ATTACKS[name].held == "refused":
        assert outcome[name][1] == errno.EPERM, outcome
    assert not works(watch, name, outcome), outcome


# ---- every attack where its own defence is switched off ----


def fewer(off):
    """Each set of defences with one more of them on."""
    return [tuple(other for other in off if other != name) for name in off]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_works_where_its_defences_are_off_and_no_fewer(open_pool, watch, name):
    attack = ATTACKS[name]
    if attack.root and os.geteuid() != 0:
        pytest.skip("only a privileged zygote has what this attack wants")
    if not attack.able():
        pytest.skip("this machine does not have what this attack wants")
    if set(open_pool().layers.states.values()) != {"on"}:
        pytest.skip("this machine refuses a layer to begin with: some are off already, and some doors closed")
    outcome = attempt(open_pool(*attack.off), watch, [name])
    done = works(watch, name, outcome)
    watch.restore()
    assert done, outcome
    for off in fewer(attack.off):
        outcome = attempt(open_pool(*off), watch, [name])
        done = works(watch, name, outcome)
        watch.restore()
        assert not done, f"{off} suffice"


# ---- layers that stand alone ----


def through(pool, watch, names=TOGETHER):
    """The attacks that get where they want to, all tried in one child."""
    outcomes = attempt(pool, watch, names)
    return {name for name in names if works(watch, name, outcomes)}


def stopped_by(*off):
    """The attacks that nothing else stops."""
    return {name for name in TOGETHER if set(ATTACKS[name].off) <= set(off) and ATTACKS[name].able()}


CLOCKS = {"clock", "clock_of_the_vdso", "clock_of_the_vdso_by_hand"}
CONFIGURATIONS = {
    "whole": ((), "A", set()),
    "no parent_death": (("parent_death",), "B", set()),
    "no no_clock": (("no_clock",), "D", CLOCKS),
    "no identity": (("identity",), "B", set()),
    "no namespaces": (("namespaces",), "B", set()),
    "no empty_root": (("empty_root",), "B", set()),
    "no no_new_privs": (("no_new_privs",), "B", set()),
    "no landlock": (("landlock",), "B", set()),
    "no capabilities": (("capabilities",), "B", set()),
    "no rlimits": (("rlimits",), "D", set()),
    "no not_dumpable": (("not_dumpable",), "B", set()),
    "a container's": (("namespaces", "landlock"), "B", set()),
    "seal, rlimits and clock": (tuple(name for name in LAYERS if name not in ("rlimits", "no_clock")), "B", set()),
    "seal and rlimits": (tuple(name for name in LAYERS if name != "rlimits"), "D", CLOCKS),
    "no child limits": (("descriptors", "processes"), "A", set()),
}


def test_there_is_a_configuration_without_each_layer(open_pool):
    assert set(open_pool().layers.states) | {"empty_root"} == set(LAYERS)  # not asked for without namespaces
    assert {off[0] for off, *_ in CONFIGURATIONS.values() if len(off) == 1} == set(LAYERS)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_seal_stops_every_attack_whatever_else_is_off(open_pool, watch, configuration):
    off, _, expected = CONFIGURATIONS[configuration]
    assert through(open_pool(*off), watch) == expected


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_self_check_gives_each_configuration_its_tier(open_pool, configuration):
    off, tier, _ = CONFIGURATIONS[configuration]
    pool = open_pool(*off)
    if set(open_pool().layers.states.values()) != {"on"}:
        pytest.skip("this machine refuses a layer to begin with")
    protections = selfcheck.check(pool)
    assert protections.tier == tier, protections.failures()
    assert {name for name, state in protections.layers.items() if state != "on"} == (
        (set(off) & set(LAYERS)) - ({"empty_root"} if "namespaces" in off else set())
    )


def test_without_the_seal_exactly_the_named_attacks_work_and_the_canaries_stay_clean(open_pool, watch):
    if open_pool().layers.states["namespaces"] != "on":
        pytest.skip("without namespaces nothing is left between the attacks and this machine")
    done = through(open_pool("seal"), watch)
    assert sorted(done ^ (stopped_by("seal") | CLOCKS & done)) == []
    assert {"signal_the_group", "executable_memory", "clock_of_the_kernel", "randomness", "new_namespaces"} <= done
    assert not done & {"open_and_read", "create_a_file", "internet_stream", "signal_the_victim", "fork", "netlink"}


def test_without_the_seal_the_self_check_gives_tier_d(open_pool):
    if open_pool().layers.states["namespaces"] != "on":
        pytest.skip("the attacks of the self-check are tried for real: not outside an empty root")
    assert selfcheck.check(open_pool("seal")).tier == "D"


# ---- what the supervisor keeps from its zygotes ----

INITIAL_STACK = """
libc.getauxval.restype = ctypes.c_ulong
end = libc.getauxval(31)
text = ctypes.string_at(end - 16384, 16384)
return text[text.index(b'PYTHON'):].decode('latin-1')"""


@pytest.mark.parametrize("cleared", [True, False], ids=["cleared", "inherited"])
def test_the_environment_is_not_even_on_the_initial_stack(watch, monkeypatch, cleared):
    if not cleared:
        real = subprocess.Popen

        def leaky(*arguments, env, **keywords):
            return real(*arguments, env={**env, **os.environ}, **keywords)

        monkeypatch.setattr("sandbox.pool.subprocess.Popen", leaky)
    source = TOOLS + "def g():\n" + "".join(f"    {line}\n" for line in INITIAL_STACK.strip().splitlines())
    with Pool(limits=LIMITS, lanes=1) as pool:
        payload = child.program([source], "g", [b"[]"], LIMITS.answer_bytes)
        (result,) = pool.run([Job(RUN_PROGRAM, payload)])
    assert "PYTHONHASHSEED" in codec.decode(result.records[0][1:])
    assert (SECRET in codec.decode(result.records[0][1:])) is not cleared


# ---- a forged return from a signal: it would block the very signals that end a program ----

FORGED_RETURN = """
start, code = code_around(libc.getpid)
spin = start + code.index(bytes.fromhex('ebfe'))
saved = [0] * 32
saved[15] = ctypes.addressof(ctypes.create_string_buffer(1 << 16)) + (1 << 15)
saved[16:19] = [spin, 0x202, 0x33 | 0x2B << 48]
words = [0, 0, 2, 0, *saved, 2**64 - 1]
refused(libc.syscall(ctypes.c_long(15), *[ctypes.c_long(0)] * 5, *[ctypes.c_ulong(value) for value in words]))"""

SIGRETURN = """
import ctypes
from sandbox import confine

confine.ALLOWED["x86_64"]["rt_sigreturn"] = 15
program = confine._filter_program("x86_64")
buffer = ctypes.create_string_buffer(program)
confine._FILTER = confine._SockFprog(len(program) // 8, ctypes.addressof(buffer))
"""


@pytest.mark.skipif(MACHINE != "x86_64", reason="the frame is laid out for x86-64")
@pytest.mark.parametrize("allowed", [False, True], ids=["refused", "allowed"])
def test_no_program_blocks_the_signal_of_its_own_timer(watch, tmp_path, monkeypatch, allowed):
    package = tmp_path / "escape_sigreturn"
    package.mkdir()
    (package / "__init__.py").write_text(SIGRETURN if allowed else "")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sandbox.pool.TRIES", 1)
    source = TOOLS + "def g():\n" + "".join(f"    {line}\n" for line in FORGED_RETURN.strip().splitlines())
    payload = child.program([source], "g", [b"[]"], LIMITS.answer_bytes)
    with Pool(limits=LIMITS, lanes=1, modules=[*PURE_MODULES, "escape_sigreturn"]) as pool:
        result = next(pool.run([Job(RUN_PROGRAM, payload)]))
    if allowed:
        # It goes on beyond its limit, until the kernel's own ends it: still the program's failure, and not ours.
        assert result.status == Status.CPU_LIMIT
        assert result.cpu_seconds > 2
    else:
        assert result.records[0].startswith(b"EPermissionError")


# ---- resources ----

SMALL = Limits(cpu_seconds=0.4, wall_seconds=0.8, memory_bytes=128 * 1024**2, answer_bytes=64 * 1024)
CPU, WALL, MEMORY, ANSWER, RAISED, DIED, FINE = "cpu", "wall", "memory", "answer", "raised", "died", "fine"


# What memory or a rule ends must not be ended by the clock first on a machine of a quarter of the speed.
PATIENT = replace(SMALL, cpu_seconds=4, wall_seconds=8)


@pytest.fixture(scope="module")
def small(watch):
    """One lane: what one job leaves behind, the next would find."""
    with truth_pool(SMALL, lanes=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def patient(watch):
    """`small` with ten times the time."""
    with truth_pool(PATIENT, lanes=1) as pool:
        yield pool


def program(body, before="", limits=SMALL):
    source = before + "\ndef g():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return Job(RUN_PROGRAM, child.program([source], "g", [b"[]"], limits.answer_bytes))


def ending(result):
    """In one word, what became of a program."""
    if result.status == Status.FINISHED:
        return {b"V": FINE, b"U": ANSWER, b"E": RAISED, b"L": RAISED, b"M": MEMORY}[result.records[0][:1]]
    statuses = {Status.CPU_LIMIT: CPU, Status.MEMORY_LIMIT: MEMORY, Status.DIED: DIED, Status.WALL_LIMIT: WALL}
    return statuses[result.status]


COLLIDING = "[n * (2**61 - 1) for n in range(1, 60000)]"
RESOURCES = {
    "loop": ("while True: pass", CPU),
    "loop that catches all": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", CPU),
    "loop in C": ("return sum(iter(int, 1))", CPU),
    "endless any": ("return any(iter(int, 1))", CPU),
    "regex backtracking": ("import re\nreturn re.match('(a|aa)+$', 'a' * 60 + 'b')", CPU),
    "huge power": ("return pow(3, 10**9)", CPU),
    "huge factorial": ("import math\nreturn math.factorial(10**7)", CPU),
    "endless product": ("import itertools\nreturn len(list(itertools.product(range(9), repeat=99)))", MEMORY),
    "permutations": ("import itertools\nreturn sum(1 for _ in itertools.permutations(range(20)))", CPU),
    "set of colliding integers": (f"return len(set({COLLIDING}))", CPU),
    "dict of colliding integers": (f"return len(dict.fromkeys({COLLIDING}))", CPU),
    "finalizer that revives": (
        "class Undead:\n    def __del__(self):\n        Undead()\nUndead()\nreturn 1",
        {CPU, FINE, RAISED, DIED},
    ),
    "finalizer that loops": ("class Slow:\n    def __del__(self):\n        while True: pass\nSlow()\nreturn 1", CPU),
    "iterator without end as answer": ("class Same(list): pass\nx = []\nx.append(x)\nreturn x", ANSWER),
    "text": ("return 'a' * (1 << 31)", MEMORY),
    "doubled text": ("x = 'ab'\nwhile True: x += x", MEMORY),
    "list": ("return [0] * (1 << 30)", MEMORY),
    "list of lists": ("x = []\nwhile True: x.append([0] * 4096)", MEMORY),
    "dict of texts": ("x = {}\nwhile True: x[len(x)] = 'a' * 4096 + str(len(x))", MEMORY),
    "integer": ("return 1 << (1 << 34)", MEMORY),
    "bytearray": ("return len(bytearray(1 << 30))", MEMORY),
    "cycles for the collector": (
        "x = None\nwhile True:\n    y = [bytearray(4096)]\n    y.append(y)\n    y.append(x)\n    x = y",
        MEMORY,
    ),
    "format width": ("return len('{:>2000000000}'.format(1))", MEMORY),
    "percent width": ("return len('%2000000000d' % 1)", MEMORY),
    "many names": ("x = globals()\nwhile True: x['n' * 4096 + str(len(x))] = 1", MEMORY),
    "recursion": ("def down(): return down()\nreturn down()", RAISED),
    "recursion in attribute access": (
        "class A:\n    def __getattr__(self, name): return getattr(self, name + 'x')\nreturn A().y",
        {RAISED, MEMORY},
    ),
    "recursion in C with the limit lifted": (
        "sys.setrecursionlimit(10**9)\nx, y = [], []\nfor _ in range(400_000): x, y = [x], [y]\nreturn x == y",
        {DIED, MEMORY},
    ),
    "freeing a deep list": ("x = []\nfor _ in range(10**6): x = [x]\ndel x\nreturn 1", FINE),
    "deep answer": ("x = []\nfor _ in range(10**5): x = [x]\nreturn x", ANSWER),
    "aliased answer": ("x = [1]\nfor _ in range(60): x = [x, x]\nreturn x", ANSWER),
    "long answer": ("return 'a' * 70000", ANSWER),
    "answer of many parts": ("return list(range(70000))", ANSWER),
    "answer that escapes to more bytes": ("return '\\U0010ffff' * 20000", ANSWER),
    "answer of control characters": ("return '\\0' * 20000", ANSWER),
    "answer of surrogates": ("return chr(0xD800) * 9", FINE),
    "answer of combining marks": ("return 'a' + '\\u0301' * 5000", FINE),
    "long integer as text": ("return str(10**200000)", RAISED),
    "long integer as answer": ("return 10**200000", ANSWER),
    "long exception message": ("raise ValueError('x' * (1 << 24))", RAISED),
    "chain of exceptions": (
        "error = None\nfor _ in range(10**5):\n    new = ValueError()\n    new.__cause__ = error\n    error = new\n"
        "raise error",
        {RAISED, DIED},
    ),
    "output": ("for _ in range(10**4): print('accepted' * 99)\nreturn 1", FINE),
    "output without end": ("while True: print('accepted' * 99)", CPU),
    "lock that waits for ever": (
        "lock = modules['_thread'].allocate_lock()\nlock.acquire()\nlock.acquire()",
        {DIED, WALL, RAISED},
    ),
    "crash": ("return ctypes.string_at(0)", DIED),
    "read far away": ("return ctypes.string_at(ctypes.addressof(ctypes.c_char()) - (1 << 40))", DIED),
    "jump to nowhere": ("return ctypes.CFUNCTYPE(None)(16)()", DIED),
    "own memory unmapped": ("while True: raw('munmap', word(id(g) + 8, 8) & ~4095, 1 << 20)", DIED),
    "memory below python": ("while True: raw('mmap', None, 1 << 24, 3, 0x8022, -1, 0)", RAISED),
    "threads": ("while True: modules['_thread'].start_new_thread(print, ())", RAISED),
    "forks": ("while True: posix.fork()", RAISED),
}


@pytest.mark.parametrize("name", RESOURCES)
def test_a_greedy_program_ends_at_its_limit_and_the_next_one_is_fine(small, patient, name):
    body, expected = RESOURCES[name]
    endings = expected if isinstance(expected, set) else {expected}
    pool, limits = (small, SMALL) if endings & {CPU, WALL} else (patient, PATIENT)
    started = time.monotonic()
    greedy, after = pool.run([program(body, before=TOOLS, limits=limits), program("return 1")])
    assert ending(greedy) in endings, greedy
    assert after.records == (b"V1",)
    assert greedy.cpu_seconds < 2 * limits.cpu_seconds
    assert time.monotonic() - started < 10 * limits.wall_seconds


BOMBS = {
    "brackets": "(" * 20000 + ")" * 20000,
    "unary minus": "-" * 50000 + "1",
    "negation": "not " * 15000 + "1",
    "additions": "+".join("1" * 20000),
    "lists": "[" * 150 + "]" * 150,
    "attributes": "a" + ".a" * 20000,
    "calls": "a" + "()" * 20000,
    "lambdas": "lambda:" * 8000 + "1",
    "powers": "9**9**9**9",
    "multiplied text": "'a' * 9**9 * 9",
    "digits": "1" * 50000,
    "too long": "'" + "a" * 70000 + "'",
    "format strings": "f'{" * 150 + "1" + "}'" * 150,
}


@pytest.mark.parametrize("place", ["puzzle", "solution"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_for_the_parser_is_a_verdict_and_the_next_text_is_fine(small, name, place):
    puzzle = "def f(x: int): return x == 7" + (f" or {BOMBS[name]}" if place == "puzzle" else "")
    solution = f"def g(): return {BOMBS[name]}" if place == "solution" else "def g(): return 8"
    fine = ("def f(x: int): return x == 7", "def g(): return 7")
    bomb, after = verify_texts(small, [(puzzle, solution), fine])
    assert bomb.verdict not in ("accepted", "unstable") or (place, name) in ALIVE
    assert after.verdict == "accepted"


# True in Python, hence a puzzle that accepts 8: "or" followed by an expression that is not False but True itself.
ALIVE = {("puzzle", "negation")}

DOWN = "def down(n):\n    return 0 if n == 0 else 1 + down(n - 1)"
ROOMY = Limits(cpu_seconds=2, wall_seconds=4, memory_bytes=128 * 1024**2)
LIFTED = {
    "cpu": ("for _ in range(10**7): pass\nreturn 1", "", Limits(cpu_seconds=0.05, wall_seconds=0.8), CPU, ("timer",)),
    "memory": ("return len(bytearray(160 << 20))", "", ROOMY, MEMORY, ("rlimits",)),
    "answer": ("return 'a' * 2000", "", Limits(answer_bytes=1000), ANSWER, Limits(answer_bytes=3000)),
    "recursion": ("return down(900)", DOWN, Limits(recursion_limit=300), RAISED, Limits(recursion_limit=2000)),
    "cpu setting": (
        "for _ in range(10**7): pass\nreturn 1",
        "",
        Limits(cpu_seconds=0.05, wall_seconds=0.8),
        CPU,
        Limits(cpu_seconds=20, wall_seconds=20),
    ),
    "memory setting": (
        "return len(bytearray(160 << 20))",
        "",
        ROOMY,
        MEMORY,
        Limits(cpu_seconds=2, wall_seconds=4, memory_bytes=1 << 29),
    ),
}


@pytest.mark.parametrize("name", LIFTED)
def test_with_the_limit_lifted_the_same_program_lives(open_pool, name):
    body, before, limits, expected, lifted = LIFTED[name]
    wide = limits if isinstance(lifted, tuple) else lifted
    off = lifted if isinstance(lifted, tuple) else ()
    (held,) = open_pool(limits=limits).run([program(body, before, limits)])
    (free,) = open_pool(*off, limits=wide).run([program(body, before, wide)])
    assert (ending(held), ending(free)) == (expected, FINE)


def test_a_sleeper_ends_at_the_wall_limit_where_sleep_is_to_be_had(open_pool):
    short, long = Limits(cpu_seconds=0.1, wall_seconds=0.2), Limits(cpu_seconds=0.1, wall_seconds=20)
    (held,) = open_pool("seal", limits=short).run([program("time.sleep(0.5)\nreturn 1", TOOLS)])
    (free,) = open_pool("seal", limits=long).run([program("time.sleep(0.5)\nreturn 1", TOOLS)])
    assert (held.status, ending(free)) == (Status.WALL_LIMIT, FINE)


# ---- as an ordinary user ----

ORDINARY = """
import json, os
from puzzles.verify import truth_pool, verify_texts
from sandbox import selfcheck

REACH = 'import collections\\nmodules = collections.namedtuple.__globals__["_sys"].modules\\n'
SQUARE = 'def f(x: int): return x * x == 1764'
ATTACKS = [
    'posix.open("/etc/passwd", 0)', 'posix.fork()', 'posix.kill(posix.getppid(), 0)', 'posix.getrandom(8)',
    'socket.socket()', 'time.time()', 'signal.setitimer(2, 0)', 'mmap.mmap(-1, 4096, prot=7)', 'posix.stat("/")',
]
texts = [(SQUARE, 'def g(): return 42'), (SQUARE, 'def g(): return 41')]
for attack in ATTACKS:
    module = attack.partition(".")[0]
    body = f'    {module} = modules["{module}"]\\n    posix = modules["posix"]\\n    {attack}\\n    return 42'
    texts.append((SQUARE, f'{REACH}def g():\\n{body}'))
with truth_pool(lanes=1) as pool:
    protections = selfcheck.check(pool)
    verdicts = [[str(judgement.verdict), judgement.detail] for judgement in verify_texts(pool, texts)]
print(json.dumps([os.getuid(), protections.tier, protections.failures(), verdicts]))
"""


def ordinary_interpreter():
    """The first Python that user 65534 can start, new enough; a developer's own is often in a closed home."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for path in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        with contextlib.suppress(OSError, subprocess.SubprocessError, TypeError):
            subprocess.run([path, "-c", check], check=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
            return path
    return None


@as_root
def test_an_ordinary_user_has_the_same_protections(open_pool, watch):
    path = ordinary_interpreter()
    if path is None:
        pytest.skip("user 65534 cannot start any Python >= 3.11 on this machine")
    home = Path(tempfile.mkdtemp(prefix="home-"))
    home.chmod(0o777)
    try:
        done = subprocess.run(
            [path, "-B", "-c", ORDINARY],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd=home,
            env={"HOME": str(home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    finally:
        shutil.rmtree(home)
    if "Permission denied" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("user 65534 cannot read this repository")
    assert done.returncode == 0, done.stderr
    user, tier, failures, (right, wrong, *attacks) = json.loads(done.stdout)
    assert (user, tier, failures) == (NOBODY, selfcheck.check(open_pool()).tier, [])
    assert (right[0], wrong[0]) == ("accepted", "wrong_answer")
    for verdict, detail in attacks:
        assert verdict == "runtime_error"
        assert "Errno 1]" in detail
