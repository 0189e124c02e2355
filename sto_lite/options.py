"""The options of the command line, made from dataclasses (chapters 1, 6 and 8).

A field is an option, and what its class's docstring says after its name is the option's help; a field without a
default is an argument. The protocol, the images and the methods' settings are the dataclasses that training takes.
All are read from their source: importing most of them imports torch, which takes seconds, and help comes at once.
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from sto_lite import __version__
from sto_lite.errors import suggest
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.files import expand
from sto_lite.use import USES


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Write one prepared file from a data set as people have it.

    Reads FER-2013, RAF-DB or CIFAR-100 as a file, an archive or a folder of images, checks every row and image, and
    writes data/NAME.npz (or into $STO_DATA); or your own pictures, a folder for each class. data/README.md says where
    to get each set, and which layouts are read.

    name: the data set: fer2013, rafdb or cifar100, or with --folder a name of your own.
    from_: file, archive or folder to read.
    votes: FER+'s fer2013new.csv, to keep its votes too; fer2013 alone.
    download: fetch the archive first; cifar100 alone.
    folder: your own pictures: a folder, zip or tar with train/CLASS/ and test/CLASS/, or with CLASS/ alone.
    """

    name: str
    from_: Path | None = None
    votes: Path | None = None
    download: bool = False
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how steps are computed (chapter 7), and the time they may take.

    for_: stop in time, such as 9m, with what is begun kept, and exit status 75; the same command goes on.
    device: cpu, cuda, cuda:1 …; without it a GPU if there is one.
    threads: CPU threads of a run; without it torch's own choice.
    graphs: on a CUDA GPU, record a step of baseline, stochastic-depth or sto once and replay it; --jobs of run then
        share one process.
    compile: with --graphs: compile the network's blocks first.
    """

    for_: str | None = None
    device: str | None = None
    threads: int | None = None
    graphs: bool = False
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class Train(Machine):
    """Train one network with one method.

    Trains, evaluates, and writes checkpoint.pt, network.pt and record.json into --out. The same command resumes an
    interrupted run. Defaults are the paper's, except for --data. A setting of a method, named in brackets, is refused
    with another one.

    data: image set: faces, fer2013, rafdb, cifar100 or your own.
    method: baseline, stochastic-depth, sto, dml, one, okddip or kd; as controls label-smoothing, ema,
        stochastic-depth-stepped, dml-mean and one-attached; as STO's kin (chapter 9b) cosub, r-drop, fraternal,
        expectation-linear, sto-otherwise, sandwich, own-teacher and ps-kd; or your own, as package.module:CLASS.
    out: folder for what is written; without it nothing is kept.
    """

    data: str = "faces"
    method: str = "sto"
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Run(Machine):
    """Run an experiment: one of the paper's tables, or a sweep.

    Runs every job of an experiment that has no record yet; one that was interrupted goes on. EXPERIMENTS

    experiment: its name; or your own, a file.toml or package.module:NAME.
    data: image set; without it the paper's first one for the experiment.
    seeds: such as 0-4 or 0,2,5.
    rows: these rows of the table alone, by label or method, such as baseline STO; your own method, as
    package.module:CLASS, is one more.
    teacher_net: network of KD's teacher; without it the experiment's.
    scale: smoke, colab or paper; without it $STO_SCALE, else by the hardware.
    out: one folder a run is made there.
    engine: where it runs.
    jobs: runs at a time on this machine; without it one for each core of a CPU, in a process of its own (at smoke
        scale one), and up to nine in one launch of a GPU.
    no_lanes: on a GPU, do not train several runs in one launch of the book's own kernels (chapter 7).
    slurm: option of sbatch as KEY=VALUE, such as partition=gpu, or a flag, such as requeue; may be repeated.
    minutes: time of a Slurm job before it is requeued; without it 60.
    dry_run: print the train commands and do nothing.
    """

    experiment: str
    data: str | None = None
    seeds: str = "0"
    rows: tuple[str, ...] | None = None
    teacher_net: str | None = None
    scale: str | None = None
    out: Path = Path("runs")
    engine: Literal["local", "slurm"] = "local"
    jobs: int | None = None
    no_lanes: bool = False
    slurm: list[str] | None = None
    minutes: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print an experiment's table from records, with the paper's numbers beside.

    Means over seeds with intervals, paired tests and verdicts, one table for each protocol found. EXPERIMENTS

    experiment: its name; or your own, a file.toml or package.module:NAME.
    rows: these rows of the table alone, as for run.
    records: folders of runs or records; without any runs, and where that is missing the book's own records.
    data: records of this image set alone.
    teacher_net: network of KD's teacher; without it the experiment's.
    all: every protocol found; without it the one with most records.
    split: test split; without it the headline's, such as private.
    format: how it is written; seeds is a CSV with one line a run.
    out: file to write; without it the table is printed.
    """

    experiment: str
    rows: tuple[str, ...] | None = None
    records: tuple[Path, ...] | None = None
    data: str | None = None
    teacher_net: str | None = None
    all: bool = False
    split: str | None = None
    format: Literal["text", "markdown", "html", "latex", "csv", "seeds"] = "text"
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure what a training step costs on this machine.

    Times baseline, stochastic depth, STO in its forms and the competitors in one process, in rounds, and prints
    medians, quartiles, and ratios beside those of multiply-adds. About five minutes on two CPU cores. Defaults are
    those of the book's record, with bf16 on a GPU.

    device: cpu, cuda, cuda:1 …; without it a GPU if there is one.
    out: file for the record, as JSON.
    quick: a tiny network for a second: shows the form alone.
    """

    device: str | None = None
    out: Path | None = None
    quick: bool = False


def subset(text: str) -> int | str:
    """A number, or the word seed."""
    return text if text == "seed" else int(text)


KINDS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "Path": expand,
    "subset": subset,
}


# ---------------------------------------------------------------------------------- dataclasses, unimported


class Setting(NamedTuple):
    """A field of a dataclass. kind: its annotation. default: … where there is none. help: what its docstring says."""

    name: str
    kind: str
    default: Any
    help: str


@cache
def syntax(module: str) -> ast.Module:
    """The syntax tree of a module of this package, such as "sto_lite.kd"; an empty one for others."""
    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8") if module.startswith("sto_lite.") else "")


def find(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """A class that a module defines or imports, and the module that defines it."""
    for node in syntax(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return find(node.module or "", name)
    return None


def settings(module: str, name: str) -> dict[str, Setting]:
    """The fields of a dataclass, with those that it inherits, without those that are "filled" in by the class."""
    found: dict[str, Setting] = {}
    if (place := find(module, name)) is None:
        return found
    module, node = place
    for base in node.bases:
        found |= settings(module, ast.unparse(base))
    fields = {ast.unparse(n.target): n for n in node.body if isinstance(n, ast.AnnAssign)}
    said = descriptions(ast.get_docstring(node) or "", fields)
    for key, field in fields.items():
        default = eval(ast.unparse(field.value), {"Path": Path, "field": dict}) if field.value else ...
        if isinstance(default, dict):  # field(default=…, metadata=…)
            if default["metadata"].get("filled"):
                continue
            default = default["default"]
        found[key] = Setting(key, ast.unparse(field.annotation), default, said.get(key, ""))
    return found


def descriptions(docstring: str, names: Iterable[str]) -> dict[str, str]:
    """What a docstring says of each name, in lines or sentences that begin with it, or with some, and a colon."""
    one = "|".join(map(re.escape, names))
    found: dict[str, str] = {}
    for paragraph in docstring.split("\n\n") if one else ():
        _, *parts = re.split(rf"(?<!\S)((?:{one})(?:, (?:{one}))*): ", " ".join(paragraph.split()))
        for together, text in zip(parts[::2], parts[1::2], strict=True):
            found |= dict.fromkeys(together.split(", "), text.rstrip(". "))
    return found


def methods() -> dict[str, dict[str, Setting]]:
    """The settings of every method that registry.METHODS holds, by the method's name."""
    found: dict[str, dict[str, Setting]] = {}
    for node in ast.walk(next(n for n in syntax("sto_lite.registry").body if isinstance(n, ast.AnnAssign))):
        if isinstance(node, ast.Name) and (fields := settings("sto_lite.registry", node.id)):
            found[fields.pop("name").default] = fields
    return found


