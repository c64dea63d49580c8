"""Loads, saves and samples a causal language model with transformers."""

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from puzzles.foreign import NATURAL, NUMBER, TEXT, a_list, an_object, expect, parse_json, shortened, shown
from puzzles.puzzle import InputError
from sandbox.pool import available_bytes, available_cores
from selfplay.config import ModelConfig
from selfplay.run.resources import OUT_OF_MEMORY
from selfplay.sampling import decode, model_files, naming, proofs
from selfplay.sampling.chat import clock_of
from selfplay.sampling.context import alike_tokens, context_tokens, window_tokens
from selfplay.sampling.decode import LineTable
from selfplay.sampling.prompts import KEPT, PROTOCOLS, Prompt, encode_prompt, end_of
from selfplay.sampling.sampler import Arithmetic, Completion, Drawn, Sampled, SamplingSettings, chances
from selfplay.sampling.tokens import decode_after, encode_after, is_border
from selfplay.settings import embedded_file

# transformers shows a progress bar for every file that it reads, and warns about long prompts that are only measured.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

logger = logging.getLogger(__name__)

NOTES_FILE = "selfplay.json"
"""File beside the weights: the prompts they were trained with, and what they were trained on."""
MOST_THREADS = 1024
MOST_ROWS = 1024
"""Most rows side by side, if the memory holds them. For 2 M parameters on a CPU twice as many are no faster
(15,900 tokens/s against 16,200), and half as many are an eighth slower (14,200)."""
ROWS_PER_THREAD = 128
"""Fewest rows of a thread. Two threads of 128 rows each are as fast as 256 rows in one step of both threads. They are
nearly twice as fast beside a busy neighbour, because threads that share a step wait for each other. From 256 rows each
they are also faster on a free machine."""
ROOM = 3
"""Memory for rows' own keys and values, as a multiple of their size: a full room is copied into one twice as large."""
PROMPT_ROOM = 2
"""Memory for prompts' keys and values, as a multiple of their size: those that were read are copied side by side."""
DRAWING_BYTES = 40
"""Bytes per row and token of the vocabulary: for logits, probabilities and their sums."""
PEAK_SIZE = {"cpu": 2048}
"""Size of the matrices whose product measures the machine's peak. Other devices use `PEAK_SIZE_ELSEWHERE`."""
PEAK_SIZE_ELSEWHERE = 8192
DTYPE_SIZES = (256, 1024)
"""Sizes of the matrices whose products decide the dtype. A processor without bfloat16 takes .03 s for one of 256, a
hundred times as long as in float32. How much faster another is shows only the larger one; the smaller takes .2 ms, and
its ratio on one machine was sometimes above and sometimes below `CLEARLY_FASTER`."""
CLEARLY_FASTER = 1.5
"""Ratio of speeds from which `auto` takes bfloat16. With AVX-512 BF16 or AMX it was 2.1 to 2.7."""
CLEARLY_SLOWER = 0.2
"""Ratio of speeds of small products below which a large one is not tried."""
LARGE_BYTES = 100_000_000
"""Size of the weight files from which `auto` may take bfloat16 on a CPU. In smaller models, such as the embedded one,
products are too small a part of the work."""
PEAK_SECONDS = 0.5
"""Longest expected time of a product that measures the peak."""
BYTES_OF_A_COPY = 8
"""Free bytes per weight that a copy in float32 needs, while it is made."""
WHY_GENERATE = "with shared prompts its texts would be others"
WHY_SHORT_TEXTS = "in a longer text its layers look back less far, or its positions change"


