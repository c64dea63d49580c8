"""The stage of a run that looks for solutions which the model did not find."""

import dataclasses

import pytest
from scripted_run import Backend, config_of, go, puzzle_files

from puzzles.archive.store import Archive, Provenance
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Judgement, Verdict, VerifiedPair
from puzzles.verify import verify_texts
from selfplay.config import FinetuneConfig, ProposeConfig, SearchConfig, VaryConfig
from selfplay.iteration import lessons, search
from selfplay.run.rundir import RunDir
from selfplay.sampling.prompts import PromptFormat

SOLVED = "def f(n: int):\n    return n * n == 1764 and n > 0"
BY_SEARCH = "def g():\n    return next((n for n in range(100) if f(n)))"
BY_GUESS = "def g():\n    return 42"
UNSOLVED = "def f(n: int):\n    return n % 7 == 3 and n % 11 == 5"
OUT_OF_REACH = "def f(n: int):\n    return n > 10 ** 9 and n % 1000003 == 17"
OF_ANOTHER_TYPE = "def f(s: str):\n    return s[::-1] == 'abc'"
ACCEPTED, WRONG = Judgement(Verdict.ACCEPTED, "", "42", 1e-3, 1e-3), Judgement(Verdict.WRONG_ANSWER, "", "1", 1e-3)
CONFIG = config_of({}, search=SearchConfig(programs_per_puzzle=40))


@pytest.fixture
def archive(pool, tmp_path):
    """Four training puzzles that an iteration has tried: one is solved."""
    puzzles = parse_puzzles(pool, [Text(text) for text in (SOLVED, UNSOLVED, OUT_OF_REACH, OF_ANOTHER_TYPE)])
    by_search, by_guess = parse_candidates(pool, [Text(BY_SEARCH), Text(BY_GUESS)])
    with Archive(tmp_path / "archive.sqlite", create=True) as made:
        for puzzle in puzzles:
            made.add_puzzle(puzzle, Provenance("human"))
        identifiers = [puzzle.id for puzzle in puzzles]
        settings = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 9, "batch_rows": 8, "protocol": "plain"}
        made.plan_chunk(1, "solve", 0, "weights", "0/1/2/0", settings, {"puzzles": identifiers, "copies": 2})
        (chunk,) = made.unjudged(1, "solve")
        for number, identifier in enumerate(identifiers):
            for k, candidate in enumerate((by_search, by_guess)):
                judgement = WRONG if number else ACCEPTED
                made.add_candidate(chunk, 2 * number + k, identifier, candidate, judgement)
                if not number:
                    provenance = Provenance("model", 1, chunk, k)
                    made.add(VerifiedPair(puzzles[0], candidate, judgement), provenance, {"tier": "A"})
        yield made


def searched(archive, pool, iteration=1, config=CONFIG):
    search.plan(archive, iteration, config, "weights", 1000)
    for number in archive.unjudged(iteration, "search"):
        with archive.transaction():
            archive.set_completions(number, **vars(search.make(archive, archive.chunk(number), pool)))
        search.judge(archive, archive.chunk(number), pool, {"tier": "A"})


FOUND = "SELECT p.source AS puzzle, s.* FROM solutions s JOIN puzzles p ON p.id = s.puzzle WHERE s.origin = 'search'"


def test_a_program_that_solved_another_puzzle_solves_one_that_no_candidate_did(archive, pool):
    before = archive.query("SELECT * FROM candidates")
    searched(archive, pool)
    found = archive.query(FOUND)
    assert {row["puzzle"] for row in found} == {UNSOLVED}
    assert {row["iteration"] for row in found} == {1}
    judged = verify_texts(pool, [(row["puzzle"], row["source"]) for row in found])
    assert {str(judgement.verdict) for judgement in judged} == {"accepted"}
    assert [judgement.answer for judgement in judged] == [row["answer"] for row in found]
    assert archive.query("SELECT * FROM candidates") == before  # what the model does is counted apart
    assert archive.iteration_counts(1)["searched"] == 1
    assert archive.iteration_counts(1)["proposed"] == 0


def test_only_programs_that_ask_the_puzzle_are_tried_where_there_are_any_and_only_of_the_answers_type(archive, pool):
    search.plan(archive, 1, CONFIG, "weights", 1000)
    programs = [item for _, plan in archive.plans("stage = 'search'") for item in plan["programs"]]
    sources = {row["id"]: row["source"] for row in archive.query("SELECT * FROM solutions")}
    assert {sources[item["program"]] for item in programs} == {BY_SEARCH}
    assert {archive.puzzle(item["puzzle"]).source for item in programs} == {UNSOLVED, OUT_OF_REACH}


