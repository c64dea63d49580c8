"""Files that this user's commands have made and can make again, beside all runs.

They are in `$XDG_CACHE_HOME/selfplay`, by default `~/.cache/selfplay`. Nothing that is handed over can be there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder(name: str) -> Path | None:
    """The folder for one kind of file; None if this user has no home. It need not exist."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "selfplay" / name if base.is_absolute() else None


def made_once(folder: Path, make: Callable[[Path], object]) -> None:
    """Have a folder made, unless it is there. It exists only when it is complete; several processes may make it."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as name:
        part = Path(name) / "made"
        make(part)
        try:
            part.replace(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(part, ignore_errors=True)
