"""What the committed records, the code and the paper itself say of each claim; its status is computed here.

The rules are told in ``book/claims.md``. Only runs at the paper's protocol give a status; others are quoted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from sto_lite import registry, stats
from sto_lite.blocks import Pair, compare, fit_block
from sto_lite.experiments.formats import signed
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.experiments.tables import SEEDS, Row, Table, pair_key, tables, verdict
from sto_lite.records import Record, read_record
from sto_lite.resnet import count_parameters
from sto_lite.stats import Interval
from tools.claims import NAMES, Claim, cell_of, experiment_of
from tools.entries import ROOT, EntryError

CLASSES = {"fer2013": 7, "rafdb": 7, "cifar100": 100}
# What is said of a difference under a reduced protocol, which reproduces nothing.
THERE = {
    "error": ("a lower error there", "a higher error there"),
    "gap": ("a smaller gap there", "a larger gap there"),
    "margin": ("no worse there", "worse there"),
}


# Collections whose question was asked anew: tables take the fresh seeds alone, the register keeps both answers.
ASKED_ANEW = {"fer2013-4096"}


@dataclass(frozen=True)
class Finding:
    """A claim with its status. ours: what was found at the paper's protocol. reduced: under another, in one line."""

    claim: Claim
    status: str
    ours: str = ""
    reduced: str = ""


class Results:
    """Records as tables, each experiment's made once; of all seeds, or of some."""

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self.tables = cache(
            lambda name, seeds=None: tables(
                EXPERIMENTS[name], [r for r in records if not seeds or r["config"]["seed"] in seeds]
            )
        )

    def at_paper(self, experiment: str, data: str) -> list[Table]:
        """An experiment's tables at the paper's protocol."""
        return [t for t in self.tables(experiment) if t.faithful and t.data == data]


def read_all(runs: Path = ROOT / "data" / "runs") -> list[Record]:
    """Every committed record with the name of its collection, in order of path."""
    found = [{**read_record(path), "collection": path.parent.name} for path in sorted(runs.glob("*/*.json"))]
    return [record for record in found if "kind" not in record]


def read_current() -> list[Record]:
    """The committed records without those of questions that were asked anew."""
    return [record for record in read_all() if record["collection"] not in ASKED_ANEW]


def find(claims: Iterable[Claim], records: Sequence[Record]) -> list[Finding]:
    """Every claim's finding."""
    results = Results(records)
    return [finding(claim, results) for claim in claims]


def finding(claim: Claim, results: Results) -> Finding:
    """One claim's finding, by its kind."""
    if claim.kind in ("derived", "open"):
        return Finding(claim, claim.status or "open")
    if claim.parameters is not None:
        cell, data = cell_of(claim), experiment_of(claim).data[0]
        count = count_trained(cell.method, cell.net, CLASSES[data])
        return Finding(claim, "holds" if printed(count, claim.parameters) else "does not hold", f"{count:,}")
    if claim.error is not None:
        return number_finding(claim, results)
    return gain_finding(claim, results) if claim.gain is not None else comparison_finding(claim, results)


@cache
def count_trained(method: str, net: str, classes: int) -> int:
    """Trainable parameters of what a method trains."""
    return count_parameters(registry.make(method).build(net, classes, torch.Generator()))


# ------------------------------------------------------------------------------------------- numbers of tables


def printed(count: int, text: str) -> bool:
    """Whether a count rounds to what is printed, such as 1.4M."""
    decimals = len(text.removesuffix("M").partition(".")[2])
    return f"{count / 1e6:.{decimals}f}M" == text


def error_status(errors: Sequence[float], paper: float) -> str:
    """Whether the paper's error could be one more run of ours."""
    if not errors:
        return "not measured"
    if len(errors) < SEEDS:
        return "undecided"
    found = stats.prediction_interval(errors)
    return "reproduced" if found.low <= paper <= found.high else "not reproduced"


def row_at_paper(claim: Claim, results: Results, what: str) -> Row | None:
    """A claim's row at the paper's protocol that has an error, or a gain; of several that with most records."""
    rows = [table.row(claim.cell) for table in results.at_paper(claim.experiment, *claim.data)]
    found = [row for row in rows if getattr(row, what)]
    return max(found, key=lambda row: len(row.records), default=None)


