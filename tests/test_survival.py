"""Chapter 3: survival probabilities and gates."""

import pytest
import torch

from sto_lite.survival import linear_decay, sample, uniform


def test_linear_decay_by_hand():
    # L = 5, p_L = 0.5: p_l = 1 - l/10, so the first block already has 0.9 (timm's rule would give it 1)
    assert linear_decay(5).tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5], abs=1e-15)
    assert linear_decay(1, 0.25).tolist() == [0.25]
    assert linear_decay(3, 1.0).tolist() == [1.0, 1.0, 1.0]


def test_uniform():
    assert uniform(4, 0.8).tolist() == [0.8] * 4


@pytest.mark.parametrize("p_last", [-0.1, 1.1])
def test_probabilities_are_checked(p_last):
    for schedule in (linear_decay, uniform):
        with pytest.raises(ValueError, match="probability"):
            schedule(3, p_last)
        with pytest.raises(ValueError, match="at least one block"):
            schedule(0)


def test_gates_are_bernoulli_and_independent():
    p, generator = linear_decay(15), torch.Generator().manual_seed(0)
    gates = torch.stack([sample(p, generator) for _ in range(20_000)])
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    standard_error = (p * (1 - p) / len(gates)).sqrt()
    assert ((gates.mean(0) - p).abs() < 4.5 * standard_error).all()
    correlation = torch.corrcoef(gates.T) - torch.eye(15, dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / len(gates) ** 0.5
