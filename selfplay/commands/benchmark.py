"""`selfplay bench` and `selfplay compare`: score a model, and decide whether another one is better."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from sandbox.printing import visible
from sandbox.result import Limits
from selfplay.commands.grammar import (
    SETTINGS_HINT,
    add_limits,
    add_prompt_options,
    add_wide,
    add_worlds,
    command,
    integers,
    natural,
    positive,
    prompt_of,
    sandbox_of,
    share,
    temperature,
)  # fmt: skip
from selfplay.commands.terminal import RUNS, on_screen, tell, width
from selfplay.text import printable, wrapped

if TYPE_CHECKING:
    from selfplay.config import ModelConfig
    from selfplay.sampling.sampler import Sampler
    from selfplay.scoring.compare import Comparison

USUAL_K = (1, 10, 100)


def add_bench(commands: Any) -> None:
    """Declare `bench`."""
    parser = command(
        commands, "bench", _bench, "score models on a puzzle set by pass@k with intervals",
        "bench embedded runs/embedded/checkpoints/iteration-003 --puzzles dev", resumes=True,
    )  # fmt: skip
    parser.add_argument("models", nargs="*", metavar="MODEL", help="`embedded`, a model folder or a hub name")
    parser.add_argument("--puzzles", default="heldout", help="`dev`, `heldout`, `train`, a puzzle file or an archive")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="for a quick look: score only N puzzles, evenly spread over the set"
    )
    _add_sampling(parser)
    _add_machine(parser)
    _add_server(parser)
    _add_results(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    add_prompt_options(parser, "solve")
    parser.add_argument("--samples", type=positive, default=100, help="candidates per puzzle (n)")
    parser.add_argument("--k", help="k of pass@k, with commas; default: 1,10,100 up to n, or the stored ones")
    parser.add_argument("--temperature", type=temperature, default=0.8, help="sampling temperature; 0 is greedy")
    parser.add_argument(
        "--top-p", type=share, default=1.0, help="sample from the likeliest tokens with this total probability"
    )
    parser.add_argument("--max-tokens", type=positive, default=150, help="most tokens of one candidate")
    parser.add_argument(
        "--seed", default="0", help="one or several seeds, with commas; each draws n candidates per puzzle"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-rows", type=positive, default=0,
        help="candidates sampled side by side; default: as many as the memory holds",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", help=f"device of the model: auto, cpu, cuda, cuda:1 or mps; {SETTINGS_HINT}"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="number format of the weights",
    )
    parser.add_argument("--threads", type=natural, default=0, help="threads of torch; 0: one per core")
    add_limits(parser, saved=True)
    add_worlds(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", action="append",
        help="address of a server with OpenAI's protocol; MODEL is then the model's name there, or the folder with the "
        "same weights; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--concurrent-requests", type=positive, default=16, help="with --url: requests in flight at the same time"
    )
    parser.add_argument(
        "--candidates-per-request",
        type=positive,
        default=1,
        help="with --url: candidates asked for in one request, if the server can",
    )
    parser.add_argument(
        "--request-seconds", type=positive, default=300,
        help="with --url: time for the answer to one request, from sending it to its last byte; it is then asked again",
    )  # fmt: skip
    parser.add_argument(
        "--send", action="append", default=[], metavar="NAME=OTHER",
        help="with --url: send a parameter under another name, or with `NAME=` not at all; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--proof", default="ask", choices=["ask", "skip"],
        help="with --url: whether the server must show before that it samples, and with the right weights",
    )  # fmt: skip


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trained-on", metavar="ARCHIVE", help="archive that the model was trained on; default: the archive of its run"
    )
    parser.add_argument("--errata", metavar="FILE", help="TOML file of wrong puzzles; they are left out and listed")
    parser.add_argument(
        "--private",
        action="store_true",
        help="write nothing about the puzzles but their ids and a hash into the results",
    )
    parser.add_argument(
        "--out",
        help="folder for results.json, samples.jsonl.gz and tables; default: runs/bench-MODEL-SET, and a "
        "--protocol or --limit that was given behind it",
    )
    parser.add_argument(
        "--rescore", nargs="*", metavar="FOLDER",
        help="score stored candidates again, without a model; default: everything below runs/",
    )  # fmt: skip
    parser.add_argument(
        "--judge-again",
        action="store_true",
        help="with --rescore: judge the stored texts again; --puzzles must name the set if it is a file",
    )
    add_wide(parser)


def _bench(options: argparse.Namespace) -> int:
    if options.rescore is not None:
        return _rescore(options)
    if options.judge_again:
        raise InputError("--judge-again judges stored candidates: give --rescore too")
    from selfplay.benchmark.bench import BenchConfig, bench, trained_with
    from selfplay.config import EvaluateConfig, ModelConfig
    from selfplay.run.pools import proven_pool
    from selfplay.sampling.naming import check as check_name
    from selfplay.sampling.prompts import kept_format
    from selfplay.scoring.compare import compare, conclusion
    from selfplay.scoring.tables import score_table

    if not options.models:
        raise InputError("bench: expected a MODEL, such as `embedded`, or --rescore")
    seeds, ks = integers(options.seed, "--seed", least=0), _tries(options)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seed: expected different seeds, got {options.seed!r}")
    if options.temperature == 0 and (options.samples > 1 or len(seeds) > 1):
        raise InputError("--temperature 0 draws the same candidate each time: give --samples 1 --k 1 and one --seed")
    evaluate = EvaluateConfig(
        temperature=options.temperature, top_p=options.top_p, max_tokens=options.max_tokens,
        samples_per_puzzle=options.samples, k=ks,
    )  # fmt: skip
    config = BenchConfig(
        options.puzzles, prompt_of(options, "solve"), seeds, options.batch_rows, options.trained_on,
        options.errata, options.private, options.limit, evaluate,
    )  # fmt: skip
    for model in options.models if not options.url else ():
        check_name(model)
    names = _distinct(options.models)
    if len(set(names)) < len(names):
        raise InputError(f"bench: expected models whose folders have different names, got {', '.join(names)}")
    results, folders = [], []
    places = [_folder(options, name) for name in names]
    limit_from = _choose_limit(options, lambda: trained_with(options.models), "saved with the checkpoint")
    with proven_pool(sandbox_of(options), _worlds(options, places[0])) as (pool, protections):
        for model, folder in zip(options.models, places, strict=True):
            model_config = ModelConfig(model, options.device, options.dtype, options.threads)
            load = _served(options, model_config) if options.url else None
            own = bench(model_config, config, folder, pool, protections, on_screen(), load)["selfplay"]
            results.append(own)
            folders.append(folder)
            engine = f", sampled by {own['model']['engine']}" if "engine_reason" in own["model"] else ""
            written = kept_format(own)
            prompts = "" if written.is_own else f", prompts {written.hash}"
            how = f"{own['protocol']} protocol ({own['protocol_from']}){prompts}{engine}"
            how += f", {options.cpu_seconds:g} s of CPU time ({limit_from})"
            tell(f"{model}: {how}, results in {folder}", sys.stderr)
    if len(results) == 1:
        tell(_result_text(folders[0], results[0], width(options)))
        return 0
    table, columns = score_table(results), width(options)
    tell((table.markdown() if columns is None else table.plain(columns)) + "\n")
    for folder, own in zip(folders[1:], results[1:], strict=True):
        beside = visible(f"{own['model']['path']} beside {results[0]['model']['path']}: ")
        said = beside + conclusion(compare(folders[0], folder, anyway=True))
        tell(said if columns is None else wrapped(said, columns))
    return 0


def _choose_limit(options: argparse.Namespace, saved: Callable[[], float | None], kept_in: str) -> str:
    """Set the CPU limit where no option gives it, and say where it comes from."""
    if options.cpu_seconds is not None:
        return "option"
    seconds = saved()
    options.cpu_seconds = seconds or Limits.cpu_seconds
    return kept_in if seconds else "default"


def _result_text(folder: Path, own: dict[str, Any], columns: int | None) -> str:
    """A benchmark's results for a terminal: in Markdown, as in `results.md`, where all of it is asked for."""
    from selfplay.scoring.results import unpack
    from selfplay.scoring.tables import result_parts, result_tables, told_by

    told = told_by(own, unpack(folder))
    if columns is None:
        return result_tables(own, told).rstrip("\n")
    return "\n\n".join(
        wrapped(part, columns) if isinstance(part, str) else part.plain(columns) for part in result_parts(own, told)
    )


