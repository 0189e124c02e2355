"""prepare.rafdb: every layout gives the same arrays; every fault is one DataError that says where it is.

RAF-DB may not be passed on, so these are look-alikes: random pixels in its real layouts.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sto_lite import data
from sto_lite.errors import DataError
from sto_lite.intake import archives, rafdb, prepare
from tests.packing import below, files_below, shuffled, tarred, written, zip_bytes, zipped

NUMBERS = {"train": (1, 2, 3, 9, 10, 11, 99, 100, 12271), "test": (1, 2, 3, 5, 8, 13, 21)}
CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
LIST = "EmoLabel/list_patition_label.txt"
ALIGNED = "Image/aligned/"
Files = dict[str, bytes]


def quiet(text: str) -> None:
    pass


def jpeg(seed: int = 0, size: tuple[int, int] = (100, 100), mode: str = "RGB") -> bytes:
    shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def entries() -> list[tuple[str, int, int, bytes]]:
    """(split, number, official label, file) of every image, in the order of the numbers."""
    return [
        (split, number, i % 7 + 1, jpeg(1000 * len(split) + number))
        for split, numbers in NUMBERS.items()
        for i, number in enumerate(numbers)
    ]


ENTRIES = entries()


def official() -> Files:
    """The layout as the authors deliver it, images unpacked; other files beside, and no order in anything."""
    lines = [f"{split}_{number:05d}.jpg {label}\n" for split, number, label, _ in ENTRIES]
    files = {LIST: "".join(lines[::-1]).encode()}
    for split, number, _, image in ENTRIES:
        files[f"{ALIGNED}{split}_{number:05d}_aligned.jpg"] = image
        files[f"Image/original/{split}_{number:05d}.jpg"] = b"large"
        files[f"Annotation/manual/{split}_{number:05d}_manu_attri.txt"] = b"1 2\n"
    return shuffled(files)


def with_zip(files: Files, folder: str = "aligned/") -> Files:
    """The same with the aligned images in Image/aligned.zip."""
    images = {name.replace(ALIGNED, folder): image for name, image in files.items() if ALIGNED in name}
    rest = {name: content for name, content in files.items() if ALIGNED not in name}
    return rest | {"Image/aligned.zip": zip_bytes(images | {"__MACOSX/aligned/._x.jpg": b"\0"})}


def kaggle(tables: bool = False) -> Files:
    """The layout of the copies at Kaggle."""
    files = {
        f"{split}/{label}/{split}_{number:05d}_aligned.jpg": image for split, number, label, image in ENTRIES
    }
    for split in NUMBERS if tables else ():
        rows = [f"{s}_{n:05d}_aligned.jpg,{label}\n" for s, n, label, _ in ENTRIES if s == split]
        files[f"{split}_labels.csv"] = "".join(["image,label\n", *rows]).encode()
    return shuffled(files)


def dataset_folder() -> Files:
    """Images below DATASET/, the tables beside it."""
    return {
        name if name.endswith(".csv") else f"DATASET/{name}": d for name, d in kaggle(tables=True).items()
    }


def expected() -> dict[str, np.ndarray]:
    arrays = {}
    for split in NUMBERS:
        mine = [(label, image) for s, _, label, image in ENTRIES if s == split]
        arrays[f"{split}_images"] = np.stack([np.asarray(Image.open(io.BytesIO(i))) for _, i in mine])
        arrays[f"{split}_labels"] = np.array([label - 1 for label, _ in mine], np.uint8)
    return arrays | {"classes": np.array(CLASSES)}


EXPECTED = expected()


def prepared(source: Path, root: Path, report: Callable[[str], None] = quiet) -> dict[str, np.ndarray]:
    path = prepare.rafdb(source, root, report=report)
    assert path == root / "rafdb.npz"
    with np.load(path, allow_pickle=False) as npz:
        return dict(npz)


def assert_refused(source: Path, root: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare.rafdb(source, root, report=quiet)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message and message.isprintable() and len(message) < 1_000
    assert not root.exists()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


# ---- what is accepted


def test_every_layout_gives_the_same_bytes(tmp_path: Path) -> None:
    compound = {f"compound/{LIST}": b"train_0001.jpg 11\n", f"compound/{ALIGNED}train_0001_aligned.jpg": b""}
    official_in = {
        "official": official(),
        "zip inside": with_zip(official()),
        "flat zip inside": with_zip(official(), ""),
        "deep": below("RAF-DB/basic", official()),
        "basic beside compound": below("basic", with_zip(official())) | compound,
        "kaggle": kaggle(),
        "kaggle with tables": kaggle(tables=True),
        "kaggle, deep": below("archive/raf", kaggle(tables=True)),
        "DATASET": dataset_folder(),
        "spelt well": {n.replace("patition", "partition"): d for n, d in official().items()},
        "CRLF, no end": official() | {LIST: official()[LIST].strip().replace(b"\n", b"\r\n")},
        "one table": {n: d for n, d in kaggle(tables=True).items() if n != "test_labels.csv"},
    }
    seen = set()
    for number, (name, files) in enumerate(official_in.items()):
        for source in (
            written(tmp_path / f"{number}", files),
            zipped(tmp_path / f"{number}.zip", files),
            tarred(tmp_path / f"{number}.tar.gz", files),
        ):
            before = files_below(tmp_path)
            root = tmp_path / f"root{source.name}"
            found = prepared(source, root)
            assert list(found) == list(EXPECTED), name
            for key, array in EXPECTED.items():
                assert found[key].dtype == array.dtype
                np.testing.assert_array_equal(found[key], array, err_msg=f"{name}: {key}")
            assert sorted(p.name for p in root.iterdir()) == ["rafdb.json", "rafdb.npz"]
            seen.add((root / "rafdb.npz").read_bytes())
            assert files_below(tmp_path).keys() - before.keys() == {
                f"{root.name}/rafdb.json",
                f"{root.name}/rafdb.npz",
            }, f"{name}: something was written outside root"
    assert len(seen) == 1


def test_data_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    with pytest.raises(DataError, match="RAF-DB is not prepared.*prepare rafdb --from PATH .or"):
        data.load("rafdb")
    prepared(written(tmp_path / "raf", official()), tmp_path)
    full = data.load("rafdb", size=100)
    assert full.classes == CLASSES and list(full.splits) == ["train", "test"]
    for split, part in full.splits.items():
        pixels = part.images.permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(pixels, EXPECTED[f"{split}_images"])
        np.testing.assert_array_equal(part.labels.numpy(), EXPECTED[f"{split}_labels"])
    small = data.load("rafdb", size=32, limit=5)
    assert small.splits["train"].images.shape == (5, 3, 32, 32) and len(small.test_splits["test"]) == 7
    assert data.resize(full.splits["test"].images, 32).equal(small.splits["test"].images)
    (tmp_path / "rafdb.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"rafdb.npz is damaged.*prepare RAF-DB again"):
        data.load("rafdb")


# ---- the report, and preparing twice


def test_report_and_audit(tmp_path: Path, root: Path) -> None:
    files = official()
    image = files[f"{ALIGNED}train_00001_aligned.jpg"]  # label 1
    files[f"{ALIGNED}train_00009_aligned.jpg"] = image  # label 4
    files[f"{ALIGNED}test_00001_aligned.jpg"] = image  # label 1
    black = io.BytesIO()
    Image.new("RGB", (100, 100)).save(black, "JPEG")
    files[f"{ALIGNED}test_00021_aligned.jpg"] = black.getvalue()
    said: list[str] = []
    prepared(written(tmp_path / "raf", files), root, said.append)
    (text,) = said
    assert "notice: not the whole of RAF-DB" in text and "train 9 of 12,271, test 7 of 3,068" in text
    for part in (
        "happiness",
        "all splits together: 2\n",
        "stand in train: 1\n",
        "labels: 1; all-black images: 1",
    ):
        assert part in text, text
    found = json.loads((root / "rafdb.json").read_text())["audit"]
    assert found["counts"] == {"train": [2, 2, 1, 1, 1, 1, 1], "test": [1] * 7}
    assert found["copies_within"] == {"train": 1, "test": 0} and found["stand_in"] == {"test_in_train": 1}


@pytest.mark.parametrize("files", [official(), with_zip(official()), kaggle(tables=True)])
def test_second_time_reads_nothing_until_something_changes(
    files: Files, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path / "raf", files)
    prepared(source, root)
    with monkeypatch.context() as patch:
        patch.setattr(rafdb, "read", None)  # any reading would fail
        patch.setattr(prepare, "_write", None)
        said: list[str] = []
        prepared(source, root, said.append)
    assert "not read again" in said[0] and "copies" in said[0]
    for path in source.rglob("*"):
        if path.name in ("list_patition_label.txt", "train_labels.csv"):
            path.write_bytes(path.read_bytes() + b"train_99999.jpg,9\n")
    with pytest.raises(DataError, match="train_99999|label is '9'"):
        prepared(source, root)


# ---- faults

RIGHT = "train_00003_aligned.jpg"  # its label is 3


def last_line(line: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {LIST: files[LIST] + line}


def image(content: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {ALIGNED + RIGHT: content}


OFFICIAL_FAULTS: dict[str, tuple[Callable[[Files], Files], str, tuple[str, ...]]] = {
    "label 0": (last_line(b"train_00050.jpg 0\n"), LIST, ("line 17", "label is '0'", "1 surprise, 2 fear")),
    "label 8": (last_line(b"train_00050.jpg 8\n"), LIST, ("line 17", "label is '8'", "from 1 to 7")),
    "label x": (last_line(b"train_00050.jpg x\n"), LIST, ("line 17", "label is 'x'")),
    "prefix": (last_line(b"val_00050.jpg 1\n"), LIST, ("line 17", "'val_00050.jpg' starts with neither")),
    "number": (last_line(b"train_five.jpg 1\n"), LIST, ("line 17", "'train_five.jpg' is not such as")),
    "escape codes": (last_line(b"train_\x1b[2J 1\n"), LIST, ("line 17", "'train_?[2J'")),
    "one field": (last_line(b"train_00050.jpg\n"), LIST, ("line 17", "reads 'train_00050.jpg'")),
    "three fields": (
        last_line(b"train_00050.jpg 1 2\n"),
        LIST,
        ("line 17", "not such as 'train_00001.jpg 5'"),
    ),
    "twice": (
        last_line(b"train_00003.jpg 3\n"),
        LIST,
        ("line 17", "train_00003.jpg is there twice", "line 14"),
    ),
    "no image": (last_line(b"train_00050.jpg 3\n"), LIST, ("line 17", "no image", "train_00050")),
    "empty": (lambda files: files | {LIST: b"\n"}, LIST, ("has no lines",)),
    "binary": (lambda files: files | {LIST: bytes(range(256)) * 10}, LIST, ("line 1",)),
    "no line": (
        lambda files: files | {f"{ALIGNED}train_00050_aligned.jpg": jpeg()},
        f"{ALIGNED}train_00050_aligned.jpg",
        ("has no line in", "list_patition_label.txt"),
    ),
    "name of an image": (
        lambda files: files | {f"{ALIGNED}face.jpg": jpeg()},
        f"{ALIGNED}face.jpg",
        ("'face.jpg' starts with neither train_ nor test_",),
    ),
    "number twice": (
        lambda files: files | {f"{ALIGNED}train_3_aligned.jpg": jpeg()},
        "",
        ("has the number of", "which is right?"),
    ),
    "size": (image(jpeg(size=(100, 99))), ALIGNED + RIGHT, ("is 100 x 99 pixels, not 100 x 100",)),
    "gray": (image(jpeg(mode="L")), ALIGNED + RIGHT, ("no 8-bit colour image (its mode is L)",)),
    "text": (image(b"<html>"), ALIGNED + RIGHT, ("cannot be decoded (no JPEG, PNG or BMP)",)),
    "cut": (image(jpeg()[:-3000]), ALIGNED + RIGHT, ("cannot be decoded",)),
    "no bytes": (image(b""), ALIGNED + RIGHT, ("cannot be decoded",)),
    "bomb": (image(bytes((10 << 20) + 1)), ALIGNED + RIGHT, ("10,485,761 bytes",)),
    "no images": (
        lambda files: {n: d for n, d in files.items() if ALIGNED not in n},
        LIST,
        ("neither Image/aligned nor Image/aligned.zip",),
    ),
    "no test": (
        lambda files: (
            {n: d for n, d in files.items() if "test_" not in n}
            | {LIST: b"".join(line for line in files[LIST].splitlines(True) if b"test" not in line)}
        ),
        "",
        ("holds no test images",),
    ),
}


@pytest.mark.parametrize("name", OFFICIAL_FAULTS)
@pytest.mark.parametrize("packed", ["folder", "zip", "zip inside"])
def test_faults_in_the_official_layout(name: str, packed: str, tmp_path: Path, root: Path) -> None:
    change, file, parts = OFFICIAL_FAULTS[name]
    files = change({n: d for n, d in official().items() if n == LIST or ALIGNED in n})
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
    assert_refused(source, root, where, *parts)


def table(split: str, change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    name = f"{split}_labels.csv"
    return lambda files: files | {name: change(files[name])}


def moved(old: str, new: str) -> Callable[[Files], Files]:
    return lambda files: {name.replace(old, new): content for name, content in files.items()}


KAGGLE_FAULTS: dict[str, tuple[Callable[[Files], Files], tuple[str, ...]]] = {
    "class 8": (moved("train/3/", "train/8/"), (f"train/8/{RIGHT}", "label is '8'")),
    "class by name": (moved("train/3/", "train/sad/"), (f"train/sad/{RIGHT}", "label is 'sad'", "5 sadness")),
    "no class": (moved("train/3/", "train/"), (f"train/{RIGHT}", "in no folder of a label")),
    "wrong split": (moved("test/3/test_", "test/3/train_"), ("is called train_ but lies in a folder test",)),
    "no prefix": (moved("test/3/test_", "test/3/"), ("starts with neither train_ nor test_",)),
    "table says otherwise": (
        table("train", lambda text: text.replace(b"00003_aligned.jpg,3", b"00003_aligned.jpg,4")),
        ("train_labels.csv, line 4", "says 4, but the image is", f"train/3/{RIGHT}"),
    ),
    "table's label": (
        table("test", lambda text: text.replace(b"00003_aligned.jpg,3", b"00003_aligned.jpg,0")),
        ("test_labels.csv, line 4", "label is '0'"),
    ),
    "line missing": (
        table("train", lambda text: text.replace(b"train_00003_aligned.jpg,3\n", b"")),
        (f"train/3/{RIGHT}: has no line in", "train_labels.csv"),
    ),
    "image missing": (
        lambda files: {n: d for n, d in files.items() if RIGHT not in n},
        ("train_labels.csv, line 4", "no image"),
    ),
    "line twice": (
        table("train", lambda text: text + b"train_00003_aligned.jpg,3\n"),
        ("train_labels.csv, line 11", "there twice", "line 4"),
    ),
    "image twice": (
        lambda files: files | {f"train/4/{RIGHT}": jpeg()},
        (f"train/4/{RIGHT}: has the number of", f"train/3/{RIGHT}"),
    ),
}


@pytest.mark.parametrize("name", KAGGLE_FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_faults_in_the_folders(name: str, packed: bool, tmp_path: Path, root: Path) -> None:
    change, parts = KAGGLE_FAULTS[name]
    files = dict(sorted(change(kaggle(tables=True)).items()))
    source = tarred(tmp_path / "raf.tgz", files) if packed else written(tmp_path / "raf", files)
    assert_refused(source, root, str(source), *parts)


def test_paths_that_are_no_data_set(tmp_path: Path, root: Path) -> None:
    assert_refused(tmp_path / "nowhere", root, "nowhere: does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", root, "holds no RAF-DB", LIST, "test/1 to test/7")
    fer = written(tmp_path / "fer", {"train/happy/Training_1.jpg": jpeg()})
    assert_refused(fer, root, "train/happy/Training_1.jpg", "label is 'happy'", "4 happiness")
    both = written(tmp_path / "both", below("a", official()) | below("b", kaggle()))
    assert_refused(both, root, "more than one data set", f"a/{LIST}", "b/train, b/test", "the path of one")
    twice = written(tmp_path / "twice", below("a", official()) | below("b", official()))
    assert_refused(twice, root, "more than one data set", f"a/{LIST}", f"b/{LIST}")
    compound = written(tmp_path / "compound", {**official(), LIST: b"train_00001.jpg 1\ntest_00001.jpg 11\n"})
    assert_refused(compound, root, LIST, "line 2", "label is '11'")
    inner = written(tmp_path / "inner", {"RAF-DB.zip": b""})
    assert_refused(inner, root, "holds the archive RAF-DB.zip; unpack it and give its path")
    image = tmp_path / "me.jpg"
    image.write_bytes(jpeg())
    assert_refused(image, root, "me.jpg", "holds no RAF-DB")


def test_archives_that_are_damaged(tmp_path: Path, root: Path) -> None:
    whole = with_zip({n: d for n, d in official().items() if n == LIST or ALIGNED in n})
    inner = whole["Image/aligned.zip"]
    for content in (b"", b"<html>Sign in</html>", inner[:-100], inner[: len(inner) // 2]):
        source = written(tmp_path / "raf", whole | {"Image/aligned.zip": content})
        assert_refused(source, root, "Image/aligned.zip: is damaged or cut short")
    spoilt = bytearray(inner)
    spoilt[inner.index(b"\xff\xd8") + 2000] ^= 255
    source = written(tmp_path / "raf", whole | {"Image/aligned.zip": bytes(spoilt)})
    assert_refused(source, root, "Image/aligned.zip, member aligned/", "is damaged")
    for name in ("../x.jpg", "/x.jpg"):
        evil = written(tmp_path / "evil", whole | {"Image/aligned.zip": zip_bytes({name: b""})})
        assert_refused(evil, root, "Image/aligned.zip", "leads out of the archive")
    for packed in (zipped(tmp_path / "a.zip", whole), tarred(tmp_path / "a.tar.gz", whole)):
        packed.write_bytes(packed.read_bytes()[:-100])
        assert_refused(packed, root, packed.name, "is damaged or cut short")


def test_an_inner_zip_of_absurd_size(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER", 1000)
    source = written(tmp_path / "raf", with_zip(official()))
    assert_refused(source, root, "Image/aligned.zip: has", "more than 1,000")


def test_the_command_line(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sto_lite.__main__ import main

    monkeypatch.setenv("STO_DATA", str(root))
    source = written(tmp_path / "raf", last_line(b"train_00050.jpg 9\n")(official()))
    assert main(["prepare", "rafdb", "--from", str(source)]) == 2
    output = capsys.readouterr()
    assert "line 17: the label is '9'" in output.err and output.err.count("\n") == 1 and not output.out
    assert main(["prepare", "rafdb", "--download"]) == 2
    assert "RAF-DB is not free to download" in capsys.readouterr().err
    assert not root.exists()
    (source / LIST).write_bytes(official()[LIST])
    assert main(["prepare", "rafdb", "--from", str(source)]) == 0
    assert f"prepared: {root / 'rafdb.npz'}" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_an_image_that_may_not_be_read(tmp_path: Path, root: Path) -> None:
    source = written(tmp_path / "raf", official())
    (source / ALIGNED / RIGHT).chmod(0)
    assert_refused(source, root, RIGHT, "Permission denied")
