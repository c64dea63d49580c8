"""The taskset as verifiers v1 loads it: by the name of its package, with its tasks scored by the judge."""

import asyncio
import sys
from types import SimpleNamespace

import pytest
from places import ROOT

from puzzles.puzzle import InputError

vf = pytest.importorskip("verifiers.v1", reason="verifiers is not installed here")

pytestmark = pytest.mark.filterwarnings("default")  # those of the library are not ours

RIGHT = "So:\n```python\ndef g():\n    return {answer}\n```"


@pytest.fixture
def taskset(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "selfplay" / "adapters" / "environment"), *sys.path])
    from verifiers.v1.utils.loaders import taskset_class

    (tmp_path / "puzzles.jsonl").write_text('{"name": "square", "puzzle": "def f(x: int): return x * x == 1369"}\n')
    made = taskset_class("selfplay-v1")
    config = sys.modules["selfplay.adapters.verifiers_taskset"].PuzzleConfig(puzzles=str(tmp_path / "puzzles.jsonl"))
    return made(config)


def test_a_task_is_a_puzzle_that_asks_for_a_solution(taskset):
    (task,) = taskset.load()
    assert task.data.puzzle.startswith("def f(x: int)")
    assert task.data.prompt_text.startswith("Here is a Python function f.")


@pytest.mark.parametrize(("answer", "reward"), [("37", 1.0), ("36", 0.0), ("float('nan')", 0.0)])
def test_its_reward_is_the_verdict(taskset, answer, reward):
    (task,) = taskset.load()
    trace = SimpleNamespace(last_reply=RIGHT.format(answer=answer))
    assert asyncio.run(task.verdict(trace)) == reward


def test_the_model_only_replies_in_a_process_of_this_machine_unless_somebody_chooses_more(taskset):
    from verifiers.v1.utils.loaders import env_config_type

    kind = env_config_type("selfplay-v1", "")
    usual = kind(taskset={"id": "selfplay-v1"}).agent
    assert (usual.harness.id, usual.runtime.type) == ("null", "subprocess")
    other = kind(taskset={"id": "selfplay-v1"}, agent={"harness": {"id": "bash"}, "max_turns": 3}).agent
    assert (other.harness.id, other.runtime.type, other.max_turns) == ("bash", "subprocess", 3)


def test_a_model_gets_no_shell_on_this_machine(taskset):
    from verifiers.v1.utils.loaders import env_config_type, load_environment

    kind = env_config_type("selfplay-v1", "")
    chosen = {"harness": {"id": "bash"}, "runtime": {"type": "docker"}}
    assert load_environment(kind(taskset={"id": "selfplay-v1"}, agent=chosen))
    with pytest.raises(InputError, match="the harness bash would run the model's commands on this machine"):
        load_environment(kind(taskset={"id": "selfplay-v1"}, agent={"harness": {"id": "bash"}}))
