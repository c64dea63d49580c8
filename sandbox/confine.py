"""The layers of protection around untrusted code: how the zygote and its children give up every privilege.

The zygote calls `enclose` once; every child calls `seal`. Each layer is applied and then checked. A layer that the
system refuses, or whose effect cannot be seen, is reported with the reason. `sandbox.selfcheck` attacks a sealed
child; only verified protection counts towards the tier.

    seal             seccomp allow-list: no file, socket, process, signal, clock, randomness
    no_clock         the kernel's clock page is zeros, so reading a clock needs a system call
    identity         the process runs as `nobody` where the supervisor is root
    namespaces       own users, processes, network, mounts, IPC, host name, cgroup
    empty_root       the root folder is empty and read-only
    no_new_privs     no program that is started can gain privileges
    landlock         no file can be opened, no TCP port used, nobody outside signalled
    capabilities     all are dropped for good
    rlimits          memory, files and core dumps are limited
    not_dumpable     no process of the same user may trace it or read its memory
    parent_death     the process dies with its parent

The seal alone stops every attack except two kinds: using too much memory (rlimits stop it) and reading the clock
without a system call (no_clock stops it). The other layers stand behind the seal, in case it has a hole.

Works on x86-64 and aarch64 Linux. Constants are from the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox.result import Limits

NOBODY = 65534

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE = 1, 2, 3, 4
PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP = 22, 23, 24
PR_SET_TSC, PR_TSC_SIGSEGV = 26, 2
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39
SECCOMP_MODE_FILTER = 2
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 16384, 1 << 18
MNT_DETACH = 2
MAP_FIXED, MAP_PRIVATE, MAP_ANONYMOUS = 0x10, 0x2, 0x20
LINUX_CAPABILITY_VERSION_3 = 0x20080522

# These calls are enough for a Python program that reads and writes nothing outside itself: they manage memory without
# execute permission, and exit. The only way out for data is the shared slot, which is mapped beforehand. futex is
# missing so that nothing can sleep: a lock that would wait for ever ends the child at once. rt_sigreturn is missing
# because it restores any signal mask found on the stack, which could block the timer's signal. No signal handler runs
# in a child, so no handler needs it to return.
ALLOWED = {
    "x86_64": {
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "sched_yield": 24, "mremap": 25,
        "madvise": 28, "exit": 60, "restart_syscall": 219, "exit_group": 231,
    },
    "aarch64": {
        "mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214, "sched_yield": 124, "mremap": 216,
        "madvise": 233, "exit": 93, "restart_syscall": 128, "exit_group": 94,
    },
}  # fmt: skip
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPGET, CAPSET = {"x86_64": 125, "aarch64": 90}, {"x86_64": 126, "aarch64": 91}
TIMER_CREATE_SETTIME = {"x86_64": (222, 223), "aarch64": (107, 110)}
CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL = 2, 0
SIGNAL_EVENT = struct.Struct("=Qii48x")
"""Value, signal number, way of notification (struct sigevent)."""
TIMER_TIMES = struct.Struct("=qqqq")
"""Interval, and time until the timer first expires, each in seconds and nanoseconds (struct itimerspec)."""
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000

LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446  # the same on every architecture

machine = platform.machine()
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


@dataclass
class Layers:
    """The state of each layer."""

    states: dict[str, str] = field(default_factory=dict)
    """State by the layer's name: "on", or the reason why it is not."""
    evidence: dict[str, str] = field(default_factory=dict)
    """What the check saw once the layer was on, by the layer's name."""


def enclose(limits: Limits) -> Layers:
    """Give up everything the zygote does not need, for good.

    Forks once if the system grants a process-id namespace: the caller continues as the namespace's first process, and
    the original process waits for it. A refused layer is reported, not raised: the tier decides whether the other
    layers are enough.
    """
    layers = Layers()
    own_stack = _grow_stack()  # it needs /proc, as the next step does
    _die_with_parent()  # later steps that clear this setting set it again
    _layer(layers, "no_clock", _hide_clock)  # it needs /proc, which `empty_root` removes
    _layer(layers, "identity", _become_nobody)
    _layer(layers, "namespaces", _new_namespaces)
    if layers.states["namespaces"] == "on":
        _layer(layers, "empty_root", _empty_root)
        _become_first_process()
    _layer(layers, "no_new_privs", _no_new_privs)
    _layer(layers, "landlock", _landlock_everything)
    _layer(layers, "capabilities", _drop_capabilities)
    _layer(layers, "rlimits", lambda: _set_rlimits(limits, own_stack))
    _layer(layers, "not_dumpable", _not_dumpable)
    _layer(layers, "parent_death", _die_with_parent)
    return layers


