"""FER+'s votes beside FER-2013: joined row by row, masked where there are none, and refused when rows differ."""

import csv
import gzip
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sto_lite import data
from sto_lite.__main__ import main
from sto_lite.errors import DataError
from sto_lite.intake import prepare, votes
from sto_lite.sets import FER2013
from tests.packing import UNPACK, files_below, prepared, refused, same, written, zipped
from tests.test_prepare import ARRAYS, IMAGES, ROWS, TABLE, icml

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
COUNTS = np.random.default_rng(0).multinomial(10, [0.1] * 10, len(ROWS)).astype(np.uint8)
COUNTS[[2, 11]] = 0  # shown to nobody: a training image and a public one
COUNTS[23] = [0] * 9 + [10]  # no face: the last private one
LINES = [
    ",".join([usage, "" if i in (2, 11, 23) else f"fer{i:07d}.png", *map(str, COUNTS[i])])
    for i, (_, _, usage) in enumerate(ROWS)
]


def table(lines=LINES, header=HEADER):
    return "".join(f"{line}\n" for line in [header, *lines]).encode()


def changed(row, old, new):
    assert old in LINES[row]
    return table([*LINES[:row], LINES[row].replace(old, new), *LINES[row + 1 :]])


@pytest.fixture
def source(tmp_path):
    written(tmp_path, {"fer2013.csv": TABLE, "fer2013new.csv": table(), "a/fer2013new.csv": table()})
    return tmp_path / "fer2013.csv"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def test_votes_lie_beside_the_images(source, tmp_path, root, monkeypatch):
    files = {"semicolons": table().replace(b",", b";"), "CRLF, as Excel": table().replace(b"\n", b"\r\n")}
    files["columns in another order"] = b"\n".join(
        b",".join([*row.split(b",")[:1:-1], *row.split(b",")[1::-1]]) for row in table().splitlines()
    )
    paths = [
        tmp_path / "fer2013new.csv",
        tmp_path / "a",
        zipped(tmp_path / "v.zip", {"fer2013new.csv": table()}),
    ]
    paths.append(written(tmp_path, {"fer2013new.csv.gz": gzip.compress(table())}) / "fer2013new.csv.gz")
    paths += [written(tmp_path, {f"{name}.csv": text}) / f"{name}.csv" for name, text in files.items()]
    starts = {"train": 0, "public": 9, "private": 17}
    for path in paths:
        found = prepared("fer2013", source, root, votes=path)
        same({key: found[key] for key in ARRAYS}, ARRAYS)
        for split, start in starts.items():
            mine = slice(start, start + len(ARRAYS[f"{split}_labels"]))
            for counts, rated in (
                votes.read(split, root),
                (found[f"{split}_votes"], found[f"{split}_rated"]),
            ):
                assert counts.dtype == np.uint8 and rated.dtype == bool
                np.testing.assert_array_equal(counts, COUNTS[mine])
                np.testing.assert_array_equal(rated, [i not in (2, 11, 23) for i in range(len(ROWS))][mine])
    monkeypatch.setenv("STO_DATA", str(root))
    assert votes.read("public")[0].shape == (8, len(votes.CLASSES)) == (8, 10)
    with_votes = data.load("fer2013")
    prepared("fer2013", source, root)
    assert data.load("fer2013").fingerprint == with_votes.fingerprint
    same(prepared("fer2013", source, root), ARRAYS)


def test_splits_that_are_mixed(tmp_path, root):
    order = np.random.default_rng(3).permutation(len(ROWS))
    names = [f"fer{i:07d}.png" for i in range(len(ROWS))]
    lines = [",".join([ROWS[i][2], name, *map(str, COUNTS[i])]) for i, name in zip(order, names, strict=True)]
    files = {"a.csv": icml([ROWS[i] for i in order]), "b.csv": table(lines)}
    found = prepared("fer2013", written(tmp_path, files) / "a.csv", root, votes=tmp_path / "b.csv")
    for number, split in enumerate(FER2013.splits):
        mine = [i for i in order if ROWS[i][2] == FER2013.called[number]]
        np.testing.assert_array_equal(found[f"{split}_votes"], COUNTS[mine])


def test_report_and_a_second_time(source, tmp_path, root):
    said, path = [], tmp_path / "fer2013new.csv"

    def run(given):
        prepare.fer2013(source, root, said.append, votes=given)
        return said[-1]

    text = run(path)
    assert f"votes from {path}: 21 of 24 images" in text
    assert "no votes for 2 images (1 train, 1 public, 0 private), which are masked" in text
    assert "no face for 1 images (0 train, 0 public, 1 private), which are masked" in text
    assert "not read again" in run(path)
    assert json.loads((root / "fer2013.json").read_text())["votes"] == str(path)
    path.write_bytes(changed(0, "fer0000000.png", ""))
    assert "20 of 24 images" in run(path)
    assert "votes" not in run(None)
    assert "not read again" in run(None) and "not read again" not in run(path)


