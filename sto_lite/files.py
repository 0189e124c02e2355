"""Files that are whole or not there, and folders that one process holds (chapter 6)."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from sto_lite.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a reader, or a crash, sees the old bytes or the new ones.

    Raises:
        OSError: the file cannot be written; what stood there still does.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write whole files or nothing: the first takes its place when there is room for all.

    Raises:
        OSError: one cannot be written; what stood there still does.
    """
    parts = {path: path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial") for path in files}
    try:
        for path, part in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "xb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            os.replace(part, path)
    except BaseException:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone.

    Raises:
        RunError: another process holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise RunError(f"cannot write into {folder}: {error.strerror or error}") from error
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"another process is training into {folder}; wait for it, or take another folder"
                ) from error
            except OSError:  # this file system has no locks, as on some mounted drives
                yield
                return
        for part in folder.glob("*.partial"):  # of a process that was killed while it wrote
            part.unlink(missing_ok=True)
        yield
