"""The data types of this package: puzzles, candidates, verdicts and verified pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum


class InputError(ValueError):
    """The user's input is wrong. The message says in which file and place, what was expected and what came.

    Commands end with exit status 2.
    """


def content_hash(text: str) -> str:
    """Hash of a text: the first sixteen hexadecimal digits of its SHA-256.

    These are 64 bits, so the chance of a collision among 10**6 texts is one in 10**7.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class RawPuzzle:
    """The texts of a puzzle as they stand in a file."""

    name: str
    puzzle: str
    solutions: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    difficulty: int | None = None
    form: str = "program"
    """Form of the puzzle's text: `program`, or another form of `parse.Text`."""


@dataclass(frozen=True)
class Puzzle:
    """A boolean function of one answer. Only `parse` makes puzzles.

    Its author's text decides all verdicts. The canonical text is for prompts and for training.
    """

    source: str
    """Canonical source text that defines `f`. The first parameter is the answer; the others have defaults."""
    answer_type: str
    """Type of the answer, in the canonical spelling of `typing`, such as `List[int]`."""
    header: str
    """First line of a solution, with the puzzle's further parameters, such as `def g(n=10):`."""
    id: str
    """Hash of the normal form: constants count; names, layout and docstrings do not."""
    skeleton: str
    """Hash of the normal form with constants abstracted."""
    shingles: frozenset[int] = field(repr=False)
    """Hashed 5-grams of the order-free form, to find near-duplicates."""
    imports: tuple[str, ...] = ()
    """Top-level names of the modules that the puzzle imports."""
    original_name: str = "f"
    """Name of the function in the text it was read from."""
    description: str = ""
    """The puzzle's docstring, which the canonical text leaves out."""
    unordered: str = ""
    """Hash of the order-free form with constants abstracted. An archive keeps neither this nor the shingles."""
    left_out: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """First lines of the original text's statements that the puzzle does not need, such as `line 3: print(f(2))`."""
    impossible: str = field(default="", compare=False, repr=False)
    """Why `f` never returns True, where its text proves that."""
    text: str = field(default="", repr=False)
    """The author's program, in which the puzzle has its `original_name`. This is what is judged. It is empty if it
    differs from `source` in layout alone."""

    @property
    def judged(self) -> tuple[str, str]:
        """The program that is judged, and the name of its function."""
        return (self.text, self.original_name) if self.text else (self.source, "f")


@dataclass(frozen=True)
class Candidate:
    """A solution that is not judged yet. Only `parse` makes candidates."""

    source: str
    """Canonical source text that defines `g`, for prompts and for training."""
    id: str
    """Hash of the normal form."""
    left_out: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """First lines of the statements in the original text that the solution does not need."""
    text: str = field(default="", repr=False)
    """The author's program, which is what is run. It is empty if it differs from `source` in layout alone."""
    entry: str = "g"
    """Name of the solution's function in the author's program."""
    puzzle_name: str = "f"
    """Name by which the author's program may call the puzzle."""
    form: str = field(default="", compare=False, repr=False)
    """Hash of all of the program that is run but its names and layout. It is empty if the program might see them, or if
    an archive kept it."""

    @property
    def run(self) -> tuple[str, str]:
        """The program that is run, and the name of its function."""
        return (self.text, self.entry) if self.text else (self.source, "g")

    @property
    def calls(self) -> str:
        """Name by which the program that is run may call the puzzle."""
        return self.puzzle_name if self.text else "f"


class Verdict(StrEnum):
    """The judge's decision about a candidate."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    WRONG_TYPE = "wrong_type"
    UNANSWERABLE_VALUE = "unanswerable_value"
    """The answer is not plain data, or is over the answer limit."""
    RUNTIME_ERROR = "runtime_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    INVALID_SOLUTION = "invalid_solution"
    INVALID_PUZZLE = "invalid_puzzle"
    UNSTABLE = "unstable"
    """Worlds disagree, or the candidate's run on its own did not repeat a provisional accept."""


FAILED = (
    Verdict.WRONG_ANSWER, Verdict.WRONG_TYPE, Verdict.RUNTIME_ERROR, Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT,
    Verdict.UNANSWERABLE_VALUE,
)  # fmt: skip
"""Verdicts of candidates that are programs and were not accepted."""


WORLDS_DISAGREE = "confirm: worlds disagree"
"""Beginning of the detail of an `unstable` verdict that counts against the puzzle, not against the candidate."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its evidence."""

    verdict: Verdict
    detail: str = ""
    """Explanation for people: the stage (`solve`, `judge`, `confirm`) and what happened there."""
    answer: str | None = None
    """The answer as a Python literal; None if there was none or it is over the limit."""
    cpu_seconds: float = 0.0
    """CPU time of the candidate's own run; in a shared child, an equal share of the child's time."""
    judge_cpu_seconds: float = 0.0
    """CPU time of the confirmation in the second world, for accepted candidates."""
    waited_seconds: float = 0.0
    """Time that a child which was taken to be asleep spent without a core. If it is above zero, a loaded machine may be
    the cause. The limit of CPU time does not depend on the load."""
    encoded: bytes | None = field(default=None, compare=False, repr=False)
    """The answer as it was judged, for accepted candidates. Dicts keep their own order here."""
    left_out: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """From `verify_texts`: the statements of the solution's text that it does not need, so that they were not run."""


KEPT_CHARACTERS = 1000
"""Most characters of a wrong answer that are kept."""


def kept_answer(judgement: Judgement) -> str | None:
    """The answer as an archive keeps it: of a long one that was not accepted, the beginning, the length and a hash."""
    answer = judgement.answer
    if answer is None or judgement.verdict == Verdict.ACCEPTED or len(answer) <= KEPT_CHARACTERS:
        return answer
    return f"{answer[:KEPT_CHARACTERS]}… ({len(answer)} characters, hash {content_hash(answer)})"


@dataclass(frozen=True)
class VerifiedPair:
    """A puzzle and a solution: a candidate whose verdict is accepted."""

    puzzle: Puzzle
    solution: Candidate
    judgement: Judgement

    def __post_init__(self) -> None:
        if self.judgement.verdict != Verdict.ACCEPTED:
            raise ValueError(f"a verified pair needs an accepted candidate, this one is {self.judgement.verdict}")
