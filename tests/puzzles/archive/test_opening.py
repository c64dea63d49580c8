"""An archive from a stranger is refused before anything in it, or beside it, can act."""

import contextlib
import os
import shutil
import sqlite3
import struct
import zlib

import pytest
from archives import HUMAN, PROTECTIONS, SAMPLED, made, older, pair

from puzzles.archive import opening, schema, statements
from puzzles.archive.store import Archive
from puzzles.foreign import MOST_JSON_BYTES
from puzzles.puzzle import InputError

BOMB = zlib.compress(bytes(MOST_JSON_BYTES + 10), 9)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "archive.sqlite"
    with Archive(path, create=True) as archive:
        archive.add(pair(made("a1")), HUMAN, PROTECTIONS)
        archive.plan_chunk(1, "solve", 0, "weights", "0-1", SAMPLED, {"puzzles": ["a1"], "copies": 1})
        archive.index()
    return path


@pytest.fixture
def change(base, tmp_path):
    def changed(sql, *parameters):
        path = shutil.copy(base, tmp_path / "archive.sqlite")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            if parameters:
                connection.execute(sql, parameters)
            else:
                connection.executescript(sql)
        return path

    return changed


def refusal(path):
    with pytest.raises(InputError) as caught, Archive(path):
        pass
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
PROGRAMS = {
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON puzzles BEGIN DELETE FROM solutions; END", "the trigger 't'"),
    "a temporary-looking trigger": (
        "CREATE TRIGGER search_puzzles INSTEAD OF INSERT ON pairs BEGIN SELECT 1; END", "the trigger 'search_puzzles'",
    ),
    "a view in a table's place": (
        f"ALTER TABLE marks RENAME TO m; CREATE VIEW marks AS {ENDLESS} i AS name, i AS value FROM n", "'m'",
    ),
    "a view in a table's place, the table dropped": (
        f"DROP TABLE marks; CREATE VIEW marks AS {ENDLESS} i AS name, i AS value FROM n", "the view 'marks'",
    ),
    "another view of our name": (
        f"DROP VIEW iterations; CREATE VIEW iterations AS {ENDLESS} i AS iteration FROM n", "the view 'iterations'",
    ),
    "one more view": ("CREATE VIEW v AS SELECT 1", "the view 'v'"),
    "a virtual table": (
        "DROP TABLE marks; CREATE VIRTUAL TABLE marks USING fts5(name, value)", "'marks",
    ),
    "a full-text index with another tokenizer": (
        "DROP TABLE search_solutions; CREATE VIRTUAL TABLE search_solutions USING fts5(source, content = puzzles)",
        "'search_solutions'",
    ),
    "a generated column": (
        "ALTER TABLE protections ADD COLUMN x TEXT GENERATED ALWAYS AS (printf('%.*c', 300000000, 'x')) VIRTUAL",
        "'protections' with a part",
    ),
    "a generated column in short": ("ALTER TABLE trained ADD COLUMN x AS (1)", "'trained' with a part"),
    "a default that is computed": ("ALTER TABLE marks ADD COLUMN x DEFAULT (1)", "'marks' with a part"),
    "a check": (
        "DROP TABLE marks; CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL, CHECK (length(value)))",
        "'marks' with a part",
    ),
    "a check of a column": (
        "DROP TABLE marks; CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (value > 1))",
        "'marks' with a part",
    ),
    "a comparison of another kind": (
        "DROP TABLE marks; CREATE TABLE marks (name TEXT PRIMARY KEY COLLATE NOCASE, value TEXT NOT NULL)",
        "'marks' with a part",
    ),
    "no constraint": (
        "DROP TABLE trained; CREATE TABLE trained (iteration INTEGER NOT NULL, puzzle TEXT NOT NULL,"
        " solution TEXT NOT NULL)", "'trained' without 'PRIMARY KEY",
    ),
    "an index of an expression": ("CREATE INDEX i ON puzzles (abs(number))", "the index 'i'"),
    "an index in part": (
        "DROP INDEX puzzles_by_skeleton; CREATE INDEX puzzles_by_skeleton ON puzzles (skeleton) WHERE number > 1",
        "the index 'puzzles_by_skeleton'",
    ),
    "one more table": ("CREATE TABLE t (x)", "the table 't'"),
    "statistics": ("ANALYZE", "the table 'sqlite_stat1'"),
    "very many tables": (
        "".join(f"CREATE TABLE t{number} (x);" for number in range(200)), "more than 100 tables",
    ),
    "a name with an escape sequence": ('CREATE TABLE "\x1b[2J\n" (x)', r"'\x1b[2J\n'"),
    "options of the index": (
        "INSERT INTO search_puzzles (search_puzzles, rank) VALUES ('rank', 'bm25(10.0)')", "search_puzzles has options",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "told"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_database_with_a_program_in_it_is_refused(change, sql, told):
    assert told in refusal(change(sql))


VALUES = {
    "a text of megabytes": ("UPDATE puzzles SET name = CAST(zeroblob(2000000) AS TEXT)", "name, at most 1 MiB"),
    "a puzzle of megabytes": ("UPDATE puzzles SET source = CAST(zeroblob(17000000) AS TEXT)", "source, at most 16 MiB"),
    "an endless number": ("UPDATE puzzles SET added_at = 9e999", "a finite number of table puzzles"),
    "an iteration below 0": ("UPDATE puzzles SET iteration = -1", "iteration, from 0"),
    "an iteration without end": ("UPDATE chunks SET iteration = 1 << 62", "iteration, from 0"),
    "iterations that are no JSON": ("INSERT INTO marks VALUES ('set_aside', 'no json')", "in the mark set_aside"),
    "iterations that are a list": ("INSERT INTO marks VALUES ('set_aside', '[[1]]')", "in the mark set_aside"),
    "iterations that are texts": ("""INSERT INTO marks VALUES ('set_aside', '{"1": "x"}')""", "in the mark set_aside"),
    "parents of what came from outside": ("""UPDATE puzzles SET parents = '["a1"]'""", "of a puzzle from outside"),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "told"), VALUES.values(), ids=VALUES.keys())
def test_a_value_that_cannot_be_is_refused(change, sql, told):
    assert told in refusal(change(sql))


def test_a_chunk_that_unpacks_to_gigabytes_is_refused(change):
    path = change("UPDATE chunks SET completions = ?", BOMB)
    assert "row 1 of table chunks unpacks to more than 64 MiB" in refusal(path)
    with Archive(path, trust=True) as archive, pytest.raises(InputError, match="completions: expected at most 64 MiB"):
        archive.chunk(1)


def test_pages_that_lead_to_each_other_are_refused(change, base):
    path = change("")
    content = bytearray(path.read_bytes())
    for page in range(3 * 4096, len(content), 4096):
        content[page : page + 12] = b"\x05" + b"\0" * 6 + b"\xff" * 5
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("end", ["", *opening.SIDE_FILES])
@pytest.mark.parametrize("create", [False, True])
def test_a_link_beside_an_archive_is_refused_and_what_it_leads_to_stays(change, tmp_path, end, create):
    path, precious = change(""), tmp_path / "precious"
    precious.write_text("years of work")
    link = path.with_name(path.name + end)
    link.unlink(missing_ok=True)
    link.symlink_to(precious)
    with pytest.raises(InputError, match=f"{link.name}: expected an archive's own file, got a link"):
        Archive(path, create=create)
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("end", ["", *opening.SIDE_FILES])
def test_a_second_name_of_another_file_is_refused_and_that_file_stays(change, tmp_path, end):
    path, precious = change(""), tmp_path / "precious"
    link = path.with_name(path.name + end)
    if end:
        precious.write_text("years of work")
        link.unlink(missing_ok=True)
    else:
        link.rename(precious)
    os.link(precious, link)
    before = precious.read_bytes()
    with pytest.raises(InputError, match=f"{link.name}: expected an archive's own file, got one with a second name"):
        Archive(path)
    assert precious.read_bytes() == before


def test_a_journal_that_names_another_file_is_refused_and_that_file_stays(change, tmp_path):
    path, precious = change(""), tmp_path / "precious"
    precious.write_text("years of work")
    name, magic = str(precious).encode(), bytes.fromhex("d9d505f920a163d7")
    end = struct.pack(">I", 0) + name + struct.pack(">II", len(name), sum(name)) + magic
    path.with_name("archive.sqlite-journal").write_bytes(magic.ljust(512, b"\0") + end)
    with pytest.raises(InputError, match="expected the journal of one archive, it names another file"):
        Archive(path)
    assert precious.exists()


@pytest.mark.parametrize("end", ["", *opening.SIDE_FILES])
def test_a_pipe_in_the_place_of_a_file_is_refused(change, end):
    path = change("")
    link = path.with_name(path.name + end)
    link.unlink(missing_ok=True)
    os.mkfifo(link)
    with pytest.raises(InputError):
        Archive(path)


def test_no_archive_is_made_through_a_link(tmp_path):
    (tmp_path / "archive.sqlite").symlink_to(tmp_path / "elsewhere.sqlite")
    with pytest.raises(InputError, match="got a link"):
        Archive(tmp_path / "archive.sqlite", create=True)
    assert not (tmp_path / "elsewhere.sqlite").exists()


@pytest.mark.parametrize("name", [".archive.schema-2.sqlite.part", "archive.schema-2.sqlite"])
def test_the_copy_before_an_upgrade_is_not_written_through_a_link(tmp_path, name):
    older(tmp_path / "archive.sqlite", 2)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE precious (x)")
    before = (tmp_path / "other.sqlite").read_bytes()
    (tmp_path / name).symlink_to("other.sqlite")
    with Archive(tmp_path / "archive.sqlite"):
        pass
    assert (tmp_path / "other.sqlite").read_bytes() == before


def test_a_statement_without_end_is_ended(base, monkeypatch):
    monkeypatch.setattr(opening, "STATEMENT_CPU_SECONDS", 0.05)
    with pytest.raises(InputError, match="a question to it took more than"), Archive(base) as archive:
        archive.query(f"{ENDLESS} count(*) FROM n")


def test_what_is_opened_may_not_call_functions_from_its_schema(base):
    with Archive(base) as archive:
        assert archive.query("PRAGMA trusted_schema")[0][0] == 0
        assert archive.query("PRAGMA cell_size_check")[0][0] == 1
        with pytest.raises(sqlite3.DataError, match="too big"):
            archive.query("SELECT length(zeroblob(900000000))")


@pytest.mark.parametrize("version", [1, 2])
def test_what_upgrades_leave_behind_is_ours(tmp_path, version):
    older(tmp_path / "archive.sqlite", version)
    for _ in range(2):
        with Archive(tmp_path / "archive.sqlite"):
            pass


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE 't' (a INT, b TEXT REFERENCES u (id), UNIQUE (a, b))",
        'CREATE TABLE "t"(a INT,b TEXT REFERENCES "u",UNIQUE(a,b))',
        "CREATE TABLE t ( -- a comment, (with\n a INT, /* more, */ [b] TEXT REFERENCES `u` (id), UNIQUE (a, b));",
    ],
)
def test_white_space_comments_and_quotes_do_not_count(text):
    assert statements.tokens(text) == statements.tokens("CREATE TABLE t (a INT, b TEXT REFERENCES u, UNIQUE (a, b))")


def test_a_keyword_in_quotes_is_a_name_and_no_keyword():
    plain, quoted = (statements.tokens(f"CREATE TABLE t (a TEXT {words})") for words in ("UNIQUE", '"UNIQUE"'))
    assert plain != quoted


def test_every_statement_of_ours_is_known(base):
    with Archive(base) as archive:
        assert statements.fault(archive.connection, schema._written(), {}) == ""
