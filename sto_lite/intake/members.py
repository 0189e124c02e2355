"""What people give to `prepare`: a folder, a zip, a tar or one file, read where it lies; nothing is unpacked to disk.

One guard refuses members that could do harm. Damage, another kind of file, a disk that fails and a lack of memory
are four different messages, each one `DataError`.
"""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from sto_lite.errors import DataError, shown

MAX_MEMBERS = 200_000
MAX_MEMBER = 1 << 30  # bytes in one member of a tar
MAX_TOTAL = 4 << 30  # bytes in all members of a tar
MAX_READ = 16 << 20  # bytes that tarfile may ask for at once
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.\w+)$")  # how their names end, in small letters
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_TAKE, _UNPACK = "take the data set in a form that data/README.md names", "unpack it and give the folder"
_FOREIGN = {  # by a file's first bytes
    b"PAR1": f"is a Parquet table, which is not read: {_TAKE}",
    b"\x89HDF": f"is an HDF5 file, which is not read: {_TAKE}",
    b"\x93NUMPY": f"is a NumPy array, not the published data: {_TAKE}",
    b"\x89PNG": "is a single image: give the folder of the whole data set",
    b"\xff\xd8\xff": "is a single image: give the folder of the whole data set",
    b"%PDF": f"is a PDF document: {_TAKE}",
    b"7z\xbc\xaf": f"is a 7-Zip archive, which is not read: {_UNPACK}",
    b"Rar!": f"is a RAR archive, which is not read: {_UNPACK}",
    b"(\xb5/\xfd": f"is compressed by Zstandard, which is not read: {_UNPACK}",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: git lfs pull brings that",
    b"<": "is a web page, perhaps one to sign in, not the file itself: download it again in a browser",
}


@contextmanager
def told(where: str, what: str = "is damaged or cut short ({}); download or copy it again") -> Iterator[None]:
    """Turn what a reader raises about the bytes of `where` into one DataError; `what` says it of damage."""
    try:
        yield
    except DataError:
        raise
    except Exception as fault:  # on damaged bytes readers raise errors of many kinds
        cause: BaseException | None = fault
        while cause:  # zipfile takes a disk that fails for damage
            if isinstance(cause, MemoryError):
                raise no_memory(where) from fault
            # A forged offset is EINVAL.
            if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):
                raise DataError(f"{where}: cannot be read: {cause.strerror}") from fault
            cause = cause.__context__
        internal = isinstance(fault, TypeError | AttributeError)  # whose words are about a library's inside
        reason = (not internal and shown(fault)) or type(fault).__name__
        if isinstance(fault, NotImplementedError):
            what = "cannot be read ({}); unpack it and give the folder"
        raise DataError(f"{where}: {what.format(reason)}") from fault


def no_memory(where: str) -> DataError:
    """The fault of a machine that is too small for a file which may be quite in order."""
    return DataError(
        f"{where}: there is not enough memory to read it; end other programs, or prepare it on a machine with more"
    )


def refuse_foreign(head: bytes, where: str) -> None:
    """Raise DataError for the first bytes of an empty file, or of one of another kind than a data set has."""
    if not head:
        raise DataError(f"{where}: is empty; copy or download it again")
    for magic, what in _FOREIGN.items():
        if head.lstrip().startswith(magic):
            raise DataError(f"{where}: {what}")


@dataclass(frozen=True)
class Member:
    """One file: its `name` below the folder or archive, `where` as messages call it, its `size` in bytes.

    One that gzip, bzip2 or xz has packed is named and read as what it holds.
    """

    name: str
    where: str
    size: int
    opener: Callable[[], IO[bytes]]

    @property
    def file(self) -> str:
        """The last part of the name, in small letters."""
        return self.name.rpartition("/")[2].lower()

    def fault(self, text: str) -> DataError:
        """What is wrong with it."""
        return DataError(f"{self.where}: {text}")

    def open(self, stack: ExitStack) -> IO[bytes]:
        """Its bytes as a stream, or those that it holds by gzip, bzip2 or xz, whatever its name says."""
        file = stack.enter_context(self.opener())
        head = file.read(6)
        file.seek(0)
        unpack = next((unpack for magic, unpack in _PACKED.items() if head.startswith(magic)), None)
        return cast(IO[bytes], stack.enter_context(unpack(file))) if unpack else file

    def read(self, limit: int) -> bytes:
        """All its bytes. Raises DataError for damage, and for more than `limit` of them."""
        says, data = f"{self.size:,} bytes", io.BytesIO()
        if self.size <= limit:
            with told(self.where), ExitStack() as stack:
                stream, says = self.open(stack), "more bytes than it says"
                while data.tell() <= limit and (part := stream.read(1 << 20)):
                    data.write(part)
                if data.tell() <= limit:
                    return data.getvalue()
        raise self.fault(f"has {says}; more than {limit:,} cannot be right for this file")


@contextmanager
def opened(source: Path | Member) -> Iterator[list[Member]]:
    """The files of a folder, a zip or a tar (plain, gzip, bzip2, xz), as stored, or the one file that it is.

    source: a path, or an archive among the members of another, which is read into memory. Hidden files and macOS's
    companions are left out. Raises DataError for what cannot be read, and for an archive that is encrypted, holds
    links, climbs out of itself, or claims absurd sizes.
    """
    where = source.where if isinstance(source, Member) else shown(source)
    with ExitStack() as stack:
        with told(where):
            if isinstance(source, Member):
                members = _inside(io.BytesIO(source.read(MAX_MEMBER)), source, stack)
            elif source.is_dir():
                members = (member for member, _ in _files(source))
            else:
                alone, _ = next(_files(source))
                members = _inside(alone.open(stack), alone, stack)
            found = list(islice(members, MAX_MEMBERS + 1))
        if len(found) > MAX_MEMBERS:
            raise DataError(f"{where}: holds over {MAX_MEMBERS:,} files; give the data set alone")
        yield _unpacked_names(found)


