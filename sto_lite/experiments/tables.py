"""The paper's tables beside ours, from records: means, intervals, paired tests, verdicts (chapters 8 and 9)."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from sto_lite import costs, registry, stats
from sto_lite.blocks import Block, Comparison, Pair, compare, fit_block
from sto_lite.checkpoints import YOUNGER
from sto_lite.config import Config, plain
from sto_lite.errors import RunError
from sto_lite.experiments.jobs import cell_epochs, cell_settings
from sto_lite.experiments.paper import Cell, Experiment
from sto_lite.records import Record, named
from sto_lite.sets import PUBLISHED
from sto_lite.stats import Interval

RULE = (
    "Verdict, for at least 3 paired seeds, from one analysis of the whole table (methods × seeds, one error "
    "variance) and adjusted to all its comparisons: Dunnett's 95 % intervals where all are with one row, "
    "elsewhere those that agree with Holm's tests. Not reproduced if the interval of our difference lies below "
    "half of the paper's difference; otherwise reproduced if it lies above 0; else undecided. Under a reduced "
    "protocol, for which the paper has no number, the words are better (interval above 0), worse (below 0) and "
    "undecided."
)
UNKNOWN = "not measured"
SEEDS = 3  # paired seeds; with fewer, nothing is decided
# What pairs two runs: seed, number of the training subset, fingerprint of the images.
Key = tuple[int, int, str]


@dataclass(frozen=True)
class Row:
    """A cell with its records, one a seed, in the order of the seeds.

    error, best: of the last epoch and of the best, which flatters, over the seeds. gain: error of `against` minus
    this error, from the pairs of this row alone. block: the same from the whole table, by which the verdict is given;
    None with fewer than 3 pairs. p: of the test over images.
    """

    cell: Cell
    records: tuple[Record, ...]
    split: str
    error: Interval | None = None
    best: float | None = None
    gain: Interval | None = None
    block: Comparison | None = None
    p: float | None = None
    claimed: float | None = None
    verdict: str = UNKNOWN

    @property
    def cost(self) -> float | None:
        """Multiply-adds of one training, the passes over training images alone; None without a run."""
        return training_cost(self.records[0], self.cell) if self.records else None


@dataclass(frozen=True)
class Table:
    """An experiment's rows on one data set under one protocol. faithful: it is the paper's protocol.

    block: the fit of all rows and seeds, None where nothing is left to estimate the noise from. own_images: each seed
    has a training subset of its own.
    """

    experiment: Experiment
    data: str
    protocol: str
    split: str
    faithful: bool
    rows: tuple[Row, ...]
    block: Block | None = None
    own_images: bool = False

    def row(self, label: str) -> Row:
        """A row by its label."""
        return next(row for row in self.rows if row.cell.label == label)


def verdict(gain: Interval | None, claimed: float, faithful: bool = True) -> str:
    """Apply RULE to an interval of a gain and the paper's gain, both in points; faithful: by its protocol."""
    if gain is None:
        return UNKNOWN
    if gain.seeds < SEEDS:
        return "undecided"
    good, bad = ("reproduced", "not reproduced") if faithful else ("better", "worse")
    if gain.high < (claimed / 2 if faithful else 0):
        return bad
    return good if gain.low > 0 else "undecided"


def tables(experiment: Experiment, records: Sequence[Record], split: str | None = None) -> list[Table]:
    """An experiment's tables, one for each protocol under which any of its cells has a record.

    records: from anywhere; what belongs to no cell is left out. split: the headline's if none is given, the last one.
    """
    if split and (with_it := [record for record in records if split in record["labels"]]):
        records = with_it  # another data set has other splits
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[protocol_key(record, experiment)].append(record)
    found = []
    for group in (design for whole in groups.values() for design in designs(whole)):
        for epochs in sorted(schedules(experiment, group)):
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
    for number, one in enumerate(kept):
        if alike[one.protocol] > 1:
            seen = next(row.records[0]["data"]["fingerprint"] for row in one.rows if row.records)
            kept[number] = replace(one, protocol=f"{one.protocol}, data {seen}")
    return kept


def schedules(experiment: Experiment, group: Sequence[Record]) -> set[int]:
    """How many epochs a whole schedule may have to which these records belong."""
    whole = [cell for cell in experiment.cells if cell.epochs == 1.0]
    if whole:
        return {r["config"]["epochs"] for r in group if any(method_matches(c, r) for c in whole)}
    found = set()
    for cell, record in product(experiment.cells, group):
        if method_matches(cell, record):
            long = replace(read_config(record), epochs=10**6)
            share = cell_epochs(cell, long, record["data"]["size"]) / long.epochs
            epochs = max(1, round(record["config"]["epochs"] / share))
            found |= {epochs} if matches(cell, record, epochs, experiment) else set()
    return found


