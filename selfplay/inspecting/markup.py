"""Text of a model or a stranger as HTML: it is escaped, and control characters are shown as escapes."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from selfplay.inspecting.colouring import pieces
from selfplay.text import printable


def environment(folder: str) -> Environment:
    """The templates in a folder of this package. The filter `python` colours programs."""
    made = Environment(
        loader=PackageLoader("selfplay.inspecting", folder), autoescape=True, finalize=_as_text,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["python"] = python
    return made


def _as_text(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def python(source: str) -> Markup:
    """A program as coloured HTML."""
    spans = (
        Markup('<span class="{}">{}</span>').format(kind, text) if kind else escape(text)
        for kind, text in pieces(printable(source).rstrip("\n"))
    )
    return Markup("").join(spans)
