"""What all commands share: where runs are, a sandbox that has proved itself, progress, text that is safe to show."""

from __future__ import annotations

import argparse
import contextlib
import os
import pydoc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from selfplay.run.progress import Progress

if TYPE_CHECKING:
    from sandbox.pool import Pool
    from selfplay.config import SandboxConfig

RUNS = Path("runs")
"""Below the current folder."""
LINE_CHARACTERS = 100
MOST = 10**12
"""Of any number on a command line; a database holds some more."""


def command(commands: Any, name: str, function: Any, summary: str, example: str) -> argparse.ArgumentParser:
    """A subcommand's parser; `function` is given its options and returns the exit status."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, epilog=f"example: selfplay {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(command=function)
    return parser


def positive(text: str) -> int:
    """An option's number from 1 on."""
    value = int(text)
    if not 0 < value <= MOST:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most {MOST:,}, got {text}")
    return value


def natural(text: str) -> int:
    """An option's number from 0 on."""
    value = int(text)
    if not 0 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"expected 0 or more and at most {MOST:,}, got {text}")
    return value


def unproven_pool(config: SandboxConfig, seed: int) -> Pool:
    """A sandbox that has not proved itself yet.

    Raises:
        InputError: There is no module of that name.
    """
    from puzzles.verify import truth_pool

    limits = config.limits()
    try:
        return truth_pool(limits, config.lanes or None, seed, config.modules)
    except ValueError as error:
        raise InputError(f"sandbox.modules: {error}") from None


@contextlib.contextmanager
def proven_pool(config: SandboxConfig, seed: int) -> Iterator[tuple[Pool, dict[str, Any]]]:
    """A sandbox that has proved itself, and the proof."""
    from sandbox import selfcheck

    with unproven_pool(config, seed) as pool:
        protections = selfcheck.check(pool)
        selfcheck.require(protections, config.minimum_tier)
        yield pool, protections.to_json()


def bars() -> Progress:
    """Progress as bars on a terminal's standard error, and as nothing elsewhere; what is said goes there anyway."""

    def say(text: str) -> None:
        print(f"selfplay: {printable(text)}", file=sys.stderr)

    try:
        from tqdm import tqdm
    except ImportError:  # `verify` needs no packages
        return Progress(say=say)

    def counter(total: int, description: str, unit: str) -> Any:
        bar = tqdm(total=total or None, desc=description, unit=f" {unit}", leave=False, disable=None)

        def count(done: int, note: str = "") -> None:
            bar.update(done)
            if note:
                bar.set_postfix_str(note, refresh=False)
            if total and bar.n >= total:
                bar.close()

        return count

    return Progress(counter, say=say)


def printable(text: str) -> str:
    """Model text without the power to move a terminal's cursor."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The beginning of a text as a table's cell."""
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in text)[:LINE_CHARACTERS]


def highlighted(source: str) -> str:
    """Python with a terminal's colours where there is a terminal that has them."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return printable(source)
    from pygments import highlight
    from pygments.formatters import TerminalFormatter
    from pygments.lexers import PythonLexer

    return str(highlight(printable(source), PythonLexer(), TerminalFormatter())).rstrip("\n")


def page(text: str) -> None:
    """Show a text, on a terminal by its pager if it is longer than the screen."""
    os.environ.setdefault("LESS", "-FRX")
    pydoc.pager(text) if sys.stdout.isatty() else print(text)