def seal() -> None:
    """Install the child's system-call allow-list: from now on every other call fails with EPERM."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)  # without it the kernel accepts no filter from an ordinary user
    # A fork clears this setting, and a child outside a process-id namespace has no first process to die with.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(_FILTER))


def _layer(layers: Layers, name: str, apply: Callable[[], str]) -> None:
    try:
        layers.evidence[name] = apply()
        layers.states[name] = "on"
    except OSError as error:
        layers.states[name] = f"refused: {error.strerror}"


def _see(seen: bool, what: str) -> str:
    """The evidence, where the effect was seen.

    Raises:
        OSError: The effect was not seen.
    """
    if not seen:
        raise OSError(errno.EINVAL, f"no error, but no effect: not {what}")
    return what


def _check(returned: int, what: str) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return returned


def _prctl(option: int, argument: int = 0, extra: int = 0) -> int:
    return _check(libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(extra), 0, 0), f"prctl {option}")


def _die_with_parent() -> str:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    number = ctypes.c_int()
    _check(libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0), "prctl")
    return _see(number.value == signal.SIGKILL, "killed when its parent ends")


def _no_new_privs() -> str:
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    return _see(_prctl(PR_GET_NO_NEW_PRIVS) == 1, "the kernel says so")


def _not_dumpable() -> str:
    _prctl(PR_SET_DUMPABLE, 0)
    return _see(_prctl(PR_GET_DUMPABLE) == 0, "the kernel says so")


def _become_nobody() -> str:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _die_with_parent()  # the change of identity cleared this setting
    return _see(0 not in os.getresuid() + os.getresgid(), f"user {os.getuid()}, group {os.getgid()}")


def _new_namespaces() -> str:
    uid, gid = os.getuid(), os.getgid()
    # The change of identity made the process non-dumpable, so it could not open its own /proc/self/uid_map.
    _prctl(PR_SET_DUMPABLE, 1)
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    _check(libc.unshare(flags), "unshare")
    for name, content in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)
    networks = [name for _, name in socket.if_nameindex()]
    return _see(set(networks) <= {"lo"}, f"user {os.getuid()} of its own, network of {' '.join(networks) or 'nothing'}")


def _empty_root() -> str:
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=0555")
    os.chdir("/tmp")
    _check(libc.syscall(PIVOT_ROOT[machine], b".", b"."), "pivot_root")
    _check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")
    _mount("tmpfs", "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    read_only = os.statvfs("/").f_flag & os.ST_RDONLY
    return _see(os.listdir("/") == [] and bool(read_only), "the root folder is empty and read-only")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    data = options.encode() if options is not None else None
    _check(libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), data), f"mount {target}")


def _become_first_process() -> None:
    """Fork the first process of the new process-id namespace: when it dies, every process in the namespace dies."""
    original = os.getpid()
    child = os.fork()
    if child:
        os.closerange(0, 32)  # only the first process may hold the line to the supervisor
        os.waitpid(child, 0)
        os._exit(0)
    _die_with_parent()
    if original == 1:
        raise OSError(errno.EINVAL, "the zygote was already a first process")


def _landlock_everything() -> str:
    """Restrict every right of Landlock and allow none: no file can be opened, no TCP port used, nobody signalled."""
    abi = _check(libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1), "landlock")
    file_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    rights = [(1 << file_rights) - 1, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0]
    fields = 3 if abi >= 6 else 2 if abi >= 4 else 1
    attributes = struct.pack(f"={fields}Q", *rights[:fields])
    ruleset = _check(libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0), "landlock")
    _check(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)
    try:
        os.close(os.open("/", os.O_RDONLY))
    except PermissionError:
        return f"ABI {abi}, the root folder cannot be opened"
    raise OSError(errno.EINVAL, "no error, but no effect: the root folder can be opened")


def _drop_capabilities() -> str:
    for capability in range(64):
        # The kernel refuses this call to a process without privilege, which has no capability to drop either.
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, held = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    _check(libc.syscall(CAPSET[machine], header, bytes(24)), "capset")
    _check(libc.syscall(CAPGET[machine], header, held), "capget")
    return _see(held.raw == bytes(24), "none effective, permitted or inheritable")


def limit_cpu(seconds: float) -> None:
    """End this process by SIGPROF once it has used this much CPU time; after `seal` nothing can disarm the timer.

    The timer runs on the process's own CPU clock. With a limit of 0.25 s and three busy neighbours, processes used
    0.2509 to 0.2561 s. setitimer's ITIMER_PROF counts the kernel's ticks instead, and allowed 0.2456 to 0.2675 s.
    """
    timer, (create, set_time) = ctypes.c_int(), TIMER_CREATE_SETTIME[machine]
    event = SIGNAL_EVENT.pack(0, signal.SIGPROF, SIGEV_SIGNAL)
    _check(libc.syscall(create, CLOCK_PROCESS_CPUTIME_ID, event, ctypes.byref(timer)), "timer_create")
    whole, part = divmod(round(1e9 * seconds), 10**9)
    once = TIMER_TIMES.pack(0, 0, whole, part)
    _check(libc.syscall(set_time, timer, 0, once, None), "timer_settime")


STACK_BYTES = 64 * 1024**2
"""Size of the stack. Deep recursion in C needs more than the usual 8 MiB."""


def _grow_stack() -> int:
    """Give the stack its full size now, and return that size in bytes; 0 if the system does not allow it.

    A stack that grows takes memory from the program that runs next in the same child. Only one page of it is touched.
    """
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    size = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (size, hard))
    with open("/proc/self/maps") as maps:
        ends = [int(line.split()[0].split("-")[1], 16) for line in maps if line.rstrip().endswith("[stack]")]
    if not ends:
        return 0
    lowest = ends[0] - size + STACK_SLACK
    probe = os.fork()
    if not probe:  # where the system refuses, only this process dies
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.memset(lowest, 0, 1)
        os._exit(0)
    if os.waitpid(probe, 0)[1]:
        return 0
    ctypes.memset(lowest, 0, 1)
    return size


STACK_SLACK = 64 * 1024
"""Bytes of the stack that are left for the system's own rounding."""


