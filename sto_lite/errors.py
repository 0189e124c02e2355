"""What a user can get wrong. The command line prints such an error and ends with status 2; a notebook shows it."""


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
