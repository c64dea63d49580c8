"""The archive as a proposer: new puzzles are made from its puzzles and the model's answers, for the model to solve.

Hindsight changes constants of a puzzle so that a wrong answer becomes right. Easing may also leave out some of what the
puzzle asks. Recombination asks two puzzles together, or asks one puzzle about the value that another computes. Nothing
is sampled. The answer is known before the puzzle is made, so every puzzle has one. The model does not learn from that
answer, because it did not find it as a solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from puzzles.archive.store import QUARANTINED, AddStatus, Archive, Chunk, Provenance
from puzzles.parse import ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle, Verdict, VerifiedPair
from puzzles.rules.variation import FITTED, Variation, varied
from puzzles.verify import Refusal, too_slow_to_judge, verify
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration.propose import admission
from selfplay.sampling.chunks import ChunkSamples
from selfplay.sampling.cost import Watch, judging_watch
from selfplay.sampling.sampler import Sampled
from selfplay.sampling.streams import Stream

STAGE = "vary"
ANY = "any type"
MOST_ANSWER_CHARACTERS = 60
INAPPLICABLE = "inapplicable"
"""Outcome of a text that the rules cannot make."""


def plan(archive: Archive, iteration: int, config: RunConfig, checkpoint: str, minute: int = 0) -> None:
    """Plan the iteration's variations: the puzzles, the answer and the seed of each.

    A chunk has `config.chunk_texts` of them, or if that is 0 as many as a `minute` has.
    """
    per_chunk = config.chunk_texts or minute
    rng = np.random.default_rng([config.seed, iteration, Stream.VARIATIONS])
    stock = _Stock(archive, iteration)
    ways = [way for way in config.vary.ways if way not in FITTED or stock.wrong]
    drawn = [stock.draw(ways[number % len(ways)], rng) for number in range(config.vary.variations if ways else 0)]
    chosen = [variation for variation in drawn if variation]
    with archive.transaction():
        for number, start in enumerate(range(0, len(chosen), per_chunk)):
            content = {"variations": chosen[start : start + per_chunk]}
            seed = f"{config.seed}/{iteration}/{Stream.VARIATIONS}/{number}"
            archive.plan_chunk(iteration, STAGE, number, checkpoint, seed, {}, content)


class _Stock:
    """The stock of variations: solved puzzles, their answers, and the wrong answers of the iteration before."""

    def __init__(self, archive: Archive, iteration: int) -> None:
        rows = archive.query(
            "SELECT p.id, p.origin, p.answer_type, s.answer FROM solutions s JOIN puzzles p ON p.id = s.puzzle"
            f" WHERE NOT {QUARANTINED} AND length(s.answer) <= ? ORDER BY p.number, s.number",
            MOST_ANSWER_CHARACTERS,
        )
        self._answers: dict[str, list[str]] = {}
        self._puzzles: dict[tuple[str, str], dict[str, None]] = {}
        for identifier, origin, kind, answer in rows:
            self._answers.setdefault(kind, []).append(answer)
            for group in (kind, ANY):
                self._puzzles.setdefault((group, origin), {})[identifier] = None
        self._kinds = {identifier: kind for identifier, _, kind, _ in rows}
        self.wrong: dict[str, dict[str, list[str]]] = {}
        """By the puzzles' origin and by puzzle: the wrong answers that the model gave in the iteration before."""
        for origin, identifier, answer in archive.query(
            "SELECT DISTINCT p.origin, k.puzzle, k.answer FROM candidates k JOIN chunks c ON c.id = k.chunk"
            " JOIN puzzles p ON p.id = k.puzzle WHERE c.iteration = ? AND k.verdict = 'wrong_answer'"
            f" AND length(k.answer) <= ? AND NOT {QUARANTINED} ORDER BY 1, 2, 3",
            iteration - 1,
            MOST_ANSWER_CHARACTERS,
        ):
            self.wrong.setdefault(origin, {}).setdefault(identifier, []).append(answer)

    def draw(self, way: str, rng: np.random.Generator) -> dict[str, Any] | None:
        """A variation for a chunk's plan; None if there is nothing to make it from."""
        if way in FITTED:
            refused = self.wrong[_one(list(self.wrong), rng)]
            puzzles = [_one(list(refused), rng)]
            answer = _one(refused[puzzles[0]], rng)
        else:
            first = self._puzzle(ANY, rng)
            if first is None:
                return None
            kind = self._kinds[first]
            second = self._puzzle(kind if way == "join" else ANY, rng)
            if second is None or second == first:
                return None
            puzzles, answer = [first, second], _one(self._answers[kind], rng)
        return {"how": way, "puzzles": puzzles, "answer": answer, "seed": int(rng.integers(2**31))}

    def _puzzle(self, kind: str, rng: np.random.Generator) -> str | None:
        """A puzzle, with every origin equally likely: otherwise the model's easy puzzles would crowd out the others."""
        groups = [puzzles for (of, _), puzzles in self._puzzles.items() if of == kind]
        return _one(list(_one(groups, rng)), rng) if groups else None


def _one(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def make(archive: Archive, chunk: Chunk, pool: Pool) -> ChunkSamples:
    """The texts of a planned chunk's variations; a text is empty if the rules do not apply."""
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
    """Parse, admit and guard the chunk's puzzles like a model's; verify each with its answer; add those that pass."""
    assert chunk.completions is not None
    watch = judging_watch(pool)
    parsed = parse_puzzles(pool, [Text(text) for text in chunk.completions])
    refusals = admission(archive, pool, parsed)
    admitted: dict[str, tuple[Puzzle, str]] = {}
    for puzzle, item in zip(parsed, chunk.plan["variations"], strict=True):
        if isinstance(puzzle, Puzzle) and puzzle.id in refusals and refusals[puzzle.id] is None:
            admitted.setdefault(puzzle.id, (puzzle, item["answer"]))
    verified = _verified(pool, list(admitted.values()))
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
    """For each puzzle's id: the verified pair, or the reason why there is none."""
    candidates = parse_candidates(pool, [Text(f"def g():\n    return {answer}") for _, answer in pairs])
    asked = [(p, c) for (p, _), c in zip(pairs, candidates, strict=True) if isinstance(c, Candidate)]
    verified: dict[str, VerifiedPair | str] = {}
    for (puzzle, candidate), judgement in zip(asked, verify(pool, asked), strict=True):
        if judgement.verdict != Verdict.ACCEPTED:
            verified[puzzle.id] = str(judgement.verdict)
        elif too_slow_to_judge(pool, judgement):
            verified[puzzle.id] = "too_slow"
        else:
            verified[puzzle.id] = VerifiedPair(puzzle, candidate, judgement)
    return verified


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
