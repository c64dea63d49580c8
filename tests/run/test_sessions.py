"""What each session of a run ran on is recorded; what changes between two is said, or refused."""

import dataclasses
import hashlib
import json
import logging
import platform
import re
from importlib import metadata
from pathlib import Path

import pytest
from places import ROOT
from scripted_run import Backend, Model, config_of, content, go, puzzle_file, puzzle_files

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.config import DataConfig, FinetuneConfig, ModelConfig
from selfplay.iteration import loop
from selfplay.iteration.beginning import branch
from selfplay.run import consent, sessions
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir, read_lines
from selfplay.scoring.sets import content_hash_of
from selfplay.settings import load


@pytest.fixture
def files(tmp_path):
    (tmp_path / "sets").mkdir()
    return puzzle_files(tmp_path / "sets")


@pytest.fixture
def begun(files, pool, tmp_path):
    """A run with its scores of the base."""
    go(tmp_path / "run", config_of(files, iterations=0), pool)
    return RunDir(tmp_path / "run")


def in_first_line(rundir, change):
    first, *rest = read_lines(rundir.sessions)
    change(first)
    rundir.sessions.write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))
    consent.sign(rundir, load(rundir.config))  # else it is somebody else's run, and its texts are read again


# ---- what is recorded ----


def test_a_session_says_on_what_it_ran(begun, files):
    (session,) = read_lines(begun.sessions)
    assert session["python"] == platform.python_version()
    assert session["versions"]["torch"] == metadata.version("torch")
    assert set(session["versions"]) == {
        "selfplay", "torch", "transformers", "tokenizers", "numpy", "safetensors", "sqlite"
    }  # fmt: skip
    assert session["base"] == Model("base", {}).checkpoint
    assert session["sampler"] == {"engine": "scripted"}
    assert session["tier"] == "A"
    assert session["sets"] == {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] for name, file in files.items()
    }
    assert session.keys() >= {"began", "host", "process", "platform", "processor", "cores", "source"}


def test_each_session_is_a_line(begun, files, pool):
    go(begun.path, config_of(files, iterations=0), pool)
    go(begun.path, config_of(files, iterations=1), pool)
    assert len(sessions.sessions(begun)) == 3


def test_no_variable_of_the_environment_is_in_any_file_of_a_run(files, pool, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "hf_not-to-be-told")
    go(tmp_path / "run", config_of(files, iterations=1), pool)
    written = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(written) > 5
    assert not any(b"not-to-be-told" in content for content in written)


def test_the_hash_of_the_source_is_of_every_module_and_of_nothing_that_is_made_of_them(tmp_path, monkeypatch):
    for package in sessions.PACKAGES:
        (tmp_path / package / "inside").mkdir(parents=True)
        (tmp_path / package / "inside" / "module.py").write_text("x = 1")
    monkeypatch.setattr(sessions.resources, "files", lambda package: tmp_path / package)
    before = sessions.source_hash()
    (tmp_path / "selfplay" / "module.pyc").write_text("x")
    assert sessions.source_hash() == before
    (tmp_path / "puzzles" / "inside" / "module.py").write_text("x = 2")
    assert sessions.source_hash() != before


def test_an_embedded_set_has_the_hash_of_its_file():
    file = ROOT / "puzzles" / "dev.jsonl"
    assert content_hash_of("dev") == hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def test_an_archive_has_the_hash_of_its_puzzles_not_of_its_file(begun):
    before = content_hash_of(str(begun.archive))
    with Archive(begun.archive) as archive:
        archive.set_mark("read", "yes")
    assert content_hash_of(str(begun.archive)) == content_hash_of(str(begun.path)) == before
    with Archive(begun.archive) as archive:
        archive.query("UPDATE puzzles SET id = 'another' WHERE number = 1")
    assert content_hash_of(str(begun.archive)) != before


def test_a_branch_says_of_what_it_is_one(begun, files, pool, tmp_path):
    new = RunDir(tmp_path / "branch")
    branch(begun, None, new)
    go(new.path, config_of(files, iterations=1), pool)
    assert sessions.origin(new) == {"branched_from": {"run": "run", "iteration": 0}}
    (session,) = sessions.sessions(new)
    assert session["branched_from"] == {"run": "run", "iteration": 0}


# ---- what changes ----


