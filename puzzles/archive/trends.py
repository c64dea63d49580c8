"""How an archive changes from iteration to iteration, told from its rows as they are now."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from puzzles.archive.store import OWN, Archive

BY_MODEL = "p.origin = 'model'"


def solve_rates(archive: Archive, iteration: int | None = None) -> dict[int, list[float]]:
    """By iteration, or of one alone: of each puzzle proposed in it that was tried, the share of its candidates that was
    accepted.
    """
    chosen, of_it = _chosen(iteration)
    return _lists(
        archive.query(
            "SELECT p.iteration, avg(c.verdict = 'accepted') FROM puzzles p JOIN candidates c ON c.puzzle = p.id"
            f" WHERE {chosen} GROUP BY p.number ORDER BY p.number",
            *of_it,
        )
    )


def lengths(archive: Archive) -> dict[str, dict[int, list[int]]]:
    """By iteration: characters of the admitted `puzzles`, and of the `solutions` that the model found in it."""
    puzzles = f"SELECT p.iteration, length(p.source) FROM puzzles p WHERE {BY_MODEL}"
    solutions = "SELECT iteration, length(source) FROM solutions WHERE origin = 'model'"
    return {"puzzles": _lists(archive.query(puzzles)), "solutions": _lists(archive.query(solutions))}


def answer_types(archive: Archive) -> dict[int, Counter[str]]:
    """By iteration: how many admitted puzzles ask for an answer of each type."""
    return _counters(
        archive.query(f"SELECT p.iteration, p.answer_type, count(*) FROM puzzles p WHERE {BY_MODEL} GROUP BY 1, 2")
    )


def verdicts(archive: Archive) -> dict[int, Counter[str]]:
    """By iteration: how many candidates met each verdict; what was sampled to score is not among them."""
    return _counters(
        archive.query(
            "SELECT k.iteration, c.verdict, count(*) FROM candidates c JOIN chunks k ON k.id = c.chunk GROUP BY 1, 2"
        )
    )


def outcomes(archive: Archive) -> dict[int, Counter[str]]:
    """By iteration: how many proposals had each outcome."""
    return _counters(
        archive.query(
            "SELECT k.iteration, r.outcome, count(*) FROM proposals r JOIN chunks k ON k.id = r.chunk"
            " WHERE k.stage = 'propose' GROUP BY 1, 2"
        )
    )


def new_structures(archive: Archive, iteration: int | None = None) -> dict[int, tuple[int, int]]:
    """By iteration, or of one alone: its admitted puzzles, and those that differ from all before in more than names and
    constants.
    """
    chosen, of_it = _chosen(iteration)
    first = "SELECT min(f.number) FROM puzzles f WHERE f.skeleton = p.skeleton"
    rows = archive.query(
        f"SELECT p.iteration, count(*), sum(p.number = ({first})) FROM puzzles p WHERE {chosen} GROUP BY 1", *of_it
    )
    return {iteration: (admitted, new) for iteration, admitted, new in rows}


def skills_solved(archive: Archive) -> tuple[dict[str, int], dict[int, Counter[str]]]:
    """How many puzzles have each skill, and by iteration: how many of these the model had solved by its end.

    Tags come with the puzzles of people; a run's own have none.
    """
    tagged = f"FROM puzzles p, json_each(p.skills) j WHERE p.skills != '[]' AND NOT {OWN.format('p.origin')}"
    numbers = archive.counts(f"SELECT j.value, count(*) AS n {tagged} GROUP BY 1 ORDER BY n DESC, 1")
    first = _counters(
        archive.query(
            "SELECT s.first, j.value, count(*) FROM puzzles p, json_each(p.skills) j JOIN"
            " (SELECT c.puzzle, min(k.iteration) AS first FROM candidates c JOIN chunks k ON k.id = c.chunk"
            " WHERE c.verdict = 'accepted' GROUP BY 1) s ON s.puzzle = p.id"
            f" WHERE p.skills != '[]' AND NOT {OWN.format('p.origin')} GROUP BY 1, 2"
        )
    )
    solved, by_iteration = Counter[str](), {}
    for (iteration,) in archive.query("SELECT DISTINCT iteration FROM chunks ORDER BY 1"):
        solved = solved + first.get(iteration, Counter())
        by_iteration[iteration] = solved
    return numbers, by_iteration


def most_used(archive: Archive, limit: int) -> list[str]:
    """Ids of the puzzles that stood before most others when these were made, most first."""
    rows = archive.query(
        "SELECT p.id FROM (SELECT j.value AS id, count(*) AS n FROM puzzles u, json_each(u.parents) j"
        " WHERE u.parents != '[]' GROUP BY 1) c JOIN puzzles p ON p.id = c.id ORDER BY c.n DESC, p.number LIMIT ?",
        limit,
    )
    return [row["id"] for row in rows]


def children(archive: Archive, parents: Collection[str]) -> dict[str, list[str]]:
    """By parent: ids of the puzzles that it stood before when they were made, or that were made of it."""
    sql = "SELECT j.value, u.id FROM puzzles u, json_each(u.parents) j WHERE u.parents != '[]' ORDER BY u.number"
    found: dict[str, list[str]] = defaultdict(list)
    for parent, child in archive.query(sql):
        if parent in parents:
            found[parent].append(child)
    return found


def _chosen(iteration: int | None) -> tuple[str, list[int]]:
    """A run's own puzzles, of one iteration if it is given: a condition, and its parameters."""
    return (BY_MODEL, []) if iteration is None else (f"{BY_MODEL} AND p.iteration = ?", [iteration])


def _lists(rows: Iterable[sqlite3.Row]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = defaultdict(list)
    for iteration, value in rows:
        found[iteration].append(value)
    return dict(sorted(found.items()))


def _counters(rows: Iterable[sqlite3.Row]) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for iteration, name, count in rows:
        found[iteration][name] += count
    return dict(sorted(found.items()))
