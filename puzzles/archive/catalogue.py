"""Queries of an archive for people: counts, a page of puzzles, one puzzle's history."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import Any

from puzzles.archive.schema import SEARCHED
from puzzles.archive.store import CANDIDATES_N_C, CONTAMINATED, QUARANTINED, SET_ASIDE, Archive
from puzzles.foreign import parse_json, shown
from puzzles.guard import LEVELS
from puzzles.puzzle import InputError

RATE = "(SELECT avg(c.verdict = 'accepted') FROM candidates c WHERE c.puzzle = p.id)"
SOLVED = "EXISTS (SELECT 1 FROM solutions s WHERE s.puzzle = p.id)"
ORDERS = {
    "newest": "p.number DESC",
    "oldest": "p.number",
    "hardest": f"coalesce(nullif({RATE}, 0), 2), p.number DESC",
    "easiest": f"{RATE} DESC, p.number DESC",
    "varied": "(SELECT count(*) FROM solutions s WHERE s.puzzle = p.id) DESC, p.number DESC",
    "shortest": "length(p.source), p.number DESC",
    "longest": "length(p.source) DESC, p.number DESC",
}
"""Orders of a page, as SQL. `hardest` starts with the lowest solve rate above zero; puzzles that no candidate solved
come last. `varied` starts with the most distinct solutions."""
STATES = {"solved": SOLVED, "unsolved": f"NOT {SOLVED}", "quarantined": QUARANTINED}
PAGE_CHARACTERS = 20_000
"""Longest part of a text that a page of many shows. What is longer is shown whole on the page of its puzzle."""
FEW_PLACES = 10_000
"""Number of matches below which a search starts from the matches; common words stand in most solutions."""
SOLVE_RATES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Upper bounds of the classes of solve rates that `stats` counts puzzles in."""


VALUES = {
    "iteration": "SELECT iteration, count(*) FROM puzzles GROUP BY 1 ORDER BY 1",
    "answer_type": "SELECT answer_type, count(*) n FROM puzzles GROUP BY 1 ORDER BY n DESC, 1",
    "skill": "SELECT k.value, count(*) n FROM puzzles p, json_each(p.skills) k WHERE p.skills != '[]'"
    " GROUP BY 1 ORDER BY n DESC, 1",
    "difficulty": "SELECT difficulty, count(*) FROM puzzles WHERE difficulty IS NOT NULL GROUP BY 1 ORDER BY 1",
}
"""Counts of puzzles by the values of a filter's fields, which differ from archive to archive."""
SHOWN_VALUES = 20
"""Most values that a message names."""


@dataclass(frozen=True)
class Filter:
    """The puzzles that are asked for. A field of None allows any value."""

    origin: str | None = None
    iteration: int | None = None
    answer_type: str | None = None
    skill: str | None = None
    difficulty: int | None = None
    state: str | None = None
    """State of the puzzle, one of STATES."""
    words: str | None = None
    """Words that must all stand in the puzzle's name, text and description, or all in one of its solutions. Code such
    as `x == 4` is looked for as it is written, whatever its spaces."""
    verdict: str | None = None
    """A verdict that some candidate of the puzzle got."""

    def check(self, archive: Archive) -> None:
        """Check that the archive has puzzles with each value that is asked for.

        Raises:
            InputError: It has none; the message names the values that it has.
        """
        for name, sql in VALUES.items():
            asked = getattr(self, name)
            counts = archive.counts(sql) if asked is not None else {}
            if asked is not None and str(asked) not in map(str, counts):
                known = ", ".join(
                    f"{shown(value)[:40]} ({count:,})" for value, count in [*counts.items()][:SHOWN_VALUES]
                )
                more = f" and {len(counts) - SHOWN_VALUES} more" if len(counts) > SHOWN_VALUES else ""
                what = name.replace("_", " ")
                raise InputError(
                    f"{archive.path}: no puzzle has the {what} {shown(asked)}; there are {known or 'none'}{more}"
                )

    def condition(self, archive: Archive) -> tuple[str, list[Any]]:
        """The SQL condition over an archive's `puzzles p`, and its parameters.

        Raises:
            InputError: `words` contains no word.
        """
        clauses, parameters = ["1"], list[Any]()
        for column in ("origin", "iteration", "answer_type", "difficulty"):
            if (value := getattr(self, column)) is not None:
                clauses.append(f"p.{column} = ?")
                parameters.append(value)
        if self.skill is not None:
            clauses.append("EXISTS (SELECT 1 FROM json_each(p.skills) k WHERE k.value = ?)")
            parameters.append(self.skill)
        if self.state is not None:
            clauses.append(STATES[self.state])
        if self.verdict is not None:
            clauses.append("EXISTS (SELECT 1 FROM candidates c WHERE c.puzzle = p.id AND c.verdict = ?)")
            parameters.append(self.verdict)
        if self.words is not None:
            found, words = _found(archive, self.words)
            clauses.append(found)
            parameters += words
        return " AND ".join(clauses), parameters


