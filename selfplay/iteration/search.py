"""Search for what the model did not find: programs that solved other puzzles are tried on those it could not solve.

The puzzles are those of which no candidate of the iteration was right. Each gets programs of the model's that solve
puzzles with the same type of answer, with some constants replaced (`puzzles.rules.porting`). A program that the puzzle
accepts is a verified solution like any other. Its origin is `search`, so it is counted apart, and the model learns it
beside what it found itself. Nothing is sampled, and no score is made with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from puzzles.archive.store import OWN, QUARANTINED, Archive, Chunk, Provenance
from puzzles.parse import ParseFailure, Text, parse_candidates
from puzzles.puzzle import Candidate, InputError, Judgement, Puzzle, Verdict, VerifiedPair
from puzzles.rules.porting import Porting, ported
from puzzles.verify import verify
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration import solve
from selfplay.iteration.training_set import iterations_learned
from selfplay.iteration.vary import INAPPLICABLE
from selfplay.sampling.chunks import ChunkSamples
from selfplay.sampling.cost import Watch, judging_watch
from selfplay.sampling.sampler import Sampled
from selfplay.sampling.streams import Stream

STAGE = "search"
ORIGIN = "search"
"""Origin of the solutions that were found so."""
CPU_SECONDS = 0.05
"""CPU limit of a program. Of 41 puzzles that a search had solved with .25 s, 36 needed no more, and programs that meet
a limit were most of its cost."""


def plan(archive: Archive, iteration: int, config: RunConfig, checkpoint: str, minute: int = 0) -> None:
    """Plan the iteration's programs: for each the puzzle, the pair whose solution it is made of, and the seed.

    A chunk has `config.chunk_texts` of them, or if that is 0 as many as a `minute` has.
    """
    per_chunk = config.chunk_texts or minute
    rng = np.random.default_rng([config.seed, iteration, Stream.SEARCH])
    stock = _stock(archive)
    chosen: list[dict[str, Any]] = []
    learned = iterations_learned(archive, config, iteration)
    for puzzle, kind in unsolved(archive, iteration, config.search.most_puzzles, learned):
        programs = stock.get(kind, [])
        for place in rng.integers(len(programs), size=config.search.programs_per_puzzle if programs else 0):
            solved, solution = programs[place]
            chosen.append({"puzzle": puzzle, "of": solved, "program": solution, "seed": int(rng.integers(2**31))})
    with archive.transaction():
        for number, start in enumerate(range(0, len(chosen), per_chunk)):
            seed = f"{config.seed}/{iteration}/{Stream.SEARCH}/{number}"
            content = {"programs": chosen[start : start + per_chunk]}
            archive.plan_chunk(iteration, STAGE, number, checkpoint, seed, {}, content)


def unsolved(archive: Archive, iteration: int, most: int, learned: Sequence[int]) -> list[tuple[str, str]]:
    """Ids and answer types of puzzles that the iteration tried in vain, at most so many.

    Those are left out that a search of the `learned` iterations has solved. Training puzzles come first, then the run's
    own, the newest first.
    """
    rows = archive.query(
        "SELECT p.id, p.answer_type FROM puzzles p JOIN (SELECT c.puzzle, sum(c.verdict = 'accepted') AS accepted"
        f"  FROM candidates c JOIN chunks k ON k.id = c.chunk WHERE k.iteration = ? AND k.stage IN {solve.STAGES}"
        f"  GROUP BY 1) t ON t.puzzle = p.id WHERE t.accepted = 0 AND NOT {QUARANTINED}"
        " AND NOT EXISTS (SELECT 1 FROM solutions s WHERE s.puzzle = p.id AND s.origin = ?"
        "  AND s.iteration IN (SELECT value FROM json_each(?)))"
        f" ORDER BY {OWN.format('p.origin')}, p.number DESC LIMIT ?",
        iteration,
        ORIGIN,
        json.dumps([*learned]),
        most,
    )
    return [(row["id"], row["answer_type"]) for row in rows]


def _stock(archive: Archive) -> dict[str, list[tuple[str, str]]]:
    """Programs by the type of their answers: ids of a puzzle and of its solution.

    They are the programs that ask their puzzle about answers, where there are any: these go through many answers.
    """
    rows = archive.query(
        "SELECT p.answer_type, s.puzzle, s.id, instr(s.source, 'f(') > 0 AS asks FROM solutions s"
        f" JOIN puzzles p ON p.id = s.puzzle WHERE s.origin IN ('model', ?) AND NOT {QUARANTINED} ORDER BY s.number",
        ORIGIN,
    )
    asking = {row["answer_type"] for row in rows if row["asks"]}
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, puzzle, solution, asks in rows:
        if asks or kind not in asking:
            found.setdefault(kind, []).append((puzzle, solution))
    return found


def make(archive: Archive, chunk: Chunk, pool: Pool) -> ChunkSamples:
    """The texts of a planned chunk's programs; a text is empty if none can be made."""
    watch = Watch()
    items = chunk.plan["programs"]
    puzzles = {identifier: archive.puzzle(identifier).source for identifier in {item["puzzle"] for item in items}}
    pairs = {(item["of"], item["program"]) for item in items}
    sql = "SELECT source FROM solutions WHERE (puzzle, id) = (?, ?)"
    programs = {pair: row["source"] for pair in pairs for row in archive.query(sql, *pair)}
    if missing := sorted(pairs - programs.keys()):
        raise InputError(f"{archive.path}, chunk {chunk.id}: the solution {missing[0][1]} that it names is missing")
    portings = [Porting(programs[i["of"], i["program"]], puzzles[i["puzzle"]], i["seed"]) for i in items]
    return ChunkSamples.of([text or "" for text in ported(pool, portings)], Sampled([]), watch)


