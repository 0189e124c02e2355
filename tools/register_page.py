"""The page of the register: each question as it was written down, when, what was changed, and the answer."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx

from sto_lite.blocks import Pair
from sto_lite.experiments.formats import spread
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.experiments.tables import Row, Table, ask, tables, verdict
from sto_lite.stats import Interval
from tools.address import Repository, repository
from tools.claims_page import PARTS, READS
from tools.directives import add
from tools.entries import ROOT
from tools.findings import Results, read_all, split_of
from tools.register import Entry, origins, read_register

RUNS = ROOT / "data" / "runs"
# Finished runs of questions that are read only when all their seeds are there: nothing but their number is shown.
UNREAD = ROOT / "data" / "unread"
# The experiments whose tables hold the records that answer questions.
ANSWERS = {
    "table1": "paper-1 paper-3 paper-6",
    "table2": "peers paper-4",
    "table3": "fresh-subsets sto-against-parts ladder-4096 ladder-4096-again ladder-256 ladder-16384 "
    "cifar100-seeds first-seeds paper-2 paper-5",
    "controls": "label-smoothing",
    "compute": "equal-compute compute-4096",
    "detach": "detach",
    "running-stats": "running-statistics",
    "dropped-blocks": "dropped-blocks",
    "peers-otherwise": "peers-otherwise",
    "kin": "kin-gain kin-teacher kin-directions kin-gates",
}
EXPERIMENT = {question: name for name, questions in ANSWERS.items() for question in questions.split()}
PEERS = ("DML", "ONE", "OKDDip", "KD, two stages")
KIN_CHEAP = ("label smoothing", "EMA", "baseline, STO's compute", "stochastic depth")
# What is asked of the whole table besides its own gains; one family each.
PAIRS: dict[str, list[Pair]] = {
    "sto-against-parts": [(row, "STO") for row in PARTS],
    "peers": [(row, "STO") for row in PEERS],
    "ladder-4096-again": [(row, "STO") for row in PARTS],
    "paper-2": [(row, "STO") for row in PARTS],
    "paper-4": [(row, "STO") for row in PEERS],
    "label-smoothing": [("label smoothing", "STO")],
    "kin-gain": [(row, "STO") for row in KIN_CHEAP],
    "kin-teacher": [("STO, teacher's gates one", "STO"), ("R-Drop, one direction", "STO")],
    "kin-directions": [("STO, both directions", "STO"), ("R-Drop", "R-Drop, one direction")],
    "kin-gates": [("STO", "STO, gates by image"), ("cosub", "cosub, gates by image")],
}
BESIDE = {
    "label-smoothing": {"label smoothing"},
    "ladder-4096-again": {*PARTS, "STO"},
    "peers": {*PEERS, "STO"},
    "paper-2": {*PARTS, "STO"},
    "paper-4": {*PEERS, "STO"},
    "kin-gain": {cell.label for cell in EXPERIMENTS["kin"].cells},
}  # rows whose own gain is told too
LADDER = {"baseline", "stochastic depth", "without backward of the full network", "STO"}
LONGER = {f"{row}, STO's compute" for row in ("baseline", "stochastic depth", "no backward")}
# Rows without which an answer is not whole, where no pair names them.
AWAITED = {
    "fresh-subsets": {*LADDER, *PARTS},
    **dict.fromkeys(("ladder-4096", "ladder-4096-again", "ladder-256", "ladder-16384"), LADDER),
    **dict.fromkeys(("equal-compute", "compute-4096"), LONGER),
}
POOLED = {"paper-6": frozenset(range(5))}  # registered as an answer over earlier seeds too
# Registered as paired differences, each of two rows alone.
PAIRED = {"dropped-blocks", "peers-otherwise", "paper-1", "paper-3", "paper-6"}
# Questions whose records a chapter reads itself.
CHAPTER = {
    "depth-dial": ("10-pocket.ipynb#a-dial-for-depth", "chapter 10"),
    "bias-lab": ("11-people.ipynb#a-bias-laboratory", "chapter 11"),
    "kin-fidelity": ("09b-kin.ipynb", "chapter 9b"),
    "votes": ("11-people.ipynb#votes-in-place-of-labels", "chapter 11"),
}
FIELDS = ("runs", "subset", "analysis", "rule", "expectation")


@cache
def results() -> Results:
    """All committed records, read once."""
    return Results(read_all())


def answering(entry: Entry, found: Results) -> list[Table]:
    """The tables that hold a record of the entry's collection, of its seeds alone: later ones move no answer."""
    if entry.id not in EXPERIMENT:
        return []
    return [
        table
        for table in found.tables(
            EXPERIMENT[entry.id], frozenset(entry.seeds) | POOLED.get(entry.id, frozenset())
        )
        if any(r.get("collection") == entry.records for row in table.rows for r in row.records)
        and (entry.id in PAIRS or any(row.gain for row in table.rows))
    ]


