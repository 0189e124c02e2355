"""The layouts in which people have RAF-DB's basic expressions -> arrays, every image and line checked (chapter 1).

As its authors deliver it: EmoLabel/list_patition_label.txt (so spelt) with lines such as "train_00001.jpg 5", and
Image/aligned/train_00001_aligned.jpg, or the same in Image/aligned.zip. As copies at Kaggle have it:
train/5/train_00001_aligned.jpg, perhaps with train_labels.csv and test_labels.csv, which must then agree.
"""

import re
from contextlib import ExitStack

import numpy as np
from PIL import Image

from sto_lite.errors import DataError, shown
from sto_lite.intake import archives
from sto_lite.intake.layouts import (
    IMAGE_SUFFIXES,
    Arrays,
    Found,
    Place,
    more_than_one,
    nothing_found,
    places,
    refuse_twice,
    stacked,
)
from sto_lite.intake.members import Member
from sto_lite.intake.tables import Table
from sto_lite.sets import RAFDB

_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_FOLDERS = (*RAFDB.splits, "val", "valid", "validation")  # of the last three, files' names tell the split
_DIGITS = tuple(str(n) for n in range(1, len(RAFDB.classes) + 1))
_CLASSES = ", ".join(f"{n} {name}" for n, name in enumerate(RAFDB.classes, start=1))
_MAX_LIST = 10 << 20  # bytes
_WANTED = (
    "the folder with EmoLabel/list_patition_label.txt and Image/aligned, the folders train/1 to train/7 and "
    "test/1 to test/7, or a zip or tar of either"
)

Key = tuple[str, int]  # split and number of an image: ("train", 1) of train_00001_aligned.jpg
_Labels = dict[Key, tuple[int, str]]  # label 0..6, and where it is said


def read(where: str, members: list[Member]) -> Found:
    """Find the one data set among the members of `where` and read it: arrays, and lines for the report.

    Images come in the order of their numbers. Raises DataError when there is no data set, more than one, or a
    fault in it.
    """
    refuse_twice(where, members)
    lists = [m for m in members if m.file in _LISTS]
    basic = [m for m in lists if "basic" in m.name.lower().split("/")]
    lists = basic if len(basic) == 1 else lists  # beside it is compound/, of other classes
    images = places(members, _FOLDERS.__contains__)
    homes = {place.home for place in images if place.label in _DIGITS}
    if len(lists) + len(homes) > 1:
        folders = [f"{home}train, {home}test" for home in sorted(homes)]
        raise more_than_one(where, [*(m.name for m in lists), *folders])
    if lists:
        return _read_official(lists[0], members)
    if images:
        return _read_folders([p for p in images if not homes or p.home in homes], members)
    raise nothing_found(where, members, "RAF-DB", _WANTED)


# ---- as the authors deliver it


def _read_official(table: Member, members: list[Member]) -> Found:
    labels, notices = _labels(table, r"\s+")
    folder = table.name.rpartition("/")[0]
    home = folder.rpartition("/")[0] if folder.rpartition("/")[2].lower() == "emolabel" else folder
    mine = [m for m in members if m.name.startswith(f"{home}/" if home else "")]
    found = [m for m in mine if _is_image(m) and m.name.lower().split("/")[-2:-1] == ["aligned"]]
    packed = [m for m in mine if m.file == "aligned.zip"]
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
        return _arrays(images, {key: label for key, (label, _) in labels.items()}), notices


def _labels(member: Member, separator: str = "") -> tuple[_Labels, list[str]]:
    """The lines "train_00001.jpg 5" of a list, or "train_00001_aligned.jpg,5" of a CSV; and lines for the report.

    Further columns are not read; a first line with the names image and label says which two are.
    """
    labels: _Labels = {}
    notices: list[str] = []
    table, columns, first = Table(member, _MAX_LIST, separator), (0, 1), True
    for line, row in table:
        names = [field.lower() for field in row]
        if first and len(row) > 2:
            notices.append(
                f"notice: {member.where} has {len(row)} columns, of which name and label were read"
            )
        if first and {"image", "label"} <= set(names):
            columns, first = (names.index("image"), names.index("label")), False
            continue
        first = False
        if len(row) < 2 or not row[columns[1]]:
            told = f"reads '{shown(' '.join(row), 60)}', not such as 'train_00001.jpg 5'; copy it again"
            raise table.fault(line, told)
        name, label = (row[column] for column in columns)
        where = f"{member.where}, line {line}"
        key = _key(name, where)
        if key in labels:
            raise DataError(f"{where}: {shown(name, 60)} is there twice; the first is {labels[key][1]}")
        labels[key] = _label(label, where), where
    if not labels:
        raise DataError(f"{member.where}: has no lines such as 'train_00001.jpg 5'; copy it again")
    return labels, notices


# ---- as copies at Kaggle have it


def _read_folders(found: list[Place], members: list[Member]) -> Found:
    labels: dict[Key, int] = {}
    for place in found:  # check all names before the first image is read
        if not place.label:
            raise DataError(f"{place.member.where}: lies in no folder of a label ({_CLASSES})")
        label = _label(place.label, place.member.where)
        split, number = _key(place.member.name.rpartition("/")[2], place.member.where)
        if split != place.split and place.split in RAFDB.splits:
            raise DataError(
                f"{place.member.where}: is called {split}_ but lies in a folder {place.split}; which is right?"
            )
        labels[split, number] = label
    images = _by_key([place.member for place in found])
    home = found[0].home
    above = home.rstrip("/").rpartition("/")[0]
    beside = {f"{at}{name}_labels.csv" for at in (home, f"{above}/" if above else "") for name in _FOLDERS}
    tables = [m for m in members if m.name in beside]
    said: _Labels = {}
    notices: list[str] = []
    for table in tables:
        lines, more = _labels(table)
        said |= lines
        notices += [*more, f"{table.where} agrees with the folders"]
    splits = {key[0] for key in said}
    mine = {key: member for key, member in images.items() if key[0] in splits}
    _agree(mine, said, " and ".join(table.where for table in tables))
    for key, (label, line) in said.items():
        if label != labels[key]:
            raise DataError(
                f"{line}: says {label + 1}, but the image is {images[key].where}; which is right?"
            )
    return _arrays(images, labels), notices


# ---- of both


def _is_image(member: Member) -> bool:
    return member.file.endswith(IMAGE_SUFFIXES)


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


def _agree(images: dict[Key, Member], labels: _Labels, table: str) -> None:
    """Raise DataError for an image without a line, or a line without an image."""
    for key, (_, where) in labels.items():
        if key not in images:
            raise DataError(f"{where}: no image has this name ({key[0]}_{key[1]:05d}); copy the set again")
    for key, member in images.items():
        if key not in labels:
            raise DataError(f"{member.where}: has no line in {table}; copy the set again")


def _arrays(images: dict[Key, Member], labels: dict[Key, int]) -> Arrays:
    found = {key: (labels[key], member) for key, member in images.items()}
    return stacked(found, RAFDB, _colour) | {"classes": np.array(RAFDB.classes)}


def _colour(image: Image.Image) -> bytes | str:
    if image.mode == "RGB":
        return image.tobytes()
    return f"is no 8-bit colour image (its mode is {image.mode}); RAF-DB's aligned images are"
