"""The browser pages of an archive, and of its run if it has one."""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasette.app import Datasette
from datasette.utils.asgi import Response

from puzzles.archive import schema
from puzzles.archive.catalogue import (
    ORDERS,
    STATES,
    Filter,
    choices,
    number_of,
    outcomes,
    page_of,
    pairs_of,
    pattern_of,
    refused_imports,
)
from puzzles.archive.store import CANDIDATES_N_C, Archive
from puzzles.puzzle import InputError
from selfplay.inspecting import serving
from selfplay.inspecting.serving import Asked, Site
from selfplay.run.rundir import SET_NAMES, RunDir
from selfplay.sampling.cost import record_seconds, record_tokens
from selfplay.settings import load
from selfplay.text import interval

NAME = "archive"
"""Name of the database in the addresses of datasette's pages."""
ORIGINS = ("human", "rule", "import", "model", "variant")
REFUSED = {"proposals": "propose", "variations": "vary", "imports": ""}
"""What was refused: the model's proposals first, then the run's variations and imported texts; with their stages."""
SHOWN_ITERATIONS = 12
"""Most iterations on the first page."""
TEXT_OF = "sampled_text"
"""Name of the SQL function that reads the text of a candidate or a proposal from its chunk."""
KEPT_CHUNKS = 4
"""Unpacked chunks that the function keeps."""
SEARCH = {table: {"fts_table": f"search_{table}", "fts_pk": "number"} for table in ("puzzles", "solutions")}
METADATA = {
    "title": "Tables and SQL",
    "databases": {
        NAME: {
            "description": "All tables of the archive. SQL can read but not write. The views pairs and iterations and"
            " the table candidates answer most questions.",
            "tables": {
                "puzzles": {**SEARCH["puzzles"], "sort_desc": "number", "facets": ["origin", "iteration"]},
                "solutions": {**SEARCH["solutions"], "sort_desc": "number", "facets": ["origin", "iteration"]},
                "candidates": {
                    "description": f"Every judged candidate. {TEXT_OF}(chunk, position) is its text as it was sampled."
                },
                "proposals": {
                    "description": f"Every proposal. {TEXT_OF}(chunk, position) is its text as it was sampled."
                },
                "pairs": {"description": "Every verified pair, with its puzzle's tried and accepted candidates."},
                "iterations": {"description": "Counts of what each iteration proposed, tried, found and learned."},
            },
            "queries": {
                "hardest": {
                    "title": "Puzzles with the smallest share of accepted candidates",
                    "sql": f"SELECT p.id AS puzzle, {CANDIDATES_N_C}, p.source FROM puzzles p"
                    f" WHERE p.number IN (SELECT p.number FROM puzzles p ORDER BY {ORDERS['hardest']} LIMIT 100)"
                    f" ORDER BY {ORDERS['hardest']}",
                },
                "quarantined": {
                    "title": "Puzzles in quarantine: neither trained on nor shown to a model",
                    "sql": f"SELECT p.id AS puzzle, p.origin, p.iteration, p.source FROM puzzles p"
                    f" WHERE {STATES['quarantined']} ORDER BY p.number DESC",
                },
                "verdicts": {
                    "title": "Candidates by iteration and verdict",
                    "sql": "SELECT k.iteration, c.verdict, count(*) AS candidates FROM candidates c"
                    " JOIN chunks k ON k.id = c.chunk GROUP BY 1, 2 ORDER BY 1, 3 DESC",
                },
                "texts": {
                    "title": "Texts of the candidates with a verdict, as they were sampled",
                    "sql": f"SELECT puzzle, {TEXT_OF}(chunk, position) AS text, answer, detail FROM candidates"
                    " WHERE verdict = :verdict ORDER BY chunk, position LIMIT 100",
                },
                "proposed": {
                    "title": "Texts of the proposals with an outcome, as they were sampled",
                    "sql": f"SELECT puzzle, {TEXT_OF}(chunk, position) AS text, detail FROM proposals"
                    " WHERE outcome = :outcome ORDER BY chunk, position LIMIT 100",
                },
                "refused": {
                    "title": "Proposals by iteration and outcome",
                    "sql": "SELECT k.iteration, r.outcome, count(*) AS proposals FROM proposals r"
                    " JOIN chunks k ON k.id = r.chunk GROUP BY 1, 2 ORDER BY 1, 3 DESC",
                },
            },
        }
    },
}


TABLES = (
    frozenset(schema.tables())
    | {"pairs", "iterations"}
    | {f"search_{table}{part}" for table in schema.SEARCHED for part in ("", "_data", "_idx", "_docsize", "_config")}
)


