"""Chapter 6: what each method computes, where its gradients go, and which statistics it keeps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sto_lite.fused import FusedSTO
from sto_lite.losses import kd_loss
from sto_lite.methods import STO, Baseline, StochasticDepth, fixed_running_stats
from sto_lite.registry import METHODS, make
from sto_lite.resnet import build
from sto_lite.survival import linear_decay, sample
from tests.samples import rng


@pytest.fixture
def batch():
    return torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=rng(1)), torch.arange(8) % 7


def model(seed=0):
    return build("resnet14", 7, generator=rng(seed)).double()


def gradients(net, loss):
    """Name -> gradient; zeros where a parameter got none."""
    got = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, retain_graph=True)
    pairs = zip(net.named_parameters(), got, strict=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs}


def assert_same(ours, theirs, tolerance=1e-12):
    scale = max(g.abs().max() for g in theirs.values())
    assert max((ours[n] - theirs[n]).abs().max() for n in theirs) < tolerance * scale


def test_baseline(batch):
    x, y = batch
    net = model()
    step = Baseline().step(net, x, y, rng())
    expected = F.cross_entropy(model()(x), y)
    assert step.loss.item() == expected.item()
    assert step.logits.shape == (8, 7)


def test_stochastic_depth_trains_the_sampled_student_alone(batch):
    x, y = batch
    net = model()
    step = StochasticDepth().step(net, x, y, rng(5))
    gates = sample(linear_decay(6), rng(5))
    assert 0 < gates.sum() < 6
    twin = model()
    expected = F.cross_entropy(twin(x, gates), y)
    assert step.loss.item() == expected.item()
    assert_same(gradients(net, step.loss), gradients(twin, expected))


def by_hand(net, x, y, gates, lam=0.25, temperature=3.0, detach=True):
    """Eq. 9, written out, without any function of methods.py."""
    student, teacher = net(x, gates), net(x, linear_decay(net.num_blocks))
    kd = kd_loss(student, teacher.detach() if detach else teacher, temperature)
    return F.cross_entropy(student, y) + F.cross_entropy(teacher, y) + lam * kd


@pytest.mark.parametrize("students", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"detach": False}, {"lam": 0.0}, {"lam": 1.5, "temperature": 7.0}])
def test_sto_is_eq9(batch, settings, students):
    """With several students their mean."""
    x, y = batch
    net, twin, gates = model(), model(), rng(5)
    step = STO(students=students, **settings).step(net, x, y, rng(5))
    losses = [by_hand(twin, x, y, sample(linear_decay(6), gates), **settings) for _ in range(students)]
    expected = torch.stack(losses).mean()
    assert step.logits.shape == (8, 7)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-13)
    assert_same(gradients(net, step.loss), gradients(twin, expected))
    assert sum(step.parts.values()).item() == pytest.approx(step.loss.item(), rel=1e-13)


def test_without_backward_through_the_full_network(batch):
    """Table 3's "W/O Backward": the gradient is that of CE_s + λ T² KL with a constant teacher."""
    x, y = batch
    net, twin = model(), model()
    step = STO(teacher_backward=False).step(net, x, y, rng(5))
    gates = sample(linear_decay(6), rng(5))
    student = twin(x, gates)
    with torch.no_grad():
        teacher = twin(x, linear_decay(6))
    expected = F.cross_entropy(student, y) + 0.25 * kd_loss(student, teacher)
    assert_same(gradients(net, step.loss), gradients(twin, expected))
    step.loss.backward()
    for block, gate in zip(net.blocks, gates, strict=True):
        assert all((p.grad is None) == (gate == 0) for p in block.residual.parameters())


def test_the_full_methods_gradient_reaches_dropped_blocks(batch):
    x, y = batch
    net = model()
    STO().step(net, x, y, rng(5)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def test_running_statistics_of_the_teacher_alone(batch):
    x, y = batch
    net, twin = model(), model()
    STO().step(net, x, y, rng(5))
    twin(x, linear_decay(6))
    for ours, theirs in zip(norms(net), norms(twin), strict=True):
        assert ours.num_batches_tracked == 1 and ours.track_running_stats
        assert torch.allclose(ours.running_mean, theirs.running_mean, atol=1e-14)
        assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-14)


def test_batch_norm_of_every_kind_is_held():
    norm = nn.BatchNorm1d(3)
    with fixed_running_stats(norm):
        norm(torch.randn(4, 3))
    assert norm.num_batches_tracked == 0


def test_running_statistics_of_both(batch):
    """Student first, then teacher: in the steady state 9/19 student and 10/19 teacher, where no block is dropped."""
    x, y = batch
    net = model()
    stem = norms(net)[0]
    STO(running_stats="both").step(net, x, y, rng(5))
    assert stem.num_batches_tracked == 2
    gates = sample(linear_decay(6), rng(5))
    for block, gate in zip(net.blocks, gates, strict=True):
        assert block.residual[1].num_batches_tracked == 1 + gate


@pytest.mark.parametrize("method", [STO(), FusedSTO(running_stats="both")], ids=repr)
def test_statistics_are_tracked_again_after_an_error(batch, method):
    x, y = batch
    net = model()
    with pytest.raises(RuntimeError):
        method.step(net, x[:, :2], y, rng())
    assert all(norm.track_running_stats and norm.momentum == 0.1 for norm in norms(net))


@pytest.mark.parametrize("method", [Baseline(), StochasticDepth(), STO()])
def test_what_is_deployed_is_a_plain_network_of_eq5(batch, method):
    x, y = batch
    net = method.build("resnet14", 7, rng()).double()
    method.step(net, x, y, rng())
    deployed = method.deploy(net)
    assert not deployed.training and net.training
    p = [1.0] * 6 if type(method) is Baseline else linear_decay(6)
    assert (deployed(x) - net.eval()(x, p)).abs().max() < 1e-11


def test_gates_come_from_the_generator_alone(batch):
    x, y = batch
    nets = [model() for _ in range(3)]
    state = torch.random.get_rng_state()
    losses = [STO().step(net, x, y, rng(seed)).loss.item() for net, seed in zip(nets, (5, 5, 6), strict=True)]
    assert losses[0] == losses[1] != losses[2]
    assert state.equal(torch.random.get_rng_state())


def test_make():
    assert make("sto", lam=0.5) == FusedSTO(lam=0.5)
    names = "baseline stochastic-depth sto dml one okddip kd label-smoothing ema stochastic-depth-stepped dml-mean "
    names += "one-attached cosub r-drop fraternal expectation-linear sto-otherwise sandwich own-teacher ps-kd"
    assert list(METHODS) == names.split(), "methods, controls and kin, as the book tells of them"
