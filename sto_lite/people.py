"""What labels mean and whom errors hit: votes of several people, traits that go along with a label (chapter 11)."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sto_lite.about import wilson
from sto_lite.data import ImageSet, Split
from sto_lite.faces import EXPRESSIONS, generate

# -------------------------------------------------------------------- faces with a trait of our choice

TRAITS = {  # a trait -> its name in faces.LOOK, the value without it, the value with it
    "glasses": ("glasses", -1.0, 0.6),
    "thick brows": ("brow_thickness", 0.022, 0.056),
    "dark skin": ("skin", 0.88, 0.48),
}


def having(labels: Tensor, label: int, strength: float, generator: torch.Generator) -> Tensor:
    """Who has the trait, (N,) booleans: (1 + strength) / 2 of this label's faces, (1 - strength) / 2 of others.

    Strength 0 is chance; at 1 the trait is the label.
    """
    share = torch.where(labels == label, (1 + strength) / 2, (1 - strength) / 2)
    return torch.rand(len(labels), generator=generator) < share


def draw_with(
    trait: str, has: Tensor, num_images: int, size: int, seed: int, difficulty: float = 0.5
) -> Split:
    """`faces.generate` with the trait put on those that have it, (N,) booleans, and taken off all others."""
    name, without, worn = TRAITS[trait]
    look = {name: torch.where(has, worn, without)}
    return Split(*generate(num_images, size, seed, difficulty, looks=lambda labels: look))


def biased(
    trait: str, label: str, strength: float, num_images: int, size: int, seed: int, tests: int = 1400
) -> tuple[ImageSet, Tensor]:
    """Faces whose trait goes along with a label in training, and with nothing in the test.

    Returns the set, and who of its training faces has the trait. The test splits "without" and "with" hold the same
    faces, drawn twice: what changes between them is the trait alone.
    """
    dice, number = torch.Generator().manual_seed(seed), EXPRESSIONS.index(label)
    _, labels = generate(num_images, 8, seed)  # the labels do not depend on the size
    has = having(labels, number, strength, dice)
    splits = {"train": draw_with(trait, has, num_images, size, seed)}
    for name, worn in (("without", False), ("with", True)):
        splits[name] = draw_with(trait, torch.full((tests,), worn), tests, size, 2)
    return ImageSet("faces", EXPRESSIONS, splits), has


def balanced(images: ImageSet, has: Tensor) -> ImageSet:
    """The set with training images repeated until, in every class, both groups are equally many.

    An image that stands there k times weighs k times as much in the loss. A class that lacks a group stays as it is:
    there is nothing to repeat.
    """
    train, chosen = images.splits["train"], []
    if train.labels.is_floating_point():
        raise ValueError("balanced weighs the images of a class, so it takes a class for each, and no votes")
    for label in train.labels.unique():
        groups = [(train.labels == label).logical_and(has == g).nonzero()[:, 0] for g in (False, True)]
        most = max(map(len, groups))
        chosen += [g.repeat(math.ceil(most / len(g)))[:most] for g in groups if len(g)]
    kept = torch.cat(chosen)
    return ImageSet(
        images.name, images.classes, {**images.splits, "train": Split(train.images[kept], train.labels[kept])}
    )


# ----------------------------------------------------------------------------- votes of several people


def plurality(votes: ArrayLike) -> np.ndarray:
    """Which answers have most votes, (N, C) booleans from counts (N, C); several in a row are a tie."""
    votes = np.asarray(votes)
    return votes == votes.max(axis=1, keepdims=True)


def agreement(votes: ArrayLike) -> float:
    """How often (%) two random people of an image gave it the same answer; counts (N, C), 2 a row or more."""
    votes = np.asarray(votes, float)
    people = votes.sum(axis=1)
    return 100 * float(np.mean((votes * (votes - 1)).sum(axis=1) / (people * (people - 1))))


class Share(NamedTuple):
    """A share (%) with its Wilson interval, and of how many."""

    share: float
    low: float
    high: float
    images: int


def share(hits: int, count: int, level: float = 0.95) -> Share:
    """A share with its interval; without anybody counted, NaN and all of 0 to 100."""
    low, high = wilson(hits, count, level)
    return Share(100 * hits / count if count else math.nan, low, high, count)


# ------------------------------------------------------------------------------------- errors by group


def errors_by_group(predictions: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> dict[Any, Share]:
    """The error of each group with its interval; all three (N,), groups of any kind of value."""
    wrong, groups = np.asarray(predictions) != np.asarray(labels), np.asarray(groups)
    each = np.unique(groups).tolist()
    return {g: share(int(wrong[groups == g].sum()), int((groups == g).sum())) for g in each}


def falsely(said: ArrayLike, label: int) -> float:
    """Share (%) of the faces of other classes that are called `label`; counts (C, C), labels × predictions."""
    others = np.delete(np.asarray(said), label, axis=0)
    return 100 * float(others[:, label].sum() / others.sum())


def images_for_gap(error: float, gap: float, share: float, power: float = 0.8, level: float = 0.95) -> int:
    """Test images in all, to see that a group's error lies `gap` points above that of the rest.

    Args:
        error: of the rest in %.
        gap: of the group, in points; error + gap stays below 100.
        share: of the group among the images, above 0 and below 1.
        power: probability to see it.
        level: one minus the false-alarm rate of the two-sided test of two shares, in the normal approximation.
    """
    from scipy.stats import norm

    p, q = error / 100, (error + gap) / 100
    if not (0 < share < 1 and gap > 0 <= p < q < 1):
        raise ValueError("share lies between 0 and 1, gap is above 0, and error + gap is below 100")
    pooled = share * q + (1 - share) * p
    null = math.sqrt(pooled * (1 - pooled) / (share * (1 - share)))
    true = math.sqrt(q * (1 - q) / share + p * (1 - p) / (1 - share))
    return math.ceil(((norm.ppf((1 + level) / 2) * null + norm.ppf(power) * true) / (q - p)) ** 2)
