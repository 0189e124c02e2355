"""Training one network with any method: the loop, checkpoints, resuming (chapters 6 and 7)."""

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sto_lite import records
from sto_lite.checkpoints import Folder, State
from sto_lite.config import Config as Config
from sto_lite.config import plain
from sto_lite.data import Batches, ImageSet
from sto_lite.errors import RunError, memory_told
from sto_lite.evaluation import Evaluation, examine, headline, test_batches
from sto_lite.evaluation import evaluate as evaluate
from sto_lite.files import expand, locked
from sto_lite.gated import suited
from sto_lite.methods import Method, Step, check_single
from sto_lite.own import is_own
from sto_lite.records import Record
from sto_lite.resnet import count_parameters
from sto_lite.speed.precision import Arithmetic
from sto_lite.timebox import Costs, TimeBox, TimeUp, progress_bar, tell_duration

SAVE_EVERY = (
    60.0  # seconds from one checkpoint to the next; the first epoch and the last one have theirs anyhow
)


class Run(NamedTuple):
    """A finished run: the deployed network in eval mode, on the device it was trained on, and its record."""

    network: nn.Module
    record: Record


class Engine(Protocol):
    """Makes the steps and evaluations of a run otherwise than one by one, with the same numbers up to rounding.

    switches: what the record says of it. row: of the last step, see row_of.
    """

    switches: dict[str, bool]
    row: Tensor

    def begin(self, steps: int, generator: torch.Generator, rate: float) -> None:
        """Start an epoch of so many steps; gates come from the generator."""

    def __call__(self, images: Tensor, labels: Tensor) -> Step:
        """One update of the weights."""

    def errors(self, tests: Mapping[str, Batches]) -> dict[str, float]:
        """Top-1 errors (%) of the network as it would be deployed now."""


MakeEngine = Callable[[Method, nn.Module, Arithmetic], Engine | None]


def fit(
    method: Method,
    images: ImageSet,
    config: Config,
    out: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    engine: MakeEngine | None = None,
    box: TimeBox | None = None,
) -> Run:
    """Train a network by a method, as Algorithm 1 does; resume where an interrupted run stopped.

    The last epoch's error is the headline; the best epoch's stands beside it in the record, marked as what it is,
    since choosing it by the test images flatters. A resumed run ends with the same bits, on the CPU with the same
    number of threads, as one that was never interrupted.

    Args:
        method: what is trained and deployed (methods.py).
        images: the data.
        config: the protocol.
        out: folder for checkpoint.pt (once a minute), network.pt and record.json (at the end); None keeps nothing.
        device: default is a CUDA GPU if there is one, else the CPU.
        progress: show a bar; default is yes in a terminal or a notebook, no in CI.
        engine: makes what runs the steps, such as CUDA graphs (speed/graphs.py); default is one by one.
        box: the time that training may take. No epoch is begun that would not be done in time; the first, whose time
            is not known, while any is left.

    Raises:
        RunError: out holds a run of another configuration or data, or a damaged checkpoint; another process trains
            into it, or it cannot be written; the loss or a weight is not finite; memory is used up; the device does
            not compute in this precision.
        TimeUp: the box is used up before the last epoch; the checkpoint is kept.
    """
    training = Training(method, images, config, out, device, engine)
    for _ in training.steps(box, progress):
        pass
    return training.result()


