"""The limits of one sandboxed job, and its result.

A `Result` describes a process, never a puzzle: `puzzles.verify` decides whether an answer is right. A failure of the
sandbox itself is not a status but a `SandboxError`, so that it can never count as a candidate's failure (like the
status `XX` of ioi/isolate).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sandbox.printing import visible


class SandboxError(Exception):
    """The sandbox or the machine failed. This says nothing about the job's program."""


@dataclass(frozen=True)
class Limits:
    """Resources that one child may consume."""

    cpu_seconds: float = 1.0
    """User plus system time. This limit decides verdicts, because it does not depend on the machine's load."""
    wall_seconds: float = 5.0
    """Time without progress, by the clock on the wall. A child that uses no CPU time for this long is asleep for ever
    and is killed."""
    memory_bytes: int = 512 * 1024**2
    """Address space (RLIMIT_AS). The interpreter with its modules takes about 30 MiB of it."""
    answer_bytes: int = 256 * 1024
    """Largest encoded size of one value that leaves a child."""
    recursion_limit: int = 10_000

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from {least:,} to {most:,}, got {getattr(self, name):,}")
        if self.wall_seconds < self.cpu_seconds:
            raise ValueError(
                f"wall_seconds ({self.wall_seconds}) is below cpu_seconds ({self.cpu_seconds}): raise it, "
                "or slow programs would be reported as sleeping"
            )


RANGES = {
    "cpu_seconds": (0.01, 100_000),
    "wall_seconds": (0.01, 1_000_000),
    "memory_bytes": (64 * 1024**2, 2**46),
    "answer_bytes": (64, 64 * 1024**2),
    "recursion_limit": (50, 1_000_000),
}
"""Smallest and largest value of each limit. With less, the harness itself would not fit."""


class Status(StrEnum):
    """How a child process ended."""

    FINISHED = "finished"
    """The harness reported that the job ran to its end. Only this status has complete records."""
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    MEMORY_LIMIT = "memory_limit"
    DIED = "died"
    """The child ended without a report: it crashed, exited early, or its records were over the size limit."""


SHOWN_CHARACTERS = 200
"""Longest part of a child's message that is shown."""


def printable(message: bytes) -> str:
    """A child's message as text: cut short, with control characters escaped."""
    return visible(message[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")[:SHOWN_CHARACTERS])


@dataclass(frozen=True)
class Result:
    """One job's outcome."""

    status: Status
    records: tuple[bytes, ...]
    """Records the job had reported when it ended, in order. Only with the status FINISHED are these all records."""
    detail: str
    """Explanation for people. No code may parse it."""
    cpu_seconds: float
    wall_seconds: float = 0.0
    """Time from fork to end. For a child with a core of its own it is hardly more than its CPU time."""
