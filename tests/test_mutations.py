"""Thousands of damaged, forged and foreign inputs through `prepare`: loaded right, or refused with status 2.

None may crash, hang, run anything, or touch a file outside its folder. STO_MUTATIONS=10000 tries so many; the test
suite tries some hundreds. What a family's inputs are made of is in tests/mutants.py.
"""

import contextlib
import csv
import io
import os
import random
import re
import shutil
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas  # noqa: F401 - what its import opens is not an input's doing
import pytest
from PIL import Image

from sto_lite import data, sets
from sto_lite.__main__ import main
from sto_lite.intake import fer
from tests import mutants
from tests import packing as p
from tests.mutants import mutate
from tests.packing import USAGE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, links and alarms are those of Unix")
COUNT = int(os.environ.get("STO_MUTATIONS", "450"))
SECONDS = 300  # after which an input hangs, on the busiest machine too


# -------------------------------------------------------------------------------------------------- the watch


class Watch:
    """Python's audit events: what is written outside a folder, and what is started, while `home` is set."""

    home: str = ""
    seen: list[tuple]
    PATHS: ClassVar = {
        **{f"os.{name}": 1 for name in ("mkdir", "remove", "rmdir", "truncate", "chmod", "chown", "utime")},
        **{f"os.{name}": 2 for name in ("rename", "link", "symlink")},
    }
    STARTS: ClassVar = {
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn"),
        *("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class", "ctypes.dlopen"),
    }

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.home:
            return
        paths: tuple = ()
        if event == "open":
            path, _, flags = arguments
            if (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                paths = (path,)
        paths += arguments[: self.PATHS.get(event, 0)]
        for path in paths:
            if isinstance(path, int) or os.fsdecode(path) == os.devnull:
                continue
            if not Path(os.path.abspath(os.fsdecode(path))).is_relative_to(self.home):
                self.seen.append((event, path))
        if event in self.STARTS or event.startswith("shutil."):
            self.seen.append((event, *arguments))


WATCH = Watch()
WATCH.seen = []
sys.addaudithook(WATCH)


class TooLong(BaseException):
    """An input that takes more than SECONDS; no handler of errors catches it."""


@contextlib.contextmanager
def limited(home):
    """Watch what is done, and end what takes too long."""

    def late(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    WATCH.home, WATCH.seen = str(home), []
    try:
        yield
    finally:
        WATCH.home = ""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------ the originals


FER = {key: array[:2] for key, array in p.look_alike(seed=5).items()}


def fer_images():
    """PNG, JPEG and BMP in the folders train/<class> and test/<class>."""
    files = {}
    for split, usage in USAGE.items():
        for i, kind in enumerate(("PNG", "JPEG", "BMP")):
            folder = f"{'train' if split == 'train' else 'test'}/{sets.FER2013.classes[(i + len(split)) % 7]}"
            name = f"{folder}/{usage}_{i}.{kind.lower().replace('jpeg', 'jpg')}"
            files[name] = p.encoded(FER[f"{split}_images"][i % 2], kind)
    return files


FER_IMAGES = fer_images()
CIFAR_ARRAYS = p.cifar_arrays({"train": 3, "test": 2})
CIFAR = p.below(p.HOME, p.cifar_files(arrays=CIFAR_ARRAYS))
RAF = [(split, n, n % 7 + 1, p.jpeg(10 * n + len(split))) for split in ("train", "test") for n in (1, 2, 30)]
RAF_TREES = (
    p.official(RAF),
    p.with_zip(p.official(RAF)),
    {n if n.endswith(".csv") else f"DATASET/{n}": d for n, d in p.kaggle(tables=True, entries=RAF).items()},
)


def decoded(contents, mode):
    """The pixels of image files, as bytes."""
    return {Image.open(io.BytesIO(content)).convert(mode).tobytes() for content in contents}


FER_PIXELS, RAF_PIXELS = decoded(FER_IMAGES.values(), "L"), decoded([face for *_, face in RAF], "RGB")


def evil_pickle(content, rng):
    """A pickle with a call of something put in somewhere, or other damage."""
    if rng.random() < 0.5:
        return mutate(content, rng)
    names = ["os\nsystem", "builtins\neval", "numpy\nfromfile", "numpy.core.multiarray\n_reconstruct"]
    ends = [b"(U\x09touch outtR", b"(tR", b"", b"U\x01x\x85R", b")\x81", b"(tb"]
    call = f"c{rng.choice(names)}\n".encode() + rng.choice(ends)
    place = rng.choice([2, len(content) - 1, rng.randrange(len(content))])
    return content[:place] + call + rng.choice([b"0", b""]) + content[place:]


# -------------------------------------------------------------------- families: an input, and what must hold of it


def tables(place, rng):
    """One CSV of FER-2013. What is accepted is what a reader that checks nothing finds."""
    whole = rng.choice([p.as_csv, p.icml])(p.rows_of(FER))
    path = place / "fer2013.csv"
    path.write_bytes(rng.choice([mutate, mutants.lines, mutants.lines])(whole, rng))

    def right(found):
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
        header, *rows = [row for row in csv.reader(re.split("\r\n|\n|\r", text)) if any(map(str.strip, row))]
        column = {name.strip().lower(): number for number, name in enumerate(header)}
        for split, usage in USAGE.items():
            mine = [row for row in rows if row[column["usage"]].strip() == usage]
            assert found[f"{split}_labels"].tolist() == [int(row[column["emotion"]]) for row in mine]
            pixels = [[int(word) for word in row[column["pixels"]].split()] for row in mine]
            np.testing.assert_array_equal(found[f"{split}_images"].reshape(len(mine), -1), pixels)

    return "fer2013", path, right


def decodings(place, mode):
    """The pixels of every image file below a folder, as bytes, with the names of its file and its folder."""
    found = {}
    for path in place.rglob("*"):
        if path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"):
            with contextlib.suppress(Exception), Image.open(path) as image:
                pixels = image.convert(mode).tobytes()
                found.setdefault(pixels, set()).add((path.name, path.parent.name))
    return found


def fer_trees(place, rng):
    """FER-2013 as folders of images. Every image accepted is one of the files, in its split, with its label."""
    mutants.tree(FER_IMAGES, place / "images", rng, mutate)

    def right(found):
        files = decodings(place, "L")
        for split, usage in USAGE.items():
            for image, label in zip(found[f"{split}_images"], found[f"{split}_labels"], strict=True):
                known = {
                    fer.LABELS.get(folder.strip().lower())
                    for name, folder in files[image.tobytes()]
                    if name.lower().startswith(usage.lower())
                    or "_" not in name  # then its folder names the split
                }
                assert int(label) in known

    return "fer2013", place / "images", right


def key(name):
    """Split and number in the name of one of RAF-DB's files."""
    found = re.match("([a-z]+)_([0-9]+)", name)
    return found and (found[1], int(found[2]))


def raf_trees(place, rng):
    """RAF-DB's layouts as folders. Every image accepted is one of the files, with the label of its line or folder."""
    files = rng.choice(RAF_TREES)

    def edit(content, rng):
        return (mutants.lines if content[:3] in (b"tra", b"tes", b"ima") else mutate)(content, rng)

    mutants.tree(files, place / "raf", rng, edit)

    def right(found):
        if "Image/aligned.zip" in files:
            unchanged(RAF_PIXELS)(found)
            return
        images, numbered = decodings(place, "RGB"), {}
        for path in place.rglob("list_pa*.txt"):
            for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
                name, *rest = [word.strip('"') for word in line.split()] or [""]
                numbered[key(name)] = rest[0] if rest else None
        for split in sets.RAFDB.splits:
            for image, label in zip(found[f"{split}_images"], found[f"{split}_labels"], strict=True):
                known = {folder for name, folder in images[image.tobytes()] if name.startswith(split)}
                if not known & set("1234567"):  # then its line says the label
                    known = {numbered.get(key(name)) for name, _ in images[image.tobytes()]}
                assert str(int(label) + 1) in known

    return "rafdb", place / "raf", right


def cifar_trees(place, rng):
    """CIFAR-100's pickles in a folder, with damage and with calls put in."""
    mutants.tree(CIFAR, place / "cifar", rng, evil_pickle)
    return "cifar100", place / "cifar", lambda found: None


def pixels_of(arrays):
    """The images of a set, as bytes."""
    return {image.tobytes() for key, array in arrays.items() if key.endswith("_images") for image in array}


def unchanged(pixels, unsure=False):
    """A check that every image accepted has some of these pixels, to the last bit; or none, if that is not sure."""

    def right(found):
        assert unsure or pixels_of(found) <= pixels

    return right


def fer_archives(place, rng):
    """FER-2013 in archives. No pixel changes where a checksum can tell."""
    table = rng.random() < 0.5
    files = {"fer2013/fer2013.csv": p.as_csv(p.rows_of(FER))} if table else FER_IMAGES
    path = place / f"source{rng.choice(['.zip', '.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz'])}"
    unsure = mutants.archive(files, path.with_suffix(".gz") if path.suffix == ".tgz" else path, rng)
    if path.suffix == ".tgz":
        path.with_suffix(".gz").rename(path)
    return "fer2013", path, unchanged(pixels_of(FER) if table else FER_PIXELS, unsure)


def raf_archives(place, rng):
    """RAF-DB in archives, or in a folder with an archive inside. No pixel changes where a checksum can tell."""
    path = place / f"source{rng.choice(['.zip', '.tar', '.tar.gz'])}"
    unsure = mutants.archive(rng.choice(RAF_TREES), path, rng)
    return "rafdb", path, unchanged(RAF_PIXELS, unsure)


def cifar_archives(place, rng):
    """CIFAR-100 in archives, and archives in folders."""
    name = rng.choice(["cifar-100-python.tar.gz", "cifar-100-python.tar", "cifar.zip", "cifar.tar.xz"])
    files = CIFAR
    if rng.random() < 0.3:
        one = rng.choice(list(CIFAR))
        files = CIFAR | {one: evil_pickle(CIFAR[one], rng)}
    unsure = mutants.archive(files, place / name, rng) or files is not CIFAR
    return "cifar100", rng.choice([place, place / name]), unchanged(pixels_of(CIFAR_ARRAYS), unsure)


def blobs(place, rng):
    """Files that are something else altogether, under a name that promises a data set."""
    name = rng.choice(["fer2013", "rafdb", "cifar100"])
    files = ["fer2013.csv", "a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.npz", "train", "a.png", "a", "a.csv.gz"]
    heads = [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x80\x04"]
    heads += [b"emotion,pixels,Usage\n", b"\x93NUMPY\x01\0", b"%PDF-1.7", b"<!DOCTYPE html>"]
    heads += [b"\x89PNG\r\n\x1a\n", b"version https://git-lfs"]
    file, body = rng.choice(files), [rng.randbytes(rng.randrange(3000)), b"\0" * rng.randrange(3000)]
    body = rng.choice([*body, p.image(), b"0 " * 1000])
    (place / file).write_bytes(rng.choice(heads) + body)
    return name, place / file, lambda found: None


OWN = {f"{split}/{n % 2}/{n}.jpg": p.jpeg(n, (9, 9)) for split in ("train", "test") for n in range(4)}


def own_trees(place, rng):
    """Somebody's own pictures in folders, with or without splits. Every image accepted is one of the files."""
    files = OWN
    if rng.random() < 0.5:
        files = {f"{n % 2}/{name.replace('/', '-', 1)}": data for n, (name, data) in enumerate(OWN.items())}
    mutants.tree(files, place / "own", rng, mutate)

    def right(found):
        known = decodings(place, "RGB")
        for split in ("train", "test"):
            for image, label in zip(found[f"{split}_images"], found[f"{split}_labels"], strict=True):
                if image.shape == (9, 9, 3):  # nothing was resized
                    assert found["classes"][label] in {folder for _, folder in known[image.tobytes()]}

    return "mine", place / "own", right


TREES = [fer_trees, raf_trees, cifar_trees, own_trees]
FAMILIES = [tables, *TREES, fer_archives, raf_archives, cifar_archives, blobs]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_mutations(family, tmp_path, monkeypatch):
    warnings.simplefilter("ignore")
    outcomes, faults = Counter(), []
    for number in range(-(-COUNT // len(FAMILIES))):
        home = tmp_path / "home"
        (home / "source").mkdir(parents=True)
        monkeypatch.setenv("STO_DATA", str(home / "root"))
        name, source, right = family(home / "source", random.Random(f"{family.__name__} {number}"))
        try:
            outcomes[tried(name, source, right, home)] += 1
        except (Exception, TooLong) as error:
            faults.append(f"input {number}: {type(error).__name__}: {error}")
        shutil.rmtree(home)
    print(f"{family.__name__}: {dict(outcomes)}")
    assert not faults, f"{len(faults)} inputs of {family.__name__}: " + "\n".join(faults[:5])
    assert outcomes["refused"] > 0 and (outcomes["loaded"] > 0 or family is blobs), outcomes


def tried(name, source, right, home):
    """Prepare one input as the command line does; gives what became of it."""
    before, said, told = listing(home), io.StringIO(), io.StringIO()
    with limited(home / "root"), contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        status = main(["prepare", name, "--folder" if name == "mine" else "--from", str(source)])
    assert not WATCH.seen, WATCH.seen
    after, line = listing(home), told.getvalue()
    if status == 2:
        assert line.startswith("sto_lite prepare: ") and line.count("\n") == 1, line
        assert line.rstrip("\n").isprintable() and len(line) < 1_000, line
        assert after == before
        return "refused"
    assert status == 0 and not line, line
    made = {path: what for path, what in after.items() if path.split("/")[0] == "root"}
    assert {path: what for path, what in after.items() if path not in made} == before
    assert made.keys() == {"root", f"root/{name}.npz", f"root/{name}.json"}
    check(name, home / "root" / f"{name}.npz", right)
    return "loaded"


def listing(folder: Path) -> dict[str, tuple]:
    """What is below a folder: type, size and time of each, links not followed."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        rest = () if path.is_dir() else (status.st_size, status.st_mtime_ns)
        found[path.relative_to(folder).as_posix()] = (status.st_mode, *rest)
    return found


def check(name, path, right):
    """The prepared file has the set's form, is loaded, and is right by the family's own measure."""
    published = sets.PUBLISHED.get(name) or sets.Published("mine", "mine", {"train": 0, "test": 0}, (), ())
    with np.load(path, allow_pickle=False) as npz:
        found = dict(npz)
    classes = published.classes or tuple(found["classes"].tolist())
    for split in published.splits:
        images, labels = found[f"{split}_images"], found[f"{split}_labels"]
        assert images.dtype == labels.dtype == np.uint8
        assert not published.shape or images.shape[1:] == published.shape
        assert 0 < len(images) == len(labels) and labels.max() < len(classes)
    loaded = data.load(name, (published.shape or (9,))[0])
    assert all(len(split) == len(found[f"{n}_labels"]) for n, split in loaded.splits.items())
    right(found)
