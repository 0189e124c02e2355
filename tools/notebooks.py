"""Execute the book's notebooks, stamp them, and keep each in step with its text.

A chapter is a pair with one text: ``book/NN-name.md`` (jupytext's ``md:myst``) and ``book/NN-name.ipynb`` (the same,
with outputs). The side that was edited since the last ``run`` or ``sync`` is taken. Whenever a pair is written, its
set-up hints get the repository's address, if ``_config.yml`` sets one. ``--help`` lists the commands.

The stamp, in the notebook's metadata, is a hash of all that its outputs depend on: its code, the modules of
``sto_lite`` that this code imports, and the records that it reads.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite.errors import StoError, print_anything  # noqa: E402
from sto_lite.files import visible, write_atomically  # noqa: E402
from tools.address import AddressError, Repository, configured  # noqa: E402

BOOK = ROOT / "book"
LAB = ROOT / "lab"
RUNS = ROOT / "data" / "runs"
PACKAGE = ROOT / "sto_lite"
# Tags of code that a page does not show at once.
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
LAB_SETTINGS: dict[str, Any] = {
    # A course needs nbgrader's menu, a reader does not.
    "page_config.json": {"disabledExtensions": {"@jupyter/nbgrader": True}},
    "default_setting_overrides.json": {
        "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}}
    },
}
TIMEOUT = {"smoke": 600, "colab": 3600, "paper": None}  # seconds for one cell; None: no limit

Notebook = Any  # nbformat.NotebookNode, which carries no types


class NotebookError(Exception):
    """Something about a notebook that its author has to put right."""


# ------------------------------------------------------------------------------------------- a pair of files


def chapters(names: Iterable[str] = (), book: Path = BOOK) -> list[Path]:
    """Return the ``.ipynb`` paths of the chapters named ("03", "03-stochastic-depth"); all by default."""
    found = visible(book, "*.ipynb") + [path for path in visible(book, "*.md") if is_text(path)]
    known = sorted({path.with_suffix(".ipynb") for path in found})
    chosen = [] if names else known
    for name in names:
        stem = Path(name).name.removesuffix(".md").removesuffix(".ipynb")
        found = [path for path in known if path.stem == stem or path.stem.startswith(f"{stem}-")]
        if not found:
            raise NotebookError(f"no chapter is called {name}; there are {', '.join(p.stem for p in known)}")
        chosen += found
    return chosen


def contents(root: Path = ROOT) -> list[str]:
    """Return the files that the table of contents names, in its order, the front page first."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(page["file"] for part in toc.get("parts", [toc]) for page in part["chapters"])]


def is_text(path: Path) -> bool:
    """Whether a file is the text side of a pair, by its header; other ``.md`` files are pages."""
    if path.suffix != ".md":
        return False
    with path.open(encoding="utf-8") as file:
        return (file.readline(), file.readline()) == ("---\n", "jupytext:\n")


def text(notebook: Notebook) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return what a pair must agree on: each cell's type, source and tags."""
    return [(c.cell_type, c.source.strip("\n"), tuple(c.metadata.get("tags", ()))) for c in notebook.cells]


def read_pair(path: Path) -> tuple[Notebook | None, Notebook | None]:
    """Return (the notebook at ``path``, the text in the ``.md`` beside it), with None for a missing file."""
    md = path.with_suffix(".md")
    try:
        notebook = nbformat.read(path, as_version=4) if path.exists() else None
        return notebook, jupytext.read(md, fmt="md:myst") if md.exists() else None
    except (ValueError, yaml.YAMLError) as error:  # such as a header that is not closed by ---
        raise NotebookError(f"{path.stem}: the .ipynb or the .md cannot be read: {error}") from None


