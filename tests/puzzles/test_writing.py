"""Nothing that this program writes goes through a link that somebody has put there."""

import contextlib
import os
import stat
from pathlib import Path

import pytest

from puzzles.puzzle import InputError
from puzzles.writing import (
    check_folder,
    file_atomically,
    folder_atomically,
    open_in_place,
    path_atomically,
    write_atomically,
)
from selfplay.commands.log import log_to
from selfplay.run.heartbeat import Heartbeat, starting
from selfplay.run.rundir import RunDir, append_line


@pytest.fixture
def precious(tmp_path):
    """A file that links lead to."""
    path = tmp_path / "elsewhere" / "precious.txt"
    path.parent.mkdir()
    path.write_text("years of work")
    yield path
    assert path.read_text() == "years of work"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["report.html", ".report.html.part"])
def test_a_file_is_written_beside_what_a_link_leads_to(folder, precious, name):
    (folder / name).symlink_to(precious)
    write_atomically(folder / "report.html", "a page")
    assert (folder / "report.html").read_text() == "a page"
    assert not (folder / "report.html").is_symlink()


def test_a_status_is_written_beside_what_a_link_leads_to(folder, precious):
    for name in ("status.json", ".status.json.part"):
        (folder / name).symlink_to(precious)
    with Heartbeat(folder / "status.json", starting()):
        pass
    assert '"finished"' in (folder / "status.json").read_text()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_that_grows_is_refused_if_it_is_a_link(folder, precious, link):
    link(precious, folder / "records.jsonl")
    with pytest.raises(InputError, match=r"records\.jsonl: expected an ordinary file"):
        append_line(folder / "records.jsonl", {"a": 1})


def test_a_log_is_not_written_through_a_link(folder, precious, caplog):
    import logging

    (folder / "log.txt").symlink_to(precious)
    with log_to(folder / "log.txt"), contextlib.suppress(InputError):
        logging.getLogger("selfplay").warning("a line")


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "lock")
    with pytest.raises(InputError, match="lock: expected an ordinary file or folder, got a pipe"):
        open_in_place(folder / "lock")
    assert not RunDir(folder).is_locked()


@pytest.mark.parametrize("name", ["checkpoints", "scores/iteration-000-dev.jsonl", "lock", "archive.sqlite-wal"])
def test_a_runs_folder_with_a_link_in_it_is_refused_before_anything_is_written(folder, precious, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(precious.parent)
    before = sorted(path.name for path in folder.rglob("*"))
    told = f"{name}: expected an ordinary file or folder, got a link to .*: put the"
    with pytest.raises(InputError, match=told), RunDir(folder).lock():
        pass
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_runs_folder_may_be_reached_through_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with RunDir(tmp_path / "link").lock():
        assert (folder / "lock").read_text()


def test_files_of_another_user_are_told_about(folder, caplog, monkeypatch):
    write_atomically(folder / "config.toml", "")
    assert check_folder(folder) == []
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert check_folder(folder) == [folder / "config.toml"]
    RunDir(folder).check()
    assert "1 files belong to another user, who may change them, such as" in caplog.text


def test_what_fails_leaves_the_file_as_it_was_and_nothing_beside_it(folder):
    write_atomically(folder / "a", "old")
    for way in (file_atomically, path_atomically, folder_atomically):
        with pytest.raises(OSError, match="in between"), way(folder / "a"):
            raise OSError("in between")
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").read_text() == "old"


def test_what_a_crash_has_left_is_removed_and_what_is_being_written_stays(folder):
    dead = folder / ".a.0123abcd.part"
    dead.write_text("half")
    dead_folder = folder / ".b.0123abcd.part"
    dead_folder.mkdir()
    (dead_folder / "weights").write_text("half")
    with file_atomically(folder / "a") as file:
        (alive,) = folder.glob(".a.*.part")
        write_atomically(folder / "a", "by another")
        assert alive.exists()
        file.write(b"by this one")
    with folder_atomically(folder / "b") as part:
        assert sorted(folder.glob(".b.*.part")) == [part]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    assert (folder / "a").read_text() == "by this one"


def test_a_new_file_has_the_usual_rights(folder):
    write_atomically(folder / "a", "")
    Path(folder / "b").touch()
    rights = {stat.S_IMODE((folder / name).stat().st_mode) for name in "ab"}
    assert len(rights) == 1
