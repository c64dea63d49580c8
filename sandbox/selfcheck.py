"""Checks whether the sandbox holds on this machine, by attacking the live sandbox.

`probe` runs inside a sealed child and tries everything that no program may do. `check` runs `probe` in a pool, runs
programs with a known outcome, and computes the tier. A layer that is only configured proves nothing: the attacks
tried here decide.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sandbox import child
from sandbox.pool import RUN_PROGRAM, Job, Pool
from sandbox.result import Result, SandboxError, Status

TIERS = "ABD"
"""The tiers, best first. A: every layer is on and every attack is stopped. B: a layer behind the seal is missing (as in
a container that refuses namespaces), but every attack is stopped. D: an attack is not stopped; nothing runs unless the
user allows this tier by name."""


CPU_SECONDS = 0.1
"""CPU limit for a program with a known outcome: the endless one should not delay every command by a whole limit."""


def _raw(number: int, *arguments: object) -> Callable[[], object]:
    def call() -> None:
        if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "refused")

    return call


def _executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


MEMFD_CREATE = {"x86_64": 319, "aarch64": 279}.get(platform.machine(), 319)
KEYCTL = {"x86_64": 250, "aarch64": 219}.get(platform.machine(), 250)
IO_URING_SETUP = 425
PTRACE = {"x86_64": 101, "aarch64": 117}.get(platform.machine(), 101)
TIMER_SETTIME = {"x86_64": 223, "aarch64": 110}.get(platform.machine(), 223)
UNSHARE = {"x86_64": 272, "aarch64": 97}.get(platform.machine(), 272)
CLONE_NEWUSER = 0x10000000

FORBIDDEN: dict[str, Callable[[], object]] = {
    "read_file": lambda: open("/etc/passwd"),  # noqa: SIM115  # nothing to close: opening must fail
    "write_file": lambda: open("/tmp/selfcheck", "w"),  # noqa: SIM115  # the same
    "stat_file": lambda: os.stat("/"),
    "list_folder": lambda: os.listdir("/"),
    "internet_socket": lambda: socket.socket(socket.AF_INET),
    "unix_socket": lambda: socket.socket(socket.AF_UNIX),
    "vsock_socket": lambda: socket.socket(socket.AF_VSOCK),
    "fork": os.fork,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "signal_parent": lambda: os.kill(os.getppid(), 0),
    "signal_group": lambda: os.kill(0, 0),
    "signal_handler": lambda: signal.signal(signal.SIGPROF, signal.SIG_IGN),
    "disarm_timer": _raw(TIMER_SETTIME, 0, 0, bytes(32), None),
    "clock": time.time,
    "monotonic_clock": time.monotonic,
    "sleep": lambda: time.sleep(0.001),
    "os_randomness": lambda: os.urandom(8),
    "executable_memory": _executable_memory,
    "memory_file": _raw(MEMFD_CREATE, b"x", 0),
    "keyring": _raw(KEYCTL, 0, -3, 1),
    "io_uring": _raw(IO_URING_SETUP, 1, b"\0" * 128),
    "trace": _raw(PTRACE, 0, 0, 0, 0),
    "new_namespace": _raw(UNSHARE, CLONE_NEWUSER),
}
"""Actions that the kernel must refuse to a sealed child, each with EPERM."""


def probe(payload: bytes) -> Iterator[bytes]:
    """Job for a child: try every forbidden action; yields one JSON object {name: "refused" or what happened}."""
    yield json.dumps({name: _attempt(action) for name, action in FORBIDDEN.items()}).encode()


def _attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.EPERM:
            return "refused"
        return f"{type(error).__name__}: {error}"[:100]
    return "ALLOWED"


REMEDIES = {
    "namespaces": "allow user namespaces to ordinary users: sysctl user.max_user_namespaces,"
    " kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns;"
    " for a container, --security-opt seccomp=unconfined",
    "empty_root": "allow mounts in a user namespace, or start the container with --security-opt apparmor=unconfined",
    "landlock": "run a kernel from 5.13 on with landlock among its lsm=",
    "no_clock": "mount /proc, and run on a kernel that lets [vvar] be replaced",
}
"""How to get a layer that the system refuses, by the layer's name."""


