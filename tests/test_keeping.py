"""Kept runs outlive the runtime, and a run of other settings or other code is never taken for this one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sto_lite import keeping
from sto_lite.config import Config
from sto_lite.methods import STO
from sto_lite.scale import Scale
from sto_lite.train import fit
from tests.samples import tiny

CPU = torch.device("cpu")
CONFIG = Config("resnet8", epochs=3, batch_size=32, evaluate_every=3)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("STO_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def images():
    return tiny(count=64)


def test_nothing_is_kept_at_smoke(runs):
    assert Scale("smoke", CPU).keep("first", CONFIG) is None


def test_a_folder_for_each_scale_and_setting(runs, images):
    scale = Scale("colab", CPU)
    other = replace(images, splits={**images.splits, "private": images.splits["train"]})
    asked = [
        scale.keep("first", STO(), CONFIG, images),
        scale.keep("second", STO(), CONFIG, images),
        Scale("paper", CPU).keep("first", STO(), CONFIG, images),
        scale.keep("first", STO(lam=0.5), CONFIG, images),
        scale.keep("first", STO(), replace(CONFIG, seed=1), images),
        scale.keep("first", STO(), CONFIG, other),
        scale.keep("first", STO(), CONFIG, images, "by another rule"),
    ]
    assert len(set(asked)) == len(asked) and {path.parent for path in asked} == {runs}
    assert scale.keep("first", STO(), replace(CONFIG), images) == asked[0]
    assert asked[0].name.startswith("first-colab-")


def test_photographs_in_another_size_are_another_run():
    """Their fingerprint is made before they are resized."""
    small, large = tiny(size=8), tiny(size=16)
    for images in (small, large):
        object.__setattr__(images, "source", "0123456789abcdef")
    assert keeping.digest(small) != keeping.digest(large)


def test_what_has_no_lasting_name_is_refused():
    with pytest.raises(TypeError):
        keeping.digest(object())


def test_cells_that_are_run_again_go_on_at_the_last_epoch(runs, images, monkeypatch):
    epochs = []

    def cell(dies_in=None):
        """What a chapter's cell does."""

        class Noted(STO):
            def step(self, model, images, labels, generator, epoch=0):
                if epoch == dies_in:
                    raise KeyboardInterrupt
                epochs.append(epoch)
                return super().step(model, images, labels, generator, epoch)

        method = Noted()
        folder = Scale("colab", CPU).keep("trial", method, CONFIG, images)
        return fit(method, images, CONFIG, out=folder, device="cpu", progress=False)

    with pytest.raises(KeyboardInterrupt):
        cell(dies_in=2)
    assert epochs == [0, 0, 1, 1]
    record = cell().record
    assert epochs == [0, 0, 1, 1, 2, 2] and len(record["history"]["train_loss"]) == 3
    assert cell().record == record and len(epochs) == 6


# What a notebook defines lies in __main__, so a notebook is played by a program of its own.
NOTEBOOK = """
from dataclasses import dataclass
from sto_lite.keeping import digest
from sto_lite.methods import STO
FACTOR = 2
def double(x, *, more=0.5):
    return (lambda y: FACTOR * y + more)(x)
class Mine(STO):
    def step(self, model, images, labels, generator, epoch=0):
        "A step."
        return double(super().step(model, images, labels, generator, epoch))
    @staticmethod
    def helper():
        return {"a", "b", "c"} | {1}
def later():
    return 1
def watched(method):
    class Watched(Mine):
        def deploy(self, model):
            return method(model)
    return Watched()
print(digest(Mine()), digest(watched(double)))
"""


def digests(source):
    namespace = {"__name__": "__main__"}
    exec(source.replace("print(", "found = ("), namespace)
    return namespace["found"]


def test_code_of_the_notebook_counts_and_nothing_else_of_it():
    same = digests(NOTEBOOK)
    another = [sys.executable, "-c", NOTEBOOK]  # as after a restart, with sets in another order
    shown = subprocess.run(another, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert tuple(shown.stdout.split()) == same
    assert digests("# a comment\n\n" + NOTEBOOK.replace("return 1\n", "return 2\n")) == same
    for old, new in {
        "FACTOR = 2": "FACTOR = 3",
        "FACTOR * y": "FACTOR + y",
        "more=0.5": "more=0.25",
        "double(super().step": "(super().step",
        '"c"} |': '"d"} |',
    }.items():
        assert NOTEBOOK.count(old) == 1
        changed = digests(NOTEBOOK.replace(old, new))
        assert changed[0] != same[0] and changed[1] != same[1], new
    # A global that is called like an attribute is not used; where a class stands (Python 3.13) does not count.
    assert digests("step = 1\n" + NOTEBOOK) == digests("step = 2\n" + NOTEBOOK) == same
    moved = NOTEBOOK.replace("class Mine(STO):", "class Mine(STO):\n    __firstlineno__ = 7")
    assert digests(moved) == digests(moved.replace("= 7", "= 8"))
    changed = digests(NOTEBOOK.replace("return method(model)", "return method(None)"))
    assert changed[0] == same[0] and changed[1] != same[1]
    assert digests(NOTEBOOK.replace("watched(double)", "watched(later)"))[1] != same[1]


@pytest.mark.parametrize(
    ("variable", "there", "colab", "path", "words"),
    [
        ("~/elsewhere", "drive", True, "home/elsewhere", "the folder that STO_RUNS names"),
        ("", "drive", True, "drive/sto-runs", "sto-runs on Google Drive"),
        ("", "kaggle", False, "kaggle/sto-runs", "sto-runs in Kaggle's working folder"),
        ("", "", True, "home/sto-runs", "mount Google Drive first"),
        ("", "", False, "home/sto-runs", "~/sto-runs"),
    ],
)
def test_where_runs_are_kept(variable, there, colab, path, words, tmp_path, monkeypatch):
    for name in filter(None, ("home", there)):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STO_RUNS", variable)
    monkeypatch.setattr(keeping, "DRIVE", tmp_path / "drive")
    monkeypatch.setattr(keeping, "KAGGLE", tmp_path / "kaggle")
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", json)
    assert keeping.folder() == tmp_path / path
    assert words in keeping.where() and str(tmp_path) not in keeping.where()
