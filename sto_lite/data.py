"""Image sets as uint8 tensors, and mini-batches made on the device (chapters 1 and 7)."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sto_lite.errors import DataError, out_of_memory, shown
from sto_lite.faces import EXPRESSIONS, generate
from sto_lite.files import expand
from sto_lite.sets import DATA_SETS, PUBLISHED, Published

NAME = "[a-z][a-z0-9_-]{0,39}"  # of a set
FACES_TRAIN, FACES_TEST = 4000, 2000  # images of the synthetic set


@dataclass(frozen=True)
class Split:
    """images: (N, C, H, W) uint8. labels: (N,) int64; or, for training, shares of the classes, (N, C) float32."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """The same images and labels on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageSet:
    """A labelled image set, small enough to live in memory.

    splits: "train" first, then the test splits; the last one gives the headline error.
    settings: what it was made with, for the record; empty for photographs.
    source: fingerprint of the pixels before they were resized; `load` sets it, and a changed copy has none.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    settings: Mapping[str, float] = field(default_factory=dict)
    source: str = field(default="", init=False)

    @property
    def test_splits(self) -> dict[str, Split]:
        """Every split but "train"."""
        return {name: split for name, split in self.splits.items() if name != "train"}

    @cached_property
    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training pixels, (C,) each, for pixels scaled to [0, 1]."""
        values = torch.arange(256, dtype=torch.float64) / 255
        channels = self.splits["train"].images.cpu().unbind(1)
        counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in channels]).double()
        pixels = counts.sum(1)
        mean = counts @ values / pixels
        variance = (counts * (values - mean[:, None]) ** 2).sum(1) / (pixels - 1)
        return mean.float(), variance.sqrt().float()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any pixel, label or split.

        Of photographs they are made before resizing, whose last bits differ between kinds of processors.
        """
        return self.source or self.resized_fingerprint

    @cached_property
    def resized_fingerprint(self) -> str:
        """The same of the pixels as they are now, which records of format 1 hold."""
        return digest(self.splits)


def digest(splits: Mapping[str, Split]) -> str:
    """16 hexadecimal digits that change with any pixel, label or split."""
    sha = hashlib.sha256()
    for name, split in splits.items():
        sha.update(f"{name} {tuple(split.images.shape)}".encode())
        sha.update(split.images.cpu().numpy().tobytes())
        sha.update(split.labels.cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


def root(name: str = "") -> Path:
    """The folder of prepared sets: $STO_DATA; else data/ in the working folder or above it.

    The search ends at the clone or the home folder, and above the working folder never takes a machine's own /data.

    Args:
        name: of a set that is to be read; the nearest folder that holds it is taken, if one does.
    """
    if chosen := os.environ.get("STO_DATA"):
        return expand(chosen)
    here, home, folders = Path.cwd(), expand("~"), []
    for folder in (here, *here.parents):
        if folder == here or folder != folder.parent:
            folders.append(folder / "data")
        if folder == home or (folder / ".git").exists() or (folder / "sto_lite" / "scale.py").exists():
            break
    holding = [folder for folder in folders if name and (folder / f"{name}.npz").exists()]
    there = [folder for folder in folders if folder.is_dir()]
    return next(iter([*holding, *there]), folders[0])


def prepared(name: str) -> bool:
    """Whether `load` finds this set here; the synthetic faces it always finds.

    Raises:
        DataError: there is no such set.
    """
    there = name == "faces" or (re.fullmatch(NAME, name) and (root(name) / f"{name}.npz").exists())
    if name not in DATA_SETS and not there:
        raise no_such_set(name)
    return bool(there)


def no_such_set(name: str) -> DataError:
    """What to do where a set is neither published nor prepared."""
    return DataError(
        f"no image set is called {name!r} here; there are {', '.join(DATA_SETS)}, and your own pictures after "
        f"python -m sto_lite prepare NAME --folder PATH"
    )


def how_to_prepare(name: str) -> str:
    """What to do where a published set is missing."""
    download = " or --download" if PUBLISHED[name].url else ""
    return (
        f"get the set as data/README.md says, then run python -m sto_lite prepare {name} --from PATH{download} (or "
        f"point STO_DATA at the folder that holds it)"
    )


def load(
    name: str,
    size: int = 32,
    limit: int | None = None,
    difficulty: float = 1.0,
    label_noise: float = 0.0,
    subset: int = 0,
    votes: bool = False,
) -> ImageSet:
    """An image set by its name, resized to size × size pixels.

    Args:
        name: "faces" (synthetic, made on the spot); or "fer2013", "rafdb", "cifar100" or your own set's, after
            `python -m sto_lite prepare` has brought them to disk.
        size: pixels; the paper's value is 32. Photographs are resized by antialiased bilinear interpolation.
        limit: keep so many training images, drawn at random but always alike; None keeps all.
        subset: which draw of them, a seed; another number keeps other images.
        difficulty: of the synthetic faces, 0 to 2.
        label_noise: share of wrong labels among the synthetic training faces; their test labels stay right.
        votes: the training labels of fer2013 are shares of FER+'s votes for its seven classes (chapter 11). Images
            that got none make room for the next of the draw; the test labels stay FER-2013's.

    Returns:
        Colour sets have three channels; gray ones have one, and `Batches` repeats it to three, as the paper does.

    Raises:
        DataError: no such set; it is not prepared, or without votes; its file is damaged; size is 0; limit exceeds
            the training images; difficulty or label noise is asked of photographs, votes of another set; a subset of
            all images.
    """
    classes: tuple[str, ...] = EXPRESSIONS
    if size < 1:
        raise DataError(f"size is at least 1 pixel; {size} is not")
    settings: dict[str, float] = (
        {"difficulty": difficulty, "label_noise": label_noise} if name == "faces" else {}
    )
    if subset:
        if limit is None:
            raise DataError("subset chooses which training images limit keeps, so it goes with a limit")
        settings["subset"] = subset
    if name != "faces" and (difficulty, label_noise) != (1.0, 0.0):
        raise DataError(f"difficulty and label_noise are settings of the synthetic faces; {name} has none")
    if votes:
        if name != "fer2013":
            raise DataError(
                f"votes are FER+'s on the images of FER-2013, so they go with fer2013; {name} has none"
            )
        settings["votes"] = True
    if name == "faces":
        splits = {
            "train": Split(
                *generate(FACES_TRAIN, size, seed=1, difficulty=difficulty, label_noise=label_noise)
            ),
            "test": Split(*generate(FACES_TEST, size, seed=2, difficulty=difficulty)),
        }
    elif name in PUBLISHED or prepared(name):
        splits, classes = _photographs(PUBLISHED.get(name) or Published.own(name), root(name))
    if votes:
        splits["train"] = Split(splits["train"].images, _shares(root(name)))
    if votes or limit is not None:
        splits["train"] = _subset(splits["train"], limit, subset)
    if name == "faces":
        return ImageSet(name, classes, splits, settings)
    source = digest(splits)
    for split, full in list(splits.items()):  # one after the other, so that the set is never there twice
        splits[split] = Split(resize(full.images, size), full.labels)
    images = ImageSet(name, classes, splits, settings)
    object.__setattr__(images, "source", source)
    return images


def resize(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) uint8 -> (N, C, size, size) uint8 by antialiased bilinear interpolation."""
    if images.shape[-2:] == (size, size):
        return images.contiguous()
    return torch.cat(
        [
            F.interpolate(part.contiguous().float(), (size, size), mode="bilinear", antialias=True)
            .round()
            .to(torch.uint8)
            for part in images.split(1024)
        ]
    )


