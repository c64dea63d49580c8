"""The charts of a report, each with a note on what it shows and with its numbers as a table."""

from __future__ import annotations

import base64
import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puzzles.archive import trends
from puzzles.archive.catalogue import SOLVE_RATES
from puzzles.archive.store import Archive
from selfplay.experiments import chart
from selfplay.iteration import collapse
from selfplay.run.rundir import SET_NAMES as SETS
from selfplay.sampling.cost import STAGES, record_seconds, record_tokens
from selfplay.scoring.metrics import pass_at_k
from selfplay.text import fraction, interval

VERDICT_COLOURS = {
    "accepted": "#009E73", "wrong_answer": "#D55E00", "wrong_type": "#E69F00", "runtime_error": "#CC79A7",
    "invalid_solution": "#56B4E9", "time_limit": "#0072B2",
}  # fmt: skip
OUTCOME_COLOURS = {
    "admitted": "#009E73", "duplicate": "#56B4E9", "syntax": "#E69F00", "trivial": "#CC79A7", "held_out": "#D55E00",
    "answer_type": "#0072B2", "always_raises": "#882255", "never_true": "#999933", "unstable": "#332288",
}  # fmt: skip
TYPE_COLOURS = {
    "int": "#0072B2", "str": "#D55E00", "float": "#009E73", "List[int]": "#56B4E9", "List[str]": "#E69F00",
    "List[float]": "#CC79A7", "Set[int]": "#882255", "Dict[str, int]": "#999933", "Tuple[int, int]": "#332288",
}  # fmt: skip
"""Outcomes, verdicts and types have the same colours in all reports. Others are drawn together."""
REST = "other"
MOST_ITERATIONS = 100
MOST_NAMES = 24
"""Most skills, types or verdicts with their own column or row; the most frequent ones are taken."""


@dataclass(frozen=True)
class Panel:
    """A chart, a note on what it shows, and its numbers."""

    title: str
    note: str
    svg: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def is_empty(self) -> bool:
        """Whether all of its numbers are 0 or missing, so that there is nothing to draw."""
        return all(cell.strip("-.0") == "" for row in self.rows for cell in row[1:])

    @property
    def source(self) -> str:
        """The chart as a data address. As a document of its own it runs no script and shares no names with the page."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


def some(items: Sequence[Any]) -> list[Any]:
    """All items, or as many as a chart holds, evenly spaced from the first to the last."""
    if len(items) <= MOST_ITERATIONS:
        return list(items)
    return [items[place * (len(items) - 1) // (MOST_ITERATIONS - 1)] for place in range(MOST_ITERATIONS)]


def _thin(found: Mapping[int, Any]) -> dict[int, Any]:
    return {iteration: found[iteration] for iteration in some([*found])}


def scores(runs: Mapping[str, Sequence[Mapping[str, Any]]], are_arms: bool = True) -> Iterator[Panel]:
    """pass@k on dev and held-out for each k, from the records of each run. The first run is the one reported."""
    records = next(iter(runs.values()))
    ks = [key for key in records[-1]["dev"] if key.startswith("pass@")] if records else []
    for scored, set_name in SETS.items():
        for k in ks:
            drawn = {
                name: {record["iteration"]: record[scored][k] for record in own if k in record.get(scored, {})}
                for name, own in runs.items()
            }
            drawn = {name: own for name, own in drawn.items() if own}
            if not drawn:
                continue
            last = next(record[scored] for record in reversed(records) if scored in record)
            note = f"{last['puzzles']} puzzles, {last['samples_per_puzzle']} candidates each, 95 % interval"
            iterations = sorted({iteration for own in drawn.values() for iteration in own})
            rows = [[str(i), *(interval(own[i]) if i in own else "" for own in drawn.values())] for i in iterations]
            yield Panel(f"{set_name} {k}", note, chart.scores(drawn, are_arms), ["iteration", *drawn], rows)


Counts = Mapping[str, tuple[int, int]]
"""Numbers of candidates and of accepted candidates, by puzzle."""


def over_tries(set_name: str, counted: Mapping[str, Counts]) -> Iterator[Panel]:
    """pass@k over k on one set, for each name's counts; of puzzles that all of them were asked."""
    asked = [puzzle for puzzle in next(iter(counted.values()), {}) if all(puzzle in own for own in counted.values())]
    curves = {}
    for name, own in counted.items():
        n_P, c_P = (np.array([own[puzzle][part] for puzzle in asked]) for part in (0, 1))
        if asked and n_P.min() > 1:
            curves[name] = {k: float(pass_at_k(n_P, c_P, k).mean()) for k in range(1, int(n_P.min()) + 1)}
    if not curves:
        return
    longest = max(max(own) for own in curves.values())
    ks = sorted({*(k for k in chart.TRIES if k < longest), longest})
    rows = [[str(k), *(fraction(own[k]) if k in own else "" for own in curves.values())] for k in ks]
    yield Panel(
        f"{set_name} pass@k over k",
        "higher at the left: surer of what was within reach; higher at the right too: more is within reach",
        chart.over_k(curves), ["k", *curves], rows,
    )  # fmt: skip


