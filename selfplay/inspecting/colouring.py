"""Colours programs. The text may be hostile, so the time it takes grows only as its length does.

A lexer with rules that try again may need minutes for a line of blanks, and holds up the whole process meanwhile.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<c1>\#[^\n]*)
    | (?P<s>[rRbBuUfF]{0,2}(?:'{3}(?:.*?'{3}|.*)|"{3}(?:.*?"{3}|.*)|'(?:[^'\\\n]|\\.)*+'?|"(?:[^"\\\n]|\\.)*+"?))
    | (?P<mi>\d[\w.]*)
    | (?P<name>[^\W\d]\w*)
    | (?P<other>[^\w\#'"]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BUILT_IN = {name for name in dir(builtins) if not name.startswith("_")}
_ANSI = {"c1": "\x1b[90m", "s": "\x1b[33m", "mi": "\x1b[34m", "k": "\x1b[94m", "nb": "\x1b[36m", "nf": "\x1b[92m"}


def pieces(source: str) -> Iterator[tuple[str, str]]:
    """A program in pieces, each with its kind, as the style sheets name it: `c1` (a comment), `s` (a text), `mi` (a
    number), `k` (a keyword), `nb` (a name of Python's), `nf` (the name of what is defined); an empty text for the rest.
    """
    before = ""
    for found in _TOKEN.finditer(source):
        kind, text = found.lastgroup or "", found[0]
        if kind == "name":
            is_defined = before in ("def", "class")
            kind = "nf" if is_defined else "k" if keyword.iskeyword(text) else "nb" if text in _BUILT_IN else ""
        if not text.isspace():
            before = text
        yield ("" if kind == "other" else kind), text


def on_terminal(source: str) -> str:
    """A program with the escape sequences that colour it on a terminal. It must be visible already."""
    return "".join(f"{_ANSI[kind]}{text}\x1b[39m" if kind else text for kind, text in pieces(source))
