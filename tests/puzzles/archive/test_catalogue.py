"""What people see of an archive: pages, filters, words found, orders."""

import os
import sqlite3

import pytest
from archives import HUMAN, PROTECTIONS, made, pair, plan

from puzzles.archive import catalogue
from puzzles.archive.catalogue import ORDERS, Filter, number_of, page_of, row_of
from puzzles.archive.copying import copy
from puzzles.archive.store import Archive, Provenance
from puzzles.puzzle import Candidate, InputError, Judgement, Puzzle, Verdict, VerifiedPair

SOURCES = {
    "a1": "def f(s: str):\n    return s.count('zebra') == 2",
    "b2": "def f(my_list: List[int]):\n    return sorted(my_list) == [1, 2, 3] and my_list[0] == 3",
    "c3": "def f(x: int):\n    return x * x == 1764 and x > 0 and 'naïve ÜBER'",
    "d4": "def f(x: int):\n    return x % 7 == 3",
}
TRIED = {"a1": (4, 1), "b2": (4, 3), "c3": (2, 0)}
"""Candidates and accepted ones."""


def fill(archive):
    chunk, position = plan(archive), 0
    for place, (identifier, source) in enumerate(SOURCES.items()):
        kind = source.partition(": ")[2].partition("):")[0]
        puzzle = Puzzle(source, kind, "def g():", identifier, identifier, frozenset(), description="")
        origin, skills = ("human", ("bits", "lists")) if place < 2 else ("model", ())
        name = f"puzzle-{place} old_name"
        archive.add_puzzle(puzzle, Provenance(origin, place, name=name, skills=skills, difficulty=place or None))
        n, c = TRIED.get(identifier, (0, 0))
        for number in range(n):
            verdict = Verdict.ACCEPTED if number < c else Verdict.WRONG_ANSWER
            archive.add_candidate(chunk, position, identifier, None, Judgement(verdict, ""))
            position += 1
        if c:
            candidate = Candidate(f"def g():\n    giraffe = {place}\n    return giraffe", f"s{place}")
            held = VerifiedPair(puzzle, candidate, Judgement(Verdict.ACCEPTED, "", "1", 0.1, 0.1))
            archive.add(held, Provenance("human", place), PROTECTIONS)


@pytest.fixture(params=["indexed", "looked through", "half of it"])
def archive(request, tmp_path):
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        if request.param == "half of it":
            archive.add_puzzle(made("00"), HUMAN)
            archive.index()
        fill(archive)
        if request.param == "indexed":
            archive.index()
        yield archive


def ids(archive, order="oldest", **chosen):
    found = [row["puzzle"] for row in page_of(archive, Filter(**chosen), order)]
    assert number_of(archive, Filter(**chosen)) == len(found)
    return [identifier for identifier in found if identifier != "00"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["a1", "b2", "c3", "d4"]),
        ({"origin": "model"}, ["c3", "d4"]),
        ({"iteration": 1}, ["b2"]),
        ({"iteration": 0, "origin": "human", "answer_type": "str"}, ["a1"]),
        ({"answer_type": "List[int]"}, ["b2"]),
        ({"skill": "bits"}, ["a1", "b2"]),
        ({"skill": "bit"}, []),
        ({"difficulty": 2}, ["c3"]),
        ({"state": "solved"}, ["a1", "b2"]),
        ({"state": "unsolved", "origin": "model"}, ["c3", "d4"]),
        ({"state": "quarantined"}, []),
    ],
)
def test_puzzles_are_found_by_what_they_are(archive, chosen, expected):
    assert ids(archive, **chosen) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("zebra", ["a1"]),
        ("ZEBRA count", ["a1"]),
        ("zebra sorted", []),
        ("my_list", ["b2"]),
        ("s.count('zebra')", ["a1"]),
        ("1764", ["c3"]),
        ("x == ", ["c3"]),
        ("giraffe", ["a1", "b2"]),
        ("old_name", ["a1", "b2", "c3", "d4"]),
        ("puzzle-2", ["c3"]),
        ("giraffe zebra", []),
        ("naïve", ["c3"]),
        ('"return" OR nothing', []),
        ("nothing*", []),
    ],
)
def test_words_are_found_in_names_puzzles_and_solutions_whether_indexed_yet_or_not(archive, words, expected):
    assert ids(archive, words=words) == expected


