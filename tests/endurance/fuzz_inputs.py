"""Feeds the laboratory broken files: `python tests/endurance/fuzz_inputs.py --minutes 10 [--seed N]`.

Good files of every kind are damaged, a byte or a value or a table at a time, and read as their users would read them.
Each must end in the answer (exit 0 or 1), where the damage does not matter to it, or in one line that names the file
(exit 2); what was only read is as it was, and what was to be written is whole, or as it was before. Hypothesis draws
the damage and looks for the smallest that still does it.

Exit status 1 on a finding; the smallest reproduction of each is in the file that the output names.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import gzip
import importlib
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]

import hypothesis  # noqa: E402  # a script's path begins with its own folder
from hypothesis import strategies as st  # noqa: E402

from puzzles.archive.formats import FORMATS as PUZZLE_FORMATS  # noqa: E402
from puzzles.puzzle import InputError  # noqa: E402
from selfplay.inspecting.export import FORMATS as EXPORT_FORMATS  # noqa: E402

SECONDS_PER_INPUT = 60
MOST_CHARACTERS = 2000
"""Of the line that refuses an input."""
MOST_FINDINGS = 20
BEFORE = "as it was before\n"
"""What stands where an output will be."""

Damage = tuple[Any, ...]
"""Its name in `HOW` and its arguments; all that JSON knows."""


@dataclass(frozen=True)
class Case:
    """A damaged file, and who reads it."""

    kind: str
    action: str
    file: str
    """Its place among the good ones."""
    damages: tuple[Damage, ...]


class Wrong(Exception):
    """What must not happen."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{what} {where}".strip())
        self.signature = where or re.sub(r"\d+|'[^']*'", "…", what)


@dataclass(frozen=True)
class Finding:
    """Something wrong, and the smallest case that does it."""

    what: str
    case: Case
    reproduction: Path


@dataclass
class Summary:
    """What was tried and what came of it, by kind: `fine`, `refused` and `wrong`."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    rounds: int = 0

    @property
    def tried(self) -> int:
        return sum(counts.total() for counts in self.outcomes.values())

    def table(self) -> str:
        lines = [f"{'':12}{'inputs':>12}{'fine':>12}{'refused':>12}{'wrong':>8}"]
        for kind, counts in self.outcomes.items():
            cells = f"{counts['fine']:>12,}{counts['refused']:>12,}{counts['wrong']:>8,}"
            lines.append(f"{kind:12}{counts.total():>12,}{cells}")
        return "\n".join(lines)


# ---- damage ----

VALUES = (
    "null", "true", "0", "-1", "1", "1.5", "-0.0", "NaN", "Infinity", "1e400", "9223372036854775808", "-9e18", '""',
    '"x"', '"\\ud800"', '"\\u0000"', '"nan"', '"é"', '"../x"', '"pass@1"', '"a\\nb"', "[]", "{}", "[[]]", "[null]",
    "[1]", '["x"]', '[["x", "y"]]', '{"a": 1}', "<digits>", "<deep>", "<long>", "<wide>", "",
)  # fmt: skip
LARGE = {
    "<digits>": "1" + "0" * 5000, "<deep>": "[" * 100_000 + "]" * 100_000, "<long>": '"' + "x" * 50_000 + '"',
    "<wide>": "[" + "0, " * 5000 + "0]",
}  # fmt: skip
MARK = "\x00here\x00"


def at(content: Sequence[Any], place: int) -> int:
    """A place in a content of any length, from one of 65,536."""
    return place * len(content) // 65536


def cut(content: bytes, place: int) -> bytes:
    return content[: at(content, place)]


def flip(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[at(content, place)] ^= 1 << bit
    return bytes(changed)


def zero(content: bytes, place: int, length: int) -> bytes:
    start = at(content, place) // length * length
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def insert(content: bytes, place: int, inserted: str) -> bytes:
    start = at(content, place)
    return content[:start] + bytes.fromhex(inserted) + content[start:]


def delete(content: bytes, place: int, length: int) -> bytes:
    start = at(content, place)
    return content[:start] + content[start + length :]


def become(content: bytes, other: str) -> bytes:
    return bytes.fromhex(other)


def crlf(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def packed(damage: Callable[..., bytes]) -> Callable[..., bytes]:
    """Damage inside what is compressed."""
    return lambda content, *arguments: gzip.compress(damage(gzip.decompress(content), *arguments), mtime=0)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key below a document, the document itself not among them."""
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from places(document[key])


def value(content: bytes, line: int, place: int, raw: str, how: str = "set") -> bytes:
    """Another value, or none, or two, at a place of the JSON of a line; `line` -1: of the whole file."""
    lines = [content] if line < 0 else content.splitlines(keepends=True)
    if not lines:
        return content
    number = 0 if line < 0 else line % len(lines)
    raw = LARGE.get(raw, raw)
    try:
        document = json.loads(lines[number])
    except (ValueError, RecursionError):
        return content
    known = list(places(document))
    if not known:
        lines[number] = raw.encode() + b"\n"
        return b"".join(lines)
    container, key = known[at(known, place)]
    if how == "drop":
        del container[key]
    elif how == "double" and isinstance(container, dict):
        items = list(container.items())
        container.clear()
        container |= {MARK: None, **dict(items)}
        raw = json.dumps(key) + ": " + raw
    else:
        container[key] = MARK
    text, marked = json.dumps(document), json.dumps(MARK)
    text = text.replace(f"{marked}: null", raw) if how == "double" else text.replace(marked, raw)
    lines[number] = text.encode() + b"\n"
    return b"".join(lines)


def setting(content: bytes, number: int, raw: str) -> bytes:
    """Another value in a line `key = value` of TOML."""
    lines = content.split(b"\n")
    chosen = [place for place, line in enumerate(lines) if b" = " in line]
    if chosen:
        place = chosen[number % len(chosen)]
        lines[place] = lines[place].partition(b" = ")[0] + b" = " + LARGE.get(raw, raw).encode()
    return b"\n".join(lines)


def line(content: bytes, number: int, text: str) -> bytes:
    lines = content.split(b"\n")
    lines.insert(number % len(lines), text.encode("utf-8", "surrogatepass"))
    return b"\n".join(lines)


def statement(content: bytes, sql: str) -> bytes:
    """SQL on the database that a file holds."""
    with database(content) as connection, contextlib.suppress(sqlite3.Error):
        connection.executescript(sql)
    return database.left


