"""Sample a chunk again from its recorded seed and checkpoint, judge it again, and compare with the archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puzzles.archive.store import Archive, Chunk
from puzzles.parse import ParseFailure, Text, parse_puzzles
from puzzles.puzzle import InputError, Puzzle, kept_answer
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration import propose, solve, vary
from selfplay.iteration.training_set import few_shots
from selfplay.run.rundir import RunDir
from selfplay.sampling.judging import judge_texts
from selfplay.sampling.prompts import PromptFormat, kept_format
from selfplay.sampling.sampler import Sampler
from selfplay.sampling.shots import prompt_for
from selfplay.training.backend import Backend


@dataclass
class Replay:
    """The result of replaying one chunk."""

    chunk: int
    stage: str
    iteration: int
    texts: int
    """Texts that were sampled again."""
    judged: int
    """Texts of the given puzzle that were judged again."""
    other_conditions: dict[str, tuple[Any, Any]]
    """Versions, device and other conditions that have changed, with both values. Texts may then differ."""
    differences: list[str] = field(default_factory=list)


def replay(
    archive: Archive, rundir: RunDir, config: RunConfig, identifier: str, backend: Backend, pool: Pool,
    progress: Callable[[int, str, str], Callable[..., object]] = lambda total, description, unit: lambda *_: None,
) -> Iterator[Replay]:  # fmt: skip
    """Sample and judge again every chunk that a puzzle came from or was tried in. Nothing is written.

    Raises:
        InputError: The puzzle came from no chunk, or a checkpoint is missing or has changed.
    """
    own = archive.query("SELECT chunk FROM puzzles WHERE id = ? AND chunk IS NOT NULL", identifier)
    tried = archive.query("SELECT DISTINCT chunk FROM candidates WHERE puzzle = ? ORDER BY 1", identifier)
    numbers = [row["chunk"] for row in (*own, *tried)]
    if not numbers:
        raise InputError(
            f"{archive.path}: nothing to replay: puzzle {identifier} came from no chunk and was never tried"
        )
    loaded: dict[int, Sampler] = {}
    for number in numbers:
        if not archive.query("SELECT 1 FROM chunks WHERE id = ?", number):
            raise InputError(
                f"{archive.path}: chunk {number} is missing: `selfplay archive why` says what else is missing"
            )
        chunk = archive.chunk(number)
        if chunk.stage == vary.STAGE:
            yield _varied(archive, chunk, identifier, pool)
            continue
        if chunk.iteration not in loaded:
            loaded = {chunk.iteration: _sampler(rundir, config, chunk, backend)}  # one model at a time
        yield _sampled(archive, chunk, identifier, config, loaded[chunk.iteration], pool, progress)


def _sampler(rundir: RunDir, config: RunConfig, chunk: Chunk, backend: Backend) -> Sampler:
    by_hash = {record["checkpoint"]: record["iteration"] for record in reversed(rundir.read_records())}
    number = by_hash.get(chunk.checkpoint, chunk.iteration - 1)
    place: str | Path = rundir.checkpoint(number) if number else config.model.path
    if number and not Path(place).is_dir():
        raise InputError(f"{place}: this checkpoint was not kept, so chunk {chunk.id} cannot be sampled again")
    sampler = backend.load(place, config.model)
    if sampler.checkpoint != chunk.checkpoint:
        raise InputError(
            f"{place}: expected weights {chunk.checkpoint}, from which chunk {chunk.id} was sampled, "
            f"got {sampler.checkpoint}: the model has been replaced"
        )
    return sampler


def _sampled(
    archive: Archive, chunk: Chunk, identifier: str, config: RunConfig, sampler: Sampler, pool: Pool,
    progress: Callable[[int, str, str], Callable[..., object]],
) -> Replay:  # fmt: skip
    prompt_format, now = kept_format(chunk.settings), sampler.description
    other = {key: (chunk.settings.get(key), value) for key, value in now.items() if chunk.settings.get(key) != value}
    shots = few_shots(archive, config, prompt_format)
    if chunk.stage == propose.STAGE:
        work = propose.sampling(archive, chunk, sampler, prompt_format)
    else:
        work = solve.sampling(archive, chunk, sampler, prompt_format, shots)
    before = _flat(chunk.completions)
    again = work(progress(len(before), f"chunk {chunk.id}", "text")).completions
    found = _texts_compared(chunk, before, _flat(again), other)
    if chunk.stage == propose.STAGE:
        _judge_proposal(archive, chunk, identifier, again, prompt_format, pool, found)
    else:
        _judge_candidates(archive, chunk, identifier, again, prompt_format, shots, pool, found)
    return found


def _texts_compared(chunk: Chunk, before: list[str], again: list[str], other: dict[str, tuple[Any, Any]]) -> Replay:
    differences = [
        f"text {position} was {old[:60]!r}, now {new[:60]!r}"
        for position, (old, new) in enumerate(zip(before, again, strict=True))
        if old != new
    ]
    return Replay(chunk.id, chunk.stage, chunk.iteration, len(before), 0, other, differences)


def _flat(completions: Any) -> list[str]:
    rows = completions or []
    return [text for row in rows for text in row] if rows and isinstance(rows[0], list) else list(rows)


def _judge_proposal(
    archive: Archive,
    chunk: Chunk,
    identifier: str,
    texts: list[str],
    prompt_format: PromptFormat,
    pool: Pool,
    found: Replay,
) -> None:
    (row,) = archive.query("SELECT position FROM puzzles WHERE id = ?", identifier)
    position = row["position"]
    prompt = propose.prompts(archive, chunk.plan, prompt_format)[position // chunk.plan["copies"]]
    (parsed,) = parse_puzzles(pool, [prompt.parsed_text(texts[position])])
    _compare_puzzle(parsed, identifier, position, found)


def _compare_puzzle(parsed: Puzzle | ParseFailure, identifier: str, position: int, found: Replay) -> None:
    found.judged += 1
    if not isinstance(parsed, Puzzle) or parsed.id != identifier:
        became = f"puzzle {parsed.id}" if isinstance(parsed, Puzzle) else str(parsed)
        found.differences.append(f"text {position} was puzzle {identifier}, now {became}")


def _judge_candidates(
    archive: Archive, chunk: Chunk, identifier: str, texts_P_K: list[list[str]], prompt_format: PromptFormat,
    shots: Sequence[Any], pool: Pool, found: Replay,
) -> None:  # fmt: skip
    place, puzzle = chunk.plan["puzzles"].index(identifier), archive.puzzle(identifier)
    prompt = prompt_for(prompt_format, puzzle, shots)
    (judged_K,) = judge_texts(pool, [puzzle], [prompt], [texts_P_K[place]])
    own = solve.made_here(archive, [identifier])
    for k, (_, judgement) in enumerate(judged_K):
        position = place * chunk.plan["copies"] + k
        rows = archive.query(
            "SELECT verdict, answer FROM candidates WHERE chunk = ? AND position = ?", chunk.id, position
        )
        again = solve.strictly(pool, judgement) if own else judgement
        found.judged += 1
        for what, now in (("verdict", again.verdict), ("answer", kept_answer(again))):
            before = rows[0][what] if rows else "not kept"
            if before != now:
                found.differences.append(f"the {what} of text {position} was {before}, now {now}")


def _varied(archive: Archive, chunk: Chunk, identifier: str, pool: Pool) -> Replay:
    again, before = vary.make(archive, chunk, pool).completions, chunk.completions or []
    found = _texts_compared(chunk, before, again, {})
    (row,) = archive.query("SELECT position FROM puzzles WHERE id = ?", identifier)
    (parsed,) = parse_puzzles(pool, [Text(again[row["position"]])])
    _compare_puzzle(parsed, identifier, row["position"], found)
    return found


def replay_text(again: Replay) -> str:
    """One line for a chunk, then one for each changed condition and each difference."""
    lines = [
        f"chunk {again.chunk} ({again.stage}, iteration {again.iteration}): {again.texts:,} texts sampled again, "
        f"{again.judged} judged again: {len(again.differences) or 'no'} differences"
    ]
    lines += [f"  {key} was {before}, now {now}" for key, (before, now) in again.other_conditions.items()]
    return "\n".join([*lines, *(f"  {difference}" for difference in again.differences)])
