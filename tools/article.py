"""A short replication report, made from the records: python tools/article.py [--out article.md].

It has the parts that ReScience C asks for: what was replicated, what was not, and why. Every number follows from the
committed records and from the paper's own tables; a person adds names, dates and a discussion.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite.errors import print_anything  # noqa: E402
from sto_lite.experiments.formats import BESIDE_THE_PAPER, MEASURED, as_markdown  # noqa: E402
from sto_lite.experiments.paper import EXPERIMENTS  # noqa: E402
from sto_lite.experiments.tables import at_paper, tables  # noqa: E402
from sto_lite.files import expand, save  # noqa: E402
from tools.claims import read_claims  # noqa: E402
from tools.findings import find, read_current  # noqa: E402

SETS = {"table1": ("fer2013", "rafdb"), "table2": ("fer2013", "rafdb"), "table3": ("cifar100",)}

HEAD = """# [Re] Student-Teacher Oneness: A Storage-efficient approach that improves facial expression recognition

*A replication of Zheng, Rasmussen and Peng, ICCV Workshops 2021, doi:10.1109/ICCVW54120.2021.00453.*

## Scope

The paper was published without code. This is an implementation from its text, in PyTorch, with every equation held
to a known-answer test. What the text leaves open was decided and listed; the authors were not asked.
"""

METHODS = """## Methods

Networks, schedule and augmentation are the paper's where a table says so below. Several seeds run in pairs, and a
verdict comes from one analysis of a whole table (methods × seeds, one error variance), with intervals that hold for
all of its comparisons together. Questions were registered with their rule before their runs. A reduced protocol is a
statement about itself: it neither reproduces nor refutes the paper's numbers.
"""


def article() -> str:
    """Return the report in Markdown."""
    records = read_current()
    statuses = Counter(finding.status for finding in find(read_claims(), records))
    parts = [HEAD, METHODS, "## The paper's claims, one by one", ""]
    parts += [f"- {status}: {count}" for status, count in statuses.most_common()]
    parts += ["", "## Results at the paper's protocol", ""]
    unmeasured = []
    for name, sets in SETS.items():
        for data in sets:
            table = at_paper(EXPERIMENTS[name], records, data)
            if any(row.records for row in table.rows):
                parts += [as_markdown(table, BESIDE_THE_PAPER), ""]
            else:
                unmeasured.append(f"{table.experiment.title} on {data}")
    parts += [f"Not measured: {'; '.join(unmeasured)}.", "", "## Results under reduced protocols", ""]
    for name in SETS:
        for table in tables(EXPERIMENTS[name], records):
            if not table.faithful and sum(bool(row.records) for row in table.rows) > 1:
                parts += [as_markdown(table, MEASURED), ""]
    parts += [
        "## What was not replicated, and why",
        "",
        "What is listed as not measured needs a GPU for hours (67,500 steps a run at the paper's protocol), or data "
        "that their authors give out on request (RAF-DB). The commands that would measure it are in the repository.",
    ]
    return "\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    out = ROOT / "_build" / "article.md"
    parser.add_argument("--out", type=expand, default=out, help="(default: _build/article.md)")
    print_anything()
    options = parser.parse_args(arguments)
    save(options.out, article().encode())
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
