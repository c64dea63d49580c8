"""How a long step shows itself; the command line puts bars here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Progress:
    """What is called while work goes on; by default nothing happens."""

    counter: Callable[[int, str, str], Callable[..., object]] = lambda total, description, unit: lambda *_: None
    """Given how many there are, what is done, and of what: it returns what is called with how many are done."""
    row: Callable[[dict[str, Any]], object] = lambda record: None
    """Called with the record of an iteration that has ended."""
    say: Callable[[str], object] = lambda text: None
    """Called with a line for who waits."""
