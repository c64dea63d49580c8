"""The archive's tables: creates them, checks them, and upgrades those of older versions after a backup.

The names, columns and comments of the tables are meant for any SQLite tool. The views `pairs` and `iterations` and the
table `candidates` answer most questions.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from puzzles.archive import identity, opening, statements
from puzzles.foreign import MOST_JSON_BYTES, in_bytes, shown, unpacks_to_more
from puzzles.puzzle import InputError
from puzzles.writing import path_atomically

logger = logging.getLogger(__name__)

SEED_BITS = 62
"""Bits of the seed of an archive's worlds, so that SQLite, JSON and TOML can hold it as an integer."""

SCHEMA_VERSION = 5
"""Schema 5 keeps the authors' texts, which are judged. Schema 4 keeps sampled tokens, and its ids are those of a normal
form that renames no name with a meaning."""
APPLICATION_ID = 0x5E1F914A
"""SQLite's application id, which marks a file as an archive of this project."""
MACHINE_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM)
"""SQLite's error codes for failures of the machine, which say nothing about the file."""
SEARCHED = {"puzzles": ("name", "source", "description"), "solutions": ("source",)}
"""Tables with a full-text index, which is named `search_` and the table, and the columns of that index."""

_TABLES = """
CREATE TABLE contamination (         -- puzzles of this archive that a guard found too near to a guarded one
    puzzle TEXT NOT NULL,
    level TEXT NOT NULL,             -- exact | normal_form | near_duplicate | behaviour
    guarded TEXT NOT NULL,           -- the guarded puzzle's name
    detail TEXT NOT NULL,
    guard TEXT NOT NULL,             -- identity of the guard
    added_at REAL NOT NULL,
    PRIMARY KEY (puzzle, guard)
);
CREATE TABLE marks (                 -- steps of a run that are done once, its guard, and iterations that are set aside
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE protections (
    id TEXT PRIMARY KEY,             -- hash of the content
    content TEXT NOT NULL            -- JSON: tier, layers, probes, Python, kernel
);
CREATE TABLE chunks (                -- the unit of sampling, resuming and replaying
    id INTEGER PRIMARY KEY,
    iteration INTEGER NOT NULL,
    stage TEXT NOT NULL,             -- propose | vary | solve | further
    number INTEGER NOT NULL,
    checkpoint TEXT NOT NULL,        -- hash of the weights sampled from
    seed TEXT NOT NULL,
    settings TEXT NOT NULL,          -- JSON: temperature, top_p, max_tokens, batch_rows, dtype, threads
    plan BLOB NOT NULL,              -- zlib JSON: what is asked for, in order
    completions BLOB,                -- zlib JSON: every text that was sampled; NULL until sampled
    judged INTEGER NOT NULL DEFAULT 0,
    tokens INTEGER,
    prompt_tokens INTEGER,           -- read, of each prompt once if it was read once
    sampling_seconds REAL,
    sampling_cpu_seconds REAL,
    judging_seconds REAL,
    judging_cpu_seconds REAL,        -- of the supervisor, the zygotes and their children
    token_ids BLOB,                  -- zlib JSON of `ids`, the tokens of each text in order, and `ended`, what ended
                                     -- it: token (the last one) | line | cut; NULL if not known
    UNIQUE (iteration, stage, number)
);
CREATE TABLE proposals (
    chunk INTEGER NOT NULL REFERENCES chunks (id),
    position INTEGER NOT NULL,
    outcome TEXT NOT NULL,           -- admitted | duplicate | held_out | the rule or reason it failed
    detail TEXT NOT NULL,
    puzzle TEXT,
    PRIMARY KEY (chunk, position)
);
CREATE TABLE candidates (
    chunk INTEGER NOT NULL REFERENCES chunks (id),
    position INTEGER NOT NULL,       -- of its text in the chunk's completions
    puzzle TEXT NOT NULL REFERENCES puzzles (id),
    candidate TEXT,                  -- hash of the normal form; NULL if it could not be parsed
    verdict TEXT NOT NULL,
    detail TEXT NOT NULL,
    answer TEXT,                     -- of a long one that was not accepted, the beginning and a hash
    cpu_seconds REAL NOT NULL,
    PRIMARY KEY (chunk, position)
);
CREATE TABLE refusals (              -- imported texts that did not become part of the archive
    name TEXT NOT NULL,
    what TEXT NOT NULL,              -- puzzle | solution
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    original TEXT NOT NULL,
    UNIQUE (name, what, original)
);
CREATE TABLE trained (               -- which pairs each iteration's checkpoint has learned from
    iteration INTEGER NOT NULL,
    puzzle TEXT NOT NULL,
    solution TEXT NOT NULL,          -- '' where only the puzzle was learned, as a proposal with a grade
    PRIMARY KEY (iteration, puzzle, solution)
);
"""