def blob(content: bytes, column: str, row: int, place: int, raw: str) -> bytes:
    """Another value in the compressed JSON of a chunk."""
    with database(content) as connection, contextlib.suppress(sqlite3.Error, zlib.error, TypeError):
        found = connection.execute(f"SELECT id, {column} FROM chunks WHERE {column} IS NOT NULL ORDER BY id").fetchall()
        if found:
            number, stored = found[row % len(found)]
            changed = value(zlib.decompress(stored), -1, place, raw)
            connection.execute(f"UPDATE chunks SET {column} = ? WHERE id = ?", (zlib.compress(changed), number))
            connection.commit()
    return database.left


class _Database:
    """A database of bytes; `left` is what it is afterwards."""

    left = b""

    @contextlib.contextmanager
    def __call__(self, content: bytes) -> Iterator[sqlite3.Connection]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "database"
            path.write_bytes(content)
            connection = sqlite3.connect(path)
            try:
                yield connection
                connection.commit()
            except sqlite3.Error:
                pass
            finally:
                connection.close()
            self.left = path.read_bytes()


database = _Database()


def tensor(content: bytes, place: int, number: str) -> bytes:
    """Another number among the weights."""
    start = 8 + struct.unpack("<Q", content[:8])[0] if len(content) > 8 else 0
    weights = bytearray(content[start:])
    if len(weights) < 4:
        return content
    offset = at(weights, place) // 4 * 4
    weights[offset : offset + 4] = struct.pack("<f", float(number))[: len(weights) - offset]
    return content[:start] + bytes(weights)


def header(content: bytes, place: int, raw: str) -> bytes:
    """Another value in the description of the weights."""
    length = struct.unpack("<Q", content[:8])[0] if len(content) > 8 else 0
    changed = value(content[8 : 8 + length], -1, place, raw)
    return struct.pack("<Q", len(changed)) + changed + content[8 + length :]


HOW: dict[str, Callable[..., bytes | None]] = {
    "cut": cut, "flip": flip, "zero": zero, "insert": insert, "delete": delete, "become": become, "crlf": crlf,
    "packed cut": packed(cut), "packed insert": packed(insert), "packed value": packed(value), "value": value,
    "setting": setting, "line": line, "statement": statement, "blob": blob, "tensor": tensor, "header": header,
    "remove": lambda content: None,
}  # fmt: skip


def damaged(content: bytes, damages: Sequence[Damage]) -> bytes | None:
    """What a file's content becomes; None if there is no file any more."""
    left: bytes | None = content
    for name, *arguments in damages:
        if left is not None:
            with contextlib.suppress(OSError, EOFError, zlib.error):  # it cannot be damaged in this way any more
                left = HOW[name](left, *arguments)
    return left


PLACE = st.integers(0, 65535)
SMALL = st.integers(0, 40)
NOISE = st.binary(max_size=60).map(bytes.hex) | st.sampled_from(
    [b"\0".hex(), b"\xef\xbb\xbf".hex(), b"\xff\xfe".hex(), b"\r".hex(), b"\x80\x04".hex(), b"SQLite format 3\0".hex()]
)
VALUE = st.sampled_from(VALUES)


def one(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Damage]:
    return st.tuples(st.just(name), *arguments)


def weighted(*strategies: tuple[int, st.SearchStrategy[Damage]]) -> st.SearchStrategy[Damage]:
    """One of some, each as often as its number says."""
    return st.sampled_from([own for weight, own in strategies for _ in range(weight)]).flatmap(lambda own: own)


BYTES = st.one_of(
    one("cut", PLACE),
    one("flip", PLACE, st.integers(0, 7)),
    one("zero", PLACE, st.sampled_from([1, 16, 512, 4096])),
    one("insert", PLACE, NOISE),
    one("delete", PLACE, st.sampled_from([1, 4, 100, 4096])),
    one("become", NOISE),
)
HOWS = st.sampled_from(["set", "set", "drop", "double"])
JSON_LINES = weighted(
    (6, one("value", SMALL, PLACE, VALUE, HOWS)), (1, one("crlf")), (1, one("line", SMALL, VALUE)), (2, BYTES)
)
JSON_FILE = weighted((3, one("value", st.just(-1), PLACE, VALUE, HOWS)), (1, BYTES))
PACKED = weighted(
    (6, one("packed value", SMALL, PLACE, VALUE, HOWS)), (1, one("packed cut", PLACE)),
    (1, one("packed insert", PLACE, NOISE)), (1, BYTES),
)  # fmt: skip
TOML_LINES = (
    "[x]", "[model]", "[[model]]", "[[erratum]]", "iterations = 1", "x.y = 1", '"" = 1', "a = 1\na = 2", "seed.x = 1",
    "x = " + "[" * 5000, "x = 1979-05-27", "x = inf", "\ud800", "\0", "model = 3", "[a.b.c]", 'x = "\\ud800"',
)  # fmt: skip
TOML_VALUES = (*VALUES, "nan", "inf", "-inf", "1979-05-27", "{}", "'x'", '"""\n"""', '"a"', "[1, 'x']", "0x7f", "1_0")
TOML = weighted(
    (4, one("setting", SMALL, st.sampled_from(TOML_VALUES))), (2, one("line", SMALL, st.sampled_from(TOML_LINES))),
    (1, one("crlf")), (2, BYTES),
)  # fmt: skip

TABLES = {
    "puzzles": "number id source answer_type header skeleton name description original origin skills difficulty"
    " iteration chunk position parents added_at",
    "solutions": "number puzzle id source answer origin iteration chunk position protections cpu_seconds"
    " judge_cpu_seconds added_at",
    "chunks": "id iteration stage number checkpoint seed settings plan completions judged tokens prompt_tokens"
    " sampling_seconds sampling_cpu_seconds judging_seconds judging_cpu_seconds",
    "proposals": "chunk position outcome detail puzzle",
    "candidates": "chunk position puzzle candidate verdict detail answer cpu_seconds",
    "trained": "iteration puzzle solution",
    "protections": "id content",
    "marks": "name value",
    "refusals": "name what reason detail original",
    "contamination": "puzzle level guarded detail guard added_at",
}
COLUMNS = [(table, column) for table, columns in TABLES.items() for column in columns.split()]
READ_MOST = [where for where in COLUMNS if where[0] in ("puzzles", "solutions", "candidates", "proposals")]
SQL_VALUES = (
    "x'00ff'", "''", "'words'", "NULL", "0", "-1", "1.5", "9223372036854775807", "1e999", "x''",
    "CAST(x'ff41' AS TEXT)", "'[1]'", "'{\"a\": 1}'", "'['", "'[null]'", "'\"x\"'", "'model'", "'variant'", "'solve'",
    "'vary'", "'few-shot'",
    "CAST(x'610062' AS TEXT)", "randomblob(40)", "'{}'", "'[]'", "99", "replace(hex(zeroblob(3000)), '00', '[')",
)  # fmt: skip

