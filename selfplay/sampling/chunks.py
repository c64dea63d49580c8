"""The size of a chunk, and its parts: the settings and seed that its plan fixed, its texts, and their cost.

Without a set size, a chunk is about a minute of work, and at least 256 texts. Where work is cut then does not change a
text, but for rounding: the stage has one seed, and a text is drawn by its number in the stage. Chunks of a set size
have a seed each, as all chunks of older runs have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from puzzles.archive.store import Archive, Chunk
from puzzles.puzzle import InputError
from selfplay.config import RunConfig
from selfplay.sampling.cost import Watch
from selfplay.sampling.prompts import PromptFormat
from selfplay.sampling.sampler import Drawn, Sampled, Sampler, SamplingSettings

CHUNK_SECONDS = 60.0
"""Time that a chunk should take: sampling and judging."""
FEWEST_CHUNK_TEXTS = 1024
"""Texts of the smallest chunk, and of the one by which the rate is measured.

Fewer texts side by side take longer each, and at a chunk's end few are left. Two cores sample 992 texts of SmolLM2 in
two thirds of the time that chunks of 256 take, and a text in a chunk of 16 takes eight times as long as one in a chunk
of 256. So chunks must not become small because a machine was busy when the rate was measured.
"""
MOST_CHUNK_TEXTS = 4096
"""Texts of the largest chunk: four times as many as are sampled side by side at most."""


def texts_in_a_minute(texts: int, seconds: float) -> int:
    """How many texts a chunk should have if these took so many seconds.

    A power of four, from `FEWEST_CHUNK_TEXTS` to `MOST_CHUNK_TEXTS`, so that measurements of one model on one machine
    nearly always give the same number.
    """
    expected = CHUNK_SECONDS * max(1, texts) / max(seconds, 1e-3)
    return min(MOST_CHUNK_TEXTS, max(FEWEST_CHUNK_TEXTS, int(4 ** round(math.log(expected, 4)))))


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
    drawn: Mapping[str, Any] | None = None
    """The tokens of the texts in the form that the archive keeps; None if those of any text are not known."""

    @classmethod
    def of(cls, completions: Any, sampled: Sampled, watch: Watch) -> ChunkSamples:
        """These texts, with the cost of what was sampled while the watch ran."""
        cpu_seconds = watch.cpu_seconds() + sampled.cpu_seconds
        return cls(
            completions, sampled.batch_rows, sampled.tokens, sampled.prompt_tokens, watch.seconds(), cpu_seconds,
            sampled.not_told, _kept(sampled),
        )  # fmt: skip


def _kept(sampled: Sampled) -> dict[str, Any] | None:
    drawn = [completion.drawn for row in sampled.completions_P_K for completion in row]
    known = [each for each in drawn if each is not None]
    if not known or len(known) < len(drawn):
        return None
    return {"ids": [list(each.ids) for each in known], "ended": [each.ended for each in known]}


def drawn_tokens(archive: Archive, chunk: Chunk) -> dict[int, Drawn]:
    """The tokens of a chunk's texts by position; empty if they were not kept."""
    kept, texts = archive.drawn(chunk.id), chunk.completions or []
    if kept is None:
        return {}
    copies = chunk.plan["copies"]
    if "puzzles" in chunk.plan:
        positions = [place * copies + number for place, row in enumerate(texts) for number in range(len(row))]
    else:
        positions = list(range(len(texts)))
    if len(positions) != len(kept["ids"]):
        raise InputError(
            f"{archive.path}, chunk {chunk.id}, token_ids: expected those of {len(positions)} texts, "
            f"got those of {len(kept['ids'])}"
        )
    rows = zip(positions, kept["ids"], kept["ended"], strict=True)
    return {position: Drawn(tuple(ids), ended) for position, ids, ended in rows}


Sampling = Callable[[Callable[[int], object]], ChunkSamples]
"""The work that samples a chunk. Its argument is a function to call with the number of texts done since the last
call."""


def recorded_settings(
    settings: SamplingSettings, sampler: Sampler, prompt_format: PromptFormat, minute: int
) -> dict[str, Any]:
    """The settings of a chunk, as its plan records them, with the size of the stage's chunks if it was measured.

    `prompts.kept_format` reads how its prompts are written.
    """
    written = {"protocol": prompt_format.protocol, "prompt_format": prompt_format.to_json()}
    measured = {"chunk_texts": minute} if minute else {}
    return {**vars(settings), **sampler.description, **written, **measured}


def chunk_seed(config: RunConfig, iteration: int, stream: int, number: int) -> str:
    """The seed of a chunk of a `Stream`, as its plan records it."""
    of_stage = f"{config.seed}/{iteration}/{stream}"
    return f"{of_stage}/{number}" if config.chunk_texts else of_stage


def planned_settings(chunk: Chunk) -> SamplingSettings:
    """The sampler's settings, out of a chunk's `recorded_settings`."""
    return SamplingSettings(**{item.name: chunk.settings[item.name] for item in fields(SamplingSettings)})


def planned_seed(chunk: Chunk) -> list[int]:
    """The recorded seed as integers for `SeedSequence`."""
    return [int(part) for part in chunk.seed.split("/")]


def first_number(chunk: Chunk) -> int | None:
    """The number of the chunk's first text in its stage; None if the chunk has a seed of its own."""
    first: int | None = chunk.plan.get("first")
    return first
