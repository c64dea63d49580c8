"""The trainings of test_distributed.py: `torchrun … together.py MODEL FOLDER CASE…` leaves a checkpoint for each.

As a case, `die-RANK` kills one of the processes.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.sampling.prompts import Prompt
from selfplay.training.backend import Training
from selfplay.training.finetune import finetune, join
from selfplay.training.select import Contrast, Example, Graded

CPU = ModelConfig(device="cpu", threads=1)
SFT = FinetuneConfig(
    epochs=2, learning_rate=1e-3, batch_tokens=400, warmup_steps=2, weight_decay=0.0, dtype="float32", beta=(0.5,)
)  # fmt: skip


def prompt(number: int) -> Prompt:
    text = f"def f(x: int):\n    return x == {number}{' and x > 0' * (number % 4)}\n\ndef g():"
    return Prompt(text, chat=False, header="def g():")


def answer(number: int) -> str:
    return f"\n    return {number}\n"


NUMBERS = range(3, 28)
LESSONS = {
    "sft": [Example(prompt(n), answer(n)) for n in NUMBERS],
    "dpo": [Contrast(prompt(n), answer(n), answer(n // 2) * (1 + n % 2), None) for n in NUMBERS],
    "grpo": [Graded(prompt(n), answer(n + k), (-1.0, 0.3, 0.7)[k], None) for n in NUMBERS for k in range(3)],
}
CONFIGS = {
    "sft": SFT,
    "dpo": replace(SFT, objective="dpo"),
    "grpo": replace(SFT, objective="grpo", clip_ratio=0.01),
}
CHANGES = {
    "": {},
    "parts": {"micro_batch_tokens": 60},
    "few": {"batch_tokens": 1},  # a step of one example, or one pair: fewer than processes
    "lora": {"lora_rank": 4},
    "checkpointing": {"checkpointing": True},
    "full": {"shard": "full"},
    "full-parts": {"shard": "full", "micro_batch_tokens": 60},
    "full-few": {"shard": "full", "batch_tokens": 1},
    "full-lora": {"shard": "full", "lora_rank": 4},
    "full-checkpointing": {"shard": "full", "checkpointing": True},
}


def train(case: str, model: str, folder: Path, together: bool):
    """`OBJECTIVE` or `OBJECTIVE-CHANGE`; alone nothing is sharded."""
    objective, _, change = case.partition("-")
    config = replace(CONFIGS[objective], **CHANGES[change])
    config = config if together else replace(config, shard="none")
    return finetune(Training(model, LESSONS[objective], config, CPU, [1], {"protocol": "plain"}), folder / case)


def main(model: str, folder: str, *cases: str) -> int:
    from selfplay.training import distributed

    with distributed.joined() as leads:
        if f"die-{distributed.rank()}" in cases:
            os.kill(os.getpid(), signal.SIGKILL)
        if not leads:
            return join()
        for case in cases:
            if not case.startswith("die"):
                train(case, model, Path(folder), True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
