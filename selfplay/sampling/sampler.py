"""The interface of all engines that turn prompts into texts. No torch here.

`completions_P_K[p][k]` is completion k of prompt p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from selfplay.config import SamplingConfig
from selfplay.sampling.prompts import Prompt


@dataclass(frozen=True)
class SamplingSettings:
    """How text is sampled."""

    temperature: float
    """Sampling temperature; 0 is greedy."""
    top_p: float
    max_tokens: int
    """Token limit of one completion."""
    batch_rows: int
    """Sequences side by side. A setting, because it changes rounding and so the samples."""


def settings_of(stage: SamplingConfig, batch_rows: int, sampler: Sampler) -> SamplingSettings:
    """A stage's settings for sampling. With 0 batch rows the sampler chooses their number."""
    rows = batch_rows or sampler.batch_rows(stage.max_tokens)
    return SamplingSettings(stage.temperature, stage.top_p, stage.max_tokens, rows)


@dataclass(frozen=True)
class Drawn:
    """The tokens in which a text was sampled."""

    ids: tuple[int, ...]
    """Token ids, with the one that ended the text."""
    ended: str
    """`token`: the last id is an end token. `line`: the last id begins or holds a line that is not indented, where the
    function has ended. `cut`: the text met its token limit."""


@dataclass(frozen=True)
class Completion:
    """One sampled text, after the prompt."""

    text: str
    """What the tokens of prompt and text decode to, without what those of the prompt decode to."""
    tokens: int | None
    """None if a server does not tell."""
    finished: bool | None
    """Whether the text ended by itself, not at `max_tokens`; None if a server does not tell."""
    drawn: Drawn | None = None
    """Its tokens; None if they are not known, as with a server."""


@dataclass(frozen=True)
class Sampled:
    """The result of one call of `sample`."""

    completions_P_K: list[list[Completion]]
    prompt_tokens: int = 0
    """Tokens of prompts that were read. If the engine shares prompts among completions, each counts about once."""
    batch_rows: int = 0
    """Sequences side by side at the end: fewer than requested if the memory did not suffice."""
    cpu_seconds: float = 0.0
    """CPU time of other processes, as far as it is known."""
    prompts_not_told: int = 0
    """Requests for which a server did not tell the tokens of the prompt. `prompt_tokens` is without them."""
    asked_again: int = field(default=0, compare=False)
    """Requests that were sent again after a server or a connection had failed."""

    @property
    def tokens(self) -> int:
        """Number of tokens that were sampled, as far as it is known."""
        return sum(completion.tokens or 0 for row in self.completions_P_K for completion in row)

    @property
    def not_told(self) -> dict[str, int]:
        """What servers did not tell: in how many completions or requests, by name. Empty if everything is known."""
        completions = [completion for row in self.completions_P_K for completion in row]
        counts = {
            "tokens": sum(completion.tokens is None for completion in completions),
            "prompt_tokens": self.prompts_not_told,
            "ends": sum(completion.finished is None for completion in completions),
        }
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class Arithmetic:
    """Operations that a model needs, and the peak of its machine."""

    flops_per_token: int
    """Forward pass: 2 for each parameter that multiplies (Kaplan et al., 2020, arXiv:2001.08361), without attention."""
    peak_flops_per_second: float
    """Measured speed of a large matrix product in the model's dtype."""


class Sampler(Protocol):
    """Anything that continues prompts."""

    @property
    def checkpoint(self) -> str:
        """Hash of the weights and tokenizer."""

    @property
    def notes(self) -> dict[str, Any]:
        """Notes that were saved beside the weights, such as the protocol they were trained with."""

    @property
    def description(self) -> dict[str, Any]:
        """What else the samples depend on: dtype, device, threads and versions."""

    @property
    def overlap(self) -> int:
        """How many chunks it samples at the same time while others are judged; 0 if it needs the judges' cores."""

    @property
    def arithmetic(self) -> Arithmetic | None:
        """Operations and peak, to compute the used share of the machine; None if they are not known."""

    def batch_rows(self, max_tokens: int) -> int:
        """How many completions of this length to sample side by side in the free memory."""

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the model's context."""

    def tokens_of(self, completion: str) -> int:
        """Number of tokens in a completion's text, without the end token."""

    def is_border(self, text: str, place: int) -> bool:
        """Whether a text can be cut here for the model to continue: no token spans the place, as far as is known."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = ...,
        numbers: Sequence[int] | None = None,
    ) -> Sampled:
        """`copies` completions of each prompt. The same arguments give the same texts on one machine.

        With `numbers` a text is drawn by the seed and its own number. So, but for rounding, it does not depend on what
        else is sampled in the same call. Without them the seed is of this call alone.

        Args:
            prompts: The prompts.
            copies: Number of completions of each.
            settings: How text is sampled.
            seed: Integers. Calls with numbers may share them.
            progress: Called with the number of completions done since the last call.
            numbers: The number of each prompt's first completion; the next one has the next number.
        """


def numbered(prompts: int, copies: int, first: int | None) -> list[int] | None:
    """The number of each prompt's first completion, if all are counted in order from `first` on; None without it."""
    return None if first is None else [first + place * copies for place in range(prompts)]


def chances(seed: Sequence[int], numbers_N: Sequence[int], tokens: int) -> np.ndarray:
    """Random numbers in [0, 1), a row `NM` of so many tokens for each text, by the seed and the text's number alone.

    Each row is a stretch of its own of one Philox sequence (Salmon et al., 2011), in which any place can be reached at
    once: 4,096 rows of 96 numbers take .03 s.
    """
    bits = np.random.Philox(key=np.random.SeedSequence(list(seed)).generate_state(2, np.uint64))
    generator, state = np.random.Generator(bits), bits.state
    drawn_NM = np.empty((len(numbers_N), tokens))
    for row_M, number in zip(drawn_NM, numbers_N, strict=True):
        state["state"]["counter"][:] = (0, 0, 0, number)
        bits.state = state
        generator.random(out=row_M)
    return drawn_NM


def sample_fitting(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    copies: int,
    settings: SamplingSettings,
    seed: Sequence[int],
    progress: Callable[[int], object] = lambda done: None,
    first: int | None = None,
) -> Sampled:
    """As `Sampler.sample`, with no completions for a prompt that does not fit the model's context.

    If given, `first` is the number of the first text. Those of prompts that do not fit are counted too.
    """
    fitting = [index for index, prompt in enumerate(prompts) if sampler.fits(prompt, settings.max_tokens)]
    chosen, numbers = [prompts[index] for index in fitting], numbered(len(prompts), copies, first)
    own = numbers and [numbers[index] for index in fitting]
    sampled = sampler.sample(chosen, copies, settings, seed, progress, own) if fitting else Sampled([])
    progress((len(prompts) - len(fitting)) * copies)
    by_index = dict(zip(fitting, sampled.completions_P_K, strict=True))
    return replace(sampled, completions_P_K=[by_index.get(index, []) for index in range(len(prompts))])
