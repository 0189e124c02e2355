"""Jobs on a Slurm cluster, through submitit (chapter 8); `pip install "sto_lite[cluster]"` brings it.

Each job is one Slurm job named after its settings. At its time limit, or when it is preempted, it is put back into
the queue and goes on from its last epoch. What counts in the end is the record on disk: without accounting Slurm
does not tell how a job ended.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sto_lite.errors import RunError, StoError
from sto_lite.experiments import runner
from sto_lite.experiments.jobs import Job
from sto_lite.experiments.runner import Outcome, Report, finished, load
from sto_lite.speed import graphs
from sto_lite.train import fit

try:
    import submitit
    from submitit.helpers import Checkpointable
except ImportError as error:
    raise RunError(
        'the slurm engine needs submitit; install it with: pip install "sto_lite[cluster]"'
    ) from error

Options = Mapping[str, str | bool]  # of sbatch; True for a flag
# The options of sbatch that submitit knows by name; it passes on the others.
OWN = "partition gres account qos constraint mem mem_per_cpu mem_per_gpu cpus_per_task cpus_per_gpu gpus_per_node"
OWN += " exclude nodelist dependency comment exclusive"
POLL = 5.0  # seconds between two looks at the queue
PATIENCE = 60  # looks in a row that may fail
# Reasons for which a job stays in Slurm's queue until somebody acts.
STUCK = {"JobHeldAdmin", "JobHeldUser", "DependencyNeverSatisfied", "launch failed requeued held"}
STUCK |= {"PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "AccountNotAllowed"}
STUCK |= {"InvalidAccount", "InvalidQOS"}


@dataclass(frozen=True)
class Training(Checkpointable):  # type: ignore[misc]
    """What a node calls with a job. Put back into the queue, it is called again, and the run goes on.

    out: folder of the runs. device, threads, graphs, compiled: as the command line's.
    """

    out: Path
    device: str | None = None
    threads: int | None = None
    graphs: bool = False
    compiled: bool = False

    def __call__(self, job: Job) -> None:
        """Train. Raises RunError if the run failed; the job's log ends with its message."""
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            engine = graphs.engine(self.compiled) if self.graphs else None
            out = self.out / job.name
            fit(
                runner.method_of(job, self.out), load(job.source), job.config, out, self.device, engine=engine
            )
        except (StoError, ValueError, RuntimeError, MemoryError, OSError) as error:
            message = runner.failure(job, error).message
            print(f"sto_lite train: {message}", file=sys.stderr, flush=True)
            raise RunError(message) from error


def on_cluster(
    jobs: Sequence[Job],
    out: Path,
    report: Report,
    options: Options | None = None,
    minutes: int = 60,
    training: Training | None = None,
) -> list[Outcome]:
    """Submit jobs and wait for them. Interrupted, it leaves them running; the same call finds and awaits them.

    out: on a file system that the nodes share. report: called with each outcome. options: of sbatch, such as
    {"partition": "gpu", "requeue": True}. minutes: of a job, after which it is put back into the queue and goes
    on. training: what a node calls; by default on the device that it finds. Raises RunError if there is no Slurm
    here, or it refuses the options.
    """
    outcomes: list[Outcome] = []
    for wave in runner.waves(jobs):
        had, left = runner.split_finished(wave, out, report, elsewhere=True)
        outcomes += had
        waiting: dict[str, Job] = {}
        missing: dict[str, int] = {}
        while left or waiting:
            if left:
                left = submit(left, waiting, out, options or {}, minutes, training)
            alive = patient_queue()
            for number, job in list(waiting.items()):
                gone = number not in alive
                missing[number] = missing.get(number, 0) + 1 if gone else 0
                # A record ends a job; one that left the queue without may still be writing, so look three times.
                _, reason = alive.get(number, ("", ""))
                if (gone and finished(job, out)) or missing[number] >= 3 or reason in STUCK:
                    outcomes.append(judge_end(job, number, out, reason))
                    report(outcomes[-1])
                    del waiting[number]
            if left or waiting:
                time.sleep(POLL)
    return outcomes


def submit(
    jobs: Sequence[Job],
    waiting: dict[str, Job],
    out: Path,
    options: Options,
    minutes: int,
    training: Training | None = None,
) -> list[Job]:
    """Submit what is not in the queue yet, and note it in `waiting`: Slurm's job number -> job.

    Returns the jobs that Slurm does not take at present, as it limits how many one user may submit; as a rule none.
    Raises RunError if it refuses a job, and has none of ours of which the end could be awaited.
    """
    queued = {name: number for number, (name, _) in queue().items()}
    executor = None
    for place, job in enumerate(jobs):
        number = queued.get(slurm_name(job, out))
        if number is None:
            try:
                executor = executor or make_executor(out, options, minutes)
                executor.update_parameters(name=slurm_name(job, out))
                number = executor.submit(training or Training(out.resolve()), job).job_id
            except (RuntimeError, NameError, TypeError, ValueError, subprocess.CalledProcessError) as error:
                if waiting:
                    return list(jobs[place:])
                raise RunError(f"Slurm refuses the job: {error}") from error
        waiting[number] = job
    return []


def make_executor(out: Path, options: Options, minutes: int) -> submitit.AutoExecutor:
    """Submitit's executor with sbatch's options, written with hyphens or underscores."""
    given = {key.replace("-", "_"): value for key, value in options.items()}
    if "time" in given:
        raise RunError("the time of a job is given by --minutes, not by --slurm time=…")
    own = OWN.split()
    # Requeued as often as it takes; submitit's own limit is three times.
    executor = submitit.AutoExecutor(folder=out / "slurm", cluster="slurm", slurm_max_num_timeout=100_000)
    cores = given.get("cpus_per_task")  # which srun does not take over from sbatch
    executor.update_parameters(
        timeout_min=minutes,
        slurm_srun_args=[f"--cpus-per-task={cores}"] if cores else [],
        slurm_additional_parameters={key: value for key, value in given.items() if key not in own},
        **{f"slurm_{key}": value for key, value in given.items() if key in own},
    )
    return executor


def slurm_name(job: Job, out: Path) -> str:
    """The name by which a job is found in the queue again; other folders have other names."""
    return f"sto-{job.digest}-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:6]}"


def queue() -> dict[str, tuple[str, str]]:
    """What this user has in Slurm's queue: number -> (name, reason why it waits). Raises RunError if squeue is not
    there or fails.
    """
    command = ["squeue", "--noheader", "--format=%A|%r|%j", f"--user={os.getuid()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise RunError("there is no Slurm here (no squeue); use --engine local") from error
    except subprocess.CalledProcessError as error:
        raise RunError(f"Slurm does not answer: {error.stderr.strip()}") from error
    rows = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return {number: (name, reason) for number, reason, name in rows}


def patient_queue() -> dict[str, tuple[str, str]]:
    """The queue; a controller that does not answer for a while, as when it is restarted, is asked again."""
    for _ in range(PATIENCE):
        try:
            return queue()
        except RunError:
            time.sleep(POLL)
    return queue()


def judge_end(job: Job, number: str, out: Path, reason: str = "") -> Outcome:
    """The outcome of a job that has left the queue, or is stuck in it for a reason."""
    if finished(job, out):
        return runner.outcome_of(job, out, "done")
    if reason in STUCK:
        return Outcome(job, "failed", f"Slurm holds job {number} ({reason}); see scontrol show job {number}")
    log = out / "slurm" / f"{number}_0_log.err"
    return Outcome(job, "failed", runner.last_line(log) or f"left no record; see {log}")
