"""The time that an iteration takes with many workers, estimated from the rates of a forecast.

A worker is a machine like this one that does a part of the chunks (`run --shard`). Chunks are not divided, and all
workers wait for the slowest one at the end of each stage. Each part loads the model. It reads its share of the archive.
One machine plans (`run --plan`), varies, merges and scores, so these steps do not get shorter with more workers.
Training is divided among the processes that torchrun starts, but not into more parts than a step has examples. Their
communication is left out. With the model on the CPU, sampling and judging happen one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from puzzles.archive.store import BY_RULE
from selfplay.config import RunConfig
from selfplay.experiments.forecast import Forecast
from selfplay.iteration import solve
from selfplay.sampling.chunks import texts_in_a_minute
from selfplay.sampling.cost import StageCost, price, total
from selfplay.text import Column, Table

COPIED_BYTES_PER_SECOND = 200e6
"""Speed at which an archive is read from a shared file system. It is assumed; all other rates are measured."""
IN_PARTS = ("propose", *solve.STAGES)


@dataclass(frozen=True)
class Plan:
    """One iteration with a given number of workers."""

    workers: int
    gpus: int
    seconds: dict[str, float]
    """Seconds of each step. The steps follow each other."""
    worker_hours: float
    """Hours of all workers in the shared steps, and of the one machine that merges, trains and scores."""
    gpu_hours: float
    """Hours of all GPUs in training."""
    tokens: int
    """Tokens sampled and trained on."""
    price: float
    """Price of what servers read and write, by the endpoint's prices."""

    @property
    def total_seconds(self) -> float:
        """Seconds from the beginning of the iteration to its end."""
        return sum(self.seconds.values())

    @property
    def bottleneck(self) -> str:
        """The step that takes most of the time."""
        return max(self.seconds, key=lambda name: self.seconds[name])


def plan(expected: Forecast, config: RunConfig, workers: int, gpus: int) -> Plan:
    """The last iteration, which has the longest training, with a given number of workers.

    Args:
        expected: The forecast of the run on this machine.
        config: The run's settings.
        workers: Number of machines like this one that sample and judge.
        gpus: Number of processes that train, each on a device like the one that this machine trains on.
    """
    costs = expected.iterations[-1]
    stages = {stage: costs[stage] for stage in IN_PARTS if stage in costs and costs[stage].texts}
    # The share of each stage that the busiest worker does.
    shares = {
        stage: math.ceil(chunks / workers) / chunks
        for stage, cost in stages.items()
        for chunks in [math.ceil(cost.texts / _chunk_texts(config, cost))]
    }
    sampling = sum(cost.model_seconds * shares[stage] for stage, cost in stages.items())
    judging = sum(cost.judging_seconds * shares[stage] for stage, cost in stages.items())
    if expected.overlap:  # the shorter of the two is hidden by the longer
        sampling, judging = (sampling, 0.0) if sampling > judging else (0.0, judging)
    texts = sum(cost.texts for cost in stages.values())
    iterations = max(1, len(expected.iterations) - 1)
    copied_bytes = expected.archive_bytes * (1 - 1 / iterations)  # the archive as it is before the last iteration
    train, score = (total([costs[name]] if name in costs else []) for name in ("train", "score"))
    by_rule = total([costs[name] for name in BY_RULE if name in costs])
    many = workers > 1
    held = {
        "sampling": sampling,
        "judging": judging,
        "start-up": len(stages) * expected.load_seconds * many,
        "copying": len(stages) * copied_bytes / workers / COPIED_BYTES_PER_SECOND * many,
    }
    alone = {
        "varying": by_rule.model_seconds + by_rule.judging_seconds,
        "planning": texts * expected.planning_seconds_per_text,
        "merging": texts * expected.merging_seconds_per_text * many,
        "training": train.model_seconds / max(1.0, min(gpus, expected.examples_per_step)),
        "scoring": score.model_seconds + score.judging_seconds,
    }
    hours = (workers * sum(held.values()) + sum(alone.values())) / 3600
    sampled = [cost for stage, cost in costs.items() if stage != "train"]
    return Plan(
        workers, gpus, held | alone, hours, gpus * alone["training"] / 3600, total(costs.values()).tokens,
        price(sampled, config.endpoint.prompt_price, config.endpoint.completion_price),
    )  # fmt: skip


def _chunk_texts(config: RunConfig, cost: StageCost) -> int:
    seconds = cost.model_seconds + cost.judging_seconds
    return config.chunk_texts or texts_in_a_minute(cost.texts, seconds)


PLAN_NOTE = (
    "The table shows the last iteration. A worker is a machine like this one (`run --shard`). A GPU is a device like\n"
    "the one that this machine trains on (`torchrun`). Workers share sampling and judging by whole chunks, and GPUs\n"
    "share training. A worker reads its share of the archive. Start-up, planning, varying, merging and scoring are\n"
    "not shared. Communication between the processes of a training is left out."
)


def plan_table(made: Sequence[Plan], width: int | None = None) -> str:
    """Estimates for different numbers of workers, one per row."""
    columns = (
        Column("workers", right=True), Column("GPUs", right=True), Column("seconds", right=True), Column("bottleneck"),
        Column("of it", right=True), Column("workers' hours", "worker h", right=True),
        Column("GPUs' hours", "GPU h", right=True), Column("tokens", right=True), Column("price", right=True),
    )  # fmt: skip
    rows = [
        [
            f"{each.workers:,}", f"{each.gpus:,}", f"{each.total_seconds:,.0f}", each.bottleneck,
            f"{each.seconds[each.bottleneck] / (each.total_seconds or 1):.0%}", f"{each.worker_hours:,.2f}",
            f"{each.gpu_hours:,.2f}", f"{each.tokens:,}", f"{each.price:,.2f}",
        ]
        for each in made
    ]  # fmt: skip
    return f"{Table(columns, rows).plain(width)}\n\n{PLAN_NOTE}"
