"""JupyterLab, with a real server and a real browser: a chapter runs, and its sliders answer."""

import sys
from pathlib import Path

from tools.proofs import browse
from tools.proofs.places import ProofError, Published, environ, free_port, serving

TOKEN = "proof"


def own_folders(folder: Path) -> dict[str, str]:
    """Variables that keep Jupyter's settings, and what it writes, out of the user's home."""
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    lab = {f"JUPYTERLAB_{name}_DIR": str(folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    return {**lab, **{f"JUPYTER_{name}": str(folder / name.lower()) for name in names}}


def run(published: Published, name: str, folder: Path) -> int:
    """Open a chapter, run it, and move all that moves.

    Args:
        published: the repository; its checkout is served.
        name: file name of the notebook. Chapter 4 is held to a progress bar, which it shows where somebody looks.
        folder: a new folder for what JupyterLab writes.

    Returns:
        How many figures answered to their sliders and menus.

    Raises:
        ProofError: a cell failed, a figure did not answer, or there is no bar.
        MissingError: there is no Chromium.
    """
    folder.mkdir(parents=True)
    base = f"http://127.0.0.1:{free_port()}"
    options = [f"--port={base.rpartition(':')[2]}", "--ip=127.0.0.1", "--no-browser", "--allow-root"]
    options += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={published.tree / 'book'}"]
    python = Path(sys.executable)
    env = environ(python, {**own_folders(folder), "PYTHONPATH": str(published.tree)})
    with browse.tab() as page, serving([python, "-m", "jupyterlab", *options], f"{base}/api", env, folder):
        page.goto(f"{base}/lab/tree/{name}?token={TOKEN}")
        moved = browse.run_all(page, published.explorations(name))
        if name.startswith("04") and not page.locator(".widget-hprogress").count():
            raise ProofError(f"{name} shows no progress bar while it trains")
    return moved