class LanguageModel:
    """A model with its tokenizer. Implements `sampler.Sampler`.

    Args:
        path: `embedded`, `smollm2`, a local Hugging Face folder, an adapter's folder, a GGUF file or a folder with one,
            or a hub name.
        config: Device, dtype and threads; `config.path` is not used.

    Raises:
        InputError: There is no such model, or it is not a causal LM with safetensors weights.
    """

    def __init__(self, path: str | Path, config: ModelConfig | None = None) -> None:
        config = config or ModelConfig()
        self.path = str(embedded_file("model") if str(path) == "embedded" else path)
        self.device = device_of(config.device)
        self.threads = config.threads or available_cores()
        if self.threads > MOST_THREADS:
            raise InputError(f"model.threads: expected at most {MOST_THREADS}, got {self.threads}")
        self._overlap = config.overlap
        torch.set_num_threads(self.threads)
        with _clear_errors(self.path):
            self.place, folder = naming.located(self.path)
            model_files.check(folder)
            self.dtype = _dtype(config.dtype, self.device, folder)
            # Without `trust_remote_code` transformers would ask on the terminal whether a model's own code may run.
            known = {"local_files_only": True, "trust_remote_code": False}
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **known)
            self.network, report = AutoModelForCausalLM.from_pretrained(
                folder, dtype=self.dtype, use_safetensors=True, output_loading_info=True, **known
            )
            self.network.config.get_text_config(decoder=True)  # raises if it is about several texts
            if not self.tokenizer("def f(x: int):\n", truncation=False).input_ids:
                raise ValueError("its tokenizer makes no tokens of a text")
        if report["missing_keys"]:  # transformers would fill them with random numbers
            raise InputError(f"{path}: expected all weights of the model, {min(report['missing_keys'])} is missing")
        if self.tokenizer.eos_token_id is None:
            raise InputError(f"{path}: its tokenizer has no end-of-text token, so no completion could end")
        self._check_numbers()
        context_tokens(self.network, self.tokenizer, self.path)  # refuses wrong numbers
        # `generate` takes its defaults from here. The model's own may hold, for example, a repetition penalty.
        self.network.generation_config = _generation_config(
            _end_ids(self.network, self.tokenizer), _pad_id(self.network, self.tokenizer)
        )
        self.network.to(self.device).eval()
        self.checkpoint = _hash(folder, (self.tokenizer.chat_template, self._end_ids()))
        self.notes = read_notes(folder)
        self._line_stop: LineTable | None = None
        self._agrees: bool | None = None
        self._padding: tuple[bool, bool] | None = None
        self._most_rows = sys.maxsize
        self._twins: list[Any] = []
        # A text as long as a window may already be too long: kinds of models count the newest token or not.
        self._shared_most = min(alike_tokens(self.network), window_tokens(self.network) - 1)

    def _check_numbers(self) -> None:
        """Check that all weights are finite, and that the ends have embeddings.

        Tokens without an embedding are allowed as long as nothing uses them: some models for pictures have one.

        Raises:
            InputError: A weight is not finite, or an end has no embedding.
        """
        for name, weight in self.network.named_parameters():
            if not bool(torch.isfinite(weight.sum(dtype=torch.float64))) and not bool(torch.isfinite(weight).all()):
                raise InputError(f"{self.path}: expected numbers as weights, got NaN or infinity in {name}")
        rows = self.network.get_input_embeddings().weight.shape[0]
        known = max(self.tokenizer.get_vocab().values(), default=-1)
        if known >= rows:
            proofs.say_once(
                f"this model ({proofs.kind_of(self.network)}) has {rows} embeddings for {known + 1} tokens: "
                "a text with one of the others would be refused"
            )
        stored = self.network.generation_config.eos_token_id
        listed = stored if isinstance(stored, list) else [stored] if stored is not None else []
        ends = [*listed, self.tokenizer.eos_token_id, _pad_id(self.network, self.tokenizer)]
        if wrong := [end for end in ends if type(end) is not int or not 0 <= end < rows]:
            asked = f"expected tokens from 0 to {rows - 1} as ends"
            raise InputError(f"{self.path}: generation_config.json: {asked}, got {shown(wrong[0])}")

    @property
    def description(self) -> dict[str, Any]:
        """What else the samples depend on, beside weights and settings."""
        return {
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": self.threads,
            **({"chat_time": clock} if (clock := clock_of(self.tokenizer)) else {}),
            **self._plainer_engine(),
        }

    def _plainer_engine(self) -> dict[str, str]:
        """The plainer way in which this kind of model is sampled, and why; nothing if its prompts can be shared."""
        if self._shares_prompts():
            if self._shared_most >= self.context_tokens:
                return {}
            return {"engine": f"generate beyond {self._shared_most} tokens", "engine_reason": WHY_SHORT_TEXTS}
        pads, caches = self._generate_can()
        if not caches:
            return {"engine": "whole texts", "engine_reason": f"{WHY_GENERATE}, and so they would with its cache"}
        by_length = "" if pads else "; it reads padding as text, so prompts are sampled by length"
        return {"engine": "generate", "engine_reason": WHY_GENERATE + by_length}

    @property
    def overlap(self) -> bool:
        """Whether chunks are sampled while others are judged: whether sampling leaves the processor to the judges."""
        return self._overlap == "yes" or (self._overlap == "auto" and self.device.type != "cpu")

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(sum(p.numel() for p in self.network.parameters()))

    @property
    def own_bytes(self) -> int:
        """Bytes of its weights on its device."""
        return self.parameters * int(self.dtype.itemsize)

    @property
    def free_bytes(self) -> int:
        """Bytes that are free on its device."""
        return free_bytes(self.device)

    @property
    def arithmetic(self) -> Arithmetic:
        """Operations of a forward pass, and the peak of this device in this dtype."""
        embedding = self.network.get_input_embeddings().weight
        tied = embedding is self.network.get_output_embeddings().weight
        multiplying = self.parameters - (0 if tied else embedding.numel())
        return Arithmetic(2 * multiplying, peak_flops_per_second(self.device, self.dtype, self.threads))

    @property
    def context_tokens(self) -> int:
        """Longest sequence that model and tokenizer were made for, in tokens."""
        return context_tokens(self.network, self.tokenizer, self.path)

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the context."""
        return len(encode_prompt(self.tokenizer, prompt)) + max_tokens <= self.context_tokens

    def tokens_of(self, completion: str) -> int:
        """Number of tokens in a completion's text, without the end token."""
        return len(encode_after(self.tokenizer, completion))

    def is_border(self, text: str, place: int) -> bool:
        """Whether no token spans this place of a text, so that it can be cut there."""
        return is_border(self.tokenizer, text, place)

    def batch_rows(self, max_tokens: int) -> int:
        """The largest power of two of rows that half of the free memory holds, at most `MOST_ROWS`."""
        return self._fitting_rows(max_tokens, MOST_ROWS)

    def _fitting_rows(
        self, max_tokens: int, most: int, prompt_tokens: int = 0, copies: int = 1, begun_tokens: int = 0
    ) -> int:
        """`most` rows, or the largest power of two of them that half of the free memory holds, with their prompts.

        What all prompts begin with is held once.
        """
        begun = PROMPT_ROOM * begun_tokens * self._kept_bytes
        fitting = max(1, (free_bytes(self.device) // 2 - begun) // self.row_bytes(max_tokens, prompt_tokens, copies))
        return most if fitting >= most else 1 << fitting.bit_length() - 1

    def row_bytes(self, max_tokens: int, prompt_tokens: int = 0, copies: int = 1) -> int:
        """Memory that a row is expected to take at most: its own tokens, its share of a prompt, and its drawing."""
        own = ROOM * max_tokens * self._kept_bytes + DRAWING_BYTES * self.network.config.get_text_config().vocab_size
        return int(own + PROMPT_ROOM * prompt_tokens * self._kept_bytes // copies)

    @property
    def _kept_bytes(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        config = self.network.config.get_text_config()
        return int(2 * config.num_hidden_layers * key_width(config) * self.dtype.itemsize)

    def sample(
        self,
        prompts: Sequence[Prompt],
        copies: int,
        settings: SamplingSettings,
        seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None,
        numbers: Sequence[int] | None = None,
    ) -> Sampled:
        """`copies` completions of each prompt, in the prompts' order.

        Prompts of similar length are sampled side by side. When the memory runs out, half as many rows are used from
        then on.

        Raises:
            InputError: Not even one row fits the memory.
        """
        ids_P = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        self.check_embedded(ids_P)
        order = sorted(range(len(prompts)), key=lambda p: (prompts[p].chat, len(ids_P[p])))
        completions_P_K: list[list[Completion]] = [[] for _ in prompts]
        read = 0
        for chat, same in itertools.groupby(order, key=lambda p: prompts[p].chat):
            chosen = list(same)
            own = [numbers[p] + k for p in chosen for k in range(copies)] if numbers is not None else None
            chance_NM = _chances([*seed, chat], len(chosen) * copies, settings.max_tokens, own).to(self.device)
            asked = [ids_P[p] for p in chosen]
            sampled, tokens, settings = self._sample_fitting(asked, copies, chat, settings, chance_NM, progress)
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
        chance_NM: torch.Tensor,
        progress: Callable[[int], object],
    ) -> tuple[list[Completion], int, SamplingSettings]:
        """The same as `_sample_alike`, and the settings with the number of rows that fitted the memory."""
        most = min(settings.batch_rows, self._most_rows)
        longest = max(map(len, prompts_U))
        begun = decode.begun_tokens(prompts_U) if self._shares_prompts(longest + settings.max_tokens) else 0
        rows = self._fitting_rows(settings.max_tokens, most, longest - begun, copies, begun)
        while True:
            settings, done = replace(settings, batch_rows=rows), 0

            def counted(number: int) -> None:
                nonlocal done
                done += number
                progress(number)

            try:
                return *self._sample_alike(prompts_U, copies, chat, settings, chance_NM, counted), settings
            except RuntimeError as error:
                if not OUT_OF_MEMORY.search(str(error)):
                    raise
                if rows == 1:
                    raise InputError(
                        f"{self.path}: out of memory with one sequence of {max(map(len, prompts_U))} tokens and "
                        f"{settings.max_tokens} more: use a smaller model, model.dtype = 'bfloat16' or fewer shots"
                    ) from None
            # Not in the `except` block, because there the error would still hold its tensors.
            progress(-done)
            rows = self._most_rows = min(rows, len(prompts_U) * copies) // 2 or 1
            logger.warning("out of memory: from now on %d sequences are sampled side by side", rows)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _sample_alike(
        self,
        prompts_U: list[list[int]],
        copies: int,
        chat: bool,
        settings: SamplingSettings,
        chance_NM: torch.Tensor,
        progress: Callable[[int], object],
    ) -> tuple[list[Completion], int]:
        """Completions of prompts that end by the same rules, copies together; and the number of prompt tokens read."""
        ends, lines = self._end_ids(chat), None if chat else self._lines()
        prompts_N = [ids for ids in prompts_U for _ in range(copies)]
        if self._shares_prompts(max(map(len, prompts_U)) + settings.max_tokens):
            networks = self._networks(min(settings.batch_rows, len(prompts_U) * copies))
            ids_N, read = decode.decode(networks, prompts_U, copies, settings, ends, lines, chance_NM, progress)
        else:
            pads, caches = self._generate_can()
            pads = pads and max(map(len, prompts_U)) + settings.max_tokens <= alike_tokens(self.network)
            ids_N, read = [], sum(map(len, prompts_N))
            for batch in _batches(prompts_N, settings.batch_rows, pads):
                chance_BM = chance_NM[len(ids_N) : len(ids_N) + len(batch)]
                if caches:
                    ids_N += self._generate(batch, settings, ends, lines, chance_BM)
                else:
                    ids_N += decode.continue_whole(self.network, batch, settings, ends, lines, chance_BM)
                progress(len(batch))
        return [
            self._completion(ids, ends, settings.max_tokens, prompt, lines)
            for prompt, ids in zip(prompts_N, ids_N, strict=True)
        ], read

    def _networks(self, rows: int) -> list[Any]:
        """One network per thread, for as many threads as have `ROWS_PER_THREAD` rows each.

        Threads that do not share a step do not wait for each other.
        """
        number = min(self.threads, rows // ROWS_PER_THREAD) if self.device.type == "cpu" else 1
        if number > len(self._twins):
            self._twins = decode.twins(self.network, number)
        return [self.network, *self._twins[1 : max(1, number)]]

    def _shares_prompts(self, tokens: int = 0) -> bool:
        """Whether prompts can be shared in texts of this many tokens."""
        if self._agrees is None:
            exactly = free_bytes(self.device) > BYTES_OF_A_COPY * self.parameters
            self._agrees = decode.agrees(self.network, exactly)
            if not self._agrees:
                proofs.say_once(f"{self._kind} is sampled by `generate`: {WHY_GENERATE}")
        if self._agrees and tokens > self._shared_most:
            proofs.say_once(
                f"{self._kind} is sampled by `generate` where a text may have more than {self._shared_most} tokens: "
                f"{WHY_SHORT_TEXTS}"
            )
        return self._agrees and tokens <= self._shared_most

    @property
    def _kind(self) -> str:
        return f"this kind of model ({proofs.kind_of(self.network)})"

    def _generate_can(self) -> tuple[bool, bool]:
        """Whether `generate` can be given rows with padding, and whether it can be given rows at all, with a cache."""
        if self._padding is None:
            pad = _pad_id(self.network, self.tokenizer)
            proofs.check_reads(self.network, self.path)
            pads = proofs.generates_padded(self.network, pad)
            if not pads:
                proofs.say_once(f"{self._kind} reads padding as text: prompts are sampled by length")
            caches = pads or proofs.generates_cached(self.network, pad)
            if not caches:
                proofs.say_once(f"{self._kind} is sampled without its cache, which would change its texts")
            self._padding = pads, caches
        return self._padding

    def check_embedded(self, texts: Iterable[Sequence[int]]) -> None:
        """Check that the model has an embedding for each token of these texts.

        Raises:
            InputError: A token has none.
        """
        rows = self.network.get_input_embeddings().weight.shape[0]
        if wrong := next((token for text in texts for token in text if token >= rows), None):
            name = shown(self.tokenizer.convert_ids_to_tokens(wrong))
            raise InputError(f"{self.path}: a text holds {name}, token {wrong}, but the model has {rows} embeddings")

    def _generate(
        self,
        prompts_B: list[list[int]],
        settings: SamplingSettings,
        ends: list[int],
        lines: LineTable | None,
        chance_BM: torch.Tensor,
    ) -> list[list[int]]:
        """Sample with the library's own loop, for models that `decode` does not support."""
        width = max(map(len, prompts_B))
        pad = _pad_id(self.network, self.tokenizer)
        input_ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts_B], device=self.device)
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts_B], device=self.device)
        with torch.inference_mode():
            output_BT = self.network.generate(
                input_ids_BT,
                attention_mask=mask_BT,
                generation_config=_generation_config(ends, pad, settings.max_tokens),
                logits_processor=LogitsProcessorList([_Drawing(settings, chance_BM)]),
                stopping_criteria=StoppingCriteriaList([_LineStop(lines)] if lines else []),
            )
        return [_without_padding(row, ends, lines) for row in output_BT[:, width:].tolist()]

    def _end_ids(self, chat: bool = False) -> list[int]:
        """The tokens that end a text; in a chat also the one that ends a turn."""
        ends = _end_ids(self.network, self.tokenizer)
        return list(dict.fromkeys([*ends, end_of(self.tokenizer, chat)]))

    def _lines(self) -> LineTable:
        if self._line_stop is None:
            vocabulary = self.network.get_output_embeddings().weight.shape[0]
            self._line_stop = LineTable(self.tokenizer, vocabulary, self.device)
        return self._line_stop

    def _completion(
        self, ids: list[int], ends: list[int], max_tokens: int, prompt: Sequence[int] = (),
        lines: LineTable | None = None,
    ) -> Completion:  # fmt: skip
        ended = bool(ids) and ids[-1] in ends
        text = decode_after(self.tokenizer, prompt, ids[:-1] if ended else ids)
        met = not ended and lines is not None and (len(ids) < max_tokens or lines.first(ids) is not None)
        drawn = Drawn(tuple(ids), "token" if ended else "line" if met else "cut")
        return Completion(text, len(ids), finished=ended or len(ids) < max_tokens, drawn=drawn)

    def save(self, folder: Path, notes: dict[str, Any]) -> None:
        """Write the checkpoint as a plain Hugging Face folder."""
        save(self.network, self.tokenizer, folder, notes)


