"""The paper's tables, the book's sweeps (chapters 8 and 9), and one's own: lists of cells, the rows of a table."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sto_lite.config import Config, Source
from sto_lite.errors import RunError, suggest
from sto_lite.files import expand

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One row of a table: a network, a method with its settings, and what the paper reports.

    label: what the row is called. settings: of the method, where they are not its defaults. against: the label of
    the row it is compared with. paper: top-1 errors (%) by data set. epochs: factor on the protocol's epochs, or
    "sto" for as many as give the compute of STO's. teacher: network of the trained teacher (method kd).
    """

    label: str
    method: str
    net: str = "resnet32"
    settings: Settings = field(default_factory=dict)
    against: str | None = None
    paper: Mapping[str, float] = field(default_factory=dict)
    epochs: float | str = 1.0
    teacher: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A table: its cells, the data sets it is about, and whether it compares networks or methods for one of them.

    protocol: where its runs differ from the scale, as overrides of jobs.jobs.
    """

    name: str
    title: str
    data: tuple[str, ...]
    cells: tuple[Cell, ...]
    compares_networks: bool = False
    protocol: Settings = field(default_factory=dict)


def fer_raf(fer: float, raf: float) -> dict[str, float]:
    """The paper's two columns."""
    return {"fer2013": fer, "rafdb": raf}


def table1() -> Experiment:
    """Table 1: four networks, each without and with STO."""
    cells = []
    for net, label, base, sto in (
        ("resnet32", "ResNet-32", (32.85, 18.55), (31.33, 17.80)),
        ("resnet50", "ResNet-50", (31.83, 17.67), (30.38, 16.43)),
        ("resnet110", "ResNet-110", (32.35, 19.62), (30.48, 16.53)),
        ("wrn20-2", "WRN-20-2", (31.72, 17.54), (31.27, 17.33)),
    ):
        cells.append(Cell(label, "baseline", net, paper=fer_raf(*base)))
        cells.append(Cell(f"{label} + STO", "sto", net, against=label, paper=fer_raf(*sto)))
    title = "Table 1: STO on networks of different depth and width"
    return Experiment("table1", title, ("fer2013", "rafdb"), tuple(cells), compares_networks=True)


def table2() -> Experiment:
    """Table 2: methods of online distillation, and two-stage distillation as the classical reference."""
    cells = (
        Cell("baseline", "baseline", paper=fer_raf(32.19, 18.55)),
        Cell("DML", "dml", against="baseline", paper=fer_raf(31.91, 18.48)),
        Cell("ONE", "one", against="baseline", paper=fer_raf(31.90, 17.85)),
        Cell("OKDDip", "okddip", against="baseline", paper=fer_raf(31.40, 17.42)),
        Cell("STO", "sto", against="baseline", paper=fer_raf(31.33, 17.80)),
        Cell("KD, two stages", "kd", against="baseline", teacher="resnet110"),
    )
    return Experiment("table2", "Table 2: online distillation", ("fer2013", "rafdb"), cells)


def table3() -> Experiment:
    """Table 3: STO's components."""
    rows: tuple[tuple[str, str, Settings, float], ...] = (
        ("baseline", "baseline", {}, 25.33),
        ("stochastic depth", "stochastic-depth", {}, 22.61),
        ("without distillation (λ = 0)", "sto", {"lam": 0.0}, 22.63),
        ("without backward of the full network", "sto", {"teacher_backward": False}, 23.15),
        ("STO", "sto", {}, 21.60),
    )
    cells = tuple(
        Cell(label, method, "resnet110", s, None if label == "baseline" else "baseline", {"cifar100": error})
        for label, method, s, error in rows
    )
    return Experiment("table3", "Table 3: components of STO", ("cifar100",), cells)


def figure3() -> Experiment:
    """Figure 3: training curves of ResNet-32 (FER-2013) and ResNet-110 (RAF-DB)."""
    wanted = ("ResNet-32", "ResNet-110")
    cells = tuple(cell for cell in table1().cells if cell.label.removesuffix(" + STO") in wanted)
    return Experiment("figure3", "Figure 3: training curves", ("fer2013", "rafdb"), cells, True)


def sweep(name: str, title: str, setting: str, values: Iterable[Any], default: Any) -> Experiment:
    """One setting of STO over several values, each compared with the paper's."""
    cells = []
    for value in values:
        other = {setting: value} if value != default else {}
        against = f"{title} = {default}" if other else None
        cells.append(Cell(f"{title} = {value}", "sto", settings=other, against=against))
    return Experiment(name, f"Sweep over {title}", ("fer2013", "rafdb", "cifar100"), tuple(cells))


