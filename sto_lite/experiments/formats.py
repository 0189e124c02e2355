"""A table for a terminal, a page, a Markdown text, a paper or a spreadsheet (chapters 8 and 9), by pandas."""

import html
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sto_lite.experiments.tables import RULE, UNKNOWN, Row, Table, pair_key
from sto_lite.stats import Interval

if TYPE_CHECKING:
    from pandas import DataFrame

BESIDE_THE_PAPER = ("run", "paper", "paper's gain", "ours", "gain, block 95 %", "verdict")
MEASURED = (
    *("run", "gain, block 95 %", "verdict", "ours", "best (flatters)", "training", "seeds"),
    *("gain, paired 95 %", "p (images)"),
)
TELLS = (
    "gain: error of the row it is compared with, minus this one's. block: interval from the whole table, for all its "
    "gains together, which speaks of methods over seeds; with fewer than 3 pairs there is none. paired: this row's "
    "differences alone. p: of these networks on other images; it says nothing of other seeds, so it may be small "
    "beside an interval that holds 0. training: 10¹² floating-point operations of a run."
)


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """Two decimals with a sign."""
    return f"{value:+.2f}".replace("-", "−")


def spread(found: Interval | None) -> str:
    """A difference with its interval, such as "+2.49 (+1.36 to +3.62)"."""
    if found is None:
        return "–"
    wide = f" ({signed(found.low)} to {signed(found.high)})" if found.seeds > 1 else ""
    return signed(found.mean) + wide


def chance(p: float | None) -> str:
    """A p-value; three decimals are enough."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def tell_gain(row: Row, table: Table, found: Interval | None) -> str:
    """A gain, or why there is none."""
    against = row.cell.against
    if against and row.records and not any(r.cell.label == against and r.records for r in table.rows):
        return f"no {against}"
    return spread(found)


CELLS: dict[str, Callable[[Row, Table], str]] = {
    "run": lambda row, table: row.cell.label,
    "paper": lambda row, table: number(row.cell.paper.get(table.data)),
    "paper's gain": lambda row, table: "–" if row.claimed is None else signed(row.claimed),
    "ours": lambda row, table: number(row.error.mean) if row.error else UNKNOWN,
    "± 95 %": lambda row, table: number(row.error.half if row.error else None),
    "best (flatters)": lambda row, table: number(row.best),
    "gain, block 95 %": lambda row, table: tell_gain(row, table, row.block.wide if row.block else None),
    "gain, paired 95 %": lambda row, table: tell_gain(row, table, row.gain),
    "p (images)": lambda row, table: chance(row.p),
    "training": lambda row, table: "–" if row.cost is None else f"{2e-12 * row.cost:,.0f}",
    "seeds": lambda row, table: str(row.error.seeds if row.error else 0),
    "verdict": lambda row, table: row.verdict or "–",
}


def frame(table: Table, columns: Sequence[str] = tuple(CELLS)) -> "DataFrame":
    """The table as text, row by row; "not measured" where there is no run."""
    import pandas as pd

    return pd.DataFrame({name: [CELLS[name](row, table) for row in table.rows] for name in columns})


def heading(table: Table) -> str:
    """Title and protocol."""
    kind = "the paper's protocol" if table.faithful else "a reduced protocol, not the paper's"
    where = f" on {table.split}" if table.split else ""
    return f"{table.experiment.title}. Top-1 error (%){where}, last epoch; {kind}: {table.protocol}."


def noise(table: Table) -> str:
    """What the block's variance was estimated from."""
    if table.block is None:
        return ""
    degrees = "degree" if table.block.freedom == 1 else "degrees"
    return f"Noise of a run: {table.block.deviation:.2f} points, {table.block.freedom} {degrees} of freedom."


def as_text(table: Table) -> str:
    """For a terminal."""
    body = frame(table).to_string(index=False, justify="right")
    return "\n".join([heading(table), "", body, "", *filter(None, [noise(table)]), TELLS, "", RULE])


