"""The command line: python -m sto_lite prepare | train | run | table | bench (chapters 1 and 6 to 8)."""

import argparse
import dataclasses
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sto_lite.errors import RunError, StoError
from sto_lite.files import write_atomically
from sto_lite.options import parser
from sto_lite.timebox import TIME_UP, TimeUp


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message on standard error and status 2."""
    started = time.monotonic()
    options = parser().parse_args(arguments)
    options.started = started
    try:
        return int(COMMANDS[options.verb](options) or 0)
    except (StoError, ValueError) as error:
        print(f"sto_lite {options.verb}: {error}", file=sys.stderr)
        return TIME_UP if isinstance(error, TimeUp) else 2
    except BrokenPipeError:  # what is printed is no longer read, as by "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(
            f"sto_lite {options.verb}: stopped; the same command goes on from where it can", file=sys.stderr
        )
        return 130


def prepare(options: argparse.Namespace) -> None:
    """Write one prepared file from what the user has, and tell what is in it."""
    from sto_lite import data
    from sto_lite.intake import prepare as sources

    if options.download:
        path = sources.download(options.name, data.root())
    else:
        path = sources.SETS[options.name](Path(options.source), data.root())
    print(f"prepared: {path}")


def train(options: argparse.Namespace) -> None:
    """Train one network and print its errors."""
    from sto_lite import data, registry
    from sto_lite.config import Config
    from sto_lite.train import fit

    set_threads(options.threads)
    check_device(options.device)
    if options.compile and not options.graphs:
        raise ValueError("--compile goes with --graphs")
    known = {field.name for method in registry.METHODS.values() for field in dataclasses.fields(method)}
    method = registry.make(options.method, **{k: v for k, v in vars(options).items() if k in known})
    config = Config(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Config)})
    images = data.load(
        options.data,
        options.size,
        options.limit,
        difficulty=options.difficulty,
        label_noise=options.label_noise,
        subset=options.subset,
    )
    box, engine = time_box(options), make_engine(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside, it keeps the last epoch
    record = fit(method, images, config, options.out, options.device, engine=engine, box=box).record
    for split, result in record["result"].items():
        print(
            f"{options.method} {options.net} {options.data} seed {options.seed}: {split} error "
            f"{result['error']:.2f} % in the last epoch, "
            f"{result['best_error']:.2f} % in the best ({result['best_epoch']})"
        )
    if options.out:
        print(f"record: {Path(options.out) / 'record.json'}")


def time_box(options: argparse.Namespace) -> Any:
    """The time box that --for asks for, or None; it began with the command."""
    from sto_lite.timebox import TimeBox, read_duration

    return TimeBox(read_duration(options.time), options.started) if options.time else None


def make_engine(options: argparse.Namespace) -> Any:
    """What records the steps, if --graphs asks for it."""
    from sto_lite.speed import graphs

    if options.compile and options.out:  # compiled code is kept where the runs are
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(options.out).resolve() / "compiled"))
    return graphs.engine(options.compile) if options.graphs else None


def check_device(device: str | None) -> None:
    """Refuse a device that cannot be used here, before any work is done."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {device!r} cannot be used here: {reason}") from error


def run(options: argparse.Namespace) -> int:
    """Run an experiment's jobs; status 1 if any of them failed, TIME_UP if there is more to do."""
    from sto_lite.experiments import forecast, paper, runner
    from sto_lite.experiments import jobs as planned
    from sto_lite.experiments.turns import take_turns
    from sto_lite.scale import SCALES, chosen

    check_engine(options)
    scale, asked = (options.scale, True) if options.scale else chosen()
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, not {scale!r}")
    if options.engine == "slurm" and not asked:
        raise ValueError("this machine's hardware is not the nodes': say --scale smoke, colab or paper")
    box, count = time_box(options), options.jobs or 1
    slurm = dict(read_pair(text) for text in options.slurm)
    experiment, out = paper.find(options.experiment), Path(options.out)
    overrides = {key: value for key, value in vars(options).items() if key in planned.OVERRIDES}
    data = options.data or experiment.data[0]
    jobs = planned.jobs(experiment, data, read_seeds(options.seeds), scale, overrides)
    if options.dry_run:
        for job in jobs:
            print(shlex.join(["python", "-m", "sto_lite", "train", *job.arguments(out)]))
        return 0
    ready = sum(runner.finished(job, out) for job in jobs)
    if ready < len(jobs):
        runner.load(jobs[0].source)  # data that is missing or damaged is told once, before any run
    print(f"{experiment.title}: {len(jobs)} runs on {data} at scale {scale}, {ready} of them finished before")
    told = 0

    def report(outcome: runner.Outcome) -> None:
        nonlocal told
        told += 1
        print(f"[{told}/{len(jobs)}] {outcome.status:6} {outcome.job.name}: {outcome.message}", flush=True)

    if options.engine == "slurm":
        from sto_lite.experiments.slurm import on_cluster

        more = [f"--device={options.device}"] if options.device else []
        more += [f"--threads={options.threads}"] if options.threads else []
        more += [f"--{name}" for name in ("graphs", "compile") if getattr(options, name)]
        outcomes = on_cluster(jobs, out, report, slurm, options.minutes or 60, more)
    elif options.graphs or count == 1:
        set_threads(options.threads)
        outcomes = take_turns(jobs, out, report, count, options.device, make_engine(options), box)
    else:
        look = forecast.Outlook(jobs, out, box, count)
        outcomes = runner.side_by_side(jobs, out, report, count, options.device, options.threads, box, look)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"failed: {outcome.job.name}: {outcome.message}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again", file=sys.stderr)
    elif any(outcome.status in ("begun", "left") for outcome in outcomes):
        print(forecast.closing_line(jobs, out, count))
        return TIME_UP
    else:
        print(
            f"all {len(jobs)} runs are finished: python -m sto_lite table {experiment.name} --records {out}"
        )
    return bool(failed)


