"""The distillation loss and the loss of Student-Teacher Oneness (chapters 4 and 6)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """T² · KL(teacher ‖ student) of the distributions softened by T: Eq. 8 with the T² of Eq. 9.

    The divergence is summed over classes and averaged over the batch. Without T² its gradient would shrink as
    1/T² (chapter 4). Gradients flow into both arguments; detach the teacher's logits to make them a target.

    Args:
        student_logits: (N, C), the z^s of Eq. 6.
        teacher_logits: (N, C), the z^t of Eq. 7.
        temperature: T > 0; the paper's value is 3.

    Returns:
        Scalar, in nats.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class STOTerms(NamedTuple):
    """The three terms of Eq. 9, scalars in nats; `distillation` carries its λ T². Their sum is the loss."""

    student: Tensor
    teacher: Tensor
    distillation: Tensor


def sto_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 3.0,
    lam: float = 0.25,
    detach: bool = True,
) -> STOTerms:
    """CE(student), CE(teacher) and λ T² KL(teacher ‖ student), the terms of Eq. 9.

    Args:
        student_logits: (N, C) of the sampled sub-network (Eq. 4).
        teacher_logits: (N, C) of the full network (Eq. 5).
        labels: (N,) class numbers, or (N, C) shares of the classes.
        temperature: T; the paper's value is 3.
        lam: λ; the paper's value is 0.25.
        detach: the teacher is a constant target in the distillation term. The paper does not say; ONE, which it
            follows, does so.
    """
    target = teacher_logits.detach() if detach else teacher_logits
    return STOTerms(
        student=F.cross_entropy(student_logits, labels),
        teacher=F.cross_entropy(teacher_logits, labels),
        distillation=lam * kd_loss(student_logits, target, temperature),
    )


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not positive, with a ValueError."""
    if temperature <= 0:
        raise ValueError(f"the temperature is positive; {temperature} is not")


def sto_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 3.0,
    lam: float = 0.25,
    detach: bool = True,
) -> Tensor:
    """Eq. 9, the sum of sto_terms: scalar, in nats."""
    return torch.stack(sto_terms(student_logits, teacher_logits, labels, temperature, lam, detach)).sum()
