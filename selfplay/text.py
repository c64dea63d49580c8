"""Output for people: numbers, tables and untrusted text.

Nothing here knows what a run, a model or an archive is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LINE_CHARACTERS = 100


def printable(text: str) -> str:
    """A text with control characters as escapes, so that it cannot control a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The beginning of a text on one line, for a table's cell."""
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in text)[:LINE_CHARACTERS]


def render(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns. The first row is the heading. Columns listed in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def fraction(number: float) -> str:
    """A number as `.123` or `1.00`."""
    return f"{number:.3f}".removeprefix("0")[:4]


def interval(score: Iterable[float]) -> str:
    """A value with its interval as `.123 [.045, .201]`."""
    value, low, high = map(fraction, score)
    return f"{value} [{low}, {high}]"


def signed(score: Iterable[float]) -> str:
    """A difference with its interval as `+.012 [-.026, +.050]`."""
    value, low, high = (f"{number:+.3f}".replace("0.", ".", 1) for number in score)
    return f"{value} [{low}, {high}]"


def span(values: Sequence[int]) -> str:
    """The range of the values as `300` or `1,200 to 1,300`."""
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)}))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns in its source."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def count_table(title: str, content: dict[str, int]) -> str:
    """A small table of names and counts."""
    rows = [[title, ""], *([f"  {one_line(name)}", str(count)] for name, count in content.items())]
    return render(rows, right=[1])
