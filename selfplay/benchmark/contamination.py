"""The puzzles of a scored set that a model may have seen: those near a puzzle that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puzzles.archive.store import Archive
from puzzles.guard import Guard
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError, Puzzle
from sandbox.pool import Pool
from selfplay.benchmark.sets import ScoredSet
from selfplay.iteration.guarding import GUARD_SOLUTIONS
from selfplay.run.rundir import RunDir, is_archive
from selfplay.scoring.sets import read_any


def set_guard(pool: Pool, chosen: ScoredSet) -> Guard:
    """A guard around a scored set. It names puzzles by their ids, because its findings are published."""
    guard = Guard.of((item.puzzle.id, item.puzzle) for item in chosen.named)
    guard.learn_behaviour(pool, {item.puzzle.id: item.solutions[:GUARD_SOLUTIONS] for item in chosen.named})
    return guard


def training_archive(model: str) -> Path | None:
    """The archive of the run that a checkpoint folder belongs to; None for other models."""
    folder = Path(model).absolute()
    archive = RunDir(folder.parent.parent).archive
    return archive if folder.parent.name == "checkpoints" and archive.is_file() else None


def near_training(pool: Pool, chosen: ScoredSet, guard: Guard, model: str, place: Path) -> dict[str, Any]:
    """The scored puzzles near a puzzle that the model was trained on, with the level and the other puzzle's id.

    Args:
        pool: The sandbox.
        chosen: The scored set.
        guard: The guard around it.
        model: The model as it was given. The name of a run's checkpoint tells the iterations it has learned from.
        place: The archive, run or puzzle file that the model was trained on.

    Returns:
        `trained_on`, the number of `puzzles` compared, and `near` by id.
    """
    training = _training_puzzles(pool, place, model)
    by_text = Guard.of((puzzle.id, puzzle) for puzzle in training)
    near = {item.puzzle.id: str(hit) for item in chosen.named if (hit := by_text.hit(item.puzzle)) is not None}
    for identifier, hit in guard.behaving_alike(pool, training):
        near.setdefault(hit.name, f"{hit.level}: {identifier} {hit.detail}".rstrip())
    return {"trained_on": str(place), "puzzles": len(training), "near": dict(sorted(near.items()))}


def _training_puzzles(pool: Pool, place: Path, model: str) -> list[Puzzle]:
    """The puzzles that a run learned from up to the model's iteration; all puzzles, if the archive records none."""
    texts = [Text(raw.puzzle, raw.form) for raw in read_any(str(place))]
    archive = place / "archive.sqlite" if place.is_dir() else place
    if is_archive(archive):
        name = Path(model).name.removeprefix("iteration-")
        until = int(name) if name.isdigit() else 2**62
        with Archive(archive) as opened:
            trained = "SELECT DISTINCT source FROM puzzles p JOIN trained t ON t.puzzle = p.id WHERE t.iteration <= ?"
            texts = [Text(source) for (source,) in opened.query(trained, until)] or texts
    parsed = parse_puzzles(pool, texts)
    training = [puzzle for puzzle in parsed if isinstance(puzzle, Puzzle)]
    if not training:
        raise InputError(f"{place}: expected the puzzles that the model was trained on, got none")
    return training
