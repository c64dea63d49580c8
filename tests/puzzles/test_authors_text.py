"""What an author wrote is what is judged: no renaming and no layout of ours changes a verdict."""

from __future__ import annotations

import typing

import pytest

from puzzles.archive.formats import import_puzzles
from puzzles.archive.store import Archive
from puzzles.archive.worlds import seed_of
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Puzzle, RawPuzzle
from puzzles.verify import admit, truth_pool, verify, verify_texts


@pytest.fixture(scope="module")
def pool():
    with truth_pool(lanes=2) as pool:
        yield pool


LOOKING_AT_ITSELF = {
    "its name": ("def sat(s: str):\n    return s == sat.__name__", "def sol(): return 'f'"),
    "its own name": ("def sat(s: str):\n    return s == sat.__name__", "def sol(): return 'sat'"),
    "its docstring": ("def sat(n: int):\n    'seven'\n    return n == len(sat.__doc__ or '')", "def sol(): return 0"),
    "its own docstring": (
        "def sat(n: int):\n    'seven'\n    return n == len(sat.__doc__ or '')", "def sol(): return 5",
    ),
    "its return annotation": (
        "def sat(n: int) -> bool:\n    return n == len(sat.__annotations__)", "def sol(): return 1",
    ),
    "its own annotations": (
        "def sat(n: int) -> bool:\n    return n == len(sat.__annotations__)", "def sol(): return 2",
    ),
    "the spelling of a type": (
        "def sat(n: list[int]):\n    return len(n) == len(str(sat.__annotations__['n']))", "def sol(): return [0] * 16",
    ),
    "a module's docstring": ("'''abc'''\ndef sat(n: int):\n    return n == len(__doc__ or '')", "def sol(): return 0"),
    "a class's docstring": (
        "class A:\n    'abcd'\n    x = 1\ndef sat(n: int):\n    return n == len(A.__doc__ or '')",
        "def sol(): return 0",
    ),
    "a helper's name": (
        "def g(n): return n % 5 == 0\ndef sat(s: str):\n    return s == g.__name__", "def sol(): return 'g_'",
    ),
    "global names": (
        "def sat(s: str):\n    return s in globals() and callable(globals()[s])", "def sol(): return 'f'",
    ),
    "a local name": (
        "def sat(s: str):\n    f = 3\n    return s in locals() and s != 's' and s != 'f'", "def sol(): return 'f_'",
    ),
    "a keyword": (
        "def f(n): return n % 2 == 0\ndef keep(f): return f\ndef sat(x: int):\n    d = dict(f=x)\n"
        "    return f(x) and d.get('f', 8) == 8", "def sol(): return 2",
    ),
    "an attribute of a class": (
        "def f(n): return n % 5 == 0\nclass Limit:\n    f = 10\ndef sat(x: int):\n"
        "    return x > 0 and f(x) and x != vars(Limit).get('f', 0)", "def sol(): return 10",
    ),
    "a constant with our name": (
        "f = 10\nclass Box:\n    f = 1\ndef sat(x: int):\n    return x > 0 and x % 5 == 0 and x != f",
        "def sol(): return 10",
    ),
    "an error's message": (
        "def sat(s: str):\n    try:\n        sat()\n    except TypeError as e:\n        return s == str(e)[:5]",
        "def sol(): return 'f() m'",
    ),
    "its line": ("\n\n\ndef sat(n: int):\n    return n == sat.__code__.co_firstlineno", "def sol(): return 1"),
    "its own line": ("\n\n\ndef sat(n: int):\n    return n == sat.__code__.co_firstlineno", "def sol(): return 4"),
    "a comment's coding": ("# coding: utf-7\ndef sat(s: str):\n    return s == '+AGE-'", "def sol(): return 'a'"),
}  # fmt: skip


def plain_python(puzzle: str, solution: str) -> bool:
    """What Python says of a pair, without this project."""
    names = {name: getattr(typing, name) for name in typing.__all__}
    for text in (puzzle, solution):
        exec(compile(text, "program", "exec", dont_inherit=True), names)  # noqa: S102  # the reference
    return names["sat"](names["sol"]()) is True


@pytest.mark.parametrize("case", LOOKING_AT_ITSELF)
def test_a_puzzle_that_looks_at_itself_is_judged_as_python_judges_it(pool, case):
    puzzle, solution = LOOKING_AT_ITSELF[case]
    (judgement,) = verify_texts(pool, [(puzzle, solution)])
    assert (judgement.verdict == "accepted") == plain_python(puzzle, solution), judgement


