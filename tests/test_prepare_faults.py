"""prepare: every fault is one DataError that says where it is, and what is not damage is never called so."""

# ruff: noqa: F403, F405 - the names that are not defined here are those of tests.packing
import builtins
import bz2
import errno
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from sto_lite.errors import DataError
from sto_lite.intake import cifar, fer, members, pickles, tables, votes
from tests.packing import *
from tests.test_prepare import HEADER, VOTES, vote_table

# ------------------------------------------------------------------------------------------------ tables of faults

PIXELS = " ".join(["7"] * 2304)
RIGHT = "train_00003_aligned.jpg"  # of RAF-DB; its label is 3
NEW = "train/happy/Training_99"  # an image that FER-2013's folders do not have yet
TABLES = kaggle(tables=True)
LABELS, PLANES = content("train")["fine_labels"], content("train")["data"]
WRONG_LABELS = {"100": 100, "-1": -1, "a float": 3.0, "a bool": True, "a int": 10**5_000, "a list": [0]}
WRONG_NAMES = [THINGS[1:], [*THINGS[1:], THINGS[1]], list(range(100)), 3, [*THINGS[1:], "\x1b[2J"]]
PARQUET = b"PAR1" + bytes(range(200)) + b"PAR1"
PLUS = {"label.csv": b'fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0\n', "fer0000000.png": image()}
TRAINING = without(WHOLE_RAF, "test_") | {
    LIST: b"".join(x for x in WHOLE_RAF[LIST].splitlines(True) if b"test" not in x)
}


def row(field, value):
    """FER-2013's table with a faulty sixth line."""
    bad = ["3", PIXELS, "Training"]
    bad[field] = value
    return as_csv([*ROWS[:4], bad, *ROWS[4:]])


def line(content):
    return WHOLE_RAF | {LIST: WHOLE_RAF[LIST] + content}


def picture(content, name=RIGHT):
    return WHOLE_RAF | {ALIGNED + name: content}


def table(split, old, new):
    return TABLES | {(name := f"{split}_labels.csv"): TABLES[name].replace(old, new)}


def moved(old, new):
    return {name.replace(old, new): content for name, content in TABLES.items()}


def lacking(split, key):
    return PICKLES | {split: python2({k: v for k, v in content(split).items() if k != key})}


def named(names):
    return PICKLES | {"meta": pickle.dumps({"fine_label_names": names})}


def voted(line, old, new):
    assert old in VOTES[line]
    return vote_table([*VOTES[:line], VOTES[line].replace(old, new), *VOTES[line + 1 :]])


