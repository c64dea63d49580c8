"""How a run begins, resumes or branches. Its settings must fit what its folder holds."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from puzzles.archive.believing import compute_identities, judge_pairs
from puzzles.archive.copying import copy
from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from puzzles.verify import truth_pool
from selfplay.config import CHOICES, ROUNDING, RunConfig, SandboxConfig, flatten
from selfplay.iteration import champion
from selfplay.iteration.training_set import NO_PUZZLES
from selfplay.run import sessions
from selfplay.run.pools import proven_pool
from selfplay.run.progress import Progress
from selfplay.run.rundir import SCORED_SETS, RunDir, append_line, folder_atomically, read_lines
from selfplay.sampling import model_files
from selfplay.sampling.sampler import Sampler
from selfplay.scoring.sets import content_hash_of
from selfplay.settings import differences, load

logger = logging.getLogger(__name__)

AUTO = "auto"


def check_settings(rundir: RunDir, config: RunConfig) -> None:
    """Check that the settings are those of the run in the folder, if there is one.

    Raises:
        InputError: The folder holds a run with other settings (the message names them), or the path is no folder.
    """
    if rundir.path.exists() and not rundir.path.is_dir():
        raise InputError(f"{rundir.path}: expected a run's folder or nothing: give another --name")
    if rundir.config.exists():
        stored = load(rundir.config)
        if stored.collapse.action == "stop":  # nothing was learned after the stop, so any other action may follow
            stored = replace(stored, collapse=replace(stored.collapse, action=config.collapse.action))
        if different := differences(as_begun(rundir, stored), as_begun(rundir, config)):
            raise InputError(
                f"{rundir.path}: this run has other settings: {'; '.join(different)}; "
                "give another --name, or the same settings"
            )


def as_begun(rundir: RunDir, config: RunConfig) -> RunConfig:
    """The settings, with what they leave open as the run has had it from its beginning.

    `auto` and 0 leave `model.dtype`, `model.threads` and `batch_rows` to the machine. They change rounding, and so what
    is sampled. A run keeps them in its `config.toml`; older runs keep them only in their score files. It also keeps
    `prompt.shots_as_turns`, which older runs did not know. A run that has not begun has none of them.
    """
    stored = load(rundir.config) if rundir.config.exists() else config
    dtype, threads, rows = stored.model.dtype, stored.model.threads, stored.batch_rows
    is_known = dtype != AUTO and threads and rows
    for line in [] if is_known else read_lines(rundir.samples(0, "dev"))[:1]:
        sampler = line.get("sampler", {})
        dtype = known_dtype(sampler) if dtype == AUTO else dtype
        threads = threads or sampler.get("threads", 0)
        rows = rows or line["identity"]["settings"]["batch_rows"]
    dtype = dtype if config.model.dtype == AUTO else config.model.dtype
    model = replace(config.model, dtype=dtype, threads=config.model.threads or threads)
    turns = config.prompt.shots_as_turns
    if turns == AUTO and rundir.config.exists():
        turns = "no" if stored.prompt.shots_as_turns == AUTO else stored.prompt.shots_as_turns
    prompt = replace(config.prompt, shots_as_turns=turns)
    rows, texts = config.batch_rows or rows, config.chunk_texts or stored.chunk_texts  # older runs keep a number
    return replace(config, model=model, prompt=prompt, batch_rows=rows, chunk_texts=texts)


def known_dtype(sampler: Mapping[str, Any]) -> str:
    """The `model.dtype` of a sampler by its description; `auto` if it samples elsewhere, and does not tell."""
    dtype = str(sampler.get("dtype", AUTO))
    return dtype if dtype in CHOICES["model.dtype"] else AUTO


def branch(
    parent: RunDir,
    iteration: int | None,
    rundir: RunDir,
    origin: Mapping[str, Any] | None = None,
    trust: bool = True,
) -> None:
    """Begin a new run with what another run had at the end of an iteration.

    The new run's archive is a database of its own, filled with the rows of the other. The ids of puzzles and solutions
    are computed from their texts. A run that was already begun in this way is left as it is.

    Args:
        parent: The run to branch from.
        iteration: The iteration after which the branch begins; None for the last one.
        rundir: The new run.
        origin: More to note about where the new run comes from.
        trust: Whether the other run's verdicts are believed. If not, every pair is judged again here, and those that do
            not hold are left out.

    Raises:
        InputError: There is no such run or iteration, its checkpoint is gone, or the new run exists and is another.
    """
    name = parent.path.absolute().name
    if rundir.is_begun:
        begun = sessions.origin(rundir)
        number = begun.get("branched_from", {}).get("iteration") if iteration is None else iteration
        if begun != {"branched_from": {"run": name, "iteration": number}, **(origin or {})}:
            raise InputError(
                f"{rundir.path}: it exists already, and was not begun with --from {name}: give another --name, "
                "or go on with it without --from"
            )
        return
    parent.check()
    records = parent.read_records()
    if not parent.config.is_file() or not records:
        raise InputError(f"{parent.path}: expected a run with at least one record")
    last = records[-1]["iteration"] if iteration is None else iteration
    if last not in range(len(records)):
        raise InputError(f"{parent.path}: expected an iteration from 0 to {len(records) - 1}, got {last}")
    needed = sorted({last, champion.reigning_after(records[last])} - {0})
    for number in needed:  # a run that does not train has no checkpoint of its own
        made = records[number]["checkpoint"] != records[0]["checkpoint"]
        if made and not (folder := parent.checkpoint(number)).is_dir():
            raise InputError(f"{folder}: this checkpoint was not kept")
    rundir.path.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomically(rundir.path) as part:
        new = RunDir(part)
        sessions.note_origin(new, {"branched_from": {"run": name, "iteration": last}, **(origin or {})})
        with Archive(parent.archive) as archive:
            copy(archive, new.archive, last)
        _examine_copy(new, trust)
        for record in records[: last + 1]:
            append_line(new.records, record)
        _copy_files(parent, new, needed, last)


def _copy_files(parent: RunDir, new: RunDir, checkpoints: Sequence[int], last: int) -> None:
    """Copy the checkpoints of some iterations, and the scores up to the last one."""
    for number in {0, *checkpoints}:  # iteration 0 has a checkpoint if it has learned something
        if parent.checkpoint(number).is_dir():
            _copy_checkpoint(parent.checkpoint(number), new.checkpoint(number))
    for number, name in itertools.product(range(last + 1), SCORED_SETS):
        if (file := parent.samples(number, name)).exists():
            if file.is_symlink() or not file.is_file():
                raise InputError(f"{file}: expected a regular file of the run: remove it, or copy the file there")
            new.samples(number, name).parent.mkdir(exist_ok=True)
            shutil.copy(file, new.samples(number, name))


def _copy_checkpoint(there: Path, here: Path) -> None:
    """Copy the files of a checkpoint. A stranger's may hold a link to something without an end, which is refused."""
    for file in model_files.files(there):
        place = here / file.relative_to(there)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)