def _served(options: argparse.Namespace, model: ModelConfig) -> Callable[[], Sampler]:
    """A loader of the model behind `--url`. Local weights are compared with those of the server."""
    from selfplay.config import EndpointConfig, SendConfig, check_send, check_urls
    from selfplay.experiments.engines import ELSEWHERE, ServedBackend
    from selfplay.settings import build

    check_urls("--url", options.url)
    send = build(SendConfig, dict(map(_renaming, options.send)), "--send")
    check_send("--send", send)
    is_here = model.path in ("embedded", "smollm2") or Path(model.path).exists()
    endpoint = EndpointConfig(
        tuple(options.url), model="" if is_here else model.path, concurrent_requests=options.concurrent_requests,
        candidates_per_request=options.candidates_per_request, request_seconds=options.request_seconds,
        proof=options.proof, send=send,
    )  # fmt: skip
    backend = ServedBackend(endpoint, options.protocol, Path(), draws=options.temperature > 0)
    return lambda: backend.load(model.path if is_here else ELSEWHERE, model)


def _renaming(option: str) -> tuple[str, str]:
    name, equals, sent = option.partition("=")
    if not equals:
        raise InputError(
            f"--send: expected NAME=OTHER, such as max_tokens=max_completion_tokens or seed=, got {option!r}"
        )
    return name, sent


