"""Print the whole book into one PDF: make pdf.

The rendered pages are put one after the other into a single page, links between them become links inside it, and
Chromium prints that with the book's print style. The PDF has bookmarks, and tags for screen readers.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite.errors import print_anything  # noqa: E402
from tools.browser import MissingError, tab  # noqa: E402
from tools.notebooks import contents  # noqa: E402

HTML = ROOT / "_build" / "html"
FOOTER = '<p style="width:100%;text-align:center;font:8pt sans-serif"><span class="pageNumber"></span></p>'
# What the page folds away of a chapter's code is not printed; of scripts, the one that computes a figure is needed.
DROPPED = (
    ".headerlink, .frame[hidden], script:not(.alive script, [src*='_static/alive']), .prev-next-footer, "
    "details.above-input, details.hide > summary"
)
COMPUTED = "() => [...document.querySelectorAll('figure.alive')].every(figure => figure.dataset.done)"
UNPRINTED = {"book/api", "book/handouts"}  # a reference, and what the chapters say themselves
SHORT, ROWS = 30, 12  # lines of code, and rows of a table, that stay on one page


class PdfError(Exception):
    """Something is missing that printing needs."""


def order(root: Path = ROOT) -> list[str]:
    """Return the pages in the order of the table of contents, such as "book/intro"."""
    names = [name.removesuffix(".ipynb") for name in contents(root)]
    return [name for name in names if name not in UNPRINTED]


def place(name: str, anchor: str = "") -> str:
    """Return the id that a page, or a place on it, has in the single page."""
    return f"{PurePosixPath(name).name}--{anchor}" if anchor else PurePosixPath(name).name


def inside(link: str, name: str, names: Sequence[str]) -> str | None:
    """Return what a link on page ``name`` becomes; None if it leads to a page that is not printed."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return link
    target = (
        os.path.normpath(PurePosixPath(name).parent / unquote(parts.path)) if parts.path else f"{name}.html"
    )
    target = target.removesuffix(".html")
    return f"#{place(target, unquote(parts.fragment))}" if target in names else None


def mark(tag: Tag, name: str) -> None:
    """Give an element one more class."""
    tag["class"] = " ".join(filter(None, [*tag.get_attribute_list("class"), name]))


def sheet(article: Tag, name: str, names: Sequence[str]) -> Tag:
    """Make one page's ``<article>`` fit to stand beside others, in place, and return it."""
    for dropped in article.select(DROPPED):
        dropped.decompose()
    for folded in article.select("details"):
        folded["open"] = ""
    for controls in article.select(".controls[hidden]"):
        del controls["hidden"]  # the values for which the figure is drawn
    for tag in article.select("[id]"):
        if not tag.find_parent("svg"):
            tag["id"] = place(name, str(tag["id"]))
    for link in article.select("a[href]"):
        if target := inside(str(link["href"]), name, names):
            link["href"] = target
        else:
            del link["href"]
    for code in article.select(".cell_input, .cell_output, div[class*=highlight-]"):
        if code.get_text().count("\n") <= SHORT and not code.select("figure, table"):
            mark(code, "short")
    for line in article.select("p:has(> strong:only-child)"):
        if line.get_text(strip=True) == one(line, "strong").get_text(strip=True):
            mark(line, "lead")
    for figure in article.select("figure.alive"):
        mark(figure, "printed")
    for table in article.select("table"):
        if len(table.select("tr")) > ROWS:
            mark(table, "long")
    article["id"] = place(name)
    article["style"] = "break-before: page"
    return article


def one(page: Tag, selector: str) -> Tag:
    """Return the element that a page of the book has to have."""
    found = page.select_one(selector)
    if found is None:
        raise PdfError(f"a page without {selector}: is _build/html what make book renders?")
    return found


def assemble(html: Path, names: Sequence[str]) -> str:
    """Return the single page that holds the pages ``names`` of the book rendered to ``html``."""
    pages = {}
    for name in names:
        path = html / f"{name}.html"
        if not path.exists():
            raise PdfError(f"{path} is missing; make book renders it")
        pages[name] = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    # All pages have the same frame, but MathJax is loaded only where there is a formula.
    frame = next(
        (page for page in pages.values() if page.select_one("script[src*=mathjax]")), pages[names[0]]
    )
    articles = [sheet(one(page, "article").extract(), name, names) for name, page in pages.items()]
    del articles[0]["style"]
    one(frame, ".bd-article-container").extend(articles)
    one(frame, "title").string = one(articles[0], "h1").get_text()
    return str(frame)


def print_page(page: Path, pdf: Path) -> None:
    """Print an HTML file, without a network, when its formulas are typeset."""
    with tab(0, offline=True, color_scheme="light") as opened:
        opened.goto(page.as_uri())
        opened.evaluate("window.MathJax?.startup?.promise.then(() => true)")
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        try:
            opened.wait_for_function(COMPUTED, timeout=120_000)
        except PlaywrightTimeout as error:
            raise PdfError(
                "the network of the page alive has not computed its figure in two minutes"
            ) from error
        opened.pdf(
            path=pdf,
            format="A4",
            scale=0.8,
            margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            outline=True,
            tagged=True,
        )


def main() -> int:
    """Write ``_build/student-teacher-oneness.pdf``; return the exit status."""
    print_anything()
    names = order()
    pdf = ROOT / "_build" / "student-teacher-oneness.pdf"
    single = HTML / Path(names[0]).parent / "whole-book.html"  # beside the pages, so that images are found
    try:
        single.write_text(assemble(HTML, names), encoding="utf-8")
        print_page(single, pdf)
    except (PdfError, MissingError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        single.unlink(missing_ok=True)
    print(f"The book is printed: {pdf}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
