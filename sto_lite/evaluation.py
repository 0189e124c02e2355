"""The error of a network on a test split, with its prediction for each image (chapter 6)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sto_lite.data import Batches, Split
from sto_lite.speed.precision import PRECISIONS


class Evaluation(NamedTuple):
    """error: % of images whose most probable class is not the label. predictions: (N,) int64. confidence: (N,)."""

    error: float
    predictions: Tensor
    confidence: Tensor


def evaluate(
    network: nn.Module,
    split: Split,
    mean_std: tuple[Tensor, Tensor],
    batch_size: int | None = None,
    precision: str = "float32",
) -> Evaluation:
    """Top-1 error of a network in eval mode, with the prediction and its probability for every image, in order."""
    device = next(network.parameters()).device
    return examine(network, test_batches(split, mean_std, device, batch_size), precision)


def test_batches(
    split: Split, mean_std: tuple[Tensor, Tensor], device: torch.device, batch_size: int | None = None
) -> Batches:
    """The images of a test split on the device, in batches of a size that suits the device."""
    batch_size = batch_size or (4096 if device.type == "cuda" else 512)
    return Batches(split, *mean_std, batch_size=batch_size, augment=False, device=device)


@torch.no_grad()
def examine(network: nn.Module, batches: Batches, precision: str = "float32") -> Evaluation:
    """`evaluate` on images that are on the device already."""
    device, dtype = batches.split.images.device.type, PRECISIONS[precision]
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        probabilities = torch.cat([network(x).softmax(dim=1) for x, _ in batches.in_order()])
    confidence, predictions = probabilities.cpu().max(dim=1)
    error = 100 * (predictions != batches.split.labels.cpu()).double().mean().item()
    return Evaluation(error, predictions, confidence)


def headline(name: str, test: Evaluation, history: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What a record says of a split: the last epoch's error, and beside it the best epoch's, which flatters.

    test: of the last epoch. history: errors (%) by epoch under "NAME_error", the epochs under "test_epoch".
    """
    errors = history[f"{name}_error"]
    best = min(range(len(errors)), key=errors.__getitem__)
    best_epoch = int(history["test_epoch"][best])
    return {"error": test.error, "best_error": min(errors[best], test.error), "best_epoch": best_epoch}
