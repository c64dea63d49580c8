import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from puzzles.puzzle import InputError
from selfplay.run import rundir
from selfplay.run.rundir import RunDir, append_line, folder_atomically, read_lines, write_atomically

HOLD_THE_LOCK = """
import sys, time
from pathlib import Path
from selfplay.run.rundir import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


# ---- names ----


def test_a_run_names_its_files(tmp_path):
    run = RunDir(tmp_path)
    names = [run.config, run.archive, run.records, run.log, run.checkpoint(7), run.samples(12, "dev")]
    assert [str(name.relative_to(tmp_path)) for name in names] == [
        "config.toml",
        "archive.sqlite",
        "records.jsonl",
        "log.txt",
        "checkpoints/iteration-007",
        "scores/iteration-012-dev.jsonl",
    ]


# ---- files that grow ----


def test_lines_come_back_in_order(tmp_path):
    records = [{"iteration": 0, "text": "ü\n\u2028\ud800"}, {"iteration": 1}, {}]
    file = tmp_path / "not made yet" / "lines.jsonl"
    for record in records:
        append_line(file, record)
    assert read_lines(file) == records


def test_a_missing_or_empty_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "missing.jsonl") == []
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert read_lines(tmp_path / "empty.jsonl") == []


@pytest.mark.parametrize("torn", [b"{", b'{"b": 2}', b'{"b": "\xc3'])
def test_a_torn_last_line_is_not_read(tmp_path, torn):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    assert read_lines(path) == [{"a": 1}]


@pytest.mark.parametrize("torn", [b"{", b'{"b": 2}', b'{"b": "\xc3'])
def test_a_torn_last_line_is_cut_off_before_the_next_one(tmp_path, torn):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    append_line(path, {"c": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'


def test_a_file_that_is_nothing_but_a_torn_line_begins_anew(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"a')
    append_line(path, {"c": 3})
    assert read_lines(path) == [{"c": 3}]


def test_a_record_that_is_no_json_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "records.jsonl"
    append_line(path, {"a": 1})
    with pytest.raises(TypeError):
        append_line(path, {"b": object()})
    assert read_lines(path) == [{"a": 1}]


# ---- files that are replaced ----


def test_a_written_file_holds_the_text_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "scores" / "dev.json"
    write_atomically(path, "old")
    write_atomically(path, "new ü")
    assert path.read_text("utf-8") == "new ü"
    assert [file.name for file in path.parent.iterdir()] == ["dev.json"]


def test_a_character_that_utf_8_has_not_is_written_as_its_escape(tmp_path):
    write_atomically(tmp_path / "results.md", "half of a pair: \ud800")
    assert (tmp_path / "results.md").read_text() == "half of a pair: \\ud800"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rundir.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["config.toml"]


def test_the_next_write_gets_over_what_a_crash_left_beside_the_file(tmp_path):
    path = tmp_path / "config.toml"
    (tmp_path / ".config.toml.part").write_text("half of something much longer than the new text")
    write_atomically(path, "new")
    assert path.read_text() == "new"


# ---- folders ----


def fill_half(path: Path, error: type[BaseException] = RuntimeError) -> None:
    with folder_atomically(path) as folder:
        (folder / "half").write_text("half")
        raise error


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "checkpoints" / "iteration-000"
    with folder_atomically(path) as folder:
        (folder / "weights").write_text("1")
        assert not path.exists()
    assert (path / "weights").read_text() == "1"
    assert [entry.name for entry in path.parent.iterdir()] == ["iteration-000"]


def test_a_folder_may_hold_folders(tmp_path):
    with folder_atomically(tmp_path / "model") as folder:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool.jinja").write_text("t")
    assert (tmp_path / "model" / "additional_chat_templates" / "tool.jinja").read_text() == "t"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_under_the_final_name(tmp_path, error):
    path = tmp_path / "iteration-000"
    with pytest.raises(error):
        fill_half(path, error)
    assert not path.exists()


def test_an_exception_leaves_an_older_folder_as_it_was(tmp_path):
    path = tmp_path / "iteration-000"
    with folder_atomically(path) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(RuntimeError):
        fill_half(path)
    assert (path / "weights").read_text() == "old"


def test_what_an_exception_left_behind_does_not_get_into_the_next_folder(tmp_path):
    path = tmp_path / "iteration-000"
    with pytest.raises(RuntimeError):
        fill_half(path)
    with folder_atomically(path) as folder:
        (folder / "weights").write_text("new")
    assert [entry.name for entry in path.iterdir()] == ["weights"]


def test_a_finished_folder_replaces_an_older_one_whole(tmp_path):
    path = tmp_path / "iteration-000"
    for name in ("old", "new"):
        with folder_atomically(path) as folder:
            (folder / name).write_text(name)
    assert [entry.name for entry in path.iterdir()] == ["new"]


# ---- the lock ----


def test_a_run_that_another_process_writes_is_refused_and_says_by_whom(tmp_path, holder):
    with pytest.raises(InputError, match=f"another process is writing this run: process {holder.pid} of .* on "):
        RunDir(tmp_path).lock().__enter__()
    assert holder.poll() is None


def test_the_lock_is_free_after_its_holder_is_killed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunDir(tmp_path).lock():
        assert f"process {os.getpid()} of" in (tmp_path / "lock").read_text()


def test_the_lock_is_free_after_its_holder_is_done(tmp_path):
    for _ in range(2):
        with RunDir(tmp_path).lock():
            pass
    with pytest.raises(RuntimeError), RunDir(tmp_path).lock():
        raise RuntimeError
    with RunDir(tmp_path).lock():
        pass


def test_one_process_cannot_hold_the_lock_twice(tmp_path):
    with RunDir(tmp_path).lock(), pytest.raises(InputError, match=f"process {os.getpid()}"):
        RunDir(tmp_path).lock().__enter__()


def test_records_are_one_json_object_a_line(tmp_path):
    append_line(tmp_path / "records.jsonl", {"a": [1, "x"]})
    assert json.loads((tmp_path / "records.jsonl").read_text()) == {"a": [1, "x"]}


# ---- records ----

COUNTED = (
    "proposed", "well_formed", "admitted", "held_out_refused", "contaminated", "solved", "training_solved",
    "candidates", "accepted", "new_pairs", "varied", "pairs", "trained_pairs",
)  # fmt: skip
SCORE = {
    "puzzles": 1, "samples_per_puzzle": 2, "pass@1": [0.5, 0.1, 0.9], "solved": 1, "verdicts": {"accepted": 1},
    "truncated": 0, "tokens": 9,
}  # fmt: skip
RECORD = {
    "iteration": 0, "checkpoint": "weights", "protocol": "plain", **dict.fromkeys(COUNTED, 0), "training": {},
    "sampler": {}, "dev": SCORE, "heldout": SCORE,
    "times": {"sampling": 0, "judging": 0.5, "training": 0, "scoring": 0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"iteration": 1}, "expected iteration 0, got 1"),
        ({"pairs": -1}, "expected at least 0 under 'pairs', got -1"),
        ({"pairs": "7"}, "expected an integer under 'pairs', got '7'"),
        ({"dev": {**SCORE, "pass@1": [0.5, 0.1]}}, r"expected 3 in the list under 'dev\.pass@1', got 2"),
        ({"dev": {**SCORE, "pass@1": [0.5, float("nan"), 1]}}, r"expected a number under 'dev\.pass@1\[1\]', got nan"),
        ({"dev": {**SCORE, "pass@2": [0.5, 0.1, 0.9]}}, "expected pass@k of dev and the same of heldout"),
        ({"times": {}}, "expected the key 'times.sampling', it is missing"),
        ({"cost": {"score": {}}}, "expected the key 'cost.score.texts', it is missing"),
    ],
)
def test_a_record_of_another_shape_is_named_with_its_line_and_key(tmp_path, change, words):
    run = RunDir(tmp_path)
    append_line(run.records, RECORD)
    assert run.read_records() == [RECORD]
    run.records.write_text("")
    append_line(run.records, {**RECORD, **change})
    with pytest.raises(InputError, match=rf"records\.jsonl, line 1: {words}"):
        run.read_records()


def test_a_line_nested_too_deep_is_named(tmp_path):
    (tmp_path / "lines.jsonl").write_text("{}\n" + "[" * 100_000 + "\n")
    with pytest.raises(InputError, match=r"lines\.jsonl, line 2: expected one JSON object"):
        read_lines(tmp_path / "lines.jsonl")


def test_a_folder_that_was_not_finished_leaves_nothing_beside(tmp_path):
    def begin():
        with folder_atomically(tmp_path / "folder") as part:
            (part / "file").write_text("half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        begin()
    assert not [*tmp_path.iterdir()]
