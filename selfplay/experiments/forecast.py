"""The expected cost of a run, measured on about a minute of its own work.

Each stage is tried on a few texts in a temporary folder, then on twice as many, until its share of the minute is spent
or a whole chunk is done. The last attempt gives seconds, tokens and outcomes per text. Small batches are slower per
text, so the forecast is too high for a model that is too slow for a whole chunk in that time. The effect of training on
the model is not foreseen.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from puzzles.archive.merging import merge
from puzzles.archive.store import Archive, Chunk
from puzzles.puzzle import InputError
from sandbox.pool import Pool, available_cores
from selfplay.config import RunConfig
from selfplay.iteration import propose, solve, vary
from selfplay.iteration.budget import stage_cost, training_cost
from selfplay.iteration.guarding import guard_of, guarded_sets
from selfplay.iteration.record_table import cost_table
from selfplay.iteration.train import nothing_to_train
from selfplay.iteration.training_set import few_shots, import_training, prompt_format_of
from selfplay.run.progress import Progress
from selfplay.sampling import cost
from selfplay.sampling.chunks import MOST_CHUNK_TEXTS, Sampling
from selfplay.sampling.cost import STAGES, StageCost, Watch
from selfplay.sampling.prompts import PromptFormat
from selfplay.sampling.sampler import Arithmetic, Sampler
from selfplay.scoring.evaluate import Questions, evaluate
from selfplay.scoring.sets import NamedPuzzle
from selfplay.text import render, wrapped
from selfplay.training.backend import Backend, Training
from selfplay.training.select import examples

SECONDS = {"propose": 8.0, "solve": 16.0, "vary": 6.0, "train": 14.0, "score": 14.0}
"""Seconds for all attempts of each stage."""
FIRST_TEXTS = 16
LEAST_PUZZLES = 8
"""Puzzles of an attempt, if there are so many. Few candidates of each tell more than all candidates of one."""
FIRST_STEPS = 2
BUSY_SHARE = 0.5
"""Share of the cores that other work must keep busy to be named beside a forecast."""


@dataclass(frozen=True)
class Forecast:
    """The expected cost of a run."""

    iterations: list[dict[str, StageCost]]
    """Cost by stage of each iteration. Iteration 0 only scores the model as it is."""
    start_seconds: float
    """Seconds to load the model and verify the training puzzles, once per run."""
    archive_bytes: int
    """Size of the archive at the end."""
    arithmetic: Arithmetic | None
    load_seconds: float = 0.0
    """Seconds that a new process needs to start Python, read the sets and load the model."""
    planning_seconds_per_text: float = 0.0
    """Seconds to plan a text of the solver."""
    merging_seconds_per_text: float = 0.0
    """Seconds to copy a text with its verdict from one archive into another."""
    examples_per_step: float = 1.0
    """Examples in one optimiser step."""
    overlap: bool = False
    """Whether sampling continues while texts are judged."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """By stage: seconds per text in the last attempt but one, in parts of those in the last one."""
    load: float = 0.0
    """Processes that other work kept running before the trial began."""


def forecast(
    config: RunConfig, backend: Backend, pool: Pool, protections: dict[str, Any], folder: Path, progress: Progress
) -> Forecast:
    """Try every stage of a run in an empty folder, and scale the costs up.

    Raises:
        InputError: The run itself would be refused, or there is nothing to try training on.
    """
    start, begun, load = Watch(), time.process_time(), os.getloadavg()[0]
    sets = guarded_sets(pool, config)
    sampler = backend.load(config.model.path, config.model)
    prompt_format, load_seconds, overlap = prompt_format_of(config, sampler), begun + start.seconds(), sampler.overlap
    with Archive(folder / "archive.sqlite", guard_of(pool, sets), create=True) as archive:
        import_training(archive, pool, protections, config, progress)
        start_seconds = start.seconds()
        trial = _Trial(config, backend, pool, protections, folder, archive, sampler, prompt_format)
        trial.proposing()
        trial.varying()
        trial.solving()
        trial.scoring([named for items in sets.values() for named in items])
        arithmetic = sampler.arithmetic
        merging = trial.merging()
        if config.finetune.trains:
            trial.training()
        iterations = trial.iterations(sum(map(len, sets.values())))
    tried = [costs[stage].texts for costs in iterations for stage in (solve.STAGE, solve.FURTHER) if stage in costs]
    return Forecast(
        iterations, start_seconds, round(trial.bytes_per_candidate * sum(tried)), arithmetic, load_seconds,
        trial.planning, merging, trial.examples_per_step, bool(overlap), trial.spread, load,
    )  # fmt: skip


def _doubling(first: int, most: int, seconds: float, attempt: Callable[[int], bool]) -> None:
    """Make attempts of doubling size, as long as there is time for another one and more to try."""
    watch, number = Watch(), min(first, most)
    while True:
        before = watch.seconds()
        more = attempt(number)
        now = watch.seconds()
        # The next attempt takes at most twice as long as this one.
        if not more or number == most or now + 2 * (now - before) > seconds:
            return
        number = min(2 * number, most)


class _Trial:
    """Tries the stages. Each keeps the cost of its last attempt."""

    def __init__(
        self,
        config: RunConfig,
        backend: Backend,
        pool: Pool,
        protections: dict[str, Any],
        folder: Path,
        archive: Archive,
        sampler: Sampler,
        prompt_format: PromptFormat,
    ) -> None:
        self.config, self.backend, self.pool, self.protections = config, backend, pool, protections
        self.most = config.chunk_texts or MOST_CHUNK_TEXTS
        self.folder, self.archive, self.sampler, self.prompt_format = folder, archive, sampler, prompt_format
        self.shots = few_shots(archive, config, prompt_format)
        self.targets = solve.targets(archive, 0, config)
        self.references = len(archive.choose(config.finetune.solutions_per_puzzle, config.data.references))
        self.number = 0
        self.examples_per_step = self.examples_per_pair = self.steps = 1.0
        self.planning = 0.0
        """Seconds per text in the last attempt."""
        self.cost: dict[str, StageCost] = {}
        self.spread: dict[str, float] = {}

    def proposing(self) -> None:
        """Propose puzzles. The admitted ones are for the solver."""
        config = self.config

        def attempt(texts: int) -> bool:
            few = replace(config, chunk_texts=texts, propose=replace(config.propose, proposals=texts))
            self.number += 1
            propose.plan(self.archive, self.number, few, self.prompt_format, self.sampler)
            chunk = self._sampled(
                propose.STAGE, lambda chunk: propose.sampling(self.archive, chunk, self.sampler, self.prompt_format)
            )
            propose.judge(self.archive, chunk, self.pool, self.prompt_format)
            self._note(propose.STAGE)
            return True

        most = min(self.most, config.propose.proposals)
        if most:
            _doubling(FIRST_TEXTS, most, SECONDS["propose"], attempt)

    def solving(self) -> None:
        """Sample candidates for puzzles, in the run's own mixture of new and training puzzles."""
        config, before, judged = self.config, self._archive_bytes(), 0
        mixture, share = self._mixture()
        rng = np.random.default_rng(0)
        tried: dict[str, Any] = {"puzzles": [], "copies": 1}

        def attempt(texts: int) -> bool:
            nonlocal judged, tried
            copies = min(max(1, texts // LEAST_PUZZLES), config.solve.candidates_per_puzzle)
            number = min(len(mixture), -(-texts // copies))
            chosen = rng.choice(mixture, number, replace=False, p=share).tolist()
            few = replace(config, chunk_texts=texts, solve=replace(config.solve, candidates_per_puzzle=copies))
            self.number += 1
            watch = Watch()
            solve.plan(self.archive, self.number, chosen, few, self.prompt_format, self.sampler)
            self.planning = watch.seconds() / texts
            chunk = self._sampled(
                solve.STAGE,
                lambda chunk: solve.sampling(self.archive, chunk, self.sampler, self.prompt_format, self.shots),
            )
            solve.judge(self.archive, chunk, self.pool, self.prompt_format, self.shots, self.protections)
            tried = chunk.plan
            self._note(solve.STAGE)
            judged += self.cost[solve.STAGE].texts
            return number < len(mixture) or copies < config.solve.candidates_per_puzzle

        if mixture:
            _doubling(FIRST_TEXTS, self.most, SECONDS["solve"], attempt)
        known = set(self.targets)
        self.pairs_per_target = self._pairs_per_puzzle([p for p in tried["puzzles"] if p in known], tried["copies"])
        self.pairs_per_proposal = self._pairs_per_puzzle(
            [p for p in tried["puzzles"] if p not in known], tried["copies"]
        )
        self.bytes_per_candidate = (self._archive_bytes() - before) / max(1, judged)

    def _mixture(self) -> tuple[list[str], list[float]]:
        """Ids of the puzzles that may be tried, and the share of each among all that a run tries."""
        asked = {propose.STAGE: self.config.propose.proposals, vary.STAGE: self.config.vary.variations}
        self.admitted, mixture, weights = 0.0, [*self.targets], [1.0] * len(self.targets)
        for stage, texts in asked.items():
            outcomes = self.archive.query(
                "SELECT outcome, puzzle FROM proposals r JOIN chunks k ON k.id = r.chunk WHERE k.stage = ?", stage
            )
            made = [puzzle for outcome, puzzle in outcomes if outcome == "admitted"]
            share = texts / max(1, len(outcomes))
            self.admitted += share * len(made)
            mixture, weights = [*mixture, *made], [*weights, *[share] * len(made)]
        return mixture, [weight / sum(weights) for weight in weights]

    def _pairs_per_puzzle(self, puzzles: Sequence[str], copies: int) -> float:
        """Mean number of solutions to train on per puzzle, if the last attempt had sampled all candidates."""
        most, more = self.config.finetune.solutions_per_puzzle, self.config.solve.candidates_per_puzzle / copies
        distinct = self.archive.query(
            "SELECT k.puzzle, count(DISTINCT k.candidate) FROM candidates k JOIN chunks c ON c.id = k.chunk"
            " WHERE c.iteration = ? AND k.verdict = 'accepted' GROUP BY k.puzzle",
            self.number,
        )
        numbers = [min(most, number * more) for puzzle, number in distinct if puzzle in puzzles]
        return float(sum(numbers) / max(1, len(puzzles)))

    def _note(self, stage: str) -> None:
        self._keep(stage, stage_cost(self.archive.chunk_costs(self.number)[stage]))

    def _keep(self, stage: str, cost: StageCost) -> None:
        """Keep an attempt's cost, and how much that of the attempt before it differs."""
        before, now = self.cost.get(stage), cost.model_seconds + cost.judging_seconds
        if before and now:
            self.spread[stage] = (before.model_seconds + before.judging_seconds) / before.texts * cost.texts / now
        self.cost[stage] = cost

    def _sampled(self, stage: str, sampling: Callable[[Chunk], Sampling]) -> Chunk:
        """Sample the first of the planned chunks."""
        first = self.archive.unjudged(self.number, stage)[0]
        samples = sampling(self.archive.chunk(first))(lambda done: None)
        with self.archive.transaction():
            self.archive.set_completions(first, **vars(samples))
        return self.archive.chunk(first)

    def merging(self) -> float:
        """Seconds per text to merge all that was tried into an empty archive."""
        counted = "SELECT (SELECT count(*) FROM proposals) + (SELECT count(*) FROM candidates)"
        texts = int(self.archive.query(counted)[0][0])
        with Archive(self.folder / "merged.sqlite", create=True) as into:
            watch = Watch()
            merge(into, self.archive)
            return watch.seconds() / max(1, texts)

    def _archive_bytes(self) -> int:
        return int(self.archive.query("PRAGMA page_count")[0][0] * self.archive.query("PRAGMA page_size")[0][0])

    def varying(self) -> None:
        """Make variations of the puzzles in the archive."""
        config = self.config

        def attempt(texts: int) -> bool:
            few = replace(config, chunk_texts=texts, vary=replace(config.vary, variations=texts))
            self.number += 1
            vary.plan(self.archive, self.number, few, self.sampler.checkpoint)
            if not self.archive.planned(self.number, vary.STAGE):
                return False
            chunk = self._sampled(vary.STAGE, lambda chunk: lambda progress: vary.make(self.archive, chunk, self.pool))
            vary.judge(self.archive, chunk, self.pool, self.protections)
            self._note(vary.STAGE)
            return True

        most = min(self.most, config.vary.variations)
        if most:
            _doubling(FIRST_TEXTS, most, SECONDS["vary"], attempt)

    def scoring(self, puzzles: Sequence[NamedPuzzle]) -> None:
        """Score the model on some candidates for the scored sets. Only the cost is kept, not the verdicts."""
        own = self.config.evaluate
        spread = [puzzles[i] for i in np.random.default_rng(0).permutation(len(puzzles))]

        def attempt(texts: int) -> bool:
            samples = min(texts, own.samples_per_puzzle)
            asked = Questions(
                spread[: -(-texts // samples)], self.prompt_format, self.shots,
                replace(own, samples_per_puzzle=samples, k=(1,)), [texts], self.config.batch_rows, self.most,
            )  # fmt: skip
            file = self.folder / f"score-{texts}.jsonl"
            self._keep("score", evaluate(self.sampler, self.pool, asked, file).cost)
            return True

        _doubling(FIRST_TEXTS, len(puzzles) * own.samples_per_puzzle, SECONDS["score"], attempt)

    def training(self) -> None:
        """Train for some steps on the pairs in the archive."""
        own, rng = self.config.finetune, np.random.default_rng(0)
        pairs = self.archive.choose(own.solutions_per_puzzle, self.config.data.references)
        pairs = pairs or self.archive.choose(own.solutions_per_puzzle)
        proposer_shots = self.config.prompt.shots if self.prompt_format.shows_shots("propose") else 0
        chosen, used = examples(pairs, own.roles, self.prompt_format, self.shots, proposer_shots, rng)
        if not chosen:
            raise InputError(nothing_to_train(self.prompt_format.protocol))
        self.examples_per_pair = len(chosen) / len(used)
        del self.sampler  # two models at once may not fit

        def attempt(steps: int) -> bool:
            folder = self.folder / "trained"
            model = self.config.model
            training = Training(model.path, chosen, replace(own, max_steps=steps), model, [0], {})
            statistics = self.backend.finetune(
                training, folder, lambda tokens, loss, learning_rate: None, lambda steps: None
            )
            shutil.rmtree(folder)
            self.steps = statistics.steps
            self._keep("train", training_cost(asdict(statistics)))
            return bool(self.steps == steps)

        _doubling(FIRST_STEPS, own.max_steps, SECONDS["train"], attempt)
        self.examples_per_step = self.cost["train"].texts / self.steps

    def _searching(self, programs: float) -> StageCost:
        """Judging so many programs of a search costs what judging candidates does; nothing is sampled."""
        alike = self.cost["solve"].scaled_to(programs)
        return StageCost(
            texts=alike.texts, judging_seconds=alike.judging_seconds, judging_cpu_seconds=alike.judging_cpu_seconds
        )

    def iterations(self, scored_puzzles: int) -> list[dict[str, StageCost]]:
        """The costs of the run's iterations, scaled up from the trials."""
        config, train = self.config, self.cost.get("train", StageCost())
        score = {"score": self.cost["score"].scaled_to(scored_puzzles * config.evaluate.samples_per_puzzle)}
        trains, ranked = "train" in self.cost, config.solve.most_proposed or math.inf
        most = config.finetune.max_steps * self.examples_per_step
        costs = [score]
        for number in range(1, config.iterations + 1):
            # The solutions of a training puzzle count once, however often it is tried.
            pairs = self.references + len(self.targets) * self.pairs_per_target
            pairs += number * self.admitted * self.pairs_per_proposal
            learned = min(most, pairs * self.examples_per_pair * config.finetune.epochs)
            tried = len(self.targets) + (self.admitted if number == 1 else min(self.admitted, ranked))
            further = min(tried, config.solve.further_puzzles) * config.solve.further_candidates
            searched = config.searches * min(tried, config.search.most_puzzles) * config.search.programs_per_puzzle
            costs.append({
                "propose": self.cost.get("propose", StageCost()).scaled_to(config.propose.proposals),
                "solve": self.cost.get("solve", StageCost()).scaled_to(tried * config.solve.candidates_per_puzzle),
                **({"further": self.cost["solve"].scaled_to(further)} if further else {}),
                **({"search": self._searching(searched)} if searched else {}),
                **({"vary": self.cost["vary"].scaled_to(config.vary.variations)} if "vary" in self.cost else {}),
                **({"train": train.scaled_to(learned), **score} if trains else {}),
            })  # fmt: skip
        return costs


FORECAST_NOTE = "The forecast is for the model as it is. After training it may propose, solve and write more or less."


def forecast_table(expected: Forecast, width: int | None = None) -> str:
    """The expected cost of a run: by stage for all iterations, and in seconds for each iteration."""
    arithmetic = expected.arithmetic
    peaks = {} if arithmetic is None else dict.fromkeys(STAGES, arithmetic.peak_flops_per_second)
    peaks.pop("train", None)  # training may use another dtype
    records = [
        {"cost": cost.counts(costs, arithmetic), "times": {"stages": cost.times(costs, peaks)}}
        for costs in expected.iterations
    ]
    by_iteration = [cost.total(costs.values()) for costs in expected.iterations]
    seconds = [each.model_seconds + each.judging_seconds for each in by_iteration]
    tokens = sum(each.tokens for each in by_iteration)
    rows = [["", "seconds"], ["start", f"{expected.start_seconds:,.0f}"]]
    rows += [[f"iteration {number}", f"{value:,.0f}"] for number, value in enumerate(seconds)]
    rows.append(["in all", f"{expected.start_seconds + sum(seconds):,.0f}"])
    size = f"{tokens:,} tokens sampled and trained on, {expected.archive_bytes / 1e6:,.1f} MB of archive."
    notes = [_range(expected), *_busy(expected), size, FORECAST_NOTE]
    text = "\n".join(notes if width is None else (wrapped(note, width) for note in notes))
    return f"{cost_table(records, width)}\n\n{render(rows, right=[1])}\n\n{text}"


def _range(expected: Forecast) -> str:
    """The seconds in all, as the last two attempts at each stage give them."""
    seconds = [
        [(cost.model_seconds + cost.judging_seconds) * pick(1.0, expected.spread.get(stage, 1.0))
         for costs in expected.iterations for stage, cost in costs.items()]
        for pick in (min, max)
    ]  # fmt: skip
    low, high = (f"{expected.start_seconds + sum(each):,.0f}" for each in seconds)
    return f"In all {low} to {high} s: so much do the last two attempts at each stage differ."


def _busy(expected: Forecast) -> list[str]:
    cores = available_cores()
    if expected.load < BUSY_SHARE * cores:
        return []
    return [
        f"This machine is busy: {expected.load:.1f} processes ran on its {cores} cores before. "
        "With nothing beside it the run is faster."
    ]
