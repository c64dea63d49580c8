"""Shared prompts may add no more error than the number format does, and planted faults are seen in every format."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from selfplay.sampling import decode

FORMATS = [torch.float32, torch.bfloat16, torch.float16]


def network(layers, dtype, spread=0.02):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=96, intermediate_size=192, num_hidden_layers=layers, num_attention_heads=6,
        num_key_value_heads=2, initializer_range=spread,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("layers", [2, 12, 60])
def test_a_usual_model_agrees_whatever_its_depth_and_number_format(layers, dtype):
    assert decode.agrees(network(layers, dtype, 0.1))


def shifted(monkeypatch):
    plain = decode._Wave.positions
    monkeypatch.setattr(decode._Wave, "positions", lambda wave: plain(wave) + 1)


def unmasked(monkeypatch):
    plain = decode._read

    def read(network, prompts_U):
        prompts = plain(network, prompts_U)
        prompts.mask_US.fill_(1)
        return prompts

    monkeypatch.setattr(decode, "_read", read)


def with_heads_swapped(monkeypatch):
    plain = decode._read

    def read(network, prompts_U):
        prompts = plain(network, prompts_U)
        first_keys, _ = prompts.layers[0]
        first_keys.copy_(first_keys.flip(1).clone())
        return prompts

    monkeypatch.setattr(decode, "_read", read)


@pytest.mark.parametrize("plant", [shifted, unmasked, with_heads_swapped])
@pytest.mark.parametrize("exactly", [True, False], ids=["beside float32", "without room for it"])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_planted_fault_is_seen(monkeypatch, plant, dtype, exactly):
    model = network(4, dtype, 0.3)
    assert decode.agrees(model, exactly)
    plant(monkeypatch)
    assert not decode.agrees(model, exactly)


def test_a_fault_in_the_coarse_format_alone_is_seen(monkeypatch):
    model, plain = network(4, torch.bfloat16, 0.3), decode._next_logits

    def noisy(network, token_B, waves):
        logits_BV = plain(network, token_B, waves)
        return (
            logits_BV if network.dtype == torch.float32 else logits_BV + logits_BV.std() * torch.randn_like(logits_BV)
        )

    monkeypatch.setattr(decode, "_next_logits", noisy)
    assert not decode.agrees(model)
