"""How large a notebook's runs are: the one place that reads ``STO_SCALE``.

``smoke``: about a minute on two CPU cores; shows that the mechanism works, and is no result.
``colab``: minutes on one small GPU.
``paper``: the paper's protocol (300 epochs, all images), hours on one GPU.

Without ``STO_SCALE`` the hardware decides: ``colab`` with a CUDA GPU, ``smoke`` without one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from textwrap import fill
from typing import Any, TypeVar

import torch

from sto_lite import plots
from sto_lite.errors import StoError

T = TypeVar("T")
SCALES = ("smoke", "colab", "paper")
DATA = {"faces": "synthetic faces", "fer2013": "FER-2013", "rafdb": "RAF-DB", "cifar100": "CIFAR-100"}
_AS_COLAB: Any = object()  # "not given", because None is a value (for instance no limit on the images)


@dataclass(frozen=True)
class Scale:
    """The scale of a notebook's runs, the device that they run on, and the seed that they start from."""

    name: str
    device: torch.device
    seed: int = 0

    def pick(self, *, smoke: T, colab: T, paper: T = _AS_COLAB) -> T:
        """The value for this scale; at ``paper``, colab's value where none is given. None is a value too."""
        values = {"smoke": smoke, "colab": colab, "paper": colab if paper is _AS_COLAB else paper}
        return values[self.name]

    def generator(self, offset: int = 0) -> torch.Generator:
        """A fresh CPU generator seeded with ``seed + offset``; the same call gives the same numbers again."""
        return torch.Generator().manual_seed(self.seed + offset)


def begin(
    chapter: str, minutes: Mapping[str, float] | None = None, data: str = "faces", seed: int = 0
) -> Scale:
    """Start a notebook: read the scale, pick the device, set the figure style, print what to expect.

    Args:
        chapter: number and title, as "3 Stochastic depth".
        minutes: time that the whole notebook takes, by scale name; a scale that is missing was not timed.
        data: name of the data set, as in ``data.load``; "records" where nothing is trained.
        seed: where ``Scale.generator`` starts.

    Raises:
        StoError: ``STO_SCALE`` holds something other than smoke, colab or paper.
        ValueError: ``minutes`` names a scale that does not exist.
    """
    if unknown := sorted(set(minutes or {}) - set(SCALES)):
        raise ValueError(f"minutes names {', '.join(unknown)}; the scales are {', '.join(SCALES)}.")
    found = torch.cuda.is_available()
    name, asked = chosen()
    if find_spec("matplotlib"):
        plots.style()
    print(_summary(chapter, name, asked, found, data, minutes or {}))
    return Scale(name, torch.device("cuda" if found else "cpu"), seed)


def chosen() -> tuple[str, bool]:
    """The scale, and whether ``STO_SCALE`` chose it; else the hardware does.

    Raises:
        StoError: ``STO_SCALE`` holds something other than smoke, colab or paper.
    """
    asked = os.environ.get("STO_SCALE", "").strip()
    if asked and asked not in SCALES:
        raise StoError(f"STO_SCALE is {asked!r}; set it to smoke, colab or paper, or unset it.")
    return asked or ("colab" if torch.cuda.is_available() else "smoke"), bool(asked)


def _summary(chapter: str, name: str, asked: bool, gpu: bool, data: str, minutes: Mapping[str, float]) -> str:
    """The paragraph that a notebook opens with."""
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if gpu else f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    why = "from STO_SCALE" if asked else f"chosen because {'a' if gpu else 'no'} CUDA GPU was found"
    if data == "records":  # nothing is trained, so scale and device make no difference
        text = f"Chapter {chapter}. It reads records of measured runs, and trains nothing. Time to expect: seconds."
        return fill(text, width=72)
    parts = [
        f"Chapter {chapter}. Scale: {name} ({why}). Device: {device}. Data: {DATA.get(data, data)}.",
        f"Time to expect: {_duration(minutes[name])}." if name in minutes else "",
        "Without a GPU this scale takes many times as long." if name != "smoke" and not gpu else "",
        "Figures at this scale show the mechanism; they are no results." if name == "smoke" else "",
    ]
    return fill(" ".join(part for part in parts if part), width=72)


def _duration(minutes: float) -> str:
    """Minutes in words: "under a minute", "about 4 minutes", "about 2.5 hours"."""
    if minutes < 1:
        return "under a minute"
    amount, unit = (minutes, "minute") if minutes < 90 else (minutes / 60, "hour")
    text = f"{amount:.0f}" if unit == "minute" else f"{amount:.2g}"
    return f"about {text} {unit}{'' if text == '1' else 's'}"
