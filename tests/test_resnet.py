"""Chapters 2 and 3: networks, gates, Eqs. 3 to 5, folding, parameter counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import stochastic_depth

from sto_lite.resnet import NETWORKS, Block, build, count_parameters, fold
from sto_lite.survival import linear_decay
from tests.samples import rng

PARAMETERS = {  # trainable parameters for 7, 10 and 100 classes
    "resnet32": (466_711, 466_906, 472_756),
    "resnet50": (758_359, 758_554, 764_404),
    "resnet110": (1_146_967, 1_147_738, 1_170_868),
    "resnet110-basic": (1_730_519, 1_730_714, 1_736_564),
    "wrn20-2": (1_079_703, 1_080_090, 1_091_700),
}


def lived_in(name, shortcut="B", seed=0):
    """A float64 network whose batch norms have seen data and whose γ and β are not 1 and 0; and an input."""
    g = rng(seed)
    net = build(name, 7, shortcut=shortcut, generator=g).double()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight += 0.3 * torch.randn(m.weight.shape, dtype=torch.float64, generator=g)
                m.bias += 0.3 * torch.randn(m.bias.shape, dtype=torch.float64, generator=g)
    for _ in range(3):
        net(torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=g))
    return net.eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=g)


def reference(weights, x, n, bottleneck, shortcut, gate=lambda branch, block: branch):
    """The same network in eval mode, written again from He et al.'s description, on a state dict."""

    def conv_bn(x, conv, norm, stride=1):
        w = weights[f"{conv}.weight"]
        x = F.conv2d(x, w, stride=stride, padding=(w.shape[-1] - 1) // 2)
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * weights[f"{norm}.weight"][:, None, None] + weights[f"{norm}.bias"][:, None, None]

    x = conv_bn(x, "stem.0", "stem.1").clamp(min=0)
    for block in range(3 * n):
        stride = 2 if block in (n, 2 * n) else 1
        at = f"blocks.{block}"
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        y = x
        for i, s in enumerate(strides):
            y = conv_bn(y, f"{at}.residual.{3 * i}", f"{at}.residual.{3 * i + 1}", s)
            y = y.clamp(min=0) if i < len(strides) - 1 else y
        if y.shape != x.shape:
            if shortcut == "A":
                x = x[:, :, ::stride, ::stride]
                x = torch.cat([x, x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])], 1)
            else:
                x = conv_bn(x, f"{at}.shortcut.0", f"{at}.shortcut.1", stride)
        x = (gate(y, block) + x).clamp(min=0)
    x = x.flatten(2).sum(2) / (x.shape[2] * x.shape[3])
    return x @ weights["classifier.weight"].T + weights["classifier.bias"]


@pytest.mark.parametrize(("name", "counts"), PARAMETERS.items())
def test_parameter_counts(name, counts):
    assert tuple(count_parameters(build(name, c)) for c in (7, 10, 100)) == counts
    if name == "resnet32":
        assert count_parameters(build(name, 7, shortcut="A")) == 463_959


