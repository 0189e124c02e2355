"""The layouts in which people have FER-2013 -> arrays, every row and every image checked (chapter 1).

Arrays are {train,public,private}_images, uint8 (N,48,48), and _labels, uint8 (N,). A table also gives `usage`, the
place of each row's split in FER2013.splits, uint8 (rows,), by which FER+'s votes are joined.
"""

import re

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake import pictures
from sto_lite.intake.members import Member
from sto_lite.intake.pictures import Found, Place
from sto_lite.intake.tables import TextTable
from sto_lite.sets import FER2013

USAGES = dict(zip(FER2013.called, FER2013.splits, strict=True))
# As torchvision publishes them (torchvision/datasets/fer2013.py).
KNOWN_MD5 = {
    "f8428a1edbd21e88f42c73edd2a14f95": "fer2013.csv",
    "b114b9e04e6949e5fe8b6a98b3892b1d": "icml_face_data.csv",
}
_CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # the same data under two headers; the first is preferred
_NO_USAGE = ("train.csv", "test.csv", "example_submission.csv")  # of Kaggle's page, without the tests' labels
_PLUS = ("fer2013new.csv", "label.csv")  # of FER+, which has other labels
_CALLED = "angry anger 0, disgust disgusted 1, fear fearful afraid 2, happy happiness 3, sad sadness 4, "
_CALLED += "surprise surprised 5, neutral 6"
LABELS = {name: label for label, names in enumerate(_CALLED.split(", ")) for name in names.split()}
_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_FOLDERS |= {"public": "public", "publictest": "public", "private": "private", "privatetest": "private"}
_FOLDERS |= dict.fromkeys(("val", "valid", "validation"), "validation")
_PREFIXES = {usage.lower(): split for usage, split in USAGES.items()}
_MAX_CSV = 1 << 30  # bytes
_WANTED = "fer2013.csv, icml_face_data.csv, a zip or tar of it, or the folders train/<class> and test/<class>"
_BOTH = "give fer2013.csv here, and FER+'s fer2013new.csv as --votes"


def read(where: str, members: list[Member]) -> Found:
    """Find the one data set among the members of `where` and read it: arrays, and lines for the report.

    Raises DataError when there is none, more than one, or a fault in it.
    """
    if len(members) == 1 and members[0].where == where:
        return _read_csv(members[0])
    tables = [m for m in members if m.file.endswith(".csv")]
    images = pictures.places(members, lambda name: bool(_folder(name)))
    preferred = [[m for m in tables if m.file == name] for name in _CSV_NAMES]
    others = [m for m in tables if m.file not in (*_NO_USAGE, *_PLUS)]
    chosen = preferred[0] or preferred[1] or ([] if images else others)
    homes = {place.home for place in images if place.label.strip().lower() in LABELS}
    pictures.refuse_several(where, chosen, homes)
    if chosen:
        arrays, notices = _read_csv(chosen[0])
        if all(preferred):
            told = "not icml_face_data.csv, published as the same data"
            notices.append(f"notice: took {chosen[0].where}; {told}")
        return arrays, notices
    if images:
        pictures.refuse_twice(where, (place.member for place in images))
        found = {(_split(p), _order(p.member)): (_label(p), p.member) for p in images}  # before any is read
        notice = "images from folders: those saved as JPEG differ a little from the CSV's pixels"
        return pictures.stacked(found, FER2013), [notice]
    if any(re.search("fer2013(train|valid|test)/", m.name.lower()) or m.file in _PLUS for m in members):
        raise DataError(f"{where}: holds FER+, whose votes are not the labels of FER-2013; {_BOTH}")
    if tables:
        names = shown(", ".join(m.file for m in tables))
        raise DataError(
            f"{where}: holds only {names}, which lack the test images' labels; "
            f"take fer2013.csv or icml_face_data.csv, which have the column Usage"
        )
    raise pictures.nothing_found(where, members, FER2013.title, _WANTED)


# ---- the CSV


