"""The parts of a sampled chunk: the settings and seed that its plan fixed, its texts, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from puzzles.archive.store import Chunk
from selfplay.sampling.cost import Watch
from selfplay.sampling.sampler import Sampled, Sampler, SamplingSettings


@dataclass(frozen=True)
class ChunkSamples:
    """A chunk's texts in order, and their cost, in the form that `Archive.set_completions` takes."""

    completions: Any
    batch_rows: int
    tokens: int
    prompt_tokens: int
    seconds: float
    cpu_seconds: float
    """CPU time of this whole process and of others that sampled. It includes judging here at the same time."""
    not_told: Mapping[str, int] = field(default_factory=dict)
    """What servers did not tell, as `Sampled.not_told`."""

    @classmethod
    def of(cls, completions: Any, sampled: Sampled, watch: Watch) -> ChunkSamples:
        """These texts, with the cost of what was sampled while the watch ran."""
        cpu_seconds = watch.cpu_seconds() + sampled.cpu_seconds
        return cls(
            completions, sampled.batch_rows, sampled.tokens, sampled.prompt_tokens, watch.seconds(), cpu_seconds,
            sampled.not_told,
        )  # fmt: skip


Sampling = Callable[[Callable[[int], object]], ChunkSamples]
"""The work that samples a chunk. Its argument is a function to call with the number of texts done since the last
call."""


def recorded_settings(settings: SamplingSettings, sampler: Sampler, protocol: str) -> dict[str, Any]:
    """The settings of a chunk, as its plan records them."""
    return {**vars(settings), **sampler.description, "protocol": protocol}


def planned_settings(chunk: Chunk) -> SamplingSettings:
    """The sampler's settings, out of a chunk's `recorded_settings`."""
    return SamplingSettings(**{item.name: chunk.settings[item.name] for item in fields(SamplingSettings)})


def planned_seed(chunk: Chunk) -> list[int]:
    """The recorded seed as integers for `SeedSequence`."""
    return [int(part) for part in chunk.seed.split("/")]
