"""A trained network in use: what its file says, what it takes, and what it answers."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sto_lite
from sto_lite import about, card, compare, data, export, records, stats, take
from sto_lite.__main__ import main
from sto_lite.checkpoints import decode, encode
from sto_lite.config import Config
from sto_lite.errors import DataError, RunError
from sto_lite.registry import make
from sto_lite.sets import DATA_SETS
from sto_lite.train import fit

CONFIG = Config(net="resnet8", epochs=2, batch_size=32, augment=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run, its folder and its images; the tests read it alone."""
    folder = tmp_path_factory.mktemp("run") / "first"
    images = data.load("faces", size=16, limit=256, difficulty=0.0)
    made = fit(make("sto"), images, CONFIG, folder, "cpu", progress=False)
    return folder, images, made.record


@pytest.fixture
def taken(run):
    return sto_lite.load(run[0])


def says(capsys, *arguments):
    """Status, output and errors of a command."""
    status = main([str(word) for word in arguments])
    return status, *capsys.readouterr()


def test_the_file_says_what_the_record_says(run, taken):
    _, images, record = run
    said = taken.about
    assert said["classes"] == list(images.classes) and said["size"] == 16 and taken.channels == 1
    for name, values in zip(("mean", "std"), images.mean_std, strict=True):
        assert torch.equal(torch.tensor(said["normalisation"][name]), values)
    for name, called in (("method", "method"), ("protocol", "config"), ("data", "data")):
        assert said[name] == record[called]
    assert said["parameters"] == record["parameters"] and said["terms"] == about.TERMS["faces"]
    found = said["measured"]["test"]
    assert found["error"] == record["result"]["test"]["error"]
    counts = np.array(found["by_class"])
    assert counts[:, 0].sum() == found["images"] == 2000
    assert 100 * counts[:, 1].sum() / found["images"] == pytest.approx(found["error"])


def test_a_file_is_written_anew_from_its_checkpoint_the_same_to_the_byte(run, tmp_path):
    """What the message says, done. KD knows its teacher by the bytes, so nothing in them may depend on the day."""
    for name in ("checkpoint.pt", "record.json"):
        (tmp_path / name).write_bytes((run[0] / name).read_bytes())
    state = decode((run[0] / "network.pt").read_bytes())
    (tmp_path / "network.pt").write_bytes(encode({key: state[key] for key in ("net", "weights")}))
    with pytest.raises(RunError, match="is of format 1: .*Delete record.json beside it and run the command"):
        sto_lite.load(tmp_path)
    (tmp_path / "record.json").unlink()
    for folder in (tmp_path, tmp_path / "repeated"):
        again = fit(make("sto"), run[1], CONFIG, folder, "cpu", progress=False)
        drop = ("seconds", "test_seconds")
        histories = [{k: v for k, v in r["history"].items() if k not in drop} for r in (again.record, run[2])]
        assert histories[0] == histories[1]
        assert (folder / "network.pt").read_bytes() == (run[0] / "network.pt").read_bytes()


def test_the_interval_is_wilsons():
    from scipy.stats import binomtest

    for wrong, images in ((0, 10), (3, 10), (10, 10), (40, 2000)):
        found = binomtest(wrong, images).proportion_ci(method="wilson")
        assert about.wilson(wrong, images) == pytest.approx((100 * found.low, 100 * found.high))


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"sto_lite {sto_lite.__version__}\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"about": None}, "is of format 1: .*not its classes, size, normalisation.*another --out"),
        ({"about": json.dumps({"format": 9})}, "a newer sto_lite wrote"),
        ({"about": json.dumps({"format": 2})}, "does not say its classes, size"),
        ({"about": "{"}, "holds no network that a run has written"),
        ({"weights": None}, "holds no network that a run has written"),
    ],
)
def test_files_that_do_not_describe_themselves(run, tmp_path, change, words):
    state = decode((run[0] / "network.pt").read_bytes()) | change
    (tmp_path / "network.pt").write_bytes(encode({k: v for k, v in state.items() if v is not None}))
    with pytest.raises(RunError, match=words):
        sto_lite.load(tmp_path)


def test_a_run_that_is_not_there_or_not_finished(tmp_path):
    with pytest.raises(RunError, match="give the folder of a finished run"):
        sto_lite.load(tmp_path / "none")
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(RunError, match="not finished; the command that began it goes on"):
        sto_lite.load(tmp_path)