_NUMBERED = """
CREATE TABLE puzzles (
    number INTEGER PRIMARY KEY,      -- in the order they came
    id TEXT NOT NULL UNIQUE,         -- hash of the normal form
    source TEXT NOT NULL,
    answer_type TEXT NOT NULL,
    header TEXT NOT NULL,
    skeleton TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    original TEXT NOT NULL,          -- the text as it came
    origin TEXT NOT NULL,            -- human | rule | import | model | variant
    skills TEXT NOT NULL,            -- JSON list
    difficulty INTEGER,
    iteration INTEGER NOT NULL,
    chunk INTEGER REFERENCES chunks (id), -- NULL unless proposed by a model
    position INTEGER,
    parents TEXT NOT NULL,           -- JSON list of the puzzles in the prompt
    added_at REAL NOT NULL,
    program TEXT NOT NULL DEFAULT '', -- the author's program, which is judged; '' if `source` is that program
    entry TEXT NOT NULL DEFAULT 'f'  -- name of its function
);
CREATE TABLE solutions (
    number INTEGER PRIMARY KEY,      -- in the order they came
    puzzle TEXT NOT NULL REFERENCES puzzles (id),
    id TEXT NOT NULL,                -- hash of the normal form
    source TEXT NOT NULL,
    answer TEXT,
    origin TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    chunk INTEGER REFERENCES chunks (id),
    position INTEGER,
    protections TEXT NOT NULL REFERENCES protections (id),
    cpu_seconds REAL NOT NULL,
    judge_cpu_seconds REAL NOT NULL,
    added_at REAL NOT NULL,
    program TEXT NOT NULL DEFAULT '', -- the author's program, which is run; '' if `source` is that program
    entry TEXT NOT NULL DEFAULT 'g', -- name of its function
    puzzle_name TEXT NOT NULL DEFAULT 'f', -- name by which it may call the puzzle
    UNIQUE (puzzle, id)
);
"""

_DERIVED = """
CREATE INDEX candidates_by_puzzle ON candidates (puzzle, verdict);
CREATE INDEX puzzles_by_kind ON puzzles (origin, iteration, answer_type, difficulty);
CREATE INDEX puzzles_by_skeleton ON puzzles (skeleton);
CREATE INDEX solutions_by_iteration ON solutions (iteration, origin);
CREATE VIRTUAL TABLE search_puzzles USING fts5(
    name, source, description, content = puzzles, content_rowid = number, tokenize = "unicode61 tokenchars '_'"
);
CREATE VIRTUAL TABLE search_solutions USING fts5(
    source, content = solutions, content_rowid = number, tokenize = "unicode61 tokenchars '_'"
);
CREATE VIEW pairs AS
    SELECT p.id AS puzzle_id, s.id AS solution_id, p.name, p.source AS puzzle, s.source AS solution, s.answer,
           p.answer_type, p.origin AS puzzle_origin, s.origin AS solution_origin, s.iteration,
           (SELECT count(*) FROM candidates c WHERE c.puzzle = p.id) AS n,
           (SELECT count(*) FROM candidates c WHERE c.puzzle = p.id AND c.verdict = 'accepted') AS c
    FROM solutions s JOIN puzzles p ON p.id = s.puzzle;
CREATE VIEW iterations AS
    SELECT i.iteration,
           (SELECT count(*) FROM proposals r JOIN chunks k ON k.id = r.chunk
            WHERE k.iteration = i.iteration AND k.stage = 'propose') AS proposed,
           (SELECT count(*) FROM puzzles p WHERE p.iteration = i.iteration AND p.origin = 'model') AS admitted,
           (SELECT count(*) FROM puzzles p WHERE p.iteration = i.iteration AND p.origin = 'variant') AS varied,
           (SELECT count(*) FROM candidates c JOIN chunks k ON k.id = c.chunk
            WHERE k.iteration = i.iteration) AS candidates,
           (SELECT count(*) FROM candidates c JOIN chunks k ON k.id = c.chunk
            WHERE k.iteration = i.iteration AND c.verdict = 'accepted') AS accepted,
           (SELECT count(*) FROM solutions s WHERE s.iteration = i.iteration AND s.origin = 'model') AS new_pairs,
           (SELECT count(*) FROM trained t WHERE t.iteration = i.iteration) AS trained_pairs
    FROM (SELECT DISTINCT iteration FROM solutions UNION SELECT DISTINCT iteration FROM chunks) i ORDER BY 1;
"""


