"""Do the puzzles that a run proposes still differ? Measures of one iteration, and alarms over many.

A model that learns from its own puzzles may come to write fewer and fewer kinds of them. Scores show this late. The
measures here describe an iteration's admitted proposals: over how many forms and niches they spread, how alike and how
hard they are, and how far they are from people's puzzles. Entropies and the Vendi score grow with the number of
puzzles. So that iterations can be compared, all measures except the shares of proposals and the solve rates use a
seeded sample of at most SAMPLE puzzles.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from puzzles.archive import trends
from puzzles.archive.store import Archive
from puzzles.features import FEATURES, Traits, described
from puzzles.guard import MIN_SHINGLES, NEAR_DUPLICATE
from puzzles.puzzle import Puzzle
from sandbox.pool import Pool
from selfplay.config import CollapseConfig
from selfplay.iteration.ranker import logistic_weights, rows_of
from selfplay.sampling.streams import Stream

SAMPLE = 250
"""Most puzzles of an iteration that are measured. An iteration of the embedded run admits 259 to 406."""
FEWEST = 50
"""With fewer items a measure raises no alarm: a small spread or an extreme share may then be chance."""
NGRAMS = (1, 2, 3)
TOKEN = re.compile(r"\w+|[^\w\s]")
FOLDS = 5
RESAMPLES = 1000
DIGITS = 6
"""Digits kept of each measure. A linear algebra library with other threads differs only in later digits."""
GROWING = ("niche_entropy", "token_entropy_3", "vendi")
"""Measures with a limit that grow with the number of puzzles measured."""
LARGEST = 5
"""Number of features to name among those that differ most from people's puzzles."""


# ---- one iteration ----


@dataclass(frozen=True)
class _Sample:
    """Puzzles to be measured, drawn from `of` puzzles."""

    puzzles: list[Puzzle]
    traits: list[Traits]
    of: int

    @property
    def features(self) -> NDArray[np.float64]:
        """[P, F] features of the puzzles."""
        return rows_of(self.traits)

    @functools.cached_property
    def spread(self) -> dict[str, Any]:
        """Measures of spread; cached, because the comparison with iteration 1 may use them again."""
        return _of_spread(self)

    @property
    def lengths(self) -> list[int]:
        return [len(puzzle.source) for puzzle in self.puzzles]


def measure(archive: Archive, pool: Pool, iteration: int, seed: int) -> dict[str, Any]:
    """Measure an iteration's puzzles, for JSON. For iteration 0, measure the puzzles that the run began with.

    The same archive, seed and machine give the same numbers. `None` means that there is nothing to measure.

    Args:
        archive: The run's archive. The iteration's verdicts must be written.
        pool: A sandbox that describes puzzles.
        iteration: From 0.
        seed: Seed of the samples, folds and resamples.

    Returns:
        A mapping with these keys.
        Counts: `puzzles` admitted, and `sampled` among them.
        Shares: `well_formed` of the proposed texts; `trivial` and `distinct_forms` of the well-formed ones;
        `new_skeletons` of the admitted ones.
        Of the sample: `niches`; the entropies `niche_entropy` and `token_entropy_1` to `_3`, in bits; `vendi` (in
        1..sampled); `near_duplicates` (a share); `characters` (a mean); `characters_from_first` and
        `characters_from_human` (Wasserstein-1 distances, in characters).
        After iteration 1: `beside_first`, `[own, first]` of each measure that grows with the sample, from equally many
        puzzles of both iterations.
        Of the puzzles `tried`: `solve_rate` (a mean), `never_solved` and `always_solved` (shares), and
        `solve_rate_from_first` (a Wasserstein-1 distance).
        `human_auc`: `[value, low, high]` of a classifier that tells the puzzles from people's; 0.5 if it cannot.
        `human_difference`: the mean absolute standardised difference of features. `human_differences`: the largest.
    """
    own, human = _sample(archive, pool, iteration, seed), _sample(archive, pool, 0, seed)
    first = own if iteration < 2 else _sample(archive, pool, 1, seed)
    measured = {
        "iteration": iteration, "puzzles": own.of, "sampled": len(own.puzzles),
        **_of_proposals(archive, iteration), **own.spread, **_of_rates(archive, iteration),
        **(_beside_first(archive, pool, iteration, seed, own, first) if iteration > 1 else {}),
        **_of_lengths(own, first, human), **(_of_likeness(own, human, seed) if iteration else {}),
    }  # fmt: skip
    return {name: _rounded(value) for name, value in measured.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_rounded(member) for member in value]
    return round(float(value), DIGITS) if isinstance(value, float | np.floating) else value


