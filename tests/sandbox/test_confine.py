"""The seccomp program as data: interpreted here as the kernel would, and compared with a table of our own."""

import errno
import inspect
import struct

import pytest

from sandbox import confine

MACHINES = ("x86_64", "aarch64")
# uapi: linux/audit.h, linux/seccomp.h, linux/filter.h, asm-generic/mman.h
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028, "none": 0}
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
LOAD_WORD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
READ, WRITE, EXECUTE = 1, 2, 4
SHARED, PRIVATE, FIXED, ANONYMOUS = 1, 2, 0x10, 0x20
X32 = 0x40000000
LONGEST_PROGRAM = 4096

# By hand from asm/unistd_64.h and asm-generic/unistd.h: what a child may ask whatever the arguments ...
ALWAYS = {
    "x86_64": {
        "munmap": 11, "brk": 12, "sched_yield": 24, "mremap": 25, "madvise": 28, "exit": 60, "restart_syscall": 219,
        "exit_group": 231,
    },
    "aarch64": {
        "exit": 93, "exit_group": 94, "sched_yield": 124, "restart_syscall": 128, "brk": 214, "munmap": 215,
        "mremap": 216, "madvise": 233,
    },
}  # fmt: skip
# ... and what depends on them.
MMAP = {"x86_64": 9, "aarch64": 222}
MPROTECT = {"x86_64": 10, "aarch64": 226}
# Each would be a door: named here so that a slip in the table above cannot open one unseen.
NEVER = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "stat": 4, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
        "ioctl": 16, "shmget": 29, "nanosleep": 35, "setitimer": 38, "getpid": 39, "socket": 41, "clone": 56,
        "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101, "personality": 135, "arch_prctl": 158,
        "prctl": 157, "setrlimit": 160, "reboot": 169, "init_module": 175, "swapoff": 168, "mount": 165, "time": 201,
        "futex": 202, "remap_file_pages": 216, "clock_gettime": 228, "tgkill": 234, "add_key": 248, "unshare": 272,
        "perf_event_open": 298, "prlimit64": 302, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
        "seccomp": 317, "getrandom": 318, "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323,
        "pkey_mprotect": 329,
    },
    "aarch64": {
        "ioctl": 29, "mount": 40, "openat": 56, "read": 63, "write": 64, "futex": 98, "unshare": 97, "nanosleep": 101,
        "setitimer": 103, "init_module": 105, "clock_gettime": 113, "ptrace": 117, "kill": 129, "tgkill": 131,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "reboot": 142, "prctl": 167, "getpid": 172,
        "shmget": 194, "socket": 198, "add_key": 217, "clone": 220, "execve": 221, "swapoff": 225,
        "remap_file_pages": 234, "perf_event_open": 241, "prlimit64": 261, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "seccomp": 277, "getrandom": 278, "memfd_create": 279, "bpf": 280, "execveat": 281,
        "userfaultfd": 282, "pkey_mprotect": 288,
    },
}  # fmt: skip
# One number on every machine since 2019.
NEVER_ANYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "fsopen": 430,
    "pidfd_open": 434, "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440,
    "memfd_secret": 447, "futex_wait": 455, "mseal": 462,
}  # fmt: skip


def expected(machine, architecture, number, protection, flags):
    """The definition of the seal, in one place and in other words than the filter's."""
    if architecture != ARCHITECTURES[machine]:
        return KILL
    if number == MMAP[machine]:
        return ALLOW if flags & ANONYMOUS and not protection & EXECUTE else REFUSE
    if number == MPROTECT[machine]:
        return REFUSE if protection & EXECUTE else ALLOW
    return ALLOW if number in ALWAYS[machine].values() else REFUSE


def instructions(program):
    return list(struct.iter_unpack("=HBBI", program))


