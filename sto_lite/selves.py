"""STO's kin that draw no gates (chapter 9b): its depths, its exits or its yesterday teach or learn."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from sto_lite import resnet
from sto_lite.losses import check_temperature, kd_loss
from sto_lite.methods import Baseline, Step, fixed_running_stats, plain_copy, summed
from sto_lite.own import is_own
from sto_lite.resnet import ResNet


def front(num_blocks: int, depth: int) -> list[float]:
    """Gates of the sub-network that keeps the first `depth` blocks."""
    return [1.0] * depth + [0.0] * (num_blocks - depth)


def at_depth(net: ResNet, depth: int, batches: Iterable[Tensor]) -> ResNet:
    """A copy that keeps the first `depth` blocks, in eval mode, with running statistics of its own.

    Batch norm's means and variances are computed anew over `batches` of images (N, 3, H, W), as after training by the
    sandwich rule: those of the full network are not a shallow one's.
    """
    shallow = resnet.fold(net, front(net.num_blocks, depth))
    update_bn(batches, shallow)
    return shallow.eval()


@dataclass(frozen=True)
class Sandwich(Baseline):
    """In-place distillation by the sandwich rule (Yu and Huang 2019), over depths: the first blocks are kept.

    The full network learns from the labels; one of a single block and some of random depth learn from the full one's
    probabilities, a constant. The full pass alone moves the running statistics. It is deployed; `at_depth` gives the
    others.

    depths: how many of random depth.
    """

    name: ClassVar[str] = "sandwich"
    depths: int = 2

    def __post_init__(self) -> None:
        if self.depths < 0:
            raise ValueError(f"depths is a number of sub-networks, 0 or more; {self.depths} is not")

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropy of the full network, and of the others with its prediction, summed."""
        blocks = model.num_blocks
        depths = [1, *torch.randint(1, blocks + 1, (self.depths,), generator=generator).tolist()]
        with fixed_running_stats(model):
            shallow = [model(images, front(blocks, depth)) for depth in depths]
        full = model(images)
        target = full.detach().softmax(dim=1)
        parts = {
            "full": F.cross_entropy(full, labels),
            "distillation": torch.stack([F.cross_entropy(z, target) for z in shallow]).sum(),
        }
        return summed(parts, full)


class Exits(nn.Module):
    """A network with a further linear classifier on each of its stages but the last."""

    def __init__(self, net: ResNet, num_classes: int, generator: torch.Generator | None = None):
        super().__init__()
        self.net, self.every = net, net.num_blocks // 3
        ends = [net.blocks[stage * self.every - 1].out_planes for stage in (1, 2)]
        self.heads = nn.ModuleList(nn.Linear(int(planes), num_classes) for planes in ends)  # type: ignore[arg-type]
        resnet.initialise(self.heads, generator)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> logits (N, C) of the first, the second and the last exit."""
        h = self.net.stem(images)
        logits: list[Tensor] = []
        classifiers = [*self.heads, self.net.classifier]
        for number, block in enumerate(self.net.blocks, 1):
            h = block(h)
            if number % self.every == 0:
                logits.append(classifiers[len(logits)](h.mean(dim=(2, 3))))
        return logits


@dataclass(frozen=True)
class OwnTeacher:
    """Be your own teacher (Zhang et al. 2019): exits on shallow stages learn from labels and from the last exit.

    The loss is the sum of all cross-entropies and of λ T² KL(last ‖ exit), the last being a constant there. The
    authors also draw the exits' features to the last one's; here exits are linear and have no features to compare.

    lam: λ. temperature: T.
    """

    name: ClassVar[str] = "own-teacher"
    lam: float = 0.25
    temperature: float = 3.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> Exits:
        """The baseline's network, and its exits; refuses a network of one's own, whose stages it does not know."""
        if is_own(net):
            raise ValueError(
                f"method {self.name} takes sto_lite's own ResNets apart, so it cannot train {net}"
            )
        return Exits(resnet.build(net, num_classes, generator=generator), num_classes, generator)

    def step(
        self, model: Exits, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropies of all exits, and the last one's lesson."""
        *exits, last = model(images)
        lessons = [kd_loss(z, last.detach(), self.temperature) for z in exits]
        parts = {
            "exits": torch.stack([F.cross_entropy(z, labels) for z in exits]).sum(),
            "full": F.cross_entropy(last, labels),
            "distillation": self.lam * torch.stack(lessons).sum(),
        }
        return summed(parts, last)

    def deploy(self, model: Exits) -> ResNet:
        """The network without its exits, a copy in eval mode."""
        return plain_copy(model.net)


class Remembering(nn.Module):
    """A network, and itself as it was at the end of the last epoch; all of it is in a checkpoint.

    epoch: the one in which `last` was taken, so that a resumed run takes it when an uninterrupted one does.
    """

    def __init__(self, net: ResNet):
        super().__init__()
        self.net, self.last = net, copy.deepcopy(net).requires_grad_(False).eval()
        self.epoch = nn.Buffer(torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> "Remembering":
        """Set the network's mode; what is remembered stays in eval mode."""
        super().train(mode)
        self.last.eval()
        return self


@dataclass(frozen=True)
class ProgressiveSelf:
    """PS-KD (Kim et al. 2021): the target is a mixture of the label and what the network said an epoch ago.

    The target is (1 - α) δ_y + α q, α = share · (t + 1) / grows in epoch t, and q the prediction of the last epoch's
    network for the same crop. In the first epoch it is the label. The authors' code keeps last epoch's predictions,
    made of other crops, and needs no second pass.

    share: α at the end. grows: epochs until then.
    """

    name: ClassVar[str] = "ps-kd"
    share: float = 0.8
    grows: int = 300

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share lies in [0, 1]; {self.share} does not")
        if self.grows < 1:
            raise ValueError(f"grows is a number of epochs, 1 or more; {self.grows} is not")

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> Remembering:
        """The baseline's network, twice."""
        return Remembering(resnet.build(net, num_classes, generator=generator))

    def step(
        self, model: Remembering, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropy with the mixture."""
        if epoch > int(model.epoch):
            model.last.load_state_dict(model.net.state_dict())
            model.epoch.fill_(epoch)
        logits = model.net(images)
        target = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        if epoch:
            with torch.no_grad():
                memory = model.last(images).softmax(dim=1)
            target = target.lerp(memory, self.share * min((epoch + 1) / self.grows, 1.0))
        return summed({"student": F.cross_entropy(logits, target)}, logits)

    def deploy(self, model: Remembering) -> ResNet:
        """The network of today, as a copy in eval mode."""
        return plain_copy(model.net)
