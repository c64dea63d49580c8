import math
from itertools import combinations
from statistics import mean

import numpy as np
import pytest

from selfplay.metrics import (
    Score,
    interval,
    paired_interval,
    pass_at_k,
    scores,
)


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


def binomial_tail(at_least: int, trials: int, rate: float) -> float:
    return sum(
        math.comb(trials, hits) * rate**hits * (1 - rate) ** (trials - hits) for hits in range(at_least, trials + 1)
    )


def bisect(rises_past_the_goal) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rises_past_the_goal(middle) else (middle, high)
    return low


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    low = bisect(lambda rate: binomial_tail(hits, trials, rate) > 0.025) if hits else 0.0
    high = bisect(lambda rate: 1 - binomial_tail(hits + 1, trials, rate) < 0.025) if hits < trials else 1.0
    return low, high


@pytest.mark.parametrize(
    ("hits", "trials"), [(0, 1), (1, 1), (0, 54), (1, 54), (3, 98), (98, 98), (60, 169), (227, 228)]
)
def test_the_interval_of_solved_or_not_is_that_of_clopper_and_pearson(hits, trials):
    score = interval(np.repeat([1.0, 0.0], [hits, trials - hits]))
    low, high = clopper_pearson(hits, trials)
    assert score.value == pytest.approx(hits / trials)
    assert score.low == pytest.approx(low, rel=0.05, abs=1e-4)
    assert 1 - score.high == pytest.approx(1 - high, rel=0.05, abs=1e-4)


def test_an_interval_is_the_same_in_any_order_of_puzzles():
    values = np.random.default_rng(3).random(60) ** 8
    assert interval(values) == interval(values[::-1])


def test_the_interval_of_mirrored_values_is_the_mirrored_interval():
    differences = np.random.default_rng(3).uniform(-0.2, 1, 60)
    score, mirrored = paired_interval(differences), paired_interval(-differences)
    assert (mirrored.low, mirrored.high) == (-score.high, -score.low)


def test_a_larger_value_never_lowers_an_end():
    rng = np.random.default_rng(4)
    values = rng.random(30) ** 6
    for _ in range(20):
        larger = np.clip(values + rng.random(30) * (rng.random(30) < 0.1), 0, 1)
        before, after = interval(values), interval(larger)
        assert before.low <= after.low
        assert before.high <= after.high
        values = larger


def test_the_interval_of_many_puzzles_is_as_wide_as_normal_theory_says():
    values = np.random.default_rng(4).random(4000)
    score = interval(values)
    assert score.low < values.mean() < score.high
    assert score.high - score.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(4000), rel=0.05)


def test_more_puzzles_give_a_narrower_interval():
    few, many = interval(np.tile([0.0, 1.0], 10)), interval(np.tile([0.0, 1.0], 200))
    assert many.high - many.low < (few.high - few.low) / 3


def test_the_interval_is_deterministic_in_its_seed():
    values = np.random.default_rng(5).random(30)
    assert interval(values) == interval(values) == interval(values, seed=0)
    assert interval(values) != interval(values, seed=1)


def test_an_interval_stays_within_what_is_possible():
    assert interval(np.ones(20)).high == 1.0
    assert interval(np.zeros(20)).low == 0.0
    assert interval([0.5]).low > 0
    assert paired_interval(np.full(7, -1.0)).low == -1.0


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one puzzle"):
        interval([])


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_impossible_values_are_refused(value):
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1\]"):
        interval([0.5, value])


def test_a_score_reads_as_value_and_interval():
    assert str(Score(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_scores_has_one_entry_for_each_k():
    result = scores([4, 4], [1, 2], [1, 4])
    assert list(result) == ["pass@1", "pass@4"]
    assert result["pass@1"].value == pytest.approx(0.375)
    assert result["pass@4"] == interval([1.0, 1.0])
