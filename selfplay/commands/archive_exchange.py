"""`selfplay archive import`, `merge` and `export`: fill an archive, and write it in other formats."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from selfplay.commands.grammar import ARCHIVE, add_limits, add_wide, command, sandbox_of
from selfplay.commands.terminal import archive_path, on_screen, tell, width
from selfplay.text import one_line, render

if TYPE_CHECKING:
    from puzzles.archive.store import Archive
    from sandbox.pool import Pool
    from selfplay.run.rundir import RunDir


def add_import(actions: Any) -> None:
    """Declare `archive import`."""
    parser = command(
        actions, "import", _import, "parse, verify and add puzzles and their solutions",
        "archive import own.sqlite train", resumes=True,
    )  # fmt: skip
    parser.add_argument("archive", help="archive file; it is made if there is none")
    parser.add_argument("file", help="puzzle file, or `train`, `dev` or `heldout`")
    parser.add_argument(
        "--format", default="auto", choices=["auto", "jsonl", "p3", "aces", "azr"],
        help="jsonl: our own format; p3: Microsoft's P3; aces: ACES; azr: Absolute Zero Reasoner; auto: found by the "
        "keys of the first object",
    )  # fmt: skip
    parser.add_argument(
        "--module", action="append", help="module that programs may import beside the pure ones; may be repeated"
    )
    add_limits(parser)
    add_wide(parser)


def _import(options: argparse.Namespace) -> int:
    from puzzles.archive.formats import RefusedRecord, all_refused, import_puzzles, read_puzzles
    from puzzles.archive.store import Archive
    from puzzles.archive.worlds import seed_of
    from selfplay.config import RunConfig
    from selfplay.iteration.guarding import guard_of, guarded_sets
    from selfplay.iteration.import_table import import_table
    from selfplay.run.pools import proven_pool

    refused: list[RefusedRecord] = []
    raws, sandbox = read_puzzles(options.file, options.format, refused), sandbox_of(options, options.module or ())
    path = _archive_or_new(options.archive)
    if path.exists() and path.stat().st_size:
        Archive(path).close()  # a wrong one is refused before the guard learns for seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    with proven_pool(sandbox, seed_of(path)) as (pool, protections):
        protections = _of_limits(pool, protections)
        guard = guard_of(pool, guarded_sets(pool, RunConfig()))
        with Archive(path, guard, create=True, trust=True) as archive:
            archive.keep_worlds(pool.seed)
            count = on_screen().counter(len(raws), "import", "puzzle")
            report = import_puzzles(archive, pool, protections, raws, progress=count, refused=refused)
            archive.index()
    print(import_table(report, width(options)))
    if report.examples:
        tell(f"\nto list all refused texts: selfplay archive list {path} --refused")
    if refused:
        raise InputError(all_refused([record.detail for record in refused]))
    return 0


def _of_limits(pool: Pool, protections: dict[str, Any]) -> dict[str, Any]:
    """The protections, with the limits if they are not the usual ones: `archive reverify` uses them."""
    from selfplay.config import SandboxConfig

    usual = pool.limits == SandboxConfig().limits()
    return protections if usual else {**protections, "limits": asdict(pool.limits)}


def _archive_or_new(text: str) -> Path:
    with contextlib.suppress(InputError):
        return archive_path(text)
    return Path(text)


def add_merge(actions: Any) -> None:
    """Declare `archive merge`."""
    parser = command(
        actions,
        "merge",
        _merge,
        "copy everything new from other archives into one archive; into a run only its own parts (run --shard)",
        "archive merge all.sqlite embedded smoke",
    )
    parser.add_argument(
        "--trust", action="store_true",
        help="the archives are your own: do not judge their pairs again (the parts of a run are never judged again)",
    )  # fmt: skip
    add_limits(parser)
    parser.add_argument("into", metavar="INTO", help=f"archive to write into: {ARCHIVE}, or a file that is to be made")
    parser.add_argument("sources", metavar="FROM", nargs="+", help=f"archives to copy from: {ARCHIVE}")


def _merge(options: argparse.Namespace) -> int:
    from puzzles.archive.merging import merge, merge_foreign
    from puzzles.archive.store import Archive
    from selfplay.run.pools import proven_pool
    from selfplay.run.rundir import RunDir, told_if_closed
    from selfplay.run.shard import GOES_ON_FROM

    into, sources = _archive_or_new(options.into), [archive_path(source) for source in options.sources]
    if twice := [source for source in sources if into.exists() and source.samefile(into)]:
        raise InputError(f"{twice[0]}: expected another archive than the one that is written into")
    run = RunDir(into.resolve().parent)
    is_run = into.resolve() == run.archive and (run.config.exists() or run.records.exists())
    with run.lock() if is_run else contextlib.nullcontext(), contextlib.ExitStack() as stack:
        archive = None
        if into.exists():
            archive = stack.enter_context(Archive(into, trust=True))
            archive.check()
            if archive.mark(GOES_ON_FROM) and not is_run:
                raise InputError(f"{into}: this is a part of a run: merge it into the run, and nothing into it")
        judged = None
        if not is_run:
            pool, protections = stack.enter_context(proven_pool(sandbox_of(options), 0))
            judged = pool, None if options.trust else _of_limits(pool, protections)
        _check_sources(archive, run if is_run else None, sources)
        if archive is None:
            with told_if_closed(into, "name another place"):
                into.parent.mkdir(parents=True, exist_ok=True)
            archive = stack.enter_context(Archive(into, create=True))
        for source in sources:
            with Archive(source, trust=True) as other:  # it has just been checked
                merged, refused = merge_foreign(archive, other, *judged) if judged else (merge(archive, other), {})
            grown = ", ".join(f"{count:,} {what}" for what, count in vars(merged).items())
            tell(f"{source}: {grown} new in {into}")
            if refused:
                reasons = [[one_line(reason), f"{count:,}"] for reason, count in sorted(refused.items())]
                print(render([["left out, because it does not hold here", "number"], *reasons], right=[1]))
    return 0


def _check_sources(into: Archive | None, run: RunDir | None, sources: Sequence[Path]) -> None:
    """Check all sources before anything is written: that they are whole and, for a run, that they are its parts.

    Raises:
        InputError: One is not.
    """
    from puzzles.archive.store import Archive
    from selfplay.run.shard import Joining
    from selfplay.settings import load

    joining = Joining(into, load(run.config), run.read_records()) if into and run else None
    for source in sources:
        with Archive(source, trust=True) as other:
            other.check()
            if joining:
                joining.check(other)


def add_export(actions: Any) -> None:
    """Declare `archive export`."""
    parser = command(
        actions, "export", _export, "export an archive: its puzzles, pairs or training text",
        "archive export embedded pairs.parquet --format parquet",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("out", help="file to write; with `datasets`, a folder")
    parser.add_argument(
        "--format", default="jsonl", choices=["jsonl", "parquet", "datasets", "text", "chat", "preferences", "trl"],
        help="jsonl: puzzles with solutions, for `archive import`; parquet, datasets: pairs with their history; text: "
        "in the ancestor's training format; chat, preferences: for fine-tuning; trl: prompts for TRL's online trainers",
    )  # fmt: skip
    parser.add_argument("--license", default="unknown", help="licence named in the card of `datasets`")
    parser.add_argument("--force", action="store_true", help="replace an existing file or folder")


def _export(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay.config import SandboxConfig
    from selfplay.inspecting.export import FORMATS, write
    from selfplay.run.pools import proven_pool
    from selfplay.run.rundir import spare

    out = Path(options.out)
    if out.exists() and not options.force:
        raise InputError(f"{out}: it exists already: name another place, or give --force")
    spare(out.absolute())
    if out.is_dir() and (options.format != "datasets" or {each.name for each in out.iterdir()} - {"README.md", "data"}):
        raise InputError(
            f"{out}: --force replaces only a file or, with datasets, a folder that export made: name another place"
        )
    with Archive(archive_path(options.archive)) as archive, contextlib.ExitStack() as stack:
        judged = options.format == "preferences"
        pool = stack.enter_context(proven_pool(SandboxConfig(), archive.worlds or 0))[0] if judged else None
        count = write(archive, out, options.format, pool, options.license)
    tell(f"{out}: {count:,} {FORMATS[options.format]}")
    return 0
