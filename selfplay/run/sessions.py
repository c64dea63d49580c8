"""What each session of a run ran on: versions, machine, and hashes of the code, the sets and the base model.

No environment variable is read, because they hold keys.
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

from puzzles.foreign import ANY, expect, open_regular
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
"""Keys that differ in every session and change no result."""
_FACT = {"type": ["string", "integer", "number", "boolean", "null", "array"], "items": {"type": "string"}}
SESSION = {
    "type": "object", "properties": {"branched_from": ANY, "reproduces": ANY},
    "additionalProperties": {**_FACT, "type": [*_FACT["type"], "object"], "additionalProperties": _FACT},
}  # fmt: skip
"""JSON shape of a session: facts, lists of texts, and objects of these."""
SETTINGS_OF_SETS = {f"sets.{name}": f"data.{name}" for name in ("train", "dev", "heldout")}


def environment() -> dict[str, Any]:
    """What the results of this process may depend on beside its settings."""
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "versions": {name: version_of(of) for name, of in DISTRIBUTIONS.items()} | {"sqlite": sqlite3.sqlite_version},
        "source": source_hash(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution; None of one that is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # the code runs from a folder that was not installed
        return None


def source_hash() -> str:
    """Hash of 16 digits over those files of this project's packages that decide what a run computes."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        folder = Path(str(resources.files(package)))
        for file in sorted(folder.rglob("*")):
            if file.suffix in SOURCES:
                digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def file_hash(file: Path) -> str:
    """Hash of 16 digits over a file's bytes."""
    with open_regular(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def note_origin(rundir: RunDir, origin: Mapping[str, Any]) -> None:
    """Record, before a new run's first session, where the run comes from: `branched_from` or `reproduces`."""
    append_line(rundir.sessions, dict(origin))


def origin(rundir: RunDir) -> dict[str, Any]:
    """The recorded origin of a run; empty for a run that was not made from another one."""
    return {key: value for line in _lines(rundir) if "began" not in line for key, value in line.items()}


def sessions(rundir: RunDir) -> list[dict[str, Any]]:
    """A run's sessions in order; empty for a run from before sessions were recorded."""
    return [line for line in _lines(rundir) if "began" in line]


def _lines(rundir: RunDir) -> list[dict[str, Any]]:
    lines = read_lines(rundir.sessions)
    for number, line in enumerate(lines, 1):
        where = f"{rundir.sessions}, line {number}"
        expect(line, {"type": "object"}, where)
        if "began" in line:
            expect(line, SESSION, where)
    return lines


def begin_session(rundir: RunDir, config: RunConfig, content: Mapping[str, Any]) -> list[str]:
    """Record a new session of a run, and compare it with the first one.

    Args:
        rundir: The run.
        config: Its settings, which name the files.
        content: Facts beside the environment: hashes of the `sets` and of the `base` model, and more.

    Returns:
        Permitted differences from the first session, one text each.

    Raises:
        InputError: A set or the base model has changed, so it would be another run.
    """
    here = {**origin(rundir), **environment(), **content}
    begun = sessions(rundir)[:1]
    different = differences(begun, here)
    for key, (there, now) in different.items():
        if key == "base" or key in SETTINGS_OF_SETS:
            setting = SETTINGS_OF_SETS.get(key, "model.path")
            named = config.model.path if key == "base" else getattr(config.data, key.partition(".")[2])
            raise InputError(
                f"{setting}: {named} has changed since {rundir.path} began (hash {there[0]} then, {now} now): "
                "restore it, or begin a new run with another --name"
            )
    append_line(rundir.sessions, here)
    return told(different, "then", "now")


def differences(there: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> dict[str, tuple[list[Any], Any]]:
    """Differences between some sessions and this one, by dotted key: their distinct values, and this one's value.

    A key that only one side has is no difference.
    """
    flat, now = [_flatten(session) for session in there], _flatten(here)
    found = {}
    for key, value in now.items():
        values = list(dict.fromkeys(session[key] for session in flat if key in session))
        if values and values != [value]:
            found[key] = (values, value)
    return found


def told(different: Mapping[str, tuple[list[Any], Any]], there: str = "there", here: str = "here") -> list[str]:
    """Differences as texts, one per key."""
    return [f"{key}: {', '.join(map(str, values))} {there}, {now} {here}" for key, (values, now) in different.items()]


def _flatten(session: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in session.items():
        if key in (*OF_ITS_OWN, "branched_from", "reproduces"):
            continue
        flat |= {f"{key}.{name}": of for name, of in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat
