"""Epochs of several runs as lanes (chapter 7): what each run draws, and what comes back of it."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sto_lite.config import Config
from sto_lite.data import Batches, ImageSet
from sto_lite.fused import FusedSTO
from sto_lite.methods import Method, StochasticDepth
from sto_lite.resnet import ResNet
from sto_lite.speed.lanes.layout import Roles
from sto_lite.speed.lanes.plan import Plan
from sto_lite.speed.lanes.tiles import Tile
from sto_lite.speed.precision import PRECISIONS

# Steps of the longer recording. A whole epoch of ResNet-110 would be one of 100,000 launches (453 a step), which take
# seconds to record, and would spare the host a dozen replays an epoch, each a fraction of the steps that it starts.
CHUNK = 16


class Member(Protocol):
    """A run: what the trainer holds of it. epoch: how many are done."""

    method: Method
    config: Config
    model: ResNet
    optimizer: torch.optim.Optimizer
    generators: dict[str, torch.Generator]
    epoch: int


def roles(method: Method) -> Roles:
    """The lanes of a method: baseline, stochastic depth, or STO with any of its switches."""
    if isinstance(method, FusedSTO):
        return Roles(
            [method.running_stats == "both"] * method.students + [True],
            [True] * method.students + [method.teacher_backward],
            [method.temperature, method.lam, float(method.detach)],
        )
    return Roles([True], [True], [1.0, 0.0, 1.0])


def draw_gates(method: Method, model: ResNet, steps: int, generator: torch.Generator) -> Tensor:
    """(steps, S, L): the numbers that so many calls of method.step draw, students first, by one call."""
    if not isinstance(method, StochasticDepth):
        return torch.ones(steps, 1, model.num_blocks)
    p = method.survival(model)
    if not isinstance(method, FusedSTO):
        return torch.bernoulli(p.repeat(steps, 1, 1), generator=generator)
    drawn = torch.bernoulli(p.repeat(steps, method.students, 1), generator=generator)
    return torch.cat([drawn, p.repeat(steps, 1, 1)], dim=1)


def draw_batches(count: int, pad: int, augment: bool, generator: torch.Generator) -> Tensor:
    """(count, 4) int32, image, top, left, flip: the numbers that Batches.epoch draws."""
    order = torch.randperm(count, generator=generator)
    corner = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    if not augment:
        corner, flip = torch.zeros_like(corner), torch.zeros_like(flip)
    return torch.cat([order[:, None], corner, flip[:, None]], dim=1).int()


class Lanes:
    """Several runs of one network on one image set, as lanes of one launch.

    A run is the same as by the trainer's steps, up to rounding: its batches, crops, flips and gates come from its own
    generators in the same order. The runs' models hold their state at the beginning; `store` hands it back.

    Args:
        members: the runs; network, batch size, augmentation and precision are the same in all.
        images: the data.
        device: a CUDA GPU; or the CPU, where Triton's interpreter stands in.
        tiles: see Plan.
    """

    def __init__(
        self,
        members: Sequence[Member],
        images: ImageSet,
        device: torch.device,
        tiles: dict[str, Tile] | None = None,
    ):
        self.members = list(members)
        config = members[0].config
        self.batches = Batches(
            images.splits["train"], *images.mean_std, config.batch_size, config.augment, device=device
        )
        dtype = PRECISIONS[config.precision]
        self.plan = Plan(
            members[0].model, [roles(m.method) for m in members], self.batches, device, dtype, tiles
        )
        self.recorded: dict[tuple[int, int], Callable[[], None]] = {}
        self.seen: set[int] = set()
        for run, member in enumerate(members):
            self.plan.rows.load(run, member.model, member.optimizer)

    def store(self, run: int) -> None:
        """Hand a run's state back to its model and optimiser."""
        self.plan.rows.store(run, self.members[run].model, self.members[run].optimizer)

    def epoch(self, active: Sequence[bool] | None = None) -> list[dict[str, float]]:
        """One epoch of every active run (default: all); their epochs count up, the others rest.

        Returns:
            For each run the trainer's row of history, means over the epoch's images, `seconds` its share of
            the launch's; nothing for those that rest.
            `train_loss` may be infinite or NaN, and the weights too: the caller looks.
        """
        started = time.perf_counter()
        active = active or [True] * len(self.members)
        count, size = len(self.batches.split), self.plan.batch
        with torch.cuda.device_of(self.plan.clock):  # Triton launches on the current device
            self.begin(active)
            self.run(size, count // size)
            if count % size:
                self.run(count % size, 1)
        self.sums = self.plan.losses.double().sum(dim=2).cpu()  # waits for the epoch
        rows = []
        for run, (member, is_active) in enumerate(zip(self.members, active, strict=True)):
            rows.append(self.row(run) if is_active else {})
            member.epoch += is_active
        for row in filter(None, rows):
            row["seconds"] = (time.perf_counter() - started) / sum(active)
        return rows

    def begin(self, active: Sequence[bool]) -> None:
        """Draw an epoch of every active run, and send it to the device."""
        plan, steps = self.plan, len(self.batches)
        gates = torch.zeros(plan.gates.shape)
        lane = 0
        for run, (member, role) in enumerate(zip(self.members, plan.roles, strict=True)):
            end = lane + len(role.counted)
            if active[run]:
                drawn = draw_gates(member.method, member.model, steps, member.generators["gates"])
                gates[:, 0, :-1, lane:end] = drawn.transpose(1, 2).float()
                gates[:, 0, -1, lane:end] = 1
                b, c = self.batches, member.config
                draws = draw_batches(len(b.split), b.pad, b.augment, member.generators["batches"])
                plan.draws[run].copy_(draws, non_blocking=True)
                hyper = [c.learning_rate(member.epoch), c.momentum, c.weight_decay]
                plan.hyper[run].copy_(torch.tensor(hyper), non_blocking=True)
            lane = end
        gates[:, 1] = gates[:, 0] * plan.learning
        plan.gates.copy_(gates, non_blocking=True)
        plan.clock.zero_()

    def run(self, images: int, times: int) -> None:
        """So many steps of so many images; on a GPU the first is launched, the others are replayed."""
        if self.plan.device.type != "cuda":
            for _ in range(times):
                self.plan.step(images)
            return
        if images not in self.seen and times:
            self.seen.add(images)  # compiles the kernels, which a recording cannot
            self.plan.step(images)
            times -= 1
        for chunk in (CHUNK, 1):
            while times >= chunk:
                self.replay(images, chunk)
                times -= chunk

    def replay(self, images: int, steps: int) -> None:
        """Replay a recording of so many steps, made when it is first asked for."""
        key = (images, steps)
        if key not in self.recorded:
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize(self.plan.device)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                for _ in range(steps):
                    self.plan.step(images)
            self.recorded[key] = graph.replay
        self.recorded[key]()

    def row(self, run: int) -> dict[str, float]:
        """The history of a run's last epoch."""
        member = self.members[run]
        student, teacher, distillation, wrong = (
            self.sums[:, run].sum(dim=0) / len(self.batches.split)
        ).tolist()
        if isinstance(member.method, FusedSTO):
            parts = {"student": student, "teacher": teacher, "distillation": distillation}
        else:
            parts = {"student" if isinstance(member.method, StochasticDepth) else "full": teacher}
        row = {"train_loss": sum(parts.values()), **{f"train_loss_{name}": v for name, v in parts.items()}}
        return row | {"train_error": 100 * wrong, "lr": member.config.learning_rate(member.epoch)}

    def trail(self, run: int) -> list[Tensor]:
        """The run's losses summed up to each step of its last epoch, a tensor of one number each."""
        return list(self.sums[:, run, :3].sum(dim=1, keepdim=True).cumsum(dim=0))

    def finite(self, run: int) -> bool:
        """Whether a run's weights and statistics are all finite."""
        rows = self.plan.rows
        return bool(rows.master[run].isfinite().all() & rows.running[run].isfinite().all())
