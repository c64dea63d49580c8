"""How a run sets up the guard around dev and held-out."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from puzzles import guard as guard_module
from puzzles import probing, tracing
from puzzles.archive.believing import compute_identities
from puzzles.archive.store import Archive
from puzzles.foreign import read_json
from puzzles.guard import LEARNED, Guard, Hit
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError, Puzzle
from puzzles.writing import write_atomically
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.run import user_cache
from selfplay.run.progress import Progress
from selfplay.scoring.sets import NamedPuzzle, scored_puzzles

logger = logging.getLogger(__name__)

GUARD_SOLUTIONS = 4
"""Most reference solutions of a guarded puzzle that are run for its known answers."""

GUARD_BATCH = 1000
"""Number of an archive's puzzles that are examined together."""

SHOWN_NAMES = 10
"""Most puzzles that a warning names."""

_KNOWN: dict[tuple[object, ...], Guard] = {}
"""Guards of this process by the limits and the puzzles that they were made from."""


def check_apart(config: RunConfig) -> None:
    """Check that no two of the three sets are one file.

    Raises:
        InputError: Two are.
    """
    paths = {f"data.{name}": getattr(config.data, name) for name in ("train", "dev", "heldout")}
    for (one, first), (other, second) in itertools.combinations(paths.items(), 2):
        files = [Path(path) for path in (first, second)]
        if first == second or (all(file.exists() for file in files) and files[0].samefile(files[1])):
            raise InputError(
                f"{one} and {other} are the same set, {second}: expected three: one to learn from, one to choose by, "
                "and one that is only reported"
            )


def told_overlap(sets: Mapping[str, Sequence[NamedPuzzle]]) -> str:
    """A warning about puzzles that are in both scored sets; nothing if there are none."""
    dev = {item.puzzle.id for item in sets["dev"]}
    both = [item.name for item in sets["heldout"] if item.puzzle.id in dev]
    named = ", ".join(both[:SHOWN_NAMES]) + " …" * (len(both) > SHOWN_NAMES)
    return (
        f"WARNING: {len(both)} of {len(sets['heldout'])} held-out puzzles are in dev too ({named}): checkpoints are "
        "chosen by dev, so the scores on held-out are too good"
        if both
        else ""
    )


def guarded_sets(pool: Pool, config: RunConfig) -> dict[str, list[NamedPuzzle]]:
    """The puzzles of each scored set, `dev` and `heldout`.

    Raises:
        InputError: A file holds a text that is no puzzle, so the set cannot be scored.
    """
    sets = {}
    for name, path in (("dev", config.data.dev), ("heldout", config.data.heldout)):
        sets[name] = scored_puzzles(pool, path)
    return sets


def guard_of(pool: Pool, sets: dict[str, list[NamedPuzzle]]) -> Guard:
    """A guard around the sets. Refusals name a puzzle by its set and name. Comparing behaviour needs the solutions.

    To learn the behaviour of the embedded sets takes seconds. So it is learned once, and kept in the user's cache.
    """
    named = [(f"{name}/{item.name}", item) for name, items in sets.items() for item in items]
    key = (repr(pool.limits), *((name, item.puzzle.source, item.solutions[:GUARD_SOLUTIONS]) for name, item in named))
    if key not in _KNOWN:
        guard = _KNOWN[key] = Guard.of((name, item.puzzle) for name, item in named)
        file = _file(key)
        if file is None or not _recall(guard, file):
            guard.learn_behaviour(pool, {item.puzzle.id: item.solutions[:GUARD_SOLUTIONS] for _, item in named})
            _keep(guard, file)
    guard = _KNOWN[key].anew()
    logger.info("guarded: %d puzzles, %d of them by behaviour too", len(guard.puzzles), guard.behaviours)
    return guard


def _file(key: tuple[object, ...]) -> Path | None:
    """Where the user's cache keeps what a guard has learned. It depends on the guard's code, too."""
    code = [Path(str(module.__file__)).read_bytes() for module in (guard_module, probing, tracing)]
    digest = hashlib.sha256(repr((sys.version, key, code)).encode("utf-8", "surrogatepass")).hexdigest()
    folder = user_cache.folder("guard")
    return None if folder is None else folder / f"{digest[:32]}.json"


def _recall(guard: Guard, file: Path) -> bool:
    """Whether the cache had what the guard needs."""
    with contextlib.suppress(InputError, ValueError):
        guard.recall(read_json(file, LEARNED))
        return True
    return False


def _keep(guard: Guard, file: Path | None) -> None:
    """Keep what the guard has learned. Where that is not possible, it is learned again."""
    if file is not None:
        with contextlib.suppress(OSError, InputError):
            write_atomically(file, json.dumps(guard.learned()))


def examine_archive(
    archive: Archive, pool: Pool, guard: Guard, progress: Callable[[int], object] = lambda done: None
) -> dict[str, Hit]:
    """The puzzles of an archive that the guard hits, by the id that they have there.

    All are read again and compared at every level. The guard compares the ids that follow from their texts.
    """
    hits: dict[str, Hit] = {}
    identifiers = archive.puzzle_ids()
    for start in range(0, len(identifiers), GUARD_BATCH):
        batch = identifiers[start : start + GUARD_BATCH]
        stored = [archive.puzzle(identifier) for identifier in batch]
        parsed = parse_puzzles(pool, [Text(puzzle.source) for puzzle in stored])
        read = [new if isinstance(new, Puzzle) else old for new, old in zip(parsed, stored, strict=True)]
        found = guard.examine(pool, read)
        hits |= {old.id: found[new.id] for new, old in zip(read, stored, strict=True) if new.id in found}
        progress(len(batch))
    return hits


def compute_again(archive: Archive, pool: Pool, progress: Progress) -> None:
    """Compute what the archive of a run from elsewhere says about its texts. The guard will examine all of them.

    A held-out puzzle under a forged id would pass the guard, and be trained on. The verdicts are believed.
    """
    refused = compute_identities(archive, pool)
    archive.set_mark("added_past_guard", "yes")
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
    progress.say(
        f"{archive.path.parent}: not known as begun by you on this machine: its texts were read again"
        + (f", left out: {left_out}" if left_out else "")
        + "; its verdicts are believed: `selfplay run --from` judges them again"
    )


def set_contaminated_aside(archive: Archive, pool: Pool, progress: Progress) -> None:
    """Examine an archive that has not passed its present guard; then let the guard remember all that was found."""
    if not archive.is_guarded:
        count = progress.counter(len(archive.puzzle_ids()), "contamination", "puzzle")
        hits = examine_archive(archive, pool, archive.guard, count)
        with archive.transaction():
            archive.add_contamination(hits)
        for identifier, hit in hits.items():
            logger.warning("puzzle %s is contaminated and set aside: %s", identifier, hit)
    # The guard of a resumed run must know what was found before.
    archive.guard.remember(archive.contamination())
