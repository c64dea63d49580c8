"""What an iteration of the loop costs beside its parts, and how its time and memory grow with the puzzles.

    python tests/benchmarks/iteration.py [--pairs 3] [--puzzles 200] [--set KEY=VALUE] [--quick]

Every figure is of a `selfplay run` with one iteration, in a folder of its own that is deleted, and of the record
it leaves. `--set` goes to all of them, such as model.threads=1.

The first table has one run of the embedded settings. `bound` is the sum of the parts; where the next chunk is
sampled while this one is judged, the longer of these two counts alone. `beside them` is what is left: plans,
models loaded and saved, choosing, tokenising. The start of the command (imports, the guard, the training puzzles),
iteration 0, which only scores, and the record itself are not of the iteration.

The second has as many proposals as `--puzzles` says beside ten times as many, in turn; each is tried as often as the
embedded settings say. What does not grow with them is made small: no training puzzle is tried, training has 20
steps, what is scored has 8 tokens; and it is subtracted. Proposals that are refused, duplicates say, are not tried,
so time is also divided by candidates. Figures are medians over pairs, and ratios medians of the pairs' ratios.

Memory is what is resident ten times a second, summed over the command and all processes below it (what two of
them share counts twice), and the peak of the command's own process as the kernel kept it. A candidate may fill its
child up to `sandbox.memory_mb`, and among more candidates more do, so the second is what has to stay flat. The
third is what is seen of the second until training begins: what training keeps depends on how many steps it has, and
on the lengths of its examples, which are more varied among more of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from selfplay.config import RunConfig
from selfplay.settings import load

ROOT = Path(__file__).parents[2]
PARTS = ("sampling", "judging", "training", "scoring")
BESIDE = "beside them"
POLL_SECONDS = 0.1
PAGE = os.sysconf("SC_PAGE_SIZE")
COMMAND = [sys.executable, "-c", "import sys; from selfplay.commands.main import main; sys.exit(main())", "run"]
GROWTH = (
    "solve.training_puzzles=none", "finetune.epochs=1000", "finetune.max_steps=20", "evaluate.max_tokens=8",
)  # fmt: skip
"""Nothing but the proposals grows: with so many epochs the steps are always as many as `max_steps` allows. Scoring
keeps its candidates per puzzle: with fewer, more prompts are read side by side, and that would be the peak."""
QUICK = (
    "propose.proposals=16", "solve.candidates_per_puzzle=8", "solve.training_puzzles=none", "finetune.max_steps=5",
    "evaluate.samples_per_puzzle=1", "evaluate.k=[1]", "evaluate.max_tokens=8",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A run of one iteration."""

    seconds: float
    """Of the whole command."""
    own_bytes: int
    """Resident at most, in the largest of its processes: its own."""
    seen: list[tuple[float, int, int]]
    """Now and then: the time, bytes resident in its own process, and in all."""
    ended_at: float
    """When the record of iteration 1 was written."""
    config: RunConfig
    records: list[dict[str, Any]]

    @property
    def all_bytes(self) -> int:
        """Resident at most, in its own process and all below it."""
        return max(everything for _, _, everything in self.seen)

    @property
    def bytes_until_training(self) -> int:
        """Resident at most in its own process, before iteration 1 comes to training."""
        until = self.ended_at - self.iteration + self.bound - self.times["training"] - self.times["scoring"]
        return max(own for when, own, _ in self.seen if when <= until)

    @property
    def iteration(self) -> float:
        """Seconds of iteration 1."""
        return float(self.times["this_session"])

    @property
    def growing(self) -> float:
        """Seconds of iteration 1 that are not of training or scoring."""
        return self.iteration - self.times["training"] - self.times["scoring"]

    @property
    def candidates(self) -> int:
        """Judged in iteration 1."""
        return int(self.records[1]["candidates"])

    @property
    def times(self) -> dict[str, float]:
        """Of iteration 1, by part."""
        return dict(self.records[1]["times"])

    @property
    def overlaps(self) -> bool:
        """Whether the next chunk was sampled while the one before it was judged."""
        setting = self.config.model.overlap
        return setting == "yes" or (setting == "auto" and self.records[1]["sampler"]["device"] != "cpu")

    @property
    def bound(self) -> float:
        """Seconds that the parts of iteration 1 take at least."""
        sampling, judging, *others = (self.times[part] for part in PARTS)
        return (max(sampling, judging) if self.overlaps else sampling + judging) + sum(others)


def resident(root: int) -> tuple[int, int]:
    """Bytes resident in a process, and in it and all below it."""
    parents, pages = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)], pages[int(folder.name)] = int(fields[1]), int(fields[21])
    total, generation = 0, {root}
    while generation:
        total += sum(pages.get(pid, 0) for pid in generation)
        generation = {pid for pid, parent in parents.items() if parent in generation}
    return pages.get(root, 0) * PAGE, total * PAGE


