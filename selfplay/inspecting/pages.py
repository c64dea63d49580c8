"""The browser pages of an archive: our own, made from its rows, and datasette's pages for tables and SQL.

All text of an archive may be hostile. Jinja makes each of our pages with escaping on and control characters shown as
escapes. Its headers allow the browser nothing but our stylesheet.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from datasette import hookimpl
from datasette.app import Datasette
from datasette.database import Database
from datasette.plugins import pm
from datasette.utils.asgi import Response
from markupsafe import Markup

from puzzles.archive import schema
from puzzles.archive.catalogue import (
    ORDERS,
    STATES,
    Filter,
    number_of,
    page_of,
    pairs_of,
    refused_imports,
    refused_proposals,
)
from puzzles.archive.opening import STEPS_BETWEEN_LOOKS
from puzzles.archive.store import CANDIDATES_N_C, Archive
from puzzles.puzzle import InputError
from selfplay.inspecting import markup
from selfplay.text import printable

NAME = "archive"
"""Name of the database in the addresses of datasette's pages."""
ROWS = 50
"""Rows on a page."""
ORIGINS = ("human", "rule", "import", "model", "variant")
IMPORTS = "imports"
"""Value of `outcome` that shows refused imports instead of refused proposals."""
STRICT = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
}
"""Headers of our own pages, which have no script."""
SETTINGS = {
    "allow_download": False,
    "allow_csv_stream": False,  # it would send all rows, without a limit of time
    "default_cache_ttl": 0,  # a running loop keeps writing
    "default_page_size": ROWS,
    "suggest_facets": False,  # they would read all rows
    "sql_time_limit_ms": 3000,
}
PAGE_SECONDS = 60.0
"""Time after which a page of ours is given up."""
MOST_VALUE_BYTES = 20_000_000
"""Longest value that SQL may make. Making one of a gigabyte takes several gigabytes, and no time limit stops it."""
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
                "candidates": {"description": "Every judged candidate. Its text is in its chunk's completions."},
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
                "refused": {
                    "title": "Proposals by iteration and outcome",
                    "sql": "SELECT k.iteration, r.outcome, count(*) AS proposals FROM proposals r"
                    " JOIN chunks k ON k.id = r.chunk GROUP BY 1, 2 ORDER BY 1, 3 DESC",
                },
            },
        }
    },
}


FUNCTIONS = frozenset({
    "->", "->>", "abs", "avg", "bm25", "char", "coalesce", "count", "cume_dist", "date", "datetime", "dense_rank",
    "escape_fts", "first_value", "format", "glob", "group_concat", "hex", "highlight", "ifnull", "iif", "instr", "json",
    "json_array", "json_array_length", "json_extract", "json_group_array", "json_group_object", "json_object",
    "json_patch", "json_quote", "json_remove", "json_replace", "json_set", "json_type", "json_valid", "julianday",
    "lag", "last_value", "lead", "length", "like", "likelihood", "likely", "lower", "ltrim", "match", "max", "min",
    "nth_value", "ntile", "nullif", "percent_rank", "printf", "quote", "rank", "replace", "round", "row_number",
    "rtrim", "sign", "snippet", "strftime", "substr", "substring", "sum", "time", "total", "trim", "typeof", "unicode",
    "unixepoch", "unlikely", "upper",
})  # fmt: skip
"""Functions that SQL from a page may call. SQLite has others that change what it does, or even end the process."""
PRAGMAS = frozenset({
    "cache_size", "data_version", "database_list", "foreign_key_list", "index_info", "index_list", "index_xinfo",
    "page_count", "page_size", "schema_version", "table_info", "table_list", "table_xinfo",
})  # fmt: skip
"""Pragmas by which datasette learns what the tables are."""
SCHEMAS = frozenset({"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"})
TABLES = (
    frozenset(schema.tables())
    | SCHEMAS
    | {"pairs", "iterations", "json_each", "json_tree"}
    | {f"search_{table}{part}" for table in schema.SEARCHED for part in ("", "_data", "_idx", "_docsize", "_config")}
    | {f"pragma_{name}" for name in PRAGMAS}
)


