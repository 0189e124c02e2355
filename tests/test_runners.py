"""A notebook works where a runner opens it; tools/proofs holds the long proofs, and these are the short ones."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from tools import notebooks, setup_cell
from tools.address import Repository, repository
from tools.proofs import __main__ as proofs
from tools.proofs import alone, hub, lab, places

URL = "https://github.com/o/n"
CHAPTERS = notebooks.chapters()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_starts_with_the_set_up_cell_and_says_whether_it_keeps_runs(path):
    notebook = jupytext.read(path.with_suffix(".md"), fmt="md:myst")
    assert not setup_cell.differs(notebook)
    code = notebooks.code_of(notebook)
    assert ("keeps=True" in code) is (".keep(" in code)


def chapter(*sources):
    cells = [nbformat.v4.new_markdown_cell("# 1 Trial"), *map(nbformat.v4.new_code_cell, sources)]
    return nbformat.v4.new_notebook(cells=cells)


def test_the_set_up_cell_is_placed_first_and_replaced():
    notebook, bare = chapter("import sto_lite", "1 + 1"), chapter("import sto_lite", "1 + 1")
    assert setup_cell.differs(notebook)
    setup_cell.place(bare)
    assert [cell.source for cell in bare.cells][1:] == [setup_cell.CELL, "import sto_lite", "1 + 1"]
    notebook.cells.insert(2, nbformat.v4.new_code_cell("an older one", metadata={"tags": ["set-up"]}))
    setup_cell.place(notebook, URL)
    assert not setup_cell.differs(notebook) and len(notebook.cells) == 4
    assert Repository(URL).in_hints(setup_cell.CELL) == notebook.cells[1].source
    assert notebooks.stamp(bare) == notebooks.stamp(notebook), "the address leaves the stamp alone"
    notebook.cells.insert(1, nbformat.v4.new_code_cell("0"))
    assert setup_cell.differs(notebook), "something runs before it"


def test_the_command_writes_what_it_checks(tmp_path, monkeypatch, capsys):
    """Also where the cell is there, and in the wrong place."""
    monkeypatch.setattr(notebooks.chapters, "__defaults__", ((), tmp_path))
    path = tmp_path / "01-trial.md"
    late = chapter("import sto_lite", setup_cell.CELL)
    late.cells[2].metadata["tags"] = [*setup_cell.TAGS]
    for notebook in (chapter("import sto_lite"), late):
        path.write_text(notebooks.markdown(notebook), encoding="utf-8")
        assert setup_cell.main(["--check"]) == 1 and "01-trial" in capsys.readouterr().out
        assert setup_cell.main([]) == 0 and "01-trial: written" in capsys.readouterr().out
        written = path.read_text(encoding="utf-8")
        assert setup_cell.main(["--check"]) == setup_cell.main([]) == 0
        assert capsys.readouterr().out == "", "nothing more to write"
        assert path.read_text(encoding="utf-8") == written
        assert 0 < written.index(setup_cell.CELL) < written.index("import sto_lite\n```")


def set_up(folder, source="git+ADDRESS"):
    """What the set-up cell says, and which sto_lite is found after it, in a folder of a Python that has none."""
    pip = '%pip install -q "{SOURCE}"'
    cell = setup_cell.CELL.replace("git+ADDRESS", source).replace(pip, "print('pip', SOURCE)")
    command = [sys.executable, "-S", "-c", f"{cell}\nprint(Path(find_spec('sto_lite').origin))"]
    bare = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True)


def clone(folder):
    (folder / "sto_lite").mkdir(parents=True)
    for name in ("__init__.py", "scale.py"):
        (folder / "sto_lite" / name).touch()
    return folder / "sto_lite" / "__init__.py"


def test_a_folder_called_sto_lite_is_not_taken_for_the_module(tmp_path):
    """A clone in Colab's working folder is one: the module is inside it. An empty one is nothing."""
    (tmp_path / "empty" / "sto_lite").mkdir(parents=True)
    done = set_up(tmp_path / "empty")
    assert done.returncode == 1 and "sto_lite is not installed" in done.stderr
    inner = clone(tmp_path / "colab" / "sto_lite")
    assert set_up(tmp_path / "colab").stdout.strip() == str(inner)
    module = clone(tmp_path / "hub")
    (tmp_path / "hub" / "book").mkdir()
    assert set_up(tmp_path / "hub" / "book").stdout.strip() == str(module)
    assert Path(set_up(tmp_path / "hub").stdout.strip()).resolve() == module.resolve()


