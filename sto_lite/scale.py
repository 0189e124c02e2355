"""How large a notebook's runs are: the one place that reads ``STO_SCALE``.

``smoke``: about a minute on two CPU cores; shows that the mechanism works, and is not a result.
``colab``: minutes on one small GPU.
``paper``: the paper's protocol (300 epochs, all images), hours on one GPU.

Without ``STO_SCALE`` the hardware decides: ``colab`` with a CUDA GPU, ``smoke`` without one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

import torch

from sto_lite import keeping, plots
from sto_lite.data import prepared
from sto_lite.errors import StoError
from sto_lite.sets import TITLES

T = TypeVar("T")
SCALES = ("smoke", "colab", "paper")
_AS_COLAB: Any = object()  # "not given", because None is a value (for instance no limit on the images)


@dataclass(frozen=True)
class Scale:
    """The scale of a notebook's runs, the device that they run on, the seed that they start from, and the data.

    data: name for `data.load` of the set that the notebook asked for, or "faces" where that is not prepared.
    """

    name: str
    device: torch.device
    seed: int = 0
    data: str = "faces"

    def pick(self, *, smoke: T, colab: T, paper: T = _AS_COLAB) -> T:
        """The value for this scale; at ``paper``, colab's value where none is given. None is a value too."""
        values = {"smoke": smoke, "colab": colab, "paper": colab if paper is _AS_COLAB else paper}
        return values[self.name]

    def generator(self, offset: int = 0) -> torch.Generator:
        """A fresh CPU generator seeded with ``seed + offset``; the same call gives the same numbers again."""
        return torch.Generator().manual_seed(self.seed + offset)

    def keep(self, name: str, *settings: object) -> Path | None:
        """A folder in which `fit(..., out=folder)` keeps a run and finds it again; None at smoke, where none is kept.

        name: what the folder's name begins with. settings: all that makes the run: method, configuration, image set.
        Others, or a class that was changed in the notebook, give another folder.
        """
        if self.name == "smoke":
            return None
        return keeping.folder() / f"{name}-{self.name}-{keeping.digest(*settings)}"


def begin(
    chapter: str,
    minutes: Mapping[str, float] | None = None,
    data: str = "faces",
    seed: int = 0,
    keeps: bool = False,
) -> Scale:
    """Start a notebook: read the scale, pick the device, set the figure style, print what to expect.

    Args:
        chapter: number and title, as "3 Stochastic depth".
        minutes: time that the whole notebook takes, by scale name; a scale that is missing was not timed.
        data: name of the data set, as in ``data.load``; where it is not prepared, synthetic faces stand in. "records"
            where nothing is trained, or with `keeps` in one cell alone.
        seed: where ``Scale.generator`` starts.
        keeps: the notebook keeps its runs, by ``Scale.keep``; then the first output says where.

    Raises:
        StoError: ``STO_SCALE`` holds something other than smoke, colab or paper; or runs can be kept nowhere.
        DataError: there is no such data set.
        ValueError: ``minutes`` names a scale that does not exist.
    """
    minutes = minutes or {}
    if unknown := sorted(set(minutes) - set(SCALES)):
        raise ValueError(f"minutes names {', '.join(unknown)}; the scales are {', '.join(SCALES)}.")
    gpu = torch.cuda.is_available()
    name, asked = chosen()
    if find_spec("matplotlib"):
        plots.style()
    device = torch.device("cuda" if gpu else "cpu")
    live = data == "records" and keeps
    if data == "records" and not keeps:  # nothing is trained, so scale and device make no difference
        said = [f"Chapter {chapter}. It reads records of measured runs, and trains nothing."]
        print(fill(" ".join([*said, "Time to expect: seconds."]), width=72))
        return Scale(name, device, seed)
    there = live or prepared(data)
    used = data if there and not live else "faces"
    why = "from STO_SCALE" if asked else f"chosen because {'a' if gpu else 'no'} CUDA GPU was found"
    threads = torch.get_num_threads()
    hardware = torch.cuda.get_device_name() if gpu else f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    said = [f"Chapter {chapter}. Scale: {name} ({why}). Device: {hardware}. Data: {TITLES.get(used, used)}."]
    if live:
        said = [f"Chapter {chapter}. It reads records of measured runs, and one cell trains:"]
        said.append(f"scale {name} ({why}), device {hardware}.")
    if not there:
        said.append(
            f"{TITLES.get(data, data)} is not prepared here: data/README.md says how to get it, and python -m "
            f"sto_lite prepare {data} brings it in."
        )
    if name in minutes:
        said.append(f"Time to expect: {_duration(minutes[name])}.")
    if name == "smoke" and live:
        said.append("What it trains at this scale shows the mechanism; it is not a result.")
    elif name == "smoke":
        said.append("Figures at this scale show the mechanism; they are not a result.")
    elif not gpu:
        said.append("Without a GPU this scale takes many times as long.")
    if keeps and name == "smoke":
        said.append("No run is kept.")
    elif keeps:
        said.append(
            f"Runs are kept in {keeping.where()}. After an interruption run the cells again: they go on."
        )
    print(fill(" ".join(said), width=72))
    return Scale(name, device, seed, used)


def chosen() -> tuple[str, bool]:
    """The scale, and whether ``STO_SCALE`` chose it; else the hardware does.

    Raises:
        StoError: ``STO_SCALE`` holds something other than smoke, colab or paper.
    """
    asked = os.environ.get("STO_SCALE", "").strip()
    if asked and asked not in SCALES:
        raise StoError(f"STO_SCALE is {asked!r}; set it to smoke, colab or paper, or unset it.")
    return asked or ("colab" if torch.cuda.is_available() else "smoke"), bool(asked)


def _duration(minutes: float) -> str:
    """Minutes in words: "under a minute", "about 4 minutes", "about 2.5 hours"."""
    if minutes < 1:
        return "under a minute"
    amount, unit = (minutes, "minute") if minutes < 90 else (minutes / 60, "hour")
    text = f"{amount:.0f}" if unit == "minute" or amount >= 10 else f"{amount:.2g}"
    return f"about {text} {unit}{'' if text == '1' else 's'}"
