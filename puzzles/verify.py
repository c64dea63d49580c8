"""Decides verdicts: solve, take the answer as data, judge it in another child, and repeat every accept.

A candidate runs in a child and yields an answer. This module checks the answer's type on plain data. Another child,
which holds only the puzzle, evaluates `f(answer)`. Results of processes that are shared for speed are provisional:

* Candidates of one puzzle first run together. Such a run settles only rejections. A candidate runs again in a child of
  its own if it was accepted, if the shared child did not finish it, or if it is in the sample of rejections that is
  checked again.
* Candidates of one puzzle that differ in names and layout only are one program, which is judged once.
* Answers to one puzzle are judged together, because plain data cannot disturb its neighbours. Accepted answers are
  judged once more in another world, in the opposite order.

Only programs that are statically harmless (`sandbox.harmless`) ever share a process.

Only an exact `True` counts as accepted. Exit codes, output and exceptions never do.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from puzzles import answer_type
from puzzles.features import DESCRIBE_BATCH
from puzzles.impossible import NO_BOOL
from puzzles.parse import PARSE_BATCH, ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import WORLDS_DISAGREE, Candidate, Judgement, Puzzle, Verdict
from puzzles.tracing import TRACE
from sandbox import child, codec
from sandbox.pool import PURE_MODULES, RUN_PROGRAM, RUN_TOGETHER, Job, Pool
from sandbox.result import SHOWN_CHARACTERS, Limits, Result, Status, printable

SOLVE_WORLD, JUDGE_WORLD, CONFIRM_WORLD = 0, 1, 2
WORLDS = (0, 1, 2)
MOST_SHARING = 128
"""Most candidates, or answers, that share a child. A child costs 1 ms, each of these less than a tenth of that."""
SHARED_CPU_SECONDS = 0.03
"""CPU limit of a shared child, for all its candidates together. A slow candidate is better run alone."""
MOST_CHILDREN = 4
"""Most children that `accepts` spends on one puzzle."""
ASKED_CPU_SECONDS = 0.1
"""CPU limit of each child of `accepts`."""
WORTH_SHARING = 8
"""Least number of outcomes after which a shared child that ended early is followed by another one for the rest."""
AUDITED_BELOW = "03"
"""Candidates whose id, a hash, is below this (3 in 256) always run alone too. What it did alone counts; if the shared
run differs, the judgement notes it."""

Question = tuple[Puzzle, bytes]
"""A puzzle and an encoded answer: does `f` accept this answer?"""

LIMITS = (Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT)
VERDICT_OF_STATUS = {
    Status.CPU_LIMIT: Verdict.TIME_LIMIT,
    Status.WALL_LIMIT: Verdict.TIME_LIMIT,
    Status.MEMORY_LIMIT: Verdict.MEMORY_LIMIT,
    Status.DIED: Verdict.RUNTIME_ERROR,
}


def truth_pool(
    limits: Limits | None = None, lanes: int | None = None, seed: int = 0, modules: Sequence[str] = (),
    jobs: Sequence[str] = (),
) -> Pool:  # fmt: skip
    """A sandbox pool that can parse, describe, trace and verify.

    Args:
        limits: Limits of each child.
        lanes: Number of children at the same time; by default the number of available cores.
        seed: Seed of the worlds in which answers are judged (`puzzles.archive.worlds`).
        modules: Modules that programs may import besides the pure ones and `random`, which is seeded per world.
        jobs: Further trusted functions that its children run, such as `puzzles.rules.variation.VARY`.
    """
    importable = tuple(dict.fromkeys([*PURE_MODULES, "random", *modules]))
    return Pool([PARSE_BATCH, DESCRIBE_BATCH, TRACE, *jobs], limits, lanes, seed, importable)


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one call: a record with its cost, or the limit that ended the child."""

    tag: bytes
    content: bytes
    cpu_seconds: float
    verdict: Verdict | None = None
    """The limit that ended the child, as a verdict; None if there is a record."""
    detail: str = ""
    waited_seconds: float = 0.0
    """Time that a child which was taken to be asleep spent without a core."""

    def same_as(self, other: _Outcome) -> bool:
        """Whether the program did the same. Messages of exceptions may hold addresses, so they are not compared."""
        return self.tag == other.tag and (self.content == other.content or self.tag == child.RAISED)


