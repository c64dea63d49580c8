"""Reads puzzle files: our own JSONL, Microsoft's P3, Codex's programs for P3, ACES, and Absolute Zero.

Reading a file only splits it into texts. `parse` decides whether a text is a puzzle, `verify` whether a solution is
accepted. `import_puzzles` calls both and adds the results to an archive.
"""

from __future__ import annotations

import io
import json
import re
import tokenize
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from puzzles.archive.store import AddStatus, Archive, Provenance
from puzzles.foreign import (
    MOST_LINE_BYTES,
    in_bytes,
    open_unpacked,
    parse_json,
    parse_toml,
    read_bytes,
    read_toml,
    shortened,
    shown,
)
from puzzles.parse import SOLUTION_NAMES, ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, InputError, Judgement, Puzzle, RawPuzzle, VerifiedPair
from puzzles.verify import admit, changed_by_names, too_slow_to_judge, verify
from sandbox.pool import Pool

EMBEDDED_SETS = ("train", "dev", "heldout")
"""Names of the hand-written sets inside the package. They can be used wherever a puzzle file can."""
PUZZLE_ID = re.compile("[0-9a-f]{16}")
MOST_PROGRAM_BYTES = 16 * 1024**2
"""Largest `.py` file that is read."""
MOST_ARRAY_CHARACTERS = 256 * 1024**2
"""Longest JSON array. It is read as a whole; a file of lines is read line by line."""
START_CHARACTERS = 1 << 16
"""Characters in which the first one that is no white space is looked for."""
PICKLE = re.compile(rb"\x80[\x02-\x05]")
"""Beginning of a pickle of protocol 2 or later. No UTF-8 text begins like this."""


@dataclass(frozen=True)
class RawPair:
    """One line of the input of `selfplay verify`."""

    id: Any
    puzzle: str
    solution: str
    body_of: str | None = None
    """For a solution without a header: what it is, `expression` or `body`. The puzzle's header is put before it."""


@dataclass(frozen=True)
class RefusedPair:
    """One line of the input of `selfplay verify` that holds no pair. The lines after it are judged all the same."""

    id: Any
    detail: str
    """File, line, what was expected and what came."""
    has_puzzle: bool = False
    """Whether only its solution is wrong."""


@dataclass(frozen=True)
class RefusedRecord:
    """One line of a puzzle file, or one item of its array, that is not of the format."""

    where: str
    detail: str
    """File, line, what was expected and what came."""
    text: str
    """The line or item."""


_HAS_SOLUTION = re.compile(rf"^(?:def )?(?:{'|'.join(SOLUTION_NAMES)})\b\s*[(=]", re.MULTILINE)
"""Whether a program with a puzzle seems to hold a solution too."""


def read_puzzles(
    path: str | Path, file_format: str = "auto", refused: list[RefusedRecord] | None = None
) -> list[RawPuzzle]:
    """All puzzles of a file, or of an embedded set.

    Args:
        path: `train`, `dev`, `heldout`, or a file with one JSON array of objects, or with one JSON object on each line,
            or a `.py` file with one puzzle.
        file_format: Format of the objects, one of `FORMATS`; `auto` chooses it by the keys of the first object.
        refused: Takes the lines that are not of the format; the other lines are read. None makes such a line an error.

    Raises:
        InputError: The file is missing, an object in it is not of the format, or the first object fits no format. With
            `refused`: no line of it can be read.
    """
    if Path(path).suffix == ".py":
        text = read_program(Path(path))
        return [RawPuzzle(Path(path).stem, text, (text,) if _HAS_SOLUTION.search(text) else ())]
    puzzles = []
    for item in _items(path):
        try:
            record = _object(item)
            if file_format == "auto":
                file_format = _format_of(record, item.where)
            puzzles.append(FORMATS[file_format].read(record, item.where))
        except InputError as error:
            if refused is None:
                raise
            refused.append(RefusedRecord(item.where, str(error), item.text))
    if refused and not puzzles:
        raise InputError(refused[0].detail)
    return puzzles


