"""The archive: every puzzle, candidate and verified pair of a run, with its history, in one SQLite file.

A puzzle or solution is identified by the hash of its normal form. The rows of every pair tell where it came from
(iteration, chunk, parents in the prompt, checkpoint, sampling settings, seed), how many candidates its puzzle got (n),
how many of these were accepted (c), and under which protections it was confirmed. No puzzle, pair or candidate is ever
replaced or deleted, but for pairs of an older version that do not hold (`identity`). An addition that is a dev or
held-out puzzle is refused, whoever makes it. `guard.examine` finds those that entered under another guard; they are
listed in `contamination` and quarantined.

Writes are transactions, so a reader never sees half of one, not even after a crash. Times have columns of their own, so
that all other columns can be compared between runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from puzzles.archive import opening, schema
from puzzles.foreign import (
    MOST_JSON_BYTES,
    NATURAL,
    NUMBER,
    TEXT,
    TEXTS,
    Shape,
    a_list,
    an_object,
    expect,
    parse_json,
    shown,
    unpacked,
)
from puzzles.guard import LEVELS, Guard, Hit
from puzzles.puzzle import (
    WORLDS_DISAGREE,
    Candidate,
    InputError,
    Judgement,
    Puzzle,
    RawPuzzle,
    VerifiedPair,
    content_hash,
    kept_answer,
)

FAILURES = (sqlite3.DatabaseError, TypeError, ValueError, AttributeError, LookupError, OverflowError, RecursionError)
"""Exceptions that a damaged row can cause anywhere in the code. After one of them the archive is checked for damage."""

CONTAMINATED = (
    "EXISTS (SELECT 1 FROM contamination t WHERE t.puzzle = p.id"
    " AND t.guard = (SELECT value FROM marks WHERE name = 'guard'))"
)
"""SQL condition: the archive's guard found the puzzle `p` too near to a guarded one after it had been added."""
SET_ASIDE = (
    "p.iteration IN (SELECT CAST(key AS INTEGER) FROM"
    " json_each(coalesce((SELECT value FROM marks WHERE name = 'set_aside'), '{}')))"
)
"""SQL condition: the puzzle `p` is of an iteration that was rolled back."""
QUARANTINED = (
    "(EXISTS (SELECT 1 FROM candidates c WHERE c.puzzle = p.id AND c.verdict = 'unstable'"
    f" AND c.detail LIKE '{WORLDS_DISAGREE}%') OR {CONTAMINATED} OR {SET_ASIDE})"
)
"""SQL condition: the puzzle `p` is in quarantine, because two worlds judged it differently, because it is contaminated,
or because its iteration was rolled back. Such puzzles stay visible, but are neither trained on nor shown to a model."""


OWN = "{} IN ('model', 'variant', 'search')"
"""SQL condition on a column: the origin is the run itself. Puzzles come from its model or are made of others; solutions
are also found by search."""

TOO_EASY = (
    f"({OWN.format('p.origin')} AND"
    " coalesce((SELECT avg(c.verdict = 'accepted') FROM candidates c WHERE c.puzzle = p.id), 0) > ?)"
)
"""SQL condition: `p` is one of the run's own puzzles, and more than this share of its candidates was accepted."""

FOUND = (
    "EXISTS (SELECT 1 FROM candidates c WHERE c.puzzle = solutions.puzzle AND c.candidate = solutions.id"
    " AND c.verdict = 'accepted')"
)
"""SQL condition: the model wrote this solution, even if it first came from somewhere else."""

FOUND_IN = (
    "EXISTS (SELECT 1 FROM candidates c JOIN chunks k ON k.id = c.chunk WHERE c.puzzle = solutions.puzzle AND"
    " c.candidate = solutions.id AND c.verdict = 'accepted' AND k.iteration IN (SELECT value FROM json_each(?)))"
)
"""SQL condition: the model wrote this solution in one of some iterations, given as a JSON list."""

SEARCHED_IN = "(origin = 'search' AND iteration IN (SELECT value FROM json_each(?)))"
"""SQL condition: a search found this solution in one of some iterations, given as a JSON list."""

CANDIDATES_N_C = (
    "(SELECT count(*) FROM candidates c WHERE c.puzzle = p.id) AS n,"
    " (SELECT count(*) FROM candidates c WHERE c.puzzle = p.id AND c.verdict = 'accepted') AS c"
)
"""SQL columns: the number of the puzzle's candidates, and of those that were accepted."""

CHUNK_COSTS = (
    "tokens", "prompt_tokens", "sampling_seconds", "sampling_cpu_seconds", "judging_seconds", "judging_cpu_seconds",
)  # fmt: skip


BY_RULE = ("vary", "search")
"""Stages whose texts are made by rule: nothing is sampled in them."""

