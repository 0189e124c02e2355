"""Whole runs as lanes: when that can be, which join in a launch, and how they are trained (chapter 7)."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sto_lite import registry
from sto_lite.data import Batches
from sto_lite.errors import RunError, StoError, memory_told
from sto_lite.evaluation import Evaluation, test_batches
from sto_lite.files import locked
from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, StochasticDepth
from sto_lite.own import is_own
from sto_lite.timebox import Costs, TimeBox
from sto_lite.train import SAVE_EVERY, Run, Training

if TYPE_CHECKING:
    from sto_lite.experiments.jobs import Job
    from sto_lite.speed.lanes.running import Lanes

T = TypeVar("T")


class Untested(RunError):
    """There are no lanes, as their self-test failed; today's path trains."""


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
        kind = registry.find(job.method)
        known = kind in (Baseline, StochasticDepth, FusedSTO) and not is_own(job.config.net)
        if not known or job.config.precision == "fp16":
            rest.append(job)
            continue
        c = job.config
        found.setdefault((job.source, c.net, c.batch_size, c.augment, c.precision), []).append(job)
    return [same[i : i + most] for same in found.values() for i in range(0, len(same), most)], rest


def told(reason: str) -> None:
    """Say in one line that runs go on by today's path."""
    print(f"no lanes, the runs are trained one by one: {reason}", file=sys.stderr)


def along(
    jobs: Sequence["Job"],
    make: Callable[["Job"], Training],
    device: torch.device,
    most: int = JOINED,
    box: TimeBox | None = None,
) -> Iterator[tuple["Job", Run | StoError]]:
    """Train as lanes whatever can be; gives each job when it ends. One that is not given is left to do otherwise.

    Where there are no lanes, or they do not pass their self-test, a line on standard error says so.

    Args:
        jobs: none of them finished.
        make: a job's run, not begun.
        device: where.
        most: runs of a launch.
        box: the time there is; a run that it stops gives its TimeUp.
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
            for number, outcome in train(runs, box):
                yield begun[number], outcome
        except Untested as trouble:
            told(str(trouble))


def train(runs: Sequence[Training], box: TimeBox | None = None) -> Iterator[tuple[int, Run | StoError]]:
    """Train runs of a group (`groups`) to their ends, side by side; gives each, by its number, when it ends.

    A run goes on from its checkpoint, if it has one. One that fails, because its loss is not finite or its folder
    cannot be written, gives its error and leaves the others alone. No epoch is begun that the box would not hold, but
    for the first.

    Raises:
        Untested: lanes do not pass their self-test here; nothing was trained.
        RunError: memory is used up; the checkpoints are kept.
    """
    from sto_lite.speed.lanes.running import Lanes
    from sto_lite.speed.lanes.selftest import proved

    with ExitStack() as held:
        held.enter_context(memory_told(None))
        going: dict[int, Training] = {}
        for number, run in enumerate(runs):
            if (outcome := attempt(partial(begin, run, held))) is None:
                going[number] = run
            else:
                yield number, outcome
        if not going:
            return
        first = next(iter(going.values()))
        c, split = first.config, first.images.splits["train"]
        tiles = proved(
            c.net, c.precision, split.images.shape[-1], min(c.batch_size, len(split)), first.device
        )
        if tiles is None:
            raise Untested("lanes did not pass their self-test on this device")
        members = list(going)
        trained: list[Any] = [going[n] for n in members]  # each a running.Member
        lanes = Lanes(trained, first.images, first.device, tiles)
        mean_std = first.images.mean_std
        tests = {n: test_batches(s, mean_std, first.device) for n, s in first.images.test_splits.items()}
        saved = dict.fromkeys(members, -math.inf)
        while going and (box is None or box.holds(sum(next_cost(run) for run in going.values()))):
            rows = lanes.epoch([n in going for n in members])
            for place, number in enumerate(members):
                if number in going:
                    due = time.perf_counter() - saved[number] > SAVE_EVERY
                    outcome = attempt(partial(after, going[number], lanes, place, rows[place], tests, due))
                    if due:
                        saved[number] = time.perf_counter()
                    if outcome is not None:
                        del going[number]
                        yield number, outcome
        for number, run in going.items():  # the box is used up
            yield number, attempt(partial(leave, run, lanes, members.index(number)))


def begin(run: Training, held: ExitStack) -> Run | None:
    """Build a run, and take its checkpoint up; gives a run that has done its epochs before."""
    if run.folder and run.folder.has_record:
        for _ in run.steps():
            pass
        return run.result()
    if run.out:
        held.enter_context(locked(run.out))
    run.build()
    run.environments[0] |= {"lanes": True}
    if run.folder:
        run.folder.resume(run.restore)
    if run.epoch < run.config.epochs:
        return None
    for _ in run.train(None, False):  # only the record is missing
        pass
    return run.result()


def next_cost(run: Training) -> float:
    """Seconds that a run's next epoch takes of the launch's, as it was measured."""
    return run.costs.of(1, is_due(run, run.epoch + 1))


def is_due(run: Training, epoch: int) -> bool:
    """Whether the run is evaluated after so many epochs."""
    return epoch == run.config.epochs or epoch % run.config.evaluate_every == 0


def attempt(end: Callable[[], T]) -> T | StoError:
    """What it gives, or its error."""
    try:
        return end()
    except StoError as trouble:
        return trouble


def after(
    run: Training, lanes: "Lanes", place: int, row: dict[str, float], tests: Mapping[str, Batches], save: bool
) -> Run | None:
    """What the trainer does after an epoch: look for what is not finite, evaluate, keep; gives a run that ended."""
    last = run.epoch == run.config.epochs
    if save or is_due(run, run.epoch) or not lanes.finite(place):
        lanes.store(place)
    run.check_finite(lanes.trail(place))
    measured: dict[str, Evaluation] = {}
    network = None
    if is_due(run, run.epoch):
        before = time.perf_counter()
        network, measured = run.test(tests)
        row |= {f"{name}_error": test.error for name, test in measured.items()}
        row |= {"test_epoch": run.epoch, "test_seconds": time.perf_counter() - before}
    for name, value in row.items():
        run.history.setdefault(name, []).append(float(f"{value:.6g}"))
    run.costs = replace(Costs.of_history(run.history, run.measured_since), save=run.costs.save)
    if run.folder and (save or last):
        run.unsaved = run.state()
        run.save()
    if network is None or not last:
        return None
    record = run.record(measured)
    if run.folder:
        run.folder.finish(network, record, run.images)
    run.run = Run(network, record)
    return run.run


def leave(run: Training, lanes: "Lanes", place: int) -> Run:
    """Keep a run that its time box stops; raises its TimeUp."""
    lanes.store(place)
    if run.folder:
        run.unsaved = run.state()
        run.save()
    return run.result()
