"""What the front page shows: a strip of synthetic faces, and two results with their intervals, from records."""

from collections.abc import Iterator

import torch
from docutils import nodes
from sphinx.application import Sphinx

from sto_lite import faces, page, plots
from sto_lite.experiments.evidence import find_design
from sto_lite.records import Record, read_records
from tools.directives import add

COLLECTIONS = ("fer2013-1024-subsets", "fer2013-4096")


def face_strip(_: str) -> Iterator[nodes.Node]:
    """The directive ``face-strip``: the seven expressions in a row."""
    plots.style()
    units = [faces.PROTOTYPES[name] for name in faces.EXPRESSIONS]
    seven = [faces.draw(unit, size=64, identity=who) for who, unit in enumerate(units, 3)]
    sheet = plots.image_grid(torch.cat(seven), range(7), 7, faces.EXPRESSIONS)
    drawn = page.markup(page.picture(sheet, f"Seven drawn faces: {', '.join(faces.EXPRESSIONS)}."), None)
    yield nodes.raw("", drawn, format="html")


def sentence(records: list[Record]) -> str:
    """STO and stochastic depth against the baseline, by the block in which the question is registered."""
    table = find_design(records, own_images=True)
    rows = [table.row(label) for label in ("STO", "stochastic depth")] if table else []
    gains = [(row.block.wide, row.verdict) for row in rows if row.block]
    if len(gains) < 2:
        raise ValueError("STO or stochastic depth lacks runs whose seeds have training images of their own")
    told = []
    for gain, verdict in gains:
        ends = " to ".join(f"{end:+.1f}".replace("-", "−") for end in (gain.low, gain.high))
        mean = f"{gain.mean:.1f}".replace("-", "−")
        told.append(f"{mean} points (95 % interval {ends}: {verdict})")
    count = records[0]["data"]["counts"]["train"]
    return (
        f"With {count:,} training images of FER-2013, drawn anew for each of {gains[0][0].seeds} seeds, STO lowered "
        f"the test error of a ResNet-14 by {told[0]}. Dropping blocks alone lowered it by {told[1]}."
    )


def front_result(_: str) -> Iterator[nodes.Node]:
    """The directive ``front-result``: what was measured, one sentence for each number of images."""
    told = " ".join(sentence(read_records(name)) for name in COLLECTIONS)
    yield nodes.paragraph("", "", nodes.strong("", "Measured. "), nodes.Text(told))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    written = {"face-strip": face_strip, "front-result": front_result}
    return add(app, written, *(f"data/runs/{name}/*.json" for name in COLLECTIONS))
