import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puzzles.foreign import an_object, each, expect, parse_json, parse_toml, read_toml, shown
from puzzles.puzzle import InputError
from selfplay.run import rundir
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


def test_a_toml_file_is_read_with_and_without_a_byte_order_mark(tmp_path):
    for content in (b"a = 1", b"\xef\xbb\xbfa = 1\r\n"):
        (tmp_path / "a.toml").write_bytes(content)
        assert read_toml(tmp_path / "a.toml") == {"a": 1}
