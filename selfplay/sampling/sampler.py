"""Prompt to text, whatever the engine. No torch here.

`completions_P_K[p][k]` is candidate k for prompt p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from selfplay.config import SamplingConfig
from selfplay.sampling.prompts import Prompt


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


def settings_of(stage: SamplingConfig, batch_rows: int, sampler: Sampler) -> SamplingSettings:
    """How a stage draws; with 0 batch rows, as many as the sampler finds right."""
    rows = batch_rows or sampler.batch_rows(stage.max_tokens)
    return SamplingSettings(stage.temperature, stage.top_p, stage.max_tokens, rows)


@dataclass(frozen=True)
class Completion:
    """One sampled text, after the prompt."""

    text: str
    tokens: int
    finished: bool
    """Whether it ended by itself, not by `max_tokens`."""


@dataclass(frozen=True)
class Sampled:
    """What became of a request."""

    completions_P_K: list[list[Completion]]
    prompt_tokens: int = 0
    """That were read: of each prompt once, or little more, if the engine shares it among its completions."""
    batch_rows: int = 0
    """Side by side in the end: fewer than asked for if the memory did not suffice."""
    cpu_seconds: float = 0.0
    """Of processes other than this one, as far as they are known."""

    @property
    def tokens(self) -> int:
        """That were drawn."""
        return sum(completion.tokens for row in self.completions_P_K for completion in row)


@dataclass(frozen=True)
class Arithmetic:
    """What a model computes, and what its machine could."""

    flops_per_token: int
    """Forward: 2 for each parameter that multiplies (Kaplan et al., 2020, arXiv:2001.08361); attention left out."""
    peak_flops_per_second: float
    """A large matrix product in the model's dtype, measured."""


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
    def overlap(self) -> int:
        """How many chunks it samples at the same time while others are judged; 0 where it needs the judges' cores."""

    @property
    def arithmetic(self) -> Arithmetic | None:
        """For the share of the machine that is used; None where nobody knows."""

    def batch_rows(self, max_tokens: int) -> int:
        """How many completions of that length are best sampled side by side in the memory that is free."""

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the model's context."""

    def tokens_of(self, completion: str) -> int:
        """How many tokens a completion's text comes to, without its end."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = ...,
    ) -> Sampled:
        """`copies` completions of each prompt; the same arguments give the same texts on one machine.

        `progress` is called with the number of completions done since the last call.
        """


def sample_fitting(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    copies: int,
    settings: SamplingSettings,
    seed: Sequence[int],
    progress: Callable[[int], object] = lambda done: None,
) -> Sampled:
    """As `Sampler.sample`, with no completions for a prompt that does not fit the model's context."""
    fitting = [index for index, prompt in enumerate(prompts) if sampler.fits(prompt, settings.max_tokens)]
    chosen = [prompts[index] for index in fitting]
    sampled = sampler.sample(chosen, copies, settings, seed, progress) if fitting else Sampled([])
    progress((len(prompts) - len(fitting)) * copies)
    by_index = dict(zip(fitting, sampled.completions_P_K, strict=True))
    return replace(sampled, completions_P_K=[by_index.get(index, []) for index in range(len(prompts))])


class ScriptedSampler:
    """A sampler whose texts a function writes; for tests of everything around a model."""

    checkpoint = "scripted"
    notes: dict[str, Any] = {"protocol": "plain"}
    description: dict[str, Any] = {"engine": "scripted"}
    overlap = False
    arithmetic = None

    def __init__(self, write: Callable[[Prompt, np.random.Generator], str]) -> None:
        self._write = write

    def batch_rows(self, max_tokens: int) -> int:
        """Any number."""
        return 64

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Always."""
        return True

    def tokens_of(self, completion: str) -> int:
        """Its words."""
        return len(completion.split())

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None,
    ) -> Sampled:
        """What the function writes, with randomness of the seed alone."""
        rng = np.random.default_rng(list(seed))
        progress(len(prompts) * copies)
        texts_P_K = [[self._write(prompt, rng) for _ in range(copies)] for prompt in prompts]
        completions_P_K = [[Completion(text, len(text.split()), True) for text in texts_K] for texts_K in texts_P_K]
        return Sampled(completions_P_K, sum(len(prompt.text.split()) for prompt in prompts), settings.batch_rows)
