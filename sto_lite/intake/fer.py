"""The layouts in which people have FER-2013 -> arrays, every row and every image checked (chapter 1).

Arrays are {train,public,private}_images, uint8 (N,48,48), and _labels, uint8 (N,). A table also gives `usage`, the
place of each row's split in SPLITS, uint8 (rows,), by which FER+'s votes are joined.
"""

import re

import numpy as np
from PIL import Image

from sto_lite.errors import DataError, shown
from sto_lite.intake.layouts import Found, Place, more_than_one, nothing_found, places, refuse_twice, stacked
from sto_lite.intake.members import Member
from sto_lite.intake.tables import Table
from sto_lite.sets import FER2013

CLASSES = FER2013.classes  # labels 0..6
SPLITS = FER2013.splits
USAGES = dict(zip(FER2013.called, SPLITS, strict=True))
SIDE = FER2013.shape[0]  # pixels
# As torchvision publishes them (torchvision/datasets/fer2013.py).
KNOWN_MD5 = {
    "f8428a1edbd21e88f42c73edd2a14f95": "fer2013.csv",
    "b114b9e04e6949e5fe8b6a98b3892b1d": "icml_face_data.csv",
}
_CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # the same data under two headers; the first is preferred
_NO_USAGE = ("train.csv", "test.csv", "example_submission.csv")  # of Kaggle's page, without the tests' labels
_PLUS = ("fer2013new.csv", "label.csv")  # of FER+, which has other labels
_LABELS = {name: label for label, name in enumerate(CLASSES)} | {str(label): label for label in range(7)}
_LABELS |= {
    "anger": 0,
    "disgusted": 1,
    "fearful": 2,
    "afraid": 2,
    "happiness": 3,
    "sadness": 4,
    "surprised": 5,
}
_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_FOLDERS |= {"public": "public", "publictest": "public", "private": "private", "privatetest": "private"}
_FOLDERS |= dict.fromkeys(("val", "valid", "validation"), "validation")
_PREFIXES = {usage.lower(): split for usage, split in USAGES.items()}
_MAX_CSV = 1 << 30  # bytes
_WANTED = "fer2013.csv, icml_face_data.csv, a zip or tar of it, or the folders train/<class> and test/<class>"


def read(where: str, members: list[Member]) -> Found:
    """Find the one data set among the members of `where` and read it: arrays, and lines for the report.

    Raises DataError when there is none, more than one, or a fault in it.
    """
    if len(members) == 1 and members[0].where == where:
        return _read_csv(members[0])
    tables = [m for m in members if m.file.endswith(".csv")]
    images = places(members, lambda name: bool(_folder(name)))
    preferred = [[m for m in tables if m.file == name] for name in _CSV_NAMES]
    others = [m for m in tables if m.file not in (*_NO_USAGE, *_PLUS)]
    chosen = preferred[0] or preferred[1] or ([] if images else others)
    homes = {place.home for place in images if place.label.strip().lower() in _LABELS}
    if len(chosen) + len(homes) > 1:
        folders = [f"{home}train, {home}test" for home in sorted(homes)]
        raise more_than_one(where, [*(m.name for m in chosen), *folders])
    if chosen:
        arrays, notices = _read_csv(chosen[0])
        if all(preferred):
            told = "not icml_face_data.csv, published as the same data"
            notices.append(f"notice: took {chosen[0].where}; {told}")
        return arrays, notices
    if images:
        return _read_folders(images, where)
    if any(re.search("fer2013(train|valid|test)/", m.name.lower()) or m.file in _PLUS for m in members):
        raise DataError(
            f"{where}: holds FER+, whose votes are not the labels of FER-2013; give fer2013.csv here, and FER+'s "
            f"fer2013new.csv as --votes"
        )
    if tables:
        names = shown(", ".join(m.file for m in tables))
        raise DataError(
            f"{where}: holds only {names}, which lack the test images' labels; "
            f"take fer2013.csv or icml_face_data.csv, which have the column Usage"
        )
    raise nothing_found(where, members, "FER-2013", _WANTED)


# ---- the CSV


def _read_csv(member: Member) -> Found:
    table = Table(member, _MAX_CSV)
    pixels = {split: bytearray() for split in SPLITS}
    labels = {split: bytearray() for split in SPLITS}
    usage = bytearray()
    columns: list[int] = []
    for line, row in table:
        if not columns:
            columns = _columns(row, line, member.where)
            continue
        label, text, called = (row[column] for column in columns)
        if called not in USAGES:
            raise table.fault(line, f"Usage is '{shown(called, 40)}', not one of {', '.join(USAGES)}")
        if label not in ("0", "1", "2", "3", "4", "5", "6"):
            raise table.fault(line, f"emotion is '{shown(label, 40)}', not a whole number from 0 to 6")
        values = _pixels(text)
        if isinstance(values, str):
            raise table.fault(line, values)
        split = USAGES[called]
        pixels[split] += values
        labels[split].append(int(label))
        usage.append(SPLITS.index(split))
    if not usage:
        raise DataError(f"{member.where}: has no images below the first line; copy or download it again")
    md5 = table.md5.hexdigest()
    known = (
        f"as published ({KNOWN_MD5[md5]})"
        if md5 in KNOWN_MD5
        else "not known; that is no fault, copies differ"
    )
    arrays = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = np.frombuffer(pixels[split], np.uint8).reshape(-1, SIDE, SIDE)
        arrays[f"{split}_labels"] = np.frombuffer(labels[split], np.uint8)
    return arrays | {"usage": np.frombuffer(usage, np.uint8)}, [f"checksum (md5) {md5}: {known}"]


