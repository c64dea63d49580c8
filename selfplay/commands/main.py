"""The command line: parse, wire, call.

Exit status: 0 done, 1 the answer is no, 2 your input is wrong, 3 the sandbox or machine failed,
130 interrupted. Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import logging
import logging.handlers
import math
import os
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.foreign import shortened
from puzzles.puzzle import InputError
from sandbox.result import SandboxError
from selfplay.commands import archive as archive_commands
from selfplay.commands.terminal import RUNS, bars, command, natural, one_line, positive, printable, proven_pool
from selfplay.run import ending, resources

if TYPE_CHECKING:
    from selfplay.config import ModelConfig, RunConfig
    from selfplay.run.progress import Progress
    from selfplay.run.rundir import RunDir
    from selfplay.sampling.sampler import Sampler

USUAL_K = (1, 10, 100)
LOG_BYTES, LOGS_BEFORE = 10_000_000, 3
"""A run's log is put aside at that size; so many older ones are kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    In a main thread, a command that does not hear a signal takes the whole process with it when its grace is over.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    interrupted = f"selfplay: interrupted{KEPT if options.command in RESUMED else ''}"
    with ending.in_good_order(f"\n{interrupted}\n".encode()):
        return _command(options, interrupted)


def _command(options: argparse.Namespace, interrupted: str) -> int:
    if sys.stdout is None:  # it was closed by who began this
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a model
    try:
        status = _among_processes(options)
        sys.stdout.flush()  # here, and not at exit, a reader's absence can be forgiven
        return status
    except InputError as error:
        return _fail(error, 2)
    except (SandboxError, resources.DiskFull) as error:
        return _fail(error, 3)
    except KeyboardInterrupt:
        _say(f"\n{interrupted}")
        return ending.INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # nobody reads: nothing is to be flushed at exit
        return _fail(f"nobody reads its output any more{KEPT}", 3) if options.command in RESUMED else 0
    except (OSError, sqlite3.DatabaseError, MemoryError, ImportError) as error:  # torch may not be mapped, either
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _fail(f"{shortened(error.filename)}: this name is too long for the file system", 2)
        return _fail(_machine_error(error), 3)
    except Exception as error:  # noqa: BLE001  # a mistake of ours must not look like the answer no, which is 1
        if resources.is_full(error) or resources.OUT_OF_MEMORY.search(str(error)):  # as other languages say it
            return _fail(_machine_error(error), 3)
        traceback.print_exc()
        return 3


