"""A tab of Chromium, for those who print and for those who prove."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUIET = ("background-networking", "component-update", "gpu", "quic", "sync")
FLAGS = ["--headless=new", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]


class MissingError(Exception):
    """A program that is needed is not on this machine; the message names it."""


@contextlib.contextmanager
def tab(wait: float, **context: Any) -> Iterator["Page"]:
    """Give an empty tab. wait: milliseconds that it waits for anything; 0: no limit. context: as Playwright's.

    Raises:
        MissingError: there is no Chromium.
    """
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if chromium is None:
        raise MissingError("there is no chromium (install it, or set CHROMIUM to its path)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(wait)
        yield page
        browser.close()
