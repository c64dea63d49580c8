"""What a run is expected to cost, against counts by hand."""

import dataclasses
import json
import re

import pytest
from scripted_sampler import ScriptedSampler

from puzzles.puzzle import InputError
from selfplay.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ProposeConfig,
    RunConfig,
    SolveConfig,
    VaryConfig,
)
from selfplay.experiments.forecast import _doubling, forecast
from selfplay.run.progress import Progress
from selfplay.run.resources import TrainingNeeds
from selfplay.run.rundir import folder_atomically
from selfplay.sampling.cost import StageCost

TRAIN = [
    (f"train{n}", f"def f(x: int):\n    return x * {n} == {n * n}", f"def g():\n    return {n}") for n in (11, 13, 17)
]


@dataclasses.dataclass(frozen=True)
class Statistics:
    steps: int
    sequences: int
    tokens: int
    seconds: float
    cpu_seconds: float


class Backend:
    """Its model proposes a new puzzle each time, and solves two of the three training puzzles, each in one way."""

    def __init__(self, per_step=5):
        self.per_step, self.steps, self.examples = per_step, [], 0

    def load(self, checkpoint, config):
        sampler = ScriptedSampler(self.write)
        sampler.notes = {"protocol": "plain"}
        return sampler

    def write(self, prompt, rng):
        if prompt.header == "def f(":
            number = int(rng.integers(10**9))
            return f"x: int):\n    return x * 23 == {23 * number} and x > 9"
        number = next((n for n in (11, 13) if f"x * {n} ==" in prompt.text), 0)
        return f"\n    return {number} + {int(rng.integers(2))}\n"

    def needs(self, sampler, config):
        return TrainingNeeds(0, 0, 0, "")

    def finetune(self, training, folder, progress, plan):
        examples, config = training.lessons, training.config
        self.examples = len(examples)
        with folder_atomically(folder) as part:
            (part / "weights").write_text("")
        steps = min(config.max_steps, -(-round(len(examples) * config.epochs) // self.per_step))
        self.steps.append(steps)
        return Statistics(steps, steps * self.per_step, steps * self.per_step * 10, steps * 0.5, steps * 0.25)


class Solver(Backend):
    """It solves whatever it is asked, in one way or in as many as it is asked for."""

    def __init__(self, ways=1):
        super().__init__()
        self.ways = ways

    def write(self, prompt, rng):
        if prompt.header == "def f(":
            return super().write(prompt, rng)
        factor, product = map(int, (re.findall(r"x \* (\d+) == (\d+)", prompt.text) or [(1, 0)])[0])
        return f"\n    return {product // factor} + {int(rng.integers(self.ways))} * 0\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    sets = {
        "train": TRAIN,
        "dev": [(f"dev{n}", f"def f(s: str):\n    return s == 'q' * {n}", None) for n in (31, 37)],
        "heldout": [(f"held{n}", f"def f(l: List[int]):\n    return l == [5] * {n}", None) for n in (41, 43, 47)],
    }
    for name, rows in sets.items():
        lines = [{"name": n, "puzzle": puzzle} | ({"solution": g} if g else {}) for n, puzzle, g in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: str(folder / f"{name}.jsonl") for name in sets}


def config_of(files, **changes) -> RunConfig:
    small = RunConfig(
        iterations=2,
        chunk_texts=64,
        data=DataConfig(**files, references=False),
        propose=ProposeConfig(proposals=40, proposals_per_prompt=8),
        solve=SolveConfig(candidates_per_puzzle=8),
        finetune=FinetuneConfig(roles=("solve",), epochs=4, max_steps=100_000),
        evaluate=EvaluateConfig(samples_per_puzzle=4, k=(1, 4)),
    )
    return dataclasses.replace(small, **changes)


def expected(config, pool, tmp_path, backend=None):
    tmp_path.mkdir(exist_ok=True)
    return forecast(config, backend or Backend(), pool, {"tier": "A"}, tmp_path, Progress())


@pytest.mark.slow
def test_texts_are_those_that_the_settings_ask_for(files, pool, tmp_path):
    found = expected(config_of(files), pool, tmp_path)
    assert [list(costs) for costs in found.iterations] == [["score"]] + [["propose", "solve", "train", "score"]] * 2
    for costs in found.iterations:
        assert costs["score"].texts == 4 * (2 + 3)
    for costs in found.iterations[1:]:
        assert costs["propose"].texts == 40
        assert costs["solve"].texts == (40 + 3) * 8  # every proposal is new and admitted
        assert costs["solve"].tokens == 4 * costs["solve"].texts  # "return 7 + 0" is four words
    assert found.start_seconds > 0
    assert found.archive_bytes > 0
    assert found.arithmetic is None


@pytest.mark.slow
def test_further_candidates_and_variations_are_counted(files, pool, tmp_path):
    solving = SolveConfig(candidates_per_puzzle=8, further_puzzles=10, further_candidates=6)
    found = expected(config_of(files, solve=solving, vary=VaryConfig(variations=30)), pool, tmp_path)
    for costs in found.iterations[1:]:
        assert list(costs) == ["propose", "solve", "further", "vary", "train", "score"]
        assert costs["further"].texts == 60
        assert costs["vary"].texts == 30
        assert costs["vary"].tokens == 0 < costs["vary"].judging_seconds


def test_training_grows_with_the_archive_until_its_steps_are_at_their_bound(files, pool, tmp_path):
    config = config_of(files, propose=ProposeConfig(proposals=4))
    free = expected(config, pool, tmp_path / "free", Solver()).iterations
    # Three training puzzles, which count once, and four proposals more each time; all solved in one way; four epochs.
    assert [costs["train"].texts for costs in free[1:]] == [7 * 4, 11 * 4]
    assert [costs["train"].model_seconds for costs in free[1:]] == pytest.approx([28 / 5 * 0.5, 44 / 5 * 0.5])
    config = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, max_steps=6))
    bounded = expected(config, pool, tmp_path / "bound", Solver()).iterations
    assert [costs["train"].texts for costs in bounded[1:]] == [7 * 4, 6 * 5]


