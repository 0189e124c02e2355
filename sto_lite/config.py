"""How a network is trained: the protocol, which travels inside checkpoints and records (chapter 6)."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from sto_lite.speed.precision import PRECISIONS


@dataclass(frozen=True)
class Config:
    """How a network is trained; the defaults are the paper's (Section 4.1).

    net: a name for resnet.build. epochs, batch_size: as said. lr: initial learning rate of SGD with Nesterov
    momentum. drop_at: fractions of the epochs at which lr is multiplied by drop_by. weight_decay: on all parameters.
    augment: crops and flips. seed: of weights, batches and gates. evaluate_every: epochs from one evaluation on the
    test splits to the next; the last epoch is always evaluated. precision: "float32", or "bf16" or "fp16", in which
    convolutions compute while weights, batch norm's statistics and losses stay float32.
    """

    net: str = "resnet32"
    epochs: int = 300
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    drop_at: tuple[float, ...] = (0.5, 0.75)
    drop_by: float = 0.1
    augment: bool = True
    seed: int = 0
    evaluate_every: int = 1
    precision: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "drop_at", tuple(self.drop_at))  # a command line gives a list
        for name in ("epochs", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1; {getattr(self, name)} is not")
        if not all(0 <= fraction <= 1 for fraction in self.drop_at):
            raise ValueError(f"drop_at holds fractions of the epochs, 0 to 1; {self.drop_at} does not")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.lr <= 0:
            raise ValueError(f"the learning rate is positive; {self.lr} is not")

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        # Rounded, since 0.55 × 100 is a little more than 55 in floating point, and the drop would come an epoch late.
        drops = sum(epoch >= round(fraction * self.epochs, 6) for fraction in self.drop_at)
        return self.lr * self.drop_by**drops


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as JSON has it, without what holds on this machine only, such as a path."""
    known = [field.name for field in dataclasses.fields(config) if not field.metadata.get("local")]
    return json.loads(json.dumps({name: getattr(config, name) for name in known}))
