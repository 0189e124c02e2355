"""A training step that never waits for the host (chapter 7): gates as tensors on the device, a CUDA graph a step.

A graph is recorded once and replayed with other numbers in the same memory, so nothing in it may depend on a number:
blocks are multiplied by their gates where the eager step skips them, and batch norm's updates are too.
"""

import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, Method, Step
from sto_lite.resnet import Block, ResNet

WARM_UP = 3  # eager steps before a recording: libraries start, optimisers make their buffers


class StreamNorm:
    """Batch norm of S interleaved streams, each with its own statistics, and the updates that it owes.

    Sample n of stream s is row n·S + s. In memory, (N·S, C, H, W) is then (N, S·C, H, W), and one call normalises all
    streams without a copy. The gate of a block goes into scale and shift. (In channels_last memory there is no such
    view.) With momentum 1, the running statistics that the call writes are the batch's own.
    """

    def __init__(self) -> None:
        self.owed: list[tuple[nn.BatchNorm2d, Tensor, Tensor, Tensor | None]] = []

    def __call__(
        self, norm: nn.BatchNorm2d, x: Tensor, streams: int, gates: Tensor | None, passed: Tensor | None
    ) -> Tensor:
        """(N·S, C, H, W), gates (S,) -> the same shape; passed (S,): which streams would have come here."""
        channels = norm.num_features
        weight, bias = norm.weight.expand(streams, -1), norm.bias.expand(streams, -1)
        if gates is not None:
            weight, bias = gates[:, None] * weight, gates[:, None] * bias
        mean, var = weight.new_zeros(2, streams * channels)
        joint = x.contiguous().view(-1, streams * channels, *x.shape[2:])
        out = F.batch_norm(joint, mean, var, weight.reshape(-1), bias.reshape(-1), True, 1.0, norm.eps)
        self.owed.append((norm, mean.view(streams, channels), var.view(streams, channels), passed))
        return out.view(x.shape)

    @torch.no_grad()
    def settle(self, counted: Sequence[bool]) -> None:
        """Move the running statistics by each counted stream in turn, all layers by the momentum of the first.

        A stream that dropped a block moves none of its layers. The last stream, the teacher, drops none.
        """
        norms, means, variances, _ = zip(*self.owed, strict=True)
        momentum: float = norms[0].momentum
        *students, teacher = counted
        for stream in (s for s, counts in enumerate(students) if counts):
            for norm, mean, var, passed in self.owed:
                share = mean.new_ones(()) if passed is None else passed[stream].to(mean.dtype)
                row = stream if len(mean) > 1 else 0  # one row serves all streams while they are one
                norm.running_mean.lerp_(mean[row], momentum * share)  # type: ignore[union-attr]
                norm.running_var.lerp_(var[row], momentum * share)  # type: ignore[union-attr]
                norm.num_batches_tracked.add_(share.long())  # type: ignore[union-attr]
        if teacher:  # a launch or two for all layers together
            torch._foreach_lerp_([n.running_mean for n in norms], [m[-1] for m in means], momentum)
            torch._foreach_lerp_([n.running_var for n in norms], [v[-1] for v in variances], momentum)
            torch._foreach_add_([n.num_batches_tracked for n in norms], 1)


def interleaved(model: ResNet, images: Tensor, gates: Tensor, counted: Sequence[bool]) -> list[Tensor]:
    """Logits of several streams from one pass in which every convolution sees all of them as one batch.

    Args:
        model: the network, in training mode.
        images: (N, C, H, W), the input of every stream.
        gates: (S, L) on the model's device; a gate of 0 multiplies, it does not skip. The last row has none.
        counted: for each stream, whether its batch moves the running statistics; in the order of the streams.

    Returns:
        S tensors of logits (N, classes).
    """
    blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
    norms = StreamNorm()
    gates = gates.to(model.classifier.weight.dtype)
    count = len(gates)

    def walk(
        layers: nn.Module,
        x: Tensor,
        streams: int,
        gates: Tensor | None = None,
        passed: Tensor | None = None,
    ) -> Tensor:
        for layer in layers if isinstance(layers, nn.Sequential) else [layers]:
            if isinstance(layer, nn.BatchNorm2d):
                last = layer is layers[-1]  # type: ignore[index]
                x = norms(layer, x, streams, gates if last else None, passed)
            else:
                x = layer(x)
        return x

    h = walk(model.stem, images.contiguous(), 1)
    # All streams enter block 1 with the same h, so f_1 runs once; what leaves it is interleaved.
    f, shortcut = walk(blocks[0].residual, h, 1, passed=gates[:, 0] != 0), walk(blocks[0].shortcut, h, 1)
    f_gated = gates[:, 0].to(f.dtype).view(1, count, 1, 1, 1) * f[:, None]
    h = F.relu(shortcut[:, None] + f_gated, inplace=True).flatten(0, 1)
    for number, block in enumerate(blocks[1:], 1):
        column = gates[:, number]
        f = walk(block.residual, h, count, column, column != 0)
        h = F.relu(walk(block.shortcut, h, count) + f, inplace=True)
    norms.settle(counted)
    logits = model.classifier(h.mean(dim=(2, 3)))
    return list(logits.view(len(images), count, -1).unbind(1))


