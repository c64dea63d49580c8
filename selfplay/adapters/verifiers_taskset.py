"""A taskset for verifiers v1, as prime-rl and the Environments Hub take it: puzzles, and the judge as their reward.

`selfplay/adapters/environment` is the package that exports it, so that it can be installed and named.
"""

from __future__ import annotations

import verifiers.v1 as vf

from puzzles.puzzle import InputError
from selfplay.adapters.rewards import pair_of, usual
from selfplay.adapters.rows import rows


class PuzzleData(vf.TaskData):
    """A puzzle's row."""

    puzzle: str
    """The puzzle's text, which the judge takes."""


class PuzzleTask(vf.Task[PuzzleData]):
    """A puzzle that asks for a solution."""

    @vf.reward
    async def verdict(self, trace: vf.Trace) -> float:
        """1 if the judge accepts the last reply. Raises `JudgeError` where there is no verdict."""
        (found,) = await usual.averify([pair_of(self.data.puzzle, None, trace.last_reply)])
        return float(found.accepted)


class PuzzleConfig(vf.TasksetConfig):
    """What a user of the taskset may choose."""

    puzzles: str = "train"
    """`train`, `dev`, `heldout`, a puzzle file or an archive."""


class PuzzleTaskset(vf.Taskset[PuzzleTask, PuzzleConfig]):
    """The puzzles of a set or an archive."""

    def load(self) -> list[PuzzleTask]:
        """One task for each puzzle."""
        return [
            PuzzleTask(PuzzleData(idx=index, name=row.name, prompt=row.prompt, puzzle=row.puzzle), self.config.task)
            for index, row in enumerate(rows(self.config.puzzles))
        ]


class PuzzleEnvConfig(vf.SingleAgentEnvConfig):
    """A model that only replies, in a process of this machine.

    Without this, verifiers would give it a shell in a rented container.
    """

    agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime=vf.SubprocessConfig())


class PuzzleEnv(vf.SingleAgentEnv, vf.Env[PuzzleEnvConfig]):
    """One reply to each puzzle. `--env.agent.harness.id` and `--env.agent.runtime.type` choose something else.

    Raises:
        InputError: The harness gives the model a shell, and its runtime is no container.
    """

    def __init__(self, config: PuzzleEnvConfig) -> None:
        harness = config.agent_harnesses()["agent"]
        if config.agent.runtime.type == "subprocess" and vf.load_harness(harness).EXECUTES_CODE:
            raise InputError(
                f"the harness {harness.id} would run the model's commands on this machine: choose a container with "
                "--env.agent.runtime.type, such as docker"
            )
        super().__init__(config)
