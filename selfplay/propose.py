"""The proposer: few puzzles in, new ones out, each admitted or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from puzzles.archive import AddStatus, Archive, Chunk, Provenance
from puzzles.parse import ParseFailure, parse_puzzles
from puzzles.puzzle import InputError, Puzzle
from puzzles.verify import Refusal, admit
from sandbox.pool import Pool
from selfplay.chunks import ChunkSamples, Sampling, planned_seed, planned_settings, recorded_settings
from selfplay.config import RunConfig
from selfplay.cost import Watch, judging_watch
from selfplay.prompts import Prompt, propose_prompt
from selfplay.sampler import Sampler, settings_of

STAGE = "propose"


def plan(archive: Archive, iteration: int, config: RunConfig, protocol: str, sampler: Sampler) -> None:
    """Fix the iteration's proposal chunks: which puzzles stand in which prompt, and each chunk's seed.

    Raises:
        InputError: Not even a prompt without puzzles leaves room for a proposal in the model's context.
    """
    if not sampler.fits(propose_prompt(protocol), config.propose.max_tokens):
        raise InputError(f"propose.max_tokens: {config.propose.max_tokens} tokens do not fit the model's context")
    per_prompt = min(config.propose.proposals_per_prompt, max(1, config.propose.proposals))
    full, rest = divmod(config.propose.proposals, per_prompt)
    prompts = full + (rest > 0)
    parents = archive.solved_ids(before_iteration=iteration)
    rng = np.random.default_rng([config.seed, iteration, 0])
    shots = 0 if protocol == "plain" else min(config.prompt.shots, len(parents))
    drawn = [[parents[i] for i in rng.choice(len(parents), shots, replace=False)] for _ in range(prompts)]
    drawn = [_fitting(archive, sampler, config, protocol, shown) for shown in drawn]
    settings = recorded_settings(settings_of(config.propose, config.batch_rows, sampler), sampler, protocol)
    per_chunk = max(1, config.chunk_texts // per_prompt)
    with archive.transaction():
        contents = [
            {"shots": drawn[start : min(full, start + per_chunk)], "copies": per_prompt}
            for start in range(0, full, per_chunk)
        ]
        contents += [{"shots": drawn[full:], "copies": rest}] if rest else []
        for number, content in enumerate(contents):
            seed = f"{config.seed}/{iteration}/1/{number}"
            archive.plan_chunk(iteration, STAGE, number, sampler.checkpoint, seed, settings, content)


def _fitting(archive: Archive, sampler: Sampler, config: RunConfig, protocol: str, drawn: list[str]) -> list[str]:
    """The first of the drawn puzzles, as many as leave room for a proposal in the model's context."""
    puzzles = [archive.puzzle(identifier) for identifier in drawn]
    while puzzles and not sampler.fits(propose_prompt(protocol, puzzles), config.propose.max_tokens):
        puzzles.pop()
    return drawn[: len(puzzles)]


def sampling(archive: Archive, chunk: Chunk, sampler: Sampler, protocol: str) -> Sampling:
    """The work of a planned chunk; once begun it does not touch the archive."""
    prompts = [
        propose_prompt(protocol, [archive.puzzle(identifier) for identifier in shots]) for shots in chunk.plan["shots"]
    ]
    copies = chunk.plan["copies"]
    # Equal prompts (all, with the plain protocol) are sampled as one, so that batches are full.
    distinct = list(dict.fromkeys(prompts))
    asked, each = (distinct, copies * len(prompts)) if len(distinct) == 1 else (prompts, copies)

    def work(progress: Callable[[int], object]) -> ChunkSamples:
        watch = Watch()
        sampled = sampler.sample(asked, each, planned_settings(chunk), planned_seed(chunk), progress)
        texts = [completion.text for row in sampled.completions_P_K for completion in row]
        return ChunkSamples.of(texts, sampled, watch)

    return work


def judge(archive: Archive, chunk: Chunk, pool: Pool, protocol: str) -> None:
    """Parse and admit a sampled chunk's proposals; add the admitted puzzles that the archive's guard lets pass."""
    assert chunk.completions is not None
    watch = judging_watch(pool)
    prompt: Prompt = propose_prompt(protocol)
    parsed = parse_puzzles(pool, [prompt.parsed_text(text) for text in chunk.completions])
    known = {identifier for (identifier,) in archive.query("SELECT id FROM puzzles")}
    fresh: dict[str, Puzzle] = {}
    for puzzle in parsed:
        if isinstance(puzzle, Puzzle) and puzzle.id not in known and archive.guard.hit(puzzle) is None:
            fresh.setdefault(puzzle.id, puzzle)
    refusals = dict(zip(fresh, admit(pool, list(fresh.values())), strict=True))
    archive.guard.examine(pool, [puzzle for puzzle in fresh.values() if refusals[puzzle.id] is None])
    with archive.transaction():
        for position, puzzle in enumerate(parsed):
            outcome, detail = _outcome(archive, chunk, position, puzzle, refusals)
            identifier = puzzle.id if isinstance(puzzle, Puzzle) else None
            archive.add_proposal(chunk.id, position, outcome, detail, identifier)
        archive.set_judged(chunk.id, watch.seconds(), watch.cpu_seconds())


def _outcome(
    archive: Archive,
    chunk: Chunk,
    position: int,
    puzzle: Puzzle | ParseFailure,
    refusals: dict[str, Refusal | None],
) -> tuple[str, str]:
    if isinstance(puzzle, ParseFailure):
        return puzzle.rule, puzzle.detail
    refusal = refusals.get(puzzle.id)
    if refusal is not None:
        return refusal.reason, refusal.detail
    assert chunk.completions is not None
    parents = tuple(chunk.plan["shots"][position // chunk.plan["copies"]])
    original = chunk.completions[position]
    provenance = Provenance("model", chunk.iteration, chunk.id, position, parents, original=original)
    status = archive.add_puzzle(puzzle, provenance)
    if status is AddStatus.HELD_OUT:
        return "held_out", archive.guard_reason or ""
    return ("admitted" if status else "duplicate"), ""
