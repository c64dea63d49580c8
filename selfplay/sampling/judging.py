"""Sampled texts to candidates and judgements."""

from __future__ import annotations

from collections.abc import Sequence

from puzzles.parse import ParseFailure, parse_candidates
from puzzles.puzzle import Candidate, Judgement, Puzzle, Verdict
from puzzles.verify import verify
from sandbox.pool import Pool
from selfplay.sampling.prompts import Prompt


def judge_texts(
    pool: Pool, puzzles: Sequence[Puzzle], prompts: Sequence[Prompt], texts_P_K: Sequence[Sequence[str]]
) -> list[list[tuple[Candidate | None, Judgement]]]:
    """Each completion's candidate and judgement; equal candidates of a puzzle are judged once."""
    flat = [
        (puzzle, prompt.parsed_text(text))
        for puzzle, prompt, texts in zip(puzzles, prompts, texts_P_K, strict=True)
        for text in texts
    ]
    candidates = parse_candidates(pool, [text for _, text in flat])
    pairs = [(puzzle, c) for (puzzle, _), c in zip(flat, candidates, strict=True) if isinstance(c, Candidate)]
    judgements = iter(verify(pool, pairs))
    judged = iter(
        (None, Judgement(Verdict.INVALID_SOLUTION, str(candidate)))
        if isinstance(candidate, ParseFailure)
        else (candidate, next(judgements))
        for candidate in candidates
    )
    return [[next(judged) for _ in texts] for texts in texts_P_K]
