"""What a sampled chunk of work is made of: the settings and seed fixed by its plan, its texts and their cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from puzzles.archive.store import Chunk
from selfplay.sampling.cost import Watch
from selfplay.sampling.sampler import Sampled, Sampler, SamplingSettings


@dataclass(frozen=True)
class ChunkSamples:
    """A chunk's texts in its own order, and what they cost; as `Archive.set_completions` takes them."""

    completions: Any
    batch_rows: int
    tokens: int
    prompt_tokens: int
    seconds: float
    cpu_seconds: float
    """Of the whole process, and of others that sampled; what judged here at the same time is in it."""

    @classmethod
    def of(cls, completions: Any, sampled: Sampled, watch: Watch) -> ChunkSamples:
        """These texts of what was sampled while the watch ran."""
        cpu_seconds = watch.cpu_seconds() + sampled.cpu_seconds
        return cls(completions, sampled.batch_rows, sampled.tokens, sampled.prompt_tokens, watch.seconds(), cpu_seconds)


Sampling = Callable[[Callable[[int], object]], ChunkSamples]
"""A chunk's work; it is given a function to call with the number of texts done since the last call."""


def recorded_settings(settings: SamplingSettings, sampler: Sampler, protocol: str) -> dict[str, Any]:
    """As a chunk keeps them from its plan on."""
    return {**vars(settings), **sampler.description, "protocol": protocol}


def planned_settings(chunk: Chunk) -> SamplingSettings:
    """Those of `recorded_settings` that are asked of a sampler."""
    return SamplingSettings(**{item.name: chunk.settings[item.name] for item in fields(SamplingSettings)})


def planned_seed(chunk: Chunk) -> list[int]:
    """The recorded seed as integers for `SeedSequence`."""
    return [int(part) for part in chunk.seed.split("/")]
