"""A run's state on the device, and as a checkpoint holds it: weights, momentum, running statistics."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sto_lite.resnet import ResNet

ALIGNED = 16  # numbers; so that every tensor begins where 16 bytes may be loaded at once


class Place(NamedTuple):
    """Where a tensor lies in a run's row: first number, how many, and its shape in the model."""

    at: int
    size: int
    shape: torch.Size


def places(model: nn.Module) -> tuple[dict[str, Place], int]:
    """A place for every parameter, by name, and the length of a row."""
    found, at = {}, 0
    for name, parameter in model.named_parameters():
        found[name] = Place(at, parameter.numel(), parameter.shape)
        at += -(-parameter.numel() // ALIGNED) * ALIGNED
    return found, at


def flat(tensor: Tensor) -> Tensor:
    """A parameter as the kernels read it: a convolution's (C_out, C_in, h, w) as h, w, C_in, C_out."""
    return (tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor).reshape(-1)


def shaped(row: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of flat."""
    if len(shape) == 4:
        return row.view(shape[2], shape[3], shape[1], shape[0]).permute(3, 2, 0, 1)
    return row.view(shape)


class Rows:
    """The state of K runs of one network, a row each; what the kernels read and write.

    master, momentum: (K, length) float32. low: the weights in the precision of the convolutions. running: (K, 2·ΣC),
    mean and variance of every batch norm. passed: (K, norms), how many batches moved them.
    """

    def __init__(self, model: ResNet, runs: int, device: torch.device, dtype: torch.dtype):
        self.places, length = places(model)
        self.norms = {n: m.num_features for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
        self.master, self.momentum = (torch.zeros(runs, length, device=device) for _ in range(2))
        self.low = torch.zeros(runs, length, device=device, dtype=dtype)
        self.running = torch.zeros(runs, 2 * sum(self.norms.values()), device=device)
        self.passed = torch.zeros(runs, len(self.norms), dtype=torch.int32, device=device)

    def statistics(self, run: int, model: ResNet) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of a running statistic of the model and its place in a run's row."""
        at = 0
        for name, channels in self.norms.items():
            norm: nn.BatchNorm2d = model.get_submodule(name)  # type: ignore[assignment]
            for buffer in (norm.running_mean, norm.running_var):
                yield buffer, self.running[run, at : at + channels]  # type: ignore[misc]
                at += channels

    def counters(self, model: ResNet) -> list[Tensor]:
        """The model's counts of batches."""
        return [model.get_submodule(name).num_batches_tracked for name in self.norms]  # type: ignore[misc]

    @torch.no_grad()
    def load(self, run: int, model: ResNet, optimizer: torch.optim.Optimizer) -> None:
        """Take a run over from its model and its SGD optimiser; a momentum that is not there yet is zero."""
        for name, parameter in model.named_parameters():
            at, size, _ = self.places[name]
            buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
            for row, tensor in ((self.master, parameter), (self.low, parameter), (self.momentum, buffer)):
                row[run, at : at + size] = 0 if tensor is None else flat(tensor)
        for buffer, place in self.statistics(run, model):
            place.copy_(buffer)
        self.passed[run].copy_(torch.stack(self.counters(model)))

    @torch.no_grad()
    def store(self, run: int, model: ResNet, optimizer: torch.optim.Optimizer) -> None:
        """Hand a run back to its model and its optimiser, in place: the inverse of load."""
        for name, parameter in model.named_parameters():
            at, size, shape = self.places[name]
            parameter.copy_(shaped(self.master[run, at : at + size], shape))
            if optimizer.param_groups[0]["momentum"]:
                buffer = torch.empty_like(parameter).copy_(shaped(self.momentum[run, at : at + size], shape))
                optimizer.state[parameter]["momentum_buffer"] = buffer
        for buffer, place in self.statistics(run, model):
            buffer.copy_(place)
        for counter, count in zip(self.counters(model), self.passed[run].tolist(), strict=True):
            counter.fill_(count)