def test_what_was_measured_is_what_is_predicted(run, taken):
    """The test images, given as a user gives pictures, get the classes and probabilities of the record."""
    _, images, record = run
    answers = taken.predict(images.splits["test"].images[:300])
    assert [taken.classes.index(a.label) for a in answers] == record["predictions"]["test"][:300]
    confidence = [round(a.probability, 4) for a in answers]
    assert confidence == pytest.approx(record["confidence"]["test"][:300], abs=2e-4)
    assert all(sum(a.probabilities.values()) == pytest.approx(1) for a in answers)


def test_every_form_of_a_picture_gives_the_same_answer(run, taken, tmp_path):
    pixels = run[1].splits["test"].images[0]
    gray = pixels[0].numpy()
    picture = Image.fromarray(gray)
    picture.save(tmp_path / "face.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._face.png").write_bytes(b"macOS")
    clear = Image.merge("LA", (picture, Image.new("L", picture.size, 255)))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.rotate(180).save(turned, "PNG", exif=exif)
    forms = [tmp_path / "face.png", str(tmp_path / "face.png"), tmp_path, Image.open(turned)]
    forms += [picture, picture.convert("RGB"), clear, gray, np.repeat(gray[..., None], 3, 2)]
    forms += [pixels, pixels[0], pixels.expand(3, -1, -1)]
    first, *others = taken.predict(forms)
    assert len(others) == len(forms) - 1
    assert all(other.probabilities == pytest.approx(first.probabilities, abs=1e-6) for other in others)
    for form in forms:
        assert [answer.label for answer in taken.predict(form)] == [first.label]
    assert taken.predict(pixels[None]) == taken.predict([pixels])


def test_pictures_of_another_size_are_resized_as_in_training(run, taken):
    large = torch.randint(256, (1, 1, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = data.resize(large[:, :, 4:44], 16)
    assert torch.equal(taken.pixels(large[0]), wanted)


def test_a_network_of_colour_takes_gray_and_colour(run, taken):
    said = taken.about | {"normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}}
    colour = take.TakenNetwork(taken.network, said, taken.path)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert torch.equal(colour.pixels(red), torch.from_numpy(red).permute(2, 0, 1)[None])
    assert torch.equal(colour.pixels(Image.fromarray(red)), colour.pixels(red))
    assert colour.pixels(red[..., 0]).shape == (1, 3, 16, 16)
    assert "colour, the middle square" in colour.preprocessing


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((100, 200), np.uint8), "200 x 100 pixels, far from square.*no face detector is shipped"),
        (np.zeros((600, 600, 3), np.uint8), "much larger than a crop of a face.*at most 512 x 512"),
        (np.zeros((16, 16), np.float32), "holds float32; give uint8"),
        (torch.zeros(2, 16, 16, dtype=torch.uint8), "has the shape \\(2, 16, 16\\)"),
        (np.zeros((0, 16), np.uint8), "has no pixels"),
        (Image.new("I;16", (16, 16)), "more than 8 bits a channel"),
        (7, "is a int; give a path"),
        ("nowhere.png", "there is no picture nowhere.png"),
    ],
)
def test_what_is_no_crop_of_a_face_is_refused(taken, picture, words):
    with pytest.raises(DataError, match=words):
        taken.predict([picture])


def test_any_size_takes_the_middle_square(taken):
    wide = np.zeros((600, 900), np.uint8)
    wide[:, 150:750] = 200
    assert (taken.pixels(wide, any_size=True) == 200).all()


def test_predict_on_faces_that_it_draws(run, capsys, tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "network.pt").write_bytes((run[0] / "network.pt").read_bytes())
    status, out, err = says(capsys, "predict", folder, "--draw", 7)
    assert status == 0 and out.count("\n") == 7 and "preprocessing, as in training: gray" in err
    assert "on photographs its error is not known" in err
    for line in out.splitlines():
        best, *others = re.findall(r"([a-z]+) [\d.]+ %", line)
        assert len(others) == 2 and best not in others
        shares = [float(share) for share in re.findall(r"([\d.]+) %", line)]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 100.2
    drawn = {path.stem.split("-")[1]: Image.open(path).tobytes() for path in (folder / "faces").iterdir()}
    assert drawn.keys() == set(sto_lite.load(folder).classes)
    tested = {image.numpy().tobytes() for image in run[1].splits["test"].images}
    assert not tested & {*drawn.values()}, "it says that it was not trained or tested on them"
    table = tmp_path / "out.csv"
    status, out, _ = says(capsys, "predict", folder / "network.pt", folder / "faces", "--csv", table)
    assert status == 0 and out == f"7 pictures: {table}\n"
    header, *rows = table.read_text().splitlines()
    assert header == "picture,label,probability,angry,disgust,fear,happy,sad,surprise,neutral"
    sums = [sum(map(float, row.split(",")[3:])) for row in rows]
    assert sums == pytest.approx([1] * 7, abs=1e-5)


