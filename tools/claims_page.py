"""What the pages on the paper's claims and on our choices print: claims with their statuses, and measured effects.

Each directive writes Markdown, which the page then reads as its own.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from myst_parser.mdit_to_docutils.base import default_slugify
from sphinx.application import Sphinx

from sto_lite import stats
from sto_lite.experiments.evidence import short
from sto_lite.experiments.formats import signed, spread
from sto_lite.experiments.tables import ask
from sto_lite.records import Record
from tools.address import Repository, repository
from tools.claims import DERIVED, MEASURED, NAMES, Claim, read_claims
from tools.directives import add
from tools.entries import ROOT
from tools.findings import Finding, Results, find, gain_of, read_current, split_of

BOOK = ROOT / "book"
READS = ("book/claims.yml", "data/register.yml", "data/runs/*/*.json")
TABLES = ("table1", "table2", "table3")
PARTS = ("stochastic depth", "without distillation (λ = 0)", "without backward of the full network")
MARKS = dict(zip((*MEASURED, "open", *DERIVED), "✓✗?–○✓~✗", strict=True))
PLURAL = {"holds": "hold", "holds in part": "hold in part", "does not hold": "do not hold"}


# -------------------------------------------------------------------------------------------------- evidence


@cache
def headings(page: Path) -> dict[str, str]:
    """The places on a page that a link can name: anchor -> heading, or the anchor itself for a target."""
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = {default_slugify(title): title for title in re.findall(r"^#+ +(.+)$", text, re.MULTILINE)}
    return found | {target: target for target in re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)}


def place(reference: str) -> tuple[str, str]:
    """The page's title and the heading of a link such as 04-distillation.ipynb#temperature, which has to exist."""
    name, _, anchor = reference.partition("#")
    found = headings((BOOK / name).with_suffix(".md"))
    return next(iter(found.values())), found[anchor] if anchor else ""


def evidence(reference: str) -> str:
    """A link to what a claim rests on, Markdown."""
    if reference.startswith("tests/"):
        path, _, test = reference.partition("::")
        return f"{(repository() or Repository('')).linked(f'`{test}`', file=path)} in `{path}`"
    if reference.startswith("data/"):
        return f"`{reference}`"
    title, heading = place(reference)
    number = re.match(r"\d+b?\b", title)
    return f"[{f'chapter {number[0]}' if number else title}{', ' if heading else ''}{heading}]({reference})"


# ---------------------------------------------------------------------------------------------------- claims


@cache
def results() -> Results:
    """The committed records that tables are made of, read once."""
    return Results(read_current())


@cache
def findings() -> list[Finding]:
    """Every claim's finding, from the committed records."""
    return find(read_claims(), results().records)


def badge(status: str) -> str:
    """A status as the page shows it."""
    return f"[{MARKS[status]} {status}]{{.claim-status .{status.replace(' ', '-')}}}"


def quantity(claim: Claim) -> str:
    """What a number of a table is, in words."""
    kind = "gain" if claim.gain is not None else "error"
    return "parameters" if claim.parameters else f"{kind}, {NAMES[claim.data[0]]}"


def number(claim: Claim) -> str:
    """A number as the paper prints it."""
    return signed(claim.gain) if claim.gain is not None else claim.parameters or f"{claim.error:.2f}"


def number_table(found: Sequence[Finding]) -> Iterator[str]:
    """A table of the paper's, number by number, and below it the notes and what reduced protocols say."""
    yield from ["| Number | Paper | Ours | Status |", "|---|--:|--:|---|"]
    for cell, group in groupby(found, key=lambda f: f.claim.cell):
        rows = list(group)
        if len(rows) > 1:
            yield f"| **{cell}** | | | |"
        for f in rows:
            name = quantity(f.claim) if len(rows) > 1 else f"**{cell}**"
            yield f"| [{name}]{{#{f.claim.id}}} | {number(f.claim)} | {f.ours or '–'} | {badge(f.status)} |"
    yield ""
    yield from (f"- {f.claim.cell}, {quantity(f.claim)}: {f.claim.note}" for f in found if f.claim.note)
    yield ""
    reduced = [f"- {quantity(f.claim).partition(', ')[2]}: {f.reduced}." for f in found if f.reduced]
    if reduced:
        yield from ["Under a reduced protocol, which decides nothing about these numbers:", "", *reduced]


def claim_list(found: Iterable[Finding]) -> Iterator[str]:
    """Claims of the text: the quotation, its status, what the book says, and where to look."""
    for f in found:
        yield f"[“{f.claim.quote}”]{{#{f.claim.id}}} [{f.claim.where}]{{.claim-where}}"
        yield f": {badge(f.status)} {f.claim.note}"
        sources = "; ".join(map(evidence, f.claim.evidence))
        told = {"At the paper's protocol: ": f.ours, "Reduced protocol: ": f.reduced, "See ": sources}
        for lead, text in told.items():
            if text:
                yield from ["", f"  {lead}{text}."]
        yield ""


def claims(group: str) -> Iterator[str]:
    """A group of claims as Markdown."""
    found = [f for f in findings() if f.claim.group == group]
    if not found:
        raise ValueError(f"claims.yml has no group {group!r}")
    return number_table(found) if group in TABLES else claim_list(found)


