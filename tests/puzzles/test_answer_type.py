import ast

import pytest

from puzzles import answer_type
from puzzles.answer_type import UnsupportedType, matches, split, trivial_answers
from sandbox import codec


def read(text):
    return answer_type.read(ast.parse(text, mode="eval").body)


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        (3, "int"),
        (True, "bool"),
        (0.5, "float"),
        ("", "str"),
        ([1, 2], "List[int]"),
        ([[], [1]], "List[List[int]]"),
        ([None, 3], "List[Optional[int]]"),
        ({1}, "Set[int]"),
        ({"a": [1]}, "Dict[str, List[int]]"),
        ((1, "a", (2.0,)), "Tuple[int, str, Tuple[float]]"),
    ],
    ids=repr,
)
def test_a_value_has_the_type_that_it_tells(value, declared):
    assert answer_type.of(value) == declared
    assert matches(value, declared)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        set(),
        (),
        [[]],
        [None],
        [[1], [None]],
        (1, []),
        [1, 2.0],
        [1, True],
        {"a": 1, "b": "c"},
        b"a",
        1j,
        frozenset({1}),
        ...,
    ],
    ids=repr,
)
def test_a_value_that_tells_no_type_has_none(value):
    with pytest.raises(UnsupportedType):
        answer_type.of(value)


@pytest.mark.parametrize(
    ("annotation", "canonical"),
    [
        ("int", "int"),
        ("float", "float"),
        ("str", "str"),
        ("bool", "bool"),
        ("List[int]", "List[int]"),
        ("list[int]", "List[int]"),
        ("typing.List[int]", "List[int]"),
        ("set[str]", "Set[str]"),
        ("dict[str, list[int]]", "Dict[str, List[int]]"),
        ("Dict[Tuple[int, int], float]", "Dict[Tuple[int, int], float]"),
        ("tuple[int, str]", "Tuple[int, str]"),
        ("tuple[int]", "Tuple[int]"),
        ("Tuple[int, ...]", "Tuple[int, ...]"),
        ("Optional[int]", "Optional[int]"),
        ("int | None", "Optional[int]"),
        ("None | list[int]", "Optional[List[int]]"),
        ("'List[int]'", "List[int]"),
        ("List['int']", "List[int]"),
        ("List[List[List[bool]]]", "List[List[List[bool]]]"),
    ],
)
def test_both_spellings_of_a_type_are_read(annotation, canonical):
    assert read(annotation) == canonical
    assert read(canonical) == canonical


@pytest.mark.parametrize(
    "annotation",
    [
        "Any",
        "object",
        "None",
        "bytes",
        "complex",
        "list",
        "List",
        "dict",
        "tuple",
        "List[int, str]",
        "Dict[str]",
        "Set[int, int]",
        "Tuple[()]",
        "Tuple[..., int]",
        "List[...]",
        "Callable[[int], int]",
        "Union[int, str]",
        "int | str",
        "frozenset[int]",
        "FrozenSet[int]",
        "Iterable[int]",
        "Literal[1]",
        "'List['",
        "'\\0'",
        "List[T]",
        "1",
        "print('hello')",
        "lambda: int",
        "List[" * 40 + "int" + "]" * 40,
        "int" + " | None" * 100,
    ],
    ids=lambda text: text[:25],
)
def test_an_unsupported_type_is_refused(annotation):
    with pytest.raises(UnsupportedType):
        read(annotation)


