"""Compares an archive's schema, statement by statement, with what this program writes.

An SQLite file can hold programs: triggers, views, generated columns, expressions in indexes and checks, tables of other
modules. They would run when rows are read or added. So before anything else is read, each statement of the schema must
be one of ours. Comments, white space and quotes do not count. An upgraded archive may have its columns in another order
(`ALTER TABLE` adds them at the end).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from puzzles.foreign import shown

MOST_OBJECTS = 100
"""More tables, indexes and views than any archive has."""
_TOKEN = re.compile(
    r"""(?P<skipped>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))|'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|\w+|.""", re.DOTALL
)
_QUOTED_NAME = re.compile(r"""["`\[]([a-z_]\w*)["`\]]""")
"""Quotes around one of our names, which need none. A keyword in quotes is none: `"UNIQUE"` is the name of a type."""
_NEEDED = ("PRIMARY", "UNIQUE", ")")
"""First tokens of the parts of a table that are no columns. None of them may be missing."""
_DEFAULTS = ("''", "0", "0.0", "NULL")
"""Values that `ALTER TABLE` may have given to the rows that were there when a column was added."""

Tokens = tuple[str, ...]
Object = tuple[str, str]
"""Kind (`table`, `index` or `view`) and name."""


def fault(connection: sqlite3.Connection, statements: Iterable[str], written_before: Mapping[str, str]) -> str:
    """The first object of a database that none of some statements makes, as a message; an empty text if there is none.

    Tables and columns that are missing are no fault here.

    Args:
        connection: Connection to the database. Only its schema is read.
        statements: The statements that make a database of today.
        written_before: Older texts of parts of these statements, by today's text. A part is a column or a constraint of
            a table, or a whole index.
    """
    known = {(kind, name): parts for kind, name, parts in (_read(tokens(statement)) for statement in statements)}
    before = {tokens(today): tokens(older) for today, older in written_before.items()}
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid LIMIT ?", (MOST_OBJECTS + 1,)
    ).fetchall()
    if len(rows) > MOST_OBJECTS:
        return f"it has more than {MOST_OBJECTS} tables, indexes, views and triggers"
    return next(filter(None, (_fault_of(known, before, *row) for row in rows)), "")


def _fault_of(
    known: Mapping[Object, Sequence[Tokens]],
    before: Mapping[Tokens, Tokens],
    kind: Any,
    name: Any,
    table: Any,
    sql: Any,
) -> str:
    where = f"the {kind if kind in ('table', 'index', 'view', 'trigger') else 'object'} {shown(name)}"
    if kind == "index" and sql is None and re.fullmatch(rf"sqlite_autoindex_{re.escape(str(table))}_\d+", str(name)):
        return ""  # SQLite makes it for a UNIQUE or PRIMARY KEY
    if not isinstance(sql, str) or (kind, name) not in known:
        return f"it has {where}, which no version of this program makes"
    made, called, parts = _read(tokens(sql))
    if (made, called) != (kind, name):
        return f"it has {where}, whose definition makes another one"
    ours = known[kind, name]
    allowed = {*ours} | {before[part] for part in ours if part in before}
    for part in parts:
        added = len(part) > 2 and part[-2] == "DEFAULT" and part[-1] in _DEFAULTS and part[:-2] in allowed
        if part not in allowed and not added:
            return f"it has {where} with a part that no version of this program makes: {shown(' '.join(part))}"
    if lacking := [part for part in ours if part[0] in _NEEDED and not {part, before.get(part)} & {*parts}]:
        return f"it has {where} without {shown(' '.join(lacking[0]))}"
    return ""


def tokens(sql: str) -> Tokens:
    """The tokens of a statement or of a part of one, in one spelling.

    Comments are left out, and quotes around a name that needs none. So is the column `(id)` that a reference names,
    because it is the primary key, which a reference means that names no column.
    """
    found = [match[0] for match in _TOKEN.finditer(sql) if match["skipped"] is None]
    found = [name[1] if (name := _QUOTED_NAME.fullmatch(token)) else token for token in found]
    if found[:2] == ["CREATE", "TABLE"] and len(found) > 2:
        found[2] = found[2].strip("'")  # a full-text index names its tables so
    kept: list[str] = []
    for token in found:
        kept.append(token)
        if kept[-3:] == ["(", "id", ")"] and len(kept) > 4 and kept[-5] == "REFERENCES":
            del kept[-3:]
    return tuple(kept[:-1] if kept[-1:] == [";"] else kept)


def _read(found: Tokens) -> tuple[str, str, list[Tokens]]:
    """The kind, name and parts of what a statement makes. A table's parts are its columns and constraints, and what
    stands behind them; any other statement is one part.
    """
    if found[:2] == ("CREATE", "TABLE") and found[3:4] == ("(",):
        return "table", found[2], _parts(found[4:])
    if found[:3] == ("CREATE", "VIRTUAL", "TABLE") and len(found) > 3:
        return "table", found[3], [found]
    if found[:1] == ("CREATE",) and found[1:2] in (("INDEX",), ("VIEW",)) and len(found) > 2:
        return found[1].lower(), found[2], [found]
    return "", "", [found]


def _parts(inside: Tokens) -> list[Tokens]:
    parts: list[Tokens] = []
    depth, start = 1, 0
    for place, token in enumerate(inside):
        depth += (token == "(") - (token == ")")
        if (token == "," and depth == 1) or depth == 0:
            parts.append(inside[start:place])
            start = place + 1
        if depth == 0:
            break
    return parts if inside[start:] == () else [*parts, (")", *inside[start:])]
