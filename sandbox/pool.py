"""Runs a stream of untrusted jobs and returns their results in the same order.

Theory of operation
-------------------
    supervisor (this process: the trainer, of any size)
        |  a socket pair: one byte "go" to the zygote, how the child ended back
        |  a slot of shared memory: the job's bytes in, its records out
        v
    zygote (one per lane, function and world; warm, small, confined, never sees a job's bytes)
        |  fork, one per job
        v
    child (sealed by a seccomp allow-list: no file, socket, process, signal, clock, randomness)

*Who may do what.* The supervisor has all rights. From a child's slot it reads only the fixed header and records of
bounded length. The zygote runs as nobody. It sees no file, network or process except its own, and may fork,
wait for and kill its children. A child may compute, allocate memory up to its limit, and write into the slot. `confine`
defines every layer of protection; `child.main` shows the order in which a child gives up the rest.

*What passes between processes.* Only bytes. A job is the name of a trusted function, which its zygote has preloaded,
and a payload for it. The function runs in the child beside the untrusted program and yields records. A program can
forge the records of its own child, so a record is never a verdict about the program that ran there. The candidate's
child only yields an answer; another child, which never saw the candidate, judges it (`puzzles.verify`). Programs that
share a child could forge each other's records. So only programs that can reach nothing outside themselves share one
(`harmless`), and their results are provisional.

*What makes a result valid.* The child exited with status 0 and the slot starts with the magic number. Exit codes,
output and exceptions mean nothing. The slot's pages are given back between two jobs, so no byte of one job reaches the
next.

*Limits.* A timer that the child can neither disarm nor block limits CPU time, with RLIMIT_CPU behind it. RLIMIT_AS
limits memory. The zygote's clock ends a child that makes no progress, which a sealed child can hardly manage to do.
The supervisor's clock ends a zygote that does not answer.

*Worlds.* Each zygote belongs to a world, which has its own hash seed, random seed and address layout. A verdict that
depends on one of these differs between worlds. Each call draws random numbers of its own, which depend on the world and
on what is called. World 0 is the same everywhere; the others depend on the pool's seed, which need not be known.

*Failures.* If a zygote dies, a fork is refused, or a child is killed from outside, the job is tried again in a fresh
zygote. After three tries `SandboxError` names the job. `SandboxError` is also raised if a zygote starts with other
layers than the first one.

A pool belongs to one thread. Its zygotes die with that thread, and with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import mmap
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import child
from sandbox.confine import Layers
from sandbox.result import Limits, Result, SandboxError, Status, printable
from sandbox.zygote import ASLEEP, ENDED, REPLY, STARVED_WALLS, Orders

PURE_MODULES = (
    "math", "itertools", "functools", "collections", "heapq", "bisect", "string", "re", "operator", "typing", "copy",
    "fractions", "statistics",
)  # fmt: skip
"""Modules without clock, randomness or access to the outside: a proposed puzzle may import only these."""

RUN_PROGRAM = "sandbox.child:run_program"
RUN_TOGETHER = "sandbox.harmless:run_together"
TRIES = 3
WINDOW_PER_LANE = 32
"""Jobs per lane that may be started before the oldest result is ready, so that one slow job does not idle the lanes."""
KNOWN_SEED = 0
"""Seed of world 0, the same in all pools: a program that is run there gives the same answer everywhere. What decides
about answers runs in other worlds, whose seed can be kept secret."""
START_SECONDS = 60
"""Time that a zygote may take to start."""


@dataclass(frozen=True)
class Job:
    """A piece of work: the name of a trusted function, a payload for it, and the world to run it in."""

    function: str
    payload: bytes
    world: int = 0
    label: str = "job"
    """Name of the job in a `SandboxError`."""
    cpu_seconds: float | None = None
    """CPU limit below the pool's, for work that may be cut off early; None for the pool's limit."""


def available_cores() -> int:
    """Number of cores this process may use, by its affinity and the cgroup's quota if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def available_bytes() -> int:
    """Bytes this process may still allocate: what the kernel can free, within the cgroup's limit and the ulimit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, KeyError, ValueError):
        free = _numbers("/proc/meminfo")["MemAvailable:"] * 1024
    with contextlib.suppress(OSError, KeyError, ValueError):
        # `memory.current` would also count file pages, which the kernel gives back when memory is needed.
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - _numbers("/sys/fs/cgroup/memory.stat")["anon"])
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        free = min(free, address_space - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(0, free)


def _numbers(file: str) -> dict[str, int]:
    """The first number on each line of a file, by the name at the line's start."""
    return {name: int(number) for name, number, *_ in map(str.split, Path(file).read_text().splitlines())}


