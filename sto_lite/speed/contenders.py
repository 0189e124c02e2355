"""What a bench times (chapter 7): methods in their forms and layouts, and where their images come from."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sto_lite import faces, resnet, survival
from sto_lite.data import Batches, ImageSet, Split
from sto_lite.fused import FusedSTO
from sto_lite.methods import STO, Baseline, Method, Step, StochasticDepth
from sto_lite.peers import DML, ONE, OKDDip
from sto_lite.speed import counters
from sto_lite.speed.graphs import Recorded, device_step
from sto_lite.speed.precision import PRECISIONS, Arithmetic

NCHW, NHWC = torch.contiguous_format, torch.channels_last


@dataclass(frozen=True)
class BenchConfig:
    """What is measured: the network, its images' size in pixels, images per step, and the arithmetic.

    seconds: for which to measure, after warming up; but for three rounds at least. scaling: also
    other batch sizes and depths, for as long again as half of it.
    """

    net: str = "resnet32"
    size: int = 32
    batch_size: int = 128
    precision: str = "float32"
    seconds: float = 150.0
    scaling: bool = True

    def __post_init__(self) -> None:
        resnet.build(self.net, 7)  # refuses an unknown name
        if self.batch_size < 2 or self.size < 8:
            raise ValueError("a step takes at least 2 images of 8 pixels")
        if self.seconds <= 0:
            raise ValueError(f"seconds is positive; {self.seconds} is not")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}")


class Contender:
    """A model, its optimiser and a way to make a step, on one batch that stays.

    form: "eager" is what `fit` does; "interleaved" has gates on the device; "recorded" replays it as a CUDA graph.
    feed: where each step's images come from; None keeps the first batch.
    """

    def __init__(
        self,
        method: Method,
        config: BenchConfig,
        device: torch.device,
        layout: torch.memory_format = NHWC,
        form: str = "eager",
        feed: Iterator[tuple[Tensor, Tensor]] | None = None,
    ):
        self.method, self.device, self.form, self.feed = method, device, form, feed
        self.model = method.build(config.net, 7, torch.Generator().manual_seed(0))
        self.model = self.model.to(device).to(memory_format=layout)
        weights = self.model.parameters()
        optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
        self.arithmetic = Arithmetic(self.model, optimizer, device, config.precision)
        noise = torch.Generator().manual_seed(1)
        images = torch.randn(config.batch_size, 3, config.size, config.size, generator=noise)
        labels = torch.randint(7, (config.batch_size,), generator=noise)
        self.batch = images.contiguous(memory_format=layout).to(device), labels.to(device)
        self.recorded: Recorded | None = None
        self.drawn = 0
        if form in ("recorded", "compiled"):
            self.recorded = Recorded(method, self.model, self.arithmetic, form == "compiled")  # type: ignore[arg-type]

    def __call__(self, seed: int) -> Step:
        """One step with the gates of this seed."""
        images, labels = self.batch if self.feed is None else next(self.feed)
        if self.recorded:
            if self.drawn == 0:  # as at the start of an epoch of 100 steps
                self.recorded.begin(100, torch.Generator().manual_seed(seed), 0.01)
            self.drawn = (self.drawn + 1) % 100
            return self.recorded(images.to(self.device), labels.to(self.device))
        return self.arithmetic.update(lambda: self.loss(seed, images.to(self.device), labels.to(self.device)))

    def loss(self, seed: int, images: Tensor, labels: Tensor) -> Step:
        """The forward pass of a step."""
        generator = torch.Generator().manual_seed(seed)
        if self.form == "interleaved" and isinstance(self.method, FusedSTO):
            gates = self.method.draw(self.model, generator).to(self.device)  # type: ignore[arg-type]
            return device_step(self.method, self.model, (images, labels, gates))  # type: ignore[arg-type]
        return self.method.step(self.model, images, labels, generator)

    def costs(self, seeds: Sequence[int]) -> dict[str, Any]:
        """Count multiply-adds per image (mean over the seeds); operations, bytes, kept bytes, profile of a step."""
        meta = torch.device("meta")  # shapes without numbers: counting takes no time
        shapes = copy.copy(self)
        shapes.model, shapes.device = copy.deepcopy(self.model).to(meta), meta
        counted = 0
        for seed in seeds:
            images, labels = (part.to(meta) for part in self.batch)
            counted += counters.multiply_adds(lambda: shapes.loss(seed, images, labels).loss.backward())  # noqa: B023
        with counters.Traffic() as traffic:
            self.arithmetic.update(lambda: self.loss(seeds[0], *self.batch))
        found: dict[str, Any] = {"profile": counters.shares(traffic.seconds)}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            found["launches"], seconds = counters.launches(lambda: self(seeds[0]))
            found["profile"] = counters.shares(seconds)
            found["peak_bytes"] = torch.cuda.max_memory_allocated(self.device) - before
        return found | {
            "multiply_adds": counted / len(seeds) / len(self.batch[1]),
            "operations": traffic.operations,
            "bytes": traffic.bytes,
            "kept_bytes": counters.kept_bytes(
                self.model.parameters(), lambda: self.loss(seeds[0], *self.batch)
            ),
        }


class PilFaces(Dataset):
    """Images as the competitors' code feeds them: PIL crop and flip by torchvision, one image at a time, in NCHW."""

    def __init__(self, split: Split, mean: Tensor, std: Tensor, pad: int = 4):
        from torchvision import transforms as t

        self.pictures = [Image.fromarray(image.numpy()).convert("RGB") for image in split.images[:, 0]]
        self.labels = split.labels
        crop = t.RandomCrop(split.images.shape[-1], padding=pad)
        normalise = t.Normalize(mean.expand(3).tolist(), std.expand(3).tolist())
        self.transform = t.Compose([crop, t.RandomHorizontalFlip(), t.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.pictures[index]), self.labels[index]


def endless(
    epoch: Callable[[], Iterator[tuple[Tensor, Tensor]]], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole batches of one epoch after another."""
    while True:
        yield from ((images, labels) for images, labels in epoch() if len(labels) == size)


def feeds(config: BenchConfig, device: torch.device) -> dict[str, Iterator[tuple[Tensor, Tensor]]]:
    """Batches of the same synthetic faces: the book's, made on the device, and PIL's through a DataLoader.

    Without torchvision the second is left out.
    """
    split = Split(*faces.generate(max(1024, 4 * config.batch_size), config.size, seed=1))
    mean, std = ImageSet("faces", faces.EXPRESSIONS, {"train": split}).mean_std
    order = torch.Generator().manual_seed(0)
    ours = Batches(split, mean, std, batch_size=config.batch_size, device=device)
    found = {"batches": endless(lambda: ours.epoch(order), config.batch_size)}
    if find_spec("torchvision"):
        theirs = DataLoader(PilFaces(split, mean, std), config.batch_size, shuffle=True, generator=order)
        found["PIL loader"] = endless(lambda: iter(theirs), config.batch_size)
    return found


def fair_seeds(num_blocks: int, count: int = 10) -> list[int]:
    """Seeds whose students keep each block about as often as its survival probability says, and as many blocks.

    A bench has few rounds, and by chance their students could be longer or shorter than students are.
    """
    p = survival.linear_decay(num_blocks)
    draws = [survival.sample(p, torch.Generator().manual_seed(seed)) for seed in range(2000)]
    windows = torch.stack(draws).unfold(0, count, 1).mean(dim=2)
    excess = windows - p
    first = int((excess.square().sum(dim=1) + excess.sum(dim=1).square()).argmin())
    return list(range(first, first + count))


def contenders(config: BenchConfig, device: torch.device, only: Sequence[str] = ()) -> dict[str, Contender]:
    """What is timed, by its name in the table; `only`: these alone."""
    entries: dict[str, tuple[Any, ...]] = {  # method, layout, form
        "baseline": (Baseline(),),
        "baseline, NCHW": (Baseline(), NCHW),
        "stochastic depth": (StochasticDepth(),),
        "STO, two passes": (STO(),),
        "STO": (FusedSTO(),),
        "STO, interleaved": (FusedSTO(), NCHW, "interleaved"),
        "DML": (DML(),),
        "ONE": (ONE(),),
        "OKDDip": (OKDDip(),),
    }
    if device.type == "cuda" and config.precision != "fp16":
        entries["baseline, recorded"] = (Baseline(), NHWC, "recorded")
        entries["STO, recorded"] = (FusedSTO(), NCHW, "recorded")
        entries["baseline, compiled"] = (Baseline(), NHWC, "compiled")
        entries["stochastic depth, compiled"] = (StochasticDepth(), NHWC, "compiled")
        entries["STO, compiled"] = (FusedSTO(), NHWC, "compiled")
    made = {
        name: Contender(entry[0], config, device, *entry[1:])
        for name, entry in entries.items()
        if not only or name in only
    }
    if device.type == "cpu" and config.precision == "float32" and not only:
        short = replace(config, precision="bf16")  # pays where the processor knows bf16
        made |= {"baseline, bf16": Contender(Baseline(), short, device)}
        made |= {"STO, bf16": Contender(FusedSTO(), short, device)}
    return made