def _tries(options: argparse.Namespace) -> tuple[int, ...]:
    if options.k is None:
        return tuple(k for k in USUAL_K if k <= options.samples)
    ks = tuple(dict.fromkeys(integers(options.k, "--k")))
    if max(ks) > options.samples:
        raise InputError(f"--k: pass@{max(ks)} needs at least {max(ks)} samples, --samples is {options.samples}")
    return ks


def _short(path: str) -> str:
    """The short name of a model or a set, for a folder's name. A checkpoint has its run's name before its own."""
    place = Path(path)
    if place.parent.name == "checkpoints":
        return f"{place.absolute().parent.parent.name}-{place.name}"
    return (place.stem if place.is_file() else place.name) or "model"


def _distinct(models: Sequence[str]) -> list[str]:
    """Short names of models. Models that would share one have the name of their folder before it."""
    names = [_short(model) for model in models]
    return [
        name if names.count(name) == 1 else f"{Path(model).absolute().parent.name}-{name}"
        for model, name in zip(models, names, strict=True)
    ]


def _folder(options: argparse.Namespace, name: str) -> Path:
    """The folder of a model's results."""
    out = Path(options.out or RUNS / f"bench-{name}-{_short(options.puzzles)}")
    if not options.out:
        parts = [out.name, *([options.protocol] if options.protocol != "auto" else [])]
        out = RUNS / "-".join([*parts, *([str(options.limit)] if options.limit else [])])
    return out / name if options.out and len(options.models) > 1 else out


def _worlds(options: argparse.Namespace, folder: Path) -> int:
    """The seed of the worlds: the one that was given, or that of results already there, or a new one."""
    from puzzles.archive.worlds import drawn
    from selfplay.scoring.results import read

    if options.worlds is not None:
        return int(options.worlds)
    with contextlib.suppress(InputError):
        return int(read(folder)["selfplay"]["worlds"])
    return drawn()


