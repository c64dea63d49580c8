"""Output of commands: progress, colours and paging; and the places of runs and archives."""

from __future__ import annotations

import argparse
import os
import pydoc
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from puzzles.puzzle import InputError
from selfplay.commands.status_line import LINE
from selfplay.run.progress import Progress
from selfplay.text import printable

if TYPE_CHECKING:
    from selfplay.run.rundir import RunDir

COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
RUNS = Path("runs")
"""The folder of runs, below the current folder."""


def below_runs(name: str) -> Path:
    """The folder of the run with this name.

    Raises:
        InputError: The name cannot be that of a folder.
    """
    if "/" in name or name in ("", ".", ".."):
        raise InputError(f"--name {name}: expected the name of a folder below {RUNS}")
    return RUNS / name


def run_dir(text: str) -> RunDir:
    """The run with this name, or in this folder."""
    from selfplay.run.rundir import RunDir

    return RunDir(RUNS / text if (RUNS / text).is_dir() else Path(text))


def archive_path(text: str) -> Path:
    """The archive at this path, or of the run with this folder or name.

    Raises:
        InputError: There is no such archive.
    """
    for path in (Path(text), Path(text) / "archive.sqlite", RUNS / text / "archive.sqlite"):
        if path.is_file():
            return path
    raise InputError(f"{text}: expected an archive file, a run folder or a run's name below {RUNS}")


def benchmark_folders(places: Sequence[str]) -> list[Path]:
    """The folders that `bench` wrote at these places or below `runs/`; none if the first is no such folder.

    Raises:
        InputError: The first is one, and another one is not.
    """
    from selfplay.inspecting.benchmarks import is_benchmark

    found = [next(filter(is_benchmark, (Path(place), RUNS / place)), None) for place in places]
    if found[0] is not None and None in found:
        raise InputError(
            f"{places[found.index(None)]}: expected a folder that `selfplay bench` wrote, as {places[0]} is"
        )
    return [folder for folder in found if folder is not None] if found[0] is not None else []


def on_screen() -> Progress:
    """Progress as a status line, if standard error is a terminal. Messages are printed there in any case."""

    def say(text: str) -> None:
        with LINE.hidden():
            print(f"selfplay: {printable(text)}", file=sys.stderr)

    return Progress(LINE.counter, say=say, step=LINE.step, note=LINE.note)


def width(options: argparse.Namespace) -> int | None:
    """Characters of a line for tables; None for whole tables, as `--wide` asks, and where no terminal shows them."""
    if options.wide or not (sys.stdout.isatty() or "COLUMNS" in os.environ):
        return None
    return shutil.get_terminal_size().columns


def highlighted(source: str) -> str:
    """Python source, coloured if standard output is a terminal with colours."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return printable(source)
    from selfplay.inspecting.colouring import on_terminal

    return on_terminal(printable(source).rstrip("\n"))


def tell(text: object, stream: TextIO | None = None) -> None:
    """Print a line, or lines, in which everything can be seen; on standard output if no stream is named."""
    with LINE.hidden():
        print(printable(str(text)), file=stream, flush=True)


def page(text: str) -> None:
    """Print a text. On a terminal, a text longer than the screen is shown by the pager.

    Of what controls a terminal only the colours of `highlighted` are left.
    """
    pieces = COLOUR.split(text) if sys.stdout.isatty() else [text]
    text = "".join(piece if COLOUR.fullmatch(piece) else printable(piece) for piece in pieces)
    LINE.end()
    os.environ.setdefault("LESS", "-FRX")
    pydoc.pager(text) if sys.stdout.isatty() else print(text)
