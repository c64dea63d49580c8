"""Archives beside each other, one taken into the other, and one judged again."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys

import pytest
from scripted_run import archive_content, config_of, go, puzzle_files

from puzzles.archive.merging import Merged, compare, merge
from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.inspecting.reverify import Found, judge_elsewhere, judge_here, reverify, stored_limits
from selfplay.inspecting.story import story, story_text
from selfplay.run.rundir import RunDir


@pytest.fixture(scope="module")
def runs(pool, tmp_path_factory):
    """The archives of two runs that differ in their seed; not to be written into."""
    folder = tmp_path_factory.mktemp("runs")
    files = puzzle_files(folder)
    for seed in (4, 5):
        go(folder / str(seed), config_of(files, seed=seed), pool)
    return [RunDir(folder / str(seed)).archive for seed in (4, 5)]


@pytest.fixture
def copies(runs, tmp_path):
    return [shutil.copy(path, tmp_path / f"{number}.sqlite") for number, path in enumerate(runs)]


def change(path, sql, *parameters):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(sql, parameters).fetchall()


def both(paths, function):
    with Archive(paths[0]) as first, Archive(paths[1]) as second:
        return function(first, second)


def ids(path, sql):
    return {row[0] for row in change(path, sql)}


PAIRS = "SELECT puzzle || '/' || id FROM solutions"


# ---- diff ----


def test_an_archive_does_not_differ_from_itself(runs):
    found = both([runs[0], runs[0]], compare)
    assert not found
    assert found.common["pairs"] == len(ids(runs[0], PAIRS))


def test_two_runs_differ_in_what_each_has_alone(runs):
    found = both(runs, compare)
    one, other = (ids(path, PAIRS) for path in runs)
    assert found.only["pairs"] == (sorted(one - other), sorted(other - one))
    assert found.common["pairs"] == len(one & other) > 0
    one, other = (ids(path, "SELECT id FROM puzzles") for path in runs)
    assert found.only["puzzles"] == (sorted(one - other), sorted(other - one))
    assert found.answers == []


def test_another_answer_of_the_same_pair_is_a_difference(runs, copies):
    ((puzzle, solution),) = change(copies[0], "SELECT puzzle, id FROM solutions LIMIT 1")
    change(copies[0], "UPDATE solutions SET answer = '0' WHERE puzzle = ? AND id = ?", puzzle, solution)
    found = both([copies[0], runs[0]], compare)
    assert found
    assert [(pair, first) for pair, first, _ in found.answers] == [(f"{puzzle}/{solution}", "0")]


# ---- merge ----


def test_a_chunk_that_was_only_planned_here_comes_as_it_was_judged_there(runs, copies):
    last = "(SELECT max(id) FROM chunks)"
    for table in ("proposals", "candidates", "solutions"):
        change(copies[0], f"DELETE FROM {table} WHERE chunk = {last}")
    change(copies[0], f"UPDATE chunks SET completions = NULL, judged = 0 WHERE id = {last}")
    assert both([copies[0], runs[0]], merge).candidates
    for table in ("chunks", "candidates", "proposals", "trained"):
        rows = f"SELECT * FROM {table} ORDER BY 1, 2, 3"
        assert change(copies[0], rows) == change(runs[0], rows)
    assert ids(copies[0], PAIRS) == ids(runs[0], PAIRS)


def test_a_merged_archive_has_what_both_have_and_every_story_is_whole(runs, copies):
    before = [{table: len(rows) for table, rows in archive_content(path).items()} for path in runs]
    grown = both(copies, merge)
    assert ids(copies[0], PAIRS) == ids(runs[0], PAIRS) | ids(runs[1], PAIRS)
    assert ids(copies[0], "SELECT id FROM puzzles") == set().union(
        *(ids(run, "SELECT id FROM puzzles") for run in runs)
    )
    after = {table: len(rows) for table, rows in archive_content(copies[0]).items()}
    for table in ("chunks", "candidates", "proposals"):
        assert after[table] == before[0][table] + before[1][table]
    assert grown == Merged(*(after[t] - before[0][t] for t in ("puzzles", "solutions", "chunks", "candidates")))
    assert archive_content(copies[1]) == archive_content(runs[1])
    with Archive(copies[0]) as archive:
        for identifier in archive.puzzle_ids():
            one = story(archive, identifier)
            assert one.breaks == []
            assert story_text(one, str)


def test_merging_again_adds_nothing(copies):
    both(copies, merge)
    before = archive_content(copies[0])
    assert both(copies, merge) == Merged(0, 0, 0, 0)
    assert archive_content(copies[0]) == before


def test_a_run_merged_into_an_empty_archive_is_that_runs_archive(runs, tmp_path):
    with Archive(tmp_path / "new.sqlite", create=True) as new, Archive(runs[0]) as other:
        merge(new, other)
        assert not compare(new, other)
    merged, own = archive_content(tmp_path / "new.sqlite"), archive_content(runs[0])
    assert {t: rows for t, rows in merged.items() if t != "marks"} == {
        t: rows for t, rows in own.items() if t != "marks"
    }


def test_a_merged_archive_is_examined_again_unless_both_are_kept_by_one_guard(runs, copies, tmp_path):
    both(copies, merge)
    assert change(copies[0], "SELECT * FROM marks WHERE name = 'added_past_guard'") == []
    with Archive(tmp_path / "new.sqlite", create=True) as new, Archive(runs[0]) as other:
        merge(new, other)
        assert new.mark("added_past_guard") == "yes"


def test_a_merge_that_fails_leaves_the_archive_as_it_was(runs, copies):
    change(copies[1], "DROP TABLE trained")
    change(copies[1], "CREATE TABLE trained (other)")
    change(copies[1], "INSERT INTO trained VALUES (1)")
    with pytest.raises(InputError, match=r"1\.sqlite: .* it has the table 'trained' with a part that no version"):
        both(copies, merge)
    assert archive_content(copies[0]) == archive_content(runs[0])


# ---- reverify ----


def judged_again(path, judge, how="here"):
    done = []
    with Archive(path) as archive:
        found, _ = reverify(archive, judge, how, done.append)
        assert sum(done) == archive.query("SELECT count(*) FROM solutions")[0][0]
    return found


def test_nothing_of_a_runs_archive_differs(runs, copies, pool):
    assert judged_again(copies[0], judge_here(pool)) == []
    assert archive_content(copies[0]) == archive_content(runs[0])
    assert [file.name for file in copies[0].parent.glob("0.sqlite*") if "reverify" in file.name] == []


def test_tampered_pairs_are_found_exactly(copies, pool):
    rows = change(
        copies[0], "SELECT puzzle, id FROM solutions WHERE puzzle IN (SELECT id FROM puzzles WHERE origin = 'model')"
    )
    a, b, c, d = list(dict(rows).items())[:4]
    change(copies[0], "UPDATE solutions SET source = 'def g():\n    return -12345' WHERE puzzle = ? AND id = ?", *a)
    change(copies[0], "UPDATE solutions SET answer = '-1' WHERE puzzle = ? AND id = ?", *b)
    change(copies[0], "UPDATE puzzles SET source = 'def f(x: int):\n    return x == 5' WHERE id = ?", c[0])
    change(copies[0], "UPDATE solutions SET source = 'def g(:' WHERE puzzle = ? AND id = ?", *d)
    found = judged_again(copies[0], judge_here(pool))
    assert {each.puzzle for each in found} == {a[0], b[0], c[0], d[0]}
    assert {(each.solution, each.what) for each in found if each.puzzle == a[0]} == {
        (a[1], "solution"),
        (a[1], "verdict"),
    }
    assert [(each.what, each.stored) for each in found if each.puzzle == b[0]] == [("answer", "-1")]
    assert {each.what for each in found if each.puzzle == c[0]} == {"puzzle", "verdict"}
    assert {each.what for each in found if each.puzzle == d[0]} == {"solution"}


def test_one_that_stopped_goes_on_and_comes_to_the_same(copies, pool, monkeypatch):
    monkeypatch.setattr("selfplay.inspecting.reverify.BATCH", 3)
    change(copies[0], "UPDATE solutions SET answer = '-1' WHERE number IN (1, 8)")
    whole = judged_again(copies[0], judge_here(pool))
    calls = []

    def stopping(batch):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return judge_here(pool)(batch)

    with pytest.raises(KeyboardInterrupt):
        judged_again(copies[0], stopping)
    with (copies[0].parent / "0.sqlite.reverify.jsonl").open("a") as file:
        file.write('{"rows": "9", "fo')
    seen = []

    def noted(batch):
        seen.extend(each.number for each in batch)
        return judge_here(pool)(batch)

    assert judged_again(copies[0], noted) == whole != []
    assert seen[0] == 7


def test_rows_that_changed_since_it_stopped_are_judged_again(copies, pool, monkeypatch):
    monkeypatch.setattr("selfplay.inspecting.reverify.BATCH", 3)
    calls = []

    def stopping(batch):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return judge_here(pool)(batch)

    with pytest.raises(KeyboardInterrupt):
        judged_again(copies[0], stopping)
    change(copies[0], "UPDATE solutions SET answer = '-1' WHERE number = 1")
    with Archive(copies[0]) as archive:
        found, earlier = reverify(archive, judge_here(pool), "here")
    assert [(each.what, each.stored) for each in found] == [("answer", "-1")]
    assert earlier == 3


def test_a_solution_without_its_puzzle_and_another_type_or_header_are_found(copies, pool):
    change(copies[0], "UPDATE solutions SET puzzle = 'ffffffffffffffff' WHERE number = 1")
    change(copies[0], "UPDATE puzzles SET answer_type = 'str', header = 'def g(k=0):' WHERE id ="
           " (SELECT puzzle FROM solutions WHERE number = 2)")  # fmt: skip
    found = judged_again(copies[0], judge_here(pool))
    assert found[0].now == "there is none"
    assert {(each.what, each.stored) for each in found[1:]} == {("answer_type", "str"), ("header", "def g(k=0):")}


def test_one_that_stopped_under_other_conditions_begins_anew(copies, pool):
    (copies[0].parent / "0.sqlite.reverify.jsonl").write_text(
        json.dumps({"how": "elsewhere"}) + "\n" + json.dumps({"rows": "0", "found": []}) + "\n"
    )
    change(copies[0], "UPDATE solutions SET answer = '-1' WHERE number = 1")
    assert [each.what for each in judged_again(copies[0], judge_here(pool))] == ["answer"]


def test_limits_that_an_archive_names_are_bounded(copies):
    named = {"cpu_seconds": 1e300, "memory_bytes": 10**15, "answer_bytes": -5, "recursion_limit": "many", "other": 9}
    change(copies[0], "UPDATE protections SET content = ?", json.dumps({"limits": named}))
    with Archive(copies[0]) as archive:
        assert stored_limits(archive) == {"cpu_seconds": 60.0, "memory_bytes": 4 * 1024**3}


def test_notes_that_come_with_an_archive_from_elsewhere_are_not_believed(copies, pool, tmp_path, monkeypatch):
    monkeypatch.setattr("selfplay.inspecting.reverify.BATCH", 3)
    change(copies[0], "UPDATE solutions SET answer = '-1' WHERE number = 1")
    calls = []

    def all_is_well(batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return []

    with pytest.raises(KeyboardInterrupt):
        judged_again(copies[0], all_is_well)
    there = tmp_path / "there"
    there.mkdir()
    for file in ("0.sqlite", "0.sqlite.reverify.jsonl"):
        shutil.copy(copies[0].parent / file, there)
    assert [each.what for each in judged_again(there / "0.sqlite", judge_here(pool))] == ["answer"]


@pytest.fixture
def bare_python(tmp_path):
    """One without packages."""
    command = tmp_path / "python"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    command.chmod(0o755)
    assert subprocess.run([command, "-c", "import tqdm"], capture_output=True, check=False).returncode
    return str(command)


def test_another_python_judges_without_packages(copies, bare_python):
    change(copies[0], "UPDATE solutions SET answer = '-1' WHERE number = 1")
    ((puzzle, solution, answer),) = change(copies[1], "SELECT puzzle, id, answer FROM solutions WHERE number = 1")
    found = judged_again(copies[0], judge_elsewhere(bare_python, []))
    assert found == [Found(puzzle, solution, "answer", "-1", answer)]


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("/nowhere/python", "--python /nowhere/python: No such file"),
        ("/bin/false", "--python /bin/false: it ended with status 1"),
    ],
)
def test_a_python_that_is_none_is_one_clear_line(copies, python, expected):
    with pytest.raises(InputError, match=expected):
        judged_again(copies[0], judge_elsewhere(python, []))


def test_nothing_of_a_damaged_archive_is_merged_and_the_row_is_named(runs, copies):
    change(copies[1], "UPDATE solutions SET source = CAST(x'ff' AS TEXT) WHERE number = 2")
    with pytest.raises(InputError, match=r"1\.sqlite: the archive is damaged: table solutions, after row 1: "):
        both(copies, merge)
    assert archive_content(copies[0]) == archive_content(runs[0])
