"""The browser pages of one result of `selfplay bench`, or of two side by side: scores, puzzles, prompts and samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasette.app import Datasette

from puzzles.archive.catalogue import MOST_CHOICES, PAGE_CHARACTERS, pattern_of, terms_of
from puzzles.puzzle import InputError
from selfplay.inspecting import serving
from selfplay.inspecting.benchmarks import (
    NAMES,
    Opened,
    Result,
    compared,
    connect,
    facts_of,
    score_rows,
    sentence_of,
)
from selfplay.inspecting.serving import Asked, Site
from selfplay.scoring.compare import Comparison
from selfplay.text import fraction

NAME = "benchmark"
"""Name of the database in the addresses of datasette's pages."""
ORDERS = {
    "set": "p.number", "hardest": "rate, p.number", "easiest": "rate DESC, p.number",
    "most changed": "abs(change) DESC, p.number",
}  # fmt: skip
"""Orders of the list of puzzles, as SQL."""
OUTCOMES = {
    "solved": "p.a_c > 0", "unsolved": "p.a_c = 0", "won": "p.a_c = 0 AND p.b_c > 0",
    "lost": "p.a_c > 0 AND p.b_c = 0", "better": "change > 0", "worse": "change < 0",
}  # fmt: skip
"""What became of a puzzle, as SQL. Of two results, `won` and `better` are about B beside A."""
OF_TWO = ("won", "lost", "better", "worse", "most changed")
METADATA = {
    "title": "Tables and SQL",
    "databases": {
        NAME: {
            "description": "The puzzles, prompts and samples of these results. SQL can read but not write.",
            "tables": {
                "samples": {
                    "description": "Every candidate with its verdict.",
                    "facets": ["result", "verdict", "rule"],
                },
                "scores": {"description": "Of n samples of a puzzle, c were accepted."},
            },
            "queries": {
                "verdicts": {
                    "title": "Samples by result, verdict and rule",
                    "sql": "SELECT result, verdict, rule, count(*) AS samples FROM samples GROUP BY 1, 2, 3"
                    " ORDER BY 1, 4 DESC",
                },
                "hardest": {
                    "title": "Solved puzzles with the smallest share of accepted samples",
                    "sql": "SELECT s.result, p.id AS puzzle, p.name, s.c, s.n, p.source FROM scores s"
                    " JOIN puzzles p ON p.id = s.puzzle WHERE s.c > 0 ORDER BY 1.0 * s.c / s.n LIMIT 100",
                },
            },
        }
    },
}


def over(path: Path, shown: Sequence[Result], is_ending: Callable[[], bool] = lambda: False) -> Datasette:
    """A datasette that serves a database of results, with our pages.

    Args:
        path: The database, as `benchmarks.fill` wrote it.
        shown: The results in it.
        is_ending: Whether the server is ending.

    Raises:
        InputError: Two results have nothing in common.
    """
    head = _head(shown, compared(shown))
    labels = [result.label for result in shown]

    def home(database: Opened, asked: Asked) -> dict[str, Any]:
        return head | _puzzles(database, asked, labels)

    def puzzle(database: Opened, asked: Asked) -> dict[str, Any]:
        return _puzzle(database, asked, labels)

    def samples(database: Opened, asked: Asked) -> dict[str, Any]:
        return _samples(database, asked, labels)

    return serving.over(
        Site(
            name=NAME, path=path, shown_as=" and ".join(str(result.folder) for result in shown),
            opened=lambda: Opened(path), connect=lambda: connect(path), tables=frozenset(NAMES), metadata=METADATA,
            pages={
                r"^/$": ("benchmark.html", home),
                r"^/puzzle/(?P<id>\w+)$": ("benchmark-puzzle.html", puzzle),
                r"^/samples$": ("samples.html", samples),
            },
            menu={"benchmark": "/", "samples": "/samples", "tables, SQL": f"/{NAME}"}, search="/samples",
            is_ending=is_ending,
        )
    )  # fmt: skip


def _head(shown: Sequence[Result], comparison: Comparison | None) -> dict[str, Any]:
    """What stands on top of the first page: the results, their scores, and which is better."""
    head, *rows = score_rows(shown, comparison)
    results = [facts_of(result) for result in shown]
    return {
        "results": results, "notes": list(dict.fromkeys(note for result in results for note in result["notes"])),
        "head": head, "scores": rows, "sentence": sentence_of(shown, comparison),
        "differing": comparison.differing if comparison else [],
    }  # fmt: skip


