"""The stage of a run that makes new puzzles of the archive's own, each verified with its answer."""

import ast
import dataclasses
import json

import pytest
from scripted_run import HELDOUT, Backend, config_of, content, crashed_and_resumed, go, puzzle_files, same, watched

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from puzzles.verify import verify_texts
from selfplay.config import CollapseConfig, DataConfig, PromptConfig, ProposeConfig, SolveConfig, VaryConfig
from selfplay.iteration import beginning, collapse, vary
from selfplay.iteration.state import Run
from selfplay.iteration.training_set import few_shots
from selfplay.run.rundir import RunDir
from selfplay.sampling.prompts import PromptFormat

VARIATIONS = 60


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return puzzle_files(tmp_path_factory.mktemp("sets"))


def varying(files, **changes):
    ways = changes.pop("ways", VaryConfig().ways)
    defaults = {"chunk_texts": 20, "vary": VaryConfig(VARIATIONS, ways)}
    return config_of(files, **{**defaults, **changes})


@pytest.fixture(scope="module")
def whole(files, pool, tmp_path_factory):
    """Two iterations with variations."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return {"path": path, "records": go(path, varying(files), pool)}


@pytest.fixture
def rows(whole):
    with Archive(RunDir(whole["path"]).archive) as archive:
        yield archive.query


VARIANTS = "SELECT * FROM puzzles WHERE origin = 'variant'"
OUTCOMES = (
    "SELECT r.*, k.iteration FROM proposals r JOIN chunks k ON k.id = r.chunk WHERE k.stage = 'vary' ORDER BY k.id,"
    " r.position"
)


def test_every_variant_is_archived_with_a_solution_that_holds(rows, pool):
    pairs = rows(
        "SELECT p.source, s.source, s.answer, s.origin, s.iteration, p.iteration FROM puzzles p"
        " LEFT JOIN solutions s ON s.puzzle = p.id AND s.origin = 'variant' WHERE p.origin = 'variant'"
    )
    assert len(pairs) > 10
    assert all(tuple(pair)[3:] == ("variant", pair[5], pair[5]) for pair in pairs)
    judged = verify_texts(pool, [(puzzle, solution) for puzzle, solution, *_ in pairs])
    assert {str(judgement.verdict) for judgement in judged} == {"accepted"}
    assert [judgement.answer for judgement in judged] == [pair["answer"] for pair in pairs]


def test_every_variation_has_its_outcome_and_every_variant_its_origin(whole, rows):
    outcomes = rows(OUTCOMES)
    admitted = {row["puzzle"]: row for row in outcomes if row["outcome"] == "admitted"}
    variants = {row["id"]: row for row in rows(VARIANTS)}
    assert admitted.keys() == variants.keys()
    with Archive(RunDir(whole["path"]).archive) as archive:
        planned = 0
        for (number,) in archive.query("SELECT id FROM chunks WHERE stage = 'vary'"):
            chunk = archive.chunk(number)
            planned += len(chunk.plan["variations"])
            for row in variants.values():
                if row["chunk"] == number:
                    assert row["original"] == chunk.completions[row["position"]]
                    assert json.loads(row["parents"]) == chunk.plan["variations"][row["position"]]["puzzles"]
    assert planned == len(outcomes) <= 2 * VARIATIONS
    assert [record["varied"] for record in whole["records"][1:]] == [
        sum(row["outcome"] == "admitted" and row["iteration"] == iteration for row in outcomes) for iteration in (1, 2)
    ]


def test_wrong_answers_become_puzzles_that_they_are_right_for(whole, rows):
    made = 0
    with Archive(RunDir(whole["path"]).archive) as archive:
        for row in rows(VARIANTS):
            item = archive.chunk(row["chunk"]).plan["variations"][row["position"]]
            if item["how"] != "hindsight":
                continue
            (parent,) = item["puzzles"]
            wrong = "SELECT count(*) FROM candidates k JOIN chunks c ON c.id = k.chunk WHERE k.puzzle = ? AND" \
                " k.answer = ? AND k.verdict = 'wrong_answer' AND c.iteration = ?"  # fmt: skip
            assert rows(wrong, parent, item["answer"], row["iteration"] - 1)[0][0]
            ((answer,),) = rows("SELECT answer FROM solutions WHERE puzzle = ? AND origin = 'variant'", row["id"])
            assert ast.literal_eval(answer) == ast.literal_eval(item["answer"])
            made += 1
    assert made > 2


@pytest.mark.slow
def test_no_variant_is_made_of_what_was_rolled_back(files, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "best", lambda self: 1)
    monkeypatch.setattr(collapse, "alarms", lambda history, config: ["alike"] if history[-1]["iteration"] == 2 else [])
    config = varying(files, ways=("hindsight",), iterations=3, collapse=CollapseConfig(action="rollback"))
    go(tmp_path / "run", config, pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        gone = {*archive.puzzle_ids("p.iteration = 2")}
        plans = [plan for _, plan in archive.plans("stage = 'vary' AND iteration = 3")]
    parents = {parent for plan in plans for item in plan["variations"] for parent in item["puzzles"]}
    assert gone
    assert parents
    assert not gone & parents


def test_variants_are_tried_in_their_iteration_and_learned_from_with_what_the_model_found(rows):
    of_variants = "puzzle IN (SELECT id FROM puzzles WHERE origin = 'variant')"
    for iteration in (1, 2):
        ((variants,),) = rows(f"SELECT count(*) FROM ({VARIANTS} AND iteration = ?)", iteration)
        tried = (
            "SELECT count(DISTINCT puzzle) FROM candidates k JOIN chunks c ON c.id = k.chunk"
            f" WHERE c.iteration = ? AND {of_variants}"
        )
        assert rows(tried, iteration)[0][0] == variants > 0
    solved = f"SELECT DISTINCT puzzle, candidate FROM candidates WHERE verdict = 'accepted' AND {of_variants}"
    trained = f"SELECT puzzle, solution FROM trained WHERE iteration = 2 AND {of_variants}"
    assert {tuple(row) for row in rows(trained)} == {tuple(row) for row in rows(solved)} != set()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["hindsight", "ease", "join", "nest"])
def test_only_the_ways_asked_for_are_taken(files, pool, tmp_path, way):
    go(tmp_path / "run", varying(files, ways=(way,), iterations=2), pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        chunks = [archive.chunk(number) for (number,) in archive.query("SELECT id FROM chunks WHERE stage = 'vary'")]
    assert {item["how"] for chunk in chunks for item in chunk.plan["variations"]} == {way}


def test_what_is_not_verified_is_not_archived(files, pool, tmp_path, monkeypatch):
    made = vary.varied

    def spoilt(pool, variations):
        """Puzzles that the answer is wrong for, every second one."""
        return [text and (text if i % 2 else f"{text} and 1 > 2") for i, text in enumerate(made(pool, variations))]

    monkeypatch.setattr(vary, "varied", spoilt)
    go(tmp_path / "run", varying(files, iterations=1), pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        outcomes = {row["outcome"] for row in archive.query(OUTCOMES)}
        sources = [row["original"] for row in archive.query(VARIANTS)]
    assert "wrong_answer" in outcomes
    assert sources
    assert not any("1 > 2" in source for source in sources)


def test_a_variant_that_is_near_the_time_limit_on_its_answer_is_not_archived(files, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(vary, "too_slow_to_judge", lambda pool, judgement: True)
    go(tmp_path / "run", varying(files, iterations=1), pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert archive.query(VARIANTS) == []
        assert "too_slow" in {row["outcome"] for row in archive.query(OUTCOMES)}


def test_a_variation_that_is_a_guarded_puzzle_is_refused_and_said(files, pool, tmp_path, monkeypatch):
    leaks = [HELDOUT[0][1], HELDOUT[0][1].replace("1716", "2730"), f"{HELDOUT[1][1]} and t[0] > -1"]
    monkeypatch.setattr(vary, "varied", lambda pool, variations: [leaks[i % 3] for i, _ in enumerate(variations)])
    _, *records = go(tmp_path / "run", varying(files), pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        found = [(row["outcome"], row["detail"].partition(" ")[0]) for row in archive.query(OUTCOMES)]
        assert archive.query(VARIANTS) == []
    assert {*found} >= {("held_out", "exact:"), ("held_out", "normal_form:")}
    assert {outcome for outcome, _ in found} <= {"held_out", "wrong_answer", "wrong_type", "runtime_error"}
    assert [record["varied"] for record in records] == [0, 0]
    exact = [record["held_out_levels"]["exact"] for record in records]
    assert sum(exact) == found.count(("held_out", "exact:")) > 10


@pytest.mark.slow
def test_a_kill_between_and_inside_chunks_of_variations_leaves_the_same_archive(files, pool, tmp_path):
    config, judge = varying(files), vary.judge
    with watched() as seen, pytest.MonkeyPatch.context() as patch:
        borders: list[int] = []

        def noted(*arguments):
            borders.append(len(seen.events))
            judge(*arguments)
            borders.append(len(seen.events))

        patch.setattr(vary, "judge", noted)
        go(tmp_path / "whole", config, pool)
    assert len(borders) >= 8
    for place in (borders[0], borders[0] + 4, borders[1], borders[5] - 1):
        crashed_and_resumed(tmp_path / str(place), config, pool, place)
        assert same(content(tmp_path / str(place)), content(tmp_path / "whole"))


def test_with_nothing_to_vary_the_stage_makes_nothing(files, pool, tmp_path):
    config = varying(files, iterations=1, propose=ProposeConfig(proposals=0), ways=("hindsight",))
    config = dataclasses.replace(config, solve=SolveConfig(candidates_per_puzzle=2, training_puzzles="none"))
    assert go(tmp_path / "run", config, pool)[1]["varied"] == 0


# ---- pairs by rule ----


@pytest.fixture(scope="module")
def ruled(files, pool, tmp_path_factory):
    """An iteration on 40 pairs by rule beside the hand-written puzzles."""
    path = tmp_path_factory.mktemp("ruled") / "run"
    backend = Backend()
    go(path, config_of(files, iterations=1, data=DataConfig(**files, rules=40)), pool, backend)
    with Archive(RunDir(path).archive) as archive:
        yield archive


def test_pairs_by_rule_are_archived_as_such_and_learned_from(ruled):
    by_rule = ruled.query("SELECT * FROM puzzles WHERE origin = 'rule'")
    assert 30 < len(by_rule) <= 40
    solved = "SELECT count(DISTINCT puzzle) FROM solutions WHERE origin = 'rule' AND iteration = 0"
    assert ruled.query(solved)[0][0] == len(by_rule)
    trained = "SELECT count(*) FROM trained WHERE puzzle IN (SELECT id FROM puzzles WHERE origin = 'rule')"
    assert ruled.query(trained)[0][0] > 30


def test_a_run_may_begin_with_rules_alone(files, pool, tmp_path):
    data = DataConfig(**{**files, "train": "none"}, rules=40)
    records = go(tmp_path / "run", config_of(files, iterations=1, data=data), pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert {origin for (origin,) in archive.query("SELECT DISTINCT origin FROM puzzles")} == {"rule", "model"}
    assert records[1]["trained_pairs"] > 20


def test_with_neither_puzzles_nor_rules_there_is_nothing_to_begin_with(files, pool, tmp_path):
    config = config_of(files, data=DataConfig(**{**files, "train": "none"}))
    with pytest.raises(InputError, match=r"data\.train: 'none' leaves nothing to begin with: set data\.rules above 0"):
        go(tmp_path / "run", config, pool)


def test_no_pair_by_rule_stands_before_a_puzzle_where_there_are_others(ruled, files):
    shots = few_shots(ruled, config_of(files, prompt=PromptConfig("few-shot", shots=9)), PromptFormat("few-shot"))
    origins = {row["id"]: row["origin"] for row in ruled.query("SELECT id, origin FROM puzzles")}
    assert [origins[puzzle.id] for puzzle, _ in shots] == ["import"] * 4


def test_where_there_are_none_pairs_by_rule_stand_there(files, pool, tmp_path):
    config = config_of(files, iterations=0, data=DataConfig(**{**files, "train": "none"}, rules=40))
    go(tmp_path / "run", config, pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert len(few_shots(archive, config, PromptFormat("few-shot"))) == 2


def test_a_branch_may_add_pairs_by_rule(ruled, files, pool, tmp_path):
    parent, branch = RunDir(tmp_path / "parent"), RunDir(tmp_path / "branch")
    go(parent.path, config_of(files, iterations=1), pool)
    beginning.branch(parent, None, branch)
    go(branch.path, config_of(files, iterations=2, data=DataConfig(**files, rules=40)), pool)
    with Archive(branch.archive) as archive:
        by_rule = archive.puzzle_ids("p.origin = 'rule'")
    assert by_rule == ruled.puzzle_ids("p.origin = 'rule'")


def test_pairs_by_rule_are_not_tried(ruled):
    tried = {
        origin
        for (origin,) in ruled.query("SELECT DISTINCT p.origin FROM candidates k JOIN puzzles p ON p.id = k.puzzle")
    }
    assert tried == {"import", "model"}


def test_another_seed_draws_other_pairs_by_rule_and_the_same_seed_the_same(ruled, files, pool, tmp_path):
    drawn = {}
    for seed in (4, 5):
        config = config_of(files, seed=seed, iterations=0, data=DataConfig(**files, rules=40))
        go(tmp_path / str(seed), config, pool)
        with Archive(RunDir(tmp_path / str(seed)).archive) as archive:
            drawn[seed] = {row["id"] for row in archive.query("SELECT id FROM puzzles WHERE origin = 'rule'")}
    assert drawn[4] == {row["id"] for row in ruled.query("SELECT id FROM puzzles WHERE origin = 'rule'")}
    assert drawn[4] != drawn[5]