def blank(experiment: Experiment, data: str) -> Table:
    """The table at the paper's protocol with no record in it: what the paper reports, and "not measured"."""
    rows = [
        Row(c, (), "", claimed=claimed_gain(c, experiment, data), verdict=UNKNOWN if c.against else "")
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


def pair_key(record: Record) -> Key:
    """What two runs must have in common to be a pair: the seed and the training images."""
    data = record["data"]
    return record["config"]["seed"], data.get("subset", 0) or 0, str(data["fingerprint"])


def protocol_key(record: Record, experiment: Experiment) -> str:
    """What records must have in common to stand in one table; which images were drawn is looked at by `designs`."""
    free = {"seed", "evaluate_every", "epochs"} | ({"net"} if experiment.compares_networks else set())
    config = {key: value for key, value in {**YOUNGER, **record["config"]}.items() if key not in free}
    data = {key: value for key, value in record["data"].items() if key not in ("subset", "fingerprint")}
    return json.dumps([config, data], sort_keys=True)


def designs(records: Sequence[Record]) -> list[list[Record]]:
    """Split runs of one protocol by their training images: the two designs are never mixed in one table.

    Runs of several seeds on the same images are a table of their own. Runs in which each seed has a subset of its own
    are one table together; a subset that has its seed's number stays there when other seeds are run on it too
    (that of seed 0, which is everybody's by default, where seed 1 has one of its own).
    """
    by_images: dict[tuple[int, str], list[Record]] = defaultdict(list)
    for record in records:
        by_images[pair_key(record)[1:]].append(record)
    own: list[list[Record]] = []
    found: list[list[Record]] = []
    for images, group in by_images.items():
        alone = len({pair_key(record)[0] for record in group}) == 1
        others = any(subset != images[0] for subset, _ in by_images)
        (own if alone and others else found).append(group)
        if not alone and others and (images[0] > 0 or any(subset == 1 for subset, _ in by_images)):
            own += [mine] if (mine := [r for r in group if pair_key(r)[0] == images[0]]) else []
    subsets = Counter(pair_key(group[0])[1] for group in own)
    joined = [record for group in own if subsets[pair_key(group[0])[1]] == 1 for record in group]
    found += [group for group in own if subsets[pair_key(group[0])[1]] > 1]  # the same subset of other pixels
    return [group for group in (joined, *found) if group]


def method_matches(cell: Cell, record: Record) -> bool:
    """Whether a record is of the cell's method with the cell's settings; a setting that it lacks is the default."""
    measured = dict(record["method"])
    if cell.method == "kd":  # the teacher's network counts, and not which run of it
        measured.pop("fingerprint", None)
        usual = {"temperature": 3.0, "lam": 0.25, **cell.settings}
        return measured == {"name": "kd", "network": cell.teacher, **usual}
    if measured["name"] != cell.method:
        return False
    asked = registry.make(cell.method, **cell_settings(cell, record["config"]["epochs"]))
    return plain(registry.make(cell.method)) | measured == named(asked)


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
        and data["name"] in PUBLISHED
        and not data.get("votes")
        and data["counts"]["train"] == PUBLISHED[data["name"]].official["train"]
        and replace(config, epochs=epochs) == paper_config
    )
    by_label = {cell.label: by_key(cell, row) for cell, row in zip(experiment.cells, rows, strict=True)}
    made = [fill(cell, experiment, by_label, data["name"], split) for cell in experiment.cells]
    block = fit_block(errors_of(by_label, split))
    made = judge(made, block, experiment, data["name"], faithful)
    everyone = [record for row in rows for record in row]
    # One seed with a subset that is not everybody's is the beginning of such a table.
    own = len({pair_key(r)[1:] for r in everyone}) > 1 or (
        len({pair_key(r)[0] for r in everyone}) == 1 and pair_key(example)[1] > 0
    )
    protocol = describe(example, epochs, experiment, own)
    return Table(experiment, data["name"], protocol, split, faithful, tuple(made), block, own)


def errors_of(by_label: dict[str, dict[Key, Record]], split: str) -> dict[str, dict[Key, float]]:
    """Errors of the last epoch by row and key, as `fit_block` takes them."""
    return {
        label: {key: float(record["result"][split]["error"]) for key, record in found.items()}
        for label, found in by_label.items()
    }


def by_key(cell: Cell, records: Sequence[Record]) -> dict[Key, Record]:
    """One record a seed and training set. Raises RunError for two different runs of one cell and seed, of which none
    can be preferred.
    """
    found: dict[Key, Record] = {}
    for record in records:
        key = pair_key(record)
        if key in found and found[key]["predictions"] != record["predictions"]:
            raise RunError(
                f"there are two different runs of {cell.label} with seed {key[0]}; which one counts? Give folders "
                f"that hold one of them"
            )
        found[key] = record
    return found


