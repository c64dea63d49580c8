"""Output for people: numbers, tables and untrusted text.

Nothing here knows what a run, a model or an archive is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandbox.printing import visible

LINE_CHARACTERS = 100


def printable(text: str) -> str:
    """A text of several lines in which everything can be seen, so that it cannot control a terminal."""
    return visible(text, kept="\n")


def one_line(text: object) -> str:
    """The beginning of a text on one line, for a table's cell."""
    return visible(str(text)[:LINE_CHARACTERS].replace("\n", "⏎"))[:LINE_CHARACTERS]


def render(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns. The first row is the heading. Columns listed in `right` are aligned to the right."""
    rows = [[*map(visible, row)] for row in rows]
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
    """A Markdown table with aligned columns in its source. A cell is text: no link, no HTML, no cell more."""
    cells = [[*map(_cell, row)] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def code(text: object) -> str:
    """A text that is not ours as a span of code in Markdown."""
    return "`" + visible(" ".join(str(text).split())).replace("`", "'") + "`"


def _cell(text: str) -> str:
    """A cell of a Markdown table. Inside a span of code only the bar has a meaning."""
    text = visible(" ".join(text.split())).replace("|", "\\|")
    if len(text) > 1 and text[0] == text[-1] == "`" and "`" not in text[1:-1]:
        return text
    return text.replace("<", "\\<").replace("](", "]\\(")


def count_table(title: str, content: dict[str, int]) -> str:
    """A small table of names and counts."""
    rows = [[title, ""], *([f"  {one_line(name)}", str(count)] for name, count in content.items())]
    return render(rows, right=[1])
