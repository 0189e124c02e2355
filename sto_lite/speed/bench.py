"""What a training step costs here, beside what it should (chapter 7): python -m sto_lite bench.

All contenders are timed in one process, in rounds: each once a round, in random order, with the same gates. A machine
that is slow for a while is then slow for all, and ratios hold where times do not.
"""

import dataclasses
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sto_lite import records, resnet
from sto_lite.methods import Baseline
from sto_lite.records import Record
from sto_lite.speed.contenders import NCHW, NHWC, BenchConfig, Contender, contenders, fair_seeds, feeds


def time_step(run: Callable[[int], object], seed: int, device: torch.device) -> float:
    """Seconds of a step; on a GPU of one in a queue of 20, so that the host may run ahead as in training."""
    repeats = 20 if device.type == "cuda" else 1
    finish(device)
    started = time.perf_counter()
    for step in range(repeats):
        run(seed + step)
    finish(device)
    return (time.perf_counter() - started) / repeats


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(
    runs: dict[str, Callable[[int], object]], seconds: float, device: torch.device, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Times of every run in every round, with one seed after another; what runs first warms up and is not kept."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, dice = list(runs), random.Random(0)
    for name in order:
        time_step(runs[name], seeds[0], device)
    started, done = time.perf_counter(), 0
    while done < 3 or time.perf_counter() - started < seconds:
        dice.shuffle(order)
        for name in order:
            times[name].append(time_step(runs[name], seeds[done % len(seeds)], device))
        done += 1
    return times


def summary(times: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of times in ms, and of the ratios to the baseline's time in the same round."""
    ratios = [ours / theirs for ours, theirs in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    ratio_low, _, ratio_high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "ms": 1e3 * middle,
        "ms_quartiles": [1e3 * low, 1e3 * high],
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratio_low, ratio_high],
        "repetitions": len(times),
    }


def compare(
    runs: dict[str, Callable[[int], object]], seconds: float, device: torch.device, seeds: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The `summary` of every run's times in rounds beside the baseline's."""
    times = rounds(runs, seconds, device, seeds)
    return {name: summary(taken, times["baseline"]) for name, taken in times.items()}


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy of a large tensor reads and writes: the median of nine."""
    source = torch.ones((2**29 if device.type == "cuda" else 2**25), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times = [time_step(lambda _: target.copy_(source), 0, device) for _ in range(10)][1:]
    return 2 * source.numel() * source.element_size() / statistics.median(times)


def launch(device: torch.device) -> float:
    """Return the seconds of one operation on one number, in a row of many: no operation takes less."""
    number = torch.zeros((), device=device)

    def many(_: int) -> None:
        for _ in range(500):
            number.add_(1)

    return statistics.median([time_step(many, 0, device) for _ in range(6)][1:]) / 500


def bench(config: BenchConfig, device: torch.device) -> Record:
    """Measure everything and give the record."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    steps, sources = contenders(config, device), feeds(config, device)
    runs: dict[str, Callable[[int], object]] = dict(steps)
    for name, feed in sources.items():
        runs[name] = lambda _, feed=feed: next(feed)  # type: ignore[misc]
    feeding = {"baseline + batches": ("batches", NHWC), "baseline, NCHW + PIL loader": ("PIL loader", NCHW)}
    fed = {name: parts for name, parts in feeding.items() if parts[0] in sources}
    for name, (source, layout) in fed.items():
        runs[name] = Contender(Baseline(), config, device, layout, feed=sources[source])
    seeds = fair_seeds(resnet.build(config.net, 7).num_blocks)
    results = compare(runs, config.seconds, device, seeds)
    for name, step in steps.items():
        results[name] |= step.costs(seeds)
    for name in (*steps, *fed):
        results[name]["images_a_second"] = 1e3 * config.batch_size / results[name]["ms"]
    floors = {"copy_bytes_a_second": bandwidth(device), "operation_seconds": launch(device)}
    for name in steps:
        own, base = results[name], results["baseline"]
        own["multiply_add_ratio"] = own["multiply_adds"] / base["multiply_adds"]
        own["floor_ms"] = {
            "bytes": 1e3 * own["bytes"] / floors["copy_bytes_a_second"],
            "operations": 1e3 * own["operations"] * floors["operation_seconds"],
        }
    del steps, runs  # their memory, before larger ones are made
    record = {
        "format": 1,
        "kind": "bench",
        "config": {**vars(config), "device": device.type},
        "environment": records.environment(device),
        "load_before": load,
        "finished": time.strftime("%Y-%m-%d"),
        "floors": floors,
        "results": results,
        "scaling": scaling(config, device) if config.scaling else [],
    }
    return round_all(record)


def round_all(value: Any) -> Any:
    """Return the same with five digits for every number that is not whole."""
    if isinstance(value, dict):
        return {key: round_all(part) for key, part in value.items()}
    if isinstance(value, list):
        return [round_all(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def scaling(config: BenchConfig, device: torch.device) -> list[dict[str, Any]]:
    """Baseline and both forms of STO at other batch sizes and depths."""
    sizes = [{"batch_size": size} for size in (16, 64, 256)]
    cases = [*sizes, *({"net": net} for net in ("resnet8", "resnet20", "resnet56"))]
    rows = []
    for case in cases:
        other = dataclasses.replace(config, **case)  # type: ignore[arg-type]
        names = ("baseline", "STO, two passes", "STO", "baseline, compiled", "STO, compiled")
        steps = contenders(other, device, names)
        seeds = fair_seeds(resnet.build(other.net, 7).num_blocks)
        results = compare(dict(steps), config.seconds / 2 / len(cases), device, seeds)
        rows.append({"net": other.net, "batch_size": other.batch_size, "results": results})
    return rows


def table(record: Record) -> str:
    """A record as lines of text."""
    columns = f"{'ms':>8} {'quartiles':>17} {'ratio':>6} {'quartiles':>11} {'mult-adds':>9} {'images/s':>8}"
    lines = [f"{'':28} {columns}"]

    def row(name: str, result: dict[str, Any]) -> str:
        (low, high), (ratio_low, ratio_high) = result["ms_quartiles"], result["ratio_quartiles"]
        counted = f"{result['multiply_add_ratio']:9.3f}" if "multiply_add_ratio" in result else " " * 9
        speed = f"{result['images_a_second']:8.0f}" if "images_a_second" in result else ""
        spread, ratios = f"{low:.2f} – {high:.2f}", f"{ratio_low:.2f} – {ratio_high:.2f}"
        return f"{name:28} {result['ms']:8.2f} {spread:>17} {result['ratio']:6.3f} {ratios:>11} {counted} {speed}"

    lines += [row(name, result) for name, result in record["results"].items()]
    for case in record["scaling"]:
        lines.append(f"{case['net']}, batches of {case['batch_size']}")
        lines += [row(f"  {name}", result) for name, result in case["results"].items()]
    return "\n".join(line.rstrip() for line in lines)
