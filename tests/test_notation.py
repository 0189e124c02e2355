"""Texts of chapters: every symbol stands in the notation, and a stated reading time is the one worked out."""

import re

import pytest

from tools import notebooks, reading_time

CELL = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`])\$([^$\n]+?)\$", re.DOTALL)
WORDS = re.compile(
    r"\\(?:text(?:bf|it)?|operatorname|tag|begin|end|math(?:rm|sf)|label|ref)\s*\{[^{}]*\}(?:\{[lcr]+\})?"
)
GREEK = "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi"
GREEK += " varphi chi psi omega ell Gamma Delta Theta Lambda Sigma Phi Psi Omega"
FACES = "tilde hat bar mathcal mathbb"  # what makes another symbol of a letter
SYMBOL = re.compile(
    rf"\\({'|'.join(FACES.split())})\s*\{{?\s*(\\?[A-Za-z]+)\s*\}}?|\\({'|'.join(GREEK.split())})(?![A-Za-z])|\\[A-Za-z]+|([A-Za-z])"
)
CHAPTER = re.compile(r"^\| \[(\d+)b?\]\([^)]*\) \| ([^|]*(?:\\\|[^|]*)*) \|", re.MULTILINE)


def symbols(text):
    r"""Letters in the formulas of ``text``, such as "p", "\\tilde p", "\\lambda", without index or argument."""
    found = set()
    for display, inline in MATH.findall(text):
        for face, letter, greek, latin in SYMBOL.findall(WORDS.sub(" ", display or inline)):
            found.add(rf"\{face} {letter}" if face else rf"\{greek}" if greek else latin)
    return found - {""}


def notation():
    """Symbols of the whole book, and those of single chapters: {"04": symbols}."""
    text = (notebooks.BOOK / "notation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\$.*?) \| ", text, re.MULTILINE)  # the first column of the tables of the book
    local = {}
    for number, column in CHAPTER.findall(text):
        local.setdefault(f"{int(number):02d}", set()).update(symbols(column))
    return symbols("\n".join(rows)), local


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_symbols_are_in_the_notation_and_reading_times_are_computed(path):
    whole, local = notation()
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    missing = sorted(symbols(CELL.sub("", text)) - whole - local.get(path.stem[:2], set()))
    assert missing == [], f"add them to the table of single chapters in book/notation.md: {missing}"
    assert set(reading_time.STATED.findall(text)) <= {str(reading_time.minutes(text))}


def test_symbols_are_told_apart():
    text = r"$\tilde p^s_c$, $p_l$, $\mathcal{L}_{ce}$ $$\hat{z} = \lambda T^2 \text{ReLU}(\mathrm{KL}) \tag{9}$$ $x$"
    assert symbols(text) >= {r"\tilde p", "p", r"\mathcal L", r"\hat z", r"\lambda", "T", "x"}
    assert "R" not in symbols(r"$\text{ReLU}$") and symbols(r"$\mathrm{d}H$") == {"H"}


def test_what_counts_as_reading():
    head, prose = "---\nkernelspec: x\n---\n", "word " * 1000
    code = "```{code-cell} ipython3\n" + "x = 1\n" * 30 + "```\n"
    folded = "```{code-cell} ipython3\n:tags: [hide-input]\n\n" + "x = 1\n" * 300 + "```\n"
    rest = folded + "$$\na + b + c\n$$\n\n" * 10 + "\n## Exercises\n" + prose
    for text, minutes in ((prose, 5), (f"{prose}\n{code}", 15), (f"{prose}\n{code}{rest}", 20)):
        assert reading_time.minutes(head + text) == minutes
    assert reading_time.minutes(head + "$a + b + c + d$ " * 1000) == 5, "a formula in a sentence is one word"
    assert reading_time.shown_lines(":tags: [sto-lite]\n\n# why\nx = 1\n\n") == 1
