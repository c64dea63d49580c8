"""What all browser pages share: a database that SQL may only read, how a page of ours is made, and datasette's pages.

All text in the database may be hostile. Jinja makes each of our pages with escaping on and control characters shown as
escapes. Its headers allow the browser nothing but our stylesheet.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from datasette import hookimpl
from datasette.app import Datasette
from datasette.database import Database
from datasette.plugins import pm
from datasette.utils.asgi import Response
from markupsafe import Markup

from puzzles.archive.opening import STEPS_BETWEEN_LOOKS
from puzzles.puzzle import InputError
from selfplay.inspecting import markup
from selfplay.text import printable

ROWS = 50
"""Rows on a page."""
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


@dataclass(frozen=True)
class Site:
    """The pages of one database."""

    name: str
    """Name of the database in the addresses of datasette's pages."""
    path: Path
    """The database's file."""
    shown_as: str
    """What the pages are about, at their foot."""
    opened: Callable[[], AbstractContextManager[Any]]
    """Opens the database to read it, for one page of ours. What it yields has a `connection`."""
    connect: Callable[[], sqlite3.Connection]
    """Opens a read-only connection for datasette's pages."""
    tables: frozenset[str]
    """Tables and views that SQL from a page may read."""
    metadata: Mapping[str, Any]
    """What datasette shows about the tables."""
    pages: Mapping[str, tuple[str, Callable[[Any, Asked], Mapping[str, Any]]]]
    """Our pages: by the pattern of their addresses the template, and what finds its contents."""
    menu: Mapping[str, str]
    """The links on top of every page: their texts and addresses. The first leads home."""
    search: str
    """The address where a search from the top of a page goes."""
    functions: frozenset[str] = frozenset()
    """Functions of our own that SQL from a page may call."""
    routes: Sequence[tuple[str, Any]] = ()
    """Further pages, which make their whole answer."""
    is_ending: Callable[[], bool] = field(default=lambda: False)
    """Whether the server is ending, so that a page that is being made is not needed any more."""

    def may(self, action: int, one: str | None, other: str | None, database: str | None, by: str | None) -> int:
        """SQLite's authorizer: whether a step of a statement from a page is allowed. It may read our tables."""
        tables = self.tables | SCHEMAS | {f"pragma_{name}" for name in PRAGMAS} | {"json_each", "json_tree"}
        allowed = (
            action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
            # Rows are only counted where no column is named.
            or (action == sqlite3.SQLITE_READ and (one in tables or not one or not other))
            or (action == sqlite3.SQLITE_FUNCTION and str(other).lower() in FUNCTIONS | self.functions)
            or (action == sqlite3.SQLITE_PRAGMA and one in PRAGMAS)
            # A table that a module makes is declared so when it is first used. Nothing can be written there: the
            # connection is read-only, and the pragma that opens the schema is not allowed.
            or (action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE) and one in SCHEMAS)
            or (action == sqlite3.SQLITE_CREATE_TABLE and one in tables)
        )
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


class _ReadDatabase(Database):  # type: ignore[misc]  # datasette has no types
    """A site's database for datasette. Every connection is read-only."""

    def __init__(self, datasette: Datasette, site: Site) -> None:
        super().__init__(datasette, str(site.path))
        self._site = site

    def connect(self, write: bool = False) -> sqlite3.Connection:
        connection = self._site.connect()
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE_BYTES)
        connection.set_authorizer(self._site.may)
        self._all_file_connections.append(connection)
        return connection

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        return await super().execute(*arguments, **{**options, "log_sql_errors": False})  # the page shows them


class _Served(Datasette):  # type: ignore[misc]  # datasette has no types
    """A datasette that knows its site from the beginning, when it asks for routes."""

    def __init__(self, site: Site) -> None:
        self.selfplay_site = site
        templates = Path(__file__).parent / "viewing" / "datasette"
        super().__init__(files=[], metadata=site.metadata, settings=SETTINGS, template_dir=str(templates))
        self.remove_database("_memory")
        self.add_database(_ReadDatabase(self, site), name=site.name)


def over(site: Site) -> Datasette:
    """A datasette that serves a site: our pages, and its own for tables and SQL."""
    return _Served(site)


def close(datasette: Datasette) -> None:
    """Wait for the queries that still run, then close the database."""
    datasette.executor.shutdown()
    datasette.get_database(datasette.selfplay_site.name).close()


