"""The archive as a proposer: puzzles made from its puzzles and the model's own answers, each verified with its solution.

A wrong answer is right for the same condition with other constants (hindsight), two puzzles ask together or one of the
other's value (recombination). Nothing is sampled: the answer is known before the puzzle is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from puzzles.archive import CONTAMINATED, QUARANTINED, AddStatus, Archive, Chunk, Provenance
from puzzles.parse import ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle, Verdict, VerifiedPair
from puzzles.variation import Variation, varied
from puzzles.verify import Refusal, admit, verify
from sandbox.pool import Pool
from selfplay.chunks import ChunkSamples
from selfplay.config import RunConfig
from selfplay.cost import Watch, judging_watch
from selfplay.sampler import Sampled

STAGE = "vary"
INAPPLICABLE = "inapplicable"
"""Outcome of a variation that the rules cannot make."""


def plan(archive: Archive, iteration: int, config: RunConfig, checkpoint: str) -> None:
    """Fix the iteration's variations: of which puzzles, for which answer, and each one's seed."""
    rng = np.random.default_rng([config.seed, iteration, 6])
    ways = config.vary.ways
    number = config.vary.variations
    chosen = [item for place, way in enumerate(ways)
              for item in _drawn(archive, iteration, way, (number + place) // len(ways), rng)]  # fmt: skip
    order = rng.permutation(len(chosen))
    contents = [{"variations": [chosen[i] for i in order[start : start + config.chunk_texts]]}
                for start in range(0, len(chosen), config.chunk_texts)]  # fmt: skip
    with archive.transaction():
        for place, content in enumerate(contents):
            archive.plan_chunk(iteration, STAGE, place, checkpoint, f"{config.seed}/{iteration}/6/{place}", {}, content)


def _drawn(archive: Archive, iteration: int, way: str, number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """So many variations of one kind, drawn anew each time, as many distinct ones as there are."""
    wrong = _wrong_answers(archive, iteration)
    parents, answers = _parents(archive)
    every = [puzzle for puzzles in parents.values() for puzzle in puzzles]
    drawn: dict[str, dict[str, Any]] = {}
    if (way == "hindsight" and not wrong) or (way != "hindsight" and len(every) < 2):
        return []
    while len(drawn) < number:
        if way == "hindsight":
            puzzle, answer = wrong[rng.integers(len(wrong))]
            puzzles = [puzzle]
        else:
            first, kind = every[rng.integers(len(every))]
            others = parents[kind] if way == "join" else every
            puzzles = [first, others[rng.integers(len(others))][0]]
            answer = answers[kind][rng.integers(len(answers[kind]))]
        if len(puzzles) == len(set(puzzles)):
            seed = int(rng.integers(2**31))
            drawn[str(seed)] = {"how": way, "puzzles": puzzles, "answer": answer, "seed": seed}
        else:
            number -= 1
    return list(drawn.values())


def _wrong_answers(archive: Archive, iteration: int) -> list[tuple[str, str]]:
    """Puzzles and answers of this iteration's candidates that were rejected; each puzzle's distinct answers."""
    rows = archive.query(
        "SELECT DISTINCT k.puzzle, k.answer FROM candidates k JOIN chunks c ON c.id = k.chunk JOIN puzzles p ON"
        f" p.id = k.puzzle WHERE c.iteration = ? AND k.verdict = 'wrong_answer' AND k.answer IS NOT NULL"
        f" AND length(k.answer) < 60 AND NOT {CONTAMINATED} ORDER BY 1, 2",
        iteration,
    )
    return [(row[0], row[1]) for row in rows]


def _parents(archive: Archive) -> tuple[dict[str, list[tuple[str, str]]], dict[str, list[str]]]:
    """Solved puzzles by answer type, and their answers."""
    parents: dict[str, list[tuple[str, str]]] = {}
    answers: dict[str, list[str]] = {}
    for row in archive.query(
        f"SELECT p.id, p.answer_type, s.answer FROM solutions s JOIN puzzles p ON p.id = s.puzzle WHERE NOT {QUARANTINED}"
        " AND s.answer IS NOT NULL AND length(s.answer) < 60 ORDER BY s.rowid"
    ):
        kinds = parents.setdefault(row[1], [])
        if not kinds or kinds[-1][0] != row[0]:
            kinds.append((row[0], row[1]))
        answers.setdefault(row[1], []).append(row[2])
    return parents, answers


def make(archive: Archive, chunk: Chunk, pool: Pool) -> ChunkSamples:
    """The texts of a planned chunk's variations; empty where the rules do not apply."""
    watch = Watch()
    sources: dict[str, str] = {}

    def source(identifier: str) -> str:
        if identifier not in sources:
            sources[identifier] = archive.puzzle(identifier).source
        return sources[identifier]

    variations = [
        Variation(item["how"], tuple(map(source, item["puzzles"])), item["answer"], item["seed"])
        for item in chunk.plan["variations"]
    ]
    return ChunkSamples.of([text or "" for text in varied(pool, variations)], Sampled([]), watch)


