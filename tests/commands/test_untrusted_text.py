"""No text of an archive controls a terminal, forges a line of output, or becomes markup."""

import contextlib
import json
import logging
import re
import sqlite3

import pytest
from archives import ACCEPTED, HUMAN, PROTECTIONS, SAMPLED, made, pair, solution
from hypothesis import given
from hypothesis import strategies as st

from puzzles.archive.store import Archive, Provenance
from sandbox.printing import visible
from selfplay.commands.log import log_to
from selfplay.commands.main import main
from selfplay.text import code, markdown, one_line, printable, render

UNSEEN = "\x1b[2J\x9b\u202e\u2066\u200b\u200f\u00ad\u3164\u2028\x07\r\ufe0f\U000e0041"
EVIL = f"{UNSEEN}|`]](http://evil.example)<b>\nFORGED"
SHOWN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\U000e0000-\U000e0fff]")  # fmt: skip # noqa: E501
TEXTS = {
    "puzzles": ("name", "description", "origin", "answer_type", "skeleton"),
    "solutions": ("origin", "answer"),
    "candidates": ("detail", "answer", "verdict"),
    "proposals": ("outcome", "detail", "puzzle"),
    "refusals": ("name", "what", "reason", "detail"),
    "contamination": ("level", "guarded", "detail"),
    "chunks": ("checkpoint", "seed"),
}
PROGRAMS = {"puzzles": ("source", "original"), "solutions": ("source",), "refusals": ("original",)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive whose every text is hostile, beside one that differs from it."""
    path = tmp_path_factory.mktemp("evil") / "archive.sqlite"
    with Archive(path, create=True) as made_up:
        made_up.plan_chunk(1, "solve", 0, "weights", "0-1", SAMPLED, {"puzzles": ["a1"], "copies": 1})
        made_up.plan_chunk(1, "propose", 1, "weights", "0-1", SAMPLED, {"shots": [[]], "copies": 1})
        made_up.set_completions(1, [[f"{UNSEEN} text"]], 1, 1, 1, 0.1, 0.1)
        made_up.set_completions(2, [f"{UNSEEN} text"], 1, 1, 1, 0.1, 0.1)
        made_up.add(pair(made("a1")), Provenance("model", 1, 2, 0), PROTECTIONS)
        made_up.add(pair(made("b2")), HUMAN, {"tier": EVIL})
        made_up.add_candidate(1, 0, "a1", solution("42"), ACCEPTED)
        made_up.add_proposal(2, 0, "admitted", "", "a1")
        made_up.add_refusal("name", "puzzle", "reason", "detail", "text")
        made_up.connection.execute("INSERT INTO contamination VALUES ('a1', 'exact', 'x', 'y', 'z', 0.5)")
        made_up.index()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table, columns in TEXTS.items():
            for column in columns:
                connection.execute(f"UPDATE {table} SET {column} = ?", (EVIL,))
        for table, columns in PROGRAMS.items():
            for column in columns:
                connection.execute(f"UPDATE {table} SET {column} = ?", (f"def f(x: int):  # {UNSEEN}\n    return x",))
        connection.execute("UPDATE puzzles SET skills = ?", (json.dumps([EVIL]),))
        connection.execute("UPDATE chunks SET settings = json_set(settings, '$.more', ?)", (EVIL,))
        connection.execute("UPDATE puzzles SET id = id || ?", (EVIL,))
        connection.execute("UPDATE candidates SET puzzle = puzzle || ?", (EVIL,))
        connection.execute("UPDATE solutions SET puzzle = puzzle || ?, id = id || ?", (EVIL, EVIL))
    with Archive(path.with_name("other.sqlite"), create=True):
        pass
    return path


@pytest.mark.parametrize(
    "arguments",
    ["stats A", "list A", "list A --refused", "list A --search evil", "show A a1", "show A b2", "show A \x1b",
     "why A a1", "why A b2", "why A \x1b", "diff A O", "diff O A", "reverify A", "contamination A --against O",
     "export A E.jsonl", "stats A --json", "list A --json", "show A a1 --json", "why A a1 --json"],
)  # fmt: skip
def test_no_command_prints_what_controls_a_terminal_or_forges_a_line(archive, arguments, tmp_path, capsys):
    names = {"A": archive, "O": archive.with_name("other.sqlite"), "E.jsonl": tmp_path / "out.jsonl"}
    main(["archive", *(str(names.get(word, word)) for word in arguments.split(" "))])
    out, err = capsys.readouterr()
    assert out or err
    for text in (out, err):
        assert not SHOWN.search(text), ascii(SHOWN.search(text)[0])
        assert not [line for line in text.splitlines() if line.startswith("FORGED")]
    assert "Traceback" not in err


def test_a_card_of_hostile_counts_is_a_table_without_links(archive, tmp_path):
    assert (
        main(["archive", "export", str(archive), str(tmp_path / "out"), "--format", "datasets", "--license", EVIL]) == 0
    )
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert not SHOWN.search(card)
    assert not [line for line in card.splitlines() if line.startswith("FORGED")]
    cells = 0
    for line in card.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line and {*line} <= {*"|-: "} else cells
        if line.startswith("| `"):
            assert len(re.findall(r"(?<!\\)\|", line)) == cells, line
            assert line.count("`") == 2 or "FORGED" not in line  # our own columns have code in their meanings
    assert "\nlicense: " in card.split("---")[1]


def test_a_log_line_is_one_line_whatever_is_in_it(tmp_path):
    with log_to(tmp_path / "log.txt"):
        logging.getLogger("selfplay").warning("found %s", EVIL)
        try:
            raise ValueError(EVIL)
        except ValueError:
            logging.getLogger("selfplay").exception("failed: %s", EVIL)
    text = (tmp_path / "log.txt").read_text("utf-8")
    assert not SHOWN.search(text)
    assert text.splitlines()[0].count("FORGED") == 1


@given(st.text(st.characters() | st.sampled_from(EVIL)))
def test_what_is_visible_can_be_printed_on_one_line_and_stays_as_it_is_when_it_was_visible(text):
    shown = visible(text)
    assert shown.isprintable()
    assert not SHOWN.search(shown)
    assert visible(shown) == shown
    assert printable(text).count("\n") == text.count("\n")
    assert one_line(text).isprintable()
    assert "\n" not in render([[text]])
    assert len(markdown([text], [[text]]).splitlines()) == 3
    assert code(text).count("`") == 2


def test_letters_of_all_scripts_stay_as_they_are():
    text = "größer, naïve, Ωμέγα, привет, שלום, سلام, नमस्ते, 漢字, 한국어, é, 👍, ½ … — “x”"
    assert visible(text) == text
