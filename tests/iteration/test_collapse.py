"""Measures of how far an iteration's puzzles differ, and the alarms over them."""

import dataclasses
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from described import EXAMPLES
from scripted_run import config_of, go, puzzle_files

from puzzles.archive.store import Archive, Provenance
from puzzles.guard import NEAR_DUPLICATE
from puzzles.parse import Text, parse_puzzles
from selfplay.config import CollapseConfig
from selfplay.iteration import collapse
from selfplay.iteration.collapse import (
    alarms,
    auc_interval,
    entropy,
    jaccard_kernel,
    measure,
    ngrams,
    vendi_score,
    wasserstein,
)
from selfplay.run.rundir import RunDir

# ---- definitions ----


def test_the_entropy_of_known_counts():
    assert entropy(Counter("aabb")) == 1
    assert entropy(Counter("aaaa")) == 0
    assert entropy(dict.fromkeys(range(8), 1)) == 3
    assert entropy({"a": 1, "b": 3}) == pytest.approx(2 - 0.75 * math.log2(3))
    assert entropy({}) is None


def test_ngrams_stay_inside_their_text():
    assert ngrams(["abc", "bc"], 2) == Counter({("a", "b"): 1, ("b", "c"): 2})


def test_the_vendi_score_of_equal_items_is_1_and_of_orthogonal_ones_their_number():
    assert vendi_score(np.ones((7, 7))) == pytest.approx(1)
    assert vendi_score(np.eye(7)) == pytest.approx(7)
    assert vendi_score(np.kron(np.eye(3), np.ones((4, 4)))) == pytest.approx(3)
    assert vendi_score(np.ones((1, 1))) == pytest.approx(1)


def test_the_kernel_is_the_jaccard_similarity():
    sets = [frozenset(each) for each in ([1, 2, 3], [2, 3, 4, 5], [], [9], [1, 2, 3])]
    kernel = jaccard_kernel(sets)
    for i, j in itertools.product(range(5), repeat=2):
        either = sets[i] | sets[j]
        assert kernel[i, j] == (len(sets[i] & sets[j]) / len(either) if either else 1)
    assert np.linalg.eigvalsh(kernel).min() > -1e-12


def test_short_puzzles_are_no_near_duplicates():
    long, short = frozenset(range(20)), frozenset(range(4))
    sets = [long, long | {20}, frozenset(range(30, 50)), short, short]
    assert jaccard_kernel(sets)[0, 1] >= NEAR_DUPLICATE
    assert collapse.near_duplicates(jaccard_kernel(sets), sets) == pytest.approx(2 / 5)


def test_the_wasserstein_distance_is_what_must_be_moved():
    assert wasserstein([1, 2, 3], [3, 4, 2]) == pytest.approx(1)
    assert wasserstein([0], [1, 3]) == pytest.approx(2)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=40), rng.normal(2, size=40)
    assert wasserstein(first, second) == pytest.approx(np.abs(np.sort(first) - np.sort(second)).mean())
    assert wasserstein([], [1]) is None


def test_the_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 20).astype(float)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs]
    value, low, high = auc_interval(ours, theirs, rng)
    assert value == pytest.approx(sum(pairs) / len(pairs))
    assert low < value < high


def test_a_classifier_tells_what_differs_and_not_what_does_not():
    rng = np.random.default_rng(2)
    ours, theirs, others = (
        rng.normal(size=(200, 5)),
        rng.normal(size=(200, 5)),
        rng.normal([2, 0, 0, 0, 0], size=(200, 5)),
    )
    same = auc_interval(*collapse.held_out_scores(ours, theirs, rng), rng)
    apart = auc_interval(*collapse.held_out_scores(ours, others, rng), rng)
    assert same[1] < 0.56
    assert 0.88 < apart[0] < 0.95  # two normals two deviations apart: .921


