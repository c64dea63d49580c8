"""Examples in, a trained model out. The one training loop, for fine-tuning and for making a base model.

A training lowers one of `selfplay.training.objectives`, on completions only. A step holds a fixed number of tokens, not
of sequences. Its sequences are of similar length, so little of it is padding.
Two savings change no result. The output layer reads only positions whose next token is learned. And a beginning that
many examples share, such as a few-shot prompt, is read once for all of them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from puzzles.puzzle import InputError
from sandbox.pool import available_cores
from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.run.resources import OUT_OF_MEMORY, TrainingNeeds, give_memory_back
from selfplay.run.rundir import folder_atomically
from selfplay.sampling.context import alike_tokens
from selfplay.sampling.cost import Watch
from selfplay.sampling.model import LanguageModel, device_of, is_fast_in_bfloat16, peak_flops_per_second
from selfplay.sampling.prompts import Prompt, encode_completion, encode_prompt, encode_sampled, end_of, is_joined
from selfplay.sampling.sampler import Drawn
from selfplay.sampling.tokens import decode_after, encode_begun
from selfplay.training import distributed
from selfplay.training.backend import Training
from selfplay.training.objectives import Likelihood, Objective, PolicyGradient, Preference
from selfplay.training.select import Contrast, Example, Graded, Lesson
from selfplay.training.sharing import can_share, output_at, past_of, reads_padded

logger = logging.getLogger(__name__)

EAGER_TOKENS = 256
"""Longest sequence for plain attention on a CPU; for longer ones fused attention is faster. For one thread and 2 M
parameters: 10,000 tokens/s against 6,500 at 64 tokens, equal at 256, 3,600 against 4,800 at 512. After a shared
beginning the product of own tokens and all tokens counts: with 70 of 670 plain attention is still faster (18,400
against 14,300), with 70 of 970 it is not."""
WORTH_SHARING = 1 / 8
"""Share of a step's tokens that a group must save to be read on its own: each group costs two more network calls."""
STEPS_BETWEEN_GIVING_BACK = 10
"""Steps on a CPU between returns of memory to the system. Ten steps of the embedded run take some seconds, a return
takes 30 ms."""
FEWEST_STEPS_TO_JUDGE = 10
"""Fewest steps to judge a trend by. The responses of a single step say little about how others have moved."""

LIKELIHOOD = Likelihood()
S = TypeVar("S", bound=Sized)
T = TypeVar("T")


@dataclass(frozen=True)
class TokenExample:
    """One sequence, `input_ids_T`, and which of its tokens are learned, `loss_mask_T`."""

    input_ids_T: tuple[int, ...]
    loss_mask_T: tuple[bool, ...]
    advantage: float = 1.0
    """Weight of its learned tokens in a policy gradient."""

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.input_ids_T)

    @property
    def learned(self) -> int:
        """Number of learned tokens. The very first token cannot be learned, as no token stands before it."""
        return sum(self.loss_mask_T[1:])


@dataclass(frozen=True)
class TokenContrast:
    """Two sequences with the same prompt, a better and a worse one."""

    better: TokenExample
    worse: TokenExample

    def __len__(self) -> int:
        """Tokens of the longer one, as both are padded to it."""
        return max(len(self.better), len(self.worse))


@dataclass(frozen=True)
class TrainStats:
    """Numbers about a finished training."""

    steps: int
    sequences: int
    tokens: int
    """Tokens without padding."""
    skipped: int
    """Examples longer than the model's context."""
    first_loss: float
    """Mean over the first tenth of the steps, per learned token or per contrast."""
    last_loss: float
    """Mean over the last tenth of the steps."""
    seconds: float
    cpu_seconds: float
    peak_flops_per_second: float
    """Measured speed of a large matrix product in the dtype of training."""
    preferred: float | None = None
    """Share of contrasts whose better response has gained more on the starting weights than the worse one. This and the
    next three numbers are means over the last tenth of the steps; None if the objective does not have them."""
    better_shift: float | None = None
    """Nats by which the better responses have become likelier than with the starting weights."""
    ratio: float | None = None
    """Mean ratio of a graded token's probability to its probability with the starting weights."""
    clipped: float | None = None
    """Share of graded tokens that had moved too far to be learned."""
    stopped_at_step: int | None = None
    """Number of steps after which `finetune.most_fall` stopped the training; None if it did not."""


