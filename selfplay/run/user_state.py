"""What this user keeps on this machine beside all runs: a secret key, and marks of what was proved before.

It is in `$XDG_STATE_HOME/selfplay`, by default `~/.local/state/selfplay`. Nothing that is handed over can be there, and
nothing of it is written into a run but signatures. Without such a folder all works, but nothing is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

KEY_BYTES = 32
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Rights of other users. The key gives them none."""
MARK = re.compile(r"[a-z]+-[0-9a-f]{64}")


def folder() -> Path | None:
    """The folder; None if this user has no home. It need not exist."""
    named = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return base / "selfplay" if base.is_absolute() else None


def signature(content: bytes, make_key: bool = False) -> str | None:
    """A signature that only this user can make on this machine, as 64 hexadecimal digits.

    Args:
        content: What is signed.
        make_key: Whether the secret key is made if there is none.

    Returns:
        The signature; None if there is no key, or it cannot be kept secret.
    """
    key = _key(make_key)
    return None if key is None else hmac.new(key, content, hashlib.sha256).hexdigest()


def _key(make: bool) -> bytes | None:
    place = folder()
    if place is None:
        return None
    try:
        return _read_key(place / "key")
    except FileNotFoundError:
        if not make:
            return None
    except OSError:
        return None
    try:
        _make_key(place / "key")
        return _read_key(place / "key")
    except OSError:
        return None


def _read_key(file: Path) -> bytes | None:
    """The key; None if others could have read or written it."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & OTHERS:
            return None
        key = opened.read(KEY_BYTES + 1)
    return key if len(key) == KEY_BYTES else None


def _make_key(file: Path) -> None:
    """Write a new key, unless another process is faster. The file is whole as soon as it has its name."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_bytes(KEY_BYTES))
            opened.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def remember(mark: str) -> None:
    """Remember a mark, if there is a place for it.

    Args:
        mark: What kind of thing it is, a hyphen, and a hash of 64 hexadecimal digits.
    """
    if (place := folder()) is not None:
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            (place / _checked(mark)).touch(mode=0o600)


def is_remembered(mark: str) -> bool:
    """Whether this user has remembered the mark on this machine."""
    place = folder()
    return place is not None and (place / _checked(mark)).is_file()


def _checked(mark: str) -> str:
    if not MARK.fullmatch(mark):
        raise ValueError(f"no mark: {mark!r}")
    return mark
