"""Between texts and token ids, where a completion stands behind its prompt.

Two habits of tokenizers must not change our texts:

- Many put a space before a text that they encode, and take one away when they decode. So a completion is encoded and
  decoded behind other tokens, never on its own.
- They read the name of a control token, such as `<|im_end|>`, as a command. In a puzzle or a solution it is text. Only
  a chat template writes control tokens.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

ANCHORS = (":", "x", "(", "\n")
"""Texts behind which a completion is encoded: the first one that keeps its own tokens there."""
TAIL = 8
"""Number of a prompt's last tokens behind which a completion is decoded: a decoder looks only at neighbours."""
BROKEN = "\ufffd"
"""What a decoder writes for a part of a character."""
BRACKETED = re.compile(r"[<\[].*\w.*[>\]]")
"""Matches names such as `<|im_end|>`, `<think>` and `[INST]`."""
MARKS = range(0xE000, 0xF8FF)
"""Characters without a meaning (Unicode's private use area). One that a text lacks stands in for control tokens."""

_working = threading.Lock()
"""Held while a tokenizer works. Whether it reads control tokens is a state of the tokenizer, which threads share."""


@dataclass(frozen=True)
class _Facts:
    """What is known about a tokenizer."""

    template: str
    """The chat template that the rest holds for."""
    controls: dict[str, int]
    names: re.Pattern[str]
    """Matches the name of a control token."""
    anchor: list[int]
    """Tokens behind which any text can be decoded."""
    anchor_text: str


_known: WeakKeyDictionary[Any, _Facts] = WeakKeyDictionary()


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Ids of the control tokens by name: the special tokens, and added tokens in brackets or of the chat template."""
    return _facts(tokenizer).controls


def _facts(tokenizer: Any) -> _Facts:
    template = str(tokenizer.chat_template or "")
    known = _known.get(tokenizer)
    if known is None or known.template != template:
        found = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        for number, token in tokenizer.added_tokens_decoder.items():
            # Many tokenizers mark only some as special. They also have added tokens for indentation and for letters.
            name = token.content
            if token.special or BRACKETED.fullmatch(name) or (name in template and not name.isspace()):
                found[name] = number
        # A single character cannot be told from text, as where the padding token is "!".
        found = {name: number for name, number in found.items() if len(name) > 1}
        longest_first = sorted(found, key=len, reverse=True)
        names = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        anchor = _plain(tokenizer, "x")
        known = _known[tokenizer] = _Facts(template, found, names, anchor, _decoded(tokenizer, anchor))
    return known


def _encoded(tokenizer: Any, text: str, with_controls: bool, framed: bool = False) -> list[int]:
    with _working:
        return list(tokenizer.encode(text, add_special_tokens=framed, split_special_tokens=not with_controls))


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    with _working:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def encode_text(tokenizer: Any, text: str, framed: bool = False) -> list[int]:
    """Token ids of a text that begins something. None of them is a control token, whatever names are in the text.

    Args:
        tokenizer: A tokenizer of transformers.
        text: The text.
        framed: Whether the tokens are added that the tokenizer puts around a text, such as `<s>`.
    """
    facts = _facts(tokenizer)
    ids = _encoded(tokenizer, text, False, framed)
    if not facts.names.search(text):
        return ids
    body = _plain(tokenizer, text) if framed else ids
    if not {*body} & {*facts.controls.values()}:
        return ids
    # A name is in the tokenizer's own vocabulary. It is cut behind its first letter, so that no piece holds it.
    cuts = [0, *(found.start() + 1 for found in re.finditer(f"(?={facts.names.pattern})", text)), len(text)]
    first, *rest = [text[start:end] for start, end in itertools.pairwise(cuts)]
    apart = _plain(tokenizer, first) + [token for piece in rest for token in _behind(tokenizer, piece, _plain)]
    start = next(i for i in range(len(ids)) if ids[i : i + len(body)] == body)
    return ids[:start] + apart + ids[start + len(body) :]


def encode_after(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that goes on behind another: those that decode to it there. None is a control token.

    A tokenizer that cannot write the text, such as one that changes letters, comes as near as it can.
    """
    return _behind(tokenizer, text, encode_text)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return _encoded(tokenizer, text, False)


