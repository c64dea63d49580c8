"""Parts of a run's work, merged, beside the run that nothing was taken from."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import interrupted
import learned
import numpy as np
import pytest
from archives import older
from places import ROOT
from scripted_run import Backend, archive_content, config_of, content, go, puzzle_files

from puzzles.archive.merging import merge
from puzzles.archive.store import Archive
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError
from selfplay.commands.main import main
from selfplay.config import ModelConfig, ProposeConfig, SearchConfig, SolveConfig, VaryConfig
from selfplay.iteration import propose
from selfplay.iteration.parts import run_part
from selfplay.run.rundir import RunDir
from selfplay.run.shard import KNOWN, SHARE_OF, Part, Planned, closed_archive, parse_part, take_over


class Forgetful(Backend):
    """A model that proposes the same few puzzles again and again."""

    def load(self, checkpoint, config):
        model = super().load(checkpoint, config)
        write = model._write

        def write_again(prompt, rng):
            return write(prompt, np.random.default_rng(rng.integers(60)) if prompt.header == "def f(" else rng)

        model._write = write_again
        return model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of two iterations with all stages."""
    files = puzzle_files(tmp_path_factory.mktemp("sets"))
    return config_of(
        files,
        model=ModelConfig(path="base", threads=1),
        propose=ProposeConfig(proposals=60, proposals_per_prompt=8),
        solve=SolveConfig(candidates_per_puzzle=4, further_puzzles=4, further_candidates=8),
        vary=VaryConfig(variations=12),
        search=SearchConfig(programs_per_puzzle=2, most_puzzles=10),
    )


@pytest.fixture(scope="module")
def whole(config, pool, tmp_path_factory):
    """The folder of a run that was done in one piece."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    go(folder, config, pool, Forgetful())
    return folder


STAGES = ("propose", "solve", "further")
"""That have chunks to sample."""


def with_iterations(config, number):
    return dataclasses.replace(config, iterations=number)


def plan_next(folder, config, pool):
    """What a run says that plans its next chunks and stops."""
    with pytest.raises(Planned) as planned:
        go(folder / "run", config, pool, Forgetful(), only_plans=True)
    return str(planned.value)


def one_part(folder, part, config, pool, backend=None):
    own = RunDir(folder / f"run-{part.name}")
    return run_part(RunDir(folder / "run"), own, part, config, backend or Forgetful(), pool, {"tier": "A"}), own


def take_again(folder, own):
    with closed_archive(RunDir(folder / "run").archive) as theirs:
        take_over(theirs, own.archive, RunDir(folder / "run").read_records()[-1])


def merged(folder, owns):
    with Archive(RunDir(folder / "run").archive) as into:
        for own in owns:
            with Archive(own.archive) as other:
                merge(into, other)


@pytest.mark.parametrize("planned", [False, True], ids=["each part plans", "the run plans"])
@pytest.mark.parametrize("parts", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_parts_merged_in_order_are_the_run_in_all_its_rows(parts, planned, whole, config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool, Forgetful())
    for iteration in (1, 2):
        for stage in STAGES:
            if planned:
                assert f"iteration {iteration}, {stage}: " in plan_next(tmp_path, config, pool)
            done = [one_part(tmp_path, Part(number, parts), config, pool) for number in range(1, parts + 1)]
            assert all(f"iteration {iteration}" in said for said, _ in done)
            merged(tmp_path, [own for _, own in done])
        go(tmp_path / "run", with_iterations(config, iteration), pool, Forgetful())
    one, all_parts = content(whole), content(tmp_path / "run")
    # How many iterations were asked for is no part of what was done.
    assert all_parts.pop("config").splitlines()[1:] == one.pop("config").splitlines()[1:]
    assert all_parts == one


def test_a_part_of_a_planned_stage_reads_only_its_chunks_and_the_puzzles_they_ask_for(config, pool, tmp_path):
    class Looking(Forgetful):
        """Looks at the part's archive while the part samples."""

        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            sample = model.sample

            def looked(*arguments):
                with Archive(RunDir(tmp_path / "run-2-of-3").archive, read_only=True) as archive:
                    seen.append(archive_content(archive.path))
                return sample(*arguments)

            model.sample = looked
            return model

    go(tmp_path / "run", with_iterations(config, 0), pool, Forgetful())
    plan_next(tmp_path, config, pool)
    merged(tmp_path, [one_part(tmp_path, Part(1, 1), config, pool)[1]])
    assert "solve: " in plan_next(tmp_path, config, pool)
    run = archive_content(RunDir(tmp_path / "run").archive)
    seen: list = []
    said, own = one_part(tmp_path, Part(2, 3), config, pool, Looking())
    assert re.fullmatch("iteration 1, solve: this part is done; other parts have [0-9]+ chunks left", said)
    with Archive(own.archive) as archive:
        assert archive.mark(SHARE_OF) == "solve"
        mine = [plan for _, plan in archive.plans("judged AND stage = 'solve'")]
    asked = {puzzle for plan in mine for puzzle in plan["puzzles"]}
    assert 0 < len(asked) < len(run["puzzles"]) / 2
    assert {row["id"] for row in seen[0]["puzzles"]} == asked
    assert {row["puzzle"] for row in seen[0]["solutions"]} <= asked
    assert [row["number"] for row in seen[0]["chunks"]] == [row["number"] for row in run["chunks"]]
    assert all(row["completions"] is None for row in seen[0]["chunks"])
    assert seen[0]["candidates"] == seen[0]["proposals"] == []


