"""Shared prompts may add no more error than the number format does, and planted faults are seen in every format."""

import dataclasses

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

    def read(network, *given):
        prompts = plain(network, *given)
        prompts.mask_US.fill_(1)
        return prompts

    monkeypatch.setattr(decode, "_read", read)


def with_heads_swapped(monkeypatch):
    plain = decode._read

    def read(network, *given):
        prompts = plain(network, *given)
        first_keys, _ = prompts.layers[0]
        first_keys.copy_(first_keys.flip(1).clone())
        return prompts

    monkeypatch.setattr(decode, "_read", read)


# ---- the same behind a beginning that two texts share, where the usual way is sound ----


def with_prompts_shifted(monkeypatch):
    """The prompts are read as if there were nothing before them; their rows are where they should be."""
    plain = decode._read_behind

    def read(network, beginning, *given):
        return plain(network, dataclasses.replace(beginning, tokens=0), *given)

    monkeypatch.setattr(decode, "_read_behind", read)


def with_rows_shifted(monkeypatch):
    plain = decode._Wave.positions
    monkeypatch.setattr(decode._Wave, "positions", lambda wave: plain(wave) - wave._beginning.tokens)


def seeing_what_follows(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "tril", lambda tensor: tensor)


def seeing_padding(monkeypatch):
    plain = decode._Reading.__init__
    monkeypatch.setattr(
        decode._Reading, "__init__", lambda self, beginning, mask_US: plain(self, beginning, torch.ones_like(mask_US))
    )


def with_the_beginnings_heads_swapped(monkeypatch):
    plain = decode._read_beginning

    def read(network, ids_C):
        beginning = plain(network, ids_C)
        for keys, _ in beginning.layers[:1]:
            keys.copy_(keys.flip(1).clone())
        return beginning

    monkeypatch.setattr(decode, "_read_beginning", read)


def with_the_beginning_forgotten(monkeypatch):
    """By the rows, not by the prompts."""
    plain = decode._joined
    monkeypatch.setattr(decode, "_joined", lambda *parts: plain(*parts[:2]))


def with_the_beginning_weighed_wrong(monkeypatch):
    """As if the own tokens and the prompt counted once more together."""
    monkeypatch.setattr(torch, "logaddexp", torch.add)


FAULTS = [shifted, unmasked, with_heads_swapped]
FAULTS_BEHIND_A_BEGINNING = [
    with_prompts_shifted, with_rows_shifted, seeing_what_follows, seeing_padding, with_the_beginnings_heads_swapped,
    with_the_beginning_forgotten, with_the_beginning_weighed_wrong,
]  # fmt: skip


@pytest.mark.parametrize("plant", FAULTS_BEHIND_A_BEGINNING)
@pytest.mark.parametrize(
    ("dtype", "exactly"), [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)], ids=str
)
def test_a_fault_behind_a_shared_beginning_is_seen(monkeypatch, plant, dtype, exactly):
    model = network(2, dtype, 0.3)
    exact = network(2, torch.float32, 0.3) if exactly and dtype != torch.float32 else None
    assert decode.agrees(model, exactly)
    plant(monkeypatch)
    with torch.inference_mode():
        assert decode._agrees(model, exact, 0), "what is not shared is sound"
    assert not decode.agrees(model, exactly)


@pytest.mark.parametrize("plant", FAULTS)
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


@torch.inference_mode()
def test_the_widths_of_own_keys_change_in_every_sixteenth_step_only(monkeypatch):
    """Each new width is compiled anew on a processor with bfloat16."""
    widths, product = [], decode._softmax_product

    def watched(query, keys, values, mask=None, used=None):
        if used is not None:
            widths.append((used, keys.shape[-2]))
            assert not keys[..., used:, :].any()
            assert not values[..., used:, :].any()
        return product(query, keys, values, mask, used)

    monkeypatch.setattr(decode, "_softmax_product", watched)
    model = network(1, torch.float32)
    wave, _ = decode._begin(decode._read(model, [[5, 6, 7]]), [0, 0])
    for step in range(40):
        decode._next_logits(model, torch.tensor([step, step + 1]), [wave])
    assert widths == [(used, -(-used // 16) * 16) for used in range(1, 41)]
