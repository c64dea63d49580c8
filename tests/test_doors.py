"""What comes from outside has one door: `puzzles/foreign.py`, and `puzzles/archive/opening.py` for SQLite files."""

from __future__ import annotations

import ast

import pytest
from places import ROOT

DOORS = {"puzzles/foreign.py", "puzzles/archive/opening.py"}
WAYS_IN = {
    "sqlite3.connect", "json.load", "json.loads", "tomllib.load", "tomllib.loads", "gzip.open", "gzip.GzipFile",
    "zlib.decompress", "zlib.decompressobj", "tokenize.open", "open", "io.open", "*.open", "*.read_text",
    "*.read_bytes", "pickle.load", "pickle.loads",
}  # fmt: skip
"""Calls that read a file or what is packed or written in one; `*` is any object."""
OURS = {
    # What a child of ours has just written to its pipe, or what we write to it.
    "puzzles/parse.py json.loads": 3,
    "puzzles/features.py json.loads": 2,
    "puzzles/conjuncts.py json.loads": 2,
    "puzzles/rules/variation.py json.loads": 1,
    "puzzles/rules/porting.py json.loads": 1,
    "puzzles/extract.py json.loads": 1,  # in the child that parses a reply, within the child's memory
    "selfplay/inspecting/reverify.py json.loads": 1,
    # Files of this package.
    "puzzles/rules/composition.py tomllib.loads": 1,
    "puzzles/rules/composition.py *.read_text": 1,
    "puzzles/archive/formats.py *.read_text": 2,
    "selfplay/scoring/shipped.py *.read_bytes": 1,
    "selfplay/scoring/shipped.py json.loads": 1,
    "selfplay/scoring/results.py *.read_text": 1,
    "selfplay/scoring/results.py json.loads": 1,
    "selfplay/inspecting/serving.py *.read_text": 1,
    "selfplay/inspecting/report.py *.read_text": 1,
    "selfplay/run/sessions.py *.read_bytes": 1,
    "selfplay/iteration/guarding.py *.read_bytes": 1,
    # The kernel's files.
    "selfplay/run/sessions.py *.read_text": 1,
    "selfplay/run/heartbeat.py *.read_text": 1,
    # Values that this process has just made.
    "selfplay/run/shard.py json.loads": 1,
    "selfplay/inspecting/benchmark_pages.py json.loads": 2,
    # No reading: a file that we have just made, the null device, a browser, an address of the network.
    "selfplay/scoring/results.py gzip.GzipFile": 1,
    "puzzles/writing.py *.open": 1,
    "selfplay/inspecting/export.py *.open": 1,
    "selfplay/commands/main.py open": 1,
    "selfplay/inspecting/view.py *.open": 1,
    "selfplay/sampling/serving.py *.open": 1,
    # Programs of helpers: they run somebody else's files under limits, and import nothing of this project.
    "selfplay/sampling/helper_model.py open": 4,
    "selfplay/sampling/helper_model.py json.loads": 4,
    "selfplay/sampling/helper_template.py open": 1,
    "selfplay/sampling/helper_template.py json.loads": 1,
    "selfplay/sampling/adapter_merging.py json.loads": 1,  # an argument that we give it
    # The shipped tokenizer; a server's reply, unpacked piece by piece within its bound.
    "selfplay/sampling/model_files.py *.read_bytes": 1,
    "selfplay/sampling/model_files.py json.loads": 1,
    "selfplay/sampling/transfer.py zlib.decompressobj": 1,
    # Files of a model's folder, which is checked before it is read; and what our own server has logged.
    "selfplay/sampling/model.py *.open": 1,
    "selfplay/sampling/model.py *.read_bytes": 1,
    "selfplay/sampling/serving.py *.read_bytes": 1,
}
"""Other calls, with their number: what they read is no file from outside."""


def called(node: ast.Call) -> str:
    """The name of what is called, as WAYS_IN has it."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if not isinstance(node.func, ast.Attribute):
        return ""
    whole = f"{node.func.value.id}.{node.func.attr}" if isinstance(node.func.value, ast.Name) else ""
    return whole if whole in WAYS_IN or whole == "os.open" else f"*.{node.func.attr}"


def ways_in(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and (name := called(node)) in WAYS_IN:
            yield name
        if isinstance(node, ast.ImportFrom) and node.module in ("sqlite3", "json", "tomllib", "gzip", "zlib", "pickle"):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_module_reads_what_comes_from_outside_in_another_way():
    found: dict[str, int] = {}
    for package in ("puzzles", "selfplay"):
        for file in sorted((ROOT / package).rglob("*.py")):
            where = file.relative_to(ROOT).as_posix()
            for name in ways_in(file) if where not in DOORS and "/examples/" not in where else ():
                found[f"{where} {name}"] = found.get(f"{where} {name}", 0) + 1
    assert {call: count for call, count in found.items() if count > OURS.get(call, 0)} == {}
    assert {call: count for call, count in OURS.items() if count > found.get(call, 0)} == {}, "no longer there"


@pytest.mark.parametrize("text", ["import json\njson.loads(x)", "from json import loads", "a.b.read_text()", "open(x)"])
def test_the_test_above_would_notice(tmp_path, text):
    (tmp_path / "module.py").write_text(text)
    assert [*ways_in(tmp_path / "module.py")]
