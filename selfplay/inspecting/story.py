"""Why a puzzle is in an archive: its whole story, made from the archive's rows, with a list of what is missing.

The story is not stored as text. Prompts are rendered again from the plan of their chunk, texts are taken from the
chunk's completions, and every row that another row refers to is looked up.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puzzles.archive.catalogue import refused_proposals, row_of
from puzzles.archive.store import Archive, Chunk
from puzzles.foreign import parse_json
from puzzles.puzzle import WORLDS_DISAGREE, Verdict
from sandbox.printing import visible
from selfplay.iteration import propose, search, solve, vary
from selfplay.sampling.prompts import Prompt, kept_format
from selfplay.sampling.shots import Pair, prompt_for
from selfplay.text import Column, Table, one_line


@dataclass
class Story:
    """What is known about a puzzle, ready for JSON."""

    puzzle: dict[str, Any]
    """The puzzle's row."""
    came: dict[str, Any]
    """Where the puzzle came from: a proposal's prompt and text, a variation's sources, or the imported text."""
    solutions: list[dict[str, Any]]
    """Its solutions, each with its sampled text, its protections, and the iterations that trained on it."""
    candidates: list[dict[str, Any]]
    """All of its candidates, each with its place, text, verdict, detail and answer."""
    quarantine: list[str]
    """The reasons why the puzzle is in quarantine; empty if it is not."""
    parent_of: list[str]
    """Ids of the puzzles whose prompt showed this one, or that were made from it."""
    breaks: list[str] = field(default_factory=list)
    """Rows that are missing from the archive or contradict each other."""


def story(archive: Archive, beginning: str, shots: Sequence[Pair] | None = None) -> Story:
    """All that an archive knows about one puzzle.

    Args:
        archive: The archive with the puzzle.
        beginning: The puzzle's id, or its beginning.
        shots: The pairs that the run shows, if they are known. Otherwise prompts are shown without pairs.

    Raises:
        InputError: No puzzle has an id that begins like this, or several have.
    """
    return _Teller(archive, row_of(archive, beginning), shots or ()).tell()


def text_at(chunk: Chunk, position: int) -> str | None:
    """The text of a proposal or a candidate; None if the chunk has none at this position."""
    if chunk.stage in solve.STAGES:
        return solve.text_at(chunk, position)
    texts = chunk.completions or []
    return str(texts[position]) if position < len(texts) else None


def proposal_prompt(archive: Archive, chunk: Chunk, position: int) -> Prompt | None:
    """The prompt of a proposal; None if a puzzle that it showed is missing from the archive."""
    place = position // chunk.plan["copies"]
    plan = {**chunk.plan, "shots": chunk.plan["shots"][place : place + 1]}
    plan["begins"] = (chunk.plan.get("begins") or [None] * (place + 1))[place : place + 1]
    named = [*plan["shots"][0], *([plan["begins"][0][0]] if plan["begins"][0] else [])]
    if any(not archive.query("SELECT 1 FROM puzzles WHERE id = ?", identifier) for identifier in named):
        return None
    (prompt,) = propose.prompts(archive, plan, kept_format(chunk.settings))
    return prompt


def refused_texts(
    archive: Archive, stage: str, outcome: str | None = None, limit: int = 50, offset: int = 0
) -> list[dict[str, Any]]:
    """A page of refused proposals or variations, newest first: the columns of `refused_proposals`, and `text`.

    The text of a proposal begins with the code that its prompt ended with, such as `def f(`; it is None if missing.
    """
    rows = refused_proposals(archive, outcome, limit, offset, stage)
    chunks = {number: archive.chunk(number) for number in {row["chunk"] for row in rows}}
    told = []
    for row in rows:
        chunk, position = chunks[row["chunk"]], row["position"]
        text = text_at(chunk, position)
        prompt = proposal_prompt(archive, chunk, position) if stage == propose.STAGE and text is not None else None
        told.append({**dict(row), "text": text if prompt is None else f"{prompt.header}{text}"})
    return told


