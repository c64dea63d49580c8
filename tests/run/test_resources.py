import errno
import sqlite3
from types import SimpleNamespace

import pytest

from puzzles.puzzle import InputError
from selfplay.config import FinetuneConfig, ModelConfig, ProposeConfig, RunConfig, SolveConfig
from selfplay.run import resources
from selfplay.run.resources import TrainingNeeds
from selfplay.sampling.model import LanguageModel
from selfplay.training.finetune import TransformersBackend

GB = 10**9
CONFIG = RunConfig(
    iterations=5,
    model=ModelConfig(path="large"),
    propose=ProposeConfig(proposals=100),
    solve=SolveConfig(candidates_per_puzzle=9, further_puzzles=10, further_candidates=20),
)
TEXTS = 100 * (1 + 9) + 10 * 20


def needs(memory_bytes=0, free_bytes=0, checkpoint_bytes=0):
    return TrainingNeeds(memory_bytes, free_bytes, checkpoint_bytes, "take a smaller model")


@pytest.fixture
def free(monkeypatch):
    def set_free(number):
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda folder: SimpleNamespace(free=number))

    return set_free


def test_a_model_that_cannot_be_trained_in_the_free_memory_is_refused_with_both_numbers(tmp_path):
    with pytest.raises(InputError) as refused:
        resources.check(tmp_path, CONFIG, needs(memory_bytes=16 * GB, free_bytes=10 * GB), 1)
    assert str(refused.value) == (
        "large: training needs at least 16.0 GB for weights, gradients and the optimiser's state, "
        "but only 10.0 GB are free: take a smaller model"
    )
    resources.check(tmp_path, CONFIG, needs(memory_bytes=16 * GB, free_bytes=16 * GB), 1)


def test_a_run_that_trains_no_more_needs_no_memory(tmp_path):
    resources.check(tmp_path, CONFIG, needs(memory_bytes=GB), 6)
    resources.check(tmp_path, RunConfig(iterations=0), needs(memory_bytes=GB), 0)


def test_a_disk_without_room_for_one_iteration_is_refused_with_all_numbers(tmp_path, free):
    each = 220 * TEXTS + 5_000_000
    free(each - 1)
    with pytest.raises(InputError) as refused:
        resources.check(tmp_path, CONFIG, needs(checkpoint_bytes=5_000_000), 1)
    assert str(refused.value) == (
        f"{tmp_path}: an iteration needs about 5.3 MB, and 5.3 MB are free at {tmp_path} (iterations left: 5): "
        "free space, or put the run elsewhere"
    )
    free(each)
    resources.check(tmp_path, CONFIG, needs(checkpoint_bytes=5_000_000), 1)


def test_what_an_iteration_takes_is_known_from_those_before(tmp_path, free):
    (tmp_path / "scores").mkdir()
    (tmp_path / "archive.sqlite").write_bytes(bytes(6_000_000))
    for iteration in range(3):
        (tmp_path / "scores" / f"iteration-00{iteration}-dev.jsonl").write_bytes(bytes(1_000_000))
    free(1_000)
    told = resources.what_is_missing(tmp_path, CONFIG, needs(checkpoint_bytes=2_000_000), 3)
    assert told == (
        f"the disk is full: an iteration needs about 5.0 MB, and 0.0 MB are free at {tmp_path} (iterations left: 3); "
        "finished work is kept: free space and run the same command again"
    )


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (sqlite3.OperationalError("database or disk is full"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (InputError("a puzzle named `disk is full`"), False),
    ],
    ids=str,
)
def test_a_full_disk_is_known_in_all_its_words(error, full):
    assert resources.is_full(error) is full


def test_training_needs_four_numbers_for_each_weight_and_with_adapters_one(tiny):
    model = LanguageModel(tiny("llama"))
    weights = sum(p.numel() for p in model.network.parameters())
    for rank, numbers in ((0, 4), (8, 1)):
        found = TransformersBackend().needs(model, FinetuneConfig(lora_rank=rank))
        assert found.memory_bytes == numbers * 4 * weights
        assert found.checkpoint_bytes == 4 * weights
        assert found.free_bytes > found.memory_bytes
        assert ("lora_rank" in found.remedy) is (rank == 0)
