"""Records and scores as text tables for the terminal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfplay.commands.terminal import one_line
from selfplay.sampling import cost
from selfplay.sampling.cost import STAGES, record_seconds

if TYPE_CHECKING:
    from puzzles.archive.formats import ImportReport
    from selfplay.experiments.ablate import Ablation, ArmScores, Contrast
    from selfplay.experiments.forecast import Forecast
    from selfplay.experiments.replay import Replay
    from selfplay.experiments.scaling import Plan
    from selfplay.inspecting.story import Story
    from selfplay.iteration.champion import League
    from selfplay.scoring.metrics import Score


def render(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns, the first row a heading; columns listed in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def fraction(number: float) -> str:
    """`.123`, `1.00`"""
    return f"{number:.3f}".removeprefix("0")[:4]


def interval(score: Sequence[float]) -> str:
    """`.123 [.045, .201]`"""
    value, low, high = map(fraction, score)
    return f"{value} [{low}, {high}]"


def signed(score: Score) -> str:
    """`+.012 [-.026, +.050]`"""
    value, low, high = (f"{number:+.3f}".replace("0.", ".", 1) for number in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"


SETS = {"dev": "dev", "heldout": "held-out"}
"""The scored sets as people call them."""
RECORD_COLUMNS = (
    ("iteration", 9), ("proposed", 8), ("admitted", 8), ("solved", 6), ("train solved", 12), ("new pairs", 9),
    ("pairs", 6), ("loss", 5),
)  # fmt: skip


def record_heading(record: dict[str, Any]) -> str:
    """The heading over `record_row`s."""
    cells = [name.rjust(width) for name, width in RECORD_COLUMNS]
    ks = [key for key in record["dev"] if key.startswith("pass@")]
    cells += [f"dev {ks[0]}".rjust(17)] + [f"held-out {key}".rjust(18) for key in dict.fromkeys((ks[0], ks[-1]))]
    return "  ".join([*cells, "seconds"])


def record_row(record: dict[str, Any]) -> str:
    """One iteration of a run, as recorded."""
    loss = record["training"].get("last_loss")
    values = [
        record["iteration"], record["proposed"], record["admitted"], record["solved"], record["training_solved"],
        record["new_pairs"], record["pairs"], "-" if loss is None else f"{loss:.3f}",
    ]  # fmt: skip
    cells = [str(value).rjust(width) for value, (_, width) in zip(values, RECORD_COLUMNS, strict=True)]
    ks = [key for key in record["dev"] if key.startswith("pass@")]
    cells.append(interval(record["dev"][ks[0]]).rjust(17))
    heldout = record.get("heldout")
    cells += [(interval(heldout[key]) if heldout else "-").rjust(18) for key in dict.fromkeys((ks[0], ks[-1]))]
    return "  ".join([*cells, f"{record_seconds(record):7.0f}"])


FORECAST_NOTE = "Expected of the model as it is: what training makes of it may propose, solve and write more or less."
COST_COLUMNS = ("", "texts", "tokens", "prompt tokens", "tokens/s", "seconds", "CPU s", "judging s", "CPU s", "of peak")


def cost_table(records: Sequence[dict[str, Any]]) -> str:
    """What the stages of a run have cost, all iterations together; `of peak` is the model's arithmetic."""
    rows = [list(COST_COLUMNS)]
    for stage in STAGES:
        done = [(r["cost"][stage], r["times"]["stages"][stage]) for r in records if stage in r.get("cost", {})]
        if done:
            rows.append([stage, *_cost_cells(done)])
    return render(rows, right=range(1, len(COST_COLUMNS)))


