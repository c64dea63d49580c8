"""Functions by which a long step shows its progress. The command line draws progress bars with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
