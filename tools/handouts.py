"""The directive ``handouts``: a sheet to print for each chapter: objectives, one-minute checks, what was learnt.

All of it is the chapters' own text; nothing is written twice.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

from tools.directives import add
from tools.entries import ROOT

BOOK = ROOT / "book"
CHECK = re.compile(r"^> \*\*(?:One-minute check|Check) \d.*$", re.M)


def chapters() -> list[Path]:
    """Return the texts of the chapters that have a hand-out: those that say what one can do after them."""
    texts = sorted(BOOK.glob("[0-8]*-*.md"))
    return [path for path in texts if "**After this chapter you can**" in path.read_text("utf-8")]


def handout(path: Path) -> str:
    """Return one chapter's page in Markdown."""
    text = path.read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.M)
    objectives = re.search(r"\*\*After this chapter you can\*\*\n\n((?:\d+\. .+\n)+)", text)
    learnt = re.search(r"^## What was learnt\n\n(.*?)(?=\n\*\*An open question|\n## )", text, re.M | re.S)
    assert title and objectives and learnt, f"{path.name} lacks a title, objectives, or what was learnt"
    checks = "\n".join(f"- {line.removeprefix('> ')}" for line in CHECK.findall(text))
    parts = ("**After this chapter you can**", objectives[1], "**One-minute checks**", checks)
    sheet = "\n\n".join([f"## {title[1]}", *parts, "**What was learnt**", learnt[1]])
    return re.sub(r"\]\(#", f"]({path.stem}.ipynb#", sheet)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    written = {"handouts": lambda _: "\n\n".join(map(handout, chapters())).splitlines()}
    return add(app, written, "book/[0-8]*-*.md")
