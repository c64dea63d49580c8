import ast

import pytest

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Puzzle
from puzzles.similarity import clause_forms, jaccard, normal_form, order_free_form, shingles
from puzzles.verify import truth_pool
from sandbox.result import Limits


@pytest.fixture(scope="module")
def pool():
    with truth_pool(Limits(), lanes=2) as pool:
        yield pool


def puzzles(pool, *texts):
    parsed = parse_puzzles(pool, [Text(text) for text in texts])
    assert all(isinstance(puzzle, Puzzle) for puzzle in parsed), parsed
    return parsed


BASE = "def f(xs: List[int], n=10):\n    total = sum(x * x for x in xs)\n    return total == n and len(xs) == 3"


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        "def sat(ys: List[int], k=10):\n    s = sum(y * y for y in ys)\n    return s == k and len(ys) == 3",
        "def f(xs: list[int], n = 10) -> bool:\n\n    total = (sum((x*x) for x in xs)) # a comment\n"
        "    return ((total == n) and (len(xs) == 3))\n\n",
        'def f(xs: List[int], n=0xA):\n    """Three squares."""\n'
        "    total = sum(x * x for x in xs)\n    return total == n and len(xs) == 3",
    ],
    ids=["itself", "names", "layout", "docstring and spelling"],
)
def test_names_layout_and_docstrings_do_not_count(pool, text):
    base, other = puzzles(pool, BASE, text)
    assert (other.id, other.skeleton, other.shingles) == (base.id, base.skeleton, base.shingles)


@pytest.mark.parametrize(
    "text", [BASE.replace("10", "11"), BASE.replace("3", "4"), BASE.replace("10", "12345").replace("3", "7")]
)
def test_constants_count_but_not_in_the_skeleton(pool, text):
    base, other = puzzles(pool, BASE, text)
    assert other.id != base.id
    assert other.skeleton == base.skeleton


BODIES = [
    ("return x[:5] == y", "return x[5:] == y"),
    ("return x[::2] == y", "return x[2:] == y"),
    (
        "if x:\n        y = 1\n        y = 2\n    return y",
        "if x:\n        y = 1\n    else:\n        y = 2\n    return y",
    ),
    ("for a in x:\n        y = 1\n    else:\n        y = 2", "for a in x:\n        y = 1\n        y = 2"),
    ("while x:\n        y\n        z", "while x:\n        y\n    else:\n        z"),
    ("return {**x} == y", "return {None: x} == y"),
    ("return g(*x)", "return g(x)"),
    ("return (lambda *a: a)(x)", "return (lambda **a: a)(x)"),
    ("return [x, (y, y)]", "return [x, y, (y,)]"),
    ("return x == 1", "return x == True"),
    ("return x == 1", "return x == 1.0"),
    ("return x == 1", "return x == '1'"),
    ("return x.a == y", "return x.b == y"),
    ("return x < y < x", "return x < y > x"),
    ("return x - y", "return y - x"),
    ("return all(x)", "return any(x)"),
    ("return max(x, key=len)", "return max(x, default=len)"),
    ("return [a for a in x if a if y]", "return [a for a in x if a for a in y]"),
    ("try:\n        x\n    except KeyError:\n        y", "try:\n        x\n    finally:\n        y"),
    ("global z\n    z = x", "nonlocal_ = x\n    z = x"),
    ("return f'{x}'", "return f'{x!r}'"),
    ("import math as m\n    return m.pi == x", "import cmath as m\n    return m.pi == x"),
]


@pytest.mark.parametrize(("first", "second"), BODIES, ids=lambda body: body[:20])
def test_different_programs_have_different_identities(pool, first, second):
    one, other = puzzles(pool, *(f"def f(x: str, y=''):\n    {body}" for body in (first, second)))
    assert one.id != other.id


def test_the_answers_type_and_the_defaults_are_part_of_the_identity(pool):
    texts = [
        "def f(x: int):\n    return x == 1",
        "def f(x: float):\n    return x == 1",
        "def f(x: int, n=1):\n    return x == 1",
    ]
    assert len({puzzle.id for puzzle in puzzles(pool, *texts)}) == 3


def test_a_normal_form_is_written_out():
    tree = ast.parse("def f(xs: List[int], n=3):\n    return len(xs[1:]) == n")
    assert normal_form(tree) == (
        "(Module body: (FunctionDef v0 (arguments args: (arg v1 (Subscript List int ) ) (arg v2 ) defaults: 3 ) "
        "body: (Return (Compare (Call len args: (Subscript v1 (Slice 1 ) ) ) ops: (Eq ) comparators: v2 ) ) ) )"
    )
    assert normal_form(tree, constants=False) == normal_form(tree).replace(" 3 ", " int ").replace(" 1 ", " int ")


