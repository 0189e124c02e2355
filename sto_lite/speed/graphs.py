"""A training step that never waits for the host (chapter 7): its blocks compiled, and all of it a CUDA graph.

A graph is recorded once and replayed with other numbers in the same memory. Which blocks a student drops is such a
number; the step's form that does not depend on it is in streams.py.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sto_lite import survival
from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, Method, Step, StochasticDepth
from sto_lite.resnet import Block, ResNet
from sto_lite.speed import streams
from sto_lite.speed.precision import Arithmetic

WARM_UP = 3  # eager steps before a recording: libraries start, compilers compile
RECORDING = Lock()  # where threads train side by side, one at a time compiles, records or steps eagerly


def obstacle(method: Method, precision: str = "float32") -> str | None:
    """Why a method's step cannot be recorded; None where it can."""
    if precision == "fp16":
        return "the scaling of fp16 reads a number back in every step"
    if type(method) in (Baseline, StochasticDepth) or isinstance(method, FusedSTO):
        return None
    return f"method {method.name} has no step with gates on the device"


class Streams(NamedTuple):
    """The streams of a method, in order.

    counted: whether their batches move the running statistics. drops: whether a gate of theirs may be 0. learning:
    whether gradients flow back through them.
    """

    counted: list[bool]
    drops: list[bool]
    learning: list[bool]


def streams_of(method: Method) -> Streams:
    """The streams of a method without obstacle."""
    if isinstance(method, FusedSTO):
        students = method.students
        return Streams(
            [method.running_stats == "both"] * students + [True],
            [True] * students + [method.p_last == 0],
            [True] * students + [method.teacher_backward],
        )
    return Streams([True], [isinstance(method, StochasticDepth)], [True])


def draw(method: Method, model: ResNet, generator: torch.Generator) -> Tensor:
    """(S, L) gates of a step, on the CPU: the numbers that method.step draws."""
    if isinstance(method, FusedSTO):
        return method.draw(model, generator)
    if isinstance(method, StochasticDepth):
        return survival.sample(method.survival(model), generator)[None]
    return torch.ones(1, model.num_blocks)


def device_step(
    method: Method,
    model: ResNet,
    batch: Sequence[Tensor],
    pieces: streams.Pieces = streams.EAGER,
) -> Step:
    """The step of a method without obstacle; numbers as method.step's.

    batch: images (N, C, H, W), labels (N,), and the step's gates (S, L), all on the device.
    """
    images, labels, gates = batch
    counted, drops, learning = streams_of(method)
    logits = streams.interleaved(model, images, gates, counted, drops, pieces)
    logits = [own if learns else own.detach() for own, learns in zip(logits, learning, strict=True)]
    if isinstance(method, FusedSTO):
        return method.loss(logits, labels)
    loss = nn.functional.cross_entropy(logits[0], labels)
    return Step(loss, logits[0], {"student" if drops[0] else "full": loss.detach()})


def side_stream() -> torch.cuda.Stream | None:
    """A stream for what is recorded: the current one, unless that is the default stream, which cannot be recorded."""
    if not torch.cuda.is_available():
        return None
    current = torch.cuda.current_stream()
    return torch.cuda.Stream() if current == torch.cuda.default_stream() else current


