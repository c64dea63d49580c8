"""The next chunks are sampled while this one is judged, where the model leaves the processor to the judges.

What is written does not depend on it: works are pure, their results come in order, and everything
that touches the archive stays in the one thread that has it. Works are drawn one more ahead than are
done at the same time, so memory is bound however slow the judges are.
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
"""It is given a function to call now and then, and to let raise: when its result is given up, so is the work."""


_counting = Lock()


class Abandoned(Exception):
    """Raised in a work whose result nobody waits for any more."""


def counted(work: Callable[[Callable[[int], object]], T], count: Callable[[int], object]) -> Work[T]:
    """Work that shows its progress, and stops when its result is given up; one counts at a time."""

    def start(check: Callable[[], None]) -> T:
        def progress(done: int) -> None:
            check()
            with _counting:
                count(done)

        return work(progress)

    return start


def results(works: Iterable[Work[T]], overlap: int) -> Generator[T, None, None]:
    """Each work's result, in order; to be closed by who does not want them all.

    Args:
        works: Drawn in the calling thread, at most `overlap` + 1 ahead of the results.
        overlap: Works that are done at the same time, each in a thread, while the caller uses the results before;
            0: each is done when its result is asked for.
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
