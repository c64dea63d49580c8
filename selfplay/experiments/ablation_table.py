"""The results of an ablation as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from selfplay.experiments.ablate import Ablation, ArmScores, Contrast
from selfplay.run.rundir import SET_NAMES
from selfplay.text import fraction, markdown, signed, span


def ablation_table(ablation: Ablation, done: Sequence[ArmScores], contrasts: Sequence[Contrast]) -> str:
    """Markdown tables: each arm's scores and its difference to the control on each set, scores by iteration, the guard.

    Scores are means over the seeds. Differences are of these means and of each seed. The first k decides. Its p holds
    for these models only; the rows of the seeds show how much training differs from seed to seed.
    """
    runs = {arm: [item for item in done if item.arm == arm] for arm in ablation.arms}
    parts = []
    for scored, name in SET_NAMES.items():
        ks = [f"pass@{k}" for k in ablation.ks]
        base = [item.records[0] for item in runs[ablation.control]]
        rows = [["base", "0", "-", "-", *_means(base, scored, ks)]]
        for arm, own in runs.items():
            last = [item.records[-1] for item in own]
            trained = [(r["training"].get("steps", 0), r["training"].get("tokens", 0)) for r in last]
            steps, tokens = (span(column) for column in zip(*trained, strict=True))
            rows.append([arm, str(last[0]["iteration"]), steps, tokens, *_means(last, scored, ks)])
        parts.append(markdown([name, "iteration", "steps", "tokens", *ks], rows))
        parts.append(_difference_table(ablation.control, [each for each in contrasts if each.scored == scored]))
    parts.append(_iteration_table(ablation, runs))
    seeds = [f"seed {seed}" for seed in ablation.seeds]
    rows = [[arm, *(f"{len(item.contaminated)} of {item.examined:,}" for item in own)] for arm, own in runs.items()]
    parts.append(markdown(["archived puzzles too near to dev or held-out", *seeds], rows))
    return "\n\n".join(part for part in parts if part)


def _means(records: Sequence[dict[str, Any]], scored: str, ks: Sequence[str]) -> list[str]:
    scores = [record[scored] for record in records if scored in record]
    if len(scores) < len(records):
        return ["-"] * len(ks)
    return [fraction(statistics.mean(score[k][0] for score in scores)) for k in ks]


def _difference_table(control: str, contrasts: Sequence[Contrast]) -> str:
    rows = []
    for contrast in contrasts:
        named = [(f"{contrast.arm} - {control}", contrast.pooled)]
        if len(contrast.by_seed) > 1:
            named += [(f"seed {seed}", differences) for seed, differences in contrast.by_seed.items()]
        for name, differences in named:
            for number, each in enumerate(differences):
                ratio = f"{each.second / each.first:.2f}" if each.first else "-"
                p = "" if number else f"{each.p:.4f}"
                rows.append([name, f"pass@{each.k}", ratio, signed(each.difference), p])
    return markdown(["difference", "", "ratio", "difference [95 %]", "p of these models"], rows)


def _iteration_table(ablation: Ablation, runs: dict[str, list[ArmScores]]) -> str:
    """The scores by iteration of arms with several iterations; empty if there are no such arms."""
    ks = [f"pass@{k}" for k in ablation.shown_ks]
    rows = []
    for arm, own in runs.items():
        for same in zip(*(item.records for item in own), strict=True) if len(own[0].records) > 2 else ():
            means = [cell for scored in SET_NAMES for cell in _means(same, scored, ks)]
            rows.append([arm, str(same[0]["iteration"]), *means])
    head = ["arm", "iteration", *(f"{name} {k}" for name in SET_NAMES.values() for k in ks)]
    return markdown(head, rows) if rows else ""