def number_finding(claim: Claim, results: Results) -> Finding:
    """An error of a table: ours from the protocol with most seeds, and the gain under reduced ones."""
    assert claim.error is not None
    # Table 1 has claims of its own for its gains.
    compared = claim.experiment != "table1" and cell_of(claim).against
    reduced = reduced_line(claim, pairs_of(claim), results) if compared else ""
    row = row_at_paper(claim, results, "error")
    errors = [record["result"][split_of(record)]["error"] for record in row.records] if row else []
    ours = spread(row.error, "{:.2f}".format) if row and row.error else ""
    return Finding(claim, error_status(errors, claim.error), ours, reduced)


# ------------------------------------------------------------------------------------------------- comparisons


def split_of(record: Record) -> str:
    """The headline's test split."""
    return str(list(record["labels"])[-1])


def value(record: Record, quantity: str) -> float:
    """Error of the last epoch on the headline's split (%), or its distance from the training error (points)."""
    error = float(record["result"][split_of(record)]["error"])
    return error - float(record["history"]["train_error"][-1]) if quantity == "gap" else error


def differences(table: Table, pairs: Sequence[Pair], quantity: str = "error") -> dict[Pair, Interval]:
    """Worse minus better for each pair of cells, from one block of the whole table and adjusted for all pairs.

    A pair with fewer than three seeds in common has its own interval; one without any is left out.
    """
    values = {row.cell.label: {pair_key(r): value(r, quantity) for r in row.records} for row in table.rows}
    common = {pair: sorted(values[pair[0]].keys() & values[pair[1]].keys()) for pair in dict.fromkeys(pairs)}
    block = fit_block(values)
    family = [pair for pair, keys in common.items() if block and len(keys) >= SEEDS]
    said = compare(block, [(worse, better) for better, worse in family]) if block else []
    wide = {pair: one.wide for pair, one in zip(family, said, strict=True)}
    return {
        pair: wide.get(pair) or stats.interval([values[pair[1]][key] - values[pair[0]][key] for key in keys])
        for pair, keys in common.items()
        if keys
    }


def judge(found: Interval | None, claimed: float, margin: float = 0.0, faithful: bool = True) -> str:
    """tables.verdict; with a margin, whether the difference is known to lie above minus the margin."""
    if margin and found is not None and found.seeds >= SEEDS:
        if found.high < -margin:
            return "not reproduced"
        return "reproduced" if found.low > -margin else "undecided"
    return verdict(found, claimed, faithful)


def claimed(claim: Claim, better: str, worse: str, data: str) -> float:
    """The paper's difference of two cells, in points; 0 where it gives none."""
    if claim.gain is not None:
        return claim.gain
    one, two = (cell_of(claim, label).paper.get(data) for label in (better, worse))
    return round(two - one, 2) if one is not None and two is not None and claim.quantity == "error" else 0.0


def together(statuses: Sequence[str]) -> str:
    """The status of a claim about several differences: all have to be reproduced; one that is not refutes it."""
    if "not reproduced" in statuses:
        return "not reproduced"
    return statuses[0] if len(set(statuses)) == 1 else "undecided"


def comparison_finding(claim: Claim, results: Results) -> Finding:
    """Every difference that a claim is about, at the paper's protocol; for each the records with most seeds."""
    pairs = pairs_of(claim)
    statuses, ours = [], []
    for data in claim.data:
        made = [differences(t, pairs, claim.quantity) for t in results.at_paper(claim.experiment, data)]
        for pair in pairs:
            found = max((d[pair] for d in made if pair in d), key=lambda d: d.seeds, default=None)
            statuses.append(judge(found, claimed(claim, *pair, data), claim.margin))
            if found:
                ours.append(f"{against(claim, *pair)}, {NAMES[data]}: {spread(found, signed)}")
    return Finding(claim, together(statuses), "; ".join(ours), reduced_line(claim, pairs, results))


