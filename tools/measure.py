"""Train what the instructors' tables of the homework are made of: tools/measure.py.

What has its record in ``book/homework/records`` is not trained again, so that an interrupted call goes on.
A run took half a minute or less while little else ran; there are 26 for each seed.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

import torch  # noqa: E402

from sto_lite import costs, data  # noqa: E402
from sto_lite.config import Config  # noqa: E402
from sto_lite.errors import print_anything  # noqa: E402
from sto_lite.files import expand  # noqa: E402
from sto_lite.homework import recorded  # noqa: E402
from sto_lite.methods import Method  # noqa: E402
from sto_lite.registry import make  # noqa: E402
from tools import homework  # noqa: E402
from tools.measured import RUNS  # noqa: E402

CONFIG = Config(net="resnet8", epochs=80, batch_size=32, evaluate_every=20)
FACES, PIXELS, DIFFICULTY, NOISES = 256, 16, 0.5, (0.0, 0.2, 0.4)
SETTINGS: dict[str, dict[str, Any]] = {  # of STO
    "sto": {},
    "sto-lam0": {"lam": 0.0},
    "sto-lam1": {"lam": 1.0},
    "sto-T1": {"temperature": 1.0},
    "sto-T10": {"temperature": 10.0},
    "sto-p0.2": {"p_last": 0.2},
    "sto-p0.8": {"p_last": 0.8},
    "sto-uniform": {"schedule": "uniform", "p_last": 2 / 3},
    "sto-nodetach": {"detach": False},
    "sto-nobackward": {"teacher_backward": False},
    "sto-both": {"running_stats": "both"},
}


class Planned(NamedTuple):
    """One row of a table. noise: share of wrong training labels. augment: as in Config."""

    name: str
    method: Method
    epochs: int = CONFIG.epochs
    noise: float = 0.0
    augment: bool = True


def plan() -> Iterator[Planned]:
    """Yield every row, in the order of the assignments."""
    yield Planned("baseline", make("baseline"))
    for name, settings in SETTINGS.items():
        yield Planned(name, make("sto", **settings))
    for label, method in committees().items():
        yield Planned(f"committee-{label.replace('=', '')}", method)
    spent = CONFIG.epochs * costs.step_cost(make("sto"), CONFIG.net, PIXELS)
    for peer in ("baseline", "dml", "one", "okddip"):
        epochs = round(spent / costs.step_cost(make(peer), CONFIG.net, PIXELS))
        settings = {"ramp": round(80 / 300 * epochs)} if peer in ("one", "okddip") else {}
        yield Planned(f"{peer}-equal", make(peer, **settings), epochs)
    for noise in NOISES:  # augmented, such a network fits no wrong label, and there is nothing to prevent
        for name in ("baseline", "sto"):
            yield Planned(f"{name}-noise{noise}", make(name), noise=noise, augment=False)


def committees() -> dict[str, Method]:
    """Return the arms of the assignment on ensembles, whose methods its own solution defines."""
    (source,) = homework.assignments(["ensemble"])
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in homework.read(source).cells:
        kind, name, _ = homework.role(cell)
        imports = kind == "given" and "import" in cell.source
        if cell.cell_type == "code" and (imports or name in ("sampled", "exact", "arms")):
            exec(homework.without_markers(cell.source), namespace)
    return namespace["ARMS"]


def main() -> None:
    """Train every row with the seeds asked for; one line for each run."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--out", type=expand, default=RUNS, help="folder of the records")
    print_anything()
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = {n: data.load("faces", PIXELS, FACES, difficulty=DIFFICULTY, label_noise=n) for n in NOISES}
    for row in plan():
        for seed in options.seeds:
            path = options.out / f"{row.name}-s{seed}.json"
            config = replace(CONFIG, epochs=row.epochs, augment=row.augment, seed=seed)
            record = recorded(path, row.method, images[row.noise], config)
            print(f"{path.name} {record['result']['test']['error']:.1f} %", flush=True)


if __name__ == "__main__":
    main()
