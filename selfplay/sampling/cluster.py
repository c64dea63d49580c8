"""Verification on every node of a Ray cluster, and sampling where its graphics cards are.

Theory of operation
-------------------
    driver (`selfplay run`: the loop, the archive, the training)
        |  jobs of the sandbox, a chunk of them at a time; the results back
        |                                |  a chunk of prompts with its settings and seed; its texts back
        v                                v
    verifiers (one per node, each with   samplers (one per graphics card, or on a CPU;
    a sandbox that has proved itself)    each has the checkpoint loaded)

*One owner.* Only the driver decides, draws and writes. An actor is given work whose result depends on
nothing else, and gives it back. So a run writes the same whatever the nodes are and however many, and
work that was lost with a node is done again by another one: nothing is missing, and nothing twice.

*Which nodes.* A verifier attacks its own sandbox when it is born. A node below `sandbox.minimum_tier`, or
with other code than the driver's, gets no work and is named; what is recorded with every pair are the
protections of the weakest node that works. Nodes that join later verify from the next command on, and
sample from the next checkpoint on.

*What they need.* The same Python, Ray and version of this package on each (`RAY_ADDRESS` leads there);
checkpoints in a folder that all of them see, by the same path; graphics cards of one kind, as on one
machine: another kind rounds otherwise.

*Whose cluster.* Without an address Ray is started on this machine, with a token of its own, and ended
with the command. A cluster that was there stays there.
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

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80_000_000
"""The least that Ray takes: containers have little shared memory, and chunks are small."""
REACH_SECONDS = 10
"""Within them a cluster's address must take a connection; Ray itself would try for many minutes."""
PROOF_SECONDS, LOAD_SECONDS = 120, 900
"""Within them a verifier must be born and proved, a checkpoint be loaded."""
GONE_SECONDS = 10
POLL_SECONDS = 0.5
MOST_JOBS, MOST_BYTES = 100, 4_000_000
"""Of a chunk: a call costs Ray about a millisecond, as much as a job."""
CHUNKS_AT_ONCE = 2
"""That a verifier has: the next one is there when one is done."""
WINDOW_PER_VERIFIER = 6
"""Chunks that may wait for an earlier one's results, so that one slow job does not idle the nodes."""
TRIES = 3
NONE_SAMPLES = "the last node that sampled is lost: give the same command when there are nodes again"


class ClusterFailed(ConnectionError):
    """There is no cluster, or no node of it that could work is left."""


def require() -> None:
    """Say at start that the package is missing.

    Raises:
        InputError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("executor = 'ray': the package is not installed: pip install 'selfplay-puzzles[ray]'")


# ---- the cluster ----


@contextlib.contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """While this process is a driver of the cluster that is asked for; within another such `with`, of that one's.

    Raises:
        InputError: Ray is not installed.
        ClusterFailed: The cluster does not answer, does not take the token, or has another version.
    """
    require()
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    if not address:
        # Before Ray is loaded: it would otherwise write a token into the home folder.
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
            f"{address or 'a cluster on this machine'}: {error}: it is no Ray cluster, or does not take the token: "
            f"{_token_told()}"
        ) from None
    except RuntimeError as error:  # of other versions of Ray or Python, say
        raise ClusterFailed(f"{address or 'a cluster on this machine'}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """See that somebody listens where a cluster is said to be; of `auto`, Ray itself knows."""
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
    """What is known here of the token that a cluster may ask for; not the token."""
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    token = "set" if os.environ.get("RAY_AUTH_TOKEN") else f"not set, {file} {'' if file.is_file() else 'not '}there"
    return (
        f"RAY_AUTH_MODE is {mode}, RAY_AUTH_TOKEN is {token}; a cluster with token authentication needs "
        "RAY_AUTH_MODE=token and its token in one of them, before the command starts"
    )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray gives SIGTERM another meaning."""
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
    """Those that live and have a processor to give."""
    import ray

    found = []
    for node in ray.nodes():
        cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        if node["Alive"] and cpus:
            found.append(_Node(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})", cpus, gpus))
    return found


