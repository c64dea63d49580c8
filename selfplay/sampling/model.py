"""A causal language model of transformers: load, save, sample."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from puzzles.foreign import NATURAL, NUMBER, TEXT, a_list, an_object, expect, parse_json, shortened, shown
from puzzles.puzzle import InputError
from sandbox.pool import available_bytes, available_cores
from selfplay.config import ModelConfig
from selfplay.run.resources import OUT_OF_MEMORY
from selfplay.sampling import decode
from selfplay.sampling.decode import LineTable
from selfplay.sampling.prompts import PROTOCOLS, Prompt, encode_prompt
from selfplay.sampling.sampler import Arithmetic, Completion, Sampled, SamplingSettings
from selfplay.settings import embedded_file

# transformers draws a bar for every file it reads, and warns of a prompt that is measured only to be left out.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

logger = logging.getLogger(__name__)

NOTES_FILE = "selfplay.json"
"""Beside the weights: the protocol they were trained with, and what they were trained on."""
MOST_THREADS = 1024
MOST_ROWS = 1024
"""Side by side, if the memory holds them: for 2 M parameters on a CPU twice as many are no faster (15,900 tokens/s
against 16,200), half as many an eighth slower (14,200)."""
ROWS_PER_THREAD = 128
"""Two threads of 128 rows each are as fast as one work of 256 rows for both, and nearly twice as fast beside a busy
neighbour, who makes threads that share a step wait; from 256 rows each they are faster alone, too."""
ROOM = 3
"""Rows' own keys and values: their room is doubled when it is full, and copied."""
PROMPT_ROOM = 2
"""Prompts' keys and values: what was read is copied to stand side by side."""
DRAWING_BYTES = 40
"""For each row and token of the vocabulary: logits, probabilities and their sums."""
PEAK_SIZE = {"cpu": 2048}
"""Of the matrices whose product shows what the machine can do; elsewhere `PEAK_SIZE_ELSEWHERE`."""
PEAK_SIZE_ELSEWHERE = 8192
HUB_SECONDS = 5
"""How long the hub may take to answer at all."""


