"""Writes files whole, and never through a link.

A folder may come from a stranger, who may have put links there under the names that this program writes. So a file is
written under a random name, which is made exclusively in a folder that is held open, and then takes its own name. A
file that grows in its place is opened only if it is an ordinary file with one name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from puzzles.foreign import shortened
from puzzles.puzzle import InputError

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_atomically(path: Path, text: str) -> None:
    """Replace a file, or leave it as it was. A character that UTF-8 cannot encode is written as an escape."""
    with file_atomically(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def file_atomically(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write. It takes its name, and replaces what had it, only when the block ends without an error.

    Args:
        path: The file's name. Its folder is made if it is missing.
        sync: Whether it is on disk when the block has ended.
    """
    with _part_of(path, sync) as (file, _):
        yield file


@contextmanager
def path_atomically(path: Path) -> Iterator[Path]:
    """As `file_atomically`, for a writer that opens its file by name. The path is that of a new, empty file."""
    with _part_of(path) as (_, part):
        yield part


@contextmanager
def _part_of(path: Path, sync: bool = True) -> Iterator[tuple[BinaryIO, Path]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path.parent) as folder:
        part = _new_name(folder, path.name)
        try:
            with os.fdopen(os.open(part, _NEW, 0o666, dir_fd=folder), "w+b") as file:
                _lock(file.fileno())
                yield file, path.parent / part
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.rename(part, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=folder)
            raise
        if sync:
            os.fsync(folder)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A folder to fill. It takes its name, and replaces what had it, only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path.parent) as folder:
        name = _new_name(folder, path.name)
        os.mkdir(name, dir_fd=folder)
        part = path.parent / name
        try:
            with _opened(part) as own:
                _lock(own)
                yield part
                for file in filter(Path.is_file, part.rglob("*")):
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            _remove(path)
            os.rename(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def open_in_place(path: Path, create: bool = True, append: bool = True) -> BinaryIO:
    """Open a file to read and to write it, without following a link.

    Args:
        path: The file.
        create: Whether a missing file is made.
        append: Whether all that is written goes to its end. If not, the file is at its beginning.

    Raises:
        InputError: It is a link, is no regular file, or has a second name somewhere (a hard link).
        OSError: It cannot be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    flags |= (os.O_CREAT if create else 0) | (os.O_APPEND if append else 0)
    with _opened(path.parent) as folder:
        try:
            descriptor = os.open(path.name, flags, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
                raise InputError(_refusal(path, "a link")) from None
            raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        came = "a file with a second name" if stat.S_ISREG(found.st_mode) else "a pipe or a device"
        raise InputError(_refusal(path, came))
    return os.fdopen(descriptor, "a+b" if append else "r+b")


def check_folder(path: Path) -> list[Path]:
    """Check that a folder holds ordinary files and folders only, at any depth. The folder itself may be a link.

    Returns:
        The files and folders in it that belong to another user.

    Raises:
        InputError: It holds a link, a pipe, a socket or a device.
    """
    others = []
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            file = Path(parent, name)
            try:
                found = file.lstat()
            except FileNotFoundError:  # another process has just removed it
                continue
            if stat.S_ISLNK(found.st_mode):
                raise InputError(_refusal(file, f"a link to {shortened(os.readlink(file))}"))
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                raise InputError(_refusal(file, "a pipe, a socket or a device"))
            if found.st_uid != os.geteuid():
                others.append(file)
    return others


def _refusal(path: Path, came: str) -> str:
    return (
        f"{path}: expected an ordinary file or folder, got {came}: put the file or folder itself here"
        " (the run's own folder may be a link)"
    )


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _new_name(folder: int, name: str) -> str:
    """A name for what will be called `name`. What a crash has left under such names is removed first."""
    left = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.part")
    for other in filter(left.fullmatch, os.listdir(folder)):
        with contextlib.suppress(OSError):
            descriptor = os.open(other, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it fails while its writer lives
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    shutil.rmtree(other, dir_fd=folder)
                else:
                    os.unlink(other, dir_fd=folder)
            finally:
                os.close(descriptor)
    return f".{name}.{secrets.token_hex(4)}.part"


def _lock(descriptor: int) -> None:
    """Show that the writer lives. Some file systems have no locks; there a crash leaves its part."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path) -> None:
    """Remove a folder, or what else has its name; of a link only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
