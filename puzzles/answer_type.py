"""The types that an answer may have: reads them from annotations, infers and checks them, lists their trivial answers.

A type is a canonical text in the spelling of `typing`, such as `Dict[str, List[int]]`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

SCALARS: dict[str, tuple[type, tuple[Any, ...]]] = {
    "int": (int, (0, 1, -1, 2, 10, 100)),
    "float": (float, (0.0, 1.0, -1.0, 0.5)),
    "str": (str, ("", "a", "0", "1", " ", "abc")),
    "bool": (bool, (True, False)),
}
"""Exact class of each scalar type, and the trivial answers that an admitted puzzle must reject."""
CONTAINERS = {"list": "List", "set": "Set", "dict": "Dict", "tuple": "Tuple"}
SYNONYMS = {**CONTAINERS, "Text": "str"}
"""Names of types that have another name in the canonical spelling."""
BARE = {"List": "List[Any]", "Set": "Set[Any]", "Dict": "Dict[Any, Any]", "Tuple": "Tuple[Any, ...]"}
"""What `typing` means by a container without arguments."""
TYPE_NAMES = frozenset({*SCALARS, *CONTAINERS, *BARE, "Any", "Optional", "Union", "Annotated"})
"""Names that always mean the type of this name."""
TRIVIAL_OF_ANY = (0, 1, "", "a", True, None)
"""Trivial members of a container whose members may be anything."""
MAX_TRIVIAL_ANSWERS = 64
MAX_NESTING = 16
"""Deepest nesting of a type. An answer must fit the codec's depth, and the recursions in this module the stack."""

MAX_CHARACTERS = 1000
"""Longest text of a type. The limit exists because values are checked against types outside the sandbox."""


class UnsupportedType(ValueError):
    """The annotation or value has none of the supported answer types."""


def read(annotation: ast.expr, aliases: Mapping[str, ast.expr] | None = None) -> str:
    """The canonical text of an annotation, which may be quoted.

    What `typing` calls the same has one text: `list`, `List` and `list[Any]` are `List[Any]`; `int | None`,
    `Union[None, int]` and `Optional[Optional[int]]` are `Optional[int]`; `Text` is `str`; `Annotated[int, ...]` is
    `int`.

    Args:
        annotation: The annotation.
        aliases: The program's own names of types, from `type_aliases`.

    Raises:
        UnsupportedType: The type is not made of int, float, bool, str, List, Set, Dict, Tuple and Optional, is `Any`,
            is nested deeper than 16, or is too long.
    """
    text = _read(annotation, 0, aliases or {})
    if text in ("Any", "Optional[Any]"):
        raise UnsupportedType(ast.unparse(annotation))
    if len(text) > MAX_CHARACTERS:
        raise UnsupportedType(f"a type of more than {MAX_CHARACTERS} characters")
    return text


