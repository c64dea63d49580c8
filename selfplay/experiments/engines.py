"""The sandbox and the model that a run's settings ask for.

Sampling and judging happen in this process and its children, on servers that have the weights, or on the nodes of a
cluster. Training happens in this process either way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzles.archive import worlds
from sandbox.pool import Pool
from selfplay.config import EndpointConfig, FinetuneConfig, ModelConfig, RunConfig
from selfplay.iteration.loop import run
from selfplay.run.pools import proven_pool
from selfplay.run.progress import Progress
from selfplay.run.resources import TrainingNeeds
from selfplay.run.rundir import RunDir
from selfplay.sampling import cluster
from selfplay.sampling.endpoint import PROBE_TOKENS, PROBES, Endpoint
from selfplay.sampling.model import LanguageModel, device_of, free_bytes
from selfplay.sampling.sampler import SamplingSettings
from selfplay.sampling.serving import ManagedServer
from selfplay.training.backend import Backend, Training
from selfplay.training.finetune import TransformersBackend

ELSEWHERE = ""
"""Value of `model.path` if only the servers have the weights."""


@contextlib.contextmanager
def judges(config: RunConfig, say: Callable[[str], object], seed: int) -> Iterator[tuple[Pool, dict[str, Any]]]:
    """The sandbox that a run's settings ask for, and the protections that it has proved.

    Args:
        config: The settings.
        say: Shows a line.
        seed: Seed of the worlds, as `puzzles.archive.worlds` draws it or finds it in the run's archive.
    """
    if config.executor == "ray":
        with cluster.connected(config.ray), cluster.proven_pool(config.sandbox, seed, say) as proven:
            yield proven
    else:
        with proven_pool(config.sandbox, seed) as proven:
            yield proven


@contextlib.contextmanager
def engine(config: RunConfig, rundir: RunDir) -> Iterator[Backend]:
    """The backend that a run's settings ask for. Servers and actors that it starts end with it."""
    endpoint = config.endpoint
    if endpoint.urls or endpoint.serve:
        draws = any(stage.temperature > 0 for stage in (config.propose, config.solve, config.evaluate))
        is_bounded = bool(config.budget.tokens or config.budget.price)
        served = ServedBackend(endpoint, config.prompt.protocol, rundir.server_log, draws, is_bounded)
        with contextlib.closing(served):
            yield served
    elif config.executor == "ray":
        with cluster.connected(config.ray), contextlib.closing(RayBackend(config.ray.samplers)) as backend:
            yield backend
    else:
        yield TransformersBackend()


def run_iterations(
    config: RunConfig, folder: str | Path, progress: Progress | None = None, only_plans: bool = False
) -> list[dict[str, Any]]:
    """Run or resume a run in a folder, with the model, servers, sandbox or cluster that its settings ask for.

    Args:
        config: The settings, as `selfplay.load` reads them.
        folder: The run's folder. It is made if there is none.
        progress: Shows how far the run is. By default nothing is shown.
        only_plans: Whether the run ends where chunks would be sampled, so that parts can do them.

    Returns:
        The records, one per iteration, as in `records.jsonl`.

    Raises:
        InputError: Settings or data are not as expected.
        BudgetSpent: `config.budget` does not allow another step.
        Collapsed: The run's puzzles have collapsed, and `collapse.action` is `stop`.
        Planned: With `only_plans`: chunks are planned, or the iteration has no more of them.
    """
    rundir, progress = RunDir(Path(folder)), progress or Progress()
    seed = worlds.seed_of(rundir.archive, config.seed)
    progress.step("proving the sandbox", None)
    with judges(config, progress.say, seed) as (pool, protections), engine(config, rundir) as backend:
        return run(rundir, config, backend, pool, protections, progress, only_plans=only_plans)


@dataclass(frozen=True)
class _Size:
    """The size of a model that is not in memory any more, in the form that `TransformersBackend.needs` expects."""

    parameters: int
    free_bytes: int
    own_bytes: int = 0


