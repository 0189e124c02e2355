"""Homework: what students get holds no answer, and what comes back is graded as it deserves."""

import ast
import contextlib
import html
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest

from sto_lite.config import plain
from sto_lite.homework import check_form
from sto_lite.records import read_record
from tests.homework_course import STUB, Grader, hand_in, play, replayed, tiny
from tests.packing import zipped
from tests.samples import edited, put
from tools import homework, measure, measured, submissions
from tools.homework import HIDDEN, SOLUTION, HomeworkError, regions, role

pytest.importorskip("nbgrader", reason="nbgrader is not installed (the extra 'book')")

SOURCES = homework.assignments()
each_assignment = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def graded(source, kind="check"):
    return [role(cell) for cell in source.cells if role(cell).kind == kind]


def secrets(source):
    """Every text of a source that students must not see."""
    found = [text for c in source.cells for text in regions(c.source, SOLUTION) + regions(c.source, HIDDEN)]
    return found + [cell.source for cell in source.cells if role(cell).kind == "instructor"]


def squeezed(text):
    return "".join(text.split())


# ------------------------------------------------------------------------------------------- every assignment


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A function that plays an assignment with its solutions, once; gives the folder and what each check said."""

    @cache
    def played(path):
        source, folder = homework.read(path), tmp_path_factory.mktemp(path.stem)
        return folder, play(tiny(homework.course(source)), source, folder)

    return played


@each_assignment
def test_a_solution_passes_every_check_and_a_stub_fails_every_one(path, solved, tmp_path):
    source = homework.read(path)
    (tmp_path / "stub").mkdir()
    folder, good = solved(path)
    assert good == {check.name: None for check in graded(source)}
    assert submissions.about_records(source, folder) == []
    stub = play(tiny(homework.student(source)), source, tmp_path / "stub")
    assert stub.keys() == good.keys() and None not in stub.values(), "what a stub passes checks nothing"
    if "records" in good:
        assert "no folder records" in submissions.about_records(source, tmp_path / "stub")[0]


@each_assignment
def test_answers_that_only_repeat_the_visible_checks_fail_the_hidden_ones(path, tmp_path):
    source = homework.read(path)
    if path.stem == "derivations":  # its right answer is a constant, and its check hides nothing
        pytest.skip("nothing is hidden")
    results = replayed(source, tmp_path)
    assert results, "there is a function to replay"
    for check, (visible, full) in results.items():
        assert visible is None, f"{check}: the replay passes what students see"
        assert full is not None, f"{check}: a hard-coded answer passes"


@each_assignment
def test_what_students_get_holds_no_answer(path):
    source = homework.read(path)
    student = homework.student(source)
    text = nbformat.writes(student)
    assert not any(marker[4:] in text for marker in (*SOLUTION, *HIDDEN))
    sources = squeezed("\n".join(cell.source for cell in student.cells))
    assert [secret for secret in secrets(source) if squeezed(secret) in sources] == []
    stubs = [cell for cell in student.cells if STUB.split("\n")[0] in cell.source]
    assert len(stubs) == len(graded(source, "solution"))
    assert "nbgrader" not in text
    code = [cell.source for cell in student.cells if cell.cell_type == "code"]
    assert code[0].startswith("# Where sto_lite is missing, this brings it.")


@each_assignment
def test_every_check_says_what_is_wrong_also_in_its_hidden_part(path):
    for cell in homework.solutions(homework.read(path)).cells:
        if cell.cell_type == "code" and "assert" in cell.source:
            asserts = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Assert)]
            words = (ast.Constant, ast.JoinedStr)  # and no bare variable, which says little in the feedback
            assert [ast.unparse(node) for node in asserts if not isinstance(node.msg, words)] == []


@each_assignment
def test_every_assignment_has_what_it_promises(path):
    source = homework.read(path)
    text = "\n".join(cell.source for cell in source.cells)
    assert "Budget: " in text and "CPU" in text and "GPU" in text
    written = {name: points for _, name, points in graded(source, "written")}
    assert written.keys() == {"hypothesis", "verdict"}
    rubric = next(c.source for c in source.cells if role(c).kind == "instructor" and "rubric" in c.source)
    points = [row.split("|")[2].strip() for row in rubric.splitlines() if row.startswith("|")][2:]
    assert sum(map(int, points)) == sum(written.values()), "the rubric's points are the cells'"
    assert sum(p for _, _, p in graded(source)) + sum(written.values()) == 20


# ------------------------------------------------------------------------------------------------ a whole course

ROUND_TRIP = ["temperature", "gradients"]


@pytest.fixture(scope="module")
def surroundings():
    """What nbgrader needs: programs that it calls by name, and for its kernels this checkout's sto_lite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.setenv("PYTHONPATH", str(homework.ROOT))
        yield