def may(action: int, one: str | None, other: str | None, database: str | None, by: str | None) -> int:
    """SQLite's authorizer: whether a step of a statement from a page is allowed. It may read our tables."""
    allowed = (
        action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
        # Rows are only counted where no column is named.
        or (action == sqlite3.SQLITE_READ and (one in TABLES or not one or not other))
        or (action == sqlite3.SQLITE_FUNCTION and str(other).lower() in FUNCTIONS)
        or (action == sqlite3.SQLITE_PRAGMA and one in PRAGMAS)
        # A table that a module makes is declared so when it is first used. Nothing can be written there: the connection
        # is read-only, and the pragma that opens the schema is not allowed.
        or (action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE) and one in SCHEMAS)
        or (action == sqlite3.SQLITE_CREATE_TABLE and one in TABLES)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


class _ArchiveDatabase(Database):  # type: ignore[misc]  # datasette has no types
    """An archive as a datasette database. Every connection is read-only."""

    def connect(self, write: bool = False) -> sqlite3.Connection:
        connection = Archive(self.path, read_only=True, trust=True).connection
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE_BYTES)
        connection.set_authorizer(may)
        self._all_file_connections.append(connection)
        return connection

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        return await super().execute(*arguments, **{**options, "log_sql_errors": False})  # the page shows them


def over(path: Path, is_ending: Callable[[], bool] = lambda: False) -> Datasette:
    """A datasette that serves an archive, with our pages.

    Args:
        path: The archive, which has been checked.
        is_ending: Whether the server is ending, so that a page that is being made is not needed any more.
    """
    datasette = Datasette(files=[], metadata=METADATA, settings=SETTINGS)
    datasette.selfplay_is_ending = is_ending
    datasette.remove_database("_memory")
    datasette.add_database(_ArchiveDatabase(datasette, str(path)), name=NAME)
    return datasette


def close(datasette: Datasette) -> None:
    """Wait for the queries that still run, then close the archive."""
    datasette.executor.shutdown()
    datasette.get_database(NAME).close()


# ---- hooks that datasette calls ----


@hookimpl  # type: ignore[untyped-decorator]
def register_routes(datasette: Any) -> list[tuple[str, Any]]:
    """Our pages, which take precedence over datasette's."""
    return [
        (r"^/$", _page("start.html", _start)),
        (r"^/puzzles$", _page("puzzles.html", _puzzles)),
        (r"^/puzzle/(?P<id>\w+)$", _page("puzzle.html", _puzzle)),
        (r"^/pairs$", _page("pairs.html", _pairs)),
        (r"^/iterations$", _page("iterations.html", _iterations)),
        (r"^/refused$", _page("refused.html", _refused)),
        (r"^/(?P<name>view|tables)\.css$", _style),
    ]


@hookimpl  # type: ignore[untyped-decorator]
def extra_css_urls(view_name: str) -> list[str]:
    """The style sheet that gives datasette's pages a dark mode."""
    return ["/tables.css"]


@hookimpl  # type: ignore[untyped-decorator]
def render_cell(value: Any, column: str, table: str, database: str) -> Markup | None:
    """A cell of datasette's tables: a puzzle's id is a link to the puzzle's page, and any other text is only text.

    Datasette would make a link of an address.
    """
    value = value["value"] if isinstance(value, dict) else value  # a foreign key with its label
    named = column in ("puzzle", "puzzle_id") or (table, column) == ("puzzles", "id")
    if database != NAME or not named or not re.fullmatch(r"[0-9a-f]+", str(value)):
        return Markup('<span class="text">{}</span>').format(printable(value)) if isinstance(value, str) else None
    return Markup('<a href="/puzzle/{0}">{0}</a>').format(value)


