"""The committed notebooks are what their text, code and records say, and tools/notebooks.py can tell."""

import json
import re

import nbformat
import pytest
import yaml

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


# ----------------------------------------------------------------------------------- the committed notebooks


def test_the_table_of_contents_lists_every_notebook():
    toc = yaml.safe_load((notebooks.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    listed = [file for file in entries if file.endswith(".ipynb")]
    assert listed == [f"book/{path.name}" for path in CHAPTERS]


def test_the_reference_lists_every_module():
    reference = (notebooks.BOOK / "api.md").read_text(encoding="utf-8")
    paths = [path.relative_to(notebooks.ROOT).with_suffix("") for path in notebooks.PACKAGE.rglob("*.py")]
    modules = {".".join(path.parts) for path in paths if path.name not in ("__init__", "__main__")}
    assert {name for name in modules if f"automodule:: {name}\n" not in reference} == set()


@each_chapter
def test_text_code_and_records_are_those_of_the_outputs(path):
    assert notebooks.problems(path) == []


@each_chapter
def test_executed_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in cells(notebook, "code") if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


@each_chapter
def test_no_error_and_no_warning_is_shown(notebook):
    bad = [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"]
    assert bad == []


@each_chapter
def test_says_where_its_outputs_come_from(notebook):
    made = notebook.metadata["sto"]
    assert made["scale"] in notebooks.TIMEOUT
    assert made["seconds"] > 0
    assert made["device"] and made["python"] and made["torch"]


@each_chapter
def test_markdown_is_plain_so_that_every_viewer_shows_it(notebook):
    found = [match[0].strip() for cell in cells(notebook, "markdown") for match in MYST.finditer(cell.source)]
    assert found == []


@each_chapter
def test_every_picture_has_a_description(notebook):
    assert unnamed_pictures(html_of(notebook)) == []
    bare = [key for o in outputs(notebook) for key in o.get("data", {}) if key.startswith("image/")]
    assert bare == [], "show figures with plots.show(fig, alt=...): a bare image has no description"


@each_chapter
def test_a_page_without_a_kernel_shows_every_output(notebook):
    lost = [o for o in outputs(notebook) if any("widget" in key for key in o.get("data", {}))]
    assert lost == [], "show widgets with plots.explore: it draws every state ahead for the page"


@each_chapter
def test_outputs_are_small_and_name_no_place_on_the_author_s_machine(notebook):
    for output in outputs(notebook):
        content = json.dumps(output)
        assert len(content) < MAX_OUTPUT
        text = re.sub(r"base64,[\w+/=\\]+", "", content)
        assert str(notebooks.ROOT) not in text
        assert LOCAL_PATH.search(text) is None


# -------------------------------------------------------------------------------------- these tests can fail


@pytest.mark.parametrize(
    "bad", ["```{note}\n", ":::{tip}\n", "see {ref}`x`", "(label)=\n", "  ```{figure} a.svg"]
)
def test_myst_is_found(bad):
    assert MYST.search(bad)


@pytest.mark.parametrize(
    "good", ["`{name}`", "$p_{l}$", "```python\n{1}\n```", "f(x)=1", r"$\mathbf{H}$ `a`", "[a](b)"]
)
def test_plain_markdown_is_not_taken_for_myst(good):
    assert not MYST.search(good)


def test_pictures_without_a_description_are_found():
    assert len(unnamed_pictures('<img src="a"> <img alt=" "> <svg role="img"> ![](a.png)')) == 4
    assert (
        unnamed_pictures('<img alt="A face"> <svg aria-label="Line"> <svg aria-hidden="true"> ![A](a)') == []
    )


@pytest.mark.parametrize("bad", ["/home/ada/x", '"/tmp/y', r"C:\\Users\\ada", "lib/site-packages/torch"])
def test_local_paths_are_found(bad):
    assert LOCAL_PATH.search(bad)


# ---------------------------------------------------------------------------------------- tools/notebooks.py


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
    (tmp_path / "runs" / "depths").mkdir(parents=True)
    record = tmp_path / "runs" / "depths" / "a.json"
    record.write_text("{}")
    source = '%matplotlib inline\nread_records("depths")'
    stamp = stamp_of(source, package, tmp_path / "runs")
    record.write_text('{"accuracy": 1}')
    assert stamp_of(source, package, tmp_path / "runs") != stamp


@pytest.mark.parametrize("source", ["read_records(name)", 'read_records("nowhere")'])
def test_records_that_cannot_be_found_are_an_error(package, source):
    with pytest.raises(NotebookError, match="read_records"):
        stamp_of(source, package)


def test_the_edited_side_is_taken(tmp_path):
    path = pair(tmp_path, "# Old", "x = 1")
    edit(path.with_suffix(".md"), "# Old", "# New")
    assert notebooks.newest(path).cells[0].source == "# New"
    path = pair(tmp_path, "# Old", "x = 1", name="02-trial.ipynb")
    edit(path, "# Old", "# Newer")
    assert notebooks.newest(path).cells[0].source == "# Newer"


def test_two_edits_are_settled_by_the_author(tmp_path):
    path = pair(tmp_path, "# Old")
    edit(path, "# Old", "# Left")
    edit(path.with_suffix(".md"), "# Old", "# Right")
    with pytest.raises(NotebookError, match="from-md 01-trial"):
        notebooks.newest(path)
    assert notebooks.newest(path, "md").cells[0].source == "# Right"
    assert notebooks.newest(path, "ipynb").cells[0].source == "# Left"


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
    path = pair(
        tmp_path, "# Title", 'import os\nprint(os.environ["STO_SCALE"])\nprint(os.environ["STO_BOOK"])'
    )
    assert "changed after the outputs were made" in notebooks.problems(path)[0]
    notebooks.run(path, "smoke")
    assert notebooks.problems(path) == []
    done = nbformat.read(path, as_version=4)
    assert [output.text for output in outputs(done)] == ["smoke\n1\n"]
    assert done.metadata["sto"]["scale"] == "smoke"
    edit(path.with_suffix(".md"), "Title", "Other title")
    assert "sync" in notebooks.problems(path)[0]


def test_run_keeps_the_html_of_a_widget_and_not_the_widget(tmp_path):
    widget = "application/vnd.jupyter.widget-view+json"
    bundle = f"{{'text/html': '<p>still</p>', '{widget}': {{'model_id': 'a'}}}}"
    path = pair(tmp_path, f"from IPython.display import display\ndisplay({bundle}, raw=True)")
    notebooks.run(path, "smoke")
    (output,) = outputs(nbformat.read(path, as_version=4))
    assert output.data == {"text/html": "<p>still</p>"}


def test_a_failing_cell_is_named_and_nothing_is_written(tmp_path):
    path = pair(tmp_path, "# Title", "x = 1", "x / 0")
    before = path.read_bytes()
    with pytest.raises(NotebookError, match=r"(?s)cell 3 failed.*ZeroDivisionError"):
        notebooks.run(path, "smoke")
    assert path.read_bytes() == before


def test_an_unreadable_chapter_and_an_unknown_name_are_explained(tmp_path):
    (tmp_path / "01-trial.md").write_text("---\njupytext: {\n---\n")
    with pytest.raises(NotebookError, match=r"01-trial: .* cannot be read"):
        notebooks.newest(tmp_path / "01-trial.ipynb")
    with pytest.raises(NotebookError, match="no chapter is called 9"):
        notebooks.chapters(["9"], tmp_path)
