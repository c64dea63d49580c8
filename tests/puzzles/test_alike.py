"""Candidates that differ in names and layout only are one program, which is judged once."""

import dataclasses
import itertools
import random

import pytest

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Verdict
from puzzles.verify import truth_pool, verify
from sandbox.pool import RUN_PROGRAM
from sandbox.result import Limits

SUM = "def f(x: List[int]):\n    return len(x) == 4 and sum(x) == -1"


@pytest.fixture(scope="module")
def pool():
    with truth_pool(Limits(cpu_seconds=0.1), lanes=2) as pool:
        yield pool


@pytest.fixture
def runs(pool, monkeypatch):
    """The payloads that ran alone."""
    seen, run = [], pool.run

    def watched(jobs):
        def passed():
            for job in jobs:
                if job.function == RUN_PROGRAM and job.label.startswith("candidate"):
                    seen.append(job.payload)
                yield job

        return run(passed())

    monkeypatch.setattr(pool, "run", watched)
    return seen


def parsed(pool, texts):
    candidates = parse_candidates(pool, [Text(text) for text in texts])
    assert all(isinstance(candidate, Candidate) for candidate in candidates), candidates
    return candidates


def judged(pool, candidates, puzzle=SUM):
    (puzzle,) = parse_puzzles(pool, [Text(puzzle)])
    return verify(pool, [(puzzle, candidate) for candidate in candidates])


ENDLESS = [
    "def g():\n    for a in range(10**9):\n        if f([a, a, a, a]):\n            return [a]",
    "def g():\n    for number in range(10**9):  # all\n        if f([number, number, number, number]): return [number]",
    "def solution():\n    for a in range(10**9):\n        if f([a, a, a, a]):\n\n            return [a]",
]


def test_endless_programs_of_one_form_are_run_once(pool, runs):
    judgements = judged(pool, parsed(pool, ENDLESS))
    assert [judgement.verdict for judgement in judgements] == [Verdict.TIME_LIMIT] * 3
    assert {judgement.detail for judgement in judgements} == {"solve: over 0.1 s of CPU time"}
    assert len(runs) == 1


def test_programs_of_one_form_are_judged_once_whatever_they_do(pool, runs):
    texts = [f"def g():\n    {name} = -1\n    return [{name}, 0, 0, 0]" for name in ("a", "b", "c")]
    assert [judgement.verdict for judgement in judged(pool, parsed(pool, texts))] == [Verdict.ACCEPTED] * 3
    assert len(runs) == 1


def test_one_form_is_run_once_for_each_puzzle(pool, runs):
    candidates = parsed(pool, ENDLESS[:2])
    puzzles = parse_puzzles(pool, [Text(SUM), Text(SUM.replace("-1", "-2"))])
    judgements = verify(pool, [*itertools.product(puzzles, candidates)])
    assert {judgement.verdict for judgement in judgements} == {Verdict.TIME_LIMIT}
    assert len(runs) == 2


def test_a_program_that_is_slow_in_what_its_answer_does_not_need_is_another(pool):
    idle, plain = "def g():\n    s = sum(range(10**10))\n    return [-1, 0, 0, 0]", "def g():\n    return [-1, 0, 0, 0]"
    slow, fast = parsed(pool, [idle, plain])
    assert slow.form != fast.form
    assert [j.verdict for j in judged(pool, [slow, fast])] == [Verdict.TIME_LIMIT, Verdict.ACCEPTED]


SEEING = {
    "a message": "def g():\n    try:\n        return {0} + 1\n        {0} = 2\n    except Exception as e:\n        "
    "return [len(str(e))] if 'aa' in str(e) else [e for e in iter(int, 1)]",
    "locals": "def g():\n    {0} = 1\n    return [1] if 'aa' in locals() else [e for e in iter(int, 1)]",
    "code": "def g():\n    {0} = 1\n    return [1] if 'aa' in g.__code__.co_varnames else [e for e in iter(int, 1)]",
    "evaluated": "def g():\n    {0} = 1\n    return eval('[aa]') if eval('aa') else 0",
    "a class": "def g():\n    class {0}: pass\n    return [1] if {0}.__name__ == 'aa' else [e for e in iter(int, 1)]",
}


@pytest.mark.parametrize("how", SEEING)
def test_a_program_that_may_see_its_own_names_is_like_no_other(pool, how):
    candidates = parsed(pool, [SEEING[how].format("aa"), SEEING[how].format("zz")])
    assert [candidate.form for candidate in candidates] == ["", ""]


SEARCHES = [
    "def g():\n    for {0} in range({n}):\n        for {1} in range({n}):\n            "
    "if f([{0}, {1}, {0}, -1]):\n                return [{0}, {1}, {0}, -1]",
    "def g():\n    from itertools import product\n    return next(list({0}) for {0} in product(range({n}), repeat=4)"
    " if f(list({0})))",
    "def g():\n    from itertools import product\n    for {0} in product(range(-1, {n}), repeat=4):\n        try:\n"
    "            if f(list({0})):\n                return list({0})\n        except Exception:\n            pass",
    "def g():\n    {0} = 0\n    while {0} < {n}:\n        {0} += 1\n        {1} = [{0}, {n}, -{n}, -1 - {0}]\n"
    "    return {1}",
    "def g():\n    {0} = lambda {1}: [{1}, -{1}, 0, -1]\n    return {0}({n})",
    "def g():\n    {0} = [{n}]\n    return {1}",
    "def g():\n    return [{n}, {n}, {n}, *(lambda {0}: {0})(range(0))]",
]


def candidates_like_a_models(pool, count):
    """Programs with few shapes and sizes and many names, as a model writes them. None needs about the limit."""
    rng = random.Random(0)
    names = ["a", "b", "i", "total", "e1", "f_", "xs"]
    texts = [
        rng.choice(SEARCHES).format(*rng.sample(names, 2), n=rng.choice([1, 2, 3, 10**7, 10**8])) for _ in range(count)
    ]
    return parsed(pool, texts)


@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_verdicts_are_the_same_as_when_each_program_is_run(pool, count):
    candidates = candidates_like_a_models(pool, count)
    one_by_one = [dataclasses.replace(candidate, form="") for candidate in candidates]
    found, expected = judged(pool, candidates), judged(pool, one_by_one)
    assert [(each.verdict, each.detail, each.answer) for each in found] == [
        (each.verdict, each.detail, each.answer) for each in expected
    ]
    assert len({each.verdict for each in found}) >= 4
