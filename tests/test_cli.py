"""python -m sto_lite as a person uses it: help, mistakes, interrupts, exit statuses."""

import dataclasses
import io
import os
import shlex
import subprocess
import sys

import pytest

from sto_lite import __main__ as command_line
from sto_lite import options, registry
from sto_lite.__main__ import given, main, parser
from sto_lite.config import Config, Source
from sto_lite.kd import KD
from sto_lite.sets import DATA_SETS

VERBS = ("prepare", "train", "predict", "card", "plot", "export", "run", "table", "bench")
SMALL = ["--net", "resnet8", "--epochs", "1", "--size", "8", "--limit", "64", "--device", "cpu"]


def test_help_explains_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    phrases = ["--lr LR initial learning rate", "--no-teacher-backward", "[sto, kd, r-drop,"]
    defaults = ("0.1)", "300)", "0.0001)", "0.5 0.75)", "sto yes, okddip no,")
    phrases += [f"(default: {value}" for value in defaults]
    assert [phrase for phrase in (*phrases, *DATA_SETS, *registry.METHODS) if phrase not in text] == []
    verbs = next(action for action in parser()._actions if action.dest == "verb").choices
    assert tuple(verbs) == VERBS
    assert all(action.help for verb in verbs.values() for action in verb._actions)


def test_every_field_of_every_method_is_an_option_and_nothing_else_is():
    """What is read from the source is what the classes are, though they are not imported for it."""
    read = options.methods()
    assert list(read) == list(registry.METHODS)
    for name, method in registry.METHODS.items():
        fields = {field.name: field.default for field in dataclasses.fields(method)}
        if method is KD:  # which a teacher's file fills in
            assert not {fields.pop("fingerprint"), fields.pop("network")} - {""}
        assert {key: setting.default for key, setting in read[name].items()} == fields
        assert all(setting.help for setting in read[name].values()), name


def test_a_field_with_its_line_in_the_docstring_is_all_that_an_option_takes(tmp_path, monkeypatch):
    (tmp_path / "thing.py").write_text(
        '''class Old:
    """Old: a class.

    width: in pixels. note, other: two
        things.
    """

    width: int = 3
    note: str = field(default="", metadata={"local": True})
    other: bool = False


class New(Old):
    """New.

    width: in cells.
    share: of 100 %.
    """

    width: int = 4
    share: tuple[float, ...] = (0.5, 1.0)
    hidden: str = field(default="", metadata={"filled": True})
'''
    )
    monkeypatch.setattr(options, "__file__", str(tmp_path / "options.py"))
    options.syntax.cache_clear()
    found = options.settings("sto_lite.thing", "New")
    options.syntax.cache_clear()
    wanted = {"width": (4, "in cells"), "note": ("", "two things"), "other": (False, "two things")}
    wanted["share"] = ((0.5, 1.0), "of 100 %")
    assert {name: (s.default, s.help) for name, s in found.items()} == wanted
    made = options.Parser()
    options.add(made, found, absent=True)
    assert vars(made.parse_args([])) == {}
    words = ["--width", "5", "--other", "--share", "1", "2"]
    assert vars(made.parse_args(words)) == {"width": 5, "other": True, "share": [1.0, 2.0]}
    assert "of 100 % (default: 0.5 1.0)" in made.format_help()


def test_defaults_are_the_papers():
    found = parser().parse_args(["train"])
    assert Config(**given(found, Config)) == Config() and given(found, Source) == {}
    assert (found.data, found.method, found.out) == ("faces", "sto", None)


