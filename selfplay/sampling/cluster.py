"""Verification on every node of a Ray cluster, and sampling on its GPUs.

Theory of operation
-------------------
    driver (`selfplay run`: the loop, the archive, the training)
        |  chunks of sandbox jobs;       |  chunks of prompts with their settings and seed;
        |  their results back            |  their texts back
        v                                v
    verifiers (one per node, each with   samplers (one per GPU, or on a CPU;
    a sandbox that has proved itself)    each has the checkpoint loaded)

*One owner.* Only the driver decides, draws and writes. An actor gets work whose result depends on that work alone, and
sends the result back. So a run writes the same whatever the nodes are and however many. Work that was lost with a node
is done again by another node: nothing is missing, and nothing is done twice.

*Which nodes.* A verifier attacks its own sandbox when it starts. A node below `sandbox.minimum_tier`, or with code
other than the driver's, gets no work, and a message names it. Every pair is recorded with the protections of the
weakest working node. Nodes that join later verify from the next command on, and sample from the next checkpoint on.

*Requirements.* Each node has the same Python, Ray and version of this package. `RAY_ADDRESS` leads to the cluster.
All nodes see the checkpoints' folder under the same path. All GPUs are of one kind, because another kind rounds
differently.

*Whose cluster.* Without an address the command starts Ray on this machine, with a token of its own, and ends it again.
A cluster that was already running keeps running.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import queue
import secrets
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError
from sandbox import selfcheck
from sandbox.pool import Job, Pool, available_cores
from sandbox.result import Limits, Result, SandboxError
from sandbox.selfcheck import TIERS, Protections
from selfplay.config import ModelConfig, RayConfig, SandboxConfig
from selfplay.run import ending, sessions
from selfplay.run.pools import unproven_pool
from selfplay.sampling.prompts import Prompt, encode_prompt
from selfplay.sampling.sampler import Arithmetic, Sampled, SamplingSettings
from selfplay.sampling.tokens import encode_after, is_border

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80_000_000
"""Size of Ray's object store: the least that Ray accepts. Containers have little shared memory; chunks are small."""
REACH_SECONDS = 10
"""Time limit for a connection to the cluster's address. Ray itself would try for many minutes."""
PROOF_SECONDS, LOAD_SECONDS = 120, 900
"""Time limits for a verifier to start and prove its sandbox, and for a sampler to load a checkpoint."""
GONE_SECONDS = 10
"""Time limit for samplers of this machine to exit."""
POLL_SECONDS = 0.5
MOST_JOBS, MOST_BYTES = 100, 4_000_000
"""Size limits of a chunk. A call costs Ray about a millisecond, as much as one job."""
CHUNKS_AT_ONCE = 2
"""Chunks that a verifier holds: the next one is already there when one is done."""
WINDOW_PER_VERIFIER = 6
"""Chunks per verifier that may wait for an earlier chunk's results, so that one slow job does not idle the nodes."""
TRIES = 3
"""Attempts at a chunk, and at loading a checkpoint."""
NONE_SAMPLES = "the last node that sampled is lost: give the same command again when the cluster has nodes"


class ClusterFailed(ConnectionError):
    """There is no cluster, or none of its nodes can work."""


