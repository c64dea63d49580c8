"""An archive in the browser: pages answer, hostile text stays text, nothing is written, nobody else is served."""

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from archives import HUMAN, PROTECTIONS, made, older, pair
from places import ROOT
from readable import CONTRASTS
from story_run import config, finished  # noqa: F401  # a run of two iterations

from puzzles.archive.schema import SCHEMA_VERSION
from puzzles.archive.store import Archive, Provenance
from puzzles.guard import Hit
from puzzles.puzzle import WORLDS_DISAGREE, Candidate, Judgement, Puzzle, Verdict, VerifiedPair
from selfplay.commands.main import main
from selfplay.inspecting import pages, serving
from selfplay.inspecting.view import COOKIE, only_here
from selfplay.run.rundir import RunDir
from selfplay.sampling.cost import record_tokens
from selfplay.settings import load
from selfplay.text import interval

TOKEN = "a-token"
TOKENS = {}
"""The token of each server, by its address."""

SETTINGS = {"protocol": "few-shot", "temperature": 0.5}
PLACES = (
    "source", "name", "description", "original", "solution", "answer", "candidate", "detail", "refused", "reason",
    "import", "import-detail", "import-name", "hit", "type", "skill",
)  # fmt: skip
OURS = (
    "/",
    "/puzzles",
    "/puzzle/a1",
    "/pairs",
    "/iterations",
    "/refused",
    "/refused?what=variations",
    "/refused?what=imports",
)
TABLES = [
    *("puzzles", "solutions", "candidates", "proposals", "chunks", "refusals", "contamination", "trained", "marks"),
    *("pairs", "iterations", "protections", "hardest", "quarantined", "verdicts", "refused"),
]
THEIRS = ("/archive", *(f"/archive/{name}" for name in TABLES), "/archive?sql=select+*+from+refusals")


def hostile(place):
    """Would run, where it is not text; says where it came from."""
    return f"<script>ran = '{place}'</script><img src=x onerror=\"ran='{place}'\">'\"&{place};"


def fill(archive):
    """A proposed puzzle with its candidates, a refused proposal and a refused import, all of hostile text."""
    archive.add(pair(made("b2")), HUMAN, PROTECTIONS)
    archive.plan_chunk(1, "propose", 0, "weights-0", "0/1/1/0", SETTINGS, {"shots": [["b2"]], "copies": 2})
    archive.plan_chunk(1, "solve", 0, "weights-0", "0/1/2/0", SETTINGS, {"puzzles": ["a1"], "copies": 3})
    (proposing,), (solving,) = (archive.unjudged(1, stage) for stage in ("propose", "solve"))
    texts = [hostile("candidate"), "def g():\n    return 'walrus'", "unstable"]
    for chunk, sampled in ((proposing, [hostile("original"), hostile("refused")]), (solving, [texts])):
        archive.set_completions(chunk, sampled, 1, 10, 10, 0.1, 0.1)
        archive.set_judged(chunk, 0.1, 0.1)
    source = f"def f(x: int):\n    return x == 1  # {hostile('source')}"
    puzzle = Puzzle(source, hostile("type"), "def g():", "a1", "a1", frozenset(), description=hostile("description"))
    where = Provenance("model", 1, proposing, 0, ("b2",), hostile("name"), hostile("original"), (hostile("skill"),), 3)
    archive.add_puzzle(puzzle, where)
    archive.add_proposal(proposing, 0, "admitted", "", "a1")
    archive.add_proposal(proposing, 1, "trivial", hostile("reason"), None)
    held = Candidate(f"def g():\n    return 'walrus'  # {hostile('solution')}", "s1")
    accepted = Judgement(Verdict.ACCEPTED, "", hostile("answer"), 0.1, 0.1)
    archive.add(VerifiedPair(puzzle, held, accepted), Provenance("model", 1, solving, 1), PROTECTIONS)
    archive.add_candidate(solving, 0, "a1", None, Judgement(Verdict.INVALID_SOLUTION, hostile("detail"), None))
    archive.add_candidate(solving, 1, "a1", held, accepted)
    archive.add_candidate(solving, 2, "a1", None, Judgement(Verdict.UNSTABLE, f"{WORLDS_DISAGREE}: 1, 2"))
    archive.add_trained(1, [("a1", "s1")])
    archive.add_contamination({"a1": Hit("exact", "guarded", hostile("hit"))})
    archive.add_refusal(hostile("import-name"), "puzzle", "syntax", hostile("import-detail"), hostile("import"))


