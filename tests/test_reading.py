"""The reading times that chapters state are worked out in one way (tools/reading.py)."""

import pytest

from tools import notebooks, reading

STATING = [
    path for path in notebooks.chapters() if reading.STATED.search(path.with_suffix(".md").read_text("utf-8"))
]


@pytest.mark.parametrize("path", STATING, ids=lambda path: path.stem)
def test_a_chapter_takes_as_long_as_it_says(path):
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    (stated,) = reading.STATED.findall(text)
    assert int(stated) == reading.read(text).minutes


def test_what_is_counted():
    cell = "```{code-cell} ipython3\n:tags: [TAG]\n\na = 1\n\nb = 2\n```\n"
    shown, folded = cell.replace("TAG", "sto-lite"), cell.replace("TAG", "hide-input")
    text = f"---\n---\none two\n\n$$a + b$$\n\n{shown}\n{folded}\n## Exercises\n\nthree\n"
    assert reading.read(text) == (2, 2, 1)
    assert reading.Reading(2000, 60, 10).minutes == 35
