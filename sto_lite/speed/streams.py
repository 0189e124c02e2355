"""Several streams in one pass, gates as tensors on the device (chapter 7): the form that a recording needs.

A stream is one row of gates: a student's, the teacher's, or the only one that a method has. Sample n of stream s is
row n·S + s of one batch, so that every convolution sees all streams at once. Blocks are multiplied by their gates
where the eager step skips them, and so are batch norm's updates: no Python number depends on a gate.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sto_lite.resnet import Block, ResNet


class Moments(NamedTuple):
    """What a batch norm saw: mean and unbiased variance (S, C) of its streams, or (1, C) while they are still one."""

    mean: Tensor
    var: Tensor


Norm = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Moments]]


def viewed_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Moments]:
    """Batch norm of streams, each with its own statistics, by one call of the library and no copy.

    In plain memory, (N·S, C, H, W) is (N, S·C, H, W). With momentum 1, the running statistics that the call writes
    are the batch's own. x (N·S, C, H, W), weight and bias (S, C) -> the same shape as x, and the moments.
    """
    streams, channels = weight.shape
    mean, var = weight.new_zeros(2, streams * channels)
    joint = x if streams == 1 else x.contiguous().view(-1, streams * channels, *x.shape[2:])
    out = F.batch_norm(joint, mean, var, weight.reshape(-1), bias.reshape(-1), True, 1.0, eps)
    return out.view_as(x) if streams > 1 else out, Moments(mean.view(weight.shape), var.view(weight.shape))


def written_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Moments]:
    """The same, written out for a compiler, which joins it with its neighbours; in any memory layout."""
    exact = torch.promote_types(x.dtype, weight.dtype)
    split = x.unflatten(0, (-1, len(weight))).to(exact)  # (N, S, C, H, W)
    var, mean = torch.var_mean(split, dim=(0, 3, 4), correction=0)
    scale = weight * torch.rsqrt(var + eps)
    shift = bias - mean * scale
    out = (split * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype).flatten(0, 1)
    count = split.shape[0] * split.shape[3] * split.shape[4]
    return out, Moments(mean.detach(), var.detach() * (count / (count - 1)))


def walk(
    layers: nn.Module, x: Tensor, streams: int, norm: Norm, gates: Tensor | None = None
) -> tuple[Tensor, list[Moments]]:
    """A stack of layers for all streams; gates (S,) go into the scale and shift of the last, a batch norm."""
    stack = list(layers) if isinstance(layers, nn.Sequential) else [layers]
    seen = []
    for position, layer in enumerate(stack):
        if isinstance(layer, nn.BatchNorm2d):
            weight, bias = layer.weight.expand(streams, -1), layer.bias.expand(streams, -1)
            if gates is not None and position == len(stack) - 1:
                weight, bias = gates[:, None] * weight, gates[:, None] * bias
            x, moments = norm(x, weight, bias, layer.eps)
            seen.append(moments)
        else:
            x = layer(x)
    return x, seen


def first_block(
    block: Block, h: Tensor, gates: Tensor, norm: Norm
) -> tuple[Tensor, list[Moments], list[Moments]]:
    """All streams enter block 1 with the same h, so f_1 runs once; what leaves is interleaved."""
    f, of_f = walk(block.residual, h, 1, norm)
    shortcut, of_shortcut = walk(block.shortcut, h, 1, norm)
    gated = gates.to(f.dtype).view(1, -1, 1, 1, 1) * f[:, None]
    return F.relu(shortcut[:, None] + gated).flatten(0, 1), of_f, of_shortcut


def next_block(
    block: Block, h: Tensor, gates: Tensor, norm: Norm
) -> tuple[Tensor, list[Moments], list[Moments]]:
    """A later block: h (N·S, C, H, W), gates (S,)."""
    f, of_f = walk(block.residual, h, len(gates), norm, gates)
    shortcut, of_shortcut = walk(block.shortcut, h, len(gates), norm)
    return F.relu(shortcut + f), of_f, of_shortcut


class Pieces(NamedTuple):
    """The parts of a pass, as they are or compiled."""

    stem: Callable[..., tuple[Tensor, list[Moments]]]
    first: Callable[..., tuple[Tensor, list[Moments], list[Moments]]]
    next: Callable[..., tuple[Tensor, list[Moments], list[Moments]]]
    norm: Norm


EAGER = Pieces(walk, first_block, next_block, viewed_norm)


def compiled() -> Pieces:
    """The parts compiled: one small program for each kind of block, whatever the depth of the network."""
    torch._dynamo.config.recompile_limit = 64  # kinds of blocks times numbers of streams; the default is 8
    join: Any = partial(torch.compile, fullgraph=True, dynamic=False)
    return Pieces(join(walk), join(first_block), join(next_block), written_norm)


def interleaved(
    model: ResNet,
    images: Tensor,
    gates: Tensor,
    counted: Sequence[bool],
    drops: Sequence[bool],
    pieces: Pieces = EAGER,
) -> list[Tensor]:
    """Logits (N, classes) of S streams from one pass in which every convolution sees all of them as one batch.

    images: (N, C, H, W), the input of every stream. gates: (S, L) on the model's device; a gate of 0 multiplies, it
    does not skip. counted: for each stream, whether its batch moves the running statistics; in the order of the
    streams. drops: for each, whether a gate of it may be 0, so that it leaves a block's statistics alone.
    """
    gates = gates.to(model.classifier.weight.dtype)
    blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
    h, of_stem = pieces.stem(model.stem, images, 1, pieces.norm)
    norms, owed = norms_of(model.stem), of_stem
    owner: list[int | None] = [None] * len(of_stem)  # whose gate decides whether a batch norm was passed
    for number, block in enumerate(blocks):
        part = pieces.first if number == 0 else pieces.next
        h, of_f, of_shortcut = part(block, h, gates[:, number], pieces.norm)
        norms = norms + norms_of(block.residual) + norms_of(block.shortcut)
        owed = owed + of_f + of_shortcut
        owner += [number] * len(of_f) + [None] * len(of_shortcut)
    settle(norms, owed, owner, gates, counted, drops)
    logits = model.classifier(h.mean(dim=(2, 3)))
    return list(logits.view(len(images), len(gates), -1).unbind(1))


def norms_of(layers: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of a stack, in order."""
    return [layer for layer in layers.modules() if isinstance(layer, nn.BatchNorm2d)]