def _items(path: str | Path) -> Iterator[_Item]:
    """The lines of an embedded set or a file, or the members of its array."""
    name = str(path)
    if name in EMBEDDED_SETS:
        text = (resources.files("puzzles") / f"{name}.jsonl").read_text("utf-8")
        yield from _json_lines(io.StringIO(text), f"{name}.jsonl")
        return
    with open_text(Path(path), "surrogateescape") as file:
        start = _read(file, START_CHARACTERS, name)
        if PICKLE.match(start[:2].encode("utf-8", "surrogateescape")):
            came = "got a pickle, which may run anything when loaded: write its objects as JSON"
            raise InputError(f"{name}: expected UTF-8 text, {came}")
    with open_text(Path(path), "surrogateescape") as file:
        if start.lstrip()[:1] == "[":
            yield from _json_array(_read(file, MOST_ARRAY_CHARACTERS + 1, name), name)
        else:
            yield from _json_lines(file, name)


def _read(file: TextIO, characters: int, name: str) -> str:
    """The next characters of a file, asked for in pieces: room is made for as many as are asked for."""
    pieces: list[str] = []
    try:
        while characters > 0 and (piece := file.read(min(characters, START_CHARACTERS))):
            pieces.append(piece)
            characters -= len(piece)
        return "".join(pieces)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{name}: expected UTF-8 text, {reason}") from None


def all_refused(details: Sequence[str]) -> str:
    """One line about the lines of a file that were refused while the others were taken."""
    return details[0] if len(details) == 1 else f"{details[0]} (and {len(details) - 1:,} lines more were refused)"


def read_program(path: Path) -> str:
    """The text of a `.py` file as Python reads it: with a byte order mark, or in the encoding that a coding line names.

    Raises:
        InputError: The file cannot be read, or is not in its encoding.
    """
    content = read_bytes(path, MOST_PROGRAM_BYTES)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return io.TextIOWrapper(io.BytesIO(content), encoding).read()
    except (SyntaxError, ValueError, LookupError) as error:  # of the line, of the text, of the encoding's name
        asked = "expected UTF-8 text, or a coding line with its encoding"
        raise InputError(f"{path}: {asked}: {shortened(error)}") from None


def _format_of(record: dict[str, Any], where: str) -> str:
    """The first format whose key the object has. Objects of our own format may have any further keys."""
    for name, known in FORMATS.items():
        if known.key in record:
            return name
    keys = ", ".join(f"{known.key!r} ({name})" for name, known in FORMATS.items())
    raise InputError(f"{where}: expected one of the keys {keys}, got {json.dumps([*record])[:60]}")


def read_errata(path: str | Path | None = None) -> dict[str, str]:
    """The reasons why puzzles are wrong, by puzzle id: for those of the embedded sets, and those named in a file.

    Args:
        path: TOML file of `[[erratum]]` tables with `puzzle` (an id) and `reason`; None for the embedded sets only.

    Raises:
        InputError: The file is missing or not of the format.
    """
    shipped = (resources.files("puzzles") / "errata.toml").read_text("utf-8")
    errata = _errata(parse_toml(shipped, "errata.toml"), "errata.toml")
    return errata if path is None else errata | _errata(read_toml(path), str(path))


def _errata(content: dict[str, Any], name: str) -> dict[str, str]:
    entries = content.pop("erratum", [])
    if content or not isinstance(entries, list):
        raise InputError(
            f"{name}: expected [[erratum]] tables and nothing else, got {shortened(min(content, default='erratum'))}"
        )
    errata = {}
    for number, entry in enumerate(entries, 1):
        where = f"{name}, erratum {number}"
        if not isinstance(entry, dict) or set(entry) - {"puzzle", "reason"}:
            raise InputError(f"{where}: expected `puzzle` and `reason`, got {shown(entry)}")
        puzzle, reason = _string(entry, "puzzle", where), _string(entry, "reason", where)
        if not PUZZLE_ID.fullmatch(puzzle):
            raise InputError(f"{where}: expected a puzzle's id, sixteen hexadecimal digits, got {puzzle[:60]!r}")
        errata[puzzle] = reason
    return errata


