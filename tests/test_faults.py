"""Nothing lost, nobody let in: faults of machines, disks, data and people, tried for real (book/robustness.md).

STO_FAULTS=20 tries random moments and damages 20 times as often as the test suite does by default.
"""

import contextlib
import errno
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
from tests.packing import files_below
from tests.processes import Command, disk, look_alike, read_only
from tests.test_train import CONFIG, same_run, tiny

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills, mounts and limits are those of Unix")
TIMES = int(os.environ.get("STO_FAULTS", "1"))
PROTOCOL = ["--data", "fer2013", "--net", "resnet8", "--size", 8, "--batch-size", 16, "--threads", 1]
TRAIN = ["train", *PROTOCOL, "--epochs", 6, "--out"]
RUN = [
    "run",
    "detach",
    *PROTOCOL,
    "--epochs",
    3,
    "--limit",
    64,
    "--scale",
    "smoke",
    "--device",
    "cpu",
    "--out",
]


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


def results(folder):
    """What has to be equal: weights and record, without where and when it was made."""
    record = records.read_record(folder / "record.json")
    for key in ("environment", "earlier_environments", "finished"):
        record.pop(key, None)
    record["history"] = {k: v for k, v in record["history"].items() if "seconds" not in k}
    state = decode((folder / "network.pt").read_bytes())
    return record, state["net"], {name: value.numpy().tobytes() for name, value in state["weights"].items()}


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
    while kills < 10 * TIMES:
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
    names = sorted(path.name for path in (here / "whole").iterdir())
    whole = {name: results(here / "whole" / name) for name in names}
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
        for name in names:
            assert_whole(out / name)
        if number % 2 or count > 1:
            for _ in range(5):
                command = start([*RUN, out, "--jobs", count], here)
                if command.end() == 0:
                    break
                assert "another process is training into" in command.said.read_text()
                for name in names:
                    await_end(out / name)
            assert {name: results(out / name) for name in names} == whole
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
        for status, command in zip(ends, commands, strict=True):
            told = command.said.read_text()
            assert status == 0 or (status == 2 and "another process is training into" in told), told
            assert "Traceback" not in told
        assert 0 in ends and results(out) == results(here / "whole")
        refused += ends.count(2)
    assert refused >= 2


# ---------------------------------------------------------------------------------------------- disks