class Training:
    """One run, which can be trained a step at a time, so that several take turns in one thread.

    The state is what a checkpoint saves and a resumed run restores. Arguments as for `fit`.
    """

    def __init__(
        self,
        method: Method,
        images: ImageSet,
        config: Config,
        out: Path | str | None = None,
        device: torch.device | str | None = None,
        engine: MakeEngine | None = None,
    ):
        self.method, self.images, self.config, self.make_engine = method, images, config, engine
        self.out = None if out is None else expand(out)
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
        self.folder = Folder(self.out, self.identity, images.resized_fingerprint) if self.out else None
        self.epoch, self.measured_since, self.costs = 0, 0, Costs()
        self.history: dict[str, list[float]] = {}
        self.run: Run | None = None
        self.unsaved: State | None = None

    def build(self) -> None:
        """The model, its optimiser, and what draws batches and gates."""
        config = self.config
        # One for each machine or revision that trained.
        self.environments = [records.environment(self.device)]
        weights = torch.Generator().manual_seed(config.seed)
        self.method = suited(self.method, config.net)
        if check := getattr(self.method, "check_classes", None):  # of a teacher trained beforehand
            check(self.images.classes)
        model = self.method.build(config.net, len(self.images.classes), weights)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        self.arithmetic = Arithmetic(self.model, self.optimizer, self.device, config.precision)
        self.engine = self.make_engine(self.method, self.model, self.arithmetic) if self.make_engine else None
        if self.engine:
            self.environments[0] |= self.engine.switches
        # Two streams, so that methods with the same seed see the same batches however many gates they draw.
        self.generators = {
            "batches": torch.Generator().manual_seed(2 * config.seed + 1_000_003),
            "gates": torch.Generator().manual_seed(2 * config.seed + 2_000_003),
        }

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.run is not None

    def result(self) -> Run:
        """The finished run.

        Raises:
            TimeUp: it is not finished.
        """
        if self.run:
            return self.run
        kept = f": the same command goes on from there, in {self.out}" if self.out else ""
        left = self.seconds_left
        rest = f"; the rest takes about {tell_duration(left)}" if left else "; no epoch was measured yet"
        raise TimeUp(f"time is up after epoch {self.epoch} of {self.config.epochs}{rest}{kept}")

    @property
    def seconds_left(self) -> float:
        """What the rest takes at the measured speed; 0 before anything was measured."""
        every, epochs = self.config.evaluate_every, self.config.epochs
        return self.costs.of(epochs - self.epoch, -(-epochs // every) - self.epoch // every)

    def steps(self, box: TimeBox | None = None, progress: bool | None = None) -> Generator[None, None, None]:
        """Train to the end, or until the box is used up; yields after each step. Raises as `fit`, but for TimeUp."""
        out, folder = self.out, self.folder
        with contextlib.ExitStack() as stack:
            if folder and not folder.has_record:  # a finished run is only read, also where nobody may write
                stack.enter_context(locked(folder.path))
            stack.enter_context(memory_told(out))
            self.build()
            if self.folder and self.folder.has_record:
                network = self.method.deploy(self.model)
                self.run = Run(network, self.folder.read(network))
                return
            if self.folder:
                self.folder.resume(self.restore)
            try:
                yield from self.train(box, progress)
            finally:  # also when it is interrupted
                self.save()

    def train(self, box: TimeBox | None, progress: bool | None) -> Generator[None, None, None]:
        """The epochs that are left, and the record."""
        batches = Batches(
            self.images.splits["train"],
            *self.images.mean_std,
            self.config.batch_size,
            self.config.augment,
            device=self.device,
        )
        self.check_last_batch(batches)
        tests = self.tests()
        self.method.deploy(self.model)  # a method that looks at its model there sees it before training too
        final: tuple[nn.Module, dict[str, Evaluation]] | None = None
        saved = -math.inf
        with progress_bar(self.config.epochs * len(batches), self.epoch * len(batches), progress) as bar:
            while self.epoch < self.config.epochs:
                last = self.epoch + 1 == self.config.epochs
                due = self.is_due(self.epoch + 1)
                if box and not box.holds(self.costs.of(1, due)):
                    return
                row = yield from self.train_epoch(batches, bar)
                if due:
                    before = time.perf_counter()
                    if self.engine and not last:
                        row |= {f"{name}_error": error for name, error in self.engine.errors(tests).items()}
                        row |= {"test_epoch": self.epoch, "test_seconds": time.perf_counter() - before}
                    else:
                        final = self.test(tests, row)
                self.note(row)
                if self.folder:
                    self.unsaved = self.state() if last else copy.deepcopy(self.state())
                    if last or time.perf_counter() - saved > SAVE_EVERY:
                        self.save()
                        saved = time.perf_counter()
                bar.set_postfix_str(self.summary())
        # It may have been killed after the last checkpoint and before the record.
        self.finish(*(final or self.test(tests, {})))

    def check_last_batch(self, batches: Batches) -> None:
        """Raise ValueError where an epoch's last batch is one image, and the method cannot take it."""
        if len(batches.split) % self.config.batch_size == 1 or self.config.batch_size == 1:
            image, label = batches.normalise(batches.split.images[:1]), batches.split.labels[:1]
            check_single(self.method, self.model, image, label, self.config.batch_size)

    def tests(self) -> dict[str, Batches]:
        """The test splits on the device, by name."""
        mean_std, splits = self.images.mean_std, self.images.test_splits
        return {name: test_batches(split, mean_std, self.device) for name, split in splits.items()}

    def is_due(self, epoch: int) -> bool:
        """Whether the run is evaluated after so many epochs."""
        return epoch == self.config.epochs or epoch % self.config.evaluate_every == 0

    def note(self, row: Mapping[str, float]) -> None:
        """Add an epoch's numbers to the history."""
        for name, value in row.items():
            self.history.setdefault(name, []).append(float(f"{value:.6g}"))
        self.costs = replace(Costs.of_history(self.history, self.measured_since), save=self.costs.save)

    def finish(self, network: nn.Module, tests: dict[str, Evaluation]) -> Run:
        """Keep the network that was trained, and the record."""
        record = self.record(tests)
        if self.folder:
            self.folder.finish(network, record, self.images)
        self.run = Run(network, record)
        return self.run

    def train_epoch(self, batches: Batches, bar: Any) -> Generator[None, None, dict[str, float]]:
        """One epoch: forward, backward, update. Numbers stay on the device; they are read once, at the end."""
        started = time.perf_counter()
        rate = self.config.learning_rate(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        if is_own(self.config.net):  # whose dropout draws from PyTorch's own generator
            torch.manual_seed((self.config.seed << 20) + self.epoch)
        if self.engine:
            self.engine.begin(len(batches), self.generators["gates"], rate)
        rows: list[Tensor] = []
        counts: list[int] = []
        names: list[str] = []
        for images, labels in batches.epoch(self.generators["batches"]):
            step = self.step(images, labels)
            names = ["loss", *(f"loss_{name}" for name in step.parts), "error"]
            rows.append(self.engine.row.clone() if self.engine else row_of(step, labels))
            counts.append(len(labels))
            bar.update()
            yield
        self.epoch += 1
        sums = torch.zeros(())
        trail = []  # the sums after each step; read if a step went wrong
        for row, count in zip(torch.stack(rows).cpu(), counts, strict=True):
            sums = sums + torch.cat([row[:-1] * count, row[-1:]])
            trail.append(sums)
        self.check_finite(trail)
        *losses, wrong = sums.tolist()
        values = zip(names, [*losses, 100 * wrong], strict=True)
        row = {f"train_{name}": value / len(batches.split) for name, value in values}
        return row | {"lr": rate, "seconds": time.perf_counter() - started}

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
        if self.engine:
            return self.engine(images, labels)
        gates = self.generators["gates"]
        return self.arithmetic.update(lambda: self.method.step(self.model, images, labels, gates, self.epoch))

    def test(
        self, tests: Mapping[str, Batches], row: dict[str, float]
    ) -> tuple[nn.Module, dict[str, Evaluation]]:
        """The deployed network and its evaluation on every test split, whose errors go into the epoch's row."""
        before = time.perf_counter()
        network, precision = self.method.deploy(self.model), self.config.precision
        found = {name: examine(network, batches, precision) for name, batches in tests.items()}
        row |= {f"{name}_error": test.error for name, test in found.items()}
        row |= {"test_epoch": self.epoch, "test_seconds": time.perf_counter() - before}
        return network, found

    def save(self) -> None:
        """Write the checkpoint of the last epoch, if that has not been done."""
        if self.folder and self.unsaved:
            started = time.perf_counter()
            self.folder.save(self.unsaved)
            self.unsaved = None
            self.costs.save = time.perf_counter() - started

    def summary(self) -> str:
        """The last errors, for the progress bar."""
        errors = {k.removesuffix("_error"): v[-1] for k, v in self.history.items() if k.endswith("_error")}
        return "error " + ", ".join(f"{name} {value:.1f}%" for name, value in errors.items())

    def record(self, tests: dict[str, Evaluation]) -> Record:
        """What is kept of the finished run."""
        self.environments[-1] |= self.engine.switches if self.engine else {}  # compiling may have failed
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
        if now == earlier[-1]:  # on another machine an epoch takes another time
            self.costs = Costs.of_history(self.history)
        else:
            self.measured_since = self.epoch
        goes_on = self.epoch < self.config.epochs and now != earlier[-1]
        self.environments = [*earlier, now] if goes_on else earlier


def row_of(step: Step, labels: Tensor) -> Tensor:
    """(k,) numbers of a step for the history: its loss, the loss's parts, and how many predictions are wrong."""
    classes = labels.argmax(dim=1) if labels.is_floating_point() else labels  # shares: the largest
    wrong = (step.logits.argmax(dim=1) != classes).sum()
    return torch.stack([step.loss, *step.parts.values(), wrong.to(step.loss.dtype)])
