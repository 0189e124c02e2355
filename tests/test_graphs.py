"""Chapter 7: gates as tensors on the device give the numbers of skipped blocks; recorded steps those of eager ones.

Without a GPU a recording is played by its stand-in here, which runs the step on the same buffers.
"""

import copy
import os
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from sto_lite import data, train
from sto_lite.config import Config
from sto_lite.fused import FusedSTO
from sto_lite.methods import STO, Baseline, StochasticDepth
from sto_lite.registry import METHODS, make
from sto_lite.speed import graphs, streams
from sto_lite.speed.graphs import Recorded, device_step, draw, obstacle
from sto_lite.speed.precision import Arithmetic
from sto_lite.train import fit
from tests.samples import rng
from tests.test_fused import NETS, SETTINGS, after_step, assert_same, batch, network

FORMS = [Baseline(), StochasticDepth(), FusedSTO(students=2, running_stats="both")]
FORMS += [FusedSTO(teacher_backward=False, p_last=0.2), FusedSTO(p_last=0.0)]
OTHERS = [make(name) for name in [*METHODS][3:] if name != "kd"]


def zeros_for_none(found, theirs):
    """A block that no gradient reaches has none in the eager step, and zeros here; its update is left out."""
    for name, value in theirs.items():
        if value is None and found[name] is not None:
            assert not found[name].any(), name
            found[name] = None
    return found


def arithmetic_of(net, precision="float32", **settings):
    """What updates a network by SGD."""
    optimizer = torch.optim.SGD(net.parameters(), **{"lr": 0.1, **settings})
    return Arithmetic(net, optimizer, next(net.parameters()).device, precision)


@settings(max_examples=60)
@given(st.fixed_dictionaries(SETTINGS), st.fixed_dictionaries(NETS), st.integers(0, 10**6))
def test_gates_on_the_device_are_skipped_blocks(chosen, net, seed):
    """Running statistics of dropped blocks included, which are not moved."""
    ours, (x, y) = network(**net), batch(seed=net["seed"])
    theirs, method = copy.deepcopy(ours), FusedSTO(**chosen)
    assert obstacle(method) is None
    gates = draw(method, ours, rng(seed))
    wanted = after_step(lambda m: STO(**chosen).step(m, x, y, rng(seed)), theirs)
    found = after_step(lambda m: device_step(method, m, (x, y, gates)), ours)
    assert_same(zeros_for_none(found, wanted), wanted)


@pytest.mark.parametrize("method", [Baseline(), StochasticDepth(), StochasticDepth(p_last=0.0)])
def test_one_stream_on_the_device(method):
    ours, (x, y) = network(), batch()
    theirs = copy.deepcopy(ours)
    for seed in range(4):
        gates = draw(method, ours, rng(seed))
        wanted = after_step(lambda m: method.step(m, x, y, rng(seed)), theirs)  # noqa: B023
        found = after_step(lambda m: device_step(method, m, (x, y, gates)), ours)  # noqa: B023
        assert_same(zeros_for_none(found, wanted), wanted)
        ours.zero_grad()
        theirs.zero_grad()


def test_norms_as_written_are_the_librarys():
    """What is compiled on a GPU; the compiler itself has its test below."""
    for students in (1, 2):
        net, (x, y) = network(bottleneck=True), batch()
        twin, method = copy.deepcopy(net), FusedSTO(students=students, running_stats="both")
        gates, written = draw(method, net, rng()), streams.EAGER._replace(norm=streams.written_norm)
        ours = after_step(lambda m: device_step(method, m, (x, y, gates), written), net)  # noqa: B023
        assert_same(ours, after_step(lambda m: device_step(method, m, (x, y, gates)), twin))  # noqa: B023


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_parts_are_the_parts():
    """One program for each kind of block, and the stem's; each takes the C++ compiler seconds, so three."""
    net, (x, y) = network(blocks=1, shortcut="A"), batch()
    net.blocks = net.blocks[:2]
    net.classifier = torch.nn.Linear(32, 4).double()
    twin, method = copy.deepcopy(net), FusedSTO()
    gates, counters = draw(method, net, rng()), torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    ours = after_step(lambda m: device_step(method, m, (x, y, gates), streams.compiled()), net)
    assert_same(ours, after_step(lambda m: device_step(method, m, (x, y, gates)), twin))
    assert counters["unique_graphs"] - before == 3