class LanguageModel:
    """A model with its tokenizer; implements `sampler.Sampler`.

    Args:
        path: `embedded`, a local Hugging Face folder, or a hub name.
        config: Device, dtype and threads; `config.path` is not used.

    Raises:
        InputError: There is no such model, or it is not a causal LM with safetensors weights.
    """

    def __init__(self, path: str | Path, config: ModelConfig | None = None) -> None:
        config = config or ModelConfig()
        self.path = str(embedded_file("model") if str(path) == "embedded" else path)
        self.device = device_of(config.device)
        self.dtype = _dtype(config.dtype, self.device)
        self.threads = config.threads or available_cores()
        if self.threads > MOST_THREADS:
            raise InputError(f"model.threads: expected at most {MOST_THREADS}, got {self.threads}")
        self._overlap = config.overlap
        torch.set_num_threads(self.threads)
        with _clear_errors(self.path):
            local = _is_folder(self.path) or not _hub_answers()
            # `trust_remote_code` left open asks on the terminal whether a model's own code may run.
            known = {"local_files_only": local, "trust_remote_code": False}
            self.tokenizer = AutoTokenizer.from_pretrained(self.path, **known)
            self.network, report = AutoModelForCausalLM.from_pretrained(
                self.path, dtype=self.dtype, use_safetensors=True, output_loading_info=True, **known
            )
            if not self.tokenizer("def f(x: int):\n", truncation=False).input_ids:
                raise ValueError("its tokenizer makes no tokens of a text")
        if report["missing_keys"]:  # transformers would draw them at random
            raise InputError(f"{path}: its weights are not all there: {min(report['missing_keys'])} is missing")
        if self.tokenizer.eos_token_id is None:
            raise InputError(f"{path}: its tokenizer has no end-of-text token, so no completion could end")
        self._check_numbers()
        # `generate` fills what a call leaves open from here, such as a repetition penalty that came with the model.
        self.network.generation_config = _generation_config(
            _end_ids(self.network, self.tokenizer), _pad_id(self.tokenizer)
        )
        self.network.to(self.device).eval()
        self.checkpoint = _hash(self.path, (self.tokenizer.chat_template, self._end_ids()))
        self.notes = read_notes(self.path, local)
        self._line_stop: LineTable | None = None
        self._agrees: bool | None = None
        self._most_rows = sys.maxsize
        self._twins: list[Any] = []

    def _check_numbers(self) -> None:
        """That all weights are numbers, and all tokens among those that have an embedding.

        Raises:
            InputError: They are not.
        """
        limit = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and not (type(limit) is int and limit > 0):
            asked = "expected an integer above 0 under 'max_position_embeddings'"
            raise InputError(f"{self.path}: config.json: {asked}, got {shown(limit)}")
        for name, weight in self.network.named_parameters():
            if not bool(torch.isfinite(weight.sum(dtype=torch.float64))) and not bool(torch.isfinite(weight).all()):
                raise InputError(f"{self.path}: expected numbers as weights, got NaN or infinity in {name}")
        rows = self.network.get_input_embeddings().weight.shape[0]
        known = max(self.tokenizer.get_vocab().values(), default=-1)
        if known >= rows:
            raise InputError(f"{self.path}: expected an embedding for each token, got {rows} for {known + 1} tokens")
        stored = self.network.generation_config.eos_token_id
        listed = stored if isinstance(stored, list) else [stored] if stored is not None else []
        if wrong := [end for end in [*listed, _pad_id(self.tokenizer)] if type(end) is not int or not 0 <= end < rows]:
            asked = f"expected tokens from 0 to {rows - 1} as ends"
            raise InputError(f"{self.path}: generation_config.json: {asked}, got {shown(wrong[0])}")

    @property
    def description(self) -> dict[str, Any]:
        """What samples depend on beside weights and settings."""
        return {
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": self.threads,
        }

    @property
    def overlap(self) -> bool:
        """Whether the judges have the processor for themselves."""
        return self._overlap == "yes" or (self._overlap == "auto" and self.device.type != "cpu")

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return int(sum(p.numel() for p in self.network.parameters()))

    @property
    def own_bytes(self) -> int:
        """What its weights take where they are."""
        return self.parameters * int(self.dtype.itemsize)

    @property
    def free_bytes(self) -> int:
        """What may still be taken there."""
        return free_bytes(self.device)

    @property
    def arithmetic(self) -> Arithmetic:
        """Of a forward pass, and of this device in this dtype."""
        embedding = self.network.get_input_embeddings().weight
        tied = embedding is self.network.get_output_embeddings().weight
        multiplying = self.parameters - (0 if tied else embedding.numel())
        return Arithmetic(2 * multiplying, peak_flops_per_second(self.device, self.dtype, self.threads))

    @property
    def context_tokens(self) -> int:
        """Longest sequence it was made for."""
        return int(getattr(self.network.config, "max_position_embeddings", 0) or 2**30)

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the context."""
        return len(encode_prompt(self.tokenizer, prompt)) + max_tokens <= self.context_tokens

    def tokens_of(self, completion: str) -> int:
        """How many tokens a completion's text comes to, without its end."""
        return len(self.tokenizer.encode(completion, add_special_tokens=False))

    def batch_rows(self, max_tokens: int) -> int:
        """The power of two that half of the free memory holds, at most `MOST_ROWS`."""
        return self._fitting_rows(max_tokens, MOST_ROWS)

    def _fitting_rows(self, max_tokens: int, most: int, prompt_tokens: int = 0, copies: int = 1) -> int:
        """At most so many rows, or the power of two that half of the free memory holds with their prompts."""
        config = self.network.config.get_text_config()
        kept = 2 * config.num_hidden_layers * config.hidden_size * self.dtype.itemsize
        own = ROOM * max_tokens * kept + DRAWING_BYTES * config.vocab_size
        bytes_per_row = own + PROMPT_ROOM * prompt_tokens * kept // copies
        fitting = max(1, free_bytes(self.device) // 2 // bytes_per_row)
        return most if fitting >= most else 1 << fitting.bit_length() - 1

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None,
    ) -> Sampled:
        """`copies` completions of each prompt, in the prompts' order.

        Prompts of like length are sampled side by side; fewer of them from then on when the memory runs out.

        Raises:
            InputError: Not even one fits the memory.
        """
        ids_P = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda p: (prompts[p].chat, len(ids_P[p])))
        completions_P_K: list[list[Completion]] = [[] for _ in prompts]
        read = 0
        for chat, same in itertools.groupby(order, key=lambda p: prompts[p].chat):
            chosen = list(same)
            number = int(np.random.SeedSequence([*seed, chat]).generate_state(1, np.uint64)[0]) % 2**63
            asked = [ids_P[p] for p in chosen]
            sampled, tokens, settings = self._sample_fitting(asked, copies, chat, settings, number, progress)
            read += tokens
            for place, p in enumerate(chosen):
                completions_P_K[p] = sampled[place * copies : (place + 1) * copies]
        return Sampled(completions_P_K, read, settings.batch_rows)

    def _sample_fitting(
        self,
        prompts_U: list[list[int]],
        copies: int,
        chat: bool,
        settings: SamplingSettings,
        seed: int,
        progress: Callable[[int], object],
    ) -> tuple[list[Completion], int, SamplingSettings]:
        """As `_sample_alike`, and the settings with so many rows as fitted the memory."""
        most = min(settings.batch_rows, self._most_rows)
        rows = self._fitting_rows(settings.max_tokens, most, max(map(len, prompts_U)), copies)
        while True:
            settings, done = replace(settings, batch_rows=rows), 0

            def counted(number: int) -> None:
                nonlocal done
                done += number
                progress(number)

            try:
                return *self._sample_alike(prompts_U, copies, chat, settings, seed, counted), settings
            except RuntimeError as error:
                if not OUT_OF_MEMORY.search(str(error)):
                    raise
                if rows == 1:
                    raise InputError(
                        f"{self.path}: out of memory with one sequence of {max(map(len, prompts_U))} tokens and "
                        f"{settings.max_tokens} more: take a smaller model, model.dtype = 'bfloat16' or fewer shots"
                    ) from None
            # Only here, where the error and the tensors that it holds are gone.
            progress(-done)
            rows = self._most_rows = min(rows, len(prompts_U) * copies) // 2 or 1
            logger.warning("out of memory: from now on %d sequences side by side", rows)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _sample_alike(
        self,
        prompts_U: list[list[int]],
        copies: int,
        chat: bool,
        settings: SamplingSettings,
        seed: int,
        progress: Callable[[int], object],
    ) -> tuple[list[Completion], int]:
        """Completions of prompts that end by the same rules, copies together; and the tokens of prompts read."""
        ends, lines = self._end_ids(), None if chat else self._lines()
        if self._shares_prompts():
            networks = self._networks(min(settings.batch_rows, len(prompts_U) * copies))
            ids_N, read = decode.decode(networks, prompts_U, copies, settings, ends, lines, seed, progress)
        else:
            torch.manual_seed(seed)
            prompts_N = [ids for ids in prompts_U for _ in range(copies)]
            ids_N, read = [], sum(map(len, prompts_N))
            for start in range(0, len(prompts_N), settings.batch_rows):
                ids_N += self._generate(prompts_N[start : start + settings.batch_rows], settings, ends, lines)
                progress(len(ids_N) - start)
        return [self._completion(ids, ends, settings.max_tokens) for ids in ids_N], read

    def _networks(self, rows: int) -> list[Any]:
        """As many threads as have enough rows each: threads that share no step do not wait for each other."""
        number = min(self.threads, rows // ROWS_PER_THREAD) if self.device.type == "cpu" else 1
        if number > len(self._twins):
            self._twins = decode.twins(self.network, number)
        return [self.network, *self._twins[1 : max(1, number)]]

    def _shares_prompts(self) -> bool:
        if self._agrees is None:
            self._agrees = decode.agrees(self.network)
        return self._agrees

    def _generate(
        self,
        prompts_B: list[list[int]],
        settings: SamplingSettings,
        ends: list[int],
        lines: LineTable | None,
    ) -> list[list[int]]:
        """The library's own loop, for models that `decode` does not foresee."""
        width = max(map(len, prompts_B))
        pad = _pad_id(self.tokenizer)
        input_ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts_B], device=self.device)
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts_B], device=self.device)
        with torch.inference_mode():
            output_BT = self.network.generate(
                input_ids_BT,
                attention_mask=mask_BT,
                generation_config=_generation_config(ends, pad, settings),
                stopping_criteria=StoppingCriteriaList([_LineStop(lines)] if lines else []),
            )
        return [_without_padding(row, ends, pad) for row in output_BT[:, width:].tolist()]

    def _end_ids(self) -> list[int]:
        return _end_ids(self.network, self.tokenizer)

    def _lines(self) -> LineTable:
        if self._line_stop is None:
            vocabulary = self.network.get_output_embeddings().weight.shape[0]
            self._line_stop = LineTable(self.tokenizer, vocabulary, self.device)
        return self._line_stop

    def _completion(self, ids: list[int], ends: list[int], max_tokens: int) -> Completion:
        ended = bool(ids) and ids[-1] in ends
        kept = ids[:-1] if ended else ids
        text = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(text, len(ids), finished=ended or len(ids) < max_tokens)

    def save(self, folder: Path, notes: dict[str, Any]) -> None:
        """Write the checkpoint as a plain folder."""
        save(self.network, self.tokenizer, folder, notes)


