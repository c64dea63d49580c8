"""Repeat a run from its own settings, and find the first difference.

Each iteration is compared as soon as it is recorded, in the order in which things were made: chunks with their prompts,
texts and verdicts; the pairs trained on, and the weights; the scores; the record. Times and versions are not compared.
A version may explain a difference, but is none. The run itself is only read.

CPU time varies between runs, so a program that needs about its limit may be judged either way. If such a verdict was
part of the loop, everything after it depends on it, and it is the first difference. If it was only part of a score,
nothing depends on it: it is counted, and the comparison continues.
"""

from __future__ import annotations

import filecmp
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from puzzles.archive import opening, schema
from puzzles.archive.store import OWN, unpacked_json
from puzzles.foreign import parse_json
from puzzles.puzzle import InputError, Verdict
from sandbox.pool import Pool
from selfplay.config import BudgetConfig, RunConfig
from selfplay.iteration.beginning import as_begun, branch
from selfplay.iteration.loop import run
from selfplay.run import sessions
from selfplay.run.progress import Progress
from selfplay.run.rundir import SCORED_SETS, RunDir, read_lines, told_if_closed
from selfplay.sampling import model_files
from selfplay.sampling.cost import without_times
from selfplay.settings import load
from selfplay.training.backend import Backend

SHOWN_CHARACTERS = 70
SHOWN_BEFORE = 20
"""Characters shown of a long text, and how many of these stand before its first difference."""
NOTES_FILE = "selfplay.json"
"""File of a checkpoint that is not compared: it holds times and paths, and the rest of it is in the record."""
BOOKKEEPING = ("number", "chunk", "protections")
"""Columns that are not compared: where a row is kept, and the hash of the protections of its machine."""
OLDEST_SCHEMA = 3
"""The oldest schema that is compared. Later ones added the tokens of sampled texts and the authors' programs."""
AUTHORS = ("program", "entry", "puzzle_name")
"""Columns that an older version did not write."""
NOTHING = "nothing"
MEASURED = (Verdict.TIME_LIMIT, "too_slow", "over half the CPU limit")
"""Words of outcomes that depend on CPU time."""
EITHER_WAY = "CPU time varies between runs: a program that needs about sandbox.cpu_seconds may be judged either way"


@dataclass(frozen=True)
class Difference:
    """The first place in which two runs differ."""

    where: str
    there: str
    here: str


@dataclass
class Comparison:
    """What was compared, and the result."""

    difference: Difference | None = None
    environment: list[str] = field(default_factory=list)
    """How the environment of the run's sessions differs from this one. It may explain a difference."""
    is_environment_known: bool = True
    """Whether the run recorded its environment. Older runs did not."""
    iterations: list[int] = field(default_factory=list)
    rows: int = 0
    """Rows of the archive."""
    candidates: int = 0
    """Candidates of the loop and of the scores."""
    checkpoint_bytes: int = 0
    hashes: int = 0
    """Number of checkpoints that were not kept, so that only their hashes were compared."""
    at_limit: list[Difference] = field(default_factory=list)
    """Differing verdicts of scores of which one is `time_limit`."""

    @property
    def is_identical(self) -> bool:
        """Whether nothing differs."""
        return not (self.difference or self.at_limit)


class _Ended(Exception):
    """The comparison is over: everything was compared, or a difference was found."""


def begin(there: RunDir, here: RunDir, iterations: int | None = None) -> int:
    """Check that a run can be repeated, and prepare the folder for it, or resume one that was prepared before.

    Returns:
        The last iteration to repeat.

    Raises:
        InputError: There is no such run, it has nothing to compare, or the folder holds something else.
    """
    records = there.read_records()
    if not there.config.is_file() or not records:
        raise InputError(f"{there.path}: expected a run with at least one record")
    first, recorded = _first(there), records[-1]["iteration"]
    if first > recorded:
        raise InputError(f"{there.path}: it was branched at iteration {recorded} and has no iteration of its own yet")
    last = recorded if iterations is None else iterations
    if not first <= last <= recorded:
        raise InputError(f"--iterations {last}: expected {first} to {recorded}, the iterations of {there.path}")
    there.check()
    with _reading(there, trust=False):
        pass
    for number in sorted(there.checkpoints()):
        list(model_files.files(there.checkpoint(number)))  # refuses what cannot be read to an end
    began = next((session["began"] for session in sessions.sessions(there)), None)
    mark = {"reproduces": {"run": there.path.absolute().name, "began": began}}
    if here.path.resolve().is_relative_to(there.path.resolve()):
        raise InputError(f"{here.path}: expected a folder outside the run: name another one with --out")
    if here.path.exists() and (not here.path.is_dir() or any(here.path.iterdir())):
        if sessions.origin(here).get("reproduces") != mark["reproduces"]:
            raise InputError(
                f"{here.path}: expected a new folder or a reproduction of {there.path}: name another folder with --out"
            )
        return int(last)
    with told_if_closed(here.path, "name another folder with --out"):
        if first:
            branch(there, first - 1, here, mark)
        else:
            sessions.note_origin(here, mark)
    return int(last)