def newest(path: Path, side: str | None = None) -> Notebook:
    """Return the chapter with the text of the side edited last, and the outputs that still belong to it.

    Contents are compared, not modification times, which a clone does not keep. ``side`` ("md" or "ipynb")
    settles which text counts; without it, a chapter edited on both sides is an error.
    """
    notebook, source = read_pair(path)
    if notebook is None or source is None:
        return source if notebook is None else notebook
    if text(notebook) == text(source):
        return notebook
    last = notebook.metadata.get("sto", {}).get("text")
    if side is None:
        md_edited, ipynb_edited = last != digest(text(source)), last not in (None, digest(text(notebook)))
        if md_edited and ipynb_edited:
            raise NotebookError(
                f"{path.stem}: the .md and the .ipynb were both edited, differently. Say which text counts: "
                f"tools/notebooks.py from-md {path.stem}, or from-ipynb {path.stem}"
            )
        side = "md" if md_edited else "ipynb"
    return notebook if side == "ipynb" else with_outputs(source, notebook)


def with_outputs(source: Notebook, old: Notebook) -> Notebook:
    """Return ``old`` with the cells of ``source``; a cell with unchanged source keeps its outputs and id."""
    kept = defaultdict(list)
    for cell in old.cells:
        kept[cell.cell_type, cell.source.strip("\n")].append(cell)
    for cell in source.cells:
        if same := kept[cell.cell_type, cell.source.strip("\n")]:
            previous = same.pop(0)
            cell.update({k: previous[k] for k in ("id", "outputs", "execution_count") if k in previous})
    old.cells = source.cells
    return old


def write_pair(path: Path, notebook: Notebook, url: str = "") -> None:
    """Write ``notebook`` to ``path`` and its text to the ``.md`` beside it, each whole or not at all.

    ``url``, if any, is the repository's address for the set-up hints.
    """
    if url:
        for cell in notebook.cells:
            cell.source = Repository(url).in_hints(cell.source)
    sto = {**notebook.metadata.get("sto", {}), "text": digest(text(notebook))}
    notebook.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,md:myst"},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            "sto": dict(sorted(sto.items())),
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    fold(notebook)
    nbformat.validate(notebook)
    write_atomically(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())
    write_atomically(path.with_suffix(".md"), markdown(notebook).encode())


def fold(notebook: Notebook) -> None:
    """Let JupyterLab fold the code that a page folds or leaves out, in place; of other metadata, tags stay."""
    for cell in notebook.cells:
        kept = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code" and FOLDED & set(kept.get("tags", ())):
            kept["jupyter"] = {"source_hidden": True}
        cell.metadata = nbformat.from_dict(kept)


def markdown(notebook: Notebook) -> str:
    """Return the ``.md`` of a notebook, as the pair's text side is written."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("jupyter", None)
    written = jupytext.writes(notebook, fmt="md:myst")
    return re.sub(r"\n *jupytext_version:.*", "", written).rstrip("\n") + "\n"


# ---------------------------------------------------------------------------------------------------- stamps


def digest(value: Any) -> str:
    """Return a short hash of a JSON-like value."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def code_of(notebook: Notebook) -> str:
    """Return the notebook's code cells as one Python program (magics become the calls they stand for)."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(TransformerManager().transform_cell(cell) for cell in cells)


def skeleton(node: Any) -> Any:
    """Return an AST as nested lists, without positions and empty fields: the same in every Python version."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return [type(node).__name__, *([name, skeleton(value)] for name, value in fields)]
    if isinstance(node, list):
        return [skeleton(item) for item in node]
    return repr(node)


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove the docstrings in ``tree``, in place, and return it."""
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:]
    return tree


def imported(tree: ast.AST, package: Path = PACKAGE) -> Iterator[Path]:
    """Yield the files of ``package`` that a program imports directly."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package.name if node.level else "", node.module or ""]))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            for file in (package.joinpath(*rest).with_suffix(".py"), package.joinpath(*rest, "__init__.py")):
                if top == package.name and file.is_file():
                    yield file


