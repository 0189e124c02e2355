"""What the tests of prepare share: folders, zips and tars made of names and bytes."""

import io
import random
import tarfile
import zipfile
from pathlib import Path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_bytes(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def shuffled(files: dict[str, bytes], seed: int = 1) -> dict[str, bytes]:
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
