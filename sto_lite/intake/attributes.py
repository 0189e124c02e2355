"""RAF-DB's gender, race and age, as its authors' helpers judged them by eye (chapter 11).

They lie in Annotation/manual, or manual.zip: train_00001_manu_attri.txt has five lines of landmarks, then a number
each for gender, race and age. They say how people looked to somebody, and not who they are.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake.members import Member, opened
from sto_lite.intake.pictures import Arrays, Found, read_prepared
from sto_lite.sets import RAFDB

ATTRIBUTES = {
    "gender": ("male", "female", "unsure"),
    "race": ("Caucasian", "African-American", "Asian"),
    "age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
UNKNOWN = 255
_END = "_manu_attri.txt"
_MAX = 4096  # bytes of a file


def read(split: str, attribute: str, folder: Path | None = None) -> np.ndarray:
    """An attribute of a split of the prepared RAF-DB, in words, in the order of its images; or "not known".

    split: train or test. attribute: of ATTRIBUTES. folder: that of the prepared sets; None is `data.root`'s. Returns
    (N,) text, as `people.errors_by_group` takes groups. Raises DataError if there is no such split or attribute, or
    the set is not prepared, or without attributes.
    """
    if split not in RAFDB.splits or attribute not in ATTRIBUTES:
        known = f"splits {', '.join(RAFDB.splits)}, attributes {', '.join(ATTRIBUTES)}"
        raise DataError(f"RAF-DB has no {attribute!r} of a split {split!r}; there are {known}")
    how = "prepare rafdb from the folder that holds Annotation/manual or manual.zip too"
    (found,) = read_prepared(RAFDB, (f"{split}_attributes",), how, folder)
    values = found[:, list(ATTRIBUTES).index(attribute)]
    words = np.array([*ATTRIBUTES[attribute], "not known"])
    return words[np.minimum(values, len(words) - 1)]


def find(members: list[Member], images: Mapping[tuple[str, int], Member]) -> Found:
    """{split}_attributes (N, 3) uint8 beside the images, in their order; nothing where the set has no such files.
    Raises DataError if a file is not of this form.
    """
    with ExitStack() as stack:
        files = {m.file: m for m in members if m.file.endswith(_END)}
        packed = [m for m in members if m.name.lower().endswith("annotation/manual.zip")]
        if not files and packed:
            files = {m.file: m for m in stack.enter_context(opened(packed[0])) if m.file.endswith(_END)}
        if not files:
            return {}, []
        values = {key: _values(files.get(_file(member))) for key, member in images.items()}
    arrays: Arrays = {
        f"{split}_attributes": np.array([values[key] for key in sorted(images) if key[0] == split], np.uint8)
        for split in RAFDB.splits
    }
    known = sum(row[0] != UNKNOWN for row in values.values())
    return arrays, [f"gender, race and age, as somebody judged them: of {known:,} of {len(values):,} images"]


def _file(member: Member) -> str:
    """Its file of attributes: train_00001_manu_attri.txt of train_00001_aligned.jpg."""
    return "_".join(member.file.partition(".")[0].split("_")[:2]) + _END


def _values(member: Member | None) -> tuple[int, ...]:
    if member is None:
        return (UNKNOWN,) * len(ATTRIBUTES)
    lines = member.read(_MAX).decode("ascii", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()][5:]
    for line, (name, words) in zip(said, ATTRIBUTES.items(), strict=False):
        if line not in map(str, range(len(words))):
            told = f"{name} is '{shown(line, 40)}', not a number from 0 to {len(words) - 1}"
            raise member.fault(f"{told}; copy it again")
    if len(said) != len(ATTRIBUTES):
        told = "is not five lines of landmarks, then one each for gender, race and age"
        raise member.fault(f"{told}; copy it again")
    return tuple(map(int, said))
