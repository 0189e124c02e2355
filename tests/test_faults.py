"""Nothing lost, nobody let in: faults of machines, disks, data and people, tried for real (book/robustness.md).

STO_FAULTS=20 tries random moments and damages 20 times as often as the test suite does by default.
"""

import contextlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from sto_lite import data, records, registry
from sto_lite.__main__ import main
from sto_lite.checkpoints import Folder, decode
from sto_lite.errors import DataError, RunError
from sto_lite.experiments import paper, runner
from sto_lite.experiments.jobs import jobs as planned
from sto_lite.kd import KD
from sto_lite.methods import STO, Baseline, Step
from sto_lite.train import fit
from tests import packing
from tests.packing import files_below
from tests.processes import Command, disk, look_alike, read_only
from tests.samples import CONFIG, all_results, results, same_run, tiny

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills, mounts and limits are those of Unix")
TIMES = int(os.environ.get("STO_FAULTS", "1"))
PROTOCOL = ["--data", "fer2013", "--net", "resnet8", "--size", 8, "--batch-size", 16, "--threads", 1]
TRAIN = ["train", *PROTOCOL, "--epochs", 6, "--out"]
RUN = ["run", "detach", *PROTOCOL, "--epochs", 3, "--limit", 64, "--scale", "smoke"]
RUN += ["--device", "cpu", "--out"]
NO_MEMORY = "there is not enough memory"


class Malice:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("pwned",))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that holds a prepared set, and a command's surroundings."""
    look_alike(tmp_path / "data")
    monkeypatch.setenv("STO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CI", "1")
    runner.load.cache_clear()
    return tmp_path


def start(words, here, name="said", **limits):
    return Command(words, here / name, {"STO_DATA": str(here / "data"), "CI": "1"}, **limits)


def finish(words, here):
    """Run a command to its end, which is a good one; gives the seconds that it took."""
    command, began = start(words, here), time.monotonic()
    assert command.end() == 0, command.said.read_text()
    return time.monotonic() - began


def assert_whole(folder):
    """Every file that a killed process left under its name is whole."""
    for name in ("checkpoint.pt", "network.pt"):
        if (folder / name).exists():
            decode((folder / name).read_bytes())
    if (folder / "record.json").exists():
        records.read_record(folder / "record.json")
        assert (folder / "network.pt").exists()


