"""Chapter 6: training, records, and runs that are cut off."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sto_lite import records
from sto_lite.config import Config
from sto_lite.data import ImageSet, Split
from sto_lite.errors import RunError
from sto_lite.evaluation import evaluate
from sto_lite.faces import EXPRESSIONS
from sto_lite.methods import STO, Baseline, Step, StochasticDepth
from sto_lite.train import fit

CONFIG = Config(net="resnet8", epochs=3, batch_size=32, seed=0)


def tiny(seed=0, count=96, size=8):
    """A learnable set: the label is which part of the image is bright."""
    g = torch.Generator().manual_seed(seed)
    splits = {}
    for name in ("train", "public", "private"):
        labels = torch.randint(0, 7, (count,), generator=g)
        images = torch.randint(0, 120, (count, 1, size, size), generator=g)
        images[torch.arange(count), 0, labels] += 120
        splits[name] = Split(images.to(torch.uint8), labels)
    return ImageSet("tiny", EXPRESSIONS, splits)


def same_run(a, b):
    """Equal to the last bit, wall time and date aside."""
    drop = ("seconds", "test_seconds")
    histories = [{k: v for k, v in run.record["history"].items() if k not in drop} for run in (a, b)]
    weights = [run.network.state_dict() for run in (a, b)]
    return (
        histories[0] == histories[1]
        and all(v.equal(weights[1][k]) for k, v in weights[0].items())
        and all(a.record[k] == b.record[k] for k in ("result", "predictions", "confidence"))
    )


@pytest.mark.parametrize("method", [Baseline(), StochasticDepth(), STO()])
def test_every_method_learns(method):
    images = tiny(count=256)
    record = fit(method, images, replace(CONFIG, epochs=12, augment=False, lr=0.05)).record
    assert record["result"]["private"]["error"] < 50, "chance is 86 %"
    assert record["history"]["train_loss"][-1] < record["history"]["train_loss"][0]


def test_the_record_is_complete_and_true(tmp_path):
    images = tiny()
    network, record = fit(STO(lam=0.5), images, replace(CONFIG, evaluate_every=2), tmp_path)
    assert record == records.read_record(tmp_path / "record.json")
    assert record["method"]["name"] == "sto" and record["method"]["lam"] == 0.5
    assert record["config"]["epochs"] == 3 and record["data"]["fingerprint"] == images.fingerprint
    assert record["parameters"] == 77_847
    history = record["history"]
    assert (
        history["test_epoch"] == [2, 3]
        and len(history["public_error"]) == 2
        and len(history["train_loss"]) == 3
    )
    assert history["lr"] == pytest.approx([0.1, 0.1, 0.01])
    for split in ("public", "private"):
        wrong = sum(
            p != y for p, y in zip(record["predictions"][split], record["labels"][split], strict=True)
        )
        assert record["result"][split]["error"] == pytest.approx(100 * wrong / 96)
        assert record["result"][split]["best_error"] == pytest.approx(
            min(history[f"{split}_error"]), abs=1e-3
        )
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
    """The same seed gives two methods the same first weights and the same batches."""
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
    rates = [Config().learning_rate(e) for e in (0, 149, 150, 224, 225, 299)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_optimizer_is_the_papers():
    """One step against SGD with Nesterov momentum and weight decay, by its formula."""
    images = tiny(count=16)
    config = Config(net="resnet8", epochs=1, batch_size=16, seed=3, augment=False, drop_at=())
    before = (
        Baseline().build("resnet8", 7, torch.Generator().manual_seed(3)).classifier.weight.detach().clone()
    )
    gradient = []

    @dataclass(frozen=True)
    class Watch(Baseline):
        def step(self, model, x, y, generator, epoch=0):
            model.classifier.weight.register_hook(lambda g: gradient.append(g.clone()))
            return super().step(model, x, y, generator, epoch)

    after = fit(Watch(), images, config).network.classifier.weight
    g = gradient[0] + 1e-4 * before
    assert torch.allclose(after, before - 0.1 * (g + 0.9 * g), atol=1e-6)


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path, epoch):
    @dataclass(frozen=True)
    class Stop(STO):
        def step(self, model, images, labels, generator, now=0):
            if now == epoch:
                raise Interrupt
            return super().step(model, images, labels, generator, now)

    with pytest.raises(Interrupt):
        fit(Stop(), tiny(), CONFIG, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == epoch
    assert same_run(fit(STO(), tiny(), CONFIG, tmp_path), fit(STO(), tiny(), CONFIG))


def test_a_finished_run_is_not_run_again(tmp_path):
    first = fit(STO(), tiny(), CONFIG, tmp_path)
    stamp = (tmp_path / "record.json").stat().st_mtime_ns
    assert same_run(first, fit(STO(), tiny(), CONFIG, tmp_path))
    assert (tmp_path / "record.json").stat().st_mtime_ns == stamp
    (tmp_path / "record.json").unlink()  # killed between the last checkpoint and the record
    assert same_run(first, fit(STO(), tiny(), CONFIG, tmp_path))


COMMAND = [
    "train",
    "--data",
    "fer2013",
    "--net",
    "resnet8",
    "--epochs",
    "4",
    "--size",
    "16",
    "--threads",
    "1",
]


def command(out):
    """The command line, on look-alike data that the folder above `out` holds."""
    if not (out.parent / "fer2013.npz").exists():
        rng, arrays = np.random.default_rng(0), {}
        for split in ("train", "public", "private"):
            arrays[f"{split}_images"] = rng.integers(0, 256, (512, 48, 48), dtype=np.uint8)
            arrays[f"{split}_labels"] = rng.integers(0, 7, 512, dtype=np.uint8)
        np.savez(out.parent / "fer2013.npz", **arrays)
    quiet = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1", "STO_DATA": str(out.parent)}
    return [sys.executable, "-m", "sto_lite", *COMMAND, "--out", str(out)], quiet


def test_sigkill(tmp_path):
    """Killed twice at arbitrary moments and started again with the same command: bit-identical in the end."""
    arguments, environment = command(tmp_path / "killed")
    for epochs in (1, 2):
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            path = tmp_path / "killed" / "checkpoint.pt"
            if path.exists() and torch.load(path, weights_only=True)["epoch"] >= epochs:
                break
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = {}
    for name in ("killed", "whole"):
        arguments, environment = command(tmp_path / name)
        subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL)
        done[name] = torch.load(tmp_path / name / "network.pt", weights_only=True)["weights"]
        done[f"{name} record"] = records.read_record(tmp_path / name / "record.json")
    assert all(v.equal(done["whole"][k]) for k, v in done["killed"].items())
    a, b = done["killed record"], done["whole record"]
    assert a["predictions"] == b["predictions"] and a["confidence"] == b["confidence"]
    assert all(a["history"][k] == b["history"][k] for k in b["history"] if "seconds" not in k)


def test_another_configuration_or_data_in_the_same_folder(tmp_path):
    fit(STO(), tiny(), CONFIG, tmp_path)
    with pytest.raises(RunError, match=r"config.lr is 0.1 there and 0.2 here.*[Tt]ake another folder"):
        fit(STO(), tiny(), replace(CONFIG, lr=0.2), tmp_path)
    with pytest.raises(RunError, match=r"method.lam is 0.25 there and 0.5 here"):
        fit(STO(lam=0.5), tiny(), CONFIG, tmp_path)
    (tmp_path / "record.json").unlink()
    with pytest.raises(RunError, match=r"checkpoint.pt.*data.fingerprint"):
        fit(STO(), tiny(seed=1), CONFIG, tmp_path)


class Malice:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def test_damaged_foreign_and_malicious_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(STO(), tiny(), CONFIG, tmp_path)
    (tmp_path / "record.json").unlink()
    good = (tmp_path / "checkpoint.pt").read_bytes()
    torch.save({"hello": 1}, tmp_path / "foreign.pt")
    torch.save({"identity": Malice()}, tmp_path / "malice.pt")
    bad = [good[: len(good) // 2], b"", b"not a checkpoint", pickle.dumps(Malice()), json.dumps({}).encode()]
    bad += [(tmp_path / "foreign.pt").read_bytes(), (tmp_path / "malice.pt").read_bytes()]
    for content in bad:
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(RunError, match="checkpoint.pt is no checkpoint that can be resumed.*delete it"):
            fit(STO(), tiny(), CONFIG, tmp_path)
        assert not (tmp_path / "pwned").exists()
        assert (tmp_path / "checkpoint.pt").read_bytes() == content


def test_loss_that_is_not_finite(tmp_path):
    @dataclass(frozen=True)
    class Explode(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            loss, logits, parts = super().step(model, images, labels, generator, epoch)
            return Step(loss * (float("nan") if epoch == 2 else 1), logits, parts)

    with pytest.raises(RunError, match="the loss is nan in epoch 3 of 3.*checkpoint of epoch 2 is kept"):
        fit(Explode(), tiny(), CONFIG, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 2


def test_two_processes_in_one_folder(tmp_path):
    @dataclass(frozen=True)
    class Nested(Baseline):
        def step(self, model, images, labels, generator, epoch=0):
            fit(Baseline(), tiny(), CONFIG, tmp_path)
            raise AssertionError("two runs in one folder")

    with pytest.raises(RunError, match="another process is training into"):
        fit(Nested(), tiny(), CONFIG, tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write into"):
        fit(Baseline(), tiny(), CONFIG, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("call", "name", "epoch"), [(2, "checkpoint", 1), (3, "network", 3), (4, "record", 3)]
)
def test_disk_full(tmp_path, monkeypatch, call, name, epoch):
    """The checkpoint before stays whole, and the run goes on from it when there is room."""
    sync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match=rf"{name}\.\w+ cannot be written: No space left on device.*same command"
    ):
        fit(STO(), tiny(), CONFIG, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == epoch
    assert not list(tmp_path.glob("*.partial"))
    assert same_run(fit(STO(), tiny(), CONFIG, tmp_path), fit(STO(), tiny(), CONFIG))


def test_records_that_are_none(tmp_path):
    for content in ("", "{", "[]", '{"config": {}}'):
        (tmp_path / "record.json").write_text(content)
        with pytest.raises(RunError, match=r"record.json is (no readable record|JSON, but no record)"):
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


def test_a_run_finished_on_another_machine_says_so(tmp_path, monkeypatch):
    first = fit(STO(), tiny(), CONFIG, tmp_path).record["environment"]
    (tmp_path / "record.json").unlink()
    monkeypatch.setattr(records, "environment", lambda _: {"device": "another"})
    assert fit(STO(), tiny(), CONFIG, tmp_path).record["environment"] == first, "nothing was trained there"


def test_a_run_that_goes_on_elsewhere_names_both_machines(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Stop(STO):
        def step(self, model, images, labels, generator, epoch=0):
            if epoch == 1:
                raise Interrupt
            return super().step(model, images, labels, generator, epoch)

    with pytest.raises(Interrupt):
        fit(Stop(), tiny(), CONFIG, tmp_path)
    first = records.environment(torch.device("cpu"))
    monkeypatch.setattr(records, "environment", lambda _: {"device": "another"})
    record = fit(STO(), tiny(), CONFIG, tmp_path).record
    assert record["environment"] == {"device": "another"} and record["earlier_environments"] == [first]


def test_a_folder_without_locks_and_what_a_killed_process_left(tmp_path, monkeypatch):
    left = tmp_path / "checkpoint.pt.1234.partial"
    left.write_bytes(b"half")
    fit(Baseline(), tiny(), replace(CONFIG, epochs=1), tmp_path)
    assert not left.exists()
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
            wrong = sum(p != y for p, y in zip(predictions, labels, strict=True))
            assert result["error"] == pytest.approx(100 * wrong / len(labels)), path


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
    found = [
        r for name in ("fer2013-1024", "first-walk", "cifar100-2000") for r in records.read_records(name)
    ]
    assert {r["format"] for r in found} == {records.FORMAT}
    known = set(records.OLDER_FINGERPRINTS.values())
    assert {r["data"]["fingerprint"] for r in found} <= known
