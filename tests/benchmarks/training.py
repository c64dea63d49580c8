"""How fast fine-tuning is, side by side in one run on the same examples.

    python tests/benchmarks/training.py [--quick] [--threads 1] [--repeats 5] [--model embedded]

Pairs by rule, shown as self-play shows them and tokenised beforehand; every way sees each example once, and is
timed from its third step on, so that nobody pays for a start; with AdamW (fused), the same rates, clipping,
bfloat16 autocast where this project would choose it, and steps of like size:

ours            `selfplay.training.finetune.train`: batches by length to at most BATCH_TOKENS with padding
unshared        the same, but a beginning that examples share is read for each of them
trainer         transformers' Trainer as most use it: padded batches in random order
trainer, length the same with train_sampling_strategy="group_by_length"
trainer, eager  the same by length and with plain attention, which is faster on a CPU but not its default
trl, packed     TRL's SFTTrainer, packing=True (best fit, no padding), rows of PACK_TOKENS, loss on completions
trl, eager      the same with plain attention

Ways follow each other in every repeat, from the same weights. Tokens are the examples' own, without
padding. `ours to it` is the median over repeats of our tokens per CPU second to the way's.
"""

import argparse
import contextlib
import copy
import io
import os
import statistics
import tempfile
import time
from unittest import mock

import numpy as np
import torch
import transformers

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.rules import families
from puzzles.verify import truth_pool
from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import PromptFormat
from selfplay.sampling.shots import solver_shots
from selfplay.training import finetune
from selfplay.training.select import examples

BATCH_TOKENS = 4096
PACK_TOKENS = 512
SHOTS = 5
CONFIG = FinetuneConfig(learning_rate=5e-4, batch_tokens=BATCH_TOKENS, warmup_steps=2)


def tokenized(tokenizer, protocol, roles, count):
    """That many pairs' examples."""
    raws = list(families.generate(3, count))
    with truth_pool() as pool:
        puzzles = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws])
        candidates = parse_candidates(pool, [Text(raw.solution) for raw in raws])
    pairs = list(zip(puzzles, candidates, strict=True))
    shots = solver_shots(pairs, SHOTS) if protocol == "few-shot" else []
    chosen, _ = examples(pairs, roles, PromptFormat(protocol), shots, len(shots), np.random.default_rng(0))
    return [finetune.tokenize(tokenizer, example) for example in chosen]


class Clock(transformers.TrainerCallback):
    """Time since the third step began, which is long after the start."""

    def __init__(self):
        self.steps = 0

    def on_step_begin(self, *_, **__):
        """Called by the library, and by `ours`."""
        self.steps += 1
        if self.steps == 3:
            self.finished()
            self.cpu, self.wall = time.process_time(), time.monotonic()

    def finished(self):
        """Wait for the device, which may still be at work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def speeds(self, tokens):
        """Tokens per CPU second of all threads, and per second; the first two steps have their share of them."""
        tokens *= (self.steps - 2) / self.steps
        self.finished()
        return tokens / (time.process_time() - self.cpu), tokens / (time.monotonic() - self.wall)


# ---- the ways: each trains ----


def ours(network, _, work, clock):
    """This project's loop."""
    steps = finetune.batches(work, BATCH_TOKENS, np.random.default_rng(0))

    def seen():
        for step in steps:
            clock.on_step_begin()
            yield step

    finetune.train(network, seen(), len(steps), CONFIG)


def unshared(network, tokenizer, work, clock):
    """This project's loop, every prompt read in full."""
    with mock.patch.object(finetune, "can_share", return_value=False):
        ours(network, tokenizer, work, clock)


def trainer(network, tokenizer, work, clock, strategy="random", attention="sdpa"):
    """transformers' Trainer."""
    network.set_attn_implementation(attention)
    rows = [
        {
            "input_ids": list(example.input_ids_T),
            "attention_mask": [1] * len(example.input_ids_T),
            "labels": np.where(example.loss_mask_T, example.input_ids_T, -100).tolist(),
        }
        for example in work
    ]
    mean = sum(len(example.input_ids_T) for example in work) / len(work)
    settings = transformers.TrainingArguments(
        train_sampling_strategy=strategy,
        per_device_train_batch_size=round(BATCH_TOKENS / mean),
        **common(network.device),
    )
    collator = transformers.DataCollatorForSeq2Seq(tokenizer)
    transformers.Trainer(network, settings, collator, rows, callbacks=[clock]).train()


def by_length(network, tokenizer, work, clock):
    """The same, batches by length."""
    trainer(network, tokenizer, work, clock, "group_by_length")


