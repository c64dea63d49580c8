"""Puzzles made from puzzles: what changes, what is refused, and that the answer they were made for is right."""

import ast
import random

import pytest

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Puzzle
from puzzles.rules import families
from puzzles.rules.variation import MOST_CHARACTERS, Variation, varied
from puzzles.verify import verify, verify_texts
from sandbox import codec


def f(test: str, answer: str = "x: int") -> str:
    return f"def f({answer}):\n    return {test}"


def vary(pool, how, *sources, answer, seed=0):
    return varied(pool, [Variation(how, sources, answer, seed)])[0]


@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        (f("x * 3 == 21"), "5", f("x * 3 == 15")),
        (f("21 == x * 3"), "5", f("15 == x * 3")),
        (f("x % 7 == 3 and x // 7 == 2"), "19", f("x % 7 == 5 and x // 7 == 2")),
        (f("x * 3 == n", "x: int, n=21"), "5", f("x * 3 == n", "x: int, n=15")),
        (f("sorted(x) == [1, 2]", "x: List[int]"), "[9, 4, 4]", f("sorted(x) == [4, 4, 9]", "x: List[int]")),
        (f("set(x) == {'a'}", "x: str"), "'ba'", f("set(x) == {'a', 'b'}", "x: str")),
        (f("x[::-1] == 'ab' and len(x) == 2", "x: str"), "'xyz'", f("x[::-1] == 'zyx' and len(x) == 3", "x: str")),
    ],
)
def test_hindsight_gives_an_equation_the_constants_that_the_answer_has(pool, before, answer, after):
    assert vary(pool, "hindsight", before, answer=answer) == after


@pytest.mark.parametrize(("test", "answer"), [("x > 50", "7"), ("50 < x", "7"), ("20 < x < 30", "44"), ("x <= 3", "9")])
def test_hindsight_moves_a_bound_to_where_the_answer_is_inside(pool, test, answer):
    texts = {vary(pool, "hindsight", f(test), answer=answer, seed=seed) for seed in range(8)}
    assert len(texts) > 1
    judged = verify_texts(pool, [(text, f"def g():\n    return {answer}") for text in texts])
    assert {str(judgement.verdict) for judgement in judged} == {"accepted"}


def body(*lines, answer="x: int", before=""):
    return before + f"def f({answer}):\n    " + "\n    ".join(lines)


@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        (body("y = x * 3", "return y == 21"), "5", body("y = x * 3", "return y == 15")),
        (body("n = 21", "return x * 3 == n"), "5", body("n = 15", "return x * 3 == n")),
        (f("x * n == 21", "x: int, *, n=3"), "5", f("x * n == 15", "x: int, *, n=3")),
        (f("x * 3 == n", "x: int, *, n=21"), "5", f("x * 3 == n", "x: int, *, n=15")),
        (f("(x > 4) == True"), "4", f("(x > 3) == True")),
        (body("if x % 7 == 2:", "    return False", "return x > 0"), "9", {
            body(f"if x % 7 == {n}:", "    return False", "return x > 0") for n in (3, 4)}),
        (body("return math.sqrt(x) == 4.0", before="import math\n\n"), "25",
         body("return math.sqrt(x) == 5.0", before="import math\n\n")),
        (f("x in (4, 5)"), "7", f("x in (4, 5, 7)")),
        (f("all((c in 'ab' for c in x))", "x: str"), "'acdb'", f("all((c in 'abcd' for c in x))", "x: str")),
        (body("big = x > 5", "return big and x % 2 == 1"), "3", {body(f"big = x > {n}", "return big and x % 2 == 1")
                                                               for n in (1, 2)}),
        (body("a = x > 3", "b = x % 2 == 1", "if not a:", "    return False", "return b"), "2",
         body("a = x > 0", "b = x % 2 == 0", "if not a:", "    return False", "return b")),
        (body("b = x % 2 == 1", "a = x > 3", "return (a, b)[0]"), "2", body("b = x % 2 == 1", "a = x > 0",
                                                                            "return (a, b)[0]")),
        (body("n: int = 3", "return x == n"), "5", body("n: int = 5", "return x == n")),
        (f("x * 1e+308 * 10 > 5.0 and x * 2 == 6"), "5", f("x * 1e+308 * 10 > 5.0 and x * 2 == 10")),
        (f("'ab' in x", "x: str"), "'xyz'", {f(f"'{part}' in x", "x: str") for part in ("xy", "yz")}),
        (f("3 in x and 4 not in x", "x: List[int]"), "[8]", f("8 in x and 4 not in x", "x: List[int]")),
        (body("for c in x:", "    if c not in 'ab':", "        return False", "return x.count('a') == 1",
              answer="x: str"),
         "'aac'", body("for c in x:", "    if c not in 'abc':", "        return False", "return x.count('a') == 2",
                       answer="x: str")),
        (f("len(x) == 2 and sorted(x) == [1, 2]", "x: List[int]"), "[9, 4, 4]",
         f("len(x) == 3 and sorted(x) == [4, 4, 9]", "x: List[int]")),
    ],
)  # fmt: skip
def test_hindsight_fits_what_decided_last_wherever_its_constant_stands(pool, before, answer, after):
    made = {vary(pool, "hindsight", before, answer=answer, seed=seed) for seed in range(6)}
    if isinstance(after, set):
        assert made == after
    else:
        assert after in made
    judged = verify_texts(pool, [(text, f"def g():\n    return {answer}") for text in sorted(made - {None})])
    assert all(str(judgement.verdict) == "accepted" for judgement in judged)


