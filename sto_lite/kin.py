"""STO's kin that sample students (chapter 9b), with STO's gates and trainer; selves.py holds the others.

Each is a method with the three functions of chapter 6. All that bring two predictions together do it with STO's λ, so
that they differ in who teaches whom. None has a recorded step (speed/graphs.py); all run one by one.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sto_lite import survival
from sto_lite.losses import check_temperature, kd_loss
from sto_lite.methods import STO, Step, StochasticDepth, fixed_running_stats, plain_copy, summed
from sto_lite.resnet import ResNet

# ------------------------------------------------------------------------------------------------------ losses


def split_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 3.0) -> list[Tensor]:
    """KL(teacher ‖ student) of logits (N, C) softened by T, taken apart: right + rest * wrong (chapter 9b).

    Returns (N,) each, in nats: right, the KL of "the label or not"; wrong, the KL among the other classes, each side
    made a distribution of its own; and rest, the teacher's probability of all other classes together.
    """
    if labels.is_floating_point():
        raise ValueError(
            "DKD takes the divergence apart at an image's one label, so it does not go with votes"
        )
    own = F.one_hot(labels, student.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        log = F.log_softmax(logits / temperature, dim=1)
        wrong = log[~own].view(len(log), -1)
        rest = wrong.logsumexp(dim=1, keepdim=True)
        return torch.cat([log[own][:, None], rest], dim=1), wrong - rest

    pairs = list(zip(parts(student), parts(teacher), strict=True))
    right, wrong = (F.kl_div(s, t, reduction="none", log_target=True).sum(dim=1) for s, t in pairs)
    return [right, wrong, pairs[0][1][:, 1].exp()]


def dkd_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, beta: float) -> Tensor:
    """T² (right + β wrong) of split_kl, a mean over the batch: decoupled distillation (Zhao et al. 2022)."""
    right, wrong, _ = split_kl(student, teacher, labels, temperature)
    return temperature**2 * (right + beta * wrong).mean()


def dist_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² (2 - two mean correlations) of probabilities softened by T: DIST (Huang et al. 2022).

    Pearson's correlation of student and teacher over the classes, for each image; and over the batch, for each class.
    """
    s, t = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))

    def correlation(dim: int) -> Tensor:
        a, b = (q - q.mean(dim=dim, keepdim=True) for q in (s, t))
        return F.cosine_similarity(a, b, dim=dim).mean()

    return temperature**2 * (2 - correlation(1) - correlation(0))


def squared_gap(one: Tensor, other: Tensor) -> Tensor:
    """Half the mean square of the difference of logits (N, C), each image's mean taken off: kd_loss as T → ∞."""
    gap = one - other
    return (gap - gap.mean(dim=1, keepdim=True)).square().mean() / 2


# ----------------------------------------------------------------------------------------------- sampled students


def run_gated(model: ResNet, images: Tensor, gates: Tensor) -> Tensor:
    """Logits (N, classes) where each image has gates of its own, (N, L); all blocks are computed for all images."""
    h = model.stem(images)
    for block, gate in zip(model.blocks, gates.to(images).T, strict=True):
        h = F.relu(block.shortcut(h) + gate[:, None, None, None] * block.residual(h))  # type: ignore[operator]
    return model.classifier(h.mean(dim=(2, 3)))


@dataclass(frozen=True)
class Students(StochasticDepth):
    """Two sampled students, both with the label, and a lesson between them; Eq. 5, folded, is deployed.

    gates: drawn for each mini-batch ("batch"), so that a dropped block is skipped, or for each "image".
    """

    gates: str = "batch"

    sampled, full = 2, 0  # passes a step: of sub-networks, and of the full network

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gates not in ("batch", "image"):
            raise ValueError(f"gates are drawn for each 'batch' or each 'image', not {self.gates!r}")

    def student(self, model: ResNet, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) of a sampled sub-network, or of one for each image."""
        p = self.survival(model)
        if self.gates == "batch":
            return model(images, survival.sample(p, generator))
        return run_gated(model, images, survival.sample(p.expand(len(images), -1), generator))

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Two cross-entropies, and the lesson."""
        one, two = (self.student(model, images, generator) for _ in range(2))
        both = F.cross_entropy(one, labels) + F.cross_entropy(two, labels)
        return summed({"students": both, "distillation": self.between(one, two)}, one)

    def between(self, one: Tensor, two: Tensor) -> Tensor:
        """What two predictions, logits (N, C), have to say to each other: scalar."""
        raise NotImplementedError


