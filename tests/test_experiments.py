"""Experiments as lists of runs, their jobs, and the tables made from records."""

import csv
import io
import json

import pytest

from sto_lite import costs, registry
from sto_lite.__main__ import given, parser, read_seeds
from sto_lite.config import Config, plain
from sto_lite.errors import RunError
from sto_lite.experiments import formats, paper, tables
from sto_lite.experiments.jobs import OVERRIDES, SCALES, Job, Source, cell_epochs, jobs
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.experiments.tables import tables as tables_of
from sto_lite.methods import STO
from sto_lite.stats import Interval


def test_the_papers_numbers():
    """Typed from the paper's tables a second time, so that a slip shows."""
    one, two, three = (EXPERIMENTS[f"table{n}"].cells for n in (1, 2, 3))
    assert [c.paper["fer2013"] for c in one] == [32.85, 31.33, 31.83, 30.38, 32.35, 30.48, 31.72, 31.27]
    assert [c.paper["rafdb"] for c in one] == [18.55, 17.80, 17.67, 16.43, 19.62, 16.53, 17.54, 17.33]
    gains = [
        tables.claimed_gain(c, EXPERIMENTS["table1"], d) for c in one[1::2] for d in ("fer2013", "rafdb")
    ]
    assert gains == [1.52, 0.75, 1.45, 1.24, 1.87, 3.09, 0.45, 0.21]
    assert [(c.paper["fer2013"], c.paper["rafdb"]) for c in two if c.paper] == [
        (32.19, 18.55),
        (31.91, 18.48),
        (31.90, 17.85),
        (31.40, 17.42),
        (31.33, 17.80),
    ]
    assert [c.paper["cifar100"] for c in three] == [25.33, 22.61, 22.63, 23.15, 21.60]


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
    for job in jobs(
        EXPERIMENTS[name], "faces", [3], scale, {"drop_at": [0.4], "augment": False, "limit": 100}
    ):
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
    (first, *_) = jobs(
        EXPERIMENTS["table3"], "faces", scale="smoke", overrides={"net": "resnet8", "epochs": 7}
    )
    assert (first.config.net, first.config.epochs, first.source.size) == ("resnet8", 7, 8)
    with pytest.raises(ValueError, match="no setting depth"):
        jobs(EXPERIMENTS["table3"], "faces", overrides={"depth": 3})
    with pytest.raises(ValueError, match="compares networks"):
        jobs(EXPERIMENTS["table1"], "faces", overrides={"net": "resnet8"})
    with pytest.raises(ValueError, match="no experiment is called 'table4'"):
        paper.find("table4")
    assert "seed" not in OVERRIDES


def test_equal_compute():
    """NOTES: 1.736 baseline steps for ResNet-32, so 521 epochs."""
    cell = next(c for c in EXPERIMENTS["compute"].cells if c.epochs == "sto")
    assert cell_epochs(cell, Config(), 32) == 521


@pytest.mark.parametrize(("net", "ratio"), [("resnet32", 1.736), ("resnet50", 1.741), ("resnet110", 1.750)])
def test_step_cost(net, ratio):
    assert costs.step_cost(STO(), net) == pytest.approx(ratio, abs=1e-3)


def test_step_cost_of_the_other_methods():
    total, _, top = costs.forward("resnet32")
    assert round(total / 1e6, 2) == 69.12
    cost = {
        name: costs.step_cost(registry.make(name), "resnet32")
        for name in ("baseline", "dml", "one", "okddip")
    }
    assert cost["baseline"] == 1 and cost["dml"] == 3
    assert cost["one"] == pytest.approx(1 + 2 * top / total)
    assert cost["okddip"] == pytest.approx(1 + 3 * top / total)
    assert costs.step_cost(STO(teacher_backward=False), "resnet32") == pytest.approx(0.736 + 1 / 3, abs=1e-3)
    assert costs.step_cost(STO(students=2), "resnet32") == pytest.approx(1 + 2 * 0.7366, abs=1e-3)


@pytest.mark.parametrize(("text", "seeds"), [("0-2", [0, 1, 2]), ("4", [4]), ("0,2, 5-6,2", [0, 2, 5, 6])])
def test_seeds(text, seeds):
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1,,2", "1.5"])
def test_what_is_no_seeds(text):
    with pytest.raises(ValueError, match="0-4 or 0,2,5"):
        read_seeds(text)


# ----------------------------------------------------------------------------------------------------- tables


def made_up(method, wrong, seed=0, epochs=10, net="resnet14", data="fer2013", train=100, **settings):
    """A record whose first `wrong` of 100 images are wrong."""
    labels = [0] * 100
    return {
        "config": plain(Config(net=net, epochs=epochs, seed=seed)),
        "method": {"name": method, **plain(registry.make(method, **settings))},
        "data": {"name": data, "size": 32, "counts": {"train": train}, "fingerprint": "f"},
        "result": {"test": {"error": float(wrong), "best_error": wrong - 1.0, "best_epoch": 3}},
        "labels": {"test": labels},
        "predictions": {"test": [1] * wrong + [0] * (100 - wrong)},
        "history": {},
    }


def three_seeds(**more):
    return [
        made_up(method, wrong + seed, seed, **more)
        for method, wrong in (("baseline", 40), ("stochastic-depth", 38), ("sto", 35))
        for seed in range(3)
    ]


def rows(experiment, records, **more):
    found, *_ = tables_of(EXPERIMENTS[experiment], records, **more)  # the one with most records comes first
    return {row.cell.label: row for row in found.rows}, found


