"""Score one model on one puzzle set, and write what others can read."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from puzzles.formats import read_errata
from puzzles.puzzle import InputError, RawPuzzle, Verdict, content_hash
from puzzles.similarity import Guard
from puzzles.verify import verify_texts
from sandbox.pool import Pool
from selfplay import results
from selfplay.config import EvaluateConfig, ModelConfig
from selfplay.evaluate import NamedPuzzle, evaluate, judge_surely
from selfplay.loop import Progress, read_any, scored_puzzles
from selfplay.model import LanguageModel
from selfplay.rundir import RunDir, read_lines, write_atomically
from selfplay.select import Pair, solver_shots
from selfplay.show import training_pairs
from selfplay.solve import prompt_for

CHUNK_TEXTS = 2048

Rejudged = tuple[dict[str, Any], list[results.Line]]


@dataclass(frozen=True)
class BenchConfig:
    """What is asked of every model."""

    puzzles: str = "heldout"
    protocol: str = "auto"
    """`auto`: the one saved with the checkpoint, else few-shot."""
    shots: int = 5
    seeds: tuple[int, ...] = (0,)
    batch_rows: int = 128
    trained_on: str | None = None
    """Archive of what the model was trained on; None finds it for a run's checkpoint."""
    errata: str | None = None
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@dataclass(frozen=True)
class ScoredSet:
    """Puzzles to be scored: one of each problem."""

    path: str
    named: list[NamedPuzzle]
    facts: dict[str, Any]
    """As `results.json` keeps them: nothing of a puzzle but its id."""


def scored_set(pool: Pool, path: str) -> ScoredSet:
    """Read a set and judge its own reference solutions.

    Puzzles named PROBLEM:NUMBER, as in P3, are instances of one problem; so are puzzles of one
    normal form. Intervals are over independent puzzles, so the first of each is scored.

    Raises:
        InputError: There is no such set, or a text in it is no puzzle.
    """
    raws, named = read_any(path), scored_puzzles(pool, path)
    first: dict[str, int] = {}
    for index, item in enumerate(named):
        problem, colon, number = item.name.rpartition(":")
        first.setdefault(problem if colon and number.isdigit() else item.name, index)
    kept = {named[index].puzzle.id: index for index in reversed(first.values())}
    chosen = sorted(kept.values())
    facts = {
        "name": Path(path).stem,
        "path": path,
        "hash": content_hash(" ".join(sorted(kept))),
        "puzzles": len(chosen),
        "in_file": len(named),
        "references": _references(pool, [(named[index].puzzle.id, raws[index]) for index in chosen]),
    }
    return ScoredSet(path, [named[index] for index in chosen], facts)


def _references(pool: Pool, raws: Sequence[tuple[str, RawPuzzle]]) -> dict[str, Any]:
    """Whether this machine accepts the set's own solutions; one accepted is enough for a puzzle."""
    texts = [(identifier, (raw.puzzle, solution)) for identifier, raw in raws for solution in raw.solutions]
    outcomes: dict[str, list[str]] = {}
    for (identifier, _), judgement in zip(texts, verify_texts(pool, [pair for _, pair in texts]), strict=True):
        outcomes.setdefault(identifier, []).append(str(judgement.verdict))
    refused = {identifier: verdicts[0] for identifier, verdicts in outcomes.items() if Verdict.ACCEPTED not in verdicts}
    return {"accepted": len(outcomes) - len(refused), "none": len(raws) - len(outcomes), "refused": refused}


