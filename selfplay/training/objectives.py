"""The losses of training, as functions of the log-probabilities of learned tokens.

`sft` makes examples likely. `spin` and `dpo` raise the better of two responses relative to the worse; they differ only
in where the pairs come from. `grpo` makes texts likelier that did better than their group, and texts less likely that
did worse. All but `sft` compare with the reference: the weights that the training starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Logs = Sequence[torch.Tensor]
"""For each sequence, the log-probability of every learned token given all tokens before it."""


class Objective(Protocol):
    """A loss that is a mean over tokens, or over pairs of sequences."""

    @property
    def paired(self) -> bool:
        """Whether sequences come in pairs, the better before the worse. A term of the loss then belongs to a pair."""

    @property
    def compares(self) -> bool:
        """Whether it needs the reference."""

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """The `loss`, and other numbers to watch by their names, each summed over the tokens or over the pairs.

        Args:
            logs: Log-probabilities, with gradients.
            reference: Log-probabilities of the reference; empty unless `compares`.
            advantages: One advantage per sequence.
        """


@dataclass(frozen=True)
class Likelihood:
    """`sft`: the loss is `-log p(token)` per token."""

    paired = False
    compares = False

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """The negative log-likelihood."""
        return {"loss": -torch.cat(list(logs)).sum()}


@dataclass(frozen=True)
class Preference:
    """`spin`, `dpo`: the loss has one term per pair. A response counts as a whole, whatever its length."""

    beta: float
    paired = True
    compares = True

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """Sums: `loss`; `preferred` (pairs whose better response gained more); `better_shift` (its gain in nats)."""
        gains_S = torch.stack([own.sum() for own in logs]) - torch.stack([before.sum() for before in reference])
        better_P, worse_P = gains_S[0::2], gains_S[1::2]
        return {
            "loss": preference_loss(better_P, worse_P, self.beta).sum(),
            "preferred": (better_P > worse_P).sum(),
            "better_shift": better_P.sum(),
        }


@dataclass(frozen=True)
class PolicyGradient:
    """`grpo`: the loss has one term per token, so a long response weighs more than a short one.

    The mean is over all tokens of a step (DAPO, arXiv:2503.14476). A response is not divided by its own length, because
    that would teach wrong answers to be long (Dr. GRPO, arXiv:2503.20783).
    """

    clip_ratio: float
    paired = False
    compares = True

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """Sums: `loss`; `ratio`; `clipped` (tokens that clipping leaves alone)."""
        logs_N, reference_N = torch.cat(list(logs)), torch.cat(list(reference))
        lengths_S = torch.tensor([len(own) for own in logs], device=logs_N.device)
        advantages_N = logs_N.new_tensor(advantages).repeat_interleave(lengths_S)
        ratio_N = (logs_N - reference_N).exp()
        return {
            "loss": clipped_loss(ratio_N, advantages_N, self.clip_ratio).sum(),
            "ratio": ratio_N.sum(),
            "clipped": ((ratio_N - 1) * advantages_N.sign() > self.clip_ratio).sum(),
        }


def preference_loss(better_P: torch.Tensor, worse_P: torch.Tensor, beta: float) -> torch.Tensor:
    """Loss per pair, `-log sigmoid(beta * (better - worse))`: DPO's (arXiv:2305.18290, equation 7) and SPIN's
    (arXiv:2401.01335, equation 4.7, with the logistic loss).

    Args:
        better_P: Gains of the better responses on the reference: `log p(y|x) - log p_ref(y|x)`, where `log p(y|x)` is
            the sum over the response's tokens, not their mean.
        worse_P: Gains of the worse responses.
        beta: How soon a difference is large enough: the slope at a difference of 0 is `beta / 2`.
    """  # fmt: skip
    return -torch.nn.functional.logsigmoid(beta * (better_P - worse_P))


def clipped_loss(ratio_N: torch.Tensor, advantages_N: torch.Tensor, clip_ratio: float) -> torch.Tensor:
    """Loss per token, `-min(r A, clip(r, 1 - clip_ratio, 1 + clip_ratio) A)`: PPO's (arXiv:1707.06347, equation 7),
    with the advantage A of the whole response, as in GRPO (arXiv:2402.03300, equation 3) without its KL term.

    Args:
        ratio_N: `r = p(token) / p_ref(token)`.
        advantages_N: Advantages, above 0 for tokens that shall become likelier.
        clip_ratio: A token that has moved by this share in its advantage's direction is left alone.
    """  # fmt: skip
    clipped_N = ratio_N.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