def test_of_a_training_puzzle_no_more_solutions_are_trained_on_than_the_settings_say(
    files, pool, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "selfplay.experiments.forecast.SECONDS", dict.fromkeys(("propose", "solve", "train", "score"), 0.0)
    )
    config = config_of(files, propose=ProposeConfig(proposals=0), solve=SolveConfig(candidates_per_puzzle=100))
    found = expected(config, pool, tmp_path, Solver(ways=1000)).iterations
    assert [costs["train"].texts for costs in found[1:]] == [3 * 8 * 4] * 2  # eight of each, four epochs


def test_where_nothing_can_be_trained_on_it_says_what_may_help(files, pool, tmp_path):
    backend = Backend()
    backend.write = lambda prompt, rng: "\n    nothing\n"
    with pytest.raises(InputError, match=r"^there is nothing to train on: .*set data\.references = true$"):
        expected(config_of({**files, "train": files["heldout"], "heldout": files["train"]}), pool, tmp_path, backend)


def test_with_references_even_a_model_that_solves_nothing_is_trained(files, pool, tmp_path):
    backend = Backend()
    backend.write = lambda prompt, rng: "\n    nothing\n"
    config = config_of(files, data=DataConfig(**files, references=True))
    found = expected(config, pool, tmp_path, backend).iterations
    assert found[1]["solve"].texts == 3 * 8  # nothing was admitted
    assert [costs["train"].texts for costs in found[1:]] == [3 * 4, 3 * 4]  # references, four epochs


def test_no_proposals_cost_nothing(files, pool, tmp_path):
    config = config_of(files, propose=ProposeConfig(proposals=0))
    first = expected(config, pool, tmp_path).iterations[1]
    assert first["propose"] == StageCost()
    assert first["solve"].texts == 3 * 8


def test_attempts_double_until_the_time_or_the_work_is_spent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("selfplay.sampling.cost.time.monotonic", lambda: now[0])
    tried: list[int] = []

    def attempt(number):
        tried.append(number)
        now[0] += number
        return number < 1000

    _doubling(16, 100, 1e9, attempt)
    assert tried == [16, 32, 64, 100]
    tried.clear()
    _doubling(16, 10**9, 200, attempt)
    assert tried == [16, 32, 64]  # the next would end after 16 + 32 + 64 + 128 seconds
    tried.clear()
    _doubling(600, 10**9, 1e9, attempt)
    assert tried == [600, 1200]  # more was not there
    tried.clear()
    _doubling(16, 4, 1e9, attempt)
    assert tried == [4]


def test_a_run_that_does_not_train_is_forecast_without_training(files, pool, tmp_path):
    backend = Backend()
    config = config_of(files)
    found = expected(
        dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, objective="none")),
        pool,
        tmp_path,
        backend,
    )
    assert [list(costs) for costs in found.iterations] == [["score"]] + [["propose", "solve"]] * 2
    assert backend.steps == []


def test_what_many_workers_need_to_know_is_measured(files, pool, tmp_path):
    found = expected(config_of(files), pool, tmp_path)
    assert found.examples_per_step == 5
    assert 0 < found.planning_seconds_per_text < 0.1
    assert 0 < found.merging_seconds_per_text < 0.1
    assert found.load_seconds > 0
    assert not found.overlap
