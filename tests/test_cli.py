"""python -m sto_lite as a person uses it: help, mistakes, exit statuses."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest

from sto_lite.__main__ import main, parser
from sto_lite.config import Config


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "sto_lite", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "CI": "1", **environment},
    )


def test_help_explains_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for phrase in (
        "--lr LR",
        "default: 0.1",
        "default: 300",
        "default: 0.0001",
        "default: 0.5 0.75",
        "λ of Eq. 9",
    ):
        assert phrase in text
    train = next(a for a in parser()._actions if a.dest == "verb").choices["train"]
    assert all(action.help for action in train._actions)


def test_defaults_are_the_papers():
    options = parser().parse_args(["train"])
    assert all(getattr(options, field.name) == getattr(Config(), field.name) for field in fields(Config))


def test_light_import():
    """Asking for help does not import torchvision or matplotlib."""
    code = "import sys, sto_lite.__main__ as m; m.parser(); print([x for x in ('torch', 'PIL') if x in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--net", "resnet33"], "no network is called 'resnet33'"),
        (["train", "--method", "baseline", "--lam", "1"], "baseline has no setting lam"),
        (["train", "--epochs", "0"], "epochs is at least 1"),
        (["train", "--drop-at", "150", "225"], "drop_at holds fractions of the epochs"),
        (["train", "--threads", "0"], "threads is at least 1"),
        (["train", "--device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["train", "--data", "fer2013", "--label-noise", "0.1"], "settings of the synthetic faces"),
        (["train", "--data", "fer2013"], "is not prepared"),
        (["train", "--limit", "9999", "--size", "8"], "there are 4000 training images"),
        (["prepare", "fer2013", "--from", "/no/such/path"], "/no/such/path"),
    ],
)
def test_mistakes_are_one_message_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith(f"sto_lite {arguments[0]}: ") and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_no_verb_and_unknown_verb():
    assert run().returncode == 2
    assert "invalid choice" in run("trian").stderr


def test_train_line(tmp_path):
    done = run(
        "train",
        "--net",
        "resnet8",
        "--epochs",
        "1",
        "--size",
        "8",
        "--limit",
        "64",
        "--out",
        str(tmp_path / "o"),
    )
    assert done.returncode == 0, done.stderr
    assert "error" in done.stdout and (tmp_path / "o" / "record.json").exists()
