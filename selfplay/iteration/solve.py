"""The solver: it writes many candidates for each puzzle, and each candidate is judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from puzzles.archive.store import CONTAMINATED, OWN, QUARANTINED, Archive, Chunk, Provenance
from puzzles.parse import parse_candidates
from puzzles.puzzle import Candidate, Judgement, Verdict, VerifiedPair
from puzzles.verify import too_slow_to_judge
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.sampling.chunks import (
    ChunkSamples,
    Sampling,
    chunk_seed,
    first_number,
    planned_seed,
    planned_settings,
    recorded_settings,
)
from selfplay.sampling.cost import Watch, judging_watch
from selfplay.sampling.judging import judge_texts
from selfplay.sampling.prompts import PromptFormat, solve_prompt
from selfplay.sampling.sampler import Sampler, sample_fitting, settings_of
from selfplay.sampling.shots import Pair, prompt_for
from selfplay.sampling.streams import Stream

STAGE = "solve"
FURTHER = "further"
"""The stage after `solve`: more candidates for the puzzles where they are worth most."""
STAGES = (STAGE, FURTHER)
TRIED = "p.origin IN ('human', 'import')"
"""Training puzzles that the model may try. Pairs by rule are not tried: there is no end of them."""


def targets(archive: Archive, iteration: int, config: RunConfig) -> list[str]:
    """Ids of the puzzles to try: those that this iteration proposed or varied, and training puzzles as configured."""
    proposed = archive.puzzle_ids(f"{OWN.format('p.origin')} AND p.iteration = ? AND NOT {CONTAMINATED}", iteration)
    return proposed + _training_targets(archive, iteration, config)


def _training_targets(archive: Archive, iteration: int, config: RunConfig) -> list[str]:
    which, most = config.solve.training_puzzles, config.solve.most_training
    if which == "none":
        return []
    unsolved = "EXISTS (SELECT 1 FROM solutions s WHERE s.puzzle = p.id AND s.iteration < ?)"
    condition, known = (f"NOT {unsolved}", [iteration]) if which == "unsolved" else ("1", [])
    chosen = archive.puzzle_ids(f"{TRIED} AND NOT {CONTAMINATED} AND {condition}", *known)
    if not most or len(chosen) <= most:
        return chosen
    tried = {
        puzzle: (accepted, count)
        for puzzle, accepted, count in archive.query(
            "SELECT k.puzzle, sum(k.verdict = 'accepted'), count(*) FROM candidates k JOIN chunks c ON c.id = k.chunk"
            " WHERE c.iteration < ? GROUP BY 1",
            iteration,
        )
    }
    rng = np.random.default_rng([config.seed, iteration, Stream.TARGETS])
    worth = np.array([worth_further(*tried.get(puzzle, (0, 0))) for puzzle in chosen])
    drawn = rng.choice(len(chosen), most, replace=False, p=worth / worth.sum())
    return [chosen[place] for place in sorted(drawn)]


def worth_further(accepted: int, tried: int) -> float:
    """How much more candidates of a puzzle are expected to teach, given those tried so far; 0 or more.

    It is the mean of p (1 - p)^2 over the posterior of the solve rate p (a Beta distribution with Jeffreys' prior). The
    factor p is the chance of a right candidate. The factor 1 - p is the chance of a wrong one to set against it. The
    second 1 - p makes a hard puzzle worth more than an easy one. Learnability p (1 - p) is from arXiv:2408.15099. Of 8
    candidates, 3 right ones give the largest value.
    """
    right, wrong = accepted + 0.5, tried - accepted + 0.5
    both = right + wrong
    return right * wrong * (wrong + 1) / (both * (both + 1) * (both + 2))


def promising(archive: Archive, iteration: int, count: int) -> list[str]:
    """The `count` puzzles for which more candidates are worth most, by the iteration's first candidates."""
    rows = archive.query(
        "SELECT k.puzzle, sum(k.verdict = 'accepted'), count(*) FROM candidates k JOIN chunks c ON c.id = k.chunk"
        " WHERE c.iteration = ? AND c.stage = ? GROUP BY 1 ORDER BY 1",
        iteration,
        STAGE,
    )
    ordered = sorted(rows, key=lambda row: worth_further(row[1], row[2]), reverse=True)
    return [row[0] for row in ordered[:count]]


def plan(
    archive: Archive, iteration: int, chosen: Sequence[str], config: RunConfig, prompt_format: PromptFormat,
    sampler: Sampler, stage: str = STAGE, minute: int = 0,
) -> None:  # fmt: skip
    """Plan the iteration's solving chunks: the puzzles in each, and its seed.

    A chunk has `config.chunk_texts` texts, or if that is 0 as many as a `minute` has.
    """
    own, texts = config.solve, config.chunk_texts or minute
    settings = recorded_settings(settings_of(own, config.batch_rows, sampler), sampler, prompt_format, minute)
    copies, stream = own.candidates_per_puzzle, Stream.CANDIDATES
    if stage != STAGE:
        copies, stream = own.further_candidates, Stream.FURTHER_CANDIDATES
    per_chunk = max(1, texts // copies)
    with archive.transaction():
        for number, start in enumerate(range(0, len(chosen), per_chunk)):
            content = {"puzzles": chosen[start : start + per_chunk], "copies": copies}
            content |= {} if config.chunk_texts else {"first": start * copies}
            seed = chunk_seed(config, iteration, stream, number)
            archive.plan_chunk(iteration, stage, number, sampler.checkpoint, seed, settings, content)


def asked_puzzles(plan: dict[str, Any]) -> set[str]:
    """Ids of the puzzles that a planned chunk has candidates for."""
    return {*plan["puzzles"]}


def sampling(
    archive: Archive, chunk: Chunk, sampler: Sampler, prompt_format: PromptFormat, shots: Sequence[Pair]
) -> Sampling:
    """The sampling of a planned chunk, as work that does not touch the archive once it has begun."""
    prompts = [prompt_for(prompt_format, archive.puzzle(identifier), shots) for identifier in chunk.plan["puzzles"]]

    def work(progress: Callable[[int], object]) -> ChunkSamples:
        watch, copies = Watch(), chunk.plan["copies"]
        settings, seed, first = planned_settings(chunk), planned_seed(chunk), first_number(chunk)
        sampled = sample_fitting(sampler, prompts, copies, settings, seed, progress, first)
        texts_P_K = [[completion.text for completion in row] for row in sampled.completions_P_K]
        return ChunkSamples.of(texts_P_K, sampled, watch)

    return work


def text_at(chunk: Chunk, position: int) -> str | None:
    """A candidate's text; None if the chunk has none at that position."""
    place, number = divmod(position, chunk.plan["copies"])
    texts_P_K = chunk.completions or []
    return str(texts_P_K[place][number]) if place < len(texts_P_K) and number < len(texts_P_K[place]) else None


def made_here(archive: Archive, puzzles: Sequence[str]) -> set[str]:
    """Ids of the puzzles among these that the run has made itself."""
    condition = f"{OWN.format('p.origin')} AND p.id IN (SELECT value FROM json_each(?))"
    return set(archive.puzzle_ids(condition, json.dumps(list(puzzles))))


def strictly(pool: Pool, judgement: Judgement) -> Judgement:
    """The judgement of a puzzle that the run made itself; `unstable` if it came too near to the CPU limit.

    Near the limit the verdict might differ on another machine.
    """
    if not too_slow_to_judge(pool, judgement):
        return judgement
    detail = "confirm: over half the CPU limit, too near to it for a proposed puzzle"
    return replace(judgement, verdict=Verdict.UNSTABLE, detail=detail)


def judge(
    archive: Archive,
    chunk: Chunk,
    pool: Pool,
    prompt_format: PromptFormat,
    shots: Sequence[Pair],
    protections: dict[str, object],
) -> None:
    """Judge a sampled chunk's candidates, keep all of them, and add the verified pairs."""
    assert chunk.completions is not None
    watch = judging_watch(pool)
    puzzles = [archive.puzzle(identifier) for identifier in chunk.plan["puzzles"]]
    own = made_here(archive, chunk.plan["puzzles"])
    prompts = [prompt_for(prompt_format, puzzle, shots) for puzzle in puzzles]
    judged_P_K = judge_texts(pool, puzzles, prompts, chunk.completions)
    copies = chunk.plan["copies"]
    with archive.transaction():
        for p, (puzzle, judged_K) in enumerate(zip(puzzles, judged_P_K, strict=True)):
            for k, (candidate, judgement) in enumerate(judged_K):
                position = p * copies + k
                judgement = strictly(pool, judgement) if puzzle.id in own else judgement
                archive.add_candidate(chunk.id, position, puzzle.id, candidate, judgement)
                if candidate is not None and judgement.verdict == Verdict.ACCEPTED:
                    provenance = Provenance("model", chunk.iteration, chunk.id, position)
                    archive.add(VerifiedPair(puzzle, candidate, judgement), provenance, protections)
        archive.set_judged(chunk.id, watch.seconds(), watch.cpu_seconds())


def unverified_pairs(
    archive: Archive,
    pool: Pool,
    prompt_format: PromptFormat,
    written_in: Sequence[int],
    most_per_puzzle: int,
    shortest: bool = True,
) -> list[Pair]:
    """The model's own puzzles with distinct candidates from these iterations, whatever their verdicts.

    They are chosen like verified pairs: at most so many per puzzle, the shortest or any. Texts are parsed again,
    because the archive keeps them as they were sampled. Puzzles in quarantine are left out.
    """
    own = archive.puzzle_ids(f"p.origin = 'model' AND NOT {QUARANTINED}")
    puzzles = {identifier: archive.puzzle(identifier) for identifier in own}
    found: dict[str, dict[str, Candidate]] = {identifier: {} for identifier in own}
    written = f"stage IN {STAGES} AND judged AND iteration IN (SELECT value FROM json_each(?))"
    for (number,) in archive.query(f"SELECT id FROM chunks WHERE {written} ORDER BY id", json.dumps([*written_in])):
        chunk = archive.chunk(number)
        assert chunk.completions is not None
        flat = [
            (identifier, solve_prompt(prompt_format, puzzles[identifier]).parsed_text(text))
            for identifier, texts in zip(chunk.plan["puzzles"], chunk.completions, strict=True)
            for text in texts
            if identifier in puzzles
        ]
        candidates = parse_candidates(pool, [text for _, text in flat])
        for (identifier, _), candidate in zip(flat, candidates, strict=True):
            if isinstance(candidate, Candidate):
                found[identifier].setdefault(candidate.id, candidate)
    return [
        (puzzles[identifier], candidate)
        for identifier, distinct in found.items()
        for candidate in sorted(distinct.values(), key=lambda each: (len(each.source) * shortest, each.id))[
            :most_per_puzzle
        ]
    ]
