"""Look over what students have handed in, without running a line of theirs: tools/submissions.py.

    python tools/submissions.py gradients ~/sto-course --unpack ~/zips

For every student's folder it says whether the notebook is there and holds every cell that is graded, whether the
records beside it have the form that is asked for, and whether two students handed in the same runs. A student's code
can replace the checks of a notebook; here the assignment's own source is executed, and its check reads what was
handed in. The exit status is 1 if something has to be looked at.

``--unpack`` first unpacks every ``STUDENT.zip`` of a folder to where nbgrader looks for it. ``--restore`` first makes
the cells that nbgrader knows whole: one that was deleted is put back from what was released, and of one that was
split or copied, the last alone keeps its mark: nbgrader grades no notebook in which a mark occurs twice.
"""

import argparse
import contextlib
import io
import json
import lzma
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite.errors import print_anything, shown  # noqa: E402
from sto_lite.files import expand, visible, write_atomically  # noqa: E402
from sto_lite.resnet import NETWORKS  # noqa: E402
from tools import homework  # noqa: E402
from tools.homework import HomeworkError, Notebook, role  # noqa: E402

T = TypeVar("T")
PROTOCOL = "EPOCHS, FACES, PIXELS = "  # the line of a source that students fit to their budget
LARGEST = 50 << 20  # bytes of a file; a notebook with all its figures has a few million
MEMBERS = 500  # files of a zip
LINES = 20  # printed of one student
MOST = {"epochs": 100_000, "faces": 10_000, "pixels": 64}  # larger numbers are no protocol, but a full memory


def look_over(source: Notebook, folder: Path, name: str, marked: bool = True) -> list[str]:
    """Say what has to be looked at in one student's submission; nothing when all is well.

    source, name: of the assignment. folder: NAME.ipynb and records. marked: nbgrader grades it, by its cells' marks.
    """
    if lines := strange(folder):
        return lines
    return [*about_notebook(source, folder / f"{name}.ipynb", marked), *about_records(source, folder)]


def strange(folder: Path) -> list[str]:
    """Name what no submission needs and what reading should not touch: links, pipes, devices, very large files."""
    lines = []
    for path in (folder.parent, folder, *sorted(folder.rglob("*"))):
        found = path.lstat()
        name = path.name if path == folder.parent else path.relative_to(folder.parent)
        if stat.S_ISDIR(found.st_mode):
            continue
        if not stat.S_ISREG(found.st_mode):
            lines.append(f"{name} is a link or no plain file: take it out, nothing here is read")
        elif found.st_size > LARGEST:
            lines.append(f"{name} has {found.st_size >> 20} MB: take it out, nothing here is read")
    return lines


def mark(cell: Notebook) -> str:
    """Return the name by which nbgrader knows a cell, or an empty string."""
    found = cell.metadata.get("nbgrader")
    name = found.get("grade_id") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def about_notebook(source: Notebook, path: Path, marked: bool = True) -> list[str]:
    """Say why a notebook would not be graded, or not in all its parts."""
    if not path.is_file():
        others = [str(other.relative_to(path.parent)) for other in visible(path.parent, "**/*.ipynb")]
        beside = f"; {', '.join(others)} is passed over: rename it, or move it here" if others else ""
        return [f"there is no {path.name}{beside}"]
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # whatever somebody has handed in
        return [f"{path.name} is no notebook ({type(error).__name__}): ask for it again"]
    names = [mark(cell) for cell in notebook.cells]
    remedy = ("--restore puts it back", "--restore unmarks all but the last")
    if not any(names):
        if marked:
            return [
                f"{path.name} lacks nbgrader's marks: paste the answers into a copy of release/{path.stem}"
            ]
        names = [str(cell.get("id") or cell.metadata.get("id") or "") for cell in notebook.cells]
        remedy = ("look whether it was deleted", "look which of them counts")
    lines = []
    for cell in source.cells:
        name = role(cell).name
        if name and name not in names:
            lines.append(f"the cell {name} is missing: {remedy[0]}")
        elif name and names.count(name) > 1:
            lines.append(f"there are {names.count(name)} cells {name}: {remedy[1]}")
    return lines


def restore(released: Path, path: Path) -> list[str]:
    """Make a submitted notebook's marked cells those of the released one; return what was done, in words."""
    try:
        ours, theirs = (nbformat.read(place, as_version=4) for place in (released, path))
    except Exception as error:
        raise HomeworkError(f"nothing is restored: {error}") from None
    done, names, after = [], [mark(cell) for cell in theirs.cells], 0
    for number, name in enumerate(names):
        if name and name in names[number + 1 :]:
            theirs.cells[number].metadata.pop("nbgrader")
            names[number] = ""
            done.append(f"unmarked a copy of {name}")
    for name, cell in ((mark(cell), cell) for cell in ours.cells):
        if name in names:
            after = names.index(name) + 1
        elif name:
            if theirs.nbformat_minor < 5:  # such notebooks have no ids
                cell.pop("id", None)
            theirs.cells.insert(after, cell)
            names.insert(after, name)
            done.append(f"put back {name}")
            after += 1
    try:
        if done:
            write_atomically(path, nbformat.writes(theirs).encode())
    except (OSError, ValueError) as error:  # such as characters that cannot be encoded
        raise HomeworkError(f"nothing is restored: {error}") from None
    return done


