"""A run's folder: checkpoint, network and record, each whole or as it was, none of another run (chapter 6)."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sto_lite import records
from sto_lite.errors import RunError
from sto_lite.files import write_atomically
from sto_lite.records import Record

State = dict[str, Any]  # tensors and plain values, by name

# What the reading of a file, and the loading of states, raise when it is cut off, foreign or malicious.
DAMAGE = (
    AssertionError,
    AttributeError,
    OSError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)

# Settings that are younger than some records, and what was done before there was a choice.
YOUNGER = {"precision": "float32"}


def decode(content: bytes, device: torch.device | str = "cpu") -> State:
    """What `encode` made of tensors and plain values; nothing that the bytes name is run.

    Raises:
        One of DAMAGE: they are cut off, changed in any bit that counts, foreign or malicious.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.load itself passes over the checksums
        if name := archive.testzip():
            raise ValueError(f"the checksum of {name} is wrong")
    state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
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
        """Write the checkpoint of an epoch.

        Raises:
            RunError: it cannot be written; the one before is kept.
        """
        self._put("checkpoint.pt", encode({"identity": json.dumps(self.identity), **state}))

    def resume(self, restore: Callable[[State], None]) -> None:
        """Hand the checkpoint's state to `restore`, if there is a checkpoint.

        Raises:
            RunError: it is of another run, damaged, or not what `restore` can take.
        """
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return
        try:
            state = decode(path.read_bytes())
            self._check(json.loads(state["identity"]), path)
            restore(state)
        except DAMAGE as error:
            raise RunError(
                f"{path} is no checkpoint that can be resumed: it is damaged, or holds other things than this "
                f"network's tensors ({type(error).__name__}); delete it to start afresh"
            ) from error

    def finish(self, net: str, network: nn.Module, record: Record) -> None:
        """Write the deployed network, and then the record, with which the run is finished.

        Raises:
            RunError: one cannot be written; the checkpoint is kept.
        """
        self._put("network.pt", encode({"net": net, "weights": network.state_dict()}))
        self._put("record.json", records.encode(record))

    def read(self, network: nn.Module, device: torch.device) -> Record:
        """The record of the finished run; its weights go into `network`.

        Raises:
            RunError: the record is of another run, or the record or the network is damaged.
        """
        path = self.path / "record.json"
        record = records.read_record(path)
        self._check(record, path)
        path = self.path / "network.pt"
        try:
            network.load_state_dict(decode(path.read_bytes(), device)["weights"])
        except DAMAGE as error:
            raise RunError(
                f"{path} is missing or damaged ({type(error).__name__}); delete record.json and run the same "
                f"command again: the checkpoint gives it back"
            ) from error
        return record

    def _check(self, other: Mapping[str, Any], path: Path) -> None:
        differences = [
            f"{part}.{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
            for part, ours in self.identity.items()
            for theirs in [{**YOUNGER, **other.get(part, {})} if part == "config" else other.get(part, {})]
            for key in {**theirs, **ours}
            if theirs.get(key) != ours.get(key)
            and not (key == "fingerprint" and part == "data" and theirs.get(key) == self.older)
        ]
        if differences:
            raise RunError(
                f"{path} is of another run: {'; '.join(differences)}. Take another folder, or delete it"
            )

    def _put(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            raise RunError(
                f"{self.path / name} cannot be written: {error.strerror or error}. What stood there is kept; make "
                f"room and run the same command again, it goes on from there"
            ) from error
