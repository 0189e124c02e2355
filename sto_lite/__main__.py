"""The command line: python -m sto_lite prepare | train | run | table (chapters 1, 6 and 8)."""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sto_lite.errors import RunError, StoError
from sto_lite.files import write_atomically

# Spelt out, so that asking for help does not import torch; a test holds them to the modules.
DATA = ["faces", "fer2013"]
EXPERIMENTS = [
    "table1",
    "table2",
    "table3",
    "figure3",
    "lambda",
    "temperature",
    "p-last",
    "schedule",
    "students",
]
EXPERIMENTS += ["detach", "running-stats", "epochs", "compute"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message on standard error and status 2."""
    options = parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except (StoError, ValueError) as error:
        print(f"sto_lite {options.verb}: {error}", file=sys.stderr)
        return 2
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
    from sto_lite import prepare as sources

    path = sources.fer2013(Path(options.source), data.root())
    print(f"prepared: {path}")


def train(options: argparse.Namespace) -> None:
    """Train one network and print its errors."""
    from sto_lite import data, registry
    from sto_lite.train import Config, fit

    set_threads(options.threads)
    check_device(options.device)
    known = {field.name for method in registry.METHODS.values() for field in dataclasses.fields(method)}
    method = registry.make(options.method, **{k: v for k, v in vars(options).items() if k in known})
    config = Config(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Config)})
    images = data.load(
        options.data,
        options.size,
        options.limit,
        difficulty=options.difficulty,
        label_noise=options.label_noise,
    )
    record = fit(method, images, config, options.out, options.device).record
    for split, result in record["result"].items():
        print(
            f"{options.method} {options.net} {options.data} seed {options.seed}: {split} error "
            f"{result['error']:.2f} % in the last epoch, "
            f"{result['best_error']:.2f} % in the best ({result['best_epoch']})"
        )
    if options.out:
        print(f"record: {Path(options.out) / 'record.json'}")


def check_device(device: str | None) -> None:
    """Refuse a device that cannot be used here, before any work is done."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {device!r} cannot be used here: {reason}") from error


def run(options: argparse.Namespace) -> int:
    """Run an experiment's jobs; status 1 if any of them failed."""
    from sto_lite import experiments, runner
    from sto_lite.scale import SCALES, chosen

    check_device(options.device)
    scale = options.scale or chosen()[0]
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, not {scale!r}")
    if options.jobs < 1:
        raise ValueError(f"jobs is at least 1; {options.jobs} is not")
    experiment, out = experiments.find(options.experiment), Path(options.out)
    overrides = {key: value for key, value in vars(options).items() if key in experiments.OVERRIDES}
    data = options.data or experiment.data[0]
    jobs = experiments.jobs(experiment, data, read_seeds(options.seeds), scale, overrides)
    if options.dry_run:
        for job in jobs:
            print(shlex.join(["python", "-m", "sto_lite", "train", *job.arguments(out)]))
        return 0
    ready = sum(runner.finished(job, out) for job in jobs)
    print(f"{experiment.title}: {len(jobs)} runs on {data} at scale {scale}, {ready} of them finished before")
    told = 0

    def report(outcome: runner.Outcome) -> None:
        nonlocal told
        told += 1
        print(f"[{told}/{len(jobs)}] {outcome.status:6} {outcome.job.name}: {outcome.message}", flush=True)

    if options.engine == "slurm":
        from sto_lite.slurm import on_cluster

        given = dict(read_pair(text) for text in options.slurm)
        outcomes = on_cluster(jobs, out, report, given, options.minutes)
    elif options.jobs > 1:
        outcomes = runner.side_by_side(jobs, out, report, options.jobs, options.device, options.threads)
    else:
        set_threads(options.threads)
        outcomes = runner.one_by_one(jobs, out, report, options.device)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"failed: {outcome.job.name}: {outcome.message}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again", file=sys.stderr)
    else:
        print(
            f"all {len(jobs)} runs are finished: python -m sto_lite table {experiment.name} --records {out}"
        )
    return bool(failed)


def table(options: argparse.Namespace) -> None:
    """Print an experiment's table from records, one for each protocol that they were made under."""
    from sto_lite import experiments, records, tables

    experiment = experiments.find(options.experiment)
    found = records.read_folder(Path(options.records))
    if options.data:
        found = [record for record in found if record["data"]["name"] == options.data]
    made = tables.tables(experiment, found, options.split)
    if not made:
        where = f"{options.records}{f' on {options.data}' if options.data else ''}"
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
    text = "\n\n".join(tables.FORMATS[options.format](one) for one in shown)
    if options.out:
        write_atomically(Path(options.out), (text.rstrip("\n") + "\n").encode())
    else:
        print(text.rstrip("\n"))


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


def parser() -> argparse.ArgumentParser:
    """The commands and their options, each with the paper's default."""
    top = argparse.ArgumentParser(
        prog="python -m sto_lite", description="Student-Teacher Oneness: the book's code."
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="prepare | train | run | table")

    p = verbs.add_parser(
        "prepare",
        help="write one prepared file from a data set as people have it",
        description="Reads fer2013.csv or icml_face_data.csv, the archive that holds it, or the train/ and "
        "test/ folders of images, checks every row, and writes data/fer2013.npz (or into $STO_DATA).",
    )
    p.add_argument("name", choices=["fer2013"], help="the data set")
    p.add_argument(
        "--from", dest="source", required=True, metavar="PATH", help="file, archive or folder to read"
    )
    p.set_defaults(command=prepare)

    t = verbs.add_parser(
        "train",
        help="train one network with one method",
        description="Trains, evaluates, and writes checkpoint.pt, network.pt and record.json into "
        "--out. The same command resumes an interrupted run. Defaults are the paper's, except for --data.",
    )
    t.add_argument("--data", default="faces", choices=DATA, help="image set (default: faces)")
    t.add_argument(
        "--method",
        default="sto",
        choices=["baseline", "stochastic-depth", "sto", "dml", "one", "okddip", "kd"],
        help="training method (default: sto)",
    )
    protocol_options(t)
    t.add_argument("--seed", type=int, default=0, help="of weights, batches and gates (default: 0)")
    t.add_argument(
        "--out", metavar="DIR", help="folder for checkpoint, network and record (default: keep nothing)"
    )
    machine_options(t)

    m = t.add_argument_group(
        "settings of the methods", "each of the methods in brackets; of another one it is refused"
    )
    m.add_argument(
        "--p-last",
        type=float,
        default=argparse.SUPPRESS,
        help="[stochastic-depth, sto] survival of the last block (default: 0.5)",
    )
    m.add_argument(
        "--schedule",
        choices=["linear", "uniform"],
        default=argparse.SUPPRESS,
        help="[stochastic-depth, sto] of survival (default: linear)",
    )
    m.add_argument(
        "--temperature", type=float, default=argparse.SUPPRESS, help="[sto, one, okddip, kd] T (default: 3)"
    )
    m.add_argument(
        "--lam", type=float, default=argparse.SUPPRESS, help="[sto, kd] λ of Eq. 9 (default: 0.25)"
    )
    m.add_argument(
        "--students", type=int, default=argparse.SUPPRESS, help="[sto] sub-networks a step (default: 1)"
    )
    m.add_argument(
        "--no-detach",
        dest="detach",
        action="store_false",
        default=argparse.SUPPRESS,
        help="[sto] let the distillation term's gradient into the teacher (default: the teacher is a constant there)",
    )
    m.add_argument(
        "--no-teacher-backward",
        dest="teacher_backward",
        action="store_false",
        default=argparse.SUPPRESS,
        help='[sto] no gradient through the full network, "W/O Backward Full network" in Table 3',
    )
    m.add_argument(
        "--running-stats",
        choices=["teacher", "both"],
        default=argparse.SUPPRESS,
        help="[sto] passes that update batch norm's running statistics (default: teacher)",
    )
    m.add_argument("--networks", type=int, default=argparse.SUPPRESS, help="[dml] networks (default: 3)")
    m.add_argument("--branches", type=int, default=argparse.SUPPRESS, help="[one] branches (default: 3)")
    m.add_argument(
        "--peers",
        type=int,
        default=argparse.SUPPRESS,
        help="[okddip] branches besides the leader (default: 3)",
    )
    m.add_argument(
        "--ramp",
        type=int,
        default=argparse.SUPPRESS,
        help="[one, okddip] epochs over which distillation is let in (default: 80)",
    )
    m.add_argument(
        "--teacher",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="[kd] folder of a finished run, or its network.pt",
    )
    t.set_defaults(command=train)

    r = verbs.add_parser(
        "run",
        help="run an experiment: one of the paper's tables, or a sweep",
        description="Runs every job of an experiment that has no record yet; one that was interrupted goes on. "
        f"Experiments: {', '.join(EXPERIMENTS)}.",
    )
    r.add_argument("experiment", help="its name")
    r.add_argument(
        "--data", choices=DATA, help="image set (default: the paper's first one for the experiment)"
    )
    r.add_argument("--seeds", default="0", help="such as 0-4 or 0,2,5 (default: 0)")
    r.add_argument("--scale", help="smoke, colab or paper (default: $STO_SCALE, else by the hardware)")
    r.add_argument(
        "--out", metavar="DIR", default="runs", help="folder with one folder a run (default: runs)"
    )
    r.add_argument("--engine", choices=["local", "slurm"], default="local", help="where (default: local)")
    r.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine (default: 1)")
    r.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of sbatch, such as partition=gpu",
    )
    r.add_argument(
        "--minutes", type=int, default=60, help="a Slurm job's time before it is requeued (default: 60)"
    )
    r.add_argument("--dry-run", action="store_true", help="print the train commands and do nothing")
    machine_options(r)
    protocol_options(r, "what the scale says")
    r.set_defaults(command=run)

    b = verbs.add_parser(
        "table",
        help="print an experiment's table from records, with the paper's numbers beside",
        description="Means over seeds with intervals, paired tests and verdicts, one table for each protocol found. "
        f"Experiments: {', '.join(EXPERIMENTS)}.",
    )
    b.add_argument("experiment", help="its name")
    b.add_argument(
        "--records", metavar="DIR", default="runs", help="folder of runs or records (default: runs)"
    )
    b.add_argument("--data", choices=DATA, help="records of this image set alone")
    b.add_argument(
        "--all", action="store_true", help="every protocol found (default: the one with most records)"
    )
    b.add_argument("--split", help="test split (default: the headline's, such as private)")
    b.add_argument(
        "--format", choices=["text", "markdown", "html", "csv"], default="text", help="(default: text)"
    )
    b.add_argument("--out", metavar="FILE", help="write there (default: print)")
    b.set_defaults(command=table)
    return top


def protocol_options(p: argparse.ArgumentParser, default: str = "") -> None:
    """Options for the fields of Config and of the image set: with the paper's values, or with none of their own.

    Args:
        p: gets the options.
        default: what the help says in place of the paper's values; an option that is not given is then absent.
    """
    options: dict[str, tuple[type, object, str]] = {
        "net": (
            str,
            "resnet32",
            "resnet8, 14, 20, 32, 44, 50, 56, 110 (bottleneck), resnet110-basic, wrn20-2",
        ),
        "epochs": (int, 300, "passes over the training images"),
        "batch-size": (int, 128, "images a step"),
        "lr": (float, 0.1, "initial learning rate of SGD with Nesterov momentum"),
        "momentum": (float, 0.9, "momentum"),
        "weight-decay": (float, 1e-4, "L2 penalty on all parameters"),
        "drop-by": (float, 0.1, "factor of the learning rate at each drop"),
        "evaluate-every": (int, 1, "epochs from one evaluation to the next"),
        "size": (int, 32, "height and width of an image in pixels"),
        "limit": (int, None, "train on so many images, chosen always alike"),
        "difficulty": (float, 1.0, "of faces, 0 to 2"),
        "label-noise": (float, 0.0, "share of wrong training labels of faces"),
    }
    for name, (kind, value, text) in options.items():
        shown = default or ("all" if value is None else value)
        given = argparse.SUPPRESS if default else value
        p.add_argument(f"--{name}", type=kind, default=given, help=f"{text} (default: {shown})")
    p.add_argument(
        "--drop-at",
        type=float,
        nargs="*",
        default=argparse.SUPPRESS if default else (0.5, 0.75),
        metavar="F",
        help=f"fractions of the epochs at which the learning rate drops (default: {default or '0.5 0.75'})",
    )
    p.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        default=argparse.SUPPRESS if default else True,
        help="no random crops and flips",
    )


def machine_options(p: argparse.ArgumentParser) -> None:
    """Options for the machine that runs it."""
    p.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    p.add_argument("--threads", type=int, help="CPU threads of a run (default: torch's own choice)")


if __name__ == "__main__":
    sys.exit(main())
