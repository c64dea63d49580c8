"""Tiny tokenizers that split, join and mark texts as those of six families do, and networks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import CORPUS

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
TURNS = (
    "<bos>{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
FAMILIES = ("llama2", "gpt2", "qwen2", "gpt_neox", "gemma", "ours")
CONTEXT = 256
MORE = ["user\n", "assistant\n", "model\n", "[INST] [/INST]", "x == 'ü' or s == '<|'"]


def tokenizer_of(family: str) -> Any:
    """The tokenizer of a family."""
    return {
        "llama2": _llama2, "gemma": _gemma, "ours": _ours,
        "gpt2": lambda: _byte_level(["<|endoftext|>"], eos_token="<|endoftext|>"),
        "qwen2": _qwen2, "gpt_neox": _gpt_neox,
    }[family]()  # fmt: skip


def _byte_level(specials: list[str], pattern: str | None = None, normalizer: Any = None, **more: Any) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    if normalizer:
        core.normalizer = normalizer
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    core.pre_tokenizer = pre_tokenizers.Sequence([*split, whole])
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([*CORPUS, *MORE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=CONTEXT, **more)


def _qwen2() -> Any:
    from tokenizers import AddedToken, normalizers

    # A line break joins the punctuation before it, so a token may span the border of prompt and completion.
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    template = CHATML + "{% if thinking %}<think>{% endif %}"
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = _byte_level(names, pattern, normalizers.NFC(), chat_template=template, **ends)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return tokenizer


def _gpt_neox() -> Any:
    from tokenizers import AddedToken, normalizers

    tokenizer = _byte_level(["<|endoftext|>", "<|padding|>"], None, normalizers.NFC(), eos_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(" " * width, special=False, normalized=True) for width in (4, 8)])
    return tokenizer


def _ours() -> Any:
    from selfplay.training.pretrain import END, TOKEN_PATTERN

    return _byte_level([END], TOKEN_PATTERN, eos_token=END, pad_token=END)


def _sentencepiece(specials: list[str], normalizer: Any, decoder: Any, framed: str, **more: Any) -> Any:
    """A BPE of words that are marked by the space before them, with a token for each byte that it does not know."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    lines = [line for text in [*CORPUS, *MORE] for line in text.split("\n")]
    words.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    learned = json.loads(words.to_str())["model"]
    names = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {name: number for number, name in enumerate([*names, *learned["vocab"]])}
    merges = [tuple(merge) for merge in learned["merges"]]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer, core.decoder = normalizer, decoder
    core.add_special_tokens(specials)
    begin = framed.split()[0]
    core.post_processor = processors.TemplateProcessing(single=framed, special_tokens=[(begin, vocabulary[begin])])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", model_max_length=CONTEXT, **more)


def _llama2() -> Any:
    from tokenizers import decoders, normalizers

    # It puts a space before every text, and its decoder takes one away.
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    names = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": INST}
    return _sentencepiece(["<unk>", "<s>", "</s>"], normalizer, decoders.Sequence(steps), "<s> $A", **names)


def _gemma() -> Any:
    from tokenizers import decoders, normalizers

    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "chat_template": TURNS}
    return _sentencepiece(specials, normalizers.Replace(" ", "▁"), decoders.Sequence(steps), "<bos> $A", **names)


def network_of(tokenizer: Any, seed: int = 0, spread: float = 0.5) -> Any:
    """A small Llama with random weights for a tokenizer; with a large spread it writes all kinds of tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=spread,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
        )
    )  # fmt: skip


def save_family(tokenizer: Any, folder: Path, network: Any = None) -> Path:
    """A model folder with a tokenizer and a network, by default of random weights."""
    from selfplay.sampling.model import save

    folder.mkdir(parents=True, exist_ok=True)
    save(network or network_of(tokenizer), tokenizer, folder, {"protocol": "plain"})
    return folder
