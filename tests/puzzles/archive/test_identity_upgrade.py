"""An archive whose ids are of an older normal form gets today's ids, and keeps no pair that does not hold."""

import contextlib
import json
import sqlite3

import pytest
from archives import SINCE_SCHEMA_5

from puzzles.archive.store import Archive, Provenance
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Judgement, Verdict, VerifiedPair
from puzzles.verify import verify

KEYWORD = "def f(d: Dict[str, int], a=1):\n    return d == dict(a=a)"
PLAIN = "def f(x: int):\n    return x * x == 1764"
WITH_IMPORT = "import math\n" + PLAIN
G = "def g():\n    return {}"
ACCEPTED = Judgement(Verdict.ACCEPTED, answer="?")


def ids(pool, kind, *texts):
    parse = parse_puzzles if kind == "puzzle" else parse_candidates
    return [parsed.id for parsed in parse(pool, [Text(text) for text in texts])]


@pytest.fixture
def old(tmp_path, pool):
    """An archive as the older form left it: two puzzles under one id, one puzzle under two."""
    path = tmp_path / "archive.sqlite"
    puzzles = parse_puzzles(pool, [Text(text) for text in (KEYWORD, PLAIN, WITH_IMPORT)])
    answers = [(0, "{'a': 1}"), (0, "{'b': 1}"), (1, "42"), (2, "42"), (2, "-42")]
    candidates = parse_candidates(pool, [Text(G.format(answer)) for _, answer in answers])
    with Archive(path, create=True) as archive:
        for n, puzzle in enumerate(puzzles):
            archive.query("UPDATE puzzles SET id = id || '-' WHERE number = ?", n)  # so that equal ones are two
            parents = (puzzles[0].id,) if n else ()
            archive.add_puzzle(puzzle, Provenance("model", 1, name=f"puzzle {n}", parents=parents))
        archive.query("UPDATE puzzles SET id = 'old' || (number - 1)")
        archive.query('UPDATE puzzles SET parents = \'["old0", "old2"]\' WHERE number = 2')
        plan = {"puzzles": ["old0", "old2"], "copies": 4}
        sampled = {"temperature": 0.9, "top_p": 1.0, "max_tokens": 9, "batch_rows": 8, "protocol": "plain"}
        archive.plan_chunk(1, "solve", 0, "weights", "0-1", sampled, plan)
        for n, ((puzzle, _), candidate) in enumerate(zip(answers, candidates, strict=True)):
            archive.add(VerifiedPair(puzzles[puzzle], candidate, ACCEPTED), Provenance("human"), {})
            archive.query("UPDATE solutions SET puzzle = ? WHERE puzzle = ?", f"old{puzzle}", puzzles[puzzle].id)
            archive.query("DELETE FROM puzzles WHERE id NOT LIKE 'old%'")
            archive.add_candidate(1, n, f"old{puzzle}", candidate, ACCEPTED)
            archive.add_trained(1, [(f"old{puzzle}", candidate.id)])
        archive.query("UPDATE solutions SET id = 'older' WHERE source LIKE '%-42%'")
        archive.query("UPDATE candidates SET candidate = 'older' WHERE position = 4")
        archive.add_proposal(1, 0, "duplicate", "", "old2")
        archive.query("ALTER TABLE chunks DROP COLUMN token_ids")
        for table, column in SINCE_SCHEMA_5:
            archive.query(f"ALTER TABLE {table} DROP COLUMN {column}")
        archive.query("PRAGMA user_version = 3")
    return path


def test_ids_are_renewed_everywhere_and_pairs_that_do_not_hold_are_quarantined(pool, old, caplog):
    with contextlib.closing(sqlite3.connect(old)) as connection:
        before = list(connection.iterdump())
    keyword, plain = ids(pool, "puzzle", KEYWORD, PLAIN)
    right, wrong, one, other = ids(pool, "solution", *(G.format(a) for a in ("{'a': 1}", "{'b': 1}", "42", "-42")))
    with Archive(old) as archive:
        assert archive.puzzle_ids() == [keyword, plain]
        assert [tuple(row) for row in archive.query("SELECT puzzle, id FROM solutions ORDER BY number")] == [
            (keyword, right), (plain, one), (plain, other)
        ]  # fmt: skip
        assert [tuple(row) for row in archive.query("SELECT puzzle, candidate FROM candidates ORDER BY position")] == [
            (keyword, right), (keyword, wrong), (plain, one), (plain, one), (plain, other)
        ]  # fmt: skip
        assert {tuple(row) for row in archive.query("SELECT puzzle, solution FROM trained")} == {
            (keyword, right), (keyword, wrong), (plain, one), (plain, other)
        }  # fmt: skip
        assert archive.chunk(1).plan == {"puzzles": [keyword, plain], "copies": 4}
        assert json.loads(archive.query("SELECT parents FROM puzzles WHERE id = ?", plain)[0][0]) == [keyword, plain]
        assert archive.query("SELECT puzzle FROM proposals")[0][0] == plain
        ((name, reason, detail, original),) = archive.query("SELECT name, reason, detail, original FROM refusals")
        assert (name, reason, original) == ("puzzle 0", "does_not_hold", G.format("{'b': 1}"))
        assert detail.startswith("wrong_answer, ")
        archive.check()
        pairs = archive.query("SELECT p.source, s.source FROM solutions s JOIN puzzles p ON p.id = s.puzzle")
        read = zip(
            parse_puzzles(pool, [Text(p) for p, _ in pairs]), parse_candidates(pool, [Text(s) for _, s in pairs]),
            strict=True,
        )  # fmt: skip
        assert {judgement.verdict for judgement in verify(pool, [*read])} == {"accepted"}
    with contextlib.closing(sqlite3.connect(old.with_name("archive.schema-3.sqlite"))) as backup:
        assert list(backup.iterdump()) == before
    assert "3 puzzles and 1 solutions have another id; 1 pairs do not hold" in caplog.text


def test_an_upgrade_that_is_interrupted_changes_nothing(old, monkeypatch):
    from puzzles.archive import identity

    def interrupted(*_):
        raise KeyboardInterrupt

    before = old.read_bytes()
    monkeypatch.setattr(identity, "_judge_again", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Archive(old)
    monkeypatch.undo()
    with contextlib.closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert old.read_bytes() == before
