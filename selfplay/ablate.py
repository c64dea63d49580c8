"""Arms at equal budget: runs that differ in some settings, and what the difference is worth.

Every arm starts from the same base, takes the same optimiser steps of the same size, and is scored alike; each is a run
of its own below one folder, so an ablation that was interrupted goes on like a run. The control may have fewer
iterations: one that learns nothing of its own would train the same model again.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puzzles.puzzle import Verdict
from sandbox.pool import Pool
from selfplay.compare import Difference, difference
from selfplay.config import ConfigError, RunConfig, embedded_file, flatten, load
from selfplay.loop import SCORED_SETS, Backend, Progress, run
from selfplay.rundir import RunDir, read_lines

SAME = ("model.", "prompt.", "sandbox.", "evaluate.", "data.dev", "data.heldout", "finetune.max_steps",
        "finetune.batch_tokens", "finetune.start")  # fmt: skip
"""Settings that arms must share: the base, its budget of training, and how it is scored."""


@dataclass(frozen=True)
class Ablation:
    """What is compared with what."""

    seeds: tuple[int, ...]
    control: str
    arms: dict[str, RunConfig]
    """By name; each runs with every seed."""


@dataclass(frozen=True)
class ArmScores:
    """What one arm came to, of one seed."""

    arm: str
    seed: int
    records: list[dict[str, Any]]
    counts: dict[str, dict[str, tuple[int, int]]]
    """Of the last iteration, by set and puzzle: candidates and accepted ones."""


@dataclass(frozen=True)
class Contrast:
    """An arm minus the control on one set: of each seed, and of all seeds' candidates together."""

    arm: str
    scored: str
    by_seed: dict[int, list[Difference]]
    pooled: list[Difference]


def load_ablation(path: Path) -> Ablation:
    """Read `run`, `seeds`, `control`, `settings` (of all arms) and `arms` from a TOML file; settings as for `--set`.

    Raises:
        ConfigError: Unreadable, or arms that are not comparable.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected a TOML file, {error}") from None
    expected = {"run": str, "seeds": list, "control": str, "settings": list, "arms": dict}
    for key in (*values, *expected):
        if key not in expected or not isinstance(values.get(key), expected[key]):
            raise ConfigError(f"{path}: {key}: expected {', '.join(expected)}; arms are lists of settings")
    base = embedded_file("run.toml") if values["run"] == "embedded" else path.parent / values["run"]
    arms = {name: load(base, [*values["settings"], *changes]) for name, changes in values["arms"].items()}
    if values["control"] not in arms:
        raise ConfigError(f"{path}: control: expected one of the arms, got {values['control']!r}")
    _check_comparable(path, arms, values["control"])
    return Ablation(tuple(values["seeds"]), values["control"], arms)


def _check_comparable(path: Path, arms: Mapping[str, RunConfig], control: str) -> None:
    own = flatten(arms[control])
    for name, config in arms.items():
        for key, value in flatten(config).items():
            if key.startswith(SAME) and value != own[key]:
                raise ConfigError(
                    f"{path}: {name}: {key} is {value!r}, and {own[key]!r} for {control}: no equal budget"
                )


def ablate(
    ablation: Ablation,
    folder: Path,
    backend: Backend,
    pool_of: Callable[[RunConfig], AbstractContextManager[tuple[Pool, dict[str, Any]]]],
    progress: Callable[[str], Progress],
) -> list[ArmScores]:
    """Run, or go on with, every arm with every seed; the first seed's arms first."""
    from dataclasses import replace

    done = []
    for seed in ablation.seeds:
        for name, settings in ablation.arms.items():
            rundir, config = RunDir(folder / f"{name.replace(' ', '-')}-{seed}"), replace(settings, seed=seed)
            with pool_of(config) as (pool, protections):
                records = run(rundir, config, backend, pool, protections, progress(f"{name}, seed {seed}"))
            done.append(
                ArmScores(name, seed, records, {scored: _counts(rundir, records, scored) for scored in SCORED_SETS})
            )
    return done


def _counts(rundir: RunDir, records: Sequence[Mapping[str, Any]], scored: str) -> dict[str, tuple[int, int]]:
    lines = read_lines(rundir.samples(records[-1]["iteration"], scored))
    results = [result for line in lines for result in line["results"]]
    return {r["puzzle"]: (len(r["verdicts"]), r["verdicts"].count(Verdict.ACCEPTED)) for r in results}


def contrasts(ablation: Ablation, done: Sequence[ArmScores]) -> list[Contrast]:
    """Every arm beside the control on both sets, by seed and pooled."""
    ks = ablation.arms[ablation.control].evaluate.k
    by = {(item.arm, item.seed): item.counts for item in done}
    found = []
    for scored in SCORED_SETS:
        for arm in ablation.arms:
            if arm != ablation.control:
                pairs = {s: (by[ablation.control, s][scored], by[arm, s][scored]) for s in ablation.seeds}
                by_seed = {seed: _differences(ks, [pair]) for seed, pair in pairs.items()}
                found.append(Contrast(arm, scored, by_seed, _differences(ks, list(pairs.values()))))
    return found


def _differences(
    ks: Sequence[int], pairs: Sequence[tuple[Mapping[str, tuple[int, int]], Mapping[str, tuple[int, int]]]]
) -> list[Difference]:
    """Of the seeds' candidates together, puzzle by puzzle."""
    puzzles = list(pairs[0][0])
    (n_a, c_a), (n_b, c_b) = (
        np.sum([[counts[side][puzzle] for puzzle in puzzles] for counts in pairs], axis=0).T for side in (0, 1)
    )
    return [difference(k, n_a, c_a, n_b, c_b) for k in ks]


def to_json(ablation: Ablation, done: Sequence[ArmScores]) -> dict[str, Any]:
    """What is kept of an ablation: the settings, each run's records, each puzzle's counts, and the contrasts."""
    return {
        "control": ablation.control,
        "seeds": list(ablation.seeds),
        "settings": {name: flatten(config) for name, config in ablation.arms.items()},
        "runs": [vars(item) for item in done],
        "contrasts": json.loads(json.dumps([vars(item) for item in contrasts(ablation, done)], default=vars)),
    }
