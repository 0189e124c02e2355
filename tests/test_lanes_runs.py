"""Chapter 8: `run` trains as lanes what can be, and nobody but the record can tell."""

import re
from dataclasses import replace

import pytest
from lanes_device import DEVICE

pytest.importorskip("triton")
from triton.errors import TritonError

from sto_lite import records
from sto_lite.__main__ import main
from sto_lite.config import Config
from sto_lite.data import ImageSet, Split
from sto_lite.errors import RunError
from sto_lite.experiments import jobs, paper, runner, turns
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.speed.lanes import selftest, together
from sto_lite.speed.lanes.plan import Plan
from sto_lite.speed.lanes.running import Lanes
from sto_lite.timebox import TimeBox
from sto_lite.train import Training

SETTINGS = {"size": 8, "limit": 4, "batch_size": 4, "epochs": 2, "evaluate_every": 1, "lr": 0.05}
RUN = ["run", "table1", "--data", "faces", "--scale", "smoke", "--device", DEVICE.type]
RUN += [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The first row of Table 1 with ResNet-8, few test images, and lanes wherever Triton runs."""
    cells = tuple(replace(cell, net="resnet8") for cell in paper.table1().cells if cell.net == "resnet32")
    monkeypatch.setitem(EXPERIMENTS, "table1", replace(paper.table1(), cells=cells))
    full = runner.data.load("faces", 8, 4)
    test = Split(full.splits["test"].images[:64], full.splits["test"].labels[:64])
    images = ImageSet(full.name, full.classes, {"train": full.splits["train"], "test": test})
    monkeypatch.setattr(runner, "load", lambda source: images)
    monkeypatch.setattr(turns, "load", lambda source: images)
    monkeypatch.setattr(together, "obstacle", lambda device: None)
    monkeypatch.setenv("CI", "1")


def made(out):
    """Every record of a folder, by its run."""
    return {path.parent.name: records.read_record(path) for path in sorted(out.glob("*/record.json"))}


def assert_same_records(ours, theirs, **tolerance):
    """All that does not tell of time or machine: exactly, or within a tolerance."""
    assert ours.keys() == theirs.keys() and len(ours) == 2
    for name, record in theirs.items():
        assert ours[name].keys() == record.keys()
        assert ours[name]["history"].keys() == record["history"].keys()
        for key in record["history"].keys() - {"seconds", "test_seconds"}:
            found, wanted = ours[name]["history"][key], record["history"][key]
            assert found == (pytest.approx(wanted, **tolerance) if tolerance else wanted), key
        for key in ("config", "method", "data", "labels", "parameters"):
            assert ours[name][key] == record[key]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where the first test leaves the runs that were never interrupted."""
    return tmp_path_factory.mktemp("whole")


def test_a_row_of_table_1_through_lanes(whole, tmp_path, capsys):
    """Records as today's within float32, but for the path that made them; `--no-lanes` takes the other."""
    assert main([*RUN, "--out", str(whole)]) == 0
    ours = capsys.readouterr()
    assert main([*RUN, "--no-lanes", "--out", str(tmp_path)]) == 0
    theirs = capsys.readouterr()
    assert ours.err == theirs.err == "" and ours.out.count(" done ") == 2
    blank = re.compile(r"\d+\.\d\d %|\S+(?= *\n?$)")
    assert blank.sub("", ours.out) == blank.sub("", theirs.out)
    assert_same_records(made(whole), made(tmp_path), rel=1e-4, abs=1e-5)
    assert [r["environment"].get("lanes") for r in made(whole).values()] == [True, True]
    assert not any("lanes" in r["environment"] for r in made(tmp_path).values())
    assert main([*RUN, "--out", str(whole)]) == 0 and capsys.readouterr().out.count(" kept ") == 2


def test_a_box_that_ends_and_the_same_again(whole, tmp_path, monkeypatch):
    """Stopped after an epoch, the runs are told as on the other path, and end as if nothing had been."""
    now, lanes_epoch, train_epoch = [0.0], Lanes.epoch, Training.train_epoch

    def together_timed(self, active):  # a second for each run
        rows = lanes_epoch(self, active)
        now[0] += sum(active)
        return [row | {"seconds": 1.0} for row in rows]

    def alone_timed(self, batches, bar):
        row = yield from train_epoch(self, batches, bar)
        now[0] += 1
        return row | {"seconds": 1.0}

    monkeypatch.setattr(Lanes, "epoch", together_timed)
    monkeypatch.setattr(Training, "train_epoch", alone_timed)
    queue = jobs.jobs(paper.find("table1"), "faces", [0], "smoke", SETTINGS)
    told = []
    for place, run in ((tmp_path / "a", turns.take_lanes), (tmp_path / "b", turns.take_turns)):
        now[0] = 0.0
        box = TimeBox(2.05, clock=lambda: now[0])
        found = run(queue, place, lambda _: None, 2, "cpu", box=box)
        outcomes = found[0] if isinstance(found, tuple) else found
        told.append([(o.job.name, o.status, re.sub(r"\d+ s:|/[ab]/", "", o.message)) for o in outcomes])
    assert told[0] == told[1] and [status for _, status, _ in told[0]] == ["begun", "begun"]
    assert "time is up after epoch 1 of 2" in told[0][0][2]
    assert main([*RUN, "--out", str(tmp_path / "a")]) == 0
    assert_same_records(made(tmp_path / "a"), made(whole))


def test_an_interrupt_and_a_damaged_checkpoint(whole, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second epoch, and then a checkpoint that is damaged: told as on the other path."""
    said = []
    ways = (tmp_path / "a", [], Lanes, "epoch"), (tmp_path / "b", ["--no-lanes"], Training, "train_epoch")
    for place, extra, owner, name in ways:
        command, real = [*RUN, *extra, "--out", str(place)], getattr(owner, name)

        def stopped(self, *rest, real=real):
            runs = getattr(self, "members", [self])
            if runs[0].epoch:
                raise KeyboardInterrupt
            return real(self, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopped)
            assert main(command) == 130
        first, *_ = sorted(place.glob("*/checkpoint.pt"))
        first.write_bytes(b"cut off")
        assert main(command) == 1
        out, err = (re.sub("/[ab]/", "/", text) for text in capsys.readouterr())
        said.append((err, [line[6:] for line in out.splitlines() if " failed " in line]))
    assert said[0] == said[1]
    assert "stopped; the same command goes on from the last epoch that was kept" in said[0][0]
    assert len(said[0][1]) == 1 and "damaged" in said[0][1][0]
    (other,) = made(tmp_path / "a")
    assert made(tmp_path / "a")[other]["predictions"] == made(whole)[other]["predictions"]


@pytest.mark.parametrize("kind", [RunError, TritonError])
def test_a_launch_that_fails_is_tried_in_smaller_ones(kind, tmp_path, monkeypatch, capsys):
    """As when memory is used up; a run that fails alone gives its error, and one without lanes is left."""
    queue = jobs.jobs(paper.find("table1"), "faces", [0], "smoke", SETTINGS)
    sizes = []

    def full(runs, box):
        sizes.append(len(runs))
        raise kind("there is not enough memory")
        yield

    monkeypatch.setattr(together, "train", full)
    half = replace(queue[0], config=replace(queue[0].config, precision="fp16"))
    outcomes, left = turns.take_lanes([*queue, half], tmp_path, lambda _: None)
    assert sizes == [2, 1, 1] and [o.status for o in outcomes] == ["failed", "failed"] and left == [half]
    assert capsys.readouterr().err == "fewer lanes in a launch: there is not enough memory\n"


def test_launches_keep_apart_what_cannot_share_one():
    first, second = jobs.jobs(paper.find("table1"), "faces", [0], "smoke", SETTINGS)
    other = replace(first, source=jobs.Source("faces", 16, 4))
    half = replace(first, config=replace(first.config, precision="fp16"))
    peers = replace(first, method="dml")
    assert turns.launches([first, second, other, half, peers], most=9) == [[first, second], [other]]
    assert turns.launches([first, second, other], most=1) == [[first], [second], [other]]


def test_a_wrong_kernel_fails_the_self_test(tmp_path, monkeypatch, capsys):
    """Then a line says so, and all runs are left to the other path."""
    selftest.proved.cache_clear()
    monkeypatch.setattr(Plan, "inputs", lambda *_, **__: None)
    queue = jobs.jobs(paper.find("table1"), "faces", [0], "smoke", SETTINGS)
    assert turns.take_lanes(queue, tmp_path, lambda _: None, device=DEVICE.type) == ([], queue)
    told = capsys.readouterr().err
    assert "lanes with default tiles failed their self-test in float32: " in told
    assert "no lanes, the runs are trained one by one: " in told
    selftest.proved.cache_clear()


def test_an_error_of_the_compiler_fails_the_self_test(monkeypatch, capsys):
    """The verdict keeps all of its text, standard error the first line; it is given once."""

    def fail(*_):
        raise TritonError("at 3:5:\nno such thing")

    selftest.proved.cache_clear()
    monkeypatch.setattr(selftest, "fault", fail)
    for _ in range(2):
        verdict = selftest.proved("resnet8", "float32", 8, 2, DEVICE)
        assert verdict == (None, {"default": "TritonError: at 3:5:\nno such thing"})
    assert capsys.readouterr().err == (
        "lanes with default tiles failed their self-test in float32: TritonError: at 3:5:\n"
    )
    selftest.proved.cache_clear()


def test_a_replay_that_leaves_something_else_is_told(monkeypatch):
    """Here nothing is replayed: stand-ins make steps that cost nothing, and lose one of the smaller last batch."""
    config, steps, real = Config(net="resnet8", batch_size=3), [], Lanes.run

    def step(self, images):
        steps.append(images)
        self.rows.master.mul_(0.5).add_(images)

    def run(self, images, times):
        lost = images == 1 and type(self) is Lanes and self.members[0].epoch == 1
        real(self, images, 0 if lost else times)

    monkeypatch.setattr(Plan, "step", step)
    assert selftest.stale("resnet8", config, 8, DEVICE, {}) is None
    assert steps == 2 * 2 * [*(selftest.CHUNK + 2) * [3], 1]
    monkeypatch.setattr(Lanes, "run", run)
    assert selftest.stale("resnet8", config, 8, DEVICE, {}) == (
        "replayed steps leave other weights than launched ones"
    )
