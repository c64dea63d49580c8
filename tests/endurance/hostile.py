"""What a stranger may hand over: hostile archives, run folders, models, texts, settings, results and servers.

Each is made from a good one. What a program hidden in it would do is touch a file in the folder of a victim, or connect
to a port, and `strangers.py` looks for both.
"""

# ruff: noqa: E501  # tables of programs

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import pickle
import random
import shutil
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "canary-7f3a91"
"""Value of the variables that no stranger may get to see."""
EVIL = "\x1b]0;owned\x07\x9b31m\u202e|`<script>x</script>\nselfplay: forged"


@dataclass(frozen=True)
class Place:
    """Where a hostile thing is made."""

    thing: Path
    """The path that the commands get; its parent is an empty folder."""
    good: Path
    """The folder of good things: `runs/good`, `model`, `five.jsonl`, `result`."""
    victim: Path
    """A folder that belongs to somebody else."""
    port: int
    """Whoever connects to it was made to."""


@dataclass(frozen=True)
class Stranger:
    """A hostile thing."""

    kind: str
    name: str
    make: Callable[[Place], None]
    command: str = ""
    """The only command that is tried; empty for all of its kind."""


STRANGERS: list[Stranger] = []


def stranger(kind: str, name: str, command: str = "") -> Callable[[Callable[[Place], None]], Callable[[Place], None]]:
    """Declare a function that makes a hostile thing."""

    def declare(make: Callable[[Place], None]) -> Callable[[Place], None]:
        STRANGERS.append(Stranger(kind, name, make, command))
        return make

    return declare


def shell(place: Place, name: str) -> str:
    """A command that a victim would see."""
    return f"touch {place.victim}/ran-{name}"


# ---- archives ----


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A database whose schema may be written directly; nothing is left beside it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA writable_schema = ON")
        yield connection


def archive(name: str, *statements: str) -> None:
    """Declare an archive to which some statements were done."""

    def make(place: Place) -> None:
        shutil.copy(place.good / "runs/good/archive.sqlite", place.thing)
        with opened(place.thing) as connection:
            for statement in statements:
                connection.execute(statement)

    STRANGERS.append(Stranger("archive", name, make))


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
PUZZLE = "def f(x: int): return x == 5"


def redefined(kind: str, name: str, old: str, new: str) -> str:
    """A statement that changes another one in the schema, as no SQL of its own could."""
    return f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE type = '{kind}' AND name = '{name}'"


archive("trigger", "CREATE TRIGGER t AFTER INSERT ON puzzles BEGIN DELETE FROM solutions; END")
archive(
    "trigger that forges an accept",
    "CREATE TRIGGER t AFTER INSERT ON candidates BEGIN UPDATE candidates SET verdict = 'accepted'; END",
)
archive(
    "a view in place of a table",
    "ALTER TABLE candidates RENAME TO c2",
    f"CREATE VIEW candidates AS {ENDLESS} SELECT 1 AS chunk, i AS position, 'x' AS puzzle, NULL AS candidate,"
    " 'accepted' AS verdict, '' AS detail, NULL AS answer, 0.0 AS cpu_seconds FROM n",
)
archive(
    "an endless view",
    "DROP VIEW iterations",
    f"CREATE VIEW iterations AS {ENDLESS} SELECT i AS iteration, 1 AS proposed, 1 AS admitted, 1 AS varied,"
    " 1 AS candidates, 1 AS accepted, 1 AS new_pairs, 1 AS trained_pairs FROM n",
)
archive(
    "a view with large values",
    "ALTER TABLE marks RENAME TO m2",
    "CREATE VIEW marks AS SELECT name, CAST(zeroblob(900000000) AS TEXT) AS value FROM m2",
)
archive(
    "computed column",
    "ALTER TABLE puzzles ADD COLUMN more TEXT GENERATED ALWAYS AS (printf('%.*c', 300000000, 'x')) VIRTUAL",
)
archive("index on an expression", "CREATE INDEX slow ON puzzles (hex(zeroblob(length(source) * 10000)))")
archive("check that costs", redefined("table", "marks", "value ", "value CHECK (length(zeroblob(999999999)) > 0) "))
archive("default that costs", redefined("table", "marks", "value TEXT", "value TEXT DEFAULT (zeroblob(999999999))"))
archive("comment in a schema", redefined("table", "marks", "(", "( /* name TEXT, */ -- x\n "))
archive("open comment in a schema", redefined("table", "marks", "(", "( /* "))
archive("quotes in a schema", redefined("table", "marks", "marks", '"marks"'), redefined("view", "pairs", "n", '"n"'))
archive("virtual table", "DROP TABLE marks", "CREATE VIRTUAL TABLE marks USING fts5(name, value)")
archive("virtual table of another module", "CREATE VIRTUAL TABLE t USING rtree(i, a, b)")
archive("the same table twice", "CREATE TABLE search_puzzles2 (x)", "CREATE VIEW v AS SELECT * FROM v")
archive("foreign statistics", "ANALYZE", "UPDATE sqlite_stat1 SET stat = '1 1 1 1 1 1 99999999999999 x'")
archive("pages that are no pages", "UPDATE sqlite_master SET rootpage = 999999 WHERE name = 'puzzles'")
archive("two tables on one page", "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE"
        " name = 'marks') WHERE name = 'trained'")  # fmt: skip
