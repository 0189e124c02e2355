"""The paper's tables and the book's sweeps as lists of runs (chapters 8 and 9).

An experiment is a list of cells, the rows of its table. With data, seeds and a protocol it becomes a list of jobs:
runs whose folder's name follows from their settings, so that two experiments share what they have in common.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sto_lite import costs, registry
from sto_lite.train import Config, plain

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Which images a run sees: the arguments of data.load."""

    name: str
    size: int = 32
    limit: int | None = None
    difficulty: float = 1.0
    label_noise: float = 0.0


OVERRIDES = {f.name for kind in (Source, Config) for f in fields(kind)} - {"name", "seed"}

# What a scale changes in the paper's protocol. At "smoke" the networks stay and only show that everything runs.
SCALES: dict[str, Settings] = {
    "paper": {},
    "colab": {"epochs": 30, "evaluate_every": 5},
    "smoke": {"epochs": 2, "evaluate_every": 2, "batch_size": 32, "size": 8, "limit": 64},
}


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
    """A table: its cells, the data sets it is about, and whether it compares networks or methods for one of them."""

    name: str
    title: str
    data: tuple[str, ...]
    cells: tuple[Cell, ...]
    compares_networks: bool = False


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
    cells = [
        Cell(
            f"{title} = {value}",
            "sto",
            settings={} if value == default else {setting: value},
            against=None if value == default else f"{title} = {default}",
        )
        for value in values
    ]
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
    """Equal epochs against equal compute: the baseline trained for as many multiply-adds as STO."""
    cells = (
        Cell("baseline", "baseline"),
        Cell("baseline, STO's compute", "baseline", against="baseline", epochs="sto"),
        Cell("STO", "sto", against="baseline, STO's compute"),
    )
    return Experiment("compute", "Equal compute", ("fer2013", "rafdb", "cifar100"), cells)


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
    )
}


def find(name: str) -> Experiment:
    """An experiment by its name.

    Raises:
        ValueError: there is none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment is called {name!r}; there are {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


# ------------------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """One run. label: of the first cell that asked for it. teacher: the run whose network teaches (method kd)."""

    label: str
    source: Source
    method: str
    settings: Settings
    config: Config
    teacher: "Job | None" = None

    @property
    def name(self) -> str:
        """The run's folder: readable, and different for different runs."""
        changed = "".join(f"-{key}={value}" for key, value in self.settings.items()).replace("_", "-")
        parts = [self.source.name, self.config.net, f"{self.method}{changed}", f"s{self.config.seed}"]
        return "-".join([*parts, self.digest])

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of all settings that make a difference."""
        teacher = self.teacher.digest if self.teacher else None
        known = fields(registry.METHODS[self.method])
        method = {f.name: f.default for f in known if not f.metadata.get("local")}
        for (
            key,
            value,
        ) in self.settings.items():  # so that 0 and 0.0, or a default that is given, are the same
            method[key] = float(value) if isinstance(method[key], float) else value
        identity = [asdict(self.source), self.method, method, plain(self.config), teacher]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]

    def arguments(self, out: Path) -> list[str]:
        """The job as options of `python -m sto_lite train`; `out` holds one folder a job."""
        words = ["--data", self.source.name, "--method", self.method, "--out", str(out / self.name)]
        for part, default in ((self.source, Source(self.source.name)), (self.config, Config())):
            for f in fields(part):
                value = getattr(part, f.name)
                if value != getattr(default, f.name):
                    words += option(f.name, value)
        for key, value in self.settings.items():
            words += option(key, value)
        return [*words, "--teacher", str(out / self.teacher.name)] if self.teacher else words


def option(name: str, value: object) -> list[str]:
    """A setting as `train` takes it: --p-last 0.5, --no-detach, --drop-at 0.5 0.75."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, tuple | list) else (value,)
    return [f"--{flag}", *map(str, values)]


def jobs(
    experiment: Experiment,
    data: str,
    seeds: Sequence[int] = (0,),
    scale: str = "paper",
    overrides: Settings | None = None,
) -> list[Job]:
    """Every run of an experiment on one data set, teachers first, each once.

    Args:
        experiment: what to run.
        data: name for data.load.
        seeds: of weights, batches and gates; a seed pairs the methods.
        scale: a key of SCALES.
        overrides: fields of Source and Config that win over the scale's, such as {"net": "resnet14"}.

    Raises:
        ValueError: an override that no run has; or a network for an experiment that compares networks.
    """
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in (overrides or {}).items()}
    if unknown := sorted(set(overrides) - OVERRIDES):
        raise ValueError(f"a run has no setting {', '.join(unknown)}; it has {', '.join(sorted(OVERRIDES))}")
    if experiment.compares_networks and "net" in overrides:
        raise ValueError(
            f"{experiment.name} compares networks, so --net would make its rows alike; leave it out"
        )
    chosen = {**SCALES[scale], **overrides}
    source = Source(data, **{f.name: chosen[f.name] for f in fields(Source) if f.name in chosen})
    if "epochs" not in overrides and any(
        cell.epochs != "sto" and cell.epochs != 1 for cell in experiment.cells
    ):
        chosen["epochs"] = max(chosen.get("epochs", Config.epochs), 15)  # so that the shares differ
    config = Config(**{f.name: chosen[f.name] for f in fields(Config) if f.name in chosen})
    found: dict[str, Job] = {}
    for seed in seeds:
        for cell in experiment.cells:
            seeded = replace(config, net=overrides.get("net", cell.net), seed=seed)
            teacher = None
            if cell.teacher:
                big = replace(seeded, net=cell.teacher)
                teacher = Job(f"teacher of {cell.label}", source, "baseline", {}, big)
                found.setdefault(teacher.name, teacher)
            seeded = replace(seeded, epochs=cell_epochs(cell, seeded, source.size))
            settings = cell_settings(cell, seeded.epochs)
            job = Job(cell.label, source, cell.method, settings, seeded, teacher)
            if found.setdefault(job.name, job).label not in (cell.label, f"teacher of {cell.label}"):
                same = found[job.name].label
                raise ValueError(
                    f"{cell.label} and {same} would be the same run: {config.epochs} epochs are too few for "
                    f"{experiment.name}"
                )
    return sorted(found.values(), key=lambda job: job.teacher is not None)


def cell_settings(cell: Cell, epochs: int) -> Settings:
    """The cell's settings; a schedule shorter than the paper's 300 epochs shortens the 80 epochs of a ramp too."""
    ramp = round(80 / 300 * epochs)
    if cell.method not in ("one", "okddip") or "ramp" in cell.settings or ramp >= 80:
        return cell.settings
    return {**cell.settings, "ramp": max(1, ramp)}


def cell_epochs(cell: Cell, config: Config, size: int) -> int:
    """How many epochs a cell takes where the protocol has config.epochs."""
    if cell.epochs == "sto":
        return round(config.epochs * costs.step_cost(registry.make("sto"), config.net, size))
    return max(1, round(config.epochs * float(cell.epochs)))
