"""Every forgery fools a checker of its shape, and none is accepted here."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from checkers import CHECKERS
from forgeries import FORGERIES, NUMBER, TYPED, table, verdicts

PAGE = Path(__file__).with_name("README.md")
IDS = [f"{number}-{forgery.shape}" for number, forgery in enumerate(FORGERIES)]


@pytest.fixture(scope="module")
def found():
    return verdicts()


def test_none_is_accepted_and_each_verdict_is_the_expected_one(found):
    assert found == [forgery.verdict for forgery in FORGERIES]
    assert "accepted" not in found


@pytest.mark.parametrize("forgery", FORGERIES, ids=IDS)
def test_a_checker_of_its_shape_accepts_it(forgery):
    assert CHECKERS[forgery.shape](TYPED + forgery.puzzle[0], forgery.candidate, forgery.puzzle[1])


@pytest.mark.parametrize("shape", sorted({*CHECKERS} - {"presence"}))
def test_each_shape_is_right_about_honest_candidates(shape):
    puzzle, answer = NUMBER
    assert CHECKERS[shape](puzzle, f"def g():\n    return {answer}", answer)
    assert not CHECKERS[shape](puzzle, "def g():\n    return 36", answer)


def test_the_page_has_the_table_that_the_command_prints(found):
    assert table(found) in PAGE.read_text("utf-8")