def _sample(archive: Archive, pool: Pool, iteration: int, seed: int, most: int | None = None) -> _Sample:
    """A sample of at most `most` (None: SAMPLE) of the iteration's admitted proposals.

    Iteration 0 stands for people's puzzles, or for pairs by rule if there are none.
    """
    if iteration:
        identifiers = archive.puzzle_ids("p.origin = 'model' AND p.iteration = ?", iteration)
    else:
        identifiers = archive.puzzle_ids("p.origin IN ('human', 'import')") or archive.puzzle_ids("p.origin = 'rule'")
    rng = np.random.default_rng([seed, iteration, Stream.COLLAPSE_SAMPLE])
    count = min(SAMPLE if most is None else most, len(identifiers))
    drawn = sorted(rng.choice(len(identifiers), count, replace=False)) if identifiers else []
    puzzles = [archive.puzzle(identifiers[place]) for place in drawn]
    return _Sample(puzzles, described(pool, puzzles), len(identifiers))


def _of_proposals(archive: Archive, iteration: int) -> dict[str, Any]:
    (texts, well_formed, distinct, trivial), = archive.query(
        "SELECT count(*), count(r.puzzle), count(DISTINCT r.puzzle), sum(r.outcome = 'trivial') FROM proposals r"
        " JOIN chunks k ON k.id = r.chunk WHERE k.stage = 'propose' AND k.iteration = ?",
        iteration,
    )  # fmt: skip
    admitted, new = trends.new_structures(archive, iteration).get(iteration, (0, 0))
    return {
        "proposed": texts, "well_formed": _share(well_formed, texts), "distinct_forms": _share(distinct, well_formed),
        "trivial": _share(trivial, well_formed), "new_skeletons": _share(new, admitted),
    }  # fmt: skip


def _share(part: int | None, whole: int) -> float | None:
    return (part or 0) / whole if whole else None


def _of_spread(own: _Sample) -> dict[str, Any]:
    niches = Counter(traits.niche for traits in own.traits)
    tokens = [TOKEN.findall(puzzle.source) for puzzle in own.puzzles]
    shingles = [traits.shingles for traits in own.traits]
    skeletons_P_P = jaccard_kernel([traits.skeleton for traits in own.traits])
    return {
        "niches": len(niches), "niche_entropy": entropy(niches),
        **{f"token_entropy_{n}": entropy(ngrams(tokens, n)) for n in NGRAMS},
        "vendi": vendi_score(skeletons_P_P) if own.puzzles else None,
        "near_duplicates": near_duplicates(jaccard_kernel(shingles), shingles),
    }  # fmt: skip


def _beside_first(
    archive: Archive, pool: Pool, iteration: int, seed: int, own: _Sample, first: _Sample
) -> dict[str, Any]:
    """The measures that grow with the number of puzzles, from equally many of this iteration and of iteration 1."""
    count = min(len(own.puzzles), len(first.puzzles))
    mine, before = (
        (of if len(of.puzzles) == count else _sample(archive, pool, number, seed, count)).spread
        for number, of in ((iteration, own), (1, first))
    )
    return {"beside_first": {name: [mine[name], before[name]] for name in GROWING}}


def _of_lengths(own: _Sample, first: _Sample, human: _Sample) -> dict[str, Any]:
    return {
        "characters": float(np.mean(own.lengths)) if own.lengths else None,
        "characters_from_first": wasserstein(own.lengths, first.lengths),
        "characters_from_human": wasserstein(own.lengths, human.lengths),
    }


def _of_rates(archive: Archive, iteration: int) -> dict[str, Any]:
    rates, first = (np.array(trends.solve_rates(archive, number).get(number, [])) for number in (iteration, 1))
    if not iteration or not len(rates):
        return {}
    return {
        "tried": len(rates), "solve_rate": rates.mean(), "never_solved": np.mean(rates == 0),
        "always_solved": np.mean(rates == 1), "solve_rate_from_first": wasserstein(rates, first),
    }  # fmt: skip


def _of_likeness(own: _Sample, human: _Sample, seed: int) -> dict[str, Any]:
    if min(len(own.puzzles), len(human.puzzles)) < 2 * FOLDS:
        return {"human_auc": None}
    rng = np.random.default_rng([seed, Stream.COLLAPSE_LIKENESS])
    ours_P_F, theirs_P_F = own.features, human.features
    scores = held_out_scores(ours_P_F, theirs_P_F, rng)
    differences = dict(zip(FEATURES, standardised_differences(ours_P_F, theirs_P_F), strict=True))
    largest = sorted(differences, key=lambda name: (-abs(differences[name]), name))[:LARGEST]
    return {
        "human_auc": list(auc_interval(*scores, rng)),
        "human_difference": float(np.mean(np.abs([*differences.values()]))),
        "human_differences": {name: differences[name] for name in largest},
    }


