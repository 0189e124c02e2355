"""Gates for the residual branches of any network (chapter 3; the page Extend it): STO on one's own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sto_lite.fused import FusedSTO
from sto_lite.methods import STO, Method
from sto_lite.own import is_own

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
# Methods that take a ResNet apart.
APART = ("one", "okddip", "one-attached", "stochastic-depth-stepped")


class Gate(nn.Module):
    """The end of a residual branch, with g times its output; g = 0 cuts the branch off, also from the gradient.

    What is before it is computed all the same, so nothing is saved, and batch norms there see the batch.

    layer: the branch's last module, or the branch as a whole. rest: g where none is given; 1, until the network is
    folded.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.given: float | None = None
        self.rest = nn.ParameterList([nn.Parameter(torch.ones(()), requires_grad=False)])

    def forward(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """What the layer gives, times the gate."""
        output = self.layer(*inputs, **more)
        if self.given == 0:
            return torch.zeros_like(output)
        return output * (self.rest[0] if self.given is None else self.given)

    @property
    def residual(self) -> tuple[nn.Module, ...]:
        """For resnet.fold: the affine layer at the end, whose parameters take p_l; else the gate at rest."""
        end = self.layer
        while type(end).forward is nn.Sequential.forward:
            end = [part for part in end.children() if not isinstance(part, nn.Dropout | nn.Identity)][-1]
        return (end if type(end) in AFFINE and list(end.parameters()) else self.rest,)


class Gated(nn.Module):
    """A network whose branches have gates, as ResNet's blocks have. blocks: the gates, first branch first."""

    def __init__(self, net: nn.Module, names: Sequence[str]):
        super().__init__()
        self.net, self.names = net, tuple(names)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, Gate(net.get_submodule(name)))

    @property
    def blocks(self) -> list[Gate]:
        """The gates."""
        return [self.net.get_submodule(name) for name in self.names]  # type: ignore[misc]

    @property
    def num_blocks(self) -> int:
        """L, the number of gates."""
        return len(self.names)

    def forward(self, images: Tensor, gates: Tensor | Sequence[float] | None = None) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes); gates as for resnet.ResNet."""
        if gates is None:
            return self.net(images)
        try:
            for block, gate in zip(self.blocks, gates, strict=True):
                block.given = float(gate)
            return self.net(images)
        finally:
            for block in self.blocks:
                block.given = None


def gated(net: nn.Module, branches: Sequence[nn.Module]) -> Gated:
    """Give gates to the residual branches of a network, which is changed; with gates of one its logits are what they
    were.

    branches: for each branch, in order, the module whose output is added to the shortcut: its last layer, or the
    branch as one module. Raises ValueError if a module is not part of the network, or stands for two branches.
    """
    places = {id(module): name for name, module in net.named_modules() if name}
    names = [places.get(id(branch), "") for branch in branches]
    if not all(names) or len(set(names)) < len(names) or not names:
        raise ValueError("each branch is a module of its own inside the network, and there is one at least")
    return Gated(net, names)


def suited(method: Method, net: str) -> Method:
    """The method as it can train this network: STO in two passes where the network is one's own. Raises ValueError if
    the method takes a ResNet apart, as gates for each image do.
    """
    if not is_own(net):
        return method
    if getattr(method, "gates", "") == "image":
        raise ValueError(
            f"gates for each image take sto_lite's own ResNets apart; train {net} with --gates batch"
        )
    if method.name in APART:
        raise ValueError(f"method {method.name} takes sto_lite's own ResNets apart, so it cannot train {net}")
    return STO(**vars(method)) if type(method) is FusedSTO else method
