"""Runs whose model is a script, and crashes at a place of choice in them."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest
from scripted_sampler import ScriptedSampler

from puzzles.archive.store import Archive
from selfplay.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PromptConfig,
    ProposeConfig,
    RunConfig,
    SolveConfig,
)
from selfplay.iteration import loop
from selfplay.iteration.loop import run
from selfplay.iteration.state import Run
from selfplay.run import rundir
from selfplay.run.resources import TrainingNeeds
from selfplay.run.rundir import RunDir, append_line, folder_atomically, read_lines
from selfplay.sampling.cost import without_times
from selfplay.sampling.sampler import Completion, Drawn
from selfplay.scoring import evaluate

TRAIN = [
    ("thirds", "def f(x: int):\n    return 3 * x == 51", "def g():\n    return 17"),
    ("square", "def f(x: int, k=1764):\n    return x * x == k and x > 0", "def g(k=1764):\n    return 42"),
    ("letters", "def f(s: str):\n    return s.count('a') == 4 and len(s) == 9", "def g():\n    return 'aaaabbbbb'"),
    ("sum", "def f(xs: List[int]):\n    return sum(xs) == 9 and len(set(xs)) == 3", "def g():\n    return [2, 3, 4]"),
    ("unsolved", "def f(x: int):\n    return x * 11 == 1331", None),
]
DEV = [
    ("twelve", "def f(x: int):\n    return x + 8 == 20 and x % 2 == 0", None),
    ("words", "def f(s: str):\n    return s.split() == ['a', 'b', 'c']", None),
]
HELDOUT = [
    ("cube", "def f(x: int):\n    return x ** 3 - x == 1716 and x > 0", None),
    ("pairs", "def f(t: Tuple[int, int]):\n    return t[0] * t[1] == 91 and t[0] > t[1]", None),
    ("text", "def f(s: str):\n    return s[::2] == 'xyz' and len(s) == 6", None),
]
KNOWN_ANSWERS = {
    "3 * x == 51": "17", "x * x == k": "42", "s.count('a')": "'aaaabbbbb'", "sum(xs) == 9": "[2, 3, 4]",
    "x * 11 == 1331": "121", "x + 8 == 20": "12", "s.split()": "'a b c'", "x ** 3": "12", "t[0] * t[1]": "(13, 7)",
    "s[::2]": "'x-y-z-'",
}  # fmt: skip


# ---- a model that a script plays ----


def write(prompt, rng) -> str:
    if prompt.header.startswith("def g("):
        return candidate(prompt, rng)
    if prompt.header == "def f(":
        return proposal(rng)
    signed = ":\n" in prompt.header or prompt.header.endswith("):")
    rest = "" if "return" in prompt.header else f"{'' if signed else '):'}\n    return 7 *"
    return f"{rest} {int(rng.integers(20, 900))} * x == {int(rng.integers(20, 900))}\n"


def proposal(rng) -> str:
    a, b = int(rng.integers(20, 90)), int(rng.integers(200, 900))
    texts = [
        f"x: int):\n    return x * {a} == {a * b}\n",
        f"x: int):\n    return x * {a} == {a * b}\n",
        f"x: int):\n    return x * {a} == {a * b}\n\n\ndef f(x: int):\n    return True",
        "y: int):\n    return 3 * y == 51\n",  # a training puzzle
        f"x: int):\n    return x ** 3 - x == {a} and x > 0\n",  # held-out, with another constant
        "x: int):\n    return x >= 0\n",  # trivial
        "x: int:\n    return ((\n",  # no program
        "x):\n    return x == 200\n",  # without a type
        "x: bool):\n    return x\n",  # a coin
        "x: int):\n    import os\n    return x == 300\n",  # impure
    ]
    return texts[int(rng.integers(len(texts)))]


def candidate(prompt, rng) -> str:
    last = prompt.text.rpartition("def f(")[2]
    asked = re.search(r"x \* (\d+) == (\d+)", last)
    right = next((answer for mark, answer in KNOWN_ANSWERS.items() if mark in last), None)
    if right is None and asked:
        right = str(int(asked[2]) // int(asked[1]))
    roll = rng.random()
    if roll < 0.4 and right is not None:
        return f"\n    return {right}\n"
    if roll < 0.5 and right is not None:
        return f"\n    answer = {right}\n    return answer\n"
    return ["\n    return 7\n", "\n    return None\n", "\n    return (\n", "\n    return 1 / 0\n"][int(rng.integers(4))]


class Model(ScriptedSampler):
    """Its weights are a text, and its tokens are bytes."""

    def __init__(self, weights: str, notes: dict):
        super().__init__(write)
        self.checkpoint = hashlib.sha256(weights.encode()).hexdigest()[:16]
        self.notes = notes

    def sample(self, prompts, copies, settings, seed, *more):
        happens("sample")
        # Another checkpoint writes other texts.
        sampled = super().sample(prompts, copies, settings, [*seed, int(self.checkpoint[:8], 16)], *more)
        happens("sampled")
        return dataclasses.replace(
            sampled, completions_P_K=[[drawn_bytes(one) for one in row] for row in sampled.completions_P_K]
        )


def drawn_bytes(one: Completion) -> Completion:
    return dataclasses.replace(one, drawn=Drawn((*one.text.encode(), 0), "token"))


class Backend:
    """Trains by writing down what it was given."""

    def __init__(self):
        self.trainings: list[dict] = []

    def load(self, checkpoint, config):
        happens("load")
        if str(checkpoint) == "base":
            return Model("base", {})
        assert (Path(checkpoint) / "weights").is_file()
        notes = json.loads((Path(checkpoint) / "selfplay.json").read_text())
        return Model((Path(checkpoint) / "weights").read_text(), notes)

    def needs(self, sampler, config):
        return TrainingNeeds(0, 0, 0, "")

    def finetune(self, training, folder, progress, plan):
        start, examples, seed, notes = training.start, training.lessons, training.seed, training.notes
        happens("finetune")
        self.trainings.append({"start": str(start), "examples": examples, "seed": list(seed), "notes": notes})
        plan(len(examples))
        before = "base" if str(start) == "base" else (Path(start) / "weights").read_text()
        with folder_atomically(folder) as part:
            (part / "selfplay.json").write_text(json.dumps({**notes, "training": {"steps": 7, "seconds": os.getpid()}}))
            happens("half a checkpoint")
            learned = repr((before, examples, seed)).replace(", before=()", "")  # as when prompts had no turns
            (part / "weights").write_text(hashlib.sha256(learned.encode()).hexdigest())
            progress(10, 1.0, 1e-3)
        happens("finetuned")


# ---- crashes, at a place of choice ----


class Crash(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


@dataclasses.dataclass
class Trace:
    crash_at: int | None = None
    kill: bool = False
    events: list[str] = dataclasses.field(default_factory=list)


trace = Trace()


def happens(event: str) -> None:
    trace.events.append(event)
    if trace.crash_at is not None and len(trace.events) > trace.crash_at:
        if trace.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise Crash(event)


def torn_line(path, record):
    """A line that gets to the disk in two pieces."""
    happens("line")
    text = json.dumps(record).encode()
    if trace.crash_at is not None and len(trace.events) == trace.crash_at:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text[: len(text) // 2])
    happens("half a line")
    append_line(path, record)
    happens("whole line")


@contextlib.contextmanager
def watched(crash_at=None, kill=False):
    """Every step that reaches the disk is an event; the one after `crash_at` of them does not come to pass."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, evaluate):
            patch.setattr(module, "append_line", torn_line)
        for name in (
            "add_proposal",
            "add_candidate",
            "add_trained",
            "set_completions",
            "set_judged",
            "set_mark",
            "add",
        ):
            patch.setattr(Archive, name, announced(name, getattr(Archive, name)))
        patch.setattr(Archive, "transaction", announced_transaction(Archive.transaction))
        patch.setattr(Run, "retire_checkpoints", announced("retire", Run.retire_checkpoints))
        patch.setattr(loop, "write_atomically", announced("config", rundir.write_atomically))
        trace.crash_at, trace.kill = crash_at, kill
        trace.events.clear()
        try:
            yield trace
        finally:
            trace.crash_at = None


