"""The one door for files from outside: their bytes, JSON, TOML, and what is packed in them.

Somebody else may have written a file, or a crash may have cut it short. So only this module reads such files (SQLite
files come in through `archive/opening.py`). It reads regular files only, never waits for one, and reads no more than a
bound, packed or unpacked. Content is checked against a shape where it is read, so the code that uses it can rely on it.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import math
import os
import re
import stat
import tomllib
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError

MOST_TOML_BYTES = 1024**2
"""Largest TOML file, and so the largest file of settings."""
MOST_DOTS = 100
"""Most dots in a line of TOML. The time that a key of many parts takes grows with the square of their number."""
MOST_JSON_BYTES = 64 * 1024**2
"""Largest JSON text that is read as a whole: a summary, a reply, what is packed in a chunk."""
MOST_JSON_MEMORY = 768 * 1024**2
"""Most memory that the values of one JSON text may take, as `_weight` estimates it."""
MOST_LINE_BYTES = 64 * 1024**2
"""Longest line of a file of JSON lines, unpacked. A line is a puzzle, a record, or a chunk of a score."""
MOST_FILE_BYTES = 512 * 1024**2
"""Largest file of puzzles, records or scores, unpacked."""
MOST_PACKED_RATIO = 100
"""Most bytes that each byte of a packed file may become. Texts of programs become 5 to 20."""
FREE_BYTES = 16 * 1024**2
"""Number of bytes up to which a packed text may become any multiple of itself."""

SHOWN_CHARACTERS = 60
"""Longest part of a value that a message shows."""
MOST_INTEGER = 2**63 - 1
"""Largest integer that SQLite can store."""
Shape = dict[str, Any]
"""A JSON Schema. `_fault` supports the part of the standard that this project's files need."""

NATURAL: Shape = {"type": "integer", "minimum": 0}
NUMBER: Shape = {"type": "number"}
TEXT: Shape = {"type": "string"}
TEXTS: Shape = {"type": "array", "items": TEXT}
ANY: Shape = {}


def an_object(optional: Iterable[str] = (), **properties: Shape) -> Shape:
    """The shape of an object with these keys; the optional ones may be missing."""
    return {"type": "object", "properties": properties, "required": [key for key in properties if key not in optional]}


def a_list(items: Shape, least: int = 0) -> Shape:
    """The shape of a list with at least `least` members."""
    return {"type": "array", "items": items, "minItems": least}


def each(items: Shape) -> Shape:
    """The shape of an object with any keys, whose values all have one shape."""
    return {"type": "object", "additionalProperties": items}


def shown(value: Any) -> str:
    """The beginning of a value, for a message that shows what was found."""
    if isinstance(value, int) and abs(value) > MOST_INTEGER:
        return "an integer of many digits"
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = "something too deep to be shown"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def expect(value: Any, shape: Shape, where: str) -> None:
    """Check that a JSON value has a shape. Integers must also fit into SQLite, and numbers must be finite.

    Args:
        value: A value from `json.loads`.
        shape: The JSON Schema.
        where: File and place, for the message.

    Raises:
        InputError: The value has another shape; the message names the first difference.
    """
    if fault := _fault(value, shape, ""):
        raise InputError(f"{where}: {fault}")


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_NAMES = {
    "object": "an object", "array": "a list", "string": "a text", "integer": "an integer", "number": "a number",
    "boolean": "true or false", "null": "null",
}  # fmt: skip


def _fault(value: Any, shape: Shape, key: str) -> str:
    """The first difference between a value and its shape, as a message; an empty text if there is none."""
    under = f" under {shown(key)}" if key else ""
    types = shape.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        return f"expected {' or '.join(_NAMES[name] for name in types)}{under}, got {shown(value)}"
    known = [shape["const"]] if "const" in shape else shape.get("enum")
    if known is not None and value not in known:
        return f"expected {' or '.join(map(str, known))}{under}, got {shown(value)}"
    if isinstance(value, dict):
        return _fault_of_object(value, shape, key)
    if isinstance(value, list):
        return _fault_of_list(value, shape, key, under)
    if isinstance(value, str) and "pattern" in shape and not re.search(shape["pattern"], value):
        return f"expected a text like {shape['pattern']}{under}, got {shown(value)}"
    low, high = shape.get("minimum", -math.inf), shape.get("maximum", math.inf)
    if isinstance(value, int | float) and not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"
        return f"expected {bounds}{under}, got {shown(value)}"
    return ""


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, int) and not abs(value) <= MOST_INTEGER:
        return False
    return isinstance(value, _TYPES[name]) and not (isinstance(value, float) and not math.isfinite(value))


