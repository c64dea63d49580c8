"""How fast an archive grows and answers, up to a million pairs, and how much memory that takes.

    python tests/benchmarks/archive.py [--pairs 1000000] [--keep FILE]

Pairs are made up, with four solutions and eight candidates for each puzzle; every tenth is added a second time and is
to be refused as a duplicate. As the loop does it, they go in by transactions of 500, and the words of each 10,000
are indexed together. The other way is what one would do without an archive: JSON lines, and the ids that were seen in
a set; it takes the same pairs, keeps less of each (no counts, no history), and can be searched by reading it all.

Raw texts are the same, parsed and normalised in sandboxed children, and added without being judged: the cost of a
judgement is that of its program.

Answers are each the first of a process of its own, with its start, which is given alone as well; pages are those of
`selfplay view`, each asked for once. Memory is the peak of the process as the kernel kept it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from puzzles.archive.store import Archive, Provenance
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Judgement, Puzzle, Verdict, VerifiedPair, content_hash
from puzzles.verify import truth_pool

ROOT = Path(__file__).parents[2]
SOLUTIONS, CANDIDATES = 4, 8
IN_TRANSACTION, IN_CHUNK, IN_PARSING, BETWEEN_INDEXING = 500, 500, 5_000, 10_000
AGAIN = 10
"""Every which pair comes twice."""
RAW_PAIRS = 20_000
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
COMMAND = [sys.executable, "-c", "import sys; from selfplay.commands.main import main; sys.exit(main())"]
PROTECTIONS = {"tier": "A"}


def made_up(pairs: int) -> Iterator[VerifiedPair]:
    """Pairs whose texts differ in words and numbers; every AGAIN-th comes twice."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(20_000)]
    for number in range(pairs // SOLUTIONS):
        one, two, three = rng.choices(words, k=3)
        source = (
            f"def f({one}: str, {two}={number}):\n    parts = {one}.split('-')\n"
            f"    return len(parts) == {two} % 7 + 1 and parts[0] == {three!r} and sum(map(len, parts)) > {number % 90}"
        )
        skeleton = f"{number % 5_000:016x}"
        puzzle = Puzzle(source, "str", "def g():", content_hash(source), skeleton, frozenset(), description="")
        for place in range(SOLUTIONS):
            text = (
                f"def g():\n    {one} = {three!r}\n    return '-'.join([{one}] + ['{rng.choice(words)}'] * {place + 2})"
            )
            pair = VerifiedPair(
                puzzle,
                Candidate(text, content_hash(text)),
                Judgement(Verdict.ACCEPTED, "", repr(text[-40:]), 1e-3, 1e-3),
            )
            yield pair
            if (number * SOLUTIONS + place) % AGAIN == 0:
                yield pair


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def into_archive(file: Path, pairs: int) -> None:
    """Print the rate and the memory by tenths."""
    print("\n| pairs in the archive | adds per second | of them indexing | peak MB | file MB |\n|---|---|---|---|---|")
    stream, tenth = made_up(pairs), pairs // 10
    with Archive(file, create=True) as archive:
        for number in range(1, 11):
            new = added = 0
            indexing, started = 0.0, time.perf_counter()
            while new < tenth:
                grown, asked = add_some(archive, stream, min(tenth - new, BETWEEN_INDEXING))
                new, added = new + grown, added + asked
                before = time.perf_counter()
                archive.index()
                indexing += time.perf_counter() - before
            seconds = time.perf_counter() - started
            size = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*")) / 1e6
            rate, share = f"{added / seconds:,.0f}", f"{indexing / seconds:.0%}"
            print(f"| {number * tenth:,} | {rate} | {share} | {peak_mb():.0f} | {size:,.0f} |", flush=True)


def add_some(archive: Archive, stream: Iterator[VerifiedPair], wanted: int) -> tuple[int, int]:
    """Add until the archive has grown by so many; returns that and how many were added, duplicates with them."""
    new = added = 0
    while new < wanted:
        with archive.transaction():
            for pair in itertools.islice(stream, min(IN_TRANSACTION, wanted - new)):
                new += bool(archive.add(pair, Provenance("model", 1), PROTECTIONS))
                added += 1
    return new, added


def into_lines(file: Path, pairs: int) -> None:
    """The other way."""
    seen: set[tuple[str, str]] = set()
    added, started = 0, time.perf_counter()
    with file.open("w", encoding="utf-8") as lines:
        for pair in made_up(pairs):
            added += 1
            if (identity := (pair.puzzle.id, pair.solution.id)) not in seen:
                seen.add(identity)
                lines.write(json.dumps({"puzzle": pair.puzzle.source, "solution": pair.solution.source}) + "\n")
    rate = added / (time.perf_counter() - started)
    print(f"JSON lines and a set: {rate:,.0f} adds per second, {peak_mb():.0f} MB, {file.stat().st_size / 1e6:,.0f} MB")


def candidates(file: Path) -> None:
    """Give each puzzle its candidates with their texts, so that counts and stories have what they tell of."""
    rng, started = random.Random(1), time.perf_counter()
    with Archive(file) as archive:
        puzzles = archive.puzzle_ids()
        for number, first in enumerate(range(0, len(puzzles), IN_CHUNK)):
            some = puzzles[first : first + IN_CHUNK]
            texts_P_K = [[f"\n    return {rng.random()}\n" for _ in range(CANDIDATES)] for _ in some]
            plan = {"puzzles": some, "copies": CANDIDATES}
            settings = {"protocol": "plain", "temperature": 1.0}
            with archive.transaction():
                archive.plan_chunk(1, "solve", number, "none", f"0/1/1/{number}", settings, plan)
                chunk = archive.query("SELECT max(id) FROM chunks")[0][0]
                archive.set_completions(chunk, texts_P_K, 512, 0, 0, 0.0, 0.0)
                for place, identifier in enumerate(some):
                    held = rng.randrange(CANDIDATES + 1)
                    for copy in range(CANDIDATES):
                        verdict = Verdict.ACCEPTED if copy < held else Verdict.WRONG_ANSWER
                        judgement = Judgement(verdict, "", "1", 1e-3, 1e-3)
                        archive.add_candidate(chunk, place * CANDIDATES + copy, identifier, None, judgement)
                archive.set_judged(chunk, 0.0, 0.0)
    number = CANDIDATES * len(puzzles)
    print(f"{number:,} candidates: {number / (time.perf_counter() - started):,.0f} per second")


def from_raw_texts(file: Path, pairs: int) -> None:
    """Parse in children, normalise, and add."""
    texts = [(pair.puzzle.source, pair.solution.source) for pair in made_up(pairs)]
    with truth_pool() as pool, Archive(file, create=True) as archive:
        started = time.perf_counter()
        for first in range(0, len(texts), IN_PARSING):
            some = texts[first : first + IN_PARSING]
            puzzles = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in some])
            solutions = parse_candidates(pool, [Text(solution) for _, solution in some])
            with archive.transaction():
                for puzzle, solution in zip(puzzles, solutions, strict=True):
                    assert isinstance(puzzle, Puzzle), puzzle
                    assert isinstance(solution, Candidate), solution
                    held = VerifiedPair(puzzle, solution, Judgement(Verdict.ACCEPTED, "", "1", 1e-3, 1e-3))
                    archive.add(held, Provenance("rule"), PROTECTIONS)
        archive.index()
        print(f"raw texts: {len(texts) / (time.perf_counter() - started):,.0f} adds per second")