# ---- spread ----


def entropy(counts: Mapping[Any, int]) -> float | None:
    """Entropy of the counts in bits: log2 of the number of equally frequent things that would spread as far."""
    total = sum(counts.values())
    if not total:
        return None
    return 0.0 - math.fsum(count / total * math.log2(count / total) for count in counts.values() if count)


def ngrams(texts: Iterable[Sequence[Hashable]], n: int) -> Counter[tuple[Hashable, ...]]:
    """Counts of all runs of n tokens inside the texts."""
    return Counter(tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1))


def jaccard_kernel(sets: Sequence[frozenset[int]]) -> NDArray[np.float64]:
    """[P, P] Jaccard similarities: shared members over all members. The kernel is positive semi-definite (Bouchard et
    al., 2013, Prop. 1).
    """
    places = {member: place for place, member in enumerate(sorted(frozenset().union(*sets)))}
    members_P_M = np.zeros((len(sets), len(places)), dtype=np.float32)
    for row, each in enumerate(sets):
        members_P_M[row, [places[member] for member in each]] = 1
    shared = (members_P_M @ members_P_M.T).astype(np.float64)  # whole numbers below 2**24: exact
    sizes = np.diag(shared)
    either = sizes[:, None] + sizes[None, :] - shared
    return np.where(either > 0, shared / np.maximum(either, 1), 1.0)


def vendi_score(kernel_P_P: NDArray[np.float64]) -> float:
    """The number of entirely different puzzles that would be as diverse (Friedman and Dieng, arXiv:2210.02410).

    It is the exponential of the entropy of the eigenvalues of K / P: 1 if all puzzles are equal, P if no two share
    anything. Our kernel is the Jaccard similarity of the shingles of skeletons. It needs no model and is the same on
    every machine. It counts one condition with many constants as one puzzle, because a small model collapses in this
    way. With the constants, as the guard compares, the score of such a sample was still half the number of puzzles.
    """
    values = np.linalg.eigvalsh(kernel_P_P / len(kernel_P_P))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def near_duplicates(kernel_P_P: NDArray[np.float64], sets: Sequence[frozenset[int]]) -> float | None:
    """Share of puzzles that are near-duplicates of another one, by the guard's definition."""
    if not sets:
        return None
    long = np.array([len(each) >= MIN_SHINGLES for each in sets])
    near = (kernel_P_P >= NEAR_DUPLICATE) & long[:, None] & long[None, :] & ~np.eye(len(sets), dtype=bool)
    return float(near.any(axis=1).mean())


# ---- distances ----


def wasserstein(first: ArrayLike, second: ArrayLike) -> float | None:
    """Wasserstein-1 distance of two samples of numbers: the area between their distribution functions."""
    first, second = np.sort(np.asarray(first, dtype=np.float64)), np.sort(np.asarray(second, dtype=np.float64))
    if not len(first) or not len(second):
        return None
    values = np.sort(np.concatenate([first, second]))
    below = [np.searchsorted(each, values[:-1], "right") / len(each) for each in (first, second)]
    return float(np.sum(np.abs(below[0] - below[1]) * np.diff(values)))


def standardised_differences(ours_P_F: NDArray[np.float64], theirs_P_F: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F] differences of means in units of the pooled standard deviation; 0 where nothing varies."""
    spread_F = np.sqrt((ours_P_F.var(axis=0) + theirs_P_F.var(axis=0)) / 2)
    difference_F = ours_P_F.mean(axis=0) - theirs_P_F.mean(axis=0)
    return np.where(spread_F > 0, difference_F / np.where(spread_F > 0, spread_F, 1), 0.0)


def held_out_scores(
    ours_P_F: NDArray[np.float64], theirs_P_F: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much each row looks like ours, by a logistic regression fitted to the four fifths of rows without it."""
    rows_P_F = np.concatenate([ours_P_F, theirs_P_F])
    is_ours = np.arange(len(rows_P_F)) < len(ours_P_F)
    fold = np.concatenate([rng.permutation(len(each)) % FOLDS for each in (ours_P_F, theirs_P_F)])
    scores = np.empty(len(rows_P_F))
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        mean, spread = rows_P_F[train].mean(axis=0), rows_P_F[train].std(axis=0)
        scaled = (rows_P_F - mean) / np.where(spread > 0, spread, 1)
        scores[test] = scaled[test] @ logistic_weights(scaled[train], is_ours[train].astype(float))[:-1]
    return scores[is_ours], scores[~is_ours]


