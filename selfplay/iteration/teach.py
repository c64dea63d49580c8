"""What an iteration trains on, by its objective.

- `sft` learns the archive's verified pairs.
- `filtered` learns each iteration's own texts whose reward is above the mean of their role (arXiv:2406.18872), and
  what searches found.
- `spin` sets verified solutions against the model's texts for the same puzzles (arXiv:2401.01335).
- `dpo` sets accepted texts against failed ones (arXiv:2305.18290).
- `grpo` learns from all texts of the iteration, each weighted by its reward relative to its group (arXiv:2402.03300).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from puzzles.archive.store import Archive
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration import lessons, solve
from selfplay.iteration.lessons import TokensOf
from selfplay.iteration.training_set import iterations_learned
from selfplay.sampling.prompts import PromptFormat
from selfplay.sampling.shots import Pair
from selfplay.text import fraction, render
from selfplay.training.game import GAMES
from selfplay.training.select import Lesson, balanced, cells, composition, examples

logger = logging.getLogger(__name__)

UNION = 2
"""Iterations whose contrasts `spin` and `dpo` use: the present one and the one before, as in SPIN's published runs."""


@dataclass(frozen=True)
class Teaching:
    """What a training learns."""

    lessons: list[Lesson]
    """The lessons, all of one kind."""
    pairs: list[tuple[str, str]]
    """Ids of the puzzle and the verified solution of each learned pair."""


def teaching(
    archive: Archive, pool: Pool, config: RunConfig, iteration: int, prompt_format: PromptFormat, shots: Sequence[Pair],
    tokens_of: TokensOf, rng: np.random.Generator, balance: bool,
) -> Teaching:  # fmt: skip
    """The lessons of an iteration. All of its verdicts must be in the archive.

    Args:
        archive: The run's archive.
        pool: A sandbox in which puzzles are described and texts are parsed again.
        config: The run's settings.
        iteration: From 1.
        prompt_format: How prompts are written.
        shots: The fixed pairs of the solver's prompt.
        tokens_of: Gives the number of tokens of a text.
        rng: Draws the shots of proposals, and the pairs that balancing leaves out.
        balance: Whether pairs are evened over niches.
    """
    own, found_in = config.finetune, iterations_learned(archive, config, iteration)
    shown = (prompt_format, shots, tokens_of)
    made: list[Lesson] = []
    if own.objective == "filtered":
        for number in found_in:
            made += lessons.cloned(archive, number, GAMES[own.game], *shown, own.roles)
        if "solve" in own.roles:
            made += lessons.searched(archive, found_in, own.solutions_per_puzzle, prompt_format, shots)
    elif own.objective == "grpo":
        within = "role" if own.normalise_roles else "prompt"
        made += lessons.graded(archive, iteration, GAMES[own.game], *shown, own.roles, within, own.normalise_roles)
    elif own.objective == "dpo":
        made += lessons.preferred(archive, found_in[-UNION:], own.solutions_per_puzzle, *shown)
    elif own.objective == "spin":
        pairs = verified_pairs(archive, config, found_in)
        made += lessons.against_itself(
            archive, found_in[-UNION:], pairs, own.failing_only, own.solutions_per_puzzle, *shown
        )
    else:
        return _of_pairs(archive, pool, config, found_in, prompt_format, shots, rng, balance)
    return Teaching(made, list(dict.fromkeys(lesson.pair for lesson in made if lesson.pair)))


def first_teaching(
    archive: Archive, config: RunConfig, prompt_format: PromptFormat, shots: Sequence[Pair], rng: np.random.Generator
) -> Teaching:
    """The lessons of the training before the first proposal: the pairs that the run begins with."""
    own = config.finetune
    pairs = archive.choose(own.solutions_per_puzzle, before_first_iteration=True, shortest=own.shortest)
    proposer_shots = config.prompt.shots if prompt_format.shows_shots("propose") else 0
    chosen, used = examples(pairs, own.roles, prompt_format, shots, proposer_shots, rng, {})
    return Teaching([*chosen], [(puzzle.id, solution.id) for puzzle, solution in used])


def verified_pairs(archive: Archive, config: RunConfig, found_in: Sequence[int]) -> list[Pair]:
    """The verified pairs that `sft` and `spin` learn as right."""
    own = config.finetune
    everything = own.data == "accumulate" and not archive.set_aside()
    return archive.choose(
        own.solutions_per_puzzle, config.data.references, not own.verified, own.most_solved, own.shortest,
        None if everything else found_in,
    )  # fmt: skip


def _of_pairs(
    archive: Archive, pool: Pool, config: RunConfig, found_in: Sequence[int], prompt_format: PromptFormat,
    shots: Sequence[Pair], rng: np.random.Generator, balance: bool,
) -> Teaching:  # fmt: skip
    own, pairs = config.finetune, verified_pairs(archive, config, found_in)
    if not own.verified:
        pairs += solve.unverified_pairs(archive, pool, prompt_format, found_in, own.solutions_per_puzzle, own.shortest)
    if balance:
        cell_by_puzzle = cells(archive, pool, pairs)
        before = composition(pairs, cell_by_puzzle)
        pairs = balanced(pairs, lambda pair: cell_by_puzzle[pair[0].id], rng)
        logger.info("pairs evened over niches\n%s", balance_table(before, composition(pairs, cell_by_puzzle)))
    proposer_shots = config.prompt.shots if prompt_format.shows_shots("propose") else 0
    drawn = lessons.drawn_of_pairs(archive, pairs, prompt_format.protocol)
    chosen, used = examples(pairs, own.roles, prompt_format, shots, proposer_shots, rng, drawn)
    return Teaching([*chosen], [(puzzle.id, solution.id) for puzzle, solution in used])


def balance_table(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> str:
    """The composition of the pairs to train on (`select.composition`), before and after balancing."""
    rows: list[tuple[str, ...]] = [("", "", "pairs", "share", "balanced", "share")]
    for kind, counts in before.items():
        sums = [sum(side[kind].values()) or 1 for side in (before, after)]
        for place, name in enumerate(sorted(counts, key=lambda name: (-counts[name], name))):
            numbers = (counts[name], after[kind].get(name, 0))
            cells = [cell for n, of in zip(numbers, sums, strict=True) for cell in (f"{n:,}", fraction(n / of))]
            rows.append(("" if place else kind, name, *cells))
    return render(rows, right=range(2, 6))
