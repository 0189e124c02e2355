"""CSV files and lists as people have them, read by pandas; every fault is reported with its line."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

from sto_lite.errors import DataError, shown
from sto_lite.intake.members import Member, no_memory, refuse_foreign

_MAX_LINE = 1 << 16  # bytes
_ROWS = 1000  # made into Python's objects at once


class TextTable:
    """A table of text, with the separator that its first line has most of: a comma, a semicolon or a tab.

    Lines may end in any way, and text may be UTF-8 or, with its mark, UTF-16. Every fault is a DataError.
    """

    def __init__(self, member: Member, limit: int, separator: str = "") -> None:
        self.where, self.data, self.separator = member.where, member.read(limit), separator
        head = self.data[:_MAX_LINE]
        refuse_foreign(head, self.where)
        self.encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
        if self.encoding == "utf-8" and b"\0" in head:
            raise DataError(f"{self.where}, line 1: is no text, but binary data; download it again")
        for line in re.finditer(rb"[^\r\n]+", self.data):
            if line.end() - line.start() > _MAX_LINE:
                number = self.data.count(b"\n", 0, line.start()) + 1
                told = f"is longer than {_MAX_LINE:,} bytes; so this is none of the data sets"
                raise DataError(f"{self.where}, line {number}: {told}")

    @property
    def md5(self) -> str:
        """The checksum of the whole file."""
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Number and fields of each line that is not empty, the first one too; spaces about a field are gone."""
        import pandas as pd

        first = re.split(b"[\r\n]", self.data[:_MAX_LINE], maxsplit=1)[0]
        options: dict[str, Any] = dict.fromkeys(("na_filter", "skip_blank_lines"), False)
        options |= {"header": None, "dtype": object}
        options["sep"] = self.separator or max(",;\t", key=lambda sign: first.count(sign.encode()))
        options |= {"encoding": self.encoding, "encoding_errors": "replace", "chunksize": _ROWS}
        try:
            with pd.read_csv(io.BytesIO(self.data), **options) as parts:
                for part in parts:
                    for number, row in zip(part.index, part.to_numpy().tolist(), strict=True):
                        if any(fields := [field.strip() for field in row]):
                            yield number + 1, fields
        except MemoryError as fault:
            raise no_memory(self.where) from fault
        except ValueError as fault:  # what pandas' errors are
            raise self._said(str(fault)) from fault

    def pick(
        self, names: tuple[str, ...], hint: Callable[[set[str]], str]
    ) -> Iterator[tuple[int, list[str]]]:
        """Number of each line below the first one, and its fields in the columns of these `names`.

        Where one is missing, `hint` says what to do, by the names that are there in small letters.
        """
        columns: list[int] = []
        for line, row in self:
            if columns:
                yield line, [row[column] for column in columns]
                continue
            header = [name.lower() for name in row]
            for name in names:
                if header.count(name.lower()) != 1:
                    what = "has more than one column" if name.lower() in header else "has no column"
                    told = f"{what} '{name}' (it reads: {shown(', '.join(row), 80)}); {hint(set(header))}"
                    raise self.fault(line, told)
            columns = [header.index(name.lower()) for name in names]

    def fault(self, line: int, what: str) -> DataError:
        """The fault of a line; of a last line that does not end, also that the file seems cut short."""
        cut = line > self.data.count(b"\n") and not self.data.endswith((b"\n", b"\r"))
        more = "; the file ends in this line, so it seems cut short: copy it again" if cut else ""
        return DataError(f"{self.where}, line {line}: {what}{more}")

    def _said(self, text: str) -> DataError:
        """A fault in pandas' words."""
        if "out of memory" in text:
            return no_memory(self.where)
        if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", text):
            return self.fault(int(found[2]), f"has {found[3]} columns, the first line has {found[1]}")
        if found := re.search(r"EOF inside string starting at row (\d+)", text):
            return self.fault(int(found[1]) + 1, "has a quotation mark that nothing closes")
        if "No columns" in text:
            return DataError(f"{self.where}: has no lines but empty ones; copy or download it again")
        return DataError(f"{self.where}: is no table of text ({text.strip()}); copy it again")