def training(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Panel]:
    """The loss of each run's trainings, and its pairs."""
    losses = {
        name: {r["iteration"]: r["training"]["last_loss"] for r in own if "last_loss" in r["training"]}
        for name, own in runs.items()
    }
    if losses := {name: own for name, own in losses.items() if own}:
        iterations = sorted({iteration for own in losses.values() for iteration in own})
        rows = [[str(i), *(f"{own[i]:.3f}" if i in own else "" for own in losses.values())] for i in iterations]
        yield Panel(
            "loss", "of the last tenth of each training, as its objective defines it", chart.lines(losses, "loss"),
            ["iteration", *losses], rows,
        )  # fmt: skip
    if len(runs) > 1:
        pairs = {name: {r["iteration"]: r["pairs"] for r in own} for name, own in runs.items() if own}
        iterations = sorted({iteration for own in pairs.values() for iteration in own})
        rows = [[str(i), *(f"{own[i]:,}" if i in own else "" for own in pairs.values())] for i in iterations]
        yield Panel("pairs in the archive", "of each run", chart.lines(pairs, "pairs"), ["iteration", *pairs], rows)


def loop(records: Sequence[Mapping[str, Any]], archive: Archive) -> Iterator[Panel]:
    """The way from proposals to pairs, and the reasons why texts were refused."""
    trained = records[1:]
    if trained:
        yield _funnel(trained)
        yield _pairs(trained)
    if outcomes := _thin(trends.outcomes(archive)):
        yield _shares("outcomes of proposals", "held_out: too near to dev or held-out", outcomes, OUTCOME_COLOURS)
    if verdicts := _thin(trends.verdicts(archive)):
        yield _shares("verdicts on candidates", "all candidates sampled in the loop", verdicts, VERDICT_COLOURS)


def _funnel(records: Sequence[Mapping[str, Any]]) -> Panel:
    stages = ("solved", "admitted", "well_formed", "proposed")
    parts = ("solved", "admitted, not solved", "well formed, not admitted", "not well formed")
    counts = {
        record["iteration"]: dict(zip(parts, np.diff([0, *(record[stage] for stage in stages)]).tolist(), strict=True))
        for record in records
    }
    colours = dict(zip(parts, (*chart.SHADES[1:4], chart.REST), strict=True))
    searched = ["searched"] if any("searched" in record for record in records) else []
    head = ("proposed", "well_formed", "admitted", "solved", "training_solved", *searched, "varied", "new_pairs",
            "trained_pairs", "held_out_refused", "contaminated")  # fmt: skip
    rows = [[str(record["iteration"]), *(f"{record.get(name, 0):,}" for name in head)] for record in records]
    return Panel(
        "from proposed to solved", "proposals by the last step that they reached",
        chart.stacked(counts, colours, "proposals", share=False),
        ["iteration", *(name.replace("_", " ") for name in head[:-1]), "contaminated so far"], rows,
    )  # fmt: skip


