"""`selfplay archive replay`, `reverify`, `diff` and `contamination`: check the contents of an archive."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from sandbox.printing import visible
from selfplay.commands.grammar import ARCHIVE, add_allowed, add_wide, allowed, command
from selfplay.commands.terminal import archive_path, on_screen, page, tell, width
from selfplay.text import Column, Table, one_line, printable

if TYPE_CHECKING:
    from puzzles.archive.store import Archive


def add_replay(actions: Any) -> None:
    """Declare `archive replay`."""
    parser = command(
        actions, "replay", _replay,
        "sample and judge again the chunks that a puzzle came from and was tried in; exit status 1 if anything differs",
        "archive replay embedded 1dd8",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("id", help="a puzzle's id, or the beginning of it")
    add_allowed(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _replay(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import row_of
    from puzzles.archive.store import Archive
    from puzzles.archive.worlds import seed_of
    from selfplay.experiments.engines import engine
    from selfplay.experiments.replay import replay, replay_text
    from selfplay.iteration.training_set import is_of_a_run
    from selfplay.run import consent
    from selfplay.run.pools import proven_pool
    from selfplay.run.rundir import RunDir

    path = archive_path(options.archive)
    if not is_of_a_run(path):
        raise InputError(f"{path}: expected the archive of a run, beside its config.toml and checkpoints")
    differ, rundir = False, RunDir(path.parent)
    config = consent.load(rundir.config, (), allowed(options))
    sandbox = proven_pool(config.sandbox, seed_of(path, config.seed))
    with Archive(path) as archive, sandbox as (pool, _), engine(config, rundir) as backend:
        identifier, counter = row_of(archive, options.id)["id"], on_screen().counter
        for again in replay(archive, rundir, config, identifier, backend, pool, counter):
            differ |= bool(again.differences)
            print(json.dumps(vars(again)) if options.json else printable(replay_text(again)), flush=True)
    return int(differ)


def add_reverify(actions: Any) -> None:
    """Declare `archive reverify`."""
    parser = command(
        actions, "reverify", _reverify, "judge every stored pair again; exit status 1 if anything differs",
        "archive reverify embedded",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("--python", metavar="PATH", help="judge with this Python interpreter; it needs no packages")
    add_allowed(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_wide(parser)


def _reverify(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay.config import RunConfig
    from selfplay.inspecting.reverify import at_least, judge_elsewhere, judge_here, reverify, stored_limits
    from selfplay.iteration.training_set import is_of_a_run
    from selfplay.run import consent
    from selfplay.run.pools import proven_pool
    from selfplay.run.rundir import RunDir

    path, may_act = archive_path(options.archive), allowed(options)
    own = is_of_a_run(path)
    config = consent.load_part(RunDir(path.parent).config, "sandbox.", may_act) if own else RunConfig()
    with Archive(path) as archive, contextlib.ExitStack() as stack:
        sandbox = at_least(config.sandbox, stored_limits(archive))
        consent.check_limits(str(path), RunConfig(sandbox=sandbox), config, may_act)
        seed = config.seed if archive.worlds is None else archive.worlds
        given = ["--cpu-seconds", str(sandbox.cpu_seconds), "--memory-mb", str(sandbox.memory_mb)]
        given += ["--answer-kb", str(sandbox.answer_kb), "--recursion-limit", str(sandbox.recursion_limit)]
        given += ["--worlds", str(seed), *(part for module in sandbox.modules for part in ("--module", module))]
        if options.python:
            judge = judge_elsewhere(options.python, given)
        else:
            judge = judge_here(stack.enter_context(proven_pool(sandbox, seed))[0])
        pairs = archive.query("SELECT count(*) FROM solutions")[0][0]
        how = f"{options.python or sys.version} {' '.join(given)}"
        found, earlier = reverify(archive, judge, how, on_screen().counter(pairs, "reverify", "pair"))
    if options.json:
        print(json.dumps({"pairs": pairs, "judged_earlier": earlier, "found": [vars(each) for each in found]}))
        return int(bool(found))
    if found:
        rows = [[one_line(str(cell)) for cell in vars(each).values()] for each in found]
        print(Table([Column(name, least=12) for name in vars(found[0])], rows).plain(width(options)))
    before = f", {earlier:,} of them before the same command was interrupted" if earlier else ""
    print(f"{pairs:,} pairs judged again{before}: {len(found) or 'no'} differences")
    return int(bool(found))


def add_diff(actions: Any) -> None:
    """Declare `archive diff`."""
    parser = command(
        actions, "diff", _diff, "list what only one of two archives contains; exit status 1 if there is anything",
        "archive diff embedded smoke",
    )  # fmt: skip
    parser.add_argument("first", metavar="A", help=ARCHIVE)
    parser.add_argument("second", metavar="B", help=ARCHIVE)
    parser.add_argument("--ids", action="store_true", help="list the ids alone, of all that differs")
    add_wide(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


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
            for side, archive, ids in (("A", first, one), ("B", second, other)):
                chosen = ids if options.ids else ids[:SHOWN_DIFFERENCES]
                lines += [
                    f"  {side} {visible(key)}{'' if options.ids else _first_line(archive, key)}" for key in chosen
                ]
                if len(ids) > len(chosen):
                    lines.append(f"  {side} and {len(ids) - len(chosen):,} more; --ids lists all ids")
        lines.append(f"answers that differ: {len(found.answers):,}")
        lines += [f"  {visible(pair)}: {one_line(one)} and {one_line(other)}" for pair, one, other in found.answers]
        page(printable("\n".join(line[: width(options)] for line in lines)))
        return int(bool(found))


SHOWN_DIFFERENCES = 20
"""Most puzzles or pairs of one archive that are shown with their first lines."""


def _first_line(archive: Archive, identifier: str) -> str:
    """What tells a person which puzzle or pair this is: the line after the puzzle's first `def`, or the solution's."""
    puzzle, slash, solution = identifier.partition("/")
    sql = (
        "SELECT source FROM solutions WHERE puzzle = ? AND id = ?"
        if slash
        else "SELECT source FROM puzzles WHERE id = ?"
    )
    # An id in somebody else's archive may hold a slash, too.
    source = next((str(source) for (source,) in archive.query(sql, puzzle, *([solution] if slash else []))), "")
    head = source.partition("def ")[2] or source
    first, _, rest = head.partition("\n")
    return f"  def {one_line(first)} {one_line(rest.strip().partition(chr(10))[0])}"


def add_contamination(actions: Any) -> None:
    """Declare `archive contamination`."""
    parser = command(
        actions, "contamination", _contamination,
        "compare every puzzle with the dev and held-out sets; exit status 1 if a puzzle is too near",
        "archive contamination embedded",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument(
        "--against", action="append", metavar="SET",
        help="set to compare with instead of dev and heldout: an embedded set, a puzzle file or an archive; may be "
        "repeated",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_wide(parser)


def _contamination(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay.config import SandboxConfig
    from selfplay.iteration.guarding import examine_archive, guard_of
    from selfplay.run.pools import proven_pool
    from selfplay.scoring.sets import scored_puzzles

    with Archive(archive_path(options.archive)) as archive, proven_pool(SandboxConfig(), 0) as (pool, _):
        sets = {name: scored_puzzles(pool, name) for name in options.against or ("dev", "heldout")}
        guard = guard_of(pool, sets)
        checked = len(archive.puzzle_ids())
        hits = examine_archive(archive, pool, guard, on_screen().counter(checked, "contamination", "puzzle"))
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
        rows = [[one_line(str(cell)) for cell in row.values()] for row in found]
        print(Table([Column(name, least=12) for name in found[0]], rows).plain(width(options)))
    print(
        f"{checked} puzzles checked against {len(guard.puzzles)} guarded ones, "
        f"{guard.behaviours} of them also by behaviour: {len(found) or 'none'} found"
    )
    for when, levels in refused.items():
        tell(f"refused when they came, {when}: {', '.join(f'{count} {level}' for level, count in levels.items())}")
    return 1 if found else 0
