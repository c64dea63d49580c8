"""Solutions that search: what they go through, how they are written, and that what they find is right."""

import ast
import random
import re
from collections import Counter

import pytest

from puzzles.rules import composition
from puzzles.rules.searching import MOST_CALLS, searched
from puzzles.verify import verify_texts

RIGHT = "def f({}):\n    return {}"


def searches(puzzle, answer, seeds=60, header="def g():"):
    """All that different draws make of a puzzle."""
    given = f"{header}\n    return {answer}"
    drawn = (searched(random.Random(seed), puzzle, given) for seed in range(seeds))
    return list(dict.fromkeys(text for text in drawn if text != given))


@pytest.mark.parametrize(
    ("parameter", "test", "answer", "expected"),
    [
        ("x: int", "x * 3 == 111", "37", "def g():\n    return next((x for x in range(50) if f(x)))"),
        ("x: int", "x * 3 == -111", "-37",
         "def g():\n    for x in range(-50, 50):\n        if f(x):\n            return x"),
        ("x: float", "x * 4 == 5", "1.25", "def g():\n    return next((x / 4 for x in range(10) if f(x / 4)))"),
        ("s: str", "s.count('b') == 2 and len(s) == 3", "'abb'",
         "def g():\n    from itertools import product\n"
         "    return next((''.join(t) for t in product('ab', repeat=3) if f(''.join(t))))"),
        ("s: str", "s == 'x' * 5", "'xxxxx'", "def g():\n    return next(('x' * n for n in range(10) if f('x' * n)))"),
        ("s: str", "sorted(s) == ['e', 'n', 't'] and s > 'n'", "'net'",
         "def g():\n    from itertools import permutations\n"
         "    return next((''.join(p) for p in permutations('ent') if f(''.join(p))))"),
        ("s: str", "len(s) == 4 and s.endswith('use') and s < 'n' and (s > 'h')", "'muse'",
         "def g():\n    from string import ascii_lowercase\n"
         "    return next((c + 'use' for c in ascii_lowercase if f(c + 'use')))"),
        ("a: List[int]", "a[0] * a[1] == 42 and len(a) == 2", "[6, 7]",
         "def g():\n    from itertools import product\n"
         "    return next((list(t) for t in product(range(10), repeat=2) if f(list(t))))"),
        ("a: List[bool]", "a == [1, 0]", "[True, False]",
         "def g():\n    from itertools import product\n"
         "    return next((list(t) for t in product([False, True], repeat=2) if f(list(t))))"),
        ("s: Set[int]", "sum(s) == 11 and len(s) == 3", "{1, 2, 8}",
         "def g():\n    from itertools import combinations\n"
         "    return next((set(c) for c in combinations(range(10), 3) if f(set(c))))"),
        ("d: Dict[str, int]", "d['p'] - d['q'] == 5", "{'p': 9, 'q': 4}",
         "def g():\n    from itertools import product\n"
         "    return next((dict(zip('pq', t)) for t in product(range(10), repeat=2) if f(dict(zip('pq', t)))))"),
        ("t: Tuple[int, int]", "t[0] * t[1] == 42", "(6, 7)",
         "def g():\n    from itertools import product\n"
         "    for t in product(range(10), repeat=2):\n        if f(t):\n            return t"),
        ("m: List[List[int]]", "[sum(r) for r in m] == [3, 5] and len(m[0]) == len(m[1]) == 2", "[[1, 2], [2, 3]]",
         "def g():\n    from itertools import product\n"
         "    return next(([[t[0], t[1]], [t[2], t[3]]] for t in product(range(5), repeat=4) "
         "if f([[t[0], t[1]], [t[2], t[3]]])))"),
        ("w: List[str]", "[v.count('#') for v in w] == [1, 2] and set(''.join(w)) == {'#', '.'}", "['#.', '##']",
         "def g():\n    from itertools import product\n"
         "    return next((list(a) for a in product([''.join(t) for t in product('#.', repeat=2)], repeat=2) "
         "if f(list(a))))"),
    ],
)  # fmt: skip
def test_each_type_of_answer_has_forms_of_its_own(parameter, test, answer, expected):
    assert expected in searches(RIGHT.format(parameter, test), answer, seeds=1500)


def test_a_puzzle_that_raises_on_an_earlier_answer_is_asked_with_care():
    texts = searches(RIGHT.format("x: int", "60 % x == 0 and x > 6"), "12")
    begun_at_zero = [text for text in texts if re.search(r"range\((\d+|-.*)\)", text)]
    assert begun_at_zero
    assert all("except Exception:" in text for text in begun_at_zero)
    assert any("except Exception:" not in text for text in texts)
    assert (
        "def g():\n    for x in range(20):\n        try:\n            if f(x):\n                return x\n"
        "        except Exception:\n            pass"
    ) in texts


def test_what_they_find_may_be_another_answer_than_the_known_one(pool):
    texts = searches(RIGHT.format("x: int", "x % 7 == 3 and x > 20"), "94")
    judged = verify_texts(pool, [(RIGHT.format("x: int", "x % 7 == 3 and x > 20"), text) for text in texts])
    assert {(str(judgement.verdict), judgement.answer) for judgement in judged} == {("accepted", "24")}


@pytest.mark.slow
def test_searches_of_all_types_are_right(pool):
    rng, made, given = random.Random(4), [], Counter()
    for declared in composition.ANSWERS:
        for _ in range(15):
            puzzle, solution = composition.compose(rng, declared)
            text = searched(rng, puzzle, solution)
            made.append((puzzle, text))
            given[declared] += text != solution
    assert {str(judgement.verdict) for judgement in verify_texts(pool, made)} == {"accepted"}
    assert sum(given.values()) > 0.7 * len(made)
    assert given.keys() == composition.ANSWERS.keys()
    assert min(given.values()) >= 3


def test_texts_are_what_unparse_writes():
    rng = random.Random(8)
    for declared in [*composition.ANSWERS] * 20:
        text = searched(rng, *composition.compose(rng, declared))
        assert ast.unparse(ast.parse(text)) == text


def test_a_parameter_of_the_puzzle_is_no_variable_of_the_search():
    texts = searches(RIGHT.format("v: int, x=7, n=9", "v == x * n"), "63", header="def g(x=7, n=9):")
    assert len(texts) > 5
    for text in texts:
        bound = {
            node.id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert bound
        assert not bound & {"x", "n"}


def test_a_search_that_takes_too_long_is_not_written():
    soon, late = (f"x * x == {root * root}" for root in (MOST_CALLS - 50, MOST_CALLS + 50))
    assert searches(RIGHT.format("x: int", soon), str(MOST_CALLS - 50))
    assert not any("range(5000)" in text for text in searches(RIGHT.format("x: int", late), str(MOST_CALLS + 50)))


def test_a_puzzle_of_several_statements_is_no_rules_own():
    with pytest.raises(ValueError, match="expected a function with one return"):
        searched(random.Random(0), "def f(x: int):\n    y = x\n    return y == 5", "def g():\n    return 5")
