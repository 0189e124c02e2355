"""Student-Teacher Oneness in one pass for both roles (chapter 7): the numbers of methods.STO, for less work.

A stream is one row of gates, a student's or the teacher's. Streams go through the network side by side, and whatever
has the same input in several of them runs once: the stem, f_1, and more where gates agree by chance.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sto_lite import survival
from sto_lite.methods import STO, Step
from sto_lite.resnet import Block, ResNet


@contextlib.contextmanager
def updates(module: nn.Module, times: int) -> Iterator[None]:
    """Batch norm moves its running statistics as if `times` passes had brought the batch that one pass brings.

    k moves towards the same statistics, r ← (1 - m) r + m s, are one with the momentum 1 - (1 - m)^k; k = 0 is none.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)] if times != 1 else []
    momenta: list[float] = [norm.momentum for norm in norms]  # type: ignore[misc]
    try:
        for norm in norms:
            norm.track_running_stats = times > 0
            norm.momentum = 1 - (1 - norm.momentum) ** times  # type: ignore[operator]
        yield
        for norm in norms if times else []:
            norm.num_batches_tracked.add_(times - 1)  # type: ignore[union-attr]
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.track_running_stats, norm.momentum = True, momentum


def side_by_side(
    model: ResNet, images: Tensor, gates: Tensor, counted: Sequence[bool], learning: Sequence[bool]
) -> list[Tensor]:
    """Logits of several streams from one pass; dropped blocks are skipped.

    Streams that have had the same gates so far hold the same tensor, and a block's f and shortcut run once for
    neighbours that do. They part where their gates do. From there each has convolutions of its own: to join them in
    one batch saves no multiply-add, and on a CPU the copies cost more than it gains (chapter 7).

    Args:
        model: the network, in training mode.
        images: (N, C, H, W), the input of every stream.
        gates: (S, L) on the CPU, one row a stream.
        counted: for each stream, whether its batch moves the running statistics; in the order of the streams.
        learning: for each stream, whether gradients flow back through it.

    Returns:
        S tensors of logits (N, classes).
    """
    blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
    with updates(model.stem, sum(counted)):
        states = [model.stem(images)] * len(gates)
    for block, column in zip(blocks, gates.T.tolist(), strict=True):
        outputs = list(states)
        for _, neighbours in groupby(range(len(gates)), key=lambda s: id(states[s])):
            group = list(neighbours)
            h, alive = states[group[0]], [s for s in group if column[s]]
            with torch.set_grad_enabled(any(learning[s] for s in group)):
                with updates(block.shortcut, sum(counted[s] for s in group)):
                    shortcut = block.shortcut(h)
                with updates(block.residual, sum(counted[s] for s in alive)):
                    residual = block.residual(h) if alive else h
            for gate in {column[s] for s in group}:
                same = [s for s in group if column[s] == gate]
                with torch.set_grad_enabled(any(learning[s] for s in same)):
                    sum_ = torch.add(shortcut, residual, alpha=gate) if gate else shortcut
                    output = F.relu(sum_, inplace=bool(gate))
                for s in same:
                    outputs[s] = output
        states = outputs
    logits = []
    for h, learns in zip(states, learning, strict=True):
        with torch.set_grad_enabled(learns):
            logits.append(model.classifier(h.mean(dim=(2, 3))))
    return logits


@dataclass(frozen=True)
class FusedSTO(STO):
    """STO with one pass for student(s) and teacher: methods.STO's settings, losses, gradients and statistics."""

    def draw(self, model: ResNet, generator: torch.Generator) -> Tensor:
        """(students + 1, L) gates on the CPU, a row of zeros and ones a student, and the teacher's p last."""
        p = self.survival(model)
        return torch.stack([*(survival.sample(p, generator) for _ in range(self.students)), p])

    def step(
        self, model: ResNet, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """Eq. 9, from one pass of all streams side by side."""
        counted = [self.running_stats == "both"] * self.students + [True]
        learning = [True] * self.students + [self.teacher_backward]
        return self.loss(side_by_side(model, images, self.draw(model, generator), counted, learning), labels)
