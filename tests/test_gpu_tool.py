"""tools/gpu.py without a GPU: what it keeps, skips and cuts off."""

import itertools
import json
import multiprocessing
import os
import time

import pytest
import torch

pytest.importorskip("triton")
from sto_lite.speed.lanes import selftest
from sto_lite.speed.lanes.tiles import Tile, tuned
from tools import gpu


def good():
    yield {"first": 1}
    yield {"first": 1, "second": 2}


def failing():
    yield {"first": 1}
    raise ZeroDivisionError("no such share")


def dying():
    yield {"first": 1}
    os._exit(1)


def hanging():
    yield {"first": 1}
    time.sleep(600)


PLAN = [gpu.Section(f.__name__, f, (), 600) for f in (good, failing, dying)]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The tool as a rehearsal, into a folder."""
    monkeypatch.setattr(gpu, "at", gpu.rehearsal(tmp_path))


@pytest.fixture
def begun(monkeypatch):
    """Names of sections that were begun; a stand-in finds at once."""
    names = []

    def apart(section, seconds):
        names.append(section.name)
        yield {"seconds": seconds}

    monkeypatch.setattr(gpu, "apart", apart)
    return names


def test_a_section_that_fails_leaves_the_others_alone(toy, monkeypatch, request):
    """Its error stands in the report with what it found; the same call again begins those that failed alone.

    A report is partial while its section runs, so that a call which is killed then is not taken for a whole one.
    """
    kept, keep = [], gpu.keep
    monkeypatch.setattr(gpu, "keep", lambda path, report: kept.append(dict(report)) or keep(path, report))
    path = gpu.measure(PLAN, time.monotonic() + 600)
    so_far = [one | {"error": "not ended"} for one in ({}, {"first": 1}, {"first": 1, "second": 2})]
    assert [report["good"] for report in kept[:4]] == [*so_far, {"first": 1, "second": 2}]
    report = json.loads(path.read_text())
    assert report["good"] == {"first": 1, "second": 2}
    assert report["failing"] == {"first": 1, "error": "ZeroDivisionError: no such share"}
    assert report["dying"] == {"first": 1, "error": "its process died"}
    assert report["not begun"] == [] and not multiprocessing.active_children()
    names = request.getfixturevalue("begun")  # a stand-in from here on
    gpu.measure(PLAN, time.monotonic() + 600)
    again = json.loads(path.read_text())
    assert names == ["failing", "dying"] and all(again[name].keys() == {"seconds"} for name in names)
    assert again == report | {name: again[name] for name in names}


def test_a_section_that_hangs_is_cut_off(toy):
    *_, last = gpu.apart(gpu.Section("hanging", hanging, (), 600), 3)
    assert last["error"] == "cut off after 3 s" and not multiprocessing.active_children()


def test_what_the_time_does_not_hold_is_not_begun(toy, begun):
    report = json.loads(gpu.measure(PLAN, time.monotonic() + gpu.LEAST).read_text())
    assert begun == [] and report["not begun"] == ["good", "failing", "dying"]
    report = json.loads(gpu.measure(PLAN, time.monotonic() + 100).read_text())
    assert begun == report["not begun"] + ["good", "failing", "dying"]
    assert 80 < report["good"]["seconds"] <= 100  # less than its limit


def test_a_report_of_other_kernels_is_not_gone_on_with(toy, begun):
    path = gpu.measure(PLAN, time.monotonic() + 100)
    gpu.measure(PLAN, time.monotonic() + 100)
    assert len(begun) == 3
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kernels": "others"}))
    gpu.measure(PLAN, time.monotonic() + 100)
    assert len(begun) == 6


def test_out_takes_report_and_tiles(tmp_path, monkeypatch, capsys):
    """In a call that holds nothing."""
    monkeypatch.setattr(gpu, "at", gpu.at)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "card", lambda: "Test card")
    monkeypatch.setattr(gpu.records, "environment", lambda device: {})
    assert gpu.main(["--out", str(tmp_path / "new"), "--minutes", "0"]) == 0
    assert gpu.at.table == tmp_path / "new" / "tuned.json"
    report = json.loads((tmp_path / "new" / "Test-card.json").read_text())
    assert report["not begun"] == [section.name for section in gpu.sections()]
    assert report["not begun"][:4] == ["self-test bf16", "whole run of STO, s", "marks, ms", "row, s"]
    assert capsys.readouterr().out.count("not begun, there is no time left") == len(report["not begun"])


def test_the_table_is_written_after_each_round(toy, monkeypatch):
    """With the best tiles so far; and the self-test is made anew with them."""
    times = itertools.count(1000, -1)
    monkeypatch.setattr(gpu, "microseconds", lambda call: float(next(times)))
    monkeypatch.setattr(selftest, "fault", lambda *_: None)
    selftest.proved.cache_clear()
    tables = []
    for found in gpu.tile_search(0, 1):
        tables.append(dict(tuned("rehearsal", gpu.at.table)))
        assert tables[-1].keys() == found.keys()
        assert selftest.proved.cache_info().currsize == 0
        assert selftest.proved("resnet8", "float32", 8, 2, gpu.at.device) == ({}, {})
    first, second = tables
    assert all(first[key] != second[key] for key in first)
    for key, tile in second.items():
        assert isinstance(tile, Tile) and found[key][str([*vars(tile).values()])] == min(found[key].values())
    selftest.proved.cache_clear()