def verify(pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]], cpu_seconds: float | None = None) -> list[Judgement]:
    """Judge candidates, in order. Equal work is done once, so equal candidates get equal judgements.

    Programs that cannot see their names, and that differ in these and in layout only, are equal. A message in a
    judgement may then hold the names of another one of them.

    Args:
        pool: The sandbox.
        pairs: The candidates, each with its puzzle.
        cpu_seconds: CPU limit of a candidate, below the pool's; None for the pool's.

    Raises:
        SandboxError: The sandbox or the machine failed. A failure never becomes a verdict.
    """
    keys = [(puzzle.judged, candidate.form or (candidate.run, candidate.calls)) for puzzle, candidate in pairs]
    unique: dict[Hashable, tuple[Puzzle, Candidate]] = {}
    for key, pair in zip(keys, pairs, strict=True):
        unique.setdefault(key, pair)
    judgements = dict(zip(unique, _verify_unique(pool, list(unique.values()), cpu_seconds), strict=True))
    return [judgements[key] for key in keys]


def verify_texts(pool: Pool, texts: Sequence[tuple[str, str | Text]]) -> list[Judgement]:
    """Judge pairs of a puzzle's text and a solution's text, as `selfplay verify` takes them, in order.

    A solution may be a `Text` of another form, such as the continuation of a prompt.
    """
    puzzles = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in texts])
    wanted = [
        replace(solution if isinstance(solution, Text) else Text(solution), rename={puzzle.original_name: "f"})
        for puzzle, (_, solution) in zip(puzzles, texts, strict=True)
        if isinstance(puzzle, Puzzle)
    ]
    candidates = iter(parse_candidates(pool, wanted))
    judgements: list[Judgement | None] = []
    pairs: list[tuple[Puzzle, Candidate]] = []
    for puzzle in puzzles:
        if isinstance(puzzle, ParseFailure):
            judgements.append(Judgement(Verdict.INVALID_PUZZLE, str(puzzle)))
            continue
        candidate = next(candidates)
        if isinstance(candidate, ParseFailure):
            judgements.append(Judgement(Verdict.INVALID_SOLUTION, str(candidate)))
        else:
            judgements.append(None)
            pairs.append((puzzle, candidate))
    judged = zip(verify(pool, pairs), pairs, strict=True)
    found = (
        replace(judgement, left_out=candidate.left_out) if candidate.left_out else judgement
        for judgement, (_, candidate) in judged
    )
    return [judgement or next(found) for judgement in judgements]


def encoded_answers(pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]]) -> list[bytes | None]:
    """Each candidate's answer, encoded; None if it gives none of the declared type.

    Dicts keep their own order here, because a puzzle may see it. The literal in a judgement has them sorted.
    """
    outcomes = zip(pairs, _solve_alone(pool, pairs), strict=True)
    return [_read_answer(puzzle, outcome, pool.limits.answer_bytes)[1] for (puzzle, _), outcome in outcomes]


