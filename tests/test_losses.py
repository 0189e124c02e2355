"""Chapter 4: Eqs. 1, 2 and 6 to 9, by hand, against float64 and torch, and their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from sto_lite.losses import kd_loss, sto_loss, sto_terms

ln = math.log


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_logits(n=16, classes=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, classes, dtype=torch.float64, generator=g) for _ in range(2))


def test_temperature_by_hand():
    # T = 2 takes logits (2 ln 3, 0) to the same (3/4, 1/4); T² = 4
    loss = kd_loss(logits([0, 0]), logits([2 * ln(3), 0]), temperature=2)
    assert loss.item() == pytest.approx(4 * (0.75 * ln(1.5) + 0.25 * ln(0.5)), abs=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
def test_against_torch(temperature):
    """KL(teacher ‖ student), not the other way round; a sum over classes, a mean over the batch."""
    student, teacher = random_logits()
    softened = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    theirs = temperature**2 * F.kl_div(*softened, reduction="batchmean").item()
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(theirs, rel=1e-12)
    assert kd_loss(student.float(), teacher.float(), temperature).item() == pytest.approx(theirs, rel=2e-5)
    assert abs(kd_loss(teacher, student, temperature).item() - theirs) > 1e-3


def test_zero_for_equal_and_finite_for_extreme_logits():
    student, _ = random_logits()
    assert abs(kd_loss(student, student + 5).item()) < 1e-13, "a shift of all logits changes nothing"
    far = kd_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]]))
    assert torch.isfinite(far) and far > 0


def gradient_size(temperature, factor):
    student, teacher = random_logits()
    student.requires_grad_()
    (factor(temperature) * kd_loss(student, teacher, temperature)).backward()
    return student.grad.norm().item()


def test_why_t_squared():
    """Hot: without T² the gradient falls as 1/T², with it it tends to (z^s - z^t) / (N C), centred."""
    without = [gradient_size(t, lambda t: 1 / t**2) for t in (50.0, 100.0, 200.0)]
    assert without[0] / without[1] == pytest.approx(4, rel=0.1)
    assert without[1] / without[2] == pytest.approx(4, rel=0.05)
    with_it = [gradient_size(t, lambda t: 1.0) for t in (50.0, 100.0, 200.0)]
    assert max(with_it) / min(with_it) < 1.1
    student, teacher = random_logits()
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert gradient_size(1e5, lambda t: 1.0) == pytest.approx((difference / (16 * 7)).norm().item(), rel=1e-3)


def test_eq9_by_hand():
    # student (1/2, 1/2), teacher (3/4, 1/4), label 0, T = 1, λ = 1/4
    terms = sto_terms(logits([0, 0]), logits([ln(3), 0]), torch.tensor([0]), temperature=1, lam=0.25)
    kl = 0.75 * ln(1.5) + 0.25 * ln(0.5)
    assert [t.item() for t in terms] == pytest.approx([ln(2), -ln(0.75), kl / 4], abs=1e-14)
    total = sto_loss(logits([0, 0]), logits([ln(3), 0]), torch.tensor([0]), temperature=1, lam=0.25)
    assert total.item() == pytest.approx(ln(2) - ln(0.75) + kl / 4, abs=1e-14)


def test_defaults_are_the_papers():
    student, teacher = random_logits()
    labels = torch.arange(16) % 7
    expected = F.cross_entropy(student, labels) + F.cross_entropy(teacher, labels)
    softened = F.log_softmax(student / 3, 1), F.softmax(teacher / 3, 1)
    expected += 0.25 * 9 * F.kl_div(*softened, reduction="batchmean")
    assert sto_loss(student, teacher, labels).item() == pytest.approx(expected.item(), rel=1e-12)
