"""The puzzles of a set or an archive as rows for a harness: the same ones that `selfplay bench` scores."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from puzzles.archive.formats import read_errata
from puzzles.verify import truth_pool
from selfplay.benchmark.sets import independent
from selfplay.sampling.prompts import solve_prompt
from selfplay.scoring.sets import scored_puzzles


@dataclass(frozen=True)
class Row:
    """A puzzle with a prompt that asks for its solution."""

    id: str
    name: str
    puzzle: str
    """The author's text, which the judge takes."""
    prompt: str
    header: str
    """What a completion goes on from, such as `def g():`; empty if the prompt is a message of a chat."""


@functools.cache
def rows(puzzles: str = "heldout", protocol: str = "chat") -> tuple[Row, ...]:
    """The puzzles of a set, in its order.

    Args:
        puzzles: `dev`, `heldout`, `train`, a puzzle file or an archive.
        protocol: `chat` for a message, `plain` for a text that a base model goes on from.

    Raises:
        InputError: There is no such set, or a text in it is no puzzle.
        SandboxError: The sandbox, in which texts are parsed, cannot run here.
    """
    with truth_pool() as pool:
        named = independent(scored_puzzles(pool, puzzles))
    errata = read_errata()
    asked = [(each, solve_prompt(protocol, each.puzzle)) for each in named if each.puzzle.id not in errata]
    return tuple(
        Row(each.puzzle.id, each.name, each.puzzle.judged[0], prompt.text, prompt.header) for each, prompt in asked
    )