def test_every_program_has_its_outcome(archive, pool):
    searched(archive, pool)
    outcomes = archive.query("SELECT outcome, puzzle FROM proposals")
    assert len(outcomes) == 2 * CONFIG.search.programs_per_puzzle
    accepted = [row["puzzle"] for row in outcomes if row["outcome"] == "accepted"]
    assert {archive.puzzle(identifier).source for identifier in accepted} == {UNSOLVED}


def test_what_a_search_has_solved_is_not_searched_again_and_training_puzzles_come_first(archive, pool):
    (own,) = parse_puzzles(pool, [Text("def f(n: int):\n    return n * 3 == 51")])
    archive.add_puzzle(own, Provenance("model", 1))
    (chunk,) = archive.query("SELECT id FROM chunks")[0]
    archive.add_candidate(chunk, 8, own.id, None, WRONG)
    first = [archive.puzzle(identifier).source for identifier, _ in search.unsolved(archive, 1, 9, [1])]
    assert first == [OF_ANOTHER_TYPE, OUT_OF_REACH, UNSOLVED, own.source]
    assert len(search.unsolved(archive, 1, 2, [1])) == 2
    searched(archive, pool)
    left = [archive.puzzle(identifier).source for identifier, _ in search.unsolved(archive, 1, 9, [1])]
    assert left == [OF_ANOTHER_TYPE, OUT_OF_REACH]
    assert len(search.unsolved(archive, 1, 9, [2])) == 4  # what is not learned any more is looked for again
    assert search.unsolved(archive, 2, 9, [1, 2]) == []


def test_what_was_found_is_learned_and_no_more_of_a_puzzle_than_asked(archive, pool):
    searched(archive, pool)
    assert len(archive.query(FOUND)) > 2
    examples = [*lessons.searched(archive, [1], 2, PromptFormat("plain"), ())]
    assert [example.prompt.text.startswith(UNSOLVED) for example in examples] == [True, True]
    sources = {row["id"]: row["source"] for row in archive.query(FOUND)}
    written = [f"{example.prompt.header}{example.completion}".strip() for example in examples]
    assert written == [sources[example.pair[1]] for example in examples]
    assert [*lessons.searched(archive, [2], 2, PromptFormat("plain"), ())] == []


def test_plain_learning_of_pairs_learns_it_too_in_the_iterations_that_found_it(archive, pool):
    searched(archive, pool)

    def learned(**how):
        return {puzzle.source for puzzle, _ in archive.choose(8, **how)}

    assert learned() == learned(found_in=[1]) == {SOLVED, UNSOLVED}
    assert learned(with_references=False) == {SOLVED, UNSOLVED}
    assert learned(found_in=[2]) == set()


def test_a_run_searches_learns_and_tells_how_many_puzzles_it_solved_so(pool, tmp_path):
    class Guesser(Backend):
        """Solves one puzzle by search, and no other."""

        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            write = model._write

            def guess(prompt, rng):
                if not prompt.header.startswith("def g("):
                    return write(prompt, rng)
                return (
                    "\n    return next((x for x in range(999) if f(x)))\n"
                    if "k=1764" in prompt.text
                    else "\n    return 7\n"
                )

            model._write = guess
            return model

    config = config_of(
        puzzle_files(tmp_path), iterations=1, search=SearchConfig(programs_per_puzzle=12), vary=VaryConfig(),
        propose=ProposeConfig(proposals=8),
    )  # fmt: skip
    records = go(tmp_path / "run", config, pool, Guesser())
    assert records[1]["searched"] >= 2
    assert records[1]["cost"]["search"]["texts"] > 0
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        found = archive.query(FOUND)
        assert any("x * 11 == 1331" in row["puzzle"] for row in found)
        trained = {(row["puzzle"], row["solution"]) for row in archive.query("SELECT * FROM trained")}
        shown = archive.query("SELECT puzzle, id FROM solutions WHERE origin = 'search'")
        assert trained & {(row["puzzle"], row["id"]) for row in shown}
    with_none = dataclasses.replace(config, search=SearchConfig())
    assert "searched" not in go(tmp_path / "none", with_none, pool, Guesser())[1]


def test_nothing_is_searched_that_no_training_learns():
    def searches(**finetune):
        return config_of({}, search=CONFIG.search, finetune=FinetuneConfig(**finetune)).searches

    assert searches()
    assert searches(objective="filtered")
    assert not searches(objective="none")
    assert not searches(objective="dpo")
    assert not searches(objective="grpo", start="previous")
    assert not searches(roles=("propose",))
    assert not config_of({}).searches