def _among_processes(options: argparse.Namespace) -> int:
    """A command's work; of the processes that torchrun has started the first does it, and the others train with it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return int(options.command(options))
    if options.command not in TRAINING:
        raise InputError("torchrun: only run, reproduce and ablate train in several processes: give this without it")
    from selfplay.training import distributed
    from selfplay.training.finetune import join

    with distributed.joined() as leads:
        return int(options.command(options)) if leads else join()


def _fail(error: object, status: int) -> int:
    _say(f"selfplay: {printable(' '.join(str(error).split()))}")
    return status


def _say(line: str) -> None:
    """On standard error, if there is one still: a terminal may be gone, and the exit status is to tell all the same."""
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            sys.stderr = None


def _machine_error(error: Exception) -> str:
    if resources.is_full(error):
        return "the disk is full; what was finished is kept: free some space and give the same command again"
    if isinstance(error, ConnectionError) and error.errno is None:  # a server's, told by us
        return f"{error}; what was finished is kept"
    return f"the machine failed: {type(error).__name__}: {error}"


# ---- commands ----


def _run(options: argparse.Namespace) -> int:
    from selfplay import tables
    from selfplay.config import load
    from selfplay.iteration.loop import branch, check_settings
    from selfplay.run import sessions
    from selfplay.run.rundir import RunDir

    parent = _parent(options.from_run)
    config = load(options.config or (parent[0].config if parent else None), options.set or ())
    name = options.name or (_run_name(Path(options.config)) if options.config else "embedded")
    rundir = RunDir(_below_runs(name))
    if options.shard is not None and (options.forecast or parent):
        raise InputError("--shard does a part of a run that has begun: leave out --forecast and --from")
    if options.nodes is not None and not options.forecast:
        raise InputError("--nodes: expected --forecast with it, which plans for so many")
    if options.gpus and options.nodes is None:
        raise InputError("--gpus: expected --forecast and --nodes with it, which plan for so many")
    if options.shard is not None:
        return _run_part(options.shard, rundir, config)
    if options.forecast:
        if parent:
            raise InputError(
                "--forecast tells what a whole run costs, and --from goes on with a part of one: leave it out"
            )
        return _forecast(
            config, () if options.nodes is None else _integers(options.nodes, "--nodes"), options.gpus or 1
        )
    _require_packages(config)
    if parent:
        branch(*parent, rundir)
    elif not rundir.config.exists() and "branched_from" in sessions.origin(rundir):
        raise InputError(f"{rundir.path}: it was begun with --from and has no settings yet: give that command again")
    check_settings(rundir, config)  # before the sandbox is made ready
    spent = _recorded(rundir, config)
    records = rundir.read_records()
    if len(records) > 1:
        print(f"\n{tables.cost_table(records)}")
    if spent:
        print(f"\n{rundir.path}: {spent}")
        return 0
    last = records[-1]["iteration"]
    if last > config.iterations:
        print(f"{rundir.path} has {last} iterations already; raise `iterations` to extend it", file=sys.stderr)
    again = f"{rundir.config} --name {name} " if options.config or options.set or options.name or parent else ""
    print(f"\n{rundir.path}: archive {rundir.archive.stat().st_size / 1e6:.1f} MB. Next:")
    print(f"  selfplay report {rundir.path}")
    if rundir.checkpoint(last).is_dir():
        print(f"  selfplay bench {config.model.path} {rundir.checkpoint(last)} --puzzles {config.data.dev}")
    print(f"  selfplay run {again}--set iterations={last + 3}")
    return 0


def _run_part(text: str, rundir: RunDir, config: RunConfig) -> int:
    from selfplay.experiments.engines import engine, judges
    from selfplay.iteration.loop import BudgetSpent, run_part
    from selfplay.run.rundir import RunDir
    from selfplay.run.shard import parse_part

    part = parse_part(text)
    own = RunDir(_below_runs(f"{rundir.path.name}-{part.name}"))
    with _log_to(own.log), judges(config) as (pool, protections), engine(config, own) as backend:
        try:
            print(run_part(rundir, own, part, config, backend, pool, protections, bars()))
        except BudgetSpent as spent:
            print(f"{own.path}: {spent}{MORE}")
    print(f"When all parts have ended: selfplay archive merge {rundir.path} {rundir.path}-*-of-{part.parts}")
    return 0


def _parent(text: str | None) -> tuple[RunDir, int | None] | None:
    """The run and the iteration, None for its last, that `--from` names."""
    if text is None:
        return None
    name, at, number = (text, "", "") if _run_dir(text).path.is_dir() else text.rpartition("@")
    if not name or (at and not (number.isascii() and number.isdigit())):
        raise InputError(f"--from: expected RUN or RUN@ITERATION, such as embedded@2, got {text!r}")
    return _run_dir(name), int(number) if at else None


def _recorded(rundir: RunDir, config: RunConfig) -> str:
    """Run, with a row for each iteration; why it ended before its last, if it did."""
    from selfplay.experiments.engines import engine, judges
    from selfplay.inspecting import track
    from selfplay.iteration.loop import BudgetSpent, Collapsed, run

    seen = len(rundir.read_records())

    def tracked(record: dict[str, Any]) -> None:
        if config.tensorboard and record["iteration"] >= seen:
            track.write(rundir.path / "tensorboard", record)

    with _log_to(rundir.log), judges(config) as (pool, protections), engine(config, rundir) as backend:
        try:
            run(rundir, config, backend, pool, protections, _with_rows(then=tracked))
        except BudgetSpent as spent:
            return f"{spent}{MORE}"
        except Collapsed as collapsed:
            return str(collapsed)
    return ""


def _require_packages(*configs: RunConfig) -> None:
    """Say before anything is written that one is missing."""
    from selfplay.inspecting import track
    from selfplay.sampling import cluster
    from selfplay.training.finetune import require_peft

    if any(config.tensorboard for config in configs):
        track.require()
    if any(config.finetune.lora_rank for config in configs):
        require_peft()
    if any(config.executor == "ray" for config in configs):
        cluster.require()


def _with_rows(title: str = "", then: Callable[[dict[str, Any]], object] = lambda record: None) -> Progress:
    """Bars, and a table with a row for each record."""
    from selfplay import tables

    headed = False

    def row(record: dict[str, Any]) -> None:
        nonlocal headed
        if not headed:
            print(title + tables.record_heading(record), flush=True)
            headed = True
        print(tables.record_row(record), flush=True)
        then(record)

    return replace(bars(), row=row)


def _ablate(options: argparse.Namespace) -> int:
    from selfplay import tables
    from selfplay.experiments import ablate, chart
    from selfplay.experiments.engines import engine, judges
    from selfplay.run.rundir import RunDir, told_if_closed, write_atomically

    ablation = ablate.load_ablation(Path(options.config))
    folder = _below_runs(options.name or Path(options.config).stem)
    _require_packages(*ablation.arms.values())
    with told_if_closed(folder, "give another --name"):
        folder.mkdir(parents=True, exist_ok=True)

    with _log_to(folder / "log.txt"), engine(ablation.arms[ablation.control], RunDir(folder)) as backend:
        done = ablate.ablate(ablation, folder, backend, judges, lambda arm: _with_rows(f"{arm}\n"))
    table = tables.ablation_table(ablation, done, ablate.contrasts(ablation, done))
    write_atomically(folder / "ablation.json", json.dumps(ablate.to_json(ablation, done)) + "\n")
    write_atomically(folder / "ablation.md", f"{table}\n")
    write_atomically(folder / "ablation.svg", chart.ablation_chart(ablation, done))
    print(f"\n{table}\n\n{folder}: ablation.md (this table), ablation.svg, ablation.json, and a folder for each run")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from selfplay.config import load
    from selfplay.experiments.engines import engine, judges
    from selfplay.experiments.reproduce import begin, reproduce, told
    from selfplay.run.rundir import RunDir

    there = _run_dir(options.run)
    here = RunDir(Path(options.out) if options.out else RUNS / f"{there.path.absolute().name}-again")
    last = begin(there, here, options.iterations)
    config = load(there.config)
    _require_packages(config)
    with _log_to(here.log), judges(config) as (pool, protections), engine(config, here) as backend:
        done = reproduce(there, here, last, backend, pool, protections, _with_rows())
    print()
    for line in told(there, here, done):
        print(printable(line))
    return 0 if done.is_identical else 1


def _below_runs(name: str) -> Path:
    if "/" in name or name in ("", ".", ".."):
        raise InputError(f"--name {name}: expected the name of a folder below {RUNS}")
    return RUNS / name


def _forecast(config: RunConfig, nodes: Sequence[int], gpus: int) -> int:
    """Say what a run would cost, and an iteration of each of these numbers of machines; nothing of it is kept."""
    from selfplay import tables
    from selfplay.experiments.engines import engine, judges
    from selfplay.experiments.forecast import forecast
    from selfplay.experiments.scaling import plan
    from selfplay.run.rundir import RunDir

    with tempfile.TemporaryDirectory() as name, judges(config) as (pool, protections):
        folder = Path(name)
        with engine(config, RunDir(folder)) as backend:
            expected = forecast(config, backend, pool, protections, folder, bars())
    print(tables.forecast(expected))
    if nodes:
        print(f"\n{tables.plans([plan(expected, config, workers, gpus) for workers in nodes])}")
    return 0


def _run_name(config: Path) -> str:
    """A run's own config.toml goes on with that run; another file gives the run its name."""
    return config.absolute().parent.name if config.name == "config.toml" else config.stem


