"""What many tests are made of: seeded generators, a small learnable set, runs that stop, and made-up records."""

import json

import torch

from sto_lite import records, registry
from sto_lite.checkpoints import decode
from sto_lite.config import Config, plain
from sto_lite.data import ImageSet, Split
from sto_lite.faces import EXPRESSIONS
from sto_lite.sets import PUBLISHED

CONFIG = Config(net="resnet8", epochs=3, batch_size=32, seed=0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(seed=0, count=96, size=8):
    """A learnable set: the label is which part of the image is bright."""
    g, splits = rng(seed), {}
    for name in ("train", "public", "private"):
        labels = torch.randint(0, 7, (count,), generator=g)
        images = torch.randint(0, 120, (count, 1, size, size), generator=g)
        images[torch.arange(count), 0, labels] += 120
        splits[name] = Split(images.to(torch.uint8), labels)
    return ImageSet("tiny", EXPRESSIONS, splits)


def same_run(a, b):
    """Equal to the last bit, wall time and date aside."""
    drop = ("seconds", "test_seconds")
    histories = [{k: v for k, v in run.record["history"].items() if k not in drop} for run in (a, b)]
    weights = [run.network.state_dict() for run in (a, b)]
    return (
        histories[0] == histories[1]
        and all(v.equal(weights[1][k]) for k, v in weights[0].items())
        and all(a.record[k] == b.record[k] for k in ("result", "predictions", "confidence"))
    )


def results(folder):
    """What of a finished run has to be equal: weights and record, without where and when it was made."""
    record = records.read_record(folder / "record.json")
    for key in ("environment", "earlier_environments", "finished"):
        record.pop(key, None)
    record["history"] = {k: v for k, v in record["history"].items() if "seconds" not in k}
    state = decode((folder / "network.pt").read_bytes())
    return record, state["net"], {name: value.numpy().tobytes() for name, value in state["weights"].items()}


def all_results(out):
    """The results of every finished run of a queue, by its folder."""
    return {path.parent.name: results(path.parent) for path in out.glob("*/record.json")}


def stopping(method, epoch):
    """The same method, interrupted in an epoch."""

    class Stopping(type(method)):
        def step(self, model, images, labels, generator, now=0):
            if now == epoch:
                raise KeyboardInterrupt
            return super().step(model, images, labels, generator, now)

    return Stopping(**vars(method))


def made_up(method, error, seed=0, net="resnet32", data="fer2013", train=None, epochs=300, gap=5.0, **more):
    """A record at the paper's protocol, unless something else is said; of 100 images the first `error` are wrong."""
    wrong, split = round(error), "private" if data == "fer2013" else "test"
    counts = {"train": train or PUBLISHED[data].official["train"]}
    return {
        "config": plain(Config(net=net, epochs=epochs, seed=seed)),
        "method": {"name": method, **plain(registry.make(method, **more))},
        "data": {"name": data, "size": 32, "counts": counts, "fingerprint": "f"},
        "result": {split: {"error": float(error), "best_error": error - 0.5, "best_epoch": 3}},
        "labels": {split: [0] * 100},
        "predictions": {split: [1] * wrong + [0] * (100 - wrong)},
        "history": {"train_error": [50.0, error - gap]},
    }


def edited(path, *changes):
    """Change a JSON file by functions of its content."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for change in changes:
        change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def put(*way):
    """A change: the last of the words is put where the others lead."""
    *steps, last, value = way

    def change(content):
        for step in steps:
            content = content[step]
        content[last] = value

    return change
