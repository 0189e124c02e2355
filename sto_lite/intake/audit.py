"""What is odd in an image set: copies, conflicting labels, black images (chapter 1)."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_COLUMNS = 10  # classes that a table has room for


@dataclass(frozen=True)
class Audit:
    """What is odd in the data. Two images are copies when all their pixels are equal.

    classes: their names; counts: images of each class, per split; copies: images that repeat another of any
    split (all minus distinct); copies_within: the same within one split; stand_in: images of one split that
    also stand in an earlier one, as "public_in_train"; conflicts: groups of copies with more than one label;
    black: images that are all zero.
    """

    classes: tuple[str, ...]
    counts: dict[str, list[int]]
    copies: int
    copies_within: dict[str, int]
    stand_in: dict[str, int]
    conflicts: int
    black: int

    def __str__(self) -> str:
        return "\n".join(
            [
                *self._table(),
                f"exact copies of another image, all splits together: {self.copies:,}",
                self._across(),
                f"groups of copies with conflicting labels: {self.conflicts:,}; "
                f"all-black images: {self.black:,}",
            ]
        )

    def _table(self) -> list[str]:
        """A column for each class; of many classes, how many there are and the range of their sizes."""
        few = len(self.classes) <= _COLUMNS
        rows = [["", *(self.classes if few else ("classes", "images a class")), "total", "copies"]]
        for split, counts in self.counts.items():
            cells = [f"{n:,}" for n in counts]
            if not few:
                low, high = min(counts), max(counts)
                cells = [f"{np.count_nonzero(counts)}", f"{low:,}" + (f" to {high:,}" if high > low else "")]
            rows.append([split, *cells, f"{sum(counts):,}", f"{self.copies_within[split]:,}"])
        widths = [max(9, len(name) + 1) for name in rows[0]]
        return [
            "".join([row[0].ljust(8), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]

    def _across(self) -> str:
        first, *others = self.counts
        in_first = [f"{self.stand_in[f'{split}_in_{first}']:,} {split}" for split in others]
        if len(others) == 1:
            in_first = [in_first[0].removesuffix(f" {others[0]}")]
        between = [
            f"{split} images in {other}: {self.stand_in[f'{split}_in_{other}']:,}"
            for i, split in enumerate(others)
            for other in others[:i]
        ]
        return "; ".join([f"test images that also stand in {first}: {', '.join(in_first)}", *between])


def audit(arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> Audit:
    """Count classes, copies and conflicts in {split}_images, (N,H,W) or (N,H,W,3), and {split}_labels, (N,)."""
    splits = [key.removesuffix("_labels") for key in arrays if key.endswith("_labels")]
    pictures: dict[str, list[bytes]] = {}
    labels_of: dict[bytes, set[int]] = defaultdict(set)
    black = 0
    for split in splits:
        images, labels = np.ascontiguousarray(arrays[f"{split}_images"]), arrays[f"{split}_labels"]
        pictures[split] = [hashlib.sha256(image).digest() for image in images]
        black += sum(not image.any() for image in images)
        for picture, label in zip(pictures[split], labels.tolist(), strict=True):
            labels_of[picture].add(label)
    distinct = {split: set(found) for split, found in pictures.items()}
    return Audit(
        classes=tuple(classes),
        counts={s: np.bincount(arrays[f"{s}_labels"], minlength=len(classes)).tolist() for s in splits},
        copies=sum(map(len, pictures.values())) - len(labels_of),
        copies_within={split: len(found) - len(distinct[split]) for split, found in pictures.items()},
        stand_in={
            f"{split}_in_{other}": sum(picture in distinct[other] for picture in pictures[split])
            for i, split in enumerate(splits)
            for other in splits[:i]
        },
        conflicts=sum(len(labels) > 1 for labels in labels_of.values()),
        black=black,
    )