def _verify_unique(pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]], cpu_seconds: float | None) -> list[Judgement]:
    """Judge distinct pairs. A run beside others may settle a rejection; an accept always needs a run alone."""
    outcomes = _solve_together(pool, pairs)
    alone = [i for i, (_, candidate) in enumerate(pairs) if i not in outcomes or candidate.id < AUDITED_BELOW]
    audited = {index: outcomes[index] for index in alone if index in outcomes}
    outcomes.update(zip(alone, _solve_alone(pool, [pairs[index] for index in alone], cpu_seconds), strict=True))
    judgements = _judge(pool, pairs, [outcomes[index] for index in range(len(pairs))])
    for index, before in audited.items():
        judgements[index] = _noted(judgements[index], before, outcomes[index])
    beside = set(range(len(pairs))).difference(alone)
    held = [i for i in sorted(beside) if judgements[i].verdict == Verdict.ACCEPTED]
    again = dict(zip(held, _solve_alone(pool, [pairs[index] for index in held], cpu_seconds), strict=True))
    other = [index for index in held if not again[index].same_as(outcomes[index])]
    others = dict(zip(other, _judge(pool, [pairs[i] for i in other], [again[i] for i in other]), strict=True))
    for index, outcome in again.items():
        judgement = others.get(index, replace(judgements[index], cpu_seconds=outcome.cpu_seconds))
        if judgement.verdict not in (Verdict.ACCEPTED, *LIMITS):
            judgement = replace(judgement, verdict=Verdict.UNSTABLE)
        judgements[index] = _noted(judgement, outcomes[index], outcome)
    return judgements


def _noted(judgement: Judgement, beside: _Outcome, alone: _Outcome) -> Judgement:
    """The judgement by the candidate's own child, with a note if the shared child saw something else."""
    if alone.same_as(beside):
        return judgement
    shown = [_shown_outcome(outcome) for outcome in (beside, alone)]
    return replace(judgement, detail=f"solve: beside others it {shown[0]}, alone it {shown[1]}")


def _judge(pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]], outcomes: Sequence[_Outcome]) -> list[Judgement]:
    """Judge candidates by their outcomes; equal answers to one puzzle are judged once."""
    read = [
        _read_answer(puzzle, outcome, pool.limits.answer_bytes)
        for (puzzle, _), outcome in zip(pairs, outcomes, strict=True)
    ]
    judgements, answers = [judgement for judgement, _ in read], [answer for _, answer in read]
    blamed = _blame_puzzles(pool, pairs, judgements)
    questions = {
        (puzzle.judged, answer): (puzzle, answer)
        for (puzzle, _), answer in zip(pairs, answers, strict=True)
        if answer is not None
    }
    verdicts = dict(zip(questions, judge_answers(pool, list(questions.values())), strict=True))
    for index, answer in enumerate(answers):
        if answer is not None:
            solved, judged = judgements[index], verdicts[pairs[index][0].judged, answer]
            kept = answer if judged.verdict == Verdict.ACCEPTED else None
            judgements[index] = replace(judged, answer=solved.answer, cpu_seconds=solved.cpu_seconds, encoded=kept)
    return [blamed.get(index, judgement) for index, judgement in enumerate(judgements)]


def _solve_alone(
    pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]], cpu_seconds: float | None = None
) -> Iterator[_Outcome]:
    """The outcome of each candidate in a child of its own. The puzzle is loaded too, so a candidate may call `f`."""
    jobs = (
        Job(
            RUN_PROGRAM,
            _solve_payload(pool, puzzle, [candidate]),
            SOLVE_WORLD,
            f"candidate {candidate.id} of puzzle {puzzle.id}",
            cpu_seconds,
        )
        for puzzle, candidate in pairs
    )
    return (_outcomes(result, 1)[0] for result in pool.run(jobs))


def _solve_together(pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]]) -> dict[int, _Outcome]:
    """Provisional outcomes by index. A candidate without one must run alone."""

    def payload(batch: Sequence[int]) -> bytes:
        return _solve_payload(pool, pairs[batch[0]][0], [pairs[index][1] for index in batch])

    sizes = [len(candidate.run[0].encode("utf-8", "surrogatepass")) for _, candidate in pairs]
    kinds = [(puzzle.judged, candidate.run[1], candidate.calls) for puzzle, candidate in pairs]
    return _share(pool, kinds, sizes, payload, SOLVE_WORLD)


def _solve_payload(pool: Pool, puzzle: Puzzle, candidates: Sequence[Candidate]) -> bytes:
    """Payload that runs candidates whose functions have one name, and which call the puzzle by one name."""
    texts, entry = [candidate.run[0] for candidate in candidates], candidates[0].run[1]
    seen = child.Seen(*puzzle.judged, alias=candidates[0].calls)
    return child.program([], entry, [child.NO_ARGUMENTS] * len(texts), pool.limits.answer_bytes, texts, seen)


