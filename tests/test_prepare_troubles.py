"""What is no data set is named as what it is; what fails for another reason is never called damage."""

import builtins
import errno
import io
import lzma
import os

import numpy as np
import pytest
from PIL import Image

from sto_lite.errors import DataError
from sto_lite.intake import pickles, prepare
from sto_lite.sets import FER2013
from tests.packing import image, refused, tarred, written, zipped
from tests.test_prepare import ARRAYS, IMAGES, TABLE
from tests.test_prepare_cifar100 import HOME, OFFICIAL
from tests.test_prepare_rafdb import SMALL, with_zip

PLUS = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
LABELS = b'fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0\n'
PARQUET = b"PAR1" + bytes(range(200)) + b"PAR1"
FOREIGN = {
    "fer2013.csv": (PARQUET, "is a Parquet table"),
    "fer2013.parquet": (PARQUET, "is a Parquet table"),
    "x.zip": (b"  <!DOCTYPE html><html>", "is a web page, perhaps one to sign in"),
    "x.tar.gz": (b"<html>", "is a web page"),
    "x.csv": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "x.tar": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7-Zip archive, which is not read: unpack it"),
    "x.rar": (b"Rar!\x1a\x07\x01", "is a RAR archive"),
    "x.tar.zst": (b"(\xb5/\xfd" + bytes(99), "is compressed by Zstandard"),
    "x.h5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "x.npy": (b"\x93NUMPY\x01\0", "is a NumPy array"),
    "x.pdf": (b"%PDF-1.7", "is a PDF document"),
    "face.jpg": (b"\xff\xd8\xff\xe0", "is a single image"),
    "empty.zip": (b"", "is empty"),
    "gz.csv.xz": (lzma.compress(PARQUET), "is a Parquet table"),
    "fer2013new.csv": (
        PLUS.encode(),
        "these are FER+'s votes: give fer2013.csv here, and this file as --votes",
    ),
}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.mark.parametrize("file", FOREIGN)
@pytest.mark.parametrize("place", ["alone", "folder", "zip"])
def test_another_kind_of_file_is_named(file, place, tmp_path, root):
    content, what = FOREIGN[file]
    if place == "alone":
        message = refused("fer2013", written(tmp_path, {file: content}) / file, root, file, what)
    elif file.endswith((".csv", ".xz")):
        folder = written(tmp_path / "a", {file: content})
        source = folder if place == "folder" else zipped(tmp_path / "a.zip", {file: content})
        what = "holds FER+, whose votes are not the labels" if file == "fer2013new.csv" else what
        message = refused("fer2013", source, root, what)
    else:  # in its own folder, or in the archive of somebody who packed it again
        files = {f"data/{file}": content, "README.md": b"read me"}
        source = written(tmp_path / "a", files) if place == "folder" else zipped(tmp_path / "a.zip", files)
        message = refused("fer2013", source, root, str(source))
    assert "damaged" not in message and "cut short" not in message, message


