"""The arithmetic of a training step: float32, or 16 bits where that is enough (chapter 7)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sto_lite.errors import RunError
from sto_lite.methods import Step

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def in_float32(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """A forward hook, which can be pickled with its network: the layer's output as float32."""
    return output.float()


class Arithmetic:
    """The precision of a step: what runs in 16 bits, and the scaling that keeps fp16's small gradients from zero.
    Raises RunError for a GPU without bf16.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, precision: str
    ):
        self.optimizer, self.device, self.precision = optimizer, device, precision
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        if device.type == "cuda":
            if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
                raise RunError("this GPU does not compute in bf16; take precision fp16 or float32")
            # Try the library's algorithms for a shape once, keep the fastest.
            torch.backends.cudnn.benchmark = True
        for layer in model.modules() if precision != "float32" else ():
            if isinstance(layer, nn.Linear):  # so that losses see float32, on every device
                layer.register_forward_hook(in_float32)

    def update(self, step: Callable[[], Step]) -> Step:
        """Forward, backward, update; gives the Step back without its history."""
        result = self.gradients(step)
        self.apply()
        return result

    def gradients(self, step: Callable[[], Step]) -> Step:
        """Forward and backward; gives the Step back without its history."""
        with self.cast():
            result = step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(result.loss).backward()
        return Step(result.loss.detach(), result.logits.detach(), result.parts)

    def cast(self) -> torch.autocast:
        """The context in which a network computes in this precision."""
        # Without the cache, as what it keeps from one step must not be part of a recording of the next.
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)

    def apply(self) -> None:
        """The optimiser's step, by the gradients there are."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