CHEAT = "homework.check = homework.report = homework.problems = lambda *arguments, **named: []"


@pytest.fixture(scope="module")
def course(tmp_path_factory, solved, surroundings):
    """Two assignments released, handed in by students, graded by nbgrader, with feedback; its folder."""
    out = tmp_path_factory.mktemp("homework")
    homework.build(homework.assignments(ROUND_TRIP), out)
    folder = out / "course"
    grader = Grader(folder)
    for name in ROUND_TRIP:
        grader.succeed(grader.api.generate_assignment(name))
        released = folder / "release" / name / f"{name}.ipynb"
        source = homework.read(homework.SOURCES / f"{name}.md")
        cells = [cell for cell in source.cells if role(cell).kind == "solution"]
        answers = {role(cell).name: homework.without_markers(cell.source) for cell in cells}
        hand_in(folder, "good", released, answers | {"hypothesis": "It is flat.", "verdict": "Undecided."})
        records = solved(homework.SOURCES / f"{name}.md")[0] / "records"
        shutil.copytree(records, folder / "submitted" / "good" / name / "records")
        first, second, *_ = answers
        constant = f"def {answers[second].split('def ')[1].split('(')[0]}(*_):\n    return 2.0, 3**-0.5\n"
        hand_in(folder, "partial", released, {first: answers[first], second: constant, "records": "pass"})
        hand_in(folder, "broken", released, {first: "def broken(:", second: answers[second], "runs": "1 / 0"})
        if name == "temperature":  # a cheat replaces the checks of the records; another deletes a check
            hand_in(folder, "cheat", released, {"runs": CHEAT})
            hand_in(folder, "deleted", released, {first: answers[first]}, without={f"{first}-check"})
            copies(2)(folder / "submitted" / "deleted" / name)
    broken = folder / "submitted" / "broken" / "gradients"
    (broken / "gradients.ipynb").rename(folder / "elsewhere.ipynb")  # else autograde ends with an error
    with contextlib.redirect_stdout(io.StringIO()) as told:
        submissions.main(["temperature", str(folder), "--restore"])
    (folder / "restored.txt").write_text(told.getvalue())
    for name in ROUND_TRIP:
        grader.grade(name)
    (folder / "elsewhere.ipynb").rename(broken / "gradients (1).ipynb")
    return folder


def scores(folder, name):
    """student -> {graded cell: its automatic points}, and whether somebody must look at it."""
    from nbgrader.api import Gradebook

    found = {}
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        for submission in book.assignment_submissions(name):
            grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
            points = {grade.name: grade.auto_score for grade in grades if grade.cell.cell_type == "code"}
            found[submission.student.id] = points, submission.needs_manual_grade
    return found


def test_what_nbgrader_releases_is_what_the_student_folder_holds(course):
    for name in ROUND_TRIP:
        released = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
        ours = nbformat.read(course.parent / "student" / f"{name}.ipynb", as_version=4)
        assert [c.source for c in released.cells] == [c.source for c in ours.cells]


def test_the_course_is_graded_as_it_deserves(course):
    found = scores(course, "temperature")
    assert found["good"] == ({"gradient-check": 3, "paired-check": 3, "records": 4}, True)
    assert found["partial"][0] == {"gradient-check": 3, "paired-check": 0, "records": 0}
    assert found["broken"][0] == {"gradient-check": 0, "paired-check": 3, "records": 0}
    assert found["cheat"][0]["records"] == 4, "what runs in a student's process cannot be trusted"
    assert found["deleted"][0]["gradient-check"] == 3, "a check that was deleted is put back"
    found = scores(course, "gradients")
    assert found["good"] == ({"teacher-check": 3, "norms-check": 3, "records": 4}, True)
    assert found["partial"][0] == {"teacher-check": 3, "norms-check": 0, "records": 0}
    assert "broken" not in found, "there was no notebook, so there is nothing to grade"