FAULTS = {
    "a row less": (table(LINES[:-1]), ("has 23 rows, but FER-2013 has 24", "give both files whole")),
    "a row more": (table([*LINES, LINES[-1]]), ("has 25 rows, but FER-2013 has 24",)),
    "another usage": (
        changed(8, "Training", "PublicTest"),
        ("row 9 is of PublicTest, but that of FER-2013 of Training (1 rows differ)", "order in which they"),
    ),
    "another order": (
        table(LINES[:3:-1] + LINES[:4]),
        ("comes after a later one", "take the file as published"),
    ),
    "an unknown usage": (
        changed(0, "Training", "Test"),
        ("line 2: Usage is 'Test'", "Training, PublicTest, Priv"),
    ),
    "eleven votes": (
        table([*LINES[:4], LINES[4][:-1] + "11", *LINES[5:]]),
        ("line 6: NF is '11'", "from 0 to 10"),
    ),
    "no number": (table([*LINES[:4], LINES[4][:-1] + "x", *LINES[5:]]), ("line 6: NF is 'x'",)),
    "a column less": (table(header=HEADER[:-3]), ("line 2: has 12 columns, the first line has 11",)),
    "a column of another name": (
        table(header=HEADER.replace("fear", "joy")),
        ("line 1: has no column 'fear'", "give FER+'s fer2013new.csv"),
    ),
    "a column twice": (table(header=HEADER.replace("fear", "anger")), ("'anger', or several",)),
    "the other file": (TABLE, ("line 1: has no column 'image name'", "give FER+'s fer2013new.csv")),
    "cut short": (table()[:-3], ("line 25: NF is ''", "the file ends in this line")),
    "no rows": (table([]), ("has no votes below the first line",)),
    "empty": (b"", ("is empty",)),
    "a web page": (b"<html>", ("is a web page",)),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("earlier", [False, True])
def test_files_that_do_not_belong_to_the_rows(name, earlier, source, tmp_path, root):
    content, parts = FAULTS[name]
    if earlier:
        prepared("fer2013", source, root, votes=tmp_path / "fer2013new.csv")
    path = written(tmp_path, {"v.csv": content}) / "v.csv"
    assert str(path) in refused("fer2013", source, root, *parts, votes=path)


def test_paths_without_votes_and_images_without_rows(source, tmp_path, root, monkeypatch, capsys):
    path = tmp_path / "fer2013new.csv"
    images = written(tmp_path / "images", IMAGES)
    refused("fer2013", images, root, str(path), "have lost that order", "give fer2013.csv", votes=path)
    refused("fer2013", source, root, "holds no fer2013new.csv", "give its path", votes=images)
    refused("fer2013", source, root, "nowhere: does not exist", votes=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"FER-2013 is not prepared.*--votes fer2013new.csv"):
        votes.read("train", root)
    prepared("fer2013", source, root)
    with pytest.raises(DataError, match=r"fer2013.npz: holds no votes; run .*--votes fer2013new.csv"):
        votes.read("train", root)
    with pytest.raises(DataError, match="no split 'test'; there are train, public, private"):
        votes.read("test", root)
    monkeypatch.setenv("STO_DATA", str(root))
    for command in (["rafdb", "--from", str(source)], ["cifar100", "--download"]):
        before = files_below(root)
        assert main(["prepare", *command, "--votes", str(path)]) == 2
        assert "they go with prepare fer2013 --from PATH" in capsys.readouterr().err
        assert files_below(root) == before
    assert main(["prepare", "fer2013", "--from", str(source), "--votes", str(path)]) == 0
    assert "21 of 24 images" in capsys.readouterr().out
    assert votes.read("private", root)[1].tolist() == [True] * 6 + [False]


def test_the_classes_that_both_name():
    """FER+ says happiness where FER-2013 says happy; each of the seven is named once."""
    pairs = {votes.CLASSES[i]: FER2013.classes[label] for i, label in enumerate(votes.FER2013_LABELS)}
    assert sorted(votes.FER2013_LABELS) == list(range(7))
    assert all(new[:3] == old[:3] or (new, old) == ("anger", "angry") for new, old in pairs.items())


@pytest.mark.skipif(UNPACK is None, reason="the real votes are not at hand (../shared/data/unpack.py)")
def test_the_real_votes(tmp_path):
    """How often the old label is the taggers' plurality on PrivateTest, ties to the first column or as agreement."""
    command = [sys.executable, str(UNPACK), "fer2013", "--layout", "votes", str(tmp_path)]
    subprocess.run(command, check=True)
    usage = np.repeat(np.arange(3), list(FER2013.official.values()))
    found, _ = votes.join(tmp_path / "fer2013new.csv", usage)
    with zipfile.ZipFile(UNPACK.with_name("fer2013.zip")) as archive:
        rows = archive.read("PrivateTest/labels.csv").decode().splitlines()
    labels = np.array([int(row["label"]) for row in csv.DictReader(rows)])
    counts, rated = found["private_votes"], found["private_rated"]
    missing = [np.count_nonzero(found[f"{split}_votes"].sum(1) == 0) for split in FER2013.splits]
    assert missing == [151, 10, 16] and np.count_nonzero(~rated) == 17
    column = np.argsort(votes.FER2013_LABELS)[labels]
    first = (counts.argmax(1) == column)[rated]
    ties = (counts[np.arange(len(counts)), column] == counts.max(1))[rated]
    labels = labels[rated]
    by_class = {name: round(100 * ties[labels == k].mean()) for k, name in enumerate(FER2013.classes)}
    assert (round(1000 * first.mean()), round(1000 * ties.mean())) == (625, 644)
    assert by_class == {
        "angry": 53, "disgust": 36, "fear": 17, "happy": 93, "sad": 42, "surprise": 77, "neutral": 87
    }  # fmt: skip
    assert round(100 * first[labels == 2].mean()) == 13 and round(100 * first[labels == 4].mean()) == 39