def _examine_copy(rundir: RunDir, trust: bool) -> None:
    """Compute the identities in a copied archive, and judge its pairs if they are not to be believed."""
    with Archive(rundir.archive, trust=True) as archive, contextlib.ExitStack() as stack:
        pool, protections = stack.enter_context(truth_pool()), None
        refused = compute_identities(archive, pool)
        if not trust:
            pool, protections = stack.enter_context(proven_pool(SandboxConfig(), archive.worlds or 0))
            refused += judge_pairs(archive, pool, protections)
            archive.set_mark("added_past_guard", "yes")
        for reason, count in refused.items():
            logger.warning("%s: %d times left out of the new run: %s", rundir.path, count, reason)


def begin_session(
    rundir: RunDir, config: RunConfig, base: Sampler, protections: dict[str, Any], progress: Progress
) -> None:
    """Record the conditions of a session and report what has changed; refuse what would make it another run."""
    paths = {"train": config.data.train, "dev": config.data.dev, "heldout": config.data.heldout}
    hashes = {name: content_hash_of(path) for name, path in paths.items() if path != NO_PUZZLES}
    content = {
        "sets": {name: found for name, found in hashes.items() if found},
        "base": base.checkpoint,
        "sampler": {key: value for key, value in base.description.items() if key != "versions"},
        "tier": protections.get("tier"),
        "settings": {key: value for key, value in flatten(config).items() if key in ROUNDING},
    }
    different = sessions.begin_session(rundir, config, content)
    for line in different:
        logger.warning("not as it was when this run began: %s", line)
    if why := base.description.get("engine_reason"):
        progress.say(f"this model is sampled in a slower way, {base.description['engine']}: {why}")
    if different:
        progress.say(f"{rundir.path}: not as it was when it began: {'; '.join(different)}")
