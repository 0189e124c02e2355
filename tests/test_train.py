"""Chapter 6: training, records, and runs that are cut off."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from sto_lite import records, stats
from sto_lite.config import Config
from sto_lite.data import Split
from sto_lite.errors import RunError
from sto_lite.evaluation import evaluate
from sto_lite.methods import STO, Baseline, StochasticDepth
from sto_lite.registry import METHODS, make
from sto_lite.survival import linear_decay
from sto_lite.train import Training, fit
from tests.samples import CONFIG, rng, same_run, stopping, tiny


@pytest.mark.parametrize("method", [Baseline(), StochasticDepth(), STO()])
def test_every_method_learns(method):
    images = tiny(count=256)
    record = fit(method, images, replace(CONFIG, epochs=12, augment=False, lr=0.05)).record
    assert record["result"]["private"]["error"] < 50, "chance is 86 %"
    assert record["history"]["train_loss"][-1] < record["history"]["train_loss"][0]


@pytest.mark.parametrize("method", [StochasticDepth(), STO()], ids=repr)
def test_what_is_evaluated_and_kept_is_the_network_of_eq5(method):
    training = Training(method, tiny(), CONFIG, device="cpu")
    for _ in training.steps(progress=False):
        pass
    network, record = training.result()
    images = torch.randn(64, 3, 8, 8)
    p = linear_decay(training.model.num_blocks)
    with torch.no_grad():
        assert torch.allclose(network(images), training.model.eval()(images, p), atol=1e-5)
        assert not torch.allclose(network(images), training.model(images), atol=1e-2)
    found = evaluate(network, training.images.splits["public"], training.images.mean_std)
    assert record["predictions"]["public"] == found.predictions.tolist()


def test_the_record_is_complete_and_true(tmp_path):
    images = tiny()
    network, record = fit(STO(lam=0.5), images, replace(CONFIG, evaluate_every=2), tmp_path)
    assert record == records.read_record(tmp_path / "record.json")
    assert record["method"]["name"] == "sto" and record["method"]["lam"] == 0.5
    assert record["config"]["epochs"] == 3 and record["data"]["fingerprint"] == images.fingerprint
    assert record["parameters"] == 77_847
    history = record["history"]
    assert history["test_epoch"] == [2, 3]
    assert (len(history["public_error"]), len(history["train_loss"])) == (2, 3)
    assert history["lr"] == pytest.approx([0.1, 0.1, 0.01])
    for split, result in record["result"].items():
        assert result["error"] == pytest.approx(100 * stats.wrong(record, split).mean())
        assert result["best_error"] == pytest.approx(min(history[f"{split}_error"]), abs=1e-3)
        assert record["labels"][split] == images.splits[split].labels.tolist()
        evaluation = evaluate(network, images.splits[split], images.mean_std)
        assert evaluation.predictions.tolist() == record["predictions"][split]
    terms = [history[f"train_loss_{t}"][0] for t in ("student", "teacher", "distillation")]
    assert sum(terms) == pytest.approx(history["train_loss"][0], rel=1e-4)


def test_evaluation_by_hand():
    class Constant(torch.nn.Linear):
        def forward(self, x):
            return torch.tensor([0.0, 2.0, 0.0]).expand(len(x), 3)

    split = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.tensor([1, 1, 0, 2, 1]))
    result = evaluate(Constant(1, 1), split, (torch.zeros(1), torch.ones(1)), batch_size=2)
    assert result.error == pytest.approx(40.0) and result.predictions.tolist() == [1] * 5
    assert result.confidence.tolist() == pytest.approx([0.78699] * 5, abs=1e-4)


def test_same_seed_same_bits_other_seed_other_run():
    images = tiny()
    first, second, other = (fit(STO(), images, replace(CONFIG, seed=s)) for s in (0, 0, 1))
    assert same_run(first, second) and not same_run(first, other)


def test_seeds_are_paired_across_methods():
    seen = []

    @dataclass(frozen=True)
    class Watch(STO):
        def step(self, model, images, labels, generator, epoch=0):
            seen.append((images.sum().item(), labels.tolist()))
            return super().step(model, images, labels, generator, epoch)

    fit(Watch(), tiny(), CONFIG)
    with_one, seen = seen, []
    fit(Watch(students=2), tiny(), CONFIG)
    assert with_one == seen and len({s[0] for s in seen}) == 9


def test_learning_rate_schedule():
    rates = {0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001, 299: 0.001}
    assert [Config().learning_rate(epoch) for epoch in rates] == pytest.approx([*rates.values()])
    odd = Config(epochs=100, drop_at=(0.55,))  # 0.55 × 100 is 55.00000000000001
    assert [odd.learning_rate(epoch) for epoch in (54, 55)] == pytest.approx([0.1, 0.01])


def test_optimizer_is_the_papers():
    """One step against SGD with Nesterov momentum and weight decay, by its formula."""
    images = tiny(count=16)
    config = Config(net="resnet8", epochs=1, batch_size=16, seed=3, augment=False, drop_at=())
    before = Baseline().build("resnet8", 7, rng(3)).classifier.weight.detach().clone()
    gradient = []

    @dataclass(frozen=True)
    class Watch(Baseline):
        def step(self, model, x, y, generator, epoch=0):
            model.classifier.weight.register_hook(lambda g: gradient.append(g.clone()))
            return super().step(model, x, y, generator, epoch)

    after = fit(Watch(), images, config).network.classifier.weight
    g = gradient[0] + 1e-4 * before
    assert torch.allclose(after, before - 0.1 * (g + 0.9 * g), atol=1e-6)


BY_IMAGE = [make(name, gates="image") for name in ("cosub", "sto-otherwise")]
EVERY = [make(name) for name in METHODS if name not in ("kd", "baseline")]


@pytest.mark.parametrize(("method", "epoch"), [(STO(), 1), *((m, 2) for m in EVERY + BY_IMAGE)], ids=repr)
def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path, method, epoch):
    images, config = tiny(count=48), replace(CONFIG, batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        fit(stopping(method, epoch), images, config, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == epoch
    assert same_run(fit(method, images, config, tmp_path), fit(method, images, config))


DROPPING = """
from torch import nn

