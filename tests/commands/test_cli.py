"""The command line as its users meet it: what works, what is refused, and what survives an interruption.

One tiny model that knows six puzzles by heart proposes, solves and learns in every run here, so
that pairs are really found; the settings are in `learned.py`.
"""

import argparse
import contextlib
import errno
import gzip
import importlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import interrupted
import learned
import pytest
from interrupted import archive_content as content
from interrupted import descendants, differences, pairs, still_running, without_times
from learned import write_lines
from places import P3, ROOT

from puzzles.archive.catalogue import ORDERS, STATES
from puzzles.archive.formats import FORMATS as FILE_FORMATS
from puzzles.archive.store import Archive
from puzzles.puzzle import InputError, Verdict
from sandbox import selfcheck
from selfplay.commands import log
from selfplay.commands.archive import add_archive
from selfplay.commands.main import main
from selfplay.inspecting.export import FORMATS
from selfplay.iteration import beginning
from selfplay.iteration.record_table import cost_table
from selfplay.run import consent
from selfplay.run.rundir import RunDir, write_atomically
from selfplay.scoring import results
from selfplay.settings import load

EASY = {"puzzle": "def f(x: int):\n    return x == 5", "solution": "def g():\n    return 5"}
WRONG = {**EASY, "solution": "def g():\n    return 6"}


@pytest.fixture(scope="session")
def model(tiny, tmp_path_factory):
    """A tiny model that knows its pairs by heart."""
    return learned.make_model(tiny("llama"), tmp_path_factory.mktemp("learned") / "model")


@pytest.fixture(scope="session")
def files(tmp_path_factory, model):
    """A folder with settings and the three sets."""
    return learned.make_files(tmp_path_factory.mktemp("files"), model)


@pytest.fixture(scope="session")
def finished(files, protections, tmp_path_factory):
    """A folder in which `selfplay run tiny.toml` has finished, and what it printed; not to be written into."""
    folder = tmp_path_factory.mktemp("finished")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(selfcheck, "check", lambda pool: protections)
        patch.chdir(folder)
        assert main(["run", str(files / "tiny.toml")]) == 0
    return folder, printed.getvalue()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def selfplay(capsys, monkeypatch, protections):
    """Run a command in process: exit status, standard output, standard error."""
    monkeypatch.setattr(selfcheck, "check", lambda pool: protections)

    def command(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def done(selfplay):
    """Run a command that succeeds; its standard output."""

    def command(*arguments):
        status, out, err = selfplay(*arguments)
        assert status == 0, err
        assert "Traceback" not in err
        return out

    return command


@pytest.fixture
def refused(selfplay):
    """Run a command that fails with one line; the line."""

    def command(*arguments, status=2):
        came, _, err = selfplay(*arguments)
        assert came == status, err
        return one_line(err)

    return command


def one_line(err):
    line = err.strip()
    assert line.startswith("selfplay: "), err
    assert "\n" not in line, err
    assert "Traceback" not in line
    return line


@pytest.fixture
def run_here(finished):
    """A copy of the finished run below the current folder; the run's folder."""
    shutil.copytree(finished[0] / "runs", "runs")
    return Path("runs/tiny")


def rows(printed):
    """The table's rows without their last column, the seconds."""
    lines = printed.split("\n\n")[1].splitlines()
    return [line.rsplit(maxsplit=1)[0] for line in lines]


def records(run):
    return without_times(Path(run) / "records.jsonl")


def assert_same_run(one, other, but=()):
    assert differences(Path(one), Path(other)) == [*but]


# ---- run and runs ----


def test_a_run_prints_its_records_as_rows(finished):
    folder, printed = finished
    heading, *table = rows(printed)
    stored = records(folder / "runs" / "tiny")
    assert heading.split()[:3] == ["iteration", "proposed", "admitted"]
    assert [row.split()[:7] for row in table] == [
        [str(r[k]) for k in ("iteration", "proposed", "admitted", "solved", "training_solved", "new_pairs", "pairs")]
        for r in stored
    ]
    assert [record["iteration"] for record in stored] == [0, 1]


def test_the_tiny_model_finds_new_pairs_so_that_these_tests_mean_something(finished):
    last = records(finished[0] / "runs" / "tiny")[-1]
    assert last["proposed"] == 32
    assert last["admitted"] > 0
    assert last["solved"] > 0
    assert last["accepted"] >= last["new_pairs"] > 0


def test_a_run_is_a_folder_of_ordinary_files(finished):
    run = finished[0] / "runs" / "tiny"
    assert tomllib.loads((run / "config.toml").read_text())["solve"]["candidates_per_puzzle"] == 8
    assert (run / "log.txt").read_text()
    assert (run / "checkpoints" / "iteration-001" / "config.json").is_file()
    assert sorted(file.name for file in (run / "scores").iterdir()) == [
        f"iteration-00{i}-{name}.jsonl" for i in (0, 1) for name in ("dev", "heldout")
    ]


def test_the_same_command_again_prints_the_same_rows_and_changes_nothing(finished, files, run_here, done):
    printed = done("run", files / "tiny.toml")
    assert rows(printed) == rows(finished[1])
    assert_same_run(run_here, finished[0] / "runs" / "tiny")


def test_what_a_finished_run_proposes_to_do_next_works(finished, run_here, done):
    commands = [line.split()[1:] for line in finished[1].splitlines() if line.startswith("  selfplay ")]
    assert [command[0] for command in commands] == ["report", "bench", "run"]
    done(*commands[0])
    done(*commands[1], "--samples", "2", "--k", "1,2", "--max-tokens", "8")
    done(*commands[2][:-1], "iterations=1")


@pytest.fixture
def reproduced(run_here, selfplay, monkeypatch):
    """The run here, done again beside itself; what that printed."""
    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "hf_not-to-be-told")
    before = {file: file.read_bytes() for file in run_here.rglob("*") if file.is_file()}
    status, out, err = selfplay("reproduce", "tiny")
    assert (status, err) == (0, "")
    assert {file: file.read_bytes() for file in run_here.rglob("*") if file.is_file()} == before
    return out


def test_a_run_is_reproduced_to_the_bit_from_its_own_settings(finished, run_here, reproduced):
    assert_same_run(run_here, "runs/tiny-again")
    assert rows(f"\n\n{reproduced}") == rows(finished[1])
    last = reproduced.splitlines()[-1]
    assert last.startswith("runs/tiny-again is identical to runs/tiny; compared: iterations 0 to 1, ")


def test_no_file_of_a_run_tells_a_key_of_the_environment(reproduced):
    written = [file.read_bytes() for file in Path("runs/tiny-again").rglob("*") if file.is_file()]
    assert len(written) > 10
    assert not any(b"not-to-be-told" in content for content in written)


def test_a_weight_that_differs_is_named_with_its_tensor_and_the_answer_is_no(run_here, reproduced, selfplay):
    from safetensors.numpy import load_file, save_file

    file = run_here / "checkpoints" / "iteration-001" / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[1]
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] += 1
    save_file(tensors, file, {"format": "pt"})
    status, out, _ = selfplay("reproduce", "tiny")
    assert status == 1
    where = f"runs/tiny-again differs from runs/tiny, first in iteration 1, checkpoint, model.safetensors, {name}: 1 of"
    assert out.partition("\n\n")[2].startswith(where)


@pytest.mark.slow
def test_a_reproduction_that_is_interrupted_goes_on(run_here, selfplay, monkeypatch):
    from selfplay.training.finetune import TransformersBackend

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TransformersBackend, "finetune", interrupt)
        status, _, err = selfplay("reproduce", "tiny", "--out", "elsewhere")
    assert status == 130
    assert "what was finished is kept, and the same command continues" in err
    assert selfplay("reproduce", "tiny", "--out", "elsewhere")[0] == 0
    assert_same_run(run_here, "elsewhere")


