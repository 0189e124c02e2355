"""What people have on disk of FER-2013 -> one prepared file, `root/fer2013.npz` (chapter 1).

FER-2013 (Goodfellow et al., "Challenges in representation learning", ICONIP 2013): 48x48 grey faces in seven
classes; 28,709 Training, 3,589 PublicTest and 3,589 PrivateTest images.
"""

import hashlib
import io
import json
import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sto_lite import archives, layouts
from sto_lite.archives import shown
from sto_lite.errors import DataError
from sto_lite.files import write_atomically
from sto_lite.layouts import CLASSES, SIDE, SPLITS, USAGES, Arrays

OFFICIAL = {"train": 28_709, "public": 3_589, "private": 3_589}  # images
_SUFFIXES = (".csv", *layouts.IMAGE_SUFFIXES)
_RECORD_VERSION = 1


@dataclass(frozen=True)
class Audit:
    """What is odd in the data. Two images are copies when all their pixels are equal.

    counts: images of each class, per split; copies: images that repeat another of any split (all minus
    distinct); copies_within: the same within one split; public_in_train, private_in_train, private_in_public:
    images of the first split that also stand in the second; conflicts: groups of copies with more than one
    label; black: images that are all zero.
    """

    counts: dict[str, list[int]]
    copies: int
    copies_within: dict[str, int]
    public_in_train: int
    private_in_train: int
    private_in_public: int
    conflicts: int
    black: int

    def __str__(self) -> str:
        rows = [["", *CLASSES, "total", "copies"]]
        for split, counts in self.counts.items():
            rows.append([split, *(f"{n:,}" for n in (*counts, sum(counts), self.copies_within[split]))])
        table = ["".join([row[0].ljust(8), *(cell.rjust(9) for cell in row[1:])]) for row in rows]
        return "\n".join(
            [
                *table,
                f"exact copies of another image, all splits together: {self.copies:,}",
                f"test images that also stand in train: {self.public_in_train:,} public, "
                f"{self.private_in_train:,} private; private images in public: {self.private_in_public:,}",
                f"groups of copies with conflicting labels: {self.conflicts:,}; "
                f"all-black images: {self.black:,}",
            ]
        )


def audit(arrays: Mapping[str, np.ndarray]) -> Audit:
    """Count classes, copies and conflicts in {train,public,private}_images, (N,48,48), and _labels, (N,)."""
    pictures: dict[str, list[bytes]] = {}
    labels_of: dict[bytes, set[int]] = defaultdict(set)
    for split in SPLITS:
        images, labels = np.ascontiguousarray(arrays[f"{split}_images"]), arrays[f"{split}_labels"]
        pictures[split] = [hashlib.sha256(image).digest() for image in images]
        for picture, label in zip(pictures[split], labels.tolist(), strict=True):
            labels_of[picture].add(label)
    distinct = {split: set(found) for split, found in pictures.items()}
    black = hashlib.sha256(bytes(SIDE * SIDE)).digest()

    def stand_in(split: str, other: str) -> int:
        return sum(picture in distinct[other] for picture in pictures[split])

    return Audit(
        counts={s: np.bincount(arrays[f"{s}_labels"], minlength=len(CLASSES)).tolist() for s in SPLITS},
        copies=sum(map(len, pictures.values())) - len(labels_of),
        copies_within={split: len(found) - len(distinct[split]) for split, found in pictures.items()},
        public_in_train=stand_in("public", "train"),
        private_in_train=stand_in("private", "train"),
        private_in_public=stand_in("private", "public"),
        conflicts=sum(len(labels) > 1 for labels in labels_of.values()),
        black=sum(found.count(black) for found in pictures.values()),
    )


def fer2013(source: Path, root: Path, report: Callable[[str], None] = print) -> Path:
    """Read FER-2013 from `source`, check every row or image, and write `root/fer2013.npz`; returns its path.

    source: fer2013.csv or icml_face_data.csv, the image folders train/<class> and test/<class>, a folder that
    holds either, or a zip or tar of it. The prepared file is an uncompressed npz of
    {train,public,private}_images, uint8 (N,48,48), and _labels, uint8 (N,); equal data give equal bytes.
    `root/fer2013.json` beside it records the source, the checksum and the audit; while the source's size and
    times and the prepared file's bytes match it, nothing is read again. `report` gets the audit as text.
    Raises DataError, and then leaves a prepared file that stands in `root` as it was.
    """
    source, root = Path(source), Path(root)
    target, side = root / "fer2013.npz", root / "fer2013.json"
    state = archives.state(source, _SUFFIXES)
    origin = {"version": _RECORD_VERSION, "source": os.path.realpath(source), "state": state}
    if (text := _still_valid(side, target, origin)) is not None:
        report(f"{text}\nnothing has changed since it was prepared: not read again")
        return target
    with archives.opened(source) as members:
        arrays, notices = layouts.read(source, members)
    for split in SPLITS:
        if not len(arrays[f"{split}_labels"]):
            raise DataError(
                f"{shown(source)}: holds no {split} images; all of {', '.join(USAGES)} are needed"
            )
    if archives.state(source, _SUFFIXES) != state:
        raise DataError(
            f"{shown(source)}: changed while it was read; wait until it is complete, then try again"
        )
    sizes = {split: len(arrays[f"{split}_labels"]) for split in OFFICIAL}
    if sizes != OFFICIAL:
        told = ", ".join(f"{split} {sizes[split]:,} of {OFFICIAL[split]:,}" for split in OFFICIAL)
        notices.append(f"notice: not the whole of FER-2013, or a changed copy: {told} images")
    found = audit(arrays)
    text = "\n".join([f"FER-2013 from {shown(source)}", *notices, str(found)])
    data = _npz(arrays)
    _write(target, data)
    record = origin | {"sha256": hashlib.sha256(data).hexdigest(), "audit": asdict(found), "report": text}
    _write(side, (json.dumps(record, indent=1) + "\n").encode())
    report(text)
    return target


def _still_valid(side: Path, target: Path, origin: Mapping[str, object]) -> str | None:
    """The recorded report, if the record is of this source in this state and of the prepared file's bytes."""
    try:
        record = json.loads(side.read_bytes())
        if any(record[key] != value for key, value in origin.items()):
            return None
        with open(target, "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]
        return record["report"] if same and isinstance(record["report"], str) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _npz(arrays: Arrays) -> bytes:
    """The arrays as an uncompressed npz with fixed dates, so that equal arrays give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for split in SPLITS:
            for key in (f"{split}_images", f"{split}_labels"):
                entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                with archive.open(entry, "w") as file:
                    np.lib.format.write_array(file, arrays[key], version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Write in one step: `path` holds the old bytes or the new ones, whatever happens meanwhile."""
    try:
        write_atomically(path, data)
    except OSError as fault:
        reason = fault.strerror or shown(fault)
        raise DataError(
            f"{shown(path)}: cannot be written: {reason}; {len(data) / 1e6:.1f} MB must fit there, "
            f"or STO_DATA must name another folder"
        ) from fault
