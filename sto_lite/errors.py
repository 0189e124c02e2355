"""What a user can get wrong. The command line prints such an error and ends with status 2; a notebook shows it."""

import contextlib
import re
from collections.abc import Iterator
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


# Of a GPU, of the CPU, of the CPU on Windows, of a GPU's library.
MEMORY = re.compile("out of memory|allocate memory|not enough memory|ALLOC_FAILED")


@contextlib.contextmanager
def memory_told(out: Path | None) -> Iterator[None]:
    """Turn an end of the GPU's or the computer's memory into one RunError."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch has no class of its own for the CPU's
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not MEMORY.search(str(error)):
            raise
        kept = f". What {out} holds is kept, and goes on as it was begun" if out else ""
        raise RunError(
            f"there is not enough memory ({(str(error) or type(error).__name__).splitlines()[0]}): end what else "
            f"uses it, run fewer at a time (--jobs), or take a smaller --batch-size, --net, --size or --limit, in "
            f"another folder{kept}"
        ) from error
