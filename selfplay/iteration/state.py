"""What the stages of one run share: its folder, settings, archive, sandbox, models and recorded iterations."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from puzzles.archive.store import Archive
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration import champion
from selfplay.iteration.training_set import few_shots, prompt_format_of
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.run.shard import Part
from selfplay.sampling.chunks import texts_in_a_minute
from selfplay.sampling.cost import record_costs, record_rates, record_seconds, record_tokens, sampling_price
from selfplay.sampling.sampler import Sampler
from selfplay.sampling.shots import Pair
from selfplay.scoring.sets import NamedPuzzle
from selfplay.training.backend import Backend


class Models:
    """The checkpoints of a run. Only one is in memory at a time.

    Args:
        rundir: Where trained checkpoints are.
        config: The settings; `model.path` names the base model.
        backend: Loads and trains checkpoints.
        base: The base model's sampler, already in memory.
    """

    def __init__(self, rundir: RunDir, config: RunConfig, backend: Backend, base: Sampler) -> None:
        self.backend = backend
        self._rundir, self._config = rundir, config.model
        self._loaded: tuple[str, Sampler] | None = (str(config.model.path), base)

    def place(self, iteration: int) -> str | Path:
        """Where an iteration's weights are. Iteration 0 is the base model, or what its first steps made of it."""
        own = self._rundir.checkpoint(iteration)
        return own if iteration or own.is_dir() else self._config.path

    def sampler(self, iteration: int) -> Sampler:
        """The sampler of an iteration's checkpoint. It is loaded if another one is in memory."""
        place = self.place(iteration)
        if self._loaded is None or self._loaded[0] != str(place):
            self.release()
            self._loaded = (str(place), self.backend.load(place, self._config))
        return self._loaded[1]

    def release(self) -> None:
        """Drop the model in memory, because two at once may not fit."""
        self._loaded = None


@dataclass(frozen=True)
class Done:
    """What later iterations need to know about a recorded one."""

    dev: float
    """pass@k on dev for the first k of the settings; -1 if this k was not scored."""
    seconds: float
    """Seconds of sampling, judging, training and scoring."""
    tokens: int
    """Tokens sampled and trained on."""
    price: float
    """Price of what servers have read and written."""


@dataclass
class Run:
    """One run, with everything that its stages share."""

    rundir: RunDir
    config: RunConfig
    archive: Archive
    pool: Pool
    protections: dict[str, Any]
    """The protections that the sandbox has proved. They are stored with every verified pair."""
    models: Models
    sets: dict[str, list[NamedPuzzle]]
    """The scored sets, `dev` and `heldout`."""
    progress: Progress
    paced_by: RunDir
    """The run whose rates decide how work is cut into chunks: this one, or the one that is reproduced."""
    part: Part | None = None
    """The part of each stage's chunks to do here; None for all chunks."""
    only_plans: bool = False
    """Whether the run ends where chunks would be sampled."""
    shown: InitVar[list[Pair] | None] = None
    """The pairs that stand before every puzzle, if the archive here has too little to choose them."""
    done: list[Done] = field(default_factory=list)
    """The recorded iterations, from 0."""
    reigning: int = 0
    """Number of the checkpoint to sample from."""
    recorded: Mapping[str, Any] | None = None
    """The last record."""
    measured: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Measures of collapse by iteration, as long as they are needed."""

    def __post_init__(self, shown: list[Pair] | None) -> None:
        self.prompt_format = prompt_format_of(self.config, self.models.sampler(0))
        # The pairs that stand before every puzzle.
        self.shots = few_shots(self.archive, self.config, self.prompt_format) if shown is None else shown

    @property
    def trains(self) -> bool:
        """Whether an iteration makes a checkpoint."""
        return self.config.finetune.trains

    def note(self, record: Mapping[str, Any]) -> None:
        """Keep only what later iterations need of a record, so that memory does not grow over thousands of them."""
        self.reigning, self.recorded = champion.reigning_after(record), record
        dev = record["dev"].get(f"pass@{self.config.evaluate.k[0]}", [-1.0])[0]
        spent = sampling_price(self.config.endpoint, record_costs(record))
        self.done.append(Done(dev, record_seconds(record), record_tokens(record), spent))

    def minute(self, iteration: int, stage: str) -> int:
        """Texts of a stage that are about a minute of work; 0 if the settings say how many a chunk has.

        The rate is the one that was recorded last. So whoever goes on with the run, or does a part of it, cuts alike.
        """
        if self.config.chunk_texts:
            return 0
        rates = record_rates(self.paced_by.read_records()[iteration - 1])
        texts, seconds = rates[stage] if stage in rates else rates["all"]
        return texts_in_a_minute(texts, seconds)

    def ends_with(self, iteration: int) -> int:
        """Number of the checkpoint after an iteration: its own or, without training, the one it sampled from."""
        return iteration if self.trains or not iteration else self.reigning

    def best(self) -> int:
        """The recorded iteration with the best dev score whose weights are here; the first of equals."""
        here = {0} | self.rundir.checkpoints() & {*range(len(self.done))}
        return max(here, key=lambda iteration: (self.done[iteration].dev, -iteration))

    def retire_checkpoints(self) -> None:
        """Delete the checkpoints that `keep_checkpoints` does not keep. The last and the reigning one always stay."""
        if self.config.keep_checkpoints == "all" or not self.done:
            return
        iterations = range(len(self.done))
        kept = {0, self.best(), iterations[-1], self.reigning}  # trainings may start from iteration 0
        for iteration in self.rundir.checkpoints() & {*iterations} - kept:
            shutil.rmtree(self.rundir.checkpoint(iteration))
