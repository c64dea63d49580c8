"""verl and OpenRLHF call their rewards as documented: from a file that they load, one sample at a time, in threads."""

import importlib.util
import inspect
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from places import ROOT

from puzzles.puzzle import InputError
from selfplay.adapters import openrlhf_reward, rewards, verl_score
from selfplay.judge import Judge, JudgeError

PUZZLE = "def f(x: int):\n    return x > 3 and x * x == 1369"
RIGHT, NEAR = "def g():\n    return 37", "def g():\n    return 38"
EXAMPLES = Path(verl_score.__file__).parent / "examples"
PROMPT = f"{PUZZLE}\n\ndef g():"


def loaded(module):
    """A module as both load a user's file: from its path, under another name."""
    spec = importlib.util.spec_from_file_location("custom_module", module.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh


@pytest.fixture(scope="module")
def compute_score():
    return loaded(verl_score).compute_score


@pytest.fixture(scope="module")
def reward_func():
    return loaded(openrlhf_reward).reward_func


def test_verls_call_has_a_score(compute_score):
    call = {"data_source": "selfplay", "solution_str": f"```python\n{RIGHT}\n```", "ground_truth": PUZZLE}
    assert compute_score(**call, extra_info={"index": 3}) == {"score": 1.0, "acc": 1.0}
    assert compute_score(**call | {"solution_str": NEAR}, extra_info=None) == {"score": 0.0, "acc": 0.0}
    assert compute_score(**call | {"solution_str": NEAR}, reward="conjuncts") == {"score": 0.5, "acc": 0.0}


def test_verls_sample_of_a_base_model_goes_on_from_its_prompt(compute_score):
    assert compute_score("selfplay", "\n    return 37", PUZZLE, {"prompt": PROMPT})["score"] == 1


def test_verl_calls_a_plain_function_which_it_may_run_in_threads(compute_score):
    assert not inspect.iscoroutinefunction(compute_score)
    with ThreadPoolExecutor(8) as threads:
        solutions = [f"def g():\n    return {n}" for n in range(30, 46)]
        found = list(threads.map(lambda solution: compute_score("selfplay", solution, PUZZLE)["score"], solutions))
    assert found == [float(n == 37) for n in range(30, 46)]


def test_a_reward_of_groups_is_refused_for_single_samples(compute_score, reward_func, monkeypatch):
    with pytest.raises(InputError, match="expected verdict or conjuncts for one sample at a time, got 'learnability'"):
        compute_score("selfplay", RIGHT, PUZZLE, reward="learnability")
    monkeypatch.setenv("SELFPLAY_REWARD", "learnability")
    with pytest.raises(InputError, match="for one sample at a time"):
        reward_func([RIGHT], [""], [PUZZLE])


def test_openrlhfs_call_has_rewards_scores_and_logs(reward_func):
    found = reward_func([PROMPT + "\n    return 37", PROMPT + "\n    return 38"], [PROMPT, PROMPT], [PUZZLE, PUZZLE])
    assert set(found) == {"rewards", "scores", "extra_logs"}
    assert torch.equal(found["rewards"], torch.tensor([1.0, 0.0]))
    assert torch.equal(found["scores"], found["rewards"])
    assert torch.equal(found["extra_logs"]["accepted"], found["rewards"])


def test_openrlhfs_prompt_is_no_part_of_the_answer(reward_func, monkeypatch):
    monkeypatch.setenv("SELFPLAY_REWARD", "conjuncts")
    asked = f"<|user|>Solve\n```python\n{RIGHT}\n```<|assistant|>"
    assert reward_func([asked + NEAR], [asked], [PUZZLE])["rewards"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("script", "reward", "trainer"),
    [
        ("verl_grpo.sh", f"reward.custom_reward_function.path={verl_score.__file__}", "verl.trainer.main_ppo"),
        ("openrlhf_grpo.sh", openrlhf_reward.__file__, "openrlhf.cli.train_ppo_ray"),
    ],
    ids=["verl", "openrlhf"],
)
def test_an_example_names_the_reward_and_ends_the_judge_that_it_began(script, reward, trainer, tmp_path):
    programs = {
        "selfplay": "trap 'kill $!; echo ended > ended; exit' TERM\nsleep 60 &\necho begun > begun\nwait",
        "python": f'if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
        "until [ -s begun ]; do sleep 0.1; done\nprintf '%s\\n' \"$@\" $SELFPLAY_JUDGE > trainer",
    }
    for name, program in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", str(EXAMPLES / script), "a-model"], cwd=tmp_path, env=environment, check=True)
    arguments = (tmp_path / "trainer").read_text().splitlines()
    assert arguments[:2] == ["-m", trainer]
    assert reward in arguments
    assert any(argument.endswith("a-model") for argument in arguments)
    assert arguments[-1] == "/tmp/judge.sock"
    for _ in range(300):
        if (tmp_path / "ended").exists():
            break
        time.sleep(0.1)
    assert (tmp_path / "ended").exists()


def test_without_a_verdict_there_is_no_score(monkeypatch):
    monkeypatch.setattr(verl_score, "usual", Judge("/nowhere/judge.sock"))
    with pytest.raises(JudgeError, match="nothing was scored"):
        verl_score.compute_score("selfplay", RIGHT, PUZZLE)


@pytest.mark.parametrize("completion", [[], [{"role": "assistant", "content": None}], "", [{"content": []}]])
def test_an_empty_completion_is_an_empty_text(completion):
    assert rewards.text_of(completion) == ""


def test_the_text_parts_of_a_message_are_joined():
    parts = [{"type": "text", "text": "def g():\n"}, {"type": "image"}, {"type": "text", "text": "    return 37"}]
    assert rewards.text_of([{"role": "assistant", "content": parts}]) == RIGHT
