"""The memory and disk that a run needs: checked at its start, and reported again when the disk is full."""

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
"""Bytes per sampled text, in the archive and the score files together. Measured: 13.0 MB for the 60,800 texts of the
default run."""
FULL = ("disk is full", "No space left", "Disk quota exceeded")
"""Parts of messages for a full disk: from SQLite, and from libraries that do not raise OSError."""
LITTLE_BYTES = 100_000
"""Free space below which an I/O error of SQLite counts as a full disk."""
OUT_OF_MEMORY = re.compile(
    "out of memory|not enough memory|can't allocate memory|could not create a (primitive|memory)|can't start new thread"
)
"""Parts of messages for exhausted memory: torch's for CUDA and MPS, two forms of its CPU allocator's, oneDNN's, and
Python's for a new thread."""


class DiskFull(Exception):
    """The disk is full. Finished work is kept. The message says how much more space is needed."""


@dataclass(frozen=True)
class TrainingNeeds:
    """Memory and disk that one training needs."""

    memory_bytes: int
    """Least memory in all: weights, gradients and the optimiser's state. Activations come on top."""
    free_bytes: int
    """Free memory of the training device. The sampling model's memory counts as free, as it is released before."""
    checkpoint_bytes: int
    """Size of a saved checkpoint."""
    remedy: str
    """Advice on how to need less, for the error message."""


def check(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> None:
    """Check that this machine has the memory and disk for at least one more iteration.

    Args:
        folder: The run's folder.
        config: The run's settings.
        needs: What each of its trainings needs.
        recorded: Number of iterations in its records, iteration 0 included.

    Raises:
        InputError: One more iteration does not fit the memory or the disk.
    """
    if recorded > config.iterations:
        return
    if config.iterations and needs.memory_bytes > needs.free_bytes:
        raise InputError(
            f"{config.model.path}: training needs at least {_gb(needs.memory_bytes)} for weights, gradients and the "
            f"optimiser's state, but only {_gb(needs.free_bytes)} are free: {needs.remedy}"
        )
    needed, free = _iteration_bytes(folder, config, needs, recorded), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder}: {_needed(folder, config, needs, recorded)}: free space, or put the run elsewhere")


def is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Whether an error means that a disk or a quota is full.

    SQLite may report a full disk only as an I/O error. Then the free space of `folder` decides.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if folder and isinstance(error, sqlite3.OperationalError) and "disk I/O error" in str(error):
        return shutil.disk_usage(folder).free < LITTLE_BYTES
    return not isinstance(error, InputError) and any(words in str(error) for words in FULL)


def what_is_missing(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> str:
    """The error message for a full disk: how much space is needed, and what to do."""
    return (
        f"the disk is full: {_needed(folder, config, needs, recorded)}; finished work is kept: free space and "
        "run the same command again"
    )


def _needed(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> str:
    each, left = _iteration_bytes(folder, config, needs, recorded), config.iterations + 1 - recorded
    free = shutil.disk_usage(folder).free
    return f"an iteration needs about {_mb(each)}, and {_mb(free)} are free at {folder} (iterations left: {left})"


def _iteration_bytes(folder: Path, config: RunConfig, needs: TrainingNeeds, recorded: int) -> int:
    """Estimated disk space of one iteration: from the recorded iterations or, before there are any, from the number of
    texts.
    """
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
    """Return free heap memory to the system.

    Batches of many shapes leave holes in the C library's heap, and later batches do not fit into them. In the embedded
    run the heap grew by some 300 MB with each iteration, and by as much in ten steps of a training.
    """
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # only glibc has it
        library.malloc_trim(0)