def over(path: Path, is_ending: Callable[[], bool] = lambda: False) -> Datasette:
    """A datasette that serves an archive, with our pages.

    Args:
        path: The archive, which has been checked.
        is_ending: Whether the server is ending, so that a page that is being made is not needed any more.
    """
    menu = {"archive": "/", "puzzles": "/puzzles", "pairs": "/pairs", "iterations": "/iterations",
            "refused": "/refused", "tables, SQL": f"/{NAME}"}  # fmt: skip
    return serving.over(
        Site(
            name=NAME, path=path, shown_as=str(path), opened=lambda: Archive(path, read_only=True, trust=True),
            connect=lambda: _connection(path), tables=TABLES, functions=frozenset({TEXT_OF}), metadata=METADATA,
            pages={
                r"^/$": ("start.html", _start),
                r"^/puzzles$": ("puzzles.html", _puzzles),
                r"^/puzzle/(?P<id>\w+)$": ("puzzle.html", _puzzle),
                r"^/pairs$": ("pairs.html", _pairs),
                r"^/iterations$": ("iterations.html", _iterations),
                r"^/refused$": ("refused.html", _refused),
            },
            routes=[(r"^/report$", functools.partial(_report, path))], menu=menu, search="/puzzles",
            is_ending=is_ending,
        )
    )  # fmt: skip


close = serving.close


def _connection(path: Path) -> sqlite3.Connection:
    """A read-only connection whose SQL can read sampled texts."""
    connection = Archive(path, read_only=True, trust=True).connection
    opened: list[Archive] = []  # a function may not use the connection that calls it

    @functools.lru_cache(KEPT_CHUNKS)
    def chunk(number: int) -> Any:
        opened[:] = opened or [Archive(path, read_only=True, trust=True)]
        return opened[0].chunk(number) if opened[0].query("SELECT 1 FROM chunks WHERE id = ?", number) else None

    def sampled_text(number: Any, position: Any) -> str | None:
        from selfplay.inspecting.story import text_at

        if not isinstance(number, int) or not isinstance(position, int) or position < 0:
            return None
        found = chunk(number)
        return None if found is None else text_at(found, position)

    connection.create_function(TEXT_OF, 2, sampled_text, deterministic=True)
    return connection


async def _report(path: Path, request: Any) -> Response:
    """The run's report, made now. A file of that name in the folder may be anybody's, and is not shown."""
    import asyncio

    from selfplay.inspecting.report import policy, report

    def made() -> str:
        if (rundir := _rundir(path)) is None:
            raise InputError("this archive stands in no run's folder, so there is no report")
        return report(rundir)

    page = await asyncio.to_thread(made)
    return Response.html(page, headers={"content-security-policy": f"{policy()}; frame-ancestors 'none'"})


def _rundir(path: Path) -> RunDir | None:
    """The run whose archive this is; None for an archive of its own."""
    rundir = RunDir(path.parent)
    return rundir if path.name == rundir.archive.name and rundir.config.is_file() else None


# ---- the contents of pages ----


def _count(archive: Archive, rows: str) -> int:
    return int(archive.query(f"SELECT count(*) FROM {rows}")[0][0])


def _start(archive: Archive, asked: Asked) -> dict[str, Any]:
    return {
        "bytes": archive.query("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")[0][0],
        "counts": {name: _count(archive, table) for name, table in (
            ("puzzles", "puzzles"), ("pairs", "solutions"), ("candidates", "candidates"),
        )},
        "origins": archive.counts("SELECT origin, count(*) n FROM puzzles GROUP BY 1 ORDER BY n DESC"),
        "newest": page_of(archive, Filter(), limit=10), "run": _run(archive.path),
    }  # fmt: skip


def _run(path: Path) -> dict[str, Any] | None:
    """The run around an archive: its model and state, and its scores and costs by iteration."""
    if (rundir := _rundir(path)) is None:
        return None
    try:
        config, records = load(rundir.config), rundir.read_records()
    except InputError as error:
        return {"fault": str(error)}
    ks = [key for key in records[-1]["dev"] if key.startswith("pass@")] if records else []
    columns = [(scored, k) for scored in SET_NAMES for k in ks]
    shown = records if len(records) <= SHOWN_ITERATIONS else [records[0], *records[1 - SHOWN_ITERATIONS :]]
    return {
        "name": rundir.path.absolute().name, "model": config.model.path, "state": rundir.state(config.iterations),
        "head": [f"{SET_NAMES[scored]} {k}" for scored, k in columns],
        "rows": [
            {
                "iteration": record["iteration"], "pairs": record["pairs"], "seconds": record_seconds(record),
                "scores": [interval(record[of][k]) if k in record.get(of, {}) else "" for of, k in columns],
            }
            for record in shown
        ],
        "left_out": len(records) - len(shown),
        "seconds": sum(map(record_seconds, records)), "tokens": sum(map(record_tokens, records)),
    }  # fmt: skip


