"""Chapter 7: a run as a lane is the run that the trainer's steps make, whichever runs share its launch."""

import subprocess
import sys

import pytest
import torch
from lanes_device import DEVICE

pytest.importorskip("triton")
from sto_lite import resnet
from sto_lite.config import Config
from sto_lite.data import Batches, ImageSet, Split
from sto_lite.errors import RunError
from sto_lite.fused import FusedSTO
from sto_lite.methods import Baseline, StochasticDepth
from sto_lite.speed.lanes import together
from sto_lite.speed.lanes.running import Lanes, draw_gates
from sto_lite.speed.lanes.tiles import Shape, Tile
from sto_lite.timebox import progress_bar
from sto_lite.train import Training


def images(count=11, size=8, channels=1):
    dice = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=dice, dtype=torch.uint8)
    labels = torch.randint(0, 7, (count,), generator=dice)
    splits = {"train": Split(pixels, labels), "test": Split(pixels[:5], labels[:5])}
    return ImageSet("toy", tuple("abcdefg"), splits)


def training(method, data, seed=0, **settings):
    chosen = {"net": "resnet8", "epochs": 2, "batch_size": 4, "lr": 0.05, **settings}
    run = Training(method, data, Config(seed=seed, **chosen), None, DEVICE)
    run.build()
    return run


def state(run):
    """Everything that a checkpoint holds of a run, by name; the momentum of what was never updated is zero."""
    found = {f"model {name}": value for name, value in run.model.state_dict().items()}
    for name, parameter in run.model.named_parameters():
        momentum = run.optimizer.state.get(parameter, {}).get("momentum_buffer")
        found[f"momentum {name}"] = torch.zeros_like(parameter) if momentum is None else momentum
    return found | {f"generator {name}": g.get_state() for name, g in run.generators.items()}


