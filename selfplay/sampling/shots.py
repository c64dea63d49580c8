"""The solved pairs that a few-shot prompt shows before a puzzle."""

from __future__ import annotations

from collections.abc import Sequence

from puzzles.archive.formats import read_puzzles
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from sandbox.pool import Pool
from selfplay.sampling.prompts import Prompt, solve_prompt

Pair = tuple[Puzzle, Candidate]


def solver_shots(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """The few fixed pairs that are shown before every puzzle: first the shortest pair of each answer type.

    They are fixed, as the ancestor's tutorial prefix is, so that scores compare models and not draws of shots.
    """
    by_length = sorted(pairs, key=lambda pair: (len(pair[0].source) + len(pair[1].source), pair[0].id))
    first_of_type: dict[str, Pair] = {}
    for pair in by_length:
        first_of_type.setdefault(pair[0].answer_type, pair)
    rest = [pair for pair in by_length if pair is not first_of_type[pair[0].answer_type]]
    return [*first_of_type.values(), *rest][:count]


def prompt_for(protocol: str, puzzle: Puzzle, shots: Sequence[Pair]) -> Prompt:
    """The solver's prompt. A puzzle's own solution is never among its shots."""
    return solve_prompt(protocol, puzzle, [shot for shot in shots if shot[0].id != puzzle.id])


def training_pairs(pool: Pool) -> list[Pair]:
    """The hand-written training pairs, for prompts with shots."""
    raws = read_puzzles("train")
    puzzles = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws])
    candidates = parse_candidates(pool, [Text(raw.solutions[0]) for raw in raws])
    return list(zip(puzzles, candidates, strict=True))  # type: ignore[arg-type]  # ours parse: tests/puzzles/test_sets.py
