"""How puzzles are written for a model. Sampling and training use the same text, byte for byte.

Both tokenise a prompt on its own, and the completion's tokens follow. So no token spans the border in one use and not
in the other. A text that the model wrote is learned in the tokens that were drawn. Other texts are tokenised as
completions (`encode_completion`).

Protocols:
  plain     the puzzle, and the first line of a solution
  few-shot  the same after a few solved pairs, as the ancestor does (arXiv:2207.14502); names are
            not numbered (f1, f2, ...) because every pair is a program of its own here
  chat      the model's own template; the answer is a fenced code block
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from puzzles.parse import Text
from puzzles.puzzle import Candidate, InputError, Puzzle
from selfplay.sampling.chat import chat_text
from selfplay.sampling.tokens import control_tokens, decode_after, encode_after, encode_rendered, encode_text

PROTOCOLS = ("plain", "few-shot", "chat")
NOT_INDENTED = re.compile(r"\n(?=\S)")
"""Matches before a line that is not indented. There the completed function has ended, and sampling stops."""
PROPOSAL_HEADER = "def f("
REPLY = "\ue000"
"""Stands for a reply, to see what a chat template writes behind one."""
LINE_TOKENS = 32
"""Number of a prompt's last tokens in which its last line is looked for."""

SOLVE_INSTRUCTION = (
    "Here is a Python function f. Write a Python function g, callable without arguments, that returns a value "
    "for which f(g()) is True. Reply with one Python code block that defines g and nothing else."
)
PROPOSE_INSTRUCTION = (
    "Write a new programming puzzle: a Python function f that takes one answer, annotated with its type "
    "(int, float, str, List, Set, Dict, Tuple), and returns True only for right answers, which are hard to find "
    "and quick to check. Further parameters need defaults. No randomness, files or network. "
    "Reply with one Python code block that defines f and nothing else."
)


@dataclass(frozen=True)
class Prompt:
    """The text that a model continues or answers."""

    text: str
    """The whole prompt; with `chat` the user's message."""
    chat: bool
    header: str
    """Code that the completion continues and is parsed with: `def g():`, `def f(`; empty with `chat`."""

    def parsed_text(self, completion: str) -> Text:
        """A completion in the form that the parser takes."""
        if self.chat:
            return Text(completion, "chat")
        return Text(self.header + completion, "continuation")


def solve_prompt(protocol: str, puzzle: Puzzle, shots: Sequence[tuple[Puzzle, Candidate]] = ()) -> Prompt:
    """A prompt that asks for a solution. With the few-shot protocol `shots` are shown first."""
    if protocol == "chat":
        return Prompt(f"{SOLVE_INSTRUCTION}\n\n{_fenced(puzzle.source)}", chat=True, header="")
    shown = shots if protocol == "few-shot" else ()
    parts = [f"{shot.source}\n\n{solution.source}\n\n\n" for shot, solution in shown]
    return Prompt("".join(parts) + f"{puzzle.source}\n\n{puzzle.header}", chat=False, header=puzzle.header)


def propose_prompt(protocol: str, shots: Sequence[Puzzle] = (), begun: str = PROPOSAL_HEADER) -> Prompt:
    """A prompt that asks for a new puzzle. `shots` are shown first unless the protocol is plain.

    `begun` is the beginning that the model continues. A chat model writes the whole puzzle.
    """
    shown = shots if protocol != "plain" else ()
    if protocol == "chat":
        examples = "".join(f"\n\n{_fenced(puzzle.source)}" for puzzle in shown)
        text = PROPOSE_INSTRUCTION + (f" It should be unlike these examples:{examples}" if examples else "")
        return Prompt(text, chat=True, header="")
    parts = [f"{puzzle.source}\n\n\n" for puzzle in shown]
    return Prompt("".join(parts) + begun, chat=False, header=begun)


def solve_completion(protocol: str, puzzle: Puzzle, solution: Candidate) -> str | None:
    """The completion that teaches a solution; None if the solution cannot follow this prompt.

    A solution can follow the puzzle's header if its own first line is this header, or `def g():` without parameters. A
    solution with helper functions or imports before `g` cannot.
    """
    if protocol == "chat":
        return _fenced(solution.source)
    first, newline, body = solution.source.partition("\n")
    if first not in (puzzle.header, "def g():") or not newline:
        return None
    return _continuation(body)


def propose_completion(protocol: str, puzzle: Puzzle) -> str | None:
    """The completion that teaches a puzzle; None if it has code before `def f(` or after the body."""
    if protocol == "chat":
        return _fenced(puzzle.source)
    first, _, body = puzzle.source.partition("\n")
    continuation = _continuation(body)
    if not first.startswith(PROPOSAL_HEADER) or continuation is None:
        return None
    return first.removeprefix(PROPOSAL_HEADER) + continuation


