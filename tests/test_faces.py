"""The synthetic faces: what `generate` promises, and that each action unit moves what FACS says it moves."""

import pytest
import torch
from torch import Tensor

from sto_lite import faces
from sto_lite.errors import StoError

# Image regions of a frontal 64-pixel face: rows and columns.
REGIONS = {"brows": slice(10, 25), "eyes": slice(22, 33), "nose": slice(25, 42), "mouth": slice(43, 62)}


@pytest.fixture(scope="module")
def small() -> tuple[Tensor, Tensor]:
    return faces.generate(140, size=32, seed=3)


def test_shapes_types_and_ranges(small):
    images, labels = small
    assert images.shape == (140, 1, 32, 32) and images.dtype == torch.uint8
    assert labels.shape == (140,) and labels.dtype == torch.int64
    assert images.flatten(1).float().std(dim=1).min() > 5  # nobody is a blank sheet
    assert faces.generate(3)[0].shape == (3, 1, 48, 48)
    images, labels = faces.generate(0)
    assert images.shape == (0, 1, 48, 48) and labels.shape == (0,)


def test_classes_are_balanced_in_every_prefix(small):
    counts = torch.nn.functional.one_hot(small[1], 7).cumsum(dim=0)
    assert (counts[-1] == 20).all()
    assert ((counts.max(dim=1).values - counts.min(dim=1).values) <= 1).all()
    assert not torch.equal(small[1][:7], small[1][7:14])  # and their order is drawn, not repeated


def test_same_seed_same_bytes_other_seed_other_images(small):
    again = faces.generate(140, size=32, seed=3)
    other = faces.generate(140, size=32, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(small, again, strict=True))
    assert not torch.equal(small[1], other[1])
    assert (small[0].float() - other[0].float()).abs().flatten(1).mean(dim=1).min() > 3