@pytest.mark.parametrize("running_stats", ["teacher", "both"])
def test_one_trace_serves_all_gates(running_stats):
    """As a recording must: no Python number depends on a gate."""
    net, (x, y) = network(blocks=1), batch()
    method, twin = FusedSTO(running_stats=running_stats), copy.deepcopy(net)
    rows = torch.tensor([[1, 1, 1], [0, 1, 0]], dtype=torch.float64)
    first, second = (torch.stack([row, torch.tensor([0.8, 0.7, 0.5]).double()]) for row in rows)
    traced = make_fx(lambda gates: device_step(method, net, (x, y, gates)).loss)(first)
    device_step(method, twin, (x, y, first))  # as tracing did
    assert abs(traced(second) - device_step(method, twin, (x, y, second)).loss) < 1e-12
    assert_same(*({n: b.double() for n, b in m.named_buffers()} for m in (net, twin)))


@pytest.mark.parametrize(
    ("method", "precision", "reason"),
    [
        (Baseline(), "bf16", None),
        (FusedSTO(), "float32", None),
        (FusedSTO(), "fp16", "reads a number back"),
        (FusedSTO(teacher_backward=False), "float32", None),
        (StochasticDepth(p_last=0.0), "float32", None),
        *((method, "float32", "no step with gates on the device") for method in (STO(), *OTHERS)),
    ],
)
def test_what_cannot_be_recorded(method, precision, reason):
    found = obstacle(method, precision)
    assert found is None if reason is None else reason in found


@pytest.fixture
def recordings(monkeypatch):
    """Bodies that were recorded; a stand-in plays them."""
    bodies = []
    monkeypatch.setattr(graphs, "capture", lambda body, _: bodies.append(body) or body)
    return bodies


@pytest.fixture(scope="module")
def faces():
    drawn = data.load("faces", size=8, limit=20)
    test = drawn.splits["test"]
    splits = {"train": drawn.splits["train"], "test": data.Split(test.images[:30], test.labels[:30])}
    return data.ImageSet("faces", drawn.classes, splits)


@pytest.mark.parametrize("method", FORMS, ids=repr)
def test_a_recorded_run_is_an_eager_run(method, faces, recordings):
    """Same gates and batches, a last batch that is smaller, a recording for each learning rate, evaluations."""
    config = Config(net="resnet8", epochs=6, batch_size=8, lr=0.01, evaluate_every=2)
    eager = fit(method, faces, config, device="cpu", progress=False).record
    training = train.Training(method, faces, config, None, "cpu", engine=Recorded)
    for _ in training.steps(progress=False):
        pass
    recorded, engine = training.result().record, training.engine
    updates = 1 + (training.model.num_blocks if engine.sparing else 0)
    warm = {size: own.warm for size, own in engine.recordings.items()}
    assert warm == dict.fromkeys((8, 4), graphs.WARM_UP)
    # Whole batches are recorded in epoch 2 and at both drops of the rate, the last ones of 4 images at both drops;
    # the evaluation once, after an eager one.
    assert len(recordings) == 5 * (1 + updates) + 1 and engine.exam.replay is not None
    for name in ("train_loss", "train_error", "test_error"):
        assert recorded["history"][name] == pytest.approx(eager["history"][name], rel=2e-3, abs=4)
    assert recorded["history"]["test_epoch"] == [2.0, 4.0, 6.0]
    assert recorded["config"] == eager["config"]
    assert recorded["environment"] == {**eager["environment"], "graphs": True, "compile": False}


def test_a_recording_that_fails_goes_on_step_by_step(monkeypatch, capsys):
    def fail(body, stream):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "capture", fail)
    net, twin, dice = network(blocks=1), network(blocks=1), rng()
    run, arithmetic = Recorded(FusedSTO(), net, arithmetic_of(net)), arithmetic_of(twin)
    run.begin(6, rng(), 0.1)
    for i in range(6):
        step = arithmetic.update(lambda: STO().step(twin, *batch(seed=i), dice))  # noqa: B023
        assert run(*batch(seed=i)).loss.item() == pytest.approx(step.loss.item(), rel=1e-9)
    assert capsys.readouterr().err == (
        "no CUDA graph, the steps run one by one: operation not permitted when stream is capturing\n"
    )


