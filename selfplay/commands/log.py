"""A run's log file."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.handlers
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puzzles.writing import open_in_place
from sandbox.printing import visible
from selfplay.text import printable

LOG_BYTES, LOGS_BEFORE = 10_000_000, 3
"""Size at which a log is set aside, and the number of older logs that are kept."""
PACKAGES = ("selfplay", "puzzles", "sandbox")


class _Log(logging.handlers.RotatingFileHandler):
    """A log that makes its folder, because nodes and servers may write to it before the run begins. It is no link."""

    def _open(self) -> Any:
        path = Path(self.baseFilename)
        path.parent.mkdir(parents=True, exist_ok=True)
        return io.TextIOWrapper(open_in_place(path), encoding="utf-8", errors="backslashreplace", line_buffering=True)


class Formatter(logging.Formatter):
    """A formatter whose lines show everything in them. A message is one line, whatever its parts are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging calls it so
        """The line of a record, without the traceback below it."""
        return visible(super().formatMessage(record))

    def formatException(self, information: Any) -> str:  # noqa: N802  # logging calls it so
        """The traceback of a record, which has several lines."""
        return printable(super().formatException(information))


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write the log lines of the packages to a file."""
    # The file is opened at the first line, so that a second run that is refused does not touch the first one's log.
    handler = _Log(path, maxBytes=LOG_BYTES, backupCount=LOGS_BEFORE, encoding="utf-8", delay=True)
    handler.setFormatter(Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for name in PACKAGES:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(handler)
        handler.close()
