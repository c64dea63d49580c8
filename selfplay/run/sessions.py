"""What each session of a run ran on: versions, machine, and hashes of the code, the sets and the base model.

Nothing is read from the environment's variables, which hold keys.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError
from sandbox.pool import available_cores
from selfplay.config import RunConfig
from selfplay.run.rundir import RunDir, append_line, read_lines

DISTRIBUTIONS = {"selfplay": "selfplay-puzzles"} | {
    name: name for name in ("torch", "transformers", "tokenizers", "numpy", "safetensors")
}
PACKAGES = ("sandbox", "puzzles", "selfplay")
SOURCES = (".py", ".toml")
OF_ITS_OWN = ("began", "host", "process")
"""What is another in each session, and changes nothing."""
SETTINGS_OF_SETS = {f"sets.{name}": f"data.{name}" for name in ("train", "dev", "heldout")}


def environment() -> dict[str, Any]:
    """Of this process: what the same settings may come out differently by."""
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "versions": {name: _version(of) for name, of in DISTRIBUTIONS.items()} | {"sqlite": sqlite3.sqlite_version},
        "source": source_hash(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # it runs from a folder that was not installed
        return None


def source_hash() -> str:
    """Sixteen digits over the files of this project's packages that decide what a run computes."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        folder = Path(str(resources.files(package)))
        for file in sorted(folder.rglob("*")):
            if file.suffix in SOURCES:
                digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def file_hash(file: Path) -> str:
    """Sixteen digits over a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def note_origin(rundir: RunDir, origin: Mapping[str, Any]) -> None:
    """Keep before a new run's first session where the run comes from: `branched_from` or `reproduces`."""
    append_line(rundir.sessions, dict(origin))


def origin(rundir: RunDir) -> dict[str, Any]:
    """As it was kept; empty for a run that began by itself."""
    return {key: value for line in read_lines(rundir.sessions) if "began" not in line for key, value in line.items()}


def sessions(rundir: RunDir) -> list[dict[str, Any]]:
    """A run's sessions in order; none of one from before they were kept."""
    return [line for line in read_lines(rundir.sessions) if "began" in line]


def begin_session(rundir: RunDir, config: RunConfig, content: Mapping[str, Any]) -> list[str]:
    """Keep what a run goes on with.

    Args:
        rundir: The run.
        config: Its settings, which name the files.
        content: Beside the environment: hashes of the `sets` and of the `base` model, and what else is known.

    Returns:
        What is not as it was when the run began, but may be.

    Raises:
        InputError: A set or the base model has changed, so that it would be another run.
    """
    here = {**origin(rundir), **environment(), **content}
    begun = sessions(rundir)[:1]
    different = differences(begun, here)
    for key, (there, now) in different.items():
        if key == "base" or key in SETTINGS_OF_SETS:
            setting = SETTINGS_OF_SETS.get(key, "model.path")
            named = config.model.path if key == "base" else getattr(config.data, key.partition(".")[2])
            raise InputError(
                f"{setting}: {named} is not what it was when {rundir.path} began (hash {there[0]} then, {now} now): "
                "bring it back as it was, or begin a new run with another --name"
            )
    append_line(rundir.sessions, here)
    return told(different, "then", "now")


def differences(there: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> dict[str, tuple[list[Any], Any]]:
    """What some sessions had otherwise than this one, by dotted key: their distinct values, and this one's.

    What a session does not know is no difference.
    """
    flat, now = [_flatten(session) for session in there], _flatten(here)
    found = {}
    for key, value in now.items():
        values = list(dict.fromkeys(session[key] for session in flat if key in session))
        if values and values != [value]:
            found[key] = (values, value)
    return found


def told(different: Mapping[str, tuple[list[Any], Any]], there: str = "there", here: str = "here") -> list[str]:
    """Differences as texts, one each."""
    return [f"{key}: {', '.join(map(str, values))} {there}, {now} {here}" for key, (values, now) in different.items()]


def _flatten(session: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in session.items():
        if key in (*OF_ITS_OWN, "branched_from", "reproduces"):
            continue
        flat |= {f"{key}.{name}": of for name, of in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat
