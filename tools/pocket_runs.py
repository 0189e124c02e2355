"""Train the networks of chapter 10, and record what is left of each when blocks are left out.

    python tools/pocket_runs.py sto --seed 0        also baseline, stochastic-depth; seeds 0 to 2

ResNet-14 on the synthetic faces of chapter 3b; about a minute of training on one idle CPU core, and half a one of
measuring. The record holds the test error of all 64 subsets of its six blocks, and with seed 0 the weights at half
precision, from which everything was measured. A record that exists is not made again. Register: depth-dial.
"""

import argparse
import base64
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite import data  # noqa: E402
from sto_lite.about import TERMS, measured  # noqa: E402
from sto_lite.config import Config, plain  # noqa: E402
from sto_lite.methods import STO, Baseline, StochasticDepth  # noqa: E402
from sto_lite.records import Record, environment, named  # noqa: E402
from sto_lite.resnet import ResNet, fold  # noqa: E402
from sto_lite.train import Training, evaluate  # noqa: E402
from tools.chapter_networks import all_shortened, enter, faces, halve  # noqa: E402

FOLDER = ROOT / "data" / "runs" / "chapters-pocket"
METHODS = {method.name: method for method in (Baseline(), StochasticDepth(), STO())}
CALIBRATION = 256  # training images that give batch norm its new statistics


def errors(logits: Tensor, labels: Tensor) -> list[float]:
    """Test errors (%) of the students' logits."""
    wrong = (logits.argmax(dim=-1) != labels).double().mean(dim=-1)
    return [round(100 * value, 2) for value in wrong.tolist()]


def run(name: str, seed: int) -> Record:
    """Train one network, round its weights, and measure all its subsets."""
    images, method = faces(24), METHODS[name]
    config = Config("resnet14", 20, 30, augment=False, seed=seed, evaluate_every=20)
    training = Training(method, images, config, device="cpu")
    for _ in training.steps(progress=False):
        pass
    record, net = training.result().record, cast(ResNet, training.model).eval()
    net.to(memory_format=torch.contiguous_format)
    weights = halve(net)
    p = method.survival(net) if isinstance(method, StochasticDepth) else torch.ones(net.num_blocks)
    test, (mean, std) = images.splits["test"], images.mean_std
    found = evaluate(fold(net, p), test, (mean, std))
    predictions = {"test": found.predictions.tolist()}
    labels = {"test": test.labels.tolist()}
    result = {"test": {"error": found.error}}
    batches = data.Batches(test, mean, std, augment=False)
    x = batches.normalise(test.images)
    calibration = batches.normalise(images.splits["train"].images[:CALIBRATION])
    cases: dict[str, tuple[Tensor, Tensor | None]] = {"as trained": (p, None), "anew": (p, calibration)}
    if name != "baseline":  # whose gates are ones anyhow
        cases["anew, gates 1"] = (torch.ones(net.num_blocks), calibration)
    dial = {  # in this order: the first case needs the trained statistics, which the others overwrite
        case: errors(all_shortened(net, x, gates, known), test.labels)
        for case, (gates, known) in cases.items()
    }
    return {
        "kind": "curves",
        "config": plain(config),
        "method": named(method),
        "data": {**record["data"], "difficulty": 0.3},
        "environment": environment(torch.device("cpu")),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "parameters": record["parameters"],
        "classes": list(images.classes),
        "size": 24,
        "normalisation": {"mean": mean.tolist(), "std": std.tolist()},
        "measured": measured({"result": result, "labels": labels, "predictions": predictions}, 7),
        "terms": TERMS["faces"],
        "seconds": round(sum(record["history"]["seconds"]), 1),
        "errors": dial,
        **({"weights": base64.b64encode(weights).decode()} if seed == 0 else {}),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one record; return the exit status."""
    parser = argparse.ArgumentParser(description="Train the networks of chapter 10.")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    path = FOLDER / f"{options.method}-s{options.seed}.json"
    return enter(path, lambda: run(options.method, options.seed))


if __name__ == "__main__":
    sys.exit(main())
