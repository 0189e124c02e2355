"""The reading times that chapters state are those that tools/reading_time.py works out."""

import pytest

from tools import notebooks, reading_time

HEAD = "---\nkernelspec: x\n---\n"


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_a_stated_reading_time_is_the_computed_one(path):
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert set(reading_time.STATED.findall(text)) <= {str(reading_time.minutes(text))}


def test_what_counts():
    prose, code = "word " * 1000, "```{code-cell} ipython3\n" + "x = 1\n" * 30 + "```\n"
    folded = "```{code-cell} ipython3\n:tags: [hide-input]\n\n" + "x = 1\n" * 300 + "```\n"
    equation = "$$\na + b + c\n$$\n\n" * 10
    exercises = "\n## Exercises\n" + prose
    assert reading_time.minutes(HEAD + prose) == 5
    assert reading_time.minutes(HEAD + prose + "\n" + code) == 15
    assert reading_time.minutes(HEAD + prose + "\n" + code + folded + equation + exercises) == 20


def test_a_formula_in_a_sentence_is_one_word_and_a_comment_is_no_code():
    assert reading_time.minutes(HEAD + "$a + b + c + d$ " * 1000) == 5
    assert reading_time.shown_lines(":tags: [sto-lite]\n\n# why\nx = 1\n\n") == 1
