import math
from fractions import Fraction
from itertools import combinations, product
from statistics import mean

import numpy as np
import pytest

from selfplay.scoring.metrics import (
    Score,
    detectable_difference,
    holm,
    interval,
    interval_ends,
    paired_interval,
    pass_at_k,
    pass_at_k_variance,
    scores,
    sign_flip_test,
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


# How often intervals hold the truth, where rates are skewed and near zero. More: tests/benchmarks/intervals.py

DRAWS, PUZZLES, CANDIDATES = 2_000, 98, 100
HONEST = 0.95 - 3 * math.sqrt(0.05 * 0.95 / DRAWS)  # three standard errors of counting

RATES = {
    "a long tail": lambda rng, shape: rng.beta(0.05, 2, shape),
    "3 % solvable": lambda rng, shape: np.where(rng.random(shape) < 0.03, rng.beta(2, 3, shape), 0.0),
    "1 % nearly always solved": lambda rng, shape: np.where(rng.random(shape) < 0.01, 0.9, 0.0),
}


def estimates(rng, rates, k):
    table = pass_at_k(np.full(CANDIDATES + 1, CANDIDATES), np.arange(CANDIDATES + 1), k)
    return table[rng.binomial(CANDIDATES, rates)]


def share_covered(ends, truth):
    low_N, high_N = ends
    return np.mean((low_N <= truth) & (truth <= high_N))


def percentile_bootstrap(values_N_P):
    size = values_N_P.shape[1]
    shares_R_P = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), 2_000) / size
    return np.quantile(values_N_P @ shares_R_P.T, [0.025, 0.975], axis=1)


def test_intervals_made_at_once_are_the_intervals_made_one_by_one():
    values_N_P = np.random.default_rng(1).random((3, 20)) ** 5
    low_N, high_N = interval_ends(values_N_P, 0.0, 1.0)
    for values_P, low, high in zip(values_N_P, low_N, high_N, strict=True):
        score = interval(values_P)
        assert (score.low, score.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_95_in_100_intervals_hold_the_truth_where_a_percentile_bootstrap_fails(rates):
    rng = np.random.default_rng(11)
    values_N_P = estimates(rng, rates(rng, (DRAWS, PUZZLES)), k=1)
    truth = rates(rng, 2_000_000).mean()
    assert share_covered(interval_ends(values_N_P, 0.0, 1.0), truth) >= HONEST
    assert share_covered(percentile_bootstrap(values_N_P), truth) < HONEST


def test_95_in_100_paired_intervals_hold_the_true_difference_where_a_percentile_bootstrap_fails():
    rng = np.random.default_rng(12)

    def pair(shape):
        before = RATES["3 % solvable"](rng, shape)
        return before, np.where(rng.random(shape) < 0.3, 0.0, np.sqrt(before))

    (a, b), (population_a, population_b) = pair((DRAWS, PUZZLES)), pair(2_000_000)
    differences_N_P = estimates(rng, b, k=10) - estimates(rng, a, k=10)
    truth = np.mean((1 - population_a) ** 10 - (1 - population_b) ** 10)
    assert share_covered(interval_ends(differences_N_P, -1.0, 1.0), truth) >= HONEST
    assert share_covered(percentile_bootstrap(differences_N_P), truth) < HONEST


@pytest.mark.parametrize(("rates", "k"), [("a long tail", 1), ("a long tail", 100), ("3 % solvable", 10)])
def test_equal_models_are_found_different_no_more_often_than_the_level_says(rates, k):
    rng = np.random.default_rng(13)
    rates_N_P = RATES[rates](rng, (DRAWS, PUZZLES))
    differences_N_P = estimates(rng, rates_N_P, k) - estimates(rng, rates_N_P, k)
    p_values = np.array([sign_flip_test(differences_P) for differences_P in differences_N_P])
    for level in (0.05, 0.01):
        assert np.mean(p_values <= level) <= level + 3 * math.sqrt(level * (1 - level) / DRAWS)


# The sign-flip test


def share_of_signs_as_large(differences: list[Fraction]) -> float:
    seen = abs(sum(differences))
    all_signs = product([-1, 1], repeat=len(differences))
    return mean(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= seen for signs in all_signs)


@pytest.mark.parametrize(
    "hundredths", [[3], [1, 2, -3], [10, 20, 30, -60, 5], [7, 7, 7, 7, 7, 7], [1, 2, 3, 4, 5, 6, 7, -8, 0, 0]]
)
def test_the_p_value_is_the_share_of_all_signs_that_give_as_large_a_sum(hundredths):
    exact = share_of_signs_as_large([Fraction(number, 100) for number in hundredths])
    assert sign_flip_test([number / 100 for number in hundredths]) == pytest.approx(exact, abs=1e-12)


def mcnemar(won: int, lost: int) -> float:
    at_most = sum(math.comb(won + lost, hits) for hits in range(min(won, lost) + 1))
    return min(1.0, 2 * at_most / 2 ** (won + lost))


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (5, 0), (6, 0), (9, 9), (13, 4), (2, 16)])
def test_of_puzzles_won_and_lost_it_is_the_exact_test_of_mcnemar(won, lost):
    differences = np.repeat([1.0, 0.0, -1.0], [won, 50, lost])
    assert sign_flip_test(differences) == pytest.approx(mcnemar(won, lost), abs=1e-12)


