"""One file among those that people give to `prepare`, and what can go wrong with its bytes.

Damage, another kind of file, a disk that fails and lack of memory are four different messages.
"""

import bz2
import errno
import gzip
import io
import lzma
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from sto_lite.errors import DataError, shown

MAX_READ = 16 << 20  # bytes that may be asked for at once
_COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
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
def told(where: str) -> Iterator[None]:
    """Turn what a reader raises about the bytes of `where` into one DataError."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as fault:
        raise no_memory(where) from fault
    except NotImplementedError as fault:
        raise DataError(f"{where}: cannot be read ({shown(fault)}); unpack it and give the folder") from fault
    except Exception as fault:  # on damaged bytes the standard library's readers raise errors of many kinds
        if isinstance(fault, OSError) and fault.errno not in (None, errno.EINVAL):  # EINVAL: a forged offset
            raise DataError(f"{where}: cannot be read: {fault.strerror}") from fault
        reason = shown(fault) or type(fault).__name__
        raise DataError(f"{where}: is damaged or cut short ({reason}); download or copy it again") from fault


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

    @contextmanager
    def open(self, limit: int) -> Iterator[io.BufferedReader]:
        """The member's bytes as a stream, which raises DataError for damage and after `limit` bytes."""
        self.bound(self.size, limit)
        with ExitStack() as stack:
            with told(self.where):
                stream = decompressed(stack.enter_context(self.opener()), stack)
            yield stack.enter_context(io.BufferedReader(Told(stream, self, limit), 1 << 18))

    def bound(self, size: int, limit: int) -> None:
        """Raise DataError for a size above the limit."""
        if size > limit:
            says = f"{size:,} bytes; more" if size == self.size else "more bytes than it says; more"
            raise DataError(f"{self.where}: has {says} than {limit:,} cannot be right for this file")

    def read(self, limit: int) -> bytes:
        """All bytes of the member. Raises DataError as `open` does."""
        with self.open(limit) as stream, told(self.where):
            return stream.read()


class Told(io.RawIOBase):
    """A stream whose faults are DataErrors, which zipfile cannot take for damage, and whose length is bounded.

    It also refuses the huge reads for which a forged header can make tarfile ask.
    """

    def __init__(self, stream: IO[bytes], member: Member, limit: int = sys.maxsize) -> None:
        self.stream, self.member, self.limit, self.size = stream, member, limit, 0
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable  # type: ignore[method-assign]

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, at most MAX_READ."""
        if size > MAX_READ:
            raise DataError(
                f"{self.member.where}: is damaged: a header asks for {size:,} bytes; copy it again"
            )
        return super().read(size) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the stream goes; gives how far."""
        with told(self.member.where):
            part = self.stream.read(len(buffer))
        buffer[: len(part)] = part
        self.size += len(part)
        self.member.bound(self.size, self.limit)
        return len(part)

    def close(self) -> None:
        """Close the stream too."""
        self.stream.close()
        super().close()


def decompressed(file: IO[bytes], stack: ExitStack) -> IO[bytes]:
    """The stream itself, or what it holds by gzip, bzip2 or xz, whatever its name says."""
    head = file.read(6)
    file.seek(0)
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    return cast(IO[bytes], stack.enter_context(opener(file, "rb"))) if opener else file
