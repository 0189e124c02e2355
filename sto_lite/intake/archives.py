"""Files in a folder, a zip, a tar or a compressed file, read where they lie: nothing is unpacked to disk.

One guard refuses members of zips and tars that could do harm. Whatever is wrong is one `DataError`.
"""

import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

from sto_lite.errors import DataError, shown
from sto_lite.intake.members import MAX_READ, Member, Told, decompressed, refuse_foreign, told

MAX_MEMBERS = 200_000
MAX_MEMBER = 1 << 30  # bytes in one member of a tar
MAX_TOTAL = 4 << 30  # bytes in all members of a tar
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.\w+)$")  # how their names end, in small letters
_ENDINGS = (".gz", ".bz2", ".xz")


@contextmanager
def opened(path: Path) -> Iterator[list[Member]]:
    """The files of a folder, a zip or a tar (plain, gzip, bzip2, xz), as stored, or the one file at `path`.

    Hidden files and macOS's companions are left out. Raises DataError for what cannot be read, and for an
    archive that is encrypted, holds links, climbs out of itself, or claims absurd sizes.
    """
    where = shown(path)
    with ExitStack() as stack:
        with told(where):
            if _is_folder(path):
                entries = _walk(path)
                members = _viewed([_on_disk(name, file, status.st_size) for name, file, status in entries])
            else:
                alone = _on_disk(path.name, path, path.stat().st_size)
                members = _inside(stack.enter_context(alone.opener()), alone, stack)
        yield members


@contextmanager
def inside(member: Member) -> Iterator[list[Member]]:
    """The files of an archive that is itself a member, read into memory. Raises DataError as `opened` does."""
    data = io.BytesIO(member.read(MAX_MEMBER))
    with ExitStack() as stack:
        with told(member.where):
            members = _inside(data, member, stack)
        yield members


def _inside(file: IO[bytes], member: Member, stack: ExitStack) -> list[Member]:
    """The files of an archive, or the one file that it is."""
    head = file.read(512)
    name = member.name.lower()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _admitted(_zipped(stack.enter_context(zipfile.ZipFile(file))), member.where)
    file.seek(0)
    stream = decompressed(file, stack)
    start = stream.read(512) if stream is not file else head
    if start[257:262] != b"ustar":
        refuse_foreign(start, member.where)
        if name.endswith((".zip", ".npz")):
            raise zipfile.BadZipFile("it does not begin as a zip does")
        if not ARCHIVE.search(name):
            return _viewed([member])
    stream.seek(0)
    capped = cast(IO[bytes], Told(stream, member))
    archive = stack.enter_context(tarfile.open(fileobj=capped, mode="r:"))  # noqa: SIM115
    return _admitted(_tarred(archive, member.where), member.where)


def _viewed(members: list[Member]) -> list[Member]:
    """The members, with x.csv in place of x.csv.gz where it does not lie beside."""
    names = {member.name for member in members}
    found = []
    for member in members:
        plain = member.name.rpartition(".")[0]
        if not member.name.lower().endswith(_ENDINGS) or ARCHIVE.search(member.name.lower()):
            found.append(member)
        elif plain not in names:
            found.append(Member(plain, member.where, member.size, member.opener))
    return found


def state(path: Path) -> str:
    """Sizes and times (modified, changed) of a file, or of a folder's files but prepared ones, as one text.

    The time of change is set by the system at every write, so an edit that keeps size and date still shows.
    """
    with told(shown(path)):
        if not _is_folder(path):
            return _stamp(path.stat())
        digest = hashlib.sha256()
        for name, _, status in _walk(path):
            if not name.endswith((".npz", ".json", ".partial")):
                digest.update(f"{name}\n{_stamp(status)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _is_folder(path: Path) -> bool:
    if not path.exists():
        raise DataError(f"{shown(path)}: does not exist; check the path")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{shown(path)}: is neither a file nor a folder")
    return path.is_dir()


def _on_disk(name: str, path: Path, size: int) -> Member:
    def opener() -> IO[bytes]:
        return io.BufferedReader(Told(open(path, "rb", buffering=0), member), 1 << 16)

    member = Member(name, shown(path), size, opener)
    return member


def _walk(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """(name, path, status) of a folder's regular files, sorted; links are followed, but never in a loop."""

    def fail(fault: OSError) -> None:
        raise DataError(f"{shown(fault.filename)}: cannot be read: {fault.strerror}") from fault

    seen: set[str] = set()
    count = 0
    for base, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = [] if real in seen else sorted(f for f in folders if not _hidden(f))
        for file in sorted(f for f in files if not _hidden(f) and real not in seen):
            path = Path(base, file)
            with told(shown(path)):
                status = path.stat()
            count += stat.S_ISREG(status.st_mode)
            if count > MAX_MEMBERS:
                raise DataError(
                    f"{shown(folder)}: holds over {MAX_MEMBERS:,} files; give the data set's own folder"
                )
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(folder).as_posix(), path, status
        seen.add(real)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


# ---- the one guard of zips and tars

_Entry = tuple[str, str, int, Callable[[], IO[bytes]]]  # name, kind, size, opener


def _zipped(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in archive.infolist():
        kind = "folder" if info.is_dir() else "encrypted" if info.flag_bits & 1 else "file"
        kind = "link" if stat.S_ISLNK(info.external_attr >> 16) else kind
        yield info.filename, kind, info.file_size, lambda info=info: archive.open(info)  # type: ignore[misc]


def _tarred(archive: tarfile.TarFile, where: str) -> Iterator[_Entry]:
    total = 0
    for info in archive:
        total += info.size
        if not 0 <= info.size <= MAX_MEMBER or total > MAX_TOTAL:
            claim = f"claims {info.size:,} bytes, or all members do together; that is none of the data sets"
            raise DataError(f"{where}, member {shown(info.name)}: {claim}")
        kind = "file" if info.isreg() else "folder" if info.isdir() else "link"
        yield info.name, kind, info.size, lambda info=info: archive.extractfile(info)  # type: ignore
    # tarfile takes a file that ends between two members for whole; a whole one ends in blocks of zeros.
    stream = cast(IO[bytes], archive.fileobj)
    stream.seek(archive.offset)
    if stream.read(512) != bytes(512):
        raise tarfile.ReadError("the end of the archive is missing")
    for _ in range(MAX_TOTAL // MAX_READ):  # to the end, where gzip, bzip2 and xz hold their checksum
        if not stream.read(MAX_READ):
            break


def _admitted(entries: Iterable[_Entry], where: str) -> list[Member]:
    """The files among an archive's members; one that could do harm is refused with the whole archive."""
    members: list[Member] = []
    refused = "; nothing was read: take the data set from a source that you trust"
    for raw, kind, size, opener in entries:
        parts = [part for part in raw.replace("\\", "/").split("/") if part != "."]
        if parts[:1] == [""] or ".." in parts or re.match("[A-Za-z]:", raw):
            raise DataError(f"{where}, member {shown(raw)}: its path leads out of the archive{refused}")
        name = "/".join(filter(None, parts))
        label = f"{where}, member {shown(name)}"
        if kind == "folder" or _hidden(name):
            continue
        if kind == "link":
            raise DataError(f"{label}: is a link or a device{refused}")
        if kind == "encrypted":
            raise DataError(f"{label}: is encrypted; unpack it with its password and give the folder")
        members.append(Member(name, label, size, opener))
        if len(members) > MAX_MEMBERS:
            raise DataError(f"{where}: holds more than {MAX_MEMBERS:,} files; that is none of the data sets")
    return _viewed(members)