WORST = ("x'00ff'", "CAST(x'ff41' AS TEXT)", "'['", "'5'", "'{\"a\": 1}'")


def row(table: str, column: str, sql: str, number: int) -> str:
    """Another value in one row of a table; 0: in each."""
    chosen = f" WHERE rowid = (SELECT rowid FROM {table} ORDER BY rowid LIMIT 1 OFFSET {number})" if number else ""
    return f"UPDATE {table} SET {column} = {sql}{chosen}"


OTHER_ROWS = st.builds(
    lambda where, sql, number: row(*where, sql, number),
    st.sampled_from([*COLUMNS, *READ_MOST, *READ_MOST]),
    st.sampled_from([*SQL_VALUES, *SQL_VALUES, *WORST, *WORST]),
    st.sampled_from([0, 0, 0, 1, 2, 3, 5, 8]),
)
OTHER_TABLES = st.one_of(
    st.builds("DELETE FROM {}".format, st.sampled_from([*TABLES])),
    st.builds("DELETE FROM {} WHERE rowid % 3 = 1".format, st.sampled_from([*TABLES])),
    st.builds("DROP TABLE {}".format, st.sampled_from([*TABLES, "search_puzzles", "search_solutions"])),
    st.builds("DROP VIEW {}".format, st.sampled_from(["pairs", "iterations"])),
    st.builds(
        "DROP INDEX {}".format,
        st.sampled_from(["candidates_by_puzzle", "puzzles_by_kind", "puzzles_by_skeleton", "solutions_by_iteration"]),
    ),
    st.builds(
        lambda where: f"DROP VIEW pairs; DROP VIEW iterations; ALTER TABLE {where[0]} DROP COLUMN {where[1]}",
        st.sampled_from(COLUMNS),
    ),
    st.builds(lambda where: f"ALTER TABLE {where[0]} RENAME COLUMN {where[1]} TO other", st.sampled_from(COLUMNS)),
    st.builds("ALTER TABLE {} RENAME TO elsewhere".format, st.sampled_from([*TABLES])),
    st.builds("PRAGMA user_version = {}".format, st.sampled_from([-1, 0, 1, 2, 4, 2**31 - 1])),
    st.builds("PRAGMA application_id = {}".format, st.sampled_from([0, 1, -1])),
)
SQL = weighted((3, OTHER_ROWS), (1, OTHER_TABLES))
ARCHIVE = weighted(
    (8, one("statement", SQL)), (3, one("blob", st.sampled_from(["plan", "completions"]), SMALL, PLACE, VALUE)),
    (2, BYTES),
)  # fmt: skip
NUMBERS = st.sampled_from(["nan", "inf", "-inf", "0", "1e38"])
WEIGHTS = weighted((3, one("tensor", PLACE, NUMBERS)), (3, one("header", PLACE, VALUE)), (1, one("remove")), (2, BYTES))


# ---- good files ----

PAIRS = (
    ("thirds", "def f(x: int):\n    return 3 * x == 51", "def g():\n    return 17"),
    ("square", "def f(x: int, k=1764):\n    return x * x == k and x > 0", "def g(k=1764):\n    return 42"),
    ("letters", "def f(s: str):\n    return s.count('a') == 4 and len(s) == 9", "def g():\n    return 'aaaabbbbb'"),
)
SETTINGS = """
iterations = {iterations}
chunk_texts = 16
batch_rows = 8
[model]
path = "model"
threads = 1
[prompt]
protocol = "few-shot"
shots = 1
[data]
train = "train.jsonl"
dev = "dev.jsonl"
heldout = "heldout.jsonl"
[propose]
proposals = 32
begun = 0.5
[solve]
candidates_per_puzzle = 4
further_puzzles = 1
[vary]
variations = 4
[sandbox]
lanes = 2
[evaluate]
samples_per_puzzle = 4
k = [1, 4]
"""
ABLATION = """
run = "run.toml"
seeds = [0, 1]
control = "control"
settings = ["iterations=2"]
[arms]
control = []
more = ["propose.proposals=64", "data.rules=8"]
"""
ERRATA = '[[erratum]]\npuzzle = "0123456789abcdef"\nreason = "it has two answers"\n'


def written(prompt: Any, rng: Any) -> str:
    """What the model of the good run writes: puzzles, and candidates of which some hold."""
    if not prompt.header.startswith("def g("):
        factor, answer = int(rng.integers(20, 90)), int(rng.integers(2, 9))
        asked = f" x * {factor} == {factor * answer}\n"
        signed = ":\n" in prompt.header or prompt.header.endswith("):")
        begun = (
            "x: int):\n    return" if prompt.header == "def f(" else "" if "return" in prompt.header else "\n    return"
        )
        return (
            begun + asked
            if prompt.header == "def f(" or signed
            else ("" if "return" in prompt.header else "):") + asked
        )
    asked = re.search(r"x \* (\d+) == (\d+)", prompt.text.rpartition("def f(")[2])
    right = int(asked[2]) // int(asked[1]) if asked else 17
    return [f"\n    return {right}\n", "\n    return 7\n", "\n    return (\n", f"\n    x = {right}\n    return x\n"][
        int(rng.integers(4))
    ]


class Backend:
    """A model that a script plays and nothing trains; what is kept beside the weights is read as ever, and where there
    are no weights none are loaded.
    """

    def load(self, checkpoint: Any, config: Any) -> Any:
        from scripted_sampler import ScriptedSampler

        from puzzles.puzzle import InputError
        from selfplay.sampling.model import read_notes

        if str(checkpoint) != "embedded" and not Path(checkpoint).is_dir():
            raise InputError(f"{checkpoint}: expected a model, there is none")
        sampler = ScriptedSampler(written)
        sampler.notes = read_notes(str(checkpoint))
        return sampler

    def needs(self, sampler: Any, config: Any) -> Any:
        """Nothing."""
        from selfplay.run.resources import TrainingNeeds

        return TrainingNeeds(0, 0, 0, "")

    def finetune(self, training, folder, progress, plan) -> None:
        from selfplay.run.rundir import folder_atomically
        from selfplay.settings import embedded_file

        plan(1)
        progress(10, 1.0, 1e-3)
        with folder_atomically(folder) as part:
            weights = embedded_file("model") if str(training.start) == "embedded" else training.start
            shutil.copytree(weights, part, dirs_exist_ok=True)
            (part / "selfplay.json").write_text(
                json.dumps({**training.notes, "training": {"steps": 1, "tokens": 9, "seconds": 0.1}})
            )


