"""Curves of a run while it goes on, for TensorBoard or for Weights & Biases in its offline mode (`track`).

Each training step has its loss, learning rate and tokens per second. Each record has all of its numbers; an interval
is its value, `_low` and `_high`. The axis is the number of training steps so far, so a run that is resumed goes on
where its records end. Nothing is sent anywhere.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from puzzles.puzzle import InputError
from puzzles.writing import open_in_place
from selfplay.config import RunConfig, flatten
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.settings import to_toml

EXTRAS = {"tensorboard": "track", "wandb": "wandb"}
"""The packages, and the extras that install them."""
EVENTS = "events.out.tfevents.run"
"""The one file of a run's curves. TensorBoard looks for names with `tfevents`."""
_LENGTH, _CHECKSUM_BYTES = struct.Struct("<Q"), 4


def require(config: RunConfig) -> None:
    """Check that the package is installed, at the start and not after an iteration.

    Raises:
        InputError: The package is not installed.
    """
    name = _name(config)
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(f"track = {name!r}: the package is not installed: pip install '.[{EXTRAS[name]}]'")


def _name(config: RunConfig) -> str:
    return "tensorboard" if config.tensorboard and config.track == "none" else config.track


class Writer(Protocol):
    """Where curves are written."""

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add numbers at a step."""

    def close(self) -> None:
        """Finish writing."""


class Tracker:
    """Turns what a run reports into curves.

    Args:
        make: Opens what they are written to, before the first is: only the one writer of a run comes so far. None for
            no curves.
        done: The records that the run begins with.
    """

    def __init__(self, make: Callable[[], Writer] | None, done: list[dict[str, Any]]) -> None:
        self._make = make
        self._writer: Writer | None = None
        self._recorded = len(done)
        self._step = sum(record["training"].get("steps", 0) for record in done)
        self._began = self._step
        self._iteration = -1
        self._at = time.monotonic()

    def watching(self, progress: Progress) -> Progress:
        """The same progress, which is also written as curves."""

        def trained(iteration: int, tokens: int, loss: float, learning_rate: float) -> None:
            progress.trained(iteration, tokens, loss, learning_rate)
            self._trained(iteration, tokens, loss, learning_rate)

        def row(record: dict[str, Any]) -> None:
            progress.row(record)
            self._record(record)

        def counter(total: int, description: str, unit: str) -> Any:
            self._at = time.monotonic()  # a training's first step begins after its count is opened
            return progress.counter(total, description, unit)

        return replace(progress, trained=trained, row=row, counter=counter) if self._make else progress

    def close(self) -> None:
        """Finish writing."""
        if self._writer:
            self._writer.close()

    def _write(self, scalars: dict[str, float]) -> None:
        assert self._make is not None
        self._writer = self._writer or self._make()
        self._writer.write(self._step, scalars)

    def _trained(self, iteration: int, tokens: int, loss: float, learning_rate: float) -> None:
        if iteration != self._iteration:  # also where a training begins again after an error
            self._iteration, self._step = iteration, self._began
        now, self._step = time.monotonic(), self._step + 1
        seconds, self._at = now - self._at, now
        self._write({
            "train/loss": loss, "train/learning_rate": learning_rate, "train/iteration": iteration,
            "train/tokens_per_second": tokens / max(seconds, 1e-9),
        })  # fmt: skip

    def _record(self, record: dict[str, Any]) -> None:
        if record["iteration"] < self._recorded:  # a session begins with the rows that are there
            return
        self._recorded = record["iteration"] + 1
        self._began += record["training"].get("steps", 0)
        self._step = self._began
        self._write(dict(_scalars(record, "")))


@contextlib.contextmanager
def tracker(config: RunConfig, rundir: RunDir) -> Iterator[Tracker]:
    """A tracker as the settings ask for it. What it writes is on disk when the block ends."""
    name, done = _name(config), rundir.read_records()
    began = sum(record["training"].get("steps", 0) for record in done)
    makers: dict[str, Callable[[RunConfig, RunDir, int], Writer]] = {
        "tensorboard": _TensorBoard, "wandb": _WeightsAndBiases,
    }  # fmt: skip
    own = Tracker(functools.partial(makers[name], config, rundir, began) if name in makers else None, done)
    try:
        yield own
    finally:
        own.close()


class _TensorBoard:
    """One file of events for the whole run. Each session goes on at its end."""

    def __init__(self, config: RunConfig, rundir: RunDir, began: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        folder = rundir.path / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open_in_place(folder / EVENTS)
        self._file.truncate(_whole_bytes(self._file))
        is_new = not self._file.seek(0, os.SEEK_END)
        self._records = RecordWriter(self._file)
        if is_new:
            self._add(file_version="brain.Event:2")
        # What an interrupted session wrote behind the last record is done again: TensorBoard then forgets it.
        self._add(step=began + 1, session_log=SessionLog(status=SessionLog.START))
        text = text_pb("settings", "".join(f"    {line}\n" for line in to_toml(config).splitlines()))
        self._add(step=began, summary=text)

    def _add(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add(step=step, summary=Summary(value=values))

    def close(self) -> None:
        self._file.close()


def _whole_bytes(file: Any) -> int:
    """Length of a file of events up to the end of its last whole one: a crash may have torn the last."""
    size, end = file.seek(0, os.SEEK_END), 0
    while end + _LENGTH.size <= size:
        file.seek(end)
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        after = end + _LENGTH.size + _CHECKSUM_BYTES + length + _CHECKSUM_BYTES
        if after > size:
            break
        end = after
    return end


class _WeightsAndBiases:
    """A run of Weights & Biases that stays in the run's folder. Sessions share its id, so `wandb sync` joins them."""

    def __init__(self, config: RunConfig, rundir: RunDir, began: int) -> None:
        import wandb

        name = rundir.path.absolute().name
        settings = wandb.Settings(
            console="off", disable_git=True, disable_code=True, save_code=False, silent=True, x_disable_stats=True,
            x_disable_meta=True, symlink=False,  # a run's folder holds no links
        )  # fmt: skip
        self._run = wandb.init(
            project="selfplay", name=name, id=re.sub(r"[^\w-]", "-", name), dir=str(rundir.path), mode="offline",
            config=flatten(config), settings=settings,
        )  # fmt: skip
        for link in filter(Path.is_symlink, Path(self._run.dir).parent.rglob("*")):  # to its service's log
            link.unlink()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._run.log(scalars, step=step)

    def close(self) -> None:
        self._run.finish()


def _scalars(content: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _scalars(value, f"{name}/{key}" if name else str(key))
    elif isinstance(content, list) and len(content) == 3:
        for end, value in zip(("", "_low", "_high"), content, strict=True):
            yield from _scalars(value, name + end)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield name, float(content)