def test_a_reproduction_does_not_write_over_anything_else(run_here, refused, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert "name another folder with --out" in refused("reproduce", "tiny", "--out", "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert "expected a run" in refused("reproduce", "nothing")
    assert "--iterations 7" in refused("reproduce", "tiny", "--iterations", "7")


def test_a_heldout_file_that_has_changed_since_a_run_began_is_refused_by_name(files, run_here, refused, tmp_path):
    shutil.copytree(files, tmp_path / "files")
    settings = (tmp_path / "files" / "tiny.toml").read_text().replace(f"{files}/", f"{tmp_path}/files/")
    (tmp_path / "files" / "tiny.toml").write_text(settings)
    (run_here / "config.toml").write_text(
        (run_here / "config.toml").read_text().replace(f"{files}/", f"{tmp_path}/files/")
    )
    with (tmp_path / "files" / "heldout.jsonl").open("a") as file:
        file.write(json.dumps({"name": "more", "puzzle": "def f(x: int):\n    return x * 9 == 9 * 77"}) + "\n")
    line = refused("run", tmp_path / "files" / "tiny.toml", "--set", "iterations=2")
    assert line.startswith(f"selfplay: data.heldout: {tmp_path}/files/heldout.jsonl has changed since runs/tiny began")


def test_a_run_that_goes_on_with_other_versions_says_so_in_one_line(files, run_here, selfplay):
    file = run_here / "sessions.jsonl"
    (session,) = map(json.loads, file.read_text().splitlines())
    session["versions"]["torch"] = "1.0"
    write_lines(file, [session])
    consent.sign(RunDir(run_here), load(run_here / "config.toml"))
    status, _, err = selfplay("run", files / "tiny.toml")
    assert status == 0
    assert one_line(err).startswith("selfplay: runs/tiny: not as it was when it began: versions.torch: 1.0 then, ")
    assert "not as it was when this run began: versions.torch" in (run_here / "log.txt").read_text()


@pytest.mark.slow
def test_larger_iterations_extend_a_finished_run(finished, files, run_here, done):
    printed = done("run", files / "tiny.toml", "--set", "iterations=2")
    assert rows(printed)[:3] == rows(finished[1])
    assert [record["iteration"] for record in records(run_here)] == [0, 1, 2]
    assert records(run_here)[:2] == records(finished[0] / "runs" / "tiny")
    assert pairs(finished[0] / "runs/tiny/archive.sqlite") <= pairs(run_here / "archive.sqlite")


def test_smaller_iterations_are_said_to_be_done(files, run_here, selfplay):
    status, _, err = selfplay("run", files / "tiny.toml", "--set", "iterations=0")
    assert status == 0
    assert "1 iterations already: raise `iterations`" in err
    assert len(records(run_here)) == 2


def test_a_run_prints_what_its_stages_cost(finished):
    stored = RunDir(finished[0] / "runs" / "tiny").read_records()
    table = finished[1].split("\n\n")[2]
    assert table == cost_table(stored)
    assert [line.split()[0] for line in table.splitlines()] == ["texts", "propose", "solve", "train", "score"]
    sampled = [line.split() for line in table.splitlines()[1:]]
    assert [row[1] for row in sampled[:2]] == ["32", f"{stored[1]['candidates']:,}"]
    assert all(row[-1].endswith("%") for row in sampled), "the machine's peak is known"


@pytest.mark.slow
def test_a_spent_budget_is_one_line_and_with_a_larger_one_the_same_command_goes_on(finished, files, selfplay, done):
    command = ["run", files / "tiny.toml", "--set"]
    first = records(finished[0] / "runs" / "tiny")[0]["dev"]["tokens"]
    for tokens, iteration, stored in ((first, 0, 0), (first + 1, 1, 1)):
        status, out, err = selfplay(*command, f"budget.tokens={tokens}")
        assert (status, err.count("Traceback")) == (0, 0)
        said = [line for line in out.splitlines() if "budget." in line]
        assert len(said) == 1
        assert said[0].startswith("runs/tiny: budget.tokens: ")
        assert said[0].endswith(
            f" of {tokens} are spent, in iteration {iteration}: raise it, and the same command continues"
        )
        assert len(RunDir(Path("runs/tiny")).read_records()) == stored
        assert "Next:" not in out
    printed = done(*command, "budget.tokens=1000000")
    assert "budget." not in printed
    assert rows(printed) == rows(finished[1])
    assert_same_run("runs/tiny", finished[0] / "runs" / "tiny", but=["config"])


@pytest.mark.slow
def test_a_branch_begins_with_what_another_run_had(finished, files, run_here, done):
    done("run", "--from", "tiny@0", "--name", "branch")
    assert_same_run("runs/branch", run_here)


def test_the_command_that_branched_goes_on_with_the_branch(run_here, done):
    command = "run", "--from", "tiny@0", "--name", "branch", "--set"
    done(*command, "iterations=0")
    assert len(records("runs/branch")) == 1
    done(*command, "iterations=1")
    assert_same_run("runs/branch", run_here)


@pytest.mark.slow
def test_a_branch_without_settings_does_not_take_the_default_ones(run_here, refused, done):
    beginning.branch(RunDir(run_here), 0, RunDir(Path("runs/branch")))  # and then it was killed
    assert "give the same --from again" in refused("run", "--name", "branch")
    done("run", "--from", "tiny@0", "--name", "branch")
    assert_same_run("runs/branch", run_here)


def test_a_branch_is_not_gone_on_with_from_elsewhere(run_here, done, refused):
    done("run", "--from", "tiny@0", "--name", "branch", "--set", "iterations=0")
    assert "was not begun with --from tiny" in refused("run", "--from", "tiny@1", "--name", "branch")


@pytest.mark.slow
def test_a_branch_may_have_other_settings(run_here, done):
    done("run", "--from", "tiny@0", "--name", "branch", "--set", "solve.temperature=0.5")
    assert records("runs/branch")[0] == records(run_here)[0]
    assert len(records("runs/branch")) == 2


def test_a_branch_does_not_overwrite_a_run(run_here, refused):
    before = content(run_here / "archive.sqlite")
    assert "it exists already" in refused("run", "--from", "tiny@0", "--name", "tiny")
    assert content(run_here / "archive.sqlite") == before


def test_a_branch_does_not_replace_a_folder_of_other_things(run_here, refused):
    Path("runs/notes").mkdir()
    Path("runs/notes/thesis.txt").write_text("years of work")
    assert "it exists already" in refused("run", "--from", "tiny@0", "--name", "notes")
    assert Path("runs/notes/thesis.txt").read_text() == "years of work"


def test_the_chat_protocol_needs_a_chat_template(files, refused):
    line = refused("run", files / "tiny.toml", "--name", "talk", "--set", "prompt.protocol=chat")
    assert "no chat template" in line
    assert not Path("runs/talk/config.toml").exists()


def test_a_runs_own_config_goes_on_with_that_run(run_here, done):
    before = records(run_here)
    done("run", run_here / "config.toml")
    assert records(run_here) == before
    assert not Path("runs/config").exists()


@pytest.mark.slow
def test_runs_lists_runs_that_score_other_k(run_here, done):
    done("run", "--from", "tiny@0", "--name", "branch", "--set", "evaluate.k=[2]")
    assert "branch" in done("runs")


PLACES = [
    (["run", "--set", "iterations=0", "--name", "x" * 300], "this name is too long for the file system"),
    (["run", "--set", "iterations=0", "--name", "locked"], "runs/locked: cannot be written (Is a directory)"),
    (["reproduce", "tiny", "--out", "file/again"], "file/again: cannot be written (Not a directory)"),
    (["reproduce", "tiny", "--out", "/proc/again"], "/proc/again: cannot be written (No such file or directory)"),
    (["reproduce", "tiny", "--out", "runs/tiny/again"], "expected a folder outside the run: name another"),
    (["report", "tiny", "--out", "/proc/report.html"], "cannot be written (No such file or directory)"),
]


@pytest.mark.parametrize(("arguments", "words"), PLACES, ids=[f"{a[0]} {a[-1][:20]}" for a, _ in PLACES])
def test_a_place_that_is_not_for_writing_is_refused(run_here, refused, arguments, words):
    Path("file").touch()
    Path("runs/locked/lock").mkdir(parents=True)
    before = content(run_here / "archive.sqlite")
    assert words in refused(*arguments)
    assert content(run_here / "archive.sqlite") == before


@pytest.mark.parametrize(
    "parent", ["", "@1", "@", "nosuch", "nosuch@1", "tiny@", "tiny@9", "tiny@x", "tiny@-1", "tiny@0,1"]
)
def test_a_branch_of_nothing_is_refused(run_here, refused, parent):
    refused("run", "--from", parent, "--name", "branch")
    assert not Path("runs/branch").exists()


def test_runs_lists_what_is_below_runs(run_here, done):
    broken = Path("runs/broken")
    broken.mkdir()
    (broken / "config.toml").write_text("nonsense = 1\n")
    Path("runs/other").mkdir()
    heading, first, second = done("runs").splitlines()
    assert heading.split()[:3] == ["run", "state", "iteration"]
    assert first.split()[:2] == ["broken", "unreadable"]
    assert second.split()[:5] == ["tiny", "finished", "1", "of", "1"]
    assert "pass@1" in second


def test_runs_says_how_a_run_ended(files, run_here, done):
    status = json.loads((run_here / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("ended", "finished")
    done("run", files / "tiny.toml", "--set", "iterations=2", "--set", "budget.tokens=1")
    assert re.search(r"tiny +stopped: budget.tokens: [\d,]+ of 1 are spent, in iteration 2 +1 of 2", done("runs"))


def test_runs_lists_one_that_is_still_starting_and_shows_nobodys_escapes(done):
    with RunDir(Path("runs/new")).lock() as owner:
        write_atomically(Path("runs/new/status.json"), json.dumps(vars(owner)))
        assert done("runs").splitlines()[1].split()[:3] == ["new", "running", "-"]
    status = vars(owner) | {"state": "ended", "reason": "\x1b[2J no such model"}
    write_atomically(Path("runs/new/status.json"), json.dumps(status))
    assert "stopped: \\x1b[2J no such model" in done("runs")


def test_what_is_told_before_a_run_has_a_folder_is_in_its_log(capsys):
    with log.log_to(Path("runs/new/log.txt")):
        logging.getLogger("selfplay.sampling.cluster").warning("a node gets no work")
    assert Path("runs/new/log.txt").read_text().endswith(" a node gets no work\n")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_log_is_put_aside_when_it_is_long(files, done, monkeypatch):
    monkeypatch.setattr(log, "LOG_BYTES", 2_000)
    done("run", files / "tiny.toml")
    names = sorted(path.name for path in Path("runs/tiny").glob("log.txt*"))
    assert names[:2] == ["log.txt", "log.txt.1"]
    assert len(names) <= 1 + log.LOGS_BEFORE


def test_runs_says_when_there_are_none(done):
    assert done("runs").startswith("no runs below")


def test_runs_tells_a_running_one_from_a_stopped_one(files, run_here, done):
    (run_here / "records.jsonl").write_text((run_here / "records.jsonl").read_text().splitlines()[0] + "\n")
    assert " stopped " in done("runs")
    with RunDir(run_here).lock():
        assert " running " in done("runs")


@pytest.mark.slow
def test_an_imported_archive_serves_as_training_puzzles(files, done):
    source = [
        {
            "name": "Twice:0",
            "sat": "def sat(x: int, target=38):\n    return x == target",
            "sol_bodies": ["    return 38"],
        },
        {"name": "No:0", "sat": "def sat(x):\n    return True", "sol_bodies": []},
    ]
    Path("p3.json").write_text(json.dumps(source))
    done("archive", "import", "p3.sqlite", "p3.json", "--format", "p3")
    done("run", files / "tiny.toml", "--name", "p3", "--set", "data.train=p3.sqlite")
    assert records("runs/p3")[0]["pairs"] == 1


@pytest.mark.slow
def test_a_training_file_need_not_have_our_habits(files, done):
    strange = {
        "id": 7,
        "puzzle": "from math import gcd\ndef helper ( a ):\n  return gcd(a,12)\n\n"
        "def check(answer : int , low = 3,  names: List[str]=['x']) -> bool:\n  '''Words.'''\n"
        "  return helper(answer)==4 and answer>low and len(names)==1",
        "solutions": [
            "def find(low=3, names=['x']):\n  return 16",
            "def find():\n  return 40\n",
            "def find(): return 1",
        ],
    }
    write_lines(Path("strange.jsonl"), [strange])
    done("run", files / "tiny.toml", "--name", "strange", "--set", "data.train=strange.jsonl")
    assert records("runs/strange")[0]["pairs"] == 2
    listed = json.loads(done("archive", "list", "strange", "--refused", "--json"))
    assert [(row["what"], row["reason"]) for row in listed] == [("solution", Verdict.WRONG_ANSWER)]


# ---- bench ----

BENCH = ("--samples", "4", "--k", "1,4", "--max-tokens", "24", "--batch-rows", "8", "--threads", "1", "--lanes", "2")


@pytest.fixture(scope="session")
def other(tiny, tmp_path_factory):
    """Another model, in a folder of the same name, that knows nothing."""
    return Path(shutil.copytree(tiny("llama"), tmp_path_factory.mktemp("other") / "model"))


def test_bench_scores_two_models_on_a_file(model, other, files, done):
    table, beside = done("bench", model, other, "--puzzles", files / "train.jsonl", *BENCH).rstrip("\n").split("\n\n")
    lines = table.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["model", "pass@1", "pass@4", "solved", "tokens / solved", "seconds / solved"]
    assert set(lines[1]) == set("|-")
    assert [row[0] for row in cells[2:]] == [str(model), str(other)]
    assert [row[3] for row in cells[2:]] == ["3 of 3", "0 of 3"]
    assert cells[3][4:] == ["-", "-"]
    assert len({len(line) for line in lines}) == 1
    assert beside.startswith(f"{other} beside {model}: At pass@1 these puzzles show no significant difference between")
    assert len(list(Path("runs").glob("bench-*/results.json"))) == 2


def test_bench_writes_results_for_others_to_read(model, files, done):
    puzzles = str(files / "train.jsonl")
    printed = done("bench", model, "--puzzles", puzzles, *BENCH, "--out", "out")
    assert {path.name for path in Path("out").iterdir()} == {
        "results.json", "samples.jsonl.gz", "results.md", "model-index.yaml", "lock",
    }  # fmt: skip
    assert Path("out/results.md").read_text() == printed
    result = json.loads(Path("out/results.json").read_text())
    own = result["selfplay"]
    assert (own["set"]["path"], own["set"]["puzzles"], own["solved"]) == (puzzles, 3, 3)
    assert own["set"]["references"] == {"accepted": 3, "none": 0, "refused": {}}
    assert sum(own["verdicts"].values()) == 12
    for name in ("pass@1", "pass@4"):
        score = own["scores"][name]
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert result["results"]["train"][f"{name},none"] == score["value"]
    assert (own["settings"]["k"], own["settings"]["samples_per_puzzle"]) == ([1, 4], 4)
    assert (own["protocol"], own["protocol_from"]) == ("plain", "saved with the checkpoint")
    assert result["n-samples"] == {"train": {"original": 3, "effective": 3}}
    assert own["sandbox"]["tier"] in "ABD"
    samples = packed("out")
    assert [len(r["texts"]) for line in samples for r in line["results"]] == [4, 4, 4]
    assert [len(r["verdicts"]) for line in samples for r in line["results"]] == [4, 4, 4]


def packed(folder):
    """A benchmark's chunks, apart from times."""
    return [{k: v for k, v in line.items() if k != "times"} for line in results.unpack(Path(folder))]


def untimed(folder):
    """A benchmark's results, apart from what depends on the machine or the hour."""
    content = json.loads((Path(folder) / "results.json").read_text())
    del content["date"], content["total_evaluation_time_seconds"]
    for key in ("cost", "machine", "started", "worlds"):
        del content["selfplay"][key]
    return content


def without_cost(printed):
    """A benchmark's tables without the line of scores, which ends in its cost."""
    return [line for line in printed.splitlines() if " of 3 " not in line and not line.startswith("|--")][4:]


@pytest.mark.slow
def test_bench_again_samples_nothing_and_says_the_same(model, files, done, monkeypatch):
    command = ("bench", model, "--puzzles", files / "train.jsonl", *BENCH, "--out", "out")
    table, first = done(*command), json.loads(Path("out/results.json").read_text())
    samples = Path("out/samples.jsonl.gz").read_bytes()
    monkeypatch.setattr("selfplay.sampling.model.LanguageModel._sample_alike", None)
    assert done(*command) == table
    again = json.loads(Path("out/results.json").read_text())
    again["selfplay"]["started"] = first["selfplay"]["started"]
    assert {**again, "date": first["date"]} == first
    assert Path("out/samples.jsonl.gz").read_bytes() == samples


def test_bench_goes_on_where_it_was_cut_off(model, files, done, monkeypatch):
    monkeypatch.setattr("selfplay.benchmark.bench.CHUNK_TEXTS", 4)  # a puzzle per chunk
    command = ("bench", model, "--puzzles", files / "train.jsonl", *BENCH, "--out")
    table = done(*command, "whole")
    Path("cut").mkdir()
    lines = [json.dumps(line) + "\n" for line in results.unpack(Path("whole"))]
    Path("cut/samples-0.jsonl").write_text(lines[0] + lines[1][:50])
    assert without_cost(done(*command, "cut")) == without_cost(table)
    assert packed("cut") == packed("whole")
    assert untimed("cut") == untimed("whole")
    assert not Path("cut/samples-0.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--protocol", "few-shot", "--shots", "1"], ["--protocol", "plain"]])
def test_bench_says_which_protocol_it_took_and_why(model, files, selfplay, options):
    _, out, err = selfplay("bench", model, "--puzzles", files / "train.jsonl", *BENCH, "--out", "out", *options)
    name, why = (options[1], "option") if options else ("plain", "saved with the checkpoint")
    assert err == f"{model}: {name} protocol ({why}), 1 s of CPU time (default), results in out\n"
    assert f"\n- protocol {name} ({why}), {options.count('--shots')} shots, temperature 0.8, top-p 1, " in out


@pytest.mark.slow
def test_models_with_and_without_a_chat_template_are_scored_alike(tiny, files, done, refused):
    chat, plain = (shutil.copytree(tiny(shape), shape) for shape in ("qwen2", "llama"))
    for folder, saved in ((chat, "chat"), (plain, "plain")):
        done("bench", folder, "--puzzles", files / "dev.jsonl", *BENCH, "--out", f"out-{saved}")
        own = json.loads(Path(f"out-{saved}/results.json").read_text())["selfplay"]
        assert (own["protocol"], own["protocol_from"]) == (saved, "saved with the checkpoint")
        assert sum(own["verdicts"].values()) == 12
    Path(chat, "selfplay.json").unlink()
    out = done("bench", chat, "--puzzles", files / "dev.jsonl", *BENCH, "--shots", "1", "--out", "template")
    assert "- protocol chat (the model has a chat template), 1 shots" in out
    as_before = ("--protocol", "chat", "--shots-as-turns", "no", "--out", "option")
    out = done("bench", chat, "--puzzles", files / "dev.jsonl", *BENCH, *as_before)
    assert "- protocol chat (option), 0 shots" in out
    line = refused("compare", "option", "template")
    assert "differ in prompt_format shots_as_turns (False and True)" in line
    assert [[r["texts"] for r in line["results"]] for line in packed("option")] == [
        [r["texts"] for r in line["results"]] for line in packed("out-chat")
    ]
    line = refused("bench", plain, "--puzzles", files / "dev.jsonl", *BENCH, "--protocol", "chat", "--out", "none")
    assert line == "selfplay: protocol chat: this model has no chat template: choose plain or few-shot"
    assert not Path("none/results.json").exists()


@pytest.mark.slow
def test_bench_takes_several_seeds_and_errata(model, files, done):
    errata = Path("errata.toml")
    errata.write_text("")
    command = ("bench", model, "--puzzles", files / "train.jsonl", *BENCH, "--out", "out", "--errata", errata)
    out = done(*command, "--seed", "3,1")
    assert "8 candidates each, seed 3, 1\n" in out
    assert "\n- by seed: pass@1 " in out
    own = json.loads(Path("out/results.json").read_text())["selfplay"]
    assert [line["identity"]["seed"][0] for line in packed("out")] == own["settings"]["seeds"] == [3, 1]
    wrong = [*own["per_puzzle"]][1]
    errata.write_text(f'[[erratum]]\npuzzle = "{wrong}"\nreason = "it has two answers"\n')
    assert f"- puzzle {wrong} is left out, it is wrong: it has two answers\n" in done(*command, "--seed", "3,1")


@pytest.mark.slow
def test_without_k_it_is_what_so_many_samples_allow(model, files, done):
    few = [option for option in BENCH if option not in ("--k", "1,4")]
    for folder, n, ks in (("four", 4, [1]), ("eleven", 11, [1, 10])):
        done("bench", model, "--puzzles", files / "train.jsonl", *few, "--samples", n, "--out", folder)
        assert json.loads(Path(folder, "results.json").read_text())["selfplay"]["settings"]["k"] == ks


def test_greedy_candidates_are_drawn_once(model, files, done, refused):
    greedy = ("bench", model, "--puzzles", files / "train.jsonl", *BENCH, "--temperature", "0")
    for more in ((), ("--samples", "1", "--k", "1", "--seed", "0,1")):
        line = refused(*greedy, *more)
        assert line.startswith("selfplay: --temperature 0 draws the same candidate each time: give --samples 1")
    done(*greedy, "--samples", "1", "--k", "1", "--out", "out")
    assert json.loads(Path("out/results.json").read_text())["results"]["train"]["pass@1,none"] > 0


@pytest.mark.slow
def test_more_shots_than_there_are_pairs_are_refused(model, files, refused):
    few_shot = ("--protocol", "few-shot", "--shots", "999")
    line = refused("bench", model, "--puzzles", files / "train.jsonl", *BENCH, *few_shot)
    assert "are in this set or too near to it: choose --protocol plain, or fewer --shots" in line
    assert not Path("runs").exists()


def test_bench_rescores_and_compares_what_it_wrote(model, other, files, done):
    done("bench", model, other, "--puzzles", files / "train.jsonl", *BENCH, "--out", "out")
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file() and path.name != "lock"}
    names = {path.name for path in Path("out").rglob("*")}
    folders = {
        json.loads(path.read_text())["model_name"]: path.parent for path in before if path.name == "results.json"
    }
    assert done("bench", "--rescore", *folders.values()).count(" before ") == 2
    assert before == {path: path.read_bytes() for path in before}
    assert {path.name for path in Path("out").rglob("*")} == names
    report = done("compare", folders[str(other)], folders[str(model)])
    assert report.startswith(f"A  {other} (hash ")
    assert "3 puzzles of train, 4 candidates each, plain protocol" in report
    assert "Won (solved by B only): 3: p" in report
    assert "Lost (solved by A only): 0\n" in report


def test_a_runs_scores_are_rescored_and_its_files_kept(run_here, done):
    before = {path: path.read_bytes() for path in run_here.rglob("*") if path.is_file()}
    lines = done("bench", "--rescore").splitlines()
    assert lines[0] == "runs/tiny"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:] if line]
    assert [row[:3] for row in cells] == [
        [str(number), name, k] for number in (0, 1) for name in ("dev", "heldout") for k in ("pass@1", "pass@4")
    ]
    assert all(row[3] == row[4] for row in cells)
    assert {path: path.read_bytes() for path in run_here.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_branch_that_scores_other_k_is_rescored(run_here, done):
    done(
        "run",
        "--from",
        "tiny@0",
        "--name",
        "branch",
        "--set",
        "evaluate.k=[2]",
        "--set",
        "evaluate.samples_per_puzzle=2",
    )
    lines = done("bench", "--rescore", "runs/branch").splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")][0:3:2] for line in lines[3:-1]] == [
        *[["0", "pass@1"], ["0", "pass@4"]] * 2, *[["1", "pass@2"]] * 2,
    ]  # fmt: skip


