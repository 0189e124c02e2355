"""Train the small networks behind figures of chapters 2 to 6, and write their records into data/runs/chapters-….

    python tools/chapter_networks.py plain --seed 0          a plain network with one block deleted, each in turn
    python tools/chapter_networks.py residual --seed 0       the same of a residual network (or stochastic-depth)
    python tools/chapter_networks.py ensemble --seed 0       the 64 students of a ResNet-14, and its teacher
    python tools/chapter_networks.py distillation --seeds 3  what a teacher says, and students that never saw fear
    python tools/chapter_networks.py peers --seeds 3         how alike those who teach one another grow
    python tools/chapter_networks.py students --seeds 3      all eight students of networks trained in three ways

Planned before the first run: seeds 0 to 2 for deletions, 0 to 4 for ensemble. The data are
synthetic faces; the first three take about half a minute on one CPU core, the others some ten. A record that exists
is not made again.
"""

import argparse
import base64
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite import resnet  # noqa: E402
from sto_lite.config import plain  # noqa: E402
from sto_lite.data import Batches, ImageSet, Split  # noqa: E402
from sto_lite.faces import EXPRESSIONS, generate  # noqa: E402
from sto_lite.files import save  # noqa: E402
from sto_lite.methods import Baseline, StochasticDepth, fixed_running_stats  # noqa: E402
from sto_lite.records import Record, encode, environment  # noqa: E402
from sto_lite.train import Config, evaluate, fit  # noqa: E402
from tools import lessons  # noqa: E402

RUNS = ROOT / "data" / "runs"
LENGTHS = (3, 9, 27)  # epochs, each with a schedule of its own
SIZES = (1, 2, 4, 8, 16, 32, 64)  # sampled students
REPEATS = 400


class PlainBlock(nn.Module):
    """A block's layers without its shortcut. Deleted, it passes on its input, padded to the new size."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.residual = cast(nn.Module, block.residual)
        self.shortcut = cast(nn.Module, block.shortcut)

    def forward(self, h: Tensor, gate: float = 1.0) -> Tensor:
        """ReLU(f(h)) with gate 1; with gate 0 the input, at the size that f would give."""
        return F.relu(self.residual(h) if gate else self.shortcut(h))


@dataclass(frozen=True)
class Plain(Baseline):
    """The baseline without shortcuts."""

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> resnet.ResNet:
        """The layers of `net`, one after another."""
        model = resnet.build(net, num_classes, shortcut="A", generator=generator)
        model.blocks = nn.ModuleList(map(PlainBlock, model.blocks))
        return model


class Without(nn.Module):
    """A network with one block deleted (None: intact)."""

    def __init__(self, net: resnet.ResNet, deleted: int | None):
        super().__init__()
        self.net = net
        self.gates = [float(i != deleted) for i in range(net.num_blocks)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of what is left."""
        return self.net(x, self.gates)


def faces(size: int) -> ImageSet:
    """600 training and 700 test faces, neither clean nor hard."""
    splits = {
        "train": Split(*generate(600, size, seed=1, difficulty=0.3)),
        "test": Split(*generate(700, size, seed=2, difficulty=0.3)),
    }
    return ImageSet("faces", EXPRESSIONS, splits)


def told(data: ImageSet) -> dict[str, object]:
    """What a record says of these faces."""
    return {"name": data.name, "difficulty": 0.3, "fingerprint": data.fingerprint}


METHODS = {"plain": Plain(), "residual": Baseline(), "stochastic-depth": StochasticDepth()}


def deletion(network: str, seed: int) -> lessons.Found:
    """Test errors (%) of a network, intact and with each block deleted, after each of LENGTHS epochs."""
    data, errors, losses = faces(16), {}, {}
    for epochs in LENGTHS:
        config = Config("resnet20", epochs, 30, augment=False, seed=seed, evaluate_every=epochs)
        run = fit(METHODS[network], data, config, device="cpu", progress=False)
        net = cast(resnet.ResNet, run.network)
        shortened = [Without(net, case) for case in (None, *range(net.num_blocks))]
        found = [evaluate(each, data.splits["test"], data.mean_std).error for each in shortened]
        errors[str(epochs)] = [round(error, 2) for error in found]
        losses[str(epochs)] = run.record["history"]["train_loss"][-1]
    curves = {"figure": "deletion", "network": network, "errors": errors, "train_loss": losses}
    return config, told(data), curves


