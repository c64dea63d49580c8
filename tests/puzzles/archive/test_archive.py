import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import zlib

import pytest
from archives import ACCEPTED, HUMAN, PROTECTIONS, SAMPLED, made, older, pair, plan, solution

from puzzles.archive import schema
from puzzles.archive.catalogue import Filter, history, page_of, stats
from puzzles.archive.schema import APPLICATION_ID, SCHEMA_VERSION
from puzzles.archive.store import CHUNK_COSTS, AddStatus, Archive, Provenance
from puzzles.guard import Guard, Hit
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import WORLDS_DISAGREE, Candidate, InputError, Judgement, Puzzle, RawPuzzle, Verdict, VerifiedPair

SQUARE = "def f(x: int, k=1764):\n    return x * x == k and x > 0"
SQUARE_RENAMED = (
    "def sat(number: int, wanted=1764):\n    '''Square root.'''\n    return number*number == wanted and number > 0"
)
SQUARE_OTHER_CONSTANTS = "def f(x: int, k=1849):\n    return x * x == k and x > 0"
WORDS = "def f(words: List[str], n=3):\n    return len(words) == n and all(w[::-1] == w and len(w) == 5 for w in words)"
PATH = """
def f(path: List[Tuple[int, int]], size=6, walls=[(1, 1), (2, 3), (4, 4)]):
    seen = set()
    previous = (0, 0)
    for step in path:
        row, column = step
        assert 0 <= row < size and 0 <= column < size
        assert step not in walls and step not in seen
        assert abs(row - previous[0]) + abs(column - previous[1]) == 1
        seen.add(step)
        previous = step
    return previous == (size - 1, size - 1)
"""
PATH_NEARLY = PATH.replace("return previous ==", "return len(seen) > 1 and previous ==")
WRONG = Judgement(Verdict.WRONG_ANSWER, "judge: f returned False", "41", 0.5)


@pytest.fixture(scope="module")
def puzzles(pool):
    texts = [SQUARE, SQUARE_RENAMED, SQUARE_OTHER_CONSTANTS, WORDS, PATH, PATH_NEARLY]
    parsed = parse_puzzles(pool, [Text(text) for text in texts])
    assert all(isinstance(puzzle, Puzzle) for puzzle in parsed)
    return dict(zip(texts, parsed, strict=True))


@pytest.fixture
def archive(tmp_path):
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        yield archive