@pytest.fixture
def threads():
    """Sets the number of threads for this test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("chunk", [1, 37 * 32**2])
def test_a_smaller_set_is_the_beginning_whatever_the_size_of_a_chunk(small, monkeypatch, chunk, threads):
    monkeypatch.setattr(faces, "CHUNK", chunk)
    threads(1)
    images, labels = faces.generate(42, size=32, seed=3)
    assert torch.equal(images, small[0][:42]) and torch.equal(labels, small[1][:42])


def test_neither_threads_nor_the_global_generator_matter(small, threads):
    torch.manual_seed(11)
    threads(2 if torch.get_num_threads() == 1 else 1)
    images, labels = faces.generate(70, size=32, seed=3)
    assert torch.equal(images, small[0][:70]) and torch.equal(labels, small[1][:70])
    after = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(after, torch.rand(1))  # the global generator was not drawn from


def test_label_noise_changes_its_share_of_labels_and_no_image():
    clean_images, clean = faces.generate(1400, size=8, seed=5)
    images, noisy = faces.generate(1400, size=8, seed=5, label_noise=0.3)
    assert torch.equal(images, clean_images)
    changed = noisy != clean
    assert 0.25 < changed.float().mean() < 0.35  # 4 standard errors
    shift = (noisy - clean)[changed] % 7  # each of the six other classes is as likely
    assert torch.bincount(shift, minlength=7)[1:].min() > 40
    assert noisy.min() == 0 and noisy.max() == 6


def nearest_prototype_error(difficulty: float) -> float:
    """Error of assigning each test image to the nearest mean image of a class."""
    train, labels = faces.generate(420, size=24, seed=0, difficulty=difficulty)
    test, truth = faces.generate(420, size=24, seed=1, difficulty=difficulty)
    means = torch.stack([train[labels == k].float().flatten(1).mean(dim=0) for k in range(7)])
    return (torch.cdist(test.float().flatten(1), means).argmin(dim=1) != truth).float().mean().item()


def within_class_variance(difficulty: float) -> float:
    images, labels = faces.generate(210, size=24, seed=0, difficulty=difficulty)
    return sum(images[labels == k].float().var(dim=0).mean().item() for k in range(7)) / 7


def test_difficulty_makes_it_harder():
    assert nearest_prototype_error(0.0) + 0.1 < nearest_prototype_error(1.0)
    assert within_class_variance(0.0) < within_class_variance(1.0) < within_class_variance(2.0)


def test_expressions_weaken_with_difficulty():
    u = torch.rand(700, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    happy = torch.full((700,), faces.EXPRESSIONS.index("happy"))
    puller = list(faces.ACTION_UNITS).index(12)
    at = [faces._sample_units(happy, u, difficulty)[:, puller] for difficulty in (0.0, 1.0, 2.0)]
    assert torch.equal(at[0], torch.ones(700, dtype=torch.float64))
    assert at[0].mean() > at[1].mean() + 0.1 > at[2].mean() + 0.2


def test_without_difficulty_only_the_person_differs():
    images, labels = faces.generate(7, seed=9, difficulty=0.0)
    assert sorted(labels.tolist()) == list(range(7))
    assert (images == images.flip(-1)).float().mean() > 0.5  # frontal and evenly lit: near enough symmetric


def test_prototypes_name_known_expressions_and_units():
    assert tuple(faces.PROTOTYPES) == faces.EXPRESSIONS
    units = [(k, v) for prototype in faces.PROTOTYPES.values() for k, v in prototype.items()]
    assert all(k in faces.ACTION_UNITS and 0 < v <= 1 for k, v in units)
    assert {6, 12} <= set(faces.PROTOTYPES["happy"]) and faces.PROTOTYPES["neutral"] == {}
    assert len({tuple(sorted(p.items())) for p in faces.PROTOTYPES.values()}) == 7


MOVES = {"brows": (1, 2, 4), "eyes": (5, 6, 7), "nose": (9,), "mouth": (10, 12, 15, 17, 20, 23, 25, 26)}


@pytest.mark.parametrize(("unit", "there"), [(unit, there) for there in MOVES for unit in MOVES[there]])
def test_each_unit_moves_its_region(unit, there):
    rest, half, full = (faces.draw({unit: v}, size=64)[0, 0].float() for v in (0.0, 0.5, 1.0))
    change = (full - rest).abs()
    not_there = "brows" if there == "mouth" or unit == 6 else "mouth"
    assert change[REGIONS[there]].sum() > 3 * change[REGIONS[not_there]].sum()
    assert change.sum() > (half - rest).abs().sum() > 0
    assert change.max() > 30


def mean_dark_row(image: Tensor, rows: slice, columns: slice) -> float:
    weight = (90 - image[rows, columns].float()).clamp(min=0)
    return ((torch.arange(len(weight)).view(-1, 1) * weight).sum() / weight.sum()).item()


def test_units_move_the_right_way():
    look = {"hair": 0.05, "skin": 0.85, "hairline": -0.8}
    inner, outer, brow_rows = slice(50, 64), slice(24, 40), slice(30, 54)

    def brow(units: dict[int, float], columns: slice) -> float:
        return mean_dark_row(faces.draw(units, size=160, look=look)[0, 0], brow_rows, columns)

    assert brow({1: 1.0}, inner) < brow({}, inner) - 1
    assert brow({2: 1.0}, outer) < brow({}, outer) - 1

    def opening(units: dict[int, float]) -> int:
        return int((faces.draw(units, size=160, look=look)[0, 0, 105:150, 76:84] < 85).sum())

    assert opening({26: 1.0}) > opening({25: 1.0}) > 0
    assert opening({25: 1.0}) > opening({})

    def whites(units: dict[int, float]) -> int:
        return int((faces.draw(units, size=160, look={"skin": 0.45})[0, 0, 55:80, 40:70] > 150).sum())

    assert whites({5: 1.0}) > whites({}) > whites({7: 1.0})


def test_draw_takes_a_table_an_identity_and_overrides():
    table = torch.zeros(2, len(faces.ACTION_UNITS))
    table[1, list(faces.ACTION_UNITS).index(12)] = 1.0
    pair = faces.draw(table, size=40)
    assert pair.shape == (2, 1, 40, 40) and pair.dtype == torch.uint8
    assert torch.equal(pair[0], faces.draw({}, size=40)[0])
    assert torch.equal(pair[1], faces.draw({12: 1}, size=40)[0])
    assert torch.equal(faces.draw({}, identity=4), faces.draw({}, identity=4))
    assert not torch.equal(faces.draw({}, identity=4), faces.draw({}, identity=5))
    assert not torch.equal(faces.draw({}, identity=0), faces.draw({})), "0 is a seed as well"
    with_glasses, turned = faces.draw({}, look={"glasses": 1.0}), faces.draw({}, scene={"rotation": 0.3})
    assert not torch.equal(with_glasses, faces.draw({})) and not torch.equal(turned, faces.draw({}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: faces.generate(-1), "num_images is -1"),
        (lambda: faces.generate(1, size=4), "size is 4"),
        (lambda: faces.generate(1, difficulty=-0.5), "difficulty is -0.5"),
        (lambda: faces.generate(1, difficulty=3), "difficulty is 3"),
        (lambda: faces.generate(1, label_noise=1.0), "label_noise is 1.0"),
        (lambda: faces.generate(1, label_noise=-0.1), "label_noise is -0.1"),
        (lambda: faces.draw({99: 1.0}), "no action unit is called 99"),
        (lambda: faces.draw({12: 1.5}), "12"),
        (lambda: faces.draw(torch.zeros(2, 3)), r"shape \(2, 3\)"),
        (lambda: faces.draw({}, size=4), "size is 4"),
        (lambda: faces.draw({}, look={"moustache": 1.0}), "no look is called moustache"),
        (lambda: faces.draw({}, scene={"tilt": 1.0}), "no scene is called tilt"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(StoError, match=message):
        call()
