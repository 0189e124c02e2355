"""prepare: every layout of a set gives the same bytes; what is reported; what is kept, and what is read anew."""

# ruff: noqa: F403, F405 - the names that are not defined here are those of tests.packing
import bz2
import csv
import errno
import gzip
import hashlib
import importlib.util
import io
import json
import lzma
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sto_lite import data, sets
from sto_lite.__main__ import main
from sto_lite.errors import DataError
from sto_lite.intake import cifar, fer, prepare, votes
from sto_lite.sets import FER2013
from tests.packing import *

# ------------------------------------------------------------------------------------------------ layouts


def quoted(rows):
    out = io.StringIO(newline="")
    table = [("emotion", "pixels", "Usage"), *rows]
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(table)
    return b"\xef\xbb\xbf" + out.getvalue().encode()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
# fmt: off
CSVS = {
    "fer2013": TABLE,
    "icml_face_data": icml(ROWS),
    "quoted, CRLF and BOM": quoted(ROWS),
    "no end of the last line": TABLE.rstrip(b"\n"),
    "lines that end as on old Macs": as_csv(ROWS, end="\r"),
    "blank lines": TABLE.replace(b"\n", b"\n\n"),
    "rows of nothing but commas": as_csv([*ROWS[:9], ("", "", ""), *ROWS[9:]]),
    "spaces about the fields": as_csv([(f" {e} ", f" {p} ", f" {u}") for e, p, u in ROWS]),
    "zero-padded, tabs": as_csv([(e, "\t".join(v.zfill(4) for v in p.split()), u) for e, p, u in ROWS]),
    "an index column": as_csv([(f"{i},{e}", p, u) for i, (e, p, u) in enumerate(ROWS)], ",emotion,pixels,Usage"),
    "semicolons": TABLE.replace(b",", b";"),
    "columns between tabs": TABLE.replace(b",", b"\t"),
    "UTF-16, as PowerShell writes it": TABLE.decode().encode("utf-16"),
}
INSIDE = {"fer2013/fer2013.csv": TABLE, "._x": b"\0", "__MACOSX/fer2013/._fer2013.csv": b"\0", "README.md": b"read"}
KAGGLE = {"icml_face_data.csv": icml(ROWS), "train.csv": b"emotion,pixels\n", "test.csv": b"", "fer2013.tar.gz": b"-"}
# fmt: on
NAMED = {  # folders that name the test set: PublicTest/angry/00000001.png
    re.sub(r"\w+/(\w+)/(\w+)_(\w+)", r"\2/\1/\3", name): data for name, data in IMAGES.items()
}
# Each in a folder, a zip and a tar of every compression.
# fmt: off
TREES = {
    "fer2013": {
        "the csv in a folder": INSIDE,
        "Kaggle's folder": KAGGLE,
        "Kaggle's folder, unpacked": {"fer2013/fer2013.csv": TABLE, **KAGGLE},
        "beside FER+": {"fer2013new.csv": b"-", "FER2013Train/label.csv": b"-", "fer2013.csv": TABLE},
        "an archive inside": {"fer2013.tar.gz": tarred, "other.zip": b""},
        "a zip inside": {"fer2013.csv.zip": zip_bytes({"fer2013.csv": TABLE})},
        "gz beside what it holds": {"fer2013.csv.gz": b"-", "fer2013.csv": TABLE},
        **{f"{kind} inside": {f"a/fer2013.csv.{kind}": pack(TABLE)} for kind, pack in PACKERS.items()},
        "image folders": below("archive", IMAGES),
        "folders that name the test set": NAMED,
        "numbers without zeros": image_files(FER, lambda split, i: f"{USAGE[split]}_{10 ** (i + 1)}.png"),
        "class names": image_files(FER, classes=("ANGER", "disgusted", "fearful", "Happiness", "Sad", "surprised",
            " neutral")),
        "other class names": image_files(FER, classes=("Anger", "Disgust", "Afraid", "happy", "sadness",
            "Surprise", "Neutral")),
        "class numbers": image_files(FER, classes=tuple("0123456")),
    },
    "rafdb": {
        "official": WHOLE_RAF | {f"Image/original/{s}_{n:05d}.jpg": b"large" for s, n,
            *_ in ENTRIES} | {"Annotation/auto/train_00001_auto_attri.txt": b"1 2\n"},
        "zip inside": with_zip(WHOLE_RAF),
        "flat zip inside": with_zip(WHOLE_RAF, ""),
        "basic beside compound": below("RAF-DB/basic", with_zip(WHOLE_RAF)) | {f"RAF-DB/compound/{LIST}":
            b"train_0001.jpg 11\n", f"RAF-DB/compound/{ALIGNED}train_0001_aligned.jpg": b""},
        "spelt well": {n.replace("patition", "partition"): d for n, d in WHOLE_RAF.items()},
        "CRLF, no end": WHOLE_RAF | {LIST: WHOLE_RAF[LIST].strip().replace(b"\n", b"\r\n")},
        "blank lines": WHOLE_RAF | {LIST: WHOLE_RAF[LIST].replace(b"\n", b"\n\n")},
        "a third column in the list": WHOLE_RAF | {LIST: WHOLE_RAF[LIST].replace(b"\n", b" 0.93\n")},
        "kaggle": kaggle(),
        "kaggle with tables": below("archive/raf", kaggle(tables=True)),
        "DATASET": {n if n.endswith(".csv") else f"DATASET/{n}": d for n, d in kaggle(tables=True).items()},
        "one table": without(kaggle(tables=True), "test_labels.csv"),
        "no first line": kaggle(tables=True, header=""),
        "semicolons": kaggle(tables=True, line="{name};{label}", header="image;label"),
        "a third column": kaggle(tables=True, line="{name},{label},face", header="image,label,kind"),
        "an index column": kaggle(tables=True, line="{i},{name},{label}", header=",image,label"),
        "valid for test": kaggle(test="valid"),
        "valid for test, with tables": kaggle(tables=True, test="valid"),
        "training images in validation": {n.replace("train/3", "validation/3"): d for n,
            d in kaggle(tables=True).items()},
    },
    "cifar100": {
        "its own folder": PICKLES,
        "deep": below(f"a/b c/{HOME}", PICKLES | {"file.txt~": b""}),
        "an archive inside": {f"x/{HOME}.tar.gz": tarred, "other.zip": b""},
        "an archive of another name": {"data.tgz": tarred},
        "both": {f"{HOME}.tar.gz": b"-", **below(HOME, PICKLES)},
    },
}
# fmt: on
INNER = {"fer2013": INSIDE, "cifar100": below(HOME, PICKLES)}  # of the archives inside
HIDDEN = {"._x.csv": b"\0", "._train_00001.jpg": b"\0", ".DS_Store": b"\0", "__MACOSX/._x": b"\0"}
HIDDEN |= {".ipynb_checkpoints/fer2013-checkpoint.csv": b"x", ".ipynb_checkpoints/train_00001.jpg": b"x"}


