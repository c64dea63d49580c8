"""The share of a puzzle's conjuncts that an answer fulfils, against shares counted by hand."""

import ast
import json

import pytest

from puzzles.conjuncts import MOST_CONJUNCTS, SPLIT, shares, split
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import Verdict
from puzzles.verify import truth_pool, verify_texts


@pytest.fixture(scope="module")
def pool():
    with truth_pool(lanes=2, jobs=[SPLIT]) as pool:
        yield pool


CASES = {
    "the operands of an and": ("def f(x: int):\n    return x > 3 and x % 2 == 0 and x < 10", "12", 2 / 3),
    "of an and inside an and": ("def f(x: int):\n    return (x > 3 and x > 4) and (x > 5 and x > 90)", "8", 3 / 4),
    "an or is one": ("def f(x: int):\n    return (x == 1 or x == 2) and x > 0", "3", 1 / 2),
    "asserts": ("def f(s: str):\n    assert len(s) == 3\n    assert s[0] == 'a'\n    return 'b' in s", "'abcd'", 2 / 3),
    "returns of False": ("def f(x: int):\n    if x < 0:\n        return False\n    return x == 7", "5", 1 / 2),
    "raises": ("def f(x: int):\n    if x < 0: raise ValueError\n    return x == 7", "-5", 0),
    "what stands between": ("def f(x: int):\n    assert x > 0\n    y = x * x\n    return y == 49 and y", "5", 1 / 3),
    "one whose turn never came": ("def f(x: List[int]):\n    return len(x) == 3 and x[2] == 5", "[5]", 0),
    "a truth that is not True": ("def f(x: int):\n    return x and x > 5", "3", 1 / 2),
    "all hold, and yet": ("def f(x: int):\n    for n in range(3):\n        x += 1\n    return x", "5", 0),
    "a right answer": ("def f(x: int):\n    return x == 5 and x > 3", "5", 1),
    "no answer": ("def f(x: int):\n    return x == 5 and x > 3", "1 // 0", 0),
    "an answer of another type": ("def f(x: int):\n    return x != 5 and x != 3", "'a'", 0),
    "defaults": ("def f(x: int, n=3, m=4):\n    return x > n and x == m * n", "5", 1 / 2),
    "another name and helpers": (
        "def twice(x):\n    return x * 2\n\ndef sat(x: int):\n    return twice(x) > 4 and twice(x) == 8", "3", 1 / 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_share_is_the_one_counted_by_hand(pool, case):
    puzzle, answer, expected = CASES[case]
    (judgement,) = verify_texts(pool, [(puzzle, f"def g():\n    return {answer}")])
    (share,) = shares(pool, [(parse_puzzles(pool, [Text(puzzle)])[0], judgement)])
    assert share == pytest.approx(expected)
    assert (share == 1) == (judgement.verdict == Verdict.ACCEPTED)


def test_a_puzzle_of_many_conjuncts_is_asked_about_the_first_ones():
    source = f"def f(x: int):\n    return {' and '.join(f'x != {n}' for n in range(40))}"
    (record,) = split(json.dumps([source, "f"]).encode())
    assert len(json.loads(record)) == MOST_CONJUNCTS


def test_each_text_is_a_program():
    (record,) = split(json.dumps([CASES["what stands between"][0], "f"]).encode())
    assert [ast.unparse(ast.parse(text)) for text in json.loads(record)] == [
        "def f(x: int):\n    return not not x > 0",
        "def f(x: int):\n    y = x * x\n    return not not y == 49",
        "def f(x: int):\n    y = x * x\n    return y",
    ]
