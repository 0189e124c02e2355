"""One piece of code, shown and shipped: what a chapter tags ``sto-lite`` is what ``sto_lite`` defines.

And a draft that a chapter calls equal to the module but for one method is so.
"""

import ast
import pkgutil
import re
import tomllib

import nbformat
import pytest

from tools import notebooks

TAG = "sto-lite"
FIELD = ast.Name("field", ast.Load())


class Bare(ast.NodeTransformer):
    """Takes away what may differ between page and module: docstrings and annotations."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):  # that it is a field counts, its type does not
                statement.annotation = FIELD
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        keep = node.annotation is FIELD or node.value is None
        return node if keep else ast.Assign([node.target], node.value)


def definitions(code):
    """The functions, classes and constants that ``code`` defines: name -> bare syntax tree."""
    found = {}
    for node in Bare().visit(notebooks.without_docstrings(ast.parse(code))).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign):
            found |= {target.id: ast.dump(node) for target in node.targets if isinstance(target, ast.Name)}
    return found


def mismatches(code, modules):
    """What in ``code`` the modules (name -> source) do not define in the same way."""
    here = definitions(code)
    if not here:
        return [f"a cell tagged {TAG} defines nothing"]
    there = {module: definitions(source) for module, source in modules.items()}
    wrong = []
    for name, tree in here.items():
        homes = [module for module, defined in there.items() if name in defined]
        if not homes:
            wrong.append(f"{name} is in no module of sto_lite")
        elif all(there[module][name] != tree for module in homes):
            wrong.append(f"{name} differs from sto_lite/{homes[0]}.py")
    return wrong


def modules():
    paths = sorted(notebooks.PACKAGE.rglob("*.py"))
    return {str(path.relative_to(notebooks.PACKAGE))[:-3]: path.read_text(encoding="utf-8") for path in paths}


def tagged_cells():
    for path in notebooks.chapters():
        if path.exists():
            for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
                if TAG in cell.metadata.get("tags", ()):
                    yield pytest.param(cell.source, id=f"{path.stem}, cell {number}")


CELLS = list(tagged_cells())


@pytest.mark.parametrize("code", CELLS)
def test_shown_code_is_shipped_code(code):
    assert mismatches(code, modules()) == []


def places(text):
    """The names of things in ``sto_lite`` that a chapter's table of ideas and places gives."""
    (table,) = re.findall(r"^\| idea \| where \|\n((?:\|.*\n)+)", text, re.MULTILINE) or [""]
    return re.findall(r"`((?:[a-z_0-9]+\.)+[A-Za-z_0-9]+|experiments|speed)`", table)


def test_what_chapters_point_to_is_there():
    texts = [path.with_suffix(".md").read_text(encoding="utf-8") for path in notebooks.chapters()]
    found = [name for text in texts for name in places(text)]
    assert len(found) > 20 and CELLS
    for name in found:
        assert pkgutil.resolve_name(f"sto_lite.{name}") is not None, name


def methods(code, name):
    """The bare syntax trees of a class's methods, by name."""
    tree = Bare().visit(notebooks.without_docstrings(ast.parse(code)))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.name: ast.dump(node) for node in found.body if isinstance(node, ast.FunctionDef)}


def cell(stem, start):
    """The one code cell of a chapter in which a class begins."""
    _, text = notebooks.read_pair(*notebooks.chapters([stem]))
    (found,) = [c.source for c in text.cells if c.cell_type == "code" and f"\n{start}" in f"\n{c.source}"]
    return found


def test_a_gated_block_is_chapter_2_s_block_with_another_forward():
    shipped = methods((notebooks.PACKAGE / "resnet.py").read_text(encoding="utf-8"), "Block")
    draft = methods(cell("02", "class Block(nn.Module)"), "Block")
    gated = methods(cell("03", "class GatedBlock(Block)"), "GatedBlock")
    assert draft["__init__"] == shipped["__init__"] and draft["forward"] != shipped["forward"]
    assert gated == {"forward": shipped["forward"]}


def test_every_folder_of_the_module_is_installed():
    told = tomllib.loads((notebooks.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(notebooks.ROOT) for path in notebooks.PACKAGE.rglob("__init__.py")}
    assert {".".join(folder.parts) for folder in folders} | {"sto_lite.runs"} == set(told)


MODULE = '''
@dataclass(frozen=True)
class Method:
    """A method."""

    p_last: float = 0.5  # Huang et al.

    def loss(self, x: Tensor) -> Tensor:
        """Its loss."""
        total: Tensor = x.sum()
        return total * self.p_last

STEPS: int = 3
'''
DIFFERS = "Method differs from sto_lite/methods.py"
SAME = """
@dataclass(frozen=True)
class Method:
    p_last: "a float" = 0.5

    def loss(self, x):
        total = x.sum()
        return (total * self.p_last)

STEPS = 3
"""


def test_docstrings_comments_and_annotations_may_differ():
    assert mismatches(SAME, {"methods": MODULE}) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("frozen=True", "frozen=False", DIFFERS),
        ("@dataclass(frozen=True)\n", "", DIFFERS),
        ("0.5", "0.6", DIFFERS),
        ('p_last: "a float" = 0.5', "p_last = 0.5", DIFFERS),
        ("total * self", "total + self", DIFFERS),
        ("(self, x)", "(self, x=None)", DIFFERS),
        ("STEPS = 3", "STEPS = 4", "STEPS differs from sto_lite/methods.py"),
        (SAME, "def gone(): ...", "gone is in no module of sto_lite"),
        (SAME, "print(1)", "a cell tagged sto-lite defines nothing"),
    ],
)
def test_any_other_difference_is_found(old, new, told):
    assert old in SAME
    assert mismatches(SAME.replace(old, new), {"methods": MODULE}) == [told]