def require() -> None:
    """Check at start that Ray is installed.

    Raises:
        InputError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("executor = 'ray': Ray is not installed: pip install '.[ray]'")


# ---- the cluster ----


@contextlib.contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """Connect this process as a driver to the configured cluster. An inner `with` uses the connection of the outer one.

    Raises:
        InputError: Ray is not installed.
        ClusterFailed: The cluster does not answer, does not accept the token, or has another version.
    """
    require()
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    if not address:
        # Set before Ray is imported. Otherwise Ray would write a token into the home folder.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())
    import ray

    if ray.is_initialized():
        yield
        return
    if address:
        _reach(address)
        where: dict[str, Any] = {"address": address}
    else:
        own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "num_cpus": available_cores()}
        where = {"address": "local", **own}
    try:
        with _signals_kept():
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterFailed(f"{address}: {error.message}: {_token_told()}") from None
    except ConnectionError as error:
        raise ClusterFailed(
            f"{address or 'a cluster on this machine'}: {error}: it is no Ray cluster, or does not accept the token: "
            f"{_token_told()}"
        ) from None
    except RuntimeError as error:  # such as another version of Ray or Python
        raise ClusterFailed(f"{address or 'a cluster on this machine'}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Check that something listens at a cluster's address. The address `auto` is left to Ray.

    Raises:
        InputError: The address has another form.
        ClusterFailed: Nothing listens there.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        if address != "auto":
            raise InputError(f"ray.address: expected host:port or 'auto', got {address!r}")
        return
    if not port.isdecimal() or "/" in host:
        raise InputError(f"ray.address: expected host:port, such as 10.0.0.1:6379, or 'auto', got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterFailed(f"{address}: no Ray cluster there ({error}): see ray.address and RAY_ADDRESS") from None


def _token_told() -> str:
    """How this process is set up for a cluster's token, without the token itself."""
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    token = "set" if os.environ.get("RAY_AUTH_TOKEN") else f"not set, {file} {'' if file.is_file() else 'not '}there"
    return (
        f"RAY_AUTH_MODE is {mode}, RAY_AUTH_TOKEN is {token}; for a cluster with token authentication, set "
        "RAY_AUTH_MODE=token and put its token in the variable or the file before the command starts"
    )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore signal handlers afterwards, because Ray replaces the one for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in ending.SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class _Node:
    id: str
    name: str
    cpus: int
    gpus: int


def _nodes() -> list[_Node]:
    """Nodes that are alive and have a CPU core for Ray."""
    import ray

    found = []
    for node in ray.nodes():
        cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        if node["Alive"] and cpus:
            found.append(_Node(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})", cpus, gpus))
    return found


def _actor(kind: type, node: _Node, **options: Any) -> Any:
    """Start an actor on a node. It ends with the driver, and is never restarted."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On this node or not at all. Otherwise, after the loss of a node, the actor might wait for room that never comes.
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(kind).options(scheduling_strategy=place, max_restarts=0, max_task_retries=0, **options).remote()


def _answers(asked: dict[Any, Any], seconds: float) -> tuple[dict[Any, Any], dict[Any, Exception]]:
    """Wait for the actors' answers to their first call.

    Args:
        asked: Each pending answer and its actor.
        seconds: Time limit for all of them.

    Returns:
        Answers by actor; and for actors without an answer the reason, by actor.
    """
    import ray

    answers: dict[Any, Any] = {}
    failures: dict[Any, Exception] = {}
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=seconds) if asked else ([], [])
    for answer in ready:
        try:
            answers[asked[answer]] = ray.get(answer)
        except ray.exceptions.RayError as error:
            failures[asked[answer]] = _cause(error)
    for answer in late:
        failures[asked[answer]] = ClusterFailed(f"no answer in {seconds:.0f} s: other work may hold its cores or GPUs")
    return answers, failures


def _cause(error: Any) -> Exception:
    """The exception that an actor raised; or, if the actor itself failed, the reason as a `ClusterFailed`."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if "ModuleNotFoundError" in line]
    said = f"{missing[-1]}: install it there too" if missing else lines[0] if lines else type(error).__name__
    return ClusterFailed(said)


def _same_code(there: str) -> None:
    """Check that a node has the same version of this project as the driver.

    Raises:
        ClusterFailed: The node has another version.
    """
    here = sessions.source_hash()
    if there != here:
        raise ClusterFailed(f"its version of this package differs (hash {there} there, {here} here)")


# ---- verification ----


@dataclass(frozen=True)
class Proof:
    """What a verifier reports about its node."""

    protections: Protections
    recorded: dict[str, Any]
    """The protections as the archive records them, with the node's kernel."""
    source_hash: str
    """Hash of this project's code on the node."""


class Verifier:
    """The sandbox of one node, as a Ray actor."""

    def prove(self, functions: Sequence[str], limits: Limits, lanes: int, seed: int, modules: Sequence[str]) -> Proof:
        """Make the sandbox, attack it, and report which protections held."""
        self._pool = Pool(functions, limits, lanes, seed, modules)
        protections = selfcheck.check(self._pool)
        return Proof(protections, protections.to_json(), sessions.source_hash())

    def run(self, jobs: Sequence[Job]) -> tuple[list[Result], float]:
        """The jobs' results, and the CPU seconds of this actor and its sandbox so far."""
        return list(self._pool.run(jobs)), time.process_time() + self._pool.cpu_seconds()


