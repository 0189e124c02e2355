"""JupyterLab, with a real server and a real browser: a chapter runs, and its sliders answer."""

import sys
from pathlib import Path

from tools.proofs import browse
from tools.proofs.places import ProofError, Published, environ, free_port, serving


def own_folders(folder: Path) -> dict[str, str]:
    """Variables that keep Jupyter's settings, and what it writes, out of the user's home."""
    names = (
        "JUPYTERLAB_SETTINGS",
        "JUPYTERLAB_WORKSPACES",
        "JUPYTER_CONFIG",
        "JUPYTER_DATA",
        "JUPYTER_RUNTIME",
    )
    return {f"{name}_DIR": str(folder / name.lower()) for name in names}


def run(published: Published, name: str, folder: Path) -> int:
    """Open a chapter of the checkout, run it, and move all that moves; return how many figures answered.

    Chapter 4 is held to a progress bar, too.

    Raises:
        ProofError: a cell failed, a figure did not answer, or there is no bar.
        MissingError: there is no Chromium.
    """
    folder.mkdir(parents=True)
    port = free_port()
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
    base = f"http://127.0.0.1:{port}"
    with browse.tab() as page, serving(command, f"{base}/api", env, folder):
        page.goto(f"{base}/lab/tree/{name}?token=proof")
        moved = browse.run_all(page, published.explorations(name))
        if name.startswith("04") and not page.locator(".widget-hprogress").count():
            raise ProofError(f"{name} shows no progress bar while it trains")
    return moved