def test_a_template_that_is_given_is_told_and_kept_and_a_wrong_one_is_one_line(model, files, selfplay, refused):
    Path("solve.txt").write_text("# Solve this.\n{puzzle}\n\n{header}\n")
    command = ("bench", model, "--puzzles", files / "train.jsonl", *BENCH, "--out", "out", "--template")
    _, out, err = selfplay(*command, "@solve.txt")
    own = json.loads(Path("out/results.json").read_text())["selfplay"]
    assert own["prompt_format"]["solve"] == "# Solve this.\n{puzzle}\n\n{header}"
    told = f"plain protocol (saved with the checkpoint), prompts {own['prompt_format']['hash']}"
    assert f"{model}: {told}, 1 s of CPU time (default), results in out\n" in err
    assert f"- {told.replace('plain protocol', 'protocol plain')}, 0 shots" in out
    assert "holds results with another prompt_format_hash" in refused(*command, "{puzzle}\n{header}")
    line = refused(*command, "# Solve this.\n{puzle}")
    assert line.endswith("got {puzle}; did you mean {puzzle}?")
    line = refused(*command, "{puzzle}{header}", "--system", "Be brief.")
    assert line == "selfplay: prompt.system: expected none with protocol plain: only a chat has turns"


def test_checkpoints_of_two_runs_have_results_of_their_own(run_here, files, done):
    shutil.copytree(run_here, "runs/second")
    for run in ("tiny", "second"):
        done("bench", f"runs/{run}/checkpoints/iteration-001", "--puzzles", files / "dev.jsonl", *BENCH)
    assert {path.name for path in Path("runs").glob("bench-*")} == {
        "bench-tiny-iteration-001-dev",
        "bench-second-iteration-001-dev",
    }
    for path in Path("runs").glob("bench-*/results.json"):
        found = json.loads(path.read_text())["selfplay"]["contamination"]
        assert found["trained_on"] == str(Path("runs", path.parent.name.split("-")[1], "archive.sqlite").absolute())
        assert found["puzzles"] > 3, "its own proposals too"


def test_bench_takes_an_archive_as_a_set(model, run_here, done):
    table = done("bench", model, "--puzzles", run_here / "archive.sqlite", *BENCH)
    with contextlib.closing(sqlite3.connect(run_here / "archive.sqlite")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM puzzles").fetchone()
    assert f" of {count} |" in table


# ---- propose, solve ----


def test_propose_shows_proposals_and_what_became_of_them(model, done):
    out = done("propose", "--model", model, "--count", "6", "--max-tokens", "40")
    assert out.count("# admitted") + out.count("# refused: ") == 6
    assert "# admitted\ndef f(" in out


def test_solve_shows_the_puzzle_and_each_candidate(model, done):
    Path("mine.py").write_text("def sat(string: str):\n    return string.count('a') == 4\n")
    lines = done("solve", "mine.py", "--model", model, "--candidates", "12", "--max-tokens", "24").splitlines()
    assert lines[0].startswith("def f(")
    verdicts = [line for line in lines if line.split(" ")[0] in set(Verdict)]
    assert len(verdicts) == 12
    accepted = sum(line.startswith("accepted") for line in verdicts)
    assert lines[-1] == f"{accepted} of 12 accepted"


def test_propose_and_solve_show_the_prompt_as_the_model_reads_it_and_stop(model, tiny, files, done):
    Path("mine.py").write_text("def f(x: int):\n    return 3 * x == 51\n")
    assert done("propose", "--model", model, "--show-prompt") == "def f(\n"
    shown = done(
        "solve", "mine.py", "--model", model, "--show-prompt", "--template", "# {answer_type}\n{puzzle}\n{header}"
    )
    assert shown == "# int\ndef f(x: int):\n    return 3 * x == 51\ndef g():\n"
    few = done("solve", "mine.py", "--model", model, "--show-prompt", "--protocol", "few-shot", "--shots", "1")
    assert few.endswith("\n\n\ndef f(x: int):\n    return 3 * x == 51\n\ndef g():\n")
    chat = ("--model", tiny("qwen2"), "--show-prompt", "--protocol", "chat", "--shots", "0", "--max-tokens", "9")
    asked = done("solve", "mine.py", *chat, "--system", "You write.", "--template", "Solve {puzzle}")
    puzzle = "def f(x: int):\n    return 3 * x == 51"
    assert asked == f"<|user|>You write.<|end|><|user|>Solve {puzzle}<|end|><|assistant|>\n"
    assert done("propose", *chat, "--template", "Write.") == "<|user|>Write.<|end|><|assistant|>\n"


def test_solve_takes_a_puzzle_of_a_set_by_its_name(model, files, done):
    command = ("solve", files / "train.jsonl", "--model", model, "--candidates", "2", "--max-tokens", "24")
    assert "def f(x: int, k=19):" in done(*command)
    assert "def f(nums: List[int], n=3):" in done(*command, "--puzzle", "p2")


def test_model_text_cannot_move_the_cursor(model, done, monkeypatch):
    def sample(self, prompts, copies, settings, seed, progress=None):
        from selfplay.sampling.sampler import Completion, Sampled

        return Sampled([[Completion("    return '\x1b[2J\x07'\n", 3, True)] * copies for _ in prompts])

    monkeypatch.setattr("selfplay.sampling.model.LanguageModel.sample", sample)
    Path("mine.py").write_text("def f(s: str):\n    return len(s) == 5\n")
    for command in (["solve", "mine.py", "--candidates", "1"], ["propose", "--count", "1"]):
        out = done(*command, "--model", model)
        assert "\x1b" not in out
        assert "\\x1b" in out


# ---- forecast ----


def test_a_forecast_says_what_the_run_will_cost_and_leaves_nothing(files, done):
    out = done("run", files / "tiny.toml", "--forecast")
    texts = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:5]}
    assert {name: texts[name] for name in ("propose", "score")} == {"propose": "32", "score": str(2 * 6 * 4)}
    assert list(texts) == ["propose", "solve", "train", "score"]
    assert "iteration 1" in out
    assert not list(Path().iterdir())