@pytest.fixture
def path(tmp_path):
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        fill(archive)
        archive.index()
    return tmp_path / "archive.sqlite"


@pytest.fixture
def empty(tmp_path):
    Archive(tmp_path / "empty.sqlite", create=True).close()
    return tmp_path / "empty.sqlite"


def answers(path, *addresses, headers=None):
    """What the application answers, in this process."""

    async def ask(application):
        transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as client:
            asked = {"cookie": f"{COOKIE}={TOKEN}"} | (headers or {})
            return [await client.get(address, headers=asked) for address in addresses]

    shown = pages.over(path)
    try:
        return asyncio.run(ask(only_here(shown.app(), TOKEN)))
    finally:
        pages.close(shown)


class Elements(HTMLParser):
    """The elements of a page, each with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, attributes))


def elements_that_act(text):
    """Scripts, styles, and elements with a style or a handler of their own."""
    return [
        (tag, attributes)
        for tag, attributes in Elements(text).found
        if tag in ("script", "style") or any(name == "style" or name.startswith("on") for name, _ in attributes)
    ]


def page(path, address, status=200):
    (answer,) = answers(path, address)
    assert answer.status_code == status, answer.text
    return answer.text


def read(path, address):
    """A page's text, without its elements."""
    return " ".join(unescape(re.sub(r"<[^>]*>", "", page(path, address))).split())


@contextlib.contextmanager
def served(path, *options):
    """The command itself, in a process of its own; its process and address."""
    command = [
        sys.executable,
        "-c",
        "import sys; from selfplay.commands.main import main; sys.exit(main())",
        "view",
        str(path),
    ]
    with subprocess.Popen(
        [*command, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address, token = re.search(r"(http://\S+/)\?token=(\S+)", process.stdout.readline()).groups()
            TOKENS[address.rstrip("/")] = token
            yield process, address
        finally:
            process.kill()


def got(address, **more):
    """What a server answers to whoever has its cookie."""
    token = TOKENS[re.match(r"http://[^/]+", address)[0]]
    return httpx.get(address, headers={"cookie": f"other=1; {COOKIE}={token}"}, **more)


# ---- pages ----


@pytest.mark.parametrize("address", [*OURS, *THEIRS])
def test_every_page_answers_and_holds_no_element_of_a_puzzles(path, address):
    text = page(path, address)
    assert "<script>ran" not in text
    assert "<img" not in text


@pytest.mark.parametrize("address", [*(page for page in OURS if page != "/puzzle/a1"), *THEIRS])
def test_an_empty_archive_has_every_page_but_a_puzzles(empty, address):
    page(empty, address)


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_is_shown_as_the_text_it_is(path, place):
    shown = "".join(unescape(re.sub(r"</?span[^>]*>", "", answer.text)) for answer in answers(path, *OURS))
    assert hostile(place) in shown


def test_characters_that_would_turn_a_line_around_are_shown_as_their_escapes(path):
    with Archive(path) as archive:
        archive.add_puzzle(made("e5\u202e"), HUMAN)
    assert "\u202e" not in page(path, "/puzzles")
    assert "\\u202e" in page(path, "/puzzles")


def test_a_puzzles_page_tells_its_whole_story(path):
    text = read(path, "/puzzle/a1")
    for part in (
        "model iteration 1", "weights-0", "0/1/1/0", "temperature 0.5", "def f(x: int): return x == 'b2'", "tier A",
        "trained on in iteration 1", "1 accepted, 1 invalid_solution, 1 unstable", WORLDS_DISAGREE, "contaminated",
    ):  # fmt: skip
        assert part in text
    assert 'href="/puzzle/b2"' in page(path, "/puzzle/a1")
    assert 'href="/puzzle/a1"' in page(path, "/puzzle/b2")
    assert "The story has a gap" not in text


def test_the_size_counts_what_a_loop_has_written_beside_the_file_so_far(path):
    with Archive(path) as archive:
        archive.add_refusal("large", "puzzle", "too_long", "", "x" * 1_000_000)
        assert path.stat().st_size < 1_000_000
        assert 2 <= float(re.search(r"([\d.]+) MB", read(path, "/"))[1]) < 3  # a table and its index


def test_a_broken_story_says_what_is_missing(path):
    with Archive(path) as archive:
        archive.connection.execute("DELETE FROM proposals WHERE puzzle = 'a1'")
    assert "The story has a gap: the outcome of text 0 of chunk 1 is missing" in read(path, "/puzzle/a1")


def test_a_pair_has_an_address_that_stays(path):
    assert 'href="/puzzle/a1#s1"' in page(path, "/pairs")
    assert 'id="s1"' in page(path, "/puzzle/a1")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"a1", "b2"}), ("words=walrus", {"a1"}), ("words=%00walrus", {"a1"}), ("words=nowhere", set()),
        ("origin=human", {"b2"}), ("state=quarantined", {"a1"}), ("state=unsolved", set()), ("type=int", {"b2"}),
        ("words=x+%3D%3D+1", {"a1"}), ("words=x%3D%3D1", {"a1"}), ("words=x+%3D%3D+2", set()), ("words=x+1", {"a1"}),
        ("words=return+x+%3D%3D+1", {"a1"}), ("words=x+%3D%3D+1+nowhere", set()), ("verdict=accepted", {"a1"}),
        ("verdict=time_limit", set()),
        ("iteration=1&difficulty=3", {"a1"}), ("sort=hardest&origin=", {"a1", "b2"}), ("page=9", set()),
    ],
)  # fmt: skip
def test_puzzles_are_found_by_what_they_are_and_say(path, query, expected):
    assert set(re.findall(r'href="/puzzle/(\w+)"', page(path, f"/puzzles?{query}"))) == expected


