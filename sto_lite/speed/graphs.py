"""A training step that never waits for the host (chapter 7): its blocks compiled, and all of it a CUDA graph.

A graph is recorded once and replayed with other numbers in the same memory. Which blocks a student drops is such a
number; the step's form that does not depend on it is in streams.py.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sto_lite import survival
from sto_lite.data import Batches
from sto_lite.errors import first_line
from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, Method, Step, StochasticDepth
from sto_lite.resnet import Block, ResNet
from sto_lite.speed import streams
from sto_lite.speed.precision import Arithmetic
from sto_lite.train import MakeEngine, row_of

WARM_UP = 3  # eager steps before a recording: libraries start, compilers compile
T = TypeVar("T")


def obstacle(method: Method, precision: str = "float32") -> str | None:
    """Why a method's step cannot be recorded; None where it can."""
    if precision == "fp16":
        return "the scaling of fp16 reads a number back in every step"
    if type(method) in (Baseline, StochasticDepth, FusedSTO):  # a subclass may have a step of its own
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
    method: Method, model: ResNet, batch: Sequence[Tensor], pieces: streams.Pieces = streams.EAGER
) -> Step:
    """The step of a method without obstacle; numbers as method.step's.

    batch: images (N, C, H, W), labels (N,) or (N, C), and the step's gates (S, L), all on the device.
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


def beside(run: Callable[[], T], stream: torch.cuda.Stream | None) -> T:
    """Run on a side stream of the GPU, as what is to be recorded later must have been; on a CPU, just run."""
    if stream is None:
        return run()
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        result = run()
    current.wait_stream(stream)
    return result


@dataclass
class Recording:
    """A step on batches of one size.

    buffers: what it reads. warm: eager steps so far. replay: plays it again, and leaves its result, its row for the
    history and its gradients where it made them; updates: by these gradients, of the parts that Recorded.due names.
    """

    buffers: list[Tensor]
    pieces: streams.Pieces
    warm: int = 0
    replay: Callable[[], None] | None = None
    updates: dict[int | None, Callable[[], None]] = field(default_factory=dict)
    gradients: list[Tensor | None] = field(default_factory=list)
    result: Step | None = None
    row: Tensor | None = None


class Recorded:
    """A training step and an evaluation as CUDA graphs: the numbers of eager ones, up to rounding.

    One graph holds the forward and backward pass; the update is another. A block through which no gradient came in
    this step keeps its weights and momentum, as in an eager step, where it has no gradient: so where that can happen,
    every block has an update of its own, and the host, which drew the gates, replays those that are due.

    The first steps run eagerly; then the step is recorded, for each size of batch, and again when an epoch starts
    with another learning rate, which is part of the recording. Where recording fails, all steps run eagerly; where
    compiling fails, the parts run as they are.

    method: without obstacle. model: on the GPU. arithmetic: its optimiser is SGD. compiled: let torch.compile join
    the operations of each block; this takes half a minute at the start. Smaller batches at the end of an epoch
    run as they are.
    """

    def __init__(self, method: Method, model: ResNet, arithmetic: Arithmetic, compiled: bool = False):
        self.method, self.model, self.arithmetic = method, model, arithmetic
        self.pieces = streams.compiled() if compiled else streams.EAGER
        self.switches = {"graphs": True, "compile": compiled}
        self.row: Tensor
        _, drops, learning = streams_of(method)
        self.sparing = all(d for d, learns in zip(drops, learning, strict=True) if learns)
        self.learning = learning
        if len(learning) > 1 and not compiled:  # only in plain memory can the library see streams as channels
            model.to(memory_format=torch.contiguous_format)
        self.rate, self.stream, self.broken = 0.0, side_stream(), False
        self.recordings: dict[int, Recording] = {}
        self.exam: Exam | None = None

    def begin(self, steps: int, generator: torch.Generator, rate: float) -> None:
        """Start an epoch: all its gates are drawn and sent to the device at once."""
        draws = torch.stack([draw(self.method, self.model, generator) for _ in range(steps)])
        parameter = next(self.model.parameters())
        self.gates = iter(draws.to(parameter.device, parameter.dtype))
        self.alive = iter((draws[:, self.learning] != 0).any(dim=1).tolist())
        if rate != self.rate:
            self.rate = rate
            for recording in self.recordings.values():
                recording.replay = None

    def __call__(self, images: Tensor, labels: Tensor) -> Step:
        """One step: images (N, C, H, W), labels (N,). The Step's tensors, and `row`, hold until the next call."""
        batch = (images, labels, next(self.gates))
        due = self.due(next(self.alive))
        own = self.recordings.get(len(images))
        if own is None:
            pieces = self.pieces if not self.recordings else streams.EAGER  # compiled for whole batches alone
            own = self.recordings[len(images)] = Recording([part.clone() for part in batch], pieces)
        if self.broken or own.warm < WARM_UP:
            own.warm += 1
            return beside(lambda: self.eager(batch, due, own), self.stream)
        for buffer, part in zip(own.buffers, batch, strict=True):
            buffer.copy_(part)
        if own.replay is None:
            try:
                self.record(own)
            except RuntimeError as error:
                print(f"no CUDA graph, the steps run one by one: {first_line(error)}", file=sys.stderr)
                self.broken = True
                return self.eager(batch, due, own)
        own.replay()  # type: ignore[misc]
        for part in due:
            own.updates[part]()
        self.row = own.row  # type: ignore[assignment]
        return own.result  # type: ignore[return-value]

    def due(self, alive: Sequence[bool]) -> list[int | None]:
        """What is updated: None for all that every step updates, and the blocks that this step does."""
        return [None, *(number for number, lives in enumerate(alive) if lives and self.sparing)]

    def part(self, due: Sequence[int | None]) -> set[nn.Parameter]:
        """The weights of these parts."""
        blocks: list[Block] = list(self.model.blocks)  # type: ignore[arg-type]
        residuals = [set(block.residual.parameters()) for block in blocks] if self.sparing else []
        own = set(self.model.parameters()).difference(*residuals)
        return set().union(*(own if number is None else residuals[number] for number in due))

    def eager(self, batch: Sequence[Tensor], due: Sequence[int | None], own: Recording) -> Step:
        """One step without a recording; if the compiled parts fail at the first one, as they are."""
        try:
            result = self.gradients(batch, own)
        except RuntimeError as error:
            if own.warm > 1 or own.pieces is streams.EAGER:
                raise
            print(f"no compiled blocks, they run as they are: {first_line(error)}", file=sys.stderr)
            own.pieces = self.pieces = streams.EAGER
            self.switches["compile"] = False
            result = self.gradients(batch, own)
        self.apply(due)
        self.row = row_of(result, batch[1])
        return result

    def gradients(self, batch: Sequence[Tensor], own: Recording) -> Step:
        """Forward and backward pass."""
        return self.arithmetic.gradients(lambda: device_step(self.method, self.model, batch, own.pieces))

    def record(self, own: Recording) -> None:
        """Record a step on the buffers, and its updates."""
        for parameter in self.model.parameters():  # what SGD would do at the first gradient
            self.arithmetic.optimizer.state[parameter].setdefault(
                "momentum_buffer", torch.zeros_like(parameter)
            )

        def body() -> None:
            own.result = self.gradients(own.buffers, own)
            own.row = row_of(own.result, own.buffers[1])

        own.replay = capture(body, self.stream)
        own.gradients = [parameter.grad for parameter in self.model.parameters()]  # keeps their memory
        own.updates = {
            part: capture(partial(self.apply, [part]), self.stream)
            for part in self.due([True] * self.model.num_blocks)
        }

    def apply(self, due: Sequence[int | None]) -> None:
        """Update these parts, and leave the others as if they had no gradient."""
        weights = self.part(due)
        hidden = {p: p.grad for p in self.model.parameters() if p not in weights}
        for parameter in hidden:
            parameter.grad = None
        self.arithmetic.apply()
        for parameter, gradient in hidden.items():
            parameter.grad = gradient

    def errors(self, tests: Mapping[str, Batches]) -> dict[str, float]:
        """Top-1 errors (%) of the network as it would be deployed now, from a recorded evaluation."""
        if self.exam is None:
            self.exam = Exam(self, tests)
        return self.exam()


