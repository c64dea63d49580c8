"""Exports of an archive in common formats: puzzles, pairs or training text.

    jsonl        one line per puzzle with its solutions; `archive import` reads it
    parquet      one row per pair with its history
    datasets     a folder for `datasets.load_dataset`: the pairs and a card
    text         f, g and `assert f(g())`, as the ancestor trained on (arXiv:2207.14502, ICLR2023/src/preprocess.py)
    chat         messages that teach to solve and to propose
    preferences  an accepted and a failed solution of the same puzzle
    trl          a prompt and the puzzle, for the online trainers of TRL and `selfplay.adapters.trl_reward`

The last four are for training and leave out puzzles in quarantine.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from puzzles.archive.store import CANDIDATES_N_C, QUARANTINED, Archive
from puzzles.foreign import parse_json
from puzzles.parse import Text, parse_candidates
from puzzles.puzzle import FAILED, Candidate, InputError, Puzzle
from puzzles.writing import folder_atomically, path_atomically
from sandbox.pool import Pool
from selfplay.iteration.solve import STAGES, text_at
from selfplay.run.rundir import SET_NAMES, RunDir
from selfplay.run.sessions import version_of
from selfplay.sampling.prompts import kept_format, propose_completion, propose_prompt, solve_completion, solve_prompt
from selfplay.settings import load
from selfplay.text import code, interval, markdown

FORMATS = {
    "jsonl": "puzzles and their solutions", "parquet": "pairs", "datasets": "pairs, and a card", "text": "texts",
    "chat": "conversations", "preferences": "preferences", "trl": "prompts",
}  # fmt: skip
"""The formats, and what is counted in each."""
SOLUTIONS_PER_PUZZLE = 8
"""Most solutions per puzzle in training formats, the shortest first; the ancestor's number."""
PREFERENCES_PER_PUZZLE = 8
ROWS_AT_ONCE = 10_000

PAIR_COLUMNS = (
    """
    p.id AS puzzle_id, s.id AS solution_id, p.name, p.source AS puzzle, s.source AS solution, s.answer, p.answer_type,
    p.skills, p.difficulty, p.origin AS puzzle_origin, s.origin AS solution_origin, p.iteration AS puzzle_iteration,
    s.iteration AS solution_iteration, p.parents,
    k.checkpoint, k.seed, k.settings, json_extract(r.content, '$.tier') AS tier, s.added_at,
    (SELECT json_group_array(t.iteration) FROM trained t WHERE t.puzzle = p.id AND t.solution = s.id) AS trained_in,
"""
    + f"    {CANDIDATES_N_C}, {QUARANTINED} AS quarantined"
)
JSON_COLUMNS = ("skills", "parents", "trained_in")
COLUMNS = {
    "puzzle_id": ("string", "hash of the puzzle's normal form: programs that differ only in names and layout share it"),
    "solution_id": ("string", "the same of the solution"),
    "name": ("string", "the puzzle's name; empty if it has none"),
    "puzzle": ("string", "the puzzle: a Python function `f` that returns True for a right answer"),
    "solution": ("string", "the solution: a Python function `g` whose answer `f` accepts"),
    "answer": ("string", "what `g` returned, as a Python literal; null if it is too long"),
    "answer_type": ("string", "type of the answer, such as `List[int]`"),
    "skills": ("list of string", "skills that the puzzle asks for; only of puzzles that people wrote"),
    "difficulty": ("int64", "difficulty that its author gave; null if none did"),
    "puzzle_origin": ("string", "who wrote the puzzle: `human`, `rule`, `import`, `model`, `variant`"),
    "solution_origin": ("string", "who wrote the solution; a `variant` was made by rule from other puzzles"),
    "puzzle_iteration": ("int64", "iteration of the run in which the puzzle came; 0 before the first"),
    "solution_iteration": ("int64", "iteration in which the solution was first found"),
    "parents": ("list of string", "ids of the puzzles that the prompt showed, or that a variant was made from"),
    "checkpoint": ("string", "hash of the weights that wrote the solution; null if no model did"),
    "seed": ("string", "seed of the chunk in which the solution was sampled; null if it was not"),
    "settings": ("string", "how that chunk was sampled, as JSON; null if it was not"),
    "tier": ("string", "protections of the sandbox that confirmed the pair: tier `A`, `B` or `D`"),
    "added_at": ("float64", "when the pair was confirmed, in seconds since 1970"),
    "trained_in": ("list of int64", "iterations whose checkpoints learned from the pair"),
    "n": ("int64", "candidates of the puzzle that were judged"),
    "c": ("int64", "those of them that were accepted"),
    "quarantined": ("bool", "whether to leave the pair out of training: two worlds judged the puzzle differently, it is"
                    " too near to a held-out puzzle, or its iteration was rolled back"),
}  # fmt: skip
"""The columns of `parquet` and `datasets`: type, and meaning."""


