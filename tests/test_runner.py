"""Queues of runs: every experiment end to end, failures that do not stop the rest, processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sto_lite import records
from sto_lite.__main__ import main
from sto_lite.experiments import paper, runner
from sto_lite.experiments.jobs import jobs
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.experiments.turns import take_turns

SMALL = ["--data", "faces", "--scale", "smoke", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder for all experiments, so that runs they share are made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_end_to_end(name, runs, capsys):
    arguments = ["run", name, *SMALL, "--out", str(runs)]
    if not EXPERIMENTS[name].compares_networks:  # table1 and figure3 take the paper's networks
        arguments += ["--net", "resnet8"]
    teacher = ["--teacher-net", "resnet14"] if name == "table2" else []  # and not a ResNet-110
    arguments += teacher
    assert main(arguments) == 0
    first = capsys.readouterr().out
    count = first.count(" done ") + first.count(" kept ")
    assert count == len(EXPERIMENTS[name].cells) + (name == "table2") and " failed " not in first
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert again.count(" kept ") == count and " done " not in again
    assert main(["table", name, "--records", str(runs), "--format", "csv", *teacher]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(EXPERIMENTS[name].cells)
    assert not any(",,,0," in line for line in lines[1:]), "every cell is measured"


def folder_of(name, out, seed=0, **overrides):
    """The folder of table3's job for a method."""
    made = jobs(EXPERIMENTS["table3"], "faces", [seed], "smoke", {"net": "resnet8", **overrides})
    return out / next(job.name for job in made if job.method == name)


def test_a_job_that_fails_does_not_stop_the_others(tmp_path, capsys):
    blocked = folder_of("stochastic-depth", tmp_path)
    blocked.write_text("a file where the run's folder should be")
    arguments = ["run", "table3", *SMALL, "--net", "resnet8", "--out", str(tmp_path)]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out.count(" done ") == 4 and said.out.count(" failed ") == 1
    assert f"failed: {blocked.name}: cannot write into" in said.err and "1 of 5 runs failed" in said.err
    blocked.unlink()
    assert main(arguments) == 0
    assert capsys.readouterr().out.count(" kept ") == 4


def test_a_record_that_cannot_be_read_is_told(tmp_path, capsys):
    broken = folder_of("sto", tmp_path) / "record.json"
    broken.parent.mkdir()
    broken.write_text('{"config": {')
    without = "without distillation (λ = 0)"
    assert main(["run", "table3", *SMALL, "--net", "resnet8", "--rows", without, "--out", str(tmp_path)]) == 1
    assert "record cannot be read" in capsys.readouterr().err


def children(process):
    """Process number -> command line of the runs that a queue has started."""
    found = [one for one in psutil.process_iter(["ppid", "cmdline"]) if one.info["ppid"] == process.pid]
    return {one.pid: one.info["cmdline"] or [] for one in found}


