"""What a model's folder may hold, before a library opens it. Somebody else may have made it.

Its files are regular, inside the folder, and of bounded size. Weights are safetensors, all of them in the folder. What
else the folder asks for is tried by a helper process with limits (`helper_model.py`). What was tried once is remembered
by a hash of all that was tried, so a folder is tried once by each user. What this project has written needs no trial.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from puzzles.foreign import NATURAL, TEXT, an_object, each, expect, open_regular, parse_json, read_bytes, shown
from puzzles.puzzle import InputError
from selfplay.run import user_state
from selfplay.sampling.helper import Helper, HelperDied, HelperLate
from selfplay.settings import embedded_file

INDEX = "model.safetensors.index.json"
TEMPLATES = "additional_chat_templates"
"""A folder of chat templates inside a model's folder: the only one that is read."""
READ = (".json", ".jinja", ".txt", ".model")
"""Ends of the names of files that libraries read beside the weights."""
SMALL = ("config.json", "generation_config.json", "selfplay.json", "preprocessor_config.json", "processor_config.json")
SMALL_BYTES = 4 << 20
INDEX_BYTES = 16 << 20
LARGE_BYTES = 64 << 20
"""Largest file beside the weights. Gemma's tokenizer.json has 33 MB."""
HEADER_BYTES = 16 << 20
"""Largest header of a file of weights: some hundred thousand tensors."""
SPARSE = 64
"""A file of weights takes at least one in so many of its bytes on the disk."""
MOST_FILES = 10_000
TRIAL = 1
"""Number of the trial's rules. A new one tries all folders again."""
ROOM_BYTES, ROOM_PER_BYTE = 640 << 20, 40
"""Memory of a trial: as much, and so many bytes for each byte of the files beside the weights."""
CPU_SECONDS, BYTES_PER_SECOND = 10, 2 << 20
"""CPU time of a trial: as much, and one second for so many bytes of these files."""
WALL_SECONDS = 120.0
"""Safety net beside the CPU time: a machine may be busy."""

_helper = Helper(Path(__file__).with_name("helper_model.py"), str(embedded_file("model")))
_tried: set[str] = set()
_TENSOR = an_object(
    dtype=TEXT, shape={"type": "array", "items": NATURAL, "maxItems": 16},
    data_offsets={"type": "array", "items": NATURAL, "minItems": 2, "maxItems": 2},
)  # fmt: skip


class Unloadable(Exception):
    """A library would raise something like this. It is told as its error would be."""


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    mark: str
    """Names all that a trial depends on: the files beside the weights, and the headers of the weights."""
    beside_bytes: int
    """Size of the files beside the weights."""
    elements: int
    """Numbers in the weights."""
    weight_bytes: int
    tensors: int


def check(folder: Path) -> None:
    """Check a model's folder, and try it unless that was done before.

    Raises:
        InputError: A file is none that may be opened, or the folder asks for what no honest model needs.
        Unloadable: The folder cannot be loaded, and a library would say so.
    """
    if folder.resolve() == embedded_file("model").resolve():
        return
    found = looked_through(folder)
    if found.mark in _tried or user_state.is_remembered(found.mark):
        return
    question = {
        "folder": str(folder), "elements": found.elements, "bytes": found.weight_bytes, "known": _own_patterns(),
        "tensors": found.tensors,
        "cpu_seconds": CPU_SECONDS + found.beside_bytes // BYTES_PER_SECOND, "wall_seconds": WALL_SECONDS,
        "memory_bytes": ROOM_BYTES + ROOM_PER_BYTE * found.beside_bytes,
    }  # fmt: skip
    try:
        answer = _asked(question)
    except HelperDied as error:
        answer = {"refused": f"it cannot be tried: {error}"}
    if "malformed" in answer:
        raise InputError(answer["malformed"])
    if "refused" in answer:
        raise InputError(f"{folder}: {answer['refused']}: use another model, or repair this one")
    if "failed" in answer:
        raise Unloadable(answer["failed"].strip() or answer["kind"])
    _remember(found.mark)


def _asked(question: dict[str, Any]) -> Any:
    try:
        return _helper.ask(question, 2 * WALL_SECONDS)
    except HelperLate:
        raise
    except HelperDied:  # it may just have ended because nothing was asked for long
        return _helper.ask(question, 2 * WALL_SECONDS)


def written_here(folder: Path) -> None:
    """Remember that this project has written a folder, from a model that it had loaded. It needs no trial."""
    _remember(looked_through(folder).mark)


def _remember(mark: str) -> None:
    _tried.add(mark)
    user_state.remember(mark)


@functools.cache
def _own_patterns() -> list[str]:
    """Regular expressions of the shipped tokenizer."""
    tokenizer = json.loads((embedded_file("model") / "tokenizer.json").read_bytes())
    parts = tokenizer["pre_tokenizer"]["pretokenizers"]
    return [part["pattern"]["Regex"] for part in parts if "pattern" in part]