def headline(table: Table) -> str:
    """The test split by which a table's questions are decided."""
    return split_of(next(record for row in table.rows for record in row.records))


def both_splits(table: Table) -> list[Table]:
    """The table, and the same on FER-2013's other test images, which nobody used for a choice."""
    if table.data != "fer2013":
        return [table]
    mine = [record for row in table.rows for record in row.records]
    return [table, *tables(table.experiment, mine, "public")[:1]]


def answers_for(entry: Entry, row: Row) -> bool:
    """Whether a row has a record of the entry's collection."""
    return any(record.get("collection") == entry.records for record in row.records)


def missing(entry: Entry, table: Table) -> Iterator[str]:
    """The entry's rows of a table whose registered seeds are not all there, also those that nobody began."""
    awaited = AWAITED.get(entry.id, set()).union(*PAIRS.get(entry.id, []), BESIDE.get(entry.id, ()))
    for row in table.rows:
        left = set(entry.seeds) - {record["config"]["seed"] for record in row.records}
        if left and (row.cell.label in awaited or answers_for(entry, row)):
            yield f"{row.cell.label} {', '.join(map(str, sorted(left)))}"


def difference(of: str, alone: Interval | None, wide: Interval | None, told: str) -> str:
    """One line of an answer; told: the verdict, if these test images decide."""
    found = wide or alone
    assert found is not None
    how = "block, all comparisons together" if wide else "this pair of rows alone"
    seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    return f"- {of}: **{spread(found)}** points ({how}; {seeds}){f': {told}' if told else ''}."


def answer(entry: Entry, found: Results) -> Iterator[str]:
    """What the records that answer an entry say so far, Markdown; nothing where there are none."""
    for table in (one for first in answering(entry, found) for one in both_splits(first)):
        count = sum(r.get("collection") == entry.records for row in table.rows for r in row.records)
        beside = table.split != headline(table)
        what = "**Beside it**, which decides nothing" if beside else f"**Answer**, {count} runs"
        yield f"{what}, test images *{table.split}*: {table.protocol}."
        if left := [*missing(entry, table)]:
            yield ""
            yield f"*An early look, which decides nothing.* Seeds that are still to come: {'; '.join(left)}."
        yield ""
        if entry.id in PAIRS:
            for (one, two), said in zip(PAIRS[entry.id], ask(table, PAIRS[entry.id]), strict=True):
                if said:
                    told = "" if beside else verdict(said.wide, 0.0, faithful=False)
                    yield difference(f"{two} against {one}", said.alone, said.wide, told)
                else:
                    yield f"- {two} against {one}: fewer than three pairs so far."
        for row in table.rows:
            asked = (
                row.cell.label in BESIDE.get(entry.id, ()) if entry.id in PAIRS else answers_for(entry, row)
            )
            if row.gain and asked:
                of = f"{row.cell.label} against {row.cell.against}"
                told, wide = row.verdict or "no verdict", row.block.wide if row.block else None
                if entry.id in PAIRED:
                    told, wide = verdict(row.gain, row.claimed or 0.0, table.faithful), None
                yield difference(of, row.gain, wide, "" if beside else told)
        yield ""