def test_a_part_leaves_alone_what_the_run_knows_though_it_does_not_have_it(pool, tmp_path):
    (puzzle,) = parse_puzzles(pool, [Text("def f(x: int):\n    return x >= 0")])
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        assert propose.admission(archive, pool, [puzzle])[puzzle.id].reason == "trivial"
        archive.set_mark(KNOWN, json.dumps([puzzle.id]))
        assert propose.admission(archive, pool, [puzzle]) == {}


def test_an_archive_of_an_older_version_is_upgraded_before_parts_take_of_it(tmp_path):
    older(tmp_path / "archive.sqlite", 2)
    before = (tmp_path / "archive.sqlite").read_bytes()
    with pytest.raises(InputError, match="the same command without --shard upgrades it"):
        closed_archive(tmp_path / "archive.sqlite").__enter__()
    assert (tmp_path / "archive.sqlite").read_bytes() == before


def test_a_run_that_only_plans_stops_before_it_trains(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool, Forgetful())
    for stage in STAGES:
        assert f"iteration 1, {stage}: " in plan_next(tmp_path, config, pool)
        merged(tmp_path, [one_part(tmp_path, Part(1, 1), config, pool)[1]])
    said = "iteration 1 is sampled and judged: the same command without --plan trains and scores"
    assert plan_next(tmp_path, config, pool) == said


def test_parts_find_the_same_puzzles_so_that_these_tests_mean_something(whole):
    with Archive(RunDir(whole).archive) as archive:
        again = archive.query(
            "SELECT count(DISTINCT chunk) FROM proposals WHERE outcome IN ('admitted', 'duplicate')"
            " AND puzzle IN (SELECT id FROM puzzles WHERE origin = 'model')"
            " GROUP BY puzzle HAVING count(DISTINCT chunk) > 1"
        )
        assert len(again) > 3
        stages = archive.counts("SELECT stage, count(*) FROM chunks WHERE iteration = 2 GROUP BY 1")
    assert stages.keys() == {"propose", "vary", "solve", "further", "search"}
    assert min(stages["propose"], stages["solve"]) > 2


