"""Chapter 7: what the compiler makes of the kernels for an A100 and an H100, on a machine without either."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = Path(__file__).parents[1] / "data" / "gpu" / "compiled.json"
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
PROGRAM = """
import json, sys
from sto_lite.fused import FusedSTO
from sto_lite.speed.lanes.compiling import examine, fingerprint, launches
found = {}  # of launches that share a name the first, as in the record
for net in sys.argv[1].split(","):
    for launch in launches(net, FusedSTO()):
        found.setdefault(launch.name, launch)
made = {}
for name in filter(None, sys.argv[2].split(",")):
    for capability in (80, 90):
        made[f"sm_{capability} {name}"] = examine(found[name], capability)
print(json.dumps([fingerprint(), list(found), made]))
"""
CHECKED = ["forward ST=1 CI=16 CO=16 T=9 BM=128 warps=4", "weights ST=1 CI=16 CO=16 T=9 G=128 BM=64 warps=4"]


def compiled(nets, names):
    """In a process of its own, as an interpreter that runs kernels cannot compile them."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROGRAM, ",".join(nets), ",".join(names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def made():
    pytest.importorskip("triton")
    return compiled(["resnet32", "wrn20-2", "resnet110"], CHECKED)


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text())


def assert_fit(name, figures):
    """Nothing spills, shared memory suffices, products use the matrix units, and loads are wide."""
    assert figures["stack"] == 0 and not figures.get("STL"), f"{name} spills"
    assert figures["registers"] <= 255
    assert figures["shared"] <= SHARED[name.split()[0]], f"{name} wants too much shared memory"
    kernel = name.split()[1]
    if kernel in ("forward", "weights", "inputs", "stem_forward", "stem_weights"):
        assert figures.get("HGMMA", 0) + figures.get("HMMA", 0) > 0, f"{name} has no matrix instructions"
    if kernel in ("forward", "weights", "inputs", "activate", "sums", "update"):
        assert figures.get("LDG.E.128", 0) > 0, f"{name} loads narrowly"


def test_what_compiles_here(made):
    """The two innermost kernels of stage 1, anew."""
    assert len(made[2]) == 2 * len(CHECKED)
    for name, figures in made[2].items():
        assert_fit(name, figures)


def test_the_record_holds_every_kernel_of_table_1(made, record):
    """For both cards, and of the kernels as they are: python tools/gpu.py --compile writes it."""
    fingerprint, names, _ = made
    assert record["fingerprint"] == fingerprint, "the kernels have changed: python tools/gpu.py --compile"
    assert record["kernels"].keys() == {f"sm_{c} {name}" for c in (80, 90) for name in names}


def test_every_kernel_in_the_record_fits(record):
    for name, figures in record["kernels"].items():
        assert_fit(name, figures)


def test_the_record_is_what_compiles_here(made, record):
    """With the Triton that made it; another may schedule otherwise."""
    import triton

    if triton.__version__ != record["triton"]:
        pytest.skip("the record is of another Triton")
    for name, figures in made[2].items():
        assert record["kernels"][name] == figures, name


def test_the_command_without_a_gpu_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    tool = Path(__file__).parents[1] / "tools" / "gpu.py"
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True)
    assert done.returncode == 1 and "there is no CUDA GPU to measure" in done.stderr