def measured(settings: Sequence[str]) -> Measured:
    """Run the command with these settings."""
    command = [*COMMAND, *(argument for setting in ("iterations=1", *settings) for argument in ("--set", setting))]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        started, seen = time.monotonic(), []
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as process:
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                seen.append((time.time(), *resident(process.pid)))
                time.sleep(POLL_SECONDS)
            process.returncode = os.waitstatus_to_exitcode(ended[1])
        seconds = time.monotonic() - started
        if process.returncode:
            output.seek(0)
            sys.exit(output.read().decode(errors="replace"))
        run = Path(folder, "runs", "embedded")
        records = [json.loads(line) for line in (run / "records.jsonl").read_text("utf-8").splitlines()]
        ended_at = (run / "records.jsonl").stat().st_mtime
        result = Measured(seconds, ended[2].ru_maxrss * 1024, seen, ended_at, load(run / "config.toml"), records)
    print(f"{records[1]['proposed']:,} proposals: {seconds:.0f} s", file=sys.stderr, flush=True)
    return result


# ---- the tables ----


def print_parts(run: Measured) -> None:
    """An iteration and its parts."""
    rows = {part: run.times[part] for part in PARTS} | {BESIDE: run.iteration - run.bound}
    print("| part | seconds | of the iteration |\n| --- | ---: | ---: |")
    for name, seconds in {**rows, "iteration 1": run.iteration}.items():
        print(f"| {name} | {seconds:.1f} | {seconds / run.iteration:.1%} |")
    longer = "the longer of sampling and judging, training and scoring" if run.overlaps else "the sum of its parts"
    scored = float(run.records[0]["times"]["this_session"])
    print(
        f"\nbound: {longer}, {run.bound:.1f} s; the iteration takes **{run.iteration / run.bound:.3f}** times that. "
        f"The whole command: {run.seconds:.1f} s, of which iteration 0 {scored:.1f} s, "
        f"start and end {run.seconds - scored - run.iteration:.1f} s"
    )


ROWS: dict[str, tuple[Callable[[Measured], float], str]] = {
    "proposals": (lambda run: run.records[1]["proposed"], ",.0f"),
    "admitted": (lambda run: run.records[1]["admitted"], ",.0f"),
    "candidates": (lambda run: run.candidates, ",.0f"),
    "new pairs": (lambda run: run.records[1]["new_pairs"], ",.0f"),
    "the whole command, s": (lambda run: run.seconds, ",.1f"),
    "iteration 1, s": (lambda run: run.iteration, ",.1f"),
    **{f"of it {part}, s": (lambda run, part=part: run.times[part], ",.1f") for part in PARTS},
    f"of it {BESIDE}, s": (lambda run: run.iteration - run.bound, ",.2f"),
    "all but training and scoring, s": (lambda run: run.growing, ",.1f"),
    "the same per candidate, ms": (lambda run: 1000 * run.growing / run.candidates, ",.2f"),
    "memory of all processes, MB": (lambda run: run.all_bytes / 1e6, ",.0f"),
    "memory of its own process, MB": (lambda run: run.own_bytes / 1e6, ",.0f"),
    "the same until training, MB": (lambda run: run.bytes_until_training / 1e6, ",.0f"),
}


def ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """The median of the pairs' ratios, and their range."""
    ratios = [large / small for small, large in pairs if small]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"


def print_growth(pairs: Sequence[tuple[Measured, Measured]]) -> None:
    """Runs of a few puzzles beside runs of many."""
    print("| | few | ten times as many | ratio (of pairs) |\n| --- | ---: | ---: | --- |")
    for name, (figure, form) in ROWS.items():
        figures = [(figure(few), figure(many)) for few, many in pairs]
        few, many = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"| {name} | {few:{form}} | {many:{form}} | {ratio(figures)} |")


def main() -> None:
    """Print one table for the parts and one for the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--puzzles", type=int, help="proposals, and ten times as many (default: 200)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    parser.add_argument("--quick", action="store_true", help="little work, one pair: whether it runs, not how fast")
    options = parser.parse_args()
    pairs, puzzles = (1, options.puzzles or 20) if options.quick else (options.pairs, options.puzzles or 200)
    print(f"load {os.getloadavg()[0]:.1f}; {' '.join(options.set) or 'the embedded settings'}")
    print("\nAn iteration beside its parts: to stay within 1.1 times the bound\n", flush=True)
    print_parts(measured([*(QUICK if options.quick else ()), *options.set]))
    print(f"\nTen times the puzzles (pairs: {pairs}): to stay within 10.5 times the time and 1.1 times the memory\n")
    sys.stdout.flush()
    print_growth(
        [
            (
                measured([*GROWTH, *options.set, f"propose.proposals={puzzles}"]),
                measured([*GROWTH, *options.set, f"propose.proposals={10 * puzzles}"]),
            )
            for _ in range(pairs)
        ]
    )


if __name__ == "__main__":
    main()