def test_both_verdicts_are_among_those_cases():
    assert {plain_python(*pair) for pair in LOOKING_AT_ITSELF.values()} == {True, False}


@pytest.mark.parametrize("case", ["its own name", "its own docstring", "its own line", "global names"])
def test_no_model_is_trained_on_a_puzzle_whose_canonical_text_says_something_else(pool, tmp_path, case):
    puzzle, solution = LOOKING_AT_ITSELF[case]
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        solution = solution.replace("'f'", "'sat'")
        report = import_puzzles(archive, pool, {}, [RawPuzzle("one", puzzle, (solution,))], admission=True)
    assert report.puzzles == {"seen_by_itself": 1}
    assert report.solutions == {"of a refused puzzle": 1}


def test_a_renamed_puzzle_that_cannot_see_its_name_is_admitted(pool):
    (puzzle,) = parse_puzzles(pool, [Text("def sat(x: int) -> bool:\n    'A square.'\n    return x * x == 1369")])
    assert puzzle.judged == ("def sat(x: int) -> bool:\n    'A square.'\n    return x * x == 1369", "sat")
    assert puzzle.source == "def f(x: int):\n    return x * x == 1369"
    assert admit(pool, [puzzle]) == [None]


def test_a_text_that_differs_in_layout_alone_is_kept_once(pool):
    (puzzle,) = parse_puzzles(pool, [Text("def f( x:int ):  # a square\n\n    return (x*x)==1369\n")])
    (candidate,) = parse_candidates(pool, [Text("def g( ) :\n  return  37 # its root\n")])
    assert (puzzle.text, candidate.text) == ("", "")
    assert puzzle.judged == (puzzle.source, "f")
    assert candidate.run == (candidate.source, "g")


def test_puzzles_that_see_their_own_names_are_the_same_only_under_the_same_name(pool):
    texts = [f"def {name}(n: int):\n    return n == len({name}.__name__)" for name in ("f", "sat", "puzzle", "sat")]
    ids = [puzzle.id for puzzle in parse_puzzles(pool, [Text(text) for text in texts])]
    assert ids[1] == ids[3]
    assert len(set(ids)) == 3


def test_a_solution_may_call_the_puzzle_by_its_own_name_and_by_f(pool):
    puzzle = "def even(n): return n % 2 == 0\ndef sat(x: int, low=10): return x > low and even(x)"
    (asked,) = parse_puzzles(pool, [Text(puzzle)])
    told = parse_candidates(
        pool,
        [
            Text("def sol():\n    return next(n for n in range(99) if sat(n))", rename={"sat": "f"}),
            Text("def g():\n    return next(n for n in range(99) if f(n) and even(n))"),
            Text("def even(n): return True\ndef g():\n    return next(n for n in range(99) if f(n) and even(n))"),
        ],
    )
    assert [judgement.answer for judgement in verify(pool, [(asked, candidate) for candidate in told])] == ["12"] * 3


def test_an_archive_keeps_the_authors_texts_and_judges_them(pool, tmp_path):
    puzzle, solution = LOOKING_AT_ITSELF["its own name"]
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        import_puzzles(archive, pool, {}, [RawPuzzle("one", puzzle, (solution,))])
        (identifier,) = archive.puzzle_ids()
        assert archive.puzzle(identifier).judged == (puzzle, "sat")
        ((text, entry, name),) = archive.query("SELECT program, entry, puzzle_name FROM solutions")
        assert (text, entry, name) == (solution, "sol", "sat")
        again = import_puzzles(archive, pool, {}, archive.raw_puzzles())
    assert (again.puzzles, again.solutions) == ({"duplicate": 1}, {"duplicate": 1})


def test_what_a_text_does_not_need_is_left_out_and_nothing_else_is_touched(pool):
    text = (
        "import numpy, math\nlimit = 3; print(limit)\n@(lambda f: f)\ndef sat(x: int, k=limit) -> bool:\n"
        "    'Doc.'\n    return x == math.floor(k)  # floor\n\nprint(\n    sat(3)\n); rest = 'é'\n"
    )
    (puzzle,) = parse_puzzles(pool, [Text(text)])
    assert isinstance(puzzle, Puzzle)
    assert puzzle.text == (
        "import math\nlimit = 3; pass\n@(lambda f: f)\ndef sat(x: int, k=limit) -> bool:\n"
        "    'Doc.'\n    return x == math.floor(k)  # floor\n\npass; pass\n"
    )