def save(network: Any, tokenizer: Any, folder: Path, notes: dict[str, Any]) -> None:
    """Write a plain Hugging Face folder that samples by default, with our notes beside it."""
    network.generation_config = _generation_config(_end_ids(network, tokenizer), _pad_id(tokenizer))
    try:
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:
        # The Rust libraries have errors of their own for a full or broken disk.
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from None
        raise
    (folder / NOTES_FILE).write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


def _end_ids(network: Any, tokenizer: Any) -> list[int]:
    stored = network.generation_config.eos_token_id
    listed = stored if isinstance(stored, list) else [stored] if stored is not None else []
    return list(dict.fromkeys([tokenizer.eos_token_id, *listed]))


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


class _LineStop(StoppingCriteria):  # type: ignore[misc]  # transformers is not followed
    """Stops a row when a line begins that is not indented: there the function has ended."""

    def __init__(self, table: LineTable) -> None:
        self._table = table
        self._at_line_start_B: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        last_B = input_ids[:, -1]
        start_B = self._at_line_start_B
        if start_B is None:
            start_B = torch.zeros_like(last_B, dtype=torch.bool)
        stop_B, self._at_line_start_B = self._table.step(last_B, start_B)
        return stop_B


def _generation_config(ends: list[int], pad: int, settings: SamplingSettings | None = None) -> GenerationConfig:
    """Draws from the model's own distribution where `settings` says nothing else."""
    common = {"eos_token_id": ends, "pad_token_id": pad}
    if settings is None:
        return GenerationConfig(**common, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    if settings.temperature == 0:
        return GenerationConfig(**common, do_sample=False, max_new_tokens=settings.max_tokens)
    return GenerationConfig(
        **common, do_sample=True, temperature=settings.temperature, top_p=settings.top_p, top_k=0,
        max_new_tokens=settings.max_tokens,
    )  # fmt: skip


def _without_padding(ids: list[int], ends: list[int], pad: int) -> list[int]:
    """A row of `generate` up to its end; one that met a stop is padded with what may be the end token."""
    length = next((position + 1 for position, token in enumerate(ids) if token in ends), len(ids))
    kept = ids[:length]
    while kept and kept[-1] == pad and pad not in ends:
        kept.pop()
    return kept


def device_of(name: str) -> torch.device:
    """What `model.device` names.

    Raises:
        InputError: It is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"model.device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


@functools.cache
def peak_flops_per_second(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """What a large matrix product reaches here: the best of some, as anything beside it only slows it."""
    size = PEAK_SIZE.get(device.type, PEAK_SIZE_ELSEWHERE)
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    best = math.inf
    for _ in range(5):
        started = time.monotonic()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.monotonic() - started)
    return 2 * size**3 / best


def free_bytes(device: torch.device) -> int:
    """What may still be taken on a device."""
    if device.type == "cuda":
        # What torch's own allocator keeps for later is free, too: a stage must not depend on the ones before it.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return available_bytes()


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()


def _hub_answers() -> bool:
    """Whether a hub name can be looked up; without a network the library would try for a minute, aloud."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # it answers, if with a refusal
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """What a missing or foreign model comes to, as one line."""
    if _is_folder(path) and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path}: expected a model folder in Hugging Face form, there is no config.json in it")
    if not _is_folder(path) and (path.count("/") != 1 or path.startswith((".", "/", "~"))):
        raise InputError(f"{path}: expected `embedded`, a model folder or a hub name (owner/name); there is none")
    if _is_folder(path):
        for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            if (file := Path(path) / name).exists():
                expect(parse_json(_bytes(file), str(file)), {"type": "object"}, str(file))
    try:
        yield
    except Exception as error:
        # Rust's libraries raise `Exception` itself, and transformers, given odd settings, whatever they come to.
        if isinstance(error, MemoryError | InputError):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "custom code" in first:
            first = "it needs code of its own (auto_map in its config.json), and code of a model is never run here"
        raise InputError(f"{path}: it cannot be loaded as a causal language model: {shortened(first)}") from None


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}: expected JSON") from None


