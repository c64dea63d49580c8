"""Settings read from TOML, changed by `--set a.b=c`, compared, written back, and explained.

An unknown key is an error that names the nearest known key.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import json
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from puzzles.foreign import MOST_TOML_BYTES, parse_toml, read_bytes, read_toml, shortened, shown
from selfplay import config as config_module
from selfplay.config import AT_MOST_1, CHOICES, MAY_BE_ZERO, MAY_CHANGE, MOST, ConfigError, RunConfig, flatten
from selfplay.templates import FIELDS, FILE_MARK

TEMPLATES = tuple(f"prompt.{name}" for name in FIELDS)
"""The settings that are templates of prompts. On the command line each may be a file."""


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """A run's settings from a TOML file (None: the embedded default) and `key=value` overrides.

    They may be anybody's: to show or compare them. What acts on settings reads them by `run/consent.py`.

    Raises:
        InputError: A key is unknown, a value has the wrong type or is out of range, or the file is unreadable.
    """
    if path is None:
        where, values = "the embedded run.toml", read_toml(embedded_file("run.toml"))
    else:
        where, values = str(path), read_toml(path)
    for override in overrides:
        _override(values, override)
    try:
        return _built(values, where)
    except ConfigError:
        if overrides and _is_right(path):  # so the file is not to blame
            return _built(values, "--set")
        raise


def _built(values: Mapping[str, Any], where: str) -> RunConfig:
    try:
        config: RunConfig = build(RunConfig, values, where)
    except ConfigError as error:  # an error about a range does not name the place
        raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return config


def _is_right(path: str | Path | None) -> bool:
    """Whether the file's settings are right without overrides."""
    try:
        load(path)
    except ConfigError:
        return False
    return True


def embedded_file(name: str) -> Path:
    """A file of the embedded model or settings, which ship with the package."""
    return Path(str(resources.files("selfplay") / "embedded" / name))


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {shortened(override)}: expected key=value, such as solve.temperature=0.7")
    try:
        value = parse_toml(f"value = {text}", "--set")["value"]
    except (ValueError, RecursionError):  # not TOML, so a text without quotes
        value = text
    if key.strip() in TEMPLATES and text.startswith(FILE_MARK):
        value = text_of(text)
    *tables, name = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {shortened(override)}: {shown(table)} is a value, not a table")
    values[name] = value


def text_of(given: str) -> str:
    """A text that an option gives: itself, or what is in the file that it names as `@FILE`, without the last newline.

    Raises:
        InputError: The file cannot be read, or is no text.
    """
    if not given.startswith(FILE_MARK):
        return given
    content = read_bytes(path := given.removeprefix(FILE_MARK), MOST_TOML_BYTES, "a text")
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{shortened(path)}: expected a text in UTF-8") from None


def build(kind: type, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    """A dataclass from a table. Every key is checked."""
    known = {item.name: item for item in fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {shown(prefix + key)}{_nearest(prefix + key, known)}")
    return kind(**{key: _value(hints[key], value, where, prefix + key) for key, value in values.items()})


def _nearest(key: str, beside: Iterable[str]) -> str:
    keys = list(flatten(RunConfig())) + [item.name for item in fields(RunConfig)]
    by_name = {known.rpartition(".")[2]: known for known in keys}
    close = difflib.get_close_matches(key, keys, 1, 0.6)
    close = close or [by_name[name] for name in difflib.get_close_matches(key.rpartition(".")[2], by_name, 1, 0.6)]
    return f"; did you mean {close[0]!r}?" if close else f"; known keys here: {', '.join(beside)}"


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table under {key!r}, got {shown(value)}")
        return build(typing.cast(type, hint), value, where, f"{key}.")
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, list | tuple):
            return tuple(_value(inner, member, where, key) for member in value)
        example = "[1, 10]" if inner is int else "[0.1, 0.2]" if inner is float else '["a", "b"]'
        raise ConfigError(f"{where}: expected a list such as {example} under {key!r}, got {shown(value)}")
    if type(value) is int and hint in (int, float) and abs(value) >= MOST:
        raise ConfigError(f"{where}: expected at most 64 bits under {key!r}, got {shown(value)}")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (hint is float and not abs(value) < float("inf")):
        raise ConfigError(f"{where}: expected {_article(hint)} under {key!r}, got {shown(value)}")
    if hint is str and not _is_unicode(value):  # a command line may hold any bytes
        raise ConfigError(f"{where}: expected a string of UTF-8 under {key!r}, got {shown(value)}")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _article(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    return names.get(hint, str(hint))


def to_toml(config: RunConfig) -> str:
    """The complete settings as TOML, for a run's `config.toml`."""
    return "\n".join(_toml_lines(config, "")) + "\n"


def _toml_lines(config: Any, table: str) -> Iterator[str]:
    tables = []
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            tables.append((item.name, value))
        else:
            # JSON's numbers, strings, booleans and lists are valid TOML, except for one raw character.
            yield f"{item.name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
    for name, value in tables:
        yield f"\n[{table}{name}]"
        yield from _toml_lines(value, f"{table}{name}.")


def differences(first: RunConfig, second: RunConfig) -> list[str]:
    """Settings in which two configs differ, apart from those that may change between sessions."""
    one, other = flatten(first), flatten(second)
    return [
        f"{key} ({shown(one[key])} there, {shown(other[key])} here)"
        for key in one
        if one[key] != other[key] and key not in MAY_CHANGE
    ]


# ---- what a setting means ----


@dataclass(frozen=True)
class Setting:
    """One setting with its documentation."""

    key: str
    """Dotted name, as in `--set`: `solve.temperature`."""
    default: Any
    allowed: str
    """Its choices, or its type and its range."""
    explanation: str


def documented() -> list[Setting]:
    """Every setting, in the order of a run's `config.toml`. The explanation is the text under its field in the code."""
    defaults, texts = flatten(RunConfig()), dict(_explanations(RunConfig, ""))
    return [Setting(key, value, _allowed(key, value), texts[key]) for key, value in defaults.items()]


def _explanations(kind: type, prefix: str) -> Iterator[tuple[str, str]]:
    hints = typing.get_type_hints(kind)
    texts = {name: text for base in reversed(kind.__mro__) for name, text in _texts().get(base.__name__, {}).items()}
    for item in fields(kind):
        if is_dataclass(hints[item.name]):
            yield from _explanations(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, texts[item.name]


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    """The text under each field of the settings, by class and by field."""
    found: dict[str, dict[str, str]] = {}
    classes = [node for node in ast.parse(inspect.getsource(config_module)).body if isinstance(node, ast.ClassDef)]
    for node in classes:
        for item, below in itertools.pairwise(node.body):
            match item, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found.setdefault(node.name, {})[name] = " ".join(text.split())
    return found


def _allowed(key: str, default: Any) -> str:
    if key in CHOICES:
        return f"One of {', '.join(CHOICES[key])}"
    if isinstance(default, bool):
        return "True or false"
    if isinstance(default, int | float):
        kind = "A whole number" if isinstance(default, int) else "A number"
        least = "0 or more" if key in MAY_BE_ZERO else "1 or more" if isinstance(default, int) else "above 0"
        return f"{kind}, {least}" + (", at most 1" if key.endswith(AT_MOST_1) else "")
    return "A list" if isinstance(default, tuple) else "A text"
