"""How a kernel is cut into programs: a default that every card runs, and what was measured on some."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TUNED = Path(__file__).with_name("tuned.json")


@dataclass(frozen=True)
class Tile:
    """pixels: of a tile. programs: for each lane, at most. warps, stages: of a program."""

    pixels: int
    programs: int
    warps: int = 4
    stages: int = 1


@dataclass(frozen=True)
class Shape:
    """What a kernel's tile depends on. ci, co: channels of input and output. taps: 9 or 1. stride: 1 or 2."""

    kernel: str
    ci: int
    co: int
    taps: int = 9
    stride: int = 1

    @property
    def key(self) -> str:
        """The name in the table of tuned tiles."""
        return f"{self.kernel} {self.ci} {self.co} {self.taps} {self.stride}"

    @property
    def default(self) -> Tile:
        """A tile whose registers and shared memory suffice on every card (tests/test_lanes_compiled.py)."""
        widest = max(self.ci, self.co)
        if self.kernel in ("weights", "stem_weights"):
            return Tile(64 if widest <= 64 else 32, {16: 64, 32: 32}.get(widest, 16))
        if self.kernel in ("activate", "sums"):
            return Tile((4096 if self.kernel == "activate" else 2048) // self.co, 64)
        # Four warps would spill where a gradient's mask is added to nine products of 64 channels.
        warps = 8 if self.kernel == "inputs" and self.taps == 9 and min(self.ci, self.co) >= 64 else 4
        return Tile(128 if widest <= 32 else 64, 128 if widest <= 32 else 64, warps)


@lru_cache
def tuned(card: str, path: Path = TUNED) -> dict[str, Tile]:
    """The measured tiles of a card, by its name; empty for a card that was not measured."""
    tables = json.loads(path.read_text()) if path.exists() else {}
    return {key: Tile(*values) for key, values in tables.get(card, {}).items()}
