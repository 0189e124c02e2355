"""Drafts that a chapter calls equal to the module but for one method are so."""

import ast

from tests.test_chapter_code import Bare
from tools import notebooks


def methods(code, name):
    """The bare syntax trees of a class's methods, by name."""
    tree = Bare().visit(notebooks.without_docstrings(ast.parse(code)))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.name: ast.dump(node) for node in found.body if isinstance(node, ast.FunctionDef)}


def cell(stem, start):
    """The one code cell of a chapter in which a class begins."""
    (path,) = notebooks.chapters([stem])
    _, text = notebooks.read_pair(path)
    (found,) = [c.source for c in text.cells if c.cell_type == "code" and f"\n{start}" in f"\n{c.source}"]
    return found


def test_a_gated_block_is_chapter_2_s_block_with_another_forward():
    shipped = methods((notebooks.PACKAGE / "resnet.py").read_text(encoding="utf-8"), "Block")
    draft = methods(cell("02", "class Block(nn.Module)"), "Block")
    gated = methods(cell("03", "class GatedBlock(Block)"), "GatedBlock")
    assert draft["__init__"] == shipped["__init__"]
    assert draft["forward"] != shipped["forward"]
    assert gated == {"forward": shipped["forward"]}
