"""One result of `selfplay bench`, or two side by side, for readers: a small database of puzzles, prompts and samples.

Results name puzzles by their ids only. So the puzzles are read from the set again, if it is an embedded one or the user
names its file; no file is read because a result names it. Prompts are written again and compared by their hash with
those that were scored.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzles.archive import opening
from puzzles.archive.formats import EMBEDDED_SETS
from puzzles.parse import RULES
from puzzles.puzzle import InputError, Verdict
from sandbox.pool import Pool
from selfplay.sampling.prompts import Prompt, kept_format, prompts_hash
from selfplay.sampling.shots import prompt_for, training_pairs
from selfplay.scoring import results
from selfplay.scoring.compare import Comparison, compare, conclusion
from selfplay.scoring.sets import NamedPuzzle, scored_puzzles
from selfplay.text import interval, signed

LABELS = ("A", "B")
MOST_RESULTS = len(LABELS)
TABLES = """
CREATE TABLE results (               -- the results, in the order they were named
    result TEXT PRIMARY KEY,         -- A | B
    folder TEXT NOT NULL,
    model TEXT NOT NULL,
    checkpoint TEXT NOT NULL,        -- hash of the weights
    protocol TEXT NOT NULL,
    settings TEXT NOT NULL           -- JSON
);
CREATE TABLE puzzles (               -- the scored puzzles, in the set's order
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    answer_type TEXT NOT NULL,
    skills TEXT NOT NULL,            -- JSON list
    difficulty INTEGER,
    source TEXT                      -- NULL if the set was not read
);
CREATE TABLE prompts (
    result TEXT NOT NULL,
    puzzle TEXT NOT NULL,
    prompt TEXT NOT NULL,
    header TEXT NOT NULL,            -- code that the text goes on from; empty in a chat
    PRIMARY KEY (result, puzzle)
);
CREATE TABLE samples (               -- every candidate
    result TEXT NOT NULL,
    puzzle TEXT NOT NULL REFERENCES puzzles (id),
    seed INTEGER NOT NULL,
    sample INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    rule TEXT NOT NULL,              -- rule that a text broke which is no candidate; else empty
    detail TEXT,
    text TEXT,
    PRIMARY KEY (result, puzzle, seed, sample)
);
CREATE TABLE scores (                -- of n samples of a puzzle c were accepted
    result TEXT NOT NULL,
    puzzle TEXT NOT NULL REFERENCES puzzles (id),
    n INTEGER NOT NULL,
    c INTEGER NOT NULL,
    is_wrong INTEGER NOT NULL,       -- whether the errata leave the puzzle out of the score
    PRIMARY KEY (result, puzzle)
);
CREATE INDEX samples_by_verdict ON samples (verdict, rule, puzzle);
"""
MOST_CHARACTERS, MOST_NAME_CHARACTERS = 1_000_000, 1_000
"""Longest text, and longest name, type, skill or verdict, that is shown. Results may be a stranger's."""
NAMES = ("results", "puzzles", "prompts", "samples", "scores")
"""The tables."""


@dataclass(frozen=True)
class Result:
    """A result of `selfplay bench` with what is needed to look at it."""

    label: str
    """`A` or `B`."""
    folder: Path
    own: Mapping[str, Any]
    """What is under `selfplay` in its `results.json`."""
    lines: Sequence[results.Line]
    """Its chunks."""
    puzzles: Mapping[str, NamedPuzzle]
    """The scored puzzles by id; empty if the set was not read."""
    prompts: Mapping[str, Prompt]
    """The prompts by puzzle; empty if they cannot be written again."""
    notes: Sequence[str]
    """Why puzzles or prompts are missing."""


def is_benchmark(place: str | Path) -> bool:
    """Whether this is a folder that `selfplay bench` wrote."""
    return (Path(place) / results.RESULTS).is_file()


