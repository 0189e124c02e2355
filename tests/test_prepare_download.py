"""prepare cifar100: no pickle runs anything, and downloads are checked."""

# ruff: noqa: F403, F405 - the names that are not defined here are those of tests.packing
import dataclasses
import hashlib
import http.server
import os
import pickle
import socket
import subprocess
import threading

import numpy as np
import pytest

from sto_lite import sets
from sto_lite.__main__ import main
from sto_lite.errors import DataError
from sto_lite.intake import cifar, pickles, prepare
from tests.packing import *


class Evil:
    """Unpickled by pickle itself, it calls what it is told."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", ["system", "exec", "getattr", "fromfile", "Popen"])
def test_no_pickle_runs(protocol, call, tmp_path, root):
    mark = tmp_path / "it ran"
    evil = {
        "system": Evil(os.system, f"touch '{mark}'"),
        "exec": Evil(exec, f"open({str(mark)!r}, 'w')"),
        "getattr": Evil(getattr, "", "join"),
        "fromfile": Evil(np.fromfile, "/dev/zero", np.uint8, 3),
        "Popen": Evil(subprocess.Popen, ["touch", str(mark)]),
    }[call]
    for file, value in (("train", content("train") | {"more": [evil]}), ("meta", {"fine_label_names": evil})):
        source = written(tmp_path / HOME, PICKLES | {file: pickle.dumps(value, protocol)})
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
    assert pickles.load(PICKLES["test"], "x")["data"].shape == (100, 3072)
    deep = pickles.load(b"}U\4data" + b"]" * 100_000 + b"a" * 99_999 + b"s.", "x")
    assert isinstance(deep["data"], list)


@pytest.fixture
def archive(tmp_path):
    return tarred(tmp_path / "published.tar.gz", below(HOME, PICKLES)).read_bytes()


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
        prepare.download("cifar100", root, report=lambda text: None)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert "--from PATH" in str(caught.value) and str(caught.value).isprintable()
    assert files_below(root) == before


def test_download(served, root):
    said: list[str] = []
    for _ in range(2):
        path = prepare.download("cifar100", root, report=said.append)
        with np.load(path, allow_pickle=False) as npz:
            same(dict(npz), CIFAR)
        assert sorted(p.name for p in root.iterdir()) == ["cifar100.json", "cifar100.npz"]
    assert served["asked"] == 1 and "not read again" in said[1]
    assert said[0].startswith("CIFAR-100 from http://127.0.0.1:")


def test_downloads_that_fail(served, archive, root, monkeypatch):
    for changes, parts in (
        ({"body": archive[:-1] + b"x"}, ("checksum (md5)", "cut short or is another file")),
        ({"body": archive[:-100]}, ("cut short",)),
        ({"body": b"", "length": 0}, ("checksum (md5) d41d8cd98f00b204e9800998ecf8427e, not ",)),
        ({"status": 404}, ("cannot be downloaded (Not Found)", "check the network")),
        ({"status": 500, "body": b""}, ("cannot be downloaded (Internal Server Error)",)),
    ):
        good = dict(served)
        served.update(changes)
        assert_no_download(root, *parts)
        assert not root.exists()
        served.update(good)
    prepare.download("cifar100", root, report=lambda text: None)
    (root / "cifar100.json").unlink()
    served["body"] = b"<html>"
    assert_no_download(root, "checksum (md5)")
    monkeypatch.setattr(prepare, "_MAX_DOWNLOAD", 3)
    assert_no_download(root, "cannot be downloaded (it has more than 3 bytes)")


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
    monkeypatch.setattr(prepare, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publish(monkeypatch, silent.getsockname()[1], "0" * 32)
        assert_no_download(root, "cannot be downloaded (timed out)")


def test_an_interrupted_download_leaves_nothing(served, root, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar, "_read_files", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare.download("cifar100", root, report=lambda text: None)
    assert not root.exists()
