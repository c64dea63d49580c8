"""Which settings of a run's folder may act here: those of a run that this user began on this machine.

A run's folder may come from somebody else. Most of its settings only decide what is computed. Some *act*: they start
processes, open connections, read the environment, import code, weaken the sandbox, or name files outside the folder.
These are taken from the command line, from a settings file that the user names there, or from a run that carries the
user's signature. Else they are refused by name.

The signature is made with a key that is not in the folder (`user_state.py`). It signs the settings that act, and the
run's first session, so it goes with a copy of the run and fits no other one. What the archive of an unsigned run says
about its texts is computed anew before that run goes on (`iteration/guarding.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from puzzles.archive.formats import EMBEDDED_SETS
from puzzles.foreign import open_regular, shortened
from puzzles.puzzle import InputError
from sandbox.result import RANGES, Limits
from selfplay import settings
from selfplay.config import RunConfig, flatten
from selfplay.run import sessions, user_state
from selfplay.run.rundir import RunDir, write_atomically

SIGNATURES = "signatures.txt"
"""File in a run's folder. Each line is the signature of a user who has let the run's settings act."""
MOST_SIGNATURES_BYTES = 1 << 16
KEY_NAMES = "_API_KEY"
"""End of the names of variables that hold keys for servers. Another variable may hold any other secret."""


def _at_most(most: float) -> Callable[[Any], bool]:
    return lambda value: value <= most


HARMLESS: dict[str, Callable[[Any], bool]] = {
    "model.path": lambda path: path in ("embedded", "smollm2", ""),
    "data.train": lambda path: path in (*EMBEDDED_SETS, "none"),
    "data.dev": lambda path: path in EMBEDDED_SETS,
    "data.heldout": lambda path: path in EMBEDDED_SETS,
    "track": lambda name: name != "wandb",
    "executor": lambda executor: executor == "local",
    "ray.address": lambda address: not address,
    "endpoint.serve": lambda command: not command,
    "endpoint.urls": lambda urls: not urls,
    "endpoint.key_variable": lambda name: name in ("", "OPENAI_API_KEY"),
    "sandbox.modules": lambda modules: not modules,
    "sandbox.minimum_tier": lambda tier: tier in ("A", "B"),
    "sandbox.cpu_seconds": _at_most(60.0),
    "sandbox.wall_seconds": _at_most(600.0),
    "sandbox.memory_mb": _at_most(2048),
    "sandbox.answer_kb": _at_most(4096),
    "sandbox.recursion_limit": _at_most(100_000),
    "sandbox.lanes": _at_most(256),
}
"""The settings that can act, and which of their values do not."""


def acting(config: RunConfig) -> dict[str, Any]:
    """The settings that act, by dotted key. A run of the shipped model with the shipped sets has none."""
    flat = flatten(config)
    return {key: flat[key] for key, is_harmless in HARMLESS.items() if not is_harmless(flat[key])}


def load(path: str | Path | None, overrides: Sequence[str] = (), allowed: Iterable[str] = ()) -> RunConfig:
    """A run's settings from a TOML file (None: the embedded default), from which a run may be begun or continued.

    Args:
        path: The file. One named `config.toml` is a run's own, and only its user's settings act.
        overrides: Changes as `key=value`. They are the user's own.
        allowed: Keys whose settings the user lets act, whoever wrote them.

    Raises:
        InputError: A key is unknown, a value is wrong, or the file is unreadable; or settings act that are not the
            user's own.
    """
    config = settings.load(path, overrides)
    given = {override.partition("=")[0].strip() for override in overrides}
    allowed = _known(allowed)
    foreign = {
        key: value
        for key, value in acting(config).items()
        if key not in allowed and not any(key == each or key.startswith(f"{each}.") for each in given)
    }
    if path is not None and _is_of_a_run(Path(path)):
        if foreign and not _is_signed(RunDir(Path(path).parent), settings.load(path)):
            raise refusal(str(path), foreign)
    elif not str(name := foreign.get("endpoint.key_variable", KEY_NAMES)).endswith(KEY_NAMES):
        raise InputError(
            f"{path}: endpoint.key_variable: expected a name that ends in {KEY_NAMES}, got {name!r}: another variable "
            f"may hold another secret; if it is the right one, add --set endpoint.key_variable={name}"
        )
    return config


def load_part(path: str | Path, part: str, allowed: Iterable[str] = ()) -> RunConfig:
    """The settings of a run's `config.toml`, of which only a part may act.

    Args:
        path: The file.
        part: Beginning of the keys that will be used, such as `sandbox.`.
        allowed: Keys whose settings the user lets act, whoever wrote them.

    Raises:
        InputError: As for `load`, about this part.
    """
    others = [key for key in HARMLESS if not key.startswith(part)]
    return load(path, (), [*_known(allowed), *others])


def check_limits(where: str, config: RunConfig, known: RunConfig, allowed: Iterable[str]) -> None:
    """Check limits that a file asks for beside those of its run.

    Raises:
        InputError: Some are weaker than the run's own, and no user has allowed it.
    """
    passed, allowed = acting(known), _known(allowed)
    new = {key: value for key, value in acting(config).items() if key not in allowed and passed.get(key) != value}
    if new:
        raise refusal(where, new)


def refusal(where: str, foreign: Mapping[str, Any]) -> InputError:
    """What is said of settings that act and are not the user's own."""
    told = "; ".join(f"{key} = {shortened(repr(value))}" for key, value in foreign.items())
    return InputError(
        f"{where}: this was not begun by you on this machine, and these settings act: {told}: if you trust "
        f"them, add --allow-settings {','.join(foreign)} (with `run`, --set KEY=VALUE gives your own instead)"
    )