def sources(name, files, tmp):
    """The files as folder, zip and tar, with what systems hide lying everywhere in them."""
    files = {
        file: data if isinstance(data, bytes) else data(tmp / "x.tar.gz", INNER[name]).read_bytes()
        for file, data in files.items()
    }
    for place in {"", *(file.rpartition("/")[0] + "/" for file in files if "/" in file)}:
        files |= {f"{place}{file}": data for file, data in HIDDEN.items()}
    for kind in ("folder", "zip", "tar"):
        yield packed(kind, tmp / "source", files)
    (tmp / "source" / ".#fer2013.csv").symlink_to("user@host.1234")  # of an editor that still runs


@pytest.mark.parametrize(("name", "layout"), [(name, layout) for name in TREES for layout in TREES[name]])
def test_every_layout_gives_the_same_bytes(name, layout, tmp_path):
    made = set()
    for source in sources(name, TREES[name][layout], tmp_path):
        before, root = stamps(tmp_path), tmp_path / "root of one"
        same(prepared(name, source, root), SETS[name])
        made.add((root / f"{name}.npz").read_bytes())
        for path in root.iterdir():
            path.unlink()
        assert stamps(tmp_path) == before, "something was written outside root"
    assert len(made) == 1
    with zipfile.ZipFile(io.BytesIO(made.pop())) as npz:
        for info in npz.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.date_time == (1980, 1, 1, 0, 0, 0)


FILES = {f"{name}.csv": data for name, data in CSVS.items()}
FILES |= {f"fer2013.csv.{kind}": pack(TABLE) for kind, pack in PACKERS.items()} | {"unpacked.csv.gz": TABLE}
FILES |= {"windows.zip": zip_bytes({"fer2013\\fer2013.csv": TABLE}), "download": zip_bytes(INSIDE)}


