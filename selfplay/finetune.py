"""Examples in, a trained model out: the one training loop, for fine-tuning and for making a base.

Loss is on completions only. A step holds a fixed number of tokens, not of sequences, and sequences
of like length, so that little of it is padding. What costs time and changes nothing is left out: the
output layer reads only positions whose next token is learned, and a beginning that many examples
share, as few-shot prompts do, is read once for all of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache

from puzzles.puzzle import InputError
from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.cost import Watch
from selfplay.decode import kept_in
from selfplay.model import LanguageModel, peak_flops_per_second
from selfplay.prompts import encode_completion, encode_prompt
from selfplay.resources import OUT_OF_MEMORY, TrainingNeeds, give_memory_back
from selfplay.rundir import folder_atomically
from selfplay.select import Example

logger = logging.getLogger(__name__)

EAGER_TOKENS = 256
"""Up to this length plain attention is the faster one on a CPU: for one thread and 2 M parameters 10,000
tokens/s against 6,500 at 64 tokens, as many at 256, 3,600 against 4,800 at 512. After a shared beginning what
counts is own tokens by all tokens: 70 of 670 are still faster so (18,400 against 14,300), 70 of 970 are not."""
WORTH_SHARING = 1 / 8
"""Of a step's tokens, what a group must save to be read apart: each is two calls of the network more."""
STEPS_BETWEEN_GIVING_BACK = 10
"""On a CPU; ten steps of the embedded run take some seconds, and giving back 30 ms."""


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
    cpu_seconds: float
    peak_flops_per_second: float
    """A large matrix product in the dtype of training, measured."""


