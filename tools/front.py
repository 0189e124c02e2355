"""What the front page shows: a strip of synthetic faces, and one result with its interval, from records.

A Sphinx extension, named in ``_config.yml``.
"""

from pathlib import Path

import torch
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from sto_lite import faces, page, plots, stats
from sto_lite.records import Record, read_records

RUNS = Path(__file__).resolve().parents[1] / "data" / "runs"
COLLECTIONS = ("first-walk", "fer2013-1024")


class FaceStrip(Directive):
    """The directive ``face-strip``: the seven expressions in a row."""

    def run(self) -> list[nodes.Node]:
        """Return the picture."""
        plots.style()
        units = [faces.PROTOTYPES[name] for name in faces.EXPRESSIONS]
        seven = [faces.draw(unit, size=64, identity=who) for who, unit in enumerate(units, 3)]
        sheet = plots.image_grid(torch.cat(seven), range(7), 7, faces.EXPRESSIONS)
        drawn = page.markup(page.picture(sheet, f"Seven drawn faces: {', '.join(faces.EXPRESSIONS)}."), None)
        return [nodes.raw("", drawn, format="html")]


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


class FrontResult(Directive):
    """The directive ``front-result``: one measured sentence."""

    def run(self) -> list[nodes.Node]:
        """Return the sentence."""
        records = [record for name in COLLECTIONS for record in read_records(name)]
        for name in COLLECTIONS:
            for path in sorted((RUNS / name).glob("*.json")):
                self.state.document.settings.env.note_dependency(str(path))
        return [nodes.paragraph("", "", nodes.strong("", "Measured. "), nodes.Text(sentence(records)))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    app.add_directive("face-strip", FaceStrip)
    app.add_directive("front-result", FrontResult)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
