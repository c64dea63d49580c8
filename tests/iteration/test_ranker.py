"""A learned judge that ranks proposals, against its definition and in a run."""

import dataclasses

import numpy as np
import pytest
from scripted_run import config_of, go, puzzle_files

from puzzles.archive.store import Archive
from puzzles.features import FEATURES, described
from selfplay.config import FinetuneConfig, SolveConfig
from selfplay.iteration import ranker
from selfplay.iteration.ranker import Ranker, logistic, logistic_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return puzzle_files(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def run(files, pool, tmp_path_factory):
    """Of two iterations without training, so that rates stay what they are."""
    folder = tmp_path_factory.mktemp("ranked")
    go(folder / "run", config_of(files, finetune=FinetuneConfig(objective="none")), pool)
    return folder / "run"


def test_the_logistic_function_is_its_definition_and_never_overflows():
    values = np.linspace(-30, 30, 61)
    assert np.allclose(logistic(values), 1 / (1 + np.exp(-values)))
    assert logistic(np.array([-1e9, 1e9])).tolist() == [0, 1]


def test_a_regressions_weights_are_where_its_loss_is_least():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(100, 3))
    share = np.clip(rows @ [0.2, -0.1, 0.0] + rng.uniform(size=100), 0, 1)
    weights = logistic_weights(rows, share)

    def loss(changed):
        scores = rows @ changed[:-1] + changed[-1]
        each = share * np.logaddexp(0, -scores) + (1 - share) * np.logaddexp(0, scores)
        return each.sum() + ranker.RIDGE * changed[:-1] @ changed[:-1] / 2

    for step in np.eye(4) * 0.05:
        assert loss(weights) < min(loss(weights + step), loss(weights - step))


def test_separable_puzzles_do_not_upset_it():
    weights = logistic_weights(np.array([[-1.0, 0], [-1, 0], [1, 0], [1, 0]]), np.array([0.0, 0, 1, 1]))
    assert np.isfinite(weights).all()
    assert weights[0] > 0 == weights[1]


def test_it_finds_the_rates_that_puzzles_were_made_with():
    rng = np.random.default_rng(5)
    rows = rng.normal(5, 2, size=(4000, 4))
    rates = logistic(rows @ [0.8, -0.5, 0, 0] - 1.5)
    model = Ranker.fitted(rows, rng.binomial(12, rates), np.full(4000, 12))
    assert np.abs(model.rates(rows) - rates).mean() < 0.01


def test_a_feature_that_never_varies_changes_nothing():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(60, 2))
    accepted, tried = rng.binomial(4, 0.3, 60), np.full(60, 4)
    wider = np.column_stack([rows, np.full(60, 7.0)])
    assert np.allclose(
        Ranker.fitted(rows, accepted, tried).rates(rows), Ranker.fitted(wider, accepted, tried).rates(wider)
    )


def test_what_was_tried_counts_as_it_last_came_out_without_further_candidates(run):
    with Archive(run / "archive.sqlite") as archive:
        tried = {identifier: counts for identifier, *counts in ranker.tried_before(archive, 3)}
        rows = archive.query(
            "SELECT c.puzzle, k.iteration, c.verdict FROM candidates c JOIN chunks k ON k.id = c.chunk ORDER BY 2"
        )
        assert ranker.tried_before(archive, 1) == []
    expected = {}
    for puzzle, iteration, verdict in rows:
        accepted, count = expected.get((puzzle, iteration), (0, 0))
        expected[puzzle, iteration] = (accepted + (verdict == "accepted"), count + 1)
    last = {puzzle: list(counts) for (puzzle, _), counts in expected.items()}
    assert tried == last


def test_proposals_are_ranked_by_what_can_be_learned_of_them_and_stay_in_their_order(run, pool, monkeypatch):
    monkeypatch.setattr(ranker, "FEWEST_PUZZLES", 1)
    with Archive(run / "archive.sqlite") as archive:
        proposed = archive.puzzle_ids("p.origin = 'model' AND p.iteration = 2")
        kept = ranker.best(archive, pool, 2, proposed, 3)
        model = ranker.fitted_before(archive, pool, 2)
        traits = described(pool, [archive.puzzle(identifier) for identifier in proposed])
        rates = model.rates(ranker.rows_of(traits))
    worth = dict(zip(proposed, rates * (1 - rates), strict=True))
    assert len(kept) == 3
    assert kept == [identifier for identifier in proposed if identifier in kept]
    assert min(worth[identifier] for identifier in kept) >= max(
        worth[identifier] for identifier in proposed if identifier not in kept
    )


def test_with_too_little_to_go_by_all_are_tried(run, pool):
    with Archive(run / "archive.sqlite") as archive:
        proposed = archive.puzzle_ids("p.origin = 'model'")
        assert len(ranker.tried_before(archive, 2)) < ranker.FEWEST_PUZZLES
        assert ranker.best(archive, pool, 1, proposed, 1) == ranker.best(archive, pool, 2, proposed, 1) == proposed


def test_a_run_tries_its_best_ranked_proposals_alone(files, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(ranker, "FEWEST_PUZZLES", 1)
    solve = SolveConfig(candidates_per_puzzle=4, most_proposed=2)
    config = dataclasses.replace(config_of(files, solve=solve))
    go(tmp_path / "run", config, pool)
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        tried = {
            iteration: archive.puzzle_ids(
                "p.origin = 'model' AND p.iteration = ? AND EXISTS (SELECT 1 FROM candidates c WHERE c.puzzle = p.id)",
                iteration,
            )
            for iteration in (1, 2)
        }
        proposed = archive.puzzle_ids("p.origin = 'model' AND p.iteration = 1")
        own = archive.puzzle_ids("p.origin = 'human'")
        of_people = archive.query("SELECT DISTINCT puzzle FROM candidates WHERE puzzle IN (SELECT id FROM puzzles"
                                  " WHERE origin = 'human')")  # fmt: skip
    assert tried[1] == proposed
    assert len(tried[2]) == 2
    assert len(of_people) == len(own)


def test_rows_are_logarithms_of_the_features(run, pool):
    with Archive(run / "archive.sqlite") as archive:
        (traits,) = described(pool, [archive.puzzle(archive.puzzle_ids()[0])])
    (row,) = ranker.rows_of([traits])
    assert np.allclose(np.expm1(row), [traits.features[name] for name in FEATURES])
    assert ranker.rows_of([]).shape == (0, len(FEATURES))
