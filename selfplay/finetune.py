"""Examples in, a trained model out: the one training loop, for fine-tuning and for making a base.

Loss is on completions only. Sequences of like length share a batch, so that little is padding;
a batch holds a fixed number of tokens, not of sequences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puzzles.puzzle import InputError
from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.model import LanguageModel
from selfplay.prompts import encode_completion, encode_prompt
from selfplay.rundir import folder_atomically
from selfplay.select import Example

EAGER_TOKENS = 256
"""Up to this length plain attention is the faster one on a CPU: 13,700 tokens/s against 7,000 for
one thread, 2 M parameters and sequences of 50 tokens."""
IGNORED = -100
"""The label that torch's cross entropy leaves out."""


@dataclass(frozen=True)
class TokenExample:
    """`input_ids_T` and `loss_mask_T`: one sequence, and which of its tokens are learned."""

    input_ids_T: tuple[int, ...]
    loss_mask_T: tuple[bool, ...]


@dataclass(frozen=True)
class TrainStats:
    """What a training came to."""

    steps: int
    sequences: int
    tokens: int
    """Without padding."""
    skipped: int
    """Examples longer than the model's context."""
    first_loss: float
    """Mean over the first tenth of the steps, per learned token."""
    last_loss: float
    """Mean over the last tenth."""
    seconds: float


class TrainingDiverged(InputError):
    """The loss is no number any more; nothing was saved."""


def tokenize(tokenizer: Any, example: Example) -> TokenExample:
    """A prompt and its completion as one sequence, loss on the completion and its end."""
    prompt, completion = encode_prompt(tokenizer, example.prompt), encode_completion(tokenizer, example.completion)
    return TokenExample((*prompt, *completion), (*[False] * len(prompt), *[True] * len(completion)))


def batches(examples: Sequence[TokenExample], batch_tokens: int, rng: np.random.Generator) -> list[list[TokenExample]]:
    """All examples once, in random order, grouped by length to at most `batch_tokens` with padding."""
    order = rng.permutation(len(examples))
    # Stable, so that equal lengths stay shuffled.
    order = order[np.argsort([len(examples[i].input_ids_T) for i in order], kind="stable")]
    grouped: list[list[TokenExample]] = [[]]
    for i in order:
        longest = len(examples[i].input_ids_T)
        if grouped[-1] and longest * (len(grouped[-1]) + 1) > batch_tokens:
            grouped.append([])
        grouped[-1].append(examples[i])
    return [grouped[i] for i in rng.permutation(len(grouped))] if grouped[0] else []