def test_code_is_found_as_it_is_written_before_it_is_in_the_index_too(path):
    with Archive(path) as archive:
        for number, source in enumerate(("x == 41", "x + 41 == x", "y(x)== 41")):
            puzzle = Puzzle(
                f"def f(x: int):\n    return {source}", "int", "def g():", f"d{number}", f"d{number}", frozenset()
            )
            archive.add_puzzle(puzzle, HUMAN)
        for _ in range(2):
            found = re.findall(r'class="id" href="/puzzle/(\w+)"', page(path, "/puzzles?words=x+%3D%3D+41"))
            assert found == ["d0"]
            archive.index()


def test_the_hits_of_a_search_are_marked_where_they_stand(path):
    text = page(path, "/puzzles?words=x+%3D%3D+1")
    marked = re.sub(r"</?span[^>]*>", "", text)
    assert "return <mark>x</mark><mark> == </mark><mark>1</mark>  #" in marked
    assert "found in a solution" not in text
    text = page(path, "/puzzles?words=walrus")
    assert "found in a solution" in text
    assert '<mark><span class="s">walrus</span></mark>' in text
    assert "<mark>" not in page(path, "/puzzles")


def test_filters_offer_what_there_is_with_its_number(path):
    text = re.sub(r"\s+", " ", unescape(page(path, "/puzzles")))
    for choice in ("human (1)", "model (1)", "int (1)", f"{hostile('skill')} (1)", "accepted (1)", "unstable (1)"):
        assert f">{choice}</option>" in text
    assert '<option value="unheard-of" selected>' in page(path, "/puzzles?skill=unheard-of")


