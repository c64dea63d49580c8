"""Benchmarks whose model is a script that knows how many candidates of each puzzle it gets right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from selfplay.benchmark import bench as bench_module
from selfplay.benchmark.bench import BenchConfig, bench
from selfplay.config import EvaluateConfig, ModelConfig, PromptConfig
from selfplay.run.progress import Progress
from selfplay.sampling.sampler import Completion, Sampled

N = 6
PUZZLES = [
    ("thirds", "def f(x: int):\n    return 3 * x == 51", "17", ["arithmetic"], 1),
    ("square", "def f(x: int, k=1764):\n    return x * x == k and x > 0", "42", ["arithmetic"], 2),
    ("letters", "def f(s: str):\n    return s.count('a') == 4 and len(s) == 9", "'aaaabbbbb'", ["text", "counting"], 1),
    ("remainder", "def f(n: int):\n    return n % 37 == 5 and n > 500", "523", ["arithmetic"], 3),
    ("sum", "def f(xs: List[int]):\n    return sum(xs) == 9 and len(set(xs)) == 3", "[2, 3, 4]", ["counting"], None),
    ("upper", "def f(s: str):\n    return s.upper() + s == 'QWqw'", "'qw'", ["text"], 2),
    ("pair", "def f(t: Tuple[int, int]):\n    return t[0] * t[1] == 91 and t[0] > t[1]", "(13, 7)", [], 3),
]
NAMES = [name for name, *_ in PUZZLES]
WRONG = ["return 'seven'", "return None", "return (", "return 1 // 0"]
"""Written in turn by a model that does not know."""


def records(puzzles=PUZZLES) -> list[dict[str, Any]]:
    """Lines of a puzzle file, with solutions."""
    return [
        {
            "name": name, "puzzle": puzzle, "solution": f"def g():\n    return {answer}", "skills": skills,
            "difficulty": difficulty,
        }
        for name, puzzle, answer, skills, difficulty in puzzles
    ]  # fmt: skip


def write_set(path: Path, lines=None) -> Path:
    """A puzzle file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in (records() if lines is None else lines)))
    return path


class Model:
    """Writes `counts[name]` right candidates for a puzzle, or `counts(name, seed)`, and then wrong ones."""

    path = "script"
    overlap = False
    description = {
        "versions": {"torch": "2.0", "transformers": "5.0"},
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
    }

    def __init__(
        self,
        counts: Mapping[str, int] | Callable[[str, int], int],
        checkpoint: str = "0123456789abcdef",
        notes: Mapping[str, Any] | None = None,
        more=(),
    ) -> None:
        self.counts = counts if callable(counts) else lambda name, seed: counts.get(name, 0)
        self.checkpoint, self.notes = checkpoint, dict(notes or {})
        self.known = [*PUZZLES, *more]
        self.prompts: list[str] = []
        self.calls = 0
        self.stop_at: int | None = None

    def fits(self, prompt, max_tokens):
        return True

    def sample(self, prompts, copies, settings, seed, progress=lambda done: None, numbers=None):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.prompts += [prompt.text for prompt in prompts]
        progress(len(prompts) * copies)
        return Sampled([self._write(prompt, copies, seed[0]) for prompt in prompts], 0, settings.batch_rows)

    def _write(self, prompt, copies, seed):
        last = prompt.text.rpartition("def f(")[2]
        name, answer = next((name, answer) for name, text, answer, *_ in self.known if text[6:] in last)
        right = min(self.counts(name, seed), copies)
        bodies = [f"return {answer}"] * right + [WRONG[i % len(WRONG)] for i in range(copies - right)]
        texts = [f"```python\ndef g():\n    {b}\n```" if prompt.chat else f"\n    {b}\n" for b in bodies]
        return [Completion(text, len(text.split()), i % 5 != 4) for i, text in enumerate(texts)]


def score(pool, model, puzzles, folder, path="some/model", protections=None, **changes) -> dict[str, Any]:
    """`bench` with a scripted model; `changes` are of its settings."""
    own = {
        name: changes.pop(name) for name in ("samples_per_puzzle", "k", "temperature", "max_tokens") if name in changes
    }
    evaluate = EvaluateConfig(**{"samples_per_puzzle": N, "k": (1, 2, N), "max_tokens": 20, **own})
    asked = {item.name: changes.pop(item.name) for item in fields(PromptConfig) if item.name in changes}
    prompt = PromptConfig(**{"protocol": "plain", **asked})
    config = BenchConfig(puzzles=str(puzzles), prompt=prompt, evaluate=evaluate, **{"batch_rows": 128, **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "LanguageModel", lambda name, config: model)
        return bench(ModelConfig(path=path), config, Path(folder), pool, protections or {"tier": "A"}, Progress())
