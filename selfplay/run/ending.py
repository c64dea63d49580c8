"""SIGINT, SIGTERM and SIGHUP end a command cleanly, and within seconds whatever it is doing.

The first signal raises KeyboardInterrupt in the main thread. Python may raise it late (after a matrix product of a
large model) or lose it (an exception in a finalizer is only printed). So the signal handler also wakes a thread, from
C. This thread ends the process when the grace period is over, or at a second signal.
The files on disk are then as after any crash: whole, and the same command goes on from them.
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
"""Time from a signal to the end. By default Slurm kills 30 s after its signal; spot machines stop after 30 s to
2 minutes."""
LAST_ACT_SECONDS = 1.0
"""Time limit of each last act."""
INTERRUPTED = 130
"""Exit status of a command that a signal ended."""
last_acts: list[Callable[[], object]] = []
"""Short actions to run when the process must be ended from outside its main thread."""


@contextlib.contextmanager
def in_good_order(last_words: bytes) -> Iterator[None]:
    """End the enclosed code at a signal. A signal that is ignored (`nohup`) stays ignored.

    Args:
        last_words: Written to standard error when the process must be ended from outside its main thread.
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
    """Wait for a signal, then end the process. Return without a signal if the other end is closed."""
    with woken:
        while (received := woken.recv(1)) and received[0] not in numbers:
            pass
        if not received:
            return
        ends_at = time.monotonic() + GRACE_SECONDS
        if not _signalled(woken, numbers, ends_at):  # the command has ended, but not the process
            time.sleep(max(0.0, ends_at - time.monotonic()))
    for act in (*last_acts, lambda: os.write(2, last_words)):
        # In threads with a time limit, because a disk may hang and standard error may have no reader.
        doing = threading.Thread(target=_quietly, args=(act,), daemon=True)
        doing.start()
        doing.join(LAST_ACT_SECONDS)
    os._exit(INTERRUPTED)


def _signalled(woken: socket.socket, numbers: frozenset[int], until: float) -> bool:
    """Wait until the deadline for one of these signals. False if none came, or if the other end was closed."""
    while select.select([woken], [], [], max(0.0, until - time.monotonic()))[0]:
        if not (received := woken.recv(1)):
            return False
        if received[0] in numbers:
            return True
    return False


def _quietly(act: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        act()
