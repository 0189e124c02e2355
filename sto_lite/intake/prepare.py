"""What people have on disk of an image set -> one prepared file, `root/<set>.npz` (chapter 1).

It is an uncompressed npz of {split}_images, uint8 (N,H,W) or (N,H,W,3), and {split}_labels, uint8 (N,); for sets in
colour and people's own of the `classes`' names; and where FER+'s votes were given, of {split}_votes, uint8 (N,10),
and {split}_rated, bool (N,); and of RAF-DB, where they are, of {split}_attributes, uint8 (N,3). Equal data give equal
bytes. `root/<set>.json` beside it records the source, the checksum and the audit; while the source's size and times
and the prepared file's bytes match it, nothing is read again.
"""

import hashlib
import http.client
import io
import json
import os
import re
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sto_lite.data import NAME
from sto_lite.errors import DataError, shown
from sto_lite.files import write_together
from sto_lite.intake import cifar, fer, rafdb
from sto_lite.intake import votes as ferplus
from sto_lite.intake.audit import audit
from sto_lite.intake.members import ARCHIVE, Member, opened, state
from sto_lite.intake.own import Own
from sto_lite.intake.pictures import Arrays, Found, NothingFound, more_than_one
from sto_lite.sets import DATA_SETS, PUBLISHED, Published

READERS = {"fer2013": fer.read, "rafdb": rafdb.read, "cifar100": cifar.read}
TIMEOUT = 30.0  # seconds without a byte
_MAX_DOWNLOAD = 1 << 30  # bytes
_RECORD_VERSION = 1

Report = Callable[[str], None]
_Read = Callable[[str, list[Member]], Found]


def prepare(name: str, source: Path, root: Path, report: Report = print, votes: Path | None = None) -> Path:
    """Read a published set from `source`, check every row or image, and write `root/<name>.npz`; returns its path.

    name: of READERS. source: what data/README.md names, or a folder that holds it. votes: FER+'s fer2013new.csv,
    whose rows are those of FER-2013's table (votes.py). `report` gets the audit as text.
    Raises DataError, and then leaves a prepared file that stands in `root` as it was.
    """
    return _from_disk(PUBLISHED[name], READERS[name], {}, Path(source), Path(root), report, votes)


def prepare_own(name: str, folder: Path, root: Path, own: Own, report: Report = print) -> Path:
    """Read a folder, zip or tar of one's own pictures, and write `root/<name>.npz`; `data.load(name)` finds it.

    own: what becomes of them. Raises DataError as `prepare` does, and for a name that is taken or no name.
    """
    if name in DATA_SETS or not re.fullmatch(NAME, name):
        why = f"{', '.join(DATA_SETS)} are taken"
        why = why if name in DATA_SETS else "take small letters, digits, - and _"
        raise DataError(f"{shown(name, 60)!r} cannot be the name of your own set: {why}")
    settings = {"own": asdict(own)}
    return _from_disk(Published.own(name), own.read, settings, Path(folder), Path(root), report)


def _from_disk(
    published: Published,
    reader: _Read,
    settings: dict[str, Any],
    source: Path,
    root: Path,
    report: Report,
    votes: Path | None = None,
) -> Path:
    paths = {"": source, **({"votes": Path(votes)} if votes else {})}
    origin = {key or "source": os.path.realpath(path) for key, path in paths.items()}
    states = {f"{key}_state".lstrip("_"): state(path) for key, path in paths.items()}

    def read() -> Found:
        with opened(source) as members:
            arrays, notices = _read_or_inside(reader, shown(source), members, published.name)
        usage = arrays.pop("usage", None)
        if votes:
            joined, more = ferplus.join(paths["votes"], usage)
            arrays, notices = arrays | joined, notices + more
        for path, before in zip(paths.values(), states.values(), strict=True):
            if state(path) != before:
                told = "changed while it was read; wait until it is complete, then try again"
                raise DataError(f"{shown(path)}: {told}")
        return arrays, notices

    return _prepared(published, origin | states | settings, shown(source), read, root, report)


def download(name: str, root: Path, report: Report = print) -> Path:
    """Fetch a set that anybody may download, which is CIFAR-100 alone, and prepare it; returns the file's path.

    Raises DataError also when it cannot be fetched, or its checksum is wrong.
    """
    published = PUBLISHED[name]
    if not published.url:
        how = f"get it as data/README.md says, then run python -m sto_lite prepare {name} --from PATH"
        raise DataError(f"{published.title} is not free to download: {how}")

    def read() -> Found:
        data = _fetched(published)
        archive = Member(Path(published.url).name, published.url, len(data), lambda: io.BytesIO(data))
        with opened(archive) as members:
            return READERS[name](published.url, members)

    origin = {"source": published.url, "state": published.md5}
    return _prepared(published, origin, published.url, read, Path(root), report)