def puzzle_lines(archive: Archive) -> Iterator[dict[str, Any]]:
    """Every puzzle with its solutions, in the order in which they were added."""
    rows = archive.connection.execute(
        f"SELECT p.*, {CANDIDATES_N_C}, {QUARANTINED} AS quarantined FROM puzzles p ORDER BY number"
    )
    for row in rows:
        solutions = archive.query("SELECT source, answer FROM solutions WHERE puzzle = ? ORDER BY number", row["id"])
        yield {
            "id": row["id"], "name": row["name"] or row["id"], "puzzle": row["source"],
            "solutions": [solution["source"] for solution in solutions],
            "answers": [solution["answer"] for solution in solutions],
            "answer_type": row["answer_type"], "skills": parse_json(row["skills"], "skills"),
            "difficulty": row["difficulty"],
            "description": row["description"], "origin": row["origin"], "iteration": row["iteration"],
            "parents": parse_json(row["parents"], "parents"), "n": row["n"], "c": row["c"],
            "quarantined": bool(row["quarantined"]),
        }  # fmt: skip


def pair_rows(archive: Archive) -> Iterator[dict[str, Any]]:
    """Every verified pair with its history, in the order in which they were added."""
    rows = archive.connection.execute(
        f"SELECT {PAIR_COLUMNS} FROM solutions s JOIN puzzles p ON p.id = s.puzzle LEFT JOIN chunks k ON k.id = s.chunk"
        " LEFT JOIN protections r ON r.id = s.protections ORDER BY s.number"
    )
    for row in rows:
        pair = dict(row) | {name: parse_json(row[name], name) for name in JSON_COLUMNS}
        yield pair | {"quarantined": bool(row["quarantined"])}


def training_pairs(archive: Archive) -> list[tuple[Puzzle, Candidate]]:
    """The pairs to train on: the shortest distinct solutions of each puzzle that is not in quarantine."""
    return archive.choose(SOLUTIONS_PER_PUZZLE)


def texts(archive: Archive) -> Iterator[str]:
    """Each training pair in the ancestor's form, without repetitions."""
    seen = set()
    for puzzle, solution in training_pairs(archive):
        text = f"{puzzle.source}\n\n{solution.source}\n\nassert f(g())\n"
        if text not in seen:
            seen.add(text)
            yield text


def chats(archive: Archive) -> Iterator[dict[str, Any]]:
    """Each training pair as a conversation that solves, and each puzzle once as a conversation that proposes."""
    proposed = set()
    for puzzle, solution in training_pairs(archive):
        yield _messages("solve", puzzle, solve_prompt("chat", puzzle).text, solve_completion("chat", puzzle, solution))
        if puzzle.id not in proposed:
            proposed.add(puzzle.id)
            yield _messages("propose", puzzle, propose_prompt("chat").text, propose_completion("chat", puzzle))


def _messages(role: str, puzzle: Puzzle, asked: str, answered: str | None) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"role": role, "puzzle_id": puzzle.id, "messages": messages}


def preferences(archive: Archive, pool: Pool) -> Iterator[dict[str, Any]]:
    """Pairs of an accepted solution and a failed program of the same puzzle. Each is used once."""
    chosen: dict[str, list[tuple[Puzzle, Candidate]]] = {}
    for puzzle, solution in training_pairs(archive):
        chosen.setdefault(puzzle.id, []).append((puzzle, solution))
    for identifier, pairs in chosen.items():
        failed = _failed(archive, pool, pairs[0][0])
        for (puzzle, solution), (candidate, verdict) in itertools.islice(
            zip(pairs, failed, strict=False), PREFERENCES_PER_PUZZLE
        ):
            yield {
                "puzzle_id": identifier, "prompt": solve_prompt("chat", puzzle).text,
                "chosen": solve_completion("chat", puzzle, solution),
                "rejected": solve_completion("chat", puzzle, candidate), "rejected_verdict": verdict,
            }  # fmt: skip


