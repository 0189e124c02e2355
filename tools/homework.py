"""Build the homework that an instructor releases: make homework.

``book/homework/NAME.md`` is the one source of an assignment: jupytext's ``md:myst`` with stub, solution, visible and
hidden checks, and what the instructor alone reads. Into ``homework/`` (or ``--out``), which git does not see, come

    student/NAME.ipynb          without solutions and hidden checks, for those who do not use nbgrader
    course/                     a course for nbgrader: nbgrader_config.py and source/NAME/NAME.ipynb
    solutions/NAME.ipynb        the instructor's: solutions, hidden checks, rubric, measured pattern

Only these are written; what nbgrader adds to the course (its gradebook, releases, submissions) is left alone. What
comes back is looked over by ``tools/submissions.py``.

A cell says what it is by its metadata ``homework``: "solution NAME", "check NAME POINTS", "written NAME POINTS"
(graded by hand), "locked NAME" (nbgrader restores it before it grades) or "instructor". Any other is given as it is;
the set-up cell, which brings sto_lite, is put before them all (``tools/setup_cell.py``).
"""

import argparse
import copy
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite.errors import print_anything  # noqa: E402
from sto_lite.files import expand, visible, write_atomically  # noqa: E402
from tools import setup_cell  # noqa: E402
from tools.address import AddressError, repository  # noqa: E402
from tools.measured import filled  # noqa: E402

SOURCES = ROOT / "book" / "homework"
OUT = ROOT / "homework"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SOLUTION = ("### BEGIN SOLUTION", "### END SOLUTION")
HIDDEN = ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
GRADED = {"check", "written"}
# The type of each kind's cells, and how many words say it.
KINDS = dict.fromkeys(("check",), ("code", 3)) | dict.fromkeys(("solution", "locked"), ("code", 2))
KINDS |= {"set-up": ("code", 1), "instructor": ("markdown", 1), "written": ("markdown", 3)}

Notebook = Any  # nbformat.NotebookNode, which carries no types


class HomeworkError(Exception):
    """Something about an assignment's source that its author has to put right."""


class Role(NamedTuple):
    """What a cell is for: a key of KINDS, or "given". name: its id for nbgrader; points: of a graded cell."""

    kind: str
    name: str = ""
    points: int = 0


def role(cell: Any) -> Role:
    """Return a cell's role, by its metadata."""
    words = str(cell.metadata.get("homework", "given")).split()
    known = {"given": (cell.cell_type, 1), **KINDS}.get(words[0] if words else "")
    if known != (cell.cell_type, len(words)) or not all(w.isdigit() and int(w) > 0 for w in words[2:]):
        raise HomeworkError(
            f"homework: {' '.join(words)!r} of a {cell.cell_type} cell says nothing known; write solution NAME, "
            f"check NAME POINTS or locked NAME for code, written NAME POINTS or instructor for text"
        )
    return Role(words[0], "".join(words[1:2]), sum(map(int, words[2:])))


# ----------------------------------------------------------------------------------------------------- sources


def assignments(names: Iterable[str] = (), sources: Path = SOURCES) -> list[Path]:
    """Return the sources of the assignments named, all by default; HomeworkError where there is none."""
    known = {path.stem: path for path in visible(sources, "*.md")}
    if unknown := sorted({Path(name).stem for name in names} - set(known)):
        raise HomeworkError(f"no assignment is called {', '.join(unknown)}; there are {', '.join(known)}")
    if not known:
        raise HomeworkError(f"{sources} holds no assignment")
    return [known[Path(name).stem] for name in names] or list(known.values())


def read(path: Path) -> Notebook:
    """Return an assignment's source as a notebook, after checking it, with the cell that brings sto_lite."""
    try:
        notebook = jupytext.read(path, fmt="md:myst")
        verify(notebook)
        found = repository()
    except AddressError as error:
        raise HomeworkError(str(error)) from None
    except (OSError, ValueError, yaml.YAMLError, HomeworkError) as error:
        raise HomeworkError(f"{path.name}: {error}") from None
    setup_cell.place(notebook, found.url if found else "")
    for cell in notebook.cells:
        if "set-up" in cell.metadata.get("tags", ()):
            cell.metadata["homework"] = "set-up"
    return notebook


