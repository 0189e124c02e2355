"""The directive ``handouts``: a page to print for each chapter, with objectives, quick checks and what was learnt.

A Sphinx extension, named in ``_config.yml``. All of it is the chapters' own text; nothing is written twice.
"""

import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

BOOK = Path(__file__).resolve().parents[1] / "book"
CHECK = re.compile(r"^> \*\*(?:One-minute check|Check) \d.*$", re.M)


def chapters() -> list[Path]:
    """Return the texts of the chapters that have a hand-out: those that say what one can do after them."""
    return [
        path
        for path in sorted(BOOK.glob("[0-8]*-*.md"))
        if "**After this chapter you can**" in path.read_text("utf-8")
    ]


def handout(path: Path) -> str:
    """Return one chapter's page in Markdown."""
    text = path.read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.M)
    objectives = re.search(r"\*\*After this chapter you can\*\*\n\n((?:\d+\. .+\n)+)", text)
    learnt = re.search(r"^## What was learnt\n\n(.*?)(?=\n\*\*An open question|\n## )", text, re.M | re.S)
    assert title and objectives and learnt, f"{path.name} lacks a title, objectives, or what was learnt"
    checks = [f"- {line.removeprefix('> ')}" for line in CHECK.findall(text)]
    parts = [
        f"## {title[1]}",
        "**After this chapter you can**",
        objectives[1],
        "**Quick checks**",
        "\n".join(checks),
    ]
    parts += ["**What was learnt**", learnt[1]]
    return re.sub(r"\]\(#", f"]({path.stem}.ipynb#", "\n\n".join(parts))


class Handouts(Directive):
    """All chapters' pages, one after another; printed, each begins on a sheet of its own."""

    def run(self) -> list[nodes.Node]:
        """Parse the chapters' parts as this page's own text."""
        lines = "\n\n".join(map(handout, chapters())).splitlines()
        for path in chapters():
            self.state.document.settings.env.note_dependency(str(path))
        holder = nodes.Element()
        self.state.nested_parse(StringList(lines, ""), 0, holder, match_titles=True)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    app.add_directive("handouts", Handouts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
