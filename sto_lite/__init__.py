"""The finished code of the book *Student-Teacher Oneness*; every module names the chapter that explains it."""

import importlib
from typing import Any

__version__ = "0.1.0"


def load(run: Any, device: Any = "cpu") -> Any:
    """The network of a finished run, ready for pictures: `sto_lite.take.load`, imported when it is called."""
    return importlib.import_module("sto_lite.take").load(run, device)
