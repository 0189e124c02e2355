"""What the front page shows: a strip of synthetic faces, and one result with its interval, from records."""

from collections.abc import Iterator

import torch
from docutils import nodes
from sphinx.application import Sphinx

from sto_lite import faces, page, plots, stats
from sto_lite.records import Record, read_records
from tools.directives import add

COLLECTIONS = ("first-walk", "fer2013-1024")


def face_strip(_: str) -> Iterator[nodes.Node]:
    """The directive ``face-strip``: the seven expressions in a row."""
    plots.style()
    units = [faces.PROTOTYPES[name] for name in faces.EXPRESSIONS]
    seven = [faces.draw(unit, size=64, identity=who) for who, unit in enumerate(units, 3)]
    sheet = plots.image_grid(torch.cat(seven), range(7), 7, faces.EXPRESSIONS)
    drawn = page.markup(page.picture(sheet, f"Seven drawn faces: {', '.join(faces.EXPRESSIONS)}."), None)
    yield nodes.raw("", drawn, format="html")


def by_seed(records: list[Record], method: str) -> dict[int, Record]:
    """A method's records with its default settings and 600 epochs, one a seed."""
    chosen = [r for r in records if r["method"]["name"] == method and r["config"]["epochs"] == 600]
    if method == "sto":
        chosen = [r for r in chosen if r["method"]["lam"] == 0.25 and r["method"]["teacher_backward"]]
    return {record["config"]["seed"]: record for record in chosen}


def sentence(records: list[Record]) -> str:
    """STO against the baseline, paired by seed."""
    ours, plain = (by_seed(records, name) for name in ("sto", "baseline"))
    seeds = sorted(ours.keys() & plain.keys())
    gains = [plain[s]["result"]["private"]["error"] - ours[s]["result"]["private"]["error"] for s in seeds]
    found, data = stats.interval(gains), ours[seeds[0]]["data"]["counts"]
    return (
        f"With {data['train']:,} training images of FER-2013 and {len(seeds)} seeds, STO's test error lay "
        f"{found.mean:.1f} points below that of the same network trained as usual (95 % interval {found.low:.1f} to "
        f"{found.high:.1f}, ResNet-14, {data['private']:,} test images)."
    )


def front_result(_: str) -> Iterator[nodes.Node]:
    """The directive ``front-result``: one measured sentence."""
    records = [record for name in COLLECTIONS for record in read_records(name)]
    yield nodes.paragraph("", "", nodes.strong("", "Measured. "), nodes.Text(sentence(records)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    reads = [f"data/runs/{name}/*.json" for name in COLLECTIONS]
    return add(app, {"face-strip": face_strip, "front-result": front_result}, *reads)
