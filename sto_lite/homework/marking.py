"""The form of a submission: what is checked by machine in records that a student hands in (book/homework, chapter 8).

Every record is whole, every arm has the same seeds, all follow one protocol, and the summary follows from the
predictions. No result is judged: that a method won is not asked for.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sto_lite.checkpoints import YOUNGER
from sto_lite.data import ImageSet
from sto_lite.errors import RunError, shown
from sto_lite.homework.submission import SUMMARY, Arms, Summary, files, recomputed, sort, summarise
from sto_lite.records import Record, read_record

ROUNDING = 0.006  # points by which a number of the summary may be off: it may be rounded to two decimals


def check(
    folder: Path,
    arms: Arms,
    reference: str,
    seeds: int = 3,
    free: Sequence[str] = (),
    images: ImageSet | None = None,
) -> Summary:
    """The submission's summary, if its form is right; arguments as `problems`.

    Raises:
        RunError: it is not; the message lists every problem.
    """
    if found := problems(folder, arms, reference, seeds, free, images):
        raise RunError(f"{folder} cannot be handed in yet:\n" + "\n".join(f"- {line}" for line in found))
    summary: Summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
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

    It reads every record's form, asks for the same seeds in every arm and for one protocol, recomputes the errors
    from the predictions, and compares the summary with them.

    Args:
        folder: with the records and summary.json.
        arms: label -> method; each must be there, and nothing else.
        reference: label of the arm that the others are compared with.
        seeds: how many there are at least.
        free: fields of Config that may differ from arm to arm, such as "epochs"; within an arm they may not.
        images: the data; its fingerprint and test labels must be the records'. None: records agree among themselves.
    """
    folder = Path(folder)
    theirs, unwritten = submitted(folder / SUMMARY)
    records, lines = [], []
    try:
        for path in files(folder):
            try:
                records.append(read_record(path))
            except RunError as error:
                lines.append(str(error))
        lines += [f"{name(record)}: {line}" for record in records for line in form(record)]
        if lines:
            return lines + unwritten
        found = sort(records, arms)
    except RunError as error:
        return [str(error), *unwritten]
    lines += [f"there is no record of {label}" for label, runs in found.items() if not runs]
    known = {id(record) for runs in found.values() for record in runs.values()}
    lines += [
        f"{name(record)} belongs to no arm of this assignment: take it out of the folder"
        for record in records
        if id(record) not in known
    ]
    lines += paired(found, reference, seeds) + one_protocol(found, free, images)
    if lines or unwritten:
        return lines + unwritten
    return compare(theirs, summarise(records, arms, reference))


def report(summary: Summary) -> str:
    """A summary in words: means, and differences with their intervals."""
    lines = [
        f"{len(summary['seeds'])} seeds; error on {summary['split']} in %, and minus {summary['reference']}"
    ]
    for label, error in summary["mean"].items():
        gap = summary["difference"].get(label, {})
        interval = f" ({gap['low']:+.2f} to {gap['high']:+.2f})" if gap.get("low") is not None else ""
        lines.append(f"{label:>24} {error:6.2f}" + (f"   {gap['mean']:+.2f}{interval}" if gap else ""))
    return "\n".join(lines)


def name(record: Record) -> str:
    """How a message calls a record."""
    return shown(
        f"the record of {record['method'].get('name', '?')}, seed {record['config'].get('seed', '?')}"
    )