# fmt: off
CSV_FAULTS = {
    "no Usage: train.csv": (as_csv([(e, p) for e, p, _ in ROWS], "emotion,pixels"), ("line 1", "no column 'Usage'",
        "train.csv", "take fer2013.csv or icml_face_data.csv")),
    "no emotion: test.csv": (as_csv([(p,) for _, p, _ in ROWS], "pixels"), ("line 1", "'emotion'",
        "take fer2013.csv")),
    "no first line": (as_csv(ROWS[1:], ",".join(ROWS[0])), ("line 1", "no column 'emotion'")),
    "column twice": (as_csv(ROWS, "emotion,pixels,pixels"), ("line 1", "more than one column 'pixels'")),
    "votes": (vote_table(), ("line 1", "these are FER+'s votes: give fer2013.csv here, and this file as --votes")),
    "binary with zeros": (bytes(range(256)) * 600, ("line 1: is no text, but binary data",)),
    "binary, one line": (b"\xfe" * 300_000, ("line 1", "longer than", "none of the data sets")),
    "no bytes": (b"", ("is empty",)),
    "empty lines": (b"\n\n", ("line",)),
    "first line only": (b"emotion,pixels,Usage\n", ("has no images below the first line",)),
    "2,303 pixels": (row(1, PIXELS[2:]), ("line 6", "2,303 pixels, not 2,304")),
    "2,305 pixels": (row(1, PIXELS + " 7"), ("line 6", "2,305 pixels, not 2,304")),
    "no pixels": (row(1, ""), ("line 6", "has 0 pixels")),
    "pixel 256": (row(1, "256" + PIXELS[1:]), ("line 6", "pixel 1 is '256'", "from 0 to 255")),
    "pixel -1": (row(1, PIXELS[:-1] + "-1"), ("line 6", "pixel 2,304 is '-1'")),
    "pixel of 20 digits": (row(1, "18446744073709551621" + PIXELS[1:]), ("line 6", "pixel 1 is '184467")),
    "pixel of 5,000 digits": (row(1, "9" * 5000 + PIXELS[1:]), ("line 6", "pixel 1 is '9999")),
    "pixel in Arabic digits": (row(1, "\u0663" + PIXELS[1:]), ("line 6", "pixel 1 is")),
    "label 7": (row(0, "7"), ("line 6", "emotion is '7'", "from 0 to 6")),
    "label 3.0": (row(0, "3.0"), ("line 6", "emotion is '3.0'")),
    "label with escape codes": (row(0, "\x1b[2J"), ("line 6", "emotion is '?[2J'")),
    "unknown Usage": (row(2, "Testing"), ("line 6", "Usage is 'Testing'", "Training, PublicTest, PrivateTest")),
    "too many columns": (row(2, "Training,,"), ("line 6", "has 5 columns, the first line has 3")),
    "an open quote": (row(2, '"Training'), ("line 6", "nothing closes")),
    "cut in the pixels": (TABLE[:-1000], ("line 25", "Usage is ''", "the file ends in this line")),
    "cut in the Usage": (TABLE[:-5], ("line 25", "Usage is 'Private", "seems cut short")),
    "icml cut in the pixels": (icml(ROWS)[:-1000], ("line 25", "pixels, not 2,304", "seems cut short")),
    "no train": (as_csv(ROWS[9:]), ("no train images",)),
    "cut after public": (as_csv(ROWS[:17]), ("no private images",)),
}
VOTE_FAULTS = {
    "a row less": (vote_table(VOTES[:-1]), ("has 23 rows, but FER-2013 has 24", "give both files whole")),
    "a row more": (vote_table([*VOTES, VOTES[-1]]), ("has 25 rows, but FER-2013 has 24",)),
    "another usage": (voted(8, "Training", "PublicTest"),
        ("row 9 is of PublicTest, but that of FER-2013 of Training (1 rows differ)", "order in which they")),
    "another order": (vote_table(VOTES[:3:-1] + VOTES[:4]), ("comes after a later one",
        "take the file as published")),
    "an unknown usage": (voted(0, "Training", "Test"), ("line 2: Usage is 'Test'", "Training, PublicTest, Priv")),
    "eleven votes": (vote_table([*VOTES[:4], VOTES[4][:-1] + "11", *VOTES[5:]]), ("line 6: NF is '11'",
        "from 0 to 10")),
    "no number": (vote_table([*VOTES[:4], VOTES[4][:-1] + "x", *VOTES[5:]]), ("line 6: NF is 'x'",)),
    "a column less": (vote_table(header=HEADER[:-3]), ("line 2: has 12 columns, the first line has 11",)),
    "another column": (vote_table(header=HEADER.replace("fear", "joy")), ("line 1: has no column 'fear'",
        "give FER+'s fer2013new.csv")),
    "a column twice": (vote_table(header=HEADER.replace("fear", "anger")), ("has more than one column 'anger'",)),
    "the other file": (TABLE, ("line 1: has no column 'Image name'", "give FER+'s fer2013new.csv")),
    "cut short": (vote_table()[:-3], ("line 25: NF is ''", "the file ends in this line")),
    "no rows": (vote_table([]), ("has no votes below the first line",)),
    "empty": (b"", ("is empty",)),
    "a web page": (b"<html>", ("is a web page",)),
}
IMAGE_FAULTS = {  # an image more
    "size": (f"{NEW}.png", image((47, 48)), "47 x 48 pixels, not 48 x 48"),
    "colour": (f"{NEW}.png", image(mode="RGB", colour=(1, 2, 3)), "is in colour; FER-2013 is grey"),
    "16 bits": (f"{NEW}.png", image(mode="I;16"), "no 8-bit grey image"),
    "empty": (f"{NEW}.jpg", b"", "cannot be decoded"),
    "text": (f"{NEW}.jpg", b"<html>", "cannot be decoded (no JPEG, PNG or BMP)"),
    "cut": (f"{NEW}.png", image(colour=9)[:-30], "cannot be decoded"),
    "bomb": (f"{NEW}.png", bytes((10 << 20) + 1), "has 10,485,761 bytes; more than 10,485,760 cannot be right"),
    "class": ("train/bored/Training_99.png", image(),
        "'bored' is no class of FER-2013; the folders are called angry"),
    "no class": ("train/Training_99.png", image(), "lies in no folder of a class"),
    "no prefix": ("test/happy/99.png", image(), "(PublicTest_*, PrivateTest_*) nor its folder tells"),
    "validation": ("validation/happy/99.png", image(), "public or the private test set, and a guess"),
    "training in test": ("test/happy/Training_99.png", image(), "is called Training but lies in a folder of test"),
    "test in training": ("train/happy/PublicTest_99.png", image(),
        "is called PublicTest but lies in a folder of train"),
}
RAF_FAULTS = {
    "label 0": (line(b"train_00050.jpg 0\n"), LIST, ("line 17", "label is '0'", "1 surprise, 2 fear")),
    "label 8": (line(b"train_00050.jpg 8\n"), LIST, ("line 17", "label is '8'", "from 1 to 7")),
    "prefix": (line(b"val_00050.jpg 1\n"), LIST, ("line 17", "'val_00050.jpg' starts with neither")),
    "number": (line(b"train_\x1b[2J.jpg 1\n"), LIST, ("line 17", "'train_?[2J.jpg' is not such as")),
    "one field": (line(b"train_00050.jpg\n"), LIST, ("line 17", "reads 'train_00050.jpg", "'train_00001.jpg 5'")),
    "three fields": (line(b"train_00050.jpg 1 2\n"), LIST, ("line 17", "has 3 columns, the first line has 2")),
    "twice": (line(b"train_00003.jpg 3\n"), LIST, ("line 17", "train_00003.jpg is there twice", "line 14")),
    "no image": (line(b"train_00050.jpg 3\n"), LIST, ("line 17", "no image", "train_00050")),
    "empty": (WHOLE_RAF | {LIST: b""}, LIST, ("is empty",)),
    "blank": (WHOLE_RAF | {LIST: b"\n"}, LIST, ("has no lines",)),
    "names alone": (WHOLE_RAF | {LIST: b"train_1.jpg\n"}, LIST, ("line 1", "reads 'train_1.jpg', not such as")),
    "binary": (WHOLE_RAF | {LIST: bytes(range(256)) * 10}, LIST, ("line 1", "is no text")),
    "a web page": (WHOLE_RAF | {LIST: b"<html>"}, LIST, ("is a web page",)),
    "no line": (picture(jpeg(), "train_00050_aligned.jpg"), f"{ALIGNED}train_00050_aligned.jpg", ("has no line in",
        "list_patition_label.txt")),
    "name of an image": (picture(jpeg(), "face.jpg"), f"{ALIGNED}face.jpg",
        ("'face.jpg' starts with neither train_",)),
    "number twice": (picture(jpeg(), "train_3_aligned.jpg"), "", ("has the number of", "which is right?")),
    "size": (picture(jpeg(size=(100, 99))), ALIGNED + RIGHT, ("is 100 x 99 pixels, not 100 x 100",)),
    "gray": (picture(jpeg(mode="L")), ALIGNED + RIGHT, ("no 8-bit colour image (its mode is L)",)),
    "text": (picture(b"<html>"), ALIGNED + RIGHT, ("cannot be decoded (no JPEG, PNG or BMP)",)),
    "no images": (without(WHOLE_RAF, ALIGNED), LIST, ("neither Image/aligned nor Image/aligned.zip",)),
    "no test": (TRAINING, "", ("holds no test images",)),
}
KAGGLE_FAULTS = {
    "class by name": (moved("train/3/", "train/sad/"), (f"train/sad/{RIGHT}", "label is 'sad'", "5 sadness")),
    "no class": (moved("train/3/", "train/"), (f"train/{RIGHT}", "in no folder of a label")),
    "wrong split": (moved("test/3/test_", "test/3/train_"), ("is called train_ but lies in a folder test",)),
    "no prefix": (moved("test/3/test_", "test/3/"), ("starts with neither train_ nor test_",)),
    "table says otherwise": (table("train", b"00003_aligned.jpg,3", b"00003_aligned.jpg,4"),
        ("train_labels.csv, line 4", "says 4, but the image is", f"train/3/{RIGHT}")),
    "table's label": (table("test", b"00003_aligned.jpg,3", b"00003_aligned.jpg,0"), ("test_labels.csv, line 4",
        "label is '0'")),
    "line missing": (table("train", b"train_00003_aligned.jpg,3\n", b""), (f"train/3/{RIGHT}: has no line in",
        "train_labels.csv")),
    "image missing": (without(TABLES, RIGHT), ("train_labels.csv, line 4", "no image")),
    "line twice": (table("train", b"image,label\n", b"image,label\ntrain_00003_aligned.jpg,3\n"),
        ("train_labels.csv, line 5", "there twice", "line 2")),
    "image twice": (TABLES | {f"train/4/{RIGHT}": jpeg()}, (f"train/4/{RIGHT}: has the number of",
        f"train/3/{RIGHT}")),
}
PICKLE_FAULTS = {
    **{f"label {what}": (changed("train", fine_labels=[0, label, *LABELS[2:]]), "train",
        f"fine_label 2 is {what},") for what, label in WRONG_LABELS.items()},
    "labels of text": (changed("train", fine_labels="0" * 120), "train", "fine_labels are a str"),
    "labels too few": (changed("train", fine_labels=LABELS[:-1]), "train", "120 images, but 119 fine_"),
    "no labels": (lacking("train", "fine_labels"), "train", "no 'fine_labels' (it has: filenames, batch_label"),
    "no data": (lacking("test", "data"), "test", "has no 'data'"),
    "data of text": (changed("train", data=b"x" * 3072), "train", "its data is bytes"),
    "data of int64": (changed("train", data=PLANES.astype(int)), "train", "its data is int64"),
    "data of float": (changed("train", data=PLANES / 255), "train", "is of type f8"),
    "data of objects": (changed("train", data=PLANES[:2].astype(object)), "train", "is of type O8"),
    "CIFAR-10's shape": (changed("train", data=PLANES[:, :-1]), "train", "(120, 3071)"),
    "no images": (changed("train", data=PLANES[:0], fine_labels=[]), "", "no train images; all of train, test"),
    "a list": (PICKLES | {"test": python2([1, 2])}, "test", "holds a list, not a dictionary"),
    **{f"names {i}": (named(names), "meta", "not 100 different names") for i, names in enumerate(WRONG_NAMES)},
    "no names": (PICKLES | {"meta": python2({"label_names": THINGS})}, "meta", "no 'fine_label_names'"),
    "cut": (PICKLES | {"train": PICKLES["train"][:-9]}, "train", "damaged or cut short"),
    "empty": (PICKLES | {"train": b""}, "train", "is empty"),
    "other text": (PICKLES | {"train": b"emotion"}, "train", "no pickle of image data"),
    "html": (PICKLES | {"meta": b"<html>Sign in</html>"}, "meta", "is a web page"),
    "a pointer": (PICKLES | {"train": b"version https://git-lfs.github.com/spec/v1\n"}, "train", "git lfs pull"),
}
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
}
NO_SET = {
    ("fer2013", "nothing"): ({}, "holds no FER-2013; give fer2013.csv"),
    ("fer2013", "photographs"): ({"me.png": image()}, "holds no FER-2013"),
    ("fer2013", "parquet"): ({"data/1.parquet": PARQUET},
        "1.parquet, a Parquet table, not the published data; give fer"),
    ("fer2013", "7z"): ({"data/fer.7z": b"7z"}, "holds data/fer.7z, an archive that is not read; unpack it"),
    ("fer2013", "arrays"): ({"x_train.npy": b""}, "holds x_train.npy, an array, not the published data"),
    ("fer2013", "a workbook"): ({"xl/workbook.xml": b""}, "a workbook of Excel; save its sheet as CSV"),
    ("fer2013", "FER+"): (below("FER2013Train", PLUS), "holds FER+, whose votes are not the labels"),
    ("fer2013", "FER+ without lists"): ({"FER2013Train/fer0.png": image()},
        "give fer2013.csv here, and FER+'s fer2013"),
    ("fer2013", "the votes alone"): ({"fer2013new.csv": vote_table()}, "fer2013new.csv as --votes"),
    ("fer2013", "what macOS left"): ({"._fer2013.csv": b"\0", "__MACOSX/._x": b"\0"}, "holds no FER-2013"),
    ("fer2013", "Kaggle's parts"): ({"train.csv": b"", "test.csv": b""},
        "holds only test.csv, train.csv, which lack the"),
    ("fer2013", "an empty archive"): ({"x/fer2013.tar.gz": b""}, "x/fer2013.tar.gz: is empty"),
    ("fer2013", "two tables"): ({"a/fer2013.csv": TABLE, "b/fer2013.csv": TABLE},
        "more than one data set (a/fer2013.csv, b"),
    ("fer2013", "two others"): ({"one.csv": TABLE, "two.csv": TABLE}, "more than one data set"),
    ("fer2013", "a table and images"): ({"fer2013.csv": TABLE, **IMAGES},
        "(fer2013.csv, train, test); give the path of one"),
    ("fer2013", "images twice"): (below("a", IMAGES) | below("b", IMAGES), "more than one data set"),
    ("fer2013", "two archives"): ({"a/fer2013.zip": b"", "b/fer2013.zip": b""}, "more than one data set"),
    ("rafdb", "nothing"): ({}, "holds no RAF-DB; give the folder with EmoLabel/list_patition_label.txt"),
    ("rafdb", "FER-2013"): ({"train/happy/Training_1.jpg": jpeg()},
        "label is 'happy', not a number from 1 to 7 (1 surp"),
    ("rafdb", "both layouts"): (below("a", WHOLE_RAF) | below("b", kaggle()),
        f"(a/{LIST}, b/train, b/test); give the"),
    ("rafdb", "two lists"): (below("a", WHOLE_RAF) | below("b", WHOLE_RAF), "more than one data set"),
    ("rafdb", "two zips"): ({LIST: WHOLE_RAF[LIST], "a/aligned.zip": b"", "b/aligned.zip": b""},
        "more than one data set (a/aligned.zip, b/aligned.zip)"),
    ("rafdb", "a broken archive"): ({"RAF-DB.zip": b"PK\3\4"}, "RAF-DB.zip: is damaged or cut short"),
    ("cifar100", "nothing"): ({}, "holds no CIFAR-100; give cifar-100-python.tar.gz"),
    ("cifar100", "two"): (below("a", PICKLES) | below("b", PICKLES),
        "more than one data set (a/train, b/train); give"),
    ("cifar100", "a part"): (below(HOME, {"train": b""}),
        f"holds {HOME}/train, but beside it not test, meta; give"),
    ("cifar100", "CIFAR-10"): ({"cifar-10-batches-py/data_batch_1": b""},
        "holds CIFAR-10; give CIFAR-100's version for"),
    ("cifar100", "binary"): ({"cifar-100-binary/train.bin": b""}, "holds the binary version; give"),
    ("cifar100", "Matlab"): ({"cifar-100-matlab/train.mat": b""}, "holds the version for Matlab; give"),
    ("cifar100", "two archives"): ({f"{a}/{HOME}.tar.gz": b"" for a in "ab"}, "more than one data set"),
    ("cifar100", "an archive in one"): ({f"{HOME}.tar.gz": zip_bytes({f"{HOME}.tar.gz": b""})},
        f"{HOME}.tar.gz: holds no CIFAR-100; give cifar-100-python.tar.gz"),
    **{("cifar100", f"a broken archive {i}"): ({f"{HOME}.tar.gz": inner}, f"{HOME}.tar.gz: ") for i,
        inner in enumerate((b"", b"<html>", b"\x1f\x8b" + bytes(100), zip_bytes({"train": b""})))},
}
# fmt: on
FAULTS = {
    **{("fer2013", n): ({"x/fer2013.csv": data}, "", *parts) for n, (data, parts) in CSV_FAULTS.items()},
    **{("fer2013", n): (IMAGES | {f: data}, f, part) for n, (f, data, part) in IMAGE_FAULTS.items()},
    **{("rafdb", n): (files, file, *parts) for n, (files, file, parts) in RAF_FAULTS.items()},
    **{("rafdb", n): (files, "", *parts) for n, (files, parts) in KAGGLE_FAULTS.items()},
    **{("cifar100", n): (files, file, part) for n, (files, file, part) in PICKLE_FAULTS.items()},
    **{case: (files, "", part) for case, (files, part) in NO_SET.items()},
}