def test_grades_say_what_a_zero_means(course, tmp_path):
    import csv

    from nbgrader.api import Gradebook
    from traitlets.config.loader import PyFileConfigLoader

    settings = PyFileConfigLoader("nbgrader_config.py", str(course)).load_config()
    shutil.copy(course / "gradebook.db", tmp_path)
    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        after_a_dead_kernel = book.find_grade("records", "gradients", "gradients", "partial")
        after_a_dead_kernel.auto_score = None
        for cell in ("hypothesis", "verdict"):
            grade = book.find_grade(cell, "gradients", "gradients", "good")
            grade.manual_score, grade.needs_manual_grade = 3, False
        book.db.commit()
        settings.ExportApp.plugin_class(to=str(tmp_path / "grades.csv")).export(book)
    rows = csv.DictReader((tmp_path / "grades.csv").open(newline=""))
    states = {(row["assignment"], row["student_id"]): row["state"] for row in rows}
    assert states["temperature", "good"] == "by_hand"
    assert states["gradients", "broken"] == "missing"
    assert states["gradients", "partial"] == "failed"
    assert states["gradients", "good"] == "final"


def test_what_came_back_is_looked_over_without_running_it(course, capsys):
    assert submissions.main(["temperature", str(course)]) == 1
    told = capsys.readouterr().out
    assert re.search(r"^good +all well$", told, re.M)
    assert re.search(r"^cheat +there is no folder records$", told, re.M)
    restored = (course / "restored.txt").read_text()
    assert "deleted: unmarked a copy of paired, put back gradient-check\n" in restored
    assert "is missing" not in told
    assert "5 students, 4 to be looked at" in told
    assert submissions.main(["gradients", str(course)]) == 1
    told = capsys.readouterr().out
    assert re.search(r"(?m)^broken +there is no gradients.ipynb; gradients \(1\).ipynb is passed over", told)
    assert re.search(r"^cheat +nothing was handed in$", told, re.M)


def changing(name, *changes):
    return lambda at: edited(at / "records" / name, *changes)


def marked(value):
    """Such metadata for every cell of the notebook but the first, and none of its ids."""
    return lambda at: rewrite(at, lambda cells: [c.metadata.update(nbgrader=value) for c in cells[1:]])


def linked(name):
    def link(at):
        (at / name).rename(at / "elsewhere")
        (at / name).symlink_to(at / "elsewhere")

    return link


def into(source, target):
    """What lies in one folder lies in another then."""

    def move(at):
        (at / target).mkdir(exist_ok=True)
        for path in [*(at / source).iterdir()]:
            if path != at / target:
                path.rename(at / target / path.name)

    return move


def copies(count):
    """So many copies of a cell that nbgrader knows."""

    def split(cells):
        at = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in cells].index("paired")
        cells[at : at + 1] = [nbformat.from_dict({**cells[at], "id": f"paired-{n}"}) for n in range(count)]

    return lambda at: rewrite(at, split)


def rewrite(folder, change):
    notebook = nbformat.read(folder / "temperature.ipynb", as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, folder / "temperature.ipynb")


ODD = [
    (changing("summary.json", put("mean", "paper", 1.0)), "is 1.0"),
    (changing("paper-s1.json", put("data", {})), "data.counts"),
    (changing("paper-s0.json", put("data", "size", 10**9)), "not those"),
    (changing("paper-s1.json", put("result", "test", "error", math.nan)), "result says nan"),
    (changing("paper-s1.json", put("history", "test_error", ["x"])), "does not end with"),
    (lambda at: (at / "records" / "paper-s2.json").unlink(), "paper has [0, 1]"),
    (lambda at: (at / "records").rename(at / "runs"), "no folder records"),
    (into("records", "."), "holds no record"),
    (lambda at: (into("records", ".")(at), (at / "records").rmdir()), "put the .json files into one"),
    (into(".", "temperature"), "temperature/temperature.ipynb is passed over"),
    (lambda at: (at / "temperature.ipynb").write_text('{"cells": ['), "is no notebook"),
    (copies(0), "the cell paired is missing: --restore puts"),
    (copies(2), "there are 2 cells paired: --restore"),
    (
        lambda at: rewrite(at, lambda cells: [c.metadata.pop("nbgrader", 0) for c in cells]),
        "lacks nbgrader's marks",
    ),
    (marked(None), "lacks nbgrader's marks"),
    (marked("x"), "lacks nbgrader's marks"),
    (linked("records/paper-s1.json"), "paper-s1.json is a link or no plain file"),
    (linked("temperature.ipynb"), "temperature.ipynb is a link or no plain file"),
    (lambda at: os.mkfifo(at / "records" / "pipe.json"), "pipe.json is a link or no plain file"),
    (lambda at: os.truncate(at / "records" / "paper-s1.json", 1 << 30), "has 1024 MB"),
]


