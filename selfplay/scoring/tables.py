"""A benchmark's results as Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puzzles.puzzle import Verdict
from selfplay.sampling.prompts import kept_format
from selfplay.text import Column, Table, interval


@dataclass(frozen=True)
class Told:
    """What the samples tell beyond `results.json`. Of a private set they tell nothing."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Names of puzzles by id."""
    rules: Mapping[str, int] = field(default_factory=dict)
    """Number of `invalid_solution` candidates by the rule that they broke."""

    def named(self, puzzle: str) -> str:
        """The puzzle's name; where it is not known, its id."""
        return self.names.get(puzzle, puzzle)


def told_by(own: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Told:
    """What stored chunks tell about a benchmark's results."""
    results = [result for line in lines for result in line["results"] if result["puzzle"] not in own["errata"]]
    rules = Counter(
        detail.partition(":")[0]
        for result in results
        for verdict, detail in zip(result["verdicts"], result["details"], strict=False)
        if verdict == Verdict.INVALID_SOLUTION
    )
    every = [result for line in lines for result in line["results"]]
    names = {} if own["set"]["private"] else {result["puzzle"]: result["name"] for result in every}
    return Told(names, dict(rules.most_common()))


def result_tables(own: dict[str, Any], told: Told | None = None) -> str:
    """A benchmark's results as Markdown: scores, what they depend on, groups, verdicts."""
    parts = result_parts(own, told or Told())
    return "\n\n".join(part if isinstance(part, str) else part.markdown() for part in parts) + "\n"


def result_parts(own: dict[str, Any], told: Told) -> list[str | Table]:
    """A benchmark's results as paragraphs and tables."""
    chosen, settings = own["set"], own["settings"]
    seeds = len(settings["seeds"])
    candidates = settings["samples_per_puzzle"] * seeds
    parts: list[str | Table] = [
        f"# {own['model']['path']} on {chosen['name']}",
        score_table([own]),
        f"Brackets are 95 % intervals over puzzles like these. {_detectable(own)}",
        "\n".join(f"- {line}" for line in _conditions(own, candidates, told)),
        _verdict_table(own, told),
    ]
    for kind, groups in own["by"].items():
        if len(groups) > 1:
            parts.append(_group_table(kind.replace("_", " "), groups))
    return parts


def score_table(results: Sequence[dict[str, Any]]) -> Table:
    """pass@k of models on one set, with 95 % intervals."""
    ks = list(results[0]["scores"])
    rows = [
        [
            own["model"]["path"],
            *(score_cell(own["scores"][k]) for k in ks),
            f"{own['solved']} of {len(own['per_puzzle']) - len(own['errata'])}",
            _number(own["cost"]["tokens_per_solved_puzzle"]),
            _number(own["cost"]["seconds_per_solved_puzzle"]),
        ]
        for own in results
    ]
    scores = [Column(k, rank=0 if place == 0 else 1) for place, k in enumerate(ks)]
    columns = [Column("model", least=12), *scores, Column("solved"), Column("tokens / solved", rank=4),
               Column("seconds / solved", rank=3)]  # fmt: skip
    return Table(columns, rows)


def score_cell(score: dict[str, Any]) -> str:
    """A stored score as `.123 [.045, .201]`."""
    return interval([score["value"], score["low"], score["high"]])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _detectable(own: dict[str, Any]) -> str:
    least = {name: score["detectable_difference"] for name, score in own["scores"].items()}
    if None in least.values():
        return "A comparison on a set this small finds no difference at all."
    shown = ", ".join(f"{name} {value:.3f}" for name, value in least.items())
    return f"A comparison on this set with so many candidates finds differences of {shown}, at best."


def _conditions(own: dict[str, Any], candidates: int, told: Told) -> list[str]:
    """What the scores depend on, a line each."""
    chosen, settings, model, references = own["set"], own["settings"], own["model"], own["set"]["references"]
    seeds = ", ".join(map(str, settings["seeds"]))
    rest = chosen["in_file"] - chosen["puzzles"]
    first = f", the first of each problem ({rest} more in the file)" if rest else ""
    if "limit" in chosen:
        first = f", a part of the {chosen['in_file']} in the file (--limit {chosen['limit']})"
    refused = ", ".join(f"{told.named(puzzle)} {verdict}" for puzzle, verdict in references["refused"].items())
    lines = [
        f"{chosen['puzzles']} puzzles of {chosen['path']} (hash {chosen['hash']}){first}, "
        f"{candidates} candidates each, seed {seeds}",
        f"protocol {own['protocol']} ({own['protocol_from']}){_prompts(own)}, {len(own['shots'])} shots, "
        f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, "
        f"at most {settings['max_tokens']} tokens",
        f"model hash {model['checkpoint']}, {model['dtype']} on {model['device']}, {settings['batch_rows']} rows; "
        + ", ".join(f"{name} {version}" for name, version in own["versions"].items()),
        f"sandbox tier {own['sandbox']['tier']}, {own['limits']['cpu_seconds']:g} s of CPU time",
        f"the set's own solutions: {references['accepted']} accepted, {references['none']} puzzles have none"
        + (f", refused: {refused}" if refused else ""),
    ]  # fmt: skip
    if "engine_reason" in model:
        lines.append(f"sampled in a slower way, {model['engine']}: {model['engine_reason']}")
    lines += _servers(own)
    lines += _contamination(own, told)
    machine = own["machine"]
    if machine["retried"] or machine["judged_again"]:
        lines.append(
            f"the machine: {machine['retried']} judgings tried again, {machine['judged_again']} limits judged again "
            f"alone, {machine['changed']} of them came out otherwise"
        )
    if len(settings["seeds"]) > 1:
        spread = [f"{name} {', '.join(f'{v:.3f}' for v in score['by_seed'])}" for name, score in own["scores"].items()]
        lines.append(f"by seed: {'; '.join(spread)}")
    lines += [f"{name} is left out, it is no puzzle: {why}" for name, why in chosen.get("not_puzzles", {}).items()]
    lines += [f"shot {puzzle} was refused: {reason}" for puzzle, reason in own["shots_refused"].items()]
    wrong = own["errata"].items()
    return lines + [f"puzzle {told.named(puzzle)} is left out, it is wrong: {reason}" for puzzle, reason in wrong]


def _prompts(own: dict[str, Any]) -> str:
    """What is said of prompts that are not the protocol's own."""
    prompt_format = kept_format(own)
    return "" if prompt_format.is_own else f", prompts {prompt_format.hash}"


def _servers(own: dict[str, Any]) -> list[str]:
    """What is unusual about the servers that sampled."""
    model, lines = own["model"], []
    if left_out := model.get("left_out"):
        lines.append(f"not sent to the server: {', '.join(left_out)}")
    if renamed := model.get("renamed"):
        lines.append(f"sent under another name: {', '.join(f'{name} as {sent}' for name, sent in renamed.items())}")
    if "proof" in model:
        lines.append(f"the proof that the server samples, and with the right weights: {model['proof']}")
    if model.get("one_by_one"):
        lines.append("the server refused requests of several candidates, so each had its own")
    if untold := own.get("not_told"):
        told = ", ".join(f"{name.replace('_', ' ')} in {count}" for name, count in untold.items())
        lines.append(f"not told by the server: {told} of the candidates")
    if again := own["machine"].get("asked_again"):
        lines.append(f"requests sent again after a failure: {again}")
    return lines


def _contamination(own: dict[str, Any], told: Told) -> list[str]:
    found = own["contamination"]
    if found is None:
        return ["what the model was trained on is not known; --trained-on looks for puzzles near these"]
    looked = f"{found['puzzles']} puzzles it was trained on ({found['trained_on']})"
    if not found["near"]:
        return [f"none is near one of the {looked}"]
    unseen = own["scores_unseen"] or {}
    scores = ", ".join(f"{name} {interval(score)}" for name, score in unseen.items())
    lines = [f"{len(found['near'])} are near one of the {looked}" + (f"; without them {scores}" if scores else "")]
    return lines + [
        f"puzzle {told.named(puzzle)} is near one it was trained on: {hit}" for puzzle, hit in found["near"].items()
    ]


def _verdict_table(own: dict[str, Any], told: Told) -> Table:
    total = sum(own["verdicts"].values())
    counts = []
    for verdict, count in own["verdicts"].items():
        counts.append((verdict, count))
        if verdict == Verdict.INVALID_SOLUTION:
            counts += [(f"{verdict}: {rule}", number) for rule, number in told.rules.items()]
    counts.append(("(met the token limit)", own["truncated"]))
    rows = [[name, str(count), f"{count / total:.1%}"] for name, count in counts]
    return Table([Column("verdict"), Column("candidates"), Column("share")], rows)


def _group_table(kind: str, groups: dict[str, Any]) -> Table:
    ks = [name for name in next(iter(groups.values())) if name.startswith("pass@")]
    rows = [
        [name, str(group["puzzles"]), str(group["solved"]), *(interval(group[k]) for k in ks)]
        for name, group in groups.items()
    ]
    scores = [Column(k, rank=0 if place == 0 else 1) for place, k in enumerate(ks)]
    return Table([Column(kind, least=16), Column("puzzles"), Column("solved"), *scores], rows)
