"""What labels mean and whom errors hit: votes of several people, traits that go along with a label (chapter 11)."""

import math

import torch
from torch import Tensor

from sto_lite.data import ImageSet, Split
from sto_lite.faces import EXPRESSIONS, generate

# --------------------------------------------------------------------------------- faces with a trait of our choice

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
    for label in train.labels.unique():
        groups = [(train.labels == label).logical_and(has == g).nonzero()[:, 0] for g in (False, True)]
        most = max(map(len, groups))
        chosen += [g.repeat(math.ceil(most / len(g)))[:most] for g in groups if len(g)]
    kept = torch.cat(chosen)
    return ImageSet(
        images.name, images.classes, {**images.splits, "train": Split(train.images[kept], train.labels[kept])}
    )
