"""The Slurm engine against a real Slurm of one node, on loopback."""

import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sto_lite import records
from sto_lite.errors import RunError
from sto_lite.experiments import slurm as engine
from sto_lite.experiments.jobs import jobs
from sto_lite.experiments.paper import EXPERIMENTS

# What needs a running Slurm is skipped where none can be started; the rest runs for everyone.
NEEDED = ("slurmctld", "slurmd", "munged", "squeue", "sbatch", "runuser")
missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
real = pytest.mark.skipif(
    bool(missing) or not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason=f"starting a Slurm takes root and Debian's slurm-wlm and munge; missing: {', '.join(missing) or 'root'}",
)

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={port}
SlurmdPort={port2}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2000
AuthInfo=cred_expire=5,socket={folder}/munge.socket
KillWait=2
SchedulerParameters=bf_interval=2,sched_interval=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=6000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def detached(seed=0, **overrides):
    return jobs(EXPERIMENTS["detach"], "faces", [seed], "smoke", {"net": "resnet8", **overrides})


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running Slurm; everything it starts is ended with it."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for part in (folder, *list(folder.parents)[:3]):
        part.chmod(0o755)  # munge looks at the way to its socket
    munge = folder / "munge"
    munge.mkdir()
    key = munge / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (munge, key):
        shutil.chown(path, "munge", "munge")
    host = socket.gethostname().split(".")[0]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, port=free_port(), port2=free_port()))
    before = dict(os.environ)
    os.environ.update(SLURM_CONF=str(config), PATH=f"{before['PATH']}:/usr/sbin")
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    started = []
    try:
        options = [f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={munge}/pid"]
        options += [f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--foreground", "--force"]
        (folder / "munge.out").touch()
        shutil.chown(folder, "munge", "munge")
        munged = ["runuser", "-u", "munge", "--", "munged", *options]
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with open(folder / f"{command[0]}.out", "w") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(0.5)
        for _ in range(100):
            found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
            if found.stdout.strip() == "idle":
                break
            time.sleep(0.3)
        else:
            logs = {path.name: path.read_text()[-400:] for path in folder.glob("*.log")}
            pytest.fail(f"Slurm did not come up: {found.stdout} {found.stderr} {logs}")
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        time.sleep(1)
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=20)
        os.environ.clear()
        os.environ.update(before)


def command(out, *more):
    words = "run detach --data faces --scale smoke --net resnet8 --engine slurm --minutes 5 --slurm partition=main"
    return [sys.executable, "-m", "sto_lite", *words.split(), "--out", str(out), *more]


@real
def test_jobs_run_fail_and_are_finished_by_the_same_command(slurm, tmp_path):
    made = detached()
    blocked = tmp_path / made[1].name
    blocked.write_text("in the way")
    first = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=300)
    assert first.returncode == 1, first.stdout + first.stderr
    assert first.stdout.count(" done ") == 1
    said = first.stderr
    assert f"failed: {blocked.name}: cannot write into" in said and "1 of 2 runs failed" in said
    blocked.unlink()
    second = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count(" kept ") == 1 and second.stdout.count(" done ") == 1
    assert all((tmp_path / job.name / "record.json").exists() for job in made)


def in_queue():
    lines = subprocess.run(["squeue", "-h", "-o", "%A %T %j"], capture_output=True, text=True).stdout
    return [line.split() for line in lines.splitlines()]


@real
def test_a_job_that_is_requeued_goes_on_from_its_checkpoint(slurm, tmp_path):
    """SIGUSR2 is what Slurm sends before the time limit; submitit then puts the job back into the queue."""
    made = detached(epochs=60)
    line = command(tmp_path, "--epochs", "60")
    queue = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim, deadline = tmp_path / made[0].name, time.monotonic() + 200
    while not (victim / "checkpoint.pt").exists():
        assert time.monotonic() < deadline and queue.poll() is None, in_queue()
        time.sleep(0.1)
    (number,) = [job[0] for job in in_queue() if job[2].startswith(f"sto-{made[0].digest}")]
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    out, err = queue.communicate(timeout=300)
    assert queue.returncode == 0, out + err
    assert out.count(" done ") == 2
    logs = "".join(path.read_text() for path in (tmp_path / "slurm").glob(f"{number}_*_log.err"))
    assert "Caught signal SIGUSR2" in logs
    assert len(records.read_record(victim / "record.json")["history"]["seconds"]) == 60