def check_engine(options: argparse.Namespace) -> None:
    """Refuse options that the chosen engine does not have, and a device that is not here."""
    if options.engine == "slurm":
        if options.jobs is not None:
            raise ValueError("--jobs is for one machine; Slurm decides how many run at a time")
        if options.time:
            raise ValueError("--for is for one machine; on a cluster --minutes is the time of each job")
        return
    if options.slurm or options.minutes is not None:
        raise ValueError("--slurm and --minutes are for --engine slurm")
    if options.compile and not options.graphs:
        raise ValueError("--compile goes with --graphs")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs is at least 1; {options.jobs} is not")
    check_device(options.device)


def table(options: argparse.Namespace) -> None:
    """Print an experiment's table from records, one for each protocol that they were made under."""
    from sto_lite import records
    from sto_lite.experiments import formats, paper, tables

    experiment = paper.find(options.experiment)
    found = [record for folder in options.records for record in records.read_folder(Path(folder))]
    found = [record for record in found if "kind" not in record]
    if options.data:
        found = [record for record in found if record["data"]["name"] == options.data]
    made = tables.tables(experiment, found, options.split)
    if not made:
        where = f"{', '.join(options.records)}{f' on {options.data}' if options.data else ''}"
        raise RunError(
            f"none of the {len(found)} records in {where} belongs to {experiment.name}; make some with "
            f"python -m sto_lite run {experiment.name}"
        )
    shown = made if options.all else made[:1]
    for other in made[len(shown) :]:
        count = sum(len(row.records) for row in other.rows)
        print(
            f"not shown, {count} records under another protocol: {other.protocol} (--all shows it)",
            file=sys.stderr,
        )
    text = "\n\n".join(formats.FORMATS[options.format](one) for one in shown)
    if options.out:
        write(options.out, (text.rstrip("\n") + "\n").encode())
    else:
        print(text.rstrip("\n"))


def bench(options: argparse.Namespace) -> None:
    """Measure what a step costs on this machine, print a table, and write the record."""
    import torch

    from sto_lite import records
    from sto_lite.speed import bench as benches
    from sto_lite.speed.contenders import BenchConfig

    check_device(options.device)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    quick = {"net": "resnet8", "size": 16, "batch_size": 16, "seconds": 1.0, "scaling": False}
    chosen = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(BenchConfig)
        if getattr(options, field.name, None) is not None
    }
    chosen.setdefault("precision", "bf16" if device.type == "cuda" else "float32")
    config = BenchConfig(**{**(quick if options.quick else {}), **chosen})
    record = benches.bench(config, device)
    print(benches.table(record))
    if options.out:
        write(options.out, records.encode(record))
        print(f"record: {options.out}")


def write(path: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}; make room, or name another place"
        ) from error


def read_seeds(text: str) -> list[int]:
    """Seeds as people write them: 0-4, or 0,2,5, or both."""
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise ValueError(f"seeds are written as 0-4 or 0,2,5; {text!r} is neither")
        seeds += range(int(low), int(high or low) + 1)
    return list(dict.fromkeys(seeds))


def read_pair(text: str) -> tuple[str, str]:
    """A setting of Slurm, KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"an option of Slurm is written KEY=VALUE, such as partition=gpu; {text!r} is not")
    return key, value


def set_threads(threads: int | None) -> None:
    """Limit torch's CPU threads, if a number is given."""
    import torch

    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads is at least 1; {threads} is not")
        torch.set_num_threads(threads)


COMMANDS = {"prepare": prepare, "train": train, "run": run, "table": table, "bench": bench}

if __name__ == "__main__":
    sys.exit(main())
