"""A short walk over hostile things finds nothing, and the harness finds what it looks for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import strangers
from places import ROOT


@pytest.mark.slow
def test_a_dozen_hostile_things_act_nowhere_and_end_in_one_line():
    script = ROOT / "tests" / "endurance" / "strangers.py"
    done = subprocess.run([sys.executable, script, "--few"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [
        line.split(" | ")
        for line in done.stdout.splitlines()
        if line.startswith(("| archive", "| settings", "| texts"))
    ]
    assert [row[1] for row in rows] == ["7", "3", "3"]


def test_what_is_odd_about_an_ending_is_told():
    ended = strangers.Ended(2, "", "selfplay: no\n", 0, 0.0)
    assert strangers.oddness(ended, 1) == ""
    for status, err in ((-11, ""), (2, ""), (2, "selfplay: a\nselfplay: b\n"), (2, "selfplay: \x1b[31m\n")):
        assert strangers.oddness(strangers.Ended(status, "", err, 0, 0.0), 1), (status, err)


def test_a_file_that_was_written_is_seen(tmp_path):
    (tmp_path / "one").write_text("before")
    before = strangers.snapshot(tmp_path)
    (tmp_path / "one").write_text("after!")
    assert before != strangers.snapshot(tmp_path)


def test_a_wrong_accept_is_seen():
    assert strangers.wrong_verdicts('{"id": "wrong a", "verdict": "accepted"}\n') == ["wrong a"]
    assert strangers.wrong_verdicts('{"id": "right a", "verdict": "wrong_answer"}\nno json\n') == ["right a"]