@hookimpl  # type: ignore[untyped-decorator]
def handle_exception(datasette: Any, request: Any, exception: Exception) -> Response:
    """A page for a wrong address or a failed query. Nothing is printed on the terminal."""
    status = 404 if isinstance(exception, InputError) else getattr(exception, "status", 500)
    reason = exception.title if getattr(exception, "message_is_html", False) else str(exception)  # type: ignore
    if request.path.endswith(".json"):
        return Response.json({"ok": False, "error": reason, "status": status}, status)
    found = {"error": reason, "title": "Not found" if status == 404 else "The request failed"}
    return _shown("wrong.html", request, datasette.get_database(NAME).path, found, status)


# ---- making a page ----


_templates = markup.environment("viewing")
_templates.filters["count"] = "{:,}".format
_templates.filters["date"] = lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


class _Asked:
    """The parameters of an address. A wrong one raises an InputError."""

    def __init__(self, request: Any) -> None:
        self.id: str = request.url_vars.get("id", "")
        self._given = {name: request.args[name] for name in request.args if request.args[name].strip()}

    def text(self, name: str) -> str | None:
        return self._given.get(name)

    def number(self, name: str) -> int | None:
        text = self._given.get(name)
        if text is not None and not re.fullmatch(r"[0-9]{1,9}", text):
            raise InputError(f"{name}: expected a number, got {text!r}")
        return None if text is None else int(text)

    def one_of(self, name: str, choices: Any) -> str | None:
        text = self._given.get(name)
        if text is not None and text not in choices:
            raise InputError(f"{name}: expected one of {', '.join(choices)}, got {text!r}")
        return text

    @property
    def offset(self) -> int:
        return (max(1, self.number("page") or 1) - 1) * ROWS

    def pages(self, total: int) -> dict[str, Any]:
        """The number of this page among `total` rows, and the addresses of the pages around it."""
        number, last = self.offset // ROWS + 1, max(1, -(-total // ROWS))
        places = {"first": 1, "newer": number - 1, "older": number + 1, "last": last}
        links = {
            name: "?" + urlencode({**self._given, "page": place})
            for name, place in places.items()
            if 1 <= place <= last and place != number
        }
        return {"number": number, "last": last, "total": total, "links": links}


def _page(template: str, find: Callable[[Archive, _Asked], dict[str, Any]]) -> Any:
    """A page that a template makes from what `find` reads in one read transaction."""

    def read(path: Path, request: Any, is_ending: Callable[[], bool]) -> dict[str, Any]:
        last = time.monotonic() + PAGE_SECONDS

        def is_over() -> bool:
            return is_ending() or time.monotonic() > last

        with Archive(path, read_only=True, trust=True) as archive:
            archive.connection.set_progress_handler(is_over, STEPS_BETWEEN_LOOKS)
            archive.connection.execute("BEGIN")
            try:
                return find(archive, _Asked(request))
            except sqlite3.OperationalError as error:
                if is_over():
                    raise InputError(f"this page takes more than {PAGE_SECONDS:.0f} seconds") from error
                raise

    async def view(request: Any, datasette: Any) -> Response:
        path = datasette.get_database(NAME).path
        found = await asyncio.to_thread(read, Path(path), request, datasette.selfplay_is_ending)
        return _shown(template, request, path, found)

    return view


def _shown(template: str, request: Any, path: str, found: dict[str, Any], status: int = 200) -> Response:
    words = request.args.get("words") or ""
    return Response.html(_templates.get_template(template).render(path=path, words=words, **found), status, STRICT)


async def _style(request: Any) -> Response:
    sheet = Path(__file__).parent / "viewing" / f"{request.url_vars['name']}.css"
    return Response(sheet.read_text("utf-8"), content_type="text/css; charset=utf-8")


# ---- the contents of pages ----


def _count(archive: Archive, rows: str) -> int:
    return int(archive.query(f"SELECT count(*) FROM {rows}")[0][0])