def _puzzles(archive: Archive, asked: Asked) -> dict[str, Any]:
    order = asked.one_of("sort", ORDERS) or "newest"
    chosen = Filter(
        asked.one_of("origin", ORIGINS), asked.number("iteration"), asked.text("type"), asked.text("skill"),
        asked.number("difficulty"), asked.one_of("state", STATES), asked.text("words"), asked.text("verdict"),
    )  # fmt: skip
    rows = page_of(archive, chosen, order, serving.ROWS, asked.offset)
    counted = len(rows) < serving.ROWS and (rows or not asked.offset)  # known on the last page
    total = asked.offset + len(rows) if counted else number_of(archive, chosen)
    hits = pattern_of(chosen.words) if chosen.words else None
    return {
        "rows": rows, "pages": asked.pages(total), "chosen": vars(chosen), "order": order, "orders": [*ORDERS],
        "states": [*STATES], "choices": choices(archive), "hits": hits,
        "found_in": _found_in(archive, rows, hits) if hits else {},
    }  # fmt: skip


def _found_in(archive: Archive, rows: Sequence[sqlite3.Row], hits: re.Pattern[str]) -> dict[str, str]:
    """For puzzles whose own text has no hit, a solution that has one."""
    found: dict[str, str] = {}
    for row in rows:
        if not hits.search(row["source"]) and not hits.search(row["name"]):
            sql = "SELECT source FROM solutions WHERE puzzle = ? ORDER BY length(source) LIMIT 20"
            sources = [source for (source,) in archive.query(sql, row["puzzle"])]
            with_hits = [source for source in sources if hits.search(source)]
            found |= {row["puzzle"]: with_hits[0]} if with_hits else {}
    return found


def _puzzle(archive: Archive, asked: Asked) -> dict[str, Any]:
    from selfplay.inspecting.story import story
    from selfplay.iteration.training_set import known_shots  # here: the start must not wait for the loop

    told = story(archive, asked.id, known_shots(archive))
    by_verdict: dict[str, list[dict[str, Any]]] = {}
    for candidate in told.candidates:
        by_verdict.setdefault(candidate["verdict"], []).append(candidate)
    most_first = sorted(by_verdict.items(), key=lambda item: (-len(item[1]), item[0]))
    return {**vars(told), "by_verdict": dict(most_first), "tried": len(told.candidates)}


def _pairs(archive: Archive, asked: Asked) -> dict[str, Any]:
    total = _count(archive, "solutions")
    return {"rows": pairs_of(archive, serving.ROWS, asked.offset), "pages": asked.pages(total)}


def _iterations(archive: Archive, asked: Asked) -> dict[str, Any]:
    rows = archive.query("SELECT * FROM iterations")
    return {"rows": rows, "columns": rows[0].keys() if rows else []}


def _refused(archive: Archive, asked: Asked) -> dict[str, Any]:
    what = asked.one_of("what", REFUSED) or "proposals"
    stage, outcome = REFUSED[what], asked.text("outcome")
    totals = {name: _number_refused(archive, own) for name, own in REFUSED.items()}
    if stage:
        reasons = outcomes(archive, stage, refused=True)
        rows = _proposals(archive, stage, outcome, asked.offset)
    else:
        reason = "what || ': ' || reason"
        reasons = archive.counts(f"SELECT {reason}, count(*) n FROM refusals GROUP BY 1 ORDER BY n DESC, 1")
        rows = _imports(archive, outcome, asked.offset)
    total = reasons.get(outcome, 0) if outcome else totals[what]
    return {"what": what, "totals": totals, "rows": rows, "outcomes": reasons, "outcome": outcome,
            "pages": asked.pages(total)}  # fmt: skip


def _number_refused(archive: Archive, stage: str) -> int:
    return sum(outcomes(archive, stage, refused=True).values()) if stage else _count(archive, "refusals")


def _imports(archive: Archive, outcome: str | None, offset: int) -> list[dict[str, Any]]:
    return [
        {"outcome": f"{row['what']}: {row['reason']}", "where": row["name"], "detail": row["detail"],
         "text": row["original"]}
        for row in refused_imports(archive, serving.ROWS, offset, outcome)
    ]  # fmt: skip


def _proposals(archive: Archive, stage: str, outcome: str | None, offset: int) -> list[dict[str, Any]]:
    from selfplay.inspecting.story import refused_texts

    return [
        row | {"where": f"iteration {row['iteration']}, {row['stage']}, text {row['position']} of chunk {row['chunk']}"}
        for row in refused_texts(archive, stage, outcome, serving.ROWS, offset)
    ]