def _subset(split: Split, limit: int | None, seed: int) -> Split:
    """The first of a draw; None takes all, in their order. Images without any share of a class are passed over."""
    order = torch.arange(len(split))
    if limit is not None:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    if split.labels.dim() == 2:
        order = order[split.labels[order].any(dim=1)]
    if limit is not None and not 1 <= limit <= len(order):
        raise DataError(
            f"limit is {limit}, but there are {len(order)} training images; take 1 to {len(order)}"
        )
    keep = order[:limit]
    return Split(split.images[keep], split.labels[keep])


def _shares(folder: Path) -> Tensor:
    """(N, 7) shares of the votes for FER-2013's classes; zeros where there was none for these, or no face."""
    from sto_lite.intake import votes

    counts, rated = votes.read("train", folder)
    mine = torch.from_numpy(counts[:, np.argsort(votes.FER2013_LABELS)]).float()
    mine[~torch.from_numpy(rated)] = 0
    return mine / mine.sum(dim=1, keepdim=True).clamp(min=1)


def _photographs(published: Published, folder: Path) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The prepared splits of a published set in their own size, and the names of its classes."""
    path = folder / f"{published.name}.npz"
    if not path.exists():
        raise DataError(
            f"{published.title} is not prepared: {path} does not exist; {how_to_prepare(published.name)}"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            classes = published.classes or tuple(map(str, file["classes"].tolist()))
            splits = {}
            own = [key.removesuffix("_labels") for key in file.files if key.endswith("_labels")]
            for split in published.splits or own:
                images, labels = file[f"{split}_images"], file[f"{split}_labels"]
                _check(published, split, images, labels, len(classes))
                pixels = torch.from_numpy(images)
                pixels = pixels.permute(0, 3, 1, 2) if pixels.dim() == 4 else pixels[:, None]
                splits[split] = Split(pixels, torch.from_numpy(labels).long())
            return splits, classes
    except Exception as error:  # on damaged bytes NumPy and zipfile raise errors of many kinds
        if out_of_memory(error):
            raise
        reason = shown(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise DataError(
                f"{path} cannot be read ({reason}); it may be whole, so see to the disk"
            ) from error
        raise DataError(
            f"{path} is damaged ({reason}); delete it and prepare {published.title} again"
        ) from error


def _check(published: Published, split: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Raise ValueError for arrays that `prepare` does not write."""
    shape = published.shape or (*images.shape[1:2] * 2, *((3,) if images.ndim == 4 else ()))
    if images.dtype != np.uint8 or images.ndim < 1 or images.shape[1:] != shape:
        wanted = ", ".join(("N", *map(str, shape)))
        raise ValueError(f"{split}_images are {images.dtype} {images.shape}, not uint8 ({wanted})")
    if labels.dtype != np.uint8 or labels.shape != (len(images),) or not len(labels):
        raise ValueError(
            f"{split}_labels are {labels.dtype} {labels.shape}, not uint8 for each of {len(images)} images"
        )
    if labels.max() >= classes:
        raise ValueError(f"{split}_labels hold {labels.max()}, but there are {classes} classes")