class ServedBackend(TransformersBackend):
    """Samples from servers and trains here. The servers are started for each checkpoint, or run on their own.

    Args:
        config: The settings of the servers.
        protocol: The configured prompt protocol. With `chat` the servers are tested by chat requests.
        log: The log file of the servers that are started here.
        draws: Whether some samples are drawn at a temperature above 0.
        is_bounded: Whether a budget bounds tokens, so that servers must tell them.
    """

    def __init__(
        self, config: EndpointConfig, protocol: str, log: Path, draws: bool = True, is_bounded: bool = False
    ) -> None:
        self._config, self._protocol, self._log = config, protocol, log
        self._draws, self._is_bounded = draws, is_bounded
        self._servers: list[ManagedServer] = []
        self._size = _Size(0, 0)

    def load(self, checkpoint: str | Path, config: ModelConfig) -> Any:
        """The sampler of a checkpoint's servers, after a test. Servers of another checkpoint are ended first.

        Raises:
            InputError: The servers do not sample at random, or have other weights.
            ServerDied: A server does not start.
        """
        self.close()
        known = self._known(checkpoint, config)
        place = str(known.pop("path", checkpoint))
        if self._config.serve:
            self._servers = [
                ManagedServer(self._config.serve, place, self._log, self._config.start_seconds)
                for _ in range(self._config.servers)
            ]
        try:
            servers = self._servers or self._config.urls
            return Endpoint(self._config, servers, draws=self._draws, is_bounded=self._is_bounded, **known)
        except BaseException:
            self.close()
            raise

    def _known(self, checkpoint: str | Path, config: ModelConfig) -> dict[str, Any]:
        """What the servers are tested against: facts about the weights and greedy texts, found by loading them here."""
        if str(checkpoint) == ELSEWHERE:
            return {"checkpoint": f"served {self._config.model}".strip(), "chats": self._protocol == "chat"}
        model = LanguageModel(checkpoint, config)
        chats = "chat" in (self._protocol, model.notes.get("protocol"))
        greedy = SamplingSettings(0.0, 1.0, PROBE_TOKENS, len(PROBES[chats]))
        sampled = model.sample(PROBES[chats], 1, greedy, [0])
        self._size = _Size(model.parameters, model.free_bytes + model.own_bytes)
        return {
            "path": model.place, "checkpoint": model.checkpoint, "notes": model.notes, "chats": chats,
            "greedy": dict(zip(PROBES[chats], (row[0].text for row in sampled.completions_P_K), strict=True)),
            "tokenizer": model.tokenizer, "context_tokens": model.context_tokens,
        }  # fmt: skip

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """The least memory and disk that a training needs, as if nothing else were in memory."""
        return super().needs(self._size, config)

    def finetune(self, training: Training, *how: Any) -> Any:
        """Train as `TransformersBackend` does, after ending the servers to free their memory."""
        self.close()
        return super().finetune(training, *how)

    def close(self) -> None:
        """End the servers that were started here."""
        while self._servers:
            self._servers.pop().close()


class RayBackend(TransformersBackend):
    """Samples on the nodes of a cluster and trains here. The nodes load every new checkpoint.

    Args:
        samplers: The number of actors; 0 takes one per graphics card, or one if there is no card.
    """

    def __init__(self, samplers: int) -> None:
        self._samplers = samplers
        self._model: cluster.RayModel | None = None
        self._device = ""

    def load(self, checkpoint: str | Path, config: ModelConfig) -> Any:
        """The sampler of actors that hold a checkpoint. Actors of another checkpoint are ended first.

        Raises:
            InputError: There is no such model, or not on all nodes.
            ClusterFailed: The cluster has no room for the actors.
        """
        self.close()
        self._device = config.device
        self._model = cluster.RayModel(checkpoint, config, self._samplers)
        return self._model

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """The least memory and disk that a training needs, and the memory that is free here."""
        return super().needs(_Size(sampler.parameters, free_bytes(device_of(self._device)), sampler.own_bytes), config)

    def finetune(self, training: Training, *how: Any) -> Any:
        """Train as `TransformersBackend` does, after ending the actors: one may use memory of this machine."""
        self.close()
        return super().finetune(training, *how)

    def close(self) -> None:
        """End the actors."""
        if self._model:
            self._model.close()
        self._model = None
