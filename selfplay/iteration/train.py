"""The training of an iteration: what it learns, where it starts, and the checkpoint it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from puzzles.puzzle import InputError
from selfplay.iteration import outlook
from selfplay.iteration.alarms import answer
from selfplay.iteration.budget import check_budget
from selfplay.iteration.state import Run
from selfplay.iteration.teach import Teaching, first_teaching, teaching
from selfplay.sampling.streams import Stream
from selfplay.training.backend import Training

LACKING = {
    "filtered": "no right text has a reward above the mean of its role",
    "grpo": "no text has a reward that differs from its group's",
    "dpo": "no puzzle has both an accepted and a failed candidate",
    "spin": "the model wrote no text to set against a verified pair",
}
"""What is missing, by objective, when there is nothing to train on."""


def nothing_to_train(protocol: str, objective: str = "sft") -> str:
    """The message for a training without lessons: what is missing and what may help."""
    lacking = LACKING.get(objective, f"no verified pair can be written after the {protocol} prompt")
    references = "" if objective in ("filtered", "grpo", "dpo") else ", or set data.references = true"
    return (
        f"there is nothing to train on: {lacking}; raise propose.proposals or solve.candidates_per_puzzle{references}"
    )


def teach_stage(run: Run, iteration: int) -> Training:
    """Choose what the iteration learns, and record the pairs.

    Raises:
        Collapsed: The puzzles have collapsed, and `collapse.action` is `stop`.
        InputError: There is nothing to train on.
    """
    check_budget(run, iteration)
    outlook.begin(run, iteration, outlook.TRAIN)
    action = answer(run, iteration)
    config = replace(run.config.finetune, beta=(run.config.finetune.beta_of(iteration),))
    balance = config.balance == "niches" or action == "rebalance"
    begins_with = run.best() if action == "rollback" else run.reigning
    rng = np.random.default_rng([run.config.seed, iteration, Stream.TRAINING_TEXTS])

    def tokens_of(text: str) -> int:  # loads the model only for the objectives that ask
        return run.models.sampler(run.reigning).tokens_of(text)

    with run.archive.transaction():
        if action == "rollback":
            run.archive.roll_back(begins_with, iteration)
        taught = teaching(
            run.archive, run.pool, run.config, iteration, run.prompt_format, run.shots, tokens_of, rng, balance
        )
        if not taught.lessons and action != "rollback":
            raise InputError(f"iteration {iteration}: {nothing_to_train(run.prompt_format.protocol, config.objective)}")
        run.archive.add_trained(iteration, taught.pairs)
    run.archive.sync()  # after a power cut, no checkpoint may be left without the record of its pairs
    # If a rollback leaves nothing to learn, the best weights stay as they are.
    start = run.models.place(begins_with if config.start == "previous" or not taught.lessons else 0)
    notes = _notes(run, iteration, taught, start)
    notes |= {"rolled_back_to": begins_with} if action == "rollback" else {}
    return Training(
        start, taught.lessons, config, run.config.model, [run.config.seed, iteration, Stream.TRAINING_ORDER], notes
    )


def first_training(run: Run) -> Training:
    """The training before the first proposal, on the pairs that the run begins with, which it records.

    Raises:
        InputError: None of these pairs can be learned.
    """
    check_budget(run, 0)
    outlook.begin(run, 0, outlook.TRAIN)
    own = run.config.finetune
    config = replace(own, objective="sft", max_steps=own.first_steps, epochs=float(own.first_steps))
    rng = np.random.default_rng([run.config.seed, 0, Stream.TRAINING_TEXTS])
    with run.archive.transaction():
        taught = first_teaching(run.archive, run.config, run.prompt_format, run.shots, rng)
        if not taught.lessons:
            raise InputError(f"finetune.first_steps: {nothing_to_train(run.prompt_format.protocol)}")
        run.archive.add_trained(0, taught.pairs)
    run.archive.sync()
    notes = _notes(run, 0, taught, run.config.model.path)
    seed = [run.config.seed, 0, Stream.TRAINING_ORDER]
    return Training(run.config.model.path, taught.lessons, config, run.config.model, seed, notes)


def _notes(run: Run, iteration: int, taught: Teaching, start: str | Path) -> dict[str, Any]:
    """What is kept beside the new weights."""
    return {
        "protocol": run.prompt_format.protocol, "prompt_format": run.prompt_format.to_json(), "iteration": iteration,
        "pairs": len(taught.pairs), "started_from": str(start),
        "shots": [[puzzle.source, solution.source] for puzzle, solution in run.shots],
        "limits": {"cpu_seconds": run.config.sandbox.cpu_seconds},
    }  # fmt: skip


def train_stage(run: Run, iteration: int, training: Training) -> None:
    """Train and write the iteration's checkpoint."""
    run.models.release()
    bar: list[Callable[..., object]] = []

    def plan(steps: int) -> None:
        bar.append(run.progress.counter(steps, f"iteration {iteration}: fine-tune", "step"))

    def stepped(tokens: int, loss: float, learning_rate: float) -> None:
        bar[0](1)
        run.progress.trained(iteration, tokens, loss, learning_rate)

    run.models.backend.finetune(training, run.rundir.checkpoint(iteration), stepped, plan)