@pytest.mark.parametrize(
    ("source", "answer", "why"),
    [
        (f("x * 3 == 21"), "7", "it is right already"),
        (f("str(x).isdigit()"), "-7", "there is nothing to compare with"),
        (f("x / 0 == 3"), "7", "it fails on this answer"),
        (f("x / 2 == 3"), "7", "a whole number would become a fraction"),
        (f("x.real == x.imag"), "3", "there is no constant"),
        (f("[type(x)] == [1]"), "3", "the value is no literal"),
        (
            body("try:", "    return x == n", "except ValueError as n:", "    pass", answer="x: int, n=3"),
            "5",
            "the name has two values",
        ),
        (f("(x == x) == False"), "3", "a truth value is no constant"),
        (f("[x] * 99 == [1]"), "7", "the constant would be long"),
        (f("any((x == 3 for n in range(9) for x in [n]))", "y: str, x=3"), "'a'", "the name has other values"),
        ("def f(x: int):\n    n = 3\n    n += 1\n    return x == n", "7", "the name has two values"),
        ("def h(x: int):\n    return x == 3", "7", "there is no f"),
        (f("[a for a in iter(int, 1)] == x"), "5", "it never ends"),
        (f("__import__('os').fork() == 21"), "5", "it may not"),
        (f("x * 3 == 21"), "no literal", "the answer is none"),
        (f("x > 1 and x * 2 == 21 and x % 5 == 0 and x % 7 == 1 and x < 20"), "32", "four constants would change"),
    ],
)
def test_what_cannot_be_varied_is_none(pool, source, answer, why):
    assert vary(pool, "hindsight", source, answer=answer) is None, why


@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        (f("x.isdigit() and len(x) == 3", "x: str"), "'abc'", f("len(x) == 3", "x: str")),
        (f("x.isdigit() and len(x) == 3", "x: str"), "'abcd'", f("len(x) == 4", "x: str")),
        (f("len(x) == 3 and x.isdigit()", "x: str"), "'abc'", f("len(x) == 3", "x: str")),
        (f("x[5] == 'a' and len(x) > 1", "x: str"), "'abc'", f("len(x) > 1", "x: str")),
        (f("x > 1 and str(x).isdigit() and str(x) == str(x)[::-1]"), "34", f("x > 1 and str(x).isdigit()")),
        (f("x > 1 and x * 3 == 21"), "5", f("x > 1 and x * 3 == 15")),
        (f("x.startswith(p) and len(x) > n", "x: str, p='z', n=1"), "'abc'", f("len(x) > n", "x: str, n=1")),
        (f("[type(x)] == [1] and x > 3"), "7", f("x > 3")),
        (f("x * 2 == m and x.bit_length() == n and str(x).startswith(p)", "x: int, p='z', m=9, n=9"), "5",
         f("x * 2 == m and x.bit_length() == n", "x: int, m=10, n=3")),
        (f("x.isdigit() and len(x) == n", "x: str, p='z', /, n=3"), "'ab'", f("len(x) == n", "x: str, p='z', /, n=2")),
        (f("x.isdigit()", "x: str"), "'abc'", None),
        (f("x.isdigit() and x.isupper()", "x: str"), "'abc'", None),
        (f("x.isdigit() and x.isupper() and x.isspace() and x", "x: str"), "'abc'", None),
        (body("if not x.isdigit():", "    return False", "return len(x) == 3 and x[0] == '1'", answer="x: str"),
         "'abc'", None),
    ],
)  # fmt: skip
def test_easing_leaves_out_parts_of_the_last_and_where_constants_do_not_help(pool, before, answer, after):
    assert vary(pool, "ease", before, answer=answer) == after
    if after:
        ((judgement),) = verify_texts(pool, [(after, f"def g():\n    return {answer}")])
        assert str(judgement.verdict) == "accepted"