def _found(archive: Archive, text: str) -> tuple[str, list[str]]:
    """The SQL condition for puzzles in which the words stand, and its parameters.

    It uses the full-text index, and reads the rows that are not in the index yet.
    """
    terms = terms_of(text)
    asked = " ".join('"' + term.replace('"', '""') + '"' for term in terms)
    plain, written = ([term for term in terms if bool(re.search(r"\W", term)) is is_code] for is_code in (False, True))
    clauses, parameters = [], list[str]()
    for table, columns in SEARCHED.items():
        later = f"t.number > (SELECT coalesce(max(id), 0) FROM search_{table}_docsize)"
        whole = " || char(10) || ".join(f"t.{column}" for column in columns)
        contains = " AND ".join(f"instr(lower({whole}), lower(?))" for _ in plain) or "1"
        # The index knows words only, so code is looked for again in the texts that have its words in a row.
        as_written = f" AND instr({_without_spaces(whole)}, {_without_spaces('?')})" * len(written)
        matched = f"SELECT rowid FROM search_{table} WHERE search_{table} MATCH ?"
        here = f"(t.number IN ({matched}) OR ({later} AND {contains})){as_written}"
        puzzle = "id" if table == "puzzles" else "puzzle"
        # With few matches the search goes from these to their puzzles. With many it goes from puzzle to puzzle, and
        # stops when a page is full.
        if archive.query(f"SELECT count(*) FROM ({matched} LIMIT {FEW_PLACES})", asked)[0][0] < FEW_PLACES:
            clauses.append(f"p.id IN (SELECT t.{puzzle} FROM {table} t WHERE {here})")
        else:
            clauses.append(f"EXISTS (SELECT 1 FROM {table} t WHERE t.{puzzle} = p.id AND ({here}))")
        parameters += [asked, *plain, *written]
    return f"({' OR '.join(clauses)})", parameters


def _without_spaces(text: str) -> str:
    return f"replace(replace(lower({text}), ' ', ''), char(10), '')"


MOST_SEARCHED = 200
"""Most characters of a search."""


def terms_of(text: str) -> list[str]:
    """What a search looks for: its words; and code, which is what an operator such as `==` joins.

    Raises:
        InputError: It contains no word, or is too long.
    """
    if len(text) > MOST_SEARCHED:
        raise InputError(f"expected a search of at most {MOST_SEARCHED} characters, got {len(text):,}")
    terms: list[str] = []
    joins = False
    for piece in text.replace("\0", " ").split():
        is_operator = not re.search(r"\w", piece)
        if terms and (is_operator or joins):
            terms[-1] += f" {piece}"
        else:
            terms.append(piece)
        joins = is_operator
    if not re.search(r"\w", text):
        raise InputError(f"expected a word to search for, got {text!r}")
    return terms


def pattern_of(text: str) -> re.Pattern[str]:
    """A pattern that finds the hits of a search in a text, to mark them.

    Raises:
        InputError: As for `terms_of`.
    """
    return re.compile("|".join(map(_pattern, terms_of(text))), re.IGNORECASE)


def _pattern(term: str) -> str:
    code = r"\s*+".join(re.escape(character) for character in term if not character.isspace())
    if re.search(r"\W", term):
        return code
    return rf"(?<!\w){re.escape(term)}(?!\w)"


MOST_CHOICES = 200
"""Most values of a filter that are offered."""
MOST_COUNTED = 3_000_000
"""Most rows of a table that are counted each time. The values of a larger one are offered without verdicts."""


def choices(archive: Archive) -> dict[str, dict[str, int]]:
    """The values that a filter can ask for, each with its number of puzzles, by the filter's name.

    Those of `verdict` have their numbers of candidates.
    """
    columns = ("origin", "iteration", "answer_type", "difficulty")
    found: dict[str, Counter[Any]] = {name: Counter() for name in (*columns, "skill", "verdict")}
    for *values, number in archive.query(f"SELECT {', '.join(columns)}, count(*) FROM puzzles GROUP BY 1, 2, 3, 4"):
        for name, value in zip(columns, values, strict=True):
            if value is not None:
                found[name][value] += number
    tagged = "FROM puzzles p, json_each(p.skills) k WHERE p.skills != '[]'"
    found["skill"].update(archive.counts(f"SELECT k.value, count(*) {tagged} GROUP BY 1"))
    if archive.query("SELECT coalesce(max(rowid), 0) FROM candidates")[0][0] <= MOST_COUNTED:
        found["verdict"].update(archive.counts("SELECT verdict, count(*) FROM candidates GROUP BY 1"))
    ordered = {name: counts.most_common(MOST_CHOICES) for name, counts in found.items()}
    for name in ("iteration", "difficulty"):
        ordered[name].sort()
    return {name: {str(value): number for value, number in items} for name, items in ordered.items()}