def test_refused_texts_begin_with_the_models_proposals(path):
    with Archive(path) as archive:
        archive.plan_chunk(1, "vary", 0, "", "0/1/3/0", {}, {"variations": [
            {"how": "join", "puzzles": [], "answer": "", "seed": 0}] * 3})  # fmt: skip
        (varying,) = archive.unjudged(1, "vary")
        archive.set_completions(varying, ["v0", "v1", "v2"], 0, 0, 0, 0.1, 0.1)
        archive.set_judged(varying, 0.1, 0.1)
        for position in range(3):
            archive.add_proposal(varying, position, "duplicate", "", None)
    assert "trivial" in read(path, "/refused")
    assert "v0" not in read(path, "/refused")
    assert "variations by rule 3" in read(path, "/refused")
    assert "v2" in read(path, "/refused?what=variations")
    assert "trivial" in read(path, "/refused?outcome=trivial")
    assert read(path, "/refused?outcome=syntax").count("There are no such texts") == 1


def test_sql_reads_the_texts_as_they_were_sampled(path):
    asked = "select position, sampled_text(chunk, position) as text from candidates order by 1"
    (answer,) = answers(path, httpx.URL("/archive.json", params={"sql": asked, "_shape": "array"}))
    assert [row["text"] for row in answer.json()] == [
        hostile("candidate"), "def g():\n    return 'walrus'", "unstable"
    ]  # fmt: skip
    nowhere = "select sampled_text(99, 0), sampled_text(1, -1), sampled_text('x', null), sampled_text(1, 9)"
    (answer,) = answers(path, httpx.URL("/archive.json", params={"sql": nowhere, "_shape": "arrays"}))
    assert answer.json()["rows"] == [[None] * 4]
    assert "unstable" in read(path, "/archive/texts?verdict=unstable")


def test_an_archive_alone_has_no_report(path):
    assert "this archive stands in no run's folder" in unescape(page(path, "/report", 404))


def test_pages_follow_each_other_and_keep_what_was_asked_for(path, monkeypatch):
    with Archive(path) as archive:
        for number in range(5):
            archive.add_puzzle(made(f"c{number}"), HUMAN)
    monkeypatch.setattr(serving, "ROWS", 2)
    address, seen = "/puzzles?origin=human&sort=oldest", []
    while address:
        text = page(path, address)
        seen += re.findall(r'class="id" href="/puzzle/(\w+)"', text)
        following = re.search(r'href="(\?[^"]*)">next ', text)
        address = following and f"/puzzles{unescape(following[1])}"
    assert seen == ["b2", "c0", "c1", "c2", "c3", "c4"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/puzzle/ff", "expected the id of one puzzle, got 'ff': there is none"),
        ("/puzzles?state=odd", "state: expected one of solved, unsolved, quarantined, got 'odd'"),
        ("/puzzles?page=1e99", "page: expected a number, got '1e99'"),
        ("/puzzles?words=%22", "expected a word to search for, got '\"'"),
        ("/not/here/at/all", "Not found"),
        ("/archive/not-here", "Table not found"),
    ],
)
def test_an_address_that_is_wrong_says_what_was_expected(path, address, expected):
    assert expected in unescape(page(path, address, 404))


def test_datasettes_tables_lead_to_the_story(path):
    for address in ("/archive/candidates", "/archive/pairs", "/archive/puzzles"):
        assert 'href="/puzzle/a1"' in page(path, address)


def test_datasette_searches_by_the_index(path):
    assert "1 row" in read(path, "/archive/solutions?_search=walrus")


def test_sql_makes_no_text_of_a_gigabyte(path):
    long = "printf('%25.*c',20000,'a')"
    assert "too big" in page(path, f"/archive?sql=select+replace({long},'a',{long})", 400)


def test_a_page_elsewhere_sends_nobody_here(path):
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        (answer,) = answers(path, "/archive.json?sql=select+1", headers={"sec-fetch-site": site})
        assert answer.status_code == status, site


def test_sql_that_takes_too_long_is_ended_and_said(path, monkeypatch):
    monkeypatch.setitem(serving.SETTINGS, "sql_time_limit_ms", 50)
    endless = "with recursive a(n) as (select 1 union all select n + 1 from a) select count(*) from a"
    (answer,) = answers(path, httpx.URL("/archive", params={"sql": endless}))
    assert (answer.status_code, "SQL Interrupted" in answer.text) == (400, True)


