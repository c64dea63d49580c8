"""Makes the embedded model: a small Llama and its tokenizer, from rule-based pairs only.

Everything follows from `embedded/pretrain.toml` and its seed. The same machine, versions and thread count give the same
weights.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from puzzles.foreign import read_toml, shortened
from puzzles.guard import Guard
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError, Puzzle, content_hash
from puzzles.rules import families
from puzzles.verify import admit, truth_pool, verify_texts
from sandbox.pool import Pool, available_cores
from selfplay.config import ConfigError, FinetuneConfig
from selfplay.run.rundir import folder_atomically
from selfplay.sampling.model import save
from selfplay.settings import build
from selfplay.training.finetune import TokenExample, TrainStats, batches, train

END = "<|end|>"
TOKEN_PATTERN = r"\n *| ?[A-Za-z_]+(?=[^'\n]*(?:'[^'\n]*'[^'\n]*)*$)|[A-Za-z]|\d| ?[^\sA-Za-z0-9_]+| +"
"""Pieces that tokens never cross: a line break with its indentation, a word outside quotes (an even number of quotes
follows it), one letter, one digit, a run of punctuation, a run of blanks. So the model copies, reverses and compares
numbers and quoted words character by character."""
BUCKET_PAIRS = 8192
"""Pairs that are drawn at a time, sorted by length, cut into batches and shuffled."""
COMPILERS = ("g++", "clang++")
CHECKED_PER_FAMILY = 40
CARD = """\
# A small model of programming puzzles

It writes puzzles (a Python function `f` that returns True on a right answer) and solutions (a function `g` whose value
`f` accepts), as a start for self-play. It was made by `selfplay pretrain` from puzzles by rule alone: it has seen no
text that people wrote.

| | |
| --- | --- |
{table}

Intended for research on self-play and for tests. What it writes is untrusted code: run it in a sandbox only.
"""
SELF_PLAY_CPU_SECONDS = 0.25
"""CPU limit of a candidate in the run that the model is made for (`selfplay/embedded/run.toml`)."""
HASHED_PAIRS = 2000
"""Number of first pairs that `rules_hash` covers."""
MOST_GUARDED_COMPOSED, MOST_GUARDED = 2, 1
"""How many of a family's checked pairs may be near a guarded puzzle, for composed puzzles and for single rules. A few
may be: a small set or number is now and then the answer of a held-out puzzle. A family with more imitates a held-out
kind of puzzle. Pairs whose text shows that they are near a guarded puzzle are left out of training."""


@dataclass(frozen=True)
class PretrainConfig:
    """All settings that decide the embedded model's weights."""

    seed: int = 0
    vocabulary: int = 512
    layers: int = 4
    width: int = 192
    heads: int = 6
    feedforward: int = 512
    context_tokens: int = 1024
    tokenizer_pairs: int = 20_000
    steps: int = 2_000
    batch_tokens: int = 8192
    learning_rate: float = 8e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    solve_only: float = 0.75
    """Share of pairs of which only the solution is learned. A composed solution's loss after 220 steps is 10.33 nats
    with it and 10.59 without."""
    compile: bool = False
    """Whether to use `torch.compile`, which needs a C++ compiler. It is 1.38 times as fast on two cores, with other
    rounding."""
    threads: int = 0
    """Number of threads; 0 takes the cores available. The number changes rounding, and so the weights."""
    families: tuple[str, ...] = ()
    """Names of families in `puzzles.rules.families`; empty for all."""


def load_pretrain_config(path: str | Path, overrides: dict[str, Any] | None = None) -> PretrainConfig:
    """Settings from a TOML file.

    Raises:
        InputError: The file cannot be read, or has an unknown key, a wrong type or an unknown family.
    """
    config: PretrainConfig = build(PretrainConfig, {**read_toml(path), **(overrides or {})}, str(path))
    if unknown := set(config.families) - set(families.FAMILIES):
        raise ConfigError(f"{path}: unknown families {shortened(', '.join(sorted(unknown)))}")
    return config


