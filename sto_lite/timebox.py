"""Runs that fit into the time there is (chapter 8): no epoch is begun that would not be done in time."""

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tqdm.auto import tqdm

from sto_lite.errors import StoError

TIME_UP = 75  # exit status of a command whose box is used up while there is more to do (EX_TEMPFAIL)
MARGIN = 1.1  # an epoch may take a little longer than the ones before it
UNITS = {"s": 1, "m": 60, "h": 3600}


class TimeUp(StoError):
    """A run stopped because its time box is used up; its checkpoint is kept, and the same call goes on from there."""


class TimeBox:
    """The time that a command may still take.

    seconds: how much. since: when it began, on the clock; None is now. clock: seconds that only grow; a test may hand
    in its own.
    """

    def __init__(
        self, seconds: float, since: float | None = None, clock: Callable[[], float] = time.monotonic
    ):
        if not seconds > 0:
            raise ValueError(f"a time box is longer than nothing; {seconds:g} seconds are not")
        self.clock, self.end = clock, (clock() if since is None else since) + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, below 0 when they are used up."""
        return self.end - self.clock()

    def holds(self, seconds: float) -> bool:
        """Whether what takes so long would be done in time."""
        return seconds * MARGIN <= self.left


@dataclass
class Costs:
    """Seconds that an epoch of training takes, an evaluation, and a checkpoint; 0 where that is not known."""

    train: float = 0.0
    test: float = 0.0
    save: float = 0.0

    @classmethod
    def of_history(cls, history: Mapping[str, Sequence[float]], since: int = 0) -> "Costs":
        """The medians of the last epochs, of those from epoch `since` on, as a machine may halt for a moment."""
        tests = history.get("test_seconds", [])
        at = history.get("test_epoch", [])[-len(tests) :]
        tests = [seconds for seconds, epoch in zip(tests, at, strict=True) if epoch > since] if tests else []
        lasts = history.get("seconds", [])[since:][-5:], tests[-5:]
        return cls(*(statistics.median(last) if last else 0.0 for last in lasts))

    def of(self, epochs: int, evaluations: int) -> float:
        """Seconds for so much more, with one checkpoint at the end."""
        return epochs * self.train + evaluations * self.test + self.save


def read_duration(text: str) -> float:
    """Seconds from "90s", "9m", "1h30m" or a plain number of seconds. Raises ValueError if it is none of these, or
    nothing.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?) ?([smh]?)", text)
    total = sum(float(amount) * UNITS[unit or "s"] for amount, unit in parts)
    whole = "".join(amount + unit for amount, unit in parts) == text.replace(" ", "")
    if not whole or not total > 0 or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise ValueError(f"a time is written as 90s, 9m or 1h30m; {text!r} is not")
    return total


def tell_duration(seconds: float) -> str:
    """Seconds in words: "40 s", "12 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def foretell(whole: int, runs: int, seconds: float) -> str:
    """What will be finished in so many seconds, in words."""
    left = tell_duration(seconds)
    return f"at the measured speed {whole} of {runs} runs will be finished in the {left} left"


def whole_runs(left: Sequence[float], seconds: float) -> int:
    """How many runs, in their order, would be finished in so many seconds if only they went on."""
    return sum(end <= seconds for end in accumulate(left))


def progress_bar(total: int, done: int, show: bool | None, unit: str = "step") -> Any:
    """A bar over all steps of a run, or other units; by default in a terminal or a notebook, and not in CI."""
    if show is None:
        watched = sys.stderr.isatty() or ("ipykernel" in sys.modules and not os.environ.get("STO_BOOK"))
        show = watched and not os.environ.get("CI")
    return tqdm(total=total, initial=done, disable=not show, unit=unit, dynamic_ncols=True)
