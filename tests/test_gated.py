"""Gates for any network: torchvision's ResNet-18 and a small ViT, trained, folded, kept and exported."""

import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn

from sto_lite import costs, data, gated, own, resnet
from sto_lite.fused import FusedSTO
from sto_lite.methods import STO, Baseline, check_single
from sto_lite.registry import METHODS, find, make
from sto_lite.take import load
from sto_lite.train import Config, fit

models = pytest.importorskip("torchvision.models")
MODULE = """
from torch import nn
from torchvision.models import VisionTransformer, resnet18
from sto_lite.gated import gated
from sto_lite.methods import Baseline

def cnn(classes):
    net = resnet18(num_classes=classes)
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    return gated(net, [block.bn2 for stage in stages for block in stage])

def vit(classes):
    net = VisionTransformer(image_size=8, patch_size=4, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
                            num_classes=classes)
    nn.init.normal_(net.heads.head.weight)
    return gated(net, [part for block in net.encoder.layers for part in (block.dropout, block.mlp)])

def bare(classes):
    return resnet18(num_classes=classes)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder with a module of one's own; importing from it leaves nothing behind."""
    (tmp_path / "gatedmine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "gatedmine", raising=False)


def built(name, seed=0):
    return resnet.build(f"gatedmine:{name}", 7, generator=torch.Generator().manual_seed(seed))


def ungated(net):
    """The same network without its gates."""
    plain = copy.deepcopy(net)
    for name in plain.names:
        parent, _, child = name.rpartition(".")
        setattr(plain.net.get_submodule(parent), child, plain.net.get_submodule(name).layer)
    return plain.net


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "count"), [("cnn", 8), ("vit", 6)])
def test_gates_of_one_leave_the_logits_as_they_were_and_others_do_not(name, count, x):
    net = built(name).eval()
    assert net.num_blocks == count
    with torch.no_grad():
        theirs, ones = ungated(net)(x), net(x, [1.0] * count)
        assert torch.equal(theirs, ones) and torch.equal(theirs, net(x))
        for place in range(count):
            assert not torch.allclose(net(x, [float(i != place) for i in range(count)]), theirs)
        assert torch.equal(net(x), theirs), "a call leaves no gate behind"


def test_a_gate_stands_where_the_equation_has_it(x):
    """Block 1 of ResNet-18 by hand: relu(g · f(h) + h)."""
    net = built("cnn").eval()
    block, plain = net.net.layer1[0], ungated(net).layer1[0]
    h = torch.rand(2, 64, 2, 2)
    with torch.no_grad():
        f = plain.bn2(plain.conv2(torch.relu(plain.bn1(plain.conv1(h)))))
        for gate in (0.0, 0.3, 1.0):
            block.bn2.given = gate
            torch.testing.assert_close(block(h), torch.relu(gate * f + h))


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_the_folded_network_is_the_teacher(name, x):
    net = built(name)
    for _ in range(3):
        net(torch.randn(8, 3, 8, 8))  # running statistics move
    net.eval()
    p = torch.linspace(0.9, 0.3, net.num_blocks)
    folded = resnet.fold(net, p)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x, p), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(folded(x), net(x))
    kept = [p_l for p_l, block in zip(p.tolist(), folded.blocks, strict=True) if block.rest[0] != 1]
    # All of ResNet-18's branches end with a batch norm; of the ViT, the attention's ends with a dropout.
    assert kept == ([] if name == "cnn" else pytest.approx(p.tolist()[::2]))


def test_what_ends_a_branch_is_folded_only_if_it_is_surely_affine_and_last():
    def folded(layer):
        return not isinstance(gated.Gate(layer).residual[0], nn.ParameterList)

    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x).relu()

    class Odd(nn.Sequential):
        def forward(self, x):
            return super().forward(x).relu()

    line = nn.Linear(2, 2)
    assert folded(line) and folded(nn.BatchNorm2d(2)) and folded(nn.Sequential(nn.ReLU(), line, nn.Dropout()))
    for layer in (nn.ReLU(), nn.Dropout(), nn.BatchNorm2d(2, affine=False), Doubled(2, 2), Odd(line)):
        assert not folded(layer), layer
    assert not folded(nn.Sequential(line, nn.ReLU())) and not folded(nn.MultiheadAttention(2, 1))


