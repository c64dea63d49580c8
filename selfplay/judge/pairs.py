"""What goes to the judge and comes back: pairs and verdicts, one JSON object a line, as `selfplay verify` has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from puzzles.foreign import ANY, TEXT, an_object, expect, parse_json
from puzzles.parse import Text
from puzzles.puzzle import InputError, Judgement, Verdict

FORMS = ("program", "continuation", "chat")
"""Forms in which a solution's text may come (`puzzles.parse.Text`)."""
SHAPE = an_object(
    ["id", "form", "conjuncts"], id=ANY, puzzle=TEXT, solution=TEXT, form={"type": "string", "enum": FORMS},
    conjuncts={"type": "boolean"},
)  # fmt: skip
"""JSON shape of a pair. Further keys are allowed: a row of a data set may be sent as it is."""


@dataclass(frozen=True)
class Pair:
    """A puzzle's text and the text that is to solve it."""

    puzzle: str
    solution: str
    form: str = "program"
    """One of FORMS. A whole reply of a model may come as any of them; `continuation` is for a text that goes on from
    `def g():`, with this header before it."""
    conjuncts: bool = False
    """Whether to say which share of the puzzle's conjuncts the answer fulfils. This costs a few more runs."""

    @property
    def text(self) -> Text:
        """The solution as the parser takes it."""
        return Text(self.solution, self.form)


@dataclass(frozen=True)
class Judged:
    """A verdict with its evidence, as `selfplay verify` prints it."""

    id: Any
    """The pair's place in the call, from 0. In a line of the service, its id, or its number from 1 if it has none."""
    verdict: Verdict
    detail: str
    """Explanation for people: the stage and what happened there."""
    answer: str | None
    """The answer as a Python literal; None if there was none or it is over the limit."""
    cpu_ms: float
    """CPU time of the candidate's own run, in milliseconds."""
    left_out: tuple[str, ...] = ()
    """Statements of the solution's text that it does not need, so that they were not run."""
    conjuncts: float | None = None
    """Share of the puzzle's conjuncts that the answer fulfils, in [0, 1]; None if nobody asked."""

    @property
    def accepted(self) -> bool:
        """Whether the solution is right."""
        return self.verdict == Verdict.ACCEPTED

    def to_json(self) -> dict[str, Any]:
        """The object that `selfplay verify` prints."""
        fields = asdict(self)
        if not self.left_out:
            del fields["left_out"]
        if self.conjuncts is None:
            del fields["conjuncts"]
        return fields


def judged(identifier: Any, judgement: Judgement, conjuncts: float | None = None) -> Judged:
    """A judgement as it is printed and sent."""
    return Judged(
        identifier, judgement.verdict, judgement.detail, judgement.answer, round(1000 * judgement.cpu_seconds, 3),
        judgement.left_out, conjuncts,
    )  # fmt: skip


def as_pair(given: object) -> Pair:
    """A pair from what a caller gave: a `Pair`, two texts, or a mapping with `puzzle` and `solution`.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(given, Pair):
        return given
    if isinstance(given, Mapping):
        record = dict(given)
        expect(record, SHAPE, "a pair")
        return Pair(**{key: record[key] for key in ("puzzle", "solution", "form", "conjuncts") if key in record})
    if isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(text, str) for text in given):
        return Pair(*given)
    parts = f" of {', '.join(type(part).__name__ for part in given[:3])}" if isinstance(given, tuple | list) else ""
    raise InputError(f"expected a puzzle's text and a solution's text, got {type(given).__name__}{parts}")


def to_line(pair: Pair) -> bytes:
    """A pair as a line of a request."""
    fields: dict[str, Any] = {"puzzle": pair.puzzle, "solution": pair.solution}
    if pair.form != "program":
        fields["form"] = pair.form
    if pair.conjuncts:
        fields["conjuncts"] = True
    return json.dumps(fields).encode() + b"\n"


def from_lines(body: bytes) -> list[tuple[Any, Pair]]:
    """The pairs of a request, each with its id: as `verify` has it, `id`, else `name`, else its number from 1.

    Raises:
        InputError: A line is no pair. Then none of them counts.
    """
    found: list[tuple[Any, Pair]] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            record = parse_json(line, f"line {number}", 'an object {"puzzle", "solution"}')
            expect(record, SHAPE, f"line {number}")
            found.append((record.get("id", record.get("name", len(found) + 1)), as_pair(record)))
    if not found:
        raise InputError('expected lines of {"puzzle", "solution"}, got none')
    return found


def from_json(identifier: Any, record: Mapping[str, Any]) -> Judged:
    """A verdict from its line.

    Raises:
        ValueError: It is no verdict of this version.
        KeyError: A part is missing.
    """
    return Judged(
        identifier, Verdict(record["verdict"]), record["detail"], record["answer"], record["cpu_ms"],
        tuple(record.get("left_out", ())), record.get("conjuncts"),
    )  # fmt: skip
