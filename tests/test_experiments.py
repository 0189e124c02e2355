"""Experiments as lists of runs, their jobs, and the tables made from records."""

import csv
import io
from dataclasses import replace
from functools import partial

import pytest

from sto_lite import costs, registry
from sto_lite.__main__ import given, parser, read_seeds
from sto_lite.config import Config
from sto_lite.errors import RunError
from sto_lite.experiments import formats, tables
from sto_lite.experiments.jobs import OVERRIDES, SCALES, Job, Source, cell_epochs, cell_settings, jobs
from sto_lite.experiments.paper import EXPERIMENTS, Cell
from sto_lite.experiments.tables import tables as tables_of
from sto_lite.methods import STO
from sto_lite.records import read_records
from sto_lite.stats import Interval
from tests import samples


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_is_a_method_with_its_settings_and_compared_with_another_cell(name):
    experiment = EXPERIMENTS[name]
    labels = [cell.label for cell in experiment.cells]
    assert len(set(labels)) == len(labels)
    for cell in experiment.cells:
        assert cell.against is None or (cell.against in labels and cell.against != cell.label)
        if cell.method != "kd":
            registry.make(cell.method, **cell.settings)
    made = jobs(experiment, "faces", [0, 1])
    assert len({job.name for job in made}) == len(made) == 2 * (len(experiment.cells) + (name == "table2"))


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("scale", SCALES)
def test_the_train_command_of_a_job_is_the_job(name, scale, tmp_path):
    overrides = {"drop_at": [0.4], "augment": False, "limit": 100}
    for job in jobs(EXPERIMENTS[name], "faces", [3], scale, overrides):
        options = parser().parse_args(["train", *job.arguments(tmp_path)])
        assert Config(**given(options, Config)) == job.config
        assert Source(options.data, **given(options, Source)) == job.source
        assert options.method == job.method and options.out == tmp_path / job.name
        assert {key: getattr(options, key) for key in job.settings} == dict(job.settings)
        teacher = str(tmp_path / job.teacher.name) if job.teacher else None
        assert getattr(options, "teacher", None) == teacher


def test_the_papers_protocol_is_the_default():
    for job in jobs(EXPERIMENTS["table1"], "fer2013"):
        assert job.config == Config(net=job.config.net) and job.source == Source("fer2013")


def test_experiments_share_what_they_have_in_common():
    names = [{job.name for job in jobs(EXPERIMENTS[n], "fer2013")} for n in ("table1", "table2", "figure3")]
    assert len(names[0] & names[1]) == 3  # ResNet-32 with and without STO, and the teacher ResNet-110
    assert names[2] < names[0]


def test_a_jobs_name_follows_from_all_settings_that_make_a_difference():
    base = Job("a", Source("faces"), "sto", {}, Config())
    assert base.name == Job("another label", Source("faces"), "sto", {}, Config()).name
    others = [
        Job("a", Source("faces", size=24), "sto", {}, Config()),
        Job("a", Source("faces"), "sto", {"lam": 0.5}, Config()),
        Job("a", Source("faces"), "sto", {}, Config(seed=1)),
        Job("a", Source("faces"), "sto", {}, Config(drop_at=(0.5,))),
    ]
    assert len({base.name, *(job.name for job in others)}) == 5


def test_teachers_come_first():
    made = jobs(EXPERIMENTS["table2"], "faces", [0, 1])
    with_teacher = [job.teacher is not None for job in made]
    assert with_teacher == sorted(with_teacher)
    assert all(job.teacher.name in [j.name for j in made] for job in made if job.teacher)


def test_overrides_win_and_wrong_ones_are_refused():
    first, *_ = jobs(EXPERIMENTS["table3"], "faces", scale="smoke", overrides={"net": "resnet8", "epochs": 7})
    assert (first.config.net, first.config.epochs, first.source.size) == ("resnet8", 7, 8)
    with pytest.raises(ValueError, match="no setting depth"):
        jobs(EXPERIMENTS["table3"], "faces", overrides={"depth": 3})
    assert "seed" not in OVERRIDES


def test_equal_compute():
    """NOTES: 1.736 baseline steps for ResNet-32, so 521 epochs."""
    longer = [c for c in EXPERIMENTS["compute"].cells if c.epochs == "sto"]
    sto = 300 * costs.step_cost(STO(), "resnet32")
    assert cell_epochs(longer[0], Config(), 32) == 521 == round(sto)
    for cell in longer:
        cost = costs.step_cost(registry.make(cell.method, **cell.settings), "resnet32")
        assert cell_epochs(cell, Config(), 32) * cost == pytest.approx(sto, rel=1e-3)