# ---- the list of puzzles ----


def _puzzles(database: Opened, asked: Asked, labels: Sequence[str]) -> dict[str, Any]:
    outcomes, orders = ([key for key in own if len(labels) > 1 or key not in OF_TWO] for own in (OUTCOMES, ORDERS))
    chosen = {
        "skill": asked.text("skill"), "type": asked.text("type"), "difficulty": asked.number("difficulty"),
        "verdict": asked.text("verdict"), "rule": asked.text("rule"), "outcome": asked.one_of("outcome", outcomes),
    }  # fmt: skip
    order = asked.one_of("sort", orders) or "set"
    condition, parameters = _condition(chosen)
    tables = (
        "(SELECT p.*, a.n AS a_n, a.c AS a_c, b.n AS b_n, b.c AS b_c, 1.0 * a.c / a.n AS rate,"
        " 1.0 * b.c / b.n - 1.0 * a.c / a.n AS change, a.is_wrong FROM puzzles p"
        " LEFT JOIN scores a ON a.puzzle = p.id AND a.result = 'A'"
        " LEFT JOIN scores b ON b.puzzle = p.id AND b.result = 'B') p"
    )
    rows = database.query(
        f"SELECT * FROM {tables} WHERE {condition} ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?",
        *parameters, serving.ROWS, asked.offset,
    )  # fmt: skip
    ((total,),) = database.query(f"SELECT count(*) FROM {tables} WHERE {condition}", *parameters)
    return {
        "rows": [dict(row) | {"skills": json.loads(row["skills"])} for row in rows], "pages": asked.pages(total),
        "chosen": chosen, "order": order, "orders": orders, "outcomes": outcomes, "choices": _choices(database),
        "labels": labels, "verdicts": _verdicts(database, labels),
    }  # fmt: skip


def _condition(chosen: dict[str, Any]) -> tuple[str, list[Any]]:
    clauses, parameters = ["1"], list[Any]()
    for column, key in (("answer_type", "type"), ("difficulty", "difficulty")):
        if chosen[key] is not None:
            clauses.append(f"p.{column} = ?")
            parameters.append(chosen[key])
    if chosen["skill"] is not None:
        clauses.append("EXISTS (SELECT 1 FROM json_each(p.skills) k WHERE k.value = ?)")
        parameters.append(chosen["skill"])
    for key in ("verdict", "rule"):
        if chosen[key] is not None:
            clauses.append(f"EXISTS (SELECT 1 FROM samples s WHERE s.puzzle = p.id AND s.{key} = ?)")
            parameters.append(chosen[key])
    if chosen["outcome"] is not None:
        clauses.append(OUTCOMES[chosen["outcome"]])
    return " AND ".join(clauses), parameters


def _choices(database: Opened) -> dict[str, dict[str, int]]:
    """The values of the filters, each with its number of puzzles; of verdicts and rules, with that of samples."""
    asked = {
        "skill": "SELECT k.value, count(*) n FROM puzzles p, json_each(p.skills) k GROUP BY 1 ORDER BY n DESC, 1",
        "type": "SELECT answer_type, count(*) n FROM puzzles GROUP BY 1 ORDER BY n DESC, 1",
        "difficulty": "SELECT difficulty, count(*) FROM puzzles WHERE difficulty NOT NULL GROUP BY 1 ORDER BY 1",
        "verdict": "SELECT verdict, count(*) n FROM samples GROUP BY 1 ORDER BY n DESC, 1",
        "rule": "SELECT rule, count(*) n FROM samples WHERE rule != '' GROUP BY 1 ORDER BY n DESC, 1",
    }
    return {name: {str(value): n for value, n in database.query(f"{sql} LIMIT {MOST_CHOICES}")}
            for name, sql in asked.items()}  # fmt: skip


