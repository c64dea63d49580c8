"""Which pairs become training examples, and how they are shown.

An example's prompt is exactly what sampling shows, shots included.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from puzzles.archive.store import CANDIDATES_N_C, Archive
from puzzles.features import Niche, described
from sandbox.pool import Pool
from selfplay.sampling.prompts import Prompt, propose_completion, propose_prompt, solve_completion
from selfplay.sampling.shots import Pair, prompt_for

MOST_REPEATS = 3
"""How often a pair of a rare cell may stand among the balanced ones: a few puzzles by heart are no skill."""
LEVELS = ("not tried", "never solved", "hard", "middling", "easy")
"""Of difficulty: below a third of a puzzle's candidates accepted, below two thirds, and from there on."""


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn."""

    prompt: Prompt
    completion: str
    pair: tuple[str, str] | None = field(default=None, compare=False)
    """Ids of the puzzle and the verified solution that are learned, the solution's empty if only the puzzle is."""


@dataclass(frozen=True)
class Contrast:
    """A prompt and two completions, of which the better is to gain on the worse."""

    prompt: Prompt
    better: str
    worse: str
    pair: tuple[str, str] | None = field(default=None, compare=False)
    """As of an `Example`, of the better one."""


@dataclass(frozen=True)
class Graded:
    """A prompt and a completion that is to become likelier, or with an advantage below 0 less likely."""

    prompt: Prompt
    completion: str
    advantage: float
    """How much better it did than its group; of any scale, though its size counts beside the learning rate."""
    pair: tuple[str, str] | None = field(default=None, compare=False)
    """As of an `Example`; None if it is neither a new, valid puzzle nor a verified solution."""


Lesson = Example | Contrast | Graded
"""What a training is given, all of one kind."""


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
        roles: `solve` teaches each pair's solution, `propose` each puzzle once, or as often as one of its pairs stands
            among the pairs.
        protocol: As in sampling.
        shots: The fixed pairs of the solver's prompt.
        proposer_shots: How many puzzles stand before a proposal.
        rng: Draws them.
    """
    chosen: list[Example] = []
    used: dict[tuple[str, str], Pair] = {}
    seen, proposed = Counter[tuple[str, str]](), Counter[str]()
    puzzles = list({puzzle.id: puzzle for puzzle, _ in pairs}.values())
    for puzzle, solution in pairs:
        if "solve" in roles and (completion := solve_completion(protocol, puzzle, solution)) is not None:
            chosen.append(Example(prompt_for(protocol, puzzle, shots), completion))
            used[puzzle.id, solution.id] = (puzzle, solution)
        seen[puzzle.id, solution.id] += 1
        if "propose" in roles and seen[puzzle.id, solution.id] > proposed[puzzle.id]:
            proposed[puzzle.id] += 1
            if (completion := propose_completion(protocol, puzzle)) is not None:
                # One more than asked for, in case the puzzle itself is among them.
                drawn = rng.choice(len(puzzles), min(proposer_shots + 1, len(puzzles)), replace=False)
                before_it = [puzzles[i] for i in drawn if puzzles[i].id != puzzle.id][:proposer_shots]
                chosen.append(Example(propose_prompt(protocol, before_it), completion))
                used[puzzle.id, solution.id] = (puzzle, solution)
    return chosen, list(used.values())


# ---- balance ----


@dataclass(frozen=True)
class Cell:
    """What pairs are evened over."""

    niche: Niche
    level: str
    """One of LEVELS."""


def cells(archive: Archive, pool: Pool, pairs: Sequence[Pair]) -> dict[str, Cell]:
    """The cell of each pair's puzzle, by its id."""
    puzzles = list({puzzle.id: puzzle for puzzle, _ in pairs}.values())
    tried = {row["id"]: (row["c"], row["n"]) for row in archive.query(f"SELECT id, {CANDIDATES_N_C} FROM puzzles p")}
    return {
        puzzle.id: Cell(traits.niche, level(*tried.get(puzzle.id, (0, 0))))
        for puzzle, traits in zip(puzzles, described(pool, puzzles), strict=True)
    }


def level(accepted: int, tried: int) -> str:
    """One of LEVELS, of a puzzle so many of whose candidates were accepted."""
    if not tried:
        return LEVELS[0]
    return LEVELS[2 + min(2, 3 * accepted // tried)] if accepted else LEVELS[1]


def balanced(pairs: Sequence[Pair], cell_of: Callable[[Pair], Hashable], rng: np.random.Generator) -> list[Pair]:
    """About as many pairs, such that each cell has as many: some of a full one, those of a rare one repeatedly.

    An even share is the pairs by the cells, rounded up. A cell with fewer has each of its pairs in turn until the share
    is full, or each `MOST_REPEATS` times; which of a cell with more are left out is drawn.

    Args:
        pairs: Chosen to train on.
        cell_of: What is evened, such as a pair's `Cell`, its answer type or its difficulty.
        rng: Draws what is left out.

    Returns:
        The pairs in their order, repeated ones side by side.
    """
    members: dict[Hashable, list[int]] = {}
    for place, pair in enumerate(pairs):
        members.setdefault(cell_of(pair), []).append(place)
    share = math.ceil(len(pairs) / len(members)) if members else 0
    times: Counter[int] = Counter()
    for places in members.values():
        shuffled = [places[i] for i in rng.permutation(len(places))]
        times.update((shuffled * MOST_REPEATS)[:share])
    return [pair for place, pair in enumerate(pairs) for _ in range(times[place])]


def composition(pairs: Sequence[Pair], cell_by_puzzle: Mapping[str, Cell]) -> dict[str, Counter[str]]:
    """How many pairs there are of each `skill` (a pair may have several, or none), answer `type` and `difficulty`."""
    found = [cell_by_puzzle[puzzle.id] for puzzle, _ in pairs]
    return {
        "skill": Counter(skill for cell in found for skill in (sorted(cell.niche.skills) or ["no skill"])),
        "type": Counter(puzzle.answer_type for puzzle, _ in pairs),
        "difficulty": Counter(cell.level for cell in found),
    }