def test_a_part_that_was_interrupted_goes_on(config, pool, tmp_path):
    class Broken(Forgetful):
        def load(self, checkpoint, config):
            model, calls = super().load(checkpoint, config), []
            sample = model.sample

            def twice(*arguments):
                calls.append(1)
                if len(calls) > 2:
                    raise KeyboardInterrupt
                return sample(*arguments)

            model.sample = twice
            return model

    go(tmp_path / "run", with_iterations(config, 0), pool)
    whole_part = Part(1, 1)
    with pytest.raises(KeyboardInterrupt):
        one_part(tmp_path, whole_part, config, pool, Broken())
    judged = "SELECT count(*) FROM chunks WHERE judged"
    with Archive(RunDir(tmp_path / "run-1-of-1").archive) as archive:
        before = archive.query(judged)[0][0]
    assert before == 2
    said, own = one_part(tmp_path, whole_part, config, pool)
    assert said == "iteration 1 is sampled and judged: the same command without --shard trains and scores"
    with Archive(own.archive) as archive:
        assert archive.query(f"{judged} AND iteration = 1 AND stage = 'propose'")[0][0] > before
        assert archive.unjudged(1, "solve") == []


def test_a_part_takes_the_runs_archive_when_there_is_something_new_in_it_and_keeps_its_own_else(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool)
    first, own = one_part(tmp_path, Part(1, 2), config, pool)
    assert one_part(tmp_path, Part(1, 2), config, pool) == (first, own)
    before = own.archive.read_bytes()
    take_again(tmp_path, own)
    assert own.archive.read_bytes() == before
    _, other = one_part(tmp_path, Part(2, 2), config, pool)
    merged(tmp_path, [own, other])
    take_again(tmp_path, own)
    with Archive(own.archive) as archive:
        assert archive.unjudged(1, "propose") == []
    assert not list(own.path.glob(".*"))


@pytest.mark.slow
def test_what_a_missing_part_has_not_done_is_left_to_do(whole, config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool, Forgetful())
    _, last = one_part(tmp_path, Part(3, 3), config, pool)
    merged(tmp_path, [last])
    said, _ = one_part(tmp_path, Part(2, 3), config, pool)
    assert said == "iteration 1, propose: this part is done; other parts have 1 chunks left"
    go(tmp_path / "run", with_iterations(config, 1), pool, Forgetful())
    with Archive(RunDir(tmp_path / "run").archive) as one, Archive(RunDir(whole).archive) as other:
        asked = "SELECT stage, number, seed, completions FROM chunks WHERE iteration = 1 AND stage = 'propose'"
        assert sorted(map(tuple, one.query(asked))) == sorted(map(tuple, other.query(asked)))


@pytest.mark.slow
def test_a_part_that_had_nothing_left_to_do_takes_part_in_the_next_iteration(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool)
    for _ in range(len(STAGES) + 1):
        said, own = one_part(tmp_path, Part(1, 1), config, pool)
        merged(tmp_path, [own])
    assert said == "iteration 1 is sampled and judged: the same command without --shard trains and scores"
    go(tmp_path / "run", with_iterations(config, 1), pool)
    assert one_part(tmp_path, Part(1, 2), config, pool)[0].startswith("iteration 2, propose: this part is done")
    assert one_part(tmp_path, Part(1, 1), config, pool)[0].startswith("iteration 2 is sampled and judged")


