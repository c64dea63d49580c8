"""What an iteration would take of many workers, from the rates of a forecast.

The model is plain. A worker is a machine like this one, which does a part of the chunks (`run --shard`); no worker has
less than one whole chunk, and all wait for the slowest at the end of each stage. What a worker does anew for each part,
to load the model, to copy the archive and to plan, does not get less by more workers; nor does merging, which one
machine does, nor scoring. Training is divided by the processes that torchrun begins, as far as a step has examples for
them; what they tell each other is left out. Sampling and judging follow each other where the model is on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.config import RunConfig
from selfplay.experiments.forecast import Forecast
from selfplay.iteration import solve
from selfplay.sampling.cost import price, total
from selfplay.text import render

COPIED_BYTES_PER_SECOND = 200e6
"""Of an archive on a file system that many read at once; assumed, and the one rate that is not measured."""
IN_PARTS = ("propose", *solve.STAGES)


@dataclass(frozen=True)
class Plan:
    """One iteration of so many workers."""

    workers: int
    gpus: int
    seconds: dict[str, float]
    """By what takes them, one after the other."""
    worker_hours: float
    """Of all workers, for as long as they are held, and of the one that merges, trains and scores."""
    gpu_hours: float
    """Of training."""
    tokens: int
    """Sampled and trained on."""
    price: float
    """Of what servers read and write, by the endpoint's prices."""

    @property
    def total_seconds(self) -> float:
        """From an iteration's begin to its end."""
        return sum(self.seconds.values())

    @property
    def bottleneck(self) -> str:
        """What takes most of it."""
        return max(self.seconds, key=lambda name: self.seconds[name])


def plan(expected: Forecast, config: RunConfig, workers: int, gpus: int) -> Plan:
    """The last iteration, whose training is the longest, by so many workers.

    Args:
        expected: Of a run on this machine.
        config: Of the run.
        workers: Machines like this one that sample and judge.
        gpus: Processes that train, each on a device such as this machine trains on.
    """
    costs = expected.iterations[-1]
    stages = {stage: costs[stage] for stage in IN_PARTS if stage in costs and costs[stage].texts}
    # Of each stage, what the busiest worker has.
    shares = {
        stage: math.ceil(chunks / workers) / chunks
        for stage, cost in stages.items()
        for chunks in [math.ceil(cost.texts / config.chunk_texts)]
    }
    sampling = sum(cost.model_seconds * shares[stage] for stage, cost in stages.items())
    judging = sum(cost.judging_seconds * shares[stage] for stage, cost in stages.items())
    if expected.overlap:  # what takes less is done meanwhile
        sampling, judging = (sampling, 0.0) if sampling > judging else (0.0, judging)
    texts = sum(cost.texts for cost in stages.values())
    iterations = max(1, len(expected.iterations) - 1)
    copied_bytes = expected.archive_bytes * (1 - 1 / iterations)  # what was there before
    vary, train, score = (total([costs[name]] if name in costs else []) for name in ("vary", "train", "score"))
    many = workers > 1
    held = {
        "sampling": sampling,
        "judging": judging,
        "varying": vary.model_seconds + vary.judging_seconds,
        "planning": texts * expected.planning_seconds_per_text,
        "start-up": len(stages) * expected.load_seconds * many,
        "copying": len(stages) * copied_bytes / COPIED_BYTES_PER_SECOND * many,
    }
    alone = {
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


PLAN_NOTE = (
    "Of the last iteration. A worker is a machine like this one (`run --shard`), a GPU a device such as this one\n"
    "trains on (`torchrun`). Divided are sampling and judging, by whole chunks, and training; not start-up, copying,\n"
    "planning, varying, merging and scoring. What workers say to each other in training is left out."
)


def plan_table(made: Sequence[Plan]) -> str:
    """Iterations of other numbers of workers beside each other."""
    heading = ["workers", "GPUs", "seconds", "bottleneck", "of it", "workers' hours", "GPUs' hours", "tokens", "price"]
    rows = [
        [
            f"{each.workers:,}", f"{each.gpus:,}", f"{each.total_seconds:,.0f}", each.bottleneck,
            f"{each.seconds[each.bottleneck] / (each.total_seconds or 1):.0%}", f"{each.worker_hours:,.2f}",
            f"{each.gpu_hours:,.2f}", f"{each.tokens:,}", f"{each.price:,.2f}",
        ]
        for each in made
    ]  # fmt: skip
    return f"{render([heading, *rows], right=[0, 1, 2, 4, 5, 6, 7, 8])}\n\n{PLAN_NOTE}"
