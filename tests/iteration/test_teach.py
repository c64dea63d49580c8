"""What an iteration trains on, by its objective, in whole runs with a model that a script plays."""

import gc
import shutil
import weakref
from dataclasses import replace

import pytest
from scripted_run import Backend, config_of, go, puzzle_files

from puzzles.archive.catalogue import Filter, page_of
from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.config import DataConfig, EvaluateConfig, FinetuneConfig
from selfplay.inspecting.story import story
from selfplay.iteration import beginning, collapse, teach
from selfplay.iteration.alarms import Collapsed
from selfplay.iteration.collapse import told
from selfplay.iteration.state import Run
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.training.select import Contrast, Example, Graded

KINDS = {"sft": Example, "filtered": Example, "spin": Contrast, "dpo": Contrast, "grpo": Graded}
ALARM = "Vendi score 3 fell below 0.5 of iteration 1's 9"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return puzzle_files(tmp_path_factory.mktemp("sets"))


def trained(files, pool, folder, **changes):
    """What each iteration's training was given, and the archive's ids of what it learned."""
    backend = Backend()
    config = config_of(files, evaluate=EvaluateConfig(samples_per_puzzle=1, k=(1,)), **changes)
    go(folder, config, pool, backend)
    with Archive(folder / "archive.sqlite") as archive:
        rows = archive.query("SELECT iteration, puzzle, solution FROM trained")
    return [training["examples"] for training in backend.trainings], {tuple(row) for row in rows}


@pytest.mark.parametrize("objective", KINDS)
def test_each_objective_is_given_its_lessons_and_what_is_learned_of_the_archive_is_kept(
    files, pool, tmp_path, objective
):
    own = FinetuneConfig(objective=objective, start="previous")
    lessons, kept = trained(files, pool, tmp_path / "run", finetune=own)
    assert [{type(lesson) for lesson in each} for each in lessons] == [{KINDS[objective]}] * 2
    if objective != "sft":
        learned = {(number, *each.pair) for number, of in enumerate(lessons, 1) for each in of if each.pair}
        assert kept == learned
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        pairs = {tuple(row) for row in archive.query("SELECT puzzle, id FROM solutions")}
        puzzles = {*archive.puzzle_ids()}
    assert kept
    assert all((puzzle, solution) in pairs or (not solution and puzzle in puzzles) for _, puzzle, solution in kept)


@pytest.mark.slow
def test_without_an_objective_nothing_is_trained_and_nothing_scored_again(files, pool, tmp_path):
    backend = Backend()
    records = go(tmp_path / "run", config_of(files, finetune=FinetuneConfig(objective="none")), pool, backend)
    assert backend.trainings == []
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert {record["checkpoint"] for record in records} == {records[0]["checkpoint"]}
    assert [record["dev"] for record in records] == [records[0]["dev"]] * 3
    scores = RunDir(tmp_path / "run")
    assert scores.samples(2, "dev").read_text() == scores.samples(0, "dev").read_text()
    assert records[2]["cost"]["score"]["texts"] == 0
    assert records[2]["new_pairs"] > 0
    branch = RunDir(tmp_path / "branch")
    beginning.branch(RunDir(tmp_path / "run"), 2, branch)
    go(branch.path, config_of(files, iterations=3, finetune=FinetuneConfig(objective="none")), pool)


def found(lessons):
    return {(each.prompt.text, each.completion) for each in lessons}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "filtered"])
def test_replacing_trains_on_what_the_last_iteration_found_alone(files, pool, tmp_path, objective):
    data, runs = DataConfig(**files, references=False), {}
    for kept in ("accumulate", "replace"):
        own = FinetuneConfig(objective=objective, data=kept, roles=("solve",))
        runs[kept], _ = trained(files, pool, tmp_path / kept, data=data, finetune=own)
    assert found(runs["accumulate"][0]) == found(runs["replace"][0])
    assert found(runs["replace"][1]) < found(runs["accumulate"][1])
    assert found(runs["accumulate"][0]) - found(runs["replace"][1])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["spin", "dpo"])
def test_contrasts_are_of_two_iterations_as_spins_published_runs(files, pool, tmp_path, objective):
    own = FinetuneConfig(objective=objective, start="previous")
    whole, _ = trained(files, pool, tmp_path / "run", iterations=3, finetune=own)
    last, _ = trained(files, pool, tmp_path / "last", iterations=3, finetune=replace(own, data="replace"))
    assert len(last[0]) == len(whole[0])
    assert len(whole[1]) > len(last[1])
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        config = config_of(files, finetune=own)
        assert teach.iterations_learned(archive, config, 3)[-teach.UNION :] == [2, 3]