def epochs() -> Experiment:
    """From a fifteenth of the schedule (20 of 300 epochs) to the whole of it."""
    cells = []
    for share, part in ((1 / 15, "a 15th"), (1 / 4, "a quarter"), (1 / 2, "half"), (1.0, "all")):
        for label, method in (("baseline", "baseline"), ("STO", "sto")):
            name = f"{label}, {part} of the epochs"
            against = None if label == "baseline" else f"baseline, {part} of the epochs"
            cells.append(Cell(name, method, against=against, epochs=share))
    return Experiment("epochs", "Sweep over the number of epochs", ("fer2013", "rafdb"), tuple(cells))


def compute() -> Experiment:
    """Equal compute: others trained for as many multiply-adds as STO, each beside it, in one block with Table 3."""
    *parts, sto = (replace(cell, net="resnet32", paper={}, against=None) for cell in table3().cells)
    named = {"baseline": parts[0], "stochastic depth": parts[1], "no backward": parts[3]}
    longer = [
        replace(cell, label=f"{n}, STO's compute", against="STO", epochs="sto") for n, cell in named.items()
    ]
    return Experiment("compute", "Equal compute", ("fer2013", "rafdb", "cifar100"), (*parts, *longer, sto))


def controls() -> Experiment:
    """A control that the paper lacks, label smoothing, among the rows of Table 3."""
    *parts, sto = (replace(cell, net="resnet32", paper={}) for cell in table3().cells)
    cells = (*parts, Cell("label smoothing", "label-smoothing", against="baseline"), sto)
    return Experiment("controls", "Controls", ("fer2013", "rafdb", "cifar100"), cells)


def dropped_blocks() -> Experiment:
    """Dropped blocks left alone, as here, and stepped like the others, as in Huang et al.'s code (choice 23)."""
    cells = (
        Cell("stochastic depth", "stochastic-depth"),
        Cell("dropped blocks stepped", "stochastic-depth-stepped", against="stochastic depth"),
    )
    return Experiment("dropped-blocks", "Dropped blocks", ("fer2013", "rafdb", "cifar100"), cells)


def peers_otherwise() -> Experiment:
    """DML and ONE as their authors have them, and as OKDDip's repository does (choice 25)."""
    cells = (
        Cell("DML", "dml"),
        Cell("DML as in OKDDip's code", "dml-mean", against="DML"),
        Cell("ONE", "one"),
        Cell("ONE as in OKDDip's code", "one-attached", against="ONE"),
    )
    return Experiment("peers-otherwise", "Peers in another form", ("fer2013", "rafdb"), cells)


def kin() -> Experiment:
    """STO, its relatives, and what costs little or nothing, all against the baseline (chapter 9b)."""
    rows: tuple[tuple[str, str, Settings], ...] = (
        ("label smoothing", "label-smoothing", {}),
        ("EMA", "ema", {"decay": 0.99}),
        ("stochastic depth", "stochastic-depth", {}),
        ("STO", "sto", {}),
        ("STO, teacher's gates one", "sto-otherwise", {"weighted": False}),
        ("STO, both directions", "sto", {"detach": False}),
        ("STO, gates by image", "sto-otherwise", {"gates": "image"}),
        ("STO, DKD", "sto-otherwise", {"distillation": "dkd"}),
        ("STO, DIST", "sto-otherwise", {"distillation": "dist"}),
        ("cosub", "cosub", {}),
        ("cosub, gates by image", "cosub", {"gates": "image"}),
        ("R-Drop", "r-drop", {}),
        ("R-Drop, one direction", "r-drop", {"directions": 1}),
        ("expectation-linear", "expectation-linear", {}),
        ("fraternal", "fraternal", {}),
        ("sandwich rule", "sandwich", {}),
        ("be your own teacher", "own-teacher", {}),
        ("PS-KD", "ps-kd", {"grows": 80}),
    )
    cells = [Cell(label, method, settings=settings, against="baseline") for label, method, settings in rows]
    longer = Cell("baseline, STO's compute", "baseline", against="baseline", epochs="sto")
    return Experiment(
        "kin", "STO among its kin", ("fer2013",), (Cell("baseline", "baseline"), longer, *cells)
    )


EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        table1(),
        table2(),
        table3(),
        figure3(),
        sweep("lambda", "λ", "lam", (0.0, 0.1, 0.25, 0.5, 1.0), 0.25),
        sweep("temperature", "T", "temperature", (1.0, 2.0, 3.0, 5.0, 10.0), 3.0),
        sweep("p-last", "p_L", "p_last", (0.2, 0.5, 0.8, 1.0), 0.5),
        sweep("schedule", "schedule", "schedule", ("linear", "uniform"), "linear"),
        sweep("students", "students a step", "students", (1, 2, 4), 1),
        sweep("detach", "detached teacher", "detach", (True, False), True),
        sweep("running-stats", "running statistics from", "running_stats", ("teacher", "both"), "teacher"),
        epochs(),
        compute(),
        controls(),
        dropped_blocks(),
        peers_otherwise(),
        kin(),
    )
}


def find(name: str) -> Experiment:
    """An experiment by its name; one's own is a TOML file, or package.module:NAME (an Experiment, or cells). Raises
    ValueError if there is none, and RunError if one's own cannot be read.
    """
    if name.endswith(".toml"):
        return read_toml(expand(name))
    if ":" in name:
        from sto_lite import own  # which imports torch

        found = own.find(name, "experiment")
        if not isinstance(found, Experiment):
            found = make_own(name, name, found)
        return found
    if name not in EXPERIMENTS:
        raise ValueError(
            f"no experiment is called {name!r}; there are {', '.join(EXPERIMENTS)}, and your own as a file.toml"
            f"{suggest(name, EXPERIMENTS)}"
        )
    return EXPERIMENTS[name]


def read_toml(path: Path) -> Experiment:
    """An experiment from a file: title, data, a table [protocol], and a table [[rows]] for each cell. Raises RunError
    if it cannot be read, holds an unknown key, or its rows do not fit together.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as an experiment: {error}") from error
    check_keys(told, ("title", "data", "protocol", "rows"), str(path))
    from sto_lite import registry  # which imports torch

    shapes: dict[str, type | tuple] = {"title": str, "data": (str, list), "protocol": dict, "rows": list}
    for key, kind in shapes.items():
        if key in told and not isinstance(told[key], kind):
            raise RunError(f"{path}: {key} is {told[key]!r}; book/extend.md shows one")
    known = tuple(f.name for f in fields(Cell))
    protocol = {key.replace("-", "_"): value for key, value in told.get("protocol", {}).items()}
    usual = {f.name: f.default for f in (*fields(Config), *fields(Source))}
    for key, value in protocol.items():
        number = key == "limit" or type(usual.get(key)) in (int, float)
        if number and not isinstance(value, int | float) and (key, value) != ("subset", "seed"):
            raise RunError(f"{path}: {key} is a number, not {value!r}")
    net = {"net": protocol.pop("net")} if "net" in protocol else {}
    cells = []
    for number, row in enumerate(told.get("rows", []), 1):
        where = f"row {number} of {path}"
        if not isinstance(row, dict):
            raise RunError(f"{where} is no table; write [[rows]] before each")
        check_keys(row, known, where)
        if "method" not in row:
            raise RunError(f"{where} names no method")
        if not isinstance(row.get("settings", {}), dict):
            raise RunError(f"{where}: settings is a table, such as {{ lam = 0.5 }}")
        if not isinstance(row.get("epochs", 1), int | float) and row["epochs"] != "sto":
            raise RunError(f'{where}: epochs is a factor, or "sto" for as much compute as STO')
        check_keys(row.get("settings", {}), [f.name for f in fields(registry.find(row["method"]))], where)
        cells.append(Cell(**{"label": row["method"], **net, **row}))
    data = told.get("data", "faces")
    whole = make_own(path.name, str(path), cells, told.get("title", path.stem))
    return replace(whole, data=(data,) if isinstance(data, str) else tuple(data), protocol=protocol)


def check_keys(found: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that nobody reads, as it may be a slip."""
    for key in found:
        if key not in known:
            raise RunError(f"{where} has {key}, which is none of {', '.join(known)}{suggest(key, known)}")


def make_own(name: str, where: str, cells: Iterable[Cell], title: str = "") -> Experiment:
    """An experiment of one's own; where: for messages."""
    rows = tuple(cells)
    labels = [cell.label for cell in rows]
    if not rows or len(set(labels)) < len(labels):
        raise RunError(f"{where} needs rows, each with a label of its own")
    for cell in rows:
        if cell.against is not None and cell.against not in labels:
            raise RunError(
                f"{where}: {cell.label} is compared with {cell.against}{suggest(cell.against, labels)}, "
                f"which is no row"
            )
    return Experiment(name, title or name, ("faces",), rows, len({cell.net for cell in rows}) > 1)
