"""Chapter 7: the bench measures what it says, its record reads back, and the fused step stays the faster one."""

import statistics

import pytest
import torch

from sto_lite import records
from sto_lite.__main__ import main
from sto_lite.data import Split
from sto_lite.fused import FusedSTO
from sto_lite.methods import STO, Baseline, StochasticDepth
from sto_lite.resnet import build
from sto_lite.speed import contenders as contenders_module
from sto_lite.speed import counters
from sto_lite.speed.bench import rounds, summary, table
from sto_lite.speed.contenders import BenchConfig, Contender, PilFaces, contenders, fair_seeds, feeds
from sto_lite.survival import linear_decay, sample
from tests.samples import rng

CPU = torch.device("cpu")
SMALL = BenchConfig(net="resnet8", size=8, batch_size=4, seconds=0.1, scaling=False)


def test_a_quick_bench_from_the_command_line(tmp_path, capsys, monkeypatch):
    out = tmp_path / "data" / "runs" / "bench" / "here.json"
    assert main(["bench", "--quick", "--seconds", "0.1", "--batch-size", "4", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.endswith(f"record: {out}\n") and "STO, two passes" in text
    monkeypatch.chdir(tmp_path)
    (record,) = records.read_records("bench")
    assert record["config"] == {**vars(BenchConfig("resnet8", 16, 4, "float32", 0.1, False)), "device": "cpu"}
    names = ["baseline", "baseline, NCHW", "stochastic depth", "STO, two passes", "STO", "STO, interleaved"]
    names += ["DML", "ONE", "OKDDip", "baseline, bf16", "STO, bf16", "batches", "PIL loader"]
    names += ["baseline + batches", "baseline, NCHW + PIL loader"]
    assert list(record["results"]) == names
    for result in record["results"].values():
        assert result["repetitions"] >= 3
        assert result["ms_quartiles"][0] <= result["ms"] <= result["ms_quartiles"][1]
    assert record["results"]["DML"]["multiply_add_ratio"] == 3
    assert record["scaling"] == []
    assert record["environment"]["threads"] == torch.get_num_threads()
    assert table(record) in text


def test_the_committed_records():
    """What chapter 7 reads: every mark with its verdict, ratios beside multiply-adds, and what a GPU makes of it."""
    found = {record["config"]["device"]: record for record in records.read_records("bench")}
    assert found["cpu"]["config"].items() >= {"net": "resnet32", "size": 32, "batch_size": 128}.items()
    assert [mark["limit"] for mark in found["cpu"]["marks"]] == [1.72, 1.4, 0.03]
    assert len(found["cpu"]["scaling"]) == 6
    assert found["cpu"]["results"]["STO"]["multiply_add_ratio"] < 1.72
    results = found["cuda"]["results"]
    for name in ("baseline", "STO"):  # recording and compiling each made the step shorter
        eager, recorded, compiled = (results[name + how]["ms"] for how in ("", ", recorded", ", compiled"))
        assert eager > recorded > compiled > results[f"{name}, compiled"]["kernels_ms"]
    assert "first look" in found["cuda"]["note"]


def test_the_fused_step_is_not_slower_than_two_passes():
    """Of three blocks it computes one for both roles, so that it does about 0.8 of the work."""
    config = BenchConfig(net="resnet8", size=16, batch_size=32)
    steps = contenders(config, CPU, ["STO", "STO, two passes"])
    times = rounds(dict(steps), 1.5, CPU, fair_seeds(3))
    pairs = zip(times["STO"], times["STO, two passes"], strict=True)
    assert statistics.median(ours / theirs for ours, theirs in pairs) <= 1.0


def test_multiply_adds_are_the_papers():
    """69.12M an image forward for ResNet-32, thrice that with both gradients (less that of the images)."""
    net, x = build("resnet32", 7), torch.zeros(2, 3, 32, 32)
    forward = counters.multiply_adds(lambda: net(x)) / 2
    assert forward == pytest.approx(69.12e6, rel=1e-3)
    stem = 32 * 32 * 16 * 3 * 9
    assert counters.multiply_adds(lambda: net(x).sum().backward()) / 2 == 3 * forward - stem


def test_multiply_adds_of_gates():
    """A student without block 3 saves that block's; the fused step saves f_1 and the stem besides."""
    net = build("resnet8", 7)
    seed = next(s for s in range(99) if FusedSTO().draw(net, rng(s))[0].tolist() == [1, 1, 0])
    methods = (Baseline(), StochasticDepth(), STO(), FusedSTO())
    full, student, two, fused = (Contender(m, SMALL, CPU).costs([seed])["multiply_adds"] for m in methods)
    # Forward, for an image of 8 pixels: the stem, both convolutions of block 1, those of block 3.
    stem, first, last = 64 * 16 * 27, 2 * 64 * 16 * 144, 4 * (64 * 288 + 64 * 576)
    assert full - student == 3 * last
    assert two == full + student
    assert fused == two - 2 * stem - 3 * first


def test_fair_seeds_keep_blocks_as_often_as_they_survive():
    for num_blocks in (3, 15):
        p, seeds = linear_decay(num_blocks), fair_seeds(num_blocks)
        kept = torch.stack([sample(p, torch.Generator().manual_seed(seed)) for seed in seeds]).mean(dim=0)
        assert len(seeds) == 10 and (kept - p).abs().mean() < 0.1 and abs(kept.sum() - p.sum()) < 0.4


def test_traffic_and_kept_bytes():
    x = torch.zeros(1000, requires_grad=True)
    with counters.Traffic() as traffic:
        y = x.view(10, 100) * 2.0
    assert traffic.operations == 1 and traffic.bytes == 8000 and y.shape == (10, 100)
    assert list(traffic.seconds) == ["view", "mul"]
    assert counters.shares({"a": 1.0, "b": 3.0}, 1) == {"b": 0.75}
    step = Contender(Baseline(), SMALL, CPU)
    small = step.costs([1])
    large = Contender(Baseline(), BenchConfig(net="resnet8", size=8, batch_size=8), CPU).costs([1])
    assert 0 < sum(small["profile"].values()) <= 1 and "convolution_backward" in small["profile"]
    assert small["operations"] == large["operations"]
    assert 1.9 < large["kept_bytes"] / small["kept_bytes"] <= 2


def test_without_torchvision_there_is_no_pil_loader(monkeypatch):
    monkeypatch.setattr(contenders_module, "find_spec", lambda name: None)
    assert list(feeds(SMALL, CPU)) == ["batches"]


def test_both_feeds_give_the_same_kind_of_batches():
    ours, theirs = (next(feed) for feed in feeds(SMALL, CPU).values())
    for images, labels in (ours, theirs):
        assert images.shape == (4, 3, 8, 8) and images.dtype == torch.float32 and labels.shape == (4,)
        assert images[:, 0].equal(images[:, 1])
    assert theirs[0].is_contiguous() and ours[0].is_contiguous(memory_format=torch.channels_last)


def test_pil_crops_and_flips_the_padded_picture():
    torch.manual_seed(0)
    pixels = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    pictures = PilFaces(Split(pixels, torch.zeros(1)), torch.zeros(3), torch.ones(3), pad=1)
    padded = torch.nn.functional.pad(pixels[0, 0], (1,) * 4)
    crops = {tuple(padded[i : i + 4, j : j + 4].flatten().tolist()) for i in range(3) for j in range(3)}
    flipped = {tuple(torch.tensor(crop).view(4, 4).flip(1).flatten().tolist()) for crop in crops}
    seen = {tuple((pictures[0][0][0] * 255).round().byte().flatten().tolist()) for _ in range(400)}
    assert seen == crops | flipped


def test_summary_pairs_rounds():
    result = summary([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    assert result["ms"] == 4000 and result["ratio"] == 2 and result["ratio_quartiles"] == [2, 2]
    assert result["repetitions"] == 3
