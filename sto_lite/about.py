"""What a trained network's file says of itself, so that it can be used without its training set (chapter 6)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sto_lite.errors import RunError
from sto_lite.records import Record

FORMAT = 2  # of network.pt; format 1 held "net" and "weights" alone
FIELDS = ("classes", "size", "normalisation", "parameters", "method", "protocol", "data", "measured", "terms")
NOT_KNOWN = "not known"

# data/README.md has the whole of it, with sources.
TERMS = {
    "faces": "Synthetic drawings made by sto_lite; no terms besides the code's MIT licence.",
    "fer2013": (
        "The photographs were found on the web and belong to their owners; the contest's rules at Kaggle govern the "
        "download. For research and teaching; the photographs are not to be passed on."
    ),
    "rafdb": "For non-commercial research only; copies may not be passed on or published.",
    "cifar100": "No licence is stated; its author asks to cite the report (Krizhevsky 2009).",
}


def describe(record: Record, classes: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> str:
    """The description of a run's network, as JSON; the same run gives the same text on every day.

    classes: names, label 0 first. mean, std: of the training pixels in [0, 1], one value a channel.
    """
    about = {
        "format": FORMAT,
        "classes": list(classes),
        "size": record["data"]["size"],
        "normalisation": {"mean": list(mean), "std": list(std)},
        "parameters": record["parameters"],
        "method": record["method"],
        "protocol": record["config"],
        "data": record["data"],
        "measured": measured(record, len(classes)),
        "terms": TERMS.get(record["data"]["name"], NOT_KNOWN),
    }
    return json.dumps(about)


def measured(record: Record, classes: int) -> dict[str, dict[str, Any]]:
    """What each test split measured, the headline's last: error (%) with its interval, images, and counts by class.

    by_class: for each class, its images and how many of them the network got wrong.
    """
    found: dict[str, dict[str, Any]] = {}
    for split, result in record["result"].items():
        labels = np.asarray(record["labels"][split])
        missed = np.asarray(record["predictions"][split]) != labels
        counts = [[int((labels == c).sum()), int(missed[labels == c].sum())] for c in range(classes)]
        low, high = wilson(int(missed.sum()), len(labels))
        whole = {"error": result["error"], "interval": [low, high], "images": len(labels)}
        found[split] = {**whole, "by_class": counts}
    return found


def wilson(wrong: int, images: int, level: float = 0.95) -> tuple[float, float]:
    """Interval (%) of an error rate from the choice of the test images (Wilson 1927); 0 to 100 without images."""
    from statistics import NormalDist

    if not images:
        return 0.0, 100.0
    z, share = NormalDist().inv_cdf((1 + level) / 2), wrong / images
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * (share * (1 - share) / images + z * z / (4 * images**2)) ** 0.5
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def read_about(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The description that a network's file holds. Raises RunError if the file is older than descriptions, or comes
    from a newer sto_lite.
    """
    if "about" not in state:
        remedy = "Train it again, as record.json beside it says, with another --out"
        if (path.parent / "checkpoint.pt").exists():
            remedy = "Delete record.json beside it and run the command that trained it again: the checkpoint gives "
            remedy += "both back, and nothing is trained"
        raise RunError(
            f"{path} is of format 1: it holds the network's name and weights, but not its {', '.join(FIELDS[:3])}, "
            f"nor what it was trained on. {remedy}"
        )
    about = json.loads(state["about"])
    if about["format"] > FORMAT:
        told = "which a newer sto_lite wrote; install that one"
        raise RunError(f"{path} is of format {about['format']}, {told}")
    if missing := [name for name in FIELDS if name not in about]:
        raise RunError(f"{path} does not say its {', '.join(missing)}; train it again, with another --out")
    return about
