"""prepare.rafdb: every layout gives the same arrays; every fault is one DataError that says where it is.

RAF-DB may not be passed on, so these are look-alikes: random pixels in its real layouts.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image

from sto_lite.intake import archives, prepare
from tests.packing import (
    below,
    one_file,
    refused,
    shuffled,
    tarred,
    written,
    zip_bytes,
    zipped,
)

NUMBERS = {"train": (1, 2, 3, 9, 10, 11, 99, 100, 12271), "test": (1, 2, 3, 5, 8, 13, 21)}
CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
LIST = "EmoLabel/list_patition_label.txt"
ALIGNED = "Image/aligned/"
RIGHT = "train_00003_aligned.jpg"  # its label is 3


def jpeg(seed=0, size=(100, 100), mode="RGB"):
    shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


# (split, number, official label, file) of every image, in the order of the numbers
ENTRIES = [
    (split, number, i % 7 + 1, jpeg(1000 * len(split) + number))
    for split, numbers in NUMBERS.items()
    for i, number in enumerate(numbers)
]


def official():
    """The layout as the authors deliver it, images unpacked; other files beside, and no order in anything."""
    lines = [f"{split}_{number:05d}.jpg {label}\n" for split, number, label, _ in ENTRIES]
    files = {LIST: "".join(lines[::-1]).encode(), f"{ALIGNED}._{RIGHT}": b"\0"}
    for split, number, _, picture in ENTRIES:
        files[f"{ALIGNED}{split}_{number:05d}_aligned.jpg"] = picture
        files[f"Image/original/{split}_{number:05d}.jpg"] = b"large"
        files[f"Annotation/manual/{split}_{number:05d}_manu_attri.txt"] = b"1 2\n"
    return shuffled(files)


def with_zip(files, folder="aligned/"):
    """The same with the aligned images in Image/aligned.zip."""
    images = {name.replace(ALIGNED, folder): content for name, content in files.items() if ALIGNED in name}
    rest = {name: content for name, content in files.items() if ALIGNED not in name}
    return rest | {"Image/aligned.zip": zip_bytes(images | {"__MACOSX/aligned/._x.jpg": b"\0"})}


def kaggle(tables=False, test="test", line="{name},{label}", header="image,label"):
    """The layout of the copies at Kaggle; the folder of the test images may be called otherwise."""
    names = {"train": "train", "test": test}
    files = {f"{names[s]}/{label}/{s}_{n:05d}_aligned.jpg": picture for s, n, label, picture in ENTRIES}
    for split in NUMBERS if tables else ():
        rows = [
            line.format(name=f"{s}_{n:05d}_aligned.jpg", label=y, i=n) for s, n, y, _ in ENTRIES if s == split
        ]
        files[f"{names[split]}_labels.csv"] = "\n".join([*([header] if header else []), *rows, ""]).encode()
    return shuffled(files)


def without(files, part):
    return {name: content for name, content in files.items() if part not in name}


def expected():
    arrays = {}
    for split in NUMBERS:
        mine = [(label, picture) for s, _, label, picture in ENTRIES if s == split]
        arrays[f"{split}_images"] = np.stack([np.asarray(Image.open(io.BytesIO(i))) for _, i in mine])
        arrays[f"{split}_labels"] = np.array([label - 1 for label, _ in mine], np.uint8)
    return arrays | {"classes": np.array(CLASSES)}


EXPECTED, WHOLE = expected(), official()
SMALL = {name: content for name, content in WHOLE.items() if name == LIST or ALIGNED in name}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


# ---- what is accepted

COMPOUND = {f"compound/{LIST}": b"train_0001.jpg 11\n", f"compound/{ALIGNED}train_0001_aligned.jpg": b""}
LAYOUTS = {
    "official": WHOLE,
    "zip inside": with_zip(WHOLE),
    "flat zip inside": with_zip(WHOLE, ""),
    "deep": below("RAF-DB/basic", WHOLE),
    "basic beside compound": below("basic", with_zip(WHOLE)) | COMPOUND,
    "spelt well": {n.replace("patition", "partition"): d for n, d in WHOLE.items()},
    "CRLF, no end": WHOLE | {LIST: WHOLE[LIST].strip().replace(b"\n", b"\r\n")},
    "blank lines": WHOLE | {LIST: WHOLE[LIST].replace(b"\n", b"\n\n")},
    "a third column in the list": WHOLE | {LIST: WHOLE[LIST].replace(b"\n", b" 0.93\n")},
    "kaggle": kaggle(),
    "kaggle with tables": kaggle(tables=True),
    "kaggle, deep": below("archive/raf", kaggle(tables=True)),
    "DATASET": {n if n.endswith(".csv") else f"DATASET/{n}": d for n, d in kaggle(tables=True).items()},
    "one table": without(kaggle(tables=True), "test_labels.csv"),
    "no first line": kaggle(tables=True, header=""),
    "semicolons": kaggle(tables=True, line="{name};{label}", header="image;label"),
    "a third column": kaggle(tables=True, line="{name},{label},face", header="image,label,kind"),
    "an index column": kaggle(tables=True, line="{i},{name},{label}", header=",image,label"),
    "valid for test": kaggle(test="valid"),
    "valid for test, with tables": kaggle(tables=True, test="valid"),
    "some training images in validation": {
        n.replace("train/3", "validation/3"): d
        for n, d in without(kaggle(tables=True), "valid_labels").items()
    },
    "what macOS and Jupyter leave": kaggle()
    | {
        f"train/3/._{RIGHT}": b"\0",
        "__MACOSX/train/3/x.jpg": b"\0",
        f"train/3/.ipynb_checkpoints/{RIGHT}": b"\0",
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_arrays(name, tmp_path):
    files, sources = LAYOUTS[name], {}
    sources["folder"] = written(tmp_path / "raf", files)
    sources["zip"] = zipped(tmp_path / "raf.zip", files)
    sources["tar"] = tarred(tmp_path / "raf.tar", files, "w")
    one_file("rafdb", sources, EXPECTED, tmp_path)


def test_report_and_audit(tmp_path, root):
    picture = WHOLE[f"{ALIGNED}train_00001_aligned.jpg"]  # label 1
    black = io.BytesIO()
    Image.new("RGB", (100, 100)).save(black, "JPEG")
    # Labels 4 and 1; the last is black.
    planted = {"train_00009": picture, "test_00001": picture, "test_00021": black.getvalue()}
    files = SMALL | {f"{ALIGNED}{name}_aligned.jpg": content for name, content in planted.items()}
    files[LIST] = files[LIST].replace(b"\n", b" x\n")
    said = []
    prepare.rafdb(written(tmp_path / "raf", files), root, said.append)
    for part in (
        "notice: not the whole of RAF-DB",
        "train 9 of 12,271, test 7 of 3,068",
        "list_patition_label.txt has 3 columns, of which name and label were read",
        "happiness",
        "all splits together: 2\n",
        "stand in train: 1\n",
        "labels: 1; all-black images: 1",
    ):
        assert part in said[0], said[0]
    found = json.loads((root / "rafdb.json").read_text())["audit"]
    assert found["counts"] == {"train": [2, 2, 1, 1, 1, 1, 1], "test": [1] * 7}
    assert found["copies_within"] == {"train": 1, "test": 0} and found["stand_in"] == {"test_in_train": 1}
    prepare.rafdb(written(tmp_path / "k", kaggle(tables=True)), root, said.append)
    assert f"{tmp_path / 'k' / 'test_labels.csv'} agrees with the folders" in said[1]


# ---- faults


def line(content):
    return SMALL | {LIST: SMALL[LIST] + content}


def picture(content, name=RIGHT):
    return SMALL | {ALIGNED + name: content}


OFFICIAL_FAULTS = {
    "label 0": (line(b"train_00050.jpg 0\n"), LIST, ("line 17", "label is '0'", "1 surprise, 2 fear")),
    "label 8": (line(b"train_00050.jpg 8\n"), LIST, ("line 17", "label is '8'", "from 1 to 7")),
    "label x": (line(b"train_00050.jpg x\n"), LIST, ("line 17", "label is 'x'")),
    "prefix": (line(b"val_00050.jpg 1\n"), LIST, ("line 17", "'val_00050.jpg' starts with neither")),
    "number": (line(b"train_five.jpg 1\n"), LIST, ("line 17", "'train_five.jpg' is not such as")),
    "escape codes": (line(b"train_\x1b[2J 1\n"), LIST, ("line 17", "'train_?[2J'")),
    "one field": (
        line(b"train_00050.jpg\n"),
        LIST,
        ("line 17", "reads 'train_00050.jpg", "'train_00001.jpg 5'"),
    ),
    "three fields": (
        line(b"train_00050.jpg 1 2\n"),
        LIST,
        ("line 17", "has 3 columns, the first line has 2"),
    ),
    "twice": (line(b"train_00003.jpg 3\n"), LIST, ("line 17", "train_00003.jpg is there twice", "line 14")),
    "no image": (line(b"train_00050.jpg 3\n"), LIST, ("line 17", "no image", "train_00050")),
    "empty": (SMALL | {LIST: b""}, LIST, ("is empty",)),
    "blank": (SMALL | {LIST: b"\n"}, LIST, ("has no lines",)),
    "names alone": (
        SMALL | {LIST: b"train_00001.jpg\n"},
        LIST,
        ("line 1", "reads 'train_00001.jpg', not such as"),
    ),
    "binary": (SMALL | {LIST: bytes(range(256)) * 10}, LIST, ("line 1", "is no text")),
    "a web page": (SMALL | {LIST: b"<html>"}, LIST, ("is a web page",)),
    "no line": (
        picture(jpeg(), "train_00050_aligned.jpg"),
        f"{ALIGNED}train_00050_aligned.jpg",
        ("has no line in", "list_patition_label.txt"),
    ),
    "name of an image": (
        picture(jpeg(), "face.jpg"),
        f"{ALIGNED}face.jpg",
        ("'face.jpg' starts with neither train_",),
    ),
    "number twice": (picture(jpeg(), "train_3_aligned.jpg"), "", ("has the number of", "which is right?")),
    "size": (picture(jpeg(size=(100, 99))), ALIGNED + RIGHT, ("is 100 x 99 pixels, not 100 x 100",)),
    "gray": (picture(jpeg(mode="L")), ALIGNED + RIGHT, ("no 8-bit colour image (its mode is L)",)),
    "text": (picture(b"<html>"), ALIGNED + RIGHT, ("cannot be decoded (no JPEG, PNG or BMP)",)),
    "cut": (picture(jpeg()[:-3000]), ALIGNED + RIGHT, ("cannot be decoded",)),
    "no bytes": (picture(b""), ALIGNED + RIGHT, ("cannot be decoded",)),
    "bomb": (picture(bytes((10 << 20) + 1)), ALIGNED + RIGHT, ("10,485,761 bytes",)),
    "no images": (without(SMALL, ALIGNED), LIST, ("neither Image/aligned nor Image/aligned.zip",)),
    "no test": (
        without(SMALL, "test_")
        | {LIST: b"".join(x for x in SMALL[LIST].splitlines(True) if b"test" not in x)},
        "",
        ("holds no test images",),
    ),
}


@pytest.mark.parametrize("name", OFFICIAL_FAULTS)
@pytest.mark.parametrize("packed", ["folder", "zip", "zip inside"])
def test_faults_in_the_official_layout(name, packed, tmp_path, root):
    files, file, parts = OFFICIAL_FAULTS[name]
    source = tmp_path / "raf.zip"
    if packed == "folder":
        source = written(tmp_path / "raf", files)
        where = f"{source / file}" if file else str(source)
    elif packed == "zip" or name == "no images":
        zipped(source, files)
        where = f"{source}, member {file}" if file else str(source)
    else:
        zipped(source, with_zip(files))
        inner = f", member Image/aligned.zip, member {file.removeprefix('Image/')}"
        where = f"{source}{inner if file.startswith(ALIGNED) else f', member {file}' if file else ''}"
    refused("rafdb", source, root, where, *parts)


TABLES = kaggle(tables=True)


def table(split, old, new):
    name = f"{split}_labels.csv"
    assert old in TABLES[name]
    return TABLES | {name: TABLES[name].replace(old, new)}


def moved(old, new):
    return {name.replace(old, new): content for name, content in TABLES.items()}


KAGGLE_FAULTS = {
    "class 8": (moved("train/3/", "train/8/"), (f"train/8/{RIGHT}", "label is '8'")),
    "class by name": (moved("train/3/", "train/sad/"), (f"train/sad/{RIGHT}", "label is 'sad'", "5 sadness")),
    "no class": (moved("train/3/", "train/"), (f"train/{RIGHT}", "in no folder of a label")),
    "wrong split": (moved("test/3/test_", "test/3/train_"), ("is called train_ but lies in a folder test",)),
    "no prefix": (moved("test/3/test_", "test/3/"), ("starts with neither train_ nor test_",)),
    "table says otherwise": (
        table("train", b"00003_aligned.jpg,3", b"00003_aligned.jpg,4"),
        ("train_labels.csv, line 4", "says 4, but the image is", f"train/3/{RIGHT}"),
    ),
    "table's label": (
        table("test", b"00003_aligned.jpg,3", b"00003_aligned.jpg,0"),
        ("test_labels.csv, line 4", "label is '0'"),
    ),
    "line missing": (
        table("train", b"train_00003_aligned.jpg,3\n", b""),
        (f"train/3/{RIGHT}: has no line in", "train_labels.csv"),
    ),
    "image missing": (without(TABLES, RIGHT), ("train_labels.csv, line 4", "no image")),
    "line twice": (
        table("train", b"image,label\n", b"image,label\ntrain_00003_aligned.jpg,3\n"),
        ("train_labels.csv, line 5", "there twice", "line 2"),
    ),
    "image twice": (
        TABLES | {f"train/4/{RIGHT}": jpeg()},
        (f"train/4/{RIGHT}: has the number of", f"train/3/{RIGHT}"),
    ),
}


@pytest.mark.parametrize("name", KAGGLE_FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_faults_in_the_folders(name, packed, tmp_path, root):
    files, parts = dict(sorted(KAGGLE_FAULTS[name][0].items())), KAGGLE_FAULTS[name][1]
    source = tarred(tmp_path / "raf.tgz", files) if packed else written(tmp_path / "raf", files)
    refused("rafdb", source, root, str(source), *parts)


def test_paths_that_are_no_data_set(tmp_path, root):
    (tmp_path / "me.jpg").write_bytes(jpeg())
    (tmp_path / "empty").mkdir()
    written(tmp_path / "fer", {"train/happy/Training_1.jpg": jpeg()})
    written(tmp_path / "both", below("a", SMALL) | below("b", kaggle()))
    written(tmp_path / "twice", below("a", SMALL) | below("b", SMALL))
    written(tmp_path / "compound", {**SMALL, LIST: b"train_00001.jpg 1\ntest_00001.jpg 11\n"})
    written(tmp_path / "inner", {"RAF-DB.zip": b"PK\3\4"})
    for name, *parts in (
        ("nowhere", "nowhere: does not exist"),
        ("empty", "holds no RAF-DB", LIST, "test/1 to test/7"),
        ("fer", "train/happy/Training_1.jpg", "label is 'happy'", "4 happiness"),
        ("both", "more than one data set", f"a/{LIST}", "b/train, b/test", "the path of one"),
        ("twice", "more than one data set", f"a/{LIST}", f"b/{LIST}"),
        ("compound", LIST, "line 2", "label is '11'"),
        ("inner", "RAF-DB.zip: is damaged or cut short"),
        ("me.jpg", "me.jpg: is a single image"),
    ):
        refused("rafdb", tmp_path / name, root, *parts)


def test_archives_that_are_damaged(tmp_path, root, monkeypatch):
    whole = with_zip(SMALL)
    inner = whole["Image/aligned.zip"]
    spoilt = bytearray(inner)
    spoilt[inner.index(b"\xff\xd8") + 2000] ^= 255
    for content, what in (
        (b"", ": is empty"),
        (b"<html>Sign in</html>", ": is a web page"),
        (b"zip", ": is damaged or cut short"),
        (inner[:-100], ": is damaged or cut short"),
        (inner[: len(inner) // 2], ": is damaged or cut short"),
        (bytes(spoilt), ", member aligned/"),
        (zip_bytes({"../x.jpg": b""}), "leads out of the archive"),
        (zip_bytes({"/x.jpg": b""}), "leads out of the archive"),
    ):
        source = written(tmp_path / "raf", whole | {"Image/aligned.zip": content})
        refused("rafdb", source, root, "Image/aligned.zip", what)
    for packed in (zipped(tmp_path / "a.zip", whole), tarred(tmp_path / "a.tar.gz", whole)):
        packed.write_bytes(packed.read_bytes()[:-100])
        refused("rafdb", packed, root, packed.name, "is damaged or cut short")
    monkeypatch.setattr(archives, "MAX_MEMBER", 1000)
    source = written(tmp_path / "raf", whole)
    refused("rafdb", source, root, "Image/aligned.zip: has", "more than 1,000")
