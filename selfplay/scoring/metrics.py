"""pass@k, its interval, and what a comparison of two models can tell. numpy only.

Held-out sets are small (tens to hundreds of puzzles) and most rates are 0 or near it. Intervals and
tests here are those that still hold there: `tests/benchmarks/intervals.py` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Of every interval; tests of differences are meant at 1 - LEVEL."""
RESAMPLES = 10_000
"""Weighted means behind each end of an interval: the tail beyond it is 2.5 % to within 0.16 % (one standard error)."""
ENUMERATED = 18
"""Up to so many non-zero differences the sign-flip test goes through all signs, 2**18 at most."""
FLIPS = 100_000
"""Random signs where there are more; a p-value of 5 % is then known to within 0.07 % (one standard error)."""
BLOCK = 500
"""Resamples whose weights are in memory at a time."""
TWO_SIDED_5_PERCENT, POWER_80_PERCENT = 1.960, 0.842
"""Quantiles of the standard normal distribution at 97.5 % and 80 %."""
FEWEST_WINS = 6
"""Puzzles won, none lost, below which no sign-flip test reaches 5 %: 2 * 2**-6 = .031 < .05 < 2 * 2**-5 = .063."""


def pass_at_k(num_samples: NDArray[np.int64], num_correct: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Probability that at least one of k samples is correct, without bias.

    Chen et al., "Evaluating Large Language Models Trained on Code" (2021, arXiv:2107.03374),
    section 2.1: 1 - C(n - c, k) / C(n, k), multiplied out so that no binomial overflows.

    Args:
        num_samples: [P] candidates n drawn for each puzzle, all >= k.
        num_correct: [P] accepted candidates c for each puzzle, 0 <= c <= n.
        k: Number of tries granted.

    Returns:
        [P] estimates in [0, 1]; their mean is the score of the set.

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
        # The chance that try i fails too, given that all before it failed.
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
    """Mean over puzzles with a two-sided 95 % interval for the mean over all puzzles like these.

    The bound of Gaffke (Mathematical Methods of Statistics 14(4), 2005), which Learned-Miller and
    Thomas describe as well ("A New Confidence Interval for the Mean of a Bounded Random Variable",
    arXiv:1905.06208): a Bayesian bootstrap (Rubin 1981), that is, means with normalised exponentials
    as weights, of the values and one more at the worst end. The upper end is the 97.5 % quantile of
    such means with one more value at `high`, the lower end the 2.5 % quantile with one more at `low`.
    Of values that are `low` or `high` it makes the interval of Clopper and Pearson (1934), up to 1 % by
    its draws. That it covers whatever the distribution is conjectured there, not proven;
    `tests/benchmarks/intervals.py` found no rates for which it fails.

    The percentile bootstrap cannot know of what was not drawn: all values 0 give it [0, 0].

    Args:
        values_P: [P] one value per puzzle in [low, high]: pass@k estimates, or with `low` -1 the
            differences of two models on the same puzzles. Their order does not matter.
        low: The smallest value possible.
        high: The largest value possible.
        seed: Of the weights. The interval of mirrored values is the mirrored interval.

    Raises:
        ValueError: There are no values, or one lies outside [low, high] or is not a number.
    """
    values_P = np.sort(np.asarray(values_P, dtype=np.float64))  # so that not even rounding depends on the order
    if values_P.ndim != 1 or not len(values_P):
        raise ValueError("an interval needs the values of at least one puzzle")
    if not np.all((values_P >= low) & (values_P <= high)):
        raise ValueError(f"values must lie in [{low:g}, {high:g}], got {values_P.min():g} to {values_P.max():g}")
    (lower,), (upper,) = interval_ends(values_P[None], low, high, seed)
    return Score(float(values_P.mean()), float(lower), float(upper))


def interval_ends(
    values_N_P: NDArray[np.float64], low: float, high: float, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends, [N] each, of `interval` for N sets of values at once; nothing is checked."""
    upper_N = _upper_ends(values_N_P, high, seed)
    lower_N = 0.0 - _upper_ends(-values_N_P, -low, seed)  # never -0.0
    return np.maximum(lower_N, low), np.minimum(upper_N, high)  # rounding may step over the end


def _upper_ends(values_N_P: NDArray[np.float64], high: float, seed: int) -> NDArray[np.float64]:
    # Sorted, the k-th largest value always meets the same weights: a larger value never lowers the end.
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

    `interval` between -1 and 1. It speaks of unseen puzzles too, a few in P of which may differ by 1,
    so it reaches -ln(.025) / P = 3.7 / P to either side even where no puzzle differs, and may hold 0
    where `sign_flip_test`, which speaks of these puzzles only, is sure of a much smaller difference.

    Args:
        differences_P: [P] in [-1, 1]: pass@k of B minus pass@k of A.
        seed: Of the weights. Swapped models give the mirrored interval.

    Raises:
        ValueError: There are no differences, or one lies outside [-1, 1].
    """
    return interval(differences_P, -1.0, 1.0, seed)


def sign_flip_test(differences_P: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of the paired randomisation test: could two equal models differ as much?

    If each puzzle is as hard for A as for B, and both drew the same number of candidates, each
    difference is as likely as its negative (Fisher 1935). The p-value is the share of all signs that
    give an absolute sum at least as large. With more than 18 non-zero differences random signs stand
    for all, and (1 + as large) / (1 + drawn) keeps the p-value valid at every level (Phipson and
    Smyth, "Permutation P-values Should Never Be Zero", 2010). Of differences -1, 0 and 1 it is the
    exact test of McNemar.

    Args:
        differences_P: [P] B minus A on the same puzzles. Order and which model is B do not matter.
        seed: Of the random signs.

    Returns:
        In (0, 1]; 1 where nothing differs.

    Raises:
        ValueError: There are no differences, or one is not a finite number.
    """
    differences_P = np.asarray(differences_P, dtype=np.float64)
    if differences_P.ndim != 1 or not len(differences_P) or not np.isfinite(differences_P).all():
        raise ValueError("a test needs the differences of at least one puzzle, all finite")
    sizes_D = np.sort(np.abs(differences_P[differences_P != 0]))
    # Sums that are equal on paper may differ in their last bits: they count as large as the one seen.
    least = abs(differences_P.sum()) - 1e-9 * sizes_D.sum()
    if len(sizes_D) <= ENUMERATED:
        return float(np.mean(np.abs(_all_signed_sums(sizes_D)) >= least))
    rng = np.random.default_rng(seed)
    sums_F = np.zeros(FLIPS)
    for start in range(0, len(sizes_D), 12):  # a draw from all signs of a dozen is twelve draws in one
        sums_of_dozen = _all_signed_sums(sizes_D[start : start + 12])
        sums_F += sums_of_dozen[rng.integers(0, len(sums_of_dozen), FLIPS)]
    return float(1 + np.sum(np.abs(sums_F) >= least)) / (1 + FLIPS)


def _all_signed_sums(sizes_D: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for size in sizes_D:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def holm(p_values_M: ArrayLike) -> NDArray[np.float64]:
    """P-values of several tests as if each were the only one: the chance that any is wrong stays below its level.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (Scandinavian Journal of Statistics 6, 1979): the
    smallest times M, the next one times M - 1 and so on, none below the one before. They may depend on each other.

    Args:
        p_values_M: [M] in [0, 1].

    Returns:
        [M] in [0, 1], in the same order.
    """
    p_values_M = np.asarray(p_values_M, dtype=np.float64)
    order_M = np.argsort(p_values_M, kind="stable")
    adjusted_M = np.empty_like(p_values_M)
    factors_M = np.arange(len(p_values_M), 0, -1)
    adjusted_M[order_M] = np.minimum(np.maximum.accumulate(p_values_M[order_M] * factors_M), 1.0)
    return adjusted_M


def detectable_difference(num_samples_P: ArrayLike, num_correct_P: ArrayLike, k: int) -> float:
    """A floor under the difference in pass@k that a paired comparison on these puzzles can find.

    At least so large must the difference of two models be to be found with 80 % power at two-sided
    5 %, when a model that draws and solves as counted here is compared with one like it. The larger of:

    - (1.960 + 0.842) * sqrt(2 * mean within-puzzle variance of pass@k / P), the usual normal
      approximation, as if both models were equally noisy and the difference the same on all puzzles;
    - six puzzles won and none lost, without which no sign-flip test reaches 5 %, each by one candidate
      more than counted (of 0: by k / n).

    Anything uneven in the differences, and any noise on puzzles counted as unsolved, asks for more.

    Args:
        num_samples_P: [P] candidates n drawn for each puzzle, all >= k.
        num_correct_P: [P] accepted candidates c for each puzzle, 0 <= c <= n.
        k: Number of tries granted.

    Returns:
        A difference in mean pass@k; infinite for fewer than six puzzles.

    Raises:
        ValueError: As `pass_at_k`, or there are no puzzles.
    """
    n_P, c_P = np.asarray(num_samples_P), np.asarray(num_correct_P)
    if not len(n_P):
        raise ValueError("a detectable difference needs at least one puzzle")
    if len(n_P) < FEWEST_WINS:
        return math.inf
    # Where all k-subsets hold a success already, one more changes nothing: the last step that did.
    below_P = np.minimum(c_P, n_P - k)
    steps_P = pass_at_k(n_P, below_P + 1, k) - pass_at_k(n_P, below_P, k)
    fewest_wins = np.sort(steps_P)[:FEWEST_WINS].sum() / len(n_P)
    variances_P = [pass_at_k_variance(int(n), int(c) / int(n), k) for n, c in zip(n_P, c_P, strict=True)]
    noise = math.sqrt(2 * float(np.mean(variances_P)) / len(n_P))
    return max((TWO_SIDED_5_PERCENT + POWER_80_PERCENT) * noise, float(fewest_wins))


def pass_at_k_variance(num_samples: int, rate: float, k: int) -> float:
    """Variance of the `pass_at_k` estimate of one puzzle: summed over what Binomial(n, rate) may count.

    Args:
        num_samples: Candidates n drawn, >= k.
        rate: Probability in [0, 1] that one is accepted.
        k: Number of tries granted.

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
    """`pass@k` of a puzzle set for each k, each with its interval."""
    n, c = np.array(num_samples), np.array(num_correct)
    return {f"pass@{k}": interval(pass_at_k(n, c, k)) for k in ks}
