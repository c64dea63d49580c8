"""A learned judge of proposals: how often would they be solved, told from their text alone.

It is a logistic regression on the 47 numbers of `puzzles.features`, fitted to what came of the puzzles that earlier
iterations tried. It ranks, and decides nothing else: which proposals get candidates when not all can. What is accepted
is verified, as everything is.
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
"""With fewer tried ones nothing is ranked."""
NEWTON_STEPS = 20
RIDGE = 1.0
"""Weight of the penalty on squared weights: with 47 features and some hundred puzzles they are not free."""


@dataclass(frozen=True)
class Ranker:
    """Predicts solve rates."""

    weights_F: NDArray[np.float64]
    """Of standardised features, and last a constant."""
    mean_F: NDArray[np.float64]
    spread_F: NDArray[np.float64]

    @classmethod
    def fitted(cls, rows_P_F: NDArray[np.float64], accepted_P: ArrayLike, tried_P: ArrayLike) -> Ranker:
        """To puzzles of which so many candidates were accepted of so many tried.

        Each puzzle counts as one observation, however many candidates it had: they are of one kind.
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
    """[P, F] logarithms of the features, for counts have long tails."""
    rows = np.array([[each.features[name] for name in FEATURES] for each in traits], dtype=np.float64)
    return np.asarray(np.log1p(rows.reshape(-1, len(FEATURES))))


def logistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without an overflow."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))


def with_constant(rows_P_F: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows with a column of ones."""
    return np.column_stack([rows_P_F, np.ones(len(rows_P_F))])


def logistic_weights(rows_P_F: NDArray[np.float64], share_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F + 1] weights of a logistic regression with an L2 penalty on all but the constant, by Newton's method.

    Args:
        rows_P_F: [P, F], standardised.
        share_P: [P] in 0 to 1: of each row, how much of it is positive.
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
    """Puzzles tried in iterations before this one, each with accepted and all candidates of the last that tried it.

    The last, for the model has become another since. Further candidates are left out: they go by what the first said.
    """
    rows = archive.query(
        "SELECT c.puzzle, k.iteration, sum(c.verdict = 'accepted'), count(*) FROM candidates c"
        " JOIN chunks k ON k.id = c.chunk WHERE k.iteration < ? AND k.stage = ? GROUP BY 1, 2 ORDER BY 2, 1",
        iteration, solve.STAGE,
    )  # fmt: skip
    last = {puzzle: (accepted, tried) for puzzle, _, accepted, tried in rows}
    return [(puzzle, *counts) for puzzle, counts in sorted(last.items())]


def fitted_before(archive: Archive, pool: Pool, iteration: int) -> Ranker | None:
    """A ranker of what an iteration proposes, from all that was tried before; None with too little of that."""
    tried = tried_before(archive, iteration)
    if len(tried) < FEWEST_PUZZLES:
        return None
    rows = rows_of(described(pool, [archive.puzzle(identifier) for identifier, _, _ in tried]))
    return Ranker.fitted(rows, [accepted for _, accepted, _ in tried], [count for _, _, count in tried])


def best(archive: Archive, pool: Pool, iteration: int, proposed: Sequence[str], most: int) -> list[str]:
    """Of an iteration's proposals the so many that most is to be learned from, in their order; of iteration 1, all.

    That is p (1 - p) of the predicted rate: what is solved always teaches nothing, and what never is can not.
    """
    ranker = fitted_before(archive, pool, iteration) if len(proposed) > most else None
    if ranker is None:
        return list(proposed)
    rates_P = ranker.rates(rows_of(described(pool, [archive.puzzle(identifier) for identifier in proposed])))
    kept = np.argsort(-rates_P * (1 - rates_P), kind="stable")[:most]
    return [proposed[place] for place in sorted(kept)]
