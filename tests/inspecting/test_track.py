"""Curves of a run: each step and each record is there once, in one file, whatever happened to the sessions."""

import dataclasses

import pytest

from puzzles.puzzle import InputError
from selfplay.config import RunConfig
from selfplay.inspecting import track
from selfplay.inspecting.track import EVENTS, Tracker, tracker
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.settings import to_toml

CONFIG = RunConfig(track="tensorboard")
SCORE = {"puzzles": 1, "samples_per_puzzle": 4, "solved": 1, "verdicts": {}, "truncated": 0, "tokens": 1}


def record(iteration, steps):
    """A record, as far as curves need it."""
    return {"iteration": iteration, "training": {"steps": steps}, "dev": {**SCORE, "pass@1": [0.5, 0.4, 0.6]}}


class Written:
    """A writer that remembers."""

    def __init__(self):
        self.points = []

    def write(self, step, scalars):
        self.points.append((step, scalars))


def train(progress, iteration, steps, loss=2.0):
    count = progress.counter(steps, "fine-tune", "step")
    for step in range(steps):
        count(1)
        progress.trained(iteration, 100, loss - step, 1e-3 * (step + 1))


def test_steps_are_counted_over_all_iterations_and_records_stand_at_their_ends():
    written = Written()
    progress = Tracker(lambda: written, [record(0, 0)]).watching(Progress())
    progress.row(record(0, 0))  # a session begins with the rows that are there
    for iteration, steps in ((1, 3), (2, 2)):
        train(progress, iteration, steps)
        progress.row(record(iteration, steps))
    steps = [step for step, scalars in written.points if "train/loss" in scalars]
    assert steps == [1, 2, 3, 4, 5]
    assert [(step, s["iteration"], s["dev/pass@1"], s["dev/pass@1_low"], s["dev/pass@1_high"])
            for step, s in written.points if "iteration" in s] == [
        (3, 1.0, 0.5, 0.4, 0.6), (5, 2.0, 0.5, 0.4, 0.6)]  # fmt: skip
    losses = [(s["train/loss"], s["train/learning_rate"]) for _, s in written.points if "train/loss" in s]
    assert losses == [(2.0, 1e-3), (1.0, 2e-3), (0.0, 3e-3), (2.0, 1e-3), (1.0, 2e-3)]
    assert all(s["train/tokens_per_second"] > 0 for _, s in written.points if "train/loss" in s)


def test_whoever_watched_before_still_sees_everything():
    seen = []
    progress = Tracker(Written, []).watching(
        Progress(row=seen.append, trained=lambda *step: seen.append(step), counter=lambda *of: lambda *done: None)
    )
    train(progress, 1, 1)
    progress.row(record(1, 1))
    assert seen == [(1, 100, 2.0, 1e-3), record(1, 1)]


def test_without_a_writer_nothing_is_watched():
    progress = Progress()
    assert Tracker(None, []).watching(progress) is progress


@pytest.fixture
def rundir(tmp_path):
    pytest.importorskip("tensorboard", reason="curves need the extra [track]")
    return RunDir(tmp_path / "run")


def session(rundir, records, *iterations, steps=2):
    """A session that begins with records and trains iterations; the last one's record is not written."""
    rundir.path.mkdir(exist_ok=True)
    RunDir.read_records, kept = (lambda self: list(records)), RunDir.read_records
    try:
        with tracker(CONFIG, rundir) as own:
            progress = own.watching(Progress())
            for iteration in iterations:
                train(progress, iteration, steps)
                if iteration != iterations[-1]:
                    progress.row(record(iteration, steps))
    finally:
        RunDir.read_records = kept


def scalars(rundir):
    """Steps with their losses, as TensorBoard reads them: what was done again counts once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(rundir.path / "tensorboard"))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars("train/loss")], read


def test_a_run_has_one_file_whatever_its_sessions_and_what_is_done_again_counts_once(rundir):
    session(rundir, [], 1, 2)
    session(rundir, [record(0, 0), record(1, 2)], 2)
    assert [file.name for file in (rundir.path / "tensorboard").iterdir()] == [EVENTS]
    found, read = scalars(rundir)
    assert found == [(1, 2.0), (2, 1.0), (3, 2.0), (4, 1.0)]
    (text, *_) = read.Tensors("settings/text_summary") if "settings/text_summary" in read.Tags()["tensors"] else (
        read.Tensors("settings")
    )  # fmt: skip
    assert all(f"    {line}" in text.tensor_proto.string_val[0].decode() for line in to_toml(CONFIG).splitlines())


def test_a_torn_end_of_the_file_is_cut_off_and_the_rest_is_kept(rundir):
    session(rundir, [], 1)
    file = rundir.path / "tensorboard" / EVENTS
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:13])
    session(rundir, [record(0, 0), record(1, 2)], 2)
    assert scalars(rundir)[0] == [(1, 2.0), (2, 1.0), (3, 2.0), (4, 1.0)]


def test_a_file_of_curves_that_is_a_link_is_not_written(rundir, tmp_path):
    (rundir.path / "tensorboard").mkdir(parents=True)
    (tmp_path / "mine.txt").write_text("mine")
    (rundir.path / "tensorboard" / EVENTS).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(InputError, match="link"):
        session(rundir, [], 1)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_wandb_writes_below_the_run_in_its_offline_mode(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the extra [wandb]")
    monkeypatch.setenv("WANDB_MODE", "online")
    rundir = RunDir(tmp_path / "run")
    rundir.path.mkdir()
    with tracker(dataclasses.replace(CONFIG, track="wandb"), rundir) as own:
        train(own.watching(Progress()), 1, 2)
        assert wandb.run.settings._offline
        assert wandb.run.config["solve.temperature"] == CONFIG.solve.temperature
    (file,) = (rundir.path / "wandb").glob("offline-run-*/run-run.wandb")
    assert file.stat().st_size > 0
    rundir.check()  # which refuses links


def test_a_run_that_is_refused_writes_no_curve(rundir):
    rundir.path.mkdir()
    with tracker(CONFIG, rundir) as own:
        own.watching(Progress())
    assert list(rundir.path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_said_at_the_start(monkeypatch, name):
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"track = '{name}': the package is not installed: pip install"):
        track.require(RunConfig(track=name))
    track.require(RunConfig())


def test_the_older_setting_means_the_same(monkeypatch):
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="track = 'tensorboard'"):
        track.require(RunConfig(tensorboard=True))