def test_a_pip_that_fails_is_told_apart_from_an_address_that_is_missing(tmp_path):
    done = set_up(tmp_path, f"git+{URL}")
    assert done.returncode == 1 and f"pip git+{URL}" in done.stdout
    assert f"pip could not install sto_lite from git+{URL}" in done.stderr and "zip file" in done.stderr
    assert "ADDRESS" not in done.stderr
    done = set_up(tmp_path)
    assert "pip" not in done.stdout and "in the place of ADDRESS" in done.stderr


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
def test_the_remote_of_another_repository_is_not_the_books(tmp_path):
    """The tree lies inside somebody's repository; where it is one itself, its own remote counts."""
    root = tmp_path / "course" / "book"
    root.mkdir(parents=True)
    shutil.copy(notebooks.ROOT / "_config.yml", root)
    for folder, name in ((tmp_path / "course", "theirs"), (root, "ours")):
        for words in (["init", "-q"], ["remote", "add", "origin", f"https://github.com/o/{name}"]):
            subprocess.run(["git", "-C", folder, *words], check=True)
        assert repository(root) == (Repository("https://github.com/o/ours") if name == "ours" else None)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An environment with all that Colab has, and without sto_lite."""
    return places.borrowed(tmp_path_factory.mktemp("environment"))


def test_without_an_address_the_cell_ends_in_a_message(bare, tmp_path):
    notebook = chapter("import sto_lite.scale")
    setup_cell.place(notebook)
    said = alone.without_address("01-trial.ipynb", nbformat.writes(notebook), bare, tmp_path / "alone")
    assert "sto_lite is not installed" in said and "git repository" in said and "zip file" in said
    assert "Traceback" not in said and "File " not in said


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The repository as a reader's programs find it."""
    return places.publish(tmp_path_factory.mktemp("published"))


@pytest.fixture
def index(bare, tmp_path):
    """What building the module needs, from a package index."""
    words = ["download", "--quiet", "--no-deps", "--dest", tmp_path / "pip", "setuptools>=77"]
    if places.call([bare, "-m", "pip", *words]).returncode:
        pytest.skip("pip reaches no package index, which installing sto_lite needs")


def test_a_notebook_opened_alone_installs_what_it_needs_and_runs(index, bare, published, tmp_path):
    alone.run(published, "07-fast.ipynb", bare, tmp_path / "alone")  # it reads records, which come along


def test_a_cell_that_fails_is_told(bare, tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text(nbformat.writes(chapter("1 / 0")), encoding="utf-8")
    with pytest.raises(places.ProofError, match="ZeroDivisionError"):
        alone.execute(path, bare, {})


@pytest.mark.skipif(not shutil.which(os.environ.get("CHROMIUM", "chromium")), reason="there is no chromium")
def test_a_chapter_runs_in_jupyterlab_and_its_slider_moves_the_figure(published, tmp_path):
    assert lab.run(published, "09-ablations.ipynb", tmp_path / "lab") == 1


def test_the_page_for_hubs_holds_whole_blocks():
    compile(hub.block("hub-config"), "jupyterhub_config.py", "exec")
    instructions = hub.block("hub-dockerfile").replace("\\\n", " ").split("\n")
    assert [line.split()[0] for line in instructions if line.strip()] == ["FROM", "RUN"]
    with pytest.raises(places.ProofError, match="no block hub-nothing"):
        hub.block("hub-nothing")


def test_the_image_has_what_the_chapters_and_the_module_import():
    declared = (notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    module = declared.split("[project.optional-dependencies]")[0]
    needed = {"ipywidgets", "matplotlib", "nbgitpuller", "onnx", "onnxruntime", "onnxscript", "pandas"}
    needed |= {"seaborn", *re.findall(r'^  "([a-z]+)[>=]', module, re.MULTILINE)}
    assert len(needed) > 8 and needed <= set(re.findall(r"[a-z]+", hub.block("hub-dockerfile")))


def test_the_link_on_the_page_for_hubs_is_the_one_that_opens_a_chapter():
    shown = hub.block("hub-link").strip().replace("HUB", "hub.example.org").replace("NAME", "n")
    made = hub.link("https://hub.example.org", "ADDRESS/n", "06-sto.ipynb")
    assert shown.replace("ADDRESS", "ADDRESS/n") == made


def test_proofs_take_all_parts_or_those_that_are_named(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(proofs.signal, "signal", lambda *_: None)
    monkeypatch.setattr(proofs, "publish", lambda folder: folder)
    monkeypatch.setattr(proofs, "proofs", lambda part, *_: asked.append(part) or [])
    for words in ([], ["hub"]):
        monkeypatch.setattr("sys.argv", ["proofs", *words])
        assert proofs.main() == 0
    assert asked == [*proofs.PARTS, "hub"]
    monkeypatch.setattr("sys.argv", ["proofs", "hubs"])
    with pytest.raises(SystemExit):
        proofs.main()
    assert "there is no part hubs; there are " in capsys.readouterr().err
