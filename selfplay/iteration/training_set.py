"""What a run begins with: its training puzzles, its pairs by rule, and the shots of its prompts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from puzzles.archive.formats import EMBEDDED_SETS, import_puzzles
from puzzles.archive.store import Archive
from puzzles.foreign import parse_json
from puzzles.puzzle import InputError, RawPuzzle
from puzzles.rules import families
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration.import_table import counted, import_table
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.sampling.prompts import PromptFormat, chosen_format, kept_format
from selfplay.sampling.sampler import Sampler
from selfplay.sampling.shots import Pair, solver_shots
from selfplay.sampling.streams import Stream
from selfplay.scoring.sets import read_any
from selfplay.settings import load

logger = logging.getLogger(__name__)

NO_PUZZLES = "none"
"""Value of `data.train` with which a run begins with pairs by rule alone."""


def training_texts(config: RunConfig) -> list[Any]:
    """The raw puzzles of `data.train`.

    Raises:
        InputError: There are no training puzzles and, with `none`, no pairs by rule.
    """
    if config.data.train == NO_PUZZLES:
        if not config.data.rules:
            raise InputError(f"data.train: {NO_PUZZLES!r} leaves nothing to begin with: set data.rules above 0")
        return []
    raws = read_any(config.data.train)
    if not raws:
        raise InputError(f"{config.data.train}: expected training puzzles, there are none")
    return raws


def import_training(
    archive: Archive, pool: Pool, protections: dict[str, Any], config: RunConfig, progress: Progress
) -> None:
    """Verify and add the training puzzles. A hand-written set must also be admitted. A second call adds nothing."""
    wanted = f"{config.data.train}, {config.data.rules} by rule"
    if archive.mark("training_imported") == wanted:
        return
    raws = training_texts(config)
    own = config.data.train in EMBEDDED_SETS
    count = progress.counter(len(raws), "training puzzles", "puzzle")
    report = import_puzzles(archive, pool, protections, raws, "human" if own else "import", own, count)
    said = f"training puzzles of {config.data.train}: {counted(report)}"
    logger.info("%s", said)
    if raws and not archive.puzzle_ids():
        why = ", ".join(f"{reason} ({count})" for reason, count in report.puzzles.most_common())
        raise InputError(f"{config.data.train}: expected training puzzles, none was accepted: {why}")
    if report.examples:
        progress.say(f"{said}\n{import_table(report, progress.width)}\n")
    if near := report.puzzles["held_out"]:
        progress.say(
            f"WARNING: {near} of {len(raws)} training puzzles are in dev or held-out, or too near to a puzzle there. "
            "They are left out; `selfplay archive list ARCHIVE --refused` shows which puzzle each is near"
        )
    _import_rules(archive, pool, protections, config, progress)
    archive.set_mark("training_imported", wanted)


def _import_rules(
    archive: Archive, pool: Pool, protections: dict[str, Any], config: RunConfig, progress: Progress
) -> None:
    """Add pairs by rule, verified and guarded like all others."""
    drawn = enumerate(
        families.generate(int(np.random.default_rng([config.seed, 0, Stream.RULES]).integers(2**62)), config.data.rules)
    )
    raws = [RawPuzzle(f"{pair.family}_{number}", pair.puzzle, (pair.solution,)) for number, pair in drawn]
    if raws:
        report = import_puzzles(
            archive, pool, protections, raws, "rule", True, progress.counter(len(raws), "rules", "puzzle")
        )
        logger.info("puzzles by rule: %s", counted(report))


def few_shots(archive: Archive, config: RunConfig, prompt_format: PromptFormat) -> list[Pair]:
    """The pairs that a run shows before every puzzle; none unless its prompts show any.

    Pairs by rule are shown only if there are no others, so that arms with and without rules have the same prompts.
    """
    if not prompt_format.shows_shots("solve"):
        return []
    pairs, by_rule = archive.choose(1, before_first_iteration=True), set(archive.puzzle_ids("p.origin = 'rule'"))
    return solver_shots([pair for pair in pairs if pair[0].id not in by_rule] or pairs, config.prompt.shots)


def iterations_learned(archive: Archive, config: RunConfig, iteration: int) -> list[int]:
    """The iterations whose finds this one trains on, in order."""
    kept = [number for number in range(1, iteration + 1) if number not in archive.set_aside()]
    return kept[-1:] if config.finetune.data == "replace" else kept


def is_of_a_run(archive: Path) -> bool:
    """Whether an archive is that of a run, beside its settings."""
    rundir = RunDir(archive.parent)
    return rundir.config.is_file() and archive.name == rundir.archive.name


def known_shots(archive: Archive) -> list[Pair] | None:
    """The pairs that an archive's run shows; None if the run shows none, or the archive belongs to no run."""
    config = load(RunDir(archive.path.parent).config) if is_of_a_run(archive.path) else None
    sql = "SELECT DISTINCT json_extract(settings, '$.protocol'), json_extract(settings, '$.prompt_format') FROM chunks"
    for protocol, kept in archive.query(sql) if config else ():
        parts = parse_json(kept, "prompt_format of a chunk") if kept else None
        own = kept_format({"protocol": protocol, "prompt_format": parts}) if protocol else None
        if config and own and own.shows_shots("solve"):
            return few_shots(archive, config, own)
    return None


def prompt_format_of(config: RunConfig, sampler: Sampler) -> PromptFormat:
    """How a run's prompts are written: as its settings say; with protocol `auto`, as the checkpoint was trained."""
    return chosen_format(config.prompt, config.sandbox.modules, sampler.notes)
