from itertools import combinations
from statistics import mean

import numpy as np
import pytest

from selfplay.metrics import Score, bootstrap, pass_at_k, scores


def share_of_subsets_with_a_success(n: int, c: int, k: int) -> float:
    outcomes = [True] * c + [False] * (n - c)
    return mean(any(subset) for subset in combinations(outcomes, k))


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_k_subsets_that_hold_a_success(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            estimate = pass_at_k(np.array([n]), np.array([c]), k)
            assert estimate == pytest.approx([share_of_subsets_with_a_success(n, c, k)], abs=1e-12)


def test_puzzles_with_unequal_numbers_of_candidates_are_estimated_each_by_its_own():
    estimates = pass_at_k(np.array([2, 5, 100]), np.array([1, 0, 100]), 2)
    assert estimates == pytest.approx([1.0, 0.0, 1.0])


def test_pass_at_1_is_the_share_of_accepted_candidates():
    assert pass_at_k(np.array([10, 10, 10]), np.array([0, 3, 10]), 1) == pytest.approx([0.0, 0.3, 1.0])


def test_pass_at_k_never_falls_with_k():
    n, c = np.full(9, 100), np.array([0, 1, 2, 5, 10, 50, 98, 99, 100])
    rows = np.array([pass_at_k(n, c, k) for k in range(1, 101)])
    assert (np.diff(rows, axis=0) >= -1e-12).all()
    assert (rows >= 0).all()
    assert (rows <= 1).all()


def test_large_counts_do_not_overflow():
    assert pass_at_k(np.array([100_000]), np.array([1]), 50_000) == pytest.approx([0.5])


def test_plain_lists_do_as_well_as_arrays():
    assert pass_at_k([4, 4], [0, 4], 3) == pytest.approx([0.0, 1.0])


def test_more_tries_than_candidates_are_refused():
    with pytest.raises(ValueError, match="pass@10 needs 10 candidates per puzzle, got as few as 9"):
        pass_at_k(np.array([10, 9]), np.array([1, 1]), 10)


@pytest.mark.parametrize("c", [-1, 6])
def test_impossible_numbers_of_accepted_candidates_are_refused(c):
    with pytest.raises(ValueError, match="between 0 and the candidates drawn"):
        pass_at_k(np.array([5]), np.array([c]), 1)


def test_the_bootstrap_value_is_the_mean_and_lies_in_its_interval():
    values = np.random.default_rng(3).random(60)
    score = bootstrap(values)
    assert score.value == pytest.approx(values.mean())
    assert score.low < score.value < score.high


def test_the_bootstrap_interval_is_as_wide_as_normal_theory_says():
    values = np.random.default_rng(4).random(400)
    score = bootstrap(values)
    assert score.high - score.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_more_puzzles_give_a_narrower_interval():
    few, many = bootstrap(np.tile([0.0, 1.0], 10)), bootstrap(np.tile([0.0, 1.0], 200))
    assert many.high - many.low < (few.high - few.low) / 3


def test_the_bootstrap_is_deterministic_in_its_seed():
    values = np.random.default_rng(5).random(30)
    assert bootstrap(values) == bootstrap(values) == bootstrap(values, seed=0)
    assert bootstrap(values) != bootstrap(values, seed=1)


def test_equal_values_have_an_interval_without_width():
    assert bootstrap(np.full(20, 0.25)) == Score(0.25, 0.25, 0.25)
    assert bootstrap(np.array([0.5])) == Score(0.5, 0.5, 0.5)


def test_a_score_reads_as_value_and_interval():
    assert str(Score(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_scores_has_one_entry_for_each_k():
    result = scores([4, 4], [1, 2], [1, 4])
    assert list(result) == ["pass@1", "pass@4"]
    assert result["pass@1"].value == pytest.approx(0.375)
    assert result["pass@4"] == Score(1.0, 1.0, 1.0)
