"""What the loop asks of a model and its trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.run.resources import TrainingNeeds
from selfplay.sampling.sampler import Sampler
from selfplay.training.select import Lesson


@dataclass(frozen=True)
class Training:
    """One training: where it starts, what it learns, and how."""

    start: str | Path
    """The checkpoint to start from. It is also the reference of an objective that compares two models."""
    lessons: Sequence[Lesson]
    """What to learn. All are of one kind, which decides the objective: `Example` (`sft`, `filtered`), `Contrast`
    (`spin`, `dpo`) or `Graded` (`grpo`). With no lessons the weights stay as they are."""
    config: FinetuneConfig
    """How to train. Only the first number of `beta` counts."""
    model_config: ModelConfig
    """The device and its threads; weights are trained in float32."""
    seed: Sequence[int]
    """Draws the order of the lessons and the dropout."""
    notes: dict[str, Any]
    """Kept beside the new weights."""


class Backend(Protocol):
    """A model and its trainer."""

    def load(self, checkpoint: str | Path, config: ModelConfig) -> Sampler:
        """Load a checkpoint as a sampler."""

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """Say how much memory and disk a training takes that starts from this sampler's model."""

    def finetune(
        self,
        training: Training,
        folder: Path,
        progress: Callable[[int, float, float], object],
        plan: Callable[[int], object],
    ) -> Any:
        """Train, and save the new checkpoint as `folder`, complete or not at all.

        Args:
            training: What to do.
            folder: Where the new checkpoint goes.
            progress: Called after each step with its tokens, loss and learning rate.
            plan: Called once, before the first step, with the number of steps.

        Returns:
            Statistics, as a dataclass.
        """