def type_aliases(tree: ast.Module) -> dict[str, ast.expr]:
    """A program's own names for types, such as `L` of `from typing import List as L`, or `Row` of `Row = List[int]`.

    A name that the top level binds twice is none, and the name of a type stays that type.
    """
    found: dict[str, ast.expr] = {}
    bound: Counter[str] = Counter()
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                bound[alias.asname or alias.name] += 1
                if statement.module == "typing" and alias.asname:
                    found[alias.asname] = ast.Name(alias.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    bound[target.id] += 1
                    found[target.id] = statement.value
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound[statement.name] += 1
    return {name: value for name, value in found.items() if bound[name] == 1 and name not in TYPE_NAMES}


def _read(annotation: ast.expr, depth: int, aliases: Mapping[str, ast.expr]) -> str:
    if depth > MAX_NESTING:
        raise UnsupportedType("nested too deeply")
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return _read(ast.parse(annotation.value.strip(), mode="eval").body, depth + 1, aliases)
        except (SyntaxError, ValueError):
            raise UnsupportedType(annotation.value) from None
    if isinstance(annotation, ast.Name) and annotation.id in aliases:
        return _read(aliases[annotation.id], depth + 1, aliases)
    name = _name(annotation)
    if name in SCALARS or name == "Any":
        return name
    if name in BARE:
        return BARE[name]
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _union([annotation.left, annotation.right], annotation, depth, aliases)
    if isinstance(annotation, ast.Subscript):
        return _read_container(annotation, depth, aliases)
    raise UnsupportedType(ast.unparse(annotation))


def _name(node: ast.expr) -> str:
    """The name of a type, in the spelling of `typing`; an empty text for anything else than a name."""
    if isinstance(node, ast.Attribute):
        name = node.attr if isinstance(node.value, ast.Name) else ""
    else:
        name = node.id if isinstance(node, ast.Name) else ""
    return SYNONYMS.get(name, name)


def _read_container(annotation: ast.Subscript, depth: int, aliases: Mapping[str, ast.expr]) -> str:
    base = annotation.value
    if isinstance(base, ast.Name) and isinstance(aliases.get(base.id), ast.Name | ast.Attribute):
        base = aliases[base.id]
    name = _name(base)
    arguments = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if name == "Annotated" and len(arguments) > 1:
        return _read(arguments[0], depth + 1, aliases)
    if name == "Union" or (name == "Optional" and len(arguments) == 1):
        none = [ast.Constant(None)] if name == "Optional" else []
        return _union([*arguments, *none], annotation, depth, aliases)
    if name == "Tuple" and len(arguments) == 2 and _is_ellipsis(arguments[1]):
        return f"Tuple[{_read(arguments[0], depth + 1, aliases)}, ...]"
    wanted = {"List": 1, "Set": 1, "Dict": 2, "Tuple": len(arguments)}.get(name)
    if wanted is None or len(arguments) != wanted or not arguments:
        raise UnsupportedType(ast.unparse(annotation))
    return f"{name}[{', '.join(_read(argument, depth + 1, aliases) for argument in arguments)}]"


def _union(members: Sequence[ast.expr], whole: ast.expr, depth: int, aliases: Mapping[str, ast.expr]) -> str:
    """A union of one type, or of one type and None. Unions inside of it are parts of it."""
    texts: dict[str, None] = {}
    optional = False
    for member in members:
        if isinstance(member, ast.Constant) and member.value is None:
            optional = True
            continue
        text = _read(member, depth + 1, aliases)
        if text.startswith("Optional["):
            optional, text = True, split(text)[1][0]
        texts[text] = None
    if len(texts) != 1:
        raise UnsupportedType(ast.unparse(whole))
    (text,) = texts
    return f"Optional[{text}]" if optional else text


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def of(value: Any) -> str:
    """The type of a value of exact builtin types; for example, `[None, 3]` has the type `List[Optional[int]]`.

    Raises:
        UnsupportedType: No supported type fits, or the value does not determine one: it is None, it is empty or holds
            only empty containers, or its members differ in type.
    """
    kind = type(value)
    for name, (exact, _) in SCALARS.items():
        if kind is exact:
            return name
    if kind is tuple and value:
        return f"Tuple[{', '.join(map(of, value))}]"
    if kind in (list, set):
        return f"{CONTAINERS[kind.__name__]}[{_of_all(value)}]"
    if kind is dict:
        return f"Dict[{_of_all(value)}, {_of_all(value.values())}]"
    raise UnsupportedType(f"{value!r} does not tell a type")


def _of_all(members: Collection[Any]) -> str:
    names: dict[str, None] = {}
    for member in members:
        with contextlib.suppress(UnsupportedType):
            names[of(member)] = None
    for candidate in (*names, *(f"Optional[{name}]" for name in names)):
        if all(matches(member, candidate) for member in members):
            return candidate
    raise UnsupportedType(f"{[*members]!r} are not of one type")


@functools.lru_cache(maxsize=4096)
def split(answer_type: str) -> tuple[str, tuple[str, ...]]:
    """The outer name of a type and its arguments: `Dict[str, List[int]]` gives `Dict`, (`str`, `List[int]`)."""
    name, bracket, inside = answer_type.partition("[")
    arguments, depth, current = [], 0, ""
    for character in inside[:-1] if bracket else "":
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            arguments.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip():
        arguments.append(current.strip())
    return name, tuple(arguments)


def matches(value: Any, answer_type: str) -> bool:
    """Whether a value of exact builtin types has the declared type. A bool is not an int, an int is not a float."""
    name, arguments = split(answer_type)
    if name == "Any":
        return True
    if name in SCALARS:
        return type(value) is SCALARS[name][0]
    if name == "Optional":
        return value is None or matches(value, arguments[0])
    if name == "List":
        return type(value) is list and all(matches(member, arguments[0]) for member in value)
    if name == "Set":
        return type(value) is set and all(matches(member, arguments[0]) for member in value)
    if name == "Dict":
        key, item = arguments
        return type(value) is dict and all(matches(k, key) and matches(v, item) for k, v in value.items())
    if type(value) is not tuple:
        return False
    if arguments[-1] == "...":
        return all(matches(member, arguments[0]) for member in value)
    return len(value) == len(arguments) and all(map(matches, value, arguments))


def takes(wider: str, narrower: str) -> bool:
    """Whether a type is another one, or the same but for an `Any` that stands for a part of it."""
    if wider == "Any" or "Any" not in wider:
        return wider == "Any" or wider == narrower
    (name, arguments), (other, others) = split(wider), split(narrower)
    if arguments[-1:] == ("...",):
        return name == other and all(takes(arguments[0], each) for each in others if each != "...")
    return name == other and len(arguments) == len(others) and all(map(takes, arguments, others))


def trivial_answers(answer_type: str) -> list[Any]:
    """A fixed list of at most 64 answers. A puzzle that accepts one of them is trivial and is not admitted.

    The idea comes from arXiv:2207.14502 (ICLR2023/src/gen.py `good_puzzles`). The lists here are shorter, so that a
    puzzle may still have a small number as its answer.
    """
    return list(itertools.islice(_trivial(answer_type), MAX_TRIVIAL_ANSWERS))


def _trivial(answer_type: str) -> Any:
    name, arguments = split(answer_type)
    if name in SCALARS or name == "Any":
        yield from SCALARS[name][1] if name in SCALARS else TRIVIAL_OF_ANY
        return
    parts = [list(itertools.islice(_trivial(argument), 6)) for argument in arguments if argument != "..."]
    if name == "Optional":
        yield None
        yield from parts[0]
    elif name == "List":
        yield []
        yield from ([member] for member in parts[0])
        yield from ([member, member] for member in parts[0][:2])
        if arguments[0] in ("int", "Any"):
            yield [1, 2, 3]
    elif name == "Set":
        yield set()
        yield from ({member} for member in parts[0] if _hashable(member))
    elif name == "Dict":
        yield {}
        yield from ({key: item} for key in parts[0][:2] if _hashable(key) for item in parts[1][:3])
    elif arguments[-1] == "...":
        yield ()
        yield from ((member,) for member in parts[0])
    else:
        yield from zip(*(itertools.islice(itertools.cycle(part), 6) for part in parts), strict=True)


PROBES: dict[str, tuple[Any, ...]] = {
    "int": (1, 2, 3, 5, 7, 10, 12, 17, 42, 100, 255, 1000, 12345, 10**6, 0, -1, -5),
    "float": (0.5, 1.0, 1.5, 3.25, 10.0, 100.0, 1e6, 0.0, -2.0),
    "bool": (True, False),
    "str": (
        "a", "7", "12", "12345", "-3", "1.5", "aB", "hello", "hello world", "a,b,c", "1 2 3", "racecar", "()[]", "x=1",
        "aabbcc", "abc" * 8, "", " b",
    ),
    "Any": (1, "a", 2, "b", 0.5, None),
}  # fmt: skip
"""Members of the scalar types for `probes`."""
PROBE_LENGTHS = (1, 2, 3, 4, 5, 8, 10, 20, 0)


def probes(answer_type: str) -> list[Any]:
    """At most 64 answers of many sizes. A puzzle with an error of its own on each of them has hardly a right answer."""
    return list(itertools.islice(_probes(answer_type), MAX_TRIVIAL_ANSWERS))


def _probes(answer_type: str) -> Iterator[Any]:
    name, arguments = split(answer_type)
    if name in PROBES:
        yield from PROBES[name]
        return
    parts = [list(itertools.islice(_probes(argument), 20)) for argument in arguments if argument != "..."]
    if name == "Optional":
        yield from (*parts[0], None)
        return
    if name == "Tuple" and arguments[-1] != "...":
        for shift in range(20):
            yield tuple(part[(shift + place) % len(part)] for place, part in enumerate(parts))
        return
    build = {"List": list, "Set": set, "Tuple": tuple, "Dict": dict}[name]
    for length, start in itertools.product(PROBE_LENGTHS, (0, 3, 6)):
        members: Any = [parts[0][(start + place) % len(parts[0])] for place in range(length)]
        if name == "Dict":
            members = [(key, parts[1][(start + place) % len(parts[1])]) for place, key in enumerate(members)]
        hashed = [key for key, _ in members] if name == "Dict" else members if name == "Set" else ()
        if all(map(_hashable, hashed)):
            yield build(members)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
