"""How fast the judge's service is beside `verify` on the same pairs.

    python tests/benchmarks/judge.py [PAIRS]

64 threads give single calls to a service of their own, as trainers do; `verify` gets all pairs at once. Both have as
many lanes as there are cores, and both are warm. Each row is a kind of work, in the order verify, judge, verify, judge;
the share is the judge's best rate over the best rate of `verify`. CPU is what a pair costs all processes together; it
tells more on a busy machine. No pair comes twice, so nothing is remembered.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from verify import cpu_seconds

from puzzles.verify import truth_pool, verify_texts
from selfplay.judge import Judge

CALLERS = 64


def cheap(count, start):
    """Distinct right solutions to distinct puzzles, which cost nothing to run."""
    return [(f"def f(x: int):\n    return x == {n}", f"def g():\n    return {n}") for n in range(start, start + count)]


def group(count, start):
    """What a trainer asks: of 16 replies to a puzzle 3 are right, 11 wrong and 2 no program."""
    replies = [*("{n}", "{n} + 0", "sum([{n}])"), *(f"{{n}} + {wrong}" for wrong in range(1, 12)), "(", "def"]
    return [
        (f"def f(x: int):\n    return x == {n}", f"I think:\n```python\ndef g():\n    return {reply.format(n=n)}\n```")
        for n in range(start, start + count // len(replies))
        for reply in replies
    ]


def slow(count, start):
    """Right solutions that search for some 10 ms."""
    search = "def g():\n    return next(x for x in range(10 ** 5, 0, -1) if x == {n})"
    puzzle = "def f(x: int):\n    return x * x == {square} and x > 0"
    return [(puzzle.format(square=n * n), search.format(n=n)) for n in range(start, start + count)]


def by_verify(pool, pairs):
    """Seconds, and how many were accepted."""
    begun = time.monotonic()
    found = [each for at in range(0, len(pairs), 500) for each in verify_texts(pool, pairs[at : at + 500])]
    return time.monotonic() - begun, sum(each.verdict == "accepted" for each in found)


def by_judge(judge, pairs):
    """The same by single calls from many threads."""
    with ThreadPoolExecutor(CALLERS) as callers:
        begun = time.monotonic()
        found = list(callers.map(lambda pair: judge.verdict(*pair), pairs))
        return time.monotonic() - begun, sum(each.accepted for each in found)


def main():
    """Print one row for each kind of work."""
    count = int(sys.argv[1]) if sys.argv[1:] else 2000
    with truth_pool() as pool, Judge() as judge:
        by_verify(pool, group(64, 10**8)), by_judge(judge, group(64, 10**8))
        print(f"{'':6} {'verify':>18} {'judge':>18}   pairs/s, {count} pairs, twice each")
        for make, number in ((cheap, count), (group, count), (slow, count // 4)):
            ways = {by_verify: pool, by_judge: judge}
            rates, cost = {way: [] for way in ways}, dict.fromkeys(ways, 0.0)
            accepted = set()
            for turn in range(2):
                for way, whom in ways.items():
                    pairs = make(number, 10**4 + (2 * turn + (way is by_judge)) * 10**4)
                    before = cpu_seconds()
                    seconds, right = way(whom, pairs)
                    rates[way].append(len(pairs) / seconds)
                    accepted.add(right)
                    cost[way] += (cpu_seconds() - before) / len(pairs) / 2
            assert len(accepted) == 1, accepted
            shown = (" ".join(f"{rate:8,.0f}" for rate in rates[way]).rjust(18) for way in ways)
            share = max(rates[by_judge]) / max(rates[by_verify])
            cpu = " and ".join(f"{1000 * each:.2f}" for each in cost.values())
            print(f"{make.__name__:6} {' '.join(shown)}   {share:.0%}; CPU ms a pair: {cpu}", flush=True)


if __name__ == "__main__":
    main()
