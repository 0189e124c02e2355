"""Ways to train one network (chapter 6): the baseline, stochastic depth, and Student-Teacher Oneness.

A method is a frozen dataclass of its settings with three functions: build the model, give the loss of one training
step, and hand over the plain network that is deployed. The trainer knows no more of it than that.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sto_lite import resnet, survival
from sto_lite.losses import sto_terms
from sto_lite.resnet import ResNet


class Step(NamedTuple):
    """What one training step gives the trainer.

    loss: scalar to back-propagate. logits: (N, C), of the prediction whose training error is reported.
    parts: the loss's terms by name, detached scalars.
    """

    loss: Tensor
    logits: Tensor
    parts: dict[str, Tensor]


class Method(Protocol):
    """What the trainer asks of a method: a frozen dataclass of settings with a name and these three functions."""

    name: ClassVar[str]

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> nn.Module:
        """A fresh model in training mode."""

    def step(
        self, model: Any, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Loss on a mini-batch: images (N, C, H, W), labels (N,) or shares (N, C); gates come from the generator."""

    def deploy(self, model: Any) -> nn.Module:
        """The plain network in eval mode that makes the predictions; the model is not changed."""


@contextlib.contextmanager
def fixed_running_stats(model: nn.Module, fixed: bool = True) -> Iterator[None]:
    """Batch norm normalises with the batch's own statistics and leaves its running statistics alone."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)] if fixed else []
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@dataclass(frozen=True)
class Baseline:
    """Ordinary training: every gate is one (Eq. 3), the loss is cross-entropy (Eq. 2)."""

    name: ClassVar[str] = "baseline"

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> ResNet:
        """A fresh network by its name (resnet.build)."""
        return resnet.build(net, num_classes, generator=generator)

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropy of the full network."""
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        return Step(loss, logits, {"full": loss.detach()})

    def deploy(self, model: ResNet) -> ResNet:
        """The network itself, as a copy in eval mode."""
        return resnet.fold(model, [1.0] * model.num_blocks)


@dataclass(frozen=True)
class StochasticDepth(Baseline):
    """Huang et al. (2016): train a freshly sampled sub-network a step (Eq. 4), deploy the full one (Eq. 5).

    p_last: survival probability p_L of the last block. schedule: "linear" decay to p_L, or "uniform" p_L.
    """

    name: ClassVar[str] = "stochastic-depth"
    p_last: float = 0.5
    schedule: str = "linear"

    def __post_init__(self) -> None:
        if self.schedule not in survival.SCHEDULES:
            raise ValueError(f"schedule is one of {', '.join(survival.SCHEDULES)}, not {self.schedule!r}")
        if not 0 <= self.p_last <= 1:
            raise ValueError(f"p_last is a probability, so it lies in [0, 1]; {self.p_last} does not")

    def survival(self, model: ResNet) -> Tensor:
        """(L,) survival probabilities for the model's blocks."""
        return survival.SCHEDULES[self.schedule](model.num_blocks, self.p_last)

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropy of one sampled sub-network."""
        logits = model(images, survival.sample(self.survival(model), generator))
        loss = F.cross_entropy(logits, labels)
        return Step(loss, logits, {"student": loss.detach()})

    def deploy(self, model: ResNet) -> ResNet:
        """Eq. 5, folded into a plain network."""
        return resnet.fold(model, self.survival(model))


@dataclass(frozen=True)
class STO(StochasticDepth):
    """Student-Teacher Oneness, Algorithm 1: a sampled student and the full teacher share weights and a loss (Eq. 9).

    The ablations of the paper's Table 3 are switches: lam=0 is "W/O Online Distillation", teacher_backward=False is
    "W/O Backward Full network".

    temperature: T of Eqs. 6 to 9. lam: λ of Eq. 9. detach: the teacher is a constant target in the KL term.
    teacher_backward: False runs the teacher without gradients; its cross-entropy is then a constant.
    running_stats: which passes update batch norm's running statistics, "teacher" (the one deployed) or "both".
    students: sub-networks sampled a step; their losses are averaged.
    """

    name: ClassVar[str] = "sto"
    temperature: float = 3.0
    lam: float = 0.25
    detach: bool = True
    teacher_backward: bool = True
    running_stats: str = "teacher"
    students: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.running_stats not in ("teacher", "both"):
            raise ValueError(f"running_stats is 'teacher' or 'both', not {self.running_stats!r}")
        if self.students < 1:
            raise ValueError(f"a step needs at least one student, not {self.students}")
        if self.temperature <= 0:
            raise ValueError(f"the temperature is positive; {self.temperature} is not")

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Eq. 9, from two forward passes: student(s), then teacher."""
        p = self.survival(model)
        with fixed_running_stats(model, self.running_stats == "teacher"):
            students = [model(images, survival.sample(p, generator)) for _ in range(self.students)]
        with torch.set_grad_enabled(self.teacher_backward):
            teacher = model(images, p)
        return self.loss([*students, teacher], labels)

    def loss(self, logits: Sequence[Tensor], labels: Tensor) -> Step:
        """Eq. 9 of the students' logits and, last, the teacher's; students are averaged."""
        *students, teacher = logits
        terms = sto_terms(
            torch.cat(students),
            teacher.repeat(self.students, 1),
            torch.cat([labels] * self.students),
            self.temperature,
            self.lam,
            self.detach,
        )
        return Step(torch.stack(terms).sum(), teacher, {k: v.detach() for k, v in terms._asdict().items()})


def summed(parts: dict[str, Tensor], logits: Tensor) -> Step:
    """A step whose loss is the sum of its terms."""
    return Step(
        torch.stack(list(parts.values())).sum(), logits, {name: part.detach() for name, part in parts.items()}
    )


def check_single(method: Method, model: nn.Module, image: Tensor, label: Tensor, batch_size: int) -> None:
    """Refuse a batch of one image, such as an epoch's last, where batch norm would normalise a single value.

    The method takes one step on a copy of the model. image: (1, 3, H, W), normalised. label: (1,). batch_size: for
    the message. Raises ValueError if the method, or the whole network, cannot take the batch.
    """
    trial = copy.deepcopy(model).train()
    try:
        method.step(trial, image, label, torch.Generator())
        if hasattr(trial, "num_blocks"):  # of which the step may have left out blocks
            trial(image)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"method {method.name} cannot take the last batch of an epoch, which holds one image at --batch-size "
            f"{batch_size}: batch norm needs more than one value. Choose another --batch-size or --limit"
        ) from error


def plain_copy(net: ResNet) -> ResNet:
    """A copy in eval mode that shares nothing with the model it is taken from."""
    return resnet.fold(net, [1.0] * net.num_blocks)
