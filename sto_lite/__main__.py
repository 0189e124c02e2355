"""The command line, `sto` or `python -m sto_lite`: what each command does (chapters 1 and 6 to 8)."""

import argparse
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sto_lite import use
from sto_lite.errors import RunError, StoError, first_line, memory_told, print_anything, suggest
from sto_lite.options import parser, program
from sto_lite.timebox import TIME_UP, TimeUp


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message on standard error and status 2."""
    started = time.monotonic()
    print_anything()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser(words).parse_args(words)
    except (StoError, ValueError) as error:  # of a method of one's own
        print(f"sto_lite: {error}", file=sys.stderr)
        return 2
    options.started = started
    try:
        for name in ("jobs", "minutes", "threads"):
            if (value := getattr(options, name, None)) is not None and value < 1:
                raise ValueError(f"{name} is at least 1; {value} is not")
        if getattr(options, "compile", False) and not options.graphs:
            raise ValueError("--compile goes with --graphs")
        with memory_told():
            status = int(COMMANDS[options.verb](options) or 0)
        sys.stdout.flush()  # what cannot be written is told below, not when Python ends
        return status
    except (StoError, ValueError) as error:
        print(f"sto_lite {options.verb}: {error}", file=sys.stderr)
        return TIME_UP if isinstance(error, TimeUp) else 2
    except BrokenPipeError:  # what is printed is no longer read, as by "| head"
        discard_output()
        return 141
    except OSError as error:  # a folder that one may not enter, a name that is too long, a full disk
        told = f"{error.filename or 'output'}: {error.strerror or error}"
        print(f"sto_lite {options.verb}: {told}", file=sys.stderr)
        if error.filename is None:
            discard_output()
        return 2
    except KeyboardInterrupt:
        print(f"sto_lite {options.verb}: stopped; {what_is_left(options)}", file=sys.stderr)
        return 130


def discard_output() -> None:
    """Send what is still to be printed nowhere, so that Python does not try again when it ends."""
    with contextlib.suppress(OSError):  # of a standard output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def what_is_left(options: argparse.Namespace) -> str:
    """What an interrupted command has kept, and how to go on."""
    if options.verb not in ("train", "run"):
        return "what stood there is kept"
    if options.verb == "run" and options.engine == "slurm":
        return "its jobs stay in Slurm's queue, and the same command goes on to wait for them"
    if options.out is None:
        return "nothing is kept without --out"
    if any(options.out.glob("checkpoint.pt" if options.verb == "train" else "*/checkpoint.pt")):
        return "the same command goes on from the last epoch that was kept"
    return "no epoch was finished yet, so the same command begins anew"


def prepare(options: argparse.Namespace) -> None:
    """Write one prepared file from what the user has, and tell what is in it."""
    from sto_lite import data
    from sto_lite.intake import prepare as sources
    from sto_lite.intake.own import Own

    own = given(options, Own)
    if options.folder:
        if options.from_ or options.download or options.votes:
            raise ValueError("--folder goes without --from, --download and --votes")
        print(f"prepared: {sources.prepare_own(options.name, options.folder, data.root(), Own(**own))}")
        return
    if own:
        raise ValueError(f"--{', --'.join(field.name for field in fields(Own))} go with --folder")
    if options.name not in sources.READERS:
        known = sources.READERS
        meant = suggest(options.name, known) or "; your own pictures are given as --folder PATH"
        raise ValueError(f"{options.name!r} is none of {', '.join(known)}{meant}")
    if options.download == bool(options.from_):
        raise ValueError("say where the set is, as --from PATH, or --download")
    if options.votes and (options.name != "fer2013" or options.download):
        raise ValueError("--votes are FER+'s votes on FER-2013: they go with prepare fer2013 --from PATH")
    if options.download:
        path = sources.download(options.name, data.root())
    else:
        path = sources.prepare(options.name, options.from_, data.root(), votes=options.votes)
    print(f"prepared: {path}")


def train(options: argparse.Namespace) -> None:
    """Train one network and print its errors."""
    from sto_lite import data, registry
    from sto_lite.config import Config, Source
    from sto_lite.train import fit

    check_machine(options)
    own = [registry.find(options.method)]
    settings = {name for method in (*registry.METHODS.values(), *own) for name in given(options, method)}
    method = registry.make(options.method, **{name: getattr(options, name) for name in settings})
    config, source = Config(**given(options, Config)), Source(options.data, **given(options, Source))
    images = data.load(**asdict(source))
    was_finished = bool(options.out) and (options.out / "record.json").exists()
    box, engine = time_box(options), make_engine(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside, it keeps the last epoch
    record = fit(method, images, config, options.out, options.device, engine=engine, box=box).record
    if was_finished:
        print(f"nothing was trained: this run was finished on {record.get('finished', 'an earlier day')}")
    for split, result in record["result"].items():
        print(
            f"{options.method} {config.net} {source.name} seed {config.seed}: {split} error {result['error']:.2f} % "
            f"in the last epoch, {result['best_error']:.2f} % in the best ({result['best_epoch']})"
        )
    if not options.out:
        print("nothing was kept; with --out runs/first the network is, and can be used")
        return
    print(f"record: {options.out / 'record.json'}")
    print(what_to_do_next(options.out, source.name))


def what_to_do_next(out: Path, data: str) -> str:
    """How a trained network is used: what to type, one command a line."""
    place = shlex.quote(str(out))
    pictures = "--draw 7" if data == "faces" else "PICTURE"
    lines = {
        f"predict {place} {pictures}": "what it sees in pictures",
        f"plot {place}": "curves, confusion matrix and errors by class",
        f"card {place}": "what it is for, and what it is not for",
        f"export {place} --onnx network.onnx": "to use it without PyTorch",
    }
    width = max(map(len, lines))
    told = [f"  {program()} {line:{width}}  # {what}" for line, what in lines.items()]
    return "\n".join(["what next:", *told, "chapter 6 of the book says how it was trained"])


def time_box(options: argparse.Namespace) -> Any:
    """The time box that --for asks for, or None; it began with the command."""
    from sto_lite.timebox import TimeBox, read_duration

    return TimeBox(read_duration(options.for_), options.started) if options.for_ else None


def make_engine(options: argparse.Namespace) -> Any:
    """What records the steps, if --graphs asks for it."""
    from sto_lite.speed import graphs

    if options.compile and options.out:  # compiled code is kept where the runs are
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.out.resolve() / "compiled"))
    return graphs.engine(options.compile) if options.graphs else None


def given(options: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The options that fill fields of a dataclass; one that was not given is absent."""
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in vars(options).items() if name in known}


