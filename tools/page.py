"""What the book's pages get while Sphinx builds them: launch links, and the table of executed notebooks."""

import json
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ConfigError

from sto_lite.files import visible
from tools.address import AddressError, repository
from tools.directives import add

HEAD = ("Notebook", "Scale", "Time", "Device", "Python", "PyTorch", "Stamp")
FORMULA = re.compile(r'([(\[“]?)(<span class="math notranslate nohighlight">[^<]*</span>)([^\s<\w(\[“]*)')
NOTED = ("scale", "seconds", "device", "python", "torch", "stamp")


def execution(path: Path) -> tuple[str, list[str]]:
    """Return a notebook's title, and as text what ``tools/notebooks.py run`` noted in it, in HEAD's order.

    A dash stands for what was not noted, as in a notebook that was run by hand.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    noted = notebook["metadata"].get("sto", {})
    if "seconds" in noted:
        noted["seconds"] = f"{noted['seconds']:.0f}\N{NO-BREAK SPACE}s"
    return heading[1] if heading else path.stem, [str(noted.get(name, "–")) for name in NOTED]


def execution_table(env: BuildEnvironment) -> nodes.table:
    """The directive ``execution-table``: at which scale, where and with what each notebook was run."""
    body = nodes.tbody()
    for path in visible(Path(env.doc2path(env.docname)).parent, "*.ipynb"):
        env.note_dependency(str(path))
        title, noted = execution(path)
        at = {"refdomain": "std", "reftype": "doc", "reftarget": path.stem, "refdoc": env.docname}
        link = pending_xref("", nodes.inline(text=title), refexplicit=True, **at)
        body += row([link, *map(nodes.Text, noted)])
    if not body.children:
        raise ValueError("there is no notebook beside this page")
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in HEAD), cols=len(HEAD))
    group += nodes.thead("", row(map(nodes.Text, HEAD)))
    group += body
    return nodes.table("", group)


def row(cells: Iterable[nodes.Node]) -> nodes.row:
    """Return one row of a table."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def launch(app: Sphinx, config: Config) -> None:
    """Give the theme the repository's address, or nothing, so that no button leads nowhere."""
    try:
        found = repository(Path(app.srcdir))
    except AddressError as error:
        raise ConfigError(str(error)) from None
    options = config.html_theme_options
    if found and found.provider:
        options["repository_url"], options["repository_branch"] = found.url, found.branch
        options["use_repository_button"], options["launch_buttons"] = True, found.launch_buttons
    if found:

        def write_hints(_: Sphinx, page: str, source: list[str]) -> None:
            source[0] = found.in_hints(source[0])

        app.connect("source-read", write_hints)


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Make the empty corner of a table no heading, which would be read out without a name.

    And let a formula keep the bracket or comma next to it on its line.
    """
    if "body" in context:
        body = re.sub(r'<th(?: class="head[^"]*")?>(?:<p></p>)?</th>', "<td></td>", context["body"])
        unbroken = r'<span class="unbroken">\g<0></span>'
        context["body"] = FORMULA.sub(lambda m: m.expand(unbroken) if m[1] or m[3] else m[0], body)


def without_triton(app: Sphinx, config: Config) -> None:
    """Let the reference describe the kernels where Triton is not there, as on Windows and macOS."""
    if find_spec("triton") is None:
        config.autodoc_mock_imports = ["triton"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what this extension adds."""
    app.connect("config-inited", launch, priority=100)
    app.connect("config-inited", without_triton)
    app.connect("html-page-context", mend)
    return add(app, {"execution-table": lambda _: [execution_table(app.env)]})
