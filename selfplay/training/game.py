"""The game of proposer and solver: the rewards of both, and what each learns from them. numpy only.

A proposal's reward depends on its solve rate p, the share c / n of its candidates that was accepted. A candidate's
reward depends on its verdict. A model learns from rewards minus a baseline (`advantages`), or from the texts whose
reward is above the mean (`keep_above_mean`). The baseline is a mean over the same iteration, because all rewards of an
iteration are known before anything is learned. SPIRAL's moving average per role (arXiv:2506.24119) is for rewards that
come one after the other, and is not needed here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puzzles.puzzle import Verdict
from selfplay.config import FEWEST_CANDIDATES

if TYPE_CHECKING:  # settings name the games, and commands that need no packages read settings
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

ROLES = ("propose", "solve")


def competitive(accepted: int, candidates: int) -> float:
    """1 - p, in [0, 1]: the proposer loses what the solver wins. Highest for puzzles that nobody solves."""
    return 1 - accepted / candidates


def cooperative(accepted: int, candidates: int) -> float:
    """The solve rate p, in [0, 1]: both win together. Highest for puzzles that are always solved."""
    return accepted / candidates


def learnability(accepted: int, candidates: int) -> float:
    """Unbiased estimate of 4 p (1 - p), from at least two candidates. Highest for puzzles solved every other time.

    With c / n in place of p the expected value is (n - 1) / n of it, so the estimate is multiplied by n / (n - 1). The
    factor 4 gives the estimated quantity the range [0, 1]. An estimate is at most n / (n - 1). It is not cut off at 1,
    because that would bias it again.
    """
    return 4 * accepted * (candidates - accepted) / (candidates * (candidates - 1))


def balanced(accepted: int, candidates: int) -> float:
    """min(p, 1 - p), in [0, .5], as in R-Zero's code (arXiv:2508.05004; the paper has twice that). R-Zero takes the
    share of the majority answer for p."""
    return min(accepted, candidates - accepted) / candidates


USELESS = -0.5
"""Absolute Zero's reward for a puzzle that teaches nothing."""


def absolute_zero(accepted: int, candidates: int) -> float:
    """1 - p if some candidates were accepted and some not, else -.5: Absolute Zero's reward (arXiv:2505.03335), as run.

    The paper has 0 for p = 0 and p = 1 (equation 4), the published code -.5 (its issue 37). The code's value is used
    here, because others can run it. Also, with 0 a puzzle that nobody solves would earn about as much as one that
    nearly everybody solves.
    """
    return 1 - accepted / candidates if 0 < accepted < candidates else USELESS


@dataclass(frozen=True)
class Payoffs:
    """The rewards of a game."""

    rate: Callable[[int, int], float]
    """The proposer's reward for a new, valid puzzle: a function of the accepted candidates and of all candidates."""
    refused: float = 0.0
    """Reward for a proposal that is not a puzzle, or was not admitted. In the negotiations of arXiv:2406.18872, too,
    nobody wins anything without a deal."""
    duplicate: float = 0.0
    """Reward for a puzzle that the archive already has. It is valid but adds nothing. With the reward of a new puzzle,
    copying a puzzle of the prompt would pay best."""
    wrong: float = 0.0
    """The solver's reward for a candidate that was not accepted. An accepted candidate earns 1."""
    malformed: float = 0.0
    """The solver's reward for a candidate that is not a program."""
    fewest_candidates: int = 1
    """Fewest candidates from which a puzzle's reward can be computed. A puzzle with fewer has no reward."""
    keeps_valid_zeros: bool = False
    """Whether filtered cloning keeps a valid puzzle whose reward is 0 (`keep_above_mean`)."""

    def proposal(self, accepted: int, candidates: int) -> float | None:
        """The reward of a new, valid puzzle; None with too few candidates.

        Args:
            accepted: Number c of accepted candidates, 0 <= c <= n.
            candidates: Number n of candidates. It must not depend on their verdicts, or p is biased.
        """
        return self.rate(accepted, candidates) if candidates >= self.fewest_candidates else None

    def candidate(self, verdict: str) -> float:
        """The reward of a candidate."""
        if verdict == Verdict.ACCEPTED:
            return 1.0
        return self.malformed if verdict == Verdict.INVALID_SOLUTION else self.wrong