def check_machine(options: argparse.Namespace) -> None:
    """Refuse a device that cannot be used here, before any work is done; and take as many threads as asked for."""
    import torch

    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"device {options.device!r} cannot be used here: {first_line(error)}") from error
    if getattr(options, "threads", None):
        torch.set_num_threads(options.threads)


def run(options: argparse.Namespace) -> int:
    """Run an experiment's jobs; status 1 if any of them failed, TIME_UP if there is more to do."""
    from sto_lite import data
    from sto_lite.experiments import forecast, paper, runner
    from sto_lite.experiments import jobs as planned
    from sto_lite.experiments.turns import JOINED, take_lanes, take_turns
    from sto_lite.scale import SCALES, chosen

    cores = check_engine(options)
    scale, asked = (options.scale, True) if options.scale else chosen()
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, not {scale!r}")
    if options.engine == "slurm" and not asked:
        raise ValueError("this machine's hardware is not the nodes': say --scale smoke, colab or paper")
    box = time_box(options)
    slurm: dict[str, str | bool] = dict(read_pair(text) for text in options.slurm or [])
    experiment = planned.choose(paper.find(options.experiment), options.rows, options.teacher_net)
    name, out = options.data or experiment.data[0], options.out
    overrides = {key: value for key, value in vars(options).items() if key in planned.OVERRIDES}
    overrides = {**experiment.protocol, **overrides}
    jobs = planned.jobs(experiment, name, read_seeds(options.seeds), scale, overrides)
    if options.dry_run:
        for job in jobs:
            print(shlex.join(["python", "-m", "sto_lite", "train", *job.arguments(out)]))
        if not data.prepared(name):
            print(f"{name} is not prepared here: {data.how_to_prepare(name)}", file=sys.stderr)
        return 0
    ready = sum(runner.finished(job, out) for job in jobs)
    if ready < len(jobs):
        runner.load(jobs[0].source)  # missing or damaged data is reported once, before any run
    # At smoke scale a run ends before a process of its own has started.
    count = options.jobs or (1 if scale == "smoke" else max(1, min(cores, len(jobs) - ready)))
    why = "" if asked else ", which this machine's hardware chose"
    what = f"{experiment.title}: {len(jobs)} runs on {name} at scale {scale}{why}"
    print(f"{what}, {ready} of them finished before")
    print(protocol(jobs, planned.SCALES[scale], overrides), flush=True)
    told = 0

    def report(outcome: runner.Outcome) -> None:
        nonlocal told
        told += 1
        print(f"[{told}/{len(jobs)}] {outcome.status:6} {outcome.job.name}: {outcome.message}", flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside, it keeps the last epochs
    device, threads, left = options.device, options.threads, jobs
    outcomes: list[runner.Outcome] = []
    if options.engine == "slurm":
        from sto_lite.experiments.slurm import Training, on_cluster

        call = Training(out.resolve(), device, threads, options.graphs, options.compile)
        outcomes = on_cluster(jobs, out, report, slurm, options.minutes or 60, call)
    else:
        if not (options.graphs or options.no_lanes):
            outcomes, left = take_lanes(jobs, out, report, options.jobs or JOINED, device, box)
        if options.graphs or count == 1:
            outcomes += take_turns(left, out, report, count, device, make_engine(options), box)
        elif left:
            print(f"{count} at a time, each in a process whose log.txt is in the run's folder", flush=True)
            look = forecast.Outlook(left, out, box, count)
            outcomes += runner.side_by_side(left, out, report, count, device, threads, box, look)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"failed: {outcome.job.name}: {outcome.message}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again", file=sys.stderr)
    elif any(outcome.status in ("begun", "left") for outcome in outcomes):
        print(forecast.closing_line(jobs, out, count if left else 1))  # a lane's seconds are its share
        return TIME_UP
    else:
        words = ["table", options.experiment, "--records", str(out)]
        words += ["--rows", *options.rows] if options.rows else []
        words += ["--teacher-net", options.teacher_net] if options.teacher_net else []
        print(f"all {len(jobs)} runs are finished: python -m sto_lite {shlex.join(words)}")
    return bool(failed)


