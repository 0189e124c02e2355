"""Images in folders, as all image sets may come (chapter 1); each set's layouts are in fer.py, rafdb.py and so on.

The function `read` of such a file takes the members of a folder or archive, and gives arrays and lines for the
report: {split}_images, uint8 (N,H,W) or (N,H,W,3), and {split}_labels, uint8 (N,), for each split, perhaps the
names of the `classes`. Every fault is one DataError with the file, the archive's member and the line.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sto_lite.data import root
from sto_lite.errors import DataError, shown
from sto_lite.intake.members import ARCHIVE, Member, told
from sto_lite.sets import Published

Arrays = dict[str, np.ndarray]
Found = tuple[Arrays, list[str]]  # and lines for the report
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_NOT_READ = {  # by the end of a name
    r"\.parquet": "a Parquet table, not the published data",
    r"\.np[yz]": "an array, not the published data",
    r"\.(7z|rar|zst)": "an archive that is not read; unpack it",
    r"xl/workbook\.xml": "so it is a workbook of Excel; save its sheet as CSV",
}


def read_prepared(
    published: Published, names: Sequence[str], how: str, folder: Path | None
) -> list[np.ndarray]:
    """Arrays of a prepared set that not every copy has, such as "train_votes"; folder: None for `data.root`'s.

    Raises DataError if the set is not prepared, or without them; `how` says what brings them in.
    """
    path = (folder or root(published.name)) / f"{published.name}.npz"
    if not path.exists():
        raise DataError(f"{published.title} is not prepared: {shown(path)} does not exist; {how}")
    with told(shown(path)), np.load(path, allow_pickle=False) as file:
        if names[0] not in file:
            raise DataError(f"{shown(path)}: holds no {names[0].partition('_')[2]}; {how}")
        return [file[name] for name in names]


class NothingFound(DataError):
    """The data set is not there; perhaps in an archive inside."""


def nothing_found(where: str, members: list[Member], title: str, wanted: str) -> NothingFound:
    """The fault of a source without the data set; what is not read but may hold it is named."""
    for sign, what in _NOT_READ.items():
        if others := [m.name for m in members if re.search(f"{sign}$", m.name.lower())]:
            return NothingFound(f"{where}: holds {shown(others[0])}, {what}; give {wanted}")
    deeper = any(ARCHIVE.search(m.file) for m in members)
    more = ", or unpack another archive inside it" if deeper else ""
    return NothingFound(f"{where}: holds no {title}; give {wanted}{more}")


def more_than_one(where: str, names: Iterable[str]) -> DataError:
    """The fault of a source in which several data sets were found."""
    return DataError(
        f"{where}: holds more than one data set ({shown(', '.join(names))}); give the path of one"
    )


def refuse_several(where: str, tables: list[Member], homes: set[str]) -> None:
    """Raise DataError for more than one table of labels, or folder `home` of a data set, together."""
    if len(tables) + len(homes) > 1:
        folders = [f"{home}train, {home}test" for home in sorted(homes)]
        raise more_than_one(where, [*(m.name for m in tables), *folders])


def refuse_twice(where: str, members: Iterable[Member]) -> None:
    """Raise DataError when an archive holds a file twice: which one counts would be a guess."""
    for name, count in Counter(member.name for member in members).items():
        if count > 1:
            raise DataError(f"{where}: holds {shown(name)} twice; pack it again")


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
        if is_split(split.lower()) and member.file.endswith(SUFFIXES):
            found.append(Place(member, "".join(f"{part}/" for part in home if part), split.lower(), label))
    return found


def stacked(images: Mapping[tuple[str, Any], tuple[int, Member]], published: Published) -> Arrays:
    """{(split, order): (label, member)} -> arrays in that order; each image is decoded once, as they lie there."""
    arrays: Arrays = {}
    rows: dict[tuple[str, Any], np.ndarray] = {}
    for split in published.splits:
        keys = sorted(key for key in images if key[0] == split)
        arrays[f"{split}_images"] = np.empty((len(keys), *published.shape), np.uint8)
        arrays[f"{split}_labels"] = np.array([images[key][0] for key in keys], np.uint8)
        rows |= zip(keys, arrays[f"{split}_images"], strict=True)
    for key, (_, member) in images.items():
        image = decoded(member)
        if image.size != published.shape[:2]:
            side = f"{published.shape[0]} x {published.shape[0]}"
            raise member.fault(f"is {image.width} x {image.height} pixels, not {side}")
        rows[key][...] = (_colour if len(published.shape) == 3 else _grey)(image, member, published.title)
    return arrays


def decoded(
    member: Member, formats: tuple[str, ...] = ("JPEG", "PNG", "BMP"), limit: int = 10 << 20
) -> Image.Image:
    """An image file, decoded. Raises DataError for no whole file of these formats, and for over `limit` bytes."""
    data = member.read(limit)
    with told(member.where, "cannot be decoded ({}); copy it again"):
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            raise ValueError(f"no {', '.join(formats[:-1])} or {formats[-1]}") from None
        image.load()
        return image


def _grey(image: Image.Image, member: Member, title: str) -> np.ndarray:
    """(H, W). A coloured file is taken when its three channels are equal."""
    if image.mode == "L":
        return np.asarray(image)
    if image.mode not in ("1", "P", "LA", "RGB", "RGBA"):
        raise member.fault(f"is no 8-bit grey image (its mode is {image.mode})")
    rgb = np.asarray(image.convert("RGB"))
    if (rgb != rgb[..., :1]).any():
        raise member.fault(f"is in colour; {title} is grey")
    return rgb[..., 0]


def _colour(image: Image.Image, member: Member, title: str) -> np.ndarray:
    """(H, W, 3)."""
    if image.mode != "RGB":
        told = f"is no 8-bit colour image (its mode is {image.mode}); {title}'s aligned images are"
        raise member.fault(f"{told}")
    return np.asarray(image)