@dataclass
class _Chunk:
    jobs: list[Job]
    results: list[Result] | None = None
    tries: int = 0


class RayPool(Pool):
    """A sandbox pool whose lanes are on the nodes of a cluster. Like every pool it belongs to one thread.

    Args:
        like: A pool to copy functions, limits, seed and modules from. Nothing runs in it.
        lanes: Lanes per node; 0 takes as many as the node has cores for Ray.
        minimum_tier: Lowest tier at which a node gets work.
        say: Called with a line for each node that gets no work.

    Raises:
        SandboxError: No node's sandbox reaches the tier.
        ClusterFailed: No node can verify, for another reason.
    """

    def __init__(self, like: Pool, lanes: int, minimum_tier: str, say: Callable[[str], object]) -> None:
        super().__init__(like.functions, like.limits, 1, like.seed, like.modules)
        self._cpu_seconds: dict[Any, float] = {}
        self._verifiers: dict[Any, str] = {}
        try:
            self.protections = self._recruit(lanes, minimum_tier, say)
        except BaseException:
            self.close()
            raise

    def _recruit(self, lanes: int, minimum_tier: str, say: Callable[[str], object]) -> dict[str, Any]:
        """Start a verifier on every node that can have one. Returns the protections of the weakest node."""
        asked = {}
        for node in _nodes():
            verifier = _actor(Verifier, node, num_cpus=min(lanes or node.cpus, node.cpus))
            self._verifiers[verifier] = node.name
            own = (self.functions, self.limits, lanes or node.cpus, self.seed, self.modules)
            asked[verifier.prove.remote(*own)] = verifier
        proofs, failures = _answers(asked, PROOF_SECONDS)
        for verifier, proof in proofs.items():
            try:
                selfcheck.require(proof.protections, minimum_tier)
                _same_code(proof.source_hash)
            except (SandboxError, ClusterFailed) as error:
                failures[verifier] = error
        told = [f"node {self._verifiers[verifier]} gets no work: {why}" for verifier, why in failures.items()]
        for verifier, line in zip(failures, told, strict=True):
            logger.warning(line)
            say(line)
            self._dismiss(verifier)
        if not self._verifiers:
            unsafe = any(isinstance(why, SandboxError) for why in failures.values())
            raise (SandboxError if unsafe else ClusterFailed)("; ".join(told) or "no node of the cluster has a core")
        working = [proofs[verifier] for verifier in self._verifiers]
        weakest: Proof = max(working, key=lambda proof: _weakness(proof.protections))
        return weakest.recorded

    def _dismiss(self, verifier: Any) -> None:
        self._verifiers.pop(verifier, None)
        _end(verifier)

    def close(self) -> None:
        """End the verifiers."""
        super().close()
        for verifier in list(self._verifiers):
            self._dismiss(verifier)

    def cpu_seconds(self) -> float:
        """CPU seconds of all verifiers and their sandboxes, as of the last chunk that each has finished."""
        return sum(self._cpu_seconds.values())

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """The jobs' results, in the jobs' order. Jobs are drawn some hundreds ahead, as results are consumed.

        Raises:
            SandboxError: A job's child could not be run three times, or three verifiers ended at the same chunk.
            ValueError: A payload is larger than the slot, or the pool was not given the function.
            ClusterFailed: No verifier is left.
        """
        import ray

        source, ended = iter(jobs), False
        order: deque[_Chunk] = deque()
        unsent: deque[_Chunk] = deque()
        running: dict[Any, tuple[_Chunk, Any]] = {}
        while True:
            slots = self._slots(running)
            room = WINDOW_PER_VERIFIER * len(self._verifiers) - len(order)
            if not ended and not unsent and (wanted := min(len(slots), room)) > 0:
                drawn = _draw(source, wanted)
                ended = not drawn
                order += drawn
                unsent += drawn
            for verifier in slots[: len(unsent)]:
                chunk = unsent.popleft()
                running[verifier.run.remote(chunk.jobs)] = chunk, verifier
            while order and order[0].results is not None:
                yield from order.popleft().results or ()
            if not running:
                if ended and not order:
                    return
                continue
            for done in ray.wait(list(running))[0]:
                chunk, verifier = running.pop(done)
                if not self._take(done, chunk, verifier):
                    unsent.appendleft(chunk)

    def _slots(self, running: dict[Any, tuple[_Chunk, Any]]) -> list[Any]:
        """Verifiers that can take another chunk, the idle ones first. One that can take several is named several times.

        Raises:
            ClusterFailed: No verifier is left.
        """
        if not self._verifiers:
            raise ClusterFailed(
                "the last node that verified is lost: give the same command again when the cluster has nodes"
            )
        busy = Counter(verifier for _, verifier in running.values())
        turns = range(CHUNKS_AT_ONCE)
        return [verifier for turn in turns for verifier in self._verifiers if busy[verifier] <= turn]

    def _take(self, done: Any, chunk: _Chunk, verifier: Any) -> bool:
        """Take a chunk's results; or, if its verifier is lost, dismiss the verifier. Returns whether there are results.

        Raises:
            SandboxError: Three verifiers ended at this chunk.
        """
        import ray

        try:
            chunk.results, self._cpu_seconds[verifier] = ray.get(done)
            return True
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayError as error:
            chunk.tries += 1
            if verifier in self._verifiers:
                logger.warning("node %s is lost, others do its work: %s", self._verifiers[verifier], _cause(error))
                self._dismiss(verifier)
            if chunk.tries == TRIES:
                raise SandboxError(
                    f"{chunk.jobs[0].label} and {len(chunk.jobs) - 1} more: {TRIES} verifiers ended, the last one with "
                    f"{_cause(error)}; nothing was decided about them"
                ) from None
            return False


