"""A run as one HTML file that opens from disk without a network: its scores, its loop, its puzzles and their cost.

Puzzles and solutions may be hostile text. The template escapes them, and the page allows only its own script and style,
by their hashes. Without scripts the page still shows everything, only without filters.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import zip_longest
from typing import Any

from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from puzzles.archive import trends
from puzzles.archive.catalogue import Filter, history, page_of
from puzzles.archive.store import QUARANTINED, Archive
from puzzles.foreign import MOST_TOML_BYTES, read_bytes
from puzzles.puzzle import InputError
from selfplay.config import RunConfig
from selfplay.experiments.ablate import arms_beside
from selfplay.inspecting import markup, panels
from selfplay.run.rundir import SET_NAMES as SETS
from selfplay.run.rundir import RunDir
from selfplay.sampling.cost import record_seconds
from selfplay.settings import load
from selfplay.text import fraction

LISTS = {"newest": "newest", "hardest": "hardest solved", "varied": "most varied", "used": "most used as parents"}
"""The page's lists of selected puzzles, with their titles."""
PUZZLES_PER_LIST = 60
MOST_PUZZLES = 600
SOLUTIONS_PER_PUZZLE = 4
"""Solutions shown per puzzle, the shortest first."""
CHARACTERS = 4_000
"""Most characters of any text. A longer one is cut, with a note."""
MOST_BYTES = 3_500_000
"""Most bytes of all puzzles. With charts and tables the page stays below 5 MB."""


def report(rundir: RunDir) -> str:
    """The page of a run, which may still be going on.

    Raises:
        InputError: There is no run in this folder.
    """
    if not rundir.config.is_file() or not rundir.archive.is_file():
        raise InputError(f"{rundir.path}: expected a run's folder with config.toml and archive.sqlite")
    config, records = load(rundir.config), rundir.read_records()
    runs = {rundir.path.absolute().name: records} | {
        name: arm.read_records() for name, arm in arms_beside(rundir).items()
    }
    environment = markup.environment("reporting")
    environment.filters["cut"] = _cut
    style = _file("report.css") + _colours_of_code()
    settings = read_bytes(rundir.config, MOST_TOML_BYTES).decode("utf-8", "replace")
    with Archive(rundir.archive) as archive:
        drawn = {
            "Scores": [*panels.scores({name: panels.some(own) for name, own in runs.items()})],
            "From proposals to pairs": [*panels.loop(panels.some(records), archive)],
            "The puzzles": [*panels.puzzles(archive), *panels.differing(panels.some(records))],
            "Cost": [*panels.costs(panels.some(records))],
        }
        cards = [*_cards(archive, environment.get_template("card.html").render)]
        return environment.get_template("report.html").render(
            name=rundir.path.absolute().name, place=shlex.quote(str(rundir.path)), headline=_headline(records),
            facts=_facts(rundir, config, records, archive),
            sections={title: found for title, found in drawn.items() if found}, lists=LISTS, cards=cards,
            puzzles=archive.query("SELECT count(*) FROM puzzles")[0][0], settings=settings,
            style=Markup(style), script=Markup(_file("report.js")),
            hashes=[_hash(style), _hash(_file("report.js"))],
        )  # fmt: skip


def _file(name: str) -> str:
    return (resources.files("selfplay.inspecting") / "reporting" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


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


def _cards(archive: Archive, render: Callable[..., str]) -> Iterator[Markup]:
    """The puzzles of the lists, then their ancestors, as long as there is room."""
    lists = _lists(archive)
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
