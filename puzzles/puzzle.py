"""The nouns of this floor: puzzles, candidates, verdicts and verified pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum


class InputError(ValueError):
    """The user's input is wrong: which file and place, what was expected, what came. Exit status 2."""


def content_hash(text: str) -> str:
    """Sixteen hexadecimal digits that name a text (SHA-256, 64 bits: a collision among 10**6 is one in 10**7)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class RawPuzzle:
    """A puzzle's texts as they stand in a file."""

    name: str
    puzzle: str
    solutions: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    difficulty: int | None = None
    form: str = "program"
    """What the puzzle's text is: `program`, or another form of `parse.Text`."""


@dataclass(frozen=True)
class Puzzle:
    """A boolean function `f` of one answer, as canonical source text; made by `parse` only."""

    source: str
    """Defines `f`; its first parameter is the answer, the others have defaults."""
    answer_type: str
    """Canonical, in `typing`'s spelling: `List[int]`."""
    header: str
    """First line of a solution: `def g(n=10):`, with the puzzle's further parameters."""
    id: str
    """Hash of the normal form: names, layout and docstrings do not count, constants do."""
    skeleton: str
    """Hash of the normal form with constants abstracted."""
    shingles: frozenset[int] = field(repr=False)
    """Hashed 5-grams of the order-free form, for near-duplicates."""
    imports: tuple[str, ...] = ()
    """Modules it imports, by their first name."""
    original_name: str = "f"
    """What the function was called in the text it was read from."""
    description: str = ""
    """Its docstring, which the canonical text leaves out."""
    unordered: str = ""
    """Hash of the order-free form with constants abstracted; an archive keeps neither this nor the shingles."""


@dataclass(frozen=True)
class Candidate:
    """A solution not yet judged, as canonical source text that defines `g`; made by `parse` only."""

    source: str
    id: str
    """Hash of the normal form."""


class Verdict(StrEnum):
    """What the judge says of a candidate."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    WRONG_TYPE = "wrong_type"
    UNANSWERABLE_VALUE = "unanswerable_value"
    """The answer is not plain data, or over the answer limit."""
    RUNTIME_ERROR = "runtime_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    INVALID_SOLUTION = "invalid_solution"
    INVALID_PUZZLE = "invalid_puzzle"
    UNSTABLE = "unstable"
    """Worlds disagree, or a provisional accept that the solo run does not repeat."""


FAILED = (
    Verdict.WRONG_ANSWER, Verdict.WRONG_TYPE, Verdict.RUNTIME_ERROR, Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT,
    Verdict.UNANSWERABLE_VALUE,
)  # fmt: skip
"""Verdicts of candidates that are programs and were not accepted."""


WORLDS_DISAGREE = "confirm: worlds disagree"
"""How the detail begins of an `unstable` verdict that speaks against the puzzle, not the candidate."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its evidence."""

    verdict: Verdict
    detail: str = ""
    """The stage (`solve`, `judge`, `confirm`) and what happened there; for people."""
    answer: str | None = None
    """The answer as a Python literal; None if there was none or it is over the limit."""
    cpu_seconds: float = 0.0
    """Of the candidate's own child."""
    judge_cpu_seconds: float = 0.0
    """Of the solo confirmation, for accepted candidates."""
    waited_seconds: float = 0.0
    """How long the child that met a limit waited for a core: above zero, a loaded machine may have had a part in it."""


@dataclass(frozen=True)
class VerifiedPair:
    """A puzzle and a solution: a candidate whose verdict is accepted."""

    puzzle: Puzzle
    solution: Candidate
    judgement: Judgement

    def __post_init__(self) -> None:
        if self.judgement.verdict != Verdict.ACCEPTED:
            raise ValueError(f"a pair needs an accepted candidate, this one is {self.judgement.verdict}")
