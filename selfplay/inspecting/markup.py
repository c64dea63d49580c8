"""Text of a model or a stranger as HTML: escaped, and without characters that have a power of their own."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from selfplay.text import printable


def environment(folder: str) -> Environment:
    """Templates of a folder of this package, with the filter `python` for programs."""
    made = Environment(
        loader=PackageLoader("selfplay.inspecting", folder), autoescape=True, finalize=_as_text,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["python"] = python
    return made


def _as_text(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def python(source: str) -> Markup:
    """A program in colours; pygments escapes it."""
    formatted = highlight(printable(source), PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return Markup(formatted.rstrip("\n"))
