"""How puzzles are written for a model. Sampling and training use the same text, byte for byte.

Both tokenise a prompt on its own, and the completion's tokens follow. So no token spans the border in one use and not
in the other. A text that the model wrote is learned in the tokens that were drawn. Other texts are tokenised as
completions (`encode_completion`).

Protocols:
  plain     the puzzle, and the first line of a solution
  few-shot  the same after a few solved pairs, as the ancestor does (arXiv:2207.14502); names are
            not numbered (f1, f2, ...) because every pair is a program of its own here
  chat      the model's own template; the answer is a fenced code block

A protocol says how a completion is read. What stands before it is a `PromptFormat`: the protocol's own templates, or
those of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from puzzles.foreign import TEXT, TEXTS, an_object, expect, shown
from puzzles.parse import Text
from puzzles.puzzle import Candidate, InputError, Puzzle, content_hash
from sandbox.pool import PURE_MODULES
from selfplay.config import PromptConfig
from selfplay.sampling.chat import Turn, chat_text
from selfplay.sampling.tokens import control_tokens, decode_after, encode_after, encode_rendered, encode_text
from selfplay.templates import FIELDS, check_templates, filled, holds

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
OWN = {
    "plain": {"propose": "{header}", "solve": "{puzzle}\n\n{header}"},
    "few-shot": {"propose": "{shots}{header}", "solve": "{shots}{puzzle}\n\n{header}"},
    "chat": {
        "propose": PROPOSE_INSTRUCTION + "{shots: It should be unlike these examples:\n\n}",
        "solve": SOLVE_INSTRUCTION + "\n\n```python\n{puzzle}\n```",
    },
}
"""Each protocol's own templates."""


@dataclass(frozen=True)
class PromptFormat:
    """How prompts are written: a protocol with its templates, in the form of `selfplay.templates`.

    Raises:
        InputError: A template is not as the protocol needs it.
    """

    protocol: str
    """One of `PROTOCOLS`."""
    system: str = ""
    """Template of the system turn of a chat; empty for none of ours."""
    propose: str = ""
    """Template of a prompt for a puzzle, with `chat` of the user's message; if empty, the protocol's own."""
    solve: str = ""
    """The same for a solution."""
    shots_as_turns: bool = False
    """Whether shots are turns of a chat, and no part of a message."""
    modules: tuple[str, ...] = ()
    """Modules that solutions may import beside the pure ones, if a template names them."""

    def __post_init__(self) -> None:
        if self.protocol not in OWN:
            raise InputError(f"prompt.protocol: expected one of {', '.join(OWN)}, got {shown(self.protocol)}")
        for key, template in OWN[self.protocol].items():
            object.__setattr__(self, key, getattr(self, key) or template)
        check_templates(self.protocol, {key: getattr(self, key) for key in FIELDS}, self.shots_as_turns)

    @property
    def is_own(self) -> bool:
        """Whether its templates are the protocol's own."""
        return replace(self, shots_as_turns=False) == PromptFormat(self.protocol)

    def shows_shots(self, role: str) -> bool:
        """Whether prompts of a role, `propose` or `solve`, show puzzles."""
        return self.shots_as_turns or holds(getattr(self, role), "shots")

    @property
    def hash(self) -> str:
        """Hash of 16 digits over everything in it."""
        return content_hash("\0".join([*map(str, asdict(self).values())]))

    def to_json(self) -> dict[str, Any]:
        """What records keep of it: its parts, and its hash."""
        return {**asdict(self), "modules": list(self.modules), "hash": self.hash}


KEPT = an_object(
    ["hash"], protocol={"type": "string", "enum": PROTOCOLS}, system=TEXT, propose=TEXT, solve=TEXT,
    shots_as_turns={"type": "boolean"}, modules=TEXTS, hash=TEXT,
)  # fmt: skip
"""JSON shape of a `PromptFormat` in records."""


def kept_format(record: Mapping[str, Any]) -> PromptFormat:
    """The format in a record of what was sampled or trained: a checkpoint's notes, a chunk's settings, or results.

    Those of older versions have only a protocol, whose own templates they used.

    Raises:
        InputError: The record holds something else in its place.
    """
    kept = record.get("prompt_format")
    if kept is None:
        expect(record.get("protocol"), KEPT["properties"]["protocol"], "protocol")
        return PromptFormat(record["protocol"])
    expect(kept, KEPT, "prompt_format")
    parts = {key: value for key, value in kept.items() if key in PromptFormat.__dataclass_fields__}
    return PromptFormat(**{**parts, "modules": tuple(kept["modules"])})


def chosen_format(
    config: PromptConfig, modules: Sequence[str], notes: Mapping[str, Any], otherwise: str = "few-shot"
) -> PromptFormat:
    """The format that settings ask for.

    Args:
        config: The settings. With the protocol `auto`, what they leave open is as the checkpoint was trained.
        modules: Modules that solutions may import beside the pure ones.
        notes: The checkpoint's notes.
        otherwise: The protocol where neither settings nor notes name one.

    Raises:
        InputError: A template is not as the protocol needs it.
    """
    if config.protocol == "auto" and "protocol" in notes:
        base = kept_format(notes)
    else:
        protocol = otherwise if config.protocol == "auto" else config.protocol
        base = PromptFormat(protocol, shots_as_turns=protocol == "chat")
    given = {key: text for key in FIELDS if (text := getattr(config, key))}
    turns = base.shots_as_turns if config.shots_as_turns == "auto" else config.shots_as_turns == "yes"
    chosen = replace(base, **given, shots_as_turns=turns)
    names_modules = any(holds(getattr(chosen, key), "modules") for key in FIELDS)
    return replace(chosen, modules=tuple(modules)) if modules and names_modules else chosen


