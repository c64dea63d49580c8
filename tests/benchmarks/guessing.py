"""What guessing scores: candidates drawn from the training puzzles' reference answers of the same type.

    python tests/benchmarks/guessing.py    (half a minute)

A guess is the answer of a training puzzle with the same answer type, each as likely; pass@k of a puzzle is
1 - (1 - p)^k, p being the share of these answers that it accepts. So much of a score needs no reading of the puzzle.
"""

import sys

import numpy as np

from puzzles.archive.formats import read_errata
from puzzles.parse import Text, parse_candidates
from puzzles.puzzle import Candidate
from puzzles.verify import accepts, encoded_answers, truth_pool
from selfplay.scoring.metrics import interval
from selfplay.scoring.sets import scored_puzzles
from selfplay.text import markdown

KS = (1, 16, 100)


def main() -> int:
    rows = []
    with truth_pool() as pool:
        known = [(item, text) for item in scored_puzzles(pool, "train") for text in item.solutions[:1]]
        candidates = parse_candidates(
            pool, [Text(text, rename={item.puzzle.original_name: "f"}) for item, text in known]
        )
        pairs = [(item.puzzle, c) for (item, _), c in zip(known, candidates, strict=True) if isinstance(c, Candidate)]
        answers: dict[str, list[bytes]] = {}
        for (puzzle, _), answer in zip(pairs, encoded_answers(pool, pairs), strict=True):
            if answer is not None:
                answers.setdefault(puzzle.answer_type, []).append(answer)
        for name in ("dev", "heldout"):
            puzzles = [item.puzzle for item in scored_puzzles(pool, name) if item.puzzle.id not in read_errata()]
            said = accepts(pool, [(puzzle, answers.get(puzzle.answer_type, [])) for puzzle in puzzles])
            share_P = np.array([sum(map(bool, one)) / max(1, len(one)) for one in said])
            rows.append(
                [name, str(len(puzzles)), str(sum(share_P > 0)), *(str(interval(1 - (1 - share_P) ** k)) for k in KS)]
            )
    print(markdown(["set", "puzzles", "right at all", *(f"pass@{k}" for k in KS)], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