def _runs(options: argparse.Namespace) -> int:
    from selfplay import tables
    from selfplay.run.rundir import RunDir

    runs = [RunDir(path) for path in sorted(RUNS.iterdir())] if RUNS.is_dir() else []
    rows = [_run_row(run) for run in runs if run.config.is_file() or run.status.is_file()]
    heading = ["run", "state", "iteration", "best on dev", "MB"]
    print(tables.render([heading, *rows], right=[4]) if rows else f"no runs below {RUNS.resolve()}")
    return 0


def _run_row(rundir: RunDir) -> list[str]:
    from selfplay import tables
    from selfplay.config import load

    name = printable(rundir.path.name)
    try:
        records = rundir.read_records()
        iterations = load(rundir.config).iterations if rundir.config.is_file() else None
        state = rundir.state(len(records) if iterations is None else iterations)
    except InputError:
        return [name, "unreadable", "-", "-", "-"]
    best = "-"
    if records:
        key = next(key for key in records[-1]["dev"] if key.startswith("pass@"))
        # A branch may score other k than the run it came from.
        record = max((r for r in records if key in r["dev"]), key=lambda record: record["dev"][key][0])
        best = f"{key} {tables.interval(record['dev'][key])} at {record['iteration']}"
    done = "-" if iterations is None else f"{max(0, len(records) - 1)} of {iterations}"
    size = sum(_size(file) for file in rundir.path.rglob("*"))
    return [name, one_line(state), done, best, f"{size / 1e6:.1f}"]