def prepare(connection: sqlite3.Connection, path: Path, create: bool, guard: str, trust: bool = False) -> None:
    """Make sure that a database is an archive of this version: fill an empty one, upgrade an older one.

    Its schema is compared with ours before anything else is read.

    Args:
        connection: Connection to the database, in autocommit.
        path: The database's path, for messages. The backup of an older archive is put beside it.
        create: Whether an empty database becomes an archive.
        guard: Identity of the guard of a new archive. It is empty, so all its puzzles will have passed this guard.
        trust: Whether the rows are not looked at. Otherwise every value is checked.

    Raises:
        InputError: The database is not an archive of this project, is damaged, or is of a newer version.
    """
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if create and not tables:
        connection.execute("PRAGMA journal_mode = WAL")
        kept = f"INSERT INTO marks VALUES ('guard', '{guard}'), ('worlds', '{secrets.randbits(SEED_BITS)}')"
        _in_one(connection, [*_statements(_TABLES + _NUMBERED + _DERIVED), kept, *_IDENTITY])
        return
    version = check(connection, path, trust)
    if version < SCHEMA_VERSION:
        with _alone(path.absolute().parent):
            (version,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have upgraded it
            if version < SCHEMA_VERSION:
                _bring_up_to_date(connection, path, version)


def check(connection: sqlite3.Connection, path: Path, trust: bool = False) -> int:
    """Check that a database is an archive of this or an older version, and that nothing in it may run.

    Args:
        connection: Connection to the database.
        path: Its path, for messages.
        trust: Whether the rows are not looked at.

    Returns:
        Its schema version.

    Raises:
        InputError: It is something else, or is damaged.
    """
    (application,), (version,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    if application != APPLICATION_ID:
        raise InputError(f"{path}: expected an archive, got another SQLite file")
    if version < 1:
        raise InputError(f"{path}: the archive is damaged: expected a schema from 1, got {version}")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: the archive has schema {version}, this version reads up to {SCHEMA_VERSION}: upgrade this program"
        )
    if fault := statements.fault(connection, _written(), _WRITTEN_BEFORE):
        raise InputError(
            f"{path}: expected an archive as this program writes it, but {fault}: do not use this file; if you made "
            "that yourself, take it out with an SQLite tool"
        )
    if fault := _missing(connection, version) or ("" if trust else damage(connection, version, references=False)):
        raise InputError(f"{path}: the archive is damaged: {fault}")
    return int(version)


_COLUMNS_SINCE = {
    "contamination": 2, "chunks.prompt_tokens": 2, "chunks.sampling_cpu_seconds": 2, "chunks.judging_cpu_seconds": 2,
    "puzzles.number": 3, "solutions.number": 3, "chunks.token_ids": 4, "puzzles.program": 5, "puzzles.entry": 5,
    "solutions.program": 5, "solutions.entry": 5, "solutions.puzzle_name": 5,
}  # fmt: skip
"""First schema version of tables and columns that older schemas lack."""
_WRITTEN_BEFORE = {
    "id TEXT NOT NULL UNIQUE": "id TEXT PRIMARY KEY",
    "UNIQUE (puzzle, id)": "PRIMARY KEY (puzzle, id)",
    "CREATE INDEX candidates_by_puzzle ON candidates (puzzle, verdict)":
        "CREATE INDEX candidates_by_puzzle ON candidates (puzzle)",
}  # fmt: skip
"""Parts of tables, and an index, as schemas 1 and 2 wrote them, by today's text."""
_COLUMNS = (
    'SELECT m.name, c.name, c.type, c."notnull" OR c.pk FROM sqlite_master m, pragma_table_info(m.name) c'
    " WHERE m.type IN ('table', 'view') ORDER BY m.rowid, c.cid"
)


@functools.cache
def _written() -> tuple[str, ...]:
    """The statements of an archive's schema as SQLite keeps them, with those that a full-text index makes."""
    with closing(opening.in_memory()) as connection:
        connection.executescript(_TABLES + _NUMBERED + _DERIVED)
        return tuple(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL"))


@functools.cache
def _columns() -> Mapping[str, list[tuple[str, str, bool]]]:
    """Columns of each table and view: name, type, and whether the column has a value in every row."""
    with closing(opening.in_memory()) as connection:
        connection.executescript(_TABLES + _NUMBERED + _DERIVED)
        return _by_table(connection)


def _by_table(connection: sqlite3.Connection) -> dict[str, list[tuple[str, str, bool]]]:
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for table, column, kind, filled in connection.execute(_COLUMNS):
        found.setdefault(table, []).append((column, kind, bool(filled)))
    return found


def tables() -> dict[str, list[str]]:
    """The names of the columns of each table that is not made of others, in an order in which they can be filled."""
    return {
        table: [name for name, _, _ in columns]
        for table, columns in _columns().items()
        if not _is_made_of_others(table)
    }


def _is_made_of_others(table: str) -> bool:
    """Whether this is a view, or a table of a full-text index: these can be made again from the other tables."""
    return table.startswith("search_") or table in ("pairs", "iterations")


def _missing(connection: sqlite3.Connection, version: int) -> str:
    """The first table, view or column that differs from a schema, as a message; an empty text if none does."""
    there = {table: [column for column, _, _ in columns] for table, columns in _by_table(connection).items()}
    for table, columns in _columns().items():
        if version < 3 and _is_made_of_others(table):
            continue  # the upgrade makes it again
        if table in there and _COLUMNS_SINCE.get(table, 1) > version:
            return f"it has a table {table}, which schema {version} does not have"
        expected = [name for name, _, _ in columns if _COLUMNS_SINCE.get(f"{table}.{name}", 1) <= version]
        if _COLUMNS_SINCE.get(table, 1) > version or there.get(table) == expected:
            continue
        if table not in there:
            return f"it has no table {table}"
        if {*there[table]} == {*expected} and (table == "chunks" or version < SCHEMA_VERSION):
            # An upgrade adds columns at the end of a table, so their order may differ in an older archive, and later in
            # `chunks`, whose rows are written by column name.
            continue
        return f"expected in table {table} the columns {', '.join(expected)}, got {', '.join(map(str, there[table]))}"[
            :400
        ]
    return ""


_JSON = {
    ("puzzles", "skills"): "array", ("puzzles", "parents"): "array", ("chunks", "settings"): "object",
    ("protections", "content"): "object",
}  # fmt: skip
"""JSON type of each column that holds JSON. An array holds texts only."""


MOST_TEXT_BYTES = 1024**2
"""Longest text in a column that is not listed below. The archive cuts what it stores to this length."""
_MOST_BYTES = {
    ("puzzles", "source"): 16 * 1024**2, ("solutions", "source"): 16 * 1024**2, ("marks", "value"): 16 * 1024**2,
    ("solutions", "answer"): 96 * 1024**2, ("candidates", "answer"): 96 * 1024**2,
}  # fmt: skip
"""Longest text of columns that may hold more. A canonical source can be far longer than the text it came from; the
limit of an answer is a setting."""
MOST_ITERATION = 10**9
_OF_SET_ASIDE = (
    "name = 'set_aside' AND (NOT json_valid(value) OR json_type(value) != 'object' OR EXISTS"
    " (SELECT 1 FROM json_each(marks.value) WHERE type != 'integer' OR key GLOB '*[^0-9]*'"
    f" OR length(key) NOT BETWEEN 1 AND 9 OR atom NOT BETWEEN 0 AND {MOST_ITERATION}))"
)
"""SQL condition: the mark that lists the iterations that were set aside holds something else."""


def damage(connection: sqlite3.Connection, version: int = SCHEMA_VERSION, references: bool = True) -> str:
    """The first damaged page, row or value of an archive, as a message; an empty text if none is.

    Reads every row.

    Args:
        connection: Connection to the archive.
        version: Its schema version.
        references: Whether rows must not refer to missing rows.
    """
    try:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            return str(said)
        for table, columns in _columns().items():
            if _is_made_of_others(table) or _COLUMNS_SINCE.get(table, 1) > version:
                continue
            there = [column for column in columns if _COLUMNS_SINCE.get(f"{table}.{column[0]}", 1) <= version]
            if fault := _fault_of_rows(connection, table, there):
                return fault
        for table in SEARCHED if version >= 3 else ():
            if connection.execute(f"SELECT 1 FROM search_{table}_config WHERE k != 'version'").fetchone():
                return f"its full-text index search_{table} has options that no version of this program sets"
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check") if references else ():
            return f"row {row} of table {table} refers to a missing row of table {parent}"
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in MACHINE_ERRORS:
            raise
        return opening.told(error)
    except UnicodeDecodeError as error:
        return str(error)
    return ""


def _faults_of(table: str, columns: list[tuple[str, str, bool]]) -> Iterator[tuple[str, str, str]]:
    """What a row of a table may not hold, each as an SQL condition with the column and what was expected."""
    kinds = {"INTEGER": "'integer'", "REAL": "'real'", "TEXT": "'text'", "BLOB": "'blob'"}
    for column, kind, filled in columns:
        allowed = kinds[kind] if filled else f"{kinds[kind]}, 'null'"
        asked = f"{kind} in column {column}"
        yield f"typeof({column}) NOT IN ({allowed})", column, asked
        if kind == "TEXT":
            most = _MOST_BYTES.get((table, column), MOST_TEXT_BYTES)
            yield f"length(CAST({column} AS BLOB)) > {most}", column, f"{asked}, at most {in_bytes(most)}"
        if kind == "REAL":
            yield f"NOT abs({column}) < 1e15", column, f"{asked}, a finite number"
        if column in ("iteration", "position"):
            yield f"{column} NOT BETWEEN 0 AND {MOST_ITERATION}", column, f"{asked}, from 0 to {MOST_ITERATION:,}"
        if json_type := _JSON.get((table, column)):
            wrong, asked = f"json_type({column}) != '{json_type}'", f"{asked}, a JSON {json_type}"
            if json_type == "array":
                wrong += f" OR EXISTS (SELECT 1 FROM json_each({column}) WHERE type != 'text')"
                asked += " of texts"
            yield f"NOT json_valid({column}) OR {wrong}", column, asked
    if table == "marks":
        yield _OF_SET_ASIDE, "value", "a JSON object of iterations in the mark set_aside"
    if table == "puzzles":
        came = "origin NOT IN ('model', 'variant') AND parents != '[]'"
        yield came, "parents", "no parents of a puzzle from outside the run in column parents"


def _fault_of_rows(connection: sqlite3.Connection, table: str, columns: list[tuple[str, str, bool]]) -> str:
    faults = [*_faults_of(table, columns)]
    cases = " ".join(f"WHEN {wrong} THEN {number}" for number, (wrong, _, _) in enumerate(faults))
    found = connection.execute(
        f"SELECT * FROM (SELECT rowid AS row, CASE {cases} END AS fault FROM {table}) WHERE fault NOT NULL LIMIT 1"
    ).fetchone()
    if found:
        _, column, asked = faults[found[1]]
        (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (found[0],)).fetchone()
        return f"expected {asked} of table {table}, row {found[0]}, got {shown(value)}"
    last = 0
    try:
        for last, *values in connection.execute(f"SELECT rowid, * FROM {table}"):
            if any(isinstance(value, bytes) and unpacks_to_more(value, MOST_JSON_BYTES) for value in values):
                return f"row {last} of table {table} unpacks to more than {in_bytes(MOST_JSON_BYTES)}"
    except sqlite3.OperationalError as error:  # a text is not UTF-8
        return f"table {table}, after row {last}: {opening.told(error)}"
    return ""


_IDENTITY = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION}")


def _statements(text: str) -> list[str]:
    """The statements of a text, one by one."""
    return [statement for statement in text.split(";\n") if statement.strip()]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all changes made inside, or none if an error ends the block."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _in_one(connection: sqlite3.Connection, statements: list[str]) -> None:
    with transaction(connection):
        for statement in statements:
            connection.execute(statement)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only process that upgrades archives in a folder. The folder is locked, because SQLite locks the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _bring_up_to_date(connection: sqlite3.Connection, path: Path, version: int) -> None:
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    backups = (path.with_name(f"{path.stem}.schema-{version}{more}{path.suffix}") for more in names)
    backup = next(backup for backup in backups if not os.path.lexists(backup))
    with path_atomically(backup) as part, closing(opening.connect(part)) as copy:
        connection.backup(copy)
    changes = _to_schema_3(version) if version < 3 else []
    changes += ["ALTER TABLE chunks ADD COLUMN token_ids BLOB"] if version < 4 else []
    changes += _to_schema_5() if version >= 3 else []
    with transaction(connection):
        for statement in changes:
            connection.execute(statement)
        if version < 4:
            identity.renew(connection, path)
        for statement in [*_REBUILT, *_IDENTITY]:
            connection.execute(statement)
    logger.warning("%s: upgraded from schema %d to %d; the old file is kept: %s", path, version, SCHEMA_VERSION, backup)


_REBUILT = [f"INSERT INTO search_{table} (search_{table}) VALUES ('rebuild')" for table in SEARCHED]


def _to_schema_5() -> list[str]:
    """Statements that add the columns of the authors' texts. What was judged before was the canonical text."""
    return [
        f"ALTER TABLE {table} ADD COLUMN {column} TEXT NOT NULL DEFAULT '{known}'"
        for table, column, known in (
            ("puzzles", "program", ""), ("puzzles", "entry", "f"),
            ("solutions", "program", ""), ("solutions", "entry", "g"), ("solutions", "puzzle_name", "f"),
        )
    ]  # fmt: skip


def _to_schema_3(version: int) -> list[str]:
    """Statements that give an archive of schema 1 or 2 the tables of schema 3."""
    statements = []
    if version < 2:
        statements += [statement for statement in _statements(_TABLES) if "CREATE TABLE contamination" in statement]
        statements += [
            f"ALTER TABLE chunks ADD COLUMN {column}"
            for column in ("prompt_tokens INTEGER", "sampling_cpu_seconds REAL", "judging_cpu_seconds REAL")
        ]
    statements += ["DROP VIEW pairs", "DROP INDEX candidates_by_puzzle"]
    # These tables are made again: those that get a column `number`, and those whose REFERENCES did not name a column,
    # which some tools need.
    for statement in [each for each in _statements(_TABLES + _NUMBERED) if "REFERENCES" in each or each in _NUMBERED]:
        table = statement.split()[2]
        names = [name for name, _, _ in _columns()[table] if _COLUMNS_SINCE.get(f"{table}.{name}", 1) <= 3]
        old = ["rowid" if name == "number" else name for name in names]
        statements += [
            statement.replace(f"CREATE TABLE {table}", f"CREATE TABLE new_{table}"),
            f"INSERT INTO new_{table} ({', '.join(names)}) SELECT {', '.join(old)} FROM {table} ORDER BY rowid",
            f"DROP TABLE {table}",
            f"ALTER TABLE new_{table} RENAME TO {table}",
        ]
    return [*statements, *_statements(_DERIVED)]