def protocol(jobs: Sequence[Any], scale: Mapping[str, Any], overrides: Mapping[str, Any]) -> str:
    """The whole protocol of an experiment's jobs in words, and what of it comes from where."""
    values: dict[str, list[str]] = {}
    for job in jobs:
        for key, value in {**asdict(job.config), **asdict(job.source)}.items():
            word = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            if key not in ("seed", "name") and word not in values.setdefault(key, []):
                values[key].append(word)
    said = ", ".join(f"{key.replace('_', '-')} {' or '.join(words)}" for key, words in values.items())
    by_scale = [key.replace("_", "-") for key in scale if key not in overrides]
    by_hand = [key.replace("_", "-") for key in overrides]
    told = [f"{', '.join(by_scale)} from the scale"] * bool(by_scale)
    told += [f"{', '.join(by_hand)} as given"] * bool(by_hand)
    return f"protocol: {said} ({'; '.join([*told, 'all else as in the paper'])})"


def check_engine(options: argparse.Namespace) -> int:
    """Refuse options that the chosen engine does not have, and a device that is not here.

    Gives how many runs the cores hold, if each has the threads that were asked for, or one; 1 where a GPU computes.
    """
    if options.engine == "slurm":
        if options.jobs is not None:
            raise ValueError("--jobs is for one machine; Slurm decides how many run at a time")
        if options.for_:
            raise ValueError("--for is for one machine; on a cluster --minutes is the time of each job")
        return 1
    if options.slurm or options.minutes is not None:
        raise ValueError("--slurm and --minutes are for --engine slurm")
    import torch

    cores = torch.get_num_threads()
    check_machine(options)
    on_cpu = str(options.device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cpu")
    return cores // (options.threads or 1) if on_cpu and not options.graphs else 1


def table(options: argparse.Namespace) -> None:
    """Print an experiment's table from records, one for each protocol that they were made under."""
    from sto_lite import records
    from sto_lite.experiments import formats, paper, tables
    from sto_lite.experiments.jobs import choose
    from sto_lite.files import save

    experiment = choose(paper.find(options.experiment), options.rows, options.teacher_net)
    found = records.read_runs(options.records)
    if options.data:
        found = [record for record in found if record["data"]["name"] == options.data]
    made = tables.tables(experiment, found, options.split)
    if not made:
        where = ", ".join(map(str, options.records or ("runs" if Path("runs").exists() else "data/runs",)))
        where += f" on {options.data}" if options.data else ""
        raise RunError(
            f"none of the {len(found)} records in {where} belongs to {options.experiment}; make some with "
            f"python -m sto_lite run {options.experiment}"
        )
    shown = made if options.all else made[:1]
    for other in made[len(shown) :]:
        told = (
            f"{sum(len(row.records) for row in other.rows)} records under another protocol: {other.protocol}"
        )
        print(f"not shown, {told} (--all shows it)", file=sys.stderr)
    text = "\n\n".join(formats.FORMATS[options.format](one) for one in shown).rstrip("\n")
    if options.out:
        save(options.out, f"{text}\n".encode())
    else:
        print(text)


def bench(options: argparse.Namespace) -> None:
    """Measure what a step costs on this machine, print a table, and write the record."""
    import torch

    from sto_lite import records
    from sto_lite.files import save
    from sto_lite.speed import bench as benches
    from sto_lite.speed.contenders import BenchConfig

    check_machine(options)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    quick = {"net": "resnet8", "size": 16, "batch_size": 16, "seconds": 1.0, "scaling": False}
    chosen = {"precision": "bf16" if device.type == "cuda" else "float32", **(quick if options.quick else {})}
    record = benches.bench(BenchConfig(**{**chosen, **given(options, BenchConfig)}), device)
    print(benches.table(record))
    if options.out:
        save(options.out, records.encode(record))
        print(f"record: {options.out}")


def read_seeds(text: str) -> list[int]:
    """Seeds as people write them: 0-4, or 0,2,5, or both."""
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise ValueError(f"seeds are written as 0-4 or 0,2,5; {text!r} is neither")
        seeds += range(int(low), int(high or low) + 1)
    return list(dict.fromkeys(seeds))


# Options of sbatch that take no value.
FLAGS = (
    "contiguous exclusive hold no-requeue overcommit oversubscribe reboot requeue spread-job use-min-nodes"
)


def read_pair(text: str) -> tuple[str, str | bool]:
    """An option of sbatch: KEY=VALUE, or a flag."""
    key, equals, value = text.strip().removeprefix("--").partition("=")
    if not equals and key.replace("_", "-") in FLAGS.split():
        return key, True
    if not (key and equals):
        raise ValueError(
            f"an option of Slurm is written KEY=VALUE, such as partition=gpu, or is a flag, such as requeue; "
            f"{text!r} is neither"
        )
    return key, value


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "prepare": prepare,
    "train": train,
    "run": run,
    "table": table,
    "bench": bench,
    **use.COMMANDS,
}

if __name__ == "__main__":
    sys.exit(main())
