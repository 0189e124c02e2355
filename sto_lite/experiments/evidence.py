"""What chapters 8 and 9 read from records: where a gain holds, what it depends on, where its scatter comes from."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from sto_lite import stats
from sto_lite.blocks import compare, fit_block
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.experiments.tables import Table, pair_key, tables
from sto_lite.records import Record
from sto_lite.sets import PUBLISHED
from sto_lite.stats import Interval

SHORT = {"without distillation (λ = 0)": "λ = 0", "without backward of the full network": "no backward"}
Measure = Callable[[Record, str], float]


def short(label: str) -> str:
    """A row's name as figures have room for it."""
    return SHORT.get(label, label)


# ---------------------------------------------------------------------------------------------------- designs


def on_labels(records: Sequence[Record], data: str) -> list[Record]:
    """Runs on one data set, without those that were trained on votes."""
    mine = [r for r in records if "kind" not in r and r["data"]["name"] == data]
    return [r for r in mine if not r["data"].get("votes")]


def runs(records: Sequence[Record], data: str = "fer2013", images: int = 1024) -> list[Record]:
    """Finished runs on so many training images of one data set, and on its labels."""
    finished = on_labels(records, data)
    return [r for r in finished if r["data"]["counts"]["train"] == images]


def find_design(
    records: Sequence[Record], own_images: bool, experiment: str = "table3", split: str = "private"
) -> Table | None:
    """The fullest reduced table whose seeds share one draw of training images, or have one each; None without."""
    made = tables(EXPERIMENTS[experiment], records, split)
    return next((t for t in made if t.own_images == own_images and not t.faithful), None)


def gain_by(table: Table, measure: Measure, first: str = "baseline", second: str = "STO") -> Interval | None:
    """First row's measure minus the second's, in points, with its own 95 % interval from the block of all rows.

    None where the rows, which are given by their labels, have no seed in common.
    """
    values = {
        row.cell.label: {pair_key(r): measure(r, table.split) for r in row.records} for row in table.rows
    }
    common = values.get(first, {}).keys() & values.get(second, {}).keys()
    if not common:
        return None
    block = fit_block(values)
    if block is None or len(common) == 1:
        return stats.interval([values[first][key] - values[second][key] for key in sorted(common)])
    return compare(block, [(first, second)])[0].alone


def last(record: Record, split: str) -> float:
    """Error of the last epoch (%)."""
    return float(record["result"][split]["error"])


def best(record: Record, split: str) -> float:
    """Error of the best epoch by the test images (%), which flatters."""
    return float(record["result"][split]["best_error"])