def test_a_part_of_a_run_that_was_begun_anew_is_done_anew_and_an_old_one_is_not_merged(
    config, pool, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("selfplay.commands.terminal.RUNS", Path())
    go(tmp_path / "run", with_iterations(config, 0), pool)
    owns = [one_part(tmp_path, Part(number, 2), config, pool)[1] for number in (1, 2)]
    shutil.rmtree(tmp_path / "run")
    other = dataclasses.replace(config, seed=9)
    go(tmp_path / "run", with_iterations(other, 0), pool)
    one_part(tmp_path, Part(1, 2), other, pool)
    assert main(["archive", "merge", "run", *(own.path.name for own in owns)]) == 2
    assert (
        f"{owns[1].path.name}/archive.sqlite: a part of another run, or of an earlier run of this name"
        in capsys.readouterr().err
    )
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert archive.query("SELECT seed FROM chunks") == []
    assert main(["archive", "merge", "run", owns[0].path.name]) == 0
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert {seed.partition("/")[0] for (seed,) in archive.query("SELECT seed FROM chunks")} == {"9"}


def test_nothing_is_merged_into_a_run_that_is_being_written(config, pool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    go(tmp_path / "run", with_iterations(config, 0), pool)
    _, own = one_part(tmp_path, Part(1, 1), config, pool)
    merge = ["archive", "merge", str(tmp_path / "run"), str(own.path)]
    with RunDir(tmp_path / "run").lock():
        assert main(merge) == 2
    assert "another process is writing this run" in capsys.readouterr().err
    assert main(merge) == 0


@pytest.mark.slow
def test_a_part_leaves_what_is_its_own_and_it_is_whole(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool)
    for stage in ("propose", "solve"):
        owns = [one_part(tmp_path, Part(number, 2), config, pool)[1] for number in (1, 2)]
        merged(tmp_path, owns)
        with Archive(RunDir(tmp_path / "run").archive) as archive:
            all_candidates = archive.query("SELECT count(*) FROM candidates")[0][0]
        found = 0
        for own in owns:
            with Archive(own.archive) as archive:
                archive.check()
                numbers = archive.query(
                    "SELECT DISTINCT number FROM chunks WHERE stage = ? AND judged ORDER BY 1", stage
                )
                assert [number for (number,) in numbers] == [*range(numbers[0][0], numbers[-1][0] + 1)]
                assert archive.query("SELECT count(*) FROM puzzles WHERE origin = 'human'")[0][0] <= 5 * (
                    stage == "solve"
                )
                found += archive.query("SELECT count(*) FROM candidates")[0][0]
        assert found == all_candidates


def test_an_archive_that_is_being_written_is_not_copied(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool)
    archive = RunDir(tmp_path / "run").archive
    with sqlite3.connect(archive) as writing:
        writing.execute("INSERT INTO marks VALUES ('a', 'b')")
        writing.commit()
        with pytest.raises(InputError, match="a process is writing it, or died while it wrote"):
            one_part(tmp_path, Part(1, 2), config, pool)
    writing.close()


def test_a_part_of_a_run_that_has_not_begun_is_refused(config, pool, tmp_path):
    with pytest.raises(InputError, match="begin it without --shard and with --set iterations=0"):
        one_part(tmp_path, Part(1, 2), config, pool)


def test_a_part_of_a_run_with_other_settings_is_refused(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool)
    with pytest.raises(InputError, match="this run has other settings: seed"):
        one_part(tmp_path, Part(1, 2), dataclasses.replace(config, seed=9), pool)


def test_a_run_that_has_the_name_of_a_part_is_left_alone(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool)
    go(tmp_path / "run-1-of-2", with_iterations(config, 0), pool)
    before = content(tmp_path / "run-1-of-2")
    told = "run-1-of-2: expected the folder of a part of .*, got a run: give another --name"
    with pytest.raises(InputError, match=told):
        one_part(tmp_path, Part(1, 2), config, pool)
    assert content(tmp_path / "run-1-of-2") == before


def test_what_a_killed_copy_has_left_is_not_taken_for_the_runs(config, pool, tmp_path):
    go(tmp_path / "run", with_iterations(config, 0), pool)
    archive, own = RunDir(tmp_path / "run").archive, RunDir(tmp_path / "run-1-of-2")
    own.path.mkdir()
    with Archive(shutil.copyfile(archive, tmp_path / "copy.sqlite")) as copy:
        copy.set_mark("of_the_killed_copy", "yes")
        shutil.copyfile(tmp_path / "copy.sqlite-wal", own.path / f".{archive.name}.part-wal")
    one_part(tmp_path, Part(1, 2), config, pool)
    with Archive(own.archive) as taken:
        assert taken.mark("of_the_killed_copy") is None


def test_a_run_that_has_all_its_iterations_has_no_parts_left(whole, config, pool, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    said, own = one_part(tmp_path, Part(1, 2), config, pool)
    assert said == f"{tmp_path / 'run'} has all of its 2 iterations"
    assert not own.path.exists()


SBATCH = """#!/bin/sh
for word; do case $array in yes) last=${word#*-}; array=;; esac; case $word in --array) array=yes;; esac; done
for number in $(seq 1 ${last:-1}); do SLURM_ARRAY_TASK_ID=$number sh -c "$word" >&2 || exit; done
echo 17
"""
"""Runs a job at once, an array's one after the other."""


@pytest.mark.slow
def test_the_readmes_slurm_script_does_what_one_run_does(tiny, tmp_path, monkeypatch):
    files = learned.make_files(tmp_path, learned.make_model(tiny(), tmp_path / "model"))
    (files / "my.toml").write_text((files / "tiny.toml").read_text().replace("iterations = 1", "iterations = 3", 1))
    text = ROOT.joinpath("selfplay/README.md").read_text("utf-8")
    (script,) = re.findall("```sh\n(#!/bin/sh\n# cluster.sh:.*?)```", text, re.DOTALL)
    script = script.replace("parts=64", "parts=2").replace("--nproc-per-node 8", "--nproc-per-node 1")
    tools = {"sbatch": SBATCH, "selfplay": f'#!/bin/sh\nexec {sys.executable} -m selfplay.commands.main "$@"\n'}
    tools["torchrun"] = f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    (tmp_path / "bin").mkdir()
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, timeout=600)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "my.toml", "--name", "plain"]) == 0
    assert interrupted.differences(Path("runs/my"), Path("runs/plain")) == []


