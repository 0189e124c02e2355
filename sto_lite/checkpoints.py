"""A run's folder: checkpoint, network and record, each whole or as it was, none of another run (chapter 6)."""

import contextlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sto_lite import records
from sto_lite.about import describe
from sto_lite.data import ImageSet
from sto_lite.errors import RunError, out_of_memory
from sto_lite.files import read, save
from sto_lite.records import YOUNGER as YOUNGER
from sto_lite.records import Record

State = dict[str, Any]  # tensors and plain values, by name

# What decoding, and the loading of states, raise when a file is cut off, foreign or malicious. A RuntimeError may be
# the machine's as well: see `damage_told`.
DAMAGE = (
    *(AssertionError, AttributeError, OSError, EOFError, LookupError, OverflowError, TypeError, ValueError),
    *(RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile),
)
MACHINE = re.compile("(CUDA|HIP|MPS|XPU|cuDNN)[a-z ]* error", re.IGNORECASE)


@contextlib.contextmanager
def damage_told(what: str, remedy: str) -> Iterator[None]:
    """Turn damage of a file into a RunError that says so; a lack of memory, or a GPU that fails, is no damage.

    The bytes are read before (files.read), so that a disk that does not answer is none either. The message is `what`,
    the kind of error, and the remedy.
    """
    try:
        yield
    except DAMAGE as error:
        if out_of_memory(error) or MACHINE.search(str(error)):
            raise
        raise RunError(f"{what} ({type(error).__name__}); {remedy}") from error


def decode(content: bytes) -> State:
    """What `encode` made of tensors and plain values, on the CPU; nothing that the bytes name is run. Raises one of
    DAMAGE if they are cut off, changed in any bit that counts, foreign or malicious.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.load itself passes over the checksums
        if name := archive.testzip():
            raise ValueError(f"the checksum of {name} is wrong")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no names")
    return state


def encode(state: State) -> bytes:
    """Tensors and plain values as the bytes of a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class Folder:
    """The folder of one run.

    path: where. identity: what makes it this run and no other, as JSON has it: {"config": {…}, "method": {…},
    "data": {…}}. older: the fingerprint that the data had in format 1.
    """

    def __init__(self, path: Path, identity: Mapping[str, Mapping[str, Any]], older: str = ""):
        self.path, self.identity, self.older = path, identity, older

    @property
    def has_record(self) -> bool:
        """Whether the run is finished."""
        return (self.path / "record.json").exists()

    def save(self, state: State) -> None:
        """Write the checkpoint of an epoch. Raises RunError if it cannot be written; the one before is kept."""
        save(self.path / "checkpoint.pt", encode({"identity": json.dumps(self.identity), **state}))

    def resume(self, restore: Callable[[State], None]) -> None:
        """Hand the checkpoint's state to `restore`, if there is a checkpoint. Raises RunError if it is of another
        run, damaged, or not what `restore` can take.
        """
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return
        content = read(path)
        what = f"{path} is no checkpoint that can be resumed"
        with damage_told(
            f"{what}: it is damaged, or holds another network's tensors", "delete it to start afresh"
        ):
            state = decode(content)
            records.check_identity(self.identity, json.loads(state["identity"]), path, self.older)
            restore(state)

    def finish(self, network: nn.Module, record: Record, images: ImageSet) -> None:
        """Write the deployed network with its description, and then the record, with which the run is finished.
        Raises RunError if one cannot be written; the checkpoint is kept.
        """
        about = describe(record, images.classes, *(values.tolist() for values in images.mean_std))
        net, weights = record["config"]["net"], network.state_dict()
        save(self.path / "network.pt", encode({"net": net, "weights": weights, "about": about}))
        save(self.path / "record.json", records.encode(record))

    def read(self, network: nn.Module) -> Record:
        """The record of the finished run; its weights go into `network`. Raises RunError if the record is of another
        run, or the record or the network is damaged.
        """
        path = self.path / "record.json"
        record = records.read_record(path)
        records.check_identity(self.identity, record, path, self.older)
        path = self.path / "network.pt"
        content = read(path) if path.exists() else b""
        remedy = (
            "the record is whole, so keep it; the same command in another folder trains the network again"
        )
        if (self.path / "checkpoint.pt").exists():
            remedy = "delete record.json and run the same command again: the checkpoint gives both back"
        with damage_told(f"{path} is missing or damaged", remedy):
            network.load_state_dict(decode(content)["weights"])
        return record
