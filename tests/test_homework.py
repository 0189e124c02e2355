"""Homework: what students get holds no answer, and what comes back is graded as it deserves."""

import nbformat
import pytest

from tests.homework_course import STUB, play, replayed, tiny
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
