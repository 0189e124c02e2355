"""Runs in one thread: one after the other, or several that take turns, a step each (chapter 7).

Turns are for a GPU with recorded steps: a replayed step asks next to nothing of the host, so that one thread serves
all runs; and unlike the kernels of several processes, those of several streams run beside each other.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from sto_lite.errors import StoError
from sto_lite.experiments.forecast import foretell
from sto_lite.experiments.jobs import Job
from sto_lite.experiments.runner import (
    Outcome,
    Report,
    failure,
    kept,
    leave,
    load,
    method_of,
    outcome_of,
    time_is_up,
    waves,
)
from sto_lite.timebox import Costs, TimeBox, TimeUp
from sto_lite.train import MakeEngine, Training

ERRORS = (StoError, RuntimeError, ValueError, MemoryError, OSError)


class Lane:
    """One run, on a stream of the GPU of its own. costs: what an epoch took elsewhere, until its own is known."""

    def __init__(
        self,
        job: Job,
        out: Path,
        device: str | None,
        engine: MakeEngine | None,
        box: TimeBox | None,
        costs: Costs,
        progress: bool | None,
    ):
        self.job, self.out = job, out
        self.stream = torch.cuda.Stream(device) if torch.cuda.is_available() else None
        method, images = method_of(job, out), load(job.source)
        self.training = Training(method, images, job.config, out / job.name, device, engine)
        self.training.costs = copy.copy(costs)
        self.turns = self.training.steps(box, progress)
        self.sharing = 1  # how many took turns lately

    def take_turn(self) -> Outcome | None:
        """Launch one step; the outcome, if the run or its time has ended."""
        try:
            with torch.cuda.stream(self.stream):
                next(self.turns)
            return None
        except StopIteration:
            return self.outcome()
        except ERRORS as error:
            return failure(self.job, error)

    def outcome(self) -> Outcome:
        """How the run ended, or where its box stopped it."""
        try:
            self.training.result()
            return outcome_of(self.job, self.out, "done")
        except TimeUp as error:
            return Outcome(self.job, "begun", str(error))

    def close(self) -> None:
        """Keep the last epoch that was done."""
        with torch.cuda.stream(self.stream):
            self.turns.close()


def take_turns(
    jobs: Sequence[Job],
    out: Path,
    report: Report,
    count: int,
    device: str | None = None,
    engine: MakeEngine | None = None,
    box: TimeBox | None = None,
) -> list[Outcome]:
    """Run jobs in this thread, `count` of them in turn.

    In a time box fewer take turns where that finishes more of them: a whole run is worth more than many begun ones.
    Jobs come in the order of their seeds, so that what is compared by seed is finished together.
    """
    outcomes: list[Outcome] = []
    costs, told = Costs(), box is None
    for wave in waves(jobs):
        had, left = kept(wave, out, report)
        outcomes += had
        lanes: list[Lane] = []
        try:
            while lanes or (left and not time_is_up(box, outcomes)):
                while left and len(lanes) < count and not time_is_up(box, outcomes):
                    job = left.pop(0)
                    try:
                        lanes.append(
                            Lane(job, out, device, engine, box, costs, None if count == 1 else False)
                        )
                    except ERRORS as error:
                        outcomes.append(failure(job, error))
                        report(outcomes[-1])
                whole = whole_runs(lanes, box.left) if box else None
                if box and whole is not None and not told:
                    told = True
                    print(foretell(min(whole, len(lanes)), len(lanes) + len(left), box.left), flush=True)
                active = lanes if whole is None else lanes[: max(whole, 2)]
                for lane in active:
                    lane.sharing = len(active)
                    if ended := lane.take_turn():
                        lanes.remove(lane)
                        costs = lane.training.costs
                        outcomes.append(ended)
                        report(ended)
        finally:
            for lane in lanes:
                lane.close()
        outcomes += leave(left, report)
    return outcomes


def whole_runs(lanes: Sequence[Lane], seconds: float) -> int | None:
    """How many runs, in their order, would be finished if only they took turns; None before all were measured."""
    if not all(lane.training.costs.train for lane in lanes):
        return None
    whole = 0
    for lane in lanes:
        seconds -= lane.training.seconds_left / lane.sharing  # its share of the machine
        if seconds < 0:
            break
        whole += 1
    return whole
