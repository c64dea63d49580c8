"""Hands hostile things to every command that takes such a thing: `python tests/endurance/strangers.py [--only WORD]`.

`hostile.py` makes the things. Each command runs in a process of its own, beside a folder of a victim, with secrets in
its environment. Counted is what may not happen: code that ran, a secret that was sent, a byte that was written outside,
a pair that was accepted and is wrong, a command that neither ends nor says why in one line, a traceback, text that
controls a terminal, and memory of more than one GiB above the same command on a good thing.

It needs about an hour on two slow cores (`--jobs 2`). `--work FOLDER` keeps what was made, and takes the good things
from there the next time. Exit status 1 if any count is not 0. Each finding is printed with the command.
"""

# ruff: noqa: E501  # tables of programs

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import socketserver
import sqlite3
import stat
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]

import hostile  # noqa: E402  # a script's path begins with its own folder
import interrupted  # noqa: E402
import learned  # noqa: E402

from puzzles.archive.opening import SIDE_FILES  # noqa: E402

SECONDS = 120.0
GIB = 1024**3
STATUSES = (0, 1, 2, 3)
MOST_LINE = 2500
"""Characters of the line that refuses a thing."""
CONTROLS = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f]")
HASHED_BYTES = 64 * 1024**2
ALLOWED = "data.train,data.dev,data.heldout"
SMALL = ("--samples", "1", "--k", "1", "--max-tokens", "8", "--threads", "1", "--lanes", "2")
SERVED = f"--puzzles GOOD/five.jsonl --request-seconds 4 {' '.join(SMALL[:6])}"
"""A server's answer that comes in drops ends after this time, eight times."""
THINGS = {
    "archive": "theirs/archive.sqlite", "run folder": "runs/strange", "model": "theirs/model",
    "texts": "theirs/pairs.jsonl", "settings": "theirs/settings.toml", "results": "theirs/result",
    "server": "theirs/server",
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command that takes a thing."""

    name: str
    arguments: tuple[str, ...]
    """Several commands, which run in one process, have `;` between them."""
    writes: bool = False
    """Whether it may write into the thing itself."""


def command(line: str, name: str = "", writes: bool = False) -> Command:
    words = tuple(line.split())
    named = " ".join(words[:2] if words[0] == "archive" else words[:1])
    return Command(name or named, words, writes)


COMMANDS: dict[str, tuple[Command, ...]] = {
    "archive": (
        command(
            "archive stats THING ; archive stats THING --json ; archive list THING ; archive list THING --refused ;"
            " archive list THING --search forged --sort hardest ; archive show THING ID ; archive why THING ID ;"
            " archive diff THING GOOD/runs/good ; archive export THING own/out.jsonl ;"
            " archive export THING own/chat.jsonl --format chat ; archive replay THING ID",
            "what reads",
        ),
        command("archive merge own/merged.sqlite THING ; archive contamination THING --against GOOD/five.jsonl ;"
                " archive reverify THING", "what judges"),
        command("archive import THING GOOD/five.jsonl", writes=True),
        command("view THING --port 0"),
        command(f"bench GOOD/model --puzzles THING {' '.join(SMALL)} --out own/b"),
    ),
    "run folder": (
        command(
            "runs ; league THING ; archive stats THING ; archive why THING ID ; settings --config THING/config.toml ;"
            " report THING --out own/report.html",
            "what reads",
        ),
        command(f"archive reverify THING --allow-settings {ALLOWED} ; archive replay THING ID --allow-settings {ALLOWED}",
                "what judges"),
        command("report THING", "report into it", writes=True),
        command(f"run THING/config.toml --name strange --allow-settings {ALLOWED}", "run", writes=True),
        command("run GOOD/tiny.toml --name child --from strange --set iterations=0", "run --from"),
        command(f"reproduce THING --out own/again --allow-settings {ALLOWED}"),
    ),
    "model": (
        command(f"bench THING --puzzles GOOD/five.jsonl {' '.join(SMALL)} --out own/b"),
        command(f"bench THING --protocol chat --puzzles GOOD/five.jsonl {' '.join(SMALL)} --out own/b", "bench in chat"),
        command("propose --model THING --count 2 --max-tokens 20"),
        command("solve GOOD/five.jsonl --model THING --candidates 2 --max-tokens 8"),
    ),
    "texts": (
        command("verify THING"), command("archive import own/new.sqlite THING"),
        command("solve THING --candidates 1 --max-tokens 8"),
        command(f"bench GOOD/model --puzzles THING {' '.join(SMALL)} --out own/b"),
    ),
    "settings": (
        command("settings --config THING"), command("run THING --name new", "run"),
        command("ablate THING --name new"),
    ),
    "results": (
        command("compare THING GOOD/result"), command("compare GOOD/result THING --anyway", "compare --anyway"),
        command("bench --rescore THING", "bench --rescore", writes=True),
        command("bench --rescore THING --judge-again", "bench --judge-again", writes=True),
    ),
    "server": (
        command(f"bench m --url URL --proof skip {SERVED} --out own/b", "bench --url"),
        command(f"bench m --url URL {SERVED} --out own/b", "bench --url, proof"),
    ),
}  # fmt: skip
FEW = (
    ("archive", "what reads", ("trigger", "an endless view", "check that costs", "open comment in a schema", "pipe",
                               "a second name of another's archive", "a link as -wal")),
    ("settings", "settings", ("a million keys", "dotted", "escapes")),
    ("texts", "verify", ("solutions that change the puzzle", "packed to a thousandth", "device")),
)  # fmt: skip
"""Kind, command and things of the short walk."""
COUNTS = ("code run", "secrets sent", "bytes outside", "wrong accepts", "without an end", "tracebacks", "odd endings")


@dataclass
class Row:
    """What came of one kind."""

    things: int = 0
    tried: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    most_bytes: int = 0
    seconds: float = 0.0


# ---- what listens ----


class Listening:
    """A server with many ways to misbehave, and a port to which nobody may connect."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.connections = 0
        outer = self

        class Canary(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer.connections += 1
                self.request.settimeout(2)
                with contextlib.suppress(OSError):
                    outer.heard.append(self.request.recv(65536))

        class Reply(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    outer.reply(self.rfile, self.wfile)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = allow_reuse_address = True

        self.servers = [Server(("127.0.0.1", 0), Canary), Server(("127.0.0.1", 0), Reply)]
        self.canary, self.port = (server.server_address[1] for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def reply(self, asked: Any, answer: Any) -> None:
        head = asked.readline(65536) + b"".join(iter(lambda: asked.readline(65536), b"\r\n"))
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = asked.read(int(length[1])) if length else b""
        self.heard.append(head + body[:1000])
        mode = head.split(b" ")[1].split(b"/")[1].decode().replace("_", " ")
        request = json.loads(body) if body else {}
        for piece in hostile.SERVERS[mode](request, str(self.canary)):
            answer.write(piece)

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


# ---- good things ----


def make_good(folder: Path, walk: Walk) -> None:
    """A run of the shipped model, a copy of it, six puzzles, and a result; by somebody else."""
    from selfplay.settings import embedded_file

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "result/results.json").exists():
        return
    shutil.copytree(embedded_file("model"), folder / "model", dirs_exist_ok=True)
    learned.make_files(folder, Path("embedded"))
    puzzles = [{"name": f"p{n}", "puzzle": puzzle, "solution": solution}
               for n, (puzzle, solution) in enumerate(learned.PAIRS)]  # fmt: skip
    learned.write_lines(folder / "five.jsonl", puzzles)
    for arguments in (
        ["run", "tiny.toml", "--name", "good"],
        ["bench", "model", "--puzzles", "five.jsonl", *SMALL, "--out", "result"],
    ):
        ended = walk.process(folder, arguments, {"XDG_STATE_HOME": str(folder / "state")}, 600)
        assert ended.status == 0, ended.err[-2000:]


def make_small(folder: Path) -> None:
    """Good things for a short walk: no run, but an archive with a pair and a chunk."""
    from archives import HUMAN, PROTECTIONS, made, pair, plan

    from puzzles.archive.store import Archive

    (folder / "runs/good").mkdir(parents=True)
    with Archive(folder / "runs/good/archive.sqlite", create=True) as archive:
        archive.add(pair(made("a1")), HUMAN, PROTECTIONS)
        plan(archive)
        archive.index()
    learned.write_lines(folder / "five.jsonl", [{"name": "p", "puzzle": learned.PAIRS[0][0]}])


def make_victim(folder: Path, good: Path) -> None:
    folder.mkdir()
    (folder / "precious.txt").write_text("years of work\n" * 50)
    with contextlib.closing(sqlite3.connect(folder / "other.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE precious (x)")
        connection.execute("INSERT INTO precious VALUES ('years of work')")
    shutil.copy(good / "runs/good/archive.sqlite", folder / "archive.sqlite")


# ---- one command ----


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int | None
    """None: it did not end in time."""
    out: str
    err: str
    most_bytes: int
    seconds: float


def prepare(variables: dict[str, str], lines: list[list[str]]) -> None:
    """Called in the command's process before it runs. All lines but the last run here."""
    os.setsid()
    os.environ.update(variables)
    for line in lines:
        status = interrupted.main(line)
        if status not in STATUSES:
            sys.exit(status)


def memory(pids: Iterable[int]) -> int:
    """Resident memory of some processes together, in bytes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                found += map(int, Path(f"/proc/{each}/task/{task}/children").read_text().split())
    return found


def snapshot(*folders: Path) -> dict[str, tuple[Any, ...]]:
    """Everything in some folders: kind, size, and a hash or the time of the last change."""
    found: dict[str, tuple[Any, ...]] = {}
    for file in (path for folder in folders for path in (folder, *sorted(folder.rglob("*")))):
        at = file.lstat()
        content: Any = at.st_mtime_ns
        if stat.S_ISLNK(at.st_mode):
            content = os.readlink(file)
        elif stat.S_ISDIR(at.st_mode):
            content = ""
        elif stat.S_ISREG(at.st_mode) and at.st_size < HASHED_BYTES:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
        size = 0 if stat.S_ISDIR(at.st_mode) else at.st_size
        found[str(file)] = (stat.S_IFMT(at.st_mode), size, content)
    return found


def light_server() -> Any:
    """A server of processes that have not loaded torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["interrupted"])
    return context


class Walk:
    """All commands over all things."""

    def __init__(self, work: Path, protections: Any, server: Any, limit: float = SECONDS) -> None:
        self.limit, self.work, self.good, self.protections = limit, work, work / "good", protections
        self.listening = Listening()
        self.server = server
        self.rows = {kind: Row() for kind in COMMANDS}
        self.normal: dict[str, int] = {}
        self.findings: list[str] = []
        self.lock = threading.Lock()

    def process(self, folder: Path, arguments: Sequence[str], more: dict[str, str], limit: float) -> Ended:
        """Run a command and watch it."""
        variables = {
            "AWS_SECRET_ACCESS_KEY": hostile.SECRET, "OTHER_API_KEY": hostile.SECRET, "OPENAI_API_KEY": "key",
            "XDG_STATE_HOME": str(self.work / "state"), "HOME": str(self.work / "home"), "HF_HUB_OFFLINE": "1",
        } | more  # fmt: skip
        began, most, ended = time.monotonic(), 0, True
        *before, last = [line.split("\0") for line in "\0".join(arguments).split("\0;\0")]
        given = (folder, self.protections, last, (prepare, variables, before))
        process = self.server.Process(target=interrupted.in_a_process, args=given)
        process.start()
        while process.is_alive():
            most = max(most, memory(below := tree(process.pid)))
            if arguments[0] == "view":
                look(folder, process.pid)
            if time.monotonic() - began > limit:
                ended = False
                for pid in below:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            process.join(0.03)
        status = process.exitcode if ended else None
        said = [
            file.read_text("utf-8", "replace") if file.exists() else ""
            for file in (folder / "out.txt", folder / "err.txt")
        ]
        return Ended(status, *said, most, time.monotonic() - began)

    def identifier(self) -> str:
        """The id of a puzzle that the good run's model wrote, or of any."""
        with contextlib.closing(sqlite3.connect(self.good / "runs/good/archive.sqlite")) as connection:
            row = connection.execute("SELECT id FROM puzzles ORDER BY chunk IS NULL, number").fetchone()
        return row[0] if row else "0"

    def words(self, stranger: hostile.Stranger | None, one: Command, thing: str) -> list[str]:
        mode = stranger.name.replace(" ", "_") if stranger else "honest"
        named = {
            "GOOD": str(self.good), "URL": f"http://127.0.0.1:{self.listening.port}/{mode}/v1", "ID": self.identifier(),
            "THING": thing,
        }  # fmt: skip
        return [re.sub(r"\b(GOOD|URL|ID|THING)\b", lambda found: named[found[0]], word) for word in one.arguments]

    def one(self, kind: str, stranger: hostile.Stranger | None, command: Command) -> None:
        """One command on one thing; a thing of None is the good one."""
        folder = Path(tempfile.mkdtemp(dir=self.work))
        thing, victim = folder / THINGS[kind], folder / "victim"
        if stranger and stranger.name.startswith("packed") and kind == "texts":
            thing = thing.with_suffix(".jsonl.gz")
        for each in (thing.parent, folder / "own"):
            each.mkdir(parents=True)
        make_victim(victim, self.good)
        place = hostile.Place(thing, self.good, victim, self.listening.canary)
        if stranger:
            stranger.make(place)
        elif kind != "server":
            copy_good(kind, place)
        theirs = thing if kind == "run folder" else thing.parent
        looked = (victim,) if command.writes or (stranger and "older" in stranger.name) else (victim, theirs)
        before, connections, heard = snapshot(*looked), self.listening.connections, len(self.listening.heard)
        words = self.words(stranger, command, str(thing.relative_to(folder)))
        ended = self.process(folder, words, {}, self.limit)
        after = snapshot(*looked)
        own = {f"{thing}{end}" for end in SIDE_FILES}  # whoever opens an archive brings its journal to an end
        changed = {path for path in {*before, *after} if before.get(path) != after.get(path)} - own
        wrong = {
            "code run": sum(Path(path).name.startswith("ran-") for path in after)
            + (self.listening.connections - connections),
            "secrets sent": sum(hostile.SECRET.encode() in each for each in self.listening.heard[heard:]),
            "bytes outside": sum(max(1, after.get(path, before.get(path))[1]) for path in changed),
            "wrong accepts": len(wrong_verdicts(ended.out)) if command.name == "verify" else 0,
            "without an end": ended.status is None,
            "tracebacks": "Traceback (most recent" in ended.out + ended.err,
            "odd endings": bool(odd := oddness(ended, 1 + command.arguments.count(";"))),
        }
        self.note(kind, stranger, command, ended, wrong, sorted(changed), odd)
        shutil.rmtree(folder, ignore_errors=True)

    def note(self, kind: str, stranger: Any, command: Command, ended: Ended, wrong: dict[str, Any],
             changed: list[str], odd: str) -> None:  # fmt: skip
        """Count what came of it."""
        with self.lock:
            if stranger is None:
                self.normal[f"{kind} {command.name}"] = ended.most_bytes
            else:
                row = self.rows[kind]
                row.tried += 1
                row.most_bytes, row.seconds = max(row.most_bytes, ended.most_bytes), max(row.seconds, ended.seconds)
                for name, count in wrong.items():
                    row.counts[name] += int(count)
            name = stranger.name if stranger else "good"
            bad = {key: int(value) for key, value in wrong.items() if value}
            if ended.most_bytes > self.normal.get(f"{kind} {command.name}", GIB) + GIB:
                bad["bytes of memory"] = ended.most_bytes
            told = (
                f"{kind}: {name}: {command.name}: {ended.status}, {ended.seconds:.0f} s, {ended.most_bytes >> 20} MiB"
            )
            last = (ended.err.strip().splitlines() or [""])[-1]
            print(f"{told}: {last[:300]!a}", flush=True)
            if bad:
                self.findings.append(f"{told}: {bad} {odd} {[Path(path).name for path in changed[:4]]}")
                print("  FOUND", self.findings[-1], ascii(ended.err[-1500:]), flush=True)

    def table(self) -> str:
        """What was tried and what came of it, by kind."""
        heads = ("things", "commands", *COUNTS, "most MiB", "longest s")
        lines = ["| " + " | ".join(("", *heads)) + " |", "| --- |" + " ---: |" * len(heads)]
        for kind, row in self.rows.items():
            cells = (kind, row.things, row.tried, *row.counts.values(), row.most_bytes >> 20, f"{row.seconds:.0f}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        return "\n".join(lines)


def copy_good(kind: str, place: hostile.Place) -> None:
    """The good thing of a kind, where a hostile one would be."""
    if kind == "archive":
        shutil.copy(place.good / "runs/good/archive.sqlite", place.thing)
    elif kind == "texts":
        shutil.copy(place.good / "five.jsonl", place.thing)
    elif kind == "settings":
        place.thing.write_text((place.good / "tiny.toml").read_text().replace("iterations = 1", "iterations = 0"))
    else:
        shutil.copytree(
            place.good / {"run folder": "runs/good", "model": "model", "results": "result"}[kind], place.thing
        )


def wrong_verdicts(out: str) -> list[str]:
    """Ids of lines whose verdict is not what their id says."""
    found = []
    for line in out.splitlines():
        with contextlib.suppress(ValueError):
            verdict = json.loads(line)
            name, accepted = str(verdict.get("id")), verdict.get("verdict") == "accepted"
            if (name.startswith("wrong") and accepted) or (name.startswith("right") and not accepted):
                found.append(name)
    return found


def oddness(ended: Ended, lines: int) -> str:
    """What is odd about an ending; an empty text for one that is in order."""
    if ended.status is None:
        return ""
    if ended.status not in STATUSES:
        return f"status {ended.status}"
    if seen := CONTROLS.search(ended.out + ended.err):
        return f"printed {seen[0]!a}"
    reasons = [line for line in ended.err.splitlines() if line.startswith("selfplay: ")]
    if ended.status >= 2 and not 1 <= len(reasons) <= lines and not ended.out:
        return f"{len(reasons)} lines say why"
    return "a line without end" if any(len(line) > MOST_LINE for line in reasons) else ""


def look(folder: Path, pid: int) -> None:
    """When `view` has printed its address: look at some pages, and end it."""
    file = folder / "out.txt"
    found = re.search(r"http://\S+", file.read_text("utf-8", "replace")) if file.exists() else None
    if not found or (folder / "looked").exists():
        return
    (folder / "looked").touch()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    base = found[0].partition("?")[0]
    for address in (found[0], f"{base}archive", f"{base}archive/puzzles", f"{base}archive/pairs.json",
                    f"{base}archive/iterations", f"{base}archive.json?sql=select+1", f"{base}archive/marks"):  # fmt: skip
        with contextlib.suppress(OSError, ValueError):
            opener.open(address, timeout=20).read(10**7)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGINT)


def walk(work: Path, strangers: Sequence[hostile.Stranger], jobs: int, protections: Any, small: bool = False,
         only: str = "", limit: float = SECONDS) -> Walk:  # fmt: skip
    """Try all commands on some strangers.

    Args:
        work: A folder for all that is made.
        strangers: The things.
        jobs: How many commands run at a time.
        protections: The sandbox's self-check.
        small: No run is made, so only what needs none can be tried.
        only: Part of the name of the commands that are tried.
        limit: Seconds in which a command must have ended.
    """
    for name in ("home", "state"):
        (work / name).mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    done = Walk(work, protections, light_server() if small else interrupted.server(), limit)
    if small:
        make_small(done.good)
    else:
        make_good(done.good, done)
    planned: list[tuple[str, hostile.Stranger | None, Command]] = []
    for kind in dict.fromkeys(each.kind for each in strangers):
        planned += [(kind, None, one) for one in COMMANDS[kind] if only in one.name and not small]
    for each in strangers:
        done.rows[each.kind].things += 1
        tried = [(each.kind, one.name) for one in COMMANDS[each.kind]]
        if small:
            tried = [(kind, name) for kind, name, things in FEW if each.name in things]
        planned += [
            (each.kind, each, one)
            for one in COMMANDS[each.kind]
            if (each.kind, one.name) in tried
            and only in one.name
            and each.command in ("", one.name)
            and not (one.name == "bench in chat" != each.command)
        ]
    with ThreadPoolExecutor(jobs) as threads:
        for outcome in [threads.submit(done.one, *each) for each in planned]:
            outcome.result()
    done.listening.close()
    return done


def main() -> int:
    """Walk everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder that is kept")
    parser.add_argument("--only", default="", help="part of the kind or the name of the things to try")
    parser.add_argument("--command", default="", help="part of the name of the commands to try")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    parser.add_argument("--few", action="store_true", help="a short walk, for a test: a dozen things")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in which a command must have ended")
    options = parser.parse_args()
    from puzzles.verify import truth_pool
    from sandbox import selfcheck

    with truth_pool(lanes=1) as pool:
        protections = selfcheck.check(pool)
    chosen = [each for each in hostile.STRANGERS if options.only in f"{each.kind}: {each.name}"]
    if options.few:
        few = {(kind, name) for kind, _, names in FEW for name in names}
        chosen = [each for each in chosen if (each.kind, each.name) in few]
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).absolute()
        done = walk(
            work, chosen, options.jobs, protections, small=options.few, only=options.command, limit=options.seconds
        )
    print(done.table())
    for finding in done.findings:
        print(finding)
    return 1 if done.findings else 0


if __name__ == "__main__":
    sys.exit(main())
