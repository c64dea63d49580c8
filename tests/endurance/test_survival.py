"""A minute of `survival.py`, and that what it looks for would be found."""

import contextlib
import shutil
import sqlite3

import fuzz
import fuzz_inputs
import pytest
import survival
from survival import ACTIONS, AGAIN, ANYWHERE, Crashes, Point

pytestmark = pytest.mark.skipif(survival.signals_are_ignored(), reason="this session ignores SIGINT")


@pytest.fixture(scope="module")
def crashes(tmp_path_factory, protections):
    return Crashes(tmp_path_factory.mktemp("survival"), 1, protections)


def test_points_are_everywhere_in_a_run_and_most_of_them_inside_of_something(crashes):
    points = crashes.points(200)
    assert len({*points}) == 200
    assert {point.kind for point in points} == {*ACTIONS, ANYWHERE, AGAIN}
    assert {point.stage for point in points} == {*survival.STAGES, ""}
    assert {point.inner for point in points} == {*survival.WITHIN, survival.ENTRY, ""}
    assert sum(point.is_inside for point in points) >= 100
    assert crashes.points(200) == points
    assert Crashes(crashes.folder, 2, crashes.protections).points(200) != points


ALL = [*ACTIONS, ANYWHERE]


@pytest.mark.parametrize("kind", [ALL[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in ALL[1:])])
def test_a_run_survives_to_the_same_end(crashes, kind):
    points = [point for point in crashes.points(100) if point.kind == kind]
    result = crashes.try_one(next((point for point in points if point.is_inside), points[0]))
    assert result["wrong"] == []
    assert len(result["ended"]) >= 2


@pytest.mark.slow
def test_a_run_that_is_cut_off_while_it_branches_is_gone_on_with_by_the_same_command(crashes):
    for place in [place for place in crashes.counts if place.startswith(survival.BRANCHING)]:
        stage, inner = place.split("/")
        assert crashes.try_one(Point("SIGKILL", stage, inner, 1))["wrong"] == []


def test_what_is_lost_is_found(crashes, tmp_path, monkeypatch):
    other = shutil.copytree(crashes.whole, tmp_path / "whole")
    with contextlib.closing(sqlite3.connect(other / "archive.sqlite")) as connection, connection:
        connection.execute("INSERT INTO trained VALUES (9, 'a puzzle', 'that is lost')")
    (other / "checkpoints" / "iteration-001" / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(crashes, "whole", other)
    result = crashes.try_one(Point("SIGKILL", "solving", "writing a candidate", 3))
    assert result["wrong"] == ["other archive, trained", "other weights, iteration-001"]


@pytest.mark.slow
def test_an_end_that_is_not_as_expected_is_found(crashes, monkeypatch):
    monkeypatch.setitem(ACTIONS, "SIGTERM", survival.KILL)
    result = crashes.try_one(Point("SIGTERM", "training", "a forward pass", 2))
    assert result["wrong"] == ["it ended with -9: ", "its last words were ''"]


def test_a_harness_that_was_stopped_goes_on(crashes, monkeypatch):
    tried = []
    monkeypatch.setattr(
        crashes, "try_one", lambda point: tried.append(point) or {"wrong": [], "seconds": 0, "ended": []}
    )
    assert len(crashes.try_all(3, print)) == 3
    assert len(crashes.try_all(5, print)) == 5
    assert tried == crashes.points(5)


@pytest.mark.slow
def test_a_run_in_a_bare_environment_is_the_same_and_keeps_no_key(crashes):
    chosen = ["LC_ALL=C, no home, no terminal", "keys in the environment", "nobody reads its output"]
    assert [result["wrong"] for result in survival.try_environments(crashes, print, chosen)] == [[], [], []]


def test_many_iterations_take_no_more_than_few(tmp_path):
    assert survival.soak_iterations(tmp_path, 40, print) == []


def test_what_the_fuzzers_find_is_wrong_in_the_end(tmp_path, monkeypatch, capsys):
    found = fuzz_inputs.Finding("a traceback", None, tmp_path)
    judged, tried = fuzz.Summary(violation="a wrong accept"), fuzz_inputs.Summary(findings=[found])
    monkeypatch.setattr(fuzz, "fuzz", lambda *_: judged)
    monkeypatch.setattr(fuzz_inputs, "fuzz_inputs", lambda *_: tried)
    command = ["--only", "verifier", "--only", "inputs", "--folder", str(tmp_path)]
    assert survival.main(command) == 1
    assert capsys.readouterr().out.endswith("2 wrong\n  a wrong accept\n  a traceback\n")
    judged.violation, tried.findings = "", []
    assert survival.main(command) == 0
