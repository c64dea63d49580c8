"""`selfplay runs`, `league` and `report`: list the runs, compare a run's checkpoints, and write its report."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from sandbox.printing import visible
from selfplay.commands.grammar import add_wide, command
from selfplay.commands.terminal import RUNS, benchmark_folders, run_dir, tell, width
from selfplay.text import Column, Table, interval, one_line

if TYPE_CHECKING:
    from selfplay.run.rundir import RunDir


def add_runs(commands: Any) -> None:
    """Declare `runs`."""
    add_wide(command(commands, "runs", _runs, "list the runs below runs/", "runs"))


def _runs(options: argparse.Namespace) -> int:
    from selfplay.run.rundir import RunDir

    runs = [RunDir(path) for path in sorted(RUNS.iterdir())] if RUNS.is_dir() else []
    rows = [_run_row(run) for run in runs if run.config.is_file() or run.status.is_file()]
    columns = [Column("run", least=20), Column("state", least=12), Column("iteration"), Column("best on dev")]
    table = Table([*columns, Column("MB", right=True)], rows)
    print(table.plain(width(options)) if rows else f"no runs below {RUNS.resolve()}")
    return 0


def _run_row(rundir: RunDir) -> list[str]:
    from selfplay.settings import load

    name = visible(rundir.path.name)
    try:
        records = rundir.read_records()
        iterations = load(rundir.config).iterations if rundir.config.is_file() else None
        state = rundir.state(len(records) if iterations is None else iterations)
    except InputError:
        return [name, "unreadable", "-", "-", "-"]
    best = "-"
    if records:
        key = next(key for key in records[-1]["dev"] if key.startswith("pass@"))
        # A branch may score with other k than its parent.
        record = max((r for r in records if key in r["dev"]), key=lambda record: record["dev"][key][0])
        best = f"{key} {interval(record['dev'][key])} at {record['iteration']}"
    done = "-" if iterations is None else f"{max(0, len(records) - 1)} of {iterations}"
    size = sum(_size(file) for file in rundir.path.rglob("*"))
    return [name, one_line(state), done, best, f"{size / 1e6:.1f}"]


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # a run may delete files meanwhile
        return file.stat().st_size if file.is_file() else 0
    return 0


def add_league(commands: Any) -> None:
    """Declare `league`."""
    parser = command(
        commands,
        "league",
        _league,
        "compare a run's checkpoints on dev, and show which was champion",
        "league embedded",
    )
    parser.add_argument("run", metavar="RUN", help="the run's name or folder")
    add_wide(parser)


def _league(options: argparse.Namespace) -> int:
    from selfplay.iteration.champion import league, league_table

    tell(league_table(league(run_dir(options.run)), width(options)))
    return 0


def add_report(commands: Any) -> None:
    """Declare `report`."""
    parser = command(
        commands, "report", _report, "write a report on a run or a benchmark as one HTML file", "report embedded"
    )
    parser.add_argument(
        "places", nargs="+", metavar="RUN|RESULT",
        help="a run, and runs to draw beside it; or one or two folders that `bench` wrote",
    )  # fmt: skip
    parser.add_argument("--puzzles", metavar="FILE", help="the puzzle file of a benchmark whose set is not embedded")
    parser.add_argument("--out", metavar="FILE", help="file to write; default: report.html in the first folder")


def _report(options: argparse.Namespace) -> int:
    from selfplay.inspecting.report import report
    from selfplay.run.rundir import RunDir, spare, told_if_closed, write_atomically

    results = benchmark_folders(options.places)
    runs = [] if results else [run_dir(place) for place in options.places]
    if runs and options.puzzles:
        raise InputError("--puzzles is about a benchmark: name a folder that `selfplay bench` wrote")
    first = results[0] if results else runs[0].path
    name = "-".join(["report", *(Path(place).name for place in options.places[1:])])
    out = Path(options.out) if options.out else first / f"{name}.html"
    spare(out.absolute())
    RunDir(first).check()
    page = _benchmark_report(results, options.puzzles) if results else report(runs[0], runs[1:])
    with told_if_closed(out, "name another place with --out"):
        write_atomically(out, page)
    tell(f"{out}: {out.stat().st_size / 1e6:.1f} MB; it opens in any browser")
    return 0


def _benchmark_report(folders: Sequence[Path], puzzles: str | None) -> str:
    from puzzles.verify import truth_pool
    from selfplay.inspecting import benchmark_report, benchmarks

    with truth_pool() as pool:
        return benchmark_report.report(benchmarks.read(folders, pool, puzzles))
