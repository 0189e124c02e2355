"""prepare NAME --folder: one's own pictures become a set that every command takes."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import sto_lite
from sto_lite import data
from sto_lite.__main__ import main
from sto_lite.errors import DataError
from sto_lite.intake.own import Own
from tests import packing as p

CLASSES = ("cat", "dog", "zebra")
PERSONS = ("ann", "bob", "cy", "dan")


def pictures(mode="L", size=(20, 20), persons=PERSONS, classes=CLASSES, kind="png"):
    """A picture of each class for each person; every one differs."""
    files, shape = {}, size[::-1] if mode == "L" else (*size[::-1], 3)
    for i, label in enumerate(classes):
        for j, person in enumerate(persons):
            pixels = np.random.default_rng(10 * i + j).integers(0, 256, shape, dtype=np.uint8)
            files[f"{label}/{person}_{i}.{kind}"] = p.encoded(pixels, kind.upper())
    return files


SPLIT = {
    f"{split}/{name}": d
    for split, n in (("train", 3), ("test", 1))
    for name, d in pictures(persons="abc"[:n]).items()
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("STO_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def pixels(file):
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_folders_of_splits_are_kept_to_the_last_bit(mode, kind, tmp_path, root):
    files = {f"{split}/{name}": d for split in ("Train", "val", "test") for name, d in pictures(mode).items()}
    source = p.packed(
        kind, tmp_path / "a", p.shuffled(p.below("deep/er", files) | {"deep/notes.txt": b"x", "._y.png": b""})
    )
    said = []
    found = p.prepared("mine", source, root, own=Own(), report=said.append)
    keys = [f"{s}_{k}" for s in ("train", "valid", "test") for k in ("images", "labels")]
    assert list(found) == [*keys, "classes"]
    expected = np.stack([pixels(d) for _, d in sorted(pictures(mode).items())])
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(found[f"{split}_images"], expected)
        assert found[f"{split}_labels"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert tuple(found["classes"]) == CLASSES
    assert f"pictures of 20 x 20 pixels, {'grey' if mode == 'L' else 'in colour'}\n" in said[0]
    assert "notice: 1 files that are no pictures were not read, such as deep/notes.txt" in said[0]
    assert "12 valid, 12 test; test images in valid: 12" in said[0]  # the audit
    p.run("mine", source, root, said.append, own=Own())
    p.run("mine", source, root, said.append, own=Own(pixels=10))
    assert "not read again" in said[1] and "pictures of 10 x 10 pixels" in said[2]


def test_a_folder_of_classes_is_split_by_a_seed(tmp_path, root):
    source = p.written(tmp_path / "a", pictures())
    draws = [p.prepared("mine", source, root, own=Own(seed=seed)) for seed in (0, 0, 1, 2)]
    p.same(draws[0], draws[1])
    assert len({draw["test_images"].tobytes() for draw in draws}) > 1
    for draw in draws:
        assert draw["test_labels"].tolist() == [0, 1, 2] and len(draw["train_labels"]) == 9
        together = np.concatenate([draw["train_images"], draw["test_images"]])
        assert {image.tobytes() for image in together} == {pixels(d).tobytes() for d in pictures().values()}
    few = p.prepared("mine", source, root, own=Own(test=0.1))["test_labels"]
    assert few.tolist() == [0, 1, 2], "every class is tested"
    assert p.prepared("mine", source, root, own=Own(test=0.5))["test_labels"].tolist() == [0, 0, 1, 1, 2, 2]


def test_nobody_is_in_both_splits(tmp_path, root):
    source, said = p.written(tmp_path / "a", pictures()), []
    found = p.prepared("mine", source, root, own=Own(person="^([a-z]+)_", test=0.5), report=said.append)
    assert "split by seed 0: a share of 0.5 of 4 persons, 2 of whom are tested on" in said[0]
    person = {pixels(d).tobytes(): name.split("/")[1][:2] for name, d in pictures().items()}
    who = {s: {person[image.tobytes()] for image in found[f"{s}_images"]} for s in ("train", "test")}
    assert len(who["train"]) == len(who["test"]) == 2 and not who["train"] & who["test"]
    p.run("mine", p.written(tmp_path / "b", SPLIT), root, said.append, own=Own(person="^(.)"))
    assert "notice: 1 persons stand in train and in test (a)" in said[1]


def test_pictures_of_many_kinds_become_alike(tmp_path, root):
    """Turned as EXIF says, on white, the middle square, resized; grey ones among coloured ones are repeated."""
    turned, clear = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    half = Image.new("RGB", (30, 20))
    half.paste((255, 0, 0), (0, 0, 15, 20))
    half.save(turned, "PNG", exif=exif)
    Image.new("RGBA", (20, 20), (9, 9, 9, 0)).save(clear, "WEBP", lossless=True)
    files = pictures() | {"cat/z_turned.png": turned.getvalue(), "cat/z_white.webp": clear.getvalue()}
    files = {f"{split}/{name}": d for split in ("train", "test") for name, d in files.items()}
    said = []
    found = p.prepared("mine", p.written(tmp_path / "a", files), root, own=Own(), report=said.append)
    assert "in colour; of 2 of 28, in another size" in said[0]
    assert "notice: 24 grey pictures among coloured ones" in said[0]
    assert found["train_images"].shape == (14, 20, 20, 3) and (found["train_images"][5] == 255).all()
    assert (found["train_images"][4][:9] == (255, 0, 0)).all() and not found["train_images"][4][11:].any()


# fmt: off
FAULTS = {
    "nothing": ({"notes.txt": b""}, {}, "holds no pictures; give a folder, zip or tar with train/CLASS/PICTURE"),
    "in no class": (pictures() | {"x.png": p.image()}, {}, "x.png: lies in no folder of a class"),
    "in no split": (SPLIT | {"cat/x.png": p.image()}, {}, "x.png: lies in no folder of a class"),
    "in two heights": (pictures() | {"cat/more/x.png": p.image()}, {}, "classes in several folders (/, cat/)"),
    "one class": (pictures(classes=["cat"]), {}, "has 1 classes (cat), not 2 to 256"),
    "too many": (pictures(classes=map(str, range(300)), persons="ab"), {}, "has 300 classes (0, 1, 10"),
    "one picture": (pictures() | {"ape/x.png": p.image()}, {}, "has 1 pictures in the class 'ape', and a split"),
    "no test": (p.without(SPLIT, "test"), {}, "holds no test pictures"),
    "an unknown class": (SPLIT | {"test/ape/x.png": p.image()}, {},
        "x.png: its class 'ape' has no training picture"),
    "a split twice": (SPLIT, {"seed": 3}, "has folders train and test, so --test and --seed have nothing to draw"),
    "no person": (pictures() | {"cat/7.png": p.image()}, {"person": "^([a-z]+)_"},
        "7.png: its name tells no person"),
    "one person": (pictures(persons=["ann"]), {"person": "^([a-z]+)_"}, "has 1 persons, and a split needs two"),
    "a class of one": ({"cat/a_1.png": p.image(), "cat/b_1.png": p.image(), "dog/a_1.png": p.image(), "dog/c.png":
        p.image()}, {"person": "^(.)", "test": 0.6, "seed": 4}, "training picture"),
    "damaged": (pictures() | {"cat/x.png": p.image()[:-30]}, {}, "x.png: cannot be decoded"),
    "text": (pictures() | {"cat/x.jpg": b"<html>"}, {}, "x.jpg: cannot be decoded (no JPEG, PNG, BMP, GIF, WEBP"),
    "16 bits": (pictures() | {"cat/x.png": p.image(mode="I;16")}, {}, "x.png has more than 8 bits a channel"),
}
# fmt: on


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name, tmp_path, root):
    files, settings, part = FAULTS[name]
    for kind in ("folder", "zip"):
        source = p.packed(kind, tmp_path / "a", dict(sorted(files.items())))
        p.refused("mine", source, root, str(source), part, own=Own(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"person": "("}, "no regular expression"), ({"person": "a"}, "one group"), ({"pixels": 0}, "1 to 1,024"),
     ({"test": 1.0}, "between 0 and 1"), ({"test": 0.0}, "between 0 and 1")],
)  # fmt: skip
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Own(**settings)


def test_from_a_folder_to_predictions(tmp_path, root, capsys, monkeypatch):
    """prepare, train for an epoch, run an experiment, predict, card and plot, by the command line alone."""
    source, out = p.written(tmp_path / "a", pictures("RGB")), tmp_path / "runs"
    words = ["--data", "mine", "--size", "16", "--epochs", "1", "--net", "resnet8"]
    assert main(["train", *words]) == 2
    told = capsys.readouterr().err
    assert "no image set is called 'mine' here" in told and "--folder PATH" in told
    assert main(["prepare", "mine", "--folder", str(source), "--person", "^([a-z]+)_"]) == 0
    assert f"prepared: {root / 'mine.npz'}" in capsys.readouterr().out
    assert main(["train", *words, "--method", "baseline", "--batch-size", "4", "--out", str(out / "a")]) == 0
    record = json.loads((out / "a" / "record.json").read_text())
    assert record["data"]["name"] == "mine" and record["data"]["counts"] == {"train": 9, "test": 3}
    capsys.readouterr()
    assert main(["predict", str(out / "a"), str(source / "dog" / "ann_1.png")]) == 0
    assert any(label in capsys.readouterr().out for label in CLASSES)
    assert sto_lite.load(out / "a").classes == CLASSES
    assert main(["card", str(out / "a")]) == 0
    card = capsys.readouterr().out
    assert "# Model card: resnet8 by baseline on mine" in card
    assert "cat, dog, zebra" in card and "not known" in card
    assert main(["run", "detach", *words, "--batch-size", "4", "--out", str(out / "b"), "--dry-run"]) == 0
    assert "--data mine" in capsys.readouterr().out


def test_a_prepared_file_of_another_form(tmp_path, root):
    p.prepared("mine", p.written(tmp_path / "a", SPLIT), root, own=Own())
    with np.load(root / "mine.npz") as file:
        arrays = dict(file)
    assert data.load("mine", 20).splits["train"].images.shape == (9, 1, 20, 20)
    for change, message in (
        ({"train_images": arrays["train_images"][:, :9]}, "train_images are uint8"),
        ({"test_labels": arrays["test_labels"] + 9}, "labels hold 11, but there are 3 classes"),
        ({"classes": arrays["classes"][:2]}, "labels hold 2, but there are 2 classes"),
    ):
        np.savez(root / "mine.npz", **arrays | change)
        with pytest.raises(DataError, match=f"mine.npz is damaged .*{message}.*prepare mine again"):
            data.load("mine")
