"""The cost of work: texts and tokens, arithmetic, seconds of the clock and of the processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sandbox.pool import Pool
from selfplay.config import EndpointConfig
from selfplay.sampling.sampler import Arithmetic

STAGES = ("propose", "solve", "further", "vary", "search", "train", "score")
TRAINING_PASSES = 3
"""Cost of training, in forward passes: one forward, and twice as much backward (Kaplan et al., 2020,
arXiv:2001.08361)."""
TIMES = frozenset({
    "times",  # of records and scored chunks
    "added_at", "judge_cpu_seconds", "sampling_seconds", "sampling_cpu_seconds", "judging_seconds",
    "judging_cpu_seconds",  # columns of the archive
    "cpu_seconds",  # another column of the archive
    "seconds", "peak_flops_per_second",  # of a training
})  # fmt: skip
"""Columns and keys of times and rates. Only these may differ when the same work is done again."""


def without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are the same when the work is done again.

    Args:
        row: A record, a scored chunk, a training or a row of the archive.
    """
    return {key: value for key, value in row.items() if key not in TIMES}


class Watch:
    """Measures the seconds since it was made."""

    def __init__(self, cpu_clock: Callable[[], float] = time.process_time) -> None:
        self._cpu_clock = cpu_clock
        self._started, self._cpu_started = time.monotonic(), cpu_clock()

    def seconds(self) -> float:
        """Seconds of the clock."""
        return time.monotonic() - self._started

    def cpu_seconds(self) -> float:
        """Seconds of the processor."""
        return self._cpu_clock() - self._cpu_started


def judging_watch(pool: Pool) -> Watch:
    """A watch whose CPU seconds are those of this thread, which supervises, and of the pool."""
    return Watch(lambda: time.thread_time() + pool.cpu_seconds())


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage of an iteration, over all sessions."""

    texts: int = 0
    """Texts sampled, or trained on."""
    tokens: int = 0
    """Tokens sampled (without prompts), or trained on (with prompts)."""
    prompt_tokens: int = 0
    """Tokens of prompts read before sampling."""
    model_seconds: float = 0.0
    model_cpu_seconds: float = 0.0
    judging_seconds: float = 0.0
    judging_cpu_seconds: float = 0.0
    """CPU time of the supervisor, the zygotes and their children."""
    untold_texts: int = 0
    """Texts whose tokens a server did not tell. They are not among the tokens."""

    def __add__(self, other: StageCost) -> StageCost:
        return StageCost(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    def scaled_to(self, texts: float) -> StageCost:
        """The cost of another number of texts, in proportion."""
        factor = texts / max(1, self.texts)
        numbers = {name: value * factor for name, value in vars(self).items()}
        return StageCost(**{name: n if name.endswith("seconds") else round(n) for name, n in numbers.items()})

    def flops(self, stage: str, arithmetic: Arithmetic) -> int:
        """Floating-point operations of the model.

        Training counts as if it read every example by itself and trained every weight.
        """
        passes = TRAINING_PASSES if stage == "train" else 1
        return passes * (self.tokens + self.prompt_tokens) * arithmetic.flops_per_token


def total(costs: Iterable[StageCost]) -> StageCost:
    """Sum of the costs."""
    return sum(costs, StageCost())


def counts(costs: Mapping[str, StageCost], arithmetic: Arithmetic | None) -> dict[str, Any]:
    """The part of the costs that does not depend on the machine, by stage, as records keep it."""
    return {
        stage: {
            "texts": cost.texts,
            "tokens": cost.tokens,
            "prompt_tokens": cost.prompt_tokens,
            **({} if arithmetic is None else {"flops": cost.flops(stage, arithmetic)}),
            **({"untold_texts": cost.untold_texts} if cost.untold_texts else {}),
        }
        for stage, cost in costs.items()
    }


def times(costs: Mapping[str, StageCost], peaks: Mapping[str, float]) -> dict[str, Any]:
    """The part of the costs that depends on the machine, by stage: seconds, and the machine's peak if it is known."""
    return {
        stage: {name: round(value, 3) for name, value in vars(cost).items() if name.endswith("seconds")}
        | ({"peak_flops_per_second": round(peaks[stage])} if stage in peaks else {})
        for stage, cost in costs.items()
    }


def record_seconds(record: Mapping[str, Any]) -> float:
    """Seconds of an iteration's sampling, judging, training and scoring, added up. Interrupted work is not counted."""
    return float(sum(record["times"][part] for part in ("sampling", "judging", "training", "scoring")))


def price(costs: Iterable[StageCost], prompt_price: float, completion_price: float) -> float:
    """Price of the sampled tokens.

    Args:
        costs: Costs of the stages that sample.
        prompt_price: Price of a million tokens read.
        completion_price: Price of a million tokens written.
    """
    sampled = total(costs)
    return (sampled.prompt_tokens * prompt_price + sampled.tokens * completion_price) / 1e6


def record_costs(record: Mapping[str, Any]) -> dict[str, StageCost]:
    """Texts and tokens of an iteration by stage; empty if its record is from before costs were recorded."""
    counted = ("texts", "tokens", "prompt_tokens")
    return {
        stage: StageCost(**{name: cost[name] for name in counted}, untold_texts=cost.get("untold_texts", 0))
        for stage, cost in record.get("cost", {}).items()
    }


def record_rates(record: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Texts that an iteration sampled and judged, and the seconds that this took: by stage, and of `all` stages."""
    costs, seconds = record_costs(record), record.get("times", {}).get("stages", {})
    rates = {
        stage: (cost.texts, seconds[stage]["model_seconds"] + seconds[stage]["judging_seconds"])
        for stage, cost in costs.items()
        if stage != "train" and cost.texts and stage in seconds
    }
    return {**rates, "all": (sum(texts for texts, _ in rates.values()), sum(spent for _, spent in rates.values()))}


def record_stage_seconds(record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each stage of an iteration; empty if its record is from before they were recorded."""
    stages = record.get("times", {}).get("stages", {})
    return {stage: float(spent["model_seconds"] + spent["judging_seconds"]) for stage, spent in stages.items()}


def record_tokens(record: Mapping[str, Any]) -> int:
    """Tokens that an iteration sampled and trained on; 0 if its record is from before costs were recorded."""
    return int(sum(stage["tokens"] for stage in record.get("cost", {}).values()))


def sampling_price(config: EndpointConfig, costs: Mapping[str, StageCost]) -> float:
    """The price of what an iteration's stages sampled, in the unit of the settings' prices; training is free."""
    sampled = [cost for stage, cost in costs.items() if stage != "train"]
    return price(sampled, config.prompt_price, config.completion_price)
