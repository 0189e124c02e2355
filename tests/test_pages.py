"""The built book works for its readers: offline, on a phone, with a screen reader; and no link is dead."""

import importlib
import os
import re
from contextlib import contextmanager
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from tools.address import COLAB, repository

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "_build" / "html"
LOADING = {"icon", "shortcut", "stylesheet", "preload", "prefetch", "preconnect"}
LOADING |= {"dns-prefetch", "modulepreload"}
DESK, PHONE = {"width": 1280, "height": 720}, {"width": 360, "height": 740}

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
def test_links_lead_somewhere_nothing_is_loaded_from_elsewhere_and_images_are_described(page):
    assert list(dead(page)) == []
    assert outside(parsed(page).loaded) == []
    assert parsed(page).unnamed == []


def test_style_sheets_load_nothing_from_elsewhere():
    for sheet in BOOK.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8"))
        assert outside(loaded) == [], sheet


@each_page
def test_launch_links_lead_to_the_repository_or_are_not_there(page):
    links = parsed(page).links
    launching = [link for link in links if link.startswith(COLAB) or "/hub/user-redirect/" in link]
    found, notebook = repository(), page.relative_to(BOOK).with_suffix(".ipynb").as_posix()
    if found and (ROOT / notebook).exists():
        assert len(launching) == len(found.launch_buttons.keys() - {"notebook_interface"})
        assert all(urlsplit(found.url).path.split("/")[2] in link and notebook in link for link in launching)
    else:
        assert launching == []


def test_the_parser_sees_what_it_should(tmp_path):
    page = Page(
        '<p id="here"><img src="https://a.org/x.png"><link rel="stylesheet" href="//b.org/y.css">'
        '<a href="https://c.org">a link may lead out</a><i style="background: url(http://d.org/z)"></i>'
    )
    assert page.anchors == {"here"} and page.unnamed == ["https://a.org/x.png"]
    assert outside(page.loaded) == ["https://a.org/x.png", "//b.org/y.css", "http://d.org/z"]
    html = '<a href="b.html">1</a><a href="#x">2</a><p id="y"><a href="a.html#y">3</a>'
    (tmp_path / "a.html").write_text(html)
    assert list(dead(tmp_path / "a.html")) == ["b.html: no such file", "#x: no such place on the page"]


