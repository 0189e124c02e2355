"""What chapter 10 does to a trained network: exact where it claims to be, measured where it does not."""

import base64

import pytest
import torch
from torch import nn

from sto_lite import pocket, resnet
from sto_lite.about import wilson
from sto_lite.data import Batches, Split
from sto_lite.evaluation import evaluate
from sto_lite.faces import generate
from sto_lite.records import read_records
from sto_lite.survival import linear_decay
from tools.pocket_runs import CALIBRATION, all_shortened, halve

RECORDS = read_records("chapters-pocket")
WITH_WEIGHTS = [record for record in RECORDS if "weights" in record]
P = linear_decay(6)


def lively(name="resnet8", seed=0):
    """A network whose batch norms are far from their first state, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    net = resnet.build(name, 7, generator=generator).eval()
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net


def pictures(count=16, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gates", [None, [1.0, 0.0, 1.0], [0.9, 0.7, 0.5]])
def test_a_network_without_batch_norms_is_the_same_network(gates):
    net, x = lively(), pictures()
    fused = pocket.fuse_batch_norms(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 9
    torch.testing.assert_close(fused(x, gates), net(x, gates), rtol=1e-4, atol=1e-4)


def test_new_statistics_are_those_of_the_images_under_the_gates():
    net, x, gates = lively(), 3 * pictures(64) + 1, [1.0, 0.0, 0.5]
    renewed = pocket.recalibrate(net, x, gates)
    first = net.stem[0](x)
    torch.testing.assert_close(renewed.stem[1].running_mean, first.mean((0, 2, 3)))
    assert torch.equal(renewed.blocks[1].residual[1].running_mean, net.blocks[1].residual[1].running_mean)
    assert not torch.equal(net.stem[1].running_mean, renewed.stem[1].running_mean)
    assert renewed.stem[1].momentum == 0.1 and not renewed.training
    torch.testing.assert_close(renewed(x, gates), renewed.train()(x, gates), rtol=1e-2, atol=1e-2)


def test_all_subsets_at_once_are_the_subsets_one_by_one():
    net, x, known, gates = lively(), pictures(8), pictures(32) + 1, torch.tensor([0.9, 0.7, 0.5])
    with torch.no_grad():
        some, anew = all_shortened(net, x, gates), all_shortened(lively(), x, gates, known)
        for m, kept in enumerate(torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)):
            torch.testing.assert_close(some[m], net(x, kept * gates))
            one = pocket.recalibrate(net, known, kept * gates)
            torch.testing.assert_close(anew[m], one(x, kept * gates), rtol=1e-4, atol=1e-4)


def test_weights_come_back_from_a_record():
    net = lively("resnet14")
    weights = base64.b64encode(halve(net)).decode()
    back = pocket.rebuild({"config": {"net": "resnet14"}, "classes": "abcdefg", "weights": weights})
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), net.parameters(), strict=True))
    assert torch.equal(back(pictures()), net(pictures()))


@pytest.mark.parametrize("record", WITH_WEIGHTS, ids=lambda record: record["method"]["name"])
def test_committed_networks_err_as_their_records_say(record):
    test = Split(*generate(140, 24, seed=2, difficulty=record["data"]["difficulty"]))
    mean, std = (torch.tensor(record["normalisation"][name]) for name in ("mean", "std"))
    p = torch.ones(6) if record["method"]["name"] == "baseline" else P
    error = evaluate(resnet.fold(pocket.rebuild(record), p), test, (mean, std)).error
    low, high = wilson(round(1.4 * error), 140)
    assert low < record["measured"]["test"]["error"] < high
    assert record["errors"]["as trained"][-1] == pytest.approx(record["measured"]["test"]["error"], abs=0.3)
    assert all(len(errors) == 64 for errors in record["errors"].values())


def test_eight_bits_answer_nearly_alike_in_a_third_of_the_room():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import onnxruntime

    from sto_lite.export import to_onnx
    from sto_lite.take import TakenNetwork

    record = WITH_WEIGHTS[-1]
    net = pocket.fuse_batch_norms(resnet.fold(pocket.rebuild(record), P))
    about = {key: record[key] for key in ("classes", "size", "normalisation")}
    whole = to_onnx(TakenNetwork(net, about, "test"))
    seen, _ = generate(CALIBRATION, 24, seed=1, difficulty=0.3)
    small = pocket.to_int8(whole, seen)
    assert len(small) < len(whole) / 2.5
    faces, labels = generate(70, 24, seed=2, difficulty=0.3)
    mean, std = (torch.tensor(record["normalisation"][name]) for name in ("mean", "std"))
    with torch.no_grad():
        expected = net(Batches(Split(faces, labels), mean, std, augment=False).normalise(faces))
    found = []
    for model in (whole, small):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        found.append(torch.from_numpy(session.run(["logits"], {"images": faces.numpy()})[0]))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-3)
    assert not torch.equal(found[1], found[0])  # eight bits are fewer
    assert (found[1].argmax(1) == expected.argmax(1)).double().mean() > 0.9
    assert (found[1] - expected).abs().mean() < 0.1 * expected.std()
