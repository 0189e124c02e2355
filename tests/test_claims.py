"""The paper's claims: all are listed, evidence exists, statuses follow from the records, and what holds does hold."""

import ast
import itertools
import re
from dataclasses import replace
from functools import partial

import pytest
import torch

from sto_lite import costs, registry, sets
from sto_lite.experiments import tables
from sto_lite.experiments.formats import signed
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.methods import STO, Baseline, StochasticDepth
from sto_lite.options import parser
from sto_lite.resnet import count_parameters
from sto_lite.speed.counters import kept_bytes
from tests.samples import made_up, rng
from tools import claims_page, register_page
from tools.address import Repository
from tools.claims import DERIVED, MEASURED, read_claims
from tools.entries import ROOT, EntryError
from tools.findings import ASKED_ANEW, Results, find, printed, spread

CLAIMS = read_claims()
BY_ID = {claim.id: claim for claim in CLAIMS}
TABLES = ("table1", "table2", "table3")
NETS = ("resnet32", "resnet50", "resnet110", "wrn20-2")
CHOICES = (claims_page.BOOK / "choices.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------- the list


def numbers(group, field):
    """(cell, data set) -> number, of a table's claims."""
    mine = [c for c in CLAIMS if c.group == group and c.kind == "number"]
    return {(c.cell, *c.data): getattr(c, field) for c in mine if getattr(c, field) is not None}


@pytest.mark.parametrize("name", TABLES)
def test_every_number_of_the_papers_tables_has_a_claim(name):
    """Parameters are typed from the paper a second time; it prints gains in Table 1 alone."""
    table, cells = EXPERIMENTS[name], EXPERIMENTS[name].cells
    assert all(c.experiment == name for c in CLAIMS if c.group == name)
    assert numbers(name, "error") == {(c.label, data): e for c in cells for data, e in c.paper.items()}
    compared = [c for c in cells if c.against and name == "table1"]
    gains = {(c.label, data): tables.claimed_gain(c, table, data) for c in compared for data in c.paper}
    assert numbers(name, "gain") == gains and len(gains) == (8 if name == "table1" else 0)
    printed = {
        "table1": ["0.46M", "0.46M", "0.76M", "0.76M", "1.15M", "1.15M", "1.08M", "1.08M"],
        "table2": ["0.47M", "1.4M", "1.18M", "1.53M", "0.47M"],
    }.get(name, [])
    labels = [c.label for c in cells if c.paper and printed]
    assert numbers(name, "parameters") == {(label,): p for label, p in zip(labels, printed, strict=True)}


def exists(reference):
    """Whether evidence is there: a test by parsing, a place in the book, or records."""
    if reference.startswith("tests/"):
        path, _, name = reference.partition("::")
        if not (ROOT / path).is_file():
            return False
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        return name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if reference.startswith("data/runs/"):
        return any((ROOT / reference).glob("*.json"))
    try:
        return bool(claims_page.place(reference))
    except (KeyError, OSError):
        return False


def test_evidence_exists():
    assert [(claim.id, place) for claim in CLAIMS for place in claim.evidence if not exists(place)] == []
    assert [c.id for c in CLAIMS if c.group not in TABLES and not (c.quote and c.where)] == []


def test_missing_evidence_is_seen():
    missing = ["tests/test_resnet.py::test_nothing", "tests/test_none.py::test_fold_is_the_teacher"]
    missing += ["tests/test_resnet.py", "data/runs/none", "99-none.ipynb"]
    missing += ["04-distillation.ipynb#no-such-heading"]
    missing += ["03-stochastic-depth.ipynb#one-student-a-mini-batch"]  # a comment in code is no heading
    assert [reference for reference in missing if exists(reference)] == []
    there = ["notation.md#eq-9", "04-distillation.ipynb", "data/runs/first-walk"]
    assert all(map(exists, there))


def test_links_to_evidence(monkeypatch):
    link = claims_page.evidence("04-distillation.ipynb#temperature")
    assert link == "[chapter 4, Temperature](04-distillation.ipynb#temperature)"
    monkeypatch.setattr(claims_page, "repository", lambda: None)
    assert claims_page.evidence("tests/test_a.py::test_b") == "`test_b` in `tests/test_a.py`"
    home = Repository("https://github.com/owner/name", "main")
    monkeypatch.setattr(claims_page, "repository", lambda: home)
    address = "https://github.com/owner/name/blob/main/tests/test_a.py"
    assert claims_page.evidence("tests/test_a.py::test_b") == f"[`test_b`]({address}) in `tests/test_a.py`"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [{id: x, kind: derived, status: holds, colour: red, evidence: [a]}]", "x: no claim has colour"),
        ("a: [{id: x, kind: guess}]", "no kind is called 'guess'"),
        ("a: [{id: x, kind: derived, status: reproduced, evidence: [a]}]", "a derived claim has one of"),
        ("a: [{id: x, kind: open, status: holds}]", "no other claim has any"),
        ("a: [{id: x, kind: derived, status: holds}]", "names its evidence"),
        ("a: [{id: x, kind: number, experiment: table9, cell: STO}]", "no experiment is called 'table9'"),
        ("a: [{id: x, kind: number, experiment: table2, cell: XTO}]", "table2 has no cell XTO"),
        ("a: [{id: x, kind: comparison, experiment: table2, pairs: [[STO, XTO]]}]", "table2 has no cell XTO"),
        ("a: [{id: x, kind: comparison, experiment: table2}]", "no cell without a name"),
        ("a: [{id: x, kind: open}]\nb: [{id: x, kind: open}]", "x stands there twice"),
    ],
)
def test_claims_that_cannot_be(tmp_path, text, message):
    (tmp_path / "claims.yml").write_text(text)
    with pytest.raises(EntryError, match=message):
        read_claims(tmp_path / "claims.yml")