@contextmanager
def tab_of(browser, server=""):
    """An empty tab that notes in ``tab.trouble`` all that goes wrong; it has no network, but for ``server``."""
    context = browser.new_context(offline=not server)
    context.set_default_timeout(90_000)  # a page waits for its share of a busy machine
    tab = context.new_page()
    tab.trouble = []

    def requested(request):
        if urlsplit(request.url).netloc not in {"", server}:
            tab.trouble.append(f"outside: {request.url}")

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # as when the reader goes on before an icon has come
            tab.trouble.append(f"failed: {request.url}")

    tab.on("console", lambda message: message.type == "error" and tab.trouble.append(message.text))
    tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
    tab.on("requestfailed", failed)
    tab.on("request", requested)
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
    const out = ({left, right, width}) => width && (left < -1 || right > innerWidth + 1);
    return [...document.querySelectorAll("article")].flatMap(article => [...article.querySelectorAll(text)])
        .filter(e => out(e.getBoundingClientRect()) && !scrolls(e.parentElement))
        .map(e => e.outerHTML.slice(0, 120));
}"""

UNREACHABLE = """() => [...document.querySelectorAll("a[href], button, input, select, summary, textarea")]
    .filter(e => e.tabIndex !== 0 && e.checkVisibility({visibilityProperty: true, opacityProperty: true}))
    .map(e => e.outerHTML.slice(0, 120))"""

WIDE = '<p style="width: 500px">wide</p>'
# Contrast of each figure's own text colour with what lies behind it, in the colours of the moment.
FIGURE_CONTRAST = """() => {
    const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
    const behind = e => {
        const colour = e && numbers(getComputedStyle(e).backgroundColor);
        return e ? (colour.length < 4 || colour[3] > 0 ? colour : behind(e.parentElement)) : [255, 255, 255];
    };
    const luminance = ([r, g, b]) => [r, g, b].map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    return [...document.querySelectorAll("figure.sto svg")].map(e => {
        const [low, high] = [numbers(getComputedStyle(e).fill), behind(e)].map(luminance).sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    });
}"""

# Of what axe would look at a thousand times over, a few of each kind are left: a colour of code, a line of a table of
# contents, an entry of the reference, a figure; and of words of one colour on one ground, in parts of one kind.
THIN = """() => {
    document.querySelectorAll(".frame[hidden]").forEach(e => e.remove());
    document.querySelectorAll("figure.sto svg").forEach(e => e.replaceChildren());
    document.querySelectorAll("mjx-container").forEach(e => e.replaceChildren("x"));
    const seen = {}, isMore = (kind, than) => (seen[kind] = (seen[kind] || 0) + 1) > than;
    document.querySelectorAll("dl.py, nav li, .genindextable li").forEach(e => isMore(e.className, 5) && e.remove());
    document.querySelectorAll("pre span:not(:has(*)), .sig span:not(:has(*)), a > code > span")
        .forEach(e => isMore(e.className, 2) && e.replaceWith(e.textContent));
    const kind = e => e.matches("article")
        ? "" : `${kind(e.parentElement)} ${e.tagName}.${e.className} ${getComputedStyle(e).backgroundColor}`;
    [...document.querySelectorAll("article :is(p, li, td, dd, em, strong, code, span, mjx-container)")]
        .filter(e => !e.closest("th, a, button, summary, label") && isMore(kind(e) + getComputedStyle(e).color, 3))
        .forEach(e => [...e.childNodes].forEach(c => c.data && c.remove()));
}"""

AXE = """async rules => (await axe.run(document, {preload: false, resultTypes: ["violations"], ...rules})).violations
    .flatMap(({id, nodes}) => nodes.map(({html, any}) => [id, `${html.slice(0, 160)} ${any[0]?.message || ""}`]))"""

# What axe finds and the theme causes: {rule: why it stays}. Empty, and better kept so.
FAULTS_OF_THE_THEME: dict[str, str] = {}


def violations(tab, **rules):
    """What axe has to say about the page in the colours of the moment."""
    return [f"{rule}: {where}" for rule, where in tab.evaluate(AXE, rules) if rule not in FAULTS_OF_THE_THEME]


def stuck_solutions(tab):
    """Folded parts that the keyboard does not open and close; all are open afterwards."""
    for summary in tab.query_selector_all("article details > summary")[:3]:  # the others are like these
        before, *states = [summary.evaluate("e => { e.focus(); return e.parentElement.open }")]
        for key in ("Enter", "Space"):
            tab.keyboard.press(key)
            states.append(summary.evaluate("e => e.parentElement.open"))
        if states != [not before, before]:
            yield summary.text_content()
    tab.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")


def stuck_controls(tab):
    """Sliders and menus that do not change the picture."""
    visible = "e => [...e.closest('figure').querySelectorAll('.frame')].findIndex(frame => !frame.hidden)"
    for slider in tab.locator("figure[data-sto] input[type=range]").all():
        before = slider.evaluate(visible)
        slider.press("ArrowLeft" if slider.input_value() == slider.get_attribute("max") else "ArrowRight")
        if slider.evaluate(visible) == before:
            yield slider.get_attribute("aria-label")
    for menu in tab.locator("figure[data-sto] select:has(option + option)").all():
        before = menu.evaluate(visible)
        menu.select_option(index=0 if menu.input_value() != "0" else 1)
        if menu.evaluate(visible) == before:
            yield menu.get_attribute("aria-label")


@pytest.fixture(scope="module")
def seen(browser):
    """What a browser without a network finds on a page: on a desk, in the dark, and on a phone."""
    axe = (Path(importlib.import_module("axe_playwright_python").__file__).parent / "axe.min.js").read_text()

    def look(page):
        found = SimpleNamespace()
        with tab_of(browser) as tab:
            show(tab, page.as_uri())
            tab.add_style_tag(content="* { transition: none !important }")  # no colour between two others
            found.untypeset = tab.evaluate(UNTYPESET)
            found.stuck = [*stuck_solutions(tab), *stuck_controls(tab)]
            found.unreachable = tab.evaluate(UNREACHABLE)
            found.figures = tab.evaluate(FIGURE_CONTRAST)
            tab.emulate_media(color_scheme="dark")
            found.figures_in_the_dark = tab.evaluate(FIGURE_CONTRAST)
            tab.set_viewport_size(PHONE)
            found.width = tab.evaluate("document.scrollingElement.scrollWidth")
            found.sticking_out = tab.evaluate(STICKING_OUT)
            tab.set_viewport_size(DESK)
            tab.emulate_media(color_scheme="light")
            tab.evaluate(THIN)
            tab.evaluate(axe)
            found.violations = violations(tab)
            tab.emulate_media(color_scheme="dark")
            found.violations_in_the_dark = violations(tab, runOnly=["color-contrast"])
            found.trouble = tab.trouble
        return found

    return look


@each_page
def test_a_page_works_for_its_readers(seen, page):
    found = seen(page)
    assert found.trouble == [], "it opens without a network and without an error"
    assert found.untypeset == [], "equations are typeset"
    assert found.stuck == [], "solutions unfold by keyboard, and explorations move"
    assert min([*found.figures, *found.figures_in_the_dark], default=21) >= 7, "figures follow light and dark"
    assert found.width <= PHONE["width"] and found.sticking_out == [], "it fits a phone"
    assert found.violations == found.violations_in_the_dark == found.unreachable == [], "it is accessible"


def test_the_index_leads_to_the_first_page(tab):
    tab.goto((BOOK / "index.html").as_uri())
    tab.wait_for_url("**/book/intro.html")


def test_typing_a_word_finds_a_page(tab):
    show(tab, (BOOK / "book" / "intro.html").as_uri())
    tab.get_by_role("button", name="Search").first.click()
    tab.keyboard.type("teacher")
    tab.keyboard.press("Enter")
    # Results come in one by one, and those that are better come before: a click on the first has to await the last.
    tab.locator(".search-summary", has_text="Search finished").wait_for()
    tab.locator("#search-results li a").first.click()
    tab.wait_for_selector("article mark, article .highlighted, article h1")
    assert tab.trouble == []


def test_the_keyboard_walks_through_a_page(tab):
    show(tab, (BOOK / "book" / "glossary.html").as_uri())
    visited, unmarked = [], []
    for _ in range(200):
        tab.keyboard.press("Tab")
        name, outlined = tab.evaluate("""() => {
            const e = document.activeElement, style = getComputedStyle(e);
            const text = e.textContent.trim().replaceAll("\u00a0", " ");
            return [text || e.outerHTML, style.outlineStyle !== "none" || style.boxShadow !== "none"];
        }""")
        visited.append(name)
        if not outlined:
            unmarked.append(name)
        if name.startswith("Equation 3"):
            break
    assert visited[0] == "Skip to main content"
    assert {"Bibliography", "chapter 1", "Equation 3"} <= {*visited}
    assert unmarked == []


def test_the_reader_chooses_light_or_dark(tab):
    show(tab, (BOOK / "book" / "intro.html").as_uri())
    switch, themes = tab.locator("button.theme-switch-button:visible").first, set()
    for _ in range(3):
        switch.click()
        themes.add(tab.evaluate("document.documentElement.dataset.theme"))
    assert themes == {"light", "dark"}


def test_works_under_a_path_of_a_web_server(browser):
    handler = partial(QuietHandler, directory=BOOK.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        with tab_of(browser, server=address) as tab:
            tab.on("response", lambda got: got.status < 400 or tab.trouble.append(f"missing: {got.url}"))
            tab.goto(f"http://{address}/{BOOK.name}/")
            tab.wait_for_url("**/book/intro.html")
            tab.locator("article a[href*='notation.html']").first.click()
            tab.wait_for_url(f"http://{address}/{BOOK.name}/book/notation.html")
            show(tab, f"http://{address}/{BOOK.name}/search.html?q=teacher")
            tab.wait_for_selector("#search-results li a", timeout=10_000)
            assert tab.trouble == []
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/favicon.ico":  # a browser asks the site for it, not the book
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *arguments):
        pass


def test_print_leaves_out_what_only_serves_the_screen(tab):
    show(tab, (BOOK / "book" / "intro.html").as_uri())
    screen_only = "#pst-primary-sidebar, .bd-header-article, .prev-next-footer, #pst-secondary-sidebar"
    shown = f"[...document.querySelectorAll('{screen_only}')].filter(e => e.checkVisibility()).length"
    assert tab.evaluate(shown) > 0
    tab.emulate_media(media="print")
    assert tab.evaluate(shown) == 0
    assert tab.locator("h1:visible").count() == 1


@pytest.mark.parametrize(
    ("html", "script", "expected"),
    [
        ('<article><span class="math">x</span><span class="math"><mjx-container/></span></article>', UNTYPESET, 1),
        ('<button>a</button><a href="#" tabindex="-1">b</a><a href="#" tabindex="2">c</a>', UNREACHABLE, 2),
        (f"<article>{WIDE}<pre>{WIDE}</pre></article>", STICKING_OUT, 2),
        (f"<style>pre {{ overflow-x: auto }}</style><article>{WIDE}<pre>{WIDE}</pre></article>", STICKING_OUT, 1),
    ],
)  # fmt: skip
def test_what_these_checks_are_for_is_seen(html, script, expected, tab):
    tab.set_viewport_size(PHONE)
    tab.set_content(html)
    assert len(tab.evaluate(script)) == expected


def test_trouble_is_seen(tab):
    tab.goto("about:blank")
    image = '<img src="https://example.org/a.png">'
    tab.set_content(f'<script>console.error("loud"); no_such_function()</script>{image}')
    expected = {"loud", "no_such_function is not defined", "outside: https://example.org/a.png"}
    assert expected <= set(tab.trouble)


def test_faint_figures_are_seen(tab):
    tab.set_content("""<figure class="sto" style="background: #fff">
        <svg fill="#777"></svg><svg style="background: #000; fill: #fff"></svg></figure>""")
    assert [round(contrast, 1) for contrast in tab.evaluate(FIGURE_CONTRAST)] == [4.5, 21]


def test_stuck_solutions_and_controls_are_seen(tab):
    tab.set_content("""<article><details><summary>fine</summary></details>
        <details><summary onclick="event.preventDefault()">stuck</summary></details>
        <figure data-sto="x"><input type="range" max="2" aria-label="slider"><div class="frame"></div></figure>
        </article>""")
    assert [*stuck_solutions(tab), *stuck_controls(tab)] == ["stuck", "slider"]
