"""What a user can get wrong. The command line prints such an error and ends with status 2; a notebook shows it."""

import codecs
import contextlib
import io
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path


class StoError(Exception):
    """A mistake that the user can mend; its message says what is wrong, where, and what to do."""


class DataError(StoError):
    """Image data is missing, damaged, or not what its name says."""


class RunError(StoError):
    """A run cannot start, resume or finish as asked."""


def shown(text: object, limit: int = 300) -> str:
    """`text` fit for a message: printable, and cut to `limit` characters."""
    line = "".join(c if c.isprintable() else "?" for c in str(text))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def suggest(wrong: str, known: Iterable[str]) -> str:
    """What may have been meant, to be added to a message; "" if nothing comes near."""
    near = get_close_matches(wrong, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """What an error says first, for a message; its kind, if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# -------------------------------------------------------------------------------------------------- memory

# Of a GPU, of the CPU, of the CPU on Windows, of a GPU's library.
MEMORY = re.compile("out of memory|allocate memory|not enough memory|ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up; PyTorch has no class of its own for the CPU's."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and bool(MEMORY.search(str(error))))


@contextlib.contextmanager
def memory_told(out: Path | None = None) -> Iterator[None]:
    """Turn an end of the GPU's or the computer's memory into one RunError; out: the run's folder, if it has one."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        kept = f". What {out} holds is kept, and goes on as it was begun" if out else ""
        raise RunError(
            f"there is not enough memory ({first_line(error)}): end what else uses it, run fewer at a time (--jobs), "
            f"or take a smaller --batch-size, --net, --size or --limit, in another folder{kept}"
        ) from error


# -------------------------------------------------------------------------------------------------- streams

IN_ASCII = dict.fromkeys("−–—", "-")
IN_ASCII |= {"λ": "lambda", "→": "->", "≥": ">=", "≤": "<=", "‖": "||", "…": "..."}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """What is printed in place of characters that a stream cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(c, c.encode("ascii", "backslashreplace").decode()) for c in lost), error.end


def print_anything() -> None:
    """Let standard output and error take every character, spelt out where their encoding lacks it.

    A stream that is redirected on Windows knows 256 characters, λ and − not among them; and a file's name may hold
    bytes that are no text anywhere.
    """
    codecs.register_error("sto-spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sto-spell")