@pytest.mark.parametrize("name", ["table2", "peers-otherwise"])
@pytest.mark.parametrize(("epochs", "ramp"), [(30, 8), (300, 80), (600, 80)])
def test_a_short_schedule_shortens_the_ramp(name, epochs, ramp):
    made = jobs(EXPERIMENTS[name], "faces", overrides={"epochs": epochs, "net": "resnet8"})
    ramps = [job.settings.get("ramp", 80) for job in made if job.method in ("one", "okddip", "one-attached")]
    assert ramps == [ramp] * 2
    if name == "table2":
        records = [made_up("baseline", 40, epochs=epochs), made_up("one", 30, epochs=epochs, ramp=ramp)]
        assert rows(name, records)[0]["ONE"].error.mean == 30


made_up = partial(samples.made_up, net="resnet14", epochs=10, train=100)


def three_seeds(**more):
    wrong = {"baseline": 40, "stochastic-depth": 38, "sto": 35}
    return [made_up(method, wrong[method] + seed, seed, **more) for method in wrong for seed in range(3)]


def rows(experiment, records, **more):
    found, *_ = tables_of(EXPERIMENTS[experiment], records, **more)  # the one with most records comes first
    return {row.cell.label: row for row in found.rows}, found


def test_table_from_records():
    found, table = rows("table3", three_seeds())
    plain, sto = found["baseline"], found["STO"]
    assert (plain.error.mean, plain.error.seeds, plain.best) == (41, 3, 40.5)
    assert sto.gain.mean == 5 and sto.gain.low == sto.gain.high == 5
    assert sto.verdict == "better" and sto.claimed is None and sto.p < 0.05
    assert not table.faithful and "100 training images" in table.protocol
    absent = found["without distillation (λ = 0)"]
    assert absent.verdict == "not measured" and absent.error is absent.cost is None
    base = costs.forward("resnet14", 32, 1).total * 3 * 100 * 10
    assert plain.cost == base and sto.cost == pytest.approx(base * costs.step_cost(STO(), "resnet14", 32, 1))


@pytest.mark.parametrize(("text", "seeds"), [("0-2", [0, 1, 2]), ("4", [4]), ("0,2, 5-6,2", [0, 2, 5, 6])])
def test_seeds(text, seeds):
    assert read_seeds(text) == seeds
    for wrong in ("", "a", "3-1", "1-", "-1", "1,,2", "1.5"):
        with pytest.raises(ValueError, match="0-4 or 0,2,5"):
            read_seeds(wrong)


def test_seeds_are_paired_and_missing_ones_left_out():
    runs = (("baseline", 40, 0), ("baseline", 50, 1), ("sto", 35, 1), ("sto", 30, 2))
    found, _ = rows("table3", [made_up(*run) for run in runs])
    assert found["STO"].gain.mean == 15 and found["STO"].gain.seeds == 1
    assert found["STO"].error.mean == 32.5 and found["STO"].verdict == "undecided"


def test_other_settings_are_other_rows_and_other_protocols_other_tables():
    found, _ = rows("table3", [*three_seeds(), made_up("sto", 1, 5, lam=0.0), made_up("sto", 99, 6, lam=0.7)])
    assert found["STO"].error.seeds == 3
    assert found["without distillation (λ = 0)"].error.mean == 1
    records = [*three_seeds(), *three_seeds(epochs=20), *three_seeds(train=200), *three_seeds(net="resnet8")]
    assert len(tables_of(EXPERIMENTS["table3"], records)) == 4


def test_networks_are_rows_where_they_are_compared():
    each = [(net, m, e) for net in ("resnet32", "resnet50") for m, e in (("baseline", 40), ("sto", 35))]
    found, _ = rows("table1", [made_up(m, e, net=net) for net, m, e in each])
    assert found["ResNet-50 + STO"].gain.mean == 5 and found["ResNet-110"].error is None


def test_shares_of_the_epochs_and_equal_compute_find_their_records():
    runs = [made_up("baseline", 50, epochs=10)]
    runs += [made_up("baseline", 40, epochs=40), made_up("sto", 30, epochs=40)]
    assert rows("epochs", runs)[0]["baseline, a quarter of the epochs"].error.mean == 50
    runs.append(made_up("baseline", 38, epochs=round(40 * costs.step_cost(STO(), "resnet14"))))
    (table,) = tables_of(EXPERIMENTS["compute"], runs[1:])  # the longer baseline is no protocol of its own
    row = table.row("baseline, STO's compute")
    assert row.error.mean == 38 and row.gain.mean == -8, "behind STO"