def judge(archive: Archive, chunk: Chunk, pool: Pool, protections: dict[str, object]) -> None:
    """Judge a chunk's programs, keep what became of each, and add the verified pairs."""
    assert chunk.completions is not None
    watch, texts = judging_watch(pool), chunk.completions
    puzzles = {identifier: archive.puzzle(identifier) for identifier in {i["puzzle"] for i in chunk.plan["programs"]}}
    asked = [puzzles[item["puzzle"]] for item in chunk.plan["programs"]]
    own = solve.made_here(archive, [*puzzles])
    parsed = parse_candidates(pool, [Text(text) for text in texts])
    pairs = [(p, c) for p, c in zip(asked, parsed, strict=True) if not isinstance(c, ParseFailure)]
    judgements = iter(verify(pool, pairs, min(CPU_SECONDS, pool.limits.cpu_seconds)))
    with archive.transaction():
        for position, (puzzle, candidate) in enumerate(zip(asked, parsed, strict=True)):
            if isinstance(candidate, ParseFailure):
                outcome, detail = (candidate.rule, candidate.detail) if texts[position] else (INAPPLICABLE, "")
            else:
                judgement: Judgement = next(judgements)
                judgement = solve.strictly(pool, judgement) if puzzle.id in own else judgement
                outcome, detail = str(judgement.verdict), judgement.detail
                if judgement.verdict == Verdict.ACCEPTED:
                    provenance = Provenance(ORIGIN, chunk.iteration, chunk.id, position)
                    archive.add(VerifiedPair(puzzle, candidate, judgement), provenance, protections)
            archive.add_proposal(chunk.id, position, outcome, detail, puzzle.id)
        archive.set_judged(chunk.id, watch.seconds(), watch.cpu_seconds())


def found(archive: Archive, iterations: Sequence[int], most_per_puzzle: int) -> list[tuple[Puzzle, Candidate]]:
    """The pairs that searches of these iterations found, at most so many of a puzzle, in the puzzles' order.

    Of more they are the first by their hashes, which is as good as random.
    """
    rows = archive.query(
        "SELECT s.puzzle, s.id, s.source FROM (SELECT *, row_number() OVER (PARTITION BY puzzle ORDER BY id) AS place"
        "  FROM solutions WHERE origin = ? AND iteration IN (SELECT value FROM json_each(?))) s"
        f" JOIN puzzles p ON p.id = s.puzzle WHERE s.place <= ? AND NOT {QUARANTINED} ORDER BY p.number, s.place",
        ORIGIN,
        json.dumps([*iterations]),
        most_per_puzzle,
    )
    return [(archive.puzzle(row["puzzle"]), Candidate(row["source"], row["id"])) for row in rows]
