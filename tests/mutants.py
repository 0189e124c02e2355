"""Seeded damage to what people give to `prepare`: bytes, lines, trees and archives (tests/test_mutations.py)."""

import io
import os
import random
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.packing import written

Files = dict[str, bytes]
Edit = Callable[[bytes, random.Random], bytes]
WILD = ["-1", "7", "8", "256", "1e9", "1.0", "NaN", "inf", "+5", "0x10", "1_0", "007", "9" * 400, "\u0663"]
WILD += ["\u00b2", "", " ", "\0", "\x1b[2J", "True", "'; DROP"]
CLIMBING = ["../out", "/tmp/out", "a/../../out", "..\\out", "C:\\out", "//host/out", "./../out", "a/.."]
CLIMBING += ["..", "/"]
ODD = ["x" * 300, "\u202etxt", "sp ace", "line\nend", "\u00e9", "con", "~"]
ODD += ["$(touch out)", "%2e%2e", "a\0b", ""]
BITS = [b"\n", b"\r", b",", b'"', b"\0", b" ", b"-", b"256", b"\xff\xfe", b"PK\x03\x04", b"../"]


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
            out[i:i] = rng.choice(BITS)
        else:
            out[i : i + n] = rng.randbytes(min(n, 8))
    return bytes(out)


def lines(content: bytes, rng: random.Random) -> bytes:
    """Lines twice, left out, shuffled, joined, cut or ended otherwise; wild numbers in place of numbers."""
    rows = content.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        i, j, kind = rng.randrange(len(rows)), rng.randrange(len(rows)), rng.randrange(9)
        if kind == 0:
            rows.insert(j, rows[i])
        elif kind == 1 and len(rows) > 1:
            del rows[i]
        elif kind == 2:
            rng.shuffle(rows)
        elif kind == 3:
            rows[i], rows[j] = rows[j], rows[i]
        elif kind == 4:
            rows[i] = rows[i][: rng.randrange(len(rows[i]) + 1)]
        elif kind == 5:
            rows[i] += rng.choice([b"\r", b",", b" ", b'"', b"\0", b"\xff", b"\x85", b",x", b"\xe2\x80\xa8"])
        else:
            numbers = list(re.finditer(rb"[0-9]+", rows[i]))
            if numbers:
                found = rng.choice([numbers[0], numbers[-1], rng.choice(numbers)])
                rows[i] = rows[i][: found.start()] + rng.choice(WILD).encode() + rows[i][found.end() :]
    return rng.choice([b"\n"] * 8 + [b"\r\n", b"\r"]).join(rows)


def tree(files: Files, place: Path, rng: random.Random, edit: Edit) -> Path:
    """The files in a folder, some of them changed, renamed, missing, links, pipes or folders."""
    files, later = dict(files), []
    for _ in range(rng.randint(1, 3)):
        name, other, kind = rng.choice(list(files)), rng.choice(list(files)), rng.randrange(11)
        if kind < 5:
            files[name] = edit(files[name], rng)
        elif kind == 5 and len(files) > 1:
            del files[name]
        elif kind == 6:
            files[str(Path(other).parent / Path(name).name)] = files[name]
        elif kind == 7:
            odd = rng.choice([o for o in ODD if o and "\0" not in o])[:100]
            files[str(Path(name).parent / (odd + Path(name).suffix))] = files.pop(name)
        elif kind == 8:
            parts = name.split("/")
            i = rng.randrange(len(parts))
            parts[i] = rng.choice([parts[i].upper(), parts[i] + "x", rng.choice(WILD[:6]), parts[i][::-1]])
            files["/".join(parts)] = files.pop(name)
        else:
            later.append((name, rng.choice(["folder", "pipe", "loop", "dangling", "outside", "closed"])))
    written(place, files)
    for name, kind in later:
        path = place / name
        if not path.is_file():
            continue
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "closed":
            path.touch(0o000)
        else:
            path.symlink_to({"loop": path.name, "dangling": "nowhere", "outside": "/etc/passwd"}[kind])
    return place


def archive(files: Files, path: Path, rng: random.Random) -> bool:
    """The files in an archive of the kind that the path's suffix says, with forged members or damaged bytes.

    Gives whether bytes of the members could be changed without a checksum that tells it.
    """
    entries = [[name, data, ""] for name, data in files.items()]
    forged = rng.random() < 0.6
    for _ in range(rng.randint(1, 2) if forged else 0):
        entry, kind = rng.choice(entries), rng.randrange(9)
        if kind == 0:
            entry[0] = rng.choice(CLIMBING) + rng.choice(["", "/" + entry[0]])
        elif kind == 1:
            entry[0] = str(Path(entry[0]).parent / rng.choice(ODD)) + rng.choice(["", Path(entry[0]).suffix])
        elif kind == 2:
            entry[2] = rng.choice(["link", "hard", "device", "pipe", "folder"])
        elif kind == 3:
            entries.append(list(entry))
        elif kind == 4 and len(entries) > 1:
            entries.remove(entry)
        elif kind == 5:
            entry[1] = packed_entries([[*entry[:2], ""]], rng.choice([".zip", ".tar", ".tar.gz"]))
            entry[0] += rng.choice(["", ".zip", ".tar.gz"])
        elif kind == 6:
            entry[1] = bytes(rng.choice([11, 33]) << 20)  # a bomb of some megabytes
        elif kind == 7:
            rng.shuffle(entries)
        else:
            entries.insert(0, [rng.choice([*CLIMBING, "x"]), b"x", rng.choice(["", "link", "device"])])
    content = packed_entries(entries, path.suffixes[-1] if path.suffix != ".gz" else ".tar.gz")
    path.write_bytes(content if forged else mutate(content, rng))
    return not forged and path.suffix == ".tar"


def packed_entries(entries: list[list], suffix: str) -> bytes:
    out = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data, kind in entries:
                info = zipfile.ZipInfo(name or "x")
                info.create_system, info.compress_type = 3, zipfile.ZIP_DEFLATED
                modes = {"link": 0o120777, "hard": 0o120777, "device": 0o020644, "pipe": 0o010644}
                info.external_attr = modes.get(kind, 0o100644) << 16
                archive.writestr(info, data)
        return out.getvalue()
    options = {".gz": {"compresslevel": 1}, ".bz2": {"compresslevel": 1}, ".xz": {"preset": 0}}
    kind_of = suffix.rpartition(".")[2].replace("tar", "")
    with tarfile.open(fileobj=out, mode=f"w:{kind_of}", **options.get(f".{kind_of}", {})) as tar:  # type: ignore
        for name, data, kind in entries:
            info = tarfile.TarInfo(name.replace("\0", "0"))
            types = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
            types |= {"pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE}
            info.type, info.linkname = types.get(kind, tarfile.REGTYPE), "/etc/passwd" if kind else ""
            info.size = 0 if kind else len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
