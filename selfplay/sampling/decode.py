"""Continues prompts side by side on a transformers model, and reads each prompt once.

All candidates of a puzzle begin with the same prompt. So rows are grouped in *waves*: a wave has all rows of some
prompts, if they fit. A wave's prompts are read in one forward pass of the library's own code. Their keys and values are
kept once per prompt, however many rows continue it. What all prompts of a call begin with, such as the same shots, is
read before them, once for all waves. A row then attends to this beginning, to its own prompt behind it, and to its own
tokens, through `AttentionInterface`; everything else of the model stays as it is. Rows that have ended leave. When
enough rows have left, the next wave joins. One forward pass serves the rows of all waves.

Reading a whole text alone defines the correct output. A model whose attention does something that this module does not
know fails `agrees`, and is sampled by the library's `generate` or, where that fails too, by `continue_whole`.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache

from puzzles.puzzle import InputError
from selfplay.sampling.proofs import FAILURES, FORCED_TOKENS, adds_no_error, is_near, plain_logits, two_texts
from selfplay.sampling.sampler import SamplingSettings

SHARED_PREFIX = "selfplay_shared_prefix"
ROOM_TOKENS = 16
"""Tokens by which the room for rows' own keys grows when it is full.

Attention is computed over the whole room, so that its shapes change in every 16th step only. On CPUs a product in
bfloat16 is compiled for each new shape."""
RETIRED_SHARE = 8
"""Ended rows leave when they are an eighth of all rows, because leaving copies the cache of the other rows."""
READ_TOKENS = 4096
"""Tokens of prompts, padding included, that are read at a time. This bounds the memory that a layer needs for it."""
READ_PAIRS = 1 << 21
"""Pairs of tokens for which attention is computed at a time, per head, where prompts are read behind a beginning."""
FEWEST_BEGUN = 64
"""Tokens of the shortest beginning that is read once for all prompts of a call.