def by_length_eager(network, tokenizer, work, clock):
    """The same, with plain attention."""
    trainer(network, tokenizer, work, clock, "group_by_length", "eager")


def trl_packed(network, tokenizer, work, clock, attention="sdpa"):
    """TRL's packed supervised fine-tuning."""
    import datasets
    import trl

    network.set_attn_implementation(attention)
    rows = {
        "input_ids": [list(example.input_ids_T) for example in work],
        "completion_mask": [list(map(int, example.loss_mask_T)) for example in work],
    }
    settings = trl.SFTConfig(
        packing=True, max_length=PACK_TOKENS, completion_only_loss=True, gradient_checkpointing=False,
        per_device_train_batch_size=1, gradient_accumulation_steps=BATCH_TOKENS // PACK_TOKENS,
        **common(network.device),
    )  # fmt: skip
    dataset = datasets.Dataset.from_dict(rows)
    trl.SFTTrainer(network, settings, None, dataset, processing_class=tokenizer, callbacks=[clock]).train()


def trl_eager(network, tokenizer, work, clock):
    """The same, with plain attention."""
    trl_packed(network, tokenizer, work, clock, "eager")


def common(device):
    """What all peers are told."""
    half = finetune._autocast("auto", device)._enabled
    return {
        "output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "learning_rate": CONFIG.learning_rate,
        "lr_scheduler_type": "linear", "warmup_steps": CONFIG.warmup_steps, "weight_decay": CONFIG.weight_decay,
        "adam_beta2": 0.95, "max_grad_norm": CONFIG.clip_norm, "optim": "adamw_torch_fused", "bf16": half,
        "use_cpu": device.type == "cpu", "save_strategy": "no", "logging_strategy": "no", "report_to": [],
        "disable_tqdm": True, "remove_unused_columns": False,
    }  # fmt: skip


WAYS = {
    "ours": ours,
    "unshared": unshared,
    "trainer": trainer,
    "trainer, length": by_length,
    "trainer, eager": by_length_eager,
    "trl, packed": trl_packed,
    "trl, eager": trl_eager,
}


# ---- the table ----


def measured(way, model, work):
    """Real tokens per CPU second of all threads, and per second."""
    network = copy.deepcopy(model.network)
    network.train()
    transformers.set_seed(0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        clock = Clock()
        way(network, model.tokenizer, work, clock)
        return clock.speeds(sum(len(example.input_ids_T) for example in work))


def compare(title, work, model, ways, repeats):
    """One table for one kind of work."""
    lengths = sorted(len(example.input_ids_T) for example in work)
    learned = sum(map(sum, (example.loss_mask_T for example in work)))
    print(
        f"\n{title}: {len(work)} examples of {lengths[0]} to {lengths[-1]} tokens (median "
        f"{lengths[len(work) // 2]}), {sum(lengths)} tokens, {learned} learned\n"
    )
    speeds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            speeds[name].append(measured(way, model, work))
    print("| way | tokens per CPU s | tokens/s | ours to it | of repeats |")
    print("| --- | ---: | ---: | ---: | --- |")
    for name, figures in speeds.items():
        ratios = [first[0] / other[0] for first, other in zip(speeds["ours"], figures, strict=True)]
        cpu, wall = (statistics.median(column) for column in zip(*figures, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {name} | {cpu:,.0f} | {wall:,.0f} | {statistics.median(ratios):.2f} | {spread} |", flush=True)


def main():
    """Print one table per kind of work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="less work, once: whether it runs, not how fast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    model = LanguageModel(options.model, ModelConfig(device="cpu", dtype="float32", threads=options.threads))
    ways = WAYS
    repeats, share = (1, 2) if options.quick else (options.repeats, 1)
    try:
        import trl  # noqa: F401  # only whether it is there
    except ImportError:
        print("trl is not installed: no rows for it (pip install trl)")
        ways = {name: way for name, way in ways.items() if not name.startswith("trl")}
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, threads {options.threads}, "
        f"load {os.getloadavg()[0]:.1f}, {sum(p.numel() for p in model.network.parameters()) / 1e6:.1f} M parameters, "
        f"bfloat16 {common(model.device)['bf16']}, {repeats} repeats"
    )
    both = ("propose", "solve")
    for title, protocol, roles, count in (
        ("plain, both roles", "plain", both, 1000),
        ("few-shot, both roles", "few-shot", both, 60),
        ("few-shot, solutions only", "few-shot", ("solve",), 100),
    ):
        compare(title, tokenized(model.tokenizer, protocol, roles, count // share), model, ways, repeats)


if __name__ == "__main__":
    main()