def by_steps(run):
    """An epoch as the trainer makes it."""
    data, config = run.images, run.config
    batches = Batches(data.splits["train"], *data.mean_std, config.batch_size, config.augment, device=DEVICE)
    steps = run.train_epoch(batches, progress_bar(1, 0, False))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def assert_same_run(ours, theirs, tolerance=3e-5):
    """Two states agree: counts and generators exactly, numbers relative to the largest of their tensor."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if value.is_floating_point():
            scale = max(value.abs().max().item(), 1e-2)
            assert (ours[name] - value).abs().max().item() <= tolerance * scale, name
        else:
            assert torch.equal(ours[name], value), name


METHODS = [Baseline(), FusedSTO(p_last=0.3), StochasticDepth(p_last=0.2)]
METHODS += [FusedSTO(students=2, detach=False, running_stats="both", temperature=2.0, schedule="uniform")]
METHODS += [FusedSTO(teacher_backward=False, lam=0.0, p_last=0.0)]


@pytest.fixture(scope="module")
def launched():
    """Three steps of all METHODS in one launch, the last step smaller: runs, their states, rows of history."""
    data = images()
    runs = [training(method, data, seed) for seed, method in enumerate(METHODS)]
    lanes = Lanes(runs, data, DEVICE)
    rows = lanes.epoch()
    for number in range(len(runs)):
        lanes.store(number)
    return [state(run) for run in runs], rows


@pytest.mark.parametrize("number", range(len(METHODS)), ids=lambda n: f"{METHODS[n].name}-{n}")
def test_three_steps_are_the_trainers(launched, number):
    """Weights, momentum, running statistics, counts of batches, generators, losses, error."""
    states, rows = launched
    twin = training(METHODS[number], images(), number)
    theirs = by_steps(twin)
    assert_same_run(states[number], state(twin))
    assert rows[number].keys() == theirs.keys()
    for name in theirs.keys() - {"seconds"}:
        # The divergence is a small difference of logarithms near 2, each rounded at 1e-7, times λT² = 2.25.
        assert rows[number][name] == pytest.approx(theirs[name], rel=1e-5, abs=5e-7), name


def test_some_blocks_were_dropped(launched):
    """Or the tests above would say nothing of them: batch norms that saw less, momentum that stayed zero."""
    stochastic, shut = launched[0][2], launched[0][4]
    passed = [v.item() for name, v in stochastic.items() if "residual.1.num_batches" in name]
    assert min(passed) < 3
    assert (shut["momentum blocks.2.residual.0.weight"] == 0).all()
    assert shut["model blocks.2.residual.1.num_batches_tracked"] == 0


def test_a_lane_is_the_same_alone(launched):
    """Bit for bit, whichever runs share the launch."""
    run = training(METHODS[1], images(), 1)
    lanes = Lanes([run], images(), DEVICE)
    lanes.epoch()
    lanes.store(0)
    alone = state(run)
    for name, value in launched[0][1].items():
        assert torch.equal(alone[name], value), name


@pytest.mark.parametrize(
    ("net", "channels"),
    [({"blocks_a_stage": 1, "bottleneck": True}, 3), ({"blocks_a_stage": 1, "width": 2}, 1)],
)
def test_bottlenecks_and_wide_blocks(net, channels, monkeypatch):
    """The blocks of ResNet-110 and WRN-20-2, one a stage, and an image side that does not halve evenly."""
    monkeypatch.setitem(resnet.NETWORKS, "small", net)
    data = images(4, 6, channels)
    run, twin = (training(FusedSTO(p_last=0.9), data, 3, net="small") for _ in range(2))
    lanes = Lanes([run], data, DEVICE)
    lanes.epoch()
    lanes.store(0)
    by_steps(twin)
    assert_same_run(state(run), state(twin), 1e-4)


def test_a_run_that_rests_keeps_its_state():
    """Runs start and end at different epochs: one that rests draws nothing and moves nothing."""
    data = images(4)
    runs = [training(Baseline(), data, seed) for seed in range(2)]
    lanes, before = Lanes(runs, data, DEVICE), state(runs[1])
    assert lanes.epoch([True, False])[1] == {}
    lanes.store(1)
    assert (runs[0].epoch, runs[1].epoch) == (1, 0)
    for name, value in state(runs[1]).items():
        assert torch.equal(value, before[name]), name


def test_state_comes_back_as_it_was():
    """What a checkpoint holds goes to the device and back without a change in any bit."""
    data = images(4)
    run = training(FusedSTO(), data)
    by_steps(run)
    twin = training(FusedSTO(), data, seed=5)
    lanes = Lanes([run], data, DEVICE)
    lanes.members = [twin]  # hands the state of one to the other
    lanes.store(0)
    ours, theirs = state(twin), state(run)
    for name in (name for name in theirs if not name.startswith("generator")):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_gates_of_an_epoch_are_those_of_its_steps(method):
    """One call draws what the steps' calls draw, and leaves the generator where they leave it."""
    model = method.build("resnet20", 7)
    ours, theirs = (torch.Generator().manual_seed(4) for _ in range(2))
    epoch = draw_gates(method, model, 5, ours)
    for gates in epoch:
        if isinstance(method, FusedSTO):
            wanted = method.draw(model, theirs)
        elif isinstance(method, StochasticDepth):
            wanted = torch.bernoulli(method.survival(model), generator=theirs)[None]
        else:
            wanted = torch.ones(1, model.num_blocks)
        assert torch.equal(gates.double(), wanted.double())
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_run_that_diverges_leaves_the_others_alone():
    data = images(4)
    configs = [Config(net="resnet8", epochs=n, batch_size=4, lr=lr) for lr, n in ((1e30, 2), (0.1, 1))]
    done = dict(together.train([Training(Baseline(), data, config, None, DEVICE) for config in configs]))
    assert isinstance(done[0], RunError) and "take a smaller one" in str(done[0])
    assert done[1].record["result"]["test"]["error"] >= 0


def test_other_tiles_give_the_same_run():
    """What a card's table changes is the order of sums alone."""
    data = images(4)
    tiles = {Shape("forward", 32, 32).key: Tile(16, 3), Shape("weights", 32, 32).key: Tile(32, 2)}
    tiles |= {Shape("inputs", 64, 64).key: Tile(16, 1), Shape("sums", 0, 64).key: Tile(16, 1)}
    states = []
    for chosen in ({}, tiles):
        run = training(Baseline(), data)
        lanes = Lanes([run], data, DEVICE, chosen)
        lanes.epoch()
        lanes.store(0)
        states.append(state(run))
    assert_same_run(*states)


def test_steps_are_launched_on_the_device_of_the_runs(monkeypatch):
    """Triton launches on the current one, which is another where a run is told cuda:1."""
    current, seen = [], []

    class Place:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            current.append(self.tensor)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "device_of", Place)
    lanes = Lanes([training(Baseline(), images(5))], images(5), DEVICE)
    monkeypatch.setattr(lanes.plan, "step", lambda count: seen.append((count, list(current))))
    lanes.epoch()
    assert [count for count, _ in seen] == [4, 1] and not current
    assert all(len(places) == 1 and places[0] is lanes.plan.clock for _, places in seen)


def test_nothing_needs_triton_at_import():
    """The command line, and the choice of lanes, on a machine without Triton."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, sto_lite.__main__, sto_lite.speed.lanes.together as t\n"
        "t.find_spec = lambda name: None; torch.cuda.get_device_capability = lambda device: (9, 0)\n"
        "print(t.obstacle(torch.device('cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "Triton is not installed", done.stderr
