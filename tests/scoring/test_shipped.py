import dataclasses

import pytest

from puzzles.verify import truth_pool
from sandbox.result import Limits
from selfplay.run.rundir import SCORED_SETS
from selfplay.sampling.cost import StageCost
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import PromptFormat
from selfplay.scoring.evaluate import Questions, evaluate, read_chunks
from selfplay.scoring.sets import scored_puzzles
from selfplay.scoring.shipped import take
from selfplay.settings import load

CONFIG = load(None)


@pytest.fixture(scope="module")
def pool():
    with truth_pool(CONFIG.sandbox.limits(), lanes=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def model():
    return LanguageModel("embedded", CONFIG.model)


def asked(pool, name, seed=0, **changes):
    config = dataclasses.replace(CONFIG.evaluate, **changes)
    return Questions(scored_puzzles(pool, name), PromptFormat("plain"), [], config, [seed, 0, 3, 0], 0, 0)


@pytest.mark.parametrize("name", SCORED_SETS)
@pytest.mark.parametrize("seed", [0, 7])
def test_a_default_run_begins_with_the_shipped_scores(pool, model, tmp_path, monkeypatch, name, seed):
    questions, file = asked(pool, name, seed), tmp_path / "scores.jsonl"
    assert take(model, pool, questions, file), "python tests/benchmarks/base_scores.py scores it anew"
    monkeypatch.setattr(LanguageModel, "sample", None)
    scores = evaluate(model, pool, questions, file)
    assert scores.puzzles >= len(questions.puzzles) - 2, "but for errata"
    assert 0.08 < scores.pass_at["pass@1"].value < 0.16
    assert scores.cost == StageCost()
    results = [result for line in read_chunks(file) for result in line["results"]]
    assert [result["puzzle"] for result in results] == [named.puzzle.id for named in questions.puzzles]
    assert {len(result["verdicts"]) for result in results} == {CONFIG.evaluate.samples_per_puzzle}
    assert not any(result["texts"] for result in results)
    assert not take(model, pool, questions, file), "the file is there"


CHANGES = {"temperature": 0.7, "max_tokens": 95, "samples_per_puzzle": 17}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_run_that_asks_otherwise_scores_the_model_itself(pool, model, tmp_path, changed):
    questions = asked(pool, "dev", **{changed: CHANGES[changed]})
    assert not take(model, pool, questions, tmp_path / "scores.jsonl")
    assert not [*tmp_path.iterdir()]


def test_a_run_that_judges_or_asks_about_other_puzzles_scores_the_model_itself(pool, model, tmp_path):
    questions = asked(pool, "dev")
    fewer = dataclasses.replace(questions, puzzles=questions.puzzles[1:])
    assert not take(model, pool, fewer, tmp_path / "fewer")
    sized = dataclasses.replace(questions, chunk_texts=4096)
    assert not take(model, pool, sized, tmp_path / "sized")
    with truth_pool(Limits(cpu_seconds=0.5), lanes=1) as other:
        assert not take(model, other, questions, tmp_path / "limit")