@pytest.mark.parametrize(("won", "lost"), [(10, 9), (15, 5), (40, 22), (60, 60)])
def test_with_many_puzzles_random_signs_come_close_to_it(won, lost):
    exact = mcnemar(won, lost)
    four_standard_errors = 4 * math.sqrt(exact * (1 - exact) / 100_000)
    assert sign_flip_test(np.repeat([1.0, -1.0], [won, lost])) == pytest.approx(exact, abs=four_standard_errors + 2e-5)


def test_no_p_value_is_zero():
    assert sign_flip_test(np.full(200, 0.5)) == 1 / 100_001


def test_sums_equal_on_paper_count_as_equal():
    assert 0.1 + 0.2 != 0.3
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1.0
    assert sign_flip_test([0.1, 0.2, 0.3]) == 0.25
    # An observed sum of .4 is met by many others that differ from it in the last bits.
    tenths = [1, 2, 3, 4, 5, 6, 7, -8, -9, -7]
    exact = share_of_signs_as_large([Fraction(number, 10) for number in tenths])
    assert sign_flip_test([number / 10 for number in tenths]) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("size", [12, 60])
def test_neither_order_nor_the_models_places_matter(size):
    differences = np.random.default_rng(6).normal(0.3, 1, size)
    p_value = sign_flip_test(differences)
    assert sign_flip_test(differences[::-1]) == p_value
    assert sign_flip_test(-differences) == p_value


@pytest.mark.parametrize("differences", [[], [0.1, math.nan], [math.inf]])
def test_differences_that_are_none_or_no_numbers_are_refused(differences):
    with pytest.raises(ValueError, match="at least one puzzle, all finite"):
        sign_flip_test(differences)


# The difference that can be found


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3, 0.97, 1.0])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 1), (32, 10), (100, 100)])
def test_the_variance_of_an_estimate_is_that_over_all_counts(n, k, rate):
    chances = [math.comb(n, c) * rate**c * (1 - rate) ** (n - c) for c in range(n + 1)]
    values = [1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)]
    middle = 1 - (1 - rate) ** k
    exact = sum(chance * (value - middle) ** 2 for chance, value in zip(chances, values, strict=True))
    assert pass_at_k_variance(n, rate, k) == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_of_unsolved_puzzles_the_least_to_be_found_is_six_won_by_one_candidate():
    assert detectable_difference([100] * 98, [0] * 98, 1) == pytest.approx(6 * 0.01 / 98)
    assert detectable_difference([100] * 98, [0] * 98, 10) == pytest.approx(6 * 0.1 / 98)
    assert detectable_difference([100] * 98, [0] * 98, 100) == pytest.approx(6 / 98)
    assert detectable_difference([50] * 98 + [100] * 3, [0] * 101, 1) == pytest.approx((3 * 0.01 + 3 * 0.02) / 101)


def test_of_half_solved_puzzles_it_is_what_noise_hides():
    assert detectable_difference([100] * 98, [50] * 98, 1) == pytest.approx(2.802 * math.sqrt(2 * 0.25 / 100 / 98))


def test_fewer_than_six_puzzles_show_nothing():
    assert detectable_difference([100] * 5, [50] * 5, 1) == math.inf
    assert min(sign_flip_test([1.0] * 5), sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0])) > 0.05


def test_a_difference_among_no_puzzles_is_refused():
    with pytest.raises(ValueError, match="at least one puzzle"):
        detectable_difference([], [], 1)


@pytest.mark.parametrize(
    ("correct", "k"), [([0] * 98, 1), ([0] * 98, 100), ([0] * 84 + [5, 9, 14, 20, 26, 31, 40] * 2, 1)]
)
def test_a_model_better_by_the_least_is_mostly_found_and_one_better_by_half_of_it_mostly_missed(correct, k):
    rng = np.random.default_rng(14)
    rates_P = np.array(correct) / CANDIDATES
    least = detectable_difference([CANDIDATES] * len(correct), correct, k)

    def share_found(gain: float) -> float:
        gained_P = rates_P > 0 if rates_P.any() else rates_P == 0
        missed_P = (1 - rates_P) ** k - gained_P * gain / gained_P.mean()
        better_N_P = np.broadcast_to(1 - missed_P ** (1 / k), (400, len(correct)))
        differences_N_P = estimates(rng, better_N_P, k) - estimates(rng, np.broadcast_to(rates_P, better_N_P.shape), k)
        return np.mean([sign_flip_test(differences_P) <= 0.05 for differences_P in differences_N_P])

    assert 0.4 < share_found(least) < 0.85
    assert share_found(least / 2) < 0.35


# ---- several tests ----


def test_holms_p_values_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == pytest.approx([0.2])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).tolist() == []


def test_holms_p_values_reject_what_its_steps_reject_at_every_level():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.choice([0.001, 0.01, 0.02, 0.03, 0.3], rng.integers(1, 8)) * rng.uniform(0.5, 1)
        level, rejected = 0.05, set()
        for step, index in enumerate(np.argsort(p, kind="stable")):
            if p[index] > level / (len(p) - step):
                break
            rejected.add(int(index))
        assert {int(index) for index in np.flatnonzero(holm(p) <= level)} == rejected
