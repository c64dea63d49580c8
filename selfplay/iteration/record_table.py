"""A run's records as a table, and the cost of its stages as another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfplay.sampling.cost import STAGES, record_seconds
from selfplay.text import interval, render

RECORD_COLUMNS = (
    ("iteration", 9), ("proposed", 8), ("admitted", 8), ("solved", 6), ("train solved", 12), ("new pairs", 9),
    ("pairs", 6), ("loss", 5),
)  # fmt: skip


def record_heading(record: dict[str, Any]) -> str:
    """The heading above rows of `record_row`."""
    cells = [name.rjust(width) for name, width in RECORD_COLUMNS]
    ks = [key for key in record["dev"] if key.startswith("pass@")]
    cells += [f"dev {ks[0]}".rjust(17)] + [f"held-out {key}".rjust(18) for key in dict.fromkeys((ks[0], ks[-1]))]
    return "  ".join([*cells, "seconds"])


def record_row(record: dict[str, Any]) -> str:
    """One record as a row of the table."""
    loss = record["training"].get("last_loss")
    values = [
        record["iteration"], record["proposed"], record["admitted"], record["solved"], record["training_solved"],
        record["new_pairs"], record["pairs"], "-" if loss is None else f"{loss:.3f}",
    ]  # fmt: skip
    cells = [str(value).rjust(width) for value, (_, width) in zip(values, RECORD_COLUMNS, strict=True)]
    ks = [key for key in record["dev"] if key.startswith("pass@")]
    cells.append(interval(record["dev"][ks[0]]).rjust(17))
    heldout = record.get("heldout")
    cells += [(interval(heldout[key]) if heldout else "-").rjust(18) for key in dict.fromkeys((ks[0], ks[-1]))]
    return "  ".join([*cells, f"{record_seconds(record):7.0f}"])


COST_COLUMNS = ("", "texts", "tokens", "prompt tokens", "tokens/s", "seconds", "CPU s", "judging s", "CPU s", "of peak")


def cost_table(records: Sequence[dict[str, Any]]) -> str:
    """The cost of each stage, summed over all iterations.

    `of peak` is the used share of the hardware's arithmetic. A `+` behind the tokens says that a server did not tell
    all of them.
    """
    rows = [list(COST_COLUMNS)]
    for stage in STAGES:
        done = [(r["cost"][stage], r["times"]["stages"][stage]) for r in records if stage in r.get("cost", {})]
        if done:
            rows.append([stage, *_cost_cells(done)])
    return render(rows, right=range(1, len(COST_COLUMNS)))


def _cost_cells(done: Sequence[tuple[dict[str, Any], dict[str, float]]]) -> list[str]:
    counted = ("texts", "tokens", "prompt_tokens")
    texts, tokens, prompt_tokens = (sum(cost[name] for cost, _ in done) for name in counted)
    names = ("model_seconds", "model_cpu_seconds", "judging_seconds", "judging_cpu_seconds")
    model, model_cpu, judging, judging_cpu = (sum(times[name] for _, times in done) for name in names)
    possible = sum(times["model_seconds"] * times.get("peak_flops_per_second", 0) for _, times in done)
    share = f"{sum(cost.get('flops', 0) for cost, _ in done) / possible:.0%}" if possible else "-"
    rate = f"{tokens / model:,.0f}" if model else "-"
    all_tokens = f"{tokens:,}" + ("+" if any(cost.get("untold_texts") for cost, _ in done) else "")
    return [
        f"{texts:,}", all_tokens, f"{prompt_tokens:,}", rate, f"{model:.1f}", f"{model_cpu:.1f}", f"{judging:.1f}",
        f"{judging_cpu:.1f}", share,
    ]  # fmt: skip