def test_differences_of_means_are_in_standard_deviations():
    ours, theirs = np.array([[1.0, 5], [3, 5]]), np.array([[2.0, 5], [4, 5]])
    assert collapse.standardised_differences(ours, theirs).tolist() == [-1.0, 0.0]


# ---- an archive ----


@pytest.fixture(scope="module")
def run(pool, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    go(path, config_of(puzzle_files(tmp_path_factory.mktemp("sets"))), pool)
    return RunDir(path)


def test_the_same_archive_and_seed_give_the_same_measures(run, pool):
    with Archive(run.archive) as archive:
        first, again = (measure(archive, pool, 1, 5) for _ in range(2))
    assert json.dumps(first) == json.dumps(again)


def test_the_measures_are_those_of_the_rows(run, pool):
    with Archive(run.archive) as archive:
        found = measure(archive, pool, 1, 0)
        sources = [
            row[0] for row in archive.query("SELECT source FROM puzzles WHERE origin = 'model' AND iteration = 1")
        ]
        proposals = archive.query(
            "SELECT r.outcome, r.puzzle FROM proposals r JOIN chunks k ON k.id = r.chunk WHERE k.iteration = 1"
        )
    well_formed = [puzzle for _, puzzle in proposals if puzzle]
    assert found["puzzles"] == found["sampled"] == len(sources)
    assert found["well_formed"] == pytest.approx(len(well_formed) / len(proposals), abs=1e-6)
    assert found["distinct_forms"] == pytest.approx(len(set(well_formed)) / len(well_formed), abs=1e-6)
    assert found["characters"] == pytest.approx(np.mean(list(map(len, sources))), abs=1e-6)
    assert found["characters_from_first"] == 0
    assert 1 <= found["vendi"] <= len(sources)


def test_of_iteration_0_the_puzzles_of_people_are_measured(run, pool):
    with Archive(run.archive) as archive:
        found = measure(archive, pool, 0, 0)
    assert found["puzzles"] == 5
    assert "human_auc" not in found
    assert found["characters_from_human"] == 0


def test_an_iteration_without_puzzles_is_measured_too(run, pool):
    with Archive(run.archive) as archive:
        found = measure(archive, pool, 7, 0)
    assert (found["puzzles"], found["vendi"], found["niche_entropy"], found["well_formed"]) == (0, None, None, None)
    assert alarms([found], CollapseConfig()) == []


def test_a_sample_has_no_more_than_its_number(run, pool, monkeypatch):
    monkeypatch.setattr(collapse, "SAMPLE", 3)
    with Archive(run.archive) as archive:
        found = measure(archive, pool, 0, 0)
    assert (found["puzzles"], found["sampled"]) == (5, 3)


# ---- alarms ----

FIRST = {
    "iteration": 1, "puzzles": 375, "sampled": 250, "proposed": 512, "tried": 375,
    "well_formed": 0.8, "distinct_forms": 1.0, "trivial": 0.05,
    "niche_entropy": 5.963, "token_entropy_3": 10.5, "vendi": 141.2, "near_duplicates": 0.04, "characters": 82.3,
    "always_solved": 0.01, "never_solved": 0.73, "human_auc": [0.76, 0.72, 0.80],
}  # fmt: skip


def after(**changes):
    return alarms([{"iteration": 0}, FIRST, {**FIRST, "iteration": 4, **changes}], CollapseConfig())


def test_a_healthy_run_raises_no_alarm():
    """The numbers of the sixth iteration of a run of the embedded model."""
    assert after() == []
    sixth = {
        "well_formed": 0.686, "distinct_forms": 1.0, "trivial": 0.057, "niche_entropy": 5.041, "vendi": 119.1,
        "token_entropy_3": 9.96, "near_duplicates": 0.016, "characters": 71.1, "always_solved": 0.036,
        "never_solved": 0.634, "human_auc": [0.82, 0.79, 0.86],
    }  # fmt: skip
    assert after(**sixth) == []


def test_an_alarm_says_what_fell_below_what():
    assert after(niche_entropy=2.1) == ["niche entropy 2.1 bits fell below 0.7 of iteration 1's 5.96"]
    assert after(trivial=0.5) == ["share of trivial proposals 0.5 rose above 0.25"]
    assert after(human_auc=[0.99, 0.98, 1.0]) == ["AUC against people's puzzles 0.99 rose above 0.97"]
    assert after(characters=200.0) == ["mean length 200 characters rose above 2 of iteration 1's 82.3"]


def test_every_limit_has_its_alarm_at_it_and_none_before():
    for limit in collapse._LIMITS:
        bound = getattr(CollapseConfig(), limit.setting) * (
            collapse._number(FIRST[limit.measure]) if limit.relative else 1
        )
        assert after(**{limit.measure: bound}) == []
        (line,) = after(**{limit.measure: bound * (0.99 if limit.is_least else 1.01)})
        assert line.startswith(limit.words)


def test_every_setting_limits_something():
    limits = {field.name for field in dataclasses.fields(CollapseConfig)} - {"action"}
    assert {limit.setting for limit in collapse._LIMITS} == limits


def test_few_puzzles_are_judged_by_what_became_of_the_proposals_only():
    assert after(sampled=20, niche_entropy=0.5, vendi=3.0) == []
    assert after(sampled=20, well_formed=0.1) == ["share of well-formed proposals 0.1 fell below 0.25"]


def test_shares_of_a_few_are_not_judged():
    """As where `solve.most_proposed` lets a few be tried, or most texts are no puzzles."""
    assert after(tried=5, never_solved=1.0) == after(tried=5, always_solved=1.0) == []
    assert after(proposed=100, well_formed=0.3, trivial=0.4, distinct_forms=0.5) == []


def test_fewer_puzzles_of_the_same_kinds_are_no_collapse_and_more_of_fewer_kinds_are(pool, tmp_path, monkeypatch):
    """The spread of few is below that of many: it is told of as many puzzles of both iterations."""
    monkeypatch.setattr(collapse, "FEWEST", 6)
    different = [text for text, _ in EXAMPLES]
    alike = [f"def f(x: int):\n    return {number} * x + {number % 3} == {7 * number}" for number in range(3, 40)]

    def said(first, second):
        path = tmp_path / f"{len(first)}-{len(second)}.sqlite"
        with Archive(path, create=True) as archive:
            for iteration, texts in ((1, first), (2, second)):
                for puzzle in parse_puzzles(pool, [Text(text) for text in texts]):
                    assert archive.add_puzzle(puzzle, Provenance("model", iteration))
            return alarms([measure(archive, pool, iteration, 0) for iteration in (1, 2)], CollapseConfig())

    few, many = different[:6], different[6:]
    assert [line for line in said(many, few) if "Vendi" in line or "entropy" in line] == []
    assert [line for line in said(few, [*many, *alike]) if "Vendi" in line]


def test_puzzles_that_become_one_raise_alarms(pool, tmp_path, monkeypatch):
    """Of an archive whose second iteration asks one thing in other numbers."""
    monkeypatch.setattr(collapse, "FEWEST", 12)
    texts = {
        1: [text for text, _ in EXAMPLES],
        2: [f"def f(x: int):\n    return {number} * x + {number % 3} == {7 * number}" for number in range(3, 19)],
    }
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        for iteration, of_iteration in texts.items():
            for puzzle in parse_puzzles(pool, [Text(text) for text in of_iteration]):
                assert archive.add_puzzle(puzzle, Provenance("model", iteration))
        history = [measure(archive, pool, iteration, 0) for iteration in (1, 2)]
    assert alarms(history[:1], CollapseConfig()) == []
    words = " ".join(alarms(history, CollapseConfig()))
    assert "niche entropy 0 bits fell below" in words
    assert "Vendi score" in words