def reproduce(
    there: RunDir, here: RunDir, last: int, backend: Backend, pool: Pool, protections: dict[str, Any],
    progress: Progress | None = None,
) -> Comparison:  # fmt: skip
    """Repeat a run up to an iteration, or until it differs. `begin` has made the folder.

    Raises:
        InputError: Something that the settings name is missing.
    """
    shown, done = progress or Progress(), Comparison()
    records, first = there.read_records(), _first(there)
    config = replace(as_begun(there, load(there.config)), budget=BudgetConfig(), tensorboard=False, track="none")

    def row(record: dict[str, Any]) -> None:
        iteration = record["iteration"]
        if iteration in done.iterations or iteration < first:
            return
        shown.row(record)
        done.iterations.append(iteration)
        done.difference = next(_differences(there, here, records[iteration], record, done), None)
        if done.difference or iteration == last:
            raise _Ended("finished")

    try:
        for end in _ends(records[: last + 1], config, len(here.read_records())):
            run(here, replace(config, iterations=end), backend, pool, protections, replace(shown, row=row), there)
    except _Ended:
        pass
    known = sessions.sessions(there)
    done.is_environment_known = bool(known)
    done.environment = sessions.told(sessions.differences(known, sessions.sessions(here)[-1]))
    return done


def told(there: RunDir, here: RunDir, done: Comparison) -> list[str]:
    """The result of the comparison, as lines."""
    environment = [f"  {line}" for line in done.environment]
    compared = _amount(done)
    if done.is_identical:
        same = f"{here.path} is identical to {there.path}; compared: {compared}"
        return [same, *(["although the environment differs:", *environment] if environment else [])]
    first = done.difference or done.at_limit[0]
    measured = any(word in first.there or word in first.here for word in MEASURED)
    because = (
        ["the environment differs, which may be the cause:", *environment] if environment
        else ["the recorded environment is the same"] if done.is_environment_known
        else [f"the environment of {there.path} was not recorded"]
    )  # fmt: skip
    only = [f"only {len(done.at_limit)} such verdicts differ; compared: {compared}"] if not done.difference else []
    return [
        f"{here.path} differs from {there.path}, first in {first.where}", f"  there: {first.there}",
        f"  here:  {first.here}", *[EITHER_WAY] * measured, *only, *because,
    ]  # fmt: skip


def _amount(done: Comparison) -> str:
    """The amount that was compared, in words."""
    span = f"{done.iterations[0]} to {done.iterations[-1]}" if len(done.iterations) > 1 else f"{done.iterations[0]}"
    by_hash = f", {done.hashes} checkpoints by their hash" if done.hashes else ""
    return (
        f"iterations {span}, {done.rows:,} rows of the archive, {done.candidates:,} candidates, "
        f"{done.checkpoint_bytes / 1e6:,.1f} MB of checkpoints{by_hash}"
    )


def _first(there: RunDir) -> int:
    """The run's first iteration of its own. A branch has earlier iterations from another run."""
    branched = sessions.origin(there).get("branched_from")
    return int(branched["iteration"]) + 1 if branched else 0


def _ends(records: Sequence[Mapping[str, Any]], config: RunConfig, recorded: int) -> list[int]:
    """Values of `iterations` to run with, one after the other, so that held-out is scored in the same iterations.

    A run always scores held-out in its last iteration. If the run was extended, an earlier iteration was once its last.
    If the last iteration here was not scored there, it must not be the last one here either.
    """
    scored = [record["iteration"] for record in records if "heldout" in record]
    extended = [iteration for iteration in scored if iteration % config.heldout_every]
    last = records[-1]["iteration"]
    ends = [end for end in extended if recorded <= end < last]
    return [*ends, last if last in scored else last + 1]