def check_families(config: PretrainConfig, pool: Pool, guard: Guard) -> None:
    """Check that every family makes accepted, admitted pairs, and that hardly any is near a guarded puzzle.

    Raises:
        InputError: A family fails the check, so it must not be trained on.
    """
    rng = np.random.default_rng([config.seed, 1])
    names = list(config.families) or list(families.FAMILIES)
    drawn = [
        (name, next(families.generate(int(rng.integers(2**62)), 1, [name])))
        for name in names
        for _ in range(CHECKED_PER_FAMILY)
    ]
    texts = [(pair.puzzle, pair.solution) for _, pair in drawn]
    puzzles = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in texts])
    guard.examine(pool, [puzzle for puzzle in puzzles if isinstance(puzzle, Puzzle)])
    near: Counter[str] = Counter()
    for (name, pair), puzzle, judgement in zip(drawn, puzzles, verify_texts(pool, texts), strict=True):
        if not isinstance(puzzle, Puzzle) or judgement.verdict != "accepted":
            raise InputError(
                f"family {name}: expected an accepted pair, got {judgement.verdict} {judgement.detail}: {pair.puzzle!r}"
            )
        near[name] += guard.hit(puzzle) is not None
        if near[name] > (MOST_GUARDED_COMPOSED if name in families.COMPOSED else MOST_GUARDED):
            raise InputError(f"family {name} imitates a guarded puzzle: {pair.puzzle!r} is near {guard.hit(puzzle)}")
    refusals = admit(pool, [puzzle for puzzle in puzzles if isinstance(puzzle, Puzzle)])
    for (name, pair), refusal in zip(drawn, refusals, strict=True):
        if refusal is not None:
            raise InputError(f"family {name}: not admitted ({refusal}): {pair.puzzle!r}")


def pair_text(pair: families.RulePair) -> str:
    """A pair as the model reads it: prompt and completion of the plain protocol, joined."""
    return f"{pair.puzzle}\n\n{pair.solution}\n"


def _header(pair: families.RulePair) -> str:
    return pair.solution.partition("\n")[0]


def rules_hash(config: PretrainConfig, guard: Guard) -> str:
    """Hash of the first pairs that the rules make and the guard lets pass.

    If it equals the hash in a model's notes, the model was trained on the pairs that are made today.
    """
    pairs = _unguarded(families.generate(config.seed, HASHED_PAIRS, config.families), guard)
    return content_hash("\n".join(pair_text(pair) for pair in pairs))


def _unguarded(pairs: Iterable[families.RulePair], guard: Guard) -> list[families.RulePair]:
    return [pair for pair in pairs if not any(map(guard.hit_of_rule, {pair.condition, pair.puzzle}))]


