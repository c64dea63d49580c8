"""Rewards for completions: what a trainer is told of a verdict. The caller chooses one by name.

verdict          1 for an accepted solution, else 0
conjuncts        the share of the puzzle's conjuncts that the answer fulfils (`puzzles.conjuncts`), to shape the way
                 to a right answer; 1 for an accepted solution only
a game's name    the verdict, times what this game would pay the proposer of a puzzle that is solved as often as in this
                 batch, but at least 0 (`training/game.py`): with `learnability`, for example, puzzles that are solved
                 every other time count most. It needs several completions of a puzzle in one call.

A reward is a finite number in [0, 1], or up to 2 with `learnability`, and comes only with a verdict: where there is
none, `JudgeError` is raised, and nothing was scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from puzzles.puzzle import InputError
from selfplay.judge import Judge, Judged, Pair
from selfplay.training.game import GAMES

SINGLE = ("verdict", "conjuncts")
"""Rewards that a sample has by itself."""
REWARDS = (*SINGLE, *GAMES)
"""The rewards by name."""
HEADER = "def g("
"""Beginning of the line that a prompt for a base model ends with."""

usual = Judge()
"""The judge of SELFPLAY_JUDGE, or one of this process's own. It starts at its first verdict."""


def check(reward: str) -> None:
    """Check a reward's name.

    Raises:
        InputError: There is no such reward.
    """
    if reward not in REWARDS:
        raise InputError(f"reward: expected one of {', '.join(REWARDS)}, got {reward!r}")


def check_single(reward: str) -> None:
    """Check the name of a reward for one sample at a time.

    Raises:
        InputError: There is no such reward, or it needs several samples of a puzzle.
    """
    if reward not in SINGLE:
        raise InputError(f"reward: expected {' or '.join(SINGLE)} for one sample at a time, got {reward!r}")


def text_of(completion: Any) -> str:
    """A completion's text: itself, or the content of the last message of a conversation."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, list):  # parts, as of models that also see pictures
        return "".join(part.get("text", "") for part in content)
    return content or ""


def pair_of(puzzle: str, prompt: Any, completion: Any, reward: str = "verdict") -> Pair:
    """What is judged. A text that goes on from a prompt's last line `def g(…):` begins with this line."""
    text, last = text_of(completion), prompt.rpartition("\n")[2] if isinstance(prompt, str) else ""
    if last.startswith(HEADER):
        return Pair(puzzle, last + text, "continuation", conjuncts=reward == "conjuncts")
    return Pair(puzzle, text, "chat", conjuncts=reward == "conjuncts")


def rewards(pairs: Sequence[Pair], judged: Sequence[Judged], reward: str) -> list[float]:
    """The rewards of judged pairs, in order.

    Raises:
        InputError: A game needs more completions of a puzzle than there are.
    """
    if reward == "verdict":
        return [float(each.accepted) for each in judged]
    if reward == "conjuncts":
        return [each.conjuncts or 0.0 for each in judged]
    tried = Counter(pair.puzzle for pair in pairs)
    solved = Counter(pair.puzzle for pair, each in zip(pairs, judged, strict=True) if each.accepted)
    weights = {puzzle: GAMES[reward].proposal(solved[puzzle], count) for puzzle, count in tried.items()}
    if None in weights.values():
        least = GAMES[reward].fewest_candidates
        raise InputError(f"reward {reward}: expected at least {least} completions of each puzzle in a call")
    return [max(0.0, weights[pair.puzzle] or 0.0) * each.accepted for pair, each in zip(pairs, judged, strict=True)]
