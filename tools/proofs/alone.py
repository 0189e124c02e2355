"""A notebook opened alone, as on Colab: its own cell brings ``sto_lite``, and every cell runs."""

import json
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.proofs.places import ProofError, Published, call, environ

EXECUTE = "import sys; from nbclient.cli import NbClientApp; sys.exit(NbClientApp.launch_instance())"
STUCK = re.compile("CellTimeoutError|Kernel didn't respond")
WHERE = "import sto_lite; print(sto_lite.__file__)"


def present(python: Path, folder: Path) -> str:
    """Say where this Python finds ``sto_lite``; empty where it does not."""
    return call([python, "-c", WHERE], cwd=folder, env=environ(python, {})).stdout.strip()


def execute(path: Path, python: Path, extra: Mapping[str, str], *options: str) -> list[Any]:
    """Execute a notebook in place with the kernel of this Python, in the notebook's folder; return its code cells.

    Now and then a kernel falls silent between two cells (it is idle, and its client waits for an answer) or never
    starts; such a one gets a second try, and the log says so. ProofError: a cell failed, or it fell silent twice.
    """
    command = [python, "-c", EXECUTE, "--inplace", "--timeout=300", *options, path.name]
    done = call(command, cwd=path.parent, env=environ(python, extra))
    if done.returncode and STUCK.search(done.stderr):
        print(f"{path.name}: its kernel does not answer any more; once more", file=sys.stderr)
        done = call(command, cwd=path.parent, env=environ(python, extra))
    if done.returncode:
        raise ProofError(f"{path.name} fails:\n{done.stderr[-3000:]}")
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run(published: Published, name: str, python: Path, folder: Path) -> float:
    """Execute one notebook, alone in a new folder, in an environment without ``sto_lite``; return its seconds.

    ProofError: ``sto_lite`` was there before, a cell failed, or the module came from elsewhere.
    """
    path = published.notebook(name, folder)
    uninstall = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "sto_lite"]
    call(uninstall, env=environ(python, {}), check=False)
    if found := present(python, folder):
        raise ProofError(f"sto_lite is there before the notebook runs: {found}")
    begun = time.monotonic()
    cells = execute(path, python, published.env)
    if not all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip()):
        raise ProofError(f"{name}: not every cell was run")
    if not present(python, folder).startswith(str(python.parent.parent)):
        raise ProofError(f"{name} took sto_lite from {present(python, folder)!r}, not from its environment")
    return time.monotonic() - begun


def without_address(name: str, source: str, python: Path, folder: Path) -> str:
    """Return what the set-up cell of a notebook says where no address is set; ProofError if it says nothing."""
    folder.mkdir(parents=True)
    path = folder / name
    path.write_text(source)
    cells = execute(path, python, {}, "--allow-errors")
    errors = [output for output in cells[0]["outputs"] if output["output_type"] == "error"]
    if len(errors) != 1 or errors[0]["ename"] != "SystemExit":
        raise ProofError(f"the set-up cell put out {cells[0]['outputs']}")
    shutil.rmtree(folder)
    return "\n".join(errors[0]["traceback"])
