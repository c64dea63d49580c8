"""A run as one HTML file that opens from disk without a network: its scores, its loop, its puzzles and their cost.

Puzzles and solutions may be hostile text. The template escapes them, and the page allows only its own script and style,
by their hashes. Without scripts the page still shows everything, only without filters.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import zip_longest
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from puzzles.archive import trends
from puzzles.archive.catalogue import Filter, history, outcomes, page_of, refused_imports
from puzzles.archive.formats import read_errata
from puzzles.archive.store import QUARANTINED, Archive
from puzzles.foreign import MOST_TOML_BYTES, read_bytes
from puzzles.puzzle import InputError
from selfplay.config import RunConfig
from selfplay.experiments.ablate import arms_beside
from selfplay.inspecting import markup, panels
from selfplay.inspecting.story import refused_texts
from selfplay.run.rundir import SET_NAMES as SETS
from selfplay.run.rundir import RunDir
from selfplay.sampling.cost import record_seconds
from selfplay.scoring.compare import SIGNIFICANT, difference
from selfplay.scoring.evaluate import counts_of, read_chunks
from selfplay.scoring.metrics import pass_at_k
from selfplay.settings import load
from selfplay.text import fraction, signed

LISTS = {"newest": "newest", "hardest": "hardest solved", "varied": "most varied", "used": "most used as parents"}
"""The page's lists of selected puzzles, with their titles."""
PUZZLES_PER_LIST = 60
MOST_PUZZLES = 600
SOLUTIONS_PER_PUZZLE = 4
"""Solutions shown per puzzle, the shortest first."""
CHARACTERS = 4_000
"""Most characters of any text. A longer one is cut, with a note."""
REFUSED_SHOWN = 60
"""Most refused proposals, and most refused imports."""
MOST_BYTES = 3_500_000
"""Most bytes of all puzzles. With charts and tables the page stays below 5 MB."""


def report(rundir: RunDir, others: Sequence[RunDir] = ()) -> str:
    """The page of a run, which may still be going on.

    Args:
        rundir: The run.
        others: Runs whose scores are drawn beside its own. The arms of its ablation always are.

    Raises:
        InputError: There is no run in one of these folders.
    """
    for each in (rundir, *others):
        if not each.config.is_file() or not each.archive.is_file():
            raise InputError(f"{each.path}: expected a run's folder with config.toml and archive.sqlite")
    config, records = load(rundir.config), rundir.read_records()
    beside = _named(rundir, others)
    runs = {name: panels.some(each.read_records()) for name, each in beside.items()}
    counted = {set_name: _counted(beside, scored) for scored, set_name in SETS.items()}
    with Archive(rundir.archive) as archive:
        drawn = {
            "Scores": [
                *panels.scores(runs, are_arms=not others),
                *(panel for set_name, own in counted.items() for panel in panels.over_tries(set_name, own)),
            ],
            "Training": [*panels.training(runs)],
            "From proposals to pairs": [*panels.loop(panels.some(records), archive)],
            "The puzzles": [*panels.puzzles(archive), *panels.differing(panels.some(records))],
            "Cost": [*panels.costs(panels.some(records))],
        }
        return rendered(
            "report.html",
            name=", ".join([rundir.path.absolute().name, *(each.path.absolute().name for each in others)]),
            place=shlex.quote(str(rundir.path)), sentence=_sentence(config, records, counted),
            headline=_headline(records), facts=_facts(rundir, config, records, archive),
            sections={title: own for title, all_ in drawn.items() if (own := [p for p in all_ if not p.is_empty])},
            lists=LISTS, cards=[*_cards(archive)], refused=_refused(archive), most_refused=REFUSED_SHOWN,
            puzzles=archive.query("SELECT count(*) FROM puzzles")[0][0],
            settings=read_bytes(rundir.config, MOST_TOML_BYTES).decode("utf-8", "replace"),
        )  # fmt: skip


def _named(rundir: RunDir, others: Sequence[RunDir]) -> dict[str, RunDir]:
    """The runs of the charts by different names, the reported one first."""
    if others:
        named = {each.path.absolute(): each for each in (rundir, *others)}
        names = [path.name for path in named]
        return {
            path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}": each
            for path, each in named.items()
        }
    return {rundir.path.absolute().name: rundir} | arms_beside(rundir)