def _league(options: argparse.Namespace) -> int:
    from selfplay import tables
    from selfplay.iteration.champion import league

    print(tables.league_table(league(_run_dir(options.run))))
    return 0


def _report(options: argparse.Namespace) -> int:
    from selfplay.inspecting.report import report
    from selfplay.run.rundir import spare, told_if_closed, write_atomically

    rundir = _run_dir(options.run)
    out = Path(options.out) if options.out else rundir.report
    spare(out.absolute())
    page = report(rundir)
    with told_if_closed(out, "name another place with --out"):
        write_atomically(out, page)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, opens in any browser")
    return 0


def _run_dir(text: str) -> RunDir:
    """Of a run's folder or its name."""
    from selfplay.run.rundir import RunDir

    return RunDir(RUNS / text if (RUNS / text).is_dir() else Path(text))


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # the run goes on while we look
        return file.stat().st_size if file.is_file() else 0
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.rescore is not None:
        return _rescore(options)
    if options.judge_again:
        raise InputError("--judge-again judges stored candidates: give --rescore with it")
    from selfplay import tables
    from selfplay.benchmark.bench import BenchConfig, bench
    from selfplay.config import EvaluateConfig, ModelConfig, SandboxConfig
    from selfplay.scoring.compare import compare, conclusion

    if not options.models:
        raise InputError("bench: expected a MODEL, such as `embedded`, or --rescore")
    seeds, ks = _integers(options.seed, "--seed", least=0), _tries(options)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seed: expected different seeds, got {options.seed!r}")
    if options.temperature == 0 and (options.samples > 1 or len(seeds) > 1):
        raise InputError("--temperature 0 draws the same candidate each time: give --samples 1 --k 1 and one --seed")
    evaluate = EvaluateConfig(options.samples, ks, options.temperature, options.top_p, options.max_tokens)
    config = BenchConfig(
        options.puzzles, options.protocol, options.shots, seeds, options.batch_rows, options.trained_on,
        options.errata, options.private, evaluate,
    )  # fmt: skip
    names = _distinct(options.models)
    if len(set(names)) < len(names):
        raise InputError(f"bench: expected models that differ in the names of their folders, got {', '.join(names)}")
    results, folders = [], []
    with proven_pool(SandboxConfig(lanes=options.lanes), seeds[0]) as (pool, protections):
        for model, name in zip(options.models, names, strict=True):
            out = options.out or RUNS / f"bench-{name}-{_short(options.puzzles)}"
            folder = Path(out) / name if options.out and len(options.models) > 1 else Path(out)
            model_config = ModelConfig(model, options.device, options.dtype, options.threads)
            load = _served(options, model_config) if options.url else None
            own = bench(model_config, config, folder, pool, protections, bars(), load)["selfplay"]
            results.append(own)
            folders.append(folder)
            print(f"{model}: {own['protocol']} protocol ({own['protocol_from']}), results in {folder}", file=sys.stderr)
    if len(results) == 1:
        print(tables.result_tables(results[0]), end="")
        return 0
    print(tables.score_table(results) + "\n")
    for folder, own in zip(folders[1:], results[1:], strict=True):
        print(f"{own['model']['path']} beside {results[0]['model']['path']}: ", end="")
        print(conclusion(compare(folders[0], folder, anyway=True)))
    return 0


def _served(options: argparse.Namespace, model: ModelConfig) -> Callable[[], Sampler]:
    """A model behind `--url`: weights that are here are compared with the server's, any other name is the server's."""
    from selfplay.config import EndpointConfig, check_urls
    from selfplay.experiments.engines import ELSEWHERE, ServedBackend

    check_urls("--url", options.url)
    is_here = model.path == "embedded" or Path(model.path).is_dir()
    endpoint = EndpointConfig(
        tuple(options.url), model="" if is_here else model.path, concurrent_requests=options.concurrent_requests,
        candidates_per_request=options.candidates_per_request,
    )  # fmt: skip
    backend = ServedBackend(endpoint, options.protocol, Path())
    return lambda: backend.load(model.path if is_here else ELSEWHERE, model)


