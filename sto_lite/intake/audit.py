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
        """A table with a column for each class, or of many classes how many there are and how large; and the rest."""
        many = len(self.classes) > _COLUMNS
        rows = [["", *(("classes", "images a class") if many else self.classes), "total", "copies"]]
        for split, counts in self.counts.items():
            low, high = min(counts), max(counts)
            range_ = f"{low:,} to {high:,}" if high > low else f"{low:,}"
            cells = [f"{np.count_nonzero(counts)}", range_] if many else [f"{n:,}" for n in counts]
            rows.append([split, *cells, f"{sum(counts):,}", f"{self.copies_within[split]:,}"])
        widths = [max(9, len(name) + 1) for name in rows[0][1:]]
        first, *others = self.counts
        shared = [f"{self.stand_in[f'{split}_in_{first}']:,} {split}" for split in others]
        told = ", ".join(shared) if len(shared) > 1 else "".join(shared).partition(" ")[0]
        between = [f"test images that also stand in train: {told}"]
        for i, split in enumerate(others):
            between += [f"{split} images in {o}: {self.stand_in[f'{split}_in_{o}']:,}" for o in others[:i]]
        return "\n".join(
            [
                *("".join([f"{split:8}", *map(str.rjust, cells, widths)]) for split, *cells in rows),
                f"exact copies of another image, all splits together: {self.copies:,}",
                "; ".join(between),
                f"groups of copies with conflicting labels: {self.conflicts:,}; all-black images: {self.black:,}",
            ]
        )


def audit(arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> Audit:
    """Count classes, copies and conflicts in {split}_images, (N,H,W) or (N,H,W,3), and {split}_labels, (N,)."""
    splits = [key.removesuffix("_labels") for key in arrays if key.endswith("_labels")]
    pictures = {s: [hashlib.sha256(image).digest() for image in arrays[f"{s}_images"]] for s in splits}
    distinct = {split: set(found) for split, found in pictures.items()}
    labels_of: dict[bytes, set[int]] = defaultdict(set)
    for split in splits:
        for picture, label in zip(pictures[split], arrays[f"{split}_labels"].tolist(), strict=True):
            labels_of[picture].add(label)
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
        black=sum(not image.any() for split in splits for image in arrays[f"{split}_images"]),
    )