def read_pairs(file: TextIO, name: str, file_format: str = "jsonl") -> Iterator[RawPair | RefusedPair]:
    """The pairs of `selfplay verify`, one for each line, as soon as the line is read.

    Args:
        file: The open text file.
        name: The file's name, for messages.
        file_format: `jsonl` for lines of {"id"?, "puzzle", "solution"}. `codex` for lines that also have "prompt", and
            solutions without a header: an expression if the prompt is `short`, else the body of the function.

    Yields:
        The pair of each line, or why there is none.

    Raises:
        InputError: The file cannot be read further; all lines before have been yielded.
    """
    for number, line in enumerate(_json_lines(file, name), 1):
        record = line.value if isinstance(line.value, dict) else {}
        identifier, has_puzzle, body_of = record.get("id", record.get("name", number)), False, None
        try:
            if not _is_writable(identifier):
                raise InputError(f"{line.where}: expected an id that JSON can hold, got {shown(identifier)}")
            puzzle = _string(_object(line), "puzzle", line.where)
            has_puzzle = True
            solution = _string(record, "solution", line.where)
            if file_format == "codex":
                body_of = "expression" if _string(record, "prompt", line.where) == "short" else "body"
        except InputError as error:
            yield RefusedPair(identifier if _is_writable(identifier) else number, str(error), has_puzzle)
        else:
            yield RawPair(identifier, puzzle, solution, body_of)


def _is_writable(identifier: Any) -> bool:
    """Whether JSON can hold an id: whether its numbers are finite. Python reads 1e400 and NaN, but no standard does."""
    try:
        json.dumps(identifier, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def with_header(raw: RawPair, header: str) -> str:
    """The text of a solution, with the header that its puzzle asks for where it has none."""
    if raw.body_of == "expression":
        return f"{header}\n    return {raw.solution.strip()}\n"
    return raw.solution if raw.body_of is None else header + raw.solution


def open_text(path: Path, errors: str = "strict") -> TextIO:
    """Open a text file; a file that ends in .gz is unpacked while it is read, up to a bound.

    Args:
        path: The file.
        errors: How bytes that are not UTF-8 are handled. With `surrogateescape`, `read_pairs` can name their line.

    Raises:
        InputError: The file cannot be opened, or is no regular file.
    """
    return io.TextIOWrapper(open_unpacked(path), encoding="utf-8-sig", errors=errors)


@dataclass(frozen=True)
class _Item:
    """One line of a file, or one member of its array."""

    where: str
    text: str
    value: Any
    fault: str = ""
    """Why there is no value; an empty text if there is one."""


def _object(item: _Item) -> dict[str, Any]:
    """The object of a line or item.

    Raises:
        InputError: It is none.
    """
    if item.fault:
        raise InputError(item.fault)
    if not isinstance(item.value, dict):
        raise InputError(f"{item.where}: expected a JSON object, got {item.text.strip()[:60]!r}")
    return item.value


def _json_array(text: str, name: str) -> Iterator[_Item]:
    if len(text) > MOST_ARRAY_CHARACTERS:
        raise InputError(f"{name}: expected a JSON array of at most {in_bytes(MOST_ARRAY_CHARACTERS)}, or JSON lines")
    if fault := _not_utf_8(text):
        raise InputError(f"{name}: {fault}")
    for number, value in enumerate(parse_json(text, name, "a JSON array")):
        yield _Item(f"{name}, item {number}", json.dumps(value), value)


def _json_lines(file: TextIO, name: str) -> Iterator[_Item]:
    number = 0
    try:
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            line = line.removeprefix("\ufeff") if number == 1 else line  # standard input keeps it
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            if len(line) > MOST_LINE_BYTES:
                raise InputError(f"{where}: expected a line of at most {in_bytes(MOST_LINE_BYTES)}")
            if fault := _not_utf_8(line):
                yield _Item(where, line, None, f"{where}: {fault}")
                continue
            try:
                yield _Item(where, line, parse_json(line, where, "one JSON object"))
            except InputError as error:
                yield _Item(where, line, None, str(error))
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name}, after line {number}: {error.strerror}") from None
        raise InputError(f"{name}, after line {number}: expected UTF-8 text, {error}") from None