def gain_finding(claim: Claim, results: Results) -> Finding:
    """A gain of a table: the verdict is that of the table's row, so that both pages say the same."""
    row = row_at_paper(claim, results, "gain")
    reduced = reduced_line(claim, pairs_of(claim), results)
    if row is None:
        return Finding(claim, "not measured", "", reduced)
    return Finding(claim, row.verdict, gain_of(row), reduced)


def gain_of(row: Row) -> str:
    """A row's gain in words, by the block where there is one."""
    found = row.block.wide if row.block else row.gain
    return spread(found, signed) if found else ""


def pairs_of(claim: Claim) -> list[Pair]:
    """The claim's pairs of cells, better and worse; a gain's are its row and the row that it is compared with."""
    if claim.kind == "comparison":
        return list(claim.pairs)
    against = cell_of(claim).against
    if against is None:
        raise EntryError(f"{claim.id}: {claim.cell} is compared with no cell, so it has no gain")
    return [(claim.cell, against)]


def reduced_line(claim: Claim, pairs: Sequence[Pair], results: Results) -> str:
    """What reduced protocols say of the differences: on the claim's own data, and on data of no claim of its table.

    Of each data set and number of training images the protocol with most seeds is quoted. It never makes a status.
    """
    best: dict[tuple[str, int], tuple[int, Table, dict[Pair, Interval]]] = {}
    for table in results.tables(claim.experiment):
        if table.faithful or (table.data not in claim.data and table.data in experiment_of(claim).data):
            continue
        table = whole(table, pairs, results)
        made = differences(table, pairs, claim.quantity) | gains(table, pairs, claim.quantity)
        seeds = sum(found.seeds for found in made.values())
        images = next(r["data"]["counts"]["train"] for row in table.rows for r in row.records)
        if made and seeds > best.get((table.data, images), (0,))[0]:
            best[table.data, images] = (seeds, table, made)
    good, bad = THERE["margin" if claim.margin else claim.quantity]
    words = {"better": good, "reproduced": good, "worse": bad, "not reproduced": bad}
    lines = []
    ordered = sorted(best.items(), key=lambda item: (item[0][0] not in claim.data, -item[1][0]))
    for (data, _), (_, table, made) in ordered:
        told = []
        for pair, found in made.items():
            status = judge(found, 0.0, claim.margin, faithful=False)
            told.append(f"{against(claim, *pair)}: {spread(found, signed)}, {words.get(status, status)}")
        labels = {label for pair in made for label in pair}
        other = "" if data in claim.data else ", which is not the claim's data set"
        lines.append(f"{'; '.join(told)}. On {table.protocol}{other}{collections(table, labels)}")
    return ". ".join(lines)


def whole(table: Table, pairs: Sequence[Pair], results: Results) -> Table:
    """Table 3's table under the same protocol, if it has these rows and more: its block is the one that decides."""
    labels = {label for pair in pairs for label in pair}
    for other in results.tables("table3"):
        filled = {row.cell.label for row in other.rows if row.records}
        if other.protocol == table.protocol and labels < filled:
            return other
    return table


def gains(table: Table, pairs: Sequence[Pair], quantity: str) -> dict[Pair, Interval]:
    """Those pairs that are a row and what it is compared with in the table, as the table says them itself."""
    rows = {(row.cell.label, row.cell.against): row.block for row in table.rows if row.block}
    return {pair: rows[pair].wide for pair in pairs if quantity == "error" and pair in rows}


def collections(table: Table, labels: Iterable[str]) -> str:
    """Where the records of these rows are committed."""
    kept = [record for row in table.rows if row.cell.label in labels for record in row.records]
    names = sorted({record["collection"] for record in kept if "collection" in record})
    return f", from {' and '.join(f'`data/runs/{name}`' for name in names)}" if names else ""


def against(claim: Claim, better: str, worse: str) -> str:
    """What a difference is of, in words; it counts above 0 where the first is better."""
    return f"{better} against {worse}{', gap' if claim.quantity == 'gap' else ''}"


def spread(found: Interval, form: Callable[[float], str]) -> str:
    """A mean with its interval and seeds, in words."""
    if found.seeds == 1:
        return f"{form(found.mean)}, one seed"
    return f"{form(found.mean)} (95 %: {form(found.low)} to {form(found.high)}), {found.seeds} seeds"
