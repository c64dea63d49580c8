import ast
import importlib

import pytest

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate
from puzzles.verify import AUDITED_BELOW, MOST_SHARING, truth_pool, verify
from sandbox import child, harmless
from sandbox.pool import RUN_TOGETHER, Job
from sandbox.result import Limits, Status

LIMITS = Limits(cpu_seconds=0.5, wall_seconds=2)

HARMLESS = [
    "def g():\n    return 1",
    "def g(n=10, *rest, k: int=3):\n    return [x * n for x in range(k) if x % 2]",
    "import math\ndef g():\n    return math.gcd(4, 6) + math.isqrt(17)",
    "import math as m\nfrom itertools import chain, product\ndef g():\n    return list(chain(product('ab', [m.pi])))",
    "from collections import Counter, defaultdict, deque\ndef g():\n    return Counter('aab').most_common(1)",
    "from functools import lru_cache, reduce\n@lru_cache(None)\ndef h(n):\n    return n\ndef g():\n    return h(3)",
    "import heapq, bisect, string, operator, copy, statistics, fractions",
    "from typing import List, Dict\nD: Dict[str, List[int]] = {}\ndef g(x: Optional[set]=None) -> Tuple[int, ...]: 1",
    "from operator import itemgetter\ndef g():\n    return sorted([(2, 1)], key=itemgetter(1))",
    "def g():\n    try:\n        return next(x for x in iter(int, 1))\n    except (ValueError, StopIteration) as e:\n"
    "        return str(e)\n    finally:\n        pass",
    "def g():\n    n = 0\n    def h():\n        nonlocal n\n        n += 1\n        yield n\n    return [*h()]",
    "LIMIT: int = 5\ndef g():\n    if (n := LIMIT) > 3:\n        return f'{n:>{LIMIT}}' + '%s' % n",
    "def g():\n    d = {'a': 1}\n    d['b'] = 2\n    del d['a']\n    x = [1, 2]\n    x[0:1] = []\n    return f(d, x=x)",
    "def g():\n    return (lambda *a, **k: a)(*[1], **{'k': 2})",
    "def g() -> List[int]:\n    _ = [0 for _ in 'ab']\n    return _",
]

DANGEROUS = [
    "import typing",
    "from typing import List as L",
    "from typing import get_type_hints",
    "def g():\n    return str(List[1.0])",
    "def g(x: List[1.0]): pass",
    "def g(x: List['g()']): pass",
    "def g(x: List[(y := int)]): pass",
    "def g() -> List[h()]: pass",
    "def g():\n    x = List\n    return x[1.0]",
    "def g():\n    return Counter[1.0]",
    "def h():\n    from collections import Counter\ndef g():\n    return Counter[1.0]",
    "from collections import deque as Counter\ndef g():\n    return Deque",
    "class A: pass",
    "import re",
    "def g():\n    int = 3\n    def h(x: List[int]): pass",
    "def g(int):\n    def h(x: List[int]): pass",
    "def int(): pass\ndef h(x: List[int]): pass",
    "from math import pi as int",
    "def g():\n    try:\n        yield 1\n    finally:\n        pass",
    "def g():\n    return '{0.__class__}'.format(f)",
    "async def g(): pass",
    "def g():\n    with x: pass",
    "def g():\n    match 1:\n        case int(real=x): return x",
    "def g():\n    global f\n    f = 1",
    "def g():\n    return f.__code__",
    "def g():\n    return f._cache",
    "def g():\n    f.calls = 1",
    "def g():\n    del f.calls",
    "def g():\n    f.count += 1",
    "def g():\n    for f.count in [1]: pass",
    "import math\nmath.gcd = None",
    "import math\ndef g():\n    [0 for math.gcd in [1]]",
    "import math\ndef g():\n    (math.gcd, x) = 1, 2",
    "import os",
    "import random",
    "import sys",
    "import collections.abc",
    "import builtins",
    "from . import x",
    "from math import *",
    "from operator import attrgetter",
    "from operator import methodcaller",
    "import operator\ndef g():\n    return operator.attrgetter('x')",
    "from string import Formatter",
    "import string\ndef g():\n    return string.Formatter()",
    "from functools import update_wrapper",
    "from functools import wraps",
    "from functools import singledispatch",
    "from functools import total_ordering",
    "from collections import namedtuple",
    "from typing import get_type_hints",
    "from copy import copyreg",
    "import re\ndef g():\n    return re.enum",
    "import re\ndef g():\n    return re.compile('a').match('a').re",
    "def g():\n    return (x for x in []).gi_frame",
    "def g():\n    try:\n        f()\n    except Exception as e:\n        return e.__traceback__",
    "def g():\n    try:\n        f()\n    except* ValueError:\n        pass",
    "def g(__class__=1): pass",
    "def g():\n    return dict(__class__=1)",
    "import math as __builtins__",
    "from math import pi as getattr",
    "def getattr(): pass",
    "def g():\n    def h():\n        global type\n        type = 1\n    return type",
    *(
        f"def g():\n    return {name}"
        for name in (  # noqa: SIM905  # a table is easier to read
            "type object super getattr setattr delattr hasattr vars globals locals dir eval exec compile open input id "
            "memoryview property staticmethod classmethod callable breakpoint help exit __import__ __builtins__ "
            "get_type_hints no_type_check runtime_checkable NamedTuple NewType ForwardRef final overload cast "
            "BaseException SystemExit KeyboardInterrupt MemoryError"
        ).split()
    ),
]