def capture(body: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
    """Record what the body launches on the GPU; calling the result launches it again, all at once."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        body()
    return graph.replay


def beside(run: Callable[[], Step], stream: torch.cuda.Stream | None) -> Step:
    """Run on a side stream of the GPU, as what is to be recorded later must have been; on a CPU, just run."""
    if stream is None:
        return run()
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        result = run()
    current.wait_stream(stream)
    return result


class Recorded:
    """A training step as CUDA graphs: the same call as an eager step, and the same numbers up to rounding.

    One graph holds the forward and backward pass; the update is another. A block through which no gradient came in
    this step keeps its weights and momentum, as in an eager step, where it has no gradient: so where that can happen,
    every block has an update of its own, and the host, which drew the gates, replays those that are due.

    The first steps run eagerly; then the step is recorded, and again when an epoch starts with another learning rate,
    which is part of the recording. Batches of another size run eagerly. Where recording fails, all steps do; where
    compiling fails, the parts run as they are.

    Args:
        method: without obstacle.
        model: on the GPU.
        arithmetic: precision and optimiser (SGD).
        compiled: let torch.compile join the operations of each block; this takes half a minute at the start.
    """

    def __init__(self, method: Method, model: ResNet, arithmetic: Arithmetic, compiled: bool = False):
        self.method, self.model, self.arithmetic = method, model, arithmetic
        self.pieces = streams.compiled() if compiled else streams.EAGER
        _, drops, learning = streams_of(method)
        self.sparing = all(d for d, learns in zip(drops, learning, strict=True) if learns)
        self.learning = learning
        if len(learning) > 1 and not compiled:  # only in plain memory can the library see streams as channels
            model.to(memory_format=torch.contiguous_format)
        self.rate, self.warm, self.stream = 0.0, 0, side_stream()
        self.buffers: list[Tensor] = []
        self.replay: Callable[[], None] | None = None
        self.replays: dict[int | None, Callable[[], None]] = {}

    def begin(self, steps: int, generator: torch.Generator, rate: float) -> None:
        """Start an epoch: all its gates are drawn and sent to the device at once."""
        draws = torch.stack([draw(self.method, self.model, generator) for _ in range(steps)])
        parameter = next(self.model.parameters())
        self.gates = iter(draws.to(parameter.device, parameter.dtype))
        self.alive = iter((draws[:, self.learning] != 0).any(dim=1).tolist())
        if rate != self.rate:
            self.rate, self.replay = rate, None

    def __call__(self, images: Tensor, labels: Tensor) -> Step:
        """One step: images (N, C, H, W), labels (N,). The Step's tensors hold until the next call."""
        batch = (images, labels, next(self.gates))
        due = self.due(next(self.alive))
        if not self.buffers:
            self.buffers = [part.clone() for part in batch]
        whole = len(images) == len(self.buffers[0])
        if not whole or self.warm < WARM_UP:
            self.warm += whole
            with RECORDING:
                return beside(lambda: self.one(batch, due, whole), self.stream)
        for buffer, part in zip(self.buffers, batch, strict=True):
            buffer.copy_(part)
        if self.replay is None:
            try:
                with RECORDING:
                    self.record()
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                print(f"no CUDA graph, the steps run one by one: {reason}", file=sys.stderr)
                self.warm = -sys.maxsize
                return self.eager(batch, due, self.pieces)
        self.replay()  # type: ignore[misc]
        for part in due:
            self.replays[part]()
        return self.result

    def due(self, alive: Sequence[bool]) -> list[int | None]:
        """What is updated: None for all that every step updates, and the blocks that this step does."""
        return [None, *(number for number, lives in enumerate(alive) if lives and self.sparing)]

    def part(self, due: Sequence[int | None]) -> set[nn.Parameter]:
        """The weights of these parts."""
        blocks: list[Block] = list(self.model.blocks)  # type: ignore[arg-type]
        residuals = [set(block.residual.parameters()) for block in blocks] if self.sparing else []
        own = set(self.model.parameters()).difference(*residuals)
        return set().union(*(own if number is None else residuals[number] for number in due))

    def one(self, batch: Sequence[Tensor], due: Sequence[int | None], whole: bool) -> Step:
        """One step without a recording, with the compiled parts if there are any and the batch is a whole one."""
        try:
            return self.eager(batch, due, self.pieces if whole else streams.EAGER)
        except RuntimeError as error:
            if self.warm > 1 or self.pieces is streams.EAGER:
                raise
            reason = str(error).strip().splitlines()[0]
            print(f"no compiled blocks, they run as they are: {reason}", file=sys.stderr)
            self.pieces = streams.EAGER
            return self.eager(batch, due, self.pieces)

    def eager(self, batch: Sequence[Tensor], due: Sequence[int | None], pieces: streams.Pieces) -> Step:
        """One step without a recording."""
        result = self.arithmetic.gradients(lambda: device_step(self.method, self.model, batch, pieces))
        self.apply(due)
        return result

    def record(self) -> None:
        """Record a step on the buffers, and its updates."""
        for parameter in self.model.parameters():  # what SGD would do at the first gradient
            self.arithmetic.optimizer.state[parameter].setdefault(
                "momentum_buffer", torch.zeros_like(parameter)
            )
        self.replay = capture(self.body, self.stream)
        for part in self.due([True] * self.model.num_blocks):
            self.replays[part] = capture(partial(self.apply, [part]), self.stream)

    def body(self) -> None:
        """What is recorded: forward and backward pass on the buffers."""
        self.result = self.arithmetic.gradients(
            lambda: device_step(self.method, self.model, self.buffers, self.pieces)
        )

    def apply(self, due: Sequence[int | None]) -> None:
        """Update these parts, and leave the others as if they had no gradient."""
        weights = self.part(due)
        hidden = {p: p.grad for p in self.model.parameters() if p not in weights}
        for parameter in hidden:
            parameter.grad = None
        self.arithmetic.apply()
        for parameter, gradient in hidden.items():
            parameter.grad = gradient