@pytest.mark.parametrize("name", ["resnet8", "resnet32", "resnet50", "resnet110", "resnet110-basic"])
def test_depth_is_in_the_name(name):
    convolutions = [m for m in build(name, 7, shortcut="A").modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == int(name.removeprefix("resnet").removesuffix("-basic"))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("name", ["resnet8", "resnet20", "wrn20-2", "bottleneck"])
def test_gates_of_one_are_the_baseline_and_an_independent_implementation(name, shortcut, monkeypatch):
    monkeypatch.setitem(NETWORKS, "bottleneck", {"blocks_a_stage": 2, "bottleneck": True})
    net, x = lived_in(name, shortcut)
    plain = net(x)
    assert plain.equal(net(x, torch.ones(net.num_blocks)))
    other = reference(net.state_dict(), x, net.num_blocks // 3, name == "bottleneck", shortcut)
    assert (plain - other).abs().max() < 1e-11


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "wrn20-2"])
def test_student_and_teacher_against_the_independent_implementation(name):
    net, x = lived_in(name)
    p = linear_decay(net.num_blocks)
    for gates in (p, (torch.rand(len(p), generator=rng(3)) < 0.5).double()):
        expected = reference(net.state_dict(), x, len(p) // 3, False, "B", lambda y, block: gates[block] * y)  # noqa: B023
        assert (net(x, gates) - expected).abs().max() < 1e-11


@pytest.mark.parametrize("training", [True, False])
def test_against_torchvisions_stochastic_depth(training):
    """torchvision divides by p in training and leaves eval alone: our network with p folded in, run its way."""
    net, x = lived_in("resnet20")
    p = linear_decay(net.num_blocks)
    drawn = []

    def gate(branch, block):
        torch.manual_seed(100 + block)
        out = stochastic_depth(branch, 1 - p[block].item(), mode="batch", training=training)
        drawn.append(float(out.abs().sum() > 0))
        return out

    theirs = reference(fold(net, p).state_dict(), x, len(p) // 3, False, "B", gate)
    ours = net(x, drawn if training else p)
    assert not training or 0 < sum(drawn) < len(drawn)
    assert (ours - theirs).abs().max() < 1e-11


def test_a_block_by_hand():
    """One channel, one pixel, identity shortcut: H = ReLU(g · f(H) + H), with f made a known number."""
    block = Block(1, 1, 1).double().eval()
    conv1, norm1, _, conv2, norm2 = block.residual
    nn.init.constant_(conv1.weight, 1.0)
    nn.init.constant_(conv2.weight, -3.0)
    for norm in (norm1, norm2):
        norm.eps = 1e-300  # running mean 0 and variance 1, γ = 1 and β = 0: the norms are identities
    h = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    # only the kernels' centres see the pixel: f(2) = -3 · ReLU(1 · 2) = -6
    for gate, expected in [(0.0, 2.0), (0.25, 0.5), (0.5, 0.0), (1.0, 0.0), (1 / 6, 1.0)]:
        assert block(h, gate).item() == pytest.approx(expected, abs=1e-12)


def test_a_dropped_block_is_skipped():
    """No computation, no gradient, no batch norm update from a dropped block; its strided shortcut stays."""
    net = build("resnet20", 7, generator=rng())
    calls = []
    for i, block in enumerate(net.blocks):
        block.residual.register_forward_hook(lambda *_, i=i: calls.append(i))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    gates = [0, 1, 0, 0, 1, 1, 0, 1, 0]
    net(torch.randn(4, 3, 16, 16, generator=rng()), gates).square().sum().backward()
    assert calls == [1, 4, 5, 7]
    for i, (block, gate) in enumerate(zip(net.blocks, gates, strict=True)):
        for name, parameter in block.residual.named_parameters():
            assert (parameter.grad is None) == (gate == 0), (i, name)
        for name, buffer in block.residual.named_buffers():
            assert buffer.equal(before[f"blocks.{i}.residual.{name}"]) == (gate == 0), (i, name)
        for parameter in block.shortcut.parameters():
            assert parameter.grad is not None
    assert not net.blocks[3].shortcut[1].running_mean.equal(before["blocks.3.shortcut.1.running_mean"])


@pytest.mark.parametrize("name", ["resnet14", "resnet110", "wrn20-2"])
def test_fold_is_the_teacher(name):
    net, x = lived_in(name)
    p = linear_decay(net.num_blocks)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    plain = fold(net, p)
    scale = net(x, p).abs().max()
    assert (plain(x) - net(x, p)).abs().max() < 1e-12 * scale
    assert (net(x) - net(x, p)).abs().max() > 1e-3 * scale, "else the test says nothing"
    assert not plain.training and not any(m.training for m in plain.modules())
    assert all(v.equal(before[k]) for k, v in net.state_dict().items()), "fold changed its argument"
    assert list(plain.state_dict()) == list(net.state_dict()), "not a plain network"
    fold(net.train(), p)
    assert net.training and net.blocks[0].training


def test_initialisation():
    net = build("resnet32", 7, generator=rng(1))
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            fan_out = m.weight.shape[0] * m.kernel_size[0] ** 2
            assert m.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
        if isinstance(m, nn.BatchNorm2d):
            assert m.weight.eq(1).all() and m.bias.eq(0).all()
    same, other = build("resnet32", 7, generator=rng(1)), build("resnet32", 7, generator=rng(2))
    assert all(a.equal(b) for a, b in zip(net.parameters(), same.parameters(), strict=True))
    assert not net.classifier.weight.equal(other.classifier.weight)
    assert not net.stem[0].weight.equal(other.stem[0].weight)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="shortcut"):
        build("resnet8", 7, shortcut="C")
    net = build("resnet8", 7)
    with pytest.raises(ValueError, match="2 gates for a network of 3 blocks"):
        net(torch.zeros(1, 3, 8, 8), [1, 1])
    with pytest.raises(ValueError, match="4 survival"):
        fold(net, [1, 1, 1, 1])