def _not_utf_8(text: str) -> str:
    """What was expected, if `surrogateescape` has kept bytes in a text so that the other lines could be read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"expected UTF-8 text, got {shown(text[max(0, error.start - 20) :].strip())}"
    return ""


def _string(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        came = "it is missing" if key not in record else f"got {json.dumps(value, default=str)[:60]}"
        raise InputError(f"{where}: expected a text under {key!r}, {came}")
    return value


def _strings(record: dict[str, Any], key: str, where: str) -> list[str]:
    """The list of texts under a key; empty if the key is missing or null."""
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise InputError(f"{where}: expected a list of texts under {key!r}, got {json.dumps(value)[:60]}")
    return value


def _jsonl_puzzle(record: dict[str, Any], where: str) -> RawPuzzle:
    puzzle = _string(record, "puzzle", where)
    if "solutions" in record:
        solutions = record["solutions"]
        if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
            raise InputError(f"{where}: expected a list of texts under 'solutions'")
    else:
        solutions = [_string(record, "solution", where)] if record.get("solution") is not None else []
    skills, difficulty = record.get("skills", []), record.get("difficulty")
    if not isinstance(skills, list) or not all(isinstance(skill, str) for skill in skills):
        raise InputError(f"{where}: expected a list of texts under 'skills', got {json.dumps(skills)[:60]}")
    if difficulty is not None and not (type(difficulty) is int and abs(difficulty) < 2**63):
        raise InputError(f"{where}: expected an integer under 'difficulty', got {json.dumps(difficulty)[:60]}")
    name = record.get("name", record.get("id", where))
    return RawPuzzle(str(name), puzzle, tuple(solutions), tuple(skills), difficulty)


def _p3_puzzle(record: dict[str, Any], where: str) -> RawPuzzle:
    source, header = _string(record, "sat", where), record.get("sol_header", "def sol():")
    bodies = record.get("sol_bodies", [])
    if not isinstance(header, str) or not isinstance(bodies, list) or not all(isinstance(b, str) for b in bodies):
        raise InputError(f"{where}: expected a text under 'sol_header' and a list of texts under 'sol_bodies'")
    solutions = tuple(f"{header}\n{body}" for body in bodies)
    module = record.get("module")
    skills = (module.removesuffix(".py"),) if isinstance(module, str) and module else ()
    return RawPuzzle(str(record.get("name", where)), source, solutions, skills)


ACES_SKILLS = (
    "string manipulation", "mathematical operations", "conditional logic", "recursion", "brute force search",
    "dynamic programming", "greedy algorithms", "backtracking", "set operations", "permutations and combinations",
    "probability and statistics", "pattern recognition", "sorting and ordering", "binary operations",
    "geometry and coordinate manipulation", "algorithm optimization", "number theory", "graph theory",
    "array indexing", "hashing",
)  # fmt: skip
"""The skill of each position in ACES's `emb` (arXiv:2310.10692, aces/environement/p3/skill_list.py)."""
_AFTER_ACES_PUZZLE = re.compile(r"^(?:def g\b|assert\b)", re.MULTILINE)
_AFTER_ACES_SOLUTION = re.compile(r"^assert\b", re.MULTILINE)


def _aces_puzzle(record: dict[str, Any], where: str) -> RawPuzzle:
    """A puzzle of ACES.

    Its program consists of the puzzle `f`, a solution `g` and `assert f(g()) == True`. Every attempt in `all_solution`,
    right or wrong, has the same parts.
    """
    program = _string(record, "program_str", where).lstrip()
    puzzle = _AFTER_ACES_PUZZLE.split(program, maxsplit=1)[0].rstrip()
    programs = [
        _AFTER_ACES_SOLUTION.split(text.lstrip(), maxsplit=1)[0]
        for text in [program, *_strings(record, "all_solution", where)]
    ]
    solutions = [f"{text}\n".removeprefix(f"{puzzle}\n").strip() for text in programs]
    bits = record.get("emb")
    known = bits if isinstance(bits, list) and len(bits) == len(ACES_SKILLS) else []
    skills = [skill for skill, bit in zip(ACES_SKILLS, known, strict=False) if bit == 1]
    name = record.get("unique_id", record.get("id", where))
    return RawPuzzle(str(name), puzzle, tuple(filter(None, solutions)), tuple(skills))


def _azr_puzzle(record: dict[str, Any], where: str) -> RawPuzzle:
    """A task of Absolute Zero: a program with an input and its output. The puzzle asks for an input with that output.

    `parse` writes the puzzle, or says why it cannot.
    """
    task = {"imports": _strings(record, "imports", where), "snippet": _string(record, "snippet", where)}
    task |= {key: _string(record, key, where) for key in ("input", "output") if key in record}
    solutions = (f"def g():\n    return (\n{record['input']}\n)",) if "input" in record else ()
    name = record.get("name", record.get("id", where))
    return RawPuzzle(str(name), json.dumps(task), solutions, form="abduction")


