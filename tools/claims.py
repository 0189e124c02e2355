"""The paper's claims, as ``book/claims.yml`` lists them; tools/findings.py says what became of each."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from sto_lite.experiments.paper import EXPERIMENTS, Cell, Experiment
from tools.entries import ROOT, EntryError, make

MEASURED = ("reproduced", "not reproduced", "undecided", "not measured")
DERIVED = ("holds", "holds in part", "does not hold")
NAMES = {"fer2013": "FER-2013", "rafdb": "RAF-DB", "cifar100": "CIFAR-100", "faces": "synthetic faces"}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    id: its anchor on the page. group: the part of the page it stands in. kind: see below. quote, where: from the
    paper. note: what the book has to say of it, Markdown. evidence: tests ("tests/test_x.py::test_y"), places in the
    book ("04-distillation.ipynb#slug") and collections of records ("data/runs/name").

    - "number": one number of a table, in `cell` of `experiment`: `error` or `gain` on `data`, or `parameters`.
    - "comparison": `pairs` of cells [better, worse] of `experiment` on each of `data`, in error or in `quantity`
      "gap" (test minus training error); with a `margin`, in points, the first is only claimed to be no worse.
    - "derived": follows from equations, code or the paper's own numbers; `status` is one of DERIVED.
    - "open": no experiment of the book decides it; the note says why, and its status is "open".
    """

    id: str
    group: str
    kind: str
    quote: str = ""
    where: str = ""
    experiment: str = ""
    cell: str = ""
    data: tuple[str, ...] = ()
    error: float | None = None
    gain: float | None = None
    parameters: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    quantity: str = "error"
    margin: float = 0.0
    status: str = ""
    evidence: tuple[str, ...] = ()
    note: str = ""


def read_claims(path: Path = ROOT / "book" / "claims.yml") -> list[Claim]:
    """Every claim, in the order of the file; EntryError where one contradicts itself or another."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8")).items()
    raws = [{**entry, "group": group} for group, entries in groups for entry in entries]
    for raw in raws:
        if isinstance(raw.get("data"), str):
            raw["data"] = [raw["data"]]
    found = make(Claim, path.name, "claim", raws)
    for claim in found:
        check(claim)
    return found


def check(claim: Claim) -> None:
    """Refuse a claim that contradicts its kind."""
    wrong = ""
    if claim.kind not in ("number", "comparison", "derived", "open"):
        wrong = f"no kind is called {claim.kind!r}"
    elif (claim.kind == "derived") != (claim.status in DERIVED) or (claim.kind != "derived" and claim.status):
        wrong = f"a derived claim has one of the statuses {', '.join(DERIVED)}, and no other claim has any"
    elif claim.kind == "derived" and not claim.evidence:
        wrong = "a derived claim names its evidence"
    elif claim.kind in ("number", "comparison"):
        labels = {cell.label for cell in experiment_of(claim).cells}
        asked = {claim.cell} if claim.kind == "number" else {label for pair in claim.pairs for label in pair}
        if not asked or asked - labels:
            wrong = f"{claim.experiment} has no cell {', '.join(sorted(asked - labels)) or 'without a name'}"
    if wrong:
        raise EntryError(f"{claim.id}: {wrong}")


def experiment_of(claim: Claim) -> Experiment:
    """The claim's experiment."""
    if claim.experiment not in EXPERIMENTS:
        raise EntryError(f"{claim.id}: no experiment is called {claim.experiment!r}")
    return EXPERIMENTS[claim.experiment]


def cell_of(claim: Claim, label: str = "") -> Cell:
    """A cell of the claim's experiment by its label; the claim's own by default."""
    return next(cell for cell in experiment_of(claim).cells if cell.label == (label or claim.cell))
