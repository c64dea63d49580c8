"""Walking, comparing and copying syntax trees, beside what `ast` and `copy` do."""

import ast
import copy
from itertools import pairwise

import pytest
from places import ROOT

from sandbox.syntax import children, copied, same, walk

SOURCES = [file.read_text("utf-8") for file in sorted((ROOT / "puzzles").glob("*.py"))]
SOURCES += [
    "match x:\n    case {'a': 1, **rest} | [1, *more]:\n        pass\n    case None:\n        pass",
    "async def f(a, /, b: int = 1, *c, d=None, **e) -> int:\n    async with a as b, c:\n        return await d",
    "x: int\nprint(f'{x!r:>{y}}', u'a', b'c', 1j, ..., -0.0, lambda: (yield))",
    "",
]


@pytest.fixture(scope="module", params=range(len(SOURCES)), ids=lambda number: f"program {number}")
def tree(request):
    return ast.parse(SOURCES[request.param])


def test_a_walk_meets_the_nodes_that_asts_meets_in_its_order(tree):
    assert walk(tree) == [*ast.walk(tree)]
    assert all(children(node) == [*ast.iter_child_nodes(node)] for node in walk(tree))


def test_a_copy_is_the_same_and_shares_no_statement(tree):
    before = ast.dump(tree, include_attributes=True)
    made = copied(tree)
    assert same(made, tree)
    assert ast.dump(made, include_attributes=True) == ast.dump(copy.deepcopy(tree), include_attributes=True) == before
    for node in walk(made):
        if isinstance(node, ast.Name):
            node.id += "_"
        elif isinstance(node, ast.FunctionDef):
            node.body.clear()
    assert ast.dump(tree, include_attributes=True) == before


def test_programs_are_the_same_exactly_if_their_dumps_are():
    texts = [
        "x = 1", "x = 1  # a", "x = True", "x = 1.0", "x = 0.0", "x = -0.0", "x = '1'", "x = b'1'", "x = u'1'",
        "x = (1)", "x = 1,", "x += 1", "x = y", "x = 1; y = 2", "x = 1\ny = 2", "x == 1", "x != 1", "f(x)", "f(x=x)",
        "def f(a): return a", "def f(a): return", "def f(a=None): return a", "def f(*, a): return a",
        "x = float('nan')",
    ]  # fmt: skip
    trees = [ast.parse(text) for text in texts]
    for one in trees:
        for other in trees:
            assert same(one, other) == (ast.dump(one) == ast.dump(other)), (ast.dump(one), ast.dump(other))
    for one, other in pairwise(map(ast.parse, SOURCES)):
        assert same(one, one)
        assert not same(one, other)


def test_a_part_that_is_missing_is_the_same_as_an_empty_one():
    assert same(ast.Return(), ast.Return(value=None))
    assert ast.dump(ast.Return()) == ast.dump(ast.Return(value=None))