def test_the_papers_protocol_is_known():
    known = {"epochs": 300, "data": "cifar100", "train": 50_000, "net": "resnet110"}
    found, table = rows("table3", three_seeds(**known))
    assert table.faithful and found["STO"].claimed == 3.73
    for change in ({"train": 49_999}, {"net": "resnet8"}, {"epochs": 299}):
        assert not rows("table3", three_seeds(**{**known, **change}))[1].faithful, change


def test_kd_records_are_told_apart_by_settings_and_teacher():
    def kd(wrong, seed, **more):
        one = made_up("baseline", wrong, seed)
        settings = {"temperature": 3.0, "lam": 0.25, "fingerprint": f"{seed}", "network": "resnet110"}
        return one | {"method": {"name": "kd", **settings, **more}}

    records = [*three_seeds(), kd(30, 0), kd(31, 1), kd(99, 2, lam=9.0), kd(99, 0, network="resnet8")]
    found, _ = rows("table2", records)
    assert found["KD, two stages"].error.mean == 30.5


def test_two_different_runs_of_one_cell_and_seed_are_refused_and_copies_are_not():
    again = made_up("sto", 35, 0)
    assert rows("table3", [*three_seeds(), again])[0]["STO"].error.seeds == 3
    with pytest.raises(RunError, match="two different runs of STO with seed 0"):
        rows("table3", [*three_seeds(), made_up("sto", 36, 0)])


def test_protocols_that_differ_are_described_differently():
    records = [*three_seeds(), *[r | {"data": {**r["data"], "fingerprint": "g"}} for r in three_seeds()]]
    slow = [r | {"config": {**r["config"], "lr": 0.05}} for r in three_seeds()]
    told = [table.protocol for table in tables_of(EXPERIMENTS["table3"], [*records, *slow])]
    assert len(set(told)) == 3 and sum("data f" in t or "data g" in t for t in told) == 2
    assert sum("lr 0.05" in t for t in told) == 1


def test_settings_written_differently_are_one_run():
    same = [Job("a", Source("faces"), "sto", s, Config()) for s in ({}, {"lam": 0.25}, {"detach": True})]
    names = {job.digest for job in same}
    assert len(names) == 1
    zero = {Job("a", Source("faces"), "sto", {"lam": value}, Config()).digest for value in (0, 0.0)}
    assert len(zero) == 1 and not zero & names


@pytest.mark.parametrize(
    ("low", "high", "seeds", "claimed", "faithful", "expected"),
    [
        (0.2, 2.0, 3, 1.5, True, "reproduced"),
        (-0.1, 2.0, 3, 1.5, True, "undecided"),
        (-0.5, 0.7, 3, 1.5, True, "not reproduced"),
        (0.1, 0.7, 3, 1.5, True, "not reproduced"),
        (0.1, 0.7, 3, 1.5, False, "better"),
        (-0.5, 0.7, 3, 1.5, False, "undecided"),
        (-0.5, -0.1, 3, 1.5, False, "worse"),
        (0.2, 2.0, 2, 1.5, True, "undecided"),
    ],
)
def test_verdicts(low, high, seeds, claimed, faithful, expected):
    gain = Interval((low + high) / 2, low, high, seeds)
    assert tables.verdict(gain, claimed, faithful) == expected
    assert tables.verdict(None, claimed) == "not measured"


def test_formats_say_the_same():
    (table,) = tables_of(EXPERIMENTS["table3"], three_seeds())
    for form in ("text", "markdown", "html", "latex"):
        text = formats.FORMATS[form](table)
        for piece in ("41.00", "+5.00", "not measured", "better", "reduced protocol"):
            assert piece in text.replace(tables.RULE, ""), (form, piece)
    assert formats.FORMATS["latex"](table).count("\\\\") == len(table.rows) + 1, "a line a row, and the head"
    runs = list(csv.DictReader(io.StringIO(formats.FORMATS["seeds"](table))))
    assert len(runs) == 9 and [r["seed"] for r in runs[:3]] == ["0", "1", "2"]
    assert {r["error"] for r in runs if r["run"] == "STO"} == {"35.0", "36.0", "37.0"}
    read = list(csv.DictReader(io.StringIO(formats.FORMATS["csv"](table))))
    assert [row["run"] for row in read] == [cell.label for cell in EXPERIMENTS["table3"].cells]
    assert read[0]["error"] == "41.0" and read[2]["error"] == "" and read[4]["gain"] == "5.0"
    assert len(formats.as_html(table, ["run", "ours"]).split("<th ")) == 3


