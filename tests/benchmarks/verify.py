"""How fast verdicts are, side by side in one run on the same work.

    python tests/benchmarks/verify.py [CODEX.jsonl.gz]

Prints CPU and wall time of the whole sandbox (every process, accepts confirmed) for programs with a
known outcome, and beside it the same programs compiled, run and judged bare and unprotected in one
process. With P3's Codex programs it also prints that row.
"""

import contextlib
import io
import json
import os
import random
import resource
import signal
import sys
import time
import typing
from collections import Counter
from pathlib import Path

from puzzles.formats import open_text, read_pairs, with_header
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from puzzles.verify import truth_pool, verify

TYPING = {name: getattr(typing, name) for name in typing.__all__}
"""In scope for every program, as in the sandbox."""


def cpu_seconds():
    """User and system time of this process and of all below it, the living with their ended children."""
    total, parents = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), {os.getpid()}
    stats = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            stats[int(folder.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))
    while parents:
        below = {pid for pid, (parent, _) in stats.items() if parent in parents}
        total += sum(stats[pid][1] for pid in below)
        parents = below
    return total


def bare(pairs):
    """The same work without any protection: compile, run and judge in this process, one second each."""
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    started, accepted = time.process_time(), 0
    with contextlib.redirect_stdout(io.StringIO()):
        for puzzle, candidate in pairs:
            namespace = dict(TYPING)
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            try:
                for text in (puzzle.source, candidate.source):
                    # Trusted data of a benchmark; the product's only exec is in sandbox/child.py.
                    exec(compile(text, "bare", "exec"), namespace)  # noqa: S102  # the point of comparison
                accepted += namespace["f"](namespace["g"]()) is True
            except BaseException:  # noqa: BLE001  # whatever a program does
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return time.process_time() - started, accepted


def sandboxed(pairs):
    """CPU of all processes, wall time, and verdicts."""
    with truth_pool() as pool:
        verify(pool, pairs[:200])  # starts every zygote
        before, started = cpu_seconds(), time.monotonic()
        verdicts = Counter(judgement.verdict for judgement in verify(pool, pairs))
        return cpu_seconds() - before, time.monotonic() - started, verdicts


def trivial_pairs(pool, count):
    """Accepted candidates that cost nothing themselves."""
    (puzzle,) = parse_puzzles(pool, [Text("def f(x: int):\n    return x > 100")])
    texts = [Text(f"def g():\n    return {number}") for number in range(101, 101 + count)]
    return [(puzzle, candidate) for candidate in parse_candidates(pool, texts)]


def mix(pool, puzzles):
    """Self-play's mix: per puzzle 100 candidates, 20 distinct right, 60 distinct wrong, 20 repeats."""
    rng = random.Random(0)
    pairs = []
    for number in range(puzzles):
        (puzzle,) = parse_puzzles(pool, [Text(f"def f(x: int):\n    return x % 4 == 0 and x > {number}")])
        right = [4 * (number + k) + 4 for k in range(20)]
        wrong = [4 * (number + k) + 1 for k in range(60)]
        texts = [Text(f"def g():\n    return {answer}") for answer in right + wrong + rng.choices(right + wrong, k=20)]
        pairs += [(puzzle, candidate) for candidate in parse_candidates(pool, texts)]
    return pairs


def codex(pool, path):
    """P3's Codex programs that parse."""
    with open_text(Path(path)) as file:
        raws = list(read_pairs(file, path, "codex"))
    puzzles = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws])
    texts = [Text(with_header(raw, puzzle.header)) for raw, puzzle in zip(raws, puzzles, strict=True)]
    candidates = parse_candidates(pool, texts)
    return [
        (puzzle, candidate)
        for puzzle, candidate in zip(puzzles, candidates, strict=True)
        if isinstance(puzzle, Puzzle) and isinstance(candidate, Candidate)
    ]


def main():
    """Print one row per kind of work."""
    with truth_pool() as pool:
        work = {"2,000 trivial accepts": trivial_pairs(pool, 2000), "self-play mix, 30 x 100": mix(pool, 30)}
        for path in sys.argv[1:]:
            work[Path(path).name] = codex(pool, path)
    print(f"{'work':36} {'checks':>7} {'bare CPU s':>10} {'CPU s':>7} {'ratio':>6} {'ms more':>8} {'checks/s':>9}")
    for name, pairs in work.items():
        bare_cpu, bare_accepted = bare(pairs)
        cpu, wall, verdicts = sandboxed(pairs)
        more = 1000 * (cpu - bare_cpu) / max(1, verdicts["accepted"])
        print(
            f"{name:36} {len(pairs):7} {bare_cpu:10.2f} {cpu:7.2f} {cpu / bare_cpu:6.1f} {more:8.2f} "
            f"{len(pairs) / wall:9.0f}   {json.dumps(verdicts)} (bare: {bare_accepted} accepted)"
        )


if __name__ == "__main__":
    main()
