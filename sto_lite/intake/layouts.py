"""What the layouts of all image sets share (chapter 1). Each set's own are in layouts_<set>.py.

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
from sto_lite.intake.archives import Member

Arrays = dict[str, np.ndarray]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_MAX_IMAGE = 10 << 20  # bytes


def more_than_one(where: str, names: Iterable[str]) -> DataError:
    """The fault of a source in which several data sets were found."""
    return DataError(
        f"{where}: holds more than one data set ({shown(', '.join(names))}); give the path of one"
    )


def nothing_found(where: str, members: list[Member], title: str, wanted: str) -> DataError:
    """The fault of a source without the data set; an archive inside is named, as it may be in there."""
    inner = [m.name for m in members if re.search(r"\.(zip|tar|tgz|tar\.\w+)$", m.name.lower())]
    if inner:
        return DataError(f"{where}: holds the archive {shown(inner[0])}; unpack it and give its path")
    return DataError(f"{where}: holds no {title}; give {wanted}")


def refuse_twice(where: str, members: Iterable[Member]) -> None:
    """Raise DataError when an archive holds a file twice: which one counts would be a guess."""
    again = [name for name, n in Counter(member.name for member in members).items() if n > 1]
    if again:
        raise DataError(f"{where}: holds {shown(again[0])} twice; pack it again")


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
    except Exception as fault:  # on damaged bytes Pillow raises errors of many kinds
        reason = "no JPEG, PNG or BMP" if isinstance(fault, UnidentifiedImageError) else shown(fault)
        raise DataError(f"{member.where}: cannot be decoded ({reason}); copy it again") from fault
    if isinstance(found, str):
        raise DataError(f"{member.where}: {found}")
    return found
