"""`selfplay archive stats`, `list`, `show` and `why`, and `selfplay view`: look into an archive."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from sandbox.printing import visible
from selfplay.commands.grammar import ARCHIVE, add_wide, command, natural, positive
from selfplay.commands.terminal import archive_path, benchmark_folders, highlighted, page, width
from selfplay.text import Column, Table, count_table, one_line, render, wrapped

if TYPE_CHECKING:
    import sqlite3


def add_stats(actions: Any) -> None:
    """Declare `archive stats`."""
    parser = command(actions, "stats", _stats, "count the contents of an archive", "archive stats embedded")
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _stats(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import stats
    from puzzles.archive.store import Archive

    with Archive(archive_path(options.archive)) as archive:
        found = stats(archive)
        if options.json:
            print(json.dumps(found))
            return 0
        plain = [[name, f"{value:,}"] for name, value in found.items() if not isinstance(value, dict)]
        parts = [render(plain, right=[1])]
        parts += [_block(name, content) for name, content in found.items() if isinstance(content, dict) and content]
        page("\n".join(parts))
        return 0


def _block(name: str, content: dict[str, int]) -> str:
    """A table of `archive stats`. Its first line has the sum, where a thing is counted once."""
    total = "" if name == "puzzles by skill" else f"{sum(content.values()):,}"
    return count_table(name, content, total)


def add_list(actions: Any) -> None:
    """Declare `archive list`."""
    parser = command(
        actions, "list", _list, "list one page of an archive's puzzles", "archive list embedded --sort hardest"
    )
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("--search", metavar="WORDS", help="words in the name, the puzzle or a solution")
    parser.add_argument(
        "--origin", choices=["human", "rule", "import", "model", "variant"], help="origin of the puzzle"
    )
    parser.add_argument("--iteration", type=natural, help="iteration in which the puzzle was made")
    parser.add_argument("--type", help="type of the answer, such as List[int]")
    parser.add_argument("--skill", help="skill that the puzzle asks for; `archive stats` lists the skills")
    parser.add_argument("--difficulty", type=natural, help="difficulty given by the puzzle's author")
    parser.add_argument("--state", choices=["solved", "unsolved", "quarantined"], help="state of the puzzle")
    parser.add_argument(
        "--sort", default="newest", help="puzzles to list first",
        choices=["newest", "oldest", "hardest", "easiest", "varied", "shortest", "longest"],
    )  # fmt: skip
    parser.add_argument("--limit", type=positive, default=50, help="number of puzzles on the page")
    parser.add_argument("--offset", type=natural, default=0, help="number of puzzles to skip")
    parser.add_argument(
        "--refused", action="store_true", help="list refused imports with their reasons instead of puzzles"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_wide(parser)


LISTED = (
    Column("puzzle"), Column("origin", rank=2), Column("iteration", "iter", right=True), Column("type", least=12),
    Column("difficulty", "diff", right=True, rank=3), Column("n", right=True), Column("c", right=True),
    Column("solutions", "sol", right=True, rank=1), Column("quarantine", "set aside"), Column("name", rank=4, least=16),
    Column("source", least=24),
)  # fmt: skip
COUNTS_NOTE = "n: candidates for the puzzle; c: those that solve it; sol: different solutions"
ID_CHARACTERS = 8
"""Characters of an id that are shown where there is little room: enough to name a puzzle by."""


def _list(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import Filter, number_of, page_of
    from puzzles.archive.store import Archive

    chosen = Filter(
        options.origin, options.iteration, options.type, options.skill, options.difficulty, options.state,
        options.search,
    )  # fmt: skip
    if options.refused:
        return _refused_imports(options)
    with Archive(archive_path(options.archive)) as archive:
        chosen.check(archive)
        rows = page_of(archive, chosen, options.sort, options.limit, options.offset)
        number = number_of(archive, chosen)
        if options.json:
            print(json.dumps([dict(row) for row in rows]))
            return 0
        columns = width(options)
        cells = [_cells(row) for row in rows]
        if columns is not None:
            cells = [[each[0][:ID_CHARACTERS], *each[1:]] for each in cells]
        _print_page(options, Table(LISTED, cells), number, "puzzles", "" if columns is None else COUNTS_NOTE)
    return 0


def _cells(row: sqlite3.Row) -> list[str]:
    return [one_line("" if cell is None else str(cell)) for cell in row]


def _print_page(options: argparse.Namespace, table: Table, number: int, what: str, note: str = "") -> None:
    """Print a page of a table with so many rows in all, and how the next page is shown."""
    if not table.rows:
        print(f"no more than {number:,} {what}: give a smaller --offset" if number else f"no {what}")
        return
    last = options.offset + len(table.rows)
    parts = [table.plain(width(options)), note]
    if last < number:
        parts.append(f"{options.offset + 1:,} to {last:,} of {number:,}; --offset {last} shows the next page")
    page("\n\n".join(filter(None, parts)))


def _refused_imports(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import refused_imports
    from puzzles.archive.store import Archive

    with Archive(archive_path(options.archive)) as archive:
        rows = refused_imports(archive, options.limit, options.offset)
        if options.json:
            print(json.dumps([dict(row) for row in rows]))
            return 0
        columns = (Column("name", least=20), Column("what"), Column("reason"), Column("detail", least=24),
                   Column("original", rank=1, least=24))  # fmt: skip
        number = archive.query("SELECT count(*) FROM refusals")[0][0]
        _print_page(options, Table(columns, [_cells(row) for row in rows]), number, "refused texts")
    return 0


def add_refused(actions: Any) -> None:
    """Declare `archive refused`."""
    parser = command(
        actions, "refused", _refused, "list the model's proposals that were not admitted, newest first",
        "archive refused embedded --outcome syntax",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    add_wide(parser)
    parser.add_argument(
        "--outcome", metavar="REASON", help="only those refused for this reason; `archive stats` lists all"
    )
    parser.add_argument("--variations", action="store_true", help="list refused variations of puzzles instead")
    parser.add_argument("--limit", type=positive, default=20, help="number of proposals on the page")
    parser.add_argument("--offset", type=natural, default=0, help="number of proposals to skip")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _refused(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import outcomes
    from puzzles.archive.store import Archive
    from selfplay.inspecting.story import refused_texts

    stage = "vary" if options.variations else "propose"
    with Archive(archive_path(options.archive)) as archive:
        counts = outcomes(archive, stage, refused=True)
        if options.outcome is not None and options.outcome not in counts:
            known = ", ".join(f"{outcome} ({count:,})" for outcome, count in counts.items()) or "none"
            raise InputError(f"--outcome {options.outcome}: nothing was refused for this reason; there are {known}")
        found = refused_texts(archive, stage, options.outcome, options.limit, options.offset)
    if options.json:
        print(json.dumps(found))
        return 0
    what = "variations" if options.variations else "proposals"
    parts = [count_table(f"refused {what}", counts)] if counts else [f"no {what} were refused"]
    for each in found:
        where = f"iteration {each['iteration']}, chunk {each['chunk']}, text {each['position']}"
        about = visible(": ".join(filter(None, [where, each["outcome"], each["detail"]])))
        parts += [f"# {line}" for line in wrapped(about, (width(options) or len(about) + 2) - 2).splitlines()]
        text = "its text is missing" if each["text"] is None else each["text"].strip()
        parts.append(highlighted(text or "(empty)") + "\n")
    number = counts.get(options.outcome, 0) if options.outcome else sum(counts.values())
    if options.offset + len(found) < number:
        parts.append(f"{number:,} in all; --offset {options.offset + len(found)} shows the next page")
    page("\n".join(parts))
    return 0


def add_show(actions: Any) -> None:
    """Declare `archive show`."""
    parser = command(actions, "show", _show, "show one puzzle with its solutions", "archive show embedded 1dd8")
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("id", help="a puzzle's id, or the beginning of it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_wide(parser)


def _show(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import history
    from puzzles.archive.store import Archive

    with Archive(archive_path(options.archive)) as archive:
        story = history(archive, options.id)
        if options.json:
            print(json.dumps(story))
            return 0
        facts = (
            "id", "name", "origin", "iteration", "answer_type", "skills", "difficulty", "parents", "chunk", "position",
        )  # fmt: skip
        told = [[key, one_line(story[key])] for key in facts if story[key] not in (None, "", [])]
        parts = [Table([Column(told[0][0]), Column(told[0][1], least=20)], told[1:]).plain(width(options))]
        parts.append(f"\n{highlighted(story['source'])}\n")
        for solution in story["solutions"]:
            about = f"# {solution['origin']}, iteration {solution['iteration']}: {one_line(solution['answer'])}"
            parts.append(visible(about))
            parts.append(f"{highlighted(solution['source'])}\n")
        if story["candidates by verdict"]:
            parts.append(count_table("candidates", story["candidates by verdict"]))
        page("\n".join(parts))
        return 0


def add_why(actions: Any) -> None:
    """Declare `archive why`."""
    parser = command(
        actions, "why", _why, "show where a puzzle came from and what became of it; exit status 1 if a part is missing",
        "archive why embedded 1dd8",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("id", help="a puzzle's id, or the beginning of it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_wide(parser)


def _why(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay.inspecting.story import story, story_text
    from selfplay.iteration.training_set import known_shots

    with Archive(archive_path(options.archive)) as archive:
        told = story(archive, options.id, known_shots(archive))
        if options.json:
            print(json.dumps(vars(told)))
        else:
            page(story_text(told, highlighted, width(options)))
        return 1 if told.breaks else 0


def add_view(commands: Any) -> None:
    """Declare `view`."""
    parser = command(commands, "view", _view, "show an archive or a benchmark in the browser", "view embedded --open")
    parser.add_argument(
        "places", nargs="+", metavar="RUN|ARCHIVE|RESULT",
        help="a run, an archive, or a folder that `bench` wrote; two such folders are shown side by side",
    )  # fmt: skip
    parser.add_argument("--puzzles", metavar="FILE", help="the puzzle file of a benchmark whose set is not embedded")
    parser.add_argument("--port", type=natural, default=8001, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--open", action="store_true", help="open a browser that shows it")


def _view(options: argparse.Namespace) -> int:
    from selfplay.inspecting import view

    view.require()
    if results := benchmark_folders(options.places):
        view.serve_benchmarks(results, options.puzzles, options.port, options.open)
        return 0
    if options.puzzles or len(options.places) > 1:
        raise InputError(
            f"{options.places[-1]}: expected one archive, or one or two folders that `selfplay bench` wrote"
        )
    view.serve(archive_path(options.places[0]), options.port, options.open)
    return 0