def _set_rlimits(limits: Limits, own_stack: int) -> str:
    """Set the limits. The stack has its own memory beside the limit, if it has its full size already."""
    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes + own_stack,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_NOFILE: 32,
    }
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))
    held = all(0 <= resource.getrlimit(name)[1] <= value for name, value in wanted.items())
    return _see(held, f"{limits.memory_bytes // 1024**2} MiB, 32 files, no core dumps")


def _hide_clock() -> str:
    """Map zeros over the kernel's clock page, so that reading a clock needs a system call, which a child may not make.

    The vDSO reads a zero page as "no fast clock" and falls back to the system call. Unmapping the page would crash
    CPython, which reads the monotonic clock inside its lock functions.
    """
    with open("/proc/self/maps") as maps:
        regions = [line.split()[0] for line in maps if "[vvar" in line]
    for region in regions:
        first, last = (int(address, 16) for address in region.split("-"))
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        mapped = libc.mmap(first, last - first, mmap.PROT_READ, flags, -1, 0)
        if mapped != first:
            raise OSError(ctypes.get_errno(), "the kernel's clock page cannot be replaced")
    if machine == "x86_64":
        _prctl(PR_SET_TSC, PR_TSC_SIGSEGV)
    return f"{len(regions)} clock pages are zeros"


# Classic BPF instructions: code, jump if true, jump if false, constant (linux/filter.h).
_LOAD, _EQUAL, _BIT_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
# Offsets into struct seccomp_data. Those of arguments point to the low word on a little-endian machine.
_NUMBER, _ARCHITECTURE, _PROTECTION, _MAP_FLAGS = 0, 4, 16 + 2 * 8, 16 + 3 * 8


def _filter_program(machine: str) -> bytes:
    """The allow-list of one `platform.machine()` as a BPF program.

    A call that is not listed returns EPERM. A call made for another architecture kills the process.
    """
    numbers = dict(ALLOWED[machine])
    allow = (_RETURN, 0, 0, SECCOMP_RET_ALLOW)
    deny = (_RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        # mmap is allowed for anonymous memory that is not executable.
        (_EQUAL, 0, 7, numbers.pop("mmap")),
        (_LOAD, 0, 0, _PROTECTION),
        (_BIT_SET, 0, 1, mmap.PROT_EXEC),
        deny,
        (_LOAD, 0, 0, _MAP_FLAGS),
        (_BIT_SET, 0, 1, MAP_ANONYMOUS),
        allow,
        deny,
        # mprotect may not make memory executable.
        (_EQUAL, 0, 4, numbers.pop("mprotect")),
        (_LOAD, 0, 0, _PROTECTION),
        (_BIT_SET, 0, 1, mmap.PROT_EXEC),
        deny,
        allow,
    ]
    for number in numbers.values():
        program += [(_EQUAL, 0, 1, number), allow]
    program.append(deny)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


if machine in ALLOWED and sys.platform == "linux":
    _program = _filter_program(machine)
    _buffer = ctypes.create_string_buffer(_program)
    _FILTER = _SockFprog(len(_program) // 8, ctypes.addressof(_buffer))