def form(record: Record) -> list[str]:
    """What is wrong with one record by itself: its parts, their lengths, and its error."""
    config = record["config"]
    if type(config.get("seed")) is not int or type(config.get("epochs")) is not int:
        return ["config.seed and config.epochs are whole numbers"]
    counts = record["data"].get("counts")
    tests = [split for split in counts if split != "train"] if isinstance(counts, dict) else []
    if not tests:
        return ["data.counts names the splits and their images"]
    lines = []
    for split in tests:
        labels, predictions = record["labels"].get(split), record["predictions"].get(split)
        result = record["result"].get(split)
        if not isinstance(labels, list) or not isinstance(predictions, list) or not isinstance(result, dict):
            lines.append(f"labels, predictions and result of the split {split} are needed")
            continue
        if not len(labels) == len(predictions) == counts[split]:
            lines.append(
                f"{len(predictions)} predictions and {len(labels)} labels for {counts[split]} images of {split}"
            )
            continue
        if not all(type(value) is int and value >= 0 for value in (*labels, *predictions)):
            lines.append(f"labels and predictions of {split} are numbers of classes, 0 or more")
            continue
        error, curve = result.get("error"), record["history"].get(f"{split}_error")
        if not isinstance(error, int | float) or not abs(error - recomputed(record, split)) <= 1e-6:
            lines.append(
                f"result says {error} % on {split}, its predictions say {recomputed(record, split)} %"
            )
        elif not (
            isinstance(curve, list)
            and curve
            and isinstance(curve[-1], int | float)
            and abs(curve[-1] - error) <= 1e-3
        ):
            lines.append(f"history does not end with the error on {split}")
    losses = record["history"].get("train_loss")
    if not isinstance(losses, list) or len(losses) != config["epochs"]:
        lines.append(f"history.train_loss has one value for each of {config['epochs']} epochs")
    return lines


def paired(found: Mapping[str, Mapping[int, Record]], reference: str, seeds: int) -> list[str]:
    """Say where the arms' seeds differ, are too few, or are copies of one another."""
    lines = []
    common = sorted(found[reference])
    if common and len(common) < seeds:
        lines.append(f"{reference} has {len(common)} seeds; at least {seeds} are asked for")
    for label, runs in found.items():
        if runs and sorted(runs) != common:
            lines.append(
                f"{label} has the seeds {sorted(runs)}, {reference} has {common}: make them the same"
            )
        losses = [json.dumps(record["history"]["train_loss"]) for record in runs.values()]
        if len(set(losses)) < len(losses):
            lines.append(f"{label} has the same history for two seeds: one is a copy, train it")
    return lines


def one_protocol(
    found: Mapping[str, Mapping[int, Record]], free: Sequence[str], images: ImageSet | None
) -> list[str]:
    """Say where records differ in configuration, besides the seed and what is free, or in data."""
    lines = []
    records = [(label, record) for label, runs in found.items() for record in runs.values()]
    first: dict[str, dict[str, Any]] = {}
    for label, record in records:
        config = {**YOUNGER, **record["config"], "seed": None}
        for owner, part in (
            ("", {k: v for k, v in config.items() if k not in free}),
            (label, {k: v for k, v in config.items() if k in free}),
        ):
            other = first.setdefault(owner, part)
            keys = sorted(k for k in {**part, **other} if part.get(k) != other.get(k))
            lines += [
                f"{label}, seed {record['config']['seed']}: config.{k} is {part.get(k)!r}, elsewhere {other.get(k)!r}"
                for k in keys
            ]
        data, labels = records[0][1]["data"], records[0][1]["labels"]
        if images is not None:
            data = {**data, "fingerprint": images.fingerprint}
            labels = {split: of.labels.tolist() for split, of in images.test_splits.items()}
        if record["data"] != data or record["labels"] != labels:
            what = "the others" if images is None else "the assignment's images"
            lines.append(f"{label}, seed {record['config']['seed']}: data or labels are not those of {what}")
    return lines


def submitted(path: Path) -> tuple[Any, list[str]]:
    """A submitted summary, and what keeps it from being read."""
    if not path.exists():
        return None, [f"there is no {path.name}: write it with submission.write"]
    try:
        return json.loads(path.read_text(encoding="utf-8")), []
    except (OSError, ValueError, RecursionError) as error:
        return None, [f"{path.name} cannot be read ({error}): write it with submission.write"]


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
    return {
        key: leaf
        for part, inner in value.items()
        for key, leaf in flat(inner, f"{prefix} / {part}" if prefix else str(part)).items()
    }