@pytest.mark.parametrize("case", FAULTS, ids=" ".join)
def test_faults_are_told_with_their_place(case, tmp_path, root, monkeypatch):
    (name, what), (files, file, *parts) = case, FAULTS[case]
    (tmp_path / "a").mkdir()
    files = dict(sorted(files.items()))
    for kind in ("folder", "zip", "tar"):
        source = packed(kind, tmp_path / "a", files)
        where = f"{source}{'/' if kind == 'folder' else ', member '}{file}" if file else str(source)
        message = refused(name, source, root, where, *parts)
        assert message.startswith(str(source))
        named = "cut" in what or "broken" in what or name == "cifar100"  # of those it cannot be told
        assert named or not ("cut short" in message or "damaged" in message)
        if name == "rafdb" and kind == "zip" and ALIGNED in file:  # the images still in their zip
            inner = f"{source}, member Image/aligned.zip, member {file.removeprefix('Image/')}"
            refused(name, zipped(source, with_zip(files)), root, inner, *parts)
        monkeypatch.setattr(tables, "_ROWS", 4)  # so that the next time the fault is not in the first part


@pytest.mark.parametrize("name", VOTE_FAULTS)
def test_votes_that_do_not_belong_to_the_rows(name, tmp_path, root):
    content, parts = VOTE_FAULTS[name]
    written(tmp_path, {"fer2013.csv": TABLE, "fer2013new.csv": vote_table(), "v.csv": content})
    prepared("fer2013", tmp_path / "fer2013.csv", root, votes=tmp_path / "fer2013new.csv")
    path = tmp_path / "v.csv"
    assert str(path) in refused("fer2013", tmp_path / "fer2013.csv", root, *parts, votes=path)