def _pairs(records: Sequence[Mapping[str, Any]]) -> Panel:
    names = {"new_pairs": "new", "trained_pairs": "trained on", "varied": "variants"}
    series = {shown: {r["iteration"]: r[name] for r in records} for name, shown in names.items()}
    rows = [[str(r["iteration"]), *(f"{r[name]:,}" for name in names), f"{r['pairs']:,}"] for r in records]
    return Panel(
        "pairs", "new: verified for the first time; variants: made by rule from archived puzzles",
        chart.lines(series, "pairs"), ["iteration", *names.values(), "in the archive"], rows,
    )  # fmt: skip


def puzzles(archive: Archive) -> Iterator[Panel]:
    """The admitted puzzles: difficulty, length, answer types and novelty; and the solved share of people's puzzles."""
    if rates := _thin(trends.solve_rates(archive)):
        yield _solve_rates(rates)
    lengths = {name: _thin(own) for name, own in trends.lengths(archive).items() if own}
    if lengths:
        yield _lengths(lengths)
    if types := _thin(trends.answer_types(archive)):
        yield _shares("answer types", "answer types of the admitted puzzles", types, TYPE_COLOURS)
    if structures := _thin(trends.new_structures(archive)):
        share = {iteration: new / admitted for iteration, (admitted, new) in structures.items()}
        rows = [[str(i), f"{admitted:,}", f"{new:,}", fraction(share[i])] for i, (admitted, new) in structures.items()]
        yield Panel(
            "novelty", "share of admitted puzzles that differ from all earlier ones in more than names and constants",
            chart.lines({"new": share}, "share"), ["iteration", "admitted", "new structure", "share"], rows,
        )  # fmt: skip
    numbers, solved = trends.skills_solved(archive)
    if numbers and solved:
        yield _skills(dict(itertools.islice(numbers.items(), MOST_NAMES)), _thin(solved))


DIFFER = {
    "niche_entropy": "niche entropy", "token_entropy_3": "entropy of three tokens", "vendi": "Vendi score",
    "characters": "mean length",
}  # fmt: skip
"""Measures of `selfplay.iteration.collapse` that are drawn, relative to iteration 1."""
MEASURED = (
    "well_formed", "distinct_forms", "trivial", "new_skeletons", "near_duplicates", "niches", *DIFFER, "never_solved",
    "always_solved", "human_auc", "human_difference",
)  # fmt: skip


