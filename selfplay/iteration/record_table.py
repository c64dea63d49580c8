"""A run's records as a table, and the cost of its stages as another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfplay.sampling.cost import STAGES, record_seconds
from selfplay.text import Column, Fitted, Table, interval

COUNTS = (
    ("iteration", "iter", 0, 9), ("proposed", "", 1, 8), ("admitted", "", 0, 8), ("solved", "", 0, 6),
    ("train solved", "", 3, 12), ("new pairs", "", 2, 9), ("pairs", "", 0, 6), ("loss", "", 4, 5),
)  # fmt: skip
"""Heading, short heading, rank (`text.Column`) and width of the columns before the scores."""
INTERVAL = ".123 [.045, .201]"


def record_table(record: Mapping[str, Any], width: int | None = None) -> Fitted:
    """The columns of a table of records, which is printed while they come: the first one fixes them."""
    columns = [Column(heading, short, True, rank) for heading, short, rank, _ in COUNTS]
    ks = _ks(record)
    columns.append(Column(f"dev {ks[0]}", right=True))
    columns += [Column(f"held-out {k}", right=True, rank=5 * place) for place, k in enumerate(dict.fromkeys(ks))]
    columns.append(Column("seconds", "s", right=True))
    widest = ["0" * (len(short) or characters) for _, short, _, characters in COUNTS]
    widest += [INTERVAL] * (len(columns) - len(COUNTS) - 1) + ["12345"]
    return Table(columns, [widest]).fitted(width)


def _ks(record: Mapping[str, Any]) -> tuple[str, str]:
    """The first and the last pass@k of a record."""
    ks = [key for key in record["dev"] if key.startswith("pass@")]
    return ks[0], ks[-1]


def record_cells(record: Mapping[str, Any]) -> list[str]:
    """One record as cells of its table."""
    loss, heldout, ks = record["training"].get("last_loss"), record.get("heldout"), _ks(record)
    values = [
        record["iteration"], record["proposed"], record["admitted"], record["solved"], record["training_solved"],
        record["new_pairs"], record["pairs"], "-" if loss is None else f"{loss:.3f}", interval(record["dev"][ks[0]]),
        *(interval(heldout[k]) if heldout else "-" for k in dict.fromkeys(ks)), f"{record_seconds(record):.0f}",
    ]  # fmt: skip
    return [*map(str, values)]


def notes_of(records: Sequence[Mapping[str, Any]], width: int | None, inherited: tuple[str, int]) -> list[str]:
    """What a reader of the table of records must know, in lines.

    Args:
        records: The records, at least one.
        width: Characters of a line.
        inherited: The run that this one began with, and the last iteration that is that run's.
    """
    run, last = inherited
    marked = [f"* of {run}, with which this run began"] if last >= 0 else []
    return [*record_table(records[0], width).note, *marked, BRACKETS]


BRACKETS = "pass@k has 95 % intervals, which are about all puzzles like the scored ones"


def told(record: Mapping[str, Any]) -> str:
    """One record as a sentence."""
    ks = _ks(record)
    scores = [f"dev {ks[0]} {interval(record['dev'][ks[0]])}"]
    scores += [f"held-out {ks[0]} {interval(record['heldout'][ks[0]])}"] if "heldout" in record else []
    found = (
        f"{record['admitted']:,} of {record['proposed']:,} proposals admitted, {record['solved']:,} solved, "
        f"{record['new_pairs']:,} new pairs, "
    )
    if record.get("searched"):
        found += f"{record['searched']:,} puzzles solved by search, "
    loss = record["training"].get("last_loss")
    return (
        f"iteration {record['iteration']}: {found if record['iteration'] else ''}{record['pairs']:,} pairs; "
        + ("" if loss is None else f"loss {loss:.3f}; ")
        + f"{', '.join(scores)}; {record_seconds(record):.0f} s"
    )


COST_COLUMNS = (
    Column(""), Column("texts", right=True), Column("tokens", right=True),
    Column("prompt tokens", "prompts", right=True, rank=1), Column("tokens/s", "tok/s", right=True),
    Column("seconds", "s", right=True), Column("CPU s", right=True), Column("judging s", "judging", right=True),
    Column("CPU s", right=True), Column("of peak", "peak", right=True),
)  # fmt: skip


def cost_table(records: Sequence[dict[str, Any]], width: int | None = None) -> str:
    """The cost of each stage, summed over all iterations.

    `of peak` is the used share of the hardware's arithmetic. A `+` behind the tokens says that a server did not tell
    all of them.
    """
    rows = []
    for stage in STAGES:
        done = [(r["cost"][stage], r["times"]["stages"][stage]) for r in records if stage in r.get("cost", {})]
        if done:
            rows.append([stage, *_cost_cells(done)])
    return Table(COST_COLUMNS, rows).plain(width)


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
