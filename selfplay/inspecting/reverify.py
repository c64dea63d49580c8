"""Judge all pairs of an archive again: is each one still a verified pair on this machine?

A finding is a difference from what is stored: a text that does not have the stored id, a solution that is not accepted,
or another answer. Progress is kept in a file beside the archive, so that the same command resumes where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from puzzles.archive.store import Archive
from puzzles.foreign import parse_json
from puzzles.parse import ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, InputError, Puzzle, Verdict, content_hash
from puzzles.verify import verify
from puzzles.writing import open_in_place
from sandbox.pool import Pool
from selfplay.config import SandboxConfig
from selfplay.run.rundir import append_line, read_lines

BATCH = 500
"""Pairs judged between two notes of progress."""


@dataclass(frozen=True)
class Found:
    """A stored pair that differs from what is found now."""

    puzzle: str
    solution: str
    what: str
    """What differs: `puzzle`, `answer_type`, `header`, `puzzle_source`, `solution`, `source`, `verdict` or `answer`."""
    stored: str
    now: str


@dataclass(frozen=True)
class StoredPair:
    """A pair as the archive stores it."""

    number: int
    puzzle: str
    puzzle_source: str | None
    """Source of the puzzle; None if the archive has no such puzzle."""
    answer_type: str | None
    header: str | None
    solution: str
    source: str
    answer: str | None
    puzzle_text: str | None
    """The author's program; empty if `puzzle_source` is that program."""
    text: str
    """The author's program of the solution; empty if `source` is that program."""
    puzzle_name: str

    @property
    def judged(self) -> tuple[Text, Text]:
        """The texts of the puzzle and of the solution that are judged."""
        rename = {self.puzzle_name: "f"} if self.text else {}
        return Text(self.puzzle_text or self.puzzle_source or ""), Text(self.text or self.source, rename=rename)


MOST_STORED: Mapping[str, float] = {
    "cpu_seconds": 60.0, "memory_bytes": 4 * 1024**3, "answer_bytes": 64 * 1024**2, "recursion_limit": 1_000_000,
}  # fmt: skip
"""Largest limits that are taken from an archive."""


def stored_limits(archive: Archive) -> dict[str, float]:
    """The largest of each limit that `archive import` was told to judge pairs of this archive with.

    The archive may come from somebody else, so none is above MOST_STORED. The settings may name a larger one.
    """
    largest: dict[str, float] = {}
    for (content,) in archive.query("SELECT content FROM protections"):
        limits = parse_json(content, f"{archive.path}, protections").get("limits", {})
        for name, value in limits.items() if isinstance(limits, dict) else ():
            if name in MOST_STORED and isinstance(value, int | float) and value > 0:
                largest[name] = max(min(value, MOST_STORED[name]), largest.get(name, 0))
    return largest


def at_least(sandbox: SandboxConfig, limits: Mapping[str, float]) -> SandboxConfig:
    """A sandbox with limits that are at least these, and of at least 1 s, so that a slower machine changes nothing."""
    cpu_seconds = max(1.0, sandbox.cpu_seconds, limits.get("cpu_seconds", 0))
    return replace(
        sandbox,
        cpu_seconds=cpu_seconds,
        wall_seconds=max(5.0, 5 * cpu_seconds),
        memory_mb=max(sandbox.memory_mb, math.ceil(limits.get("memory_bytes", 0) / 1024**2)),
        answer_kb=max(sandbox.answer_kb, math.ceil(limits.get("answer_bytes", 0) / 1024)),
        recursion_limit=max(sandbox.recursion_limit, int(limits.get("recursion_limit", 0))),
    )


Judge = Callable[[Sequence[StoredPair]], list[Found]]


def reverify(
    archive: Archive, judge: Judge, how: str, progress: Callable[[int], object] = lambda done: None
) -> tuple[list[Found], int]:
    """Judge every pair again.

    Args:
        archive: The archive. It is only read.
        judge: `judge_here` or `judge_elsewhere`.
        how: The conditions of judging. An interrupted session is resumed only under the same conditions.
        progress: Called with the number of pairs done since the last call.

    Returns:
        The differences in the order of the pairs; and the number of pairs that were not judged now, because an
        interrupted session has judged the same rows.
    """
    notes = archive.path.with_name(f"{archive.path.name}.reverify.jsonl")
    lines = read_lines(notes)
    if not lines or lines[0] != _head(how, archive.path, notes):
        lines = []
        notes.unlink(missing_ok=True)
        open_in_place(notes).close()
        append_line(notes, _head(how, archive.path, notes))
    judged = {line["rows"]: line["found"] for line in lines[1:]}
    found, earlier = list[Found](), 0
    for batch in _batches(archive):
        rows = content_hash(json.dumps([asdict(each) for each in batch]))
        if rows in judged:
            earlier += len(batch)
            found += [Found(**each) for each in judged[rows]]
        else:
            new = _orphans(batch) + judge([each for each in batch if each.puzzle_source is not None])
            found += new
            append_line(notes, {"rows": rows, "found": [asdict(each) for each in new]})
        progress(len(batch))
    notes.unlink(missing_ok=True)
    return found, earlier


