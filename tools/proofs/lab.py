"""A reader in JupyterLab, with a real server and a real browser: a chapter runs, and its sliders answer."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tools.browser import tab
from tools.proofs.places import ProofError, Published, environ, free_port, serving

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LONG = 300_000  # ms: the machine may be busy
VIEW = {"width": 1280, "height": 900}
# JupyterLab numbers a cell when it is done; a cell that waits shows a star. Out of sight, only textContent is there.
DONE = r"""() => {
    const prompts = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")];
    const texts = prompts.map(e => e.textContent);
    return /\[\d+\]/.test(texts.at(-1)) && !texts.some(text => text.includes("*"));
}"""
FAULT = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
EXPLORATION = ".jp-OutputArea-output .widget-vbox:has(figure.sto)"


def own_folders(folder: Path) -> dict[str, str]:
    """Variables that keep Jupyter's settings, and what it writes, out of the user's home."""
    names = (
        "JUPYTERLAB_SETTINGS",
        "JUPYTERLAB_WORKSPACES",
        *(f"JUPYTER_{n}" for n in ("CONFIG", "DATA", "RUNTIME")),
    )
    return {f"{name}_DIR": str(folder / name.lower()) for name in names}


def run(published: Published, name: str, folder: Path) -> int:
    """Open a chapter of the checkout, run it, and move all that moves; return how many figures answered.

    ProofError: a cell failed, a figure did not answer, or chapter 4 shows no progress bar.
    """
    folder.mkdir(parents=True)
    base = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--port={port}",
        "--ip=127.0.0.1",
        "--no-browser",
        "--allow-root",
    ]
    command += ["--IdentityProvider.token=proof", f"--ServerApp.root_dir={published.tree / 'book'}"]
    env = environ(Path(sys.executable), {**own_folders(folder), "PYTHONPATH": str(published.tree)})
    with tab(LONG, viewport=VIEW) as page, serving(command, f"{base}/api", env, folder):
        page.goto(f"{base}/lab/tree/{name}?token=proof")
        moved = run_all(page, published.explorations(name))
        if name.startswith("04") and not page.locator(".widget-hprogress").count():
            raise ProofError(f"{name} shows no progress bar while it trains")
    return moved


def run_all(page: "Page", expected: int) -> int:
    """Run the chapter that is open, and move its sliders and menus; return how many figures moved, all or none."""
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text("| Idle").wait_for()  # before its kernel is there, JupyterLab runs nothing
    for entry in ("Run", "Run All Cells"):
        page.get_by_role("menuitem", name=entry, exact=True).click()
    page.wait_for_function(f'() => ({DONE})() || document.querySelector("{FAULT}")', timeout=2 * LONG)
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
    return expected


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
