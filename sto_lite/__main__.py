"""The command line: python -m sto_lite prepare | train (chapters 1 and 6)."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from sto_lite.errors import RunError, StoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message on standard error and status 2."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except (StoError, ValueError) as error:
        print(f"sto_lite {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"sto_lite {options.verb}: stopped; the same command goes on from where it can", file=sys.stderr
        )
        return 130
    return 0


def prepare(options: argparse.Namespace) -> None:
    """Write one prepared file from what the user has, and tell what is in it."""
    from sto_lite import data
    from sto_lite import prepare as sources

    path = sources.fer2013(Path(options.source), data.root())
    print(f"prepared: {path}")


def train(options: argparse.Namespace) -> None:
    """Train one network and print its errors."""
    import torch

    from sto_lite import data, registry
    from sto_lite.train import Config, fit

    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"threads is at least 1; {options.threads} is not")
        torch.set_num_threads(options.threads)
    if options.device:
        try:
            torch.empty(0, device=options.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"device {options.device!r} cannot be used here: {reason}") from error
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
    record = fit(method, images, config, options.out, options.device, graphs=options.graphs).record
    for split, result in record["result"].items():
        print(
            f"{options.method} {options.net} {options.data} seed {options.seed}: {split} error "
            f"{result['error']:.2f} % in the last epoch, "
            f"{result['best_error']:.2f} % in the best ({result['best_epoch']})"
        )
    if options.out:
        print(f"record: {Path(options.out) / 'record.json'}")


def parser() -> argparse.ArgumentParser:
    """The commands and their options, each with the paper's default."""
    top = argparse.ArgumentParser(
        prog="python -m sto_lite", description="Student-Teacher Oneness: the book's code."
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="prepare | train")

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
    text: dict[str, tuple[type, object, str]] = {
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
        "seed": (int, 0, "of weights, batches and gates"),
        "evaluate-every": (int, 1, "epochs from one evaluation to the next"),
        "size": (int, 32, "height and width of an image in pixels"),
    }
    t.add_argument("--data", default="faces", choices=["faces", "fer2013"], help="image set (default: faces)")
    t.add_argument(
        "--method",
        default="sto",
        choices=["baseline", "stochastic-depth", "sto", "dml", "one", "okddip", "kd"],
        help="training method (default: sto)",
    )
    for name, (kind, default, explanation) in text.items():
        t.add_argument(f"--{name}", type=kind, default=default, help=f"{explanation} (default: %(default)s)")
    t.add_argument(
        "--precision",
        default="float32",
        choices=["float32", "bf16", "fp16"],
        help="of the convolutions (default: float32); fp16 is for GPUs without bf16",
    )
    t.add_argument(
        "--graphs",
        action="store_true",
        help="on a CUDA GPU, record a step of baseline or sto once and replay it",
    )
    t.add_argument(
        "--drop-at",
        type=float,
        nargs="*",
        default=(0.5, 0.75),
        metavar="F",
        help="fractions of the epochs at which the learning rate drops (default: 0.5 0.75)",
    )
    t.add_argument("--no-augment", dest="augment", action="store_false", help="no random crops and flips")
    t.add_argument("--limit", type=int, help="train on so many images, chosen always alike (default: all)")
    t.add_argument("--difficulty", type=float, default=1.0, help="of faces, 0 to 2 (default: 1)")
    t.add_argument(
        "--label-noise", type=float, default=0.0, help="share of wrong training labels of faces (default: 0)"
    )
    t.add_argument(
        "--out", metavar="DIR", help="folder for checkpoint, network and record (default: keep nothing)"
    )
    t.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    t.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")

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
    return top


if __name__ == "__main__":
    sys.exit(main())
