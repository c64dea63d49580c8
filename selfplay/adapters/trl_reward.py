"""A reward function for TRL's `GRPOTrainer(reward_funcs=…)` and its other online trainers.

The data set needs a column `puzzle` beside `prompt`; `selfplay archive export ARCHIVE OUT --format trl` writes both. A
completion may be a text or a conversation.

TRL calls the function in the process that trains. The judging goes on in the service's processes, so it never forks a
process that holds a GPU. Several trainers on one machine should share a service: start `selfplay judge` and set
SELFPLAY_JUDGE for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from selfplay.adapters.rewards import check, pair_of, rewards, usual
from selfplay.judge import Judge


def judge_reward(reward: str = "verdict", judge: Judge | None = None) -> Callable[..., Awaitable[list[float]]]:
    """A reward function; TRL logs it by its name, such as `judge_verdict`.

    Args:
        reward: One of `rewards.REWARDS`.
        judge: Gives the verdicts; by default the service of SELFPLAY_JUDGE, or one of this process's own.

    Raises:
        InputError: There is no such reward.
    """
    check(reward)

    async def function(
        prompts: Sequence[Any], completions: Sequence[Any], puzzle: Sequence[str], **_: Any
    ) -> list[float]:
        pairs = [pair_of(*each, reward) for each in zip(puzzle, prompts, completions, strict=True)]
        return rewards(pairs, await (judge or usual).averify(pairs), reward)

    function.__name__ = f"judge_{reward}"
    return function