def test_the_same_file_for_two_sets_is_refused_and_puzzles_in_both_scored_sets_are_a_warning(files, refused, selfplay):
    line = refused("run", files / "tiny.toml", "--set", f"data.heldout={files / 'dev.jsonl'}")
    assert "data.dev and data.heldout are the same set, " in line
    Path("twin.jsonl").write_bytes((files / "dev.jsonl").read_bytes())
    overrides = ("--set", "data.heldout=twin.jsonl", "--set", "iterations=0")
    status, _, err = selfplay("run", files / "tiny.toml", "--name", "twin", *overrides)
    assert status == 0
    assert re.search(r"^selfplay: WARNING: (\d+) of \1 held-out puzzles are in dev too \(", err, re.MULTILINE), err


def test_training_puzzles_that_are_refused_are_a_table(files, selfplay):
    lines = [*map(json.loads, (files / "train.jsonl").read_text().splitlines()), {"name": "odd", "puzzle": "x = 1"}]
    path = write_lines(Path("own.jsonl"), lines)
    overrides = ("--set", f"data.train={path}", "--set", "iterations=0")
    status, _, err = selfplay("run", files / "tiny.toml", "--name", "own", *overrides)
    assert status == 0
    assert f"selfplay: training puzzles of {path}: " in err
    assert re.search(r"^puzzle +no_function +1  odd: ", err, re.MULTILINE), err


def test_an_opening_says_what_a_run_will_do(finished, files):
    first, second, _ = finished[1].split("\n", 2)
    assert first.startswith("runs/tiny: model ")
    assert first.endswith(f", settings of {files / 'tiny.toml'}, seed 0")
    assert second == "1 iteration of 32 proposals, 8 candidates per puzzle; --forecast tells how long"


def test_version_and_environment_are_told(done, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("selfplay ")
    facts = json.loads(done("env", "--json"))
    assert facts["sandbox tier"] in ("A", "B", "C", "D")
    assert {"selfplay", "torch", "transformers", "python", "processor", "cores", "accelerators"} <= {*facts}


def test_a_value_that_no_puzzle_has_is_refused_with_those_there_are(run_here, refused):
    line = refused("archive", "list", "tiny", "--type", "complex")
    assert "no puzzle has the answer type 'complex'; there are 'int' (" in line
    assert "no puzzle has the iteration 9; there are '0' (" in refused("archive", "list", "tiny", "--iteration", "9")


def test_refused_proposals_are_listed_with_their_texts(run_here, done, refused):
    stored = json.loads(done("archive", "stats", "tiny", "--json"))["proposals by outcome"]
    outcomes = {outcome: count for outcome, count in stored.items() if outcome != "admitted"}
    found = json.loads(done("archive", "refused", "tiny", "--json", "--limit", "100"))
    assert len(found) == sum(outcomes.values()) > 0
    reason = found[0]["outcome"]
    shown = done("archive", "refused", "tiny", "--outcome", reason)
    assert f": {reason}" in shown
    assert f"there are {next(iter(outcomes))} (" in refused("archive", "refused", "tiny", "--outcome", "nosuch")


def test_a_refused_proposal_is_shown_with_the_code_that_its_prompt_ended_with(run_here, done):
    found = json.loads(done("archive", "refused", "tiny", "--json", "--limit", "100"))
    assert all(each["text"].startswith("def f(") for each in found)
    shown = done("archive", "refused", "tiny", "--limit", "1")
    assert "\ndef f(" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["archive", "list", "tiny", "--origin", "men"],
            "argument --origin: invalid choice: 'men' (choose from 'human', 'rule', 'import', 'model', 'variant'); "
            "`selfplay archive list --help` shows what is expected",
        ),
        (
            ["bench", "embedded", "--sampels", "4"],
            "unknown argument --sampels: did you mean --samples?; `selfplay bench --help` shows what is expected",
        ),
        (
            ["bench", "embedded", "--samples", "many"],
            "argument --samples: expected a whole number, got 'many'; `selfplay bench --help` shows what is expected",
        ),
        ([], "the following arguments are required: COMMAND; `selfplay --help` shows what is expected"),
    ],
    ids=["an unknown value", "an unknown option", "a word instead of a number", "no command"],
)
def test_wrong_arguments_are_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"selfplay: {said}\n"


def test_a_full_disk_says_that_work_is_kept_only_where_it_is(monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("selfplay.commands.archive_looks.archive_path", full)
    assert main(["archive", "stats", "tiny"]) == 3
    assert capsys.readouterr().err == "selfplay: the disk is full: free some space\n"


def test_a_difference_of_archives_is_shown_by_first_lines_or_by_ids_alone(run_here, selfplay):
    Archive("empty.sqlite", create=True).close()
    _, shown, _ = selfplay("archive", "diff", "empty.sqlite", "tiny")
    _, bare, _ = selfplay("archive", "diff", "empty.sqlite", "tiny", "--ids")
    puzzle = next(line for line in shown.splitlines() if line.startswith("  B "))
    assert re.fullmatch(r"  B [0-9a-f]{16}  def f\(.*\).* return .*", puzzle)
    assert puzzle.partition("  def ")[0] in bare.splitlines()


def test_a_quick_look_scores_a_part_of_the_set_and_a_second_protocol_goes_beside_the_first(model, files, done):
    out = done("bench", model, "--puzzles", files / "dev.jsonl", "--limit", "2", *BENCH)
    assert "2 puzzles of " in out
    assert re.search(r"a part of the \d+ in the file \(--limit 2\)", out)
    again = ("--limit", "2", "--protocol", "plain")
    done("bench", model, "--puzzles", files / "dev.jsonl", *again, *BENCH)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["bench-model-dev-2", "bench-model-dev-plain-2"]


# ---- verify ----


def verdicts(printed):
    return [json.loads(line)["verdict"] for line in printed.splitlines()]


MIXED = [
    {"id": "a", **EASY},
    WRONG,
    {"id": 3, "puzzle": "def f(x: int:", "solution": "def g(): return 1"},
    {**EASY, "solution": "def g() return 5"},
    {**EASY, "solution": "def g():\n    return 'five'"},
    {**EASY, "solution": "def g():\n    return 1 // 0"},
    {
        "name": "named",
        "puzzle": "def sat(s: Set[int]):\n    return len(s) == 2",
        "solution": "def sol():\n    return {2, 1}",
    },
]
MIXED_VERDICTS = [
    Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.INVALID_PUZZLE, Verdict.INVALID_SOLUTION, Verdict.WRONG_TYPE,
    Verdict.RUNTIME_ERROR, Verdict.ACCEPTED,
]  # fmt: skip


def test_verify_prints_one_line_per_pair_in_order(done):
    out = done("verify", write_lines(Path("pairs.jsonl"), MIXED))
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["verdict"] for line in lines] == MIXED_VERDICTS
    assert [line["id"] for line in lines] == ["a", 2, 3, 4, 5, 6, "named"]
    assert all(set(line) == {"id", "verdict", "detail", "answer", "cpu_ms"} for line in lines)
    assert [line["answer"] for line in lines] == ["5", "6", None, None, "'five'", None, "{1, 2}"]


def test_verify_in_small_batches_says_the_same(done):
    path = write_lines(Path("pairs.jsonl"), MIXED)
    for size in (1, 3, 7):
        assert verdicts(done("verify", path, "--batch", size)) == MIXED_VERDICTS


