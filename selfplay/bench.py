"""Score one model on one puzzle set, and write what others can read."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from puzzles.puzzle import content_hash
from sandbox.pool import Pool
from selfplay.config import EvaluateConfig, ModelConfig
from selfplay.evaluate import evaluate
from selfplay.loop import Progress, scored_puzzles
from selfplay.model import LanguageModel
from selfplay.rundir import RunDir, write_atomically
from selfplay.select import solver_shots
from selfplay.show import training_pairs

CHUNK_TEXTS = 2048


def bench(
    model_config: ModelConfig,
    puzzles: str,
    protocol: str,
    shots: int,
    config: EvaluateConfig,
    seed: int,
    batch_rows: int,
    folder: Path,
    pool: Pool,
    protections: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Score and write `results.json` and `samples.jsonl` (every candidate with its verdict) into `folder`.

    The same call again resumes: what `samples.jsonl` holds is not sampled again.

    Raises:
        InputError: No such model or set, or the folder holds results of another one.
    """
    named = scored_puzzles(pool, puzzles)
    model = LanguageModel(model_config.path, model_config)
    if protocol == "auto":
        protocol = str(model.notes.get("protocol", "few-shot"))
    before = solver_shots(training_pairs(pool), shots) if protocol == "few-shot" else []
    count = progress.counter(len(named) * config.samples_per_puzzle, f"bench {model_config.path}", "candidate")
    samples = folder / "samples.jsonl"
    with RunDir(folder).lock():
        scores = evaluate(
            model,
            pool,
            named,
            protocol,
            before,
            config,
            [seed],
            batch_rows,
            CHUNK_TEXTS,
            samples,
            count,
        )
    result = {
        "results": {puzzles: scores.to_json()},
        "config": {
            "model": model_config.path, "checkpoint": model.checkpoint, "protocol": protocol,
            "shots": [puzzle.id for puzzle, _ in before], "seed": seed, "batch_rows": batch_rows, **asdict(config),
            "puzzles_hash": content_hash(" ".join(sorted(item.puzzle.id for item in named))),
        },
        "versions": {**model.description, "python": platform.python_version()},
        "sandbox": protections,
        "n-samples": {puzzles: {"original": len(named), "effective": len(named)}},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(scores.seconds, 1),
    }  # fmt: skip
    write_atomically(folder / "results.json", json.dumps(result, indent=1) + "\n")
    return result