def verify(notebook: Notebook) -> None:
    """Refuse a source that would leak, or that nbgrader would refuse, with HomeworkError."""
    names: list[str] = []
    kinds: set[str] = set()
    # A formula's check hides nothing: its hints are wanted.
    everything = "".join(cell.source for cell in notebook.cells)
    for number, cell in enumerate(notebook.cells, 1):
        try:
            kind, name, _ = role(cell)
        except HomeworkError as error:
            raise HomeworkError(f"cell {number}: {error}") from None
        kinds.add(kind)
        names += [name] if name else []
        for markers, owners in ((SOLUTION, {"solution", "written"}), (HIDDEN, {"check"})):
            found = [line.strip() for line in cell.source.splitlines() if line.strip() in markers]
            stray = sum(marker[4:] in cell.source for marker in markers) - len(set(found))
            wanted, open_ = kind in owners, kind == "check" and "check_formula" in everything
            if stray or found != list(markers) * (len(found) // 2) or bool(found) != (wanted and not open_):
                does = "needs" if wanted and not found else "has a wrong"
                raise HomeworkError(f"cell {number} ({kind} {name}) {does} {' … '.join(markers)}")
        alone = re.fullmatch(rf"{SOLUTION[0]}\n.*{SOLUTION[1]}", cell.source.strip(), re.S)
        if kind == "written" and not alone:
            raise HomeworkError(
                f"cell {number} (written {name}) has text outside its markers, which a student would overwrite: end "
                f"the cell with +++ on a line of its own"
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise HomeworkError(f"two cells are called {', '.join(twice)}")
    if missing := sorted({"solution", "check", "written", "instructor"} - kinds):
        raise HomeworkError(f"there is no cell for {', '.join(missing)}")


def regions(source: str, markers: tuple[str, str]) -> list[str]:
    """Return the texts between a pair of markers, without indentation at their ends."""
    begin, end = map(re.escape, markers)
    return [found.strip() for found in re.findall(rf"{begin}\n(.*?)^[ \t]*{end}", source, re.S | re.M)]


def without_markers(source: str) -> str:
    """Return a cell's source with all that is in its regions, and a comment where hidden checks begin."""
    source = re.sub(rf"^([ \t]*){re.escape(HIDDEN[0])}$", r"\1# Hidden from students:", source, flags=re.M)
    lines = [line for line in source.split("\n") if line.strip() not in {*SOLUTION, HIDDEN[1]}]
    return "\n".join(lines).strip("\n")


# -------------------------------------------------------------------------------------------------- notebooks


def course(notebook: Notebook) -> Notebook:
    """Return the source notebook for nbgrader: its metadata, solutions and hidden checks in their markers."""
    given = leave_out(notebook, {"instructor"})
    new = plain(given)
    for cell, old in zip(new.cells, given, strict=True):
        kind, name, points = role(old)
        if not name:
            continue
        cell.metadata["nbgrader"] = {
            "grade": kind in GRADED,
            "grade_id": name,
            "locked": kind in ("check", "locked"),
            "schema_version": 3,
            "solution": kind in ("solution", "written"),
            "task": False,
            **({"points": points} if kind in GRADED else {}),
        }
    return new


def student(notebook: Notebook) -> Notebook:
    """Return what a student gets, made by nbgrader's own rules: stubs for solutions, and no hidden check."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions

    new = course(notebook)
    for rule in (ClearSolutions(), ClearHiddenTests()):
        new, _ = rule.preprocess(new, {})
    for cell in new.cells:
        cell.metadata.pop("nbgrader", None)
    return new


def solutions(notebook: Notebook) -> Notebook:
    """Return the instructor's notebook: solutions, hidden checks, rubric, and the pattern that was measured."""
    new = plain(notebook.cells)
    for cell, old in zip(new.cells, notebook.cells, strict=True):
        kind, name, points = role(old)
        cell.source = without_markers(cell.source)
        if kind == "instructor":
            cell.source = filled(cell.source)
        elif kind == "written":
            rows = rubric(notebook, name)
            cell.source = (
                f"**{name}, {points} points, graded by hand. A model answer:**\n\n{cell.source}\n\n"
                f"| points | for |\n|---|---|\n{rows}"
            )
    return new


def rubric(notebook: Notebook, name: str) -> str:
    """Return the rows of the rubric for one written answer, as a table's lines: points and what they are for."""
    rows, part = [], ""
    for cell in notebook.cells:
        for line in cell.source.splitlines() if role(cell).kind == "instructor" else ():
            cells = [column.strip() for column in line.strip("|").split("|")]
            if line.startswith("|") and len(cells) == 3 and cells[1].isdigit():
                part = cells[0] or part
                rows += [f"| {cells[1]} | {cells[2]} |"] if part == name else []
    return "\n".join(rows)


def leave_out(notebook: Notebook, without: Iterable[str]) -> list[Any]:
    """Return the cells whose kind is not among `without`."""
    return [cell for cell in notebook.cells if role(cell).kind not in set(without)]


def plain(cells: Iterable[Any]) -> Notebook:
    """Return a notebook of these cells without metadata and outputs, and with ids that a rebuild keeps."""
    new = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, old in enumerate(cells):
        make = nbformat.v4.new_code_cell if old.cell_type == "code" else nbformat.v4.new_markdown_cell
        new.cells.append(make(copy.copy(old.source), id=role(old).name or f"cell-{number}"))
    return new


# ------------------------------------------------------------------------------------------------------ writing


def build(paths: Iterable[Path], out: Path = OUT) -> list[Path]:
    """Write the three forms of assignments into `out`, unless a source is wrong, and return what was written.

    nbgrader_config.py is written if it is not there; so an instructor's own is kept.
    """
    files: dict[Path, str] = {}
    for path in paths:
        notebook, file = read(path), f"{path.stem}.ipynb"
        try:
            versions = {
                out / "student" / file: student(notebook),
                out / "course" / "source" / path.stem / file: course(notebook),
                out / "solutions" / file: solutions(notebook),
            }
        except (ValueError, RuntimeError) as error:
            raise HomeworkError(f"{path.name}: {error}") from error
        for place, version in versions.items():
            nbformat.validate(version)
            files[place] = nbformat.writes(version).rstrip("\n") + "\n"
    settings = out / "course" / "nbgrader_config.py"
    if not settings.exists():
        files[settings] = (SOURCES / settings.name).read_text(encoding="utf-8")
    for place, content in files.items():
        write_atomically(place, content.encode())
    return list(files)


def main(arguments: list[str] | None = None) -> int:
    """Build the assignments named, or all; the exit status is 1 if a source is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="assignments, such as gradients (default: all)")
    parser.add_argument("--out", type=expand, default=OUT, help="folder to write into (default: homework)")
    print_anything()
    options = parser.parse_args(arguments)
    try:
        written = build(assignments(options.names), options.out)
    except HomeworkError as error:
        print(error, file=sys.stderr)
        return 1
    sources = sum(path.suffix == ".ipynb" for path in written) // 3
    print(f"{sources} assignments are in {os.path.relpath(options.out)}: student/, course/ and solutions/.")
    print("Copy course/ and solutions/ to where the course shall live before you release.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
