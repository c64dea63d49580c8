"""One part of a run's present stage, done in a folder of its own (`selfplay.run.shard`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration import propose, solve
from selfplay.iteration.beginning import as_begun, check_settings
from selfplay.iteration.guarding import compute_again, guard_of, guarded_sets, set_contaminated_aside
from selfplay.iteration.loop import sample
from selfplay.iteration.state import Models, Run
from selfplay.iteration.training_set import few_shots, prompt_format_of
from selfplay.run import consent
from selfplay.run.heartbeat import Heartbeat
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.run.shard import (
    FINISHED,
    SHARE_OF,
    Part,
    PartDone,
    closed_archive,
    finish,
    note_settings,
    take_over,
    take_share,
)
from selfplay.training.backend import Backend

ASKED: dict[str, Callable[[Any], set[str]]] = {
    propose.STAGE: propose.asked_puzzles,
    **dict.fromkeys(solve.STAGES, solve.asked_puzzles),
}
"""The puzzles that a chunk of a stage asks for, by its plan."""


def run_part(
    rundir: RunDir,
    own: RunDir,
    part: Part,
    config: RunConfig,
    backend: Backend,
    pool: Pool,
    protections: dict[str, Any],
    progress: Progress | None = None,
) -> str:
    """Do, or resume, one part of the run's present stage, in a folder of its own.

    The run itself is only read: its archive, records and checkpoints.

    Returns:
        A line that says what was done.

    Raises:
        InputError: The run has not begun, is being written, or has other settings; or the folder holds another run.
    """
    check_settings(rundir, config)
    if own.config.exists():
        raise InputError(f"{own.path}: expected the folder of a part of {rundir.path}, got a run: give another --name")
    if not (records := rundir.read_records()):
        raise InputError(
            f"{rundir.path}: expected a run with at least one record: "
            "begin it without --shard and with --set iterations=0"
        )
    iteration = len(records)
    if iteration > config.iterations:
        return f"{rundir.path} has all of its {config.iterations} iterations"
    with own.lock() as owner, Heartbeat(own.status, owner) as heartbeat:
        progress = heartbeat.watching(progress or Progress())
        progress.step("loading sets and model", None)
        config = as_begun(rundir, config)
        sets = guarded_sets(pool, config)
        base = backend.load(config.model.path, config.model)
        is_own = consent.is_own(rundir)
        with closed_archive(rundir.archive) as theirs:
            shots = few_shots(theirs, config, prompt_format_of(config, base))
            _take(theirs, own, records[-1], part, is_own)
        with Archive(own.archive, guard_of(pool, sets)) as archive:
            if said := archive.mark(FINISHED):
                return said
            note_settings(archive, config)
            if not is_own:
                compute_again(archive, pool, progress)
            set_contaminated_aside(archive, pool, progress)
            models = Models(rundir, config, backend, base)
            shown = shots if archive.mark(SHARE_OF) else None  # a whole copy has been examined since
            state = Run(rundir, config, archive, pool, protections, models, sets, progress, rundir, part, shown=shown)
            for record in records:
                state.note(record)
            said = f"iteration {iteration} is sampled and judged: the same command without --shard trains and scores"
            try:
                sample(state, iteration)
            except PartDone as done:
                said = str(done)
            finish(archive, said)
    return said


def _take(theirs: Archive, own: RunDir, record: dict[str, Any], part: Part, owned: bool) -> None:
    """Copy what the part needs: its share, if the run has planned its next chunks, else the whole archive.

    An archive that is not the user's `own` is copied whole, because everything in it must be computed again.
    """
    iteration = int(record["iteration"]) + 1
    stage = next((stage for stage in ASKED if theirs.unjudged(iteration, stage)), None)
    if stage is None or not owned:
        take_over(theirs, own.archive, record)
        return
    planned = theirs.plans("(iteration, stage) = (?, ?) ORDER BY number", iteration, stage)
    asked = {puzzle for _, plan in part.share([*planned]) for puzzle in ASKED[stage](plan)}
    known = theirs.puzzle_ids() if stage == propose.STAGE else []
    take_share(theirs, own.archive, record, part, stage, asked, known)