def looked_through(folder: Path) -> Found:
    """What a folder holds. Every file that a library may open is looked at.

    Raises:
        InputError: A file is no regular one, outside the folder, too large, or no JSON.
        Unloadable: A file of weights is damaged.
    """
    digest = hashlib.sha256(f"{TRIAL} {_versions()}".encode())
    beside = elements = weight_bytes = tensors = 0
    found = list(files(folder))
    _check_described(folder)
    read = {"model.safetensors"} if (folder / "model.safetensors").exists() else {*shards(folder)}
    if not read:
        raise Unloadable("expected weights in the form of safetensors, there are none")
    for file in found:
        size = file.stat().st_size
        if file.name in read:
            content, number, held = header(file)
            elements, weight_bytes, tensors = elements + held, weight_bytes + size, tensors + number
        elif file.suffix in READ and file.name != "selfplay.json":
            content = read_bytes(file, LARGE_BYTES)
            beside += size
        else:
            continue
        digest.update(f"\0{file.relative_to(folder)}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        digest.update(content)
    return Found(f"model-{digest.hexdigest()}", beside, elements, weight_bytes, tensors)


@functools.cache
def _versions() -> str:
    return " ".join(metadata.version(name) for name in ("torch", "transformers", "tokenizers"))


def files(folder: Path) -> Iterator[Path]:
    """The files of a folder in the order of their names, each of them regular, inside, and of bounded size.

    Raises:
        InputError: One is not.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        root = root.parent.parent  # the hub's cache: files are links into `blobs` beside the snapshots
    names = sorted(os.listdir(folder))
    if (folder / TEMPLATES).is_dir():
        names += [f"{TEMPLATES}/{name}" for name in sorted(os.listdir(folder / TEMPLATES))]
    if len(names) > MOST_FILES:
        raise InputError(f"{folder}: expected at most {MOST_FILES:,} files in a model's folder, got {len(names):,}")
    for name in names:
        file = folder / name
        _check_place(file, root)
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise InputError(f"{file}: expected a regular file, got a device, a pipe or a socket: remove it")
        most = SMALL_BYTES if file.name in SMALL else INDEX_BYTES if file.name == INDEX else LARGE_BYTES
        if file.suffix == ".safetensors" and _is_hollow(file):
            raise InputError(f"{file}: expected weights, got a file of {file.stat().st_size:,} bytes that is empty")
        if file.suffix in READ and file.stat().st_size > most:
            raise InputError(f"{file}: expected at most {most:,} bytes, got {file.stat().st_size:,}")
        yield file


def _is_hollow(file: Path) -> bool:
    """Whether a large file takes next to no room on the disk: then reading it would take longer than sending it."""
    found = file.stat()
    if found.st_size < LARGE_BYTES or found.st_blocks * 512 >= found.st_size // SPARSE:
        return False
    if found.st_blocks:
        return True
    with open_regular(file) as opened:  # some file systems tell no blocks
        try:
            return os.lseek(opened.fileno(), 0, os.SEEK_HOLE) < found.st_size // SPARSE
        except OSError:
            return False


def _check_place(file: Path, root: Path) -> None:
    """Check that a file is there, and inside, wherever links lead."""
    try:
        place = file.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a ring
        raise InputError(f"{file}: expected a file, got a link to nothing: remove it") from None
    if not place.is_relative_to(root):
        raise InputError(f"{file}: expected a file in the model's folder, got a link out of it: copy the file there")


def header(file: Path) -> tuple[bytes, int, int]:
    """The header of a file of weights, its number of tensors, and of numbers in them.

    Raises:
        InputError: The header is too large.
        Unloadable: The file is damaged, or not in the form of safetensors.
    """
    size = file.stat().st_size
    with open_regular(file) as opened:
        first = opened.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > size - 8:
            raise Unloadable(f"{file.name}: expected weights in the form of safetensors")
        if length > HEADER_BYTES:
            raise InputError(f"{file}: expected a header of at most {HEADER_BYTES:,} bytes, got {length:,}")
        content = opened.read(length)
    try:
        tensors = parse_json(content, str(file), "a header of safetensors")
        expect(tensors, {"type": "object"}, str(file))
        tensors.pop("__metadata__", None)
        expect(tensors, each(_TENSOR), str(file))
    except InputError as error:
        raise Unloadable(str(error)) from None
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if end != size - 8 - length:
        raise Unloadable(f"{file.name}: expected {end:,} bytes of weights, got {size - 8 - length:,}")
    elements = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    return content, len(tensors), min(elements, 2 * size)  # a number has four bits or more


def shards(folder: Path) -> list[str]:
    """The files of weights that the folder's index names; none if it has no index."""
    if not (folder / INDEX).exists():
        return []
    index = parse_json(read_bytes(folder / INDEX, INDEX_BYTES), str(folder / INDEX))
    expect(index, an_object(weight_map=each(TEXT)), str(folder / INDEX))
    names = sorted({*index["weight_map"].values()})
    for name in names:
        if "/" in name or not name.endswith(".safetensors"):
            raise InputError(f"{folder / INDEX}: expected names of safetensors beside it, got {shown(name)}")
    return names


def _check_described(folder: Path) -> None:
    """Check the files of JSON by which libraries find others."""
    described: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):  # the others are large: the helper reads them
        if (file := folder / name).exists():
            described[name] = parse_json(read_bytes(file, LARGE_BYTES), str(file))
            expect(described[name], {"type": "object"}, str(file))
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder}: expected a whole model, got an adapter (adapter_config.json), which names another one: "
            "merge it into its base model first"
        )
    for key, value in _values(described.get("config.json", {})):
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise InputError(f"{folder / 'config.json'}: {key}: code from elsewhere is never run, got {shown(value)}")
        if key == "transformers_weights" and value:
            raise InputError(f"{folder / 'config.json'}: {key}: expected weights under their usual name")


def _values(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a JSON value with what stands under them, at any depth."""
    waiting = [value]
    while waiting:
        member = waiting.pop()
        if isinstance(member, dict):
            yield from member.items()
        waiting += member.values() if isinstance(member, dict) else member if isinstance(member, list) else []
