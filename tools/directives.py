"""Directives that are functions: each writes Markdown, which its page reads as its own, or nodes."""

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

from tools.entries import ROOT

Writer = Callable[[str], Iterable[str | nodes.Node]]


class Written(Directive):
    """A directive that a function writes, given its argument; see ``add``."""

    optional_arguments = 1
    final_argument_whitespace = True
    write: ClassVar[Writer]
    reads: ClassVar[tuple[str, ...]]
    box: ClassVar[str]

    def run(self) -> list[nodes.Node]:
        """Return what the page shows."""
        env = self.state.document.settings.env
        for path in (path for pattern in self.reads for path in sorted(ROOT.glob(pattern))):
            env.note_dependency(str(path))
        try:
            made = [*type(self).write(self.arguments[0] if self.arguments else "")]
        except ValueError as error:
            raise self.error(str(error)) from error
        if ready := [one for one in made if isinstance(one, nodes.Node)]:
            return ready
        holder = nodes.container("", classes=[self.box])
        lines = StringList([str(line) for line in made], source=env.docname)
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return [holder] if self.box else holder.children


def add(app: Sphinx, writers: Mapping[str, Writer], *reads: str, box: str = "") -> dict[str, bool]:
    """Tell Sphinx of directives by the functions that write them.

    reads: what they are made of, as patterns of files below the root. box: the class of a box around the result.
    """
    for name, write in writers.items():
        parts = {"write": staticmethod(write), "reads": reads, "box": box}
        app.add_directive(name, type(name, (Written,), parts))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
