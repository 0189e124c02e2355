"""prepare.fer2013: every layout gives the same arrays; every fault is one DataError that says where it is."""

import bz2
import csv
import errno
import gzip
import importlib.util
import io
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sto_lite.errors import DataError
from sto_lite.intake import archives, layouts_fer2013, prepare
from tests.packing import files_below, mutate, tarred, zipped

SIZES = {"train": 9, "public": 8, "private": 7}
USAGE = {"train": "Training", "public": "PublicTest", "private": "PrivateTest"}
UNPACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack.py"
Arrays = dict[str, np.ndarray]


def quiet(text: str) -> None:
    pass


def look_alike(seed: int = 0) -> Arrays:
    """Random pixels in place of faces; the labels of every split go through all seven classes."""
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for split, n in SIZES.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 48, 48), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8) % 7
    return arrays


def rows_of(arrays: Arrays) -> list[tuple[str, str, str]]:
    """(emotion, pixels, Usage) of every image."""
    return [
        (str(label), " ".join(map(str, image.ravel())), USAGE[split])
        for split in SIZES
        for image, label in zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
    ]


def as_csv(rows: list[tuple[str, str, str]], header: str = "emotion,pixels,Usage", end: str = "\n") -> bytes:
    return "".join(line + end for line in [header, *map(",".join, rows)]).encode()