def _columns(header: list[str], line: int, where: str) -> list[int]:
    """Where emotion, pixels and Usage stand; the published files write them with spaces and in two orders."""
    names = [name.strip().lower() for name in header]
    for name in ("emotion", "pixels", "usage"):
        if names.count(name) == 1:
            continue
        what = "has no column" if name not in names else "has more than one column"
        hint = f"give {_WANTED}"
        if {"usage", "neutral", "nf"} <= set(names):
            hint = "these are FER+'s votes: give fer2013.csv here, and this file as --votes"
        elif "pixels" in names:
            hint = (
                "this looks like train.csv or test.csv of Kaggle's page: take fer2013.csv or "
                "icml_face_data.csv, which have the labels and the Usage of all images"
            )
        called, found = name.replace("usage", "Usage"), shown(", ".join(header), 80)
        raise DataError(f"{where}, line {line}: {what} '{called}' (it reads: {found}); {hint}")
    return [names.index(name) for name in ("emotion", "pixels", "usage")]


def _pixels(text: str) -> bytes | str:
    """2,304 grey values as bytes; or, for what they are not, a text that says what is wrong."""
    count = SIDE * SIDE
    if text and not text.encode("utf-8", "replace").translate(None, b"0123456789 \t"):
        values = np.fromstring(text, np.int64, sep=" ")  # fast; a number of many digits becomes the largest
        if len(values) == count and values.max() <= 255:
            return values.astype(np.uint8).tobytes()
    words = text.split()
    for position, word in enumerate(words, start=1):
        if not re.fullmatch("0*[0-9]{1,3}", word, re.ASCII) or int(word[-3:]) > 255:
            return f"pixel {position:,} is '{shown(word, 40)}', not a whole number from 0 to 255"
    return f"has {len(words):,} pixels, not {count:,} ({SIDE} x {SIDE})"


# ---- the folders of images


def _folder(name: str) -> str:
    return _FOLDERS.get(re.sub("[-_ ]", "", name), "")


def _read_folders(found: list[Place], where: str) -> Found:
    refuse_twice(where, (place.member for place in found))
    images = {(_split(p), _order(p.member)): (_label(p), p.member) for p in found}  # before any is read
    notice = "images from folders: those saved as JPEG differ a little from the CSV's pixels"
    return stacked(images, FER2013, _grey), [notice]


def _order(member: Member) -> tuple[int, str, str]:
    """By the last number in the file's name, then by name: the same on every file system."""
    digits = (re.findall("[0-9]+", member.file.rpartition(".")[0]) or [""])[-1].lstrip("0")
    return len(digits), digits, member.name


def _split(place: Place) -> str:
    """The split, by the file's prefix or by a folder that names it; never guessed."""
    prefix = place.member.name.rpartition("/")[2].split("_")[0]
    named, folder = _PREFIXES.get(prefix.lower()), _folder(place.split)
    if named is None and folder in SPLITS:
        return folder
    if named is None:
        raise DataError(
            f"{place.member.where}: neither its name (PublicTest_*, PrivateTest_*) nor its folder tells "
            f"whether it is of the public or the private test set, and a guess would mislabel both; take a "
            f"copy with such names, one with the folders train, PublicTest and PrivateTest, or fer2013.csv"
        )
    if folder not in ((named,) if named == "train" else (named, "test", "validation")):
        raise DataError(f"{place.member.where}: is called {prefix} but lies in a folder of {folder}")
    return named


def _label(place: Place) -> int:
    if not place.label:
        raise DataError(f"{place.member.where}: lies in no folder of a class ({', '.join(CLASSES)})")
    label = _LABELS.get(place.label.strip().lower())
    if label is None:
        raise DataError(
            f"{place.member.where}: '{shown(place.label, 40)}' is no class of FER-2013; "
            f"the folders are called {', '.join(CLASSES)}"
        )
    return label


def _grey(image: Image.Image) -> bytes | str:
    """The 2,304 bytes of a 48x48 image. A coloured file is taken when its three channels are equal."""
    if image.mode == "L":
        return image.tobytes()
    if image.mode not in ("1", "P", "LA", "RGB", "RGBA"):
        return f"is no 8-bit grey image (its mode is {image.mode})"
    rgb = np.asarray(image.convert("RGB"))
    return "is in colour; FER-2013 is grey" if (rgb != rgb[..., :1]).any() else rgb[..., 0].tobytes()
