"""A sampler without a model: a function writes its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from selfplay.sampling.prompts import Prompt
from selfplay.sampling.sampler import Completion, Sampled, SamplingSettings


class ScriptedSampler:
    """A sampler whose texts are written by a function. For tests of everything around a model."""

    checkpoint = "scripted"
    notes: dict[str, Any] = {"protocol": "plain"}
    description: dict[str, Any] = {"engine": "scripted"}
    overlap = False
    arithmetic = None

    def __init__(self, write: Callable[[Prompt, np.random.Generator], str]) -> None:
        self._write = write

    def batch_rows(self, max_tokens: int) -> int:
        """A constant, because the number does not matter here."""
        return 64

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Always true."""
        return True

    def tokens_of(self, completion: str) -> int:
        """Number of words."""
        return len(completion.split())

    def is_border(self, text: str, place: int) -> bool:
        """Always true."""
        return True

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None,
        numbers: Sequence[int] | None = None,
    ) -> Sampled:
        """Texts that the function writes. Their randomness comes only from the seed and their numbers."""
        rng = np.random.default_rng(list(seed))
        progress(len(prompts) * copies)
        texts_P_K = [
            [
                self._write(prompt, np.random.default_rng([*seed, numbers[p] + k]) if numbers else rng)
                for k in range(copies)
            ]
            for p, prompt in enumerate(prompts)
        ]
        completions_P_K = [[Completion(text, len(text.split()), True) for text in texts_K] for texts_K in texts_P_K]
        return Sampled(completions_P_K, sum(len(prompt.text.split()) for prompt in prompts), settings.batch_rows)