@contextmanager
def _reading(rundir: RunDir, trust: bool = True) -> Iterator[sqlite3.Connection]:
    """Open a run's archive to read it; if it is not trusted yet, every row is checked.

    If nobody else has it open, it is opened as immutable, because SQLite would otherwise leave two files beside it.

    Raises:
        InputError: The archive is missing, is no archive, or has another schema.
    """
    file = rundir.archive
    if not file.is_file():
        raise InputError(f"{file}: there is no archive here")
    mode = "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "immutable=1"
    with closing(opening.connect(file, mode)) as connection:
        connection.row_factory = sqlite3.Row
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if OLDEST_SCHEMA <= version <= schema.SCHEMA_VERSION:
                schema.check(connection, file, trust)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{file}: expected an archive, {opening.told(error)}") from None
        if not OLDEST_SCHEMA <= version <= schema.SCHEMA_VERSION:
            raise InputError(
                f"{file}: the archive has schema {version}, this version needs {schema.SCHEMA_VERSION}: "
                "`selfplay archive stats` upgrades an older archive"
            )
        yield connection


def _differences(
    there: RunDir, here: RunDir, record: Mapping[str, Any], again: Mapping[str, Any], done: Comparison
) -> Iterator[Difference]:
    """The differences of an iteration, in the order in which its parts were made."""
    iteration = record["iteration"]
    at = f"iteration {iteration}"
    with _reading(there) as first, _reading(here) as second:
        yield from _archive_differences(first, second, iteration, at, done)
    if iteration or there.checkpoint(0).is_dir():
        yield from _weight_differences(there, here, record, again, done)
    sure = []
    for name in SCORED_SETS:
        doubted = len(done.at_limit)
        yield from _score_differences(there, here, iteration, name, done)
        sure += [name] * (len(done.at_limit) == doubted)
    # Keys that a later version adds to a record are not compared.
    one, two = (
        {key: value for key, value in _without_versions(each).items()
         if key in record and (key not in SCORED_SETS or key in sure)}
        for each in (record, again)
    )  # fmt: skip
    yield from _compared(f"{at}, record", one, two)


# ---- the archive ----


def _archive_differences(
    one: sqlite3.Connection, other: sqlite3.Connection, iteration: int, at: str, done: Comparison
) -> Iterator[Difference]:
    is_older = not one.execute("SELECT 1 FROM marks WHERE name = 'worlds'").fetchone()
    left = (*BOOKKEEPING, *AUTHORS) if is_older else BOOKKEEPING

    def table(what: str, sql: str, there: Sequence[Any] = (), here: Sequence[Any] = ()) -> Iterator[Difference]:
        pairs = itertools.zip_longest(_rows(one, sql, there, left), _rows(other, sql, here, left))
        for position, (row, again) in enumerate(pairs):
            done.rows += 1
            yield from _compared(f"{at}, {what} {_position(row or again, position)}", row, again)

    if iteration == 0:
        yield from table("refused import", "SELECT * FROM refusals ORDER BY rowid")
        yield from table("imported puzzle", "SELECT * FROM puzzles WHERE chunk IS NULL ORDER BY number")
        yield from table("imported solution", "SELECT * FROM solutions WHERE chunk IS NULL ORDER BY number")
    of_chunk = "WHERE chunk = ? ORDER BY position"
    made = f"WHERE {OWN.format('origin')} AND iteration = ? AND chunk = ? ORDER BY number"
    for chunk, same in itertools.zip_longest(_chunks(one, iteration), _chunks(other, iteration)):
        name = f"{(chunk or same)['stage']} chunk {(chunk or same)['number']}"
        done.rows += 1
        content, again = _content(one, chunk), _content(other, same)
        if content and again:  # an older version did not keep these
            _leave_out(again, {"token"} - {*content})
            _leave_out(again["settings"], {"prompt_format"} - {*content["settings"]})
        yield from _compared(f"{at}, {name}", content, again)
        numbers = [chunk["id"]], [same["id"]]
        since = [iteration, *numbers[0]], [iteration, *numbers[1]]
        yield from table(f"{name}, proposal", f"SELECT * FROM proposals {of_chunk}", *numbers)
        yield from table(f"{name}, puzzle", f"SELECT * FROM puzzles {made}", *since)
        before = done.rows
        yield from table(f"{name}, candidate", f"SELECT * FROM candidates {of_chunk}", *numbers)
        done.candidates += done.rows - before
        yield from table(f"{name}, solution", f"SELECT * FROM solutions {made}", *since)
    trained = "SELECT * FROM trained WHERE iteration = ? ORDER BY rowid"
    yield from table("trained pair", trained, [iteration], [iteration])


