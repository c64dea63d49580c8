"""Score one model on one puzzle set, and write results that others can read."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from puzzles.archive.formats import read_errata
from puzzles.guard import Guard
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, InputError, Puzzle
from sandbox.pool import Pool
from selfplay.benchmark.contamination import near_training, set_guard, training_archive
from selfplay.benchmark.sets import ScoredSet, scored_set
from selfplay.config import EvaluateConfig, ModelConfig, PromptConfig
from selfplay.run.consent import usual_or_less
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir, write_atomically
from selfplay.sampling.model import LanguageModel, read_notes
from selfplay.sampling.prompts import prompts_hash
from selfplay.sampling.sampler import Sampler
from selfplay.sampling.shots import Pair, asked_format, prompt_for, solver_shots, training_pairs
from selfplay.scoring import results
from selfplay.scoring.evaluate import Questions, evaluate, read_chunks
from selfplay.settings import embedded_file

CHUNK_TEXTS = 0
"""Candidates per chunk: about a minute of work."""


@dataclass(frozen=True)
class BenchConfig:
    """The settings of a benchmark, the same for every model."""

    puzzles: str = "heldout"
    """`dev`, `heldout`, `train`, a puzzle file or an archive."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """How puzzles are shown. With protocol `auto`, as was saved with the checkpoint, else in a chat if the model has a
    template for that, else with few-shot prompts."""
    seeds: tuple[int, ...] = (0,)
    """Each seed draws n candidates per puzzle."""
    batch_rows: int = 0
    """Candidates sampled side by side; 0 takes as many as the memory holds."""
    trained_on: str | None = None
    """The archive, run or puzzle file that the model was trained on; None finds it for a run's checkpoint."""
    errata: str | None = None
    """TOML file of wrong puzzles, which are not scored; None takes the embedded one."""
    private: bool = False
    """Whether results leave out the puzzles' skills, types and difficulty, and the reasons of errata."""
    limit: int | None = None
    """Most puzzles to score, spread over the set; None scores all."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def trained_with(models: Sequence[str]) -> float | None:
    """The CPU limit that all of these models were trained with, in seconds; None if one is not known, or they differ.

    A checkpoint may be somebody else's, so it can only lower the usual limit.
    """
    folders = [embedded_file("model") if name == "embedded" else Path(name) for name in models]
    saved = {read_notes(folder).get("limits", {}).get("cpu_seconds") for folder in folders}
    return usual_or_less(saved.pop()) if len(saved) == 1 else None


def bench(
    model_config: ModelConfig,
    config: BenchConfig,
    folder: Path,
    pool: Pool,
    protections: dict[str, Any],
    progress: Progress,
    load: Callable[[], Sampler] | None = None,
) -> dict[str, Any]:
    """Score a model, write the files that `results` names into `folder`, and return the content of `results.json`.

    The same call resumes an interrupted benchmark. Finished samples are not sampled again.

    Args:
        model_config: The model.
        config: The settings of the benchmark.
        folder: The folder for the results.
        pool: The sandbox that judges.
        protections: The protections that the sandbox has proved.
        progress: Shows the number of candidates.
        load: Loads another sampler than the model in this process.

    Raises:
        InputError: There is no such model or set, or the folder holds results of another one.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the results, got a file: name another with --out")
    progress.step("judging the set's own solutions", None)
    chosen = scored_set(pool, config.puzzles, config.private, config.limit)
    for line in chosen.left_out():
        progress.say(line)
    progress.step(f"loading {model_config.path}", None)
    model: Sampler = load() if load else LanguageModel(model_config.path, model_config)
    asked, conditions = _asked(pool, config, model, model_config.path, chosen)
    started = time.time()
    with RunDir(folder).lock():
        lines = _sampled(model, model_config.path, pool, asked, config.seeds, folder, progress)
        results.pack(folder, lines)
        for seed in config.seeds:
            _growing(folder, seed).unlink(missing_ok=True)
        facts = {
            "set": chosen.facts,
            "model": {
                "path": model_config.path, "checkpoint": model.checkpoint,
                **{key: _stored(lines, key) for key in ("device", "dtype", "threads")},
                **{key: value for key, value in lines[-1]["sampler"].items() if key in results.UNUSUAL},
            },
            **conditions,
            "settings": {**asdict(config.evaluate), "seeds": list(config.seeds), "batch_rows": _batch_rows(lines)},
            "limits": asdict(pool.limits),
            "worlds": pool.seed,
            "sandbox": protections,
            "versions": {**_stored(lines, "versions"), "python": platform.python_version()},
            "started": started,
        }  # fmt: skip
        content = results.document(facts, lines, read_errata(config.errata))
        results.write(folder, content, lines)
    return content


