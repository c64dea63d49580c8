"""Text of a model or a stranger as HTML: it is escaped, and control characters are shown as escapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
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
    made.filters["marked"] = marked
    return made


def _as_text(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def python(source: str, hits: re.Pattern[str] | None = None) -> Markup:
    """A program as coloured HTML, in which the hits of a search are marked."""
    return _marked(pieces(printable(source).rstrip("\n")), hits)


def marked(text: str, hits: re.Pattern[str] | None = None) -> Markup:
    """A text as HTML, in which the hits of a search are marked."""
    return _marked([("", printable(text))], hits)


def _marked(parts: Iterable[tuple[str, str]], hits: re.Pattern[str] | None) -> Markup:
    parts = list(parts)
    spans = hits.finditer("".join(text for _, text in parts)) if hits else iter(())
    start, end = _next(spans)
    place, made = 0, []
    for kind, text in parts:
        while text:
            if place >= end:
                start, end = _next(spans)
            inside = start <= place
            own, text = _split(text, (end if inside else start) - place)
            html = Markup('<span class="{}">{}</span>').format(kind, own) if kind else escape(own)
            made.append(Markup("<mark>{}</mark>").format(html) if inside else html)
            place += len(own)
    return Markup("").join(made)


def _next(spans: Iterator[re.Match[str]]) -> tuple[float, float]:
    """The next hit that is not empty: where it begins and ends; beyond every text if there is none."""
    return next((hit.span() for hit in spans if hit[0]), (math.inf, math.inf))


def _split(text: str, place: float) -> tuple[str, str]:
    cut = len(text) if place >= len(text) else int(place)
    return text[:cut], text[cut:]
