"""Chats as templates write them, in a helper process: a template is a stranger's program, which may never end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.sampling.helper import Helper, HelperDied

WALL_SECONDS = 60.0
"""Safety net beside the helper's own limit of CPU time."""

_helper = Helper(Path(__file__).with_name("helper_template.py"))


class TemplateFailed(Exception):
    """The template raised an error."""


class TemplateTakesTooMuch(TemplateFailed):
    """The template needs too much time or memory, or writes too much."""


def rendered(
    template: str, messages: Sequence[Mapping[str, Any]], tokens: Mapping[str, str], add_generation_prompt: bool
) -> str:
    """A chat as a template writes it.

    Args:
        template: The template.
        messages: The chat, in the form of `transformers`.
        tokens: Special tokens by name, which the template may use.
        add_generation_prompt: Whether the beginning of the model's turn is written too.

    Raises:
        TemplateFailed: There is none.
        TemplateTakesTooMuch: There is none, and another try would take as much.
    """
    question = {
        "template": template, "messages": list(messages), "tokens": dict(tokens),
        "add_generation_prompt": add_generation_prompt,
    }  # fmt: skip
    try:
        answer = _helper.ask(question, WALL_SECONDS)
    except HelperDied:
        raise TemplateTakesTooMuch("it takes too much time or memory") from None
    if "refused" in answer:
        raise TemplateTakesTooMuch(answer["refused"])
    if "failed" in answer:
        said = next((line for line in answer["failed"].splitlines() if line.strip()), answer["kind"])
        raise TemplateFailed(said)
    return str(answer["written"])