def _cost_cells(done: Sequence[tuple[dict[str, Any], dict[str, float]]]) -> list[str]:
    counted = ("texts", "tokens", "prompt_tokens")
    texts, tokens, prompt_tokens = (sum(cost[name] for cost, _ in done) for name in counted)
    names = ("model_seconds", "model_cpu_seconds", "judging_seconds", "judging_cpu_seconds")
    model, model_cpu, judging, judging_cpu = (sum(times[name] for _, times in done) for name in names)
    possible = sum(times["model_seconds"] * times.get("peak_flops_per_second", 0) for _, times in done)
    share = f"{sum(cost.get('flops', 0) for cost, _ in done) / possible:.0%}" if possible else "-"
    rate = f"{tokens / model:,.0f}" if model else "-"
    return [
        f"{texts:,}", f"{tokens:,}", f"{prompt_tokens:,}", rate, f"{model:.1f}", f"{model_cpu:.1f}", f"{judging:.1f}",
        f"{judging_cpu:.1f}", share,
    ]  # fmt: skip


def forecast(expected: Forecast) -> str:
    """What a run is expected to cost, all its iterations together and each."""
    arithmetic = expected.arithmetic
    peaks = {} if arithmetic is None else dict.fromkeys(STAGES, arithmetic.peak_flops_per_second)
    peaks.pop("train", None)  # in a dtype of its own
    records = [
        {"cost": cost.counts(costs, arithmetic), "times": {"stages": cost.times(costs, peaks)}}
        for costs in expected.iterations
    ]
    by_iteration = [cost.total(costs.values()) for costs in expected.iterations]
    seconds = [each.model_seconds + each.judging_seconds for each in by_iteration]
    tokens = sum(each.tokens for each in by_iteration)
    rows = [["", "seconds"], ["start", f"{expected.start_seconds:,.0f}"]]
    rows += [[f"iteration {number}", f"{value:,.0f}"] for number, value in enumerate(seconds)]
    rows.append(["in all", f"{expected.start_seconds + sum(seconds):,.0f}"])
    size = f"{tokens:,} tokens sampled and trained on, {expected.archive_bytes / 1e6:,.1f} MB of archive."
    return f"{cost_table(records)}\n\n{render(rows, right=[1])}\n\n{size}\n{FORECAST_NOTE}"


PLAN_NOTE = (
    "Of the last iteration. A worker is a machine like this one (`run --shard`), a GPU a device such as this one\n"
    "trains on (`torchrun`). Divided are sampling and judging, by whole chunks, and training; not start-up, copying,\n"
    "planning, varying, merging and scoring. What workers say to each other in training is left out."
)


def plans(made: Sequence[Plan]) -> str:
    """Iterations of other numbers of workers beside each other."""
    heading = ["workers", "GPUs", "seconds", "bottleneck", "of it", "workers' hours", "GPUs' hours", "tokens", "price"]
    rows = [
        [
            f"{each.workers:,}", f"{each.gpus:,}", f"{each.total_seconds:,.0f}", each.bottleneck,
            f"{each.seconds[each.bottleneck] / (each.total_seconds or 1):.0%}", f"{each.worker_hours:,.2f}",
            f"{each.gpu_hours:,.2f}", f"{each.tokens:,}", f"{each.price:,.2f}",
        ]
        for each in made
    ]  # fmt: skip
    return f"{render([heading, *rows], right=[0, 1, 2, 4, 5, 6, 7, 8])}\n\n{PLAN_NOTE}"


def ablation_table(ablation: Ablation, done: Sequence[ArmScores], contrasts: Sequence[Contrast]) -> str:
    """As Markdown: by set, what each arm scored and its difference to the control; then by iteration; then the guard.

    Scores are means over the seeds, differences of these means and of each seed; the first k decides, and its p is of
    these very models: how training differs from seed to seed shows in the rows of the seeds.
    """
    runs = {arm: [item for item in done if item.arm == arm] for arm in ablation.arms}
    parts = []
    for scored, name in SETS.items():
        ks = [f"pass@{k}" for k in ablation.ks]
        base = [item.records[0] for item in runs[ablation.control]]
        rows = [["base", "0", "-", "-", *_means(base, scored, ks)]]
        for arm, own in runs.items():
            last = [item.records[-1] for item in own]
            trained = [(r["training"].get("steps", 0), r["training"].get("tokens", 0)) for r in last]
            steps, tokens = (_range(column) for column in zip(*trained, strict=True))
            rows.append([arm, str(last[0]["iteration"]), steps, tokens, *_means(last, scored, ks)])
        parts.append(markdown([name, "iteration", "steps", "tokens", *ks], rows))
        parts.append(_difference_table(ablation.control, [each for each in contrasts if each.scored == scored]))
    parts.append(_iteration_table(ablation, runs))
    seeds = [f"seed {seed}" for seed in ablation.seeds]
    rows = [[arm, *(f"{len(item.contaminated)} of {item.examined:,}" for item in own)] for arm, own in runs.items()]
    parts.append(markdown(["archived puzzles too near to dev or held-out", *seeds], rows))
    return "\n\n".join(part for part in parts if part)


