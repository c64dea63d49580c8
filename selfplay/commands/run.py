"""`selfplay run`: begin or continue a run, do a part of it, or forecast its cost."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from sandbox.printing import visible
from selfplay.commands.grammar import SETTINGS_HINT, add_allowed, add_wide, allowed, command, integers, positive
from selfplay.commands.log import log_to
from selfplay.commands.status_line import LINE, clock
from selfplay.commands.terminal import below_runs, on_screen, run_dir, tell, width

if TYPE_CHECKING:
    from selfplay.config import RunConfig
    from selfplay.run.progress import Progress
    from selfplay.run.rundir import RunDir
    from selfplay.text import Fitted

MORE = ": raise it, and the same command continues"


def add_run(commands: Any) -> None:
    """Declare `run`."""
    parser = command(
        commands, "run", run_command, "begin or continue a run", "run runs/smoke.toml --set seed=1",
        resumes=True, trains=True,
    )  # fmt: skip
    parser.add_argument(
        "config", nargs="?", help="TOML file with settings; default: the embedded run, offline and on a CPU"
    )
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE",
        help=f"change a setting, such as solve.temperature=0.7; may be repeated; {SETTINGS_HINT}",
    )  # fmt: skip
    add_allowed(parser)
    parser.add_argument("--name", help="name of the run's folder below runs/; default: the config's name")
    parser.add_argument(
        "--from",
        dest="from_run",
        metavar="RUN[@ITERATION]",
        help="begin a new run with another run's archive and model",
    )
    parser.add_argument(
        "--trust", action="store_true", help="with --from: that run is your own, so its pairs are not judged again"
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="sample and judge part I of N of the next stage; join the parts with `archive merge`",
    )
    parser.add_argument(
        "--plan", action="store_true",
        help="go on until chunks are planned that parts can do (--shard); each part then reads only what it needs",
    )  # fmt: skip
    parser.add_argument(
        "--forecast",
        action="store_true",
        help="measure for about a minute, print the expected cost of the run, and stop",
    )
    parser.add_argument(
        "--nodes", metavar="N,…", help="with --forecast: also estimate an iteration on N machines like this one"
    )
    parser.add_argument(
        "--gpus", type=positive, metavar="M", help="with --nodes: number of devices that train together; default: 1"
    )
    add_wide(parser)


def run_command(options: argparse.Namespace) -> int:
    """Run the command `run`."""
    from selfplay.run.consent import load
    from selfplay.run.rundir import RunDir

    _check_options(options)
    parent = _parent(options.from_run)
    config = load(options.config or (parent[0].config if parent else None), options.set or (), allowed(options))
    name = options.name or (_run_name(Path(options.config)) if options.config else "embedded")
    rundir = RunDir(below_runs(name))
    if options.shard is not None:
        return _run_part(options.shard, rundir, config)
    if options.forecast:
        nodes = () if options.nodes is None else integers(options.nodes, "--nodes")
        return _forecast(config, nodes, options.gpus or 1, width(options))
    tell(opening(rundir, config, options.config))
    LINE.step("starting")
    _begin(rundir, config, parent, options.trust)
    seen = len(rundir.read_records())
    spent = _run_and_print(rundir, config, width(options), options.plan)
    if options.plan and spent:
        tell(f"{rundir.path}: {spent}")
        return 0
    is_default = not (options.config or options.set or options.name or parent)
    again = "" if is_default else f"{rundir.config} --name {name} "
    return _print_end(rundir, config, spent, again, seen, width(options))


def opening(rundir: RunDir, config: RunConfig, source: str | None) -> str:
    """What a run is about to do, in two lines: folder, model and settings; how much work, and how long that takes."""
    from selfplay.sampling.cost import record_seconds

    settings = f"settings of {source}" if source else "default settings"
    model = config.model.path or config.endpoint.model
    work = (
        f"{config.iterations} iteration{'s' * (config.iterations != 1)} of {config.propose.proposals:,} proposals, "
        f"{config.solve.candidates_per_puzzle} candidates per puzzle"
    )
    records = rundir.read_records()
    done = len(records) - 1
    if done < 0:
        time = "--forecast tells how long"
    elif done >= config.iterations:
        time = "all are recorded"
    else:
        time = f"it goes on after iteration {done}, which took {clock(record_seconds(records[-1]))}"
    return f"{rundir.path}: model {model}, {settings}, seed {config.seed}\n{work}; {time}\n"


def _check_options(options: argparse.Namespace) -> None:
    if options.shard is not None and (options.forecast or options.from_run or options.nodes or options.gpus):
        raise InputError(
            "--shard does a part of a run that has begun: leave out --forecast, --nodes, --gpus and --from"
        )
    if options.plan and (options.forecast or options.shard is not None):
        raise InputError("--plan prepares a run for --shard: give them one after the other, and --forecast alone")
    if options.nodes is not None and not options.forecast:
        raise InputError("--nodes needs --forecast: add it")
    if options.gpus and options.nodes is None:
        raise InputError("--gpus needs --forecast and --nodes: add both")
    if options.trust and not options.from_run:
        raise InputError("--trust is about the run that --from names: add it")
    if options.forecast and options.from_run:
        raise InputError("--forecast estimates a whole run, but --from continues a part of one: leave out --from")


def _parent(text: str | None) -> tuple[RunDir, int | None] | None:
    """The run that `--from` names, and the iteration; None for the last iteration."""
    if text is None:
        return None
    name, at, number = (text, "", "") if run_dir(text).path.is_dir() else text.rpartition("@")
    if not name or (at and not (number.isascii() and number.isdigit())):
        raise InputError(f"--from: expected RUN or RUN@ITERATION, such as embedded@2, got {text!r}")
    return run_dir(name), int(number) if at else None


def _run_name(config: Path) -> str:
    """The name of the run for a settings file. A run's own config.toml means that run."""
    return config.absolute().parent.name if config.name == "config.toml" else config.stem


