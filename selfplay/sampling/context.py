"""How long a text a model can read, from its configuration and its tokenizer, whatever they call it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from puzzles.foreign import shown
from puzzles.puzzle import InputError

LENGTHS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length",
    "seq_length", "seq_len", "context_length", "max_context_length", "model_max_length", "max_target_positions",
    "max_decoder_position_embeddings", "max_text_positions",
)  # fmt: skip
"""What configurations call the number of tokens that a model was made for."""
WINDOWS = (
    "sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", "attention_window",
    "attention_window_size", "local_attention_window", "local_attention_window_len", "keep_window_size",
)  # fmt: skip
"""What configurations call the number of tokens that a layer looks back."""
LENGTH_OF_TEXT = ("dynamic", "longrope")
"""Kinds of rotary embedding whose angles change when a text grows longer than those of the first training."""
UNLIMITED = 2**30
"""Stands for a model without a limit."""


def context_tokens(network: Any, tokenizer: Any, path: str) -> int:
    """Longest sequence that model and tokenizer were made for, in tokens.

    Raises:
        InputError: The configuration's number is no number of tokens.
    """
    lengths = []
    for config in _configs(network.config):
        own = []
        for name in LENGTHS:
            value = getattr(config, name, None)
            if value is None or value == -1:  # both say that there is no limit
                continue
            if not (type(value) is int and value > 0):
                asked = f"expected an integer above 0 under {name!r}"
                raise InputError(f"{path}: config.json: {asked}, got {shown(value)}")
            own.append(value)
        lengths.append(max(min(own), _stretched(config)) if own else UNLIMITED)
    limit = getattr(tokenizer, "model_max_length", None)
    if isinstance(limit, int | float) and not isinstance(limit, bool) and 0 < limit < UNLIMITED:
        lengths.append(math.floor(limit) or 1)  # transformers stores a very large number for no limit
    return min(lengths, default=UNLIMITED)


def alike_tokens(network: Any) -> int:
    """Longest sequence in which a token's angles do not depend on the length of the text.

    Beyond it, a proof with short texts says nothing.
    """
    lengths = [UNLIMITED]
    for config in _configs(network.config):
        for rope in _ropes(config):
            if rope.get("rope_type", rope.get("type")) in LENGTH_OF_TEXT:
                first = rope.get("original_max_position_embeddings") or getattr(config, LENGTHS[0], None)
                lengths += [first] if type(first) is int else []
    return min(lengths)


def has_window(network: Any) -> bool:
    """Whether some layers look back a limited number of tokens."""
    return window_tokens(network) < UNLIMITED


def window_tokens(network: Any) -> int:
    """The fewest tokens that a layer looks back. In a shorter text each token attends to all before it."""
    found = (getattr(config, name, None) for config in _configs(network.config) for name in WINDOWS)
    windows = (window for each in found for window in (each if isinstance(each, list | tuple) else [each]))
    return min((window for window in windows if type(window) is int and window > 0), default=UNLIMITED)


def _configs(config: Any) -> Iterator[Any]:
    """A configuration, and the part of a composite one that is about text."""
    yield config
    inner = config.get_text_config(decoder=True)
    if inner is not config:
        yield inner


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """The parameters of rotary embeddings: of all layers, or of each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        found = getattr(config, name, None)
        for rope in [found, *found.values()] if isinstance(found, Mapping) else []:
            if isinstance(rope, Mapping):
                yield rope


def _stretched(config: Any) -> int:
    """The length to which YaRN stretches a context, which need not be the configuration's own number; 0 without it."""
    stretched = [0]
    for rope in _ropes(config):
        first, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
        known = isinstance(first, int) and isinstance(factor, int | float) and math.isfinite(factor)
        if known and rope.get("rope_type", rope.get("type")) == "yarn":
            stretched.append(int(float(factor) * int(first)))  # type: ignore[arg-type]  # both are known
    return max(stretched)
