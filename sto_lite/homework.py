"""Records that a student hands in: made once, summarised, and checked in their form (book/homework, chapter 8).

A submission is one folder: a record for each arm and seed, where an arm is a method with its settings, and
`summary.json` with the means and the paired differences. Its form is right when every record is whole, every arm has
the same seeds, all follow one protocol, and the summary follows from the predictions. No result is judged: that a
method won is not asked for.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sto_lite import stats
from sto_lite.config import Config, plain
from sto_lite.data import ImageSet
from sto_lite.errors import RunError, shown
from sto_lite.files import save, visible
from sto_lite.methods import Method
from sto_lite.records import Record, check_identity, encode, named, read_record
from sto_lite.timebox import progress_bar
from sto_lite.train import fit

Arms = Mapping[str, Method]  # label -> method; the labels are those of the summary
Summary = dict[str, Any]

SUMMARY = "summary.json"
ROUNDING = 0.006  # points by which a number of the summary may be off: it may be rounded to two decimals
submission = marking = sys.modules[__name__]  # as assignments that were handed out earlier import it


class Runs(dict[str, list[Record]]):
    """Label -> its records by seed; shown in a notebook as one line, not as half a megabyte of predictions."""

    def __repr__(self) -> str:
        made = sum(map(len, self.values()))
        return f"{made} records of {len(self)} settings: {', '.join(self)}"


# --------------------------------------------------------------------------------------------------- the runs


def run(
    folder: Path, arms: Arms, images: ImageSet, config: Config | Mapping[str, Config], seeds: Iterable[int]
) -> Runs:
    """Train what has no record yet; each run is written to `folder/LABEL-sSEED.json` when it ends.

    One bar counts the runs, and says which is under way. config: the protocol; or one a label, where arms differ in
    their epochs. seeds: of weights, batches and gates; every arm gets all of them. Returns the records of each label,
    in the order of the seeds. Raises RunError if a file holds a record of another run, or a record is missing while
    the notebook is graded, when nothing is trained.
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
            told = "nothing is trained while a notebook is graded"
            raise RunError(f"{path} is missing, and {told}: hand it in")
        record = fit(method, images, config, progress=False).record
        save(path, encode(record))
        return record
    record = read_record(path)
    data = {**record["data"], **images.settings, "fingerprint": images.fingerprint}
    identity = {"config": plain(config), "method": named(method), "data": data}
    check_identity(identity, record, path, images.resized_fingerprint)
    return record


def price(arms: Arms, images: ImageSet, config: Config | Mapping[str, Config], seeds: int) -> str:
    """What `run` will take on this machine, in words, from one epoch of each arm; nothing is kept.

    The first steps of a process are slow, so this is rather too long than too short.
    """
    if os.environ.get("NBGRADER_EXECUTION"):
        return "no time is measured while a notebook is graded"
    seconds = 0.0
    for label, method in arms.items():
        protocol = config if isinstance(config, Config) else config[label]
        record = fit(method, images, replace(protocol, epochs=1, evaluate_every=1), progress=False).record
        seconds += sum(record["history"]["seconds"]) * protocol.epochs * seeds
    minutes = max(1, round(seconds / 60))
    runs = f"{len(arms)} setting{'s' * (len(arms) != 1)} x {seeds} seeds"
    return f"{runs}: about {minutes} minute{'s' * (minutes != 1)} here"


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "-", label)


def files(folder: Path) -> list[Path]:
    """The files of a submission that ought to be records, by name; raises RunError where there is none."""
    paths = [path for path in visible(folder, "*.json") if path.name != SUMMARY]
    if not paths:
        raise RunError(f"{folder} holds no record, or does not exist; run the cell that makes them")
    return paths


def read(folder: Path) -> list[Record]:
    """The records of a submission, by file name. Raises RunError if the folder holds none, or a file that is none."""
    return [read_record(path) for path in files(folder)]


# ------------------------------------------------------------------------------------------------ the summary


def sort(records: Iterable[Record], arms: Arms) -> dict[str, dict[int, Record]]:
    """Label -> seed -> record, for the records that belong to an arm. Raises RunError if two records are of the same
    arm and seed.
    """
    found: dict[str, dict[int, Record]] = {label: {} for label in arms}
    for record in records:
        for label, method in arms.items():
            if record["method"] == named(method):
                if (seed := record["config"]["seed"]) in found[label]:
                    raise RunError(f"{label} has two records of seed {seed}: keep one")
                found[label][seed] = record
    return found


