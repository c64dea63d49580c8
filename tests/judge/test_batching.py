"""Pairs that come one by one are judged together and once, and a failure of the sandbox is never a verdict."""

import threading

import pytest

from puzzles.puzzle import InputError, Verdict
from sandbox.result import SandboxError
from selfplay.config import SandboxConfig
from selfplay.judge import batching
from selfplay.judge.batching import Batcher
from selfplay.judge.pairs import Judged, Pair


def pair(answer, asked=5):
    return Pair(f"def f(x: int):\n    return x == {asked}", f"def g():\n    return {answer}")


@pytest.fixture(scope="module")
def batcher():
    batcher = Batcher(SandboxConfig(), 7)
    yield batcher
    batcher.close()


class Judging:
    """Stands before the real judging: notes the batches, may hold them up, and fails where it is told to."""

    def __init__(self, monkeypatch):
        self.batches, self.goes_on, self.fails = [], threading.Event(), lambda pair: False
        self.goes_on.set()
        self.real = batching.judge
        monkeypatch.setattr(batching, "judge", self)

    def __call__(self, pool, pairs):
        self.batches.append(list(pairs))
        self.goes_on.wait()
        if any(map(self.fails, pairs)):
            raise SandboxError("the machine has no memory left")
        return self.real(pool, pairs)


@pytest.fixture
def judging(monkeypatch):
    return Judging(monkeypatch)


def test_each_caller_gets_its_own_verdict(batcher):
    futures = [batcher.submit(pair(answer)) for answer in range(8)]
    assert [future.result().accepted for future in futures] == [answer == 5 for answer in range(8)]


def test_what_comes_while_a_batch_is_judged_is_judged_together(batcher, judging):
    judging.goes_on.clear()
    futures = [batcher.submit(pair(answer, 1001)) for answer in range(60)]
    judging.goes_on.set()
    assert not any(future.result().accepted for future in futures)
    assert len(judging.batches) <= 6


def test_equal_pairs_are_judged_once_while_they_wait_and_afterwards(batcher, judging):
    same = pair("2 + 3", 5)
    first = [batcher.submit(same) for _ in range(20)]
    assert all(future.result().accepted for future in first)
    assert batcher.submit(same).result().accepted
    assert [each for batch in judging.batches for each in batch] == [same]


def test_what_met_a_limit_is_judged_anew(batcher, judging):
    endless = Pair("def f(x: int):\n    return x == 5", "def g():\n    while True: pass")
    for _ in range(2):
        assert batcher.submit(endless).result().verdict == Verdict.TIME_LIMIT
    assert sum(map(len, judging.batches)) == 2


def test_pairs_that_look_alike_when_joined_are_kept_apart(batcher):
    one, other = Pair("def f(x: int): return x == 5\0", "a"), Pair("def f(x: int): return x == 5", "\0a")
    assert batcher.submit(one).result().verdict == Verdict.INVALID_PUZZLE
    assert batcher.submit(other).result().verdict == Verdict.INVALID_SOLUTION


def test_a_failure_of_the_sandbox_is_an_error_for_its_pair_and_no_other(batcher, judging):
    judging.fails = lambda pair: "return 13" in pair.solution
    futures = {answer: batcher.submit(pair(answer, 2000)) for answer in range(20)}
    for answer, future in futures.items():
        if answer == 13:
            with pytest.raises(SandboxError, match="the machine has no memory left"):
                future.result()
        else:
            assert future.result().verdict == Verdict.WRONG_ANSWER


def test_a_failure_is_not_remembered(batcher, judging):
    judging.fails = lambda pair: True
    with pytest.raises(SandboxError):
        batcher.submit(pair(3000, 3000)).result()
    judging.fails = lambda pair: False
    assert batcher.submit(pair(3000, 3000)).result().accepted


def test_a_bug_of_ours_is_an_error_and_the_next_pair_is_judged(batcher, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(batching, "judge", lambda pool, pairs: 1 // 0)
        with pytest.raises(SandboxError, match="ZeroDivisionError"):
            batcher.submit(pair(4000, 4000)).result()
    assert batcher.submit(pair(4000, 4000)).result().accepted


def test_old_verdicts_are_forgotten(batcher, judging, monkeypatch):
    monkeypatch.setattr(batching, "REMEMBERED", 2)
    batcher._remembered.clear()
    for answer in range(3):
        batcher.submit(pair(answer, 5000)).result()
    assert len(batcher._remembered) == 2


def test_a_judge_that_gets_a_known_verdict_wrong_does_not_start(monkeypatch):
    monkeypatch.setattr(
        batching, "judge", lambda pool, pairs: [Judged(None, Verdict.ACCEPTED, "", "36", 1.0) for _ in pairs]
    )
    with pytest.raises(SandboxError, match="gets a known verdict wrong: accepted, accepted"):
        Batcher(SandboxConfig(), 7)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no module named 'nonesuch'"):
        Batcher(SandboxConfig(modules=("nonesuch",)), 7)


def test_what_waits_is_judged_before_the_end():
    batcher = Batcher(SandboxConfig(), 7)
    futures = [batcher.submit(pair(answer)) for answer in range(40)]
    batcher.close()
    assert sum(future.result(0).accepted for future in futures) == 1
