"""What a run needs of memory and disk, foretold at its start and told again when the disk is full."""

from __future__ import annotations

import ctypes
import errno
import re
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from puzzles.puzzle import InputError
from selfplay.config import RunConfig

BYTES_PER_TEXT = 220
"""In the archive and the score files together; measured: 13.0 MB for the 60,800 texts of the default run."""
FULL = ("disk is full", "No space left", "Disk quota exceeded")
"""What SQLite says of it, and what libraries say that do not raise OSError."""
LITTLE_BYTES = 100_000
OUT_OF_MEMORY = re.compile(
    "out of memory|not enough memory|can't allocate memory|could not create a (primitive|memory)|can't start new thread"
)
"""What torch says of it, for CUDA and MPS, the CPU's allocator in two ways, and oneDNN; and Python of a thread's."""


class DiskFull(Exception):
    """What was finished is kept; says how much more is needed."""


@dataclass(frozen=True)
class TrainingNeeds:
    """Of one training."""

    memory_bytes: int
    """At least, in all: weights, gradients and the optimiser's state; activations come on top."""
    free_bytes: int
    """Where it trains, the sampled model's own included, since that is given up before."""
    checkpoint_bytes: int
    remedy: str
    """Settings that make it need less."""


def check(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> None:
    """See that a run can get on here at all.

    Args:
        folder: The run's.
        config: Its settings.
        needs: Of its trainings.
        recorded: Iterations that are in its records, number 0 included.

    Raises:
        InputError: Not even one more iteration fits the memory or the disk.
    """
    if recorded > config.iterations:
        return
    if config.iterations and needs.memory_bytes > needs.free_bytes:
        raise InputError(
            f"{config.model.path}: training takes at least {_gb(needs.memory_bytes)} for weights, gradients and the "
            f"optimiser's state, and {_gb(needs.free_bytes)} are free: {needs.remedy}"
        )
    needed, free = _iteration_bytes(folder, config, needs, recorded), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder}: {_needed(folder, config, needs, recorded)}: free some space, or put it elsewhere")


def is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Whether an error says that a disk, or what one may have of it, is full; SQLite may say less of the folder's."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if folder and isinstance(error, sqlite3.OperationalError) and "disk I/O error" in str(error):
        return shutil.disk_usage(folder).free < LITTLE_BYTES
    return not isinstance(error, InputError) and any(words in str(error) for words in FULL)


def what_is_missing(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> str:
    """When the disk is full."""
    return (
        f"the disk is full: {_needed(folder, config, needs, recorded)}; what was finished is kept: free some space and "
        "give the same command again"
    )


def _needed(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> str:
    each, left = _iteration_bytes(folder, config, needs, recorded), config.iterations + 1 - recorded
    free = shutil.disk_usage(folder).free
    return f"an iteration takes about {_mb(each)}, {left} are left, and {_mb(free)} are free where {folder} is"


def _iteration_bytes(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> int:
    """By what the recorded ones took; before there are any, by the number of their texts."""
    solve, proposals = config.solve, config.propose.proposals
    if recorded > 1:
        grown = [folder / "archive.sqlite", *(folder / "scores").glob("*.jsonl")]
        texts_bytes = sum(file.stat().st_size for file in grown) // recorded
    else:
        further = solve.further_puzzles * solve.further_candidates
        texts_bytes = BYTES_PER_TEXT * (proposals * (1 + solve.candidates_per_puzzle) + further)
    return texts_bytes + needs.checkpoint_bytes


def _mb(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _gb(number: int) -> str:
    return f"{number / 1e9:,.1f} GB"


def give_memory_back() -> None:
    """To the system: batches of many shapes leave the C library's heap full of holes that later ones do not fit into,
    some 300 MB more with each iteration of the embedded run, and within a training as much in ten steps.
    """
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # glibc's
        library.malloc_trim(0)