_COPIES: Shape = {"type": "integer", "minimum": 1}
_SOLVE = an_object(["first"], puzzles=TEXTS, copies=_COPIES, first=NATURAL)
_BEGIN: Shape = {"type": ["array", "null"], "minItems": 2, "maxItems": 2}
_GOAL: Shape = {"type": ["string", "null"]}
PLANS: Mapping[str, Shape] = {
    "propose": an_object(
        ["begins", "goals", "first"],
        shots=a_list(TEXTS),
        begins=a_list(_BEGIN),
        goals=a_list(_GOAL),
        copies=_COPIES,
        first=NATURAL,
    ),
    "vary": an_object(variations=a_list(an_object(how=TEXT, puzzles=TEXTS, answer=TEXT, seed=NATURAL))),
    "search": an_object(programs=a_list(an_object(puzzle=TEXT, of=TEXT, program=TEXT, seed=NATURAL))),
    "solve": _SOLVE,
    "further": _SOLVE,
}
"""Shape of a chunk's plan, by stage. The plan lists what the chunk asks for, and says which of the stage's texts is its
`first`."""
_SET_ASIDE: Shape = {
    "type": "object", "patternProperties": {r"^[0-9]{1,9}$": NATURAL}, "additionalProperties": False,
}  # fmt: skip
"""Shape of the mark that lists the iterations that were rolled back."""
_SAMPLED = an_object(protocol=TEXT)
_DRAWN = an_object(ids=a_list({"type": "array"}), ended=a_list({"type": "string", "enum": ("token", "line", "cut")}))
"""Shape of the tokens of a chunk's texts."""
_TO_SAMPLE = an_object(temperature=NUMBER, top_p=NUMBER, max_tokens=NATURAL, batch_rows=NATURAL, protocol=TEXT)


class AddStatus(IntEnum):
    """The outcome of an addition. Only NEW is true: the archive grew."""

    HELD_OUT = -1
    """Refused, because the puzzle is a guarded one or too near to one."""
    DUPLICATE = 0
    NEW = 1

    def __bool__(self) -> bool:
        return self is AddStatus.NEW


@dataclass(frozen=True)
class Provenance:
    """Where a puzzle or solution came from."""

    origin: str
    """One of `human`, `rule`, `import`, `model`, `variant` (made of other puzzles), and for solutions `search`."""
    iteration: int = 0
    chunk: int | None = None
    position: int | None = None
    parents: tuple[str, ...] = ()
    name: str = ""
    original: str = ""
    skills: tuple[str, ...] = ()
    difficulty: int | None = None


@dataclass(frozen=True)
class Chunk:
    """A planned piece of sampling work: the unit of sampling, resuming and replaying."""

    id: int
    iteration: int
    stage: str
    number: int
    checkpoint: str
    seed: str
    settings: dict[str, Any]
    plan: Any
    completions: list[Any] | None
    judged: bool


