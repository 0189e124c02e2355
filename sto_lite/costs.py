"""What a training step costs in multiply-adds, and what it keeps in memory (chapters 5 to 7 and 9b)."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from sto_lite import resnet, survival
from sto_lite.kd import KD
from sto_lite.kin import Students
from sto_lite.methods import STO, Method, Step, StochasticDepth
from sto_lite.peers import DML, ONE, OKDDip
from sto_lite.selves import ProgressiveSelf, Sandwich
from sto_lite.speed.counters import kept_bytes


class Forward(NamedTuple):
    """Multiply-adds of one image's forward pass: total, residual functions (L,), stage 3 with the classifier."""

    total: int
    blocks: list[int]
    top: int


@cache
def forward(net: str, size: int = 32, num_classes: int = 7) -> Forward:
    """Count a network's convolutions and linear layers for one image of size × size pixels."""
    model: Any = resnet.build(net, num_classes, generator=torch.Generator()).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    if not isinstance(model, resnet.ResNet):  # of which nothing is left out (gated.Gate)
        return Forward(counter.get_total_flops() // 2, [0] * model.num_blocks, 0)
    found = counter.get_flop_counts()  # by the name of each part; one multiply-add is two of its operations

    def inside(part: str) -> int:
        return sum(found[f"ResNet.{part}".rstrip(".")].values()) // 2

    places = range(model.num_blocks)
    top = sum(inside(f"blocks.{place}") for place in places[2 * model.num_blocks // 3 :])
    blocks = [inside(f"blocks.{place}.residual") for place in places]
    return Forward(inside(""), blocks, top + inside("classifier"))


def step_cost(
    method: Method, net: str, size: int = 32, num_classes: int = 7, teacher: str | None = None
) -> float:
    """Multiply-adds of a method's training step on average over its gates, in steps of the baseline.

    A backward pass costs two forward passes: one for the gradient of activations, one for that of weights. What is
    small beside convolutions (batch norm, gates, losses) is left out, and so is any sharing of STO's two passes.

    size: of an image in pixels. num_classes: outputs. teacher: kd's network, if it is another one.
    """
    total, blocks, top = forward(net, size, num_classes)
    if isinstance(method, StochasticDepth):
        p = survival.SCHEDULES[method.schedule](len(blocks), method.p_last)
        student = total - sum((1 - p_l) * block for p_l, block in zip(p.tolist(), blocks, strict=True))
        if isinstance(method, Students):
            student = total if method.gates == "image" else student
            if not isinstance(method, STO):
                return (method.sampled * student + method.full * total) / total
        if not isinstance(method, STO):
            return student / total
        return (method.students * student + total * (1.0 if method.teacher_backward else 1 / 3)) / total
    if isinstance(method, DML):
        return float(method.networks)
    if isinstance(method, ONE):
        return 1 + (method.branches - 1) * top / total
    if isinstance(method, OKDDip):
        return 1 + method.peers * top / total
    if isinstance(method, Sandwich):  # the first d blocks: one, and d at random
        depths = [total - sum(blocks[depth:]) for depth in range(1, len(blocks) + 1)]
        return 1 + (depths[0] + method.depths * sum(depths) / len(depths)) / total
    if isinstance(method, ProgressiveSelf):
        return 1 + 1 / 3
    if isinstance(method, KD):
        return 1 + forward(teacher or net, size, num_classes).total / (3 * total)
    return 1.0


def step_memory(method: Method, net: str, size: int = 32, batch: int = 4, draws: int = 16) -> float:
    """What autograd keeps of a step for its backward pass, in MB for each image: a mean over `draws` of gates.

    Weights and their gradients, the optimiser's state and passing buffers are left out. size: of an image in pixels.
    batch: images of the step.
    """
    generator = torch.Generator().manual_seed(0)
    model = method.build(net, 7, generator).train()
    images, labels = torch.rand(batch, 3, size, size, generator=generator), torch.arange(batch) % 7

    def step() -> Step:
        return method.step(model, images, labels, generator, 1)

    total = sum(kept_bytes(model.state_dict().values(), step) for _ in range(draws))
    return total / (draws * batch * 1e6)