def _head(how: str, *files: Path) -> dict[str, Any]:
    """What the first line of an interrupted session's notes says.

    It has the numbers that the file system gave to the archive and to the notes. So notes that somebody has put beside
    an archive, and that say that all was judged, are not believed.
    """
    return {"how": how, "files": [[found.st_dev, found.st_ino] for found in map(os.stat, files)]}


def _batches(archive: Archive) -> Iterator[list[StoredPair]]:
    number = 0
    while rows := archive.query(
        "SELECT s.number, s.puzzle, p.source, p.answer_type, p.header, s.id, s.source, s.answer, p.program, s.program,"
        " s.puzzle_name FROM solutions s LEFT JOIN puzzles p ON p.id = s.puzzle"
        " WHERE s.number > ? ORDER BY s.number LIMIT ?",
        number,
        BATCH,
    ):
        batch = [StoredPair(*row) for row in rows]
        number = batch[-1].number
        yield batch


def _orphans(batch: Sequence[StoredPair]) -> list[Found]:
    without = [each for each in batch if each.puzzle_source is None]
    return [Found(each.puzzle, each.solution, "puzzle", each.puzzle, "there is none") for each in without]


def judge_here(pool: Pool) -> Judge:
    """Judge with this Python and this sandbox. Ids are computed again too."""

    def judge(batch: Sequence[StoredPair]) -> list[Found]:
        puzzles = parse_puzzles(pool, [each.judged[0] for each in batch])
        candidates = parse_candidates(pool, [each.judged[1] for each in batch])
        both = zip(puzzles, candidates, strict=True)
        asked = [(p, c) for p, c in both if isinstance(p, Puzzle) and isinstance(c, Candidate)]
        judgements = iter(verify(pool, asked))
        found = []
        for each, puzzle, candidate in zip(batch, puzzles, candidates, strict=True):
            for what, stored, parsed in (("puzzle", each.puzzle, puzzle), ("solution", each.solution, candidate)):
                now = parsed.id if isinstance(parsed, Puzzle | Candidate) else str(parsed)
                if now != stored:
                    found.append(Found(each.puzzle, each.solution, what, stored, now))
            found += _shown_otherwise(each, puzzle, candidate)
            for what in ("answer_type", "header") if isinstance(puzzle, Puzzle) else ():
                stored, now = str(getattr(each, what)), getattr(puzzle, what)
                if now != stored:
                    found.append(Found(each.puzzle, each.solution, what, stored, now))
            if isinstance(puzzle, Puzzle) and isinstance(candidate, Candidate):
                judgement = next(judgements)
                found += _compared(each, judgement.verdict, judgement.answer)
        return found

    return judge


def _shown_otherwise(
    each: StoredPair, puzzle: Puzzle | ParseFailure, candidate: Candidate | ParseFailure
) -> Iterator[Found]:
    """Sources that do not follow from the author's programs. Prompts show sources and training learns them."""
    both = (
        ("puzzle_source", each.puzzle_text, each.puzzle_source, puzzle),
        ("source", each.text, each.source, candidate),
    )
    for what, program, stored, parsed in both:
        if program and not isinstance(parsed, ParseFailure) and parsed.source != stored:
            yield Found(each.puzzle, each.solution, what, str(stored), parsed.source)


def _compared(each: StoredPair, verdict: str, answer: str | None) -> list[Found]:
    if verdict != Verdict.ACCEPTED:
        return [Found(each.puzzle, each.solution, "verdict", "accepted", str(verdict))]
    if answer != each.answer:
        return [Found(each.puzzle, each.solution, "answer", str(each.answer), str(answer))]
    return []


def judge_elsewhere(python: str, options: Sequence[str]) -> Judge:
    """Judge with `selfplay verify` under another Python, which needs no installed packages. Ids are not checked.

    Raises:
        InputError: The other Python cannot be started, or fails.
    """
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from selfplay.commands.main import main; sys.exit(main())"
    command = [python, "-c", code, "verify", "-", *options]

    def judge(batch: Sequence[StoredPair]) -> list[Found]:
        texts = [[text.text for text in each.judged] for each in batch]
        lines = [
            {"id": each.number, "puzzle": puzzle, "solution": solution}
            for each, (puzzle, solution) in zip(batch, texts, strict=True)
        ]
        asked = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            done = subprocess.run(command, input=asked, capture_output=True, text=True, encoding="utf-8", check=False)
        except OSError as error:
            raise InputError(f"--python {python}: {error.strerror or error}") from None
        if done.returncode:
            raise InputError(f"--python {python}: it ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        said: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        return [
            found
            for each, line in zip(batch, said, strict=True)
            for found in _compared(each, line["verdict"], line["answer"])
        ]

    return judge
