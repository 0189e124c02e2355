"""The paper's tables beside ours, from records: means, intervals, paired tests, verdicts (chapters 8 and 9)."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sto_lite import registry, stats
from sto_lite.checkpoints import YOUNGER
from sto_lite.config import Config, plain
from sto_lite.errors import RunError
from sto_lite.experiments.jobs import cell_epochs, cell_settings
from sto_lite.experiments.paper import Cell, Experiment
from sto_lite.records import Record
from sto_lite.stats import Interval

RULE = (
    "Verdict, for at least 3 paired seeds: not reproduced if the 95 % interval of our difference lies below half "
    "of the paper's difference; otherwise reproduced if it lies above 0; else undecided. Under a reduced protocol, "
    "for which the paper has no number, the words are better (interval above 0), worse (below 0) and undecided."
)
UNKNOWN = "not measured"
PAPER_COUNTS = {"fer2013": 28_709, "rafdb": 12_271, "cifar100": 50_000}  # training images


@dataclass(frozen=True)
class Row:
    """A cell with its records, one a seed, in the order of the seeds; gain: error of `against` minus this error."""

    cell: Cell
    records: tuple[Record, ...]
    split: str
    error: Interval | None
    best: float | None
    gain: Interval | None
    p: float | None
    claimed: float | None
    verdict: str


@dataclass(frozen=True)
class Table:
    """An experiment's rows on one data set under one protocol. faithful: it is the paper's protocol."""

    experiment: Experiment
    data: str
    protocol: str
    split: str
    faithful: bool
    rows: tuple[Row, ...]


def verdict(gain: Interval | None, claimed: float, faithful: bool = True) -> str:
    """Apply RULE to our interval of a gain and the paper's gain, both in points; faithful: by its protocol."""
    if gain is None:
        return UNKNOWN
    if gain.seeds < 3:
        return "undecided"
    good, bad = ("reproduced", "not reproduced") if faithful else ("better", "worse")
    if gain.high < (claimed / 2 if faithful else 0):
        return bad
    return good if gain.low > 0 else "undecided"


def tables(experiment: Experiment, records: Sequence[Record], split: str | None = None) -> list[Table]:
    """An experiment's tables, one for each protocol under which any of its cells has a record.

    Args:
        experiment: which rows.
        records: from anywhere; what belongs to no cell is left out.
        split: test split; default is the headline's, the last one of the data set.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[protocol_key(record, experiment)].append(record)
    found = []
    for group in groups.values():
        whole = [cell for cell in experiment.cells if cell.epochs == 1.0]
        lengths = {r["config"]["epochs"] for r in group if any(method_matches(c, r) for c in whole)}
        for epochs in sorted(lengths):
            rows = [[r for r in group if matches(cell, r, epochs, experiment)] for cell in experiment.cells]
            if any(rows):
                found.append(table(experiment, rows, epochs, split))
    found.sort(key=lambda t: sum(len(row.records) for row in t.rows), reverse=True)
    # A longer baseline alone looks like a protocol of its own: leave out what a fuller table holds already.
    held: list[set[int]] = []
    kept = []
    for one in found:
        members = {id(record) for row in one.rows for record in row.records}
        if not any(members <= other for other in held):
            kept.append(one)
            held.append(members)
    alike = Counter(one.protocol for one in kept)
    return [
        replace(one, protocol=f"{one.protocol}, data {fingerprint(one)}") if alike[one.protocol] > 1 else one
        for one in kept
    ]


def fingerprint(table: Table) -> str:
    """Fingerprint of the images that a table's runs saw."""
    return next(str(row.records[0]["data"]["fingerprint"]) for row in table.rows if row.records)


def blank(experiment: Experiment, data: str) -> Table:
    """The table at the paper's protocol with no record in it: what the paper reports, and "not measured"."""
    rows = [
        Row(c, (), "", None, None, None, None, claimed_gain(c, experiment, data), UNKNOWN)
        for c in experiment.cells
    ]
    return Table(experiment, data, f"{data}, 300 epochs of all images", "", True, tuple(rows))


def at_paper(experiment: Experiment, records: Sequence[Record], data: str) -> Table:
    """The table under the paper's protocol on one data set, blank where no run was made."""
    mine = [record for record in records if record["data"]["name"] == data]
    faithful = [table for table in tables(experiment, mine) if table.faithful]
    return faithful[0] if faithful else blank(experiment, data)


def reduced(
    experiment: Experiment, records: Sequence[Record], data: str, split: str | None = None
) -> Table | None:
    """The fullest table under a reduced protocol on one data set, or None."""
    mine = [record for record in records if record["data"]["name"] == data]
    return next((table for table in tables(experiment, mine, split) if not table.faithful), None)


def protocol_key(record: Record, experiment: Experiment) -> str:
    """What records must have in common to stand in one table."""
    free = {"seed", "evaluate_every", "epochs"} | ({"net"} if experiment.compares_networks else set())
    config = {key: value for key, value in {**YOUNGER, **record["config"]}.items() if key not in free}
    return json.dumps([config, record["data"]], sort_keys=True)