@dataclass(frozen=True)
class CoSub(Students):
    """Two sampled students teach each other (Touvron et al. 2023); the full network never runs in training.

    Each has its cross-entropy with the label and, with the same weight, with the other's probabilities, a constant.
    The authors' code takes a mean of the four terms, of sigmoids, and draws gates for each image.
    """

    name: ClassVar[str] = "cosub"

    def between(self, one: Tensor, two: Tensor) -> Tensor:
        """Cross-entropy of each with the other's prediction."""
        return sum(F.cross_entropy(z, t.detach().softmax(dim=1)) for z, t in ((one, two), (two, one)))  # type: ignore[return-value]


@dataclass(frozen=True)
class RDrop(Students):
    """R-Drop's idea with gates (Liang et al. 2021): two sampled students, drawn together by KL.

    The lesson is λ T² [KL(2 ‖ 1) + KL(1 ‖ 2)] / 2, and gradients flow into both sides. With one direction it is
    λ T² KL(2 ‖ 1), and the second is a constant there: STO with a sampled teacher.

    lam: λ. temperature: T. directions: 2, or 1.
    """

    name: ClassVar[str] = "r-drop"
    lam: float = 0.25
    temperature: float = 3.0
    directions: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directions not in (1, 2):
            raise ValueError(f"directions are 1 or 2, not {self.directions}")
        check_temperature(self.temperature)

    def between(self, one: Tensor, two: Tensor) -> Tensor:
        """KL in one direction, or the mean of both."""
        if self.directions == 1:
            return self.lam * kd_loss(one, two.detach(), self.temperature)
        return self.lam * (kd_loss(one, two, self.temperature) + kd_loss(two, one, self.temperature)) / 2


@dataclass(frozen=True)
class Fraternal(Students):
    """Fraternal dropout with gates (Żołna et al. 2018): as RDrop, with squared differences of logits.

    lam: λ of squared_gap, to which RDrop's lesson tends for T → ∞.
    """

    name: ClassVar[str] = "fraternal"
    lam: float = 0.25

    def between(self, one: Tensor, two: Tensor) -> Tensor:
        """The gap between the students."""
        return self.lam * squared_gap(one, two)


@dataclass(frozen=True)
class ExpectationLinear(Students):
    """Expectation-linear dropout with gates (Ma et al. 2017): one student, and its gap to the network of Eq. 5.

    Only the student sees labels. Gradients flow into both sides of the gap, and the full network's pass alone moves
    the running statistics.

    lam: λ of squared_gap.
    """

    name: ClassVar[str] = "expectation-linear"
    lam: float = 0.25

    sampled, full = 1, 1

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """The student's cross-entropy, and the gap."""
        with fixed_running_stats(model):
            student = self.student(model, images, generator)
        expected = model(images, self.survival(model))
        gap = self.lam * squared_gap(student, expected)
        return summed({"student": F.cross_entropy(student, labels), "distillation": gap}, expected)


@dataclass(frozen=True)
class OtherSTO(Students, STO):
    """STO with one part exchanged for a relative's; with the defaults it is STO, in two passes.

    distillation: kl, as Eq. 9; dkd, its two parts with weights 1 and β; or dist, correlations.
    beta: β of dkd.
    weighted: the teacher's blocks are weighed by p_l, as in Eq. 5; without, its gates are one, deployed as well.
    """

    name: ClassVar[str] = "sto-otherwise"
    distillation: str = "kl"
    beta: float = 1.0
    weighted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distillation not in ("kl", "dkd", "dist"):
            raise ValueError(f"distillation is kl, dkd or dist, not {self.distillation!r}")

    def lesson(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """What stands behind λ in Eq. 9, with its T²: scalar."""
        if self.distillation == "dkd":
            return dkd_loss(student, teacher, labels, self.temperature, self.beta)
        return (dist_loss if self.distillation == "dist" else kd_loss)(student, teacher, self.temperature)

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Eq. 9 with the parts chosen; students are averaged."""
        with fixed_running_stats(model, self.running_stats == "teacher"):
            students = [self.student(model, images, generator) for _ in range(self.students)]
        with torch.set_grad_enabled(self.teacher_backward):
            teacher = model(images, self.survival(model) if self.weighted else None)
        target = teacher.detach() if self.detach else teacher
        parts = {
            "student": torch.stack([F.cross_entropy(z, labels) for z in students]).mean(),
            "teacher": F.cross_entropy(teacher, labels),
            "distillation": self.lam * torch.stack([self.lesson(z, target, labels) for z in students]).mean(),
        }
        return summed(parts, teacher)

    def deploy(self, model: ResNet) -> ResNet:
        """The teacher as it was trained, as a plain network."""
        return super().deploy(model) if self.weighted else plain_copy(model)