def seccomp_data(number, architecture, arguments=()):
    """The kernel's `struct seccomp_data`, as a little-endian machine lays it out."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    return struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0x7F0000000000, *padded)


def interpret(program, data):
    """The action a classic BPF program returns: the four instructions the filter uses, and no others."""
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, constant = program[position]
        position += 1
        if code == RETURN:
            return constant
        if code == LOAD_WORD:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == JUMP_EQUAL:
            position += if_true if accumulator == constant else if_false
        elif code == JUMP_SET:
            position += if_true if accumulator & constant else if_false
        else:
            raise AssertionError(f"instruction {code:#x} is not one of the four")


@pytest.fixture(scope="module", params=MACHINES)
def machine(request):
    return request.param


@pytest.fixture(scope="module")
def program(machine):
    return instructions(confine._filter_program(machine))


def action(program, machine, number, protection=0, flags=0, architecture=None):
    architecture = ARCHITECTURES[machine] if architecture is None else architecture
    return interpret(program, seccomp_data(number, architecture, (0, 4096, protection, flags, 0, 0)))


# ---- the interpreter itself ----


@pytest.mark.parametrize(
    ("data", "returned"),
    [(seccomp_data(7, 0), 1), (seccomp_data(8, 0), 2), (seccomp_data(8, 0, (0, 0, 4)), 3)],
    ids=["equal", "neither", "bit"],
)
def test_the_interpreter_follows_both_kinds_of_jump(data, returned):
    program = [
        (LOAD_WORD, 0, 0, 0),
        (JUMP_EQUAL, 0, 1, 7),
        (RETURN, 0, 0, 1),
        (LOAD_WORD, 0, 0, 32),
        (JUMP_SET, 1, 0, 4),
        (RETURN, 0, 0, 2),
        (RETURN, 0, 0, 3),
    ]
    assert interpret(program, data) == returned


# ---- the program against the definition ----


def test_the_kernel_would_load_the_program(program):
    assert 0 < len(program) <= LONGEST_PROGRAM
    assert program[-1][0] == RETURN
    for position, (code, if_true, if_false, constant) in enumerate(program):
        assert code in (LOAD_WORD, JUMP_EQUAL, JUMP_SET, RETURN)
        if code in (JUMP_EQUAL, JUMP_SET):
            assert position + 1 + max(if_true, if_false) < len(program)
        if code == LOAD_WORD:
            assert constant % 4 == 0
            assert constant < 64


def test_the_architecture_is_asked_before_anything_else(program, machine):
    assert program[0] == (LOAD_WORD, 0, 0, 4)
    assert program[1][0] == JUMP_EQUAL
    assert program[1][3] == ARCHITECTURES[machine]


@pytest.mark.parametrize("protection", [0, READ | WRITE, READ | EXECUTE, READ | WRITE | EXECUTE, EXECUTE], ids=bin)
@pytest.mark.parametrize("flags", [PRIVATE, PRIVATE | ANONYMOUS, SHARED | ANONYMOUS | FIXED, 0], ids=hex)
def test_every_system_call_has_the_action_of_the_definition(program, machine, protection, flags):
    here = ARCHITECTURES[machine]
    numbers = [*range(1024), *(X32 | number for number in range(1024)), 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000]
    wrong = [
        number
        for number in numbers
        if action(program, machine, number, protection, flags) != expected(machine, here, number, protection, flags)
    ]
    assert wrong == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_foreign_architecture_is_killed_whatever_it_asks(program, machine, architecture):
    if architecture == machine:
        pytest.skip("this one is at home")
    actions = {
        action(program, machine, number, READ, ANONYMOUS, ARCHITECTURES[architecture]) for number in [*range(1024), X32]
    }
    assert actions == {KILL}


@pytest.mark.parametrize(
    ("protection", "flags", "allowed"),
    [
        (READ | WRITE, PRIVATE | ANONYMOUS, True),
        (0, PRIVATE | ANONYMOUS | FIXED, True),
        (EXECUTE << 32, PRIVATE | ANONYMOUS, True),
        (READ | EXECUTE, PRIVATE | ANONYMOUS, False),
        (EXECUTE, SHARED | ANONYMOUS, False),
        (0xFFFFFFFF, 0xFFFFFFFF, False),
        (READ, PRIVATE, False),
        (READ, SHARED, False),
        (READ, ANONYMOUS << 32, False),
        (READ, 0, False),
    ],
    ids=[
        "plain allowed", "fixed allowed", "high word means nothing", "executable", "only executable", "all bits",
        "file", "shared file", "anonymous in the high word", "no flags",
    ],
)  # fmt: skip
def test_memory_is_mapped_anonymous_and_never_executable(program, machine, protection, flags, allowed):
    assert action(program, machine, MMAP[machine], protection, flags) == (ALLOW if allowed else REFUSE)


@pytest.mark.parametrize(
    ("protection", "allowed"),
    [
        (0, True),
        (READ | WRITE, True),
        (READ | EXECUTE, False),
        (0x01000000 | EXECUTE, False),
        (0xFFFFFFFFFFFFFFFF, False),
    ],
    ids=["none", "write", "execute", "execute and grow", "all bits"],
)
def test_memory_is_never_made_executable(program, machine, protection, allowed):
    assert action(program, machine, MPROTECT[machine], protection) == (ALLOW if allowed else REFUSE)


@pytest.mark.parametrize("name", sorted({*NEVER["x86_64"], *NEVER["aarch64"], *NEVER_ANYWHERE}))
def test_a_door_is_shut(program, machine, name):
    number = {**NEVER[machine], **NEVER_ANYWHERE}.get(name)
    if number is None:
        pytest.skip(f"{machine} has no {name}")
    assert action(program, machine, number, READ | WRITE, PRIVATE | ANONYMOUS) == REFUSE


@pytest.mark.parametrize("name", ALWAYS["x86_64"])
def test_what_a_program_needs_to_compute_and_to_leave_is_open(program, machine, name):
    assert action(program, machine, ALWAYS[machine][name], READ | WRITE | EXECUTE, 0) == ALLOW


def test_a_filter_with_any_one_return_turned_round_is_noticed(program, machine):
    here = ARCHITECTURES[machine]
    cases = [
        (number, architecture, protection, flags)
        for number in range(512)
        for architecture in (here, ARCHITECTURES["i386"])
        for protection in (READ, EXECUTE)
        for flags in (PRIVATE, ANONYMOUS)
    ]
    for position in (position for position, (code, *_) in enumerate(program) if code == RETURN):
        turned = [*program]
        turned[position] = (RETURN, 0, 0, REFUSE if program[position][3] == ALLOW else ALLOW)
        assert any(
            action(turned, machine, number, protection, flags, architecture)
            != expected(machine, architecture, number, protection, flags)
            for number, architecture, protection, flags in cases
        ), f"instruction {position} means nothing"


# ---- the other constants ----


def test_the_filter_of_a_machine_does_not_depend_on_this_one():
    assert list(inspect.signature(confine._filter_program).parameters) == ["machine"]
    assert confine._filter_program("x86_64") != confine._filter_program("aarch64")


def test_the_tables_name_the_same_calls_on_both_machines():
    assert set(confine.ALLOWED["x86_64"]) == set(confine.ALLOWED["aarch64"])
    for machine in MACHINES:
        conditional = {"mmap": MMAP[machine], "mprotect": MPROTECT[machine]}
        assert confine.ALLOWED[machine] == {**ALWAYS[machine], **conditional}
        assert confine.AUDIT_ARCH[machine] == ARCHITECTURES[machine]


def test_the_numbers_of_the_calls_that_build_the_walls():
    assert confine.PIVOT_ROOT == {"x86_64": 155, "aarch64": 41}
    assert confine.CAPSET == {"x86_64": 126, "aarch64": 91}
    assert (confine.LANDLOCK_CREATE_RULESET, confine.LANDLOCK_RESTRICT_SELF) == (444, 446)


# linux/landlock.h: access rights to files per version (13, then REFER, TRUNCATE, IOCTL_DEV), to the network
# from 4 on (bind, connect), scopes from 6 on (abstract sockets, signals).
LANDLOCK = {
    1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: ((1 << 15) - 1, 3), 5: ((1 << 16) - 1, 3),
    6: ((1 << 16) - 1, 3, 3), 7: ((1 << 16) - 1, 3, 3),
}  # fmt: skip


@pytest.mark.parametrize("version", LANDLOCK)
def test_landlock_is_asked_for_every_right_its_version_knows(monkeypatch, version):
    asked = []

    class Kernel:
        def syscall(self, number, *arguments):
            if number == confine.LANDLOCK_CREATE_RULESET and arguments[2] == 1:
                return version
            asked.append((number, arguments))
            return 99

    monkeypatch.setattr(confine, "libc", Kernel())
    closed = []
    monkeypatch.setattr(confine.os, "close", closed.append)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(confine.os, "open", refuse)
    assert confine._landlock_everything() == f"ABI {version}, the root folder cannot be opened"
    monkeypatch.undo()
    rights = LANDLOCK[version] if isinstance(LANDLOCK[version], tuple) else (LANDLOCK[version],)
    attributes = struct.pack(f"={len(rights)}Q", *rights)
    assert asked == [
        (confine.LANDLOCK_CREATE_RULESET, (attributes, len(attributes), 0)),
        (confine.LANDLOCK_RESTRICT_SELF, (99, 0)),
    ]
    assert closed == [99]