def test_verify_reads_gzip(done):
    with gzip.open("pairs.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(pair) + "\n" for pair in (EASY, WRONG))
    assert verdicts(done("verify", "pairs.jsonl.gz")) == ["accepted", "wrong_answer"]


def test_verify_reads_standard_input(done, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{json.dumps(WRONG)}\n\n{json.dumps(EASY)}\n"))
    assert verdicts(done("verify", "-")) == ["wrong_answer", "accepted"]


def test_verify_reads_solutions_without_header(done):
    puzzle = "def f(s: str, n=3):\n    return s == 'a' * n"
    lines = [
        {"name": "one", "puzzle": puzzle, "solution": "'a' * 3", "prompt": "short"},
        {"name": "two", "puzzle": puzzle, "solution": "\n    t = 'a'\n    return t * n\n", "prompt": "med"},
        {"name": "three", "puzzle": "def f(", "solution": "1", "prompt": "short"},
    ]
    out = done("verify", write_lines(Path("codex.jsonl"), lines), "--format", "codex")
    assert verdicts(out) == ["accepted", "accepted", "invalid_puzzle"]


def test_verify_takes_other_limits(done):
    slow = {
        "puzzle": "def f(x: int):\n    return x > 2",
        "solution": "def g():\n    n = 0\n    while n < 10**7:\n        n += 1\n    return n",
    }
    path = write_lines(Path("slow.jsonl"), [slow])
    assert verdicts(done("verify", path, "--cpu-seconds", "0.05")) == ["time_limit"]


def test_verify_can_open_more_modules(done):
    pair = {
        "puzzle": "def f(x: int):\n    return x == 3",
        "solution": "import cmath\ndef g():\n    return int(cmath.pi)",
    }
    path = write_lines(Path("pair.jsonl"), [pair])
    assert verdicts(done("verify", path)) != ["accepted"]
    assert verdicts(done("verify", path, "--module", "cmath")) == ["accepted"]


def test_verify_of_an_empty_file_has_nothing_to_say(done):
    Path("empty.jsonl").touch()
    assert done("verify", "empty.jsonl") == ""


@pytest.mark.skipif(not P3.is_dir(), reason="P3 is not here")
def test_verify_accepts_what_codex_wrote_for_p3(done):
    with gzip.open(P3 / "codex_verified_train.jsonl.gz", "rt") as file:
        Path("some.jsonl").write_text("".join(line for number, line in enumerate(file) if number % 400 == 0))
    counts = [*verdicts(done("verify", "some.jsonl", "--format", "codex", "--cpu-seconds", "20"))]
    assert len(counts) == 24
    assert counts.count("accepted") >= 22


# ---- archive ----


def test_an_import_fills_an_archive_and_repeated_changes_nothing(files, done):
    out = done("archive", "import", "deep/new.sqlite", files / "train.jsonl")
    assert [line.split() for line in out.splitlines()] == [
        ["puzzles", "solutions"], ["new", "3", "3"], ["duplicate", "0", "0"], ["refused", "0", "0"],
    ]  # fmt: skip
    before = content("deep/new.sqlite")
    out = done("archive", "import", "deep/new.sqlite", files / "train.jsonl")
    assert [line.split() for line in out.splitlines()][1:3] == [["new", "0", "0"], ["duplicate", "3", "3"]]
    assert content("deep/new.sqlite") == before


def test_an_import_names_a_reason_for_every_refusal(done):
    held_out = json.loads((ROOT / "puzzles" / "heldout.jsonl").read_text().splitlines()[0])
    lines = [
        {"name": "good", **EASY},
        {"name": "bad answer", **WRONG},
        {"name": "no puzzle", "puzzle": "def f(x): return True", "solution": "def g(): return 1"},
        {**held_out, "name": "guarded"},
    ]
    out = done("archive", "import", "a.sqlite", write_lines(Path("some.jsonl"), lines))
    _, _, table = out.partition("\n\n")
    assert [line.split(maxsplit=3)[:3] for line in table.splitlines()[:4]] == [
        ["refused", "reason", "number"], ["puzzle", "no_annotation", "1"], ["puzzle", "held_out", "1"],
        ["solution", "of", "a"],
    ]  # fmt: skip
    assert "no puzzle: 'x' has no type" in table
    assert "selfplay archive list a.sqlite --refused" in table
    refusals = json.loads(done("archive", "list", "a.sqlite", "--refused", "--json"))
    assert {row["name"] for row in refusals} == {"bad answer", "no puzzle", "guarded"}
    assert {(row["name"], row["reason"]) for row in refusals} >= {
        ("bad answer", "wrong_answer"),
        ("guarded", "held_out"),
    }
    assert all(row["reason"] and row["detail"] for row in refusals if row["what"] == "puzzle")


@pytest.mark.skipif(not P3.is_dir(), reason="P3 is not here")
def test_p3_is_imported_or_refused_with_a_reason(done):
    chosen = json.loads((P3 / "puzzles.json").read_text())[::60]
    Path("some.json").write_text(json.dumps(chosen))
    out = done("archive", "import", "p3.sqlite", "some.json", "--format", "p3", "--cpu-seconds", "20")
    assert sum(int(line.split()[1]) for line in out.splitlines()[1:4]) == len(chosen)
    assert json.loads(done("archive", "stats", "p3.sqlite", "--json"))["puzzles"] > len(chosen) // 2


def test_every_format_of_puzzle_files_is_offered(done):
    for name in FILE_FORMATS:
        Path("none.json").write_text("[]")
        assert "refused" in done("archive", "import", "a.sqlite", "none.json", "--format", name)


@pytest.mark.slow
def test_contamination_finds_leaks_in_an_archive_and_says_where_they_came_in(done, selfplay):
    from puzzles.archive.store import Archive

    leak = "def f(x: int):\n    return x < 0 and 26 == x * x"
    write_lines(Path("own.jsonl"), [{"name": "root", "puzzle": learned.PAIRS[3][0], "solution": learned.PAIRS[3][1]}])
    write_lines(Path("leak.jsonl"), [{"name": "leak", "puzzle": leak}, {"name": "fine", **EASY}])
    done("archive", "import", "leaky.sqlite", "leak.jsonl")
    with Archive("leaky.sqlite", create=True) as archive:
        identifier = archive.query("SELECT id FROM puzzles WHERE name = 'leak'")[0]["id"]
        archive.add_trained(2, [(identifier, "s1"), (identifier, "s2")])
    before = content("leaky.sqlite")
    status, out, _ = selfplay("archive", "contamination", "leaky.sqlite", "--against", "own.jsonl", "--json")
    found = json.loads(out)
    assert status == 1
    assert found == {
        "checked": 2,
        "guarded": 1,
        "guarded_by_behaviour": 0,
        "found": [
            {
                "level": "normal_form", "puzzle": identifier, "origin": "import", "iteration": 0, "trained": "2",
                "guarded": "own.jsonl/root", "detail": "re-ordered",
            }
        ],
        "refused": {},
    }  # fmt: skip
    against = ("--against", "own.jsonl", "--against", "dev")
    status, text, _ = selfplay("archive", "contamination", "leaky.sqlite", *against)
    assert status == 1
    assert text.splitlines()[0].split() == [*found["found"][0]]
    assert "2 puzzles checked against 125 guarded ones" in text
    assert content("leaky.sqlite") == before


def test_contamination_of_a_clean_archive_is_none_and_tells_what_was_refused_at_the_door(done):
    lines = [{"name": "good", **EASY}, {"name": "copy", "puzzle": _first_held_out()}]
    done("archive", "import", "a.sqlite", write_lines(Path("some.jsonl"), lines))
    out = done("archive", "contamination", "a.sqlite")
    assert "1 puzzles checked against 402 guarded ones" in out
    assert "none found" in out
    assert "refused when they came, imports: 1 exact" in out
    assert "exact" in done("archive", "stats", "a.sqlite").partition("refused as held-out by level")[2]


def _first_held_out():
    return json.loads((ROOT / "puzzles" / "heldout.jsonl").read_text().splitlines()[0])["puzzle"]


def test_contamination_against_a_set_that_is_not_there_is_one_clear_line(refused, run_here):
    assert "missing.jsonl" in refused("archive", "contamination", "tiny", "--against", "missing.jsonl")
    assert "nowhere: expected an archive" in refused("archive", "contamination", "nowhere")


def test_stats_count_what_is_there(run_here, done):
    stats = json.loads(done("archive", "stats", "tiny", "--json"))
    last = records(run_here)[-1]
    assert stats["pairs"] == last["pairs"]
    assert stats["candidates"] == last["candidates"]
    assert stats["puzzles by origin"] == {"import": 3, "model": last["admitted"]}
    text = done("archive", "stats", "runs/tiny")
    assert f"pairs  {stats['pairs']}" in " ".join(text.split("candidates")[0].split()).replace("pairs ", "pairs  ")
    assert "candidates by verdict" in text


def test_list_finds_puzzles_by_words_and_by_what_they_are(run_here, done):
    whole = json.loads(done("archive", "list", "tiny", "--json"))
    word = re.search(r"\w{4,}", whole[0]["source"].partition("return")[2] + " return")[0]
    found = json.loads(done("archive", "list", "tiny", "--json", "--search", word))
    assert [row["puzzle"] for row in found] == [row["puzzle"] for row in whole if row in found] != []
    assert done("archive", "list", "tiny", "--search", "nothinglikeit").strip() == "no puzzles"
    rates = [row["c"] / row["n"] for row in json.loads(done("archive", "list", "tiny", "--sort", "easiest", "--json"))]
    assert rates == sorted(rates, reverse=True)
    solved = json.loads(done("archive", "list", "tiny", "--state", "solved", "--origin", "import", "--json"))
    assert {(row["origin"], row["solutions"] > 0) for row in solved} == {("import", True)}


def test_a_page_says_how_to_go_on(run_here, done):
    number = len(json.loads(done("archive", "list", "tiny", "--json")))
    text = done("archive", "list", "tiny", "--limit", "2")
    assert text.splitlines()[-1] == f"1 to 2 of {number}; --offset 2 shows the next page"
    assert "shows the next page" not in done("archive", "list", "tiny", "--offset", str(number - 1))
    assert (
        done("archive", "list", "tiny", "--offset", str(number))
        == f"no more than {number} puzzles: give a smaller --offset\n"
    )


def test_list_shows_the_newest_puzzles_first(run_here, done):
    listed = json.loads(done("archive", "list", "tiny", "--json"))
    assert [row["origin"] for row in listed][-3:] == ["import"] * 3
    assert all(row["c"] <= row["n"] for row in listed)
    assert all(row["source"].startswith("def f(") and "\n" in row["source"] for row in listed)
    heading, *lines, _, more = done("archive", "list", "runs/tiny", "--origin", "import", "--limit", "2").splitlines()
    assert heading.split()[:2] == ["puzzle", "origin"]
    assert [line.split()[1] for line in lines] == ["import"] * 2
    assert more == "1 to 2 of 3; --offset 2 shows the next page"


def test_show_finds_a_puzzle_by_how_its_id_begins(run_here, done):
    identifier = json.loads(done("archive", "list", "tiny", "--origin", "import", "--json"))[0]["puzzle"]
    story = json.loads(done("archive", "show", "tiny", identifier[:6], "--json"))
    assert story["id"] == identifier
    assert len(story["solutions"]) >= 1
    assert sum(story["candidates by verdict"].values()) == 8
    text = done("archive", "show", "runs/tiny/archive.sqlite", identifier)
    assert story["source"] in text
    assert story["solutions"][0]["source"] in text


def test_why_tells_a_whole_story_and_fails_where_the_archive_lacks_a_part(run_here, done, selfplay):
    identifier = json.loads(done("archive", "list", "tiny", "--origin", "import", "--json"))[0]["puzzle"]
    told = json.loads(done("archive", "why", "tiny", identifier[:8], "--json"))
    assert (len(told["candidates"]), told["breaks"]) == (8, [])
    text = done("archive", "why", "runs/tiny", identifier)
    assert told["candidates"][0]["checkpoint"] in json.dumps(told)
    assert told["puzzle"]["source"] in text
    with contextlib.closing(sqlite3.connect(run_here / "archive.sqlite")) as connection, connection:
        connection.execute("DELETE FROM candidates WHERE puzzle = ? AND position % 4 = 0", (identifier,))
    status, out, err = selfplay("archive", "why", "tiny", identifier)
    assert (status, err) == (1, "")
    assert "has 8 candidates, but 6 verdicts" in out


def test_what_a_puzzle_was_tried_in_is_sampled_again_to_the_letter(run_here, done, refused):
    identifier = json.loads(done("archive", "list", "tiny", "--origin", "import", "--json"))[0]["puzzle"]
    (line,) = done("archive", "replay", "tiny", identifier).splitlines()
    assert line.endswith("8 judged again: no differences")
    shutil.copy(run_here / "archive.sqlite", "alone.sqlite")
    assert "expected the archive of a run" in refused("archive", "replay", "alone.sqlite", identifier)


@pytest.mark.parametrize("file_format", ["jsonl", "datasets"])
def test_an_export_is_never_written_over_an_archive_or_a_run(run_here, selfplay, file_format):
    before = {file: file.read_bytes() for file in run_here.rglob("*") if file.is_file()}
    for out in (run_here / "archive.sqlite", run_here / "config.toml", run_here):
        status, _, err = selfplay("archive", "export", "tiny", out, "--format", file_format, "--force")
        assert status == 2
        assert err.count("\n") == 1
    assert {file: file.read_bytes() for file in run_here.rglob("*") if file.is_file()} == before


def test_an_import_into_a_run_by_its_name_goes_there(run_here, done):
    done("archive", "import", "tiny", "dev")
    assert not Path("tiny").exists()


def test_numbers_that_no_database_holds_are_one_clear_line(run_here, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["archive", "list", "tiny", "--iteration", "9" * 30])
    assert ended.value.code == 2
    assert "at most" in capsys.readouterr().err


def test_a_mistake_of_ours_does_not_look_like_the_answer_no(run_here, selfplay, monkeypatch):
    monkeypatch.setattr("puzzles.archive.catalogue.stats", lambda archive: 1 / 0)
    status, _, err = selfplay("archive", "stats", "tiny")
    assert status == 3
    assert "ZeroDivisionError" in err


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt(), 130), (InputError("wrong"), 2)], ids=str)
def test_the_exit_status_is_told_though_the_terminal_is_gone(run_here, selfplay, monkeypatch, raised, status):
    def fails(*_):
        raise raised

    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("puzzles.archive.catalogue.stats", fails)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(["archive", "stats", "tiny"]) == status