@real
def test_an_option_that_slurm_does_not_know_is_one_message(slurm, tmp_path):
    line = command(tmp_path)
    line[line.index("partition=main")] = "partition=nowhere"
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Slurm refuses the job" in done.stderr and "Traceback" not in done.stderr


@real
def test_a_second_command_waits_for_jobs_that_are_queued(slurm, tmp_path):
    made = detached(seed=1)
    first: dict = {}
    second: dict = {}
    assert engine.submit(made, first, tmp_path, {"partition": "main"}, 5) == []
    assert engine.submit(made, second, tmp_path, {"partition": "main"}, 5) == []
    assert first == second and len(first) == 2
    assert engine.slurm_name(made[0], tmp_path) != engine.slurm_name(made[0], tmp_path / "elsewhere")
    told = []
    outcomes = engine.on_cluster(made, tmp_path, told.append, {"partition": "main"}, 5)
    assert [o.status for o in outcomes] == [o.status for o in told]
    assert {o.status for o in told} <= {"done", "kept"}


def test_the_queue_is_read_whatever_jobs_are_called(tmp_path, monkeypatch):
    fake = tmp_path / "squeue"
    fake.write_text("#!/bin/sh\nprintf '7|None|my job | x\\n12|JobHeldUser|sto-1\\nnonsense\\n'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert engine.queue() == {"7": ("my job | x", "None"), "12": ("sto-1", "JobHeldUser")}
    with pytest.raises(RunError, match="--minutes"):  # the time of a job is given in one way
        engine.make_executor(tmp_path, {"time": "1:00"}, 5)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunError, match="there is no Slurm here"):
        engine.queue()


def test_a_job_that_slurm_holds_for_good_has_failed(tmp_path, monkeypatch):
    job, _ = detached()
    monkeypatch.setattr(engine, "queue", lambda: {"5": (engine.slurm_name(job, tmp_path), "JobHeldAdmin")})
    (outcome,) = engine.on_cluster([job], tmp_path, lambda outcome: None)
    assert outcome.status == "failed" and "Slurm holds job 5 (JobHeldAdmin)" in outcome.message


def test_flags_of_sbatch_reach_the_script(tmp_path):
    pytest.importorskip("submitit")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("srun", "sbatch"):
        (bin_ / name).write_text("#!/bin/sh\necho 'Submitted batch job 7'\n")
        (bin_ / name).chmod(0o755)
    job, _ = detached()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
        patch.setattr(engine, "queue", dict)
        waiting: dict = {}
        options = {"requeue": True, "spread-job": True, "partition": "gpu", "gres": "gpu:1"}
        assert engine.submit([job], waiting, tmp_path, options, 5) == [] and waiting == {"7": job}
    (script,) = (tmp_path / "slurm").glob("*_submission.sh")
    lines = script.read_text().splitlines()
    wanted = {"--requeue", "--spread-job", "--partition=gpu", "--gres=gpu:1", "--time=5"}
    assert {f"#SBATCH {word}" for word in wanted} <= set(lines)


def test_what_a_node_calls_trains_the_job_or_fails_with_its_message(tmp_path, capsys):
    """Without the command line, which starts the engine."""
    job, other = detached(limit=32, epochs=1)
    training = pickle.loads(pickle.dumps(engine.Training(tmp_path, "cpu", 1)))
    training(job)
    assert records.read_record(tmp_path / job.name / "record.json")["config"]["epochs"] == 1
    (tmp_path / other.name).write_text("in the way")
    with pytest.raises(RunError, match="cannot write into"):
        training(other)
    assert f"sto_lite train: cannot write into {tmp_path / other.name}" in capsys.readouterr().err
    assert "__main__" not in Path(engine.__file__).read_text()
