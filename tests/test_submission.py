"""Records that are handed in: made once, and every kind of wrong form is found."""

import math
import shutil
from types import SimpleNamespace

import pytest

from sto_lite import homework
from sto_lite.config import Config
from sto_lite.data import ImageSet, Split
from sto_lite.errors import RunError
from sto_lite.faces import EXPRESSIONS, generate
from sto_lite.registry import make
from sto_lite.train import progress_bar
from tests.samples import edited, put

ARMS = {"baseline": make("baseline"), "sto": make("sto"), "lam=0": make("sto", lam=0.0)}
CONFIG = Config(net="resnet8", epochs=2, batch_size=16)
SEEDS = [0, 1, 2]


def faces(seed=2):
    splits = {"train": Split(*generate(32, 8, seed=1)), "test": Split(*generate(50, 8, seed=seed))}
    return ImageSet("faces", EXPRESSIONS, splits, {"difficulty": 1.0, "label_noise": 0.0})


@pytest.fixture(scope="module")
def images():
    return faces()


@pytest.fixture(scope="module")
def made(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("made")
    homework.run(folder, ARMS, images, CONFIG, SEEDS)
    homework.write(folder, homework.summarise(homework.read(folder), ARMS, "baseline"))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "records")


def test_a_good_submission_has_no_problem(folder, images):
    summary = homework.check(folder, ARMS, "baseline", images=images)
    assert summary["seeds"] == SEEDS and summary["difference"].keys() == {"sto", "lam=0"}
    errors = {
        label: [
            100 * sum(a != b for a, b in zip(r["labels"]["test"], r["predictions"]["test"], strict=True)) / 50
            for r in homework.run(folder, {label: method}, images, CONFIG, SEEDS)[label]
        ]
        for label, method in ARMS.items()
    }
    gaps = [a - b for a, b in zip(errors["sto"], errors["baseline"], strict=True)]
    assert summary["difference"]["sto"]["mean"] == pytest.approx(sum(gaps) / 3)
    assert summary["mean"]["sto"] == pytest.approx(sum(errors["sto"]) / 3)
    assert "3 seeds" in homework.report(summary) and "lam=0" in homework.report(summary)


def test_a_summary_may_be_rounded_to_two_decimals(folder, images):
    def rounded(value):
        if isinstance(value, dict):
            return {k: rounded(v) for k, v in value.items()}
        return round(value, 2) if isinstance(value, float) else value

    edited(folder / SUMMARY, lambda summary: summary.update(rounded(summary)))
    assert homework.problems(folder, ARMS, "baseline", images=images) == []


def flip(record):
    """A right prediction becomes wrong."""
    labels, predictions = record["labels"]["test"], record["predictions"]["test"]
    i = next(i for i in range(len(labels)) if labels[i] == predictions[i])
    predictions[i] = (labels[i] + 1) % 7


def forged(record):
    """A right prediction more, and everything in the record made to agree with it."""
    labels, predictions = record["labels"]["test"], record["predictions"]["test"]
    i = next(i for i in range(len(labels)) if labels[i] != predictions[i])
    predictions[i] = labels[i]
    recount(record)


def relabelled(record):
    record["labels"]["test"].reverse()
    recount(record)


def recount(record):
    error = homework.recomputed(record, "test")
    record["result"]["test"]["error"] = record["history"]["test_error"][-1] = error


def popped(*way):
    """A list loses its last value."""
    return lambda record: record[way[0]][way[1]].pop()


