"""A run of two iterations with every kind of chunk, for tests of what is told of runs."""

import pytest
from scripted_run import config_of, go, puzzle_files

from selfplay.config import ProposeConfig, SolveConfig, VaryConfig
from selfplay.run.rundir import RunDir


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    files = puzzle_files(folder)
    return config_of(
        files, propose=ProposeConfig(proposals=32, proposals_per_prompt=8, begun=0.5), vary=VaryConfig(30),
        solve=SolveConfig(candidates_per_puzzle=4, further_puzzles=3, further_candidates=5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(config, pool, tmp_path_factory):
    """A run of two iterations; not to be written into."""
    path = tmp_path_factory.mktemp("finished") / "run"
    go(path, config, pool)
    return RunDir(path)
