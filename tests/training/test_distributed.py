"""Trainings in several processes, begun by the real torchrun, beside the same in one process."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time

import interrupted
import learned
import pytest
import together
import torch
from places import ROOT
from safetensors.torch import load_file

from puzzles.puzzle import InputError
from selfplay.commands.main import main
from selfplay.config import FinetuneConfig
from selfplay.run.rundir import RunDir
from selfplay.training import distributed
from selfplay.training.backend import Training
from selfplay.training.finetune import finetune

HERE = ROOT / "tests" / "shared"
ROUNDING = 5e-6
"""Of weights after some dozen steps of AdamW at 1e-3, which move them by 4e-3 to 3e-2; measured: 1e-6 at most."""
CASES = [
    *("sft", "sft-few", "dpo-parts", "dpo-few", "grpo-parts"),
    *("sft-full", "sft-full-parts", "dpo-full-parts", "dpo-full-few", "grpo-full-parts", "sft-full-checkpointing"),
]
WITH_LORA = ["sft-lora", "sft-full-lora"]


def torchrun(processes, *command, folder=HERE.parent, seconds=120):
    """Run by torchrun; what became of it."""
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*launched, *map(str, command)], cwd=folder, env=environment(), capture_output=True, text=True, timeout=seconds
    )


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), *sys.path]), **more}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """The folder with the checkpoints that two processes have made together."""
    folder = tmp_path_factory.mktemp("together")
    cases = CASES + (WITH_LORA if importlib.util.find_spec("peft") else [])
    done = torchrun(2, HERE / "together.py", tiny(), folder, *cases)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES + WITH_LORA)
def test_two_processes_come_to_the_weights_of_one(case, trained, tiny, tmp_path):
    if case in WITH_LORA:
        pytest.importorskip("peft")
    stats = together.train(case, tiny(), tmp_path, together=False)
    one, two, start = (load_file(f / "model.safetensors") for f in (tmp_path / case, trained / case, tiny()))
    assert one.keys() == two.keys()
    assert max((one[name] - start[name]).abs().max() for name in one) > 500 * ROUNDING
    assert max((one[name] - two[name]).abs().max() for name in one) < ROUNDING
    told = json.loads((trained / case / "selfplay.json").read_text())
    assert told["processes"] == 2
    for name in ("steps", "sequences", "tokens"):
        assert told["training"][name] == getattr(stats, name)
    for name in ("first_loss", "last_loss", "preferred", "better_shift", "ratio", "clipped"):
        expected = getattr(stats, name)
        assert told["training"][name] == (expected and pytest.approx(expected, rel=1e-4, abs=1e-5))


@pytest.mark.slow
def test_a_sharded_training_leaves_a_plain_folder(trained, tiny):
    assert {f.name for f in (trained / "sft-full").iterdir()} == {f.name for f in tiny().iterdir()}
    config = json.loads((trained / "sft-full" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_torchrun_names_it(tiny, tmp_path):
    began = time.monotonic()
    done = torchrun(2, HERE / "together.py", tiny(), tmp_path, "die-1", "sft")
    assert done.returncode == 1
    assert "exitcode  : -9" in done.stderr.partition("Root Cause")[2]
    assert not (tmp_path / "sft").exists()
    assert time.monotonic() - began < 60


def begun_by_hand(rank, port, *arguments):
    """One of two processes as torchrun begins them, without torchrun."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, HERE / "together.py", *arguments]
    return subprocess.Popen(command, env=environment(**ranks, **place), stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_dies_is_noticed_by_the_others_even_without_torchrun(dying, tiny, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [begun_by_hand(rank, port, tiny(), tmp_path, f"die-{dying}", "sft") for rank in (0, 1)]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert processes[dying].returncode == -signal.SIGKILL
    assert processes[1 - dying].returncode == 1
    expected = (
        f"ConnectionError: process {1 - dying} of 2: another process of torchrun has ended; its own message says why"
    )
    assert expected in said[1 - dying].splitlines()[-1]


# ---- whole runs ----


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """A folder with settings, the three sets, and a model that finds pairs."""
    folder = tmp_path_factory.mktemp("files")
    return learned.make_files(folder, learned.make_model(tiny(), folder / "model"))


@pytest.mark.slow
def test_a_run_under_torchrun_is_the_plain_run_but_for_the_rounding_of_weights(files, tmp_path, monkeypatch):
    done = torchrun(2, "-m", "selfplay.commands.main", "run", files / "tiny.toml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(files / "tiny.toml"), "--name", "plain"]) == 0
    plain, two = tmp_path / "runs" / "plain", tmp_path / "runs" / "tiny"
    assert interrupted.archive_content(two / "archive.sqlite") == interrupted.archive_content(plain / "archive.sqlite")
    one, other = (load_file(RunDir(run).checkpoint(1) / "model.safetensors") for run in (plain, two))
    assert max((one[name] - other[name]).abs().max() for name in one) < ROUNDING
    assert [r["iteration"] for r in RunDir(two).read_records()] == [0, 1]
    assert done.stdout.count("iteration  proposed") == 1  # the other process says nothing


# ---- one process ----


def test_alone_everything_is_ones_own_and_nothing_is_asked_of_others():
    steps = [3, 1, 4, 1, 5]
    network = torch.nn.Linear(2, 2)
    assert distributed.dealt(steps, 1) == (steps, True)
    assert distributed.even(steps, network) == [(step, True) for step in steps]
    assert distributed.total([0.1, 2.5]) == [0.1, 2.5]
    assert distributed.added(network, {"loss": torch.tensor(0.5)}) == {"loss": 0.5}
    assert (distributed.size(), distributed.rank(), distributed.local_size()) == (1, 0, 1)


@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_a_step_is_dealt_out_once_and_units_stay_together(processes, unit, monkeypatch):
    batch = list(range(10))
    monkeypatch.setattr(distributed, "size", lambda: processes)
    counted = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        own, counts = distributed.dealt(batch, unit)
        assert own
        assert all(own[i : i + unit] == list(range(own[i], own[i] + unit)) for i in range(0, len(own), unit))
        counted += own if counts else []
    assert sorted(counted) == batch


def test_torchrun_with_one_process_is_no_torchrun(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["runs"]) == 0


def test_a_command_that_does_not_train_is_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "two")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["runs"]) == 2
    assert capsys.readouterr().err.startswith("selfplay: torchrun: only run, reproduce and ablate train in several")


def test_weights_are_not_spread_over_one_process(tiny, tmp_path):
    config = FinetuneConfig(shard="full")
    with pytest.raises(InputError, match="begin the run with `torchrun"):
        finetune(Training(tiny(), together.LESSONS["sft"], config, together.CPU, [1], {}), tmp_path / "never")
    assert not (tmp_path / "never").exists()