def _begin(rundir: RunDir, config: RunConfig, parent: tuple[RunDir, int | None] | None, trust: bool) -> None:
    """Branch from the parent if there is one, and check the settings before the sandbox starts."""
    from selfplay.iteration.beginning import branch, check_settings
    from selfplay.run import sessions

    require_packages(config)
    if parent:
        branch(*parent, rundir, trust=trust)
    elif not rundir.config.exists() and "branched_from" in sessions.origin(rundir):
        raise InputError(
            f"{rundir.path}: the run was begun with --from and has no settings yet: give the same --from again"
        )
    check_settings(rundir, config)


def _run_and_print(rundir: RunDir, config: RunConfig, columns: int | None, only_plans: bool) -> str:
    """Run, and print a row for each iteration. Returns why the run ended early, or ""."""
    from selfplay.experiments.engines import run_iterations
    from selfplay.inspecting import track
    from selfplay.iteration.alarms import Collapsed
    from selfplay.iteration.budget import BudgetSpent
    from selfplay.run.shard import Planned

    with log_to(rundir.log), track.tracker(config, rundir) as tracker:
        try:
            run_iterations(config, rundir.path, tracker.watching(with_rows(columns, rundir=rundir)), only_plans)
        except BudgetSpent as spent:
            return f"{spent}{MORE}"
        except (Collapsed, Planned) as ended:
            return str(ended)
        finally:
            LINE.end()
    return ""


def _print_end(rundir: RunDir, config: RunConfig, spent: str, again: str, seen: int, columns: int | None) -> int:
    """Print what the run has cost and what to do next."""
    from selfplay.iteration.record_table import cost_table, notes_of

    records = rundir.read_records()
    if len(records) > 1:
        print(f"\n{cost_table(records, columns)}")
    tell("\n" + "\n".join(notes_of(records, columns, _inherited(rundir))))
    if spent:
        tell(f"\n{rundir.path}: {spent}")
        return 0
    last = records[-1]["iteration"]
    if last > config.iterations:
        tell(f"{rundir.path} has {last} iterations already: raise `iterations` to extend it", sys.stderr)
    elif seen == len(records):
        tell(f"\n{rundir.path}: nothing was left to do, all {last} iterations are recorded")
    tell(f"\n{rundir.path}: archive {rundir.archive.stat().st_size / 1e6:.1f} MB. Next:")
    place, base, dev = (quote(visible(name)) for name in (rundir.path, config.model.path, config.data.dev))
    tell(f"  selfplay report {place}")
    if rundir.checkpoint(last).is_dir():
        tell(f"  selfplay bench {base} {quote(str(rundir.checkpoint(last)))} --puzzles {dev}")
    tell(f"  selfplay run {again}--set iterations={last + 3}")
    return 0


