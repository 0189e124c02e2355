"""What people have on disk of a published image set -> one prepared file, `root/<set>.npz` (chapter 1).

It is an uncompressed npz of {split}_images, uint8 (N,H,W) or (N,H,W,3), and {split}_labels, uint8 (N,); for
sets in colour of the `classes`' names; and where FER+'s votes were given, of {split}_votes, uint8 (N,10), and
{split}_rated, bool (N,). Equal data give equal bytes. `root/<set>.json` beside it records the source, the checksum
and the audit; while the source's size and times and the prepared file's bytes match it, nothing is read again.
"""

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.files import write_together
from sto_lite.intake import archives, cifar, fer
from sto_lite.intake import rafdb as raf
from sto_lite.intake import votes as ferplus
from sto_lite.intake.audit import audit
from sto_lite.intake.download import downloaded
from sto_lite.intake.layouts import Arrays, Found, NothingFound, more_than_one
from sto_lite.intake.members import Member
from sto_lite.sets import CIFAR100, FER2013, PUBLISHED, RAFDB, Published

_RECORD_VERSION = 1

Report = Callable[[str], None]
_Read = Callable[[str, list[Member]], Found]


def fer2013(source: Path, root: Path, report: Report = print, votes: Path | None = None) -> Path:
    """Read FER-2013 from `source`, check every row or image, and write `root/fer2013.npz`; returns its path.

    source: fer2013.csv or icml_face_data.csv, the image folders train/<class> and test/<class>, a folder that
    holds either, or a zip or tar of it. `report` gets the audit as text.
    votes: FER+'s fer2013new.csv, whose rows are those of the source's table (`sto_lite.intake.votes`).
    Raises DataError, and then leaves a prepared file that stands in `root` as it was.
    """
    join = None if votes is None else Path(votes)
    return _from_disk(FER2013, fer.read, Path(source), Path(root), report, join)


def rafdb(source: Path, root: Path, report: Report = print) -> Path:
    """Read RAF-DB's basic expressions as `fer2013` does its set, and write `root/rafdb.npz`.

    source: a folder that holds EmoLabel/list_patition_label.txt and Image/aligned or Image/aligned.zip, or one
    with the folders train/1 to train/7 and test/1 to test/7, or a zip or tar of either. Label 0 is their 1.
    """
    return _from_disk(RAFDB, raf.read, Path(source), Path(root), report)


def cifar100(source: Path, root: Path, report: Report = print) -> Path:
    """Read CIFAR-100 as `fer2013` does its set, and write `root/cifar100.npz`.

    source: cifar-100-python.tar.gz, the folder cifar-100-python, or a folder, zip or tar that holds either. Its
    pickles are read without running anything that they name.
    """
    return _from_disk(CIFAR100, cifar.read, Path(source), Path(root), report)


SETS = {"fer2013": fer2013, "rafdb": rafdb, "cifar100": cifar100}


def download(name: str, root: Path, report: Report = print) -> Path:
    """Fetch a set that anybody may download, which is CIFAR-100 alone, and prepare it; returns the file's path.

    The archive lies in `root` while it is read, and is then removed. Raises DataError also when it cannot be
    fetched, or its checksum is wrong.
    """
    published, root = PUBLISHED[name], Path(root)
    if not published.url:
        raise DataError(
            f"{published.title} is not free to download: get it as data/README.md says, then run "
            f"python -m sto_lite prepare {name} --from PATH"
        )

    def read() -> Found:
        with downloaded(published, root) as path, archives.opened(path) as members:
            return cifar.read(shown(path), members)

    origin = {"source": published.url, "state": published.md5}
    return _prepared(published, origin, published.url, read, root, report)


def _from_disk(
    published: Published, read: _Read, source: Path, root: Path, report: Report, votes: Path | None = None
) -> Path:
    paths = [source, *([votes] if votes else [])]
    states = [archives.state(path) for path in paths]

    def read_all() -> Found:
        with archives.opened(source) as members:
            arrays, notices = _read_or_inside(read, shown(source), members, published.name)
        usage = arrays.pop("usage", None)
        if votes:
            joined, more = ferplus.join(votes, usage)
            arrays, notices = arrays | joined, notices + more
        for path, state in zip(paths, states, strict=True):
            if archives.state(path) != state:
                told = "changed while it was read; wait until it is complete, then try again"
                raise DataError(f"{shown(path)}: {told}")
        return arrays, notices

    origin = {"source": os.path.realpath(source), "state": states[0]}
    if votes:
        origin |= {"votes": os.path.realpath(votes), "votes_state": states[1]}
    return _prepared(published, origin, shown(source), read_all, root, report)


def _read_or_inside(read: _Read, where: str, members: list[Member], name: str) -> Found:
    """The data set among the members, else in the one archive among them that may hold it."""
    try:
        return read(where, members)
    except NothingFound as fault:
        packed = [member for member in members if archives.ARCHIVE.search(member.file)]
        called = re.sub("2013|db|100", "", name)
        packed = [member for member in packed if called in member.file] or packed
        if not packed:
            raise
        if len(packed) > 1:
            raise more_than_one(where, [member.name for member in packed]) from fault
    with archives.inside(packed[0]) as inner:
        return read(packed[0].where, inner)


def _prepared(
    published: Published,
    origin: dict[str, str],
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
    _write({target: data, side: (json.dumps(record, indent=1) + "\n").encode()})
    report(text)
    return target


def _still_valid(side: Path, target: Path, origin: Mapping[str, object]) -> str | None:
    """The recorded report, if the record is of this source in this state and of the prepared file's bytes."""
    try:
        record = json.loads(side.read_bytes())
        if any(record.get(key) != origin.get(key) for key in {*origin, "votes", "votes_state"}):
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
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _write(files: Mapping[Path, bytes]) -> None:
    """Write all in one step: the old bytes stand there or the new ones, whatever happens meanwhile."""
    try:
        write_together(files)
    except OSError as fault:
        reason = fault.strerror or shown(fault)
        size = sum(map(len, files.values()))
        raise DataError(
            f"{shown(next(iter(files)))}: cannot be written: {reason}; {size / 1e6:.1f} MB must fit there, "
            f"or STO_DATA must name another folder"
        ) from fault