@pytest.mark.parametrize("words", ["zebra", "giraffe", "return", "x == "])
def test_common_words_are_found_where_rare_ones_are(archive, words, monkeypatch):
    rare = ids(archive, words=words)
    monkeypatch.setattr(catalogue, "FEW_PLACES", 1)
    assert ids(archive, words=words) == rare


def test_words_go_with_other_conditions(archive):
    assert ids(archive, words="giraffe", answer_type="str") == ["a1"]


@pytest.mark.parametrize("words", ["", "  ", "== >", '"'])
def test_without_a_word_there_is_nothing_to_search_for(archive, words):
    with pytest.raises(InputError, match="expected a word to search for, got"):
        page_of(archive, Filter(words=words))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("newest", ["d4", "c3", "b2", "a1"]),
        ("oldest", ["a1", "b2", "c3", "d4"]),
        ("hardest", ["a1", "b2", "d4", "c3"]),
        ("easiest", ["b2", "a1", "c3", "d4"]),
        ("shortest", ["d4", "a1", "c3", "b2"]),
        ("longest", ["b2", "c3", "a1", "d4"]),
    ],
)
def test_pages_are_in_the_order_asked_for(archive, order, expected):
    assert order in ORDERS
    assert ids(archive, order) == expected


def test_pages_follow_each_other(archive):
    whole = [tuple(row) for row in page_of(archive, Filter())]
    parts = [tuple(row) for offset in range(0, 6, 2) for row in page_of(archive, Filter(), "newest", 2, offset)]
    assert parts == whole


def test_a_row_says_how_many_candidates_there_were_and_how_many_held(archive):
    rows = {row["puzzle"]: row for row in page_of(archive, Filter())}
    assert {name: (rows[name]["n"], rows[name]["c"]) for name in TRIED} == TRIED
    assert [rows[name]["solutions"] for name in SOURCES] == [1, 1, 0, 0]


def test_a_word_that_came_after_the_index_is_found_once(archive):
    archive.index()
    archive.add(pair(made("e5"), "'a late walrus'"), HUMAN, PROTECTIONS)
    assert ids(archive, words="walrus") == ["e5"]
    archive.index()
    assert ids(archive, words="walrus") == ["e5"]
    assert archive.query("SELECT count(*) FROM search_solutions WHERE search_solutions MATCH 'walrus'")[0][0] == 1


def test_a_copy_until_an_iteration_finds_what_it_has(archive, tmp_path):
    archive.index()
    copy(archive, tmp_path / "copy.sqlite", 1)
    with Archive(tmp_path / "copy.sqlite") as copied:
        assert ids(copied, words="old_name") == ["a1", "b2"]
        copied.query("INSERT INTO search_puzzles (search_puzzles) VALUES ('integrity-check')")


def test_an_archive_of_which_nothing_can_be_written_can_be_read(tmp_path, monkeypatch):
    path = tmp_path / "archive.sqlite"
    with Archive(path, create=True) as archive:
        fill(archive)
        archive.index()
    before = {file.name for file in tmp_path.iterdir()}
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may write everything
    with Archive(path) as archive:
        assert ids(archive, words="giraffe") == ["a1", "b2"]
        assert {file.name for file in tmp_path.iterdir()} == before
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            archive.set_mark("a", "b")


def test_one_whose_last_writes_are_beside_it_says_so_where_it_can_only_be_read(tmp_path, monkeypatch):
    path = tmp_path / "archive.sqlite"
    with Archive(path, create=True) as archive:
        fill(archive)
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(InputError, match=r"archive\.sqlite-wal has not been written into it: copy both"):
            Archive(path)


def test_the_views_answer_without_a_manual(archive):
    pairs = [dict(row) for row in archive.query("SELECT * FROM pairs ORDER BY puzzle_id")]
    assert [(row["puzzle_id"], row["n"], row["c"]) for row in pairs] == [("a1", 4, 1), ("b2", 4, 3)]
    archive.add_trained(1, [("a1", "s0")])
    iterations = {row["iteration"]: dict(row) for row in archive.query("SELECT * FROM iterations")}
    assert iterations[1] == {
        "iteration": 1, "proposed": 0, "admitted": 0, "varied": 0, "candidates": 10, "accepted": 4, "new_pairs": 0,
        "trained_pairs": 1,
    }  # fmt: skip


def test_an_id_is_known_by_its_beginning(archive):
    assert row_of(archive, "a")["id"] == "a1"
