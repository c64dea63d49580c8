"""A task for inspect_ai: `inspect eval selfplay/puzzles -T puzzles=dev --model …`, and `inspect view` on its log.

The puzzles are those that `selfplay bench` scores. Each is asked `epochs` times, and `pass_at_k` is inspect_ai's
unbiased estimate over these. Scores come with the verdict, its detail and the answer. Where there is no verdict, the
sample has an error and no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer, stderr
from inspect_ai.solver import TaskState, generate

from puzzles.puzzle import InputError
from selfplay.adapters.rewards import check_single, pair_of, rewards, usual
from selfplay.adapters.rows import rows


@scorer(metrics=[accuracy(), stderr()])
def judged(reward: str = "verdict") -> Scorer:
    """Scores a reply by the judge's verdict on it.

    Args:
        reward: `verdict`, or `conjuncts` for the share of the puzzle's conjuncts that hold.
    """
    check_single(reward)

    async def score(state: TaskState, target: Target) -> Score:
        pair = pair_of(state.metadata["puzzle"], None, state.output.completion, reward)
        (found,) = await usual.averify([pair])
        evidence: Mapping[str, Any] = {"cpu_ms": found.cpu_ms, "left_out": list(found.left_out)}
        return Score(
            value=rewards([pair], [found], reward)[0],
            answer=found.answer,
            explanation=f"{found.verdict}: {found.detail}" if found.detail else str(found.verdict),
            metadata={"verdict": str(found.verdict), **evidence},
        )

    return score


@task
def puzzles(puzzles: str = "heldout", epochs: int = 1, k: int | list[int] = 1, reward: str = "verdict") -> Task:
    """The puzzles of a set, asked for their solutions.

    Args:
        puzzles: `dev`, `heldout`, `train`, a puzzle file or an archive.
        epochs: Number of samples of each puzzle.
        k: One or several numbers k of pass@k; none may be above `epochs`. On the command line: `-T k=1,10`.
        reward: As of `judged`.

    Raises:
        InputError: There is no such set, or k is above the number of samples.
    """
    samples = [
        Sample(id=row.id, input=row.prompt, target="accepted", metadata={"name": row.name, "puzzle": row.puzzle})
        for row in rows(puzzles)
    ]
    several = k if isinstance(k, list) else [k]
    if max(map(int, several)) > epochs:
        raise InputError(f"k: expected at most epochs = {epochs}, got {max(map(int, several))}")
    reducers = [f"pass_at_{int(each)}" for each in several] if reward == "verdict" else ["mean"]
    return Task(
        dataset=MemoryDataset(samples, name=puzzles), solver=generate(), scorer=judged(reward),
        epochs=Epochs(epochs, reducers),
    )  # fmt: skip