def _means(records: Sequence[dict[str, Any]], scored: str, ks: Sequence[str]) -> list[str]:
    scores = [record[scored] for record in records if scored in record]
    if len(scores) < len(records):
        return ["-"] * len(ks)
    return [fraction(statistics.mean(score[k][0] for score in scores)) for k in ks]


def _range(values: Sequence[int]) -> str:
    """`300`, `1,200 to 1,300`"""
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)}))


def _difference_table(control: str, contrasts: Sequence[Contrast]) -> str:
    rows = []
    for contrast in contrasts:
        named = [(f"{contrast.arm} - {control}", contrast.pooled)]
        if len(contrast.by_seed) > 1:
            named += [(f"seed {seed}", differences) for seed, differences in contrast.by_seed.items()]
        for name, differences in named:
            for number, each in enumerate(differences):
                ratio = f"{each.second / each.first:.2f}" if each.first else "-"
                p = "" if number else f"{each.p:.4f}"
                rows.append([name, f"pass@{each.k}", ratio, signed(each.difference), p])
    return markdown(["difference", "", "ratio", "difference [95 %]", "p of these models"], rows)


def _iteration_table(ablation: Ablation, runs: dict[str, list[ArmScores]]) -> str:
    """Whether the arms with several iterations still rise; empty if there is none."""
    ks = [f"pass@{k}" for k in ablation.shown_ks]
    rows = []
    for arm, own in runs.items():
        for same in zip(*(item.records for item in own), strict=True) if len(own[0].records) > 2 else ():
            means = [cell for scored in SETS for cell in _means(same, scored, ks)]
            rows.append([arm, str(same[0]["iteration"]), *means])
    head = ["arm", "iteration", *(f"{name} {k}" for name in SETS.values() for k in ks)]
    return markdown(head, rows) if rows else ""


NO_CHAMPION = "\nThe run itself did not go on from these champions: that is what `gate = true` is for."
LEAGUE_NOTE = "Champions are chosen by these puzzles, so their scores here are too good: report them on held-out."


def league_table(league: League) -> str:
    """Each checkpoint's score on dev and when it reigned, then each beside each; p as of one test, and of all."""
    from selfplay.iteration.champion import LEVEL  # which needs numpy, and most tables do not

    rows = [["iteration", "checkpoint", "dev pass@1", "solved", "reigned"]]
    for own in league.standings:
        score = interval((own.score.value, own.score.low, own.score.high))
        reigned = f"after {_range(own.reigned)}" if own.reigned else "-"
        rows.append([str(own.iteration), own.checkpoint, score, str(own.solved), reigned])
    parts = [render(rows, right=[0, 2, 3])]
    if league.matches:
        beside = [["iteration", "minus", "pass@1 [95 %]", "won", "lost", "drawn", "p", "p of all"]]
        for each, adjusted in zip(league.matches, league.adjusted_p, strict=True):
            puzzles = map(str, (each.won, each.lost, each.drawn))
            p = (f"{each.difference.p:.2g}", f"{adjusted:.2g}")
            beside.append([str(each.second), str(each.first), signed(each.difference.difference), *puzzles, *p])
        parts.append(render(beside, right=range(len(beside[0]))))
    champions = {iteration: own.iteration for own in league.standings for iteration in own.reigned}
    followed = all(champions[iteration] == number for iteration, number in enumerate(league.sampled_from))
    parts.append(
        f"{league.puzzles} puzzles of dev, {league.samples_per_puzzle} candidates each. To reign a checkpoint must be "
        f"better than the champion with p/2 <= {LEVEL:g}.\n{LEAGUE_NOTE}{'' if followed else NO_CHAMPION}"
    )
    return "\n\n".join(parts)