def _continuation(body: str) -> str | None:
    """A function body as a completion; None if the parser would cut it."""
    lines = body.split("\n")
    return None if any(line and not line[0].isspace() for line in lines) else f"\n{body}\n"


def _fenced(source: str) -> str:
    return f"```python\n{source}\n```"


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, with the tokenizer's own start tokens. Names of control tokens in our text are text.

    Raises:
        InputError: The prompt is for a chat, and the model has no chat template, or one that does not write it.
    """
    if prompt.chat:
        if not tokenizer.chat_template:
            raise InputError("protocol chat: this model has no chat template: choose plain or few-shot")
        return encode_rendered(tokenizer, lambda content: chat_text(tokenizer, content), prompt.text)
    ids = encode_text(tokenizer, prompt.text, framed=True)
    # Some tokenizers add an end token to every text, but a prompt goes on.
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


_ends: WeakKeyDictionary[Any, tuple[str, int]] = WeakKeyDictionary()


def end_of(tokenizer: Any, chat: bool) -> int:
    """The token that ends a completion: in a chat the one that the template writes behind a reply, if it writes one."""
    template = str(tokenizer.chat_template or "")
    if not chat or not template:
        return int(tokenizer.eos_token_id)
    known = _ends.get(tokenizer)
    if known is None or known[0] != template:
        known = _ends[tokenizer] = (template, _end_of_turn(tokenizer))
    return known[1]


def _end_of_turn(tokenizer: Any) -> int:
    try:
        behind = chat_text(tokenizer, "x", REPLY).rpartition(REPLY)[2].lstrip()
    except Exception:  # noqa: BLE001  # a template may refuse a chat that has a reply, in its own words
        behind = ""
    ends = control_tokens(tokenizer)
    first = max((name for name in ends if name and behind.startswith(name)), key=len, default=None)
    return int(tokenizer.eos_token_id if first is None else ends[first])


def encode_completion(tokenizer: Any, completion: str, chat: bool = False) -> list[int]:
    """Token ids of a completion behind its prompt, and of the end token that it teaches."""
    return [*encode_after(tokenizer, completion), end_of(tokenizer, chat)]


def is_joined(tokenizer: Any, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> bool:
    """Whether the tokenizer would join prompt and completion if it read them as one text.

    A model that has learned such texts expects a token there that spans the border.

    Args:
        tokenizer: A tokenizer of transformers.
        prompt_ids: Token ids of the prompt.
        completion_ids: Token ids of the completion, without its end.
    """
    line = decode_after(tokenizer, (), prompt_ids[-LINE_TOKENS:]).rpartition("\n")[2]
    whole = encode_after(tokenizer, line + decode_after(tokenizer, prompt_ids, completion_ids))
    return whole[len(whole) - len(completion_ids) :] != list(completion_ids)


def met_a_line(prompt: Prompt, completion: str) -> bool:
    """Whether a line that is not indented ended a sampled completion. That line's start is then in the last token."""
    return not prompt.chat and NOT_INDENTED.search(completion) is not None


def encode_sampled(tokenizer: Any, prompt: Prompt, completion: str) -> list[int]:
    """Token ids of a sampled completion whose tokens were not kept, with its end, if it ended by itself.

    The end is the end token, or the beginning of a line that is not indented. After such a line no end token was
    sampled. The tokens before it are a guess, because a model may sample a text in other tokens than its tokenizer's.
    At temperature 1 this holds for 1 to 2 % of the embedded model's texts before fine-tuning, and for 6 to 13 % after
    three iterations.
    """
    if met_a_line(prompt, completion):
        return encode_after(tokenizer, completion)
    return encode_completion(tokenizer, completion, prompt.chat)


def own_part(prompt: Prompt, completion: str) -> str:
    """The part of a sampled completion that the parser takes as its function, without the line that ended it."""
    if not met_a_line(prompt, completion):
        return completion
    return NOT_INDENTED.split(completion, maxsplit=1)[0].rstrip() + "\n"


def was_cut(prompt: Prompt, completion: str, tokens: int, max_tokens: int) -> bool:
    """Whether a sampled completion whose tokens were not kept was cut at its token limit, judged by its text.

    Args:
        prompt: The prompt of the completion.
        completion: Its text.
        tokens: Number of tokens in the text.
        max_tokens: Token limit of one completion, end token included.

    Returns:
        The answer is right if the text was sampled in its tokenizer's own tokens (`encode_sampled`). It is wrong for
        one in a hundred of the embedded model's texts after three iterations.
    """
    return tokens >= max_tokens and not met_a_line(prompt, completion)
