"""One result of `selfplay bench`, or two side by side, as one HTML file: scores, puzzles, prompts and samples.

Like a run's report it opens from disk without a network, and allows only its own script and style.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from selfplay.inspecting import panels
from selfplay.inspecting.benchmarks import Result, compared, facts_of, samples_of, score_rows, sentence_of
from selfplay.inspecting.report import MOST_BYTES, environment, rendered
from selfplay.text import fraction

Kind = tuple[str, str]
"""A verdict, and the rule that was broken."""


def report(shown: Sequence[Result]) -> str:
    """The page of one result or two. A puzzle whose samples have no room is listed without them.

    Raises:
        InputError: Two results have nothing in common.
    """
    comparison = compared(shown)
    samples = {result.label: _by_puzzle(result) for result in shown}
    kinds = sum((_kinds(own) for of in samples.values() for own in of.values()), Counter[Kind]())
    numbers = {kind: number for number, (kind, _) in enumerate(kinds.most_common())}
    counted = {f"{result.label} {result.own['model']['path']}": _counts(result) for result in shown}
    return rendered(
        "benchmark.html",
        name=" and ".join(result.own["model"]["path"] for result in shown),
        results=[facts_of(result) for result in shown],
        sentence=sentence_of(shown, comparison), scores=score_rows(shown, comparison),
        curves=[*panels.over_tries(shown[0].own["set"]["name"], counted)],
        verdicts=[[f"{kind[0]}: {kind[1]}" if kind[1] else kind[0], *_shares(kind, samples)] for kind in numbers],
        kinds=[(numbers[kind], _named(kind), number) for kind, number in kinds.most_common()],
        changes={"won": "won by B", "lost": "lost by B"} if comparison else {},
        cards=[*_cards(shown, samples, numbers)],
    )  # fmt: skip


def _by_puzzle(result: Result) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for sample in samples_of(result):
        found.setdefault(sample["puzzle"], []).append(sample)
    return found


def _kinds(samples: Sequence[Mapping[str, Any]]) -> Counter[Kind]:
    return Counter((sample["verdict"], sample["rule"]) for sample in samples)


def _counts(result: Result) -> dict[str, tuple[int, int]]:
    return {puzzle: (n, c) for puzzle, (n, c) in result.own["per_puzzle"].items() if puzzle not in result.own["errata"]}


def _named(kind: Kind) -> str:
    return ": ".join(filter(None, kind))


def _shares(kind: Kind, samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Iterator[str]:
    for of in samples.values():
        everything = [sample for own in of.values() for sample in own]
        number = sum((sample["verdict"], sample["rule"]) == kind for sample in everything)
        yield f"{number:,}"
        yield fraction(number / max(1, len(everything)))


# ---- puzzles ----


def _cards(
    shown: Sequence[Result], samples: Mapping[str, Mapping[str, Sequence[Any]]], numbers: Mapping[Kind, int]
) -> Iterator[Markup]:
    """A card for each puzzle, in the set's order, with its samples as long as there is room."""
    render, size = environment().get_template("benchmark-card.html").render, 0
    for puzzle in dict.fromkeys(puzzle for result in shown for puzzle in result.own["per_puzzle"]):
        own = {result.label: samples[result.label].get(puzzle, []) for result in shown}
        facts = next(each[0] for each in own.values() if each)
        counts = {label: [len(each), sum(s["verdict"] == "accepted" for s in each)] for label, each in own.items()}
        solved = tuple(c > 0 for n, c in counts.values() if n)
        content = {
            "facts": facts, "counts": counts, "many": len(shown) > 1,
            "change": {(False, True): "won", (True, False): "lost"}.get(solved, ""),
            "item": next((result.puzzles[puzzle] for result in shown if puzzle in result.puzzles), None),
            "prompts": _prompts(shown, puzzle),
            "kinds": sorted({numbers[kind] for each in own.values() for kind in _kinds(each)}),
        }  # fmt: skip
        groups = {label: [*_groups(shown, label, each, numbers)] for label, each in own.items()}
        html = render(**content, groups=groups)
        if size + len(html.encode()) > MOST_BYTES:
            html = render(**content | {"prompts": []}, groups={})
        size += len(html.encode())
        yield Markup(html)


def _prompts(shown: Sequence[Result], puzzle: str) -> list[tuple[str, str]]:
    """The prompts of a puzzle with their results' labels; one without a label if all results share it."""
    found = [(result.label, result.prompts[puzzle].whole) for result in shown if puzzle in result.prompts]
    return [("", found[0][1])] if len({text for _, text in found}) == 1 else found


def _groups(
    shown: Sequence[Result], label: str, samples: Sequence[Mapping[str, Any]], numbers: Mapping[Kind, int]
) -> Iterator[dict[str, Any]]:
    """The samples of one result by verdict and rule, accepted ones first; equal texts once."""
    prompts = next(result.prompts for result in shown if result.label == label)
    by_kind: dict[Kind, Counter[tuple[str | None, str | None]]] = {}
    for sample in samples:
        kind = (sample["verdict"], sample["rule"])
        by_kind.setdefault(kind, Counter())[sample["text"], sample["detail"]] += 1
    for kind, texts in sorted(by_kind.items(), key=lambda item: (item[0][0] != "accepted", item[0])):
        header = prompts[samples[0]["puzzle"]].header if samples[0]["puzzle"] in prompts else ""
        rows = [
            {"text": None if text is None else header + text, "detail": detail, "times": times}
            for (text, detail), times in texts.most_common()
        ]
        yield {"name": _named(kind), "number": numbers[kind], "count": texts.total(), "rows": rows}