def _read_csv(member: Member) -> Found:
    table = TextTable(member, _MAX_CSV)
    pixels = {split: bytearray() for split in FER2013.splits}
    labels = {split: bytearray() for split in FER2013.splits}
    usage = bytearray()
    for line, (label, text, called) in table.pick(("emotion", "pixels", "Usage"), _hint):
        if called not in USAGES:
            raise table.fault(line, f"Usage is '{shown(called, 40)}', not one of {', '.join(USAGES)}")
        if label not in tuple("0123456"):
            raise table.fault(line, f"emotion is '{shown(label, 40)}', not a whole number from 0 to 6")
        values = _pixels(text)
        if isinstance(values, str):
            raise table.fault(line, values)
        split = USAGES[called]
        pixels[split] += values
        labels[split].append(int(label))
        usage.append(FER2013.splits.index(split))
    if not usage:
        raise member.fault("has no images below the first line; copy or download it again")
    arrays = {}
    for split in FER2013.splits:
        arrays[f"{split}_images"] = np.frombuffer(pixels[split], np.uint8).reshape(-1, *FER2013.shape)
        arrays[f"{split}_labels"] = np.frombuffer(labels[split], np.uint8)
    known = KNOWN_MD5.get(table.md5)
    said = f"as published ({known})" if known else "not known; that is no fault, copies differ"
    return arrays | {"usage": np.frombuffer(usage, np.uint8)}, [f"checksum (md5) {table.md5}: {said}"]


def _hint(header: set[str]) -> str:
    if {"usage", "neutral", "nf"} <= header:
        return "these are FER+'s votes: give fer2013.csv here, and this file as --votes"
    if "pixels" not in header:
        return f"give {_WANTED}"
    return (
        "this looks like train.csv or test.csv of Kaggle's page: take fer2013.csv or icml_face_data.csv, which have "
        "the labels and the Usage of all images"
    )


def _pixels(text: str) -> bytes | str:
    """2,304 grey values as bytes; or, for what they are not, a text that says what is wrong."""
    side = FER2013.shape[0]
    if text and not text.encode("utf-8", "replace").translate(None, b"0123456789 \t"):
        values = np.fromstring(text, np.int64, sep=" ")  # fast; a number of many digits becomes the largest
        if len(values) == side**2 and values.max() <= 255:
            return values.astype(np.uint8).tobytes()
    words = text.split()
    for position, word in enumerate(words, start=1):
        if not re.fullmatch("0*[0-9]{1,3}", word, re.ASCII) or int(word[-3:]) > 255:
            return f"pixel {position:,} is '{shown(word, 40)}', not a whole number from 0 to 255"
    return f"has {len(words):,} pixels, not {side**2:,} ({side} x {side})"


# ---- the folders of images


def _folder(name: str) -> str:
    return _FOLDERS.get(re.sub("[-_ ]", "", name), "")


def _order(member: Member) -> tuple[int, str, str]:
    """By the last number in the file's name, then by name: the same on every file system."""
    digits = (re.findall("[0-9]+", member.file.rpartition(".")[0]) or [""])[-1].lstrip("0")
    return len(digits), digits, member.name


def _split(place: Place) -> str:
    """The split, by the file's prefix or by a folder that names it; never guessed."""
    prefix = place.member.name.rpartition("/")[2].split("_")[0]
    named, folder = _PREFIXES.get(prefix.lower()), _folder(place.split)
    if named is None and folder in FER2013.splits:
        return folder
    if named is None:
        raise place.member.fault(
            "neither its name (PublicTest_*, PrivateTest_*) nor its folder tells "
            "whether it is of the public or the private test set, and a guess would mislabel both; take a "
            "copy with such names, one with the folders train, PublicTest and PrivateTest, or fer2013.csv"
        )
    if folder not in ((named,) if named == "train" else (named, "test", "validation")):
        raise place.member.fault(f"is called {prefix} but lies in a folder of {folder}")
    return named


def _label(place: Place) -> int:
    names, called = ", ".join(FER2013.classes), place.label.strip().lower()
    if not place.label:
        raise place.member.fault(f"lies in no folder of a class ({names})")
    if called not in LABELS:
        wrong = f"'{shown(place.label, 40)}' is no class of FER-2013; the folders are called {names}"
        raise place.member.fault(wrong)
    return LABELS[called]
