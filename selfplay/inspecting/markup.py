"""Text of a model or a stranger as HTML: it is escaped, and control characters are shown as escapes."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

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
    """A program as coloured HTML. Pygments escapes it."""
    formatted = highlight(printable(source), PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return Markup(formatted.rstrip("\n"))
