"""What a run is: its protocol and its images, which travel inside checkpoints and records (chapter 6).

Every field is an option of the command line, and its line below is the option's help. A field whose metadata says
"local" holds on this machine only, such as a path, and stays out of records.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from sto_lite.sets import PRECISIONS


@dataclass(frozen=True)
class Config:
    """How a network is trained; the defaults are the paper's (Section 4.1).

    net: resnet8, 14, 20, 32, 44, 50, 56, 110 (bottleneck), resnet110-basic, wrn20-2, or your package.module:FUNCTION.
    epochs: passes over the training images.
    batch_size: images a step.
    lr: initial learning rate of SGD with Nesterov momentum.
    momentum: of SGD.
    weight_decay: L2 penalty on all parameters.
    drop_at: fractions of the epochs at which the learning rate drops.
    drop_by: factor of the learning rate at each drop.
    augment: random crops and flips.
    seed: of weights, batches and gates.
    evaluate_every: epochs from one evaluation on the test splits to the next; the last is always evaluated.
    precision: float32, bf16 or fp16 (for GPUs without bf16), in which convolutions compute; weights, batch norm's
    statistics and losses stay float32.
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
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is a whole number from 0 to {2**32 - 1}; {self.seed} is not")
        if self.lr <= 0:
            raise ValueError(f"the learning rate is positive; {self.lr} is not")

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        drops = sum(epoch >= round(fraction * self.epochs, 6) for fraction in self.drop_at)
        return self.lr * self.drop_by**drops


@dataclass(frozen=True)
class Source:
    """Which images a run sees: the arguments of data.load.

    size: height and width of an image in pixels.
    limit: train on so many images; without it on all.
    subset: which draw of them, a seed.
    difficulty: of the synthetic faces, 0 to 2.
    label_noise: share of wrong training labels of the synthetic faces.
    votes: train on what ten people each saw (FER+), as shares of the classes, in place of FER-2013's labels; images
    without a vote for one of the seven are left out.
    """

    name: str
    size: int = 32
    limit: int | None = None
    difficulty: float = 1.0
    label_noise: float = 0.0
    subset: int = 0
    votes: bool = False


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as JSON has it, without what holds on this machine only."""
    known = [field.name for field in dataclasses.fields(config) if not field.metadata.get("local")]
    return json.loads(json.dumps({name: getattr(config, name) for name in known}))
