"""The set-up cell: the first code cell of every chapter, from one template.

A notebook may be opened where ``sto_lite`` is missing: alone, as on Colab, or from a clone in which nothing was
installed, as on a JupyterHub. This cell then brings the module; elsewhere it does nothing, and the book's pages
leave it out. To change it, change CELL, and run this file; ``--check`` only says which chapters differ.
The word ADDRESS stands for the repository's address, which ``tools/notebooks.py`` puts in (``tools/address.py``).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

import nbformat  # noqa: E402

from sto_lite.files import write_atomically  # noqa: E402
from tools import notebooks  # noqa: E402
from tools.address import Repository, configured  # noqa: E402
from tools.notebooks import Notebook, NotebookError  # noqa: E402

CELL = """\
# Where sto_lite is missing, this brings it. Elsewhere it does nothing.
import sys
from importlib.util import find_spec
from pathlib import Path

SOURCE = "git+ADDRESS"  # the book's repository; the path of its zip file will do as well


def missing():  # any folder called sto_lite would be found, so look for a file of the module's
    found = find_spec("sto_lite")
    return not (found and found.origin and Path(found.origin).with_name("scale.py").exists())


if missing():
    clones = [*Path("..").glob("sto_lite/scale.py"), *Path().glob("*/sto_lite/scale.py")]
    if clones:  # as on a JupyterHub
        sys.path.append(str(clones[0].resolve().parents[1]))
    elif not SOURCE.endswith("ADDRESS"):  # this notebook alone, as on Colab
        %pip install -q "{SOURCE}"
if missing():
    raise SystemExit(
        "sto_lite is not installed. In SOURCE above, write the address of the book's git repository in the place "
        "of ADDRESS, or the path of its zip file in the place of all of it, and run this cell again."
        if SOURCE.endswith("ADDRESS")
        else f"pip could not install sto_lite from {SOURCE}; its own words stand above. If there is no network "
        "here, write the path of the book's zip file in the place of SOURCE, and run this cell again."
    )"""
TAGS = ["remove-cell", "set-up"]


def place(notebook: Notebook, url: str = "") -> None:
    """Put the set-up cell before the notebook's other code, in place; an older or misplaced one is replaced."""
    source = Repository(url).in_hints(CELL) if url else CELL
    if not differs(notebook) and any(cell.source == source for cell in notebook.cells):
        return
    notebook.cells = [cell for cell in notebook.cells if cell not in marked(notebook)]
    kinds = [cell.cell_type for cell in notebook.cells]
    first = kinds.index("code") if "code" in kinds else len(kinds)
    notebook.cells.insert(first, nbformat.v4.new_code_cell(source, metadata={"tags": [*TAGS]}))


def marked(notebook: Notebook) -> list[Notebook]:
    """The cells that are tagged as set-up cells."""
    return [cell for cell in notebook.cells if "set-up" in cell.metadata.get("tags", ())]


def differs(notebook: Notebook) -> bool:
    """Whether the notebook's first code cell is other than the set-up cell, apart from the address."""
    found, code = marked(notebook), [cell for cell in notebook.cells if cell.cell_type == "code"]
    if len(found) != 1 or found[0] is not code[0]:
        return True
    source = Repository("ADDRESS").in_hints(found[0].source.strip("\n"))
    return (source, list(found[0].metadata.tags)) != (CELL, TAGS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the set-up cells; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the set-up cell into every chapter's .md.")
    parser.add_argument("--check", action="store_true", help="only say which chapters differ")
    options = parser.parse_args(arguments)
    try:
        found = {path: notebooks.newest(path) for path in notebooks.chapters()}
        wrong = {path: notebook for path, notebook in found.items() if differs(notebook)}
        for path, notebook in wrong.items():
            if options.check:
                print(f"{path.stem}: its set-up cell differs; run tools/setup_cell.py")
                continue
            place(notebook, configured().url)
            write_atomically(path.with_suffix(".md"), notebooks.markdown(notebook).encode())
            print(f"{path.stem}: written; tools/notebooks.py run {path.stem} executes it")
        return int(options.check and bool(wrong))
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