# ------------------------------------------------------------------------------------------------ statuses


def several(method, errors, **more):
    return [made_up(method, error, seed, **more) for seed, error in enumerate(errors)]


def status(claim, records):
    return find([BY_ID[claim]], records)[0].status


@pytest.mark.parametrize(
    ("expected", "errors"),
    [("not measured", []), ("undecided", [32.85]), ("undecided", [32.8, 32.9]),
     ("reproduced", [32.3, 32.6, 32.9]), ("reproduced", [20.0, 30.0, 40.0]),
     ("not reproduced", [31.0, 31.1, 31.2]), ("not reproduced", [34.0, 34.1, 34.2])],
)  # fmt: skip
def test_an_error_is_reproduced_if_it_could_be_one_more_of_our_runs(errors, expected):
    assert status("t1-r32-fer", several("baseline", errors)) == expected
    assert status("t1-r32-raf", several("baseline", errors)) == "not measured", "that is another data set"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([], "not measured"),
        ([1.5, 1.6], "undecided"),
        ([1.4, 1.5, 1.6], "reproduced"),
        ([0.1, 0.2, 0.3], "not reproduced"),  # above 0, and below half of 1.52
        ([-0.2, 1.5, 3.0], "undecided"),
        ([-1.4, -1.5, -1.6], "not reproduced"),
    ],
)
def test_a_gain_is_judged_by_the_verdict_of_the_tables(gains, expected):
    base = several("baseline", [33.0 + seed for seed in range(3)])
    records = base + several("sto", [33.0 + seed - gain for seed, gain in enumerate(gains)])
    (found,) = find([BY_ID["t1-r32-sto-fer-gain"]], records)
    assert found.status == expected
    assert (f"{len(gains)} seeds" in found.ours) == bool(gains)
    faithful = [t for t in tables.tables(EXPERIMENTS["table1"], records) if t.faithful]
    (row,) = (row for row in faithful[0].rows if row.cell.label == "ResNet-32 + STO")
    assert found.status == row.verdict


def table_1(gain, nets=NETS, data=("fer2013", "rafdb"), spread=0.01):
    for net, d, seed in itertools.product(nets, data, range(3)):
        yield made_up("baseline", 30.0, seed, net, d)
        yield made_up("sto", 30.0 - gain - spread * seed, seed, net, d)


def test_a_claim_about_several_gains_needs_them_all():
    whole = list(table_1(2.0))
    assert status("variety", whole) == status("consistent", whole) == "reproduced"
    part = list(table_1(2.0, NETS[:3]))
    assert (status("variety", part), status("consistent", part)) == ("undecided", "reproduced")
    spoilt = part + list(table_1(-1.0, NETS[3:]))
    assert (status("variety", spoilt), status("consistent", spoilt)) == ("not reproduced", "reproduced")
    unsure = part + list(table_1(0.5, NETS[3:], spread=3.0))
    assert status("variety", unsure) == "undecided"
    assert status("variety", []) == "not measured"


