"""Goal niches for proposals, and the solved puzzles shown for each goal: quality-diversity search.

As in ACES (arXiv:2310.10692), each prompt has a goal, which is a niche. The prompt shows puzzles from the niches
nearest to it and prefers the best ones. Three things differ from ACES:

- Rules decide which niche a puzzle is in (`puzzles.features`), not a language model.
- Half of the goals are filled niches, each equally likely, however many puzzles it holds. The other half are empty
  niches one step from at least two filled ones, so that a proposal can get there in two ways.
- The best puzzles are not the hardest, but those from which most is to be learned (`solve.worth_further`). People's
  puzzles have solutions that the model never found, and the hardest puzzles lead to proposals that nobody solves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from puzzles.archive.store import Archive
from puzzles.features import FORMS, SHAPES, SKILLS, Niche, described
from sandbox.pool import Pool
from selfplay.iteration.solve import worth_further

NEAREST = 3
"""Number of filled niches that a prompt's puzzles come from."""
SHARPNESS = 0.2
"""Temperature of the choice within a niche, with worth scaled to 0 for the worst and 1 for the best; from ACES."""
NEIGHBOURS = 2
"""Fewest filled neighbours with which an empty niche may be a goal."""


class Goals:
    """A map of solved puzzles by niche. Goals and the parents for them are drawn from it.

    Args:
        niches: The niche of each puzzle.
        worth: The worth of each puzzle, in any unit; larger is better.
    """

    def __init__(self, niches: Mapping[str, Niche], worth: Mapping[str, float]) -> None:
        self.filled: dict[Niche, list[str]] = {}
        for identifier, niche in niches.items():
            self.filled.setdefault(niche, []).append(identifier)
        self.between = between(self.filled)
        self._chances = {niche: _chances([worth[each] for each in own]) for niche, own in self.filled.items()}

    @classmethod
    def of(cls, archive: Archive, pool: Pool, identifiers: Sequence[str]) -> Goals:
        """The map of these puzzles of an archive. Worth comes from each puzzle's candidates so far."""
        traits = described(pool, [archive.puzzle(identifier) for identifier in identifiers])
        niches = {identifier: each.niche for identifier, each in zip(identifiers, traits, strict=True)}
        rows = archive.query("SELECT puzzle, sum(verdict = 'accepted'), count(*) FROM candidates GROUP BY 1")
        worth = {puzzle: worth_further(right, tried) for puzzle, right, tried in rows}
        return cls(niches, {identifier: worth.get(identifier, worth_further(0, 0)) for identifier in identifiers})

    def goal(self, rng: np.random.Generator) -> Niche:
        """A goal: a filled niche or, equally likely, an empty one between filled ones."""
        kinds = [kind for kind in (list(self.filled), self.between) if kind]
        kind = kinds[int(rng.integers(len(kinds)))]
        return kind[int(rng.integers(len(kind)))]

    def parents(self, goal: Niche, count: int, rng: np.random.Generator) -> list[str]:
        """`count` different puzzles for a goal, or all there are, each drawn from one of the nearest niches."""
        left = {niche: list(own) for niche, own in self.nearest(goal, count, rng).items()}
        drawn: list[str] = []
        while left and len(drawn) < count:
            near = list(left)[:NEAREST]
            niche = near[int(rng.integers(len(near)))]
            chances = self._chances[niche][[each not in drawn for each in self.filled[niche]]]
            place = int(rng.choice(len(left[niche]), p=chances / chances.sum()))
            drawn.append(left[niche].pop(place))
            if not left[niche]:
                del left[niche]
        return drawn

    def nearest(self, goal: Niche, count: int, rng: np.random.Generator) -> dict[Niche, list[str]]:
        """The nearest filled niches, ties by chance: at least NEAREST, and enough to hold `count` puzzles."""
        niches = list(self.filled)
        ordered = iter(sorted((niches[place] for place in rng.permutation(len(niches))), key=goal.distance))
        near: dict[Niche, list[str]] = {}
        while len(near) < NEAREST or sum(map(len, near.values())) < count:
            niche = next(ordered, None)
            if niche is None:
                break
            near[niche] = self.filled[niche]
        return near


def _chances(worth: Sequence[float]) -> NDArray[np.float64]:
    """The chance of each puzzle of a niche: a softmax of its worth, scaled from the worst to the best."""
    values = np.array(worth)
    width = values.max() - values.min()
    weights = np.exp((values - values.min()) / (width or 1) / SHARPNESS)
    return np.asarray(weights / weights.sum())


def between(filled: Collection[Niche]) -> list[Niche]:
    """Empty niches one step from at least `NEIGHBOURS` filled ones, in a fixed order."""
    steps = Counter(niche for each in filled for niche in neighbours(each))
    found = [niche for niche, count in steps.items() if count >= NEIGHBOURS and niche not in filled]
    return sorted(found, key=str)


def neighbours(niche: Niche) -> Iterator[Niche]:
    """All niches at distance 1."""
    yield from (niche._replace(skills=niche.skills ^ {skill}) for skill in SKILLS)
    yield from (niche._replace(shape=shape) for shape in SHAPES if shape != niche.shape)
    yield from (niche._replace(form=form) for form in FORMS if form not in (niche.form, "unreadable"))


def landed(archive: Archive, pool: Pool, iteration: int) -> dict[str, float]:
    """How near the iteration's admitted proposals came to their goals; empty if none had a goal.

    Returns:
        `proposals`, the number with a goal; the shares `in_goal` and `next_to_goal` (one step away); mean `distance`.
    """
    goals: dict[tuple[int, int], str] = {}
    for chunk, plan in archive.plans("stage = 'propose' AND iteration = ?", iteration):
        for place, goal in enumerate(plan.get("goals", [])):
            if goal is not None:
                goals.update({(chunk, place * plan["copies"] + copy): goal for copy in range(plan["copies"])})
    rows = archive.query(
        "SELECT id, chunk, position FROM puzzles WHERE origin = 'model' AND iteration = ? ORDER BY number", iteration
    )
    asked = [(row[0], goals[row[1], row[2]]) for row in rows if (row[1], row[2]) in goals]
    if not asked:
        return {}
    traits = described(pool, [archive.puzzle(identifier) for identifier, _ in asked])
    distances = np.array([each.niche.distance(Niche.read(goal)) for each, (_, goal) in zip(traits, asked, strict=True)])
    return {
        "proposals": len(asked), "in_goal": float(np.mean(distances == 0)),
        "next_to_goal": float(np.mean(distances == 1)), "distance": float(distances.mean()),
    }  # fmt: skip
