"""Records that a student hands in: made once, and summarised (book/homework, chapter 8).

A submission is one folder: a record for each arm and seed, where an arm is a method with its settings, and
`summary.json` with the means and the paired differences. `marking` checks its form.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sto_lite import stats
from sto_lite.checkpoints import YOUNGER
from sto_lite.config import Config, plain
from sto_lite.data import ImageSet
from sto_lite.errors import RunError
from sto_lite.files import write_atomically
from sto_lite.methods import Method
from sto_lite.records import Record, encode, read_record
from sto_lite.timebox import progress_bar
from sto_lite.train import fit

Arms = Mapping[str, Method]  # label -> method; the labels are those of the summary
Summary = dict[str, Any]

SUMMARY = "summary.json"


class Runs(dict[str, list[Record]]):
    """Label -> its records by seed; shown in a notebook as one line, not as half a megabyte of predictions."""

    def __repr__(self) -> str:
        made = sum(map(len, self.values()))
        return f"{made} records of {len(self)} settings: {', '.join(self)}"


def run(
    folder: Path, arms: Arms, images: ImageSet, config: Config | Mapping[str, Config], seeds: Iterable[int]
) -> Runs:
    """Train what has no record yet; each run is written to `folder/LABEL-sSEED.json` when it ends.

    One bar counts the runs, and says which is under way.

    Args:
        folder: of the submission; made if need be.
        arms: what is compared.
        images: the data.
        config: the protocol; or one a label, where arms differ in their epochs.
        seeds: of weights, batches and gates; every arm gets all of them.

    Returns:
        The records of each label, in the order of the seeds.

    Raises:
        RunError: a file holds a record of another run; or a record is missing while the notebook is graded, when
            nothing is trained.
    """
    found, seeds = Runs(), list(seeds)
    with progress_bar(len(arms) * len(seeds), 0, None) as bar:
        bar.unit = "run"
        for label, method in arms.items():
            protocol = config if isinstance(config, Config) else config[label]
            found[label] = []
            for seed in seeds:
                bar.set_description(f"{label}, seed {seed}")
                path = folder / f"{slug(label)}-s{seed}.json"
                found[label].append(recorded(path, method, images, replace(protocol, seed=seed)))
                bar.update()
        bar.set_description(f"{folder}")
    return found


def recorded(path: Path, method: Method, images: ImageSet, config: Config) -> Record:
    """The record at path, which is trained and written first if it is not there; raises as `run`."""
    if not path.exists():
        if os.environ.get("NBGRADER_EXECUTION"):
            raise RunError(
                f"{path} is missing, and nothing is trained while a notebook is graded: hand it in"
            )
        record = fit(method, images, config, progress=False).record
        write_atomically(path, encode(record))
        return record
    record = read_record(path)
    expected = {"config": plain(config), "method": {"name": method.name, **plain(method)}}
    expected["data"] = {**record["data"], **images.settings, "fingerprint": images.fingerprint}
    different = [
        f"{part}.{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
        for part, ours in expected.items()
        for theirs in [{**YOUNGER, **record[part]} if part == "config" else record[part]]
        for key in {**theirs, **ours}
        if theirs.get(key) != ours.get(key)
    ]
    if different:
        raise RunError(f"{path} is of another run: {'; '.join(different)}. Take another folder, or delete it")
    return record


def price(arms: Arms, images: ImageSet, config: Config | Mapping[str, Config], seeds: int) -> str:
    """What `run` will take on this machine, in words, from one epoch of each arm; nothing is kept.

    The first steps of a process are slow, so that this errs on the long side.
    """
    if os.environ.get("NBGRADER_EXECUTION"):
        return "no time is measured while a notebook is graded"
    seconds = 0.0
    for label, method in arms.items():
        protocol = config if isinstance(config, Config) else config[label]
        record = fit(method, images, replace(protocol, epochs=1, evaluate_every=1), progress=False).record
        seconds += sum(record["history"]["seconds"]) * protocol.epochs * seeds
    return f"{len(arms)} settings x {seeds} seeds: about {max(1, round(seconds / 60))} minutes here"


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "-", label)


def read(folder: Path) -> list[Record]:
    """The records of a submission, by file name.

    Raises:
        RunError: the folder holds none, or a file that is none.
    """
    return [read_record(path) for path in files(folder)]


def files(folder: Path) -> list[Path]:
    """The files of a submission that ought to be records, by name; raises RunError where there is none."""
    paths = sorted(path for path in folder.glob("*.json") if path.name != SUMMARY)
    if not paths:
        raise RunError(f"{folder} holds no record, or does not exist; run the cell that makes them")
    return paths


def sort(records: Iterable[Record], arms: Arms) -> dict[str, dict[int, Record]]:
    """Label -> seed -> record, for the records that belong to an arm.

    Raises:
        RunError: two records are of the same arm and seed.
    """
    found: dict[str, dict[int, Record]] = {label: {} for label in arms}
    wanted = {label: {"name": method.name, **plain(method)} for label, method in arms.items()}
    for record in records:
        for label, method in wanted.items():
            if record["method"] == method:
                if (seed := record["config"]["seed"]) in found[label]:
                    raise RunError(f"{label} has two records of seed {seed}: keep one")
                found[label][seed] = record
    return found


# -------------------------------------------------------------------------------------------------- the summary


def summarise(records: Iterable[Record], arms: Arms, reference: str) -> Summary:
    """Means over seeds and paired differences, from the predictions of every image.

    Args:
        records: of the submission; each arm has the same seeds.
        arms: label -> method.
        reference: label of the arm that the others are compared with.

    Returns:
        `split` (the last one, the headline's), `reference`, `seeds`, `mean` (label -> error in %) and `difference`
        (label -> mean, low and high in points: an arm's error minus the reference's, seed by seed, with its 95 %
        interval; null for one seed).
    """
    found = sort(records, arms)
    split = list(next(iter(found[reference].values()))["predictions"])[-1]
    errors = {
        label: {seed: recomputed(record, split) for seed, record in sorted(runs.items())}
        for label, runs in found.items()
    }
    summary: Summary = {"split": split, "reference": reference, "seeds": sorted(errors[reference])}
    summary["mean"] = {label: sum(of.values()) / len(of) for label, of in errors.items()}
    summary["difference"] = {}
    for label, of in errors.items():
        if label != reference:
            gap = stats.interval([of[seed] - errors[reference][seed] for seed in summary["seeds"]])
            numbers = {"mean": gap.mean, "low": gap.low, "high": gap.high}
            summary["difference"][label] = {k: None if math.isnan(v) else v for k, v in numbers.items()}
    return summary


def recomputed(record: Record, split: str) -> float:
    """Error (%) on a split, from the predictions in the record."""
    return 100 * float(stats.wrong(record, split).mean())


def write(folder: Path, summary: Summary) -> None:
    """Write a summary beside its records."""
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1).encode())