def read(folders: Sequence[Path], pool: Pool, named: str | None = None) -> list[Result]:
    """Results with their samples, puzzles and prompts.

    Args:
        folders: One or two folders that `bench` wrote.
        pool: The sandbox that parses puzzles.
        named: The puzzle file that the user names, for sets that are not embedded.

    Raises:
        InputError: There are more folders, one holds no whole result, or the named file has other puzzles.
    """
    if len(folders) > MOST_RESULTS:
        raise InputError(f"{folders[MOST_RESULTS]}: expected at most {MOST_RESULTS} results of `selfplay bench`")
    return [_result(label, folder, pool, named) for label, folder in zip(LABELS, folders, strict=False)]


def _result(label: str, folder: Path, pool: Pool, named: str | None) -> Result:
    own, lines = results.read(folder)["selfplay"], results.unpack(folder)
    if not lines:
        raise InputError(f"{folder}: expected {results.SAMPLES} beside {results.RESULTS}, to show the samples")
    counts = {count.puzzle: [count.samples, count.accepted] for count in results.puzzle_counts(lines)}
    if counts != own["per_puzzle"]:
        raise InputError(f"{folder}: {results.SAMPLES} has other verdicts than {results.RESULTS}: score it again first")
    puzzles, notes = _puzzles(own, pool, named)
    prompts: dict[str, Prompt] = {}
    if puzzles:
        prompts, missing = _prompts(own, puzzles, pool)
        notes += missing
    return Result(label, folder, own, lines, puzzles, prompts, notes)


def _puzzles(own: Mapping[str, Any], pool: Pool, named: str | None) -> tuple[dict[str, NamedPuzzle], list[str]]:
    """The scored puzzles by id, in the set's order; or none, and why."""
    path = own["set"]["path"]
    source = path if path in EMBEDDED_SETS else named
    if source is None:
        return {}, [f"the puzzles are in {path}: name this file with --puzzles to see them"]
    found = {item.puzzle.id: item for item in reversed(scored_puzzles(pool, source))}
    if unknown := [puzzle for puzzle in own["per_puzzle"] if puzzle not in found]:
        if source == named:
            raise InputError(f"--puzzles {named}: expected the scored puzzles, {len(unknown)} of them are not there")
        return {}, [f"the puzzles are not shown, because the set {path} has changed since"]
    return {puzzle: found[puzzle] for puzzle in own["per_puzzle"]}, []


def _prompts(
    own: Mapping[str, Any], puzzles: Mapping[str, NamedPuzzle], pool: Pool
) -> tuple[dict[str, Prompt], list[str]]:
    """The prompts that were scored, by puzzle; or none, and why."""
    known = {puzzle.id: (puzzle, solution) for puzzle, solution in training_pairs(pool)} if own["shots"] else {}
    if any(shot not in known for shot in own["shots"]):
        return {}, ["the prompts are not shown, because the pairs in them are not known here"]
    shots, prompt_format = [known[shot] for shot in own["shots"]], kept_format(own)
    prompts = {puzzle: prompt_for(prompt_format, item.puzzle, shots) for puzzle, item in puzzles.items()}
    if prompts_hash([*prompts.values()]) != own["prompts_hash"]:
        return {}, ["the prompts are not shown, because this version does not write them as they were scored"]
    return prompts, []


def compared(shown: Sequence[Result]) -> Comparison | None:
    """The comparison of two results; None of one.

    Raises:
        InputError: They have no puzzle in common, or no k.
    """
    return compare(shown[0].folder, shown[1].folder, anyway=True) if len(shown) > 1 else None


def score_rows(shown: Sequence[Result], comparison: Comparison | None) -> list[list[str]]:
    """The table of scores, its heading first: pass@k of each result, and the difference of two."""
    owns = [result.own for result in shown]
    head = ["", *(result.label if comparison else "score" for result in shown)]
    rows = [head + (["B - A", "p"] if comparison else [])]
    for name in dict.fromkeys(name for own in owns for name in own["scores"]):
        scores = [own["scores"].get(name) for own in owns]
        cells = [interval([score["value"], score["low"], score["high"]]) if score else "" for score in scores]
        if comparison:
            one = next((each for each in comparison.differences if f"pass@{each.k}" == name), None)
            cells += [signed(one.difference), f"{one.p:.2g}"] if one else ["", ""]
        rows.append([name, *cells])
    return rows