class Pool:
    """Lanes of zygotes that run jobs in parallel.

    Args:
        functions: Trusted job functions as 'module:function', in addition to `run_program` and `run_together`.
        limits: What each child may consume.
        lanes: Number of jobs that run at the same time; by default the number of available cores.
        seed: Seed from which the hash and random seeds of all worlds but world 0 are derived.
        modules: Modules that programs may import; every zygote loads them.

    Raises:
        ValueError: A module does not exist.
        SandboxError: The machine does not run Linux.
    """

    def __init__(
        self,
        functions: Sequence[str] = (),
        limits: Limits | None = None,
        lanes: int | None = None,
        seed: int = 0,
        modules: Sequence[str] = PURE_MODULES,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise SandboxError(
                f"the sandbox needs Linux (seccomp, fork), but this is {sys.platform}: use a Linux machine or container"
            )
        self.limits = limits or Limits()
        self.functions = tuple(dict.fromkeys([RUN_PROGRAM, RUN_TOGETHER, "sandbox.selfcheck:probe", *functions]))
        self.seed = seed
        self.modules = tuple(modules)
        for name in (*self.modules, *self.functions):
            _folder(name)
        for name in self.modules:
            _check_module(name)
        self._layers: Layers | None = None
        self._lanes = [_Lane(self) for _ in range(lanes or available_cores())]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every zygote and wait for it."""
        for lane in self._lanes:
            lane.close()

    def cpu_seconds(self) -> float:
        """CPU seconds that all zygotes and all ended children have used since the pool was made."""
        return sum(lane.cpu_seconds() for lane in self._lanes)

    @property
    def layers(self) -> Layers:
        """The states of the layers, as every zygote reports them. `selfcheck` tests what they achieve together."""
        if self._layers is None:
            self._lanes[0].zygote(RUN_PROGRAM, 0)
        assert self._layers is not None  # set by the first zygote
        return self._layers

    def agree_on_layers(self, layers: Layers) -> None:
        """Check that a new zygote has the same layers as the first one.

        Raises:
            SandboxError: It has other layers, for example because the machine ran out of namespaces.
        """
        if self._layers is None:
            self._layers = layers
        elif layers.states != self._layers.states:
            changed = [f"{name}: {now}" for name, now in layers.states.items() if now != self._layers.states.get(name)]
            raise SandboxError(f"a later zygote has other layers than the first: {', '.join(changed)}")

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """The jobs' results, in the order of the jobs; jobs are taken from the iterable as results are consumed.

        Raises:
            SandboxError: A job's child could not be run, three times in a row.
            ValueError: A payload is larger than the slot, or the pool does not know the job's function.
        """
        source = iter(jobs)
        waiting: deque[_Ticket] = deque()
        idle = list(self._lanes)
        busy: dict[_Lane, _Ticket] = {}
        exhausted = False
        try:
            while True:
                while idle and not exhausted and len(waiting) < WINDOW_PER_LANE * len(self._lanes):
                    job = next(source, None)
                    if job is None:
                        exhausted = True
                        break
                    ticket = _Ticket(job)
                    waiting.append(ticket)
                    lane = idle.pop()
                    lane.start(job)
                    busy[lane] = ticket
                while waiting and waiting[0].result is not None:
                    yield waiting.popleft().result  # type: ignore[misc]  # not None, by the line above
                if not busy:
                    if exhausted and not waiting:
                        return
                    continue
                for lane in self._ready(busy):
                    ticket = busy.pop(lane)
                    self._settle(lane, ticket, idle, busy)
        finally:
            for lane in busy:
                lane.close()

    def _settle(self, lane: _Lane, ticket: _Ticket, idle: list[_Lane], busy: dict[_Lane, _Ticket]) -> None:
        outcome = lane.finish()
        if isinstance(outcome, Result):
            ticket.result = outcome
            idle.append(lane)
            return
        ticket.tries += 1
        lane.close()
        if ticket.tries == TRIES:
            raise SandboxError(f"{ticket.job.label}: {outcome}, {TRIES} times; nothing was decided about it")
        lane.start(ticket.job)
        busy[lane] = ticket

    def _ready(self, busy: dict[_Lane, _Ticket]) -> list[_Lane]:
        with selectors.DefaultSelector() as selector:
            for lane in busy:
                selector.register(lane.line, selectors.EVENT_READ, lane)
            events = selector.select(timeout=1.0)
        late = [lane for lane in busy if time.monotonic() > lane.deadline]
        return [key.data for key, _ in events] or late


@dataclass
class _Ticket:
    job: Job
    result: Result | None = None
    tries: int = 0


class _Lane:
    """Runs one job at a time, in the zygote of the job's function and world."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._zygotes: dict[tuple[str, int], _Zygote] = {}
        self._current: _Zygote | None = None
        self._spent = 0.0
        self.deadline = 0.0

    def cpu_seconds(self) -> float:
        """CPU seconds of all present and past zygotes of this lane, with their children."""
        return self._spent + sum(zygote.cpu_seconds() for zygote in self._zygotes.values())

    @property
    def line(self) -> socket.socket:
        assert self._current is not None
        return self._current.line

    def zygote(self, function: str, world: int) -> _Zygote:
        if (function, world) not in self._zygotes:
            self._zygotes[function, world] = _Zygote(self._pool, function, world)
        return self._zygotes[function, world]

    def start(self, job: Job) -> None:
        if job.function not in self._pool.functions:
            raise ValueError(f"{job.function!r} is not among the functions of this pool: name it when the pool is made")
        self._current = self.zygote(job.function, job.world)
        # Later than the zygote's own limit for a child: past this deadline the zygote itself hangs.
        self.deadline = time.monotonic() + (STARVED_WALLS + 2) * self._pool.limits.wall_seconds
        self._current.start(job)

    def finish(self) -> Result | str:
        """The job's result, or what failed in the sandbox; called when a reply has come or is late."""
        assert self._current is not None
        return self._current.finish()

    def close(self) -> None:
        self._spent = self.cpu_seconds()
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()


class _Zygote:
    """One zygote as the supervisor holds it: the process, its socket and its slot."""

    def __init__(self, pool: Pool, function: str, world: int) -> None:
        self._limits = pool.limits
        names = ("sandbox", *pool.modules, function)
        folders = dict.fromkeys(folder for name in names for folder in _folder(name))
        boot = f"import sys; sys.path[:0] = {list(folders)!r}; from sandbox import zygote; zygote.main()"
        size = child.slot_bytes(pool.limits)
        self._response = child.REQUEST_HEADER.size + child.request_bytes(pool.limits)
        slot_fd = os.memfd_create("slot")
        self.line, theirs = socket.socketpair()
        try:
            os.ftruncate(slot_fd, size)
            self._slot = mmap.mmap(slot_fd, size)
            digest = hashlib.sha256(f"{pool.seed if world else KNOWN_SEED}/{world}".encode()).digest()
            orders = Orders(
                limits=pool.limits,
                slot=slot_fd,
                line=theirs.fileno(),
                function=function,
                modules=pool.modules,
                random_seed=int.from_bytes(digest[4:12], "little"),
            )
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-B", "-c", boot, orders.to_json()],
                env={"PYTHONHASHSEED": str(int.from_bytes(digest[:4], "little")), "PYTHONUTF8": "1"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(slot_fd, theirs.fileno()),
                start_new_session=True,
            )
        finally:
            os.close(slot_fd)
            theirs.close()
        try:
            pool.agree_on_layers(self._greeting())
        except SandboxError:
            self.close()
            raise

    def _greeting(self) -> Layers:
        self.line.settimeout(START_SECONDS)
        received = b""
        with contextlib.suppress(OSError):
            while not received.endswith(b"\n"):
                part = self.line.recv(65536)
                if not part:
                    break
                received += part
        self.line.settimeout(None)
        greeting = json.loads(received) if received.endswith(b"\n") else {"error": "it ended without a message"}
        if "error" in greeting:
            raise SandboxError(f"a zygote did not start: {greeting['error'].strip()}")
        return Layers(**greeting)

    def start(self, job: Job) -> None:
        payload = job.payload
        if len(payload) > child.request_bytes(self._limits):
            raise ValueError(
                f"a job of {len(payload)} bytes exceeds the slot's {child.request_bytes(self._limits)} bytes: "
                "split the job, or raise answer_bytes"
            )
        # This gives every page back to the kernel, so the slot holds nothing of an earlier job.
        self._slot.madvise(mmap.MADV_REMOVE)
        self._cpu_seconds = self._limits.cpu_seconds if job.cpu_seconds is None else job.cpu_seconds
        child.REQUEST_HEADER.pack_into(self._slot, 0, self._cpu_seconds, len(payload))
        self._slot[child.REQUEST_HEADER.size : child.REQUEST_HEADER.size + len(payload)] = payload
        with contextlib.suppress(OSError):  # a dead zygote shows as an empty reply
            self.line.send(b"g")

    def finish(self) -> Result | str:
        try:
            # A reply counts however late it is read, because the consumer of results may be slow.
            reply = self.line.recv(REPLY.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return "the zygote does not answer"
        except OSError:
            reply = b""
        if len(reply) != REPLY.size:
            return "the zygote died"
        reason, wait_status, cpu_microseconds, wall_microseconds = REPLY.unpack(reply)
        cpu_seconds, wall_seconds = cpu_microseconds / 1e6, wall_microseconds / 1e6
        state, records = self._records()
        if reason == ASLEEP:
            detail = f"asleep for {self._limits.wall_seconds / 2:g} s, after {cpu_seconds:.2f} s of CPU time"
            return Result(Status.WALL_LIMIT, records, detail, cpu_seconds, wall_seconds)
        if reason != ENDED:
            return "the machine refused to fork"
        if os.WIFSIGNALED(wait_status):
            return self._killed(os.WTERMSIG(wait_status), records, cpu_seconds, wall_seconds)
        code = os.WEXITSTATUS(wait_status)
        if code == 0 and state == child.FINISHED:
            return Result(Status.FINISHED, records, "", cpu_seconds, wall_seconds)
        if code == 0 and state == child.OUT_OF_MEMORY:
            return Result(Status.MEMORY_LIMIT, records, "out of memory", cpu_seconds, wall_seconds)
        if code == 0 and state == child.FAILED and records:
            return Result(
                Status.DIED, records[:-1], f"the job raised {printable(records[-1])}", cpu_seconds, wall_seconds
            )
        return Result(Status.DIED, records, f"it left with exit status {code}", cpu_seconds, wall_seconds)

    def _killed(self, number: int, records: tuple[bytes, ...], cpu_seconds: float, wall_seconds: float) -> Result | str:
        # SIGPROF comes from the timer, SIGXCPU from RLIMIT_CPU's soft limit. A SIGKILL after the limit comes from
        # RLIMIT_CPU's hard limit, which a child that survived the other two still meets.
        if number in (signal.SIGPROF, signal.SIGXCPU) or (number == signal.SIGKILL and cpu_seconds > self._cpu_seconds):
            detail = f"over {self._cpu_seconds:g} s of CPU time"
            return Result(Status.CPU_LIMIT, records, detail, cpu_seconds, wall_seconds)
        if number == signal.SIGKILL:
            # No sealed process can send it: the seal failed, the machine ran out of memory, or somebody interfered.
            return "the child was killed from outside, or could not be sealed"
        detail = f"it died on signal {number}: {signal.strsignal(number)}"
        return Result(Status.DIED, records, detail, cpu_seconds, wall_seconds)

    def _records(self) -> tuple[int, tuple[bytes, ...]]:
        """The state and the records in the slot, checked in every step: a hostile child may have written anything."""
        magic, state, count = child.RESPONSE_HEADER.unpack_from(self._slot, self._response)
        if magic != child.MAGIC:
            return child.RUNNING, ()
        position, records = self._response + child.RESPONSE_HEADER.size, []
        for _ in range(min(count, child.response_bytes(self._limits))):
            if position + child.RECORD_LENGTH.size > len(self._slot):
                return child.RUNNING, ()
            (length,) = child.RECORD_LENGTH.unpack_from(self._slot, position)
            position += child.RECORD_LENGTH.size
            if position + length > len(self._slot):
                return child.RUNNING, ()
            records.append(self._slot[position : position + length])
            position += length
        return state, tuple(records)

    def cpu_seconds(self) -> float:
        """CPU seconds of the zygote and all its descendants, including those that have ended."""
        return _ticks(self._process.pid) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.line.close()
        self._process.kill()
        self._process.wait()
        self._slot.close()


def _ticks(process: int) -> int:
    """Clock ticks used by a process and those below it (utime, stime, cutime, cstime of proc(5)); 0 if it has ended."""
    folder = Path(f"/proc/{process}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        below = (folder / "task" / str(process) / "children").read_text().split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15])) + sum(map(_ticks, map(int, below)))


def _folder(name: str) -> list[str]:
    """Folders that a zygote's path needs to load a module or a 'module:function'; none for the standard library."""
    root = name.partition(":")[0].partition(".")[0]
    if root in sys.stdlib_module_names:
        return []
    spec = importlib.util.find_spec(root)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module named {root!r} with a file of its own: install it, or correct the name")
    return [str(Path(spec.origin).parents[1 if spec.submodule_search_locations else 0])]


def _check_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValueError(f"there is no module named {name!r}: install it, or correct the name")