def summarise(records: Iterable[Record], arms: Arms, reference: str) -> Summary:
    """Means over seeds and paired differences to the `reference` arm, from the predictions of every image.

    records: of the submission; each arm has the same seeds. Returns `split` (the last one, the headline's),
    `reference`, `seeds`, `mean` (label -> error in %) and `difference` (label -> mean, low and high in points: an
    arm's error minus the reference's, seed by seed, with its 95 % interval; null for one seed).
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
    save(folder / SUMMARY, json.dumps(summary, indent=1).encode())


def report(summary: Summary) -> str:
    """A summary in words: means, and differences with their intervals."""
    seeds, split = len(summary["seeds"]), summary["split"]
    lines = [f"{seeds} seeds; error on {split} in %, and minus {summary['reference']}"]
    for label, error in summary["mean"].items():
        gap = summary["difference"].get(label, {})
        interval = f" ({gap['low']:+.2f} to {gap['high']:+.2f})" if gap.get("low") is not None else ""
        lines.append(f"{label:>24} {error:6.2f}" + (f"   {gap['mean']:+.2f}{interval}" if gap else ""))
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------- its form


def check(folder: Path, arms: Arms, reference: str, *arguments: Any, **settings: Any) -> Summary:
    """The submission's summary, if its form is right; arguments as `problems`. Raises RunError if it is not; the
    message lists every problem.
    """
    if found := problems(folder, arms, reference, *arguments, **settings):
        raise RunError(f"{folder} cannot be handed in yet:\n" + "\n".join(f"- {line}" for line in found))
    summary: Summary = json.loads((Path(folder) / SUMMARY).read_text(encoding="utf-8"))
    return summary


def problems(
    folder: Path,
    arms: Arms,
    reference: str,
    seeds: int = 3,
    free: Sequence[str] = (),
    images: ImageSet | None = None,
) -> list[str]:
    """What is wrong with the form of a submission, a line for each thing; nothing when all is well.

    Args:
        folder: with the records and summary.json.
        arms: label -> method; each must be there, and nothing else.
        reference: label of the arm that the others are compared with.
        seeds: how many there are at least.
        free: fields of Config that may differ from arm to arm, such as "epochs"; within an arm they may not.
        images: the data; its fingerprint and test labels must be the records'. None: records agree among themselves.
    """
    folder = Path(folder)
    theirs, unwritten = read_summary(folder / SUMMARY)
    records, lines = [], []
    try:
        for path in files(folder):
            try:
                records.append(read_record(path))
            except RunError as error:
                lines.append(str(error))
        lines += [f"{name_record(record)}: {line}" for record in records for line in check_form(record)]
        if lines:
            return lines + unwritten
        found = sort(records, arms)
    except RunError as error:
        return [str(error), *unwritten]
    lines += [f"there is no record of {label}" for label, runs in found.items() if not runs]
    known = {id(record) for runs in found.values() for record in runs.values()}
    odd = [name_record(record) for record in records if id(record) not in known]
    lines += [f"{name} belongs to no arm of this assignment: take it out of the folder" for name in odd]
    lines += check_pairs(found, reference, seeds) + check_protocol(found, free, images)
    if lines or unwritten:
        return lines + unwritten
    return compare(theirs, summarise(records, arms, reference))


def name_record(record: Record) -> str:
    """How a message calls a record."""
    name, seed = record["method"].get("name", "?"), record["config"].get("seed", "?")
    return shown(f"the record of {name}, seed {seed}")


def check_form(record: Record) -> list[str]:
    """What is wrong with one record by itself: its parts, their lengths, and its error."""
    config = record["config"]
    if type(config.get("seed")) is not int or type(config.get("epochs")) is not int:
        return ["config.seed and config.epochs are whole numbers"]
    counts = record["data"].get("counts")
    tests = [split for split in counts if split != "train"] if isinstance(counts, dict) else []
    if not tests:
        return ["data.counts names the splits and their images"]
    lines = [line for split in tests if (line := check_split(record, split, counts[split]))]
    if odd := sorted({*record["labels"], *record["predictions"], *record["result"]} - {*tests}):
        lines.append(f"data.counts names no test split {', '.join(odd)}, of which there are results")
    losses = record["history"].get("train_loss")
    if not isinstance(losses, list) or len(losses) != config["epochs"]:
        lines.append(f"history.train_loss has one value for each of {config['epochs']} epochs")
    return lines


def check_split(record: Record, split: str, count: object) -> str:
    """What is wrong with one test split of a record; "" if nothing is."""
    labels, predictions = record["labels"].get(split), record["predictions"].get(split)
    result, curve = record["result"].get(split), record["history"].get(f"{split}_error")
    if not isinstance(labels, list) or not isinstance(predictions, list) or not isinstance(result, dict):
        return f"labels, predictions and result of the split {split} are needed"
    if not len(labels) == len(predictions) == count:
        return f"{len(predictions)} predictions and {len(labels)} labels for {count} images of {split}"
    if not all(type(value) is int and value >= 0 for value in (*labels, *predictions)):
        return f"labels and predictions of {split} are numbers of classes, 0 or more"
    error, true = result.get("error"), recomputed(record, split)
    if not isinstance(error, int | float) or not abs(error - true) <= 1e-6:
        return f"result says {error} % on {split}, its predictions say {true} %"
    last = curve[-1] if isinstance(curve, list) and curve else None
    if not isinstance(last, int | float) or not abs(last - error) <= 1e-3:
        return f"history does not end with the error on {split}"
    return ""


def check_pairs(found: Mapping[str, Mapping[int, Record]], reference: str, seeds: int) -> list[str]:
    """Say where the arms' seeds differ, are too few, or are copies of one another."""
    lines = []
    common = sorted(found[reference])
    if common and len(common) < seeds:
        lines.append(f"{reference} has {len(common)} seeds; at least {seeds} are asked for")
    for label, runs in found.items():
        if runs and sorted(runs) != common:
            told = f"has the seeds {sorted(runs)}, {reference} has {common}"
            lines.append(f"{label} {told}: make them the same")
        losses = [json.dumps(record["history"]["train_loss"]) for record in runs.values()]
        if len(set(losses)) < len(losses):
            lines.append(f"{label} has the same history for two seeds: one is a copy, train it")
    return lines