def save(network: Any, tokenizer: Any, folder: Path, notes: dict[str, Any]) -> None:
    """Write a plain Hugging Face folder whose defaults sample, with this project's notes in it."""
    network.generation_config = _generation_config(_end_ids(network, tokenizer), _pad_id(network, tokenizer))
    try:
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:
        # The Rust libraries raise their own errors for a full or broken disk.
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from None
        raise
    (folder / NOTES_FILE).write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    model_files.written_here(folder)


def _end_ids(network: Any, tokenizer: Any) -> list[int]:
    stored = network.generation_config.eos_token_id
    listed = stored if isinstance(stored, list) else [stored] if stored is not None else []
    return list(dict.fromkeys([tokenizer.eos_token_id, *listed]))


def _pad_id(network: Any, tokenizer: Any) -> int:
    """The token that fills rows: the end, where there is no token for it or the model has no embedding of that."""
    pad, rows = tokenizer.pad_token_id, network.get_input_embeddings().weight.shape[0]
    return int(tokenizer.eos_token_id if pad is None or pad >= rows else pad)


class _LineStop(StoppingCriteria):  # type: ignore[misc]  # transformers is not followed
    """Stops a row when a line begins that is not indented, because there the function has ended."""

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


class _Drawing(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed
    """Draws each row's next token as `decode` does, and leaves `generate` no other.

    `generate` itself draws all rows by one generator, so a text would depend on those beside it.
    """

    def __init__(self, settings: SamplingSettings, chance_BM: torch.Tensor) -> None:
        self._settings, self._chance_BM, self._step = settings, chance_BM, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token_B = decode.draw(scores.float(), self._settings, self._chance_BM[:, self._step])
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token_B[:, None], 0.0)