def _counted(runs: Mapping[str, RunDir], scored: str) -> dict[str, panels.Counts]:
    """The counts of the last scored iteration of each run on one set, and those of the first run's base before them."""
    found: dict[str, panels.Counts] = {}
    for number, (name, rundir) in enumerate(runs.items()):
        scores = [record["iteration"] for record in rundir.read_records() if scored in record]
        for iteration in dict.fromkeys([*(() if number else scores[:1]), *scores[-1:]]):
            label = f"iteration {iteration}" if len(runs) == 1 else f"{name}, {iteration}"
            with contextlib.suppress(
                InputError
            ):  # of candidates that cannot be read, the records still tell the scores
                counts = counts_of(read_chunks(rundir.samples(iteration, scored)))
                found |= {label: counts} if counts else {}
    wrong = read_errata()
    return {
        label: {puzzle: own for puzzle, own in counts.items() if puzzle not in wrong} for label, counts in found.items()
    }


def page_policy(style: str) -> str:
    """What the page's Content-Security-Policy allows: its own style and script alone."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(_file('report.js'))}';"
        " base-uri 'none'; form-action 'none'"
    )


def policy() -> str:
    """The Content-Security-Policy of every report."""
    return page_policy(_style())


def _style() -> str:
    return _file("report.css") + _colours_of_code()


def rendered(template: str, **content: Any) -> str:
    """A page that a template of reports makes, with its style, its script, and the policy that allows these alone."""
    style = _style()
    return environment().get_template(template).render(
        **content, policy=Markup(page_policy(style)), style=Markup(style), script=Markup(_file("report.js")),
    )  # fmt: skip


def environment() -> Environment:
    """The templates of reports, which cut what is too long."""
    made = markup.environment("reporting")
    made.filters["cut"] = _cut
    return made


def _file(name: str) -> str:
    return (resources.files("selfplay.inspecting") / "reporting" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _sentence(
    config: RunConfig, records: Sequence[Mapping[str, Any]], counted: Mapping[str, Mapping[str, panels.Counts]]
) -> str:
    """The result in a sentence or two: the last score on held-out, or on dev, beside the one that it began with."""
    scored = next((name for name in reversed(SETS) if any(name in record for record in records)), None)
    if scored is None:
        return ""
    having = [record for record in records if scored in record]
    first, last = having[0], having[-1]
    k = next(key for key in last[scored] if key.startswith("pass@"))
    after, tries = last["iteration"], k.removeprefix("pass@")
    way = "at the first try" if tries == "1" else f"in {tries} tries"
    told = f"solves {fraction(last[scored][k][0])} of the {SETS[scored]} puzzles {way} ({k})"
    if first is last or k not in first[scored]:
        return f"{config.model.path} {told}."
    iterations = "1 iteration" if after == 1 else f"{after} iterations"
    before = fraction(first[scored][k][0])
    since = f"After {iterations} {config.model.path} {told}; it began with {before}."
    own = [*counted[SETS[scored]].values()][:2]
    puzzles = [puzzle for puzzle in own[0] if puzzle in own[1]] if len(own) == 2 else []
    if not puzzles:
        return since
    counts_2_P_2 = np.array([[each[puzzle] for puzzle in puzzles] for each in own])
    before_P, after_P = (pass_at_k(counts_P_2[:, 0], counts_P_2[:, 1], int(tries)) for counts_P_2 in counts_2_P_2)
    one = difference(int(tries), before_P, after_P)
    sure = "These puzzles show no significant change" if one.p >= SIGNIFICANT else "The change is significant"
    return f"{since} {sure}: {signed(one.difference)}, p = {one.p:.2g}."


def _headline(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The main numbers of a run: the first pass@k on each set before and after, iterations, pairs and minutes."""
    if not records:
        return []
    found = []
    for scored, set_name in SETS.items():
        own = [record[scored] for record in records if scored in record]
        k = next((key for key in own[-1] if key.startswith("pass@")), "") if own else ""
        values = [fraction(score[k][0]) for score in own if k in score]
        if values:
            found.append((f"{set_name} {k}", " → ".join(dict.fromkeys((values[0], values[-1])))))
    return [
        *found,
        ("iterations", str(records[-1]["iteration"])),
        ("pairs", f"{records[-1]['pairs']:,}"),
        ("minutes", f"{sum(map(record_seconds, records)) / 60:,.0f}"),
    ]