def await_end(folder):
    """Wait for the process that holds a run's folder."""
    import fcntl

    with open(folder / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


# ------------------------------------------------------------------------------------------ processes that end


def test_a_run_killed_at_random_moments(here):
    """SIGKILL up to four times a run, at moments spread over all of it; in the end the same bits."""
    length = finish([*TRAIN, here / "whole"], here)
    whole = results(here / "whole")
    rng, kills, resumed, number = random.Random(0), 0, 0, 0
    while kills < 6 * TIMES:
        out, number = here / f"run{number}", number + 1
        for _ in range(rng.randint(1, 4)):
            command = start([*TRAIN, out], here)
            time.sleep(rng.uniform(0, length))
            resumed += (out / "checkpoint.pt").exists()
            command.process.kill()
            kills += command.end() == -signal.SIGKILL
            assert_whole(out)
        finish([*TRAIN, out], here)
        assert results(out) == whole
        assert not list(out.glob("*.partial"))
        shutil.rmtree(out)
    print(f"{kills} kills in {number} runs, {resumed} of them after a first checkpoint")
    assert resumed > kills / 4


@pytest.mark.parametrize(("count", "kills"), [(1, 4), (2, 1)])
def test_a_queue_killed_at_random_moments(here, count, kills):
    """The queue alone, or it and all that it started. Runs that outlive it hold their folders until they end."""
    length = finish([*RUN, here / "whole"], here)
    whole = all_results(here / "whole")
    assert len(whole) == 2
    rng, done = random.Random(count), 0
    for number in range(10 * kills * TIMES):
        out = here / f"queue{number // 2 if count == 1 else number}"  # in one process: twice in each folder
        command = start([*RUN, out, "--jobs", count], here)
        if count > 1:  # its runs need some seconds to import PyTorch, so wait until one has begun
            limit = time.monotonic() + 120
            while not list(out.glob("*/.lock")) and time.monotonic() < limit:
                time.sleep(0.05)
        time.sleep(rng.uniform(0, length))
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            (os.killpg if rng.random() < 0.5 else os.kill)(command.process.pid, signal.SIGKILL)
        done += command.end() == -signal.SIGKILL
        for name in whole:
            assert_whole(out / name)
        if number % 2 or count > 1:
            for _ in range(5):
                command = start([*RUN, out], here)  # one after another, which starts no processes
                if command.end() == 0:
                    break
                assert "another process is training into" in command.said.read_text()
                for name in whole:
                    await_end(out / name)
            assert all_results(out) == whole
        if done >= kills * TIMES:
            break
    print(f"{done} kills of a queue with --jobs {count}")
    assert done >= kills * TIMES


def test_processes_that_want_one_folder(here):
    """Four at the same moment: each trains the whole run, finds it finished, or is told of the other."""
    finish([*TRAIN, here / "whole"], here)
    refused = 0
    for number in range(2 * TIMES):
        out = here / f"run{number}"
        commands = [start([*TRAIN, out], here, f"said{i}") for i in range(4)]
        ends = [command.end() for command in commands]
        for status, told in zip(ends, [command.said.read_text() for command in commands], strict=True):
            assert status == 0 or (status == 2 and "another process is training into" in told), told
            assert "Traceback" not in told
        assert 0 in ends and results(out) == results(here / "whole")
        refused += ends.count(2)
    assert refused >= 2


# ---------------------------------------------------------------------------------------------- disks


@pytest.mark.parametrize("name", ["checkpoint.pt", "network.pt", "record.json"])
def test_a_disk_that_is_full(name, tmp_path):
    """A real disk with room for all that is written before, and not for this file; test_train has a twin for all."""
    config = replace(CONFIG, epochs=2 if name == "checkpoint.pt" else 1)
    whole = fit(STO(), tiny(), config, tmp_path / "whole")
    size = {path.name: -(-path.stat().st_size // 4096) for path in (tmp_path / "whole").iterdir()}
    first, second, third = (size[n] for n in ("checkpoint.pt", "network.pt", "record.json"))
    room = {"checkpoint.pt": first * 3 // 2, "network.pt": first + second // 2}
    pages = room.get(name, first + second + third - 1)
    with disk(tmp_path / "disk", f"size={4096 * pages}") as place:
        for file in (name, ""):  # the second time there is still no room, perhaps for an earlier one
            match = rf"{file} cannot be written: No space left.*make room, and run"
            with pytest.raises(RunError, match=match):
                fit(STO(), tiny(), config, place / "run")
            assert decode((place / "run" / "checkpoint.pt").read_bytes())["epoch"] == 1
            assert not (place / "run" / "record.json").exists() and not list(place.rglob("*.partial"))
            assert (place / "run" / "network.pt").exists() == (name == "record.json")
        shutil.copytree(place / "run", tmp_path / "roomier")
    assert same_run(fit(STO(), tiny(), config, tmp_path / "roomier"), whole)


def test_a_disk_that_is_full_for_a_prepared_set(tmp_path):
    """Neither the set nor its record is changed when there is no room for one of them."""
    source = tmp_path / "fer2013.csv"
    source.write_bytes(packing.as_csv(packing.ROWS[::-1]))
    packing.run("fer2013", source, tmp_path / "root")
    before = files_below(tmp_path / "root")
    set_, record = (len(before[f"fer2013.{kind}"]) for kind in ("npz", "json"))
    source.write_bytes(packing.TABLE)
    pages = [-(-size // 4096) * 4096 for size in (set_, record)]
    for room in (2 * pages[0], 2 * pages[0] + pages[1]):  # the old set, the new one, and perhaps one record
        with disk(tmp_path / "disk", f"size={room}") as place:
            for path in (tmp_path / "root").iterdir():
                if room > 2 * pages[0] or path.suffix == ".npz":
                    shutil.copy(path, place)
            held = files_below(place)
            with pytest.raises(DataError, match="cannot be written: No space left.*MB must fit.*STO_DATA"):
                packing.run("fer2013", source, place)
            assert files_below(place) == held
    packing.run("fer2013", source, tmp_path / "root")
    assert files_below(tmp_path / "root") != before


def test_folders_that_may_not_be_written(here, capsys):
    """A read-only disk, which binds root too. Data on it are read; runs, tables and sets on it are refused."""

    def refused(status, *words, of):
        capsys.readouterr()
        assert main([*map(str, words)]) == status
        said = capsys.readouterr()
        assert f"{of}Read-only file system" in said.err
        return said

    (here / "fer2013.csv").write_bytes(packing.TABLE)
    with disk(here / "disk", "size=8m") as place:
        shutil.copy(here / "data" / "fer2013.npz", place)
        read_only(place)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STO_DATA", str(place))
            assert main([*map(str, TRAIN), str(here / "out")]) == 0
            refused(2, *TRAIN, place / "out", of=f"cannot write into {place / 'out'}: ")
            for count in (1, 2):
                said = refused(1, *RUN, place / "runs", "--jobs", count, of="")
                assert said.out.count(" failed ") == 2 and said.err.count("Read-only file system") == 2
            of = "fer2013.npz: cannot be written: "
            refused(2, "prepare", "fer2013", "--from", here / "fer2013.csv", of=of)
            assert main([*map(str, RUN), str(here / "runs")]) == 0
            words = ("table", "detach", "--records", here / "runs", "--out", place / "table.txt")
            refused(2, *words, of="table.txt cannot be written: ")
        assert [path.name for path in place.iterdir()] == ["fer2013.npz"]


# ---------------------------------------------------------------------------------------------- memory, numbers


def test_memory_that_is_used_up(here):
    """A real limit on the memory of a process: one message, and the checkpoint before is kept."""
    words = [*TRAIN[:-1], "--size", 64, "--net", "wrn20-2", "--batch-size", 64, "--out", here / "out"]
    command = start(words, here, limits={resource.RLIMIT_AS: 200 << 20})
    status, told = command.end(), command.said.read_text()
    assert status == 2 and "there is not enough memory" in told and "--batch-size" in told, told
    assert "Traceback" not in told and not (here / "out" / "record.json").exists()


def test_a_gpu_whose_memory_is_used_up(here, monkeypatch, capsys):
    """What PyTorch raises on a GPU ends that run with a message; the others of the queue go on."""
    method = registry.METHODS["sto"]
    step = method.step

    def full(self, model, images, labels, generator, epoch=0):
        if not self.detach and epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return step(self, model, images, labels, generator, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(method, "step", full)
        assert main([*map(str, RUN), str(here / "runs")]) == 1
    said = capsys.readouterr()
    assert said.out.count(" done ") == 1 and said.out.count(" failed ") == 1
    assert "not enough memory (CUDA out of memory. Tried to allocate 2 GiB.)" in said.err
    assert "smaller --batch-size" in said.err and "--limit" in said.err and "is kept" in said.err
    (left,) = [job for job in jobs() if not runner.finished(job, here / "runs")]
    assert decode((here / "runs" / left.name / "checkpoint.pt").read_bytes())["epoch"] == 1
    assert main([*map(str, RUN), str(here / "runs")]) == 0
    assert main([*map(str, RUN), str(here / "whole")]) == 0
    assert results(here / "runs" / left.name) == results(here / "whole" / left.name)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no room"),
        MemoryError(),
        RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
        RuntimeError("another fault, that has to do with memory"),
    ],
    ids=str,
)
def test_a_lack_of_memory_in_all_its_words(error):
    raised, words = (RuntimeError, "another fault") if "another" in str(error) else (RunError, NO_MEMORY)

    @dataclass(frozen=True)
    class Large(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            raise error

    with pytest.raises(raised, match=words):
        fit(Large(), tiny(), CONFIG)


def spoilt(at, change):
    """The baseline, whose loss is changed in one of its steps."""
    calls = []

    @dataclass(frozen=True)
    class Spoilt(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            loss, logits, parts = super().step(model, images, labels, generator, epoch)
            calls.append(epoch)
            return Step(change(loss) if len(calls) == at else loss, logits, parts)

    return Spoilt()


@pytest.mark.parametrize(("bad", "value"), [(1, "nan"), (3, "inf")])
def test_the_step_at_which_the_loss_is_not_finite(bad, value, tmp_path):
    match = rf"loss is {value} in epoch 2 of 3, from step {bad} of 3 on, .*epoch 1 is kept in"
    with pytest.raises(RunError, match=match):
        fit(spoilt(3 + bad, lambda loss: loss * float(value)), tiny(), CONFIG, tmp_path)
    assert decode((tmp_path / "checkpoint.pt").read_bytes())["epoch"] == 1
    assert same_run(fit(Baseline(), tiny(), CONFIG, tmp_path), fit(Baseline(), tiny(), CONFIG))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """An update that spoils the weights after the epoch's last loss, which was finite."""
    infinite_slope = spoilt(6, lambda loss: loss + (loss - loss.detach()).sqrt())  # of a term that is 0
    with pytest.raises(RunError, match="a weight is not finite in epoch 2 of 3, after its last step"):
        fit(infinite_slope, tiny(), CONFIG, tmp_path)
    state = decode((tmp_path / "checkpoint.pt").read_bytes())
    assert state["epoch"] == 1 and all(v.isfinite().all() for v in state["model"].values())


# ---------------------------------------------------------------------------------------- files that are not ours


def damaged(content, rng):
    """A copy that is cut off, or has a bit, a byte or a stretch that is another."""
    copy, place = bytearray(content), rng.randrange(len(content))
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(copy[:place])
    if kind == 1:
        copy[place] ^= 1 << rng.randrange(8)
    elif kind == 2:
        copy[place] = (copy[place] + rng.randrange(1, 256)) % 256
    elif kind == 3:
        copy[place : place + 512] = rng.randbytes(min(512, len(copy) - place))
    else:
        del copy[place : place + rng.choice([1, 64, 4096])]
    return bytes(copy)


def equal(a, b):
    """Whether two states hold the same, to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.equal(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("name", ["checkpoint.pt", "network.pt"])
def test_damage_is_seen(name, tmp_path):
    """Whatever bits are changed, the file is refused, or what counts of it is as it was."""
    run = fit(STO(), tiny(), CONFIG, tmp_path)
    whole = decode((tmp_path / name).read_bytes())
    identity = {key: run.record[key] for key in ("config", "method", "data")}
    found: dict = {}

    def read():
        if name == "checkpoint.pt":
            Folder(tmp_path, identity).resume(found.update)
            return equal(found, whole)
        network = fit(STO(), tiny(), CONFIG, tmp_path).network
        return equal(dict(network.state_dict()), dict(whole["weights"]))

    assert_damage_is_seen(tmp_path / name, read, RunError, "delete")


def test_damage_to_a_prepared_file_is_seen(here):
    whole = data.load("fer2013", 48).fingerprint
    path = here / "data" / "fer2013.npz"
    assert_damage_is_seen(path, lambda: data.load("fer2013", 48).fingerprint == whole, DataError, "")


def assert_damage_is_seen(path, read, error, advice):
    content, rng, refused = path.read_bytes(), random.Random(path.name), 0
    for _ in range(100 * TIMES):
        path.write_bytes(damaged(content, rng))
        try:
            assert read()
        except error as told:
            assert str(path) in str(told) and advice in str(told) and str(told).isprintable()
            refused += 1
    assert refused > 0.9 * 100 * TIMES


def evil_npz(path):
    """A set whose images are a pickle that makes a folder."""
    images = np.empty(1, object)
    images[0] = Malice()
    with np.load(path) as good:
        arrays = dict(good)
    np.savez(path, **{**arrays, "train_images": images})


def test_files_that_would_run_code(here, monkeypatch, capsys):
    """Each in its place, and the command ends with status 2 and a message; nothing has run."""
    monkeypatch.chdir(here)
    assert main([*map(str, TRAIN), "run"]) == 0
    kept = files_below(here / "run")
    torch.save({"net": "resnet8", "weights": Malice()}, here / "evil.pt")
    evil, pickled = (here / "evil.pt").read_bytes(), pickle.dumps(Malice())
    capsys.readouterr()
    for name, without in (("network.pt", ()), ("checkpoint.pt", ("record.json",)), ("record.json", ())):
        for content in (evil, pickled, kept[name][:-100], b"", b"{}", b"[" * 100_000, b"\xff\xfe\0"):
            shutil.rmtree(here / "run")
            (here / "run").mkdir()
            for file, old in kept.items():
                if file not in without:
                    (here / "run" / file).write_bytes(content if file == name else old)
            assert main([*map(str, TRAIN), "run"]) == 2, name
            said = capsys.readouterr().err
            assert said.startswith(f"sto_lite train: run/{name} is ") and "Traceback" not in said
            assert (here / "run" / name).read_bytes() == content
            if name == "network.pt":
                with pytest.raises(RunError, match="holds no network that a run has written"):
                    KD(teacher="run")
    for write in (evil_npz, lambda path: path.write_bytes(pickled), lambda path: path.write_bytes(evil)):
        path = look_alike(here / "data")
        write(path)
        assert main([*map(str, TRAIN), "other"]) == 2
        assert f"{path} is damaged" in capsys.readouterr().err
    assert not (here / "pwned").exists() and not list(here.rglob("pwned"))
    pickle.loads(pickled)
    assert (here / "pwned").exists(), "the malice is real"


FOREIGN = {
    "no splits": lambda a: {"x": a["train_images"]},
    "a split less": lambda a: {k: v for k, v in a.items() if k != "public_labels"},
    "floats": lambda a: {**a, "train_images": a["train_images"].astype(np.float32)},
    "colour": lambda a: {**a, "train_images": np.stack([a["train_images"]] * 3, -1)},
    "another size": lambda a: {**a, "public_images": a["public_images"][:, :32, :32]},
    "numbers": lambda a: {**a, "train_images": np.uint8(3)},
    "a label too high": lambda a: {**a, "private_labels": a["private_labels"] + 1},
    "labels below 0": lambda a: {**a, "train_labels": a["train_labels"].astype(np.int8) - 1},
    "labels as text": lambda a: {**a, "train_labels": a["train_labels"].astype(str)},
    "fewer labels": lambda a: {**a, "train_labels": a["train_labels"][:-1]},
    "nothing": lambda a: {k: v[:0] for k, v in a.items()},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_prepared_files_of_another_form(name, here):
    path = here / "data" / "fer2013.npz"
    with np.load(path) as good:
        arrays = FOREIGN[name](dict(good))
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"fer2013.npz is damaged \(.*delete it and prepare FER-2013 again"):
        data.load("fer2013", 8)


# ------------------------------------------------------------------------------------------- data that change


def jobs():
    overrides = {"net": "resnet8", "size": 8, "batch_size": 16, "epochs": 3, "limit": 64}
    return planned(paper.find("detach"), "fer2013", [0], "smoke", overrides)


def change(here):
    """One pixel of one training image."""
    path = here / "data" / "fer2013.npz"
    with np.load(path) as good:
        arrays = dict(good)
    arrays["train_images"][0, :6, :6] ^= 255
    np.savez(path, **arrays)
    runner.load.cache_clear()


def test_data_that_changed_between_two_runs(here, capsys):
    run = [*map(str, RUN), str(here / "runs")]
    assert main(run) == 0 and main(run) == 0
    assert capsys.readouterr().out.count(" kept ") == 2
    job, other = jobs()
    (here / "runs" / other.name / "record.json").unlink()
    before = files_below(here / "runs")
    change(here)
    assert main(run) == 1
    said = capsys.readouterr()
    assert said.out.count(" failed ") == 2
    assert f"{job.name}: its record is of other data: fer2013 had the fingerprint" in said.err
    assert f"{other.name}: " in said.err
    assert "checkpoint.pt is of another run: data.fingerprint is" in said.err
    assert files_below(here / "runs") == before
    assert main(["train", *job.arguments(here / "runs")]) == 2
    assert "record.json is of another run: data.fingerprint is" in capsys.readouterr().err
    shutil.rmtree(here / "runs")
    assert main(run) == 0


def test_records_without_their_data_at_hand(here, capsys):
    """As when the runs of a cluster are looked at elsewhere: they are kept, and it is told."""
    run = [*map(str, RUN), str(here / "runs")]
    assert main(run) == 0
    change(here)
    outcomes, left = runner.split_finished(jobs(), here / "runs", lambda outcome: None, elsewhere=True)
    assert not left and [outcome.status for outcome in outcomes] == ["kept", "kept"]
    assert all("; its record is of other data" in outcome.message for outcome in outcomes)
    (here / "data" / "fer2013.npz").unlink()
    runner.load.cache_clear()
    capsys.readouterr()
    assert main(run) == 0
    said = capsys.readouterr().out
    assert said.count(" kept ") == said.count("not compared with the data, as fer2013 cannot be loaded") == 2
    path = here / "runs" / jobs()[0].name / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": {}}))
    look_alike(here / "data")
    runner.load.cache_clear()
    assert main(run) == 1 and "had the fingerprint None" in capsys.readouterr().err
