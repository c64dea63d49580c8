"""What an archive from elsewhere says about its texts is computed anew, or judged anew, in a copy of it.

The id, skeleton, answer type and header of a puzzle follow from its text, as does the id of a solution. So they are
never taken from the file: a held-out puzzle under a forged id would pass the guard. A verdict follows from a run in the
sandbox. What does not hold goes to `refusals`, with the reason. What cannot be computed (names, dates, origins, numbers
of candidates) stays as the file tells it.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from puzzles.archive.identity import ROWS, follow
from puzzles.archive.store import Archive
from puzzles.parse import ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle, Verdict
from puzzles.verify import verify
from sandbox.pool import Pool

_AUTHORS = "coalesce(nullif({0}.program, ''), {0}.source)"
"""SQL: the text that is judged, of a puzzle or solution."""
WITHOUT_A_PUZZLE = "of a refused puzzle"
"""Reason for which a solution is refused whose puzzle is no puzzle."""
NOT_HELD = "accepted without a pair"
"""What the count of candidates is called whose acceptance nothing here supports."""


def compute_identities(archive: Archive, pool: Pool) -> Counter[str]:
    """Compute what follows from the texts of an archive, and refuse the texts that are no puzzle or solution.

    Returns:
        The number of refused texts by reason. The texts are in `refusals` afterwards.
    """
    with archive.transaction():
        refused: Counter[str] = Counter()
        puzzles = _compute_puzzles(archive, pool, refused)
        solutions = _compute_solutions(archive, pool, refused)
        follow(archive.connection, puzzles, solutions)
        _drop_orphans(archive)
    archive.index()
    return refused


def judge_pairs(archive: Archive, pool: Pool, protections: Mapping[str, object]) -> Counter[str]:
    """Judge every pair of an archive. A pair that holds gets the answer, cost and protections of this judgement.

    Args:
        archive: An archive whose identities have been computed here.
        pool: The sandbox that judges.
        protections: The sandbox's verified protections.

    Returns:
        The number of pairs and candidates that do not hold by reason. The solutions are in `refusals` afterwards.
    """
    refused: Counter[str] = Counter()
    with archive.transaction():
        identifier = archive.add_protections(protections)
        for rows in _batches(
            archive,
            f"SELECT s.number, p.name, {_AUTHORS.format('p')}, {_AUTHORS.format('s')}, s.program != '', s.puzzle_name"
            " FROM solutions s JOIN puzzles p ON p.id = s.puzzle WHERE s.number > ? ORDER BY s.number LIMIT ?",
        ):
            _judge(archive, pool, identifier, rows, refused)
        unsupported = archive.connection.execute(
            "DELETE FROM candidates WHERE verdict = 'accepted' AND NOT EXISTS (SELECT 1 FROM solutions s"
            " WHERE s.puzzle = candidates.puzzle AND s.id = candidates.candidate)"
        ).rowcount
        if unsupported:
            refused[NOT_HELD] = unsupported
        archive.connection.execute(
            "DELETE FROM protections WHERE id NOT IN (SELECT protections FROM solutions) AND id != ?", (identifier,)
        )
    return refused


def _batches(archive: Archive, sql: str) -> Iterator[list[Any]]:
    """The rows of a query that numbers them, in batches. A batch may be deleted before the next is read."""
    number = -(2**63)
    while rows := archive.query(sql, number, ROWS):
        number = rows[-1][0]
        yield rows


def _compute_puzzles(archive: Archive, pool: Pool, refused: Counter[str]) -> dict[str, str]:
    """Renew the rows of puzzles; returns the new ids by the old ones."""
    renewed: dict[str, str] = {}
    moved: list[tuple[int, str]] = []
    aside = f"renewed-{secrets.token_hex(8)}-"
    for rows in _batches(
        archive,
        f"SELECT number, id, name, {_AUTHORS.format('p')} FROM puzzles p WHERE number > ? ORDER BY number LIMIT ?",
    ):
        parsed = parse_puzzles(pool, [Text(row[3]) for row in rows])
        for (number, old, name, source), puzzle in zip(rows, parsed, strict=True):
            if isinstance(puzzle, ParseFailure):
                _refuse_puzzle(archive, number, old, (name, source), puzzle, refused)
                continue
            archive.connection.execute(
                "UPDATE puzzles SET source = ?, answer_type = ?, header = ?, skeleton = ?, program = ?, entry = ?"
                " WHERE number = ?",
                (
                    puzzle.source,
                    puzzle.answer_type,
                    puzzle.header,
                    puzzle.skeleton,
                    puzzle.text,
                    puzzle.judged[1],
                    number,
                ),
            )
            if puzzle.id != old:
                # No row keeps a wrong id for a moment: the id may be the right one of another row.
                renewed[old] = puzzle.id
                moved.append((number, puzzle.id))
                archive.connection.execute("UPDATE puzzles SET id = ? WHERE number = ?", (f"{aside}{number}", number))
    for number, identifier in moved:
        if archive.puzzle_ids("id = ?", identifier):
            archive.connection.execute("DELETE FROM puzzles WHERE number = ?", (number,))
        else:
            archive.connection.execute("UPDATE puzzles SET id = ? WHERE number = ?", (identifier, number))
    return renewed


def _refuse_puzzle(
    archive: Archive, number: int, identifier: str, texts: tuple[str, str], why: ParseFailure, refused: Counter[str]
) -> None:
    name, source = texts
    refused[f"puzzle: {why.rule}"] += 1
    archive.add_refusal(name, "puzzle", why.rule, str(why), source)
    for (solution,) in archive.query("SELECT source FROM solutions WHERE puzzle = ?", identifier):
        refused[f"solution: {WITHOUT_A_PUZZLE}"] += 1
        archive.add_refusal(name, "solution", WITHOUT_A_PUZZLE, "", solution)
    archive.connection.execute("DELETE FROM puzzles WHERE number = ?", (number,))
    archive.connection.execute("DELETE FROM solutions WHERE puzzle = ?", (identifier,))


def _compute_solutions(archive: Archive, pool: Pool, refused: Counter[str]) -> dict[tuple[str, str], str]:
    """Renew the rows of solutions; returns their new ids by the old ids of puzzle and solution."""
    renewed: dict[tuple[str, str], str] = {}
    for rows in _batches(
        archive,
        f"SELECT number, puzzle, id, {_AUTHORS.format('s')}, program != '', puzzle_name FROM solutions s"
        " WHERE number > ? ORDER BY number LIMIT ?",
    ):
        parsed = parse_candidates(pool, [_solution(*row[3:]) for row in rows])
        for (number, puzzle, old, source, *_), candidate in zip(rows, parsed, strict=True):
            if isinstance(candidate, ParseFailure):
                refused[f"solution: {candidate.rule}"] += 1
                archive.add_refusal(puzzle, "solution", candidate.rule, str(candidate), source)
                archive.connection.execute("DELETE FROM solutions WHERE number = ?", (number,))
                continue
            archive.connection.execute(
                "UPDATE solutions SET source = ?, program = ?, entry = ?, puzzle_name = ? WHERE number = ?",
                (candidate.source, candidate.text, candidate.run[1], candidate.calls, number),
            )
            if candidate.id != old:
                renewed[puzzle, old] = candidate.id
    return renewed


def _solution(text: str, is_authors: bool, puzzle_name: str) -> Text:
    """A solution's text as it is parsed. An author's text calls the puzzle by a name of its own."""
    return Text(text, rename={puzzle_name: "f"} if is_authors else {})


def _drop_orphans(archive: Archive) -> None:
    """Delete the rows about puzzles that are not here. Nothing may wait for a puzzle to come."""
    for table in ("solutions", "candidates", "trained", "contamination"):
        archive.connection.execute(f"DELETE FROM {table} WHERE puzzle NOT IN (SELECT id FROM puzzles)")


def _judge(archive: Archive, pool: Pool, protections: str, rows: Sequence[Any], refused: Counter[str]) -> None:
    puzzles = parse_puzzles(pool, [Text(row[2]) for row in rows])
    candidates = parse_candidates(pool, [_solution(*row[3:]) for row in rows])
    pairs = [
        (puzzle, candidate)
        for puzzle, candidate in zip(puzzles, candidates, strict=True)
        if isinstance(puzzle, Puzzle) and isinstance(candidate, Candidate)
    ]
    if len(pairs) != len(rows):
        raise ValueError("expected texts whose identities have been computed here")
    for (number, name, _, source, *_), judgement in zip(rows, verify(pool, pairs), strict=True):
        if judgement.verdict == Verdict.ACCEPTED:
            archive.connection.execute(
                "UPDATE solutions SET answer = ?, cpu_seconds = ?, judge_cpu_seconds = ?, protections = ?"
                " WHERE number = ?",
                (judgement.answer, judgement.cpu_seconds, judgement.judge_cpu_seconds, protections, number),
            )
            continue
        refused[f"solution: {judgement.verdict}"] += 1
        archive.add_refusal(name, "solution", str(judgement.verdict), judgement.detail, source)
        archive.connection.execute("DELETE FROM solutions WHERE number = ?", (number,))
