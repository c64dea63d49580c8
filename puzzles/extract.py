"""Finds the program in a text, as chat models and people write it: in Markdown fences, among prose, or bare.

The rules, in order:

1. What a model thought is no answer. `<think>…</think>` is left out, all before a lone `</think>`, and all behind a
   `<think>` that is not closed. `THOUGHTS` lists the signs of other models. A sign in quotes is none.
2. A text that is a Python program is the program.
3. A fenced block is found as CommonMark has it: three or more backticks or tildes, any info string, indented as in a
   list. Backticks may also stand behind words on their line. A fence of the same sign that is as long closes it, at the
   end of a line of code too, or the end of the text.
4. Of several blocks the last one counts that defines what is asked for. A block that only quotes the puzzle is none.
   Other blocks that bind names which it uses and does not bind stand before it.
5. Where no block is what is asked for, and in a block that does not parse, the lines that look like a program are
   tried. So the functions
   before the place where a reply was cut count, and the one that was cut does not. Last of all come code spans, such
   as `g = lambda: 37`.

A block is read as Python if it parses as it is, without its indentation, without the `>>>` of a session, or with plain
spaces in place of no-break spaces.
"""

from __future__ import annotations

import ast
import html
import json
import re
import textwrap
from collections.abc import Callable, Iterator

from sandbox.syntax import walk

THOUGHTS = (
    *(
        (f"<{name}>", f"</{name}>")
        for name in ("think", "thinking", "thought", "reasoning", "analysis", "scratchpad", "seed:think")
    ),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Signs at the beginning and at the end of what a model thinks before it answers."""
_MARKUP = re.compile(r"</?(?:pre|code|answer|solution|final|output)\b[^>\n]*>", re.IGNORECASE)
_SESSION = re.compile(r"(?:>>>|\.\.\.)(?: |$)|In \[\d+\]: |   +\.\.\.: ")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCE = re.compile(r"^([ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)*)(`{3,}|~{3,})(.*)$")
_LATE_FENCE = re.compile(r"^[^`]*[\s:>*](`{3,})[ \t]*[\w+#.-]*[ \t]*$")
"""A fence behind words on its line, as in `Here it is: ```python`. CommonMark has none, and chat models write it."""
_LAST_TAG = re.compile(r"\s*(?:</\w+>|<\|\w+\|>|</?s>)\s*$")
_USUAL = re.compile(r"^[ \t>]*def[ \t]+(g|sol|solution|answer|f|sat|puzzle)\b", re.MULTILINE)
_INLINE = re.compile(r"^[ \t]*(`{3,})[ \t]*(?:python3?|py)?[ \t]*(\S.*?)[ \t]*\1[ \t]*$", re.IGNORECASE)
_PROGRAM_LINE = re.compile(
    r"^(?:def |async def |class |import |from \w[\w.]* import |@\w|(?:for|while|if|elif|with|except)\b.*:$"
    r"|(?:try|else|finally):$|[A-Za-z_]\w*\s*(?::[^=]+)?=[^=]|[A-Za-z_]\w*\s*[-+*/%&|^]{1,2}=|[A-Za-z_]\w*(?:\s*,\s*\w+)+\s*="
    r"|[A-Za-z_][\w.]*(?:\[.*\]\s*=|\(.*\)$))"
)
MOST_CLOSINGS = 20
"""Closing fences tried for one block: a text inside it may hold fences too."""

Wanted = Callable[[ast.Module], int]
"""How well a program is what is asked for; 0 if it is not."""


def program_of(text: str, wanted: Wanted) -> str | None:
    """The program in a text that is what is asked for; or else what comes nearest, to be told why it is not.

    Args:
        text: What was written.
        wanted: Says how well a program is what is asked for. Of equally good blocks the last one is taken.

    Returns:
        A program, or a block or text that is none; None if nothing in the text looks like a program.
    """
    text = _without_thoughts(text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"))
    text = _LAST_TAG.sub("", text) if text.rstrip().endswith(("|>", "</s>")) else text
    if (whole := _readable(text)) and wanted(ast.parse(whole)):
        return whole
    blocks = list(_blocks(text.split("\n")))
    for found in (blocks, [_without_markup(text)], _SPAN.findall(text)):
        readable = [source for block in found for source in _sources(block)]
        ranks = [(wanted(ast.parse(source)), place) for place, source in enumerate(readable)]
        rank, best = max(ranks, default=(0, 0))
        if rank:
            return _with_helpers(readable[best], [*readable[best + 1 :], *readable[:best]])
    if blocks:
        return next((block for block in reversed(blocks) if block.strip()), None)
    return whole or (text if any(_PROGRAM_LINE.match(line.lstrip()) for line in text.split("\n")) else None)


def _sources(block: str) -> list[str]:
    """The program that a block is; or else, as where a reply was cut, the programs in it. Of JSON: its texts."""
    if block.lstrip().startswith("{"):
        try:
            fields = json.loads(block)
        except (ValueError, RecursionError):
            fields = {}
        return [text for value in fields.values() if isinstance(value, str) and (text := _readable(value)) is not None]
    if (whole := _readable(block)) is not None:
        return [whole]
    begun = {match[1] for match in _USUAL.finditer(block)}
    found = list(_bare(block.split("\n")))
    return [source for source in found if begun <= {match[1] for other in found for match in _USUAL.finditer(other)}]


def _without_markup(text: str) -> str:
    """The text without the tags that some models put around code."""
    bare = _MARKUP.sub("\n", text)
    return html.unescape(bare) if "<pre" in text or "<code" in text else bare


def _without_thoughts(text: str) -> str:
    """The text without thoughts. A sign in quotes is none."""
    if (channels := text.split("assistantfinal"))[1:] and text.startswith("analysis"):
        return channels[-1]  # the signs of the channels, without their special tokens
    lower = text.lower()
    for begin, end in THOUGHTS:
        if begin.lower().rstrip(">") not in lower and end.lower() not in lower:
            continue
        opening, closing = re.escape(begin), re.escape(end)
        if begin.endswith(">") and "|" not in begin:
            opening = opening.removesuffix(">") + r"(?:\s[^>\n]*)?>"
        opening, closing = rf"(?<!['\"`]){opening}", rf"(?<!['\"]){closing}(?!['\"]|`(?!``))"
        text = re.sub(rf"{opening}.*?{closing}", "", text, flags=re.DOTALL | re.IGNORECASE)
        closed = list(re.finditer(closing, text, re.IGNORECASE))
        text = text[closed[-1].end() :] if closed else text
        if unclosed := re.search(opening, text, re.IGNORECASE):
            text = text[: unclosed.start()]
    return text


def _blocks(lines: list[str]) -> Iterator[str]:
    """The contents of the fenced blocks, in order."""
    place = 0
    while place < len(lines):
        if inline := _INLINE.match(lines[place]):
            yield inline[2]
            place += 1
            continue
        late = None if _FENCE.match(lines[place]) else _LATE_FENCE.match(lines[place])
        opening = _FENCE.match(late[1] if late else lines[place])
        if not opening or (opening[2][0] == "`" and "`" in opening[3]):
            place += 1
            continue
        content, place = _block(lines, place + 1, opening[1], opening[2])
        yield content


def _block(lines: list[str], first: int, indent: str, fence: str) -> tuple[str, int]:
    """A block's content and the line behind it. The first fence that makes the content a program closes the block."""
    closings = []
    for place in range(first, len(lines)):
        line = _LAST_TAG.sub("", lines[place].rstrip())
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
    session = "\n".join(line[len(sign[0]) :] for line in plain.split("\n") if (sign := _SESSION.match(line)))
    for variant in dict.fromkeys((source, textwrap.dedent(source), plain, textwrap.dedent(plain), session)):
        try:
            if variant.strip() and ast.parse(variant).body:
                return variant
        except (SyntaxError, ValueError):
            continue
    return None


def _bare(lines: list[str]) -> Iterator[str]:
    """Runs of lines that look like a program and parse. A statement counts whole or not at all."""
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
        ends = [end, *(k for k in range(end - 1, place, -1) if _begins_statement(lines[k], indent))]
        found = ((_readable("\n".join(lines[place:k])), k) for k in ends[:MOST_CLOSINGS])
        behind = next((k for k in range(place + 1, len(lines)) if not _is_inside(lines[k], indent)), len(lines))
        if not own.startswith("@") and not own.rstrip().endswith(":"):
            behind = place + 1
        source, place = next(((source, k) for source, k in found if source is not None), (None, behind))
        if source is not None:
            yield source


def _goes_on(line: str, indent: int) -> bool:
    own = line.lstrip()
    return _is_inside(line, indent) or bool(_PROGRAM_LINE.match(own)) or own[0] in ")]}#"


def _is_inside(line: str, indent: int) -> bool:
    own = line.lstrip()
    return not own or len(line) - len(own) > indent


def _begins_statement(line: str, indent: int) -> bool:
    own = line.lstrip()
    return len(line) - len(own) <= indent and bool(_PROGRAM_LINE.match(own))


def _with_helpers(source: str, others: list[str]) -> str:
    """A program behind those of the others that bind names which it uses and does not bind. The last of them first."""
    parts = [source]
    for other in reversed(others):
        trees = [ast.parse(part) for part in parts]
        used = {node.id for tree in trees for node in walk(tree) if isinstance(node, ast.Name)}
        offered = {name for statement in ast.parse(other).body for name in _binds(statement)}
        if (offered - {"f", "sat"}) & (used - {name for tree in trees for name in _binds(tree)}):
            parts.insert(0, other)
    return "\n".join(parts)


def _binds(tree: ast.AST) -> set[str]:
    """All names that are bound anywhere in a program, also by imports."""
    names: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return names