def test_a_gain_without_a_baseline_says_so():
    (table,) = tables_of(EXPERIMENTS["table3"], [made_up("sto", 35), made_up("stochastic-depth", 38)])
    cells = formats.frame(table).set_index("run")
    assert cells.loc["STO", "gain, paired 95 %"] == "no baseline"
    assert cells.loc["baseline", "gain, paired 95 %"] == "–"
    assert cells.loc["baseline", "ours"] == "not measured"


def own_images(method, wrong, seed, subset=None, **more):
    one = made_up(method, wrong, seed, **more)
    drawn = seed if subset is None else subset
    return one | {"data": {**one["data"], "subset": drawn, "fingerprint": f"f{drawn}"}}


def test_seeds_with_subsets_of_their_own_are_one_table_and_never_mixed_with_shared_images():
    methods = (("baseline", 40), ("sto", 35))
    own = [own_images(method, wrong + seed, seed) for method, wrong in methods for seed in (3, 4, 5)]
    shared, fresh = tables_of(EXPERIMENTS["table3"], [*own, *three_seeds()])
    assert "100 training images" in shared.protocol and "each seed" not in shared.protocol
    assert "each seed its own 100 training images" in fresh.protocol
    assert [len(row.records) for row in fresh.rows] == [3, 0, 0, 0, 3]
    assert fresh.row("STO").gain.mean == 5 and fresh.row("STO").verdict == "better"


def test_which_images_seeds_have():
    """Seed 0 on subset 0, which is not written into its record, begins a ladder; other pixels are another table."""
    ladder = [own_images("baseline", 40, s) for s in (1, 2)] + [made_up("baseline", 41, 0)]
    (table,) = tables_of(EXPERIMENTS["table3"], ladder)
    assert table.row("baseline").error.seeds == 3 and "each seed its own" in table.protocol
    everybodys = [made_up("baseline", 41, seed) for seed in range(3)]
    of_seeds = [own_images("baseline", 40, seed) for seed in (1, 2, 3)]
    made = tables_of(EXPERIMENTS["table3"], everybodys + of_seeds)
    shared, fresh = sorted(made, key=lambda table: table.own_images)
    assert [r["config"]["seed"] for r in fresh.row("baseline").records] == [0, 1, 2, 3]
    assert [r["config"]["seed"] for r in shared.row("baseline").records] == [0, 1, 2]
    pairs = [own_images("baseline", 40, 3), own_images("sto", 30, 3, subset=4)]
    pairs += [own_images("sto", 35, 5), own_images("baseline", 42, 5)]
    (table,) = tables_of(EXPERIMENTS["table3"], pairs)
    assert (table.row("STO").gain.mean, table.row("STO").gain.seeds) == (7, 1), "seed and images agree"
    other = own_images("baseline", 40, 5, subset=3)
    other["data"]["fingerprint"] = "another copy"
    assert len(tables_of(EXPERIMENTS["table3"], [*pairs, other])) > 1


def test_a_table_without_a_row_of_the_whole_schedule_is_found():
    cells = [cell for cell in EXPERIMENTS["compute"].cells if cell.epochs == "sto"]
    longer = replace(EXPERIMENTS["compute"], cells=tuple(replace(cell, against=None) for cell in cells))
    epochs = [(cell, cell_epochs(cell, Config(), 32)) for cell in cells]
    records = [samples.made_up(cell.method, 40, epochs=count, **cell.settings) for cell, count in epochs]
    (table,) = tables_of(longer, records)
    assert [len(row.records) for row in table.rows] == [1] * len(cells) and "300 epochs" in table.protocol


def test_a_table_names_what_differs_from_the_usual_data_and_leaves_out_sets_without_the_split():
    easy, noisy, usual = (made_up("baseline", 40) for _ in range(3))
    easy["data"] |= {"difficulty": 0.0, "label_noise": 0.0}
    noisy["data"] |= {"difficulty": 1.0, "label_noise": 1.0}
    usual["data"] |= {"difficulty": 1.0, "label_noise": 0.0}
    told = [tables_of(EXPERIMENTS["table3"], [record])[0].protocol for record in (easy, noisy, usual)]
    assert "difficulty 0.0" in told[0] and "label noise" not in told[0]
    assert "label noise 1.0" in told[1] and "difficulty" not in told[1]
    assert "difficulty" not in told[2] and "noise" not in told[2]
    both = [made_up("baseline", 40), made_up("baseline", 40, data="cifar100")]
    (table,) = tables_of(EXPERIMENTS["table3"], both, "private")
    assert table.data == "fer2013"
    with pytest.raises(RunError, match="no test split 'public'"):
        tables_of(EXPERIMENTS["table3"], both, "public")