class _Teller:
    """Makes the story of one puzzle."""

    def __init__(self, archive: Archive, row: dict[str, Any], shots: Sequence[Pair]) -> None:
        self.archive, self.row, self.shots = archive, row, shots
        self.id = row["id"]
        self.breaks: list[str] = []
        self._chunks: dict[int, Chunk | None] = {}

    def tell(self) -> Story:
        for parent in self.row["parents"]:
            if not self.archive.query("SELECT 1 FROM puzzles WHERE id = ?", parent):
                self.breaks.append(f"parent {parent} is missing")
        came, candidates = self._came(), self._candidates()
        solutions = [self._solution(row) for row in self._rows("solutions", "puzzle = ? ORDER BY number")]
        self._check_accepted(candidates, {solution["id"]: solution["answer"] for solution in solutions})
        self._check_training({solution["id"] for solution in solutions})
        parent_of = self.archive.query(
            "SELECT id FROM puzzles WHERE instr(parents, ?) ORDER BY number", json.dumps(self.id)
        )
        return Story(
            self.row, came, solutions, candidates, self._quarantine(), [row["id"] for row in parent_of], self.breaks
        )

    def _rows(self, table: str, condition: str, *parameters: Any) -> list[sqlite3.Row]:
        return self.archive.query(f"SELECT * FROM {table} WHERE {condition}", self.id, *parameters)

    def _chunk(self, number: int | None, what: str) -> Chunk | None:
        if number is None:
            return None
        if number not in self._chunks:
            found = self.archive.query("SELECT 1 FROM chunks WHERE id = ?", number)
            self._chunks[number] = self.archive.chunk(number) if found else None
            if not found:
                self.breaks.append(f"chunk {number}, of {what}, is missing")
        return self._chunks[number]

    def _came(self) -> dict[str, Any]:
        number, position = self.row["chunk"], self.row["position"]
        if number is None:
            if self.row["origin"] in ("model", "variant"):
                self.breaks.append(f"the origin is {self.row['origin']}, but the chunk is not recorded")
            return {"original": self.row["original"], "name": self.row["name"]}
        chunk = self._chunk(number, "this puzzle")
        outcomes = self.archive.query("SELECT * FROM proposals WHERE chunk = ? AND position = ?", number, position)
        if not outcomes:
            self.breaks.append(f"the outcome of text {position} of chunk {number} is missing")
        elif (outcomes[0]["outcome"], outcomes[0]["puzzle"]) != ("admitted", self.id):
            self.breaks.append(f"text {position} of chunk {number} became {outcomes[0]['outcome']}, not this puzzle")
        if chunk is None:
            return {}
        where = {**_facts(chunk), "position": position, "text": self._text(chunk, position)}
        if sorted(self.row["parents"]) != sorted(self._planned_parents(chunk, position)):
            self.breaks.append(f"the parents differ from those in the plan of chunk {number}")
        if chunk.stage == vary.STAGE:
            return {**where, "variation": chunk.plan["variations"][position]}
        prompt = proposal_prompt(self.archive, chunk, position)  # if there is none, `breaks` names the missing parent
        return {**where, "prompt": prompt.whole if prompt is not None else None}

    def _planned_parents(self, chunk: Chunk, position: int) -> list[str]:
        if chunk.stage == vary.STAGE:
            return list(chunk.plan["variations"][position]["puzzles"])
        place = position // chunk.plan["copies"]
        begin = (chunk.plan.get("begins") or [None] * (place + 1))[place]
        return [*chunk.plan["shots"][place], *([begin[0]] if begin else [])]

    def _text(self, chunk: Chunk, position: int) -> str | None:
        text = text_at(chunk, position)
        if text is None:
            self.breaks.append(f"chunk {chunk.id} has no text {position}")
        return text

    def _candidates(self) -> list[dict[str, Any]]:
        """All candidates; `breaks` gets those that are missing."""
        told, seen = [], dict[int, int]()
        for row in self._rows("candidates", "puzzle = ? ORDER BY chunk, position"):
            seen[row["chunk"]] = seen.get(row["chunk"], 0) + 1
            chunk = self._chunk(row["chunk"], "some candidates")
            facts = {**_facts(chunk), "text": self._text(chunk, row["position"])} if chunk else {}
            told.append({**_without(row, "puzzle"), **facts})
        planned = self.archive.plans(f"judged AND stage IN {solve.STAGES} AND iteration >= ?", self.row["iteration"])
        for number, plan in planned:
            if self.id in plan["puzzles"]:
                texts_P_K = self.archive.chunk(number).completions or []
                expected = len(texts_P_K[plan["puzzles"].index(self.id)]) if texts_P_K else 0
                if (verdicts := seen.get(number, 0)) != expected:
                    self.breaks.append(f"chunk {number} has {expected} candidates, but {verdicts} verdicts")
        return told

    def _solution(self, row: sqlite3.Row) -> dict[str, Any]:
        protections = self.archive.query("SELECT content FROM protections WHERE id = ?", row["protections"])
        if not protections:
            self.breaks.append(f"the protections of solution {row['id']} are missing")
        trained = self._rows("trained", "puzzle = ? AND solution = ? ORDER BY iteration", row["id"])
        told = {
            **_without(row, "puzzle"),
            "protections": parse_json(protections[0][0], "protections") if protections else None,
            "trained in iterations": [each["iteration"] for each in trained],
        }  # fmt: skip
        chunk = self._chunk(row["chunk"], f"solution {row['id']}")
        if chunk is None or chunk.stage in (vary.STAGE, search.STAGE):
            return told
        sql = "SELECT verdict, candidate FROM candidates WHERE chunk = ? AND position = ?"
        verdicts = [tuple(each) for each in self.archive.query(sql, row["chunk"], row["position"])]
        if verdicts != [("accepted", row["id"])]:
            said = verdicts[0][0] if verdicts else "missing"
            self.breaks.append(f"solution {row['id']} was accepted, but its candidate's verdict is {said}")
        text = self._text(chunk, row["position"])
        return {**told, **_facts(chunk), "prompt": self._solve_prompt(chunk), "text": text}

    def _solve_prompt(self, chunk: Chunk) -> str:
        return prompt_for(kept_format(chunk.settings), self.archive.puzzle(self.id), self.shots).whole

    def _check_accepted(self, candidates: Sequence[dict[str, Any]], answers: dict[str, str | None]) -> None:
        for each in candidates:
            if each["verdict"] == Verdict.ACCEPTED and each["candidate"] not in answers:
                self.breaks.append(
                    f"text {each['position']} of chunk {each['chunk']} was accepted, but its solution is missing"
                )
        sql = (
            "SELECT s.id FROM solutions s JOIN candidates c ON c.chunk = s.chunk AND c.position = s.position"
            " WHERE s.puzzle = ? AND s.answer IS NOT c.answer"
        )
        for (solution,) in self.archive.query(sql, self.id):
            self.breaks.append(f"solution {solution} has another answer than its candidate")

    def _check_training(self, solved: set[str]) -> None:
        known = {""} | solved | {row["candidate"] for row in self._rows("candidates", "puzzle = ?")}
        for row in self._rows("trained", "puzzle = ? ORDER BY iteration"):
            if row["solution"] not in known:
                self.breaks.append(f"iteration {row['iteration']} was trained on {row['solution']}, which is missing")

    def _quarantine(self) -> list[str]:
        hit = self.archive.contamination().get(self.id)
        unstable = self._rows("candidates", "puzzle = ? AND verdict = 'unstable' AND instr(detail, ?)", WORLDS_DISAGREE)
        since = self.archive.set_aside().get(self.row["iteration"])
        return [
            *[f"contaminated: {hit}"] * bool(hit), *(f"unstable: {row['detail']}" for row in unstable),
            *[f"rolled back: iteration {since} set aside iteration {self.row['iteration']}"] * (since is not None),
        ]  # fmt: skip


