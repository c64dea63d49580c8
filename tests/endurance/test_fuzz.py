import json
import os
import signal

import fuzz
import pytest

from puzzles.puzzle import Judgement, Verdict


def silent(_):
    pass


def test_eight_seconds_of_fuzzing_find_nothing(tmp_path):
    summary = fuzz.fuzz(8, 11, tmp_path, silent)
    assert (summary.violation, summary.reproduction) == ("", None)
    assert summary.rounds >= len(summary.verdicts)
    assert all(counts for counts in summary.verdicts.values()), summary.table()
    assert summary.verdicts["edited"]["accepted"] > 0


def test_the_rounds_of_a_seed_are_always_the_same():
    first, second, other = fuzz.Source(3), fuzz.Source(3), fuzz.Source(4)
    for kind in first.kinds:
        items = first.items(kind)
        assert items == second.items(kind)
        assert items != other.items(kind)


@pytest.fixture
def marked(monkeypatch):
    """A verifier that fails at one pair, and a source that has it once per round."""

    def fail_by(misjudge):
        judge = fuzz.judge

        def wrapped(pool, kind, items):
            judgements = judge(pool, kind, [item for item in items if item != MARKED])
            return misjudge(pool, list(judgements)) if MARKED in items else judgements

        monkeypatch.setattr(fuzz, "judge", wrapped)
        monkeypatch.setattr(fuzz.Source, "items", lambda self, kind: [*[self.edited() for _ in range(7)], MARKED])

    return fail_by


MARKED = (fuzz.NEVER, "def g(): return 'marked'")


def raises(pool, judgements):
    raise KeyError("marked")


def accepts(pool, judgements):
    return [*judgements, Judgement(Verdict.ACCEPTED)]


def forgets(pool, judgements):
    return judgements


def invents(pool, judgements):
    return [*judgements, Judgement("splendid")]


def loses_a_zygote(pool, judgements):
    for pid in fuzz.zygotes(pool):
        os.kill(pid, signal.SIGKILL)
    fuzz.verify_texts(pool, [(MARKED[0], f"def g(): return {n}") for n in range(20)])
    return [*judgements, Judgement(Verdict.WRONG_ANSWER)]


def keeps_a_descriptor(pool, judgements):
    kept.append(os.dup(0))
    return [*judgements, Judgement(Verdict.WRONG_ANSWER)]


kept = []


@pytest.fixture(scope="module")
def fuzzer():
    fuzzer = fuzz.Fuzzer(5)
    yield fuzzer
    fuzzer.close()


@pytest.mark.parametrize(
    ("misjudge", "what"),
    [
        (raises, "KeyError: 'marked'"),
        (accepts, "a puzzle without a solution was solved"),
        (forgets, "7 judgements of 8 pairs"),
        (invents, "an unknown verdict: 'splendid'"),
        (keeps_a_descriptor, "open descriptors instead of"),
        (loses_a_zygote, "zygotes were restarted"),
    ],
    ids=["raises", "accepts", "forgets", "invents", "leaks", "restarts"],
)
def test_a_verifier_that_is_wrong_is_found(fuzzer, marked, misjudge, what):
    fuzzer.round("edited")
    marked(misjudge)
    try:
        with pytest.raises(fuzz.Violation) as violation:
            fuzzer.round("edited")
    finally:
        while kept:
            os.close(kept.pop())
    assert what in violation.value.what
    assert MARKED in violation.value.items


def test_what_is_accepted_once_and_not_again_is_found(fuzzer):
    fuzzer.accepted = [("edited", MARKED)]
    with pytest.raises(fuzz.Violation, match="accepted, and in a fresh pool wrong_type") as violation:
        fuzzer.recheck()
    assert violation.value.items == [MARKED]


@pytest.mark.slow
def test_the_smallest_reproduction_is_kept(marked, tmp_path):
    marked(raises)
    said = []
    summary = fuzz.fuzz(20, 5, tmp_path, said.append)
    found = json.loads(summary.reproduction.read_text())
    assert [tuple(item) for item in found["items"]] == [MARKED]
    assert str(summary.reproduction) in said[0]