@pytest.mark.parametrize("name", ["checkpoint.pt", "network.pt", "record.json"])
def test_a_disk_that_is_full(name, tmp_path):
    """A real disk with room for all that is written before, and not for this file."""
    config = replace(CONFIG, epochs=2 if name == "checkpoint.pt" else 1)
    whole = fit(STO(), tiny(), config, tmp_path / "whole")
    pages = {path.name: -(-path.stat().st_size // 4096) for path in (tmp_path / "whole").iterdir()}
    room = {
        "checkpoint.pt": pages["checkpoint.pt"] * 3 // 2,
        "network.pt": pages["checkpoint.pt"] + pages["network.pt"] // 2,
        "record.json": pages["checkpoint.pt"] + pages["network.pt"] + pages["record.json"] - 1,
    }[name]
    with disk(tmp_path / "disk", f"size={4096 * room}") as place:
        with pytest.raises(RunError, match=rf"{name} cannot be written: No space left.*make room, and run"):
            fit(STO(), tiny(), config, place / "run")
        checkpoint = (place / "run" / "checkpoint.pt").read_bytes()
        assert decode(checkpoint)["epoch"] == 1
        assert not (place / "run" / "record.json").exists() and not list(place.rglob("*.partial"))
        assert (place / "run" / "network.pt").exists() == (name == "record.json")
        with pytest.raises(RunError, match="cannot be written"):  # no room yet
            fit(STO(), tiny(), config, place / "run")
        assert (place / "run" / "checkpoint.pt").read_bytes() == checkpoint
        shutil.copytree(place / "run", tmp_path / "roomier")
    assert same_run(fit(STO(), tiny(), config, tmp_path / "roomier"), whole)


def test_a_disk_that_is_full_for_a_prepared_set(tmp_path):
    """Neither the set nor its record is changed when there is no room for one of them."""
    from tests.packing import as_csv, look_alike, rows_of, run

    source, rows = tmp_path / "fer2013.csv", rows_of(look_alike())
    source.write_bytes(as_csv(rows[::-1]))
    run("fer2013", source, tmp_path / "root")
    before = files_below(tmp_path / "root")
    set_, record = (len(before[f"fer2013.{kind}"]) for kind in ("npz", "json"))
    source.write_bytes(as_csv(rows))
    pages = [-(-size // 4096) * 4096 for size in (set_, record)]
    for room in (2 * pages[0], 2 * pages[0] + pages[1]):  # the old set, the new one, and perhaps one record
        with disk(tmp_path / "disk", f"size={room}") as place:
            for path in (tmp_path / "root").iterdir():
                if room > 2 * pages[0] or path.suffix == ".npz":
                    shutil.copy(path, place)
            held = files_below(place)
            with pytest.raises(DataError, match="cannot be written: No space left.*MB must fit.*STO_DATA"):
                run("fer2013", source, place)
            assert files_below(place) == held
    run("fer2013", source, tmp_path / "root")
    assert files_below(tmp_path / "root") != before


def test_files_that_may_not_grow(here):
    """The same where no disk can be mounted: a limit on the size of a file, and the command line's words."""
    finish([*TRAIN, here / "whole"], here)
    size = (here / "whole" / "checkpoint.pt").stat().st_size
    command = start([*TRAIN, here / "out"], here, limits={resource.RLIMIT_FSIZE: size // 2})
    assert command.end() == 2
    told = command.said.read_text()
    assert f"checkpoint.pt cannot be written: {os.strerror(errno.EFBIG)}" in told and "Traceback" not in told
    assert [path.name for path in (here / "out").iterdir()] == [".lock"]
    finish([*TRAIN, here / "out"], here)
    assert results(here / "out") == results(here / "whole")


def test_folders_that_may_not_be_written(here, capsys):
    """A read-only disk, which binds root too. Data on it are read; runs, tables and sets on it are refused."""
    from tests.packing import as_csv, rows_of
    from tests.packing import look_alike as arrays

    (here / "fer2013.csv").write_bytes(as_csv(rows_of(arrays())))
    made = jobs()
    with disk(here / "disk", "size=8m") as place:
        shutil.copy(here / "data" / "fer2013.npz", place)
        read_only(place)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STO_DATA", str(place))
            words = [str(word) for word in TRAIN]
            assert main([*words, str(here / "out")]) == 0
            capsys.readouterr()
            assert main([*words, str(place / "out")]) == 2
            assert f"cannot write into {place / 'out'}: Read-only file system" in capsys.readouterr().err
            for count in ("1", "2"):
                assert main([*map(str, RUN), str(place / "runs"), "--jobs", count]) == 1
                said = capsys.readouterr()
                assert said.out.count(" failed ") == 2 and said.err.count("Read-only file system") == 2
            assert main(["prepare", "fer2013", "--from", str(here / "fer2013.csv")]) == 2
            assert "fer2013.npz: cannot be written: Read-only file system" in capsys.readouterr().err
            assert main([*map(str, RUN), str(here / "runs")]) == 0
            words = ["table", "detach", "--records", str(here / "runs"), "--out", str(place / "table.txt")]
            capsys.readouterr()
            assert main(words) == 2
            assert "table.txt cannot be written: Read-only file system" in capsys.readouterr().err
        assert [path.name for path in place.iterdir()] == ["fer2013.npz"] and len(made) == 2


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
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
    ids=str,
)
def test_a_lack_of_memory_in_all_its_words(error):
    @dataclass(frozen=True)
    class Large(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            raise error

    with pytest.raises(RunError, match="there is not enough memory"):
        fit(Large(), tiny(), CONFIG)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    @dataclass(frozen=True)
    class Broken(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            raise RuntimeError("a fault in the method that has to do with memory")

    with pytest.raises(RuntimeError, match="a fault in the method"):
        fit(Broken(), tiny(), CONFIG)


@pytest.mark.parametrize(("bad", "value"), [(1, "nan"), (2, "inf"), (3, "nan")])
def test_the_step_at_which_the_loss_is_not_finite(bad, value, tmp_path):
    calls = []

    @dataclass(frozen=True)
    class Explode(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            loss, logits, parts = super().step(model, images, labels, generator, epoch)
            calls.append(epoch)
            return Step(loss * (float(value) if len(calls) == 3 + bad else 1), logits, parts)

    match = rf"loss is {value} in epoch 2 of 3, from step {bad} of 3 on, .*epoch 1 is kept in"
    with pytest.raises(RunError, match=match):
        fit(Explode(), tiny(), CONFIG, tmp_path)
    assert decode((tmp_path / "checkpoint.pt").read_bytes())["epoch"] == 1
    assert same_run(fit(Baseline(), tiny(), CONFIG, tmp_path), fit(Baseline(), tiny(), CONFIG))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """An update that spoils the weights after the epoch's last loss, which was finite."""
    calls = []

    @dataclass(frozen=True)
    class Spoil(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            loss, logits, parts = super().step(model, images, labels, generator, epoch)
            calls.append(epoch)
            if len(calls) == 6:
                loss = loss + (loss - loss.detach()).sqrt()  # 0, with an infinite slope
            return Step(loss, logits, parts)

    with pytest.raises(RunError, match="a weight is not finite in epoch 2 of 3, after its last step"):
        fit(Spoil(), tiny(), CONFIG, tmp_path)
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
    content, rng, refused = (tmp_path / name).read_bytes(), random.Random(name), 0
    whole = decode(content)
    identity = {key: run.record[key] for key in ("config", "method", "data")}
    found: dict = {}
    for _ in range(100 * TIMES):
        (tmp_path / name).write_bytes(damaged(content, rng))
        try:
            if name == "checkpoint.pt":
                Folder(tmp_path, identity).resume(found.update)
                assert equal(found, whole)
            else:
                network = fit(STO(), tiny(), CONFIG, tmp_path).network
                assert equal(dict(network.state_dict()), dict(whole["weights"]))
        except RunError as error:
            assert str(tmp_path / name) in str(error) and "delete" in str(error)
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


def test_damage_to_a_prepared_file_is_seen(here):
    whole = data.load("fer2013", 48)
    path, rng, refused = here / "data" / "fer2013.npz", random.Random(0), 0
    content = path.read_bytes()
    for _ in range(100 * TIMES):
        path.write_bytes(damaged(content, rng))
        try:
            assert data.load("fer2013", 48).fingerprint == whole.fingerprint
        except DataError as error:
            assert str(path) in str(error) and str(error).isprintable()
            refused += 1
    assert refused > 0.9 * 100 * TIMES


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
    assert (
        f"{other.name}: " in said.err and "checkpoint.pt is of another run: data.fingerprint is" in said.err
    )
    assert files_below(here / "runs") == before
    arguments = job.arguments(here / "runs")
    assert main(["train", *arguments]) == 2
    assert "record.json is of another run: data.fingerprint is" in capsys.readouterr().err
    shutil.rmtree(here / "runs" / job.name)
    shutil.rmtree(here / "runs" / other.name)
    assert main(run) == 0


def test_records_without_their_data_at_hand(here, capsys):
    """As when the runs of a cluster are looked at elsewhere: they are kept, and it is told."""
    run = [*map(str, RUN), str(here / "runs")]
    assert main(run) == 0
    change(here)
    outcomes, left = runner.kept(jobs(), here / "runs", lambda outcome: None, elsewhere=True)
    assert not left and [outcome.status for outcome in outcomes] == ["kept", "kept"]
    assert all("; its record is of other data" in outcome.message for outcome in outcomes)
    (here / "data" / "fer2013.npz").unlink()
    runner.load.cache_clear()
    capsys.readouterr()
    assert main(run) == 0
    said = capsys.readouterr().out
    assert (
        said.count(" kept ") == 2
        and said.count("not compared with the data, as fer2013 cannot be loaded") == 2
    )


def test_a_record_that_names_no_data(here, capsys):
    run = [*map(str, RUN), str(here / "runs")]
    assert main(run) == 0
    path = here / "runs" / jobs()[0].name / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": {}}))
    capsys.readouterr()
    assert main(run) == 1
    assert "had the fingerprint None" in capsys.readouterr().err
