"""Statistics of how an archive changes from iteration to iteration, computed from its present rows."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from puzzles.archive.store import OWN, Archive

BY_MODEL = "p.origin = 'model'"


def solve_rates(archive: Archive, iteration: int | None = None) -> dict[int, list[float]]:
    """The share of accepted candidates of each proposed puzzle that has candidates, by the puzzle's iteration.

    Args:
        archive: The archive.
        iteration: The only iteration to include; None for all.
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
    """Lengths in characters of the model's admitted `puzzles` and of its `solutions`, each by iteration."""
    puzzles = f"SELECT p.iteration, length(p.source) FROM puzzles p WHERE {BY_MODEL}"
    solutions = "SELECT iteration, length(source) FROM solutions WHERE origin = 'model'"
    return {"puzzles": _lists(archive.query(puzzles)), "solutions": _lists(archive.query(solutions))}


def answer_types(archive: Archive) -> dict[int, Counter[str]]:
    """The number of the model's admitted puzzles of each answer type, by iteration."""
    return _counters(
        archive.query(f"SELECT p.iteration, p.answer_type, count(*) FROM puzzles p WHERE {BY_MODEL} GROUP BY 1, 2")
    )


def verdicts(archive: Archive) -> dict[int, Counter[str]]:
    """The number of candidates with each verdict, by iteration. Candidates sampled for scores do not count."""
    return _counters(
        archive.query(
            "SELECT k.iteration, c.verdict, count(*) FROM candidates c JOIN chunks k ON k.id = c.chunk GROUP BY 1, 2"
        )
    )


def outcomes(archive: Archive) -> dict[int, Counter[str]]:
    """The number of proposals with each outcome, by iteration."""
    return _counters(
        archive.query(
            "SELECT k.iteration, r.outcome, count(*) FROM proposals r JOIN chunks k ON k.id = r.chunk"
            " WHERE k.stage = 'propose' GROUP BY 1, 2"
        )
    )


def new_structures(archive: Archive, iteration: int | None = None) -> dict[int, tuple[int, int]]:
    """The number of the model's admitted puzzles, and of those with a new structure, by iteration.

    A structure is new if no earlier puzzle is the same except for names and constants.

    Args:
        archive: The archive.
        iteration: The only iteration to include; None for all.
    """
    chosen, of_it = _chosen(iteration)
    first = "SELECT min(f.number) FROM puzzles f WHERE f.skeleton = p.skeleton"
    rows = archive.query(
        f"SELECT p.iteration, count(*), sum(p.number = ({first})) FROM puzzles p WHERE {chosen} GROUP BY 1", *of_it
    )
    return {iteration: (admitted, new) for iteration, admitted, new in rows}


def skills_solved(archive: Archive) -> tuple[dict[str, int], dict[int, Counter[str]]]:
    """The number of puzzles with each skill, and how many of them the model had solved by the end of each iteration.

    Only puzzles that came from outside the run count, because only people's puzzles have skill tags.
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
    """Ids of the puzzles that most other puzzles were made from: as an example in the prompt, or as the source of a
    variant. The most used come first.
    """
    rows = archive.query(
        "SELECT p.id FROM (SELECT j.value AS id, count(*) AS n FROM puzzles u, json_each(u.parents) j"
        " WHERE u.parents != '[]' GROUP BY 1) c JOIN puzzles p ON p.id = c.id ORDER BY c.n DESC, p.number LIMIT ?",
        limit,
    )
    return [row["id"] for row in rows]


def children(archive: Archive, parents: Collection[str]) -> dict[str, list[str]]:
    """For each parent, the ids of the puzzles that were proposed with it in the prompt, or made by varying it."""
    sql = "SELECT j.value, u.id FROM puzzles u, json_each(u.parents) j WHERE u.parents != '[]' ORDER BY u.number"
    found: dict[str, list[str]] = defaultdict(list)
    for parent, child in archive.query(sql):
        if parent in parents:
            found[parent].append(child)
    return found


def _chosen(iteration: int | None) -> tuple[str, list[int]]:
    """The SQL condition for a model's puzzles, of one iteration if it is given, and the condition's parameters."""
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
