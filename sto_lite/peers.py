"""The paper's competitors (chapter 5): DML, ONE and OKDDip.

Each is a method with the three functions of chapter 6, and what it deploys is a plain ResNet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sto_lite import resnet
from sto_lite.losses import check_temperature, kd_loss
from sto_lite.methods import Step, plain_copy, summed
from sto_lite.resnet import ResNet


def ramp_up(epoch: int, length: int) -> float:
    """w(t) = exp(-5 (1 - t/length)²) in epochs t < length, then 1: how ONE and OKDDip let distillation in."""
    return math.exp(-5 * (1 - min(epoch / length, 1.0)) ** 2) if length else 1.0


class Branches(nn.Module):
    """Networks that share stem and stages 1 and 2; stage 3 and the classifier each has of its own.

    Args:
        nets: B networks of one architecture, which from now on share the first one's trunk.
    """

    def __init__(self, nets: Sequence[ResNet]):
        super().__init__()
        first, self.cut = nets[0], 2 * nets[0].num_blocks // 3
        for net in nets[1:]:
            net.stem = first.stem
            net.blocks = nn.ModuleList([*first.blocks[: self.cut], *net.blocks[self.cut :]])
        self.nets = nn.ModuleList(nets)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, 3, H, W) -> trunk's features (N, P), branches' features (N, B, Q) and logits (N, B, C)."""
        nets: list[ResNet] = list(self.nets)  # type: ignore[arg-type]
        h = nets[0].stem(images)
        for block in nets[0].blocks[: self.cut]:
            h = block(h)
        features, logits = [], []
        for net in nets:
            top = h
            for block in net.blocks[self.cut :]:
                top = block(top)
            features.append(top.mean(dim=(2, 3)))
            logits.append(net.classifier(features[-1]))
        return h.mean(dim=(2, 3)), torch.stack(features, dim=1), torch.stack(logits, dim=1)


