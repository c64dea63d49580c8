"""A score for verl: `compute_score` as `reward.custom_reward_function` calls it (see `examples/verl_grpo.sh` here).

The puzzle's text is a row's `reward_model.ground_truth`. Where `extra_info` has a `prompt` that ends with `def g():`,
the solution is read as its continuation. verl calls this for one sample at a time, from the threads of several workers.
So start `selfplay judge` first, set SELFPLAY_JUDGE for all workers, and single calls become batches there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay.adapters.rewards import check_single, pair_of, rewards, usual


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None,
    reward: str = "verdict", **_: Any,
) -> dict[str, float]:  # fmt: skip
    """The score of one sample, and whether it is right (`acc`), which verl logs beside it.

    Args:
        data_source: Not used.
        solution_str: What the model wrote.
        ground_truth: The puzzle's text.
        extra_info: May have the `prompt`.
        reward: `verdict` or `conjuncts`; from `+reward.custom_reward_function.reward_kwargs.reward=…`.

    Raises:
        InputError: There is no such reward for one sample.
        JudgeError: There is no verdict.
    """
    check_single(reward)
    pair = pair_of(ground_truth, (extra_info or {}).get("prompt"), solution_str, reward)
    found = usual.verify([pair])
    return {"score": rewards([pair], found, reward)[0], "acc": float(found[0].accepted)}