class Exam:
    """The evaluation of a run as one CUDA graph: weights go into the deployed network, are folded, and are tested."""

    def __init__(self, run: Recorded, tests: Mapping[str, Batches]):
        self.run, self.tests = run, tests
        self.plain: ResNet = run.method.deploy(run.model)  # type: ignore[assignment]
        drops = isinstance(run.method, StochasticDepth)
        self.p: list[float] = run.method.survival(run.model).tolist() if drops else []  # type: ignore[attr-defined]
        self.wrong = torch.zeros(len(tests), dtype=torch.long, device=next(run.model.parameters()).device)
        self.replay: Callable[[], None] | None = None
        self.calls = 0

    def __call__(self) -> dict[str, float]:
        """Top-1 errors (%) by split; the first call runs eagerly, the second one records."""
        self.calls += 1
        if self.calls == 2 and not self.run.broken:
            try:
                self.replay = capture(self.body, self.run.stream)
            except RuntimeError as error:
                print(f"no CUDA graph, evaluations run one by one: {first_line(error)}", file=sys.stderr)
        if self.replay:
            self.replay()
        else:
            beside(self.body, self.run.stream)
        sizes = [len(batches.split) for batches in self.tests.values()]
        found = zip(self.tests, self.wrong.tolist(), sizes, strict=True)
        return {name: 100 * wrong / size for name, wrong, size in found}

    @torch.no_grad()
    def body(self) -> None:
        """What is recorded: the fold of Eq. 5, and a pass over every test image in the run's precision."""
        states = (net.state_dict().values() for net in (self.plain, self.run.model))
        pairs = [pair for pair in zip(*states, strict=True) if pair[0].is_floating_point()]
        torch._foreach_copy_([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        for block, p in zip(self.plain.blocks, self.p, strict=False):  # no p: every gate is one
            torch._foreach_mul_(list(block.residual[-1].parameters()), p)  # type: ignore[index, union-attr]
        with self.run.arithmetic.cast():
            for number, batches in enumerate(self.tests.values()):
                answers = [(self.plain(x).softmax(dim=1).argmax(dim=1), y) for x, y in batches.in_order()]
                wrong = [(predictions != labels).sum() for predictions, labels in answers]
                self.wrong[number].copy_(torch.stack(wrong).sum())


def engine(compiled: bool = False) -> MakeEngine:
    """What `fit` takes to record a run's steps; where that cannot be, a line on standard error says why."""

    def make(method: Method, model: nn.Module, arithmetic: Arithmetic) -> Recorded | None:
        cuda = arithmetic.device.type == "cuda"
        reason = obstacle(method, arithmetic.precision) if cuda else "there is no CUDA GPU"
        if cuda and not reason and not isinstance(model, ResNet):
            reason = "the network is no ResNet of sto_lite"
        if reason:
            print(f"no CUDA graph, the steps run one by one: {reason}", file=sys.stderr)
            return None
        return Recorded(method, model, arithmetic, compiled)  # type: ignore[arg-type]

    return make