@pytest.mark.parametrize("address", ["/archive?sql=select+1+from+'%1b[2J<script>'", "/archive/2J~3Cscript~3E"])
def test_what_fails_is_said_on_the_page_and_not_on_the_terminal(path, address, capfd):
    (answer,) = answers(path, address)
    assert answer.status_code in (400, 404)
    assert "2J<script>" not in answer.text
    assert capfd.readouterr() == ("", "")


# ---- who is served, and with what ----


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:9000", "localhost", "[::1]:8001"])
def test_who_asks_this_machine_is_served(path, host):
    assert [answer.status_code for answer in answers(path, *OURS[:2], headers={"host": host})] == [200, 200]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8001", "127.0.0.1:8001@evil", "", "::1"]
)
def test_who_asks_by_another_name_is_refused_everything(path, host):
    for answer in answers(path, "/", "/archive.json?sql=select+1", "/view.css", headers={"host": host}):
        assert (answer.status_code, answer.text) == (403, "This archive is shown to this machine only.\n")


def test_our_pages_forbid_all_but_our_style_and_have_no_script(path):
    for answer in answers(path, *OURS):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self';")
        assert elements_that_act(answer.text) == []


def test_no_answer_may_be_read_by_another_page_or_taken_for_what_it_is_not(path):
    for answer in answers(path, "/", "/archive", "/archive/refusals.csv", "/archive/chunks.json", "/not/here/at/all"):
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "default-src" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "sql",
    [
        "insert into marks values ('a', 'b')", "delete from puzzles", "drop table puzzles", "pragma user_version = 9",
        "attach 'other.sqlite' as other", "with a as (select 1) insert into marks select 'a', 'b'",
        "select load_extension('x')", "vacuum into 'other.sqlite'", "explain delete from puzzles; select 1",
    ],
)  # fmt: skip
def test_sql_reads_and_does_not_write(path, sql):
    before = path.read_bytes()
    (answer,) = answers(path, httpx.URL("/archive.json", params={"sql": sql}))
    assert answer.status_code == 400
    assert path.read_bytes() == before
    assert not (path.parent / "other.sqlite").exists()


def test_datasette_has_no_connection_that_writes(path):
    shown = pages.over(path)
    with contextlib.closing(shown.get_database(pages.NAME).connect(write=True)) as connection:
        for sql in ("INSERT INTO marks VALUES ('a', 'b')", "SELECT load_extension('x')"):
            with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
                connection.execute(sql)
        connection.set_authorizer(None)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("INSERT INTO marks VALUES ('a', 'b')")
    pages.close(shown)


@pytest.mark.parametrize(
    "sql",
    [
        "select fts3_tokenizer('simple', x'4141414141414141')", "select * from fts3tokenize where input = 'a'",
        "select * from dbstat", "select * from bytecode('select 1')", "select sqlite_version()", "select randomblob(9)",
        "select zeroblob(9)", "pragma writable_schema = on", "pragma table_info('puzzles'); pragma trusted_schema = on",
        "select * from sqlite_stmt", "select * from pragma_compile_options", "select readfile('/etc/passwd')",
        "select * from generate_series(1, 9)", "savepoint a", "begin", "select 1; select 2", "reindex", "analyze",
        "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n",
    ],
)  # fmt: skip
def test_sql_may_do_nothing_but_read_our_tables_within_limits(path, sql, monkeypatch):
    monkeypatch.setitem(serving.SETTINGS, "sql_time_limit_ms", 200)
    (answer,) = answers(path, httpx.URL("/archive.json", params={"sql": sql}))
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from puzzles where id in (select rowid from search_puzzles where search_puzzles match 'x')",
        "select value from puzzles, json_each(parents)", "select p.*, row_number() over () from pairs p",
        "select group_concat(verdict, ', ') from candidates", "select * from iterations where proposed >= 0",
        "select json_extract(settings, '$.protocol') from chunks", "select name from pragma_table_info('puzzles')",
    ],
)  # fmt: skip
def test_sql_that_reads_our_tables_is_answered(path, sql):
    (answer,) = answers(path, httpx.URL("/archive.json", params={"sql": sql}))
    assert answer.status_code == 200, answer.text