def _rows(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any], left: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for row in connection.execute(sql, parameters):
        yield {key: value for key, value in without_times(dict(row)).items() if key not in left}


def _position(row: Mapping[str, Any], position: int) -> str:
    """The name of a row: its position in the chunk or, without one, among the rows of its kind."""
    return str(row["position"] if row.get("position") is not None else position)


def _chunks(connection: sqlite3.Connection, iteration: int) -> Iterable[sqlite3.Row]:
    return connection.execute("SELECT id, stage, number FROM chunks WHERE iteration = ? ORDER BY id", (iteration,))


def _content(connection: sqlite3.Connection, chunk: sqlite3.Row | None) -> dict[str, Any] | None:
    """A chunk in the order in which it is made: its plan, then its texts."""
    if chunk is None:
        return None
    row = dict(connection.execute("SELECT * FROM chunks WHERE id = ?", (chunk["id"],)).fetchone())
    rest = {key: value for key, value in without_times(row).items() if key not in ("id", "judged")}
    tokens, where = rest.pop("token_ids", None), f"chunk {row['id']}"
    return {
        **{key: rest.pop(key) for key in ("iteration", "stage", "number", "checkpoint")},
        "plan": unpacked_json(rest.pop("plan"), where),
        "seed": rest.pop("seed"),
        "settings": {key: value for key, value in parse_json(rest.pop("settings"), where).items() if key != "versions"},
        "text": _texts(rest.pop("completions"), where),
        **({"token": unpacked_json(tokens, where)} if tokens else {}),
        **rest,
    }


