"""The cells of chapters 8 and 9 that train: three scales, a clock that is stubbed, a table that fills."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sto_lite.experiments import live as module
from sto_lite.experiments.evidence import find_design
from sto_lite.experiments.live import PLANS, TOY, live
from sto_lite.records import read_records
from sto_lite.scale import SCALES, Scale
from tests.processes import look_alike


@pytest.fixture
def boards(monkeypatch):
    """What the cell displays, one a set: every state that it was shown in."""
    made = []

    def display(html, display_id=None):
        states = [html.data]
        made.append(SimpleNamespace(states=states, update=lambda html: states.append(html.data)))
        return made[-1]

    monkeypatch.setattr("IPython.display.display", display)
    return made


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Tiny stand-ins for FER-2013 and RAF-DB, and plans as small as they are."""
    monkeypatch.setenv("STO_DATA", str(tmp_path / "data"))
    look_alike(tmp_path / "data")
    rng, arrays = np.random.default_rng(0), {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 255, (64, 100, 100, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 7, 64, dtype=np.uint8)
    np.savez(tmp_path / "data" / "rafdb.npz", **arrays)
    small = {name: plan._replace(protocol={**TOY, "epochs": 1}) for name, plan in PLANS.items()}
    small["paper"] = small["paper"]._replace(seeds=range(2))
    monkeypatch.setattr(module, "PLANS", small)
    return tmp_path


def at(name):
    return Scale(name, torch.device("cpu"))


def test_every_scale_has_a_plan_that_fits_the_protocol():
    assert tuple(PLANS) == SCALES and PLANS["paper"].protocol == {} and len(PLANS["paper"].seeds) == 5
    assert PLANS["smoke"].minutes <= 5 and PLANS["colab"].minutes <= 15


def test_smoke_trains_a_toy_on_faces_whatever_is_prepared(photographs, boards, capsys):
    live(at("smoke"), "table3", None)
    (board,) = boards
    assert len(board.states) == 1 + 5, "once for each run"
    assert "5 runs on faces" in board.states[0] and "5 of 5 runs" in board.states[-1]
    assert "a toy, not a result" in board.states[-1]
    filled = [state.count("not measured") for state in board.states[1:]]
    assert filled == sorted(filled, reverse=True) and filled[0] > 0 and filled[-1] == 0
    assert capsys.readouterr().out == ""


def test_colab_takes_each_set_that_is_there_and_stands_beside_the_book(photographs, boards, capsys):
    records = read_records("first-walk") + read_records("fer2013-[0-9]*")
    book = find_design(records, False)
    live(at("colab"), "table3", photographs / "runs", book)
    fer, raf, theirs = boards
    assert "5 runs on fer2013" in fer.states[0] and "5 runs on rafdb" in raf.states[0]
    assert "Trained here" in fer.states[-1] and "a toy" not in fer.states[-1]
    said = capsys.readouterr().out
    assert "Beside it the book's own records, of " in said and "1024" in theirs.states[0].replace(",", "")
    live(at("colab"), "table3", photographs / "runs")
    assert "left" not in capsys.readouterr().out and "5 of 5 runs" in boards[-1].states[-1]


def test_paper_scale_stops_when_the_clock_says_so_and_goes_on(photographs, boards, capsys):
    (photographs / "data" / "rafdb.npz").unlink()
    seconds = iter(range(0, 10_000_000, 4000))  # each look at the clock is 4,000 s later
    live(at("paper"), "table3", photographs / "runs", clock=lambda: next(seconds))
    told = capsys.readouterr().out
    first = len(boards[0].states) - 1
    assert 0 < first < 10 and f"{10 - first} of 10 runs on fer2013 are left" in told
    assert "run the cell again, and it goes on" in told
    live(at("paper"), "table3", photographs / "runs")
    assert "10 of 10 runs" in boards[1].states[-1] and "left" not in capsys.readouterr().out


def test_without_photographs_faces_stand_in_and_a_teacher_is_trained_first(tmp_path, monkeypatch, boards):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    monkeypatch.setattr(module, "PLANS", {"colab": PLANS["smoke"]._replace(protocol={**TOY, "epochs": 1})})
    live(at("colab"), "table2", tmp_path / "runs")
    assert "7 runs on faces" in boards[0].states[0] and "KD, two stages" in boards[0].states[-1]
    assert boards[0].states[-1].count("not measured") == 0


def test_whoever_has_little_time_gets_the_pair_of_baseline_and_sto(photographs, boards, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "take_turns", lambda todo, *_, **__: seen.extend(todo) or [])
    live(at("smoke"), "table2", None)
    labels = [job.label for job in seen]
    assert labels[:2] == ["baseline", "STO"] and labels[-1] == "KD, two stages"
    assert labels[-2].startswith("teacher"), "which has to be trained before its student"


def test_a_run_that_fails_is_told_and_the_others_are_trained(tmp_path, monkeypatch, boards, capsys):
    plan = PLANS["smoke"]._replace(protocol={**TOY, "epochs": 1})
    monkeypatch.setattr(module, "PLANS", {"smoke": plan})
    from sto_lite.methods import StochasticDepth

    def broken(*_):
        raise RuntimeError("this method is broken")

    monkeypatch.setattr(StochasticDepth, "deploy", broken)
    live(at("smoke"), "table3", None)
    told = capsys.readouterr().out
    assert told.count("this method is broken") == 4
    assert "4 of 5 runs on faces are left: nothing is kept" in told
