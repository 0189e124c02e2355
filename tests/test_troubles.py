"""Troubles of other people's machines: folders, scanners, hidden files, a disk or a memory that fails in between."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sto_lite import data, files, homework, keeping, records, registry
from sto_lite.__main__ import main
from sto_lite.data import ImageSet, Split
from sto_lite.errors import DataError, RunError, StoError
from sto_lite.experiments import formats, paper, tables
from sto_lite.intake import votes
from sto_lite.kd import KD
from sto_lite.methods import STO, Baseline
from sto_lite.train import fit
from tests.packing import files_below
from tests.processes import look_alike
from tests.samples import CONFIG, same_run, tiny

ONE = replace(CONFIG, epochs=1)


def refuse(error):
    def raising(*_, **__):
        raise error

    return raising


@pytest.mark.parametrize("where", ["torch.load", "optimizer", "network"])
def test_memory_that_ends_while_a_good_file_is_read(where, tmp_path, monkeypatch):
    """The likely one is a full GPU, when the optimizer's state follows the weights."""
    full = refuse(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    whole = fit(STO(), tiny(), ONE, tmp_path / "run")
    if where != "network":
        (tmp_path / "run" / "record.json").unlink()
    before = files_below(tmp_path / "run")
    target = (torch.optim.SGD, "load_state_dict") if where == "optimizer" else (torch, "load")
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(RunError, match="there is not enough memory") as told:
            fit(STO(), tiny(), ONE, tmp_path / "run")
    assert not {"delete", "damaged"} & set(str(told.value).split()) and "is kept" in str(told.value)
    assert before == files_below(tmp_path / "run")
    assert same_run(fit(STO(), tiny(), ONE, tmp_path / "run"), whole)


@pytest.mark.parametrize("name", ["checkpoint.pt", "network.pt", "record.json"])
def test_a_disk_that_does_not_give_a_good_file(name, tmp_path, monkeypatch):
    whole = fit(STO(), tiny(), ONE, tmp_path)
    if name == "checkpoint.pt":
        (tmp_path / "record.json").unlink()
    real = Path.open

    def failing(self, *arguments, **settings):
        if self.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        patch.setattr(Path, "read_bytes", lambda self: self.open("rb").read())
        patch.setattr(Path, "read_text", lambda self, encoding=None: self.open(encoding=encoding).read())
        with pytest.raises(RunError, match=f"{name} .*Input/output error") as told:
            fit(STO(), tiny(), ONE, tmp_path)
        if name == "network.pt":
            with pytest.raises(RunError, match="cannot be read: Input/output error"):
                KD(teacher=str(tmp_path))
    assert "delete" not in str(told.value) and "damaged" not in str(told.value)
    assert same_run(fit(STO(), tiny(), ONE, tmp_path), whole)


def test_a_gpu_that_fails_while_a_good_checkpoint_is_read(tmp_path, monkeypatch):
    fit(STO(), tiny(), ONE, tmp_path)
    (tmp_path / "record.json").unlink()
    failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(torch.optim.SGD, "load_state_dict", refuse(failure))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        fit(STO(), tiny(), ONE, tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 8 GiB"), "there is not enough memory"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "cannot be read .*Input/output error.*may be whole"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "cannot be read .*Permission denied"),
    ],
    ids=["memory", "disk", "permission"],
)
def test_a_good_prepared_file_that_cannot_be_read(error, words, tmp_path, monkeypatch, capsys):
    look_alike(tmp_path)
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    monkeypatch.setattr(data.np, "load", refuse(error))
    assert main(["train", "--data", "fer2013", "--net", "resnet8", "--size", "8"]) == 2
    said = capsys.readouterr().err
    with pytest.raises(StoError, match=words):
        raise StoError(said)
    assert "damaged" not in said and "delete" not in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY])