def differing(records: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    """The diversity of each iteration's puzzles relative to iteration 1, and the alarms of collapse."""
    measured = {record["iteration"]: record["collapse"] for record in records[1:] if "collapse" in record}
    first = measured.get(1, {})
    series = {
        shown: {i: own[name] / first[name] for i, own in measured.items() if own.get(name) is not None}
        for name, shown in DIFFER.items()
        if first.get(name)
    }
    if not series:
        return
    alarms = [f"iteration {i}: {line}" for i, own in measured.items() for line in collapse.told(own)]
    rows = [[str(i), *(_measure(own.get(name)) for name in MEASURED), "; ".join(collapse.told(own))]
            for i, own in measured.items()]  # fmt: skip
    yield Panel(
        "diversity", f"relative to iteration 1; {'; '.join(alarms[:3]) or 'no alarm'}",
        chart.lines(series, "relative to iteration 1"),
        ["iteration", *(name.replace("_", " ") for name in MEASURED), "alarms"], rows,
    )  # fmt: skip


def _measure(value: Any) -> str:
    if isinstance(value, list):
        return interval(value)
    return "" if value is None else f"{value:,.3g}"


def _solve_rates(rates: Mapping[int, Sequence[float]]) -> Panel:
    names = ["none", *(f"to {bound:.0%}" for bound in SOLVE_RATES[1:])]
    counts = {
        iteration: Counter(names[bisect_left(SOLVE_RATES, rate)] for rate in own) for iteration, own in rates.items()
    }
    colours = dict(zip(names, (chart.REST, *chart.SHADES), strict=True))
    rows = [[str(iteration), *(str(own[name]) for name in names)] for iteration, own in counts.items()]
    return Panel(
        "difficulty", "admitted puzzles by the accepted share of their candidates",
        chart.stacked(counts, colours, "share of puzzles", share=True), ["iteration", *names], rows,
    )  # fmt: skip


def _lengths(lengths: Mapping[str, Mapping[int, Sequence[int]]]) -> Panel:
    def quartiles(values: Sequence[int] | None) -> list[str]:
        return [f"{value:.0f}" for value in np.quantile(values, [0.25, 0.5, 0.75])] if values else [""] * 3

    iterations = sorted({iteration for own in lengths.values() for iteration in own})
    head = [f"{name}, {part}" for name in lengths for part in ("lower quartile", "median", "upper quartile")]
    rows = [
        [str(iteration), *(cell for own in lengths.values() for cell in quartiles(own.get(iteration)))]
        for iteration in iterations
    ]
    return Panel(
        "length", "median and middle half of the puzzles, in characters", chart.bands(lengths, "characters"),
        ["iteration", *head], rows,
    )  # fmt: skip


def _skills(numbers: Mapping[str, int], solved: Mapping[int, Counter[str]]) -> Panel:
    shares = {skill: {i: own[skill] / number for i, own in solved.items()} for skill, number in numbers.items()}
    rows = [[skill, str(number), *(str(own[skill]) for own in solved.values())] for skill, number in numbers.items()]
    return Panel(
        "people's puzzles solved, by skill", "share of the tagged training puzzles that the model has solved so far",
        chart.heat(shares), ["skill", "puzzles", *map(str, solved)], rows,
    )  # fmt: skip


def costs(records: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    """The cost of each iteration and of each new pair."""
    kept = [record for record in records[1:] if "stages" in record["times"]]
    if not kept:
        return
    stages = {
        record["iteration"]: {
            stage: times["model_seconds"] + times["judging_seconds"]
            for stage, times in record["times"]["stages"].items()
        }
        for record in kept
    }
    colours = dict(zip(STAGES, (*chart.COLOURS, chart.GREY), strict=True))
    yield Panel(
        "seconds by stage", "sampling and judging, training, scoring",
        chart.stacked(stages, colours, "seconds", share=False), ["iteration", *STAGES],
        [[str(i), *(f"{own.get(stage, 0):,.1f}" for stage in STAGES)] for i, own in stages.items()],
    )  # fmt: skip
    yield _cost_per_pair([record for record in kept if record["new_pairs"]])


def _cost_per_pair(records: Sequence[Mapping[str, Any]]) -> Panel:
    """The cost per new pair, without scoring, which makes no pairs."""
    seconds = {r["iteration"]: (record_seconds(r) - r["times"]["scoring"]) / r["new_pairs"] for r in records}
    tokens = {r["iteration"]: (record_tokens(r) - r["cost"]["score"]["tokens"]) / r["new_pairs"] for r in records}
    rows = [
        [str(r["iteration"]), f"{r['new_pairs']:,}", f"{seconds[r['iteration']]:.3f}", f"{tokens[r['iteration']]:,.0f}"]
        for r in records
    ]
    return Panel(
        "seconds per new pair", "sampling, judging and training; without scoring",
        chart.lines({"seconds": seconds}, "seconds"), ["iteration", "new pairs", "seconds each", "tokens each"], rows,
    )  # fmt: skip


def _shares(title: str, note: str, counts: Mapping[int, Counter[str]], colours: Mapping[str, str]) -> Panel:
    """Shares over iterations. Rare names are drawn together as one, but each has its own column of numbers."""
    names = [name for name, _ in sum(counts.values(), Counter[str]()).most_common(MOST_NAMES)]
    shown = [name for name in colours if name in names]
    others = {iteration: own.total() - sum(own[name] for name in shown) for iteration, own in counts.items()}
    drawn = {i: {**{name: own[name] for name in shown}, REST: others[i]} for i, own in counts.items()}
    rows = [[str(iteration), *(f"{own[name]:,}" for name in names)] for iteration, own in counts.items()]
    svg = chart.stacked(
        drawn,
        {name: colours[name] for name in shown} | ({REST: chart.REST} if any(others.values()) else {}),
        "share",
        share=True,
    )
    return Panel(title, note, svg, ["iteration", *names], rows)
