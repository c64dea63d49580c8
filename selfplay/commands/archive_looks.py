"""`selfplay archive stats`, `list`, `show`, `why`, and `selfplay view`: look into an archive."""

from __future__ import annotations

import argparse
import json
from typing import Any

from selfplay.commands.grammar import ARCHIVE, command, natural, positive
from selfplay.commands.terminal import archive_path, highlighted, page
from selfplay.text import count_table, one_line, render


def add_stats(actions: Any) -> None:
    """Declare `archive stats`."""
    parser = command(actions, "stats", _stats, "count what it holds", "archive stats embedded")
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("--json", action="store_true", help="for programs")


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
    parser = command(actions, "list", _list, "list a page of its puzzles", "archive list embedded --sort hardest")
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("--search", metavar="WORDS", help="words in the name, the puzzle or one of its solutions")
    parser.add_argument("--origin", choices=["human", "rule", "import", "model", "variant"], help="who made the puzzle")
    parser.add_argument("--iteration", type=natural, help="in which it was made")
    parser.add_argument("--type", help="of the answer, such as List[int]")
    parser.add_argument("--skill", help="that the puzzle asks for; `archive stats` lists them")
    parser.add_argument("--difficulty", type=natural, help="as its author gave it")
    parser.add_argument("--state", choices=["solved", "unsolved", "quarantined"], help="what became of the puzzle")
    parser.add_argument(
        "--sort", default="newest", help="what comes first",
        choices=["newest", "oldest", "hardest", "easiest", "varied", "shortest", "longest"],
    )  # fmt: skip
    parser.add_argument("--limit", type=positive, default=50, help="puzzles on the page")
    parser.add_argument("--offset", type=natural, default=0, help="puzzles to leave out before the first")
    parser.add_argument("--refused", action="store_true", help="list imported texts that were refused instead, and why")
    parser.add_argument("--json", action="store_true", help="for programs")


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
            print(f"none of {number:,} {what}" if number else f"no {what}")
            return 0
        shown = [[one_line("" if cell is None else str(cell)) for cell in row] for row in rows]
        table = render([rows[0].keys(), *shown])
        last = options.offset + len(rows)
        more = f"\n\n{options.offset + 1:,} to {last:,} of {number:,}; --offset {last} goes on" if last < number else ""
        page(table + more)
        return 0


def add_show(actions: Any) -> None:
    """Declare `archive show`."""
    parser = command(actions, "show", _show, "show one puzzle with its solutions", "archive show embedded 3f2a")
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("id", help="a puzzle's id, or its beginning")
    parser.add_argument("--json", action="store_true", help="for programs")


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
            parts.append(
                f"# {solution['origin']}, iteration {solution['iteration']}: {one_line(str(solution['answer']))}"
            )
            parts.append(f"{highlighted(solution['source'])}\n")
        if story["candidates by verdict"]:
            parts.append(count_table("candidates", story["candidates by verdict"]))
        page("\n".join(parts))
        return 0


def add_why(actions: Any) -> None:
    """Declare `archive why`."""
    parser = command(
        actions, "why", _why, "tell a puzzle's whole story; exit status 1 if the archive lacks a part of it",
        "archive why embedded 3f2a",
    )  # fmt: skip
    parser.add_argument("archive", help=ARCHIVE)
    parser.add_argument("id", help="a puzzle's id, or its beginning")
    parser.add_argument("--json", action="store_true", help="for programs")


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
    parser = command(commands, "view", _view, "look through an archive in the browser", "view embedded --open")
    parser.add_argument("archive", metavar="RUN|ARCHIVE", help=ARCHIVE)
    parser.add_argument("--port", type=natural, default=8001, help="of 127.0.0.1; 0 takes a free one")
    parser.add_argument("--open", action="store_true", help="ask a browser to show it")


def _view(options: argparse.Namespace) -> int:
    from selfplay.inspecting import view

    view.require()
    view.serve(archive_path(options.archive), options.port, options.open)
    return 0
