"""Ablations: arms at equal budget that differ in some settings, and the difference that these make.

Every arm starts from the same base, takes the same optimiser steps of the same size, and is scored in the same way.
Each arm is a run of its own below one folder, so an interrupted ablation resumes like a run. The control may have fewer
iterations, because an arm that learns nothing of its own would only train the same model again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from puzzles.archive.formats import read_errata
from puzzles.archive.store import Archive
from puzzles.foreign import read_bytes, read_json, read_toml, shortened, shown
from puzzles.puzzle import InputError
from sandbox.pool import Pool
from selfplay.config import BudgetConfig, ConfigError, RunConfig, flatten
from selfplay.iteration.beginning import check_settings
from selfplay.iteration.guarding import examine_archive, guard_of, guarded_sets
from selfplay.iteration.loop import run
from selfplay.iteration.training_set import NO_PUZZLES
from selfplay.run import consent
from selfplay.run.progress import Progress
from selfplay.run.rundir import SCORED_SETS, RunDir, write_atomically
from selfplay.scoring.compare import Difference, difference
from selfplay.scoring.evaluate import counts_of, read_chunks
from selfplay.scoring.metrics import pass_at_k
from selfplay.settings import embedded_file, load
from selfplay.training.backend import Backend

SAME = ("model.", "endpoint.", "prompt.", "sandbox.", "evaluate.", "data.dev", "data.heldout", "finetune.epochs",
        "finetune.first_steps", "finetune.max_steps", "finetune.batch_tokens", "finetune.start", "batch_rows",
        "chunk_texts", "heldout_every", "executor", "ray.")  # fmt: skip
"""Beginnings of the settings that arms must share: the base, the training budget and the scoring."""
ARM_NAME = re.compile(r"\w[\w ,.+-]*")
"""Names of arms. They also name folders."""
OUTCOME = "outcome.json"
"""File in the folder of a finished arm."""


@dataclass(frozen=True)
class Ablation:
    """The arms of an ablation, and which of them is the control."""

    seeds: tuple[int, ...]
    control: str
    arms: dict[str, RunConfig]
    """The settings of each arm. Each arm runs with every seed."""

    @property
    def ks(self) -> tuple[int, ...]:
        """The k of pass@k, the same for all arms."""
        return self.arms[self.control].evaluate.k

    @property
    def shown_ks(self) -> list[int]:
        """The first k, which decides, and the largest."""
        return list(dict.fromkeys((self.ks[0], max(self.ks))))


@dataclass(frozen=True)
class ArmScores:
    """The results of one arm with one seed."""

    arm: str
    seed: int
    records: list[dict[str, Any]]
    counts: dict[str, dict[str, tuple[int, int]]]
    """Counts of the last iteration for each set and puzzle: candidates and accepted ones."""
    examined: int
    """Number of archived puzzles that were compared with dev and held-out at every level after the run."""
    contaminated: dict[str, str]
    """The puzzles among these that are too near to a guarded one: by id, what was found."""


@dataclass(frozen=True)
class Contrast:
    """An arm minus the control on one set: for each seed, and for each puzzle's mean over the seeds."""

    arm: str
    scored: str
    by_seed: dict[int, list[Difference]]
    pooled: list[Difference]


def load_ablation(path: Path) -> Ablation:
    """Read `run`, `seeds`, `control`, `settings` (for all arms) and `arms` from a TOML file.

    Settings have the form of `--set`.

    Raises:
        InputError: The file is unreadable, or the arms are not comparable.
    """
    values = read_toml(path)
    expected = {
        "run": ("`embedded`, or the name of a run's TOML file in the same folder", isinstance(values.get("run"), str)),
        "seeds": ("different integers from 0 on", _are_seeds(values.get("seeds"))),
        "control": ("the name of an arm", isinstance(values.get("control"), str)),
        "settings": ("a list of key=value for all arms", _are_settings(values.get("settings"))),
        "arms": ("at least two arms, each a list of key=value", _are_arms(values.get("arms"))),
    }
    for key in (*values, *expected):
        if key not in expected:
            raise ConfigError(f"{path}: unknown key {shown(key)}; known keys: {', '.join(expected)}")
        meaning, is_right = expected[key]
        if not is_right:
            raise ConfigError(f"{path}: {key}: expected {meaning}, got {shown(values.get(key, 'nothing'))}")
    arms, control = values["arms"], values["control"]
    if control not in arms:
        raise ConfigError(f"{path}: control: expected one of {shortened(', '.join(arms))}, got {shown(control)}")
    base = embedded_file("run.toml") if values["run"] == "embedded" else path.parent / values["run"]
    configs = {name: _arm(path, name, base, [*values["settings"], *changes]) for name, changes in arms.items()}
    folders = Counter(map(_folder_name, arms))
    if shared := [name for name in arms if folders[_folder_name(name)] > 1]:
        raise ConfigError(f"{path}: arms: expected names that make different folders, got {' and '.join(shared)}")
    _check_comparable(path, configs, control)
    return Ablation(tuple(values["seeds"]), control, configs)


