"""How a run begins, goes on or branches: its settings against what its folder holds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.config import ROUNDING, RunConfig, flatten
from selfplay.iteration import champion
from selfplay.iteration.training_set import NO_PUZZLES
from selfplay.run import sessions
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir, append_line, folder_atomically, read_lines
from selfplay.sampling.sampler import Sampler
from selfplay.scoring.sets import content_hash_of
from selfplay.settings import differences, load

logger = logging.getLogger(__name__)


def check_settings(rundir: RunDir, config: RunConfig) -> None:
    """Compare the settings with what is there.

    Raises:
        InputError: The folder holds a run with other settings; the differences are named.
    """
    if rundir.path.exists() and not rundir.path.is_dir():
        raise InputError(f"{rundir.path}: expected a run's folder or nothing: give another --name")
    if rundir.config.exists():
        stored = load(rundir.config)
        if stored.collapse.action == "stop":  # what had collapsed was not learned: any other answer goes on from there
            stored = replace(stored, collapse=replace(stored.collapse, action=config.collapse.action))
        if different := differences(as_begun(rundir, stored), as_begun(rundir, config)):
            raise InputError(
                f"{rundir.path}: this run has other settings: {'; '.join(different)}; "
                "give another --name, or the same settings"
            )


def as_begun(rundir: RunDir, config: RunConfig) -> RunConfig:
    """With what settings leave to the machine, threads and rows side by side, as the run has had it from its beginning.

    Both change rounding, and so what is sampled. A run keeps them in its settings, and an older one only with what it
    has scored; a run that has not begun has neither.
    """
    stored = load(rundir.config) if rundir.config.exists() else config
    threads, rows = stored.model.threads, stored.batch_rows
    for line in [] if threads and rows else read_lines(rundir.samples(0, "dev"))[:1]:
        threads = threads or line.get("sampler", {}).get("threads", 0)
        rows = rows or line["identity"]["settings"]["batch_rows"]
    model = replace(config.model, threads=config.model.threads or threads)
    return replace(config, model=model, batch_rows=config.batch_rows or rows)


def branch(parent: RunDir, iteration: int | None, rundir: RunDir, origin: Mapping[str, Any] | None = None) -> None:
    """Begin a new run with what another one had when an iteration ended (None: its last); `origin` says more of why.

    One that was begun so is left as it is.

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
    records = parent.read_records()
    if not parent.config.is_file() or not records:
        raise InputError(f"{parent.path}: expected a run with at least one record")
    last = records[-1]["iteration"] if iteration is None else iteration
    if last not in range(len(records)):
        raise InputError(f"{parent.path}: expected an iteration from 0 to {len(records) - 1}, got {last}")
    needed = sorted({last, champion.reigning_after(records[last])} - {0})
    for number in needed:  # without an objective, none was made
        made = records[number]["checkpoint"] != records[0]["checkpoint"]
        if made and not (folder := parent.checkpoint(number)).is_dir():
            raise InputError(f"{folder}: this checkpoint was not kept")
    rundir.path.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomically(rundir.path) as part:
        new = RunDir(part)
        sessions.note_origin(new, {"branched_from": {"run": name, "iteration": last}, **(origin or {})})
        with Archive(parent.archive) as archive:
            archive.copy_until(new.archive, last)
        for number in needed:
            if parent.checkpoint(number).is_dir():
                shutil.copytree(parent.checkpoint(number), new.checkpoint(number))
        for record in records[: last + 1]:
            append_line(new.records, record)
        for file in sorted((parent.path / "scores").glob("*.jsonl")):
            if int(file.name.split("-")[1]) <= last:
                new.samples(0, "dev").parent.mkdir(exist_ok=True)
                shutil.copy(file, new.samples(0, "dev").parent)


def begin_session(
    rundir: RunDir, config: RunConfig, base: Sampler, protections: dict[str, Any], progress: Progress
) -> None:
    """Record what it goes on with, and say what is not as it was; what would make it another run is refused."""
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
    if different:
        progress.say(f"{rundir.path}: not as it was when it began: {'; '.join(different)}")