def test_jobs_side_by_side_one_killed_and_one_that_fails(tmp_path, capsys):
    """The same command again finishes what was left: the killed run from its checkpoint, the failed one anew."""
    arguments = ["run", "detach", *SMALL, "--net", "resnet8", "--seeds", "0-1", "--epochs", "15"]
    arguments += ["--jobs", "2", "--out", str(tmp_path)]
    made = jobs(EXPERIMENTS["detach"], "faces", [0, 1], "smoke", {"net": "resnet8", "epochs": 15})
    blocked, victim, *others = (tmp_path / job.name for job in made)
    blocked.write_text("in the way")
    command = [sys.executable, "-m", "sto_lite", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    queue = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
    deadline = time.monotonic() + 120
    while not (victim / "checkpoint.pt").exists():
        assert time.monotonic() < deadline and queue.poll() is None
        time.sleep(0.02)
    (number,) = [n for n, line in children(queue).items() if any(victim.name in word for word in line)]
    os.kill(number, signal.SIGKILL)
    out, err = queue.communicate(timeout=240)
    assert queue.returncode == 1, err
    assert f"failed {victim.name}: its process was ended by SIGKILL" in out
    assert f"failed: {blocked.name}: " in err and "2 of 4 runs failed" in err and out.count(" done ") == 2
    finished = [(folder / "record.json").stat().st_mtime_ns for folder in others]
    blocked.unlink()
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count(" done ") == said.count(" kept ") == 2
    assert finished == [(folder / "record.json").stat().st_mtime_ns for folder in others]
    assert len(records.read_record(victim / "record.json")["history"]["seconds"]) == 15


def test_runs_that_share_a_process_are_those_of_processes(tmp_path, capsys):
    """--graphs: threads side by side. Without a GPU each says once that its steps are not recorded."""
    found = []
    for how in (["--graphs", "--compile", "--jobs", "3"], []):
        out = tmp_path / str(len(how))
        arguments = ["run", "schedule", *SMALL, "--net", "resnet8", "--seeds", "0-1", *how]
        assert main([*arguments, "--out", str(out)]) == 0
        said = capsys.readouterr()
        assert said.out.count(" done ") == 4
        declined = said.err.count("no CUDA graph, the steps run one by one: there is no CUDA GPU")
        assert declined == (4 if how else 0)
        paths = out.glob("*/record.json")
        found.append({path.parent.name: records.read_record(path)["predictions"] for path in paths})
    assert found[0] == found[1]


def test_stopping_the_queue_stops_its_runs(tmp_path):
    arguments = ["run", "table3", *SMALL, "--net", "resnet8", "--epochs", "5000", "--jobs", "2"]
    command = [sys.executable, "-m", "sto_lite", *arguments, "--out", str(tmp_path)]
    queue = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*/checkpoint.pt"))) < 2:
        assert time.monotonic() < deadline and queue.poll() is None
        time.sleep(0.05)
    numbers = list(children(queue))
    assert len(numbers) == 2
    queue.terminate()
    assert "the same command goes on" in queue.communicate(timeout=30)[1]
    assert queue.returncode == 130
    assert not any(map(psutil.pid_exists, numbers))


def test_records_of_other_experiments_are_not_a_table(tmp_path, capsys):
    for path in Path(__file__).parents[1].glob("data/runs/first-walk/*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["table", "table1", "--records", str(tmp_path)]) == 2
    assert "none of the 3 records" in capsys.readouterr().err
    assert main(["table", "table3", "--records", str(tmp_path), "--out", str(tmp_path / "t.txt")]) == 0
    assert capsys.readouterr().out == "" and "STO" in (tmp_path / "t.txt").read_text()
    assert main(["table", "table3", "--records", str(tmp_path), "--split", "publik"]) == 2
    assert "no test split 'publik'; it has public, private" in capsys.readouterr().err


def test_images_are_loaded_once_for_neighbouring_jobs(tmp_path, monkeypatch):
    runner.load.cache_clear()
    loads: list[dict] = []
    real = runner.data.load
    monkeypatch.setattr(runner.data, "load", lambda **a: loads.append(a) or real(**a))
    made = jobs(paper.find("detach"), "faces", [0], "smoke", {"net": "resnet8"})
    outcomes = take_turns(made, tmp_path, lambda outcome: None, 1, "cpu")
    assert [o.status for o in outcomes] == ["done", "done"] and len(loads) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000 None"), ({"GOMP_SPINCOUNT": "7"}, "7 None"), ({"OMP_WAIT_POLICY": "active"}, "None active")],
)
def test_waiting_threads_do_not_take_a_busy_machine(given, expected):
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ask = "import os, sto_lite; print(*(os.environ.get(k) for k in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')))"
    out = subprocess.run([sys.executable, "-c", ask], env={**clean, **given}, capture_output=True, text=True)
    assert out.stdout.strip() == expected, out.stderr