# ---- hooks that datasette calls ----


@hookimpl  # type: ignore[untyped-decorator]
def register_routes(datasette: Any) -> list[tuple[str, Any]]:
    """Our pages, which take precedence over datasette's."""
    site = datasette.selfplay_site
    own = [(pattern, _page(site, template, find)) for pattern, (template, find) in site.pages.items()]
    return [*own, *site.routes, (r"^/(?P<name>view|tables)\.css$", _style)]


@hookimpl  # type: ignore[untyped-decorator]
def extra_css_urls(view_name: str) -> list[str]:
    """The style sheet that makes datasette's pages look like ours."""
    return ["/tables.css"]


@hookimpl  # type: ignore[untyped-decorator]
def extra_template_vars(datasette: Any) -> dict[str, Any]:
    """The links on top of datasette's pages."""
    return {"menu": datasette.selfplay_site.menu}


@hookimpl  # type: ignore[untyped-decorator]
def render_cell(value: Any, column: str, table: str, database: str) -> Markup | None:
    """A cell of datasette's tables: a puzzle's id is a link to the puzzle's page, and any other text is only text.

    Datasette would make a link of an address.
    """
    value = value["value"] if isinstance(value, dict) else value  # a foreign key with its label
    named = column in ("puzzle", "puzzle_id") or (table, column) == ("puzzles", "id")
    if not named or not re.fullmatch(r"[0-9a-f]+", str(value)):
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
    return _shown(datasette.selfplay_site, "wrong.html", request, found, status)


# ---- making a page ----


_templates = markup.environment("viewing")
_templates.filters["count"] = "{:,}".format
_templates.filters["date"] = lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


class Asked:
    """The parameters of an address. A wrong one raises an InputError."""

    def __init__(self, request: Any) -> None:
        self.id: str = request.url_vars.get("id", "")
        self._given = {name: request.args[name] for name in request.args if request.args[name].strip()}

    def text(self, name: str) -> str | None:
        """A parameter's text; None if it is not given."""
        return self._given.get(name)

    def number(self, name: str) -> int | None:
        """A parameter's number."""
        text = self._given.get(name)
        if text is not None and not re.fullmatch(r"[0-9]{1,9}", text):
            raise InputError(f"{name}: expected a number, got {text!r}")
        return None if text is None else int(text)

    def one_of(self, name: str, choices: Any) -> str | None:
        """A parameter's text, which must be one of some."""
        text = self._given.get(name)
        if text is not None and text not in choices:
            raise InputError(f"{name}: expected one of {', '.join(choices)}, got {text!r}")
        return text

    @property
    def offset(self) -> int:
        """Rows before the page."""
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


def _page(site: Site, template: str, find: Callable[[Any, Asked], Mapping[str, Any]]) -> Any:
    """A page that a template makes from what `find` reads in one read transaction."""

    def read(request: Any) -> Mapping[str, Any]:
        last = time.monotonic() + PAGE_SECONDS

        def is_over() -> bool:
            return site.is_ending() or time.monotonic() > last

        with site.opened() as database:
            database.connection.set_progress_handler(is_over, STEPS_BETWEEN_LOOKS)
            database.connection.execute("BEGIN")
            try:
                return find(database, Asked(request))
            except sqlite3.OperationalError as error:
                if is_over():
                    raise InputError(f"this page takes more than {PAGE_SECONDS:.0f} seconds") from error
                raise

    async def view(request: Any) -> Response:
        return _shown(site, template, request, await asyncio.to_thread(read, request))

    return view


def _shown(site: Site, template: str, request: Any, found: Mapping[str, Any], status: int = 200) -> Response:
    given = {"path": site.shown_as, "menu": site.menu, "search": site.search, "words": request.args.get("words") or ""}
    return Response.html(_templates.get_template(template).render(**{**given, **found}), status, STRICT)


async def _style(request: Any) -> Response:
    sheet = Path(__file__).parent / "viewing" / f"{request.url_vars['name']}.css"
    return Response(sheet.read_text("utf-8"), content_type="text/css; charset=utf-8")


pm.set_blocked("datasette.handle_exception")  # it would print the error, perhaps hostile text, on the terminal
pm.register(sys.modules[__name__])