class Archive:
    """An open archive file.

    Args:
        path: The file.
        guard: The guard, which decides the puzzles that are refused.
        create: Whether a missing file is created. If not, it is an error.
        read_only: Whether writing is impossible. Changes that another process makes meanwhile are visible.
        frozen: With `read_only`: nobody writes the file meanwhile, so SQLite makes no files beside it.
        trust: Whether the rows are not checked, because this program wrote them or has just checked them. The schema is
            compared in any case.

    Raises:
        InputError: The file is missing, damaged, of a newer schema, or not an archive that this program writes.
    """

    def __init__(
        self,
        path: str | Path,
        guard: Guard | None = None,
        create: bool = False,
        read_only: bool = False,
        trust: bool = False,
        frozen: bool = False,
    ) -> None:
        self.path, self._frozen = Path(path), frozen
        self.guard = guard or Guard()
        self.guard_reason: str | None = None
        self._kept_by_guard = False
        if not create and not self.path.is_file():
            raise InputError(f"{self.path}: there is no archive here")
        try:
            if create:
                opening.check_files(self.path)
                opening.make_file(self.path)
            self._connection = opening.connect(self.path, self._mode(read_only, create), not read_only)
            self._connection.row_factory = sqlite3.Row
            try:
                schema.prepare(self._connection, self.path, create, self.guard.identity, trust)
                self._kept_by_guard = self.mark("guard") == self.guard.identity
                # A commit survives the death of the process; only a power cut may lose the last ones.
                self._connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                self.close()
                raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
            if kind in schema.MACHINE_ERRORS:
                raise
            closed = kind in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and not self.path.is_dir()
            expected = "expected a folder that can be written: copy it to one" if closed else "expected an archive"
            said = opening.told(error) if isinstance(error, sqlite3.Error) else error
            raise InputError(f"{self.path}: {expected}, {said}") from None

    def address(self, read_only: bool = False) -> str:
        """The URI by which SQLite can attach this archive to another one."""
        return f"{self.path.absolute().as_uri()}?{self._mode(read_only)}"

    def _mode(self, read_only: bool, create: bool = False) -> str:
        """How to open the file. One that cannot be written is opened as immutable, so that SQLite makes no files beside
        it.

        Raises:
            InputError: The file cannot be written, and changes in the log beside it are not in the file yet.
        """
        closed = not create and not (os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK))
        log = self.path.with_name(f"{self.path.name}-wal")
        if closed and log.exists() and log.stat().st_size:
            raise InputError(
                f"{self.path}: it can only be read, and {log.name} has not been written into it: copy both files"
            )
        return "immutable=1" if closed or self._frozen else "mode=ro" if read_only else "mode=rw"

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the file. If an error may come from a damaged file, check the file first.

        Raises:
            InputError: The file is damaged; the message names the row.
        """
        try:
            if isinstance(error, FAILURES) and not isinstance(error, InputError):
                self._blame(error)
        finally:
            self.close()

    def _blame(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if isinstance(error, sqlite3.DatabaseError) and code in schema.MACHINE_ERRORS:
            return
        if code in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_TOOBIG):
            raise InputError(f"{self.path}: {opening.told(error)}") from error  # type: ignore[arg-type]  # it has a code
        found = schema.damage(self._connection)
        if (
            not found
            and isinstance(error, sqlite3.DatabaseError)
            and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        ):
            found = str(error)
        if found:
            raise InputError(f"{self.path}: the archive is damaged: {found}") from error

    def check(self) -> None:
        """Read every row and check it.

        Raises:
            InputError: The archive is damaged; the message says where.
        """
        if found := schema.damage(self._connection):
            raise InputError(f"{self.path}: the archive is damaged: {found}")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection to the file, in autocommit, for work on two archives at once."""
        return self._connection

    def transaction(self) -> AbstractContextManager[None]:
        """Write all changes made inside the block, or none if an error ends it."""
        return schema.transaction(self._connection)

    def sync(self) -> None:
        """Make sure that a power cut loses no committed change."""
        log = self.path.with_name(f"{self.path.name}-wal")
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def query(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        """The rows of a read-only query."""
        return self._connection.execute(sql, parameters).fetchall()

    def _scalar(self, sql: str, *parameters: Any) -> Any:
        row = self._connection.execute(sql, parameters).fetchone()
        return row[0] if row else None

    @property
    def worlds(self) -> int | None:
        """The seed of the worlds in which its pairs are judged; None in an archive of an older version.

        Raises:
            InputError: What the archive keeps is no seed.
        """
        kept = self.mark("worlds")
        if kept is not None and not re.fullmatch(r"[0-9]{1,19}", kept):
            raise InputError(f"{self.path}: the archive is damaged: expected a seed as `worlds`, got {shown(kept)}")
        return None if kept is None else int(kept)

    def keep_worlds(self, seed: int) -> None:
        """Note the seed of the worlds of a new archive. An archive that holds puzzles keeps what it has."""
        if not self._scalar("SELECT EXISTS (SELECT 1 FROM puzzles)"):
            self.set_mark("worlds", str(seed))

    # ---- adding ----

    def add_puzzle(self, puzzle: Puzzle, provenance: Provenance) -> AddStatus:
        """Add a puzzle, solved or not. After HELD_OUT, `guard_reason` says which guarded puzzle it is too near to."""
        hit = self.guard.hit(puzzle)
        self.guard_reason = str(hit) if hit else None
        if hit:
            return AddStatus.HELD_OUT
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO puzzles VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                puzzle.id, puzzle.source, puzzle.answer_type, puzzle.header, puzzle.skeleton,
                _storable(provenance.name), _storable(puzzle.description), _storable(provenance.original),
                provenance.origin, json.dumps([*map(_storable, provenance.skills)]),
                provenance.difficulty, provenance.iteration, provenance.chunk, provenance.position,
                json.dumps(provenance.parents), time.time(), puzzle.text, puzzle.judged[1],
            ),
        )  # fmt: skip
        if cursor.rowcount and not self._kept_by_guard:
            self.set_mark("added_past_guard", "yes")
            self._kept_by_guard = True  # the mark need not be set again
        return AddStatus.NEW if cursor.rowcount else AddStatus.DUPLICATE

    def add(self, pair: VerifiedPair, provenance: Provenance, protections: Mapping[str, object]) -> AddStatus:
        """Add a verified pair, and its puzzle if that is new.

        Returns:
            NEW if the solution is new for its puzzle, else DUPLICATE, or HELD_OUT if the guard refuses the puzzle.
        """
        if self.add_puzzle(pair.puzzle, provenance) is AddStatus.HELD_OUT:
            return AddStatus.HELD_OUT
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO solutions VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                pair.puzzle.id, pair.solution.id, pair.solution.source, pair.judgement.answer, provenance.origin,
                provenance.iteration, provenance.chunk, provenance.position, self.add_protections(protections),
                pair.judgement.cpu_seconds, pair.judgement.judge_cpu_seconds, time.time(),
                pair.solution.text, pair.solution.run[1], pair.solution.calls,
            ),
        )  # fmt: skip
        return AddStatus.NEW if cursor.rowcount else AddStatus.DUPLICATE

    def add_protections(self, protections: Mapping[str, object]) -> str:
        """Add what the sandbox has verified, unless it is there; returns its id."""
        content = json.dumps(protections, sort_keys=True)
        identifier = content_hash(content)
        self._connection.execute("INSERT OR IGNORE INTO protections VALUES (?,?)", (identifier, content))
        return identifier

    def add_proposal(self, chunk: int, position: int, outcome: str, detail: str, puzzle: str | None) -> None:
        """Add the outcome of one proposed text."""
        row = (chunk, position, outcome, _storable(detail), puzzle)
        self._connection.execute("INSERT INTO proposals VALUES (?,?,?,?,?)", row)

    def add_candidate(
        self, chunk: int, position: int, puzzle: str, candidate: Candidate | None, judgement: Judgement
    ) -> None:
        """Add one sampled candidate with its judgement. Its text is in the chunk's completions."""
        self._connection.execute(
            "INSERT INTO candidates VALUES (?,?,?,?,?,?,?,?)",
            (
                chunk, position, puzzle, candidate.id if candidate else None, judgement.verdict,
                _storable(judgement.detail), kept_answer(judgement), judgement.cpu_seconds,
            ),
        )  # fmt: skip

    def add_refusal(self, name: str, what: str, reason: str, detail: str, original: str) -> None:
        """Add an imported text that did not become part of the archive, with the reason."""
        row = (_storable(name), what, reason, _storable(detail), _storable(original))
        self._connection.execute("INSERT OR IGNORE INTO refusals VALUES (?,?,?,?,?)", row)

    def add_trained(self, iteration: int, pairs: Sequence[tuple[str, str]]) -> None:
        """Add the ids (puzzle, solution) of all pairs that an iteration's checkpoint learns from.

        A candidate that was not accepted may be among them. It has a row in `candidates`, but none in `solutions`.
        """
        rows = [(iteration, puzzle, solution) for puzzle, solution in pairs]
        self._connection.executemany("INSERT OR IGNORE INTO trained VALUES (?,?,?)", rows)

    # ---- the guard ----

    @property
    def is_guarded(self) -> bool:
        """Whether this archive's guard has compared every puzzle here, when it was added or in a later examination."""
        return self.mark("guard") == self.guard.identity and self.mark("added_past_guard") is None

    def add_contamination(self, hits: Mapping[str, Hit]) -> None:
        """Store the hits that the guard found among all puzzles here, by id. The archive now counts as guarded by it.

        The puzzles that were found are removed from prompts that are planned but not sampled yet.
        """
        identity = self.guard.identity
        rows = [
            (puzzle, hit.level, _storable(hit.name), _storable(hit.detail), identity, time.time())
            for puzzle, hit in hits.items()
        ]
        self._connection.executemany("INSERT OR REPLACE INTO contamination VALUES (?,?,?,?,?,?)", rows)
        self.set_mark("guard", identity)
        self._connection.execute("DELETE FROM marks WHERE name = 'added_past_guard'")
        self._kept_by_guard = True
        sql = "SELECT id, plan FROM chunks WHERE completions IS NULL AND stage = 'propose'"
        for identifier, blob in self.query(sql) if hits else ():
            plan = self._plan(identifier, "propose", blob)
            plan["shots"] = [[shown for shown in shots if shown not in hits] for shots in plan["shots"]]
            if "begins" in plan:
                plan["begins"] = [begin if begin and begin[0] not in hits else None for begin in plan["begins"]]
            self._connection.execute("UPDATE chunks SET plan = ? WHERE id = ?", (_compress(plan), identifier))

    def contamination(self) -> dict[str, Hit]:
        """The hits that the archive's guard found among its puzzles, by the puzzle's id."""
        sql = (
            f"SELECT t.* FROM contamination t JOIN puzzles p ON p.id = t.puzzle WHERE {CONTAMINATED} ORDER BY p.number"
        )
        return {row["puzzle"]: Hit(row["level"], row["guarded"], row["detail"]) for row in self.query(sql)}

    def refused_levels(self) -> dict[str, dict[str, int]]:
        """The number of texts refused as held-out, by level, for `imports` and for each `iteration N` that has any."""
        rows = self.query("SELECT 'imports', detail FROM refusals WHERE reason = 'held_out'") + self.query(
            "SELECT 'iteration ' || c.iteration, p.detail FROM proposals p JOIN chunks c ON c.id = p.chunk"
            " WHERE p.outcome = 'held_out' ORDER BY c.iteration"
        )
        counts: dict[str, Counter[str]] = {}
        for when, detail in rows:
            level = detail.partition(":")[0]
            counts.setdefault(when, Counter())[level if level in LEVELS else "unknown"] += 1
        return {
            when: {level: levels[level] for level in (*LEVELS, "unknown") if levels[level]}
            for when, levels in counts.items()
        }

    def exposure(self, puzzles: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Each puzzle's origin, iteration, and the iterations whose checkpoints were trained on it, by puzzle id."""
        sql = (
            "SELECT origin, iteration, (SELECT group_concat(i, ', ') FROM"
            " (SELECT DISTINCT t.iteration AS i FROM trained t WHERE t.puzzle = p.id ORDER BY 1)) AS trained"
            " FROM puzzles p WHERE id = ?"
        )
        return {identifier: dict(self.query(sql, identifier)[0]) for identifier in puzzles}

    # ---- chunks ----

    def plan_chunk(
        self, iteration: int, stage: str, number: int, checkpoint: str, seed: str, settings: Any, plan: Any
    ) -> None:
        """Store a piece of sampling work before it begins. A chunk that is already planned stays as it is."""
        row = (iteration, stage, number, checkpoint, seed, json.dumps(settings), _compress(plan))
        sql = "INSERT OR IGNORE INTO chunks (iteration, stage, number, checkpoint, seed, settings, plan)"
        self._connection.execute(f"{sql} VALUES (?,?,?,?,?,?,?)", row)

    def planned(self, iteration: int, stage: str) -> bool:
        """Whether the stage's chunks are planned (one transaction plans them all)."""
        sql = "SELECT EXISTS (SELECT 1 FROM chunks WHERE iteration = ? AND stage = ?)"
        return bool(self._scalar(sql, iteration, stage))

    def unjudged(self, iteration: int, stage: str) -> list[int]:
        """Ids of the stage's chunks that are not judged yet, in order."""
        sql = "SELECT id FROM chunks WHERE iteration = ? AND stage = ? AND NOT judged ORDER BY number"
        return [identifier for (identifier,) in self.query(sql, iteration, stage)]

    def chunk(self, identifier: int) -> Chunk:
        """One chunk with its plan and completions unpacked.

        Raises:
            InputError: The chunk's row is damaged.
        """
        (row,) = self.query("SELECT * FROM chunks WHERE id = ?", identifier)
        where = f"{self.path}, chunk {identifier}"
        plan, completions = self._plan(identifier, row["stage"], row["plan"]), None
        if row["completions"] is not None:
            completions = unpacked_json(row["completions"], f"{where}, completions")
            expect(completions, a_list(TEXTS) if "puzzles" in plan else TEXTS, f"{where}, completions")
            asked = (
                len(plan["shots"]) * plan["copies"]
                if "shots" in plan
                else len(next(plan[key] for key in ("puzzles", "variations", "programs") if key in plan))
            )
            if len(completions) != asked:
                raise InputError(f"{where}, completions: expected {asked} of them, got {len(completions)}")
        elif row["judged"]:
            raise InputError(f"{where}: expected completions of a judged chunk, there are none")
        settings = parse_json(row["settings"], f"{where}, settings")
        if row["stage"] not in BY_RULE:
            expect(settings, _SAMPLED if completions is not None else _TO_SAMPLE, f"{where}, settings")
        return Chunk(
            row["id"], row["iteration"], row["stage"], row["number"], row["checkpoint"], row["seed"],
            settings, plan, completions, bool(row["judged"]),
        )  # fmt: skip

    def _plan(self, chunk: int, stage: str, blob: bytes) -> Any:
        where = f"{self.path}, chunk {chunk}"
        if stage not in PLANS:
            raise InputError(f"{where}: expected one of the stages {', '.join(PLANS)}, got {shown(stage)}")
        plan = unpacked_json(blob, f"{where}, plan")
        expect(plan, PLANS[stage], f"{where}, plan")
        if "begins" in plan and not _are_beginnings(plan["begins"], len(plan["shots"])):
            raise InputError(f"{where}, plan: expected a puzzle and a place in it, or null, for each prompt")
        return plan

    def plans(self, condition: str, *parameters: Any) -> Iterator[tuple[int, Any]]:
        """The ids and plans of all chunks for which an SQL condition holds."""
        sql = f"SELECT id, stage, plan FROM chunks WHERE {condition}"
        for identifier, stage, blob in self._connection.execute(sql, parameters):
            yield identifier, self._plan(identifier, stage, blob)

    def set_completions(
        self,
        chunk: int,
        completions: Any,
        batch_rows: int,
        tokens: int,
        prompt_tokens: int,
        seconds: float,
        cpu_seconds: float,
        not_told: Mapping[str, int] | None = None,
        drawn: Mapping[str, Any] | None = None,
    ) -> None:
        """Store every text that was sampled for the chunk, the final number of sequences per batch, and the cost.

        `not_told` says of how many texts a server did not tell the tokens or the end. It goes beside the settings.
        `drawn` holds the tokens of each text, as the column `token_ids` describes them; None if they are not known.
        """
        sql = (
            "UPDATE chunks SET completions = ?, settings = json_set(settings, '$.batch_rows', ?), tokens = ?,"
            " prompt_tokens = ?, sampling_seconds = ?, sampling_cpu_seconds = ?, token_ids = ? WHERE id = ?"
        )
        ids = None if drawn is None else _compress(drawn)
        row = (_compress(completions), batch_rows, tokens, prompt_tokens, seconds, cpu_seconds, ids, chunk)
        self._connection.execute(sql, row)
        if not_told:
            sql = "UPDATE chunks SET settings = json_set(settings, '$.not_told', json(?)) WHERE id = ?"
            self._connection.execute(sql, (json.dumps(not_told), chunk))

    def drawn(self, chunk: int) -> Any:
        """The tokens of a chunk's texts, as the column `token_ids` describes them; None if they were not kept.

        Raises:
            InputError: They are damaged.
        """
        blob, where = self._scalar("SELECT token_ids FROM chunks WHERE id = ?", chunk), f"{self.path}, chunk {chunk}"
        if blob is None:
            return None
        kept = unpacked_json(blob, f"{where}, token_ids")
        expect(kept, _DRAWN, f"{where}, token_ids")
        if len(kept["ids"]) != len(kept["ended"]):
            raise InputError(f"{where}, token_ids: expected as many ends as texts, got {len(kept['ended'])}")
        if any(type(token) is not int or token < 0 for ids in kept["ids"] for token in ids):
            raise InputError(f"{where}, token_ids: expected integers from 0 as tokens")
        return kept

    def set_judged(self, chunk: int, seconds: float, cpu_seconds: float) -> None:
        """Mark the chunk as judged, in the transaction that writes its verdicts."""
        sql = "UPDATE chunks SET judged = 1, judging_seconds = ?, judging_cpu_seconds = ? WHERE id = ?"
        self._connection.execute(sql, (seconds, cpu_seconds, chunk))

    # ---- choosing ----

    def puzzle(self, identifier: str) -> Puzzle:
        """One puzzle by its id.

        Raises:
            InputError: There is no puzzle with this id.
        """
        rows = self.query("SELECT * FROM puzzles WHERE id = ?", identifier)
        if not rows:
            raise InputError(f"{self.path}: there is no puzzle {identifier!r}")
        return _puzzle(rows[0])

    def puzzle_ids(self, condition: str = "1", *parameters: Any) -> list[str]:
        """Ids of the puzzles for which an SQL condition over `puzzles p` holds, in the order they were added."""
        rows = self.query(f"SELECT id FROM puzzles p WHERE {condition} ORDER BY number", *parameters)
        return [identifier for (identifier,) in rows]

    def solved_ids(self, before_iteration: int | None = None) -> list[str]:
        """Ids of puzzles that have a verified solution and are not in quarantine, in the order they were added."""
        until = 2**62 if before_iteration is None else before_iteration
        return self.puzzle_ids(
            "EXISTS (SELECT 1 FROM solutions s WHERE s.puzzle = p.id AND s.iteration < ?) AND p.iteration < ?"
            f" AND NOT {QUARANTINED}",
            until,
            until,
        )

    def choose(
        self,
        solutions_per_puzzle: int,
        with_references: bool = True,
        before_first_iteration: bool = False,
        most_solved: float = 1.0,
        shortest: bool = True,
        found_in: Collection[int] | None = None,
    ) -> list[tuple[Puzzle, Candidate]]:
        """The verified pairs to train on: some distinct solutions of each puzzle that is not in quarantine.

        The known answer that a variant was made with does not count as a solution unless the model found it too,
        because it does not show how to find it.

        arXiv:2207.14502 keeps the 8 shortest solutions (ICLR2023/src/preprocess.py).

        Args:
            solutions_per_puzzle: Most solutions of one puzzle.
            with_references: Whether solutions count that came with a puzzle and that the model did not find itself.
            before_first_iteration: Whether only pairs from before the first iteration count, without regard to what
                iterations found out about them.
            most_solved: Largest share of accepted candidates; a run's own puzzles with a larger one are left out.
            shortest: Whether the shortest solutions come first. If not, they are in the order of their hashes, which is
                as good as random.
            found_in: Iterations; None for all. Of the model's solutions only those count that it wrote in one of these,
                not necessarily for the first time, and of a search's those that it found in one. Solutions that came
                with puzzles count in any case.
        """
        order = "length(source), id" if shortest else "id"
        found = "FALSE" if before_first_iteration else FOUND
        wanted = (
            [f"(origin != 'variant' OR {found})"]
            + [f"({OWN.format('origin')} OR {found})"] * (not with_references)
            + ["iteration = 0"] * before_first_iteration
            + [f"(iteration = 0 OR {FOUND_IN} OR {SEARCHED_IN})"] * (found_in is not None)
        )
        aside = CONTAMINATED if before_first_iteration else QUARANTINED
        rows = self.query(
            "SELECT p.*, s.id AS solution_id, s.source AS solution_source FROM puzzles p JOIN ("
            f"  SELECT *, row_number() OVER (PARTITION BY puzzle ORDER BY {order}) AS place"
            f"  FROM solutions WHERE {' AND '.join(wanted)}"
            f") s ON s.puzzle = p.id WHERE s.place <= ? AND NOT {aside} AND NOT {TOO_EASY}"
            " ORDER BY p.number, s.place",
            *([] if found_in is None else [json.dumps(sorted(found_in))] * 2),
            solutions_per_puzzle,
            most_solved,
        )
        return [(_puzzle(row), Candidate(row["solution_source"], row["solution_id"])) for row in rows]

    # ---- reading ----

    def mark(self, name: str) -> str | None:
        """The value of a mark, which records a step that is done once; None if the step was not done."""
        value = self._scalar("SELECT value FROM marks WHERE name = ?", name)
        return None if value is None else str(value)

    def set_mark(self, name: str, value: str) -> None:
        """Set a mark, which records a step that is done once."""
        self._connection.execute(
            "INSERT INTO marks VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
        )

    def set_aside(self) -> dict[int, int]:
        """Iterations that were rolled back, each with the iteration from which on it is.

        Their puzzles are neither trained on nor shown to a model any more.
        """
        where = f"{self.path}, mark set_aside"
        noted = parse_json(self.mark("set_aside") or "{}", where)
        expect(noted, _SET_ASIDE, where)
        return {int(number): since for number, since in noted.items()}

    def roll_back(self, until: int, iteration: int) -> None:
        """Roll back: from `iteration` on, set aside the iterations after `until`, up to and including `iteration`."""
        gone = dict.fromkeys(range(until + 1, iteration + 1), iteration)
        self.set_mark("set_aside", json.dumps(gone | self.set_aside()))

    def index(self) -> None:
        """Add the rows that are new since the last call to the full-text index. Until then a search reads them all."""
        with self.transaction():
            for table, columns in schema.SEARCHED.items():
                names = ", ".join(columns)
                self._connection.execute(
                    f"INSERT INTO search_{table} (rowid, {names}) SELECT number, {names} FROM {table}"
                    f" WHERE number > (SELECT coalesce(max(id), 0) FROM search_{table}_docsize)"
                )

    def raw_puzzles(self) -> list[RawPuzzle]:
        """All puzzles with their solutions, as `formats.import_puzzles` takes them.

        Raises:
            InputError: The archive is damaged.
        """
        self.check()
        solutions: dict[str, list[str]] = {}
        for puzzle, text in self.query(
            "SELECT puzzle, coalesce(nullif(program, ''), source) FROM solutions ORDER BY length(source), id"
        ):
            solutions.setdefault(puzzle, []).append(text)
        return [
            RawPuzzle(
                row["name"] or row["id"], row["program"] or row["source"], tuple(solutions.get(row["id"], ())),
                tuple(parse_json(row["skills"], f"{self.path}, skills")), row["difficulty"],
            )
            for row in self.query("SELECT * FROM puzzles ORDER BY number")
        ]  # fmt: skip

    def iteration_counts(self, iteration: int) -> dict[str, Any]:
        """The iteration's counts, from proposed puzzles to new pairs, and the number of pairs after it."""
        chunks = f"chunk IN (SELECT id FROM chunks WHERE iteration = ? AND stage NOT IN {BY_RULE})"
        proposals = self.counts(f"SELECT outcome, count(*) FROM proposals WHERE {chunks} GROUP BY 1", iteration)
        candidates = self.counts(f"SELECT verdict, count(*) FROM candidates WHERE {chunks} GROUP BY 1", iteration)
        solved = "SELECT count(DISTINCT puzzle) FROM solutions WHERE iteration = ? AND origin = 'model' AND puzzle IN"
        mine = "(SELECT id FROM puzzles WHERE origin = 'model' AND iteration = ?)"
        parsed = f"SELECT count(*) FROM proposals WHERE puzzle IS NOT NULL AND {chunks}"
        levels = self.refused_levels().get(f"iteration {iteration}", {})
        return {
            "proposed": sum(proposals.values()),
            "well_formed": self._scalar(parsed, iteration),
            "admitted": proposals.get("admitted", 0),
            "held_out_refused": sum(levels.values()),
            "held_out_levels": levels,
            "contaminated": self._scalar(
                f"SELECT count(*) FROM puzzles p WHERE iteration <= ? AND {CONTAMINATED}", iteration
            ),
            "solved": self._scalar(f"{solved} {mine}", iteration, iteration),
            "training_solved": self._scalar(
                f"SELECT count(DISTINCT puzzle) FROM candidates WHERE verdict = 'accepted' AND {chunks}"
                f" AND puzzle IN (SELECT id FROM puzzles WHERE NOT {OWN.format('origin')})",
                iteration,
            ),
            "candidates": sum(candidates.values()),
            "accepted": candidates.get("accepted", 0),
            "new_pairs": self._scalar(
                "SELECT count(*) FROM solutions WHERE iteration = ? AND origin = 'model'", iteration
            ),
            "searched": self._scalar(
                "SELECT count(DISTINCT puzzle) FROM solutions WHERE iteration = ? AND origin = 'search'", iteration
            ),
            "varied": self._scalar(
                "SELECT count(*) FROM puzzles WHERE iteration = ? AND origin = 'variant'", iteration
            ),
            "pairs": self._scalar("SELECT count(*) FROM solutions WHERE iteration <= ?", iteration),
            "trained_pairs": self._scalar("SELECT count(*) FROM trained WHERE iteration = ?", iteration),
        }

    def counts(self, sql: str, *parameters: Any) -> dict[str, int]:
        """The rows of a query, as a mapping from the first column to the second."""
        return {str(key): count for key, count, *_ in self.query(sql, *parameters)}

    def chunk_costs(self, iteration: int) -> dict[str, dict[str, float]]:
        """Costs of the iteration's chunks so far, by stage: judged texts, tokens, and seconds of wall and CPU time.

        If a server did not tell the tokens of some texts, there is their number too, as `untold_texts`.
        """
        sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in CHUNK_COSTS)
        sums += ", coalesce(sum(json_extract(settings, '$.not_told.tokens')), 0) AS untold_texts"
        texts = " + ".join(f"(SELECT count(*) FROM {of} t WHERE t.chunk = c.id)" for of in ("proposals", "candidates"))
        rows = self.query(
            f"SELECT stage, sum({texts}) AS texts, {sums} FROM chunks c WHERE iteration = ? GROUP BY stage", iteration
        )
        return {
            row["stage"]: {name: row[name] for name in ("texts", *CHUNK_COSTS)}
            | ({"untold_texts": row["untold_texts"]} if row["untold_texts"] else {})
            for row in rows
        }