@pytest.mark.parametrize("source", HARMLESS)
def test_a_program_of_data_and_pure_functions_is_harmless(source):
    assert harmless.is_harmless(ast.parse(source))


@pytest.mark.parametrize("source", DANGEROUS)
def test_what_reaches_beyond_its_own_values_is_not_harmless(source):
    assert not harmless.is_harmless(ast.parse(source))


def test_no_listed_module_offers_another_module_or_a_door_under_a_listed_name():
    doors = {"attrgetter", "methodcaller", "Formatter", "update_wrapper", "get_type_hints", "copyreg", "sys", "modules"}
    assert not harmless.ATTRIBUTES & doors
    for module in harmless.MEMBERS:
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, type(ast)):
                assert name not in harmless.ATTRIBUTES or name in harmless.MEMBERS, f"{module}.{name}"


@pytest.mark.parametrize("module", harmless.MEMBERS)
def test_every_listed_member_exists(module):
    members = harmless.MEMBERS[module].split()
    assert [name for name in members if not hasattr(importlib.import_module(module), name)] == (
        ["from_iterable"] if module == "itertools" else []
    )


# ---- in one child ----


@pytest.fixture(scope="module")
def pool():
    with truth_pool(LIMITS, lanes=1) as pool:
        yield pool


def together(pool, *bodies, puzzle="def f(x: int):\n    return x > 1", cpu_seconds=None):
    sources = [body if body.startswith("def") else f"def g():\n    return {body}" for body in bodies]
    payload = child.program([puzzle], "g", [b"[]"] * len(sources), LIMITS.answer_bytes, sources)
    return next(pool.run([Job(RUN_TOGETHER, payload, cpu_seconds=cpu_seconds)]))


def test_each_program_of_a_shared_child_leaves_one_record(pool):
    result = together(pool, "1", "type(1)", "1 // 0", "[f(2), f(1)]", "lambda: 0", "f.x", "2", "h")
    assert result.status == Status.FINISHED
    assert [record[:40] for record in result.records] == [
        b"V1", b"R", b"EZeroDivisionError: integer division or ", b"V[true,false]",
        b"UCodecError: function is not plain data", b"R", b"V2", b"ENameError: name 'h' is not defined",
    ]  # fmt: skip


def test_a_puzzle_that_is_not_harmless_shares_its_child_with_nobody(pool):
    result = together(pool, "1", "2", puzzle="class A: pass\ndef f(x: int):\n    return x > 1")
    assert result.records == (b"R", b"R")


def test_programs_of_a_shared_child_see_nothing_of_each_other(pool):
    body = "def g(seen=[]):\n    seen += [1]\n    return [len(seen), len(TABLE)]"
    define = "def f(x: int, table=[1]):\n    table += [1]\n    return len(table) == 2\nTABLE = [1]"
    result = together(pool, body, "def g():\n    TABLE.append(1)\n    return f(1)", body, "f(1)", puzzle=define)
    assert result.records == (b"V[1,1]", b"Vtrue", b"V[1,1]", b"Vtrue")


def test_what_one_program_leaves_to_the_collector_is_gone_before_the_next_begins():
    hoard = "def g():\n    x = [bytearray(40_000_000)]\n    x += [x]\n    return 1"
    take = "def g():\n    try:\n        return len(bytearray(60_000_000))\n    except Exception:\n        return 0"
    with truth_pool(Limits(cpu_seconds=2, memory_bytes=128 * 1024**2), lanes=1) as small:
        assert together(small, hoard, hoard, take).records == (b"V1", b"V1", b"V60000000")


def test_a_shared_child_ends_at_its_own_cpu_limit_and_keeps_what_was_done(pool):
    result = together(pool, "1", "sum(iter(int, 1))", "2", cpu_seconds=0.05)
    assert (result.status, result.records, result.detail) == (Status.CPU_LIMIT, (b"V1",), "over 0.05 s of CPU time")
    assert result.cpu_seconds < 0.15


# ---- in verification ----


def pairs(pool, puzzle, *bodies):
    (parsed,) = parse_puzzles(pool, [Text(puzzle)])
    texts = [Text(body if body.startswith("def") else f"def g():\n    return {body}") for body in bodies]
    return [(parsed, candidate) for candidate in parse_candidates(pool, texts)]


def verdicts(pool, pairs):
    return [str(judgement.verdict) for judgement in verify(pool, pairs)]