def test_candidates_are_known_by_their_normal_form_too(pool):
    texts = [
        "def g():\n    a = 1\n    return a",
        "def sol():\n    b = 1  # one\n    return b",
        "def g():\n    return 1",
    ]
    first, second, third = parse_candidates(pool, [Text(text) for text in texts])
    assert first.id == second.id != third.id


def test_a_canonical_text_is_its_own_canonical_text(pool):
    texts = [BASE, *(f"def sat(x: str, y=''):\n    'doc'\n    'more'\n    {body}" for pair in BODIES for body in pair)]
    once = puzzles(pool, *texts)
    twice = puzzles(pool, *(puzzle.source for puzzle in once))
    assert [(p.source, p.id, p.skeleton, p.shingles) for p in twice] == [
        (p.source, p.id, p.skeleton, p.shingles) for p in once
    ]


@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [({1, 2}, {1, 2}, 1.0), ({1, 2}, {2, 3}, 1 / 3), ({1}, {2}, 0.0), (set(), {1}, 0.0), (set(), set(), 1.0)],
)
def test_jaccard_is_shared_over_all(first, second, similarity):
    assert jaccard(frozenset(first), frozenset(second)) == similarity


def test_shingles_are_runs_of_five_tokens():
    assert len(shingles("a b c d e f g")) == 3
    assert len(shingles("a b c")) == len(shingles("a b c d e")) == 1
    assert shingles("a b c d e") < shingles("a b c d e f")


MOVED = [
    ("return x == y and len(x) > 2", "return 2 < len(x) and y == x"),
    ("return len(x) + 3 + len(y) == 9", "return 9 == 3 + (len(y) + len(x))"),
    ("return 1 < len(x) <= 9", "return 9 >= len(x) > 1"),
    ("return set(x) == {'a', 'b', y}", "return {y, 'b', 'a'} == set(x)"),
    ("return {'a': 1, 'b': 2}.get(x) == 1", "return {'b': 2, 'a': 1}.get(x) == 1"),
    ("return sorted(x, key=ord, reverse=True) == y", "return sorted(x, reverse=True, key=ord) == y"),
    ("assert x\n    assert len(y) == 3\n    return x < y", "assert len(y) == 3\n    assert x\n    return x < y"),
]


@pytest.mark.parametrize(("first", "second"), MOVED, ids=lambda body: body[:20])
def test_the_order_of_what_can_be_moved_does_not_count_in_the_order_free_form(pool, first, second):
    one, other = puzzles(pool, *(f"def f(x: str, y=''):\n    {body}" for body in (first, second)))
    assert one.id != other.id
    assert (one.unordered, one.shingles) == (other.unordered, other.shingles)


SAME = [
    ("if len(x) != 3:\n        return False\n    return x < y", "return len(x) == 3 and x < y"),
    (
        "if len(x) < 3 or not x[0] == 'a':\n        return False\n    z = x + y\n    if z in y:\n        return False\n"
        "    return x < y",
        "z = x + y\n    return len(x) >= 3 and x[0] == 'a' and z not in y and x < y",
    ),
    ("try:\n        return x[3] == y\n    except IndexError:\n        return False", "return x[3] == y"),
    ("return not (x == y or x == 'a')", "return x != y and x != 'a'"),
    ("return not not x.isalpha()", "return x.isalpha()"),
]


@pytest.mark.parametrize(("first", "second"), SAME, ids=lambda body: body[:20])
def test_an_early_refusal_is_a_clause_of_what_is_returned_in_the_end(first, second):
    forms = {order_free_form(ast.parse(f"def f(x: str, y=''):\n    {body}")) for body in (first, second)}
    assert len(forms) == 1


@pytest.mark.parametrize(
    "body",
    [
        "if len(x) != 3:\n        return True\n    return x < y",
        "if len(x) == 3:\n        return False\n    return x < y",
        "if len(x) != 3:\n        return False\n    else:\n        y = x\n    return x < y",
        "try:\n        return len(x) == 3 and x < y\n    except IndexError:\n        return True",
    ],
)
def test_another_early_return_is_another_program(body):
    first, second = (order_free_form(ast.parse(f"def f(x: str, y=''):\n    {b}")) for b in (body, SAME[0][1]))
    assert first != second


def test_the_annotation_of_the_answer_does_not_hide_a_puzzle():
    first, second = (
        order_free_form(ast.parse(f"def f(t: {kind}):\n    a, b = t\n    return a * b == 91 and a > b"))
        for kind in ("Tuple[int, int]", "List[int]")
    )
    assert first == second