def test_parts_that_cannot_be_compiled_run_as_they_are(monkeypatch, capsys, recordings):
    def fail(*_):
        raise RuntimeError("no compiler was found\nmore")

    monkeypatch.setattr(streams, "compiled", lambda: streams.EAGER._replace(next=fail))
    losses = []
    for compiled in (True, False):
        net = network()
        run = Recorded(FusedSTO(), net, arithmetic_of(net), compiled)
        run.begin(5, rng(), 0.1)
        losses.append([run(*batch(seed=i)).loss.item() for i in range(5)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert capsys.readouterr().err == "no compiled blocks, they run as they are: no compiler was found\n"


def test_graphs_without_a_gpu_are_declined_in_one_line(faces, capsys):
    config = Config(net="resnet8", epochs=1, batch_size=16, lr=0.01)
    fit(Baseline(), faces, config, device="cpu", progress=False, engine=graphs.engine())
    assert capsys.readouterr().err == "no CUDA graph, the steps run one by one: there is no CUDA GPU\n"


@pytest.mark.parametrize("name", ["baseline", "stochastic-depth", "sto", "dml", "one", "okddip"])
def test_sixteen_bits_give_nearly_the_same_loss(name):
    method, losses = make(name), {}
    x, y = (part.float() if part.is_floating_point() else part for part in batch(images=16))
    for kind in ("float32", "bf16", "fp16"):
        net = method.build("resnet8", 4, rng())
        arithmetic = arithmetic_of(net, kind, lr=0.01)
        step = [arithmetic.update(lambda: method.step(net, x, y, rng(1))) for _ in range(2)][-1]  # noqa: B023
        assert step.loss.dtype == step.logits.dtype == torch.float32 and not step.loss.requires_grad
        assert all(p.dtype == torch.float32 for p in net.parameters())
        losses[kind] = step.loss.item()
    assert [losses["bf16"], losses["fp16"]] == pytest.approx([losses["float32"]] * 2, rel=0.05)


def test_precision_in_records(faces, tmp_path):
    """A record from before there was a choice is one of float32; another precision is another run."""
    config = Config(net="resnet8", epochs=1, batch_size=16, lr=0.01)
    fit(Baseline(), faces, config, tmp_path, "cpu", progress=False)
    record = tmp_path / "record.json"
    assert '"precision":"float32"' in record.read_text()
    record.write_text(record.read_text().replace(',"precision":"float32"', ""))
    fit(Baseline(), faces, config, tmp_path, "cpu", progress=False)
    with pytest.raises(train.RunError, match="precision is 'float32' there and 'bf16' here"):
        fit(Baseline(), faces, replace(config, precision="bf16"), tmp_path, "cpu", progress=False)


def test_a_run_in_fp16_resumes_with_its_scale(faces, tmp_path):
    config = Config(net="resnet8", epochs=2, batch_size=16, lr=0.01, precision="fp16")
    fit(Baseline(), faces, config, tmp_path, "cpu", progress=False)
    (tmp_path / "record.json").unlink()
    training = train.Training(Baseline(), faces, config, tmp_path, "cpu")
    training.build()
    fresh = training.arithmetic.scaler.state_dict()
    training.folder.resume(training.restore)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["scaler"]
    assert training.arithmetic.scaler.state_dict() == saved != fresh


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", [*FORMS, FusedSTO()], ids=repr)
def test_on_a_gpu_ten_recorded_steps_are_ten_eager_ones(method, compiled):
    """What chapter 7 says of the GPU; one of the batches is smaller and runs eagerly."""
    if compiled and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter compiles nothing (lanes_device.py)")
    left = []
    for recorded in (True, False):
        net, gates = network().cuda().to(memory_format=torch.channels_last), rng(5)
        arithmetic = arithmetic_of(net, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3)
        run = Recorded(method, net, arithmetic, compiled)
        if recorded:
            run.begin(10, gates, 0.01)
        for seed in range(10):
            x, y = (part.cuda() for part in batch(images=5 if seed == 7 else 8, seed=seed))
            run(x, y) if recorded else arithmetic.update(lambda: method.step(net, x, y, gates))  # noqa: B023
        assert not recorded or run.recordings[8].replay is not None
        left.append({name: value.double() for name, value in net.state_dict().items()})
    for name, value in left[1].items():
        assert (left[0][name] - value).abs().max() <= 1e-11 * max(1.0, value.abs().max().item()), name