def auc_interval(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Chance that one of ours scores above one of theirs, with its 95 % bootstrap interval. Ties count half.

    Both sets are resampled. The classifier is not fitted again.
    """
    above = (ours[:, None] > theirs[None, :]) + 0.5 * (ours[:, None] == theirs[None, :])
    weights = [rng.multinomial(len(each), [1 / len(each)] * len(each), RESAMPLES) for each in (ours, theirs)]
    drawn = np.sum((weights[0] @ above) * weights[1], axis=1) / above.size
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(above.mean()), float(low), float(high)


# ---- many iterations ----


@dataclass(frozen=True)
class _Limit:
    """The limit of one measure: its name in words, and the setting that bounds it from one side."""

    measure: str
    words: str
    setting: str
    relative: bool = False
    """Whether the setting is a share of iteration 1's value."""
    of: str = "sampled"
    """What is counted: `sampled` or `tried` puzzles, all `proposed` texts or the `well_formed` ones. A relative limit
    counts the `sampled` puzzles of both iterations.
    """
    unit: str = ""

    @property
    def is_least(self) -> bool:
        return self.setting.startswith("least")


_LIMITS = (
    _Limit("well_formed", "share of well-formed proposals", "least_well_formed", of="proposed"),
    _Limit("distinct_forms", "share of distinct proposals", "least_distinct_forms", of="well_formed"),
    _Limit("trivial", "share of trivial proposals", "most_trivial", of="well_formed"),
    _Limit("near_duplicates", "share of near-duplicates", "most_near_duplicates"),
    _Limit("niche_entropy", "niche entropy", "least_niche_entropy", relative=True, unit=" bits"),
    _Limit("token_entropy_3", "entropy of three tokens", "least_token_entropy", relative=True, unit=" bits"),
    _Limit("vendi", "Vendi score", "least_vendi", relative=True),
    _Limit("characters", "mean length", "least_length", relative=True, unit=" characters"),
    _Limit("characters", "mean length", "most_length", relative=True, unit=" characters"),
    _Limit("always_solved", "share of puzzles that every candidate solves", "most_always_solved", of="tried"),
    _Limit("never_solved", "share of puzzles that no candidate solves", "most_never_solved", of="tried"),
    _Limit("human_auc", "AUC against people's puzzles", "most_human_auc"),
)


def alarms(history: Sequence[Mapping[str, Any]], config: CollapseConfig) -> list[str]:
    """One line for each measure of the last iteration that is past its limit. A healthy run has none.

    Args:
        history: Results of `measure` in the order of iterations, iteration 1 among them.
        config: The limits.
    """
    if not history or not history[-1]["iteration"]:
        return []
    last = history[-1]
    first = next((each for each in history if each["iteration"] == 1), {})
    counts = {
        "sampled": last["sampled"], "both": min(last["sampled"], first.get("sampled", 0)),
        "tried": last.get("tried", 0), "proposed": last["proposed"],
        "well_formed": last["proposed"] * (last["well_formed"] or 0),
    }  # fmt: skip
    asked = [limit for limit in _LIMITS if counts["both" if limit.relative else limit.of] >= FEWEST]
    return [line for limit in asked if (line := _alarm(limit, last, first, getattr(config, limit.setting)))]


def told(measured: Mapping[str, Any]) -> list[str]:
    """The lines to show of a record's `collapse`: its alarms and, after a rollback, the iteration it went back to."""
    back = measured.get("rolled_back_to")
    return [*measured["alarms"], *([f"rolled back to iteration {back}"] if back is not None else [])]


def _alarm(limit: _Limit, last: Mapping[str, Any], first: Mapping[str, Any], bound: float) -> str:
    value, before = last.get("beside_first", {}).get(
        limit.measure, (_number(last.get(limit.measure)), _number(first.get(limit.measure)))
    )
    if value is None or (limit.relative and before is None):
        return ""
    edge = bound * before if limit.relative and before is not None else bound
    if value >= edge if limit.is_least else value <= edge:
        return ""
    against = f"{bound:g} of iteration 1's {before:.3g}" if limit.relative else f"{bound:g}"
    return f"{limit.words} {value:.3g}{limit.unit} {'fell below' if limit.is_least else 'rose above'} {against}"


def _number(value: Any) -> float | None:
    """The value itself, or the value of `[value, low, high]`."""
    number: float | None = value[0] if isinstance(value, list) else value
    return number