GAMES: Mapping[str, Payoffs] = {
    "competitive": Payoffs(competitive, keeps_valid_zeros=True),
    "cooperative": Payoffs(cooperative),
    "learnability": Payoffs(learnability, fewest_candidates=FEWEST_CANDIDATES["learnability"]),
    "balanced": Payoffs(balanced),
    # A copy earns as much as any puzzle that teaches nothing. With 0, copying would pay better than trying.
    "absolute-zero": Payoffs(absolute_zero, refused=-1.0, duplicate=USELESS, wrong=-0.5, malformed=-1.0),
}
"""The games by name. `competitive` draws proposers to puzzles that nobody can solve, because it asks for no proof that
somebody can. `cooperative` draws them to puzzles that everybody can solve. Both are there for comparison."""


def advantages(rewards_N: ArrayLike, groups_N: Sequence[Hashable], by_deviation: bool = False) -> NDArray[np.float64]:
    """Each reward minus the mean of its group; 0 if all rewards of the group are the same, such as in a group of one.

    If the texts of one prompt are a group, these are the advantages of GRPO (arXiv:2402.03300): with `by_deviation` as
    published, without it as corrected by arXiv:2503.20783. If the roles are the groups, with `by_deviation`, each role
    is normalised by itself as in Absolute Zero's TRR++, which counts tokens instead of texts.

    Args:
        rewards_N: [N] rewards.
        groups_N: [N] group of each reward.
        by_deviation: Whether to divide by the group's standard deviation (over all its members: by N, not N - 1).

    Returns:
        [N] advantages; they sum to 0 in each group.
    """
    import numpy as np

    rewards_N = np.asarray(rewards_N, dtype=np.float64)
    numbers: dict[Hashable, int] = {}
    group_N = np.array([numbers.setdefault(group, len(numbers)) for group in groups_N], dtype=np.int64)
    sizes_G = np.bincount(group_N)
    advantages_N = rewards_N - (np.bincount(group_N, rewards_N) / sizes_G)[group_N]
    first_G = np.zeros(len(sizes_G))
    first_G[group_N[::-1]] = rewards_N[::-1]
    differing_G = np.bincount(group_N, rewards_N != first_G[group_N]) > 0
    advantages_N[~differing_G[group_N]] = 0.0  # drop rounding errors, or the division would enlarge them
    if by_deviation:
        deviations_G = np.sqrt(np.bincount(group_N, advantages_N**2) / sizes_G)
        advantages_N /= np.where(differing_G, deviations_G, 1.0)[group_N]
    return advantages_N


def keep_above_mean(scores_N: Sequence[float], even_if_zero_N: Sequence[bool] | None = None) -> NDArray[np.bool_]:
    """Which texts of one role and iteration are learned: those with a score above the mean, and not those at the mean.

    This is the filtered behaviour cloning of arXiv:2406.18872. There the scores of the competitive game sum to about 0,
    so their mean is about 0, and a valid deal in which both win 0 is kept as well. `even_if_zero_N` marks such texts.

    Args:
        scores_N: [N] scores of all texts, refused ones included. The mean of the good ones alone would drop half of
            them.
        even_if_zero_N: [N] whether a text is kept with a score of exactly 0; None keeps none of these.
    """
    import numpy as np

    if not len(scores_N):
        return np.zeros(0, dtype=bool)
    # `statistics.mean` is exact. So a score that equals the mean on paper is never above it.
    kept_N = np.asarray(scores_N) > statistics.mean(scores_N)
    if even_if_zero_N is not None:
        kept_N |= (np.asarray(scores_N) == 0) & np.asarray(even_if_zero_N)
    return kept_N