# ---- collapse ----


@pytest.fixture
def collapsing(monkeypatch):
    """The second iteration's puzzles have collapsed."""
    monkeypatch.setattr(collapse, "alarms", lambda history, config: [ALARM] if history[-1]["iteration"] == 2 else [])


def collapse_config(action, **limits):
    return replace(config_of({}).collapse, action=action, **limits)


def test_a_collapse_is_told_and_by_default_changes_nothing(files, pool, tmp_path, collapsing):
    said = []
    progress = Progress(say=said.append)
    records = go(tmp_path / "run", config_of(files, iterations=3), pool, progress=progress)
    assert [record["collapse"]["alarms"] for record in records] == [[], [], [ALARM], []]
    assert said == [f"iteration 2: {ALARM}"]
    assert records[1]["collapse"]["puzzles"] > 0


def test_a_collapse_stops_a_run_before_it_is_learned_and_another_answer_goes_on(files, pool, tmp_path, collapsing):
    backend = Backend()
    with pytest.raises(Collapsed, match=r"iteration 2: Vendi score 3 fell .*; set collapse.action to go on"):
        go(tmp_path / "run", config_of(files, collapse=collapse_config("stop")), pool, backend)
    assert len(backend.trainings) == 1
    assert len(RunDir(tmp_path / "run").read_records()) == 2
    assert len(go(tmp_path / "run", config_of(files), pool, backend)) == 3


@pytest.mark.slow
def test_a_rollback_trains_on_what_the_best_iteration_had_and_the_rest_stays_aside(
    files, pool, tmp_path, monkeypatch, collapsing
):
    monkeypatch.setattr(Run, "best", lambda self: 1)
    backend = Backend()
    config = config_of(
        files, iterations=4, collapse=collapse_config("rollback"), finetune=FinetuneConfig(start="previous")
    )
    records = go(tmp_path / "run", config, pool, backend)
    assert [record["collapse"].get("rolled_back_to") for record in records] == [None, None, 1, None, None]
    assert told(records[2]["collapse"]) == [ALARM, "rolled back to iteration 1"]
    starts = [training["start"].rpartition("/")[2] for training in backend.trainings]
    assert starts == ["base", "iteration-001", "iteration-002", "iteration-003"]
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        assert archive.set_aside() == {2: 2}
        gone = {*archive.puzzle_ids("p.origin = 'model' AND p.iteration = 2")}
        learned = {row[0] for row in archive.query("SELECT puzzle FROM trained WHERE iteration >= 2")}
        shown = {
            identifier
            for _, plan in archive.plans("stage = 'propose' AND iteration > 2")
            for shots in plan["shots"]
            for identifier in shots
        }
    assert gone
    assert shown
    assert not gone & (learned | shown)


def test_a_branch_without_training_goes_on_with_the_model_it_was_branched_from(files, pool, tmp_path):
    go(tmp_path / "run", config_of(files), pool)
    branch = RunDir(tmp_path / "branch")
    beginning.branch(RunDir(tmp_path / "run"), 2, branch)
    records = go(branch.path, config_of(files, iterations=3, finetune=FinetuneConfig(objective="none")), pool)
    assert records[3]["checkpoint"] == records[2]["checkpoint"] != records[0]["checkpoint"]
    assert records[3]["dev"] == records[2]["dev"]
    assert [record["reigns"] for record in records] == [0, 1, 2, 2]
    with Archive(branch.archive) as archive:
        sampled = archive.query("SELECT DISTINCT checkpoint FROM chunks WHERE iteration = 3")
    assert [row[0] for row in sampled] == [records[2]["checkpoint"]]


def test_a_branch_without_training_scores_held_out_though_its_parent_did_not(files, pool, tmp_path):
    go(tmp_path / "run", config_of(files, iterations=2, heldout_every=2), pool)
    branch = RunDir(tmp_path / "branch")
    beginning.branch(RunDir(tmp_path / "run"), 1, branch)
    untrained = config_of(files, iterations=2, heldout_every=2, finetune=FinetuneConfig(objective="none"))
    records = go(branch.path, untrained, pool)
    assert "heldout" not in records[1]
    assert records[2]["heldout"]["puzzles"] == 3


