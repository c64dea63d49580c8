"""Chooses the pairs to train on and writes them as training examples.

An example's prompt is exactly the prompt that sampling shows, shots included.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from puzzles.archive.store import CANDIDATES_N_C, Archive
from puzzles.features import Niche, described
from sandbox.pool import Pool
from selfplay.sampling.prompts import Prompt, PromptFormat, propose_completion, propose_prompt, solve_completion
from selfplay.sampling.sampler import Drawn
from selfplay.sampling.shots import Pair, prompt_for

MOST_REPEATS = 3
"""Most copies of a pair among the balanced ones. To know a few puzzles of a rare cell by heart is not a skill."""
LEVELS = ("not tried", "never solved", "hard", "middling", "easy")
"""Levels of difficulty. The last three: below a third of a puzzle's candidates accepted, below two thirds, and more."""


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn."""

    prompt: Prompt
    completion: str
    pair: tuple[str, str] | None = field(default=None, compare=False)
    """Ids of the learned puzzle and verified solution. The solution's id is empty if only the puzzle is learned."""
    drawn: Drawn | None = field(default=None, compare=False, repr=False)
    """The tokens that the model wrote it in. They may go on behind it, if an end is to be learned in that place. None
    if the model did not write it, or its tokens were not kept."""


@dataclass(frozen=True)
class Contrast:
    """A prompt and two completions. Training raises the better one relative to the worse."""

    prompt: Prompt
    better: str
    worse: str
    pair: tuple[str, str] | None = field(default=None, compare=False)
    """Ids as in an `Example`, for the better completion."""
    drawn: tuple[Drawn | None, Drawn | None] = field(default=(None, None), compare=False, repr=False)
    """Tokens as in an `Example`, of the better completion and of the worse."""


@dataclass(frozen=True)
class Graded:
    """A prompt and a completion that training makes likelier, or less likely if its advantage is below 0."""

    prompt: Prompt
    completion: str
    advantage: float
    """How much better the completion did than its group. Any scale will do, but it acts like the learning rate."""
    pair: tuple[str, str] | None = field(default=None, compare=False)
    """Ids as in an `Example`; None if the completion is neither a new, valid puzzle nor a verified solution."""
    drawn: Drawn | None = field(default=None, compare=False, repr=False)
    """Tokens as in an `Example`."""


Lesson = Example | Contrast | Graded
"""One item to train on. All lessons of a training are of one kind."""


def examples(
    pairs: Sequence[Pair],
    roles: Sequence[str],
    prompt_format: PromptFormat,
    shots: Sequence[Pair],
    proposer_shots: int,
    rng: np.random.Generator,
    drawn: Mapping[tuple[str, str], Drawn] = MappingProxyType({}),
) -> tuple[list[Example], list[Pair]]:
    """Training examples of the pairs, and the pairs that have at least one.

    Args:
        pairs: Puzzles with their solutions. A puzzle may occur several times with other solutions.
        roles: `solve` teaches each pair's solution. `propose` teaches each puzzle once, or as often as its most
            repeated pair occurs.
        prompt_format: How sampling writes prompts.
        shots: The fixed pairs of the solver's prompt.
        proposer_shots: Number of puzzles shown before a proposal.
        rng: Draws these puzzles.
        drawn: The tokens of completions that the model wrote, by the ids of an `Example`.
    """
    chosen: list[Example] = []
    protocol = prompt_format.protocol
    used: dict[tuple[str, str], Pair] = {}
    seen, proposed = Counter[tuple[str, str]](), Counter[str]()
    puzzles = list({puzzle.id: puzzle for puzzle, _ in pairs}.values())
    for puzzle, solution in pairs:
        if "solve" in roles and (completion := solve_completion(protocol, puzzle, solution)) is not None:
            prompt = prompt_for(prompt_format, puzzle, shots)
            chosen.append(Example(prompt, completion, drawn=drawn.get((puzzle.id, solution.id))))
            used[puzzle.id, solution.id] = (puzzle, solution)
        seen[puzzle.id, solution.id] += 1
        if "propose" in roles and seen[puzzle.id, solution.id] > proposed[puzzle.id]:
            proposed[puzzle.id] += 1
            if (completion := propose_completion(protocol, puzzle)) is not None:
                # One puzzle more than needed, in case the puzzle itself is among them.
                places = rng.choice(len(puzzles), min(proposer_shots + 1, len(puzzles)), replace=False)
                before_it = [puzzles[i] for i in places if puzzles[i].id != puzzle.id][:proposer_shots]
                prompt = propose_prompt(prompt_format, before_it)
                chosen.append(Example(prompt, completion, drawn=drawn.get((puzzle.id, ""))))
                used[puzzle.id, solution.id] = (puzzle, solution)
    return chosen, list(used.values())


# ---- balance ----


@dataclass(frozen=True)
class Cell:
    """A niche and a level of difficulty. Balanced pairs are spread evenly over cells."""

    niche: Niche
    level: str
    """One of `LEVELS`."""


def cells(archive: Archive, pool: Pool, pairs: Sequence[Pair]) -> dict[str, Cell]:
    """The cell of each pair's puzzle, by the puzzle's id."""
    puzzles = list({puzzle.id: puzzle for puzzle, _ in pairs}.values())
    tried = {row["id"]: (row["c"], row["n"]) for row in archive.query(f"SELECT id, {CANDIDATES_N_C} FROM puzzles p")}
    return {
        puzzle.id: Cell(traits.niche, level(*tried.get(puzzle.id, (0, 0))))
        for puzzle, traits in zip(puzzles, described(pool, puzzles), strict=True)
    }


def level(accepted: int, tried: int) -> str:
    """The level of a puzzle, one of `LEVELS`, from its number of accepted and of all candidates."""
    if not tried:
        return LEVELS[0]
    return LEVELS[2 + min(2, 3 * accepted // tried)] if accepted else LEVELS[1]


def balanced(pairs: Sequence[Pair], cell_of: Callable[[Pair], Hashable], rng: np.random.Generator) -> list[Pair]:
    """About the same number of pairs, spread evenly over the cells: full cells lose pairs, those of rare cells repeat.

    The share of a cell is the number of pairs divided by the number of cells, rounded up. A cell with fewer pairs
    repeats them in turn until the share is full, or until each pair occurs `MOST_REPEATS` times. In a cell with more
    pairs, the pairs to leave out are drawn at random.

    Args:
        pairs: Pairs chosen to train on.
        cell_of: The cell of a pair, such as its `Cell`, its answer type or its difficulty.
        rng: Draws the pairs to leave out.

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
    """Number of pairs of each `skill` (a pair may have several or none), answer `type` and `difficulty`."""
    found = [cell_by_puzzle[puzzle.id] for puzzle, _ in pairs]
    return {
        "skill": Counter(skill for cell in found for skill in (sorted(cell.niche.skills) or ["no skill"])),
        "type": Counter(puzzle.answer_type for puzzle, _ in pairs),
        "difficulty": Counter(cell.level for cell in found),
    }
