"""Where the numbers of a step of lanes lie: layers, buffers, and the tables that kernels read (chapter 7)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sto_lite.data import Batches
from sto_lite.resnet import Block, ResNet
from sto_lite.speed.lanes.state import ALIGNED, Rows
from sto_lite.speed.lanes.tiles import Shape, Tile, tuned

UPDATED = {"cuda": 512, "cpu": 8192}  # weights of a program of the update
INTERPRETED = Tile(256, 2)  # the interpreter takes its time for each program, whatever its size
HEAD = 16  # images of a program of the classifier


def power(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


class Roles(NamedTuple):
    """The lanes of a run, students first and the teacher, or the only one, last.

    counted: for each lane, whether its batch moves the running statistics. learning: whether gradients flow back.
    rules: T, λ, and 1 where the teacher is a constant target.
    """

    counted: list[bool]
    learning: list[bool]
    rules: list[float]


@dataclass(eq=False)
class Layer:
    """A convolution and its batch norm, with what they leave behind in a step.

    row: of its gate. scaled: the gate multiplies what leaves this layer. size, out: pixels a side, before and after.
    z: (R, B, out, out, C). stat: (R, 5, C). part: (R, G, 2, C) sums of z. back: those of the gradient. grad: partial
    gradients of the weights.
    """

    name: str
    norm: str
    ci: int
    co: int
    taps: int
    stride: int
    size: int
    row: int
    scaled: bool = False
    z: Tensor = field(init=False)
    stat: Tensor = field(init=False)
    part: Tensor = field(init=False)
    back: Tensor = field(init=False)
    grad: Tensor = field(init=False)

    @property
    def out(self) -> int:
        """Pixels a side after the layer."""
        return -(-self.size // self.stride)


@dataclass(eq=False)
class Unit:
    """A block: its layers, its projection if it has one, and the activations: inner ones, and the output."""

    layers: list[Layer]
    projection: Layer | None
    inner: list[Tensor] = field(default_factory=list)
    out: Tensor = field(init=False)


class Layout:
    """Buffers of a step, and how its kernels are cut.

    Args:
        model: one of the runs' networks, for its shapes.
        roles: of each run.
        batches: the images, on the device.
        device: a CUDA GPU; or the CPU, where Triton's interpreter stands in.
        dtype: of activations and of the weights that convolutions read.
        tiles: by Shape.key, where they are not the card's.
    """

    head_weight: Tensor
    head_bias: Tensor

    def __init__(
        self,
        model: ResNet,
        roles: Sequence[Roles],
        batches: Batches,
        device: torch.device,
        dtype: torch.dtype,
        tiles: dict[str, Tile] | None = None,
    ):
        self.model, self.roles, self.batches, self.device, self.dtype = model, roles, batches, device, dtype
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.tiles = tuned(card) if tiles is None else tiles
        self.precision = "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "ieee"
        sizes = [len(r.counted) for r in roles]
        self.lanes, self.most = sum(sizes), max(sizes)
        self.size, self.batch = batches.split.images.shape[-1], min(batches.batch_size, len(batches.split))
        self.classes = model.classifier.out_features
        self.rows = Rows(model, len(roles), device, dtype)
        self.always = model.num_blocks  # the row of a gate that is 1 while a run is trained

        def ints(values: Sequence[int] | Tensor) -> Tensor:
            return torch.as_tensor(values, dtype=torch.int32).to(device)

        self.first = ints([0, *accumulate(sizes)])
        self.runs = ints([run for run, size in enumerate(sizes) for _ in range(size)])
        self.counted = ints([int(c) for r in roles for c in r.counted])
        self.learning = torch.tensor([float(x) for r in roles for x in r.learning])
        self.rules = torch.tensor([r.rules for r in roles], device=device)
        self.hyper = torch.zeros(len(roles), 3, device=device)
        self.clock = torch.zeros(4, dtype=torch.int32, device=device)
        self.now = torch.zeros(2, model.num_blocks + 1, self.lanes, device=device)
        self.gates = torch.zeros(len(batches), *self.now.shape, device=device)
        self.draws = torch.zeros(len(roles), len(batches.split), 4, dtype=torch.int32, device=device)
        self.updated = UPDATED["cpu" if device.type == "cpu" else "cuda"]
        self.head_tiles = -(-self.batch // HEAD)
        self.losses = torch.zeros(len(batches), len(roles), self.head_tiles, 4, device=device)
        self._shared: dict[tuple, Tensor] = {}
        self._layers()
        self._buffers()
        self._tables()

    # The network's layers, and what they need.

    def _layers(self) -> None:
        """Walk the model once."""

        def chain(stack: nn.Sequential, name: str, size: int, row: int, scaled: bool) -> list[Layer]:
            found: list[Layer] = []
            for i, conv in enumerate(stack):
                if isinstance(conv, nn.Conv2d):
                    ours = (conv.in_channels, conv.out_channels, conv.kernel_size[0] ** 2, conv.stride[0])
                    found.append(Layer(f"{name}.{i}", f"{name}.{i + 1}", *ours, size, row))
                    size = found[-1].out
            found[-1].scaled = scaled
            return found

        (self.stem,) = chain(self.model.stem, "stem", self.size, self.always, False)
        size, self.units = self.size, []
        blocks: list[Block] = list(self.model.blocks)  # type: ignore[arg-type]
        for number, block in enumerate(blocks):
            layers = chain(block.residual, f"blocks.{number}.residual", size, number, True)
            projection = None
            if isinstance(block.shortcut, nn.Sequential):
                (projection,) = chain(block.shortcut, f"blocks.{number}.shortcut", size, self.always, False)
            self.units.append(Unit(layers, projection))
            size = layers[-1].out
        self.layers = [self.stem]
        for unit in self.units:
            self.layers += [*unit.layers, *([unit.projection] if unit.projection else [])]

    def _buffers(self) -> None:
        """Everything that a step writes; a layer's sums and gradients all stay until the update."""
        self.stats = torch.zeros(self.lanes * 5 * sum(x.co for x in self.layers), device=self.device)
        at = 0
        for x in self.layers:
            x.z = self._activation(x)
            x.stat = self.stats[at : at + self.lanes * 5 * x.co].view(self.lanes, 5, x.co)
            at += x.stat.numel()
            x.part = torch.zeros(self.lanes, self.cut("forward", x)[1], 2 * x.co, device=self.device)
        self.entry = self._activation(self.stem)
        for unit in self.units:
            *inner, unit.out = (self._activation(x) for x in unit.layers)
            unit.inner = inner
        last = self.units[-1].layers[-1]
        features = torch.zeros(2, self.lanes, self.batch, last.co, device=self.device)
        self.features, self.feature_grad = features[0], features[1]
        # Who makes the gradient of a batch norm's output leaves its sums there, in as many parts as it has programs.
        makers = {last.name: ("sums", last)}
        above = self.stem
        for unit in self.units:
            for lower, upper in pairwise([above, *unit.layers]):
                makers[lower.name] = ("inputs", upper)
            if unit.projection:
                makers[unit.projection.name] = ("sums", unit.projection)
            above = unit.layers[-1]
        wanted: list[tuple[Any, str, int, int]] = []
        for x in self.layers:
            wanted.append((x, "grad", self.cut("weights", x)[1], x.taps * x.ci * x.co))
            wanted.append((x, "back", self.cut(*makers[x.name])[1], 2 * x.co))
        wanted.append((self, "head_weight", self.head_tiles, self.classes * last.co))
        wanted.append((self, "head_bias", self.head_tiles, -(-self.classes // ALIGNED) * ALIGNED))
        self.grads = torch.zeros(self.lanes * sum(n * size for *_, n, size in wanted), device=self.device)
        at = 0
        for owner, name, parts, size in wanted:
            end = at + self.lanes * parts * size
            setattr(owner, name, self.grads[at:end].view(self.lanes, parts, size))
            at = end

    def _activation(self, x: Layer) -> Tensor:
        """Room for what leaves a layer."""
        shape = (self.lanes, self.batch, x.out, x.out, x.co)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def _scratch(self, name: str, like: Tensor) -> Tensor:
        """A buffer for gradients, shared by all layers of a shape."""
        key = (name, like.shape)
        if key not in self._shared:
            self._shared[key] = torch.zeros_like(like)
        return self._shared[key]

    def _tables(self) -> None:
        """What the update and the running statistics are told of each tensor."""
        weights: list[tuple[int, ...]] = []

        def entry(name: str, part: Tensor, offset: int, stride: int, row: int, scaled: bool) -> None:
            place = self.rows.places[name]
            length = -(-place.size // ALIGNED) * ALIGNED  # what is beyond the tensor is zero, and stays so
            for at in range(0, length, self.updated):
                begins = int(part.storage_offset()) + offset + at
                size = min(self.updated, length - at)
                weights.append((place.at + at, size, begins, part.shape[1], stride, row, int(scaled)))

        for layer in self.layers:
            entry(f"{layer.name}.weight", layer.grad, 0, layer.grad.shape[2], layer.row, False)
            for name, offset in (("bias", 0), ("weight", layer.co)):
                entry(f"{layer.norm}.{name}", layer.back, offset, 2 * layer.co, layer.row, layer.scaled)
        for name, part in (("weight", self.head_weight), ("bias", self.head_bias)):
            entry(f"classifier.{name}", part, 0, part.shape[2], self.always, False)
        self.table = torch.tensor(weights, device=self.device)
        order, at = {layer.norm: layer for layer in self.layers}, 0
        norms = []
        for name, channels in self.rows.norms.items():  # in the model's order
            norms.append((order[name].stat.storage_offset(), at, channels, order[name].row))
            at += 2 * channels
        self.norm_table = torch.tensor(norms, device=self.device)

    # How a kernel is cut.

    def cut(self, kernel: str, x: Layer) -> tuple[Tile, int, int]:
        """How a kernel is cut for a layer: the tile, programs for each lane, and tiles for each program."""
        if kernel in ("activate", "sums"):
            shape = Shape(kernel, 0, x.co)
        else:
            stem = "stem_" if x is self.stem else ""
            shape = Shape(stem + kernel, x.ci, x.co, x.taps, x.stride)
        tile = self.tiles.get(shape.key, shape.default if self.device.type != "cpu" else INTERPRETED)
        size = x.size if kernel == "inputs" else x.out
        tiles = -(-self.batch * size * size // tile.pixels)
        programs = min(tile.programs, tiles)
        return tile, programs, -(-tiles // programs)

    def weight(self, rows: Tensor, name: str) -> Tensor:
        """A tensor of the first run; the others' lie at a stride of the rows' length."""
        return rows[0, self.rows.places[name].at :]

    def gate(self, row: int, backward: bool = False) -> Tensor:
        """(R,) gates of this step."""
        return self.now[int(backward), row]
