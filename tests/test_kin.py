"""STO's kin: their gates and networks, costs, and agreement with the teacher (their losses: test_peers)."""

import math

import pytest
import torch
import torch.nn.functional as F

from sto_lite import costs, kin
from sto_lite.data import Batches
from sto_lite.kin import CoSub, Fraternal, OtherSTO, RDrop, run_gated, split_kl, squared_gap
from sto_lite.losses import kd_loss
from sto_lite.methods import STO
from sto_lite.registry import METHODS, make
from sto_lite.resnet import ResNet, build, count_parameters
from sto_lite.selves import Exits, ProgressiveSelf, at_depth, front
from sto_lite.survival import linear_decay, sample
from tests.samples import rng, tiny
from tests.test_peers import LABELS, C, Fake, N, images, leaf, ln, q
from tools.kin import agreement


def test_kl_taken_apart_by_hand_and_put_together():
    """T = 1, label 0, teacher (1/2, 3/8, 1/8), student (1/4, 3/8, 3/8)."""
    t, s = (torch.tensor([[a, b, c]], dtype=torch.float64).log() for a, b, c in ((4, 3, 1), (2, 3, 3)))
    right, wrong, rest = (part.item() for part in split_kl(s, t, torch.tensor([0]), 1.0))
    assert right == pytest.approx(0.5 * ln(2) + 0.5 * ln(2 / 3), rel=1e-12)
    assert wrong == pytest.approx(0.75 * ln(1.5) + 0.25 * ln(0.5), rel=1e-12)
    assert rest == pytest.approx(0.5, rel=1e-12)
    a, b = leaf(N, C), leaf(N, C, seed=1)
    right, wrong, rest = split_kl(a, b, LABELS)
    assert (9 * (right + rest * wrong)).mean().item() == pytest.approx(kd_loss(a, b).item(), rel=1e-12)


def test_the_squared_gap_is_kl_at_high_temperature():
    a, b = leaf(N, C), leaf(N, C, seed=1)
    gaps = [abs(kd_loss(a, b, t).item() / squared_gap(a, b).item() - 1) for t in (1e2, 1e3, 1e4)]
    assert gaps[1] < 0.2 * gaps[0] and gaps[2] < 1e-3


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.0), (1, 0.8 * 2 / 4), (3, 0.8), (9, 0.8)])
def test_ps_kd_against_the_form_written_out(epoch, share):
    method, x, y = ProgressiveSelf(grows=4), images(), torch.arange(8) % 7
    model = method.build("resnet8", 7, rng()).double()
    before = build("resnet8", 7, generator=rng()).double().eval()
    step = method.step(model, x, y, rng(), epoch)
    with torch.no_grad():
        target = (1 - share) * F.one_hot(y, 7).double() + share * q(before(x))
    twin = build("resnet8", 7, generator=rng()).double()
    expected = -(target * q(twin(x)).log()).sum() / 8
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    step.loss.backward()
    expected.backward()
    for ours, theirs in zip(model.net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)
    assert all(p.grad is None for p in model.last.parameters())


def test_what_ps_kd_remembers_is_the_end_of_the_last_epoch():
    method, x, y = ProgressiveSelf(), images(), torch.arange(8) % 7
    model = method.build("resnet8", 7, rng()).double().train()
    ends = []
    for epoch in range(3):
        for _ in range(2):
            method.step(model, x, y, rng(), epoch)
            if epoch:
                assert all(v.equal(ends[-1][k]) for k, v in model.last.state_dict().items())
            with torch.no_grad():
                model.net.classifier.weight.mul_(0.9)
        ends.append({k: v.clone() for k, v in model.net.state_dict().items()})
    assert not ends[0]["classifier.weight"].equal(ends[1]["classifier.weight"])


def test_sto_otherwise_is_sto_by_default():
    net, twin = (build("resnet14", 7, generator=rng()).double() for _ in range(2))
    x, y = images(), torch.arange(8) % 7
    ours, theirs = OtherSTO().step(net, x, y, rng(5)), STO().step(twin, x, y, rng(5))
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-13)
    ours.loss.backward()
    theirs.loss.backward()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-10, atol=1e-14)
    assert all(a.equal(b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))
    plain = OtherSTO(weighted=False).deploy(net)
    assert torch.allclose(plain(x), net.eval()(x)) and not torch.allclose(plain(x), OtherSTO().deploy(net)(x))


