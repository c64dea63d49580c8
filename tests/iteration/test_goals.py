"""Niches that proposals are asked for, and the puzzles that are drawn for them."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from scripted_run import config_of, content, go, plans, puzzle_files, same

from puzzles.archive.store import PLANS, Archive
from puzzles.features import Niche, described
from puzzles.foreign import expect
from puzzles.puzzle import InputError
from selfplay.config import PromptConfig, ProposeConfig
from selfplay.iteration.goals import NEAREST, Goals, between, landed, neighbours
from selfplay.run.rundir import RunDir


def niche(skills="", shape="int", form="operators"):
    return Niche(frozenset(skills.split()), shape, form)


FAR = niche("bits", "map", "loop")
PLAIN, BITS, TEXT = niche(), niche("bits"), niche("strings", "str")
CELLS = {PLAIN: ["p1", "p2", "p3", "p4"], BITS: ["b1"], TEXT: ["t1", "t2"], FAR: ["f1"]}
BY_PUZZLE = {each: cell for cell, members in CELLS.items() for each in members}


def goals_of(worth=None):
    return Goals(BY_PUZZLE, {each: (worth or {}).get(each, -0.5) for each in BY_PUZZLE})


def rng(seed=0):
    return np.random.default_rng(seed)


def test_neighbours_are_the_niches_one_step_away():
    found = list(neighbours(BITS))
    assert len(set(found)) == len(found)
    assert {BITS.distance(each) for each in found} == {1}
    assert PLAIN in found
    assert all(each.form != "unreadable" for each in found)


def test_empty_niches_between_filled_ones_are_those_that_two_touch():
    apart = [niche(), niche("bits strings")]
    assert between(apart) == sorted([niche("bits"), niche("strings")], key=str)
    assert between([niche(), niche("bits strings geometry")]) == []
    for each in between(CELLS):
        assert each not in CELLS
        assert sum(each.distance(filled) == 1 for filled in CELLS) >= 2


def test_goals_are_filled_niches_evenly_and_as_often_the_empty_ones_between():
    goals, draws = goals_of(), rng()
    drawn = Counter(goals.goal(draws) for _ in range(8000))
    assert set(drawn) == {*CELLS, *goals.between}
    assert sum(drawn[each] for each in CELLS) == pytest.approx(4000, abs=200)
    for kind in (CELLS, goals.between):
        assert all(drawn[each] == pytest.approx(4000 / len(kind), rel=0.2) for each in kind)


def test_a_single_niche_is_its_own_goal():
    goals = Goals({"a": PLAIN}, {"a": 0.0})
    assert goals.goal(rng()) == PLAIN
    assert goals.parents(niche("geometry", "tuple"), 5, rng()) == ["a"]


def test_parents_come_from_the_nearest_niches_as_often_from_each():
    goals, draws = goals_of(), rng()
    drawn = Counter(BY_PUZZLE[goals.parents(BITS, 1, draws)[0]] for _ in range(3000))
    nearest = sorted(CELLS, key=BITS.distance)[:NEAREST]
    assert set(drawn) == set(nearest)
    assert all(drawn[each] == pytest.approx(1000, abs=120) for each in nearest)


def test_an_empty_goal_draws_from_its_filled_neighbours():
    goal = next(each for each in between(CELLS) if sum(each.distance(cell) == 1 for cell in CELLS) == 2)
    next_to_it = {cell for cell in CELLS if goal.distance(cell) == 1}
    found = goals_of()
    drawn = Counter(BY_PUZZLE[found.parents(goal, 1, rng(seed))[0]] for seed in range(300))
    assert all(drawn[cell] > 60 for cell in next_to_it)


def test_parents_are_different_and_as_many_as_there_are():
    for seed in range(50):
        drawn = goals_of().parents(TEXT, 5, rng(seed))
        assert len(set(drawn)) == 5
        assert sorted(goals_of().parents(PLAIN, 99, rng(seed))) == sorted(BY_PUZZLE)
    assert goals_of().parents(PLAIN, 0, rng()) == []


def test_within_a_niche_the_best_is_drawn_by_a_softmax():
    goals, draws = goals_of({"t1": -0.9, "t2": -0.1}), rng()
    drawn = Counter(each for _ in range(6000) for each in goals.parents(TEXT, 1, draws) if each[0] == "t")
    assert drawn["t2"] / drawn.total() == pytest.approx(1 / (1 + np.exp(-5)), abs=0.01)


def test_equally_good_puzzles_are_drawn_alike():
    goals, draws = goals_of(), rng()
    drawn = Counter(each for _ in range(6000) for each in goals.parents(PLAIN, 1, draws) if each[0] == "p")
    assert all(count == pytest.approx(drawn.total() / 4, rel=0.15) for count in drawn.values())


def test_the_same_seed_draws_the_same():
    assert [goals_of().parents(goals_of().goal(rng(seed)), 3, rng(seed)) for seed in range(20)] == [
        goals_of().parents(goals_of().goal(rng(seed)), 3, rng(seed)) for seed in range(20)
    ]


# ---- a run ----


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return puzzle_files(tmp_path_factory.mktemp("sets"))


def searching(files, strategy="niches", **changes):
    propose = ProposeConfig(proposals=24, proposals_per_prompt=8, begun=0.5, strategy=strategy)
    return config_of(files, **{"propose": propose, **changes})


@pytest.fixture(scope="module")
def whole(files, pool, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    go(path, searching(files), pool)
    return path


def test_a_plan_keeps_each_prompts_goal_and_parents_near_it(whole, pool):
    with Archive(RunDir(whole).archive) as archive:
        for iteration in (1, 2):
            solved = archive.solved_ids(before_iteration=iteration)
            filled = Goals.of(archive, pool, solved)
            for plan in plans(whole, iteration):
                expect(plan, PLANS["propose"], "plan")
                for shots, begin, goal in zip(plan["shots"], plan["begins"], plan["goals"], strict=True):
                    asked = Niche.read(goal)
                    assert asked in filled.filled or asked in filled.between
                    assert len(set(shots)) == len(shots) == 2
                    assert {*shots, *(begin or [shots[0]])[:1]} <= set(solved)


def test_the_same_run_again_plans_the_same(whole, files, pool, tmp_path):
    go(tmp_path / "again", searching(files), pool)
    assert same(content(tmp_path / "again"), content(whole))


@pytest.mark.parametrize(("protocol", "wanted"), [("plain", "propose.begun"), ("chat", "prompt.shots")])
def test_niches_that_no_prompt_could_be_made_for_are_refused_before_anything_is_written(
    files, pool, tmp_path, protocol, wanted
):
    propose, prompt = ProposeConfig(proposals=24, strategy="niches"), PromptConfig(protocol, shots=0)
    with pytest.raises(InputError, match=rf"propose.strategy: 'niches' .* {protocol} prompt .*: set {wanted} above 0"):
        go(tmp_path / "run", config_of(files, propose=propose, prompt=prompt), pool)
    assert not RunDir(tmp_path / "run").config.exists()


def test_uniform_plans_have_no_goals(files, pool, tmp_path):
    go(tmp_path / "run", searching(files, "uniform", iterations=1), pool)
    assert all("goals" not in plan for plan in plans(tmp_path / "run", 1))
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert landed(archive, pool, 1) == {}


def test_without_a_solved_puzzle_there_is_no_goal(files, pool, tmp_path):
    solved = config_of(files, iterations=1).data
    config = searching(files, iterations=1, data=dataclasses.replace(solved, train=files["dev"], dev=files["train"]))
    go(tmp_path / "run", config, pool)
    assert all("goals" not in plan for plan in plans(tmp_path / "run", 1))


def test_what_landed_is_counted_against_the_goals_of_the_prompts(whole, pool):
    with Archive(RunDir(whole).archive) as archive:
        found = landed(archive, pool, 1)
        rows = archive.query("SELECT * FROM puzzles WHERE origin = 'model' AND iteration = 1 ORDER BY number")
        niches = [each.niche for each in described(pool, [archive.puzzle(row["id"]) for row in rows])]
        distances = []
        for row, own in zip(rows, niches, strict=True):
            plan = archive.chunk(row["chunk"]).plan
            distances.append(own.distance(Niche.read(plan["goals"][row["position"] // plan["copies"]])))
    assert found["proposals"] == len(rows) > 0
    assert found["in_goal"] == distances.count(0) / len(rows)
    assert found["distance"] == sum(distances) / len(rows)
