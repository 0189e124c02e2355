"""The controls: updates against forms written out here, averages by hand, costs (their losses: test_peers)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sto_lite import costs
from sto_lite.controls import EMA, SteppedDepth
from sto_lite.methods import Baseline, StochasticDepth
from sto_lite.registry import METHODS, make
from sto_lite.resnet import build, count_parameters
from sto_lite.speed.precision import Arithmetic
from sto_lite.survival import linear_decay, sample
from sto_lite.train import fit
from tests.samples import CONFIG, rng, tiny
from tests.test_peers import images

OF = {"stochastic-depth-stepped": "stochastic-depth", "dml-mean": "dml", "one-attached": "one"}


@pytest.mark.parametrize("name", [*METHODS][7:12])
def test_cost_and_parameters_are_those_of_the_method_it_is_made_from(name):
    ours, theirs = make(name), make(OF.get(name, "baseline"))
    assert costs.step_cost(ours, "resnet32") == costs.step_cost(theirs, "resnet32")
    count = count_parameters(theirs.build("resnet8", 7, rng()))
    assert count_parameters(ours.build("resnet8", 7, rng())) == count


def test_the_loss_of_stepped_depth_is_that_of_stochastic_depth():
    net, x, y = build("resnet8", 7, generator=rng()).double(), images(), torch.arange(8) % 7
    step = SteppedDepth().step(net, x, y, rng(3))
    expected = F.cross_entropy(net(x, sample(linear_decay(3), rng(3))), y)
    assert step.loss.item() == step.parts["student"].item() == expected.item()


def ten_steps(method, lr=0.05, momentum=0.9, decay=0.05):
    """Ten updates as the trainer makes them: the network, momentum by name, and the batches with their gates."""
    net = build("resnet8", 7, generator=rng()).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum, weight_decay=decay, nesterov=True)
    arithmetic, gates = Arithmetic(net, optimizer, torch.device("cpu"), "float32"), rng(3)
    for number in range(10):
        x = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=rng(number))
        arithmetic.update(lambda x=x: method.step(net, x, torch.arange(8) % 7, gates))
    return net, {name: optimizer.state[p].get("momentum_buffer") for name, p in net.named_parameters()}


def written_out(skip, lr=0.05, momentum=0.9, decay=0.05):
    """The same ten updates with Nesterov's rule written out; skip: leave weights without gradient alone."""
    net, gates = build("resnet8", 7, generator=rng()).double(), rng(3)
    speed = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    drawn = []
    for number in range(10):
        x = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=rng(number))
        drawn.append(sample(linear_decay(3), gates))
        loss = F.cross_entropy(net(x, drawn[-1]), torch.arange(8) % 7)
        found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        with torch.no_grad():
            for (name, weight), gradient in zip(net.named_parameters(), found, strict=True):
                if gradient is None and skip:
                    continue
                change = decay * weight + (0 if gradient is None else gradient)
                speed[name] = momentum * speed[name] + change
                weight -= lr * (change + momentum * speed[name])
    return net, speed, torch.stack(drawn)


@pytest.mark.parametrize(("method", "skip"), [(SteppedDepth(), False), (StochasticDepth(), True)])
def test_ten_steps_of_sgd_against_an_optimiser_written_out(method, skip):
    """Weights and momentum, dropped blocks included; and stochastic depth as it is here, by the same loop."""
    net, speed = ten_steps(method)
    by_hand, by_hand_speed, drawn = written_out(skip)
    assert (drawn[0] == 0).any() and (drawn == 0).any(dim=0).all(), "each block is dropped, one at first"
    for (name, ours), theirs in zip(net.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12), name
        assert torch.allclose(speed[name], by_hand_speed[name], rtol=1e-10, atol=1e-12), name
    for (name, ours), theirs in zip(net.named_buffers(), by_hand.buffers(), strict=True):
        assert torch.allclose(ours.double(), theirs.double(), rtol=1e-10, atol=1e-12), name


def test_a_block_that_is_never_kept_decays_and_is_left_alone_otherwise():
    """With p = 0 its weights see decay alone: w, v ← 0.9 v + 0.05 w, w ← w - 0.05 (0.05 w + 0.9 v), ten times."""
    start = build("resnet8", 7, generator=rng()).double().blocks[2].residual[0].weight
    alone, _ = ten_steps(StochasticDepth(p_last=0.0))
    assert alone.blocks[2].residual[0].weight.equal(start)
    factor, speed = 1.0, 0.0
    for _ in range(10):
        speed = 0.9 * speed + 0.05 * factor
        factor -= 0.05 * (0.05 * factor + 0.9 * speed)
    stepped, _ = ten_steps(SteppedDepth(p_last=0.0))
    assert torch.allclose(stepped.blocks[2].residual[0].weight, factor * start, rtol=1e-12)
    assert factor < 0.95


@pytest.mark.parametrize(
    ("decay", "shares"),
    [
        (0.9, [1 / 5] * 5),  # a plain mean, as long as that gives the newest more than a tenth
        (0.5, [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]),
        (0.0, [0, 0, 0, 0, 1]),
    ],
)
def test_the_average_of_five_states(decay, shares):
    """The first weights and those after each of four steps of SGD, running statistics alike."""
    method, x, y = EMA(decay=decay), images(), torch.arange(8) % 7
    model = method.build("resnet8", 7, rng()).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    arithmetic = Arithmetic(model, optimizer, torch.device("cpu"), "float32")
    states = [{k: v.clone() for k, v in model.net.state_dict().items()}]
    for _ in range(4):
        arithmetic.update(lambda: method.step(model, x, y, rng()))
        states.append({k: v.clone() for k, v in model.net.state_dict().items()})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    net = method.deploy(model)
    assert not net.training and model.training
    assert all(v.equal(before[k]) for k, v in model.state_dict().items()), "the model is not changed"
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            expected = sum(share * state[name] for share, state in zip(shares, states, strict=True))
            assert torch.allclose(value, expected, rtol=1e-12, atol=1e-14), name
            assert not states[0][name].equal(states[4][name]), "what stands still tests nothing"
        else:
            assert value == 4
    again = method.deploy(model).state_dict()
    assert all(v.equal(again[k]) for k, v in net.state_dict().items())


def test_what_is_trained_under_an_average_is_the_baseline():
    method = EMA()
    config = replace(CONFIG, epochs=2)
    ours, theirs = (fit(m, tiny(), config, device="cpu") for m in (EMA(decay=0.0), Baseline()))
    assert ours.record["history"]["train_loss"] == theirs.record["history"]["train_loss"]
    same = zip(ours.network.parameters(), theirs.network.parameters(), strict=True)
    assert all(a.equal(b) for a, b in same), "decay 0 averages nothing"
    model = method.build("resnet8", 7, rng(4))
    x, y = images().float(), torch.arange(8) % 7
    step, plain = method.step(model, x, y, rng()), build("resnet8", 7, generator=rng(4))
    assert step.loss.item() == F.cross_entropy(plain(x), y).item()
    step.loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.average.parameters())
    assert all(p.grad is not None for p in model.net.parameters())
