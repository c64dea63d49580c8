"""Gathers pairs that come one by one from many callers, and judges them in batches.

Workers, each a thread with a sandbox of its own, take turns: while one judges, the pairs that come meanwhile gather for
the other one. A worker that is free waits `GATHER_SECONDS` for more to come, and leaves half of what waits to the
others. So a batch grows with the load, and a single call on an idle service waits for nothing but that moment.

Equal work is done once: a pair that waits, is being judged, or was judged lately is not judged again. What met a limit
is judged anew, because a busy machine may be the cause. A failure of the sandbox is never remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from puzzles.conjuncts import shares
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import Judgement, Puzzle, Verdict
from puzzles.verify import LIMITS, verify_texts
from sandbox.confine import Layers
from sandbox.pool import Pool, available_cores
from sandbox.result import SandboxError
from selfplay.config import SandboxConfig
from selfplay.judge.pairs import Judged, Pair, judged
from selfplay.run.pools import proven_pool, unproven_pool

WORKERS = 2
"""Batches that are judged at the same time: while one ends, the other keeps the lanes busy."""
GATHER_SECONDS = 0.002
"""Time that a free worker waits for more pairs after the first one."""
LEAST_TOGETHER = 32
"""Number of waiting pairs up to which one worker takes them all."""
MOST_TOGETHER = 500
"""Most pairs of a batch; that of `selfplay verify`."""
REMEMBERED = 20_000
"""Number of verdicts that are remembered."""
MOST_REMEMBERED_CHARACTERS = 1_000
"""Longest answer, and longest detail, of a verdict that is remembered."""
KNOWN = {"def g():\n    return 37": Verdict.ACCEPTED, "def g():\n    return 36": Verdict.WRONG_ANSWER}
"""Candidates for `KNOWN_PUZZLE` whose verdicts are certain. They are judged before anything else."""
KNOWN_PUZZLE = "def f(x: int):\n    return x * x == 1369"


@dataclass
class _Waiting:
    pair: Pair
    key: bytes
    future: Future[Judged] = field(default_factory=Future)


class Batcher:
    """Judges pairs that any thread submits.

    Args:
        sandbox: Limits, lanes and least protection. The workers share the lanes.
        worlds: Seed of the worlds in which answers are judged.

    Raises:
        InputError: There is no module of a name in `sandbox.modules`.
        SandboxError: The sandbox does not hold here, or gets a known verdict wrong.
    """

    def __init__(self, sandbox: SandboxConfig, worlds: int) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._undecided: dict[bytes, Future[Judged]] = {}
        self._remembered: OrderedDict[bytes, Judged] = OrderedDict()
        self._more = threading.Condition()
        self._is_ending = False
        self.judged = 0
        """Number of pairs that were judged, repeats not counted."""
        lanes = max(1, (sandbox.lanes or available_cores()) // WORKERS)
        self._sandbox, self._worlds = replace(sandbox, lanes=lanes), worlds
        self._proof: Future[tuple[Layers, dict[str, Any]]] = Future()
        self._threads = [threading.Thread(target=self._prove, name="judge-0", daemon=True)]
        self._threads += [
            threading.Thread(target=self._follow, name=f"judge-{number}", daemon=True) for number in range(1, WORKERS)
        ]
        for thread in self._threads:
            thread.start()
        try:
            _, self.protections = self._proof.result()
        except BaseException:
            self.close()
            raise

    def submit(self, pair: Pair) -> Future[Judged]:
        """The verdict, when it comes. Equal pairs share a future, so it must not be cancelled.

        It raises `SandboxError` if the sandbox or the machine failed; then nothing was decided about the pair.
        """
        content = "\0".join([pair.form, str(pair.conjuncts), str(len(pair.puzzle)), pair.puzzle, pair.solution])
        key = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._more:
            if known := self._remembered.get(key):
                self._remembered.move_to_end(key)
                done: Future[Judged] = Future()
                done.set_result(known)
                return done
            if key in self._undecided:
                return self._undecided[key]
            waiting = _Waiting(pair, key)
            self._undecided[key] = waiting.future
            self._waiting.append(waiting)
            self._more.notify_all()
            return waiting.future

    def undecided(self) -> int:
        """Number of pairs that wait or are being judged."""
        return len(self._undecided)

    def close(self) -> None:
        """Judge what waits, then end the workers."""
        with self._more:
            self._is_ending = True
            self._more.notify_all()
        for thread in self._threads:
            thread.join()

    def _prove(self) -> None:
        """The first worker: its sandbox proves itself, and must get known verdicts right."""
        with contextlib.ExitStack() as stack:
            try:
                pool, protections = stack.enter_context(proven_pool(self._sandbox, self._worlds))
                _check_known(pool)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the caller hears it
                self._proof.set_exception(error)
                return
            self._proof.set_result((pool.layers, protections))
            self._work(pool)

    def _follow(self) -> None:
        """Another worker: all of its sandbox must have the layers that the first one has proved."""
        if self._proof.exception() is None:
            with unproven_pool(self._sandbox, self._worlds) as pool:
                pool.agree_on_layers(self._proof.result()[0])
                self._work(pool)

    def _work(self, pool: Pool) -> None:
        while batch := self._next():
            self._decide(pool, batch)

    def _next(self) -> list[_Waiting]:
        """The next batch; empty at the end."""
        with self._more:
            while not self._waiting:  # another worker may have taken them all
                if self._is_ending:
                    return []
                self._more.wait()
                if not self._is_ending:
                    self._more.wait_for(lambda: len(self._waiting) >= MOST_TOGETHER, GATHER_SECONDS)
            half = -(-len(self._waiting) // WORKERS)
            count = min(len(self._waiting), MOST_TOGETHER, max(LEAST_TOGETHER, half))
            return [self._waiting.popleft() for _ in range(count)]

    def _decide(self, pool: Pool, batch: Sequence[_Waiting]) -> None:
        """Judge a batch. If the sandbox fails, its halves are judged anew, so that one pair spoils no other."""
        try:
            found = judge(pool, [waiting.pair for waiting in batch])
        except (SandboxError, OSError) as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._decide(pool, batch[:middle])
                self._decide(pool, batch[middle:])
            else:
                self._settle(batch[0], error if isinstance(error, SandboxError) else SandboxError(str(error)))
        except Exception as error:  # a bug of ours is no verdict either
            logging.getLogger(__name__).exception("the judge failed")
            for waiting in batch:
                self._settle(waiting, SandboxError(f"the judge failed: {type(error).__name__}: {error}"))
        else:
            for waiting, outcome in zip(batch, found, strict=True):
                self._settle(waiting, outcome)

    def _settle(self, waiting: _Waiting, outcome: Judged | SandboxError) -> None:
        with self._more:
            del self._undecided[waiting.key]
            if isinstance(outcome, Judged):
                self.judged += 1
                if _may_be_remembered(outcome):
                    self._remembered[waiting.key] = outcome
                if len(self._remembered) > REMEMBERED:
                    self._remembered.popitem(last=False)
        if isinstance(outcome, Judged):
            waiting.future.set_result(outcome)
        else:
            waiting.future.set_exception(outcome)


def _may_be_remembered(outcome: Judged) -> bool:
    is_small = max(len(outcome.answer or ""), len(outcome.detail)) <= MOST_REMEMBERED_CHARACTERS
    return is_small and outcome.verdict not in LIMITS


def judge(pool: Pool, pairs: Sequence[Pair]) -> list[Judged]:
    """The verdicts of pairs, in order, with the shares of conjuncts where they are asked for.

    Raises:
        SandboxError: The sandbox or the machine failed.
    """
    judgements = verify_texts(pool, [(pair.puzzle, pair.text) for pair in pairs])
    asked = [index for index, pair in enumerate(pairs) if pair.conjuncts]
    found = dict.fromkeys(asked, 0.0)
    puzzles = zip(asked, parse_puzzles(pool, [Text(pairs[index].puzzle) for index in asked]), strict=True)
    known: dict[int, tuple[Puzzle, Judgement]] = {
        index: (puzzle, judgements[index]) for index, puzzle in puzzles if isinstance(puzzle, Puzzle)
    }
    found.update(zip(known, shares(pool, list(known.values())), strict=True))
    return [judged(None, judgement, found.get(index)) for index, judgement in enumerate(judgements)]


def _check_known(pool: Pool) -> None:
    """Judge pairs whose verdicts are certain. This also starts what the first pairs would wait for."""
    found = judge(pool, [Pair(KNOWN_PUZZLE, solution) for solution in KNOWN])
    if [outcome.verdict for outcome in found] != list(KNOWN.values()):
        raise SandboxError(f"the sandbox gets a known verdict wrong: {', '.join(each.verdict for each in found)}")
