"""FER+: what ten people each saw in the images of FER-2013 (Barsoum et al. 2016, arXiv 1608.01041).

Its file fer2013new.csv has a row for each row of fer2013.csv: Usage, the image's name, and ten counts. A row without
a name shows no face, as the people said; one without any count was not shown to them.
"""

import re
from pathlib import Path

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake.members import opened
from sto_lite.intake.pictures import Arrays, Found, read_prepared
from sto_lite.intake.tables import TextTable
from sto_lite.sets import FER2013

_SEEN = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
CLASSES = (*_SEEN, "contempt", "unknown", "NF")
# FER-2013's label of the first seven; the last three, of which NF is "not a face", have none.
FER2013_LABELS = (6, 3, 5, 4, 0, 1, 2)
_MAX = 64 << 20  # bytes


def read(split: str, folder: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The votes of a split of the prepared FER-2013, in the order of its images.

    split: train, public or private. folder: that of the prepared sets; None is `data.root`'s. Returns counts, (N, 10)
    uint8, in the order of CLASSES; and whether a row has a face and any vote, (N,) bool. A comparison with labels or
    predictions leaves the other rows out. Raises DataError if there is no such split, or the set is not prepared, or
    without the votes.
    """
    if split not in FER2013.splits:
        raise DataError(f"FER-2013 has no split {split!r}; there are {', '.join(FER2013.splits)}")
    how = "run python -m sto_lite prepare fer2013 --from fer2013.csv --votes fer2013new.csv"
    counts, rated = read_prepared(FER2013, (f"{split}_votes", f"{split}_rated"), how, folder)
    return counts, rated


def join(path: Path, usage: np.ndarray | None) -> Found:
    """The votes beside the rows of a table of FER-2013: {split}_votes and {split}_rated, and lines for the report.

    path: fer2013new.csv, or a folder or archive that holds it. usage: (rows,) the place of each row's split in
    FER2013.splits; None if the images come from folders, whose order is no order of rows. Raises DataError for that,
    and if the file is none of votes, or is not of these rows.
    """
    where = shown(path)
    if usage is None:
        raise DataError(
            f"{where}: votes belong to the rows of a table, and images in folders have lost that order; give "
            f"fer2013.csv or icml_face_data.csv as --from"
        )
    with opened(path) as members:
        tables = [m for m in members if m.file == "fer2013new.csv"]
        tables = tables or ([] if path.is_dir() else members)  # one file may be called otherwise
        if len(tables) != 1:
            raise DataError(f"{where}: holds no fer2013new.csv, FER+'s table of votes; give its path")
        faces, usages, counts = _read(TextTable(tables[0], _MAX))
    if len(counts) != len(usage):
        told = f"has {len(counts):,} rows, but FER-2013 has {len(usage):,}"
        raise DataError(f"{where}: {told}; give both files whole and as published")
    if (differ := np.flatnonzero(usages != usage)).size:
        row = int(differ[0])
        theirs, ours = FER2013.called[usages[row]], FER2013.called[usage[row]]
        told = f"row {row + 1:,} is of {theirs}, but that of FER-2013 of {ours} ({differ.size:,} rows differ)"
        raise DataError(f"{where}: {told}; give both files in the order in which they were published")
    voted = counts.any(axis=1)
    rated, arrays = faces & voted, Arrays()
    for number, split in enumerate(FER2013.splits):
        arrays |= {f"{split}_votes": counts[usage == number], f"{split}_rated": rated[usage == number]}
    notices = [f"votes from {where}: {np.count_nonzero(rated):,} of {len(rated):,} images"]
    for what, rows in (("no votes", ~voted), ("no face", ~faces & voted)):
        found = np.bincount(usage[rows], minlength=len(FER2013.splits)).tolist()
        each = ", ".join(f"{n:,} {split}" for n, split in zip(found, FER2013.splits, strict=True))
        notices.append(f"votes: {what} for {sum(found):,} images ({each}), which are masked")
    return arrays, notices


def _read(table: TextTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether a row has an image's name, (rows,); its usage, (rows,) uint8; and its counts, (rows, 10) uint8."""
    usages = [usage.lower() for usage in FER2013.called]
    rows: list[tuple[bool, int, list[int]]] = []
    last = -1
    for line, (usage, name, *votes) in table.pick(
        ("Usage", "Image name", *CLASSES), lambda _: "give FER+'s fer2013new.csv"
    ):
        if usage.lower() not in usages:
            raise table.fault(line, f"Usage is '{shown(usage, 40)}', not one of {', '.join(FER2013.called)}")
        for called, vote in zip(CLASSES, votes, strict=True):
            if not re.fullmatch("[0-9]|10", vote, re.ASCII):
                raise table.fault(line, f"{called} is '{shown(vote, 40)}', not a whole number from 0 to 10")
        if number := re.fullmatch(r"fer([0-9]{1,9})\.png", name, re.ASCII):
            if int(number[1]) <= last:
                told = f"the image {shown(name, 40)} comes after a later one, so the rows have another order"
                raise table.fault(line, f"{told}; take the file as published")
            last = int(number[1])
        rows.append((bool(name), usages.index(usage.lower()), list(map(int, votes))))
    if not rows:
        raise DataError(f"{table.where}: has no votes below the first line; copy it again")
    faces, places, counts = zip(*rows, strict=True)
    return np.array(faces), np.array(places, np.uint8), np.array(counts, np.uint8)