@pytest.mark.parametrize("file", FILES)
def test_every_file_of_fer2013_gives_the_same_arrays(file, tmp_path, root):
    same(prepared("fer2013", written(tmp_path, {file: FILES[file]}) / file, root), FER)


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_compressed_tars_and_links(ending, tmp_path, root):
    dotted = {f"./{name}": content for name, content in INSIDE.items()}
    for name, files in (("fer2013", dotted), ("cifar100", INNER["cifar100"]), ("fer2013", IMAGES)):
        same(prepared(name, tarred(tmp_path / f"x.{ending}", files), root), SETS[name])
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / f"x.{ending}")
        same(prepared(name, tmp_path / "link", root), SETS[name])
    folder = written(tmp_path / "images", IMAGES)
    (folder / "train" / "again").symlink_to(folder, target_is_directory=True)  # a loop
    same(prepared("fer2013", folder, root), FER)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_images_saved_in_another_mode(mode, tmp_path, root):
    for file in (written(tmp_path / "a", IMAGES) / "test").rglob("*.png"):
        with Image.open(file) as picture:
            picture.convert(mode).save(file)
    same(prepared("fer2013", tmp_path / "a", root), FER)


def with_bytes(value):
    return {key.encode(): item for key, item in value.items()}


def replaced(value, key, change):
    return {k: change(v) if k == key else v for k, v in value.items()}


# fmt: off
COPIES = {
    **{f"protocol {n}": lambda value, n=n: pickle.dumps(value, n) for n in range(6)},
    "keys of bytes": lambda value: pickle.dumps(with_bytes(value), 2),
    "NumPy 1": lambda value: pickle.dumps(value, 2).replace(b"numpy._core", b"numpy.core"),
    "NumPy 2": lambda value: pickle.dumps(value, 2).replace(b"numpy.core", b"numpy._core"),
    "by columns": lambda value: pickle.dumps(replaced(value, "data", np.asfortranarray), 5),
    "labels in an array": lambda value: pickle.dumps(replaced(value, "fine_labels", lambda v: np.array(v, ">i8"))),
}
# fmt: on


@pytest.mark.parametrize("name", COPIES)
def test_pickles_that_others_wrote(name, tmp_path, root):
    same(prepared("cifar100", written(tmp_path / HOME, cifar_files(COPIES[name])), root), CIFAR)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_pickle_of_python_2_is_one():
    found = pickle.loads(PICKLES["test"], encoding="bytes")
    assert list(found) == list(with_bytes(content("test"))) and found[b"filenames"][3] == b"test_3.png"
    np.testing.assert_array_equal(found[b"data"], content("test")["data"])


# ------------------------------------------------------------------------------------------------ votes

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
COUNTS = np.random.default_rng(0).multinomial(10, [0.1] * 10, len(ROWS)).astype(np.uint8)
COUNTS[[2, 11]] = 0  # shown to nobody: a training image and a public one
COUNTS[23] = [0] * 9 + [10]  # no face: the last private one
RATED = np.array([i not in (2, 11, 23) for i in range(len(ROWS))])
VOTES = [
    ",".join([usage, f"fer{i:07d}.png" if i != 23 else "", *map(str, COUNTS[i])])
    for i, (_, _, usage) in enumerate(ROWS)
]


def vote_table(lines=VOTES, header=HEADER):
    return "".join(f"{line}\n" for line in [header, *lines]).encode()


# fmt: off
VOTE_FILES = {
    "fer2013new.csv": vote_table(),
    "a/fer2013new.csv": vote_table(),
    "v.zip": zip_bytes({"fer2013new.csv": vote_table()}),
    "fer2013new.csv.gz": gzip.compress(vote_table()),
    "semicolons.csv": vote_table().replace(b",", b";"),
    "CRLF.csv": vote_table().replace(b"\n", b"\r\n"),
    "columns in another order.csv": b"\n".join(b",".join(r.split(b",")[::-1]) for r in vote_table().split(b"\n")),
}
# fmt: on


