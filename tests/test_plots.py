"""Figures: what their HTML holds, and what the helpers draw."""

import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from sto_lite import plots
from tests.figures import Tags, draw, page_of

pytestmark = pytest.mark.usefixtures("book_style")


@pytest.mark.parametrize("alt", ["", "  "])
def test_alt_is_required(alt, shown):
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show(draw(), alt=alt)
    assert shown == []


@pytest.mark.parametrize("raster", [False, True])
def test_one_output_and_the_figure_is_closed(raster, shown):
    for _ in range(2):  # the same figure gives the same HTML
        plots.show(draw(), alt='Up & "down"', caption="1 < 2", raster=raster)
    assert shown[0]._repr_html_() == shown[1]._repr_html_()
    assert repr(shown[0]) == 'Figure: Up & "down"' and plt.get_fignums() == []
    tags = Tags(shown[0]._repr_html_())
    assert tags.named("figure")[0]["class"] == "sto"
    assert "1 &lt; 2</figcaption>" in shown[0]._repr_html_()
    drawn = tags.named("img" if raster else "svg")[0]
    if raster:
        assert drawn["alt"] == 'Up & "down"' and drawn["src"].startswith("data:image/png;base64,")
    else:
        assert (drawn["role"], drawn["aria-label"]) == ("img", 'Up & "down"')
        assert "max-width:576px" in drawn["style"]


def test_ids_are_unique_and_references_resolve(shown):
    plots.show(draw(1), alt="one")
    plots.show(draw(2), alt="two")
    html = page_of(shown)
    ids = re.findall(r'\bid="([^"]*)"', html)
    references = re.findall(r'(?:url\(#|href="#)([^")]+)', html)
    assert len(ids) == len(set(ids)) > 0
    assert set(references) == set(ids)


def test_ink_follows_the_page(shown):
    fig = draw()
    fig.axes[0].text(1, 2, "black", color="black")
    fig.axes[0].axhline(1, color=plots.INK)
    plots.show(fig, alt="ink")
    html = page_of(shown)
    assert plots.INK not in html
    assert "#000000" not in html
    assert html.count("currentColor") > 10
    assert plots.COLOURS["stochastic-depth"] in html  # the first colour for lines without a role


def test_nothing_superfluous_or_leaking(shown):
    plots.show(draw(), alt="small")
    html = page_of(shown)
    assert not re.search(r"<metadata|<!--|<style|<\?xml|<!DOCTYPE|http(?!://www.w3.org/2000/svg)", html)
    coordinates = " ".join(re.findall(r' (?:d|x|y)="([^"]*)"', html))
    assert re.search(r"\d\.\d\d\b", coordinates)
    assert not re.search(r"\d\.\d{3}", coordinates)
    assert "A &amp; B &lt;C&gt;</text>" in html
    assert len(html) < 9000


def luminance(colour):
    rgb = matplotlib.colors.to_rgb(colour)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_colours_have_contrast():
    for role in plots.COLOURS:
        for background in ("#ffffff", "#14181e"):
            dark, light = sorted((luminance(plots.COLOURS[role]), luminance(background)))
            assert (light + 0.05) / (dark + 0.05) >= 3, (role, background)


def test_methods_differ_without_colour():
    methods = [role for role in plots.COLOURS if role != "teacher"]  # STO's teacher is what STO deploys
    assert len({str(plots.LINESTYLES[role]) for role in methods}) == len(methods)
    assert len({plots.MARKERS[role] for role in methods}) == len(methods)
    assert len({plots.COLOURS[role] for role in methods}) == len(methods)


def test_line_takes_a_role():
    assert plots.line("sto", label="mine")["label"] == "mine"
    with pytest.raises(ValueError, match=r"no role 'stop'.*baseline"):
        plots.line("stop")


@pytest.mark.parametrize(("spread", "low", "high"), [("range", 0, 4), ("std", 2 - 2, 2 + 2)])
def test_band(spread, low, high):
    _, ax = plt.subplots()
    plots.band(ax, [0, 1], [[0, 0], [2, 2], [4, 4]], "dml", spread=spread)
    assert ax.lines[0].get_ydata().tolist() == [2, 2]
    box = ax.collections[0].get_datalim(ax.transData)
    assert (box.y0, box.y1) == pytest.approx((low, high))


def test_band_of_one_seed_and_of_wrong_shape():
    _, ax = plt.subplots()
    plots.band(ax, [0, 1, 2], [1, 2, 3], "sto")
    assert len(ax.lines) == 1
    assert len(ax.collections) == 0
    with pytest.raises(ValueError, match=r"\(seeds, 3\)"):
        plots.band(ax, [0, 1, 2], [[1, 2]], "sto")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels_as", [torch.tensor, np.array, list])
def test_image_grid_holds_the_pixels(channels, labels_as):
    images = torch.randint(0, 256, (5, channels, 24, 24), dtype=torch.uint8)
    fig = plots.image_grid(images, labels_as([0, 1, 0, 1, 0]), columns=3, titles=["sad", "happy"])
    sheet = fig.axes[0].images[0].get_array()
    top = sheet.shape[0] // 2
    bottom_right = sheet[top + top - 25 : top + top - 1, 25:49]  # fifth image: second row, second column
    assert np.array_equal(bottom_right[..., :3], images[4].expand(3, 24, 24).permute(1, 2, 0).numpy())
    assert bottom_right[..., 3].min() == 255
    assert [text.get_text() for text in fig.axes[0].texts] == ["sad", "happy", "sad", "happy", "sad"]


def test_image_grid_refuses():
    with pytest.raises(ValueError, match="uint8"):
        plots.image_grid(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="2 images but 1 label"):
        plots.image_grid(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), ["a"])


def test_nothing_heavy_is_imported():
    code = "import sys, sto_lite.plots; print({'matplotlib', 'ipywidgets', 'IPython'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
