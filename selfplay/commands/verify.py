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
from selfplay.commands.grammar import add_limits, add_worlds, command, positive, sandbox_of
from selfplay.commands.status_line import LINE
from selfplay.commands.terminal import on_screen

if TYPE_CHECKING:
    from sandbox.pool import Pool


def add_verify(commands: Any) -> None:
    """Declare `verify`."""
    parser = command(commands, "verify", _verify, "judge pairs of puzzle and solution", "verify puzzles/train.jsonl")
    parser.add_argument(
        "file",
        help='JSONL file of {"id"?, "puzzle", "solution"}, may be .gz; - reads standard input; or a .py file with both',
    )
    parser.add_argument(
        "--format", default="jsonl", choices=["jsonl", "codex"],
        help="codex: solutions are expressions or bodies without a header, as in P3's Codex results",
    )  # fmt: skip
    parser.add_argument("--shard", metavar="I/N", help="judge only every N-th pair, from the I-th on")
    add_limits(parser)
    add_worlds(parser)
    parser.add_argument("--batch", type=positive, default=500, help="number of pairs judged together")
    parser.add_argument(
        "--module", action="append", help="module that programs may import beside the pure ones; may be repeated"
    )


def _verify(options: argparse.Namespace) -> int:
    from puzzles.archive.formats import all_refused
    from puzzles.archive.worlds import drawn
    from selfplay.run.pools import proven_pool
    from selfplay.run.shard import parse_part

    part = None if options.shard is None else parse_part(options.shard)
    count, refused = on_screen().counter(0, "verify", "pair"), list[str]()
    sandbox, seed = sandbox_of(options, options.module or ()), drawn() if options.worlds is None else options.worlds
    with _pairs(options) as pairs, proven_pool(sandbox, seed) as (pool, _):
        if part:
            pairs = itertools.islice(pairs, part.number - 1, None, part.parts)
        for batch in _batches(pairs, options.batch):
            refused += _print_verdicts(pool, batch, options.format)
            count(len(batch))
    if refused:
        raise InputError(all_refused(refused))
    if options.worlds is None:
        print(f"judged in worlds of a new seed; for the same again: --worlds {seed}", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _pairs(options: argparse.Namespace) -> Iterator[Iterator[Any]]:
    """The pairs of the file, while it is open. A `.py` file is the puzzle and the solution in one."""
    from puzzles.archive.formats import RawPair, open_text, read_pairs, read_program

    path, is_piped, escaped = Path(options.file), options.file == "-", "surrogateescape"
    if path.suffix == ".py":
        text = read_program(path)
        yield iter([RawPair(path.stem, text, text)])
        return
    if is_piped and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors=escaped)
    with contextlib.nullcontext(sys.stdin) if is_piped else open_text(path, escaped) as file:
        yield read_pairs(file, "standard input" if is_piped else options.file, options.format)


def _batches(pairs: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Pairs in batches. Pairs read before a file breaks off are yielded before the error is raised."""
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


def _print_verdicts(pool: Pool, raws: list[Any], form: str) -> list[str]:
    """Print a verdict for each line, and return what was wrong with lines that hold no pair."""
    from puzzles.archive.formats import RawPair, with_header
    from puzzles.parse import Text, parse_puzzles
    from puzzles.puzzle import Judgement, Puzzle, Verdict
    from puzzles.verify import verify_texts
    from selfplay.judge.pairs import judged

    pairs = [raw for raw in raws if isinstance(raw, RawPair)]
    texts = [(raw.puzzle, raw.solution) for raw in pairs]
    if form == "codex":
        parsed = parse_puzzles(pool, [Text(raw.puzzle) for raw in pairs])
        headers = [puzzle.header if isinstance(puzzle, Puzzle) else "def g():" for puzzle in parsed]
        texts = [(raw.puzzle, with_header(raw, header)) for raw, header in zip(pairs, headers, strict=True)]
    judgements = iter(verify_texts(pool, texts))
    refused = []
    for raw in raws:
        if isinstance(raw, RawPair):
            judgement = next(judgements)
        else:
            refused.append(raw.detail)
            judgement = Judgement(
                Verdict.INVALID_SOLUTION if raw.has_puzzle else Verdict.INVALID_PUZZLE, f"format: {raw.detail}"
            )
        with LINE.hidden():
            print(json.dumps(judged(raw.id, judgement).to_json()), flush=True)
    return refused