class Optimizer(Protocol):
    """The part of an optimiser's interface that `train` uses."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Change the weights by their gradients."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""


class TrainingDiverged(InputError):
    """The loss or its gradient is not finite. Nothing was saved."""


def tokenize(tokenizer: Any, example: Example) -> TokenExample:
    """A prompt and its completion as one sequence. The completion and its end are learned."""
    prompt, drawn = encode_prompt(tokenizer, example.prompt), example.drawn
    if drawn is None:
        completion = encode_completion(tokenizer, example.completion, example.prompt.chat)
    elif drawn.ended == "token":
        completion = _as_drawn(tokenizer, example.prompt, prompt, example.completion, drawn)
    else:  # it is to end where a line ended it
        completion = _ended(tokenizer, example.prompt, prompt, example.completion, drawn)
    return _sequence(prompt, completion)


def tokenize_lesson(tokenizer: Any, lesson: Lesson) -> TokenExample | TokenContrast:
    """The one or two sequences of a lesson. Sampled texts keep the end that was sampled."""
    if isinstance(lesson, Example):
        return tokenize(tokenizer, lesson)
    prompt = encode_prompt(tokenizer, lesson.prompt)
    sequences = [
        _sequence(prompt, _as_drawn(tokenizer, lesson.prompt, prompt, text, drawn))
        if drawn
        else _sequence(prompt, encode_sampled(tokenizer, lesson.prompt, text))
        for text, drawn in _texts(lesson)
    ]
    return (
        replace(sequences[0], advantage=lesson.advantage) if isinstance(lesson, Graded) else TokenContrast(*sequences)
    )


def _texts(lesson: Lesson) -> list[tuple[str, Drawn | None]]:
    """The texts that a lesson learns from, with the tokens they were drawn in."""
    if isinstance(lesson, Contrast):
        return list(zip((lesson.better, lesson.worse), lesson.drawn, strict=True))
    return [(lesson.completion, lesson.drawn)]


def _as_drawn(tokenizer: Any, prompt: Prompt, prompt_ids: Sequence[int], text: str, drawn: Drawn) -> list[int]:
    """The tokens that a text was drawn in, with what ended it."""
    own = drawn.ids[:-1] if drawn.ended == "token" else drawn.ids
    # With another tokenizer, such as that of a model which took an archive over, the tokens are other texts.
    if decode_after(tokenizer, prompt_ids, own) == text:
        return [*drawn.ids]
    return _ended(tokenizer, prompt, prompt_ids, text, drawn)


def _ended(tokenizer: Any, prompt: Prompt, prompt_ids: Sequence[int], text: str, drawn: Drawn) -> list[int]:
    """The tokens that a text was drawn in as far as they are its beginning, then its own, and an end token."""
    return [*encode_begun(tokenizer, prompt_ids, drawn.ids, text), end_of(tokenizer, prompt.chat)]


def log_tokens(tokenizer: Any, lessons: Sequence[Lesson], tokenized: Sequence[TokenExample | TokenContrast]) -> None:
    """Log how many of the learned tokens were drawn, and how many of the other texts the tokenizer would join."""
    counts = Counter[str]()
    for lesson, tokens in zip(lessons, tokenized, strict=True):
        sequences = (tokens.better, tokens.worse) if isinstance(tokens, TokenContrast) else (tokens,)
        for (_, drawn), sequence in zip(_texts(lesson), sequences, strict=True):
            start = len(sequence) - sum(sequence.loss_mask_T)
            prompt, completion = sequence.input_ids_T[:start], sequence.input_ids_T[start:]
            pairs = zip(completion, drawn.ids if drawn else (), strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            counts.update(texts=1, tokens=len(completion), drawn=same)
            if not same:
                counts.update(anew=1, joined=is_joined(tokenizer, prompt, completion[:-1]))
    logger.info(
        "the model drew %d of the %d tokens to learn. %d of %d texts are tokenised anew, because it did not write them "
        "in this form or their tokens were not kept; the tokenizer would join %d of these to their prompts",
        *(counts[name] for name in ("drawn", "tokens", "anew", "texts", "joined")),
    )


def _sequence(prompt: Sequence[int], completion: Sequence[int]) -> TokenExample:
    return TokenExample((*prompt, *completion), (*[False] * len(prompt), *[True] * len(completion)))


def batches(examples: Sequence[S], batch_tokens: int, rng: np.random.Generator) -> list[list[S]]:
    """All examples once, in batches of similar length and at most `batch_tokens` with padding, in random order."""
    # `_filled` sorts stably, so examples of equal length stay shuffled.
    grouped = _filled([examples[i] for i in rng.permutation(len(examples))], batch_tokens)
    return [grouped[i] for i in rng.permutation(len(grouped))] if grouped else []


def _filled(examples: Iterable[S], most_tokens: float, shared: int = 0) -> list[list[S]]:
    """Examples sorted by length and cut into parts of at most `most_tokens`, or of one example.

    Padding counts, and the `shared` first tokens count once per part.
    """
    parts: list[list[S]] = []
    for example in sorted(examples, key=len):
        if not parts or shared + (len(example) - shared) * (len(parts[-1]) + 1) > most_tokens:
            parts.append([])
        parts[-1].append(example)
    return parts


def micro_batches(
    batch: Sequence[TokenExample], most_tokens: float, share: bool
) -> list[tuple[list[TokenExample], int]]:
    """A step's examples in parts that go through the network one after the other.

    Args:
        batch: The examples of the step.
        most_tokens: Token limit of a part, padding included. A longer example is a part of its own.
        share: Whether examples with a common beginning are put together.

    Returns:
        Each part, and the number of tokens of the common beginning that are read once.
    """
    groups = _alike(batch) if share else [(batch, 0)]
    parts = [(part, shared) for group, shared in groups for part in _filled(group, most_tokens, shared)]
    return [(part, shared if len(part) > 1 else 0) for part, shared in parts]


def of_one_length(parts: Iterable[tuple[list[TokenExample], int]]) -> list[tuple[list[TokenExample], int]]:
    """The same parts, cut so that the examples of each have one length, for models that read padding as text."""
    return [
        (list(same), shared) for part, shared in parts for _, same in itertools.groupby(sorted(part, key=len), key=len)
    ]


def _alike(batch: Sequence[TokenExample]) -> list[tuple[list[TokenExample], int]]:
    """Groups of examples that share a beginning, and its length, chosen to save most tokens.

    All other examples form one group that shares nothing.
    """
    ordered = sorted(batch, key=lambda example: example.input_ids_T)
    common = [shared_tokens(pair) for pair in itertools.pairwise(ordered)]
    price = WORTH_SHARING * sum(map(len, batch))
    # Entry i is for the first i examples: the best saving, where their last group begins, and what that group shares.
    best: list[tuple[float, int, int]] = [(0.0, 0, 0)]
    for end in range(1, len(ordered) + 1):
        choices = [(best[end - 1][0], end - 1, 0)]
        shared = max(common, default=0)
        for start in range(end - 2, -1, -1):
            shared = min(shared, common[start])
            if shared * (end - 1) <= price:  # a longer group cannot be worth it either
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
    """Length of the beginning that all examples have in common, before their learned tokens."""
    beginnings = [_unlearned(example) for example in examples]
    # A beginning common to the first and the last in order is common to all between them.
    ends = zip(min(beginnings), max(beginnings), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))


def _unlearned(example: TokenExample) -> tuple[int, ...]:
    """The tokens that no learned token follows directly: a prompt without its last token."""
    first = example.loss_mask_T.index(True) if True in example.loss_mask_T else len(example)
    return example.input_ids_T[: max(0, first - 1)]


def collate(
    examples: Sequence[TokenExample], shared: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Examples as tensors, without their shared beginning.

    Returns:
        `input_ids_BT`, padded on the right, where a causal model's earlier positions do not see the padding;
        `places_N`, the positions before learned tokens, counted row after row; `targets_N`, the learned tokens.
    """
    width = max(map(len, examples)) - shared
    input_ids_BT = np.zeros((len(examples), width), np.int64)
    learned_BT = np.zeros((len(examples), width), bool)
    for row, example in enumerate(examples):
        input_ids_BT[row, : len(example) - shared] = example.input_ids_T[shared:]
        learned_BT[row, : len(example) - shared] = example.loss_mask_T[shared:]
    learned_BT[:, 0] = False  # no token stands before it
    targets_N = np.flatnonzero(learned_BT)
    arrays = input_ids_BT, targets_N - 1, input_ids_BT.flat[targets_N]
    input_ids, places, targets = (torch.from_numpy(array).to(device) for array in arrays)
    return input_ids, places, targets


