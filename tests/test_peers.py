"""Every rival's, control's and kin's loss and gradient against a form written out here; and the rivals' models."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sto_lite.config import plain
from sto_lite.errors import RunError
from sto_lite.kd import KD
from sto_lite.methods import Baseline
from sto_lite.peers import ONE, Branches, OKDDip, ramp_up
from sto_lite.registry import make
from sto_lite.resnet import build, count_parameters
from sto_lite.train import fit
from tests.samples import CONFIG, rng, tiny

PARAMETERS = {  # trainable parameters of ResNet-32's training model, for 7 and 100 classes
    "dml": (1_400_133, 1_418_268),
    "one": (1_175_054, 1_193_189),
    "okddip": (1_530_092, 1_554_272),
}
N, C = 6, 7
ln = math.log


def leaf(*shape, seed=0):
    return (2 * torch.randn(*shape, dtype=torch.float64, generator=rng(seed))).requires_grad_()


LABELS = torch.arange(N) % C
ONE_HOT = F.one_hot(LABELS, C).double()


# The forms use exp, log and sums alone; autograd in float64 gives their gradients.


def q(z, t=1.0):
    return (z / t).exp() / (z / t).exp().sum(-1, keepdim=True)


def ce(z, target=ONE_HOT):
    return -(target * q(z).log()).sum() / N


def kl(target, other, t=3.0):
    return t * t * (q(target, t) * (q(target, t) / q(other, t)).log()).sum() / N


def gap(a, b):
    d = (a - a.sum(1, keepdim=True) / C) - (b - b.sum(1, keepdim=True) / C)
    return (d * d).sum() / (2 * N * C)


def dkd(s, t, beta=1.0, temperature=3.0):
    total = 0.0
    for n, y in enumerate(LABELS.tolist()):
        p, r = q(t, temperature)[n], q(s, temperature)[n]
        total = total + p[y] * (p[y] / r[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - r[y])).log()
        for c in set(range(C)) - {y}:
            there, here = p[c] / (1 - p[y]), r[c] / (1 - r[y])
            total = total + beta * there * (there / here).log()
    return temperature**2 * total / N


def pearson(a, b):
    a, b = a - a.sum() / len(a), b - b.sum() / len(b)
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


def dist(s, t, temperature=3.0):
    p, r = q(t, temperature), q(s, temperature)
    within = sum(1 - pearson(p[n], r[n]) for n in range(N)) / N
    across = sum(1 - pearson(p[:, c], r[:, c]) for c in range(C)) / C
    return temperature**2 * (within + across)


def dml(*z):
    pairs = [kl(b.detach(), a, 1.0) for a in z for b in z if a is not b]
    return sum(map(ce, z)) + sum(pairs) / (len(z) - 1)


def mean_dml(*z):
    others = [sum(b for b in z if b is not a) / (len(z) - 1) for a in z]
    return sum(map(ce, z)) + sum(map(kl, others, z))


def one(z, gate, w=1.0, attached=False):
    teacher = mixed(z, gate)
    target = teacher if attached else teacher.detach()
    return ce(teacher) + sum(ce(b) + w * kl(target, b) for b in z.unbind(1))


def okddip(z, leader, mix, detach=False, w=1):
    targets, mean = torch.einsum("ij,njc->nic", q(mix), z), z.mean(1)
    if detach:
        targets, mean = targets.detach(), mean.detach()
    among = sum(ce(z[:, i]) + w * kl(targets[:, i], z[:, i]) for i in range(3))
    return ce(leader) + w * kl(mean, leader) + among


def smoothed(z, share=0.1):
    return ce(z, (1 - share) * ONE_HOT + share / C)


def mixed(z, gate):
    return torch.einsum("nb,nbc->nc", q(gate), z)


class Fake:
    """Gives the logits it holds, one tensor a pass, whatever images and gates are."""

    num_blocks = 3

    def __init__(self, *logits):
        self.logits = iter(logits)

    def __call__(self, x, gates=None):
        return next(self.logits)

    def modules(self):
        return []


PASS, THREE = (N, C), (N, 3, C)
GATED, LED = (THREE, (N, 3)), (THREE, PASS, (3, 3))
LATER = math.exp(-5 / 4)  # ONE's ramp in epoch 40 of 80
MODELS = {
    "dml": lambda *logits: [lambda x, z=z: z for z in logits],
    "one": lambda z, gate: lambda x: (z, mixed(z, gate)),
    "okddip": lambda z, leader, mix: lambda x: (z, leader, torch.einsum("ij,njc->nic", q(mix), z)),
    "own-teacher": lambda *logits: lambda x: logits,
}
MODELS |= {"dml-mean": MODELS["dml"], "one-attached": MODELS["one"]}
LOSSES = {  # settings, the form, and what the model gives: tensors of these shapes, or logits of so many passes
    "dml": ({}, dml, 3),
    "dml, two": ({"networks": 2}, dml, 2),
    "dml-mean": ({"networks": 3}, mean_dml, 3),
    "dml-mean, four": ({"networks": 4}, mean_dml, 4),
    "one": ({"ramp": 0}, one, GATED),
    "one, ramp": ({"ramp": 80}, partial(one, w=LATER), GATED),
    "one-attached": ({"ramp": 0}, partial(one, attached=True), GATED),
    "one-attached, ramp": ({"ramp": 80}, partial(one, w=LATER, attached=True), GATED),
    "okddip": ({"ramp": 0, "detach": False}, okddip, LED),
    "okddip, ramp": ({"ramp": 80, "detach": False}, partial(okddip, w=LATER), LED),
    "okddip, detached": ({"ramp": 0, "detach": True}, partial(okddip, detach=True), LED),
    "label-smoothing": ({}, smoothed, 1),
    "label-smoothing, none": ({"smoothing": 0.0}, ce, 1),
    "label-smoothing, more": ({"smoothing": 0.7}, partial(smoothed, share=0.7), 1),
    "cosub": ({}, lambda a, b: ce(a) + ce(b) + ce(a, q(b).detach()) + ce(b, q(a).detach()), 2),
    "r-drop": ({}, lambda a, b: ce(a) + ce(b) + 0.25 * (kl(a, b) + kl(b, a)) / 2, 2),
    "r-drop, one": ({"directions": 1}, lambda a, b: ce(a) + ce(b) + 0.25 * kl(b.detach(), a), 2),
    "fraternal": ({"lam": 0.7}, lambda a, b: ce(a) + ce(b) + 0.7 * gap(a, b), 2),
    "expectation-linear": ({}, lambda s, t: ce(s) + 0.25 * gap(s, t), 2),
    "sto-otherwise": ({}, lambda s, t: ce(s) + ce(t) + 0.25 * kl(t.detach(), s), 2),
    "sto-otherwise, both": ({"detach": False}, lambda s, t: ce(s) + ce(t) + 0.25 * kl(t, s), 2),
    "sto-otherwise, dkd": ({"distillation": "dkd", "beta": 2.0, "detach": False},
        lambda s, t: ce(s) + ce(t) + 0.25 * dkd(s, t, 2.0), 2),
    "sto-otherwise, dist": ({"distillation": "dist", "detach": False, "temperature": 2.0},
        lambda s, t: ce(s) + ce(t) + 0.25 * dist(s, t, 2.0), 2),
    "sto-otherwise, two students": ({"students": 2, "distillation": "dist"},
        lambda a, b, t: (ce(a) + ce(b)) / 2 + ce(t) + 0.25 * (dist(a, t.detach()) + dist(b, t.detach())) / 2, 3),
    "sandwich": ({}, lambda a, b, c, f: ce(f) + sum(ce(z, q(f).detach()) for z in (a, b, c)), 4),
    "own-teacher": ({},
        lambda a, b, f: sum(map(ce, (a, b, f))) + sum(0.25 * kl(f.detach(), z) for z in (a, b)), 3),
}  # fmt: skip
SHOWN = {"okddip": lambda z, leader, mix: leader, "one": lambda z, gate: z[:, 0], "dml": lambda *z: z[0]}


@pytest.mark.parametrize("case", LOSSES)
def test_loss_and_gradient_against_the_form_written_out(case):
    name, (settings, form, shapes) = case.partition(",")[0], LOSSES[case]
    shapes = [PASS] * shapes if isinstance(shapes, int) else shapes
    ours, theirs = ([leaf(*shape, seed=i) for i, shape in enumerate(shapes)] for _ in range(2))
    model = MODELS.get(name, Fake)(*ours)
    step = make(name, **settings).step(model, torch.zeros(N), LABELS, rng(), 40)
    expected = form(*theirs)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert sum(step.parts.values()).item() == pytest.approx(expected.item(), rel=1e-12)
    if shown := SHOWN.get(name.partition("-")[0]):
        assert step.logits.equal(shown(*ours))
    step.loss.backward()
    expected.backward()
    for z, w in zip(ours, theirs, strict=True):
        assert (z.grad is None) == (w.grad is None), "a weight of a detached target"
        assert w.grad is None or torch.allclose(z.grad, w.grad, rtol=1e-9, atol=1e-12)
        assert w.grad is None or w.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_to_the_last_digit(name):
    method = make(name)
    for classes, expected in zip((7, 100), PARAMETERS[name], strict=True):
        model = method.build("resnet32", classes, rng())
        assert count_parameters(model) == expected
        assert count_parameters(method.deploy(model)) == count_parameters(build("resnet32", classes))


def test_ramp():
    assert [ramp_up(t, 80) for t in (0, 40, 80, 300)] == [math.exp(-5), math.exp(-1.25), 1, 1]
    assert ramp_up(0, 0) == 1


def images(n=8, size=8):
    return torch.randn(n, 3, size, size, dtype=torch.float64, generator=rng(1))


def test_one_gate_is_the_published_one():
    """Average-pooled features of stage 2 -> linear -> batch norm -> ReLU -> softmax."""
    model = ONE().build("resnet8", 7, rng()).double()
    x = images()
    logits, teacher = model(x)
    net = model.nets[0]
    h = net.blocks[1](net.blocks[0](net.stem(x))).mean((2, 3))
    score = h @ model.gate[0].weight.T + model.gate[0].bias
    score = (score - score.mean(0)) / (score.var(0, unbiased=False) + 1e-5).sqrt()
    gate = score.clamp(min=0).exp()
    gate = gate / gate.sum(1, keepdim=True)
    assert torch.allclose(teacher, (gate[..., None] * logits).sum(1), atol=1e-12)
    for b, net in enumerate(model.nets):
        assert torch.allclose(logits[:, b], net(x), atol=1e-12)


def test_okddip_attention_is_the_published_one():
    model = OKDDip().build("resnet8", 7, rng()).double()
    x = images()
    peers, leader, targets = model(x)
    assert peers.shape == targets.shape == (8, 3, 7)
    features = Branches.forward(model, x)[1]
    assert torch.allclose(leader, model.nets[3](x), atol=1e-12)
    for i in range(3):
        scores = [(model.query(features[:, i]) * model.key(features[:, j])).sum(1) for j in range(3)]
        weights = torch.stack(scores, 1).softmax(1)
        assert torch.allclose(targets[:, i], (weights[..., None] * peers).sum(1), atol=1e-12)


@pytest.mark.parametrize("detach", [False, True])
def test_okddip_attention_learns_only_through_its_targets(detach):
    method = OKDDip(detach=detach, ramp=0)
    model = method.build("resnet8", 7, rng()).double()
    method.step(model, images(), torch.arange(8) % 7, rng()).loss.backward()
    assert (model.query.weight.grad is None) == (model.key.weight.grad is None) == detach


def test_branches_share_their_trunk():
    model = ONE().build("resnet14", 7, rng())
    first, *others = model.nets
    for net in others:
        assert net.stem is first.stem
        assert [a is b for a, b in zip(net.blocks, first.blocks, strict=True)] == [True] * 4 + [False] * 2
        assert not net.classifier.weight.equal(first.classifier.weight)


@pytest.mark.parametrize(("name", "deployed"), [("dml", 0), ("one", 0), ("okddip", 3)])
def test_what_is_deployed_is_a_plain_network_of_its_own(name, deployed):
    method = make(name)
    model = method.build("resnet8", 7, rng()).double()
    x, y = images(), torch.arange(8) % 7
    for _ in range(3):  # so that running statistics are not the fresh ones
        method.step(model, x, y, rng())
    net = method.deploy(model)
    member = (model.nets if name != "dml" else model)[deployed]
    assert not net.training and model.training
    assert torch.allclose(net(x), member.eval()(x), atol=1e-12)
    with torch.no_grad():
        net.stem[0].weight.zero_()
    assert member.stem[0].weight.abs().sum() > 0


@pytest.mark.parametrize("name", ["baseline", "dml", "one", "okddip"])
def test_same_seed_same_start(name):
    """With one seed every method's first network starts from the same weights, so that seeds are paired."""
    model = make(name).build("resnet8", 7, rng(4))
    first = model if name == "baseline" else (model[0] if name == "dml" else model.nets[0])
    expected = build("resnet8", 7, generator=rng(4))
    assert all(a.equal(b) for a, b in zip(first.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dml", {"networks": 1}, "two networks"),
        ("dml-mean", {"networks": 1}, "two networks"),
        ("dml-mean", {"temperature": 0.0}, "positive"),
        ("one", {"branches": 1}, "two branches"),
        ("one", {"ramp": -1}, "number of epochs"),
        ("one-attached", {"branches": 1}, "two branches"),
        ("okddip", {"temperature": 0.0}, "positive"),
        ("label-smoothing", {"smoothing": 1.1}, "smoothing is a share"),
        ("ema", {"decay": 1.0}, r"decay lies in \[0, 1\)"),
        ("stochastic-depth-stepped", {"p_last": 2.0}, "probability"),
        ("sto", {"running_stats": "student"}, "'teacher' or 'both'"),
        ("sto", {"students": 0}, "at least one"),
        ("sto", {"temperature": 0.0}, "positive"),
        ("sto", {"p_last": 2.0}, "probability"),
        ("kd", {}, "needs a teacher"),
        ("cosub", {"gates": "pixel"}, "each 'batch' or each 'image'"),
        ("r-drop", {"directions": 3}, "1 or 2"),
        ("r-drop", {"temperature": 0.0}, "positive"),
        ("own-teacher", {"temperature": 0.0}, "positive"),
        ("sandwich", {"depths": -1}, "0 or more"),
        ("sto-otherwise", {"distillation": "l2"}, "kl, dkd or dist"),
        ("sto-otherwise", {"temperature": 0.0}, "positive"),
        ("ps-kd", {"share": 2.0}, "share"),
        ("ps-kd", {"grows": 0}, "epochs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make(name, **settings)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    fit(Baseline(), tiny(), replace(CONFIG, net="resnet14", epochs=1), folder, "cpu")
    return folder


def test_kd_against_plain_python(teacher):
    method = KD(str(teacher))
    model = method.build("resnet8", C, rng()).double()
    model.train()
    x = images(N)
    student, lesson = model.student(x), model.teacher(x)
    step = method.step(model, x, LABELS, rng())
    assert step.loss.item() == pytest.approx((ce(student) + 0.25 * kl(lesson, student)).item(), rel=1e-12)
    step.loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert not model.teacher.training and model.student.training
    assert count_parameters(model) == count_parameters(build("resnet8", C))


def test_kd_record_has_the_teachers_fingerprint_and_no_path(teacher, tmp_path):
    method = KD(str(teacher / "network.pt"))
    assert set(plain(method)) == {"temperature", "lam", "fingerprint", "network"}
    record = fit(method, tiny(), replace(CONFIG, epochs=1), tmp_path / "kd", "cpu").record
    settings = {"temperature": 3.0, "lam": 0.25, "fingerprint": method.fingerprint, "network": "resnet14"}
    assert record["method"] == {"name": "kd", **settings}
    assert str(tmp_path) not in (tmp_path / "kd" / "record.json").read_text()
    with pytest.raises(RunError, match="another teacher"):
        KD(str(teacher), fingerprint="0" * 16)


def test_kd_refuses_what_is_no_teacher_or_one_for_other_classes(teacher, tmp_path):
    (tmp_path / "foreign.pt").write_bytes(b"no network")
    torch.save({"net": "resnet9", "weights": {}}, tmp_path / "other.pt")
    for name in ("foreign.pt", "other.pt"):
        with pytest.raises(RunError, match="holds no network that a run has written"):
            KD(str(tmp_path / name))
    with pytest.raises(RunError, match="no resnet14 for 100 classes"):
        KD(str(teacher)).build("resnet8", 100, rng())
    with pytest.raises(RunError, match="was trained for the classes angry, .*in this order"):
        fit(KD(str(teacher)), replace(tiny(), classes=tiny().classes[::-1]), CONFIG)