def late(record: Record, split: str) -> float:
    """Mean error of the last tenth of the evaluations (%)."""
    errors = record["history"][f"{split}_error"]
    return float(np.mean(errors[-max(1, len(errors) // 10) :]))


def balanced(record: Record, split: str) -> float:
    """Mean over the classes of the error of the last epoch (%)."""
    labels = record["labels"][split]
    return float(np.nanmean(stats.class_errors(record, split, 1 + max(labels))))


MEASURES: Mapping[str, Measure] = {
    "last epoch": last,
    "mean of the last tenth": late,
    "best epoch": best,
    "last, mean of the classes": balanced,
}


# ------------------------------------------------------------------------------------------- curves cut off


@dataclass(frozen=True)
class Curves:
    """Curves of runs that did not end, from their record."""

    record: Record

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """The runs by their names."""
        return {
            name: part for name, part in self.record.items() if isinstance(part, dict) and "history" in part
        }

    @property
    def drops(self) -> list[int]:
        """How many epochs are trained before each drop of the learning rate, as Config counts them."""
        config = self.record["config"]
        return [math.ceil(round(fraction * config["epochs"], 6)) for fraction in config["drop_at"]]

    def series(self, method: str, key: str, stop: int | None = None) -> list[np.ndarray]:
        """A quantity over epochs, one array a seed, as far as each run came; or the first `stop` epochs of each."""
        mine = [run for run in self.runs.values() if run["method"]["name"] == method]
        return [np.asarray(run["history"][key][:stop]) for run in sorted(mine, key=lambda run: run["seed"])]

    @property
    def common(self) -> int:
        """Epochs that all runs have."""
        return int(min(run["epochs"] for run in self.runs.values()))

    def gain(self, method: str, split: str, start: int, stop: int, of: Callable = np.mean) -> Interval:
        """The baseline's error minus a method's, means (or another `of`) over a window of epochs, paired by seed.

        Raises ValueError if the two have other seeds.
        """
        seeds = [
            sorted(run["seed"] for run in self.runs.values() if run["method"]["name"] == name)
            for name in ("baseline", method)
        ]
        if seeds[0] != seeds[1]:
            raise ValueError(f"the baseline has seeds {seeds[0]} and {method} {seeds[1]}: no pairs")
        base, own = (self.series(name, f"{split}_error", stop) for name in ("baseline", method))
        return stats.interval([of(a[start:]) - of(b[start:]) for a, b in zip(base, own, strict=True)])

    def gain_at_best(self, method: str, split: str) -> Interval:
        """The same for the best epoch among those that all runs have."""
        return self.gain(method, split, 0, self.common, np.min)

    def after_second_drop(self, split: str) -> tuple[float, float]:
        """The baseline's mean error over ten epochs before its second drop, and from there to its end."""
        drop, errors = self.drops[1], self.series("baseline", f"{split}_error")
        before = np.mean([e[drop - 10 : drop].mean() for e in errors])
        return float(before), float(np.mean([e[drop + 1 :].mean() for e in errors]))


# ------------------------------------------------------------------------------------------- specifications


@dataclass(frozen=True)
class Specification:
    """One way to ask for STO's gain that was measured: the choices, and the gain."""

    choices: Mapping[str, str]
    gain: Interval


CHOICES = ("data", "images", "against", "test images", "error of")
# Whom STO is held against: labels of rows, and what figures call them.
RIVALS = {
    "table3": {
        "baseline": "baseline",
        "stochastic depth": "stochastic depth",
        "without distillation (λ = 0)": "λ = 0",
        "without backward of the full network": "no backward",
    },
    "compute": {
        "baseline, STO's compute": "baseline, equal compute",
        "stochastic depth, STO's compute": "stochastic depth, equal compute",
        "no backward, STO's compute": "no backward, equal compute",
    },
}


def multiverse(records: Sequence[Record], curves: Curves | None = None) -> list[Specification]:
    """STO's gain under every choice that was measured, smallest first; each from its own block of runs."""
    found = []
    names = {"private": "PrivateTest", "public": "PublicTest", "test": "test set"}
    ways = [("fer2013", "private"), ("fer2013", "public"), ("cifar100", "test")]
    for (data, split), (experiment, rivals) in product(ways, RIVALS.items()):
        mine = on_labels(records, data)
        made = tables(EXPERIMENTS[experiment], mine, split) if mine else []
        reduced = [table for table in made if not table.faithful]
        for table, (first, called), (name, measure) in product(reduced, rivals.items(), MEASURES.items()):
            if gain := gain_by(table, measure, first):
                one = table.row("STO").records[0]
                net = one["config"]["net"]
                images = (
                    f"{one['data']['counts']['train']:,}{' by seed' if table.own_images else ''}"
                    f"{f', {net}' if net != 'resnet14' else ''}"  # another than the reduced protocol's
                )
                chosen = (PUBLISHED[data].title, images, called, names[split], name)
                found.append(Specification(dict(zip(CHOICES, chosen, strict=True)), gain))
    for split in ("private", "public"):
        if curves is None:
            break
        drop, common = curves.drops[0], curves.common
        images = f"{curves.record['data']['counts']['train']:,}, cut off"
        windows = {
            "best epoch": curves.gain_at_best("sto", split),
            "10 after the drop": curves.gain("sto", split, drop, drop + 10),
            "last 10 of all runs": curves.gain("sto", split, common - 10, common),
            "all since the drop": curves.gain("sto", split, drop, common),
        }
        for name, gain in windows.items():
            chosen = ("FER-2013", images, "baseline", names[split], name)
            found.append(Specification(dict(zip(CHOICES, chosen, strict=True)), gain))
    return sorted(found, key=lambda one: one.gain.mean)


# --------------------------------------------------------------------------------------------------- budget


@dataclass(frozen=True)
class Source:
    """A part of the scatter of a measured gain: its standard deviation in points (NaN: unknown), and of what."""

    name: str
    deviation: float
    told: str


def deviation_of_gain(table: Table, first: str = "baseline", second: str = "STO") -> float:
    """Standard deviation of a paired difference of two runs from seed to seed, in points, by these two rows alone."""
    gains = [last(a, table.split) - last(b, table.split) for a, b in pairs(table, first, second)]
    return float(np.std(gains, ddof=1)) if len(gains) > 1 else math.nan


def pairs(table: Table, first: str, second: str) -> list[tuple[Record, Record]]:
    """The runs of two rows, for the seeds that both have, in the order of the seeds."""
    one, two = ({pair_key(r): r for r in table.row(row).records} for row in (first, second))
    return [(one[key], two[key]) for key in sorted(one.keys() & two.keys())]


def paired_wrong(table: Table, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    """(seeds, N) booleans of two rows, for the seeds that both have, in the same order."""
    found = pairs(table, first, second)
    one, two = (np.array([stats.wrong(pair[side], table.split) for pair in found]) for side in (0, 1))
    return one, two


def disagreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share (%) of images on which exactly one of two runs is right."""
    return 100 * float((first != second).mean())


def variance_budget(shared: Table, own: Table | None = None) -> list[Source]:
    """Where the scatter of STO's measured gain comes from, from records alone.

    shared: two seeds or more on one draw of training images. own: each with its own; without, that part is unknown.
    """
    a, b = paired_wrong(shared, "baseline", "STO")
    images = stats.image_error(a, b)
    block = shared.block
    noise = math.sqrt(2) * block.deviation if block else math.nan
    records = [r for row in shared.rows for r in row.records]
    epochs = []
    for record in records:
        errors = np.asarray(record["history"][f"{shared.split}_error"])
        epochs.append(np.diff(errors[-max(3, len(errors) // 10) :]).std() / math.sqrt(2))
    seeds = len(a)
    budget = [
        Source("seed", noise, "one pair of runs on the same training images, by the block's noise"),
        Source("test images, one pair", images.one, "other test images, two given networks"),
        Source(f"test images, {seeds} pairs", images.measured, f"the same for means over {seeds} seeds"),
        Source("test images, any number of pairs", images.limit, "what no number of seeds removes"),
    ]
    noisy = math.sqrt(2) * float(np.mean(epochs))
    budget.append(Source("epoch", noisy, "from one of the last evaluations to the next"))
    if own is None or own.block is None or own.row("STO").gain is None or own.block.freedom < 4:
        budget.insert(1, Source("training images", math.nan, "another draw of them: not measured yet"))
    else:
        both = math.sqrt(2) * own.block.deviation
        part = math.sqrt(max(0.0, both**2 - noise**2))
        told = f"another draw of them, beside the seed; together {both:.2f}"
        budget.insert(1, Source("training images", part, told))
    return budget
