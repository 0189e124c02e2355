"""A reader in JupyterLab, played by a real browser: opens a chapter, runs all of it, and moves what can be moved."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tools.proofs.places import MissingError, ProofError

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
]
LONG = 300_000  # ms: the machine may be busy
# JupyterLab numbers a cell when it is done; a cell that waits shows a star. Out of sight, only textContent is there.
DONE = r"""() => {
    const prompts = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")];
    const texts = prompts.map(e => e.textContent);
    return /\[\d+\]/.test(texts.at(-1)) && !texts.some(text => text.includes("*"));
}"""
FAULT = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
EXPLORATION = ".jp-OutputArea-output .widget-vbox:has(figure.sto)"


@contextlib.contextmanager
def tab() -> Iterator["Page"]:
    """Give an empty tab of Chromium.

    Raises:
        MissingError: there is no Chromium.
    """
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if chromium is None:
        raise MissingError("there is no chromium (install it, or set CHROMIUM to its path)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(LONG)
        page.set_default_navigation_timeout(LONG)
        yield page
        browser.close()


def run_all(page: "Page", expected: int, minutes: float = 10) -> int:
    """Run the chapter that is open in JupyterLab, and move its sliders and menus; return how many figures moved.

    Raises:
        ProofError: a cell failed, not as many figures as expected have controls, or one did not answer.
    """
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=LONG)
    page.get_by_text("| Idle").wait_for(timeout=LONG)  # before its kernel is there, JupyterLab runs nothing
    for entry in ("Run", "Run All Cells"):
        page.get_by_role("menuitem", name=entry, exact=True).click()
    page.wait_for_function(f'() => ({DONE})() || document.querySelector("{FAULT}")', timeout=minutes * 60_000)
    if page.locator(FAULT).count():
        raise ProofError(f"a cell fails in JupyterLab:\n{page.locator(FAULT).first.inner_text()}")
    for cell in page.locator(".jp-Notebook .jp-Cell").all():  # what was never in sight is not drawn
        cell.evaluate("e => e.scrollIntoView()")
        page.wait_for_timeout(50)
    page.wait_for_timeout(1000)
    explorations = page.locator(EXPLORATION).all()
    if len(explorations) != expected:
        raise ProofError(f"{len(explorations)} of {expected} figures have their sliders and menus")
    for number, exploration in enumerate(explorations, 1):
        if not moves(exploration):
            raise ProofError(f"exploration {number} does not answer to its control")
    return len(explorations)


def moves(exploration: "Locator") -> bool:
    """Move an exploration's first control, by the keyboard; return whether another figure came."""
    figure, slider = exploration.locator("figure.sto").first, exploration.locator("[role=slider]")
    figure.scroll_into_view_if_needed()
    before = figure.inner_html()
    if slider.count():
        handle = slider.first
        at_the_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        handle.press("ArrowLeft" if at_the_end else "ArrowRight")
    else:
        menu = exploration.locator("select").first
        menu.select_option(index=0 if menu.input_value() != menu.locator("option").first.inner_text() else 1)
    for _ in range(300):
        exploration.page.wait_for_timeout(100)
        if figure.count() and figure.inner_html() != before:
            return True
    return False