def modules(code: str, package: Path = PACKAGE) -> list[Path]:
    """Return the files of ``package`` that ``code`` imports, directly or through one another, sorted."""
    found: set[Path] = set()
    new = set(imported(ast.parse(code), package))
    if re.search(rf"-m\W+{package.name}\b", code):
        new.add(package / "__main__.py")
    while new:
        found |= new
        trees = [ast.parse(file.read_text(encoding="utf-8")) for file in new]
        new = {path for tree in trees for path in imported(tree, package)} - found
    return sorted(found)


def records(code: str, runs: Path = RUNS) -> list[Path]:
    """Return the record files of the collections that ``code`` reads with ``read_records("collection")``."""
    names = re.findall(r"read_records\(\s*[\"']([^\"']+)[\"']", code)
    if len(names) != len(re.findall(r"read_records\(", code)):
        raise NotebookError('give read_records the collection\'s name itself, as in read_records("depths")')
    files = []
    for name in sorted(set(names)):
        collection = [path for folder in sorted(runs.glob(name)) for path in visible(folder, "*.json")]
        if not collection and not set("*?[") & set(name):  # a pattern may fit none yet
            raise NotebookError(f"read_records({name!r}): there is no record in {runs / name}")
        files += collection
    return files


def stamp(notebook: Notebook, package: Path = PACKAGE, runs: Path = RUNS) -> str:
    """Return the hash of all that the notebook's outputs depend on."""
    code = code_of(notebook)
    sources, read = [], []
    for file in modules(code, package):
        tree = without_docstrings(ast.parse(file.read_text("utf-8")))
        sources.append([file.relative_to(package).as_posix(), skeleton(tree)])
    for file in records(code, runs):
        read.append([file.relative_to(runs).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()])
    # A hint's address does not change what a cell puts out.
    neutral = Repository("ADDRESS").in_hints
    cells = [neutral(cell.source.strip("\n")) for cell in notebook.cells if cell.cell_type == "code"]
    return digest([cells, sources, read])


def problems(path: Path) -> list[str]:
    """Say what is out of step in one chapter, and what to do about it; nothing when all is well."""
    try:
        notebook, source = read_pair(path)
        if notebook is None:
            return [f"{path.stem}: it was never executed; run tools/notebooks.py run {path.stem}"]
        if source is None or text(notebook) != text(source):
            return [f"{path.stem}: the .md and the .ipynb differ; run tools/notebooks.py sync {path.stem}"]
        if notebook.metadata.get("sto", {}).get("stamp") != stamp(notebook):
            return [
                f"{path.stem}: its code, sto_lite or its records changed after the outputs were made; "
                f"run tools/notebooks.py run {path.stem}"
            ]
    except NotebookError as error:
        return [str(error)]
    except SyntaxError as error:
        return [f"{path.stem}: {error}"]
    return []


# ------------------------------------------------------------------------------------------------- execution


def execute(notebook: Notebook, scale: str, folder: Path = BOOK) -> float:
    """Execute every cell in a fresh kernel, in place; return the seconds that it took."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT[scale],
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    begun = time.perf_counter()
    client.execute(env={**os.environ, "STO_SCALE": scale, "STO_BOOK": "1"})
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            # A page has no kernel: where a widget also gave HTML, the HTML is what stays.
            if "text/html" in output.get("data", {}):
                output.data.pop("application/vnd.jupyter.widget-view+json", None)
    return time.perf_counter() - begun


def run(path: Path, scale: str | None) -> None:
    """Execute one chapter, at this machine's scale by default, and write the pair; on an error leave it alone."""
    import torch

    from sto_lite.scale import chosen

    on_gpu, scale = torch.cuda.is_available(), scale or chosen()[0]
    notebook = newest(path)
    expected = stamp(notebook)
    print(f"{path.stem}: running at scale {scale} …", end="", flush=True)
    try:
        seconds = execute(notebook, scale, path.parent)
    except CellExecutionError as error:
        failed = 1 + max(n for n, cell in enumerate(notebook.cells) if cell.get("outputs"))
        print(" failed")
        raise NotebookError(f"{path.stem}: cell {failed} failed; nothing was written\n{error}") from None
    print(f" {seconds:.0f} s")
    notebook.metadata["sto"] = {
        "stamp": expected,
        "scale": scale,
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {os.cpu_count()} cores",
        "seconds": round(seconds, 1),
        "python": sys.version.split()[0],
        "torch": torch.__version__.split("+")[0],
    }
    write_pair(path, notebook, configured().url)


