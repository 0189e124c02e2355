"""A table for a terminal, a page, a Markdown text or a spreadsheet (chapters 8 and 9)."""

import csv
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from sto_lite.experiments.tables import RULE, UNKNOWN, Table

HEAD = (
    "run",
    "paper",
    "ours",
    "± 95 %",
    "seeds",
    "best (flatters)",
    "gain",
    "95 % interval",
    "p (images)",
    "paper's gain",
    "verdict",
)

BESIDE_THE_PAPER = ("run", "paper", "paper's gain", "ours", "gain", "verdict")
MEASURED = ("run", "ours", "± 95 %", "seeds", "gain", "95 % interval", "p (images)", "verdict")


def cells_of(table: Table) -> list[list[str]]:
    """The table as text, row by row in HEAD's order; "not measured" where there is no run."""
    lines = []
    for row in table.rows:
        paper = row.cell.paper.get(table.data)
        lines.append(
            [
                row.cell.label,
                number(paper),
                number(row.error.mean) if row.error else UNKNOWN,
                number(row.error.half) if row.error and row.error.seeds > 1 else "–",
                str(row.error.seeds) if row.error else "0",
                number(row.best),
                signed(row.gain.mean) if row.gain else "–",
                f"{signed(row.gain.low)} to {signed(row.gain.high)}"
                if row.gain and row.gain.seeds > 1
                else "–",
                "–" if row.p is None else ("< 0.001" if row.p < 0.001 else f"{row.p:.3f}"),
                "–" if row.claimed is None else signed(row.claimed),
                row.verdict or "–",
            ]
        )
    return lines


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """Two decimals with a sign."""
    return f"{value:+.2f}".replace("-", "−")


def heading(table: Table) -> str:
    """Title and protocol."""
    kind = "the paper's protocol" if table.faithful else "a reduced protocol, not the paper's"
    where = f" on {table.split}" if table.split else ""
    return f"{table.experiment.title}. Top-1 error (%){where}, last epoch; {kind}: {table.protocol}."


def as_text(table: Table) -> str:
    """For a terminal."""
    lines = [list(HEAD), *cells_of(table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    body = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([heading(table), "", *body, "", RULE])


def as_markdown(table: Table) -> str:
    """A pipe table with its heading."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells_of(table)]
    return "\n".join([f"**{heading(table)}**", "", *lines, "", RULE])


def as_html(table: Table, columns: Sequence[str] = HEAD) -> str:
    """A table for the book, with the chosen columns of HEAD."""
    keep = [HEAD.index(name) for name in columns]

    def line(tag: str, texts: Sequence[str]) -> str:
        parts = []
        for place, text in zip(keep, (texts[i] for i in keep), strict=True):
            side = "left" if place in (0, len(HEAD) - 1) else "right"
            whole = re.sub(r"\S+-\S+", r'<span style="white-space:nowrap">\g<0></span>', html.escape(text))
            parts.append(f'<{tag} style="text-align:{side};padding:.25em .8em .25em 0">{whole}</{tag}>')
        return f"<tr>{''.join(parts)}</tr>"

    rows = "".join(line("td", texts) for texts in cells_of(table))
    return (
        f'<figure class="sto" style="margin:1em 0"><table>{line("th", HEAD)}{rows}</table>'
        f"<figcaption>{html.escape(heading(table))}</figcaption></figure>"
    )


def show(table: Table | None, columns: Sequence[str] = MEASURED) -> None:
    """Display a table in a notebook, with the chosen columns of HEAD; None says that nothing was measured."""
    from IPython.display import HTML, display

    if table is None:
        print("Not measured.")
    else:
        display(HTML(as_html(table, columns)))


def as_csv(table: Table) -> str:
    """Numbers in full, one line a row; empty where there is nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["experiment", "protocol", "split", "run", "paper", "error", "error_low", "error_high", "seeds"]
    names += ["best_error", "gain", "gain_low", "gain_high", "p_images", "paper_gain", "verdict"]
    writer.writerow(names)
    for row in table.rows:
        e, g = row.error, row.gain
        values: list[Any] = [row.cell.paper.get(table.data)]
        values += [e.mean, e.low, e.high, e.seeds, row.best] if e else [None, None, None, 0, None]
        values += [g.mean, g.low, g.high] if g else [None, None, None]
        values += [row.p, row.claimed, row.verdict]
        # Ten decimals are more than were measured, and fewer than the rest that a difference of equal errors leaves.
        rounded = [round(v, 10) + 0.0 if isinstance(v, float) else v for v in values]
        plain_values = ["" if v is None or v != v else v for v in rounded]
        writer.writerow([table.experiment.name, table.protocol, table.split, row.cell.label, *plain_values])
    return out.getvalue()


FORMATS = {"text": as_text, "markdown": as_markdown, "html": as_html, "csv": as_csv}
