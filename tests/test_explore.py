"""Explorations: what their HTML and widgets hold, and what a browser makes of them."""

import json
import re

import matplotlib.pyplot as plt
import nbformat
import pytest

from sto_lite import plots
from tests.figures import Tags, draw, page_of
from tools import notebooks

pytestmark = pytest.mark.usefixtures("book_style")


CONTROLS = {"height": {"values": [1, 4, 8], "label": "the height", "default": 4}, "kind": ["line", "bar"]}


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setenv("STO_BOOK", "1")


@pytest.mark.parametrize("raster", [False, True])
def test_explore_has_a_frame_a_state(raster, book, shown):
    plots.explore(lambda height: draw(), alt="The same", height=[1, 2])
    equal = re.findall(r'\bid="([^"]*)"', page_of(shown))
    assert len(equal) == len(set(equal)), "equal frames do not share ids"
    shown.clear()
    plots.explore(draw, alt="A tent", caption="Move it.", raster=raster, **CONTROLS)
    tags = Tags(page_of(shown))
    frames = [tag for tag in tags.named("div") if tag.get("class") == "frame"]
    assert ["hidden" in frame for frame in frames] == [True, True, False, True, True, True]
    pictures = [tag.get("alt") or tag.get("aria-label") for tag in tags.named("img") + tags.named("svg")]
    assert pictures[:2] == ["A tent (the height 1, kind line)", "A tent (the height 1, kind bar)"]
    labels = {tag["for"] for tag in tags.named("label")}
    fields = tags.named("input") + tags.named("select")
    assert labels == {field["id"] for field in fields}
    assert [field["aria-label"] for field in fields] == ["the height", "kind"]
    assert tags.named("output")[0]["for"] == tags.named("input")[0]["id"]
    ids = re.findall(r'\bid="([^"]*)"', page_of(shown))
    assert len(ids) == len(set(ids))
    assert not re.search(r"http(?!://www.w3.org/2000/svg)", page_of(shown))


@pytest.mark.parametrize("kernel", [False, True])
def test_explore_refuses(kernel, monkeypatch, shown):
    monkeypatch.setenv("STO_BOOK", "" if kernel else "1")
    for controls, message in [
        ({"height": range(67), "kind": "abc"}, "not 201"),
        ({}, "1 control or more"),
        ({"height": []}, "'height' has no values"),
        ({"height": {"values": [1, 2], "default": 3}}, "default of 'height', 3"),
        ({"height": [1, 2], "alt": ""}, "alt is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.explore(draw, **{"alt": "A tent", **controls})
    if not kernel:
        with pytest.raises(TypeError, match="does draw return its figure"):
            plots.explore(lambda height: None, alt="A tent", height=[1, 2])
    assert shown == []


def test_live_widgets_redraw(monkeypatch, shown):
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.delenv("STO_BOOK", raising=False)
    drawn = []

    def spy(**values):
        drawn.append(values)
        return draw(**values)

    plots.explore(spy, alt="A tent", **CONTROLS)
    box = next(output for output in shown if isinstance(output, widgets.VBox))
    slider, menu, _ = box.children
    assert isinstance(slider, widgets.SelectionSlider)
    assert isinstance(menu, widgets.Dropdown)
    assert slider.description == "the height"
    assert drawn == [{"height": 4, "kind": "line"}]
    slider.value = 8
    menu.value = "bar"
    assert drawn[1:] == [{"height": 8, "kind": "line"}, {"height": 8, "kind": "bar"}]
    assert plt.get_fignums() == []


def visible(page):
    names = page.locator("figure svg[role=img]:visible")
    return [names.nth(index).get_attribute("aria-label") for index in range(names.count())]


def test_exploration_in_a_browser(browser, book, shown, tmp_path):
    plots.explore(draw, alt="A tent", **CONTROLS)
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{page_of(shown)}", encoding="utf-8")
    page = browser.new_page(viewport={"width": 360, "height": 640})
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(error))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert visible(page) == ["A tent (the height 4, kind line)"]
    slider = page.get_by_role("slider", name="the height")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert visible(page) == ["A tent (the height 8, kind line)"]
    assert page.locator("output").inner_text() == "8"
    assert slider.get_attribute("aria-valuetext") == "8"
    page.get_by_role("combobox", name="kind").select_option("bar")
    slider.fill("0")
    assert visible(page) == ["A tent (the height 1, kind bar)"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert problems == []
    assert len(requests) == 1  # the page itself
    page.close()


def test_default_frame_without_script(browser, book, shown):
    plots.explore(draw, alt="A tent", **CONTROLS)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(page_of(shown))
    assert page.locator(".frame:not([hidden])").count() == 1
    assert page.locator(".frame:not([hidden]) svg").is_visible()
    assert not page.locator("input").is_visible()
    context.close()


def test_ink_is_the_page_s_colour_in_a_browser(browser, shown):
    plots.show(draw(), alt="A tent")
    page = browser.new_page()
    page.set_content(f'<body style="background:#14181e;color:rgb(206, 214, 221)">{page_of(shown)}')
    title = page.get_by_text("A & B <C>")
    assert title.evaluate("element => getComputedStyle(element).fill") == "rgb(206, 214, 221)"
    page.close()


def test_the_reader_as_a_classifier_and_what_twenty_faces_say(browser):
    """Chapter 1: as wrong as the machine, right on every face, and wrong on the first five."""
    path = next(notebooks.BOOK.glob("01-*.ipynb"))
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", ())]
    (quiz,) = [o for o in outputs if 'data-sto="quiz"' in o.get("data", {}).get("text/html", "")]
    page = browser.new_page()
    page.set_content(quiz["data"]["text/html"])
    given = json.loads(page.locator('[data-sto="quiz"] [type="application/json"]').inner_text())
    truth, machine = given["truth"], given["machine"]

    def answer(labels):
        for label in labels:
            page.locator(f'[data-label="{label}"]').click()
        said = page.locator(".result").inner_text()
        for _ in labels:
            page.get_by_role("button", name="Back one face").click()
        return said

    wrong = sum(m != t for m, t in zip(machine, truth, strict=True))
    said = answer(machine)
    assert f"({wrong} of 20 wrong)" in said and "was wrong on 0 faces" in said and "13.9 %" in said
    said = answer(truth)
    assert "(0 of 20 wrong), standard error 0.0 points" in said and "13.9 %" in said
    said = answer([*((t + 1) % 7 for t in truth[:5]), *truth[5:]])
    assert "Your error: 25.0 % (5 of 20 wrong), standard error 9.7 points." in said and "13.9 %" not in said
    page.close()