def _failed(archive: Archive, pool: Pool, puzzle: Puzzle) -> list[tuple[Candidate, str]]:
    """Distinct candidates of a puzzle that are programs and failed, the shortest first."""
    marks = ", ".join("?" for _ in FAILED)
    rows = archive.query(
        f"SELECT k.chunk, k.position, k.verdict FROM candidates k JOIN chunks c ON c.id = k.chunk WHERE k.puzzle = ?"
        f" AND c.stage IN {STAGES} AND k.candidate IS NOT NULL AND k.verdict IN ({marks})"
        " GROUP BY k.candidate ORDER BY k.chunk, k.position",
        puzzle.id,
        *FAILED,
    )
    found: list[tuple[Text, str]] = []
    for number, group in itertools.groupby(rows, lambda row: row["chunk"]):
        chunk = archive.chunk(number)
        prompt = solve_prompt(kept_format(chunk.settings), puzzle)
        for row in group:
            if (text := text_at(chunk, row["position"])) is not None:
                found.append((prompt.parsed_text(text), row["verdict"]))
    candidates = parse_candidates(pool, [text for text, _ in found])
    programs = [(c, verdict) for c, (_, verdict) in zip(candidates, found, strict=True) if isinstance(c, Candidate)]
    return sorted(programs, key=lambda item: (len(item[0].source), item[0].id))


def prompts(archive: Archive) -> Iterator[dict[str, Any]]:
    """Each puzzle that is not in quarantine, as a conversation that asks for a solution, with the puzzle's own text.

    `n` candidates of it were judged and `c` accepted, so rows may be chosen by their difficulty.
    """
    counts = archive.query(f"SELECT p.id, {CANDIDATES_N_C} FROM puzzles p WHERE NOT {QUARANTINED} ORDER BY number")
    for row in counts:
        puzzle = archive.puzzle(row["id"])
        messages = [{"role": role, "content": text} for role, text in solve_prompt("chat", puzzle).turns]
        yield {
            "puzzle_id": puzzle.id, "prompt": messages, "puzzle": puzzle.judged[0], "n": row["n"], "c": row["c"],
        }  # fmt: skip


def write(archive: Archive, out: Path, file_format: str, pool: Pool | None, licence: str) -> int:
    """Write an export, completely or not at all. It replaces what was there.

    Args:
        archive: The archive to export.
        out: A file, or with `datasets` a folder.
        file_format: One of FORMATS.
        pool: A sandbox that parses failed candidates; needed for `preferences` only.
        licence: The licence named in the card of `datasets`.

    Returns:
        The number of lines, rows or texts.

    Raises:
        InputError: A package is missing, or there is nothing to write.
    """
    archive.check()
    if file_format == "datasets":
        with folder_atomically(out) as part:
            (part / "data").mkdir()
            count = _lines(part / "data" / "pairs.jsonl", pair_rows(archive))
            (part / "README.md").write_text(card(archive, licence), "utf-8")
        return count
    with path_atomically(out) as part:
        return _write_file(archive, part, file_format, pool)


def _write_file(archive: Archive, path: Path, file_format: str, pool: Pool | None) -> int:
    match file_format:
        case "parquet":
            return _parquet(path, pair_rows(archive))
        case "text":
            written = list(texts(archive))
            path.write_text("\n".join(written), "utf-8")
            return len(written)
        case "preferences":
            assert pool is not None
            return _lines(path, preferences(archive, pool))
        case "chat":
            return _lines(path, chats(archive))
        case "trl":
            return _lines(path, prompts(archive))
        case _:
            return _lines(path, puzzle_lines(archive))


def _lines(path: Path, records: Iterator[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _parquet(path: Path, records: Iterator[dict[str, Any]]) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("parquet: the package is not installed: pip install '.[parquet]'") from None
    kinds = {
        "string": pyarrow.string(),
        "int64": pyarrow.int64(),
        "float64": pyarrow.float64(),
        "bool": pyarrow.bool_(),
    }
    kinds |= {f"list of {name}": pyarrow.list_(kinds[name]) for name in ("string", "int64")}
    schema = pyarrow.schema([(name, kinds[kind]) for name, (kind, _) in COLUMNS.items()])
    writer, count = None, 0
    while batch := list(itertools.islice(records, ROWS_AT_ONCE)):
        writer = writer or pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))
        count += len(batch)
    if writer is None:
        raise InputError("parquet: the archive has no pair to write")
    writer.close()
    return count


CARD = """\
---
pretty_name: {pretty_name}
license: {licence}
language:
- en
task_categories:
- text-generation
tags:
- code
- synthetic
- programming-puzzles
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/pairs.jsonl
dataset_info:
  features:
{features}
---

# Verified pairs of programming puzzles and solutions

Each row is a puzzle and a solution. The puzzle is a Python function `f` that returns True for a right answer. The
solution is a function `g` whose answer the puzzle accepts. The pairs were made by self-play with selfplay-puzzles
{version}: one model proposes puzzles and samples candidates, and a sandboxed interpreter verifies them.

{run}{sections}

## Columns

{columns}

## Limits

A puzzle may accept an answer that its author did not intend. Code written by a model is untrusted: run it only in a
sandbox.

## Intended use

Research on self-play, program synthesis and verification. Do not score a model that was trained on these pairs on the
same puzzles.
"""
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
"""The hub's names for sizes, by the number of rows that is too many for each."""