def _verdicts(database: Opened, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Numbers of samples by verdict and rule, for each result; the most frequent first."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    sql = "SELECT verdict, rule, result, count(*) AS n FROM samples GROUP BY 1, 2, 3"
    totals = dict.fromkeys(labels, 0)
    for row in database.query(sql):
        found.setdefault((row["verdict"], row["rule"]), {})[row["result"]] = row["n"]
        totals[row["result"]] += row["n"]
    return [
        {"verdict": verdict, "rule": rule,
         "counts": [(own.get(label, 0), fraction(own.get(label, 0) / max(1, totals[label]))) for label in labels]}
        for (verdict, rule), own in sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    ]  # fmt: skip


# ---- one puzzle, and samples ----


def _puzzle(database: Opened, asked: Asked, labels: Sequence[str]) -> dict[str, Any]:
    """A puzzle with its prompts, and every sample of each result, equal texts once."""
    rows = database.query("SELECT * FROM puzzles WHERE id = ?", asked.id)
    if not rows:
        raise InputError(f"expected the id of a scored puzzle, got {asked.id!r}")
    prompt = f"substr(prompt, 1, {PAGE_CHARACTERS}) AS prompt"
    prompts = database.query(f"SELECT result, {prompt}, header FROM prompts WHERE puzzle = ? ORDER BY 1", asked.id)
    samples = database.query(
        f"SELECT result, verdict, rule, substr(detail, 1, {PAGE_CHARACTERS}) AS detail,"
        f" substr(text, 1, {PAGE_CHARACTERS}) AS text, count(*) AS times, min(seed) AS seed, min(sample) AS sample"
        " FROM samples s WHERE puzzle = ? GROUP BY result, verdict, rule, s.detail, s.text"
        " ORDER BY verdict != 'accepted', verdict, rule, times DESC, seed, sample",
        asked.id,
    )
    groups: dict[str, dict[tuple[str, str], list[Any]]] = {label: {} for label in labels}
    for row in samples:
        groups[row["result"]].setdefault((row["verdict"], row["rule"]), []).append(row)
    scores = {row["result"]: row for row in database.query("SELECT * FROM scores WHERE puzzle = ?", asked.id)}
    distinct = {text["prompt"] for text in prompts}
    return {
        "puzzle": dict(rows[0]) | {"skills": json.loads(rows[0]["skills"])}, "prompts": prompts,
        "same_prompt": len(distinct) == 1 and len(prompts) == len(labels), "groups": groups, "scores": scores,
        "headers": {row["result"]: row["header"] for row in prompts},
        "totals": {label: {key: sum(row["times"] for row in own) for key, own in groups[label].items()}
                   for label in labels},
    }  # fmt: skip


def _samples(database: Opened, asked: Asked, labels: Sequence[str]) -> dict[str, Any]:
    """A page of samples by result, verdict and rule, with a search through their texts."""
    chosen = {
        "result": asked.one_of("result", labels), "verdict": asked.text("verdict"), "rule": asked.text("rule"),
        "puzzle": asked.text("puzzle"),
    }  # fmt: skip
    given = {name: value for name, value in chosen.items() if value is not None}
    words = asked.text("words")
    hits = pattern_of(words) if words else None
    clauses = ["1", *(f"s.{name} = ?" for name in given)]
    if hits:
        patterns = [pattern_of(term) for term in terms_of(words or "")]
        database.connection.create_function(
            "has_hits", 1, lambda text: text is not None and all(pattern.search(text) for pattern in patterns)
        )
        clauses.append("has_hits(s.text)")
    where = " AND ".join(clauses)
    ((total,),) = database.query(f"SELECT count(*) FROM samples s WHERE {where}", *given.values())
    rows = database.query(
        f"SELECT s.result, s.puzzle, s.seed, s.sample, s.verdict, s.rule, s.detail,"
        f" substr(s.text, 1, {PAGE_CHARACTERS}) AS text, p.name, coalesce(t.header, '') AS header FROM samples s"
        " JOIN puzzles p ON p.id = s.puzzle LEFT JOIN prompts t ON t.result = s.result AND t.puzzle = s.puzzle"
        f" WHERE {where} ORDER BY p.number, s.result, s.seed, s.sample LIMIT ? OFFSET ?",
        *given.values(), serving.ROWS, asked.offset,
    )  # fmt: skip
    return {
        "rows": rows, "pages": asked.pages(total), "chosen": chosen, "choices": _choices(database), "labels": labels,
        "hits": hits, "puzzle": _name(database, chosen["puzzle"]),
    }  # fmt: skip


def _name(database: Opened, puzzle: str | None) -> str | None:
    rows = database.query("SELECT name FROM puzzles WHERE id = ?", puzzle)
    return rows[0]["name"] if rows else puzzle
