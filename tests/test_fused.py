"""Chapter 7: one pass for two roles is the two-pass form: losses, every gradient, running statistics."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sto_lite.fused import FusedSTO, side_by_side
from sto_lite.methods import STO
from sto_lite.resnet import ResNet, initialise
from tests.samples import rng


def network(blocks=2, bottleneck=False, shortcut="B", seed=0):
    """A small network in float64 whose batch norms have scales and shifts of their own."""
    net = ResNet(blocks, 4, bottleneck=bottleneck, shortcut=shortcut)
    initialise(net, rng(seed))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5, generator=rng(seed + 1))
            nn.init.normal_(m.bias, generator=rng(seed + 2))
    return net.double()


def batch(size=8, images=5, seed=0):
    x = torch.randn(images, 3, size, size, dtype=torch.float64, generator=rng(seed + 3))
    return x, torch.randint(4, (images,), generator=rng(seed + 4))


def assert_same(ours, theirs, names=None):
    """Tensors by name: none missing, none different by more than 1e-12 of the largest."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if value is None or ours[name] is None:
            assert value is None and ours[name] is None, name
        else:
            assert ours[name].shape == value.shape
            scale = max(1.0, value.abs().max().item())
            assert (ours[name] - value).abs().max() <= 1e-12 * scale, name


def after_step(step, net):
    """Losses, logits, gradients and buffers that a step leaves behind."""
    result = step(net)
    result.loss.backward()
    buffers = {name: buffer.double() for name, buffer in net.named_buffers()}
    grads = {f"gradient of {name}": p.grad for name, p in net.named_parameters()}
    return {"loss": result.loss, "logits": result.logits, **result.parts, **grads, **buffers}


SETTINGS = {
    "p_last": st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    "schedule": st.sampled_from(["linear", "uniform"]),
    "lam": st.sampled_from([0.0, 0.25, 2.0]),
    "temperature": st.sampled_from([1.0, 3.0]),
    "detach": st.booleans(),
    "teacher_backward": st.booleans(),
    "running_stats": st.sampled_from(["teacher", "both"]),
    "students": st.integers(1, 3),
}
NETS = {"blocks": st.integers(1, 2), "bottleneck": st.booleans(), "shortcut": st.sampled_from(["A", "B"])}
NETS |= {"seed": st.integers(0, 99)}


@settings(max_examples=60)
@given(st.fixed_dictionaries(SETTINGS), st.fixed_dictionaries(NETS), st.integers(0, 10**6))
def test_one_pass_is_two_passes(chosen, net, seed):
    ours, (x, y) = network(**net), batch(seed=net["seed"])
    theirs = copy.deepcopy(ours)
    found = after_step(lambda m: FusedSTO(**chosen).step(m, x, y, rng(seed)), ours)
    assert_same(found, after_step(lambda m: STO(**chosen).step(m, x, y, rng(seed)), theirs))


@pytest.mark.parametrize("rows", [[[1, 1, 1]], [[1, 0.5, 0], [1, 0, 0], [1, 0.5, 0]], [[0, 0, 0]] * 2])
def test_any_rows_of_gates(rows):
    """Streams that part, streams that never do, and one that is alone: each is what the network gives for its row."""
    net, (x, _) = network(blocks=1), batch()
    gates = torch.tensor(rows, dtype=torch.float64)
    logits = side_by_side(net, x, gates, [True] * len(rows), [True] * len(rows))
    twin = network(blocks=1)
    for ours, row in zip(logits, gates, strict=True):
        assert (ours - twin(x, row)).abs().max() < 1e-12
    assert_same(*({n: b.double() for n, b in m.named_buffers()} for m in (net, twin)))
