"""Is model B better than model A? Compares two benchmark results puzzle by puzzle.

The test is about the scored puzzles: could two equal models differ this much on them? The interval is about all puzzles
like these, so it is wider. A difference can be certain by the test and still open by the interval. Each k is another
look at the data. So only the first k of the results decides, and the others inform.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puzzles.puzzle import InputError
from selfplay.scoring import results
from selfplay.scoring.metrics import Score, detectable_difference, paired_interval, pass_at_k, sign_flip_test
from selfplay.text import Column, Table, fraction, signed, wrapped

Rates = NDArray[np.float64]

SIGNIFICANT = 0.05
MUST_AGREE = (
    ("set", "hash"), ("protocol",), *(("prompt_format", part) for part in ("system", "solve", "shots_as_turns")),
    ("prompts_hash",), ("settings", "samples_per_puzzle"), ("settings", "temperature"),
    ("settings", "top_p"), ("settings", "max_tokens"), ("limits",),
)  # fmt: skip
"""Conditions that two results must share. Otherwise the comparison is not about the models alone."""
SHOWN_PUZZLES = 20
"""Most puzzles that a report names in a list."""


@dataclass(frozen=True)
class Difference:
    """Pass@k of B minus that of A, for one k."""

    k: int
    first: float
    second: float
    difference: Score
    p: float
    """Probability that two equal models differ at least this much on these puzzles (`metrics.sign_flip_test`)."""
    detectable: float | None
    """Smallest difference that can be expected to be found with these puzzles and candidates; None if no difference can
    be."""
    differing: int
    """Number of puzzles on which A and B differ. The others say nothing about which is better."""

    @property
    def least_p(self) -> float:
        """The smallest p that the test can reach with so many differing puzzles: all of them for one model."""
        return min(1.0, 2.0 ** (1 - self.differing))


@dataclass(frozen=True)
class Comparison:
    """Two results on the same puzzles."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    differing: list[str]
    """Conditions that differ between the two."""
    puzzles: list[str]
    samples: str
    """Candidates per puzzle, of both results."""
    differences: list[Difference]
    won: list[tuple[str, int, int]]
    """Puzzles that only B solved, with the numbers of accepted candidates of A and B. The clearest come first."""
    lost: list[tuple[str, int, int]]
    """Puzzles that only A solved, in the same form."""

    @property
    def verdict(self) -> str:
        """Whether B is `better`, `worse` or `not different`, by the first k."""
        first = self.differences[0]
        if first.p >= SIGNIFICANT:
            return "not different"
        return "better" if first.difference.value > 0 else "worse"


def compare(first: str | Path, second: str | Path, anyway: bool = False) -> Comparison:
    """Compare two results of `selfplay bench`.

    Args:
        first: Result A, the baseline: a folder or a results.json.
        second: Result B.
        anyway: Whether to compare although conditions differ. Only puzzles in both results are then compared.

    Raises:
        InputError: A result cannot be read, the conditions differ, or the results have no puzzle or no k in common.
    """
    a, b = (results.read(place)["selfplay"] for place in (first, second))
    differing = _differing(a, b)
    if differing and not anyway:
        raise InputError(
            f"{second}: cannot be compared with {first}, they differ in {'; '.join(differing)}: "
            "score both under the same conditions, or give --anyway"
        )
    wrong = {**a["errata"], **b["errata"]}
    puzzles = [puzzle for puzzle in a["per_puzzle"] if puzzle in b["per_puzzle"] and puzzle not in wrong]
    if not puzzles:
        raise InputError(f"{second}: expected puzzles in common with {first}, there are none")
    n_a, c_a, n_b, c_b = (
        np.array([own["per_puzzle"][puzzle][part] for puzzle in puzzles]) for own in (a, b) for part in (0, 1)
    )
    samples = " and ".join(dict.fromkeys((str(n_a[0]), str(n_b[0]))))
    ks = [int(name[5:]) for name in a["scores"] if name in b["scores"]]
    if not ks:
        raise InputError(f"{second}: no pass@k in common with {first}: rescore one with the other's --k")
    names = _names(first) | _names(second)
    rows = [(names.get(puzzle, puzzle), int(x), int(y)) for puzzle, x, y in zip(puzzles, c_a, c_b, strict=True)]
    return Comparison(
        a, b, differing, puzzles, samples,
        [
            difference(
                k, pass_at_k(n_a, c_a, k), pass_at_k(n_b, c_b, k), results.finite(detectable_difference(n_a, c_a, k))
            )
            for k in ks
        ],
        sorted((row for row in rows if row[2] and not row[1]), key=lambda row: -row[2]),
        sorted((row for row in rows if row[1] and not row[2]), key=lambda row: -row[1]),
    )  # fmt: skip


