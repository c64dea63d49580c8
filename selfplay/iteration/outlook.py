"""The stages of an iteration as a person who waits sees them, and how long those will take that are left."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from selfplay.config import RunConfig
from selfplay.iteration.solve import targets
from selfplay.iteration.state import Run
from selfplay.run.progress import Later
from selfplay.sampling.cost import record_rates, record_stage_seconds

logger = logging.getLogger(__name__)

PROPOSE, VARY, SOLVE, FURTHER, SEARCH, TRAIN = "propose", "vary", "solve", "solve further", "search", "fine-tune"
SCORE = {"dev": "score dev", "heldout": "score held-out"}
COST_OF = {PROPOSE: "propose", VARY: "vary", SOLVE: "solve", FURTHER: "further", SEARCH: "search", TRAIN: "train"}
"""Keys of a record's costs by stage. Both scored sets share the key `score`."""


def begin(run: Run, iteration: int, stage: str) -> None:
    """Say that a stage of an iteration begins, with its number and how long everything after it takes."""
    stages = stages_of(run.config, iteration)
    number = stages.index(stage) + 1
    text = f"iteration {iteration} of {run.config.iterations} · {stage} ({number} of {len(stages)})"
    logger.info(text)
    run.progress.step(text, _later(run, iteration, stages[number:]))


def stages_of(config: RunConfig, iteration: int) -> list[str]:
    """The stages of an iteration in their order."""
    learns = config.finetune.trains if iteration else config.finetune.first_steps > 0
    wanted = {
        PROPOSE: iteration > 0, VARY: iteration > 0 and config.vary.variations > 0, SOLVE: iteration > 0,
        FURTHER: iteration > 0 and config.solve.further_puzzles > 0,
        SEARCH: iteration > 0 and config.searches, TRAIN: learns, SCORE["dev"]: True,
        SCORE["heldout"]: config.scores_heldout(iteration),
    }  # fmt: skip
    return [stage for stage, is_wanted in wanted.items() if is_wanted]


def _later(run: Run, iteration: int, stages: list[str]) -> Later | None:
    """How long the stages that are left of an iteration take, and all later iterations; None if nothing is known."""
    if run.recorded is None:
        return None
    known = _seconds(run, run.recorded)
    left = [*stages, *(stage for later in range(iteration + 1, run.config.iterations + 1)
                       for stage in stages_of(run.config, later))]  # fmt: skip
    return Later(sum(known.get(stage, 0.0) for stage in left), all(stage in known for stage in left))


def _seconds(run: Run, record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by stage, as the last iteration took them. After iteration 0, which only scores, at its rate."""
    config, spent = run.config, record_stage_seconds(record)
    puzzles = {name: len(items) for name, items in run.sets.items()}
    scored = {
        SCORE[name]: spent.get("score", 0.0) * number / sum(number for key, number in puzzles.items() if key in record)
        for name, number in puzzles.items()
    }
    if record["iteration"]:
        return scored | {stage: spent[key] for stage, key in COST_OF.items() if key in spent}
    texts, seconds = record_rates(record)["all"]
    own = config.solve
    tried = len(targets(run.archive, 0, config)) + config.propose.proposals
    sampled = {
        PROPOSE: config.propose.proposals, VARY: config.vary.variations, SOLVE: tried * own.candidates_per_puzzle,
        FURTHER: min(tried, own.further_puzzles) * own.further_candidates,
        SEARCH: min(tried, config.search.most_puzzles) * config.search.programs_per_puzzle,
    }  # fmt: skip
    return scored | {stage: number * seconds / max(1, texts) for stage, number in sampled.items()}