@dataclass(frozen=True)
class Format:
    """A format of puzzle files."""

    key: str
    """Key that marks the format's objects. Objects of the formats listed before it do not have this key."""
    read: Callable[[dict[str, Any], str], RawPuzzle]
    """Function that reads an object, given its place in the file; raises InputError."""


FORMATS = {
    "jsonl": Format("puzzle", _jsonl_puzzle),
    "p3": Format("sat", _p3_puzzle),
    "aces": Format("program_str", _aces_puzzle),
    "azr": Format("snippet", _azr_puzzle),
}
"""Formats by the names that `archive import --format` takes: our own, Microsoft's P3, ACES, and the tasks of Absolute
Zero Reasoner."""


IMPORT_BATCH = 200
"""Number of puzzles that are parsed and verified together, and added in one transaction."""


NOT_OF_THE_FORMAT = "format"
"""Reason of refusal of a line that holds no puzzle of its file's format."""


@dataclass
class ImportReport:
    """The outcomes of an import."""

    puzzles: Counter[str] = field(default_factory=Counter)
    """Number of puzzles by outcome: `new`, `duplicate`, `held_out`, or the rule or reason that refused them."""
    solutions: Counter[str] = field(default_factory=Counter)
    """Number of solutions by outcome: `new`, `duplicate`, `held_out`, `of a refused puzzle`, or the verdict, rule or
    reason that refused them."""
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    """First refused text of each kind (`puzzle` or `solution`) and reason: its name and what was wrong."""


def import_puzzles(
    archive: Archive,
    pool: Pool,
    protections: Mapping[str, object],
    raws: Sequence[RawPuzzle],
    origin: str = "import",
    admission: bool = False,
    progress: Callable[[int], object] = lambda done: None,
    refused: Sequence[RefusedRecord] = (),
) -> ImportReport:
    """Parse, verify and add puzzles with their solutions. A repeated import adds nothing twice.

    Args:
        archive: The archive that they are added to.
        pool: The sandbox that parses and judges them.
        protections: The sandbox's verified protections, stored with every pair.
        raws: Puzzles from `read_puzzles`.
        origin: The origin that is stored with every puzzle.
        admission: Whether puzzles must also be fit for training (`verify.admit`).
        progress: Called with the number of puzzles done since its last call.
        refused: Records of the file that are not of the format, to be noted beside the refused puzzles.
    """
    report = ImportReport()
    with archive.transaction():
        for record in refused:
            report.puzzles[NOT_OF_THE_FORMAT] += 1
            report.examples.setdefault(("puzzle", NOT_OF_THE_FORMAT), record.detail)
            archive.add_refusal(record.where, "puzzle", NOT_OF_THE_FORMAT, record.detail, record.text)
    for start in range(0, len(raws), IMPORT_BATCH):
        batch = raws[start : start + IMPORT_BATCH]
        _import_batch(archive, pool, protections, batch, origin, admission, report)
        progress(len(batch))
    return report


