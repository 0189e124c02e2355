"""Residual networks with one gate a block (chapters 2 and 3): Eqs. 3, 4 and 5 are one line with three gates."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sto_lite import own


def conv_bn(in_planes: int, planes: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the size (up to its stride), and its batch norm."""
    conv = nn.Conv2d(in_planes, planes, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(planes)]


class PadShortcut(nn.Module):
    """He et al.'s parameter-free shortcut "A": every second pixel, and zeros for the new channels."""

    def __init__(self, in_planes: int, planes: int, stride: int):
        super().__init__()
        self.stride, self.extra = stride, planes - in_planes

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_planes, H, W) -> (N, planes, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class Block(nn.Module):
    """A residual block H_l = ReLU(g_l · f_l(H_{l-1}) + shortcut(H_{l-1})).

    The gate g_l is 1 in a plain network (Eq. 3), a sampled b_l in the student (Eq. 4) and p_l in the teacher
    (Eq. 5). Where the block changes the size, its shortcut is a strided 1×1 convolution with batch norm ("B") or
    PadShortcut ("A"); elsewhere it is the identity. The shortcut has no gate: it stays when the block is dropped.

    Args:
        in_planes: channels of the input.
        planes: channels of the 3×3 convolutions.
        stride: 2 halves height and width.
        bottleneck: False for f = two 3×3 convolutions, True for 1×1, 3×3, 1×1 with 4·planes channels at the end.
        shortcut: "B" or "A".
    """

    def __init__(
        self, in_planes: int, planes: int, stride: int, bottleneck: bool = False, shortcut: str = "B"
    ):
        super().__init__()
        relu = nn.ReLU(inplace=True)
        if bottleneck:
            out_planes = 4 * planes
            layers = [*conv_bn(in_planes, planes, 1), relu, *conv_bn(planes, planes, 3, stride), relu]
            layers += conv_bn(planes, out_planes, 1)
        else:
            out_planes = planes
            layers = [*conv_bn(in_planes, planes, 3, stride), relu, *conv_bn(planes, planes, 3)]
        self.out_planes = out_planes
        self.residual = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_planes != out_planes:
            if shortcut == "A":
                self.shortcut = PadShortcut(in_planes, out_planes, stride)
            else:
                self.shortcut = nn.Sequential(*conv_bn(in_planes, out_planes, 1, stride))

    def forward(self, h: Tensor, gate: float = 1.0) -> Tensor:
        """(N, in_planes, H, W) -> (N, out_planes, H / stride, W / stride); gate 0 skips f altogether."""
        if gate == 0:
            return F.relu(self.shortcut(h))
        return F.relu(torch.add(self.shortcut(h), self.residual(h), alpha=gate), inplace=True)


class ResNet(nn.Module):
    """A residual network for small images: a 3×3 stem, three stages of blocks, average pooling, a linear layer.

    Args:
        blocks_a_stage: n; the network has 3n blocks, the first of stages 2 and 3 halves the image.
        num_classes: outputs of the linear layer.
        in_channels: channels of an image.
        width: multiplies the channels 16, 32, 64 of the three stages (Zagoruyko & Komodakis 2016).
        bottleneck, shortcut: see Block.
    """

    def __init__(
        self,
        blocks_a_stage: int,
        num_classes: int,
        in_channels: int = 3,
        width: int = 1,
        bottleneck: bool = False,
        shortcut: str = "B",
    ):
        super().__init__()
        planes = 16
        self.stem = nn.Sequential(*conv_bn(in_channels, planes, 3), nn.ReLU(inplace=True))
        blocks = []
        for stage, stage_planes in enumerate([16 * width, 32 * width, 64 * width]):
            for i in range(blocks_a_stage):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(Block(planes, stage_planes, stride, bottleneck, shortcut))
                planes = blocks[-1].out_planes
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(planes, num_classes)

    @property
    def num_blocks(self) -> int:
        """L, the number of residual blocks, and so of gates."""
        return len(self.blocks)

    def forward(self, images: Tensor, gates: Tensor | Sequence[float] | None = None) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes).

        Args:
            images: normalised images.
            gates: L numbers, one a block; None is a one for every block.

        Raises:
            ValueError: the number of gates is not the number of blocks.
        """
        if gates is None:
            gates = [1.0] * self.num_blocks
        if len(gates) != self.num_blocks:
            raise ValueError(
                f"{len(gates)} gates for a network of {self.num_blocks} blocks; give one a block"
            )
        h = self.stem(images)
        for block, gate in zip(self.blocks, gates, strict=True):
            h = block(h, float(gate))
        return self.classifier(h.mean(dim=(2, 3)))


NETWORKS: dict[str, dict] = {
    **{f"resnet{6 * n + 2}": {"blocks_a_stage": n} for n in (1, 2, 3, 5, 7, 8, 9)},
    "resnet110": {
        "blocks_a_stage": 12,
        "bottleneck": True,
    },  # the paper's 1.15M parameters are this one's (chapter 2)
    "resnet110-basic": {"blocks_a_stage": 18},
    "wrn20-2": {"blocks_a_stage": 3, "width": 2},
}


def build(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    shortcut: str = "B",
    generator: torch.Generator | None = None,
) -> ResNet:
    """A network by its name, freshly initialised (chapter 2).

    Args:
        name: a key of NETWORKS: "resnet8", 14, 20, 32, 44, 50, 56 (6n + 2 layers of basic blocks), "resnet110" (of
            bottleneck blocks, as the parameter count in the paper's Table 1 says), "resnet110-basic" (the usual
            one) or "wrn20-2"; or package.module:FUNCTION, which makes one with gates (gated.py).
        num_classes: outputs.
        in_channels: channels of an image; gray images are repeated to 3 in this book, as in the paper.
        shortcut: "B" (1×1 convolution and batch norm) or "A" (no parameters), where a block changes the size.
        generator: source of the initial weights; None takes torch's global one.

    Raises:
        ValueError: no network has this name, or no shortcut.
    """
    if own.is_own(name):
        return own.network(name, num_classes, generator)
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    if shortcut not in ("A", "B"):
        raise ValueError(f"shortcut is 'A' or 'B', not {shortcut!r}")
    net = ResNet(num_classes=num_classes, in_channels=in_channels, shortcut=shortcut, **NETWORKS[name])
    initialise(net, generator)
    return net


def initialise(net: nn.Module, generator: torch.Generator | None = None) -> None:
    """Fan-out Kaiming weights for convolutions, ones and zeros for batch norm, torch's own rule for linear layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def fold(net: ResNet, p: Tensor | Sequence[float]) -> ResNet:
    """The teacher of Eq. 5 as a plain network, for deployment: p_l goes into the last batch norm of block l.

    In eval mode that batch norm ends with γ x̂ + β, and p_l (γ x̂ + β) = (p_l γ) x̂ + p_l β.

    Args:
        net: the trained network; it is not changed.
        p: (L,) survival probabilities.

    Returns:
        A copy in eval mode with fold(net, p)(x) = net(x, p).
    """
    if len(p) != net.num_blocks:
        raise ValueError(f"{len(p)} survival probabilities for a network of {net.num_blocks} blocks")
    plain = copy.deepcopy(net).eval()
    with torch.no_grad():
        for block, p_l in zip(plain.blocks, p, strict=True):
            for parameter in block.residual[-1].parameters():  # type: ignore[index, union-attr]
                parameter.mul_(float(p_l))
    return plain


def count_parameters(net: nn.Module) -> int:
    """Trainable parameters, the Params column of the paper's Tables 1 and 2."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
