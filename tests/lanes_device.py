"""Where the tests of lanes run: in Triton's interpreter, which must be asked for before Triton is imported.

Also on a machine with a card: there, products in TF32 are further from float64 than these tests allow, and those
in full float32 spill and take half a minute each to compile. On a card the self-test holds the kernels to what the
ordinary path reaches (selftest.py, tools/gpu.py). TRITON_INTERPRET=0 leaves Triton's compiler to the tests of other
paths, as tests/test_graphs.py.
"""

import os

import torch

DEVICE = torch.device("cpu")
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault(
    "TRITON_DEFAULT_FP_FUSION", "1"
)  # the default, said aloud, so that Triton does not warn
