"""What book/review.md says is held by tests."""

import re
import tomllib
from pathlib import Path

import yaml

from tools import article, handouts

ROOT = Path(__file__).resolve().parents[1]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_paper_has_what_is_asked_for_and_every_reference():
    text, entries = read("paper/paper.md"), read("paper/paper.bib")
    wanted = "Summary,Statement of need,Comparison,Learning objectives,Content,Story,References"
    assert [word for word in wanted.split(",") if f"\n# {word}" not in text] == []
    cited, known = set(re.findall(r"@(\w+)", text)), set(re.findall(r"^@\w+\{(\w+),", entries, re.M))
    assert cited == known
    assert "eleven" in text.lower()
    assert len(list((ROOT / "book" / "homework").glob("*.md"))) == 11


def test_citation_licences_and_version_agree():
    cited = yaml.safe_load(read("CITATION.cff"))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    version = project.get("version") or re.search(r'__version__ = "(.+)"', read("sto_lite/__init__.py"))[1]
    assert cited["version"] == version
    assert cited["license"] == "MIT" and "CC BY 4.0" in cited["message"]
    assert "MIT License" in read("LICENSE") and "Attribution 4.0" in read("LICENSE-text")
    assert f"## {version}" in read("CHANGELOG.md")


def test_every_path_that_the_page_names_is_there():
    quoted = re.findall(r"`([\w./-]+)`", read("book/review.md"))
    paths = [p for p in quoted if "/" in p or "." in p or p.isupper()]
    assert paths and [p for p in paths if not p.startswith("_build") and not (ROOT / p).exists()] == []
    assert "## Support" in read("CONTRIBUTING.md")


def test_every_chapter_of_the_method_has_a_hand_out_with_five_checks():
    found = {path.stem: handouts.handout(path) for path in handouts.chapters()}
    assert {"00-setup", "01-expressions", "02-resnets", "03-stochastic-depth"} <= set(found)
    assert {"04-distillation", "06-sto"} <= set(found)
    for name, text in found.items():
        checks = re.findall(r"^- \*\*(?:One-minute check|Check) \d", text, re.M)
        assert len(checks) == 5 or name == "07-fast", name
        assert text.count("\n1. ") >= 2, f"{name}: objectives, and what was learnt"
        assert "## Exercises" in read(f"book/{name}.md")


def test_the_report_follows_from_the_records():
    text = article.article()
    assert "a reduced protocol, not the paper's: fer2013, 1,024 training images" in text
    assert re.search(r"^\| STO \| \+\d", text, re.M)
    assert "Not measured: Table 1" in text and "What was not replicated, and why" in text


def test_the_tests_that_the_page_of_faults_names_are_there():
    named = set(re.findall(r"`(test_\w+)`", read("book/robustness.md")))
    written = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 20 and not [name for name in sorted(named) if f"def {name}(" not in written]
