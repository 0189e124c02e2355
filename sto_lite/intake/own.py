"""A folder of one's own pictures, a folder for each class -> arrays: one's own image set (chapter 1).

Pictures are read as `take` reads those that a trained network is shown: turned as their EXIF says, on white where
they are transparent, the middle square, resized.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from sto_lite.data import resize
from sto_lite.errors import DataError, shown
from sto_lite.intake.members import Member
from sto_lite.intake.pictures import Arrays, Found, decoded, nothing_found, refuse_twice
from sto_lite.take import ENDINGS, from_pil, middle_square

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(("valid", "val", "validation"), "valid")
_GREY = ("1", "L", "LA")  # modes of Pillow
_LARGEST = 224  # pixels, where none are asked for
_WANTED = "a folder, zip or tar with train/CLASS/PICTURE and test/CLASS/PICTURE, or with CLASS/PICTURE alone"

Row = tuple[str, str, Member]  # split, or "" before it is drawn; class; picture


@dataclass(frozen=True)
class Own:
    """How a folder of pictures becomes an image set.

    pixels: with --folder, their height and width; without it the shorter side of the most common size, at most 224.
    test: with --folder of CLASS/ alone, the share of each class, or with --person of the persons, to test on; without
    it 0.2.
    seed: with --folder of CLASS/ alone, the draw of it; without it 0.
    person: with --folder, regular expression whose one group is the person in a file's name; nobody is drawn into
    both splits.

    Raises:
        ValueError: a number is out of range, or `person` is no such expression.
    """

    pixels: int | None = None
    test: float | None = None
    seed: int | None = None
    person: str | None = None

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.person or "()").groups
        except re.error as fault:
            raise ValueError(f"person is no regular expression: {fault}") from fault
        if groups != 1:
            raise ValueError(f"person has one group, as '^([a-z]+)_' has, but {self.person!r} has {groups}")
        if self.pixels is not None and not 1 <= self.pixels <= 1024:
            raise ValueError(f"pixels is 1 to 1,024, not {self.pixels}")
        if self.test is not None and not 0 < self.test < 1:
            raise ValueError(f"test is a share between 0 and 1, not {self.test}")

    def read(self, where: str, members: list[Member]) -> Found:
        """{train,valid,test}_images, _labels and `classes`, in the order of the files' names; lines for the report.

        Raises DataError for a picture in no class or that cannot be read, a class without training pictures, etc.
        """
        refuse_twice(where, members)
        pictures = [member for member in members if member.file.endswith(ENDINGS)]
        if not pictures:
            raise nothing_found(where, members, "pictures", _WANTED)
        rows, notices = self._split(where, sorted(_placed(where, pictures), key=lambda row: row[2].name))
        classes = sorted({label for split, label, _ in rows if split == "train"})
        for _, label, member in rows:
            if label not in classes:
                raise member.fault(f"its class '{shown(label, 40)}' has no training picture; give some")
        if not 2 <= len(classes) <= 256:
            names = shown(", ".join(classes), 80)
            raise DataError(f"{where}: has {len(classes):,} classes ({names}), not 2 to 256")
        if others := [member.name for member in members if not member.file.endswith(ENDINGS)]:
            told = f"files that are no pictures were not read, such as {shown(others[0], 60)}"
            notices.append(f"notice: {len(others):,} {told}")
        arrays, more = self._arrays(rows, classes)
        return arrays | {"classes": np.array(classes)}, [*notices, *more]

    def _split(self, where: str, rows: list[Row]) -> tuple[list[Row], list[str]]:
        """The rows with their splits, which are drawn here if no folders tell them; lines for the report."""
        people = {member.name: self._person(member) for *_, member in rows}
        if rows[0][0]:
            if (self.test, self.seed) != (None, None):
                told = "has folders train and test, so --test and --seed have nothing to draw"
                raise DataError(f"{where}: {told}")
            train, test = ({people[m.name] for s, _, m in rows if s == split} for split in ("train", "test"))
            both = sorted(train & test - {""})
            told = f"persons stand in train and in test ({shown(', '.join(both), 60)})"
            return rows, [f"notice: {len(both):,} {told}"] if both else []
        share, seed = self.test or 0.2, self.seed or 0
        generator, tested = torch.Generator().manual_seed(seed), set()
        groups: dict[str, set[str]] = defaultdict(set)  # of which each gives its share
        for _, label, member in rows:
            what = "persons" if self.person else f"pictures in the class '{shown(label, 40)}'"
            groups[what].add(people[member.name] or member.name)
        for what, names in sorted(groups.items()):
            if (n := len(names)) < 2:
                raise DataError(f"{where}: has {n} {what}, and a split needs two at least")
            drawn = torch.randperm(n, generator=generator)[: min(max(round(share * n), 1), n - 1)]
            tested |= {sorted(names)[i] for i in drawn.tolist()}
        split = {name: "test" if (person or name) in tested else "train" for name, person in people.items()}
        by = f"{n} persons, {len(tested):,} of whom are tested on" if self.person else "each class"
        notice = f"split by seed {seed}: a share of {share:g} of {by}"
        return [(split[member.name], label, member) for _, label, member in rows], [notice]

    def _person(self, member: Member) -> str:
        """The person in a picture's name, or "" if nobody asks."""
        if not self.person:
            return ""
        found = re.search(self.person, member.name.rpartition("/")[2])
        if not found or not found[1]:
            raise member.fault(f"its name tells no person by {self.person!r}")
        return found[1]

    def _arrays(self, rows: list[Row], classes: list[str]) -> Found:
        """The pictures in one size and with as many channels, and what was done to them for that."""
        looks = [(image.size, image.mode) for image in (_decoded(member) for *_, member in rows)]
        sizes = Counter(size for size, _ in looks)
        grey = sum(mode in _GREY for _, mode in looks)
        side = self.pixels or min(min(sizes.most_common(1)[0][0]), _LARGEST)
        channels = 1 if grey == len(rows) else 3
        notices = [f"pictures of {side} x {side} pixels, {'grey' if channels == 1 else 'in colour'}"]
        if others := len(rows) - sizes[side, side]:
            notices[0] += f"; of {others:,} of {len(rows):,}, in another size, the middle square was resized"
        if channels == 3 and grey:
            told = "grey pictures among coloured ones were given three equal channels"
            notices.append(f"notice: {grey:,} {told}")
        arrays: Arrays = {}
        for split in ("train", "valid", "test"):
            if mine := [row for row in rows if row[0] == split]:
                # Decoded again, so that none is kept in full size.
                pixels = (from_pil(_decoded(member), channels, member.where) for *_, member in mine)
                stack = torch.cat([resize(middle_square(picture), side) for picture in pixels]).numpy()
                stack = stack[:, 0] if channels == 1 else stack.transpose(0, 2, 3, 1)
                arrays[f"{split}_images"] = np.ascontiguousarray(stack)
                arrays[f"{split}_labels"] = np.array([classes.index(label) for _, label, _ in mine], np.uint8)
        return arrays, notices


