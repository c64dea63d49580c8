"""`selfplay archive stats`, `list`, `show` and `why`, and `selfplay view`: look into an archive."""

from __future__ import annotations

import argparse
import json
from typing import Any

from puzzles.puzzle import InputError
from sandbox.printing import visible
from selfplay.commands.grammar import ARCHIVE, command, natural, positive
from selfplay.commands.terminal import archive_path, benchmark_folders, highlighted, page
from selfplay.text import count_table, one_line, render


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
        parts += [
            count_table(name, content) for name, content in found.items() if isinstance(content, dict) and content
        ]
        page("\n".join(parts))
        return 0


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


def _list(options: argparse.Namespace) -> int:
    from puzzles.archive.catalogue import Filter, number_of, page_of, refused_imports
    from puzzles.archive.store import Archive

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
            print(f"no more than {number:,} {what}: give a smaller --offset" if number else f"no {what}")
            return 0
        shown = [[one_line("" if cell is None else str(cell)) for cell in row] for row in rows]
        table = render([rows[0].keys(), *shown])
        last = options.offset + len(rows)
        more = (
            f"\n\n{options.offset + 1:,} to {last:,} of {number:,}; --offset {last} shows the next page"
            if last < number
            else ""
        )
        page(table + more)
        return 0


def add_show(actions: Any) -> None:
    """Declare `archive show`."""
    parser = command(actions, "show", _show, "show one puzzle with its solutions", "archive show embedded 3f2a")
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("id", help="a puzzle's id, or the beginning of it")
    parser.add_argument("--json", action="store_true", help="print JSON")


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
        parts = [render([[key, one_line(str(story[key]))] for key in facts if story[key] not in (None, "", [])])]
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
        "archive why embedded 3f2a",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("id", help="a puzzle's id, or the beginning of it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _why(options: argparse.Namespace) -> int:
    from puzzles.archive.store import Archive
    from selfplay.inspecting.story import story, story_text
    from selfplay.iteration.training_set import known_shots

    with Archive(archive_path(options.archive)) as archive:
        told = story(archive, options.id, known_shots(archive))
        if options.json:
            print(json.dumps(vars(told)))
        else:
            page(story_text(told, highlighted))
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
