"""The committed notebooks are what their text, code and records say, and tools/notebooks.py can tell."""

import json
import re

import nbformat
import pytest

from tools import notebooks
from tools.notebooks import NotebookError

CHAPTERS = notebooks.chapters()
MAX_OUTPUT = 3_000_000  # characters: what a phone can be asked to load
MYST = re.compile(
    r"^\s*(?:`{3,}|~{3,}|:{3,})\s*\{|(?<![`\w$\\])\{[a-z][\w:+-]*\}`|^\([\w:-]+\)=\s*$", re.MULTILINE
)
LOCAL_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|usr|opt|var)/|[A-Z]:\\\\?Users|site-packages")
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def cells(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def outputs(notebook):
    return [output for cell in cells(notebook, "code") for output in cell.outputs]


def html_of(notebook):
    """All HTML that a reader sees: of outputs, and inside Markdown."""
    shown = [output.get("data", {}).get("text/html", "") for output in outputs(notebook)]
    return "\n".join([cell.source for cell in cells(notebook, "markdown")] + shown)


def unnamed_pictures(html):
    """Pictures that a screen reader cannot announce, in Markdown or HTML."""
    images = [tag for tag in re.findall(r"<img\b[^>]*>", html) if not re.search(r'\salt="\s*[^"\s]', tag)]
    named = r'\saria-label="\s*[^"\s]|\saria-hidden="true"'
    drawings = [tag for tag in re.findall(r"<svg\b[^>]*>", html) if not re.search(named, tag)]
    return images + drawings + re.findall(r"!\[\s*\]\([^)]*\)", html)


def test_the_table_of_contents_lists_every_notebook():
    listed = [name for name in notebooks.contents() if name.endswith(".ipynb")]
    assert sorted(listed) == [f"book/{path.name}" for path in CHAPTERS]


def test_the_table_of_contents_may_have_parts(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "root: book/intro\nparts:\n- caption: A\n  chapters: [{file: a}, {file: b.ipynb}]\n- chapters: [{file: c}]\n"
    )
    assert notebooks.contents(tmp_path) == ["book/intro", "a", "b.ipynb", "c"]


def test_the_reference_lists_every_module():
    reference = (notebooks.BOOK / "api.md").read_text(encoding="utf-8")
    paths = [path.relative_to(notebooks.ROOT).with_suffix("") for path in notebooks.PACKAGE.rglob("*.py")]
    modules = {".".join(path.parts) for path in paths if path.name not in ("__init__", "__main__")}
    assert {name for name in modules if f"automodule:: {name}\n" not in reference} == set()


@each_chapter
def test_text_code_and_records_are_those_of_the_outputs(path):
    assert notebooks.problems(path) == []


@each_chapter
def test_executed_once_from_top_to_bottom_without_error_or_warning(notebook):
    counts = [cell.execution_count for cell in cells(notebook, "code") if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    assert [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"] == []
    made = notebook.metadata["sto"]  # where its outputs come from
    assert made["scale"] in notebooks.TIMEOUT and made["seconds"] > 0
    assert made["device"] and made["python"] and made["torch"]


@each_chapter
def test_markdown_is_plain_so_that_every_viewer_shows_it(notebook):
    found = [match[0].strip() for cell in cells(notebook, "markdown") for match in MYST.finditer(cell.source)]
    assert found == []


@each_chapter
def test_every_output_is_shown_without_a_kernel_and_described(notebook):
    assert unnamed_pictures(html_of(notebook)) == []
    keys = [key for o in outputs(notebook) for key in o.get("data", {})]
    bare = [key for key in keys if key.startswith("image/")]
    assert bare == [], "show figures with plots.show(fig, alt=...): a bare image has no description"
    lost = [key for key in keys if "widget" in key]
    assert lost == [], "show widgets with plots.explore: it draws every state ahead for the page"


@each_chapter
def test_outputs_are_small_and_name_no_place_on_the_author_s_machine(notebook):
    for output in outputs(notebook):
        content = json.dumps(output)
        assert len(content) < MAX_OUTPUT
        text = re.sub(r"base64,[\w+/=\\]+", "", content)
        assert str(notebooks.ROOT) not in text
        assert LOCAL_PATH.search(text) is None


def test_what_is_looked_for_is_found_and_no_more():
    for bad in ("```{note}\n", ":::{tip}\n", "see {ref}`x`", "(label)=\n", "  ```{figure} a.svg"):
        assert MYST.search(bad), bad
    for good in ("`{name}`", "$p_{l}$", "```python\n{1}\n```", "f(x)=1", r"$\mathbf{H}$ `a`", "[a](b)"):
        assert not MYST.search(good), good
    for path in ("/home/ada/x", '"/tmp/y', r"C:\\Users\\ada", "lib/site-packages/torch"):
        assert LOCAL_PATH.search(path), path
    assert len(unnamed_pictures('<img src="a"> <img alt=" "> <svg role="img"> ![](a.png)')) == 4
    named = '<img alt="A face"> <svg aria-label="Line"> <svg aria-hidden="true"> ![A](a)'
    assert unnamed_pictures(named) == []


def pair(folder, *sources, name="01-trial.ipynb"):
    """A chapter in ``folder``; sources that start with # are Markdown."""
    new = {True: nbformat.v4.new_markdown_cell, False: nbformat.v4.new_code_cell}
    notebook = nbformat.v4.new_notebook(cells=[new[source.startswith("#")](source) for source in sources])
    path = folder / name
    notebooks.write_pair(path, notebook)
    return path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "sto_lite"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""The package."""\n')
    (folder / "low.py").write_text('"""Low."""\n\ndef f(x):\n    """Add."""\n    return x + 1  # one\n')
    (folder / "high.py").write_text("from sto_lite.low import f\n")
    (folder / "other.py").write_text("y = 1\n")
    return folder


def stamp_of(source, package, runs=None):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    return notebooks.stamp(notebook, package, runs or package)


def test_stamp_follows_the_code_and_not_the_prose(package):
    one, two = nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("x = 2")
    prose = nbformat.v4.new_markdown_cell("# Title")
    stamp = notebooks.stamp(nbformat.v4.new_notebook(cells=[one]), package)
    assert stamp == notebooks.stamp(nbformat.v4.new_notebook(cells=[prose, one]), package)
    assert stamp != notebooks.stamp(nbformat.v4.new_notebook(cells=[two]), package)


@pytest.mark.parametrize(
    "source", ["from sto_lite import high", "import sto_lite.high", "from sto_lite.high import f"]
)
def test_stamp_follows_what_is_imported_through_other_modules(package, source):
    stamp = stamp_of(source, package)
    edit(package / "low.py", "Add.", "Add one.")
    edit(package / "low.py", "# one", "# 1")
    edit(package / "other.py", "1", "2")
    assert stamp_of(source, package) == stamp, "docstrings, comments and unused modules do not count"
    edit(package / "low.py", "x + 1", "x + 2")
    assert stamp_of(source, package) != stamp


def test_stamp_follows_the_records(package, tmp_path):
    folder, source = tmp_path / "runs" / "depths", '%matplotlib inline\nread_records("depths")'
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    stamp = stamp_of(source, package, tmp_path / "runs")
    (folder / "._a.json").write_bytes(b"\x00\xb0")
    assert stamp_of(source, package, tmp_path / "runs") == stamp, "dot files are no records"
    (folder / "a.json").write_text('{"accuracy": 1}')
    assert stamp_of(source, package, tmp_path / "runs") != stamp
    for wrong in ("read_records(name)", 'read_records("nowhere")'):
        with pytest.raises(NotebookError, match="read_records"):
            stamp_of(wrong, package)


def test_the_edited_side_is_taken_and_two_edits_are_settled_by_the_author(tmp_path):
    for name, side in (("01-trial.ipynb", ".md"), ("02-trial.ipynb", ".ipynb")):
        path = pair(tmp_path, "# Old", "x = 1", name=name)
        edit(path.with_suffix(side), "# Old", f"# New {side}")
        assert notebooks.newest(path).cells[0].source == f"# New {side}"
    edit(path.with_suffix(".md"), "# Old", "# Right")
    with pytest.raises(NotebookError, match="from-md 02-trial"):
        notebooks.newest(path)
    assert notebooks.newest(path, "md").cells[0].source == "# Right"
    assert notebooks.newest(path, "ipynb").cells[0].source == "# New .ipynb"


def test_edited_prose_keeps_outputs_and_edited_code_loses_them(tmp_path):
    path = pair(tmp_path, "# Old", "x = 1", "y = 1")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells[1:]:
        cell.outputs = [nbformat.v4.new_output("stream", text="seen")]
    notebooks.write_pair(path, notebook)
    edit(path.with_suffix(".md"), "# Old", "# New")
    edit(path.with_suffix(".md"), "y = 1", "y = 2")
    merged = notebooks.newest(path)
    assert [len(cell.outputs) for cell in merged.cells[1:]] == [1, 0]
    assert [cell.id for cell in merged.cells[1:2]] == [notebook.cells[1].id]


def test_run_writes_outputs_stamp_and_text(tmp_path):
    """Of a widget its HTML is kept; a cell that fails is named, and nothing is written."""
    widget = "application/vnd.jupyter.widget-view+json"
    bundle = f"{{'text/html': '<p>still</p>', '{widget}': {{'model_id': 'a'}}}}"
    shown = f"from IPython.display import display\ndisplay({bundle}, raw=True)"
    printed = 'import os\nprint(os.environ["STO_SCALE"], os.environ["STO_BOOK"])'
    path = pair(tmp_path, "# Title", printed, shown)
    assert "changed after the outputs were made" in notebooks.problems(path)[0]
    notebooks.run(path, "smoke")
    assert notebooks.problems(path) == []
    done = nbformat.read(path, as_version=4)
    text, page = outputs(done)
    assert text.text == "smoke 1\n" and page.data == {"text/html": "<p>still</p>"}
    assert done.metadata["sto"]["scale"] == "smoke"
    edit(path.with_suffix(".md"), "Title", "Other title")
    assert "sync" in notebooks.problems(path)[0]
    edit(path.with_suffix(".md"), shown, "x / 0")
    before = path.read_bytes()
    with pytest.raises(NotebookError, match=r"(?s)cell 3 failed.*NameError"):
        notebooks.run(path, "smoke")
    assert path.read_bytes() == before


def test_code_that_a_page_folds_is_folded_in_jupyterlab_too(tmp_path):
    path = pair(tmp_path, "# Title", "x = 1", "y = 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = ["hide-input"]
    notebooks.write_pair(path, notebook)
    folded = [cell.metadata.get("jupyter") for cell in nbformat.read(path, as_version=4).cells]
    assert folded == [None, {"source_hidden": True}, None]
    assert "source_hidden" not in path.with_suffix(".md").read_text(encoding="utf-8")
    assert notebooks.newest(path).cells[1].metadata.tags == ["hide-input"]


def test_a_reader_s_copy_follows_the_book_until_the_reader_changes_it(tmp_path):
    book, lab = tmp_path / "book", tmp_path / "lab"
    book.mkdir()
    (book / "glossary.md").write_text("# Glossary\n")
    (book / "._glossary.md").write_bytes(b"\x00\xb0")
    first, second = (pair(book, "# Old", "1", name=f"0{n}-trial.ipynb") for n in (1, 2))
    assert list(notebooks.lend(lab, book)) == []
    assert sorted(path.name for path in lab.glob("[!.]*")) == [first.name, second.name, "glossary.md"]
    for path in (first, second):  # the book gets a new edition
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[0].source = "# New"
        notebooks.write_pair(path, notebook)
    edit(lab / first.name, "# Old", "# Mine")
    output = '[{"name": "stdout", "output_type": "stream", "text": "1"}]'
    edit(lab / second.name, '"outputs": []', f'"outputs": {output}')
    (book / "glossary.md").write_text("# Glossary, new\n")
    (said,) = notebooks.lend(lab, book)
    assert first.name in said and "rename it" in said
    assert (lab / "glossary.md").read_text() == "# Glossary, new\n"
    edit(lab / "glossary.md", "new", "with notes")
    said, _ = notebooks.lend(lab, book)
    assert "glossary.md stays" in said and "with notes" in (lab / "glossary.md").read_text()
    assert "# Mine" in (lab / first.name).read_text() and "# New" in (lab / second.name).read_text()


def test_an_unreadable_chapter_and_an_unknown_name_are_explained(tmp_path):
    path = pair(tmp_path, "# Title")
    (tmp_path / "._01-trial.ipynb").write_bytes(b"\x00\xb0")  # is no chapter
    assert notebooks.chapters(book=tmp_path) == [path]
    path.with_suffix(".md").write_text("---\njupytext: {\n---\n")
    with pytest.raises(NotebookError, match=r"01-trial: .* cannot be read"):
        notebooks.newest(path)
    with pytest.raises(NotebookError, match="no chapter is called 9"):
        notebooks.chapters(["9"], tmp_path)