# ---- what is no part of a run ----


@pytest.fixture(scope="module")
def two_runs(config, pool, tmp_path_factory):
    """The folder of two runs, of which one has a part; nothing in it is to be changed."""
    folder = tmp_path_factory.mktemp("two")
    small = dataclasses.replace(config, vary=VaryConfig(), solve=SolveConfig(candidates_per_puzzle=2))
    go(folder / "run", with_iterations(small, 0), pool, Forgetful())
    more = dataclasses.replace(small, propose=ProposeConfig(proposals=12))
    go(folder / "other", with_iterations(more, 1), pool)
    one_part(folder, Part(1, 1), small, pool)
    return folder


@pytest.fixture
def here(two_runs, tmp_path, monkeypatch):
    """A copy of it, which is the current folder."""
    shutil.copytree(two_runs, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def unmerged(capsys, *names, into="run"):
    """The one line with which a merge is refused. It has changed nothing."""
    paths = sorted(Path().rglob("archive.sqlite"))
    before = {path: archive_content(path) for path in paths}
    capsys.readouterr()
    assert main(["archive", "merge", into, *names]) == 2
    assert sorted(Path().rglob("archive.sqlite")) == paths
    assert {path: archive_content(path) for path in paths} == before
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def changed(name, *statements):
    with contextlib.closing(sqlite3.connect(f"{name}/archive.sqlite")) as connection, connection:
        for sql in statements:
            connection.execute(sql)


def test_another_run_is_not_merged_into_a_run_and_the_message_says_what_to_do(here, capsys):
    said = unmerged(capsys, "other")
    assert "expected a part (--shard) of the run" in said
    assert "merge both into a new file instead" in said
    assert main(["archive", "merge", "both.sqlite", "run", "other"]) == 0


def test_nothing_is_merged_if_one_of_several_does_not_belong(here, capsys):
    assert "other/archive.sqlite: expected a part" in unmerged(capsys, "run-1-of-1", "other")
    assert main(["archive", "merge", "run", "run-1-of-1"]) == 0


@pytest.mark.parametrize("name", ["run/archive.sqlite", "linked"])
def test_a_run_is_known_under_each_of_its_paths(here, capsys, name):
    (here / "linked").symlink_to("run")
    assert "expected a part (--shard) of the run" in unmerged(capsys, "other", into=name)


def test_a_plain_archive_and_a_copy_of_the_run_are_no_parts(here, capsys):
    Archive("plain.sqlite", create=True).close()
    shutil.copy("run/archive.sqlite", "copy.sqlite")
    for name in ("plain.sqlite", "copy.sqlite"):
        assert f"{name}: expected a part (--shard) of the run" in unmerged(capsys, name)


def test_a_run_without_a_record_takes_nothing(here, capsys):
    Path("run/records.jsonl").unlink()
    assert "run-1-of-1/archive.sqlite: a part of another run" in unmerged(capsys, "run-1-of-1")


def test_nothing_is_merged_into_a_part(here, capsys):
    assert "this is a part of a run: merge it into the run" in unmerged(capsys, "other", into="run-1-of-1")


CHUNK = "UPDATE chunks SET {} WHERE stage = 'propose' AND number = 1"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE marks SET value = json_set(value, '$.seed', 5) WHERE name = 'part_settings'", "its settings (seed)"),
        (CHUNK.format("seed = '5/1/1/1'"), "the seed of chunk 1 of iteration 1, propose"),
        (CHUNK.format("seed = '4/2/1/1'"), "the seed of chunk 1 of iteration 1, propose"),
        (CHUNK.format("checkpoint = 'ffffffffffffffff'"), "the checkpoint of chunk 1 of iteration 1, propose"),
        (CHUNK.format("iteration = 2"), "chunk 1 of iteration 2, propose, which this run does not have,"),
        (CHUNK.format("iteration = 0"), "chunk 1 of iteration 0, propose, which this run does not have,"),
    ],
)
def test_a_part_that_was_not_made_of_the_run_as_it_is_is_not_merged(here, capsys, change, what):
    changed("run-1-of-1", change)
    said = unmerged(capsys, "run-1-of-1")
    assert f"{what} would not fit: delete it, and do this part again" in said


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (CHUNK.format("plan = (SELECT plan FROM chunks WHERE stage = 'propose' AND number = 2)"), "the plan"),
        (CHUNK.format("settings = json_set(settings, '$.temperature', 9)"), "the settings"),
        (CHUNK.format("settings = json_set(settings, '$.chat_time', '1999')"), "the settings"),
        (CHUNK.format("checkpoint = 'ffffffffffffffff'"), "the checkpoint"),
    ],
)
def test_two_parts_that_planned_different_chunks_do_not_both_fit(here, capsys, change, what):
    shutil.copytree("run-1-of-1", "again")
    changed("again", change)
    assert f"{what} of chunk 1 of iteration 1, propose would not fit" in unmerged(capsys, "run-1-of-1", "again")


