"""The repository's address and what is made from it; the page of executions; the book as one PDF."""

import io
import json
import subprocess
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup

from tools import address, homework, notebooks, page, pdf, submissions
from tools.address import AddressError, Repository, configured, public, repository
from tools.proofs import hub


@pytest.fixture
def root(tmp_path):
    """A repository without an address, and with git."""
    (tmp_path / "_config.yml").write_text('repository: { url: "", branch: main }\n')
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def test_public_addresses_and_those_that_readers_could_not_open():
    for url in ("https://github.com/owner/name", "https://codeberg.org/owner/name"):
        assert {public(url + ending) for ending in ("", ".git", "/", ".git\n")} == {url}
    places = "http://github.com git@github.com: https://a@github.com https://localhost https://192.168.0.7"
    urls = [f"{place}/owner/name" for place in places.split()]
    assert [url for url in ("", "/home/me/name", "https://github.com/owner", *urls) if public(url)] == []


def test_origin_is_taken_where_nothing_is_set(root):
    assert repository(root) is None
    for url in ("git@github.com:owner/name.git", "https://github.com/fork/name.git"):
        subprocess.run(["git", "-C", root, "config", "remote.origin.url", url], check=True)
        assert repository(root) == (Repository(url[:-4]) if url.startswith("https") else None)
    (root / "_config.yml").write_text("repository: { url: https://github.com/owner/name, branch: book }")
    assert repository(root) == Repository("https://github.com/owner/name", "book")
    (root / "_config.yml").write_text("repository: { url: github.com/owner/name }")
    with pytest.raises(AddressError, match=r"_config\.yml.*'github\.com/owner/name'"):
        configured(root)


def test_launch_buttons_are_those_that_work():
    assert Repository("https://github.com/o/n").launch_buttons.keys() == {"notebook_interface", "colab_url"}
    assert Repository("https://gitlab.com/o/n").launch_buttons == {}
    with_hub = Repository("https://gitlab.com/o/n", hub="https://hub.example.org")
    buttons = {"notebook_interface": "jupyterlab", "jupyterhub_url": "https://hub.example.org"}
    assert with_hub.launch_buttons == buttons


def test_hints_get_the_address_and_lose_it_again():
    hint = '%pip install "sto_lite @ git+ADDRESS", or !git clone ADDRESS book; an ADDRESS'
    there = Repository("https://github.com/o/n").in_hints(hint)
    assert there == (
        '%pip install "sto_lite @ git+https://github.com/o/n", or !git clone https://github.com/o/n book; '
        "an ADDRESS"
    )
    assert Repository("ADDRESS").in_hints(there) == hint
    assert json.loads(Repository("https://github.com/o/n").in_hints(json.dumps(hint))) == there


@pytest.mark.parametrize("url", ["", "https://github.com/owner/name"])
def test_a_book_has_launch_links_only_with_an_address(root, url):
    (root / "_config.yml").write_text(
        f'repository: {{ url: "{url}" }}\nlaunch_buttons: {{ jupyterhub_url: https://hub.example.org }}\n'
    )
    (root / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(address.ROOT)!r})\n"
        "extensions = ['myst_nb', 'sphinx_book_theme', 'tools.page']\n"
        "html_theme, root_doc, nb_execution_mode = 'sphinx_book_theme', '01-faces', 'off'\n"
    )
    cell = nbformat.v4.new_markdown_cell("# 1 Faces\n\n`git clone ADDRESS`\n")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    noted = {"scale": "smoke", "seconds": 49.6, "python": "3.11.7", "stamp": "cc7b"}
    metadata = {"kernelspec": kernel, "sto": noted}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), root / "01-faces.ipynb")
    (root / "execution.md").write_text("---\norphan: true\n---\n# Execution\n\n```{execution-table}\n```\n")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", root, root / "html"]
    subprocess.run(build, check=True, capture_output=True, text=True)
    page, execution = (
        BeautifulSoup((root / "html" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for name in ("01-faces", "execution")
    )
    links = [link["href"] for link in page.select("a[href]")]
    on_hub = hub.link("https://hub.example.org", url, "01-faces.ipynb").replace("/book/", "/")
    colab = "https://colab.research.google.com/github/owner/name/blob/main/01-faces.ipynb"
    assert [colab in str(page), on_hub in links] == [bool(url)] * 2
    assert f"git clone {url or 'ADDRESS'}" in page.get_text()
    assert execution.table.select_one("a")["href"] == "01-faces.html"
    cells = [cell.get_text(strip=True) for cell in execution.table.select("td")]
    assert cells == ["1 Faces", "smoke", "50\N{NO-BREAK SPACE}s", "–", "3.11.7", "–", "cc7b"]


def test_formulas_keep_their_comma_and_empty_corners_are_no_headings():
    formula = '<span class="math notranslate nohighlight">\\(T^2\\)</span>'
    table = '<table><th class="head"><p></p></th><th>a</th></table>'
    context = {"body": f"<p>({formula}). {formula} x</p>{table}"}
    page.mend(None, "", "", context, None)
    assert context["body"] == (
        f'<p><span class="unbroken">({formula}).</span> {formula} x</p><table><td></td><th>a</th></table>'
    )


def test_links_inside_the_single_page():
    names = ["book/intro", "book/notation"]
    assert pdf.inside("notation.html#eq-1", "book/intro", names) == "#notation--eq-1"
    assert pdf.inside("#here", "book/intro", names) == "#intro--here"
    assert pdf.inside("../genindex.html", "book/intro", names) is None
    assert pdf.inside("https://example.org/a.html", "book/intro", names) == "https://example.org/a.html"


def test_every_link_inside_the_single_page_leads_somewhere(tmp_path):
    with pytest.raises(pdf.PdfError, match="make book"):
        pdf.assemble(tmp_path, ["book/intro"])
    if not (pdf.HTML / "index.html").exists():
        pytest.skip("the book is not built (make book)")
    single = BeautifulSoup(pdf.assemble(pdf.HTML, pdf.order()), "html.parser")
    ids = {str(tag["id"]) for tag in single.select("[id]")}
    links = [str(link["href"]) for link in single.select("article a[href^='#']")]
    assert len(single.select("article")) == len(pdf.order())
    assert [link for link in links if link[1:] not in ids] == []


@pytest.mark.parametrize("tool", [notebooks, homework, submissions], ids=lambda tool: tool.__name__)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_tool_speaks_to_every_stream(tool, encoding, monkeypatch):
    written = io.BytesIO()
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(written, encoding, write_through=True))
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    assert tool.main(["check", "9λ"] if tool is notebooks else ["9λ"]) == 1
    assert "9lambda" in written.getvalue().decode(encoding)
