"""What chapters 8 and 9 read from records: designs, gains under every choice, budget, curves; the first screen."""

import math
import re

import numpy as np
import pytest

from sto_lite import stats
from sto_lite.experiments import evidence
from sto_lite.experiments.evidence import Curves, find_design
from sto_lite.records import read_records
from tools import front
from tools.entries import ROOT

RECORDS = [*read_records("first-walk"), *read_records("fer2013-1024"), *read_records("cifar100-2000")]
REDUCED = [r for r in evidence.runs(RECORDS) if not r["data"].get("subset")]
CURVES = Curves(read_records("fer2013-h200")[0])


@pytest.fixture(scope="module")
def shared():
    return find_design(REDUCED, own_images=False)


def fresh():
    """The committed runs as if each seed had had its own images, and scattered the more for it."""
    rng = np.random.default_rng(0)
    for record in REDUCED:
        seed = record["config"]["seed"] + 3
        config = record["config"] | {"seed": seed}
        data = record["data"] | {"subset": seed, "fingerprint": f"f{seed}"}
        result = {s: {**of, "error": of["error"] + 3 * rng.normal()} for s, of in record["result"].items()}
        yield record | {"config": config, "data": data, "result": result}


def test_the_two_designs_are_found_apart(shared):
    assert not shared.own_images and find_design(REDUCED, own_images=True) is None
    both = [*REDUCED, *fresh()]
    own = find_design(both, own_images=True)
    assert own.own_images and own.row("STO").gain.seeds == 3 and "each seed its own" in own.protocol
    assert find_design(both, own_images=False).row("STO").gain == shared.row("STO").gain
    assert evidence.runs(RECORDS, "cifar100", 2000) and not evidence.runs(RECORDS, images=4096)


def test_a_gain_is_that_of_the_table_whatever_is_measured(shared):
    block = shared.row("STO").block
    assert evidence.gain_by(shared, evidence.last) == pytest.approx(block.alone)
    assert evidence.gain_by(shared, evidence.last, "baseline", "DML") is None
    best = evidence.gain_by(shared, evidence.best)
    pairs = zip(shared.row("baseline").records, shared.row("STO").records, strict=True)
    by_hand = [a["result"]["private"]["best_error"] - b["result"]["private"]["best_error"] for a, b in pairs]
    assert best.mean == pytest.approx(np.mean(by_hand))
    record = shared.row("STO").records[0]
    by_class = stats.class_errors(record, "private", 7)
    assert evidence.balanced(record, "private") == pytest.approx(np.mean(by_class))
    assert evidence.late(record, "private") == pytest.approx(np.mean(record["history"]["private_error"][-6:]))


def test_the_budget_of_the_committed_runs(shared):
    """Computed once by hand: 0.84 points with one pair, 0.51 with three, 0.2 in the limit."""
    budget = {source.name: source for source in evidence.variance_budget(shared)}
    found = [source.deviation for name, source in budget.items() if name.startswith("test images")]
    assert found == pytest.approx([0.84, 0.51, 0.20], abs=0.006)
    assert math.isnan(budget["training images"].deviation), "no seed with images of its own here"
    own = find_design([*REDUCED, *fresh()], own_images=True)
    known = {source.name: source for source in evidence.variance_budget(shared, own)}
    both, seed = math.sqrt(2) * own.block.deviation, known["seed"].deviation
    assert known["training images"].deviation == pytest.approx(math.sqrt(both**2 - seed**2))


def test_two_baselines_disagree_as_much_as_baseline_and_sto(shared):
    a, b = evidence.paired_wrong(shared, "baseline", "STO")
    pairs = np.mean([evidence.disagreement(a[i], b[i]) for i in range(3)])
    within = np.mean([evidence.disagreement(a[i], a[j]) for i in range(3) for j in range(i)])
    assert (pairs, within) == pytest.approx((25.4, 25.5), abs=0.05)
    for split, needed in (("private", 6), ("public", 12)):
        deviation = evidence.deviation_of_gain(find_design(REDUCED, False, split=split))
        assert stats.seeds_needed(1.0, deviation) == needed


