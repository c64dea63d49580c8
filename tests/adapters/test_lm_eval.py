"""A real run of lm-evaluation-harness with the embedded model; its score is that of `bench` on the same samples."""

from importlib.resources import files
from pathlib import Path

import pytest

from selfplay.adapters.lm_eval import harness_task
from selfplay.adapters.rows import rows
from selfplay.sampling.judging import judge_texts
from selfplay.sampling.prompts import solve_prompt
from selfplay.scoring.metrics import pass_at_k
from selfplay.scoring.sets import scored_puzzles

TASKS = Path(harness_task.__file__).parent
PUZZLE = "def f(x: int):\n    return x * x == 1369"


def test_results_of_one_puzzle_are_the_share_that_is_accepted():
    doc = {"puzzle": PUZZLE, "header": "def g():"}
    assert harness_task.process_results(doc, ["\n    return 37\n\nprint(g())"]) == {"pass_at_1": 1}
    assert harness_task.process_results(doc, [["\n    return 37", "\n    return 36", "", "\n    return -37"]]) == {
        "pass_at_1": 0.5
    }


def test_a_chats_reply_is_read_as_one():
    doc = {"puzzle": PUZZLE, "header": ""}
    assert harness_task.process_results(doc, ["Here:\n```python\ndef g():\n    return 37\n```"]) == {"pass_at_1": 1}


def test_rows_are_the_puzzles_that_bench_scores_with_its_prompts(pool):
    named = {item.puzzle.id: item for item in scored_puzzles(pool, "dev")}
    for row in rows("dev", "plain"):
        prompt = solve_prompt("plain", named[row.id].puzzle)
        assert (row.prompt, row.header) == (prompt.text, prompt.header)
    assert len(rows("dev", "plain")) == 123


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the library are not ours
def test_its_score_is_benchs_on_the_same_samples(pool, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed here")
    from lm_eval.tasks import TaskManager

    model = files("selfplay") / "embedded" / "model"
    found = lm_eval.simple_evaluate(
        "hf", model_args=f"pretrained={model},dtype=float32", device="cpu", batch_size=32, tasks=["selfplay_puzzles"],
        task_manager=TaskManager(include_path=str(TASKS), metadata={"puzzles": "dev"}), metadata={"puzzles": "dev"},
        log_samples=True,
    )  # fmt: skip
    samples = found["samples"]["selfplay_puzzles"]
    assert len(samples) == 123
    named = {item.puzzle.id: item.puzzle for item in scored_puzzles(pool, "dev")}
    puzzles = [named[sample["doc"]["id"]] for sample in samples]
    texts = [[sample["resps"][0][0]] for sample in samples]
    judged = judge_texts(pool, puzzles, [solve_prompt("plain", puzzle) for puzzle in puzzles], texts)
    accepted = [sum(judgement.verdict == "accepted" for _, judgement in candidates) for candidates in judged]
    assert [sample["pass_at_1"] for sample in samples] == accepted
    assert found["results"]["selfplay_puzzles"]["pass_at_1,none"] == pytest.approx(
        pass_at_k([1] * 123, accepted, 1).mean()
    )
    assert sum(accepted) > 0
