"""Training one network with any method: the loop, checkpoints, resuming (chapters 6 and 7)."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sto_lite import records
from sto_lite.checkpoints import Folder, State
from sto_lite.config import Config as Config
from sto_lite.config import plain
from sto_lite.data import Batches, ImageSet
from sto_lite.errors import RunError, memory_told
from sto_lite.evaluation import Evaluation, headline
from sto_lite.evaluation import evaluate as evaluate
from sto_lite.files import expand, locked
from sto_lite.methods import Method, Step, check_single
from sto_lite.records import Record
from sto_lite.resnet import count_parameters
from sto_lite.speed.graphs import Recorded, obstacle
from sto_lite.speed.precision import Arithmetic


class Run(NamedTuple):
    """A finished run: the deployed network in eval mode, on the device it was trained on, and its record."""

    network: nn.Module
    record: Record


def fit(
    method: Method,
    images: ImageSet,
    config: Config,
    out: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    graphs: bool = False,
    compiled: bool = False,
) -> Run:
    """Train a network by a method, as Algorithm 1 does; resume where an interrupted run stopped.

    The last epoch's error is the headline; the best epoch's stands beside it in the record, marked as what it is,
    since choosing it by the test images flatters. A resumed run ends with the same bits, on the CPU with the same
    number of threads, as one that was never interrupted.

    Args:
        method: what is trained and deployed (methods.py).
        images: the data.
        config: the protocol.
        out: folder for checkpoint.pt (each epoch), network.pt and record.json (at the end); None keeps nothing.
        device: default is a CUDA GPU if there is one, else the CPU.
        progress: show a bar; default is yes in a terminal or a notebook, no where nobody looks (CI).
        graphs: on a CUDA GPU, record the step once and replay it (speed/graphs.py); the numbers are the same up to
            rounding. Where that cannot be, a line on standard error says why, and the steps run one by one.
        compiled: with graphs, let torch.compile join the operations of each block, which takes half a minute at the
            start.

    Raises:
        RunError: out holds a run of another configuration or data, or a damaged checkpoint; another process trains
            into it, or it cannot be written; the loss or a weight is not finite; memory is used up; the device does
            not compute in this precision.
    """
    out = None if out is None else expand(out)
    with contextlib.nullcontext() if out is None else locked(out), memory_told(out):
        return _Training(method, images, config, out, device, graphs, compiled).run(progress)


class _Training:
    """The state of one run: what a checkpoint saves and a resumed run restores."""

    def __init__(
        self,
        method: Method,
        images: ImageSet,
        config: Config,
        out: Path | None,
        device: torch.device | str | None,
        graphs: bool = False,
        compiled: bool = False,
    ):
        self.method, self.images, self.config = method, images, config
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.identity: dict[str, dict[str, Any]] = {
            "config": plain(config),
            "method": {"name": method.name, **plain(method)},
            "data": {
                "name": images.name,
                "size": images.splits["train"].images.shape[-1],
                "counts": {name: len(split) for name, split in images.splits.items()},
                **images.settings,
                "fingerprint": images.fingerprint,
            },
        }
        self.folder = Folder(out, self.identity, images.resized_fingerprint) if out else None
        # One for each machine or revision that trained.
        self.environments = [records.environment(self.device)]
        weights = torch.Generator().manual_seed(config.seed)
        model = method.build(config.net, len(images.classes), weights)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        self.arithmetic = Arithmetic(self.model, self.optimizer, self.device, config.precision)
        self.recorded: Recorded | None = None
        if graphs:
            reason = (
                obstacle(method, config.precision) if self.device.type == "cuda" else "there is no CUDA GPU"
            )
            if reason:
                print(f"no CUDA graph, the steps run one by one: {reason}", file=sys.stderr)
            else:
                self.recorded = Recorded(method, self.model, self.arithmetic, compiled)  # type: ignore[arg-type]
        # Two streams, so that methods with the same seed see the same batches however many gates they draw.
        self.generators = {
            "batches": torch.Generator().manual_seed(2 * config.seed + 1_000_003),
            "gates": torch.Generator().manual_seed(2 * config.seed + 2_000_003),
        }
        self.epoch = 0
        self.history: dict[str, list[float]] = {}

    def run(self, progress: bool | None) -> Run:
        if self.folder and self.folder.has_record:
            network = self.method.deploy(self.model)
            return Run(network, self.folder.read(network, self.device))
        if self.folder:
            self.folder.resume(self.restore)
        batches = Batches(
            self.images.splits["train"],
            *self.images.mean_std,
            batch_size=self.config.batch_size,
            augment=self.config.augment,
            device=self.device,
        )
        if len(batches.split) % self.config.batch_size == 1 or self.config.batch_size == 1:
            image, label = batches.normalise(batches.split.images[:1]), batches.split.labels[:1]
            check_single(self.method, self.model, image, label, self.config.batch_size)
        network = self.method.deploy(self.model)
        tests: dict[str, Evaluation] = {}
        with progress_bar(self.config.epochs * len(batches), self.epoch * len(batches), progress) as bar:
            while self.epoch < self.config.epochs:
                row = self.train_epoch(batches, bar)
                if self.epoch % self.config.evaluate_every == 0 or self.epoch == self.config.epochs:
                    network, tests = self.test()
                    row |= {f"{name}_error": test.error for name, test in tests.items()}
                    row["test_epoch"] = self.epoch
                for name, value in row.items():
                    self.history.setdefault(name, []).append(float(f"{value:.6g}"))
                if self.folder:
                    self.folder.save(self.state())
                bar.set_postfix_str(self.summary())
        if not tests:  # killed after the last epoch's checkpoint and before the record
            network, tests = self.test()
        record = self.record(tests)
        if self.folder:
            self.folder.finish(self.config.net, network, record)
        return Run(network, record)

    def train_epoch(self, batches: Batches, bar: Any) -> dict[str, float]:
        """One epoch: forward, backward, update. Sums stay on the device; they are read once, at the end."""
        started = time.perf_counter()
        rate = self.config.learning_rate(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        if self.recorded:
            self.recorded.begin(len(batches), self.generators["gates"], rate)
        losses = wrong = torch.zeros((), device=self.device)
        trail: list[
            Tensor
        ] = []  # the sums after each step, which are there anyhow; read if a step went wrong
        names: list[str] = []
        for images, labels in batches.epoch(self.generators["batches"]):
            step = self.step(images, labels)
            names = ["loss", *(f"loss_{name}" for name in step.parts)]
            losses = losses + torch.stack([step.loss, *step.parts.values()]) * len(labels)
            trail.append(losses)
            wrong = wrong + (step.logits.argmax(dim=1) != labels).sum()
            bar.update()
        self.epoch += 1
        sums = dict(zip([*names, "error"], [*losses.tolist(), 100 * wrong.item()], strict=True))
        self.check_finite(trail)
        row = {f"train_{name}": value / len(batches.split) for name, value in sums.items()}
        row |= {"lr": rate, "seconds": time.perf_counter() - started}
        return row

    def check_finite(self, trail: Sequence[Tensor]) -> None:
        """Raise RunError if the epoch just done left the finite numbers; trail: the summed losses after each step."""
        loss = trail[-1][0].item()
        tensors = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        if math.isfinite(loss) and nn.utils.get_total_norm(tensors).isfinite():
            return
        what, where = "a weight is not finite", "after its last step"
        if not math.isfinite(loss):
            sums = torch.stack([losses[0] for losses in trail]).tolist()
            first = next(number for number, value in enumerate(sums) if not math.isfinite(value))
            what, where = f"the loss is {sums[first]}", f"from step {first + 1} of {len(sums)} on"
        kept = ""
        if self.folder and self.epoch > 1:
            kept = f"; the checkpoint of epoch {self.epoch - 1} is kept in {self.folder.path}"
        raise RunError(
            f"{what} in epoch {self.epoch} of {self.config.epochs}, {where}, at rate "
            f"{self.config.learning_rate(self.epoch - 1):g}: take a smaller one{kept}"
        )

    def step(self, images: Tensor, labels: Tensor) -> Step:
        """One update of the weights."""
        if self.recorded:
            return self.recorded(images, labels)
        gates = self.generators["gates"]
        return self.arithmetic.update(lambda: self.method.step(self.model, images, labels, gates, self.epoch))

    def test(self) -> tuple[nn.Module, dict[str, Evaluation]]:
        """The deployed network and its evaluation on every test split."""
        network = self.method.deploy(self.model)
        splits = self.images.test_splits
        return network, {
            name: evaluate(network, split, self.images.mean_std) for name, split in splits.items()
        }

    def summary(self) -> str:
        """The last errors, for the progress bar."""
        errors = {k.removesuffix("_error"): v[-1] for k, v in self.history.items() if k.endswith("_error")}
        return "error " + ", ".join(f"{name} {value:.1f}%" for name, value in errors.items())

    def record(self, tests: dict[str, Evaluation]) -> Record:
        return {
            "format": records.FORMAT,
            **self.identity,
            "parameters": count_parameters(self.model),
            "environment": self.environments[-1],
            **({"earlier_environments": self.environments[:-1]} if len(self.environments) > 1 else {}),
            "finished": time.strftime("%Y-%m-%d"),
            "result": {name: headline(name, test, self.history) for name, test in tests.items()},
            "history": self.history,
            "labels": {name: split.labels.tolist() for name, split in self.images.test_splits.items()},
            "predictions": {name: test.predictions.tolist() for name, test in tests.items()},
            "confidence": {
                name: [round(c, 4) for c in test.confidence.tolist()] for name, test in tests.items()
            },
        }

    def state(self) -> State:
        """What a checkpoint keeps of the epoch just done."""
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.arithmetic.scaler.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "history": self.history,
            "environments": json.dumps(self.environments),
        }

    def restore(self, state: State) -> None:
        """Go on from a checkpoint's state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.arithmetic.scaler.is_enabled():
            self.arithmetic.scaler.load_state_dict(state["scaler"])
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name])
        self.epoch, self.history = state["epoch"], state["history"]
        earlier, (now,) = json.loads(state["environments"]), self.environments
        goes_on = self.epoch < self.config.epochs and now != earlier[-1]
        self.environments = [*earlier, now] if goes_on else earlier


def progress_bar(total: int, done: int, show: bool | None) -> Any:
    """A bar over all steps of a run; by default where somebody looks: a terminal, or a notebook."""
    if show is None:
        watched = sys.stderr.isatty() or ("ipykernel" in sys.modules and not os.environ.get("STO_BOOK"))
        show = watched and not os.environ.get("CI")
    return tqdm(total=total, initial=done, disable=not show, unit="step", dynamic_ncols=True)