class Optimizer(Protocol):
    """What `train` asks of one."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Change the weights by their gradients."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""


class TrainingDiverged(InputError):
    """The loss is no number any more; nothing was saved."""


def tokenize(tokenizer: Any, example: Example) -> TokenExample:
    """A prompt and its completion as one sequence, loss on the completion and its end."""
    prompt, completion = encode_prompt(tokenizer, example.prompt), encode_completion(tokenizer, example.completion)
    return TokenExample((*prompt, *completion), (*[False] * len(prompt), *[True] * len(completion)))


def batches(examples: Sequence[TokenExample], batch_tokens: int, rng: np.random.Generator) -> list[list[TokenExample]]:
    """All examples once, in random order, grouped by length to at most `batch_tokens` with padding."""
    # The sort is stable, so that equal lengths stay shuffled.
    grouped = _filled([examples[i] for i in rng.permutation(len(examples))], batch_tokens)
    return [grouped[i] for i in rng.permutation(len(grouped))] if grouped else []


def _filled(examples: Iterable[TokenExample], most_tokens: float, shared: int = 0) -> list[list[TokenExample]]:
    """By length, in parts of at most so many tokens with padding, the shared ones once, or of one example."""
    parts: list[list[TokenExample]] = []
    for example in sorted(examples, key=_length):
        if not parts or shared + (_length(example) - shared) * (len(parts[-1]) + 1) > most_tokens:
            parts.append([])
        parts[-1].append(example)
    return parts


def _length(example: TokenExample) -> int:
    return len(example.input_ids_T)


def micro_batches(
    batch: Sequence[TokenExample], most_tokens: float, share: bool
) -> list[tuple[list[TokenExample], int]]:
    """A step's examples in parts that go through the network one after the other.

    Args:
        batch: The step.
        most_tokens: Of a part, with padding; a longer example is a part of its own.
        share: Whether examples that begin alike come together.

    Returns:
        Each part, and how many tokens of its examples' common beginning are to be read once.
    """
    groups = _alike(batch) if share else [(batch, 0)]
    parts = [(part, shared) for group, shared in groups for part in _filled(group, most_tokens, shared)]
    return [(part, shared if len(part) > 1 else 0) for part, shared in parts]


def _alike(batch: Sequence[TokenExample]) -> list[tuple[list[TokenExample], int]]:
    """Groups and what they share, such that most tokens are saved; all others are one group that shares nothing."""
    ordered = sorted(batch, key=lambda example: example.input_ids_T)
    common = [shared_tokens(pair) for pair in itertools.pairwise(ordered)]
    price = WORTH_SHARING * sum(map(_length, batch))
    # For the first so many examples: what is saved at best, where their last group begins, and what that shares.
    best: list[tuple[float, int, int]] = [(0.0, 0, 0)]
    for end in range(1, len(ordered) + 1):
        choices = [(best[end - 1][0], end - 1, 0)]
        shared = max(common, default=0)
        for start in range(end - 2, -1, -1):
            shared = min(shared, common[start])
            if shared * (end - 1) <= price:  # no longer group can be worth it
                break
            choices.append((best[start][0] + shared * (end - start - 1) - price, start, shared))
        best.append(max(choices))
    groups, alone, end = [], [], len(ordered)
    while end:
        _, start, shared = best[end]
        if shared:
            groups.append((ordered[start:end], shared))
        else:
            alone.append(ordered[start])
        end = start
    return [*groups, (alone, 0)]


def shared_tokens(examples: Sequence[TokenExample]) -> int:
    """How long a beginning all examples have in common, before what they learn."""
    beginnings = [_unlearned(example) for example in examples]
    # What the first and the last in order have in common, all between them have too.
    ends = zip(min(beginnings), max(beginnings), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))


def _unlearned(example: TokenExample) -> tuple[int, ...]:
    """The tokens after which nothing is learned at once: a prompt without its last token."""
    first = example.loss_mask_T.index(True) if True in example.loss_mask_T else _length(example)
    return example.input_ids_T[: max(0, first - 1)]


def collate(
    examples: Sequence[TokenExample], shared: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Examples without their shared beginning as tensors.

    Returns:
        `input_ids_BT`, padded on the right, where a causal model's earlier positions cannot see it;
        `places_N`, the positions before a learned token, counted row after row; `targets_N`, these tokens.
    """
    width = max(map(_length, examples)) - shared
    input_ids_BT = np.zeros((len(examples), width), np.int64)
    learned_BT = np.zeros((len(examples), width), bool)
    for row, example in enumerate(examples):
        input_ids_BT[row, : _length(example) - shared] = example.input_ids_T[shared:]
        learned_BT[row, : _length(example) - shared] = example.loss_mask_T[shared:]
    learned_BT[:, 0] = False  # nothing stands before it
    targets_N = np.flatnonzero(learned_BT)
    arrays = input_ids_BT, targets_N - 1, input_ids_BT.flat[targets_N]
    input_ids, places, targets = (torch.from_numpy(array).to(device) for array in arrays)
    return input_ids, places, targets


def loss_of(network: Any, examples: Sequence[TokenExample], shared: int = 0) -> torch.Tensor:
    """Negative log-likelihood of the learned tokens, summed, in float32.

    Args:
        network: A causal language model.
        examples: They go through it side by side.
        shared: How many first tokens, the same in all, are read once. Dropout then draws once for them.
    """
    input_ids_BT, places_N, targets_N = collate(examples, shared, network.device)
    past = _past(network, examples[0].input_ids_T[:shared], len(examples)) if shared else {"use_cache": False}
    with _output_at(network, places_N):
        logits_NV = network(input_ids=input_ids_BT, **past).logits[0]
    return torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum")


def _past(network: Any, ids_S: Sequence[int], copies: int) -> dict[str, Any]:
    """Keys and values of a beginning, for that many rows; gradients flow back through them."""
    input_ids_1S = torch.tensor([ids_S], device=network.device)
    cache = DynamicCache(config=network.config)
    with _output_at(network, input_ids_1S.new_empty(0)):
        network(input_ids=input_ids_1S, **kept_in(cache, network))
    cache.batch_repeat_interleave(copies)
    return kept_in(cache, network)