def test_a_run_whose_output_nobody_reads_any_more_is_not_said_to_be_done(files, selfplay, monkeypatch):
    def gone(record):
        raise BrokenPipeError

    monkeypatch.setattr("selfplay.iteration.record_table.record_cells", gone)
    status, _, err = selfplay("run", files / "tiny.toml")
    assert status == 3
    assert one_line(err).startswith("selfplay: nobody reads the output any more; what was finished is kept")


def test_a_run_goes_where_there_is_a_folder_or_nothing(files, refused):
    Path("runs").mkdir()
    Path("runs/tiny").write_text("a file")
    assert "runs/tiny: expected a run's folder or nothing" in refused("run", files / "tiny.toml")


def test_hostile_names_move_no_cursor(run_here, done):
    with Archive("runs/tiny/archive.sqlite") as archive:
        archive.connection.execute("UPDATE puzzles SET skills = ?, answer_type = ?", ('["\\u001b[31mred"]', "\x1b[0m"))
        (identifier, *_) = archive.puzzle_ids()
    for command in (["stats", "tiny"], ["show", "tiny", identifier]):
        assert "\x1b" not in done("archive", *command)


@pytest.mark.slow
def test_an_archive_is_judged_again_and_a_tampered_pair_is_found(run_here, done, selfplay):
    pairs = json.loads(done("archive", "stats", "tiny", "--json"))["pairs"]
    assert done("archive", "reverify", "tiny") == f"{pairs} pairs judged again: no differences\n"
    assert json.loads(done("archive", "reverify", "tiny", "--python", sys.executable, "--json")) == {
        "pairs": pairs, "judged_earlier": 0, "found": [],
    }  # fmt: skip
    with contextlib.closing(sqlite3.connect(run_here / "archive.sqlite")) as connection, connection:
        connection.execute("UPDATE solutions SET answer = '-1' WHERE number = 1")
    for options in ([], ["--python", sys.executable]):
        status, out, _ = selfplay("archive", "reverify", "tiny", "--json", *options)
        assert (status, [each["what"] for each in json.loads(out)["found"]]) == (1, ["answer"])


def test_archives_are_compared_and_merged(run_here, done, selfplay, refused):
    Archive("empty.sqlite", create=True).close()
    assert selfplay("archive", "diff", "tiny", "tiny")[0] == 0
    status, out, _ = selfplay("archive", "diff", "empty.sqlite", "tiny")
    pairs = json.loads(done("archive", "stats", "tiny", "--json"))["pairs"]
    assert (status, f"pairs: 0 in both, 0 in A alone, {pairs} in B alone" in out) == (1, True)
    assert f"{pairs} solutions" in done("archive", "merge", "empty.sqlite", "tiny")
    assert done("archive", "diff", "empty.sqlite", "tiny").endswith("answers that differ: 0\n")
    assert "0 puzzles, 0 solutions" in done("archive", "merge", "empty.sqlite", "tiny")
    assert "expected another archive" in refused("archive", "merge", "tiny", "tiny")


def archive_actions():
    """The parsers of the actions, by name."""
    commands = argparse.ArgumentParser().add_subparsers()
    add_archive(commands)
    (actions,) = [each for each in commands.choices["archive"]._actions if each.dest == "archive" or each.choices]
    return actions.choices


@pytest.mark.parametrize(
    ("action", "option", "known"),
    [("list", "--sort", ORDERS), ("list", "--state", STATES), ("export", "--format", FORMATS)],
)
def test_the_choices_offered_are_those_there_are(action, option, known):
    """They are written twice: the command line does not import what would know them."""
    actions = archive_actions()
    (found,) = [each for each in actions[action]._actions if option in each.option_strings]
    assert list(found.choices) == list(known)


def test_reading_an_archive_leaves_it_as_it_was(run_here, done):
    before = (run_here / "archive.sqlite").read_bytes()
    done("archive", "stats", "tiny")
    done("archive", "list", "tiny")
    assert (run_here / "archive.sqlite").read_bytes() == before


# ---- doctor, pretrain ----


def test_doctor_says_what_was_verified(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tier"] in "AB"
    assert set(report["probes"].values()) <= {"refused", "held"}
    assert {"namespaces", "rlimits"} <= set(report["layers"])


def test_doctor_prints_a_table_and_what_is_missing(selfplay, monkeypatch, protections):
    status, out, _ = selfplay("doctor")
    assert status == 0
    assert out.startswith(f"tier {protections.tier}\n")
    assert "endless_loop" in out
    layers = {**protections.layers, "namespaces": "refused: Operation not permitted"}
    broken = selfcheck.Protections("D", layers, {}, {**protections.probes, "memory": "finished"})
    monkeypatch.setattr(selfcheck, "check", lambda pool: broken)
    status, out, _ = selfplay("doctor")
    assert status == 3
    assert "missing: namespaces refused: Operation not permitted; allow user namespaces" in out
    assert "missing: memory: finished" in out


@pytest.mark.slow
def test_pretrain_makes_a_model_that_samples(done, refused):
    from puzzles.rules import families

    name = next(iter(families.FAMILIES))
    Path("small.toml").write_text(
        f"width = 16\nlayers = 1\nheads = 2\nfeedforward = 32\ntokenizer_pairs = 200\nbatch_tokens = 512\nthreads = 1\n"
        f'families = ["{name}"]\n'
    )
    out = done("pretrain", "small.toml", "--steps", "2", "--out", "made")
    assert out.startswith("made: 2 steps, ")
    done("propose", "--model", "made", "--count", "2", "--max-tokens", "8")
    done("pretrain", "small.toml", "--steps", "1", "--out", "made")  # a model may be replaced
    Path("work").mkdir()
    Path("work/precious").touch()
    refused("pretrain", "small.toml", "--steps", "1", "--out", "work")
    refused("pretrain", "small.toml", "--steps", "1", "--out", ".")
    assert Path("work/precious").exists()


def test_pretrain_names_the_key_it_does_not_know(refused):
    Path("bad.toml").write_text("stepz = 3\n")
    assert "unknown key 'stepz'" in refused("pretrain", "bad.toml", "--out", "made")
    Path("bad.toml").write_text('families = ["nosuch"]\n')
    assert "nosuch" in refused("pretrain", "bad.toml", "--out", "made")
    assert "missing.toml" in refused("pretrain", "missing.toml", "--out", "made")


# ---- bad input ----


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("solve.temprature=0.5", ["unknown key 'solve.temprature'", "did you mean 'solve.temperature'"]),
        ("iteration=2", ["did you mean 'iterations'"]),
        ("iterations=many", ["expected an integer under 'iterations'", "'many'"]),
        ("solve.temperature=hot", ["expected a number under 'solve.temperature'"]),
        ("solve=3", ["expected a table under 'solve'"]),
        ("evaluate.k=3", ["expected a list such as [1, 10] under 'evaluate.k'"]),
        ("evaluate.k=[1,5]", ["pass@5", "samples_per_puzzle is 4"]),
        ("propose.temperature=-1", ["propose.temperature", "got -1"]),
        ("sandbox.minimum_tier=Z", ["expected one of A, B, D"]),
        ("seed", ["--set seed: expected key=value"]),
        ("=3", ["--set =3: expected key=value"]),
    ],
)
def test_a_wrong_setting_is_named(files, refused, override, words):
    line = refused("run", files / "tiny.toml", "--set", override)
    assert all(word in line for word in words), line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[solve]\ncandidate_per_puzzle = 3", ["bad.toml", "did you mean 'solve.candidates_per_puzzle'"]),
        (b"iterations = 'x'", ["bad.toml", "expected an integer"]),
        (b"iterations =", ["bad.toml", "expected TOML"]),
        (b"\xff\xfe", ["bad.toml", "UTF-8"]),
    ],
)
def test_a_wrong_config_file_is_named(refused, text, words):
    Path("bad.toml").write_bytes(text)
    line = refused("run", "bad.toml")
    assert all(word in line for word in words), line
    assert not Path("runs").exists()


def test_a_missing_config_is_named(refused):
    assert "nosuch.toml: No such file" in refused("run", "nosuch.toml")
    assert refused("run", ".").startswith("selfplay: .: Is a directory")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "/tmp"])
def test_a_run_has_a_plain_name(files, refused, name):
    assert "expected the name of a folder" in refused("run", files / "tiny.toml", "--name", name)


def no_model(kind):
    if kind == "empty":
        Path("empty").mkdir()
    if kind == "text":
        Path("text").mkdir()
        Path("text/config.json").write_text("this is not JSON")
    if kind == "image":
        Path("image").mkdir()
        Path("image/config.json").write_text(json.dumps({"model_type": "vit"}))
    return {"missing": "no/such/folder", "word": "nosuch"}.get(kind, kind)


@pytest.mark.parametrize("kind", ["missing", "word", "empty", "text", "image"])
def test_a_folder_that_is_no_model_is_refused(files, refused, kind):
    path = no_model(kind)
    assert path in refused("bench", path, "--puzzles", files / "dev.jsonl", *BENCH)
    Path("mine.py").write_text("def f(x: int):\n    return x == 3\n")
    assert path in refused("propose", "--model", path)
    assert path in refused("solve", "mine.py", "--model", path)


def test_a_run_whose_model_was_mistyped_can_be_started_again(files, done, refused):
    assert "no/such" in refused("run", files / "tiny.toml", "--set", "model.path=no/such/folder")
    done("run", files / "tiny.toml", "--set", "iterations=0")


