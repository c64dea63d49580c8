"""Makes programs for a puzzle from programs that solve other puzzles: the same steps, with other constants.

A program that goes through answers until a puzzle accepts one is of use for other puzzles too, if it goes through
answers that fit them. So some of its constants are replaced: by those of the puzzle, or by larger and smaller numbers.
The result is text like a model's. It is parsed and judged like a candidate, so this module need not guarantee anything.

The work runs in sandbox children, because the texts are a model's.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from puzzles.parse import in_batches
from sandbox import child
from sandbox.pool import Pool
from sandbox.syntax import walk

PORT = "puzzles.rules.porting:port_batch"
"""Name of the sandbox job; a pool that ports programs must preload it."""

MOST_CHANGES = 2
"""Most constants of a program that are replaced."""
MOST_CHARACTERS = 300
"""Longest text of a ported program."""


@dataclass(frozen=True)
class Porting:
    """A program that is to be made."""

    program: str
    """Text of a program that solves another puzzle."""
    puzzle: str
    """Text of the puzzle that the new program is for."""
    seed: int


def ported(pool: Pool, portings: Sequence[Porting]) -> list[str | None]:
    """The texts of the new programs, in order; None where none can be made."""
    requests = [json.dumps(asdict(item)).encode() for item in portings]
    texts = in_batches(pool, PORT, requests)
    return [
        text.decode("utf-8", "replace") if isinstance(text := texts[request], bytes) and text else None
        for request in requests
    ]


# ---- below: the rules, run in a sandbox child ----


def port_batch(payload: bytes) -> Iterator[bytes]:
    """Job for a child: yields one record per request with the new text, which is empty if none can be made."""
    for blob in child.unpack(payload):
        request = json.loads(blob)
        try:
            text = _ported(request["program"], request["puzzle"], random.Random(request["seed"]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            text = ""
        yield text.encode("utf-8", "surrogatepass")


def _ported(program: str, puzzle: str, rng: random.Random) -> str:
    tree = ast.parse(program)
    given = [node.value for node in _constants(ast.parse(puzzle))]
    own = _constants(tree)
    for node in rng.sample(own, rng.randint(0, min(MOST_CHANGES, len(own)))):
        node.value = rng.choice(_instead(node.value, given))
    text = ast.unparse(tree)
    return text if len(text) <= MOST_CHARACTERS else ""


def _constants(tree: ast.AST) -> list[ast.Constant]:
    """The numbers and texts of a program, from the outside in."""
    return [node for node in walk(tree) if isinstance(node, ast.Constant) and type(node.value) in (int, float, str)]


def _instead(value: Any, given: Sequence[Any]) -> list[Any]:
    """What may stand in a constant's place: constants of the puzzle of the same type, and what is made of them."""
    alike = [each for each in given if type(each) is type(value)]
    if isinstance(value, int):
        return [*alike, *alike, value + 1, abs(value - 1), 2 * value, 10 * value]
    if isinstance(value, str) and alike:
        return [*alike, "".join(alike), "".join(dict.fromkeys("".join(alike)))]
    return alike or [value]