def test_votes_lie_beside_the_images(tmp_path, root, monkeypatch):
    written(tmp_path, {"fer2013.csv": TABLE, **VOTE_FILES})
    monkeypatch.setenv("STO_DATA", str(root))
    for file in VOTE_FILES:
        path = tmp_path / (file if file.count("/") == 0 else "a")
        found = prepared("fer2013", tmp_path / "fer2013.csv", root, votes=path)
        same({key: found[key] for key in FER}, FER)
        start = 0
        for split, n in FER_SIZES.items():
            for counts, rated in (votes.read(split), (found[f"{split}_votes"], found[f"{split}_rated"])):
                assert counts.dtype == np.uint8 and rated.dtype == bool
                np.testing.assert_array_equal(counts, COUNTS[start : start + n])
                np.testing.assert_array_equal(rated, RATED[start : start + n])
            start += n
    with_votes = data.load("fer2013").fingerprint
    same(prepared("fer2013", tmp_path / "fer2013.csv", root), FER)
    assert data.load("fer2013").fingerprint == with_votes


def test_the_order_of_mixed_splits_is_kept_and_so_are_their_votes(tmp_path, root):
    order = np.random.default_rng(3).permutation(len(ROWS))
    lines = [",".join([ROWS[i][2], f"fer{n:07d}.png", *map(str, COUNTS[i])]) for n, i in enumerate(order)]
    files = {"a.csv": icml([ROWS[i] for i in order]), "b.csv": vote_table(lines)}
    found = prepared("fer2013", written(tmp_path, files) / "a.csv", root, votes=tmp_path / "b.csv")
    for kind in ("images", "labels", "votes"):
        whole = COUNTS if kind == "votes" else np.concatenate([FER[f"{split}_{kind}"] for split in FER_SIZES])
        for split in FER_SIZES:
            mine = [i for i in order if ROWS[i][2] == USAGE[split]]
            np.testing.assert_array_equal(found[f"{split}_{kind}"], whole[mine])


def test_the_classes_that_both_name():
    """FER+ says happiness where FER-2013 says happy; each of the seven is named once."""
    pairs = {votes.CLASSES[i]: FER2013.classes[label] for i, label in enumerate(votes.FER2013_LABELS)}
    assert sorted(votes.FER2013_LABELS) == list(range(7)) and len(votes.CLASSES) == 10
    assert all(new[:3] == old[:3] or (new, old) == ("anger", "angry") for new, old in pairs.items())


# ------------------------------------------------------------------------------------------------ report and audit


def test_audit_counts_what_was_planted():
    planted = {key: array.copy() for key, array in FER.items()}
    planted["train_images"][1] = planted["train_images"][0]  # within train, with another label: a conflict
    planted["public_images"][0] = planted["train_images"][3]  # public in train; labels 0 and 3: a conflict
    planted["private_images"][3] = planted["train_images"][3]  # private in train and in public
    planted["private_images"][5] = planted["public_images"][5]  # private in public, with the same label
    planted["train_images"][6] = planted["private_images"][6] = 0  # black, private in train, the same label
    found = prepare.audit(planted, FER2013.classes)
    assert found.counts["train"] == [2, 2, 1, 1, 1, 1, 1] and found.counts["private"] == [1] * 7
    assert found.copies == 5 and found.copies_within == {"train": 1, "public": 0, "private": 0}
    assert found.stand_in == {"public_in_train": 1, "private_in_train": 2, "private_in_public": 2}
    assert (found.conflicts, found.black) == (2, 2)
    assert "1 public, 2 private; private images in public: 2" in str(found)


def planted_cifar(value):
    if "data" in value and len(value["data"]) == 120:
        value["data"][7] = value["data"][3]  # another label
        value["data"][110] = 0
    elif "data" in value:
        value["data"][5] = CIFAR["train_images"][5].transpose(2, 0, 1).ravel()  # the same label
    return python2(value)


PICTURE = WHOLE_RAF[f"{ALIGNED}train_00001_aligned.jpg"]  # label 1; planted as labels 4 and 1
PLANTED = {"train_00009": PICTURE, "test_00001": PICTURE, "test_00021": image((100, 100), "RGB", kind="JPEG")}
# fmt: off
REPORTS = {
    "fer2013": ({"fer2013.csv": TABLE, "icml_face_data.csv": icml(ROWS)}, ["not known; that is no fault",
        "train 9 of 28,709", "disgust", "notice: took ", "as the same data"]),
    "rafdb": (WHOLE_RAF | {f"{ALIGNED}{name}_aligned.jpg": data for name, data in PLANTED.items()} | {LIST:
        WHOLE_RAF[LIST].replace(b"\n", b" x\n")}, ["notice: not the whole of RAF-DB",
        "train 9 of 12,271, test 7 of 3,068", "happiness",
        "list_patition_label.txt has 3 columns, of which name and label were read", "all splits together: 2\n",
        "stand in train: 1\n", "labels: 1; all-black images: 1"]),
    "cifar100": (cifar_files(planted_cifar),
        ["checksums (md5) of its files: not known of meta, test, train; that is no fault",
        "train 120 of 50,000, test 100 of 10,000", "classes images a class    total   copies\n",
        "train         100         1 to 2      120        1\n",
        "test          100              1      100        0\n", "all splits together: 2\n", "stand in train: 1\n",
        "conflicting labels: 1; all-black images: 1"]),
}
# fmt: on


