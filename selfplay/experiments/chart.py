"""Charts of what changes over iterations, as SVG. The same numbers give the same bytes.

They can be read on light and dark pages. A chart of a report is as wide as a phone, so that charts stand side by side
on a wide page and one below the other on a narrow one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from selfplay.experiments.ablate import Ablation, ArmScores

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Colours of Okabe and Ito, which differ for any kind of colour vision, without those too pale for a white page."""
MARKERS = "os^Dvp"
LINES = ("-", (0, (4, 1.5)), ":")
"""Line styles. The first curves, one per colour, have the first style, the next ones the second, and so on."""
GREY = "#7d7d7d"
TEXT, TEXT_ON_DARK = "#5f6368", "#b3b8be"
"""Colours of text. On white and on nearly black pages their contrast is at least 5.5 : 1."""
REST = "#b3b3b3"
SHADES = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
"""Colours of viridis from dark to bright, for things that have an order."""
PANEL_INCHES = (4.2, 2.8)
MOST_LABEL, LONG_LABEL = 30, 18
"""Most characters of a label that are shown, and the length from which only two labels fit side by side."""
TRIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of tries that are named."""
MOST_NUMBERED = 10
"""Most columns of a heat map with room for numbers; also most labelled bars."""
STYLE = {
    "svg.hashsalt": "selfplay",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": GREY,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "xtick.labelcolor": TEXT,
    "ytick.color": GREY,
    "ytick.labelcolor": TEXT,
    "legend.frameon": False,
}


def ablation_chart(ablation: Ablation, done: Sequence[ArmScores]) -> str:
    """Held-out pass@k over iterations as SVG, for the first and the largest k: the mean and the range of the seeds.

    An arm of one iteration, next to longer ones, is a dashed line at its score.
    """
    import matplotlib
    from matplotlib.figure import Figure

    longest = max(config.iterations for config in ablation.arms.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4 * len(ablation.shown_ks), 3.4), layout="constrained")
        panels = figure.subplots(1, len(ablation.shown_ks), squeeze=False)[0]
        for panel, k in zip(panels, ablation.shown_ks, strict=True):
            for number, (arm, config) in enumerate(ablation.arms.items()):
                runs = [{r["iteration"]: r for r in item.records if "heldout" in r} for item in done if item.arm == arm]
                iterations = sorted(set.intersection(*map(set, runs)))
                scores_S_I = np.array([[run[i]["heldout"][f"pass@{k}"][0] for i in iterations] for run in runs])
                low_I, mean_I, high_I = scores_S_I.min(0), scores_S_I.mean(0), scores_S_I.max(0)
                flat = config.iterations < 2 <= longest
                _curve(panel, number, arm, iterations, mean_I, low_I, high_I, flat)
            base = np.mean([item.records[0]["heldout"][f"pass@{k}"][0] for item in done])
            panel.plot(0, base, "o", color=GREY, zorder=3, clip_on=False, label="base")
            panel.set(title=f"held-out pass@{k}")
            _over_iterations(panel, longest)
        handles, labels = panels[0].get_legend_handles_labels()
        seeds = f"mean and range of {len(ablation.seeds)} seeds" if len(ablation.seeds) > 1 else None
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), title=seeds)
        return _svg(figure)


def scores(runs: Mapping[str, Mapping[int, Sequence[float]]], are_arms: bool = True) -> str:
    """Scores over iterations, given as [value, low, high]. Only the first run is drawn with its intervals.

    An arm of one iteration, next to longer ones, is a dashed line at its score.
    """
    longest = max(max(run, default=0) for run in runs.values())
    with _panel(len(runs) > 1) as (panel, drawn):
        for number, (name, run) in enumerate(runs.items()):
            value_I, low_I, high_I = np.array([*run.values()], float).reshape(-1, 3).T
            if number:
                low_I = high_I = value_I
            _curve(panel, number, name, list(run), value_I, low_I, high_I, are_arms and max(run) < 2 <= longest)
        _over_iterations(panel, longest)
    return drawn[0]


def over_k(curves: Mapping[str, Mapping[int, float]]) -> str:
    """pass@k over the number of tries k, for each curve: how it rises tells sharpening from discovering."""
    with _panel(True) as (panel, drawn):
        for number, (name, own) in enumerate(curves.items()):
            round_, place = divmod(number, len(COLOURS))
            line = LINES[round_ % len(LINES)]
            panel.plot([*own], [*own.values()], color=COLOURS[place], ls=line, lw=1.5, label=_label(name))
        longest = max(max(own) for own in curves.values())
        ticks = [k for k in TRIES if k <= longest]
        panel.set(xscale="log", xlabel="tries k", ylabel="pass@k", xlim=(1, max(longest, 2)))
        panel.set_ylim(bottom=0)
        panel.minorticks_off()
        panel.set_xticks(ticks, [str(k) for k in ticks])
    return drawn[0]


def lines(series: Mapping[str, Mapping[int, float]], label: str) -> str:
    """Numbers over iterations, on an axis that begins at 0."""
    with _panel(len(series) > 1) as (panel, drawn):
        for number, (name, values) in enumerate(series.items()):
            value_I = np.array([*values.values()], float)
            _curve(panel, number, name, list(values), value_I, value_I, value_I)
        _over_iterations(panel, max(max(values, default=0) for values in series.values()))
        panel.set_ylabel(label)
    return drawn[0]


def bands(series: Mapping[str, Mapping[int, Sequence[float]]], label: str) -> str:
    """The spread of values over iterations: the median, and the range of the middle half."""
    with _panel(len(series) > 1) as (panel, drawn):
        for number, (name, values) in enumerate(series.items()):
            quartiles_3_I = np.array([np.quantile(own, [0.5, 0.25, 0.75]) for own in values.values()]).reshape(-1, 3).T
            _curve(panel, number, name, list(values), *quartiles_3_I)
        _over_iterations(panel, max(max(values, default=0) for values in series.values()))
        panel.set_ylabel(label)
    return drawn[0]


def stacked(counts: Mapping[int, Mapping[str, float]], colours: Mapping[str, str], label: str, share: bool) -> str:
    """The parts of each iteration as a stacked bar, in their own unit or as shares of the whole."""
    with _panel(True) as (panel, drawn):
        iterations = list(counts)
        values_N_I = np.array([[own.get(name, 0) for own in counts.values()] for name in colours], float)
        if share:
            values_N_I /= np.maximum(values_N_I.sum(0), 1e-9)
        below_I = np.zeros(len(iterations))
        for (name, colour), value_I in zip(colours.items(), values_N_I, strict=True):
            panel.bar(
                range(len(iterations)),
                value_I,
                bottom=below_I,
                color=colour,
                label=_label(name),
                width=0.85,
                linewidth=0,
            )
            below_I = below_I + value_I
        panel.set(ylabel=label)
        if share:
            panel.set_ylim(0, 1)
        _place_by_place(panel, iterations)
    return drawn[0]


def heat(rows: Mapping[str, Mapping[int, float]]) -> str:
    """Shares from 0 to 1 by row and iteration as colours, with numbers if there is room for them."""
    iterations = list(next(iter(rows.values())))
    with _panel(False, height=0.6 + 0.22 * len(rows)) as (panel, drawn):
        shares_R_I = np.array([[row[i] for i in iterations] for row in rows.values()], float)
        panel.imshow(shares_R_I, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        panel.set_yticks(range(len(rows)), [*map(_label, rows)])
        _place_by_place(panel, iterations)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        for row, place in np.ndindex(shares_R_I.shape) if len(iterations) <= MOST_NUMBERED else ():
            value = shares_R_I[row, place]
            colour = "#ffffff" if value < 0.6 else "#000000"
            panel.text(place, row, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=7, color=colour)
    return drawn[0]


def calibration(points: Sequence[tuple[float, Sequence[float]]], label: str) -> str:
    """Predicted against observed values, with their intervals. On the dashed line both are equal."""
    with _panel(legend=False, height=3.6) as (panel, drawn):
        predicted, found = [mean for mean, _ in points], np.array([list(score) for _, score in points])
        end = max(*predicted, found.max())
        panel.plot([0, end], [0, end], linestyle="--", linewidth=1, color="#808080")
        spread = np.abs(found[:, 1:] - found[:, :1]).T
        panel.errorbar(predicted, found[:, 0], yerr=spread, fmt="o", ms=4, lw=1.2, color=COLOURS[0])
        panel.set(xlabel=f"predicted {label}", ylabel=f"found {label} [95 %]")
    return drawn[0]


@contextmanager
def _panel(legend: bool, height: float = PANEL_INCHES[1]) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on. After the block, the list holds the drawing."""
    import matplotlib
    from matplotlib.figure import Figure

    drawn: list[str] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL_INCHES[0], height), layout="constrained")
        panel = figure.subplots()
        yield panel, drawn
        if legend:
            handles, labels = panel.get_legend_handles_labels()
            columns = 3 if max(map(len, labels)) < LONG_LABEL else 2
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, handlelength=1)
        drawn.append(_svg(figure))