from sto_lite.gated import gated


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Dropout(0.5))
        self.branch, self.head = nn.Linear(16, 16), nn.Linear(16, classes)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.branch(x))


def net(classes):
    made = Net(classes)
    return gated(made, [made.branch])
"""


def test_dropout_of_ones_own_network_follows_from_the_seed_also_after_an_interruption(tmp_path, monkeypatch):
    (tmp_path / "dropping.py").write_text(DROPPING)
    monkeypatch.syspath_prepend(tmp_path)
    images, config = tiny(count=48), replace(CONFIG, batch_size=16, net="dropping:net")
    first = fit(Baseline(), images, config)
    with pytest.raises(KeyboardInterrupt):
        fit(stopping(Baseline(), 2), images, config, tmp_path / "run")
    torch.rand(3)  # whatever has been drawn meanwhile
    assert same_run(first, fit(Baseline(), images, config, tmp_path / "run"))
    other = fit(Baseline(), images, replace(config, seed=1)).record["history"]["train_loss"]
    assert other != first.record["history"]["train_loss"]


def test_an_epoch_is_kept_although_the_run_was_stopped_while_it_was_written(tmp_path, monkeypatch):
    training = Training(Baseline(), tiny(), replace(CONFIG, batch_size=96), tmp_path)
    save, calls = training.folder.save, []

    def stopped_once(state):
        calls.append(state["epoch"])
        if len(calls) == 1:
            raise KeyboardInterrupt
        save(state)

    monkeypatch.setattr(training.folder, "save", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        list(training.steps(progress=False))
    assert calls == [1, 1]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 1


def test_a_finished_run_is_not_run_again_and_says_where_it_was_trained(tmp_path, monkeypatch):
    first = fit(STO(), tiny(), CONFIG, tmp_path)
    stamp = (tmp_path / "record.json").stat().st_mtime_ns
    assert same_run(first, fit(STO(), tiny(), CONFIG, tmp_path))
    assert (tmp_path / "record.json").stat().st_mtime_ns == stamp
    (tmp_path / "record.json").unlink()  # killed between the last checkpoint and the record
    monkeypatch.setattr(records, "environment", lambda _: {"device": "another"})
    again = fit(STO(), tiny(), CONFIG, tmp_path)
    assert same_run(first, again)
    assert again.record["environment"] == first.record["environment"], "nothing was trained there"


def test_another_configuration_or_data_in_the_same_folder(tmp_path):
    fit(STO(), tiny(), CONFIG, tmp_path)
    with pytest.raises(RunError, match=r"config.lr is 0.1 there and 0.2 here.*[Tt]ake another folder"):
        fit(STO(), tiny(), replace(CONFIG, lr=0.2), tmp_path)
    with pytest.raises(RunError, match=r"method.lam is 0.25 there and 0.5 here"):
        fit(STO(lam=0.5), tiny(), CONFIG, tmp_path)
    (tmp_path / "record.json").unlink()
    with pytest.raises(RunError, match=r"checkpoint.pt.*data.fingerprint"):
        fit(STO(), tiny(seed=1), CONFIG, tmp_path)


@pytest.mark.parametrize(("call", "name"), [(2, "checkpoint"), (3, "network"), (4, "record")])
def test_disk_full(tmp_path, monkeypatch, call, name):
    """The checkpoint before stays whole, and the run goes on from it when there is room."""
    sync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) >= call:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    match = rf"{name}\.\w+ cannot be written: No space left on device.*same command"
    with pytest.raises(RunError, match=match):
        fit(STO(), tiny(), CONFIG, tmp_path)
    epoch = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"]
    assert epoch == (1 if call == 2 else 3) and not list(tmp_path.glob("*.partial"))
    monkeypatch.undo()
    assert same_run(fit(STO(), tiny(), CONFIG, tmp_path), fit(STO(), tiny(), CONFIG))


def test_records_that_are_none(tmp_path):
    for content in ("", "{", "[]", '{"config": {}}', '{"kind": "bench", "config": {}}'):
        (tmp_path / "record.json").write_text(content)
        with pytest.raises(RunError, match="no readable record|JSON, but no record|it lacks results"):
            records.read_record(tmp_path / "record.json")
    with pytest.raises(RunError, match="no records in data/runs/nothing"):
        records.read_records("nothing")


def test_a_finished_run_without_its_network(tmp_path):
    whole = fit(STO(), tiny(), CONFIG, tmp_path)
    (tmp_path / "network.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"network.pt is missing or damaged.*delete record.json"):
        fit(STO(), tiny(), CONFIG, tmp_path)
    (tmp_path / "record.json").unlink()
    assert same_run(whole, fit(STO(), tiny(), CONFIG, tmp_path))
    for name in ("network.pt", "checkpoint.pt"):
        (tmp_path / name).unlink()
    with pytest.raises(RunError, match=r"network.pt is missing.*the record is whole, so keep it"):
        fit(STO(), tiny(), CONFIG, tmp_path)


def test_a_run_that_goes_on_elsewhere_names_both_machines(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(stopping(STO(), 1), tiny(), CONFIG, tmp_path)
    first = records.environment(torch.device("cpu"))
    monkeypatch.setattr(records, "environment", lambda _: {"device": "another"})
    record = fit(STO(), tiny(), CONFIG, tmp_path).record
    assert record["environment"] == {"device": "another"} and record["earlier_environments"] == [first]


def test_a_folder_without_locks(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert fit(Baseline(), tiny(), replace(CONFIG, epochs=1), tmp_path / "drive").record["result"]


def test_config_is_checked():
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"evaluate_every": 0}, {"drop_at": (150,)}):
        with pytest.raises(ValueError, match="at least 1|positive|fractions"):
            replace(CONFIG, **wrong)


def test_committed_records_are_consistent():
    """Every record under data/runs: a run's errors follow from its own predictions."""
    folder = Path(__file__).resolve().parent.parent / "data" / "runs"
    paths = sorted(folder.rglob("*.json"))
    assert paths
    for path in paths:
        record = records.read_record(path)
        assert record["environment"]["revision"] and "+" not in record["environment"]["revision"], path
        for split, result in record.get("result", {}).items():  # a bench has none
            labels, predictions = record["labels"][split], record["predictions"][split]
            assert len(labels) == len(predictions) == record["data"]["counts"][split], path
            assert result["error"] == pytest.approx(100 * stats.wrong(record, split).mean()), path


