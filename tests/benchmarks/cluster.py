"""What Ray adds to verification, beside the pool of this process on the same work and cores.

    python tests/benchmarks/cluster.py [--puzzles 100] [--pairs 3]

The work is self-play's mix (`verify.py`), 100 candidates per puzzle; each pair of ways is measured one right
after the other, in turned order. Told are the median of the pairs' ratios, and the ratio of the least that each way
took, which says more of a machine that does other things, too. The start, paid once per command, is told apart.
"""

import argparse
import statistics
import time
from pathlib import Path

from verify import measured, mix

from puzzles.verify import truth_pool, verify
from sandbox.pool import available_cores
from selfplay.config import RayConfig
from selfplay.sampling.cluster import RayPool, connected


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
        figures = [one_pair(here, there, pairs, number) for number in range(options.pairs)]
        there.close()
    for place, name in enumerate(("CPU", "wall")):
        ours, rays = ([pair[way][place] for pair in figures] for way in (0, 1))
        median = statistics.median(ray / our for our, ray in zip(ours, rays, strict=True))
        print(
            f"{name}: with Ray {median:.2f} times the local pool's (median), {min(rays) / min(ours):.2f} at the least"
        )


def one_pair(here, there, pairs, number):
    """CPU and wall seconds of both ways."""
    order = [here, there] if number % 2 == 0 else [there, here]
    figures = {pool: measured(lambda pairs, pool=pool: verify(pool, pairs), pairs) for pool in order}
    (cpu, wall, judgements), (cpu_there, wall_there, judgements_there) = figures[here], figures[there]
    assert [(j.verdict, j.answer) for j in judgements] == [(j.verdict, j.answer) for j in judgements_there]
    print(
        f"{len(pairs)} candidates: here {cpu:.2f} CPU s, {wall:.2f} s, {len(pairs) / wall:.0f}/s; "
        f"Ray {cpu_there:.2f} CPU s, {wall_there:.2f} s, {len(pairs) / wall_there:.0f}/s",
        flush=True,
    )
    return (cpu, wall), (cpu_there, wall_there)


if __name__ == "__main__":
    main()