def _import_batch(
    archive: Archive,
    pool: Pool,
    protections: Mapping[str, object],
    raws: Sequence[RawPuzzle],
    origin: str,
    admission: bool,
    report: ImportReport,
) -> None:
    puzzles = _import_parse(pool, raws, admission)
    archive.guard.examine(pool, [puzzle for puzzle in puzzles if isinstance(puzzle, Puzzle)])
    texts = [
        (raw, puzzle, Text(solution, rename={puzzle.original_name: "f"}))
        for raw, puzzle in zip(raws, puzzles, strict=True)
        if isinstance(puzzle, Puzzle)
        for solution in raw.solutions
    ]
    candidates = parse_candidates(pool, [text for _, _, text in texts])
    held = _held(archive, puzzles)
    pairs = [
        (held[puzzle.id], candidate)
        for (_, puzzle, _), candidate in zip(texts, candidates, strict=True)
        if isinstance(candidate, Candidate)
    ]
    judged = verify(pool, pairs)
    seen = _seen_by_itself(pool, pairs, judged) if admission else {}
    judgements = iter(judged)
    with archive.transaction():
        refused = {*seen}
        for raw, puzzle in zip(raws, puzzles, strict=True):
            failure = seen.get(puzzle.id) if isinstance(puzzle, Puzzle) else None
            outcome, detail = _add_puzzle(archive, raw, failure or puzzle, origin)
            report.puzzles[outcome] += 1
            if outcome not in ("new", "duplicate"):
                refused |= {puzzle.id} if isinstance(puzzle, Puzzle) else set()
                report.solutions["of a refused puzzle"] += len(raw.solutions)
                archive.add_refusal(raw.name, "puzzle", outcome, detail, raw.puzzle)
                report.examples.setdefault(("puzzle", outcome), _example(raw.name, outcome, detail))
        for (raw, puzzle, text), candidate in zip(texts, candidates, strict=True):
            judgement = None if isinstance(candidate, ParseFailure) else next(judgements)
            if puzzle.id in refused:
                continue
            if isinstance(candidate, ParseFailure) or judgement is None:
                outcome, detail = f"invalid_solution ({candidate.rule})", str(candidate)  # type: ignore[union-attr]  # no judgement: a failure
            elif judgement.verdict != "accepted":
                outcome, detail = str(judgement.verdict), judgement.detail
            elif admission and too_slow_to_judge(pool, judgement):
                outcome, detail = "too_slow", f"judging took {judgement.judge_cpu_seconds:.2f} s"
            else:
                provenance = Provenance(origin, name=raw.name, original=text.text)
                status = archive.add(VerifiedPair(held[puzzle.id], candidate, judgement), provenance, protections)
                report.solutions[status.name.lower()] += 1
                continue
            report.solutions[outcome] += 1
            archive.add_refusal(raw.name, "solution", outcome, detail, text.text)
            report.examples.setdefault(("solution", outcome), _example(raw.name, outcome, detail))


def _seen_by_itself(
    pool: Pool, pairs: Sequence[tuple[Puzzle, Candidate]], judged: Sequence[Judgement]
) -> dict[str, ParseFailure]:
    """The refusals, by id, of puzzles whose canonical text judges an accepted answer in another way."""
    accepted: dict[str, tuple[Puzzle, list[bytes]]] = {}
    for (puzzle, _), judgement in zip(pairs, judged, strict=True):
        if puzzle.text and judgement.encoded is not None:
            accepted.setdefault(puzzle.id, (puzzle, []))[1].append(judgement.encoded)
    said = changed_by_names(pool, [*accepted.values()])
    return {key: ParseFailure("seen_by_itself", what) for key, what in zip(accepted, said, strict=True) if what}


def _held(archive: Archive, puzzles: Sequence[Puzzle | ParseFailure]) -> dict[str, Puzzle]:
    """Puzzles by id, in the text that the archive holds or will hold. Solutions are judged on that text."""
    held: dict[str, Puzzle] = {}
    for puzzle in puzzles:
        if isinstance(puzzle, Puzzle) and puzzle.id not in held:
            held[puzzle.id] = archive.puzzle(puzzle.id) if archive.puzzle_ids("id = ?", puzzle.id) else puzzle
    return held


def _example(name: str, reason: str, detail: str) -> str:
    return f"{name}: {detail.removeprefix(f'{reason}: ')}" if detail else name


def _import_parse(pool: Pool, raws: Sequence[RawPuzzle], admission: bool) -> list[Puzzle | ParseFailure]:
    puzzles = parse_puzzles(pool, [Text(raw.puzzle, raw.form) for raw in raws])
    if not admission:
        return puzzles
    refusals = iter(admit(pool, [puzzle for puzzle in puzzles if isinstance(puzzle, Puzzle)]))
    admitted: list[Puzzle | ParseFailure] = []
    for puzzle in puzzles:
        refusal = next(refusals) if isinstance(puzzle, Puzzle) else None
        admitted.append(puzzle if refusal is None else ParseFailure(refusal.reason, refusal.detail or refusal.reason))
    return admitted


def _add_puzzle(archive: Archive, raw: RawPuzzle, puzzle: Puzzle | ParseFailure, origin: str) -> tuple[str, str]:
    if isinstance(puzzle, ParseFailure):
        return puzzle.rule, str(puzzle)
    provenance = Provenance(origin, name=raw.name, original=raw.puzzle, skills=raw.skills, difficulty=raw.difficulty)
    status = archive.add_puzzle(puzzle, provenance)
    detail = archive.guard_reason or "" if status is AddStatus.HELD_OUT else ""
    return status.name.lower(), detail
