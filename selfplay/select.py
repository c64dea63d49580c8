"""Which pairs become training examples, and how they are shown.

An example's prompt is exactly what sampling shows, shots included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from puzzles.puzzle import Candidate, Puzzle
from selfplay.prompts import Prompt, propose_completion, propose_prompt, solve_completion, solve_prompt

Pair = tuple[Puzzle, Candidate]


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Contrast:
    """A prompt and two completions, of which the better is to gain on the worse."""

    prompt: Prompt
    better: str
    worse: str


@dataclass(frozen=True)
class Graded:
    """A prompt and a completion that is to become likelier, or with an advantage below 0 less likely."""

    prompt: Prompt
    completion: str
    advantage: float
    """How much better it did than its group; of any scale, though its size counts beside the learning rate."""


def solver_shots(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """The few fixed pairs that stand before every puzzle: the shortest of different answer types first.

    Fixed, as the ancestor's tutorial prefix is: scores then compare models, not draws of shots.
    """
    by_length = sorted(pairs, key=lambda pair: (len(pair[0].source) + len(pair[1].source), pair[0].id))
    first_of_type: dict[str, Pair] = {}
    for pair in by_length:
        first_of_type.setdefault(pair[0].answer_type, pair)
    rest = [pair for pair in by_length if pair is not first_of_type[pair[0].answer_type]]
    return [*first_of_type.values(), *rest][:count]


def prompt_for(protocol: str, puzzle: Puzzle, shots: Sequence[Pair]) -> Prompt:
    """The solver's prompt; a puzzle is never shown its own solution."""
    return solve_prompt(protocol, puzzle, [shot for shot in shots if shot[0].id != puzzle.id])


def examples(
    pairs: Sequence[Pair],
    roles: Sequence[str],
    protocol: str,
    shots: Sequence[Pair],
    proposer_shots: int,
    rng: np.random.Generator,
) -> tuple[list[Example], list[Pair]]:
    """Training examples of the pairs, and the pairs that have at least one.

    Args:
        pairs: Puzzles with their solutions, puzzles possibly repeated with other solutions.
        roles: `solve` teaches each pair's solution, `propose` each puzzle once.
        protocol: As in sampling.
        shots: The fixed pairs of the solver's prompt.
        proposer_shots: How many puzzles stand before a proposal.
        rng: Draws them.
    """
    chosen: list[Example] = []
    used: dict[tuple[str, str], Pair] = {}
    proposed: set[str] = set()
    puzzles = list({puzzle.id: puzzle for puzzle, _ in pairs}.values())
    for puzzle, solution in pairs:
        if "solve" in roles and (completion := solve_completion(protocol, puzzle, solution)) is not None:
            chosen.append(Example(prompt_for(protocol, puzzle, shots), completion))
            used[puzzle.id, solution.id] = (puzzle, solution)
        if "propose" in roles and puzzle.id not in proposed:
            proposed.add(puzzle.id)
            if (completion := propose_completion(protocol, puzzle)) is not None:
                # One more than asked for, in case the puzzle itself is among them.
                drawn = rng.choice(len(puzzles), min(proposer_shots + 1, len(puzzles)), replace=False)
                before_it = [puzzles[i] for i in drawn if puzzles[i].id != puzzle.id][:proposer_shots]
                chosen.append(Example(propose_prompt(protocol, before_it), completion))
                used[puzzle.id, solution.id] = (puzzle, solution)
    return chosen, list(used.values())
