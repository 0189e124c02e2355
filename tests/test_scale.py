"""The scale of a notebook's runs: where it comes from, what it picks, what it says."""

import re

import pytest
import torch

from sto_lite.errors import DataError, StoError
from sto_lite.scale import SCALES, Scale, begin

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No STO_SCALE, no GPU: each test sets what it needs."""
    monkeypatch.delenv("STO_SCALE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")


def said(capsys) -> str:
    """What was printed, which must be one paragraph of short lines; as one line."""
    printed = capsys.readouterr().out
    assert "\n\n" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    return " ".join(printed.split())


@pytest.mark.parametrize("variable", [None, ""])
def test_hardware_decides(variable, monkeypatch, capsys):
    if variable is not None:
        monkeypatch.setenv("STO_SCALE", variable)
    assert begin("1 Data") == Scale("smoke", CPU)
    assert "no CUDA GPU was found" in said(capsys)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert begin("1 Data") == Scale("colab", torch.device("cuda"))
    assert "Device: Test GPU" in said(capsys)


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("gpu", [False, True])
def test_environment_decides(name, gpu, monkeypatch, capsys):
    monkeypatch.setenv("STO_SCALE", name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert begin("1 Data") == Scale(name, torch.device("cuda" if gpu else "cpu"))
    text = said(capsys)
    assert f"Scale: {name} (from STO_SCALE)" in text
    assert ("not a result" in text) == (name == "smoke")
    assert ("Without a GPU" in text) == (name != "smoke" and not gpu)


def test_what_does_not_exist_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="tiny"):
        begin("1 Data", {"tiny": 1})
    with pytest.raises(DataError, match="'fer2012'.*fer2013"):
        begin("9 For instance", data="fer2012")
    monkeypatch.setenv("STO_SCALE", "large")
    with pytest.raises(StoError, match=r"'large'.*smoke, colab or paper"):
        begin("1 Data")


def test_one_paragraph_without_paths(capsys):
    begin("3 Stochastic depth", {"smoke": 1, "colab": 4}, keeps=True)
    text = said(capsys)
    assert text.startswith("Chapter 3 Stochastic depth. Scale: smoke")
    assert "Data: synthetic faces." in text
    assert "Time to expect: about 1 minute." in text
    assert not re.search(r"(^|\s)(/|~|[A-Z]:\\)\w", text)


def test_time_in_words(capsys):
    words = {0.4: "under a minute", 1: "about 1 minute.", 4: "about 4 minutes", 150: "about 2.5 hours"}
    for minutes, told in words.items():
        begin("1 Data", {"smoke": minutes})
        assert told in said(capsys)
    begin("1 Data", {"paper": 600})  # not measured at this scale
    assert "Time to expect" not in said(capsys)


def test_data_that_is_prepared_is_used_and_else_faces_stand_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    assert begin("9 For instance", data="fer2013").data == "faces"
    text = said(capsys)
    assert "Data: synthetic faces. FER-2013 is not prepared here" in text and "prepare fer2013" in text
    (tmp_path / "fer2013.npz").touch()
    assert begin("9 For instance", data="fer2013").data == "fer2013"
    text = said(capsys)
    assert "Data: FER-2013." in text and "prepared" not in text and str(tmp_path) not in text


def test_it_says_whether_and_where_runs_are_kept(monkeypatch, capsys):
    for name, words in {"smoke": "No run is kept.", "colab": "Runs are kept in ~/sto-runs. "}.items():
        monkeypatch.setenv("STO_SCALE", name)
        begin("6 STO", keeps=True)
        assert words in said(capsys)
        begin("1 Data")
        assert "kept" not in said(capsys)


def test_pick():
    smoke, colab, paper = (Scale(name, CPU) for name in SCALES)
    assert [scale.pick(smoke=1, colab=2, paper=3) for scale in (smoke, colab, paper)] == [1, 2, 3]
    assert [scale.pick(smoke=1, colab=2) for scale in (smoke, colab, paper)] == [1, 2, 2]
    assert paper.pick(smoke=1, colab=2, paper=None) is None


def test_generators_are_fresh_and_seeded():
    state = torch.random.get_rng_state()
    scale = Scale("smoke", CPU, seed=7)
    draws = [torch.rand(3, generator=scale.generator(offset)) for offset in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[2], torch.rand(3, generator=torch.Generator().manual_seed(8)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_threads_are_left_alone_and_the_seed_is_kept():
    threads = torch.get_num_threads()
    assert begin("1 Data", seed=3).seed == 3
    assert torch.get_num_threads() == threads


def test_a_chapter_that_trains_in_one_cell_says_where_and_for_how_long(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("STO_RUNS", str(tmp_path))
    told = []
    for name in ("smoke", "colab"):
        monkeypatch.setenv("STO_SCALE", name)
        assert begin("8 E", {"smoke": 1, "colab": 15}, data="records", keeps=True).data == "faces"
        told.append(capsys.readouterr().out.replace("\n", " "))
    assert "one cell trains: scale smoke (from STO_SCALE), device CPU" in told[0]
    assert "it is not a result" in told[0]
    assert "about 15 minutes" in told[1] and "the cells again: they go on" in told[1]
    assert "trains nothing" not in told[0] and "not prepared" not in told[0]


def test_a_chapter_that_reads_records_says_the_same_everywhere(monkeypatch, capsys):
    said = []
    for name in ("smoke", "paper"):
        monkeypatch.setenv("STO_SCALE", name)
        begin("8 Experiments", data="records")
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "trains nothing" in said[0].replace("\n", " ") and "Scale:" not in said[0]