def story(told: Story, shown: Callable[[str], str]) -> str:
    """A puzzle's story for the terminal; `shown` makes a source safe and perhaps coloured."""
    puzzle, came = told.puzzle, told.came
    parts = [f"puzzle {puzzle['id']}, {puzzle['origin']}, {one_line(puzzle['answer_type'])}", shown(puzzle["source"])]
    parts.append("# How it came")
    if "chunk" in came:
        parts += _sampled(came, shown)
    elif "original" in came:
        parts += [f"imported as {shown(came['name']) or 'unnamed'}", shown(came["original"])]
    parts.append(f"parents: {', '.join(puzzle['parents']) or 'none'}; parent of {len(told.parent_of)}")
    for solution in told.solutions:
        tier = (solution["protections"] or {}).get("tier", "unknown")
        trained = ", ".join(map(str, solution["trained in iterations"])) or "none"
        parts += [
            f"# Solution {solution['id']}, {solution['origin']}, iteration {solution['iteration']}",
            shown(solution["source"]), f"answer {shown(str(solution['answer']))}",
            f"confirmed {_date(solution['added_at'])} under tier {tier}; trained on in iterations: {trained}",
        ]  # fmt: skip
        parts += _sampled(solution, shown) if "text" in solution else []
    if told.candidates:
        parts.append(f"# Its {len(told.candidates)} candidates")
        rows = [["chunk", "stage", "position", "verdict", "answer", "detail"]]
        rows += [[str(each.get(key, "")) for key in rows[0]] for each in told.candidates]
        parts.append(shown(render([[cell[:60].replace("\n", " ") for cell in row] for row in rows])))
    parts += [f"In quarantine: {one_line(reason)}" for reason in told.quarantine]
    parts += ["# The story is broken", *told.breaks] if told.breaks else []
    return "\n\n".join(parts)


def _sampled(where: Mapping[str, Any], shown: Callable[[str], str]) -> list[str]:
    settings = "".join(f", {key} {value}" for key, value in where["settings"].items() if not isinstance(value, dict))
    parts = [
        f"text {where['position']} of chunk {where['chunk']} ({where['stage']}, iteration {where['iteration']}), "
        f"weights {where['checkpoint']}, seed {where['seed']}{settings}"
    ]
    parts += [f"made by {where['variation']}"] if "variation" in where else []
    parts += ["asked:", shown(where["prompt"])] if where.get("prompt") else []
    return [*parts, "came:", shown(where["text"])] if where.get("text") else parts


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def replay(again: Replay) -> str:
    """One line for a chunk, one for each difference, and what else is not as it was."""
    lines = [
        f"chunk {again.chunk} ({again.stage}, iteration {again.iteration}): {again.texts:,} texts sampled again, "
        f"{again.judged} judged again: {len(again.differences) or 'no'} differences"
    ]
    lines += [f"  {key} was {before}, and is {now}" for key, (before, now) in again.other_conditions.items()]
    return "\n".join([*lines, *(f"  {difference}" for difference in again.differences)])