def _share(
    pool: Pool, kinds: Sequence[Hashable], sizes: Sequence[int], payload: Callable[[Sequence[int]], bytes], world: int
) -> dict[int, _Outcome]:
    """Outcomes by index, for all that may share a child with others of the same kind and met no limit there."""
    outcomes: dict[int, _Outcome] = {}
    batches = list(_batches(pool, kinds, sizes))
    cpu_seconds = min(SHARED_CPU_SECONDS, pool.limits.cpu_seconds)
    while batches := [batch for batch in batches if len(batch) > 1]:
        jobs = (
            Job(RUN_TOGETHER, payload(batch), world, f"{len(batch)} programs or answers of one puzzle", cpu_seconds)
            for batch in batches
        )
        rest: list[list[int]] = []
        for batch, result in zip(batches, pool.run(jobs), strict=True):
            done = _outcomes(result, len(result.records))
            outcomes.update((index, outcome) for index, outcome in zip(batch, done, strict=False) if _settles(outcome))
            if len(done) >= WORTH_SHARING:
                rest.append(batch[len(done) + 1 :])  # without the one that ended the child: it runs alone
        batches = rest
    return outcomes


def _batches(pool: Pool, kinds: Sequence[Hashable], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices that may share a child: all of one kind, and together no larger than the answer limit."""
    by_kind: dict[Hashable, list[int]] = {}
    for index, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(index)
    for indices in by_kind.values():
        batch: list[int] = []
        total = 0
        for index in indices:
            if batch and (len(batch) == MOST_SHARING or total + sizes[index] > pool.limits.answer_bytes):
                yield batch
                batch, total = [], 0
            batch.append(index)
            total += sizes[index]
        yield batch


def _settles(outcome: _Outcome) -> bool:
    """Whether a shared child's outcome can settle a rejection: only if no limit can have caused it."""
    if outcome.verdict is not None or outcome.tag in (child.REFUSED, child.MEMORY):
        return False
    return not (outcome.tag == child.RAISED and outcome.content.startswith((b"RecursionError", b"MemoryError")))


def _shown_outcome(outcome: _Outcome) -> str:
    if outcome.verdict is not None:
        return f"met {outcome.verdict}"
    if outcome.tag == child.VALUE:
        return f"returned {_shown_value(outcome.content)}"
    return f"ended with {printable(outcome.content)}"


def _read_answer(puzzle: Puzzle, outcome: _Outcome, answer_bytes: int) -> tuple[Judgement, bytes | None]:
    """The judgement so far, and the encoded answer that is still to be judged, or None."""
    cpu_seconds = outcome.cpu_seconds
    if outcome.verdict is not None:
        detail = f"solve: {outcome.detail}"
        return Judgement(outcome.verdict, detail, None, cpu_seconds, waited_seconds=outcome.waited_seconds), None
    if outcome.tag == child.UNANSWERABLE:
        return Judgement(Verdict.UNANSWERABLE_VALUE, f"solve: {printable(outcome.content)}", None, cpu_seconds), None
    if outcome.tag == child.MEMORY:
        return Judgement(Verdict.MEMORY_LIMIT, "solve: out of memory", None, cpu_seconds), None
    if outcome.tag != child.VALUE:
        return Judgement(Verdict.RUNTIME_ERROR, f"solve: {printable(outcome.content)}", None, cpu_seconds), None
    # A program can write into its own report, so the report is checked again. It can only spoil its own answer.
    if len(outcome.content) > answer_bytes:
        return Judgement(Verdict.UNANSWERABLE_VALUE, "solve: over the answer limit", None, cpu_seconds), None
    try:
        value = codec.decode(outcome.content)
    except codec.CodecError as error:
        return Judgement(Verdict.UNANSWERABLE_VALUE, f"solve: {error}", None, cpu_seconds), None
    answer = codec.literal(value)
    if not answer_type.matches(value, puzzle.answer_type):
        detail = f"solve: {_shorten(answer)} is not of type {puzzle.answer_type}"
        return Judgement(Verdict.WRONG_TYPE, detail, answer, cpu_seconds), None
    return Judgement(Verdict.WRONG_ANSWER, "", answer, cpu_seconds), outcome.content


def _blame_puzzles(
    pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]], judgements: Sequence[Judgement]
) -> dict[int, Judgement]:
    """Judgements by index for candidates whose puzzle is at fault, because it does not load.

    A candidate's child may have forged such a report, so a child with only the puzzle decides.
    """
    suspects = [index for index, judgement in enumerate(judgements) if _no_puzzle(judgement)]
    puzzles = {pairs[index][0].judged: pairs[index][0] for index in suspects}
    jobs = [_judge_job(pool, puzzle, [], JUDGE_WORLD) for puzzle in puzzles.values()]
    results = dict(zip(puzzles, pool.run(jobs), strict=True))
    blamed = {}
    for index in suspects:
        result = results[pairs[index][0].judged]
        if result.status != Status.FINISHED or result.records:
            detail = printable(result.records[0][2:]) if result.records else result.detail
            blamed[index] = Judgement(Verdict.INVALID_PUZZLE, f"judge: it does not load: {detail}")
    return blamed


