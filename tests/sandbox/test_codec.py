import ast
import contextlib
import random
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest

from sandbox import codec

LIMIT = 256 * 1024

PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**53,
    2**53 + 1,
    -(2**53) - 1,
    10**5000,
    -(7**4000),
    0.0,
    -0.0,
    0.1,
    5e-324,
    -1.7976931348623157e308,
    "",
    "\x00\x7f\n\"'\\",
    "naïve 漢字 \U0001f600",
    "\ud800 alone",
    [],
    [[[]]],
    [1, True, 1.0, "1", None],
    (),
    (1,),
    ([1], {2}, {"k": (3,)}),
    set(),
    {1, 2.5, "a", (1, "b"), None},
    frozenset(),
    {frozenset({1}), frozenset({"x"})},
    {},
    {"b": 1, "a": [2], 3: {"c": None}, (4, 5): {6}},
]


def exact(value):
    """A form in which 1, True and 1.0 differ, and 0.0 and -0.0, and the orders of dicts."""
    if type(value) in (list, tuple):
        return (type(value), [exact(member) for member in value])
    if type(value) in (set, frozenset):
        return (type(value), sorted(repr(exact(member)) for member in value))
    if type(value) is dict:
        return (dict, [(exact(key), exact(item)) for key, item in value.items()])
    return (type(value), value.hex() if type(value) is float else value)


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_a_plain_value_comes_back_exactly(value):
    assert exact(codec.decode(codec.encode(value, LIMIT))) == exact(value)


def test_encodings_are_ascii_and_as_documented():
    value = [None, True, 1, 2**60, 0.5, "é", (1,), {2}, frozenset({3}), {"k": 4}]
    assert codec.encode(value, LIMIT) == (
        b'[null,true,1,{"i":"0x1000000000000000"},{"f":"0x1.0000000000000p-1"},"\\u00e9",'
        b'{"t":[1]},{"s":[2]},{"z":[3]},{"d":[["k",4]]}]'
    )


def test_a_dict_keeps_its_order():
    assert list(codec.decode(codec.encode({"z": 1, "a": 2, "m": 3}, LIMIT))) == ["z", "a", "m"]


def test_equal_sets_have_equal_bytes_whatever_the_order_of_insertion():
    names = [f"name{number}" for number in range(200)] + [(1, "x"), None, 3.5, 10**30]
    encodings = set()
    for seed in range(5):
        random.Random(seed).shuffle(names)
        encodings.add(codec.encode(set(names), LIMIT))
    assert len(encodings) == 1