def test_paths_without_votes_and_images_without_rows(tmp_path, root):
    source, path = (tmp_path / name for name in ("fer2013.csv", "fer2013new.csv"))
    images = written(tmp_path / "images", IMAGES)
    written(tmp_path, {"fer2013.csv": TABLE, "fer2013new.csv": vote_table()})
    refused("fer2013", images, root, str(path), "have lost that order", "give fer2013.csv", votes=path)
    refused("fer2013", source, root, "holds no fer2013new.csv", "give its path", votes=images)
    refused("fer2013", source, root, "nowhere: does not exist", votes=tmp_path / "nowhere")
    for split, message in (
        ("train", "FER-2013 is not prepared.*--votes fer2013new.csv"),
        ("train", "fer2013.npz: holds no votes; run python -m sto_lite prepare fer2013 .*--votes"),
        ("test", "no split 'test'; there are train, public, private"),
    ):
        with pytest.raises(DataError, match=message):
            votes.read(split, root)
        prepared("fer2013", source, root)


def test_missing_splits_and_links_that_lead_nowhere(tmp_path, root):
    for part, missing in (("train", "public"), ("test", "train")):
        files = {name: content for name, content in IMAGES.items() if name.startswith(part)}
        refused("fer2013", written(tmp_path / part, files), root, f"no {missing} images")
    source = written(tmp_path / "images", IMAGES)
    (source / f"{NEW}.png").symlink_to(tmp_path / "gone.png")
    refused("fer2013", source, root, "Training_99.png", "No such file")


