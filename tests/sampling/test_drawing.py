"""A drawn token is the first one at which the cumulated probabilities exceed the row's random number."""

import numpy as np
import pytest
import torch

from selfplay.sampling.decode import GROUP, draw
from selfplay.sampling.sampler import SamplingSettings


def settings(temperature=0.8, top_p=1.0):
    return SamplingSettings(temperature=temperature, top_p=top_p, max_tokens=1, batch_rows=1)


def cumulated_by_definition(logits_V, temperature, top_p):
    """The cumulated probabilities, with numpy's float64."""
    weight_V = np.exp((logits_V.astype(np.float64) - logits_V.max()) / temperature)
    if top_p < 1:
        order_V = np.argsort(-weight_V, kind="stable")
        held_V = np.cumsum(weight_V[order_V]) / weight_V.sum()
        weight_V[order_V[1 + np.searchsorted(held_V, top_p) :]] = 0
    return np.cumsum(weight_V) / weight_V.sum()


@pytest.mark.parametrize("tokens", [5, GROUP, GROUP + 1, 1500, 20 * GROUP, 50_257])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.8, 1.0), (1e-3, 1.0), (2.0, 0.5), (1.0, 0.9)])
def test_a_token_is_drawn_as_the_definition_says(tokens, temperature, top_p):
    rng = np.random.default_rng(tokens)
    logits_BV, chance_B = rng.normal(0, 3, (64, tokens)).astype(np.float32), rng.random(64)
    drawn_B = draw(torch.from_numpy(logits_BV.copy()), settings(temperature, top_p), torch.from_numpy(chance_B))
    for logits_V, chance, drawn in zip(logits_BV, chance_B, drawn_B.tolist(), strict=True):
        upto_V = np.concatenate([[0.0], cumulated_by_definition(logits_V, temperature, top_p)])
        assert upto_V[drawn] - 1e-6 <= chance <= upto_V[drawn + 1] + 1e-6
        assert upto_V[drawn] < upto_V[drawn + 1]


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-53])
def test_the_first_and_the_last_number_fall_on_tokens_that_can_be_drawn(chance):
    logits_BV = torch.full((2, 3 * GROUP), -torch.inf)
    logits_BV[0, GROUP + 3], logits_BV[0, GROUP + 5] = 0.0, 0.0
    logits_BV[1, 7] = 0.0
    drawn_B = draw(logits_BV, settings(), torch.full((2,), chance, dtype=torch.float64))
    assert drawn_B.tolist() == [GROUP + (5 if chance else 3), 7]


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should():
    """Half of the weight is spread over 100,000 tokens behind one that has the other half."""
    tokens, draws = 100_001, 4096
    logits_BV = torch.zeros(draws, tokens)
    logits_BV[:, 0] = float(np.log(tokens - 1))
    chance_B = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    drawn_B = draw(logits_BV, settings(1.0), chance_B)
    assert int((drawn_B == 0).sum()) == draws // 2
    expected_B = 1 + ((chance_B[draws // 2 :] - 0.5) * 2 * (tokens - 1)).long()
    assert int((drawn_B[draws // 2 :] - expected_B).abs().max()) <= 1


def test_at_temperature_zero_the_likeliest_token_is_taken():
    logits_BV = torch.tensor([[1.0, 3.0, 2.0], [5.0, 3.0, 4.0]])
    assert draw(logits_BV, settings(0.0), torch.tensor([0.9, 0.9], dtype=torch.float64)).tolist() == [1, 0]
