"""What the tests of prepare share: folders, zips and tars made of names and bytes, and what must come of them."""

import io
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sto_lite.errors import DataError
from sto_lite.intake import prepare

# Writes the real sets where they are at hand: ../shared/data/unpack.py, or above that.
PLACES = [folder / "shared" / "data" / "unpack.py" for folder in Path(__file__).resolve().parents[2:]]
UNPACK = next((place for place in PLACES if place.exists()), None)


def quiet(text):
    pass


def prepared(name, source, root, **options):
    """The arrays of the prepared file; beside it lies only its record."""
    path = prepare.SETS[name](source, root, report=quiet, **options)
    assert path == root / f"{name}.npz"
    assert {p.name for p in root.glob(f"{name}.*")} == {f"{name}.npz", f"{name}.json"}
    with np.load(path, allow_pickle=False) as npz:
        return dict(npz)


def refused(name, source, root, *parts, **options):
    """The source is refused in one printable line that has all `parts`, and `root` is not touched."""
    before = files_below(root)
    with pytest.raises(DataError) as caught:
        prepare.SETS[name](source, root, report=quiet, **options)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message and message.isprintable() and len(message) < 1_000
    assert files_below(root) == before
    return message


def same(found, expected):
    """The arrays are equal, of equal types, and in the same order."""
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def one_file(name, sources, expected, tmp):
    """Every source gives the expected arrays in one and the same file, and changes nothing but its folder."""
    made = set()
    for what, source in sources.items():
        before, root = stamps(tmp), tmp / "root of one"
        try:
            same(prepared(name, source, root), expected)
        except (DataError, AssertionError) as fault:
            raise AssertionError(f"{what}: {fault}") from fault
        made.add((root / f"{name}.npz").read_bytes())
        for path in root.iterdir():
            path.unlink()
        root.rmdir()
        assert stamps(tmp) == before, f"{what}: something was written outside root"
    assert len(made) == 1


def stamps(folder):
    return {
        path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def image(size=(48, 48), mode="L", colour=0, kind="PNG"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


def zipped(path, files):
    path.write_bytes(zip_bytes(files, zipfile.ZIP_DEFLATED))
    return path


def zip_bytes(files, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def written(folder: Path, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def below(folder, files):
    return {f"{folder}/{name}": data for name, data in files.items()}


def files_below(folder: Path):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def shuffled(files, seed=1):
    names = list(files)
    random.Random(seed).shuffle(names)
    return {name: files[name] for name in names}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random edits: a byte, a cut, a repeated, removed or foreign piece."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        i, n = rng.randrange(len(out) + 1), rng.choice([1, 2, 8, 100, 3000])
        edit = rng.randrange(6)
        if edit == 0 and out:
            out[rng.randrange(len(out))] = rng.randrange(256)
        elif edit == 1:
            del out[i:]
        elif edit == 2:
            del out[i : i + n]
        elif edit == 3:
            out[i:i] = out[i : i + n]
        elif edit == 4:
            out[i:i] = rng.choice(
                [b"\n", b"\r", b",", b'"', b"\0", b" ", b"-", b"256", b"\xff\xfe", b"PK\x03\x04", b"../"]
            )
        else:
            out[i : i + n] = rng.randbytes(min(n, 8))
    return bytes(out)