class Warm:
    """One proven sandbox for all commands, whatever limits they ask for."""

    def __init__(self) -> None:
        from puzzles.rules.variation import VARY
        from puzzles.verify import truth_pool
        from sandbox import selfcheck

        self.pool = truth_pool(lanes=2, jobs=[VARY])
        proof = selfcheck.check(self.pool)
        self._patches = [
            mock.patch("selfplay.run.pools.truth_pool", return_value=contextlib.nullcontext(self.pool)),
            mock.patch.object(selfcheck, "check", return_value=proof),
            mock.patch("selfplay.experiments.engines.TransformersBackend", Backend),
        ]
        for patch in self._patches:
            patch.start()

    def close(self) -> None:
        for patch in self._patches:
            patch.stop()
        self.pool.close()


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    status: int
    out: str
    err: str


def told(*arguments: Any) -> Told:
    """Run a command in this process."""
    from selfplay.commands.main import main

    out, err = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)
        logging.disable(logging.NOTSET)
    return Told(status, out.getvalue(), err.getvalue())


def good_files(folder: Path) -> None:
    """One of each kind, in the current folder."""
    from tiny_models import make_network, make_tokenizer

    from selfplay.sampling.model import save
    from selfplay.settings import embedded_file, load, to_toml
    from selfplay.training.select import examples  # noqa: F401  # all that commands import is here from the start

    tokenizer = make_tokenizer("llama")
    network = make_network("llama", len(tokenizer), tokenizer.eos_token_id)
    (folder / "model").mkdir()
    save(network, tokenizer, folder / "model", {"protocol": "plain", "shots": [[PAIRS[0][1], PAIRS[0][2]]]})
    shutil.copytree(folder / "model", folder / "sharded")
    (folder / "sharded" / "model.safetensors").unlink()
    network.save_pretrained(folder / "sharded", max_shard_size="20KB")
    shutil.copytree(folder / "model", folder / "coded")
    config = json.loads((folder / "coded" / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "coded" / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    (folder / "coded" / "own.py").write_text("open('executed', 'w').close()\n")
    lines = [{"name": name, "puzzle": p, "solution": s, "skills": ["a"], "difficulty": 1} for name, p, s in PAIRS]
    _write(folder / "train.jsonl", lines)
    for name, constant in (("dev", 71), ("heldout", 93)):
        asked = [
            f"def f(x: int, k={constant}):\n    return x * 3 == k * 6",
            f"def f(s: str):\n    return s * 2 == 'Q{constant}Q{constant}'",
        ]
        _write(folder / f"{name}.jsonl", [{"name": f"{name}{i}", "puzzle": p} for i, p in enumerate(asked)])
    for iterations in (1, 2):
        (folder / ("run.toml" if iterations == 1 else "more.toml")).write_text(SETTINGS.format(iterations=iterations))
    (folder / "ablation.toml").write_text(ABLATION)
    (folder / "errata.toml").write_text(ERRATA)
    (folder / "complete.toml").write_text(to_toml(load(folder / "run.toml")))
    shutil.copy(embedded_file("pretrain.toml"), folder / "pretrain.toml")
    _puzzle_files(folder, lines)
    for name in ("run", "more"):
        done = told("run", f"{name}.toml", "--name", name)
        assert done.status == 0, done.err
    shutil.copytree(folder / "runs" / "run", folder / "runs" / "cut")
    _cut_short(folder / "runs" / "cut")
    _benchmarks(folder)


def _write(path: Path, records: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _puzzle_files(folder: Path, lines: list[dict[str, Any]]) -> None:
    p3 = [
        {
            "name": f"P{i}:0", "sat": f"def sat(x: int, k={i}):\n    return x == k", "sol_header": f"def sol(k={i}):",
            "sol_bodies": ["    return k"], "module": "m.py",
        }
        for i in range(20, 23)
    ]  # fmt: skip
    program = "def f(x: int) -> bool:\n    return x == 5\n\ndef g():\n    return 5\n\nassert f(g()) == True\n"
    aces = [{"program_str": program, "emb": [1] * 20, "unique_id": "a", "all_solution": [program]} for _ in range(2)]
    azr = [{"snippet": "def f(a):\n    return a + 1", "input": "4", "output": "5", "imports": []} for _ in range(2)]
    pairs = [{"id": i, "puzzle": line["puzzle"], "solution": line["solution"]} for i, line in enumerate(lines * 3)]
    codex = [{**pair, "prompt": "short", "solution": "5"} for pair in pairs[:3]]
    _write(folder / "jsonl.jsonl", lines)
    (folder / "p3.json").write_text(json.dumps(p3))
    _write(folder / "aces.jsonl", aces)
    (folder / "azr.json").write_text(json.dumps(azr))
    _write(folder / "pairs.jsonl", pairs)
    _write(folder / "codex.jsonl", codex)
    for name in ("jsonl.jsonl", "p3.json", "pairs.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes(), mtime=0))


def _cut_short(run: Path) -> None:
    """A run as a crash leaves it: its last record and the verdicts of its last chunk are missing."""
    records = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "records.jsonl").write_text("".join(records[:-1]))
    with contextlib.closing(sqlite3.connect(run / "archive.sqlite")) as connection:
        last = "(SELECT max(id) FROM chunks WHERE stage = 'solve')"
        for table in ("solutions", "candidates"):
            connection.execute(f"DELETE FROM {table} WHERE chunk = {last}")
        connection.execute(f"UPDATE chunks SET judged = 0 WHERE id = {last}")
        connection.commit()


def _benchmarks(folder: Path) -> None:
    import scripted

    from puzzles.verify import truth_pool

    scripted.write_set(folder / "scored.jsonl")
    with truth_pool() as pool:
        for name, right in (("a", 2), ("b", 4)):
            counts = dict.fromkeys(scripted.NAMES, right) | {scripted.NAMES[0]: 0}
            scripted.score(pool, scripted.Model(counts), "scored.jsonl", Path("bench") / name)


# ---- who reads what ----

Read = Callable[["Workshop", Path], str]
"""Read the damaged file at a path, in a folder of its own that is the current one; `fine` or `refused`, or Wrong."""


def judged(done: Told, path: Path) -> str:
    """Whether a command's end is one of those that may be."""
    if done.status in (0, 1):
        if "Traceback" in done.err:
            raise Wrong("a traceback beside an answer")
        return "fine"
    if done.status != 2:
        raise Wrong(f"exit {done.status}: {(done.err.strip().splitlines() or [''])[-1][:300]}", place_of(done.err))
    lines = done.err.strip().splitlines()
    said = [line for line in lines if line.startswith("selfplay: ")]
    if len(said) != 1 or len(lines) != 1:
        raise Wrong(f"not one line: {done.err[:300]}")
    return refused(said[0], path)


def refused(message: str, path: Path) -> str:
    """Whether a refusal says which file."""
    if path.name not in message and (path.parent == Path() or str(path.parent) not in message):
        raise Wrong(f"a refusal that does not name the file: {message[:300]}")
    if len(message) > MOST_CHARACTERS:
        raise Wrong(f"a refusal of {len(message):,} characters: {message[:100]}")
    return "refused"


def place_of(text: str) -> str:
    """Where of ours an exception came from, told by its traceback."""
    found = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', text)
    ours = [
        f"at {Path(file).parent.name}/{Path(file).name}, {name}"
        for file, _, name in found
        if re.search(r"/(puzzles|selfplay|sandbox)/\w+\.py$", file) and "site-packages" not in file
    ]
    return ours[-1] if ours else ""


def called(function: Callable[[], object], path: Path) -> str:
    """Whether a function ends as it may."""
    try:
        function()
    except InputError as error:
        return refused(str(error), path)
    except Wrong:
        raise
    except Exception as error:
        where = place_of(traceback.format_exc())
        raise Wrong(f"{type(error).__name__}: {str(error)[:200]}", where) from error
    return "fine"


def command(*arguments: str) -> Read:
    """A command that only reads, with FILE for the file and OUT for what it writes."""

    def read(shop: Workshop, path: Path) -> str:
        before = _content(path)
        names = {"FILE": str(path), "OUT": "out"}
        Path("out").write_text(BEFORE)
        outcome = judged(told(*(names.get(argument, argument) for argument in arguments)), path)
        if _content(path) != before:
            raise Wrong(f"{arguments[:2]} changed what it read")
        if (outcome == "refused" or "OUT" not in arguments) and Path("out").read_text("latin-1") != BEFORE:
            raise Wrong(f"{arguments} refused, and wrote over what was there before")
        _no_parts(Path())
        return outcome

    return read


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _no_parts(folder: Path) -> None:
    if parts := [str(path) for path in folder.rglob(".*") if path.name.endswith(".part")]:
        raise Wrong(f"half an output is left: {parts}")


def exported(file_format: str) -> Read:
    """An export over an older one: all of it, or the older one as it was."""

    def read(shop: Workshop, path: Path) -> str:
        before = path.read_bytes()
        if file_format == "datasets":
            (Path("out") / "data").mkdir(parents=True)
            (Path("out") / "README.md").write_text(BEFORE)
        else:
            Path("out").write_text(BEFORE)
        done = told("archive", "export", path, "out", "--format", file_format, "--force")
        outcome = judged(done, path)
        if path.read_bytes() != before:
            raise Wrong("export changed the archive")
        _no_parts(Path())
        kept = Path("out/README.md") if file_format == "datasets" else Path("out")
        if outcome == "refused":
            if not kept.is_file() or kept.read_bytes() != BEFORE.encode():
                raise Wrong("a refused export touched what was there before")
            return outcome
        count = int(re.search(r"out: ([\d,]+)", done.out)[1].replace(",", ""))
        table = "puzzles" if file_format == "jsonl" else "solutions"
        if file_format in ("jsonl", "parquet", "datasets") and count != (there := rows_of(path, table)):
            raise Wrong(f"{count} of {there} rows of {table} were exported")
        if file_format in ("jsonl", "chat", "preferences", "datasets"):
            written_to = Path("out/data/pairs.jsonl") if file_format == "datasets" else Path("out")
            if len([json.loads(line) for line in written_to.read_bytes().splitlines()]) != count:
                raise Wrong(f"an export of {count} has other lines")
        return outcome

    return read


def rows_of(path: Path, table: str) -> int:
    """Rows of a table, without its indexes."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(
            connection.execute(f"SELECT count(*) FROM {table} NOT INDEXED WHERE length(source) >= 0").fetchone()[0]
        )


def dump(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        tables = [
            name.decode()
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'search%'"
            )
        ]
        return repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in sorted(tables)])


def merged(damaged_is_source: bool) -> Read:
    """A merge that is refused leaves both as they were; one that is done has lost no puzzle and no pair."""

    def read(shop: Workshop, path: Path) -> str:
        good = Path(shutil.copy(shop.folder / "runs/more/archive.sqlite", "good.sqlite"))
        into, source = (good, path) if damaged_is_source else (path, good)
        before, source_bytes = dump(good), source.read_bytes()
        outcome = judged(told("archive", "merge", into, source), path)
        if source.read_bytes() != source_bytes:
            raise Wrong("merge changed its source")
        if outcome == "refused" and dump(good) != before:
            raise Wrong("a refused merge changed an archive")
        if outcome == "fine":
            for table in ("puzzles", "solutions"):
                if rows_of(into, table) < rows_of(source, table):
                    raise Wrong(f"a merge lost {table}")
        return outcome

    return read


def verified(shop: Workshop, path: Path) -> str:
    """Every line has its verdict, a bad one too; where a file breaks off, every line before."""
    more = ["--format", "codex"] if path.name.startswith("codex") else []
    done = told("verify", path, *more)
    outcome = judged(done, path)
    verdicts = [json.loads(line)["verdict"] for line in done.out.splitlines()]
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf") if path.suffix != ".gz" else b""
    if path.suffix != ".gz":
        lines = re.split(rb"\r\n|\r|\n", content)
        if outcome == "refused" and not re.search(r"line \d+", done.err):
            raise Wrong(f"no line is named: {done.err}")
        broken = re.search(r"after line (\d+)", done.err)
        until = int(broken[1]) if broken else len(lines)
        asked = sum(bool(line.strip(b" \t\x0b\x0c\x1c\x1d\x1e\x1f")) for line in lines[:until])
        first = next((number for number, line in enumerate(lines) if not _is_text(line)), len(lines))
        if until < first:
            raise Wrong(f"lines {until + 1} to {first} are good and have no verdict")
        if len(verdicts) != asked:
            raise Wrong(f"{len(verdicts)} verdicts of {asked} pairs")
    return outcome


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def imported(shop: Workshop, path: Path) -> str:
    from puzzles.archive.formats import read_puzzles

    with mock.patch("selfplay.iteration.guarding.guarded_sets", return_value={}):  # takes seconds
        done = told("archive", "import", "new.sqlite", path)
    outcome = judged(done, path)
    if outcome == "fine":
        counted = [
            int(number.replace(",", ""))
            for number in re.findall(r"^(?:new|duplicate|refused) +([\d,]+)", done.out, re.MULTILINE)
        ]
        if sum(counted[:3]) != (there := len(read_puzzles(path))):
            raise Wrong(f"{sum(counted[:3])} of {there} puzzles are accounted for")
    return outcome


def viewed(shop: Workshop, path: Path) -> str:
    from puzzles.archive.store import Archive
    from selfplay.inspecting import pages

    def opened() -> None:
        Archive(path).close()
        pages.close(pages.over(path))

    return called(opened, path)


def shown(action: str) -> Read:
    """`show` and `why` of the puzzles with the longest histories."""

    def read(shop: Workshop, path: Path) -> str:
        outcomes = [command("archive", action, "FILE", puzzle)(shop, path) for puzzle in shop.puzzles]
        return "refused" if "refused" in outcomes else "fine"

    return read


def settings_read(path: Path) -> None:
    from selfplay.settings import load, to_toml

    config = load(path)
    again = Path("again.toml")
    again.write_bytes(to_toml(config).encode())
    if load(again) != config:
        raise Wrong("settings that do not come back as they were")


def loaded(shop: Workshop, path: Path) -> str:
    from selfplay.config import ModelConfig
    from selfplay.sampling.model import LanguageModel
    from selfplay.sampling.prompts import propose_prompt
    from selfplay.sampling.sampler import SamplingSettings

    def load() -> None:
        model = LanguageModel(path.parent, ModelConfig(threads=1))
        model.sample([propose_prompt("plain")], 2, SamplingSettings(0.8, 1.0, 4, 2), [0])

    with mock.patch.object(sys.stdin, "readline", _asked, create=True), mock.patch("builtins.input", _asked):
        outcome = called(load, path)
    if Path("executed").exists():
        raise Wrong("code of a checkpoint was executed")
    return outcome


def gone_on(*arguments: str) -> Read:
    """A run that goes on, or does not; no file is half written then."""

    def read(shop: Workshop, path: Path) -> str:
        outcome = judged(told(*arguments), path)
        _no_parts(Path())
        return outcome

    return read


def rescored(*more: str) -> Read:
    """Scores computed again are written as a whole or not at all."""

    def read(shop: Workshop, path: Path) -> str:
        before = _files(path.parent)
        outcome = judged(told("bench", "--rescore", path.parent, *more), path)
        if outcome == "refused" and before != _files(path.parent):
            raise Wrong("a refused rescoring changed the results")
        _no_parts(Path())
        return outcome

    return read


def _files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


def _asked(*_: object) -> str:
    raise Wrong("a question on the terminal")


def of_function(function: Callable[[Path], object]) -> Read:
    return lambda shop, path: called(lambda: function(path), path)


def _function(module: str, name: str, *more: Any) -> Read:
    return of_function(lambda path: getattr(importlib.import_module(module), name)(path, *more))


ONLY_ARCHIVE: dict[str, Read] = {
    "stats": command("archive", "stats", "FILE"),
    "stats as JSON": command("archive", "stats", "FILE", "--json"),
    "list": command("archive", "list", "FILE", "--sort", "hardest"),
    "list refused": command("archive", "list", "FILE", "--refused", "--json"),
    "search": command("archive", "list", "FILE", "--search", "return x"),
    "of a skill": command("archive", "list", "FILE", "--skill", "a", "--state", "solved"),
    "show": shown("show"),
    "why": shown("why"),
    "diff": command("archive", "diff", "FILE", "good.sqlite"),
    "other diff": command("archive", "diff", "good.sqlite", "FILE"),
    "merge of it": merged(damaged_is_source=True),
    "merge into it": merged(damaged_is_source=False),
    "contamination": command("archive", "contamination", "FILE", "--against", "dev.jsonl"),
    "view": viewed,
    "as a puzzle set": command("archive", "contamination", "good.sqlite", "--against", "FILE"),
    **{f"export {name}": exported(name) for name in EXPORT_FORMATS},
}


@dataclass(frozen=True)
class Reader:
    """Somebody who reads a file, and how it is damaged before."""

    file: str
    damages: st.SearchStrategy[Damage]
    read: Read
    beside: tuple[str, ...] = ()
    """What else is in the reader's folder; `A > B`: under another name."""


def overridden(shop: Workshop, path: Path) -> str:
    """Settings given on the command line, one a line; as there, no NUL is in them."""
    from selfplay.settings import load, to_toml

    overrides = [os.fsdecode(line) for line in path.read_bytes().replace(b"\0", b"").split(b"\n") if line]
    try:
        config = load("run.toml", overrides)
    except InputError as error:
        message = str(error)
        if len(message) > MOST_CHARACTERS or not re.search("expected|known|did you mean|needs|not a table", message):
            raise Wrong(f"a refusal that says too little or too much: {message[:300]}") from None
        return "refused"
    Path("again.toml").write_bytes(to_toml(config).encode())
    if load("again.toml") != config:
        raise Wrong("settings that do not come back as they were")
    return "fine"


def good_overrides() -> st.SearchStrategy[Damage]:
    """Settings with values of their type, right or out of range."""
    from selfplay.config import CHOICES, RunConfig, flatten

    kinds = {
        bool: st.booleans(), int: st.integers(-1, 2**70), float: st.floats(), str: st.text(max_size=9),
        tuple: st.lists(st.integers(0, 9) | st.sampled_from(["solve", "join"]), max_size=3),
    }  # fmt: skip

    def text(key: str, value: Any) -> st.SearchStrategy[str]:
        values = st.sampled_from(CHOICES[key]) if key in CHOICES else kinds[type(value)]
        return values.map(lambda drawn: f"{key}={json.dumps(drawn, ensure_ascii=False)}")

    flat = flatten(RunConfig())
    return one("line", SMALL, st.one_of([text(key, value) for key, value in flat.items()]))


OVERRIDES = (
    "x", "=", "a=", "=1", "seed=1", "seed.x=1", "a.b.c=1", ".=1", "model=1", "seed = 7", "solve.temperature=nan",
    "data.train=\udcff", "evaluate.k=[]", "model.path='x", "seed=1e5", "iterations=1\r", "x" * 3000,
    "seed=" + "9" * 5000,
    "data.train=" + "[" * 5000, "data.train=a\x7fb", "data.dev=\u2028", "sandbox.memory_mb=99999999999999999999",
)  # fmt: skip
SETS = weighted((4, good_overrides()), (3, one("line", SMALL, st.sampled_from(OVERRIDES))), (1, BYTES))

SHARED = ("train.jsonl", "dev.jsonl", "heldout.jsonl", "run.toml", "more.toml", "model")
CHECKPOINT = {
    "config.json": JSON_FILE, "tokenizer.json": JSON_FILE, "tokenizer_config.json": JSON_FILE,
    "generation_config.json": JSON_FILE, "selfplay.json": JSON_FILE, "model.safetensors": WEIGHTS,
}  # fmt: skip
RUN_FILES = {
    "config.toml": TOML, "records.jsonl": JSON_LINES, "scores/iteration-000-dev.jsonl": JSON_LINES,
    "scores/iteration-001-heldout.jsonl": JSON_LINES, "checkpoints/iteration-001/selfplay.json": JSON_FILE,
    "archive.sqlite": ARCHIVE,
}  # fmt: skip
ON_RUNS: dict[str, tuple[str, Read]] = {
    "report": ("more", command("report", "runs/more", "--out", "OUT")),
    "runs": ("more", command("runs")),
    "go on": ("cut", gone_on("run", "run.toml", "--name", "cut")),
    "go on by itself": ("cut", gone_on("run", "runs/cut/config.toml")),
    "extend": ("run", gone_on("run", "more.toml", "--name", "run")),
    "branch": ("more", command("run", "--from", "more@1", "--name", "branch")),
    "rescore": ("more", command("bench", "--rescore", "runs/more")),
}
"""Which of the good runs, and what is done with it."""


def runs_readers() -> Iterator[tuple[str, Reader]]:
    for action, (run, read) in ON_RUNS.items():
        for file, damages in RUN_FILES.items():
            yield f"{action}: {file}", Reader(f"runs/{run}/{file}", damages, read, (*SHARED, f"runs/{run}"))


def benchmarks_readers() -> Iterator[tuple[str, Reader]]:
    reads = {
        "compare": command("compare", "bench/a", "bench/b"),
        "compare with it": command("compare", "bench/b", "bench/a", "--anyway", "--json"),
        "rescore": rescored(),
        "judge again": rescored("--judge-again"),
        "with errata": rescored("--errata", "errata.toml"),
    }
    for action, read in reads.items():
        for file, damages in {"results.json": JSON_FILE, "samples.jsonl.gz": PACKED}.items():
            yield (
                f"{action}: {file}",
                Reader(f"bench/a/{file}", damages, read, ("bench", "scored.jsonl", "errata.toml")),
            )


def puzzles_readers() -> Iterator[tuple[str, Reader]]:
    files = {
        "jsonl.jsonl": JSON_LINES, "jsonl.jsonl.gz": PACKED, "p3.json": JSON_FILE, "p3.json.gz": BYTES,
        "aces.jsonl": JSON_LINES, "azr.json": JSON_FILE,
    }  # fmt: skip
    for file, damages in files.items():
        name = file.partition(".")[0]
        assert name in PUZZLE_FORMATS
        for form in dict.fromkeys(("auto", name, "p3")):
            yield (
                f"read as {form}: {file}",
                Reader(file, damages, _function("puzzles.archive.formats", "read_puzzles", form)),
            )
    for file in ("jsonl.jsonl", "p3.json", "azr.json"):
        yield f"import: {file}", Reader(file, files[file], imported)
    for file, damages in {"pairs.jsonl": JSON_LINES, "codex.jsonl": JSON_LINES, "pairs.jsonl.gz": PACKED}.items():
        yield f"verify: {file}", Reader(file, damages, verified)


def settings_readers() -> Iterator[tuple[str, Reader]]:
    for file in ("run.toml", "complete.toml"):
        yield f"settings: {file}", Reader(file, TOML, of_function(settings_read))
    yield "--set", Reader("set.txt", SETS, overridden, ("run.toml",))
    yield (
        "ablation",
        Reader("ablation.toml", TOML, _function("selfplay.experiments.ablate", "load_ablation"), ("run.toml",)),
    )
    yield "pretrain", Reader("pretrain.toml", TOML, _function("selfplay.training.pretrain", "load_pretrain_config"))
    yield "errata", Reader("errata.toml", TOML, _function("puzzles.archive.formats", "read_errata"))


def checkpoint_readers() -> Iterator[tuple[str, Reader]]:
    for file, damages in CHECKPOINT.items():
        yield file, Reader(f"model/{file}", damages, loaded, ("model",))
    yield "of several", Reader("sharded/model-00001-of-00003.safetensors", WEIGHTS, loaded, ("sharded",))
    yield "which of several", Reader("sharded/model.safetensors.index.json", JSON_FILE, loaded, ("sharded",))
    yield "with code", Reader("coded/config.json", JSON_FILE, loaded, ("coded",))


def archive_readers() -> Iterator[tuple[str, Reader]]:
    beside = ("dev.jsonl", "runs/more/archive.sqlite > good.sqlite")
    for action, read in ONLY_ARCHIVE.items():
        yield action, Reader("runs/run/archive.sqlite > damaged.sqlite", ARCHIVE, read, beside)


READERS: dict[str, dict[str, Reader]] = {
    "configs": dict(settings_readers()),
    "puzzles": dict(puzzles_readers()),
    "archives": dict(archive_readers()),
    "checkpoints": dict(checkpoint_readers()),
    "runs": dict(runs_readers()),
    "benchmarks": dict(benchmarks_readers()),
}
EXAMPLES = {"configs": 300, "puzzles": 200, "archives": 80, "checkpoints": 80, "runs": 60, "benchmarks": 60}
"""Inputs in a round: some seconds of each kind."""


@functools.cache
def cases(kind: str) -> st.SearchStrategy[Case]:
    """A reader, and what is done to its file before."""

    damages = {
        id(reader.damages): st.lists(reader.damages, min_size=1, max_size=2).map(tuple)
        for reader in READERS[kind].values()
    }
    by_action = {
        action: st.builds(Case, st.just(kind), st.just(action), st.just(reader.file), damages[id(reader.damages)])
        for action, reader in READERS[kind].items()
    }
    return st.sampled_from([*by_action]).flatmap(by_action.__getitem__)


class Workshop:
    """The good files, and a place to try damaged ones."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        self._stack.enter_context(contextlib.chdir(self.folder))
        hypothesis.configuration.set_hypothesis_home_dir(self.folder / "hypothesis")
        self.warm = Warm()
        self._stack.callback(self.warm.close)
        good_files(self.folder)
        (self.folder / "set.txt").write_text("seed=3\n")
        with contextlib.closing(sqlite3.connect("runs/run/archive.sqlite")) as connection:
            longest = "SELECT puzzle FROM candidates GROUP BY puzzle ORDER BY count(*) DESC, puzzle LIMIT 1"
            own = "SELECT id FROM puzzles WHERE origin = '{}' ORDER BY id LIMIT 1"
            asked = (longest, own.format("model"), own.format("variant"))
            self.puzzles = [connection.execute(sql).fetchone()[0] for sql in asked]

    def close(self) -> None:
        self._stack.close()

    def attempt(self, case: Case) -> str:
        """`fine` or `refused`.

        Raises:
            Wrong: Neither.
        """
        reader = READERS[case.kind][case.action]
        with tempfile.TemporaryDirectory(dir=self.folder) as name, contextlib.chdir(name), _in_time():
            for each in (*reader.beside, case.file):
                self._copy(each)
            original, _, new = case.file.partition(" > ")
            path = Path(new or original)
            content = damaged(path.read_bytes(), case.damages)
            path.unlink() if content is None else path.write_bytes(content)
            outcome = reader.read(self, path)
            if outcome == "refused" and (left := [*Path().rglob("*.schema-*")]):
                raise Wrong(f"what is refused left {left[0].name}")
            return outcome

    def _copy(self, name: str) -> None:
        original, _, new = name.partition(" > ")
        here, there = Path(new or original), self.folder / original
        here.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(there, here, dirs_exist_ok=True) if there.is_dir() else shutil.copyfile(there, here)


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Wrong(f"no end after {SECONDS_PER_INPUT} s", place_of("".join(traceback.format_stack())))

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS_PER_INPUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Fuzzer:
    """Rounds of cases, and what came of them."""

    def __init__(self, seed: int, folder: Path, say: Callable[[str], None] = print) -> None:
        self.seed, self.reproductions, self.say = seed, folder.resolve(), say
        self.summary = Summary({kind: Counter() for kind in READERS})
        self.shop = Workshop()
        self._known: set[tuple[str, str]] = set()

    def close(self) -> None:
        self.shop.close()

    def round(self, kind: str, until: float = float("inf")) -> None:
        """Some cases of a kind; of what is found wrong for the first time the smallest case is kept."""
        smallest: list[tuple[Case, Wrong]] = []
        counts = self.summary.outcomes[kind]

        def attempt(case: Case) -> None:
            if time.monotonic() > until and not smallest:
                return
            try:
                outcome = self.shop.attempt(case)
            except Wrong as wrong:
                counts["wrong"] += not smallest
                other = smallest and smallest[0][1].signature != wrong.signature
                if other or (kind, wrong.signature) in self._known:
                    return
                smallest.append((case, wrong))
                raise
            if not smallest:
                counts[outcome] += 1

        with contextlib.suppress(Wrong):
            drawn(kind, self.seed, self.summary.rounds, attempt)
        self.summary.rounds += 1
        if smallest:
            self._keep(kind, *smallest[-1])

    def _keep(self, kind: str, case: Case, wrong: Wrong) -> None:
        self._known.add((kind, wrong.signature))
        number = len(self.summary.findings)
        reproduction = self.reproductions / f"fuzz-inputs-{self.seed}-{number}.json"
        original = self.shop.folder / case.file.partition(" > ")[0]
        content = damaged(original.read_bytes(), case.damages)
        found = {
            "what": str(wrong),
            "seed": self.seed,
            **vars(case),
            "content": base64.b64encode(content or b"").decode(),
        }
        reproduction.write_text(json.dumps(found, indent=1))
        self.summary.findings.append(Finding(str(wrong), case, reproduction))
        self.say(f"WRONG: {kind}, {case.action}: {wrong}\nreproduction: {reproduction}")


def drawn(kind: str, seed: int, number: int, attempt: Callable[[Case], None]) -> None:
    """Let Hypothesis draw the cases of a round, the same each time; what `attempt` raises is tried smaller."""

    @hypothesis.seed(int.from_bytes(f"{seed} {kind} {number}".encode(), "big"))
    @hypothesis.settings(
        max_examples=EXAMPLES[kind], deadline=None, database=None, report_multiple_bugs=False, print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink), suppress_health_check=[*hypothesis.HealthCheck],
        verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    @hypothesis.given(cases(kind))
    def some(case: Case) -> None:
        attempt(case)

    some()


def fuzz_inputs(seconds: float, seed: int, folder: Path, say: Callable[[str], None] = print) -> Summary:
    """Rounds of all kinds until the time is over; a line per minute, and a table at the end.

    Args:
        seconds: How long; the good files are made before.
        seed: Of every round.
        folder: Where the smallest reproduction of each finding is written.
        say: Is told the lines.
    """
    fuzzer = Fuzzer(seed, folder, say)
    started = said = time.monotonic()
    kinds, summary = [*READERS], fuzzer.summary
    try:
        # On a busy machine, too, each kind has its turn.
        while ((now := time.monotonic()) - started < seconds or summary.rounds < len(kinds)) and len(
            summary.findings
        ) < MOST_FINDINGS:
            fuzzer.round(kinds[summary.rounds % len(kinds)], max(started + seconds, now + 1))
            if now - said >= 60:
                said = now
                found = f"{len(summary.findings)} findings"
                say(f"{(now - started) / 60:4.0f} min  {summary.rounds:,} rounds  {summary.tried:,} inputs  {found}")
    finally:
        fuzzer.close()
    say(summary.table())
    say(f"{summary.tried:,} inputs in {summary.rounds:,} rounds, {len(summary.findings)} findings; seed {seed}")
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=Path("."), help="where reproductions are written")
    parser.add_argument("--kind", choices=[*READERS], action="append", help="only these")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    for kind in {*READERS} - {*(arguments.kind or READERS)}:
        del READERS[kind]
    return 1 if fuzz_inputs(60 * arguments.minutes, seed, arguments.folder).findings else 0


if __name__ == "__main__":
    sys.exit(main())