def _facts(rundir: RunDir, config: RunConfig, records: Sequence[Mapping[str, Any]], archive: Archive) -> dict[str, str]:
    """The conditions that the numbers depend on."""
    facts = {
        "state": f"{rundir.state(config.iterations)}, iteration {max(0, len(records) - 1)} of {config.iterations}",
        "model": config.model.path, "seed": str(config.seed),
        "this page": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }  # fmt: skip
    if records:
        last = records[-1]
        sampler = last["sampler"]
        versions = [f"{name} {version}" for name, version in sampler.get("versions", {}).items()]
        facts["checkpoint"] = f"{last['checkpoint']}, protocol {last['protocol']}"
        facts["sampled with"] = ", ".join([*versions, *(f"{n} {v}" for n, v in sampler.items() if n != "versions")])
    tiers = archive.query("SELECT DISTINCT json_extract(content, '$.tier') FROM protections ORDER BY 1")
    facts["sandbox"] = ", ".join(f"tier {tier}" for (tier,) in tiers) or "nothing has been judged yet"
    facts["too near to dev or held-out"] = f"{len(archive.contamination())} puzzles in the archive"
    facts["in quarantine"] = f"{archive.query(f'SELECT count(*) FROM puzzles p WHERE {QUARANTINED}')[0][0]} puzzles"
    return facts


# ---- selected puzzles ----


def _refused(archive: Archive) -> dict[str, Any]:
    """The newest proposals that were refused, with their texts, and the imported texts that were."""
    number = sum(outcomes(archive, "propose", refused=True).values())
    return {
        "proposals": refused_texts(archive, "propose", limit=REFUSED_SHOWN), "number": number,
        "imports": refused_imports(archive, REFUSED_SHOWN),
        "imports_number": archive.query("SELECT count(*) FROM refusals")[0][0],
    }  # fmt: skip


def _cards(archive: Archive) -> Iterator[Markup]:
    """The puzzles of the lists, then their ancestors, as long as there is room."""
    lists, render = _lists(archive), environment().get_template("card.html").render
    places: dict[str, dict[str, int]] = {}
    for name, ids in lists.items():
        for place, identifier in enumerate(ids):
            places.setdefault(identifier, {})[name] = place
    ids = [identifier for row in zip_longest(*lists.values()) for identifier in row if identifier]
    shown = _with_ancestors(archive, ids)
    children, aside = trends.children(archive, {*shown}), {*archive.puzzle_ids(QUARANTINED)}
    size = 0
    for identifier in shown:
        puzzle = _told(archive, identifier)
        html = render(
            puzzle=puzzle, places=places.get(identifier, {}), children=children.get(identifier, []),
            aside=identifier in aside,
        )  # fmt: skip
        if size + len(html.encode()) <= MOST_BYTES:
            size += len(html.encode())
            yield Markup(html)


def _with_ancestors(archive: Archive, ids: Sequence[str]) -> list[str]:
    """These puzzles, then their parents, the parents' parents and so on; at most MOST_PUZZLES."""
    shown: dict[str, None] = {}
    waiting = list(ids)
    while waiting and len(shown) < MOST_PUZZLES:
        shown |= dict.fromkeys(waiting)
        parents = archive.query(
            "SELECT DISTINCT p.id FROM puzzles u, json_each(u.parents) j JOIN puzzles p ON p.id = j.value"
            f" WHERE u.id IN ({', '.join('?' for _ in waiting)}) ORDER BY p.number",
            *waiting,
        )
        waiting = [row["id"] for row in parents if row["id"] not in shown]
    return list(shown)[:MOST_PUZZLES]


def _lists(archive: Archive) -> dict[str, list[str]]:
    def ids(chosen: Filter, order: str) -> list[str]:
        return [
            row["puzzle"] for row in page_of(archive, chosen, order, PUZZLES_PER_LIST) if order != "hardest" or row["c"]
        ]

    solved = Filter(state="solved")
    return {
        "newest": ids(Filter(origin="model", state="solved"), "newest"), "hardest": ids(solved, "hardest"),
        "varied": ids(solved, "varied"), "used": trends.most_used(archive, PUZZLES_PER_LIST),
    }  # fmt: skip


def _told(archive: Archive, identifier: str) -> dict[str, Any]:
    """A puzzle for the page: its row, its shortest solutions, and the verdicts on its candidates."""
    puzzle = history(archive, identifier)
    verdicts = puzzle["candidates by verdict"]
    return {
        **puzzle, "n": sum(verdicts.values()), "c": verdicts.get("accepted", 0), "verdicts": verdicts,
        "shown": puzzle["solutions"][:SOLUTIONS_PER_PUZZLE], "gist": _gist(puzzle["source"]),
    }  # fmt: skip


def _gist(source: str) -> str:
    """The condition of a puzzle: the last line of its function."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return lines[-1].removeprefix("return ")[:160] if lines else ""


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}\n# … {len(text) - CHARACTERS:,} characters more"


def _colours_of_code() -> str:
    """Style rules for code, for light and for dark pages."""
    light, dark = (HtmlFormatter(style=name).get_token_style_defs(".code") for name in ("xcode", "github-dark"))
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}", ""])
