"""What the tests of faults share: commands in processes that can be killed, small disks, and look-alike data."""

import contextlib
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sto_lite import __main__ as command_line
from sto_lite.experiments import runner  # noqa: F401  (so that a forked process need not import them)

# One process imports PyTorch and is forked for each command: the same as `python -m sto_lite …`, without seconds of
# imports before a kill can hit anything.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.processes"])
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)  # which imports half of PyTorch
tqdm.get_lock()  # made once here, or every process that is killed leaks one


class Command:
    """`python -m sto_lite ARGUMENTS` in a process group of its own; what it says goes to a file."""

    def __init__(self, arguments: list, said: Path, environment: dict, limits: dict | None = None):
        self.said = said
        said.write_text("")
        self.begun, ready = FORKS.Pipe(duplex=False)
        given = ([str(word) for word in arguments], str(said), environment, limits or {}, ready)
        self.process = FORKS.Process(target=_command, args=given)
        self.process.start()
        ready.close()
        self.begun.recv()

    def end(self, timeout: float = 300) -> int:
        """Wait for the end; gives the status, negative for a signal."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s: {self.said.read_text()}")
        return self.process.exitcode


def _command(words, said, environment, limits, ready):
    os.setsid()
    file = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    for limit, above in limits.items():
        if limit == resource.RLIMIT_AS:  # above what is taken already
            above += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(limit, (above, above))
    ready.send(os.getpid())
    status = command_line.main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


@contextlib.contextmanager
def disk(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own at `place`, such as of size=1m; the test is skipped where none can be mounted."""
    import pytest

    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def read_only(place: Path) -> None:
    """Let nobody write to a disk any more, root neither."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def look_alike(folder: Path, seed: int = 0, count: int = 64) -> Path:
    """A prepared FER-2013 of random pixels, in which the label is which part of the image is bright."""
    rng, arrays = np.random.default_rng(seed), {}
    for split in ("train", "public", "private"):
        labels = rng.integers(0, 7, count, dtype=np.uint8)
        images = rng.integers(0, 120, (count, 48, 48), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 6 * int(label) : 6 * int(label) + 6] += 120
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "fer2013.npz", **arrays)
    return folder / "fer2013.npz"
