"""A ranker of proposals: it predicts from a puzzle's text alone how often the puzzle would be solved.

It is a logistic regression on the 47 numbers of `puzzles.features`. It is fitted to the puzzles that earlier iterations
tried. It decides only which proposals get candidates when not all can. Solutions are verified as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from puzzles.archive.store import Archive
from puzzles.features import FEATURES, Traits, described
from sandbox.pool import Pool
from selfplay.iteration import solve

FEWEST_PUZZLES = 50
"""Fewest tried puzzles to fit to. With fewer nothing is ranked."""
NEWTON_STEPS = 20
RIDGE = 1.0
"""Weight of the L2 penalty. With 47 features and some hundred puzzles, free weights would overfit."""


@dataclass(frozen=True)
class Ranker:
    """Predicts solve rates."""

    weights_F: NDArray[np.float64]
    """[F + 1] weights of the standardised features, and last the constant."""
    mean_F: NDArray[np.float64]
    spread_F: NDArray[np.float64]

    @classmethod
    def fitted(cls, rows_P_F: NDArray[np.float64], accepted_P: ArrayLike, tried_P: ArrayLike) -> Ranker:
        """A ranker fitted to puzzles, given the accepted and the tried candidates of each.

        Each puzzle counts as one observation, however many candidates it had, because they share the puzzle's features.
        """
        share_P = np.asarray(accepted_P, dtype=np.float64) / np.asarray(tried_P, dtype=np.float64)
        mean_F, spread_F = rows_P_F.mean(axis=0), rows_P_F.std(axis=0)
        spread_F = np.where(spread_F > 0, spread_F, 1)
        weights_F = logistic_weights((rows_P_F - mean_F) / spread_F, share_P)
        return cls(weights_F, mean_F, spread_F)

    def rates(self, rows_P_F: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P] predicted solve rates."""
        return logistic(with_constant((rows_P_F - self.mean_F) / self.spread_F) @ self.weights_F)


def rows_of(traits: Sequence[Traits]) -> NDArray[np.float64]:
    """[P, F] logarithms of the features, because counts have long tails."""
    rows = np.array([[each.features[name] for name in FEATURES] for each in traits], dtype=np.float64)
    return np.asarray(np.log1p(rows.reshape(-1, len(FEATURES))))


def logistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), computed without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))


def with_constant(rows_P_F: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows with a last column of ones."""
    return np.column_stack([rows_P_F, np.ones(len(rows_P_F))])


def logistic_weights(rows_P_F: NDArray[np.float64], share_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F + 1] weights of a logistic regression with an L2 penalty on all but the constant, by Newton's method.

    Args:
        rows_P_F: [P, F], standardised.
        share_P: [P], in 0 to 1: the positive share of each row.
    """
    rows = with_constant(rows_P_F)
    penalty = np.diag([RIDGE] * rows_P_F.shape[1] + [0.0])
    weights = np.zeros(rows.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = logistic(rows @ weights)
        slope = rows.T @ (chance - share_P) + penalty @ weights
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows + penalty
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), slope)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def tried_before(archive: Archive, iteration: int) -> list[tuple[str, int, int]]:
    """Puzzles tried before this iteration, with accepted and all candidates from the last iteration that tried each.

    Only the last iteration counts, because the model has changed since earlier ones. Further candidates are left out,
    because they depend on the outcome of the first.
    """
    rows = archive.query(
        "SELECT c.puzzle, k.iteration, sum(c.verdict = 'accepted'), count(*) FROM candidates c"
        " JOIN chunks k ON k.id = c.chunk WHERE k.iteration < ? AND k.stage = ? GROUP BY 1, 2 ORDER BY 2, 1",
        iteration, solve.STAGE,
    )  # fmt: skip
    last = {puzzle: (accepted, tried) for puzzle, _, accepted, tried in rows}
    return [(puzzle, *counts) for puzzle, counts in sorted(last.items())]


def fitted_before(archive: Archive, pool: Pool, iteration: int) -> Ranker | None:
    """A ranker fitted to all puzzles tried before an iteration; None if these are too few."""
    tried = tried_before(archive, iteration)
    if len(tried) < FEWEST_PUZZLES:
        return None
    rows = rows_of(described(pool, [archive.puzzle(identifier) for identifier, _, _ in tried]))
    return Ranker.fitted(rows, [accepted for _, accepted, _ in tried], [count for _, _, count in tried])


def best(archive: Archive, pool: Pool, iteration: int, proposed: Sequence[str], most: int) -> list[str]:
    """The `most` proposals from which most is to be learned, in their order; all of them if no ranker can be fitted.

    They are ranked by p (1 - p) of the predicted solve rate p. A puzzle that is always solved teaches nothing, and one
    that is never solved cannot teach.
    """
    ranker = fitted_before(archive, pool, iteration) if len(proposed) > most else None
    if ranker is None:
        return list(proposed)
    rates_P = ranker.rates(rows_of(described(pool, [archive.puzzle(identifier) for identifier in proposed])))
    kept = np.argsort(-rates_P * (1 - rates_P), kind="stable")[:most]
    return [proposed[place] for place in sorted(kept)]
