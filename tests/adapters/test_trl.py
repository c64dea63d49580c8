"""Two steps of TRL's own GRPOTrainer on a tiny model, with rewards from the judge."""

import asyncio
import json

import pytest

from puzzles.archive.formats import import_puzzles, read_puzzles
from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.adapters.trl_reward import judge_reward
from selfplay.commands.main import main

PUZZLE = "def f(x: int):\n    return x > 3 and x * x == 1369"
RIGHT, NEAR, WRONG = "def g():\n    return 37", "def g():\n    return 38", "def g():\n    return 0"


@pytest.fixture(scope="module")
def rows(pool, protections, tmp_path_factory):
    """Rows that `archive export --format trl` has written."""
    folder = tmp_path_factory.mktemp("archive")
    puzzles = [
        {"puzzle": f"def f(x: int):\n    return x == {n}", "solution": f"def g():\n    return {n}"} for n in (5, 6)
    ]
    (folder / "puzzles.jsonl").write_text("".join(f"{json.dumps(puzzle)}\n" for puzzle in puzzles))
    with Archive(folder / "archive.sqlite", create=True) as archive:
        import_puzzles(archive, pool, protections.to_json(), read_puzzles(str(folder / "puzzles.jsonl")))
    assert (
        main(["archive", "export", str(folder / "archive.sqlite"), str(folder / "rows.jsonl"), "--format", "trl"]) == 0
    )
    return folder / "rows.jsonl"


def called(function, completions, puzzles, prompts=None):
    """As TRL calls a reward function: lists, other columns as keywords, and more of its own."""
    prompts = prompts or [[{"role": "user", "content": "…"}]] * len(completions)
    more = {"completion_ids": [[1]] * len(completions), "puzzle_id": ["a"] * len(completions), "trainer_state": None}
    return asyncio.run(function(prompts=prompts, completions=completions, puzzle=puzzles, **more))


def message(text):
    return [{"role": "assistant", "content": text}]


def test_a_conversation_is_paid_by_its_last_message():
    completions = [message(text) for text in (RIGHT, f"So:\n```python\n{RIGHT}\n```", WRONG, "no idea", "")]
    assert called(judge_reward(), completions, [PUZZLE] * 5) == [1, 1, 0, 0, 0]


def test_a_text_goes_on_from_the_header_of_its_prompt():
    prompts = [f"{PUZZLE}\n\ndef g():"] * 3
    completions = ["\n    return 37\n", "\n    return 37\n\ndef f(x):", "\n    return 36"]
    assert called(judge_reward(), completions, [PUZZLE] * 3, prompts) == [1, 1, 0]


def test_the_share_of_conjuncts_is_paid_to_who_chose_it():
    assert called(judge_reward("conjuncts"), [message(t) for t in (RIGHT, NEAR, WRONG)], [PUZZLE] * 3) == [1, 0.5, 0]


def test_a_game_pays_a_solution_by_how_often_its_puzzle_was_solved():
    easy = "def f(x: int):\n    return x == 37 or x == 38"
    completions = [message(text) for text in (RIGHT, NEAR, WRONG, WRONG, RIGHT, NEAR, RIGHT, WRONG)]
    paid = called(judge_reward("competitive"), completions, [PUZZLE] * 4 + [easy] * 4)
    assert paid == [0.75, 0, 0, 0, 0.25, 0.25, 0.25, 0]


def test_a_game_needs_several_completions():
    with pytest.raises(InputError, match="learnability: expected at least 2 completions"):
        called(judge_reward("learnability"), [message(RIGHT)], [PUZZLE])


def test_an_unknown_reward_is_refused_before_the_training():
    with pytest.raises(InputError, match="expected one of verdict, conjuncts, competitive"):
        judge_reward("verdicts")


def test_rewards_are_never_anything_but_numbers_between_0_and_1():
    floats = "def f(x: float):\n    return not (x < 1 or x > 2)"
    forged = ["float('nan')", "float('inf')", "1e308 * 10", "-1.5", "True", "'1.0'", "1.5"]
    paid = called(judge_reward(), [message(f"def g():\n    return {each}") for each in forged], [floats] * 7)
    assert paid == [0, 0, 0, 0, 0, 0, 1]


@pytest.mark.filterwarnings("default")  # those of the libraries are not ours
def test_two_steps_of_grpo_are_made_and_log_the_reward(rows, tiny, tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is not installed here")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny())
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    paid = []

    def known(completions, puzzle, **_):
        """A second reward, which sees what the trainer gives."""
        paid.extend(puzzle)
        return [float(len(completion[0]["content"]) % 3) for completion in completions]

    config = trl.GRPOConfig(
        str(tmp_path), num_generations=2, per_device_train_batch_size=4, max_completion_length=8, max_steps=2,
        logging_steps=1, report_to=[], use_cpu=True, save_strategy="no", bf16=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny()), reward_funcs=[judge_reward(), known], args=config,
        train_dataset=datasets.load_dataset("json", data_files=str(rows), split="train"), processing_class=tokenizer,
    )  # fmt: skip
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rewards/judge_verdict/mean" in entry]
    assert len(logged) == 2
    assert all(0 <= entry["rewards/judge_verdict/mean"] <= 1 for entry in logged)
    assert set(paid) == {"def f(x: int):\n    return x == 5", "def f(x: int):\n    return x == 6"}
    assert any((value != before[name]).any() for name, value in trainer.model.state_dict().items())