class GatedBranches(Branches):
    """ONE's model: branches, and a gate that weighs their logits by the trunk's features."""

    def __init__(self, nets: Sequence[ResNet], generator: torch.Generator | None = None):
        super().__init__(nets)
        planes: int = nets[0].blocks[self.cut - 1].out_planes  # type: ignore[assignment]
        score = nn.Linear(planes, len(nets))
        self.gate = nn.Sequential(score, nn.BatchNorm1d(len(nets)), nn.ReLU(), nn.Softmax(dim=1))
        resnet.initialise(score, generator)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Images (N, 3, H, W) -> branches' logits (N, B, C), and the teacher's, their gated sum (N, C)."""
        shared, _, logits = super().forward(images)
        return logits, torch.einsum("nb,nbc->nc", self.gate(shared), logits)


class AttentiveBranches(Branches):
    """OKDDip's model: peers, a leader (the last branch), and the attention by which peers choose teachers."""

    def __init__(self, nets: Sequence[ResNet], generator: torch.Generator | None = None):
        super().__init__(nets)
        planes = nets[0].classifier.in_features
        self.query, self.key = (nn.Linear(planes, planes // 8, bias=False) for _ in range(2))
        resnet.initialise(self.query, generator)
        resnet.initialise(self.key, generator)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, 3, H, W) -> logits of peers (N, B, C) and leader (N, C), and the peers' targets (N, B, C)."""
        _, features, logits = super().forward(images)
        peers, leader = logits[:, :-1], logits[:, -1]
        q, k = self.query(features[:, :-1]), self.key(features[:, :-1])
        attention = (q @ k.transpose(1, 2)).softmax(dim=2)  # (N, B, B), rows sum to 1
        return peers, leader, attention @ peers


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, B, C) logits of B networks, (N,) labels -> the sum of their cross-entropies, each a mean over N."""
    return torch.stack([F.cross_entropy(z, labels) for z in logits.unbind(1)]).sum()


@dataclass(frozen=True)
class DML:
    """Deep mutual learning (Zhang et al. 2018): networks side by side, each a teacher of the others.

    Network i has the loss CE_i + mean over j != i of KL(p_j ‖ p_i), at temperature 1, with p_j a constant. The
    paper's mean is taken; the authors' code has the sum, which is the same for two networks. The first is deployed.

    networks: how many, M.
    """

    name: ClassVar[str] = "dml"
    networks: int = 3

    def __post_init__(self) -> None:
        if self.networks < 2:
            raise ValueError(f"mutual learning takes at least two networks, not {self.networks}")

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> nn.ModuleList:
        """M networks; the first starts from the baseline's weights."""
        return nn.ModuleList(
            resnet.build(net, num_classes, generator=generator) for _ in range(self.networks)
        )

    def step(
        self, model: nn.ModuleList, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """All networks' losses, summed: as no gradient crosses from one to another, each has its own."""
        logits = torch.stack([net(images) for net in model], dim=1)
        pairs = [(i, j) for i in range(self.networks) for j in range(self.networks) if i != j]
        mutual = torch.stack([kd_loss(logits[:, i], logits[:, j].detach(), 1.0) for i, j in pairs]).sum()
        parts = {"networks": cross_entropies(logits, labels), "distillation": mutual / (self.networks - 1)}
        return summed(parts, logits[:, 0])

    def deploy(self, model: nn.ModuleList) -> ResNet:
        """The first network, as a copy in eval mode."""
        return plain_copy(model[0])  # type: ignore[arg-type]


@dataclass(frozen=True)
class ONE:
    """On-the-fly native ensemble (Zhu et al. 2018): branches whose gated sum of logits teaches each of them.

    The loss is Σ CE_i + CE_t + w(t) Σ T² KL(t ‖ i), with the teacher t a constant in the last term and w(t) of
    ramp_up. The first branch is deployed.

    branches: how many, B. temperature: T. ramp: epochs until w(t) is 1; 0 for no ramp.
    """

    name: ClassVar[str] = "one"
    branches: int = 3
    temperature: float = 3.0
    ramp: int = 80

    def __post_init__(self) -> None:
        check_branches(self.branches, self.temperature, self.ramp)

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> GatedBranches:
        """B branches and a gate; trunk and first branch start from the baseline's weights."""
        nets = [resnet.build(net, num_classes, generator=generator) for _ in range(self.branches)]
        return GatedBranches(nets, generator)

    def step(
        self, model: GatedBranches, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Cross-entropies of branches and gated teacher, and the teacher's lesson for every branch."""
        logits, teacher = model(images)
        lessons = [kd_loss(z, teacher.detach(), self.temperature) for z in logits.unbind(1)]
        parts = {
            "branches": cross_entropies(logits, labels),
            "teacher": F.cross_entropy(teacher, labels),
            "distillation": ramp_up(epoch, self.ramp) * torch.stack(lessons).sum(),
        }
        return summed(parts, logits[:, 0])

    def deploy(self, model: GatedBranches) -> ResNet:
        """Trunk and first branch as a plain network, a copy in eval mode."""
        return plain_copy(model.nets[0])  # type: ignore[arg-type]


@dataclass(frozen=True)
class OKDDip:
    """Online distillation with diverse peers (Chen et al. 2020), branch-based: peers, and a leader they teach.

    The loss is Σ CE_i + CE_leader + w(t) T² [Σ KL(target_i ‖ peer i) + KL(mean of peers ‖ leader)], where target_i
    is the sum of the peers' logits weighted by peer i's attention. The leader is deployed.

    peers: branches besides the leader. temperature: T. ramp: as ONE's. detach: make targets constants; the authors'
    code does not, and must not, as the attention learns through them alone.
    """

    name: ClassVar[str] = "okddip"
    peers: int = 3
    temperature: float = 3.0
    ramp: int = 80
    detach: bool = False

    def __post_init__(self) -> None:
        check_branches(self.peers, self.temperature, self.ramp)

    def build(
        self, net: str, num_classes: int, generator: torch.Generator | None = None
    ) -> AttentiveBranches:
        """Peers and a leader; trunk and first peer start from the baseline's weights."""
        nets = [resnet.build(net, num_classes, generator=generator) for _ in range(self.peers + 1)]
        return AttentiveBranches(nets, generator)

    def step(
        self,
        model: AttentiveBranches,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
    ) -> Step:
        """Two levels of distillation: among the peers by attention, and from their mean to the leader."""
        peers, leader, targets = model(images)
        mean = peers.mean(dim=1)
        if self.detach:
            targets, mean = targets.detach(), mean.detach()
        among = [
            kd_loss(z, target, self.temperature)
            for z, target in zip(peers.unbind(1), targets.unbind(1), strict=True)
        ]
        weight = ramp_up(epoch, self.ramp)
        parts = {
            "peers": cross_entropies(peers, labels),
            "leader": F.cross_entropy(leader, labels),
            "distillation": weight * torch.stack(among).sum(),
            "lesson": weight * kd_loss(leader, mean, self.temperature),
        }
        return summed(parts, leader)

    def deploy(self, model: AttentiveBranches) -> ResNet:
        """Trunk and leader as a plain network, a copy in eval mode."""
        return plain_copy(model.nets[-1])  # type: ignore[arg-type]


def check_branches(branches: int, temperature: float, ramp: int) -> None:
    """Refuse settings of ONE and OKDDip that mean nothing."""
    if branches < 2:
        raise ValueError(f"an ensemble takes at least two branches, not {branches}")
    check_temperature(temperature)
    if ramp < 0:
        raise ValueError(f"ramp is a number of epochs, 0 or more; {ramp} is not")
