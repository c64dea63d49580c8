"""Two puzzles are the same if they differ in names that mean nothing or in parts that do nothing; else they are not."""

import ast
import json

import numpy as np
import pytest
from places import ROOT

from puzzles import scopes
from puzzles.parse import Text, parse_puzzles
from puzzles.rules import families
from puzzles.verify import verify_texts

DIFFERENT = {
    "a generator that is shown": [
        "def {0}():\n    yield 1\ndef f(s: str):\n    return s in str({0}()) and s != 'a'", "aa", "ba"
    ],
    "a frame in a format": [
        "def {0}():\n    yield 1\ndef f(s: str):\n    return s == '{{0.gi_code.co_name}}'.format({0}())", "aa", "ba"
    ],
    "a keyword of a builtin type": [
        "def f(d: Dict[str, int], {0}=1):\n    return d == dict({0}={0})", "a", "b"
    ],
    "a format field": ["def f(s: str, {0}='x', k='y'):\n    return s == '{{a}}{{b}}'.format({0}={0}, {1}=k)", "a", "b"],
    "a named tuple's field": [
        "from collections import namedtuple\nP = namedtuple('P', 'a b')\n"
        "def f(x: int, {0}=1, {1}=2):\n    return x == P({0}={0}, {1}={1}).a", "a", "b",
    ],
    "locals": ["def f(x: int, {0}=1, {1}=2):\n    return x == locals()['a']", "a", "b"],
    "globals": ["{0} = 1\n{1} = 2\ndef f(x: int):\n    return x == globals()['a'] + {0} * {1}", "a", "b"],
    "vars": ["def f(x: int, {0}=1, {1}=2):\n    return x == vars()['a']", "a", "b"],
    "eval": ["def f(x: int, {0}=1, {1}=2):\n    return x == eval('a')", "a", "b"],
    "a class's member": [
        "class C:\n    {0} = 1\n    {1} = 2\ndef f(x: int):\n    return x == C.a", "a", "b"
    ],
    "a method named like a function": [
        "def {0}():\n    return 1\nclass C:\n    def {0}(self):\n        return 2\n    def b(self):\n        return 3\n"
        "def f(x: int):\n    return x == C().a() + {0}()", "a", "b",
    ],
    "a builtin that is bound elsewhere": [
        "def f(x: int):\n    def h({0}):\n        return {0}\n    return x == {0}([1, 2]) + h(1)", "len", "sum"
    ],
    "a function that shows its name": [
        "def {0}():\n    return 1\ndef f(s: str):\n    return s == str({0})[10] and {0}() == 1", "aa", "ba"
    ],
    "a function's own name": [
        "def {0}():\n    return 1\ndef f(s: str):\n    return s == {0}.__name__", "aa", "ba"
    ],
    "keywords behind two stars": [
        "def h(a=1, b=2):\n    return a\ndef f(x: int):\n    return x == h(**{{'{0}': 5}})", "a", "b"
    ],
    "keywords that a function collects": [
        "def h(**k):\n    return k.get('a', 0)\ndef f(x: int, {0}=3):\n    return x == h({0}={0})", "a", "b"
    ],
    "a partial function's keyword": [
        "import functools\ndef h(a=1, b=2):\n    return a - b\n"
        "def f(x: int):\n    return x == functools.partial(h, {0}=7)()", "a", "b",
    ],
    "a sort key": [
        "def f(x: List[int], {0}=None):\n    return x == sorted([2, 1], {0}={0})", "key", "reverse"
    ],
    "a module named like a parameter": [
        "import {0}\ndef f(s: str):\n    def h({0}):\n        return {0}\n"
        "    return s == h('a') + {0}.__name__", "math", "string",
    ],
    "an exception's message": [
        "def f(s: str):\n    try:\n        {0}\n        {0} = 1\n"
        "    except NameError as e:\n        return s == str(e)", "aa", "bb",
    ],
    "an attribute that is computed": [
        "class C:\n    {0} = 1\n    k = 2\ndef f(x: int):\n    return x == getattr(C, chr(97))", "a", "b"
    ],
    "a name that looks like a number": ["def f(d: Dict[str, int], {0}=1):\n    return d == dict({0}={0})", "v1", "v2"],
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_puzzles_that_differ_in_a_name_that_means_something_are_two(pool, kind):
    pattern, one, other = DIFFERENT[kind]
    first, second = parse_puzzles(pool, [Text(pattern.format(*names)) for names in ((one, other), (other, one))])
    assert first.source != second.source
    assert first.id != second.id


SAME = {
    "parameters": "def f({0}: int, {1}=3):\n    return {0} == {1}",
    "a shadowed builtin": "def f({0}: int, {1}=3):\n    {2} = {0} + {1}\n    return {2} == 10",
    "a helper's keyword": "def h({0}=1):\n    return {0}\ndef f({1}: int):\n    return {1} == h({0}=4)",
    "comprehensions": "def f({0}: List[int]):\n    return [{1} for {1} in {0} if {1} > 2] == [3, 4]",
    "an f-string": "def f({0}: str, {1}=3):\n    return {0} == f'{{{1}}}-{{{1}:>4}}'",
    "a global": "{0} = 0\ndef f({1}: int):\n    global {0}\n    {0} = {1}\n    return {0} == 7",
    "a nonlocal": (
        "def f({0}: int):\n    {1} = 0\n    def {2}():\n        nonlocal {1}\n        {1} += {0}\n"
        "    {2}()\n    return {1} == 4"
    ),
    "a pattern": (
        "def f({0}: List[int]):\n    match {0}:\n        case [{1}, *{2}]:\n"
        "            return {1} == 1 and {2} == [2]\n    return False"
    ),
    "a key function": (
        "def {0}({1}):\n    return -{1}\ndef f({2}: List[int]):\n    return {2} == sorted([1, 3, 2], key={0})"
    ),
    "a loop": "def f({0}: int):\n    {1} = 0\n    for {2} in range({0}):\n        {1} += {2}\n    return {1} == 45",
    "a lambda": "def f({0}: int):\n    return (lambda {1}: {1} * 2)({0}) == 84",
}


@pytest.mark.parametrize("kind", SAME)
def test_puzzles_that_differ_in_names_that_mean_nothing_are_one(pool, kind):
    names = [("x", "k", "t"), ("zeta", "x", "k"), ("number", "sum", "list"), ("_a", "v0", "v1")]
    parsed = parse_puzzles(pool, [Text(SAME[kind].format(*each)) for each in names])
    assert len({puzzle.source for puzzle in parsed}) == len(names)
    assert len({puzzle.id for puzzle in parsed}) == 1


BASE = "def f(x: int, k=7):\n    return helper(x) == k\ndef helper(n):\n    return n * n - 2"
IDLE = {
    "an unused import": "import math\n" + BASE,
    "several": "import math, itertools as it\nfrom collections import Counter, deque\n" + BASE,
    "typing's names": "from typing import List, Dict\n" + BASE,
    "an unused helper": "def unused(a, b=3):\n    return a + other(b)\ndef other(b):\n    return b\n" + BASE,
    "an unused constant": "LIMIT = 100\nNAMES = ['a', 'b']\n" + BASE,
    "an unused constant that would take long": "T = [0] * 10**9\n" + BASE,
    "pass": BASE.replace("    return n", "    pass\n    return n"),
    "a text": BASE.replace("    return n", "    'a text'\n    return n"),
    "an unread name": BASE.replace("    return n", "    unread = 3\n    return n"),
    "what stands behind the end": BASE + "\n    return n + 1\n    print(n)",
    "a branch that is never taken": BASE.replace("    return n", "    if False:\n        return 3\n    return n"),
    "an assertion of True": BASE.replace("    return n", "    assert True\n    return n"),
}


@pytest.mark.parametrize("kind", IDLE)
def test_a_part_that_does_nothing_makes_no_new_puzzle(pool, kind):
    first, second = parse_puzzles(pool, [Text(BASE), Text(IDLE[kind])])
    assert (second.id, second.skeleton, second.shingles) == (first.id, first.skeleton, first.shingles)


PLAIN = "def f(x: int):\n    return x == 3"
ACTIVE = {
    "a name that decides a scope": "x = 3\ndef f(x: int):\n    return x == 3\n    x = 4\n    y = 3",
    "a generator": PLAIN + "\n    yield",
    "an import that may fail": PLAIN.replace("    ret", "    import nowhere\n    ret"),
    "a name that is not in its module": "from math import nowhere\n" + PLAIN,
    "a default that fails": "def h(a=1 // 0):\n    return a\n" + PLAIN,
    "a decorator": "def d(h):\n    return 1 // 0\n@d\ndef h():\n    pass\n" + PLAIN,
}


@pytest.mark.parametrize("kind", ACTIVE)
def test_a_part_that_may_matter_makes_another_puzzle(pool, kind):
    first, second = parse_puzzles(pool, [Text(PLAIN), Text(ACTIVE[kind])])
    assert first.id != second.id


def renamed(text, rng):
    """The program with one of its names changed everywhere, to one that may mean something else there."""
    tree = ast.parse(text)
    bound = sorted(scopes._bound(list(ast.walk(tree))) - {"f", "sat"})
    if not bound:
        return text
    old = bound[int(rng.integers(len(bound)))]
    new = ["zz", "list", "key", "a", "math", "v3", *bound][int(rng.integers(6 + len(bound)))]
    for node in ast.walk(tree):
        for field in ("id", "arg", "name", "rest"):
            if getattr(node, field, None) == old and not isinstance(node, ast.alias):
                setattr(node, field, new)
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [new if name == old else name for name in node.names]
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.mark.slow
def test_equal_identities_of_renamed_puzzles_mean_equal_verdicts(pool):
    rng = np.random.default_rng(11)
    lines = [json.loads(line) for line in (ROOT / "puzzles" / "train.jsonl").read_text().splitlines()]
    pairs = [(line["puzzle"], line["solution"]) for line in lines if "solution" in line]
    pairs += [(pair.puzzle, pair.solution) for pair in families.generate(3, 300)]
    texts = [(renamed(puzzle, rng), solution) for puzzle, solution in pairs]
    first = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in pairs])
    second = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in texts])
    verdicts = verify_texts(pool, texts)
    same = [place for place in range(len(pairs)) if getattr(second[place], "id", None) == first[place].id]
    assert len(same) > len(pairs) / 2
    assert {verdicts[place].verdict for place in same} == {"accepted"}