def _fetched(published: Published) -> bytes:
    """The published archive; a terminal sees the progress."""
    url, data = published.url, io.BytesIO()
    command = f"python -m sto_lite prepare {published.name} --from PATH"
    instead = f"get the archive by other means and run {command}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            length = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=length, unit="B", unit_scale=True, desc=published.title, disable=None) as bar:
                while part := answer.read(1 << 20):
                    bar.update(data.write(part))
                    if data.tell() > _MAX_DOWNLOAD:
                        raise ValueError(f"it has more than {_MAX_DOWNLOAD:,} bytes")
    except (OSError, ValueError, http.client.HTTPException) as fault:
        reason = shown(getattr(fault, "reason", "") or fault) or type(fault).__name__
        told = f"cannot be downloaded ({reason}); check the network and try again, or {instead}"
        raise DataError(f"{url}: {told}") from fault
    md5 = hashlib.md5(data.getbuffer(), usedforsecurity=False).hexdigest()
    if md5 != published.md5:
        raise DataError(
            f"{url}: the download has the checksum (md5) {md5}, not {published.md5}, so it was cut short or is "
            f"another file; try again, or {instead}"
        )
    return data.getvalue()


def _read_or_inside(read: _Read, where: str, members: list[Member], name: str) -> Found:
    """The data set among the members, else in the one archive among them that may hold it."""
    try:
        return read(where, members)
    except NothingFound as fault:
        packed = [member for member in members if ARCHIVE.search(member.file)]
        called = re.sub("2013|db|100", "", name)
        packed = [member for member in packed if called in member.file] or packed
        if not packed:
            raise
        if len(packed) > 1:
            raise more_than_one(where, [member.name for member in packed]) from fault
    with opened(packed[0]) as inner:
        return read(packed[0].where, inner)


def _prepared(
    published: Published,
    origin: dict[str, Any],
    where: str,
    read: Callable[[], Found],
    root: Path,
    report: Report,
) -> Path:
    """The prepared file of `origin`, which messages call `where`: the one that stands there, or a new one."""
    target, side = root / f"{published.name}.npz", root / f"{published.name}.json"
    origin_now = {"version": _RECORD_VERSION, **origin}
    if (text := _still_valid(side, target, origin_now)) is not None:
        report(f"{text}\nnothing has changed since it was prepared: not read again")
        return target
    arrays, notices = read()
    sizes = {split: len(arrays[f"{split}_labels"]) for split in published.splits}
    for split, size in sizes.items():
        if not size:
            needed = ", ".join(published.called)
            raise DataError(f"{where}: holds no {split} images; all of {needed} are needed")
    if sizes != published.official:
        told = ", ".join(f"{split} {n:,} of {published.official[split]:,}" for split, n in sizes.items())
        notices.append(f"notice: not the whole of {published.title}, or a changed copy: {told} images")
    found = audit(arrays, published.classes or tuple(arrays["classes"].tolist()))
    text = "\n".join([f"{published.title} from {where}", *notices, str(found)])
    data = _npz(arrays)
    record = origin_now | {"sha256": hashlib.sha256(data).hexdigest(), "audit": asdict(found), "report": text}
    try:
        write_together({target: data, side: (json.dumps(record, indent=1) + "\n").encode()})
    except OSError as fault:
        raise DataError(
            f"{shown(target)}: cannot be written: {fault.strerror or shown(fault)}; {len(data) / 1e6:.1f} MB must "
            f"fit there, or STO_DATA must name another folder"
        ) from fault
    report(text)
    return target


def _still_valid(side: Path, target: Path, origin: Mapping[str, object]) -> str | None:
    """The recorded report, if the record is of this source in this state and of the prepared file's bytes."""
    try:
        record = json.loads(side.read_bytes())
        if any(record.get(key) != origin.get(key) for key in {*origin, "votes", "votes_state", "own"}):
            return None
        with open(target, "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]
        return record["report"] if same and isinstance(record["report"], str) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _npz(arrays: Arrays) -> bytes:
    """The arrays as an uncompressed npz with fixed dates, so that equal arrays give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            with archive.open(entry, "w", force_zip64=array.nbytes >= 1 << 31) as file:
                np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return out.getvalue()