RECORD, SUMMARY = "sto-s1.json", homework.SUMMARY
WRONG = {
    "a prediction is changed": (RECORD, flip, "its predictions say"),
    "a record is improved": (RECORD, forged, "the records say"),
    "a prediction is missing": (RECORD, popped("predictions", "test"), "49 predictions and 50 labels"),
    "a prediction is no class": (RECORD, put("predictions", "test", 0, 0.5), "numbers of classes"),
    "a split is too many": (RECORD, put("predictions", "zzz", [1]), "no test split zzz"),
    "predictions are no list": (RECORD, put("predictions", "test", "all"), "are needed"),
    "labels are others": (RECORD, relabelled, "not those of"),
    "the history ends elsewhere": (RECORD, put("history", "test_error", [50.0, 1.0]), "history does not end"),
    "epochs are missing": (RECORD, popped("history", "train_loss"), "one value for each of 2 epochs"),
    "a rate is another": (RECORD, put("config", "lr", 0.05), "config.lr is 0.05, elsewhere 0.1"),
    "the data are others": (RECORD, put("data", "fingerprint", "0"), "not those of"),
    "a setting is another": (RECORD, put("method", "lam", 0.3), "belongs to no arm"),
    "a seed is text": (RECORD, put("config", "seed", "1"), "whole numbers"),
    "counts are missing": (RECORD, lambda r: r["data"].pop("counts"), "data.counts"),
    "a part is missing": (RECORD, lambda r: r.pop("history"), "lacks history"),
    "a seed occurs twice": (RECORD, put("config", "seed", 2), "two records of seed 2"),
    "a mean is improved": (SUMMARY, put("mean", "sto", 1.0), "mean / sto is 1.0"),
    "a mean is off by a little": (SUMMARY, lambda s: s["mean"].update(sto=s["mean"]["sto"] + 0.02), "mean / sto is"),
    "a mean is NaN": (SUMMARY, put("mean", "sto", math.nan), "mean / sto is nan"),
    "a mean is text": (SUMMARY, put("mean", "sto", "50"), "mean / sto is '50'"),
    "a difference is missing": (SUMMARY, lambda s: s["difference"].pop("sto"), "lacks difference / sto"),
    "an arm is invented": (SUMMARY, put("mean", "best", 0.0), "has mean / best"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "change", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found_and_said(folder, images, file, change, said):
    edited(folder / file, change)
    found = homework.problems(folder, ARMS, "baseline", images=images)
    assert said in "\n".join(found)
    with pytest.raises(RunError, match="cannot be handed in yet"):
        homework.check(folder, ARMS, "baseline", images=images)


def test_seeds_are_paired_enough_and_no_copies(folder, images):
    (folder / "sto-s2.json").unlink()
    first = homework.problems(folder, ARMS, "baseline")[0]
    assert "sto has the seeds [0, 1], baseline has [0, 1, 2]" in first
    shutil.copy(folder / "sto-s1.json", folder / "sto-s2.json")
    edited(folder / "sto-s2.json", lambda r: r["config"].update(seed=2))
    assert any("copy" in line for line in homework.problems(folder, ARMS, "baseline"))
    assert any("at least 5" in line for line in homework.problems(folder, ARMS, "baseline", seeds=5))
    for path in folder.glob("sto-*.json"):
        path.unlink()
    assert "there is no record of sto" in homework.problems(folder, ARMS, "baseline")


def test_a_free_setting_may_differ_between_arms_and_not_within_one(tmp_path, images):
    arms = {"baseline": ARMS["baseline"], "sto": ARMS["sto"]}
    configs = {"baseline": Config(net="resnet8", epochs=1, batch_size=16), "sto": CONFIG}
    homework.run(tmp_path, arms, images, configs, [0, 1])
    homework.write(tmp_path, homework.summarise(homework.read(tmp_path), arms, "sto"))
    assert homework.problems(tmp_path, arms, "sto", 2, free=["epochs"], images=images) == []
    assert any("config.epochs" in line for line in homework.problems(tmp_path, arms, "sto", 2))
    edited(tmp_path / "sto-s1.json", put("config", "epochs", 1), popped("history", "train_loss"))
    found = homework.problems(tmp_path, arms, "sto", 2, free=["epochs"])
    assert any("config.epochs" in line for line in found)


def test_an_empty_folder_and_a_missing_summary_are_told(folder, tmp_path):
    assert "holds no record" in homework.problems(tmp_path / "nowhere", ARMS, "baseline")[0]
    (folder / SUMMARY).write_text("{")
    assert "summary.json cannot be read" in homework.problems(folder, ARMS, "baseline")[0]


def test_every_problem_is_told_at_once(folder):
    (folder / SUMMARY).unlink()
    for path in folder.glob("*-s2.json"):
        path.unlink()
    told = "\n".join(homework.problems(folder, ARMS, "baseline"))
    assert "2 seeds; at least 3" in told and "there is no summary.json" in told
    for seed in (0, 1):
        (folder / f"sto-s{seed}.json").write_text("{")
    told = homework.problems(folder, ARMS, "baseline")
    assert len([line for line in told if "no readable record" in line]) == 2 and len(told) == 3


def test_a_bar_says_which_run_is_under_way(folder, images, monkeypatch, capsys):
    monkeypatch.setattr(homework, "progress_bar", lambda total, done, _: progress_bar(total, done, True))
    homework.run(folder, ARMS, images, CONFIG, SEEDS)
    shown = capsys.readouterr().err
    assert "lam=0, seed 2" in shown and "9/9" in shown


def test_nothing_is_trained_twice_or_while_a_notebook_is_graded(folder, images, monkeypatch):
    monkeypatch.setattr(homework, "fit", lambda *_, **__: pytest.fail("it trains"))
    found = homework.run(folder, ARMS, images, CONFIG, SEEDS)
    assert found.keys() == ARMS.keys() and len(found["sto"]) == 3
    assert repr(found) == "9 records of 3 settings: baseline, sto, lam=0"
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(RunError, match=r"baseline-s7.json is missing, and nothing is trained"):
        homework.run(folder, ARMS, images, CONFIG, [7])


def test_a_record_of_another_run_is_refused(folder, images):
    with pytest.raises(RunError, match=r"config.epochs is 2 there and 3 here"):
        homework.run(folder, ARMS, images, Config(net="resnet8", epochs=3, batch_size=16), SEEDS)
    with pytest.raises(RunError, match=r"data.fingerprint"):
        homework.run(folder, ARMS, faces(3), CONFIG, SEEDS)
    told = homework.problems(folder, ARMS, "baseline", images=faces(3))
    assert any("assignment's images" in line for line in told)


def test_one_seed_has_no_interval(tmp_path, images):
    arms = {"baseline": ARMS["baseline"], "sto": ARMS["sto"]}
    homework.run(tmp_path, arms, images, CONFIG, [0])
    summary = homework.summarise(homework.read(tmp_path), arms, "baseline")
    homework.write(tmp_path, summary)
    assert summary["difference"]["sto"]["low"] is None
    assert homework.problems(tmp_path, arms, "baseline", seeds=1) == []
    assert "sto" in homework.report(summary)


def test_the_headline_is_the_last_splits(folder):
    records = homework.read(folder)
    alone = homework.summarise(records, ARMS, "baseline")
    for record in records:
        for part in ("labels", "predictions"):
            record[part] = {"public": [0] * 9, **record[part]}
    assert homework.summarise(records, ARMS, "baseline") == alone


def test_the_price_counts_every_run(images, monkeypatch):
    assert homework.price(ARMS, images, CONFIG, 3).startswith("3 settings x 3 seeds: about ")
    epoch = SimpleNamespace(record={"history": {"seconds": [60.0]}})
    monkeypatch.setattr(homework, "fit", lambda *_, **__: epoch)
    assert homework.price(ARMS, images, CONFIG, 3).endswith("about 18 minutes here"), "of 2 epochs each"
