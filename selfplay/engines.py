"""What samples: the model in this process, or servers that have its weights. Training is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.config import EndpointConfig, FinetuneConfig, ModelConfig, RunConfig
from selfplay.endpoint import PROBE_TOKENS, PROBES, Endpoint
from selfplay.finetune import TransformersBackend
from selfplay.loop import Backend
from selfplay.model import LanguageModel
from selfplay.resources import TrainingNeeds
from selfplay.rundir import RunDir
from selfplay.sampler import SamplingSettings
from selfplay.serving import ManagedServer

ELSEWHERE = ""
"""As `model.path`: only the servers have the weights."""


@contextlib.contextmanager
def engine(config: RunConfig, rundir: RunDir) -> Iterator[Backend]:
    """The backend that a run's settings ask for; what it has begun ends with it."""
    endpoint = config.endpoint
    if endpoint.urls or endpoint.serve:
        with contextlib.closing(ServedBackend(endpoint, config.prompt.protocol, rundir.server_log)) as served:
            yield served
    else:
        yield TransformersBackend()


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

    def finetune(self, *arguments: Any) -> Any:
        """As the other does, when the servers have given their memory back."""
        self.close()
        return super().finetune(*arguments)

    def close(self) -> None:
        """End the servers that were begun here."""
        while self._servers:
            self._servers.pop().close()
