"""Opens SQLite files: the only module that does.

A file may come from a stranger. So nothing beside it may be a link, nothing in it may run (`statements.py` compares its
schema), no value may be larger than a bound, and no statement may take for ever.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

from puzzles.foreign import in_bytes, open_regular, shortened
from puzzles.puzzle import InputError

MOST_VALUE_BYTES = 128 * 1024**2
"""Largest value and largest row that SQLite reads or writes."""
MOST_STATEMENT_BYTES = 1024**2
"""Longest statement, and so the longest text of a table's or view's definition."""
STATEMENT_CPU_SECONDS = 900.0
"""CPU time that one statement may take. The slowest question to an archive of a million pairs takes a few minutes."""
STEPS_BETWEEN_LOOKS = 500_000
"""Steps of SQLite's machine between two looks at the clock; some milliseconds."""
SIDE_FILES = ("-wal", "-shm", "-journal")
"""Ends of the names of the files that SQLite keeps beside a database."""

_JOURNAL_END = bytes.fromhex("d9d505f920a163d7")
"""Last bytes of a journal that names another file, which SQLite removes when it has rolled the journal back."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MOST_VALUE_BYTES, sqlite3.SQLITE_LIMIT_SQL_LENGTH: MOST_STATEMENT_BYTES,
    sqlite3.SQLITE_LIMIT_ATTACHED: 1, sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}  # fmt: skip


class Connection(sqlite3.Connection):
    """A connection that interrupts a statement after STATEMENT_CPU_SECONDS.

    Python's signals are also handled meanwhile, so Ctrl-C ends a long statement.
    """

    _began = 0.0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Run a statement, as `sqlite3.Connection.execute` does."""
        self._began = time.thread_time()
        return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        """Run a statement with many rows, as `sqlite3.Connection.executemany` does."""
        self._began = time.thread_time()
        return super().executemany(*arguments)

    def takes_too_long(self) -> bool:
        """Whether the present statement has used its time."""
        return time.thread_time() - self._began > STATEMENT_CPU_SECONDS


def connect(path: Path, query: str = "mode=rw", check_same_thread: bool = True) -> sqlite3.Connection:
    """Connect to an SQLite file, in autocommit.

    Args:
        path: The file.
        query: Query of SQLite's URI: `mode=rw`, `mode=ro` or `immutable=1`.
        check_same_thread: Whether only this thread may use the connection.

    Raises:
        InputError: The file is a link or no regular file, or a file that SQLite keeps beside it is.
        sqlite3.DatabaseError: SQLite cannot open it.
    """
    check_files(path)
    address = f"{path.absolute().as_uri()}?{query}"
    return _set_up(
        sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=check_same_thread, factory=Connection
        )
    )


def in_memory() -> sqlite3.Connection:
    """An empty database that is no file."""
    return _set_up(sqlite3.connect(":memory:", isolation_level=None, factory=Connection))


def make_file(path: Path) -> None:
    """Make an empty file for a database, unless one is there. It is never made through a link."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))


def check_files(path: Path) -> None:
    """Check that a database and the files that SQLite keeps beside it are regular files, as far as they are there.

    Raises:
        InputError: One is a link, or of another kind; or a journal that names another file, which SQLite would remove;
            or it has a second name somewhere (a hard link), so that writing it would change another's file.
    """
    for file in (path, *(path.with_name(f"{path.name}{end}") for end in SIDE_FILES)):
        try:
            found = os.lstat(file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        kind = found.st_mode
        if stat.S_ISLNK(kind):
            remedy = f"name {shortened(os.path.realpath(file))} itself" if file == path else "remove the link"
            raise InputError(f"{file}: expected an archive's own file, got a link: {remedy}")
        if not stat.S_ISREG(kind) and not (file == path and stat.S_ISDIR(kind)):
            raise InputError(f"{file}: expected an archive's own file, got a folder, a pipe or a device")
        if stat.S_ISREG(kind) and found.st_nlink > 1:
            raise InputError(
                f"{file}: expected an archive's own file, got one with a second name: copy it, or remove it"
            )
        if file.name.endswith("-journal") and _names_a_file(file):
            raise InputError(f"{file}: expected the journal of one archive, it names another file: remove it")


def _names_a_file(journal: Path) -> bool:
    with open_regular(journal) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_JOURNAL_END)))
        return file.read(len(_JOURNAL_END)) == _JOURNAL_END


def told(error: sqlite3.Error) -> str:
    """What an error of SQLite means, where its own words do not say it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        return f"a question to it took more than {STATEMENT_CPU_SECONDS:,.0f} seconds of CPU time"
    if code == sqlite3.SQLITE_TOOBIG:
        return f"it holds a value of more than {in_bytes(MOST_VALUE_BYTES)}"
    return str(error)


def _set_up(connection: sqlite3.Connection) -> sqlite3.Connection:
    assert isinstance(connection, Connection)
    try:
        for limit, most in _LIMITS.items():
            connection.setlimit(limit, most)
        if hasattr(connection, "setconfig"):  # since Python 3.12
            for name, value in (("DEFENSIVE", True), ("ENABLE_TRIGGER", False)):
                connection.setconfig(getattr(sqlite3, f"SQLITE_DBCONFIG_{name}"), value)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
            connection.execute(f"PRAGMA {pragma}").close()
        connection.set_progress_handler(connection.takes_too_long, STEPS_BETWEEN_LOOKS)
    except BaseException:
        connection.close()
        raise
    return connection
