import errno
import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from puzzles.puzzle import InputError
from selfplay.run import heartbeat
from selfplay.run.heartbeat import Heartbeat, now, read_status, starting
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir


def kept(path):
    return json.loads(path.read_text())


def changed(path, **what):
    path.write_text(json.dumps({**kept(path), **what}))


def ago(**time):
    return (datetime.now(UTC) - timedelta(**time)).isoformat(timespec="seconds")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "status.json"


def test_a_run_says_that_it_lives_and_what_it_does(file, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    shown = []
    own = Progress(lambda total, description, unit: shown.append((total, description, unit)) or shown.append)
    with Heartbeat(file, starting()) as beats:
        assert kept(file)["doing"] == "starting"
        count = beats.watching(own).counter(100, "iteration 2: solve", "candidate")
        count(30)
        count(12)
        while kept(file)["done"] != 42:
            time.sleep(0.01)
        status = kept(file)
    assert shown == [(100, "iteration 2: solve", "candidate"), 30, 12]
    assert [status[key] for key in ("state", "reason", "doing", "of")] == ["running", "", "iteration 2: solve", 100]
    assert status["since"] <= status["moved_at"] <= status["beat_at"]
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "finished"),
        (KeyboardInterrupt(), "interrupted"),
        (InputError("a.toml: expected\n  TOML"), "a.toml: expected TOML"),
        (MemoryError(), "MemoryError"),
    ],
    ids=str,
)
def test_a_run_says_why_it_ended(file, error, reason):
    def end():
        with Heartbeat(file, starting()):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            end()
    else:
        end()
    assert (kept(file)["state"], kept(file)["reason"]) == ("ended", reason)


def test_a_status_that_cannot_be_written_does_not_end_the_run(tmp_path):
    with Heartbeat(tmp_path / "gone" / "status.json", starting()):
        pass


def test_a_full_disk_has_room_for_the_last_words(file, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Heartbeat(file, starting()) as beats:
        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        beats.end("the disk is full")
        assert (kept(file)["state"], kept(file)["reason"]) == ("ended", "the disk is full")
        assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": "running"}', "\0"])
def test_what_is_no_status_is_none(file, text):
    file.write_text(text)
    assert read_status(file) is None


def test_a_status_without_a_time_is_none(file):
    with Heartbeat(file, starting()):
        pass
    changed(file, beat_at="yesterday")
    assert read_status(file) is None


# ---- a run's state, and its one writer ----


@pytest.fixture
def run(tmp_path):
    """A run that was killed a moment ago."""
    run = RunDir(tmp_path)
    with run.lock() as owner:
        Heartbeat(run.status, owner)._write()
    return run


@pytest.fixture
def sleeper():
    """The number of a process that has just begun."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ({}, "killed"),
        ({"host": "another"}, "running"),
        ({"host": "another", "beat_at": ago(minutes=3)}, "killed"),
        ({"host": "another", "beat_at": ago(hours=-5)}, "killed"),  # a clock that is far ahead says nothing
        ({"state": "ended", "reason": "interrupted"}, "stopped: interrupted"),
        ({"state": "ended", "reason": "finished"}, "stopped"),
    ],
    ids=["here", "elsewhere", "elsewhere, long ago", "elsewhere, ahead", "interrupted", "finished"],
)
def test_the_state_of_a_run_that_is_not_done_is_in_its_last_words(run, what, state):
    changed(run.status, **what)
    assert run.state(3) == state


def test_a_run_that_holds_its_lock_is_running_whatever_its_last_words(run):
    changed(run.status, state="ended", reason="interrupted")
    with run.lock():
        assert run.state(3) == "running"


def test_a_run_of_before_there_were_last_words_is_stopped(tmp_path):
    assert RunDir(tmp_path).state(3) == "stopped"


def test_a_run_that_beats_on_another_machine_is_refused_though_its_lock_is_not_seen_here(run):
    changed(run.status, host="node7", user="ada", process=12, doing="iteration 1: solve")
    expected = (
        r"another process is writing this run: process 12 of ada on node7 since .*, iteration 1: solve, "
        r"last beat \d+ s ago; if that process is gone, try again in 60 seconds"
    )
    with pytest.raises(InputError, match=expected):
        run.lock().__enter__()


def test_a_run_that_lives_is_refused_though_its_lock_was_removed(run, sleeper):
    changed(run.status, process=sleeper, since=now())
    (run.path / "lock").unlink()
    with pytest.raises(InputError, match=f"process {sleeper} of .* try again in 60 seconds"):
        run.lock().__enter__()


def test_a_run_whose_process_is_gone_goes_on_though_another_has_its_number_now(run, sleeper):
    changed(run.status, process=sleeper, since=ago(seconds=30), beat_at=ago(seconds=20))
    with run.lock():
        pass


def test_a_run_whose_process_is_dead_goes_on_though_nobody_has_asked_for_its_status(run):
    with subprocess.Popen(["true"]) as process:
        while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        changed(run.status, process=process.pid, since=now())
        with run.lock():
            pass


def test_a_run_whose_writer_on_another_machine_is_dead_goes_on(run):
    changed(run.status, host="node7", beat_at=ago(seconds=90))
    with run.lock():
        pass


def test_a_run_that_was_killed_on_this_machine_goes_on_at_once(run):
    with run.lock():
        pass
