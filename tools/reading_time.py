"""How long a chapter takes to read, worked out for all chapters in one way::

    python tools/reading_time.py        print the minutes of every chapter
    python tools/reading_time.py --fix  write them into the chapters that state a reading time

200 words of prose a minute, 20 seconds for a line of code that the page shows, 30 seconds for a displayed equation.
Exercises, folded code and outputs are left out.
"""

import re
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"
STATED = re.compile(r"(?<=Reading: about )(?:\d+|MINUTES)(?= minutes)")
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"\$\$.*?\$\$", re.DOTALL)
WORD = re.compile(r"\$[^$]*\$|[^\s|]*\w[^\s|]*")  # a formula in a sentence counts as one word


def shown_lines(cell: str) -> int:
    """Lines of a code cell that the page shows: none if it is folded; blank lines and comments do not count."""
    tags, _, code = cell.partition("\n\n") if cell.startswith(":tags:") else ("", "", cell)
    if "hide-" in tags or "remove-" in tags:
        return 0
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code.splitlines())


def minutes(text: str) -> int:
    """Minutes that the text side of a chapter takes, to the nearest five."""
    text = text.partition("\n---\n")[2].partition("\n## Exercises")[0]
    lines = sum(shown_lines(match[1]) for match in CELL.finditer(text))
    prose = re.sub(r"<details>.*?</details>", "", CELL.sub("", text), flags=re.DOTALL)
    equations = len(EQUATION.findall(prose))
    words = len(WORD.findall(re.sub(r"\]\([^)]*\)", "]", EQUATION.sub("", prose))))
    return 5 * round((words / 200 + lines / 3 + equations / 2) / 5)


def main(fix: bool) -> None:
    """Print the minutes of every chapter, and write them where ``fix`` says so."""
    for path in sorted(BOOK.glob("[0-9][0-9]*-*.md")):
        text = path.read_text(encoding="utf-8")
        print(f"{path.stem:25s} {minutes(text):3d}")
        if fix:
            path.write_text(STATED.sub(str(minutes(text)), text), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main("--fix" in sys.argv)