def page_of(
    archive: Archive, chosen: Filter, order: str = "newest", limit: int = 50, offset: int = 0
) -> list[sqlite3.Row]:
    """A page of the chosen puzzles: their origin, texts, and numbers of candidates and accepted candidates.

    Args:
        archive: The archive.
        chosen: The puzzles that are asked for.
        order: One of ORDERS.
        limit: Most puzzles on the page.
        offset: Number of puzzles before the page.
    """
    condition, parameters = chosen.condition(archive)
    # The subquery chooses the page first, so that candidates are counted only for the puzzles on it.
    page = f"SELECT p.number FROM puzzles p WHERE {condition} ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?"
    source = f"substr(p.source, 1, {PAGE_CHARACTERS}) AS source"
    return archive.query(
        "SELECT p.id AS puzzle, p.origin, p.iteration, p.answer_type AS type, p.difficulty,"
        f" {CANDIDATES_N_C}, (SELECT count(*) FROM solutions s WHERE s.puzzle = p.id) AS solutions,"
        f" CASE WHEN {CONTAMINATED} THEN 'contaminated' WHEN {SET_ASIDE} THEN 'rolled back' WHEN {QUARANTINED}"
        " THEN 'unstable' ELSE '' END AS quarantine,"
        f" p.name, {source} FROM puzzles p WHERE p.number IN ({page}) ORDER BY {ORDERS[order]}",
        *parameters,
        limit,
        offset,
    )


def number_of(archive: Archive, chosen: Filter) -> int:
    """The number of chosen puzzles."""
    condition, parameters = chosen.condition(archive)
    return int(archive.query(f"SELECT count(*) FROM puzzles p WHERE {condition}", *parameters)[0][0])


def pairs_of(archive: Archive, limit: int = 50, offset: int = 0) -> list[sqlite3.Row]:
    """A page of the verified pairs, newest first: both texts, the answer, and the solution's origin."""
    return archive.query(
        f"SELECT s.number, s.puzzle, s.id AS solution, p.name, substr(p.source, 1, {PAGE_CHARACTERS}) AS source,"
        f" substr(s.source, 1, {PAGE_CHARACTERS}) AS solution_source, substr(s.answer, 1, {PAGE_CHARACTERS}) AS answer,"
        " s.origin, s.iteration FROM solutions s JOIN puzzles p ON p.id = s.puzzle WHERE s.number IN"
        " (SELECT number FROM solutions ORDER BY number DESC LIMIT ? OFFSET ?) ORDER BY s.number DESC",
        limit,
        offset,
    )


def refused_proposals(
    archive: Archive, outcome: str | None = None, limit: int = 50, offset: int = 0, stage: str | None = None
) -> list[sqlite3.Row]:
    """A page of the proposals that were not admitted, newest first: where the text is, the outcome, and the reason.

    Args:
        archive: The archive.
        outcome: The only outcome to include; None for all.
        limit: Most proposals on the page.
        offset: Number of proposals before the page.
        stage: The only stage to include, `propose` or `vary`; None for both.
    """
    return archive.query(
        "SELECT r.chunk, r.position, r.outcome, r.detail, k.iteration, k.stage FROM proposals r"
        " JOIN chunks k ON k.id = r.chunk WHERE r.outcome != 'admitted' AND r.outcome = coalesce(?, r.outcome)"
        " AND k.stage = coalesce(?, k.stage) ORDER BY r.chunk DESC, r.position LIMIT ? OFFSET ?",
        outcome,
        stage,
        limit,
        offset,
    )


def refused_imports(archive: Archive, limit: int = 50, offset: int = 0, reason: str | None = None) -> list[sqlite3.Row]:
    """A page of the imported texts that were refused, in the order they came; of one reason, as `what: reason`."""
    sql = (
        "SELECT name, what, reason, detail, original FROM refusals WHERE what || ': ' || reason ="
        " coalesce(?, what || ': ' || reason) ORDER BY rowid LIMIT ? OFFSET ?"
    )
    return archive.query(sql, reason, limit, offset)


