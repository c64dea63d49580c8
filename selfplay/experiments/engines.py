"""What judges and what samples: this process with its children, servers that have the weights, or the nodes of a
cluster. Training is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
"""As `model.path`: only the servers have the weights."""


@contextlib.contextmanager
def judges(config: RunConfig, say: Callable[[str], object]) -> Iterator[tuple[Pool, dict[str, Any]]]:
    """The sandbox that a run's settings ask for, when it has proved itself, and the proof."""
    if config.executor == "ray":
        with cluster.connected(config.ray), cluster.proven_pool(config.sandbox, config.seed, say) as proven:
            yield proven
    else:
        with proven_pool(config.sandbox, config.seed) as proven:
            yield proven


@contextlib.contextmanager
def engine(config: RunConfig, rundir: RunDir) -> Iterator[Backend]:
    """The backend that a run's settings ask for; what it has begun ends with it."""
    endpoint = config.endpoint
    if endpoint.urls or endpoint.serve:
        with contextlib.closing(ServedBackend(endpoint, config.prompt.protocol, rundir.server_log)) as served:
            yield served
    elif config.executor == "ray":
        with cluster.connected(config.ray), contextlib.closing(RayBackend(config.ray.samplers)) as backend:
            yield backend
    else:
        yield TransformersBackend()


def run_iterations(config: RunConfig, folder: str | Path, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Run or resume a run in a folder, with the model, servers, sandbox or cluster that its settings ask for.

    Args:
        config: The settings, as `selfplay.load` reads them.
        folder: The run's folder; made if there is none.
        progress: How it shows itself; by default not at all.

    Returns:
        The records, one per iteration, as in `records.jsonl`.

    Raises:
        InputError: Settings or data are not as expected.
        BudgetSpent: `config.budget` does not allow another step.
        Collapsed: The run's puzzles have collapsed, and `collapse.action` is `stop`.
    """
    rundir, progress = RunDir(Path(folder)), progress or Progress()
    with judges(config, progress.say) as (pool, protections), engine(config, rundir) as backend:
        return run(rundir, config, backend, pool, protections, progress)


@dataclass(frozen=True)
class _Size:
    """Of a model that is not in memory any more, as `TransformersBackend.needs` asks for it."""

    parameters: int
    free_bytes: int
    own_bytes: int = 0


class ServedBackend(TransformersBackend):
    """Samples from servers, which are begun on each checkpoint or run by themselves, and trains here.

    Args:
        config: The servers.
        protocol: As configured: whether they are asked as a chat is theirs to be asked for proof.
        log: Of the servers that are begun here.
    """

    def __init__(self, config: EndpointConfig, protocol: str, log: Path) -> None:
        self._config, self._protocol, self._log = config, protocol, log
        self._servers: list[ManagedServer] = []
        self._size = _Size(0, 0)

    def load(self, checkpoint: str | Path, config: ModelConfig) -> Any:
        """Servers of a checkpoint that have been asked for proof; those of another one are ended before.

        Raises:
            InputError: They do not draw, or have other weights.
            ServerDied: One does not begin.
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
            return Endpoint(self._config, self._servers or self._config.urls, **known)
        except BaseException:
            self.close()
            raise

    def _known(self, checkpoint: str | Path, config: ModelConfig) -> dict[str, Any]:
        """What is to be known of the weights, from a look at them here."""
        if str(checkpoint) == ELSEWHERE:
            return {"checkpoint": f"served {self._config.model}".strip(), "chats": self._protocol == "chat"}
        model = LanguageModel(checkpoint, config)
        chats = "chat" in (self._protocol, model.notes.get("protocol"))
        greedy = SamplingSettings(0.0, 1.0, PROBE_TOKENS, len(PROBES[chats]))
        sampled = model.sample(PROBES[chats], 1, greedy, [0])
        self._size = _Size(model.parameters, model.free_bytes + model.own_bytes)
        return {
            "path": model.path, "checkpoint": model.checkpoint, "notes": model.notes, "chats": chats,
            "greedy": dict(zip(PROBES[chats], (row[0].text for row in sampled.completions_P_K), strict=True)),
            "tokenizer": model.tokenizer, "context_tokens": model.context_tokens,
        }  # fmt: skip

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """What a training of the model takes at least, as if nothing else were in memory."""
        return super().needs(self._size, config)

    def finetune(self, training: Training, *how: Any) -> Any:
        """As the other does, when the servers have given their memory back."""
        self.close()
        return super().finetune(training, *how)

    def close(self) -> None:
        """End the servers that were begun here."""
        while self._servers:
            self._servers.pop().close()


class RayBackend(TransformersBackend):
    """Samples on the nodes of a cluster, which load each checkpoint anew, and trains here.

    Args:
        samplers: Actors; 0 takes one per graphics card, or one.
    """

    def __init__(self, samplers: int) -> None:
        self._samplers = samplers
        self._model: cluster.RayModel | None = None
        self._device = ""

    def load(self, checkpoint: str | Path, config: ModelConfig) -> Any:
        """Actors that have a checkpoint; those of another one are ended before.

        Raises:
            InputError: There is no such model, or not on all nodes.
            ClusterFailed: There is no room for them.
        """
        self.close()
        self._device = config.device
        self._model = cluster.RayModel(checkpoint, config, self._samplers)
        return self._model

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """What a training takes at least, of the memory that is free here."""
        return super().needs(_Size(sampler.parameters, free_bytes(device_of(self._device)), sampler.own_bytes), config)

    def finetune(self, training: Training, *how: Any) -> Any:
        """As the other does, when the actors have given their memory back: one of them may be on this machine."""
        self.close()
        return super().finetune(training, *how)

    def close(self) -> None:
        """End the actors."""
        if self._model:
            self._model.close()
        self._model = None
