"""A tiny model that knows six puzzles by heart, and the sets and settings of a run in which it finds pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAIRS = [
    ("def f(x: int, k=19):\n    return x > k and x % 32 == 6", "def g(k=19):\n    return 2 * k"),
    ("def f(s: str):\n    return s.count('a') == 4", "def g():\n    return 'a' * 4"),
    ("def f(nums: List[int], n=3):\n    return sum(nums) == n", "def g(n=3):\n    return [1] * n"),
    ("def f(x: int):\n    return x * x == 25 and x < 0", "def g():\n    return -5"),
    ("def f(s: str):\n    return s == 'b' * 9", "def g():\n    return 'b' * 9"),
    ("def f(x: float):\n    return x * 4 == 1", "def g():\n    return 1 / 4"),
]
SETTINGS = """
iterations = 1
chunk_texts = 16
batch_rows = 8
[model]
path = "{model}"
threads = 1
[data]
train = "{folder}/train.jsonl"
dev = "{folder}/dev.jsonl"
heldout = "{folder}/heldout.jsonl"
[propose]
proposals = 32
proposals_per_prompt = 16
temperature = 1.0
max_tokens = 40
[solve]
candidates_per_puzzle = 8
max_tokens = 24
[sandbox]
lanes = 2
[finetune]
max_steps = 4
batch_tokens = 512
learning_rate = 1e-3
dtype = "float32"
[evaluate]
samples_per_puzzle = 4
k = [1, 4]
max_tokens = 24
"""


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """As JSONL."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def make_model(start: Path, folder: Path) -> Path:
    """The checkpoint that some seconds of training on `PAIRS` make of a random one."""
    import numpy as np

    from puzzles.parse import Text, parse_candidates, parse_puzzles
    from puzzles.verify import truth_pool
    from selfplay.config import FinetuneConfig, ModelConfig
    from selfplay.sampling.prompts import PromptFormat
    from selfplay.training.backend import Training
    from selfplay.training.finetune import finetune
    from selfplay.training.select import examples

    with truth_pool(lanes=1) as pool:
        puzzles = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in PAIRS])
        solutions = parse_candidates(pool, [Text(solution) for _, solution in PAIRS])
    learned, _ = examples(
        list(zip(puzzles, solutions, strict=True)),
        ("propose", "solve"),
        PromptFormat("plain"),
        [],
        0,
        np.random.default_rng(0),
    )
    config = FinetuneConfig(learning_rate=1.5e-2, max_steps=250, epochs=1000, batch_tokens=1024, dtype="float32")
    training = Training(start, 4 * learned, config, ModelConfig(threads=1), [0], {"protocol": "plain"})
    finetune(training, folder)
    return folder


def make_files(folder: Path, model: Path) -> Path:
    """A folder with settings, `tiny.toml`, and the three sets."""
    records = [{"name": f"p{i}", "puzzle": p, "solution": s} for i, (p, s) in enumerate(PAIRS)]
    write_lines(folder / "train.jsonl", records[:3])
    for name, constant in (("dev", 71), ("heldout", 93)):
        puzzles = [
            f"def f(x: int, k={constant}):\n    return x * 3 == k * 6",
            f"def f(s: str):\n    return s.upper() * 2 == 'Q{constant}Q{constant}'",
            f"def f(nums: List[int]):\n    return sorted(nums)[1:] == [8, {constant}] and len(nums) == 3",
        ]
        write_lines(folder / f"{name}.jsonl", [{"name": f"{name}{i}", "puzzle": p} for i, p in enumerate(puzzles)])
    (folder / "tiny.toml").write_text(SETTINGS.format(model=model, folder=folder))
    return folder
