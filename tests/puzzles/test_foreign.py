import gzip
import json
import os
import tracemalloc
import zlib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puzzles.archive.formats import read_errata, read_program, read_puzzles
from puzzles.foreign import (
    MOST_TOML_BYTES,
    an_object,
    each,
    expect,
    lines_of,
    parse_json,
    parse_toml,
    read_bytes,
    read_json,
    read_toml,
    shown,
    unpacked,
    unpacks_to_more,
)
from puzzles.puzzle import InputError
from selfplay.run import rundir, sessions
from selfplay.scoring import results

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "pass@1"])
KEYS = st.sampled_from(["a", "b", "pass@1"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=6)
TYPES = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True), "minimum": st.integers(-1, 1),
        "maximum": st.integers(0, 2), "enum": st.just(["a", "b"]), "const": st.just("a"), "pattern": st.just("^pass"),
    },
)  # fmt: skip
SHAPES = st.recursive(
    LEAVES,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES, "properties": st.dictionaries(KEYS, inner), "items": inner,
            "required": st.lists(KEYS, unique=True, max_size=2),
            "patternProperties": st.dictionaries(st.just("^pass@"), inner),
            "additionalProperties": inner | st.just(False),
            "minItems": st.integers(0, 2), "maxItems": st.integers(1, 3),
        },
    ),
    max_leaves=4,
)  # fmt: skip


def agrees(value, shape):
    try:
        expect(value, shape, "here")
    except InputError:
        return False
    return True


def is_integer(checker, value):
    """To the standard a number with a fraction of 0 is one, too."""
    return isinstance(value, int) and not isinstance(value, bool)


EXACT = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer),
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(VALUES, SHAPES)
def test_a_value_has_a_shape_if_jsonschema_says_so(value, shape):
    for word in ("patternProperties", "properties"):  # a key that both name counts once here
        if "properties" in shape and "patternProperties" in shape:
            shape = {key: inner for key, inner in shape.items() if key != word}
    assert agrees(value, shape) == EXACT(shape).is_valid(value)


def test_the_shipped_schema_is_read_as_jsonschema_reads_it():
    schema = json.loads((Path(results.__file__).parent / "results.schema.json").read_text("utf-8"))
    words = {"type", "properties", "required", "items", "additionalProperties", "patternProperties", "enum", "const",
             "minimum", "maximum", "minItems", "maxItems", "pattern", "description", "title", "$schema"}  # fmt: skip

    def used(shape):
        yield from shape
        for name in ("properties", "patternProperties"):
            for inner in shape.get(name, {}).values():
                yield from used(inner)
        for name in ("items", "additionalProperties"):
            if isinstance(shape.get(name), dict):
                yield from used(shape[name])

    assert {*used(schema)} <= words
    jsonschema.Draft202012Validator.check_schema(rundir.RECORD)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, -(2**64), True])
def test_numbers_that_no_database_holds_are_none(value):
    assert not agrees(value, {"type": "number"})
    assert agrees(2**63 - 1, {"type": "integer"})


def test_the_first_difference_is_named_by_its_place():
    shape = an_object(a=each({"type": "array", "items": {"type": "string"}}))
    with pytest.raises(InputError, match=r"^here: expected a text under 'a\.b\[1\]', got 3$"):
        expect({"a": {"b": ["x", 3]}}, shape, "here")
    with pytest.raises(InputError, match=r"^here: expected the key 'a', it is missing$"):
        expect({}, shape, "here")


def test_what_is_shown_of_a_value_is_short_and_on_one_line():
    deep = json.loads("[" * 900 + "]" * 900)
    for value in ("x" * 999, "a\nb", 10**5000, deep, {"a": [1] * 999}, b"\x00" * 999):
        assert len(shown(value)) < 70
        assert "\n" not in shown(value)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", b"\xff", ""])
