"""Enter the runs of chapter 9b into data/runs/kin, each with how often its student and its teacher agree.

    python tools/kin.py FOLDER     the folder of `python -m sto_lite run kin … --out FOLDER`, with its checkpoints

The agreement is the one that data/register.yml defines under kin-fidelity. A record that exists is not made again.
"""

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite import data, records, registry  # noqa: E402
from sto_lite.checkpoints import decode  # noqa: E402
from sto_lite.data import Batches, ImageSet  # noqa: E402
from sto_lite.files import read, save  # noqa: E402
from sto_lite.kin import ExpectationLinear, OtherSTO, Students  # noqa: E402
from sto_lite.methods import STO, fixed_running_stats  # noqa: E402
from sto_lite.selves import OwnTeacher, ProgressiveSelf, Sandwich, front  # noqa: E402

DRAWS = 8
OUT = ROOT / "data" / "runs" / "kin"


def pairs(
    method: Any, model: Any, images: Tensor, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (N, C) of a student and its teacher as they run in training; several, where there are several students.

    Nothing, where no prediction teaches another.
    """
    if isinstance(method, OwnTeacher):
        *exits, last = model(images)
        yield from ((z, last) for z in exits)
    elif isinstance(method, ProgressiveSelf):
        yield model.net(images), model.last(images)
    elif isinstance(method, Sandwich):
        full = model(images)
        yield from ((model(images, front(model.num_blocks, d)), full) for d in range(1, model.num_blocks))
    elif isinstance(method, STO | ExpectationLinear):
        p = method.survival(model)
        teacher = model(images, p if getattr(method, "weighted", True) else None)
        gates = getattr(method, "gates", "batch")
        drawn = OtherSTO(gates=gates, p_last=method.p_last, schedule=method.schedule)
        for _ in range(DRAWS):
            yield drawn.student(model, images, generator), teacher
    elif isinstance(method, Students):
        for _ in range(DRAWS):
            yield method.student(model, images, generator), method.student(model, images, generator)


@torch.no_grad()
def agreement(method: Any, model: nn.Module, images: ImageSet) -> dict[str, float]:
    """By test split, the share (%) of images to which student and teacher give the same class; empty for no pair."""
    model, found = copy.deepcopy(model).train(), {}
    for name, split in images.test_splits.items():
        generator, same = torch.Generator().manual_seed(0), []
        with fixed_running_stats(model):
            for batch, _ in Batches(split, *images.mean_std, batch_size=256, augment=False).in_order():
                for student, teacher in pairs(method, model, batch, generator):
                    same.append((student.argmax(1) == teacher.argmax(1)).float())
        if same:
            found[name] = round(100 * torch.cat(same).mean().item(), 3)
    return found


def main(folder: Path) -> None:
    """Enter every finished run of the folder."""
    for path in sorted(folder.glob("*/record.json")):
        out = OUT / f"{path.parent.name}.json"
        if out.exists():
            continue
        record = records.read_record(path)
        settings = dict(record["method"])
        method = registry.make(settings.pop("name"), **settings)
        source = record["data"]
        count, subset = source["counts"]["train"], source.get("subset", 0)
        images = data.load(source["name"], source["size"], count, subset=subset)
        assert images.fingerprint == source["fingerprint"], "these are other images"
        model = method.build(record["config"]["net"], len(images.classes), torch.Generator())
        state = decode(read(path.parent / "checkpoint.pt"))
        assert json.loads(state["identity"])["method"] == record["method"], "the checkpoint is of another run"
        model.load_state_dict(state["model"])
        record["agreement"] = agreement(method, model.to(memory_format=torch.channels_last), images)
        save(out, records.encode(record))
        print(out.name, record["agreement"], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