@contextlib.contextmanager
def _output_at(network: Any, places_N: torch.Tensor) -> Iterator[None]:
    """Within it the output layer reads these positions only, counted row after row, as one row.

    It is a quarter of the work for models of 100 to 500 M parameters, and its logits are most of the memory.
    """

    def choose(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, places_N)[None],)

    hook = network.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def can_share(network: Any) -> bool:
    """Whether a beginning can be read once for many: attention to all that came before, kept in the usual cache."""
    windowed = getattr(network.config, "sliding_window", None) is not None
    return bool(network._supports_default_dynamic_cache()) and not network._is_stateful and not windowed


def train(
    network: Any,
    steps: Iterable[Sequence[TokenExample]],
    total_steps: int,
    config: FinetuneConfig,
    progress: Callable[[int, float], object] = lambda tokens, loss: None,
    make_optimizer: Callable[[torch.nn.Module, FinetuneConfig, torch.device], Optimizer] | None = None,
) -> TrainStats:
    """One optimiser step per batch: linear warm-up, then linear decay to zero, clipped gradients; AdamW by default.

    Raises:
        TrainingDiverged: The loss or its gradient is not finite.
    """
    device = network.device
    # Before anything of value is in memory.
    peak = peak_flops_per_second(device, _dtype(config.dtype, device), torch.get_num_threads())
    watch = Watch()
    optimizer = (make_optimizer or adamw)(network, config, device)
    losses: list[float] = []
    sequences = tokens = 0
    attention = network.config._attn_implementation
    most_tokens = config.micro_batch_tokens or math.inf
    # Checkpointing makes the network forget its keys and values.
    share = can_share(network) and not config.checkpointing
    backward = functools.partial(_backward, network, share=share, dtype=config.dtype, attention=attention)
    network.train()
    if config.checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    for step, batch in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, total_steps, config.warmup_steps)
        loss, most_tokens = _fitted(backward, network, batch, most_tokens)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        losses.append(loss.item())
        if not (math.isfinite(losses[-1]) and math.isfinite(norm.item())):
            raise TrainingDiverged(
                f"step {step}: the loss is {losses[-1]}, its gradient {norm.item()}: "
                "lower finetune.learning_rate, or set finetune.dtype = 'float32'"
            )
        _step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        batch_tokens = sum(map(_length, batch))
        sequences, tokens = sequences + len(batch), tokens + batch_tokens
        progress(batch_tokens, losses[-1])
        if device.type == "cpu" and step % STEPS_BETWEEN_GIVING_BACK == 0:
            give_memory_back()
    if config.checkpointing:
        network.activation_checkpointing_disable()
    network.set_attn_implementation(attention)
    network.eval()
    tenth = max(1, len(losses) // 10)
    spent, cpu_spent = watch.seconds(), watch.cpu_seconds()
    return TrainStats(
        len(losses), sequences, tokens, 0, _mean(losses[:tenth]), _mean(losses[-tenth:]), spent, cpu_spent, peak
    )


def _step(optimizer: Optimizer) -> None:
    """The first one allocates two numbers for each weight."""
    try:
        optimizer.step()
    except RuntimeError as error:
        if not OUT_OF_MEMORY.search(str(error)):
            raise
        raise InputError("out of memory with AdamW's state: set finetune.lora_rank = 16, or a smaller model") from None


def _fitted(
    backward: Callable[[Sequence[TokenExample], float], torch.Tensor],
    network: Any,
    batch: Sequence[TokenExample],
    most_tokens: float,
) -> tuple[torch.Tensor, float]:
    """A step in parts that are halved until they fit the memory: its loss, and the size of parts from now on."""
    longest = max(map(_length, batch))
    while True:
        try:
            return backward(batch, most_tokens), most_tokens
        except RuntimeError as error:
            if not OUT_OF_MEMORY.search(str(error)):
                raise
            if most_tokens < longest:
                raise InputError(
                    f"out of memory with one example of {longest} tokens: set finetune.checkpointing = true, "
                    "finetune.lora_rank = 16 or fewer prompt.shots"
                ) from None
        # Only here, where the error and the tensors that it holds are gone.
        network.zero_grad(set_to_none=True)
        most_tokens = min(most_tokens, longest * len(batch)) // 2
        logger.warning("out of memory: from now on finetune.micro_batch_tokens = %d", most_tokens)


def _backward(
    network: Any, batch: Sequence[TokenExample], most_tokens: float, share: bool, dtype: str, attention: str
) -> torch.Tensor:
    """A step's mean loss per learned token, whatever its parts; the gradient is left in the weights."""
    learned = sum(sum(example.loss_mask_T[1:]) for example in batch)
    total = torch.zeros((), device=network.device)
    for part, shared in micro_batches(batch, most_tokens, share):
        _use_attention(network, attention, max(map(_length, part)), shared)
        with _autocast(dtype, network.device):
            loss = loss_of(network, part, shared) / learned
        loss.backward()
        total += loss.detach()
    return total


def _use_attention(network: Any, usual: str, width: int, shared: int) -> None:
    """On a CPU, plain matrix products for short sequences: torch's fused attention goes backward slowly."""
    short = (width - shared) * width <= EAGER_TOKENS**2
    wanted = "eager" if network.device.type == "cpu" and short else usual
    if network.config._attn_implementation != wanted:
        network.set_attn_implementation(wanted)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _schedule(step: int, total_steps: int, warmup_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def adamw(network: torch.nn.Module, config: FinetuneConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW; gains and biases are not decayed."""
    matrices = [p for p in network.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in network.parameters() if p.requires_grad and p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=device.type in ("cpu", "cuda"))


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
        name = "bfloat16" if fast else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _autocast(name: str, device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=_dtype(name, device) == torch.bfloat16)


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
    network = _with_adapters(model.network, config) if config.lora_rank else model.network
    stats = train(network, steps, total_steps, config, progress)
    if config.lora_rank:
        model.network = network.merge_and_unload()
    stats = TrainStats(**{**asdict(stats), "skipped": len(tokenized) - len(fitting)})
    with folder_atomically(folder) as part:
        model.save(part, {**notes, "training": asdict(stats)})
    return stats


def require_peft() -> None:
    """Say at start, not after an iteration, that LoRA's package is missing.

    Raises:
        InputError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError("finetune.lora_rank: the package is not installed: pip install 'selfplay-puzzles[lora]'")


def _with_adapters(network: Any, config: FinetuneConfig) -> Any:
    """Only low-rank adapters of all linear layers but the output learn (Hu et al., 2021, arXiv:2106.09685)."""
    require_peft()
    import peft

    kinds = {type(module).__name__ for module in network.modules()}
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear",
        fan_in_fan_out="Conv1D" in kinds,  # GPT-2's layers are transposed
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going
        return peft.get_peft_model(network, settings)


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


WEIGHTS_GRADIENTS_MOMENTS = 4
"""Numbers that AdamW keeps for each weight that learns."""


class TransformersBackend:
    """The loop's `Backend` on transformers and torch."""

    def load(self, checkpoint: str | Path, config: ModelConfig) -> LanguageModel:
        """The sampler of a checkpoint."""
        return LanguageModel(checkpoint, config)

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """What a training of this model takes at least: in float32, as AdamW has it, or with adapters the weights."""
        weights_bytes = 4 * sampler.parameters
        copies = 1 if config.lora_rank else WEIGHTS_GRADIENTS_MOMENTS
        free_bytes = sampler.free_bytes + sampler.own_bytes
        remedy = "take a smaller model" + ("" if config.lora_rank else ", or finetune.lora_rank = 16")
        return TrainingNeeds(copies * weights_bytes, free_bytes, weights_bytes, remedy)

    finetune = staticmethod(finetune)