def _fault_of_object(value: dict[str, Any], shape: Shape, key: str) -> str:
    prefix = f"{key}." if key else ""
    if missing := [name for name in shape.get("required", ()) if name not in value]:
        return f"expected the key {prefix + missing[0]!r}, it is missing"
    properties, patterns = shape.get("properties", {}), shape.get("patternProperties", {})
    others = shape.get("additionalProperties")
    for name, member in value.items():
        like = next((own for pattern, own in patterns.items() if re.search(pattern, name)), others)
        inner = properties.get(name, like)
        if inner is False:
            return f"unknown key {shown(prefix + name)}"
        if isinstance(inner, dict) and (fault := _fault(member, inner, f"{prefix}{name}")):
            return fault
    return ""


def _fault_of_list(value: list[Any], shape: Shape, key: str, under: str) -> str:
    least, most = shape.get("minItems", 0), shape.get("maxItems", math.inf)
    if not least <= len(value) <= most:
        number = least if least == most else f"at least {least}" if most == math.inf else f"{least} to {most}"
        return f"expected {number} in the list{under}, got {len(value)}"
    items = shape.get("items")
    faults = (_fault(member, items, f"{key}[{place}]") for place, member in enumerate(value) if items)
    return next(filter(None, faults), "")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        InputError: The text is not TOML, has a line with too many dots, or holds a number with thousands of digits.
    """
    if any(line.count(".") > MOST_DOTS for line in text.split("\n")):
        raise InputError(f"{where}: expected lines with at most {MOST_DOTS} dots, one has more")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and the errors of int() are ValueErrors
        raise InputError(f"{where}: expected TOML, {shortened(error)}") from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: The file cannot be read, or is not TOML.
    """
    content = read_bytes(path, MOST_TOML_BYTES, "a TOML file")
    try:
        text = content.decode("utf-8-sig")
    except ValueError:
        raise InputError(f"{shortened(path)}: it is not UTF-8 text: expected a TOML file") from None
    return parse_toml(text, str(path))


def parse_json(text: str | bytes, where: str, expected: str = "JSON") -> Any:
    """The value of a JSON text.

    Args:
        text: The JSON.
        where: File and place, for the message.
        expected: What the message says was expected.

    Raises:
        InputError: The text is not JSON, is nested too deeply, holds a number with thousands of digits, or its values
            would fill the memory.
    """
    if _weight(text) > MOST_JSON_MEMORY:
        raise InputError(f"{where}: expected {expected} with fewer values, these would fill the memory")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: expected {expected}, {shortened(error)}") from None


def _weight(text: str | bytes) -> int:
    """Most bytes of memory that the values of a JSON text can take: 72 for a list or object, 60 for another value."""
    if isinstance(text, str):
        return 72 * (text.count("[") + text.count("{")) + 60 * (text.count(",") + text.count(":"))
    return 72 * (text.count(b"[") + text.count(b"{")) + 60 * (text.count(b",") + text.count(b":"))


def shortened(said: object) -> str:
    """The beginning of a library's message, or of a path."""
    text = str(said)
    return text if len(text) <= 300 else f"{text[:300]}…"


def read_json(path: str | Path, shape: Shape | None = None, expected: str = "JSON") -> Any:
    """The value of a JSON file, of the given shape.

    Raises:
        InputError: The file cannot be read, is not JSON, or its value has another shape.
    """
    value = parse_json(read_bytes(path, MOST_JSON_BYTES, expected), str(path), expected)
    if shape is not None:
        expect(value, shape, str(path))
    return value


# ---- bytes ----