def counts(archive: Archive) -> dict[str, int]:
    tables = ("protections", "chunks", "puzzles", "solutions", "proposals", "candidates", "refusals", "trained")
    return {table: archive.query(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


# ---- adding ----


def test_a_pair_is_new_once_and_a_duplicate_ever_after(archive, puzzles):
    assert archive.add(pair(puzzles[SQUARE]), HUMAN, PROTECTIONS) is AddStatus.NEW
    assert archive.add(pair(puzzles[SQUARE]), HUMAN, PROTECTIONS) is AddStatus.DUPLICATE
    assert archive.add(pair(puzzles[SQUARE], "21 * 2"), HUMAN, PROTECTIONS) is AddStatus.NEW
    assert counts(archive) == counts(archive) | {"puzzles": 1, "solutions": 2, "protections": 1}


def test_a_puzzle_is_new_once_and_a_duplicate_ever_after(archive, puzzles):
    assert archive.add_puzzle(puzzles[WORDS], HUMAN) is AddStatus.NEW
    assert archive.add_puzzle(puzzles[WORDS], HUMAN) is AddStatus.DUPLICATE


def test_renamed_variables_make_a_duplicate(archive, puzzles):
    assert archive.add_puzzle(puzzles[SQUARE], HUMAN) is AddStatus.NEW
    assert archive.add_puzzle(puzzles[SQUARE_RENAMED], HUMAN) is AddStatus.DUPLICATE
    assert archive.puzzle(puzzles[SQUARE].id).source == puzzles[SQUARE].source


def test_other_constants_and_near_duplicates_are_new_where_nothing_is_guarded(archive, puzzles):
    for text in (SQUARE, SQUARE_OTHER_CONSTANTS, PATH, PATH_NEARLY):
        assert archive.add_puzzle(puzzles[text], HUMAN) is AddStatus.NEW


@pytest.mark.parametrize(
    ("guarded", "text", "reason"),
    [
        (SQUARE, SQUARE, "exact: guarded"),
        (SQUARE, SQUARE_RENAMED, "normal_form: guarded with other names"),
        (SQUARE, SQUARE_OTHER_CONSTANTS, "normal_form: guarded with other constants"),
        (PATH, PATH_NEARLY, "near_duplicate: guarded shares"),
    ],
    ids=["same", "renamed", "other constants", "near"],
)
def test_a_guarded_puzzle_is_refused_in_every_disguise(tmp_path, puzzles, guarded, text, reason):
    guard = Guard.of([("guarded", puzzles[guarded])])
    with Archive(tmp_path / "archive.sqlite", guard, create=True) as archive:
        assert archive.add_puzzle(puzzles[text], HUMAN) is AddStatus.HELD_OUT
        assert archive.guard_reason.startswith(reason)
        assert archive.add(pair(puzzles[text]), HUMAN, PROTECTIONS) is AddStatus.HELD_OUT
        assert set(counts(archive).values()) == {0}


def test_a_puzzle_unlike_the_guarded_ones_gets_in(tmp_path, puzzles):
    guard = Guard.of([("one", puzzles[SQUARE]), ("two", puzzles[PATH])])
    with Archive(tmp_path / "archive.sqlite", guard, create=True) as archive:
        assert archive.add(pair(puzzles[WORDS]), HUMAN, PROTECTIONS) is AddStatus.NEW
        assert archive.guard_reason is None


def test_only_new_is_true():
    assert [bool(status) for status in (AddStatus.NEW, AddStatus.DUPLICATE, AddStatus.HELD_OUT)] == [True, False, False]


def test_a_pair_needs_an_accepted_candidate(puzzles):
    with pytest.raises(ValueError, match="wrong_answer"):
        VerifiedPair(puzzles[SQUARE], solution("41"), WRONG)


def test_a_puzzle_comes_back_as_it_was_but_for_what_the_door_needed(archive, puzzles):
    archive.add_puzzle(puzzles[SQUARE_RENAMED], HUMAN)
    (back,) = [archive.puzzle(identifier) for identifier in archive.puzzle_ids()]
    kept = ("source", "answer_type", "header", "id", "skeleton", "description")
    assert [getattr(back, name) for name in kept] == [getattr(puzzles[SQUARE_RENAMED], name) for name in kept]
    assert back.description == "Square root."


def test_a_missing_puzzle_is_an_input_error(archive):
    with pytest.raises(InputError, match="there is no puzzle 'beef'"):
        archive.puzzle("beef")


def test_protections_are_stored_once_for_equal_content(archive):
    archive.add(pair(made("a1")), HUMAN, {"tier": "A", "kernel": "6"})
    archive.add(pair(made("a2")), HUMAN, {"kernel": "6", "tier": "A"})
    archive.add(pair(made("a3")), HUMAN, {"kernel": "6", "tier": "B"})
    rows = archive.query("SELECT s.puzzle, p.content FROM solutions s JOIN protections p ON p.id = s.protections")
    assert {row[0]: row[1] for row in rows} == {
        "a1": '{"kernel": "6", "tier": "A"}',
        "a2": '{"kernel": "6", "tier": "A"}',
        "a3": '{"kernel": "6", "tier": "B"}',
    }


def test_texts_that_are_no_unicode_are_kept_as_escapes(archive, pool):
    (puzzle,) = parse_puzzles(pool, [Text("def f(x: int):\n    '''\\ud800'''\n    return x == 5")])
    assert puzzle.description == "\ud800"
    provenance = Provenance("import", name="\udcff", original="# \ud800")
    assert archive.add_puzzle(puzzle, provenance) is AddStatus.NEW
    archive.add_refusal("\ud800", "puzzle", "syntax", "\ud800", "\ud800")
    chunk = plan(archive)
    archive.add_proposal(chunk, 0, "syntax", "\ud800", None)
    archive.add_candidate(chunk, 0, puzzle.id, None, Judgement(Verdict.INVALID_SOLUTION, "\ud800"))
    stored = history(archive, puzzle.id)
    assert [stored[key] for key in ("description", "name", "original")] == ["\\ud800", "\\udcff", "# \\ud800"]
    assert [tuple(row) for row in archive.query("SELECT name, detail, original FROM refusals")] == [("\\ud800",) * 3]


# ---- choosing ----


def test_choose_keeps_the_shortest_solutions_of_each_puzzle(archive):
    for identifier in ("b", "a"):
        for text in ("1234", "1", "123", "12"):
            archive.add(pair(made(identifier), text), HUMAN, PROTECTIONS)
    archive.add_puzzle(made("unsolved"), HUMAN)
    chosen = [(puzzle.id, candidate.source) for puzzle, candidate in archive.choose(2)]
    assert chosen == [(puzzle, f"def g():\n    return {text}") for puzzle in ("b", "a") for text in ("1", "12")]
    assert len(archive.choose(100)) == 8


def test_choose_can_take_any_solutions_whatever_their_length(archive):
    texts = ["1234", "1", "123", "12"]
    for text in texts:
        archive.add(pair(made("a"), text), HUMAN, PROTECTIONS)
    ids = sorted(f"s{text}" for text in texts)
    assert [candidate.id for _, candidate in archive.choose(3, shortest=False)] == ids[:3]


def test_choose_leaves_out_the_answer_that_a_variant_was_made_for(archive):
    archive.add(pair(made("a"), "1"), Provenance("variant", 1), PROTECTIONS)
    archive.add(pair(made("b"), "2"), Provenance("variant", 1), PROTECTIONS)
    archive.add(pair(made("b"), "3"), Provenance("model", 1), PROTECTIONS)
    assert [(puzzle.id, candidate.id) for puzzle, candidate in archive.choose(8)] == [("b", "s3")]


@pytest.mark.parametrize("references", [True, False])
@pytest.mark.parametrize("origin", ["variant", "human"])
def test_choose_takes_a_solution_that_the_model_found_too(archive, origin, references):
    archive.add(pair(made("a"), "1"), Provenance(origin, 1), PROTECTIONS)
    chunk = plan(archive)
    for position, verdict in enumerate((Verdict.WRONG_ANSWER, Verdict.ACCEPTED)):
        ids = [candidate.id for _, candidate in archive.choose(8, references)]
        assert ids == ["s1"] * (origin == "human" and references)
        archive.add_candidate(chunk, position, "a", pair(made("a"), "1").solution, Judgement(verdict, ""))
    archive.add(pair(made("a"), "1"), Provenance("model", 1), PROTECTIONS)
    assert [candidate.id for _, candidate in archive.choose(8, references)] == ["s1"]


def test_choose_takes_distinct_solutions_and_breaks_ties_by_id(archive):
    first, second = Candidate("def g():\n    return 2", "id2"), Candidate("def g():\n    return 1", "id1")
    renamed = Candidate("def g():\n    return 3", "id1")
    for candidate in (first, second, renamed):
        archive.add(VerifiedPair(made("a"), candidate, ACCEPTED), HUMAN, PROTECTIONS)
    assert [candidate for _, candidate in archive.choose(8)] == [second, first]


def test_solved_ids_leave_out_what_came_later(archive):
    archive.add_puzzle(made("a"), Provenance("human", 0))
    archive.add_puzzle(made("b"), Provenance("human", 0))
    archive.add(pair(made("c")), Provenance("human", 0), PROTECTIONS)
    archive.add(pair(made("a")), Provenance("model", 2), PROTECTIONS)
    assert archive.solved_ids() == ["a", "c"]
    assert archive.solved_ids(before_iteration=2) == ["c"]
    assert archive.solved_ids(before_iteration=0) == []


def test_a_puzzle_that_two_worlds_judge_differently_stays_visible_and_is_not_chosen(archive):
    for identifier in ("a", "b", "c"):
        archive.add(pair(made(identifier)), HUMAN, PROTECTIONS)
    with archive.transaction():
        archive.plan_chunk(1, "solve", 0, "checkpoint", "seed", {}, {})
    (chunk,) = archive.unjudged(1, "solve")
    disagree = Judgement(
        Verdict.UNSTABLE, f"{WORLDS_DISAGREE}: accepted in one, in another wrong_answer: f returned False"
    )
    archive.add_candidate(chunk, 0, "b", None, disagree)
    archive.add_candidate(
        chunk, 1, "c", None, Judgement(Verdict.UNSTABLE, "solve: beside others it returned 1, alone 2")
    )
    assert [puzzle.id for puzzle, _ in archive.choose(8)] == ["a", "c"]
    assert archive.solved_ids() == ["a", "c"]
    assert history(archive, "b")["candidates by verdict"] == {"unstable": 1}
    assert stats(archive)["quarantined puzzles"] == 1


def test_choose_can_leave_out_what_the_model_proposed_and_solves_too_often(archive):
    chunk = plan(archive)
    for name, origin, solved in (("a", "model", 4), ("b", "model", 3), ("c", "human", 4), ("d", "model", 0)):
        archive.add(pair(made(name), name), Provenance(origin, 1), PROTECTIONS)
        for position in range(4):
            judgement = ACCEPTED if position < solved else Judgement(Verdict.WRONG_ANSWER, "")
            archive.add_candidate(chunk, len(archive.query("SELECT 1 FROM candidates")), name, None, judgement)

    def chosen(most_solved):
        return [puzzle.id for puzzle, _ in archive.choose(8, most_solved=most_solved)]

    assert chosen(1.0) == ["a", "b", "c", "d"]
    assert chosen(0.75) == ["b", "c", "d"]
    assert chosen(0.7) == ["c", "d"]


def test_choose_can_leave_out_references_and_what_the_model_found(archive):
    archive.add(pair(made("a"), "1"), Provenance("human", 0), PROTECTIONS)
    archive.add(pair(made("a"), "23"), Provenance("model", 1), PROTECTIONS)
    archive.add(pair(made("b"), "4"), Provenance("model", 2), PROTECTIONS)

    def chosen(**choice):
        return [candidate.id for _, candidate in archive.choose(1, **choice)]

    assert chosen() == ["s1", "s4"]
    assert chosen(with_references=False) == ["s23", "s4"]
    assert chosen(before_first_iteration=True) == ["s1"]


def test_choose_can_take_only_what_was_written_in_some_iterations_also_if_not_for_the_first_time(archive):
    archive.add(pair(made("a"), "0"), Provenance("human", 0), PROTECTIONS)
    for iteration, written in ((1, "12"), (2, "23"), (3, "4")):
        chunk = plan(archive, iteration)
        for position, text in enumerate(written):
            archive.add(pair(made("b"), text), Provenance("model", iteration), PROTECTIONS)
            archive.add_candidate(chunk, position, "b", pair(made("b"), text).solution, ACCEPTED)

    def chosen(*iterations, references=True):
        return [candidate.id for _, candidate in archive.choose(8, references, found_in=iterations)]

    assert chosen(2) == ["s0", "s2", "s3"]
    assert chosen(1, 3) == ["s0", "s1", "s2", "s4"]
    assert chosen(2, references=False) == ["s2", "s3"]
    assert chosen() == ["s0"]


def test_an_archives_puzzles_can_be_imported_again(archive):
    archive.add(pair(made("a1"), "12"), Provenance("human", name="named", skills=("bits",), difficulty=2), PROTECTIONS)
    archive.add(pair(made("a1"), "1"), Provenance("model"), PROTECTIONS)
    archive.add_puzzle(made("a2"), Provenance("model"))
    source = made("a1").source
    assert archive.raw_puzzles() == [
        RawPuzzle("named", source, ("def g():\n    return 1", "def g():\n    return 12"), ("bits",), 2),
        RawPuzzle("a2", made("a2").source, (), (), None),
    ]


def test_a_mark_is_there_once_it_was_set(archive):
    assert archive.mark("imported") is None
    archive.set_mark("imported", "train")
    archive.set_mark("imported", "train 2")
    assert archive.mark("imported") == "train 2"


# ---- history ----


def test_history_returns_the_provenance_as_stored(archive):
    chunk = plan(archive, 3, "propose", 5)
    provenance = Provenance(
        "model", 3, chunk, 17, ("p1", "p2"), "a name", "the text ü as it came", ("strings", "bits"), 4
    )
    puzzle = made("abcdef0123456789", description="What is asked.")
    archive.add_puzzle(puzzle, provenance)
    archive.add(pair(puzzle, "42"), Provenance("model", 4, chunk, 2), PROTECTIONS)
    archive.add(pair(puzzle, "7"), Provenance("human"), PROTECTIONS)
    story = history(archive, puzzle.id)
    expected = {
        "id": puzzle.id, "source": puzzle.source, "answer_type": "int", "header": "def g():",
        "description": "What is asked.", "origin": "model", "iteration": 3, "chunk": chunk, "position": 17,
        "parents": ["p1", "p2"], "name": "a name", "original": "the text ü as it came",
        "skills": ["strings", "bits"], "difficulty": 4,
    }  # fmt: skip
    assert {key: story[key] for key in expected} == expected
    short, long = story["solutions"]
    assert (short["id"], short["origin"], short["chunk"]) == ("s7", "human", None)
    assert (long["id"], long["origin"], long["iteration"], long["position"]) == ("s42", "model", 4, 2)
    assert (long["answer"], long["cpu_seconds"], long["judge_cpu_seconds"]) == ("42", 0.25, 0.125)


def test_what_was_there_first_keeps_its_provenance(archive):
    archive.add_puzzle(made("a1"), Provenance("human", name="first"))
    archive.add_puzzle(made("a1"), Provenance("model", 5, name="second"))
    assert history(archive, "a1")["name"] == "first"


def test_the_beginning_of_an_id_does_as_long_as_it_is_unique(archive):
    for identifier in ("abc0", "abd0", "fff0"):
        archive.add_puzzle(made(identifier), HUMAN)
    assert history(archive, "abc")["id"] == "abc0"
    assert history(archive, "f")["id"] == "fff0"
    with pytest.raises(InputError, match="expected the id of one puzzle, got 'ab': 2 ids begin with it"):
        history(archive, "ab")


@pytest.mark.parametrize("identifier", ["b", "abc00", "g", "%", "_", "a%", "____", "%c%"])
def test_what_is_no_beginning_of_an_id_finds_nothing(archive, identifier):
    archive.add_puzzle(made("abc0"), HUMAN)
    with pytest.raises(InputError, match="there is none"):
        history(archive, identifier)


# ---- transactions ----


def write_everything(archive: Archive) -> None:
    chunk = plan(archive)
    archive.set_completions(chunk, [["a"]], 8, 1, 2, 0.5, 0.4)
    archive.add(pair(made("a1")), Provenance("model", 1, chunk, 0), PROTECTIONS)
    archive.add_proposal(chunk, 0, "admitted", "", "a1")
    archive.add_candidate(chunk, 0, "a1", solution("42"), ACCEPTED)
    archive.add_refusal("n", "puzzle", "syntax", "line 1", "def")
    archive.add_trained(1, [("a1", "s42")])
    archive.set_judged(chunk, 0.5, 0.4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_transaction_that_fails_leaves_nothing(archive, error):
    def fail() -> None:
        with archive.transaction():
            write_everything(archive)
            assert set(counts(archive).values()) == {1}
            raise error

    with pytest.raises(error):
        fail()
    assert set(counts(archive).values()) == {0}


def test_a_transaction_that_succeeds_leaves_everything(archive):
    with archive.transaction():
        write_everything(archive)
    with Archive(archive.path) as reopened:
        assert set(counts(reopened).values()) == {1}


def test_after_a_failed_transaction_the_next_one_works(archive):
    def fail() -> None:
        with archive.transaction():
            archive.add_proposal(1, 0, "admitted", "", None)
            archive.add_proposal(1, 0, "admitted", "", None)

    with pytest.raises(sqlite3.IntegrityError):
        fail()
    with archive.transaction():
        write_everything(archive)
    assert set(counts(archive).values()) == {1}


# ---- chunks ----


def test_a_chunk_comes_back_as_it_was_planned_sampled_and_judged(archive):
    settings = {**SAMPLED, "batch": [128, 256], "dtype": "float32"}
    planned = {"shots": [["lone \ud800 and \udfff, pair 🧩, ünïcode \x00"], []], "copies": 1, "more": [3, None]}
    archive.plan_chunk(2, "propose", 7, "weights", "[0, 2, 1, 7]", settings, planned)
    chunk = archive.chunk(*archive.unjudged(2, "propose"))
    assert (chunk.iteration, chunk.stage, chunk.number, chunk.checkpoint) == (2, "propose", 7, "weights")
    assert (chunk.seed, chunk.settings, chunk.plan) == ("[0, 2, 1, 7]", settings, planned)
    assert (chunk.completions, chunk.judged) == (None, False)
    completions = ["return '\ud83d'\n", "\udc00\ud800 \U0001f9e9"]
    archive.set_completions(chunk.id, completions, 8, 12, 3, 0.5, 0.4)
    assert archive.chunk(chunk.id).completions == completions
    assert archive.chunk(chunk.id).settings == {**settings, "batch_rows": 8}
    archive.set_judged(chunk.id, 0.25, 0.2)
    assert archive.chunk(chunk.id).judged is True
    costs = archive.query(f"SELECT {', '.join(CHUNK_COSTS)} FROM chunks")
    assert tuple(costs[0]) == (12, 3, 0.5, 0.4, 0.25, 0.2)


def test_completions_that_are_none_differ_from_no_completions_yet(archive):
    archive.plan_chunk(1, "solve", 0, "weights", "0-1", SAMPLED, {"puzzles": [], "copies": 1})
    (chunk,) = archive.unjudged(1, "solve")
    archive.set_completions(chunk, [], 8, 0, 0, 0.0, 0.0)
    assert archive.chunk(chunk).completions == []


def test_a_chunk_planned_before_stays_as_it_is(archive):
    archive.plan_chunk(1, "solve", 0, "old", "1", SAMPLED, {"puzzles": ["old"], "copies": 1})
    archive.plan_chunk(1, "solve", 0, "new", "2", SAMPLED, {"puzzles": ["new"], "copies": 1})
    chunk = archive.chunk(*archive.unjudged(1, "solve"))
    assert (chunk.checkpoint, chunk.seed, chunk.plan) == ("old", "1", {"puzzles": ["old"], "copies": 1})


def test_unfinished_chunks_come_in_order_and_of_their_stage_only(archive):
    assert not archive.planned(1, "solve")
    for iteration, stage, number in [
        (1, "solve", 2),
        (1, "propose", 0),
        (1, "solve", 10),
        (2, "solve", 0),
        (1, "solve", 1),
    ]:
        archive.plan_chunk(iteration, stage, number, "", "", SAMPLED, {"puzzles": [], "shots": [], "copies": 1})
    unjudged = archive.unjudged(1, "solve")
    assert [archive.chunk(identifier).number for identifier in unjudged] == [1, 2, 10]
    archive.set_judged(unjudged[1], 0.0, 0.0)
    assert archive.unjudged(1, "solve") == [unjudged[0], unjudged[2]]
    assert archive.planned(1, "solve")
    assert not archive.planned(2, "propose")


# ---- counts ----


def test_stats_count_everything(archive):
    chunk = plan(archive)
    archive.add(pair(made("a1"), "1"), Provenance("human", 0, skills=("bits", "lists"), difficulty=2), PROTECTIONS)
    archive.add(pair(made("a1"), "2"), Provenance("model", 1), PROTECTIONS)
    archive.add(pair(made("a2", "str"), "3"), Provenance("model", 1), PROTECTIONS)
    archive.add_puzzle(made("a3"), Provenance("model", 1))
    for position, judgement in enumerate([ACCEPTED, WRONG, WRONG]):
        archive.add_candidate(chunk, position, "a1", solution("1"), judgement)
    archive.add_candidate(chunk, 3, "a3", None, Judgement(Verdict.INVALID_SOLUTION))
    proposed = plan(archive, stage="propose")
    archive.add_proposal(proposed, 0, "admitted", "", "a3")
    archive.add_proposal(proposed, 1, "trivial", "0 is accepted", None)
    archive.add_proposal(proposed, 2, "held_out", "behaviour: dev/a says the same of 40 answers", "a9")
    archive.add_proposal(proposed, 3, "held_out", "the same as dev/a", "a8")  # as versions before the levels said it
    varied = plan(archive, stage="vary")
    archive.add_proposal(varied, 0, "inapplicable", "", None)
    archive.add_proposal(varied, 1, "admitted", "", "a3")
    archive.add_refusal("n", "puzzle", "syntax", "", "def")
    archive.add_refusal("m", "puzzle", "held_out", "exact: dev/a", "def f")
    assert stats(archive) == {
        "puzzles": 3,
        "solved puzzles": 2,
        "quarantined puzzles": 0,
        "contaminated puzzles": 0,
        "distinct but for names and constants": 3,
        "pairs": 3,
        "candidates": 4,
        "puzzles by origin": {"human": 1, "model": 2},
        "puzzles by iteration": {"0": 1, "1": 2},
        "pairs by iteration": {"0": 1, "1": 2},
        "puzzles by answer type": {"int": 2, "str": 1},
        "puzzles by skill": {"bits": 1, "lists": 1},
        "puzzles by difficulty": {"2": 1},
        "puzzles by solve rate": {"0": 1, "to 0.5": 1},
        "candidates by verdict": {"wrong_answer": 2, "accepted": 1, "invalid_solution": 1},
        "proposals by outcome": {"held_out": 2, "admitted": 1, "trivial": 1},
        "variations by outcome": {"admitted": 1, "inapplicable": 1},
        "searches by outcome": {},
        "refused as held-out by level": {"exact": 1, "behaviour": 1, "unknown": 1},
        "refused imports": {"puzzle: held_out": 1, "puzzle: syntax": 1},
    }
    assert archive.refused_levels() == {"imports": {"exact": 1}, "iteration 1": {"behaviour": 1, "unknown": 1}}


def test_pairs_say_how_many_candidates_a_puzzle_got_and_how_many_held(archive):
    chunk = plan(archive)
    archive.add(pair(made("a1"), "1"), HUMAN, PROTECTIONS)
    archive.add(pair(made("a1"), "2"), HUMAN, PROTECTIONS)
    archive.add(pair(made("a2"), "3"), HUMAN, PROTECTIONS)
    for position, judgement in enumerate([ACCEPTED, WRONG, WRONG, ACCEPTED, WRONG]):
        archive.add_candidate(chunk, position, "a1", solution("1"), judgement)
    rows = archive.query("SELECT puzzle_id, solution_id, n, c FROM pairs ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [("a1", "s1", 5, 2), ("a1", "s2", 5, 2), ("a2", "s3", 0, 0)]
    assert history(archive, "a1")["candidates by verdict"] == {"wrong_answer": 3, "accepted": 2}


def test_an_iterations_funnel_is_counted_from_its_rows(archive):
    archive.add(pair(made("a0"), "1"), Provenance("human", 0), PROTECTIONS)
    propose, solve, later = plan(archive, 1, "propose"), plan(archive, 1, "solve"), plan(archive, 2, "solve")
    archive.set_completions(propose, [], 8, 20, 30, 0.5, 0.75)
    archive.set_judged(propose, 0.25, 0.5)
    archive.set_completions(solve, [], 8, 40, 50, 1.0, 2.0)
    for position, outcome in enumerate(["admitted", "admitted", "held_out", "duplicate", "syntax"]):
        puzzle = None if outcome == "syntax" else f"a{position + 1}"
        archive.add_proposal(propose, position, outcome, "", puzzle)
    archive.add_puzzle(made("a1"), Provenance("model", 1, propose, 0))
    archive.add_puzzle(made("a2"), Provenance("model", 1, propose, 1))
    archive.add(pair(made("a1"), "2"), Provenance("model", 1, solve, 0), PROTECTIONS)
    archive.add(pair(made("a0"), "3"), Provenance("model", 1, solve, 1), PROTECTIONS)
    archive.add(pair(made("a2"), "4"), Provenance("model", 2, later, 0), PROTECTIONS)
    for position, (puzzle, judgement) in enumerate([("a1", ACCEPTED), ("a0", ACCEPTED), ("a2", WRONG)]):
        archive.add_candidate(solve, position, puzzle, solution("2"), judgement)
    archive.add_candidate(later, 0, "a2", solution("4"), ACCEPTED)
    archive.add_trained(1, [("a1", "s2"), ("a0", "s3"), ("a0", "s1")])
    assert archive.iteration_counts(1) == {
        "proposed": 5,
        "well_formed": 4,
        "admitted": 2,
        "held_out_refused": 1,
        "held_out_levels": {"unknown": 1},
        "contaminated": 0,
        "solved": 1,
        "training_solved": 1,
        "candidates": 3,
        "accepted": 2,
        "new_pairs": 2,
        "searched": 0,
        "varied": 0,
        "pairs": 3,
        "trained_pairs": 3,
    }
    names = (
        "texts", "tokens", "prompt_tokens", "sampling_seconds", "sampling_cpu_seconds", "judging_seconds",
        "judging_cpu_seconds",
    )  # fmt: skip
    assert archive.chunk_costs(1) == {
        "propose": dict(zip(names, (5, 20, 30, 0.5, 0.75, 0.25, 0.5), strict=True)),
        "solve": dict(zip(names, (3, 40, 50, 1.0, 2.0, 0, 0), strict=True)),
    }
    assert archive.chunk_costs(7) == {}


# ---- contamination ----


FOUND = {"a1": Hit("near_duplicate", "held-out/one", "stands inside it")}


def test_contaminated_puzzles_stay_visible_and_are_neither_chosen_nor_shown(archive):
    for identifier in ("a1", "a2"):
        archive.add(pair(made(identifier)), HUMAN, PROTECTIONS)
    archive.add_contamination(FOUND)
    assert archive.contamination() == FOUND
    assert archive.solved_ids() == ["a2"]
    assert [puzzle.id for puzzle, _ in archive.choose(8)] == ["a2"]
    assert archive.puzzle_ids() == ["a1", "a2"]
    assert [stats(archive)[f"{kind} puzzles"] for kind in ("contaminated", "quarantined")] == [1, 1]


def test_what_another_guard_found_is_kept_but_counts_no_more(archive, puzzles):
    archive.add(pair(made("a1")), HUMAN, PROTECTIONS)
    archive.add_contamination(FOUND)
    archive.guard = Guard.of([("one", puzzles[SQUARE])])
    archive.add_contamination({})
    assert archive.contamination() == {}
    assert archive.solved_ids() == ["a1"]
    assert len(archive.query("SELECT * FROM contamination")) == 1


def test_an_archive_knows_whether_all_its_puzzles_passed_this_guard(tmp_path, puzzles):
    path, guard = tmp_path / "archive.sqlite", Guard.of([("one", puzzles[SQUARE])])
    with Archive(path, guard, create=True) as archive:
        archive.add_puzzle(puzzles[WORDS], HUMAN)
        assert archive.is_guarded
    with Archive(path, Guard.of([("one", puzzles[PATH])])) as archive:
        assert not archive.is_guarded
    with Archive(path, create=True) as archive:
        archive.add_puzzle(puzzles[WORDS], HUMAN)  # it is there: nothing passed a door
    with Archive(path, guard) as archive:
        assert archive.is_guarded
    with Archive(path, create=True) as archive:
        archive.add_puzzle(puzzles[PATH], HUMAN)
    with Archive(path, guard, create=True) as archive:
        assert not archive.is_guarded
        archive.add_contamination({})
        assert archive.is_guarded


def test_planned_prompts_lose_contaminated_puzzles_and_sampled_ones_stay_as_they_were(archive):
    for number in range(2):
        plan = {"shots": [["a1", "a2"], ["a1"]], "begins": [["a1", 20], ["a2", 9]], "copies": 4}
        archive.plan_chunk(1, "propose", number, "weights", "0-1", SAMPLED, plan)
    archive.set_completions(1, ["text"] * 8, 8, 9, 0, 0.1, 0.1)
    archive.add_contamination(FOUND)
    assert [archive.chunk(number).plan["shots"] for number in (1, 2)] == [[["a1", "a2"], ["a1"]], [["a2"], []]]
    assert [archive.chunk(number).plan["begins"] for number in (1, 2)] == [[["a1", 20], ["a2", 9]], [None, ["a2", 9]]]


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_an_older_archive_is_brought_up_to_date_beside_a_backup(tmp_path, version, create, caplog):
    path, backup = tmp_path / "archive.sqlite", tmp_path / f"archive.schema-{version}.sqlite"
    older(path, version)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())
    with Archive(path, create=create) as archive, Archive(tmp_path / "new.sqlite", create=True) as new:
        assert columns(archive) == columns(new)
        unsolved, solved = archive.puzzle_ids()
        assert [archive.puzzle(each).source.split("'")[1] for each in (unsolved, solved)] == ["b2", "a1"]
        ((puzzle, candidate),) = archive.choose(8)
        assert (puzzle, candidate.source) == (archive.puzzle(solved), solution("42").source)
        assert stats(archive)["puzzles by solve rate"] == {"to 1": 1}
        assert [row["puzzle"] for row in page_of(archive, Filter(words="name a1"))] == [solved]
    assert f"upgraded from schema {version} to {SCHEMA_VERSION}; the old file is kept: {backup}" in caplog.text
    with contextlib.closing(sqlite3.connect(backup)) as connection:
        assert list(connection.iterdump()) == before
    caplog.clear()
    Archive(path).close()
    assert caplog.text == ""
    assert {file.name for file in tmp_path.glob("archive*")} == {"archive.sqlite", backup.name}


def test_an_older_archive_that_cannot_be_brought_up_to_date_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "archive.sqlite"
    older(path, 2)
    before = path.read_bytes()
    monkeypatch.setattr(schema, "_DERIVED", "CREATE TABLE marks (again)")
    with pytest.raises(InputError, match="expected an archive, table marks already exists"):
        Archive(path)
    assert path.read_bytes() == before


def columns(archive):
    """Of every table, whatever their order."""
    tables = [name for (name,) in archive.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: {tuple(row)[1:] for row in archive.query(f"PRAGMA table_info({table})")} for table in tables}


def test_a_chunk_of_an_older_archive_has_no_cost_that_was_not_counted_then(tmp_path):
    path = tmp_path / "archive.sqlite"
    older(path, 1)
    with Archive(path, create=True) as archive:
        chunk = plan(archive, number=1)
        archive.set_completions(chunk, [["a"]], 8, 1, 2, 4.0, 8.0)
        archive.set_judged(chunk, 16.0, 32.0)
        # Of what was sampled before, nobody knows more than the first version kept.
        assert archive.chunk_costs(1)["solve"] == {
            "texts": 1, "tokens": 8, "prompt_tokens": 2, "sampling_seconds": 4.5, "sampling_cpu_seconds": 8.0,
            "judging_seconds": 16.25, "judging_cpu_seconds": 32.0,
        }  # fmt: skip


# ---- files ----


def test_an_archive_reopened_is_as_it_was_left(tmp_path):
    path = tmp_path / "archive.sqlite"
    with Archive(path, create=True) as archive:
        write_everything(archive)
    for create in (False, True):
        with Archive(path, create=create) as archive:
            assert set(counts(archive).values()) == {1}
            assert archive.chunk(1).completions == [["a"]]


def test_sqlites_own_tools_read_an_archive(tmp_path):
    path = tmp_path / "archive.sqlite"
    with Archive(path, create=True) as archive:
        write_everything(archive)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT puzzle_id, solution, n, c FROM pairs").fetchall()
        assert rows == [("a1", "def g():\n    return 42", 1, 1)]
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM puzzles")
    finally:
        connection.close()


def test_a_closed_archive_is_one_file(tmp_path):
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        write_everything(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.sqlite"]


def test_a_missing_archive_is_an_input_error_and_is_not_made(tmp_path):
    with pytest.raises(InputError, match=r"missing.sqlite: there is no archive here"):
        Archive(tmp_path / "missing.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_no_archive(tmp_path):
    with pytest.raises(InputError, match="there is no archive here"):
        Archive(tmp_path)
    with pytest.raises(InputError, match="expected an archive, unable to open"):
        Archive(tmp_path, create=True)


@pytest.mark.parametrize("create", [False, True])
def test_a_text_file_is_no_archive(tmp_path, create):
    path = tmp_path / "archive.sqlite"
    path.write_text("def f(x: int):\n    return x == 5\n" * 100)
    with pytest.raises(InputError, match=r"archive.sqlite: expected an archive, file is not a database"):
        Archive(path, create=create)
    assert path.read_text().startswith("def f")


def test_a_file_of_zero_bytes_is_no_archive_but_may_become_one(tmp_path):
    path = tmp_path / "archive.sqlite"
    path.touch()
    with pytest.raises(InputError, match=r"archive.sqlite: expected an archive, got another SQLite file"):
        Archive(path)
    assert path.stat().st_size == 0
    with Archive(path, create=True) as archive:
        assert stats(archive)["puzzles"] == 0


@pytest.mark.parametrize("create", [False, True])
def test_a_foreign_sqlite_file_is_no_archive_and_is_left_alone(tmp_path, create):
    path = tmp_path / "photos.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"photos.sqlite: expected an archive, got another SQLite file"):
        Archive(path, create=create)
    assert path.read_bytes() == before


def test_processes_that_open_an_older_archive_at_once_bring_it_up_to_date_once(tmp_path):
    path = tmp_path / "archive.sqlite"
    older(path, 2)
    opening = f"import sys; from puzzles import Archive; Archive({str(path)!r}).close()"
    processes = [subprocess.Popen([sys.executable, "-c", opening]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    backup, *others = tmp_path.glob("*schema-*")
    assert not others
    with contextlib.closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


@pytest.mark.parametrize("create", [False, True])
def test_an_archive_of_a_newer_version_says_so(tmp_path, create):
    path = tmp_path / "archive.sqlite"
    with Archive(path, create=True) as archive:
        archive.query("PRAGMA user_version = 99")
    told = f"the archive has schema 99, this version reads up to {SCHEMA_VERSION}: upgrade this program"
    with pytest.raises(InputError, match=told):
        Archive(path, create=create)


def test_a_damaged_archive_is_an_input_error(tmp_path):
    path = tmp_path / "archive.sqlite"
    with Archive(path, create=True) as archive:
        write_everything(archive)
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected an archive"):
        Archive(path)


# ---- other processes ----

WRITER = """
import sys
from puzzles.archive.store import Archive, Provenance
from puzzles.puzzle import Puzzle

def puzzle(identifier):
    return Puzzle("def f(x: int):\\n    return x == 1", "int", "def g():", identifier, identifier, frozenset())

with Archive(sys.argv[1], create=True) as archive:
    with archive.transaction():
        archive.add_puzzle(puzzle("committed"), Provenance("human"))
    with archive.transaction():
        for number in range(5000):
            archive.add_puzzle(puzzle(f"open{number}"), Provenance("human"))
        print("writing", flush=True)
        sys.stdin.readline()
    print("written", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer(tmp_path):
    command = [sys.executable, "-c", WRITER, tmp_path / "archive.sqlite"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_a_reader_sees_what_was_committed_while_another_process_writes(tmp_path, writer):
    with Archive(tmp_path / "archive.sqlite") as archive:
        assert archive.puzzle_ids() == ["committed"]
        writer.stdin.write("\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "written\n"
        assert len(archive.puzzle_ids()) == 5001


def test_a_kill_in_the_middle_of_a_transaction_keeps_what_was_committed(tmp_path, writer):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with Archive(tmp_path / "archive.sqlite") as archive:
        assert archive.puzzle_ids() == ["committed"]
        assert archive.query("PRAGMA integrity_check")[0][0] == "ok"
        with archive.transaction():
            write_everything(archive)
    with Archive(tmp_path / "archive.sqlite") as archive:
        assert archive.puzzle_ids() == ["committed", "a1"]


def test_the_file_and_its_log_copied_in_mid_write_are_a_whole_archive(tmp_path, writer):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("archive.sqlite*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, copy)
    with Archive(copy / "archive.sqlite") as archive:
        assert archive.puzzle_ids() == ["committed"]


@pytest.fixture
def whole(tmp_path):
    """An archive with a row in every table, and a way to change it behind its back."""
    path = tmp_path / "archive.sqlite"
    with Archive(path, create=True) as archive:
        write_everything(archive)

    def change(sql):
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.executescript(sql)
        return path

    return change


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DROP TABLE refusals", "it has no table refusals"),
        ("DROP VIEW pairs", "it has no table pairs"),
        ("ALTER TABLE marks DROP COLUMN value", "expected in table marks the columns name, value, got name"),
        ("PRAGMA user_version = 1", "it has a table contamination, which schema 1 does not have"),
        ("PRAGMA user_version = -1", "expected a schema from 1, got -1"),
    ],
)
def test_an_archive_without_a_table_or_column_is_refused_at_opening(whole, tmp_path, sql, words):
    path = whole(sql)
    with pytest.raises(InputError, match=rf"archive\.sqlite: the archive is damaged: {words}"):
        Archive(path)
    assert {file.name for file in tmp_path.iterdir()} == {"archive.sqlite"}, "no backup of it"


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        (
            "UPDATE puzzles SET source = x'00ff'",
            r"expected TEXT in column source of table puzzles, row 1, got b'\x00\xff'",
        ),
        ("UPDATE puzzles SET skills = '['", "expected TEXT in column skills, a JSON array of texts of table puzzles"),
        (
            "UPDATE puzzles SET parents = '[1]'",
            "expected TEXT in column parents, a JSON array of texts of table puzzles",
        ),
        (
            "UPDATE chunks SET iteration = 'two'",
            "expected INTEGER in column iteration of table chunks, row 1, got 'two'",
        ),
        ("UPDATE solutions SET cpu_seconds = 'long'", "expected REAL in column cpu_seconds of table solutions, row 1"),
        ("UPDATE puzzles SET name = CAST(x'ff' AS TEXT)", "table puzzles, after row 0: Could not decode to UTF-8"),
        ("DELETE FROM protections", "row 1 of table solutions refers to a missing row of table protections"),
    ],
)
def test_a_damaged_row_is_named_by_a_check(whole, sql, words):
    path = whole(sql)
    with pytest.raises(InputError) as caught, Archive(path) as archive:
        archive.check()
    assert words in str(caught.value)
    assert "archive.sqlite: the archive is damaged: " in str(caught.value)


def test_what_fails_on_a_damaged_archive_is_the_archives_fault_and_on_a_sound_one_ours(whole):
    def fail(path):
        with Archive(path):
            raise TypeError("somewhere")

    with pytest.raises(TypeError, match="somewhere"):
        fail(whole(""))
    with pytest.raises(InputError, match="expected INTEGER in column iteration of table chunks"):
        fail(whole("UPDATE chunks SET iteration = 'two'"))


def test_a_query_on_a_page_that_is_no_more_names_the_archive(whole):
    path = whole("")
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = bytes(len(content) - 4096 * 2)
    path.write_bytes(content)
    with (
        pytest.raises(InputError, match=r"archive\.sqlite: (the archive is damaged|expected an archive)"),
        Archive(path) as archive,
    ):
        stats(archive)


@pytest.mark.parametrize(
    ("column", "content", "words"),
    [
        ("plan", b"no zlib", "plan: expected compressed JSON, "),
        ("plan", zlib.compress(b"{"), "plan: expected JSON, "),
        ("plan", zlib.compress(b'{"puzzles": [3], "copies": 1}'), r"plan: expected a text under 'puzzles\[0\]', got 3"),
        ("plan", zlib.compress(b'{"puzzles": []}'), "plan: expected the key 'copies', it is missing"),
        ("completions", zlib.compress(b'[["a"], ["b"]]'), "completions: expected 1 of them, got 2"),
        ("completions", zlib.compress(b'["a"]'), r"completions: expected a list under '\[0\]', got 'a'"),
        ("completions", zlib.compress(b"[" * 100_000), "completions: expected JSON, "),
    ],
)
def test_a_broken_chunk_is_named_with_its_number(whole, column, content, words):
    path = whole(f"UPDATE chunks SET {column} = x'{content.hex()}'")
    with Archive(path) as archive, pytest.raises(InputError, match=rf"archive\.sqlite, chunk 1, {words}"):
        archive.chunk(1)


def test_nothing_of_a_damaged_archive_becomes_a_puzzle_set(whole):
    path = whole("UPDATE puzzles SET source = x'00ff'")
    with pytest.raises(InputError, match="row 1"), Archive(path, trust=True) as archive:
        archive.raw_puzzles()


@pytest.mark.parametrize("kept", ["-1e999", "", " 7", "7.5", "٣", "9" * 5000])
def test_a_seed_of_worlds_that_is_none_is_one_clear_line(archive, kept):
    archive.set_mark("worlds", "12")
    assert archive.worlds == 12
    archive.set_mark("worlds", kept)
    with pytest.raises(InputError, match="the archive is damaged: expected a seed as `worlds`, got ") as caught:
        _ = archive.worlds
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("begins", [[None], [None, ["a1", "x"]], [None, [["a1"], 1]], [["a1", 2.5], None]])
def test_beginnings_that_fit_no_prompt_are_damage(archive, begins):
    plan_of = {"shots": [[], []], "begins": begins, "copies": 1}
    archive.plan_chunk(1, "propose", 0, "weights", "0-1", SAMPLED, plan_of)
    with pytest.raises(InputError, match="plan: expected a puzzle and a place in it, or null, for each prompt"):
        archive.chunk(archive.unjudged(1, "propose")[0])