def test_mistakes_of_predict(run, capsys, tmp_path):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    (tmp_path / "bad.png").write_bytes(b"none")
    (tmp_path / "cut.png").write_bytes(file.getvalue()[:900])
    (tmp_path / "empty").mkdir()
    for words, message in {
        (): "say which pictures, or --draw 7",
        ("bad.png",): "is no picture that Pillow can read",
        ("empty",): "holds no picture (.png",
        ("cut.png",): "cut.png is damaged",
        ("--draw", 0): "--draw takes 1 face or more",
    }.items():
        words = [tmp_path / word if str(word)[0] in "bce" else word for word in words]
        status, _, err = says(capsys, "predict", run[0], *words)
        assert status == 2 and message in err
    status, _, err = says(capsys, "predict", run[0], "--csv", tmp_path / "a.png", tmp_path / "b.png")
    assert status == 2 and "called like a picture" in err and not (tmp_path / "a.png").exists()
    assert "File name too long" in says(capsys, "predict", run[0], f"{'b' * 300}.png")[2]


def test_a_picture_that_cannot_be_taken_does_not_stop_the_others(run, capsys, tmp_path, monkeypatch):
    folder, table = tmp_path / "folder", tmp_path / "out.csv"
    folder.mkdir()
    for name, side in (("a.png", 64), ("big.png", 80), ("two\nlines.png", 64)):
        Image.effect_noise((side, side), 50).save(folder / name)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:900])
    (folder / "link.png").symlink_to(tmp_path / "nowhere.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # Pillow refuses twice as many, and warns before
    with pytest.warns(Image.DecompressionBombWarning):
        status, out, err = says(capsys, "predict", run[0], folder)
        tabled = says(capsys, "predict", run[0], folder, "--csv", table)
        alone = says(capsys, "predict", run[0], folder / "cut.png", "--csv", table)
    assert status == 2 and [line.split(":")[0] for line in out.splitlines()] == [
        str(folder / "a.png"), str(folder / "two?lines.png")
    ]  # fmt: skip
    told = [f"{folder / 'big.png'} is far larger", f"{folder / 'cut.png'} is damaged"]
    assert all(words in err for words in (*told, f"there is no picture {folder / 'link.png'}"))
    assert tabled[:2] == (2, f"2 pictures: {table}\n") and alone[:2] == (2, "")
    assert len(list(csv.reader(table.open(newline="")))) == 3, "what stood there is kept"


def test_pictures_may_stand_behind_options_and_what_is_passed_over_is_told(run, capsys, tmp_path):
    odd, folder = tmp_path / "odd.png", tmp_path / "folder"
    folder.mkdir()
    Image.effect_noise((64, 64), 50).save(odd, exif=b"Exif\0\0no TIFF")  # the pixels are sound
    shutil.copy(odd, folder / "b.png")
    (folder / "phone.heic").write_bytes(b"none")
    status, out, err = says(capsys, "predict", run[0], odd, "--any-size", folder, "--device", "cpu", odd)
    assert status == 0 and [line.split(":")[0] for line in out.splitlines()] == [
        str(odd), str(folder / "b.png"), str(odd)
    ]  # fmt: skip
    assert f"{folder}: 1 files that are no pictures were not read" in err
    with pytest.raises(SystemExit):
        main(["predict", str(run[0]), str(odd), "--any-sise", str(odd)])
    assert "there is no option --any-sise" in capsys.readouterr().err


def test_output_that_nobody_reads_or_that_has_no_room_ends_in_one_line(run):
    command = f"{shlex.quote(sys.executable)} -m sto_lite card {shlex.quote(str(run[0]))}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for target, status, told in (
        ("| true; exit ${PIPESTATUS[0]}", 141, ""),
        ("> /dev/full", 2, "No space left"),
    ):
        words = ["bash", "-c", f"{command} {target}"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == status and told in done.stderr and "Exception" not in done.stderr
        assert done.stderr.count("\n") == bool(told)


def test_train_says_what_to_do_next_and_it_works(capsys, tmp_path):
    """Each command is typed as it was printed."""
    words = ["--net", "resnet8", "--epochs", "1", "--size", "8", "--limit", "64", "--device", "cpu"]
    _, out, _ = says(capsys, "train", *words, "--out", tmp_path / "my run")
    told = out.split("what next:\n")[1].splitlines()
    lines = [shlex.split(line, comments=True) for line in told if "#" in line]
    assert [line[3] for line in lines] == ["predict", "plot", "card", "export"]
    assert says(capsys, *lines[0][3:])[0] == 0
    assert "nothing was kept; with --out" in says(capsys, "train", *words)[1]


def section(text, heading):
    return text.split(f"## {heading}\n\n")[1].split("\n\n#")[0]


def test_a_card_says_what_the_record_says(run, capsys, tmp_path):
    _, images, record = run
    path = tmp_path / "card.md"
    assert says(capsys, "card", run[0], "--out", path)[1] == f"model card: {path}\n"
    text = path.read_text()
    assert says(capsys, "card", run[0]) == (0, text, "")
    listed = dict(re.findall(r"- \*\*(.+?)\*\*: (.+)", text))
    assert not [name for name, value in listed.items() if not value.strip()]
    for name, values in (("Method", record["method"]), ("Protocol", record["config"])):
        assert listed[name].split(", ") == card.settings(values).split(", ")
        assert len(listed[name].split(", ")) == len(values)
    assert "batch size 32" in listed["Protocol"] and "augment no" in listed["Protocol"]
    assert listed["Network"] == f"resnet8, {record['parameters']:,} parameters in training"
    assert listed["Images"] == "train 256, test 2,000"
    assert listed["Settings"] == "difficulty 0.0, label noise 0.0"
    assert (listed["Fingerprint"], listed["Terms"]) == (images.fingerprint, about.TERMS["faces"])
    assert listed["Who is in it"].startswith("Nobody: every face is drawn")
    assert "An expression is not a feeling" in section(text, "Misuse")
    found = section(text, "Errors on the test images")
    assert found.startswith(f"{record['result']['test']['error']:.2f} % of 2,000 images are named wrongly")
    wrong, labels = stats.wrong(record, "test"), np.array(record["labels"]["test"])
    rows = [line.strip("| ").split(" | ") for line in found.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == list(images.classes)
    for label, row, error in zip(range(7), rows, stats.class_errors(record, "test", 7), strict=True):
        count, bad = (labels == label).sum(), wrong[labels == label].sum()
        low, high = about.wilson(bad, count)
        assert row[1:] == [f"{count}", f"{bad}", f"{error:.1f} %", f"{low:.1f} to {high:.1f} %"]
        assert low <= error <= high


def test_a_card_of_a_set_that_nobody_has_described(taken):
    """Nothing is invented, and what is said of faces is said."""
    data = {"name": "mine", "size": 16, "counts": {"train": 2}, "fingerprint": "0"}
    counts = [[0, 0], *taken.about["measured"]["test"]["by_class"][1:]]
    measured = {"test": taken.about["measured"]["test"] | {"by_class": counts}}
    text = card.card({**taken.about, "data": data, "terms": about.NOT_KNOWN, "measured": measured}, "p")
    assert "- **Who is in it**: not known" in text and "- **Terms**: not known" in text
    assert "- **Settings**: none" in text and "| angry | 0 | 0 | not known | not known |" in text
    assert "An expression is not a feeling" in text
    assert set(card.WHO) == set(about.TERMS) == set(DATA_SETS)
    things = card.card({**taken.about, "data": data | {"name": "cifar100"}}, "p")
    assert "feeling" not in things and "crop of one face" not in things


def test_plot_of_one_run_and_of_several(run, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    for name, seed in (("a", 0), ("b", 1)):
        record = run[2] | {"config": run[2]["config"] | {"seed": seed}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_bytes(records.encode(record))
    status, out, _ = says(capsys, "plot", tmp_path / "a")
    names = [tmp_path / "a" / "plots" / f"{name}.png" for name in ("curves", "classes", "confusion")]
    assert status == 0 and out.splitlines() == [str(path) for path in names]
    assert all(min(Image.open(path).size) > 400 for path in names)
    both = [tmp_path / "a", tmp_path / "b" / "record.json"]
    status, out, _ = says(capsys, "plot", *both, "--out", tmp_path / "c", "--format", "svg")
    assert [line.rpartition("/")[2] for line in out.split()] == [
        f"{name}.svg" for name in ("curves", "classes", "confusion-a", "confusion-b")
    ]
    text = (tmp_path / "c" / "curves.svg").read_text()
    assert f"a: {run[2]['result']['test']['error']:.2f} %" in text and "b: " in text


def test_figures_show_the_record(run):
    pytest.importorskip("matplotlib")
    record = run[2]
    finished = compare.Finished("one", record, run[1].classes)
    wrong = stats.wrong(record, "test")
    matrix = finished.confusion("test")
    assert matrix.sum() == 2000 and matrix.sum() - matrix.trace() == wrong.sum()
    assert list(matrix.sum(1)) == list(np.bincount(record["labels"]["test"]))
    assert list(matrix.sum(0)) == list(np.bincount(record["predictions"]["test"], minlength=7))
    lines = compare.curves([finished], "test").axes[0].lines
    assert list(lines[1].get_xdata()) == [1, 2]
    assert list(lines[1].get_ydata()) == record["history"]["test_error"]
    points = compare.class_errors([finished], "test").axes[0].lines[0].get_xdata()
    assert list(points) == pytest.approx(stats.class_errors(record, "test", 7))


def test_mistakes_of_plot(run, capsys, tmp_path):
    assert "say which runs" in says(capsys, "plot")[2]
    assert "is no readable record" in says(capsys, "plot", tmp_path)[2]
    other = run[2] | {"data": run[2]["data"] | {"name": "fer2013"}, "result": {"private": {"error": 1.0}}}
    (tmp_path / "other.json").write_bytes(records.encode(other))
    status, _, err = says(capsys, "plot", run[0], tmp_path / "other.json")
    assert status == 2 and "are of other image sets" in err


def test_a_device_that_is_not_here_is_no_damage(run, capsys):
    status, _, err = says(capsys, "predict", run[0], "--draw", 1, "--device", "cuda:99")
    assert status == 2 and "device 'cuda:99' cannot be used here" in err


def test_a_folder_with_a_colon_is_a_run(run, capsys, tmp_path):
    shutil.copytree(run[0], tmp_path / "a:b")
    assert says(capsys, "plot", tmp_path / "a:b")[0] == 0


def test_classes_called_like_columns_and_names_that_are_no_unicode(taken, capsys):
    answer = taken.predict(torch.zeros(1, 16, 16, dtype=torch.uint8))[0]
    odd = answer._replace(picture="face\udce9", probabilities={"label": 0.25, "picture": 0.75})
    header, row, end = take.to_csv([odd]).split("\n")
    assert header == "picture,label,probability,label,picture" and end == ""
    assert row == f"face\udce9,{odd.label},{odd.probability:.6f},0.250000,0.750000"


def test_export_without_its_packages_says_what_to_install(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "NEEDED", ("onnx_that_nobody_has",))
    status, _, err = says(capsys, "export", run[0], "--onnx", tmp_path / "net.onnx")
    assert status == 2 and "export needs onnx_that_nobody_has: pip install" in err
    assert "say which file" in says(capsys, "export", run[0])[2]
    assert not list(tmp_path.iterdir())


def test_onnxruntime_sees_what_pytorch_sees(run, taken, capsys, tmp_path):
    """On test images, in batches of other sizes than the one that was traced."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime

    path = tmp_path / "net.onnx"
    status, out, _ = says(capsys, "export", run[0], "--onnx", path)
    assert status == 0 and "images uint8 (N, 1, 16, 16) -> logits, probabilities (N, 7)" in out
    assert (tmp_path / "net.card.md").read_text() == card.card(taken.about, taken.preprocessing)
    session = onnxruntime.InferenceSession(path)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["sto_lite"]) == taken.about and json.loads(said["classes"]) == list(taken.classes)
    pixels = run[1].splits["test"].images
    for part in (pixels[:1], pixels[:7], pixels[:500]):
        _, probabilities = session.run(None, {"images": part.numpy()})
        assert np.abs(probabilities - taken.probabilities(part).numpy()).max() < 1e-4
    logits, _ = session.run(None, {"images": pixels[:500].numpy()})
    batches = data.Batches(run[1].splits["test"], *run[1].mean_std, batch_size=500, augment=False)
    with torch.no_grad():
        wanted = taken.network(next(batches.in_order())[0])
    assert np.abs(logits - wanted.numpy()).max() < 1e-4


def test_torch_export_sees_what_pytorch_sees(run, taken, tmp_path):
    pixels = run[1].splits["test"].images[:9]
    batch = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(export.FromPixels(taken).eval(), (pixels[:2],), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "net.pt2")
    _, probabilities = torch.export.load(tmp_path / "net.pt2").module()(pixels)
    assert torch.allclose(probabilities, taken.probabilities(pixels), atol=1e-4)
