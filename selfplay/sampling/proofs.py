"""What sampling and training assume of a model, each tried on two short texts before it is used.

A model that fails is not refused: it is sampled or trained in the plain way, and this is said once. Only a model that
cannot even read a text is refused.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from puzzles.foreign import shortened
from puzzles.puzzle import InputError
from selfplay.run.resources import OUT_OF_MEMORY

logger = logging.getLogger(__name__)

FORCED_TOKENS = 8
"""Number of tokens that are compared behind each text."""
LENGTHS = (7, 12)
"""Tokens of the two texts, which differ so that one of them is padded."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
"""Largest permitted error of a logit, in standard deviations of the logits. The embedded model's rounding is below 1e-5
in float32 and below 0.1 in bfloat16; float16 was not measured."""
FAILURES = (
    TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError, NotImplementedError, AssertionError,
)  # fmt: skip
"""What an unknown kind of model may raise when it is asked for what it cannot do. That counts as disagreement."""


@functools.cache
def say_once(message: str) -> None:
    """Log a warning, once in the life of the process: a run loads a model again and again."""
    logger.warning("%s", message)


def kind_of(network: Any) -> str:
    """What a kind of model is called in messages."""
    return str(getattr(network.config, "model_type", "") or type(network).__name__)


def two_texts(network: Any, more: int = 0, begin_alike: int = 0) -> list[list[int]]:
    """Two texts of random tokens, of different lengths.

    Args:
        network: The model.
        more: Tokens that each text has beyond `LENGTHS`.
        begin_alike: Number of first tokens that both share.
    """
    generator = torch.Generator().manual_seed(0)
    size = network.get_input_embeddings().weight.shape[0]
    texts = [torch.randint(size, (length + more,), generator=generator).tolist() for length in LENGTHS]
    return [texts[0], [*texts[0][:begin_alike], *texts[1][begin_alike:]]]


def plain_logits(network: Any, text: Sequence[int]) -> torch.Tensor:
    """The logits `TV` of one text that is read alone, in one pass, without a cache. This defines what is right."""
    output = network(input_ids=torch.tensor([list(text)], device=network.device), use_cache=False)
    logits_TV: torch.Tensor = output.logits[0].float()
    return logits_TV


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def check_reads(network: Any, path: str) -> None:
    """Check that a model can read a text at all.

    Raises:
        InputError: It cannot, for example because its configuration contradicts itself.
    """
    try:
        plain_logits(network, two_texts(network)[0])
    except FAILURES as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{path}: expected a model that reads text, reading failed: {shortened(said)}") from None


def is_near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, usual: torch.Tensor | None = None) -> bool:
    """Whether logits are equal within rounding.

    Args:
        found: Logits of the way in question.
        expected: Logits of the plain way.
        dtype: The number format of both.
        usual: Logits of a way that is known to be right. `MOST_ADDED` times its error is permitted, too.
    """
    permitted = TOLERANCE[dtype] * float(expected.std())
    if usual is not None:
        permitted = max(permitted, MOST_ADDED * float((usual - expected).abs().max()))
    return bool(float((found - expected).abs().max()) <= permitted)


MOST_ADDED = 2.0
"""Largest error of a way to compute logits in a coarse dtype, in errors of the plain way in this dtype. SmolLM2's 30
layers in bfloat16: .27 to .33 standard deviations with shared prompts, .25 to .48 without."""
UNNOTICED_KL, UNNOTICED_ERROR = 1e-4, 0.02
"""Mean KL divergence in nats, and largest error in standard deviations of the logits, that never count."""


def adds_no_error(found_NV: torch.Tensor, plain_NV: torch.Tensor, exact_NV: torch.Tensor) -> bool:
    """Whether logits are no further from the exact ones than those of the plain way, by KL and by largest error.

    Args:
        found_NV: Logits of the way in question, in a coarse dtype.
        plain_NV: Logits of the plain way in the same dtype.
        exact_NV: Logits of the plain way in float32.
    """
    scale = float(exact_NV.std())
    kl, plain_kl = (_kl(exact_NV, logits_NV) for logits_NV in (found_NV, plain_NV))
    error, plain_error = (float((each - exact_NV).abs().max()) / scale for each in (found_NV, plain_NV))
    return kl <= MOST_ADDED * plain_kl + UNNOTICED_KL and error <= MOST_ADDED * plain_error + UNNOTICED_ERROR


def _kl(exact_NV: torch.Tensor, other_NV: torch.Tensor) -> float:
    exact_log_NV, other_log_NV = (logits_NV.double().log_softmax(-1) for logits_NV in (exact_NV, other_NV))
    return float((exact_log_NV.exp() * (exact_log_NV - other_log_NV)).sum(-1).mean())


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def generates_padded(network: Any, pad: int) -> bool:
    """Whether rows that `generate` pads on the left get the same logits as alone.

    Some models ignore the mask, and read the padding as text.
    """
    return _generates(network, two_texts(network), pad)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def generates_cached(network: Any, pad: int) -> bool:
    """Whether `generate` gets the same logits with the model's own cache as without, for rows of one length."""
    return _generates(network, [text[: min(LENGTHS)] for text in two_texts(network)], pad)


def _generates(network: Any, texts: Sequence[list[int]], pad: int) -> bool:
    width = max(map(len, texts))
    ids_BT = torch.tensor([[pad] * (width - len(text)) + text for text in texts], device=network.device)
    mask_BT = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=network.device)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=FORCED_TOKENS, pad_token_id=pad, use_cache=True, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    try:
        done = network.generate(ids_BT, attention_mask=mask_BT, generation_config=config)
        drawn_BT = done.sequences[:, width:].tolist()
        for row, text in enumerate(texts):
            expected_TV = plain_logits(network, text + drawn_BT[row])[len(text) - 1 : -1]
            found_TV = torch.stack([step_BV[row].float() for step_BV in done.logits])
            if not is_near(found_TV, expected_TV[: len(found_TV)], network.dtype):
                return False
    except FAILURES:
        return False
    return True


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def reads_padded(network: Any) -> bool:
    """Whether a text gets the same logits alone and beside a longer one, padded on the right without a mask."""
    short, long = two_texts(network)
    try:
        ids_BT = torch.tensor([short + [0] * (len(long) - len(short)), long], device=network.device)
        logits_BTV = network(input_ids=ids_BT, use_cache=False).logits.float()
        return all(
            is_near(logits_TV[: len(text)], plain_logits(network, text), network.dtype)
            for logits_TV, text in zip(logits_BTV, (short, long), strict=True)
        )
    except FAILURES:
        return False
