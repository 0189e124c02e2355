"""The layout of CIFAR-100 for Python -> arrays, every count checked (chapter 1).

The folder cifar-100-python has three pickles without a suffix: train and test with `data`, uint8 (N,3072),
whose rows are the red, then the green, then the blue plane, and `fine_labels`; and meta with `fine_label_names`.
"""

import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake import archives, pickles
from sto_lite.intake.archives import Member
from sto_lite.intake.layouts import Arrays, more_than_one, nothing_found, refuse_twice
from sto_lite.sets import CIFAR100

CLASSES = 100
SUFFIXES: tuple[str, ...] = ("train", "test", "meta", ".gz", ".tgz", ".tar")  # of the files that count
# Of the published files (torchvision/datasets/cifar.py).
KNOWN_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
_ARCHIVES = ("cifar-100-python.tar.gz", "cifar-100-python.tgz", "cifar-100-python.tar")
_SIDE = CIFAR100.shape[0]
_MAX_PICKLE = 256 << 20  # bytes; the published train has 155 MB
_WANTED = (
    "cifar-100-python.tar.gz, the folder cifar-100-python with train, test and meta, or a zip or tar of it"
)


def read(source: Path, members: list[Member]) -> tuple[Arrays, list[str]]:
    """Find the one data set among the members of `source` and read it: arrays, and lines for the report.

    Raises DataError when there is none, more than one, or a fault in it.
    """
    packed = [m for m in members if m.name.rpartition("/")[2] in _ARCHIVES]
    found = _find(shown(source), members, needed=not packed)
    if found is not None:
        return _read_files(found)
    if len(packed) > 1:
        raise more_than_one(shown(source), [m.name for m in packed])
    with archives.inside(packed[0]) as inner:
        return _read_files(_find(packed[0].where, inner) or {})


def _find(where: str, members: list[Member], needed: bool = True) -> dict[str, Member] | None:
    """The members train, test and meta of one folder; if they are not there and not needed, None."""
    homes: dict[str, dict[str, Member]] = defaultdict(dict)
    refuse_twice(where, [m for m in members if m.name.rpartition("/")[2] in KNOWN_MD5])
    for member in members:
        home, slash, name = member.name.rpartition("/")
        if name in KNOWN_MD5:
            homes[home + slash][name] = member
    whole = {home: found for home, found in homes.items() if len(found) == len(KNOWN_MD5)}
    if len(whole) > 1:
        raise more_than_one(where, [f"{home}train" for home in whole])
    if whole or not needed:
        return next(iter(whole.values()), None)
    for home, found in homes.items():
        missing = ", ".join(name for name in KNOWN_MD5 if name not in found)
        raise DataError(
            f"{where}: holds {shown(home)}{next(iter(found))}, but beside it not {missing}; give {_WANTED}"
        )
    names = {m.name.rpartition("/")[2] for m in members}
    for sign, what in (
        ("data_batch_1", "CIFAR-10"),
        ("train.bin", "the binary version"),
        ("train.mat", "the version for Matlab"),
    ):
        if sign in names:
            raise DataError(f"{where}: holds {what}; give CIFAR-100's version for Python: {_WANTED}")
    raise nothing_found(where, members, "CIFAR-100", _WANTED)


def _read_files(files: dict[str, Member]) -> tuple[Arrays, list[str]]:
    """The arrays of train, test and meta; a line for the report on the files' checksums."""
    arrays: Arrays = {}
    unknown = []
    for name, member in files.items():
        data = member.read(_MAX_PICKLE)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != KNOWN_MD5[name]:
            unknown.append(name)
        found = pickles.load(data, member.where)
        del data
        if name == "meta":
            arrays["classes"] = _names(_entry(found, "fine_label_names", member), member)
            continue
        images = arrays[f"{name}_images"] = _images(_entry(found, "data", member), member)
        labels = arrays[f"{name}_labels"] = _labels(_entry(found, "fine_labels", member), member)
        if len(images) != len(labels):
            raise DataError(
                f"{member.where}: has {len(images):,} images, but {len(labels):,} fine_labels; copy it again"
            )
    order = [f"{split}_{kind}" for split in CIFAR100.splits for kind in ("images", "labels")]
    told = "all as published" if not unknown else "not known of " + ", ".join(sorted(unknown))
    told += "; that is no fault, copies differ" if unknown else ""
    return {key: arrays[key] for key in (*order, "classes")}, [f"checksums (md5) of its files: {told}"]


def _entry(found: dict[str, Any], key: str, member: Member) -> Any:
    if key not in found:
        keys = shown(", ".join(found), 80)
        raise DataError(f"{member.where}: has no '{key}' (it has: {keys}); give {_WANTED}")
    return found[key]


def _images(data: object, member: Member) -> np.ndarray:
    """(N, 3072) planes -> (N, 32, 32, 3)."""
    pixels = 3 * _SIDE * _SIDE
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (pixels,):
        what = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{member.where}: its data is {what}, not an array of uint8 (N, {pixels})")
    return np.ascontiguousarray(data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _labels(labels: object, member: Member) -> np.ndarray:
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list):
        raise DataError(f"{member.where}: its fine_labels are a {type(labels).__name__}, not a list")
    for position, label in enumerate(labels, start=1):
        if type(label) is not int or not 0 <= label < CLASSES:
            value = label if type(label) is int and abs(label) < 10**9 else f"a {type(label).__name__}"
            raise DataError(
                f"{member.where}: fine_label {position:,} is {value}, "
                f"not a whole number from 0 to {CLASSES - 1}"
            )
    return np.array(labels, np.uint8)


def _names(found: object, member: Member) -> np.ndarray:
    """The classes' names as fixed-width text, so that the prepared file needs no pickle."""
    names = [
        name.decode("latin1") if isinstance(name, bytes) else name
        for name in (found if isinstance(found, list) else ())
    ]
    good = all(isinstance(name, str) and re.fullmatch("[a-z_]{1,40}", name) for name in names)
    if not good or len(names) != CLASSES or len(set(names)) != CLASSES:
        raise DataError(f"{member.where}: its fine_label_names are not {CLASSES} different names of classes")
    return np.array(names)