def test_a_run_that_was_begun_with_an_older_fingerprint_goes_on(tmp_path):
    """Format 1 hashed the pixels after resizing: checkpoints and records with that fingerprint are still this run."""
    photographs = tiny()
    object.__setattr__(photographs, "source", "0123456789abcdef")
    config = replace(CONFIG, epochs=2)
    older = tiny()  # without a source: what format 1 knew
    fit(Baseline(), older, config, tmp_path / "a")
    (tmp_path / "a" / "record.json").unlink()
    record = fit(Baseline(), photographs, config, tmp_path / "a").record
    assert record["data"]["fingerprint"] == "0123456789abcdef" != older.fingerprint
    object.__setattr__(photographs, "source", "fedcba9876543210")
    with pytest.raises(RunError, match="data.fingerprint is '0123456789abcdef' there"):
        fit(Baseline(), photographs, config, tmp_path / "a")


def test_committed_records_of_the_first_format_join_those_of_the_second():
    """Every committed record of photographs is upgraded where it is read."""
    names = ("fer2013-1024", "first-walk", "cifar100-2000")
    found = [r for name in names for r in records.read_records(name)]
    assert {r["format"] for r in found} == {records.FORMAT}
    known = set(records.OLDER_FINGERPRINTS.values())
    assert {r["data"]["fingerprint"] for r in found} <= known