def _generation_config(ends: list[int], pad: int, max_tokens: int | None = None) -> GenerationConfig:
    """Configuration of `generate`: for `_Drawing` with a token limit, else to sample from the model's distribution."""
    common = {"eos_token_id": ends, "pad_token_id": pad}
    if max_tokens is not None:
        return GenerationConfig(**common, do_sample=False, max_new_tokens=max_tokens)
    return GenerationConfig(**common, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)


def _chances(seed: list[int], texts: int, tokens: int, numbers_N: list[int] | None) -> torch.Tensor:
    """A random number in [0, 1) for every token that may be drawn: by each text's number, or for all texts at once."""
    if numbers_N is not None:
        return torch.from_numpy(chances(seed, numbers_N, tokens))
    number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) % 2**63
    return torch.rand((texts, tokens), generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def _batches(prompts_N: Sequence[list[int]], rows: int, pads: bool) -> Iterator[list[list[int]]]:
    """Prompts in parts of at most so many rows, in order; unless it `pads`, with prompts of one length in each part."""
    for _, same in itertools.groupby(prompts_N, key=lambda ids: 0 if pads else len(ids)):
        alike = list(same)
        yield from (alike[start : start + rows] for start in range(0, len(alike), rows))


def _without_padding(ids: list[int], ends: list[int], lines: LineTable | None) -> list[int]:
    """A row of `generate` up to its end. A row that was stopped is padded; the model may also draw that token."""
    length = next((position + 1 for position, token in enumerate(ids) if token in ends), len(ids))
    line = lines.first(ids[:length]) if lines else None
    return ids[:length] if line is None else ids[: line + 1]


def key_width(config: Any) -> int:
    """Numbers in a layer's key of one token. Layers with grouped heads keep fewer than the model's width."""
    heads = getattr(config, "num_attention_heads", None) or 1
    grouped = getattr(config, "num_key_value_heads", None)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(size * (grouped if isinstance(grouped, int) and grouped else heads))


def accelerators() -> list[str]:
    """The names of the devices that torch can use beside the processor."""
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [*names, *(["mps"] if torch.backends.mps.is_available() else [])]


def device_of(name: str) -> torch.device:
    """The device that `model.device` names.

    Raises:
        InputError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"model.device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return torch.device(name)


def _dtype(name: str, device: torch.device, folder: Path) -> torch.dtype:
    """The dtype that `model.dtype` names, for the weights of a folder."""
    if name == "auto":
        is_small = sum(file.stat().st_size for file in folder.glob("*.safetensors")) < LARGE_BYTES
        slow = device.type != "cuda" and (is_small or not is_fast_in_bfloat16(device))
        return torch.float32 if slow else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


@functools.cache
def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 clearly faster than those of float32, measured once.

    All GPUs of NVIDIA count as fast, and other devices than processors as slow.
    """
    if device.type != "cpu":
        return bool(device.type == "cuda")
    small, large = DTYPE_SIZES
    return _speed_ratio(device, small) > CLEARLY_SLOWER and _speed_ratio(device, large) > CLEARLY_FASTER


def _speed_ratio(device: torch.device, size: int) -> float:
    """How many times as fast as in float32 a device multiplies square matrices in bfloat16."""
    seconds = [_product_seconds(device, dtype, size, 5) for dtype in (torch.float32, torch.bfloat16)]
    return seconds[0] / seconds[1]


@functools.cache
def peak_flops_per_second(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Operations per second of a large matrix product: the best of five, as other work can only slow it down.

    The matrix is smaller where a large product takes long: a processor without bfloat16 takes 18 s for one of 2,048.
    """
    size = PEAK_SIZE.get(device.type, PEAK_SIZE_ELSEWHERE)
    small = size // 8
    small_seconds = _product_seconds(device, dtype, small, 2)
    while size > small and small_seconds * (size / small) ** 3 > PEAK_SECONDS:
        size //= 2
    return 2 * size**3 / _product_seconds(device, dtype, size, 5)


def _product_seconds(device: torch.device, dtype: torch.dtype, size: int, times: int) -> float:
    """Shortest time of a product of two square matrices."""
    matrix, best = torch.ones(size, size, device=device, dtype=dtype), math.inf
    for _ in range(times):
        started = time.monotonic()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.monotonic() - started)
    return best


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        # Memory that torch's allocator keeps for later counts as free. So a stage does not depend on earlier ones.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return available_bytes()


@contextlib.contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """Report a model that is missing or cannot be loaded as an InputError of one line."""
    try:
        yield
    except Exception as error:
        # The Rust libraries raise `Exception` itself, and odd settings can make transformers raise any error.
        if isinstance(error, MemoryError | InputError):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "custom code" in first:
            first = "it needs its own code (auto_map in its config.json), and a model's code is never run here"
        raise InputError(f"{path}: cannot be loaded as a causal language model: {shortened(first)}") from None


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}: expected JSON") from None


def _hash(folder: Path, settings: object) -> str:
    """Hash of 16 digits over weights, configuration and tokenizer as they are on disk, and over loaded settings.

    The settings are hashed as loaded because the chat template and the end tokens are in one of several files, and move
    when a model is saved.
    """
    digest, there = hashlib.sha256(repr(settings).encode()), sorted(os.listdir(folder))
    hashed = _HASHED_FILES if "tokenizer.json" in there else (*_HASHED_FILES, *_HASHED_WITHOUT_TOKENIZER)
    for name in there:
        if not (name.endswith(".safetensors") or name in hashed):
            continue
        digest.update(name.encode())
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


_HASHED_FILES = (
    "config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip
_HASHED_WITHOUT_TOKENIZER = (
    "added_tokens.json", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tekken.json",
    "tokenizer_config.json", "vocab.txt",
)  # fmt: skip
"""Files that a tokenizer is made from where there is no `tokenizer.json`."""


def read_notes(folder: str | Path) -> dict[str, Any]:
    """The notes that were saved beside the weights of a folder.

    Raises:
        InputError: The notes cannot be read, or have another form.
    """
    file = Path(folder) / NOTES_FILE
    if not file.exists():
        return {}
    notes: dict[str, Any] = parse_json(_bytes(file), str(file))
    expect(notes, _NOTES, str(file))
    return notes


_SECONDS = {"type": "number", "minimum": 0}
_TRAINING = an_object(
    ["steps", "tokens", "sequences", "seconds", "cpu_seconds", "last_loss", "peak_flops_per_second"],
    steps=NATURAL, tokens=NATURAL, sequences=NATURAL, seconds=_SECONDS, cpu_seconds=_SECONDS, last_loss=NUMBER,
    peak_flops_per_second=_SECONDS,
)  # fmt: skip
_NOTES = an_object(
    ["protocol", "prompt_format", "shots", "training", "limits"],
    protocol={"type": "string", "enum": PROTOCOLS}, prompt_format=KEPT, training=_TRAINING,
    limits=an_object(["cpu_seconds"], cpu_seconds={"type": "number", "exclusiveMinimum": 0}),
    shots=a_list({"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2}),
)  # fmt: skip
