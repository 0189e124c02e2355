"""Survival probabilities and gates: which residual blocks a student keeps (chapter 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_decay(num_blocks: int, p_last: float = 0.5) -> Tensor:
    """Survival probabilities that fall linearly from the first block to the last.

    p_l = 1 - (l / L) (1 - p_L) for l = 1 … L, the rule of Huang et al. (2016) that the paper follows.
    Note that the first block has p_1 = 1 - (1 - p_L) / L < 1: it can be dropped too.

    Args:
        num_blocks: L, the number of residual blocks; at least 1.
        p_last: p_L, the survival probability of the last block, in [0, 1]. The paper's value is 0.5.

    Returns:
        (L,) float64 tensor on the CPU.

    Raises:
        ValueError: num_blocks < 1, or p_last outside [0, 1].
    """
    if num_blocks < 1:
        raise ValueError(f"a network needs at least one block, not {num_blocks}")
    _check_probability("p_last", p_last)
    depth = torch.arange(1, num_blocks + 1, dtype=torch.float64) / num_blocks
    return 1 - depth * (1 - p_last)


def uniform(num_blocks: int, p_last: float = 0.5) -> Tensor:
    """The same survival probability for every block, Huang et al.'s other schedule; shapes as linear_decay."""
    if num_blocks < 1:
        raise ValueError(f"a network needs at least one block, not {num_blocks}")
    _check_probability("p_last", p_last)
    return torch.full((num_blocks,), p_last, dtype=torch.float64)


SCHEDULES = {"linear": linear_decay, "uniform": uniform}


def sample(p: Tensor | Sequence[float], generator: torch.Generator) -> Tensor:
    """Draw one sub-network: gates b_l ~ Bernoulli(p_l), independent over blocks (Eq. 4).

    One draw serves a whole mini-batch: a dropped block is then really skipped, not multiplied by zero.

    Args:
        p: (L,) survival probabilities.
        generator: the source of randomness, on the CPU.

    Returns:
        (L,) float64 tensor of zeros and ones on the CPU.
    """
    return torch.bernoulli(torch.as_tensor(p, dtype=torch.float64), generator=generator)


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability, so it lies in [0, 1]; {value} does not")
