"""Samples the next chunks while one is judged, where the model leaves the processor to the judges.

This does not change what is written. Works have no side effects, their results come in order, and only the one thread
that owns the archive touches it. At most one more work is drawn ahead than run at the same time, so memory is bounded
however slow the judges are.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import TypeVar

T = TypeVar("T")
Work = Callable[[Callable[[], None]], T]
"""A task that returns a result. It must call its argument now and then, and not catch what that raises: this ends the
work when nobody wants its result any more."""


_counting = Lock()


class Abandoned(Exception):
    """Raised inside a work whose result is not wanted any more."""


def counted(work: Callable[[Callable[[int], object]], T], count: Callable[[int], object]) -> Work[T]:
    """A work that counts its progress, and stops when its result is no longer wanted. One thread counts at a time."""

    def start(check: Callable[[], None]) -> T:
        def progress(done: int) -> None:
            check()
            with _counting:
                count(done)

        return work(progress)

    return start


def results(works: Iterable[Work[T]], overlap: int) -> Generator[T, None, None]:
    """Each work's result, in order. A caller that does not take all results must close the generator.

    Args:
        works: Drawn in the calling thread, at most `overlap` + 1 ahead of the results.
        overlap: Number of works that run at the same time, each in a thread, while the caller uses earlier results.
            With 0 each work runs when its result is requested.
    """
    if not overlap:
        for work in works:
            yield work(lambda: None)
        return
    given_up = Event()

    def check() -> None:
        if given_up.is_set():
            raise Abandoned

    with ThreadPoolExecutor(overlap, "sampling") as threads:
        try:
            yield from _in_order((threads.submit(work, check) for work in works), overlap + 1)
        finally:
            given_up.set()


def _in_order(futures: Iterator[Future[T]], ahead: int) -> Iterator[T]:
    waiting = deque(itertools.islice(futures, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(itertools.islice(futures, 1))