def test_a_rename_or_an_unlink_that_is_refused_for_a_moment(number, tmp_path, monkeypatch):
    calls = []
    (tmp_path / "checkpoint.pt.0a1b2c3d.partial").touch()

    def held(real):
        def call(*names, **settings):
            calls.append(names)
            if len(calls) % 4:  # three times, each time
                raise OSError(number, os.strerror(number))
            real(*names, **settings)

        return call

    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "replace", held(os.replace))
    monkeypatch.setattr(Path, "unlink", held(Path.unlink))
    assert fit(Baseline(), tiny(), ONE, tmp_path).record
    assert len(calls) == 16, "what was left, checkpoint, network and record"
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "checkpoint.pt", "network.pt", "record.json"}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "make room, and run the same command again"),
        (errno.EDQUOT, "make room, and run the same command again"),
        (errno.EACCES, "close the program that holds it, or take a folder that you may write"),
        (errno.EROFS, "take another folder"),
    ],
)
def test_what_helps_against_a_write_that_fails(number, words, tmp_path, monkeypatch):
    calls, waited, told = [], [], os.strerror(number)
    monkeypatch.setattr(files.time, "sleep", waited.append)
    monkeypatch.setattr(os, "replace", lambda *names: calls.append(names) or refuse(OSError(number, told))())
    with pytest.raises(RunError, match=f"cannot be written: {told}. What stood there is kept; {words}"):
        files.save(tmp_path / "file", b"new")
    assert len(calls) == (1 + len(files.WAITS) if number == errno.EACCES else 1)
    assert sum(waited) <= 6 and not list(tmp_path.iterdir())


