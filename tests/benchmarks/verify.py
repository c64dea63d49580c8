"""How fast verdicts are, side by side in one run on the same work.

    python tests/benchmarks/verify.py [CODEX.jsonl.gz]

Each kind of work is judged by the sandbox, everything on and accepts repeated alone, and by peers'
ways of doing it, re-implemented in shape and without any protection:

bare        compile, run and judge in this process; what no judge can do without
fork        a fork of a small process for each check
pool        workers that run one program after the other, each poisoned by the last
p3          P3's: such a pool anew for each puzzle, with half as many workers as cores
manager     human-eval's: for each check a manager process for the result and another for the program

CPU is of all processes, wall is with as many lanes, workers or threads as there are cores. `more` is
the CPU time per accepted candidate beyond the bare one. Peers much slower than the rest get a sample.
"""

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import typing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from puzzles.archive.formats import open_text, read_pairs, with_header
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from puzzles.verify import AUDITED_BELOW, truth_pool, verify
from sandbox.pool import available_cores

TYPING = {name: getattr(typing, name) for name in typing.__all__}
"""In scope for every program, as in the sandbox."""
SECONDS = 1.0
SAMPLE = 400
FORK = multiprocessing.get_context("fork")


def cpu_seconds():
    """User and system time of this process and of all below it, the living with their ended children."""
    total, parents = sum(map(sum, (resource.getrusage(who)[:2] for who in (0, -1)))), {os.getpid()}
    stats = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            stats[int(folder.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))
    while parents:
        parents = {pid for pid, (parent, _) in stats.items() if parent in parents}
        total += sum(stats[pid][1] for pid in parents)
    return total


def measured(judge, pairs):
    """CPU seconds, wall seconds and what `judge` returns."""
    before, started = cpu_seconds(), time.monotonic()
    result = judge(pairs)
    return cpu_seconds() - before, time.monotonic() - started, result


# ---- the ways ----


def holds(pair, timer=signal.ITIMER_PROF):
    """Compile, run and judge one pair here and now: trusted data of a benchmark, no protection at all."""
    puzzle, candidate = pair
    namespace = dict(TYPING)
    signal.setitimer(timer, SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for source in (puzzle, candidate):
                exec(compile(source, "bare", "exec"), namespace)  # noqa: S102  # the point of comparison
            return namespace["f"](namespace["g"]()) is True
    except BaseException:  # noqa: BLE001  # whatever a program does
        return False
    finally:
        signal.setitimer(timer, 0)


def time_out(*_):
    """Ends a program that takes too long."""
    raise TimeoutError


def bare(pairs):
    """In this process, one after the other."""
    return sum(map(holds, pairs))


def fork(pairs):
    """A fork for each, as many at a time as there are cores."""
    accepted, running, waiting = 0, 0, iter(pairs)
    while True:
        for pair in itertools.islice(waiting, available_cores() - running):
            running += 1
            if os.fork() == 0:
                os._exit(holds(pair))
        if not running:
            return accepted
        accepted += os.wait()[1] == 256
        running -= 1


def pool(pairs):
    """Workers that live long."""
    with FORK.Pool(available_cores()) as workers:
        return sum(workers.imap(holds, pairs, chunksize=16))


def p3(pairs):
    """A pool for each puzzle, of `cpu_count() // 2` workers (ICLR2023/src/judge.py)."""
    accepted = 0
    for _, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        with FORK.Pool(max(1, available_cores() // 2)) as workers:
            accepted += sum(workers.imap(holds, group))
    return accepted


def checked(pair):
    """One check as human-eval does it."""
    with FORK.Manager() as manager:
        result = manager.list()
        process = FORK.Process(target=lambda: result.append(holds(pair)))
        process.start()
        process.join(SECONDS + 1)
        if process.is_alive():
            process.kill()
        return bool(result and result[0])


def manager(pairs):
    """A manager and a process for each, from a pool of threads."""
    with ThreadPoolExecutor(available_cores()) as threads:
        return sum(threads.map(checked, pairs))


# ---- the work ----


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
        answers = [*right, *wrong, *rng.choices(right + wrong, k=20)]
        rng.shuffle(answers)
        texts = [Text(f"def g():\n    return {answer}") for answer in answers]
        pairs += [(puzzle, candidate) for candidate in parse_candidates(pool, texts)]
    return pairs


def with_loops(pool, pairs):
    """The same, but one candidate in a hundred never ends."""
    texts = [Text(f"def g():\n    x = {n}\n    while True:\n        x += 1") for n in range(len(pairs) // 100)]
    loops = parse_candidates(pool, texts)
    return [(puzzle, loops[n // 100] if n % 100 == 50 else candidate) for n, (puzzle, candidate) in enumerate(pairs)]


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


# ---- the table ----


def row(way, pairs, figures, bare_cpu):
    """One line: a way, its figures, and how they compare."""
    cpu, wall, accepted = figures
    more = 1000 * (cpu - bare_cpu) / max(1, accepted)
    figures = f"{len(pairs):7} {accepted:9} {cpu:8.2f} {cpu / bare_cpu:9.2f} {more:8.2f} {wall:7.2f}"
    print(f"  {way:10} {figures} {len(pairs) / wall:9.0f}", flush=True)


def compare(name, pairs, peers):
    """All ways on one kind of work."""
    print(f"\n{name}\n  way         checks  accepted    CPU s  to bare  more ms  wall s  checks/s")
    sources = [(puzzle.source, candidate.source) for puzzle, candidate in pairs]
    reference = measured(bare, sources)
    row("bare", pairs, reference, reference[0])
    with truth_pool() as pool:
        verify(pool, pairs[:200])  # starts every zygote
        cpu, wall, judgements = measured(lambda pairs: verify(pool, pairs), pairs)
    verdicts = Counter(judgement.verdict for judgement in judgements)
    row("sandbox", pairs, (cpu, wall, verdicts["accepted"]), reference[0])
    for peer, most in peers.items():
        figures = measured(peer, sources[:most])
        row(peer.__name__, sources[:most], figures, reference[0] * len(sources[:most]) / len(sources))
    audited = sum(candidate.id < AUDITED_BELOW for _, candidate in dict.fromkeys(pairs))
    differ = sum("beside others" in judgement.detail for judgement in judgements)
    print(f"  verdicts {json.dumps(verdicts)}; {audited} audited, {differ} did otherwise alone")


def main():
    """Print one table per kind of work."""
    signal.signal(signal.SIGPROF, time_out)
    everything = {fork: None, pool: None, p3: None, manager: SAMPLE}
    with truth_pool() as pool_:
        trivial, chosen = trivial_pairs(pool_, 2000), mix(pool_, 60)
        loops = with_loops(pool_, chosen[:2000])
        programs = {Path(path).name: codex(pool_, path) for path in sys.argv[1:]}
    compare("accepts that cost nothing themselves", trivial, everything)
    compare("self-play mix: of 100 for a puzzle 20 distinct right, 60 distinct wrong, 20 repeats", chosen, everything)
    compare("the same, one candidate in 100 looping for ever", loops, {fork: None, pool: None, p3: None})
    for name, pairs in programs.items():
        compare(name, pairs, {fork: None, pool: None, p3: None})


if __name__ == "__main__":
    main()
