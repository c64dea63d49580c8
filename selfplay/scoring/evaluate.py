"""The score of a model on a guarded set: n judged candidates per puzzle, and pass@k with intervals.

n is fixed in advance, and no candidate is ever dropped. A prompt that does not fit the context counts as wrong
candidates, and so does a text that does not parse. Work is done in chunks, which are kept as lines of one file. Chunks
in the file are not sampled again. If no size of chunks is set, the first one is small, and its rate decides how large
the others are.

The machine's failures are not scored as the model's. If the sandbox fails, the chunk is judged again; if it keeps
failing, an error is raised. A candidate that was taken to be asleep because it got no core is judged again, alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from puzzles.archive.formats import read_errata
from puzzles.foreign import NATURAL, NUMBER, TEXT, TEXTS, a_list, an_object, each, expect, shown
from puzzles.puzzle import Candidate, InputError, Judgement, Puzzle, Verdict
from puzzles.verify import verify
from sandbox.pool import Pool
from sandbox.result import SandboxError
from selfplay.config import EvaluateConfig
from selfplay.run.rundir import append_line, read_lines
from selfplay.sampling import ahead
from selfplay.sampling.chunks import FEWEST_CHUNK_TEXTS, texts_in_a_minute
from selfplay.sampling.cost import StageCost, Watch, judging_watch, total
from selfplay.sampling.judging import judge_texts
from selfplay.sampling.prompts import Prompt, PromptFormat, prompts_hash
from selfplay.sampling.sampler import Completion, Sampled, Sampler, SamplingSettings, sample_fitting, settings_of
from selfplay.sampling.shots import Pair, prompt_for
from selfplay.scoring.metrics import Score, scores
from selfplay.scoring.sets import NamedPuzzle

HOW_SENT = ("left_out", "renamed", "chat_time")
"""Keys of a sampler's description if its servers are not sent all of the settings, or if its chats tell the time. They
too must be the same for all chunks of a file."""
PROMPT_TOO_LONG = "prompt_too_long"
"""Verdict of a candidate whose prompt does not fit the context. It counts as wrong."""
SHIPPED = "shipped"
"""Mark of a chunk that was sampled for the package and not by this run, which it has cost nothing."""
TRIES = 3
"""How often a chunk is judged if the sandbox fails. Each time the pool itself tries a job three times."""

Judged = tuple[Candidate | None, Judgement]


@dataclass(frozen=True)
class SetScores:
    """Scores of a model on one set."""

    puzzles: int
    samples_per_puzzle: int
    pass_at: dict[str, Score]
    """Scores by name: `pass@1` and so on."""
    solved: int
    """Number of puzzles with at least one accepted candidate."""
    verdicts: dict[str, int]
    truncated: int
    """Number of candidates that met max_tokens."""
    cost: StageCost
    not_told: dict[str, int] = field(default_factory=dict)
    """What servers did not tell, in how many candidates or requests: `tokens`, `prompt_tokens`, `ends`."""

    def to_json(self) -> dict[str, Any]:
        """The scores as records keep them, with intervals as [value, low, high]."""
        pass_at = {name: [score.value, score.low, score.high] for name, score in self.pass_at.items()}
        return {
            "puzzles": self.puzzles, "samples_per_puzzle": self.samples_per_puzzle, **pass_at, "solved": self.solved,
            "verdicts": self.verdicts, "truncated": self.truncated, "tokens": self.cost.tokens,
            **({"not_told": self.not_told} if self.not_told else {}),
        }  # fmt: skip


@dataclass(frozen=True)
class Questions:
    """The questions by which a sampler is scored, and their division into chunks."""

    puzzles: Sequence[NamedPuzzle]
    prompt_format: PromptFormat
    """How puzzles are shown."""
    shots: Sequence[Pair]
    """Solved pairs to show, if the format shows any."""
    config: EvaluateConfig
    """n, k and sampling settings."""
    seed: Sequence[int]
    """Integers from which each candidate is drawn with its number, or with a set size each chunk with its number."""
    batch_rows: int
    """Texts sampled side by side; 0 leaves it to the sampler."""
    chunk_texts: int
    """Candidates per chunk; 0 for about a minute of work."""
    pace: int | Path | None = None
    """With 0 `chunk_texts`: the candidates of a minute, or the file whose first chunk tells how long candidates take.
    By default that is the file that is written."""


def evaluate(
    sampler: Sampler,
    pool: Pool,
    asked: Questions,
    file: Path,
    progress: Callable[[int], object] = lambda candidates: None,
    note: Callable[[str], object] = lambda text: None,
) -> SetScores:
    """Score a sampler on puzzles. Chunks that `file` already holds are not done again.

    Args:
        sampler: The model.
        pool: The sandbox that judges.
        asked: The puzzles, and how they are asked.
        file: One line per finished chunk, with every candidate and its verdict.
        progress: Called with the number of candidates done since the last call.
        note: Called with `judging` when candidates are judged, and with nothing when they are sampled.

    Raises:
        InputError: `file` holds chunks of another model, set or settings.
    """
    done = read_chunks(file)
    _check_done(sampler, pool, asked, file, done)
    progress(sum(len(line["results"]) for line in done) * asked.config.samples_per_puzzle)
    while chunks := _next_chunks(sampler, pool, asked, done):
        works = (ahead.counted(chunk.sampling(sampler), progress) for chunk in chunks)
        with closing(ahead.results(works, sampler.overlap)) as samples:
            for chunk, sampled in zip(chunks, samples, strict=True):
                note("judging")
                line = chunk.judged(sampled, pool, sampler.description)
                append_line(file, line)
                done.append(line)
                note("")
    return summarize(done, asked.config, read_errata())


def _check_done(sampler: Sampler, pool: Pool, asked: Questions, file: Path, done: Sequence[dict[str, Any]]) -> None:
    """Compare the chunks of the file with what is asked. They may be of any size.

    Raises:
        InputError: They are of another model, set or settings.
    """
    if (there := sum(len(line["results"]) for line in done)) > len(asked.puzzles):
        raise InputError(
            f"{file}: it holds results with more puzzles ({there} there, {len(asked.puzzles)} here): "
            "move it away to score anew"
        )
    first = 0
    for number, line in enumerate(done):
        numbered = "first" in line["identity"]
        here = _chunk(sampler, pool, asked, done, number, first, len(line["results"]), numbered)
        _check_same(file, line["identity"], here.identity)
        first += len(line["results"])


def _next_chunks(sampler: Sampler, pool: Pool, asked: Questions, done: Sequence[dict[str, Any]]) -> list[_Chunk]:
    """The chunks after those that are done: all that are left, or the first one alone if it shall tell the rate."""
    first, texts = sum(len(line["results"]) for line in done), asked.chunk_texts or _minute(asked, done)
    puzzles = max(1, (texts or FEWEST_CHUNK_TEXTS) // asked.config.samples_per_puzzle)
    starts = range(first, len(asked.puzzles), puzzles)
    return [
        _chunk(sampler, pool, asked, done, len(done) + place, start, puzzles, not asked.chunk_texts)
        for place, start in enumerate(starts if texts else starts[:1])
    ]


def _minute(asked: Questions, done: Sequence[dict[str, Any]]) -> int:
    """Candidates that are about a minute of work; 0 if that is not known yet."""
    if isinstance(asked.pace, int):
        return asked.pace
    if not done:
        return 0
    first, *_ = [*(read_chunks(asked.pace)[:1] if asked.pace else []), done[0]]
    cost = chunk_cost(first)
    return texts_in_a_minute(cost.texts, cost.model_seconds + cost.judging_seconds)


def _chunk(
    sampler: Sampler, pool: Pool, asked: Questions, done: Sequence[dict[str, Any]], number: int, first: int, size: int,
    numbered: bool,
) -> _Chunk:  # fmt: skip
    """The chunk of so many puzzles from `first` on: its candidates are `numbered`, or it has a seed of its own."""
    group, copies = asked.puzzles[first : first + size], asked.config.samples_per_puzzle
    # Rows stay as they were when the file was begun, whatever memory is free now.
    rows = done[0]["identity"]["settings"]["batch_rows"] if done and not asked.batch_rows else asked.batch_rows
    settings = settings_of(asked.config, rows, sampler)
    prompts = [prompt_for(asked.prompt_format, named.puzzle, asked.shots) for named in group]
    drawn_by = {"seed": [*asked.seed], "first": first * copies} if numbered else {"seed": [*asked.seed, number]}
    identity = {
        "chunk": number, "checkpoint": sampler.checkpoint, "protocol": asked.prompt_format.protocol,
        **drawn_by, "settings": vars(settings), "samples_per_puzzle": copies,
        "shots": [puzzle.id for puzzle, _ in asked.shots], "puzzles": [named.puzzle.id for named in group],
        "prompt_format_hash": asked.prompt_format.hash, "prompts": prompts_hash(prompts),
        "limits": asdict(pool.limits),
        **{key: sampler.description.get(key) for key in ("device", "dtype")},
        **{key: sampler.description[key] for key in HOW_SENT if key in sampler.description},
    }  # fmt: skip
    return _Chunk(group, prompts, copies, settings, identity)


def whole_chunk(sampler: Sampler, pool: Pool, asked: Questions) -> dict[str, Any]:
    """The identity of a chunk with all the puzzles."""
    return _chunk(sampler, pool, asked, [], 0, 0, len(asked.puzzles), numbered=True).identity


_IDENTITY = an_object(
    ["first"], chunk=NATURAL, seed=a_list(NATURAL, 1), first=NATURAL, settings=an_object(batch_rows=NATURAL),
    samples_per_puzzle={"type": "integer", "minimum": 1},
)  # fmt: skip
_RESULT = an_object(
    name=TEXT, puzzle=TEXT, answer_type=TEXT, skills=TEXTS, difficulty={"type": ["integer", "null"]}, texts=TEXTS,
    tokens=NATURAL, truncated=NATURAL, verdicts=TEXTS, details=TEXTS,
)  # fmt: skip
CHUNK = an_object(
    ["prompt_tokens", "not_told"], identity=_IDENTITY, sampler={"type": "object"}, prompt_tokens=NATURAL,
    results=a_list(_RESULT), times=each(NUMBER) | {"required": ["sampling_seconds", "judging_seconds"]},
    not_told=each(NATURAL),
)  # fmt: skip
"""JSON shape of a chunk, one line of the file: every candidate of some puzzles with its verdict."""


def read_chunks(file: Path) -> list[dict[str, Any]]:
    """The chunks in a file of scores.

    Raises:
        InputError: A line is not a chunk.
    """
    lines = read_lines(file)
    for number, line in enumerate(lines, 1):
        expect_chunk(line, f"{file}, line {number}")
    return lines


def expect_chunk(line: Any, where: str) -> None:
    """Check that a JSON value is a chunk.

    Raises:
        InputError: It is not.
    """
    expect(line, CHUNK, where)
    asked = line["identity"]["samples_per_puzzle"]
    for result in line["results"]:
        lengths = {len(result["texts"]), len(result["details"])}
        if len(result["verdicts"]) != asked or lengths - {0, asked}:
            found = f"{len(result['verdicts'])} verdicts of {len(result['texts'])} texts"
            raise InputError(f"{where}: expected {asked} candidates of {shown(result['name'])}, got {found}")


def _check_same(file: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    # The hash of whole prompts says as much where an older version has not kept that of their format.
    older = {"prompt_format_hash"} - {*there}
    for key in (*here, *HOW_SENT):
        if key not in older and there.get(key) != here.get(key):
            raise InputError(
                f"{file}: it holds results with another {key} "
                f"({str(there.get(key))[:80]} there, {str(here.get(key))[:80]} here): move it away to score anew"
            )


@dataclass(frozen=True)
class _Chunk:
    """A chunk that is not on disk yet."""

    group: Sequence[NamedPuzzle]
    prompts: Sequence[Prompt]
    copies: int
    settings: SamplingSettings
    identity: dict[str, Any]

    def sampling(self, sampler: Sampler) -> Callable[[Callable[[int], object]], tuple[Sampled, dict[str, float]]]:
        """The work that samples the chunk. Its result is the samples and the times they took."""

        def work(progress: Callable[[int], object]) -> tuple[Sampled, dict[str, float]]:
            watch, seed, first = Watch(), self.identity["seed"], self.identity.get("first")
            sampled = sample_fitting(sampler, self.prompts, self.copies, self.settings, seed, progress, first)
            cpu_seconds = watch.cpu_seconds() + sampled.cpu_seconds
            return sampled, {"sampling_seconds": watch.seconds(), "sampling_cpu_seconds": cpu_seconds}

        return work

    def judged(
        self, samples: tuple[Sampled, dict[str, float]], pool: Pool, description: dict[str, Any]
    ) -> dict[str, Any]:
        """The line of the chunk: every candidate with its verdict."""
        (sampled, sampling_times), watch = samples, judging_watch(pool)
        texts_P_K = [[completion.text for completion in row] for row in sampled.completions_P_K]
        judged_P_K, machine = judge_surely(pool, [named.puzzle for named in self.group], self.prompts, texts_P_K)
        results = [
            _result(named, completions_K, judged_K, self.copies)
            for named, completions_K, judged_K in zip(self.group, sampled.completions_P_K, judged_P_K, strict=True)
        ]
        judging_times = {"judging_seconds": watch.seconds(), "judging_cpu_seconds": watch.cpu_seconds()}
        again = {"asked_again": sampled.asked_again} if sampled.asked_again else {}
        return {
            "identity": self.identity, "sampler": description, "batch_rows": sampled.batch_rows,
            "prompt_tokens": sampled.prompt_tokens, "results": results,
            "times": {**sampling_times, **judging_times, **machine, **again},
            **({"not_told": sampled.not_told} if sampled.not_told else {}),
        }  # fmt: skip


def _result(
    named: NamedPuzzle, completions_K: Sequence[Completion], judged_K: Sequence[Judged], copies: int
) -> dict[str, Any]:
    """The part of a line for one puzzle: every candidate with its verdict."""
    asked = bool(completions_K)
    return {
        "name": named.name,
        "puzzle": named.puzzle.id,
        "answer_type": named.puzzle.answer_type,
        "skills": list(named.skills),
        "difficulty": named.difficulty,
        "texts": [completion.text for completion in completions_K],
        "tokens": sum(completion.tokens or 0 for completion in completions_K),
        "truncated": sum(completion.finished is False for completion in completions_K),
        "verdicts": [str(judgement.verdict) for _, judgement in judged_K] if asked else [PROMPT_TOO_LONG] * copies,
        "details": [judgement.detail for _, judgement in judged_K],
    }


def judge_surely(
    pool: Pool, puzzles: Sequence[Puzzle], prompts: Sequence[Prompt], texts_P_K: Sequence[Sequence[str]]
) -> tuple[list[list[Judged]], dict[str, int]]:
    """Judge candidates such that a busy or failing machine does not decide a verdict.

    Returns:
        The judgements, and three counts: `retried` (judgings in which the sandbox failed), `judged_again` (candidates
        that were taken to be asleep) and `changed` (those of them that got another verdict).

    Raises:
        SandboxError: The sandbox failed three times. Nothing was decided.
    """
    for failures in range(TRIES):
        try:
            judged_P_K = judge_texts(pool, puzzles, prompts, texts_P_K)
            again = _judge_again(pool, puzzles, judged_P_K)
            break
        except SandboxError:
            if failures + 1 == TRIES:
                raise
    settled_P_K = [
        [(candidate, again.get(_key(p, candidate), judgement)) for candidate, judgement in judged_K]
        for p, judged_K in enumerate(judged_P_K)
    ]
    before = {_key(p, candidate): judgement for p, row in enumerate(judged_P_K) for candidate, judgement in row}
    changed = sum(judgement.verdict != before[key].verdict for key, judgement in again.items())
    return settled_P_K, {"retried": failures, "judged_again": len(again), "changed": changed}


def _key(p: int, candidate: Candidate | None) -> tuple[int, str | None]:
    return p, candidate.run[0] if candidate else None


def _judge_again(
    pool: Pool, puzzles: Sequence[Puzzle], judged_P_K: Sequence[Sequence[Judged]]
) -> dict[tuple[int, str | None], Judgement]:
    """Judge again, one by one, the candidates that were taken to be asleep: perhaps they got no core."""
    again: dict[tuple[int, str | None], Judgement] = {}
    for p, judged_K in enumerate(judged_P_K):
        for candidate, judgement in judged_K:
            key = _key(p, candidate)
            if candidate is not None and judgement.waited_seconds and key not in again:
                (again[key],) = verify(pool, [(puzzles[p], candidate)])
    return again


def summarize(lines: Sequence[dict[str, Any]], config: EvaluateConfig, errata: Mapping[str, str]) -> SetScores:
    """Scores from stored chunks, without the puzzles that are known to be wrong. Needs no model."""
    results = [result for line in lines for result in line["results"] if result["puzzle"] not in errata]
    correct = [result["verdicts"].count(Verdict.ACCEPTED) for result in results]
    verdicts = Counter(verdict for result in results for verdict in result["verdicts"])
    return SetScores(
        puzzles=len(results),
        samples_per_puzzle=config.samples_per_puzzle,
        pass_at=scores([config.samples_per_puzzle] * len(results), correct, config.k) if results else {},
        solved=sum(c > 0 for c in correct),
        verdicts=dict(verdicts.most_common()),
        truncated=sum(result["truncated"] for result in results),
        cost=total(map(chunk_cost, lines)),
        not_told=not_told(lines),
    )


def not_told(lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What servers did not tell in stored chunks, as `Sampled.not_told` counts it."""
    return dict(sum((Counter(line.get("not_told", {})) for line in lines), Counter[str]()))


def counts_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Numbers of candidates and of accepted candidates in stored chunks, by puzzle."""
    results = [result for line in lines for result in line["results"]]
    return {r["puzzle"]: (len(r["verdicts"]), r["verdicts"].count(Verdict.ACCEPTED)) for r in results}


def chunk_cost(line: Mapping[str, Any]) -> StageCost:
    """Cost of a stored chunk. In a chunk of an older version some numbers are missing and count as 0."""
    if SHIPPED in line:
        return StageCost()
    times, results = line["times"], line["results"]
    return StageCost(
        texts=sum(len(result["texts"]) for result in results),
        tokens=sum(result["tokens"] for result in results),
        prompt_tokens=line.get("prompt_tokens", 0),
        model_seconds=times["sampling_seconds"],
        model_cpu_seconds=times.get("sampling_cpu_seconds", 0.0),
        judging_seconds=times["judging_seconds"],
        judging_cpu_seconds=times.get("judging_cpu_seconds", 0.0),
        untold_texts=line.get("not_told", {}).get("tokens", 0),
    )