def test_json_that_cannot_be_read_is_named(text):
    with pytest.raises(InputError, match=r"^here: expected JSON, ") as caught:
        parse_json(text, "here")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "1" * 5000, "a", "a = 1\na = 2"])
def test_toml_that_cannot_be_read_is_named(text):
    with pytest.raises(InputError, match=r"^here: expected TOML, "):
        parse_toml(text, "here")


def test_a_key_of_very_many_parts_is_refused():
    with pytest.raises(InputError, match="here: expected lines with at most 100 dots"):
        parse_toml("a" + ".a" * 400_000 + " = 1", "here")


def test_a_toml_file_is_read_with_and_without_a_byte_order_mark(tmp_path):
    for content in (b"a = 1", b"\xef\xbb\xbfa = 1\r\n"):
        (tmp_path / "a.toml").write_bytes(content)
        assert read_toml(tmp_path / "a.toml") == {"a": 1}


# ---- bytes ----


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_lines(path):
    return [*lines_of(path, "JSON objects")]


READERS = {
    "toml": read_toml, "json": read_json, "bytes": read_bytes, "lines": all_lines, "puzzles": read_puzzles,
    "program": read_program, "errata": read_errata, "results": results.read, "hash": sessions.file_hash,
}  # fmt: skip


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("name", ["pipe", "pipe.gz", "pipe.py"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read, name):
    os.mkfifo(tmp_path / name)
    assert "a pipe, a socket or a device; copy its content into a file" in refusal(read, tmp_path / name)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_a_device_without_an_end_is_refused(read):
    assert "a device; copy its content into a file" in refusal(read, "/dev/zero")


def bomb(path, start, end=b""):
    """A packed file of 60 KB that unpacks to 60 MB."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(start)
        for _ in range(60):
            file.write(b"a" * 1_000_000)
        file.write(end)
    return path


@pytest.mark.parametrize("start", [b'{"puzzle": "', b'["', b"\n"], ids=["lines", "array", "blank"])
@pytest.mark.parametrize("read", [read_puzzles, all_lines])
def test_a_packed_file_that_becomes_a_thousand_times_as_long_is_refused_before_it_has(tmp_path, read, start):
    path = bomb(tmp_path / "puzzles.jsonl.gz", start)
    tracemalloc.start()
    try:
        assert "it unpacks to more than" in refusal(read, path)
        assert tracemalloc.get_traced_memory()[1] < 59_000_000
    finally:
        tracemalloc.stop()


def test_a_packed_file_of_ordinary_texts_is_read(tmp_path):
    lines = [b'{"puzzle": "def f(x: int): return x == %d"}\n' % number for number in range(100_000)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.writelines(lines)
    assert all_lines(tmp_path / "a.jsonl.gz") == lines


def test_a_file_over_its_bound_is_refused(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"#" * (MOST_TOML_BYTES + 1))
    assert "expected a TOML file of at most 1 MiB, it is larger" in refusal(read_toml, tmp_path / "config.toml")


@pytest.mark.parametrize("text", ["[" + "[]," * 12_000_000 + "[]]", "[" + "1," * 14_000_000 + "1]"])
def test_a_text_whose_values_would_fill_the_memory_is_refused_before_it_is_read(text):
    assert "these would fill the memory" in refusal(parse_json, text, "here")


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_what_is_unpacked_is_what_was_packed_or_too_much(content, most):
    packed = zlib.compress(content)
    if len(content) <= most:
        assert unpacked(packed, most, "here") == content
    else:
        assert "it becomes more" in refusal(unpacked, packed, most, "here")
    assert "it was cut short" in refusal(unpacked, packed[:-3], 4000, "here")


def test_it_is_known_beforehand_what_unpacks_to_too_much():
    packed = zlib.compress(bytes(3_000_000), 9)
    assert unpacks_to_more(packed, 2_999_999)
    assert not unpacks_to_more(packed, 3_000_000)
    assert not unpacks_to_more(b"no zlib" * 1000, 10)
