"""What an archive from a stranger says about its texts is not believed."""

import contextlib
import shutil
import sqlite3
from dataclasses import replace

import pytest
from scripted_run import archive_content, config_of, go, puzzle_files

from puzzles.archive import believing
from puzzles.archive.copying import copy
from puzzles.archive.merging import merge_foreign
from puzzles.archive.store import Archive
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError
from selfplay.iteration import loop
from selfplay.iteration.beginning import branch
from selfplay.iteration.guarding import examine_archive, guard_of, guarded_sets
from selfplay.run.rundir import RunDir

PROTECTIONS = {"tier": "A"}
WRONG = "def g():\n    return -1"


@pytest.fixture(scope="module")
def run(pool, tmp_path_factory):
    """A run of two iterations; not to be written into."""
    folder = tmp_path_factory.mktemp("run")
    files = puzzle_files(folder)
    config = config_of(files, seed=4)
    go(folder / "run", config, pool)
    return RunDir(folder / "run"), config


@pytest.fixture
def there(run, tmp_path):
    """A copy of the run, and a way to change its archive."""
    copied = RunDir(shutil.copytree(run[0].path, tmp_path / "there"))

    def change(sql, *parameters):
        with contextlib.closing(sqlite3.connect(copied.archive)) as connection, connection:
            return connection.execute(sql, parameters).fetchall()

    return copied, change


def taken_in(there, pool, tmp_path, protections=PROTECTIONS):
    """The merged archive's content, and what was refused."""
    with Archive(tmp_path / "into.sqlite", create=True) as into, Archive(there.archive) as other:
        merged, refused = merge_foreign(into, other, pool, protections)
        assert merged.solutions == into.query("SELECT count(*) FROM solutions")[0][0]
    return archive_content(tmp_path / "into.sqlite"), refused


def without(rows, *keys):
    return [{key: value for key, value in row.items() if key not in keys} for row in rows]


def test_a_sound_archive_comes_in_whole(run, there, pool, tmp_path):
    merged, refused = taken_in(there[0], pool, tmp_path)
    assert refused == {}
    own = archive_content(run[0].archive)
    for table in ("puzzles", "chunks", "candidates", "proposals", "trained"):
        assert merged[table] == own[table], table
    assert without(merged["solutions"], "protections") == without(own["solutions"], "protections")
    assert archive_content(there[0].archive) == own


def test_a_wrong_solution_is_refused_with_its_verdict(there, pool, tmp_path):
    there[1]("UPDATE solutions SET source = ?, answer = '-1', id = '00000000000000ff' WHERE number = 2", WRONG)
    merged, refused = taken_in(there[0], pool, tmp_path)
    assert refused["solution: wrong_answer"] == 1
    assert WRONG not in [row["source"] for row in merged["solutions"]]
    assert [(row["what"], row["reason"]) for row in merged["refusals"] if row["original"] == WRONG] == [
        ("solution", "wrong_answer")
    ]


def test_ones_own_archive_is_not_judged_again_but_its_ids_are_computed(there, pool, tmp_path):
    there[1]("UPDATE solutions SET source = ?, id = '00000000000000ff' WHERE number = 2", WRONG)
    merged, refused = taken_in(there[0], pool, tmp_path, protections=None)
    assert refused == {}
    (row,) = [row for row in merged["solutions"] if row["source"] == WRONG]
    assert row["id"] != "00000000000000ff"


def test_an_acceptance_without_a_pair_does_not_count(there, pool, tmp_path):
    (changed,) = there[1]("SELECT chunk, position FROM candidates WHERE verdict = 'wrong_answer' LIMIT 1")
    there[1]("UPDATE candidates SET verdict = 'accepted' WHERE chunk = ? AND position = ?", *changed)
    merged, refused = taken_in(there[0], pool, tmp_path)
    assert refused[believing.NOT_HELD] == 1
    assert changed not in [(row["chunk"], row["position"]) for row in merged["candidates"]]


def test_forged_ids_become_those_of_the_texts_wherever_they_stand(run, there, pool, tmp_path):
    own = archive_content(run[0].archive)
    ids = [row["id"] for row in own["puzzles"]]
    forged = dict(zip(ids, [*ids[1:], "ff" * 8], strict=True))  # each but the last has the id of the next
    for table, column in (("puzzles", "id"), ("solutions", "puzzle"), ("candidates", "puzzle"), ("trained", "puzzle"),
                          ("proposals", "puzzle")):  # fmt: skip
        for old, new in reversed(forged.items()):
            there[1](f"UPDATE {table} SET {column} = ? WHERE {column} = ?", new, old)
    merged, refused = taken_in(there[0], pool, tmp_path, protections=None)
    assert refused == {}
    for table in ("puzzles", "solutions", "candidates", "proposals"):
        assert without(merged[table], "parents") == without(own[table], "parents"), table


def test_what_follows_from_a_text_is_taken_from_the_text(run, there, pool, tmp_path):
    there[1]("UPDATE puzzles SET answer_type = 'str', header = 'def g(evil=1):', skeleton = 'same'")
    merged, _ = taken_in(there[0], pool, tmp_path)
    assert merged["puzzles"] == archive_content(run[0].archive)["puzzles"]


