"""CSV files and lists as people have them, read in parts by pandas; every fault is told with its line."""

import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any

from sto_lite.errors import DataError
from sto_lite.intake.members import Member, no_memory, refuse_foreign

_MAX_LINE = 1 << 16  # bytes
_ROWS = 1000  # read at once


class Table:
    """A table of text, with the separator that its first line has most of: a comma, a semicolon or a tab.

    Iterating gives the number and the fields of each line that is not empty, the first one too; spaces about a
    field are gone. `md5` is that of the bytes that were read. Every fault is a DataError.
    """

    def __init__(self, member: Member, limit: int, separator: str = "") -> None:
        self.member, self.limit, self.separator = member, limit, separator
        self.md5 = hashlib.md5(usedforsecurity=False)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """(line, fields). Lines may end in any way, and text may be UTF-8 or, with its mark, UTF-16."""
        import pandas as pd

        with self.member.open(self.limit) as stream:
            head = stream.peek(_MAX_LINE)[:_MAX_LINE]
            refuse_foreign(head, self.member.where)
            self.lines = _Lines(self, stream)
            first = re.split(b"[\r\n]", head, maxsplit=1)[0]
            separator = self.separator or max(",;\t", key=lambda sign: first.count(sign.encode()))
            encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
            if encoding == "utf-8" and b"\0" in head:
                raise DataError(
                    f"{self.member.where}, line 1: is no text, but binary data; download it again"
                )
            options: dict[str, Any] = {"header": None, "dtype": object, "na_filter": False, "sep": separator}
            options |= {"skip_blank_lines": False, "encoding": encoding, "encoding_errors": "replace"}
            try:
                with pd.read_csv(self.lines, chunksize=_ROWS, **options) as parts:
                    for part in parts:
                        for number, row in zip(part.index, part.to_numpy().tolist(), strict=True):
                            if any(fields := [field.strip() for field in row]):
                                yield number + 1, fields
            except ValueError as fault:  # what pandas' errors are
                raise self._said(str(fault)) from fault
            except MemoryError as fault:
                raise no_memory(self.member.where) from fault

    def fault(self, line: int, what: str) -> DataError:
        """The fault of a line; of a last line that does not end, also that the file seems cut short."""
        while self.lines.read(1 << 20):
            pass
        cut = line > self.lines.count and not self.lines.ended
        more = "; the file ends in this line, so it seems cut short: copy it again" if cut else ""
        return DataError(f"{self.member.where}, line {line}: {what}{more}")

    def _said(self, text: str) -> DataError:
        """A fault in pandas' words."""
        where = self.member.where
        if "out of memory" in text:
            return no_memory(where)
        if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", text):
            first, line, here = map(int, found.groups())
            return self.fault(line, f"has {here} columns, the first line has {first}")
        if found := re.search(r"EOF inside string starting at row (\d+)", text):
            return self.fault(int(found[1]) + 1, "has a quotation mark that nothing closes")
        if "No columns" in text:
            return DataError(f"{where}: has no lines but empty ones; copy or download it again")
        return DataError(f"{where}: is no table of text ({text.strip()}); copy it again")


class _Lines(io.RawIOBase):
    """A stream that counts its line ends, and refuses lines that no data set has."""

    def __init__(self, table: Table, stream: io.BufferedReader) -> None:
        self.table, self.stream, self.count, self.open, self.ended = table, stream, 0, 0, True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.stream.read1(len(buffer))
        buffer[: len(part)] = part
        self.table.md5.update(part)
        newest = max(part.rfind(b"\n"), part.rfind(b"\r"))
        self.open = len(part) - newest - 1 if newest >= 0 else self.open + len(part)
        self.count += part.count(b"\n")
        self.ended = not self.open
        if self.open > _MAX_LINE:
            line = f"{self.table.member.where}, line {self.count + 1}"
            raise DataError(f"{line}: is longer than {_MAX_LINE:,} bytes; so this is none of the data sets")
        return len(part)