def _no_puzzle(judgement: Judgement) -> bool:
    return judgement.verdict in (Verdict.RUNTIME_ERROR, Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT)


def judge_answers(pool: Pool, questions: Sequence[Question]) -> list[Judgement]:
    """Judge encoded answers of the declared type, in order. Accepts are confirmed in a second world."""
    provisional = judge_once(pool, questions, JUDGE_WORLD)
    accepted = [index for index, outcome in enumerate(provisional) if _is_true(outcome)]
    # The order is reversed, so that different answers come before each answer the second time.
    again = judge_once(pool, [questions[index] for index in reversed(accepted)], CONFIRM_WORLD)
    confirmed = dict(zip(reversed(accepted), again, strict=True))
    return [_verdict(outcome, confirmed.get(index)) for index, outcome in enumerate(provisional)]


def judge_once(pool: Pool, questions: Sequence[Question], world: int) -> list[_Outcome]:
    """Outcomes of `f(answer)` in one world. The answers to a harmless puzzle share a child."""

    def payload(batch: Sequence[int]) -> bytes:
        return _judge_payload(pool, questions[batch[0]][0], [questions[index][1] for index in batch])

    sizes = [len(answer) for _, answer in questions]
    outcomes = _share(pool, [puzzle.judged for puzzle, _ in questions], sizes, payload, world)
    alone = [index for index in range(len(questions)) if index not in outcomes]
    jobs = (_judge_job(pool, questions[index][0], [questions[index][1]], world) for index in alone)
    for index, result in zip(alone, pool.run(jobs), strict=True):
        outcomes[index] = _outcomes(result, 1)[0]
    return [outcomes[index] for index in range(len(questions))]


def accepts(pool: Pool, asked: Sequence[tuple[Puzzle, Sequence[bytes]]]) -> list[list[bool | None]]:
    """Which of many encoded answers each puzzle accepts, without confirmation; None where a limit was met.

    This answers whether two puzzles are alike. It is not good enough for a verdict: all runs are in one world, and the
    answers to a puzzle share a child. If an answer ends the child, another child continues with the next answer, until
    MOST_CHILDREN were spent on the puzzle.

    Args:
        pool: Runs the children.
        asked: Puzzles, each with the encoded answers it is asked about.
    """
    cpu_seconds = min(ASKED_CPU_SECONDS, pool.limits.cpu_seconds)
    outcomes: list[list[bool | None]] = [[] for _ in asked]
    for _ in range(MOST_CHILDREN):
        waiting = [index for index, (_, answers) in enumerate(asked) if len(outcomes[index]) < len(answers)]
        rests = [_fitting(pool, asked[index][1][len(outcomes[index]) :]) for index in waiting]
        jobs = (
            replace(_judge_job(pool, asked[index][0], rest, JUDGE_WORLD), cpu_seconds=cpu_seconds)
            for index, rest in zip(waiting, rests, strict=True)
        )
        for index, rest, result in zip(waiting, rests, pool.run(jobs), strict=True):
            records = result.records[: len(rest)]
            outcomes[index] += [record == child.VALUE + b"true" for record in records]
            outcomes[index] += [None] * (len(records) < len(rest))
    return [done + [None] * (len(answers) - len(done)) for done, (_, answers) in zip(outcomes, asked, strict=True)]