def _draw(source: Iterator[Job], slots: int) -> list[_Chunk]:
    """At most one chunk per slot. A short stream of jobs is spread evenly over the slots."""
    drawn, size = [], 0
    for job in itertools.islice(source, MOST_JOBS * slots):
        drawn.append(job)
        size += len(job.payload)
        if size > MOST_BYTES * slots:
            break
    each = -(-len(drawn) // slots)
    return [_Chunk(drawn[start : start + each]) for start in range(0, len(drawn), each or 1)]


def _weakness(protections: Protections) -> tuple[int, int]:
    return TIERS.index(protections.tier), len(protections.missing()) + len(protections.failures())


def _end(actor: Any) -> None:
    """End an actor, which may have ended already."""
    import ray

    if ray.is_initialized():
        ray.kill(actor)


@contextlib.contextmanager
def proven_pool(
    config: SandboxConfig, seed: int, say: Callable[[str], object]
) -> Iterator[tuple[Pool, dict[str, Any]]]:
    """A pool on all nodes whose sandboxes have proved themselves, and the protections of the weakest."""
    pool = RayPool(unproven_pool(config, seed), config.lanes, config.minimum_tier, say)
    with pool:
        yield pool, pool.protections


# ---- sampling ----


@dataclass(frozen=True)
class Facts:
    """What a sampler reports about its checkpoint and its node."""

    checkpoint: str
    notes: dict[str, Any]
    description: dict[str, Any]
    overlap: bool
    arithmetic: Arithmetic
    parameters: int
    own_bytes: int
    context_tokens: int
    tokenizer: Any
    source_hash: str
    """Hash of this project's code on the node."""
    node: str
    process: int


class ModelActor:
    """A checkpoint that samples on its node, as a Ray actor: one chunk at a time, with its progress on request."""

    def load(self, checkpoint: str, config: ModelConfig) -> Facts:
        """Load the checkpoint, and report what this node sees."""
        import ray

        from selfplay.sampling.model import LanguageModel

        model = self._model = LanguageModel(checkpoint, config)
        return Facts(
            model.checkpoint, model.notes, model.description, model.overlap, model.arithmetic, model.parameters,
            model.own_bytes, model.context_tokens, model.tokenizer, sessions.source_hash(),
            ray.get_runtime_context().get_node_id(), os.getpid(),
        )  # fmt: skip

    def batch_rows(self, max_tokens: int) -> int:
        """The model's choice for the memory of this node."""
        return self._model.batch_rows(max_tokens)

    def sample(
        self, prompts: Sequence[Prompt], copies: int, settings: SamplingSettings, seed: Sequence[int],
        numbers: Sequence[int] | None,
    ) -> Sampled:  # fmt: skip
        """The model's completions, with the CPU seconds of this process."""
        started, self._done = time.process_time(), 0

        def count(done: int) -> None:
            self._done += done

        sampled = self._model.sample(prompts, copies, settings, seed, count, numbers)
        return replace(sampled, cpu_seconds=time.process_time() - started)

    def done(self) -> int:
        """Number of completions of the present chunk that are done."""
        return self._done


class RayModel:
    """A checkpoint on several nodes. Implements `sampler.Sampler`. Several threads may sample chunks at the same time.

    One actor samples a whole chunk, so its texts do not depend on the number of actors.

    Args:
        checkpoint: `embedded`, a hub name, or a folder that all nodes see.
        config: Device, dtype and threads, as for a model on this machine.
        samplers: Number of actors; 0 takes one per GPU of the cluster, or one if there is no GPU.

    Raises:
        InputError: There is no such model, or some nodes do not have it.
        ClusterFailed: No node has room for a sampler.
    """

    def __init__(self, checkpoint: str | Path, config: ModelConfig, samplers: int) -> None:
        self._overlap = config.overlap
        self._actors: dict[Any, str] = {}
        self._near: list[int] = []
        """Process numbers of the actors on this machine."""
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        place = str(Path(checkpoint).absolute()) if Path(checkpoint).is_dir() else str(checkpoint)
        try:
            self._facts = self._loaded(place, config, samplers)
        except BaseException:
            self.close()
            raise
        for actor in self._actors:
            self._idle.put(actor)

    def _loaded(self, place: str, config: ModelConfig, samplers: int) -> Facts:
        """Start the actors, and return what they all report about the checkpoint.

        If no actor answers, new ones are started, because a node that was just lost may still be listed.
        """
        import ray

        here = ray.get_runtime_context().get_node_id()
        for _ in range(TRIES):
            nodes, cards = _places(config.device, samplers)
            # On a CPU, sampling and judging take turns, as on one machine. So samplers reserve no cores.
            options = {"num_cpus": 0, "num_gpus": cards, "max_concurrency": 2}
            self._actors = {_actor(ModelActor, node, **options): node.name for node in nodes}
            asked = {actor.load.remote(place, config): actor for actor in self._actors}
            answers, failures = _answers(asked, LOAD_SECONDS)
            for actor, facts in list(answers.items()):
                try:
                    _same_code(facts.source_hash)
                except ClusterFailed as error:
                    failures[actor] = error
                    del answers[actor]
            for actor, why in failures.items():
                if isinstance(why, InputError) and Path(place).is_dir():
                    raise InputError(f"{why} (on {self._actors[actor]}: all nodes must see this folder)")
                if not isinstance(why, ClusterFailed):
                    raise why
                self._lose(actor, why)
            if answers:
                self._near = [facts.process for facts in answers.values() if facts.node == here]
                return _agreed(place, answers.values())
        raise ClusterFailed(f"no node of the cluster can sample: {why}")

    @property
    def checkpoint(self) -> str:
        """Hash of the weights and tokenizer."""
        return self._facts.checkpoint

    @property
    def notes(self) -> dict[str, Any]:
        """Notes that were saved beside the weights."""
        return self._facts.notes

    @property
    def description(self) -> dict[str, Any]:
        """What else the samples depend on, beside weights and settings."""
        return self._facts.description

    @property
    def overlap(self) -> int:
        """How many chunks are sampled while others are judged: one per actor.

        0 if `model.overlap` is `no`, or if a single actor needs the judges' cores.
        """
        alone = len(self._actors) == 1 and not self._facts.overlap
        return 0 if alone or self._overlap == "no" else len(self._actors)

    @property
    def arithmetic(self) -> Arithmetic:
        """Operations of the model, and the peak of the first actor's device."""
        return self._facts.arithmetic

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self._facts.parameters

    @property
    def own_bytes(self) -> int:
        """Bytes that its weights take on this machine, for one actor; 0 if no actor is here."""
        return self._facts.own_bytes if self._near else 0

    def batch_rows(self, max_tokens: int) -> int:
        """The smallest of the actors' choices, so that it fits every node's memory."""
        answers, failures = _answers({each.batch_rows.remote(max_tokens): each for each in self._actors}, LOAD_SECONDS)
        for actor, why in failures.items():
            self._lose(actor, why)
        if not answers:
            raise ClusterFailed(NONE_SAMPLES)
        return int(min(answers.values()))

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the context."""
        return len(encode_prompt(self._facts.tokenizer, prompt)) + max_tokens <= self._facts.context_tokens

    def tokens_of(self, completion: str) -> int:
        """Number of tokens in a completion's text, without the end token."""
        return len(encode_after(self._facts.tokenizer, completion))

    def is_border(self, text: str, place: int) -> bool:
        """Whether no token spans this place of a text, so that it can be cut there."""
        return is_border(self._facts.tokenizer, text, place)

    def sample(
        self, prompts: Sequence[Prompt], copies: int, settings: SamplingSettings, seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None, numbers: Sequence[int] | None = None,
    ) -> Sampled:  # fmt: skip
        """`copies` completions of each prompt, by the next idle actor, or by another one if that one is lost.

        Raises:
            InputError: Not even one sequence fits the memory.
            ClusterFailed: No actor is left.
        """
        import ray

        while True:
            actor, counted = self._next(progress), 0
            asked = actor.sample.remote(prompts, copies, settings, seed, numbers)
            try:
                while not ray.wait([asked], timeout=POLL_SECONDS)[0]:
                    done = ray.get(actor.done.remote())
                    progress(done - counted)
                    counted = done
                sampled: Sampled = ray.get(asked)
            except ray.exceptions.RayTaskError as error:
                self._idle.put(actor)
                raise _cause(error) from None
            except ray.exceptions.RayError as error:
                self._lose(actor, _cause(error))
                progress(-counted)
            except BaseException as error:  # given up: nobody waits for this chunk any more
                self._lose(actor, error)
                raise
            else:
                self._idle.put(actor)
                progress(len(prompts) * copies - counted)
                return sampled

    def _next(self, progress: Callable[[int], object]) -> Any:
        while self._actors:
            progress(0)
            with contextlib.suppress(queue.Empty):
                return self._idle.get(timeout=POLL_SECONDS)
        raise ClusterFailed(NONE_SAMPLES)

    def _lose(self, actor: Any, why: BaseException) -> None:
        logger.warning("the sampler on %s is lost: %r", self._actors.pop(actor, "a node"), why)
        _end(actor)

    def close(self) -> None:
        """End the actors. Wait until those of this machine are gone, so that a training can have their memory."""
        while self._actors:
            _end(self._actors.popitem()[0])
        deadline = time.monotonic() + GONE_SECONDS
        while any(Path(f"/proc/{process}").exists() for process in self._near) and time.monotonic() < deadline:
            time.sleep(0.02)


def _places(device: str, samplers: int) -> tuple[list[_Node], int]:
    """A node for each sampler, at most `samplers` of them; and how many GPUs each sampler takes."""
    nodes = _nodes()
    most = 0 if device == "cpu" else max((node.gpus for node in nodes), default=0)
    if cards := [node for turn in range(most) for node in nodes if turn < node.gpus]:
        return cards[: samplers or None], 1
    if not nodes:
        raise ClusterFailed("no node of the cluster has a core")
    return [nodes[number % len(nodes)] for number in range(samplers or 1)], 0


def _agreed(place: str, told: Iterable[Facts]) -> Facts:
    first, *others = told
    for facts in others:
        if (facts.checkpoint, facts.description) != (first.checkpoint, first.description):
            there, here = (f"{each.checkpoint} {each.description}" for each in (facts, first))
            raise InputError(f"{place}: two nodes of the cluster see or run it differently: {here}, {there}")
    return first