def test_a_ramp_of_a_method_of_ones_own_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "ramped.py").write_text(
        "from dataclasses import dataclass\nfrom sto_lite.methods import Baseline\n"
        "@dataclass(frozen=True)\nclass Mine(Baseline):\n    ramp: int = 5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cell = Cell("mine", "ramped:Mine")
    assert cell_settings(cell, 30) == {}
    assert cell_settings(Cell("ONE", "one"), 30) == {"ramp": 8}


def test_another_seed_on_a_seeds_images_takes_it_out_of_no_table():
    pairs = [own_images(m, w, s) for s in (3, 4, 5) for m, w in (("baseline", 40), ("sto", 30))]
    own, shared = tables_of(EXPERIMENTS["table3"], [*pairs, own_images("baseline", 39, 9, subset=3)])
    assert own.own_images and [r["config"]["seed"] for r in own.row("STO").records] == [3, 4, 5]
    assert not shared.own_images and len(shared.row("baseline").records) == 2
    (everybodys,) = tables_of(EXPERIMENTS["table3"], [own_images("sto", 30, s, subset=5) for s in (1, 2)])
    assert not everybodys.own_images and "own" not in everybodys.protocol


def test_verdicts_are_the_blocks():
    """The row's own three values scatter by luck; the block's noise is what counts."""
    noise = {"baseline": (0, 2, 1), "stochastic-depth": (0, 2, 1), "sto": (1, 1, 1)}
    wrong = {"baseline": 40, "stochastic-depth": 38, "sto": 36}
    records = [made_up(m, wrong[m] + noise[m][seed], seed) for m in wrong for seed in range(3)]
    found, table = rows("table3", records)
    depth, sto = found["stochastic depth"], found["STO"]
    assert depth.gain.half == 0 and depth.block.wide.half > 1 and depth.block.wide.mean == pytest.approx(2)
    assert table.block.freedom == 4 and sto.block.wide.half == pytest.approx(depth.block.wide.half)
    assert depth.verdict == tables.verdict(depth.block.wide, 0, False)
    (asked, none) = tables.ask(table, [("stochastic depth", "STO"), ("STO", "without distillation (λ = 0)")])
    assert asked.alone.mean == pytest.approx(2) and asked.wide == asked.alone and none is None


def test_questions_beside_a_table_are_adjusted_as_the_register_says():
    """Holm's procedure, although all three pairs share STO, which is where a table's own gains take Dunnett's."""
    multiple = pytest.importorskip("statsmodels.stats.multitest")
    _, table = rows("table3", read_records("fer2013-1024-subsets"))
    sto = table.row("STO")
    assert sto.block.wide.low < 0 < sto.block.alone.low and sto.verdict == "undecided", "by the wide interval"
    parts = [row.cell.label for row in table.rows if row.cell.label not in ("baseline", "STO")]
    alone = [tables.ask(table, [(part, "STO")])[0].p for part in parts]
    together = [found.p for found in tables.ask(table, [(part, "STO") for part in parts])]
    assert together == pytest.approx(multiple.multipletests(alone, method="holm")[1])


def test_the_committed_block():
    """Computed once by hand with statsmodels from the five rows and three seeds on one training subset."""
    records = [*read_records("first-walk"), *read_records("fer2013-1024")]
    records = [r for r in records if r["config"]["seed"] < 3 and not r["data"].get("subset")]
    expected = {
        "private": (1.13, {"STO": (2.49, 1.63, 3.35), "without distillation (λ = 0)": (1.77, 0.91, 2.63)}),
        "public": (1.50, {"STO": (2.88, 1.74, 4.02), "without distillation (λ = 0)": (1.83, 0.69, 2.97)}),
    }
    against_depth = {"private": (0.78, -0.08, 1.64), "public": (1.20, 0.06, 2.34)}
    for split, (half, gains) in expected.items():
        found, table = rows("table3", records, split=split)
        assert table.block.freedom == 8
        for label, values in gains.items():
            block = found[label].block
            assert block.wide.half == pytest.approx(half, abs=0.006)
            assert block.alone[:3] == pytest.approx(values, abs=0.006)
        (asked,) = tables.ask(table, [("stochastic depth", "STO")])
        assert asked.alone[:3] == pytest.approx(against_depth[split], abs=0.006)