def answers(names: str) -> Iterator[str]:
    """What the records say to registered questions, by their ids; for a choice that a question is about."""
    for entry in (entry for name in names.split() for entry in read_register() if entry.id == name):
        yield from answer(entry, results())


def count(entry: Entry, home: Path = RUNS) -> int:
    """How many records an entry's collection has; home: RUNS or UNREAD."""
    return sum(1 for _ in (home / entry.records).glob("*.json"))


def when(entry: Entry) -> str:
    """Date and commit of the registration, with a link to it where the book has an address."""
    origin = origins().get(entry.id)
    if origin is None:
        return f"{entry.registered} (by the file: this copy has no history to hold it against)"
    commit = (repository() or Repository("")).linked(f"`{origin.commit}`", commit=origin.commit)
    return f"{entry.registered}, committed {origin.date} in {commit}"


def option(text: str) -> str:
    """A text whose command-line options are set as code, so that their hyphens stay."""
    return re.sub(r"(?<![`\w-])--[a-z][a-z-]*", r"`\g<0>`", text)


def write_entry(entry: Entry, found: Results) -> Iterator[str]:
    """One entry as an item of a definition list, Markdown."""
    yield f"[{entry.question}]{{#{entry.id}}} [{entry.id}]{{.claim-where}}"
    verb = "Begun" if entry.afterwards else "Registered"
    told = " Entered afterwards, as a history; it decides nothing." if entry.afterwards else ""
    yield f": {verb} {when(entry)}.{told}"
    parts = [f"*{name.capitalize()}:* {option(value)}" for name in FIELDS if (value := getattr(entry, name))]
    if entry.seeds:
        parts.insert(1, f"*Seeds:* {', '.join(map(str, entry.seeds))}")
    parts += [f"**Changed {c['date']}.** {c['what']} *Why:* {c['why']}" for c in entry.changes]
    for part in parts:
        yield from ["", f"  {part}"]
    said = list(answer(entry, found))
    held, unread = count(entry), count(entry, UNREAD)
    if entry.id in CHAPTER and held:
        said = ["**Answer:** in [{1}]({0}), which reads the records.".format(*CHAPTER[entry.id])]
    elif not said and not entry.afterwards:
        there = f"{held} runs are there" if held else "no run is there yet"
        if unread:
            place = f"`data/unread/{entry.records}`"
            there = f"none yet; finished runs that wait unread for the last one, in {place}: {unread}"
        said = [f"**Answer:** {there}."]
    yield ""
    yield from (f"  {line}" if line else "" for line in said)
    yield ""


def overview(entries: Sequence[Entry]) -> Iterator[str]:
    """All questions in one table: date, records that are there, changes."""
    yield from ["| Question | Registered | Records there | Changed |", "|---|---|--:|---|"]
    for entry in entries:
        mark = "afterwards" if entry.afterwards else str(entry.registered)
        changed = f"{len(entry.changes)} ×" if entry.changes else "–"
        yield f"| [{entry.question}](#{entry.id}) | {mark} | {count(entry) or '–'} | {changed} |"


def register(which: str) -> Iterator[str]:
    """The register's part: "overview", "asked" (before their runs) or "afterwards"."""
    entries, found = read_register(), results()
    if which == "overview":
        yield from overview(entries)
    elif which in ("asked", "afterwards"):
        for entry in entries:
            if entry.afterwards == (which == "afterwards"):
                yield from write_entry(entry, found)
    else:
        raise ValueError(f"the register has the parts overview, asked and afterwards, not {which!r}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    written = {"register": register, "registered-answer": answers}
    return add(app, written, *READS, "data/unread/*/*.json", box="claims")