def _are_beginnings(begins: Sequence[Any], prompts: int) -> bool:
    """Whether these are the beginnings of so many prompts: a puzzle's id and a number of characters each, or null."""
    kinds = [(str, int) if begin is None else tuple(map(type, begin)) for begin in begins]
    return len(begins) == prompts and {*kinds} <= {(str, int)}


def _puzzle(row: sqlite3.Row) -> Puzzle:
    """A stored puzzle. It has no shingles: the archive does not keep them, as only the guard needs them."""
    return Puzzle(
        source=row["source"], answer_type=row["answer_type"], header=row["header"], id=row["id"],
        skeleton=row["skeleton"], shingles=frozenset(), description=row["description"], text=row["program"],
        original_name=row["entry"],
    )  # fmt: skip


def _storable(text: str) -> str:
    """A text as SQLite can store it, cut to `MOST_TEXT_BYTES`. SQLite's texts are UTF-8, so a lone surrogate becomes an
    escape sequence.
    """
    return text.encode("utf-8", "backslashreplace")[: schema.MOST_TEXT_BYTES].decode("utf-8", "ignore")


def _compress(value: Any) -> bytes:
    return zlib.compress(json.dumps(value).encode("utf-8", "surrogatepass"))


def unpacked_json(blob: bytes, where: str) -> Any:
    """The value that a chunk keeps packed.

    Raises:
        InputError: It is not packed JSON, or becomes too large.
    """
    return parse_json(unpacked(blob, MOST_JSON_BYTES, where), where)
