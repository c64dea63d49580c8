"""The next chunk is sampled while this one is judged, where the model leaves the processor to the judges.

What is written does not depend on it: works are pure, their results come in order, and everything
that touches the archive stays in the one thread that has it. At most two results wait, so memory is
bound however slow the judges are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

T = TypeVar("T")
Work = Callable[[Callable[[], None]], T]
"""It is given a function to call now and then, and to let raise: when its result is given up, so is the work."""


class Abandoned(Exception):
    """Raised in a work whose result nobody waits for any more."""


def counted(work: Callable[[Callable[[int], object]], T], count: Callable[[int], object]) -> Work[T]:
    """Work that shows its progress, and stops when its result is given up."""

    def start(check: Callable[[], None]) -> T:
        def progress(done: int) -> None:
            check()
            count(done)

        return work(progress)

    return start


def results(works: Iterable[Work[T]], overlap: bool) -> Generator[T, None, None]:
    """Each work's result, in order; to be closed by who does not want them all.

    Args:
        works: Drawn in the calling thread, at most two ahead of the results.
        overlap: Whether works are done in another thread, while the caller uses the results before.
    """
    if not overlap:
        for work in works:
            yield work(lambda: None)
        return
    given_up = Event()

    def check() -> None:
        if given_up.is_set():
            raise Abandoned

    with ThreadPoolExecutor(1, "sampling") as thread:
        try:
            yield from _in_order(thread.submit(work, check) for work in works)
        finally:
            given_up.set()


def _in_order(futures: Iterator[Future[T]]) -> Iterator[T]:
    waiting = next(futures, None)
    while waiting is not None:
        following = next(futures, None)
        yield waiting.result()
        waiting = following
