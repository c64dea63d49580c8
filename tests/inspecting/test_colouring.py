"""Programs are coloured, in a time that grows only as their length does."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.inspecting.colouring import on_terminal, pieces
from selfplay.inspecting.markup import python

N = 100_000
HOSTILE = {
    "blanks behind match": "\nmatch" + " " * N + "x", "spaces": " " * N, "backslashes": "\\" * N,
    "a quote, then backslashes": "'" + "\\" * N, "an open text": "'''" + "a" * N, "many open texts": "'''" * (N // 3),
    "prefixes": "f'" * (N // 2), "only prefixes": "rb" * (N // 2), "braces": "f'{" * (N // 3), "dots": "." * N,
    "digits": "1" * N, "underscores": "1_" * (N // 2), "points": "a." * (N // 2),
    "imports": "import a" + " as" * (N // 3),
    "decorators": ("@" + "a." * 20 + "\n") * (N // 42), "names": "a " * (N // 2), "comments": "#" * N,
    "lines": "\n" * N, "percent": "'" + "%(" * (N // 2), "letters": "\u00e9" * N, "two kinds": "'\"" * (N // 2),
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_text_takes_longer_than_its_length_allows(text):
    """Steps are counted, not seconds: every character is in one piece, and no piece is tried twice."""
    found = [*pieces(text)]
    assert "".join(piece for _, piece in found) == text
    assert len(found) <= len(text)
    python(text)


@given(st.text(st.sampled_from("abdefr'\"\\\n#1_. (){}é<&"), max_size=60))
def test_nothing_is_lost_or_added(text):
    assert "".join(piece for _, piece in pieces(text)) == text
    assert html.unescape(re.sub(r"<[^>]*>", "", python(text))) == text.rstrip("\n")
    assert re.sub("\x1b\\[[0-9]+m", "", on_terminal(text)) == text


def test_a_program_is_coloured():
    source = "def f(s: str, n=7):  # a <test>\n    return len(s) == n and s != f'''a\n'b' ''' + \"c\\\"d\""
    kinds = [(kind, piece) for kind, piece in pieces(source) if kind]
    assert kinds == [
        ("k", "def"), ("nf", "f"), ("nb", "str"), ("mi", "7"), ("c1", "# a <test>"), ("k", "return"), ("nb", "len"),
        ("k", "and"), ("s", "f'''a\n'b' '''"), ("s", '"c\\"d"'),
    ]  # fmt: skip
    assert '<span class="c1"># a &lt;test&gt;</span>' in python(source)