def unpack(file: Path, folder: Path, notebook: str) -> None:
    """Unpack what a student has uploaded, whole or not at all.

    What systems add is left out (``__MACOSX``, names with a dot before them), paths of Windows are understood, and
    where the notebook of this name lies in a folder of the zip, that folder becomes ``folder``.

    Raises:
        HomeworkError: it is no zip, damaged, locked, or too large; a path leads out of it; or `folder` is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise HomeworkError(f"{folder} holds something already and stays; take it away to unpack anew")
    contents: dict[PurePosixPath, bytes] = {}
    whole = 0
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                place = PurePosixPath(member.filename.replace("\\", "/"))
                hidden = any(re.match(r"\.(?!\.$)|__MACOSX$", part) for part in place.parts)
                if member.is_dir() or member.filename.endswith("\\") or hidden or not place.parts:
                    continue
                if place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
                    raise HomeworkError(f"{member.filename} leads out of the zip: not unpacked")
                whole += member.file_size
                if max(member.file_size, whole / 4) > LARGEST or len(contents) == MEMBERS:
                    raise HomeworkError(
                        f"more than {LARGEST >> 20} MB in a file, four times that in all, or {MEMBERS} files: not "
                        f"unpacked"
                    )
                contents[place] = archive.read(member)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise HomeworkError(f"cannot be unpacked ({error}): ask for it again") from None
    tops = {place.parent for place in contents if place.name == notebook}
    top = tops.pop() if len(tops) == 1 else PurePosixPath()
    part = folder.with_name(f".{folder.name}.partial")  # of one that was cut off, too
    shutil.rmtree(part, ignore_errors=True)
    try:
        for place, content in contents.items():
            write_atomically(part / (place.relative_to(top) if place.is_relative_to(top) else place), content)
        if folder.exists():
            folder.rmdir()
        if contents:
            part.rename(folder)
    except OSError as error:  # a name that is a file and a folder, or too long
        raise HomeworkError(f"cannot be unpacked ({error}): ask for it again") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def about_records(source: Notebook, folder: Path, namespace: dict[str, Any] | None = None) -> list[str]:
    """Say what the assignment's own check finds wrong in the records of a submission, if it asks for any.

    A namespace that is given gets what the assignment's own cells define, such as its ARMS.
    """
    if not any(role(cell) == ("check", "records", role(cell).points) for cell in source.cells):
        return []
    if not (folder / "records").is_dir():
        if visible(folder, "records\\*.json"):
            return [
                r"records\ is a part of the files' names: the zip is from Windows, --unpack reads it rightly"
            ]
        flat = visible(folder, "*.json")
        return ["there is no folder records" + ("; put the .json files into one" if flat else "")]
    found = Counter(json.dumps(each) for each in each_record(folder, protocol) if each)
    given = json.loads(found.most_common(1)[0][0]) if found else None  # a control may have another
    namespace = {} if namespace is None else namespace
    namespace["__name__"] = "__main__"
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            for code in program(source):
                exec(adapted(code, given) if given and PROTOCOL in code else code, namespace)
    except Exception as error:  # of the check; or of whatever is written in place of a record
        text = str(error) or f"{type(error).__name__} in the check of the records"
        return [line.removeprefix("- ") for line in text.splitlines() if not line.endswith("handed in yet:")]
    return []


def each_record(folder: Path, read: Callable[[Any], T]) -> Iterator[T]:
    """Yield what can be read from a submission's records; what about_records finds fault with is passed over."""
    for path in visible(folder / "records", "**/*.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError, LookupError, TypeError):
            yield read(json.loads(path.read_text(encoding="utf-8")))


def run_of(record: Any) -> str:
    """Return what no other run has."""
    return json.dumps([record["history"]["train_loss"], record["history"]["seconds"]])


def copied(students: Sequence[Path], name: str) -> dict[str, list[str]]:
    """Say, by student, whose records are another's or the book's: a seed fixes the losses, but not the seconds."""
    owners = {run: {"the book (book/homework/records)"} for run in each_record(homework.SOURCES, run_of)}
    for student in students:
        folder = student / name
        for run in each_record(folder, run_of) if folder.is_dir() and not strange(folder) else ():
            owners.setdefault(run, set()).add(student.name)
    said: dict[str, list[str]] = {}
    for student in students:
        shared = [names - {student.name} for names in owners.values() if {student.name} < names]
        if shared:
            whose = f"those of {', '.join(sorted(set.union(*shared)))}, to the seconds: ask whose they are"
            said[student.name] = [f"{len(shared)} records are {whose}"]
    return said


def program(source: Notebook) -> Iterator[str]:
    """Yield the cells of a source that its check of the records needs, and the check; nothing is trained in them."""
    planned = False  # what a student does comes before the arms, which are locked, or is a run
    for cell in source.cells:
        kind, name, _ = role(cell)
        planned = planned or kind == "locked"
        given = kind == "given" and cell.cell_type == "code" and ".price(" not in cell.source
        if kind == "locked" or given or (kind == "solution" and not planned):
            yield homework.without_markers(cell.source)
        if kind == "check" and name == "records":
            yield homework.without_markers(cell.source)
            return


def protocol(record: Any) -> dict[str, Any]:
    """Return what a student has chosen: epochs of STO, faces, pixels, net and difficulty; nothing if it cannot be."""
    data, config = record["data"], record["config"]
    found = {"epochs": config["epochs"], "faces": data["counts"]["train"], "pixels": data["size"]}
    fits = all(type(value) is int and 0 < value <= MOST[key] for key, value in found.items())
    fits = fits and record["method"]["name"] == "sto" and config["net"] in NETWORKS
    found |= {"net": config["net"], "difficulty": data["difficulty"]}
    return found if fits and 0 <= data["difficulty"] <= 2 else {}


def adapted(code: str, given: dict[str, Any]) -> str:
    """Return the cell that holds the protocol, with what a student has chosen in place of what the source says."""
    chosen = f"{given['epochs']}, {given['faces']}, {given['pixels']}"
    code = re.sub(rf"^{PROTOCOL}.*$", f"{PROTOCOL}{chosen}", code, flags=re.M)
    code = re.sub(r'\bnet="[^"]*"', f"net={given['net']!r}", code)
    return re.sub(r"\bdifficulty=[\d.]+", f"difficulty={given['difficulty']!r}", code)


def main(arguments: list[str] | None = None) -> int:
    """Print a table of students; return the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("name", help="the assignment, such as gradients")
    parser.add_argument("course", type=expand, nargs="?", default=Path(), help="its folder (default: this)")
    parser.add_argument("--unpack", type=expand, metavar="FOLDER", help="first unpack its STUDENT.zip")
    parser.add_argument("--restore", action="store_true", help="first make marked cells whole")
    print_anything()
    options = parser.parse_args(arguments)
    try:
        (path,) = homework.assignments([options.name])
        source, file = homework.read(path), f"{path.stem}.ipynb"
        submitted, released = options.course / "submitted", options.course / "release" / path.stem / file
        uploads = visible(options.unpack, "*") if options.unpack else []
        zips = [path for path in uploads if path.suffix.lower() == ".zip"]
        if options.unpack and not zips:
            raise HomeworkError(f"{options.unpack} holds no STUDENT.zip")
        for upload in zips:
            try:
                unpack(upload, submitted / upload.stem / path.stem, file)
            except HomeworkError as error:
                print(shown(f"{upload.name}: {error}"))
        students = [student for student in visible(submitted, "*") if student.is_dir()]
        if not students:
            raise HomeworkError(f"{submitted} holds no student's folder")
        for student in students if options.restore else ():
            handed_in = student / path.stem / file
            readable = handed_in.parent.exists() and not strange(handed_in.parent)
            if readable and any("--restore" in line for line in about_notebook(source, handed_in)):
                try:
                    done = ", ".join(restore(released, handed_in))
                except HomeworkError as error:
                    done = str(error)
                print(shown(f"{student.name}: {done}"))
    except HomeworkError as error:
        print(error, file=sys.stderr)
        return 1
    marked = (options.course / "nbgrader_config.py").exists()
    copies = copied(students, path.stem)
    odd, width = 0, max(len(student.name) for student in students)
    for student in students:
        handed_in = student / path.stem
        try:
            there = handed_in.is_dir() and any(handed_in.iterdir())
            lines = look_over(source, handed_in, path.stem, marked) if there else ["nothing was handed in"]
        except Exception as error:  # a student's files end no look at the others'
            lines = [f"cannot be looked over ({type(error).__name__}: {error})"]
        if len(lines) > LINES:
            lines = [*lines[:LINES], f"and {len(lines) - LINES} more"]
        lines = [*lines, *copies.get(student.name, [])]
        odd += bool(lines)
        for number, line in enumerate(lines or ["all well"]):
            print(f"{'' if number else shown(student.name):{width}}  {shown(line)}")
    print(f"{path.stem}: {len(students)} students, {odd} to be looked at.")
    return int(odd > 0)


if __name__ == "__main__":
    sys.exit(main())
