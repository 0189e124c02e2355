"""Runs in one thread: one after the other, several that take turns, a step each, or several as lanes (chapter 7).

Turns are for a GPU with recorded steps: a replayed step asks next to nothing of the host, so that one thread serves
all runs; and unlike the kernels of several processes, those of several streams run beside each other.
"""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sto_lite import registry
from sto_lite.errors import StoError, first_line
from sto_lite.experiments import runner
from sto_lite.experiments.jobs import Job
from sto_lite.experiments.runner import Outcome, Report, load
from sto_lite.speed.lanes import together
from sto_lite.timebox import Costs, TimeBox, TimeUp, foretell, whole_runs
from sto_lite.train import MakeEngine, Run, Training

JOINED = 9  # runs of a launch, if nobody says otherwise
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
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.stream = torch.cuda.Stream(where) if where.type == "cuda" else None
        method, images = runner.method_of(job, out), load(job.source)
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
            return runner.failure(self.job, error)

    def outcome(self) -> Outcome:
        """How the run ended, or where its box stopped it."""
        try:
            self.training.result()
            return runner.outcome_of(self.job, self.out, "done")
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
    for wave in runner.waves(jobs):
        had, left = runner.split_finished(wave, out, report)
        outcomes += had
        lanes: list[Lane] = []
        try:
            while lanes or (left and not runner.time_is_up(box, outcomes)):
                while left and len(lanes) < count and not runner.time_is_up(box, outcomes):
                    job = left.pop(0)
                    try:
                        lanes.append(
                            Lane(job, out, device, engine, box, costs, None if count == 1 else False)
                        )
                    except ERRORS as error:
                        outcomes.append(runner.failure(job, error))
                        report(outcomes[-1])
                whole = None
                if box and lanes and all(lane.training.costs.train for lane in lanes):
                    # Each has its share of the machine.
                    rest = [lane.training.seconds_left / lane.sharing for lane in lanes]
                    whole = whole_runs(rest, box.left)
                if box and whole is not None and not told:
                    told = True
                    known, every = lanes[0].training.costs, [job.config for job in left]
                    later = [known.of(c.epochs, -(-c.epochs // c.evaluate_every)) for c in every]
                    finished = whole_runs([*rest, *later], box.left)
                    print(foretell(finished, len(lanes) + len(left), box.left), flush=True)
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
        outcomes += runner.leave(left, report)
    return outcomes


def take_lanes(
    jobs: Sequence[Job],
    out: Path,
    report: Report,
    count: int = JOINED,
    device: str | None = None,
    box: TimeBox | None = None,
) -> tuple[list[Outcome], list[Job]]:
    """Run as lanes of one launch, `count` of them in each, whatever can be: seeds and methods of one network.

    Where there are no lanes on a GPU, or they do not pass their self-test, a line on standard error says so. Returns
    the outcomes, and the jobs that are left to be run otherwise.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if reason := together.obstacle(where):
        if where.type == "cuda":
            print(f"no lanes, the runs are trained one by one: {reason}", file=sys.stderr)
        return [], list(jobs)
    outcomes, left = runner.split_finished(jobs, out, report)

    def end(job: Job, how: Run | Exception) -> None:
        left.remove(job)
        if isinstance(how, TimeUp):
            outcomes.append(Outcome(job, "begun", str(how)))
        else:
            outcomes.append(
                runner.outcome_of(job, out, "done") if isinstance(how, Run) else runner.failure(job, how)
            )
        report(outcomes[-1])

    waiting = launches(left, count)
    while waiting and not runner.time_is_up(box, outcomes):
        going, runs = [], []
        for job in waiting.pop(0):
            try:
                method, images = runner.method_of(job, out), load(job.source)
                runs.append(Training(method, images, job.config, out / job.name, where))
                going.append(job)
            except ERRORS as error:
                end(job, error)
        group = list(going)
        try:
            for number, how in together.train(runs, box):
                going.remove(group[number])
                end(group[number], how)
        except together.Untested as error:
            print(f"no lanes, the runs are trained one by one: {error}", file=sys.stderr)
        except Exception as error:  # the compiler's errors are of many kinds
            if len(going) > 1:  # as when memory is used up
                print(f"fewer lanes in a launch: {first_line(error)}", file=sys.stderr)
                half = len(going) // 2
                waiting[:0] = [going[:half], going[half:]]
            elif going:
                end(going[0], error)
    if runner.time_is_up(box, outcomes):
        outcomes += runner.leave(left, report)
        left = []
    return outcomes, left


def launches(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """Jobs that share a launch: of one image set, network, batch size, augmentation and precision; at most so many.

    They may differ in method, seed, rate and length. Jobs that cannot be lanes are left out.
    """
    found: dict[tuple, list[Job]] = {}
    for job in jobs:
        c = job.config
        if not job.source.votes and together.can_join(registry.find(job.method), c.net, c.precision):
            found.setdefault((job.source, c.net, c.batch_size, c.augment, c.precision), []).append(job)
    return [same[i : i + most] for same in found.values() for i in range(0, len(same), most)]
