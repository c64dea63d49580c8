"""A run that an earlier layout of the code made, before its folders had rooms, opens as before."""

import json
import shutil

import pytest
from places import ROOT
from scripted_run import Backend, config_of, content, go, puzzle_files, same

from puzzles.archive.catalogue import stats
from puzzles.archive.store import Archive
from selfplay.experiments.reproduce import AUTHORS, begin, reproduce
from selfplay.inspecting.report import report
from selfplay.run.rundir import RunDir

OLD = ROOT / "tests" / "shared" / "run-before-the-rooms"
"""One iteration, trained and scored, by the scripted model; `FOLDER` stands for where its sets are."""


@pytest.fixture
def rundir(tmp_path):
    folder = shutil.copytree(OLD, tmp_path / "old")
    config = folder / "run" / "config.toml"
    config.write_text(config.read_text().replace("FOLDER", str(folder)))
    return RunDir(folder / "run")


def test_its_archive_opens(rundir):
    with Archive(rundir.archive) as archive:
        assert archive.query("PRAGMA integrity_check")[0][0] == "ok"
        assert stats(archive)["pairs"] == 14


def test_it_goes_on_to_the_same_end_as_a_run_made_today(rundir, pool, tmp_path):
    files = puzzle_files(rundir.path.parent)
    go(rundir.path, config_of(files), pool)
    go(tmp_path / "new", config_of(files), pool)
    went_on, (backup,) = content(rundir.path), rundir.path.glob("archive.schema-*.sqlite")
    went_on["files"].remove(backup.name)
    new = content(tmp_path / "new")
    known = [chunk.pop("token_ids") is not None for chunk in went_on["archive"]["chunks"]]
    assert (known[0], known[-1]) == (False, True)
    assert all(chunk.pop("token_ids") for chunk in new["archive"]["chunks"])
    for table in ("puzzles", "solutions"):  # the older version kept no author's program
        for row in went_on["archive"][table] + new["archive"][table]:
            for column in AUTHORS:
                row.pop(column, None)
    for one in (went_on, new):
        leave_formats_out(one)
    assert same(went_on, new)


def leave_formats_out(run):
    """The older version kept no formats of prompts."""
    for chunk in run["archive"]["chunks"]:
        settings = json.loads(chunk["settings"])
        settings.pop("prompt_format", None)
        chunk["settings"] = settings
    for record in run["records"]:
        record.pop("prompt_format_hash", None)
    for line in (line for lines in run["scores"].values() for line in lines):
        line["identity"].pop("prompt_format_hash", None)


def test_it_is_reported(rundir):
    assert "iteration 1" in report(rundir)


def test_it_is_reproduced_without_a_difference(rundir, pool, tmp_path):
    again = RunDir(tmp_path / "again")
    last = begin(rundir, again, None)
    assert reproduce(rundir, again, last, Backend(), pool, {"tier": "A"}).is_identical