def _tries(options: argparse.Namespace) -> tuple[int, ...]:
    if options.k is None:
        return tuple(k for k in USUAL_K if k <= options.samples)
    ks = tuple(dict.fromkeys(_integers(options.k, "--k")))
    if max(ks) > options.samples:
        raise InputError(f"--k: pass@{max(ks)} needs as many samples, --samples is {options.samples}")
    return ks


def _rescore(options: argparse.Namespace) -> int:
    """Score stored candidates again: a benchmark's files are written anew, a run's scores are shown."""
    from puzzles.archive.formats import read_errata
    from selfplay import tables
    from selfplay.benchmark.rescore import is_run, rescore, rescored_run, stored
    from selfplay.config import SandboxConfig

    if options.models:
        raise InputError(f"--rescore scores stored candidates and needs no model, got {options.models[0]}")
    errata = read_errata(options.errata) if options.errata else None
    ks = _integers(options.k, "--k") if options.k else None
    below = sorted(RUNS.iterdir()) if RUNS.is_dir() else []
    folders = [Path(place) for place in options.rescore]
    if options.judge_again and (runs := [folder for folder in folders if is_run(folder)]):
        raise InputError(f"{runs[0]}: --judge-again is for benchmarks; a run keeps the verdicts it went on with")
    folders = folders or [folder for folder in stored(below) if not (options.judge_again and is_run(folder))]
    if not folders:
        raise InputError(f"--rescore: there are no results below {RUNS.resolve()}: name their folders")
    pool = proven_pool(SandboxConfig(lanes=options.lanes), 0) if options.judge_again else contextlib.nullcontext()
    with pool as sandbox:
        for folder in folders:
            if is_run(folder):
                print(f"{folder}\n{tables.rescored_run(rescored_run(folder, errata or read_errata(), ks))}\n")
            else:
                before, after = rescore(folder, errata, ks, sandbox)
                print(f"{folder}\n{tables.rescored(before['selfplay'], after['selfplay'])}\n")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from selfplay.scoring.compare import compare, report, to_json

    comparison = compare(options.first, options.second, options.anyway)
    print(json.dumps(to_json(comparison)) if options.json else printable(report(comparison)))
    return int(options.fail_if_worse and comparison.verdict == "worse")