def difference(k: int, first_P: Rates, second_P: Rates, detectable: float | None = None) -> Difference:
    """The difference for one k, from the pass@k of A and B on each puzzle."""
    difference_P = second_P - first_P
    return Difference(
        k, float(first_P.mean()), float(second_P.mean()), paired_interval(difference_P), sign_flip_test(difference_P),
        detectable, int(np.count_nonzero(difference_P)),
    )  # fmt: skip


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Conditions that must be equal and are not, each with both values."""
    found = []
    for path in MUST_AGREE:
        if not all(path[0] in own for own in (a, b)):  # results of older versions have the hash of their prompts alone
            continue
        one, other = a, b
        for key in path:
            one, other = one[key], other[key]
        if one != other:
            found.append(f"{' '.join(path)} ({_short(one)} and {_short(other)})")
    unsent = [_unsent(own) for own in (a, b)]
    if unsent[0] != unsent[1]:
        found.append(f"settings that were not sent to the server ({' and '.join(map(str, unsent))})")
    n_a, n_b = (len(own["settings"]["seeds"]) for own in (a, b))
    if n_a != n_b:
        found.append(f"number of seeds ({n_a} and {n_b})")
    return found


def _unsent(own: Mapping[str, Any]) -> list[str]:
    """Settings that a server was not sent, and that its samples depend on. Its own top-p is taken to be 1."""
    needed = ("temperature", "max_tokens", *(["top_p"] if own["settings"]["top_p"] != 1 else []))
    return [name for name in own["model"].get("left_out", []) if name in needed]


def _short(value: Any) -> str:
    text = str(value) or "none"
    return text if len(text) <= 60 else text[:59] + "…"


def _names(place: str | Path) -> dict[str, str]:
    """Names of puzzles by id, if the samples are there."""
    folder = Path(place) if Path(place).is_dir() else Path(place).parent
    with contextlib.suppress(InputError):  # without readable samples the ids serve as names
        return {count.puzzle: count.name for count in results.puzzle_counts(results.unpack(folder))}
    return {}


def report(comparison: Comparison, width: int | None = None) -> str:
    """The comparison: as Markdown, or for a terminal with lines of so many characters."""
    a, b = comparison.first, comparison.second
    rows = [
        [
            f"pass@{one.k}", fraction(one.first), fraction(one.second), signed(one.difference),
            f"{one.p:.2g}", "-" if one.detectable is None else f"{one.detectable:.3f}",
        ]
        for one in comparison.differences
    ]  # fmt: skip
    columns = [
        Column(""), Column("A"), Column("B"), Column("B - A [95 %]"), Column("p"), Column("detectable", rank=1)
    ]  # fmt: skip
    table = Table(columns, rows)
    parts = [
        f"A  {a['model']['path']} (hash {a['model']['checkpoint']})\n"
        f"B  {b['model']['path']} (hash {b['model']['checkpoint']})",
        f"{len(comparison.puzzles)} puzzles of {a['set']['name']}, {comparison.samples} candidates each, "
        f"{a['protocol']} protocol",
        table.markdown() if width is None else table.plain(width),
        _puzzle_list("Won (solved by B only)", comparison.won)
        + "\n"
        + _puzzle_list("Lost (solved by A only)", comparison.lost),
        conclusion(comparison),
    ]
    if comparison.differing:
        parts.insert(2, "The conditions differ: " + "; ".join(comparison.differing))
    if width is not None:
        parts = [part if part == table.plain(width) else wrapped(part, width) for part in parts]
    return "\n\n".join(parts)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison for programs."""
    return {
        "first": dict(comparison.first["model"]),
        "second": dict(comparison.second["model"]),
        "set": comparison.first["set"]["name"],
        "puzzles": len(comparison.puzzles),
        "differing": comparison.differing,
        "verdict": comparison.verdict,
        "differences": {f"pass@{one.k}": asdict(one) for one in comparison.differences},
        "won": comparison.won,
        "lost": comparison.lost,
    }


def _puzzle_list(title: str, rows: Sequence[tuple[str, int, int]]) -> str:
    shown = ", ".join(f"{name} ({first} → {second})" for name, first, second in rows[:SHOWN_PUZZLES])
    more = f" and {len(rows) - SHOWN_PUZZLES} more" if len(rows) > SHOWN_PUZZLES else ""
    return f"{title}: {len(rows)}" + (f": {shown}{more}" if rows else "")


def conclusion(comparison: Comparison) -> str:
    """The conclusion in a sentence or two."""
    one = comparison.differences[0]
    if comparison.verdict == "not different":
        said = f"At pass@{one.k} these puzzles show no significant difference between A and B (p = {one.p:.2g})."
        return f"{said} {_reach(one)}"
    return f"At pass@{one.k} B is {comparison.verdict} than A on these puzzles (p = {one.p:.2g})."


def _reach(one: Difference) -> str:
    """What the test could have shown at all, where it has shown no difference."""
    if one.least_p >= SIGNIFICANT:
        return (
            f"It could not have: A and B differ on {one.differing} of them, and with so few the test reaches "
            f"p = {one.least_p:.2g} at best. More puzzles are needed."
        )
    if one.detectable is None:
        return "No difference could be expected to show."
    if abs(one.difference.value) > one.detectable:
        return (
            f"An even difference of this size would show, but this one is spread unevenly over {one.differing} "
            "puzzles. More puzzles are needed."
        )
    return f"Only a difference above {one.detectable:.3f} could be expected to show."
