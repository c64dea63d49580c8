"""What a training lowers, as functions of the log-probabilities of the tokens that are learned.

`sft` makes examples likely. `spin` and `dpo` let the better of two responses gain on the worse, and
differ only in where the pairs come from. `grpo` makes likely what did better than its group, and
unlikely what did worse. All but the first compare with the reference: the weights that the training
begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Logs = Sequence[torch.Tensor]
"""Of each sequence the log-probabilities of its learned tokens, each token given all that stands before it."""


class Objective(Protocol):
    """A loss that is a mean over tokens, or over pairs of sequences."""

    @property
    def paired(self) -> bool:
        """Whether sequences come in twos, the better before the worse: a term of the loss is then of both."""

    @property
    def compares(self) -> bool:
        """Whether it asks for the reference."""

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """The `loss`, and by other names what is to be watched, each summed over the tokens, or over the pairs.

        Args:
            logs: With gradients.
            reference: The same of the reference; empty unless `compares`.
            advantages: One for each sequence.
        """


@dataclass(frozen=True)
class Likelihood:
    """`sft`: per token `-log p(token)`."""

    paired = False
    compares = False

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """The negative log-likelihood."""
        return {"loss": -torch.cat(list(logs)).sum()}


@dataclass(frozen=True)
class Preference:
    """`spin`, `dpo`: a term is of a pair, and a response counts as a whole, whatever its length."""

    beta: float
    paired = True
    compares = True

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """Watched: `preferred`, pairs whose better response gained more, and `better_shift`, its gain in nats."""
        gains_S = torch.stack([own.sum() for own in logs]) - torch.stack([before.sum() for before in reference])
        better_P, worse_P = gains_S[0::2], gains_S[1::2]
        return {
            "loss": preference_loss(better_P, worse_P, self.beta).sum(),
            "preferred": (better_P > worse_P).sum(),
            "better_shift": better_P.sum(),
        }


@dataclass(frozen=True)
class PolicyGradient:
    """`grpo`: a term is of a token, so that a long response weighs more than a short one, as its tokens are more.

    That is the mean over all tokens of a step (DAPO, arXiv:2503.14476), with no division by a response's own length,
    which would teach that wrong answers be long (Dr. GRPO, arXiv:2503.20783).
    """

    clip_ratio: float
    paired = False
    compares = True

    def sums(self, logs: Logs, reference: Logs, advantages: Sequence[float]) -> dict[str, torch.Tensor]:
        """Watched: `ratio`, and `clipped`, tokens which the clipping keeps from learning."""
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
    """Per pair `-log sigmoid(beta * (better - worse))`, of DPO (arXiv:2305.18290, equation 7) and SPIN
    (arXiv:2401.01335, equation 4.7, with the logistic loss).

    Args:
        better_P: What the responses have gained on the reference: `log p(y|x) - log p_ref(y|x)`, where `log p(y|x)` is
            the sum over the response's tokens, not their mean.
        worse_P: The same.
        beta: How soon a difference is enough: the slope at none is `beta / 2`.
    """  # fmt: skip
    return -torch.nn.functional.logsigmoid(beta * (better_P - worse_P))


def clipped_loss(ratio_N: torch.Tensor, advantages_N: torch.Tensor, clip_ratio: float) -> torch.Tensor:
    """Per token `-min(r A, clip(r, 1 - clip_ratio, 1 + clip_ratio) A)`, of PPO (arXiv:1707.06347, equation 7), with the
    advantage A of the whole response, as in GRPO (arXiv:2402.03300, equation 3) without its KL term.

    Args:
        ratio_N: `r = p(token) / p_ref(token)`.
        advantages_N: Above 0 for what shall become likelier.
        clip_ratio: Once a token has moved by this share in its advantage's direction, it is left alone.
    """  # fmt: skip
    clipped_N = ratio_N.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
