"""The built book works for its readers: offline, on a phone, with a screen reader; and no link is dead."""

import os
import re
import shutil
from contextlib import contextmanager
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

BOOK = Path(__file__).resolve().parents[1] / "_build" / "html"
CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))
QUIET = ["background-networking", "component-update", "sync", "quic", "gpu"]
LOADING = {
    "stylesheet",
    "icon",
    "shortcut",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
}
PHONE = {"width": 360, "height": 740}

if not (BOOK / "index.html").exists():
    if os.environ.get("CI"):
        raise FileNotFoundError("there is no built book to test; make test builds it first")
    pytest.skip("the book is not built (make book)", allow_module_level=True)

PAGES = sorted({*BOOK.rglob("*.html")} - {*BOOK.joinpath("_static").rglob("*.html"), BOOK / "index.html"})
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


class Page(HTMLParser):
    """What of a page can be tested without a browser."""

    def __init__(self, source):
        super().__init__()
        self.anchors, self.links, self.loaded, self.unnamed = set(), [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag in {"a", "link"} and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.links.append(values["src"])
            self.loaded.append(values["src"])
        if tag == "link" and LOADING & set(values.get("rel", "").lower().split()):
            self.loaded.append(values["href"])
        self.loaded += re.findall(r"[^\s,]+(?=\s+[\d.]+[wx])", values.get("srcset", ""))
        self.loaded += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))
        if tag == "object":
            self.loaded.append(values.get("data", ""))
        if tag == "img" and not values.get("alt", "").strip():
            self.unnamed.append(values.get("src", "")[:80])


@cache
def parsed(path):
    return Page(path.read_text(encoding="utf-8"))


def dead(page):
    """Links inside the book that lead nowhere."""
    for link in parsed(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link == "#":
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.is_file():
            yield f"{link}: no such file"
        elif target.suffix == ".html" and unquote(parts.fragment) not in {"", *parsed(target).anchors}:
            yield f"{link}: no such place on the page"


def outside(addresses):
    """Those addresses that a reader without a network could not load."""
    return [address for address in addresses if urlsplit(address).netloc]


@each_page
def test_links_inside_the_book_lead_somewhere(page):
    assert list(dead(page)) == []


@each_page
def test_nothing_is_loaded_from_elsewhere(page):
    assert outside(parsed(page).loaded) == []


def test_style_sheets_load_nothing_from_elsewhere():
    for sheet in BOOK.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8"))
        assert outside(loaded) == [], sheet


@each_page
def test_every_image_has_a_description(page):
    assert parsed(page).unnamed == []


def test_the_parser_sees_what_it_should():
    page = Page(
        '<p id="here"><img src="https://a.org/x.png"><link rel="stylesheet" href="//b.org/y.css">'
        '<a href="https://c.org">a link may lead out</a><i style="background: url(http://d.org/z)"></i>'
    )
    assert page.anchors == {"here"}
    assert page.unnamed == ["https://a.org/x.png"]
    assert outside(page.loaded) == ["https://a.org/x.png", "//b.org/y.css", "http://d.org/z"]


def test_dead_links_are_seen(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html">1</a><a href="#x">2</a><p id="y"><a href="a.html#y">3</a>'
    )
    assert list(dead(tmp_path / "a.html")) == ["b.html: no such file", "#x: no such place on the page"]


# ----------------------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        message = "there is no chromium (install it, or set CHROMIUM to its path)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--headless=new", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextmanager
def tab_of(browser):
    """An empty tab without a network, that notes in ``tab.trouble`` all that goes wrong."""
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.trouble = []
    tab.on("console", lambda message: message.type == "error" and tab.trouble.append(message.text))
    tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
    tab.on("requestfailed", lambda request: tab.trouble.append(f"failed: {request.url}"))
    tab.on(
        "request", lambda request: outside([request.url]) and tab.trouble.append(f"outside: {request.url}")
    )
    yield tab
    context.close()


@pytest.fixture
def tab(browser):
    with tab_of(browser) as tab:
        yield tab


def show(tab, address):
    """Open a page and wait until its equations are typeset."""
    tab.goto(address)
    tab.evaluate("window.MathJax?.startup?.promise.then(() => true)")


UNTYPESET = """() => [...document.querySelectorAll("article .math, article mjx-merror")]
    .filter(e => e.matches("mjx-merror") || !e.querySelector("mjx-container")).map(e => e.textContent)"""

STICKING_OUT = """() => {
    const scrolls = e => e && !e.matches("article")
        && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const text = "p, li, dt, h1, h2, h3, h4, figcaption, svg, img, table, pre, mjx-container, select, input";
    return [...document.querySelectorAll("article")].flatMap(article => [...article.querySelectorAll(text)])
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement))
        .map(e => e.outerHTML.slice(0, 120));
}"""


@pytest.fixture(scope="module")
def seen(browser):
    """What a browser without a network finds on a page, first on a desk and then on a phone in dark mode."""

    @cache
    def look(page):
        with tab_of(browser) as tab:
            show(tab, page.as_uri())
            tab.set_viewport_size(PHONE)
            tab.emulate_media(color_scheme="dark")
            width = tab.evaluate("document.scrollingElement.scrollWidth")
            return tab.trouble, tab.evaluate(UNTYPESET), width, tab.evaluate(STICKING_OUT)

    return look


@each_page
def test_opens_without_a_network_and_without_an_error(seen, page):
    trouble, _, _, _ = seen(page)
    assert trouble == []


@each_page
def test_equations_are_typeset(seen, page):
    _, untypeset, _, _ = seen(page)
    assert untypeset == []


@each_page
def test_fits_a_phone(seen, page):
    _, _, width, sticking_out = seen(page)
    assert width <= PHONE["width"]
    assert sticking_out == []


def test_the_index_leads_to_the_first_page(tab):
    tab.goto((BOOK / "index.html").as_uri())
    tab.wait_for_url("**/book/intro.html")


def test_search_finds_a_page(tab):
    show(tab, (BOOK / "search.html").as_uri() + "?q=teacher")
    tab.wait_for_selector("#search-results li a", timeout=10_000)
    assert tab.trouble == []


def test_what_does_not_fit_a_phone_is_seen(tab):
    tab.set_viewport_size(PHONE)
    tab.set_content(
        '<article><p style="width: 500px">wide</p><pre><p style="width: 500px">wide</p></pre></article>'
    )
    assert len(tab.evaluate(STICKING_OUT)) == 2
    tab.add_style_tag(content="pre { overflow-x: auto }")
    assert len(tab.evaluate(STICKING_OUT)) == 1


def test_equations_that_are_not_typeset_are_seen(tab):
    tab.set_content(
        '<article><span class="math">x</span><span class="math"><mjx-container/></span></article>'
    )
    assert tab.evaluate(UNTYPESET) == ["x"]


def test_trouble_is_seen(tab):
    tab.goto("about:blank")
    tab.set_content(
        '<script>console.error("loud"); no_such_function()</script><img src="https://example.org/a.png">'
    )
    assert {"loud", "no_such_function is not defined", "outside: https://example.org/a.png"} <= set(
        tab.trouble
    )