@pytest.mark.parametrize("name", ["train", "dev", "heldout"])
def test_a_set_that_has_changed_is_refused_by_name_and_nothing_changes(begun, files, pool, name):
    before = content(begun.path)
    file = Path(files[name])
    puzzle_file(file, [("other", "def f(x: int):\n    return x * 7 == 4907", None)])
    with pytest.raises(InputError, match=rf"data\.{name}: {re.escape(str(file))} has changed since .*run began"):
        go(begun.path, config_of(files, iterations=1), pool)
    assert content(begun.path) == before


def test_a_training_set_that_is_gone_is_not_needed_any_more(begun, files, pool):
    Path(files["train"]).unlink()
    go(begun.path, config_of(files, iterations=1), pool)
    assert set(sessions.sessions(begun)[1]["sets"]) == {"dev", "heldout"}


def test_another_base_under_the_same_name_is_refused(begun, files, pool):
    class Replaced(Backend):
        def load(self, checkpoint, config):
            return Model("replaced", {})

    with pytest.raises(InputError, match=r"model\.path: base has changed since"):
        go(begun.path, config_of(files, iterations=1), pool, Replaced())


def test_other_versions_are_said_once_logged_one_by_one_and_no_reason_to_stop(begun, files, pool, caplog):
    in_first_line(begun, lambda session: session["versions"].update(torch="1.0", numpy="0.9"))
    in_first_line(begun, lambda session: session.update(source="0" * 16))
    said = []
    with caplog.at_level(logging.WARNING, "selfplay.iteration.loop"):
        go(begun.path, config_of(files, iterations=1), pool, progress=Progress(say=said.append))
    (line,) = said
    assert "versions.torch: 1.0 then, " in line
    logged = [record.getMessage() for record in caplog.records if "not as it was" in record.getMessage()]
    assert [text.split(": ")[1] for text in logged] == ["versions.torch", "versions.numpy", "source"]


def test_another_way_of_rounding_in_training_is_said(begun, files, pool):
    said = []
    other = FinetuneConfig(checkpointing=True)
    go(begun.path, config_of(files, iterations=1, finetune=other), pool, progress=Progress(say=said.append))
    (line,) = said
    assert line.endswith("settings.finetune.checkpointing: False then, True now")


def test_another_host_and_process_are_nothing_to_speak_of(begun, files, pool):
    in_first_line(begun, lambda session: session.update(host="elsewhere", process=1, began="long ago"))
    said = []
    go(begun.path, config_of(files, iterations=1), pool, progress=Progress(say=said.append))
    assert said == []


def test_a_run_from_before_sessions_were_recorded_goes_on(begun, files, pool):
    begun.sessions.unlink()
    go(begun.path, config_of(files, iterations=1), pool)
    assert len(sessions.sessions(begun)) == 1


# ---- what settings leave to the machine ----


class Counting(Backend):
    """Knows with how many threads it was loaded."""

    rows = 64

    def __init__(self):
        super().__init__()
        self.threads = []

    def load(self, checkpoint, config):
        self.threads.append(config.threads)
        model = super().load(checkpoint, config)
        model.batch_rows = lambda max_tokens: self.rows
        return model


def on(cores, patch):
    patch.setattr(loop, "available_cores", lambda: cores)


def test_a_run_that_goes_on_with_fewer_cores_keeps_its_threads(files, pool, tmp_path, monkeypatch):
    config, backend = config_of(files), Counting()
    on(4, monkeypatch)
    go(tmp_path / "run", dataclasses.replace(config, iterations=0), pool, backend)
    on(1, monkeypatch)
    go(tmp_path / "run", config, pool, backend)
    assert set(backend.threads) == {4}
    assert load(RunDir(tmp_path / "run").config).model.threads == 4


def test_the_settings_it_was_begun_with_still_go_on_with_it_and_other_threads_do_not(
    files, pool, tmp_path, monkeypatch
):
    config = config_of(files, iterations=0)
    on(4, monkeypatch)
    go(tmp_path / "run", config, pool)
    go(tmp_path / "run", dataclasses.replace(config, model=ModelConfig("base", threads=4)), pool)
    with pytest.raises(InputError, match=r"model.threads \(4 there, 2 here\)"):
        go(tmp_path / "run", dataclasses.replace(config, model=ModelConfig("base", threads=2)), pool)