def answers(file: Path) -> None:
    """What people ask, each by a command of its own."""
    with Archive(file) as archive:
        identifier, source = archive.query("SELECT id, source FROM puzzles ORDER BY number LIMIT 1 OFFSET 1000")[0]
        number = archive.query("SELECT count(*) FROM puzzles")[0][0]
    word = source.partition(": ")[0].removeprefix("def f(")
    asked = {
        "(the command's start)": ["runs"], "first page": ["archive", "list", file],
        "last page": ["archive", "list", file, "--offset", str(number - 50)],
        "the hardest": ["archive", "list", file, "--sort", "hardest"],
        "search": ["archive", "list", file, "--search", word],
        "search for what is everywhere": ["archive", "list", file, "--search", "split"],
        "one puzzle": ["archive", "show", file, identifier], "its story": ["archive", "why", file, identifier],
        "stats": ["archive", "stats", file],
    }  # fmt: skip
    print("\n| asked | seconds | peak MB |\n|---|---|---|")
    for name, arguments in asked.items():
        started = time.perf_counter()
        command = subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(command.pid, 0)
        assert os.waitstatus_to_exitcode(status) < 2, arguments  # 1: these pairs have no history
        print(f"| {name} | {time.perf_counter() - started:.2f} | {usage.ru_maxrss / 1024:.0f} |", flush=True)


def pages(file: Path) -> None:
    """What a browser asks `selfplay view` for."""
    with Archive(file) as archive:
        identifier, source = archive.query("SELECT id, source FROM puzzles ORDER BY number LIMIT 1 OFFSET 1000")[0]
        number = archive.query("SELECT count(*) FROM puzzles")[0][0]
    word = source.partition(": ")[0].removeprefix("def f(")
    asked = {
        "start page": "", "puzzles": "puzzles", "puzzles, the last page": f"puzzles?page={number // 50}",
        "the hardest": "puzzles?sort=hardest", "search": f"puzzles?words={word}",
        "search for what is everywhere": "puzzles?words=split", "one puzzle": f"puzzle/{identifier}", "pairs": "pairs",
        "pairs, the last page": f"pairs?page={number * SOLUTIONS // 50}", "a table of datasette": "archive/puzzles",
    }  # fmt: skip
    print("\n| page | seconds |\n|---|---|")
    started = time.perf_counter()
    command = [*COMMAND, "view", str(file), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            address, _, token = server.stdout.readline().split()[1].partition("?token=")
            print(f"| (from the command to its address) | {time.perf_counter() - started:.2f} |")
            for name, place in asked.items():
                started = time.perf_counter()
                request = urllib.request.Request(address + place, headers={"Cookie": f"selfplay-view={token}"})
                with urllib.request.urlopen(request) as answer:
                    answer.read()
                print(f"| {name} | {time.perf_counter() - started:.2f} |", flush=True)
        finally:
            server.terminate()
        _, status, usage = os.wait4(server.pid, 0)
        assert status == 0
    print(f"\nits peak: {usage.ru_maxrss / 1024:.0f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="where the archive is kept; none may be there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = (options.keep or Path(folder) / "archive.sqlite").absolute()
        if file.exists():
            parser.error(f"--keep {file}: there is something already")
        # Peaks are of processes that do one thing.
        parts = (into_archive, (file, options.pairs)), (into_lines, (Path(folder) / "lines.jsonl", options.pairs))
        parts += ((candidates, (file,)), (from_raw_texts, (Path(folder) / "raw.sqlite", RAW_PAIRS)))
        for function, arguments in parts:
            process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{function.__name__} failed")
        answers(file)
        pages(file)


if __name__ == "__main__":
    main()
