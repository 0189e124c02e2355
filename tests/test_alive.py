"""The network that is alive on its page: PyTorch's numbers, in a real browser, by keyboard, with nothing loaded."""

import importlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from sto_lite.data import Batches, Split
from sto_lite.faces import generate
from sto_lite.pocket import rebuild
from sto_lite.records import read_record
from sto_lite.survival import linear_decay
from tools import alive
from tools.pocket_runs import all_shortened

CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))
RECORD = read_record(alive.RECORD)
P = linear_decay(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page that holds nothing but the figure, with its files beside it."""
    folder = tmp_path_factory.mktemp("alive")
    for name in (*alive.SCRIPTS, "alive.css"):
        shutil.copy(alive.ROOT / "book" / "_static" / name, folder)
    head = '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Alive</title>'
    body = f"<body><main><h1>Alive</h1>{alive.markup(RECORD, static='.')}</main></body></html>"
    (folder / "page.html").write_text(head + body, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tab(folder):
    """The page in a browser of a phone's width, opened as a file; it notes what is asked for and what goes wrong."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("there is no chromium (install it, or set CHROMIUM to its path)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 360, "height": 740})
        tab.set_default_timeout(120_000)
        tab.requests, tab.trouble = [], []
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and tab.trouble.append(message.text))
        tab.goto((folder / "page.html").as_uri())
        tab.wait_for_selector("figure.alive[data-done]")
        tab.evaluate("""() => {
            globalThis.about = JSON.parse(document.querySelector("figure.alive script").textContent);
            globalThis.net = new Alive.Network(about);
            globalThis.faces = about.faces.map(Alive.bytes);
        }""")
        yield tab
        chromium.close()


def images():
    """The page's ten faces, uint8, and normalised as in training."""
    faces, labels = generate(alive.FACES, RECORD["size"], seed=2, difficulty=RECORD["data"]["difficulty"])
    mean, std = (torch.tensor(RECORD["normalisation"][name]) for name in ("mean", "std"))
    return faces, Batches(Split(faces, labels), mean, std, augment=False)


def test_logits_are_pytorchs_for_every_student_and_face(tab):
    faces, batches = images()
    net = rebuild(RECORD)
    expected = all_shortened(net, batches.normalise(faces), torch.ones(6))
    found = torch.tensor(tab.evaluate("() => faces.map(face => [...net.students(face)])")).transpose(0, 1)
    assert found.shape == (64, 10, 7)
    assert (found - expected).abs().max() < 1e-3
    assert expected.abs().max() > 3  # there is something to differ in
    with torch.no_grad():
        teacher = net(batches.normalise(faces), P)
    own = torch.tensor(tab.evaluate("() => faces.map(face => net.logits(face, about.p))"))
    assert (own - teacher).abs().max() < 1e-3


def test_a_spoilt_face_is_the_same_to_both(tab):
    pixels = tab.evaluate("() => [...Alive.spoiled(faces[3], about.size, 1.2, 40)]")
    spoilt = torch.tensor(pixels, dtype=torch.uint8).view(1, 1, 24, 24)
    faces, batches = images()
    assert 5 < (spoilt.float() - faces[3].float()).abs().mean() < 60
    with torch.no_grad():
        expected = rebuild(RECORD)(batches.normalise(spoilt), P)
    own = torch.tensor(tab.evaluate("pixels => net.logits(pixels, about.p)", pixels))
    assert (own - expected[0]).abs().max() < 1e-3


def test_students_share_what_they_have_in_common(tab):
    """63 branches in place of 192; and so all 64 take less than the time of as many passes of the whole network."""
    counted = tab.evaluate("""() => {
        const took = work => { const start = performance.now(); work(); return performance.now() - start; };
        const whole = took(() => { for (let i = 0; i < 10; i++) net.logits(faces[0], about.p); }) / 10;
        net.branches = 0;
        const all = took(() => [...net.students(faces[0])]);
        return [net.branches, all / whole];
    }""")
    assert counted[0] == 63
    assert counted[1] < 48


def test_the_page_is_used_by_keyboard(tab):
    status = tab.get_by_role("status")
    face = tab.get_by_role("radio", name="Face 1, drawn as")
    face.focus()
    tab.keyboard.press("ArrowRight")
    second = RECORD["classes"][int(generate(2, 24, seed=2, difficulty=0.3)[1][1])]
    status.get_by_text(f"Drawn as {second}. Student with all blocks").wait_for()
    tab.get_by_role("switch", name="Block 6").focus()
    tab.keyboard.press("Space")
    status.get_by_text("Student with blocks 1, 2, 3, 4, 5:").wait_for()
    before = tab.locator("canvas.seen").evaluate("canvas => canvas.toDataURL()")
    for name in ("Noise", "Blur"):
        tab.get_by_role("slider", name=name).focus()
        tab.keyboard.press("ArrowRight")
    assert tab.locator("canvas.seen").evaluate("canvas => canvas.toDataURL()") != before
    tab.get_by_role("button", name="All blocks").press("Enter")
    status.get_by_text("Student with all blocks").wait_for()
    tab.wait_for_selector("figure.alive[data-done]")
    cells = tab.locator("tbody td").all_inner_texts()
    assert len(cells) == 21 and all(cell.strip().endswith("%") for cell in cells)
    assert "of 64 students say what the teacher says" in tab.locator(".distance").inner_text()


def test_a_bar_leads_to_its_student(tab):
    width = tab.locator(".strip").bounding_box()["width"]
    tab.locator(".strip").click(position={"x": width * 5.5 / 64, "y": 40})  # 000101
    tab.get_by_role("status").get_by_text("Student with blocks 4, 6:").wait_for()
    assert tab.locator(".strip rect.chosen").count() == 1


def test_fits_a_phone_and_pleases_axe(tab):
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    axe = Path(importlib.import_module("axe_playwright_python").__file__).parent / "axe.min.js"
    tab.evaluate(axe.read_text())
    look = "async () => (await axe.run({preload: false})).violations.map(v => [v.id, v.nodes[0].html])"
    for scheme, colours in (("light", "#fff; color: #222"), ("dark", "#14181e; color: #ced6dd")):
        tab.emulate_media(color_scheme=scheme)
        tab.evaluate("style => { document.body.style = style; }", f"background: {colours}")
        assert tab.evaluate(look) == []


def test_asks_for_its_own_files_only_and_has_no_trouble(tab, folder):
    own = {(folder / name).as_uri() for name in ("page.html", "alive.css", *alive.SCRIPTS)}
    assert set(tab.requests) == own
    assert tab.trouble == []


def test_the_page_stays_small(folder):
    assert len(RECORD["weights"]) < 500_000  # as the page has them
    text = (alive.ROOT / "book" / "alive.md").read_text(encoding="utf-8")
    assert f"{RECORD['parameters']:,} weights" in text
    assert f"{RECORD['data']['counts']['train']} synthetic" in text
    code = [(alive.ROOT / "book" / "_static" / name).read_text(encoding="utf-8") for name in alive.SCRIPTS]
    assert sum(text.count("\n") for text in code) < 400
    assert not any(word in text for text in code for word in ("fetch(", "XMLHttpRequest", "import(", "http"))
