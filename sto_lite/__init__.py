"""The finished code of the book *Student-Teacher Oneness*; every module names the chapter that explains it."""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# A thread that waits for the others spins before it sleeps, by default for milliseconds. Nothing is lost where the
# cores are free; where something else takes one of them, a training of seconds takes minutes. PyTorch reads this when
# it is imported; a person's own setting wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def load(run: Any, device: Any = "cpu") -> Any:
    """The network of a finished run, ready for pictures: `sto_lite.take.load`, imported when it is called."""
    return importlib.import_module("sto_lite.take").load(run, device)