def sign(rundir: RunDir, config: RunConfig) -> str:
    """Sign a run, so that its own `config.toml` may continue it, whatever its settings do.

    Returns:
        What the user must know: that they could not be signed, and what follows; or "".
    """
    if _is_signed(rundir, config):
        return ""
    acts = acting(config)
    made = user_state.signature(_signed(rundir, acts), make_key=True)
    if made is None and not acts:
        return ""
    if made is None:
        return (
            f"{rundir.path}: there is no secret key in {user_state.folder() or 'your home, which is missing'}, so this "
            f"run is not known as yours later: then its own config.toml needs --allow-settings {','.join(acts)}"
        )
    write_atomically(rundir.path / SIGNATURES, "\n".join([*_signatures(rundir), made]) + "\n")
    return ""


def is_own(rundir: RunDir) -> bool:
    """Whether this user has begun the run in the folder, or has gone on with it before."""
    return rundir.config.is_file() and _is_signed(rundir, settings.load(rundir.config))


def _known(allowed: Iterable[str]) -> set[str]:
    """The keys that the user allows.

    Raises:
        InputError: One is no setting that can act.
    """
    keys = {*allowed}
    if unknown := sorted(keys - {*HARMLESS}):
        raise InputError(f"--allow-settings: expected some of {', '.join(HARMLESS)}, got {shortened(repr(unknown[0]))}")
    return keys


def _is_of_a_run(path: Path) -> bool:
    return "config.toml" in (path.name, path.resolve().name)


def _is_signed(rundir: RunDir, config: RunConfig) -> bool:
    """Whether this user has signed the settings that act, for this run."""
    signatures = _signatures(rundir)
    made = user_state.signature(_signed(rundir, acting(config))) if signatures else None
    return made is not None and made in signatures


def _signed(rundir: RunDir, acts: Mapping[str, Any]) -> bytes:
    """What is signed: the settings that act, and the run's first session, which no other run has."""
    first = sessions.sessions(rundir)[:1]
    return json.dumps(["settings", dict(acts), first], sort_keys=True).encode()


def _signatures(rundir: RunDir) -> list[str]:
    file = rundir.path / SIGNATURES
    if not file.is_file():
        return []
    with open_regular(file, "signatures") as opened:
        text = opened.read(MOST_SIGNATURES_BYTES).decode("ascii", "replace")
    return [line for line in text.splitlines() if len(line) == 64]


def usual_or_less(cpu_seconds: float | None) -> float | None:
    """A CPU limit that somebody else may have chosen; None if it is none, or above the usual one."""
    return cpu_seconds if cpu_seconds and RANGES["cpu_seconds"][0] <= cpu_seconds <= Limits.cpu_seconds else None