@pytest.mark.parametrize("name", REPORTS)
def test_report(name, tmp_path, root):
    (files, parts), said = REPORTS[name], []
    run(name, written(tmp_path / "a", files), root, said.append)
    for part in parts:
        assert part in said[0], said[0]
    found = json.loads((root / f"{name}.json").read_text())["audit"]
    for split, counts in found["counts"].items():
        assert sum(counts) == len(SETS[name][f"{split}_labels"])


def test_reports_of_known_files_and_of_tables_that_agree(tmp_path, root, monkeypatch):
    said = []
    monkeypatch.setitem(fer.KNOWN_MD5, hashlib.md5(TABLE).hexdigest(), "fer2013.csv")
    monkeypatch.setattr(cifar, "KNOWN_MD5", {n: hashlib.md5(data).hexdigest() for n, data in PICKLES.items()})
    run("fer2013", written(tmp_path, {"fer2013.csv": TABLE}) / "fer2013.csv", root, said.append)
    run("cifar100", written(tmp_path / "b", PICKLES), root, said.append)
    run("rafdb", written(tmp_path / "k", kaggle(tables=True)), root, said.append)
    assert ": as published (fer2013.csv)" in said[0]
    assert "checksums (md5) of its files: all as published\n" in said[1]
    assert f"{tmp_path / 'k' / 'test_labels.csv'} agrees with the folders" in said[2]


def test_known_checksums_are_torchvisions():
    spec = importlib.util.find_spec("torchvision")  # its source is read: to import it takes seconds
    folder = Path(spec.origin).parent / "datasets"
    source = "".join((folder / f"{name}.py").read_text() for name in ("fer2013", "cifar"))
    known = [*fer.KNOWN_MD5, *fer.KNOWN_MD5.values(), *cifar.KNOWN_MD5.values()]
    assert all(f'"{text}"' in source for text in (*known, sets.CIFAR100.md5, sets.CIFAR100.url))


# ------------------------------------------------------------------------------------------------ prepared twice


@pytest.mark.parametrize("what", SOURCES)
def test_the_second_time_reads_nothing(what, tmp_path, root, monkeypatch):
    name, files = SOURCES[what]
    source, said = written(tmp_path / "a", files), []
    prepared(name, source, root)
    stamp = (root / f"{name}.npz").stat().st_mtime_ns
    monkeypatch.setattr(prepare, "opened", None)  # any reading would fail
    run(name, source, root, said.append)
    assert "not read again" in said[0] and "copies" in said[0]
    assert (root / f"{name}.npz").stat().st_mtime_ns == stamp


def test_a_changed_source_is_read_again(tmp_path, root):
    source = written(tmp_path, {"fer2013.csv": TABLE}) / "fer2013.csv"
    status = source.stat()
    assert prepared("fer2013", source, root)["train_labels"][0] == 0
    source.write_bytes(as_csv([("6", *ROWS[0][1:]), *ROWS[1:]]))
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same date
    assert prepared("fer2013", source, root)["train_labels"][0] == 6
    images = written(tmp_path / "images", IMAGES)
    same(prepared("fer2013", images, root), FER)  # another source
    for old, new in (("angry", "moved"), ("sad", "angry"), ("moved", "sad")):
        (images / "train" / old).rename(images / "train" / new)
    swapped = np.array([{0: 4, 4: 0}.get(label, label) for label in FER["train_labels"]])
    np.testing.assert_array_equal(prepared("fer2013", images, root)["train_labels"], swapped)