def _rescore(options: argparse.Namespace) -> int:
    """Score stored candidates again. A benchmark's files are written again; a run's scores are only shown."""
    from puzzles.archive.formats import read_errata
    from selfplay.benchmark.rescore import (
        check_named,
        is_run,
        limit_of,
        rescore,
        rescored_run,
        rescored_run_table,
        rescored_table,
        stored,
    )
    from selfplay.run.pools import proven_pool

    if options.models:
        raise InputError(f"--rescore scores stored candidates: expected no model, got {options.models[0]}")
    errata = read_errata(options.errata) if options.errata else None
    ks = integers(options.k, "--k") if options.k else None
    below = sorted(RUNS.iterdir()) if RUNS.is_dir() else []
    folders = [Path(place) for place in options.rescore]
    if options.judge_again and (runs := [folder for folder in folders if is_run(folder)]):
        raise InputError(f"{runs[0]}: expected a benchmark with --judge-again: a run keeps its verdicts")
    folders = folders or [folder for folder in stored(below) if not (options.judge_again and is_run(folder))]
    if not folders:
        raise InputError(f"--rescore: expected results below {RUNS.resolve()}, there are none: name their folders")
    if options.judge_again:
        _choose_limit(options, lambda: limit_of(folders[0]), "stored")
    pool = (
        proven_pool(sandbox_of(options), _worlds(options, folders[0]))
        if options.judge_again
        else contextlib.nullcontext()
    )
    with pool as sandbox:
        for folder in folders:
            if is_run(folder):
                tell(f"{folder}\n{rescored_run_table(rescored_run(folder, errata or read_errata(), ks))}\n")
            else:
                if options.judge_again:
                    check_named(folder, options.puzzles)
                before, after = rescore(folder, errata, ks, sandbox)
                tell(f"{folder}\n{rescored_table(before['selfplay'], after['selfplay'])}\n")
    return 0


def add_compare(commands: Any) -> None:
    """Declare `compare`."""
    parser = command(
        commands, "compare", _compare, "test whether B is better than A, paired by puzzle",
        "compare bench-embedded-dev bench-embedded-iteration-003-dev",
    )  # fmt: skip
    parser.add_argument(
        "first", metavar="A", help="the baseline: the name of a result below runs/, its folder, or its results.json"
    )
    parser.add_argument("second", metavar="B", help="the result to compare with A, in the same form")
    parser.add_argument("--anyway", action="store_true", help="compare even if puzzles, protocol or settings differ")
    parser.add_argument("--fail-if-worse", action="store_true", help="exit with status 1 if B is worse at the first k")
    parser.add_argument("--chart", metavar="FILE", help="write pass@k over k of both as SVG to this file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_wide(parser)


def _result(text: str) -> str:
    """The results with this name below runs/, or at this place.

    Raises:
        InputError: There is neither.
    """
    if not Path(text).exists() and not (RUNS / text).exists():
        raise InputError(f"{text}: expected a folder that `selfplay bench` wrote, there is none here or below {RUNS}/")
    return str(RUNS / text) if (RUNS / text).is_dir() and not Path(text).exists() else text


def _compare(options: argparse.Namespace) -> int:
    from selfplay.scoring.compare import compare, report, to_json

    comparison = compare(_result(options.first), _result(options.second), options.anyway)
    if options.chart:
        _draw(comparison, Path(options.chart))
    print(json.dumps(to_json(comparison)) if options.json else printable(report(comparison, width(options))))
    return int(options.fail_if_worse and comparison.verdict == "worse")


def _draw(comparison: Comparison, out: Path) -> None:
    """Write pass@k over k of both results as SVG."""
    from selfplay.inspecting.panels import over_tries
    from selfplay.run.rundir import spare, told_if_closed, write_atomically

    counted = {
        f"{label} {own['model']['path']}": {puzzle: own["per_puzzle"][puzzle] for puzzle in comparison.puzzles}
        for label, own in (("A", comparison.first), ("B", comparison.second))
    }
    spare(out.absolute())
    panels = [*over_tries(comparison.first["set"]["name"], counted)]
    if not panels:
        raise InputError(f"--chart {out}: a curve needs two candidates per puzzle or more, there is one")
    with told_if_closed(out, "name another place with --chart"):
        write_atomically(out, panels[0].svg)
