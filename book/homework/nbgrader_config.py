"""The course's settings for nbgrader; written by make homework, and yours to change."""

import csv
from pathlib import Path

from nbgrader.plugins import CsvExportPlugin

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "sto"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.Execute.timeout = 300  # seconds for one cell; nothing is trained while a notebook is graded
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError()"}


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
