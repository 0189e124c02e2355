"""What a training step costs, counted and not timed (chapter 7): multiply-adds, operations, bytes, memory."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sto_lite.methods import Step


def multiply_adds(run: Callable[[], object]) -> int:
    """Multiply-adds of all convolutions and products of matrices that run, backward passes included.

    A convolution costs as much again for the gradient of its weights, and as much again for that of its input.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


class Traffic(TorchDispatchMode):
    """Counts operations, views aside, and the bytes that they read and write if each does so once.

    On a GPU an operation is a launch or a few. Bytes over the copy bandwidth is a floor for the time of a step.
    On a CPU, where an operation is over when the call is, `seconds` has the time of each by its name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0
        self.seconds: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        if not func.is_view and "detach" not in func.name():
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.operations += 1
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def kept_bytes(weights: Iterable[Tensor], step: Callable[[], Step]) -> int:
    """Bytes that the forward pass keeps for the backward pass besides the weights, each memory once."""
    kept: dict[int, int] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in weights}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = step()
    assert result.loss.requires_grad
    return sum(size for address, size in kept.items() if address not in known)


def launches(step: Callable[[], object]) -> tuple[int, dict[str, float]]:
    """Launches of a step on the GPU, a recorded graph being one, and the seconds of each kernel by its name."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        torch.cuda.synchronize()
    events = profiler.key_averages()
    seconds = {event.key: 1e-6 * event.self_device_time_total for event in events}
    return sum(event.count for event in events if "Launch" in event.key), seconds


def shares(seconds: dict[str, float], most: int = 8) -> dict[str, float]:
    """The operations that take most of a step, each with its share of the whole."""
    total = sum(seconds.values()) or 1.0
    return {name: seconds[name] / total for name in sorted(seconds, key=lambda n: -seconds[n])[:most]}
