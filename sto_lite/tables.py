"""The paper's tables beside ours, from records: means, intervals, paired tests, verdicts (chapters 8 and 9)."""

import csv
import html
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sto_lite import registry, stats
from sto_lite.experiments import Cell, Experiment, cell_epochs
from sto_lite.records import Record
from sto_lite.stats import Interval
from sto_lite.train import Config, plain

RULE = (
    "Verdict, for at least 3 paired seeds: reproduced if the 95 % interval of our difference lies above 0; not "
    "reproduced if it lies below half of the paper's difference (below 0 under a reduced protocol); else undecided."
)
HEAD = (
    "run",
    "paper",
    "ours",
    "± 95 %",
    "seeds",
    "best (flatters)",
    "gain",
    "95 % interval",
    "p (images)",
    "paper's gain",
    "verdict",
)
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
    """An experiment's rows under one protocol. faithful: it is the paper's protocol."""

    experiment: Experiment
    protocol: str
    split: str
    faithful: bool
    rows: tuple[Row, ...]


def verdict(gain: Interval | None, claimed: float, faithful: bool = True) -> str:
    """Apply RULE to our interval of a gain and the paper's gain, both in points."""
    if gain is None:
        return "not measured"
    if gain.seeds < 3:
        return "undecided"
    if gain.high < (claimed / 2 if faithful else 0):
        return "not reproduced"
    return "reproduced" if gain.low > 0 else "undecided"


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
    return sorted(found, key=lambda t: sum(len(row.records) for row in t.rows), reverse=True)


def protocol_key(record: Record, experiment: Experiment) -> str:
    """What records must have in common to stand in one table."""
    free = {"seed", "evaluate_every", "epochs"} | ({"net"} if experiment.compares_networks else set())
    config = {key: value for key, value in record["config"].items() if key not in free}
    return json.dumps([config, record["data"]], sort_keys=True)


def method_matches(cell: Cell, record: Record) -> bool:
    """Whether a record is of the cell's method with the cell's settings."""
    measured = dict(record["method"])
    if cell.method == "kd":
        return measured["name"] == "kd"
    expected = {"name": cell.method, **plain(registry.make(cell.method, **cell.settings))}
    return measured == expected


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
    split = split or list(example["labels"])[-1]
    config, data = read_config(example), example["data"]
    paper_config = replace(Config(), net=config.net, seed=config.seed, evaluate_every=config.evaluate_every)
    faithful = (
        data["size"] == 32
        and data["counts"]["train"] == PAPER_COUNTS.get(data["name"])
        and replace(config, epochs=epochs) == paper_config
        and all(
            r["config"]["net"] == c.net for c, row in zip(experiment.cells, rows, strict=True) for r in row
        )
    )
    by_label = {
        cell.label: {r["config"]["seed"]: r for r in row}
        for cell, row in zip(experiment.cells, rows, strict=True)
    }
    made = [fill(cell, experiment, by_label, data["name"], split, faithful) for cell in experiment.cells]
    return Table(experiment, describe(example, epochs, experiment), split, faithful, tuple(made))


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
    more = "".join(f", {key.replace('_', ' ')} {value:g}" for key, value in odd.items())
    return (
        f"{data['name']}{more}, {data['counts']['train']:,} training images, {data['size']} pixels, {net}"
        f"{epochs} epochs ({steps:,} steps)"
    )


# ---------------------------------------------------------------------------------------------------- formats


def cells_of(table: Table) -> list[list[str]]:
    """The table as text, row by row in HEAD's order; "not measured" where there is no run."""
    lines = []
    for row in table.rows:
        paper = row.cell.paper.get(table_data(table))
        lines.append(
            [
                row.cell.label,
                number(paper),
                number(row.error.mean) if row.error else "not measured",
                number(row.error.half) if row.error and row.error.seeds > 1 else "–",
                str(row.error.seeds) if row.error else "0",
                number(row.best),
                signed(row.gain.mean) if row.gain else "–",
                f"{signed(row.gain.low)} to {signed(row.gain.high)}"
                if row.gain and row.gain.seeds > 1
                else "–",
                "–" if row.p is None else ("< 0.001" if row.p < 0.001 else f"{row.p:.3f}"),
                "–" if row.claimed is None else signed(row.claimed),
                row.verdict or "–",
            ]
        )
    return lines


def table_data(table: Table) -> str:
    """Name of the table's data set."""
    return next(str(row.records[0]["data"]["name"]) for row in table.rows if row.records)


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """Two decimals with a sign."""
    return f"{value:+.2f}".replace("-", "−")


def heading(table: Table) -> str:
    """Title and protocol."""
    kind = "the paper's protocol" if table.faithful else "a reduced protocol, not the paper's"
    return (
        f"{table.experiment.title}. Top-1 error (%) on {table.split}, last epoch; {kind}: {table.protocol}."
    )


def as_text(table: Table) -> str:
    """For a terminal."""
    lines = [list(HEAD), *cells_of(table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    body = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([heading(table), "", *body, "", RULE])


def as_markdown(table: Table) -> str:
    """A pipe table with its heading."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells_of(table)]
    return "\n".join([f"**{heading(table)}**", "", *lines, "", RULE])


def as_html(table: Table, columns: Sequence[str] = HEAD) -> str:
    """A table for the book, with the chosen columns of HEAD."""
    keep = [HEAD.index(name) for name in columns]

    def line(tag: str, texts: Sequence[str]) -> str:
        parts = []
        for place, text in zip(keep, (texts[i] for i in keep), strict=True):
            side = "left" if place in (0, len(HEAD) - 1) else "right"
            parts.append(
                f'<{tag} style="text-align:{side};padding:.25em .8em .25em 0">{html.escape(text)}</{tag}>'
            )
        return f"<tr>{''.join(parts)}</tr>"

    rows = "".join(line("td", texts) for texts in cells_of(table))
    return (
        f'<figure class="sto" style="margin:1em 0"><table>{line("th", HEAD)}{rows}</table>'
        f"<figcaption>{html.escape(heading(table))}</figcaption></figure>"
    )


def as_csv(table: Table) -> str:
    """Numbers in full, one line a row; empty where there is nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["experiment", "protocol", "split", "run", "paper", "error", "error_low", "error_high", "seeds"]
    names += ["best_error", "gain", "gain_low", "gain_high", "p_images", "paper_gain", "verdict"]
    writer.writerow(names)
    for row in table.rows:
        e, g = row.error, row.gain
        values: list[Any] = [row.cell.paper.get(table_data(table))]
        values += [e.mean, e.low, e.high, e.seeds, row.best] if e else [None, None, None, 0, None]
        values += [g.mean, g.low, g.high] if g else [None, None, None]
        values += [row.p, row.claimed, row.verdict]
        plain_values = ["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in values]
        writer.writerow([table.experiment.name, table.protocol, table.split, row.cell.label, *plain_values])
    return out.getvalue()


FORMATS = {"text": as_text, "markdown": as_markdown, "html": as_html, "csv": as_csv}
