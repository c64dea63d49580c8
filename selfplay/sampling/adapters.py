"""Adapters of PEFT as models. Each is merged into its base once, and the plain folder is used from then on.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`. Its configuration names the base,
which is found like any model. Somebody else may have made the adapter: its configuration must be of plain LoRA, of
which only known keys reach the library, and a process of ours with limits merges it (`adapter_merging.py`). The folders
are in `$XDG_CACHE_HOME/selfplay/adapters`, by default `~/.cache/selfplay/adapters`, under the hash of adapter and base.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

from puzzles.foreign import expect, open_regular, parse_json, read_bytes, shortened, shown
from puzzles.puzzle import InputError
from selfplay.run import user_cache
from selfplay.sampling import model_files
from selfplay.sampling.helper import ONE_THREAD

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
USED = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "fan_in_fan_out", "bias", "use_rslora", "use_dora",
    "lora_bias", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
)  # fmt: skip
"""Keys of the configuration that decide what is merged. They are given to the library."""
UNUSED = (
    "peft_type", "peft_version", "task_type", "base_model_name_or_path", "inference_mode", "lora_dropout",
    "init_lora_weights", "auto_mapping", "revision", "megatron_core", "qalora_group_size", "runtime_config",
    "loftq_config", "eva_config",
)  # fmt: skip
"""Keys that only matter in a training, or are examined here. Any other one must be unset."""
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base as it is."""
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
MERGING = 1
"""Number of the merging's rules. A new one merges all adapters again."""
SECONDS_PER_MEGABYTE, FEWEST_SECONDS = 2, 600
"""Time limit of a merge, by the size of the base. 269 MB took 43 s on two slow cores with other work beside it."""
READ_BYTES = 1 << 20


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder is an adapter. A run's own checkpoints never are: nobody has named their base."""
    path = Path(folder)
    of_a_run = path.parent.name == "checkpoints" and (path.parent.parent / "config.toml").exists()
    return (path / CONFIG).is_file() and not (path / "config.json").exists() and not of_a_run


def merged(folder: Path, named: str, base_folder: Callable[[str], Path]) -> Path:
    """The plain folder of an adapter merged into its base. A line on the terminal names the base.

    Args:
        folder: The adapter.
        named: What the user calls it, for messages.
        base_folder: Finds the folder of a model by its name.

    Raises:
        InputError: peft is not installed, the base is not at hand, or the adapter is no plain LoRA that fits it.
    """
    settings, base = _read(folder, named)
    if util.find_spec("peft") is None:
        raise InputError(f"{named}: an adapter needs the package peft: pip install '.[lora]'")
    cache = user_cache.folder("adapters")
    if cache is None:
        raise InputError(f"{named}: expected a place for the merged model: set XDG_CACHE_HOME")
    try:
        place = base_folder(base)
        model_files.check(place)
    except Exception as error:  # noqa: BLE001  # the hub's library raises anything
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{named}: its base {shown(base)} cannot be loaded: {shortened(said)}") from None
    _tell_base(named, shown(base))
    plain = cache / _hash(folder, place)
    user_cache.made_once(plain, lambda part: _merge(folder, place, part, settings, named))
    return plain


@functools.cache
def _tell_base(named: str, base: str) -> None:
    """Say on the terminal and in the log, once in the life of the process, which model the adapter's author chose."""
    line = f"{named}: an adapter of {base}, as its {CONFIG} says"
    print(line, file=sys.stderr)
    logger.info("%s", line)


def _read(folder: Path, named: str) -> tuple[dict[str, Any], str]:
    """What an adapter's configuration asks for, and the name of its base.

    Raises:
        InputError: It is no plain LoRA, or a file is none that may be opened.
    """
    list(model_files.files(folder))
    where = str(folder / CONFIG)
    told = parse_json(read_bytes(folder / CONFIG, model_files.SMALL_BYTES), where)
    expect(told, {"type": "object"}, where)
    if told.get("peft_type") != "LORA":
        raise InputError(f"{where}: peft_type: expected 'LORA', got {shown(told.get('peft_type'))}: merge it yourself")
    base = told.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise InputError(f"{where}: base_model_name_or_path: expected the name of the base model, got {shown(base)}")
    if mapping := told.get("auto_mapping"):
        library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
        if not str(library).startswith("transformers."):
            raise InputError(
                f"{where}: auto_mapping: it needs code from elsewhere, which is never run: {shown(library)}"
            )
    if told.get("revision") not in (None, "", "main"):
        raise InputError(
            f"{where}: revision: expected the base's newest, got {shown(told['revision'])}: "
            "download that one, and name its folder in base_model_name_or_path"
        )
    if told.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise InputError(
            f"{where}: init_lora_weights: {shown(told['init_lora_weights'])} changes the base: merge it yourself"
        )
    if other := sorted(key for key, value in told.items() if key not in (*USED, *UNUSED) and value):
        raise InputError(f"{where}: {other[0]}: expected plain LoRA without it: merge it yourself")
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{named}: expected {WEIGHTS} beside {CONFIG}, there is none")
    try:
        model_files.header(folder / WEIGHTS)
    except model_files.Unloadable as error:
        raise InputError(f"{named}: {error}") from None
    return {key: told[key] for key in USED if key in told}, base


def _hash(folder: Path, base: Path) -> str:
    """Hash over the files of adapter and base that matter."""
    digest = hashlib.sha256(f"{MERGING}".encode())
    for place in (folder, base):
        for file in model_files.files(place):
            if file.suffix not in (*model_files.READ, ".safetensors"):
                continue
            digest.update(f"\0{file.relative_to(place)}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            with open_regular(file) as opened:
                while block := opened.read(READ_BYTES):
                    digest.update(block)
    return digest.hexdigest()[:32]


def _merge(folder: Path, base: Path, part: Path, settings: dict[str, Any], named: str) -> None:
    """Write the plain folder: the merged weights, the base's other files, and the adapter's tokenizer if it has one.

    Raises:
        InputError: The adapter does not fit the base.
    """
    print(f"{named}: merged once into its base, which takes some seconds or minutes", file=sys.stderr)
    size = sum(file.stat().st_size for file in model_files.files(base) if file.suffix == ".safetensors")
    seconds = FEWEST_SECONDS + SECONDS_PER_MEGABYTE * (size >> 20)
    command = [sys.executable, "-P", str(Path(__file__).with_name("adapter_merging.py"))]
    asked = [str(base.resolve()), str((folder / WEIGHTS).resolve()), str(part), json.dumps(settings), str(size)]
    try:
        done = subprocess.run(
            [*command, *asked], capture_output=True, text=True, env=os.environ | ONE_THREAD, timeout=seconds,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{named}: merging it takes more than {seconds} s: merge it yourself") from None
    if done.returncode or not (part / "config.json").is_file():
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        said = parse_json(lines[-1], named)["error"] if lines else f"merging ended with status {done.returncode}"
        raise InputError(f"{named}: it does not fit its base {base}: {shortened(said)}")
    _copy_beside(folder, base, part)


def _copy_beside(folder: Path, base: Path, part: Path) -> None:
    """Copy the files beside the weights: the base's, but the tokenizer's from the adapter if it has one."""
    own = (folder / "tokenizer_config.json").is_file()
    for file in model_files.files(base):
        place = file.relative_to(base)
        taken = file.suffix in model_files.READ and file.name != model_files.INDEX and not (part / place).exists()
        if taken and not (own and (file.name in TOKENIZER or file.parent != base)):
            (part / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, part / place)
    for file in model_files.files(folder):
        if own and file.name in TOKENIZER and file.parent == folder:
            shutil.copyfile(file, part / file.name)