FOLDERS = {
    "parquet": ({"data/train-00000-of-00001.parquet": PARQUET}, ("00001.parquet, a Parquet table", "fer2013.csv")),
    "7z": ({"data/fer.7z": b"7z"}, ("holds data/fer.7z, an archive that is not read; unpack it",)),
    "arrays": ({"x_train.npy": b""}, ("holds x_train.npy, an array, not the published data",)),
    "FER+": (
        {f"FER2013{part}/{name}": data for part in ("Train", "Valid", "Test") for name, data in
         {"label.csv": LABELS, "fer0000000.png": image()}.items()},
        ("holds FER+", "give fer2013.csv here, and FER+'s fer2013new.csv as --votes"),
    ),
    "FER+ without its lists": ({"FER2013Train/fer0000000.png": image()}, ("holds FER+", "--votes")),
    "the votes alone": ({"fer2013new.csv": PLUS.encode()}, ("holds FER+", "--votes")),
    "only what macOS left": ({"._fer2013.csv": b"\0", "__MACOSX/._x": b"\0"}, ("holds no FER-2013",)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_something_else(name, tmp_path, root):
    files, parts = FOLDERS[name]
    for source in (written(tmp_path / "a", files), zipped(tmp_path / "a.zip", files)):
        assert "damaged" not in refused("fer2013", source, root, str(source), *parts)


SOURCES = {
    "a table": ("fer2013", {"fer2013.csv": TABLE}),
    "images": ("fer2013", IMAGES),
    "official images": ("rafdb", SMALL),
    "an archive inside": ("rafdb", with_zip(SMALL)),
    "pickles": ("cifar100", OFFICIAL),
}


HIDDEN = {"._x.csv": b"\0", "._train_00001.jpg": b"\0", ".DS_Store": b"\0", "__MACOSX/._x": b"\0"}
HIDDEN |= {".ipynb_checkpoints/fer2013-checkpoint.csv": b"x", ".ipynb_checkpoints/train_00001.jpg": b"x"}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("what", SOURCES)
def test_hidden_files_anywhere(kind, what, tmp_path, root):
    name, files = SOURCES[what]
    places = {"", *(file.rpartition("/")[0] + "/" for file in files if "/" in file)}
    files = files | {f"{place}{file}": data for place in places for file, data in HIDDEN.items()}
    source = tmp_path / f"a.{kind}"
    make = {"folder": written, "zip": zipped, "tar": lambda path, files: tarred(path, files, "w")}[kind]
    make(source, files)
    if kind == "folder":  # a link that leads nowhere, of an editor that still runs
        (source / ".#fer2013.csv").symlink_to("user@host.1234")
    assert prepare.SETS[name](source, root, lambda text: None).exists()


# ---- memory and disks


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (MemoryError(), "not enough memory"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "cannot be read: Input/output error"),
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "cannot be read: Stale file handle"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_disk_or_memory_that_fails(kind, what, fault, said, tmp_path, root, monkeypatch):
    """Wherever it fails: at the opening of a file, or at any of the first reads."""
    name, files = SOURCES[what]
    source = tmp_path / f"a.{kind}"
    {"folder": written, "zip": zipped, "tar": lambda path, files: tarred(path, files, "w")}[kind](
        source, files
    )
    opening, left = builtins.open, [0]

    class Failing(io.FileIO):
        def read(self, size=-1):
            left[0] -= 1
            if left[0] < 0:
                raise fault
            return super().read(size)

    def opened(path, mode="r", *arguments, **options):
        if str(path).startswith(str(source)) and mode == "rb":
            left[0] -= 1
            if left[0] < 0:
                raise fault
            return Failing(path, "r")
        return opening(path, mode, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opened)
    for count in range(12):
        left[0] = count
        try:
            prepare.SETS[name](source, root, lambda text: None)
        except DataError as error:
            message = str(error)
            assert message.startswith(str(source)) and said in message, message
        else:
            assert count > 1 and left[0] >= 0  # all was read
            break
        assert "damaged" not in message and "cut short" not in message and "copy it again" not in message


@pytest.mark.parametrize("where", ["numpy", "pickle", "Pillow", "pandas"])
def test_memory_that_ends_while_bytes_are_made_into_arrays(where, tmp_path, root, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    name, files = {"Pillow": ("fer2013", IMAGES), "pandas": ("fer2013", {"fer2013.csv": TABLE})}.get(
        where, ("cifar100", OFFICIAL)
    )
    source = written(tmp_path / HOME, files)
    if where == "pandas":
        import pandas

        for fault in (
            MemoryError(),
            pandas.errors.ParserError("Error tokenizing data. C error: out of memory"),
        ):
            monkeypatch.setattr(
                pandas, "read_csv", lambda *_, fault=fault, **__: (_ for _ in ()).throw(fault)
            )
            refused(name, source, root, "fer2013.csv: there is not enough memory")
        return
    target, attribute = {
        "numpy": (np, "frombuffer"),
        "pickle": (pickles, "_reader"),
        "Pillow": (Image, "open"),
    }[where]
    monkeypatch.setattr(target, attribute, fail)
    refused(name, source, root, "not enough memory to read it", "end other programs")


def test_the_look_alikes_are_of_the_published_form():
    assert tuple(ARRAYS) == tuple(
        f"{split}_{kind}" for split in FER2013.splits for kind in ("images", "labels")
    )
