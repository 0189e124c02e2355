"""What every test starts from: the smallest scale, and the same examples in every run."""

import os

import pytest
from hypothesis import settings

from tests import lanes_device as lanes_device  # before anything imports Triton

os.environ.setdefault("STO_SCALE", "smoke")

settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")


@pytest.fixture
def book_style():
    """The figures' style, for this test alone."""
    matplotlib = pytest.importorskip("matplotlib")
    from sto_lite import plots

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        plots.style()
        yield
    matplotlib.pyplot.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would display, in order."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", outputs.append)
    return outputs