def test_table_from_records():
    found, table = rows("table3", three_seeds())
    assert (found["baseline"].error.mean, found["baseline"].error.seeds, found["baseline"].best) == (
        41,
        3,
        40,
    )
    sto = found["STO"]
    assert sto.gain.mean == 5 and sto.gain.low == sto.gain.high == 5
    assert sto.verdict == "better" and sto.claimed is None and sto.p < 0.05
    assert found["without distillation (λ = 0)"].verdict == "not measured"
    assert found["without distillation (λ = 0)"].error is None
    assert not table.faithful and "100 training images" in table.protocol


def test_seeds_are_paired_and_missing_ones_left_out():
    records = [
        made_up("baseline", 40, 0),
        made_up("baseline", 50, 1),
        made_up("sto", 35, 1),
        made_up("sto", 30, 2),
    ]
    found, _ = rows("table3", records)
    assert found["STO"].gain.mean == 15 and found["STO"].gain.seeds == 1
    assert found["STO"].error.mean == 32.5 and found["STO"].verdict == "undecided"


def test_other_settings_are_other_rows():
    found, _ = rows("table3", [*three_seeds(), made_up("sto", 1, 5, lam=0.0), made_up("sto", 99, 6, lam=0.7)])
    assert found["STO"].error.seeds == 3
    assert found["without distillation (λ = 0)"].error.mean == 1


def test_protocols_are_never_mixed():
    records = [*three_seeds(), *three_seeds(epochs=20), *three_seeds(train=200), *three_seeds(net="resnet8")]
    assert len(tables_of(EXPERIMENTS["table3"], records)) == 4


def test_networks_are_rows_where_they_are_compared():
    records = [
        made_up(m, w, net=n) for n in ("resnet32", "resnet50") for m, w in (("baseline", 40), ("sto", 35))
    ]
    found, _ = rows("table1", records)
    assert found["ResNet-50 + STO"].gain.mean == 5 and found["ResNet-110"].error is None


def test_shares_of_the_epochs_and_equal_compute_find_their_records():
    records = [
        made_up("baseline", 50, epochs=10),
        made_up("baseline", 40, epochs=40),
        made_up("sto", 30, epochs=40),
    ]
    found, _ = rows("epochs", records)
    assert found["baseline, a quarter of the epochs"].error.mean == 50
    cost = round(40 * costs.step_cost(STO(), "resnet14"))
    found, _ = rows("compute", [*records[1:], made_up("baseline", 38, epochs=cost)])
    assert found["baseline, STO's compute"].error.mean == 38 and found["STO"].gain.mean == 8


def test_the_papers_protocol_is_known():
    whole = three_seeds(epochs=300, data="cifar100", train=50_000, net="resnet110")
    found, table = rows("table3", whole)
    assert table.faithful and found["STO"].claimed == 3.73
    for change in ({"train": 49_999}, {"net": "resnet8"}, {"epochs": 299}):
        known = {"epochs": 300, "data": "cifar100", "train": 50_000, "net": "resnet110", **change}
        assert not rows("table3", three_seeds(**known))[1].faithful, change


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


def test_a_longer_baseline_is_no_protocol_of_its_own():
    cost = round(40 * costs.step_cost(STO(), "resnet14"))
    records = [
        made_up("baseline", 40, epochs=40),
        made_up("sto", 30, epochs=40),
        made_up("baseline", 38, epochs=cost),
    ]
    assert len(tables_of(EXPERIMENTS["compute"], records)) == 1


def test_protocols_that_differ_are_described_differently():
    records = [*three_seeds(), *[r | {"data": {**r["data"], "fingerprint": "g"}} for r in three_seeds()]]
    slow = [r | {"config": {**r["config"], "lr": 0.05}} for r in three_seeds()]
    told = [table.protocol for table in tables_of(EXPERIMENTS["table3"], [*records, *slow])]
    assert len(set(told)) == 3 and sum("data f" in t or "data g" in t for t in told) == 2
    assert sum("lr 0.05" in t for t in told) == 1


def test_a_short_schedule_shortens_the_ramp():
    ramps = {}
    for epochs in (30, 300, 600):
        made = jobs(EXPERIMENTS["table2"], "faces", overrides={"epochs": epochs, "net": "resnet8"})
        ramps[epochs] = {
            job.method: job.settings.get("ramp", 80) for job in made if job.method in ("one", "okddip")
        }
    assert ramps == {
        30: {"one": 8, "okddip": 8},
        300: {"one": 80, "okddip": 80},
        600: {"one": 80, "okddip": 80},
    }
    records = [made_up("baseline", 40, epochs=30), made_up("one", 30, epochs=30, ramp=8)]
    assert rows("table2", records)[0]["ONE"].error.mean == 30


def test_settings_written_differently_are_one_run():
    names = {
        Job("a", Source("faces"), "sto", s, Config()).digest for s in ({}, {"lam": 0.25}, {"detach": True})
    }
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
    for form in ("text", "markdown", "html"):
        text = formats.FORMATS[form](table)
        for piece in ("41.00", "+5.00", "not measured", "better", "reduced protocol"):
            assert piece in text.replace(tables.RULE, ""), (form, piece)
    read = list(csv.DictReader(io.StringIO(formats.FORMATS["csv"](table))))
    assert [row["run"] for row in read] == [cell.label for cell in EXPERIMENTS["table3"].cells]
    assert read[0]["error"] == "41.0" and read[2]["error"] == "" and read[4]["gain"] == "5.0"
    assert len(formats.as_html(table, ["run", "ours"]).split("<th")) == 3


def test_the_committed_records_are_found():
    from sto_lite.records import read_records

    found, _ = rows("table3", read_records("first-walk"))
    assert [found[label].error.seeds for label in ("baseline", "stochastic depth", "STO")] == [1, 1, 1]
    assert json.dumps(found["STO"].records[0]["result"])