@torch.no_grad()
def settle(
    norms: Sequence[nn.BatchNorm2d],
    owed: Sequence[Moments],
    owner: Sequence[int | None],
    gates: Tensor,
    counted: Sequence[bool],
    drops: Sequence[bool],
) -> None:
    """Move the running statistics by each counted stream in turn, with a launch or two for all layers together.

    A stream that dropped a block moves none of its layers: their share of the momentum is 0.
    """
    momentum: float = norms[0].momentum  # type: ignore[assignment]
    means: list[Tensor] = [n.running_mean for n in norms]  # type: ignore[misc]
    variances: list[Tensor] = [n.running_var for n in norms]  # type: ignore[misc]
    steps: list[Tensor] = [n.num_batches_tracked for n in norms]  # type: ignore[misc]
    for stream in (s for s, counts in enumerate(counted) if counts):
        rows = [stream if len(moments.mean) > 1 else 0 for moments in owed]
        new_means = [moments.mean[row] for moments, row in zip(owed, rows, strict=True)]
        new_variances = [moments.var[row] for moments, row in zip(owed, rows, strict=True)]
        if not drops[stream]:
            torch._foreach_lerp_(means, new_means, momentum)
            torch._foreach_lerp_(variances, new_variances, momentum)
            torch._foreach_add_(steps, 1)
            continue
        passed = (gates[stream] != 0).to(gates.dtype)
        always = gates.new_ones(())
        shares = [always if block is None else passed[block] for block in owner]
        sizes = [n.num_features for n in norms]
        spread = momentum * torch.cat([s.expand(size) for s, size in zip(shares, sizes, strict=True)])
        weights = list(spread.split(sizes))
        torch._foreach_lerp_(means, new_means, weights)
        torch._foreach_lerp_(variances, new_variances, weights)
        torch._foreach_add_(steps, torch.stack(shares).long().unbind())
