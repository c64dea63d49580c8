"""The loop: propose, solve, verify, archive, fine-tune, score; one iteration, and many, resumable.

Every stage asks the disk what is already there and does the rest, so a run that was killed goes
on where it stopped, and what it writes does not depend on when that was. A stage's work is cut
into chunks, planned before they are sampled; a chunk's verdicts are written in one transaction.

The model comes in through `Backend`: nothing here imports torch.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from puzzles.archive.formats import EMBEDDED_SETS, import_puzzles, read_puzzles
from puzzles.archive.store import Archive, Chunk
from puzzles.guard import Guard, Hit
from puzzles.parse import ParseFailure, Text, parse_puzzles
from puzzles.puzzle import InputError, RawPuzzle, content_hash
from puzzles.rules import families
from sandbox.pool import Pool, available_cores
from selfplay.config import ROUNDING, FinetuneConfig, ModelConfig, RunConfig, differences, flatten, load, to_toml
from selfplay.iteration import champion, collapse, goals, propose, ranker, solve, vary
from selfplay.iteration.teach import teaching
from selfplay.run import resources, sessions
from selfplay.run.heartbeat import Heartbeat
from selfplay.run.progress import Progress
from selfplay.run.resources import DiskFull, TrainingNeeds
from selfplay.run.rundir import (
    SCORED_SETS,
    RunDir,
    append_line,
    folder_atomically,
    is_archive,
    read_lines,
    write_atomically,
)
from selfplay.run.shard import FINISHED, Part, PartDone, finish, take_over
from selfplay.sampling import ahead
from selfplay.sampling.chunks import ChunkSamples, Sampling
from selfplay.sampling.cost import StageCost, price, record_costs, record_seconds, record_tokens, total, without_times
from selfplay.sampling.cost import counts as cost_counts
from selfplay.sampling.cost import times as cost_times
from selfplay.sampling.prompts import propose_prompt
from selfplay.sampling.sampler import Sampler
from selfplay.scoring.evaluate import NamedPuzzle, SetScores, chunk_cost, evaluate, read_chunks
from selfplay.training.select import Lesson, Pair, solver_shots

logger = logging.getLogger(__name__)

NO_PUZZLES = "none"
"""As `data.train`: a run begins with rules alone."""
GUARD_SOLUTIONS = 4
"""Reference solutions of a guarded puzzle whose answers are asked for."""
GUARD_BATCH = 1000
"""Puzzles of an archive that are examined together."""


class BudgetSpent(Exception):
    """The run ends here as its settings say; everything that was finished is kept."""


class Collapsed(Exception):
    """The run ends here, for its puzzles are not worth training on any more; everything that was finished is kept."""


class Backend(Protocol):
    """A model and its trainer."""

    def load(self, checkpoint: str | Path, config: ModelConfig) -> Sampler:
        """The sampler of a checkpoint."""

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """Of a training that begins with what this sampler has."""

    def finetune(
        self,
        start: str | Path,
        examples: Sequence[Lesson],
        config: FinetuneConfig,
        model_config: ModelConfig,
        seed: Sequence[int],
        folder: Path,
        notes: dict[str, Any],
        progress: Callable[[int, float], object],
        plan: Callable[[int], object],
    ) -> Any:
        """Train from a checkpoint and save a new one; returns statistics (a dataclass)."""


def guarded_sets(pool: Pool, config: RunConfig) -> dict[str, list[NamedPuzzle]]:
    """The dev and held-out puzzles by set.

    Raises:
        InputError: A file holds a text that is no puzzle; such a set cannot be scored.
    """
    sets = {}
    for name, path in (("dev", config.data.dev), ("heldout", config.data.heldout)):
        sets[name] = scored_puzzles(pool, path)
    return sets


def scored_puzzles(pool: Pool, path: str) -> list[NamedPuzzle]:
    """A puzzle file (or an archive's puzzles) as a set to be scored.

    Raises:
        InputError: A text in it is no puzzle.
    """
    raws = read_any(path)
    parsed = parse_puzzles(pool, [Text(raw.puzzle, raw.form) for raw in raws])
    named = []
    for raw, puzzle in zip(raws, parsed, strict=True):
        if isinstance(puzzle, ParseFailure):
            raise InputError(f"{path}: {raw.name}: this is no puzzle: {puzzle}")
        named.append(NamedPuzzle(raw.name, puzzle, raw.solutions, raw.skills, raw.difficulty))
    if not named:
        raise InputError(f"{path}: expected puzzles, there are none")
    return named


def read_any(path: str) -> list[Any]:
    """The raw puzzles of an embedded set, a puzzle file, an archive file or a run's archive."""
    if file := _archive_file(path):
        with Archive(file) as archive:
            return archive.raw_puzzles()
    return list(read_puzzles(path))


def content_hash_of(path: str) -> str | None:
    """Sixteen digits over the file that `read_any` reads; of an archive, whose file changes, over its puzzles' ids.

    None of a file that is not there: once a training set is imported, it is not needed any more.
    """
    if file := _archive_file(path):
        with Archive(file) as archive:
            return content_hash("\n".join(archive.puzzle_ids()))
    embedded = Path(str(files("puzzles") / f"{path}.jsonl"))
    file = embedded if path in EMBEDDED_SETS else Path(path)
    return sessions.file_hash(file) if file.is_file() else None


def _archive_file(path: str) -> Path | None:
    place = Path(path)
    if path in EMBEDDED_SETS:
        return None
    if (place / "archive.sqlite").is_file():
        return place / "archive.sqlite"
    return place if is_archive(place) else None


def guard_of(pool: Pool, sets: dict[str, list[NamedPuzzle]]) -> Guard:
    """A guard around sets, its puzzles named as refusals say it; the level of behaviour needs their solutions."""
    named = [(f"{name}/{item.name}", item) for name, items in sets.items() for item in items]
    guard = Guard.of((name, item.puzzle) for name, item in named)
    guard.learn_behaviour(pool, {item.puzzle.id: item.solutions[:GUARD_SOLUTIONS] for _, item in named})
    logger.info("guarded: %d puzzles, %d of them by behaviour too", len(guard.puzzles), guard.behaviours)
    return guard


def examine_archive(
    archive: Archive, pool: Pool, guard: Guard, progress: Callable[[int], object] = lambda done: None
) -> dict[str, Hit]:
    """What a guard finds among all puzzles of an archive, by id; they are read again and compared at every level."""
    hits: dict[str, Hit] = {}
    identifiers = archive.puzzle_ids()
    for start in range(0, len(identifiers), GUARD_BATCH):
        batch = identifiers[start : start + GUARD_BATCH]
        hits |= guard.examine(pool, [archive.puzzle(identifier) for identifier in batch])
        progress(len(batch))
    return hits


def _set_contaminated_aside(archive: Archive, pool: Pool, progress: Progress) -> None:
    """Examine an archive that was not kept by its present guard, once; and know what was found then."""
    if not archive.is_guarded:
        count = progress.counter(len(archive.puzzle_ids()), "contamination", "puzzle")
        hits = examine_archive(archive, pool, archive.guard, count)
        with archive.transaction():
            archive.add_contamination(hits)
        for identifier, hit in hits.items():
            logger.warning("puzzle %s is contaminated and set aside: %s", identifier, hit)
    # The guard of a run that goes on knows what it knew before.
    archive.guard.remember(archive.contamination())


def protocol_of(config: RunConfig, sampler: Sampler) -> str:
    """The configured protocol, or what the checkpoint was trained with, or few-shot."""
    if config.prompt.protocol != "auto":
        return config.prompt.protocol
    return str(sampler.notes.get("protocol", "few-shot"))


def check_settings(rundir: RunDir, config: RunConfig) -> None:
    """Compare the settings with what is there.

    Raises:
        InputError: The folder holds a run with other settings; the differences are named.
    """
    if rundir.path.exists() and not rundir.path.is_dir():
        raise InputError(f"{rundir.path}: expected a run's folder or nothing: give another --name")
    if rundir.config.exists():
        stored = load(rundir.config)
        if stored.collapse.action == "stop":  # what had collapsed was not learned: any other answer goes on from there
            stored = replace(stored, collapse=replace(stored.collapse, action=config.collapse.action))
        if different := differences(as_begun(rundir, stored), as_begun(rundir, config)):
            raise InputError(
                f"{rundir.path}: this run has other settings: {'; '.join(different)}; "
                "give another --name, or the same settings"
            )


def as_begun(rundir: RunDir, config: RunConfig) -> RunConfig:
    """With what settings leave to the machine, threads and rows side by side, as the run has had it from its beginning.

    Both change rounding, and so what is sampled. A run keeps them in its settings, and an older one only with what it
    has scored; a run that has not begun has neither.
    """
    stored = load(rundir.config) if rundir.config.exists() else config
    threads, rows = stored.model.threads, stored.batch_rows
    for line in [] if threads and rows else read_lines(rundir.samples(0, "dev"))[:1]:
        threads = threads or line.get("sampler", {}).get("threads", 0)
        rows = rows or line["identity"]["settings"]["batch_rows"]
    model = replace(config.model, threads=config.model.threads or threads)
    return replace(config, model=model, batch_rows=config.batch_rows or rows)


def branch(parent: RunDir, iteration: int | None, rundir: RunDir, origin: Mapping[str, Any] | None = None) -> None:
    """Begin a new run with what another one had when an iteration ended (None: its last); `origin` says more of why.

    One that was begun so is left as it is.

    Raises:
        InputError: There is no such run or iteration, its checkpoint is gone, or the new run exists and is another.
    """
    name = parent.path.absolute().name
    if rundir.is_begun:
        begun = sessions.origin(rundir)
        number = begun.get("branched_from", {}).get("iteration") if iteration is None else iteration
        if begun != {"branched_from": {"run": name, "iteration": number}, **(origin or {})}:
            raise InputError(
                f"{rundir.path}: it exists already, and was not begun with --from {name}: give another --name, "
                "or go on with it without --from"
            )
        return
    records = parent.read_records()
    if not parent.config.is_file() or not records:
        raise InputError(f"{parent.path}: expected a run with at least one record")
    last = records[-1]["iteration"] if iteration is None else iteration
    if last not in range(len(records)):
        raise InputError(f"{parent.path}: expected an iteration from 0 to {len(records) - 1}, got {last}")
    needed = sorted({last, champion.reigning_after(records[last])} - {0})
    for number in needed:  # without an objective, none was made
        made = records[number]["checkpoint"] != records[0]["checkpoint"]
        if made and not (folder := parent.checkpoint(number)).is_dir():
            raise InputError(f"{folder}: this checkpoint was not kept")
    rundir.path.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomically(rundir.path) as part:
        new = RunDir(part)
        sessions.note_origin(new, {"branched_from": {"run": name, "iteration": last}, **(origin or {})})
        with Archive(parent.archive) as archive:
            archive.copy_until(new.archive, last)
        for number in needed:
            if parent.checkpoint(number).is_dir():
                shutil.copytree(parent.checkpoint(number), new.checkpoint(number))
        for record in records[: last + 1]:
            append_line(new.records, record)
        for file in sorted((parent.path / "scores").glob("*.jsonl")):
            if int(file.name.split("-")[1]) <= last:
                new.samples(0, "dev").parent.mkdir(exist_ok=True)
                shutil.copy(file, new.samples(0, "dev").parent)


def run(
    rundir: RunDir,
    config: RunConfig,
    backend: Backend,
    pool: Pool,
    protections: dict[str, Any],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Run or resume until `config.iterations` are recorded.

    Returns:
        The records, one per iteration; number 0 is the untrained model's scores.

    Raises:
        InputError: Settings or data are not as expected.
        BudgetSpent: `config.budget` does not allow another step.
        Collapsed: Its puzzles have, and `collapse.action` is to stop.
    """
    with rundir.lock() as owner, Heartbeat(rundir.status, owner) as heartbeat:
        progress = heartbeat.watching(progress or Progress())
        check_settings(rundir, config)
        if config.gate:
            champion.check_scored_alike(rundir, config)
        sets = guarded_sets(pool, config)
        config = as_begun(rundir, config)
        config = replace(config, model=replace(config.model, threads=config.model.threads or available_cores()))
        base = backend.load(config.model.path, config.model)
        config = replace(config, batch_rows=config.batch_rows or _fewest_rows(config, base))
        if not rundir.config.exists():
            _training_texts(config)
        base.fits(propose_prompt(protocol_of(config, base)), 1)
        propose.check_strategy(config, protocol_of(config, base))
        needs = backend.needs(base, config.finetune) if config.finetune.trains else TrainingNeeds(0, 0, 0, "")
        resources.check(rundir.path, config, needs, len(rundir.read_records()))
        _begin_session(rundir, config, base, protections, progress)
        # All that the settings name is there: a mistyped name has not become this run's settings.
        write_atomically(rundir.config, to_toml(config))
        guard = guard_of(pool, sets)
        with _told_what_is_missing(rundir, config, needs), Archive(rundir.archive, guard, create=True) as archive:
            _set_contaminated_aside(archive, pool, progress)
            import_training(archive, pool, protections, config, progress)
            run_ = _Run(rundir, config, backend, pool, protections, archive, sets, progress, base)
            del base  # it is the run's, to be given up when another is loaded
            for record in rundir.read_records():
                run_.note(record)
                progress.row(record)
            run_.retire_checkpoints()  # a crash may have come between a record and this
            for iteration in range(len(run_.done), config.iterations + 1):
                record = run_.iterate(iteration)
                archive.index()
                archive.sync()
                append_line(rundir.records, record)
                run_.note(record)
                logger.info("iteration %d: %s", iteration, record)
                progress.row(record)
                for line in collapse.told(record["collapse"]):
                    progress.say(f"iteration {iteration}: {line}")
                run_.retire_checkpoints()
                resources.give_memory_back()
    return rundir.read_records()


def run_part(
    rundir: RunDir,
    own: RunDir,
    part: Part,
    config: RunConfig,
    backend: Backend,
    pool: Pool,
    protections: dict[str, Any],
    progress: Progress | None = None,
) -> str:
    """Do one part of the stage that a run is at, in a folder of its own; or go on with it.

    The run itself is only read: its archive, records and checkpoints.

    Returns:
        What was done, in words.

    Raises:
        InputError: The run has not begun, is being written, or has other settings; or the folder holds another run.
    """
    check_settings(rundir, config)
    if own.config.exists():
        raise InputError(f"{own.path}: it is a run, and the place of a part of {rundir.path}: give another --name")
    if not (records := rundir.read_records()):
        raise InputError(
            f"{rundir.path}: expected a run with at least one record, for parts go on from it: "
            "begin it without --shard and with --set iterations=0"
        )
    iteration = len(records)
    if iteration > config.iterations:
        return f"{rundir.path} has all of its {config.iterations} iterations"
    with own.lock() as owner, Heartbeat(own.status, owner) as heartbeat:
        progress = heartbeat.watching(progress or Progress())
        config = as_begun(rundir, config)
        sets = guarded_sets(pool, config)
        base = backend.load(config.model.path, config.model)
        take_over(rundir.archive, own.archive, records[-1])
        with Archive(own.archive, guard_of(pool, sets)) as archive:
            if said := archive.mark(FINISHED):
                return said
            _set_contaminated_aside(archive, pool, progress)
            run_ = _Run(rundir, config, backend, pool, protections, archive, sets, progress, base, part)
            for record in records:
                run_.note(record)
            said = f"iteration {iteration} is sampled and judged: without --shard the same command trains and scores"
            try:
                run_.sample(iteration)
            except PartDone as done:
                said = str(done)
            finish(archive, said)
    return said


@contextmanager
def _told_what_is_missing(rundir: RunDir, config: RunConfig, needs: TrainingNeeds) -> Iterator[None]:
    """Say how much a run that ends for want of space would still need."""
    try:
        yield
    except Exception as error:
        if resources.is_full(error, rundir.path):
            missing = resources.what_is_missing(rundir.path, config, needs, len(rundir.read_records()))
            raise DiskFull(missing) from error
        raise


def _fewest_rows(config: RunConfig, base: Sampler) -> int:
    """That a stage's longest completions leave room for."""
    return min(base.batch_rows(stage.max_tokens) for stage in (config.propose, config.solve, config.evaluate))


def _begin_session(
    rundir: RunDir, config: RunConfig, base: Sampler, protections: dict[str, Any], progress: Progress
) -> None:
    """Record what it goes on with, and say what is not as it was; what would make it another run is refused."""
    paths = {"train": config.data.train, "dev": config.data.dev, "heldout": config.data.heldout}
    hashes = {name: content_hash_of(path) for name, path in paths.items() if path != NO_PUZZLES}
    content = {
        "sets": {name: found for name, found in hashes.items() if found},
        "base": base.checkpoint,
        "sampler": {key: value for key, value in base.description.items() if key != "versions"},
        "tier": protections.get("tier"),
        "settings": {key: value for key, value in flatten(config).items() if key in ROUNDING},
    }
    different = sessions.begin_session(rundir, config, content)
    for line in different:
        logger.warning("not as it was when this run began: %s", line)
    if different:
        progress.say(f"{rundir.path}: not as it was when it began: {'; '.join(different)}")


def _training_texts(config: RunConfig) -> list[Any]:
    if config.data.train == NO_PUZZLES:
        if not config.data.rules:
            raise InputError(f"data.train: {NO_PUZZLES!r} leaves nothing to begin with: set data.rules above 0")
        return []
    raws = read_any(config.data.train)
    if not raws:
        raise InputError(f"{config.data.train}: expected training puzzles, there are none")
    return raws


def import_training(
    archive: Archive, pool: Pool, protections: dict[str, Any], config: RunConfig, progress: Progress
) -> None:
    """Verify and add the training puzzles; a hand-written set must also be admitted. Repeating it adds nothing."""
    wanted = f"{config.data.train}, {config.data.rules} by rule"
    if archive.mark("training_imported") == wanted:
        return
    raws = _training_texts(config)
    own = config.data.train in EMBEDDED_SETS
    count = progress.counter(len(raws), "training puzzles", "puzzle")
    report = import_puzzles(archive, pool, protections, raws, "human" if own else "import", own, count)
    logger.info(
        "training puzzles of %s: %s; solutions: %s", config.data.train, dict(report.puzzles), dict(report.solutions)
    )
    if raws and not archive.puzzle_ids():
        raise InputError(f"{config.data.train}: no puzzle of it was accepted: {dict(report.puzzles)}")
    _import_rules(archive, pool, protections, config, progress)
    archive.set_mark("training_imported", wanted)


def _import_rules(
    archive: Archive, pool: Pool, protections: dict[str, Any], config: RunConfig, progress: Progress
) -> None:
    """Pairs by rule, verified and guarded as all others."""
    drawn = enumerate(
        families.generate(int(np.random.default_rng([config.seed, 0, 7]).integers(2**62)), config.data.rules)
    )
    raws = [RawPuzzle(f"{pair.family}_{number}", pair.puzzle, (pair.solution,)) for number, pair in drawn]
    if raws:
        report = import_puzzles(
            archive, pool, protections, raws, "rule", True, progress.counter(len(raws), "rules", "puzzle")
        )
        logger.info("by rule: %s; solutions: %s", dict(report.puzzles), dict(report.solutions))


def few_shots(archive: Archive, config: RunConfig, protocol: str) -> list[Pair]:
    """The pairs that stand before every puzzle of a run; none unless the protocol is few-shot.

    Of rules only where there is nothing else: arms with and without them are then asked alike.
    """
    if protocol != "few-shot":
        return []
    pairs, by_rule = archive.choose(1, before_first_iteration=True), set(archive.puzzle_ids("p.origin = 'rule'"))
    return solver_shots([pair for pair in pairs if pair[0].id not in by_rule] or pairs, config.prompt.shots)


def config_beside(path: Path) -> RunConfig | None:
    """The settings of the run that an archive belongs to; None for one on its own."""
    rundir = RunDir(path.parent)
    return load(rundir.config) if rundir.config.is_file() and path.name == rundir.archive.name else None


def known_shots(archive: Archive) -> list[Pair] | None:
    """The few-shot pairs of an archive's run; None if it had none, or the archive stands on its own."""
    config = config_beside(archive.path)
    protocols = archive.counts("SELECT json_extract(settings, '$.protocol'), 1 FROM chunks GROUP BY 1")
    return few_shots(archive, config, "few-shot") if config and "few-shot" in protocols else None


LACKING = {
    "filtered": "no right text was paid above the mean of its role",
    "grpo": "no text was paid better or worse than its group",
    "dpo": "no puzzle has a right candidate and one that failed",
    "spin": "no verified pair has a text of the model's to be set against",
}
"""By objectives of texts: what there is not, where there is nothing to train on."""


def nothing_to_train(protocol: str, objective: str = "sft") -> str:
    """What is wrong then, and what may help."""
    lacking = LACKING.get(objective, f"no verified pair follows the {protocol} prompt")
    references = "" if objective in ("filtered", "grpo", "dpo") else ", or set data.references = true"
    return (
        f"there is nothing to train on: {lacking}; raise propose.proposals or solve.candidates_per_puzzle{references}"
    )


def training_cost(statistics: dict[str, Any]) -> StageCost:
    """Of a training, from the statistics that are kept beside its weights."""
    return StageCost(
        texts=statistics.get("sequences", 0), tokens=statistics.get("tokens", 0),
        model_seconds=statistics.get("seconds", 0.0), model_cpu_seconds=statistics.get("cpu_seconds", 0.0),
    )  # fmt: skip


def stage_cost(sums: dict[str, Any]) -> StageCost:
    """As the archive sums a stage's chunks."""
    return StageCost(
        sums["texts"], sums["tokens"], sums["prompt_tokens"], sums["sampling_seconds"], sums["sampling_cpu_seconds"],
        sums["judging_seconds"], sums["judging_cpu_seconds"],
    )  # fmt: skip


@dataclass(frozen=True)
class _Done:
    """A finished iteration."""

    dev: float
    """pass@k with the first k; -1 if it was not scored so."""
    seconds: float
    tokens: int
    price: float


class _Run:
    """What the stages of one run share."""

    def __init__(
        self,
        rundir: RunDir,
        config: RunConfig,
        backend: Backend,
        pool: Pool,
        protections: dict[str, Any],
        archive: Archive,
        sets: dict[str, list[NamedPuzzle]],
        progress: Progress,
        base: Sampler,
        part: Part | None = None,
    ) -> None:
        self.part = part
        """Of the chunks of each stage; None for all."""
        self.rundir, self.config, self.backend, self.pool = rundir, config, backend, pool
        self.protections, self.archive, self.sets, self.progress = protections, archive, sets, progress
        self.done: list[_Done] = []
        self.reigning = 0
        """Number of the checkpoint that is sampled from."""
        self.trains = config.finetune.trains
        self._measured: dict[int, dict[str, Any]] = {}
        self._loaded: tuple[str, Sampler] | None = (str(config.model.path), base)
        self.protocol = protocol_of(config, base)
        self.shots = few_shots(archive, config, self.protocol)

    def note(self, record: dict[str, Any]) -> None:
        """Of a finished iteration, what is needed later: a run of thousands must not grow."""
        self.reigning = champion.reigning_after(record)
        dev = record["dev"].get(f"pass@{self.config.evaluate.k[0]}", [-1.0])[0]
        cost = self._price(record_costs(record))
        self.done.append(_Done(dev, record_seconds(record), record_tokens(record), cost))

    def sampler(self, checkpoint: str | Path) -> Sampler:
        """The checkpoint's sampler; one at a time is in memory."""
        if self._loaded is None or self._loaded[0] != str(checkpoint):
            self._loaded = None
            self._loaded = (str(checkpoint), self.backend.load(checkpoint, self.config.model))
        return self._loaded[1]

    def checkpoint(self, iteration: int) -> str | Path:
        """Where an iteration's weights are; iteration 0 is the model the run began with."""
        return self.rundir.checkpoint(iteration) if iteration else self.config.model.path

    def ends_with(self, iteration: int) -> int:
        """Number of the checkpoint that an iteration leaves: its own, or without training the one it sampled from."""
        return iteration if self.trains or not iteration else self.reigning

    def iterate(self, iteration: int) -> dict[str, Any]:
        """All stages of an iteration that are not on disk yet, and its record."""
        started = time.monotonic()
        if iteration:
            self.sample(iteration)
            self._finetune(iteration)
        asked = iteration % self.config.heldout_every == 0 or iteration == self.config.iterations
        scores = {name: self._evaluate(iteration, name) for name in SCORED_SETS if asked or name != "heldout"}
        return self._record(iteration, scores, time.monotonic() - started)

    def sample(self, iteration: int) -> None:
        """The stages of an iteration before its training.

        Raises:
            PartDone: The others' parts of a stage are missing.
        """
        self._propose(iteration)
        self._vary(iteration)  # which samples nothing: each part does all of it
        self._solve(iteration)

    def _propose(self, iteration: int) -> None:
        archive, config, protocol = self.archive, self.config, self.protocol
        self._chunks(
            iteration, propose.STAGE, "shots", "proposal",
            plan=lambda sampler: propose.plan(archive, iteration, config, protocol, sampler, self.pool),
            sampling=lambda chunk, sampler: propose.sampling(archive, chunk, sampler, protocol),
            judge=lambda chunk: propose.judge(archive, chunk, self.pool, protocol),
        )  # fmt: skip

    def _solve(self, iteration: int) -> None:
        config = self.config.solve
        self._try(iteration, solve.STAGE, lambda: self._targets(iteration))
        if config.further_puzzles:
            self._try(
                iteration, solve.FURTHER, lambda: solve.promising(self.archive, iteration, config.further_puzzles)
            )

    def _targets(self, iteration: int) -> list[str]:
        """Ids of the puzzles to try: of the proposals perhaps the best ranked alone."""
        config, targets = self.config.solve, solve.targets(self.archive, iteration, self.config.solve.training_puzzles)
        if not config.most_proposed:
            return targets
        of_model = {*self.archive.puzzle_ids("p.origin = 'model' AND p.iteration = ?", iteration)}
        proposed = [identifier for identifier in targets if identifier in of_model]
        left = of_model - {*ranker.best(self.archive, self.pool, iteration, proposed, config.most_proposed)}
        return [identifier for identifier in targets if identifier not in left]

    def _try(self, iteration: int, stage: str, choose: Callable[[], list[str]]) -> None:
        archive, config, protocol, shots = self.archive, self.config, self.protocol, self.shots
        self._chunks(
            iteration, stage, "puzzles", "candidate",
            plan=lambda sampler: solve.plan(archive, iteration, choose(), config, protocol, sampler, stage),
            sampling=lambda chunk, sampler: solve.sampling(archive, chunk, sampler, protocol, shots),
            judge=lambda chunk: solve.judge(archive, chunk, self.pool, protocol, shots, self.protections),
        )  # fmt: skip

    def _chunks(
        self,
        iteration: int,
        stage: str,
        asked: str,
        unit: str,
        plan: Callable[[Sampler], object],
        sampling: Callable[[Chunk, Sampler], Sampling],
        judge: Callable[[Chunk], object],
    ) -> None:
        """Plan a stage's chunks, then sample and judge those that are not finished; `asked` lists a plan's prompts."""
        archive, checkpoint = self.archive, self.checkpoint(self.reigning)
        if not archive.planned(iteration, stage):
            plan(self.sampler(checkpoint))
        chunks = [archive.chunk(identifier) for identifier in self._own(iteration, stage)]
        texts = sum(len(chunk.plan[asked]) * chunk.plan["copies"] for chunk in chunks)
        count = self.progress.counter(texts, f"iteration {iteration}: {stage}", unit)
        unsampled = [chunk for chunk in chunks if chunk.completions is None]
        sampler = self.sampler(checkpoint) if unsampled else None

        def works() -> Iterator[ahead.Work[ChunkSamples]]:
            for chunk in unsampled:
                assert sampler is not None
                yield ahead.counted(sampling(chunk, sampler), count)

        with closing(ahead.results(works(), sampler.overlap if sampler else 0)) as sampled:
            for chunk in chunks:
                self._check_budget(iteration)
                if chunk.completions is None:
                    samples = next(sampled)
                    with archive.transaction():
                        archive.set_completions(chunk.id, **vars(samples))
                judge(archive.chunk(chunk.id))
        if self.part and (left := len(archive.unjudged(iteration, stage))):
            raise PartDone(f"iteration {iteration}, {stage}: this part is done, {left} chunks are others'")

    def _own(self, iteration: int, stage: str) -> Sequence[int]:
        """Ids of a stage's chunks that are to be done here."""
        unjudged = self.archive.unjudged(iteration, stage)
        if self.part is None:
            return unjudged
        planned = self.archive.query(
            "SELECT id FROM chunks WHERE iteration = ? AND stage = ? ORDER BY number", iteration, stage
        )
        own = {identifier for (identifier,) in self.part.share(planned)}
        return [identifier for identifier in unjudged if identifier in own]

    def _vary(self, iteration: int) -> None:
        archive = self.archive
        if self.config.vary.variations and not archive.planned(iteration, vary.STAGE):
            vary.plan(archive, iteration, self.config, self.sampler(self.checkpoint(self.reigning)).checkpoint)
        chunks = [archive.chunk(identifier) for identifier in archive.unjudged(iteration, vary.STAGE)]
        texts = sum(len(chunk.plan["variations"]) for chunk in chunks)
        count = self.progress.counter(texts, f"iteration {iteration}: vary", "puzzle")
        for chunk in chunks:
            self._check_budget(iteration)
            if chunk.completions is None:
                samples = vary.make(archive, chunk, self.pool)
                with archive.transaction():
                    archive.set_completions(chunk.id, **vars(samples))
            vary.judge(archive, archive.chunk(chunk.id), self.pool, self.protections)
            count(len(chunk.plan["variations"]))

    def _finetune(self, iteration: int) -> None:
        folder = self.rundir.checkpoint(iteration)
        if folder.exists() or not self.trains:
            return
        self._check_budget(iteration)
        answer = self._answer_to_collapse(iteration)
        config = replace(self.config.finetune, beta=(self.config.finetune.beta_of(iteration),))
        balance = config.balance == "niches" or answer == "rebalance"
        begins_with = self._best() if answer == "rollback" else self.reigning
        rng = np.random.default_rng([self.config.seed, iteration, 3])

        def tokens_of(text: str) -> int:  # asked for by some objectives only
            return self.sampler(self.checkpoint(self.reigning)).tokens_of(text)

        with self.archive.transaction():
            if answer == "rollback":
                self.archive.roll_back(begins_with, iteration)
            taught = teaching(
                self.archive, self.pool, self.config, iteration, self.protocol, self.shots, tokens_of, rng, balance
            )
            if not taught.lessons and answer != "rollback":
                raise InputError(f"iteration {iteration}: {nothing_to_train(self.protocol, config.objective)}")
            self.archive.add_trained(iteration, taught.pairs)
        self.archive.sync()  # a checkpoint must not outlive, in a power cut, what it was trained on
        # Where nothing is left to learn, the best weights stay as they are.
        start = self.checkpoint(begins_with if config.start == "previous" or not taught.lessons else 0)
        self._loaded = None  # two models at once need not fit
        notes = {
            "protocol": self.protocol, "iteration": iteration, "pairs": len(taught.pairs), "started_from": str(start),
            "shots": [[puzzle.source, solution.source] for puzzle, solution in self.shots],
            **({"rolled_back_to": begins_with} if answer == "rollback" else {}),
        }  # fmt: skip
        bar: list[Callable[..., object]] = []

        def plan(steps: int) -> None:
            bar.append(self.progress.counter(steps, f"iteration {iteration}: fine-tune", "step"))

        self.backend.finetune(
            start, taught.lessons, config, self.config.model, [self.config.seed, iteration, 4], folder, notes,
            lambda tokens, loss: bar[0](1), plan,
        )  # fmt: skip

    def _measures(self, iteration: int) -> dict[str, Any]:
        """What the iteration's puzzles are like; all of its verdicts are in the archive."""
        if iteration not in self._measured:
            measures = collapse.measure(self.archive, self.pool, iteration, self.config.seed)
            if landed := goals.landed(self.archive, self.pool, iteration):
                measures["goals"] = landed
            self._measured = {**{key: value for key, value in self._measured.items() if key == 1}, iteration: measures}
        return self._measured[iteration]

    def _alarms(self, iteration: int) -> list[str]:
        """What of the iteration's puzzles says that they are getting fewer and alike."""
        if not iteration:
            return []
        return collapse.alarms([self._measures(1), self._measures(iteration)], self.config.collapse)

    def _answer_to_collapse(self, iteration: int) -> str:
        """What is done about it, if there is any: one of `collapse.action`.

        Raises:
            Collapsed: Nothing but to stop.
        """
        action = self.config.collapse.action
        if not (alarms := self._alarms(iteration)):
            return ""
        for line in alarms:
            logger.warning("iteration %d: %s", iteration, line)
        if action == "stop":
            raise Collapsed(f"iteration {iteration}: {'; '.join(alarms)}; set collapse.action to go on")
        return action

    def _best(self) -> int:
        """The recorded iteration that is best on dev, the first of equals, of those whose weights are here."""
        here = {0} | self.rundir.checkpoints() & {*range(len(self.done))}
        return max(here, key=lambda iteration: (self.done[iteration].dev, -iteration))

    def _evaluate(self, iteration: int, name: str) -> SetScores:
        self._check_budget(iteration)
        config, puzzles = self.config, self.sets[name]
        count = self.progress.counter(
            len(puzzles) * config.evaluate.samples_per_puzzle, f"iteration {iteration}: score {name}", "candidate"
        )
        seed = [config.seed, 0, 5, SCORED_SETS.index(name)]  # the same for all iterations; no other stage has a 0 there
        file, scored = self.rundir.samples(iteration, name), self.ends_with(iteration)
        if scored != iteration and not file.exists():  # the same weights are not sampled again
            write_atomically(file, self.rundir.samples(scored, name).read_text("utf-8"))
        return evaluate(
            self.sampler(self.checkpoint(scored)), self.pool, puzzles, self.protocol, self.shots, config.evaluate,
            seed, config.batch_rows, config.chunk_texts, file, count,
        )  # fmt: skip

    def _costs(self, iteration: int) -> dict[str, StageCost]:
        """What an iteration's stages have cost so far, in all sessions, from what they left on disk."""
        costs = {stage: stage_cost(sums) for stage, sums in self.archive.chunk_costs(iteration).items()}
        if iteration and self.rundir.checkpoint(iteration).exists():
            training = self.sampler(self.checkpoint(iteration)).notes.get("training", {})
            costs["train"] = training_cost(training)
        own = SCORED_SETS if self.ends_with(iteration) == iteration else ()
        lines = [line for name in own for line in read_chunks(self.rundir.samples(iteration, name))]
        costs["score"] = total(map(chunk_cost, lines))
        return costs

    def _check_budget(self, iteration: int) -> None:
        """Whether another step may begin.

        Raises:
            BudgetSpent: It may not.
        """
        budget = self.config.budget
        if not (budget.seconds or budget.tokens or budget.price):
            return
        costs = self._costs(iteration)
        now = total(costs.values())
        spent = {
            "seconds": sum(done.seconds for done in self.done) + now.model_seconds + now.judging_seconds,
            "tokens": sum(done.tokens for done in self.done) + now.tokens,
            "price": sum(done.price for done in self.done) + self._price(costs),
        }
        for name, value in spent.items():
            if (most := getattr(budget, name)) and value >= most:
                shown = f"{value:,}" if name == "tokens" else f"{value:,.{2 if name == 'price' else 1}f}"
                raise BudgetSpent(f"budget.{name}: {shown} of {most:,} are spent, in iteration {iteration}")

    def _price(self, costs: Mapping[str, StageCost]) -> float:
        """Of what was sampled."""
        endpoint, sampled = self.config.endpoint, [cost for stage, cost in costs.items() if stage != "train"]
        return price(sampled, endpoint.prompt_price, endpoint.completion_price)

    def _record(self, iteration: int, scores: dict[str, SetScores], seconds: float) -> dict[str, Any]:
        sampler = self.sampler(self.checkpoint(self.ends_with(iteration)))
        notes = sampler.notes if iteration and self.trains else {}
        training = notes.get("training", {})
        back = {"rolled_back_to": notes["rolled_back_to"]} if "rolled_back_to" in notes else {}
        costs, arithmetic = self._costs(iteration), sampler.arithmetic
        peaks = {} if arithmetic is None else dict.fromkeys(costs, arithmetic.peak_flops_per_second)
        if peaks.pop("train", None) and "peak_flops_per_second" in training:  # in a dtype of its own
            peaks["train"] = training["peak_flops_per_second"]
        sampled = [cost for stage, cost in costs.items() if stage not in ("train", "score")]
        return {
            "iteration": iteration,
            "checkpoint": sampler.checkpoint,
            "reigns": self._reigning(iteration),
            "collapse": {"alarms": self._alarms(iteration), **back, **self._measures(iteration)},
            "protocol": self.protocol,
            **self.archive.iteration_counts(iteration),
            "training": without_times(training),
            **{name: score.to_json() for name, score in scores.items()},
            "sampler": sampler.description,
            "cost": cost_counts(costs, arithmetic),
            "times": {
                "sampling": round(total(sampled).model_seconds, 2),
                "judging": round(total(sampled).judging_seconds, 2),
                "training": round(training.get("seconds", 0.0), 2),
                "scoring": round(costs["score"].model_seconds + costs["score"].judging_seconds, 2),
                "this_session": round(seconds, 2),
                "stages": cost_times(costs, peaks),
            },
        }

    def _reigning(self, iteration: int) -> int:
        """Number of the checkpoint that is sampled from after an iteration that has been scored."""
        if not self.trains or not self.config.gate or not iteration:
            return self.ends_with(iteration)
        counts = champion.dev_counts(self.rundir, [self.reigning, iteration])
        return iteration if champion.match(counts, 0, 1).is_won() else self.reigning

    def retire_checkpoints(self) -> None:
        """Delete checkpoints that the retention setting does not keep; the last and the one that reigns are needed."""
        if self.config.keep_checkpoints == "all" or not self.done:
            return
        iterations = range(len(self.done))
        kept = {self._best(), iterations[-1], self.reigning}
        for iteration in self.rundir.checkpoints() & {*iterations} - kept:
            shutil.rmtree(self.rundir.checkpoint(iteration))