def test_a_run_that_goes_on_with_less_memory_keeps_its_rows(files, pool, tmp_path):
    config, backend = config_of(files, batch_rows=0), Counting()
    go(tmp_path / "run", dataclasses.replace(config, iterations=0), pool, backend)
    backend.rows = 2
    go(tmp_path / "run", config, pool, backend)
    assert load(RunDir(tmp_path / "run").config).batch_rows == 64
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert {row[0] for row in archive.query("SELECT settings ->> 'batch_rows' FROM chunks")} == {64}


def test_a_run_from_before_they_were_kept_goes_on_with_what_it_has_scored_with(files, pool, tmp_path, monkeypatch):
    config, backend, place = config_of(files, batch_rows=0), Counting(), RunDir(tmp_path / "run")
    go(place.path, dataclasses.replace(config, iterations=0), pool, backend)
    old = place.config.read_text()
    place.config.write_text(re.sub(r"(threads|batch_rows) = \d+", r"\1 = 0", old))
    lines = read_lines(place.samples(0, "dev"))
    for line in lines:
        line["sampler"]["threads"] = 3
    place.samples(0, "dev").write_text("".join(json.dumps(line) + "\n" for line in lines))
    backend.rows, backend.threads = 2, []
    on(1, monkeypatch)
    go(place.path, config, pool, backend)
    assert set(backend.threads) == {3}
    assert load(place.config).batch_rows == 64


class OnProcessor(Backend):
    """Where `auto` takes what the processor is fast at; it knows in which dtypes models were loaded."""

    def __init__(self, fast):
        super().__init__()
        self.fast, self.dtypes = fast, []

    def load(self, checkpoint, config):
        model = super().load(checkpoint, config)
        model.description = {"dtype": self.fast if config.dtype == "auto" else config.dtype}
        self.dtypes.append(model.description["dtype"])
        return model


def test_a_run_that_goes_on_on_another_processor_keeps_its_dtype(files, pool, tmp_path):
    config, place, elsewhere = config_of(files), RunDir(tmp_path / "run"), OnProcessor("float32")
    go(place.path, dataclasses.replace(config, iterations=0), pool, OnProcessor("bfloat16"))
    assert load(place.config).model.dtype == "bfloat16"
    go(place.path, config, pool, elsewhere)
    assert set(elsewhere.dtypes) == {"bfloat16"}
    assert {record["sampler"]["dtype"] for record in place.read_records()} == {"bfloat16"}
    with pytest.raises(InputError, match=r"model.dtype \('bfloat16' there, 'float32' here\)"):
        go(place.path, dataclasses.replace(config, model=ModelConfig("base", dtype="float32")), pool)


def test_a_run_from_before_the_dtype_was_kept_goes_on_with_what_it_has_scored_with(files, pool, tmp_path):
    config, place, elsewhere = config_of(files), RunDir(tmp_path / "run"), OnProcessor("bfloat16")
    go(place.path, dataclasses.replace(config, iterations=0), pool, OnProcessor("float32"))
    place.config.write_text(place.config.read_text().replace('dtype = "float32"', 'dtype = "auto"'))
    go(place.path, config, pool, elsewhere)
    assert set(elsewhere.dtypes) == {"float32"}
    assert load(place.config).model.dtype == "float32"


def test_a_run_on_servers_leaves_the_dtype_to_them(files, pool, tmp_path):
    place = RunDir(tmp_path / "run")
    go(place.path, config_of(files, iterations=0), pool, OnProcessor("as served"))
    assert load(place.config).model.dtype == "auto"


def test_a_slower_way_of_sampling_is_said_and_recorded(files, pool, tmp_path):
    class Slow(Backend):
        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            model.description = {"engine": "generate", "engine_reason": "it is odd"}
            return model

    said, place = [], RunDir(tmp_path / "run")
    go(place.path, config_of(files, iterations=1), pool, Slow(), Progress(say=said.append))
    assert said == ["this model is sampled in a slower way, generate: it is odd"]
    assert [record["sampler"]["engine"] for record in place.read_records()] == ["generate"] * 2
    assert sessions.sessions(place)[0]["sampler"]["engine_reason"] == "it is odd"


def test_a_run_without_puzzles_of_people_has_no_hash_of_them(files, pool, tmp_path):
    data = DataConfig(**{**files, "train": "none"}, rules=20)
    go(tmp_path / "run", config_of(files, iterations=0, data=data), pool)
    (session,) = sessions.sessions(RunDir(tmp_path / "run"))
    assert set(session["sets"]) == {"dev", "heldout"}
