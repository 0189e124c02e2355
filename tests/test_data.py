"""Chapter 1 and 7: loading, and batches made in a few tensor operations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sto_lite import data, sets
from sto_lite.data import Batches, ImageSet, Split
from sto_lite.errors import DataError
from sto_lite.faces import EXPRESSIONS
from tests.processes import look_alike
from tests.samples import rng


def split(count=10, channels=1, size=6, seed=0):
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=rng(seed))
    return Split(images, torch.arange(count) % 7)


def test_normalisation_by_hand():
    s = Split(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1), torch.tensor([0, 1, 2]))
    batches = Batches(s, torch.tensor([0.5]), torch.tensor([0.25]), augment=False)
    ((images, labels),) = batches.in_order()
    assert images.shape == (3, 3, 1, 1)
    assert images[:, 0, 0, 0].tolist() == pytest.approx([-2.0, -1.2, 2.0], abs=1e-6)
    assert images[:, 0].equal(images[:, 1]) and images[:, 0].equal(images[:, 2])
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_deviation_are_those_of_every_pixel(channels):
    images = ImageSet("x", ("a",), {"train": split(50, channels), "test": split(5, channels, seed=1)})
    pixels = images.splits["train"].images.double() / 255
    mean, std = images.mean_std
    assert mean.shape == std.shape == (channels,) and mean.dtype == torch.float32
    assert mean.equal(pixels.mean(dim=(0, 2, 3)).float()) and std.equal(pixels.std(dim=(0, 2, 3)).float())


def test_names_of_the_sets_and_of_their_classes():
    assert data.DATA_SETS == ("faces", "fer2013", "rafdb", "cifar100")
    assert sets.FER2013.classes == EXPRESSIONS, "label for label: a network can go from one to the other"
    assert len(sets.RAFDB.classes) == len(set(sets.RAFDB.classes)) == 7


@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmented_image_is_a_crop_of_the_padded_one_or_its_mirror(channels):
    s = split(40, channels)
    batches = Batches(s, *(torch.ones(channels),) * 2, batch_size=16)
    padded = np.pad(s.images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    generator = rng(3)
    order = torch.randperm(40, generator=generator)
    corner = torch.randint(0, 9, (40, 2), generator=generator)
    flip = torch.rand(40, generator=generator) < 0.5
    assert flip.any() and not flip.all()
    seen = 0
    for images, labels in batches.epoch(rng(3)):
        raw = ((images + 1) * 255).round().to(torch.uint8)
        for image, label in zip(raw, labels, strict=True):
            i, (y, x) = order[seen], corner[seen]
            crop = padded[i, :, y : y + 6, x : x + 6]
            crop = crop[..., ::-1] if flip[seen] else crop
            assert (image.numpy() == np.broadcast_to(crop, (3, 6, 6))).all()
            assert label == s.labels[i]
            seen += 1
    assert seen == 40


def test_an_epoch_shows_every_image_once_and_keeps_the_last_batch():
    s = Split(torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1), torch.arange(10))
    batches = Batches(s, torch.ones(1), torch.ones(1), batch_size=4, augment=False)
    epochs = [[labels for _, labels in batches.epoch(g)] for g in [rng(0)] for _ in range(2)]
    assert [len(b) for b in epochs[0]] == [4, 4, 2] and len(batches) == 3
    assert sorted(torch.cat(epochs[0]).tolist()) == list(range(10))
    assert torch.cat(epochs[0]).tolist() != torch.cat(epochs[1]).tolist()


def test_fingerprint_sees_every_change():
    def fingerprint(train, test, name="x"):
        return ImageSet(name, ("a",), {"train": train, "test": test}).fingerprint

    one, other, changed, relabelled = split(5), split(5, seed=1), split(5), split(5)
    changed.images[2, 0, 1, 1] ^= 1
    relabelled.labels[0] = 6
    assert fingerprint(one, other) == fingerprint(split(5), split(5, seed=1), "y")
    pairs = ((one, other), (changed, other), (relabelled, other), (other, one))
    assert len({fingerprint(*pair) for pair in pairs}) == 4


def test_fer2013_loads_and_is_resized(tmp_path, monkeypatch):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    arrays = np.load(look_alike(tmp_path, count=30))
    full = data.load("fer2013", size=48)
    assert list(full.splits) == ["train", "public", "private"]
    assert list(full.test_splits) == ["public", "private"]
    assert (full.splits["public"].images[:, 0].numpy() == arrays["public_images"]).all()
    assert (full.splits["private"].labels.numpy() == arrays["private_labels"]).all()
    small = data.load("fer2013", size=24, limit=12)
    assert small.splits["train"].images.shape == (12, 1, 24, 24) and len(small.splits["private"]) == 30
    again = data.load("fer2013", size=24, limit=12)
    assert small.fingerprint == again.fingerprint != data.load("fer2013", size=24, limit=13).fingerprint


def test_photographs_are_known_by_their_own_pixels_whatever_resizing_does(tmp_path, monkeypatch):
    """Kinds of processors differ in a resized pixel's last bit; requeued on another, a run is the same."""
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    look_alike(tmp_path, count=30)
    here = data.load("fer2013", size=24, limit=12)
    exact = data.resize
    monkeypatch.setattr(data, "resize", lambda images, size: exact(images, size) ^ 1)  # another last bit
    there = data.load("fer2013", size=24, limit=12)
    assert here.fingerprint == there.fingerprint and here.resized_fingerprint != there.resized_fingerprint
    assert here.fingerprint == data.load("fer2013", size=20, limit=12).fingerprint  # size has its own place
    touched = replace(here, splits={**here.splits, "train": there.splits["train"]})
    assert touched.fingerprint not in (here.fingerprint, here.resized_fingerprint)