def test_no_more_than_a_thousand_rows_are_sent_and_no_stream_of_all(path):
    sql = "with recursive n(i) as (select 1 union all select i + 1 from n limit 5000) select i from n"
    rows, stream = answers(
        path, httpx.URL("/archive.json", params={"sql": sql, "_shape": "array"}), "/archive/puzzles.csv?_stream=on"
    )
    assert len(rows.json()) == 1000
    assert stream.status_code == 400


# ---- who is served ----


def test_nobody_without_the_token_is_served(path):
    for cookie in ("", f"{COOKIE}=", f"{COOKIE}=other", f"other={TOKEN}", f"{COOKIE}={TOKEN}x", "\u00fc=\u00fc"):
        for address in ("/", "/view.css", "/archive.json?sql=select+1", "/?token=other", "/?token="):
            (answer,) = answers(path, address, headers={"cookie": cookie.encode("latin-1")})
            assert answer.status_code == 403
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("site", ["none", "cross-site"])
def test_the_printed_address_gives_the_cookie_once_and_leads_to_the_page_without_the_token(path, site):
    address = f"/puzzles?words=a%26b&token={TOKEN}&sort=oldest"
    (answer,) = answers(path, address, headers={"cookie": "", "sec-fetch-site": site})
    assert answer.status_code == 200
    assert answer.headers["set-cookie"] == f"{COOKIE}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert 'url=/puzzles?words=a%26b&amp;sort=oldest"' in answer.text
    assert TOKEN not in answer.text


@pytest.mark.parametrize("place", ["//evil.example/", "/\\evil.example", "/%22%3E%3Cscript%3E"])
def test_the_printed_address_leads_nowhere_else(path, place):
    (answer,) = answers(path, httpx.URL(f"http://127.0.0.1:8001{place}?token={TOKEN}"), headers={"cookie": ""})
    (where,) = re.findall(r'content="0; url=([^"]*)"', answer.text)
    assert re.match(r"/[^/\\]", where)
    assert "<script" not in answer.text


def test_a_token_does_not_open_the_pages_to_another_host(path):
    (answer,) = answers(path, f"/?token={TOKEN}", headers={"host": "evil.example"})
    assert answer.status_code == 403


def test_a_link_in_an_archive_is_text(path):
    with Archive(path) as archive:
        archive.connection.execute("UPDATE puzzles SET name = 'https://evil.example/', answer_type = 'javascript:x()'")
    for answer in answers(path, *OURS, "/archive/puzzles", "/archive/pairs", "/archive?sql=select+name+from+puzzles"):
        assert "evil.example" not in "".join(re.findall(r'href="([^"]*)"', answer.text))


# ---- archives of all kinds ----