def test_a_type_16_deep_is_the_deepest():
    deepest = "List[" * 16 + "int" + "]" * 16
    assert read(deepest) == deepest
    with pytest.raises(UnsupportedType):
        read(f"List[{deepest}]")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("int", ("int", [])),
        ("List[int]", ("List", ["int"])),
        ("Dict[str, List[int]]", ("Dict", ["str", "List[int]"])),
        ("Tuple[Tuple[int, str], Dict[str, int], ...]", ("Tuple", ["Tuple[int, str]", "Dict[str, int]", "..."])),
    ],
)
def test_a_type_is_split_at_its_outer_brackets(text, parts):
    assert split(text) == (parts[0], tuple(parts[1]))


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        (5, "int"),
        (-(10**100), "int"),
        (0.5, "float"),
        ("", "str"),
        (True, "bool"),
        ([], "List[int]"),
        ([1, 2], "List[int]"),
        ([[], [1]], "List[List[int]]"),
        (set(), "Set[int]"),
        ({1}, "Set[int]"),
        ({}, "Dict[str, int]"),
        ({"a": [1]}, "Dict[str, List[int]]"),
        ((1, "a"), "Tuple[int, str]"),
        ((), "Tuple[int, ...]"),
        ((1, 2, 3), "Tuple[int, ...]"),
        (None, "Optional[int]"),
        (3, "Optional[int]"),
        ([None, 1], "List[Optional[int]]"),
    ],
)
def test_a_value_of_its_type_matches(value, declared):
    assert matches(value, declared)


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        (True, "int"),
        (1, "bool"),
        (1, "float"),
        (1.0, "int"),
        ("1", "int"),
        (None, "int"),
        ((1,), "List[int]"),
        ([1], "Tuple[int]"),
        ([1], "Set[int]"),
        ([True], "List[int]"),
        ([1, 1.0], "List[int]"),
        ([1, None], "List[int]"),
        (frozenset({1}), "Set[int]"),
        ({1, "a"}, "Set[int]"),
        ({1: 1}, "Dict[str, int]"),
        ({"a": True}, "Dict[str, int]"),
        ([("a", 1)], "Dict[str, int]"),
        ((1, 2, 3), "Tuple[int, int]"),
        ((), "Tuple[int]"),
        ((1, "a"), "Tuple[int, ...]"),
        (False, "Optional[int]"),
        ([[1], 2], "List[List[int]]"),
        ("ab", "List[str]"),
    ],
)
def test_a_value_of_another_type_does_not_match(value, declared):
    assert not matches(value, declared)


@pytest.mark.parametrize(
    ("declared", "answers"),
    [
        ("int", [0, 1, -1, 2, 10, 100]),
        ("float", [0.0, 1.0, -1.0, 0.5]),
        ("str", ["", "a", "0", "1", " ", "abc"]),
        ("bool", [True, False]),
        ("List[int]", [[], [0], [1], [-1], [2], [10], [100], [0, 0], [1, 1], [1, 2, 3]]),
        ("Set[bool]", [set(), {True}, {False}]),
        ("Dict[bool, float]", [{}, *({k: v} for k in (True, False) for v in (0.0, 1.0, -1.0))]),
        ("Optional[bool]", [None, True, False]),
        ("Tuple[bool, ...]", [(), (True,), (False,)]),
    ],
)
def test_trivial_answers_are_a_fixed_list(declared, answers):
    assert trivial_answers(declared) == answers


@pytest.mark.parametrize(
    "declared",
    [
        "int",
        "Set[Tuple[int, str]]",
        "Set[List[int]]",
        "Dict[List[int], int]",
        "Tuple[int, str, bool]",
        "Tuple[Tuple[int, ...], Dict[str, Set[float]]]",
        "List[Optional[Dict[str, Tuple[int, int]]]]",
        "List[" * 16 + "int" + "]" * 16,
        "Tuple[" * 16 + "int, int" + "]" * 16,
        "Optional[" * 16 + "int" + "]" * 16,
    ],
    ids=lambda text: text[:40],
)
def test_trivial_answers_are_few_and_of_their_type_and_can_be_sent(declared):
    answers = trivial_answers(declared)
    assert 1 <= len(answers) <= answer_type.MAX_TRIVIAL_ANSWERS
    assert all(matches(answer, declared) for answer in answers)
    assert [codec.decode(codec.encode(answer, 1024)) for answer in answers] == answers


def test_a_type_of_many_parts_is_refused():
    with pytest.raises(UnsupportedType, match="more than 1000 characters"):
        read(f"Tuple[{', '.join(['int'] * 300)}]")
    assert read(f"Tuple[{', '.join(['int'] * 190)}]").count("int") == 190