def test_what_one_puzzle_does_to_its_child_is_nothing_to_the_next(pool):
    endless = Variation("hindsight", (f("[a for a in iter(int, 1)] == x"),), "5", 0)
    plain = Variation("hindsight", (f("x * 3 == 21"),), "5", 0)
    assert varied(pool, [endless, plain, endless, plain]) == [None, f("x * 3 == 15")] * 2


def test_join_asks_for_both_with_the_constants_of_one_answer(pool):
    joined = vary(pool, "join", f("x % 7 == 3 and x > 20", "x: int"), f("str(n)[0] == d", "n: int, d='9'"), answer="45")
    assert joined == f("x % 7 == 3 and x > 20 and (str(x)[0] == '4')")


def test_nest_asks_of_what_the_first_computes_what_the_second_asks_of_its_answer(pool):
    nested = vary(
        pool, "nest", f("sum(x) == 10", "x: List[int]"), f("str(n)[::-1] == '21'", "n: int"), answer="[30, 4]"
    )
    assert nested == f("str(sum(x))[::-1] == '43'", "x: List[int]")


@pytest.mark.parametrize(
    ("how", "first", "second", "why"),
    [
        ("join", f("x == 3 and x > 1"), f("x < 9 and x != 5"), "four clauses"),
        ("join", f("x > 3"), f("all((x > 2 for x in [n]))", "n: int"), "a name of the second is the first's"),
        (
            "nest",
            f("x[::-1] == y", "x: str, y='ab'"),
            f("sorted(s, key=lambda x: s.count(x)) == []", "s: str"),
            "as there",
        ),
        ("join", f("x > 3"), f("len('" + "y" * MOST_CHARACTERS + "') > n", "n: int"), "too long"),
        ("nest", f("x > 3"), f("n * 2 == 4", "n: int"), "the first computes nothing"),
        ("nest", f("x == 3"), f("n * 2 == 4", "n: int"), "the first computes nothing"),
        ("nest", f("str(x) == '4'"), f("n * 2 == 4", "n: int"), "the second cannot ask that of a text"),
    ],
)
def test_what_cannot_be_put_together_is_none(pool, how, first, second, why):
    assert vary(pool, how, first, second, answer="45") is None, why


def test_the_same_seed_gives_the_same_text(pool):
    again = [Variation("hindsight", (f("3 < x < 90"),), "700", seed % 5) for seed in range(10)]
    texts = varied(pool, again)
    assert texts[:5] == texts[5:]
    assert len(set(texts)) > 1


@pytest.mark.slow
def test_the_answer_that_a_puzzle_was_made_for_is_accepted(pool):
    rng = random.Random(0)
    drawn = list(families.generate(17, 300))
    texts = [Text(pair.puzzle) for pair in drawn]
    puzzles = parse_puzzles(pool, texts)
    judged = verify(pool, list(zip(puzzles, parse_candidates(pool, [Text(p.solution) for p in drawn]), strict=True)))
    by_type = {}
    for puzzle, judgement in zip(puzzles, judged, strict=True):
        by_type.setdefault(puzzle.answer_type, []).append((puzzle, judgement.answer))
    asked = []
    for how in ("hindsight", "join", "nest") * 90:
        same = by_type[rng.choice(sorted(by_type))]
        first, second = (
            rng.choice(same)[0],
            rng.choice(same if how == "join" else rng.choice(list(by_type.values())))[0],
        )
        sources = (first.source,) if how == "hindsight" else (first.source, second.source)
        asked.append(Variation(how, sources, rng.choice(same)[1], rng.randrange(1000)))
    made = [(item, text) for item, text in zip(asked, varied(pool, asked), strict=True) if text is not None]
    assert {item.how for item, _ in made} == {"hindsight", "join", "nest"}
    assert len(made) > 40
    parsed = parse_puzzles(pool, [Text(text) for _, text in made])
    assert all(
        isinstance(puzzle, Puzzle) and puzzle.source == text for puzzle, (_, text) in zip(parsed, made, strict=True)
    )
    solutions = parse_candidates(pool, [Text(f"def g():\n    return {item.answer}") for item, _ in made])
    verdicts = [str(judgement.verdict) for judgement in verify(pool, list(zip(parsed, solutions, strict=True)))]
    assert set(verdicts) == {"accepted"}
    assert all(codec.literal(ast.literal_eval(item.answer)) == item.answer for item, _ in made)