def card(archive: Archive, licence: str) -> str:
    """A dataset card: the run, the origins of the pairs, how they were sampled and confirmed, the contamination found,
    and every column.
    """
    by_chunk = "count(*) FROM solutions s JOIN chunks k ON k.id = s.chunk GROUP BY 1 ORDER BY min(k.id)"
    sections = {
        "Pairs by who wrote the solution": "SELECT origin, count(*) FROM solutions GROUP BY 1",
        "Puzzles by who wrote them": "SELECT origin, count(*) FROM puzzles GROUP BY 1",
        "Pairs by iteration": "SELECT iteration, count(*) FROM solutions GROUP BY 1 ORDER BY 1",
        "Puzzles by answer type": "SELECT answer_type, count(*) n FROM puzzles GROUP BY 1 ORDER BY n DESC, 1",
        "Candidates by verdict": "SELECT verdict, count(*) n FROM candidates GROUP BY 1 ORDER BY n DESC, 1",
        "Pairs by the weights that wrote them": f"SELECT k.checkpoint, {by_chunk}",
        "Pairs by how they were sampled": f"SELECT k.settings, {by_chunk}",
        "Pairs by the protections under which they were confirmed": "SELECT 'tier '"
        " || coalesce(json_extract(r.content, '$.tier'), 'unknown'), count(*) FROM solutions s"
        " LEFT JOIN protections r ON r.id = s.protections GROUP BY 1",
    }
    counted = {title: archive.counts(sql) for title, sql in sections.items()} | {
        "Contamination": _contamination(archive)
    }
    parts = [f"## {title}\n\n{_table(counts)}" for title, counts in counted.items() if counts]
    ((pairs,),) = archive.query("SELECT count(*) FROM solutions")
    rows = [[f"`{name}`", kind, meaning] for name, (kind, meaning) in COLUMNS.items()]
    return CARD.format(
        pretty_name="Verified programming puzzles", licence=_in_yaml(licence), sections="\n\n".join(parts),
        size=next((name for most, name in SIZES.items() if pairs < most), "n>10M"), run=_run(archive.path),
        version=version_of("selfplay-puzzles") or "(not installed)", features="\n".join(map(_feature, COLUMNS)),
        columns=markdown(["column", "type", "means"], rows),
    )  # fmt: skip


def _feature(name: str) -> str:
    kind = COLUMNS[name][0]
    of = kind.removeprefix("list of ")
    return f"  - name: {name}\n    {'sequence' if of != kind else 'dtype'}: {of}"


def _run(path: Path) -> str:
    """The section about the run that made the archive: its model, seed and last scores; none without a run."""
    rundir = RunDir(path.parent)
    if path.name != rundir.archive.name or not rundir.config.is_file():
        return ""
    config, records = load(rundir.config), rundir.read_records()
    facts = {
        "run": rundir.path.absolute().name, "base model": config.model.path, "seed": str(config.seed),
        "iterations": str(max(0, len(records) - 1)),
    }  # fmt: skip
    for scored, name in SET_NAMES.items():
        having = [record for record in records if scored in record]
        for k in (key for key in having[-1][scored] if key.startswith("pass@")) if having else ():
            facts[f"{name} {k}, iteration {having[-1]['iteration']}"] = interval(having[-1][scored][k])
    rows = [[name, code(value)] for name, value in facts.items()]
    return f"## The run\n\n{markdown(['', ''], rows)}\n\n"


def _in_yaml(text: str) -> str:
    """A text as a value in YAML; JSON's texts are YAML too."""
    return text if re.fullmatch(r"[A-Za-z][\w.-]*", text) else json.dumps(text)


def _contamination(archive: Archive) -> dict[str, int]:
    """Counts of puzzles too near to a guarded one: refused when they came, or found in the archive later."""
    found = {
        f"refused, {when}, {level}": n
        for when, levels in archive.refused_levels().items()
        for level, n in levels.items()
    }
    return {**found, "in the archive, set aside": len(archive.contamination())}


def _table(counts: Mapping[str, int]) -> str:
    rows = [[code(name), f"{count:,}"] for name, count in counts.items()]
    return markdown(["", "number"], rows)