def log_probabilities(network: Any, examples: Sequence[TokenExample], shared: int = 0) -> list[torch.Tensor]:
    """Log-probabilities of each example's learned tokens, in float32.

    Args:
        network: A causal language model.
        examples: Examples that go through the network side by side.
        shared: Number of first tokens that all examples share. They are read once, with the same dropout for all.
    """
    input_ids_BT, places_N, targets_N = collate(examples, shared, network.device)
    past = past_of(network, examples[0].input_ids_T[:shared], len(examples)) if shared else {"use_cache": False}
    with output_at(network, places_N):
        logits_NV = network(input_ids=input_ids_BT, **past).logits[0]
    logs_N = -torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return list(logs_N.split([example.learned for example in examples]))


def train(
    network: Any,
    steps: Iterable[Sequence[TokenExample]],
    total_steps: int,
    config: FinetuneConfig,
    progress: Callable[[int, float, float], object] = lambda tokens, loss, learning_rate: None,
    make_optimizer: Callable[[torch.nn.Module, FinetuneConfig, torch.device], Optimizer] | None = None,
    objective: Objective = LIKELIHOOD,
) -> TrainStats:
    """Train with one optimiser step per batch.

    The learning rate rises linearly at first and then falls linearly to zero. Gradients are clipped. The optimiser is
    AdamW by default.

    Raises:
        TrainingDiverged: The loss or its gradient is not finite.
    """
    device = network.device
    # Measured first, while the memory is still free.
    peak = peak_flops_per_second(device, _dtype(config.dtype, device), torch.get_num_threads())
    watch = Watch()
    optimizer = (make_optimizer or adamw)(network, config, device)
    history: list[dict[str, float]] = []
    sequences = tokens = 0
    stopped_at_step = None
    passes = _Passes(network, config, objective)
    with _in_training(network, config, objective):
        if objective.compares:
            steps = list(steps)
            passes.refer(steps)
        for step, batch in enumerate(steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(step, total_steps, config.warmup_steps)
            history.append(passes.backward(batch))
            loss, clipped = history[-1]["loss"], torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            norm = distributed.whole(clipped).item()
            _check_finite(step, loss, norm)
            _step(optimizer)
            optimizer.zero_grad(set_to_none=True)
            batch_tokens = sum(map(len, batch))
            sequences, tokens = sequences + len(batch), tokens + batch_tokens
            progress(batch_tokens, loss, optimizer.param_groups[0]["lr"])
            if device.type == "cpu" and step % STEPS_BETWEEN_GIVING_BACK == 0:
                give_memory_back()
            if _better_have_fallen(history, total_steps, config.most_fall):
                stopped_at_step = step + 1
                logger.warning(
                    "step %d: training ends, because better responses fell by more than finetune.most_fall = %g nats",
                    stopped_at_step, config.most_fall,
                )  # fmt: skip
                break
    tenth = max(1, len(history) // 10)
    first, last = _means(history[:tenth]), _means(history[-tenth:])
    watched = {name: mean for name, mean in last.items() if name != "loss"}
    spent, (cpu_spent, peak) = watch.seconds(), distributed.total([watch.cpu_seconds(), peak])
    return TrainStats(
        len(history), sequences, tokens, 0, first.get("loss", 0.0), last.get("loss", 0.0), spent, cpu_spent, peak,
        **watched, stopped_at_step=stopped_at_step,
    )  # fmt: skip


def _check_finite(step: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingDiverged(
            f"step {step}: expected a finite loss and gradient, got {loss} and {norm}: "
            "lower finetune.learning_rate, or set finetune.dtype = 'float32'"
        )


def _step(optimizer: Optimizer) -> None:
    """Make an optimiser step. The first one allocates two numbers per weight.

    Raises:
        InputError: The memory does not suffice for them.
    """
    try:
        optimizer.step()
    except RuntimeError as error:
        if not OUT_OF_MEMORY.search(str(error)):
            raise
        raise InputError("out of memory for AdamW's state: set finetune.lora_rank = 16 or a smaller model") from None


def _better_have_fallen(history: Sequence[Mapping[str, float]], total_steps: int, most_fall: float) -> bool:
    """Whether better responses lost more than `most_fall` nats, on average over the last tenth of the planned steps."""
    last = history[-max(FEWEST_STEPS_TO_JUDGE, total_steps // 10) :]
    enough = len(last) >= FEWEST_STEPS_TO_JUDGE and len(last) >= total_steps // 10
    return most_fall > 0 and enough and _means(last).get("better_shift", 0.0) < -most_fall


@contextlib.contextmanager
def _in_training(network: Any, config: FinetuneConfig, objective: Objective) -> Iterator[None]:
    """Set up the network for training, and afterwards for sampling again."""
    attention = network.config._attn_implementation
    network.train()
    if config.checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    if objective.compares:
        _without_dropout(network)
    yield
    if config.checkpointing:
        network.activation_checkpointing_disable()
    network.set_attn_implementation(attention)
    network.eval()


def _without_dropout(network: Any) -> None:
    """Switch dropout off, because probabilities are compared. Layers with checkpointing must stay in training mode."""
    network.eval()
    for module in network.modules():
        module.training = isinstance(module, GradientCheckpointingLayer)


class _Passes:
    """Forward and backward passes of a step, in parts that are halved until they fit the memory."""

    def __init__(self, network: Any, config: FinetuneConfig, objective: Objective) -> None:
        self._attention = network.config._attn_implementation
        self._network, self._dtype, self._objective = network, config.dtype, objective
        self._most_tokens, self._batch_tokens = config.micro_batch_tokens or math.inf, config.batch_tokens
        # With checkpointing the network keeps no keys and values. A sharded one needs the same calls in all processes.
        self._may_share = not config.checkpointing and not distributed.is_sharded(network)
        self._alike_tokens = alike_tokens(network)
        if distributed.is_sharded(network):
            reads_padded(network)  # proved here by all processes, and not where one of them first needs it
        self._reference: dict[TokenExample, torch.Tensor] = {}

    def refer(self, steps: Iterable[Sequence[TokenExample]]) -> None:
        """Take the present weights as the reference for these sequences. Each sequence is read once."""
        distinct = dict.fromkeys(example for step in steps for example in self._dealt(step)[0])
        for batch, _ in distributed.even(_filled(distinct, self._batch_tokens), self._network):
            self._reference |= self._fitted(self._read, batch)

    def backward(self, batch: Sequence[TokenExample]) -> dict[str, float]:
        """The objective's means for a step, however it is cut into parts. Leaves the loss's gradient in the weights."""
        own, counts = self._dealt(batch)
        terms = len(batch) // 2 if self._objective.paired else sum(example.learned for example in batch)
        work = self._backward_pairs if self._objective.paired else self._backward
        means = self._fitted(lambda examples: work(examples, terms if counts else math.inf), own)
        return distributed.added(self._network, means)

    def _dealt(self, batch: Sequence[TokenExample]) -> tuple[list[TokenExample], bool]:
        return distributed.dealt(batch, 2 if self._objective.paired else 1)

    def _fitted(self, work: Callable[[Sequence[TokenExample]], T], batch: Sequence[TokenExample]) -> T:
        longest = max(map(len, batch))
        while True:
            try:
                return work(batch)
            except RuntimeError as error:
                if not OUT_OF_MEMORY.search(str(error)):
                    raise
                if distributed.is_sharded(self._network):  # other processes are in the middle of the same pass
                    raise InputError("out of memory: set finetune.micro_batch_tokens, or halve it") from None
                if self._most_tokens < longest:
                    raise InputError(
                        f"out of memory with one example of {longest} tokens: set finetune.checkpointing = true, "
                        "finetune.lora_rank = 16 or fewer prompt.shots"
                    ) from None
            # Not in the `except` block, because there the error would still hold its tensors.
            self._network.zero_grad(set_to_none=True)
            self._most_tokens = min(self._most_tokens, longest * len(batch)) // 2
            logger.warning("out of memory: from now on finetune.micro_batch_tokens = %d", self._most_tokens)

    def _backward(self, batch: Sequence[TokenExample], learned: float) -> dict[str, torch.Tensor]:
        """Means per learned token of the step. The batch is this process's share of the step."""
        means: dict[str, torch.Tensor] = {}
        for (part, shared), counts in self._parts(batch):
            sums, terms = self._sums(part, self._logs(part, shared)), learned if counts else math.inf
            (sums["loss"] / terms).backward()
            means = {name: means.get(name, 0.0) + value.detach() / terms for name, value in sums.items()}
        return means

    def _backward_pairs(self, batch: Sequence[TokenExample], pairs: float) -> dict[str, torch.Tensor]:
        """Means per pair of the step. The two sequences of a pair may be in different parts.

        The slope of the loss in each log-probability depends only on the values of all log-probabilities. So if there
        are several parts, each is read once for its values, and again to send the slopes back.
        """
        parts = self._parts(list(dict.fromkeys(batch)))  # a sequence in several pairs is read once
        with torch.set_grad_enabled(len(parts) == 1):
            read = [self._logs(part, shared) for (part, shared), _ in parts]
        values = {
            example: own.detach().requires_grad_()
            for ((part, _), _), logs in zip(parts, read, strict=True)
            for example, own in zip(part, logs, strict=True)
        }
        means = {name: total / pairs for name, total in self._sums(batch, [values[e] for e in batch]).items()}
        means["loss"].backward()
        for ((part, shared), counts), logs in zip(parts, read, strict=True):
            again = logs if len(parts) == 1 else self._logs(part, shared)
            slopes = [values[example].grad for example in part]
            torch.autograd.backward(again, slopes if counts else [torch.zeros_like(slope) for slope in slopes])
        return {name: mean.detach() for name, mean in means.items()}

    def _parts(self, batch: Sequence[TokenExample]) -> list[tuple[tuple[list[TokenExample], int], bool]]:
        """The parts of a batch, each with whether it counts."""
        alike = max(map(len, batch)) <= self._alike_tokens
        parts = micro_batches(batch, self._most_tokens, self._may_share and alike)
        if any(shared for _, shared in parts) and not can_share(self._network):
            parts = micro_batches(batch, self._most_tokens, False)
        padded = any(len(set(map(len, part))) > 1 for part, _ in parts)
        if padded and not (alike and reads_padded(self._network)):
            parts = of_one_length(parts)
        return distributed.even(parts, self._network)

    def _logs(self, part: Sequence[TokenExample], shared: int) -> list[torch.Tensor]:
        _use_attention(self._network, self._attention, max(map(len, part)), shared)
        with _autocast(self._dtype, self._network.device):
            return log_probabilities(self._network, part, shared)

    def _read(self, batch: Sequence[TokenExample]) -> dict[TokenExample, torch.Tensor]:
        with torch.no_grad():
            parts = [(part, self._logs(part, shared)) for (part, shared), _ in self._parts(batch)]
        return {example: own for part, logs in parts for example, own in zip(part, logs, strict=True)}

    def _sums(self, examples: Sequence[TokenExample], logs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        reference = [self._reference[example] for example in examples] if self._objective.compares else []
        return self._objective.sums(logs, reference, [example.advantage for example in examples])


def _use_attention(network: Any, usual: str, width: int, shared: int) -> None:
    """Use plain attention for short sequences on a CPU, where torch's fused attention has a slow backward pass."""
    short = (width - shared) * width <= EAGER_TOKENS**2
    wanted = "eager" if network.device.type == "cpu" and short else usual
    if network.config._attn_implementation != wanted:
        network.set_attn_implementation(wanted)


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each number over the rows, by name. All rows have the same names."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}


def _schedule(step: int, total_steps: int, warmup_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def adamw(network: torch.nn.Module, config: FinetuneConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW without weight decay for gains and biases."""
    matrices = [p for p in network.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in network.parameters() if p.requires_grad and p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=device.type in ("cpu", "cuda"))


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if is_fast_in_bfloat16(device) else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _autocast(name: str, device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=_dtype(name, device) == torch.bfloat16)


def finetune(
    training: Training,
    folder: Path,
    progress: Callable[[int, float, float], object] = lambda tokens, loss, learning_rate: None,
    plan: Callable[[int], object] = lambda steps: None,
) -> TrainStats:
    """Do a training, and save the new checkpoint as a folder, complete or not at all.

    The processes that torchrun has started beside this one, which wait in `join`, take part.

    Args:
        training: What to do.
        folder: Where the new checkpoint goes.
        progress: Called after each step with its tokens, loss and learning rate.
        plan: Called once with the number of steps. A training that `most_fall` stops makes fewer.

    Raises:
        TrainingDiverged: The loss or its gradient is not finite. Nothing is saved.
        InputError: No example fits the model's context, or the memory does not suffice.
    """
    distributed.tell(training)
    model, stats = _trained(training, progress, plan)
    together = {"processes": distributed.size()} if distributed.size() > 1 else {}
    with folder_atomically(folder) as part:
        model.save(part, {**training.notes, **together, "training": asdict(stats)})
    return stats


def join() -> int:
    """Take part in each training of the leading process, until it has no more. Returns the exit status."""
    for order in distributed.orders():
        with contextlib.suppress(TrainingDiverged):  # raised in all processes alike; the leading one decides
            _trained(order)
        give_memory_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # servers may be started on this GPU before the next training
    return 0


def _trained(
    training: Training,
    progress: Callable[[int, float, float], object] = lambda tokens, loss, learning_rate: None,
    plan: Callable[[int], object] = lambda steps: None,
) -> tuple[LanguageModel, TrainStats]:
    """The trained model and its numbers. If the network was sharded, only the leading process has the weights."""
    start, examples, config, model_config = training.start, training.lessons, training.config, training.model_config
    objective = objective_of(examples, config)
    rng = np.random.default_rng(list(training.seed))
    drawn = int(rng.integers(2**62))
    model, network = _for_training(start, config, model_config, drawn)
    distributed.agree(f"the checkpoint {start}", model.checkpoint)
    tokenized = [tokenize_lesson(model.tokenizer, example) for example in examples]
    model.check_embedded(sequence.input_ids_T for example in tokenized for sequence in _sequences(example))
    if not distributed.rank():
        log_tokens(model.tokenizer, examples, tokenized)
    fitting = [example for example in tokenized if len(example) <= model.context_tokens]
    if examples and not fitting:
        raise InputError(f"none of {len(tokenized)} examples fits the model's context of {model.context_tokens} tokens")
    batch_tokens = config.batch_tokens // (2 if objective.paired else 1)
    per_epoch = len(batches(fitting, batch_tokens, np.random.default_rng(0)))
    total_steps = min(config.max_steps, math.ceil(per_epoch * config.epochs))
    plan(total_steps)
    steps = _epochs(fitting, batch_tokens, total_steps, rng)
    if _shards(config):
        distributed.shard(network, device_of(model_config.device).type)
    if distributed.rank():
        torch.manual_seed(drawn + distributed.rank())  # each process has its own dropout
    with distributed.told_if_lost():
        stats = train(network, steps, total_steps, config, progress, objective=objective)
        if _shards(config):
            sharded, leads = network, distributed.rank() == 0
            if leads:
                model, network = _for_training(start, config, replace(model_config, device="cpu"), drawn)
            distributed.gather(sharded, network if leads else None)
    if config.lora_rank and distributed.rank() == 0:
        model.network = network.merge_and_unload()
    return model, replace(stats, skipped=len(tokenized) - len(fitting))


def _for_training(
    start: str | Path, config: FinetuneConfig, model_config: ModelConfig, seed: int
) -> tuple[LanguageModel, Any]:
    """A checkpoint in float32, and the network to train: with adapters if `lora_rank` is above 0."""
    distributed.require_device(model_config.device)
    threads = model_config.threads
    if distributed.local_size() > 1:
        threads = max(1, (threads or available_cores()) // distributed.local_size())
    device = "cpu" if _shards(config) else model_config.device  # a single device may have no room for all weights
    model = LanguageModel(start, ModelConfig(path=str(start), device=device, dtype="float32", threads=threads))
    torch.manual_seed(seed)
    return model, _with_adapters(model.network, config) if config.lora_rank else model.network


def _shards(config: FinetuneConfig) -> bool:
    """Whether training spreads the weights over the processes.

    Raises:
        InputError: There is only one process.
    """
    if config.shard == "full" and distributed.size() == 1:
        raise InputError(
            "finetune.shard: 'full' spreads the weights over processes, but there is only one: begin the run with "
            "`torchrun --nproc-per-node N -m selfplay run …`, or set it to 'none'"
        )
    return config.shard == "full"


def objective_of(examples: Sequence[Lesson], config: FinetuneConfig) -> Objective:
    """The objective that belongs to the kind of the lessons.

    Raises:
        ValueError: The lessons are of several kinds.
    """
    kinds = {type(example) for example in examples}
    if len(kinds) > 1:
        raise ValueError(f"expected examples of one kind, got {', '.join(sorted(kind.__name__ for kind in kinds))}")
    if Contrast in kinds:
        return Preference(config.beta[0])
    return PolicyGradient(config.clip_ratio) if Graded in kinds else LIKELIHOOD


def require_peft() -> None:
    """Check that LoRA's package is installed: at the start, not after an iteration.

    Raises:
        InputError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError("finetune.lora_rank: peft is not installed: pip install '.[lora]'")


def _with_adapters(network: Any, config: FinetuneConfig) -> Any:
    """The network with low-rank adapters on all linear layers but the output (Hu et al., 2021, arXiv:2106.09685).

    Only the adapters learn.
    """
    require_peft()
    import peft

    kinds = {type(module).__name__ for module in network.modules()}
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear",
        fan_in_fan_out="Conv1D" in kinds,  # GPT-2's layers are transposed
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a name of transformers that is deprecated
        return peft.get_peft_model(network, settings)


def _epochs(
    examples: Sequence[TokenExample | TokenContrast], batch_tokens: int, total_steps: int, rng: np.random.Generator
) -> Iterator[list[TokenExample]]:
    """The batches of all steps. In a contrast the better sequence comes before the worse."""
    step = 0
    while step < total_steps:
        for batch in batches(examples, batch_tokens, rng):
            if step == total_steps:
                return
            yield list(itertools.chain.from_iterable(map(_sequences, batch)))
            step += 1


def _sequences(example: TokenExample | TokenContrast) -> tuple[TokenExample, ...]:
    return (example.better, example.worse) if isinstance(example, TokenContrast) else (example,)


WEIGHTS_GRADIENTS_MOMENTS = 4
"""Numbers per learning weight in AdamW: the weight, its gradient and two moments."""


class TransformersBackend:
    """The loop's `Backend`, implemented with transformers and torch."""

    def load(self, checkpoint: str | Path, config: ModelConfig) -> LanguageModel:
        """The sampler of a checkpoint."""
        return LanguageModel(checkpoint, config)

    def needs(self, sampler: Any, config: FinetuneConfig) -> TrainingNeeds:
        """Least memory of a training of this model in float32: AdamW's numbers; with adapters only the weights."""
        weights_bytes = 4 * sampler.parameters
        copies = 1 if config.lora_rank else WEIGHTS_GRADIENTS_MOMENTS
        processes = distributed.size() if _shards(config) else 1
        free_bytes = sampler.free_bytes + sampler.own_bytes
        remedy = "use a smaller model" + ("" if config.lora_rank else ", or finetune.lora_rank = 16")
        return TrainingNeeds(copies * weights_bytes // processes, free_bytes, weights_bytes, remedy)

    finetune = staticmethod(finetune)
