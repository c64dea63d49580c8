"""A puzzle's story is told from rows, and a missing row is said; what it tells of can be sampled and judged again."""

import contextlib
import dataclasses
import json
import re
import shutil
import sqlite3

import pytest
from scripted_run import TRAIN, Backend, Model
from story_run import config, finished  # noqa: F401  # fixtures

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.experiments.replay import replay, replay_text
from selfplay.inspecting.story import story, story_text
from selfplay.iteration.training_set import few_shots
from selfplay.run.rundir import RunDir
from selfplay.sampling.prompts import PromptFormat


@pytest.fixture
def rundir(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def every_id(rundir, condition="1"):
    with Archive(rundir.archive) as archive:
        return archive.puzzle_ids(condition)


def told(rundir, identifier, shots=None):
    with Archive(rundir.archive) as archive:
        return story(archive, identifier, shots)


def change(rundir, sql, *parameters):
    with contextlib.closing(sqlite3.connect(rundir.archive)) as connection, connection:
        assert connection.execute(sql, parameters).rowcount > 0


# ---- why ----


def broken(rundir, identifier, sql, *parameters):
    change(rundir, sql, *parameters)
    return told(rundir, identifier).breaks


def test_an_accepted_candidate_whose_solution_is_gone_is_said(rundir):
    puzzle, solution = one_found(rundir)
    breaks = broken(rundir, puzzle, "DELETE FROM solutions WHERE puzzle = ? AND id = ?", puzzle, solution)
    assert any("was accepted, but its solution is missing" in line for line in breaks)


def test_an_answer_that_is_not_its_candidates_is_said(rundir):
    puzzle, solution = one_found(rundir)
    breaks = broken(rundir, puzzle, "UPDATE solutions SET answer = '-1' WHERE puzzle = ? AND id = ?", puzzle, solution)
    assert breaks == [f"solution {solution} has another answer than its candidate"]


def test_parents_that_were_not_in_its_plan_are_said(rundir):
    (puzzle, *_) = every_id(rundir, "p.origin = 'model' AND p.parents != '[]'")
    breaks = broken(rundir, puzzle, "UPDATE puzzles SET parents = '[]' WHERE id = ?", puzzle)
    assert any("the parents differ from those in the plan of chunk" in line for line in breaks)


def test_what_came_from_a_model_without_its_chunk_is_said(rundir):
    (puzzle, *_) = every_id(rundir, "p.origin = 'model'")
    breaks = broken(rundir, puzzle, "UPDATE puzzles SET chunk = NULL WHERE id = ?", puzzle)
    assert any("but the chunk is not recorded" in line for line in breaks)


def test_a_damaged_chunk_is_an_input_error(rundir):
    (puzzle, *_) = every_id(rundir, "p.origin = 'model'")
    change(rundir, "UPDATE chunks SET completions = x'00'")
    with pytest.raises(InputError, match=r"archive\.sqlite, chunk 1, completions: expected compressed JSON, "):
        told(rundir, puzzle)


def one_found(rundir):
    """A puzzle and a solution that the model found."""
    with Archive(rundir.archive) as archive:
        return tuple(archive.query("SELECT puzzle, id FROM solutions WHERE origin = 'model' LIMIT 1")[0])


def test_the_story_of_every_puzzle_of_a_run_is_whole_and_can_be_shown(finished):
    for identifier in every_id(finished):
        one = told(finished, identifier)
        assert one.breaks == []
        assert identifier in story_text(one, str)
        assert json.loads(json.dumps(dataclasses.asdict(one)))["puzzle"]["id"] == identifier


def test_a_proposal_tells_its_prompt_its_text_and_the_weights_it_came_from(finished):
    """Prompt and text make the puzzle: the parser says the same of them."""
    (identifier, *_) = every_id(finished, "p.origin = 'model' AND p.iteration = 2")
    one = told(finished, identifier)
    assert one.came["stage"] == "propose"
    assert one.came["checkpoint"] == Model((finished.checkpoint(1) / "weights").read_text(), {}).checkpoint
    assert one.came["text"] == one.puzzle["original"]
    with Archive(finished.archive) as archive:
        shown = [archive.puzzle(parent).source for parent in one.puzzle["parents"][:2]]
    assert one.came["prompt"].startswith("".join(f"{source}\n\n\n" for source in shown))
    assert "def f(" in one.came["prompt"].removeprefix("".join(f"{source}\n\n\n" for source in shown))


def test_a_variant_tells_what_it_was_made_of(finished):
    (identifier, *_) = every_id(finished, "p.origin = 'variant'")
    one = told(finished, identifier)
    assert one.came["variation"]["puzzles"] == one.puzzle["parents"]
    parent = told(finished, one.puzzle["parents"][0])
    assert identifier in parent.parent_of


def test_a_hand_written_puzzle_tells_its_text_and_name(finished):
    (identifier, *_) = every_id(finished, "p.origin = 'import'")
    assert told(finished, identifier).came == {"original": TRAIN[0][1], "name": "thirds"}


def test_every_candidate_is_told_with_its_text_and_verdict(finished):
    with Archive(finished.archive) as archive:
        counts = archive.counts("SELECT puzzle, count(*) FROM candidates GROUP BY 1")
        trained = archive.counts("SELECT puzzle || solution, count(*) FROM trained GROUP BY 1")
    for identifier in every_id(finished):
        one = told(finished, identifier)
        assert len(one.candidates) == counts.get(identifier, 0)
        assert all(each["text"] and each["verdict"] and each["seed"] for each in one.candidates)
        for solution in one.solutions:
            assert len(solution["trained in iterations"]) == trained.get(identifier + solution["id"], 0)
            if solution["origin"] == "model":
                same = [each for each in one.candidates if each["candidate"] == solution["id"]]
                assert same[0]["text"] == solution["text"]
                assert {each["verdict"] for each in same} == {"accepted"}


def test_a_few_shot_prompt_is_told_with_the_runs_own_pairs(finished, config):
    with Archive(finished.archive) as archive:
        shots = few_shots(archive, config, PromptFormat("few-shot"))
    (identifier, *_) = every_id(finished, "p.name = 'thirds'")
    found = [each for each in told(finished, identifier, shots).solutions if each["origin"] == "model"]
    assert all(shots[1][1].source in each["prompt"] for each in found)


MISSING = {
    "the chunk of its proposal": (
        "DELETE FROM chunks WHERE id = (SELECT chunk FROM puzzles WHERE id = ?)",
        r"chunk \d+, of this puzzle, is missing",
    ),
    "the outcome of its proposal": (
        "DELETE FROM proposals WHERE puzzle = ?", r"the outcome of text \d+ of chunk \d+ is missing",
    ),
    "another outcome": (
        "UPDATE proposals SET outcome = 'trivial' WHERE puzzle = ?",
        r"text \d+ of chunk \d+ became trivial, not this puzzle",
    ),
    "a parent": (
        "DELETE FROM puzzles WHERE id = (SELECT json_extract(parents, '$[0]') FROM puzzles WHERE id = ?)",
        r"parent \w+ is missing",
    ),
    "a candidate": (
        "DELETE FROM candidates WHERE rowid ="
        " (SELECT min(rowid) FROM candidates WHERE puzzle = ? AND verdict != 'accepted')",
        r"chunk \d+ has 4 candidates, but 3 verdicts",
    ),
    "all its candidates": (
        "DELETE FROM candidates WHERE puzzle = ?", r"chunk \d+ has 4 candidates, but 0 verdicts",
    ),
    "another verdict": (
        "UPDATE candidates SET verdict = 'wrong_answer' WHERE puzzle = ? AND verdict = 'accepted'",
        r"solution \w+ was accepted, but its candidate's verdict is wrong_answer",
    ),
    "its protections": (
        "DELETE FROM protections WHERE id IN (SELECT protections FROM solutions WHERE puzzle = ?)",
        r"the protections of solution \w+ are missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("missing", MISSING)
def test_a_story_that_lacks_a_row_is_broken_and_says_so(rundir, missing):
    solved = "p.origin = 'model' AND p.parents != '[]' AND EXISTS (SELECT 1 FROM solutions s WHERE s.puzzle = p.id)"
    tried = " AND EXISTS (SELECT 1 FROM candidates c WHERE c.puzzle = p.id AND c.verdict != 'accepted')"
    (identifier, *_) = every_id(rundir, solved + tried)
    sql, expected = MISSING[missing]
    change(rundir, sql, identifier)
    one = told(rundir, identifier)
    assert [line for line in one.breaks if re.fullmatch(expected, line)], one.breaks
    assert "The story has gaps" in story_text(one, str)


def test_a_training_on_what_is_not_there_breaks_the_story(rundir):
    (identifier, *_) = every_id(rundir, "p.name = 'thirds'")
    change(rundir, "INSERT INTO trained VALUES (2, ?, 'gone')", identifier)
    assert told(rundir, identifier).breaks == ["iteration 2 was trained on gone, which is missing"]


def test_quarantine_has_its_reasons(rundir):
    (identifier, *_) = every_id(rundir, "p.origin = 'model'")
    guard = "(SELECT value FROM marks WHERE name = 'guard')"
    change(rundir, f"INSERT INTO contamination VALUES (?, 'behaviour', 'dev/a', 'alike', {guard}, 0)", identifier)
    assert told(rundir, identifier).quarantine == ["contaminated: behaviour: dev/a alike"]


# ---- replay ----


def replayed(rundir, config, identifier, pool, backend=None):
    with Archive(rundir.archive) as archive:
        return list(replay(archive, rundir, config, identifier, backend or Backend(), pool))


def test_what_every_puzzle_came_from_and_was_tried_in_comes_out_the_same(finished, config, pool):
    chunks = set()
    further = "p.id IN (SELECT k.puzzle FROM candidates k JOIN chunks c ON c.id = k.chunk WHERE c.stage = 'further')"
    for identifier in every_id(finished, "p.chunk IS NOT NULL")[::5] + every_id(finished, further)[:2]:
        for again in replayed(finished, config, identifier, pool):
            assert again.differences == []
            assert again.judged >= 1
            chunks.add(again.stage)
    assert chunks == {"propose", "vary", "solve", "further"}


def test_a_changed_text_and_a_changed_verdict_are_differences(rundir, config, pool):
    (identifier,) = every_id(rundir, "p.name = 'thirds'")
    change(rundir, "UPDATE candidates SET verdict = 'time_limit' WHERE puzzle = ? AND verdict = 'accepted'", identifier)
    found = [line for again in replayed(rundir, config, identifier, pool) for line in again.differences]
    assert found
    assert all(line.endswith("was time_limit, now accepted") for line in found)


def test_a_puzzle_that_came_from_no_chunk_has_nothing_to_replay(rundir, config, pool):
    (identifier,) = every_id(rundir, "p.name = 'thirds'")
    change(rundir, "DELETE FROM candidates WHERE puzzle = ?", identifier)
    with pytest.raises(InputError, match="came from no chunk and was never tried"):
        replayed(rundir, config, identifier, pool)


def test_without_its_checkpoint_or_with_another_a_chunk_is_not_sampled_again(rundir, config, pool):
    (identifier, *_) = every_id(rundir, "p.origin = 'model' AND p.iteration = 2")
    place = rundir.checkpoint(1)
    (place / "weights").write_text("other")
    told = (
        r"iteration-001: expected weights \w+, from which chunk \d+ was sampled, got \w+: the model has been replaced"
    )
    with pytest.raises(InputError, match=told):
        replayed(rundir, config, identifier, pool)
    shutil.rmtree(place)
    with pytest.raises(InputError, match=r"iteration-001: this checkpoint was not kept"):
        replayed(rundir, config, identifier, pool)


def test_other_versions_are_said(rundir, config, pool):
    (identifier, *_) = every_id(rundir, "p.origin = 'model'")

    class Later(Backend):
        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            model.description = {"versions": {"torch": "99"}}
            return model

    again = replayed(rundir, config, identifier, pool, Later())[0]
    assert again.other_conditions["versions"][1] == {"torch": "99"}
    assert "versions was " in replay_text(again)
