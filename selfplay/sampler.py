"""Prompt to text, whatever the engine. No torch here.

`completions_P_K[p][k]` is candidate k for prompt p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from selfplay.prompts import Prompt


@dataclass(frozen=True)
class SamplingSettings:
    """How text is drawn."""

    temperature: float
    """0 is greedy."""
    top_p: float
    max_tokens: int
    """Of one completion."""
    batch_rows: int
    """Sequences side by side; part of the settings because it changes rounding, and so the samples."""


@dataclass(frozen=True)
class Completion:
    """One sampled text, after the prompt."""

    text: str
    tokens: int
    finished: bool
    """Whether it ended by itself, not by `max_tokens`."""


class Sampler(Protocol):
    """Anything that continues prompts."""

    @property
    def checkpoint(self) -> str:
        """Hash of the weights and tokenizer."""

    @property
    def notes(self) -> dict[str, Any]:
        """What was saved beside the weights, such as the protocol they were trained with."""

    @property
    def description(self) -> dict[str, Any]:
        """What else the samples depend on: dtype, device, threads, versions."""

    @property
    def overlap(self) -> bool:
        """Whether it leaves the processor to the judges, so that both may work at the same time."""

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the model's context."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = ...,
    ) -> list[list[Completion]]:
        """`copies` completions of each prompt; the same arguments give the same texts on one machine.

        `progress` is called with the number of completions done since the last call.
        """


class ScriptedSampler:
    """A sampler whose texts a function writes; for tests of everything around a model."""

    checkpoint = "scripted"
    notes: dict[str, Any] = {"protocol": "plain"}
    description: dict[str, Any] = {"engine": "scripted"}
    overlap = False

    def __init__(self, write: Callable[[Prompt, np.random.Generator], str]) -> None:
        self._write = write

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Always."""
        return True

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None,
    ) -> list[list[Completion]]:
        """What the function writes, with randomness of the seed alone."""
        rng = np.random.default_rng(list(seed))
        progress(len(prompts) * copies)
        return [
            [Completion(text, len(text.split()), True) for text in (self._write(prompt, rng) for _ in range(copies))]
            for prompt in prompts
        ]
