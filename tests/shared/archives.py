"""Puzzles, pairs and files for tests of archives."""

from __future__ import annotations

import contextlib
import sqlite3

from places import ROOT

from puzzles.archive.schema import APPLICATION_ID
from puzzles.archive.store import Archive, Provenance
from puzzles.puzzle import Candidate, Judgement, Puzzle, Verdict, VerifiedPair

ACCEPTED = Judgement(Verdict.ACCEPTED, "", "42", 0.25, 0.125)

PROTECTIONS = {"tier": "A", "layers": {"seccomp": "on"}}

HUMAN = Provenance("human")


def made(identifier: str, answer_type: str = "int", description: str = "") -> Puzzle:
    source = f"def f(x: {answer_type}):\n    return x == {identifier!r}"
    return Puzzle(source, answer_type, "def g():", identifier, identifier, frozenset(), description=description)


def solution(text: str) -> Candidate:
    return Candidate(f"def g():\n    return {text}", f"s{text}")


def pair(puzzle: Puzzle, text: str = "42") -> VerifiedPair:
    return VerifiedPair(puzzle, solution(text), ACCEPTED)


SAMPLED = {"temperature": 0.9, "top_p": 1.0, "max_tokens": 9, "batch_rows": 8, "protocol": "plain"}


def plan(archive: Archive, iteration: int = 1, stage: str = "solve", number: int = 0) -> int:
    archive.plan_chunk(iteration, stage, number, "weights", "0-1", SAMPLED, {"puzzles": ["a1"], "copies": 1})
    return archive.unjudged(iteration, stage)[-1]


SINCE_SCHEMA_5 = [
    *(("puzzles", column) for column in ("program", "entry")),
    *(("solutions", column) for column in ("program", "entry", "puzzle_name")),
]
"""Tables and columns that schema 5 added."""


def older(path, version):
    """A file as schema 1 or 2 had it, with a pair, a lone puzzle before it, and a chunk."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((ROOT / "tests" / "puzzles" / "archive" / "schema-2.sql").read_text("utf-8"))
        if version == 1:
            connection.execute("DROP TABLE contamination")
            for column in ("prompt_tokens", "sampling_cpu_seconds", "judging_cpu_seconds"):
                connection.execute(f"ALTER TABLE chunks DROP COLUMN {column}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        for identifier in ("b2", "a1"):
            source = f"def f(x: int):\n    return x == 42 and {identifier!r} != ''"
            row = (identifier, source, "int", "def g():", identifier, f"name of {identifier}", "", "", "human")
            connection.execute(f"INSERT INTO puzzles VALUES ({'?,' * 9}'[]',NULL,0,NULL,NULL,'[]',0.5)", row)
        values = "'a1', 's42', 'def g():\n    return 42', '42', 'human', 0, NULL, NULL, 'p', 0.25, 0.125, 0.5"
        connection.execute(f"INSERT INTO solutions VALUES ({values})")
        connection.execute("INSERT INTO protections VALUES ('p', '{}')")
        connection.execute(
            "INSERT INTO chunks (iteration, stage, number, checkpoint, seed, settings, plan, judged, tokens,"
            " sampling_seconds, judging_seconds) VALUES (1, 'solve', 0, 'weights', '0-1', '{}', x'', 1, 7, 0.5, 0.25)"
        )
        connection.execute("INSERT INTO candidates VALUES (1, 0, 'a1', 's42', 'accepted', '', '42', 0.25)")
        connection.commit()