@pytest.mark.parametrize("file", FOREIGN)
def test_another_kind_of_file_is_named(file, tmp_path, root):
    content, what = FOREIGN[file]
    messages = [refused("fer2013", written(tmp_path, {file: content}) / file, root, file, what)]
    files = {f"data/{file}": content, "README.md": b"read me"}
    for kind in ("folder", "zip"):
        source = packed(kind, tmp_path / "a", files)
        messages.append(refused("fer2013", source, root, str(source), what if "csv" in file else ""))
    assert not any("damaged" in message or "cut short" in message for message in messages)


def test_paths_that_are_none(tmp_path, root):
    os.mkfifo(tmp_path / "pipe")
    written(tmp_path, {"me.jpg": jpeg(), "train": PICKLES["train"]})
    for name, source, *parts in (
        ("fer2013", "nowhere", "nowhere: does not exist; check the path"),
        ("fer2013", "long" * 100, "long"),
        ("fer2013", "pipe", "neither a file nor a folder"),
        ("rafdb", "me.jpg", "me.jpg: is a single image"),
        ("cifar100", "train", "beside it not test, meta", "the folder cifar-100-python"),
    ):
        refused(name, tmp_path / source, root, *parts)


# ------------------------------------------------------------------------------------------------ hostile archives


@pytest.mark.parametrize("folder", ["../", "/tmp/", "a/../../", "..\\", "C:\\", "/"])
def test_paths_that_climb_out(folder, tmp_path, root):
    name = f"{folder}fer2013.csv"
    for source in (
        zipped(tmp_path / "evil.zip", {name: TABLE}),
        tarred(tmp_path / "evil.tar.gz", {name: TABLE}),
        tarred(tmp_path / "beside.tar", {"fer2013.csv": TABLE, name: b""}),
        zipped(tmp_path / "inner.zip", {"fer2013.zip": zip_bytes({name: TABLE})}),
    ):
        before = sorted(tmp_path.iterdir())
        refused("fer2013", source, root, source.name, "leads out of the archive")
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(kind, tmp_path, root):
    source = tarred(tmp_path / "link.tar", {"fer2013.csv": TABLE})
    with tarfile.open(source, "a") as archive:
        info = tarfile.TarInfo("fer2013/fer2013.csv")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    refused("fer2013", source, root, "link.tar, member fer2013/fer2013.csv", "is a link or a device")


