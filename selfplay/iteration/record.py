"""The scores of an iteration, and its record, which is one line of `records.jsonl`."""

from __future__ import annotations

import logging
from typing import Any

from puzzles.foreign import read_bytes
from selfplay.iteration import champion, outlook
from selfplay.iteration.alarms import alarms, measures
from selfplay.iteration.budget import check_budget, iteration_costs
from selfplay.iteration.state import Run
from selfplay.run.rundir import SCORED_SETS, write_atomically
from selfplay.sampling.cost import counts, times, total, without_times
from selfplay.sampling.streams import Stream
from selfplay.scoring import shipped
from selfplay.scoring.evaluate import Questions, SetScores, evaluate

logger = logging.getLogger(__name__)


def score_stage(run: Run, iteration: int) -> dict[str, SetScores]:
    """Score the iteration's checkpoint on dev, and on held-out where `heldout_every` asks for it."""
    asked = run.config.scores_heldout(iteration)
    return {name: _scores(run, iteration, name) for name in SCORED_SETS if asked or name != "heldout"}


def _scores(run: Run, iteration: int, name: str) -> SetScores:
    check_budget(run, iteration)
    outlook.begin(run, iteration, outlook.SCORE[name])
    config, puzzles = run.config, run.sets[name]
    count = run.progress.counter(
        len(puzzles) * config.evaluate.samples_per_puzzle, f"iteration {iteration}: score {name}", "candidate"
    )
    # All iterations are scored with this seed: 0 stands in place of the iteration.
    seed = [config.seed, 0, Stream.SCORED_CANDIDATES, SCORED_SETS.index(name)]
    file, scored = run.rundir.samples(iteration, name), run.ends_with(iteration)
    earlier = run.rundir.samples(scored, name)
    if scored != iteration and not file.exists() and earlier.exists():  # unchanged weights are not scored again
        write_atomically(file, read_bytes(earlier).decode("utf-8"))
    # In iteration 0 nothing was recorded yet: the first candidates tell the rate.
    pace = run.minute(iteration, "score") if iteration else run.paced_by.samples(iteration, name)
    asked = Questions(
        puzzles, run.prompt_format, run.shots, config.evaluate, seed, config.batch_rows, config.chunk_texts, pace
    )
    sampler = run.models.sampler(scored)
    if scored == 0 and shipped.take(sampler, run.pool, asked, file):
        logger.info("%s: the scores of the shipped model come with the package", name)
    return evaluate(sampler, run.pool, asked, file, count, run.progress.note)


def record_of(run: Run, iteration: int, scores: dict[str, SetScores], seconds: float) -> dict[str, Any]:
    """The record of an iteration.

    Args:
        run: The run.
        iteration: Its number.
        scores: The scores of its checkpoint on each set.
        seconds: Time that this session spent on the iteration, in seconds.
    """
    sampler = run.models.sampler(run.ends_with(iteration))
    notes = sampler.notes if run.trains and run.rundir.checkpoint(run.ends_with(iteration)).is_dir() else {}
    training = notes.get("training", {})
    back = {"rolled_back_to": notes["rolled_back_to"]} if "rolled_back_to" in notes else {}
    costs, arithmetic = iteration_costs(run, iteration), sampler.arithmetic
    peaks = {} if arithmetic is None else dict.fromkeys(costs, arithmetic.peak_flops_per_second)
    if peaks.pop("train", None) and "peak_flops_per_second" in training:  # training may use another dtype
        peaks["train"] = training["peak_flops_per_second"]
    sampled = [cost for stage, cost in costs.items() if stage not in ("train", "score")]
    found = run.archive.iteration_counts(iteration)
    if not run.config.searches:
        del found["searched"]
    return {
        "iteration": iteration,
        "checkpoint": sampler.checkpoint,
        "reigns": _reigning(run, iteration),
        "collapse": {"alarms": alarms(run, iteration), **back, **measures(run, iteration)},
        "protocol": run.prompt_format.protocol,
        "prompt_format_hash": run.prompt_format.hash,
        **found,
        "training": without_times(training),
        **{name: score.to_json() for name, score in scores.items()},
        "sampler": sampler.description,
        "cost": counts(costs, arithmetic),
        "times": {
            "sampling": round(total(sampled).model_seconds, 2),
            "judging": round(total(sampled).judging_seconds, 2),
            "training": round(training.get("seconds", 0.0), 2),
            "scoring": round(costs["score"].model_seconds + costs["score"].judging_seconds, 2),
            "this_session": round(seconds, 2),
            "stages": times(costs, peaks),
        },
    }


def _reigning(run: Run, iteration: int) -> int:
    """Number of the checkpoint to sample from after a scored iteration."""
    if not run.trains or not run.config.gate or not iteration:
        return run.ends_with(iteration)
    counted = champion.dev_counts(run.rundir, [run.reigning, iteration])
    return iteration if champion.match(counted, 0, 1).is_won() else run.reigning