def test_weights_that_are_cut_off_are_refused(model, files, refused):
    shutil.copytree(model, "cut")
    weights = Path("cut/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:500])
    assert "cut" in refused("bench", "cut", "--puzzles", files / "dev.jsonl", *BENCH)


def test_a_hub_name_without_a_network_is_refused(files, refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refused("bench", "nobody/nosuch", "--puzzles", files / "dev.jsonl", *BENCH)
    assert "nobody/nosuch" in line


@pytest.mark.parametrize(
    "bad", ["{not json", "[1, 2]", '{"puzzle": "def f(x: int): return x == 1"}', '{"puzzle": 3, "solution": ""}', "5"]
)
def test_a_wrong_line_is_named_and_all_others_have_their_verdict(selfplay, bad):
    Path("pairs.jsonl").write_text(f"{json.dumps(EASY)}\n{json.dumps(WRONG)}\n{bad}\n{json.dumps(EASY)}\n")
    status, out, err = selfplay("verify", "pairs.jsonl")
    assert status == 2
    refused = "invalid_solution" if bad.endswith('== 1"}') else "invalid_puzzle"
    assert verdicts(out) == ["accepted", "wrong_answer", refused, "accepted"]
    assert one_line(err).startswith("selfplay: pairs.jsonl, line 3: expected ")


def test_a_wrong_line_does_not_end_standard_input_either(selfplay, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{json.dumps(EASY)}\nnonsense\nnull\n{json.dumps(EASY)}\n"))
    status, out, err = selfplay("verify", "-", "--batch", "1")
    assert (status, verdicts(out)) == (2, ["accepted", "invalid_puzzle", "invalid_puzzle", "accepted"])
    assert "standard input, line 2" in one_line(err)
    assert "1 lines more were refused" in err


def test_a_shard_refuses_only_its_own_lines(selfplay):
    Path("pairs.jsonl").write_text(f"{json.dumps(EASY)}\nnull\n{json.dumps(EASY)}\n")
    assert selfplay("verify", "pairs.jsonl", "--shard", "1/2")[0] == 0
    assert selfplay("verify", "pairs.jsonl", "--shard", "2/2")[0] == 2


def test_what_is_printed_is_json_whatever_the_ids_are(selfplay):
    ids = ["1e999", "NaN", '{"a": -Infinity}', '"Infinity"', "1e300"]
    texts = json.dumps(EASY)[1:]
    Path("pairs.jsonl").write_text("".join(f'{{"id": {each}, {texts}\n' for each in ids))
    _, out, _ = selfplay("verify", "pairs.jsonl")

    def no(constant):
        raise ValueError(constant)

    said = [json.loads(line, parse_constant=no) for line in out.splitlines()]
    assert [line["verdict"] for line in said] == ["invalid_puzzle"] * 3 + ["accepted"] * 2
    assert [line["id"] for line in said] == [1, 2, 3, "Infinity", 1e300]


def test_a_python_file_is_a_pair(selfplay):
    Path("pair.py").write_bytes(
        "# coding: latin-1\ndef f(s: str):\n    return s == 'é'\n\ndef g():\n    return 'é'\n".encode("latin-1")
    )
    status, out, _ = selfplay("verify", "pair.py")
    assert (status, verdicts(out)) == (0, ["accepted"])


LARGE = {"name": "large", "puzzle": "def f(s: str):\n    return len(s) == 300_000",
         "solution": "def g():\n    return 'a' * 300_000"}  # fmt: skip


@pytest.mark.slow
def test_the_limits_of_the_sandbox_are_options_of_verify_import_and_bench(selfplay, model):
    Path("large.jsonl").write_text(json.dumps(LARGE) + "\n")
    more = ("--answer-kb", "512")
    assert verdicts(selfplay("verify", "large.jsonl")[1]) == ["unanswerable_value"]
    assert verdicts(selfplay("verify", "large.jsonl", *more)[1]) == ["accepted"]
    assert "unanswerable_value" in selfplay("archive", "import", "small.sqlite", "large.jsonl")[1]
    assert "unanswerable_value" not in selfplay("archive", "import", "large.sqlite", "large.jsonl", *more)[1]
    for given, accepted in ((), 0), (more, 1):
        out = f"out{accepted}"
        assert selfplay("bench", model, "--puzzles", "large.jsonl", *BENCH, "--out", out, *given)[0] == 0
        assert (
            json.loads(Path(out, "results.json").read_text())["selfplay"]["set"]["references"]["accepted"] == accepted
        )


@pytest.mark.slow
def test_pairs_are_judged_again_with_the_limits_that_they_were_imported_with(selfplay):
    Path("large.jsonl").write_text(json.dumps(LARGE) + "\n")
    selfplay("archive", "import", "large.sqlite", "large.jsonl", "--answer-kb", "512")
    assert selfplay("archive", "reverify", "large.sqlite")[0] == 0
    assert selfplay("archive", "reverify", "large.sqlite", "--python", sys.executable)[0] == 0


@pytest.mark.parametrize("option", [("--answer-kb", "99999999"), ("--memory-mb", "1"), ("--wall-seconds", ".5")])
def test_a_limit_out_of_range_is_one_line(refused, option):
    Path("pairs.jsonl").write_text(json.dumps(EASY) + "\n")
    assert "sandbox: " in refused("verify", "pairs.jsonl", *option)
    assert "sandbox: " in refused("archive", "import", "a.sqlite", "pairs.jsonl", *option)
    assert not Path("a.sqlite").exists()


@pytest.mark.parametrize("name", ["nosuch.jsonl", "folder", "no.gz", "latin.jsonl", "cut.gz"])
def test_a_file_that_cannot_be_read_is_named(refused, model, files, name):
    Path("folder").mkdir()
    Path("no.gz").write_text("plain text\n")
    Path("latin.jsonl").write_bytes(b'{"puzzle": "\xe9"}\n')
    Path("cut.gz").write_bytes(gzip.compress(json.dumps(EASY).encode() * 99)[:60])
    for command in (["verify", name], ["archive", "import", "a.sqlite", name], ["solve", name, "--model", model]):
        assert name in refused(*command)
    assert name in refused("bench", model, "--puzzles", name, *BENCH)
    assert not Path("a.sqlite").exists()


def test_a_broken_line_of_a_puzzle_file_is_named(model, refused):
    Path("set.jsonl").write_text(f"{json.dumps(EASY)}\n{{\n")
    for command in (["archive", "import", "a.sqlite", "set.jsonl"], ["bench", model, "--puzzles", "set.jsonl", *BENCH]):
        assert "set.jsonl, line 2" in refused(*command)
    Path("p3.json").write_text('[{"sat": "def sat(x: int): return x == 1"}, 7]')
    assert "p3.json, item 1" in refused("archive", "import", "a.sqlite", "p3.json", "--format", "p3")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("def f(x: int:\n    return 1", "syntax"),
        ("def f(x):\n    return x == 1", "annot"),
        ("def f(x: int, y):\n    return x == y", "default"),
        ("x = 1", "function"),
    ],
)
def test_a_text_that_is_no_puzzle_is_named_with_the_rule_and_left_out_of_the_score(
    model, selfplay, refused, files, text, rule
):
    unsolved = {"name": "unsound", "puzzle": "def f(x: int):\n    return x == 7", "solution": "def g():\n    return 8"}
    path = write_lines(Path("set.jsonl"), [{"name": "fine", **EASY}, {"name": "odd", "puzzle": text}, unsolved])
    status, out, err = selfplay("bench", model, "--puzzles", path, *BENCH)
    assert status == 0
    assert "selfplay: odd is left out of the score: it is no puzzle: " in err
    assert "selfplay: unsound is left out of the score: its own solution: wrong_answer" in err
    assert rule in err
    assert "of 1 " in out
    assert "puzzle unsound is left out, it is wrong: its own solution: wrong_answer" in out
    Path("odd.py").write_text(text)
    assert rule in refused("solve", "odd.py", "--model", model)


def test_a_run_refuses_a_scored_set_with_a_text_that_is_no_puzzle(files, refused):
    path = write_lines(Path("set.jsonl"), [{"name": "odd", "puzzle": "def f(x):\n    return x == 1"}])
    line = refused("run", files / "tiny.toml", "--set", f"data.dev={path}")
    assert "set.jsonl: expected puzzles, there are none: odd: no_annotation" in line


def test_an_empty_set_is_refused(model, files, refused):
    Path("empty.jsonl").touch()
    Path("empty.py").touch()
    assert "there are none" in refused("bench", model, "--puzzles", "empty.jsonl", *BENCH)
    assert "there are none" in refused("run", files / "tiny.toml", "--set", "data.train=empty.jsonl")
    assert "there are none" in refused("run", files / "tiny.toml", "--name", "e", "--set", "data.dev=empty.jsonl")
    assert "there is no puzzle" in refused("solve", "empty.jsonl", "--model", model)
    assert "no puzzle" in refused("solve", "empty.py", "--model", model)


def test_an_unknown_puzzle_of_a_set_is_named(model, files, refused):
    assert "named 'nosuch'" in refused("solve", files / "dev.jsonl", "--puzzle", "nosuch", "--model", model)


def test_an_archive_of_a_newer_schema_is_refused(run_here, files, refused):
    with contextlib.closing(sqlite3.connect(run_here / "archive.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = (run_here / "archive.sqlite").read_bytes()
    for command in (
        ["archive", "stats", "tiny"],
        ["archive", "import", run_here / "archive.sqlite", files / "train.jsonl"],
        ["run", files / "tiny.toml"],
    ):
        assert "has schema 99" in refused(*command)
    assert (run_here / "archive.sqlite").read_bytes() == before


@pytest.mark.parametrize("action", [["stats"], ["list"], ["show"]])
def test_what_is_no_archive_is_refused(refused, action):
    Path("text.sqlite").write_text("these are only words, and a good many of them\n" * 99)
    with contextlib.closing(sqlite3.connect("foreign.sqlite")) as connection:
        connection.execute("CREATE TABLE t (x)")
    Path("empty.sqlite").touch()
    for name in ("nosuch", "no/such/archive.sqlite", "text.sqlite", "foreign.sqlite", "empty.sqlite"):
        assert name in refused("archive", *action, name, *(["3f"] if action == ["show"] else []))
    assert not Path("nosuch").exists()


def test_an_archive_is_not_made_where_there_is_a_folder(refused, files):
    Path("folder").mkdir()
    assert "folder: " in refused("archive", "import", "folder", files / "train.jsonl")
    Path("file").touch()
    refused("archive", "import", "file/a.sqlite", files / "train.jsonl", status=3)


def test_an_archive_that_is_cut_off_is_one_line(run_here, selfplay):
    whole = (run_here / "archive.sqlite").read_bytes()
    Path("cut.sqlite").write_bytes(whole[: len(whole) // 8192 * 4096])
    for command in (["stats", "cut.sqlite"], ["list", "cut.sqlite"]):
        status, _, err = selfplay("archive", *command)
        assert status in (2, 3)
        one_line(err)


def test_an_unknown_or_shared_id_is_refused(run_here, refused):
    assert "there is none" in refused("archive", "show", "tiny", "zzz")
    assert "ids begin with it" in refused("archive", "show", "tiny", "")


def test_a_run_folder_of_other_settings_is_refused_and_the_keys_named(run_here, files, refused):
    before = content(run_here / "archive.sqlite"), (run_here / "config.toml").read_bytes()
    line = refused("run", files / "tiny.toml", "--set", "solve.temperature=0.5", "--set", "seed=3")
    assert "seed (0 there, 3 here)" in line
    assert "solve.temperature (0.9 there, 0.5 here)" in line
    assert (content(run_here / "archive.sqlite"), (run_here / "config.toml").read_bytes()) == before


@pytest.mark.slow
def test_bench_results_of_other_settings_are_refused(model, files, done, refused):
    done("bench", model, "--puzzles", files / "dev.jsonl", *BENCH, "--out", "out")
    before = {path: path.read_bytes() for path in Path("out").iterdir() if path.name != "lock"}
    for options, words in (
        (["--seed", "2"], "another seed"),
        (["--temperature", "0.7"], "another settings"),
        (["--puzzles", files / "train.jsonl"], "another puzzles"),
        (["--protocol", "few-shot"], "another protocol"),
    ):
        line = refused("bench", model, "--puzzles", files / "dev.jsonl", *BENCH, "--out", "out", *options)
        assert line.startswith(f"selfplay: out: it holds results with {words} ")
        assert line.endswith(": move it away to score anew")
        assert {path: path.read_bytes() for path in Path("out").iterdir() if path.name != "lock"} == before


def test_records_with_a_foreign_line_are_refused_with_its_number(run_here, files, refused):
    with (run_here / "records.jsonl").open("a") as file:
        file.write("my notes\n")
    assert "records.jsonl, line 3" in refused("run", files / "tiny.toml")


def test_a_second_writer_is_refused(run_here, files, refused):
    before = (run_here / "config.toml").read_bytes()
    with RunDir(run_here).lock():
        line = refused("run", files / "tiny.toml", "--set", "iterations=5")
    assert "another process is writing this run" in line
    assert f"process {os.getpid()}" in line
    assert (run_here / "config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--k", "a,b"], "--k: expected integers"),
        (["--k", ""], "--k: expected integers"),
        (["--k", "0"], "--k: expected integers of at least 1"),
        (["--k", "1,9"], "pass@9 needs at least 9 samples"),
        (["--seed", "a"], "--seed: expected integers"),
        (["--seed", "-1"], "--seed: expected integers of at least 0"),
        (["--seed", "1,2,1"], "--seed: expected different seeds, got '1,2,1'"),
        (["--errata", "none.toml"], "none.toml: No such file"),
        (["--device", "nosuch"], "nosuch"),
        (["--out", "taken"], "taken: expected a folder"),
        (["--judge-again"], "--judge-again judges stored candidates"),
        (["--threads", "100000"], "model.threads: expected at most 1024"),
        (["--device", "meta"], "'meta' cannot be used here"),
        (["--max-tokens", "100000"], "no prompt with 100000 tokens of answer fits"),
    ],
)
def test_bench_refuses_wrong_options(model, files, refused, options, words):
    Path("taken").write_text("a file")
    assert words in refused("bench", model, "--puzzles", files / "dev.jsonl", "--samples", "4", "--k", "1", *options)


def test_bench_of_nothing_is_refused(refused):
    assert refused("bench") == "selfplay: bench: expected a MODEL, such as `embedded`, or --rescore"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["nosuch"],
        ["bench", "m", "--samples", "0"],
        ["bench", "m", "--temperature", "-1"],
        ["bench", "m", "--top-p", "2"],
        ["bench", "m", "--protocol", "nosuch"],
        ["compare"],
        ["compare", "one"],
        ["bench", "m", "--shots", "-1"],
        ["bench", "m", "--threads", "-1"],
        ["bench", "m", "--dtype", "int8"],
        ["verify"],
        ["verify", "-", "--format", "xml"],
        ["verify", "-", "--cpu-seconds", "0"],
        ["verify", "-", "--cpu-seconds", "nan"],
        ["verify", "-", "--lanes", "-1"],
        ["solve", "x.py", "--candidates", "none"],
        ["pretrain", "--steps", "0"],
        ["archive"],
        ["archive", "list", "x", "--origin", "nowhere"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(capsys, command):
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 2
    assert one_line(capsys.readouterr().err).endswith("--help` shows what is expected")


def test_a_sandbox_below_the_wanted_tier_is_refused(files, refused, monkeypatch, protections):
    layers = {**protections.layers, "namespaces": "refused: Operation not permitted"}
    weaker = selfcheck.Protections("B", layers, {}, protections.probes)
    monkeypatch.setattr(selfcheck, "check", lambda pool: weaker)
    line = refused("run", files / "tiny.toml", "--set", "sandbox.minimum_tier=A", status=3)
    assert "namespaces" in line


def test_a_training_that_diverges_is_one_line_and_can_be_inspected(files, selfplay, done):
    status, _, err = selfplay("run", files / "tiny.toml", "--set", "finetune.learning_rate=1e30")
    assert status in (2, 3)
    assert "learning_rate" in one_line(err)
    assert json.loads(done("archive", "stats", "tiny", "--json"))["candidates"] > 0


def test_a_run_with_adapters_but_without_their_package_is_refused_at_start(files, refused, monkeypatch):
    usual = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else usual(name))
    line = refused("run", files / "tiny.toml", "--set", "finetune.lora_rank=4")
    assert "pip install '.[lora]'" in line
    assert not Path("runs").exists()


# ---- ablations ----

ABLATION = """
run = "{folder}/tiny.toml"
seeds = [0]
control = "nothing new"
settings = ["data.references=true", "propose.proposals=16"]
[arms]
"nothing new" = ["propose.proposals=0", "solve.training_puzzles=none"]
"self-play" = []
"""


@pytest.fixture
def arms(files):
    """An ablation's config, in a folder of its own."""
    Path("arms.toml").write_text(ABLATION.format(folder=files))
    return "arms.toml"


def test_an_ablation_prints_its_tables_and_leaves_them_with_a_chart(arms, done, monkeypatch):
    printed = done("ablate", arms)
    table, svg = Path("runs/arms/ablation.md").read_text(), Path("runs/arms/ablation.svg").read_bytes()
    assert f"\n{table}\nruns/arms: ablation.md (this table), ablation.svg, ablation.json, and a folder" in printed
    assert [line for line in printed.splitlines() if "seed 0" in line][:2] == [
        "nothing new, seed 0",
        "self-play, seed 0",
    ]
    assert "| self-play - nothing new | pass@4 |" in " ".join(table.split())
    assert {path.name for path in Path("runs/arms").iterdir()} == {
        "ablation.json", "ablation.md", "ablation.svg", "log.txt", "nothing-new-0", "self-play-0",
    }  # fmt: skip
    kept = json.loads(Path("runs/arms/ablation.json").read_text())
    assert [run["contaminated"] for run in kept["runs"]] == [{}, {}]
    # Nothing is sampled, trained or judged again.
    monkeypatch.setattr("selfplay.experiments.engines.judges", None)
    assert done("ablate", arms) == printed
    assert json.loads(Path("runs/arms/ablation.json").read_text()) == kept
    assert Path("runs/arms/ablation.svg").read_bytes() == svg


@pytest.mark.slow
def test_an_ablation_that_is_interrupted_or_killed_ends_like_one_that_was_not(arms, done, cut_command):
    within = ("selfplay.training.finetune:train", "selfplay.training.finetune:log_probabilities")
    code, err = cut_command(["ablate", arms], (*within, 2, signal.SIGINT))
    assert code == 130
    assert one_line(err).startswith("selfplay: interrupted; what was finished is kept, and the same command continues")
    code, err = cut_command(["ablate", arms], (*within, 6, signal.SIGKILL))
    assert (code, err) == (-signal.SIGKILL, "")
    assert not Path("runs/arms/ablation.md").exists()
    for name in ("arms", "whole"):
        done("ablate", arms, "--name", name)
    assert Path("runs/arms/ablation.md").read_text() == Path("runs/whole/ablation.md").read_text()
    for name in ("nothing-new-0", "self-play-0"):
        assert_same_run(f"runs/arms/{name}", f"runs/whole/{name}")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tiny.toml", "none.toml", "arms.toml: nothing new: .*none.toml: No such file"),
        (
            'control = "nothing new"',
            'control = "x"',
            "arms.toml: control: expected one of nothing new, self-play, got 'x'",
        ),
        ("[0]", "0", "arms.toml: seeds: expected different integers from 0 on, got 0"),
        (
            '"self-play" = []',
            '"self-play" = ["evaluate.k=[1]"]',
            r"self-play: evaluate.k: expected .*, as in nothing new, got \(1,\): arms must share it",
        ),
        ("[arms]", "[arm]", "arms.toml: unknown key 'arm'; known keys: run, seeds, control, settings, arms"),
        ("[arms]", "[arms", "arms.toml: expected TOML, "),
    ],
)
def test_a_wrong_ablation_is_named(arms, refused, old, new, words):
    Path(arms).write_text(Path(arms).read_text().replace(old, new))
    assert re.search(words, refused("ablate", arms))
    assert not Path("runs").exists()


