"""What a learned ranker of proposals sees, and what it would save: `python tests/benchmarks/ranking.py RUN [OUT.svg]`.

Of each iteration from the second on it predicts how often its proposals will be solved, from what was tried before,
and is then held against what came of them. The plot is of its calibration, iteration by iteration put together.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from puzzles.archive.store import Archive
from puzzles.features import described
from puzzles.verify import truth_pool
from selfplay.experiments.chart import calibration
from selfplay.iteration import ranker
from selfplay.run.rundir import RunDir
from selfplay.scoring.metrics import interval
from selfplay.text import render

BINS = 8
SHARES = (0.25, 0.5, 0.75)


def outcomes(archive, pool, iteration):
    """Predicted and found solve rates of an iteration's own puzzles, and who was learned from at all."""
    rows = archive.query(
        "SELECT p.id, sum(c.verdict = 'accepted'), count(*) FROM puzzles p JOIN candidates c ON c.puzzle = p.id"
        " JOIN chunks k ON k.id = c.chunk WHERE p.origin = 'model' AND p.iteration = ? AND k.iteration = ?"
        " AND k.stage = 'solve' GROUP BY p.number ORDER BY p.number",
        iteration, iteration,
    )  # fmt: skip
    model = ranker.fitted_before(archive, pool, iteration)
    traits = described(pool, [archive.puzzle(row[0]) for row in rows])
    predicted = model.rates(ranker.rows_of(traits))
    accepted, tried = (np.array(column) for column in zip(*[(row[1], row[2]) for row in rows], strict=True))
    return predicted, accepted, tried


def auc(scores, positive):
    above = (scores[positive][:, None] > scores[~positive][None, :]) + 0.5 * (
        scores[positive][:, None] == scores[~positive][None, :]
    )
    return float(above.mean())


def kept(scores, useful, share):
    """Of what can be learned from, how much is among the best so many."""
    order = np.argsort(-scores, kind="stable")[: round(share * len(scores))]
    return float(useful[order].sum() / useful.sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    arguments = parser.parse_args()
    found = []
    head = ["iteration", "proposals", "solved at all", "mean rate", "predicted", "AUC of solved"]
    rows = [[*head, *(f"kept of what teaches, {share:.0%} tried" for share in SHARES)]]
    with Archive(RunDir(arguments.run).archive) as archive, truth_pool() as pool:
        last = len(RunDir(arguments.run).read_records())
        for iteration in range(2, last):
            predicted, accepted, tried = outcomes(archive, pool, iteration)
            useful = (accepted > 0) & (accepted < tried)
            worth = predicted * (1 - predicted)
            rows.append([
                str(iteration), str(len(tried)), f"{np.mean(accepted > 0):.2f}", f"{np.mean(accepted / tried):.3f}",
                f"{predicted.mean():.3f}", f"{auc(predicted, accepted > 0):.2f}",
                *(f"{kept(worth, useful, share):.2f}" for share in SHARES),
            ])  # fmt: skip
            found.append((predicted, accepted / tried))
    print(render(rows, right=range(9)))
    predicted, rates = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(predicted, kind="stable")
    scores = [(predicted[part].mean(), interval(rates[part])) for part in np.array_split(order, BINS)]
    print("\npredicted  found [95 %]")
    for mean, score in scores:
        print(f"{mean:9.3f}  {score}")
    points = [(mean, (score.value, score.low, score.high)) for mean, score in scores]
    if arguments.out:
        arguments.out.write_text(calibration(points, "solve rate"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
