"""What every test starts from: the smallest scale, the same examples in every run, and one browser."""

import os
import shutil

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
def root(tmp_path):
    """Where prepared sets go; not there yet."""
    return tmp_path / "root"


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would display, in order."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", outputs.append)
    return outputs


@pytest.fixture(scope="module")  # two at once cannot be, and proofs start their own
def browser():
    """Chromium without a network of its own; where there is none, the test is skipped, or fails in CI."""
    program = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if program is None:
        message = "there is no chromium (install it, or set CHROMIUM to its path)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    quiet = ["background-networking", "component-update", "sync", "quic", "gpu"]
    flags = ["--headless=new", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()