def _fitting(pool: Pool, answers: Sequence[bytes]) -> Sequence[bytes]:
    """The first answers, as many as fit into one job's payload."""
    totals = itertools.accumulate(len(answer) + 8 for answer in answers)
    return answers[: max(1, sum(total <= 2 * pool.limits.answer_bytes for total in totals))]


def _judge_payload(pool: Pool, puzzle: Puzzle, answers: Sequence[bytes]) -> bytes:
    calls = [b"[" + answer + b"]" for answer in answers]
    source, entry = puzzle.judged
    return child.program([source], entry, calls, pool.limits.answer_bytes)


def _judge_job(pool: Pool, puzzle: Puzzle, answers: Sequence[bytes], world: int) -> Job:
    return Job(RUN_PROGRAM, _judge_payload(pool, puzzle, answers), world, f"judging puzzle {puzzle.id}")


def _outcomes(result: Result, calls: int) -> list[_Outcome]:
    """One outcome per call of a job. A call without a record gets the limit that ended the child.

    The record of an only call counts if the child ended well. A program can write into its own report and go on.
    """
    share = result.cpu_seconds / max(calls, 1)
    records = result.records if calls > 1 or result.status == Status.FINISHED else ()
    outcomes = [_outcome(record, share) for record in records[:calls]]
    verdict = VERDICT_OF_STATUS.get(result.status, Verdict.RUNTIME_ERROR)
    detail = result.detail or "it left no report"
    is_asleep = result.status == Status.WALL_LIMIT
    waited_seconds = max(0.0, result.wall_seconds - result.cpu_seconds) if is_asleep else 0.0
    return outcomes + [_Outcome(b"", b"", share, verdict, detail, waited_seconds)] * (calls - len(outcomes))


def _outcome(record: bytes, cpu_seconds: float) -> _Outcome:
    tag = record[:1]
    return _Outcome(tag, record[2:] if tag == child.NOT_LOADED else record[1:], cpu_seconds)


def _is_true(outcome: _Outcome) -> bool:
    return outcome.verdict is None and outcome.tag == child.VALUE and outcome.content == b"true"


def _verdict(judged: _Outcome, confirmed: _Outcome | None) -> Judgement:
    if confirmed is None:
        verdict, detail = _rejection(judged)
        return Judgement(verdict, f"judge: {detail}", waited_seconds=judged.waited_seconds)
    if _is_true(confirmed):
        return Judgement(Verdict.ACCEPTED, "", judge_cpu_seconds=confirmed.cpu_seconds)
    verdict, detail = _rejection(confirmed)
    if confirmed.verdict is not None and verdict in LIMITS:
        # The answer needs about the limit: that is a fact about the machine, and no disagreement of the worlds.
        return Judgement(verdict, f"confirm: {detail}", waited_seconds=confirmed.waited_seconds)
    detail = f"{WORLDS_DISAGREE}: accepted in one, in another {verdict}: {detail}"
    return Judgement(Verdict.UNSTABLE, detail, waited_seconds=confirmed.waited_seconds)


