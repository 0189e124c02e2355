"""Before the first run on a card: a step of lanes beside the same step in float64, and replays beside launches
(chapter 7).
"""

import copy
import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sto_lite import resnet
from sto_lite.config import Config
from sto_lite.data import Batches, ImageSet, Split
from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, Method, StochasticDepth
from sto_lite.resnet import ResNet
from sto_lite.speed.lanes.running import CHUNK, Lanes
from sto_lite.speed.lanes.tiles import TUNED, Tile, tuned
from sto_lite.speed.precision import Arithmetic

State = dict[str, Tensor]


@dataclass
class Trial:
    """A run for one step (running.Member)."""

    method: Method
    config: Config
    model: ResNet
    epoch: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    generators: dict[str, torch.Generator] = field(init=False)

    def __post_init__(self) -> None:
        c = self.config
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), c.lr, c.momentum, weight_decay=c.weight_decay, nesterov=True
        )
        self.generators = {n: torch.Generator().manual_seed(c.seed) for n in ("batches", "gates")}

    def state(self) -> State:
        """Momentum by parameter, and running statistics, in float64: what a step leaves."""
        momenta = {
            name: self.optimizer.state[p]["momentum_buffer"].double()
            for name, p in self.model.named_parameters()
            if "momentum_buffer" in self.optimizer.state[p]
        }
        return momenta | {name: b.double() for name, b in self.model.named_buffers() if b.is_floating_point()}


def trial(net: str, config: Config, device: torch.device, method: Method | None = None) -> Trial:
    """A network as wide as `net` with one block a stage, and a step of STO, or of another method, on it."""
    settings = {**resnet.NETWORKS[net], "blocks_a_stage": 1}
    model = ResNet(num_classes=7, **settings)
    resnet.initialise(model, torch.Generator().manual_seed(0))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    # A gate of 0.8 or more keeps every block in most draws, so that the step has gradients everywhere.
    return Trial(method or FusedSTO(p_last=0.8), config, model.to(device))


def noise(count: int, size: int) -> ImageSet:
    """So many images."""
    dice = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, 1, size, size), generator=dice, dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 7, (count,), generator=dice))
    return ImageSet("self-test", tuple("abcdefg"), {"train": split})


def by_steps(run: Trial, images: ImageSet, device: torch.device, exact: bool) -> State:
    """One step of the trainer's kind; exact: in float64."""
    batches = Batches(images.splits["train"], *images.mean_std, run.config.batch_size, device=device)
    x, y = next(batches.epoch(run.generators["batches"]))
    if exact:
        run = Trial(run.method, run.config, copy.deepcopy(run.model).double())
        x = x.double()
    precision = "float32" if exact else run.config.precision
    arithmetic = Arithmetic(run.model, run.optimizer, device, precision)
    run.model.train()
    arithmetic.update(lambda: run.method.step(run.model, x, y, run.generators["gates"]))
    return run.state()


def error(found: State, exact: State) -> tuple[float, dict[str, float]]:
    """Relative distance of all tensors together, and of each."""
    own = {
        n: ((found[n] - v).norm() / v.norm().clamp(min=1e-6)).item() if n in found else 1.0
        for n, v in exact.items()
    }
    whole = torch.cat([v.flatten() for v in exact.values()])
    apart = torch.cat([(found.get(n, 0 * v) - v).flatten() for n, v in exact.items()])
    return (apart.norm() / whole.norm()).item(), own


def fault(net: str, config: Config, size: int, device: torch.device, tiles: dict[str, Tile]) -> str | None:
    """What is wrong with a step of lanes, None if nothing: it may be 3 times as far from float64 as today's step."""
    images = noise(config.batch_size, size)
    exact = by_steps(trial(net, config, device), images, device, True)
    today, today_each = error(by_steps(trial(net, config, device), images, device, False), exact)
    run = trial(net, config, device)
    lanes = Lanes([run], images, device, tiles)
    lanes.epoch()
    lanes.store(0)
    ours, ours_each = error(run.state(), exact)
    if not ours <= 3 * today + 1e-4:
        return f"a step is {ours:.1e} from float64, today's {today:.1e}"
    for name, value in ours_each.items():
        if not value <= 10 * today_each[name] + 1e-2:
            return f"{name} is {value:.1e} from float64, today's {today_each[name]:.1e}"
    return None


class Eager(Lanes):
    """Lanes that launch every step."""

    def replay(self, images: int, steps: int) -> None:
        """So many steps."""
        for _ in range(steps):
            self.plan.step(images)


def stale(net: str, config: Config, size: int, device: torch.device, tiles: dict[str, Tile]) -> str | None:
    """What a replay leaves otherwise than launches do, None if all is the same bit for bit.

    Two epochs of three methods, with recordings of CHUNK steps, of one, and of a smaller last batch.
    """
    images = noise(config.batch_size * (CHUNK + 2) + max(1, config.batch_size // 3), size)
    left: list[State] = []
    for kind in (Lanes, Eager):
        methods: tuple[Method, ...] = (Baseline(), FusedSTO(p_last=0.5), StochasticDepth(p_last=0.5))
        configs = [replace(config, lr=0.01, seed=seed) for seed in range(len(methods))]
        runs = [trial(net, c, device, method) for c, method in zip(configs, methods, strict=True)]
        lanes = kind(runs, images, device, tiles)
        for _ in range(2):
            lanes.epoch()
        rows = lanes.plan.rows
        left.append(
            {"weights": rows.master, "momentum": rows.momentum, "statistics": rows.running}
            | {"counts": rows.passed, "losses": lanes.plan.losses}
        )
    for name, value in left[1].items():
        if not torch.equal(left[0][name], value):
            return f"replayed steps leave other {name} than launched ones"
    return None


class Verdict(NamedTuple):
    """tiles: with which lanes passed, None if with none. faults: what was wrong, by table of tiles."""

    tiles: dict[str, Tile] | None
    faults: dict[str, str]


@lru_cache
def proved(
    net: str, precision: str, size: int, batch_size: int, device: torch.device, table: Path = TUNED
) -> Verdict:
    """The tiles with which lanes passed the self-test, the card's measured ones first.

    A line on standard error tells what failed. The answer is kept for the process.
    """
    config = replace(Config(), precision=precision, batch_size=batch_size, lr=0.1)
    card = tuned(torch.cuda.get_device_name(device), table) if device.type == "cuda" else {}
    faults: dict[str, str] = {}
    for name, tiles in (("tuned", card), ("default", {})):
        if name == "tuned" and not card:
            continue
        try:
            found = fault(net, config, size, device, tiles)
            if found is None and device.type == "cuda":  # elsewhere nothing is replayed
                found = stale(net, config, size, device, tiles)
        except Exception as trouble:  # the compiler's errors are of many kinds
            found = f"{type(trouble).__name__}: {trouble}"[:2000]
        if found is None:
            return Verdict(tiles, faults)
        faults[name] = found
        told = found.splitlines()[0]
        print(f"lanes with {name} tiles failed their self-test in {precision}: {told}", file=sys.stderr)
    return Verdict(None, faults)