class Batches:
    """Mini-batches of one split, normalised and, for training, shuffled, cropped and flipped, made on the device.

    The whole split lives there as uint8. Augmentation is one indexing operation: with images padded by 4 black
    pixels, a crop is a choice of rows and columns, and a flip reverses the columns (chapter 7).

    Args:
        split: images (N, C, H, W) uint8 and labels.
        mean, std: (C,) of pixels in [0, 1].
        batch_size: the last batch of an epoch may be smaller; it is kept.
        augment: random crops of the padded images and horizontal flips.
        pad: zero pixels on each side from which crops are taken.
        device: where the batches are made.
    """

    def __init__(
        self,
        split: Split,
        mean: Tensor,
        std: Tensor,
        batch_size: int = 128,
        augment: bool = True,
        pad: int = 4,
        device: torch.device | str = "cpu",
    ):
        self.split = split.to(device)
        self.batch_size, self.augment, self.pad = batch_size, augment, pad
        self.scale = (1 / (255 * std)).to(device)
        self.shift = (-mean / std).to(device)
        self.padded = F.pad(self.split.images, (pad,) * 4) if augment else self.split.images

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.split) // self.batch_size)

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in random order: images (B, 3, H, W) float32 in channels_last memory, labels (B,) or (B, C).

        Every random number of the epoch is drawn from the generator (on the CPU) at its start.
        """
        device, count = self.split.images.device, len(self.split)
        order = torch.randperm(count, generator=generator)
        corner = torch.randint(0, 2 * self.pad + 1, (count, 2), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5
        order, corner, flip = order.to(device), corner.to(device), flip.to(device)
        # A GPU waits less for few large operations, a CPU keeps a batch in its cache.
        step = self.batch_size * (64 if device.type == "cuda" else 1)
        for start in range(0, count, step):
            part = slice(start, start + step)
            images = self.normalise(self.augmented(order[part], corner[part], flip[part]))
            yield from zip(
                images.split(self.batch_size),
                self.split.labels[order[part]].split(self.batch_size),
                strict=True,
            )

    def augmented(self, i: Tensor, corner: Tensor, flip: Tensor) -> Tensor:
        """Images i (B,) as (B, C, H, W) uint8: cropped at corner (B, 2) of the padded ones, and flipped or not."""
        if not self.augment:
            return self.padded[i]
        height, width = self.split.images.shape[-2:]
        y = torch.arange(height, device=i.device)
        x = torch.arange(width, device=i.device)
        rows = corner[:, 0, None] + y
        columns = corner[:, 1, None] + torch.where(flip[:, None], width - 1 - x, x)
        crops = self.padded[i[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return crops.permute(0, 3, 1, 2)

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in the split's own order, without augmentation; shapes as in epoch."""
        for images, labels in zip(
            self.split.images.split(self.batch_size), self.split.labels.split(self.batch_size), strict=True
        ):
            yield self.normalise(images), labels

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, 3, H, W) float32 of mean 0 and deviation 1; gray is repeated to RGB."""
        images = torch.addcmul(self.shift[:, None, None], pixels.float(), self.scale[:, None, None])
        return images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
