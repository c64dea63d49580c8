"""What the candidates of a trained model cost to judge, from the results of a benchmark, side by side in one run.

    selfplay bench runs/embedded/checkpoints/iteration-003 --puzzles dev
    python tests/benchmarks/judging.py runs/bench-embedded-iteration-003-dev [--cpu-seconds 0.25,1] [--pairs 3]

Ways: each distinct text for itself, and programs that differ in names and layout only once. Told are the CPU seconds of
the sandbox (medians), of them those of programs that met the limit, and how many verdicts differ between the ways. A
program that needs about the limit may differ from itself.
"""

import argparse
import dataclasses
import statistics
from collections import Counter
from pathlib import Path

from puzzles.parse import parse_candidates
from puzzles.puzzle import Candidate, Verdict
from puzzles.verify import truth_pool, verify
from sandbox.result import Limits
from selfplay.sampling.prompts import kept_format
from selfplay.sampling.shots import prompt_for
from selfplay.scoring import results
from selfplay.scoring.sets import scored_puzzles


def main():
    """Print a line for each limit and way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu-seconds", default="0.25,1")
    parser.add_argument("--pairs", type=int, default=1)
    options = parser.parse_args()
    for seconds in map(float, options.cpu_seconds.split(",")):
        with truth_pool(Limits(cpu_seconds=seconds)) as pool:
            pairs = stored(pool, options.folder)
            one_by_one = [(puzzle, dataclasses.replace(candidate, form="")) for puzzle, candidate in pairs]
            ways = {"each text": one_by_one, "equal programs once": pairs}
            found = {name: [] for name in ways}
            for number in range(options.pairs):
                for name in [*ways][:: 1 if number % 2 == 0 else -1]:
                    found[name].append(cost(pool, ways[name]))
        verdicts = [found[name][0][1] for name in ways]
        differ = sum(one.verdict != other.verdict for one, other in zip(*verdicts, strict=True))
        print(f"{len(pairs):,} programs, limit {seconds:g} s: {differ} verdicts differ")
        for name, runs in found.items():
            counts = Counter(judgement.verdict for judgement in runs[0][1])
            median = statistics.median(spent for spent, _ in runs)
            print(f"  {name}: {median:.1f} CPU s; {counts[Verdict.TIME_LIMIT]} met the limit")


def stored(pool, folder):
    """The pairs of a benchmark that could be parsed."""
    own = results.read(folder)["selfplay"]
    puzzles = {named.puzzle.id: named.puzzle for named in scored_puzzles(pool, own["set"]["path"])}
    asked = [
        (puzzles[result["puzzle"]], prompt_for(kept_format(own), puzzles[result["puzzle"]], []).parsed_text(text))
        for line in results.unpack(folder)
        for result in line["results"]
        for text in result["texts"]
    ]
    parsed = parse_candidates(pool, [text for _, text in asked])
    return [(puzzle, one) for (puzzle, _), one in zip(asked, parsed, strict=True) if isinstance(one, Candidate)]


def cost(pool, pairs):
    """CPU seconds of the sandbox, and the judgements."""
    before = pool.cpu_seconds()
    judgements = verify(pool, pairs)
    return pool.cpu_seconds() - before, judgements


if __name__ == "__main__":
    main()