def test_help_imports_no_torch():
    """What is imported is held, not the time that it takes; one process for all verbs."""
    code = f"""
import sys
from contextlib import suppress
from sto_lite.__main__ import main
for verb in {VERBS!r}:
    with suppress(SystemExit):
        main([verb, "--help"])
    print("imported:", [n for n in ("torch", "numpy", "PIL", "scipy", "submitit") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("imported: []") == len(VERBS), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --net resnet33", "no network is called 'resnet33'; there are resnet8, "),
        ("train --method st", "no method is called 'st'; there are baseline, "),
        ("train --method st", "did you mean sto?"),
        ("train --method baseline --lam 1", "baseline has no setting lam"),
        ("train --data face", "no image set is called 'face'"),
        ("train --schedule square", "schedule is one of linear, uniform"),
        ("train --precision fp8", "precision is one of float32, bf16, fp16"),
        ("train --epochs 0", "epochs is at least 1"),
        ("train --drop-at 150 225", "drop_at holds fractions of the epochs"),
        ("train --threads 0", "threads is at least 1; 0 is not"),
        ("train --compile", "--compile goes with --graphs"),
        ("train --device nonsense", "device 'nonsense' cannot be used here"),
        ("train --data fer2013 --label-noise 0.1", "settings of the synthetic faces"),
        ("train --data fer2013", "is not prepared"),
        ("train --limit 9999 --size 8", "there are 4000 training images"),
        ("train --method kd --teacher nowhere", "the teacher nowhere cannot be read: there is no such file"),
        ("prepare fer2013 --from /no/such/path", "/no/such/path"),
        ("prepare fer2012 --download", "'fer2012' is none of fer2013, rafdb, cifar100"),
        ("run table9", "no experiment is called 'table9'"),
        ("run table1 --net resnet8", "compares networks"),
        ("run table1 --seeds x", "seeds are written"),
        ("run table1 --jobs 0", "jobs is at least 1"),
        ("run table3 --threads 0 --jobs 2", "threads is at least 1; 0 is not"),
        ("run table1 --compile", "--compile goes with --graphs"),
        ("run table1 --engine slurm --jobs 2", "--jobs is for one machine"),
        ("run table3 --engine slurm --minutes 0", "minutes is at least 1; 0 is not"),
        ("run table3 --engine slurm --threads -1", "threads is at least 1; -1 is not"),
        ("run table1 --engine slurm --scale smoke --slurm partition", "KEY=VALUE"),
        ("run table1 --minutes 5", "are for --engine slurm"),
        ("run epochs --epochs 3", "too few for epochs"),
        ("run table1 --scale large", "scale is one of"),
        ("run table1 --device nonsense", "cannot be used here"),
        ("run table1 --data rafdb", "RAF-DB is not prepared"),
        ("table table1 --records nowhere", "nowhere holds no record"),
        ("bench --quick --net resnet9", "no network is called 'resnet9'"),
        ("bench --quick --batch-size 1", "at least 2 images of 8 pixels"),
        ("bench --quick --seconds 0", "seconds is positive"),
        ("bench --quick --device nonsense", "device 'nonsense' cannot be used here"),
    ],
)
def test_mistakes_are_one_message_and_status_2(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith(f"sto_lite {line.split()[0]}: ") and "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", " | ".join(VERBS)),
        ("trian", f"'trian' is none of {', '.join(VERBS)}; did you mean train?"),
        ("train --detatch --lamb 1", "there is no option --detatch; did you mean --detach?"),
        ("run table1 --engine slrum", "'slrum' is none of local, slurm; did you mean slurm?"),
        ("train --lr fast", "argument --lr: invalid float value: 'fast'"),
    ],
)
def test_an_option_that_does_not_exist_is_one_line(line, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said and "--help lists" in said and said.count("\n") == 1


def test_streams_that_cannot_encode_what_is_said(tmp_path, monkeypatch):
    """Redirected on Windows a stream knows 256 characters; the characters that it lacks are spelt out."""

    def says(encoding, *words, status=0):
        written = io.BytesIO()
        with monkeypatch.context() as patch:
            for name in ("stdout", "stderr"):
                patch.setattr(sys, name, io.TextIOWrapper(written, encoding, write_through=True))
            assert main([*map(str, words)]) == status, written.getvalue()
            return written.getvalue().decode(encoding)

    command = [sys.executable, "-m", "sto_lite", "train", "--help"]  # in a process of its own
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0 and b"lambda of Eq. 9" in done.stdout, done.stderr
    words = ["run", "lambda", "--rows", "λ = 0.25", *SMALL, "--data", "faces", "--scale", "smoke"]
    assert "Sweep over lambda: 1 run" in says("cp1252", *words, "--out", tmp_path)
    table = ["table", "lambda", "--records", tmp_path]
    told = says("cp1252", *table)
    assert "lambda = 0.25" in told and "± 95 %" in told and says("utf-8", *table).count("λ") > 4
    table[-1] = tmp_path / "t\udcff.txt"  # a name that is no text in any encoding
    assert "holds no record" in says("utf-8", *table, status=2)


def test_a_home_folder_that_no_shell_has_expanded(tmp_path, monkeypatch, capsys):
    """As in --out=~/runs, and in a variable that a program sets."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STO_DATA", "~/data")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "--out=~/first"]) == 0
    assert main(["train", *SMALL, "--method", "kd", "--teacher=~/first", "--out=~/second"]) == 0
    assert main(["run", "detach", *SMALL, "--data=faces", "--scale", "smoke", "--out=~/runs"]) == 0
    assert main(["table", "detach", "--records=~/runs", "--out=~/table.txt"]) == 0
    assert main(["prepare", "fer2013", "--from=~/none.csv"]) == 2
    assert main(["run", "~/none.toml"]) == 2
    assert main(["train", *SMALL, "--data", "fer2013"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/none.toml cannot be read" in said
    assert f"{tmp_path}/none.csv" in said and f"{tmp_path}/data/fer2013.npz does not exist" in said
    assert {p.name for p in tmp_path.iterdir()} == {"first", "second", "runs", "table.txt"}


def test_what_a_finished_run_says_when_it_is_called_again(tmp_path, capsys):
    for again in (False, True):
        assert main(["train", *SMALL, "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert "error" in said and f"record: {tmp_path / 'record.json'}" in said
        assert ("nothing was trained: this run was finished on 20" in said) is again


@pytest.mark.parametrize(
    ("arguments", "left", "words"),
    [
        (["train"], (), "nothing is kept without --out"),
        (["train", "--out", "OUT"], (), "no epoch was finished yet, so the same command begins anew"),
        (["train", "--out", "OUT"], ("checkpoint.pt",), "the same command goes on from the last epoch"),
        (["run", "detach", "--out", "OUT"], (), "no epoch was finished yet"),
        (["run", "detach", "--out", "OUT"], ("a/checkpoint.pt",), "the same command goes on"),
        (["run", "detach", "--engine", "slurm"], (), "its jobs stay in Slurm's queue"),
        (["table", "detach"], (), "what stood there is kept"),
    ],
)
def test_an_interrupt_says_what_is_left(arguments, left, words, tmp_path, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    for name in left:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setitem(command_line.COMMANDS, arguments[0], interrupted)
    assert main([word.replace("OUT", str(tmp_path)) for word in arguments]) == 130
    assert f"sto_lite {arguments[0]}: stopped; {words}" in capsys.readouterr().err


def test_a_queue_of_some_rows_with_another_teacher(tmp_path, capsys):
    """KD's teacher is otherwise a ResNet-110, and most of the queue's time."""
    words = ["--data", "faces", "--scale", "smoke", "--net", "resnet8", "--device", "cpu", "--limit", "32"]
    words += ["--teacher-net", "resnet8", "--out", str(tmp_path)]
    assert main(["run", "table2", *words, "--rows", "sto", "KD, two stages", "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "3 runs on faces at scale smoke, 0 of them finished before" in said and "-resnet110-" not in said
    protocol = "net resnet8, epochs 1, batch-size 32, lr 0.1, momentum 0.9, weight-decay 0.0001, drop-at 0.5"
    told = "(evaluate-every, batch-size, size from the scale; net, limit, epochs as given; all else as in the"
    assert protocol in said and told in said
    command = said.partition("all 3 runs are finished: python -m sto_lite ")[2].partition("\n")[0]
    assert main([*shlex.split(command), "--format", "csv"]) == 0
    measured = capsys.readouterr().out
    assert measured.count("KD, two stages") == 1
    assert len(measured.splitlines()) == 3 and measured.count(",1,") >= 2, "two rows, of a run each"
    other = [*words]
    other[other.index("--teacher-net") + 1] = "resnet9"
    for arguments, message in (
        (["table2", *words, "--rows", "KDE"], "table2 has no row 'KDE'; it has 'baseline', 'DML',"),
        (["table3", *words], "no row of table3 that is run has a teacher trained beforehand"),
        (["table2", *other], "no network is called 'resnet9'"),
    ):
        assert main(["run", *arguments]) == 2 and message in capsys.readouterr().err


def test_a_dry_run_prints_commands_and_says_what_data_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    words = ["run", "table2", "--scale", "smoke", "--out", str(tmp_path / "runs"), "--dry-run"]
    for name, told in (
        ("fer2013", "fer2013 is not prepared here: get the set as data/README.md says"),
        ("cifar100", "prepare cifar100 --from PATH or --download"),
        ("faces", ""),
    ):
        assert main([*words, "--data", name]) == 0
        said = capsys.readouterr()
        assert said.out.count("\n") == said.out.count(f"python -m sto_lite train --data {name}") == 7
        assert told in said.err and bool(told) == bool(said.err) and not list(tmp_path.iterdir())


def test_options_of_slurm_with_and_without_a_value():
    pairs = {"partition=gpu": ("partition", "gpu"), "gres=gpu:1": ("gres", "gpu:1")}
    pairs |= {"requeue": ("requeue", True), "--exclusive": ("exclusive", True)}
    assert {text: command_line.read_pair(text) for text in pairs} == pairs
    with pytest.raises(ValueError, match="KEY=VALUE, such as partition=gpu, or is a flag, such as requeue"):
        command_line.read_pair("partition")
