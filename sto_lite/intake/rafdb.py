"""The layouts in which people have RAF-DB's basic expressions -> arrays, every image and line checked (chapter 1).

As its authors deliver it: EmoLabel/list_patition_label.txt (so spelt) with lines such as "train_00001.jpg 5", and
Image/aligned/train_00001_aligned.jpg, or the same in Image/aligned.zip. As copies at Kaggle have it:
train/5/train_00001_aligned.jpg, perhaps with train_labels.csv and test_labels.csv, which must then agree.
"""

import re
from contextlib import ExitStack

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake import attributes, pictures
from sto_lite.intake.members import Member, opened
from sto_lite.intake.pictures import SUFFIXES, Arrays, Found, Place
from sto_lite.intake.tables import TextTable
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
    pictures.refuse_twice(where, members)
    lists = [m for m in members if m.file in _LISTS]
    basic = [m for m in lists if "basic" in m.name.lower().split("/")]
    lists = basic if len(basic) == 1 else lists  # beside it is compound/, of other classes
    images = pictures.places(members, _FOLDERS.__contains__)
    homes = {place.home for place in images if place.label in _DIGITS}
    pictures.refuse_several(where, lists, homes)
    if lists:
        return _read_official(lists[0], members)
    if images:
        return _read_folders([place for place in images if not homes or place.home in homes], members)
    raise pictures.nothing_found(where, members, RAFDB.title, _WANTED)


def _read_official(table: Member, members: list[Member]) -> Found:
    """As the authors deliver it."""
    labels, notices = _read_labels(table, r"\s+")
    folder, _, file = table.name.rpartition("/")[0].rpartition("/")
    home = folder if file.lower() == "emolabel" else table.name.rpartition("/")[0]
    mine = [m for m in members if m.name.startswith(f"{home}/" if home else "")]
    found = [m for m in mine if m.file.endswith(SUFFIXES) and m.name.lower().split("/")[-2:-1] == ["aligned"]]
    packed = [m for m in mine if m.file == "aligned.zip"]
    if not found and len(packed) > 1:
        raise pictures.more_than_one(table.where, [m.name for m in packed])
    with ExitStack() as stack:
        if not found and packed:
            found = [m for m in stack.enter_context(opened(packed[0])) if m.file.endswith(SUFFIXES)]
        elif not found:
            raise table.fault(f"beside it is neither Image/aligned nor Image/aligned.zip; give {_WANTED}")
        images = _by_key(found)
        _agree(images, labels, table.where)
        arrays, more = attributes.find(mine, images)
        arrays |= _stacked(images, {key: label for key, (label, _) in labels.items()})
        return arrays, notices + more


def _read_folders(found: list[Place], members: list[Member]) -> Found:
    """As copies at Kaggle have it."""
    labels: dict[Key, int] = {}
    for place in found:  # check all names before the first image is read
        if not place.label:
            raise place.member.fault(f"lies in no folder of a label ({_CLASSES})")
        label = _label(place.label, place.member.where)
        split, number = _key(place.member.name, place.member.where)
        if split != place.split and place.split in RAFDB.splits:
            told = f"is called {split}_ but lies in a folder {place.split}; which is right?"
            raise place.member.fault(told)
        labels[split, number] = label
    images = _by_key([place.member for place in found])
    home = found[0].home
    above = home[: home.rstrip("/").rfind("/") + 1]
    beside = {f"{at}{name}_labels.csv" for at in (home, above) for name in _FOLDERS}
    tables = [m for m in members if m.name in beside]
    said: _Labels = {}
    notices: list[str] = []
    for table in tables:
        lines, more = _read_labels(table)
        said |= lines
        notices += [*more, f"{table.where} agrees with the folders"]
    splits = {split for split, _ in said}
    mine = {key: member for key, member in images.items() if key[0] in splits}
    _agree(mine, said, " and ".join(table.where for table in tables))
    for key, (label, line) in said.items():
        if label != labels[key]:
            told = f"says {label + 1}, but the image is {images[key].where}; which is right?"
            raise DataError(f"{line}: {told}")
    return _stacked(images, labels), notices


def _read_labels(member: Member, separator: str = "") -> tuple[_Labels, list[str]]:
    """The lines "train_00001.jpg 5" of a list, or "train_00001_aligned.jpg,5" of a CSV; and lines for the report.

    Further columns are not read; a first line with the names image and label says which two are.
    """
    labels: _Labels = {}
    notices: list[str] = []
    table, columns = TextTable(member, _MAX_LIST, separator), (0, 1)
    for position, (line, row) in enumerate(table):
        if not position and len(row) > 2:
            told = f"has {len(row)} columns, of which name and label were read"
            notices.append(f"notice: {member.where} {told}")
        names = [field.lower() for field in row]
        if not position and {"image", "label"} <= set(names):
            columns = names.index("image"), names.index("label")
            continue
        if len(row) < 2 or not row[columns[1]]:
            told = f"reads '{shown(' '.join(row), 60)}', not such as 'train_00001.jpg 5'; copy it again"
            raise table.fault(line, told)
        name, label = (row[column] for column in columns)
        where = f"{member.where}, line {line}"
        if (key := _key(name, where)) in labels:
            raise DataError(f"{where}: {shown(name, 60)} is there twice; the first is {labels[key][1]}")
        labels[key] = _label(label, where), where
    if not labels:
        raise member.fault("has no lines such as 'train_00001.jpg 5'; copy it again")
    return labels, notices


def _key(path: str, where: str) -> Key:
    """Split and number of train_00001.jpg, which is train_00001_aligned.jpg as well."""
    name = path.rpartition("/")[2]
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
        key = _key(member.name, member.where)
        if key in images:
            raise member.fault(f"has the number of {images[key].where}; which is right?")
        images[key] = member
    return images


def _agree(images: dict[Key, Member], labels: _Labels, table: str) -> None:
    """Raise DataError for an image without a line, or a line without an image."""
    for key, (_, where) in labels.items():
        if key not in images:
            raise DataError(f"{where}: no image has this name ({key[0]}_{key[1]:05d}); copy the set again")
    for key, member in images.items():
        if key not in labels:
            raise member.fault(f"has no line in {table}; copy the set again")


def _stacked(images: dict[Key, Member], labels: dict[Key, int]) -> Arrays:
    found = {key: (labels[key], member) for key, member in images.items()}
    return pictures.stacked(found, RAFDB) | {"classes": np.array(RAFDB.classes)}