def test_a_subset_is_another_draw_of_the_training_images():
    first, again, other = (data.load("faces", size=8, limit=50, subset=k) for k in (0, 3, 3))
    assert again.fingerprint == other.fingerprint != first.fingerprint
    assert torch.equal(first.splits["test"].images, other.splits["test"].images)
    assert "subset" not in first.settings and other.settings["subset"] == 3
    with pytest.raises(DataError, match="goes with a limit"):
        data.load("faces", size=8, subset=1)


def test_resizing_is_antialiased():
    checkers = (torch.arange(48)[:, None] + torch.arange(48)) % 2 * 255
    small = data.resize(checkers.to(torch.uint8)[None, None], 24)
    assert small.float().std() < 20, "a fine checkerboard turns grey, and does not alias"
    flat = torch.full((1, 1, 48, 48), 200, dtype=torch.uint8)
    assert data.resize(flat, 32).eq(200).all()


def test_faces_are_always_the_same_and_noise_is_in_training_labels_alone():
    data_a, data_b = data.load("faces", size=16, limit=200), data.load("faces", size=16, limit=200)
    assert data_a.fingerprint == data_b.fingerprint
    noisy = data.load("faces", size=16, label_noise=0.3)
    clean = data.load("faces", size=16)
    changed = (noisy.splits["train"].labels != clean.splits["train"].labels).double().mean().item()
    assert changed == pytest.approx(0.3, abs=0.03)
    assert noisy.splits["test"].labels.equal(clean.splits["test"].labels)


def test_no_face_is_in_both_splits_and_both_have_the_difficulty(monkeypatch):
    monkeypatch.setattr(data, "FACES_TRAIN", 70)
    monkeypatch.setattr(data, "FACES_TEST", 70)
    clean, usual = (data.load("faces", size=16, difficulty=difficulty).splits for difficulty in (0.0, 1.0))
    assert not any(clean[split].images.equal(usual[split].images) for split in usual)
    train, test = ({image.numpy().tobytes() for image in split.images} for split in usual.values())
    assert not train & test


def test_a_limit_of_none_or_more_than_there_are_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    look_alike(tmp_path, count=30)
    for limit in (0, 31):
        with pytest.raises(DataError, match="30 training images"):
            data.load("fer2013", limit=limit)
