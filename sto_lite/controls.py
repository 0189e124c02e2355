"""Controls that the paper lacks, and its rivals and parts as others' published code has them (chapters 3, 5 and 9).

What STO's gain is held against, and the switches of choices 20, 23 and 25. Each is a method with the three functions
of chapter 6, made from one of methods.py or peers.py. None has a recorded step (speed/graphs.py); all run one by one.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sto_lite import resnet, survival
from sto_lite.losses import check_temperature, kd_loss
from sto_lite.methods import Baseline, Step, StochasticDepth, plain_copy, summed
from sto_lite.peers import DML, ONE, GatedBranches, cross_entropies, ramp_up
from sto_lite.resnet import ResNet


@dataclass(frozen=True)
class LabelSmoothing(Baseline):
    """The baseline with soft targets from nobody (Szegedy et al. 2016, section 7; chapter 4).

    The target is (1 - ε) δ_y + ε / C over C classes: softness that no teacher had to learn.

    smoothing: ε, the share of the target that is spread over all classes.
    """

    name: ClassVar[str] = "label-smoothing"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing is a share, so it lies in [0, 1]; {self.smoothing} does not")

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropy of the full network with the smoothed target."""
        logits = model(images)
        return summed({"full": F.cross_entropy(logits, labels, label_smoothing=self.smoothing)}, logits)


@dataclass(frozen=True)
class SteppedDepth(StochasticDepth):
    """Stochastic depth whose dropped blocks are stepped like the others, as in Huang et al.'s code (2016; choice 23).

    A dropped block's gradient is zero and not absent, so SGD goes on with its weight decay and its momentum. Loss and
    running statistics are those of StochasticDepth.
    """

    name: ClassVar[str] = "stochastic-depth-stepped"

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropy of one sampled sub-network, and 0 times the weights of the blocks that it left out."""
        gates = survival.sample(self.survival(model), generator)
        logits = model(images, gates)
        loss = F.cross_entropy(logits, labels)
        dropped = [block for block, gate in zip(model.blocks, gates.tolist(), strict=True) if gate == 0]
        nothing = [0 * weight.sum() for block in dropped for weight in block.residual.parameters()]  # type: ignore[union-attr]
        return Step(sum(nothing, start=loss), logits, {"student": loss.detach()})


@dataclass(frozen=True)
class AttachedONE(ONE):
    """ONE in the form of OKDDip's repository (Chen et al. 2020; choice 25): the gated teacher is not detached.

    The loss is ONE's, to the last digit; but the distillation term also draws the teacher, so gate and branches,
    towards each branch.
    """

    name: ClassVar[str] = "one-attached"

    def step(
        self, model: GatedBranches, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropies of branches and gated teacher, and the lesson that changes both sides."""
        logits, teacher = model(images)
        lessons = [kd_loss(z, teacher, self.temperature) for z in logits.unbind(1)]
        parts = {
            "branches": cross_entropies(logits, labels),
            "teacher": F.cross_entropy(teacher, labels),
            "distillation": ramp_up(epoch, self.ramp) * torch.stack(lessons).sum(),
        }
        return summed(parts, logits[:, 0])


@dataclass(frozen=True)
class MeanDML(DML):
    """DML in the form of OKDDip's repository (Chen et al. 2020; choice 25): one target, the mean of the others.

    Network i has CE_i + T² KL(t_i ‖ p_i) of distributions softened by T, with t_i from the mean of the other
    networks' logits. The target is not detached, so network i's loss changes the others too; all losses are summed.
    The first network is deployed, as with DML; the repository trains four and reports their mean.

    temperature: T.
    """

    name: ClassVar[str] = "dml-mean"
    temperature: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)

    def step(
        self, model: nn.ModuleList, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """All networks' losses, summed; gradients cross from one to another."""
        logits = torch.stack([net(images) for net in model], dim=1)
        means = (logits.sum(dim=1, keepdim=True) - logits) / (self.networks - 1)
        pairs = zip(logits.unbind(1), means.unbind(1), strict=True)
        parts = {
            "networks": cross_entropies(logits, labels),
            "distillation": torch.stack([kd_loss(z, mean, self.temperature) for z, mean in pairs]).sum(),
        }
        return summed(parts, logits[:, 0])


class Averaged(nn.Module):
    """A network that is trained, and the moving average of its weights and running statistics; both start from `net`.

    decay: d. After n steps the newest weights enter with 1 - d, or with 1 / (n + 1) while that is more.
    """

    def __init__(self, net: ResNet, decay: float):
        super().__init__()

        def blend(averages: Sequence[Tensor], newest: Sequence[Tensor], count: Tensor | int) -> None:
            share = max(1 / (int(count) + 1), 1 - decay)
            for average, new in zip(averages, newest, strict=True):
                if average.is_floating_point():
                    average.lerp_(new, share)
                else:  # how many batches a batch norm has seen
                    average.copy_(new)

        self.net = net
        self.average = AveragedModel(net, multi_avg_fn=blend, use_buffers=True).requires_grad_(False)


@dataclass(frozen=True)
class EMA:
    """The baseline, deployed with the exponential moving average of its weights over the steps of training.

    It is the teacher of Mean Teacher (Tarvainen and Valpola 2017), but it teaches nobody: what is trained is the
    baseline. As in their code the average is a plain mean at first, so that the first weights do not linger.
    Batch norm's running statistics are averaged alike. Training errors are those of the trained weights.

    decay: d; the average looks back over about 1 / (1 - d) steps.
    """

    name: ClassVar[str] = "ema"
    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay lies in [0, 1), 0 for no average; {self.decay} does not")

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> Averaged:
        """The baseline's network, and its average."""
        return Averaged(resnet.build(net, num_classes, generator=generator), self.decay)

    def step(
        self, model: Averaged, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """The weights that the last step left enter the average; then the baseline's step."""
        model.average.update_parameters(model.net)
        return Baseline().step(model.net, images, labels, generator, epoch)

    def deploy(self, model: Averaged) -> ResNet:
        """The average, today's weights included, as a plain network in eval mode."""
        average = copy.deepcopy(model.average)
        average.update_parameters(model.net)
        return plain_copy(average.module)  # type: ignore[arg-type]
