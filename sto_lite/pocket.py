"""From a trained teacher to what one carries along: fused, shortened, in eight bits (chapter 10)."""

import base64
import copy
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sto_lite.errors import RunError
from sto_lite.export import quietly
from sto_lite.records import Record
from sto_lite.resnet import ResNet, build


def rebuild(record: Record) -> ResNet:
    """The network, in eval mode, whose weights a record holds: 16 bits each, in the order of its state."""
    net = build(record["config"]["net"], len(record["classes"]), generator=torch.Generator()).eval()
    halves = bytearray(base64.b64decode(record["weights"]))
    values = torch.frombuffer(halves, dtype=torch.float16).float()
    floats = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
    for tensor, part in zip(floats, values.split([t.numel() for t in floats]), strict=True):
        tensor.copy_(part.view_as(tensor))
    return net


def fuse_batch_norms(net: ResNet) -> ResNet:
    """A copy in eval mode whose convolutions do what their batch norms did: w γ / s, and a bias β - μ γ / s.

    s = √(σ² + ε), with the running mean μ and variance σ². Gates still work; fold Eq. 5 first, to deploy a teacher.
    """
    fused = copy.deepcopy(net).eval()
    for layers in [module for module in fused.modules() if isinstance(module, nn.Sequential)]:
        for i, norm in enumerate(layers):
            if isinstance(norm, nn.BatchNorm2d):
                conv = fuse_conv_bn_eval(layers[i - 1], norm)  # type: ignore[type-var]
                layers[i - 1], layers[i] = conv, nn.Identity()
    return fused


@torch.no_grad()
def recalibrate(net: ResNet, images: Tensor, gates: Tensor | Sequence[float] | None = None) -> ResNet:
    """A copy in eval mode whose running statistics are those of these images, under these gates.

    For a network that computes otherwise than it was trained to, such as one without some of its blocks. What a block
    with gate 0 holds stays as it is. images: (N, C, H, W) normalised training images, a few hundred, taken as one
    batch. gates: (L,), as in the network's forward.
    """
    renewed = copy.deepcopy(net).train()
    norms = [module for module in renewed.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    renewed(images, gates)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return renewed.eval()


def to_int8(model: bytes, images: Tensor) -> bytes:
    """An ONNX file of `export.to_onnx` with weights and activations in eight bits.

    ONNX Runtime's static quantisation: a scale per output channel of a weight, one per activation, chosen so that the
    ranges seen on the images, (N, channels, size, size) uint8, a few hundred of training, fit. model: float32, with
    the input "images". Raises RunError if onnxruntime is missing.
    """
    if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
        raise RunError(f"eight bits need {' and '.join(missing)}: pip install onnx onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        parts = iter(images.split(64))

        def get_next(self) -> dict | None:
            """The next images, as the network takes them."""
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    with tempfile.TemporaryDirectory() as folder, quietly():
        path = Path(folder) / "int8.onnx"
        quantize_static(onnx.load_from_string(model), path, Reader(), per_channel=True)
        return path.read_bytes()
