"""What a puzzle computes is the same in other words, and is found in other clothes."""

import pytest

from puzzles import tracing
from puzzles.guard import Guard
from puzzles.parse import Text, parse_puzzles
from puzzles.probing import forms, telling_answers
from puzzles.tracing import Asked, reports
from sandbox import codec
from selfplay.iteration import guarding
from selfplay.scoring.sets import NamedPuzzle

SECRET = "def f(n: int, k=60):\n    return n > 9 and (n + 17) * (n - 5) == 1904 and n % 4 == k % 7 - 1"
ANSWER = "def g():\n    return 39"
LONG = (
    "def f(s: str, n=9):\n    return len(s) == n and s.isalpha() and s[:3] == s[-3:] and s.count('q') == 2 "
    "and sum(c in 'aeiou' for c in s) == 3"
)
LONG_ANSWER = "def g():\n    return 'qbaidtqba'"


def values(pool, source, *answers):
    encoded = [codec.encode(answer, 10**4) for answer in answers]
    (report,) = reports(pool, [Asked(source, encoded)], 4, 0.5)
    return [set(items) for items in report.traced]


@pytest.mark.parametrize(
    "text",
    [
        "def f(s: str, n=9):\n    if len(s) != n:\n        return False\n    if not s.isalpha():\n"
        "        return False\n    if s[:3] != s[-3:] or s.count('q') != 2:\n        return False\n    vowels = 0\n"
        "    for c in s:\n        if c in 'aeiou':\n            vowels += 1\n    return vowels == 3",
        "def g(s, n):\n    ok = s.count('q') == 2\n    return ok and s[:3] == s[-3:] and (len(s) == n)\n"
        "def f(s: str, n=9):\n    return not (not g(s, n) or not s.isalpha() or not sum(c in 'aeiou' for c in s) == 3)",
    ],
)
@pytest.mark.parametrize("answer", ["qbaidtqba", "Zebra 407", "x"])
def test_a_rewriting_computes_the_same_values_on_right_answers_and_on_wrong_ones(pool, text, answer):
    (one,), (other,) = values(pool, LONG, answer), values(pool, text, answer)
    assert len(one & other) >= 0.9 * len(one)


def test_code_that_only_costs_time_costs_a_traced_puzzle_little(pool):
    waste = "def f(s: str, n=9):\n    for _ in range(10**9):\n        pass\n    while s:\n        n + 1\n"
    (one,), (other,) = values(pool, LONG, "Zebra"), values(pool, waste + LONG.partition("\n")[2], "Zebra")
    assert len(one & other) >= 0.9 * len(one)


def test_a_puzzle_that_cannot_be_rewritten_computes_nothing(pool):
    assert values(pool, "def f(x: int):\n    return x == " + "(" * 90 + "7" + ")" * 90, 7) != []


def test_an_answer_that_ends_the_child_leaves_the_others_their_values(pool):
    slow = "def f(x: int):\n    while x == 7:\n        pass\n    return x == 5"
    encoded = [codec.encode(answer, 100) for answer in (5, 7, 9)]
    (report,) = reports(pool, [Asked(slow, (), said=encoded)], 4, 0.5)
    assert report.said == [True, None, False]


@pytest.mark.parametrize(
    ("value", "declared", "expected"),
    [
        (1205, "str", ["1205"]),
        ([3, 14], "str", ["3,14", "3 14"]),
        ([3, 14], "Tuple[int, int]", [(3, 14)]),
        ({5, 3}, "List[int]", [[3, 5]]),
        ("crab", "List[str]", [["c", "r", "a", "b"], ["crab"]]),
        (7, "List[int]", [[7]]),
        ({"a": 1}, "List[Tuple[str, int]]", [[("a", 1)]]),
        (3.5, "int", []),
    ],
)
def test_a_value_takes_the_forms_that_another_type_allows(value, declared, expected):
    assert forms(value, declared) == expected


@pytest.mark.parametrize("declared", ["int", "str", "List[Tuple[int, str]]", "Dict[str, Set[int]]", "Optional[float]"])
def test_telling_answers_are_distinct_and_can_be_encoded(declared):
    answers = telling_answers(declared, 6)
    assert len(answers) == len({codec.encode(answer, 10**4) for answer in answers}) >= 4


@pytest.fixture(scope="module")
def guard(pool):
    texts = [(SECRET, ANSWER), (LONG, LONG_ANSWER)]
    parsed = parse_puzzles(pool, [Text(text) for text, _ in texts])
    named = zip(("short", "long"), parsed, texts, strict=True)
    return guarding.guard_of(pool, {"dev": [NamedPuzzle(name, puzzle, (text[1],)) for name, puzzle, text in named]})


BODY = (
    "    if n % 4 != k % 7 - 1:\n        return False\n    low = n - 5\n    high = n + 17\n    if n <= 9:\n"
    "        return False\n    return low * high == 1904\n"
)
CLOTHES = {
    "the structure": "def f(n: int, k=60):\n" + BODY,
    "another type": "def f(t: str, k=60):\n    n = int(t)\n" + BODY,
    "in a pair": "def f(t: Tuple[int, int], k=60):\n    n, other = t\n    if other != 3:\n        return False\n"
    + BODY,
    "in a dict": "def f(t: Dict[str, int], k=60):\n    n = t['it']\n" + BODY,
    "shifted": "def f(t: int, k=60):\n    n = t - 250\n" + BODY,
    "negated": "def f(t: int, k=60):\n    n = -t\n" + BODY,
    "one more": "def h(n, k):\n" + BODY + "def f(n: int, k=60):\n    return n == 1234 or h(n, k)",
    "slow": "def f(n: int, k=60):\n    for _ in range(3 * 10**6):\n        pass\n" + BODY,
}


@pytest.mark.parametrize("kind", CLOTHES)
def test_a_guarded_puzzle_in_other_words_is_found_in_other_clothes_too(pool, guard, kind):
    (puzzle,) = parse_puzzles(pool, [Text(CLOTHES[kind])])
    found = guard.anew().examine(pool, [puzzle])
    assert [(hit.level, hit.name) for hit in found.values()] == [("trace", "dev/short")]


@pytest.mark.parametrize(
    "text",
    [
        "def f(n: int):\n    return n * 3 == 117",  # the same answer, by other values
        "def f(n: int, k=60):\n    return n > 9 and (n + 17) * (n - 5) == 2200",  # much the same, another answer
        "def f(t: str):\n    return int(t) * 2 == 78",
    ],
)
def test_a_puzzle_that_shares_an_answer_or_some_values_is_another_one(pool, guard, text):
    assert guard.anew().examine(pool, parse_puzzles(pool, [Text(text)])) == {}


def test_a_limit_is_never_a_difference():
    assert tracing.Report(said=[None]).said == [None]
    assert Guard().behaviours == Guard().traced == 0
