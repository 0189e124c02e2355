"""prepare.cifar100: copies of every kind give the same arrays; no pickle runs; downloads are checked."""

import dataclasses
import hashlib
import http.server
import importlib.util
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from sto_lite import data, sets
from sto_lite.__main__ import main
from sto_lite.errors import DataError
from sto_lite.intake import cifar, download, pickles, prepare
from tests.packing import (
    UNPACK,
    below,
    files_below,
    one_file,
    prepared,
    quiet,
    refused,
    same,
    tarred,
    written,
    zip_bytes,
    zipped,
)

SIZES = {"train": 120, "test": 100}
NAMES = [f"thing_{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
HOME = "cifar-100-python"


def expected():
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in SIZES.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 100).astype(np.uint8)
    return arrays | {"classes": np.array(NAMES)}


EXPECTED = expected()


def content(split):
    """What the pickle of a split holds."""
    planes = np.ascontiguousarray(EXPECTED[f"{split}_images"].transpose(0, 3, 1, 2)).reshape(-1, 3072)
    labels = EXPECTED[f"{split}_labels"].tolist()
    return {
        "filenames": [f"{split}_{i}.png" for i in range(len(labels))],
        "batch_label": f"{split}ing batch 1 of 1",
        "fine_labels": labels,
        "coarse_labels": [label // 5 for label in labels],
        "data": planes,
    }


def python2(value):
    """A pickle as Python 2 wrote the published files: protocol 2, and text that is bytes."""

    def of(value):
        if isinstance(value, str):
            return b"U" + struct.pack("<B", len(value)) + value.encode() + b"q\1"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(of, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(of(key) + of(item) for key, item in value.items()) + b"u"
        raw = value.tobytes()
        dtype = b"cnumpy\ndtype\n(U\2u1K\0K\1tR(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR"
        shape = b"".join(map(of, value.shape))
        return start + b"(K\1(" + shape + b"t" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"

    return b"\x80\2" + of(value) + b"."


def files(write=python2):
    return {split: write(content(split)) for split in SIZES} | {
        "meta": write({"fine_label_names": NAMES, "coarse_label_names": ["things"]})
    }


OFFICIAL = files()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


# ---- what is accepted


def test_every_layout_gives_the_same_bytes(tmp_path):
    inside = below(HOME, OFFICIAL)
    packed = tarred(tmp_path / f"{HOME}.tar.gz", inside | {f"{HOME}/file.txt~": b""})
    archive, folder = packed.read_bytes(), written(tmp_path / "folder", inside)
    sources = {
        "as published": packed,
        "folder": folder,
        "its own folder": folder / HOME,
        "deep": written(tmp_path / "deep", below("a/b c", inside)),
        "zip": zipped(tmp_path / "cifar.zip", inside),
        "flat zip": zipped(tmp_path / "flat.zip", OFFICIAL),
        "tar": tarred(tmp_path / "cifar.tar", inside, "w"),
        "tar.xz": tarred(tmp_path / "cifar.tar.xz", inside, "w:xz"),
        "downloads": written(tmp_path / "downloads", {f"{HOME}.tar.gz": archive, "other.zip": b""}),
        "under another name": written(tmp_path / "renamed", {"data.tgz": archive}),
        "both": written(tmp_path / "both", {f"{HOME}.tar.gz": archive, **inside}),
        "archive in a zip": zipped(tmp_path / "of.zip", {f"x/{HOME}.tar.gz": archive}),
    }
    one_file("cifar100", sources, EXPECTED, tmp_path)


def with_bytes(value):
    return {key.encode(): item for key, item in value.items()}


COPIES = {
    **{f"protocol {n}": lambda value, n=n: pickle.dumps(value, n) for n in range(6)},
    "keys of bytes": lambda value: pickle.dumps(with_bytes(value), 2),
    "NumPy 1": lambda value: pickle.dumps(value, 2).replace(b"numpy._core", b"numpy.core"),
    "NumPy 2": lambda value: pickle.dumps(value, 2).replace(b"numpy.core", b"numpy._core"),
    "by columns": lambda value: pickle.dumps(
        {k: np.asfortranarray(v) if k == "data" else v for k, v in value.items()}, 5
    ),
    "labels in an array": lambda value: pickle.dumps(
        {k: np.array(v, ">i8") if k == "fine_labels" else v for k, v in value.items()}
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_pickles_that_others_wrote(name, tmp_path, root):
    same(prepared("cifar100", written(tmp_path / HOME, files(COPIES[name])), root), EXPECTED)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_pickle_of_python_2_is_one():
    found = pickle.loads(OFFICIAL["test"], encoding="bytes")
    assert list(found) == list(with_bytes(content("test")))
    assert found[b"filenames"][3] == b"test_3.png"
    np.testing.assert_array_equal(found[b"data"], content("test")["data"])


def test_known_checksums_are_torchvisions():
    spec = importlib.util.find_spec("torchvision")  # its source is read: to import it takes seconds
    source = (Path(spec.origin).parent / "datasets" / "cifar.py").read_text()
    for text in (*cifar.KNOWN_MD5.values(), sets.CIFAR100.md5, sets.CIFAR100.url):
        assert f'"{text}"' in source


def test_data_load(tmp_path, monkeypatch):
    monkeypatch.setenv("STO_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match="CIFAR-100 is not prepared.*prepare cifar100 --from PATH.*--download"
    ):
        data.load("cifar100")
    prepared("cifar100", written(tmp_path / HOME, OFFICIAL), tmp_path)
    full = data.load("cifar100")
    assert full.classes == tuple(NAMES) and list(full.splits) == ["train", "test"]
    for split, part in full.splits.items():
        pixels = part.images.permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(pixels, EXPECTED[f"{split}_images"])
        np.testing.assert_array_equal(part.labels.numpy(), EXPECTED[f"{split}_labels"])
    assert full.fingerprint == data.load("cifar100", size=32).fingerprint
    assert data.load("cifar100", size=24, limit=50).splits["train"].images.shape == (50, 3, 24, 24)


# ---- the report, and preparing twice


def test_report_and_audit(tmp_path, root, monkeypatch):
    def planted(value):
        if "data" in value and len(value["data"]) == SIZES["train"]:
            value["data"][7] = value["data"][3]  # another label
            value["data"][110] = 0
        elif "data" in value:
            value["data"][5] = content("train")["data"][5]  # the same label
        return python2(value)

    said: list[str] = []
    prepare.cifar100(written(tmp_path / HOME, files(planted)), root, said.append)
    (text,) = said
    for part in (
        "checksums (md5) of its files: not known of meta, test, train; that is no fault",
        "notice: not the whole of CIFAR-100",
        "train 120 of 50,000, test 100 of 10,000",
        "classes images a class    total   copies\n",
        "train         100         1 to 2      120        1\n",
        "test          100              1      100        0\n",
        "all splits together: 2\n",
        "stand in train: 1\n",
        "conflicting labels: 1; all-black images: 1",
    ):
        assert part in text, text
    assert json.loads((root / "cifar100.json").read_text())["audit"]["stand_in"] == {"test_in_train": 1}
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in OFFICIAL.items()}
    monkeypatch.setattr(cifar, "KNOWN_MD5", md5)
    prepare.cifar100(written(tmp_path / "b", OFFICIAL), root, said.append)
    assert "checksums (md5) of its files: all as published\n" in said[1]


# ---- faults


def changed(split, **entries):
    return OFFICIAL | {split: pickle.dumps(content(split) | entries)}


def without(split, key):
    return OFFICIAL | {split: python2({k: v for k, v in content(split).items() if k != key})}


def named(names):
    return OFFICIAL | {"meta": pickle.dumps({"fine_label_names": names})}


LABELS = content("train")["fine_labels"]
PIXELS = content("train")["data"]
FAULTS = {
    "label 100": (changed("train", fine_labels=[0, 100, *LABELS[2:]]), "train", ("fine_label 2 is 100",)),
    "label -1": (changed("test", fine_labels=[-1, *LABELS[1:]]), "test", ("fine_label 1 is -1", "0 to 99")),
    "label 3.0": (changed("train", fine_labels=[3.0, *LABELS[1:]]), "train", ("fine_label 1 is a float",)),
    "label True": (changed("train", fine_labels=[True, *LABELS[1:]]), "train", ("fine_label 1 is a bool",)),
    "label of 5,000 digits": (
        changed("train", fine_labels=[10**5_000, *LABELS[1:]]),
        "train",
        ("label 1 is a int",),
    ),
    "labels of text": (changed("train", fine_labels="0" * 120), "train", ("fine_labels are a str",)),
    "labels too few": (changed("train", fine_labels=LABELS[:-1]), "train", ("120 images, but 119 fine_",)),
    "no labels": (without("train", "fine_labels"), "train", ("no 'fine_labels'", "filenames, batch_label")),
    "no data": (without("test", "data"), "test", ("has no 'data'",)),
    "data of text": (changed("train", data=b"x" * 3072), "train", ("its data is bytes",)),
    "data of int64": (changed("train", data=PIXELS.astype(int)), "train", ("its data is int64",)),
    "data of float": (changed("train", data=PIXELS / 255), "train", ("is of type f8",)),
    "data of objects": (changed("train", data=PIXELS[:2].astype(object)), "train", ("is of type O8",)),
    "data of CIFAR-10's shape": (changed("train", data=PIXELS[:, :-1]), "train", ("(120, 3071)",)),
    "no images": (
        changed("train", data=PIXELS[:0], fine_labels=[]),
        "",
        ("no train images; all of train, test",),
    ),
    "a list": (OFFICIAL | {"test": python2([1, 2])}, "test", ("holds a list, not a dictionary",)),
    "names too few": (named(NAMES[1:]), "meta", ("not 100 different names",)),
    "names alike": (named([*NAMES[1:], NAMES[1]]), "meta", ("not 100 different names",)),
    "names of numbers": (named(list(range(100))), "meta", ("not 100 different names",)),
    "names with escape codes": (named([*NAMES[1:], "\x1b[2J"]), "meta", ("not 100 different names",)),
    "names in a number": (named(3), "meta", ("not 100 different names",)),
    "no names": (OFFICIAL | {"meta": python2({"label_names": NAMES})}, "meta", ("no 'fine_label_names'",)),
    "label in a list": (changed("train", fine_labels=[[0]] * 120), "train", ("fine_label 1 is a list",)),
    "cut": (OFFICIAL | {"train": OFFICIAL["train"][:-9]}, "train", ("damaged or cut short",)),
    "empty": (OFFICIAL | {"train": b""}, "train", ("is empty",)),
    "other text": (OFFICIAL | {"train": b"emotion"}, "train", ("no pickle of image data",)),
    "html": (OFFICIAL | {"meta": b"<html>Sign in</html>"}, "meta", ("is a web page",)),
    "a pointer": (
        OFFICIAL | {"train": b"version https://git-lfs.github.com/spec/v1\n"},
        "train",
        ("git lfs pull",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_faults_in_the_files(name, packed, tmp_path, root):
    inside, file, parts = FAULTS[name]
    if packed:
        source = tarred(tmp_path / f"{HOME}.tar", below(HOME, inside), "w")
        where = f"{source}, member {HOME}/{file}" if file else str(source)
    else:
        source = written(tmp_path / HOME, inside)
        where = str(source / file)
    refused("cifar100", source, root, where, *parts)


def test_paths_that_are_no_data_set(tmp_path, root):
    refused("cifar100", tmp_path / "nowhere", root, "nowhere: does not exist")
    (tmp_path / "empty").mkdir()
    refused("cifar100", tmp_path / "empty", root, "holds no CIFAR-100", "cifar-100-python.tar.gz")
    two = written(tmp_path / "two", below("a", OFFICIAL) | below("b", OFFICIAL))
    refused("cifar100", two, root, "more than one data set (a/train, b/train)", "give the path of one")
    part = written(tmp_path / "part", below(HOME, {"train": OFFICIAL["train"]}))
    refused("cifar100", part, root, f"holds {HOME}/train, but beside it not test, meta")
    refused(
        "cifar100", part / HOME / "train", root, "beside it not test, meta", "the folder cifar-100-python"
    )
    for name, what in {
        "cifar-10-batches-py/data_batch_1": "holds CIFAR-10;",
        "cifar-100-binary/train.bin": "holds the binary version",
        "cifar-100-matlab/train.mat": "holds the version for Matlab",
    }.items():
        folder = written(tmp_path / name.split("/")[0], {name: b""})
        refused("cifar100", folder, root, what, "version for Python")
    two = written(tmp_path / "archives", {f"{a}/{HOME}.tar.gz": b"" for a in "ab"})
    refused("cifar100", two, root, "more than one data set")
    for inner in (b"", b"<html>", b"\x1f\x8b" + bytes(100), zip_bytes({"train": b""})):
        broken = written(tmp_path / "broken", {f"{HOME}.tar.gz": inner})
        refused("cifar100", broken, root, f"{broken / HOME}.tar.gz")
    whole = tarred(tmp_path / f"{HOME}.tar.gz", below(HOME, OFFICIAL)).read_bytes()
    for cut in (1, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"{HOME}.tar.gz").write_bytes(whole[:cut])
        refused("cifar100", tmp_path / f"{HOME}.tar.gz", root, f"{HOME}.tar.gz: is damaged or cut short")
    itself = tarred(tmp_path / "itself.tar", {f"{HOME}.tar.gz": zip_bytes({f"{HOME}.tar.gz": b""})}, "w")
    refused(
        "cifar100",
        itself,
        root,
        f"member {HOME}.tar.gz: holds no CIFAR-100",
        "unpack another archive inside it",
    )


def test_files_of_absurd_size(tmp_path, root, monkeypatch):
    monkeypatch.setattr(cifar, "_MAX_PICKLE", 320_000)
    for source in (written(tmp_path / HOME, OFFICIAL), zipped(tmp_path / "cifar.zip", OFFICIAL)):
        refused("cifar100", source, root, "train", "more than 320,000 cannot be right")


# ---- pickles that would run something


class Evil:
    """Unpickled by pickle itself, it calls what it is told."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", ["system", "exec", "getattr", "fromfile", "Popen"])
@pytest.mark.parametrize("file", ["train", "meta"])
def test_no_pickle_runs(protocol, call, file, tmp_path, root):
    mark = tmp_path / "it ran"
    evil = {
        "system": Evil(os.system, f"touch '{mark}'"),
        "exec": Evil(exec, f"open({str(mark)!r}, 'w')"),
        "getattr": Evil(getattr, "", "join"),
        "fromfile": Evil(np.fromfile, "/dev/zero", np.uint8, 3),
        "Popen": Evil(subprocess.Popen, ["touch", str(mark)]),
    }[call]
    value = content(file) | {"more": [evil]} if file == "train" else {"fine_label_names": evil}
    source = written(tmp_path / HOME, OFFICIAL | {file: pickle.dumps(value, protocol)})
    refused("cifar100", source, root, str(source / file), "would call ", call, "nothing was run")
    assert not mark.exists()


def test_names_that_lead_on_from_an_allowed_one():
    for program in (
        b"\x80\4\x8c\5numpy\x8c\x0endarray.tofile\x93.",
        b"cnumpy\nndarray.tofile\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"(inumpy\nload\n.",
        b"c_codecs\nencode\n(V1+1\nVrot13\ntR.",
    ):
        with pytest.raises(DataError, match="x: would call .*nothing was run"):
            pickles.load(program, "x")


def test_allowed_names_do_nothing_and_keep_nothing():
    array = b"cnumpy\nndarray\n"
    for program in (
        array + b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftR.",  # an array of 4 exabytes
        b"}U\4data" + array + b"(K\1ltRs.",
        b"}U\4data" + array + b"}U\5stateK\1sbs.",  # would change the stand-in itself
        b"}U\4data" + array + b"N}U\5stateK\1s\x86bs.",
        b"}U\4data" + array + b")\x81s.",  # never given its state
        b"P1\n.",
        b"\x82\1.",
        b"}r\xff\xff\xff\x7f.",  # memory for two thousand million objects
        b"p2000000000\n.",
        b"}" + b")\x85" + b"\x85" * 500_000 + b"K\1s.",  # Python would crash when it hashed this
        b"}U\1a\x8e\xff\xff\xff\xff\xff\xff\xff\x7fs.",
    ):
        with pytest.raises(DataError, match="^x: is no pickle of image data, or damaged"):
            pickles.load(program, "x")
    assert pickles.load(OFFICIAL["test"], "x")["data"].shape == (100, 3072)
    deep = pickles.load(b"}U\4data" + b"]" * 100_000 + b"a" * 99_999 + b"s.", "x")
    assert isinstance(deep["data"], list)


# ---- the download


@pytest.fixture
def archive(tmp_path):
    return tarred(tmp_path / "published.tar.gz", below(HOME, OFFICIAL)).read_bytes()


@pytest.fixture
def served(archive, monkeypatch):
    """A server of the archive in place of the university's; a test may change what it answers."""
    answer = {"body": archive, "status": 200, "length": len(archive), "asked": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer["asked"] += 1
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(answer["length"]))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    publish(monkeypatch, server.server_port, hashlib.md5(archive).hexdigest())
    yield answer
    server.shutdown()
    server.server_close()


def publish(monkeypatch, port, md5):
    url = f"http://127.0.0.1:{port}/{HOME}.tar.gz"
    there = dataclasses.replace(sets.CIFAR100, url=url, md5=md5)
    monkeypatch.setitem(sets.PUBLISHED, "cifar100", there)


def assert_no_download(root, *parts):
    before = files_below(root)
    with pytest.raises(DataError) as caught:
        prepare.download("cifar100", root, report=quiet)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert "--from PATH" in str(caught.value) and str(caught.value).isprintable()
    assert files_below(root) == before


def test_download(served, root):
    said: list[str] = []
    for _ in range(2):
        path = prepare.download("cifar100", root, report=said.append)
        with np.load(path, allow_pickle=False) as npz:
            same(dict(npz), EXPECTED)
        assert sorted(p.name for p in root.iterdir()) == ["cifar100.json", "cifar100.npz"]
    assert served["asked"] == 1 and "not read again" in said[1]
    assert said[0].startswith("CIFAR-100 from http://127.0.0.1:")


def test_downloads_that_fail(served, archive, root):
    for changes, parts in (
        ({"body": archive[:-1] + b"x"}, ("checksum (md5)", "cut short or is another file")),
        ({"body": archive[:-100]}, ("cut short",)),
        ({"body": b"", "length": 0}, ("checksum (md5) d41d8cd98f00b204e9800998ecf8427e, not ",)),
        ({"length": 1 << 40}, ("cannot be downloaded (it has more than 1,073,741,824 bytes)",)),
        ({"status": 404}, ("cannot be downloaded (Not Found)", "check the network")),
        ({"status": 500, "body": b""}, ("cannot be downloaded (Internal Server Error)",)),
    ):
        good = dict(served)
        served.update(changes)
        assert_no_download(root, *parts)
        assert not root.exists()
        served.update(good)
    prepare.download("cifar100", root, report=quiet)
    (root / "cifar100.json").unlink()
    served["body"] = b"<html>"
    assert_no_download(root, "checksum (md5)")


def test_no_network(root, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("STO_DATA", str(root))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and never listens
        publish(monkeypatch, free.getsockname()[1], "0" * 32)
        assert_no_download(root, "cannot be downloaded", "refused", "check the network")
        assert main(["prepare", "cifar100", "--download"]) == 2
    output = capsys.readouterr()
    assert "cannot be downloaded" in output.err and output.err.count("\n") == 1 and not output.out
    assert not root.exists()


def test_a_server_that_says_nothing(root, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publish(monkeypatch, silent.getsockname()[1], "0" * 32)
        assert_no_download(root, "cannot be downloaded (timed out)")


def test_a_download_that_cannot_be_written(served, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="cannot be written.*STO_DATA"):
        prepare.download("cifar100", tmp_path / "file", report=quiet)


def test_an_interrupted_download_leaves_nothing(served, root, monkeypatch):
    def interrupt(*_):
        assert [p.suffix for p in root.iterdir()] == [".partial"]
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare.download("cifar100", root, report=quiet)
    assert not root.exists()


def test_the_command_line(
    served,
    tmp_path,
    root,
    monkeypatch,
    capsys,
):
    monkeypatch.setenv("STO_DATA", str(root))
    source = written(tmp_path / HOME, OFFICIAL)
    for wrong in ([], ["--from", str(source), "--download"]):
        assert main(["prepare", "cifar100", *wrong]) == 2
        assert "say where the set is, as --from PATH, or --download" in capsys.readouterr().err
    assert main(["prepare", "rafdb", "--download"]) == 2
    assert "RAF-DB is not free to download: get it as data/README.md says" in capsys.readouterr().err
    for right in (["--from", str(source)], ["--download"]):
        assert main(["prepare", "cifar100", *right]) == 0
        output = capsys.readouterr()
        assert f"prepared: {root / 'cifar100.npz'}" in output.out and not output.err
        shutil.rmtree(root)


# ---- the real data, where it is at hand


@pytest.mark.skipif(UNPACK is None, reason="the real CIFAR-100 is not at hand (../shared/data/unpack.py)")
def test_real_images(tmp_path, root):
    command = [sys.executable, str(UNPACK), "cifar100", "--layout", "pickle", "--limit", "500", str(tmp_path)]
    subprocess.run(command, check=True)
    found = prepared("cifar100", tmp_path, root)
    for split in SIZES:
        real = pickle.loads((tmp_path / HOME / split).read_bytes())
        planes = real["data"].reshape(500, 3, 32, 32)
        np.testing.assert_array_equal(found[f"{split}_images"].transpose(0, 3, 1, 2), planes)
        np.testing.assert_array_equal(found[f"{split}_labels"], real["fine_labels"])
    assert found["classes"][0] == "apple" and found["classes"][99] == "worm"
