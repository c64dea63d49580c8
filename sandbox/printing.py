"""Text that is not ours, made safe to print: on a terminal, in a log, in Markdown or on a page.

Every name, detail, path, source and message that comes from a model, a file, a server or a library passes `visible` on
its way to a person. What cannot be seen, or changes what is seen around it, becomes an escape: control characters, line
breaks, marks that turn the direction of text, marks of no width, and blanks that are no spaces.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff]"
)
"""Characters that no font shows; Python counts some of them as printable."""


def visible(text: object, kept: str = "") -> str:
    """A text in which everything can be seen, on one line.

    Args:
        text: The text, or a value whose `str` is it.
        kept: Characters that stay as they are although they are not printable, such as a line feed.
    """
    return "".join(
        character
        if (character.isprintable() and not _UNSEEN.match(character)) or character in kept
        else _escape(character)
        for character in str(text)
    )


def _escape(character: str) -> str:
    shown = repr(character)[1:-1]
    return shown if shown != character else f"\\u{ord(character):04x}"