def _actor(kind: type, node: _Node, **options: Any) -> Any:
    """An actor on a node; it ends with the driver, and begins but once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Not elsewhere: where a node has just been lost, it would wait for room that never comes.
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(kind).options(scheduling_strategy=place, max_restarts=0, max_task_retries=0, **options).remote()


def _answers(asked: dict[Any, Any], seconds: float) -> tuple[dict[Any, Any], dict[Any, Exception]]:
    """What actors answer to the first that they are asked, and why the others do not; both by actor."""
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
        failures[asked[answer]] = ClusterFailed(f"no answer in {seconds:.0f} s: others may have its cores or cards")
    return answers, failures


def _cause(error: Any) -> Exception:
    """What an actor raised, or why there is none."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if "ModuleNotFoundError" in line]
    said = f"{missing[-1]}: install it there, too" if missing else lines[0] if lines else type(error).__name__
    return ClusterFailed(said)


def _same_code(there: str) -> None:
    """See that a node would do what is done here.

    Raises:
        ClusterFailed: It has another version of this project.
    """
    here = sessions.source_hash()
    if there != here:
        raise ClusterFailed(f"other code of this package there ({there}) than here ({here})")


# ---- verification ----


@dataclass(frozen=True)
class Proof:
    """What a verifier says of its node."""

    protections: Protections
    recorded: dict[str, Any]
    """The same as the archive keeps it, with the node's kernel."""
    source_hash: str
    """Of this project's code there."""


class Verifier:
    """An actor: the sandbox of one node."""

    def prove(self, functions: Sequence[str], limits: Limits, lanes: int, seed: int, modules: Sequence[str]) -> Proof:
        """Make the sandbox, attack it, and say what held."""
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
    """A sandbox pool whose lanes are on the nodes of a cluster. It belongs to one thread, as others do.

    Args:
        like: Its functions, limits, seed and modules; nothing runs in it.
        lanes: Per node; 0 takes as many as it has cores for Ray.
        minimum_tier: Of the nodes that work.
        say: Called with a line for each node that does not.

    Raises:
        SandboxError: No node's sandbox reaches the tier.
        ClusterFailed: There is no verifier, for other reasons.
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
        """A verifier on every node that can have one; the protections of the weakest."""
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
        """Of all verifiers with their sandboxes, as of the last chunk that each has done."""
        return sum(self._cpu_seconds.values())

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """The jobs' results, in the jobs' order; jobs are drawn, some hundreds ahead, as results are consumed.

        Raises:
            SandboxError: A job's child could not be run, three times, or three verifiers ended at the same chunk.
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
        """Verifiers that take another chunk, the idle ones first, as often as they do.

        Raises:
            ClusterFailed: There is none any more.
        """
        if not self._verifiers:
            raise ClusterFailed("the last node that verified is lost: give the same command when there are nodes again")
        busy = Counter(verifier for _, verifier in running.values())
        turns = range(CHUNKS_AT_ONCE)
        return [verifier for turn in turns for verifier in self._verifiers if busy[verifier] <= turn]

    def _take(self, done: Any, chunk: _Chunk, verifier: Any) -> bool:
        """Take a chunk's results, or do without its verifier: whether there are any."""
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
    """As many chunks as there are slots, or fewer: short streams are spread evenly over them."""
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
    """One that has ended already included."""
    import ray

    if ray.is_initialized():
        ray.kill(actor)


@contextlib.contextmanager
def proven_pool(
    config: SandboxConfig, seed: int, say: Callable[[str], object]
) -> Iterator[tuple[Pool, dict[str, Any]]]:
    """A pool on all nodes whose sandboxes have proved themselves, and the proof of the weakest."""
    pool = RayPool(unproven_pool(config, seed), config.lanes, config.minimum_tier, say)
    with pool:
        yield pool, pool.protections


# ---- sampling ----


@dataclass(frozen=True)
class Facts:
    """What a sampler says of its checkpoint and its node."""

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
    """Of this project's code there."""
    node: str
    process: int