@pytest.mark.parametrize(
    ("behind", "on_par", "best"),
    [
        (-1.0, "reproduced", "reproduced"),
        (0.3, "reproduced", "not reproduced"),
        (0.5, "undecided", "not reproduced"),
        (0.9, "not reproduced", "not reproduced"),
    ],
)
def test_on_par_has_a_margin(behind, on_par, best):
    records = []
    for data, seed in itertools.product(("fer2013", "rafdb"), range(3)):
        records += [made_up(name, 30.0 + 0.01 * seed, seed, data=data) for name in ("dml", "one", "okddip")]
        records.append(made_up("sto", 30.0 + behind, seed, data=data))
    assert status("on-par", records) == on_par
    assert status("best-on-fer", records) == best


def test_over_fitting_is_a_matter_of_the_gap():
    more = {"net": "resnet110", "data": "rafdb"}
    base = several("baseline", [20, 20.1, 20.2], gap=15.0, **more)
    wide, small = ([*base, *several("sto", [18, 18.1, 18.2], gap=gap, **more)] for gap in (20.0, 12.0))
    assert status("r110-improvement", wide) == status("r110-overfitting", small) == "reproduced"
    assert status("r110-overfitting", wide) == "not reproduced"


def test_fewer_epochs():
    def records(half, sets=("fer2013", "rafdb")):
        for data in sets:
            yield from several("baseline", [30, 30.1, 30.2], data=data)
            yield from several("sto", [half, half + 0.1, half + 0.2], data=data, epochs=150)

    assert status("fewer-epochs", [*records(30.1)]) == "reproduced"
    assert status("fewer-epochs", [*records(32.0)]) == "not reproduced"
    assert status("fewer-epochs", [*records(30.0, ["fer2013"])]) == "undecided", "one data set is missing"


REDUCED = [{"epochs": 30}, {"train": 1000}, {"net": "resnet8"}, {"data": "cifar100", "net": "resnet8"}]
REDUCED += [{"data": "cifar100", "epochs": 299, "net": "resnet110"}]


@pytest.mark.parametrize("more", REDUCED, ids=str)
def test_a_reduced_protocol_decides_nothing(more):
    records = several("baseline", [32.85, 32.8, 32.9], **more) + several("sto", [22.0, 22.1, 22.2], **more)
    found = find(CLAIMS, records)
    measured = [f for f in found if f.claim.kind == "comparison" or f.claim.error or f.claim.gain is not None]
    assert {f.status for f in measured} == {"not measured"}
    assert {f.status for f in found if f.claim.kind == "open"} == {"open"}
    told = [f.reduced for f in found if f.reduced]
    assert not any("reproduced" in line for line in told)
    assert any("a lower error there" in line for line in told)
    if "data" not in more:  # then it is FER-2013, which says nothing in a column for RAF-DB
        assert all(f.reduced == "" for f in found if f.claim.data == ("rafdb",))


def test_of_several_reduced_protocols_the_claims_own_data_and_most_seeds_are_told():
    records = []
    for epochs, seeds in ((20, 2), (30, 5), (40, 3)):
        records += several("baseline", [40.0] * seeds, epochs=epochs)
        records += several("sto", [39.0] * seeds, epochs=epochs)
    (found,) = find([BY_ID["t2-sto-fer"]], records)
    assert "30 epochs" in found.reduced and "+1.00" in found.reduced and "5 seeds" in found.reduced
    assert found.reduced.startswith("STO against baseline")


def test_a_gain_is_told_as_the_whole_block_tells_it():
    """The same pair of rows stands in two tables of the paper; one verdict for one set of runs."""
    errors = {"baseline": [40, 41, 39.5], "stochastic-depth": [39, 41, 40], "sto": [38.5, 40, 39]}
    records = [r for method, values in errors.items() for r in several(method, values, epochs=30)]
    (table,) = tables.tables(EXPERIMENTS["table3"], records)
    wide = spread(table.row("STO").block.wide, signed)
    for name in ("t2-sto-fer", "t3-sto"):
        assert f"STO against baseline: {wide}, undecided" in find([BY_ID[name]], records)[0].reduced


def test_what_was_found_says_leads_at_equal_compute():
    told = "\n".join(claims_page.found_so_far())
    gains = [row for table in claims_page.results().tables("compute") for row in table.rows if row.gain]
    assert gains
    for row in gains:
        name, wide = row.cell.label.partition(",")[0], row.block.wide
        assert f"{name} {signed(-wide.mean)} ({signed(-wide.high)} to {signed(-wide.low)})" in told