@dataclass(frozen=True)
class Prompt:
    """The text that a model continues or answers."""

    text: str
    """The whole prompt; with `chat` the user's message."""
    chat: bool
    header: str
    """Code that the completion continues and is parsed with: `def g():`, `def f(`; empty with `chat`."""
    before: tuple[Turn, ...] = ()
    """The turns of a chat before the message."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns of a chat."""
        return (*self.before, ("user", self.text))

    @property
    def whole(self) -> str:
        """The prompt as one text, to be hashed or looked at. The turns of a longer chat stand under their roles."""
        return "\n\n".join(f"[{role}]\n{text}" for role, text in self.turns) if self.before else self.text

    def parsed_text(self, completion: str) -> Text:
        """A completion in the form that the parser takes."""
        if self.chat:
            return Text(completion, "chat")
        return Text(self.header + completion, "continuation")


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """Hash of 16 digits over whole prompts, in order."""
    return content_hash("\0".join(prompt.whole for prompt in prompts))


def solve_prompt(
    prompt_format: str | PromptFormat, puzzle: Puzzle, shots: Sequence[tuple[Puzzle, Candidate]] = ()
) -> Prompt:
    """A prompt that asks for a solution.

    Args:
        prompt_format: The format; a protocol's name stands for its own one.
        puzzle: The puzzle.
        shots: Solved pairs to show, if the format shows any.
    """
    own = _format(prompt_format)
    fields = {"modules": ", ".join([*PURE_MODULES, *own.modules])}

    def asked(about: Puzzle, before: str) -> str:
        known = {"puzzle": about.source, "header": about.header, "answer_type": about.answer_type, "shots": before}
        return filled(own.solve, fields | known)

    if own.protocol != "chat":
        pairs = [f"{shot.source}\n\n{solution.source}\n\n\n" for shot, solution in shots]
        return Prompt(asked(puzzle, "".join(pairs)), chat=False, header=puzzle.header)
    if own.shots_as_turns:
        turns = [(asked(shot, ""), _fenced(solution.source)) for shot, solution in shots]
        return _chat(own, fields, turns, asked(puzzle, ""))
    blocks = [_fenced(program.source) for pair in shots for program in pair]
    return _chat(own, fields, (), asked(puzzle, "\n\n".join(blocks)))


def propose_prompt(
    prompt_format: str | PromptFormat, shots: Sequence[Puzzle] = (), begun: str = PROPOSAL_HEADER
) -> Prompt:
    """A prompt that asks for a new puzzle.

    Args:
        prompt_format: The format; a protocol's name stands for its own one.
        shots: Puzzles to show, if the format shows any.
        begun: The beginning that the model continues. A chat model writes the whole puzzle.
    """
    own = _format(prompt_format)
    fields = {"modules": ", ".join(PURE_MODULES), "header": begun}
    if own.protocol != "chat":
        before = "".join(f"{puzzle.source}\n\n\n" for puzzle in shots)
        return Prompt(filled(own.propose, fields | {"shots": before}), chat=False, header=begun)
    blocks = [_fenced(puzzle.source) for puzzle in shots]
    asked = filled(own.propose, fields | {"shots": "" if own.shots_as_turns else "\n\n".join(blocks)})
    return _chat(own, fields, [(asked, block) for block in blocks] if own.shots_as_turns else (), asked)


def _format(prompt_format: str | PromptFormat) -> PromptFormat:
    return PromptFormat(prompt_format) if isinstance(prompt_format, str) else prompt_format


def _chat(own: PromptFormat, fields: Mapping[str, str], turns: Sequence[tuple[str, str]], asked: str) -> Prompt:
    """A chat: the system turn, if there is one, the shots with their replies, and what is asked."""

    def before() -> Iterator[Turn]:
        if own.system:
            yield "system", filled(own.system, fields)
        for message, reply in turns:
            yield from (("user", message), ("assistant", reply))

    return Prompt(asked, chat=True, header="", before=tuple(before()))


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
        roles, texts = zip(*prompt.turns, strict=True)
        return encode_rendered(tokenizer, lambda said: _rendered(tokenizer, zip(roles, said, strict=True)), texts)
    ids = encode_text(tokenizer, prompt.text, framed=True)
    # Some tokenizers add an end token to every text, but a prompt goes on.
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def prompt_text(tokenizer: Any, prompt: Prompt) -> str:
    """The text that a model reads: a chat as its template writes it. A start token that is no text is not in it.

    Raises:
        InputError: As for `encode_prompt`.
    """
    return _rendered(tokenizer, prompt.turns) if prompt.chat else prompt.text


def _rendered(tokenizer: Any, turns: Iterable[Turn]) -> str:
    if not tokenizer.chat_template:
        raise InputError("protocol chat: this model has no chat template: choose plain or few-shot")
    return chat_text(tokenizer, tuple(turns))


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
        behind = chat_text(tokenizer, (("user", "x"), ("assistant", REPLY))).rpartition(REPLY)[2].lstrip()
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