def test_a_text_that_is_no_puzzle_is_refused_with_its_solutions(there, pool, tmp_path):
    ((puzzle,),) = there[1]("SELECT puzzle FROM solutions WHERE number = 1")
    there[1]("UPDATE puzzles SET source = 'no puzzle (' WHERE id = ?", puzzle)
    merged, refused = taken_in(there[0], pool, tmp_path)
    assert refused["puzzle: syntax"] == 1
    assert refused[f"solution: {believing.WITHOUT_A_PUZZLE}"] >= 1
    assert puzzle not in [row["puzzle"] for table in ("solutions", "candidates") for row in merged[table]]
    with Archive(tmp_path / "into.sqlite") as archive:
        archive.check()


def test_a_guard_that_a_stranger_names_is_not_believed(run, there, pool, tmp_path):
    guard = "(SELECT value FROM marks WHERE name = 'guard')"
    there[1](f"INSERT INTO contamination SELECT id, 'exact', 'x', '', {guard}, 0.0 FROM puzzles")
    merged, _ = taken_in(there[0], pool, tmp_path)
    assert merged["contamination"] == []
    assert {"name": "added_past_guard", "value": "yes"} in merged["marks"]


def test_a_held_out_puzzle_under_a_forged_id_is_found_and_set_aside(run, there, pool):
    config = run[1]
    with Archive(there[0].archive) as archive:
        sets = guarded_sets(pool, config)
        (heldout,) = [item for item in sets["heldout"] if item.name == "cube"]
    there[1]("UPDATE puzzles SET source = ?, id = '00000000000000ee' WHERE number = 1", heldout.puzzle.source)
    with Archive(there[0].archive) as archive:
        hits = examine_archive(archive, pool, guard_of(pool, sets))
        assert [*hits] == ["00000000000000ee"]
        assert archive.exposure([*hits])
        archive.add_contamination(hits)
        assert "00000000000000ee" not in archive.solved_ids()


def test_a_run_that_begins_from_anothers_has_a_database_of_its_own(run, there, tmp_path):
    branch(there[0], None, RunDir(tmp_path / "child"))
    assert archive_content(tmp_path / "child" / "archive.sqlite") == archive_content(run[0].archive)
    assert (tmp_path / "child" / "archive.sqlite").read_bytes() != there[0].archive.read_bytes()


def test_a_run_that_begins_from_a_strangers_believes_no_verdict(there, tmp_path):
    there[1]("UPDATE solutions SET source = ?, id = '00000000000000ff' WHERE number = 2", WRONG)
    branch(there[0], None, RunDir(tmp_path / "believing"))
    branch(there[0], None, RunDir(tmp_path / "judging"), trust=False)
    sources = [
        [row["source"] for row in archive_content(tmp_path / name / "archive.sqlite")["solutions"]]
        for name in ("believing", "judging")
    ]
    assert [WRONG in each for each in sources] == [True, False]


def test_a_run_of_another_user_goes_on_under_the_ids_of_its_texts(run, there, pool, monkeypatch):
    config = replace(run[1], iterations=3)
    with Archive(there[0].archive) as archive:
        (heldout,) = [item for item in guarded_sets(pool, config)["heldout"] if item.name == "cube"]
    there[1]("UPDATE puzzles SET source = ?, id = '00000000000000ee' WHERE number = 1", heldout.puzzle.source)
    monkeypatch.setenv("XDG_STATE_HOME", str(there[0].path / "another"))
    go(there[0].path, config, pool)
    with Archive(there[0].archive) as archive:
        assert heldout.puzzle.id in archive.contamination()
        assert "00000000000000ee" not in archive.puzzle_ids()
        assert heldout.puzzle.id not in [puzzle for (puzzle,) in archive.query("SELECT puzzle FROM trained")]


def test_ones_own_run_goes_on_without_a_second_look(run, there, pool, monkeypatch):
    monkeypatch.setattr(loop, "compute_again", pytest.fail)
    go(there[0].path, replace(run[1], iterations=3), pool)


def test_no_run_begins_from_one_whose_archive_has_a_trigger(there, tmp_path):
    there[1]("CREATE TRIGGER forge AFTER INSERT ON candidates BEGIN UPDATE candidates SET verdict = 'accepted'; END")
    with pytest.raises(InputError, match="it has the trigger 'forge'"):
        branch(there[0], None, RunDir(tmp_path / "child"))
    assert not (tmp_path / "child").exists()


def test_no_run_begins_from_a_folder_with_links(there, tmp_path):
    (there[0].path / "checkpoints").mkdir(exist_ok=True)
    (there[0].path / "checkpoints" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="secret: expected an ordinary file or folder, got a link to /etc/passwd"):
        branch(there[0], None, RunDir(tmp_path / "child"))


def test_a_copy_holds_every_row_in_its_order(run, tmp_path):
    with Archive(run[0].archive) as archive:
        copy(archive, tmp_path / "copy.sqlite")
    assert archive_content(tmp_path / "copy.sqlite") == archive_content(run[0].archive)


def test_stored_texts_are_canonical_so_that_computing_ids_changes_nothing(run, pool):
    with Archive(run[0].archive) as archive:
        sources = archive.query("SELECT id, source, answer_type, header, skeleton FROM puzzles")
        parsed = parse_puzzles(pool, [Text(row["source"]) for row in sources])
        assert [tuple(row) for row in sources] == [
            (puzzle.id, puzzle.source, puzzle.answer_type, puzzle.header, puzzle.skeleton) for puzzle in parsed
        ]
