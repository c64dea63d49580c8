"""A reward for OpenRLHF: `reward_func` in the file that `--reward.remote_url` names.

    --reward.remote_url "$(python -c 'import selfplay.adapters.openrlhf_reward as r; print(r.__file__)')"

A row's label is the puzzle's text (`--data.label_key puzzle`). OpenRLHF calls this for one sample at a time from many
threads, which the judge gathers. It logs an exception of this function and goes on without the reward, so look for
`JudgeError` in its log. `SELFPLAY_REWARD` chooses the reward: `verdict` or `conjuncts`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from selfplay.adapters.rewards import check_single, pair_of, rewards, usual


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """The rewards of completed prompts.

    Args:
        queries: Prompts with the completions behind them.
        prompts: The prompts.
        labels: The puzzles' texts.

    Raises:
        InputError: There is no such reward for one sample.
        JudgeError: There is no verdict.
    """
    reward = os.environ.get("SELFPLAY_REWARD", "verdict")
    check_single(reward)
    pairs = [
        pair_of(puzzle, prompt, query.removeprefix(prompt), reward)
        for query, prompt, puzzle in zip(queries, prompts, labels, strict=True)
    ]
    found = usual.verify(pairs)
    values = torch.tensor(rewards(pairs, found, reward))
    accepted = torch.tensor([float(each.accepted) for each in found])
    return {"rewards": values, "scores": values, "extra_logs": {"accepted": accepted}}