def write_folders(
    folder: Path,
    arrays: Arrays,
    name: Callable[[str, int], str] = lambda split, i: f"{USAGE[split]}_{i:08d}.png",
) -> Path:
    """train/<class>/Training_*.png and test/<class>/{Public,Private}Test_*.png, written in shuffled order."""
    images = [(split, i) for split, n in SIZES.items() for i in range(n)]
    random.Random(1).shuffle(images)
    for split, i in images:
        place = folder / ("train" if split == "train" else "test")
        place /= layouts_fer2013.CLASSES[arrays[f"{split}_labels"][i]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(arrays[f"{split}_images"][i]).save(place / name(split, i))
    return folder


def prepared(source: Path, root: Path) -> Arrays:
    path = prepare.fer2013(source, root, report=quiet)
    assert path == root / "fer2013.npz"
    with np.load(path, allow_pickle=False) as npz:
        return dict(npz)


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert list(found) == [f"{split}_{kind}" for split in SIZES for kind in ("images", "labels")]
    for key, array in expected.items():
        assert found[key].dtype == np.uint8, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def assert_refused(source: Path, root: Path, *parts: str) -> str:
    """The source is refused in one DataError that has all `parts`, and `root` is not touched."""
    before = files_below(root) if root.is_dir() else None
    with pytest.raises(DataError) as caught:
        prepare.fer2013(source, root, report=quiet)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message and message.isprintable() and len(message) < 1_000
    assert (files_below(root) if root.is_dir() else None) == before
    return message


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return look_alike()


@pytest.fixture(scope="module")
def rows(arrays: Arrays) -> list[tuple[str, str, str]]:
    return rows_of(arrays)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


# ---- what is accepted


def icml(rows: list[tuple[str, str, str]]) -> bytes:
    return as_csv([(e, u, p) for e, p, u in rows], "emotion, Usage, pixels")


def quoted(rows: list[tuple[str, str, str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(
        [("emotion", "pixels", "Usage"), *rows]
    )
    return b"\xef\xbb\xbf" + out.getvalue().encode()


CSVS: dict[str, Callable[[list[tuple[str, str, str]]], bytes]] = {
    "fer2013": as_csv,
    "icml_face_data": icml,
    "quoted, CRLF and BOM": quoted,
    "no end of the last line": lambda rows: as_csv(rows).rstrip(b"\n"),
    "blank lines": lambda rows: as_csv(rows).replace(b"\n", b"\n\n"),
    "spaces about the fields": lambda rows: as_csv([(f" {e} ", f" {p} ", f" {u}") for e, p, u in rows]),
    "zero-padded pixels and tabs": lambda rows: as_csv(
        [(e, "\t".join(v.zfill(4) for v in p.split()), u) for e, p, u in rows]
    ),
    "an index column": lambda rows: as_csv(
        [(f"{i},{e}", p, u) for i, (e, p, u) in enumerate(rows)], ",emotion,pixels,Usage"
    ),
}


@pytest.mark.parametrize("name", CSVS)
def test_every_way_to_write_the_csv(
    name: str, arrays: Arrays, rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    (tmp_path / "any name.csv").write_bytes(CSVS[name](rows))
    assert_equal(prepared(tmp_path / "any name.csv", root), arrays)


def test_order_of_the_file_is_kept_when_splits_are_mixed(
    arrays: Arrays, rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    order = np.random.default_rng(3).permutation(len(rows))
    (tmp_path / "fer2013.csv").write_bytes(as_csv([rows[i] for i in order]))
    found = prepared(tmp_path / "fer2013.csv", root)
    start = 0
    for split, n in SIZES.items():
        mine = [i - start for i in order if start <= i < start + n]
        np.testing.assert_array_equal(found[f"{split}_images"], arrays[f"{split}_images"][mine])
        np.testing.assert_array_equal(found[f"{split}_labels"], arrays[f"{split}_labels"][mine])
        start += n


def sources(tmp: Path, arrays: Arrays, rows: list[tuple[str, str, str]]) -> dict[str, Path]:
    """The same data in every layout that holds the pixels exactly."""
    table = as_csv(rows)
    below = {"._x": b"\0", "__MACOSX/fer2013/._fer2013.csv": b"\0", "README.md": b"read me"}
    inside = {"fer2013/fer2013.csv": table, **below}
    kaggle = {
        "fer2013.tar.gz": b"-",
        "icml_face_data.csv": icml(rows),
        "train.csv": b"emotion,pixels\n",
        "test.csv": b"",
    }
    both = {"fer2013/fer2013.csv": table, **kaggle}
    folders = write_folders(tmp / "images", arrays)
    images = files_below(folders)
    for name, files in {"folder": inside, "kaggle": kaggle, "both": both}.items():
        for file, data in files.items():
            (tmp / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp / name / file).write_bytes(data)
    (tmp / "fer2013.csv").write_bytes(table)
    found = {
        "csv": tmp / "fer2013.csv",
        "folder with the csv": tmp / "folder",
        "Kaggle's folder": tmp / "kaggle",
        "Kaggle's folder, unpacked": tmp / "both",
        "zip": zipped(tmp / "fer2013.zip", {"fer2013.csv": table}),
        "zip with a folder": zipped(tmp / "archive.zip", inside),
        "zip of Kaggle's folder": zipped(tmp / "kaggle.zip", kaggle),
        "zip with backslashes": zipped(tmp / "windows.zip", {"fer2013\\fer2013.csv": table}),
        "zip without a suffix": zipped(tmp / "download", inside),
        "tar": tarred(tmp / "fer2013.tar", inside, "w"),
        "tar.gz": tarred(tmp / "fer2013.tar.gz", inside),
        "tgz, ./": tarred(tmp / "fer2013.tgz", {"./fer2013/fer2013.csv": table}),
        "tar.bz2": tarred(tmp / "fer2013.tar.bz2", inside, "w:bz2"),
        "tar.xz": tarred(tmp / "fer2013.tar.xz", inside, "w:xz"),
        "image folders": folders,
        "zip of image folders": zipped(tmp / "images.zip", {f"archive/{n}": d for n, d in images.items()}),
        "tar of image folders": tarred(tmp / "images.tar.gz", images),
    }
    (tmp / "link.csv").symlink_to(tmp / "fer2013.csv")
    return found | {"link to the csv": tmp / "link.csv"}


def test_every_layout_gives_the_same_bytes(
    arrays: Arrays, rows: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    layouts_found = sources(tmp_path, arrays, rows)
    seen = set()
    for number, (name, source) in enumerate(layouts_found.items()):
        before = files_below(tmp_path)
        root = tmp_path / f"root{number}"
        assert_equal(prepared(source, root), arrays)
        assert sorted(p.name for p in root.iterdir()) == ["fer2013.json", "fer2013.npz"]
        seen.add((root / "fer2013.npz").read_bytes())
        shutil.rmtree(root)
        assert files_below(tmp_path) == before, f"{name}: something was written outside root"
    assert len(seen) == 1


def test_the_npz_is_uncompressed_and_without_the_time(
    rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    (tmp_path / "fer2013.csv").write_bytes(as_csv(rows))
    with zipfile.ZipFile(prepare.fer2013(tmp_path / "fer2013.csv", root, report=quiet)) as npz:
        for info in npz.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (0, ["Angry", "ANGER", "0"]),
        (1, ["disgust", "Disgusted", "1"]),
        (2, ["fear", "fearful", "Afraid", "2"]),
        (3, ["happy", "Happiness", "3"]),
        (4, ["sad", "sadness", "4"]),
        (5, ["surprise", "Surprised", "5"]),
        (6, ["neutral", "Neutral", "6"]),
    ],
)
def test_names_of_class_folders(label: int, names: list[str], arrays: Arrays, tmp_path: Path) -> None:
    for name in names:
        folder = write_folders(tmp_path / f"as {name}", arrays)
        for part in ("train", "test"):
            (folder / part / layouts_fer2013.CLASSES[label]).rename(folder / part / "moved")
            (folder / part / "moved").rename(folder / part / name)
        assert_equal(prepared(folder, tmp_path / "root"), arrays)


def test_images_are_ordered_by_number_not_by_text(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(
        tmp_path / "images", arrays, lambda split, i: f"{USAGE[split]}_{10 ** (i + 1)}.png"
    )
    assert_equal(prepared(source, root), arrays)


def test_folders_that_name_the_test_set(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(tmp_path / "images", arrays)
    for file in [p for p in source.rglob("*") if p.is_file()]:
        usage, number = file.name.split("_")
        place = source / usage / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / number)
    assert_equal(prepared(source, root), arrays)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_images_saved_in_colour(mode: str, arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(tmp_path / "images", arrays)
    for file in (source / "test").rglob("*.png"):
        with Image.open(file) as image:
            image.convert(mode).save(file)
    assert_equal(prepared(source, root), arrays)


def test_a_folder_that_links_to_itself(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(tmp_path / "images", arrays)
    (source / "train" / "again").symlink_to(source, target_is_directory=True)
    assert_equal(prepared(source, root), arrays)


# ---- prepared twice


def test_second_time_reads_nothing(
    arrays: Arrays,
    rows: list[tuple[str, str, str]],
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, source in sources(tmp_path, arrays, rows).items():
        first = prepared(source, root)
        stamp = (root / "fer2013.npz").stat().st_mtime_ns
        with monkeypatch.context() as patch:
            patch.setattr(layouts_fer2013, "read", None)  # any reading would fail
            patch.setattr(prepare, "_write", None)
            said: list[str] = []
            prepare.fer2013(source, root, report=said.append)
        assert "not read again" in said[0] and "copies" in said[0], name
        assert (root / "fer2013.npz").stat().st_mtime_ns == stamp
        assert_equal(first, arrays)


def test_a_changed_source_is_read_again(rows: list[tuple[str, str, str]], tmp_path: Path, root: Path) -> None:
    source = tmp_path / "fer2013.csv"
    source.write_bytes(as_csv(rows))
    status = source.stat()
    before = prepared(source, root)
    changed = [("6", rows[0][1], rows[0][2]), *rows[1:]]
    source.write_bytes(as_csv(changed))
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same date
    after = prepared(source, root)
    assert before["train_labels"][0] == 0 and after["train_labels"][0] == 6


def test_a_changed_image_folder_is_read_again(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(tmp_path / "images", arrays)
    prepared(source, root)
    (source / "train" / "angry").rename(source / "train" / "moved")
    (source / "train" / "sad").rename(source / "train" / "angry")
    (source / "train" / "moved").rename(source / "train" / "sad")
    swapped = np.array([{0: 4, 4: 0}.get(label, label) for label in arrays["train_labels"]])
    np.testing.assert_array_equal(prepared(source, root)["train_labels"], swapped)


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "fer2013.npz").write_bytes(b"x" + (root / "fer2013.npz").read_bytes()[1:]),
        lambda root: (root / "fer2013.npz").unlink(),
        lambda root: os.truncate(root / "fer2013.npz", 1000),
        lambda root: (root / "fer2013.json").unlink(),
        lambda root: (root / "fer2013.json").write_bytes(b"\xff\0"),
        lambda root: (root / "fer2013.json").write_text("[]"),
        lambda root: (root / "fer2013.json").write_text("{}"),
        lambda root: (root / "fer2013.json").write_text("[" * 100_000),
        lambda root: (root / "fer2013.json").write_text(
            json.dumps(json.loads((root / "fer2013.json").read_text()) | {"version": 0})
        ),
    ],
)
def test_a_damaged_prepared_file_or_record_is_mended(
    damage: Callable[[Path], object],
    arrays: Arrays,
    rows: list[tuple[str, str, str]],
    tmp_path: Path,
    root: Path,
) -> None:
    (tmp_path / "fer2013.csv").write_bytes(as_csv(rows))
    prepared(tmp_path / "fer2013.csv", root)
    damage(root)
    assert_equal(prepared(tmp_path / "fer2013.csv", root), arrays)


def test_another_source_replaces_the_prepared_file(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    other = look_alike(seed=1)
    (tmp_path / "a.csv").write_bytes(as_csv(rows_of(arrays)))
    (tmp_path / "b.csv").write_bytes(as_csv(rows_of(other)))
    assert_equal(prepared(tmp_path / "a.csv", root), arrays)
    assert_equal(prepared(tmp_path / "b.csv", root), other)
    assert_equal(prepared(tmp_path / "a.csv", root), arrays)


# ---- the report and the audit


def test_audit_counts_what_was_planted(arrays: Arrays) -> None:
    planted = {key: array.copy() for key, array in arrays.items()}
    planted["train_images"][1] = planted["train_images"][
        0
    ]  # a copy within train, with another label: a conflict
    planted["public_images"][0] = planted["train_images"][3]  # public in train; labels 0 and 3: a conflict
    planted["private_images"][3] = planted["train_images"][3]  # private in train and in public
    planted["private_images"][5] = planted["public_images"][5]  # private in public, with the same label
    planted["train_images"][6] = 0
    planted["private_images"][6] = 0  # black, private in train, with the same label
    found = prepare.audit(planted, layouts_fer2013.CLASSES)
    assert found.counts == {
        "train": [2, 2, 1, 1, 1, 1, 1],
        "public": [2, 1, 1, 1, 1, 1, 1],
        "private": [1] * 7,
    }
    assert found.copies == 5 and found.copies_within == {"train": 1, "public": 0, "private": 0}
    assert found.stand_in == {"public_in_train": 1, "private_in_train": 2, "private_in_public": 2}
    assert (found.conflicts, found.black) == (2, 2)


def test_report(
    rows: list[tuple[str, str, str]], tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "fer2013.csv"
    source.write_bytes(as_csv(rows))
    said: list[str] = []
    prepare.fer2013(source, root, report=said.append)
    (text,) = said
    assert "not known; that is no fault" in text and "train 9 of 28,709" in text and "disgust" in text
    record = json.loads((root / "fer2013.json").read_text())
    assert record["audit"]["counts"]["private"] == [1] * 7
    md5 = text.split("(md5) ")[1][:32]
    monkeypatch.setitem(layouts_fer2013.KNOWN_MD5, md5, "fer2013.csv")
    (root / "fer2013.json").unlink()
    prepare.fer2013(source, root, report=said.append)
    assert f"{md5}: as published (fer2013.csv)" in said[1]


def test_known_checksums_are_torchvisions() -> None:
    spec = importlib.util.find_spec("torchvision")  # its source is read: to import it takes seconds
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "datasets" / "fer2013.py").read_text()
    published = {md5: name for name, md5 in re.findall(r'\("(\w+\.csv)", "([0-9a-f]{32})"\)', source)}
    assert {"fer2013.csv", "icml_face_data.csv"} <= set(published.values())
    assert layouts_fer2013.KNOWN_MD5.items() <= published.items() and len(layouts_fer2013.KNOWN_MD5) == 2


# ---- faults in the CSV

PIXELS = " ".join(["7"] * 2304)
ROW = ("3", PIXELS, "Training")


def row_fault(field: int, value: str) -> Callable[[list[tuple[str, str, str]]], bytes]:
    def build(rows: list[tuple[str, str, str]]) -> bytes:
        bad = [*ROW]
        bad[field] = value
        return as_csv([*rows[:4], (bad[0], bad[1], bad[2]), *rows[4:]])

    return build


CSV_FAULTS: dict[str, tuple[Callable[[list[tuple[str, str, str]]], bytes], tuple[str, ...]]] = {
    "no Usage: train.csv": (
        lambda rows: as_csv([(e, p) for e, p, _ in rows], "emotion,pixels"),  # type: ignore[misc]
        ("line 1", "no column 'Usage'", "train.csv", "take fer2013.csv or icml_face_data.csv"),
    ),
    "no emotion: test.csv": (
        lambda rows: as_csv([(p,) for _, p, _ in rows], "pixels"),  # type: ignore[misc]
        ("line 1", "no column 'emotion'", "take fer2013.csv"),
    ),
    "no first line": (lambda rows: as_csv(rows[1:], ",".join(rows[0])), ("line 1", "no column 'emotion'")),
    "column twice": (
        lambda rows: as_csv(rows, "emotion,pixels,pixels"),
        ("line 1", "more than one column 'pixels'"),
    ),
    "of something else": (
        lambda rows: b"name,price\ntea,3\n",
        ("line 1", "no column 'emotion'", "name, price"),
    ),
    "README": (lambda rows: b"# FER-2013\n\nFaces.\n", ("line 1", "no column 'emotion'")),
    "binary": (lambda rows: bytes(range(256)) * 600, ("line",)),
    "binary, one line": (lambda rows: b"\xfe" * 300_000, ("line 1", "longer than", "no FER-2013")),
    "empty": (lambda rows: b"", ("is empty",)),
    "first line only": (lambda rows: b"emotion,pixels,Usage\n", ("no images",)),
    "2,303 pixels": (row_fault(1, PIXELS[2:]), ("line 6", "2,303 pixels, not 2,304")),
    "2,305 pixels": (row_fault(1, PIXELS + " 7"), ("line 6", "2,305 pixels, not 2,304")),
    "no pixels": (row_fault(1, ""), ("line 6", "has 0 pixels")),
    "pixel 256": (row_fault(1, "256" + PIXELS[1:]), ("line 6", "pixel 1 is '256'", "from 0 to 255")),
    "pixel -1": (row_fault(1, PIXELS[:-1] + "-1"), ("line 6", "pixel 2,304 is '-1'")),
    "pixel 1.5": (row_fault(1, "7 1.5" + PIXELS[3:]), ("line 6", "pixel 2 is '1.5'")),
    "pixel of 20 digits": (
        row_fault(1, "18446744073709551621" + PIXELS[1:]),
        ("line 6", "pixel 1 is '184467"),
    ),
    "pixel of 5,000 digits": (row_fault(1, "9" * 5000 + PIXELS[1:]), ("line 6", "pixel 1 is '9999")),
    "pixel no number": (row_fault(1, "7 x" + PIXELS[3:]), ("line 6", "pixel 2 is 'x'")),
    "pixel in Arabic digits": (row_fault(1, "\u0663" + PIXELS[1:]), ("line 6", "pixel 1 is")),
    "label 7": (row_fault(0, "7"), ("line 6", "emotion is '7'", "from 0 to 6")),
    "label x": (row_fault(0, "x"), ("line 6", "emotion is 'x'")),
    "label 3.0": (row_fault(0, "3.0"), ("line 6", "emotion is '3.0'")),
    "label with escape codes": (row_fault(0, "\x1b[2J"), ("line 6", "emotion is '?[2J'")),
    "no label": (row_fault(0, ""), ("line 6", "emotion is ''")),
    "unknown Usage": (
        row_fault(2, "Testing"),
        ("line 6", "Usage is 'Testing'", "Training, PublicTest, PrivateTest"),
    ),
    "too many columns": (row_fault(2, "Training,,"), ("line 6", "has 5 columns")),
    "an open quote": (row_fault(2, '"Training'), ("line",)),
    "cut in the pixels": (
        lambda rows: as_csv(rows)[:-1000],
        ("line 25", "2 columns", "the file ends in this line"),
    ),
    "cut in the Usage": (lambda rows: as_csv(rows)[:-5], ("line 25", "Usage is 'Private", "seems cut short")),
    "icml cut in the pixels": (
        lambda rows: icml(rows)[:-1000],
        ("line 25", "pixels, not 2,304", "seems cut short"),
    ),
    "UTF-16": (lambda rows: as_csv(rows).decode().encode("utf-16"), ("line 1",)),
    "no train": (lambda rows: as_csv(rows[9:]), ("no train images",)),
    "no public": (lambda rows: as_csv(rows[:9] + rows[17:]), ("no public images",)),
    "cut after public": (lambda rows: as_csv(rows[:17]), ("no private images",)),
}


@pytest.mark.parametrize("name", CSV_FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["csv", "zip"])
def test_faults_in_the_csv(
    name: str, packed: bool, rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    build, parts = CSV_FAULTS[name]
    source = tmp_path / "fer2013.csv"
    source.write_bytes(build(rows))
    if packed:
        source = zipped(tmp_path / "a.zip", {"fer2013/fer2013.csv": source.read_bytes()})
        if not name.startswith(("no train", "no public", "cut after")):
            parts = (f"{source}, member fer2013/fer2013.csv", *parts)
    assert_refused(source, root, str(source), *parts)


def test_a_fault_leaves_the_prepared_file_as_it_was(
    rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    source = tmp_path / "fer2013.csv"
    source.write_bytes(as_csv(rows))
    prepared(source, root)
    source.write_bytes(as_csv([*rows, ("7", *ROW[1:])]))
    assert_refused(source, root, "line 26", "emotion is '7'")


# ---- faults in archives and paths


def test_paths_that_are_no_data_set(rows: list[tuple[str, str, str]], tmp_path: Path, root: Path) -> None:
    assert_refused(tmp_path / "nowhere", root, "nowhere: does not exist")
    assert_refused(tmp_path / ("long" * 100), root, "long")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", root, "holds no FER-2013", "fer2013.csv")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", root, "neither a file nor a folder")
    (tmp_path / "photos").mkdir()
    Image.new("L", (48, 48)).save(tmp_path / "photos" / "me.png")
    assert_refused(tmp_path / "photos", root, "holds no FER-2013")
    assert_refused(tmp_path / "photos" / "me.png", root, "line 1")
    assert_refused(zipped(tmp_path / "no.zip", {}), root, "no.zip", "holds no FER-2013")
    assert_refused(
        zipped(tmp_path / "in.zip", {"x/fer2013.tar.gz": b""}), root, "holds the archive x/fer2013.tar.gz"
    )
    assert_refused(zipped(tmp_path / "t.zip", {"train.csv": b"", "test.csv": b""}), root, "take fer2013.csv")
    assert_refused(zipped(tmp_path / "a.npz", {"train_images.npy": b""}), root, "holds arrays")
    for name in ("a.zip", "a.npz", "a.tar", "a.tar.gz", "a.tgz"):
        for data in (b"", b"<html>Sign in</html>", b"\0" * 100):
            (tmp_path / name).write_bytes(data)
            assert_refused(tmp_path / name, root, name, "damaged or cut short")
    with gzip.open(tmp_path / "fer2013.csv.gz", "wb") as file:
        file.write(as_csv(rows))
    assert_refused(tmp_path / "fer2013.csv.gz", root, "damaged or cut short")


def test_two_data_sets(arrays: Arrays, rows: list[tuple[str, str, str]], tmp_path: Path, root: Path) -> None:
    table = as_csv(rows)
    images = files_below(write_folders(tmp_path / "images", arrays))
    for files in (
        {"a/fer2013.csv": table, "b/fer2013.csv": table},
        {"one.csv": table, "two.csv": table},
        {"fer2013.csv": table, **images},
        {f"{home}/{name}": data for home in ("a", "b") for name, data in images.items()},
    ):
        assert_refused(
            zipped(tmp_path / "two.zip", files),
            root,
            "two.zip",
            "more than one data set",
            "give the path of one",
        )
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive,
    ):
        for name, data in [*images.items(), next(iter(images.items()))]:
            archive.writestr(name, data)
    assert_refused(tmp_path / "twice.zip", root, "twice.zip", "twice")


@pytest.mark.parametrize(
    "name",
    ["../fer2013.csv", "/tmp/fer2013.csv", "a/../../fer2013.csv", "..\\fer2013.csv", "C:\\fer2013.csv"],
)
def test_paths_that_climb_out(
    name: str, rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    for source in (
        zipped(tmp_path / "evil.zip", {name: as_csv(rows)}),
        tarred(tmp_path / "evil.tar.gz", {name: as_csv(rows)}),
        tarred(tmp_path / "beside.tar", {"fer2013.csv": as_csv(rows), name: b""}, "w"),
    ):
        before = sorted(tmp_path.iterdir())
        assert_refused(source, root, source.name, "leads out of the archive")
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(
    kind: bytes, rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    source = tarred(tmp_path / "link.tar", {"fer2013.csv": as_csv(rows)}, "w")
    with tarfile.open(source, "a") as archive:
        info = tarfile.TarInfo("fer2013/fer2013.csv")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert_refused(source, root, "link.tar, member fer2013/fer2013.csv", "is a link or a device")


def test_a_link_in_a_zip(tmp_path: Path, root: Path) -> None:
    info = zipfile.ZipInfo("fer2013.csv")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert_refused(tmp_path / "link.zip", root, "link.zip, member fer2013.csv", "is a link")


def test_an_encrypted_zip(rows: list[tuple[str, str, str]], tmp_path: Path, root: Path) -> None:
    source = zipped(tmp_path / "secret.zip", {"fer2013.csv": as_csv(rows)})
    data = bytearray(source.read_bytes())
    data[6] |= 1  # the flag in the member's own header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    source.write_bytes(data)
    assert_refused(
        source, root, "secret.zip, member fer2013.csv", "is encrypted; unpack it with its password"
    )


def test_an_unknown_compression(rows: list[tuple[str, str, str]], tmp_path: Path, root: Path) -> None:
    source = zipped(tmp_path / "new.zip", {"fer2013.csv": as_csv(rows)})
    data = bytearray(source.read_bytes())
    for start in (8, data.index(b"PK\x01\x02") + 10):
        data[start : start + 2] = struct.pack("<H", 93)  # Zstandard
    source.write_bytes(data)
    assert_refused(source, root, "new.zip, member fer2013.csv", "unpack it and give the folder")


@pytest.mark.parametrize(
    "name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "images.zip", "images.tar"]
)
def test_archives_cut_short(
    name: str, arrays: Arrays, rows: list[tuple[str, str, str]], tmp_path: Path, root: Path
) -> None:
    images = files_below(write_folders(tmp_path / "folders", arrays))
    files = images if "images" in name else {"fer2013.csv": as_csv(rows)}
    if name.endswith(".zip"):
        whole = zipped(tmp_path / name, files).read_bytes()
    else:
        whole = tarred(
            tmp_path / name,
            files,
            {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[name.split(".")[-1]],
        ).read_bytes()
    cuts = [1, 200, 512, 1024, len(whole) // 2, len(whole) - 1]
    if name == "images.tar":  # between two members, and in the middle of one; its last 10 kB are zeros
        cuts = [4096, 4096 * 4, 4096 * 4 + 512, 4096 * 4 + 1000]
    elif name == "a.tar":
        cuts = cuts[:-1]
    for cut in cuts:
        (tmp_path / name).write_bytes(whole[:cut])
        assert_refused(tmp_path / name, root, name)


def test_a_tar_cut_between_two_members(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = tarred(tmp_path / "images.tar", files_below(write_folders(tmp_path / "folders", arrays)), "w")
    with tarfile.open(source) as archive:
        last = archive.getmembers()[-1]
    os.truncate(source, last.offset)  # every other member is whole, and every split has images
    assert_refused(source, root, "images.tar", "the end of the archive is missing")


def test_bombs(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts_fer2013, "_MAX_CSV", 1 << 20)
    monkeypatch.setattr(archives, "MAX_MEMBER", 1 << 20)
    zeros = bytes((1 << 20) + 1)
    assert_refused(
        zipped(tmp_path / "bomb.zip", {"fer2013.csv": zeros}),
        root,
        "bomb.zip, member fer2013.csv",
        "1,048,577 bytes",
    )
    assert_refused(
        tarred(tmp_path / "bomb.tgz", {"fer2013.csv": zeros}),
        root,
        "bomb.tgz, member fer2013.csv",
        "1,048,577 bytes",
    )
    (tmp_path / "fer2013.csv").write_bytes(zeros)
    assert_refused(tmp_path / "fer2013.csv", root, "fer2013.csv: has 1,048,577 bytes")
    big = {"train/happy/1.png": bytes((10 << 20) + 1)}
    assert_refused(zipped(tmp_path / "image.zip", big), root, "member train/happy/1.png", "10,485,761 bytes")


def test_a_tar_header_that_asks_for_gigabytes(tmp_path: Path, root: Path) -> None:
    info = tarfile.TarInfo("long name")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    with bz2.open(tmp_path / "forged.tar.bz2", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    assert_refused(tmp_path / "forged.tar.bz2", root, "forged.tar.bz2", "asks for")


def test_too_many_files(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    files = {f"{i}.txt": b"" for i in range(6)}
    for source in (
        zipped(tmp_path / "many.zip", files),
        tarred(tmp_path / "many.tar", files, "w"),
        tmp_path / "many",
    ):
        if not source.suffix:
            source.mkdir()
            for name in files:
                (source / name).touch()
        assert_refused(source, root, source.name, "5 files")


# ---- faults in folders of images


def spoil(arrays: Arrays, source: Path, name: str, data: bytes) -> str:
    write_folders(source, arrays)
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_bytes(data)
    return str(source / name)


def png(size: tuple[int, int] = (48, 48), mode: str = "L", colour: object = 0) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")  # type: ignore[arg-type]
    return out.getvalue()


IMAGE_FAULTS: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "size": ("train/happy/Training_99.png", png((47, 48)), ("47 x 48 pixels, not 48 x 48",)),
    "colour": ("train/happy/Training_99.png", png(mode="RGB", colour=(1, 2, 3)), ("is in colour",)),
    "16 bits": ("train/happy/Training_99.png", png(mode="I;16"), ("no 8-bit grey image",)),
    "empty": ("train/happy/Training_99.jpg", b"", ("cannot be decoded",)),
    "text": ("train/happy/Training_99.jpg", b"<html>", ("cannot be decoded (no JPEG, PNG or BMP)",)),
    "cut": ("train/happy/Training_99.png", png(colour=9)[:-30], ("cannot be decoded",)),
    "class": ("train/bored/Training_99.png", png(), ("'bored' is no class", "angry, disgust")),
    "no class": ("train/Training_99.png", png(), ("lies in no folder of a class",)),
    "no prefix": ("test/happy/99.png", png(), ("public or the private", "guess", "fer2013.csv")),
    "validation": ("validation/happy/99.png", png(), ("public or the private",)),
    "training in test": (
        "test/happy/Training_99.png",
        png(),
        ("is called Training but lies in a folder of test",),
    ),
    "test in training": (
        "train/happy/PublicTest_99.png",
        png(),
        ("is called PublicTest but lies in a folder of train",),
    ),
}


@pytest.mark.parametrize("name", IMAGE_FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_faults_in_images(name: str, packed: bool, arrays: Arrays, tmp_path: Path, root: Path) -> None:
    file, data, parts = IMAGE_FAULTS[name]
    source = tmp_path / "images"
    where = spoil(arrays, source, file, data)
    if packed:
        source = tarred(tmp_path / "images.tgz", files_below(source))
        where = f"{source}, member {file}"
    assert_refused(source, root, where, *parts)


def test_test_images_without_prefixes_are_refused(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(
        tmp_path / "images", arrays, lambda split, i: f"im{i + 100 * (split == 'private')}.png"
    )
    assert_refused(source, root, "PublicTest_*, PrivateTest_*", "fer2013.csv")


def test_missing_splits_of_images(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(tmp_path / "images", arrays)
    shutil.move(source / "test", tmp_path / "test")
    assert_refused(source, root, "no public images")
    shutil.rmtree(source / "train")
    shutil.move(tmp_path / "test", source / "test")
    assert_refused(source, root, "no train images")


def test_a_dangling_link_in_a_folder(arrays: Arrays, tmp_path: Path, root: Path) -> None:
    source = write_folders(tmp_path / "images", arrays)
    (source / "train" / "happy" / "Training_99.png").symlink_to(tmp_path / "gone.png")
    assert_refused(source, root, "Training_99.png", "No such file")


# ---- faults while writing


def test_root_that_cannot_be_made(rows: list[tuple[str, str, str]], tmp_path: Path) -> None:
    (tmp_path / "fer2013.csv").write_bytes(as_csv(rows))
    (tmp_path / "file").write_text("no folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_refused(tmp_path / "fer2013.csv", root, "file", "cannot be written", "STO_DATA")
    (tmp_path / "taken" / "fer2013.npz").mkdir(parents=True)
    assert_refused(tmp_path / "fer2013.csv", tmp_path / "taken", "fer2013.npz: cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_root_that_may_not_be_written(rows: list[tuple[str, str, str]], tmp_path: Path, root: Path) -> None:
    (tmp_path / "fer2013.csv").write_bytes(as_csv(rows))
    root.mkdir(mode=0o555)
    assert_refused(tmp_path / "fer2013.csv", root, "cannot be written", "Permission denied")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("earlier", [False, True])
def test_disk_full_and_ctrl_c(
    call: str,
    earlier: bool,
    rows: list[tuple[str, str, str]],
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / "fer2013.csv"
    source.write_bytes(as_csv(rows))
    root.mkdir()
    if earlier:
        prepared(source, root)
        source.write_bytes(as_csv(rows[::-1]))
    before = files_below(root)

    def fail(fault: BaseException) -> Callable[..., None]:
        def raise_it(*_: object) -> None:
            assert len(files_below(root)) > len(before)  # a temporary file stands beside the target
            raise fault

        return raise_it

    monkeypatch.setattr(prepare.os, call, fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert_refused(source, root, "cannot be written: No space left on device", "MB must fit")
    monkeypatch.setattr(prepare.os, call, fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        prepare.fer2013(source, root, report=quiet)
    assert files_below(root) == before


def test_a_source_that_changes_while_it_is_read(
    rows: list[tuple[str, str, str]], tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "fer2013.csv"
    source.write_bytes(as_csv(rows))
    read = layouts_fer2013.read

    def grow(path: Path, members: list[archives.Member]) -> object:
        found = read(path, members)
        with open(source, "ab") as file:
            file.write(as_csv(rows))
        return found

    monkeypatch.setattr(layouts_fer2013, "read", grow)
    assert_refused(source, root, "changed while it was read")


def test_the_command_line_shows_a_fault_in_one_message(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sto_lite.__main__ import main

    (tmp_path / "fer2013.csv").write_bytes(as_csv([ROW, ("9", *ROW[1:])]))
    monkeypatch.setenv("STO_DATA", str(root))
    assert main(["prepare", "fer2013", "--from", str(tmp_path / "fer2013.csv")]) == 2
    output = capsys.readouterr()
    assert "line 3: emotion is '9'" in output.err and output.err.count("\n") == 1
    assert not output.out and not root.exists()


# ---- mutations


@pytest.mark.parametrize("kind", ["csv", "icml.csv", "zip", "tar", "tar.gz", "images.zip", "images.tar"])
def test_mutations_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    small = {key: array[:3] for key, array in look_alike(seed=5).items()}
    table = as_csv(rows_of(small))
    images = {
        f"{'train' if s == 'train' else 'test'}/happy/{USAGE[s]}_{i}.png": png(colour=40 * i)
        for s in SIZES
        for i in range(3)
    }
    home = tmp_path / "home"
    home.mkdir()
    source = home / f"source.{kind}"
    files = images if "images" in kind else {"fer2013/fer2013.csv": table}
    if kind.endswith("csv"):
        source.write_bytes(icml(rows_of(small)) if "icml" in kind else table)
    elif kind.endswith("zip"):
        zipped(source, files)
    else:
        tarred(source, files, "w:gz" if kind.endswith("gz") else "w")
    whole = source.read_bytes()
    rng = random.Random(kind)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(60):
        source.write_bytes(mutate(whole, rng))
        root = home / "root"
        try:
            prepare.fer2013(source, root, report=quiet)
        except DataError as fault:
            assert str(source) in str(fault) and str(fault).isprintable()
            assert not root.exists()
            outcomes["refused"] += 1
        else:
            with np.load(root / "fer2013.npz", allow_pickle=False) as npz:
                assert all(len(npz[f"{s}_images"]) == len(npz[f"{s}_labels"]) > 0 for s in SIZES)
                assert all(npz[f"{s}_labels"].max() <= 6 for s in SIZES)
            shutil.rmtree(root)
            outcomes["read"] += 1
        assert list(home.iterdir()) == [source] and list(tmp_path.iterdir()) == [home]
    assert outcomes["refused"] >= 10, outcomes


# ---- the real data, where it is at hand


@pytest.mark.skipif(not UNPACK.exists(), reason="the real FER-2013 is not at hand (../shared/data/unpack.py)")
def test_real_images_as_csv_and_as_folders(tmp_path: Path) -> None:
    for layout in ("csv", "folders"):
        command = [
            sys.executable,
            str(UNPACK),
            "fer2013",
            "--layout",
            layout,
            "--limit",
            "200",
            str(tmp_path / layout),
        ]
        subprocess.run(command, check=True)
    table, folders = (
        prepared(tmp_path / "csv", tmp_path / "a"),
        prepared(tmp_path / "folders", tmp_path / "b"),
    )
    for split in SIZES:
        assert table[f"{split}_images"].shape == (200, 48, 48)
        np.testing.assert_array_equal(table[f"{split}_labels"], folders[f"{split}_labels"])
        difference = np.abs(table[f"{split}_images"].astype(int) - folders[f"{split}_images"])
        assert difference.mean() < 2  # JPEG
