"""The hand-written sets keep what they promise. Assertions compare names only: no held-out text is ever shown."""

import hashlib
from collections import Counter

import pytest
from places import ROOT

from puzzles import answer_type
from puzzles.archive.formats import read_puzzles
from puzzles.guard import Guard
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from puzzles.verify import WORLDS, admit, judge_once, verify
from sandbox import child
from sandbox.pool import RUN_PROGRAM, Job

SETS = ("train", "dev", "heldout")
AT_LEAST = {"train": 200, "dev": 75, "heldout": 150}
FROZEN = {
    "dev": "2b43a45b03871e2eebcef49cb4b4b7e52e84da33355f4d35b4328366b50f4506",
    "heldout": "31ee043fb13d5b6b77b524cb2ca49aa3c17f1e784e3ded7775731808c3b3c80f",
}
SKILLS = {
    "arithmetic", "number theory", "strings", "lists", "sorting and search", "sets and maps", "combinatorics",
    "grids and graphs", "geometry", "bits", "parsing", "games",
}  # fmt: skip
DIFFICULTIES = set(range(1, 6))
ANSWER_TYPES = {"int", "str", "float", "List", "Tuple", "Set", "Dict", "Optional"}


class Unshown(dict):
    """A dict that a failing test does not print."""

    def __repr__(self) -> str:
        return "<not shown>"


each_set = pytest.mark.parametrize("name", SETS)


@pytest.fixture(scope="module")
def raws():
    return Unshown({name: read_puzzles(name) for name in SETS})


@pytest.fixture(scope="module")
def puzzles(pool, raws):
    """Name of a set -> name of a puzzle -> the puzzle."""
    parsed = Unshown()
    for name in SETS:
        members = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws[name]])
        refused = [raw.name for raw, member in zip(raws[name], members, strict=True) if not isinstance(member, Puzzle)]
        assert not refused, f"{name}: not puzzles"
        parsed[name] = Unshown((raw.name, member) for raw, member in zip(raws[name], members, strict=True))
    return parsed


@pytest.fixture(scope="module")
def references(pool, raws, puzzles):
    """Name of a set -> name of a puzzle -> its reference solution."""
    parsed = Unshown()
    for name in SETS:
        texts = [Text(raw.solutions[0], rename={puzzles[name][raw.name].original_name: "f"}) for raw in raws[name]]
        members = parse_candidates(pool, texts)
        assert all(isinstance(member, Candidate) for member in members), f"{name}: not solutions"
        parsed[name] = Unshown((raw.name, member) for raw, member in zip(raws[name], members, strict=True))
    return parsed


@pytest.fixture(scope="module")
def judgements(pool, puzzles, references):
    """Name of a set -> name of a puzzle -> the judgement of its reference."""
    return Unshown(
        (name, Unshown(zip(puzzles[name], verify(pool, pairs(puzzles, references, name)), strict=True)))
        for name in SETS
    )


def pairs(puzzles: Unshown, references: Unshown, name: str) -> list[tuple[Puzzle, Candidate]]:
    return [(puzzle, references[name][puzzle_name]) for puzzle_name, puzzle in puzzles[name].items()]


def near_duplicates(puzzles: Unshown) -> list[str]:
    """Compare each with each: two places differ in a binary digit, and by each digit one half is asked of the other."""
    found = set()
    for digit in range(len(puzzles).bit_length()):
        halves: tuple[list, list] = ([], [])
        for place, named_puzzle in enumerate(puzzles.items()):
            halves[place >> digit & 1].append(named_puzzle)
        for guarded, asked in (halves, halves[::-1]):
            guard = Guard.of(guarded)
            found |= {f"{name} ~ {hit}" for name, puzzle in asked if (hit := guard.hit(puzzle))}
    return sorted(found)


