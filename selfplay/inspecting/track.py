"""Records as TensorBoard curves (`tensorboard = true`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError


def require() -> None:
    """Check that the package is installed, at the start and not after an iteration.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        import tensorboard  # noqa: F401  # only to see whether it is installed
    except ImportError:
        raise InputError("tensorboard = true: the package is not installed: pip install '.[track]'") from None


def write(folder: Path, record: dict[str, Any]) -> None:
    """Add every number of a record under its path; an interval as its value, `_low` and `_high`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=record["iteration"]) as writer:
        for name, value in _scalars(record, ""):
            writer.add_scalar(name, value, record["iteration"])


def _scalars(content: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _scalars(value, f"{name}/{key}" if name else str(key))
    elif isinstance(content, list) and len(content) == 3:
        for end, value in zip(("", "_low", "_high"), content, strict=True):
            yield from _scalars(value, name + end)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield name, float(content)