def _unpacked_names(members: list[Member]) -> list[Member]:
    """The members, with x.csv in place of x.csv.gz where it does not lie beside."""
    names, found = {member.name for member in members}, []
    for member in members:
        plain, _, ending = member.name.rpartition(".")
        if ending.lower() not in ("gz", "bz2", "xz") or ARCHIVE.search(member.file):
            found.append(member)
        elif plain not in names:
            found.append(replace(member, name=plain))
    return found


def state(path: Path) -> str:
    """A checksum of the sizes and times (modified, changed) of a file, or of a folder's files but prepared ones.

    The time of change is set by the system at every write, so an edit that keeps size and date still shows.
    """
    digest = hashlib.sha256()
    with told(shown(path)):
        for member, status in _files(path):
            if not member.name.endswith((".npz", ".json", ".partial")):
                stamp = member.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                digest.update(repr(stamp).encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[Member, os.stat_result]]:
    """A file, or a folder's regular ones, sorted; links are followed, but never in a loop."""
    if not path.exists():
        raise DataError(f"{shown(path)}: does not exist; check the path")
    if path.is_file():
        yield _on_disk(path.name, path)
    elif not path.is_dir():
        raise DataError(f"{shown(path)}: is neither a file nor a folder")

    def fail(fault: OSError) -> None:
        raise DataError(f"{shown(fault.filename)}: cannot be read: {fault.strerror}") from fault

    seen: set[str] = set()
    for base, folders, files in os.walk(path, onerror=fail, followlinks=True) if path.is_dir() else ():
        real = os.path.realpath(base)
        folders[:] = [] if real in seen else sorted(name for name in folders if not _hidden(name))
        for file in [Path(base, name) for name in sorted(files) if real not in seen and not _hidden(name)]:
            with told(shown(file)):
                found = _on_disk(file.relative_to(path).as_posix(), file)
            if stat.S_ISREG(found[1].st_mode):
                yield found
        seen.add(real)


def _on_disk(name: str, path: Path) -> tuple[Member, os.stat_result]:
    status = path.stat()
    return Member(name, shown(path), status.st_size, lambda: open(path, "rb")), status


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


_Entry = tuple[str, str, int, Callable[[], Any]]  # name, kind, size, opener


def _inside(stream: IO[bytes], member: Member, stack: ExitStack) -> Iterator[Member]:
    """The files of an archive, or the one file that it is."""
    head = stream.read(512)
    stream.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _admitted(_zipped(stack.enter_context(zipfile.ZipFile(stream))), member.where)
    if head[257:262] != b"ustar":
        refuse_foreign(head, member.where)
        if member.file.endswith((".zip", ".npz")):
            raise zipfile.BadZipFile("it does not begin as a zip does")
        if not ARCHIVE.search(member.file):
            return iter([member])
    capped = cast(IO[bytes], _Capped(stream, member.where))
    archive = stack.enter_context(tarfile.open(fileobj=capped, mode="r:"))  # noqa: SIM115
    return _admitted(_tarred(archive, capped, member.where), member.where)


class _Capped:
    """The stream of a tar, which refuses the huge reads that a forged header makes tarfile ask for."""

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self.stream, self.where = stream, where
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int) -> bytes:
        if size > MAX_READ:
            raise DataError(f"{self.where}: is damaged: a header asks for {size:,} bytes; copy it again")
        return self.stream.read(size)


def _zipped(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in archive.infolist():
        kind = "folder" if info.is_dir() else "encrypted" if info.flag_bits & 1 else "file"
        kind = "link" if stat.S_ISLNK(info.external_attr >> 16) else kind
        yield info.filename, kind, info.file_size, partial(archive.open, info)


def _tarred(archive: tarfile.TarFile, stream: IO[bytes], where: str) -> Iterator[_Entry]:
    total = 0
    for info in archive:
        total += info.size
        if not 0 <= info.size <= MAX_MEMBER or total > MAX_TOTAL:
            claim = f"claims {info.size:,} bytes, or all members do together; that is none of the data sets"
            raise DataError(f"{where}, member {shown(info.name)}: {claim}")
        kind = "file" if info.isreg() else "folder" if info.isdir() else "link"
        yield info.name, kind, info.size, partial(archive.extractfile, info)
    # tarfile takes a file that ends between two members for whole; a whole one ends in blocks of zeros.
    stream.seek(archive.offset)
    if stream.read(512) != bytes(512):
        raise tarfile.ReadError("the end of the archive is missing")
    for _ in range(MAX_TOTAL // MAX_READ):  # to the end, where gzip, bzip2 and xz hold their checksum
        if not stream.read(MAX_READ):
            break


def _admitted(entries: Iterable[_Entry], where: str) -> Iterator[Member]:
    """The files among an archive's members; one that could do harm is refused with the whole archive."""
    refused = "; nothing was read: take the data set from a source that you trust"
    for raw, kind, size, opener in entries:
        parts = [part for part in raw.replace("\\", "/").split("/") if part != "."]
        if parts[:1] == [""] or ".." in parts or re.match("[A-Za-z]:", raw):
            raise DataError(f"{where}, member {shown(raw)}: its path leads out of the archive{refused}")
        name = "/".join(filter(None, parts))
        member = Member(name, f"{where}, member {shown(name)}", size, opener)
        if kind == "folder" or _hidden(name):
            continue
        if kind == "link":
            raise member.fault(f"is a link or a device{refused}")
        if kind == "encrypted":
            raise member.fault("is encrypted; unpack it with its password and give the folder")
        yield member