def test_curves_are_read_whole():
    assert CURVES.drops == [80, 120] and CURVES.common == 119 and len(CURVES.runs) == 9
    assert [len(e) for e in CURVES.series("baseline", "private_error")] == [131, 131, 133]
    assert CURVES.after_second_drop("private") == pytest.approx((33.19, 32.20), abs=0.01)
    assert CURVES.after_second_drop("public") == pytest.approx((34.61, 33.84), abs=0.01)
    gain = CURVES.gain("sto", "private", 109, 119)
    base, own = (CURVES.series(m, "private_error") for m in ("baseline", "sto"))
    gains = [b[109:119].mean() - o[109:119].mean() for b, o in zip(base, own, strict=True)]
    assert gain.mean == pytest.approx(np.mean(gains))
    best = CURVES.gain_at_best("sto", "private")
    assert best.low < 0 < best.high


def test_the_multiverse_holds_every_choice_once():
    specs = evidence.multiverse(REDUCED, CURVES)
    keys = [tuple(spec.choices.values()) for spec in specs]
    assert len(set(keys)) == len(keys) and [s.gain.mean for s in specs] == sorted(s.gain.mean for s in specs)
    # 5 rivals, 2 test sets, 4 ways to read a run; and 4 windows of the curves on 2 test sets
    assert len(specs) == 5 * 2 * 4 + 4 * 2
    headline = ("1,024", "baseline", "PrivateTest", "last epoch")
    (found,) = (spec for spec in specs if tuple(spec.choices.values())[1:] == headline)
    assert found.gain.mean == pytest.approx(2.49, abs=0.005)
    # a run of another network is not counted among those of the reduced protocol's
    more = evidence.multiverse(REDUCED + read_records("kin"))
    keys = [tuple(spec.choices.values()) for spec in more]
    assert len(set(keys)) == len(keys) > len(specs) - 4 * 2
    assert sum(spec.choices["images"] == "1,024 by seed, resnet8" for spec in more) == 3 * 2 * 4


def test_five_questions_are_answered_on_the_first_screen_of_chapter_8():
    """Before the first heading of a section, in the outputs that a reader sees."""
    import nbformat

    cells = nbformat.read(ROOT / "book" / "08-experiments.ipynb", as_version=4).cells
    heads = (c.cell_type == "markdown" and "\n## " in f"\n{c.source}" for c in cells)
    first = [*heads].index(True)
    results = [output for cell in cells[: first + 1] for output in cell.get("outputs", [])]
    shown = "".join(output.get("data", {}).get("text/markdown", "") for output in results)
    for question in ("Who is better?", "By how much?", "How sure?", "Where not?", "What is unknown?"):
        answer = re.search(rf"\*\*{re.escape(question)}\*\* (.+)", shown)
        assert answer and len(answer[1]) > 40, question
    code = [cell for cell in cells[:first] if cell.cell_type == "code"]
    assert all({"hide-input", "remove-cell"} & set(cell.metadata.get("tags", [])) for cell in code)


def test_the_front_page_tells_the_registered_seeds():
    records = read_records("fer2013-1024-subsets")
    said = front.row(records)
    rows, means = {"baseline": {"name": "baseline"}, "stochastic depth": {"name": "stochastic-depth"}}, {}
    rows["STO"] = {"name": "sto", "lam": 0.25, "teacher_backward": True}
    for label, settings in rows.items():
        runs = [r for r in records if r["method"] | settings == r["method"]]
        assert sorted(r["config"]["seed"] for r in runs) == [3, 4, 5, 6, 7]
        means[label] = np.mean([r["result"]["private"]["error"] for r in runs])
    told = [f"{means['baseline'] - means[label]:+.1f} (" for label in ("STO", "stochastic depth")]
    assert [cell[: cell.index("(") + 1] for cell in said.split(" | ")[2:]] == told
    assert said.startswith("| 1,024 | 5 |") and said.count("undecided") + said.count("better") == 2
    page = [*front.front_result("")]
    assert page[-len(front.COLLECTIONS) :] == [front.row(read_records(name)) for name in front.COLLECTIONS]
    with pytest.raises(ValueError, match="lacks runs"):
        front.row([r for r in records if r["method"]["name"] == "baseline"])
