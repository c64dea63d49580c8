"""Programs made for a puzzle from programs that solve others."""

import ast

import pytest

from puzzles.rules.porting import MOST_CHANGES, MOST_CHARACTERS, Porting, ported

PUZZLE = "def f(s: str, n=37):\n    return s.count('kiwi') == 3 and len(s) == n and s[0] == 'x'"
SEARCH = (
    "def g():\n    from itertools import product\n"
    "    return next((''.join(t) for n in range(5) for t in product('ab', repeat=n) if f(''.join(t))))"
)


def constants(text):
    return [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]


def with_same_constants(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = type(node.value).__name__
    return ast.dump(tree)


def many(pool, program, puzzle=PUZZLE, number=60):
    return ported(pool, [Porting(program, puzzle, seed) for seed in range(number)])


def test_a_ported_program_differs_in_a_few_constants_which_the_puzzle_has_or_which_are_near(pool):
    texts = many(pool, SEARCH)
    assert len(set(texts)) > 10
    assert SEARCH in texts
    assert {with_same_constants(text) for text in texts} == {with_same_constants(SEARCH)}
    before = constants(SEARCH)
    changed = [[(a, b) for a, b in zip(before, constants(text), strict=True) if a != b] for text in texts]
    assert max(map(len, changed)) == MOST_CHANGES
    instead = {pair for pairs in changed for pair in pairs}
    assert {b for a, b in instead if a == "ab"} == {"kiwi", "x", "xkiwi", "xkiw"}
    numbers = {b for a, b in instead if a == 5}
    assert numbers <= {37, 3, 0, 6, 4, 10, 50}
    assert numbers & {37, 3, 0}
    assert numbers & {6, 4, 10, 50}


def test_equal_seeds_make_equal_programs(pool):
    assert many(pool, SEARCH) == many(pool, SEARCH)


def test_a_constant_without_a_match_in_the_puzzle_stays(pool):
    assert {*many(pool, "def g():\n    return 0.5")} == {"def g():\n    return 0.5"}
    assert {*many(pool, "def g():\n    return [True, None, b'a']")} == {"def g():\n    return [True, None, b'a']"}


@pytest.mark.parametrize(
    "program",
    ["def g(:", "\0", "def g():\n    return " + "(" * 500, "-" * 50_000 + "1", f"def g():\n    return {'1 + ' * 100}1"],
    ids=["no program", "a null", "deep brackets", "deep signs", "a long program"],
)
def test_what_cannot_be_ported_makes_no_program_and_spoils_no_other(pool, program):
    asked = [Porting(program, PUZZLE, 0), Porting(SEARCH, PUZZLE, 0)]
    none, text = ported(pool, asked)
    assert none is None
    assert text is not None
    assert len(text) <= MOST_CHARACTERS