def _start(archive: Archive, asked: _Asked) -> dict[str, Any]:
    return {
        "bytes": archive.query("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")[0][0],
        "counts": {name: _count(archive, table) for name, table in (
            ("puzzles", "puzzles"), ("pairs", "solutions"), ("candidates", "candidates"),
        )},
        "origins": archive.counts("SELECT origin, count(*) n FROM puzzles GROUP BY 1 ORDER BY n DESC"),
        "newest": page_of(archive, Filter(), limit=10),
    }  # fmt: skip


def _puzzles(archive: Archive, asked: _Asked) -> dict[str, Any]:
    order = asked.one_of("sort", ORDERS) or "newest"
    chosen = Filter(
        asked.one_of("origin", ORIGINS), asked.number("iteration"), asked.text("type"), asked.text("skill"),
        asked.number("difficulty"), asked.one_of("state", STATES), asked.text("words"),
    )  # fmt: skip
    rows = page_of(archive, chosen, order, ROWS, asked.offset)
    counted = len(rows) < ROWS and (rows or not asked.offset)  # known on the last page
    total = asked.offset + len(rows) if counted else number_of(archive, chosen)
    return {
        "rows": rows, "pages": asked.pages(total),
        "chosen": vars(chosen), "order": order, "orders": [*ORDERS], "states": [*STATES], "origins": ORIGINS,
    }  # fmt: skip


def _puzzle(archive: Archive, asked: _Asked) -> dict[str, Any]:
    from selfplay.inspecting.story import story
    from selfplay.iteration.training_set import known_shots  # here: the start must not wait for the loop

    told = story(archive, asked.id, known_shots(archive))
    by_verdict: dict[str, list[dict[str, Any]]] = {}
    for candidate in told.candidates:
        by_verdict.setdefault(candidate["verdict"], []).append(candidate)
    most_first = sorted(by_verdict.items(), key=lambda item: (-len(item[1]), item[0]))
    return {**vars(told), "by_verdict": dict(most_first), "tried": len(told.candidates)}


def _pairs(archive: Archive, asked: _Asked) -> dict[str, Any]:
    total = _count(archive, "solutions")
    return {"rows": pairs_of(archive, ROWS, asked.offset), "pages": asked.pages(total)}


def _iterations(archive: Archive, asked: _Asked) -> dict[str, Any]:
    rows = archive.query("SELECT * FROM iterations")
    return {"rows": rows, "columns": rows[0].keys() if rows else []}


def _refused(archive: Archive, asked: _Asked) -> dict[str, Any]:
    outcomes = archive.counts(
        "SELECT outcome, count(*) n FROM proposals WHERE outcome != 'admitted' GROUP BY 1 ORDER BY n DESC, 1"
    )
    imports, outcome = _count(archive, "refusals"), asked.text("outcome")
    total = imports if outcome == IMPORTS else outcomes.get(outcome, 0) if outcome else sum(outcomes.values())
    texts = _imports(archive, asked.offset) if outcome == IMPORTS else _proposals(archive, outcome, asked.offset)
    pages = asked.pages(total)
    return {"rows": texts, "outcomes": outcomes, "imports": imports, "outcome": outcome, "pages": pages}


def _imports(archive: Archive, offset: int) -> list[dict[str, Any]]:
    return [
        {"outcome": f"{row['what']}: {row['reason']}", "where": row["name"], "detail": row["detail"],
         "text": row["original"]}
        for row in refused_imports(archive, ROWS, offset)
    ]  # fmt: skip


def _proposals(archive: Archive, outcome: str | None, offset: int) -> list[dict[str, Any]]:
    from selfplay.inspecting.story import text_at

    rows = refused_proposals(archive, outcome, ROWS, offset)
    chunks = {number: archive.chunk(number) for number in {row["chunk"] for row in rows}}
    return [
        {"outcome": row["outcome"], "detail": row["detail"], "text": text_at(chunks[row["chunk"]], row["position"]),
         "where": f"iteration {row['iteration']}, {row['stage']}, text {row['position']} of chunk {row['chunk']}"}
        for row in rows
    ]  # fmt: skip


pm.set_blocked("datasette.handle_exception")  # it would print the error, perhaps hostile text, on the terminal
pm.register(sys.modules[__name__])
