"""What a training step costs, counted and not timed (chapter 7): multiply-adds, operations, bytes, memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sto_lite.methods import Step


@contextmanager
def multiply_adds(model: nn.Module) -> Iterator[list[int]]:
    """Multiply-adds of forward and backward passes of what runs inside; one entry a call of a layer.

    A convolution or linear layer costs as much again for the gradient of its weights, and as much again for that of
    its input, where these are wanted. All else is not counted.
    """
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        forward = weight.numel() * output.numel() // weight.shape[0]
        gradients = (weight.requires_grad + inputs[0].requires_grad) if torch.is_grad_enabled() else 0
        counts.append(forward * (1 + gradients))

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class Traffic(TorchDispatchMode):
    """Counts operations, views aside, and the bytes that they read and write if each does so once.

    On a GPU an operation is a launch or a few. Bytes over the copy bandwidth is a floor for the time of a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "detach" not in func.name():
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.operations += 1
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def kept_bytes(model: nn.Module, step: Callable[[], Step]) -> int:
    """Bytes that the forward pass keeps for the backward pass besides the weights, each memory once."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = step()
    assert result.loss.requires_grad
    return sum(size for address, size in kept.items() if address not in weights)