def test_links_secrets_and_new_methods_in_zips(tmp_path, root):
    info = zipfile.ZipInfo("fer2013.csv")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused("fer2013", tmp_path / "link.zip", root, "link.zip, member fer2013.csv", "is a link")
    whole = zipped(tmp_path / "a.zip", {"fer2013.csv": TABLE}).read_bytes()
    central = whole.index(b"PK\x01\x02")
    for name, places, value, parts in (
        ("secret.zip", (6, central + 8), 1, ("encrypted; unpack it with its password",)),
        ("new.zip", (8, central + 10), 93, ("unpack it and give the folder",)),  # Zstandard
    ):
        content = bytearray(whole)
        for place in places:  # in the member's own header, and in the directory
            content[place : place + 2] = struct.pack("<H", value)
        source = written(tmp_path, {name: content}) / name
        refused("fer2013", source, root, f"{name}, member fer2013.csv", *parts)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in [*IMAGES.items(), next(iter(IMAGES.items()))]:
            archive.writestr(name, content)
    refused("fer2013", tmp_path / "twice.zip", root, "twice.zip", "twice")


CUT = [f"a.{kind}" for kind in ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "csv.gz", "csv.xz")]
CUT += ["images.zip", "images.tar", f"{HOME}.tar.gz", "raf.zip", "raf.tar.gz"]


