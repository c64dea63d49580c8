"""What work costs: texts and tokens, arithmetic, seconds of the clock and of the processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sandbox.pool import Pool
from selfplay.config import EndpointConfig
from selfplay.sampling.sampler import Arithmetic

STAGES = ("propose", "solve", "further", "vary", "train", "score")
TRAINING_PASSES = 3
"""Forward, and twice as much backward (Kaplan et al., 2020, arXiv:2001.08361)."""
TIMES = frozenset({
    "times",  # of records and scored chunks
    "added_at", "judge_cpu_seconds", "sampling_seconds", "sampling_cpu_seconds", "judging_seconds",
    "judging_cpu_seconds",  # columns of the archive
    "cpu_seconds",  # one of them, too
    "seconds", "peak_flops_per_second",  # of a training
})  # fmt: skip
"""Columns and keys of times and rates: all that may differ when the same is done again."""


def without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same when it is done again: of a record, a scored chunk, a training or a row of the archive."""
    return {key: value for key, value in row.items() if key not in TIMES}


class Watch:
    """Seconds since it was made."""

    def __init__(self, cpu_clock: Callable[[], float] = time.process_time) -> None:
        self._cpu_clock = cpu_clock
        self._started, self._cpu_started = time.monotonic(), cpu_clock()

    def seconds(self) -> float:
        """By the clock."""
        return time.monotonic() - self._started

    def cpu_seconds(self) -> float:
        """Of the processor."""
        return self._cpu_clock() - self._cpu_started


def judging_watch(pool: Pool) -> Watch:
    """Of this thread, which supervises, and the pool."""
    return Watch(lambda: time.thread_time() + pool.cpu_seconds())


@dataclass(frozen=True)
class StageCost:
    """What a stage of an iteration came to, in all sessions."""

    texts: int = 0
    """Sampled, or trained on."""
    tokens: int = 0
    """Sampled, without prompts; or trained on, with them."""
    prompt_tokens: int = 0
    """Read before sampling."""
    model_seconds: float = 0.0
    model_cpu_seconds: float = 0.0
    judging_seconds: float = 0.0
    judging_cpu_seconds: float = 0.0
    """Of the supervisor, the zygotes and their children."""

    def __add__(self, other: StageCost) -> StageCost:
        return StageCost(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    def scaled_to(self, texts: float) -> StageCost:
        """What another number of texts would cost."""
        factor = texts / max(1, self.texts)
        numbers = {name: value * factor for name, value in vars(self).items()}
        return StageCost(**{name: n if name.endswith("seconds") else round(n) for name, n in numbers.items()})

    def flops(self, stage: str, arithmetic: Arithmetic) -> int:
        """Floating-point operations of the model, as if training read every example alone and trained every weight."""
        passes = TRAINING_PASSES if stage == "train" else 1
        return passes * (self.tokens + self.prompt_tokens) * arithmetic.flops_per_token


def total(costs: Iterable[StageCost]) -> StageCost:
    """The sum."""
    return sum(costs, StageCost())


def counts(costs: Mapping[str, StageCost], arithmetic: Arithmetic | None) -> dict[str, Any]:
    """What does not depend on the machine, by stage, as records keep it."""
    return {
        stage: {
            "texts": cost.texts,
            "tokens": cost.tokens,
            "prompt_tokens": cost.prompt_tokens,
            **({} if arithmetic is None else {"flops": cost.flops(stage, arithmetic)}),
        }
        for stage, cost in costs.items()
    }


def times(costs: Mapping[str, StageCost], peaks: Mapping[str, float]) -> dict[str, Any]:
    """What does, by stage: seconds, and the peak of the stage's arithmetic if it is known."""
    return {
        stage: {name: round(value, 3) for name, value in vars(cost).items() if name.endswith("seconds")}
        | ({"peak_flops_per_second": round(peaks[stage])} if stage in peaks else {})
        for stage, cost in costs.items()
    }


def record_seconds(record: Mapping[str, Any]) -> float:
    """What an iteration's sampling, judging, training and scoring took, added up; what was cut off is not in it."""
    return float(sum(record["times"][part] for part in ("sampling", "judging", "training", "scoring")))


def price(costs: Iterable[StageCost], prompt_price: float, completion_price: float) -> float:
    """What tokens that were sampled cost.

    Args:
        costs: Of the stages that sample.
        prompt_price: Of a million tokens read.
        completion_price: Of a million tokens written.
    """
    sampled = total(costs)
    return (sampled.prompt_tokens * prompt_price + sampled.tokens * completion_price) / 1e6


def record_costs(record: Mapping[str, Any]) -> dict[str, StageCost]:
    """Texts and tokens of an iteration by stage; none if its record is from before costs were kept."""
    counted = ("texts", "tokens", "prompt_tokens")
    return {
        stage: StageCost(**{name: cost[name] for name in counted}) for stage, cost in record.get("cost", {}).items()
    }


def record_tokens(record: Mapping[str, Any]) -> int:
    """What an iteration sampled and trained on; 0 if its record is from before costs were kept."""
    return int(sum(stage["tokens"] for stage in record.get("cost", {}).values()))


def sampling_price(config: EndpointConfig, costs: Mapping[str, StageCost]) -> float:
    """The price of what an iteration's stages sampled, in the unit of the settings' prices; training is free."""
    sampled = [cost for stage, cost in costs.items() if stage != "train"]
    return price(sampled, config.prompt_price, config.completion_price)
