"""Chapter 8: runs that fit into the time there is."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from sto_lite import data
from sto_lite.__main__ import main
from sto_lite.config import Config
from sto_lite.experiments import forecast, paper, runner, turns
from sto_lite.experiments.jobs import jobs
from sto_lite.methods import Baseline
from sto_lite.timebox import TIME_UP, Costs, TimeBox, TimeUp, read_duration, tell_duration
from sto_lite.train import Training, fit
from tests.samples import all_results

RUN = ["run", "table3", "--data", "faces", "--scale", "smoke", "--net", "resnet8", "--size", "8"]
RUN += ["--limit", "64", "--batch-size", "32", "--threads", "1", "--seeds", "0"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def ticking(clock):
    """Training in which an epoch takes a second of a clock, spread over its steps."""
    train_epoch = Training.train_epoch

    def timed(self, batches, bar):
        started, steps = clock.now, train_epoch(self, batches, bar)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value | {"seconds": clock.now - started}
            clock.now += 1 / len(batches)
            yield step

    return timed


def tiny(**settings):
    return data.load("faces", size=8, limit=32), Config(net="resnet8", batch_size=32, **settings)


def test_a_queue_through_boxes_one_of_them_killed_gives_the_same_records(tmp_path, monkeypatch):
    """Boxes of five epochs each on a clock of their own, and a process that is killed in between."""
    monkeypatch.setenv("STO_SCALE", "smoke")
    many, boxed = [*RUN, "--epochs", "5"], tmp_path / "boxed"
    assert main([*many, "--out", str(tmp_path / "whole")]) == 0
    whole = all_results(tmp_path / "whole")
    assert len(whole) == 5
    made, clock = _jobs(5), Clock()
    monkeypatch.setattr(Training, "train_epoch", ticking(clock))
    statuses, epochs = [], []
    for number in range(20):
        if number == 2:
            command = [sys.executable, "-m", "sto_lite", *many, "--out", str(boxed)]
            before = len(list(boxed.glob("*/checkpoint.pt")))
            killed = subprocess.Popen(command)
            while len(list(boxed.glob("*/checkpoint.pt"))) == before and killed.poll() is None:
                time.sleep(0.01)
            killed.kill()
            assert killed.wait() == -signal.SIGKILL
            continue
        outcomes = turns.take_turns(made, boxed, lambda _: None, 1, "cpu", None, TimeBox(5.9, clock=clock))
        statuses.append({outcome.status for outcome in outcomes})
        epochs.append(sum(forecast.look(job, boxed).epoch for job in made))
        if statuses[-1] <= {"kept", "done"}:
            break
    assert all_results(boxed) == whole
    assert len(statuses) >= 5 and all("failed" not in found for found in statuses)
    assert all(after > before for before, after in pairwise(epochs)), "every box gets on"
    assert epochs[0] == 5, "no epoch that would not be done in time is begun: 5.9 seconds hold five"


def test_a_box_from_the_command_line(tmp_path, capsys):
    """Told what is finished and what is not; the same command goes on."""
    assert main([*RUN, "--epochs", "4000", "--for", "2s", "--out", str(tmp_path)]) == TIME_UP
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("time is up: 0 of 5 runs are finished") and "The same command" in line


def test_processes_side_by_side_in_a_box(tmp_path, capsys, monkeypatch):
    """Each run is told how much is left; what was begun is kept, what was not is said."""
    monkeypatch.setenv("CI", "1")
    words = ["--epochs", "4000", "--jobs", "2", "--out", str(tmp_path), "--for", "35s"]
    assert main([*RUN, *words]) == TIME_UP
    told = capsys.readouterr().out
    assert "will be finished in the" in told and "at the measured speed" in told
    assert "time is up: 0 of 5 runs are finished, 2 begun (epochs " in told
    assert ", 3 not begun; the rest takes" in told
    assert all(forecast.look(job, tmp_path).epoch for job in _jobs(4000)[:2])


def _jobs(epochs):
    overrides = {"net": "resnet8", "size": 8, "limit": 64, "batch_size": 32, "epochs": epochs}
    return jobs(paper.find("table3"), "faces", [0], "smoke", overrides)


def test_turns_prefer_whole_runs(tmp_path, monkeypatch, capsys):
    """Four lanes, and a box that holds two runs of ten epochs: the first two are finished, as a pair."""
    clock = Clock()
    monkeypatch.setattr(Training, "train_epoch", ticking(clock))
    made = [replace(job, config=replace(job.config, batch_size=4)) for job in _jobs(10)]
    outcomes = turns.take_turns(made, tmp_path, lambda _: None, 4, "cpu", None, TimeBox(26.0, clock=clock))
    status = {outcome.job.label: outcome.status for outcome in outcomes}
    assert [label for label, value in status.items() if value == "done"] == ["baseline", "stochastic depth"]
    assert set(status.values()) <= {"done", "begun", "left"} and clock.now <= 26
    assert "at the measured speed 2 of 5 runs will be finished" in capsys.readouterr().out
    assert len(outcomes) == 5


def test_an_interrupted_run_keeps_its_last_epoch(tmp_path):
    """A checkpoint is written once a minute; whoever stops a run loses no more than the epoch it was in."""
    images, config = tiny(epochs=50, evaluate_every=50)
    training = Training(Baseline(), images, config, tmp_path, "cpu")
    turns_of_it = training.steps(progress=False)
    for _ in range(7):  # one step an epoch
        next(turns_of_it)
    state = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    turns_of_it.close()
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns > state
    again = Training(Baseline(), images, config, tmp_path, "cpu")
    next(again.steps(progress=False))
    assert again.epoch == 6


def test_no_epoch_is_begun_that_would_not_be_done(tmp_path):
    """An evaluation that is due counts; a box that is shorter than what is known of an epoch begins none."""
    images, config = tiny(epochs=4, evaluate_every=2)
    clock = Clock()
    training = Training(Baseline(), images, config, None, "cpu")
    training.costs = Costs(train=1.0, test=5.0, save=0.5)
    assert training.seconds_left == 4 + 2 * 5 + 0.5
    list(training.steps(TimeBox(1.6, clock=clock), progress=False))
    with pytest.raises(TimeUp, match="time is up after epoch 0 of 4|after epoch 1 of 4"):
        training.result()
    slow = Training(Baseline(), images, config, None, "cpu")
    slow.costs = Costs(train=10.0)
    list(slow.steps(TimeBox(10.5, clock=clock), progress=False))
    assert slow.epoch == 0


def test_a_run_in_a_box_says_how_to_go_on(tmp_path):
    images, config = tiny(epochs=3)
    match = "time is up after epoch 0 of 3; .*: the same command goes on from there, in "
    with pytest.raises(TimeUp, match=match):
        fit(Baseline(), images, config, tmp_path, "cpu", False, box=TimeBox(1, since=time.monotonic() - 2))
    run = fit(Baseline(), images, config, tmp_path, "cpu", False, box=TimeBox(1000))
    assert run.record["history"]["test_seconds"][-1] > 0 and len(run.record["history"]["test_seconds"]) == 3


def test_the_state_of_a_run_of_resnet32_is_under_4_mb(tmp_path):
    images, config = data.load("faces", size=8, limit=8), Config(net="resnet32", epochs=1, batch_size=8)
    fit(Baseline(), images, replace(config, net="resnet32"), tmp_path, "cpu", False)
    assert (tmp_path / "checkpoint.pt").stat().st_size < 4e6


def test_an_outlook_uses_what_is_known_of_runs_like_it(tmp_path):
    made = _jobs(3)
    assert forecast.remaining([forecast.look(job, tmp_path) for job in made]) is None
    runner.load.cache_clear()
    turns.take_turns(made[:1], tmp_path, lambda _: None, 1, "cpu")
    found = [forecast.look(job, tmp_path) for job in made]
    left = forecast.remaining(found)
    assert left[0] == 0 and min(left[1:]) > 0 and found[0].finished
    assert forecast.ends([3, 1, 1, 2], 2) == [3, 1, 2, 4]


def test_durations():
    texts = {"90s": 90, "9m": 540, "1h30m": 5400, "45": 45, "1.5h": 5400, "0.5m": 30, "9 m": 540}
    assert {text: read_duration(text) for text in texts} == texts
    for text in ("", "0", "-9m", "9 minutes", "m", "nan", "9x", "1m-", "1 30"):
        with pytest.raises(ValueError, match="a time is written as 90s, 9m or 1h30m"):
            read_duration(text)
    words = {0.2: "1 s", 40: "40 s", 89: "89 s", 720: "12 min", 7300: "2 h 2 min"}
    assert {seconds: tell_duration(seconds) for seconds in words} == words