def test_each_image_has_the_sub_network_of_its_gates():
    """In eval mode, where images do not meet in batch norm; and its gradient is that of the sum of the parts."""
    net = build("resnet14", 7, generator=rng()).double().eval()
    x, gates = images(), sample(linear_decay(6).expand(8, -1), rng(1))
    assert len({tuple(row) for row in gates.tolist()}) > 4
    together = run_gated(net, x, gates)
    alone = torch.cat([net(x[i : i + 1], gates[i]) for i in range(8)])
    assert torch.allclose(together, alone, rtol=1e-10, atol=1e-12)
    weights = list(net.parameters())
    ours, theirs = (torch.autograd.grad(z.square().sum(), weights) for z in (together, alone))
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("method", [CoSub(gates="image"), OtherSTO(gates="image"), RDrop(gates="image")])
def test_gates_are_drawn_for_each_image_at_their_rate(method, monkeypatch):
    drawn = []
    monkeypatch.setattr(kin, "run_gated", lambda model, x, gates: drawn.append(gates) or leaf(len(x), C))
    method.student(build("resnet8", 7), torch.zeros(6000, 3, 8, 8), rng(2))
    assert drawn[0].shape == (6000, 3) and set(drawn[0].unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(drawn[0].mean(0), linear_decay(3), atol=0.02)


def test_the_full_network_never_runs_in_cosub_and_always_in_sto():
    calls = []

    class Watched(Fake):
        def __call__(self, x, gates=None):
            calls.append([1.0] * 3 if gates is None else list(map(float, gates)))
            return torch.zeros(N, C, requires_grad=True)

    for method in (CoSub(p_last=0.0), Fraternal(p_last=0.0), RDrop(p_last=0.0)):
        method.step(Watched(), torch.zeros(N), LABELS, rng())
    assert len(calls) == 6 and all(set(gates) <= {0.0, 1.0} and gates[2] == 0 for gates in calls)
    calls.clear()
    OtherSTO().step(Watched(), torch.zeros(N), LABELS, rng())
    OtherSTO(weighted=False).step(Watched(), torch.zeros(N), LABELS, rng())
    assert calls[1] == linear_decay(3).tolist() and calls[3] == [1.0] * 3
    calls.clear()
    make("sandwich").step(Watched(), torch.zeros(N), LABELS, rng())
    assert calls[0] == [1, 0, 0] and calls[-1] == [1, 1, 1] and len(calls) == 4


def test_exits_share_what_lies_below_them():
    net = build("resnet14", 7, generator=rng()).double().eval()
    exits, x = Exits(net, 7, rng(1)).double().eval(), images()
    first, second, last = exits(x)
    assert last.equal(net(x)) and count_parameters(exits) - count_parameters(net) == 17 * 7 + 33 * 7
    h = net.stem(x)
    for block in net.blocks[:2]:
        h = block(h)
    assert torch.allclose(first, exits.heads[0](h.mean((2, 3))))
    for block in net.blocks[2:4]:
        h = block(h)
    assert torch.allclose(second, exits.heads[1](h.mean((2, 3))))


def test_a_shallow_network_gets_running_statistics_of_its_own():
    """One batch: the mean that its norms hold afterwards is that of what comes into them."""
    net, x = build("resnet14", 7, generator=rng()), images().float()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    shallow = at_depth(net, 2, [x])
    assert not shallow.training and all(v.equal(before[k]) for k, v in net.state_dict().items())
    other = build("resnet14", 7, generator=rng())
    assert torch.allclose(shallow.stem[1].running_mean, other.stem[0](x).mean((0, 2, 3)), atol=1e-6)
    inside, conv = shallow.blocks[0].residual[1].running_mean, other.blocks[0].residual[0]
    assert torch.allclose(inside, conv(other.stem(x)).mean((0, 2, 3)), atol=1e-5)
    assert front(6, 2) == [1, 1, 0, 0, 0, 0]
    for block in shallow.blocks[2:]:
        assert not block.residual[-1].weight.any() and not block.residual[-1].bias.any()


@pytest.mark.parametrize("name", [*METHODS][12:])
def test_a_plain_network_is_deployed(name):
    method = make(name)
    model = method.build("resnet8", 7, rng())
    method.step(model, images().float(), torch.arange(8) % 7, rng()).loss.backward()
    net = method.deploy(model)
    assert type(net) is ResNet and not net.training and model.training
    assert list(net.state_dict()) == list(build("resnet8", 7).state_dict())


def cost(name, **settings):
    return costs.step_cost(make(name, **settings), "resnet32")


def test_costs_in_steps_of_the_baseline():
    student, sto = cost("stochastic-depth"), cost("sto")
    assert cost("cosub") == cost("r-drop") == cost("fraternal") == pytest.approx(2 * student)
    assert cost("expectation-linear") == cost("sto-otherwise") == sto == pytest.approx(1 + student)
    assert cost("cosub", gates="image") == cost("sto-otherwise", gates="image") == 2
    assert cost("own-teacher") == 1 and cost("ps-kd") == pytest.approx(4 / 3)
    total, blocks, _ = costs.forward("resnet32")
    by_hand = [sum(blocks[:d]) + total - sum(blocks) for d in range(1, 16)]
    assert cost("sandwich") == pytest.approx(1 + (by_hand[0] + 2 * sum(by_hand) / 15) / total)
    assert math.isclose(by_hand[-1], total)


def test_what_a_step_keeps():
    """Each convolution keeps its input, each batch norm its input, each ReLU and sum its output, 4 bytes a number."""
    one = costs.step_memory(make("baseline"), "resnet8", 24, draws=1)
    stem, first, second, third = 16 * 24**2, 16 * 24**2, 32 * 12**2, 64 * 6**2
    numbers = 3 * 24**2 + 2 * stem + sum(4 * block for block in (first, second, third)) + second + third
    assert one == pytest.approx(4 * numbers / 1e6, rel=0.02)
    alike = {"p_last": 1.0}
    for name, times in (("cosub", 2), ("sto-otherwise", 2), ("own-teacher", 1), ("ps-kd", 1)):
        method = make(name, **(alike if times == 2 else {}))
        assert costs.step_memory(method, "resnet8", 24, draws=2) == pytest.approx(times * one, rel=0.03)
    assert costs.step_memory(make("cosub"), "resnet8", 24) < 1.7 * one


@pytest.mark.parametrize(
    "name", ["sto", "sto-otherwise", "expectation-linear", "cosub", "r-drop", "fraternal"]
)
def test_students_that_drop_nothing_agree_with_their_teacher(name):
    """And those that drop the last block, if they are lucky, less; the model is left as it was."""
    method = make(name, p_last=1.0)
    model = method.build("resnet8", 7, rng())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert agreement(method, model, tiny()) == dict.fromkeys(tiny().test_splits, 100.0)
    less = agreement(make(name, p_last=0.3), model, tiny())
    assert all(0 < value < 100 for value in less.values())
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_agreement_of_exits_depths_and_yesterday_by_hand():
    images = tiny()
    for name, count in (("sandwich", 2), ("own-teacher", 2), ("ps-kd", 1), ("baseline", 0)):
        method = make(name)
        model = method.build("resnet8", 7, rng())
        found = agreement(method, model, images)
        assert list(found) == (list(images.test_splits) if count else [])
        if name == "ps-kd":
            for split, value in found.items():
                x = Batches(images.splits[split], *images.mean_std, batch_size=256, augment=False)
                batch, _ = next(x.in_order())
                with torch.no_grad():
                    student, last = model.train().net(batch), model.last(batch)
                same = 100 * (student.argmax(1) == last.argmax(1)).double().mean().item()
                assert len(x) == 1 and value == pytest.approx(same, abs=1e-3)