class Recorder:
    """A pool that keeps which jobs ran."""

    def __init__(self, pool):
        self.pool, self.limits, self.labels = pool, pool.limits, []

    def run(self, jobs):
        def seen():
            for job in jobs:
                self.labels.append((job.function.partition(":")[2], job.world, job.label.partition(" ")[0]))
                yield job

        return self.pool.run(seen())


def test_what_holds_runs_again_alone_and_what_does_not_runs_once(pool):
    asked = pairs(pool, "def f(x: int):\n    return x > 1", *"0123")
    recorder = Recorder(pool)
    assert verdicts(recorder, asked) == ["wrong_answer", "wrong_answer", "accepted", "accepted"]
    audited = sum(candidate.id < AUDITED_BELOW for _, candidate in asked[:2])
    assert recorder.labels.count(("run_program", 0, "candidate")) == 2 + audited
    assert recorder.labels.count(("run_together", 0, "4")) == 1
    assert [label for label in recorder.labels if label[1] > 0] == [("run_together", 1, "4"), ("run_together", 2, "2")]


def test_one_candidate_has_its_child_from_the_start(pool):
    recorder = Recorder(pool)
    assert verdicts(recorder, pairs(pool, "def f(x: int):\n    return x > 1", "2")) == ["accepted"]
    assert [label[:2] for label in recorder.labels] == [("run_program", world) for world in (0, 1, 2)]


def test_a_slow_or_greedy_candidate_does_not_change_the_verdicts_of_its_neighbours(pool):
    slow = "def g():\n    x = 0\n    for i in range(600_000):\n        x += 1\n    return x"
    deep = "def g():\n    def h(n):\n        return 0 if n == 0 else 1 + h(n - 1)\n    return h(100_000)"
    bodies = ["1", slow, "sum(iter(int, 1))", "[0] * 10 ** 12", deep, "9", "'a' * 10 ** 6", "2", "type(7)(7)"]
    expected = [
        "wrong_answer", "accepted", "time_limit", "memory_limit", "runtime_error", "accepted", "unanswerable_value",
        "accepted", "accepted",
    ]  # fmt: skip
    asked = pairs(pool, "def f(x: int):\n    return x > 1", *bodies)
    assert verdicts(pool, asked) == expected
    assert verdicts(pool, asked[::-1]) == expected[::-1]
    assert [verdicts(pool, [pair])[0] for pair in asked] == expected


def test_more_candidates_than_share_a_child_are_all_judged(pool):
    count = 2 * MOST_SHARING + 3
    asked = pairs(pool, "def f(x: int):\n    return x % 2 == 0", *map(str, range(count)))
    assert verdicts(pool, asked) == ["accepted" if n % 2 == 0 else "wrong_answer" for n in range(count)]


@pytest.mark.parametrize(
    ("alone", "verdict", "identifier"),
    [("1", "unstable", "ff"), ("7", "accepted", "ff"), ("1", "wrong_answer", "00"), ("7", "accepted", "00")],
    ids=["does not hold alone", "holds otherwise alone", "audited: does not hold", "audited: holds otherwise"],
)
def test_what_a_candidate_yields_alone_counts_and_a_difference_is_noted(pool, alone, verdict, identifier):
    (puzzle, first), (_, second) = pairs(pool, "def f(x: int):\n    return x > 1", "2", "3")
    first = Candidate(first.source, identifier)

    class Lying(Recorder):
        def run(self, jobs):
            for job, result in zip(held := list(jobs), self.pool.run(held), strict=True):
                if job.label == f"candidate {identifier} of puzzle {puzzle.id}":
                    result = type(result)(result.status, (b"V" + alone.encode(),), result.detail, result.cpu_seconds)
                yield result

    judged = verify(Lying(pool), [(puzzle, first), (puzzle, second)])
    assert [str(judgement.verdict) for judgement in judged] == [verdict, "accepted"]
    assert judged[0].detail == f"solve: beside others it returned 2, alone it returned {alone}"
    assert judged[0].answer == alone


def test_a_solution_whose_answer_depends_on_addresses_is_as_right_beside_others_as_alone(pool):
    body = "def g():\n    s = {(i, None) for i in range(12)}\n    return [a for a, _ in s]"
    asked = pairs(pool, "def f(x: List[int]):\n    return sorted(x) == list(range(12))", "[1]", body)
    assert verdicts(pool, asked) == ["wrong_answer", "accepted"]


def test_an_accept_is_confirmed_in_a_world_that_meets_the_answers_in_the_opposite_order(pool):
    asked = pairs(pool, "def f(x: int):\n    return x > 1", "2", "3", "4")
    seen = []

    class Watching(Recorder):
        def run(self, jobs):
            for job in (held := list(jobs)):
                if job.world in (1, 2):
                    seen.append((job.world, [blob for blob in child.unpack(job.payload) if blob[:1] == b"["]))
            return self.pool.run(held)

    assert verdicts(Watching(pool), asked) == ["accepted"] * 3
    assert seen == [(1, [b"[2]", b"[3]", b"[4]"]), (2, [b"[4]", b"[3]", b"[2]"])]