def test_statuses_of_the_committed_records():
    """What the page shows is computed, and stands on runs at the paper's protocol alone."""
    found, results = claims_page.findings(), claims_page.results()
    assert [f.claim for f in found] == CLAIMS
    for f in found:
        derived = f.claim.kind == "derived" or f.claim.parameters
        assert f.status in (("open",) if f.claim.kind == "open" else DERIVED if derived else MEASURED)
    made = [table for name in EXPERIMENTS for table in results.tables(name)]
    faithful = [r for table in made if table.faithful for row in table.rows for r in row.records]
    if not faithful:
        assert {f.status for f in found if f.claim.kind == "comparison"} == {"not measured"}
    assert {r["collection"] for r in results.records}.isdisjoint(ASKED_ANEW), "each question's seeds apart"
    without = [r for r in results.records if not any(r is one for one in faithful)]
    assert "reproduced" not in {f.status for f in (find(CLAIMS, without) if faithful else found)}


def test_parameters_are_counted():
    assert printed(1_400_133, "1.4M") and printed(466_711, "0.47M")
    assert not printed(466_711, "0.46M") and not printed(1_450_001, "1.4M")
    wrong = replace(BY_ID["t2-one-params"], parameters="1.19M")
    assert [f.status for f in find([BY_ID["t2-one-params"], wrong], [])] == ["holds", "does not hold"]


# ------------------------------------------------------------------------------------------------ the pages


def test_every_group_stands_on_the_page_once():
    page = (claims_page.BOOK / "claims.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^```\{claims-table\} (\w+)$", page, re.M)) == sorted({c.group for c in CLAIMS})
    written = "\n".join(line for group in {c.group for c in CLAIMS} for line in claims_page.claims(group))
    assert all(f"{{#{claim.id}}}" in written for claim in CLAIMS)
    with pytest.raises(ValueError, match="no group 'none'"):
        claims_page.claims("none")


def test_the_page_counts_every_claim_once():
    *rows, total = [re.findall(r"(?<=\| )\d+(?= \|)", line) for line in claims_page.count_table()][2:]
    assert len(rows) == len(MEASURED) + len(("open",)) + len(DERIVED)
    sums = [sum(int(row[i]) for row in rows) for i in range(3)]
    assert sums == [int(n) for n in total] and sums[0] + sums[1] == sums[2] == len(CLAIMS)
    shown = "\n".join(claims_page.claims("table1"))
    assert "| **ResNet-110 + STO** | | | |" in shown and "| 17.80 |" in shown and "| 758,359 |" in shown
    assert re.search(r"gain, RAF-DB.*\| \+3\.09 \|", shown)


def test_the_choices_name_options_and_experiments_that_exist():
    (verbs,) = (a for a in parser()._actions if a.choices and "train" in a.choices)
    known = {o for p in verbs.choices.values() for action in p._actions for o in action.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)", CHOICES)) <= known
    required = "detach running-stats schedule students p-last lambda temperature compute"
    named = set(" ".join(re.findall(r"^```\{measured-effect\} ?(.*)$", CHOICES, re.MULTILINE)).split())
    assert named <= {*EXPERIMENTS, *claims_page.FROM_ALL}
    assert named >= set(required.split())
    sentences = re.findall(r"experiments? ((?:`[a-z0-9-]+`(?: and )?)+)", CHOICES)
    said = set(re.findall(r"`(.*?)`", " ".join(sentences)))
    answered = " ".join(re.findall(r"^```\{registered-answer\} (.*)$", CHOICES, re.MULTILINE)).split()
    assert said and said <= named | {register_page.EXPERIMENT[question] for question in answered}
    assert answered and all("points" in "\n".join(register_page.answers(one)) for one in answered)
    numbered = [int(n) for n in re.findall(r"^### (\d+)\. ", CHOICES, re.MULTILINE)]
    assert numbered == list(range(1, len(numbered) + 1)) and len(numbered) >= 20


def test_effects_come_from_records():
    def effects(name, records):
        return list(claims_page.effects(name, Results(records)))

    records = several("sto", [30.0, 31.0], epochs=30) + several("sto", [31.0, 32.5], epochs=30, detach=False)
    (line,) = (line for line in effects("detach", records) if "against" in line)
    assert "detached teacher = False against detached teacher = True: −1.25" in line
    assert "reduced protocol" in line and "2 seeds" in line
    assert effects("students", records) == ["**Measured effect:** not measured yet (experiment `students`)."]
    assert effects("", []) == ["**Measured effect:** no experiment compares the readings."]
    records = several("sto", [30.0, 31.0])
    for record in records:
        record["result"]["public"] = {"error": 29.0}
    assert "+0.50 points on average over 2 committed runs" in effects("best-epoch", records)[0]
    (split,) = effects("test-set", records)
    assert "+1.50 points" in split and "(+1.00 to +2.00)" in split


