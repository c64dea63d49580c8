"""Output for people: numbers, tables and untrusted text.

Nothing here knows what a run, a model or an archive is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    heading: str
    short: str = ""
    """The heading where there is little room."""
    right: bool = False
    """Whether its cells are aligned to the right."""
    rank: int = 0
    """Where there is too little room, the columns with the highest rank are left out first; those with 0 stay."""
    least: int = 0
    """Number of characters to which its cells may be cut; 0 if they are never cut."""


@dataclass(frozen=True)
class Table:
    """Rows of cells below headings, for a terminal or as Markdown."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def plain(self, width: int | None = None) -> str:
        """The table in lines of at most so many characters, as far as that is possible; with None, all of it.

        Columns without content are left out. Then headings become short, columns are left out by rank, and texts are
        cut. A last line names what was left out by rank.
        """
        fitted = self.fitted(width)
        return "\n".join([fitted.heading, *map(fitted.row, self.rows), *fitted.note])

    def markdown(self) -> str:
        """The table in Markdown."""
        return markdown([column.heading for column in self.columns], self.rows)

    def fitted(self, width: int | None) -> Fitted:
        """The columns for which lines of so many characters have room."""
        cells = [[visible(row[n]) for row in self.rows] for n in range(len(self.columns))]
        kept = [n for n, own in enumerate(cells) if width is None or {*own} - {"", "-"}]
        heads = [column.heading for column in self.columns]
        widest = [max(map(len, [head, *own])) for head, own in zip(heads, cells, strict=True)]
        if width is None:
            return Fitted(self.columns, kept, heads, widest, [])

        def least(n: int) -> int:
            own = max(map(len, cells[n]), default=0)
            return max(len(heads[n]), min(own, self.columns[n].least or own))

        def room(widths: Callable[[int], int]) -> int:
            return width - sum(map(widths, kept)) - 2 * (len(kept) - 1)

        if room(least) < 0:
            heads = [column.short or column.heading for column in self.columns]
        left_out = []
        while room(least) < 0 and any(self.columns[n].rank for n in kept):
            left_out.append(max(kept, key=lambda n: (self.columns[n].rank, n)))
            kept.remove(left_out[-1])
        widest = [max(map(len, [head, *own])) for head, own in zip(heads, cells, strict=True)]
        for n in sorted(kept, key=lambda n: least(n) - widest[n]):
            widest[n] -= max(0, min(-room(widest.__getitem__), widest[n] - least(n)))
        return Fitted(self.columns, kept, heads, widest, [self.columns[n].heading for n in sorted(left_out)])


@dataclass(frozen=True)
class Fitted:
    """The columns of a table that fit a terminal."""

    columns: Sequence[Column]
    kept: Sequence[int]
    """Numbers of the columns that are shown."""
    heads: Sequence[str]
    """Headings of all columns, long or short."""
    widths: Sequence[int]
    """Widths of all columns."""
    left_out: Sequence[str]
    """Headings of the columns that are not shown though they have content."""

    @property
    def heading(self) -> str:
        """The line of the headings."""
        return self.row(self.heads)

    @property
    def note(self) -> list[str]:
        """A line about what was left out, if anything was."""
        return [f"left out: {', '.join(self.left_out)}; --wide shows all"] if self.left_out else []

    def row(self, cells: Sequence[str]) -> str:
        """The line of a row."""
        return "  ".join(self._cell(n, visible(cells[n])) for n in self.kept).rstrip()

    def _cell(self, n: int, text: str) -> str:
        width = self.widths[n]
        text = text if len(text) <= width or not self.columns[n].least else f"{text[: width - 1]}…"
        return text.rjust(width) if self.columns[n].right else text.ljust(width)


def wrapped(text: str, width: int) -> str:
    """Lines broken at blanks, so that they have at most so many characters. Items of a list are indented."""
    lines = []
    for line in text.split("\n"):
        indent = "  " if line.startswith("- ") else ""
        lines += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]
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


def count_table(title: str, content: dict[str, int], total: str = "") -> str:
    """A small table of names and counts, whose first line has the title and a total."""
    rows = [[title, total], *([f"  {one_line(name)}", f"{count:,}"] for name, count in content.items())]
    return render(rows, right=[1])
