"""pass@k, its interval, and tests for the comparison of two models. numpy only.

Held-out sets are small (tens to hundreds of puzzles), and most rates are 0 or near 0. These intervals and tests were
chosen because they still hold there; `tests/benchmarks/intervals.py` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Confidence level of every interval. Tests of differences use the level 1 - LEVEL."""
RESAMPLES = 10_000
"""Weighted means behind each end of an interval. The tail beyond the end is 2.5 % to within 0.16 % (one standard
error)."""
ENUMERATED = 18
"""Most non-zero differences for which the sign-flip test enumerates all signs (at most 2**18)."""
FLIPS = 100_000
"""Number of random sign choices if there are more differences. A p-value of 5 % is then known to within 0.07 % (one
standard error)."""
BLOCK = 500
"""Resamples whose weights are in memory at a time."""
TWO_SIDED_5_PERCENT, POWER_80_PERCENT = 1.960, 0.842
"""Quantiles of the standard normal distribution at 97.5 % and 80 %."""
FEWEST_WINS = 6
"""Fewest puzzles won, with none lost, at which a sign-flip test reaches 5 %:
2 * 2**-6 = .031 < .05 < 2 * 2**-5 = .063."""


def pass_at_k(num_samples: NDArray[np.int64], num_correct: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Unbiased estimate of the probability that at least one of k samples is correct.

    Chen et al., "Evaluating Large Language Models Trained on Code" (2021, arXiv:2107.03374),
    section 2.1: 1 - C(n - c, k) / C(n, k), multiplied out so that no binomial overflows.

    Args:
        num_samples: [P] number n of candidates drawn for each puzzle, all >= k.
        num_correct: [P] number c of accepted candidates for each puzzle, 0 <= c <= n.
        k: Number of tries.

    Returns:
        [P] estimates in [0, 1]. Their mean is the score of the set.

    Raises:
        ValueError: A puzzle has fewer than k candidates, so no unbiased estimate exists.
    """
    num_samples, num_correct = np.asarray(num_samples), np.asarray(num_correct)
    if np.any(num_samples < k):
        raise ValueError(f"pass@{k} needs {k} candidates per puzzle, got as few as {num_samples.min()}")
    if np.any((num_correct < 0) | (num_correct > num_samples)):
        raise ValueError("accepted candidates must lie between 0 and the candidates drawn")
    wrong = np.ones(len(num_samples))
    for i in range(k):
        # The probability that try i fails too, given that all tries before it failed.
        wrong *= np.clip(num_samples - num_correct - i, 0, None) / (num_samples - i)
    return 1.0 - wrong


@dataclass(frozen=True)
class Score:
    """A mean over puzzles with its interval."""

    value: float
    low: float
    high: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.value, self.low, self.high))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values_P: ArrayLike, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Score:
    """Mean over puzzles, with a two-sided 95 % interval for the mean over all puzzles like these.

    This is the bound of Gaffke (Mathematical Methods of Statistics 14(4), 2005), which Learned-Miller and Thomas also
    describe ("A New Confidence Interval for the Mean of a Bounded Random Variable", arXiv:1905.06208). It is a Bayesian
    bootstrap (Rubin 1981) of the values and one more value at the worst end: means with normalised exponentials as
    weights. The upper end is the 97.5 % quantile of such means with one more value at `high`. The lower end is the
    2.5 % quantile with one more value at `low`. If all values are `low` or `high`, it is the interval of Clopper and
    Pearson (1934), up to 1 % of random error. That it covers the mean of every distribution is a conjecture there,
    not a theorem. `tests/benchmarks/intervals.py` found no rates for which it fails.

    The percentile bootstrap is not used, because it knows only values that were drawn: if all are 0, it gives [0, 0].

    Args:
        values_P: [P] one value per puzzle in [low, high]: pass@k estimates, or with `low` -1 the
            differences of two models on the same puzzles. Their order does not matter.
        low: The smallest possible value.
        high: The largest possible value.
        seed: Seed of the weights. The interval of mirrored values is the mirrored interval.

    Raises:
        ValueError: There are no values, or one lies outside [low, high] or is not a number.
    """
    values_P = np.sort(np.asarray(values_P, dtype=np.float64))  # so that rounding does not depend on the order
    if values_P.ndim != 1 or not len(values_P):
        raise ValueError("an interval needs the values of at least one puzzle")
    if not np.all((values_P >= low) & (values_P <= high)):
        raise ValueError(f"values must lie in [{low:g}, {high:g}], got {values_P.min():g} to {values_P.max():g}")
    (lower,), (upper,) = interval_ends(values_P[None], low, high, seed)
    return Score(float(values_P.mean()), float(lower), float(upper))


def interval_ends(
    values_N_P: NDArray[np.float64], low: float, high: float, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends, [N] each, of `interval` for N sets of values at once. The values are not checked."""
    upper_N = _upper_ends(values_N_P, high, seed)
    lower_N = 0.0 - _upper_ends(-values_N_P, -low, seed)  # never -0.0
    return np.maximum(lower_N, low), np.minimum(upper_N, high)  # rounding may exceed the bounds


def _upper_ends(values_N_P: NDArray[np.float64], high: float, seed: int) -> NDArray[np.float64]:
    # The values are sorted, so the k-th largest always meets the same weights: a larger value never lowers the end.
    values_N_S = np.pad(np.sort(values_N_P, axis=1), ((0, 0), (0, 1)), constant_values=high)
    rng = np.random.default_rng(seed)
    means_N_R = np.empty((len(values_N_S), RESAMPLES))
    for start in range(0, RESAMPLES, BLOCK):
        weights_B_S = rng.standard_exponential((BLOCK, values_N_S.shape[1]))
        weights_B_S /= weights_B_S.sum(axis=1, keepdims=True)
        means_N_R[:, start : start + BLOCK] = values_N_S @ weights_B_S.T
    return np.quantile(means_N_R, (1 + LEVEL) / 2, axis=1, overwrite_input=True)


def paired_interval(differences_P: ArrayLike, seed: int = 0) -> Score:
    """Mean difference of two models on the same puzzles, with its 95 % interval over puzzles like these.

    This is `interval` between -1 and 1. It is also about unseen puzzles, some of which may differ by 1. So it reaches
    -ln(.025) / P = 3.7 / P to either side even if no puzzle differs. It may contain 0 where `sign_flip_test`, which is
    only about these puzzles, is sure of a much smaller difference.

    Args:
        differences_P: [P] in [-1, 1]: pass@k of B minus pass@k of A.
        seed: Seed of the weights. Swapped models give the mirrored interval.

    Raises:
        ValueError: There are no differences, or one lies outside [-1, 1].
    """
    return interval(differences_P, -1.0, 1.0, seed)


def sign_flip_test(differences_P: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of the paired randomisation test: could two equal models differ as much?

    If each puzzle is as hard for A as for B, and both drew the same number of candidates, each difference is as likely
    as its negative (Fisher 1935). The p-value is the share of all sign choices whose absolute sum is at least as large.
    With more than 18 non-zero differences a random sample of signs is used instead of all. Then
    (1 + as large) / (1 + drawn) keeps the p-value valid at every level (Phipson and Smyth, "Permutation P-values Should
    Never Be Zero", 2010). If all differences are -1, 0 or 1, this is the exact test of McNemar.

    Args:
        differences_P: [P] B minus A on the same puzzles. The order does not matter, nor which model is B.
        seed: Seed of the random signs.

    Returns:
        The p-value in (0, 1]; 1 if no puzzle differs.

    Raises:
        ValueError: There are no differences, or one is not a finite number.
    """
    differences_P = np.asarray(differences_P, dtype=np.float64)
    if differences_P.ndim != 1 or not len(differences_P) or not np.isfinite(differences_P).all():
        raise ValueError("a test needs the differences of at least one puzzle, all finite")
    sizes_D = np.sort(np.abs(differences_P[differences_P != 0]))
    # Sums that are equal on paper may differ in their last bits. They count as equally large.
    least = abs(differences_P.sum()) - 1e-9 * sizes_D.sum()
    if len(sizes_D) <= ENUMERATED:
        return float(np.mean(np.abs(_all_signed_sums(sizes_D)) >= least))
    rng = np.random.default_rng(seed)
    sums_F = np.zeros(FLIPS)
    for start in range(0, len(sizes_D), 12):  # one draw among all sign choices of a dozen replaces twelve draws
        sums_of_dozen = _all_signed_sums(sizes_D[start : start + 12])
        sums_F += sums_of_dozen[rng.integers(0, len(sums_of_dozen), FLIPS)]
    return float(1 + np.sum(np.abs(sums_F) >= least)) / (1 + FLIPS)


def _all_signed_sums(sizes_D: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for size in sizes_D:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def holm(p_values_M: ArrayLike) -> NDArray[np.float64]:
    """P-values of several tests, adjusted so that the probability of any false finding stays below the level.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (Scandinavian Journal of Statistics 6, 1979): the
    smallest p-value is multiplied by M, the next by M - 1 and so on, and none falls below the one before. The tests may
    depend on each other.

    Args:
        p_values_M: [M] p-values in [0, 1].

    Returns:
        [M] adjusted p-values in [0, 1], in the same order.
    """
    p_values_M = np.asarray(p_values_M, dtype=np.float64)
    order_M = np.argsort(p_values_M, kind="stable")
    adjusted_M = np.empty_like(p_values_M)
    factors_M = np.arange(len(p_values_M), 0, -1)
    adjusted_M[order_M] = np.minimum(np.maximum.accumulate(p_values_M[order_M] * factors_M), 1.0)
    return adjusted_M


def detectable_difference(num_samples_P: ArrayLike, num_correct_P: ArrayLike, k: int) -> float:
    """Lower bound on the difference in pass@k that a paired comparison on these puzzles can find.

    A smaller difference is not found with 80 % power at a two-sided level of 5 %, if a model with these counts is
    compared with a similar one. The bound is the larger of:

    - (1.960 + 0.842) * sqrt(2 * mean within-puzzle variance of pass@k / P), the usual normal
      approximation, as if both models were equally noisy and the difference the same on all puzzles;
    - six puzzles won and none lost, without which no sign-flip test reaches 5 %, each by one candidate
      more than counted (for a puzzle with 0 accepted candidates: by k / n).

    Uneven differences, and noise on puzzles counted as unsolved, need a larger difference.

    Args:
        num_samples_P: [P] number n of candidates drawn for each puzzle, all >= k.
        num_correct_P: [P] number c of accepted candidates for each puzzle, 0 <= c <= n.
        k: Number of tries.

    Returns:
        A difference in mean pass@k; infinite for fewer than six puzzles.

    Raises:
        ValueError: There are no puzzles, or the counts are such that `pass_at_k` raises an error.
    """
    n_P, c_P = np.asarray(num_samples_P), np.asarray(num_correct_P)
    if not len(n_P):
        raise ValueError("a detectable difference needs at least one puzzle")
    if len(n_P) < FEWEST_WINS:
        return math.inf
    # If every k-subset already holds a success, one more changes nothing. Then the last change that counted is used.
    below_P = np.minimum(c_P, n_P - k)
    steps_P = pass_at_k(n_P, below_P + 1, k) - pass_at_k(n_P, below_P, k)
    fewest_wins = np.sort(steps_P)[:FEWEST_WINS].sum() / len(n_P)
    variances_P = [pass_at_k_variance(int(n), int(c) / int(n), k) for n, c in zip(n_P, c_P, strict=True)]
    noise = math.sqrt(2 * float(np.mean(variances_P)) / len(n_P))
    return max((TWO_SIDED_5_PERCENT + POWER_80_PERCENT) * noise, float(fewest_wins))


def pass_at_k_variance(num_samples: int, rate: float, k: int) -> float:
    """Variance of the `pass_at_k` estimate of one puzzle, summed over all counts of Binomial(n, rate).

    Args:
        num_samples: Number n of candidates drawn, >= k.
        rate: Probability in [0, 1] that a candidate is accepted.
        k: Number of tries.

    Raises:
        ValueError: n is smaller than k.
    """
    counts_C = np.arange(num_samples + 1)
    estimates_C = pass_at_k(np.full(num_samples + 1, num_samples), counts_C, k)
    if rate in (0, 1):
        return 0.0
    log_factorials_C = np.concatenate([[0.0], np.cumsum(np.log(counts_C[1:]))])
    log_ways_C = log_factorials_C[-1] - log_factorials_C - log_factorials_C[::-1]
    chances_C = np.exp(log_ways_C + counts_C * math.log(rate) + counts_C[::-1] * math.log1p(-rate))
    return float(chances_C @ (estimates_C - chances_C @ estimates_C) ** 2)


def scores(num_samples: Sequence[int], num_correct: Sequence[int], ks: Sequence[int]) -> dict[str, Score]:
    """`pass@k` of a puzzle set for each k, with its interval."""
    n, c = np.array(num_samples), np.array(num_correct)
    return {f"pass@{k}": interval(pass_at_k(n, c, k)) for k in ks}
