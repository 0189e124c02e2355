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
KINDS = {
    "solution": "code",
    "check": "code",
    "locked": "code",
    "written": "markdown",
    "instructor": "markdown",
    "set-up": "code",
}

CONFIG = '''"""The course's settings for nbgrader; written by make homework, and yours to change."""

import csv
from pathlib import Path

from nbgrader.plugins import CsvExportPlugin

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "sto"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.Execute.timeout = 300  # seconds for one cell; nothing is trained while a notebook is graded
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\\nraise NotImplementedError()"}


class Grades(CsvExportPlugin):
    """grades.csv with a column that says what a score of 0 means: failed, by_hand, missing, or final."""

    def export(self, gradebook):
        super().export(gradebook)
        states = {
            (s.assignment.name, s.student.id): self.state(s)
            for a in gradebook.assignments
            for s in gradebook.assignment_submissions(a.name)
        }
        path = Path(self.to or "grades.csv")
        rows = list(csv.DictReader(path.open(newline="", encoding="utf-8")))
        for row in rows:
            row["state"] = states.get((row["assignment"], row["student_id"]), "missing")
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]) if rows else ["assignment", "state"])
            out.writeheader()
            out.writerows(rows)

    @staticmethod
    def state(submission):
        """A check that has no score, not even 0, was never run: autograde failed, or the check was deleted."""
        checks = [g for n in submission.notebooks for g in n.grades if g.cell.cell_type == "code"]
        if any(g.auto_score is None for g in checks):
            return "failed"
        return "by_hand" if submission.needs_manual_grade else "final"


c.ExportApp.plugin_class = Grades
'''

Notebook = Any  # nbformat.NotebookNode, which carries no types


class HomeworkError(Exception):
    """Something about an assignment's source that its author has to put right."""


class Role(NamedTuple):
    """What a cell is for: a key of KINDS, or "given". name: its id for nbgrader; points: of a graded cell."""

    kind: str
    name: str = ""
    points: int = 0


def role(cell: Any) -> Role:
    """Return a cell's role.

    Raises:
        HomeworkError: its metadata cannot be read.
    """
    words = str(cell.metadata.get("homework", "given")).split()
    kind = words[0] if words else ""
    if kind in ("given", "instructor", "set-up"):
        right = len(words) == 1
    elif kind in GRADED:
        right = len(words) == 3 and words[2].isdigit() and int(words[2]) > 0
    else:
        right = kind in KINDS and len(words) == 2
    if not right or cell.cell_type != KINDS.get(kind, cell.cell_type):
        raise HomeworkError(
            f"homework: {' '.join(words)!r} of a {cell.cell_type} cell says nothing known; write solution NAME, "
            f"check NAME POINTS or locked NAME for code, written NAME POINTS or instructor for text"
        )
    return Role(kind, words[1] if len(words) > 1 else "", int(words[2]) if len(words) > 2 else 0)


# ----------------------------------------------------------------------------------------------------- sources


def assignments(names: Iterable[str] = (), sources: Path = SOURCES) -> list[Path]:
    """Return the sources of the assignments named; all by default.

    Raises:
        HomeworkError: there is none of this name, or none at all.
    """
    known = {path.stem: path for path in visible(sources, "*.md")}
    if unknown := sorted({Path(name).stem for name in names} - set(known)):
        raise HomeworkError(f"no assignment is called {', '.join(unknown)}; there are {', '.join(known)}")
    if not known:
        raise HomeworkError(f"{sources} holds no assignment")
    return [known[Path(name).stem] for name in names] or list(known.values())


def read(path: Path) -> Notebook:
    """Return an assignment's source as a notebook with the set-up cell, after checking it.

    Raises:
        HomeworkError: it cannot be read; or it lacks what every assignment has.
    """
    try:
        notebook = jupytext.read(path, fmt="md:myst")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise HomeworkError(f"{path}: {error}") from None
    try:
        verify(notebook)
    except HomeworkError as error:
        raise HomeworkError(f"{path.name}: {error}") from None
    return with_set_up(notebook)


def with_set_up(notebook: Notebook) -> Notebook:
    """Put the cell that brings sto_lite before a source's other code; it is written into no source."""
    try:
        found = repository()
    except AddressError as error:
        raise HomeworkError(str(error)) from None
    setup_cell.place(notebook, found.url if found else "")
    for cell in notebook.cells:
        if "set-up" in cell.metadata.get("tags", ()):
            cell.metadata["homework"] = "set-up"
    return notebook


def verify(notebook: Notebook) -> None:
    """Refuse a source that would leak, or that nbgrader would refuse.

    Raises:
        HomeworkError: markers are not in pairs or in a wrong cell, names are used twice, or a part is missing.
    """
    names: list[str] = []
    kinds: set[str] = set()
    everything = "".join(
        cell.source for cell in notebook.cells
    )  # a formula's check hides nothing: its hints are wanted
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
        if kind == "written" and not re.fullmatch(
            rf"{SOLUTION[0]}\n.*{SOLUTION[1]}", cell.source.strip(), re.S
        ):
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
    new = plain(notebook, {"instructor"})
    for cell, old in zip(new.cells, leave_out(notebook, {"instructor"}), strict=True):
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
    new = plain(notebook)
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


def plain(notebook: Notebook, without: Iterable[str] = ()) -> Notebook:
    """Return a notebook of the same cells without metadata and outputs, and with ids that a rebuild keeps."""
    new = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, old in enumerate(leave_out(notebook, without)):
        make = nbformat.v4.new_code_cell if old.cell_type == "code" else nbformat.v4.new_markdown_cell
        new.cells.append(make(copy.copy(old.source), id=role(old).name or f"cell-{number}"))
    return new


# ------------------------------------------------------------------------------------------------------ writing


def build(paths: Iterable[Path], out: Path = OUT) -> list[Path]:
    """Write the three forms of assignments into `out`, and return what was written.

    nbgrader_config.py is written if it is not there; so an instructor's own is kept.

    Raises:
        HomeworkError: of a source; nothing is written then.
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
    if not (out / "course" / "nbgrader_config.py").exists():
        files[out / "course" / "nbgrader_config.py"] = CONFIG
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
