"""`selfplay settings`: list all settings with their defaults, ranges or choices, and meanings."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from selfplay.commands.grammar import command
from selfplay.commands.terminal import page

if TYPE_CHECKING:
    from selfplay.config import RunConfig
    from selfplay.settings import Setting


def add_settings(commands: Any) -> None:
    """Declare `settings`."""
    parser = command(
        commands, "settings", _settings, "list the settings with their defaults, ranges or choices, and meanings",
        "settings temperature",
    )  # fmt: skip
    parser.add_argument(
        "word", nargs="?", metavar="WORD", help="list only settings whose name or explanation contains this word"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="list only settings that this TOML file changes; `embedded`: the file of the default run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _settings(options: argparse.Namespace) -> int:
    from selfplay.config import flatten
    from selfplay.settings import documented

    parts = []
    for title, config in _configs(options.config):
        values = flatten(config)
        found = [setting for setting in documented() if _is_asked(setting, options.word)]
        if options.config:
            found = [setting for setting in found if values[setting.key] != setting.default]
        parts.append((title, found, values))
    if options.json:
        print(json.dumps([
            {"config": title, **vars(setting), "value": values[setting.key]}
            for title, found, values in parts for setting in found
        ]))  # fmt: skip
        return 0
    if options.word and not any(found for _, found, _ in parts):
        raise InputError(f"no setting contains the word {options.word!r}: `selfplay settings` lists all")
    page("\n".join(line for title, found, values in parts for line in _lines(title, found, values)))
    return 0


def _configs(file: str | None) -> list[tuple[str, RunConfig]]:
    """Titles and settings to show: the defaults, the settings of a run's file, or those of each arm of an ablation."""
    from puzzles.foreign import read_toml
    from selfplay.config import RunConfig
    from selfplay.settings import load

    if file is None:
        return [("", RunConfig())]
    if file == "embedded":
        return [("", load(None))]
    if "arms" in read_toml(file):
        from selfplay.experiments.ablate import load_ablation

        return [(f"arm {arm!r}", config) for arm, config in load_ablation(Path(file)).arms.items()]
    return [("", load(file))]


def _is_asked(setting: Setting, word: str | None) -> bool:
    return word is None or word.lower() in f"{setting.key} {setting.explanation}".lower()


def _lines(title: str, settings: Iterable[Setting], values: dict[str, Any]) -> Iterator[str]:
    columns = min(shutil.get_terminal_size().columns, 100)
    indented = textwrap.TextWrapper(columns, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    if title:
        yield f"# {title}"
    for setting in settings:
        value = json.dumps(values[setting.key], ensure_ascii=False)
        default = json.dumps(setting.default, ensure_ascii=False)
        yield f"{setting.key} = {value}" + (f"  (default {default})" if value != default else "")
        yield from indented.wrap(f"{setting.allowed}. {setting.explanation}")
    yield ""
