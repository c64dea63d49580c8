"""What Ray adds to verification, beside the pool of this process on the same work and cores.

    python tests/benchmarks/cluster.py [--puzzles 100] [--pairs 3]

The work is self-play's mix (`verify.py`), 100 candidates per puzzle; each pair of ways is measured one right
after the other, in turned order, and their ratios are told: of a machine that does other things, too, the least is
nearest to the truth. The start, which is paid once per command, is told apart.
"""

import argparse
import statistics
import time
from pathlib import Path

from verify import measured, mix

from puzzles.verify import truth_pool, verify
from sandbox.pool import available_cores
from selfplay.cluster import RayPool, connected
from selfplay.config import RayConfig


def main():
    """Print a line for each pair, and their least and median."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--puzzles", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    load = Path("/proc/loadavg").read_text().split()[0]
    print(f"{available_cores()} cores, of which other work took {load} in the last minute")
    started = time.monotonic()
    with connected(RayConfig()), truth_pool() as here:
        there = RayPool(here, 0, "D", print)
        print(f"start: {time.monotonic() - started:.1f} s, with every node's self-check")
        pairs = mix(here, options.puzzles)
        verdicts = [[judgement.verdict for judgement in verify(pool, pairs[:200])] for pool in (here, there)]
        assert verdicts[0] == verdicts[1]
        ratios = [one_pair(here, there, pairs, number) for number in range(options.pairs)]
        there.close()
    for name, column in zip(("CPU", "wall"), zip(*ratios, strict=True), strict=True):
        print(f"{name}: least {min(column):.3f}, median {statistics.median(column):.3f} times the local pool's")


def one_pair(here, there, pairs, number):
    """CPU and wall of one way to those of the other."""
    order = [here, there] if number % 2 == 0 else [there, here]
    figures = {pool: measured(lambda pairs, pool=pool: verify(pool, pairs), pairs) for pool in order}
    (cpu, wall, judgements), (cpu_there, wall_there, judgements_there) = figures[here], figures[there]
    assert [(j.verdict, j.answer) for j in judgements] == [(j.verdict, j.answer) for j in judgements_there]
    print(
        f"{len(pairs)} candidates: here {cpu:.2f} CPU s, {wall:.2f} s, {len(pairs) / wall:.0f}/s; "
        f"Ray {cpu_there:.2f} CPU s, {wall_there:.2f} s, {len(pairs) / wall_there:.0f}/s",
        flush=True,
    )
    return cpu_there / cpu, wall_there / wall


if __name__ == "__main__":
    main()