@pytest.mark.parametrize("name", CUT)
def test_archives_cut_short(name, tmp_path, root):
    set_, files = {
        "i": ("fer2013", IMAGES), "c": ("cifar100", below(HOME, PICKLES)), "r": ("rafdb", with_zip(WHOLE_RAF))
    }.get(name[0], ("fer2013", {"fer2013.csv": TABLE}))  # fmt: skip
    packers = {"csv.gz": gzip.compress, "csv.xz": lzma.compress}
    if name[2:] in packers:
        whole = packers[name[2:]](TABLE)
    else:
        whole = (zipped if name.endswith("zip") else tarred)(tmp_path / name, files).read_bytes()
    cuts = [1, 200, 512, 1024, len(whole) // 2, len(whole) - 100, len(whole) - 1]
    if name == "images.tar":  # between two members, in the middle of one, and where only the end is missing
        with tarfile.open(tmp_path / name) as archive:
            cuts = [4096, 4096 * 4, 4096 * 4 + 512, 4096 * 4 + 1000, archive.getmembers()[-1].offset]
    for cut in cuts if name != "a.tar" else cuts[:-2]:  # its last 10 kB are zeros
        refused(set_, written(tmp_path, {name: whole[:cut]}) / name, root, name)
    if name == "images.tar":
        refused(set_, tmp_path / name, root, "the end of the archive is missing")


GOOD = with_zip(WHOLE_RAF)["Image/aligned.zip"]
DAMAGED_ZIPS = {
    "empty": (b"", ": is empty"),
    "a web page": (b"<html>Sign in</html>", ": is a web page"),
    "no zip": (b"zip", ": is damaged or cut short"),
    "no end": (GOOD[:-100], ": is damaged or cut short"),
    "spoilt": (GOOD[:2000] + bytes([GOOD[2000] ^ 255]) + GOOD[2001:], ", member aligned/"),
    "climbing": (zip_bytes({"../x.jpg": b""}), "leads out of the archive"),
}


@pytest.mark.parametrize("what", DAMAGED_ZIPS)
def test_a_zip_of_images_that_is_damaged(what, tmp_path, root):
    content, part = DAMAGED_ZIPS[what]
    source = written(tmp_path / "raf", with_zip(WHOLE_RAF) | {"Image/aligned.zip": content})
    refused("rafdb", source, root, "Image/aligned.zip", part)


def test_bombs(tmp_path, root, monkeypatch):
    monkeypatch.setattr(fer, "_MAX_CSV", 1 << 17)
    monkeypatch.setattr(cifar, "_MAX_PICKLE", 1 << 17)
    monkeypatch.setattr(members, "MAX_MEMBER", 1 << 17)
    zeros, lines = bytes((1 << 17) + 1), b"emotion,pixels,Usage\n" + b"\n" * (1 << 17)
    with bz2.open(tmp_path / "forged.tar.bz2", "wb") as file:  # a header that asks for gigabytes
        info = tarfile.TarInfo("long name")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 17))
    zipped(tmp_path / "bomb.zip", {"fer2013.csv": zeros})
    tarred(tmp_path / "bomb.tgz", {"fer2013.csv": zeros})
    written(tmp_path, {"fer2013.csv": zeros, "fer2013.csv.gz": gzip.compress(lines)})
    written(tmp_path, {"zeros.csv.xz": lzma.compress(b"1" * (1 << 17)), "in/raf.zip": zeros})
    for name, source, *parts in (
        ("fer2013", "bomb.zip", "bomb.zip, member fer2013.csv", "131,073 bytes; more than 131,072 cannot be"),
        ("fer2013", "bomb.tgz", "bomb.tgz, member fer2013.csv", "claims 131,073 bytes"),
        ("fer2013", "fer2013.csv", "fer2013.csv: has 131,073 bytes"),
        ("fer2013", "fer2013.csv.gz", "has more bytes than it says; more than 131,072"),
        ("fer2013", "zeros.csv.xz", "line 1: is longer than"),
        ("fer2013", "forged.tar.bz2", "forged.tar.bz2", "asks for"),
        ("rafdb", "in", "raf.zip: has 131,073 bytes"),
        ("cifar100", written(tmp_path / "c", PICKLES).name, "test: has 3", "more than 131,072 cannot be"),
    ):
        refused(name, tmp_path / source, root, *parts)