def bench(
    model_config: ModelConfig,
    config: BenchConfig,
    folder: Path,
    pool: Pool,
    protections: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Score and write into `folder` what `results` names; returns the content of `results.json`.

    The same call again resumes: what has been sampled is not sampled again.

    Raises:
        InputError: No such model or set, or the folder holds results of another one.
    """
    chosen = scored_set(pool, config.puzzles)
    model = LanguageModel(model_config.path, model_config)
    protocol, came_from = _protocol(config, model)
    shots, refused = _shots(pool, config, model, chosen) if protocol == "few-shot" else ([], {})
    started = time.time()
    with RunDir(folder).lock():
        lines = _sampled(model, pool, chosen, protocol, shots, config, folder, progress)
        results.pack(folder, lines)
        for seed in config.seeds:
            _growing(folder, seed).unlink(missing_ok=True)
        facts = {
            "set": chosen.facts,
            "model": {
                "path": model_config.path, "checkpoint": model.checkpoint,
                **{key: model.description[key] for key in ("device", "dtype", "threads")},
            },
            "protocol": protocol,
            "protocol_from": came_from,
            "shots": [puzzle.id for puzzle, _ in shots],
            "shots_refused": refused,
            "prompts_hash": content_hash(" ".join(line["identity"]["prompts"] for line in lines)),
            "settings": {**asdict(config.evaluate), "seeds": list(config.seeds), "batch_rows": config.batch_rows},
            "limits": asdict(pool.limits),
            "sandbox": protections,
            "versions": {**model.versions, "python": platform.python_version()},
            "started": started,
        }  # fmt: skip
        content = results.document(facts, lines, read_errata(config.errata))
        results.write(folder, content)
    return content


def _protocol(config: BenchConfig, model: LanguageModel) -> tuple[str, str]:
    """How puzzles are shown, and who said so."""
    if config.protocol != "auto":
        return config.protocol, "option"
    if "protocol" in model.notes:
        return str(model.notes["protocol"]), "saved with the checkpoint"
    return "few-shot", "default"


def _shots(
    pool: Pool, config: BenchConfig, model: LanguageModel, chosen: ScoredSet
) -> tuple[list[Pair], dict[str, str]]:
    """The pairs before each puzzle, those saved with the checkpoint first; none is near a puzzle that is scored.

    Raises:
        InputError: Too few are left.
    """
    pairs = training_pairs(pool)
    guard = Guard.of((item.name, item.puzzle) for item in chosen.named)
    refused = {puzzle.id: str(hit) for puzzle, _ in pairs if (hit := guard.hit(puzzle)) is not None}
    allowed = [pair for pair in pairs if pair[0].id not in refused]
    if len(allowed) < config.shots:
        raise InputError(
            f"{chosen.path}: {len(refused)} of the {len(pairs)} training pairs are in this set or too near to it, "
            f"so {config.shots} cannot stand before its puzzles: choose --protocol plain, or fewer --shots"
        )
    shots = solver_shots(allowed, config.shots)
    wanted = solver_shots(pairs, config.shots)
    return shots, {puzzle.id: refused[puzzle.id] for puzzle, _ in wanted if puzzle.id in refused}


def _growing(folder: Path, seed: int) -> Path:
    """Where a seed's chunks are kept until all are there."""
    return folder / f"samples-{seed}.jsonl"


def _sampled(
    model: LanguageModel,
    pool: Pool,
    chosen: ScoredSet,
    protocol: str,
    shots: Sequence[Pair],
    config: BenchConfig,
    folder: Path,
    progress: Progress,
) -> list[results.Line]:
    """The chunks of all seeds, those that are there and those that were missing."""
    finished = results.unpack(folder)
    if finished:
        _check_seeds(folder, finished, config.seeds)
    candidates = len(chosen.named) * config.evaluate.samples_per_puzzle * len(config.seeds)
    count = progress.counter(candidates, f"bench {model.path}", "candidate")
    lines = []
    for seed in config.seeds:
        file = _growing(folder, seed)
        done = [line for line in finished if line["identity"]["seed"][0] == seed]
        if done:
            write_atomically(file, "".join(json.dumps(line) + "\n" for line in done))
        evaluate(
            model, pool, chosen.named, protocol, shots, config.evaluate, [seed], config.batch_rows, CHUNK_TEXTS,
            file, count,
        )  # fmt: skip
        lines += read_lines(file)
    return lines


def _check_seeds(folder: Path, finished: Sequence[results.Line], seeds: Sequence[int]) -> None:
    there = sorted({line["identity"]["seed"][0] for line in finished})
    if not set(there) <= set(seeds):
        raise InputError(
            f"{folder}: it holds results with another seed ({there} there, {sorted(seeds)} here): "
            "move it away to score anew"
        )


def judge_again(pool: Pool, protections: dict[str, Any], facts: dict[str, Any], lines: list[results.Line]) -> Rejudged:
    """Verdicts of this sandbox on the stored texts of a benchmark, with the facts about it.

    Raises:
        InputError: The set is not the one that was scored.
    """
    chosen = scored_set(pool, facts["set"]["path"])
    if chosen.facts["hash"] != facts["set"]["hash"]:
        raise InputError(f"{chosen.path}: it is not the set that was scored: other puzzles are in it now")
    puzzles = {item.puzzle.id: item.puzzle for item in chosen.named}
    for line in lines:
        asked = [result for result in line["results"] if result["texts"]]
        group = [puzzles[result["puzzle"]] for result in asked]
        prompts = [prompt_for(facts["protocol"], puzzle, []) for puzzle in group]
        started = time.monotonic()
        judged_P_K, machine = judge_surely(pool, group, prompts, [result["texts"] for result in asked])
        line["times"] |= {"judging_seconds": time.monotonic() - started, **machine}
        for result, judged_K in zip(asked, judged_P_K, strict=True):
            result["verdicts"] = [str(judgement.verdict) for _, judgement in judged_K]
            result["details"] = [judgement.detail for _, judgement in judged_K]
    return {**facts, "set": chosen.facts, "sandbox": protections, "limits": asdict(pool.limits)}, lines
