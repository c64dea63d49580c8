"""`selfplay verify`: judge pairs of puzzle and solution."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from selfplay.commands.grammar import command, natural, positive, seconds
from selfplay.commands.terminal import bars

if TYPE_CHECKING:
    from sandbox.pool import Pool


def add_verify(commands: Any) -> None:
    """Declare `verify`."""
    parser = command(commands, "verify", _verify, "judge pairs of puzzle and solution", "verify pairs.jsonl")
    parser.add_argument("file", help='JSONL file of {"id"?, "puzzle", "solution"}, may be .gz; - reads standard input')
    parser.add_argument(
        "--format", default="jsonl", choices=["jsonl", "codex"],
        help="codex: solutions are expressions or bodies without a header, as in P3's Codex results",
    )  # fmt: skip
    parser.add_argument("--shard", metavar="I/N", help="judge only every N-th pair, from the I-th on")
    parser.add_argument("--cpu-seconds", type=seconds, default=1.0, help="CPU time of one child, in seconds")
    parser.add_argument("--memory-mb", type=positive, default=512, help="memory of one child, in MiB")
    parser.add_argument(
        "--lanes", type=natural, default=0, help="sandbox children that run at the same time; 0: one per core"
    )
    parser.add_argument("--batch", type=positive, default=500, help="number of pairs judged together")
    parser.add_argument(
        "--module", action="append", help="module that programs may import beside the pure ones; may be repeated"
    )


def _verify(options: argparse.Namespace) -> int:
    from puzzles.archive.formats import open_text, read_pairs
    from selfplay.config import SandboxConfig
    from selfplay.run.pools import proven_pool
    from selfplay.run.shard import parse_part

    sandbox = SandboxConfig(
        cpu_seconds=options.cpu_seconds, wall_seconds=max(5.0, 5 * options.cpu_seconds), memory_mb=options.memory_mb,
        lanes=options.lanes, modules=tuple(options.module or ()),
    )  # fmt: skip
    part = None if options.shard is None else parse_part(options.shard)
    is_piped, escaped = options.file == "-", "surrogateescape"
    if is_piped and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors=escaped)
    source = contextlib.nullcontext(sys.stdin) if is_piped else open_text(Path(options.file), escaped)
    count = bars().counter(0, "verify", "pair")
    with source as file, proven_pool(sandbox, 0) as (pool, _):
        pairs = read_pairs(file, "standard input" if is_piped else options.file, options.format)
        if part:
            pairs = itertools.islice(pairs, part.number - 1, None, part.parts)
        for batch in _batches(pairs, options.batch):
            _print_verdicts(pool, batch, options.format)
            count(len(batch))
    return 0


def _batches(pairs: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Pairs in batches. Pairs read before a broken line are yielded before the error is raised."""
    while True:
        batch: list[Any] = []
        wrong: InputError | None = None
        try:
            for raw in itertools.islice(pairs, size):
                batch.append(raw)
        except InputError as error:
            wrong = error
        yield batch
        if wrong:
            raise wrong
        if len(batch) < size:
            return


def _print_verdicts(pool: Pool, raws: list[Any], form: str) -> None:
    from puzzles.archive.formats import with_header
    from puzzles.parse import Text, parse_puzzles
    from puzzles.puzzle import Puzzle
    from puzzles.verify import verify_texts

    texts = [(raw.puzzle, raw.solution) for raw in raws]
    if form == "codex":
        parsed = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws])
        headers = [puzzle.header if isinstance(puzzle, Puzzle) else "def g():" for puzzle in parsed]
        texts = [(raw.puzzle, with_header(raw, header)) for raw, header in zip(raws, headers, strict=True)]
    for raw, judgement in zip(raws, verify_texts(pool, texts), strict=True):
        line = {
            "id": raw.id, "verdict": judgement.verdict, "detail": judgement.detail, "answer": judgement.answer,
            "cpu_ms": round(1000 * judgement.cpu_seconds, 3),
            **({"left_out": judgement.left_out} if judgement.left_out else {}),
        }  # fmt: skip
        print(json.dumps(line), flush=True)
