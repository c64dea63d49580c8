"""Scores over iterations as a drawing, the same bytes for the same numbers, readable on light and on dark pages."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from selfplay.ablate import Ablation, ArmScores

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Of Okabe and Ito, told apart with any kind of colour vision; without those too pale for a white page."""
MARKERS = "os^Dvp"
GREY = "#7d7d7d"
STYLE = {
    "svg.hashsalt": "selfplay",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}


def ablation_chart(ablation: Ablation, done: Sequence[ArmScores]) -> str:
    """As SVG: held-out pass@k over iterations, for the first and the largest k; the mean of the seeds in their range.

    Arms of one iteration, beside longer ones, are dashed lines at what they scored.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    longest = max(config.iterations for config in ablation.arms.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4 * len(ablation.shown_ks), 3.4), layout="constrained")
        panels = figure.subplots(1, len(ablation.shown_ks), squeeze=False)[0]
        for panel, k in zip(panels, ablation.shown_ks, strict=True):
            for number, (arm, config) in enumerate(ablation.arms.items()):
                runs = [{r["iteration"]: r for r in item.records if "heldout" in r} for item in done if item.arm == arm]
                iterations = sorted(set.intersection(*map(set, runs)))
                scores_S_I = np.array([[run[i]["heldout"][f"pass@{k}"][0] for i in iterations] for run in runs])
                look = {"color": COLOURS[number % len(COLOURS)], "label": arm}
                _draw(
                    panel,
                    iterations,
                    scores_S_I,
                    config.iterations < 2 <= longest,
                    MARKERS[number % len(MARKERS)],
                    look,
                )
            base = np.mean([item.records[0]["heldout"][f"pass@{k}"][0] for item in done])
            panel.plot(0, base, "o", color=GREY, zorder=3, clip_on=False, label="base")
            panel.set(xlabel="iteration", title=f"held-out pass@{k}", xlim=(0, longest + 0.1))
            panel.set_ylim(bottom=0)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = panels[0].get_legend_handles_labels()
        seeds = f"mean and range of {len(ablation.seeds)} seeds" if len(ablation.seeds) > 1 else None
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), title=seeds)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return drawn.getvalue()


def _draw(
    panel: Any, iterations: Sequence[int], scores_S_I: Any, flat: bool, marker: str, look: dict[str, str]
) -> None:
    low_I, mean_I, high_I = scores_S_I.min(0), scores_S_I.mean(0), scores_S_I.max(0)
    if flat:
        panel.axhline(mean_I[-1], linestyle="--", linewidth=1.2, **look)
        panel.axhspan(low_I[-1], high_I[-1], color=look["color"], alpha=0.1, linewidth=0)
    else:
        panel.plot(iterations, mean_I, marker=marker, markersize=4, linewidth=1.5, clip_on=False, **look)
        panel.fill_between(iterations, low_I, high_I, color=look["color"], alpha=0.2, linewidth=0)