def _inherited(rundir: RunDir) -> tuple[str, int]:
    """The run that this one began with, and that run's last iteration here; no name and -1 if it began by itself."""
    from selfplay.run import sessions

    begun = sessions.origin(rundir).get("branched_from", {"run": "", "iteration": -1})
    return begun["run"], begun["iteration"]


def _worlds_of(rundir: RunDir, config: RunConfig) -> int:
    """The seed of the worlds of a run's archive. Of one's own run only this is read; another's is checked."""
    from puzzles.archive import worlds
    from selfplay.run import consent
    from selfplay.run.shard import closed_archive

    if not (rundir.archive.is_file() and consent.is_own(rundir)):
        return worlds.seed_of(rundir.archive, config.seed)
    with closed_archive(rundir.archive) as archive:
        return config.seed if archive.worlds is None else archive.worlds


def _run_part(text: str, rundir: RunDir, config: RunConfig) -> int:
    """Do one part of the stage that the run is at, in a folder of its own."""
    from selfplay.experiments.engines import engine, judges
    from selfplay.iteration.budget import BudgetSpent
    from selfplay.iteration.parts import run_part
    from selfplay.run.rundir import RunDir
    from selfplay.run.shard import parse_part

    part = parse_part(text)
    own = RunDir(below_runs(f"{rundir.path.name}-{part.name}"))
    seed = _worlds_of(rundir, config)
    with log_to(own.log), judges(config, on_screen().say, seed) as (pool, protections), engine(config, own) as backend:
        try:
            tell(run_part(rundir, own, part, config, backend, pool, protections, on_screen()))
        except BudgetSpent as spent:
            tell(f"{own.path}: {spent}{MORE}")
    if len(rundir.read_records()) <= config.iterations:
        tell(f"When all parts are done: selfplay archive merge {rundir.path} {rundir.path}-*-of-{part.parts}")
    return 0


def _forecast(config: RunConfig, nodes: Sequence[int], gpus: int, columns: int | None) -> int:
    """Print the expected cost of a run, and the time of an iteration on each number of machines. Nothing is kept."""
    from puzzles.archive import worlds
    from selfplay.experiments.engines import engine, judges
    from selfplay.experiments.forecast import forecast, forecast_table
    from selfplay.experiments.scaling import plan, plan_table
    from selfplay.run.rundir import RunDir

    with tempfile.TemporaryDirectory() as name, judges(config, on_screen().say, worlds.drawn()) as (pool, protections):
        folder = Path(name)
        with engine(config, RunDir(folder)) as backend:
            expected = forecast(config, backend, pool, protections, folder, on_screen())
    LINE.end()
    print(forecast_table(expected, columns))
    if nodes:
        print(f"\n{plan_table([plan(expected, config, workers, gpus) for workers in nodes], columns)}")
    return 0


def require_packages(*configs: RunConfig) -> None:
    """Check, before anything is written, that the packages that the settings need are installed.

    Raises:
        InputError: A package is missing.
    """
    from selfplay.inspecting import track
    from selfplay.sampling import cluster
    from selfplay.training.finetune import require_peft

    for config in configs:
        track.require(config)
    if any(config.finetune.lora_rank for config in configs):
        require_peft()
    if any(config.executor == "ray" for config in configs):
        cluster.require()


def with_rows(
    columns: int | None, title: str = "", rundir: RunDir | None = None
) -> Progress:  # fmt: skip
    """Progress as a status line, and a table with a row for each record.

    Args:
        columns: Characters of a line; None for all columns of the table.
        title: What stands above the table.
        rundir: The run, if the rows that it has from another run are to be marked.
    """
    from selfplay.iteration.record_table import record_cells, record_table

    table: list[Fitted] = []

    def row(record: dict[str, Any]) -> None:
        cells = record_cells(record)
        if rundir and record["iteration"] <= _inherited(rundir)[1]:
            cells[0] += "*"
        with LINE.hidden():
            if not table:
                table.append(record_table(record, columns))
                print(title + table[0].heading, flush=True)
            print(table[0].row(cells), flush=True)

    return replace(on_screen(), row=row, width=columns)
