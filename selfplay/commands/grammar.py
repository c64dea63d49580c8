"""How commands are declared, and the types of their options' numbers."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from puzzles.puzzle import InputError
from selfplay.text import printable

if TYPE_CHECKING:
    from selfplay.config import PromptConfig, SandboxConfig

MOST = 10**12
"""Largest number that an option takes. It must fit an integer of SQLite."""
ARCHIVE = "a run's name or folder, or an archive file"
SETTINGS_HINT = "`selfplay settings` lists every setting"


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows an option's default, unless it is empty or false."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or isinstance(action.default, list):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where help is, and exit with status 2."""
        self.exit(2, printable(f"selfplay: {message}; `{self.prog} --help` shows what is expected") + "\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Stop because of arguments that the command does not know; the nearest option is named."""
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1)
        self.error(f"unknown argument {unknown[0]}" + (f": did you mean {near[0]}?" if near else ""))


def command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    summary: str,
    example: str,
    *,
    resumes: bool = False,
    trains: bool = False,
) -> Parser:
    """Declare a subcommand and return its parser.

    Args:
        commands: The action that `add_subparsers` returned.
        name: The command's name.
        function: Does the work. It gets the options and returns the exit status.
        summary: One line of help.
        example: A command line, without `selfplay`.
        resumes: Whether the same command continues after an interruption.
        trains: Whether torchrun may run the command.
    """
    parser: Parser = commands.add_parser(
        name, help=summary, description=summary, epilog=f"example: selfplay {example}", formatter_class=_Formatter
    )
    parser.set_defaults(command=function, parser=parser, resumes=resumes, trains=trains)
    return parser


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def positive(text: str) -> int:
    """An option's whole number, 1 or more."""
    value = _whole(text)
    if not 0 < value <= MOST:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most {MOST:,}, got {text}")
    return value


def natural(text: str) -> int:
    """An option's whole number, 0 or more."""
    value = _whole(text)
    if not 0 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"expected 0 or more and at most {MOST:,}, got {text}")
    return value


def seed(text: str) -> int:
    """An option's seed, which may have 63 bits."""
    if not 0 <= (value := _whole(text)) < 2**63:
        raise argparse.ArgumentTypeError(f"expected a number from 0 and below 2**63, got {text}")
    return value


def seconds(text: str) -> float:
    """An option's number of seconds, above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def temperature(text: str) -> float:
    """An option's sampling temperature, 0 or more."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def share(text: str) -> float:
    """An option's share, above 0 and at most 1."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {text}")
    return value


def integers(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """An option's whole numbers, separated by commas.

    Raises:
        InputError: The text is no list of integers, or a number is below `least`.
    """
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option}: expected integers with commas between them, got {text!r}") from None
    if min(values) < least:
        raise InputError(f"{option}: expected integers of at least {least}, got {text!r}")
    return values


def add_limits(parser: argparse.ArgumentParser, saved: bool = False) -> None:
    """Add the options for the limits of a sandbox child. `sandbox_of` reads them.

    Args:
        parser: The command's parser.
        saved: Whether the CPU time is by default the one that a checkpoint was saved with.
    """
    parser.add_argument(
        "--cpu-seconds", type=seconds, default=None if saved else 1.0,
        help="CPU time of one child, in seconds" + ("; default: what the model was trained with, else 1" * saved),
    )  # fmt: skip
    parser.add_argument(
        "--wall-seconds", type=seconds,
        help="time without progress after which a child is killed, in seconds; default: 5, or 5 times its CPU time",
    )  # fmt: skip
    parser.add_argument("--memory-mb", type=positive, default=512, help="memory of one child, in MiB")
    parser.add_argument("--answer-kb", type=positive, default=256, help="largest answer, in KiB")
    parser.add_argument("--recursion-limit", type=positive, default=10_000, help="Python's recursion limit in a child")
    parser.add_argument(
        "--lanes", type=natural, default=0, help="sandbox children that run at the same time; 0: one per core"
    )


def add_worlds(parser: argparse.ArgumentParser) -> None:
    """Add the option for the seed of the worlds in which answers are judged."""
    parser.add_argument(
        "--worlds", type=seed, metavar="SEED",
        help="seed of the random numbers and hashes that programs see; default: drawn, so that nobody knows it before",
    )  # fmt: skip


def add_wide(parser: argparse.ArgumentParser) -> None:
    """Add the option for tables that are wider than the terminal. `terminal.width` reads it."""
    parser.add_argument("--wide", action="store_true", help="print whole tables, however wide the terminal is")


def add_allowed(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets settings of a run act which somebody else began. `allowed` reads it."""
    parser.add_argument(
        "--allow-settings", metavar="KEY,…",
        help="let these settings of a run act that was not begun by you on this machine, such as endpoint.urls",
    )  # fmt: skip


