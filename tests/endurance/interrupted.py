"""Commands in processes of their own that something happens to, at the nth call of a function within a stage.

No timing decides where: a process can be ended inside a write, a chunk being sampled, a batch being judged or a step
of the optimiser.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import re
import resource
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from places import ROOT

from sandbox import selfcheck
from selfplay.commands.main import main
from selfplay.sampling import cost

ENTRY = "entry"
"""As an inner function: the stage itself is called."""
MEMORY, SNAPSHOT = "memory", "snapshot"
"""What may happen beside a signal: no more memory from now on; standing still, until a copy is made."""
HAPPENED = "happened.txt"
"""When it did; in the folder where the process runs."""


@dataclass(frozen=True)
class Cut:
    """Where and how a process is cut off."""

    stage: str
    """A function, as `module:Class.function`."""
    inner: str
    """Another, called within it."""
    nth: int
    """At which call, beginning with 1."""
    action: int | str
    """The number of a signal, or `MEMORY` or `SNAPSHOT`."""


def happens(action: int | str) -> None:
    """To this process."""
    Path(HAPPENED).write_text(str(time.time()))
    if action == MEMORY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.getrlimit(resource.RLIMIT_AS)[1]))
    else:
        os.kill(os.getpid(), signal.SIGSTOP if action == SNAPSHOT else int(action))


def install(cut: Cut) -> None:
    """Let it come to pass in this process."""
    inside, calls = 0, 0

    def enter(*arguments: Any, **options: Any) -> Any:
        nonlocal inside
        inside += 1
        try:
            if cut.inner == ENTRY:
                called()
            return whole(*arguments, **options)
        finally:
            inside -= 1

    def count(*arguments: Any, **options: Any) -> Any:
        if inside:
            called()
        return part(*arguments, **options)

    def called() -> None:
        nonlocal calls
        calls += 1
        if calls == cut.nth:
            happens(cut.action)

    owner, name, whole = find(cut.stage)
    setattr(owner, name, enter)
    if cut.inner != ENTRY:
        owner, name, part = find(cut.inner)
        setattr(owner, name, count)


def count_calls(stages: dict[str, str], inner: dict[str, str], file: Path) -> None:
    """Instead of cutting: write how often every inner function is called within every stage."""
    counts: Counter[str] = Counter()
    stack: list[str] = []

    def entering(title: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def enter(*arguments: Any, **options: Any) -> Any:
            counts[f"{title}/{ENTRY}"] += 1
            stack.append(title)
            try:
                return whole(*arguments, **options)
            finally:
                stack.pop()
                file.write_text(json.dumps(counts))

        return enter

    def counting(title: str, part: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            for stage in set(stack):
                counts[f"{stage}/{title}"] += 1
            return part(*arguments, **options)

        return count

    for functions, wrap in ((stages, entering), (inner, counting)):
        for title, place in functions.items():
            owner, name, function = find(place)
            setattr(owner, name, wrap(title, function))


def find(place: str) -> tuple[Any, str, Any]:
    """What a function is an attribute of, its name, and itself."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name, getattr(owner, name)


# ---- processes ----


def server() -> Any:
    """Of processes that have everything loaded already."""
    context = multiprocessing.get_context("forkserver")
    loaded = [
        "torch._dynamo",
        "transformers.models.llama.modeling_llama",
        "selfplay.training.finetune",
        "selfplay.iteration.loop",
    ]
    context.set_forkserver_preload(["interrupted", *loaded])
    # The server has no path but this: what it loads must be what is tested, not what is installed.
    here = Path(__file__).parent
    before, os.environ["PYTHONPATH"] = (
        os.environ.get("PYTHONPATH"),
        os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "shared", here))),
    )
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


def in_a_process(folder: Path, protections: Any, arguments: list[str], prepare: tuple[Any, ...]) -> None:
    """What the process does; output goes to files, as a terminal would have it."""
    os.chdir(folder)
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115  # to the end
    selfcheck.check = lambda pool: protections
    if prepare:
        prepare[0](*prepare[1:])
    sys.exit(main(arguments))


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """A signal's number is negative."""
    out: str
    err: str
    left: list[int]
    """Processes of its that were there when it was not any more."""
    at: float
    """By the clock."""