def of_own(arguments: Sequence[str]) -> dict[str, dict[str, Setting]]:
    """The settings of a method of one's own, as `methods` gives them, if the arguments name one. Raises RunError if
    it cannot be imported, and ValueError if a setting is called like an option that train has.
    """
    chosen = [after for word, after in pairwise(arguments) if word == "--method"]
    chosen += [word.removeprefix("--method=") for word in arguments if word.startswith("--method=")]
    if not chosen or ":" not in chosen[-1]:
        return {}
    from sto_lite import own

    found: dict[str, Setting] = {}
    for name, (kind, default, said) in own.settings(chosen[-1]).items():
        written = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        text = descriptions(said, [name]).get(name, "")
        if written in KINDS or written == "bool":  # others keep their defaults
            found[name] = Setting(name, written, None if default is MISSING else default, text)
    taken = [settings("sto_lite.config", kind) for kind in ("Config", "Source")]
    for name in {*found} & {"verb", "help", "started", *settings(__name__, "Train"), *taken[0], *taken[1]}:
        raise ValueError(f"{chosen[-1]} has a setting {name}, as train itself has; call it otherwise")
    return {chosen[-1]: found}


def merged(every: dict[str, dict[str, Setting]]) -> dict[str, Setting]:
    """Every setting of these methods once, with the names of its methods, and its defaults where they differ."""
    found: dict[str, Setting] = {}
    for name in dict.fromkeys(name for fields in every.values() for name in fields):
        owners = {method: fields[name] for method, fields in every.items() if name in fields}
        first = next(iter(owners.values()))
        text, defaults = f"[{', '.join(owners)}] {first.help}", [field.default for field in owners.values()]
        if len(set(defaults)) > 1:
            each = ", ".join(f"{method} {worded(field.default)}" for method, field in owners.items())
            text, first = f"{text} (default: {each})", first._replace(default=None)
        found[name] = first._replace(help=text)
    return found