def method_matches(cell: Cell, record: Record) -> bool:
    """Whether a record is of the cell's method with the cell's settings."""
    measured = dict(record["method"])
    if cell.method == "kd":  # of any teacher; the table command names another network than the cell's
        measured = {key: measured[key] for key in measured.keys() - {"fingerprint", "network"}}
        return measured == {"name": "kd", "temperature": 3.0, "lam": 0.25, **cell.settings}
    settings = cell_settings(cell, record["config"]["epochs"])
    return measured == {"name": cell.method, **plain(registry.make(cell.method, **settings))}


def matches(cell: Cell, record: Record, epochs: int, experiment: Experiment) -> bool:
    """Whether a record is one of the cell's, where a whole schedule has so many epochs."""
    if not method_matches(cell, record) or (
        experiment.compares_networks and record["config"]["net"] != cell.net
    ):
        return False
    config = replace(read_config(record), epochs=epochs)
    return bool(record["config"]["epochs"] == cell_epochs(cell, config, record["data"]["size"]))


def read_config(record: Record) -> Config:
    """The record's protocol as a Config."""
    return Config(**{**record["config"], "drop_at": tuple(record["config"]["drop_at"])})


def table(experiment: Experiment, rows: Sequence[Sequence[Record]], epochs: int, split: str | None) -> Table:
    """Fill in one protocol's table."""
    example = next(row[0] for row in rows if row)
    splits = list(example["labels"])
    if split is not None and split not in splits:
        raise RunError(f"{example['data']['name']} has no test split {split!r}; it has {', '.join(splits)}")
    split = split or splits[-1]
    config, data = read_config(example), example["data"]
    paper_config = replace(Config(), net=config.net, seed=config.seed, evaluate_every=config.evaluate_every)
    faithful = (
        (experiment.compares_networks or config.net == experiment.cells[0].net)
        and data["size"] == 32
        and data["counts"]["train"] == PAPER_COUNTS.get(data["name"])
        and replace(config, epochs=epochs) == paper_config
    )
    by_label = {cell.label: by_seed(cell, row) for cell, row in zip(experiment.cells, rows, strict=True)}
    made = [fill(cell, experiment, by_label, data["name"], split, faithful) for cell in experiment.cells]
    return Table(
        experiment, data["name"], describe(example, epochs, experiment), split, faithful, tuple(made)
    )


def by_seed(cell: Cell, records: Sequence[Record]) -> dict[int, Record]:
    """One record a seed.

    Raises:
        RunError: two different runs of one cell and seed, of which none can be preferred.
    """
    found: dict[int, Record] = {}
    for record in records:
        seed = record["config"]["seed"]
        if seed in found and found[seed]["predictions"] != record["predictions"]:
            raise RunError(
                f"there are two different runs of {cell.label} with seed {seed}; which one counts? Give folders "
                f"that hold one of them"
            )
        found[seed] = record
    return found


def fill(
    cell: Cell,
    experiment: Experiment,
    by_label: dict[str, dict[int, Record]],
    data: str,
    split: str,
    faithful: bool,
) -> Row:
    """One row: errors of the last epoch over seeds, and the paired difference to the row it is compared with."""
    mine = by_label[cell.label]
    records = tuple(mine[seed] for seed in sorted(mine))
    results = [record["result"][split] for record in records]
    error = stats.interval([r["error"] for r in results]) if results else None
    best = math.fsum(r["best_error"] for r in results) / len(results) if results else None
    gain = p = claimed = None
    told = ""  # nothing is claimed
    if cell.against is not None:
        other = by_label[cell.against]
        seeds = sorted(mine.keys() & other.keys())
        if seeds:
            pairs = [(other[s], mine[s]) for s in seeds]
            gain = stats.interval(
                [a["result"][split]["error"] - b["result"][split]["error"] for a, b in pairs]
            )
            p = stats.image_test([a for a, _ in pairs], [b for _, b in pairs], split).p
        claimed = claimed_gain(cell, experiment, data)
        if cell.paper:  # the paper claims a gain, here or on another data set
            told = verdict(gain, claimed or 0.0, faithful and claimed is not None)
    return Row(cell, records, split, error, best, gain, p, claimed, told)


def claimed_gain(cell: Cell, experiment: Experiment, data: str) -> float | None:
    """The paper's difference between the row that a cell is compared with and the cell, in points, if it has both."""
    for other in experiment.cells:
        if other.label == cell.against and data in cell.paper and data in other.paper:
            return round(other.paper[data] - cell.paper[data], 2)
    return None


def describe(record: Record, epochs: int, experiment: Experiment) -> str:
    """The protocol in one line."""
    config, data = record["config"], record["data"]
    net = "" if experiment.compares_networks else f"{config['net']}, "
    steps = epochs * -(-data["counts"]["train"] // config["batch_size"])
    odd = {k: v for k, v in data.items() if k in ("difficulty", "label_noise") and v not in (1.0, 0.0)}
    usual = plain(Config())
    free = ("net", "epochs", "seed", "evaluate_every")
    odd |= {k: v for k, v in config.items() if k not in free and v != usual.get(k)}
    more = "".join(f", {key.replace('_', ' ')} {value}" for key, value in odd.items())
    return (
        f"{data['name']}{more}, {data['counts']['train']:,} training images, {data['size']} pixels, {net}"
        f"{epochs} epochs ({steps:,} steps)"
    )
