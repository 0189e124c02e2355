"""A trained network without sto_lite: pixels in, logits and probabilities out, as ONNX (chapter 6)."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from sto_lite.errors import RunError
from sto_lite.take import TakenNetwork

NEEDED = ("onnx", "onnxscript")


class FromPixels(nn.Module):
    """A network with its normalisation: (N, 1 or 3, H, W) uint8 -> logits and probabilities, (N, classes) each."""

    scale: Tensor
    shift: Tensor

    def __init__(self, taken: TakenNetwork):
        super().__init__()
        self.network = taken.network
        self.register_buffer("scale", (1 / (255 * taken.std))[:, None, None])
        self.register_buffer("shift", (-taken.mean / taken.std)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Gray is repeated to three channels, as in training."""
        normalised = images.float() * self.scale + self.shift
        logits = self.network(normalised.expand(-1, 3, -1, -1))
        return logits, logits.softmax(dim=1)


def to_onnx(taken: TakenNetwork) -> bytes:
    """The network as an ONNX file, with any number of pictures at a time.

    Input "images": uint8 (N, 1 or 3, size, size), as `TakenNetwork.pixels` makes them. Outputs "logits" and
    "probabilities": float32 (N, classes). The description stands in the metadata under "sto_lite", the classes under
    "classes". Raises RunError if the packages for it are missing.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RunError(f"export needs {' and '.join(missing)}: pip install onnx onnxscript onnxruntime")
    example = torch.zeros(2, taken.channels, taken.size, taken.size, dtype=torch.uint8)
    with quietly():
        program = torch.onnx.export(
            FromPixels(taken).eval().cpu(),
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    program.model.metadata_props["sto_lite"] = json.dumps(taken.about)
    program.model.metadata_props["classes"] = json.dumps(taken.classes)
    import onnx

    file = io.BytesIO()
    onnx.save_model(program.model_proto, file)
    return file.getvalue()


@contextmanager
def quietly() -> Iterator[None]:
    """Without what the exporter says of its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
