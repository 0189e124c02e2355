"""Jobs on a Slurm cluster, through submitit (chapter 8); `pip install "sto_lite[cluster]"` brings it.

Each job is one Slurm job named after its settings. At its time limit, or when it is preempted, it is put back into
the queue and goes on from its last epoch. What counts in the end is the record on disk: without accounting Slurm
does not tell how a job ended.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

try:
    import submitit
    from submitit.helpers import Checkpointable
except ImportError as error:
    from sto_lite.errors import RunError

    raise RunError(
        'the slurm engine needs submitit; install it with: pip install "sto_lite[cluster]"'
    ) from error

from sto_lite.errors import RunError
from sto_lite.experiments import Job
from sto_lite.runner import Outcome, Report, finished, kept, last_line, result, waves

POLL = 5.0  # seconds between two looks at the queue


class Training(Checkpointable):  # type: ignore[misc]
    """What a Slurm job calls: the train command. Put back into the queue, it is called again and resumes."""

    def __init__(self, arguments: Sequence[str]):
        self.arguments = list(arguments)

    def __call__(self) -> None:
        """Train.

        Raises:
            RunError: the command failed; its message is in the job's log.
        """
        from sto_lite.__main__ import main

        if status := main(["train", *self.arguments]):
            raise RunError(f"train ended with status {status}")


def on_cluster(
    jobs: Sequence[Job],
    out: Path,
    report: Report,
    options: Mapping[str, str] | None = None,
    minutes: int = 60,
) -> list[Outcome]:
    """Submit jobs and wait for them. Interrupted, it leaves them running; the same call finds and awaits them.

    Args:
        jobs: what to run.
        out: folder of the runs, on a file system that the nodes share.
        report: called with each outcome.
        options: of sbatch, such as {"partition": "gpu", "gres": "gpu:1"}.
        minutes: time limit of a job, after which it is put back into the queue and goes on.

    Raises:
        RunError: there is no Slurm here, or it refuses the options.
    """
    outcomes: list[Outcome] = []
    for wave in waves(jobs):
        had, left = kept(wave, out, report)
        outcomes += had
        waiting = submit(left, out, options or {}, minutes)
        missing: dict[str, int] = {}
        while waiting:
            alive = queue()
            for number, job in list(waiting.items()):
                gone = number not in alive
                missing[number] = missing.get(number, 0) + 1 if gone else 0
                # A record ends a job; one that left the queue without may still be writing, so look three times.
                if (gone and finished(job, out)) or missing[number] >= 3:
                    outcomes.append(ended(job, number, out))
                    report(outcomes[-1])
                    del waiting[number]
            if waiting:
                time.sleep(POLL)
    return outcomes


def submit(jobs: Sequence[Job], out: Path, options: Mapping[str, str], minutes: int) -> dict[str, Job]:
    """Submit what is not in the queue yet: Slurm's job number -> job."""
    queued = {name: number for number, name in queue().items()}
    waiting = {queued[slurm_name(job)]: job for job in jobs if slurm_name(job) in queued}
    try:
        executor = submitit.AutoExecutor(folder=out / "slurm", cluster="slurm")
        common = {"partition", "gres", "account", "qos", "constraint", "mem", "cpus_per_task"}
        executor.update_parameters(
            timeout_min=minutes,
            **{f"slurm_{key}": value for key, value in options.items() if key in common},
            slurm_additional_parameters={k: v for k, v in options.items() if k not in common},
        )
        for job in jobs:
            if slurm_name(job) not in queued:
                executor.update_parameters(name=slurm_name(job))
                waiting[executor.submit(Training(job.arguments(out.resolve()))).job_id] = job
    except (RuntimeError, NameError, TypeError, ValueError, subprocess.CalledProcessError) as error:
        raise RunError(f"Slurm refuses the job: {error}") from error
    except submitit.core.utils.FailedJobError as error:
        raise RunError(f"Slurm refuses the job: {error}") from error
    return waiting


def slurm_name(job: Job) -> str:
    """The name by which a job is found in the queue again."""
    return f"sto-{job.digest}"


def queue() -> dict[str, str]:
    """What this user has in Slurm's queue: number -> name.

    Raises:
        RunError: squeue is not there or fails.
    """
    command = ["squeue", "--noheader", "--format=%A|%j", f"--user={os.getuid()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise RunError("there is no Slurm here (no squeue); use --engine local") from error
    except subprocess.CalledProcessError as error:
        raise RunError(f"Slurm does not answer: {error.stderr.strip()}") from error
    return dict(line.split("|", 1) for line in done.stdout.split())


def ended(job: Job, number: str, out: Path) -> Outcome:
    """The outcome of a job that has left the queue."""
    if finished(job, out):
        return Outcome(job, "done", result(job, out))
    log = out / "slurm" / f"{number}_0_log.err"
    return Outcome(job, "failed", last_line(log) or f"left no record; see {log}")
