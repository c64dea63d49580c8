"""The game of proposer and solver: what each is paid, and what either learns from its pay. numpy only.

A proposal is paid by its solve rate p, the share c / n of its candidates that was accepted; a candidate by its
verdict. What moves a model is a reward minus its baseline (`advantages`), or whether it is above the mean
(`keep_above_mean`). The baseline is a mean of the same iteration, whose rewards are all there before anything is
learned; SPIRAL's moving average for each role (arXiv:2506.24119) stands in where they come one after the other, and is
not needed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puzzles.puzzle import Verdict
from selfplay.config import FEWEST_CANDIDATES

if TYPE_CHECKING:  # settings list the games, and commands that need no packages read settings
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

ROLES = ("propose", "solve")


def competitive(accepted: int, candidates: int) -> float:
    """1 - p, in [0, 1]: what the solver wins, the proposer loses; most is paid for what nobody can solve."""
    return 1 - accepted / candidates


def cooperative(accepted: int, candidates: int) -> float:
    """The solve rate p, in [0, 1]: both win together; most is paid for what is solved always."""
    return accepted / candidates


def learnability(accepted: int, candidates: int) -> float:
    """4 p (1 - p) without bias, from at least two candidates: most is paid for what is solved every other time.

    c / n in its place gives (n - 1) / n of it on average, so it is multiplied by n / (n - 1). The factor 4 is a
    constant that makes the range of what is estimated [0, 1]; an estimate is at most n / (n - 1), and is not cut off
    at 1, which would be a bias again.
    """
    return 4 * accepted * (candidates - accepted) / (candidates * (candidates - 1))


def balanced(accepted: int, candidates: int) -> float:
    """min(p, 1 - p), in [0, .5], as R-Zero's code pays (arXiv:2508.05004; its paper twice that), there with the share
    of the majority for p."""
    return min(accepted, candidates - accepted) / candidates


USELESS = -0.5
"""Absolute Zero's reward for a puzzle that teaches nothing."""


def absolute_zero(accepted: int, candidates: int) -> float:
    """1 - p where some candidates were accepted and some not, else -.5: Absolute Zero's (arXiv:2505.03335), as it ran.

    Its paper has 0 for p of 0 and 1 (equation 4), its published code -.5 (its issue 37). The code's is taken, as it is
    what others can run; and with 0 a puzzle that nobody solves would be paid about as one that nearly everybody does.
    """
    return 1 - accepted / candidates if 0 < accepted < candidates else USELESS


@dataclass(frozen=True)
class Payoffs:
    """What there is to win in a game."""

    rate: Callable[[int, int], float]
    """The proposer's reward of a new, valid puzzle, from how many candidates were accepted, and of how many."""
    refused: float = 0.0
    """Of a proposal that is no puzzle, or was not admitted: in the negotiations of arXiv:2406.18872 nobody wins
    anything where there is no deal."""
    duplicate: float = 0.0
    """Of a puzzle that the archive has. It is valid, but brings nothing; paid like the first one, it would be paid best
    to copy what stands in the prompt."""
    wrong: float = 0.0
    """The solver's reward for a candidate that was not accepted; one that was is paid 1."""
    malformed: float = 0.0
    """For one that is no program."""
    fewest_candidates: int = 1
    """Of fewer nothing can be said, and a puzzle has no reward."""
    keeps_valid_zeros: bool = False
    """Whether filtered cloning keeps a valid puzzle that was paid 0 (`keep_above_mean`)."""

    def proposal(self, accepted: int, candidates: int) -> float | None:
        """The reward of a new, valid puzzle; None with too few candidates.

        Args:
            accepted: Candidates c that were accepted, 0 <= c <= n.
            candidates: Candidates n; how many must not depend on what came of them, or p is biased.
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
    # A copy is worth no more than another puzzle that teaches nothing: with 0 copying would be paid better than trying.
    "absolute-zero": Payoffs(absolute_zero, refused=-1.0, duplicate=USELESS, wrong=-0.5, malformed=-1.0),
}
"""By name. `competitive` pulls to puzzles that nobody can solve, as none asks for a proof that somebody can, and
`cooperative` to those that everybody can: they are there to be compared with."""


def advantages(rewards_N: ArrayLike, groups_N: Sequence[Hashable], by_deviation: bool = False) -> NDArray[np.float64]:
    """Each reward minus the mean of its group; 0 where a group's rewards are all the same, as that of one alone.

    With what was sampled from one prompt as a group, GRPO's (arXiv:2402.03300): with `by_deviation` as published,
    without it as arXiv:2503.20783 corrects it. With roles as groups and `by_deviation`, the normalisation of each role
    by itself, as Absolute Zero's TRR++, which counts tokens rather than texts.

    Args:
        rewards_N: [N].
        groups_N: [N] what each is compared within.
        by_deviation: Whether it is divided by the group's standard deviation (of all its members: by N, not N - 1).

    Returns:
        [N]; they sum to 0 in each group.
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
    advantages_N[~differing_G[group_N]] = 0.0  # rounding apart, which a deviation of rounding would make large
    if by_deviation:
        deviations_G = np.sqrt(np.bincount(group_N, advantages_N**2) / sizes_G)
        advantages_N /= np.where(differing_G, deviations_G, 1.0)[group_N]
    return advantages_N


def keep_above_mean(scores_N: Sequence[float], even_if_zero_N: Sequence[bool] | None = None) -> NDArray[np.bool_]:
    """Which texts of one role and iteration are learned: those above the mean of all of them, and not those at it.

    Filtered behaviour cloning of arXiv:2406.18872. There the scores of the competitive game sum to 0 and so does their
    mean, or nearly, and a valid deal in which both win 0 is kept as well: `even_if_zero_N` are the valid ones.

    Args:
        scores_N: [N] of all texts, refused ones with theirs: a cutoff of the good ones alone would drop half of them.
        even_if_zero_N: [N] which ones are kept with a score of exactly 0; None: none.
    """
    import numpy as np

    if not len(scores_N):
        return np.zeros(0, dtype=bool)
    # This mean is exact, so that a score equal to it on paper is never above it.
    kept_N = np.asarray(scores_N) > statistics.mean(scores_N)
    if even_if_zero_N is not None:
        kept_N |= (np.asarray(scores_N) == 0) & np.asarray(even_if_zero_N)
    return kept_N