def test_a_dropped_branch_gets_no_gradient(x):
    net = built("vit").train()
    net(x, [1, 0, 1, 1, 1, 1]).sum().backward()
    dropped, kept = net.blocks[1].layer, net.blocks[3].layer
    assert all(weight.grad is None for weight in dropped.parameters())
    assert all(weight.grad is not None for weight in kept.parameters())


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_sto_trains_it_and_the_file_gives_it_back(name, tmp_path):
    images = data.load("faces", size=8, limit=64)
    images = dataclasses.replace(images, splits=dict.fromkeys(("train", "test"), images.splits["train"]))
    config = Config(net=f"gatedmine:{name}", epochs=1, batch_size=32)
    run = fit(make("sto"), images, config, tmp_path / "run", "cpu", progress=False)
    assert run.record["config"]["net"] == f"gatedmine:{name}" and run.record["method"]["name"] == "sto"
    fresh = dict(built(name).named_parameters())
    moved = [name for name, w in run.network.named_parameters() if not torch.equal(w, fresh[name])]
    assert len(moved) >= sum(w.requires_grad for w in fresh.values())
    taken = load(tmp_path / "run")
    pixels = images.splits["test"].images
    seen = taken.probabilities(pixels)
    assert seen.argmax(1).tolist() == run.record["predictions"]["test"]
    again = fit(make("sto"), images, config, tmp_path / "run", "cpu", progress=False)
    assert again.record == run.record
    assert costs.step_cost(make("sto"), config.net, 8) == 2.0, "nothing is saved by what is dropped"


def test_sto_takes_two_passes_there_with_the_same_settings():
    ours = make("sto", lam=0.5)
    assert gated.suited(ours, "resnet8") is ours and type(ours) is FusedSTO
    two = gated.suited(ours, "gatedmine:cnn")
    assert type(two) is STO and two.lam == 0.5 and two.name == "sto"
    told = "gates for each image take sto_lite's own ResNets apart; train gatedmine"
    for name in ("cosub", "sto-otherwise"):
        with pytest.raises(ValueError, match=told):
            gated.suited(make(name, gates="image"), "gatedmine:vit")
    for name in METHODS.keys() - {"kd"}:
        try:
            method = gated.suited(make(name), "gatedmine:vit")
            model = method.build("gatedmine:vit", 7, torch.Generator()).train()
        except ValueError as error:
            assert name in (*gated.APART, "own-teacher")
            assert "takes sto_lite's own ResNets apart" in str(error)
            continue
        step = method.step(model, torch.randn(2, 3, 8, 8), torch.tensor([1, 2]), torch.Generator())
        step.loss.backward()
        assert method.deploy(model)(torch.randn(2, 3, 8, 8)).shape == (2, 7), name


def test_the_run_s_seed_draws_its_weights():
    before = torch.random.get_rng_state()
    same = [built("cnn", seed).state_dict()["net.conv1.weight"] for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_epoch_s_last_batch_of_one_image_is_told(x):
    model = built("cnn").train()
    with pytest.raises(ValueError, match="batch norm needs more than one value"):
        check_single(make("stochastic-depth", p_last=0.0), model, x[:1], torch.tensor([0]), 3)


def test_it_can_be_exported_with_its_gates(x):
    net = resnet.fold(built("vit"), [0.5] * 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.parametrize("wrong", ["none", "foreign", "twice"])
def test_branches_are_modules_of_the_network_each_once(wrong):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    branches = {"none": [], "foreign": [nn.Linear(2, 2)], "twice": [net[0], net[0]]}[wrong]
    with pytest.raises(ValueError, match="each branch is a module of its own"):
        gated.gated(net, branches)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gatedmine:bare", "gives ResNet, which has no gates: return gated"),
        ("gatedmine:cnm", "has no cnm; did you mean cnn"),
        ("gatedmin:cnn", "there is no module gatedmin in .*did you mean gatedmine.*PYTHONPATH"),
    ],
)
def test_a_wrong_network_is_told(name, message):
    with pytest.raises(own.RunError, match=message):
        resnet.build(name, 7)


def test_a_module_that_fails_is_told_with_its_own_words(tmp_path):
    (tmp_path / "gatedbroken.py").write_text("import no_such_thing")
    with pytest.raises(own.RunError, match="importing it gives ModuleNotFoundError: No module named 'no_"):
        find("gatedbroken:Method")


@pytest.mark.parametrize(("name", "lacks"), [("cnn", "build, step, deploy"), ("nn", "build, step, deploy")])
def test_what_is_no_method_is_told(name, lacks):
    with pytest.raises(own.RunError, match=f"is no method: it lacks {lacks}; a method is a frozen dataclass"):
        find(f"gatedmine:{name}")


def test_a_method_is_called_by_its_path():
    assert make("gatedmine:Baseline").name == "gatedmine:Baseline" and Baseline.name == "baseline"
    assert make("gatedmine:Baseline") == make("gatedmine:Baseline")
