"""A puzzle is refused as impossible only if it is: proved by its text, or failing on all probes in a way of its own."""

import itertools

import pytest

from puzzles import answer_type
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import Puzzle
from puzzles.verify import admit, verify_texts


def puzzle(pool, text):
    (parsed,) = parse_puzzles(pool, [Text(text)])
    assert isinstance(parsed, Puzzle), parsed
    return parsed


NEVER = {
    "no return": ("def f(x: int):\n    x == 3", "it returns nothing"),
    "an empty return": ("def f(x: int):\n    if x > 3:\n        return\n    raise ValueError", "it returns nothing"),
    "a return in a function inside": (
        "def f(x: int):\n    def h():\n        return True\n    h()",
        "it returns nothing",
    ),
    "False": ("def f(x: int): return False", "it returns False"),
    "False or None": (
        "def f(x: int):\n    if x > 3:\n        return None\n    return False",
        "it returns False or None",
    ),
    "one for True": ("def f(x: int): return 1", "it returns 1"),
    "a text": ("def f(x: int): return 'True'", "it returns 'True'"),
    "a generator": ("def f(x: List[int]):\n    for a in x:\n        yield a > 3", "it is a generator"),
    "above and below": ("def f(x: int): return x > 5 and x < 3", "no answer has x > 5 and x < 3"),
    "a chain": ("def f(x: float): return 5 < x < 3", "no answer has 5 < x and x < 3"),
    "nothing between": ("def f(x: int): return 3 < x and 4 > x", "no answer has 3 < x and 4 > x"),
    "two values": ("def f(s: str): return s == 'a' and len(s) > 0 and 'b' == s", "no answer has s == 'a' and 'b' == s"),
    "two lengths": (
        "def f(x: List[int]): return len(x) == 3 and sum(x) == 7 and len(x) > 4",
        "no answer has len(x) == 3 and len(x) > 4",
    ),
    "a default": ("def f(x: int, n=10): return x >= n and x % 3 == 1 and x <= 9", "no answer has x >= n and x <= 9"),
}


@pytest.mark.parametrize(("text", "why"), NEVER.values(), ids=NEVER)
def test_what_the_text_proves_impossible_is_refused(pool, text, why):
    (refusal,) = admit(pool, [puzzle(pool, text)])
    assert (refusal.reason, refusal.detail) == ("never_true", why)


POSSIBLE = {
    "a gap of one": ("def f(x: int): return 3 < x and 5 > x", 4),
    "a gap of a float": ("def f(x: float): return 3 < x and 4 > x", 3.5),
    "equal ends": ("def f(x: int): return x <= 777 and x >= 777", 777),
    "a changed name": ("def f(x: int):\n    x = x - 700\n    return x > 70 and x < 72", 771),
    "a named part": ("def f(x: int): return x > 500 and (x := x - 500) < 3 and x > 1", 502),
    "another len": ("def len(x): return 7 - x[0]\ndef f(x: List[int]): return len(x) == 3 and len(x) > 2", [4]),
    "either": ("def f(x: int): return (x > 500 or x < -500) and (x < -700 or x > 700)", 701),
    "one True among constants": ("def f(x: int):\n    if x == 777:\n        return True\n    return False", 777),
    "rebound": ("def f(x: int): return False\nf = lambda x: x == 777", 777),
    "a decorator": ("def swap(_): return lambda x: x == 777\n@swap\ndef f(x: int): return False", 777),
    "a defined one later": ("def f(x: int): return False\ndef f(x: int): return x == 777", 777),
    "an assertion": ("def f(x: List[int]):\n    assert len(x) == 37\n    return sum(x) == 37", [1] * 37),
    "a number in a text": ("def f(s: str): return int(s) == 777", "777"),
    "a search": ("import re\ndef f(s: str): return re.match('q(.)', s).group(1) == 'x'", "qx"),
    "a search and more": ("import re\ndef f(s: str): return re.match('q.', s) and s[1] == 'x'", "qx"),
    "falsy values": ("def f(x: List[str]): return x[36:] and x[36] == 'q'", ["q"] * 37),
    "a name that some answers set": (
        "def f(s: str):\n    for i, c in enumerate(s):\n        if c == 'z':\n            k = i\n    return k == 5",
        "aaaaaz",
    ),
    "a text before the condition": (
        "def f(s: str):\n    if len(s) < 30:\n        return 'too short'\n    return s[:2] == 'qx'",
        "qx" * 20,
    ),
    "a number before the condition": ("def f(x: int): return (x - 77777) or x > 0", 77777),
    "bits": ("def f(x: int): return (x > 5000) & (x % 7 == 3)", 5001),
    "a key": ("def f(d: Dict[str, int]): return d['qqq'] == 7", {"qqq": 7}),
    "an index": ("def f(x: List[int]): return x[36] == 7", [7] * 37),
}


@pytest.mark.parametrize(("text", "answer"), POSSIBLE.values(), ids=POSSIBLE)
def test_what_may_be_possible_is_admitted(pool, text, answer):
    (judgement,) = verify_texts(pool, [(text, f"def g(): return {answer!r}")])
    assert judgement.verdict == "accepted", judgement
    assert admit(pool, [puzzle(pool, text)]) == [None]


FAILING = {
    "a name that is not there": ("def f(x: int): return h(x) == 3", "always_raises"),
    "a wrong type": ("def f(x: List[int]): return x + 1 == 3", "always_raises"),
    "a method that is not there": ("def f(x: int): return x.upper() == 'A'", "always_raises"),
    "a tuple": ("def f(x: int): return x > 5, x < 9", "never_bool"),
    "a list": ("def f(x: List[int]): return [a > 3 for a in x]", "never_bool"),
    "a number": ("def f(x: List[int]): return sum(x) + 1", "never_bool"),
    "a text": ("def f(s: str): return s.upper() + '!'", "never_bool"),
    "a match": ("import re\ndef f(s: str): return re.match('.*', s)", "never_bool"),
}


@pytest.mark.parametrize(("text", "reason"), FAILING.values(), ids=FAILING)
def test_what_fails_on_all_probes_by_itself_is_refused(pool, text, reason):
    (refusal,) = admit(pool, [puzzle(pool, text)])
    assert refusal.reason == reason


SCALARS = ("int", "float", "str", "Any")
TYPES = [
    *SCALARS,
    *(
        f"{name}[{one}]"
        for name in ("List", "Set", "Optional")
        for one in ("int", "str", "List[int]", "Tuple[int, str]")
    ),
    *(f"Dict[{key}, {value}]" for key, value in itertools.product(("int", "str"), ("float", "List[str]"))),
    "Tuple[int, str, List[int]]",
    "Tuple[float, ...]",
    "List[Tuple[int, int]]",
]


@pytest.mark.parametrize("declared", [each for each in TYPES if "Any" not in each and each != "Set[List[int]]"])
def test_probes_have_their_type_and_many_sizes(declared):
    probes = answer_type.probes(declared)
    assert 9 <= len(probes) <= 64
    assert all(answer_type.matches(probe, declared) for probe in probes)
    if declared.startswith(("List", "Dict", "Set")):
        assert {0, 1, 2, 5} <= {len(probe) for probe in probes}