CHANGED_BELOW = {
    "a pattern that binds the puzzle": "def f(x: int): return x == 5\nmatch (lambda x: x == 6):\n    case f: pass",
    "a pattern with a star":
        "def k(): return [5]\nmatch [lambda: [6], 1]:\n    case [k, *q]: pass\ndef f(x: int): return [x] == k()",
    "a pattern with a rest": "d = {'a': 5}\nmatch {'a': 6}:\n    case {**d}: pass\ndef f(x: int): return x == d['a']",
    "setattr": "class A: k = 5\nsetattr(A, 'k', 6)\ndef f(x: int): return x == A.k",
    "a list of a class": "class A: k = [5]\nA.k.append(6)\ndef f(x: int): return x == A.k[-1]",
    "a default": "def h(k=[5]): return k\nh().append(6)\ndef f(x: int): return x == h()[-1]",
    "a call that counts":
        "def h(k=[4]):\n    k.append(k[-1] + 1)\n    return k[-1]\nh()\ndef f(x: int): return x == h()",
    "a module's member in a loop":
        "import math\nfor _ in [0]: math.pi = 6\ndef f(x: int): return x == 5 and math.pi < 4",
    "what runs where it is no program of its own":
        "k = 5\nif __name__ == '__main__':\n    pass\nelse:\n    k = 6\ndef f(x: int): return x == k",
}  # fmt: skip


def test_no_statement_is_left_out_that_changes_what_the_puzzle_uses(pool):
    pairs = [(text, "def g(): return 5") for text in CHANGED_BELOW.values()]
    verdicts = [judgement.verdict for judgement in verify_texts(pool, pairs)]
    assert dict(zip(CHANGED_BELOW, verdicts, strict=True)) == dict.fromkeys(CHANGED_BELOW, "wrong_answer")


@pytest.mark.parametrize("name", ["f", "sat"])
def test_a_solution_may_call_the_puzzle_as_f_or_by_its_own_name(pool, name):
    solution = f"def sol():\n    return next(n for n in range(9) if {name}(n))"
    (judgement,) = verify_texts(pool, [("def sat(x: int): return x == 5", solution)])
    assert (judgement.verdict, judgement.answer) == ("accepted", "5")


SPOT_CHECK = (
    "import random\ndef f(x: List[int]):\n    if len(x) != 1000: return False\n    for _ in range(20):\n"
    "        i = random.randrange(1000)\n        if x[i] != i * i: return False\n    return True\n"
)
DRAWS = "import random\ndef g():\n    return [random.randrange(1000) for _ in range(20)]"


def test_a_table_of_the_numbers_that_a_known_seed_draws_is_refused_where_the_seed_is_another():
    def right_at(places: list[int]) -> str:
        return f"def g():\n    x = [0] * 1000\n    for i in {places}: x[i] = i * i\n    return x"

    def verdict(seed: int, places: list[int]) -> str:
        with truth_pool(seed=seed) as judges:
            (judgement,) = verify_texts(judges, [(SPOT_CHECK, right_at(places))])
        return judgement.verdict

    everywhere = list(range(1000))
    assert verdict(12345, everywhere) == "accepted"
    assert verdict(12345, everywhere[:900]) == "wrong_answer"


def test_what_is_drawn_depends_on_what_is_called_and_on_nothing_else(pool):
    texts = [f"{DRAWS} + [{number}]" for number in (1, 2, 1)]
    first, second, again = (
        judgement.answer for judgement in verify_texts(pool, [(SPOT_CHECK, text) for text in texts])
    )
    assert first == again
    assert first[:50] != second[:50]


def test_a_secret_of_an_archive_is_drawn_and_kept(tmp_path):
    paths = [tmp_path / f"{name}.sqlite" for name in ("one", "other")]
    kept = []
    for path in paths:
        with Archive(path, create=True) as archive:
            kept.append(archive.worlds)
    assert [seed_of(path) for path in paths] == kept
    assert len({*kept, seed_of(tmp_path / "none.sqlite"), seed_of(tmp_path / "none.sqlite")}) == 4
