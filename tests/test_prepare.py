"""prepare.fer2013: every layout gives the same arrays; every fault is one DataError that says where it is."""

import bz2
import csv
import errno
import gzip
import importlib.util
import io
import json
import lzma
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sto_lite.__main__ import main
from sto_lite.intake import archives, fer, prepare, tables
from tests.packing import (
    UNPACK,
    files_below,
    image,
    one_file,
    prepared,
    quiet,
    refused,
    same,
    tarred,
    written,
    zipped,
)

SIZES = {"train": 9, "public": 8, "private": 7}
USAGE = {"train": "Training", "public": "PublicTest", "private": "PrivateTest"}


def look_alike(seed=0):
    """Random pixels in place of faces; the labels of every split go through all seven classes."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in SIZES.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 48, 48), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8) % 7
    return arrays


def rows_of(arrays):
    """(emotion, pixels, Usage) of every image."""
    return [
        (str(label), " ".join(map(str, image.ravel())), USAGE[split])
        for split in SIZES
        for image, label in zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
    ]


def as_csv(rows, header="emotion,pixels,Usage", end="\n"):
    return "".join(line + end for line in [header, *map(",".join, rows)]).encode()


def icml(rows):
    return as_csv([(e, u, p) for e, p, u in rows], "emotion, Usage, pixels")


def quoted(rows):
    out = io.StringIO(newline="")
    table = [("emotion", "pixels", "Usage"), *rows]
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(table)
    return b"\xef\xbb\xbf" + out.getvalue().encode()


def image_files(arrays, name=lambda split, i: f"{USAGE[split]}_{i:08d}.png", classes=fer.CLASSES):
    """train/<class>/Training_*.png and test/<class>/{Public,Private}Test_*.png, in shuffled order."""
    files = {}
    images = [(split, i) for split, n in SIZES.items() for i in range(n)]
    random.Random(1).shuffle(images)
    for split, i in images:
        out = io.BytesIO()
        Image.fromarray(arrays[f"{split}_images"][i]).save(out, "PNG")
        label = classes[arrays[f"{split}_labels"][i]]
        files[f"{'train' if split == 'train' else 'test'}/{label}/{name(split, i)}"] = out.getvalue()
    return files


ARRAYS = look_alike()
ROWS = rows_of(ARRAYS)
TABLE, IMAGES = as_csv(ROWS), image_files(ARRAYS)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


# ---- what is accepted

CSVS = {
    "fer2013": as_csv,
    "icml_face_data": icml,
    "quoted, CRLF and BOM": quoted,
    "no end of the last line": lambda rows: as_csv(rows).rstrip(b"\n"),
    "lines that end as on old Macs": lambda rows: as_csv(rows, end="\r"),
    "blank lines": lambda rows: as_csv(rows).replace(b"\n", b"\n\n"),
    "rows of nothing but commas": lambda rows: as_csv([*rows[:9], ("", "", ""), *rows[9:]]),
    "spaces about the fields": lambda rows: as_csv([(f" {e} ", f" {p} ", f" {u}") for e, p, u in rows]),
    "zero-padded pixels and tabs": lambda rows: as_csv(
        [(e, "\t".join(v.zfill(4) for v in p.split()), u) for e, p, u in rows]
    ),
    "an index column": lambda rows: as_csv(
        [(f"{i},{e}", p, u) for i, (e, p, u) in enumerate(rows)], ",emotion,pixels,Usage"
    ),
    "semicolons": lambda rows: as_csv(rows).replace(b",", b";"),
    "columns between tabs": lambda rows: as_csv(rows).replace(b",", b"\t"),
    "UTF-16, as PowerShell writes it": lambda rows: as_csv(rows).decode().encode("utf-16"),
}
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def layouts(tmp):
    """The same data in every layout that holds the pixels exactly."""
    below = {"._x": b"\0", "__MACOSX/fer2013/._fer2013.csv": b"\0", "README.md": b"read me"}
    inside = {"fer2013/fer2013.csv": TABLE, **below}
    kaggle = {"fer2013.tar.gz": b"-", "icml_face_data.csv": icml(ROWS), "train.csv": b"emotion,pixels\n"}
    kaggle |= {"test.csv": b"", "._icml_face_data.csv": b"\0"}
    usage = {}
    for name, data in IMAGES.items():
        _, label, file = name.split("/")
        usage["/".join([file.split("_")[0], label, file.split("_")[1]])] = data
    folders = {
        "folder with the csv": inside,
        "Kaggle's folder": kaggle,
        "Kaggle's folder, unpacked": {"fer2013/fer2013.csv": TABLE, **kaggle},
        "image folders": IMAGES,
        "folders that name the test set": usage,
        "numbers without zeros": image_files(ARRAYS, lambda split, i: f"{USAGE[split]}_{10 ** (i + 1)}.png"),
        "beside FER+": {"fer2013new.csv": b"-", "FER2013Train/label.csv": b"-", "fer2013.csv": TABLE},
        "an archive in a folder": {
            "fer2013.tar.gz": tarred(tmp / "x", inside).read_bytes(),
            "other.zip": b"",
        },
        "as Kaggle's tool brings one file": {
            "fer2013.csv.zip": zipped(tmp / "x", {"fer2013.csv": TABLE}).read_bytes()
        },
    }
    folders |= {
        f"{kind} in a folder": {f"a/fer2013.csv.{kind}": pack(TABLE)} for kind, pack in PACKERS.items()
    }
    folders["gz beside what it holds"] = {"fer2013.csv.gz": b"-", "fer2013.csv": TABLE}
    found = {name: written(tmp / "folders" / name, files) for name, files in folders.items()}
    for name, write in CSVS.items():
        found[f"csv: {name}"] = written(tmp, {f"{name}.csv": write(ROWS)}) / f"{name}.csv"
    for kind, pack in PACKERS.items():
        found[f"csv.{kind}"] = written(tmp, {f"fer2013.csv.{kind}": pack(TABLE)}) / f"fer2013.csv.{kind}"
    found |= {
        "a gz that the browser unpacked": written(tmp / "b", {"fer2013.csv.gz": TABLE}) / "fer2013.csv.gz",
        "zip": zipped(tmp / "fer2013.zip", {"fer2013.csv": TABLE}),
        "zip with a folder": zipped(tmp / "archive.zip", inside),
        "zip of Kaggle's folder": zipped(tmp / "kaggle.zip", kaggle),
        "zip of a gz": zipped(tmp / "gz.zip", {"fer2013.csv.gz": gzip.compress(TABLE)}),
        "zip with backslashes": zipped(tmp / "windows.zip", {"fer2013\\fer2013.csv": TABLE}),
        "zip without a suffix": zipped(tmp / "download", inside),
        "tar": tarred(tmp / "fer2013.tar", inside, "w"),
        "tar.gz": tarred(tmp / "fer2013.tar.gz", inside),
        "tgz, ./": tarred(tmp / "fer2013.tgz", {"./fer2013/fer2013.csv": TABLE}),
        "tar.bz2": tarred(tmp / "fer2013.tar.bz2", inside, "w:bz2"),
        "tar.xz": tarred(tmp / "fer2013.tar.xz", inside, "w:xz"),
        "zip of image folders": zipped(tmp / "images.zip", {f"archive/{n}": d for n, d in IMAGES.items()}),
        "tar of image folders": tarred(tmp / "images.tar.gz", IMAGES),
    }
    for mode in ("RGB", "RGBA", "LA", "P"):
        place = written(tmp / "modes" / mode, IMAGES)
        for file in (place / "test").rglob("*.png"):
            with Image.open(file) as picture:
                picture.convert(mode).save(file)
        found[f"grey images saved as {mode}"] = place
    (tmp / "link.csv").symlink_to(tmp / "fer2013.csv.gz")
    (found["image folders"] / "train" / "again").symlink_to(found["image folders"], target_is_directory=True)
    return found | {"link to the csv": tmp / "link.csv"}


def test_every_layout_gives_the_same_bytes(tmp_path, root):
    one_file("fer2013", layouts(tmp_path), ARRAYS, tmp_path)
    with zipfile.ZipFile(prepare.fer2013(tmp_path / "fer2013.tar", root, report=quiet)) as npz:
        for info in npz.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.date_time == (1980, 1, 1, 0, 0, 0)


def test_order_of_the_file_is_kept_when_splits_are_mixed(tmp_path, root):
    order = np.random.default_rng(3).permutation(len(ROWS))
    (tmp_path / "fer2013.csv").write_bytes(as_csv([ROWS[i] for i in order]))
    found = prepared("fer2013", tmp_path / "fer2013.csv", root)
    start = 0
    for split, n in SIZES.items():
        mine = [i - start for i in order if start <= i < start + n]
        for kind in ("images", "labels"):
            np.testing.assert_array_equal(found[f"{split}_{kind}"], ARRAYS[f"{split}_{kind}"][mine])
        start += n


@pytest.mark.parametrize(
    "classes",
    [
        ("Angry", "Disgust", "fear", "Happy", "sad", "Surprise", "Neutral"),
        ("ANGER", "disgusted", "fearful", "happiness", "sadness", "surprised", "neutral"),
        ("anger", "Disgusted", "Afraid", "Happiness", "Sad", "Surprised", " neutral"),
        tuple("0123456"),
    ],
)
def test_names_of_class_folders(classes, tmp_path, root):
    same(prepared("fer2013", written(tmp_path / "a", image_files(ARRAYS, classes=classes)), root), ARRAYS)


# ---- prepared twice


def test_second_time_reads_nothing(tmp_path, root, monkeypatch):
    for source in (
        written(tmp_path, {"fer2013.csv": TABLE}) / "fer2013.csv",
        zipped(tmp_path / "fer2013.zip", {"fer2013.csv": TABLE}),
        written(tmp_path / "images", IMAGES),
    ):
        prepared("fer2013", source, root)
        stamp = (root / "fer2013.npz").stat().st_mtime_ns
        said = []
        with monkeypatch.context() as patch:
            patch.setattr(archives, "opened", None)  # any reading would fail
            patch.setattr(prepare, "_write", None)
            prepare.fer2013(source, root, report=said.append)
        assert "not read again" in said[0] and "copies" in said[0]
        assert (root / "fer2013.npz").stat().st_mtime_ns == stamp


def test_a_changed_source_is_read_again(tmp_path, root):
    source = tmp_path / "fer2013.csv"
    source.write_bytes(TABLE)
    status = source.stat()
    assert prepared("fer2013", source, root)["train_labels"][0] == 0
    source.write_bytes(as_csv([("6", *ROWS[0][1:]), *ROWS[1:]]))
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same date
    assert prepared("fer2013", source, root)["train_labels"][0] == 6
    images = written(tmp_path / "images", IMAGES)
    same(prepared("fer2013", images, root), ARRAYS)  # another source
    for old, new in (("angry", "moved"), ("sad", "angry"), ("moved", "sad")):
        (images / "train" / old).rename(images / "train" / new)
    swapped = np.array([{0: 4, 4: 0}.get(label, label) for label in ARRAYS["train_labels"]])
    np.testing.assert_array_equal(prepared("fer2013", images, root)["train_labels"], swapped)


def test_a_damaged_prepared_file_or_record_is_mended(tmp_path, root):
    source = tarred(tmp_path / "fer2013.tar", {"fer2013.csv": TABLE}, "w")
    prepared("fer2013", source, root)
    npz, record = root / "fer2013.npz", root / "fer2013.json"
    whole = record.read_text()
    for damage in (
        lambda: npz.write_bytes(b"x" + npz.read_bytes()[1:]),
        npz.unlink,
        lambda: os.truncate(npz, 1000),
        record.unlink,
        lambda: record.write_bytes(b"\xff\0"),
        lambda: record.write_text("[]"),
        lambda: record.write_text("{}"),
        lambda: record.write_text("[" * 100_000),
        lambda: record.write_text(json.dumps(json.loads(whole) | {"version": 0})),
    ):
        damage()
        same(prepared("fer2013", source, root), ARRAYS)
        assert record.read_text() == whole


# ---- the report and the audit


def test_audit_counts_what_was_planted():
    planted = {key: array.copy() for key, array in ARRAYS.items()}
    planted["train_images"][1] = planted["train_images"][0]  # within train, with another label: a conflict
    planted["public_images"][0] = planted["train_images"][3]  # public in train; labels 0 and 3: a conflict
    planted["private_images"][3] = planted["train_images"][3]  # private in train and in public
    planted["private_images"][5] = planted["public_images"][5]  # private in public, with the same label
    planted["train_images"][6] = 0
    planted["private_images"][6] = 0  # black, private in train, with the same label
    found = prepare.audit(planted, fer.CLASSES)
    assert found.counts["train"] == [2, 2, 1, 1, 1, 1, 1] and found.counts["private"] == [1] * 7
    assert found.copies == 5 and found.copies_within == {"train": 1, "public": 0, "private": 0}
    assert found.stand_in == {"public_in_train": 1, "private_in_train": 2, "private_in_public": 2}
    assert (found.conflicts, found.black) == (2, 2)


def test_report(tmp_path, root, monkeypatch):
    source = tmp_path / "fer2013.csv"
    source.write_bytes(TABLE)
    said = []
    prepare.fer2013(source, root, report=said.append)
    (text,) = said
    assert "not known; that is no fault" in text and "train 9 of 28,709" in text and "disgust" in text
    assert json.loads((root / "fer2013.json").read_text())["audit"]["counts"]["private"] == [1] * 7
    md5 = text.split("(md5) ")[1][:32]
    monkeypatch.setitem(fer.KNOWN_MD5, md5, "fer2013.csv")
    (root / "fer2013.json").unlink()
    prepare.fer2013(source, root, report=said.append)
    assert f"{md5}: as published (fer2013.csv)" in said[1]
    (tmp_path / "icml_face_data.csv").write_bytes(icml(ROWS))
    prepare.fer2013(tmp_path, root, report=said.append)
    assert f"notice: took {source}; not icml_face_data.csv, published as the same data" in said[2]


def test_known_checksums_are_torchvisions():
    spec = importlib.util.find_spec("torchvision")  # its source is read: to import it takes seconds
    source = (Path(spec.origin).parent / "datasets" / "fer2013.py").read_text()
    published = {md5: name for name, md5 in re.findall(r'\("(\w+\.csv)", "([0-9a-f]{32})"\)', source)}
    assert {"fer2013.csv", "icml_face_data.csv"} <= set(published.values())
    assert fer.KNOWN_MD5.items() <= published.items() and len(fer.KNOWN_MD5) == 2


# ---- faults in the CSV

PIXELS = " ".join(["7"] * 2304)


def row(field, value):
    """The table with a faulty sixth line."""
    bad = ["3", PIXELS, "Training"]
    bad[field] = value
    return as_csv([*ROWS[:4], bad, *ROWS[4:]])


CSV_FAULTS = {
    "no Usage: train.csv": (
        as_csv([(e, p) for e, p, _ in ROWS], "emotion,pixels"),
        ("line 1", "no column 'Usage'", "train.csv", "take fer2013.csv or icml_face_data.csv"),
    ),
    "no emotion: test.csv": (
        as_csv([(p,) for _, p, _ in ROWS], "pixels"),
        ("line 1", "'emotion'", "take fer2013.csv"),
    ),
    "no first line": (as_csv(ROWS[1:], ",".join(ROWS[0])), ("line 1", "no column 'emotion'")),
    "column twice": (as_csv(ROWS, "emotion,pixels,pixels"), ("line 1", "more than one column 'pixels'")),
    "of something else": (b"name,price\ntea,3\n", ("line 1", "no column 'emotion'", "name, price")),
    "README": (b"# FER-2013\n\nFaces.\n", ("line 1", "no column 'emotion'")),
    "binary": (bytes(range(1, 256)) * 600, ("line",)),
    "binary with zeros": (bytes(range(256)) * 600, ("line 1: is no text, but binary data",)),
    "binary, one line": (b"\xfe" * 300_000, ("line 1", "longer than", "none of the data sets")),
    "empty": (b"", ("is empty",)),
    "empty lines": (b"\n\n", ("line",)),
    "first line only": (b"emotion,pixels,Usage\n", ("no images",)),
    "2,303 pixels": (row(1, PIXELS[2:]), ("line 6", "2,303 pixels, not 2,304")),
    "2,305 pixels": (row(1, PIXELS + " 7"), ("line 6", "2,305 pixels, not 2,304")),
    "no pixels": (row(1, ""), ("line 6", "has 0 pixels")),
    "pixel 256": (row(1, "256" + PIXELS[1:]), ("line 6", "pixel 1 is '256'", "from 0 to 255")),
    "pixel -1": (row(1, PIXELS[:-1] + "-1"), ("line 6", "pixel 2,304 is '-1'")),
    "pixel 1.5": (row(1, "7 1.5" + PIXELS[3:]), ("line 6", "pixel 2 is '1.5'")),
    "pixel of 20 digits": (row(1, "18446744073709551621" + PIXELS[1:]), ("line 6", "pixel 1 is '184467")),
    "pixel of 5,000 digits": (row(1, "9" * 5000 + PIXELS[1:]), ("line 6", "pixel 1 is '9999")),
    "pixel no number": (row(1, "7 x" + PIXELS[3:]), ("line 6", "pixel 2 is 'x'")),
    "pixel in Arabic digits": (row(1, "\u0663" + PIXELS[1:]), ("line 6", "pixel 1 is")),
    "label 7": (row(0, "7"), ("line 6", "emotion is '7'", "from 0 to 6")),
    "label x": (row(0, "x"), ("line 6", "emotion is 'x'")),
    "label 3.0": (row(0, "3.0"), ("line 6", "emotion is '3.0'")),
    "label with escape codes": (row(0, "\x1b[2J"), ("line 6", "emotion is '?[2J'")),
    "no label": (row(0, ""), ("line 6", "emotion is ''")),
    "unknown Usage": (
        row(2, "Testing"),
        ("line 6", "Usage is 'Testing'", "Training, PublicTest, PrivateTest"),
    ),
    "too many columns": (row(2, "Training,,"), ("line 6", "has 5 columns, the first line has 3")),
    "an open quote": (row(2, '"Training'), ("line 6", "nothing closes")),
    "cut in the pixels": (TABLE[:-1000], ("line 25", "Usage is ''", "the file ends in this line")),
    "cut in the Usage": (TABLE[:-5], ("line 25", "Usage is 'Private", "seems cut short")),
    "icml cut in the pixels": (icml(ROWS)[:-1000], ("line 25", "pixels, not 2,304", "seems cut short")),
    "no train": (as_csv(ROWS[9:]), ("no train images",)),
    "no public": (as_csv(ROWS[:9] + ROWS[17:]), ("no public images",)),
    "cut after public": (as_csv(ROWS[:17]), ("no private images",)),
}


@pytest.mark.parametrize("name", CSV_FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["csv", "zip"])
def test_faults_in_the_csv(name, packed, tmp_path, root, monkeypatch):
    data, parts = CSV_FAULTS[name]
    source = tmp_path / "fer2013.csv"
    source.write_bytes(data)
    where = str(source)
    if packed:
        monkeypatch.setattr(tables, "_ROWS", 4)  # so that the fault is not in the first part
        source = zipped(tmp_path / "a.zip", {"fer2013/fer2013.csv": data})
        member = "" if "images" in parts[0] and "no images" not in parts else ", member fer2013/fer2013.csv"
        where = f"{source}{member}"
    assert refused("fer2013", source, root, *parts).startswith(where)
    assert ("cut short" in parts[-1] or "ends in" in parts[-1]) == (
        "seems cut short" in refused("fer2013", source, root)
    )


def test_a_fault_leaves_the_prepared_file_as_it_was(tmp_path, root):
    source = tmp_path / "fer2013.csv"
    source.write_bytes(TABLE)
    prepared("fer2013", source, root)
    source.write_bytes(as_csv([*ROWS, ("7", *ROWS[0][1:])]))
    refused("fer2013", source, root, "line 26", "emotion is '7'")


# ---- faults in archives and paths


def test_paths_that_are_no_data_set(tmp_path, root):
    written(
        tmp_path,
        {"photos/me.png": image(), "folder/x/fer2013.tar.gz": b"", "t/train.csv": b"", "t/test.csv": b""},
    )
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, *parts in (
        ("nowhere", "nowhere: does not exist"),
        ("long" * 100, "long"),
        ("empty", "holds no FER-2013", "fer2013.csv"),
        ("pipe", "neither a file nor a folder"),
        ("photos", "holds no FER-2013"),
        ("photos/me.png", "is a single image"),
        ("folder", "x/fer2013.tar.gz: is empty"),
        ("t", "train.csv", "take fer2013.csv"),
    ):
        refused("fer2013", tmp_path / name, root, *parts)
    refused("fer2013", zipped(tmp_path / "no.zip", {}), root, "no.zip", "holds no FER-2013")
    refused(
        "fer2013",
        zipped(tmp_path / "a.npz", {"train_images.npy": b""}),
        root,
        "holds train_images.npy, an array",
    )


def test_two_data_sets(tmp_path, root):
    for files in (
        {"a/fer2013.csv": TABLE, "b/fer2013.csv": TABLE},
        {"one.csv": TABLE, "two.csv": TABLE},
        {"fer2013.csv": TABLE, **IMAGES},
        {f"{home}/{name}": data for home in ("a", "b") for name, data in IMAGES.items()},
        {"a/fer2013.zip": b"", "b/fer2013.zip": b""},
    ):
        source = zipped(tmp_path / "two.zip", files)
        refused("fer2013", source, root, "two.zip", "more than one data set", "give the path of one")
    twice = zipfile.ZipFile(tmp_path / "twice.zip", "w")
    with pytest.warns(UserWarning, match="Duplicate name"), twice as archive:
        for name, data in [*IMAGES.items(), next(iter(IMAGES.items()))]:
            archive.writestr(name, data)
    refused("fer2013", tmp_path / "twice.zip", root, "twice.zip", "twice")


@pytest.mark.parametrize("folder", ["../", "/tmp/", "a/../../", "..\\", "C:\\", "/"])
def test_paths_that_climb_out(folder, tmp_path, root):
    name = f"{folder}fer2013.csv"
    for source in (
        zipped(tmp_path / "evil.zip", {name: TABLE}),
        tarred(tmp_path / "evil.tar.gz", {name: TABLE}),
        tarred(tmp_path / "beside.tar", {"fer2013.csv": TABLE, name: b""}, "w"),
    ):
        before = sorted(tmp_path.iterdir())
        refused("fer2013", source, root, source.name, "leads out of the archive")
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, None])
def test_links_devices_and_secrets(kind, tmp_path, root):
    source = tarred(tmp_path / "link.tar", {"fer2013.csv": TABLE}, "w")
    if kind:
        with tarfile.open(source, "a") as archive:
            info = tarfile.TarInfo("fer2013/fer2013.csv")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        refused("fer2013", source, root, "link.tar, member fer2013/fer2013.csv", "is a link or a device")
        return
    info = zipfile.ZipInfo("fer2013.csv")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused("fer2013", tmp_path / "link.zip", root, "link.zip, member fer2013.csv", "is a link")
    whole = zipped(tmp_path / "secret.zip", {"fer2013.csv": TABLE}).read_bytes()
    central = whole.index(b"PK\x01\x02")
    data = bytearray(whole)
    data[6] |= 1  # the flag in the member's own header, and in the directory
    data[central + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    refused(
        "fer2013",
        tmp_path / "secret.zip",
        root,
        "member fer2013.csv",
        "encrypted; unpack it with its password",
    )
    data = bytearray(whole)
    for start in (8, central + 10):
        data[start : start + 2] = struct.pack("<H", 93)  # Zstandard
    (tmp_path / "new.zip").write_bytes(data)
    refused(
        "fer2013", tmp_path / "new.zip", root, "new.zip, member fer2013.csv", "unpack it and give the folder"
    )


@pytest.mark.parametrize(
    "name",
    [
        "a.zip",
        "a.tar",
        "a.tar.gz",
        "a.tar.bz2",
        "a.tar.xz",
        "images.zip",
        "images.tar",
        "a.csv.gz",
        "a.csv.xz",
    ],
)
def test_archives_cut_short(name, tmp_path, root):
    files, kind = IMAGES if "images" in name else {"fer2013.csv": TABLE}, name.rpartition(".")[2]
    if name.endswith(".zip"):
        whole = zipped(tmp_path / name, files).read_bytes()
    elif ".csv" in name:
        whole = PACKERS[kind](TABLE)
    else:
        whole = tarred(tmp_path / name, files, "w" if kind == "tar" else f"w:{kind}").read_bytes()
    cuts = [1, 200, 512, 1024, len(whole) // 2, len(whole) - 1]
    if name == "images.tar":  # between two members, and in the middle of one; its last 10 kB are zeros
        cuts = [4096, 4096 * 4, 4096 * 4 + 512, 4096 * 4 + 1000]
    elif name == "a.tar":
        cuts = cuts[:-1]
    for cut in cuts:
        (tmp_path / name).write_bytes(whole[:cut])
        refused("fer2013", tmp_path / name, root, name)
    if name == "images.tar":
        (tmp_path / name).write_bytes(whole)
        with tarfile.open(tmp_path / name) as archive:
            last = archive.getmembers()[-1]
        os.truncate(tmp_path / name, last.offset)  # every other member is whole, and every split has images
        refused("fer2013", tmp_path / name, root, "the end of the archive is missing")


def test_bombs(tmp_path, root, monkeypatch):
    monkeypatch.setattr(fer, "_MAX_CSV", 1 << 17)
    monkeypatch.setattr(archives, "MAX_MEMBER", 1 << 17)
    zeros, lines = bytes((1 << 17) + 1), b"emotion,pixels,Usage\n" + b"\n" * (1 << 17)
    (tmp_path / "fer2013.csv").write_bytes(zeros)
    (tmp_path / "fer2013.csv.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "zeros.csv.xz").write_bytes(lzma.compress(b"1" * (1 << 17)))
    with bz2.open(tmp_path / "forged.tar.bz2", "wb") as file:  # a header that asks for gigabytes
        info = tarfile.TarInfo("long name")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 17))
    zipped(tmp_path / "bomb.zip", {"fer2013.csv": zeros})
    tarred(tmp_path / "bomb.tgz", {"fer2013.csv": zeros})
    zipped(tmp_path / "image.zip", {"train/happy/1.png": bytes((10 << 20) + 1)})
    for name, *parts in (
        ("bomb.zip", "bomb.zip, member fer2013.csv", "131,073 bytes"),
        ("bomb.tgz", "bomb.tgz, member fer2013.csv", "131,073 bytes"),
        ("fer2013.csv", "fer2013.csv: has 131,073 bytes"),
        ("fer2013.csv.gz", "has more bytes than it says; more than 131,072"),
        ("zeros.csv.xz", "line 1: is longer than"),
        ("image.zip", "member train/happy/1.png", "10,485,761 bytes"),
        ("forged.tar.bz2", "forged.tar.bz2", "asks for"),
    ):
        refused("fer2013", tmp_path / name, root, *parts)


def test_too_many_files(tmp_path, root, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    files = {f"{i}.txt": b"" for i in range(6)}
    refused("fer2013", zipped(tmp_path / "many.zip", files), root, "many.zip", "5 files")
    refused("fer2013", tarred(tmp_path / "many.tar", files, "w"), root, "many.tar", "5 files")
    refused("fer2013", written(tmp_path / "many", files), root, "many", "5 files")


# ---- faults in folders of images

IMAGE_FAULTS = {
    "size": ("train/happy/Training_99.png", image((47, 48)), ("47 x 48 pixels, not 48 x 48",)),
    "colour": ("train/happy/Training_99.png", image(mode="RGB", colour=(1, 2, 3)), ("is in colour",)),
    "16 bits": ("train/happy/Training_99.png", image(mode="I;16"), ("no 8-bit grey image",)),
    "empty": ("train/happy/Training_99.jpg", b"", ("cannot be decoded",)),
    "text": ("train/happy/Training_99.jpg", b"<html>", ("cannot be decoded (no JPEG, PNG or BMP)",)),
    "cut": ("train/happy/Training_99.png", image(colour=9)[:-30], ("cannot be decoded",)),
    "class": ("train/bored/Training_99.png", image(), ("'bored' is no class", "angry, disgust")),
    "no class": ("train/Training_99.png", image(), ("lies in no folder of a class",)),
    "no prefix": ("test/happy/99.png", image(), ("PublicTest_*, PrivateTest_*", "guess", "fer2013.csv")),
    "validation": ("validation/happy/99.png", image(), ("public or the private",)),
    "training in test": (
        "test/happy/Training_99.png",
        image(),
        ("is called Training but lies in a folder of test",),
    ),
    "test in training": (
        "train/happy/PublicTest_99.png",
        image(),
        ("is called PublicTest but lies in a folder of train",),
    ),
}


@pytest.mark.parametrize("name", IMAGE_FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_faults_in_images(name, packed, tmp_path, root):
    file, data, parts = IMAGE_FAULTS[name]
    files = IMAGES | {file: data}
    source = tarred(tmp_path / "images.tgz", files) if packed else written(tmp_path / "images", files)
    refused("fer2013", source, root, f"{source}, member {file}" if packed else str(source / file), *parts)


def test_missing_splits_and_links_that_lead_nowhere(tmp_path, root):
    for part, missing in (("train", "public"), ("test", "train")):
        files = {name: data for name, data in IMAGES.items() if name.startswith(part)}
        refused("fer2013", written(tmp_path / part, files), root, f"no {missing} images")
    source = written(tmp_path / "images", IMAGES)
    (source / "train" / "happy" / "Training_99.png").symlink_to(tmp_path / "gone.png")
    refused("fer2013", source, root, "Training_99.png", "No such file")


# ---- faults while writing


def test_root_that_cannot_be_made(tmp_path):
    (tmp_path / "fer2013.csv").write_bytes(TABLE)
    (tmp_path / "file").write_text("no folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        refused("fer2013", tmp_path / "fer2013.csv", root, "file", "cannot be written", "STO_DATA")
    (tmp_path / "taken" / "fer2013.npz").mkdir(parents=True)
    refused("fer2013", tmp_path / "fer2013.csv", tmp_path / "taken", "fer2013.npz: cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
def test_what_may_not_be_read_or_written(tmp_path, root):
    source = written(tmp_path / "images", IMAGES)
    (source / next(iter(IMAGES))).chmod(0)
    refused("fer2013", source, root, next(iter(IMAGES)), "Permission denied")
    (source / next(iter(IMAGES))).chmod(0o600)
    root.mkdir(mode=0o555)
    refused("fer2013", source, root, "cannot be written", "Permission denied")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("earlier", [False, True])
def test_disk_full_and_ctrl_c(call, earlier, tmp_path, root, monkeypatch):
    source = tmp_path / "fer2013.csv"
    source.write_bytes(TABLE)
    root.mkdir()
    if earlier:
        prepared("fer2013", source, root)
        source.write_bytes(as_csv(ROWS[::-1]))
    before = files_below(root)

    def fail(fault):
        def raise_it(*_):
            assert len(files_below(root)) > len(before)  # a temporary file stands beside the target
            raise fault

        return raise_it

    monkeypatch.setattr(prepare.os, call, fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    refused("fer2013", source, root, "cannot be written: No space left on device", "MB must fit")
    monkeypatch.setattr(prepare.os, call, fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        prepare.fer2013(source, root, report=quiet)
    assert files_below(root) == before


def test_a_source_that_changes_while_it_is_read(tmp_path, root, monkeypatch):
    source = tmp_path / "fer2013.csv"
    source.write_bytes(TABLE)
    read = fer.read

    def grow(*arguments):
        found = read(*arguments)
        source.write_bytes(TABLE * 2)
        return found

    monkeypatch.setattr(fer, "read", grow)
    refused("fer2013", source, root, "changed while it was read")


def test_the_command_line_shows_a_fault_in_one_message(tmp_path, root, monkeypatch, capsys):
    (tmp_path / "fer2013.csv").write_bytes(as_csv([ROWS[0], ("9", *ROWS[0][1:])]))
    monkeypatch.setenv("STO_DATA", str(root))
    assert main(["prepare", "fer2013", "--from", str(tmp_path / "fer2013.csv")]) == 2
    output = capsys.readouterr()
    assert "line 3: emotion is '9'" in output.err and output.err.count("\n") == 1
    assert not output.out and not root.exists()


# ---- the real data, where it is at hand


@pytest.mark.skipif(UNPACK is None, reason="the real FER-2013 is not at hand (../shared/data/unpack.py)")
def test_real_images_as_csv_and_as_folders(tmp_path):
    found = []
    for layout in ("csv", "folders"):
        command = [sys.executable, str(UNPACK), "fer2013", "--layout", layout, "--limit", "200"]
        subprocess.run([*command, str(tmp_path / layout)], check=True)
        found.append(prepared("fer2013", tmp_path / layout, tmp_path / "root"))
        shutil.rmtree(tmp_path / "root")
    table, folders = found
    for split in SIZES:
        assert table[f"{split}_images"].shape == (200, 48, 48)
        np.testing.assert_array_equal(table[f"{split}_labels"], folders[f"{split}_labels"])
        difference = np.abs(table[f"{split}_images"].astype(int) - folders[f"{split}_images"])
        assert difference.mean() < 2  # JPEG