def run_command(
    context: Any,
    folder: Path,
    protections: Any,
    command: list[Any],
    prepare: tuple[Any, ...] = (),
    meanwhile: Callable[[int], object] = lambda pid: None,
) -> Ended:
    """A command in a process that is watched from outside.

    Args:
        context: The server.
        folder: Where it runs.
        protections: The sandbox's self-check, which lets a loop run into its limit, is not made again.
        command: Its arguments.
        prepare: A function and its arguments, called in the process before.
        meanwhile: Called now and then with the process's number.
    """
    arguments = (folder, protections, [str(part) for part in command], prepare)
    process = context.Process(target=in_a_process, args=arguments)
    process.start()
    below: set[int] = set()
    while process.is_alive():
        below |= descendants(process.pid)
        meanwhile(process.pid)
        process.join(0.02)
    at = time.time()
    status = process.exitcode
    process.close()
    out, err = (folder / name for name in ("out.txt", "err.txt"))
    said = [file.read_text("utf-8", "replace") if file.exists() else "" for file in (out, err)]
    return Ended(status, *said, still_running(below), at)


def parents() -> dict[int, int]:
    """The parent's id of every process."""
    found = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):  # a pattern would look at processes that are gone
        with contextlib.suppress(OSError):
            found[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> set[int]:
    """Ids of all processes below one."""
    above, found = parents(), {pid}
    while more := {child for child, parent in above.items() if parent in found} - found:
        found |= more
    return found - {pid}


def state_of(pid: int) -> str:
    """The kernel's letter; Z for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def still_running(pids: set[int]) -> list[int]:
    """Those left after a while: the kernel may take a moment to end a killed parent's children."""
    deadline = time.monotonic() + 10
    while any(state_of(pid) != "Z" for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [pid for pid in pids if state_of(pid) != "Z"]


# ---- what a run wrote ----

OF_A_SESSION = ("archive.sqlite-wal", "archive.sqlite-shm")


def archive_content(archive: Path) -> dict[str, list[list[Any]]]:
    """Every table of an archive, apart from times, the index made of them, and the seed of its worlds."""
    with contextlib.closing(sqlite3.connect(archive)) as connection:
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'search%'"
        tables = [name for (name,) in connection.execute(sql)]
        found = {}
        for table in tables:
            cursor = connection.execute(f"SELECT * FROM {table} ORDER BY rowid")
            kept = [i for i, column in enumerate(cursor.description) if column[0] not in cost.TIMES]
            found[table] = [[row[i] for i in kept] for row in cursor if (table, row[0]) != ("marks", "worlds")]
    return found


def without_times(file: Path) -> list[dict[str, Any]]:
    """A JSONL file's objects without their times."""
    return [cost.without_times(json.loads(line)) for line in file.read_text().splitlines()]


def weights(run: Path) -> dict[str, bytes]:
    """Of every checkpoint."""
    return {file.parent.name: file.read_bytes() for file in (run / "checkpoints").glob("iteration-*/*.safetensors")}


def differences(one: Path, other: Path, but: str | None = None) -> list[str]:
    """In what two runs differ, apart from times, and in what is said of chunks from what matches a pattern.

    Whatever one of them has beside is named as well.
    """

    def without(rows: Any) -> Any:
        return re.sub(but, "", json.dumps(rows, default=repr)) if but else rows

    def parts(run: Path) -> Iterator[tuple[str, Any]]:
        for table, rows in archive_content(run / "archive.sqlite").items():
            yield f"archive, {table}", without(rows) if table == "chunks" else rows
        yield "records", without_times(run / "records.jsonl")
        yield from ((f"scores, {file.name}", without(without_times(file))) for file in (run / "scores").iterdir())
        yield from ((f"weights, {name}", content) for name, content in weights(run).items())
        yield "config", (run / "config.toml").read_text()
        files = {str(file.relative_to(run)) for file in run.rglob("*")}
        yield "files", files - {*OF_A_SESSION}

    first, second = dict(parts(one)), dict(parts(other))
    return sorted(part for part in {*first, *second} if first.get(part) != second.get(part))


def pairs(archive: Path) -> set[tuple[str, str]]:
    """Ids of every verified pair; none of an archive that is not there yet."""
    if not archive.exists():
        return set()
    with contextlib.closing(sqlite3.connect(archive)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'solutions'").fetchone():
            return set()
        return set(connection.execute("SELECT puzzle, id FROM solutions"))
