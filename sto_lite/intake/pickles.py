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
from collections.abc import Sequence
from typing import Any

import numpy as np

from sto_lite.errors import DataError, shown
from sto_lite.intake.members import no_memory

_MAX_STEPS = 4_000_000  # of the pickle's program; CIFAR-100 has some 400,000
_MAX_TUPLES = 1_000  # Python hashes nested tuples by recursion, and crashes on deep ones
_ENCODING = {"latin1", "latin-1"}


class Refused(Exception):
    """The pickle names something that image data has no need of."""


def load(data: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle, which messages call `where`; its values may be ndarrays of whole numbers.

    Keys become str; other text that Python 2 wrote stays bytes. Raises DataError for what is damaged, is no
    dictionary, is more complicated than image data can be, or would import or call anything.
    """
    try:
        _bounded(data)
        found = _reader(data).load()
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not a dictionary")
        return {_text(key): _value(value) for key, value in found.items()}
    except Refused as fault:
        raise DataError(
            f"{where}: would call {shown(fault)}, of which image data has no need; nothing was run: "
            f"take the data set from a source that you trust"
        ) from None
    except MemoryError as fault:
        raise no_memory(where) from fault
    except Exception as fault:  # on damaged bytes pickle raises errors of many kinds
        told = isinstance(fault, ValueError | EOFError | pickle.UnpicklingError)
        reason = shown(fault) if told else type(fault).__name__
        raise DataError(
            f"{where}: is no pickle of image data, or damaged or cut short ({reason}); "
            f"download or copy it again"
        ) from fault


def _bounded(data: bytes) -> None:
    """Raise ValueError for a program that would take much memory or crash Python."""
    tuples = 0
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        tuples += "TUPLE" in code.name
        numbered = code.name in ("PUT", "LONG_BINPUT")  # where to keep an object: memory is taken up to there
        if step > _MAX_STEPS or tuples > _MAX_TUPLES or (numbered and int(argument or 0) > _MAX_STEPS):
            raise ValueError("it is more complicated than image data can be")


def _reader(data: bytes) -> pickle.Unpickler:
    """An unpickler with stand-ins of its own, so that no pickle can tamper with those of the next."""

    class Kept:
        def __init__(self, *arguments: Any) -> None:
            self.arguments, self.state = arguments, ()

        def __setstate__(self, state: Any) -> None:
            self.state = state

    class Encoded(Kept):  # as Python 3 writes bytes for Python 2
        def __new__(cls, text: str, encoding: str = "latin1") -> Any:
            if encoding not in _ENCODING:
                raise Refused(f"_codecs.encode for {encoding}")
            return text.encode("latin1")

    class Array(Kept):
        kind = "array"

    class Buffer(Kept):
        kind = "buffer"

    class Type(Kept):
        kind = "type"

    known = {("numpy", "ndarray"): Array, ("numpy", "dtype"): Type, ("_codecs", "encode"): Encoded}
    for core in ("numpy.core", "numpy._core"):
        known[f"{core}.multiarray", "_reconstruct"] = Array
        known[f"{core}.numeric", "_frombuffer"] = Buffer

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in known:
                raise Refused(f"{module}.{name}")
            return known[module, name]

    return Reader(io.BytesIO(data), encoding="bytes")


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _value(value: Any) -> Any:
    """An array in place of its stand-in; anything else as it is."""
    kind = getattr(value, "kind", "")
    if kind == "array":
        _, shape, dtype, fortran, raw = value.state
        return _array(raw, dtype, shape, "F" if fortran else "C")
    if kind == "buffer":
        raw, dtype, shape, order = value.arguments
        return _array(raw, dtype, shape, _text(order))
    return value


def _array(raw: Any, dtype: Any, shape: Sequence[int], order: Any) -> np.ndarray:
    """`raw` bytes as an array of whole numbers."""
    code, byte_order = _text(dtype.arguments[0]), _text(dtype.state[1])
    if not re.fullmatch("[iu][1248]", code) or byte_order not in ("<", ">", "|", "="):
        raise ValueError(f"an array is of type {shown(code, 20)}, not of whole numbers")
    if not isinstance(raw, bytes | bytearray):
        raise ValueError("an array's bytes are missing")
    kind = np.dtype(byte_order + code)
    if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError(f"an array of shape {shown(tuple(shape), 40)} has {len(raw):,} bytes")
    return np.frombuffer(raw, kind).reshape(shape, order=order)