class LyingInt(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    "value",
    [
        LyingInt(1),
        type("S", (str,), {})("a"),
        type("F", (float,), {})(1),
        type("L", (list,), {})([1]),
        type("T", (tuple,), {})((1,)),
        type("E", (set,), {})({1}),
        type("D", (dict,), {})(),
        OrderedDict(a=1),
        Counter("a"),
        namedtuple("P", "x")(1),
        b"bytes",
        bytearray(b"x"),
        range(3),
        1j,
        Decimal(1),
        Fraction(1, 2),
        object(),
        int,
        len,
        (number for number in [1]),
        ...,
        NotImplemented,
        float("nan"),
        float("inf"),
        -float("inf"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: (1, v)], ids="vldt")
def test_what_is_not_plain_data_is_refused_at_any_place(value, wrap):
    with pytest.raises(codec.CodecError):
        codec.encode(wrap(value), LIMIT)


def test_no_method_of_a_subclass_runs():
    def explode(*_):
        raise AssertionError("a method of the value ran")

    hooks = ("__iter__", "__len__", "__eq__", "__repr__", "__str__", "__getattribute__", "__reduce_ex__", "__bool__")
    for base in (list, dict, set, tuple, str, int, float):
        hostile = type("Hostile", (base,), dict.fromkeys(hooks, explode))
        with pytest.raises(codec.CodecError):
            codec.encode([base.__new__(hostile)], LIMIT)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_64_passes_and_65_does_not():
    assert codec.decode(codec.encode(nested(64), LIMIT)) == nested(64)
    with pytest.raises(codec.CodecError, match="deeper"):
        codec.encode(nested(65), LIMIT)


def test_the_deepest_answer_still_fits_into_a_call():
    assert codec.decode(b"[" + codec.encode(nested(64), LIMIT) + b"]") == [nested(64)]


def test_a_value_that_contains_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(codec.CodecError):
        codec.encode(value, LIMIT)


@pytest.mark.parametrize("part", [[], "a" * 100_000, 1 << 4_000_000], ids=["lists", "texts", "integers"])
def test_an_aliasing_bomb_is_refused_before_it_is_written_out(part):
    value = part
    for _ in range(40):
        value = [value, value]
    with pytest.raises(codec.CodecError, match="too many parts"):
        codec.encode(value, LIMIT)


def test_the_size_limit_is_exact():
    assert codec.encode("a" * 98, 100) == b'"' + b"a" * 98 + b'"'
    with pytest.raises(codec.CodecError, match="101 bytes, over the limit of 100"):
        codec.encode("a" * 99, 100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"1],[2",
        b"1 2",
        b"[1",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1.5",
        b"1e5",
        b'{"f":"nan"}',
        b'{"f":"inf"}',
        b'{"f":1}',
        b'{"f":"0x1p99999"}',
        b'{"i":5}',
        b'{"i":"zz"}',
        b"{}",
        b'{"t":[1],"s":[2]}',
        b'{"q":[1]}',
        b'{"t":1}',
        b'{"s":[[1]]}',
        b'{"d":[[1]]}',
        b'{"d":[[1,2,3]]}',
        b'{"d":[[[],2]]}',
        b'{"__class__":"os.system"}',
        b"9" * 5000,
        b"[" * 70 + b"]" * 70,
        b"[" * 100_000,
        b'{"t":[' * 300 + b"]}" * 300,
        b"\xff\xfe1\x00",
        b"\xef\xbb\xbf1",
        "12".encode("utf-16-be"),
        "1".encode("utf-32-le"),
        '"é"'.encode(),
        b'"\xed\xa0\x80"',
        b'"\x00"',
        b"\x80\x04K\x01.",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_hostile_bytes_are_refused(data):
    with pytest.raises(codec.CodecError):
        codec.decode(data)


def test_thousands_of_mutated_encodings_raise_nothing_but_codec_errors():
    generator = random.Random(20)
    seeds = [codec.encode(value, LIMIT) for value in PLAIN]
    decoded = 0
    for _ in range(6000):
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randint(1, 4)):
            position = generator.randrange(len(data) + 1)
            operation = generator.randrange(4)
            if operation == 0:
                data[position:position] = generator.choice([b"[", b"]", b'{"t":', b'"', b"0", b",", b"\\u", b"}", b"-"])
            elif operation == 1:
                del data[position : position + generator.randint(1, 3)]
            elif operation == 2 and position < len(data):
                data[position] = generator.randrange(256)
            else:
                data[position:position] = data[: generator.randint(0, 20)]
        try:
            value = codec.decode(bytes(data))
        except codec.CodecError:
            continue
        decoded += 1
        codec.literal(value)
        codec.encode(value, LIMIT)
    assert decoded > 100, "the mutations are too wild to test what follows the JSON"


def test_thousands_of_random_bytes_raise_nothing_but_codec_errors():
    generator = random.Random(21)
    for _ in range(3000):
        data = generator.randbytes(generator.randint(0, 12))
        with contextlib.suppress(codec.CodecError):
            codec.decode(data)


def random_value(generator, depth=3, hashable=False):
    kinds = ["int", "big", "float", "str", "bool", "none", "tuple"] + ([] if hashable else ["list", "set", "dict"])
    kind = generator.choice(kinds[:6] if depth == 0 else kinds)
    count = generator.randrange(4)
    if kind == "int":
        return generator.randint(-9, 9)
    if kind == "big":
        return generator.choice([1, -1]) * generator.getrandbits(200)
    if kind == "float":
        return generator.choice([-0.0, 0.1, 1e300, generator.random()])
    if kind == "str":
        return "".join(generator.choice("ab'\"\\\n é\ud800\U0001f600") for _ in range(count))
    if kind in ("bool", "none"):
        return None if kind == "none" else generator.random() < 0.5
    if kind == "dict":
        return {random_value(generator, depth - 1, True): random_value(generator, depth - 1) for _ in range(count)}
    members = [random_value(generator, depth - 1, hashable or kind == "set") for _ in range(count)]
    return {"list": list, "tuple": tuple, "set": set}[kind](members)


def test_random_values_survive_the_codec_and_the_literal():
    generator = random.Random(22)
    for _ in range(1500):
        value = random_value(generator)
        assert exact(codec.decode(codec.encode(value, LIMIT))) == exact(value)
        assert ast.literal_eval(codec.literal(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (-0.0, "-0.0"),
        ("it's", '"it\'s"'),
        ((1,), "(1,)"),
        ((), "()"),
        (set(), "set()"),
        (frozenset(), "frozenset()"),
        ({10, 9, 1}, "{1, 9, 10}"),
        ({"b", "a"}, "{'a', 'b'}"),
        ({"b": 1, "a": {3, 2}}, "{'a': {2, 3}, 'b': 1}"),
        ({1, "a", None}, "{'a', 1, None}"),
        ({(2, None), (2, 1)}, "{(2, 1), (2, None)}"),
        ([True, 1, 1.0], "[True, 1, 1.0]"),
        ({frozenset("b"), frozenset("a")}, "{frozenset({'a'}), frozenset({'b'})}"),
        (10**4300, hex(10**4300)),
        (-(10**4300), hex(-(10**4300))),
        (10**4300 - 1, "9" * 4300),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "value",
)
def test_a_literal_is_sorted_python(value, text):
    assert codec.literal(value) == text


def test_sets_of_incomparable_sets_have_one_literal():
    members = [frozenset({letter}) for letter in "abcdefgh"]
    literals = set()
    for seed in range(10):
        random.Random(seed).shuffle(members)
        value = set()
        for member in members:
            value.add(member)
        literals.add(codec.literal(value))
    assert len(literals) == 1


def test_nested_sets_of_mixed_types_do_not_take_exponential_time():
    value = frozenset({0})
    for _ in range(60):
        value = frozenset({"a", value})
    assert codec.literal(value).startswith("frozenset({'a', frozenset({'a', ")


def test_the_literal_of_many_integers_is_quick():
    # A hundred thousand comparisons with a freshly computed 10**4300 would take seconds.
    assert len(codec.literal(list(range(100_000)))) == 688_890


@pytest.mark.parametrize("tag", ["s", "z", "d"])
def test_members_that_were_chosen_to_have_one_hash_are_refused(tag):
    members = [f'{{"i":"{hex(number * (2**61 - 1))}"}}' for number in range(1, 200)]
    listed = ",".join(f"[{member},0]" if tag == "d" else member for member in members)
    with pytest.raises(codec.CodecError, match="199 members have one hash"):
        codec.decode(f'{{"{tag}":[{listed}]}}'.encode())


@pytest.mark.parametrize(
    "value",
    [
        set(range(-5000, 5000)), {float(n) for n in range(5000)}, {str(n): n for n in range(5000)},
        {(a, b) for a in range(70) for b in range(70)}, {frozenset({a}) for a in range(5000)},
    ],
)  # fmt: skip
def test_large_ordinary_sets_and_dicts_are_decoded(value):
    assert codec.decode(codec.encode(value, 10**7)) == value