def _hash(path: str, settings: object) -> str:
    """Sixteen digits over weights, configuration and tokenizer as they are on disk, and over loaded settings.

    A chat template and the tokens that end a text stand in one of several files, and move when a model is saved.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder = Path(transformers.utils.cached_file(path, "config.json", local_files_only=True)).parent
    digest = hashlib.sha256(repr(settings).encode())
    names = [name for name in sorted(os.listdir(folder)) if name.endswith(".safetensors") or name in _HASHED_FILES]
    for name in names:
        digest.update(name.encode())
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


_HASHED_FILES = (
    "config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip


def read_notes(path: str, local: bool = True) -> dict[str, Any]:
    """What was saved beside the weights of a folder or, unless `local`, of a hub name; raises InputError."""
    file = transformers.utils.cached_file(
        path, NOTES_FILE, local_files_only=local, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    if not file:
        return {}
    notes: dict[str, Any] = parse_json(_bytes(Path(file)), str(file))
    expect(notes, _NOTES, str(file))
    return notes


_SECONDS = {"type": "number", "minimum": 0}
_TRAINING = an_object(
    ["steps", "tokens", "sequences", "seconds", "cpu_seconds", "last_loss", "peak_flops_per_second"],
    steps=NATURAL, tokens=NATURAL, sequences=NATURAL, seconds=_SECONDS, cpu_seconds=_SECONDS, last_loss=NUMBER,
    peak_flops_per_second=_SECONDS,
)  # fmt: skip
_NOTES = an_object(
    ["protocol", "shots", "training"],
    protocol={"type": "string", "enum": PROTOCOLS}, training=_TRAINING,
    shots=a_list({"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2}),
)  # fmt: skip