def _rejection(outcome: _Outcome) -> tuple[Verdict, str]:
    if outcome.verdict is not None:
        # If f crashes on an answer, it rejects the answer. If f meets a limit, it does not decide.
        died = outcome.verdict == Verdict.RUNTIME_ERROR
        return (Verdict.WRONG_ANSWER if died else outcome.verdict), outcome.detail
    if outcome.tag == child.NOT_LOADED:
        return Verdict.INVALID_PUZZLE, f"it does not load: {printable(outcome.content)}"
    if outcome.tag == child.MEMORY:
        return Verdict.MEMORY_LIMIT, "out of memory"
    if outcome.tag == child.RAISED:
        return Verdict.WRONG_ANSWER, f"f raised {printable(outcome.content)}"
    if outcome.tag == child.UNANSWERABLE:
        return Verdict.WRONG_ANSWER, f"f returned no bool: {printable(outcome.content)}"
    return Verdict.WRONG_ANSWER, f"f returned {_shown_value(outcome.content)}"


def _shown_value(encoded: bytes) -> str:
    try:
        return _shorten(codec.literal(codec.decode(encoded)))
    except codec.CodecError:
        return "something unreadable"


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


@dataclass(frozen=True)
class Refusal:
    """Why a puzzle was not admitted. This is data, not a failure of our own."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


REASONS = {
    "bool_answer": "the answer is not a bare bool: one guess in two is right",
    "import": "a puzzle imports pure modules only",
    "does_not_load": "the puzzle's text runs",
    "never_true": "the text does not prove that no answer is accepted",
    "always_raises": "some answer of the right type comes to an end without an error of the program itself",
    "never_bool": "the text does not prove that no value is a bool",
    "trivial": "a fixed list of trivial answers is rejected",
    "unstable": "three worlds agree",
    "seen_by_itself": "the text with the canonical names, which a model is shown, says the same as the author's",
    "too_slow": "judging takes less than half the limits",
}
"""Every reason for which `admit` refuses a puzzle, and what is expected instead."""


def admit(pool: Pool, puzzles: Sequence[Puzzle]) -> list[Refusal | None]:
    """Whether each puzzle may be trained on: it must be typed, pure, deterministic, quick, and not trivial, and nothing
    may prove that no answer is right.

    Returns:
        The refusal of each puzzle, in order; None for an admitted one.
    """
    refusals: list[Refusal | None] = [_static_refusal(puzzle) for puzzle in puzzles]
    asked = [index for index, refusal in enumerate(refusals) if refusal is None]
    silent: list[int] = []
    jobs: list[Job] = []
    for index in asked:
        answers = [encoded for _, encoded in _trivial_answers(pool, puzzles[index])]
        jobs += [_judge_job(pool, puzzles[index], answers, world) for world in WORLDS]
    results = pool.run(jobs)
    for index in asked:
        reports = [next(results) for _ in WORLDS]
        refusals[index] = _trivial_refusal(pool, puzzles[index], reports)
        if refusals[index] is None and not any(record in BOOLS for record in reports[0].records):
            silent.append(index)
    for index in silent:
        refusals[index] = _hopeless(pool, puzzles[index])
    admitted = [index for index, refusal in enumerate(refusals) if refusal is None and puzzles[index].text]
    changed = changed_by_names(pool, [(puzzles[index], ()) for index in admitted])
    for index, said in zip(admitted, changed, strict=True):
        refusals[index] = Refusal("seen_by_itself", said) if said else None
    return refusals


def changed_by_names(pool: Pool, asked: Sequence[tuple[Puzzle, Sequence[bytes]]]) -> list[str]:
    """What the author's text and the canonical one disagree about, for each puzzle; an empty text if they agree.

    Args:
        pool: The sandbox.
        asked: Puzzles, each with encoded answers that its author's text accepts. Probes are asked beside them.
    """
    found = [""] * len(asked)
    jobs, probes = list[Job](), list[list[bytes]]()
    for puzzle, answers in asked:
        known = [encoded for _, encoded in _encoded(pool, answer_type.probes(puzzle.answer_type))]
        probes.append([*dict.fromkeys([*answers, *_fitting(pool, known)])])
        canonical = replace(puzzle, text="")
        jobs += [_judge_job(pool, each, probes[-1], JUDGE_WORLD) for each in (puzzle, canonical) if puzzle.text]
    results = pool.run(jobs)
    for index, (puzzle, _) in enumerate(asked):
        if puzzle.text:
            own, canonical_said = [_outcomes(next(results), len(probes[index])) for _ in range(2)]
            for answer, one, other in zip(probes[index], own, canonical_said, strict=True):
                if one.verdict is not None or other.verdict is not None:
                    break  # a limit says nothing about the texts
                if one.tag != other.tag or (one.tag == child.VALUE and one.content != other.content):
                    told = f"{_shown_outcome(one)}, with canonical names it {_shown_outcome(other)}"
                    found[index] = f"for {_shown_value(answer)} the author's text {told}"
                    break
    return found


BOOLS = (child.VALUE + b"true", child.VALUE + b"false")
PROGRAM_ERRORS = re.compile(r"(?:NameError|ImportError|(?:TypeError|AttributeError)(?!.*NoneType))\b")
"""Errors that lie in a program, whatever answer it is given. One about `NoneType` may come from a search that found
nothing in this answer."""


def _hopeless(pool: Pool, puzzle: Puzzle) -> Refusal | None:
    """The refusal of a puzzle that raises errors of the program on all probes."""
    answers = _encoded(pool, answer_type.probes(puzzle.answer_type))
    outcomes = judge_once(pool, [(puzzle, encoded) for _, encoded in answers], JUDGE_WORLD)
    raised = [printable(outcome.content) for outcome in outcomes if outcome.tag == child.RAISED]
    is_hopeless = len(raised) == len(outcomes) and all(map(PROGRAM_ERRORS.match, raised))
    return Refusal("always_raises", raised[0]) if is_hopeless else None


def _trivial_answers(pool: Pool, puzzle: Puzzle) -> list[tuple[Any, bytes]]:
    """Trivial answers to a puzzle that are within the answer limit, each with its encoding."""
    return _encoded(pool, answer_type.trivial_answers(puzzle.answer_type))


def _encoded(pool: Pool, answers: Sequence[Any]) -> list[tuple[Any, bytes]]:
    """Those of the answers that are within the answer limit, each with its encoding."""
    within = []
    for answer in answers:
        with contextlib.suppress(codec.CodecError):
            within.append((answer, codec.encode(answer, pool.limits.answer_bytes)))
    return within


def _static_refusal(puzzle: Puzzle) -> Refusal | None:
    if puzzle.answer_type == "bool":
        return Refusal("bool_answer")
    if puzzle.impossible:
        return Refusal("never_bool" if puzzle.impossible == NO_BOOL else "never_true", puzzle.impossible)
    impure = [module for module in puzzle.imports if module not in PURE_MODULES]
    return Refusal("import", f"{impure[0]} is not one of {' '.join(PURE_MODULES)}") if impure else None


def _trivial_refusal(pool: Pool, puzzle: Puzzle, results: Sequence[Result]) -> Refusal | None:
    answers = _trivial_answers(pool, puzzle)
    for result in results:
        if result.records and result.records[0][:1] == child.NOT_LOADED:
            return Refusal("does_not_load", printable(result.records[0][2:]))
        if result.status != Status.FINISHED or len(result.records) != len(answers):
            return Refusal("too_slow", f"{result.status} on trivial answers: {result.detail or 'it left no report'}")
    for position, (answer, _) in enumerate(answers):
        if results[0].records[position] == child.VALUE + b"true":
            return Refusal("trivial", f"{codec.literal(answer)} is accepted")
    if any(result.records != results[0].records for result in results):
        return Refusal("unstable", "worlds disagree on a trivial answer")
    if max(result.cpu_seconds for result in results) > pool.limits.cpu_seconds / 2:
        return Refusal("too_slow", "over half the CPU limit on trivial answers")
    return None


def too_slow_to_judge(pool: Pool, judgement: Judgement) -> bool:
    """Whether judging the answer took half the CPU limit or more, so that the verdict may depend on the machine."""
    return judgement.judge_cpu_seconds >= pool.limits.cpu_seconds / 2
