"""Whole runs as lanes: when that can be, which join in a launch, and how they are trained (chapter 7)."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sto_lite import registry
from sto_lite.errors import RunError, StoError
from sto_lite.evaluation import Evaluation
from sto_lite.files import locked
from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, StochasticDepth

if TYPE_CHECKING:
    from sto_lite.experiments.jobs import Job
    from sto_lite.train import Run, _Training

T = TypeVar("T")


class Untested(RunError):
    """There are no lanes, as their self-test failed; today's path trains."""


SAVED = 60.0  # seconds from one checkpoint of a run to the next
JOINED = 9  # runs of a launch, at most


def obstacle(device: torch.device) -> str | None:
    """Why there are no lanes on a device, None where there are; the self-test is not asked (selftest.proved)."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "this GPU is of compute capability below 8"
        return None
    return None if os.environ.get("TRITON_INTERPRET") == "1" else "there is no CUDA GPU"


def groups(jobs: Sequence["Job"], most: int = JOINED) -> tuple[list[list["Job"]], list["Job"]]:
    """Jobs that may share a launch, and those that cannot be lanes at all.

    Together go runs of one image set, network, batch size, augmentation and precision, of any method that has lanes,
    any seed, rate and length; most: in one launch.
    """
    found: dict[tuple, list[Job]] = {}
    rest = []
    for job in jobs:
        kind = registry.METHODS[job.method]
        if job.config.precision == "fp16" or not (
            kind in (Baseline, StochasticDepth) or issubclass(kind, FusedSTO)
        ):
            rest.append(job)
            continue
        c = job.config
        found.setdefault((job.source, c.net, c.batch_size, c.augment, c.precision), []).append(job)
    return [same[i : i + most] for same in found.values() for i in range(0, len(same), most)], rest


def told(reason: str) -> None:
    """Say in one line that runs go on by today's path."""
    print(f"no lanes, the runs are trained one by one: {reason}", file=sys.stderr)


def along(
    jobs: Sequence["Job"], make: Callable[["Job"], "_Training"], device: torch.device, most: int = JOINED
) -> Iterator[tuple["Job", "Run | StoError"]]:
    """Train as lanes whatever can be; gives each job when it ends. One that is not given is left to do otherwise.

    Where there are no lanes, or they do not pass their self-test, a line on standard error says so.

    Args:
        jobs: none of them finished.
        make: a job's run, not begun (train._Training).
        device: where.
        most: runs of a launch.
    """
    if reason := obstacle(device):
        told(reason)
        return
    for group in groups(jobs, most)[0]:
        runs, begun = [], []
        for job in group:
            try:
                runs.append(make(job))
                begun.append(job)
            except (StoError, ValueError) as trouble:
                yield job, trouble if isinstance(trouble, StoError) else RunError(str(trouble))
        try:
            for number, outcome in train(runs):
                yield begun[number], outcome
        except Untested as trouble:
            told(str(trouble))


def train(runs: Sequence["_Training"], saved: float = SAVED) -> Iterator[tuple[int, "Run | RunError"]]:
    """Train runs of a group (`groups`) to their ends, side by side; gives each, by its number, when it ends.

    A run goes on from its checkpoint, if it has one. One that fails, because its loss is not finite or its folder
    cannot be written, gives its error and leaves the others alone. Its record says in how large a launch it was.

    Args:
        runs: as train.fit makes them, on one device and one image set.
        saved: seconds from one checkpoint of a run to the next.

    Raises:
        Untested: lanes do not pass their self-test here; nothing was trained.
        RunError: memory is used up; the checkpoints are kept.
    """
    from sto_lite.speed.lanes.running import Lanes
    from sto_lite.speed.lanes.selftest import proved
    from sto_lite.train import memory_told

    with ExitStack() as held:
        held.enter_context(memory_told(None))
        going: dict[int, _Training] = {}
        for number, run in enumerate(runs):
            try:
                if run.folder:
                    held.enter_context(locked(run.folder.path))
                    if not run.folder.has_record:
                        run.folder.resume(run.restore)
                going[number] = run
            except RunError as trouble:
                yield number, trouble
        over = {n: run for n, run in going.items() if run.epoch >= run.config.epochs or has_record(run)}
        for number, run in over.items():
            del going[number]
            yield number, attempt(partial(finish, run))
        if not going:
            return
        first = next(iter(going.values()))
        c, size = first.config, first.images.splits["train"].images.shape[-1]
        tiles = proved(
            c.net, c.precision, size, min(c.batch_size, len(first.images.splits["train"])), first.device
        )
        if tiles is None:
            raise Untested("lanes did not pass their self-test on this device")
        members = list(going)
        trained: list[Any] = [going[n] for n in members]  # each a running.Member
        lanes = Lanes(trained, first.images, first.device, tiles)
        for run in going.values():
            run.environments[-1] = {**run.environments[-1], "lanes": len(going)}
        kept = dict.fromkeys(members, time.monotonic())
        while going:
            rows = lanes.epoch([n in going for n in members])
            for place, number in enumerate(members):
                if number not in going:
                    continue
                run = going[number]
                due = time.monotonic() - kept[number] >= saved
                ended = run.epoch == run.config.epochs
                if due or ended or run.epoch % run.config.evaluate_every == 0 or not lanes.finite(place):
                    lanes.store(place)
                outcome = attempt(partial(after, run, rows[place], lanes.trail(place), due))
                if due:
                    kept[number] = time.monotonic()
                if outcome is not None:
                    del going[number]
                    yield number, outcome


def has_record(run: "_Training") -> bool:
    """Whether the run was finished before."""
    return run.folder is not None and run.folder.has_record


def attempt(end: Callable[[], T]) -> "T | RunError":
    """What it gives, or its error."""
    try:
        return end()
    except RunError as trouble:
        return trouble


def after(run: "_Training", row: dict[str, float], trail: Sequence[torch.Tensor], due: bool) -> "Run | None":
    """What the trainer does after an epoch: look for what is not finite, evaluate, keep; gives a run that ended."""
    run.check_finite(trail)
    ended = run.epoch == run.config.epochs
    tests: dict[str, Evaluation] = {}
    network = None
    if ended or run.epoch % run.config.evaluate_every == 0:
        network, tests = run.test()
        row |= {f"{name}_error": test.error for name, test in tests.items()} | {"test_epoch": run.epoch}
    for name, value in row.items():
        run.history.setdefault(name, []).append(float(f"{value:.6g}"))
    if run.folder and (due or ended):
        run.folder.save(run.state())
    return finish(run, network, tests) if ended else None


def finish(
    run: "_Training", network: torch.nn.Module | None = None, tests: dict[str, Evaluation] | None = None
) -> "Run":
    """The record of a run that has done its epochs; one that was finished before is read."""
    from sto_lite.train import Run

    if run.folder and run.folder.has_record:
        network = run.method.deploy(run.model)
        return Run(network, run.folder.read(network, run.device))
    if network is None or not tests:
        network, tests = run.test()
    record = run.record(tests)
    if run.folder:
        run.folder.finish(run.config.net, network, record)
    return Run(network, record)