def make_tokenizer(config: PretrainConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, made from rule-based pairs. It can encode any text without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TOKEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pairs = families.generate(config.seed, config.tokenizer_pairs, config.families)
    tokenizer.train_from_iterator((pair_text(pair) for pair in pairs), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, padding_side="left",
        model_max_length=config.context_tokens, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def make_network(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights, drawn from the seed."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=config.feedforward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context_tokens,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class MuonAndAdamW:
    """Muon for the matrices inside the network, AdamW for embeddings and gains, at the same learning rate.

    Muon (K. Jordan and others, 2024, kellerjordan.github.io/posts/muon) has its updates scaled to AdamW's
    (arXiv:2502.16982). After 220 steps of 8,192 tokens the loss was 1.11 at a rate of 3e-3, and 1.04 at 8e-3. With
    AdamW alone it was 1.26 at 3e-3.
    """

    def __init__(self, network: torch.nn.Module, config: FinetuneConfig, device: torch.device) -> None:
        inner = [p for name, p in network.named_parameters() if p.dim() == 2 and "embed" not in name]
        rest = [p for name, p in network.named_parameters() if p.dim() != 2 or "embed" in name]
        rate, decay = config.learning_rate, config.weight_decay
        self._both = (
            torch.optim.Muon(inner, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
        )
        self.param_groups = [group for each in self._both for group in each.param_groups]

    def step(self) -> None:
        """Change the weights by their gradients."""
        for each in self._both:
            each.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for each in self._both:
            each.zero_grad(set_to_none)


def training_steps(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, guard: Guard
) -> Iterator[list[TokenExample]]:
    """Endless batches of pairs. Pairs whose text is near a guarded puzzle are left out.

    Every solution is learned; its puzzle is learned too, except for a share `solve_only` of the pairs.
    """
    end = tokenizer.eos_token_id
    for number in range(2**62):
        seed = np.random.SeedSequence([config.seed, 2, number]).generate_state(1, np.uint64)[0]
        pairs = _unguarded(families.generate(int(seed), BUCKET_PAIRS, config.families), guard)
        prompts = [f"{pair.puzzle}\n\n{_header(pair)}" for pair in pairs]
        before = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        whole = tokenizer([pair_text(pair) for pair in pairs], add_special_tokens=False)["input_ids"]
        rng = np.random.default_rng([config.seed, 3, number])
        examples = []
        for ids, prompt, draw in zip(whole, before, rng.random(len(pairs)), strict=True):
            shown = len(prompt) if draw < config.solve_only else 0
            mask = (*[False] * shown, *[True] * (len(ids) + 1 - shown))
            examples.append(TokenExample((*ids, end), mask))
        yield from batches(examples, config.batch_tokens, rng)


def pretrain(
    config: PretrainConfig,
    folder: Path,
    guard_puzzles: Callable[[Pool], Guard],
    progress: Callable[[int, float, float], object] = lambda tokens, loss, learning_rate: None,
) -> TrainStats:
    """Make the model and save it as a Hugging Face folder, in bfloat16.

    Args:
        config: Settings of the model and its training.
        folder: Folder of the model.
        guard_puzzles: Parses the dev and held-out sets, which no family may imitate.
        progress: Called after each step with its tokens, loss and learning rate.

    Raises:
        InputError: A family makes wrong pairs or imitates a guarded puzzle, or there is no compiler.
    """
    if config.compile and not any(map(shutil.which, COMPILERS)):
        raise InputError(
            f"compile = true: found no C++ compiler ({' or '.join(COMPILERS)}): install one, or set compile = false"
        )
    with truth_pool() as pool:
        guard = guard_puzzles(pool)
        check_families(config, pool, guard)
    threads = config.threads or available_cores()
    torch.set_num_threads(threads)
    tokenizer = make_tokenizer(config)
    network = make_network(config, tokenizer)
    settings = FinetuneConfig(
        learning_rate=config.learning_rate, warmup_steps=config.warmup_steps, weight_decay=config.weight_decay
    )
    stream = training_steps(config, tokenizer, guard)
    if config.compile:
        network.model.compile(dynamic=True)
    with _same_every_time():
        steps = (next(stream) for _ in range(config.steps))
        stats = train(network, steps, config.steps, settings, progress, MuonAndAdamW)
    notes = {
        "protocol": "plain",
        "limits": {"cpu_seconds": SELF_PLAY_CPU_SECONDS},
        "made by": "selfplay pretrain",
        "data": f"rule-based pairs of puzzles.rules: {', '.join(config.families) or 'all'}",
        "config": asdict(replace(config, threads=threads)),
        "rules": rules_hash(config, guard),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": asdict(stats),
    }
    with folder_atomically(folder) as part:
        save(network.to(torch.bfloat16), tokenizer, part, notes)
        (part / "README.md").write_text(card(notes), "utf-8")
    return stats


@contextlib.contextmanager
def _same_every_time() -> Iterator[None]:
    """Use deterministic algorithms. Otherwise a compiled network adds embedding gradients in the order of threads."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def card(notes: dict[str, Any]) -> str:
    """A model card, made from the notes beside the weights. `selfplay bench` adds the scores."""
    config, training = notes["config"], notes["training"]
    rows = {
        "parameters": f"{notes['parameters']:,}, kept in bfloat16",
        "shape": f"Llama, {config['layers']} layers, width {config['width']}, {config['heads']} heads, "
        f"{config['context_tokens']:,} tokens of context",
        "tokenizer": f"byte-level BPE of {config['vocabulary']}; numbers and quoted text are single characters",
        "data": f"{notes['data']}; those near a dev or held-out puzzle are left out",
        "training": f"{training['steps']:,} steps, {training['sequences']:,} pairs, {training['tokens']:,} tokens",
        "last loss": f"{training['last_loss']:.3f} per learned token",
        "time": f"{training['seconds'] / 60:.0f} minutes on a CPU, {config['threads']} threads",
        "seed": config["seed"],
        "rules": f"hash `{notes['rules']}` of what is left of the first {HASHED_PAIRS:,} pairs",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return CARD.format(table=table)