def test_links_stay_links_devices_devices_and_a_folder_is_no_file(tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target.csv", "link.csv", "pipe"))
    target.write_text("old")
    link.symlink_to(target)
    files.save(link, b"new")
    assert link.is_symlink() and target.read_text() == "new"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as end:
        files.save(pipe, b"through")
        assert end.read() == b"through" and pipe.is_fifo()
    for folder in (tmp_path, Path(), Path("/")):
        with pytest.raises(RunError, match="is a folder; name a file"):
            files.save(folder, b"")


def test_a_lock_removes_no_file_of_others(tmp_path):
    ours, theirs = tmp_path / "record.json.0a1b2c3d.partial", tmp_path / "film.mp4.partial"
    ours.touch(), theirs.touch()
    with files.locked(tmp_path):
        assert not ours.exists() and theirs.exists()


def test_a_finished_run_is_read_where_nobody_may_write(tmp_path, monkeypatch):
    whole = fit(STO(), tiny(), ONE, tmp_path)
    monkeypatch.setattr("builtins.open", refuse(OSError(errno.EROFS, "Read-only file system")))
    assert same_run(fit(STO(), tiny(), ONE, tmp_path), whole)


def test_hidden_files_are_no_records(tmp_path, capsys):
    """macOS leaves ._x.json beside x.json on foreign disks, __MACOSX in archives, and Jupyter its checkpoints."""
    runs, handed_in = tmp_path / "runs", tmp_path / "data" / "runs" / "mine"
    record = fit(STO(), tiny(), ONE, runs / "one").record
    handed_in.mkdir(parents=True)
    for folder, name in ((runs, "one.json"), (handed_in, "sto-s0.json")):
        shutil.copy(runs / "one" / "record.json", folder / name)
    shutil.rmtree(runs / "one")
    for folder in (runs, handed_in):
        (folder / "._x.json").write_bytes(b"\0\5\26\7")
        for hidden in ("__MACOSX", ".ipynb_checkpoints"):
            (folder / hidden).mkdir()
            (folder / hidden / "record.json").write_text("{")
    assert len(records.read_folder(runs)) == 1
    named = shutil.copytree(runs, tmp_path / ".kept" / "runs")
    assert len(records.read_folder(named)) == 1, "a hidden folder that somebody names is read"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert records.read_records("mine") == [record]
    homework.write(handed_in, homework.summarise([record], {"sto": STO()}, "sto"))
    assert homework.problems(handed_in, {"sto": STO()}, "sto", seeds=1) == []


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A clone in the home folder, with an empty book/data."""
    monkeypatch.delenv("STO_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    clone = tmp_path / "home" / "clone"
    for folder in (clone / ".git", clone / "data", clone / "book" / "data", tmp_path / "data"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(clone / "book")
    return clone


def test_an_empty_folder_does_not_hide_prepared_data_above_it(places):
    prepared = look_alike(places / "data")
    assert data.root("fer2013") == places / "data" and data.prepared("fer2013")
    assert data.load("fer2013", 8).name == "fer2013"
    with pytest.raises(DataError, match="holds no votes"):
        votes.read("train")
    assert data.root() == data.root("rafdb") == places / "book" / "data", "where something is written"
    shutil.copy(prepared, places / "book" / "data")
    assert data.root("fer2013") == places / "book" / "data"


def test_data_beyond_the_clone_or_the_home_folder_is_not_taken(places, tmp_path, monkeypatch):
    look_alike(places.parent / "data")
    look_alike(tmp_path / "data")
    assert not data.prepared("fer2013")
    shutil.rmtree(places / ".git")  # as from an archive: known by its module, or it ends at the home folder
    assert data.root("fer2013") == places.parent / "data"
    shutil.rmtree(places.parent / "data")
    assert not data.prepared("fer2013")
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert data.root("fer2013") == tmp_path / "data"
    (places / "sto_lite").mkdir()
    (places / "sto_lite" / "scale.py").touch()
    assert not data.prepared("fer2013")


def test_the_data_folder_of_the_machine_is_never_taken(monkeypatch):
    monkeypatch.delenv("STO_DATA", raising=False)
    monkeypatch.setattr(Path, "is_dir", lambda self: self == Path("/data"))
    monkeypatch.setattr(Path, "exists", lambda self, **_: str(self).startswith("/data"))
    monkeypatch.setattr(Path, "cwd", lambda: Path("/scratch/me/book"))
    assert data.root("fer2013") == data.root() == Path("/scratch/me/book/data")


def test_no_home_folder_to_keep_runs_in(tmp_path, monkeypatch):
    """A bare uid in a container has none, or one that it may not write."""
    monkeypatch.delenv("STO_RUNS", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what Python does without HOME and passwd
    with pytest.raises(StoError, match="no home folder .*set STO_RUNS"):
        keeping.folder()
    monkeypatch.undo()
    monkeypatch.delenv("STO_RUNS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for asked in (keeping.folder, keeping.where):
        with pytest.raises(StoError, match="set STO_RUNS"):
            asked()
    monkeypatch.setenv("STO_RUNS", str(tmp_path / "runs"))
    assert keeping.folder() == tmp_path / "runs"


@pytest.mark.parametrize(("name", "size"), [(n, 4) for n in registry.METHODS if n != "kd"] + [("one", 8)])
@pytest.mark.parametrize(("count", "batch_size"), [(33, 32), (4, 1)])
def test_batch_norm_over_one_value_is_refused_before_the_first_epoch(name, size, count, batch_size, tmp_path):
    images, config = tiny(count=count, size=max(size, 7)), replace(CONFIG, batch_size=batch_size)
    splits = {k: Split(v.images[:, :, :size, :size], v.labels) for k, v in images.splits.items()}
    match = f"method {name} cannot take the last batch.*--batch-size {batch_size}: batch"
    with pytest.raises(ValueError, match=match):
        fit(registry.make(name), ImageSet("tiny", images.classes, splits), config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    if (name, count) in (("sto", 33), ("one", 33)):  # where it can be, such a batch is trained
        enough = tiny(count=33 if name == "sto" else 34)
        assert fit(registry.make(name), enough, ONE).record["result"]


def test_numbers_of_a_csv_carry_no_rounding_error(tmp_path):
    """Differences of equal errors leave rests such as −7.1e-15."""
    cell = paper.Cell("row", "sto", against="other")
    rest = tables.stats.interval([-7.1e-15, 7.1e-15, -7.1e-15])
    error = tables.stats.interval([32.1 + 1e-14] * 3)
    row = tables.Row(cell, (), "private", error, 0.0, rest, None, None, "")
    table = tables.Table(paper.find("table3"), "fer2013", "p", "private", False, (row,))
    fields = dict(zip(*(line.split(",") for line in formats.as_csv(table).splitlines()), strict=True))
    assert fields["gain"] == "0.0" and fields["error"] == "32.1" and "e-" not in ",".join(fields.values())
