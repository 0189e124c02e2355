"""Where a notebook's runs are kept, so that they outlive the runtime, and under which name (chapter 0).

A kept run is found again by all that makes it: a notebook whose cells are run again goes on with what it left, and
one that was changed, even in a function that a method calls, starts a run of its own.
"""

import dis
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from sto_lite.config import plain
from sto_lite.data import ImageSet
from sto_lite.errors import StoError
from sto_lite.files import expand

DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts Google Drive
KAGGLE = Path("/kaggle/working")  # what Kaggle keeps of a session
FOLDER = "sto-runs"


def folder() -> Path:
    """Where runs are kept: $STO_RUNS; else sto-runs on Colab's Drive, in Kaggle's working folder, or at home. Raises
    StoError if there is no home folder, or none that can be written.
    """
    if chosen := os.environ.get("STO_RUNS"):
        return expand(chosen)
    home = next((place for place in (DRIVE, KAGGLE) if place.is_dir()), expand("~"))
    place = home / FOLDER
    if not home.is_dir() or not os.access(place if place.exists() else home, os.W_OK):
        raise StoError("there is no home folder to keep runs in; set STO_RUNS to a folder that you may write")
    return place


def where() -> str:
    """The same in words, for a notebook's first output: no path that names a user; raises as `folder`."""
    place = folder()
    if os.environ.get("STO_RUNS"):
        return "the folder that STO_RUNS names"
    if place.parent == DRIVE:
        return f"{FOLDER} on Google Drive"
    if place.parent == KAGGLE:
        return f"{FOLDER} in Kaggle's working folder, which lasts if you save the notebook's version"
    ends = ", which ends with this runtime; mount Google Drive first to keep them longer"
    return f"~/{FOLDER}{ends if 'google.colab' in sys.modules else ''}"


def digest(*settings: object) -> str:
    """Eight hexadecimal digits of all that makes a run: methods, configurations, image sets, and values as JSON knows
    them.

    A class that the notebook defines counts with its code. Raises TypeError if a setting is none of these.
    """
    return hashlib.sha256(json.dumps([_plain(s) for s in settings]).encode()).hexdigest()[:8]


def _plain(setting: object) -> Any:
    """A setting as JSON has it."""
    if isinstance(setting, ImageSet):
        return [setting.name, setting.fingerprint, setting.splits["train"].images.shape[-1]]
    if is_dataclass(setting) and not isinstance(setting, type):
        return [type(setting).__qualname__, plain(setting), list(_code(type(setting), set()))]
    return setting


def _code(thing: object, seen: set[int]) -> Iterator[str]:
    """What a function or class of the notebook does, with all that it uses from the notebook; in the same order."""
    if id(thing) in seen or getattr(thing, "__module__", "") != "__main__":
        return
    seen.add(id(thing))
    if isinstance(thing, type):
        for base in thing.__mro__[1:]:
            yield from _code(base, seen)
        places = ("__firstlineno__", "__static_attributes__")  # Python 3.13 says where a class stands
        for name, value in sorted((n, v) for n, v in vars(thing).items() if n not in places):
            value = getattr(value, "__func__", getattr(value, "fget", value))  # static methods, properties
            yield f"{name} {_value(value)}"
            yield from _code(value, seen)
    elif isinstance(thing, FunctionType):
        around = thing.__globals__
        used = [cell.cell_contents for cell in thing.__closure__ or ()]
        for code in _nested(thing.__code__):
            yield code.co_code.hex()
            yield from map(_value, code.co_consts)
            yield " ".join(code.co_names)
            loads = (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
            used += [around[name] for name in dict.fromkeys(loads) if name in around]
        for value in [*used, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]:
            yield _value(value)
            yield from _code(value, seen)


def _value(value: object) -> str:
    """A constant as text that is the same in every process; of anything else its type."""
    match value:
        case bool() | int() | float() | str() | bytes() | None:
            return repr(value)
        case tuple() | list():
            return f"[{', '.join(map(_value, value))}]"
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(_value, value)))}}}"
        case dict():
            return _value(list(value.items()))
        case _:
            return type(value).__name__


def _nested(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _nested(value)
