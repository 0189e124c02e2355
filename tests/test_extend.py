"""The page Extend it: every block runs as it is written there."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from sto_lite import own
from sto_lite.__main__ import main
from sto_lite.errors import RunError
from sto_lite.experiments.jobs import choose, jobs
from sto_lite.experiments.paper import EXPERIMENTS, find
from sto_lite.records import read_record

pytest.importorskip("torchvision")
PAGE = (Path(__file__).parents[1] / "book" / "extend.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```\{code-block\} \w+\n:caption: (.*)\n\n((?:.*\n)*?)```$", PAGE, re.MULTILINE))
FILES = {name: body for name, body in BLOCKS.items() if "." in name}
COMMANDS = {name: body for name, body in BLOCKS.items() if "." not in name}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reader's folder with the page's files in it; what is imported from it is forgotten."""
    for name, body in FILES.items():
        (tmp_path / name).write_text(body, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("CI", "1")
    monkeypatch.delenv("STO_DATA", raising=False)
    own.method.cache_clear()
    yield tmp_path
    own.method.cache_clear()


@pytest.fixture
def call(folder, capsys):
    """Calls the commands of a block, which must succeed, and gives what they print."""

    def called(caption):
        for line in COMMANDS[caption].splitlines():
            program, *words = shlex.split(line)
            assert program == "sto" and main(words) == 0, line
        return capsys.readouterr().out

    return called


def test_the_page_has_all_its_blocks():
    assert list(FILES) == ["mine.py", "nets.py", "mine.toml"] and PAGE.count("```{code-block}") == len(BLOCKS)
    assert list(COMMANDS) == ["a method", "pictures", "a network", "a table", "a row"]
    assert len(FILES["mine.py"].replace("\n\n", "\n").splitlines()) == 11, "as the page says"


def test_a_method(folder, call):
    assert "mine:Smoothed resnet8 faces seed 0: test error" in call("a method")
    record = read_record(folder / "runs/smoothed/record.json")
    assert record["method"] == {"name": "mine:Smoothed", "smoothing": 0.2}
    assert (folder / "runs/smoothed/plots/curves.png").exists()


def test_pictures(folder, call):
    from PIL import Image

    from sto_lite.faces import EXPRESSIONS, generate

    images, labels = generate(70, 16, seed=0)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / "pictures" / EXPRESSIONS[label] / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place)
    assert "sto resnet8 mine seed 0" in call("pictures")


def test_a_network(call):
    told = call("a network")
    assert "sto nets:cnn faces" in told and "sto nets:vit faces" in told
    assert len(re.findall(r"^runs/vit/faces/\S+\.png: \w+ [\d.]+ %", told, re.MULTILINE)) == 3


def test_a_table_and_its_plot(folder, call):
    told = call("a table")
    assert "all 9 runs are finished: python -m sto_lite table mine.toml --records runs" in told
    assert "Label smoothing and STO. Top-1 error" in told and "smoothed" in told
    assert (folder / "plots/curves.png").exists() and (folder / "plots/gains.png").exists()


def test_a_row_of_a_published_table(call):
    told = call("a row")
    assert "3 runs on faces at scale smoke" in told
    assert re.search(r"^ *mine:Smoothed .* 1 +undecided$", told, re.MULTILINE)


def test_a_file_becomes_jobs_with_its_protocol_and_the_command_line_wins(folder, capsys):
    mine = find("mine.toml")
    (first, *_, last) = jobs(mine, "faces", scale="smoke", overrides={"epochs": 5})
    assert (first.config.net, first.config.epochs, first.source.size) == ("resnet8", 5, 16)
    assert last.method == "mine:Smoothed" and ":" not in last.name and "mine.Smoothed" in last.name
    assert last.arguments(folder)[2:4] == ["--method", "mine:Smoothed"]
    rows = 'rows = [{method = "sto", net = "resnet14"}, {method = "baseline"}]'
    (folder / "own.toml").write_text(f'{rows}\n[protocol]\nnet = "resnet8"\n', encoding="utf-8")
    assert [cell.net for cell in find("own.toml").cells] == ["resnet14", "resnet8"], "a row's own net wins"
    assert main(["run", "mine.toml", "--epochs", "7", "--dry-run"]) == 0
    commands = capsys.readouterr().out
    assert commands.count("--epochs 7") == 3 and "--epochs 2" not in commands
    chosen = choose(EXPERIMENTS["table2"], ["STO", "mine:Smoothed"])
    assert [cell.against for cell in chosen.cells] == ["baseline", "baseline"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "', 'titles = "', "has titles, which is none of .*; did you mean title"),
        ("settings =", "setting =", "row 3 of mine.toml has setting.*did you mean settings"),
        ('label = "STO"', 'label = "baseline"', "each with a label of its own"),
        ('against = "baseline"', 'against = "base"', "STO is compared with base; did you mean baseline"),
        ('method = "baseline"', "", "row 1 of mine.toml names no method"),
        ("[protocol]", "[protocol", "cannot be read as an experiment"),
        ("epochs = 2", "epochs = '2'", "epochs is a number, not '2'"),
        ("settings = {", "settings = { share = 1,", "has share, which is none of "),
        ("settings = {", "settings = 3 # {", "settings is a table"),
    ],
)
def test_a_slip_in_the_file_is_told(folder, old, new, message):
    text = FILES["mine.toml"]
    assert old in text
    (folder / "mine.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RunError, match=message):
        find("mine.toml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--method", "mine:Smooth"], "has no Smooth; did you mean Smoothed?"),
        (["train", "--method", "mein:Smoothed"], "there is no module mein in "),
        (["train", "--method", "time:Smoothed"], "time has no Smoothed"),
        (["run", "your.toml"], "your.toml cannot be read as an experiment"),
        (["run", "mine:ROWS"], "mine.py has no ROWS"),
        (["run", "tabel2"], "did you mean table2?"),
    ],
)
def test_a_slip_on_the_command_line_is_one_line(folder, capsys, words, message):
    (folder / "runs").mkdir()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "Traceback" not in said


def test_the_settings_of_a_method_are_options_with_their_help(folder, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--method=mine:Smoothed", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    told_of = (
        "--smoothing SMOOTHING [mine:Smoothed] share of the target that all classes get alike (default: 0.1)"
    )
    assert told_of in told and "--lam" not in told
    (folder / "clash.py").write_text(FILES["mine.py"].replace("smoothing", "lr"))
    assert main(["train", "--method", "clash:Smoothed"]) == 2
    assert "has a setting lr, as train itself has" in capsys.readouterr().err
