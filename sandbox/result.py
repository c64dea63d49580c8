"""What one sandboxed job may consume, and what became of it.

A `Result` speaks of a process, never of a puzzle: whether an answer is right is decided one floor
up, in `puzzles.verify`. Our own failures are not statuses but `SandboxError`, so that they can
never be counted as a candidate's (the `XX` of ioi/isolate).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SandboxError(Exception):
    """The sandbox or the machine failed; nothing is known about the job's program."""


@dataclass(frozen=True)
class Limits:
    """What one child may consume."""

    cpu_seconds: float = 1.0
    """User plus system time. The limit that decides: it does not depend on the machine's load."""
    wall_seconds: float = 5.0
    """A child that has used no CPU time for this long is asleep for ever and is killed."""
    memory_bytes: int = 512 * 1024**2
    """Address space (RLIMIT_AS), of which the interpreter with its modules takes about 30 MiB."""
    answer_bytes: int = 256 * 1024
    """Encoded size of one value that leaves a child."""
    recursion_limit: int = 10_000

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from {least:,} to {most:,}, got {getattr(self, name):,}")
        if self.wall_seconds < self.cpu_seconds:
            raise ValueError(
                f"wall_seconds ({self.wall_seconds}) is below cpu_seconds ({self.cpu_seconds}): "
                "slow programs would be reported as sleeping"
            )


RANGES = {
    "cpu_seconds": (0.01, 100_000),
    "wall_seconds": (0.01, 1_000_000),
    "memory_bytes": (64 * 1024**2, 2**46),
    "answer_bytes": (64, 64 * 1024**2),
    "recursion_limit": (50, 1_000_000),
}
"""What can be enforced: below, the harness itself would not fit."""


class Status(StrEnum):
    """What happened to a child process."""

    FINISHED = "finished"
    """The harness reported that the job ran to its end; the only status whose records are whole."""
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    MEMORY_LIMIT = "memory_limit"
    DIED = "died"
    """It ended without a report: a crash, an early exit, or records over the size limit."""


SHOWN_CHARACTERS = 200


def printable(message: bytes) -> str:
    """A child's message, short and without control characters."""
    text = message[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")[:SHOWN_CHARACTERS]
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


@dataclass(frozen=True)
class Result:
    """One job's outcome."""

    status: Status
    records: tuple[bytes, ...]
    """What the job had reported when it ended, in order; a prefix unless `status` is FINISHED."""
    detail: str
    """For people, not for machines."""
    cpu_seconds: float
    wall_seconds: float = 0.0
    """From fork to end. A child that had a core to itself took hardly more than its CPU time."""