def _are_seeds(value: Any) -> bool:
    of_integers = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
    return of_integers and 0 < len(value) == len({*value})


def _are_settings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(setting, str) for setting in value)


def _are_arms(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 1 and all(map(_are_settings, value.values()))


def _arm(path: Path, name: str, base: Path, settings: Sequence[str]) -> RunConfig:
    if not ARM_NAME.fullmatch(name):
        raise ConfigError(f"{path}: arms: expected letters, digits, blanks and ,.+- in a name, got {shown(name)}")
    try:
        config = consent.load(base, settings)
    except InputError as error:
        raise ConfigError(f"{path}: {name}: {str(error).removeprefix('--set: ')}") from None
    if any(setting.partition("=")[0].strip() == "seed" for setting in settings):
        raise ConfigError(f"{path}: {name}: seed: expected no seed here: use `seeds`")
    if config.collapse.action == "stop":
        raise ConfigError(f"{path}: {name}: collapse.action: expected no stop: a shortened arm cannot be compared")
    if config.budget != BudgetConfig():
        raise ConfigError(f"{path}: {name}: budget: expected none: a shortened arm cannot be compared")
    return config


def _check_comparable(path: Path, arms: Mapping[str, RunConfig], control: str) -> None:
    own = flatten(arms[control])
    # With `previous` the steps of all iterations add up.
    same = SAME if own["finetune.start"] == "base" else (*SAME, "iterations")
    for name, config in arms.items():
        for key, value in flatten(config).items():
            if key.startswith(same) and value != own[key]:
                raise ConfigError(
                    f"{path}: {name}: {key}: expected {own[key]!r}, as in {control}, got {value!r}: arms must share it"
                )


def _folder_name(arm: str) -> str:
    return arm.replace(" ", "-")


def ablate(
    ablation: Ablation,
    folder: Path,
    backend: Backend,
    pool_of: Callable[[RunConfig], AbstractContextManager[tuple[Pool, dict[str, Any]]]],
    progress: Callable[[str], Progress],
) -> list[ArmScores]:
    """Run or resume every arm with every seed, the first seed's arms first. Finished arms are only read.

    Raises:
        InputError: The folder holds a run with other settings. This is checked before anything is run.
    """
    planned = [
        (name, RunDir(folder / f"{_folder_name(name)}-{seed}"), replace(settings, seed=seed))
        for seed in ablation.seeds
        for name, settings in ablation.arms.items()
    ]
    for _, rundir, config in planned:
        check_settings(rundir, config)
    done = []
    for name, rundir, config in planned:
        alike = [other for _, other, of in planned if of.seed == config.seed and _shots_of(of) == _shots_of(config)]
        done.append(_scores(name, rundir, alike, config, backend, pool_of, progress(f"{name}, seed {config.seed}")))
    return done


def _shots_of(config: RunConfig) -> tuple[str, int]:
    """The settings that decide the shots and in which arms may differ. Rules count only without training puzzles."""
    return config.data.train, config.data.rules if config.data.train == NO_PUZZLES else 0


def arms_beside(rundir: RunDir) -> dict[str, RunDir]:
    """The other finished arms of a run's ablation with the same seed, by folder name.

    There are none for a run that belongs to no ablation.
    """
    if not (rundir.path / OUTCOME).is_file():
        return {}
    seed, folder = load(rundir.config).seed, rundir.path.absolute()
    others = [RunDir(outcome.parent) for outcome in sorted(folder.parent.glob(f"*/{OUTCOME}"))]
    return {other.path.name: other for other in others if other.path != folder and load(other.config).seed == seed}


def _take_base_scores(rundir: RunDir, siblings: Sequence[RunDir]) -> None:
    """Copy the scores of the common base from another arm with the same seed and shots, instead of sampling again."""
    for name in SCORED_SETS:
        samples = rundir.samples(0, name)
        scored = [sibling.samples(0, name) for sibling in siblings if sibling.read_records()]
        kept = [path for path in scored if path.exists()]
        if kept and not samples.exists():
            write_atomically(samples, read_bytes(kept[0]).decode("utf-8"))


def _scores(
    name: str,
    rundir: RunDir,
    siblings: Sequence[RunDir],
    config: RunConfig,
    backend: Backend,
    pool_of: Callable[[RunConfig], AbstractContextManager[tuple[Pool, dict[str, Any]]]],
    progress: Progress,
) -> ArmScores:
    file = rundir.path / OUTCOME
    outcome = read_json(file, {"type": "object"}) if file.exists() else {}
    if outcome.get("iteration") == config.iterations:
        for record in rundir.read_records():
            progress.row(record)
    else:
        if not config.finetune.first_steps:
            _take_base_scores(rundir, siblings)
        with pool_of(config) as (pool, protections):
            run(rundir, config, backend, pool, protections, progress)
            counts = {scored: _counts(rundir, config.iterations, scored) for scored in SCORED_SETS}
            examined = _examined(rundir, config, pool, progress)
        outcome = {"iteration": config.iterations, "counts": counts, **examined}
        write_atomically(file, json.dumps(outcome) + "\n")
    records, errata = rundir.read_records()[: config.iterations + 1], read_errata()
    counts = {
        scored: {puzzle: tuple(count) for puzzle, count in of_set.items() if puzzle not in errata}
        for scored, of_set in outcome["counts"].items()
    }
    return ArmScores(name, config.seed, records, counts, outcome["examined"], outcome["contaminated"])


def _examined(rundir: RunDir, config: RunConfig, pool: Pool, progress: Progress) -> dict[str, Any]:
    """Compare all puzzles of the archive with dev and held-out, whatever the run's own guard has found."""
    guard = guard_of(pool, guarded_sets(pool, config))
    with Archive(rundir.archive) as archive:
        examined = len(archive.puzzle_ids())
        hits = examine_archive(archive, pool, guard, progress.counter(examined, "contamination", "puzzle"))
    return {"examined": examined, "contaminated": {identifier: str(hit) for identifier, hit in hits.items()}}


def _counts(rundir: RunDir, iteration: int, scored: str) -> dict[str, tuple[int, int]]:
    samples = rundir.samples(iteration, scored)
    if not samples.exists():
        raise InputError(
            f"{samples}: iteration {iteration} was not scored on this set (heldout_every): "
            "end with an iteration that was scored, or run more iterations"
        )
    return counts_of(read_chunks(samples))


def contrasts(ablation: Ablation, done: Sequence[ArmScores]) -> list[Contrast]:
    """Compare every arm with the control on both sets, for each seed and pooled."""
    by = {(item.arm, item.seed): item.counts for item in done}
    found = []
    for scored in SCORED_SETS:
        for arm in ablation.arms:
            if arm != ablation.control:
                pairs = {s: (by[ablation.control, s][scored], by[arm, s][scored]) for s in ablation.seeds}
                by_seed = {seed: _differences(ablation.ks, [pair]) for seed, pair in pairs.items()}
                found.append(Contrast(arm, scored, by_seed, _differences(ablation.ks, list(pairs.values()))))
    return found


def _differences(
    ks: Sequence[int], pairs: Sequence[tuple[Mapping[str, tuple[int, int]], Mapping[str, tuple[int, int]]]]
) -> list[Difference]:
    """Differences of each puzzle's mean over the seeds. Candidates of different models are never pooled."""
    puzzles = list(pairs[0][0])
    control, arm = (np.array([[pair[side][puzzle] for puzzle in puzzles] for pair in pairs]) for side in (0, 1))

    def mean(counts_S_P_2: Any, k: int) -> Any:
        return np.mean([pass_at_k(n_P, c_P, k) for n_P, c_P in counts_S_P_2.transpose(0, 2, 1)], axis=0)

    return [difference(k, mean(control, k), mean(arm, k)) for k in ks]


def to_json(ablation: Ablation, done: Sequence[ArmScores]) -> dict[str, Any]:
    """The ablation as JSON: settings, each run's records, each puzzle's counts, contamination and contrasts."""
    return {
        "control": ablation.control,
        "seeds": list(ablation.seeds),
        "settings": {name: flatten(config) for name, config in ablation.arms.items()},
        "runs": [vars(item) for item in done],
        "contrasts": [asdict(contrast) for contrast in contrasts(ablation, done)],
    }
