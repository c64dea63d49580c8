"""Puzzles in several statements: how they are written, and that they accept and refuse what they did."""

import random

import pytest

from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import Puzzle
from puzzles.rules import composition
from puzzles.rules.unfolding import unfolded
from puzzles.verify import accepts
from sandbox import codec

ANSWERS_EACH = 8


def forms(puzzle, seeds=400):
    return {unfolded(random.Random(seed), puzzle) for seed in range(seeds)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(s: str):\n    return len(s.upper()) == 4 and s[0] == 'k'",
         "def f(s: str):\n    parts = s.upper()\n    return len(parts) == 4 and s[0] == 'k'"),
        ("def f(s: str):\n    return len(s) == 4 and s[0] == 'k'",
         "def f(s: str):\n    if len(s) != 4:\n        return False\n    return s[0] == 'k'"),
        ("def f(x: int):\n    return 3 < x < 9 and x % 2 == 0",
         "def f(x: int):\n    if not 3 < x < 9:\n        return False\n    return x % 2 == 0"),
        ("def f(x: Optional[int]):\n    return x is not None and x > 20",
         "def f(x: Optional[int]):\n    if x is None:\n        return False\n    return x > 20"),
        ("def f(a: List[int]):\n    return sum((v * 2 for v in a if v > 3)) == 20",
         "def f(a: List[int]):\n    total = 0\n    for v in a:\n        if v > 3:\n            total += v * 2\n"
         "    return total == 20"),
        ("def f(a: List[int]):\n    return [v * 2 for v in a] == [6, 4]",
         "def f(a: List[int]):\n    out = []\n    for v in a:\n        out.append(v * 2)\n    return out == [6, 4]"),
        ("def f(x: int):\n    return x * 2 + 3 == 17",
         "def h(x):\n    return x * 2\n\ndef f(x: int):\n    return h(x) + 3 == 17"),
    ],
)  # fmt: skip
def test_a_value_gets_a_name_a_comprehension_a_loop_a_clause_a_return_and_a_part_a_function(before, after):
    assert after in forms(before)


@pytest.mark.parametrize("puzzle", ["def f(x: int):\n    return x", "def f(x: int):\n    return 3 < x < 9"])
def test_where_there_is_nothing_to_unfold_the_puzzle_stays(puzzle):
    assert forms(puzzle) == {puzzle}


@pytest.mark.slow
def test_an_unfolded_puzzle_accepts_what_it_did_and_nothing_else(pool):
    rng, texts, answers = random.Random(2), [], []
    for declared in composition.ANSWERS:
        for _ in range(12):
            puzzle, _solution = composition.compose(rng, declared)
            texts.append((puzzle, unfolded(rng, puzzle)))
            answers.append([codec.encode(composition.ANSWERS[declared][1](rng), 1000) for _ in range(ANSWERS_EACH)])
    assert sum(before != after for before, after in texts) > 0.5 * len(texts)
    said = []
    for side in (0, 1):
        puzzles = parse_puzzles(pool, [Text(pair[side]) for pair in texts])
        assert all(isinstance(puzzle, Puzzle) for puzzle in puzzles)
        assert [puzzle.source for puzzle in puzzles] == [pair[side] for pair in texts]
        said.append(accepts(pool, list(zip(puzzles, answers, strict=True))))
    true = [[[answer is True for answer in row] for row in side] for side in said]
    assert true[0] == true[1]
    assert sum(map(sum, true[0])) > 20


def test_a_puzzle_with_its_solution_is_unfolded_the_same_way_by_the_same_seed():
    puzzle, _ = composition.compose(random.Random(3), "List[int]")
    assert [unfolded(random.Random(9), puzzle) for _ in range(3)] == [unfolded(random.Random(9), puzzle)] * 3