def check_protocol(
    found: Mapping[str, Mapping[int, Record]], free: Sequence[str], images: ImageSet | None
) -> list[str]:
    """Say where records differ in configuration, besides the seed and what is free, or in data."""
    lines = []
    records = [(label, record) for label, runs in found.items() for record in runs.values()]
    keys = sorted({key for _, record in records for key in record["config"]} - {"seed"})
    first: dict[tuple[str, str], Any] = {}
    for label, record in records:
        who = f"{label}, seed {record['config']['seed']}"
        for key in keys:
            value = record["config"].get(key)
            other = first.setdefault((label if key in free else "", key), value)
            lines += [f"{who}: config.{key} is {value!r}, elsewhere {other!r}"] * (value != other)
        data, labels = records[0][1]["data"], records[0][1]["labels"]
        if images is not None:
            data = {**data, "fingerprint": images.fingerprint}
            labels = {split: of.labels.tolist() for split, of in images.test_splits.items()}
        if record["data"] != data or record["labels"] != labels:
            what = "the others" if images is None else "the assignment's images"
            lines.append(f"{who}: data or labels are not those of {what}")
    return lines


def read_summary(path: Path) -> tuple[Any, list[str]]:
    """A submitted summary, and what keeps it from being read."""
    if not path.exists():
        return None, [f"there is no {path.name}: write it with homework.write"]
    try:
        return json.loads(path.read_text(encoding="utf-8")), []
    except (OSError, ValueError, RecursionError) as error:
        return None, [f"{path.name} cannot be read ({error}): write it with homework.write"]


def compare(theirs: Any, ours: Summary) -> list[str]:
    """Say where a submitted summary differs from the one that follows from the records."""
    given, expected = flat(theirs), flat(ours)
    lines = [f"{SUMMARY} lacks {key}" for key in expected if key not in given]
    lines += [f"{SUMMARY} has {key}, which is not asked for" for key in given if key not in expected]
    for key in expected.keys() & given.keys():
        one, two = given[key], expected[key]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (one, two))
        if not (abs(one - two) <= ROUNDING if numbers else one == two):
            lines.append(f"{SUMMARY}: {key} is {one!r}, the records say {two!r}")
    return sorted(lines)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one: {"mean": {"a": 1}} is {"mean / a": 1}; lists stay whole."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for part, inner in value.items():
        found |= flat(inner, f"{prefix} / {part}" if prefix else str(part))
    return found