# ---------------------------------------------------------------------------------------- copies for readers


def lend(folder: Path = LAB, book: Path = BOOK) -> Iterator[str]:
    """Put a reader's copies of all chapters and pages into ``folder``; say what stays as it was, and why.

    A copy that was run, and whose text nobody changed, gives way to a new edition of the chapter or page.
    """
    stays = "stays, since you changed it; rename it to get the book's newer text beside it"
    ledger = folder / ".jupyter" / "lent.json"
    lent = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else {}
    for name, settings in LAB_SETTINGS.items():
        write_atomically(folder / ".jupyter" / "labconfig" / name, json.dumps(settings).encode())
    for page in visible(book, "*.md"):
        if is_text(page):
            continue
        own, new = folder / page.name, page.read_text(encoding="utf-8")
        had = digest(own.read_text(encoding="utf-8", errors="replace")) if own.exists() else None
        if had not in (None, digest(new), lent.get(page.name, had)):
            yield f"{own} {stays}"
            continue
        lent[page.name] = digest(new)
        write_atomically(own, new.encode())
    write_atomically(ledger, json.dumps(lent).encode())
    for path in chapters(book=book):
        new, own = newest(path), folder / path.name
        new.metadata.pop("jupytext", None)  # a copy has no pair
        fold(new)
        new.metadata["sto"] = {**new.metadata.get("sto", {}), "text": digest(text(new))}
        if own.exists():
            try:
                old = nbformat.read(own, as_version=4)
                given = old.metadata.get("sto", {}).get("text")
                edited = digest(text(old)) != given
            except (ValueError, AttributeError):  # cut off, or no notebook
                given, edited = None, True
            if given == new.metadata["sto"]["text"]:
                continue
            if edited:
                yield f"{own} {stays}"
                continue
        write_atomically(own, nbformat.writes(new).encode())


# ---------------------------------------------------------------------------------------------- command line


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command and its options."""
    parser = argparse.ArgumentParser(description="Execute, stamp and pair the book's notebooks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in {
        "run": "execute chapters, write their outputs and stamps",
        "sync": "carry edited text to the other file of a pair; execute nothing",
        "from-md": "the same, with the text of the .md",
        "from-ipynb": "the same, with the text of the .ipynb",
        "check": "say which pairs differ and which stamps are stale",
        "lab": "put a reader's copies of all chapters and pages into lab/",
    }.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        if name != "lab":
            many = "+" if name.startswith("from") else "*"
            known = 'such as "03" (default: every chapter)'
            command.add_argument("names", nargs=many, metavar="NAME", help=known)
        if name == "run":
            command.add_argument("--scale", choices=TIMEOUT, help="default: $STO_SCALE, or by the hardware")
            command.add_argument("--stale", action="store_true", help="only those that check complains about")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    print_anything()
    options = parse(arguments)
    try:
        if options.command == "lab":
            for line in lend():
                print(line)
            return 0
        paths = chapters(options.names)
        if options.command == "check":
            found = [problem for path in paths for problem in problems(path)]
            print("\n".join(found) or f"{len(paths)} notebooks are in step with their text, code and records")
            return bool(found)
        for path in paths:
            if options.command != "run":
                side = options.command.removeprefix("from-") if options.command != "sync" else None
                write_pair(path, newest(path, side), configured().url)
            elif not options.stale or problems(path):
                run(path, options.scale)
    except (NotebookError, AddressError, StoError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
