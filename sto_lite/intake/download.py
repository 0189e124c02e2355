"""Fetch a published archive, and be sure that it is the published one (chapter 1)."""

import hashlib
import http.client
import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm.auto import tqdm

from sto_lite.errors import DataError, shown
from sto_lite.sets import Published

TIMEOUT = 30.0  # seconds without a byte
_MAX, _PART = 1 << 30, 1 << 20  # bytes in all, and at once


@contextmanager
def downloaded(published: Published, folder: Path) -> Iterator[Path]:
    """The published archive as a temporary file in `folder`, removed at the end; a terminal sees the progress.

    Raises DataError when it cannot be fetched or written, or its checksum is not the published one.
    """
    path = folder / f"{published.name}.{secrets.token_hex(4)}.partial"
    made = not folder.exists()
    digest = hashlib.md5(usedforsecurity=False)
    try:
        try:
            for part in _parts(published):
                folder.mkdir(parents=True, exist_ok=True)
                with open(path, "ab") as file:
                    file.write(part)
                digest.update(part)
        except OSError as fault:
            raise DataError(
                f"{shown(path)}: cannot be written: {fault.strerror or shown(fault)}; the archive must fit there, "
                f"or STO_DATA must name another folder"
            ) from fault
        if digest.hexdigest() != published.md5:
            raise DataError(
                f"{published.url}: the download has the checksum (md5) {digest.hexdigest()}, not {published.md5}, "
                f"so it was cut short or is another file; try again, or {_by_hand(published)}"
            )
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # by now it may hold the prepared file
                folder.rmdir()


def _parts(published: Published) -> Iterator[bytes]:
    """What the address gives, in parts."""
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT) as answer:
            size, length = 0, int(answer.headers.get("Content-Length") or 0)
            with tqdm(
                total=length or None, unit="B", unit_scale=True, desc=published.title, disable=None
            ) as bar:
                while part := answer.read(_PART):
                    size += len(part)
                    if max(size, length) > _MAX:
                        raise ValueError(f"it has more than {_MAX:,} bytes")
                    bar.update(len(part))
                    yield part
    except (OSError, ValueError, http.client.HTTPException) as fault:
        reason = shown(getattr(fault, "reason", "") or fault) or type(fault).__name__
        raise DataError(
            f"{published.url}: cannot be downloaded ({reason}); check the network and try again, or "
            f"{_by_hand(published)}"
        ) from fault


def _by_hand(published: Published) -> str:
    return f"get the archive by other means and run python -m sto_lite prepare {published.name} --from PATH"
