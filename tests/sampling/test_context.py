"""How long a text a model can read, whatever its configuration calls it."""

from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from puzzles.puzzle import InputError
from selfplay.sampling.context import UNLIMITED, alike_tokens, context_tokens, has_window


def network(kind="llama", **settings):
    return SimpleNamespace(config=AutoConfig.for_model(kind, **settings))


def tokens(made, limit=10**30):
    return context_tokens(made, SimpleNamespace(model_max_length=limit), "here")


TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99}


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("llama", {"max_position_embeddings": 77}, 77),
        ("gpt2", {"n_positions": 77}, 77),
        ("openai-gpt", {"n_positions": 77}, 77),
        ("gptj", {"n_positions": 77}, 77),
        ("mpt", {"max_seq_len": 77}, 77),
        ("rwkv", {"context_length": 77}, 77),
        ("opt", {"max_position_embeddings": 77}, 77),
        ("ctrl", {"n_positions": 77}, 77),
        ("bloom", {"seq_length": 77}, 77),
        ("bloom", {}, UNLIMITED),
        ("mamba", {}, UNLIMITED),
        ("llama", {"max_position_embeddings": 500, "seq_length": 77}, 77),
        ("llama", {"max_position_embeddings": 77, "n_ctx": None, "seq_length": -1}, 77),
        ("gemma3", {"text_config": {**TEXT, "max_position_embeddings": 77}}, 77),
        ("qwen2_vl", {"text_config": {**TEXT, "max_position_embeddings": 77}}, 77),
        ("llava", {"text_config": {"model_type": "llama", **TEXT, "max_position_embeddings": 77}}, 77),
    ],
)
def test_the_context_is_found_under_every_name(kind, settings, expected):
    assert tokens(network(kind, **settings)) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(64, 64), (64.9, 64), (500, 77), (10**30, 77), (float("inf"), 77), (None, 77), (0, 77), (-5, 77), (True, 77)],
)
def test_a_tokenizers_limit_counts_if_it_is_the_smaller_one(limit, expected):
    assert tokens(network(max_position_embeddings=77), limit) == expected


@pytest.mark.parametrize("wrong", [0, -7, 1.5, "77", [77], True])
@pytest.mark.parametrize("name", ["max_position_embeddings", "max_seq_len"])
def test_a_context_that_is_no_number_of_tokens_is_one_line(name, wrong):
    made = network()
    vars(made.config)[name] = wrong  # some of these the library refuses itself, in another way in each version
    with pytest.raises(InputError, match=f"here: config.json: expected an integer above 0 under '{name}'"):
        tokens(made)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 77),
        ({"rope_type": "dynamic", "factor": 4.0}, 77),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 77}, 308),
        ({"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 77}, 77),
        ({"rope_type": "yarn", "factor": float("inf"), "original_max_position_embeddings": 77}, 77),
    ],
)
def test_yarn_stretches_the_context_and_nothing_else_does(rope, expected):
    made = network(max_position_embeddings=77)
    made.config.rope_parameters = rope
    assert tokens(made) == expected


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "dynamic", "factor": 4.0}, 77),
        ({"rope_type": "longrope", "original_max_position_embeddings": 30}, 30),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 30}, UNLIMITED),
        ({"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 30}}, 30),
        (None, UNLIMITED),
    ],
)
def test_angles_that_depend_on_the_length_are_known(rope, expected):
    made = network(max_position_embeddings=77)
    made.config.rope_parameters = rope
    assert alike_tokens(made) == expected


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("llama", {}, False),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 5}, False),
        ("mistral", {"sliding_window": None}, False),
        ("mistral", {"sliding_window": 5}, True),
        ("gemma2", {}, True),
        ("gpt_neo", {}, True),
        ("recurrent_gemma", {}, True),
        ("llama4_text", {"attention_chunk_size": 16}, True),
        ("gemma3", {"text_config": {**TEXT, "sliding_window": 8}}, True),
    ],
)
def test_a_window_is_found_under_every_name(kind, settings, expected):
    assert has_window(network(kind, **settings)) is expected