def _behind(tokenizer: Any, text: str, encode: Callable[[Any, str], list[int]]) -> list[int]:
    ids = encode(tokenizer, text)
    if decode_after(tokenizer, (), ids) == text:
        return ids
    nearest = None
    for anchor in ANCHORS:
        before, whole = (encode(tokenizer, each) for each in (anchor, anchor + text))
        if whole[: len(before)] == before:
            behind = whole[len(before) :]
            if decode_after(tokenizer, before, behind) == text:
                return behind
            nearest = nearest or behind
    return nearest or ids


def decode_after(tokenizer: Any, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of tokens that stand behind others: what all of them decode to, without what the first ones decode to.

    Special tokens leave no text.
    """
    for tail in (before[-TAIL:], before):
        shown = _decoded(tokenizer, tail)
        # Without a text, or inside a character, the decoder would treat what follows as a beginning.
        if shown and BROKEN not in shown:
            whole = _decoded(tokenizer, [*tail, *ids])
            if whole.startswith(shown):
                return whole[len(shown) :]
    facts = _facts(tokenizer)
    return _decoded(tokenizer, [*facts.anchor, *ids]).removeprefix(facts.anchor_text)


def is_border(tokenizer: Any, text: str, place: int) -> bool:
    """Whether the beginning of a text, up to this place, has the same tokens alone as in the whole text.

    If not, a model that is to continue the beginning has hardly ever seen it cut there.
    """
    begun = encode_text(tokenizer, text[:place])
    return encode_text(tokenizer, text)[: len(begun)] == begun


def encode_begun(tokenizer: Any, before: Sequence[int], ids: Sequence[int], text: str) -> list[int]:
    """Token ids of a text that goes on behind others: the given ones as far as they are its beginning, then its own.

    Args:
        tokenizer: A tokenizer of transformers.
        before: Token ids of what stands before the text.
        ids: Tokens that were sampled there. Their text may go on behind the given one.
        text: The text.
    """
    number, begun = 0, ""
    for length in range(len(ids), 0, -1):
        part = decode_after(tokenizer, before, ids[:length])
        if number and part != begun:
            break
        if text.startswith(part):
            number, begun = length, part  # a token without a text, such as a control token, is not kept at the end
    return [*ids[:number], *encode_after(tokenizer, text[len(begun) :])]


def encode_rendered(tokenizer: Any, render: Callable[[Sequence[str]], str], contents: Sequence[str]) -> list[int]:
    """Token ids of a chat. Its template's control tokens are commands; their names in the contents are text.

    Args:
        tokenizer: A tokenizer of transformers.
        render: Writes the chat with the contents of its turns, as text.
        contents: What each turn says.
    """
    facts = _facts(tokenizer)
    controls, names = facts.controls, facts.names
    found = [match[0] for content in contents for match in names.finditer(content)]
    if not found:
        return _encoded(tokenizer, render(contents), True)
    mark = next(chr(code) for code in MARKS if not any(chr(code) in content for content in contents))
    numbers = iter(range(len(found)))
    chat = render([names.sub(lambda _: f"{mark}{next(numbers)}{mark}", content) for content in contents])
    marked = re.compile(f"{mark}([0-9]+){mark}")
    pieces = re.split(f"({names.pattern})", chat)  # texts, and control tokens at the odd places
    runs = _runs(_encoded(tokenizer, chat, True), {*controls.values()})
    alike = len(runs) == len(pieces)
    ids: list[int] = []
    for place, piece in enumerate(pieces):
        text = marked.sub(lambda match: found[int(match[1])], piece)
        if place % 2:
            ids.append(controls[piece])
        elif text != piece:
            ids += _in_place_of(tokenizer, piece, runs[place] if alike else None, text)
        else:
            ids += runs[place] if alike else encode_after(tokenizer, text)
    return ids


def _runs(ids: Sequence[int], controls: set[int]) -> list[list[int]]:
    """The tokens between control tokens at the even places, and each control token at an odd one."""
    runs: list[list[int]] = [[]]
    for token in ids:
        if token in controls:
            runs += [[token], []]
        else:
            runs[-1].append(token)
    return runs


def _in_place_of(tokenizer: Any, other: str, ids: Sequence[int] | None, text: str) -> list[int]:
    """Token ids of a text, made as those of another text were that stood in its place.

    A control token may take away the spaces around it, and a tokenizer may begin a text differently behind one.
    """
    for encode in (encode_text, encode_after):
        for strip in (str, str.lstrip, str.rstrip, str.strip):
            if encode(tokenizer, strip(other)) == ids:
                return encode(tokenizer, strip(text))
    return encode_after(tokenizer, text)