For 12 prompts of SmolLM2 with 60 more tokens and 4 texts of 16 each, reading it once takes 1.01 of the CPU time of
reading it with each prompt if it has 16 tokens, .94 for 32, .76 for 64 and .54 for 256."""
PROVED_BEGUN = 4
"""Tokens of the beginning that `agrees` reads once for two texts."""
GROUP = 128
"""Tokens of the vocabulary whose weights are summed together when one is drawn. Most large vocabularies are divisible
by it."""


class LineTable:
    """Tables by token id: which tokens can end a line, and which can begin a line at its first column.

    With them sampling need not decode tokens.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, device: torch.device) -> None:
        anchor = tokenizer.encode("x", add_special_tokens=False)[-1:]
        before = len(tokenizer.decode(anchor))
        # Special tokens leave no text, as in a completion. Part of a character ("\ufffd") may become a space.
        texts = tokenizer.batch_decode(
            [[*anchor, token] for token in range(min(vocabulary, len(tokenizer)))],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        texts = [text[before:].replace("\ufffd", " ") for text in texts] + [""] * (vocabulary - len(texts))
        inside = [any(a == "\n" and not b.isspace() for a, b in itertools.pairwise(text)) for text in texts]
        self._breaks_V = torch.tensor(inside, device=device)
        self._begins_V = torch.tensor([text[:1] != "" and not text[0].isspace() for text in texts], device=device)
        self._ends_V = torch.tensor([text.endswith("\n") for text in texts], device=device)
        self._empty_V = torch.tensor([text == "" for text in texts], device=device)

    def step(self, token_B: torch.Tensor, at_start_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether each row's newest token begins a line that is not indented, and whether a line begins after it."""
        stop_B = self._breaks_V[token_B] | (at_start_B & self._begins_V[token_B])
        return stop_B, torch.where(self._empty_V[token_B], at_start_B, self._ends_V[token_B])

    def first(self, ids: Sequence[int]) -> int | None:
        """Position of the first token of a completion that begins a line that is not indented, as `step` finds it."""
        ids_T = torch.tensor(list(ids), dtype=torch.long, device=self._ends_V.device)
        tables = (self._breaks_V, self._begins_V, self._empty_V, self._ends_V)
        at_start = False
        for place, (breaks, begins, empty, ends) in enumerate(zip(*(t[ids_T].tolist() for t in tables), strict=True)):
            if breaks or (at_start and begins):
                return place
            at_start = at_start if empty else ends
        return None


class _Attention(threading.local):
    """A layer's attention, while prompts are read behind their common beginning, or for the rows of several waves."""

    def __init__(self) -> None:
        self.reading: _Reading | None = None
        self.waves: list[_Wave] = []

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: object,
        scaling: float | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self.reading is not None:
            return self.reading.attend(module.layer_idx, query, key, value, scale), None
        outputs, start = [], 0
        for wave in self.waves:
            rows = slice(start, start + wave.rows)
            outputs.append(wave.attend(module.layer_idx, query[rows, :, 0], key[rows], value[rows], scale))
            start += wave.rows
        output_BHD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return output_BHD[:, None], None


_attention = _Attention()
AttentionInterface.register(SHARED_PREFIX, _attention)


@dataclass(frozen=True)
class _Beginning:
    """What all prompts of a call begin with. It is kept once, however many prompts and rows attend to it."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values of each layer, `1KCD`; none for an empty beginning."""
    tokens: int

    def attend(self, layer: int, query_RKQD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs `RKQD` and log-denominators `RKQ` of Q queries per key head in each of R rows."""
        R, K, Q, D = query_RKQD.shape
        query_1KPD = query_RKQD.transpose(0, 1).reshape(1, K, R * Q, D)
        output_1KPD, weight_1KP = _softmax_product(query_1KPD, *self.layers[layer])
        return output_1KPD.view(K, R, Q, D).transpose(0, 1), weight_1KP.view(K, R, Q).transpose(0, 1)


NO_BEGINNING = _Beginning([], 0)


@dataclass(frozen=True)
class _Prompts:
    """Prompts that were read: the keys and values that rows attend to, and the logits that they start from."""

    beginning: _Beginning
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values of each layer, `UKSD`, of what follows the beginning."""
    mask_US: torch.Tensor
    logits_UV: torch.Tensor

    @property
    def tokens(self) -> int:
        """Number of tokens, without padding and without the beginning."""
        return int(self.mask_US.sum())


class _Reading:
    """Reads prompts behind their common beginning, and keeps the keys and values of each layer.

    Axes: as in `_Wave`; C tokens of the beginning.
    """

    def __init__(self, beginning: _Beginning, mask_US: torch.Tensor) -> None:
        S = mask_US.shape[1]
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._beginning = beginning
        earlier_SS = torch.ones(S, S, dtype=torch.bool, device=mask_US.device).tril()
        # Padding sees itself, because a softmax over nothing is no number.
        itself_SS = torch.eye(S, dtype=torch.bool, device=mask_US.device)
        self._hidden_U11SS = ~(earlier_SS & mask_US.bool()[:, None] | itself_SS)[:, None, None]

    def attend(
        self, layer: int, query_UHSD: torch.Tensor, key_UKSD: torch.Tensor, value_UKSD: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """The layer's output for all tokens, `USHD`."""
        U, H, S, D = query_UHSD.shape
        K = key_UKSD.shape[1]
        self.layers[layer] = key_UKSD.contiguous(), value_UKSD.contiguous()
        query_UKGSD = query_UHSD.reshape(U, K, H // K, S, D) * scale
        own_UKGSD, own_weight_UKGS = _softmax_product(
            query_UKGSD, key_UKSD[:, :, None], value_UKSD[:, :, None], self._hidden_U11SS
        )
        begun_UKQD, begun_weight_UKQ = self._beginning.attend(layer, query_UKGSD.flatten(2, 3))
        output_UKQD = _joined((own_UKGSD.flatten(2, 3), own_weight_UKGS.flatten(2, 3)), (begun_UKQD, begun_weight_UKQ))
        return output_UKQD.reshape(U, H, S, D).transpose(1, 2)


class _Wave:
    """Rows that began together, so all have the same number of own tokens.

    Axes: U prompts, B rows, K key heads, G queries per key head, S prompt tokens, T own tokens, D head dimension.
    """

    def __init__(self, prompts: _Prompts, prompt_B: torch.Tensor) -> None:
        mask_US = prompts.mask_US
        self.length = 0
        self._prompt_B = prompt_B
        self._mask_U11S = None if bool(mask_US.all()) else ~mask_US.bool()[:, None, None]
        self._prompt_tokens_U = prompts.beginning.tokens + mask_US.sum(1)
        self._beginning = prompts.beginning
        self._prompts = prompts.layers
        self._own: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self._prompts)
        self._arrange()

    @property
    def rows(self) -> int:
        """Number of rows that have not left."""
        return len(self._prompt_B)

    def positions(self) -> torch.Tensor:
        """Position of each row's newest token in its text."""
        return self._prompt_tokens_U[self._prompt_B] + self.length

    def _arrange(self) -> None:
        """Give each row a place in a grid of prompts by copies, so that one matrix product serves all prompts."""
        count_U = torch.bincount(self._prompt_B, minlength=len(self._prompt_tokens_U))
        self._copies = int(count_U.max()) if self.rows else 0
        first_U = count_U.cumsum(0) - count_U
        rank_B = torch.arange(self.rows, device=count_U.device) - first_U[self._prompt_B]
        self._place_B = self._prompt_B * self._copies + rank_B
        self._full = self.rows == len(count_U) * self._copies

    def keep(self, alive_A: torch.Tensor) -> None:
        """Keep only these rows."""
        self._prompt_B = self._prompt_B[alive_A]
        self._own = [pair and (pair[0][alive_A], pair[1][alive_A]) for pair in self._own]
        self._arrange()

    def attend(
        self, layer: int, query_BHD: torch.Tensor, key_BK1D: torch.Tensor, value_BK1D: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """The layer's output for each row's newest token, `BHD`. The token's key and value are stored."""
        B, H, D = query_BHD.shape
        K = key_BK1D.shape[1]
        query_BKGD = query_BHD.reshape(B, K, H // K, D) * scale
        keys_BKTD, values_BKTD = self._extended(layer, key_BK1D, value_BK1D)
        own = _softmax_product(query_BKGD, keys_BKTD, values_BKTD, used=self.length + 1)
        parts = [own, self._attend_to_prompts(layer, query_BKGD)]
        if self._beginning.tokens:
            parts.append(self._beginning.attend(layer, query_BKGD))
        return _joined(*parts).reshape(B, H, D)

    def _attend_to_prompts(self, layer: int, query_BKGD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys_UKSD, values_UKSD = self._prompts[layer]
        _, K, G, D = query_BKGD.shape
        U, C = len(keys_UKSD), self._copies
        grid = query_BKGD
        if not self._full:
            grid = query_BKGD.new_zeros(U * C, K, G, D)
            grid[self._place_B] = query_BKGD
        grid_UKQD = grid.view(U, C, K, G, D).transpose(1, 2).reshape(U, K, C * G, D)
        output_UKQD, weight_UKQ = _softmax_product(grid_UKQD, keys_UKSD, values_UKSD, self._mask_U11S)
        output = output_UKQD.view(U, K, C, G, D).transpose(1, 2).reshape(U * C, K, G, D)
        weight = weight_UKQ.view(U, K, C, G).transpose(1, 2).reshape(U * C, K, G)
        return (output, weight) if self._full else (output[self._place_B], weight[self._place_B])

    def _extended(
        self, layer: int, key_BK1D: torch.Tensor, value_BK1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rooms for own keys and values of a layer, with the newest in its place; zeros follow it."""
        past = self._own[layer] or (key_BK1D[:, :, :0], value_BK1D[:, :, :0])
        if past[0].shape[2] == self.length:
            past = self._own[layer] = (_with_room(past[0]), _with_room(past[1]))
        for kept, newest in zip(past, (key_BK1D, value_BK1D), strict=True):
            kept[:, :, self.length] = newest[:, :, 0]
        return past


def _with_room(past_BKTD: torch.Tensor) -> torch.Tensor:
    # Zeros, because what is hidden by the softmax is still multiplied, and uninitialised memory may be no number.
    return torch.nn.functional.pad(past_BKTD, (0, 0, 0, ROOM_TOKENS))


def _softmax_product(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None = None,
    used: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Values weighted by softmax(query @ keys), and the logarithm of the softmax's denominator.

    Keys at `mask`, and from place `used` on, are left out.
    """
    score = torch.matmul(query, keys.transpose(-1, -2)).float()
    if mask is not None:
        score.masked_fill_(mask, float("-inf"))
    if used is not None:
        score[..., used:] = float("-inf")
    highest = score.amax(-1, keepdim=True)
    score = score.sub_(highest).exp_()
    total = score.sum(-1, keepdim=True)
    product = torch.matmul(score.to(values.dtype), values) / total.to(values.dtype)
    return product, (highest + total.log()).squeeze(-1)


def _joined(first: tuple[torch.Tensor, torch.Tensor], *others: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The output of one softmax whose parts were computed apart, from their outputs and log-denominators."""
    output, weight = first
    for number, (other, other_weight) in enumerate(others, 1):
        share = torch.sigmoid(other_weight - weight)[..., None].to(output.dtype)
        output = torch.lerp(output, other, share)
        if number < len(others):
            weight = torch.logaddexp(weight, other_weight)
    return output


@contextlib.contextmanager
def attention_of(network: Any, name: str) -> Iterator[None]:
    """Use one of the library's, or of this project's, implementations of attention."""
    before = network.config._attn_implementation
    network.set_attn_implementation(name)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def decode(
    networks: Sequence[Any],
    prompts_U: Sequence[Sequence[int]],
    copies: int,
    settings: SamplingSettings,
    ends: Sequence[int],
    lines: LineTable | None,
    chance_NM: torch.Tensor,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[list[list[int]], int]:
    """Sample completions until an end token, a line that is not indented, or `max_tokens`.

    Args:
        networks: A causal language model for which `agrees` holds, or its `twins`, one per thread.
        prompts_U: Token ids of the prompts. Prompts of similar length should be neighbours.
        copies: Number of completions per prompt.
        settings: Temperature, top-p, max tokens, and the number of rows side by side, of all threads together.
        ends: Token ids that end a text.
        lines: Stops a row where its function ends; None for text that is not code.
        chance_NM: A random number in [0, 1) for every token that may be drawn: prompts in order, copies together. They
            are drawn in advance, so that a row's text does not depend on when other rows end.
        progress: Called at every step, by one thread at a time, with the number of completions that ended since the
            last call. An exception that it raises ends the work.

    Returns:
        Token ids of each completion, with the token that ended it; prompts in order, copies together. And the number of
        prompt tokens read: `begun_tokens` once, and the rest of each prompt once, or once per thread if its copies do
        not fit one wave.
    """
    device, begun = networks[0].device, begun_tokens(prompts_U)
    beginning = _read_beginning(networks[0], prompts_U[0][:begun] if begun else [])
    output_NM = torch.full((len(prompts_U) * copies, settings.max_tokens), -1, device=device)
    end_ids = torch.tensor(list(ends), device=device)
    rests_U = [ids[begun:] for ids in prompts_U]
    asked = _Asked(beginning, rests_U, copies, settings, end_ids, lines, chance_NM, output_NM)
    side_by_side = max(1, min(settings.batch_rows, len(output_NM)) // len(networks))
    waves, read = _cut(len(prompts_U), copies, side_by_side, len(networks)), [0] * len(networks)

    def part(number: int, check: Callable[[int], object]) -> None:
        # Dealt in advance, not as threads become free, so that the samples do not depend on timing.
        mine = waves[number :: len(networks)]
        read[number] = _decode_waves(networks[number], asked, mine, side_by_side, check)

    _in_threads(part, len(networks), progress)
    return [[token for token in row if token >= 0] for row in output_NM.tolist()], begun + sum(read)


def begun_tokens(prompts_U: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts begin with and that are read once; 0 if it is not worth the effort.

    Each prompt keeps at least one token of its own, behind which its rows begin.
    """
    if len(prompts_U) < 2:
        return 0
    # A beginning common to the first and the last in order is common to all between them.
    pairs = zip(min(map(list, prompts_U)), max(map(list, prompts_U)), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    begun = min(common, min(map(len, prompts_U)) - 1)
    return begun if begun >= FEWEST_BEGUN else 0


def _cut(prompts: int, copies: int, side_by_side: int, threads: int) -> list[range]:
    """Cut the rows into waves, which are dealt to the threads in turn.

    About two waves run side by side, and the next joins when one has ended. A wave has all rows of some prompts, so
    each prompt is read once. If not even two prompts fit side by side, each prompt is cut into waves of similar size.
    """
    if side_by_side < 2 * copies:
        parts = math.ceil(copies / max(1, side_by_side // 2))
        waves = [copies // parts + (part < copies % parts) for part in range(parts)] * prompts
    else:
        fitting = min(side_by_side // copies, math.ceil(prompts / threads))
        turns = itertools.cycle([math.ceil(fitting / 2)] * threads + [max(1, fitting // 2)] * threads)
        waves, left = [], prompts
        while left:
            taken = min(left, next(turns))
            waves.append(taken * copies)
            left -= taken
    ends = list(itertools.accumulate(waves))
    return [range(end - rows, end) for rows, end in zip(waves, ends, strict=True)]


def twins(network: Any, number: int) -> list[Any]:
    """A model and copies that share its weights in memory. Their forward passes do not disturb each other."""
    shared = {id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())}
    return [network, *(copy.deepcopy(network, dict(shared)) for _ in range(number - 1))]


class _GivenUp(Exception):
    """Another thread failed, or nobody wants the result any more."""


def _in_threads(
    part: Callable[[int, Callable[[int], object]], None], number: int, progress: Callable[[int], object]
) -> None:
    """Run the parts of a work side by side, each with its share of torch's threads. The first error ends all parts."""
    if number == 1:
        part(0, progress)
        return
    lock, threads, given_up = threading.Lock(), torch.get_num_threads(), threading.Event()

    def check(done: int) -> None:
        if given_up.is_set():
            raise _GivenUp
        with lock:
            progress(done)

    def start(place: int) -> None:
        torch.set_num_threads(max(1, threads * (place + 1) // number - threads * place // number))
        part(place, check)

    try:
        with ThreadPoolExecutor(number, "sampling") as pool:
            try:
                futures = [pool.submit(start, place) for place in range(number)]
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                given_up.set()
    finally:
        torch.set_num_threads(threads)  # new threads begin with the number that was set last
    errors = [error for error in map(Future.exception, futures) if error]
    errors.sort(key=lambda error: isinstance(error, _GivenUp))
    futures.clear()
    try:
        if errors:
            raise errors[0]
    finally:
        errors.clear()  # else the error and this frame would hold each other, and with them the tensors


@dataclass(frozen=True)
class _Asked:
    """What all threads of one `decode` share."""

    beginning: _Beginning
    rests_U: Sequence[Sequence[int]]
    """The prompts' tokens behind the beginning."""
    copies: int
    settings: SamplingSettings
    ends_E: torch.Tensor
    lines: LineTable | None
    chance_NM: torch.Tensor
    """A random number in [0, 1) for every token that may be drawn."""
    output_NM: torch.Tensor
    """Each row's tokens, followed by -1."""


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def _decode_waves(
    network: Any, asked: _Asked, plans: list[range], side_by_side: int, progress: Callable[[int], object]
) -> int:
    """Fill these rows of the output. A wave joins when there is room for it. Returns the prompt tokens read."""
    settings, device = asked.settings, network.device
    waves: list[_Wave] = []
    places, prompts, read = range(0), None, 0
    row_B = torch.empty(0, dtype=torch.long, device=device)
    at_start_B = stopped_B = torch.empty(0, dtype=torch.bool, device=device)
    logits_BV: Any = None
    while plans or waves:
        while plans and (not waves or len(row_B) + len(plans[0]) <= side_by_side):
            rows, *plans = plans
            wanted = range(rows.start // asked.copies, (rows.stop - 1) // asked.copies + 1)
            if prompts is None or wanted != places:
                places = wanted
                prompts = _read(network, asked.rests_U[wanted.start : wanted.stop], asked.beginning)
                read += prompts.tokens
            wave, first_BV = _begin(prompts, [row // asked.copies - places.start for row in rows])
            waves.append(wave)
            logits_BV = first_BV if logits_BV is None else torch.cat([logits_BV, first_BV])
            row_B = torch.cat([row_B, torch.arange(rows.start, rows.stop, device=device)])
            fresh_B = torch.zeros(len(rows), dtype=torch.bool, device=device)
            at_start_B, stopped_B = torch.cat([at_start_B, fresh_B]), torch.cat([stopped_B, fresh_B])
        length_B = torch.cat([torch.full((wave.rows,), wave.length, device=device) for wave in waves])
        token_B = draw(logits_BV, settings, asked.chance_NM[row_B, length_B])
        asked.output_NM[row_B, length_B] = torch.where(stopped_B, -1, token_B)
        stopped_B = stopped_B | torch.isin(token_B, asked.ends_E) | (length_B + 1 == settings.max_tokens)
        if asked.lines is not None:
            met_B, at_start_B = asked.lines.step(token_B, at_start_B)
            stopped_B = stopped_B | met_B
        ended = int(stopped_B.sum())
        full = any(wave.length + 1 == settings.max_tokens for wave in waves)
        leave = full or ended * RETIRED_SHARE >= len(stopped_B)
        if leave:
            waves = _retire(waves, stopped_B)
            alive_A = (~stopped_B).nonzero().flatten()
            row_B, token_B = row_B[alive_A], token_B[alive_A]
            at_start_B, stopped_B = at_start_B[alive_A], stopped_B[alive_A]
        progress(ended if leave else 0)
        logits_BV = _next_logits(network, token_B, waves) if waves else None
    return read


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def _read_beginning(network: Any, ids_C: Sequence[int]) -> _Beginning:
    """Read what all prompts begin with, in one pass."""
    if not ids_C:
        return NO_BEGINNING
    ids_1C = torch.tensor([list(ids_C)], device=network.device)
    layers, _ = _read_part(network, ids_1C, torch.ones_like(ids_1C))
    return _Beginning(layers, len(ids_C))


def _read(network: Any, prompts_U: Sequence[Sequence[int]], beginning: _Beginning = NO_BEGINNING) -> _Prompts:
    """Read the prompts side by side with padding on the left, at most `READ_TOKENS` at a time, behind a beginning."""
    width, device = max(map(len, prompts_U)), network.device
    ids_US = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts_U], device=device)
    mask_US = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts_U], device=device)
    most = min(READ_TOKENS, READ_PAIRS // (beginning.tokens + width)) if beginning.tokens else READ_TOKENS
    parts = range(0, len(prompts_U), max(1, most // width))
    cut = ((ids_US[start : start + parts.step], mask_US[start : start + parts.step]) for start in parts)
    if beginning.tokens:
        read = [_read_behind(network, beginning, *part) for part in cut]
    else:
        read = [_read_part(network, *part) for part in cut]
    layers = list(zip(*(layers for layers, _ in read), strict=True))
    kept = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]
    return _Prompts(beginning, kept, mask_US, torch.cat([logits_UV for _, logits_UV in read]))


def _read_part(
    network: Any, ids_US: torch.Tensor, mask_US: torch.Tensor
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Keys and values of each layer, and the logits after the last token, `UV`."""
    cache = DynamicCache(config=network.config)
    output = network(
        input_ids=ids_US, attention_mask=mask_US, position_ids=(mask_US.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=1, **kept_in(cache, network),
    )  # fmt: skip
    return [(layer.keys, layer.values) for layer in cache.layers], output.logits[:, -1]


def _read_behind(
    network: Any, beginning: _Beginning, ids_US: torch.Tensor, mask_US: torch.Tensor
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """The same as `_read_part`, for texts that go on from a beginning.

    The library's own cache would hold the beginning once for each text.
    """
    positions_US = beginning.tokens + (mask_US.cumsum(1) - 1).clamp(min=0)
    reading = _attention.reading = _Reading(beginning, mask_US)
    try:
        with attention_of(network, SHARED_PREFIX):
            output = network(input_ids=ids_US, position_ids=positions_US, logits_to_keep=1, use_cache=False)
    finally:
        _attention.reading = None
    return [reading.layers[layer] for layer in range(len(beginning.layers))], output.logits[:, -1]


def kept_in(cache: DynamicCache, network: Any) -> dict[str, Any]:
    """The arguments that make a network use and fill a cache. transformers 5.24 renamed the cache's argument."""
    own = network.get_base_model() if hasattr(network, "get_base_model") else network  # adapters accept any name
    name = "cache" if "cache" in inspect.signature(own.forward).parameters else "past_key_values"
    return {name: cache, "use_cache": True}


def _begin(prompts: _Prompts, places_B: Sequence[int]) -> tuple[_Wave, torch.Tensor]:
    """A wave whose rows continue the prompts at these places, and each row's first `logits_BV`."""
    prompt_B = torch.tensor(places_B, device=prompts.mask_US.device)
    return _Wave(prompts, prompt_B), prompts.logits_UV[prompt_B].float()


def _retire(waves: list[_Wave], stopped_B: torch.Tensor) -> list[_Wave]:
    """Remove the rows that have stopped. Returns the waves that have rows left."""
    for wave, stopped in zip(waves, stopped_B.split([wave.rows for wave in waves]), strict=True):
        if bool(stopped.any()):
            wave.keep((~stopped).nonzero().flatten())
    return [wave for wave in waves if wave.rows]


def _next_logits(network: Any, token_B: torch.Tensor, waves: list[_Wave]) -> torch.Tensor:
    """`logits_BV` after each row's newest token."""
    positions_B = torch.cat([wave.positions() for wave in waves])
    _attention.waves = waves
    try:
        with attention_of(network, SHARED_PREFIX):
            output = network(input_ids=token_B[:, None], position_ids=positions_B[:, None], use_cache=False)
    finally:
        _attention.waves = []  # so that the waves' caches can be freed
    for wave in waves:
        wave.length += 1
    logits_BV: torch.Tensor = output.logits[:, -1].float()
    return logits_BV


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def agrees(network: Any, exactly: bool = True) -> bool:
    """Whether the model gives the same logits with shared prompts as without, on two texts of different lengths.

    It must hold with prompts that are read whole, and behind a common beginning that is read once.

    In float32 the logits must be equal within rounding. In a coarser dtype the same must hold of a copy in float32, and
    sharing may add no more error than the dtype itself does.

    Args:
        network: A causal language model.
        exactly: Whether there is memory for a copy in float32, of 4 bytes per weight. Without it the logits of the
            coarse dtype are compared with each other.
    """
    if network._is_stateful:
        return False
    try:
        exact = copy.deepcopy(network).float() if exactly and network.dtype != torch.float32 else None
        return all(_agrees(network, exact, begun) for begun in (0, PROVED_BEGUN))
    except FAILURES:
        return False


def _agrees(network: Any, exact: Any, begun: int) -> bool:
    """Whether `agrees` holds for two texts whose first `begun` tokens are read once for both."""
    texts = two_texts(network, FORCED_TOKENS, begin_alike=begun)
    found_NV, plain_NV = _shared_logits(network, texts, begun), _plain_logits(network, texts)
    if exact is None:
        return is_near(found_NV, plain_NV, network.dtype, _shared_logits(network, texts, 0) if begun else None)
    exact_NV = _plain_logits(exact, texts)
    is_exact = is_near(_shared_logits(exact, texts, begun), exact_NV, torch.float32)
    return is_exact and adds_no_error(found_NV, plain_NV, exact_NV)


def _plain_logits(network: Any, texts: Sequence[list[int]]) -> torch.Tensor:
    """The logits `NV` behind the last `FORCED_TOKENS` places of each text, two of each: what is right."""
    logits_NV = [plain_logits(network, text)[-FORCED_TOKENS - 1 : -1] for text in texts]
    return torch.stack([logits_NV[row // 2] for row in range(4)], dim=1).flatten(0, 1)


def _shared_logits(network: Any, texts: Sequence[list[int]], begun: int) -> torch.Tensor:
    """The same logits `NV`, of two rows per text that share its prompt; the first `begun` tokens are read once."""
    beginning = _read_beginning(network, texts[0][:begun])
    prompts = _read(network, [text[begun:-FORCED_TOKENS] for text in texts], beginning)
    wave, logits_BV = _begin(prompts, [0, 0, 1, 1])
    found = [logits_BV]
    for step in range(FORCED_TOKENS - 1):
        token_B = torch.tensor([text[len(text) - FORCED_TOKENS + step] for text in texts], device=network.device)
        found.append(_next_logits(network, token_B.repeat_interleave(2), [wave]))
    return torch.cat(found)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def continue_whole(
    network: Any, prompts_B: Sequence[Sequence[int]], settings: SamplingSettings, ends: Sequence[int],
    lines: LineTable | None, chance_BM: torch.Tensor,
) -> list[list[int]]:  # fmt: skip
    """Sample a completion of each prompt; all have one length. Every text is read whole for each of its tokens.

    This assumes nothing of the model, and is slow. A token is drawn by its number of `chance_BM`.

    Returns:
        Token ids of each completion, with the token that ended it.
    """
    drawn_B: list[list[int]] = [[] for _ in prompts_B]
    left, end_ids = list(range(len(prompts_B))), torch.tensor(list(ends), device=network.device)
    at_start_B = torch.zeros(len(left), dtype=torch.bool, device=network.device)
    for step in range(settings.max_tokens):
        texts_BT = torch.tensor([[*prompts_B[b], *drawn_B[b]] for b in left], device=network.device)
        logits_BV = _last_logits(network, texts_BT)
        token_B = draw(logits_BV, settings, chance_BM[left, step])
        stopped_B = torch.isin(token_B, end_ids)
        if lines is not None:
            met_B, at_start_B = lines.step(token_B, at_start_B)
            stopped_B = stopped_B | met_B
        for b, token in zip(left, token_B.tolist(), strict=True):
            drawn_B[b].append(token)
        left = [b for b, stopped in zip(left, stopped_B.tolist(), strict=True) if not stopped]
        at_start_B = at_start_B[~stopped_B]
        if not left:
            break
    return drawn_B


def _last_logits(network: Any, texts_BT: torch.Tensor) -> torch.Tensor:
    """`logits_BV` after whole texts, of which at most `READ_TOKENS` tokens are read at a time."""
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(network.forward).parameters else {}
    parts_BT = texts_BT.split(max(1, READ_TOKENS // texts_BT.shape[1]))
    read = [network(input_ids=part_BT, use_cache=False, **last_only).logits[:, -1].float() for part_BT in parts_BT]
    return torch.cat(read)


def draw(logits_BV: torch.Tensor, settings: SamplingSettings, chance_B: torch.Tensor) -> torch.Tensor:
    """One token per row: the one at which the row's random number in [0, 1) falls on the cumulated probabilities.

    The logits, in float32, are overwritten: over a large vocabulary each further copy costs as much as the softmax.
    """
    highest_B1 = logits_BV.amax(1, keepdim=True)
    if not bool(highest_B1.isfinite().all()):
        raise InputError("the model's logits are not finite: set model.dtype = 'float32', or use another checkpoint")
    if settings.temperature == 0:
        return logits_BV.argmax(1)
    # The highest logit is subtracted first. Divided by a very small temperature it would be infinite.
    weight_BV = logits_BV.sub_(highest_B1).div_(settings.temperature).exp_()
    if settings.top_p < 1:
        # The smallest set of likeliest tokens that holds top_p (Holtzman et al., 2020, arXiv:1904.09751).
        ordered_BV, index_BV = weight_BV.sort(dim=1, descending=True)
        share_BV = ordered_BV / ordered_BV.sum(1, keepdim=True)
        outside_BV = share_BV.cumsum(1) - share_BV >= settings.top_p
        outside_BV[:, 0] = False  # the likeliest token always stays; `top_p` may round to zero in float32
        ordered_BV[outside_BV] = 0
        weight_BV = torch.zeros_like(weight_BV).scatter(1, index_BV, ordered_BV)
    return _fallen_on(weight_BV, chance_B)


def _fallen_on(weight_BV: torch.Tensor, chance_B: torch.Tensor) -> torch.Tensor:
    """The place `B` on which a number in [0, 1) falls among cumulated weights: first its group, then its place there.

    Groups are cumulated in float64, because over a large vocabulary a float32 sum drifts by more than the weight of a
    rare token. Within a group it does not.
    """
    if missing := -weight_BV.shape[1] % GROUP:
        weight_BV = torch.nn.functional.pad(weight_BV, (0, missing))  # it copies even if nothing is missing
    group_BGW = weight_BV.unflatten(1, (-1, GROUP))
    upto_BG = group_BGW.sum(2).double().cumsum(1)
    wanted_B1 = chance_B[:, None] * upto_BG[:, -1:]
    group_B1 = _first_above(upto_BG, wanted_B1)
    end_B1 = upto_BG.gather(1, group_B1)
    begin_B1 = torch.where(group_B1 > 0, upto_BG.gather(1, (group_B1 - 1).clamp(min=0)), 0.0)
    row_B = torch.arange(len(weight_BV), device=weight_BV.device)
    within_BW = group_BGW[row_B, group_B1[:, 0]].double().cumsum(1)
    place_B1 = _first_above(within_BW, (wanted_B1 - begin_B1) / (end_B1 - begin_B1) * within_BW[:, -1:])
    return (group_B1 * GROUP + place_B1)[:, 0]


def _first_above(upto_BN: torch.Tensor, wanted_B1: torch.Tensor) -> torch.Tensor:
    """The first place, `B1`, whose cumulated weight is above the wanted one; at most the last place with a weight."""
    last_B1 = (upto_BN < upto_BN[:, -1:]).sum(1, keepdim=True)
    return torch.searchsorted(upto_BN, wanted_B1, right=True).minimum(last_B1)
