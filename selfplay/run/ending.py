"""SIGINT, SIGTERM and SIGHUP end a command in good order, and within seconds whatever it is doing.

The first one raises KeyboardInterrupt in the main thread. Python may not get to that for long (a
matrix product of a large model) or lose it (what a finalizer raises is only printed), so a thread that the
C library's handler itself wakes ends the process when its grace is over, or at a second signal.
What is on disk is then as after any crash: whole, and gone on from by the same command.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 6.0
"""From a signal to the end: Slurm kills 30 s after it by default, spot machines are gone after 30 s to 2 minutes."""
LAST_ACT_SECONDS = 1.0
INTERRUPTED = 130
"""The exit status."""
last_acts: list[Callable[[], object]] = []
"""Done, quickly, by a process that has to be ended from outside its main thread."""


@contextlib.contextmanager
def in_good_order(last_words: bytes) -> Iterator[None]:
    """What runs inside ends at a signal; a signal that is ignored (`nohup`) stays so.

    Args:
        last_words: Written to standard error when the process has to be ended from outside its main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    earlier = [signal.signal(number, interrupt) for number in handled]
    earlier_waker = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(woken, frozenset(handled), last_words), name="ending", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier_waker)
        for number, handler in zip(handled, earlier, strict=True):
            signal.signal(number, signal.SIG_IGN if came else handler)  # nothing changes the exit status any more
        waker.close()


def _watch(woken: socket.socket, numbers: frozenset[int], last_words: bytes) -> None:
    """Until the other end is closed; once a signal came, until the process is gone."""
    with woken:
        while (received := woken.recv(1)) and received[0] not in numbers:
            pass
        if not received:
            return
        ends_at = time.monotonic() + GRACE_SECONDS
        if not _signalled(woken, numbers, ends_at):  # the command has ended, what comes after it has not yet
            time.sleep(max(0.0, ends_at - time.monotonic()))
    for act in (*last_acts, lambda: os.write(2, last_words)):
        # A disk may hang, and nobody may read what is said.
        doing = threading.Thread(target=_quietly, args=(act,), daemon=True)
        doing.start()
        doing.join(LAST_ACT_SECONDS)
    os._exit(INTERRUPTED)


def _signalled(woken: socket.socket, numbers: frozenset[int], until: float) -> bool:
    """Wait for one of these signals, or for the other end to be closed."""
    while select.select([woken], [], [], max(0.0, until - time.monotonic()))[0]:
        if not (received := woken.recv(1)):
            return False
        if received[0] in numbers:
            return True
    return False


def _quietly(act: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        act()