def _leave_out(content: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        content.pop(key, None)


def _texts(completions: bytes | None, where: str) -> list[str]:
    """The texts by position."""
    texts = unpacked_json(completions, where) if completions else []
    return [text for row in texts for text in ([row] if isinstance(row, str) else row)]


# ---- weights and scores ----


def _weight_differences(
    there: RunDir, here: RunDir, record: Mapping[str, Any], again: Mapping[str, Any], done: Comparison
) -> Iterator[Difference]:
    """Differences of the checkpoint's files or, if one was not kept, of the hashes."""
    iteration = record["iteration"]
    one, other = there.checkpoint(iteration), here.checkpoint(iteration)
    if not (one.is_dir() and other.is_dir()):
        done.hashes += 1
        where = f"iteration {iteration}, weights, by the hash of the checkpoint"
        yield from _compared(where, record["checkpoint"], again["checkpoint"])
        return
    names = {file.name for folder in (one, other) for file in folder.iterdir() if file.is_file()} - {NOTES_FILE}
    for name in sorted(names, key=lambda name: (not name.endswith(".safetensors"), name)):
        where, files = f"iteration {iteration}, checkpoint, {name}", (one / name, other / name)
        if not all(file.is_file() for file in files):
            yield Difference(where, *("it is there" if file.is_file() else NOTHING for file in files))
        elif not filecmp.cmp(*files, shallow=False):
            told_of = _tensor_difference if name.endswith(".safetensors") else _file_difference
            yield told_of(where, *files)
        done.checkpoint_bytes += files[0].stat().st_size


def _file_difference(where: str, one: Path, other: Path) -> Difference:
    found = (f"{file.stat().st_size:,} bytes, hash {sessions.file_hash(file)}" for file in (one, other))
    return Difference(where, *found)


def _tensor_difference(where: str, one: Path, other: Path) -> Difference:
    """The first tensor that differs, and the size of the difference."""
    with safe_open(one, "np") as first, safe_open(other, "np") as second:
        names = (list(first.keys()), list(second.keys()))
        if names[0] != names[1]:
            return Difference(f"{where}, its tensors", *(_shown(str(each)) for each in names))
        for name in names[0]:
            a, b = first.get_tensor(name), second.get_tensor(name)
            if a.shape != b.shape or a.dtype != b.dtype:
                return Difference(f"{where}, {name}", *(f"{each.dtype} {list(each.shape)}" for each in (a, b)))
            if not np.array_equal(a, b):
                distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
                place = np.unravel_index(int(np.argmax(distance)), a.shape)
                differing = f"{np.count_nonzero(distance):,} of {a.size:,} numbers, at most by {distance[place]:.3g}"
                return Difference(f"{where}, {name}: {differing}", str(a[place]), str(b[place]))
    return _file_difference(where, one, other)


def _score_differences(
    there: RunDir, here: RunDir, iteration: int, name: str, done: Comparison
) -> Iterator[Difference]:
    lines = (read_lines(rundir.samples(iteration, name)) for rundir in (there, here))
    for number, (line, again) in enumerate(itertools.zip_longest(*lines)):
        where = f"iteration {iteration}, {name} scores, chunk {number}"
        if line is None or again is None:
            yield from _compared(where, line, again)
            return
        results, others = line["results"], again["results"]
        yield from _compared(where, _asked(line), _asked(again))
        for place, (result, other) in enumerate(itertools.zip_longest(results, others)):
            puzzle = f"{where}, puzzle {(result or other)['name'] or place}"
            limited = _at_limit(puzzle, result, other) if result and other else {}
            done.at_limit += limited.values()
            yield from _compared(puzzle, _without_verdicts(result, limited), _without_verdicts(other, limited))
            done.candidates += len(result["verdicts"])
        one, two = ({**_without_versions(each), "results": None} for each in (line, again))
        yield from _compared(where, one, two)


def _at_limit(where: str, result: Mapping[str, Any], other: Mapping[str, Any]) -> dict[int, Difference]:
    """Verdicts on the same texts, by position, that differ because one is `time_limit`."""
    pairs = enumerate(zip(result["verdicts"], other["verdicts"], strict=False))
    return {
        k: Difference(f"{where}: verdicts[{k}]", one, two)
        for k, (one, two) in pairs
        if one != two and Verdict.TIME_LIMIT in (one, two) and result["texts"] == other["texts"]
    }


def _without_verdicts(result: Mapping[str, Any] | None, positions: Mapping[int, Any]) -> dict[str, Any] | None:
    """A scored puzzle without the verdicts at these positions."""
    if result is None:
        return None
    found = {
        key: [None if k in positions else value for k, value in enumerate(result[key])]
        for key in ("verdicts", "details")
    }
    return {**result, **found}


def _asked(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _without_versions(line).items() if key in ("identity", "sampler")}


def _without_versions(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record or a scored chunk without times and versions. A chunk's whole prompts are compared, not their format."""
    kept = without_times(row)
    if isinstance(asked := kept.get("identity"), Mapping):
        kept["identity"] = {key: value for key, value in asked.items() if key != "prompt_format_hash"}
    if isinstance(sampler := kept.get("sampler"), Mapping):
        kept["sampler"] = {key: value for key, value in sampler.items() if key != "versions"}
    return kept


# ---- any values ----


def _compared(where: str, there: Any, here: Any, path: str = "") -> Iterator[Difference]:
    """The places inside two values where they differ, in order."""
    if there == here:
        return
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys([*there, *here]):
            inside = f"{path}.{key}" if path else key
            yield from _compared(where, there.get(key, _MISSING), here.get(key, _MISSING), inside)
    elif isinstance(there, list) and isinstance(here, list):
        for place, (one, other) in enumerate(itertools.zip_longest(there, here, fillvalue=_MISSING)):
            yield from _compared(where, one, other, f"{path}[{place}]")
    else:
        yield Difference(f"{where}: {path}" if path else where, *_both_shown(there, here))


_MISSING = object()


def _both_shown(there: Any, here: Any) -> tuple[str, str]:
    """Two values that differ, as texts. Long texts begin shortly before the place where they differ."""
    one, other = (NOTHING if each is None or each is _MISSING else _text(each) for each in (there, here))
    places = range(min(len(one), len(other)))
    start = max(0, next((place for place in places if one[place] != other[place]), len(places)) - SHOWN_BEFORE)
    return _shown(one, start), _shown(other, start)


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _shown(text: str, start: int = 0) -> str:
    end = start + SHOWN_CHARACTERS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
