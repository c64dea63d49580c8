"""`selfplay ablate` and `selfplay reproduce`: compare several runs, and repeat one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from selfplay.commands.grammar import SETTINGS_HINT, add_allowed, add_wide, allowed, command, natural
from selfplay.commands.log import log_to
from selfplay.commands.run import require_packages, with_rows
from selfplay.commands.status_line import LINE
from selfplay.commands.terminal import RUNS, below_runs, on_screen, run_dir, tell, width


def add_ablate(commands: Any) -> None:
    """Declare `ablate`."""
    parser = command(
        commands, "ablate", _ablate, "run arms with equal budgets and compare them", "ablate runs/ablation.toml",
        resumes=True, trains=True,
    )  # fmt: skip
    parser.add_argument("config", help=f"TOML file with run, seeds, control, settings and arms; {SETTINGS_HINT}")
    parser.add_argument("--name", help="name of the folder below runs/; default: the config's name")
    add_wide(parser)


def _ablate(options: argparse.Namespace) -> int:
    from puzzles.archive import worlds
    from selfplay.experiments import ablate, chart
    from selfplay.experiments.ablation_table import ablation_table
    from selfplay.experiments.engines import engine, judges
    from selfplay.run.rundir import RunDir, told_if_closed, write_atomically

    ablation = ablate.load_ablation(Path(options.config))
    folder = below_runs(options.name or Path(options.config).stem)
    require_packages(*ablation.arms.values())
    with told_if_closed(folder, "give another --name"):
        folder.mkdir(parents=True, exist_ok=True)

    # All arms have one world, so that no difference between them comes from it.
    begun = sorted(folder.glob("*/archive.sqlite"))
    seed = worlds.seed_of(begun[0] if begun else folder / "archive.sqlite", ablation.arms[ablation.control].seed)
    with log_to(folder / "log.txt"), engine(ablation.arms[ablation.control], RunDir(folder)) as backend:
        done = ablate.ablate(
            ablation,
            folder,
            backend,
            lambda config: judges(config, on_screen().say, seed),
            lambda arm: with_rows(width(options), f"{arm}\n"),
        )
    table = ablation_table(ablation, done, ablate.contrasts(ablation, done))
    write_atomically(folder / "ablation.json", json.dumps(ablate.to_json(ablation, done)) + "\n")
    write_atomically(folder / "ablation.md", f"{table}\n")
    write_atomically(folder / "ablation.svg", chart.ablation_chart(ablation, done))
    tell(f"\n{table}\n\n{folder}: ablation.md (this table), ablation.svg, ablation.json, and a folder for each run")
    return 0


def add_reproduce(commands: Any) -> None:
    """Declare `reproduce`."""
    parser = command(
        commands, "reproduce", _reproduce, "repeat a run from its own settings, and report the first difference",
        "reproduce smoke", resumes=True, trains=True,
    )  # fmt: skip
    parser.add_argument("run", metavar="RUN", help="the run's name or folder; it is only read")
    parser.add_argument("--iterations", type=natural, metavar="N", help="repeat the run only up to iteration N")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the new run; default: runs/RUN-again")
    add_allowed(parser)
    add_wide(parser)


def _reproduce(options: argparse.Namespace) -> int:
    from puzzles.archive import worlds
    from selfplay.experiments.engines import engine, judges
    from selfplay.experiments.reproduce import begin, reproduce, told
    from selfplay.run.consent import load
    from selfplay.run.rundir import RunDir

    there = run_dir(options.run)
    here = RunDir(Path(options.out) if options.out else RUNS / f"{there.path.absolute().name}-again")
    if there.config.is_file():  # refused before the new folder is made; `begin` says so if there is no file
        load(there.config, (), allowed(options))
    last = begin(there, here, options.iterations)
    config = load(there.config, (), allowed(options))
    require_packages(config)
    seed = worlds.seed_of(there.archive, config.seed)
    with (
        log_to(here.log),
        judges(config, on_screen().say, seed) as (pool, protections),
        engine(config, here) as backend,
    ):
        done = reproduce(there, here, last, backend, pool, protections, with_rows(width(options)))
    LINE.end()
    print()
    for line in told(there, here, done):
        tell(line)
    return 0 if done.is_identical else 1
