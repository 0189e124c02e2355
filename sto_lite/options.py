"""The options of the command line (chapters 1, 6 and 8); made without importing torch, so that help comes at once."""

import argparse

from sto_lite.sets import PUBLISHED

# Spelt out, so that asking for help does not import torch; a test holds them to the modules.
DATA = ["faces", *PUBLISHED]
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


def parser() -> argparse.ArgumentParser:
    """The commands and their options, each with the paper's default."""
    top = argparse.ArgumentParser(
        prog="python -m sto_lite", description="Student-Teacher Oneness: the book's code."
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="prepare | train | run | table | bench")

    p = verbs.add_parser(
        "prepare",
        help="write one prepared file from a data set as people have it",
        description="Reads FER-2013, RAF-DB or CIFAR-100 as a file, an archive or a folder of images, checks "
        "every row and image, and writes data/NAME.npz (or into $STO_DATA). data/README.md says where to get "
        "each set, and which layouts are read.",
    )
    p.add_argument("name", choices=list(PUBLISHED), help="the data set: %(choices)s", metavar="NAME")
    origin = p.add_mutually_exclusive_group(required=True)
    origin.add_argument("--from", dest="source", metavar="PATH", help="file, archive or folder to read")
    origin.add_argument("--download", action="store_true", help="fetch the archive first; cifar100 alone")

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
    graph_options(t)
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
        "--detach",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="[sto, okddip] the teacher is a constant in the distillation term (default: in sto yes, in okddip no)",
    )
    m.add_argument(
        "--teacher-backward",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help='[sto] gradient through the full network (default: yes; no is Table 3\'s "W/O Backward Full network")',
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
    r.add_argument("--jobs", type=int, help="runs at a time on this machine (default: 1)")
    r.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of sbatch, such as partition=gpu",
    )
    r.add_argument("--minutes", type=int, help="time of a Slurm job before it is requeued (default: 60)")
    r.add_argument("--dry-run", action="store_true", help="print the train commands and do nothing")
    graph_options(r)
    machine_options(r)
    protocol_options(r, "what the scale says")

    b = verbs.add_parser(
        "table",
        help="print an experiment's table from records, with the paper's numbers beside",
        description="Means over seeds with intervals, paired tests and verdicts, one table for each protocol found. "
        f"Experiments: {', '.join(EXPERIMENTS)}.",
    )
    b.add_argument("experiment", help="its name")
    b.add_argument(
        "--records",
        metavar="DIR",
        nargs="+",
        default=["runs"],
        help="folders of runs or records (default: runs)",
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

    b = verbs.add_parser(
        "bench",
        help="measure what a training step costs on this machine",
        description="Times baseline, stochastic depth, STO in its forms and the competitors in one process, in "
        "rounds, and prints medians, quartiles, and ratios beside those of multiply-adds. About five minutes on two "
        "CPU cores. Defaults are those of the book's record.",
    )
    b.add_argument("--net", help="network (default: resnet32)")
    b.add_argument("--size", type=int, help="height and width of an image in pixels (default: 32)")
    b.add_argument("--batch-size", type=int, help="images a step (default: 128)")
    b.add_argument(
        "--precision",
        choices=["float32", "bf16", "fp16"],
        help="of the convolutions (default: float32 on a CPU, bf16 on a CUDA GPU)",
    )
    b.add_argument("--seconds", type=float, help="to measure for, and half of it for scaling (default: 150)")
    b.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    b.add_argument("--out", metavar="FILE", help="write the record there, as JSON")
    b.add_argument("--quick", action="store_true", help="a tiny network for a second: shows the form alone")
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
        "--subset",
        type=lambda text: text if default and text == "seed" else int(text),
        default=argparse.SUPPRESS if default else 0,
        metavar="N",
        help="which draw of --limit's images"
        + (", or the word seed: each seed its own" if default else "")
        + f" (default: {default or 0})",
    )
    p.add_argument(
        "--drop-at",
        type=float,
        nargs="*",
        default=argparse.SUPPRESS if default else (0.5, 0.75),
        metavar="F",
        help=f"fractions of the epochs at which the learning rate drops (default: {default or '0.5 0.75'})",
    )
    p.add_argument(
        "--precision",
        choices=["float32", "bf16", "fp16"],
        default=argparse.SUPPRESS if default else "float32",
        help=f"of the convolutions; fp16 is for GPUs without bf16 (default: {default or 'float32'})",
    )
    p.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        default=argparse.SUPPRESS if default else True,
        help="no random crops and flips",
    )


def graph_options(p: argparse.ArgumentParser) -> None:
    """Options for steps that are recorded (chapter 7)."""
    p.add_argument(
        "--graphs",
        action="store_true",
        help="on a CUDA GPU, record a step of baseline, stochastic-depth or sto once and replay it; --jobs of run "
        "then share one process",
    )
    p.add_argument("--compile", action="store_true", help="with --graphs: compile the network's blocks first")


def machine_options(p: argparse.ArgumentParser) -> None:
    """Options for the machine that runs it, and the time it may take."""
    p.add_argument(
        "--for",
        dest="time",
        metavar="TIME",
        help="stop in time, such as 9m, with what is begun kept, and exit status 75; the same command goes on "
        "(default: no limit)",
    )
    p.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    p.add_argument("--threads", type=int, help="CPU threads of a run (default: torch's own choice)")
