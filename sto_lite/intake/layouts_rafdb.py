"""The layouts in which people have RAF-DB's basic expressions -> arrays, every image and line checked (chapter 1).

As its authors deliver it: EmoLabel/list_patition_label.txt (so spelt) with lines such as "train_00001.jpg 5", and
Image/aligned/train_00001_aligned.jpg, or the same in Image/aligned.zip. As copies at Kaggle have it:
train/5/train_00001_aligned.jpg, perhaps with train_labels.csv and test_labels.csv, which must then agree.
"""

import re
from contextlib import ExitStack
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
from sto_lite.sets import RAFDB

SUFFIXES: tuple[str, ...] = (".txt", ".csv", ".zip", *IMAGE_SUFFIXES)  # of the files that count
_SIDE = RAFDB.shape[0]
_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_TABLES = ("train_labels.csv", "test_labels.csv")
_MAX_LIST = 10 << 20  # bytes
_CLASSES = ", ".join(f"{n} {name}" for n, name in enumerate(RAFDB.classes, start=1))
_WANTED = (
    "the folder with EmoLabel/list_patition_label.txt and Image/aligned, the folders train/1 to train/7 and "
    "test/1 to test/7, or a zip or tar of either"
)

Key = tuple[str, int]  # split and number of an image: ("train", 1) of train_00001_aligned.jpg


@dataclass(frozen=True)
class _Label:
    """What is said of an image: label 0..6, and where it is said."""

    label: int
    where: str


def read(source: Path, members: list[Member]) -> tuple[Arrays, list[str]]:
    """Find the one data set among the members of `source` and read it: arrays, and lines for the report.

    Images come in the order of their numbers. Raises DataError when there is no data set, more than one, or a
    fault in it.
    """
    where = shown(source)
    refuse_twice(where, members)
    lists = [m for m in members if m.name.rpartition("/")[2].lower() in _LISTS]
    basic = [m for m in lists if "basic" in m.name.lower().split("/")]
    lists = basic if len(basic) == 1 else lists  # beside it is compound/, of other classes
    places = _places(members)
    homes = {place.home for place in places if place.label in _DIGITS}
    if len(lists) + len(homes) > 1:
        raise more_than_one(
            where, [m.name for m in lists] + [f"{home}train, {home}test" for home in sorted(homes)]
        )
    if lists:
        return _read_official(lists[0], members)
    if places:
        return _read_folders([p for p in places if not homes or p.home in homes], members)
    raise nothing_found(where, members, "RAF-DB", _WANTED)


# ---- as the authors deliver it


def _read_official(table: Member, members: list[Member]) -> tuple[Arrays, list[str]]:
    labels = _labels(table, None)
    folder = table.name.rpartition("/")[0]
    home = folder.rpartition("/")[0] if folder.rpartition("/")[2].lower() == "emolabel" else folder
    home = f"{home}/" if home else ""
    mine = [m for m in members if m.name.startswith(home)]
    found = [m for m in mine if _is_image(m) and m.name.lower().split("/")[-2:-1] == ["aligned"]]
    packed = [m for m in mine if m.name.rpartition("/")[2].lower() == "aligned.zip"]
    if not found and not packed:
        raise DataError(
            f"{table.where}: beside it is neither Image/aligned nor Image/aligned.zip; give {_WANTED}"
        )
    with ExitStack() as stack:
        if not found:
            if len(packed) > 1:
                raise more_than_one(table.where, [m.name for m in packed])
            found = [m for m in stack.enter_context(archives.inside(packed[0])) if _is_image(m)]
        images = _by_key(found)
        _agree(images, labels, table.where)
        return _arrays(images, {key: said.label for key, said in labels.items()}), []


def _labels(table: Member, separator: str | None) -> dict[Key, _Label]:
    """The lines "train_00001.jpg 5" of a list, or "train_00001_aligned.jpg,5" of a CSV."""
    labels: dict[Key, _Label] = {}
    text = table.read(_MAX_LIST).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    for number, line in enumerate(re.split("\r\n|\n|\r", text), start=1):
        fields = [field.strip().strip('"') for field in line.split(separator)]
        if not line.strip() or (separator and number == 1 and fields == ["image", "label"]):
            continue
        where = f"{table.where}, line {number}"
        if len(fields) != 2:
            wanted = f"train_00001.jpg{separator or ' '}5"
            raise DataError(f"{where}: reads '{shown(line, 60)}', not such as '{wanted}'; copy it again")
        key = _key(fields[0], where)
        if key in labels:
            raise DataError(
                f"{where}: {shown(fields[0], 60)} is there twice; the first is {labels[key].where}"
            )
        labels[key] = _Label(_label(fields[1], where), where)
    if not labels:
        raise DataError(f"{table.where}: has no lines such as 'train_00001.jpg 5'; copy it again")
    return labels


# ---- as copies at Kaggle have it


