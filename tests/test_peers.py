"""Chapter 5: each competitor's loss against known answers and plain Python, its gradients, and its model."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sto_lite.config import plain
from sto_lite.controls import AttachedONE
from sto_lite.errors import RunError
from sto_lite.kd import KD
from sto_lite.methods import Baseline
from sto_lite.peers import DML, ONE, Branches, OKDDip, ramp_up
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


def kl(target, other, t=1.0):
    """T² KL(target ‖ other) of softened logits, mean over the batch: plain Python, no function of torch's losses."""
    total = 0.0
    for row_t, row_o in zip(target.tolist(), other.tolist(), strict=True):
        p, q = ([math.exp(v / t) for v in row] for row in (row_t, row_o))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * ln(a / b) for a, b in zip(p, q, strict=True))
    return t * t * total / len(target)


def ce(logits):
    rows = zip(logits.tolist(), LABELS.tolist(), strict=True)
    return sum(ln(sum(math.exp(v) for v in row)) - row[y] for row, y in rows) / len(logits)


def soft(logits, t=1.0):
    return (logits.detach() / t).softmax(-1)


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


def test_dml_by_hand():
    """Two networks, two classes, label 0: (1/2, 1/2) against (3/4, 1/4)."""
    logits = [torch.zeros(1, 2), torch.tensor([[ln(3), 0.0]])]
    networks = [lambda x, z=z: z for z in logits]
    step = DML(networks=2).step(networks, None, torch.tensor([0]), rng())
    mutual = 0.75 * ln(1.5) + 0.25 * ln(0.5) + 0.5 * ln(2 / 3) + 0.5 * ln(2)
    assert step.loss.item() == pytest.approx(ln(2) + ln(4 / 3) + mutual, rel=1e-6)


def test_dml_against_plain_python_and_its_gradient():
    z = [leaf(N, C, seed=i) for i in range(3)]
    step = DML().step([lambda x, z=z_i: z for z_i in z], None, LABELS, rng())
    mutual = sum(kl(z[j], z[i]) for i in range(3) for j in range(3) if i != j) / 2
    assert step.loss.item() == pytest.approx(sum(map(ce, z)) + mutual, rel=1e-12)
    assert step.logits.equal(z[0])
    step.loss.backward()
    for i in range(3):
        others = [soft(z[j]) for j in range(3) if j != i]
        expected = (soft(z[i]) - ONE_HOT + (2 * soft(z[i]) - sum(others)) / 2) / N
        assert torch.allclose(z[i].grad, expected, atol=1e-14)


@pytest.mark.parametrize("method", [ONE, AttachedONE])
@pytest.mark.parametrize(("ramp", "epoch"), [(0, 0), (80, 40)])
def test_one_against_plain_python_and_its_gradient(method, ramp, epoch):
    z, gate = leaf(N, 3, C), torch.softmax(leaf(N, 3, seed=9), 1).detach().requires_grad_()
    teacher = torch.stack([sum(gate[n, b] * z[n, b] for b in range(3)) for n in range(N)])
    step = method(ramp=ramp).step(lambda x: (z, teacher), None, LABELS, rng(), epoch)
    w = math.exp(-5 / 4) if ramp else 1.0
    branches = z.unbind(1)
    lessons = sum(kl(teacher, b, 3.0) for b in branches)
    assert step.loss.item() == pytest.approx(sum(map(ce, branches)) + ce(teacher) + w * lessons, rel=1e-12)
    assert step.logits.equal(branches[0])
    step.loss.backward()
    pairs = [kl_gradients(teacher, b) for b in branches]
    at_teacher = (soft(teacher) - ONE_HOT) / N
    if method is AttachedONE:
        at_teacher = at_teacher + w * sum(target for target, _ in pairs)
    for b in range(3):
        expected = (soft(z[:, b]) - ONE_HOT) / N + w * pairs[b][1] + gate[:, b, None].detach() * at_teacher
        assert torch.allclose(z.grad[:, b], expected, atol=1e-13)
    assert torch.allclose(gate.grad, torch.einsum("nc,nbc->nb", at_teacher, z.detach()), atol=1e-13)


def kl_gradients(target, other, t=3.0):
    """T² KL's gradients for target and other, from chapter 4's formulas."""
    p, q = soft(target, t), soft(other, t)
    ratio = (p / q).log()
    return t * p * (ratio - (p * ratio).sum(1, keepdim=True)) / N, t * (q - p) / N


@pytest.mark.parametrize("detach", [False, True])
def test_okddip_against_plain_python_and_its_gradient(detach):
    peers, leader, mix = leaf(N, 3, C), leaf(N, C, seed=5), soft(leaf(3, 3, seed=9))
    targets = torch.einsum("ij,njc->nic", mix, peers)
    step = OKDDip(detach=detach, ramp=0).step(lambda x: (peers, leader, targets), None, LABELS, rng())
    z, t, mean = peers.unbind(1), targets.unbind(1), peers.mean(1)
    by_hand = sum(map(ce, z)) + ce(leader)
    by_hand += sum(kl(a, b, 3.0) for a, b in zip(t, z, strict=True)) + kl(mean, leader, 3.0)
    assert step.loss.item() == pytest.approx(by_hand, rel=1e-12)
    assert step.logits.equal(leader)
    step.loss.backward()
    as_target = [kl_gradients(t[i], z[i])[0] for i in range(3)]
    from_leader = kl_gradients(mean, leader)[0]
    for j in range(3):
        expected = (soft(z[j]) - ONE_HOT) / N + kl_gradients(t[j], z[j])[1]
        if not detach:
            expected = expected + sum(mix[i, j] * as_target[i] for i in range(3)) + from_leader / 3
        assert torch.allclose(peers.grad[:, j], expected, atol=1e-13)
    expected = (soft(leader) - ONE_HOT) / N + kl_gradients(mean, leader)[1]
    assert torch.allclose(leader.grad, expected, atol=1e-14)


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
        scores = torch.stack(
            [(model.query(features[:, i]) * model.key(features[:, j])).sum(1) for j in range(3)], 1
        )
        weights = scores.softmax(1)
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
        ("sto", {"schedule": "cubic"}, "schedule"),
        ("sto", {"p_last": 2.0}, "probability"),
        ("kd", {}, "needs a teacher"),
        ("stoo", {}, "no method is called 'stoo'"),
        ("baseline", {"lam": 1}, "baseline has no setting lam"),
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
    assert step.loss.item() == pytest.approx(ce(student) + 0.25 * kl(lesson, student, 3.0), rel=1e-12)
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


def test_kd_refuses_what_is_no_teacher(teacher, tmp_path):
    with pytest.raises(RunError, match="nowhere cannot be read: there is no such file"):
        KD(str(tmp_path / "nowhere"))
    (tmp_path / "foreign.pt").write_bytes(b"no network")
    torch.save({"net": "resnet9", "weights": {}}, tmp_path / "other.pt")
    for name in ("foreign.pt", "other.pt"):
        with pytest.raises(RunError, match="holds no network that a run has written"):
            KD(str(tmp_path / name))
    with pytest.raises(RunError, match="no resnet14 for 100 classes"):
        KD(str(teacher)).build("resnet8", 100, rng())
