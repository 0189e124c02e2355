"""What tests/test_homework.py needs: an assignment's cells as a program, and a course that is played through."""

import contextlib
import io
import os
import re

import nbformat
import torch

from tools import homework
from tools.homework import HIDDEN, role

# A protocol that takes a second, in place of the source's own.
TINY = "EPOCHS, FACES, PIXELS = 80, 256, 16", "EPOCHS, FACES, PIXELS = 1, 32, 8"
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"


def tiny(notebook):
    """The notebook of somebody who chose a tiny protocol."""
    for cell in notebook.cells:
        cell.source = cell.source.replace(*TINY)
    return notebook


def play(notebook, source, folder):
    """Run a notebook's code with the source's checks in their place, in `folder`; check -> its error, or None.

    As in a grader, an error ends its cell and not the notebook.
    """
    namespace, results = {"__name__": "__main__"}, {}
    torch.manual_seed(int.from_bytes(os.urandom(4), "big"))  # hidden checks draw other numbers every time
    cells = iter(notebook.cells)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for old in homework.leave_out(source, {"instructor"}):
            cell, (kind, name, _) = next(cells), role(old)
            if cell.cell_type != "code" or kind == "set-up":  # a notebook's line, %pip, is in it
                continue
            code = homework.without_markers(old.source) if kind == "check" else cell.source
            error = error_of(code, namespace, name or "given")
            if kind == "check":
                results[name] = error
            elif kind in ("given", "locked") and error:
                raise error
    return results


def replayed(source, folder):
    """Play a cheat who hard-codes what the visible checks want; check -> (error of the visible part, of the whole).

    The cheat's functions return, call by call, what the solution's returned in the visible part of a check.
    """
    results, namespace = {}, {"__name__": "__main__"}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for cell in homework.leave_out(tiny(source), {"instructor"}):
            kind, name, _ = role(cell)
            if name == "runs" or cell.cell_type != "code":
                continue
            before = set(namespace)
            if kind == "solution":
                exec(homework.without_markers(cell.source), namespace)
                honest = {n: f for n in set(namespace) - before if callable(f := namespace[n])}
            elif kind == "check" and name != "records":
                visible = re.sub(rf"{HIDDEN[0]}\n.*{HIDDEN[1]}", "", cell.source, flags=re.S)
                memory = {n: [] for n in honest}
                recording = {n: recorder(f, memory[n]) for n, f in honest.items()}
                exec(visible, {**namespace, **recording})
                errors = []
                for code in (visible, homework.without_markers(cell.source)):
                    cheats = {n: repeater(values) for n, values in memory.items()}
                    errors.append(error_of(code, {**namespace, **cheats}))
                results[name] = tuple(errors)
                exec(visible, namespace)  # what a later cell may use
            elif kind in ("given", "locked") and ".price(" not in cell.source:
                exec(cell.source, namespace)
    return results


def recorder(function, memory):
    """The function, whose answers are written down."""

    def recording(*arguments, **named):
        memory.append(function(*arguments, **named))
        return memory[-1]

    return recording


def repeater(answers):
    """A function that repeats answers in their order, and then the last one for ever."""
    rest = list(answers)

    def repeating(*arguments, **named):
        return rest.pop(0) if len(rest) > 1 else rest[0]

    return repeating


def error_of(code, namespace, called="check"):
    """What a program raises, or None."""
    try:
        exec(compile(code, called, "exec"), namespace)
    except Exception as raised:
        return raised
    return None


class Grader:
    """nbgrader's commands in a course's folder, with its settings, in this process: a start of each takes seconds."""

    def __init__(self, folder):
        from nbgrader.apps import NbGraderAPI
        from traitlets.config.loader import PyFileConfigLoader

        self.folder = folder
        self.api = NbGraderAPI(config=PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config())

    def grade(self, name):
        """Grade every submission that holds a notebook of this name, and write its feedback."""
        for student in sorted((self.folder / "submitted").iterdir()):
            if (student / name / f"{name}.ipynb").exists():
                self.succeed(self.api.autograde(name, student.name))
        self.succeed(self.api.generate_feedback(name))

    @staticmethod
    def succeed(result):
        assert result["success"], result.get("error") or result["log"]


def hand_in(folder, student, released, answers, without=()):
    """A student's copy of a released notebook: a tiny protocol, the cells in `answers` filled in, some deleted."""
    notebook = tiny(nbformat.read(released, as_version=4))
    notebook.cells = [
        c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") not in without
    ]
    for cell in notebook.cells:
        cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
    place = folder / "submitted" / student / released.stem
    place.mkdir(parents=True)
    nbformat.write(notebook, place / released.name)
