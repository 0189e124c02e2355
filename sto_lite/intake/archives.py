"""Read files out of a folder, a zip or a tar where they lie: nothing is ever unpacked to disk.

Whatever is wrong with a file or an archive becomes one `DataError` that names it.
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
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from sto_lite.errors import DataError, shown

MAX_MEMBERS = 200_000
MAX_MEMBER = 1 << 30  # bytes in one member of a tar
MAX_TOTAL = 4 << 30  # bytes in all members of a tar
_MAX_READ = 16 << 20  # bytes that tarfile may ask for at once
_TARS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_TAR_NAMES = (".tar", ".tgz", ".gz", ".tbz2", ".bz2", ".txz", ".xz")
# What the standard library's readers raise on damaged bytes.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what a reader raises about the bytes of `where` into one DataError."""
    try:
        yield
    except NotImplementedError as fault:
        raise DataError(f"{where}: cannot be read ({shown(fault)}); unpack it and give the folder") from fault
    except _DAMAGE as fault:
        if isinstance(fault, OSError) and fault.errno not in (None, errno.EINVAL):  # EINVAL: a forged offset
            raise DataError(f"{where}: cannot be read: {fault.strerror}") from fault
        reason = shown(fault) or type(fault).__name__
        raise DataError(f"{where}: is damaged or cut short ({reason}); download or copy it again") from fault


@dataclass(frozen=True)
class Member:
    """One file: its `name` below the folder or archive, `where` as messages call it, its `size` in bytes."""

    name: str
    where: str
    size: int
    opener: Callable[[], IO[bytes]]

    @contextmanager
    def open(self, limit: int) -> Iterator[IO[bytes]]:
        """The member's bytes as a stream. Raises DataError when it has more than `limit` bytes."""
        if self.size > limit:
            raise DataError(
                f"{self.where}: has {self.size:,} bytes; more than {limit:,} cannot be right for this file"
            )
        with ExitStack() as stack:
            with told(self.where):
                raw = stack.enter_context(self.opener())
                stream = cast(IO[bytes], stack.enter_context(io.BufferedReader(cast(Any, raw), 1 << 18)))
            yield stream

    def read(self, limit: int) -> bytes:
        """All bytes of the member. Raises DataError as open does, and for damaged bytes."""
        whole = io.BytesIO()
        with self.open(limit) as stream, told(self.where):
            while part := stream.read(1 << 20):  # a tar refuses to give much at once
                if whole.tell() + len(part) > limit:
                    raise ValueError("it has more bytes than it claims")
                whole.write(part)
        return whole.getvalue()


@contextmanager
def opened(path: Path) -> Iterator[list[Member]]:
    """The files of a folder, a zip or a tar (plain, gzip, bzip2, xz), as stored, or the one file at `path`.

    Hidden files and macOS's companions are left out. Raises DataError for what cannot be read, and for an
    archive that is encrypted, holds links, climbs out of itself, or claims absurd sizes.
    """
    where = shown(path)
    with ExitStack() as stack:
        with told(where):
            kind = _kind(path)
            if kind == "folder":
                members = [_on_disk(name, file, status.st_size) for name, file, status in _walk(path)]
            elif kind == "zip":
                members = _zip_members(stack.enter_context(zipfile.ZipFile(path)), where)
            elif kind == "tar":
                members = _tar_members(_open_tar(stack.enter_context(open(path, "rb")), stack), where)
            else:
                members = [_on_disk(path.name, path, path.stat().st_size)]
        yield members


@contextmanager
def inside(member: Member) -> Iterator[list[Member]]:
    """The files of a zip or tar that is itself a member; it is read into memory. Raises DataError as opened does."""
    data = io.BytesIO(member.read(MAX_MEMBER))
    with ExitStack() as stack:
        with told(member.where):
            if _is_zip(data.read(4), member.name):
                members = _zip_members(stack.enter_context(zipfile.ZipFile(data)), member.where)
            else:
                members = _tar_members(_open_tar(data, stack), member.where)
        yield members