# ------------------------------------------------------------------------- what holds, and what does not


def paper(name, data):
    return {c.label: c.paper[data] for c in EXPERIMENTS[name].cells if data in c.paper}


def test_who_is_best_in_table_2():
    fer, raf = (paper("table2", data) for data in ("fer2013", "rafdb"))
    assert min(fer, key=fer.get) == "STO" and min(raf, key=raf.get) == "OKDDip"
    assert fer["OKDDip"] - fer["STO"] == pytest.approx(0.07)
    assert raf["STO"] - raf["OKDDip"] == pytest.approx(0.38)
    assert raf["ONE"] - raf["STO"] == pytest.approx(0.05)
    assert sorted(raf, key=raf.get)[1] == "STO", "underlined, second best"


def test_no_two_rows_of_table_3_differ_by_1_77():
    rows = paper("table3", "cifar100")
    assert rows["without distillation (λ = 0)"] - rows["STO"] == pytest.approx(1.03)
    assert all(round(abs(a - b), 2) != 1.77 for a, b in itertools.combinations(rows.values(), 2))


def test_sto_trains_and_deploys_the_baselines_parameters():
    for net in (*NETS, "resnet8"):
        ours, base = (m.build(net, 7, torch.Generator()) for m in (STO(), Baseline()))
        shapes, others = ({k: v.shape for k, v in model.named_parameters()} for model in (ours, base))
        assert shapes == others and count_parameters(STO().deploy(ours)) == count_parameters(base)


def test_parameters_of_the_other_methods():
    def count(name):
        return count_parameters(registry.make(name).build("resnet32", 7, torch.Generator()))

    ratios = [round(count(name) / count("baseline"), 2) for name in ("one", "dml", "okddip")]
    assert ratios == [2.52, 3.0, 3.28]


def test_what_a_step_costs():
    """In multiply-adds of the baseline's step, which are three forward passes of 69.12M each for ResNet-32."""
    total, _, top = costs.forward("resnet32")
    assert round(total / 1e6, 2) == 69.12
    sto = {net: costs.step_cost(STO(), net) for net in NETS}
    assert [sto[net] for net in NETS[:3]] == pytest.approx([1.736, 1.741, 1.750], abs=1e-3)
    assert (round(min(sto.values()), 2), round(max(sto.values()), 2)) == (1.72, 1.75)
    forward_only = [1 + (cost - 1) / 3 for cost in sto.values()]
    assert [round(f, 2) for f in (min(forward_only), max(forward_only))] == [1.24, 1.25]
    names = ("baseline", "one", "okddip", "dml")
    cost = {name: costs.step_cost(registry.make(name), "resnet32") for name in names}
    assert [round(each, 2) for each in cost.values()] == [1, 1.65, 1.98, 3]
    assert cost["one"] == pytest.approx(1 + 2 * top / total)
    assert cost["okddip"] == pytest.approx(1 + 3 * top / total)
    for method, expected in (
        (StochasticDepth(), 0.7363),
        (STO(lam=0.0), 1.7363),
        (STO(teacher_backward=False), 0.7363 + 1 / 3),
        (STO(students=2), 1 + 2 * 0.7363),
    ):
        assert costs.step_cost(method, "resnet32") == pytest.approx(expected, abs=1e-3), method


def kept(method, draws=1):
    """Bytes of activations that a step keeps for its backward pass, mean over draws of the gates."""
    model, x, y = method.build("resnet32", 7, rng()), torch.zeros(4, 3, 32, 32), torch.arange(4)
    steps = [partial(method.step, model, x, y, rng(draw)) for draw in range(draws)]
    return sum(kept_bytes(model.parameters(), step) for step in steps) / draws


def test_activations_kept_for_the_backward_pass():
    base = kept(Baseline())
    ratio = {name: kept(registry.make(name)) / base for name in ("one", "okddip", "dml")}
    assert {name: round(r, 1) for name, r in ratio.items()} == {"one": 1.3, "okddip": 1.4, "dml": 3.0}
    ratio["two passes"], ratio["sto"] = (kept(m, draws=12) / base for m in (STO(), registry.make("sto")))
    assert ratio["okddip"] < 1.65 < ratio["sto"] < 1.8 < ratio["two passes"] < 1.95 < ratio["dml"]


def test_sizes_of_the_data_sets():
    """Typed from the paper a second time."""
    assert dict(sets.FER2013.official) == {"train": 28_709, "public": 3_589, "private": 3_589}
    assert dict(sets.RAFDB.official) == {"train": 12_271, "test": 3_068}