def _asked(
    pool: Pool, config: BenchConfig, model: Sampler, name: str, chosen: ScoredSet
) -> tuple[Questions, dict[str, Any]]:
    """The questions to the model, and their facts for the results: prompts, shots and contamination.

    Raises:
        InputError: No prompt fits the model's context, or too few shots are left.
    """
    prompt_format, came_from = asked_format(config.prompt, model)
    shows = prompt_format.shows_shots("solve")
    trained_on = config.trained_on or training_archive(name)
    needs_guard = shows or trained_on is not None
    guard = set_guard(pool, chosen) if needs_guard else Guard()  # guarding a large set takes some seconds
    shots, refused = _shots(pool, config, model, chosen, guard) if shows else ([], {})
    near = near_training(pool, chosen, guard, name, Path(trained_on)) if trained_on else None
    prompts = [prompt_for(prompt_format, item.puzzle, shots) for item in chosen.named]
    if not any(model.fits(prompt, config.evaluate.max_tokens) for prompt in prompts):
        raise InputError(
            f"{config.puzzles}: no prompt with {config.evaluate.max_tokens} tokens of answer fits the model's context: "
            "give fewer --shots or --max-tokens"
        )
    asked = Questions(chosen.named, prompt_format, shots, config.evaluate, [], config.batch_rows, CHUNK_TEXTS)
    return asked, {
        "protocol": prompt_format.protocol,
        "protocol_from": came_from,
        "prompt_format": prompt_format.to_json(),
        "shots": [puzzle.id for puzzle, _ in shots],
        "shots_refused": refused,
        "prompts_hash": prompts_hash(prompts),
        "contamination": near,
    }


def _batch_rows(lines: Sequence[results.Line]) -> int:
    """The rows that were asked for. If the memory was too small, a chunk's line says how many there were."""
    return int(lines[0]["identity"]["settings"]["batch_rows"])


def _stored(lines: Sequence[results.Line], key: str) -> Any:
    """A fact about the sampler, recorded when it sampled. If the chunks differ, the last one counts."""
    return lines[-1]["sampler"][key]


def _shots(
    pool: Pool, config: BenchConfig, model: Sampler, chosen: ScoredSet, guard: Guard
) -> tuple[list[Pair], dict[str, str]]:
    """The pairs before each puzzle, and the preferred pairs that were refused as too near to a scored puzzle.

    Raises:
        InputError: Too few pairs are left.
    """
    saved = model.notes.get("shots", []) if config.prompt.protocol == "auto" else []
    pairs = _pairs(pool, saved) if saved else training_pairs(pool)
    ranked = pairs if saved else solver_shots(pairs, len(pairs))
    wanted = len(saved) or config.prompt.shots
    hits = guard.examine(pool, [puzzle for puzzle, _ in ranked])
    refused: dict[str, str] = {}
    shots: list[Pair] = []
    for pair in ranked:
        if len(shots) == wanted:
            break
        if pair[0].id in hits:
            refused[pair[0].id] = str(hits[pair[0].id])
        else:
            shots.append(pair)
    if len(shots) < wanted:
        raise InputError(
            f"{chosen.path}: expected {wanted} pairs to show before its puzzles, got {len(shots)}: {len(refused)} of "
            f"{len(pairs)} are in this set or too near to it: choose --protocol plain, or fewer --shots"
        )
    return shots, refused


def _pairs(pool: Pool, texts: Sequence[Sequence[str]]) -> list[Pair]:
    """The pairs that a checkpoint was saved with, parsed."""
    puzzles = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in texts])
    candidates = parse_candidates(pool, [Text(solution) for _, solution in texts])
    return [
        (puzzle, candidate)
        for puzzle, candidate in zip(puzzles, candidates, strict=True)
        if isinstance(puzzle, Puzzle) and isinstance(candidate, Candidate)
    ]


def _growing(folder: Path, seed: int) -> Path:
    """The file that keeps a seed's chunks until all are finished."""
    return folder / f"samples-{seed}.jsonl"


def _sampled(
    model: Sampler, name: str, pool: Pool, asked: Questions, seeds: Sequence[int], folder: Path, progress: Progress
) -> list[results.Line]:
    """The chunks of all seeds. Missing ones are sampled."""
    progress.step(f"bench {name}", None)
    finished = results.unpack(folder)
    if finished:
        _check_seeds(folder, finished, seeds)
    candidates = len(asked.puzzles) * asked.config.samples_per_puzzle * len(seeds)
    count = progress.counter(candidates, f"bench {name}", "candidate")
    lines = []
    for seed in seeds:
        file = _growing(folder, seed)
        done = [line for line in finished if line["identity"]["seed"][0] == seed]
        if len(done) > len(read_chunks(file)):
            write_atomically(file, "".join(json.dumps(line) + "\n" for line in done))
        try:
            evaluate(model, pool, replace(asked, seed=[seed]), file, count, progress.note)
        except InputError as error:
            if done:
                file.unlink()
            raise InputError(str(error).replace(str(file), str(folder))) from None
        lines += read_chunks(file)
    return lines


def _check_seeds(folder: Path, finished: Sequence[results.Line], seeds: Sequence[int]) -> None:
    there = sorted({line["identity"]["seed"][0] for line in finished})
    if not set(there) <= set(seeds):
        raise InputError(
            f"{folder}: it holds results with another seed ({there} there, {sorted(seeds)} here): "
            "move it away to score anew"
        )
