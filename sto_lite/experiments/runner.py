"""Running an experiment's jobs, here in several processes (chapter 8); turns.py and slurm.py run them otherwise.

A job that has its record is not run again, and one that was interrupted goes on from its last epoch, so the same
command again finishes what is left. A job that fails is reported at the end, and the others go on.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from sto_lite import data, records, registry
from sto_lite.data import ImageSet
from sto_lite.errors import DataError, RunError, first_line
from sto_lite.experiments.jobs import Job, Source
from sto_lite.methods import Method
from sto_lite.timebox import TIME_UP, TimeBox

POLL = 0.2  # seconds between two looks at the running jobs


class Outcome(NamedTuple):
    """How a job ended. message: the result, or the error.

    status: "kept" (it had its record), "done", "begun" (its time box is used up), "left" (not begun) or "failed".
    """

    job: Job
    status: str
    message: str


Report = Callable[[Outcome], None]


def result(job: Job, out: Path) -> str:
    """The headline error of a finished job, in words. Raises RunError if it has no readable record."""
    found = records.read_record(out / job.name / "record.json")["result"]
    return ", ".join(f"{split} error {values['error']:.2f} %" for split, values in found.items())


def finished(job: Job, out: Path) -> bool:
    """Whether the job has its record."""
    return (out / job.name / "record.json").exists()


def outcome_of(job: Job, out: Path, status: str) -> Outcome:
    """The outcome of a job that has a record, with its result; failed if that cannot be read."""
    try:
        return Outcome(job, status, result(job, out))
    except (RunError, KeyError, TypeError, ValueError) as error:
        return Outcome(job, "failed", f"its record cannot be read: {error}; delete it")


def split_finished(
    jobs: Sequence[Job], out: Path, report: Report, elsewhere: bool = False
) -> tuple[list[Outcome], list[Job]]:
    """Set apart what is finished already: its outcomes, and the jobs that are left.

    A record of other data than those at hand is no result of the job; where none are at hand, the outcome says so.
    elsewhere: runs are made on other machines, where a resized photograph may differ in its last bit; then the
    outcome names the other fingerprint, and the record counts.
    """
    outcomes, left = [], []
    for job in jobs:
        if not finished(job, out):
            left.append(job)
            continue
        outcome = outcome_of(job, out, "kept")
        if outcome.status == "kept" and (doubt := of_other_data(job, out)):
            status = "kept" if elsewhere or doubt.startswith("not compared") else "failed"
            outcome = Outcome(job, status, f"{outcome.message}; {doubt}" if status == "kept" else doubt)
        outcomes.append(outcome)
        report(outcome)
    return outcomes, left


def of_other_data(job: Job, out: Path) -> str:
    """What speaks against the job's record being of the data at hand; "" if nothing does."""
    there = records.read_record(out / job.name / "record.json")["data"].get("fingerprint")
    try:
        images = load(job.source)
    except DataError:
        return f"not compared with the data, as {job.source.name} cannot be loaded here"
    here = images.fingerprint
    if there in (here, images.resized_fingerprint):
        return ""
    return (
        f"its record is of other data: {job.source.name} had the fingerprint {there}, and has {here} now; bring back "
        f"those data, take another --out, or delete {out / job.name} to run it anew"
    )


