"""The zygote: the warm parent process of all children of one world and function. It never sees a job's bytes.

The zygote loads what children may need and gives up its own privileges. Then it repeats one cycle: wait for a byte,
fork a child for the job, wait for the child, tell the supervisor how it ended. A child inherits nothing worth stealing,
because no untrusted byte ever enters this process.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import mmap
import os
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from typing import Any

from sandbox import child, confine
from sandbox.result import Limits

REPLY = struct.Struct("<BiQQ")
"""Reason, wait status, CPU time and wall time in microseconds."""
ENDED, ASLEEP, NOT_FORKED = range(3)
STARVED_WALLS = 12
"""Longest run of a child that makes progress on a loaded machine, in wall limits."""
DOZING_SHARE = 0.002
"""A child that used less than this share of a core since the last check counts as asleep."""
LATE_MODULES = ("unicodedata", "weakref", "types", "codecs", "__future__")
"""Modules that programs and their imports load only when needed. Each further module makes every fork slower."""
PADDING: list[object] = []
"""Keeps the objects of `_padding` alive."""
CODECS = "ascii latin-1 utf-8 utf-16 utf-32 cp1252 unicode-escape raw-unicode-escape rot13"


@dataclass(frozen=True)
class Orders:
    """The orders a zygote gets when it starts, as JSON on its command line."""

    limits: Limits
    slot: int
    """File descriptor of the shared memory."""
    line: int
    """File descriptor of the socket to the supervisor."""
    function: str
    """Function that every child runs, as 'module:function'; it is loaded before privileges are dropped."""
    modules: tuple[str, ...]
    """Modules that programs may import."""
    random_seed: int

    def to_json(self) -> str:
        """The orders as text for the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Orders:
        """The orders that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "limits": Limits(**fields["limits"])})


def main() -> None:
    """Entry point of the process that `pool` starts."""
    orders = Orders.from_json(sys.argv[1])
    # Children inherit this process's memory, so the environment and the command line must not stay in it.
    os.environ.clear()
    del sys.argv[1:], sys.orig_argv[1:]
    # The socket gets a low number, because children close only the low ones, and the supervisor may have opened
    # thousands of files.
    line = socket.socket(fileno=os.dup(orders.line))
    os.close(orders.line)
    try:
        slot, function = _prepare(orders)
        layers = confine.enclose(orders.limits)
        gc.collect()
        PADDING.extend(_padding(orders.random_seed))
        gc.freeze()
    except BaseException:
        line.sendall(json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        os._exit(1)
    line.sendall(json.dumps(asdict(layers)).encode() + b"\n")
    _serve(line, slot, function, orders)
    os._exit(0)


def _prepare(orders: Orders) -> tuple[Any, child.Job]:
    slot = mmap.mmap(orders.slot, child.slot_bytes(orders.limits))
    os.close(orders.slot)
    # `random` would seed itself from the system in every child: draws would differ, and it would cost 0.1 ms.
    os.register_at_fork = _no_hook
    for module in (*LATE_MODULES, *orders.modules):
        importlib.import_module(module)
    for name in CODECS.split():
        "".encode(name) if name != "rot13" else __import__("codecs").encode("", name)
    child.MODULES = frozenset(orders.modules)
    module, _, name = orders.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    if "random" in sys.modules:
        sys.modules["random"].seed(orders.random_seed)
        child.WORLD_SEED = orders.random_seed
    warnings.simplefilter("ignore")  # nobody reads warnings, and each costs a child 0.1 ms
    _warm(orders.limits)
    sys.setrecursionlimit(orders.limits.recursion_limit)
    sys.set_int_max_str_digits(100_000)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    return slot, function


def _padding(seed: int) -> list[object]:
    """Up to 63 objects of each small size, so that the low bits of addresses differ between worlds too.

    The system's own randomisation moves only whole pages. Knuth's MMIX generator draws the numbers.
    """
    kept: list[object] = []
    for size in range(512):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        kept += [bytes(size) for _ in range(seed >> 58)] if size % 16 == 0 else []
    return kept


def _no_hook(**_: object) -> None:
    pass


def _warm(limits: Limits) -> None:
    """Run one whole check here, so that children find every page of the interpreter already touched (2.3 -> 1.1 ms)."""
    puzzle = "def f(x: List[int], n=3):\n    return sorted(set(x)) == list(range(n)) and all(y < n for y in x)"
    payload = child.program([puzzle], "f", [b"[[2,0,1]]"], limits.answer_bytes)
    if list(child.run_program(payload)) != [child.VALUE + b"true"]:
        raise RuntimeError("the warm-up check failed")


def _serve(line: socket.socket, slot: Any, function: child.Job, orders: Orders) -> None:
    while line.recv(1):
        started = time.monotonic()
        try:
            pid = os.fork()
        except OSError:
            line.sendall(REPLY.pack(NOT_FORKED, 0, 0, 0))
            continue
        if pid == 0:
            child.main(slot, orders.limits, function)
        reason = ENDED if _wait(pid, orders.limits) else ASLEEP
        _, status, usage = os.wait4(pid, 0)
        cpu_seconds, wall_seconds = usage.ru_utime + usage.ru_stime, time.monotonic() - started
        line.sendall(REPLY.pack(reason, status, int(1e6 * cpu_seconds), int(1e6 * wall_seconds)))


def _wait(pid: int, limits: Limits) -> bool:
    """Wait until the child has ended, or kill it when it is asleep; the caller reaps it.

    The CPU limit ends a busy child without help. A child on a loaded machine gets little CPU time but still makes some
    progress, so it may continue. A child without progress is asleep.

    Returns:
        Whether the child ended by itself.
    """
    clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of another process (linux/posix-timers.h)
    used = -math.inf
    for _ in range(2 * STARVED_WALLS):
        deadline = time.monotonic() + limits.wall_seconds / 2
        while (left := deadline - time.monotonic()) > 0:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            signal.sigtimedwait({signal.SIGCHLD}, left)
        now = time.clock_gettime(clock)
        if now - used < DOZING_SHARE * limits.wall_seconds / 2:
            break
        used = now
    os.kill(pid, signal.SIGKILL)
    return False
