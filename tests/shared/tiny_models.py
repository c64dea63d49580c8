"""Tiny language models with random weights and a tokenizer of their own, for the tests of everything around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CORPUS = [
    "def f(x: int, k=19):\n    return x * x % k == 5 and x > k\n\ndef g(k=19):\n    return k + 9\n",
    "def f(s: str):\n    return s.count('a') == 4 and len(s) == 9\n\ndef g():\n    return 'a' * 4 + 'b' * 5\n",
    "def f(nums: List[int], n=3):\n    return sum(nums) == n and len(nums) > 2\n\ndef g(n=3):\n    return [1] * n\n",
    "def f(x: float):\n    for i in range(9):\n        x = x / 2\n    return x == 1\n\n\ndef g():\n    return 512.0\n",
]
END, PAD, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPES = ("llama", "gpt_neox", "qwen2", "gpt2")
CONTEXT = 512


def make_tokenizer(shape: str) -> Any:
    """A byte-level BPE; each shape has its own idea of padding and special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[END, PAD, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    more = {
        "llama": {"pad_token": END},
        "gpt_neox": {"pad_token": PAD},
        "qwen2": {"pad_token": PAD, "additional_special_tokens": [USER, ASSISTANT], "chat_template": TEMPLATE},
        "gpt2": {},
    }[shape]
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, model_max_length=CONTEXT, **more)


def make_network(shape: str, vocabulary: int, end: int, seed: int = 0) -> Any:
    """A few thousand random weights, large enough that what comes next depends on what came before."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"eos_token_id": end, "bos_token_id": None, "pad_token_id": end, "max_position_embeddings": CONTEXT}
    large = {"initializer_range": 0.5}
    config = {
        "llama": lambda: LlamaConfig(
            vocab_size=vocabulary, **size, num_key_value_heads=2, tie_word_embeddings=True, **ends, **large
        ),
        # The table of embeddings is longer than the tokenizer, as it often is.
        "gpt_neox": lambda: GPTNeoXConfig(vocab_size=vocabulary + 6, **size, **ends, **large),
        "qwen2": lambda: Qwen2Config(vocab_size=vocabulary + 6, **size, num_key_value_heads=1, **ends, **large),
        "gpt2": lambda: GPT2Config(
            vocab_size=vocabulary,
            n_positions=CONTEXT,
            n_embd=16,
            n_layer=2,
            n_head=2,
            eos_token_id=end,
            bos_token_id=None,
            **large,
        ),
    }[shape]()
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def make_model(shape: str, folder: Path) -> Path:
    """A folder with a model of a shape."""
    from transformers import AutoTokenizer

    from selfplay.sampling.model import save

    tokenizer = make_tokenizer(shape)
    network = make_network(shape, len(tokenizer), tokenizer.eos_token_id)
    folder.mkdir()
    save(network, tokenizer, folder, {"protocol": "chat" if shape == "qwen2" else "plain"})
    # Qwen's class has its own way of splitting words; as it writes itself, it is read again.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder
