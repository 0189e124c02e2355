"""Training on FER+'s votes in place of FER-2013's labels (chapter 11)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sto_lite import data, registry
from sto_lite.data import Batches, ImageSet, Split
from sto_lite.errors import DataError
from sto_lite.experiments import evidence, paper
from sto_lite.experiments.jobs import choose, jobs
from sto_lite.experiments.tables import tables
from sto_lite.experiments.turns import launches
from sto_lite.intake import votes
from sto_lite.records import read_records
from sto_lite.train import fit
from tests.samples import CONFIG, rng, tiny

COUNT, UNRATED, OUTSIDE = 40, 7, 11  # rows: without votes; all of whose votes are for contempt


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A prepared FER-2013 of noise: in row r, r % 3 + 1 people saw fear, four happiness, two could not say."""
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    noise, arrays = np.random.default_rng(0), {}
    for split in ("train", "public", "private"):
        arrays[f"{split}_images"] = noise.integers(0, 256, (COUNT, 48, 48), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(COUNT) % 7).astype(np.uint8)
        counts = np.zeros((COUNT, len(votes.CLASSES)), np.uint8)
        counts[:, votes.CLASSES.index("fear")] = np.arange(COUNT) % 3 + 1
        counts[:, votes.CLASSES.index("happiness")] = 4
        counts[:, votes.CLASSES.index("unknown")] = 2
        counts[OUTSIDE], counts[OUTSIDE, votes.CLASSES.index("contempt")] = 0, 10
        arrays[f"{split}_votes"], arrays[f"{split}_rated"] = counts, np.arange(COUNT) != UNRATED
    np.savez(tmp_path / "fer2013.npz", **arrays)


def test_shares_of_the_votes_are_the_training_labels(prepared):
    labelled, voted = data.load("fer2013"), data.load("fer2013", votes=True)
    shares = voted.splits["train"].labels
    assert shares.dtype == torch.float32 and shares.shape == (COUNT - 2, 7)
    assert shares.sum(dim=1).allclose(torch.ones(COUNT - 2))
    fear, happy = voted.classes.index("fear"), voted.classes.index("happy")
    assert shares[0, [fear, happy]].tolist() == pytest.approx([1 / 5, 4 / 5])
    assert shares[1, [fear, happy]].tolist() == pytest.approx([2 / 6, 4 / 6])
    kept = [row for row in range(COUNT) if row not in (UNRATED, OUTSIDE)]
    assert voted.splits["train"].images.equal(labelled.splits["train"].images[kept])
    assert voted.splits["private"].labels.equal(labelled.splits["private"].labels)
    assert voted.settings == {"votes": True} and voted.fingerprint != labelled.fingerprint


def test_the_draw_is_that_of_the_labels_but_for_images_without_votes(prepared):
    """So that runs with labels and with votes are pairs."""
    images = data.load("fer2013").splits["train"].images
    order = torch.randperm(COUNT, generator=rng(3)).tolist()
    usable = [row for row in order if row not in (UNRATED, OUTSIDE)]
    voted = data.load("fer2013", votes=True, limit=25, subset=3)
    assert voted.splits["train"].images.equal(data.resize(images[usable[:25]], 32))
    with pytest.raises(DataError, match="38 training images"):
        data.load("fer2013", votes=True, limit=39)


def test_only_fer2013_has_votes():
    with pytest.raises(DataError, match=r"go with fer2013; faces has none"):
        data.load("faces", votes=True)


def softened(images, share=0.0):
    """The set with one-hot shares for labels, of which every class gets an equal part of `share`."""
    split = images.splits["train"]
    shares = (1 - share) * F.one_hot(split.labels, 7).float() + share / 7
    return replace(images, splits={**images.splits, "train": Split(split.images, shares)})


@pytest.mark.parametrize("name", [name for name in registry.METHODS if name != "kd"])
def test_every_method_learns_the_same_from_a_label_and_from_all_votes_for_it(name):
    """Or says why it cannot."""
    method = registry.make(name, **({"distillation": "dkd"} if name == "sto-otherwise" else {}))
    config = replace(CONFIG, epochs=1)
    if name == "sto-otherwise":
        with pytest.raises(ValueError, match="does not go with votes"):
            fit(method, softened(tiny()), config)
        return
    voted = fit(method, softened(tiny()), config).record
    labelled = fit(method, tiny(), config).record
    for key in ("train_loss", "train_error", "private_error"):
        assert voted["history"][key] == pytest.approx(labelled["history"][key], rel=1e-4), key


def test_the_loss_is_the_cross_entropy_with_the_shares():
    images, model = softened(tiny(), share=0.5), registry.make("baseline").build("resnet8", 7, rng())
    batch, shares = next(Batches(images.splits["train"], *images.mean_std, augment=False).epoch(rng()))
    step = registry.make("baseline").step(model, batch, shares, rng())
    by_hand = -(shares * step.logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(step.loss, by_hand)


def test_runs_on_votes_are_a_table_of_their_own_and_no_lanes():
    experiment = choose(paper.find("table3"), ["baseline", "STO"])
    assert [cell.label for cell in experiment.cells] == ["baseline", "STO"], "labels win over methods"
    planned = [jobs(experiment, "fer2013", overrides={"votes": on, "net": "resnet8"}) for on in (False, True)]
    assert [len(launches(some, 9)) for some in planned] == [1, 0]
    assert len({job.name for some in planned for job in some}) == 4
    assert "--votes" in planned[1][0].arguments(Path("runs"))
    records = []
    for on in (False, True):
        images = ImageSet("fer2013", tiny().classes, tiny().splits, {"votes": True} if on else {})
        images = softened(images) if on else images
        methods = [registry.make(job.method, **job.settings) for job in planned[on]]
        records += [fit(method, images, replace(CONFIG, epochs=1)).record for method in methods]
    made = tables(experiment, records)
    assert len(made) == 2 and sum("trained on FER+'s votes" in one.protocol for one in made) == 1


def test_runs_on_votes_are_no_evidence_on_labels():
    """Chapters 8 and 9 read all records of FER-2013."""
    here = [r for r in read_records("fer2013-1024") if r["config"]["seed"] == 1]
    voted = [{**r, "data": {**r["data"], "votes": True, "subset": 1, "fingerprint": "f"}} for r in here]
    assert evidence.runs(here + voted) == here and evidence.on_labels(voted, "fer2013") == []
    assert len(evidence.multiverse(here + voted)) == len(evidence.multiverse(here)) > 0
