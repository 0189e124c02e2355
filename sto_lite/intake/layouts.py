"""What the layouts of all image sets share (chapter 1); each set's own are in fer.py, rafdb.py and cifar.py.

The function `read` of such a file takes the members of a folder or archive, and gives arrays and lines for the
report: {split}_images, uint8 (N,H,W) or (N,H,W,3), and {split}_labels, uint8 (N,), for each split, perhaps the
names of the `classes`. Every fault is one DataError with the file, the archive's member and the line.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, UnidentifiedImageError

from sto_lite.errors import DataError, shown
from sto_lite.intake.archives import ARCHIVE, Member, no_memory

Arrays = dict[str, np.ndarray]
Found = tuple[Arrays, list[str]]  # and lines for the report
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_MAX_IMAGE = 10 << 20  # bytes


class NothingFound(DataError):
    """The data set is not there; perhaps in an archive inside."""


def nothing_found(where: str, members: list[Member], title: str, wanted: str) -> NothingFound:
    """The fault of a source without the data set; what is not read but may hold it is named."""
    for ending, what in ((r"\.parquet", "Parquet tables"), (r"\.np[yz]", "arrays"), (r"\.(7z|rar|zst)", "")):
        others = [m.name for m in members if re.search(f"{ending}$", m.name.lower())]
        if others and what:
            return NothingFound(
                f"{where}: holds {what} ({shown(others[0])}), not the published data; give {wanted}"
            )
        if others:
            return NothingFound(
                f"{where}: holds {shown(others[0])}, an archive that is not read; unpack it and give its folder"
            )
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


def split_folder(name: str, known: Callable[[str], bool]) -> tuple[str, str, str] | None:
    """(home, split folder, label folder) of home/split/label/file, or of home/split/file without a label."""
    *home, split, label = ["", "", *name.split("/")[:-1]]
    if known(split):
        return "".join(f"{part}/" for part in home if part), split, label
    return ("".join(f"{part}/" for part in (*home, split) if part), label, "") if known(label) else None


def decoded(member: Member, side: int, pixels: Callable[[Image.Image], bytes | str]) -> bytes:
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
