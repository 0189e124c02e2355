"""The layouts in which people have FER-2013 -> arrays, every row and every image checked (chapter 1).

Arrays are {train,public,private}_images, uint8 (N,48,48), and _labels, uint8 (N,). Every fault is one
DataError with the file, the archive's member and the line.
"""

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sto_lite.errors import DataError, shown
from sto_lite.intake import archives
from sto_lite.intake.archives import Member
from sto_lite.intake.layouts import (
    IMAGE_SUFFIXES,
    Arrays,
    decoded,
    more_than_one,
    nothing_found,
    refuse_twice,
)
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
SUFFIXES: tuple[str, ...] = (".csv", *IMAGE_SUFFIXES)  # of the files that count
_CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # the same data under two headers; the first is preferred
_NO_USAGE = ("train.csv", "test.csv", "example_submission.csv")  # of Kaggle's page, without the tests' labels
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
_MAX_CSV, _MAX_LINE = 1 << 30, 1 << 16  # bytes
_WANTED = "fer2013.csv, icml_face_data.csv, a zip or tar of it, or the folders train/<class> and test/<class>"


def read(source: Path, members: list[Member]) -> tuple[Arrays, list[str]]:
    """Find the one data set among the members of `source` and read it: arrays, and lines for the report.

    Raises DataError when there is none, more than one, or a fault in it.
    """
    if len(members) == 1 and source.is_file() and members[0].name == source.name:
        return _read_csv(members[0])
    where = shown(source)
    by_name: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        if member.name.lower().endswith(".csv"):
            by_name[member.name.rpartition("/")[2].lower()].append(member)
    places = _places(members)
    preferred = next((by_name[name] for name in _CSV_NAMES if name in by_name), [])
    others = [m for name, found in by_name.items() if name not in (*_CSV_NAMES, *_NO_USAGE) for m in found]
    tables = preferred or ([] if places else others)
    homes = {place.home for place in places if place.label.strip().lower() in _LABELS}
    if len(tables) + len(homes) > 1:
        names = [m.name for m in tables] + [f"{home}train, {home}test" for home in sorted(homes)]
        raise more_than_one(where, names)
    if tables:
        arrays, notices = _read_csv(tables[0])
        if all(name in by_name for name in _CSV_NAMES):
            notices.append(
                f"notice: took {tables[0].where}; not icml_face_data.csv, published as the same data"
            )
        return arrays, notices
    if places:
        return _read_folders(places, where)
    if by_name:
        raise DataError(
            f"{where}: holds only {shown(', '.join(by_name))}, which lack the test images' labels; "
            f"take fer2013.csv or icml_face_data.csv, which have the column Usage"
        )
    if any(m.name.endswith(".npy") for m in members):
        raise DataError(f"{where}: holds arrays, not the published data; give {_WANTED}")
    raise nothing_found(where, members, "FER-2013", _WANTED)


# ---- the CSV


class _Lines:
    """A member's lines as text, of bounded length; `md5` of its bytes; `cut`: the last had no line end."""

    def __init__(self, member: Member) -> None:
        self.member, self.md5, self.cut = member, hashlib.md5(usedforsecurity=False), False

    def __iter__(self) -> Iterator[str]:
        number = 0
        with self.member.open(_MAX_CSV) as stream, archives.told(self.member.where):
            while line := stream.readline(_MAX_LINE):
                number += 1
                if len(line) == _MAX_LINE:
                    what = f"is longer than {_MAX_LINE:,} bytes, so this is no FER-2013; give {_WANTED}"
                    raise DataError(f"{self.member.where}, line {number}: {what}")
                self.md5.update(line)
                self.cut = not line.endswith(b"\n")
                yield line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8", "replace")


def _read_csv(member: Member) -> tuple[Arrays, list[str]]:
    lines = _Lines(member)
    reader = csv.reader(lines)
    pixels = {split: bytearray() for split in SPLITS}
    labels = {split: bytearray() for split in SPLITS}

    def fault(what: str) -> DataError:
        cut = "; the file ends in this line, so it seems cut short: copy it again" if lines.cut else ""
        return DataError(f"{member.where}, line {reader.line_num}: {what}{cut}")

    try:
        header = next(reader, None)
        if header is None:
            raise DataError(f"{member.where}: is empty; copy or download it again")
        emotion, image, usage = _columns(header, member.where)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise fault(f"has {len(row)} columns, the first line has {len(header)}")
            split = USAGES.get(row[usage].strip())
            if split is None:
                raise fault(f"Usage is '{shown(row[usage], 40)}', not one of {', '.join(USAGES)}")
            label = row[emotion].strip()
            if label not in ("0", "1", "2", "3", "4", "5", "6"):
                raise fault(f"emotion is '{shown(label, 40)}', not a whole number from 0 to 6")
            values = _pixels(row[image])
            if isinstance(values, str):
                raise fault(values)
            pixels[split] += values
            labels[split].append(int(label))
    except csv.Error as error:
        raise fault(f"is no line of a CSV file ({error})") from error
    if not any(labels.values()):
        raise DataError(f"{member.where}: has a first line with the columns' names, but no images")
    md5 = lines.md5.hexdigest()
    known = (
        f"as published ({KNOWN_MD5[md5]})"
        if md5 in KNOWN_MD5
        else "not known; that is no fault, copies differ"
    )
    arrays = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = np.frombuffer(pixels[split], np.uint8).reshape(-1, SIDE, SIDE)
        arrays[f"{split}_labels"] = np.frombuffer(labels[split], np.uint8)
    return arrays, [f"checksum (md5) {md5}: {known}"]