def allowed(options: argparse.Namespace) -> list[str]:
    """The keys of `--allow-settings`."""
    return [key.strip() for key in (options.allow_settings or "").split(",") if key.strip()]


def sandbox_of(options: argparse.Namespace, modules: Sequence[str] = ()) -> SandboxConfig:
    """The sandbox that the options of `add_limits` ask for."""
    from selfplay.config import SandboxConfig

    return SandboxConfig(
        cpu_seconds=options.cpu_seconds, wall_seconds=options.wall_seconds or max(5.0, 5 * options.cpu_seconds),
        memory_mb=options.memory_mb, answer_kb=options.answer_kb, recursion_limit=options.recursion_limit,
        lanes=options.lanes, modules=tuple(modules),
    )  # fmt: skip


def add_prompt_options(parser: argparse.ArgumentParser, role: str) -> None:
    """Add the options for how prompts are written. `prompt_of` reads them.

    Args:
        parser: The command's parser.
        role: `propose` or `solve`.
    """
    shown = "puzzles before a proposal" if role == "propose" else "solved pairs before each puzzle"
    parser.add_argument(
        "--protocol", default="auto", choices=["auto", "plain", "few-shot", "chat"],
        help="how puzzles are shown; auto takes what the model was trained with, else chat if it has a template for "
        "that, else few-shot",
    )  # fmt: skip
    parser.add_argument("--shots", type=natural, default=5, help=f"{shown}, if prompts show any")
    parser.add_argument(
        "--shots-as-turns", default="auto", choices=["auto", "yes", "no"],
        help="with chat: whether shots are turns; auto takes what the model was trained with, else yes",
    )  # fmt: skip
    parser.add_argument(
        "--system", default="", metavar="TEXT", help="with chat: the system turn, or @FILE; as prompt.system"
    )
    parser.add_argument(
        "--template", default="", metavar="TEXT",
        help=f"template of the prompt, or @FILE; as prompt.{role}, which `selfplay settings prompt` explains",
    )  # fmt: skip


def prompt_of(options: argparse.Namespace, role: str) -> PromptConfig:
    """The settings of prompts that the options of `add_prompt_options` ask for.

    Raises:
        InputError: A file cannot be read, or a template is not as its protocol needs it.
    """
    from selfplay.config import PromptConfig, check_prompt
    from selfplay.settings import text_of

    texts = {"system": text_of(options.system), role: text_of(options.template)}
    prompt = PromptConfig(options.protocol, options.shots, options.shots_as_turns, **texts)
    check_prompt(prompt)
    return prompt


def add_model_options(parser: argparse.ArgumentParser, count: str, candidates: int, temperature_default: float) -> None:
    """Add the options of the commands that show a few samples of one model.

    Args:
        parser: The command's parser.
        count: Name of the option for the number of samples.
        candidates: Default number of samples.
        temperature_default: Default temperature.
    """
    parser.add_argument("--model", default="embedded", help="`embedded`, a model folder or a hub name")
    parser.add_argument(count, type=positive, default=candidates, help="number of samples")
    parser.add_argument(
        "--temperature", type=temperature, default=temperature_default, help="sampling temperature; 0 is greedy"
    )
    parser.add_argument(
        "--seed", type=natural, default=0, help="seed of the samples; the same seed gives the same samples"
    )
