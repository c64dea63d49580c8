"""Finds the program in a text, as chat models and people write it: in Markdown fences, among prose, or bare.

The rules, in order:

1. What a model thought is no answer. `<think>…</think>` is left out, all before a lone `</think>`, and all behind a
   `<think>` that is not closed.
2. A text that is a Python program is the program.
3. A fenced block is found as CommonMark has it: three or more backticks or tildes, any info string, indented as in a
   list. A fence of the same sign that is as long closes it, at the end of a line of code too, or the end of the text.
4. Of several blocks the last one counts that defines what is asked for. A block that only quotes the puzzle is none.
   Earlier blocks that define names which it uses stand before it.
5. Without a fence, the lines that look like a program are tried.

A block is read as Python if it parses as it is, without its indentation, without the `>>>` of a session, or with plain
spaces in place of no-break spaces.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator

THOUGHT = "think|thinking|thought|reasoning|analysis"
_THOUGHTS = re.compile(rf"<({THOUGHT})>.*?</\1>", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(rf"</(?:{THOUGHT})>", re.IGNORECASE)
_BEGIN_OF_THOUGHT = re.compile(rf"<(?:{THOUGHT})>", re.IGNORECASE)
_FENCE = re.compile(r"^([ \t]*(?:[-*+>][ \t]+)*)(`{3,}|~{3,})(.*)$")
_INLINE = re.compile(r"^[ \t]*(`{3,})[ \t]*(?:python3?|py)?[ \t]*(\S.*?)[ \t]*\1[ \t]*$", re.IGNORECASE)
_PROGRAM_LINE = re.compile(
    r"^(?:def |async def |class |import |from \w[\w.]* import |@\w|[A-Za-z_]\w*\s*(?::[^=]+)?=[^=])"
)
MOST_CLOSINGS = 20
"""Closing fences tried for one block: a text inside it may hold fences too."""

Wanted = Callable[[ast.Module], int]
"""How well a program is what is asked for; 0 if it is not."""


def program_of(text: str, wanted: Wanted) -> str | None:
    """The program in a text; the last one if none is what is asked for; None if there is no program.

    Args:
        text: What was written.
        wanted: Says how well a program is what is asked for. Of equally good blocks the last one is taken.
    """
    text = _without_thoughts(text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"))
    if (whole := _readable(text)) and wanted(ast.parse(whole)):
        return whole
    blocks = list(_blocks(text.split("\n")))
    readable = [source for block in blocks if (source := _readable(block)) is not None]
    if not blocks:
        readable = list(_bare(text.split("\n")))
    best = max(range(len(readable)), key=lambda place: (wanted(ast.parse(readable[place])), place), default=None)
    if best is None:
        return whole
    return _with_helpers(readable[best], readable[:best])


def _without_thoughts(text: str) -> str:
    text = _THOUGHTS.sub("", text)
    ends = list(_END_OF_THOUGHT.finditer(text))
    text = text[ends[-1].end() :] if ends else text
    begin = _BEGIN_OF_THOUGHT.search(text)
    return text[: begin.start()] if begin else text


def _blocks(lines: list[str]) -> Iterator[str]:
    """The contents of the fenced blocks, in order."""
    place = 0
    while place < len(lines):
        if inline := _INLINE.match(lines[place]):
            yield inline[2]
            place += 1
            continue
        opening = _FENCE.match(lines[place])
        if not opening or (opening[2][0] == "`" and "`" in opening[3]):
            place += 1
            continue
        content, place = _block(lines, place + 1, opening[1], opening[2])
        yield content


def _block(lines: list[str], first: int, indent: str, fence: str) -> tuple[str, int]:
    """A block's content and the line behind it. The first fence that makes the content a program closes the block."""
    closings = []
    for place in range(first, len(lines)):
        line = lines[place].rstrip()
        own = line.lstrip()
        if own and set(own) == {fence[0]} and len(own) >= len(fence) and len(line) - len(own) <= len(indent) + 3:
            closings.append((place, ""))
        elif line.endswith(fence) and not own.startswith(fence):
            closings.append((place, line.removesuffix(fence).rstrip(fence[0])))
        if len(closings) == MOST_CLOSINGS:
            break
    ends = [(_content(lines[first:place], last, indent), place + 1) for place, last in closings]
    ends.append((_content(lines[first:], "", indent), len(lines)))
    return next((end for end in ends if _readable(end[0]) is not None), ends[0])


def _content(lines: list[str], last: str, indent: str) -> str:
    kept = [*lines, last] if last.strip() else lines
    width = len(indent)
    return "\n".join(line[width:] if not line[:width].strip(" \t>-*+") else line for line in kept)


def _readable(source: str) -> str | None:
    """The source, or a plain variant of it that parses; None if none does, or if nothing is in it."""
    plain = source.replace("\xa0", " ").replace("\u200b", "")
    session = "\n".join(line[4:] for line in plain.split("\n") if re.match(r"(>>>|\.\.\.)( |$)", line))
    for variant in dict.fromkeys((source, textwrap.dedent(source), plain, textwrap.dedent(plain), session)):
        try:
            if variant.strip() and ast.parse(variant).body:
                return variant
        except (SyntaxError, ValueError):
            continue
    return None


def _bare(lines: list[str]) -> Iterator[str]:
    """Runs of lines that look like a program and parse."""
    place = 0
    while place < len(lines):
        line = lines[place]
        own = line.lstrip()
        if not _PROGRAM_LINE.match(own):
            place += 1
            continue
        indent, end = len(line) - len(own), place + 1
        while end < len(lines) and _goes_on(lines[end], indent):
            end += 1
        while end > place + 1 and _readable("\n".join(lines[place:end])) is None:
            end -= 1
        if (source := _readable("\n".join(lines[place:end]))) is not None:
            yield source
        place = end


def _goes_on(line: str, indent: int) -> bool:
    own = line.lstrip()
    return not own or len(line) - len(own) > indent or bool(_PROGRAM_LINE.match(own)) or own[0] in ")]}#"


def _with_helpers(source: str, earlier: list[str]) -> str:
    """A program behind the earlier ones that define names which it uses and does not define."""
    parts = [source]
    for other in reversed(earlier):
        tree = ast.parse("\n".join(parts))
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - bound
        offered = {n.name for n in ast.parse(other).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        if used & (offered - {"f", "sat"}):
            parts.insert(0, other)
    return "\n".join(parts)
