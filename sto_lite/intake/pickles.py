"""Read a Python pickle of plain data and NumPy arrays without running anything that it names (chapter 1).

A pickle is a program: it may import and call whatever it likes. Of the few names that an array's pickle has
in it, stand-ins are called here that only keep what they are given; any other name ends the reading. So no
code of a pickle's choice runs, not even NumPy's.
"""

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake.members import told

_MAX_STEPS = 4_000_000  # of the pickle's program; CIFAR-100 has some 400,000
_MAX_TUPLES = 1_000  # Python hashes nested tuples by recursion, and crashes on deep ones
_KNOWN = {
    "numpy.ndarray": "array",
    "numpy.core.multiarray._reconstruct": "array",
    "numpy.core.numeric._frombuffer": "buffer",
    "numpy.dtype": "type",
    "_codecs.encode": "encode",  # as Python 3 writes bytes for Python 2
}


def load(data: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle, which messages call `where`; its values may be ndarrays of whole numbers.

    Keys become str; other text that Python 2 wrote stays bytes. Raises DataError for what is damaged, is no
    dictionary, is more complicated than image data can be, or would import or call anything.
    """
    try:
        with told(
            where, "is no pickle of image data, or damaged or cut short ({}); download or copy it again"
        ):
            _bound(data)
            found = _Reader(io.BytesIO(data), encoding="bytes").load()
            if not isinstance(found, dict):
                raise ValueError(f"it holds a {type(found).__name__}, not a dictionary")
            return {_text(key): _value(value) for key, value in found.items()}
    except _Refused as fault:
        raise DataError(
            f"{where}: would call {shown(fault)}, of which image data has no need; nothing was run: "
            f"take the data set from a source that you trust"
        ) from None


class _Refused(DataError):
    """The pickle names something that image data has no need of."""


class _Kept:
    """What stands in for NumPy's things; its attributes are fixed, so that no pickle can tamper with it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        kind = _KNOWN.get(f"{module}.{name}".replace("numpy._core.", "numpy.core."))
        if kind is None:
            raise _Refused(f"{module}.{name}")
        return _encode if kind == "encode" else type(kind, (_Kept,), {})


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode for {encoding}")
    return text.encode("latin1")


def _bound(data: bytes) -> None:
    """Raise ValueError for a program that would take much memory or crash Python."""
    tuples = 0
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        tuples += "TUPLE" in code.name
        numbered = code.name in ("PUT", "LONG_BINPUT")  # where to keep an object: memory is taken up to there
        if step > _MAX_STEPS or tuples > _MAX_TUPLES or (numbered and int(argument or 0) > _MAX_STEPS):
            raise ValueError("it is more complicated than image data can be")


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _value(value: Any) -> Any:
    """An array of whole numbers in place of its stand-in; anything else as it is."""
    kind = type(value).__name__ if isinstance(value, _Kept) else ""
    if kind == "array":
        _, shape, dtype, fortran, raw = value.state
    elif kind == "buffer":
        raw, dtype, shape, order = value.arguments
        fortran = _text(order) == "F"
    else:
        return value
    code, byte_order = _text(dtype.arguments[0]), _text(dtype.state[1])
    if not re.fullmatch("[iu][1248]", code) or byte_order not in ("<", ">", "|", "="):
        raise ValueError(f"an array is of type {shown(code, 20)}, not of whole numbers")
    if not isinstance(raw, bytes | bytearray):
        raise ValueError("an array's bytes are missing")
    found = np.dtype(byte_order + code)
    if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * found.itemsize != len(raw):
        raise ValueError(f"an array of shape {shown(tuple(shape), 40)} has {len(raw):,} bytes")
    return np.frombuffer(raw, found).reshape(shape, order="F" if fortran else "C")
