"""Tests the identity of puzzles by property: `python tests/endurance/identity.py --pairs 20000 [--seed N]`.

Each pair is a puzzle and a changed text of it: names renamed everywhere or at one place, names exchanged, names of
builtins or of other variables taken, texts that hold names changed, parts added that do nothing or that do something,
parts taken away. Both are asked the same answers: those of the puzzle's own solutions, trivial ones and probes.

* Equal ids must mean equal behaviour on all answers: the same value, or an exception of the same class.
* After an honest renaming (a name renamed everywhere, to one that nobody uses) equal behaviour should mean equal ids.
  What is told apart all the same is counted: it may be a duplicate too many, but never a wrong pair.

The puzzles are ours, those by rule, a list of texts in which names have a meaning, and P3's where they are there. Exit
status 1 if two puzzles with one id behave differently.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import copy
import json
import random
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]

from puzzles import answer_type  # noqa: E402  # a script's path begins with its own folder
from puzzles.archive.formats import read_puzzles  # noqa: E402
from puzzles.parse import Text, parse_candidates, parse_puzzles  # noqa: E402
from puzzles.puzzle import Candidate, Puzzle  # noqa: E402
from puzzles.rules import families  # noqa: E402
from puzzles.verify import JUDGE_WORLD, encoded_answers, judge_once, truth_pool  # noqa: E402
from sandbox import codec  # noqa: E402
from sandbox.pool import Pool  # noqa: E402

MEANINGFUL = [
    "def f(d: Dict[str, int], a=1):\n    return d == dict(a=a)",
    "def f(s: str, a='x'):\n    return s == '{a}!'.format(a=a)",
    "def f(s: str, a=3):\n    return s == f'{a=}'",
    "def f(x: int, a=3, b=4):\n    return x == locals()['a'] + b",
    "a = 3\nb = 4\ndef f(x: int):\n    return x == globals()['a'] + b",
    "def f(x: int, a=3, b=4):\n    return x == eval('a') + b",
    "class C:\n    a = 3\n    b = 4\ndef f(x: int, a=5):\n    return x == C.a + a",
    "class C:\n    def __init__(self, a):\n        self.a = a\ndef f(x: int):\n    return x == C(3).a",
    "def a(): return 1\nclass C:\n    def a(self):\n        return 2\ndef f(x: int):\n    return x == C().a() + a()",
    "def f(x: List[int], key=None):\n    return x == sorted([2, 1, 3], key=key)",
    "def h(a=1, b=2):\n    return a - b\ndef f(x: int):\n    return x == h(b=5)",
    "def h(**a):\n    return sum(a.values())\ndef f(x: int, b=3):\n    return x == h(b=b) + len('a')",
    "def f(x: int):\n    n = 0\n    def h():\n        nonlocal n\n        n += 2\n    h()\n    return x == n",
    "n = 5\ndef f(x: int):\n    global n\n    n = 7\n    return x == n",
    "def f(x: int):\n    match [x, 2]:\n        case [a, 2]:\n            return a == 7\n    return False",
    "def f(d: Dict[str, int]):\n    match d:\n        case {'a': a, **b}:\n            return a == 7 and b == {}",
    "def f(x: int):\n    def h(len):\n        return len\n    return x == len([1, 2]) + h(1)",
    "def f(x: int, sum=5):\n    return x == sum",
    "def a():\n    return 1\ndef f(s: str):\n    return s == a.__name__",
    "import functools\ndef h(a=1, b=2):\n    return a - b\ndef f(x: int):\n    return x == functools.partial(h, a=7)()",
    "from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(x: int, a=1):\n    return x == P(a, b=2).b",
    "def f(x: List[int]):\n    return [a for a in x if a > 2] == [3, 4] and all(a < 5 for a in x)",
    "def f(x: int):\n    try:\n        return x == 1 // 0\n    except Exception as a:\n        return x == len(str(a))",
    "def f(x: int, n=5):\n    return (lambda n: n + 1)(n) == x",
    "def f(x: int):\n    return x == (y := 4) + y",
    "def f(x: List[int]):\n    a, *b = x\n    return a == 5 and b == [6]",
    "import math as a\ndef f(x: int, b=9):\n    return x == a.isqrt(b)",
    "from math import isqrt as a\ndef f(x: int, b=9):\n    return x == a(b)",
    "def f(x: 'int', n: int=3) -> bool:\n    return x == n",
    "def f(x: int):\n    a = 3\n    del a\n    a = x\n    return a == 4",
    "def f(s: str, a='q'):\n    return s == '%(a)s' % {'a': a}",
    "class C(int):\n    def a(self):\n        return self + 1\ndef f(x: int):\n    return getattr(C(x), 'a')() == 8",
    "def f(x: int):\n    for a in range(3):\n        x += a\n    else:\n        a = 9\n    return x == a",
    "def f(x: int):\n    def a(n):\n        return n if n < 2 else a(n - 1) + a(n - 2)\n    return a(x) == 21",
    "def f(x: int):\n    return x == sum(a * b for a in range(3) for b in range(a))",
    "def f(x: int, *, a=2, b=3):\n    return x == a ** b",
    "def f(x: int):\n    with_ = {}\n    with_['a'] = 3\n    return x == with_['a']",
    "def f(s: str):\n    return s in ('len', 'a') and s != 'a'",
]
"""Puzzles in which some names mean something, and others do not."""


@dataclass(frozen=True)
class Subject:
    """A puzzle that is changed, with answers to ask."""

    text: str
    puzzle: Puzzle
    answers: tuple[bytes, ...]


@dataclass
class Counts:
    """What was found, by kind of change."""

    pairs: Counter[str] = field(default_factory=Counter)
    equal: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    """Pairs that behave alike, of those whose behaviour was compared."""
    told_apart: Counter[str] = field(default_factory=Counter)
    """Pairs that behave alike and have other ids."""
    wrong: list[tuple[str, str, str]] = field(default_factory=list)
    """Pairs with one id that behave differently: kind of change and both texts."""


def subjects(pool: Pool, rules: int, seed: int, p3: Path) -> list[Subject]:
    """Puzzles with their answers."""
    raws = [(raw.puzzle, raw.solutions) for name in ("train", "dev", "heldout") for raw in read_puzzles(name)]
    raws += [(pair.puzzle, (pair.solution,)) for pair in families.generate(seed, rules)]
    raws += [(raw.puzzle, raw.solutions) for raw in (read_puzzles(p3) if p3.exists() else [])]
    raws += [(text, ()) for text in MEANINGFUL]
    parsed = [
        (text, puzzle, solutions)
        for (text, solutions), puzzle in zip(raws, parse_puzzles(pool, [Text(text) for text, _ in raws]), strict=True)
        if isinstance(puzzle, Puzzle) and len(text) < 4000  # Python reads no longer number than 4,300 digits
    ]
    asked = [(puzzle, Text(s, rename={puzzle.original_name: "f"})) for _, puzzle, each in parsed for s in each[:1]]
    candidates = parse_candidates(pool, [text for _, text in asked])
    pairs = [
        (puzzle, candidate)
        for (puzzle, _), candidate in zip(asked, candidates, strict=True)
        if isinstance(candidate, Candidate)
    ]
    right = {pair[0].id: answer for pair, answer in zip(pairs, encoded_answers(pool, pairs), strict=True) if answer}
    return [Subject(text, puzzle, _answers(pool, puzzle, right.get(puzzle.id))) for text, puzzle, _ in parsed]


def _answers(pool: Pool, puzzle: Puzzle, right: bytes | None) -> tuple[bytes, ...]:
    values = [*answer_type.trivial_answers(puzzle.answer_type)[:6], *answer_type.probes(puzzle.answer_type)[:8]]
    encoded = [codec.encode(value, pool.limits.answer_bytes) for value in values]
    return tuple(dict.fromkeys(([right] if right else []) + encoded))


# ---- changes ----

Change = Callable[[random.Random, ast.Module], None]
CHANGES: dict[str, Change] = {}
HONEST = ("rename one", "rename all")


def change(name: str) -> Callable[[Change], Change]:
    """Register a change under a name."""

    def register(function: Change) -> Change:
        CHANGES[name] = function
        return function

    return register


FIELDS = ("id", "arg", "name", "asname", "rest")


def _bound(tree: ast.Module) -> list[str]:
    """Names that a program binds as variables, parameters or functions, by a rule of its own."""
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = None
        elif isinstance(node, ast.arg):
            names[node.arg] = None
        elif isinstance(node, ast.FunctionDef | ast.MatchAs | ast.MatchStar) and node.name:
            names[node.name] = None
    return [name for name in names if not name.startswith("__") and name not in ("f", "sat")]


def _places(tree: ast.Module) -> list[tuple[ast.AST, str]]:
    return [
        (node, name)
        for node in ast.walk(tree)
        for name in FIELDS
        if isinstance(getattr(node, name, None), str) and not (isinstance(node, ast.alias) and name == "name")
    ]


def _rename(tree: ast.Module, old: str, new: str) -> None:
    for node, name in _places(tree):
        if getattr(node, name) == old:
            setattr(node, name, new)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [new if name == old else name for name in node.names]


def _fresh(rng: random.Random, tree: ast.Module) -> str:
    used = {getattr(node, name) for node, name in _places(tree)} | {*dir(builtins)}
    while (name := rng.choice("abcdefghijklmnopqrstuvwxyz") + rng.choice(["", "1", "_", "q", "_total"])) in used:
        pass
    return name


@change("rename one")
def rename_one(rng: random.Random, tree: ast.Module) -> None:
    if names := _bound(tree):
        _rename(tree, rng.choice(names), _fresh(rng, tree))


@change("rename all")
def rename_all(rng: random.Random, tree: ast.Module) -> None:
    for name in _bound(tree):
        _rename(tree, name, _fresh(rng, tree))


@change("rename at one place")
def rename_at_one_place(rng: random.Random, tree: ast.Module) -> None:
    node, name = rng.choice(_places(tree))
    setattr(node, name, rng.choice([*_bound(tree), _fresh(rng, tree)]))


@change("take a used name")
def take_a_used_name(rng: random.Random, tree: ast.Module) -> None:
    used = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {"len", "int", "key", "a"})
    if names := _bound(tree):
        _rename(tree, rng.choice(names), rng.choice(used))


@change("exchange two names")
def exchange_two_names(rng: random.Random, tree: ast.Module) -> None:
    names = _bound(tree)
    if len(names) > 1:
        first, second = rng.sample(names, 2)
        for old, new in ((first, "\0"), (second, first), ("\0", second)):
            _rename(tree, old, new)


@change("exchange two uses")
def exchange_two_uses(rng: random.Random, tree: ast.Module) -> None:
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    if len(uses) > 1:
        first, second = rng.sample(uses, 2)
        first.id, second.id = second.id, first.id


@change("rename in a text")
def rename_in_a_text(rng: random.Random, tree: ast.Module) -> None:
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if texts and (names := _bound(tree)):
        text = rng.choice(texts)
        text.value = text.value.replace(rng.choice(names), rng.choice(names))


@change("rename a keyword")
def rename_a_keyword(rng: random.Random, tree: ast.Module) -> None:
    keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg]
    if keywords:
        rng.choice(keywords).arg = rng.choice([*_bound(tree), "a", "key", "default"])


@change("rename a member")
def rename_a_member(rng: random.Random, tree: ast.Module) -> None:
    members = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    if members:
        rng.choice(members).attr = rng.choice([*_bound(tree), "a", "b", "upper", "count"])


IDLE = [
    "import math", "import re, string", "from typing import List", "from itertools import product",
    "import heapq as hq", "def idle(n, m=2):\n    return n * m", "class Idle:\n    size = 3", "LIMIT = 100",
    "UNUSED: int = 5",
]  # fmt: skip


@change("add an idle part")
def add_an_idle_part(rng: random.Random, tree: ast.Module) -> None:
    tree.body.insert(0, *ast.parse(rng.choice(IDLE)).body)


ACTING = [
    "len = sum", "def sorted(x, **k):\n    return x", "import math as len", "from math import *", "int = float",
    "def sum(x):\n    return 3", "sorted = list", "abs, max = max, abs", "x = 5", "True_ = 1", "range = reversed",
]  # fmt: skip


@change("add a part that may act")
def add_a_part_that_may_act(rng: random.Random, tree: ast.Module) -> None:
    tree.body.insert(0, *ast.parse(rng.choice(ACTING)).body)


INNER = [
    "pass",
    "0",
    "'text'",
    "n_ = 3",
    "return False",
    "x",
    "if True:\n    pass",
    "len",
    "del_ = [1]",
    "1 // 0",
    "y_ = x",
]


@change("add a statement")
def add_a_statement(rng: random.Random, tree: ast.Module) -> None:
    body = rng.choice([node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]).body
    (made,) = ast.parse("def made():\n" + textwrap.indent(rng.choice(INNER), "    ")).body
    assert isinstance(made, ast.FunctionDef)
    body[(place := rng.randint(0, len(body))) : place] = made.body


@change("take a statement away")
def take_a_statement_away(rng: random.Random, tree: ast.Module) -> None:
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    long = [body for body in bodies if len(body) > 1]
    if long:
        body = rng.choice(long)
        del body[rng.randrange(len(body))]


# ---- the test ----


def changed(rng: random.Random, subject: Subject) -> tuple[str, str]:
    """A kind of change, and the changed text."""
    kind = rng.choice([*HONEST, *CHANGES])
    tree = copy.deepcopy(ast.parse(subject.text))
    CHANGES[kind](rng, tree)
    return kind, ast.unparse(ast.fix_missing_locations(tree))


def behaviour(pool: Pool, questions: Sequence[tuple[Puzzle, tuple[bytes, ...]]]) -> list[tuple[str, ...]]:
    """What each puzzle does with its answers: the values, or the classes of exceptions."""
    flat = [(puzzle, answer) for puzzle, answers in questions for answer in answers]
    outcomes = iter(judge_once(pool, flat, JUDGE_WORLD))
    shown = []
    for _, answers in questions:
        each = [next(outcomes) for _ in answers]
        shown.append(
            tuple(str(o.verdict or o.tag + (o.content if o.tag == b"V" else o.content.split(b":")[0])) for o in each)
        )
    return shown


def test_pairs(pool: Pool, chosen: Sequence[Subject], pairs: int, rng: random.Random, counts: Counts) -> None:
    """Make pairs, compare their ids, and compare the behaviour of those with one id and of honest renamings."""
    made = [(subject, *changed(rng, subject)) for subject in (rng.choice(chosen) for _ in range(pairs))]
    made = [each for each in made if ast.unparse(ast.parse(each[0].text)) != each[2]]
    parsed = parse_puzzles(pool, [Text(text) for _, _, text in made])
    compared = []
    for (subject, kind, text), puzzle in zip(made, parsed, strict=True):
        if not isinstance(puzzle, Puzzle) or puzzle.answer_type != subject.puzzle.answer_type:
            continue
        counts.pairs[kind] += 1
        is_equal = puzzle.id == subject.puzzle.id
        counts.equal[kind] += is_equal
        if (is_equal and puzzle.source != subject.puzzle.source) or kind in HONEST:
            compared.append((subject, kind, text, puzzle, is_equal))
    first = behaviour(pool, [(subject.puzzle, subject.answers) for subject, *_ in compared])
    second = behaviour(pool, [(puzzle, subject.answers) for subject, _, _, puzzle, _ in compared])
    for (subject, kind, text, _, is_equal), one, other in zip(compared, first, second, strict=True):
        counts.same[kind] += one == other
        if is_equal and one != other:
            counts.wrong.append((kind, subject.text, text))
        elif not is_equal and one == other:
            counts.told_apart[kind] += 1


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Test the identity of puzzles by property.")
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs of texts (default: 20000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes (default: 0)")
    parser.add_argument("--rules", type=int, default=1000, help="puzzles by rule (default: 1000)")
    parser.add_argument(
        "--p3", type=Path, default=ROOT.parent / "shared" / "data" / "p3" / "puzzles.json", help="P3's puzzles.json"
    )
    options = parser.parse_args()
    rng, counts = random.Random(options.seed), Counts()
    with truth_pool() as pool:
        chosen = subjects(pool, options.rules, options.seed, options.p3)
        weighted = [*chosen, *(each for each in chosen if each.text in MEANINGFUL for _ in range(20))]
        while sum(counts.pairs.values()) < options.pairs and not counts.wrong[20:]:
            test_pairs(pool, weighted, 1000, rng, counts)
            print(f"{sum(counts.pairs.values())} pairs, {len(counts.wrong)} wrong", file=sys.stderr, flush=True)
    print(f"{len(chosen)} puzzles, {sum(counts.pairs.values())} pairs")
    print(f"{'change':<26}{'pairs':>7}{'one id':>8}{'alike':>8}{'told apart':>12}{'wrong':>7}")
    wrong = Counter(kind for kind, _, _ in counts.wrong)
    for kind in CHANGES:
        alike = counts.same[kind]
        print(
            f"{kind:<26}{counts.pairs[kind]:>7}{counts.equal[kind]:>8}{alike:>8}{counts.told_apart[kind]:>12}{wrong[kind]:>7}"
        )
    for kind, one, other in counts.wrong[:20]:
        print(json.dumps({"change": kind, "puzzle": one, "changed": other}))
    return 1 if counts.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