def stats(archive: Archive) -> dict[str, Any]:
    """Counts for people: puzzles by origin, iteration, skill, type, difficulty and state; pairs; verdicts; refusals."""

    def number(sql: str) -> int:
        return int(archive.query(f"SELECT count(*) FROM {sql}")[0][0])

    return {
        "puzzles": number("puzzles"),
        "solved puzzles": number("(SELECT DISTINCT puzzle FROM solutions)"),
        "quarantined puzzles": number(f"puzzles p WHERE {QUARANTINED}"),
        "contaminated puzzles": number(f"puzzles p WHERE {CONTAMINATED}"),
        "distinct but for names and constants": number("(SELECT DISTINCT skeleton FROM puzzles)"),
        "pairs": number("solutions"),
        "candidates": number("candidates"),
        "puzzles by origin": archive.counts("SELECT origin, count(*) FROM puzzles GROUP BY 1"),
        "puzzles by iteration": archive.counts(VALUES["iteration"]),
        "pairs by iteration": archive.counts("SELECT iteration, count(*) FROM solutions GROUP BY 1 ORDER BY 1"),
        "puzzles by answer type": archive.counts(VALUES["answer_type"]),
        "puzzles by skill": archive.counts(VALUES["skill"]),
        "puzzles by difficulty": archive.counts(VALUES["difficulty"]),
        "puzzles by solve rate": _by_solve_rate(archive),
        "candidates by verdict": archive.counts(
            "SELECT verdict, count(*) n FROM candidates GROUP BY 1 ORDER BY n DESC, 1"
        ),
        "proposals by outcome": outcomes(archive, "propose"),
        "variations by outcome": outcomes(archive, "vary"),
        "searches by outcome": outcomes(archive, "search"),
        "refused as held-out by level": _refused_in_all(archive),
        "refused imports": archive.counts(
            "SELECT what || ': ' || reason, count(*) n FROM refusals GROUP BY 1 ORDER BY n DESC, 1"
        ),
    }


def outcomes(archive: Archive, stage: str, refused: bool = False) -> dict[str, int]:
    """Numbers of texts of a stage (`propose`, `vary`, `search`) by what became of them, such as `admitted`.

    Args:
        archive: The archive.
        stage: The stage.
        refused: Whether to count the refused ones only.
    """
    counts = archive.counts(
        "SELECT r.outcome, count(*) n FROM proposals r JOIN chunks k ON k.id = r.chunk WHERE k.stage = ?"
        " GROUP BY 1 ORDER BY n DESC, 1",
        stage,
    )
    return {outcome: count for outcome, count in counts.items() if not (refused and outcome == "admitted")}


def _by_solve_rate(archive: Archive) -> dict[str, int]:
    """Number of puzzles with candidates, by the share of accepted ones: 0, at most 0.1, at most 0.25, and so on."""
    classes = " ".join(f"WHEN rate <= {bound} THEN {place}" for place, bound in enumerate(SOLVE_RATES))
    rows = archive.counts(
        f"SELECT CASE {classes} END, count(*) FROM (SELECT avg(verdict = 'accepted') AS rate FROM candidates"
        " GROUP BY puzzle) GROUP BY 1 ORDER BY 1"
    )
    names = ["0", *(f"to {bound:g}" for bound in SOLVE_RATES[1:])]
    return {names[int(place)]: count for place, count in rows.items()}


def _refused_in_all(archive: Archive) -> dict[str, int]:
    totals = sum(map(Counter, archive.refused_levels().values()), Counter[str]())
    return {level: totals[level] for level in (*LEVELS, "unknown") if totals[level]}


def row_of(archive: Archive, beginning: str) -> dict[str, Any]:
    """The row of the one puzzle whose id begins with this text.

    Raises:
        InputError: No puzzle's id begins with it, or several do.
    """
    # Ids are hexadecimal, so those with this beginning lie before the beginning plus "g". A range uses the index.
    rows = archive.query("SELECT * FROM puzzles WHERE id >= ? AND id < ? || 'g'", beginning, beginning)
    if len(rows) != 1:
        found = "there is none" if not rows else f"{len(rows)} ids begin with it"
        raise InputError(f"{archive.path}: expected the id of one puzzle, got {beginning!r}: {found}")
    row, where = dict(rows[0]), f"{archive.path}, puzzle {rows[0]['id']}"
    return row | {name: parse_json(row[name], f"{where}, {name}") for name in ("skills", "parents")}


def history(archive: Archive, beginning: str) -> dict[str, Any]:
    """A puzzle with its solutions, counts and origin, as stored.

    Raises:
        InputError: No puzzle's id begins with it, or several do.
    """
    puzzle = row_of(archive, beginning)
    solutions = archive.query("SELECT * FROM solutions WHERE puzzle = ? ORDER BY length(source), id", puzzle["id"])
    puzzle["solutions"] = [dict(row) for row in solutions]
    puzzle["candidates by verdict"] = archive.counts(
        "SELECT verdict, count(*) n FROM candidates WHERE puzzle = ? GROUP BY 1 ORDER BY n DESC", puzzle["id"]
    )
    return puzzle