def imported(report: ImportReport) -> str:
    """What became of an import's puzzles and solutions; then why some were refused, with an example of each reason."""
    kinds = {"puzzle": report.puzzles, "solution": report.solutions}
    outcomes = ("new", "duplicate")
    refused = [
        (what, reason, number)
        for what, counted in kinds.items()
        for reason, number in counted.most_common()
        if reason not in outcomes
    ]
    rows = [["", *(f"{what}s" for what in kinds)]]
    rows += [[outcome, *(f"{counted[outcome]:,}" for counted in kinds.values())] for outcome in outcomes]
    rows.append(["refused", *(f"{sum(number for what, _, number in refused if what == kind):,}" for kind in kinds)])
    if not refused:
        return render(rows, right=[1, 2])
    reasons = [
        [what, reason, f"{number:,}", one_line(report.examples.get((what, reason), ""))]
        for what, reason, number in refused
    ]
    table = render([["refused", "reason", "number", "for example"], *reasons], right=[2])
    return f"{render(rows, right=[1, 2])}\n\n{table}"


def counts(title: str, content: dict[str, int]) -> str:
    """A small two-column table."""
    rows = [[title, ""], *([f"  {one_line(name)}", str(count)] for name, count in content.items())]
    return render(rows, right=[1])


def result_tables(own: dict[str, Any]) -> str:
    """A benchmark's results as Markdown: scores, what they depend on, groups, verdicts."""
    chosen, settings = own["set"], own["settings"]
    seeds = len(settings["seeds"])
    candidates = settings["samples_per_puzzle"] * seeds
    parts = [
        f"# {own['model']['path']} on {chosen['name']}",
        score_table([own]),
        f"Brackets are 95 % intervals over puzzles like these. {_detectable(own)}",
        "\n".join(f"- {line}" for line in _conditions(own, candidates)),
        _verdict_table(own),
    ]
    for kind, groups in own["by"].items():
        if len(groups) > 1:
            parts.append(_group_table(kind.replace("_", " "), groups))
    return "\n\n".join(parts) + "\n"


def score_table(results: Sequence[dict[str, Any]]) -> str:
    """pass@k of models on one set, with 95 % intervals, as a Markdown table."""
    ks = list(results[0]["scores"])
    rows = [
        [
            own["model"]["path"],
            *(_score(own["scores"][k]) for k in ks),
            f"{own['solved']} of {len(own['per_puzzle']) - len(own['errata'])}",
            _number(own["cost"]["tokens_per_solved_puzzle"]),
            _number(own["cost"]["seconds_per_solved_puzzle"]),
        ]
        for own in results
    ]
    return markdown(["model", *ks, "solved", "tokens / solved", "seconds / solved"], rows)


def _score(score: dict[str, Any]) -> str:
    return interval([score["value"], score["low"], score["high"]])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _detectable(own: dict[str, Any]) -> str:
    least = {name: score["detectable_difference"] for name, score in own["scores"].items()}
    if None in least.values():
        return "A comparison on a set this small finds no difference at all."
    shown = ", ".join(f"{name} {value:.3f}" for name, value in least.items())
    return f"A comparison on this set with so many candidates finds differences of {shown}, at best."


def _conditions(own: dict[str, Any], candidates: int) -> list[str]:
    """What the scores depend on, a line each."""
    chosen, settings, model, references = own["set"], own["settings"], own["model"], own["set"]["references"]
    seeds = ", ".join(map(str, settings["seeds"]))
    rest = chosen["in_file"] - chosen["puzzles"]
    first = f", the first of each problem ({rest} more in the file)" if rest else ""
    refused = ", ".join(f"{puzzle} {verdict}" for puzzle, verdict in references["refused"].items())
    lines = [
        f"{chosen['puzzles']} puzzles of {chosen['path']} (hash {chosen['hash']}){first}, "
        f"{candidates} candidates each, seed {seeds}",
        f"protocol {own['protocol']} ({own['protocol_from']}), {len(own['shots'])} shots, "
        f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, "
        f"at most {settings['max_tokens']} tokens",
        f"model hash {model['checkpoint']}, {model['dtype']} on {model['device']}, {settings['batch_rows']} rows; "
        + ", ".join(f"{name} {version}" for name, version in own["versions"].items()),
        f"sandbox tier {own['sandbox']['tier']}, {own['limits']['cpu_seconds']:g} s of CPU time",
        f"the set's own solutions: {references['accepted']} accepted, {references['none']} puzzles have none"
        + (f", refused: {refused}" if refused else ""),
    ]  # fmt: skip
    lines += _contamination(own)
    machine = own["machine"]
    if machine["retried"] or machine["judged_again"]:
        lines.append(
            f"the machine: {machine['retried']} judgings tried again, {machine['judged_again']} limits judged again "
            f"alone, {machine['changed']} of them came out otherwise"
        )
    if len(settings["seeds"]) > 1:
        spread = [f"{name} {', '.join(f'{v:.3f}' for v in score['by_seed'])}" for name, score in own["scores"].items()]
        lines.append(f"by seed: {'; '.join(spread)}")
    lines += [f"shot {puzzle} was refused: {reason}" for puzzle, reason in own["shots_refused"].items()]
    lines += [f"puzzle {puzzle} is left out, it is wrong: {reason}" for puzzle, reason in own["errata"].items()]
    return lines


