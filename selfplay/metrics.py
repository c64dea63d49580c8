"""pass@k and its interval. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95


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

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values_P: NDArray[np.float64], seed: int = 0) -> Score:
    """Mean over puzzles with a 95 % percentile bootstrap over puzzles (10,000 resamples)."""
    rng = np.random.default_rng(seed)
    values_P = np.asarray(values_P)
    means = np.concatenate(
        [values_P[rng.integers(0, len(values_P), (1000, len(values_P)))].mean(axis=1) for _ in range(RESAMPLES // 1000)]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(float(values_P.mean()), float(low), float(high))


def scores(num_samples: Sequence[int], num_correct: Sequence[int], ks: Sequence[int]) -> dict[str, Score]:
    """`pass@k` of a puzzle set for each k, each with its interval."""
    n, c = np.array(num_samples), np.array(num_correct)
    return {f"pass@{k}": bootstrap(pass_at_k(n, c, k)) for k in ks}