def _pretrain(options: argparse.Namespace) -> int:
    from selfplay.config import RunConfig, embedded_file
    from selfplay.iteration.loop import guard_of, guarded_sets
    from selfplay.training.pretrain import load_pretrain_config, pretrain

    folder = Path(options.out).absolute()
    if folder.exists() and not (
        (folder / "selfplay.json").is_file() or (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise InputError(f"--out {options.out}: expected a new folder or a model to replace, there is something else")
    overrides = {} if options.steps is None else {"steps": options.steps}
    config = load_pretrain_config(options.config or embedded_file("pretrain.toml"), overrides)
    count = bars().counter(config.steps, "pretrain", "step")

    def progress(tokens: int, loss: float) -> None:
        count(1, f"loss {loss:.3f}")

    stats = pretrain(config, folder, lambda pool: guard_of(pool, guarded_sets(pool, RunConfig())), progress)
    print(
        f"{options.out}: {stats.steps} steps, {stats.tokens} tokens, loss {stats.last_loss:.3f}, {stats.seconds:.0f} s"
    )
    return 0


def _propose(options: argparse.Namespace) -> int:
    from selfplay.commands.show import proposals
    from selfplay.config import ModelConfig, SandboxConfig
    from selfplay.sampling.model import LanguageModel

    model = LanguageModel(options.model, ModelConfig(options.model))
    with proven_pool(SandboxConfig(), options.seed) as (pool, _):
        for text in proposals(model, pool, options.count, options.temperature, options.max_tokens, options.seed):
            print(printable(text), flush=True)
    return 0


def _solve(options: argparse.Namespace) -> int:
    from selfplay.commands.show import candidates
    from selfplay.config import ModelConfig, SandboxConfig
    from selfplay.sampling.model import LanguageModel

    with proven_pool(SandboxConfig(), options.seed) as (pool, _):
        lines = candidates(
            lambda: LanguageModel(options.model, ModelConfig(options.model)), pool, options.file, options.puzzle,
            options.candidates, options.temperature, options.max_tokens, options.seed,
        )  # fmt: skip
        for line in lines:
            print(printable(line), flush=True)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from puzzles.archive.formats import open_text, read_pairs, with_header
    from puzzles.parse import Text, parse_puzzles
    from puzzles.puzzle import Puzzle
    from puzzles.verify import verify_texts
    from selfplay.config import SandboxConfig
    from selfplay.run.shard import parse_part

    sandbox = SandboxConfig(
        cpu_seconds=options.cpu_seconds, wall_seconds=max(5.0, 5 * options.cpu_seconds), memory_mb=options.memory_mb,
        lanes=options.lanes, modules=tuple(options.module or ()),
    )  # fmt: skip
    part = None if options.shard is None else parse_part(options.shard)
    name = "standard input" if options.file == "-" else options.file
    escaped = "surrogateescape"
    if options.file == "-" and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors=escaped)
    source = contextlib.nullcontext(sys.stdin) if options.file == "-" else open_text(Path(options.file), escaped)
    count = bars().counter(0, "verify", "pair")

    def judge(raws: list[Any]) -> None:
        texts = [(raw.puzzle, raw.solution) for raw in raws]
        if options.format == "codex":
            parsed = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws])
            headers = [puzzle.header if isinstance(puzzle, Puzzle) else "def g():" for puzzle in parsed]
            texts = [(raw.puzzle, with_header(raw, header)) for raw, header in zip(raws, headers, strict=True)]
        for raw, judgement in zip(raws, verify_texts(pool, texts), strict=True):
            line = {
                "id": raw.id, "verdict": judgement.verdict, "detail": judgement.detail, "answer": judgement.answer,
                "cpu_ms": round(1000 * judgement.cpu_seconds, 3),
            }  # fmt: skip
            print(json.dumps(line), flush=True)
        count(len(raws))

    with source as file, proven_pool(sandbox, 0) as (pool, _):
        waiting: list[Any] = []
        pairs = read_pairs(file, name, options.format)
        if part:
            pairs = itertools.islice(pairs, part.number - 1, None, part.parts)
        while True:
            wrong: InputError | None = None
            try:
                for raw in itertools.islice(pairs, options.batch):
                    waiting.append(raw)
            except InputError as error:
                wrong = error  # what came before it has its verdict first
            judge(waiting)
            if wrong:
                raise wrong
            if len(waiting) < options.batch:
                break
            waiting = []
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from puzzles.verify import truth_pool
    from sandbox import selfcheck
    from selfplay import tables

    with truth_pool() as pool:
        protections = selfcheck.check(pool)
    if options.json:
        print(json.dumps(protections.to_json()))
    else:
        print(f"tier {protections.tier}\n")
        layers = [[name, state, protections.evidence.get(name, "")] for name, state in protections.layers.items()]
        print(tables.render([["layer", "state", "evidence"], *layers]))
        print()
        print(tables.render([["attack", "outcome"], *([name, state] for name, state in protections.probes.items())]))
        for line in [*protections.missing(), *protections.failures()]:
            print(f"missing: {line}")
    return 3 if protections.tier == "D" else 0


KEPT = "; what was finished is kept, the same command goes on from there"
MORE = "; with more of it the same command goes on"
RESUMED = (_run, _reproduce, _ablate, _bench, archive_commands.add)
TRAINING = (_run, _reproduce, _ablate)


# ---- wiring ----


class _Log(logging.handlers.RotatingFileHandler):
    """Of a run whose folder may not be there yet: nodes and servers are spoken of before."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    # Only what is written opens or puts aside a log: a second run, which is refused, leaves the first one's alone.
    handler = _Log(path, maxBytes=LOG_BYTES, backupCount=LOGS_BEFORE, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    for name in ("selfplay", "puzzles", "sandbox"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        for name in ("selfplay", "puzzles", "sandbox"):
            logging.getLogger(name).removeHandler(handler)
        handler.close()


def _integers(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option}: expected integers with commas between them, got {text!r}") from None
    if min(values) < least:
        raise InputError(f"{option}: expected integers of at least {least}, got {text!r}")
    return values


def _short(path: str) -> str:
    """A model's or a set's name in a folder's: a checkpoint has its run's before its own."""
    place = Path(path)
    if place.parent.name == "checkpoints":
        return f"{place.absolute().parent.parent.name}-{place.name}"
    return (place.stem if place.is_file() else place.name) or "model"


def _distinct(models: Sequence[str]) -> list[str]:
    """Short names; models that would share one have their folder's before it."""
    names = [_short(model) for model in models]
    return [
        name if names.count(name) == 1 else f"{Path(model).absolute().parent.name}-{name}"
        for model, name in zip(models, names, strict=True)
    ]


