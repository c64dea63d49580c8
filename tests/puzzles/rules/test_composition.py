"""Composed puzzles: true, admitted, canonical, as wide as their tables, and quick to draw whatever they ask."""

from __future__ import annotations

import ast
import random
import time
from collections import Counter

import pytest

from puzzles import answer_type
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import Puzzle
from puzzles.rules import composition
from puzzles.rules.composition import ANSWERS, CONDITIONS, OPERATIONS, compose
from puzzles.rules.vocabulary import ANSWER_NAMES
from puzzles.verify import admit, verify_texts

DRAWN = 12


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(5)
    return [(declared, *compose(rng, declared)) for declared in ANSWERS for _ in range(DRAWN)]


@pytest.fixture(scope="module")
def puzzles(pool, pairs):
    parsed = parse_puzzles(pool, [Text(puzzle) for _, puzzle, _ in pairs])
    assert all(isinstance(puzzle, Puzzle) for puzzle in parsed)
    return parsed


def test_every_solution_is_accepted(pool, pairs):
    judgements = verify_texts(pool, [(puzzle, solution) for _, puzzle, solution in pairs])
    assert Counter(str(judgement.verdict) for judgement in judgements) == {"accepted": len(pairs)}


@pytest.mark.slow
def test_every_puzzle_is_admitted_and_has_the_type_asked_for(pool, pairs, puzzles):
    assert [refusal for refusal in admit(pool, puzzles) if refusal] == []
    assert [puzzle.answer_type for puzzle in puzzles] == [declared for declared, *_ in pairs]


def test_texts_are_canonical_and_a_solution_begins_with_the_header_that_its_puzzle_gives(pairs, puzzles):
    assert [puzzle.source for puzzle in puzzles] == [text for _, text, _ in pairs]
    assert [puzzle.header for puzzle in puzzles] == [solution.split("\n")[0] for *_, solution in pairs]
    assert any(puzzle.header != "def g():" for puzzle in puzzles)


def test_a_condition_is_short_and_an_answer_too():
    rng = random.Random(6)
    for declared in [*ANSWERS] * 30:
        puzzle, solution = compose(rng, declared)
        assert len(puzzle.partition("return ")[2]) <= composition.MOST_CHARACTERS_LONG
        assert len(solution.partition("return ")[2]) <= composition.MOST_VALUE_CHARACTERS


@pytest.mark.slow
def test_no_draw_takes_long_whatever_the_puzzle_asks_of_trivial_answers():
    rng, slowest = random.Random(7), 0.0
    for declared in [*ANSWERS] * 200:
        started = time.process_time()
        compose(rng, declared)
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 1


@pytest.mark.parametrize("chained", ["{k} ** {x}", "{w} * {x}", "list(range({x}))", "sum((2 ** {v} for {v} in {x}))"])
def test_what_grows_without_bound_is_asked_of_the_answer_only(chained):
    assert composition.AMPLIFYING.search(chained)
    assert not composition.AMPLIFYING.search("{x} * {k}")


# ---- the tables ----


def test_every_type_in_the_tables_is_one_of_the_contracts_and_has_answers_or_comes_out_of_operations():
    given = {kind for row in OPERATIONS.values() for _, kind in row}
    for kind in given | set(OPERATIONS) | set(ANSWERS):
        assert answer_type.read(ast.parse(kind, mode="eval").body) == kind
    assert set(OPERATIONS) <= given | set(ANSWERS)
    assert set(ANSWERS) <= set(ANSWER_NAMES)


def test_every_operation_and_condition_can_be_used(monkeypatch):
    """Each of them is offered alone, on the answers it is for, until it makes a clause."""
    rng = random.Random(8)
    unused = []
    for taken, row in OPERATIONS.items():
        if taken in ANSWERS:
            for text, given in dict.fromkeys(row):
                monkeypatch.setitem(OPERATIONS, taken, [(text, given)])
                unused += [text] * (not any(_makes_a_clause(rng, taken, 1) for _ in range(400)))
    kinds_of = composition.kinds_of
    of_kind = {kind: [declared for declared in ANSWERS if kind in kinds_of(declared)] for kind in CONDITIONS}
    for kind, texts in list(CONDITIONS.items()):
        for text in dict.fromkeys(texts):
            monkeypatch.setitem(CONDITIONS, kind, [text])
            monkeypatch.setattr(composition, "kinds_of", lambda declared, kind=kind: (kind,))
            unused += [text] * (not any(_makes_a_clause(rng, each, 0) for each in of_kind[kind] * 2000))
    assert not unused, unused


def _makes_a_clause(rng, declared, depth):
    try:
        return bool(composition._Draft(rng, declared)._clause(depth))
    except composition._Unsuitable:
        return False


def test_answers_are_as_varied_as_the_values_drawn():
    rng = random.Random(9)
    answers = Counter(compose(rng, "str")[1] for _ in range(500))
    assert len(answers) > 450


def test_the_same_seed_gives_the_same_pairs():
    one, two = ([compose(random.Random(seed), declared) for declared in ANSWERS] for seed in (1, 1))
    assert one == two
    assert one != [compose(random.Random(2), declared) for declared in ANSWERS]
