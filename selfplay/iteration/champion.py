"""Which checkpoint of a run reigns: one that beat the champion before it on dev, puzzle by puzzle.

AlphaGo Zero (Nature 550, 2017) accepts a new network only if it wins 55 % of 400 games. A network that is only equally
good does so in one case out of 40. The rule here is the same. Both checkpoints are scored by pass@1 on the same dev
puzzles. The challenger wins if the one-sided sign-flip test gives two equal models a chance of at most one in 40 to
differ so much. `compare` calls the same difference better.

How often a gain passes was measured on dev's 123 puzzles with 16 candidates each. The true gains came from 100
candidates of each of a run's seven checkpoints. A gain of .03 to .035 passes in 91 to 96 cases out of 100, a gain of
.015 in 35 to 39, a gain of .01 in 16, and no gain in 2. `metrics.detectable_difference` gives .024. A gain that is too
small to show is not lost: the next checkpoint meets the same champion, and two gains of .015 pass as one of .03. A
level of .1 would pass 43 to 66 of 100 gains of .01 to .015, and 9 of 100 where there is no gain.

All matches use the same puzzles. If none of T checkpoints is better, up to T of 40 such runs still crown one. A
champion's dev score is too good, because the champion was chosen by it. Its candidates are not drawn again either, so a
lucky champion is hard to beat. Report champions on held-out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puzzles.archive.formats import read_errata
from puzzles.puzzle import InputError
from selfplay.config import RunConfig
from selfplay.run.rundir import RunDir
from selfplay.scoring.compare import SIGNIFICANT, Difference, difference
from selfplay.scoring.evaluate import counts_of, read_chunks
from selfplay.scoring.metrics import Score, holm, interval, pass_at_k
from selfplay.text import Column, Table, signed, span, wrapped
from selfplay.text import interval as shown_interval

LEVEL = SIGNIFICANT / 2
"""Largest chance that a checkpoint which is only as good as the champion takes its place."""

Counts = Mapping[str, tuple[int, int]]
"""For each puzzle: the number of candidates and of accepted ones."""


@dataclass(frozen=True)
class Match:
    """Two checkpoints of a run on dev."""

    first: int
    """Iteration of the first checkpoint."""
    second: int
    """Iteration of the second checkpoint, the challenger."""
    difference: Difference
    """pass@1 of the second minus pass@1 of the first."""
    won: int
    """Number of puzzles with a larger accepted share for the second than for the first."""
    lost: int
    drawn: int

    def is_won(self) -> bool:
        """Whether the second beats the first."""
        return self.difference.difference.value > 0 and self.difference.p / 2 <= LEVEL


@dataclass(frozen=True)
class Standing:
    """One checkpoint in the league table."""

    iteration: int
    checkpoint: str
    """Hash of its weights."""
    score: Score
    """Its pass@1 on dev."""
    solved: int
    """Dev puzzles with at least one accepted candidate."""
    reigned: tuple[int, ...]
    """Iterations at whose end it was champion, or would have been with a gate."""


@dataclass(frozen=True)
class League:
    """All checkpoints of a run, compared with each other."""

    puzzles: int
    samples_per_puzzle: int
    standings: list[Standing]
    matches: list[Match]
    """One for each pair of checkpoints; the earlier one is first."""
    adjusted_p: list[float]
    """Two-sided p of each match, adjusted for the number of matches (`metrics.holm`)."""
    sampled_from: list[int]
    """For each iteration, the checkpoint that the run sampled from next. Only with a gate is it always the champion."""


def dev_counts(rundir: RunDir, iterations: Iterable[int]) -> list[Counts]:
    """The dev counts of these iterations' checkpoints, without the puzzles known to be wrong. Iteration 0 is the base.

    Raises:
        InputError: One is not scored, or was scored on other puzzles or by other settings than the first.
    """
    errata, found = read_errata(), list[Counts]()
    asked: dict[str, Any] = {}
    iterations = list(iterations)
    for iteration in iterations:
        file = rundir.samples(iteration, "dev")
        lines = read_chunks(file)
        counts = {puzzle: count for puzzle, count in counts_of(lines).items() if puzzle not in errata}
        if not counts:
            raise InputError(f"{file}: expected the scores of iteration {iteration}, there are none")
        conditions = {"puzzles": sorted(counts), **_conditions(lines)}
        for key, value in asked.items():
            if conditions.get(key, value) != value:
                there, here = (str(of)[:60] for of in (value, conditions[key]))
                first = f"iteration {iterations[0]}"
                raise InputError(
                    f"{file}: iteration {iteration} has other {key} than {first} ({here}, there {there}): "
                    "only complete scores with the same settings can be compared"
                )
        asked = {**conditions, **asked}
        found.append(counts)
    return found


def check_scored_alike(rundir: RunDir, config: RunConfig) -> None:
    """Check that new checkpoints will be scored like the earlier ones; a branch has these from its parent.

    Raises:
        InputError: The earlier ones were scored with other settings.
    """
    own, limits = config.evaluate, asdict(config.sandbox.limits())
    for line in read_chunks(rundir.samples(0, "dev"))[:1]:
        there = line["identity"]
        scored = {f"evaluate.{key}": value for key, value in there["settings"].items() if key != "batch_rows"}
        scored |= {"evaluate.samples_per_puzzle": there["samples_per_puzzle"], "sandbox limits": there["limits"]}
        here = {f"evaluate.{key}": value for key, value in vars(own).items()} | {"sandbox limits": limits}
        for key, value in scored.items():
            if here[key] != value:
                raise InputError(
                    f"{key}: expected {value}, as in the scores of {rundir.path}, got {here[key]}: "
                    "keep it, because `gate` compares checkpoints"
                )


def _conditions(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What scores must share beside their puzzles. The sizes of chunks and batches may differ."""
    identities = [line["identity"] for line in lines]
    names = ("samples_per_puzzle", "protocol", "shots", "limits")
    shared = {name.replace("_", " "): [own.get(name) for own in identities] for name in names}
    drawn = [{key: value for key, value in own["settings"].items() if key != "batch_rows"} for own in identities]
    # Scores of older versions do not tell how their prompts were written.
    formats = [own["prompt_format_hash"] for own in identities if "prompt_format_hash" in own]
    compared = {**shared, "settings": drawn, **({"prompts": formats} if formats else {})}
    return {name: _distinct(values) for name, values in compared.items()}


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]