def test_parts_that_were_done_on_other_machines_fit(here):
    changed(
        "run-1-of-1",
        CHUNK.format("settings = json_set(settings, '$.batch_rows', 1, '$.threads', 9, '$.device', 'cuda')"),
        "DELETE FROM marks WHERE name = 'part_settings'",  # as parts of older versions
    )
    assert main(["archive", "merge", "run", "run-1-of-1"]) == 0


def test_a_late_part_adds_nothing_to_an_iteration_that_is_recorded(here, config, pool, capsys):
    small = dataclasses.replace(config, vary=VaryConfig(), solve=SolveConfig(candidates_per_puzzle=2))
    shutil.copytree("run-1-of-1", "late")
    go(here / "run", with_iterations(small, 1), pool, Forgetful())
    before = archive_content("run/archive.sqlite")
    assert main(["archive", "merge", "run", "late"]) == 0
    assert archive_content("run/archive.sqlite") == before
    changed("late", CHUNK.format("number = 77"))
    assert "chunk 77 of iteration 1, propose, which this run does not have," in unmerged(capsys, "late")


def test_a_new_file_is_made_if_all_can_be_merged_and_else_there_is_none(here, capsys):
    changed("other", "UPDATE solutions SET source = CAST(x'ff' AS TEXT) WHERE number = 2")
    assert main(["archive", "merge", "deep/new.sqlite", "run", "other"]) == 2
    assert "other/archive.sqlite: the archive is damaged" in capsys.readouterr().err
    assert not Path("deep").exists()
    assert main(["archive", "merge", "deep/new.sqlite", "run", "--trust"]) == 0
    assert archive_content("deep/new.sqlite")["solutions"] == archive_content("run/archive.sqlite")["solutions"]


