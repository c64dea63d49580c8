"""Continues prompts side by side with a key-value cache of transformers.

What `generate` does, arranged for self-play: a prompt is read once however many candidates it gets,
rows that have ended leave the batch, and each row has randomness of its own.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from selfplay.sampler import SamplingSettings

RETIRED_SHARE = 8
"""Ended rows leave once they are an eighth of the batch: leaving copies the cache of the others."""


class LineTable:
    """Which tokens can end a line or begin one at its first column; looked up by token id, never by decoding."""

    def __init__(self, tokenizer: Any, vocabulary: int, device: torch.device) -> None:
        anchor = tokenizer.encode("x", add_special_tokens=False)[-1:]
        before = len(tokenizer.decode(anchor))
        # As in a completion: special tokens leave no text. Part of a character ("\ufffd") may become a space.
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


def supports(network: Any) -> bool:
    """Whether the model keeps its past in the usual growing cache (state-space models do not)."""
    return bool(network._supports_default_dynamic_cache()) and not network._is_stateful


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def decode(
    network: Any,
    prompts_U: Sequence[Sequence[int]],
    copies_U: Sequence[int],
    settings: SamplingSettings,
    ends: Sequence[int],
    lines: LineTable | None,
    seed: int,
) -> list[list[int]]:
    """Sample completions until an end token, a line that is not indented, or `max_tokens`.

    Args:
        network: A causal language model.
        prompts_U: Token ids of distinct prompts.
        copies_U: How many completions of each.
        settings: Temperature, top-p, max tokens.
        ends: Token ids that end a text.
        lines: Stops where a function ends; None for text that is not code.
        seed: Of this batch.

    Returns:
        Token ids of each completion, with the token that ended it; prompts in order, copies together.
    """
    device = network.device
    width = max(map(len, prompts_U))
    ids_UT = torch.tensor([[ends[0]] * (width - len(ids)) + list(ids) for ids in prompts_U], device=device)
    mask_UT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts_U], device=device)
    prompt_B = torch.repeat_interleave(torch.arange(len(prompts_U)), torch.tensor(copies_U)).to(device)
    cache = DynamicCache(config=network.config)
    logits_BV = _next_logits(network, ids_UT, mask_UT, cache)[prompt_B]
    cache.batch_select_indices(prompt_B)
    mask_BT = mask_UT[prompt_B]

    end_ids = torch.tensor(list(ends), device=device)
    output_BM = torch.full((len(prompt_B), settings.max_tokens), -1, device=device)
    # Drawn beforehand, so that a row's text does not depend on when others end.
    chance_BM = torch.rand(output_BM.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        device
    )
    row_B = torch.arange(len(prompt_B), device=device)
    stopped_B = at_start_B = torch.zeros_like(row_B, dtype=torch.bool)
    for position in range(settings.max_tokens):
        token_B = _draw(logits_BV, settings, chance_BM[row_B, position])
        output_BM[row_B[~stopped_B], position] = token_B[~stopped_B]
        stopped_B = stopped_B | torch.isin(token_B, end_ids)
        if lines is not None:
            met_B, at_start_B = lines.step(token_B, at_start_B)
            stopped_B = stopped_B | met_B
        ended = int(stopped_B.sum())
        if ended == len(stopped_B) or position + 1 == settings.max_tokens:
            break
        if ended * RETIRED_SHARE >= len(stopped_B):
            alive = (~stopped_B).nonzero().flatten()
            cache.batch_select_indices(alive)
            mask_BT, row_B, token_B = mask_BT[alive], row_B[alive], token_B[alive]
            stopped_B, at_start_B = stopped_B[alive], at_start_B[alive]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=1)
        logits_BV = _next_logits(network, token_B[:, None], mask_BT, cache)
    return [[token for token in row if token >= 0] for row in output_BM.tolist()]


def _next_logits(network: Any, ids_BT: torch.Tensor, mask_BS: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """`logits_BV` after the newest token; padding stands on the left, so positions are counted from the mask."""
    known = inspect.signature(network.forward).parameters
    optional: dict[str, Any] = {}
    if "position_ids" in known:
        optional["position_ids"] = (mask_BS.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
    if "logits_to_keep" in known:
        optional["logits_to_keep"] = 1
    output = network(input_ids=ids_BT, attention_mask=mask_BS, past_key_values=cache, use_cache=True, **optional)
    logits_BV: torch.Tensor = output.logits[:, -1].float()
    return logits_BV


def _draw(logits_BV: torch.Tensor, settings: SamplingSettings, chance_B: torch.Tensor) -> torch.Tensor:
    """A token per row, where its chance in [0, 1) falls on the cumulated probabilities."""
    if settings.temperature == 0:
        return logits_BV.argmax(1)
    probability_BV = torch.softmax(logits_BV / settings.temperature, dim=1)
    if settings.top_p < 1:
        # The smallest set of likeliest tokens that holds top_p (Holtzman et al., 2020, arXiv:1904.09751).
        ordered_BV, index_BV = probability_BV.sort(dim=1, descending=True)
        before_BV = ordered_BV.cumsum(1) - ordered_BV
        ordered_BV[before_BV >= settings.top_p] = 0
        probability_BV = torch.zeros_like(probability_BV).scatter(1, index_BV, ordered_BV)
    # In float64: over a large vocabulary a float32 sum drifts by more than a rare token's probability.
    cumulated_BV = probability_BV.double().cumsum(1)
    wanted_B1 = (chance_B * cumulated_BV[:, -1])[:, None]
    return torch.searchsorted(cumulated_BV, wanted_B1, right=True).flatten().clamp(max=logits_BV.shape[1] - 1)
