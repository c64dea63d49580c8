"""`selfplay archive …`: look into archives, fill them, and check what is in them."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError
from selfplay.commands.terminal import (
    RUNS,
    bars,
    command,
    highlighted,
    natural,
    one_line,
    page,
    positive,
    printable,
    proven_pool,
)


def add(options: argparse.Namespace) -> int:
    """`archive import`"""
    from puzzles.archive.formats import import_puzzles, read_puzzles
    from puzzles.archive.store import Archive
    from selfplay import tables
    from selfplay.config import RunConfig, SandboxConfig
    from selfplay.iteration.loop import guard_of, guarded_sets

    raws = read_puzzles(options.file, options.format)
    path = _archive_or_new(options.archive)
    path.parent.mkdir(parents=True, exist_ok=True)
    with proven_pool(SandboxConfig(modules=tuple(options.module or ())), 0) as (pool, protections):
        guard = guard_of(pool, guarded_sets(pool, RunConfig()))
        with Archive(path, guard, create=True) as archive:
            count = bars().counter(len(raws), "import", "puzzle")
            report = import_puzzles(archive, pool, protections, raws, progress=count)
            archive.index()
    print(tables.imported(report))
    if report.examples:
        print(f"\nall of them: selfplay archive list {path} --refused")
    return 0


def archive_path(text: str) -> Path:
    """The file that a path, a run's folder or its name means.

    Raises:
        InputError: There is none.
    """
    for path in (Path(text), Path(text) / "archive.sqlite", RUNS / text / "archive.sqlite"):
        if path.is_file():
            return path
    raise InputError(f"{text}: expected an archive file, a run folder or a run's name below {RUNS}")


def _archive_or_new(text: str) -> Path:
    with contextlib.suppress(InputError):
        return archive_path(text)
    return Path(text)


def _stats(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import stats
    from puzzles.archive.store import Archive
    from selfplay import tables

    with Archive(archive_path(options.archive)) as archive:
        found = stats(archive)
        if options.json:
            print(json.dumps(found))
            return 0
        plain = [[name, f"{value:,}"] for name, value in found.items() if not isinstance(value, dict)]
        parts = [tables.render(plain, right=[1])]
        parts += [
            tables.counts(name, content) for name, content in found.items() if isinstance(content, dict) and content
        ]
        page("\n".join(parts))
        return 0


def _list(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import Filter, number_of, page_of, refused_imports
    from puzzles.archive.store import Archive
    from selfplay import tables

    chosen = Filter(
        options.origin, options.iteration, options.type, options.skill, options.difficulty, options.state,
        options.search,
    )  # fmt: skip
    with Archive(archive_path(options.archive)) as archive:
        if options.refused:
            rows = refused_imports(archive, options.limit, options.offset)
            number = archive.query("SELECT count(*) FROM refusals")[0][0]
        else:
            rows = page_of(archive, chosen, options.sort, options.limit, options.offset)
            number = number_of(archive, chosen)
        if options.json:
            print(json.dumps([dict(row) for row in rows]))
            return 0
        what = "refused texts" if options.refused else "puzzles"
        if not rows:
            print(f"none of {number:,} {what}" if number else f"no {what}")
            return 0
        shown = [[one_line("" if cell is None else str(cell)) for cell in row] for row in rows]
        table = tables.render([rows[0].keys(), *shown])
        last = options.offset + len(rows)
        more = f"\n\n{options.offset + 1:,} to {last:,} of {number:,}; --offset {last} goes on" if last < number else ""
        page(table + more)
        return 0


def _show(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import history
    from puzzles.archive.store import Archive
    from selfplay import tables

    with Archive(archive_path(options.archive)) as archive:
        story = history(archive, options.id)
        if options.json:
            print(json.dumps(story))
            return 0
        facts = (
            "id", "name", "origin", "iteration", "answer_type", "skills", "difficulty", "parents", "chunk", "position",
        )  # fmt: skip
        parts = [tables.render([[key, one_line(str(story[key]))] for key in facts if story[key] not in (None, "", [])])]
        parts.append(f"\n{highlighted(story['source'])}\n")
        for solution in story["solutions"]:
            parts.append(
                f"# {solution['origin']}, iteration {solution['iteration']}: {one_line(str(solution['answer']))}"
            )
            parts.append(f"{highlighted(solution['source'])}\n")
        if story["candidates by verdict"]:
            parts.append(tables.counts("candidates", story["candidates by verdict"]))
        page("\n".join(parts))
        return 0


def _why(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay import tables
    from selfplay.inspecting.story import story
    from selfplay.iteration.loop import known_shots

    with Archive(archive_path(options.archive)) as archive:
        told = story(archive, options.id, known_shots(archive))
        if options.json:
            print(json.dumps(vars(told)))
        else:
            page(tables.story(told, highlighted))
        return 1 if told.breaks else 0


def _replay(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import row_of
    from puzzles.archive.store import Archive
    from selfplay import tables
    from selfplay.experiments.engines import engine
    from selfplay.experiments.replay import replay
    from selfplay.iteration.loop import config_beside
    from selfplay.run.rundir import RunDir

    path = archive_path(options.archive)
    config = config_beside(path)
    if config is None:
        raise InputError(f"{path}: expected the archive of a run, beside its config.toml and checkpoints")
    differ, rundir, sandbox = False, RunDir(path.parent), proven_pool(config.sandbox, config.seed)
    with Archive(path) as archive, sandbox as (pool, _), engine(config, rundir) as backend:
        identifier, counter = row_of(archive, options.id)["id"], bars().counter
        for again in replay(archive, rundir, config, identifier, backend, pool, counter):
            differ |= bool(again.differences)
            print(json.dumps(vars(again)) if options.json else printable(tables.replay(again)), flush=True)
    return int(differ)


def _reverify(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay import tables
    from selfplay.config import RunConfig
    from selfplay.inspecting.reverify import judge_elsewhere, judge_here, reverify
    from selfplay.iteration.loop import config_beside

    path = archive_path(options.archive)
    config = config_beside(path) or RunConfig()
    # What was accepted in little time is given more: a slower machine is no difference.
    cpu_seconds = max(1.0, config.sandbox.cpu_seconds)
    sandbox = replace(config.sandbox, cpu_seconds=cpu_seconds, wall_seconds=max(5.0, 5 * cpu_seconds))
    how = f"{options.python or sys.version} {cpu_seconds} {sandbox.memory_mb} {sandbox.modules} {config.seed}"
    with Archive(path) as archive, contextlib.ExitStack() as stack:
        if options.python:
            given = ["--cpu-seconds", str(cpu_seconds), "--memory-mb", str(sandbox.memory_mb)]
            given += [part for module in sandbox.modules for part in ("--module", module)]
            judge = judge_elsewhere(options.python, given)
        else:
            judge = judge_here(stack.enter_context(proven_pool(sandbox, config.seed))[0])
        pairs = archive.query("SELECT count(*) FROM solutions")[0][0]
        found, earlier = reverify(archive, judge, how, bars().counter(pairs, "reverify", "pair"))
    if options.json:
        print(json.dumps({"pairs": pairs, "judged_earlier": earlier, "found": [vars(each) for each in found]}))
        return int(bool(found))
    if found:
        rows = [[one_line(str(cell)) for cell in vars(each).values()] for each in found]
        print(tables.render([[*vars(found[0])], *rows]))
    before = f", {earlier:,} of them by the same command before it stopped" if earlier else ""
    print(f"{pairs:,} pairs judged again{before}: {len(found) or 'no'} differences")
    return int(bool(found))


def _diff(options: argparse.Namespace) -> int:
    from puzzles.archive.merging import compare
    from puzzles.archive.store import Archive

    with Archive(archive_path(options.first)) as first, Archive(archive_path(options.second)) as second:
        found = compare(first, second)
        if options.json:
            print(json.dumps(vars(found)))
            return int(bool(found))
        lines = []
        for what, (one, other) in found.only.items():
            lines.append(f"{what}: {found.common[what]:,} in both, {len(one):,} in A alone, {len(other):,} in B alone")
            lines += [f"  {side} {identifier}" for side, ids in (("A", one), ("B", other)) for identifier in ids]
        lines.append(f"answers that differ: {len(found.answers):,}")
        lines += [f"  {pair}: {one_line(str(one))} and {one_line(str(other))}" for pair, one, other in found.answers]
        page(printable("\n".join(lines)))
        return int(bool(found))


def _merge(options: argparse.Namespace) -> int:
    from puzzles.archive.merging import merge
    from puzzles.archive.store import Archive
    from selfplay.run.rundir import RunDir
    from selfplay.run.shard import check_part

    into, sources = archive_path(options.into), [archive_path(source) for source in options.sources]
    if twice := [source for source in sources if source.samefile(into)]:
        raise InputError(f"{twice[0]}: expected another archive than the one it is merged into")
    run = RunDir(into.parent)
    records = run.read_records() if into.name == run.archive.name else []
    with run.lock() if records else contextlib.nullcontext(), Archive(into) as archive:
        archive.check()
        for source in sources:
            with Archive(source) as other:
                if records:
                    check_part(other, records)
                grown = vars(merge(archive, other))
            print(f"{source}: {', '.join(f'{count:,} {what}' for what, count in grown.items())} new in {into}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay.config import SandboxConfig
    from selfplay.inspecting.export import FORMATS, write
    from selfplay.run.rundir import spare

    out = Path(options.out)
    if out.exists() and not options.force:
        raise InputError(f"{out}: it is there already: name another place, or give --force")
    spare(out.absolute())
    if out.is_dir() and (options.format != "datasets" or {each.name for each in out.iterdir()} - {"README.md", "data"}):
        raise InputError(
            f"{out}: --force replaces a file, or with datasets a folder that export made: name another place"
        )
    with Archive(archive_path(options.archive)) as archive, contextlib.ExitStack() as stack:
        pool = stack.enter_context(proven_pool(SandboxConfig(), 0))[0] if options.format == "preferences" else None
        count = write(archive, out, options.format, pool, options.license)
    print(f"{out}: {count:,} {FORMATS[options.format]}")
    return 0


def _contamination(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay import tables
    from selfplay.config import SandboxConfig
    from selfplay.iteration.loop import examine_archive, guard_of, scored_puzzles

    with Archive(archive_path(options.archive)) as archive, proven_pool(SandboxConfig(), 0) as (pool, _):
        sets = {name: scored_puzzles(pool, name) for name in options.against or ("dev", "heldout")}
        guard = guard_of(pool, sets)
        checked = len(archive.puzzle_ids())
        hits = examine_archive(archive, pool, guard, bars().counter(checked, "contamination", "puzzle"))
        stories = archive.exposure(list(hits))
        refused = archive.refused_levels()
    found = [
        {"level": hit.level, "puzzle": identifier, **stories[identifier], "guarded": hit.name, "detail": hit.detail}
        for identifier, hit in hits.items()
    ]
    if options.json:
        summary = {"checked": checked, "guarded": len(guard.puzzles), "guarded_by_behaviour": guard.behaviours}
        print(json.dumps({**summary, "found": found, "refused": refused}))
        return 1 if found else 0
    if found:
        print(tables.render([[*found[0]], *([one_line(str(cell)) for cell in row.values()] for row in found)]))
    print(
        f"{checked} puzzles checked against {len(guard.puzzles)} guarded ones, "
        f"{guard.behaviours} of them by behaviour too: {len(found) or 'none'} found"
    )
    for when, levels in refused.items():
        print(f"refused at the door, {when}: {', '.join(f'{count} {level}' for level, count in levels.items())}")
    return 1 if found else 0


def _view(options: argparse.Namespace) -> int:
    from selfplay.inspecting import view

    view.require()
    view.serve(archive_path(options.archive), options.port, options.open)
    return 0


def wire(commands: Any) -> Any:
    """Add them to the command line's grammar; returns the actions."""
    archive = commands.add_parser("archive", help="inspect and fill archives")
    actions = archive.add_subparsers(title="actions", metavar="ACTION", required=True)
    where = "a run's name or folder, or an archive file"
    filling = command(
        actions,
        "import",
        add,
        "parse, verify and add puzzles",
        "archive import p3.sqlite puzzles.json --format p3",
    )
    filling.add_argument("archive", help="archive file; made if there is none")
    filling.add_argument("file", help="puzzle file, or train, dev, heldout")
    filling.add_argument(
        "--format", default="auto", choices=["auto", "jsonl", "p3", "aces", "azr"],
        help="ours, Microsoft's P3, ACES or Absolute Zero Reasoner; auto: by the first object's keys",
    )  # fmt: skip
    filling.add_argument("--module", action="append", help="importable beside the pure modules; may be repeated")
    stats = command(actions, "stats", _stats, "counts", "archive stats embedded")
    stats.add_argument("archive", help=where)
    listing = command(actions, "list", _list, "a page of its puzzles", "archive list embedded --sort hardest")
    listing.add_argument("archive", help=where)
    listing.add_argument("--search", metavar="WORDS", help="that stand in the name, the puzzle or one of its solutions")
    listing.add_argument("--origin", choices=["human", "rule", "import", "model", "variant"])
    listing.add_argument("--iteration", type=natural)
    listing.add_argument("--type", help="of the answer, such as List[int]")
    listing.add_argument("--skill")
    listing.add_argument("--difficulty", type=natural)
    listing.add_argument("--state", choices=["solved", "unsolved", "quarantined"])
    listing.add_argument(
        "--sort", default="newest",
        choices=["newest", "oldest", "hardest", "easiest", "varied", "shortest", "longest"],
    )  # fmt: skip
    listing.add_argument("--limit", type=positive, default=50)
    listing.add_argument("--offset", type=natural, default=0, help="how many are left out before the first")
    listing.add_argument("--refused", action="store_true", help="instead, imported texts that were refused, and why")
    show = command(actions, "show", _show, "one puzzle with its solutions", "archive show embedded 3f2a")
    show.add_argument("archive", help=where)
    show.add_argument("id", help="a puzzle's id, or how it begins")
    why = command(
        actions, "why", _why, "a puzzle's whole story; exit status 1 if the archive lacks a part of it",
        "archive why embedded 3f2a",
    )  # fmt: skip
    again = command(
        actions, "replay", _replay,
        "sample what a puzzle came from and was tried in again, and judge it; exit status 1 if anything differs",
        "archive replay embedded 3f2a",
    )  # fmt: skip
    for action in (why, again):
        action.add_argument("archive", help=where)
        action.add_argument("id", help="a puzzle's id, or how it begins")
    reverify = command(
        actions, "reverify", _reverify, "judge every pair again; exit status 1 if one is not what is stored",
        "archive reverify embedded",
    )  # fmt: skip
    reverify.add_argument("archive", help=where)
    reverify.add_argument("--python", metavar="PATH", help="another interpreter that judges; it needs no packages")
    diff = command(
        actions, "diff", _diff, "puzzles and pairs that one of two archives has; exit status 1 if there are any",
        "archive diff embedded other",
    )  # fmt: skip
    diff.add_argument("first", metavar="A", help=where)
    diff.add_argument("second", metavar="B", help=where)
    merge = command(actions, "merge", _merge, "take other archives into one", "archive merge all.sqlite one two")
    merge.add_argument("into", metavar="INTO", help=where)
    merge.add_argument("sources", metavar="FROM", nargs="+", help=where)
    export = command(
        actions, "export", _export, "write it for others: puzzles, pairs, or training text",
        "archive export embedded pairs.parquet --format parquet",
    )  # fmt: skip
    export.add_argument("archive", help=where)
    export.add_argument("out", help="file to write; a folder with `datasets`")
    export.add_argument(
        "--format", default="jsonl", choices=["jsonl", "parquet", "datasets", "text", "chat", "preferences"],
        help="jsonl: for `archive import`; parquet, datasets: pairs with their history; text: as the ancestor trained "
        "on; chat, preferences: for fine-tuning",
    )  # fmt: skip
    export.add_argument("--license", default="unknown", help="named in the card of `datasets`")
    export.add_argument("--force", action="store_true", help="replace what is there")
    contamination = command(
        actions, "contamination", _contamination,
        "compare every puzzle with the dev and held-out sets; exit status 1 if one is too near",
        "archive contamination embedded",
    )  # fmt: skip
    contamination.add_argument("archive", help=where)
    contamination.add_argument(
        "--against", action="append", metavar="SET",
        help="instead of dev and heldout: an embedded set, a puzzle file or an archive; may be repeated",
    )  # fmt: skip
    view = command(commands, "view", _view, "look through an archive in the browser", "view embedded --open")
    view.add_argument("archive", metavar="RUN|ARCHIVE", help=where)
    view.add_argument("--port", type=natural, default=8001, help="of 127.0.0.1; 0 takes a free one")
    view.add_argument("--open", action="store_true", help="ask a browser to show it")
    for action in (stats, listing, show, why, again, reverify, diff, contamination):
        action.add_argument("--json", action="store_true", help="for programs")
    return actions
