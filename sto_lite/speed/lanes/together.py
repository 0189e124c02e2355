"""Whole runs as lanes: when that can be, and how several are trained in one launch (chapter 7)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sto_lite.data import Batches
from sto_lite.errors import RunError, StoError, memory_told
from sto_lite.evaluation import Evaluation
from sto_lite.files import locked
from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, StochasticDepth
from sto_lite.own import is_own
from sto_lite.timebox import TimeBox, foretell, progress_bar, whole_runs
from sto_lite.train import SAVE_EVERY, Run, Training

if TYPE_CHECKING:
    from sto_lite.speed.lanes.running import Lanes

T = TypeVar("T")


class Untested(RunError):
    """There are no lanes, as their self-test failed; nothing was trained."""


def obstacle(device: torch.device) -> str | None:
    """Why there are no lanes on a device, None where there are; the self-test is not asked (selftest.proved)."""
    if device.type != "cuda":
        return "there is no CUDA GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "this GPU is of compute capability below 8"
    return None if find_spec("triton") else "Triton is not installed"


def can_join(kind: type, net: str, precision: str) -> bool:
    """Whether runs of a method can be lanes; methods and networks of one's own cannot."""
    return precision != "fp16" and not is_own(net) and kind in (Baseline, StochasticDepth, FusedSTO)


def train(runs: Sequence[Training], box: TimeBox | None = None) -> Iterator[tuple[int, Run | Exception]]:
    """Train runs to their ends, side by side; gives each, by its number, when it ends.

    Runs share the images and their size, network, batch size, augmentation and precision. A run goes on from its
    checkpoint, if it has one; interrupted, it loses what came after its last one. One that fails, because its loss is
    not finite or its folder cannot be written, gives its error and leaves the others alone. No epoch is begun that
    the box would not hold, but for the first; and where the box does not hold all runs, the last ones rest.

    Raises:
        Untested: lanes do not pass their self-test here.
        RunError: memory is used up; the checkpoints are kept.
    """
    from sto_lite.speed.lanes.running import Lanes
    from sto_lite.speed.lanes.selftest import proved

    with ExitStack() as held, memory_told():
        going: dict[int, Training] = {}
        for number, run in enumerate(runs):
            if (end := attempt(partial(begin, run, held))) is None:
                going[number] = run
            else:
                yield number, end
        if not going:
            return
        members, first = list(going), next(iter(going.values()))
        c, split, device = first.config, first.images.splits["train"], first.device
        size, batch = split.images.shape[-1], min(c.batch_size, len(split))
        if split.labels.is_floating_point():
            raise Untested("lanes take a class for each image, and no shares")
        if (tiles := proved(c.net, c.precision, size, batch, device).tiles) is None:
            raise Untested("lanes did not pass their self-test on this device")
        trained: list[Any] = list(going.values())  # each a running.Member
        lanes, tests = Lanes(trained, first.images, device, tiles), first.tests()
        saved, told = dict.fromkeys(members, -math.inf), box is None
        epochs, done = sum(run.config.epochs for run in runs), sum(run.epoch for run in runs)
        bar = held.enter_context(progress_bar(epochs, done, None, "epoch"))
        while going:
            active = list(going)
            if box and all(run.costs.train for run in going.values()):
                whole = whole_runs([run.seconds_left for run in going.values()], box.left)
                if not told:
                    print(foretell(whole, len(going), box.left), flush=True)
                told, active = True, active[: max(whole, 1)]
            cost = sum(going[n].costs.of(1, going[n].is_due(going[n].epoch + 1)) for n in active)
            if box and not box.holds(cost):
                break
            rows = lanes.epoch([n in active for n in members])
            for number in active:
                run, place = going[number], members.index(number)
                keep = time.perf_counter() - saved[number] > SAVE_EVERY
                if keep:
                    saved[number] = time.perf_counter()
                end = attempt(partial(after, run, lanes, place, rows[place], tests, keep))
                bar.update()
                if end is not None:
                    del going[number]
                    yield number, end
        for number, run in going.items():  # the box is used up
            yield number, attempt(partial(leave, run, lanes, members.index(number)))


def begin(run: Training, held: ExitStack) -> Run | None:
    """Build a run, and take its checkpoint up; gives a run that has done its epochs before."""
    finished = run.folder and run.folder.has_record
    if not finished:
        if run.out:
            held.enter_context(locked(run.out))
        run.build()
        run.environments[0] |= {"lanes": True}
        split, size = run.images.splits["train"], run.config.batch_size
        run.check_last_batch(Batches(split, *run.images.mean_std, size, False, device=run.device))
        if run.folder:
            run.folder.resume(run.restore)
        if run.epoch < run.config.epochs:
            return None
    for _ in run.steps() if finished else run.train(None, False):  # the record is read, or alone is missing
        pass
    return run.result()


def attempt(end: Callable[[], T]) -> T | Exception:
    """What it gives, or its error."""
    try:
        return end()
    except (StoError, ValueError, OSError) as trouble:
        return trouble


def after(
    run: Training, lanes: "Lanes", place: int, row: dict[str, float], tests: Mapping[str, Batches], keep: bool
) -> Run | None:
    """What the trainer does after an epoch: look for what is not finite, evaluate, keep; gives a run that ended."""
    last, due = run.epoch == run.config.epochs, run.is_due(run.epoch)
    if keep or due or not lanes.finite(place):
        lanes.store(place)
    run.check_finite(lanes.trail(place))
    found: tuple[torch.nn.Module, dict[str, Evaluation]] | None = run.test(tests, row) if due else None
    run.note(row)
    if run.folder and (keep or last):
        run.unsaved = run.state()
        run.save()
    return run.finish(*found) if found and last else None


def leave(run: Training, lanes: "Lanes", place: int) -> Run:
    """Keep a run that its time box stops; raises its TimeUp."""
    lanes.store(place)
    run.unsaved = run.state()
    run.save()
    return run.result()