@pytest.mark.parametrize(("change", "said"), ODD)
def test_what_is_odd_about_a_submission_is_told(course, tmp_path, change, said):
    handed_in = shutil.copytree(course / "submitted" / "good" / "temperature", tmp_path / "temperature")
    source = homework.read(homework.SOURCES / "temperature.md")
    change(handed_in)
    assert said in "\n".join(submissions.look_over(source, handed_in, "temperature"))


def test_one_broken_submission_does_not_hide_the_others_and_shared_records_are_told(course, tmp_path, capsys):
    for student in ("ada", "bob", "eve", "kim"):
        shutil.copytree(course / "submitted" / "good", tmp_path / "submitted" / student)
    bob, eve, kim = (tmp_path / "submitted" / name / "temperature" for name in ("bob", "eve", "kim"))
    edited(bob / "records" / "paper-s0.json", put("method", "name", "\x1b[2J\nada  all well"))
    shutil.rmtree(eve)
    eve.symlink_to("../ada/temperature")
    for path in kim.rglob("*-s*.json"):  # the same seeds, but trained anew
        edited(path, lambda record: record["history"].update(seconds=[record["history"]["seconds"][0] + 1]))
    book = homework.SOURCES / "records" / "sto-s0.json"
    shutil.copy(book, kim / "records" / "paper-s0.json")
    (tmp_path / "nbgrader_config.py").touch()
    assert submissions.main(["temperature", str(tmp_path), "--restore"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"^ada +15 records are those of bob, to the seconds", told, re.M)
    assert "are those of ada" in told and "those of kim" not in told
    assert "\x1b" not in told and re.search(r"^bob  .*ada  all well", told, re.M)
    assert re.search(r"^eve  .* is a link", told, re.M)
    assert "1 records are those of the book (book/homework/records), to the seconds" in told
    assert "4 students, 4 to be looked at" in told


def test_a_control_with_images_of_its_own_does_not_set_the_protocol(course, tmp_path):
    handed_in = shutil.copytree(course / "submitted" / "good" / "temperature", tmp_path / "temperature")
    source = homework.read(homework.SOURCES / "temperature.md")
    control = handed_in / "records" / "control" / "paper-s0.json"
    control.parent.mkdir()
    shutil.copy(handed_in / "records" / "paper-s0.json", control)
    edited(control, put("data", "counts", "train", 16))
    assert submissions.protocol(json.loads(control.read_bytes()))["faces"] == 16
    assert submissions.look_over(source, handed_in, "temperature") == []


def test_what_cannot_be_written_is_not_restored(course, tmp_path):
    released = course / "release" / "temperature" / "temperature.ipynb"
    path = Path(shutil.copy(course / "submitted" / "good" / "temperature" / "temperature.ipynb", tmp_path))
    copies(0)(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("It is flat.", "\\ud800"), encoding="utf-8")
    with pytest.raises(homework.HomeworkError, match="nothing is restored"):
        submissions.restore(released, path)


# ------------------------------------------------------------------------- what systems and platforms make of it


def unpacked(path, folder):
    submissions.unpack(path, folder, "temperature.ipynb")
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("top", ["", "temperature/", "Homework 1/temperature/"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_zips_of_every_system_are_unpacked(top, separator, tmp_path):
    names = [f"{top}temperature.ipynb", f"{top}records/paper-s0.json"]
    odd = ["__MACOSX/._temperature.ipynb", f"{top}.ipynb_checkpoints/temperature.ipynb", f"{top}.DS_Store"]
    odd += [f"{top}records/._paper-s0.json"]
    members = {name.replace("/", separator): "{}" for name in [*names, *odd]}
    members |= {f"{top}records/".replace("/", separator): ""}
    found = unpacked(zipped(tmp_path / "ada.zip", members), tmp_path / "ada")
    assert found == {"temperature.ipynb", "records/paper-s0.json"}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..\\x", "/etc/x", "\\\\server\\x", "C:\\x", "C:x"])
def test_a_zip_that_leads_elsewhere_is_refused_whole(name, tmp_path):
    path = zipped(tmp_path / "ada.zip", {"temperature.ipynb": "{}", name: "x"})
    with pytest.raises(HomeworkError, match="leads out of the zip"):
        unpacked(path, tmp_path / "ada")
    assert not (tmp_path / "ada").exists()


def test_a_zip_that_is_none_too_large_or_the_second_is_told(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_text("no zip")
    with pytest.raises(HomeworkError, match="cannot be unpacked"):
        unpacked(tmp_path / "a.zip", tmp_path / "a")
    good = zipped(tmp_path / "b.zip", {"temperature.ipynb": "{}"})
    data = bytearray(good.read_bytes())
    data[40] ^= 255
    (tmp_path / "c.zip").write_bytes(data)
    with pytest.raises(HomeworkError, match="cannot be unpacked"):
        unpacked(tmp_path / "c.zip", tmp_path / "c")
    unpacked(good, tmp_path / "b")
    with pytest.raises(HomeworkError, match="stays; take it away"):
        unpacked(good, tmp_path / "b")
    for number, members in enumerate(({"records": "x", "records/a.json": "{}"}, {"n" * 300: "x"})):
        odd = zipped(tmp_path / f"odd{number}.zip", {"temperature.ipynb": "{}", **members})
        with pytest.raises(HomeworkError, match="cannot be unpacked"):
            unpacked(odd, tmp_path / "odd")
        assert not (tmp_path / "odd").exists(), "whole or not at all"
    named = zipped(tmp_path / "named.zip", {"temperature.ipynb": "{}", "ä.json": "{}"})
    named.write_bytes(named.read_bytes().replace("ä".encode(), b"\xe4\xff"))
    with pytest.raises(HomeworkError, match="cannot be unpacked"):
        unpacked(named, tmp_path / "named")
    with monkeypatch.context() as cut_off, pytest.raises(KeyboardInterrupt):
        cut_off.setattr(submissions.Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        unpacked(good, tmp_path / "e")
    assert not [*tmp_path.glob("*e"), *tmp_path.glob(".e*")]
    assert unpacked(good, tmp_path / "e") == {"temperature.ipynb"}
    many = zipped(tmp_path / "many.zip", {"temperature.ipynb": "{}", **{f"{i}.json": "{}" for i in range(9)}})
    for largest in (1, 4):  # a file of 2 bytes, and ten of them
        monkeypatch.setattr(submissions, "LARGEST", largest)
        with pytest.raises(HomeworkError, match="not unpacked"):
            unpacked(many, tmp_path / "d")


def test_folders_of_systems_are_no_students_and_every_stream_takes_every_name(tmp_path):
    for name in (".ipynb_checkpoints", "__MACOSX", ".git", "Łukasz"):
        (tmp_path / "course" / "submitted" / name).mkdir(parents=True)
    zips = tmp_path / "zips"
    zips.mkdir()
    zipped(zips / "ada.zip", {"temperature\\records\\x.json": "{}", "temperature\\temperature.ipynb": "{"})
    (zips / "._ada.zip").write_bytes(b"\x00")
    command = [sys.executable, "tools/submissions.py", "temperature", tmp_path / "course", "--unpack", zips]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=homework.ROOT, env=environment, capture_output=True, check=False)
    told = done.stdout.decode("cp1252")
    assert done.returncode == 1 and done.stderr == b""
    assert "2 students, 2 to be looked at" in told and "ukasz  nothing was handed in" in told
    assert re.search(r"^ada +temperature.ipynb is no notebook", told, re.M)
    assert "MACOSX" not in told and "checkpoints" not in told


def test_a_zip_of_windows_that_was_unpacked_wrongly_is_told(tmp_path):
    (tmp_path / r"records\paper-s0.json").write_text("{}")
    (said,) = submissions.about_records(homework.read(homework.SOURCES / "temperature.md"), tmp_path)
    assert "--unpack reads it" in said


def test_a_course_without_submissions_is_told(tmp_path, capsys, monkeypatch):
    assert submissions.main(["temperature", str(tmp_path)]) == 1
    assert "holds no student's folder" in capsys.readouterr().err
    assert submissions.main(["nothing", str(tmp_path)]) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert submissions.main(["temperature", str(tmp_path), "--unpack=~/zips"]) == 1
    assert f"{tmp_path}/zips holds no STUDENT.zip" in capsys.readouterr().err


def test_feedback_shows_what_failed(course):
    for name, student, text in (
        ("temperature", "partial", "of the differences, not of the errors"),
        ("temperature", "broken", "SyntaxError"),
        ("gradients", "good", "seeds; error on test"),
    ):
        page = (course / "feedback" / student / name / f"{name}.html").read_text(encoding="utf-8")
        assert text in page
    assert not (course / "feedback" / "broken" / "gradients" / "gradients.html").exists()


# --------------------------------------------------------------------------------------- what readers can see


def leaks(text, known):
    """Those answers that a text holds, however it is wrapped."""
    text = squeezed(text)
    return [secret for secret in known if squeezed(secret) in text]


@pytest.fixture(scope="module")
def answers():
    # Shorter ones, such as "1 / 2", may stand anywhere.
    return [text for path in SOURCES for text in secrets(homework.read(path)) if len(squeezed(text)) > 40]


def test_no_source_of_a_page_holds_an_answer(answers):
    assert len(answers) > 5 * len(SOURCES)
    pages = [page for page in homework.SOURCES.parent.glob("*.md") if not page.stem.startswith("README")]
    assert len(pages) > 10
    for page in pages:
        assert leaks(page.read_text(encoding="utf-8"), answers) == [], page.name


def test_no_built_page_holds_an_answer(answers):
    built = homework.ROOT / "_build" / "html"
    if not (built / "index.html").exists():
        if os.environ.get("CI"):
            pytest.fail("there is no built book to test; make test builds it first")
        pytest.skip("the book is not built (make book)")
    assert not [path for path in built.rglob("*") if "homework" in path.relative_to(built).as_posix()]
    files = [*built.rglob("*.html"), *built.rglob("searchindex.js"), *built.joinpath("_sources").rglob("*.*")]
    for path in files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            text = html.unescape(re.sub(r"<[^>]*>", "", text))
        elif path.suffix == ".ipynb":
            text = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
        assert leaks(text, answers) == [], path
    assert len(files) > 20


def test_a_leak_is_seen(answers):
    assert leaks(f"Before.\n{answers[0]}\nAfter.", answers) == [answers[0]]
    assert leaks(answers[0].replace(" ", "\n   "), answers) == [answers[0]]


# ------------------------------------------------------------------------------------- sources and their tables


def source_of(*cells):
    """A notebook as a source gives it; cells are (homework, text), code where the kind says so."""
    notebook = nbformat.v4.new_notebook()
    for mark, text in cells:
        kind, _ = homework.KINDS.get(mark.split()[0], ("code", 1))
        new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        notebook.cells.append(new(text, metadata={"homework": mark}))
    return notebook


SOLVED = ("solution f", "def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION")
CHECKED = ("check f-check 2", "assert f()\n### BEGIN HIDDEN TESTS\nassert f() == 1\n### END HIDDEN TESTS")
WRITTEN = ("written verdict 3", "### BEGIN SOLUTION\nSo.\n### END SOLUTION")
ROWS = "| verdict | 1 | sense |\n|  | 2 | more |\n| other | 9 | no |"
RUBRIC = ("instructor", f"| part | points | for |\n|---|---|---|\n{ROWS}")


def test_a_source_in_its_four_forms():
    source = source_of(SOLVED, CHECKED, WRITTEN, RUBRIC)
    homework.verify(source)
    stub = "def f():\n    " + STUB.replace("\n", "\n    ")
    given = [cell.source for cell in homework.student(source).cells]
    assert given == [stub, "assert f()", "YOUR ANSWER HERE"]
    assert [c.source for c in homework.solutions(source).cells] == [
        "def f():\n    return 1",
        "assert f()\n# Hidden from students:\nassert f() == 1",
        "**verdict, 3 points, graded by hand. A model answer:**\n\nSo.\n\n"
        "| points | for |\n|---|---|\n| 1 | sense |\n| 2 | more |",
        RUBRIC[1],
    ]
    marks = [cell.metadata.nbgrader for cell in homework.course(source).cells]
    found = [(m.grade, m.solution, m.locked, m.get("points")) for m in marks]
    assert found == [(False, True, False, None), (True, False, True, 2), (True, True, False, 3)]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([SOLVED, CHECKED, WRITTEN], "no cell for instructor"),
        ([SOLVED, SOLVED, CHECKED, WRITTEN, RUBRIC], "two cells are called f"),
        ([("solution f", "f = 1"), CHECKED, WRITTEN, RUBRIC], "needs ### BEGIN SOLUTION"),
        ([("solution f", SOLVED[1].replace("### END", "## END")), CHECKED, WRITTEN, RUBRIC], "has a wrong"),
        ([SOLVED, ("check f 2", "assert f()"), WRITTEN, RUBRIC], "needs ### BEGIN HIDDEN"),
        ([SOLVED, CHECKED, (WRITTEN[0], WRITTEN[1] + "\n\n## Two functions"), RUBRIC], "text outside its"),
        ([SOLVED, CHECKED, (WRITTEN[0], "So:\n" + WRITTEN[1]), RUBRIC], "text outside its"),
        ([SOLVED, ("locked g", CHECKED[1]), WRITTEN, RUBRIC], "has a wrong ### BEGIN HIDDEN"),
        ([SOLVED, ("check f-check", CHECKED[1]), WRITTEN, RUBRIC], "says nothing known"),
        ([SOLVED, ("check f-check 0", CHECKED[1]), WRITTEN, RUBRIC], "says nothing known"),
        ([("solved f", SOLVED[1]), CHECKED, WRITTEN, RUBRIC], "says nothing known"),
    ],
)
def test_a_source_that_would_leak_or_break_is_refused(cells, said):
    with pytest.raises(HomeworkError, match=re.escape(said)):
        homework.verify(source_of(*cells))


def test_the_tool_says_what_it_wrote_and_what_is_wrong(tmp_path, capsys):
    assert homework.main(["gradients", "--out", str(tmp_path)]) == 0
    assert "1 assignments" in capsys.readouterr().out
    own = tmp_path / "course" / "nbgrader_config.py"
    own.write_text("# mine\n")
    assert homework.main(["gradients", "--out", str(tmp_path)]) == 0
    assert own.read_text() == "# mine\n", "an instructor's settings are kept"
    assert homework.main(["nothing"]) == 1
    assert "no assignment is called nothing; there are" in capsys.readouterr().err


def test_measured_tables_come_from_the_records():
    of = {seed: measured.errors(measured.records(name)) for seed, name in enumerate(("sto", "baseline"))}
    gaps = [of[1][seed] - of[0][seed] for seed in of[0]]
    text = measured.filled("Before\n\n{measured sto: baseline}\n\nAfter")
    assert f"| {sum(gaps) / len(gaps):+.1f} (" in text and f"{len(gaps)} pairs" in text
    assert "{" not in text and text.startswith("Before") and text.endswith("After")
    with pytest.raises(ValueError, match="no record of nothing"):
        measured.filled("{measured sto: nothing}")


def test_every_record_of_the_homework_is_one_that_the_plan_trains():
    rows = {row.name: row for row in measure.plan()}
    records = {path: read_record(path) for path in measured.RUNS.glob("*.json")}
    assert {path.stem.rsplit("-s", 1)[0] for path in records} == rows.keys()
    assert [name for name in rows if len(measured.records(name)) < 3] == [], "too few for a scatter"
    for path, record in records.items():
        row = rows[path.stem.rsplit("-s", 1)[0]]
        assert record["method"] == {"name": row.method.name, **plain(row.method)}, path.name
        assert path.stem.endswith(f"-s{record['config']['seed']}")
        assert record["config"]["epochs"] == row.epochs and record["data"]["label_noise"] == row.noise
        assert check_form(record) == [], path.name