@dataclass(frozen=True)
class Protections:
    """The result of a self-check of the live sandbox."""

    tier: str
    layers: dict[str, str]
    """State of each layer of the zygote: "on", or why the system refused it."""
    evidence: dict[str, str]
    """What the check of each layer saw, for layers that are on."""
    probes: dict[str, str]
    """Outcome of each attack: "refused" or "held", or what happened instead."""

    def failures(self) -> list[str]:
        """One line per attack that was not stopped."""
        return [f"{name}: {outcome}" for name, outcome in self.probes.items() if outcome not in ("refused", "held")]

    def missing(self) -> list[str]:
        """One line per layer that is not on: the reason, and what to do."""
        refused = [(name, state) for name, state in self.layers.items() if state != "on"]
        return [
            f"{name} {state}; {REMEDIES.get(name, 'ask whoever runs the machine for it')}" for name, state in refused
        ]

    def to_json(self) -> dict[str, object]:
        """The protections as stored in an archive with every verified pair."""
        return {
            "tier": self.tier,
            "layers": self.layers,
            "evidence": self.evidence,
            "probes": self.probes,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
        }


def check(pool: Pool) -> Protections:
    """Attack the pool's own sandbox and report which attacks were stopped.

    Raises:
        SandboxError: The sandbox cannot run at all.
    """
    result = next(pool.run([Job("sandbox.selfcheck:probe", b"", label="self-check")]))
    if result.status != Status.FINISHED:
        raise SandboxError(f"the self-check did not finish: {result.status}: {result.detail}")
    probes = dict(json.loads(result.records[0]))
    for name, (source, expected) in LIVE.items():
        outcome = _run(pool, source)
        happened = f"{outcome.status} {outcome.records[:1]!r} {outcome.detail}"
        probes[name] = "held" if expected(outcome) else happened[:100]
    layers = pool.layers
    return Protections(_tier(layers.states, probes), layers.states, layers.evidence, probes)


def require(protections: Protections, minimum_tier: str) -> None:
    """Refuse to continue below a tier.

    Raises:
        SandboxError: The tier is lower; the message says what is missing and what to do.
    """
    if TIERS.index(protections.tier) <= TIERS.index(minimum_tier):
        return
    raise SandboxError(
        f"the sandbox reaches tier {protections.tier}, below sandbox.minimum_tier = {minimum_tier!r}; "
        f"missing: {'; '.join(protections.missing() + protections.failures())}. "
        "See `selfplay doctor`, use a machine that allows these, or set sandbox.minimum_tier lower at your own risk"
    )


def _tier(layers: dict[str, str], probes: dict[str, str]) -> str:
    if any(outcome not in ("refused", "held") for outcome in probes.values()):
        return "D"
    return "A" if all(outcome == "on" for outcome in layers.values()) else "B"


def _run(pool: Pool, source: str) -> Result:
    payload = child.program([source], "g", [b"[]"], pool.limits.answer_bytes)
    return next(pool.run([Job(RUN_PROGRAM, payload, label="self-check", cpu_seconds=CPU_SECONDS)]))


def _says(record: bytes) -> Callable[[Result], bool]:
    return lambda result: result.status == Status.FINISHED and result.records == (record,)


def _begins(beginning: bytes) -> Callable[[Result], bool]:
    return lambda result: result.status == Status.FINISHED and result.records[0].startswith(beginning)


LIVE: dict[str, tuple[str, Callable[[Result], bool]]] = {
    "known_value": ("def g():\n    return [1, 'a', 2.5, True]", _says(b'V[1,"a",{"f":"0x1.4000000000000p+1"},true]')),
    "known_error": ("def g():\n    return 1 // 0", _begins(b"EZeroDivisionError")),
    "object_as_answer": ("class A(int): pass\ndef g():\n    return A()", _begins(b"U")),
    "endless_loop": ("def g():\n    while True: pass", lambda result: result.status == Status.CPU_LIMIT),
    "memory": ("def g():\n    return len(bytearray(1 << 33))", _says(b"M")),
    "early_exit": ("def g():\n    raise SystemExit(0)", _begins(b"ESystemExit")),
    "silent_output": ("def g():\n    print('accepted')\n    return 1", _says(b"V1")),
    "closed_import": ("def g():\n    import os\n    return 1", _begins(b"EImportError")),
}
"""Programs with a known outcome, by name: the source text, and whether a result is the expected one."""
