"""The loop of a resumable run. Each iteration proposes, varies, solves, teaches, trains, scores and records.

Every stage looks on disk for what is already done and does the rest. So a run that was killed resumes where it stopped,
and its results do not depend on when that was. The work of a stage is divided into chunks, which are planned before
they are sampled. A chunk's verdicts are written in one transaction.

The model comes in through `Backend`: nothing here imports torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from puzzles.archive.store import Archive
from sandbox.pool import Pool, available_cores
from selfplay.config import RunConfig
from selfplay.iteration import champion, collapse, propose
from selfplay.iteration.beginning import AUTO, as_begun, begin_session, check_settings, known_dtype
from selfplay.iteration.guarding import (
    check_apart,
    compute_again,
    guard_of,
    guarded_sets,
    set_contaminated_aside,
    told_overlap,
)
from selfplay.iteration.record import record_of, score_stage
from selfplay.iteration.record_table import told
from selfplay.iteration.stages import propose_stage, search_stage, solve_stage, vary_stage
from selfplay.iteration.state import Models, Run
from selfplay.iteration.train import first_training, teach_stage, train_stage
from selfplay.iteration.training_set import import_training, prompt_format_of, training_texts
from selfplay.run import consent, resources
from selfplay.run.heartbeat import Heartbeat
from selfplay.run.progress import Progress
from selfplay.run.resources import DiskFull, TrainingNeeds
from selfplay.run.rundir import RunDir, append_line, write_atomically
from selfplay.run.shard import Planned
from selfplay.sampling.prompts import propose_prompt
from selfplay.sampling.sampler import Sampler
from selfplay.scoring.sets import NamedPuzzle
from selfplay.settings import to_toml
from selfplay.training.backend import Backend

logger = logging.getLogger(__name__)


def iterate(run: Run, iteration: int) -> dict[str, Any]:
    """Do all stages of an iteration that are not on disk yet, and return its record.

    Iteration 0 proposes nothing. It scores the base model, which learns `finetune.first_steps` before.
    """
    started = time.monotonic()
    if iteration:
        sample(run, iteration)
        if run.only_plans:
            raise Planned(
                f"iteration {iteration} is sampled and judged: the same command without --plan trains and scores"
            )
        search_stage(run, iteration)
    learns = run.trains if iteration else run.config.finetune.first_steps > 0
    if learns and not run.rundir.checkpoint(iteration).exists():
        training = teach_stage(run, iteration) if iteration else first_training(run)
        train_stage(run, iteration, training)
    scores = score_stage(run, iteration)
    return record_of(run, iteration, scores, time.monotonic() - started)


def sample(run: Run, iteration: int) -> None:
    """Do the stages of an iteration before its training.

    Raises:
        PartDone: This part of a sharded run is done, but other parts are missing.
        Planned: The run was only to plan its next chunks, and has done so.
    """
    propose_stage(run, iteration)
    vary_stage(run, iteration)
    solve_stage(run, iteration)


def run(
    rundir: RunDir,
    config: RunConfig,
    backend: Backend,
    pool: Pool,
    protections: dict[str, Any],
    progress: Progress | None = None,
    paced_by: RunDir | None = None,
    only_plans: bool = False,
) -> list[dict[str, Any]]:
    """Run or resume until `config.iterations` are recorded. Work is cut into chunks as in the run `paced_by`, if given.

    With `only_plans`, the run ends where chunks of an iteration would be sampled, so that parts can do them.

    Returns:
        The records, one per iteration; number 0 is the untrained model's scores.

    Raises:
        InputError: Settings or data are not as expected.
        BudgetSpent: `config.budget` does not allow another step.
        Collapsed: The run's puzzles have collapsed, and `collapse.action` is `stop`.
        DiskFull: The disk is full. What was finished is kept.
        Planned: With `only_plans`: chunks are planned, or the iteration has no more of them.
    """
    with rundir.lock() as owner, Heartbeat(rundir.status, owner) as heartbeat:
        progress = heartbeat.watching(progress or Progress())
        check_settings(rundir, config)
        if config.gate:
            champion.check_scored_alike(rundir, config)
        sets = _sets(pool, config, progress)
        config = as_begun(rundir, config)
        progress.step("loading the model", None)
        config = replace(config, model=replace(config.model, threads=config.model.threads or available_cores()))
        base = backend.load(config.model.path, config.model)
        config = replace(config, batch_rows=config.batch_rows or _fewest_rows(config, base))
        if config.model.dtype == AUTO:
            config = replace(config, model=replace(config.model, dtype=known_dtype(base.description)))
        if not rundir.config.exists():
            training_texts(config)
        config = _with_prompts(config, base)
        needs = backend.needs(base, config.finetune) if config.finetune.trains else TrainingNeeds(0, 0, 0, "")
        resources.check(rundir.path, config, needs, len(rundir.read_records()))
        is_foreign = rundir.archive.exists() and not consent.is_own(rundir)
        begin_session(rundir, config, base, protections, progress)
        if unsigned := consent.sign(rundir, config):
            logger.warning("%s", unsigned)
            progress.say(unsigned)
        # Everything that the settings name exists now, so a mistyped name cannot become part of the run's settings.
        write_atomically(rundir.config, to_toml(config))
        progress.step("setting up the guard", None)
        guard = guard_of(pool, sets)
        with _told_what_is_missing(rundir, config, needs), Archive(rundir.archive, guard, create=True) as archive:
            _fill(archive, pool, protections, config, progress, is_foreign)
            models = Models(rundir, config, backend, base)
            del base  # only `models` may hold it, so that its memory is freed when another model is loaded
            how = (protections, models, sets, progress, paced_by or rundir)
            state = Run(rundir, config, archive, pool, *how, only_plans=only_plans)
            _iterate(state)
    return rundir.read_records()


def _fill(
    archive: Archive, pool: Pool, protections: dict[str, Any], config: RunConfig, progress: Progress, is_foreign: bool
) -> None:
    """Bring an archive to where iterations can begin: ids computed, contaminated puzzles aside, training puzzles in."""
    archive.keep_worlds(pool.seed)
    if is_foreign:
        compute_again(archive, pool, progress)
    set_contaminated_aside(archive, pool, progress)
    progress.step("verifying training puzzles", None)
    import_training(archive, pool, protections, config, progress)


def _iterate(state: Run) -> None:
    """Do the iterations that are not recorded yet."""
    for record in state.rundir.read_records():
        state.note(record)
        state.progress.row(record)
    state.retire_checkpoints()  # a crash may have happened after the record and before this step
    for iteration in range(len(state.done), state.config.iterations + 1):
        record = iterate(state, iteration)
        state.archive.index()
        state.archive.sync()
        append_line(state.rundir.records, record)
        state.note(record)
        logger.info("%s", told(record))
        state.progress.row(record)
        for line in collapse.told(record["collapse"]):
            state.progress.say(f"iteration {iteration}: {line}")
        state.retire_checkpoints()
        resources.give_memory_back()


def _sets(pool: Pool, config: RunConfig, progress: Progress) -> dict[str, list[NamedPuzzle]]:
    """The scored sets, with a warning if they overlap.

    Raises:
        InputError: Two of the three sets are one file, or a file cannot be scored.
    """
    progress.step("reading dev and held-out", None)
    check_apart(config)
    sets = guarded_sets(pool, config)
    if overlap := told_overlap(sets):
        logger.warning("%s", overlap)
        progress.say(overlap)
    return sets


@contextmanager
def _told_what_is_missing(rundir: RunDir, config: RunConfig, needs: TrainingNeeds) -> Iterator[None]:
    """If the disk is full, say how much space the run still needs."""
    try:
        yield
    except Exception as error:
        if resources.is_full(error, rundir.path):
            missing = resources.what_is_missing(rundir.path, config, needs, len(rundir.read_records()))
            raise DiskFull(missing) from error
        raise


def _with_prompts(config: RunConfig, base: Sampler) -> RunConfig:
    """The settings with `prompt.shots_as_turns` as the run will keep it, if prompts can be written as they say.

    Raises:
        InputError: They cannot.
    """
    prompt_format = prompt_format_of(config, base)
    base.fits(propose_prompt(prompt_format), 1)
    propose.check_strategy(config, prompt_format)
    turns = "yes" if prompt_format.shots_as_turns else "no"
    return replace(config, prompt=replace(config.prompt, shots_as_turns=turns))


def _fewest_rows(config: RunConfig, base: Sampler) -> int:
    """The rows of a batch for which the longest completions of every stage leave room."""
    return min(base.batch_rows(stage.max_tokens) for stage in (config.propose, config.solve, config.evaluate))