def announced(name, function):
    def call(*arguments, **options):
        happens(name)
        return function(*arguments, **options)

    return call


def announced_transaction(transaction):
    @contextlib.contextmanager
    def both(self):
        happens("begin")
        with transaction(self):
            yield
            happens("commit")
        happens("committed")

    return both


# ---- the runs ----


def puzzle_file(path: Path, rows) -> str:
    lines = [{"name": name, "puzzle": puzzle} | ({"solution": g} if g else {}) for name, puzzle, g in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def puzzle_files(folder: Path) -> dict[str, str]:
    sets = {"train": TRAIN, "dev": DEV, "heldout": HELDOUT}
    return {name: puzzle_file(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}


def config_of(files, **changes) -> RunConfig:
    small = RunConfig(
        iterations=2,
        seed=4,
        chunk_texts=16,
        batch_rows=8,
        model=ModelConfig(path="base"),
        prompt=PromptConfig(protocol="few-shot", shots=2),
        data=DataConfig(**files),
        propose=ProposeConfig(proposals=24, proposals_per_prompt=8),
        solve=SolveConfig(candidates_per_puzzle=4),
        evaluate=EvaluateConfig(samples_per_puzzle=4, k=(1, 4)),
    )
    return dataclasses.replace(small, **changes)


def go(path, config, pool, backend=None, progress=None, **how):
    return run(RunDir(path), config, backend or Backend(), pool, {"tier": "A"}, progress, **how)


def archive_content(file: Path) -> dict:
    """Every row of every table, without the columns of times, the index made of them, and the seed of its worlds."""
    with Archive(file) as archive:
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'search%' ORDER BY 1"
        tables = [name for (name,) in archive.query(sql)]
        return {
            table: [
                without_times(dict(row))
                for row in archive.query(f"SELECT * FROM {table} ORDER BY rowid")
                if (table, row[0]) != ("marks", "worlds")
            ]
            for table in tables
        }


def content(path: Path) -> dict:
    """All that a run wrote, without times."""
    place = RunDir(path)
    scores = {
        file.name: [without_times(line) for line in read_lines(file)] for file in sorted((path / "scores").glob("*"))
    }
    checkpoints = {file.parent.name: file.read_text() for file in sorted((path / "checkpoints").glob("*/weights"))}
    return {
        "archive": archive_content(place.archive),
        "records": [without_times(record) for record in place.read_records()],
        "scores": scores,
        "checkpoints": checkpoints,
        "config": place.config.read_text(),
        "files": sorted(str(file.relative_to(path)) for file in path.rglob("*")),
    }


def same(one: dict, other: dict) -> bool:
    """Compared part by part, so that a failure shows where."""
    for part in one:
        if part == "archive":
            for table in one[part]:
                assert one[part][table] == other[part][table], table
        elif part == "files":
            # SQLite's own side files come and go.
            assert [f for f in one[part] if "sqlite-" not in f] == [f for f in other[part] if "sqlite-" not in f]
        else:
            assert one[part] == other[part], part
    return True


def plans(path, iteration):
    with Archive(RunDir(path).archive) as archive:
        sql = "SELECT id FROM chunks WHERE stage = 'propose' AND iteration = ? ORDER BY number"
        return [archive.chunk(number).plan for (number,) in archive.query(sql, iteration)]


def crashed_and_resumed(path, config, pool, crash_at):
    with watched(crash_at) as seen, pytest.raises(Crash):
        go(path, config, pool)
    assert len(seen.events) == crash_at + 1
    if RunDir(path).archive.exists():
        with contextlib.closing(sqlite3.connect(RunDir(path).archive)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return go(path, config, pool)
