"""The layout of CIFAR-100 for Python -> arrays, every count checked (chapter 1).

The folder cifar-100-python has three pickles without a suffix: train and test with `data`, uint8 (N,3072),
whose rows are the red, then the green, then the blue plane, and `fine_labels`; and meta with `fine_label_names`.
"""

import hashlib
import re
from collections import defaultdict
from typing import Any

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake import pickles
from sto_lite.intake.members import Member, refuse_foreign
from sto_lite.intake.pictures import Arrays, Found, more_than_one, nothing_found, refuse_twice
from sto_lite.sets import CIFAR100

CLASSES = 100
# Of the published files (torchvision/datasets/cifar.py).
KNOWN_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
_SIDE = CIFAR100.shape[0]
_MAX_PICKLE = 256 << 20  # bytes; the published train has 155 MB
_WANTED = (
    "cifar-100-python.tar.gz, the folder cifar-100-python with train, test and meta, or a zip or tar of it"
)
_OTHERS = {
    "data_batch_1": "CIFAR-10",
    "train.bin": "the binary version",
    "train.mat": "the version for Matlab",
}


def read(where: str, members: list[Member]) -> Found:
    """Find the one data set among the members of `where` and read it: arrays, and lines for the report.

    Raises DataError when there is none, more than one, or a fault in it.
    """
    homes: dict[str, dict[str, Member]] = defaultdict(dict)
    refuse_twice(where, [m for m in members if m.name.rpartition("/")[2] in KNOWN_MD5])
    for member in members:
        home, slash, name = member.name.rpartition("/")
        if name in KNOWN_MD5:
            homes[home + slash][name] = member
    whole = {home: found for home, found in homes.items() if len(found) == len(KNOWN_MD5)}
    if len(whole) > 1:
        raise more_than_one(where, [f"{home}train" for home in whole])
    if whole:
        return _read_files(next(iter(whole.values())))
    missing = nothing_found(where, members, CIFAR100.title, _WANTED)
    for home, found in homes.items():
        others = ", ".join(name for name in KNOWN_MD5 if name not in found)
        told = f"holds {shown(home)}{next(iter(found))}, but beside it not {others}; give {_WANTED}"
        raise type(missing)(f"{where}: {told}")
    for sign, what in _OTHERS.items():
        if any(m.file == sign for m in members):
            raise DataError(f"{where}: holds {what}; give CIFAR-100's version for Python: {_WANTED}")
    raise missing


def _read_files(files: dict[str, Member]) -> Found:
    """The arrays of train, test and meta; a line for the report on the files' checksums."""
    arrays: Arrays = {}
    unknown = []
    for name, member in files.items():
        data = member.read(_MAX_PICKLE)
        refuse_foreign(data[:100], member.where)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != KNOWN_MD5[name]:
            unknown.append(name)
        found = pickles.load(data, member.where)
        del data
        fields = ("fine_label_names",) if name == "meta" else ("data", "fine_labels")
        for key in fields:
            if key not in found:
                keys = shown(", ".join(found), 80)
                raise member.fault(f"has no '{key}' (it has: {keys}); give {_WANTED}")
        if name == "meta":
            arrays["classes"] = _names(found["fine_label_names"], member)
            continue
        images = arrays[f"{name}_images"] = _images(found["data"], member)
        labels = arrays[f"{name}_labels"] = _labels(found["fine_labels"], member)
        if len(images) != len(labels):
            counts = f"{len(images):,} images, but {len(labels):,} fine_labels"
            raise member.fault(f"has {counts}; copy it again")
    order = [f"{split}_{kind}" for split in CIFAR100.splits for kind in ("images", "labels")]
    told = f"not known of {', '.join(sorted(unknown))}; that is no fault, copies differ"
    told = told if unknown else "all as published"
    return {key: arrays[key] for key in (*order, "classes")}, [f"checksums (md5) of its files: {told}"]


def _images(data: object, member: Member) -> np.ndarray:
    """(N, 3072) planes -> (N, 32, 32, 3)."""
    pixels = 3 * _SIDE * _SIDE
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (pixels,):
        what = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise member.fault(f"its data is {what}, not an array of uint8 (N, {pixels})")
    return np.ascontiguousarray(data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _labels(found: Any, member: Member) -> np.ndarray:
    labels = found.tolist() if isinstance(found, np.ndarray) else found
    if not isinstance(labels, list):
        raise member.fault(f"its fine_labels are a {type(labels).__name__}, not a list")
    for position, label in enumerate(labels, start=1):
        if type(label) is not int or not 0 <= label < CLASSES:
            value = label if type(label) is int and abs(label) < 10**9 else f"a {type(label).__name__}"
            told = f"fine_label {position:,} is {value}, not a whole number from 0 to {CLASSES - 1}"
            raise member.fault(f"{told}")
    return np.array(labels, np.uint8)


def _names(found: object, member: Member) -> np.ndarray:
    """The classes' names as fixed-width text, so that the prepared file needs no pickle."""
    given = found if isinstance(found, list) else []
    names = [name.decode("latin1") if isinstance(name, bytes) else name for name in given]
    good = {name for name in names if isinstance(name, str) and re.fullmatch("[a-z_]{1,40}", name)}
    if len(names) != CLASSES or len(good) != CLASSES:
        raise member.fault(f"its fine_label_names are not {CLASSES} different names of classes")
    return np.array(names)
