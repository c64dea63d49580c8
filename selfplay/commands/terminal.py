"""What commands show: progress bars, colours and pages; and where runs are."""

from __future__ import annotations

import os
import pydoc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from selfplay.run.progress import Progress
from selfplay.text import printable

if TYPE_CHECKING:
    from selfplay.run.rundir import RunDir

RUNS = Path("runs")
"""The folder of runs, below the current folder."""


def below_runs(name: str) -> Path:
    """The folder of a run's name.

    Raises:
        InputError: The name is not that of a folder.
    """
    if "/" in name or name in ("", ".", ".."):
        raise InputError(f"--name {name}: expected the name of a folder below {RUNS}")
    return RUNS / name


def run_dir(text: str) -> RunDir:
    """The run that a folder or a run's name means."""
    from selfplay.run.rundir import RunDir

    return RunDir(RUNS / text if (RUNS / text).is_dir() else Path(text))


def archive_path(text: str) -> Path:
    """The file that a path, a run's folder or its name means.

    Raises:
        InputError: There is none.
    """
    for path in (Path(text), Path(text) / "archive.sqlite", RUNS / text / "archive.sqlite"):
        if path.is_file():
            return path
    raise InputError(f"{text}: expected an archive file, a run folder or a run's name below {RUNS}")


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