archive("damaged search index", "UPDATE search_puzzles_data SET block = randomblob(90)")
archive("foreign search index", "UPDATE search_puzzles_config SET v = 99", "DELETE FROM search_puzzles_docsize")
archive("large source", f"UPDATE puzzles SET source = '{PUZZLE}' || replace(hex(zeroblob(30000000)), '00', ' or 1')")
archive("large name", "UPDATE puzzles SET name = replace(hex(zeroblob(20000000)), '00', 'n ')")
archive("large mark", "INSERT OR REPLACE INTO marks VALUES ('set_aside', '[' || replace(hex(zeroblob(20000000)), '00',"
        " '1,') || '1]')")  # fmt: skip
archive("mark that is no JSON", "INSERT OR REPLACE INTO marks VALUES ('set_aside', 'no json')")
archive("deep mark", "INSERT OR REPLACE INTO marks VALUES ('set_aside', replace(hex(zeroblob(90000)), '00', '['))")
archive("odd worlds", "INSERT OR REPLACE INTO marks VALUES ('worlds', '-1e999'), ('guard', '" + "9" * 5000 + "')")
archive("parents in a ring", "UPDATE puzzles SET parents = (SELECT json_group_array(id) FROM puzzles)")
archive("a million parents", "UPDATE puzzles SET parents = '[' || replace(hex(zeroblob(2000000)), '00', '\"a\",')"
        " || '\"a\"]' WHERE number = 1")  # fmt: skip
archive("wrong types", "UPDATE puzzles SET source = x'ff00ff', iteration = 'abc', added_at = 'later' WHERE number = 1")
archive("text that is no UTF-8", "UPDATE puzzles SET name = CAST(x'ff61fe00' AS TEXT), description = char(0, 55296)")
archive("numbers beyond", "UPDATE puzzles SET iteration = 9223372036854775807, difficulty = 9e999, added_at = -9e999")
archive("no rows for what is named", "DELETE FROM puzzles", "DELETE FROM protections")
archive("marked as from the future", "PRAGMA user_version = 2000000000")
archive("marked as another's", "PRAGMA application_id = 7", "PRAGMA user_version = 0")
archive("escapes", *(
    f"UPDATE {table} SET {column} = replace('{EVIL}', char(10), char(10))"
    for table, column in (("puzzles", "name"), ("puzzles", "description"), ("puzzles", "original"),
                          ("solutions", "origin"), ("candidates", "detail"), ("proposals", "detail"),
                          ("chunks", "checkpoint"))
))  # fmt: skip
archive("answer of many digits", "UPDATE solutions SET answer = replace(hex(zeroblob(4000000)), '00', '9')")
archive("deep answer", "UPDATE solutions SET answer = replace(hex(zeroblob(90000)), '00', '[')")
archive("wrong pair", "UPDATE solutions SET source = 'def g(): return -1', program = '', answer = '-1', entry = ''")
archive("puzzle that reads a file", "UPDATE puzzles SET source = 'def f(x: int): return x == len(open(\"/etc/passwd\")"
        ".read())', program = ''")  # fmt: skip
archive("deep settings", "UPDATE chunks SET settings = replace(hex(zeroblob(90000)), '00', '{\"a\":')")


def _made(place: Place) -> None:
    shutil.copy(place.good / "runs/good/archive.sqlite", place.thing)
    with opened(place.thing):
        pass


@stranger("archive", "packed chunk of gigabytes")
def _(place: Place) -> None:
    _made(place)
    machine = zlib.compressobj(9)
    parts = [machine.compress(b'["'), *(machine.compress(b"a" * 1_000_000) for _ in range(2000))]
    bomb = b"".join([*parts, machine.compress(b'"]'), machine.flush()])
    with opened(place.thing) as connection:
        connection.execute("UPDATE chunks SET completions = ?, plan = ?", (bomb, bomb))


@stranger("archive", "damaged pages")
def _(place: Place) -> None:
    _made(place)
    content, drawn = bytearray(place.thing.read_bytes()), random.Random(5)
    for start in range(4096 * 3, len(content) - 4096, 4096 * 2):
        content[start : start + 40] = drawn.randbytes(40)
    place.thing.write_bytes(content)


@stranger("archive", "terabyte of nothing")
def _(place: Place) -> None:
    _made(place)
    os.truncate(place.thing, 1 << 40)


@stranger("archive", "hot journal")
def _(place: Place) -> None:
    _made(place)
    pages = place.thing.stat().st_size // 4096
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 1, 7, pages, 512, 4096)
    page = struct.pack(">I", 1) + b"x" * 4096 + struct.pack(">I", 7)
    place.thing.with_name("archive.sqlite-journal").write_bytes(header.ljust(512, b"\0") + page)


@stranger("archive", "hot journal that names another file")
def _(place: Place) -> None:
    _made(place)
    name = str(place.victim / "precious.txt").encode()
    end = struct.pack(">I", 0) + name + struct.pack(">II", len(name), sum(name))
    journal = place.thing.with_name("archive.sqlite-journal")
    magic = bytes.fromhex("d9d505f920a163d7")
    journal.write_bytes(magic.ljust(512, b"\0") + end + magic)


