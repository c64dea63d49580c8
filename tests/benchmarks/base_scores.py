"""Scores the shipped model as the default run does, and keeps the scores with the package.

    python tests/benchmarks/base_scores.py

To be repeated for other weights, sets, prompts or settings: `tests/scoring/test_shipped.py` tells when.
"""

import sys
import tempfile
from pathlib import Path

from selfplay.run.pools import unproven_pool
from selfplay.run.rundir import SCORED_SETS
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import PromptFormat
from selfplay.scoring.evaluate import Questions, evaluate
from selfplay.scoring.sets import scored_puzzles
from selfplay.scoring.shipped import ship
from selfplay.settings import load


def main(samples=None):
    """Print the files' names.

    Args:
        samples: Folder with a default run's score files of iteration 0; None to sample.
    """
    config = load(None)
    with unproven_pool(config.sandbox, 0) as pool, tempfile.TemporaryDirectory() as folder:
        model = LanguageModel(config.model.path, config.model)
        for name in SCORED_SETS:
            asked = Questions(scored_puzzles(pool, name), PromptFormat("plain"), [], config.evaluate, [0], 0, 0)
            file = Path(samples or folder) / f"iteration-000-{name}.jsonl"
            if samples is None:
                scores = evaluate(model, pool, asked, file)
                print(name, scores.pass_at)
            print(ship(model, pool, asked, file))


if __name__ == "__main__":
    main(*sys.argv[1:])
