"""What ten people each saw in FER-2013, in counts: make data/runs/fer-votes/votes.json, which chapter 11 is made of::

    STO_DATA=FOLDER python tools/votes_record.py

FOLDER holds the prepared FER-2013 with FER+'s votes (data/README.md). Neither an image nor its own votes go into
the record: counts, shares and scores only. Run it again when records of FER-2013 were added.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite import data, records  # noqa: E402
from sto_lite.data import Split  # noqa: E402
from sto_lite.files import save  # noqa: E402
from sto_lite.intake import votes  # noqa: E402
from sto_lite.people import agreement, plurality  # noqa: E402
from sto_lite.sets import FER2013  # noqa: E402

PATH = ROOT / "data" / "runs" / "fer-votes" / "votes.json"
COLUMN = np.argsort(votes.FER2013_LABELS)  # label of FER-2013 -> its column in the votes
NEAR, ALIKE = 4, 0.9  # near copies: bits of 64 that may differ, and least correlation of the pixels
SOURCE = "FER+, fer2013new.csv (MIT licence)"
Votes = np.ndarray


def is_clear(counts: Votes) -> np.ndarray:
    """Images for which more than half of all votes fell on one of FER-2013's seven classes, (N,) booleans."""
    return 2 * counts[:, : len(COLUMN)].max(1) > counts.sum(1)


def of_the_labels(counts: Votes, labels: np.ndarray) -> dict[str, Any]:
    """How often the old label is what most people saw; ties told apart, by class, and the whole table."""
    top = plurality(counts)
    hit, tied = top[np.arange(len(labels)), COLUMN[labels]], top.sum(1) > 1
    clear = is_clear(counts)
    share = counts / counts.sum(1, keepdims=True)
    classes = [labels == c for c in range(len(COLUMN))]
    return {
        "images": len(labels),
        "agreement": agreement(counts),
        "clear": int(clear.sum()),
        "tied": int(tied.sum()),
        "outside": int(top[:, len(COLUMN) :].any(1).sum()),  # contempt, unknown, no face among the most voted
        "alone": [int((hit & ~tied & c).sum()) for c in classes],  # by class: the label has most votes, alone
        "shared": [int((hit & tied & c).sum()) for c in classes],  # or with others
        "of": [int(c.sum()) for c in classes],
        "clear_hits": int((hit & clear).sum()),
        # By label, columns as votes.CLASSES; then images by the votes of the first answer.
        "mean_votes": [(share[c].sum(0) / max(1, c.sum())).round(4).tolist() for c in classes],
        "by_votes": np.bincount(counts.max(1), minlength=11).tolist(),
        "unanimous": (counts == 10).sum(0).tolist(),  # by answer, columns as above
    }


def of_a_run(counts: Votes, labels: np.ndarray, said: np.ndarray, confidence: np.ndarray) -> dict[str, Any]:
    """What the votes say of a network's answers, in %; `surprise` in nats; and what it gets wrong, by agreement."""
    rows, share = np.arange(len(said)), counts / counts.sum(1, keepdims=True)
    mine, top = share[rows, COLUMN[said]], plurality(counts)
    clear = is_clear(counts)
    found, wrong, p = top[rows, COLUMN[said]], said != labels, confidence.clip(1e-4, 1 - 1e-4)
    return {
        "error": 100 * float(wrong.mean()),
        "against_most": 100 * float(1 - found.mean()),  # the answer is not among the most voted
        "against_most_clear": 100 * float(1 - found[clear].mean()),
        "error_clear": 100 * float(wrong[clear].mean()),  # the same images by the old label
        "votes_for": 100 * float(mine.mean()),
        "surprise": float(-(mine * np.log(p) + (1 - mine) * np.log(1 - p)).mean()),
        "not_most_by_votes": np.bincount(counts.max(1), weights=~found, minlength=11).astype(int).tolist(),
        "wrong_by_votes": np.bincount(counts.max(1), weights=wrong, minlength=11).astype(int).tolist(),
    }


def hashes(images: torch.Tensor) -> np.ndarray:
    """dHash: (N, 1, H, W) uint8 -> (N,) uint64; whether a pixel of the 8 × 9 thumbnail outshines the next."""
    small = F.interpolate(images.float(), (8, 9), mode="area")[:, 0]
    bits = (small[:, :, :-1] > small[:, :, 1:]).flatten(1).numpy()
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def near(test: Split, train: Split) -> dict[str, int]:
    """Test images with an exact copy in training, others with a near one, as they are or mirrored.

    Of each how many have their copy's label; an image with several copies is held against the likest.
    """
    rows, others = (split.images.flatten(1).numpy() for split in (test, train))
    seen = {row.tobytes(): label for row, label in zip(others, train.labels.tolist(), strict=True)}
    same = [seen.get(row.tobytes()) for row in rows]
    exact = np.array([label is not None for label in same])
    found = {"images": len(test), "exact": int(exact.sum())}
    found["exact_same_label"] = sum(a == b for a, b in zip(same, test.labels.tolist(), strict=True))

    def normal(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float32) - x.mean(1, keepdims=True, dtype=np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-6)

    there, unit = hashes(train.images), normal(others)
    for name, images in (("near", test.images), ("mirrored", test.images.flip(-1))):
        mine, copy = normal(images.flatten(1).numpy()), np.full(len(test), -1)
        for i, own in enumerate(hashes(images)):
            if len(close := np.flatnonzero(np.bitwise_count(own ^ there) <= NEAR)) and not exact[i]:
                alike = unit[close] @ mine[i]
                copy[i] = close[alike.argmax()] if alike.max() >= ALIKE else -1
        found[name] = int((copy >= 0).sum())
        found[f"{name}_same_label"] = int((train.labels[copy] == test.labels).numpy()[copy >= 0].sum())
    return found


def make() -> dict[str, Any]:
    """The whole record, from the prepared set and the committed records of runs."""
    images = data.load("fer2013", size=48)
    read = {split: votes.read(split) for split in images.splits}
    truth = {split: images.splits[split].labels.numpy() for split in images.splits}
    runs = []
    for folder in sorted((ROOT / "data" / "runs").iterdir()):
        for path in sorted(folder.glob("*.json")):
            record = records.read_record(path)
            if record.get("data", {}).get("name") != "fer2013" or "predictions" not in record:
                continue
            scores = {}
            for split, said in record["predictions"].items():
                counts, rated = read[split]
                if record["labels"][split] != truth[split].tolist():
                    raise SystemExit(f"{path} was tested on other labels than those of this copy")
                arrays = [np.array(x)[rated] for x in (truth[split], said, record["confidence"][split])]
                scores[split] = of_a_run(counts[rated], *arrays)
            names = {"run": f"{folder.name}/{path.stem}", "method": record["method"]}
            runs.append(names | {"seed": record["config"]["seed"], "scores": scores})
    return {
        "kind": "curves",
        "config": {},
        "data": {"name": "fer2013", "fingerprint": images.fingerprint, "votes": SOURCE},
        "environment": records.environment(torch.device("cpu")),
        "finished": time.strftime("%Y-%m-%d"),
        "labels_and_votes": {s: of_the_labels(c[rated], truth[s][rated]) for s, (c, rated) in read.items()},
        "copies": {s: near(images.splits[s], images.splits["train"]) for s in images.test_splits},
        "copies_rule": {"bits": NEAR, "correlation": ALIKE},
        "runs": runs,
    }


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    save(PATH, records.encode(make()))
    print(f"wrote {PATH.relative_to(ROOT)}, {len(FER2013.splits)} splits")