def match(counts: Sequence[Counts], first: int, second: int) -> Match:
    """Compare two of the checkpoints on the puzzles of the first."""
    first_P, second_P = _rates(counts[first], counts[first]), _rates(counts[second], counts[first])
    won, lost = int(np.sum(second_P > first_P)), int(np.sum(second_P < first_P))
    return Match(first, second, difference(1, first_P, second_P), won, lost, len(first_P) - won - lost)


def _rates(counts: Counts, puzzles: Counts) -> NDArray[np.float64]:
    n_P, c_P = np.array([counts[puzzle] for puzzle in puzzles]).T
    return pass_at_k(n_P, c_P, 1)


def reigns(counts: Sequence[Counts]) -> list[int]:
    """The champion after each iteration. The base comes first; a challenger that beats the champion takes its place.

    Args:
        counts: The counts of each checkpoint, on the same puzzles.

    Returns:
        One number per checkpoint. It depends on the counts alone, so the answer is the same at any later time.
    """
    champions: list[int] = []
    for challenger in range(len(counts)):
        crowned = not champions or match(counts, champions[-1], challenger).is_won()
        champions.append(challenger if crowned else champions[-1])
    return champions


def reigning_after(record: Mapping[str, Any]) -> int:
    """Number of the checkpoint that the iteration after a recorded one samples from."""
    return int(record.get("reigns", record["iteration"]))


def league(rundir: RunDir) -> League:
    """Compare every checkpoint that a run has recorded with every other.

    Raises:
        InputError: The run has no record, or its score files are missing or not comparable.
    """
    records = rundir.read_records()
    if not records:
        raise InputError(f"{rundir.path}: expected a run with at least one record")
    counts = dev_counts(rundir, range(len(records)))
    champions = reigns(counts)
    matches = [match(counts, *pair) for pair in itertools.combinations(range(len(counts)), 2)]
    standings = [
        Standing(
            number, records[number]["checkpoint"], interval(_rates(own, own)), sum(c > 0 for _, c in own.values()),
            tuple(iteration for iteration, champion in enumerate(champions) if champion == number),
        )
        for number, own in enumerate(counts)
    ]  # fmt: skip
    (samples, _), *_ = counts[0].values()
    adjusted = [float(p) for p in holm([each.difference.p for each in matches])]
    return League(len(counts[0]), samples, standings, matches, adjusted, [reigning_after(record) for record in records])


NO_CHAMPION = "\nThe run did not always sample from the champion. `gate = true` makes it do so."

LEAGUE_NOTE = "Champions are chosen by these puzzles, so their scores here are too good. Report them on held-out."


def league_table(league: League, width: int | None = None) -> str:
    """Each checkpoint's dev score and when it reigned, then every match with its p, alone and adjusted for all."""
    rows = []
    for own in league.standings:
        score = shown_interval(own.score)
        reigned = f"after {span(own.reigned)}" if own.reigned else "-"
        rows.append([str(own.iteration), own.checkpoint, score, str(own.solved), reigned])
    columns = [Column("iteration", "iter", right=True), Column("checkpoint", rank=1), Column("dev pass@1", right=True)]
    parts = [Table([*columns, Column("solved", right=True), Column("reigned")], rows).plain(width)]
    if league.matches:
        beside = []
        for each, adjusted in zip(league.matches, league.adjusted_p, strict=True):
            puzzles = map(str, (each.won, each.lost, each.drawn))
            p = (f"{each.difference.p:.2g}", f"{adjusted:.2g}")
            beside.append([str(each.second), str(each.first), signed(each.difference.difference), *puzzles, *p])
        heads = ("iteration", "minus", "pass@1 [95 %]", "won", "lost", "drawn", "p", "p of all")
        parts.append(Table([Column(head, right=True) for head in heads], beside).plain(width))
    champions = {iteration: own.iteration for own in league.standings for iteration in own.reigned}
    followed = all(champions[iteration] == number for iteration, number in enumerate(league.sampled_from))
    parts.append(
        f"{league.puzzles} puzzles of dev, {league.samples_per_puzzle} candidates each. To reign, a checkpoint must be "
        f"better than the champion with p/2 <= {LEVEL:g}.\n{LEAGUE_NOTE}{'' if followed else NO_CHAMPION}"
    )
    return "\n\n".join(parts if width is None else [*parts[:-1], wrapped(parts[-1], width)])
