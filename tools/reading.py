"""How long a chapter takes to read, worked out in one way for all of them::

    python tools/reading.py            minutes of every chapter, with what they are made of

200 words of prose a minute, 20 seconds for each line of code that the page shows, 30 seconds for each displayed
equation. Folded cells and exercises are not counted. A chapter states the sum, rounded to five minutes, in its head:
"Reading takes about 50 minutes"; a test holds it to that.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
STATED = re.compile(r"Reading takes about (\d+) minutes")
CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"^:tags:.*(hide-input|remove-cell)", re.MULTILINE)


class Reading(NamedTuple):
    """What a reader has before them."""

    words: int
    code: int
    equations: int

    @property
    def minutes(self) -> int:
        """Rounded to five."""
        return max(5, 5 * round((self.words / 200 + self.code / 3 + self.equations / 2) / 5))


def read(text: str) -> Reading:
    """Count the words, lines of shown code and displayed equations of a chapter's ``.md``."""
    text = text.split("---\n", 2)[-1].split("\n## Exercises")[0]
    shown = [cell for cell in CELL.findall(text) if not FOLDED.search(cell)]
    lines = [line for cell in shown for line in cell.splitlines() if line.strip() and ":tags:" not in line]
    prose = CELL.sub("", text)
    equations = re.findall(r"\$\$.*?\$\$", prose, re.DOTALL)
    words = re.sub(r"\$\$.*?\$\$", "", prose, flags=re.DOTALL).split()
    return Reading(len(words), len(lines), len(equations))


def main() -> int:
    """Print a line a chapter."""
    for path in sorted((ROOT / "book").glob("[0-9][0-9]*-*.md")):
        found = read(path.read_text(encoding="utf-8"))
        print(
            f"{path.stem:24}{found.minutes:4} min: {', '.join(f'{v} {k}' for k, v in found._asdict().items())}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