def judge(archive: Archive, chunk: Chunk, pool: Pool, protections: dict[str, object]) -> None:
    """Parse, admit and guard the chunk's puzzles as a model's, verify each with its answer, and add what holds."""
    assert chunk.completions is not None
    watch = judging_watch(pool)
    parsed = parse_puzzles(pool, [Text(text) for text in chunk.completions])
    known = {identifier for (identifier,) in archive.query("SELECT id FROM puzzles")}
    fresh: dict[str, tuple[Puzzle, str]] = {}
    for puzzle, item in zip(parsed, chunk.plan["variations"], strict=True):
        if isinstance(puzzle, Puzzle) and puzzle.id not in known and archive.guard.hit(puzzle) is None:
            fresh.setdefault(puzzle.id, (puzzle, item["answer"]))
    refusals = dict(zip(fresh, admit(pool, [puzzle for puzzle, _ in fresh.values()]), strict=True))
    admitted = [pair for pair in fresh.values() if refusals[pair[0].id] is None]
    archive.guard.examine(pool, [puzzle for puzzle, _ in admitted])
    verified = _verified(pool, admitted)
    with archive.transaction():
        for position, (puzzle, item) in enumerate(zip(parsed, chunk.plan["variations"], strict=True)):
            text = chunk.completions[position]
            provenance = Provenance(
                "variant", chunk.iteration, chunk.id, position, tuple(item["puzzles"]), original=text
            )
            outcome, detail = _outcome(archive, puzzle, text, provenance, refusals, verified, protections)
            identifier = puzzle.id if isinstance(puzzle, Puzzle) else None
            archive.add_proposal(chunk.id, position, outcome, detail, identifier)
        archive.set_judged(chunk.id, watch.seconds(), watch.cpu_seconds())


def _verified(pool: Pool, pairs: Sequence[tuple[Puzzle, str]]) -> dict[str, VerifiedPair | str]:
    """By the puzzle's id: the pair, or the verdict that its answer got."""
    candidates = parse_candidates(pool, [Text(f"def g():\n    return {answer}") for _, answer in pairs])
    asked = [(p, c) for (p, _), c in zip(pairs, candidates, strict=True) if isinstance(c, Candidate)]
    return {
        puzzle.id: VerifiedPair(puzzle, candidate, judgement)
        if judgement.verdict == Verdict.ACCEPTED
        else str(judgement.verdict)
        for (puzzle, candidate), judgement in zip(asked, verify(pool, asked), strict=True)
    }


def _outcome(
    archive: Archive,
    puzzle: Puzzle | ParseFailure,
    text: str,
    provenance: Provenance,
    refusals: dict[str, Refusal | None],
    verified: dict[str, VerifiedPair | str],
    protections: dict[str, object],
) -> tuple[str, str]:
    if isinstance(puzzle, ParseFailure):
        return (puzzle.rule, puzzle.detail) if text else (INAPPLICABLE, "")
    if (refusal := refusals.get(puzzle.id)) is not None:
        return refusal.reason, refusal.detail
    pair = verified.get(puzzle.id)
    if isinstance(pair, str):
        return pair, ""
    if pair is None:
        hit = archive.guard.hit(puzzle)
        return ("held_out", str(hit)) if hit else ("duplicate", "")
    status = archive.add(pair, provenance, protections)
    return ("held_out", archive.guard_reason or "") if status is AddStatus.HELD_OUT else (
        "admitted" if status else "duplicate", "")  # fmt: skip
