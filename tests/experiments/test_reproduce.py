"""A run is done again from its own settings, and the first difference is found where it comes about.

The model is a script (`test_loop`); a real one is reproduced in `test_cli`.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scripted_run import Backend, Crash, config_of, go, puzzle_files, watched

from puzzles.puzzle import InputError
from selfplay.config import BudgetConfig, ProposeConfig, SolveConfig, VaryConfig
from selfplay.experiments import reproduce as reproduce_module
from selfplay.experiments.reproduce import begin, reproduce, told
from selfplay.iteration.beginning import branch
from selfplay.iteration.budget import BudgetSpent
from selfplay.run import sessions
from selfplay.run.rundir import RunDir, read_lines


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of(
        puzzle_files(tmp_path_factory.mktemp("sets")), vary=VaryConfig(20),
        propose=ProposeConfig(proposals=32, proposals_per_prompt=8, begun=0.5),
        solve=SolveConfig(candidates_per_puzzle=4, further_puzzles=3, further_candidates=5),
    )  # fmt: skip


def again(there, pool, iterations=None):
    here = RunDir(there.path.with_name(f"{there.path.name}-again"))
    return reproduce(there, here, begin(there, here, iterations), Backend(), pool, {"tier": "A"})


def digests(folder):
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def reproduced(config, pool, tmp_path_factory):
    """A folder with a run of two iterations and its reproduction, what came of it, and whether the run is untouched."""
    there = RunDir(tmp_path_factory.mktemp("reproduced") / "run")
    go(there.path, config, pool)
    before = digests(there.path)
    done = again(there, pool)
    return there, done, digests(there.path) == before


@pytest.fixture
def there(reproduced, tmp_path):
    """A copy of the run, to be spoiled, with its reproduction beside it."""
    for name in ("run", "run-again"):
        shutil.copytree(reproduced[0].path.with_name(name), tmp_path / name)
    return RunDir(tmp_path / "run")


def rows(rundir, sql, *parameters):
    with contextlib.closing(sqlite3.connect(rundir.archive)) as connection, connection:
        return connection.execute(sql, parameters).fetchall()


# ---- nothing differs ----


def test_a_run_from_its_own_settings_is_identical(reproduced):
    _, done, _ = reproduced
    assert done.difference is None
    assert done.environment == []
    assert done.iterations == [0, 1, 2]


def test_every_row_and_candidate_is_compared(reproduced):
    there, done, _ = reproduced
    tables = ("chunks", "proposals", "puzzles", "candidates", "solutions", "trained", "refusals")
    counts = {table: rows(there, f"SELECT count(*) FROM {table}")[0][0] for table in tables}
    scored = [line for file in (there.path / "scores").iterdir() for line in read_lines(file)]
    assert done.rows == sum(counts.values())
    assert done.candidates == counts["candidates"] + sum(len(r["verdicts"]) for line in scored for r in line["results"])
    assert done.checkpoint_bytes == sum((there.checkpoint(i) / "weights").stat().st_size for i in (1, 2))


def test_the_run_itself_is_only_read(reproduced):
    assert reproduced[2]


def test_what_is_said_then_is_one_line(reproduced):
    there, done, _ = reproduced
    (line,) = told(there, RunDir(Path("runs/again")), done)
    assert line.startswith(f"runs/again is identical to {there.path}; compared: iterations 0 to 2, ")
    assert f"{done.rows:,} rows" in line


def test_times_are_no_difference(there, pool):
    rows(there, "UPDATE candidates SET cpu_seconds = 9")
    rows(there, "UPDATE puzzles SET added_at = 9")
    rows(there, "UPDATE chunks SET judging_seconds = 9, sampling_cpu_seconds = 9")
    rows(there, "UPDATE solutions SET judge_cpu_seconds = 9, added_at = 9")
    in_lines(there.records, lambda record: record["times"].update(sampling=9))
    in_lines(there.samples(1, "dev"), lambda line: line["times"].update(sampling_seconds=9))
    assert again(there, pool).difference is None


@pytest.mark.slow
def test_a_reproduction_that_was_stopped_goes_on(reproduced, pool, tmp_path):
    shutil.copytree(reproduced[0].path, tmp_path / "run")
    with watched(crash_at=150), pytest.raises(Crash):
        again(RunDir(tmp_path / "run"), pool)
    done = again(RunDir(tmp_path / "run"), pool)
    assert done.difference is None
    assert done.rows == reproduced[1].rows


@pytest.mark.slow
def test_fewer_iterations_are_done_again_if_asked(reproduced, pool, tmp_path):
    shutil.copytree(reproduced[0].path, tmp_path / "run")
    done = again(RunDir(tmp_path / "run"), pool, iterations=1)
    assert (done.difference, done.iterations) == (None, [0, 1])
    assert len(RunDir(tmp_path / "run-again").read_records()) == 2
    assert again(RunDir(tmp_path / "run"), pool).iterations == [0, 1, 2]


def test_a_run_that_died_in_an_iteration_is_compared_up_to_its_last_record(config, pool, tmp_path):
    class Dying(Backend):
        def finetune(self, *_):
            raise Crash

    with pytest.raises(Crash):
        go(tmp_path / "run", config, pool, Dying())
    done = again(RunDir(tmp_path / "run"), pool)
    assert (done.difference, done.iterations) == (None, [0])


@pytest.mark.slow
def test_heldout_is_scored_when_it_was_however_the_run_was_extended(config, pool, tmp_path):
    for iterations in (1, 2, 3):
        go(tmp_path / "run", dataclasses.replace(config, iterations=iterations, heldout_every=5), pool)
    done = again(RunDir(tmp_path / "run"), pool)
    assert (done.difference, done.iterations) == (None, [0, 1, 2, 3])


@pytest.mark.slow
def test_heldout_is_not_scored_where_the_run_went_on_without(config, pool, tmp_path):
    go(tmp_path / "run", dataclasses.replace(config, iterations=2, heldout_every=5), pool)
    done = again(RunDir(tmp_path / "run"), pool, iterations=1)
    assert (done.difference, done.iterations) == (None, [0, 1])
    assert "heldout" not in RunDir(tmp_path / "run-again").read_records()[1]


@pytest.mark.slow
def test_checkpoints_that_were_not_kept_are_compared_by_their_hashes(config, pool, tmp_path):
    go(tmp_path / "run", dataclasses.replace(config, iterations=3, keep_checkpoints="best"), pool)
    there = RunDir(tmp_path / "run")
    gone = [i for i in (1, 2, 3) if not there.checkpoint(i).exists()]
    done = again(there, pool)
    assert gone
    assert (done.difference, done.hashes) == (None, len(gone))
    in_lines(there.records, lambda record: record.update(checkpoint="0" * 16), gone[0])
    difference = again(there, pool).difference
    assert difference.where == f"iteration {gone[0]}, weights, by the hash of the checkpoint"


def test_what_a_run_may_cost_does_not_end_its_reproduction(config, pool, tmp_path):
    with pytest.raises(BudgetSpent):
        go(tmp_path / "run", dataclasses.replace(config, budget=BudgetConfig(seconds=1e-9)), pool)
    there = RunDir(tmp_path / "run")
    with pytest.raises(InputError, match="expected a run with at least one record"):
        again(there, pool)
    with pytest.raises(BudgetSpent):
        go(tmp_path / "other", dataclasses.replace(config, budget=BudgetConfig(tokens=400)), pool)
    assert again(RunDir(tmp_path / "other"), pool).difference is None


@pytest.mark.slow
def test_a_branch_is_done_again_from_where_it_was_branched(reproduced, config, pool, tmp_path):
    other = dataclasses.replace(config, iterations=3, seed=9)
    branch(reproduced[0], 1, RunDir(tmp_path / "branch"))
    go(tmp_path / "branch", dataclasses.replace(other, iterations=1), pool)
    with pytest.raises(InputError, match="branched at iteration 1 and has no iteration of its own yet"):
        again(RunDir(tmp_path / "branch"), pool)
    go(tmp_path / "branch", other, pool)
    done = again(RunDir(tmp_path / "branch"), pool)
    assert (done.difference, done.iterations) == (None, [2, 3])
    assert sessions.origin(RunDir(tmp_path / "branch-again"))["reproduces"]["run"] == "branch"


# ---- something differs ----


def in_lines(file, change, number=1):
    """Change a JSONL file's line in place."""
    lines = read_lines(file)
    change(lines[min(number, len(lines) - 1)])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def text_of(stage, position):
    def change(rundir):
        number, blob = rows(
            rundir, "SELECT id, completions FROM chunks WHERE iteration = 1 AND stage = ? AND number = 0", stage
        )[0]
        texts = json.loads(zlib.decompress(blob))
        inside, place = (texts, position) if isinstance(texts[0], str) else (texts[position // 4], position % 4)
        inside[place] += " # changed"
        rows(
            rundir, "UPDATE chunks SET completions = ? WHERE id = ?", zlib.compress(json.dumps(texts).encode()), number
        )

    return change


def a_token(rundir):
    number, blob = rows(rundir, f"SELECT id, token_ids FROM chunks WHERE id = {OF_CHUNK.format('solve')}")[0]
    tokens = json.loads(zlib.decompress(blob))
    tokens["ids"][5][2] += 1
    rows(rundir, "UPDATE chunks SET token_ids = ? WHERE id = ?", zlib.compress(json.dumps(tokens).encode()), number)


def sql(statement, *parameters):
    return lambda rundir: rows(rundir, statement, *parameters)


OF_CHUNK = "(SELECT id FROM chunks WHERE iteration = 2 AND stage = '{}' AND number = 1)"
SPOILED = {
    "a proposed text": (text_of("propose", 3), "iteration 1, propose chunk 0: text[3]"),
    "a candidate's text": (text_of("solve", 6), "iteration 1, solve chunk 0: text[6]"),
    "a token": (a_token, "iteration 2, solve chunk 1: token.ids[5][2]"),
    "a setting": (
        sql("UPDATE chunks SET settings = json_set(settings, '$.batch_rows', 5) WHERE iteration = 2"),
        "iteration 2, propose chunk 0: settings.batch_rows",
    ),
    "a seed": (
        sql("UPDATE chunks SET seed = '1/2/3/4' WHERE iteration = 2 AND stage = 'further'"),
        "iteration 2, further chunk 0: seed",
    ),
    "what became of a proposal": (
        sql(f"UPDATE proposals SET outcome = 'unstable' WHERE chunk = {OF_CHUNK.format('propose')} AND position = 4"),
        "iteration 2, propose chunk 1, proposal 4: outcome",
    ),
    "a proposed puzzle": (
        sql("UPDATE puzzles SET source = source || ' ' WHERE iteration = 1 AND origin = 'model'"),
        r"iteration 1, propose chunk \d, puzzle \d+: source",
    ),
    "an imported puzzle": (
        sql("UPDATE puzzles SET name = 'another' WHERE number = 2"),
        "iteration 0, imported puzzle 1: name",
    ),
    "a verdict": (
        sql(f"UPDATE candidates SET verdict = 'time_limit' WHERE chunk = {OF_CHUNK.format('solve')} AND position = 2"),
        "iteration 2, solve chunk 1, candidate 2: verdict",
    ),
    "a solution": (
        sql("UPDATE solutions SET answer = '0' WHERE iteration = 2 AND origin = 'model'"),
        r"iteration 2, solve chunk \d, solution \d+: answer",
    ),
    "a pair less": (
        sql("DELETE FROM trained WHERE rowid = (SELECT max(rowid) FROM trained WHERE iteration = 1)"),
        r"iteration 1, trained pair \d+",
    ),
    "a candidate less": (
        sql(f"DELETE FROM candidates WHERE chunk = {OF_CHUNK.format('solve')} AND position = 15"),
        "iteration 2, solve chunk 1, candidate 15",
    ),
    "a chunk more": (
        sql("INSERT INTO chunks SELECT 999, iteration, stage, 99, checkpoint, seed, settings, plan, completions, 1,"
            " tokens, prompt_tokens, 0, 0, 0, 0, token_ids FROM chunks WHERE id = 1"),
        "iteration 1, propose chunk 99",
    ),
    "a weight": (
        lambda rundir: (rundir.checkpoint(1) / "weights").write_text("0" * 64),
        "iteration 1, checkpoint, weights",
    ),
    "a file of a checkpoint": (
        lambda rundir: (rundir.checkpoint(2) / "merges.txt").write_text("a b"),
        "iteration 2, checkpoint, merges.txt",
    ),
    "a scored text": (
        lambda rundir: in_lines(
            rundir.samples(1, "heldout"), lambda line: line["results"][1]["texts"].__setitem__(2, "another"), 0
        ),
        "iteration 1, heldout scores, chunk 0, puzzle pairs: texts[2]",
    ),
    "a scored verdict": (
        lambda rundir: in_lines(
            rundir.samples(0, "dev"), lambda line: line["results"][0]["verdicts"].__setitem__(3, "unstable"), 0
        ),
        "iteration 0, dev scores, chunk 0, puzzle twelve: verdicts[3]",
    ),
    "how it was scored": (
        lambda rundir: in_lines(
            rundir.samples(2, "dev"), lambda line: line["identity"]["settings"].update(max_tokens=7), 0
        ),
        "iteration 2, dev scores, chunk 0: identity.settings.max_tokens",
    ),
    "no scores": (lambda rundir: rundir.samples(2, "dev").unlink(), "iteration 2, dev scores, chunk 0"),
    "a record's key": (
        lambda rundir: in_lines(rundir.records, lambda record: record["dev"].update(solved=77)),
        "iteration 1, record: dev.solved",
    ),
    "a record's missing key": (
        lambda rundir: in_lines(rundir.records, lambda record: record["training"].pop("steps"), 2),
        "iteration 2, record: training.steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_what_differs_is_named_where_it_first_does(there, pool, what):
    spoil, where = SPOILED[what]
    spoil(there)
    before = digests(there.path)
    done = again(there, pool)
    assert done.difference is not None
    assert done.difference.where == where or re.fullmatch(where, done.difference.where), done.difference
    assert done.difference.there != done.difference.here
    assert digests(there.path) == before


def test_the_cause_comes_before_what_follows_from_it(there, pool):
    in_lines(there.records, lambda record: record.update(accepted=0))
    in_lines(there.samples(1, "dev"), lambda line: line.update(prompt_tokens=0), 0)
    rows(
        there,
        "UPDATE candidates SET verdict = 'unstable' WHERE chunk = (SELECT max(id) FROM chunks WHERE iteration = 1)",
    )
    rows(there, "UPDATE puzzles SET name = 'late' WHERE iteration = 2")
    text_of("solve", 0)(there)
    assert again(there, pool).difference.where == "iteration 1, solve chunk 0: text[0]"


def limited(line):
    result = line["results"][0]
    result["verdicts"][1], result["details"][1] = "time_limit", "solve: over 1 s of CPU time"


def test_a_scored_verdict_at_the_time_limit_is_told_and_what_else_there_is_compared_all_the_same(there, pool):
    in_lines(there.samples(1, "dev"), limited, 0)
    in_lines(there.records, lambda record: record["dev"].update(solved=77))
    done = again(there, pool)
    assert (done.difference, done.iterations, done.is_identical) == (None, [0, 1, 2], False)
    first, one, _, why, only, _ = told(there, RunDir(Path("again")), done)
    assert (
        first
        == f"again differs from {there.path}, first in iteration 1, dev scores, chunk 0, puzzle twelve: verdicts[1]"
    )
    assert one == "  there: time_limit"
    assert why.startswith("CPU time varies between runs")
    assert only.startswith("only 1 such verdicts differ; compared: iterations 0 to 2, ")


def test_behind_a_scored_verdict_at_the_time_limit_another_difference_is_found(there, pool):
    in_lines(there.samples(1, "dev"), limited, 0)
    in_lines(there.records, lambda record: record["heldout"].update(solved=77))
    difference = again(there, pool).difference
    assert difference.where == "iteration 1, record: heldout.solved"


def test_a_verdict_at_the_time_limit_that_was_trained_by_is_the_first_difference(there, pool):
    spoil, where = SPOILED["a verdict"]
    spoil(there)
    done = again(there, pool)
    assert done.difference.where == where
    assert "CPU time varies between runs" in told(there, there, done)[3]


def test_both_texts_are_shown_from_shortly_before_the_place_where_they_differ():
    one, other = f"{'a' * 500}bcd{'e' * 500}", f"{'a' * 500}xyz{'e' * 500}"
    (found,) = reproduce_module._compared("here", {"text": [one]}, {"text": [other]})
    assert found.where == "here: text[0]"
    assert found.there.startswith("…aaaa")
    assert "abcde" in found.there
    assert "axyze" in found.here
    assert len(found.there) < 100


def test_the_first_tensor_that_differs_is_named_with_by_how_much(tmp_path):
    tensors = {name: np.arange(6, dtype=np.float32).reshape(2, 3) for name in ("a", "b", "c")}
    save_file(tensors, tmp_path / "one.safetensors")
    changed = load_file(tmp_path / "one.safetensors")
    changed["b"][1, 1] += 0.5
    changed["b"][0, 1] += 0.25
    changed["c"][0, 0] = 100
    save_file(changed, tmp_path / "other.safetensors")
    found = reproduce_module._tensor_difference("w", tmp_path / "one.safetensors", tmp_path / "other.safetensors")
    assert found.where == "w, b: 2 of 6 numbers, at most by 0.5"
    assert (found.there, found.here) == ("4.0", "4.5")


def test_another_environment_is_named_as_what_may_be_why(there, pool):
    in_lines(
        there.sessions, lambda session: (session.update(processor="8086"), session["versions"].update(torch="1.0"))
    )
    text_of("solve", 0)(there)
    done = again(there, pool)
    first, one, other, *because = told(there, RunDir(Path("again")), done)
    assert first == f"again differs from {there.path}, first in iteration 1, solve chunk 0: text[0]"
    assert one.startswith("  there: ")
    assert other.startswith("  here:  ")
    assert because[0] == "the environment differs, which may be the cause:"
    assert [line.partition(":")[0] for line in because[1:]] == ["  processor", "  versions.torch"]
    assert "1.0 there, " in because[2]


def test_an_environment_that_is_the_same_is_said_to_be(there, pool):
    text_of("solve", 0)(there)
    done = again(there, pool)
    assert told(there, there, done)[-1] == "the recorded environment is the same"


@pytest.mark.slow
def test_a_run_from_before_sessions_were_recorded_can_be_done_again(there, pool):
    there.sessions.unlink()
    shutil.rmtree(there.path.with_name("run-again"))
    assert again(there, pool).difference is None
    text_of("solve", 0)(there)
    assert told(there, there, again(there, pool))[-1] == f"the environment of {there.path} was not recorded"


# ---- what is refused ----


def test_a_folder_with_something_else_is_refused_and_kept(reproduced, pool, tmp_path):
    shutil.copytree(reproduced[0].path, tmp_path / "run")
    (tmp_path / "run-again").mkdir()
    (tmp_path / "run-again" / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match=r"run-again: expected a new folder or a reproduction of .*--out"):
        again(RunDir(tmp_path / "run"), pool)
    assert [file.name for file in (tmp_path / "run-again").iterdir()] == ["thesis.txt"]


def test_a_run_is_no_reproduction_of_itself(reproduced):
    for folder in (reproduced[0].path, reproduced[0].path / "again"):
        with pytest.raises(InputError, match="expected a folder outside the run"):
            begin(reproduced[0], RunDir(folder))


def test_a_reproduction_of_another_run_of_the_same_name_is_refused(reproduced, pool, tmp_path):
    for folder in ("one", "other"):
        shutil.copytree(reproduced[0].path, tmp_path / folder / "run")
    begin(RunDir(tmp_path / "one" / "run"), RunDir(tmp_path / "again"))
    file = tmp_path / "other" / "run" / "sessions.jsonl"
    file.write_text(re.sub(r'"began": "\d+', '"began": "1970', file.read_text()))
    with pytest.raises(InputError, match="expected a new folder or a reproduction of"):
        begin(RunDir(tmp_path / "other" / "run"), RunDir(tmp_path / "again"))


@pytest.mark.parametrize("iterations", [3, 99])
def test_more_iterations_than_there_are_is_refused(reproduced, tmp_path, iterations):
    with pytest.raises(InputError, match=f"--iterations {iterations}: expected 0 to 2, the iterations of "):
        begin(reproduced[0], RunDir(tmp_path / "again"), iterations)
    assert not (tmp_path / "again").exists()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a run with at least one record"):
        begin(RunDir(tmp_path / "nowhere"), RunDir(tmp_path / "again"))


def test_an_archive_of_another_schema_is_refused_and_not_changed(there, tmp_path):
    rows(there, "PRAGMA user_version = 1")
    before = digests(there.path)
    with pytest.raises(InputError, match="the archive has schema 1"):
        begin(there, RunDir(tmp_path / "again"))
    assert digests(there.path) == before
