"""Rule families: their pairs are canonical, admitted and true, and the same everywhere."""

from __future__ import annotations

import ast
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import Puzzle, Verdict
from puzzles.rules.families import FAMILIES, RulePair, draw, generate
from puzzles.verify import admit, truth_pool, verify_texts
from sandbox.pool import Pool

SEED = 3
PAIRS_PER_FAMILY = 6
PAIRS = [pair for name in FAMILIES for pair in generate(SEED, PAIRS_PER_FAMILY, [name])]
ANSWER_TYPES = {
    "int", "float", "str", "List[int]", "List[str]", "List[bool]", "List[float]", "Set[int]", "Set[str]",
    "Dict[str, int]", "Dict[int, str]", "Tuple[int, int]", "Tuple[str, int]", "List[List[int]]",
    "List[Tuple[int, int]]", "Optional[int]", "Tuple[int, int, int]", "Tuple[str, str]", "Tuple[float, float]",
    "Set[Tuple[int, int]]", "Dict[int, int]", "Dict[str, str]",
}  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with truth_pool() as pool:
        yield pool


@pytest.fixture(scope="module")
def puzzles(pool: Pool) -> list[Puzzle]:
    parsed = parse_puzzles(pool, [Text(pair.puzzle) for pair in PAIRS])
    assert all(isinstance(puzzle, Puzzle) for puzzle in parsed)
    return [puzzle for puzzle in parsed if isinstance(puzzle, Puzzle)]


def _digest(pairs: Iterator[RulePair]) -> str:
    return hashlib.sha256("\n".join(f"{pair.puzzle}\n{pair.solution}" for pair in pairs).encode()).hexdigest()


def test_every_solution_is_accepted(pool: Pool) -> None:
    judgements = verify_texts(pool, [(pair.puzzle, pair.solution) for pair in PAIRS])
    wrong = [(p, j) for p, j in zip(PAIRS, judgements, strict=True) if j.verdict != Verdict.ACCEPTED]
    assert not wrong


def test_every_puzzle_is_admitted(pool: Pool, puzzles: list[Puzzle]) -> None:
    refused = [(p.source, str(refusal)) for p, refusal in zip(puzzles, admit(pool, puzzles), strict=True) if refusal]
    assert not refused


def test_puzzles_are_canonical_with_nothing_left_out(puzzles: list[Puzzle]) -> None:
    assert [puzzle.source for puzzle in puzzles] == [pair.puzzle for pair in PAIRS]
    assert not any(puzzle.imports for puzzle in puzzles)


@pytest.mark.slow
def test_all_texts_are_what_unparse_writes() -> None:
    for pair in generate(SEED, 1500):
        for text in (pair.puzzle, pair.solution):
            assert ast.unparse(ast.parse(text)) == text, pair


def test_solutions_begin_with_the_header_that_the_puzzle_gives(puzzles: list[Puzzle]) -> None:
    assert [puzzle.header for puzzle in puzzles] == [pair.solution.split("\n")[0] for pair in PAIRS]
    assert any(puzzle.header != "def g():" for puzzle in puzzles)


def test_all_answer_types_occur(puzzles: list[Puzzle]) -> None:
    assert {puzzle.answer_type for puzzle in puzzles} == ANSWER_TYPES


@pytest.mark.slow
def test_every_family_is_wide_and_short() -> None:
    for name in FAMILIES:
        pairs = list(generate(SEED, 40, [name]))
        assert len({pair.puzzle for pair in pairs}) == 40
        assert max(len(pair.puzzle) for pair in pairs) < 400
        assert max(len(pair.solution) for pair in pairs) < 320


@pytest.mark.slow
def test_all_families_are_drawn() -> None:
    assert {pair.family for pair in generate(SEED, 2000)} == set(FAMILIES)


@pytest.mark.slow
def test_a_puzzle_has_more_than_one_solution_text() -> None:
    rng = random.Random(SEED)
    solutions: dict[str, set[str]] = {}
    for pair in (draw(rng, ["sum_and_length"]) for _ in range(5000)):
        solutions.setdefault(pair.puzzle, set()).add(pair.solution)
    assert max(map(len, solutions.values())) > 2


def test_the_same_seed_gives_the_same_pairs_everywhere() -> None:
    assert _digest(generate(0, 200)) == "05fc1c2b4c0ea4cc50a70ad1581e1587a64d0d0f1512245f74b3bd4c9a501b57"


@pytest.mark.slow
def test_the_order_of_sets_in_this_process_does_not_matter() -> None:
    code = (
        "import zlib; from puzzles.rules.families import generate;"
        "print(zlib.crc32(repr(list(generate(0, 300, ['composed_set_str']))).encode()));"
        "print(zlib.crc32(repr([(pair.puzzle, pair.solution) for pair in generate(0, 800)]).encode()))"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                       capture_output=True).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


def test_other_seeds_give_other_pairs() -> None:
    assert _digest(generate(0, 50)) != _digest(generate(1, 50))


def test_asking_for_more_than_there_is_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ("def f(x: int):\n    return x == 7", "def g():\n    return 7")
    monkeypatch.setitem(FAMILIES, "only_one", lambda rng: pair)
    with pytest.raises(ValueError, match="only_one: expected 2 puzzles, got 1"):
        list(generate(SEED, 2, ["only_one"]))
