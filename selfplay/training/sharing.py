"""A beginning that many examples share is read once, by models for which this gives the same logits and gradients.

`plain_logits` of each example, read alone and whole, defines what is right. What training saves on it is tried on two
short texts first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache

from selfplay.sampling import proofs
from selfplay.sampling.context import has_window
from selfplay.sampling.decode import attention_of, kept_in
from selfplay.sampling.proofs import FAILURES, TOLERANCE, is_near, kind_of, plain_logits, say_once, two_texts

SHARED_TOKENS = 4
"""Tokens of the beginning that `can_share` tries to share."""
_proved: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()
"""What was proved of each network."""


def past_of(network: Any, ids_S: Sequence[int], copies: int) -> dict[str, Any]:
    """Keys and values of a beginning, repeated for `copies` rows. Gradients flow back through them."""
    input_ids_1S = torch.tensor([ids_S], device=network.device)
    cache = DynamicCache(config=network.config)
    with output_at(network, input_ids_1S.new_empty(0)):
        network(input_ids=input_ids_1S, **kept_in(cache, network))
    cache.batch_repeat_interleave(copies)
    return kept_in(cache, network)


@contextlib.contextmanager
def output_at(network: Any, places_N: torch.Tensor) -> Iterator[None]:
    """Make the output layer read only these positions, counted row after row, as one row.

    The output layer is a quarter of the work for models of 100 to 500 M parameters, and its logits are most of the
    memory.
    """

    def choose(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, places_N)[None],)

    hook = network.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def can_share(network: Any) -> bool:
    """Whether a beginning can be read once for many examples, as two short texts show.

    The network must attend to all earlier tokens. Some models have a cache that cannot be repeated; others take one and
    ignore it, so that the beginning would be lost.
    """
    can = not network._is_stateful and not has_window(network) and _once(network, "share", _shares)
    if not can:
        say_once(f"this kind of model ({kind_of(network)}) cannot share a beginning: each example is read whole")
    return can


def reads_padded(network: Any) -> bool:
    """Whether a text gets the same logits alone and beside a longer one, as two short texts show."""
    pads = _once(network, "pad", proofs.reads_padded)
    if not pads:
        say_once(f"this kind of model ({kind_of(network)}) reads padding as text: it learns from texts of one length")
    return pads


def _once(network: Any, what: str, prove: Callable[[Any], bool]) -> bool:
    """A proof's outcome. Each is made once for a network, without dropout."""
    proved = _proved.setdefault(network, {})
    if what not in proved:
        with _evaluated(network):
            proved[what] = bool(prove(network))
    return proved[what]


def _shares(network: Any) -> bool:
    names = {network.config._attn_implementation, *(["eager"] if network.device.type == "cpu" else [])}
    with torch.enable_grad():
        return all(_shares_with(network, name) for name in sorted(names))


def _shares_with(network: Any, attention: str) -> bool:
    """Whether logits and gradients are the same with this kind of attention."""
    texts = [text[: 2 * SHARED_TOKENS] for text in two_texts(network, begin_alike=SHARED_TOKENS, more=SHARED_TOKENS)]
    weight = next((each for each in network.parameters() if each.requires_grad), None)
    try:
        with attention_of(network, attention):
            own_BT = torch.tensor([text[SHARED_TOKENS:] for text in texts], device=network.device)
            past = past_of(network, texts[0][:SHARED_TOKENS], len(texts))
            found_BTV = network(input_ids=own_BT, **past).logits.float()
            expected_BTV = torch.stack([plain_logits(network, text)[SHARED_TOKENS:] for text in texts])
            if not is_near(found_BTV.detach(), expected_BTV.detach(), network.dtype):
                return False
            if weight is None:
                return True
            found, expected = (_slope(logits_BTV, weight) for logits_BTV in (found_BTV, expected_BTV))
            largest = float(expected.abs().max())
            return bool(float((found - expected).abs().max()) <= TOLERANCE[network.dtype] * largest)
    except FAILURES:
        return False


def _slope(logits_BTV: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of some weighted sum of the logits."""
    weights_BTV = torch.linspace(-1, 1, logits_BTV.numel(), device=logits_BTV.device).view_as(logits_BTV)
    (slope,) = torch.autograd.grad((logits_BTV * weights_BTV).sum(), weight)
    return slope


@contextlib.contextmanager
def _evaluated(network: Any) -> Iterator[None]:
    """Without dropout, which would make any two readings differ."""
    were = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, was in were:  # with checkpointing only some of them are in training mode
            module.training = was