def collate(batch: Sequence[TokenExample], device: torch.device) -> dict[str, torch.Tensor]:
    """Right-padded tensors `input_ids_BT`, `attention_mask_BT`, `labels_BT`."""
    width = max(len(example.input_ids_T) for example in batch)
    shape = (len(batch), width)
    input_ids_BT, mask_BT, labels_BT = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, IGNORED)
    for row, example in enumerate(batch):
        length = len(example.input_ids_T)
        input_ids_BT[row, :length] = example.input_ids_T
        mask_BT[row, :length] = 1
        labels_BT[row, :length] = np.where(example.loss_mask_T, example.input_ids_T, IGNORED)
    arrays = {"input_ids": input_ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def loss_of(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood of the learned tokens, in float32."""
    logits_BTV = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
    )


def train(
    network: Any,
    steps: Iterable[Sequence[TokenExample]],
    total_steps: int,
    config: FinetuneConfig,
    progress: Callable[[int, float], object] = lambda tokens, loss: None,
) -> TrainStats:
    """One optimiser step per batch: AdamW, linear warm-up, then linear decay to zero, clipped gradients.

    Raises:
        TrainingDiverged: The loss or its gradient is not finite.
    """
    started = time.monotonic()
    device = next(network.parameters()).device
    optimizer = _optimizer(network, config, device)
    autocast = _autocast(config.dtype, device)
    losses: list[float] = []
    sequences = tokens = 0
    attention = network.config._attn_implementation
    network.train()
    for step, batch in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, total_steps, config.warmup_steps)
        tensors = collate(batch, device)
        _use_attention(network, attention, tensors["input_ids"])
        with autocast():
            loss = loss_of(network, tensors)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        losses.append(loss.item())
        if not (math.isfinite(losses[-1]) and math.isfinite(norm.item())):
            raise TrainingDiverged(
                f"step {step}: the loss is {losses[-1]}, its gradient {norm.item()}: "
                "lower finetune.learning_rate, or set finetune.dtype = 'float32'"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        batch_tokens = sum(len(example.input_ids_T) for example in batch)
        sequences, tokens = sequences + len(batch), tokens + batch_tokens
        progress(batch_tokens, losses[-1])
    network.set_attn_implementation(attention)
    network.eval()
    tenth = max(1, len(losses) // 10)
    return TrainStats(
        len(losses), sequences, tokens, 0, _mean(losses[:tenth]), _mean(losses[-tenth:]), time.monotonic() - started
    )


def _use_attention(network: Any, usual: str, input_ids_BT: torch.Tensor) -> None:
    """On a CPU, plain matrix products for short sequences: torch's fused attention goes backward slowly."""
    short = input_ids_BT.device.type == "cpu" and input_ids_BT.shape[1] <= EAGER_TOKENS
    wanted = "eager" if short else usual
    if network.config._attn_implementation != wanted:
        network.set_attn_implementation(wanted)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _schedule(step: int, total_steps: int, warmup_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def _optimizer(network: torch.nn.Module, config: FinetuneConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; gains and biases are not decayed."""
    matrices = [p for p in network.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in network.parameters() if p.requires_grad and p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=device.type in ("cpu", "cuda"))


def _autocast(dtype: str, device: torch.device) -> Callable[[], Any]:
    if dtype == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
        dtype = "bfloat16" if fast else "float32"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def finetune(
    start: str | Path,
    examples: Sequence[Example],
    config: FinetuneConfig,
    model_config: ModelConfig,
    seed: Sequence[int],
    folder: Path,
    notes: dict[str, Any],
    progress: Callable[[int, float], object] = lambda tokens, loss: None,
    plan: Callable[[int], object] = lambda steps: None,
) -> TrainStats:
    """Fine-tune a checkpoint on examples and save it as a new folder, complete or not at all.

    Args:
        start: The checkpoint to start from.
        examples: What to learn.
        config: How.
        model_config: Device and threads; weights are trained in float32.
        seed: Of the order of examples and of dropout.
        folder: Where the new checkpoint goes.
        notes: Kept beside the weights.
        progress: Called after each step with its tokens and loss.
        plan: Called once with the number of steps.

    Raises:
        TrainingDiverged: The loss became infinite or no number; nothing is saved.
    """
    model = LanguageModel(
        start, ModelConfig(path=str(start), device=model_config.device, dtype="float32", threads=model_config.threads)
    )
    rng = np.random.default_rng(list(seed))
    torch.manual_seed(int(rng.integers(2**62)))
    tokenized = [tokenize(model.tokenizer, example) for example in examples]
    fitting = [example for example in tokenized if len(example.input_ids_T) <= model.context_tokens]
    if not fitting:
        raise InputError(f"none of {len(tokenized)} examples fits the model's context of {model.context_tokens} tokens")
    per_epoch = len(batches(fitting, config.batch_tokens, np.random.default_rng(0)))
    total_steps = min(config.max_steps, math.ceil(per_epoch * config.epochs))
    plan(total_steps)
    steps = _epochs(fitting, config.batch_tokens, total_steps, rng)
    stats = train(model.network, steps, total_steps, config, progress)
    stats = TrainStats(**{**asdict(stats), "skipped": len(tokenized) - len(fitting)})
    with folder_atomically(folder) as part:
        model.save(part, {**notes, "training": asdict(stats)})
    return stats


def _epochs(
    examples: Sequence[TokenExample], batch_tokens: int, total_steps: int, rng: np.random.Generator
) -> Iterator[list[TokenExample]]:
    step = 0
    while step < total_steps:
        for batch in batches(examples, batch_tokens, rng):
            if step == total_steps:
                return
            yield batch
            step += 1


class TransformersBackend:
    """The loop's `Backend` on transformers and torch."""

    def load(self, checkpoint: str | Path, config: ModelConfig) -> LanguageModel:
        """The sampler of a checkpoint."""
        return LanguageModel(checkpoint, config)

    finetune = staticmethod(finetune)