def test_what_a_running_loop_writes_is_seen_and_neither_waits_for_the_other(path):
    shown = pages.over(path)
    code = f"""
import sys
from puzzles import Archive
with Archive({str(path)!r}) as archive:
    archive.connection.execute("BEGIN IMMEDIATE")
    archive.add_refusal("later", "puzzle", "syntax", "", "a walrus")
    print("writing", flush=True)
    sys.stdin.readline()
    archive.connection.execute("COMMIT")
    print("written", flush=True)
    sys.stdin.readline()
"""

    async def ask(address):
        transport = httpx.ASGITransport(app=only_here(shown.app(), TOKEN))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get(address, headers={"cookie": f"{COOKIE}={TOKEN}"})).text

    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "writing\n"
        for address in ("/refused?what=imports", "/archive/refusals"):
            assert "a walrus" not in asyncio.run(ask(address))
        with Archive(path, read_only=True) as reader:
            reader.connection.execute("BEGIN")
            assert reader.query("SELECT count(*) FROM refusals")[0][0] == 1
            writer.stdin.write("\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "written\n"
        for address in ("/refused?what=imports", "/archive/refusals"):
            assert "a walrus" in asyncio.run(ask(address))
        writer.communicate("\n", timeout=20)
    pages.close(shown)


def test_a_file_that_cannot_be_written_is_shown_and_nothing_is_put_beside_it(path, monkeypatch):
    before = sorted(path.parent.iterdir())
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may write everything
    for answer in answers(path, *OURS, *THEIRS):
        assert answer.status_code == 200
    assert sorted(path.parent.iterdir()) == before


def test_an_archive_that_goes_away_is_said(path):
    moved = path.with_name("moved.sqlite")
    shutil.move(path, moved)
    assert "there is no archive here" in page(path, "/", 404)


FOLDERS = [os.path.dirname(__file__), str(ROOT / "tests" / "shared")]


def test_no_page_needs_torch(path):
    code = (
        f"import asyncio, sys\nsys.path[:0] = {FOLDERS!r}\nfrom test_view import *\n"
        f"for address in OURS: page({str(path)!r}, address)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the command ----


def refusal(capsys, *arguments):
    assert main(["view", *map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_wrong_path_is_one_line(capsys, tmp_path):
    assert "expected an archive file, a run folder or a run's name" in refusal(capsys, tmp_path / "none.sqlite")


def test_a_file_that_is_no_archive_is_one_line(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("These are notes, and they are longer than a header of SQLite is." * 9)
    assert "notes.txt: expected an archive" in refusal(capsys, tmp_path / "notes.txt")


def test_a_port_in_use_is_one_line(capsys, path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = f"--port {port}: the port is not available (Address already in use)"
        assert told in refusal(capsys, path, "--port", port)


def test_a_port_that_there_is_not_is_one_line(capsys, path):
    assert "--port 99999: expected at most 65535" in refusal(capsys, path, "--port", 99999)


def test_without_datasette_it_says_what_to_install(capsys, path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install '.[view]'" in refusal(capsys, path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_it_is_no_error_and_leaves_the_archive_alone_in_its_folder(path, number):
    with served(path.parent) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert got(address).status_code == got(f"{address}archive/pairs").status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    assert [file.name for file in path.parent.iterdir()] == ["archive.sqlite"]


ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["a page", "sql"])
def test_it_ends_whatever_it_is_doing(path, busy):
    """A page would take a minute, and a statement of SQL three seconds."""
    code = (
        "import sys\nfrom selfplay.inspecting import pages\n"
        f"pages._start = lambda archive, asked: archive.query({ENDLESS!r})\n"
        "from selfplay.commands.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "view", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address, token = re.search(r"(http://\S+/)\?token=(\S+)", process.stdout.readline()).groups()
            where = "" if busy == "a page" else "archive.json?sql=" + ENDLESS.replace("+", "%2B").replace(" ", "+")
            with pytest.raises(httpx.TimeoutException):
                print(httpx.get(address + where, headers={"cookie": f"{COOKIE}={token}"}, timeout=1).text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) is not None
        finally:
            process.kill()


def test_only_the_loopback_device_is_listened_at(path):
    with served(path) as (_, address):
        port = int(address.rstrip("/").rpartition(":")[2])
        rows = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()]
    listening = "0A"
    assert [row[1] for row in rows if row[3] == listening and row[1].endswith(f":{port:04X}")] == [
        f"0100007F:{port:04X}"
    ]


def test_an_older_archive_is_brought_up_to_date_beside_a_backup(tmp_path):
    older(tmp_path / "archive.sqlite", 2)
    with served(tmp_path / "archive.sqlite") as (process, address):
        assert got(f"{address}archive/candidates").status_code == got(address).status_code == 200
        process.send_signal(signal.SIGINT)
        assert f"upgraded from schema 2 to {SCHEMA_VERSION}" in process.communicate(timeout=20)[1]
    assert {file.name for file in tmp_path.iterdir()} == {"archive.sqlite", "archive.schema-2.sqlite"}


# ---- the run around an archive ----


@pytest.fixture
def run_path(finished, tmp_path):
    """The archive of a run of its own."""
    return RunDir(shutil.copytree(finished.path, tmp_path / "a run")).archive


def test_the_first_page_of_a_run_shows_its_model_scores_cost_and_report(run_path):
    records, text = RunDir(run_path.parent).read_records(), read(run_path, "/")
    config = load(RunDir(run_path.parent).config)
    assert f"model {config.model.path}" in text
    for record in records:
        for scored in ("dev", "heldout"):
            for k in ("pass@1", "pass@4"):
                assert interval(record[scored][k]) in text
    assert f"{sum(map(record_tokens, records)):,} tokens" in text
    assert 'href="/report"' in page(run_path, "/")


def test_the_report_of_a_run_is_made_now_and_allows_only_its_own_style_and_script(run_path):
    (run_path.parent / "report.html").write_text("<script>ran = 1</script>of a stranger")
    (answer,) = answers(run_path, "/report")
    assert "of a stranger" not in answer.text
    assert f"<h1>{run_path.parent.name}</h1>" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert policy.split(";")[3] in unescape(re.findall(r'Content-Security-Policy" content="([^"]+)"', answer.text)[0])


@pytest.mark.parametrize("name", ["config.toml", "records.jsonl"])
def test_a_run_whose_files_are_damaged_is_still_shown_and_told(run_path, name):
    (run_path.parent / name).write_text("<script>ran = 1</script>\n")
    text = page(run_path, "/")
    assert name in text
    assert elements_that_act(text) == []
    assert "Newest puzzles" in text


def test_hostile_settings_of_a_run_are_text(run_path):
    config = run_path.parent / "config.toml"
    config.write_text(re.sub(r'path = "[^"]*"', f"path = '''{hostile('model')} '''", config.read_text(), count=1))
    text = page(run_path, "/")
    assert hostile("model") in unescape(text)
    assert elements_that_act(text) == []


# ---- in a browser ----


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "archive.sqlite"
    with Archive(path, create=True) as archive:
        fill(archive)
        archive.add_puzzle(made("c3" * 400), HUMAN)
    with served(path) as (_, address):
        yield address.rstrip("/")


def looked_at(browser, address, **options):
    context = browser.new_context(**options)
    origin = re.match(r"http://[^/]+", address)[0]
    context.add_cookies([{"name": COOKIE, "value": TOKENS[origin], "url": origin}])
    opened = context.new_page()
    opened.requested, opened.complaints = [], []
    opened.on("request", lambda request: opened.requested.append(request.url))
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.goto(address)
    return opened


@pytest.mark.parametrize("where", [*OURS, "/archive/puzzles", "/archive/candidates", "/archive/refusals", "/archive"])
def test_nothing_stored_runs_in_a_browser_and_nothing_is_asked_of_another_machine(browser, address, where):
    opened = looked_at(browser, f"{address}{where}")
    opened.wait_for_load_state("networkidle")
    assert opened.evaluate("typeof ran") == "undefined"
    assert opened.complaints == []
    assert all(asked.startswith(f"{address}/") for asked in opened.requested)


def test_a_stored_script_is_read_as_text_in_a_browser(browser, address):
    opened = looked_at(browser, f"{address}/puzzle/a1")
    shown = opened.locator("body").inner_text()
    for place in ("source", "name", "description", "solution", "answer"):
        assert hostile(place) in shown


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(browser, address, width):
    for where in (*OURS, f"/puzzle/{'c3' * 400}", "/archive/hardest"):
        opened = looked_at(browser, f"{address}{where}", viewport={"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width, where


def test_pages_are_dark_where_that_is_preferred(browser, address):
    colours = [
        looked_at(browser, address, color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(251, 250, 247)", "rgb(22, 24, 28)"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_a_page_can_be_read_on_what_is_behind_it(browser, address, scheme):
    for where in (*OURS, "/archive", "/archive/candidates", "/puzzles?words=walrus"):
        opened = looked_at(browser, f"{address}{where}", color_scheme=scheme)
        opened.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert opened.evaluate(CONTRASTS) == [], where


def test_a_search_is_typed_and_its_finding_opened(browser, address):
    opened = looked_at(browser, address)
    opened.fill("header input", "walrus")
    opened.press("header input", "Enter")
    opened.click("article a.id")
    assert opened.url == f"{address}/puzzle/a1"