def test_the_order_of_helpers_parameters_and_names_does_not_count_either(pool):
    one, other = puzzles(
        pool,
        "def a(x):\n    return x + 1\n\ndef b(x):\n    return x * 2\n\ndef f(x: int, n=3, m=4):\n    return a(x) == n",
        "def q(w):\n    return 2 * w\n\ndef p(w):\n    return 1 + w\n\ndef f(z: int, k=4, l=3):\n    return l == p(z)",
    )
    assert (one.unordered, one.shingles) == (other.unordered, other.shingles)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("return x < y", "return len(x) < y"),
        ("return x - 'a' == y", "return x + 'a' == y"),
        ("return 1 < len(x)", "return 1 > len(x)"),
        ("return len(x) - 3 == 1", "return 3 - len(x) == 1"),
        ("return x[1:] == y", "return x[:1] == y"),
        ("return max(x, y) == x", "return min(x, y) == x"),
        ("if x:\n        return y", "while x:\n        return y"),
    ],
    ids=lambda body: body[:20],
)
def test_other_programs_have_other_order_free_forms(first, second):
    one, other = (order_free_form(ast.parse(f"def f(x: str, y=''):\n    {body}")) for body in (first, second))
    assert one != other


OTHER_CONSTANTS = [
    ("def f(x: str):\n    return [x.count(c) for c in 'abc'] == [2, 0, 3]",
     "def f(x: str):\n    return [x.count(c) for c in 'kz'] == [1, 4]"),
    ("def f(n: int):\n    return -n // 4 == -6", "def f(n: int):\n    return -n // 4 == 6"),
    ("def f(s: str):\n    return s + s[::-1] == 'deed'", "def f(s: str, t='noon'):\n    return s + s[::-1] == t"),
    ("def f(x: int, k=3):\n    return x % 7 == k", "def f(x: int, m=9):\n    return x % m == 2"),
    ("def f(x: str):\n    return eval(x) == {'a': 1}", "def f(x: str):\n    return eval(x) == {'b': -1, 'c': 2}"),
    ("def f(x: str):\n    return sorted(x) == [(1, 2)]", "def f(x: str, t=[]):\n    return sorted(x) == t"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), OTHER_CONSTANTS, ids=lambda text: text.partition("return ")[2][:20])
def test_neither_sign_nor_length_nor_a_parameters_name_hides_another_constant(first, second):
    trees = [ast.parse(text) for text in (first, second)]
    assert len({order_free_form(tree, constants=False) for tree in trees}) == 1
    assert len({order_free_form(tree) for tree in trees}) == 2
    assert len({clause_forms(tree) for tree in trees}) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("def f(x: int, k=3):\n    return x == k", "def f(x: int, k=3):\n    k = x\n    return x == k"),
        ("def f(x: int, k=3):\n    return x == k", "def f(x: int, k=3):\n    return [x for k in 'a'] == k"),
        ("def f(x: int):\n    return x == [1]", "def f(x: int):\n    return x == [x]"),
        ("def f(x: int):\n    return x == -3", "def f(x: int):\n    return x == -x"),
        ("def f(x: int):\n    return x == [1]", "def f(x: int):\n    return x == {1}"),
    ],
)
def test_what_is_more_than_a_constant_counts(first, second):
    one, other = (order_free_form(ast.parse(text), constants=False) for text in (first, second))
    assert one != other


def test_clauses_are_those_of_a_condition_and_early_refusals():
    asked = clause_forms(ast.parse("def f(x: int):\n    return x > 3 and (x < 9 and x % 2 == 1)"))
    assert len(asked) == 3
    refusing = "def f(n: int, k=4):\n    if n % k != 2:\n        return False\n    return 7 < n and n < 12"
    assert clause_forms(ast.parse(refusing)) == asked
    assert clause_forms(ast.parse("def f(x: int):\n    y = x + 1\n    return y == 3")) == frozenset()


def test_members_of_classes_keep_their_names(pool):
    first, second = puzzles(
        pool,
        "class A:\n    p = 1\n    q = 2\n\ndef f(x: int):\n    return x == A.p",
        "class A:\n    q = 1\n    p = 2\n\ndef f(x: int):\n    return x == A.p",
    )
    assert first.id != second.id


def test_a_name_behind_two_nots_is_its_constant():
    twice, once = (ast.parse(f"def f(x: int, n=True):\n    return {text}") for text in ("not not n", "n"))
    assert order_free_form(twice, constants=False) == order_free_form(once, constants=False)


def test_a_constant_that_an_inner_function_never_reads_makes_no_other_puzzle(pool):
    head = "def f(x: int):\n    y = 1\n    async def h():\n        "
    puzzles = parse_puzzles(pool, [Text(f"{head}{line}\n    return y > x") for line in ("y = 2", "pass")])
    assert puzzles[0].id == puzzles[1].id
