"""What an iteration has cost so far, and whether the budget allows another step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay.iteration.state import Run
from selfplay.run.rundir import SCORED_SETS
from selfplay.sampling.cost import StageCost, sampling_price, total
from selfplay.scoring.evaluate import chunk_cost, read_chunks


class BudgetSpent(Exception):
    """The budget is spent and the run ends here. Everything that was finished is kept."""


def check_budget(run: Run, iteration: int) -> None:
    """Check that the budget allows another step.

    Raises:
        BudgetSpent: It does not.
    """
    budget = run.config.budget
    if not (budget.seconds or budget.tokens or budget.price):
        return
    costs = iteration_costs(run, iteration)
    now = total(costs.values())
    spent = {
        "seconds": sum(done.seconds for done in run.done) + now.model_seconds + now.judging_seconds,
        "tokens": sum(done.tokens for done in run.done) + now.tokens,
        "price": sum(done.price for done in run.done) + sampling_price(run.config.endpoint, costs),
    }
    for name, value in spent.items():
        if (most := getattr(budget, name)) and value >= most:
            shown = f"{value:,}" if name == "tokens" else f"{value:,.{2 if name == 'price' else 1}f}"
            raise BudgetSpent(f"budget.{name}: {shown} of {most:,} are spent, in iteration {iteration}")


def iteration_costs(run: Run, iteration: int) -> dict[str, StageCost]:
    """What each stage of an iteration has cost so far, in all sessions, read from disk."""
    costs = {stage: stage_cost(sums) for stage, sums in run.archive.chunk_costs(iteration).items()}
    if run.rundir.checkpoint(iteration).exists():
        costs["train"] = training_cost(run.models.sampler(iteration).notes.get("training", {}))
    own = SCORED_SETS if run.ends_with(iteration) == iteration else ()
    lines = [line for name in own for line in read_chunks(run.rundir.samples(iteration, name))]
    costs["score"] = total(map(chunk_cost, lines))
    return costs


def training_cost(statistics: Mapping[str, Any]) -> StageCost:
    """The cost of a training, from the statistics kept beside its weights."""
    return StageCost(
        texts=statistics.get("sequences", 0), tokens=statistics.get("tokens", 0),
        model_seconds=statistics.get("seconds", 0.0), model_cpu_seconds=statistics.get("cpu_seconds", 0.0),
    )  # fmt: skip


def stage_cost(sums: Mapping[str, Any]) -> StageCost:
    """The cost of a stage, from the archive's sums over its chunks."""
    return StageCost(
        sums["texts"], sums["tokens"], sums["prompt_tokens"], sums["sampling_seconds"], sums["sampling_cpu_seconds"],
        sums["judging_seconds"], sums["judging_cpu_seconds"], sums.get("untold_texts", 0),
    )  # fmt: skip
