"""The last line of a terminal, which says what a command is doing, how fast, and how long it will take.

It is renewed each second, so a person can see that the command is alive. Where standard error is no terminal, there is
no such line.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sandbox.printing import visible
from selfplay.run.progress import Later

if TYPE_CHECKING:
    from tqdm import tqdm

TICK_SECONDS = 1.0
LEAST_SECONDS = 0.1
"""Least time between two renewals because something was counted."""


def clock(seconds: float) -> str:
    """A duration as `0:06`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Line:
    """The line of one terminal. Steps and counters replace each other; `end` removes it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.RLock()
        self._bar: tqdm[Any] | None = None
        self._ended = threading.Event()
        self._step = self._note = ""
        self._later: Later | None = None
        self._first: tuple[float, int] | None = None
        self._begin("", 0, "")

    def step(self, text: str, later: Later | None = None) -> None:
        """Begin another step. Counters until the next one belong to it."""
        with self._lock:
            self._step, self._later = text, later
            self._begin(text, 0, "")
            self._show()

    def note(self, text: str) -> None:
        """Say what the present step is at."""
        with self._lock:
            self._note = text
            self._draw()

    def counter(self, total: int, description: str, unit: str) -> Callable[..., None]:
        """Count the units of a step, or of a description where no step has begun; a total of 0 is not known."""
        with self._lock:
            self._begin(self._step or description, total, unit)
            self._show()

        def count(done: int, note: str = "") -> None:
            with self._lock:
                now = self._now()
                if self._first is None:
                    self._first = now, done
                self._done += done
                self._note = note or self._note
                if total and self._done >= total and not self._step:
                    self.end()
                elif now - self._drawn >= LEAST_SECONDS:
                    self._draw()

        return count

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Remove the line while something else is printed."""
        with self._lock:
            self._erase()
            try:
                yield
            finally:
                self._draw()

    def end(self) -> None:
        """Remove the line. The next step or counter brings it back."""
        with self._lock:
            self._ended.set()
            if self._bar is not None:
                with self._given_up():
                    self._bar.close()
            self._step, self._bar = "", None

    def text(self, columns: int) -> str:
        """The line, in the longest form that fits so many columns."""
        now = self._now()
        rate = self._rate(now)
        is_full = self._done >= self._total > 0
        counted = f"{self._done:,} of {self._total:,}" if self._total else f"{self._done:,} {self._unit}s"
        share = f"{self._done / self._total:.0%}" if self._total else counted
        left = f"{clock(self._left(rate))} left" if self._total and rate and not is_full else ""
        spent = "" if left else clock(now - self._began)
        speed = "" if is_full or not rate else _per_second(rate, self._unit)
        run = ""
        if self._later and (rate or not self._total):
            run = f"run {'' if self._later.is_all else 'over '}{clock(self._left(rate) + self._later.seconds)}"
        if not self._unit:
            counted = share = ""
        forms = (
            (self._text, counted, self._note, speed, spent, left, run),
            (self._text, share, self._note, speed, spent, left, run),
            (self._text, share, self._note, speed.replace(f" {self._unit}s/", "/"), spent, left, run),
            (self._text, share, self._note, spent, left, run),
        )
        lines = [visible(" · ".join(filter(None, parts))) for parts in forms]
        return next((line for line in lines if len(line) <= columns), lines[-1][:columns])

    def _begin(self, text: str, total: int, unit: str) -> None:
        self._text, self._total, self._unit, self._note = text, total, unit, ""
        self._done, self._began, self._drawn = 0, self._now(), 0.0
        self._first = None

    def _rate(self, now: float) -> float:
        """Units per second; 0 if that is not known. The first count may be of earlier work, so it is left out."""
        began, before = self._first or (now, 0)
        return (self._done - before) / (now - began) if now > began and self._done > before else 0.0

    def _left(self, rate: float) -> float:
        return max(0, self._total - self._done) / rate if rate else 0.0

    def _show(self) -> None:
        """Draw the line, and go on with that each second."""
        if self._bar is None and sys.stderr is not None and sys.stderr.isatty():
            self._ended = threading.Event()
            with self._given_up():
                from tqdm import tqdm

                self._bar = tqdm(bar_format="{desc}", file=sys.stderr, position=0, leave=False)
            threading.Thread(target=self._tick, args=(self._ended,), name="status line", daemon=True).start()
        self._draw()

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(TICK_SECONDS):
            with self._lock:
                if not ended.is_set():
                    self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            self._drawn = self._now()
            with self._given_up():
                self._bar.set_description_str(self.text(shutil.get_terminal_size().columns - 1))

    def _erase(self) -> None:
        if self._bar is not None:
            with self._given_up():
                self._bar.clear()

    @contextlib.contextmanager
    def _given_up(self) -> Iterator[None]:
        """Give the line up if the terminal is gone, or tqdm is not here (`verify` needs no packages): go on without."""
        try:
            yield
        except (OSError, ValueError, ImportError):
            self._bar = None


def _per_second(rate: float, unit: str) -> str:
    if rate >= 10:
        return f"{rate:,.0f} {unit}s/s"
    return f"{rate:.1f} {unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s per {unit}"


LINE = Line()
"""The line of this process."""
