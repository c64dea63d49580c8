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
        ("list", "List[Any]"),
        ("typing.List", "List[Any]"),
        ("Set", "Set[Any]"),
        ("dict", "Dict[Any, Any]"),
        ("dict[str, list]", "Dict[str, List[Any]]"),
        ("tuple", "Tuple[Any, ...]"),
        ("list[Any]", "List[Any]"),
        ("Optional[list]", "Optional[List[Any]]"),
        ("Union[int]", "int"),
        ("Union[int, int]", "int"),
        ("Union[str, None]", "Optional[str]"),
        ("typing.Union[None, Set[int]]", "Optional[Set[int]]"),
        ("Union[Optional[int], int]", "Optional[int]"),
        ("Union[None, Union[int, None]]", "Optional[int]"),
        ("Optional[Optional[int]]", "Optional[int]"),
        ("Optional[Union[int, None]]", "Optional[int]"),
        ("int | int | None", "Optional[int]"),
        ("list[int] | List[int]", "List[int]"),
        ("' int '", "int"),
        ("List[Union[int, None]]", "List[Optional[int]]"),
        ("Annotated[int, 'a number', 3]", "int"),
        ("Text", "str"),
        ("Dict[Text, int]", "Dict[str, int]"),
        ("builtins.int", "int"),
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
        "List[int, str]",
        "Dict[str]",
        "Set[int, int]",
        "Tuple[()]",
        "Tuple[..., int]",
        "List[...]",
        "Callable[[int], int]",
        "Union[int, str]",
        "Union[int, str, None]",
        "Union[None]",
        "Union[()]",
        "Optional",
        "Optional[None]",
        "Optional[Any]",
        "Union[Any, None]",
        "Optional[int, str]",
        "Annotated[int]",
        "a.b.List[int]",
        "Sequence",
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


@pytest.mark.parametrize(
    ("program", "canonical"),
    [
        ("from typing import List as L\ndef f(x: L[int]): ...", "List[int]"),
        ("import typing as t\ndef f(x: t.Union[t.List[int], None]): ...", "Optional[List[int]]"),
        ("from typing import Optional as O\nRow = list[int]\ndef f(x: O[Row]): ...", "Optional[List[int]]"),
        ("Row: TypeAlias = List[int]\nGrid = List[Row]\ndef f(x: Grid): ...", "List[List[int]]"),
        ("Text = int\ndef f(x: Text): ...", "int"),
    ],
)
def test_a_programs_own_names_for_types_are_read(program, canonical):
    tree = ast.parse(program)
    aliases = answer_type.type_aliases(tree)
    assert answer_type.read(tree.body[-1].args.args[0].annotation, aliases) == canonical


@pytest.mark.parametrize(
    "program",
    [
        "T = int\nT = str\ndef f(x: T): ...",
        "T = List['T']\ndef f(x: T): ...",
        "T = T\ndef f(x: T): ...",
        "class T: ...\nT = int\ndef f(x: T): ...",
        "T = 3\ndef f(x: T): ...",
    ],
)
def test_a_name_that_is_bound_twice_or_holds_itself_is_no_type(program):
    tree = ast.parse(program)
    with pytest.raises(UnsupportedType):
        answer_type.read(tree.body[-1].args.args[0].annotation, answer_type.type_aliases(tree))


@pytest.mark.parametrize("value", [[], [1, "a", None], [[1], (2,)], [{"a": 1}]])
def test_a_bare_list_may_hold_anything(value):
    assert matches(value, "List[Any]")
    assert not matches(tuple(value), "List[Any]")
    assert matches(tuple(value), "Tuple[Any, ...]")


def test_the_trivial_answers_of_a_bare_container_are_of_several_types():
    trivial = trivial_answers("List[Any]")
    assert [] in trivial
    assert {type(each[0]) for each in trivial if each} >= {int, str}


@pytest.mark.parametrize(
    ("wider", "narrower", "expected"),
    [
        ("List[Any]", "List[int]", True),
        ("List[Any]", "List[List[str]]", True),
        ("Dict[str, Any]", "Dict[str, int]", True),
        ("Dict[str, Any]", "Dict[int, int]", False),
        ("Tuple[Any, ...]", "Tuple[int, str]", True),
        ("Tuple[Any, ...]", "Tuple[int, ...]", True),
        ("Tuple[Any, int]", "Tuple[str, int]", True),
        ("Set[Any]", "List[int]", False),
        ("List[int]", "List[Any]", False),
        ("int", "int", True),
        ("Optional[int]", "int", False),
    ],
)
def test_one_type_takes_another(wider, narrower, expected):
    assert answer_type.takes(wider, narrower) is expected


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