# -------------------------------------------------------------------------------------------------- argparse


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, what may be meant, and where the options are listed."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here, where their neighbours are known."""
        found, unknown = super().parse_known_args(args, namespace)
        many = next((a for a in self._get_positional_actions() if a.nargs in ("*", "+")), None)
        if many and unknown and not any(word.startswith("-") for word in unknown):
            later = [self._get_value(many, word) for word in unknown]  # what stands behind an option
            setattr(found, many.dest, [*getattr(found, many.dest), *later])
            unknown = []
        if unknown:
            self.error(f"there is no option {unknown[0]}{suggest(unknown[0], self._option_string_actions)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the line and end with status 2."""
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            known = re.findall(r"[\w-]+", wrong[2])
            message = f"{wrong[1]!r} is none of {', '.join(known)}{suggest(wrong[1], known)}"
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists what there is)\n")


def worded(value: object) -> str:
    """A default as help shows it; nothing for None."""
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return " ".join(map(str, value))
        case _:
            return "" if value is None else str(value)


def add(p: Any, fields: Mapping[str, Setting], shown: str = "", absent: bool = False) -> None:
    """An option for each field, or an argument where a field has no default.

    p: parser or group of options. shown: what the help says in place of the fields' defaults. absent: an option that
    is not given is absent, so that the dataclass's own default holds later.
    """
    for name, (_, kind, value, text) in fields.items():
        words: dict[str, Any] = {"default": argparse.SUPPRESS if absent else value, "help": text}
        if value is not ... and worded(value) and (absent or kind != "bool"):
            words["help"] += f" (default: {shown or worded(value)})"
        words["help"] = words["help"].replace("%", "%%")
        kind = kind.removesuffix(" | None")
        if kind == "bool":
            words["action"] = argparse.BooleanOptionalAction if absent else "store_true"
        elif kind.startswith("Literal"):
            words["choices"] = ast.literal_eval(kind.removeprefix("Literal"))
        else:
            words |= {"type": KINDS[re.sub(r"\w+\[(\w+).*", r"\1", kind)], "metavar": name.strip("_").upper()}
            if kind.startswith("list"):
                words["action"] = "append"
            elif kind.startswith("tuple"):
                words["nargs"] = "*" if absent else "+"
        if value is ...:
            many = "*" if kind.startswith("tuple") else None
            p.add_argument(name, help=text, type=words["type"], nargs=many)
        else:
            p.add_argument(f"--{name.strip('_').replace('_', '-')}", dest=name, **words)


def program() -> str:
    """What the person has typed to call us."""
    return "sto" if Path(sys.argv[0]).stem == "sto" else "python -m sto_lite"


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The commands and their options, each with the paper's default; arguments: for a method of one's own."""
    top = Parser(prog=program(), description="Student-Teacher Oneness: the book's code.")
    top.add_argument(
        "--version", action="version", version=f"sto_lite {__version__}", help="print it and end"
    )
    names = " | ".join([verb.__name__.lower() for verb in (Prepare, Train, *USES, Run, Table, Bench)])
    verbs = top.add_subparsers(dest="verb", required=True, metavar=names)
    config = settings("sto_lite.config", "Config")
    source = settings("sto_lite.config", "Source")
    del source["name"]  # it is --data
    seedless = {name: field for name, field in (config | source).items() if name != "seed"}
    draw = seedless["subset"]  # of a queue, each seed may have its own
    seedless["subset"] = draw._replace(
        kind="subset", help=f"{draw.help}, or the word seed: each seed its own"
    )
    measured = {  # what a bench shares with the protocol is explained there
        name: field._replace(help=field.help or (config | source)[name].help)
        for name, field in settings("sto_lite.speed.contenders", "BenchConfig").items()
    }
    for verb, absent in (
        (Prepare, settings("sto_lite.intake.own", "Own")),
        (Train, config | source | merged(of_own(arguments) or methods())),
        *((use, {}) for use in USES),
        (Run, seedless),
        (Table, {}),
        (Bench, measured),
    ):
        summary, text, *_ = (verb.__doc__ or "").split("\n\n")
        text = " ".join(text.split()).replace("EXPERIMENTS", f"Experiments: {', '.join(EXPERIMENTS)}.")
        p = verbs.add_parser(verb.__name__.lower(), help=summary.rstrip("."), description=text)
        add(p, settings(verb.__module__, verb.__name__))
        add(p, absent, "what the scale says" if verb is Run else "", absent=True)
    return top
