"""A run's log file."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOG_BYTES, LOGS_BEFORE = 10_000_000, 3
"""A log of this many bytes is put aside; this many older ones are kept."""
PACKAGES = ("selfplay", "puzzles", "sandbox")


class _Log(logging.handlers.RotatingFileHandler):
    """A log whose folder may not be there yet: nodes and servers write to it before the run begins."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what the packages log to a file."""
    # The file is opened by the first line: a second run, which is refused, leaves the first one's log alone.
    handler = _Log(path, maxBytes=LOG_BYTES, backupCount=LOGS_BEFORE, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    for name in PACKAGES:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(handler)
        handler.close()