@pytest.mark.parametrize("name", FROZEN)
def test_a_guarded_set_is_as_it_was_frozen(name):
    content = (ROOT / "puzzles" / f"{name}.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest() == FROZEN[name]


@each_set
def test_a_set_is_large_enough(raws, name):
    assert len(raws[name]) >= AT_LEAST[name]


@each_set
def test_every_puzzle_has_one_reference_a_name_skills_and_a_difficulty(raws, name):
    wanting = [
        raw.name
        for raw in raws[name]
        if len(raw.solutions) != 1
        or not raw.name.isidentifier()
        or not raw.skills
        or not SKILLS.issuperset(raw.skills)
        or raw.difficulty not in DIFFICULTIES
    ]
    assert wanting == []


@each_set
def test_a_set_exercises_every_skill(raws, name):
    assert {skill for raw in raws[name] for skill in raw.skills} == SKILLS


@each_set
def test_a_set_has_puzzles_of_every_difficulty(raws, name):
    assert {raw.difficulty for raw in raws[name]} == DIFFICULTIES


@each_set
def test_a_set_asks_for_answers_of_every_kind(puzzles, name):
    assert {answer_type.split(puzzle.answer_type)[0] for puzzle in puzzles[name].values()} >= ANSWER_TYPES


def test_names_are_unique_over_all_sets(raws):
    names = Counter(raw.name for name in SETS for raw in raws[name])
    assert [name for name, count in names.items() if count > 1] == []


def test_puzzles_are_unique_over_all_sets(puzzles):
    ids = Counter(puzzle.id for name in SETS for puzzle in puzzles[name].values())
    assert max(ids.values()) == 1


@each_set
def test_every_reference_is_accepted(judgements, name):
    verdicts = {puzzle_name: str(judgement.verdict) for puzzle_name, judgement in judgements[name].items()}
    assert {puzzle_name: verdict for puzzle_name, verdict in verdicts.items() if verdict != "accepted"} == {}


@pytest.mark.slow
@each_set
@pytest.mark.parametrize("world", WORLDS)
def test_every_reference_solved_and_judged_in_one_world_holds_there(pool, puzzles, references, name, world):
    jobs = [
        Job(RUN_PROGRAM, child.program([p.source, c.source], "g", [b"[]"], pool.limits.answer_bytes), world)
        for p, c in pairs(puzzles, references, name)
    ]
    records = [result.records[0] for result in pool.run(jobs)]
    assert {record[:1] for record in records} == {child.VALUE}
    questions = [(p, record[1:]) for p, record in zip(puzzles[name].values(), records, strict=True)]
    outcomes = zip(puzzles[name], judge_once(pool, questions, world), strict=True)
    assert [puzzle_name for puzzle_name, outcome in outcomes if outcome.content != b"true"] == []


@each_set
def test_every_puzzle_is_admitted(pool, puzzles, name):
    refusals = zip(puzzles[name], admit(pool, list(puzzles[name].values())), strict=True)
    assert [(puzzle_name, refusal.reason) for puzzle_name, refusal in refusals if refusal] == []


@each_set
def test_every_reference_uses_less_than_half_the_limit(pool, judgements, name):
    for cost in ("cpu_seconds", "judge_cpu_seconds"):
        assert max(getattr(judgement, cost) for judgement in judgements[name].values()) < pool.limits.cpu_seconds / 2


def test_no_two_puzzles_of_a_set_nor_of_different_sets_are_near_duplicates(puzzles):
    everything = Unshown((f"{name}:{member}", puzzle) for name in SETS for member, puzzle in puzzles[name].items())
    assert near_duplicates(everything) == []


@pytest.mark.parametrize("place", [0, 1, 100, -1])
def test_a_puzzle_that_is_added_again_is_found_wherever_it_stands(puzzles, place):
    name, puzzle = list(puzzles["train"].items())[place]
    twice = Unshown(puzzles["train"], again=puzzle)
    assert set(near_duplicates(twice)) == {f"again ~ exact: {name}", f"{name} ~ exact: again"}
