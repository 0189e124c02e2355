"""What was measured for an assignment, as a table for its instructor (homework.py).

In an instructor's cell the line ``{measured REFERENCE: ARM ARM …}`` becomes a table from ``book/homework/records``,
whose files are called ARM-sSEED.json: nothing measured is typed by hand. They are kept apart from ``data/runs``, of
which the book's pages compute their tables, and where a setting and a seed have one run.
"""

import re
from pathlib import Path
from statistics import mean, median, stdev

from sto_lite.homework import recomputed
from sto_lite.records import Record, read_record
from sto_lite.stats import Interval, interval

RUNS = Path(__file__).resolve().parents[1] / "book" / "homework" / "records"
PLACE = re.compile(r"^\{measured ([^:\n]+):([^}\n]*)\}$", re.M)
HEAD = "run | epochs | seeds | test error, % | deviation over seeds | training error, % | seconds a run"


def filled(text: str, runs: Path = RUNS) -> str:
    """Return a text with its tables of measured runs."""
    return PLACE.sub(lambda found: table(found[1].strip(), found[2].split(), runs), text)


def table(reference: str, arms: list[str], runs: Path = RUNS) -> str:
    """Return a Markdown table: a run's error, its scatter over seeds, and its paired difference to the reference."""
    base = errors(records(reference, runs))
    lines = [f"| {HEAD} | minus {reference}, with 95 % interval |", f"|{' --- |' * 8}"]
    for name in (reference, *arms):
        found = records(name, runs)
        own, (first, *_) = errors(found), found.values()
        common = sorted(own.keys() & base.keys())
        if not common:
            raise ValueError(f"{name} has seeds {sorted(own)}, {reference} {sorted(base)}: none in common")
        gap = interval([own[seed] - base[seed] for seed in common])
        over = f"{stdev(own.values()):.1f}" if len(own) > 1 else "unknown"
        train = mean(record["history"]["train_error"][-1] for record in found.values())
        seconds = median(sum(record["history"]["seconds"]) for record in found.values())
        said = "" if name == reference else difference(gap)
        told = f"{mean(own.values()):.1f} | {over} | {train:.1f} | {seconds:.0f} | {said}"
        lines.append(f"| {name} | {first['config']['epochs']} | {len(own)} | {told} |")
    return "\n".join([*lines, "", protocol(next(iter(records(reference, runs).values())))])


def difference(gap: Interval) -> str:
    """Return a paired difference in points in words."""
    if gap.seeds == 1:
        return f"{gap.mean:+.1f} (one seed: no interval)"
    return f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f}, {gap.seeds} pairs)"


def records(name: str, runs: Path = RUNS) -> dict[int, Record]:
    """Return a run's records by seed, in the order of the seeds; ValueError where there are none."""
    found = {r["config"]["seed"]: r for r in map(read_record, runs.glob(f"{name}-s*.json"))}
    if not found:
        raise ValueError(f"{runs} holds no record of {name}")
    return dict(sorted(found.items()))


def errors(found: dict[int, Record]) -> dict[int, float]:
    """Return errors (%) on the last test split by seed, from the predictions."""
    return {seed: recomputed(record, list(record["predictions"])[-1]) for seed, record in found.items()}


def protocol(record: Record) -> str:
    """Return a sentence that says how the runs were made."""
    config, data, where = record["config"], record["data"], record["environment"]
    return (
        f"Measured: {config['net']} on {data['counts']['train']} synthetic faces of {data['size']} pixels, "
        f"difficulty {data['difficulty']:g}, in batches of {config['batch_size']}, tested on {data['counts']['test']}"
        f"; one thread of a {where['device']} that had other work too, so that the seconds are upper bounds."
    )
