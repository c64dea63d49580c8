"""`selfplay run`: begin or continue a run, do a part of it, or forecast its cost."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from sandbox.printing import visible
from selfplay.commands.grammar import SETTINGS_HINT, add_allowed, allowed, command, integers, positive
from selfplay.commands.log import log_to
from selfplay.commands.terminal import bars, below_runs, run_dir, tell

if TYPE_CHECKING:
    from selfplay.config import RunConfig
    from selfplay.run.progress import Progress
    from selfplay.run.rundir import RunDir

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
        return _forecast(config, nodes, options.gpus or 1)
    _begin(rundir, config, parent, options.trust)
    spent = _run_and_print(rundir, config)
    is_default = not (options.config or options.set or options.name or parent)
    return _print_end(rundir, config, spent, "" if is_default else f"{rundir.config} --name {name} ")


def _check_options(options: argparse.Namespace) -> None:
    if options.shard is not None and (options.forecast or options.from_run or options.nodes or options.gpus):
        raise InputError(
            "--shard does a part of a run that has begun: leave out --forecast, --nodes, --gpus and --from"
        )
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


def _run_and_print(rundir: RunDir, config: RunConfig) -> str:
    """Run, and print a row for each iteration. Returns why the run ended early, or ""."""
    from selfplay.experiments.engines import run_iterations
    from selfplay.inspecting import track
    from selfplay.iteration.alarms import Collapsed
    from selfplay.iteration.budget import BudgetSpent

    with log_to(rundir.log), track.tracker(config, rundir) as tracker:
        try:
            run_iterations(config, rundir.path, tracker.watching(with_rows()))
        except BudgetSpent as spent:
            return f"{spent}{MORE}"
        except Collapsed as collapsed:
            return str(collapsed)
    return ""


def _print_end(rundir: RunDir, config: RunConfig, spent: str, again: str) -> int:
    """Print what the run has cost and what to do next."""
    from selfplay.iteration.record_table import cost_table

    records = rundir.read_records()
    if len(records) > 1:
        print(f"\n{cost_table(records)}")
    if spent:
        tell(f"\n{rundir.path}: {spent}")
        return 0
    last = records[-1]["iteration"]
    if last > config.iterations:
        tell(f"{rundir.path} has {last} iterations already: raise `iterations` to extend it", sys.stderr)
    tell(f"\n{rundir.path}: archive {rundir.archive.stat().st_size / 1e6:.1f} MB. Next:")
    place, base, dev = (quote(visible(name)) for name in (rundir.path, config.model.path, config.data.dev))
    tell(f"  selfplay report {place}")
    if rundir.checkpoint(last).is_dir():
        tell(f"  selfplay bench {base} {quote(str(rundir.checkpoint(last)))} --puzzles {dev}")
    tell(f"  selfplay run {again}--set iterations={last + 3}")
    return 0


def _run_part(text: str, rundir: RunDir, config: RunConfig) -> int:
    """Do one part of the stage that the run is at, in a folder of its own."""
    from puzzles.archive import worlds
    from selfplay.experiments.engines import engine, judges
    from selfplay.iteration.budget import BudgetSpent
    from selfplay.iteration.loop import run_part
    from selfplay.run.rundir import RunDir
    from selfplay.run.shard import parse_part

    part = parse_part(text)
    own = RunDir(below_runs(f"{rundir.path.name}-{part.name}"))
    seed = worlds.seed_of(rundir.archive, config.seed)
    with log_to(own.log), judges(config, bars().say, seed) as (pool, protections), engine(config, own) as backend:
        try:
            tell(run_part(rundir, own, part, config, backend, pool, protections, bars()))
        except BudgetSpent as spent:
            tell(f"{own.path}: {spent}{MORE}")
    if len(rundir.read_records()) <= config.iterations:
        tell(f"When all parts are done: selfplay archive merge {rundir.path} {rundir.path}-*-of-{part.parts}")
    return 0


def _forecast(config: RunConfig, nodes: Sequence[int], gpus: int) -> int:
    """Print the expected cost of a run, and the time of an iteration on each number of machines. Nothing is kept."""
    from puzzles.archive import worlds
    from selfplay.experiments.engines import engine, judges
    from selfplay.experiments.forecast import forecast, forecast_table
    from selfplay.experiments.scaling import plan, plan_table
    from selfplay.run.rundir import RunDir

    with tempfile.TemporaryDirectory() as name, judges(config, bars().say, worlds.drawn()) as (pool, protections):
        folder = Path(name)
        with engine(config, RunDir(folder)) as backend:
            expected = forecast(config, backend, pool, protections, folder, bars())
    print(forecast_table(expected))
    if nodes:
        print(f"\n{plan_table([plan(expected, config, workers, gpus) for workers in nodes])}")
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


def with_rows(title: str = "", then: Callable[[dict[str, Any]], object] = lambda record: None) -> Progress:
    """Progress as bars, and a table with a row for each record. `then` is called with each record."""
    from selfplay.iteration.record_table import record_heading, record_row

    headed = False

    def row(record: dict[str, Any]) -> None:
        nonlocal headed
        if not headed:
            print(title + record_heading(record), flush=True)
            headed = True
        print(record_row(record), flush=True)
        then(record)

    return replace(bars(), row=row)
