"""What the front page shows: a strip of synthetic faces, and results with their intervals, from records."""

from collections.abc import Iterator

import torch
from docutils import nodes
from sphinx.application import Sphinx

from sto_lite import faces, page, plots
from sto_lite.experiments.evidence import find_design
from sto_lite.records import Record, read_records
from tools.directives import Writer, add

COLLECTIONS = ("fer2013-256", "fer2013-1024-subsets", "fer2013-4096-again")


def face_strip(_: str) -> Iterator[nodes.Node]:
    """The directive ``face-strip``: the seven expressions in a row."""
    plots.style()
    units = [faces.PROTOTYPES[name] for name in faces.EXPRESSIONS]
    seven = [faces.draw(unit, size=64, identity=who) for who, unit in enumerate(units, 3)]
    sheet = plots.image_grid(torch.cat(seven), range(7), 7, faces.EXPRESSIONS)
    drawn = page.markup(page.picture(sheet, f"Seven drawn faces: {', '.join(faces.EXPRESSIONS)}."), None)
    yield nodes.raw("", drawn, format="html")


def row(records: list[Record]) -> str:
    """STO and stochastic depth against the baseline, by the block in which the question is registered: one row."""
    table = find_design(records, own_images=True)
    rows = [table.row(label) for label in ("STO", "stochastic depth")] if table else []
    gains = [(row.block.wide, row.verdict) for row in rows if row.block]
    if len(gains) < 2:
        raise ValueError("STO or stochastic depth lacks runs whose seeds have training images of their own")
    told = [f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f}), {verdict}" for gain, verdict in gains]
    count = records[0]["data"]["counts"]["train"]
    return f"| {count:,} | {gains[0][0].seeds} | {' | '.join(told)} |".replace("-", "−")


def front_result(_: str) -> Iterator[str]:
    """The directive ``front-result``: what was measured, one row for each number of training images."""
    yield "**Measured**, with a ResNet-14 on parts of FER-2013, each seed with training images of its own: by how"
    yield "many points the test error fell, with its 95 % interval."
    yield from ["", "| training images | seeds | STO | dropping blocks alone |", "|--:|--:|---|---|"]
    yield from (row(read_records(name)) for name in COLLECTIONS)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    written: dict[str, Writer] = {"face-strip": face_strip, "front-result": front_result}
    return add(app, written, *(f"data/runs/{name}/*.json" for name in COLLECTIONS))
