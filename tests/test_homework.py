"""Homework: what students get holds no answer, and what comes back is graded as it deserves."""

import nbformat
import pytest

from tests.homework_course import STUB, hand_in, nbgrader, play, replayed, tiny
from tools import homework
from tools.homework import HIDDEN, SOLUTION, regions, role

pytest.importorskip("nbgrader", reason="nbgrader is not installed (the extra 'book')")

SOURCES = homework.assignments()
each_assignment = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def graded(source, kind="check"):
    return [role(cell) for cell in source.cells if role(cell).kind == kind]


def secrets(source):
    """Every text of a source that students must not see."""
    found = [
        text
        for cell in source.cells
        for text in regions(cell.source, SOLUTION) + regions(cell.source, HIDDEN)
    ]
    return found + [cell.source for cell in source.cells if role(cell).kind == "instructor"]


def squeezed(text):
    return "".join(text.split())


# ------------------------------------------------------------------------------------------- every assignment


@each_assignment
def test_a_solution_passes_every_check_and_a_stub_fails_every_one(path, tmp_path):
    source = homework.read(path)
    (tmp_path / "good").mkdir()
    (tmp_path / "stub").mkdir()
    good = play(tiny(homework.course(source)), source, tmp_path / "good")
    assert good == {check.name: None for check in graded(source)}
    stub = play(tiny(homework.student(source)), source, tmp_path / "stub")
    assert stub.keys() == good.keys() and None not in stub.values(), (
        "a check that a stub passes checks nothing"
    )


@each_assignment
def test_answers_that_only_repeat_the_visible_checks_fail_the_hidden_ones(path, tmp_path):
    source = homework.read(path)
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


def test_there_are_six_assignments_at_least():
    assert len(SOURCES) >= 6


# ------------------------------------------------------------------------------------------------ a whole course

ROUND_TRIP = ["temperature", "gradients"]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Two assignments released, handed in by four students, graded by nbgrader, with feedback; its folder."""
    out = tmp_path_factory.mktemp("homework")
    homework.build(homework.assignments(ROUND_TRIP), out)
    folder = out / "course"
    for name in ROUND_TRIP:
        nbgrader(folder, "generate_assignment", name)
        released = folder / "release" / name / f"{name}.ipynb"
        source = homework.read(homework.SOURCES / f"{name}.md")
        solved = {
            role(c).name: homework.without_markers(c.source)
            for c in source.cells
            if role(c).kind == "solution"
        }
        hand_in(folder, "good", released, solved | {"hypothesis": "It is flat.", "verdict": "Undecided."})
        good = folder / "submitted" / "good" / name
        play(nbformat.read(good / released.name, as_version=4), source, good)  # the records
        first, second, _ = solved
        constant = f"def {solved[second].split('def ')[1].split('(')[0]}(*_):\n    return 2.0, 3**-0.5\n"
        hand_in(folder, "partial", released, {first: solved[first], second: constant, "records": "pass"})
        hand_in(
            folder, "broken", released, {first: "def broken(:\n", second: solved[second], "runs": "1 / 0"}
        )
    (folder / "submitted" / "broken" / "gradients" / "gradients.ipynb").rename(folder / "elsewhere.ipynb")
    for name in ROUND_TRIP:
        nbgrader(folder, "autograde", name, status=int(name == "gradients"))
        nbgrader(folder, "generate_feedback", name)
    return folder


def scores(folder, name):
    """student -> {graded cell: its automatic points}, and whether somebody must look at it."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        return {
            submission.student.id: (
                {
                    g.name: g.auto_score
                    for n in submission.notebooks
                    for g in n.grades
                    if g.cell.cell_type == "code"
                },
                submission.needs_manual_grade,
            )
            for submission in book.assignment_submissions(name)
        }


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
    found = scores(course, "gradients")
    assert found["good"] == ({"teacher-check": 3, "norms-check": 3, "records": 4}, True)
    assert found["partial"][0] == {"teacher-check": 3, "norms-check": 0, "records": 0}
    assert sum((found.get("broken") or ({}, None))[0].values()) == 0, "there was no notebook"


def test_feedback_shows_what_failed(course):
    for name, student, text in (
        ("temperature", "partial", "of the differences, not of the errors"),
        ("temperature", "broken", "SyntaxError"),
        ("gradients", "good", "seeds; error on test"),
    ):
        page = (course / "feedback" / student / name / f"{name}.html").read_text(encoding="utf-8")
        assert text in page
    assert not (course / "feedback" / "broken" / "gradients" / "gradients.html").exists()