# ---- grammar ----


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="selfplay",
        description="Self-play on programming puzzles: propose, solve, verify, archive, fine-tune, score.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = command(commands, "run", _run, "run iterations, or go on with a run", "run runs/smoke.toml --set seed=1")
    run.add_argument("config", nargs="?", help="TOML file; without one, the embedded default: offline, on a CPU")
    run.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="change a setting, such as solve.temperature=0.7"
    )
    run.add_argument("--name", help="folder below runs/; by default the config's name")
    run.add_argument(
        "--from", dest="from_run", metavar="RUN[@ITERATION]", help="begin with another run's archive and model"
    )
    run.add_argument(
        "--shard", metavar="I/N", help="the I-th of N parts of what is sampled and judged next; for `archive merge`"
    )
    run.add_argument("--forecast", action="store_true", help="say what it would cost, from a minute of it; run nothing")
    run.add_argument(
        "--nodes", metavar="N,…", help="with --forecast: what an iteration takes of so many machines like this"
    )
    run.add_argument(
        "--gpus", type=positive, metavar="M", help="with --nodes: devices that train together, by default 1"
    )

    reproduce = command(
        commands, "reproduce", _reproduce, "run it again from its own settings, and report the first difference",
        "reproduce smoke",
    )  # fmt: skip
    reproduce.add_argument("run", metavar="RUN", help="a run's name or folder; it is only read")
    reproduce.add_argument("--iterations", type=natural, metavar="N", help="only until this one")
    reproduce.add_argument("--out", metavar="FOLDER", help="by default RUN's name with -again, below runs/")

    ablate = command(
        commands, "ablate", _ablate, "run arms of equal budget and compare them", "ablate runs/ablation.toml"
    )
    ablate.add_argument("config", help="TOML file: run, seeds, control, settings and arms")
    ablate.add_argument("--name", help="folder below runs/; by default the config's name")

    command(commands, "runs", _runs, "list the runs here", "runs")

    league = command(
        commands, "league", _league, "a run's checkpoints beside each other, and who was champion", "league embedded"
    )
    league.add_argument("run", metavar="RUN", help="a run's name or folder")

    report = command(commands, "report", _report, "write a run as one HTML file, to look at", "report embedded")
    report.add_argument("run", metavar="RUN", help="a run's name or folder")
    report.add_argument("--out", metavar="FILE", help="by default report.html in the run's folder")

    bench = command(
        commands, "bench", _bench, "score models on a puzzle set: pass@k with intervals",
        "bench embedded runs/embedded/checkpoints/iteration-003 --puzzles dev",
    )  # fmt: skip
    bench.add_argument("models", nargs="*", metavar="MODEL", help="`embedded`, a model folder or a hub name")
    bench.add_argument("--puzzles", default="heldout", help="dev, heldout, train, a puzzle file or an archive")
    bench.add_argument("--protocol", default="auto", choices=["auto", "plain", "few-shot", "chat"])
    bench.add_argument("--shots", type=natural, default=5, help="solved pairs before each puzzle, with few-shot")
    bench.add_argument("--samples", type=positive, default=100, help="candidates per puzzle (n)")
    bench.add_argument("--k", help="tries granted; by default those of 1,10,100 that n allows, or the stored ones")
    bench.add_argument("--temperature", type=_temperature, default=0.8)
    bench.add_argument("--top-p", type=_share, default=1.0)
    bench.add_argument("--max-tokens", type=positive, default=150)
    bench.add_argument("--seed", default="0", help="one or several, with commas: each draws n candidates per puzzle")
    bench.add_argument(
        "--batch-rows",
        type=positive,
        default=0,
        help="sequences sampled side by side (default: what the memory holds)",
    )
    bench.add_argument("--device", default="auto")
    bench.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    bench.add_argument("--threads", type=natural, default=0, help="of torch; 0 takes the cores available")
    bench.add_argument("--lanes", type=natural, default=0, help="sandbox children at the same time; 0: one per core")
    bench.add_argument(
        "--url", action="append",
        help="ask a server of OpenAI's protocol; MODEL is its name there, or the folder of the weights it should have",
    )  # fmt: skip
    bench.add_argument("--concurrent-requests", type=positive, default=16, help="with --url")
    bench.add_argument("--candidates-per-request", type=positive, default=1, help="with --url, if the server can")
    bench.add_argument("--trained-on", metavar="ARCHIVE", help="what the model was trained on; found for a run's")
    bench.add_argument("--errata", metavar="FILE", help="TOML of puzzles that are wrong: left out, and listed")
    bench.add_argument("--private", action="store_true", help="results say nothing of puzzles but their ids and hash")
    bench.add_argument("--out", help="folder for results.json, samples.jsonl.gz and tables")
    bench.add_argument(
        "--rescore", nargs="*", metavar="FOLDER",
        help="score stored candidates again, without a model; no FOLDER: everything below runs/",
    )  # fmt: skip
    bench.add_argument("--judge-again", action="store_true", help="with --rescore: judge the stored texts again")

    compare = command(
        commands, "compare", _compare, "is B better than A? the same puzzles, paired",
        "compare runs/bench-embedded-dev runs/bench-embedded-iteration-003-dev",
    )  # fmt: skip
    compare.add_argument("first", metavar="A", help="the baseline: a folder that bench wrote, or its results.json")
    compare.add_argument("second", metavar="B")
    compare.add_argument("--anyway", action="store_true", help="though puzzles, protocol or settings differ")
    compare.add_argument("--fail-if-worse", action="store_true", help="exit with 1 when B is worse at the first k")
    compare.add_argument("--json", action="store_true", help="for programs")

    pretrain = command(commands, "pretrain", _pretrain, "make the embedded model", "pretrain --out model")
    pretrain.add_argument("config", nargs="?", help="TOML file; by default the one the shipped model was made with")
    pretrain.add_argument("--steps", type=positive, help="instead of the config's")
    pretrain.add_argument("--out", default="embedded-model", help="folder to write")

    propose = command(commands, "propose", _propose, "look at a few proposals", "propose --count 5")
    propose.add_argument("--model", default="embedded")
    propose.add_argument("--count", type=positive, default=10)
    propose.add_argument("--temperature", type=_temperature, default=0.9)
    propose.add_argument("--max-tokens", type=positive, default=200)
    propose.add_argument("--seed", type=natural, default=0)

    solve = command(commands, "solve", _solve, "watch candidates for one puzzle being judged", "solve puzzle.py")
    solve.add_argument("file", help="a .py file with one puzzle, or a puzzle set")
    solve.add_argument("--puzzle", help="name of the puzzle in a set; by default the first")
    solve.add_argument("--model", default="embedded")
    solve.add_argument("--candidates", type=positive, default=20)
    solve.add_argument("--temperature", type=_temperature, default=0.8)
    solve.add_argument("--max-tokens", type=positive, default=150)
    solve.add_argument("--seed", type=natural, default=0)

    verify = command(commands, "verify", _verify, "judge pairs of puzzle and solution", "verify pairs.jsonl")
    verify.add_argument("file", help='JSONL of {"id"?, "puzzle", "solution"}, possibly .gz, or - for standard input')
    verify.add_argument(
        "--format", default="jsonl", choices=["jsonl", "codex"],
        help="codex: solutions are expressions or bodies without header, as in P3's Codex results",
    )  # fmt: skip
    verify.add_argument("--shard", metavar="I/N", help="every N-th pair, from the I-th on")
    verify.add_argument("--cpu-seconds", type=_seconds, default=1.0)
    verify.add_argument("--memory-mb", type=positive, default=512)
    verify.add_argument("--lanes", type=natural, default=0, help="sandbox children at the same time; 0: one per core")
    verify.add_argument("--batch", type=positive, default=500, help="lines judged together")
    verify.add_argument("--module", action="append", help="importable beside the pure modules; may be repeated")

    archive_commands.wire(commands)

    doctor = command(commands, "doctor", _doctor, "which protections are verified on this machine", "doctor")
    doctor.add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
