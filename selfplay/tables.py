"""Records and scores as text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def render(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns, the first row a heading; columns listed in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def interval(score: Sequence[float]) -> str:
    """`.123 [.045, .201]`"""
    value, low, high = (f"{number:.3f}".removeprefix("0")[:4] for number in score)
    return f"{value} [{low}, {high}]"


RECORD_COLUMNS = (
    ("iteration", 9), ("proposed", 8), ("admitted", 8), ("solved", 6), ("train solved", 12), ("new pairs", 9),
    ("pairs", 6), ("loss", 5),
)  # fmt: skip


def record_heading(record: dict[str, Any]) -> str:
    """The heading over `record_row`s."""
    cells = [name.rjust(width) for name, width in RECORD_COLUMNS]
    ks = [key for key in record["dev"] if key.startswith("pass@")]
    cells += [f"dev {ks[0]}".rjust(17)] + [f"held-out {key}".rjust(18) for key in dict.fromkeys((ks[0], ks[-1]))]
    return "  ".join([*cells, "seconds"])


def record_row(record: dict[str, Any]) -> str:
    """One iteration of a run, as recorded."""
    loss = record["training"].get("last_loss")
    values = [
        record["iteration"], record["proposed"], record["admitted"], record["solved"], record["training_solved"],
        record["new_pairs"], record["pairs"], "-" if loss is None else f"{loss:.3f}",
    ]  # fmt: skip
    cells = [str(value).rjust(width) for value, (_, width) in zip(values, RECORD_COLUMNS, strict=True)]
    ks = [key for key in record["dev"] if key.startswith("pass@")]
    cells.append(interval(record["dev"][ks[0]]).rjust(17))
    cells += [interval(record["heldout"][key]).rjust(18) for key in dict.fromkeys((ks[0], ks[-1]))]
    times = record["times"]
    seconds = sum(times[name] for name in ("sampling", "judging", "training", "scoring"))
    return "  ".join([*cells, f"{seconds:7.0f}"])


def score_table(models: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """pass@k of models on one set, with 95 % intervals, as a Markdown table."""
    ks = [key for key in models[0][1] if key.startswith("pass@")]
    head = ["model", *ks, "solved", "most frequent verdicts"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, score in models:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in list(score["verdicts"].items())[:4])
        solved = f"{score['solved']} of {score['puzzles']}"
        lines.append("| " + " | ".join([name, *(interval(score[k]) for k in ks), solved, verdicts]) + " |")
    return "\n".join(lines)


def counts(title: str, content: dict[str, int]) -> str:
    """A small two-column table."""
    rows = [[title, ""], *([f"  {name}", str(count)] for name, count in content.items())]
    return render(rows, right=[1])
