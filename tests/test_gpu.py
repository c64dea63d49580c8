"""The checks for a machine with a GPU: what they would be, and at toy size on a CPU."""

import os
import subprocess
import sys

import gpu
import pytest
from places import ROOT


def done(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "tests" / "gpu.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_without_a_gpu_each_check_is_one_line_and_nothing_is_run():
    result = done()
    heading, *lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr) == (0, "")
    assert heading == "There is no CUDA here. On a machine with it, this would be done:"
    assert [line.split()[0] for line in lines] == list(gpu.CHECKS)
    assert [int(line.split()[3]) for line in lines] == [seconds for seconds, _ in gpu.CHECKS.values()]


def test_the_limits_are_ten_minutes_together():
    assert sum(seconds for seconds, _ in gpu.CHECKS.values()) <= 600


def test_a_check_is_killed_at_its_limit(monkeypatch):
    monkeypatch.setitem(gpu.CHECKS, "torchrun", (0.5, gpu.torchrun))  # importing torch alone takes longer
    assert gpu.in_child("torchrun", gpu.Options("cpu", small=False)) == ("TOO LONG", "more than 0.5 s")


def test_a_text_that_parts_from_the_librarys_elsewhere_than_at_a_tie_is_told(tiny):
    from selfplay.config import ModelConfig
    from selfplay.sampling.model import LanguageModel

    network = LanguageModel(tiny("llama"), ModelConfig(device="cpu", dtype="float32", threads=1)).network
    gpu._check_near_tie(network, network, [5, 6], [7, 8], [7, 8])
    with pytest.raises(gpu.Failed, match=r"token 1 is .* rounding is 0.0000"):
        gpu._check_near_tie(network, network, [5, 6], [7, 8], [7, 9])
    with pytest.raises(gpu.Failed, match="ends after 1 tokens"):
        gpu._check_near_tie(network, network, [5, 6], [7], [7, 9])


@pytest.mark.slow
def test_all_checks_run_on_a_cpu_at_toy_size():
    result = done("--device", "cpu", "--small")
    heading, *lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stdout + result.stderr
    assert heading.endswith("on cpu")
    assert [line.split()[:2] for line in lines] == [[name, "ok"] for name in gpu.CHECKS]