# ---- the text ----


@pytest.mark.parametrize("length", [0, 1, 5, 8, 100])
@pytest.mark.parametrize("parts", [1, 2, 7, 8])
def test_shares_are_neighbours_in_order_and_of_like_length(parts, length):
    items = list(range(length))
    shares = [Part(number, parts).share(items) for number in range(1, parts + 1)]
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_names_in_order_are_parts_in_order():
    names = [Part(number, 12).name for number in range(1, 13)]
    assert names == sorted(names)
    assert names[1] == "02-of-12"


WRONG = ["0/2", "3/2", "2", "1/0", "/", "a/b", "1/2/3", "-1/2", "1.0/2", " 1/2", "1/100001", "", "٣/٤"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_part_is_refused(text):
    with pytest.raises(InputError, match="--shard: expected I/N, with I from 1 to N"):
        parse_part(text)


@pytest.mark.parametrize("command", [["run"], ["verify", "pairs.jsonl"]])
@pytest.mark.parametrize("part", ["3/2", "nothing", ""])
def test_a_command_refuses_it_with_one_line(command, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--shard", part]) == 2
    said = capsys.readouterr().err
    assert said.startswith("selfplay: --shard: expected I/N")
    assert said.count("\n") == 1


def test_a_part_is_not_forecast_nor_branched(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--shard", "1/2", "--forecast"]) == 2
    assert "leave out --forecast, --nodes, --gpus and --from" in capsys.readouterr().err


@pytest.fixture
def begun(tiny, tmp_path, monkeypatch):
    """A run of the command line without an iteration; what begins the command of a part."""
    learned.make_files(tmp_path, tiny())
    monkeypatch.chdir(tmp_path)
    assert main(["run", "tiny.toml", "--set", "iterations=0"]) == 0
    return ["run", "tiny.toml", "--shard", "1/1"]


def test_a_part_ends_when_the_budget_is_spent_and_says_so(begun, capsys):
    assert main([*begun, "--set", "budget.tokens=1"]) == 0
    assert re.search(r"budget\.tokens: \d+ of 1 are spent, in iteration 1: raise it, and", capsys.readouterr().out)


def test_a_part_is_judged_where_the_settings_say(begun, monkeypatch, capsys):
    monkeypatch.setattr(
        "selfplay.sampling.cluster.require", Mock(side_effect=InputError("the package is not installed"))
    )
    assert main([*begun, "--set", "executor=ray"]) == 2
    assert "the package is not installed" in capsys.readouterr().err
    assert not Path("runs/tiny-1-of-1").exists()


# ---- verify ----


@pytest.mark.slow
def test_the_parts_of_a_verification_are_all_of_it_with_their_ids(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"puzzle": f"def f(x: int):\n    return x == {n}", "solution": "def g():\n    return 3"} for n in range(7)]
    rows[2]["id"] = "two"
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def verdicts(*options):
        assert main(["verify", "pairs.jsonl", *options]) == 0
        lines = map(json.loads, capsys.readouterr().out.splitlines())
        return {line["id"]: line["verdict"] for line in lines}

    everything, parts = verdicts(), [verdicts("--shard", f"{number}/3") for number in (1, 2, 3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert parts[0] | parts[1] | parts[2] == everything
    assert everything["two"] == "wrong_answer"