def _notes(result: Result) -> Iterator[str]:
    """What a reader must know about a result: what cannot be shown, and what does not count."""
    for note in result.notes:
        yield f"{result.folder}: {note}."
    for puzzle, reason in result.own["errata"].items():
        yield f"Puzzle {puzzle} is left out of the score: {reason}"


def facts_of(result: Result) -> dict[str, Any]:
    """What a page says of a result."""
    own = result.own
    return {
        "label": result.label, "folder": str(result.folder), "model": own["model"]["path"],
        "checkpoint": own["model"]["checkpoint"], "set": own["set"]["name"], "protocol": own["protocol"],
        "settings": own["settings"], "solved": own["solved"], "notes": [*_notes(result)],
        "scored": len(own["per_puzzle"]) - len(own["errata"]),
    }  # fmt: skip


def sentence_of(shown: Sequence[Result], comparison: Comparison | None) -> str:
    """The outcome in a sentence or two."""
    if comparison:
        won, lost = len(comparison.won), len(comparison.lost)
        return f"{conclusion(comparison)} B solved {won} puzzles that A did not solve, and A {lost} that B did not."
    own = shown[0].own
    name, score = next(iter(own["scores"].items()))
    value = interval([score["value"], score["low"], score["high"]])
    scored = len(own["per_puzzle"]) - len(own["errata"])
    return (
        f"{own['model']['path']} solves {value} of the puzzles of {own['set']['name']} at {name},"
        f" and {own['solved']} of its {scored} puzzles at least once."
    )


def rule_of(verdict: str, detail: str | None) -> str:
    """The rule that a text broke which is no candidate; an empty text for other verdicts."""
    rule = (detail or "").partition(":")[0]
    return rule if verdict == Verdict.INVALID_SOLUTION and rule in RULES else ""


def samples_of(result: Result) -> Iterator[dict[str, Any]]:
    """Every sample of a result, with the rule that its text broke."""
    for line in result.lines:
        for sample in results.sample_lines(line):
            yield sample | {"rule": rule_of(sample["verdict"], sample["detail"])}


def fill(path: Path, shown: Sequence[Result]) -> None:
    """Write results into a new database."""
    with closing(opening.connect(path, "mode=rwc")) as connection:
        connection.executescript(f"BEGIN; {TABLES}")
        for result in shown:
            _fill(connection, result)
        connection.execute("COMMIT")


def _fill(connection: sqlite3.Connection, result: Result) -> None:
    def insert(table: str, *row: Any) -> None:
        marks = ", ".join("?" for _ in row)
        kept = [_storable(value) if isinstance(value, str) else value for value in row]
        connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", kept)

    own, label = result.own, result.label
    model, settings = own["model"], json.dumps(own["settings"])
    insert("results", label, str(result.folder), model["path"], model["checkpoint"], own["protocol"], settings)
    for count in results.puzzle_counts(result.lines):
        item = result.puzzles.get(count.puzzle)
        name, answer_type, *skills = (
            _storable(text, MOST_NAME_CHARACTERS) for text in (count.name, count.answer_type, *count.skills)
        )
        source = item.puzzle.source if item else None
        insert("puzzles", None, count.puzzle, name, answer_type, json.dumps(skills), count.difficulty, source)
        insert("scores", label, count.puzzle, count.samples, count.accepted, count.puzzle in own["errata"])
    for puzzle, prompt in result.prompts.items():
        insert("prompts", label, puzzle, prompt.whole, prompt.header)
    for sample in samples_of(result):
        sample["verdict"] = _storable(sample["verdict"], MOST_NAME_CHARACTERS)
        keys = ("puzzle", "seed", "sample", "verdict", "rule", "detail", "text")
        insert("samples", label, *(sample[key] for key in keys))


def _storable(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text of bounded length without halves of a character, which SQLite does not store."""
    return (text if len(text) <= most else f"{text[:most]}…").encode("utf-8", "backslashreplace").decode("utf-8")


class Opened:
    """A database of results, opened to be read."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)

    def query(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self.connection.execute(sql, parameters).fetchall()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection to a database of results."""
    connection = opening.connect(path, "mode=ro", check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection
