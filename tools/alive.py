"""The network that is alive on its page: the markup, and the data that book/_static/alive.js computes with.

The weights come from the committed record when the book is built, so that a page cannot show older ones.
"""

import base64
import json
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from sto_lite import resnet
from sto_lite.faces import generate
from sto_lite.records import Record, read_record
from sto_lite.survival import linear_decay
from tools.directives import add
from tools.entries import ROOT

RECORD = ROOT / "data" / "runs" / "chapters-pocket" / "sto-s0.json"
FACES = 10  # the first of the test images, whatever the network makes of them
STATIC = "../_static"
SCRIPTS = ("alive.js", "alive-page.js")


def about(record: Record) -> dict[str, Any]:
    """What the page's network is made of, as JSON has it; the weights are the record's own text, 16 bits each."""
    net = resnet.build(record["config"]["net"], len(record["classes"]))
    images, labels = generate(FACES, record["size"], seed=2, difficulty=record["data"]["difficulty"])
    return {
        "weights": record["weights"],
        "layout": [[name, list(t.shape)] for name, t in net.state_dict().items() if t.is_floating_point()],
        "p": linear_decay(net.num_blocks).tolist(),
        "mean": record["normalisation"]["mean"][0],
        "std": record["normalisation"]["std"][0],
        "size": record["size"],
        "classes": record["classes"],
        "faces": [base64.b64encode(image.numpy().tobytes()).decode() for image in images],
        "labels": labels.tolist(),
    }


def markup(record: Record, static: str = STATIC) -> str:
    """The page's figure as HTML.

    Args:
        record: of a trained network, with its weights.
        static: where the scripts and the style sheet lie, seen from the page.
    """
    known = about(record)
    size, blocks, names = known["size"], len(known["p"]), [escape(name) for name in known["classes"]]
    faces = "".join(
        f'<label><input type="radio" name="face" value="{i}"{" checked" if i == 0 else ""} '
        f'aria-label="Face {i + 1}, drawn as {names[label]}"><canvas width="{size}" height="{size}" '
        f'aria-hidden="true"></canvas><span aria-hidden="true">{names[label]}</span></label>'
        for i, label in enumerate(known["labels"])
    )
    switches = "".join(
        f'<label><input type="checkbox" role="switch" checked autocomplete="off" aria-label="Block {i}">{i}</label>'
        for i in range(1, blocks + 1)
    )
    cell = '<td><span class="bar"></span><span></span></td>'
    rows = "".join(f'<tr><th scope="row">{name}</th>{cell * 3}</tr>' for name in names)
    strip = "".join(f'<rect x="{10 * m + 1}" y="100" width="8" height="0"></rect>' for m in range(2**blocks))
    heads = ("class", "student", "teacher, Eq. 5", f"mean of all {2**blocks}")
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    slider = (
        '<label>{0}<input type="range" name="{1}" min="0" max="{2}" step="{3}" value="0" autocomplete="off">'
        "<output></output></label>"
    )
    return f"""<link rel="stylesheet" href="{static}/alive.css">
<figure class="alive"><noscript><p>The network computes in your browser, with JavaScript, which is off.</p></noscript>
<fieldset class="faces"><legend>A face that it has never seen</legend><div>{faces}</div></fieldset>
<div class="middle"><canvas class="seen" role="img" aria-label="The face" width="{size}" height="{size}"></canvas>
<fieldset class="spoil"><legend>Spoil it</legend>{slider.format("Noise", "noise", 80, 4)}
{slider.format("Blur", "blur", 2, 0.1)}</fieldset>
<fieldset class="gates"><legend>The student keeps the blocks</legend>{switches}
<button type="button" name="draw">Draw a student</button>
<button type="button" name="whole">All blocks</button></fieldset></div>
<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>
<p class="of"></p><svg class="strip" role="img" aria-label="All students" viewBox="0 0 {10 * 2**blocks} 100" \
preserveAspectRatio="none">{strip}<line x1="0" x2="{10 * 2**blocks}" y1="100" y2="100"></line></svg>
<p class="distance"></p><p role="status"></p>
<script type="application/json">{json.dumps(known)}</script>
</figure>
{"".join(f'<script src="{static}/{name}"></script>' for name in SCRIPTS)}"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive ``alive``: the network of RECORD on the page."""
    written = {"alive": lambda _: [nodes.raw("", markup(read_record(RECORD)), format="html")]}
    return add(app, written, str(RECORD.relative_to(ROOT)))