def test_too_many_files(tmp_path, root, monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBERS", 5)
    for kind in ("folder", "zip", "tar"):
        source = packed(kind, tmp_path / "many", {f"{i}.txt": b"" for i in range(6)})
        refused("fer2013", source, root, f"{source}: holds over 5 files")


# ------------------------------------------------------------------------------------------------ memory and disks

BROKEN = [
    (MemoryError(), "not enough memory"),
    (OSError(errno.EIO, os.strerror(errno.EIO)), "cannot be read: Input/output error"),
]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.parametrize(("fault", "said"), BROKEN, ids=["memory", "EIO"])
def test_a_disk_or_memory_that_fails(kind, what, fault, said, tmp_path, root, monkeypatch):
    """Wherever it fails: at the opening of a file, or at any of the first reads."""
    name, files = SOURCES[what]
    source, opening, left = packed(kind, tmp_path / "a", files), builtins.open, [0]

    def count_down():
        left[0] -= 1
        if left[0] < 0:
            raise fault

    class Failing(io.FileIO):
        def readinto(self, buffer):
            count_down()
            return super().readinto(buffer)

        def readall(self):
            count_down()
            return super().readall()

    def opened(path, mode="r", *arguments, **options):
        if str(path).startswith(str(source)) and mode == "rb":
            count_down()
            return io.BufferedReader(Failing(path, "r"))
        return opening(path, mode, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opened)
    for count in range(12):
        left[0] = count
        try:
            run(name, source, root)
        except DataError as error:
            message = str(error)
            assert message.startswith(str(source)) and said in message, message
        else:
            assert count > 1 and left[0] >= 0  # all was read
            break
        assert "damaged" not in message and "cut short" not in message and "copy it again" not in message


@pytest.mark.parametrize("where", ["numpy", "pickle", "Pillow", "pandas", "pandas' words"])
def test_memory_that_ends_while_bytes_are_made_into_arrays(where, tmp_path, root, monkeypatch):
    import pandas

    words = pandas.errors.ParserError("Error tokenizing data. C error: out of memory")

    def fail(*_, **__):
        raise words if "words" in where else MemoryError

    what, target, attribute = {
        "numpy": ("pickles", np, "frombuffer"),
        "pickle": ("pickles", pickles, "_Reader"),
        "Pillow": ("images", Image, "open"),
    }.get(where, ("a table", pandas, "read_csv"))
    name, files = SOURCES[what]
    source = written(tmp_path / HOME, files)
    monkeypatch.setattr(target, attribute, fail)
    refused(name, source, root, "there is not enough memory to read it", "end other programs")


def test_a_source_that_changes_while_it_is_read(tmp_path, root, monkeypatch):
    source = written(tmp_path, {"fer2013.csv": TABLE}) / "fer2013.csv"
    read = fer._read_csv

    def grow(*arguments):
        found = read(*arguments)
        source.write_bytes(TABLE * 2)
        return found

    monkeypatch.setattr(fer, "_read_csv", grow)
    refused("fer2013", source, root, "changed while it was read")