def obstacle(method: Method, precision: str = "float32") -> str | None:
    """Why a method's step cannot be recorded; None where it can."""
    if precision == "fp16":
        return "the scaling of fp16 reads a number back in every step"
    if type(method) is Baseline:
        return None
    if not isinstance(method, FusedSTO):
        return f"method {method.name} has no step with gates on the device"
    if not method.teacher_backward or method.p_last == 0:
        return "blocks without a gradient would get zeros instead, and weight decay with them"
    return None


def device_step(method: Method, model: ResNet, images: Tensor, labels: Tensor, gates: Tensor) -> Step:
    """The step of a method without obstacle, with its gates (S, L) on the device; numbers as method.step's."""
    if isinstance(method, FusedSTO):
        counted = [method.running_stats == "both"] * method.students + [True]
        return method.loss(interleaved(model, images, gates, counted), labels)
    return method.step(model, images, labels, torch.Generator())


def capture(body: Callable[[], None]) -> Callable[[], None]:
    """Record what the body launches on the GPU; calling the result launches it again, all at once."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def beside(run: Callable[[], Step]) -> Step:
    """Run on a side stream of the GPU, as what is to be recorded later must have been; on a CPU, just run."""
    if not torch.cuda.is_available():
        return run()
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        result = run()
    current.wait_stream(stream)
    return result


class Recorded:
    """A training step as a CUDA graph: the same call as an eager step, and the same numbers up to rounding.

    The first steps run eagerly; then the step is recorded, and again when an epoch starts with another learning rate,
    which is part of the recording. Batches of another size run eagerly. Where recording fails, all steps do.

    Args:
        method: without obstacle. model: on the GPU; a model for streams is brought into plain (NCHW) memory.
        update: takes the function that gives a Step; runs it, its backward pass and the optimiser's step, and gives
            back the Step without its history.
    """

    def __init__(self, method: Method, model: ResNet, update: Callable[[Callable[[], Step]], Step]):
        self.method, self.model, self.update = method, model, update
        if isinstance(method, FusedSTO):
            model.to(memory_format=torch.contiguous_format)
        self.rate, self.warm = 0.0, 0
        self.buffers: list[Tensor] = []
        self.replay: Callable[[], None] | None = None

    def begin(self, steps: int, generator: torch.Generator, rate: float) -> None:
        """Start an epoch: all its gates are drawn and sent to the device at once."""
        draws = [
            self.method.draw(self.model, generator)
            if isinstance(self.method, FusedSTO)
            else torch.ones(1, self.model.num_blocks)
            for _ in range(steps)
        ]
        parameter = next(self.model.parameters())
        self.gates = iter(torch.stack(draws).to(parameter.device, parameter.dtype))
        if rate != self.rate:
            self.rate, self.replay = rate, None

    def __call__(self, images: Tensor, labels: Tensor) -> Step:
        """One step: images (N, C, H, W), labels (N,). The Step's tensors hold until the next call."""
        batch = (images, labels, next(self.gates))
        if not self.buffers:
            self.buffers = [part.clone() for part in batch]
        whole = len(images) == len(self.buffers[0])
        if not whole or self.warm < WARM_UP:
            self.warm += whole
            return beside(lambda: self.update(lambda: device_step(self.method, self.model, *batch)))
        for buffer, part in zip(self.buffers, batch, strict=True):
            buffer.copy_(part)
        if self.replay is None:
            try:
                self.replay = capture(self.body)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                print(f"no CUDA graph, the steps run one by one: {reason}", file=sys.stderr)
                self.replay = self.body
        self.replay()
        return self.result

    def body(self) -> None:
        """What is recorded: one whole step on the buffers."""
        images, labels, gates = self.buffers
        self.result = self.update(lambda: device_step(self.method, self.model, images, labels, gates))