def open_regular(path: str | Path, expected: str = "") -> BufferedReader:
    """Open a regular file to read its bytes. Pipes and devices are refused, because reading one may never end.

    Args:
        path: The file.
        expected: What the message says was expected; an empty text if the user knows.

    Raises:
        InputError: The file cannot be opened, or is of another kind.
    """
    asked = f": expected {expected}" if expected else ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # a ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shortened(path)}: {reason}{asked}") from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        folder = stat.S_ISDIR(kind)
        came = os.strerror(errno.EISDIR) if folder else "a pipe, a socket or a device; copy its content into a file"
        raise InputError(f"{shortened(path)}: {came}{asked}")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, most: int = MOST_FILE_BYTES, expected: str = "") -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises:
        InputError: The file cannot be read, is of another kind, or is larger.
    """
    with open_regular(path, expected) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise InputError(f"{shortened(path)}: {error.strerror}") from None
    if len(content) > most:
        asked = f"expected {expected or 'a file'} of at most {in_bytes(most)}"
        raise InputError(f"{shortened(path)}: {asked}, it is larger")
    return content


def in_bytes(count: int) -> str:
    """A number of bytes in words: as `64 MiB`, or as `1,000 bytes`."""
    for size, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if count >= size and count % size == 0:
            return f"{count // size:,} {name}"
    return f"{count:,} bytes"


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip file, as a stream.

    Raises:
        InputError: More comes out than `MOST_FILE_BYTES`, or than `MOST_PACKED_RATIO` allows for what went in.
    """

    def __init__(self, file: BufferedReader, name: str) -> None:
        self._file, self._name, self._count = file, name, 0
        self._stream = gzip.GzipFile(fileobj=file, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read1(len(buffer))
        self._count += len(content)
        allowed = min(MOST_FILE_BYTES, max(FREE_BYTES, MOST_PACKED_RATIO * self._file.tell()))
        if self._count > allowed:
            raise InputError(f"{self._name}: it unpacks to more than {in_bytes(allowed)}: unpack it, and look at it")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()


def open_unpacked(path: str | Path, expected: str = "") -> BufferedReader:
    """Open a regular file to read its bytes; a file that ends in .gz is unpacked while it is read, up to a bound.

    Raises:
        InputError: The file cannot be opened, or is of another kind. Reading raises it if too much comes out.
    """
    file = open_regular(path, expected)
    return io.BufferedReader(_Unpacked(file, str(path))) if Path(path).suffix == ".gz" else file


def lines_of(path: str | Path, expected: str) -> Iterator[bytes]:
    """The lines of a file, which may end in .gz, one after the other, each with its end of line.

    Raises:
        InputError: The file cannot be read, or a line is too long, or all lines together.
    """
    count, where = 0, shortened(path)
    try:
        with open_unpacked(path, expected) as file:
            while line := file.readline(MOST_LINE_BYTES + 1):
                count += len(line)
                if len(line) > MOST_LINE_BYTES:
                    raise InputError(f"{where}: expected lines of at most {in_bytes(MOST_LINE_BYTES)}, one is longer")
                if count > MOST_FILE_BYTES:
                    raise InputError(f"{where}: expected {expected} of at most {in_bytes(MOST_FILE_BYTES)}")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{where}: expected {expected}, {reason}") from None


def unpacked(content: bytes, most: int, where: str) -> bytes:
    """What a text that zlib packed was. No more than the bound is ever unpacked.

    Args:
        content: The packed text.
        most: Largest number of bytes that may come out.
        where: File and place, for the message.

    Raises:
        InputError: It is not packed by zlib, was cut short, or becomes larger.
    """
    machine = zlib.decompressobj()
    try:
        text = machine.decompress(content, most + 1)
    except (zlib.error, TypeError) as error:
        raise InputError(f"{where}: expected compressed JSON, {error}") from None
    if len(text) > most:
        raise InputError(f"{where}: expected at most {in_bytes(most)} when it is unpacked, it becomes more")
    if not machine.eof:
        raise InputError(f"{where}: expected compressed JSON, it was cut short")
    return text


_MOST_DEFLATED = 1032
"""Most bytes that one byte of a packed text becomes, by the format."""
_PIECE_BYTES = 1024**2


def unpacks_to_more(content: bytes, most: int) -> bool:
    """Whether a text that zlib packed becomes larger than a bound. It is never in memory as a whole."""
    if len(content) * _MOST_DEFLATED <= most:
        return False
    machine, count = zlib.decompressobj(), 0
    try:
        while content and count <= most:
            count += len(machine.decompress(content, _PIECE_BYTES))
            content = machine.unconsumed_tail
    except zlib.error:
        return False  # whoever reads it is told what it is
    return count > most
