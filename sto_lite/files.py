"""Files that are whole or not there, and folders that one process holds (chapter 6)."""

import contextlib
import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sto_lite.errors import RunError

WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 2.0)  # seconds between tries, five in all
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def expand(path: str | os.PathLike[str]) -> Path:
    """The path that a person wrote, in which ~ is the home folder; a shell leaves it in `--out=~/runs`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no home folder
        return Path(path)


def visible(folder: Path, pattern: str) -> list[Path]:
    """The paths in a folder that match a pattern, sorted, without what systems hide, such as macOS's `._x.json`."""
    hidden = re.compile(r"\.|__MACOSX$")
    paths = folder.glob(pattern)
    return sorted(p for p in paths if not any(map(hidden.match, p.relative_to(folder).parts)))


def patiently(action: Callable[..., Any], *arguments: Any, **settings: Any) -> None:
    """Do something to a file, again for some seconds while a scanner or a sync client holds it. Raises OSError if it
    cannot be done.
    """
    for wait in (*WAITS, None):
        try:
            action(*arguments, **settings)
            return
        except OSError as error:
            refused = isinstance(error, PermissionError) or error.errno == errno.EBUSY
            if not refused or wait is None:
                raise
            time.sleep(wait)


def remedy(error: OSError) -> str:
    """What helps against an error of writing."""
    if error.errno in FULL:
        return "make room"
    if isinstance(error, PermissionError) or error.errno == errno.EBUSY:
        return "close the program that holds it, or take a folder that you may write"
    return "take another folder"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a reader, or a crash, sees the old bytes or the new ones. Raises OSError if the
    file cannot be written; what stood there still does.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write whole files or nothing: the first takes its place when there is room for all. Raises OSError if one
    cannot be written; what stood there still does.
    """
    whole = {Path(os.path.realpath(path)): content for path, content in files.items()}  # a link stays one
    parts = {path: path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial") for path in whole}
    try:
        for path, part in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "xb") as file:
                file.write(whole[path])
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            patiently(os.replace, part, path)
    except BaseException:
        for part in parts.values():
            with contextlib.suppress(OSError):
                patiently(part.unlink, missing_ok=True)
        raise


def save(path: Path, content: bytes) -> None:
    """Write a whole file, or say in one message why not; a device or a pipe is written to as it is. Raises RunError
    if it cannot be written; what stood there still does.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            write_atomically(path, content)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}. What stood there is kept; {remedy(error)}, and "
            f"run the same command again"
        ) from error


def read(path: Path) -> bytes:
    """The bytes of a file that is there. Raises RunError if the disk does not give them; the file itself may be as
    good as ever.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror or error}. It may be whole, so keep it; see to the disk or the "
            f"permissions, and run the same command again"
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone. Raises RunError if another process holds it, or it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        told = f"cannot write into {folder}: {error.strerror or error}; {remedy(error)}"
        raise RunError(told) from error
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                told = f"another process is training into {folder}"
                raise RunError(f"{told}; wait for it, or take another folder") from error
            except OSError:  # this file system has no locks, as on some mounted drives
                yield
                return
        for part in folder.glob("*.????????.partial"):  # of a process that was killed while it wrote
            with contextlib.suppress(OSError):
                patiently(part.unlink, missing_ok=True)
        yield