def as_markdown(table: Table, columns: Sequence[str] = tuple(CELLS)) -> str:
    """A pipe table with its heading."""
    lines = pipe(frame(table, columns))
    return "\n".join([f"**{heading(table)}**", "", lines, "", f"{noise(table)} {TELLS}".strip(), "", RULE])


def pipe(cells: "DataFrame") -> str:
    """Text cells as a Markdown table."""
    rows = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows
    )


def as_html(table: Table, columns: Sequence[str] = tuple(CELLS)) -> str:
    """A table for the book, with the chosen columns."""
    said = [heading(table)]
    if "p (images)" in columns:
        said += [noise(table), "Intervals speak of methods over seeds, p of these networks on other images."]
    return html_table(frame(table, columns), " ".join(filter(None, said)))


def html_table(cells: "DataFrame", caption: str) -> str:
    """Text cells as a figure of the book: numbers right, words left, an interval's bounds never broken in two."""
    body = cells.map(str).to_html(index=False, border=0, justify="left")
    body = re.sub(
        r"<(t[hd])>", r'<\1 style="text-align:left;vertical-align:top;padding:.25em .7em .25em 0">', body
    )
    body = re.sub(r"\([+−][\d.]+ to [+−][\d.]+\)", r'<span style="white-space:nowrap">\g<0></span>', body)
    return (
        f'<figure class="sto" style="margin:1em 0;overflow-x:auto">{body}'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def as_latex(table: Table) -> str:
    """For a paper: tabular with booktabs' rules; needs the package booktabs."""
    caption = re.sub(r"[%_&#]", r"\\\g<0>", heading(table))
    body: str = frame(table, MEASURED).to_latex(index=False, escape=True, caption=caption)
    for sign, name in {"−": "$-$", "±": r"$\pm$", "λ": r"$\lambda$", "–": "--", "< ": "$<$ "}.items():
        body = body.replace(sign, name)
    return body


def as_csv(table: Table) -> str:
    """Numbers in full, one line a row; empty where there is nothing."""
    import pandas as pd

    rows = [
        {
            **place(table, row),
            "paper": row.cell.paper.get(table.data),
            **named("error", row.error),
            "seeds": row.error.seeds if row.error else 0,
            "best_error": row.best,
            **named("gain", row.gain),
            **named("block_gain", row.block.wide if row.block else None),
            "block_p": row.block.p if row.block else None,
            "p_images": row.p,
            "multiply_adds": row.cost,
            "paper_gain": row.claimed,
            "verdict": row.verdict,
        }
        for row in table.rows
    ]
    return str(pd.DataFrame(rows).round(10).replace(-0.0, 0.0).to_csv(index=False, lineterminator="\n"))


def named(name: str, found: Interval | None) -> dict[str, Any]:
    """An interval as three columns."""
    values = (found.mean, found.low, found.high) if found else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def place(table: Table, row: Row) -> dict[str, str]:
    """The columns that say which row of which table a line is of."""
    where = {"experiment": table.experiment.name, "protocol": table.protocol}
    return {**where, "split": row.split or table.split, "run": row.cell.label}


def as_seeds(table: Table) -> str:
    """One line a run, CSV: what the table's means are made of."""
    import pandas as pd

    rows = []
    for row in table.rows:
        for record in row.records:
            seed, subset, images = pair_key(record)
            result = record["result"][row.split]
            line = {**place(table, row), "seed": seed, "subset": subset, "fingerprint": images}
            line |= {key: result[key] for key in ("error", "best_error", "best_epoch")}
            rows.append({**line, "finished": record.get("finished")})
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def show(table: Table | None, columns: Sequence[str] = MEASURED) -> None:
    """Display a table in a notebook, with the chosen columns; None says that nothing was measured."""
    from IPython.display import HTML, display

    if table is None:
        print("Not measured.")
    else:
        display(HTML(as_html(table, columns)))


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "html": as_html,
    "latex": as_latex,
    "csv": as_csv,
    "seeds": as_seeds,
}