def _decoded(member: Member) -> Image.Image:
    return decoded(member, ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"), 100 << 20)


def _placed(where: str, pictures: list[Member]) -> list[Row]:
    """Split and class of each picture, by its folders: HOME/SPLIT/CLASS/PICTURE, else HOME/CLASS/PICTURE."""
    folders = [["", *member.name.split("/")[:-1]] for member in pictures]
    given = any(parts[-2:-1] and parts[-2].lower() in _SPLITS for parts in folders)
    rows, homes = [], set()
    for parts, member in zip(folders, pictures, strict=True):
        *home, split, label = ["", *parts] if given else [*parts[:-1], "", parts[-1]]
        if not label or (given and split.lower() not in _SPLITS):
            raise member.fault(f"lies in no folder of a class; give {_WANTED}")
        rows.append((_SPLITS.get(split.lower(), ""), label, member))
        homes.add("/".join(filter(None, home)))
    if len(homes) > 1:
        names = shown(", ".join(sorted(f"{home}/" for home in homes)), 80)
        raise DataError(f"{where}: has classes in several folders ({names}); give {_WANTED}")
    for split in ("train", "test") if given else ():
        if not any(row[0] == split for row in rows):
            raise DataError(f"{where}: holds no {split} pictures; give {_WANTED}")
    return rows