def _label(name: str) -> str:
    """The name, shortened to the room there is."""
    return name if len(name) <= MOST_LABEL else f"{name[: MOST_LABEL - 1]}…"


def _svg(figure: Any) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # A picture follows the colours of the page around it.
    return file.getvalue().replace("</style>", f"{_ON_DARK}</style>", 1)


_ON_DARK = f'@media (prefers-color-scheme: dark) {{ text[style*="{TEXT}"] {{ fill: {TEXT_ON_DARK} !important }} }}'


def _place_by_place(panel: Any, iterations: Sequence[int]) -> None:
    """Label iterations that stand side by side, also where others between them are missing."""
    shown = range(0, len(iterations), max(1, len(iterations) // MOST_NUMBERED))
    panel.set_xticks(shown, [str(iterations[place]) for place in shown])
    panel.set(xlabel="iteration")


def _over_iterations(panel: Any, longest: int) -> None:
    panel.set(xlabel="iteration", xlim=(0, longest + 0.1))
    from matplotlib.ticker import MaxNLocator

    panel.set_ylim(bottom=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _curve(
    panel: Any, number: int, name: str, iterations: Sequence[int], value_I: Any, low_I: Any, high_I: Any,
    flat: bool = False,
) -> None:  # fmt: skip
    round_, place = divmod(number, len(COLOURS))
    colour, marker, line = COLOURS[place], MARKERS[(place + round_) % len(MARKERS)], LINES[round_ % len(LINES)]
    if flat:
        panel.axhline(value_I[-1], linestyle="--", linewidth=1.2, color=colour, label=_label(name))
        panel.axhspan(low_I[-1], high_I[-1], color=colour, alpha=0.1, linewidth=0)
    else:
        panel.plot(
            iterations, value_I, marker=marker, ls=line, ms=4, lw=1.5, clip_on=False, color=colour, label=_label(name)
        )  # fmt: skip
        panel.fill_between(iterations, low_I, high_I, color=colour, alpha=0.2, linewidth=0)