def test_an_ablation_has_a_config_that_exists_and_a_plain_name(arms, refused):
    assert "none.toml: No such file or directory: expected a TOML file" in refused("ablate", "none.toml")
    assert "--name a/b: expected the name of a folder below runs" in refused("ablate", arms, "--name", "a/b")


# ---- interruptions ----
#
# A run in a process of its own, forked from a server that has torch loaded, and cut off from the
# inside at the nth call of a function within a stage: no timing decides what is tested.


@pytest.fixture(scope="session")
def forked():
    return interrupted.server()


@pytest.fixture
def cut_command(forked, protections):
    """A command in a process of its own, cut off somewhere; its exit code and standard error."""

    def run(command, cut=None):
        prepare = (interrupted.install, interrupted.Cut(*cut)) if cut else ()
        ended = interrupted.run_command(forked, Path.cwd(), protections, command, prepare)
        assert not ended.left
        return ended.status, ended.err

    return run


BENCH_CUTS = [
    (
        "judging the second seed",
        ("selfplay.benchmark.bench:evaluate", "selfplay.scoring.evaluate:judge_texts", 2, signal.SIGKILL),
    ),
    (
        "judging the third",
        ("selfplay.benchmark.bench:evaluate", "selfplay.scoring.evaluate:judge_texts", 2, signal.SIGTERM),
    ),
    ("packing", ("selfplay.scoring.results:pack", "json:dumps", 2, signal.SIGKILL)),
]


@pytest.mark.slow
def test_a_benchmark_that_is_killed_again_and_again_ends_like_one_that_was_not(model, files, done, cut_command):
    command = ["bench", model, "--puzzles", files / "train.jsonl", *BENCH, "--seed", "0,1,2", "--out"]
    for stage, cut in BENCH_CUTS:
        code, err = cut_command([*command, "cut"], cut)
        if cut[-1] == signal.SIGKILL:
            assert (code, err) == (-signal.SIGKILL, ""), stage
        else:
            assert code == 130, stage
            assert one_line(err).startswith("selfplay: interrupted; what was finished is kept"), stage
        assert not Path("cut/results.json").exists(), stage
    done(*command, "cut")
    done(*command, "whole")
    assert packed("cut") == packed("whole")
    assert untimed("cut") == untimed("whole")
    assert {path.name for path in Path("cut").iterdir()} == {path.name for path in Path("whole").iterdir()}


def command_line(*arguments):
    return [
        sys.executable,
        "-c",
        "import sys; from selfplay.commands.main import main; sys.exit(main())",
        *map(str, arguments),
    ]


ENDLESS = {"puzzle": EASY["puzzle"], "solution": "def g():\n    while True: pass"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_verify_leaves_no_process_behind(number):
    write_lines(
        Path("pairs.jsonl"), [EASY, *[{**ENDLESS, "solution": f"{ENDLESS['solution']} # {i}"} for i in range(99)]]
    )
    command = command_line("verify", "pairs.jsonl", "--batch", "1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert verdicts(process.stdout.readline()) == ["accepted"]
        below = descendants(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert one_line(err).startswith("selfplay: interrupted")
    assert below
    assert not still_running(below)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["verify", "pairs.jsonl", "--batch", "1"], ["archive", "stats", "a.sqlite"]])
def test_a_reader_that_leaves_early_is_no_error(command, done, files):
    done("archive", "import", "a.sqlite", files / "train.jsonl")
    write_lines(Path("pairs.jsonl"), [EASY] * 20)
    reader, writer = os.pipe()
    with subprocess.Popen(command_line(*command), stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        if command[0] == "verify":
            os.read(reader, 10)
        os.close(reader)
        _, err = process.communicate(timeout=120)
    assert err == ""
    assert process.returncode in (0, -signal.SIGPIPE)


SMALL_DISK = """
import contextlib, io, json, os, subprocess, sys
from sandbox import selfcheck
from selfplay.run import resources
from selfplay.commands.main import main

SIZES = json.loads(sys.argv[4])

def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", sys.argv[1]], check=True)

check = selfcheck.check
cached = {}
selfcheck.check = lambda pool: cached.setdefault("it", None) or cached.update(it=check(pool)) or cached["it"]
mount("size=40k")
os.chdir(sys.argv[1])
told, foretell = [], resources.check
for options in ["ro", "rw,size=44k", *[f"rw,size={size}k" for size in SIZES], "rw,size=64m"]:
    mount("remount", options)
    # As if the disk were filled by somebody else later.
    resources.check = foretell if options == "rw,size=44k" else lambda *_: None
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["run", sys.argv[2]])
    told.append([options, status, err.getvalue()])
os.chdir("/")
subprocess.run(["cp", "-r", sys.argv[1] + "/runs", sys.argv[3]], check=True)
print(json.dumps(told))
"""


def may_mount():
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mounting a small disk needs a mount namespace")
@pytest.mark.slow
def test_a_full_or_read_only_disk_is_one_line_and_loses_nothing(files, finished, tmp_path):
    Path("disk").mkdir()
    script = [SMALL_DISK, tmp_path / "disk", files / "tiny.toml", tmp_path, json.dumps([48, 120, 200, 280, 360])]
    came = subprocess.run(["unshare", "-m", sys.executable, "-c", *script], capture_output=True, text=True)
    assert came.returncode == 0, came.stderr
    told = json.loads(came.stdout)
    options, status, err = told.pop(0)
    assert (options, status) == ("ro", 2)
    assert "Read-only file system" in one_line(err)
    assert told.pop()[1:] == [0, ""]
    options, status, err = told.pop(0)
    assert status == 2, options
    assert re.search(
        r"an iteration needs about 0.\d MB, and 0.0 MB are free at runs/tiny \(iterations left: 2\)", one_line(err)
    )
    full = [entry for entry in told if entry[1] != 0]
    assert len(full) >= 2
    for _, status, err in full:
        assert status == 3, full
        assert "the disk is full: an iteration needs about" in one_line(err)
    assert_same_run("runs/tiny", finished[0] / "runs" / "tiny")


def test_a_row_that_cannot_be_shown_names_the_archive_and_the_row(run_here, refused):
    with contextlib.closing(sqlite3.connect(run_here / "archive.sqlite")) as connection, connection:
        (puzzle,) = connection.execute("SELECT id FROM puzzles WHERE number = 1").fetchone()
        connection.execute("UPDATE puzzles SET source = x'00ff' WHERE number = 1")
    for action in ("show", "why"):
        line = refused("archive", action, "tiny", puzzle)
        assert "archive.sqlite: the archive is damaged: expected TEXT in column source of table puzzles, row 1" in line
