"""The sets that are scored: which of their puzzles, and whether this machine accepts their own solutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzles.parse import Text, parse_candidates
from puzzles.puzzle import Candidate, Verdict, content_hash
from puzzles.verify import verify
from sandbox.pool import Pool
from selfplay.scoring.sets import NamedPuzzle, read_set


@dataclass(frozen=True)
class ScoredSet:
    """The puzzles to score, one per problem."""

    path: str
    named: list[NamedPuzzle]
    facts: dict[str, Any]
    """Facts for `results.json`. They name puzzles by their ids only, and texts that are no puzzle by their names."""

    def left_out(self) -> list[str]:
        """A line for each text that is not scored because something is wrong with it."""
        names = {item.puzzle.id: item.name for item in self.named}
        lines = [f"{name} is left out of the score: it is no puzzle: {why}" for name, why in self._not_puzzles.items()]
        refused = self.facts["references"]["refused"].items()
        return lines + [
            f"{names[key]} is left out of the score: its own solution: {verdict}" for key, verdict in refused
        ]

    @property
    def _not_puzzles(self) -> dict[str, str]:
        return dict(self.facts.get("not_puzzles", {}))


def scored_set(pool: Pool, path: str, private: bool = False, limit: int | None = None) -> ScoredSet:
    """Read a set, choose the puzzles to score, and judge their own reference solutions.

    Args:
        pool: The sandbox that judges.
        path: `dev`, `heldout`, `train`, a puzzle file or an archive.
        private: Whether results hold nothing about the puzzles but their ids.
        limit: Most puzzles to score, evenly spread over the set; None for all.

    Raises:
        InputError: There is no such set, or no puzzle in it.
    """
    named, not_puzzles = read_set(pool, path)
    chosen = independent(named)
    if limit is not None and limit < len(chosen):
        chosen = [chosen[number * len(chosen) // limit] for number in range(limit)]
    else:
        limit = None
    if private:  # neither a name nor a text of the puzzle
        not_puzzles = {f"text {n}": why.partition(":")[0] for n, why in enumerate(not_puzzles.values(), 1)}
    facts = {
        "name": Path(path).stem,
        "path": path,
        "private": private,
        "hash": content_hash(" ".join(sorted(item.puzzle.id for item in chosen))),
        "puzzles": len(chosen),
        "in_file": len(named),
        "references": _references(pool, chosen),
        **({} if limit is None else {"limit": limit}),
        **({"not_puzzles": not_puzzles} if not_puzzles else {}),
    }
    return ScoredSet(path, chosen, facts)


def independent(named: Sequence[NamedPuzzle]) -> list[NamedPuzzle]:
    """The puzzles that are scored: the first of each problem, because intervals assume independent puzzles.

    Puzzles named PROBLEM:NUMBER, as in P3, are instances of one problem. So are puzzles with the same normal form.
    """
    first: dict[tuple[str, ...], int] = {}
    for index, item in enumerate(named):
        problem, colon, number = item.name.rpartition(":")
        first.setdefault((problem,) if colon and number.isdigit() else ("", item.puzzle.id), index)
    kept = {named[index].puzzle.id: index for index in reversed(first.values())}
    return [named[index] for index in sorted(kept.values())]


def _references(pool: Pool, named: Sequence[NamedPuzzle]) -> dict[str, Any]:
    """How many puzzles have a reference solution that this machine accepts. One per puzzle is enough."""
    solved = [(item, solution) for item in named for solution in item.solutions]
    texts = [Text(solution, rename={item.puzzle.original_name: "f"}) for item, solution in solved]
    candidates = parse_candidates(pool, texts)
    pairs = [(item.puzzle, c) for (item, _), c in zip(solved, candidates, strict=True) if isinstance(c, Candidate)]
    outcomes: dict[str, list[str]] = {item.puzzle.id: [] for item, _ in solved}
    for (puzzle, _), judgement in zip(pairs, verify(pool, pairs), strict=True):
        outcomes[puzzle.id].append(str(judgement.verdict))
    refused = {
        identifier: verdicts[0] if verdicts else str(Verdict.INVALID_SOLUTION)
        for identifier, verdicts in outcomes.items()
        if Verdict.ACCEPTED not in verdicts
    }
    return {"accepted": len(outcomes) - len(refused), "none": len(named) - len(outcomes), "refused": refused}
