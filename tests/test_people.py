"""Votes, groups and planted traits: known answers, coverage in simulation, and the real votes where they are."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm

from sto_lite import data, faces, people
from sto_lite.data import Split
from sto_lite.errors import DataError, StoError
from sto_lite.intake import votes
from sto_lite.records import read_records
from sto_lite.stats import interval
from tools import bias_lab, votes_record

RECORD = read_records("fer-votes")[0]


def made_up():
    """Four images: clear anger, a tie of sadness and fear, an unknown, happiness against three others."""
    counts = np.zeros((4, len(votes.CLASSES)), np.uint8)
    for row, given in enumerate(
        ({"anger": 10}, {"sadness": 5, "fear": 5}, {"unknown": 6, "neutral": 4}, {"happiness": 4})
    ):
        for name, count in given.items():
            counts[row, votes.CLASSES.index(name)] = count
    counts[3, [votes.CLASSES.index(n) for n in ("neutral", "surprise", "contempt")]] = 2
    return counts


def test_votes_by_hand():
    counts, columns = made_up(), " ".join(votes.CLASSES[column] for column in votes_record.COLUMN)
    assert columns == "anger disgust fear happiness sadness surprise neutral"
    assert people.plurality(counts).sum(1).tolist() == [1, 2, 1, 1]
    # two of ten people: all pairs agree; 2 × 10 of 45; 15 + 6 of 45; 6 + 3 of 45
    assert people.agreement(counts) == pytest.approx(100 * (1 + 20 / 45 + 21 / 45 + 9 / 45) / 4)
    told = votes_record.of_the_labels(counts, np.array([0, 2, 6, 3]))
    assert (told["images"], told["clear"], told["tied"], told["outside"]) == (4, 1, 1, 1)
    assert told["alone"] == [1, 0, 0, 1, 0, 0, 0] and told["shared"] == [0, 0, 1, 0, 0, 0, 0]
    assert told["by_votes"][4:7] == [1, 1, 1] and told["mean_votes"][2][votes.CLASSES.index("fear")] == 0.5


def test_a_run_is_held_against_the_votes():
    said, sure = np.array([0, 4, 6, 0]), np.array([0.5, 0.5, 0.5, 0.5])
    told = votes_record.of_a_run(made_up(), np.array([0, 2, 6, 3]), said, sure)
    assert told["error"] == 50 and told["against_most"] == 50 and told["votes_for"] == pytest.approx(47.5)
    assert told["surprise"] == pytest.approx(np.log(2))  # half a bet on each answer, whatever the votes
    assert sum(told["wrong_by_votes"]) == 2 and told["not_most_by_votes"][4:7] == [1, 0, 1]
    assert told["error_clear"] == told["against_most_clear"] == 0


def test_near_copies_are_told_from_exact_ones_and_from_others():
    train = faces.generate(60, 48, seed=1)
    other = faces.generate(20, 48, seed=2)[0]
    brighter = (train[0][:4].float() * 0.8 + 30).to(torch.uint8)
    test = torch.cat([train[0][4:7], brighter, train[0][10:12].flip(-1), other])
    labels = torch.cat([train[1][4:7], train[1][:4], train[1][10:12], torch.zeros(20, dtype=torch.long)])
    labels[0] = (labels[0] + 1) % 7  # an exact copy with another label
    found = votes_record.near(Split(test, labels), Split(*train))
    assert (found["exact"], found["exact_same_label"]) == (3, 2)
    assert (found["near"], found["near_same_label"]) == (4, 4) and found["mirrored"] >= 2
    assert found["images"] == 29


def test_the_record_is_of_the_committed_runs():
    records = cache(read_records)
    assert len(RECORD["runs"]) >= 23
    for run in RECORD["runs"]:
        known = [r for r in records(run["run"].split("/")[0]) if r["method"]["name"] == run["method"]["name"]]
        assert run["seed"] in {r["config"]["seed"] for r in known}, run["run"]
        for split, scores in run["scores"].items():
            errors = [r["result"][split]["error"] for r in known if r["method"] == run["method"]]
            assert min(abs(error - scores["error"]) for error in errors) < 0.5  # the rated images alone


def test_the_real_votes():
    """Numbers of the copy at hand, if there is one, are those of the record; known counts of FER+."""
    try:
        counts, rated = votes.read("private")
    except DataError as missing:
        pytest.skip(str(missing))
    labels = data.load("fer2013", size=48).splits["private"].labels.numpy()
    told = votes_record.of_the_labels(counts[rated], labels[rated])
    assert told == RECORD["labels_and_votes"]["private"]
    assert (told["images"], told["clear"], told["tied"]) == (3572, 2720, 170)


def test_a_share_has_wilsons_interval():
    known = binomtest(3, 7).proportion_ci(method="wilson")
    ours = people.share(3, 7)
    assert (ours.low, ours.share, ours.high) == pytest.approx((100 * known.low, 300 / 7, 100 * known.high))
    assert people.share(0, 0)[1:] == (0, 100, 0)


def test_planted_errors_by_group_are_recovered_with_the_stated_coverage():
    rng, inside, draws = np.random.default_rng(1), {"a": 0, "b": 0}, 600
    planted, groups = {"a": 0.10, "b": 0.25}, np.repeat(["a", "b"], [360, 40])
    for _ in range(draws):
        wrong = rng.random(len(groups)) < np.where(groups == "a", planted["a"], planted["b"])
        found = people.errors_by_group(wrong.astype(int), np.zeros(len(groups), int), groups)
        assert (found["a"].images, found["b"].images) == (360, 40)
        for name, one in found.items():
            inside[name] += one.low <= 100 * planted[name] <= one.high
    assert all(0.92 < hits / draws < 0.98 for hits in inside.values()), inside
    column = np.array(["b", "a", "b"], dtype=object)  # as pandas holds it
    assert people.errors_by_group([0, 1, 1], [0, 0, 0], column)["b"].share == 50


def test_a_planted_gap_is_recovered_by_the_registered_analysis():
    """Three seeds, each with a gap of its own about the planted one, 1,200 test faces drawn twice: t intervals."""
    rng, planted, draws, inside = np.random.default_rng(2), (0.02, 0.17), 800, 0
    for _ in range(draws):
        gaps = []
        for _ in bias_lab.SEEDS:
            shift, said = rng.normal(0, 0.03), []
            for p in (planted[0], planted[1] + shift):
                called = rng.binomial(1200, p)
                said.append(np.array([[100, 100], [called, 1200 - called]]))
            gaps.append(people.falsely(said[1], 0) - people.falsely(said[0], 0))
        found = interval(gaps)
        inside += found.low <= 15 <= found.high
    assert 0.93 < inside / draws < 0.97, inside / draws


@pytest.mark.parametrize(("error", "gap", "share"), [(20, 5, 0.1), (35, 10, 0.3)])
def test_so_many_images_do_show_the_gap(error, gap, share):
    images, rng, draws = people.images_for_gap(error, gap, share), np.random.default_rng(3), 20_000
    few = round(share * images)
    many = images - few
    a = rng.binomial(few, (error + gap) / 100, draws)
    b = rng.binomial(many, error / 100, draws)
    pooled = (a + b) / images
    z = (a / few - b / many) / np.sqrt(pooled * (1 - pooled) * (1 / few + 1 / many))
    assert np.mean(np.abs(z) > norm.ppf(0.975)) == pytest.approx(0.8, abs=0.015)


def test_gaps_that_cannot_be():
    for error, gap, share in ((20, 0, 0.1), (97, 5, 0.1), (20, 5, 0), (20, 5, 1)):
        with pytest.raises(ValueError, match="share lies between 0 and 1"):
            people.images_for_gap(error, gap, share)


@pytest.mark.parametrize("trait", people.TRAITS)
def test_a_trait_changes_the_face_and_nothing_else(trait):
    without, worn = (people.draw_with(trait, torch.full((14,), has), 14, 48, seed=5) for has in (False, True))
    assert torch.equal(without.labels, worn.labels)
    changed = (without.images != worn.images).flatten(1).any(1)
    assert changed.all() and people.TRAITS[trait][0] in faces.LOOK
    some = torch.arange(14) % 2 == 0
    mixed = people.draw_with(trait, some, 14, 48, seed=5).images
    assert torch.equal(mixed[some], worn.images[some]) and torch.equal(mixed[~some], without.images[~some])


def test_a_look_that_does_not_exist_is_told():
    with pytest.raises(StoError, match="generate: no look is called hat"):
        faces.generate(7, 16, looks=lambda labels: {"hat": labels})


def test_strength_is_how_far_the_trait_goes_along_with_the_label():
    labels = torch.arange(7).repeat(2000)
    for strength in (0.0, 0.5, 1.0):
        has = people.having(labels, 2, strength, torch.Generator().manual_seed(0))
        assert has[labels == 2].float().mean() == pytest.approx((1 + strength) / 2, abs=0.03)
        assert has[labels != 2].float().mean() == pytest.approx((1 - strength) / 2, abs=0.03)


def test_a_biased_set_tests_the_same_faces_twice_and_can_be_balanced():
    images, has = people.biased("glasses", "angry", 0.8, 140, 16, seed=3, tests=21)
    train, (one, two) = images.splits["train"], (images.splits[name] for name in ("without", "with"))
    assert torch.equal(one.labels, two.labels) and not torch.equal(one.images, two.images)
    assert next(iter(images.splits)) == "train" and len(one) == 21 and len(has) == len(train) == 140
    kept = people.balanced(images, has).splits["train"]
    for label in range(7):
        mine = train.labels == label
        fewer, more = sorted([int((mine & has).sum()), int((mine & ~has).sum())])
        assert int((kept.labels == label).sum()) == (2 * more if fewer else more)
    always, has = people.biased("glasses", "angry", 1.0, 70, 16, seed=3, tests=7)
    assert len(people.balanced(always, has).splits["train"]) == 70, "nothing to repeat"