def _columns(header: list[str], where: str) -> tuple[int, int, int]:
    """Where emotion, pixels and Usage stand; the published files write them with spaces and in two orders."""
    names = [name.strip().lower() for name in header]
    for name in ("emotion", "pixels", "usage"):
        if names.count(name) == 1:
            continue
        what = "has no column" if name not in names else "has more than one column"
        hint = f"give {_WANTED}"
        if "pixels" in names:
            hint = (
                "this looks like train.csv or test.csv of Kaggle's page: take fer2013.csv or "
                "icml_face_data.csv, which have the labels and the Usage of all images"
            )
        found = shown(", ".join(header), 80)
        raise DataError(
            f"{where}, line 1: {what} '{name.replace('usage', 'Usage')}' (it reads: {found}); {hint}"
        )
    return names.index("emotion"), names.index("pixels"), names.index("usage")


def _pixels(text: str) -> bytes | str:
    """2,304 grey values as bytes; or, for what they are not, a text that says what is wrong."""
    count = SIDE * SIDE
    raw = text.encode("utf-8", "replace")
    if len(raw) >= 2 * count - 1 and not raw.translate(None, b"0123456789 "):
        values = np.fromstring(text, np.int64, sep=" ")  # fast, and strict for digits and spaces
        if len(values) == count and values.max() <= 255:
            return values.astype(np.uint8).tobytes()
    words = text.split()
    for position, word in enumerate(words, start=1):
        if not re.fullmatch("0*[0-9]{1,3}", word, re.ASCII) or int(word[-3:]) > 255:
            return f"pixel {position:,} is '{shown(word, 40)}', not a whole number from 0 to 255"
    if len(words) != count:
        return f"has {len(words):,} pixels, not {count:,} ({SIDE} x {SIDE})"
    return bytes(int(word[-3:]) for word in words)


# ---- the folders of images


@dataclass(frozen=True)
class _Place:
    """An image at `home` + split folder / class folder / file; `label` is the class folder, or empty."""

    member: Member
    home: str
    split: str
    label: str

    @property
    def order(self) -> tuple[int, str, str]:
        """By the last number in the file's name, then by name: the same on every file system."""
        stem = self.member.name.rpartition("/")[2].rpartition(".")[0]
        digits = (re.findall("[0-9]+", stem) or [""])[-1].lstrip("0")
        return len(digits), digits, self.member.name


def _places(members: list[Member]) -> list[_Place]:
    places = []
    for member in members:
        *home, split, label, file = ["", "", *member.name.split("/")]
        folder = _FOLDERS.get(re.sub("[-_ ]", "", split.lower()))
        if not file.lower().endswith(IMAGE_SUFFIXES):
            continue
        if folder is not None:
            places.append(_Place(member, "".join(f"{part}/" for part in home if part), folder, label))
        elif label.lower() in _FOLDERS:
            places.append(_Place(member, "", _FOLDERS[label.lower()], ""))
    return places


def _read_folders(places: list[_Place], where: str) -> tuple[Arrays, list[str]]:
    found: dict[str, list[tuple[tuple[int, str, str], bytes, int]]] = {split: [] for split in SPLITS}
    refuse_twice(where, (place.member for place in places))
    for place in places:  # check all names before the first image is read
        _split(place)
        _label(place)
    for place in places:
        found[_split(place)].append((place.order, decoded(place.member, SIDE, _grey), _label(place)))
    arrays = {}
    for split, images in found.items():
        images.sort()
        grey = np.frombuffer(b"".join(image for _, image, _ in images), np.uint8)
        arrays[f"{split}_images"] = grey.reshape(-1, SIDE, SIDE)
        arrays[f"{split}_labels"] = np.array([label for _, _, label in images], np.uint8)
    return arrays, ["images from folders: those saved as JPEG differ a little from the CSV's pixels"]


def _split(place: _Place) -> str:
    """The split, by the file's prefix or by a folder that names it; never guessed."""
    file = place.member.name.rpartition("/")[2]
    named = _PREFIXES.get(file.split("_")[0].lower())
    if named is None and place.split in SPLITS:
        return place.split
    if named is None:
        raise DataError(
            f"{place.member.where}: neither its name (PublicTest_*, PrivateTest_*) nor its folder tells "
            f"whether it is of the public or the private test set, and a guess would mislabel both; take a "
            f"copy with such names, one with the folders train, PublicTest and PrivateTest, or fer2013.csv"
        )
    if place.split not in ((named,) if named == "train" else (named, "test", "validation")):
        raise DataError(
            f"{place.member.where}: is called {file.split('_')[0]} but lies in a folder of {place.split}"
        )
    return named


def _label(place: _Place) -> int:
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