def every_student(num_blocks: int) -> Tensor:
    """All gates, (2^L, L), in the order of `all_shortened`."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * num_blocks)


def halve(net: resnet.ResNet) -> bytes:
    """Round all weights to half precision, in place; return them as bytes, in the order of the state."""
    floats = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
    for tensor in floats:
        tensor.copy_(tensor.half().float())
    return torch.cat([tensor.flatten() for tensor in floats]).half().numpy().tobytes()


@torch.no_grad()
def all_shortened(net: resnet.ResNet, x: Tensor, gates: Tensor, calibration: Tensor | None = None) -> Tensor:
    """Logits (2^L, N, classes) of what is left when blocks are left out; the last block's choice changes fastest.

    Args:
        net: in eval mode, where calibration is given.
        x: (N, 3, H, W) normalised test images.
        gates: (L,) of the blocks that stay.
        calibration: (M, 3, H, W) normalised training images; with them each subset gets running statistics of its
            own, taken from these images in one batch. The statistics that net came with are lost.
    """
    for norm in net.modules() if calibration is not None else ():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0

    def walk(h: Tensor, known: Tensor | None, level: int) -> Tensor:
        if level > net.num_blocks:
            return net.classifier(h.mean(dim=(2, 3)))[None]
        if level == 0:
            return walk(*through(net.stem, h, known), level + 1)
        block, gate = net.blocks[level - 1], float(gates[level - 1])
        return torch.cat([walk(*through(block, h, known, g), level + 1) for g in (0.0, gate)])

    def through(
        part: nn.Module, h: Tensor, known: Tensor | None, *gate: float
    ) -> tuple[Tensor, Tensor | None]:
        if known is not None:
            known = part.train()(known, *gate)
            part.eval()
        return part(h, *gate), known

    return walk(x, calibration, 0)


def distance(q: Tensor, r: Tensor) -> Tensor:
    """Total variation, averaged over images."""
    return (q - r).abs().sum(-1).mul(0.5).mean(-1)


def sampled(values: Tensor, weights: Tensor, size: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Averages (N, C) of `size` students drawn by their probabilities, REPEATS times."""
    drawn = torch.multinomial(weights, REPEATS * size, replacement=True, generator=draws)
    for share in F.one_hot(drawn.view(REPEATS, size), len(weights)).double().mean(dim=1):
        yield torch.einsum("m,mnc->nc", share, values)


def distances(
    net: resnet.ResNet, images: Tensor, p: Tensor, weights: Tensor, draws: torch.Generator
) -> Record:
    """How far the teacher, and averages of sampled students, are from the two exact averages."""
    z = all_shortened(net, images, torch.ones(net.num_blocks)).double()
    with torch.no_grad():
        teacher = net(images, p).double().softmax(-1)
    students = z.softmax(-1)
    found: Record = {}
    for name, values in (("probabilities", students), ("logits", z)):
        exact = torch.einsum("m,mnc->nc", weights, values)
        exact = exact.softmax(-1) if name == "logits" else exact
        curve = []
        for size in SIZES:
            means = sampled(values, weights, size, draws)
            each = [distance(mean.softmax(-1) if name == "logits" else mean, exact) for mean in means]
            curve.append(torch.stack(each).mean().item())
        found[name] = {"teacher": distance(teacher, exact).item(), "curve": curve}
    return found


def ensemble(seed: int) -> lessons.Found:
    """All 64 students of a ResNet-14 trained by stochastic depth; with seed 0 its weights."""
    data, method = faces(24), StochasticDepth()
    config = Config("resnet14", 20, 30, augment=False, seed=seed, evaluate_every=20)
    run = fit(method, data, config, device="cpu", progress=False)
    net = cast(resnet.ResNet, run.network)
    p = method.survival(net)
    with torch.no_grad():  # the run hands over the folded teacher; this undoes the folding
        for block, p_l in zip(net.blocks, p, strict=True):
            for parameter in cast(resnet.Block, block).residual[-1].parameters():
                parameter.div_(float(p_l))
    content = halve(net)  # the weights that the page has
    test = Batches(data.splits["test"], *data.mean_std, batch_size=700, augment=False)
    images, _ = next(test.in_order())
    gates = every_student(net.num_blocks)
    weights = torch.where(gates == 1, p, 1 - p).prod(dim=-1)
    found = {"shared": distances(net, images, p, weights, torch.Generator().manual_seed(5))}
    net.train()
    with fixed_running_stats(net):
        found["own"] = distances(net, images, p, weights, torch.Generator().manual_seed(5))
    net.eval()
    extra: Record = {"train_loss": run.record["history"]["train_loss"]}
    if seed == 0:
        extra["weights"] = base64.b64encode(content).decode()
    return config, told(data), {"figure": "ensemble", "distances": found, **extra}


FIGURES: dict[str, tuple[str, Callable[[int], lessons.Found]]] = {
    **{name: ("chapters-deletion/deletion-{}-s{}", partial(deletion, name)) for name in METHODS},
    "ensemble": ("chapters-ensemble/{}-s{}", ensemble),
    "distillation": ("chapters-b/{}", lessons.distillation),
    "peers": ("chapters-b-peers/{}", lessons.peers),
    "students": ("chapters-b-students/{}", lessons.students),
}


def enter(path: Path, make: Callable[[], Record]) -> int:
    """Make a record, unless it is there; return the exit status."""
    there = path.exists()
    if not there:
        save(path, encode(make()))
    print(f"{path.name} is there" if there else f"wrote {path.name}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one record; return the exit status."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=layout)
    parser.add_argument("what", choices=FIGURES)
    parser.add_argument("--seed", type=int, default=0, help="of a record of one seed (default: 0)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, of a record of several (default: 3)")
    options = parser.parse_args(arguments)
    name, make = FIGURES[options.what]

    def record() -> Record:
        config, data, found = make(options.seeds if name.endswith("/{}") else options.seed)
        where = environment(lessons.CPU)
        return {"kind": "curves", "config": plain(config), "data": data, "environment": where, **found}

    return enter(RUNS / f"{name.format(options.what, options.seed)}.json", record)


if __name__ == "__main__":
    sys.exit(main())
