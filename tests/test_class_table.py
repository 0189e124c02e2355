"""A class's table: what counts, what is pooled, and that equal methods get no winner."""

import copy
import re

import numpy as np
import pytest

from sto_lite import homework as handed_in
from sto_lite.config import Config
from sto_lite.data import load
from sto_lite.records import encode, named
from sto_lite.registry import make
from sto_lite.train import fit
from tools import class_table, homework

pytest.importorskip("nbgrader", reason="nbgrader is not installed (the extra 'book')")

ARMS = {"paper": make("sto"), "no detach": make("sto", detach=False)}
ARMS |= {"no backward": make("sto", teacher_backward=False), "lam=0": make("sto", lam=0.0)}


@pytest.fixture(scope="module")
def record():
    images = load("faces", size=8, limit=32, difficulty=0.5)
    config = Config(net="resnet8", epochs=1, batch_size=32)
    return fit(make("sto"), images, config, progress=False).record


def submit(course, student, record, seeds, errors):
    """A submission whose form is right, with the errors asked for: of each arm, plus noise of two points."""
    folder = course / "submitted" / student / "gradients" / "records"
    rng = np.random.default_rng(seeds[0])
    for label, method in ARMS.items():
        for seed in seeds:
            one = copy.deepcopy(record)
            one["method"], one["config"]["seed"] = named(method), seed
            labels = np.array(one["labels"]["test"])
            wrong = rng.random(len(labels)) < (errors[label] + 2 * rng.standard_normal()) / 100
            one["predictions"]["test"] = np.where(wrong, (labels + 1) % 7, labels).tolist()
            error = handed_in.recomputed(one, "test")
            one["result"]["test"] = {"error": error, "best_error": error, "best_epoch": 1}
            one["history"] |= {"test_error": [error], "train_loss": [float(rng.random())]}
            path = folder / f"{handed_in.slug(label)}-s{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(one))
    handed_in.write(folder, handed_in.summarise(handed_in.read(folder), ARMS, "paper"))


@pytest.fixture(scope="module")
def course(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("years") / "2031"
    errors = {"paper": 30, "no detach": 30, "no backward": 45, "lam=0": 30}
    for number in range(5):
        submit(folder, f"student{number}", record, range(3 * number, 3 * number + 3), errors)
    submit(folder, "copyist", record, range(3), errors)
    submit(folder, "forger", record, range(90, 93), errors)
    forged = folder / "submitted" / "forger" / "gradients" / "records" / "summary.json"
    forged.write_text(re.sub(r'"paper": [\d.]+', '"paper": 1.0', forged.read_text()))
    return folder


def test_a_class_is_pooled_and_ranked_only_where_it_can_be(course, tmp_path, capsys):
    assert class_table.main(["gradients", str(course), str(course), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"not counted: forger: summary.json: mean / paper is 1.0", told)
    assert re.search(r"not counted: student0: has runs of copyist; counted once", told)
    text = (tmp_path / "class.md").read_text()
    assert "5 students, 15 seeds, 1 protocol." in text
    row = next(line for line in text.splitlines() if line.startswith("| no backward"))
    assert row.endswith("| 4 |"), "15 points are told from noise"
    row = next(line for line in text.splitlines() if line.startswith("| lam=0"))
    assert row.endswith("| 1 to 3 |")
    assert "Undecided against paper: no detach, lam=0. Nobody won there." in text
    assert not re.search("student0|copyist|forger", text), "a page has no names"
    assert (tmp_path / "forest.png").stat().st_size > 5_000


def test_records_of_the_book_do_not_count(course, monkeypatch):
    source = homework.read(homework.SOURCES / "gradients.md")
    assert class_table.collect(source, course, "gradients").errors["paper"].keys() >= {"student1"}
    monkeypatch.setattr(homework, "SOURCES", course / "submitted" / "student1" / "gradients")
    found = class_table.collect(source, course, "gradients")
    assert "student1: has records of the book" in found.said
    assert "student1" not in found.errors["paper"] and "student2" in found.errors["paper"]


def test_years_are_rows(course, record, tmp_path):
    other = tmp_path / "2032"
    for number in range(3):
        errors = dict.fromkeys(ARMS, 40)
        submit(other, f"s{number}", record, range(50 + 3 * number, 53 + 3 * number), errors)
    class_table.main(["gradients", str(course), str(other), "--out", str(tmp_path / "page")])
    rows = re.findall(r"^\| 203\d .*$", (tmp_path / "page" / "class.md").read_text(), re.M)
    assert [row.split("|")[2].strip() for row in rows] == ["5", "3"]


def test_an_empty_course_is_told(tmp_path, capsys):
    assert class_table.main(["gradients", str(tmp_path)]) == 1
    assert "holds no submission of gradients" in capsys.readouterr().err


def simulate(rng, students=8, differs=1.0):
    """A class of four equal methods: students differ in level, and in the gain itself; some ran more seeds."""
    errors = {label: {} for label in ARMS}
    for student in range(students):
        level = rng.normal(30, 5)
        for label in ARMS:
            own = level + rng.normal(0, differs)
            errors[label][student] = {seed: own + rng.normal(0, 1.5) for seed in range(3 + student % 3)}
    return errors


def test_of_2000_classes_of_equal_methods_at_most_one_in_twenty_gets_a_winner():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(2000):
        places = class_table.rank(class_table.fit(simulate(rng)))
        false += any(place != (1, len(ARMS)) for place in places.values())
    assert 0 < false / 2000 <= 0.05


def test_heterogeneity_is_found_where_it_is(course):
    rng = np.random.default_rng(1)
    told = [class_table.measure_heterogeneity(simulate(rng, 60, d), "paper", "lam=0") for d in (0.0, 3.0)]
    assert told[0][0] < 0.8 and told[0][1] > 0.05
    assert told[1][0] == pytest.approx(3 * 2**0.5, rel=0.25) and told[1][1] < 1e-6
    source = homework.read(homework.SOURCES / "gradients.md")
    found = class_table.collect(source, course, "gradients")
    assert class_table.measure_heterogeneity(found.errors, "paper", "lam=0") is not None