def found_so_far() -> Iterator[str]:
    """What was found, in a few lines: of the claims by status, and of STO under the reduced protocols."""
    by_status = {status: [f.claim for f in findings() if f.status == status] for status in MARKS}
    for table in sorted(results().tables("table3"), key=lambda t: -len(t.row("STO").records)):
        row = table.row("STO")
        if table.faithful or table.data != "fer2013" or not row.gain:
            continue
        leads = ask(table, [(part, "STO") for part in PARTS])
        told = [f"{short(part)} {spread(said.wide)}" for part, said in zip(PARTS, leads, strict=True) if said]
        beside = f"; its leads over its parts, for as many epochs: {', '.join(told)}" if told else ""
        if dear := [*at_equal_compute(table.protocol)]:
            beside += f"; over rivals that train for as much compute: {', '.join(dear)}"
        drawn = (
            "" if table.own_images else ", one draw of images, and seed 0 is of the search that picked them"
        )
        yield (
            f"- **What a reduced protocol shows** ({table.protocol}{drawn}): STO's gain over the baseline is "
            f"{gain_of(row)}, verdict: {row.verdict}{beside}."
        )
    counts = ", ".join(f"{len(by_status[status])} {PLURAL[status]}" for status in DERIVED)
    yield (
        f"- **What follows without a run**, from equations, from counting, or from the paper's own numbers: of "
        f"{sum(len(by_status[status]) for status in DERIVED)} claims {counts}. Those that do not hold: "
        f"{'; '.join(map(title, by_status['does not hold']))}."
    )
    measured = {status: len(by_status[status]) for status in MEASURED}
    total, done = sum(measured.values()), sum(measured.values()) - measured.pop("not measured")
    each = ": " + ", ".join(f"{n} {status}" for status, n in measured.items()) if done else ""
    yield (
        f"- **What needs runs by the paper's protocol**: of {total} claims {done or 'none'} "
        f"{'is' if done in (0, 1) else 'are'} measured so far{each}."
    )
    yield from [
        "",
        "The reduced protocols decide nothing about the paper's numbers. [Chapter 8](08-experiments.ipynb) says how",
        "sure these findings are and where they do not hold, [the register](register.md) when each was asked, and",
        "[the summary](summary.md) how far the whole went.",
    ]


def at_equal_compute(protocol: str) -> Iterator[str]:
    """STO's leads over the rivals of a protocol that train for as much compute as STO does there."""
    for table in results().tables("compute"):
        for row in table.rows if table.protocol == protocol else ():
            if row.block and row.cell.against == "STO":
                gain = row.block.wide
                lead = gain._replace(mean=-gain.mean, low=-gain.high, high=-gain.low)
                yield f"{short(row.cell.label).partition(',')[0]} {spread(lead)}"


def title(claim: Claim) -> str:
    """A claim in few words, as a link to its place on the page."""
    return f"[{claim.quote or f'{claim.cell}, {quantity(claim)}, {number(claim)}'}](#{claim.id})"


def count_table() -> Iterator[str]:
    """How many claims have each status, in the paper's tables and in its text."""
    yield from ["| Status | Tables | Text | All |", "|---|--:|--:|--:|"]
    for name, statuses in (*((badge(status), {status}) for status in MARKS), ("all", {*MARKS})):
        found = [f.claim.group in TABLES for f in findings() if f.status in statuses]
        yield f"| {name} | {sum(found)} | {len(found) - sum(found)} | {len(found)} |"


# --------------------------------------------------------------------------------------------------- choices


# What all committed runs say.
FROM_ALL = {
    "best-epoch": "error of the last epoch minus that of the best one",
    "test-set": "error on private minus on public",
}


def from_all(name: str, records: Iterable[Record]) -> Iterator[float]:
    """The numbers, in points, behind what FROM_ALL names."""
    for record in records:
        result = record["result"]
        if name == "best-epoch":
            yield result[split_of(record)]["error"] - result[split_of(record)]["best_error"]
        elif record["data"]["name"] == "fer2013":
            yield result["private"]["error"] - result["public"]["error"]


def effect(name: str, results: Results) -> Iterator[str]:
    """What an experiment's records say of each of its settings against the one that the book takes."""
    if name in FROM_ALL:
        what = FROM_ALL[name]
        if values := [*from_all(name, results.records)]:
            yield (
                f"{what}: {signed(stats.interval(values).mean)} points on average over {len(values)} committed runs "
                f"({signed(min(values))} to {signed(max(values))}), of all methods and protocols."
            )
        return
    for table in results.tables(name):
        kind = "the paper's protocol" if table.faithful else "reduced protocol"
        for row in table.rows:
            if row.gain:
                where = f"{kind}, {NAMES[table.data]}: {table.protocol}"
                yield f"{row.cell.label} against {row.cell.against}: {gain_of(row)} ({where})."


def effects(names: str, found: Results | None = None) -> Iterator[str]:
    """The measured effect of a choice, from the experiments that vary it."""
    lines = [line for name in names.split() for line in effect(name, found or results())]
    if names in FROM_ALL and lines:
        yield f"**Measured effect:** {lines[0]}"
    elif lines:
        yield from ["**Measured effect** (above 0: a lower error):", "", *(f"- {line}" for line in lines)]
    else:
        runs = " and ".join(f"`{name}`" for name in names.split())
        none = f"not measured yet (experiment {runs})" if names else "no experiment compares the readings"
        yield f"**Measured effect:** {none}."


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    counts = {"claims-count": lambda _: count_table(), "claims-found": lambda _: found_so_far()}
    return add(app, {"claims-table": claims, "measured-effect": effects, **counts}, *READS, box="claims")
