"""Where the tests of lanes run: on a CUDA GPU if there is one, else in Triton's interpreter, which must be asked for
before Triton is imported."""

import os

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ.setdefault(
        "TRITON_DEFAULT_FP_FUSION", "1"
    )  # the default, said aloud, so that Triton does not warn