@pytest.mark.slow
def test_a_branch_that_is_rolled_back_begins_with_the_best_weights_that_it_has(
    files, pool, tmp_path, monkeypatch, collapsing
):
    config = config_of(files, iterations=1, finetune=FinetuneConfig(start="previous"))
    go(tmp_path / "run", config, pool)
    branch = RunDir(tmp_path / "branch")
    beginning.branch(RunDir(tmp_path / "run"), 1, branch)
    shutil.rmtree(branch.checkpoint(1))  # as if another one were the best
    shutil.copytree(RunDir(tmp_path / "run").checkpoint(1), branch.checkpoint(1))
    rolled = replace(config, iterations=3, collapse=collapse_config("rollback"))
    assert len(go(branch.path, rolled, pool)) == 4


def test_a_rollback_that_leaves_nothing_to_learn_goes_on_with_the_best_weights(files, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "alarms", lambda history, config: [ALARM] if history[-1]["iteration"] == 1 else [])
    backend = Backend()
    config = config_of(files, collapse=collapse_config("rollback"), finetune=FinetuneConfig(objective="dpo"))
    records = go(tmp_path / "run", config, pool, backend)
    assert [record["collapse"].get("rolled_back_to") for record in records] == [None, 0, None]
    assert [(training["start"], bool(training["examples"])) for training in backend.trainings] == [
        ("base", False), ("base", True),
    ]  # fmt: skip
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        assert archive.set_aside() == {1: 1}


@pytest.mark.slow
def test_only_one_model_is_in_memory_while_it_is_trained(files, pool, tmp_path):
    alive = []

    class Watching(Backend):
        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            alive.append(weakref.ref(model))
            return model

        def finetune(self, *arguments):
            gc.collect()
            assert [one for one in alive if one() is not None] == []
            return super().finetune(*arguments)

    own = FinetuneConfig(objective="grpo", start="previous")
    go(tmp_path / "run", config_of(files, finetune=own), pool, Watching())
    assert len(alive) >= 3


def test_a_puzzle_that_was_rolled_back_says_so_wherever_it_stands(files, pool, tmp_path, collapsing):
    go(tmp_path / "run", config_of(files, collapse=collapse_config("rollback")), pool)
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        gone = archive.puzzle_ids("p.origin = 'model'")[0]
        rows = {row["puzzle"]: row["quarantine"] for row in page_of(archive, Filter(state="quarantined"), "newest", 99)}
        assert rows[gone] == "rolled back"
        assert story(archive, gone).quarantine == ["rolled back: iteration 2 set aside iteration 1"]


def test_the_story_of_a_puzzle_whose_text_alone_was_learned_has_nothing_missing(files, pool, tmp_path):
    own = FinetuneConfig(objective="grpo", start="previous")
    go(tmp_path / "run", config_of(files, finetune=own), pool)
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        ((puzzle,), *_) = archive.query("SELECT puzzle FROM trained WHERE solution = ''")
        assert story(archive, puzzle).breaks == []


@pytest.mark.slow
def test_a_branch_from_before_a_rollback_knows_nothing_of_it(files, pool, tmp_path, collapsing):
    config = config_of(files, iterations=2, collapse=collapse_config("rollback"))
    go(tmp_path / "run", config, pool)
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        assert archive.set_aside() == {1: 2, 2: 2}  # the base is as good as any
    for last, expected in ((1, {}), (2, {1: 2, 2: 2})):
        branch = RunDir(tmp_path / f"branch-{last}")
        beginning.branch(RunDir(tmp_path / "run"), last, branch)
        with Archive(branch.archive) as archive:
            assert archive.set_aside() == expected


@pytest.mark.slow
def test_rebalancing_evens_the_pairs_of_the_iteration_that_collapsed(files, pool, tmp_path, monkeypatch, collapsing):
    evened = []
    monkeypatch.setattr(teach, "balanced", lambda pairs, cell_of, rng: evened.append(len(pairs)) or pairs)
    go(tmp_path / "run", config_of(files, iterations=3, collapse=collapse_config("rebalance")), pool)
    assert len(evened) == 1
    go(tmp_path / "even", config_of(files, finetune=FinetuneConfig(balance="niches")), pool)
    assert len(evened) == 3


def test_with_nothing_to_learn_the_run_says_so(files, pool, tmp_path):
    config = config_of(files, finetune=FinetuneConfig(objective="dpo"), solve=replace(
        config_of(files).solve, candidates_per_puzzle=1))  # fmt: skip
    told = r"iteration 1: there is nothing to train on: no puzzle has both .*_per_puzzle$"
    with pytest.raises(InputError, match=told):
        go(tmp_path / "run", config, pool)
