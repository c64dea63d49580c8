"""From a model's name to its folder: a shipped model, a local folder, a GGUF file, an adapter, or a name on the hub."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub

from puzzles.puzzle import InputError
from selfplay.sampling import adapters, gguf, model_files
from selfplay.settings import embedded_file

HUB_SECONDS = 5
"""Time limit for any answer of the hub."""


def located(name: str) -> tuple[str, Path]:
    """The place of a model that any engine can open, and its plain folder here. The place is that folder or a hub name.

    Raises:
        InputError: There is no such model, or it cannot be made a plain folder.
    """
    place, folder = _found(name)
    if adapters.is_adapter(folder):
        folder = adapters.merged(folder, name, lambda base: _found(base)[1])
        place = str(folder)
    return place, folder


def check(name: str) -> None:
    """Check that a name has the form of one.

    Raises:
        InputError: It is none of those that are known.
    """
    if gguf.is_gguf(name) or name == "embedded":
        return
    path = Path(name)
    if path.is_dir() and not any((path / file).is_file() for file in ("config.json", adapters.CONFIG)):
        raise InputError(f"{name}: expected a model folder in Hugging Face form, there is no config.json in it")
    if not path.is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        known = "`embedded`, `smollm2`, a model folder, a GGUF file or a hub name (owner/name)"
        raise InputError(f"{name}: expected {known}, there is none")


def _found(name: str) -> tuple[str, Path]:
    check(name)
    place = gguf.plain_folder(str(embedded_file("model")) if name == "embedded" else name)
    if Path(place).is_dir():
        return place, Path(place)
    return place, _from_hub(place, not _hub_answers())


def _hub_answers() -> bool:
    """Whether a hub name can be looked up. Without a network the library would try for a minute and print warnings."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # a refusal is an answer
    except OSError:
        return False
    return True


def _from_hub(name: str, local: bool) -> Path:
    """The folder of a hub name in the hub's cache, after a download unless `local`.

    Of the weights only those are loaded down that the library will read.
    """
    small = ["*.json", "*.txt", "*.model", "*.jinja", "model.safetensors", adapters.WEIGHTS]
    folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=small, local_files_only=local))
    index = folder / model_files.INDEX
    if not local and not (folder / "model.safetensors").exists() and index.exists():
        shards = model_files.shards(folder)
        huggingface_hub.snapshot_download(name, allow_patterns=shards)
    return folder
