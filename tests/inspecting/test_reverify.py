"""Judging an archive again finds what does not follow from its texts."""

import contextlib
import shutil
import sqlite3

import pytest
from scripted_run import config_of, go, puzzle_files

from puzzles.archive.store import Archive
from selfplay.inspecting.reverify import judge_here, reverify


@pytest.fixture(scope="module")
def archive(pool, tmp_path_factory):
    """The archive of a run of one iteration; not to be written into."""
    folder = tmp_path_factory.mktemp("run")
    go(folder / "run", config_of(puzzle_files(folder), iterations=1), pool)
    return folder / "run" / "archive.sqlite"


def found(path, pool):
    with Archive(path) as archive:
        return reverify(archive, judge_here(pool), "here")[0]


def test_nothing_differs_in_an_archive_as_it_was_made(archive, pool):
    assert found(archive, pool) == []


@pytest.mark.parametrize(("table", "what"), [("puzzles", "puzzle_source"), ("solutions", "source")])
def test_a_source_that_is_not_the_authors_program_is_found(archive, pool, tmp_path, table, what):
    copy = shutil.copy(archive, tmp_path / "archive.sqlite")
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        (one,) = connection.execute("SELECT id FROM puzzles WHERE id IN (SELECT puzzle FROM solutions)").fetchone()
        key = "id" if table == "puzzles" else "puzzle"
        connection.execute(
            f"UPDATE {table} SET program = source, source = source || char(10) || '# other' WHERE {key} = ?", (one,)
        )
    different = found(tmp_path / "archive.sqlite", pool)
    assert {(each.puzzle, each.what) for each in different} == {(one, what)}
    assert all(each.stored == f"{each.now}\n# other" for each in different)