def state(path: Path, suffixes: tuple[str, ...]) -> str:
    """Sizes and times (modified, changed) of a file, or of a folder's files with these suffixes, as one text.

    The time of change is set by the system at every write, so an edit that keeps size and date still shows.
    """
    with told(shown(path)):
        if _kind(path) != "folder":
            return _stamp(path.stat())
        digest = hashlib.sha256()
        for name, _, status in _walk(path):
            if name.lower().endswith(suffixes):
                digest.update(f"{name}\n{_stamp(status)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _kind(path: Path) -> str:
    """What `path` is, by its first bytes, else by its name: folder, zip, tar or file."""
    if not path.exists():
        raise DataError(f"{shown(path)}: does not exist; check the path")
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise DataError(f"{shown(path)}: is neither a file nor a folder")
    with open(path, "rb") as file:
        head = file.read(512)
    if _is_zip(head, path.name):
        return "zip"
    if head[257:262] == b"ustar" or head.startswith(tuple(_TARS)) or path.name.lower().endswith(_TAR_NAMES):
        return "tar"
    return "file"


def _is_zip(head: bytes, name: str) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or name.lower().endswith((".zip", ".npz"))


def _on_disk(name: str, path: Path, size: int) -> Member:
    return Member(name, shown(path), size, lambda: open(path, "rb"))


def _walk(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """(name, path, status) of a folder's regular files, sorted; links are followed, but never in a loop."""

    def fail(fault: OSError) -> None:
        raise DataError(f"{shown(fault.filename)}: cannot be read: {fault.strerror}") from fault

    seen: set[str] = set()
    count = 0
    for base, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = [] if real in seen else sorted(f for f in folders if not _hidden(f))
        if real in seen:
            continue
        seen.add(real)
        for file in sorted(f for f in files if not _hidden(f)):
            path = Path(base, file)
            with told(shown(path)):
                status = path.stat()
            if stat.S_ISREG(status.st_mode):
                count += 1
                if count > MAX_MEMBERS:
                    raise DataError(
                        f"{shown(folder)}: holds over {MAX_MEMBERS:,} files; give the data set's own folder"
                    )
                yield path.relative_to(folder).as_posix(), path, status


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _member_name(raw: str, is_link: bool, where: str) -> str:
    """A member's name with "/" between its parts. Raises DataError for a link or a path that leads out."""
    parts = [part for part in raw.replace("\\", "/").split("/") if part != "."]
    refused = "; nothing was read: take the data set from a source that you trust"
    if is_link:
        raise DataError(f"{where}, member {shown(raw)}: is a link or a device{refused}")
    if parts[:1] == [""] or ".." in parts or re.match("[A-Za-z]:", raw):
        raise DataError(f"{where}, member {shown(raw)}: its path leads out of the archive{refused}")
    return "/".join(part for part in parts if part)


def _zip_members(archive: zipfile.ZipFile, where: str) -> list[Member]:
    members = []
    for info in archive.infolist():
        name = _member_name(info.filename, stat.S_ISLNK(info.external_attr >> 16), where)
        if info.is_dir() or _hidden(name):
            continue
        label = f"{where}, member {shown(name)}"
        if info.flag_bits & 1:
            raise DataError(f"{label}: is encrypted; unpack it with its password and give the folder")
        members.append(Member(name, label, info.file_size, lambda info=info: archive.open(info)))  # type: ignore[misc]
    return _counted(members, where)


class _Capped:
    """A stream for tarfile that refuses the huge reads which a forged header can ask for."""

    def __init__(self, stream: Any) -> None:
        self.seek, self.tell, self.stream = stream.seek, stream.tell, stream

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise tarfile.ReadError(f"a header asks for {size:,} bytes")
        return cast(bytes, self.stream.read(size))


def _open_tar(file: IO[bytes], stack: ExitStack) -> tarfile.TarFile:
    file.seek(0)
    head = file.read(6)
    file.seek(0)
    opener = next((opener for magic, opener in _TARS.items() if head.startswith(magic)), None)
    stream = _Capped(stack.enter_context(opener(file, "rb")) if opener else file)
    return stack.enter_context(tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:"))


def _tar_members(archive: tarfile.TarFile, where: str) -> list[Member]:
    members: list[Member] = []
    total = 0
    for info in archive:
        name = _member_name(info.name, not (info.isreg() or info.isdir()), where)
        label = f"{where}, member {shown(name)}"
        total += info.size
        if not 0 <= info.size <= MAX_MEMBER or total > MAX_TOTAL:
            raise DataError(
                f"{label}: claims {info.size:,} bytes, or all members do together; that is none of the data sets"
            )
        if info.isreg() and not _hidden(name):
            opener = cast(Callable[[], IO[bytes]], lambda info=info: archive.extractfile(info))
            members.append(Member(name, label, info.size, opener))
            _counted(members, where)
    # tarfile takes a file that ends between two members for whole; a whole one ends in blocks of zeros.
    stream = cast(IO[bytes], archive.fileobj)
    stream.seek(archive.offset)
    if stream.read(512) != bytes(512):
        raise tarfile.ReadError("the end of the archive is missing")
    for _ in range(MAX_TOTAL // _MAX_READ):  # to the end, where gzip, bzip2 and xz hold their checksum
        if not stream.read(_MAX_READ):
            break
    return members


def _counted(members: list[Member], where: str) -> list[Member]:
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{where}: holds more than {MAX_MEMBERS:,} files; that is none of the data sets")
    return members
