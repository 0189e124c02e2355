"""The command line: python -m sto_lite prepare | train | bench (chapters 1, 6 and 7)."""

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
    usable(options.device)
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


def usable(device: str | None) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        RunError: it cannot.
    """
    import torch

    try:
        torch.empty(0, device=device or "cpu")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {device!r} cannot be used here: {reason}") from error


def bench(options: argparse.Namespace) -> None:
    """Measure what a step costs on this machine, print a table, and write the record."""
    import torch

    from sto_lite import bench as benches
    from sto_lite import records
    from sto_lite.contenders import BenchConfig
    from sto_lite.files import write_atomically

    usable(options.device)
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
        out = Path(options.out)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, records.encode(record))
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror or error}") from error
        print(f"record: {out}")


def parser() -> argparse.ArgumentParser:
    """The commands and their options, each with the paper's default."""
    top = argparse.ArgumentParser(
        prog="python -m sto_lite", description="Student-Teacher Oneness: the book's code."
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="prepare | train | bench")

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
    b.set_defaults(command=bench)
    return top


if __name__ == "__main__":
    sys.exit(main())