class ModelActor:
    """An actor: a checkpoint that samples on its node, one chunk at a time; what it has done is asked meanwhile."""

    def load(self, checkpoint: str, config: ModelConfig) -> Facts:
        """Read the checkpoint, and say what it is as it is seen here."""
        import ray

        from selfplay.sampling.model import LanguageModel

        model = self._model = LanguageModel(checkpoint, config)
        return Facts(
            model.checkpoint, model.notes, model.description, model.overlap, model.arithmetic, model.parameters,
            model.own_bytes, model.context_tokens, model.tokenizer, sessions.source_hash(),
            ray.get_runtime_context().get_node_id(), os.getpid(),
        )  # fmt: skip

    def batch_rows(self, max_tokens: int) -> int:
        """As the model finds right in this memory."""
        return self._model.batch_rows(max_tokens)

    def sample(
        self, prompts: Sequence[Prompt], copies: int, settings: SamplingSettings, seed: Sequence[int]
    ) -> Sampled:
        """As the model samples."""
        started, self._done = time.process_time(), 0

        def count(done: int) -> None:
            self._done += done

        sampled = self._model.sample(prompts, copies, settings, seed, count)
        return replace(sampled, cpu_seconds=time.process_time() - started)

    def done(self) -> int:
        """Completions of the present chunk."""
        return self._done


class RayModel:
    """A checkpoint on several nodes; implements `sampler.Sampler`. Chunks may be sampled in several threads.

    A chunk is sampled by one actor as a whole, so what is in it does not depend on how many there are.

    Args:
        checkpoint: `embedded`, a hub name, or a folder that all nodes see.
        config: As for a model here.
        samplers: Actors; 0 takes one per graphics card of the cluster, or one where it has none.

    Raises:
        InputError: There is no such model, or not on all nodes.
        ClusterFailed: There is no room for them.
    """

    def __init__(self, checkpoint: str | Path, config: ModelConfig, samplers: int) -> None:
        self._overlap = config.overlap
        self._actors: dict[Any, str] = {}
        self._near: list[int] = []
        """Processes of those on this machine."""
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
        """What all actors say alike of the checkpoint. Where none says anything, others are asked: a node that was
        lost just now may still be listed."""
        import ray

        here = ray.get_runtime_context().get_node_id()
        for _ in range(TRIES):
            nodes, cards = _places(config.device, samplers)
            # On a CPU sampling and judging take turns, as on one machine, so samplers reserve no cores.
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
        """What was saved beside the weights."""
        return self._facts.notes

    @property
    def description(self) -> dict[str, Any]:
        """What samples depend on beside weights and settings."""
        return self._facts.description

    @property
    def overlap(self) -> int:
        """All actors sample while the driver has chunks judged; but one on a CPU takes turns with the judges."""
        alone = len(self._actors) == 1 and not self._facts.overlap
        return 0 if alone or self._overlap == "no" else len(self._actors)

    @property
    def arithmetic(self) -> Arithmetic:
        """Of the model, and of the first actor's device."""
        return self._facts.arithmetic

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return self._facts.parameters

    @property
    def own_bytes(self) -> int:
        """What its weights take on this machine: of one actor, if there is one here."""
        return self._facts.own_bytes if self._near else 0

    def batch_rows(self, max_tokens: int) -> int:
        """The fewest that a node's memory holds well."""
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
        """How many tokens a completion's text comes to, without its end."""
        return len(self._facts.tokenizer.encode(completion, add_special_tokens=False))

    def sample(
        self, prompts: Sequence[Prompt], copies: int, settings: SamplingSettings, seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None,
    ) -> Sampled:  # fmt: skip
        """`copies` completions of each prompt, by the next actor that is idle; by another one if that is lost.

        Raises:
            InputError: Not even one sequence fits the memory.
            ClusterFailed: No actor is left.
        """
        import ray

        while True:
            actor, counted = self._next(progress), 0
            asked = actor.sample.remote(prompts, copies, settings, seed)
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
            except BaseException as error:  # it is given up: nothing is waited for
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
        """End the actors. Those of this machine are gone then, and what they held is free for a training."""
        while self._actors:
            _end(self._actors.popitem()[0])
        deadline = time.monotonic() + GONE_SECONDS
        while any(Path(f"/proc/{process}").exists() for process in self._near) and time.monotonic() < deadline:
            time.sleep(0.02)


def _places(device: str, samplers: int) -> tuple[list[_Node], int]:
    """A node for each of at most so many samplers, and how many graphics cards each takes."""
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
