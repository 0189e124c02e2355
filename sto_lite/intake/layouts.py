"""What the layouts of all image sets share (chapter 1); each set's own are in fer.py, rafdb.py and cifar.py.

The function `read` of such a file takes the members of a folder or archive, and gives arrays and lines for the
report: {split}_images, uint8 (N,H,W) or (N,H,W,3), and {split}_labels, uint8 (N,), for each split, perhaps the
names of the `classes`. Every fault is one DataError with the file, the archive's member and the line.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sto_lite.errors import DataError, shown
from sto_lite.intake.archives import ARCHIVE
from sto_lite.intake.members import Member, no_memory
from sto_lite.sets import Published

Arrays = dict[str, np.ndarray]
Found = tuple[Arrays, list[str]]  # and lines for the report
Pixels = Callable[[Image.Image], bytes | str]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_MAX_IMAGE = 10 << 20  # bytes
_NOT_READ = {  # by the end of a name
    r"\.parquet": "a Parquet table, not the published data",
    r"\.np[yz]": "an array, not the published data",
    r"\.(7z|rar|zst)": "an archive that is not read; unpack it",
    r"xl/workbook\.xml": "so it is a workbook of Excel; save its sheet as CSV",
}


class NothingFound(DataError):
    """The data set is not there; perhaps in an archive inside."""


def nothing_found(where: str, members: list[Member], title: str, wanted: str) -> NothingFound:
    """The fault of a source without the data set; what is not read but may hold it is named."""
    for sign, what in _NOT_READ.items():
        others = [m.name for m in members if re.search(f"{sign}$", m.name.lower())]
        if others:
            return NothingFound(f"{where}: holds {shown(others[0])}, {what}; give {wanted}")
    deeper = any(ARCHIVE.search(m.file) for m in members)
    more = ", or unpack another archive inside it" if deeper else ""
    return NothingFound(f"{where}: holds no {title}; give {wanted}{more}")


def more_than_one(where: str, names: Iterable[str]) -> DataError:
    """The fault of a source in which several data sets were found."""
    return DataError(
        f"{where}: holds more than one data set ({shown(', '.join(names))}); give the path of one"
    )


def refuse_twice(where: str, members: Iterable[Member]) -> None:
    """Raise DataError when an archive holds a file twice: which one counts would be a guess."""
    again = [name for name, n in Counter(member.name for member in members).items() if n > 1]
    if again:
        raise DataError(f"{where}: holds {shown(again[0])} twice; pack it again")


@dataclass(frozen=True)
class Place:
    """An image at `home` + split folder / label folder / file; `label` is the label folder, or empty."""

    member: Member
    home: str
    split: str
    label: str


def places(members: list[Member], is_split: Callable[[str], bool]) -> list[Place]:
    """The images in folders of splits, whose names in small letters `is_split` knows."""
    found = []
    for member in members:
        *home, split, label = ["", "", *member.name.split("/")[:-1]]
        if not is_split(split.lower()):
            home, split, label = [*home, split], label, ""
        if is_split(split.lower()) and member.file.endswith(IMAGE_SUFFIXES):
            found.append(Place(member, "".join(f"{part}/" for part in home if part), split.lower(), label))
    return found


def stacked(
    images: Mapping[tuple[str, Any], tuple[int, Member]], published: Published, pixels: Pixels
) -> Arrays:
    """{(split, order): (label, member)} -> arrays in that order; each image is decoded once, as they lie there."""
    arrays: Arrays = {}
    rows: dict[tuple[str, Any], np.ndarray] = {}
    for split in published.splits:
        keys = sorted(key for key in images if key[0] == split)
        arrays[f"{split}_images"] = np.empty((len(keys), *published.shape), np.uint8)
        arrays[f"{split}_labels"] = np.array([images[key][0] for key in keys], np.uint8)
        rows |= zip(keys, arrays[f"{split}_images"], strict=True)
    for key, (_, member) in images.items():
        image = np.frombuffer(decoded(member, published.shape[0], pixels), np.uint8)
        rows[key][...] = image.reshape(published.shape)
    return arrays


def decoded(member: Member, side: int, pixels: Pixels) -> bytes:
    """The pixels of one image file of side x side pixels.

    `pixels` gives them as bytes; or, for an image of the wrong kind, a text that says what is wrong with it.
    Raises DataError for that, for another size, and for what is no whole JPEG, PNG or BMP.
    """
    data = member.read(_MAX_IMAGE)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "BMP")) as image:
            if image.size == (side, side):
                found = pixels(image)
            else:
                found = f"is {image.width} x {image.height} pixels, not {side} x {side}"
    except MemoryError as fault:
        raise no_memory(member.where) from fault
    except Exception as fault:  # on damaged bytes Pillow raises errors of many kinds
        reason = "no JPEG, PNG or BMP" if isinstance(fault, UnidentifiedImageError) else shown(fault)
        raise DataError(f"{member.where}: cannot be decoded ({reason}); copy it again") from fault
    if isinstance(found, str):
        raise DataError(f"{member.where}: {found}")
    return found
