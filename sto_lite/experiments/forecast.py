"""What a queue of runs will take, from what was measured of them so far (chapter 8)."""

import heapq
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sto_lite.checkpoints import DAMAGE, decode
from sto_lite.errors import RunError
from sto_lite.experiments.jobs import Job
from sto_lite.records import read_record
from sto_lite.timebox import Costs, TimeBox, foretell, tell_duration

PAUSE = 2.0  # seconds from one look at the folders to the next


class Progress(NamedTuple):
    """How far a job is: epochs done, what they cost (zeros if not known), and whether it has its record."""

    job: Job
    epoch: int
    costs: Costs
    finished: bool

    def seconds_left(self, costs: Costs) -> float:
        """What the rest takes at these costs."""
        every, epochs = self.job.config.evaluate_every, self.job.config.epochs
        rest = costs.of(epochs - self.epoch, -(-epochs // every) - self.epoch // every)
        return 0.0 if self.finished else rest


def look(job: Job, out: Path) -> Progress:
    """How far a job is, by what its folder holds."""
    folder = out / job.name
    try:
        if (folder / "record.json").exists():
            history = read_record(folder / "record.json")["history"]
            return Progress(job, job.config.epochs, Costs.of_history(history), True)
        if (folder / "checkpoint.pt").exists():
            state = decode((folder / "checkpoint.pt").read_bytes())
            return Progress(job, int(state["epoch"]), Costs.of_history(state["history"]), False)
    except (RunError, *DAMAGE):  # the run itself reports it
        pass
    return Progress(job, 0, Costs(), False)


def remaining(found: Sequence[Progress]) -> list[float] | None:
    """Seconds that each job still takes, by its own costs or those of the job most like it; None if unknown."""
    paid = [one for one in found if one.costs.train]
    if not paid:
        return None

    def nearest(job: Job) -> Costs:
        def likeness(other: Progress) -> tuple[bool, bool, bool]:
            same = job.method == other.job.method
            return job.config.net == other.job.config.net, same, job.settings == other.job.settings

        return max(paid, key=likeness).costs

    return [one.seconds_left(one.costs if one.costs.train else nearest(one.job)) for one in found]


def ends(seconds: Sequence[float], lanes: int) -> list[float]:
    """When each of these tasks ends, if `lanes` of them run at a time, begun in their order."""
    free, found = [0.0] * lanes, []
    for length in seconds:
        found.append(heapq.heappop(free) + length)
        heapq.heappush(free, found[-1])
    return found


class Outlook:
    """Says once, as soon as it is known, how many runs will be finished in a box of time."""

    def __init__(self, jobs: Sequence[Job], out: Path, box: TimeBox | None, lanes: int):
        self.jobs, self.out, self.box, self.lanes = jobs, out, box, lanes
        self.looked = -PAUSE

    def __call__(self) -> None:
        """Look, if it is time to."""
        if self.box is None or time.monotonic() - self.looked < PAUSE:
            return
        self.looked = time.monotonic()
        left = remaining([look(job, self.out) for job in self.jobs])
        if left is not None:
            whole = sum(end <= self.box.left for end in ends(left, self.lanes))
            print(foretell(whole, len(self.jobs), self.box.left), flush=True)
            self.box = None


def closing_line(jobs: Sequence[Job], out: Path, lanes: int) -> str:
    """What is finished, what is left, and how long that takes: the last line of a box of time."""
    found = [look(job, out) for job in jobs]
    begun = [one for one in found if one.epoch and not one.finished]
    at = ", ".join(f"{one.epoch} of {one.job.config.epochs}" for one in begun)
    at = f" (epochs {at})" if begun else ""
    done = sum(one.finished for one in found)
    left = remaining(found)
    rest = tell_duration(max(ends(left, lanes))) if left else ""
    rest = f"; the rest takes about {rest} at the measured speed" if left else ""
    return (
        f"time is up: {done} of {len(jobs)} runs are finished, {len(begun)} begun{at}, "
        f"{len(jobs) - done - len(begun)} not begun{rest}. The same command goes on"
    )