@dataclass(frozen=True)
class _Place:
    """An image at `home` + split folder / label folder / file; `label` is the label folder, or empty."""

    member: Member
    home: str
    split: str
    label: str


_DIGITS = tuple(str(n) for n in range(1, len(RAFDB.classes) + 1))


def _places(members: list[Member]) -> list[_Place]:
    places = []
    for member in filter(_is_image, members):
        folders = ["", "", *member.name.split("/")[:-1]]
        for end, label in ((-1, folders[-1]), (len(folders), "")):  # in a label folder, or in none
            *home, split = folders[:end]
            if split.lower() in RAFDB.splits:
                place = _Place(member, "".join(f"{part}/" for part in home if part), split.lower(), label)
                places.append(place)
                break
    return places


def _read_folders(places: list[_Place], members: list[Member]) -> tuple[Arrays, list[str]]:
    labels: dict[Key, int] = {}
    for place in places:  # check all names before the first image is read
        if not place.label:
            raise DataError(f"{place.member.where}: lies in no folder of a label ({_CLASSES})")
        label = _label(place.label, place.member.where)
        split, number = _key(place.member.name.rpartition("/")[2], place.member.where)
        if split != place.split:
            raise DataError(
                f"{place.member.where}: is called {split}_ but lies in a folder {place.split}; which is right?"
            )
        labels[split, number] = label
    images = _by_key([place.member for place in places])
    home = places[0].home
    above = home.rstrip("/").rpartition("/")[0]
    beside = {f"{folder}{name}" for folder in (home, f"{above}/" if above else "") for name in _TABLES}
    notices = []
    for table in [m for m in members if m.name in beside]:
        split = table.name.rpartition("/")[2].partition("_")[0]
        said = _labels(table, ",")
        _agree({key: member for key, member in images.items() if key[0] == split}, said, table.where)
        for key, line in said.items():
            if line.label != labels[key]:
                raise DataError(
                    f"{line.where}: says {line.label + 1}, but the image is {images[key].where}; which is right?"
                )
        notices.append(f"{table.where} agrees with the folders")
    return _arrays(images, labels), notices


# ---- of both


def _is_image(member: Member) -> bool:
    return member.name.lower().endswith(IMAGE_SUFFIXES)


def _key(name: str, where: str) -> Key:
    """Split and number of train_00001.jpg, which is train_00001_aligned.jpg as well."""
    split, _, rest = name.partition("_")
    if split not in RAFDB.splits:
        raise DataError(f"{where}: the name '{shown(name, 60)}' starts with neither train_ nor test_")
    number = re.fullmatch(r"([0-9]{1,9})(_aligned)?\.\w+", rest, re.ASCII)
    if number is None:
        raise DataError(f"{where}: the name '{shown(name, 60)}' is not such as train_00001.jpg")
    return split, int(number[1])


def _label(text: str, where: str) -> int:
    if text not in _DIGITS:
        raise DataError(f"{where}: the label is '{shown(text, 40)}', not a number from 1 to 7 ({_CLASSES})")
    return int(text) - 1


def _by_key(members: list[Member]) -> dict[Key, Member]:
    images: dict[Key, Member] = {}
    for member in members:
        key = _key(member.name.rpartition("/")[2], member.where)
        if key in images:
            raise DataError(f"{member.where}: has the number of {images[key].where}; which is right?")
        images[key] = member
    return images


def _agree(images: dict[Key, Member], labels: dict[Key, _Label], table: str) -> None:
    """Raise DataError for an image without a line, or a line without an image."""
    for key, said in labels.items():
        if key not in images:
            raise DataError(
                f"{said.where}: no image has this name ({key[0]}_{key[1]:05d}); copy the set again"
            )
    for key, member in images.items():
        if key not in labels:
            raise DataError(f"{member.where}: has no line in {table}; copy the set again")


def _arrays(images: dict[Key, Member], labels: dict[Key, int]) -> Arrays:
    """Every image decoded, as they lie in the source, and put in the order of their numbers."""
    arrays: Arrays = {}
    places: dict[Key, np.ndarray] = {}
    for split in RAFDB.splits:
        keys = sorted(key for key in images if key[0] == split)
        pixels = np.empty((len(keys), *RAFDB.shape), np.uint8)
        places |= dict(zip(keys, pixels, strict=True))
        arrays[f"{split}_images"] = pixels
        arrays[f"{split}_labels"] = np.array([labels[key] for key in keys], np.uint8)
    for key, member in images.items():
        places[key][:] = np.frombuffer(decoded(member, _SIDE, _colour), np.uint8).reshape(RAFDB.shape)
    return arrays | {"classes": np.array(RAFDB.classes)}


def _colour(image: Image.Image) -> bytes | str:
    if image.mode == "RGB":
        return image.tobytes()
    return f"is no 8-bit colour image (its mode is {image.mode}); RAF-DB's aligned images are"