def fill(
    cell: Cell, experiment: Experiment, by_label: dict[str, dict[Key, Record]], data: str, split: str
) -> Row:
    """One row by itself: errors of the last epoch over seeds, and the paired difference to its `against`."""
    mine = by_label[cell.label]
    records = tuple(mine[key] for key in sorted(mine))
    results = [record["result"][split] for record in records]
    error = stats.interval([r["error"] for r in results]) if results else None
    best = math.fsum(r["best_error"] for r in results) / len(results) if results else None
    row = Row(cell, records, split, error, best, verdict="")
    if cell.against is None:
        return row
    other = by_label.get(cell.against, {})
    row = replace(row, claimed=claimed_gain(cell, experiment, data))
    keys = sorted(mine.keys() & other.keys())
    if not keys:
        return row
    theirs, ours = [other[key] for key in keys], [mine[key] for key in keys]
    errors = ([r["result"][split]["error"] for r in runs] for runs in (theirs, ours))
    gain = stats.interval([a - b for a, b in zip(*errors, strict=True)])
    return replace(row, gain=gain, p=stats.image_test(theirs, ours, split).p)


def judge(
    rows: Sequence[Row], block: Block | None, experiment: Experiment, data: str, faithful: bool
) -> list[Row]:
    """The rows with what the whole block says of them, and their verdicts."""
    asked = [row for row in rows if row.gain and row.gain.seeds >= SEEDS]
    pairs = [(str(row.cell.against), row.cell.label) for row in asked]
    said = dict(zip(pairs, compare(block, pairs), strict=True)) if block else {}
    done = []
    for row in rows:
        found, told = said.get((str(row.cell.against), row.cell.label)), ""
        if row.cell.against:
            beside = faithful and row.claimed is not None
            told = verdict(found.wide if found else row.gain, row.claimed or 0.0, beside)
        done.append(replace(row, block=found, verdict=told))
    return done


def ask(table: Table, pairs: Sequence[Pair]) -> list[Comparison | None]:
    """Differences of rows that the table does not ask for, one family by Holm: first row's error minus the second's.

    pairs: labels of two rows each; None is returned for one with fewer than 3 seeds in common.
    """
    block = table.block
    rows = block.rows if block else ()
    enough = [p for p in pairs if block and set(p) <= set(rows) and block.seeds(p) >= SEEDS]
    said = dict(zip(enough, compare(block, enough, dunnett=False), strict=True)) if block else {}
    return [said.get(pair) for pair in pairs]


def claimed_gain(cell: Cell, experiment: Experiment, data: str) -> float | None:
    """The paper's difference between the row that a cell is compared with and the cell, in points, if it has both."""
    for other in experiment.cells:
        if other.label == cell.against and data in cell.paper and data in other.paper:
            return round(other.paper[data] - cell.paper[data], 2)
    return None


def training_cost(record: Record, cell: Cell) -> float:
    """Multiply-adds of a run's training: images × epochs × those of a step for one image; evaluation is left out."""
    config, data = record["config"], record["data"]
    net, size = config["net"], data["size"]
    classes = 1 + max(max(labels) for labels in record["labels"].values())
    # Three forward passes make a step of the baseline.
    step: float = 3 * costs.forward(net, size, classes).total
    if cell.method == "kd":  # the teacher runs forward once a step
        step += costs.forward(cell.teacher or net, size, classes).total
    else:
        settings = {key: value for key, value in record["method"].items() if key != "name"}
        step *= costs.step_cost(registry.make(cell.method, **settings), net, size, classes)
    return step * data["counts"]["train"] * config["epochs"]


def describe(record: Record, epochs: int, experiment: Experiment, own_images: bool = False) -> str:
    """The protocol in one line; own_images: each seed has a training subset of its own."""
    config, data = record["config"], record["data"]
    net = "" if experiment.compares_networks else f"{config['net']}, "
    steps = epochs * -(-data["counts"]["train"] // config["batch_size"])
    odd = {k: data[k] for k, v in (("difficulty", 1.0), ("label_noise", 0.0)) if data.get(k, v) != v}
    odd |= {"trained on": "FER+'s votes"} if data.get("votes") else {}
    usual = plain(Config())
    free = ("net", "epochs", "seed", "evaluate_every")
    odd |= {k: v for k, v in config.items() if k not in free and v != usual.get(k)}
    more = "".join(f", {key.replace('_', ' ')} {value}" for key, value in odd.items())
    count = f"{data['counts']['train']:,}"
    images = f"each seed its own {count} training images" if own_images else f"{count} training images"
    return f"{data['name']}{more}, {images}, {data['size']} pixels, {net}{epochs} epochs ({steps:,} steps)"