def _facts(chunk: Chunk) -> dict[str, Any]:
    """How a chunk was sampled: its iteration, stage, checkpoint, seed and settings."""
    return {
        "chunk": chunk.id, "iteration": chunk.iteration, "stage": chunk.stage, "checkpoint": chunk.checkpoint,
        "seed": chunk.seed, "settings": chunk.settings,
    }  # fmt: skip


def _without(row: sqlite3.Row, name: str) -> dict[str, Any]:
    return {key: value for key, value in dict(row).items() if key != name}


CANDIDATE_COLUMNS = (
    Column("chunk", right=True), Column("stage", rank=1), Column("position", "text", right=True), Column("verdict"),
    Column("answer", least=16), Column("detail", least=16),
)  # fmt: skip


def story_text(told: Story, shown: Callable[[str], str], width: int | None = None) -> str:
    """A puzzle's story for the terminal, whose table has lines of at most so many characters.

    `shown` makes a program safe to print, and may colour it.
    """
    puzzle, came = told.puzzle, told.came
    head = visible(f"puzzle {puzzle['id']}, {puzzle['origin']}, {one_line(puzzle['answer_type'])}")
    parts = [head, shown(puzzle["source"])]
    parts.append("# Where it came from")
    if "chunk" in came:
        parts += _sampled_text(came, shown)
    elif "original" in came:
        parts += [f"imported as {visible(came['name']) or 'unnamed'}", shown(came["original"])]
    parts.append(visible(f"parents: {', '.join(puzzle['parents']) or 'none'}; parent of {len(told.parent_of)}"))
    for solution in told.solutions:
        tier = (solution["protections"] or {}).get("tier", "unknown")
        trained = ", ".join(map(str, solution["trained in iterations"])) or "none"
        parts += [
            visible(f"# Solution {solution['id']}, {solution['origin']}, iteration {solution['iteration']}"),
            shown(solution["source"]), f"answer {visible(solution['answer'])}",
            visible(f"confirmed {_date(solution['added_at'])} under tier {tier}; trained on in iterations: {trained}"),
        ]  # fmt: skip
        parts += _sampled_text(solution, shown) if "text" in solution else []
    if told.candidates:
        parts.append(f"# Its {len(told.candidates)} candidates")
        rows = [[one_line(each.get(column.heading, "")) for column in CANDIDATE_COLUMNS] for each in told.candidates]
        parts.append(Table(CANDIDATE_COLUMNS, rows).plain(width))
    parts += [f"In quarantine: {one_line(reason)}" for reason in told.quarantine]
    parts += ["# The story has gaps", *map(visible, told.breaks)] if told.breaks else []
    return "\n\n".join(parts)


def _sampled_text(where: Mapping[str, Any], shown: Callable[[str], str]) -> list[str]:
    settings = "".join(f", {key} {value}" for key, value in where["settings"].items() if not isinstance(value, dict))
    parts = [
        visible(
            f"text {where['position']} of chunk {where['chunk']} ({where['stage']}, iteration {where['iteration']}), "
            f"weights {where['checkpoint']}, seed {where['seed']}{settings}"
        )
    ]
    parts += [visible(f"made by {where['variation']}")] if "variation" in where else []
    parts += ["prompt:", shown(where["prompt"])] if where.get("prompt") else []
    return [*parts, "text:", shown(where["text"])] if where.get("text") else parts


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