def waves(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """First the jobs that need no other, then those whose teacher must be trained before."""
    for with_teacher in (False, True):
        if wave := [job for job in jobs if (job.teacher is not None) == with_teacher]:
            yield wave


@lru_cache(maxsize=1)
def load(source: Source) -> ImageSet:
    """The images of one source; the last are kept, since neighbouring jobs share them."""
    return data.load(**dataclasses.asdict(source))


def time_is_up(box: TimeBox | None, outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing more is to be begun: the box is empty, or has stopped a run, which then goes on first."""
    return box is not None and (box.left <= 0 or any(outcome.status == "begun" for outcome in outcomes))


def leave(jobs: Sequence[Job], report: Report) -> list[Outcome]:
    """The outcomes of jobs for which there was no time."""
    outcomes = [Outcome(job, "left", "not begun in this box of time") for job in jobs]
    for outcome in outcomes:
        report(outcome)
    return outcomes


def method_of(job: Job, out: Path) -> Method:
    """The job's method, with its teacher's run if it has one."""
    teacher = {"teacher": str(out / job.teacher.name)} if job.teacher else {}
    return registry.make(job.method, **job.settings, **teacher)


def failure(job: Job, error: BaseException) -> Outcome:
    """The outcome of a job that ended with an error."""
    return Outcome(job, "failed", first_line(error))


def side_by_side(
    jobs: Sequence[Job],
    out: Path,
    report: Report,
    count: int,
    device: str | None = None,
    threads: int | None = None,
    box: TimeBox | None = None,
    look: Callable[[], object] = lambda: None,
) -> list[Outcome]:
    """Run jobs on this machine, `count` at a time, each in a process of its own that shares the GPU or the cores.

    What a job prints goes to log.txt in its folder. When this process is stopped, it stops the jobs. look: is called
    again and again while they run.
    """
    threads = threads or max(1, torch.get_num_threads() // count)
    more = ["--threads", str(threads), *(["--device", device] if device else [])]
    outcomes: list[Outcome] = []
    for wave in waves(jobs):
        had, left = split_finished(wave, out, report)
        outcomes += had
        running: dict[subprocess.Popen, tuple[Job, int]] = {}
        with stopping(running):
            while left or running:
                while left and len(running) < count and not time_is_up(box, outcomes):
                    job = left.pop(0)
                    try:
                        boxed = [f"--for={max(box.left, 0.1):.1f}s"] if box else []
                        process, begun = start(job, out, [*more, *boxed])
                        running[process] = (job, begun)
                    except OSError as error:
                        outcomes.append(Outcome(job, "failed", str(error)))
                        report(outcomes[-1])
                for process in [p for p in running if p.poll() is not None]:
                    outcomes.append(judge_end(*running.pop(process), process.returncode, out))
                    report(outcomes[-1])
                if not running and time_is_up(box, outcomes):
                    outcomes += leave(left, report)
                    break
                look()
                time.sleep(POLL)
    return outcomes


def start(job: Job, out: Path, more: Sequence[str]) -> tuple[subprocess.Popen, int]:
    """Start one job as a process; and where in its log this attempt begins."""
    (out / job.name).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sto_lite", "train", *job.arguments(out), *more]
    with open(out / job.name / "log.txt", "a") as log:
        begun = log.tell()
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "CI": "1"}), begun


def judge_end(job: Job, begun: int, status: int, out: Path) -> Outcome:
    """The outcome of a job whose process has ended with this status."""
    if status == 0 and finished(job, out):
        return outcome_of(job, out, "done")
    if status == TIME_UP:
        return Outcome(job, "begun", last_line(out / job.name / "log.txt", begun))
    if status < 0:
        name = next((s.name for s in signal.Signals if s == -status), f"signal {-status}")
        told = f"its process was ended by {name}; run again, it goes on from its last epoch"
        return Outcome(job, "failed", told)
    log = out / job.name / "log.txt"
    return Outcome(job, "failed", last_line(log, begun) or f"ended with status {status}; see {log}")


@contextmanager
def stopping(running: Mapping[subprocess.Popen, object]) -> Iterator[None]:
    """Whatever ends this block, an interrupt or SIGTERM too, ends the processes that still run."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        before = None
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def last_line(path: Path, begun: int = 0) -> str:
    """What a log says last from a place on, for a message: the train command's own words, else its last line."""
    try:
        lines = path.read_bytes()[begun:].decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    told = [line.removeprefix("sto_lite train: ") for line in lines if line.startswith("sto_lite train: ")]
    return (told or lines or [""])[-1]
