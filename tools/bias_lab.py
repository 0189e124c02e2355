"""Run the bias laboratory of chapter 11, as registered: `bias-lab` in data/register.yml::

    python tools/bias_lab.py

A run takes some 20 seconds on one CPU core. Runs whose counts are in data/runs/bias-lab already are not made again.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite import people, records  # noqa: E402
from sto_lite.config import Config, plain  # noqa: E402
from sto_lite.faces import EXPRESSIONS  # noqa: E402
from sto_lite.files import save  # noqa: E402
from sto_lite.methods import STO, Baseline, Method, StochasticDepth  # noqa: E402
from sto_lite.train import fit  # noqa: E402

FOLDER = ROOT / "data" / "runs" / "bias-lab"
TRAIT, LABEL, IMAGES, SIZE, EPOCHS = "glasses", "angry", 840, 20, 10
STRENGTHS, SEEDS = (0.0, 0.5, 0.9, 1.0), (0, 1, 2)
METHODS = {"baseline": Baseline(), "stochastic-depth": StochasticDepth(), "sto": STO()}
# (method, strength, whether reweighted): three methods at four strengths, and the remedy
RUNS = [(name, s, False) for s in STRENGTHS for name in METHODS] + [("baseline", 0.9, True)]


def one(method: Method, strength: float, reweighted: bool, seed: int) -> dict[str, Any]:
    """Train one network; a record of how often each class was said of each, without the trait and with it."""
    images, has = people.biased(TRAIT, LABEL, strength, IMAGES, SIZE, seed=100 + seed)
    epochs = EPOCHS
    if reweighted:
        images = people.balanced(images, has)
        epochs = round(EPOCHS * IMAGES / len(images.splits["train"]))  # about as many steps
    config = Config("resnet8", epochs, 32, lr=0.05, augment=False, seed=seed, evaluate_every=epochs)
    record = fit(method, images, config, device="cpu", progress=False).record
    planted = {"trait": TRAIT, "label": LABEL, "strength": strength, "reweighted": reweighted}
    said = {name: torch.tensor(values) for name, values in record["predictions"].items()}
    labels, classes = torch.tensor(record["labels"]["with"]), len(EXPRESSIONS)
    counts = {
        name: torch.bincount(classes * labels + values, minlength=classes**2).view(classes, -1).tolist()
        for name, values in said.items()
    }
    return {
        "kind": "curves",
        "config": plain(config),
        "method": record["method"],
        "data": record["data"] | planted,
        "environment": record["environment"],
        "finished": time.strftime("%Y-%m-%d"),
        "said": counts,  # split -> rows by label, columns by prediction
        # Test faces whose class the trait alone changes.
        "changed": int((said["with"] != said["without"]).sum()),
        "train_error": record["history"]["train_error"][-1],
    }


def main() -> None:
    """Every run that is not there yet, seed by seed."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for name, strength, reweighted in RUNS:
            path = FOLDER / f"{name}{'-reweighted' * reweighted}-{strength:.1f}-s{seed}.json"
            if not path.exists():
                save(path, records.encode(one(METHODS[name], strength, reweighted, seed)))
                print(path.name, flush=True)


if __name__ == "__main__":
    main()
