"""The worlds in which an archive's pairs are judged: each archive has a seed of its own, drawn when it is made.

A puzzle may draw random numbers, and a model could learn what a known seed gives. So no two archives share their seed,
no prompt shows it, and the same archive always has the same worlds.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from puzzles.archive.schema import SEED_BITS
from puzzles.archive.store import Archive


def drawn() -> int:
    """A new seed of worlds, which nobody can know beforehand."""
    return secrets.randbits(SEED_BITS)


def seed_of(path: Path, before: int = 0) -> int:
    """The seed of the worlds of the archive at this path; a new one if there is no archive yet.

    Args:
        path: The archive's file.
        before: The seed of an archive that was made before archives had seeds of their own.
    """
    if not path.is_file():
        return drawn()
    with Archive(path) as archive:
        return before if archive.worlds is None else archive.worlds
