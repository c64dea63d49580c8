"""What rules tell of a puzzle: skills, form, niche and numbers."""

import json
import math
from dataclasses import replace

import pytest
from described import EXAMPLES

from puzzles.answer_type import SCALARS
from puzzles.archive.formats import read_puzzles
from puzzles.features import FEATURES, FORMS, SHAPES, SKILLS, Niche, described, shape_of
from puzzles.parse import Text, parse_puzzles


def puzzles_of(pool, texts):
    return parse_puzzles(pool, [Text(text) for text in texts])


@pytest.fixture(scope="module")
def traits(pool):
    return described(pool, puzzles_of(pool, [text for text, _ in EXAMPLES]))


def test_hand_written_examples_are_in_their_niches(traits):
    assert [str(each.niche) for each in traits] == [niche for _, niche in EXAMPLES]


def test_a_niche_is_read_as_it_is_written(traits):
    assert [Niche.read(niche) for _, niche in EXAMPLES] == [each.niche for each in traits]


def test_names_and_layout_change_no_trait_but_the_length(pool):
    one, other = described(
        pool,
        puzzles_of(
            pool,
            ["def f(s: str, k=4):\n    return s.count('a') == k", "def sat(te: str, n=4): return te.count('a') == n"],
        ),
    )
    assert (one.niche, one.shingles) == (other.niche, other.shingles)
    assert {name for name in FEATURES if one.features[name] != other.features[name]} <= {"characters"}


def test_a_distance_counts_what_differs():
    one = Niche(frozenset({"bits", "strings"}), "str", "calls")
    assert one.distance(one) == 0
    assert one.distance(Niche(frozenset({"bits"}), "str", "calls")) == 1
    assert one.distance(Niche(frozenset({"geometry"}), "tuple", "loop")) == 5


def test_every_answer_type_has_a_shape():
    types = [*SCALARS, "List[int]", "List[bool]", "List[str]", "List[List[int]]", "List[Tuple[int, str]]", "Set[str]"]
    types += ["Dict[str, int]", "Tuple[int, ...]", "Optional[Set[int]]", "List[Optional[int]]", "List[Dict[int, str]]"]
    assert {shape_of(each) for each in types} <= set(SHAPES)
    assert shape_of("Optional[Set[int]]") == "set"
    assert shape_of("List[Tuple[int, str]]") == "rows"


def test_the_numbers_are_what_one_counts(pool):
    (found,) = described(pool, puzzles_of(pool, ["def f(x: int, k=19):\n    return x * x % k == 5 and x > y + 300"]))
    expected = {
        "lines": 2, "statements": 2, "functions": 1, "parameters": 1, "clauses": 1, "equalities": 1, "orders": 1,
        "products": 1, "remainders": 1, "additions": 1, "calls": 0, "constants": 3, "answer_reads": 3,
        "unknown_names": 1, "largest_number": math.log10(301), "of int": 1.0, "of str": 0.0, "constant_comparisons": 0,
    }  # fmt: skip
    assert {name: found.features[name] for name in expected} == expected
    assert tuple(found.features) == FEATURES


def test_a_constant_beyond_all_floats_has_a_finite_logarithm(pool):
    (found,) = described(pool, puzzles_of(pool, [f"def f(x: int):\n    return x == {10**400}"]))
    assert found.features["largest_number"] == 300


def test_a_puzzle_whose_name_has_a_second_meaning_is_described(pool):
    (puzzle,) = puzzles_of(pool, ["def sat(x: int):\n    class f:\n        f = 3\n    return x == f.f * 7"])
    assert "f = sat" in puzzle.source
    (found,) = described(pool, [puzzle])
    assert found.features["answer_reads"] == 1


def test_what_ends_its_child_is_unreadable_and_the_others_are_described(pool):
    (puzzle,) = puzzles_of(pool, [EXAMPLES[0][0]])
    bomb = replace(puzzle, source="def f(x: int):\n    return " + "-" * 90_000 + "x")
    broken = replace(puzzle, source="def f(x: int: return")
    found = described(pool, [puzzle, bomb, broken, puzzle])
    assert [each.niche.form for each in found] == ["operators", "unreadable", "unreadable", "operators"]
    assert set(found[1].features.values()) == {0.0}
    assert described(pool, []) == []


def test_rules_find_the_skills_that_people_named(pool):
    """Of the training set: precision and recall of each rule, as `SKILLS` says, are well above those of a guess."""
    raws = list(read_puzzles("train"))
    found = [each.niche.skills for each in described(pool, puzzles_of(pool, [raw.puzzle for raw in raws]))]
    both = sum(len(own & set(raw.skills)) for own, raw in zip(found, raws, strict=True))
    named = sum(len(SKILLS.keys() & set(raw.skills)) for raw in raws)
    assert both / sum(map(len, found)) > 0.6
    assert both / named > 0.65
    for skill in SKILLS:
        told = [skill in raw.skills for own, raw in zip(found, raws, strict=True) if skill in own]
        assert sum(told) / len(told) > 2 * sum(skill in raw.skills for raw in raws) / len(raws), skill


def test_records_of_children_are_plain(traits):
    assert all(each.niche.form in FORMS and each.niche.shape in SHAPES for each in traits)
    assert json.loads(json.dumps([each.features for each in traits])) == [each.features for each in traits]
