"""Tiny models of kinds that do not do what sampling and training usually assume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SIZE, "intermediate_size": 32}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    # Counts positions from the first token, padding or not.
    "trocr": (
        "trocr",
        {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32,
         "cross_attention_hidden_size": 16},
    ),
    # Keeps a sum of all tokens in its linear attention.
    "minimax": ("minimax", {**WIDE, "num_key_value_heads": 2, "num_local_experts": 2, "block_size": 4}),
    # Has a state and no keys and values.
    "mamba": ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2}),
    # Takes the argument of a cache and ignores it.
    "xlm": ("xlm", {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "causal": True}),
    # Looks ahead too, so it sees padding on the right.
    "bert": ("bert", WIDE),
    # Counts positions by the tokens that are no padding.
    "roberta": ("roberta", {**WIDE, "is_decoder": True}),
    # Has a cache in which there is nothing to repeat.
    "recurrent_gemma": (
        "recurrent_gemma", {**WIDE, "head_dim": 8, "lru_width": 16, "block_types": ["recurrent", "recurrent"]},
    ),
    # Looks back a few tokens in each second layer.
    "gpt_neo": (
        "gpt_neo",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
         "window_size": 8},
    ),
    # Keeps a few last inputs of a convolution, which is no key and no value.
    "conv": ("lfm2", {**WIDE, "num_key_value_heads": 2, "layer_types": ["full_attention", "conv"]}),
}  # fmt: skip


def make_odd(kind: str, folder: Path) -> Path:
    """A folder with a model of a kind, with random weights that make what comes next depend on what came before."""
    import torch
    from tiny_models import make_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    from selfplay.sampling.model import save

    tokenizer = make_tokenizer("gpt_neox")
    name, settings = KINDS[kind]
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **settings, **ends)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_(8)
    folder.mkdir()
    save(network, tokenizer, folder, {"protocol": "plain"})
    return folder
