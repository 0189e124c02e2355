"""Records of measured runs: what was run, on what, and what came out, per image (chapters 6, 8 and 9)."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import sto_lite
from sto_lite.config import plain
from sto_lite.errors import RunError
from sto_lite.files import visible

Record = dict[str, Any]
Identity = Mapping[str, Mapping[str, Any]]

# Settings that are younger than some records, and what was done before there was a choice.
YOUNGER = {"precision": "float32"}
FORMAT = 2
# What a record holds at least, by its kind; and one of a run, which has none.
NEEDED = {"bench": ("config", "results"), "curves": ("config", "data", "environment")}
OF_A_RUN = ("config", "method", "data", "result", "history", "labels", "predictions")

# Fingerprints of format 1, made after resizing, of the image sets that records were published of: size, limit.
OLDER_FINGERPRINTS = {
    "ad242e87c00f4933": "329c9a2a9065a4e5",  # fer2013, 24, 1024
    "4fbb460fd9f532c8": "a38b794d4e3acb9b",  # fer2013, 32
    "f64f4ad663ea3353": "e15eeb7e8ac3dd97",  # cifar100, 16, 2000
}


def encode(record: Record) -> bytes:
    """A record as JSON, one top-level entry a line."""
    lines = ",\n".join(
        f'"{key}": {json.dumps(value, separators=(",", ":"))}' for key, value in record.items()
    )
    return f"{{\n{lines}\n}}\n".encode()


def read_record(path: Path) -> Record:
    """Read one record: of a run, of a bench, or the curves of runs that did not end; older ones are upgraded.

    Raises RunError if the file is missing or is no record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last of brackets within brackets
        raise RunError(f"{path} is no readable record: {error}") from error
    record = record if isinstance(record, dict) else {}
    needed = NEEDED.get(str(record.get("kind")), OF_A_RUN)
    if missing := [key for key in needed if not isinstance(record.get(key), dict)]:
        raise RunError(f"{path} is JSON, but no record of a run: it lacks {', '.join(missing)}")
    if "kind" not in record:
        record["config"] = {**YOUNGER, **record["config"]}
    data = record.get("data")
    older = data.get("fingerprint") if record.get("format") == 1 and isinstance(data, dict) else None
    if older in OLDER_FINGERPRINTS:
        record["data"]["fingerprint"], record["format"] = OLDER_FINGERPRINTS[older], FORMAT
    return record


def read_folder(folder: Path) -> list[Record]:
    """Every record in a folder of runs (`FOLDER/RUN/record.json`) or of records (`FOLDER/*.json`), by path. Raises
    RunError if the folder is missing, holds no record, or holds a file that is none.
    """
    paths = sorted({*visible(folder, "*.json"), *visible(folder, "*/record.json")})
    if not paths:
        raise RunError(f"{folder} holds no record, or does not exist; python -m sto_lite run makes some")
    return [read_record(path) for path in paths]


def read_runs(folders: Sequence[Path] | None = None) -> list[Record]:
    """The records of runs in these folders; without any, those in runs/, else the book's own, and a line says so.

    Raises: as `read_folder`.
    """
    if folders is None and not Path("runs").exists():
        told = "there is no folder runs here, so these are the book's own records, of data/runs"
        print(told, file=sys.stderr)
        found = read_records("*")
    else:
        found = [record for folder in folders or (Path("runs"),) for record in read_folder(folder)]
    return [record for record in found if "kind" not in record]


def read_records(collection: str) -> list[Record]:
    """The committed records `data/runs/<collection>/*.json`, in the order of their paths.

    They are looked for in the working folder and those above it, then beside `sto_lite`, then inside it, where an
    installation keeps its copy. collection: its name; or a pattern such as "fer2013-1024*", for all that fit, if only
    none. Raises RunError if there are none, and a name was given.
    """
    here, package = Path.cwd(), Path(__file__).resolve().parent
    homes = [folder / "data" / "runs" for folder in (here, *here.parents, package.parent)]
    home = next((home for home in homes if any(home.glob("*/*.json"))), package / "runs")
    paths = sorted(path for folder in home.glob(collection) for path in visible(folder, "*.json"))
    if not paths and not set("*?[") & set(collection):
        raise RunError(
            f"no records in data/runs/{collection}; open the notebook from a clone of the repository, or install "
            f"sto_lite anew, which brings its records along"
        )
    return [read_record(path) for path in paths]


def named(method: Any) -> dict[str, Any]:
    """A method as a record has it: its name and its settings."""
    return {"name": method.name, **plain(method)}


def differences(ours: Identity, theirs: Mapping[str, Any], older: str = "") -> list[str]:
    """Where a record, or what a checkpoint says of its run, is of another run than ours; one line each.

    ours: {"config": {…}, "method": {…}, "data": {…}}, as JSON has them; theirs may have more parts. older: the
    fingerprint that our data had in format 1, which counts as equal.
    """
    found = []
    for part, mine in ours.items():
        other = {**(YOUNGER if part == "config" else {}), **theirs.get(part, {})}
        found += [
            f"{part}.{key} is {other.get(key)!r} there and {mine.get(key)!r} here"
            for key in {**other, **mine}
            if other.get(key) != mine.get(key)
            and not (part == "data" and key == "fingerprint" and other.get(key) == older)
        ]
    return found


def check_identity(ours: Identity, theirs: Mapping[str, Any], path: Path, older: str = "") -> None:
    """Refuse a file that is of another run; arguments as `differences`. Raises RunError if it is; the message names
    what differs.
    """
    if found := differences(ours, theirs, older):
        raise RunError(f"{path} is of another run: {'; '.join(found)}. Take another folder, or delete it")


def environment(device: torch.device) -> dict[str, str | int]:
    """Device, software versions and code revision, for a record."""
    cpu = f"{platform.machine()} CPU"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sto_lite": sto_lite.__version__,
        "revision": revision(),
    }


def revision() -> str:
    """The git commit of the code, with "+" when sto_lite differs from it; "" outside a checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