@stranger("archive", "another's journal beside it")
def _(place: Place) -> None:
    _made(place)
    place.thing.with_name("archive.sqlite-wal").write_bytes(
        struct.pack(">IIIII", 0x377F0682, 3007000, 4096, 0, 1) * 900
    )


@stranger("archive", "a pipe beside it")
def _(place: Place) -> None:
    _made(place)
    os.mkfifo(place.thing.with_name("archive.sqlite-wal"))


@stranger("archive", "a second name of another's file")
def _(place: Place) -> None:
    os.link(place.victim / "other.sqlite", place.thing)


@stranger("archive", "a second name of another's archive")
def _(place: Place) -> None:
    os.link(place.victim / "archive.sqlite", place.thing)


@stranger("archive", "pipe")
def _(place: Place) -> None:
    os.mkfifo(place.thing)


@stranger("archive", "folder that holds itself")
def _(place: Place) -> None:
    place.thing.mkdir()
    (place.thing / "archive.sqlite").symlink_to("..")


@stranger("archive", "UTF-16")
def _(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.good / "runs/good/archive.sqlite")) as connection:
        script = [line for line in connection.iterdump() if "search_" not in line and "writable_schema" not in line]
    with contextlib.closing(sqlite3.connect(place.thing)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.executescript("\n".join(script))
        connection.execute("PRAGMA application_id = 1397508947")


def beside(end: str) -> None:
    def make(place: Place) -> None:
        _made(place)
        place.thing.with_name(f"{place.thing.name}{end}").symlink_to(place.victim / "precious.txt")

    STRANGERS.append(Stranger("archive", f"a link as {end}", make))


for _end in ("-wal", "-shm", "-journal"):
    beside(_end)


@stranger("archive", "older, with links where its copy goes")
def _(place: Place) -> None:
    from archives import older

    older(place.thing, 2)
    for name in (".archive.schema-2.sqlite.part", "archive.schema-2.sqlite", "archive.schema-2.sqlite-journal"):
        place.thing.with_name(name).symlink_to(place.victim / "other.sqlite")


@stranger("archive", "older, with a trigger")
def _(place: Place) -> None:
    from archives import older

    older(place.thing, 2)
    with opened(place.thing) as connection:
        connection.execute("CREATE TRIGGER t AFTER UPDATE ON puzzles BEGIN DELETE FROM solutions; END")


# ---- run folders ----


def run_folder(name: str, change: Callable[[Place], None]) -> None:
    """Declare a run's folder, made by somebody else, that was changed."""

    def make(place: Place) -> None:
        shutil.copytree(place.good / "runs/good", place.thing)
        change(place)

    STRANGERS.append(Stranger("run folder", name, make))


def replaced(name: str, by: Callable[[Place, Path], object]) -> Callable[[Place], None]:
    """A change of one file."""

    def change(place: Place) -> None:
        file = place.thing / name
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        by(place, file)

    return change


def link(to: str) -> Callable[[Place, Path], object]:
    return lambda place, file: file.symlink_to(place.victim / to)


def second_name(place: Place, file: Path) -> None:
    os.link(place.victim / "precious.txt", file)


def pipe(place: Place, file: Path) -> None:
    os.mkfifo(file)


def text(content: str, times: int = 1, end: str = "") -> Callable[[Place, Path], object]:
    """A file of a text, repeated."""
    return lambda place, file: file.write_text(content * times + end)


def setting(section: str, value: str) -> Callable[[Place], None]:
    """A change of the settings: a line of TOML behind a section's beginning."""

    def change(place: Place) -> None:
        config = place.thing / "config.toml"
        key = value.partition(" =")[0]
        lines, inside = [], False
        for line in config.read_text().splitlines():
            inside = line == f"[{section}]" if line.startswith("[") else inside
            if not (inside and line.startswith(f"{key} =")):
                lines.append(line)
        if f"[{section}]" not in lines:
            lines.append(f"[{section}]")
        lines.insert(lines.index(f"[{section}]") + 1, value.format(touch=shell(place, "setting"), place=place))
        config.write_text("\n".join(lines) + "\n")

    return change


def several(*changes: Callable[[Place], None]) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        for each in changes:
            each(place)

    return change


SERVER = setting("endpoint", 'urls = ["http://127.0.0.1:{place.port}/v1"]')
run_folder("starts a process", setting("endpoint", "serve = \"sh -c '{touch}' {{checkpoint}} {{port}}\""))
run_folder("sends a secret", several(SERVER, setting("endpoint", 'key_variable = "AWS_SECRET_ACCESS_KEY"')))
run_folder("sends a key", several(SERVER, setting("endpoint", 'key_variable = "OTHER_API_KEY"')))
run_folder("imports a module", setting("sandbox", 'modules = ["os", "subprocess"]'))
run_folder("weakens the sandbox", setting("sandbox", 'minimum_tier = "D"'))
run_folder("limits without end", setting("sandbox", "cpu_seconds = 1e9"))
run_folder("reads a file", setting("data", 'train = "/etc/passwd"'))
run_folder("reads a device", setting("data", 'dev = "/dev/zero"'))
run_folder("a model elsewhere", setting("model", 'path = "http://127.0.0.1:{place.port}/model"'))
run_folder("iterations without end", replaced("config.toml", text("iterations = " + "9" * 400)))
run_folder("escapes in settings", replaced("config.toml", text('"\\u001b[31m\\u202e" = 1\n')))
run_folder("a million settings", replaced("config.toml", text("".join(f"k{n} = 1\n" for n in range(90_000)))))
run_folder("deep settings", replaced("config.toml", text("a = " + "[" * 100_000)))
run_folder("dotted settings", replaced("config.toml", text("a" + ".a" * 200_000 + " = 1")))
run_folder("signatures of another run", several(SERVER, replaced("signatures.txt", text("0" * 64 + "\n"))))
run_folder("signatures without end", several(SERVER, replaced("signatures.txt", pipe)))
for _name in ("config.toml", "archive.sqlite", "records.jsonl", "sessions.jsonl", "status.json", "log.txt", "lock"):
    run_folder(f"a link as {_name}", replaced(_name, link("precious.txt")))
    run_folder(f"a pipe as {_name}", replaced(_name, pipe))
for _name in ("log.txt", "lock", "report.html", "records.jsonl", "sessions.jsonl"):
    run_folder(f"a second name as {_name}", replaced(_name, second_name))
run_folder("a link as checkpoints", replaced("checkpoints", link(".")))
run_folder("a link as scores", replaced("scores", link(".")))
run_folder("a link as report.html", replaced("report.html", link("precious.txt")))
run_folder(
    "status without end", replaced("status.json", lambda place, file: (file.touch(), os.truncate(file, 1 << 38)))
)
run_folder("deep status", replaced("status.json", text("[", 200_000)))
run_folder("records of 100 MB", replaced("records.jsonl", text("[1],", 30_000_000)))
run_folder(
    "records of zeros", replaced("records.jsonl", lambda place, file: (file.touch(), os.truncate(file, 1 << 38)))
)
run_folder("sessions that are no objects", replaced("sessions.jsonl", text('7\n"began"\n[["began"]]\n{"began": {}}\n')))
run_folder("a checkpoint of an odd number", several(
    lambda place: (place.thing / "checkpoints" / ("iteration-" + "9" * 200)).mkdir(),
    lambda place: (place.thing / "checkpoints" / "iteration-²").mkdir(),
))  # fmt: skip


def trigger_in_run(place: Place) -> None:
    with opened(place.thing / "archive.sqlite") as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON candidates BEGIN DELETE FROM solutions; END")


def evil_checkpoint(place: Place) -> None:
    for folder in (place.thing / "checkpoints").iterdir():
        write_pickle(place, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()


run_folder("trigger in its archive", trigger_in_run)
run_folder("pickle as a checkpoint", evil_checkpoint)


# ---- models ----


class Touch:
    """What a pickle can do."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def write_pickle(place: Place, file: Path) -> None:
    file.write_bytes(pickle.dumps({"weight": Touch(shell(place, "pickle"))}))


def model(name: str, change: Callable[[Place, Path], object], command: str = "") -> None:
    """Declare a changed copy of a good model."""

    def make(place: Place) -> None:
        shutil.copytree(place.good / "model", place.thing)
        change(place, place.thing)

    STRANGERS.append(Stranger("model", name, make, command))


def in_json(file: str, **changes: Any) -> Callable[[Place, Path], object]:
    def change(place: Place, folder: Path) -> None:
        content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps(content | changes))

    return change


def code_beside(file: str, **changes: Any) -> Callable[[Place, Path], object]:
    def change(place: Place, folder: Path) -> None:
        in_json(file, **changes)(place, folder)
        for name in ("evil.py", "custom_generate/generate.py", "sitecustomize.py", "modeling_llama.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"import os\nos.system({shell(place, 'model')!r})\n")

    return change


def other_file(name: str, by: Callable[[Place, Path], object]) -> Callable[[Place, Path], object]:
    def change(place: Place, folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        by(place, folder / name)

    return change


def in_tokenizer(**changes: Any) -> Callable[[Place, Path], object]:
    return in_json("tokenizer.json", **changes)


def pickles(place: Place, folder: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "adapter_model.bin", "tokenizer.pkl", "optimizer.pt"):
        write_pickle(place, folder / name)


def more_tokens(place: Place, folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    form = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] += [{"id": 9000 + n, "content": f"<x{n}>", **form} for n in range(200_000)]
    file.write_text(json.dumps(content))


def hungry_token(place: Place, folder: Path) -> None:
    """A special token whose text stands in every puzzle."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    form = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    content["added_tokens"] += [{"id": 3, "content": "return", **form}, {"id": 4, "content": "def f(", **form}]
    file.write_text(json.dumps(content))


def weights(header: bytes, size: int = 0, length: int | None = None, more: int = 0) -> Callable[[Place, Path], object]:
    def change(place: Place, folder: Path) -> None:
        file = folder / "model.safetensors"
        whole = header + b",".join(b'"%d":"x"' % number for number in range(more)) + b"}}" * bool(more)
        file.write_bytes(struct.pack("<Q", len(whole) if length is None else length) + whole)
        if size:
            os.truncate(file, size)

    return change


model("only a pickle", lambda place, folder: (pickles(place, folder), (folder / "model.safetensors").unlink()))
model("pickles beside", pickles)
model("code for an unknown type", code_beside("config.json", model_type="evil", auto_map={
    "AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}))  # fmt: skip
model("code for a known type", code_beside("config.json", auto_map={"AutoModelForCausalLM": "evil.M"}))
model("code as a tokenizer", code_beside("tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map={
    "AutoTokenizer": ["evil.T", "evil.T"]}))  # fmt: skip
model("code that generates", code_beside("generation_config.json", custom_generate="."))
model("adapter", in_json("adapter_config.json", peft_type="LORA", base_model_name_or_path="evil/base"))
model("vocabulary without end", in_json("config.json", vocab_size=2_000_000_000))
model("width without end", in_json("config.json", hidden_size=600_000))
model("layers without end", in_json("config.json", num_hidden_layers=50_000))
model("positions without end", in_json("config.json", max_position_embeddings=2**40))
model("quantized elsewhere", in_json("config.json", quantization_config={"quant_method": "bitsandbytes"}))
model("kernel of a hub", in_json("config.json", attn_implementation="evil/kernel", _attn_implementation="evil/kernel"))
model("header of 60 MB", weights(b'{"__metadata__":{', more=4_000_000))
model("header length", weights(b"{}", length=2**62))
model(
    "hollow weights", weights(b'{"x":{"dtype":"F32","shape":[10000000000],"data_offsets":[0,40000000000]}}', 4 * 10**10)
)
model("index to another folder", lambda place, folder: (
    (folder / "model.safetensors").rename(place.thing.parent / "outside.safetensors"),
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../outside.safetensors"}}')))  # fmt: skip
model("normalizer that grows", in_tokenizer(normalizer={"type": "Sequence", "normalizers": [
    {"type": "Replace", "pattern": {"String": "f" if not n else "a"}, "content": "a" * 100} for n in range(6)]}))  # fmt: skip
model("pattern that goes back", in_tokenizer(pre_tokenizer={
    "type": "Split", "pattern": {"Regex": "(([a-z: ()]*)*)*!"}, "behavior": "Isolated", "invert": False}))  # fmt: skip
model("200,000 more tokens", more_tokens)
model("tokens that eat puzzles", hungry_token)
model("traps of generation", in_json("generation_config.json", num_beams=100_000, max_length=10**9, stop_strings=["x"],
      num_return_sequences=10**6, watermarking_config={"x": 1}, eos_token_id=[0] * 5))  # fmt: skip
model("a device as a file", other_file("generation_config.json", lambda place, file: file.symlink_to("/dev/zero")))
model("a pipe as a file", other_file("generation_config.json", pipe))
model("a secret as notes", other_file("selfplay.json", lambda place, file: file.symlink_to("/etc/passwd")))
model("deep settings", other_file("config.json", text("[", 100_000)))
for _name, _template in {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}"
             "{% endfor %}{% endfor %}x",
    "memory": "{% set n = namespace(s='a' * 1000000) %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "attributes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "import": "{{ cycler.__init__.__globals__.os.popen('TOUCH').read() }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "escapes": "{{ raise_exception('\x1b[31mboo') }}",
    "macro": "{% macro m(x) %}{{ messages.append(x) }}{{ m(x) }}{% endmacro %}{{ m(messages) }}",
    "changes": "{% for m in messages %}{{ messages.clear() }}{{ m.update({'content': 'other'}) }}{% endfor %}x",
    "long": "{{ 'a' * 90000000 }}",
}.items():  # fmt: skip
    model(f"template: {_name}", lambda place, folder, template=_template: in_json(
        "tokenizer_config.json", chat_template=template.replace("TOUCH", shell(place, "template"))
    )(place, folder), "bench in chat")  # fmt: skip


# ---- texts ----


def lines(name: str, content: Callable[[Place], bytes] | list[dict[str, Any]], kind: str = "texts") -> None:
    """Declare a file of pairs. Those whose id begins with `wrong` must not be accepted, and `right` must."""

    def make(place: Place) -> None:
        written = (
            "".join(json.dumps(line) + "\n" for line in content).encode()
            if isinstance(content, list)
            else content(place)
        )
        place.thing.write_bytes(written)

    STRANGERS.append(Stranger(kind, name, make))


def pairs(**texts: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"id": name, "puzzle": puzzle, "solution": solution} for name, (puzzle, solution) in texts.items()]


OUT = """
import collections
sys = collections.namedtuple.__globals__["_sys"]
def slot():
    frame = sys._getframe()
    while "slot" not in frame.f_locals: frame = frame.f_back
    return frame.f_locals["slot"], frame.f_locals["start"]
def forge(record):
    place, start = slot()
    words = b"".join(n.to_bytes(4, "little") for n in (1, 1, len(record)))
    place[start : start + 20 + len(record)] = b"records\\0" + words + record
"""
FIVE = "def f(x: int): return x == 5"
lines("reports of a child", pairs(
    wrong_loop=(FIVE, OUT + "def g():\n    forge(b'V5')\n    while True: pass"),
    wrong_crash=(FIVE, OUT + "def g():\n    forge(b'V5')\n    sys.modules['posix'].abort()"),
    wrong_cycle=(FIVE, OUT + "def g():\n    forge(b'V' + b'[' * 250000)\n    sys.modules['posix']._exit(0)"),
))  # fmt: skip
lines("numbers that hash alike", pairs(
    wrong_set=("def f(x: Set[int]): return len(x) == 3", "def g(): return {k * (2**61 - 1) for k in range(9000)}"),
    wrong_dict=("def f(x: Dict[int, int]): return len(x) == 3",
                "def g(): return {k * (2**61 - 1): 0 for k in range(9000)}"),
))  # fmt: skip
lines("known random numbers", pairs(
    wrong_spot=("import random\ndef f(x: List[int]):\n    if len(x) != 900: return False\n    return all(x[i] == i * i for"
                " i in [random.randrange(900) for _ in range(60)])",
                "import random\ndef g():\n    x = [0] * 900\n    random.seed(0)\n    for _ in range(60):\n"
                "        i = random.randrange(900)\n        x[i] = i * i\n    return x"),
))  # fmt: skip
lines("memory of neighbours", pairs(
    wrong_sibling=("def f(x: int): return x > 400_000_000", "def h(n):\n    if n: sorted([n - 1], key=h)\n    return 1\n"
                   "def g():\n    h(4900)\n    return 1"),
    right_honest=("def f(x: int): return x > 400_000_000",
                  "def g():\n    try: return len(bytearray(450 * 1024 * 1024))\n    except MemoryError: return 0"),
))  # fmt: skip
TEN = "return x > 0 and x % 5 == 0 and x != "
lines("names that a rewriting changes", pairs(
    wrong_walrus=(f"class A:\n    y = (f := 10)\ndef sat(x: int):\n    {TEN}getattr(A, 'f', 0)", "def g(): return 10"),
    wrong_loop=(f"class A:\n    for f in (10,): pass\ndef sat(x: int):\n    {TEN}getattr(A, 'f', 0)",
                "def g(): return 10"),
    wrong_match=("f = 'abc'\ndef h(d):\n    match d:\n        case {'a': 1, **f}: return f\ndef sat(s: str):\n"
                 "    return s != f and sorted(s) == list('abc')", "def g(): return 'abc'"),
    wrong_keyword=(f"f = 10\ndef h(f=1): return f\ndef sat(x: int):\n    {TEN}f and h(f=2) == 2", "def g(): return 10"),
    wrong_global=("k = 0\ndef f(x: int):\n    global k\n    k += 1\n    return x == 5 and k > 1", "def g(): return 5"),
    wrong_name=("def sat(x: int): return x == 5 and sat.__name__ == 'f'", "def g(): return 5"),
    right_name=("def sat(x: int): return x == 5 and sat.__name__ == 'sat'", "def g(): return 5"),
    wrong_doc=("def f(x: int):\n    'five'\n    return x == 5 and f.__doc__ is None", "def g(): return 5"),
    right_doc=("def f(x: int):\n    'five'\n    return x == 5 and f.__doc__ == 'five'", "def g(): return 5"),
    wrong_line=("def f(x: int):\n\n\n    return x == f.__code__.co_firstlineno + 100", "def g(): return 5"),
    wrong_main=(f"{FIVE}\nif __name__ == '__main__':\n    def f(x: int): return True", "def g(): return 7"),
    wrong_coding=("# -*- coding: utf-7 -*-\n" + FIVE + "\n# +AAo-def f(x: int): return True", "def g(): return 7"),
    wrong_feed=("def f(x: int):\n\x0c    return x == 5\n\x0c# def f(x: int): return True", "def g(): return 7"),
    wrong_tabs=("def f(x: int):\n\tif x == 5:\n\t\treturn True\n\treturn False", "def g(): return 7"),
    nul=("def f(x: int): return x == 5 # \x00\ndef f(x: int): return True", "def g(): return 7"),
    wrong_rebound=("def f(x: int): return x == 5\nold = f\ndef f(x: int): return old(x) and x == 6",
                   "def g(): return 5"),
    wrong_dunder=("def f(x: int):\n    return x == 5 and len(f.__annotations__) == 9", "def g(): return 5"),
))  # fmt: skip
lines("solutions that change the puzzle", pairs(
    wrong_default=("def f(x: int, k=[5]): return x == k[0]",
                   "def g():\n    f.__defaults__[0][0] = 7\n    return 7"),
    wrong_rebind=(FIVE, "def f(x): return True\ndef g(): return 7"),
    wrong_global=(FIVE, "def g():\n    global f\n    f = lambda x: True\n    return 7"),
    wrong_builtins=("def f(x: int): return x == len([1, 2, 3])",
                    "import builtins\nbuiltins.len = lambda x: 7\ndef g(): return 7"),
    wrong_code=(FIVE, "def g():\n    f.__code__ = (lambda x: True).__code__\n    return 7"),
    wrong_equal=(FIVE, "class A(int):\n    def __eq__(self, other): return True\ndef g(): return A(7)"),
))  # fmt: skip
lines("escapes in texts", [
    {"id": EVIL, "puzzle": f"def f(x: int): return x == 5  # {EVIL}", "solution": f"def g(): return '{EVIL}'"}])  # fmt: skip
lines("values that fill the memory", lambda place: b'{"id": [' + b"[]," * 15_000_000 + b'[]], "puzzle": 1}\n')
lines("a line of 200 MB", lambda place: b'{"puzzle": "' + b"a" * 200_000_000 + b'"}\n')
lines("a line that is deep", lambda place: b"[" * 1_000_000 + b"\n" + b'{"a":' * 200_000 + b"\n")
lines("numbers without end", lambda place: b'{"id": ' + b"9" * 5_000_000 + b', "puzzle": "x", "solution": "x"}\n')
lines("half a million empty lines", lambda place: b"\n" * 500_000 + b"{}\n" * 300)
lines("programs without end", pairs(
    deep=("def f(x: int): return " + "(" * 30_000, "def g(): return 1"),
    minus=("def f(x: int): return x == " + "-" * 20_000 + "1", "def g(): return 1"),
    dots=("def f(x: int): return x" + ".a" * 15_000, "def g(): return 1"),
    strings=("def f(x: str): return x == " + "f'{" * 400 + "1", "def g(): return ''"),
    defaults=("def f(x: int, " + ", ".join(f"a{n}=1" for n in range(5000)) + "): return x == 5", "def g(): return 5"),
    many=("\n".join(f"def f{n}(x: int): return x == {n}" for n in range(1500)), "def g(): return 5"),
    power=("def f(x: int): return x == 9 ** 9 ** 9", "def g(): return 9 ** 9 ** 9"),
    fold=("def f(x: str): return x == 'a' * 10 ** 10 * 10", "def g(): return 'a' * 10 ** 10"),
    typed=("def f(x: " + "List[" * 900 + "int" + "]" * 900 + "): return True", "def g(): return 5"),
    annotation=("def f(x: 'List[__import__(\"os\").system(\"id\")]'): return True", "def g(): return []"),
))  # fmt: skip


@stranger("texts", "packed to a thousandth")
def _(place: Place) -> None:
    place.thing.unlink(missing_ok=True)
    with gzip.open(place.thing, "wb", 9) as file:
        for _ in range(1200):
            file.write(b" " * 1_000_000)


@stranger("texts", "packed twice")
def _(place: Place) -> None:
    content = gzip.compress(gzip.compress(b'{"puzzle": "x", "solution": "y"}\n' * 900_000))
    place.thing.write_bytes(content)


@stranger("texts", "pipe")
def _(place: Place) -> None:
    os.mkfifo(place.thing)


@stranger("texts", "device")
def _(place: Place) -> None:
    place.thing.symlink_to("/dev/zero")


# ---- settings, results ----

for _name, _content in {
    "a million keys": "".join(f"k{n} = 1\n" for n in range(90_000)),
    "more than a megabyte": "# " + "a" * 2_000_000,
    "deep": "a = " + "[" * 50_000 + "]" * 50_000,
    "inline tables": "a = " + "{a = " * 50_000,
    "dotted": "a" + ".a" * 400_000 + " = 1",
    "tables": "".join(f"[a{'.b' * n}]\n" for n in range(1, 900)),
    "quotes": "a = '''" + "'" * 900_000,
    "digits": "seed = " + "9" * 900_000,
    "dates": "seed = 9999-99-99T99:99:99",
    "not a number": "[solve]\ntemperature = nan\n[sandbox]\ncpu_seconds = inf\n",
    "escapes": '"\\u001b]0;owned\\u0007\\u202e" = "\\u001b[31m"\n',
    "secret": '[endpoint]\nurls = ["http://127.0.0.1:PORT/v1"]\nkey_variable = "AWS_SECRET_ACCESS_KEY"\n',
}.items():

    def _settings(place: Place, content: str = _content) -> None:
        place.thing.write_text(content.replace("PORT", str(place.port)))

    STRANGERS.append(Stranger("settings", _name, _settings))


def result(name: str, change: Callable[[Place], None]) -> None:
    """Declare a changed result of `bench`."""

    def make(place: Place) -> None:
        shutil.copytree(place.good / "result", place.thing)
        change(place)

    STRANGERS.append(Stranger("results", name, make))


def in_result(**changes: Any) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        file = place.thing / "results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def samples(by: Callable[[Place, Path], object]) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        for file in place.thing.glob("*.jsonl*"):
            file.unlink()
            by(place, file)

    return change


result("no object", replaced("results.json", text("[]")))
result("deep", replaced("results.json", text("[", 200_000)))
result("values that fill the memory", replaced("results.json", text("[[],", 15_000_000)))
result("escapes", in_result(model=EVIL, protocol=EVIL, puzzle_set=EVIL, puzzles=EVIL))
result("numbers beyond", in_result(n=10**400, k=[10**18], samples=10**18, seed=10**400))
result("a puzzle file of its own", in_result(puzzles="/etc/passwd", puzzle_file="/etc/passwd", sets="/etc/passwd"))
result("a pipe", replaced("results.json", pipe))
result("samples: a pipe", samples(pipe))
result("samples: a link", samples(link("precious.txt")))
result("samples: no lines", samples(lambda place, file: file.write_bytes(b"\xff\xfe\x00" * 1000)))
result("samples: packed zeros", samples(lambda place, file: file.write_bytes(zlib.compress(b"[" * 90_000_000))))
result("a link as results.json", replaced("results.json", link("precious.txt")))
result("a second name as results.json", replaced("results.json", second_name))


# ---- servers ----


def answer(request: dict[str, Any], text: str = "\n    return 7\n", copies: int = 1, **more: Any) -> bytes:
    """A reply as OpenAI's servers write it."""
    choice = {"message": {"content": text}, "text": text, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    return json.dumps({"choices": [choice] * copies, "usage": usage, **more}).encode()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> Iterator[bytes]:
    """The bytes of a reply."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    yield "\r\n".join(lines).encode() + b"\r\n\r\n"
    yield body


def slowly(first: bytes, piece: bytes) -> Iterator[bytes]:
    """Bytes that never end."""
    yield first
    while True:
        yield piece
        time.sleep(0.5)


def flood(first: bytes, count: int = 6000) -> Iterator[bytes]:
    yield first
    yield from (b"a" * 1_000_000 for _ in range(count))


@functools.cache
def bomb() -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [machine.compress(b'{"choices": "'), *(machine.compress(b"a" * 1_000_000) for _ in range(600))]
    return b"".join([*parts, machine.flush()])


OK = b"HTTP/1.1 200 OK\r\n"
SERVERS: dict[str, Callable[[dict[str, Any], str], Iterator[bytes]]] = {
    "honest": lambda request, port: whole(answer(request)),
    "redirect": lambda request, port: whole(b"", f"Location: http://127.0.0.1:{port}/v1", status="302 Found"),
    "redirect that keeps the request": lambda request, port: whole(
        b"", f"Location: http://localhost:{port}/v1", status="307 Temporary Redirect"
    ),
    "packed bomb": lambda request, port: whole(bomb(), "Content-Encoding: gzip"),
    "gigabytes": lambda request, port: flood(OK + b"Content-Length: 6000000000\r\n\r\n"),
    "gigabytes without a length": lambda request, port: flood(OK + b"\r\n"),
    "header without end": lambda request, port: flood(OK + b"X: ", 300),
    "100,000 headers": lambda request, port: whole(answer(request), *(f"X-{n}: a" for n in range(100_000))),
    "status line without end": lambda request, port: flood(b"HTTP/1.1 200 ", 300),
    "status line in drops": lambda request, port: slowly(b"HTTP/1.1 2", b"0"),
    "headers in drops": lambda request, port: slowly(OK, b"X: a\r\n"),
    "body in drops": lambda request, port: slowly(OK + b"Content-Length: 90000\r\n\r\n", b" "),
    "chunks in drops": lambda request, port: slowly(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "hundreds without end": lambda request, port: (b"HTTP/1.1 100 Continue\r\n\r\n" for _ in range(300_000)),
    "wrong chunks": lambda request, port: iter([OK + b"Transfer-Encoding: chunked\r\n\r\nzzzz\r\n"]),
    "negative chunk": lambda request, port: iter([OK + b"Transfer-Encoding: chunked\r\n\r\n-9\r\nabc\r\n"]),
    "negative length": lambda request, port: iter([OK + b"Content-Length: -5\r\n\r\nabc"]),
    "deep": lambda request, port: whole(b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "escapes in a failure": lambda request, port: whole(
        json.dumps({"error": {"message": EVIL + " " + str(request)}}).encode(), status="400 \x1b[31mBad"
    ),
    "escapes in a failure that passes": lambda request, port: whole(
        json.dumps({"error": {"message": EVIL}}).encode(), status="503 Busy"
    ),
    "waits without end": lambda request, port: whole(b"{}", "Retry-After: inf", status="429 Slow"),
    "waits of no number": lambda request, port: whole(b"{}", "Retry-After: nan", status="429 Slow"),
    "waits for a year": lambda request, port: whole(b"{}", "Retry-After: 31536000", status="429 Slow"),
    "counts beyond": lambda request, port: whole(
        answer(request, usage={"prompt_tokens": 2**63 - 1, "completion_tokens": 10**400})
    ),
    "5,000 choices": lambda request, port: whole(answer(request, copies=5000)),
    "lone surrogates": lambda request, port: whole(answer(request, f"\n    return 7 # \ud800 \x00 {EVIL}\n")),
    "a long text": lambda request, port: whole(answer(request, "\n    return 7 # " + "a" * 30_000_000)),
    "a name with escapes": lambda request, port: whole(answer(request, id=EVIL, model=EVIL, system_fingerprint=EVIL)),
    "nothing": lambda request, port: iter([]),
    "silence": lambda request, port: slowly(b"", b""),
}  # fmt: skip


def _server(place: Place) -> None:
    place.thing.touch()


for _name in SERVERS:
    if _name != "honest":
        STRANGERS.append(Stranger("server", _name, _server))
