"""A real run of inspect_ai with a mock model, and its log opened again."""

import json

import pytest

inspect_ai = pytest.importorskip("inspect_ai", reason="inspect_ai is not installed here")

from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import ModelOutput, ModelUsage, get_model  # noqa: E402

from puzzles.puzzle import InputError  # noqa: E402
from selfplay.adapters import inspect_task  # noqa: E402
from selfplay.judge import Judge  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # those of the library are not ours
RIGHT, NEAR = "```python\ndef g():\n    return 37\n```", "def g():\n    return 38"


@pytest.fixture
def puzzle_file(tmp_path):
    texts = ["def f(x: int):\n    return x > 3 and x * x == 1369", "def f(x: int):\n    return x > 3 and x == 7"]
    file = tmp_path / "puzzles.jsonl"
    file.write_text("".join(f"{json.dumps({'name': f'p{n}', 'puzzle': text})}\n" for n, text in enumerate(texts)))
    return str(file)


def evaluated(task, replies, folder):
    outputs = [ModelOutput.from_content("mockllm/model", reply) for reply in replies]
    for output in outputs:
        output.usage = ModelUsage()  # else its tokens are counted, with a vocabulary from the network
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", max_connections=1)
    return read_eval_log(log.location)


def test_the_log_has_pass_at_k_and_every_verdict(puzzle_file, tmp_path):
    task = inspect_task.puzzles(puzzle_file, epochs=2, k=[1, 2])
    log = evaluated(task, [RIGHT, RIGHT, RIGHT, NEAR], tmp_path / "logs")
    assert log.status == "success"
    samples = {(sample.metadata["name"], sample.epoch): sample.scores["judged"] for sample in log.samples}
    right = [key for key, score in samples.items() if score.value == 1]
    assert len(samples) == 4
    assert {name for name, _ in right} == {"p0"}
    by_k = {score.reducer: score.metrics["accuracy"].value for score in log.results.scores}
    assert by_k == {"pass_at_1": len(right) / 4, "pass_at_2": 0.5}
    for score in samples.values():
        assert score.explanation.startswith(score.metadata["verdict"])
        assert (score.answer, score.metadata["verdict"]) in {
            ("37", "accepted"), ("37", "wrong_answer"), ("38", "wrong_answer"),
        }  # fmt: skip


def test_a_share_of_conjuncts_may_be_the_score(puzzle_file, tmp_path):
    log = evaluated(inspect_task.puzzles(puzzle_file, reward="conjuncts"), [NEAR, NEAR], tmp_path / "logs")
    assert [sample.scores["judged"].value for sample in log.samples] == [0.5, 0.5]


def test_without_a_verdict_a_sample_has_an_error_and_no_score(puzzle_file, tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_task, "usual", Judge("/nowhere/judge.sock"))
    log = evaluated(inspect_task.puzzles(puzzle_file), [RIGHT, RIGHT], tmp_path / "logs")
    assert log.status == "error"
    assert "nothing was scored" in log.error.message
    assert not any(sample.scores for sample in log.samples)


def test_more_than_there_are_samples_cannot_be_asked_for(puzzle_file):
    with pytest.raises(InputError, match="k: expected at most epochs = 2, got 10"):
        inspect_task.puzzles(puzzle_file, epochs=2, k=[1, 10])


def test_the_held_out_puzzles_are_those_that_bench_scores():
    assert len(inspect_task.puzzles("heldout").dataset) == 277
