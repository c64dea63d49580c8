"""What became of the puzzles and solutions of a file: counts, and each reason of refusal with an example."""

from __future__ import annotations

from collections import Counter

from puzzles.archive.formats import ImportReport
from selfplay.text import Column, Table, one_line, render

OUTCOMES = ("new", "duplicate")
"""Outcomes of a text that is not refused."""
REFUSALS = (Column("refused"), Column("reason"), Column("number", right=True), Column("for example", least=20))


def import_table(report: ImportReport, width: int | None = None) -> str:
    """The outcomes of an import's puzzles and solutions, then each reason of refusal with an example."""
    kinds = {"puzzle": report.puzzles, "solution": report.solutions}
    rows = [["", *(f"{what}s" for what in kinds)]]
    rows += [[outcome, *(f"{numbers[outcome]:,}" for numbers in kinds.values())] for outcome in OUTCOMES]
    rows.append(["refused", *(f"{_refused(numbers).total():,}" for numbers in kinds.values())])
    reasons = [
        [what, reason, f"{number:,}", one_line(report.examples.get((what, reason), ""))]
        for what, numbers in kinds.items()
        for reason, number in _refused(numbers).most_common()
    ]
    table = render(rows, right=[1, 2])
    return f"{table}\n\n{Table(REFUSALS, reasons).plain(width)}" if reasons else table


def counted(report: ImportReport) -> str:
    """The outcomes of an import as a phrase: `12 puzzles and 14 solutions new, 1 puzzle and 2 solutions refused`."""
    parts = []
    for outcome in (*OUTCOMES, "refused"):
        numbers = [
            _refused(kind).total() if outcome == "refused" else kind[outcome]
            for kind in (report.puzzles, report.solutions)
        ]
        named = [
            f"{number:,} {noun}{'' if number == 1 else 's'}"
            for number, noun in zip(numbers, ("puzzle", "solution"), strict=True)
            if number
        ]
        parts += [f"{' and '.join(named)} {outcome}"] if named else []
    return ", ".join(parts) or "nothing"


def _refused(numbers: Counter[str]) -> Counter[str]:
    return Counter({reason: number for reason, number in numbers.items() if reason not in OUTCOMES})
