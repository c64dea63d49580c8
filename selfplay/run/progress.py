"""Functions by which a long step shows its progress. The command line draws its status line with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Later:
    """How long everything takes that comes after a step."""

    seconds: float
    is_all: bool = True
    """Whether nothing is left out because its time is not known yet."""


@dataclass
class Progress:
    """Functions that are called while work goes on. By default they do nothing."""

    counter: Callable[[int, str, str], Callable[..., object]] = lambda total, description, unit: lambda *_: None
    """Called with a total, a description and a unit. Returns a function to call with the number of units done since
    the last call."""
    row: Callable[[dict[str, Any]], object] = lambda record: None
    """Called with the record of each finished iteration."""
    trained: Callable[[int, int, float, float], object] = lambda iteration, tokens, loss, learning_rate: None
    """Called after each step of a training with the iteration, and the step's tokens, loss and learning rate."""
    say: Callable[[str], object] = lambda text: None
    """Called with a line of text for the person who waits."""
    step: Callable[[str, Later | None], object] = lambda text, later: None
    """Called when another step begins, with what it is, and with how long everything after it takes if that is known.
    Counters until the next call belong to this step."""
    width: int | None = None
    """Characters of a line for tables; None for whole tables."""
    note: Callable[[str], object] = lambda text: None
    """Called with what the present step is at, such as `judging`."""