def _contamination(own: dict[str, Any]) -> list[str]:
    found = own["contamination"]
    if found is None:
        return ["what the model was trained on is not known; --trained-on looks for puzzles near these"]
    looked = f"{found['puzzles']} puzzles it was trained on ({found['trained_on']})"
    if not found["near"]:
        return [f"none is near one of the {looked}"]
    unseen = own["scores_unseen"] or {}
    scores = ", ".join(f"{name} {interval(score)}" for name, score in unseen.items())
    lines = [f"{len(found['near'])} are near one of the {looked}" + (f"; without them {scores}" if scores else "")]
    return lines + [f"puzzle {puzzle} is near one it was trained on: {hit}" for puzzle, hit in found["near"].items()]


def _verdict_table(own: dict[str, Any]) -> str:
    total = sum(own["verdicts"].values())
    rows = [[verdict, str(count), f"{count / total:.1%}"] for verdict, count in own["verdicts"].items()]
    rows.append(["(met the token limit)", str(own["truncated"]), f"{own['truncated'] / total:.1%}"])
    return markdown(["verdict", "candidates", "share"], rows)


def _group_table(kind: str, groups: dict[str, Any]) -> str:
    ks = [name for name in next(iter(groups.values())) if name.startswith("pass@")]
    rows = [
        [name, str(group["puzzles"]), str(group["solved"]), *(interval(group[k]) for k in ks)]
        for name, group in groups.items()
    ]
    return markdown([kind, "puzzles", "solved", *ks], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source is aligned too."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def rescored(before: dict[str, Any], after: dict[str, Any]) -> str:
    """A benchmark's scores before and after, and the puzzles now left out."""
    rows = [
        [name, _score(before["scores"][name]) if name in before["scores"] else "-", _score(score)]
        for name, score in after["scores"].items()
    ]
    left_out = [f"left out: {puzzle}: {reason}" for puzzle, reason in after["errata"].items()]
    return "\n".join([markdown([after["model"]["path"], "before", "after"], rows), *left_out])


def rescored_run(scores: Sequence[tuple[int, str, dict[str, Any], Any]]) -> str:
    """A run's scores as recorded and computed again."""
    rows = [
        [str(number), name, k, interval(recorded[k]) if k in recorded else "-", interval(vars(score).values())]
        for number, name, recorded, again in scores
        for k, score in again.pass_at.items()
    ]
    return markdown(["iteration", "set", "", "recorded", "again"], rows)


def balance(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> str:
    """What pairs to train on are made of (`select.composition`), before they were balanced and after."""
    rows: list[tuple[str, ...]] = [("", "", "pairs", "share", "balanced", "share")]
    for kind, counts in before.items():
        sums = [sum(side[kind].values()) or 1 for side in (before, after)]
        for place, name in enumerate(sorted(counts, key=lambda name: (-counts[name], name))):
            numbers = (counts[name], after[kind].get(name, 0))
            cells = [cell for n, of in zip(numbers, sums, strict=True) for cell in (f"{n:,}", fraction(n / of))]
            rows.append(("" if place else kind, name, *cells))
    return render(rows, right=range(2, 6))