def test_votes_that_change_or_go_are_seen(tmp_path, root):
    written(tmp_path, {"fer2013.csv": TABLE, "fer2013new.csv": vote_table()})
    said, path = [], tmp_path / "fer2013new.csv"

    def again(given):
        run("fer2013", tmp_path / "fer2013.csv", root, said.append, votes=given)
        return said[-1]

    text = again(path)
    assert f"votes from {path}: 21 of 24 images" in text
    assert "no votes for 2 images (1 train, 1 public, 0 private), which are masked" in text
    assert "no face for 1 images (0 train, 0 public, 1 private), which are masked" in text
    assert "not read again" in again(path)
    assert json.loads((root / "fer2013.json").read_text())["votes"] == str(path)
    path.write_bytes(vote_table().replace(b"fer0000000.png", b""))
    assert "20 of 24 images" in again(path)
    assert "votes from" not in again(None)
    assert "not read again" in again(None) and "not read again" not in again(path)


def test_a_damaged_prepared_file_or_record_is_mended(tmp_path, root):
    source = tarred(tmp_path / "fer2013.tar", {"fer2013.csv": TABLE})
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
        same(prepared("fer2013", source, root), FER)
        assert record.read_text() == whole


def test_what_is_prepared_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    missing = "CIFAR-100 is not prepared.*prepare cifar100 --from PATH.*--download"
    with pytest.raises(DataError, match=missing):
        data.load("cifar100")
    prepared("cifar100", written(tmp_path / HOME, PICKLES), tmp_path)
    prepared("rafdb", written(tmp_path / "raf", WHOLE_RAF), tmp_path)
    for name, size in (("cifar100", 32), ("rafdb", 100)):
        full = data.load(name, size)
        assert full.classes == (tuple(THINGS) if size == 32 else sets.RAFDB.classes)
        for split, part in full.splits.items():
            np.testing.assert_array_equal(part.images.permute(0, 2, 3, 1), SETS[name][f"{split}_images"])
            np.testing.assert_array_equal(part.labels, SETS[name][f"{split}_labels"])
    assert data.load("cifar100", size=24, limit=50).splits["train"].images.shape == (50, 3, 24, 24)
    assert len(RAF["test_labels"]) == len(data.load("rafdb").splits["test"])


# ------------------------------------------------------------------------------------------------ while writing


def test_root_that_cannot_be_made(tmp_path):
    written(tmp_path, {"fer2013.csv": TABLE, "file": b"no folder"})
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
    source = written(tmp_path, {"fer2013.csv": TABLE}) / "fer2013.csv"
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

    monkeypatch.setattr(os, call, fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    refused("fer2013", source, root, "cannot be written: No space left on device", "MB must fit")
    monkeypatch.setattr(os, call, fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run("fer2013", source, root)
    assert files_below(root) == before


def test_the_command_line(tmp_path, root, monkeypatch, capsys):
    monkeypatch.setenv("STO_DATA", str(root))
    table, plus = (str(tmp_path / name) for name in ("fer2013.csv", "fer2013new.csv"))
    written(tmp_path, {"fer2013.csv": as_csv([ROWS[0], ("9", *ROWS[0][1:])]), "fer2013new.csv": vote_table()})
    for words, message in (
        (["fer2013", "--from", table], "line 3: emotion is '9'"),
        (["cifar100"], "say where the set is, as --from PATH, or --download"),
        (["cifar100", "--from", table, "--download"], "say where the set is, as --from PATH, or --download"),
        (["rafdb", "--download"], "RAF-DB is not free to download: get it as data/README.md says"),
        (["rafdb", "--from", table, "--votes", plus], "they go with prepare fer2013 --from PATH"),
        (["cifar100", "--download", "--votes", plus], "they go with prepare fer2013 --from PATH"),
        (["fer2013", "--from", table, "--pixels", "3"], "--person go with --folder"),
        (["mine", "--folder", table, "--download"], "--folder goes without --from"),
        (["faces", "--folder", table], "'faces' cannot be the name of your own set"),
        (["../x", "--folder", table], "'../x' cannot be the name of your own set: take small letters"),
    ):
        assert main(["prepare", *words]) == 2
        said = capsys.readouterr()
        assert message in said.err and said.err.count("\n") == 1 and not said.out and not root.exists()
    written(tmp_path, {"fer2013.csv": TABLE})
    assert main(["prepare", "fer2013", "--from", table, "--votes", plus]) == 0
    said = capsys.readouterr()
    assert "21 of 24 images" in said.out and f"prepared: {root / 'fer2013.npz'}" in said.out and not said.err
