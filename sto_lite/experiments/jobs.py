"""An experiment as a list of runs (chapters 8 and 9).

With data, seeds and a protocol an experiment becomes a list of jobs: runs whose folder's name follows from their
settings, so that two experiments share what they have in common.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from sto_lite import costs, registry
from sto_lite.config import Config, plain
from sto_lite.config import Source as Source
from sto_lite.experiments.paper import Cell, Experiment, Settings
from sto_lite.own import is_own
from sto_lite.resnet import NETWORKS

OVERRIDES = {f.name for kind in (Source, Config) for f in fields(kind)} - {"name", "seed"}

# What a scale changes in the paper's protocol. At "smoke" the networks stay and only show that everything runs.
SCALES: dict[str, Settings] = {
    "paper": {},
    "colab": {"epochs": 30, "evaluate_every": 5},
    "smoke": {"epochs": 2, "evaluate_every": 2, "batch_size": 32, "size": 8, "limit": 64},
}


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
        return "-".join([*parts, self.digest]).replace(":", ".")

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of all settings that make a difference."""
        teacher = self.teacher.digest if self.teacher else None
        known = fields(registry.find(self.method))
        method = {f.name: f.default for f in known if not f.metadata.get("local")}
        for key, value in self.settings.items():  # 0 and 0.0 are the same, and so is a default that is given
            method[key] = float(value) if isinstance(method[key], float) else value
        source = asdict(self.source)
        for younger in ("subset", "votes"):  # than some runs
            if not source[younger]:
                del source[younger]
        identity = [source, self.method, method, plain(self.config), teacher]
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
        overrides: fields of Source and Config that win over the scale's, such as {"net": "resnet14"}; the subset
            "seed" gives each seed training images of its own.

    Raises:
        ValueError: an override that no run has; or a network for an experiment that compares networks.
    """
    overrides = {**experiment.protocol, **(overrides or {})}
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    if unknown := sorted(set(overrides) - OVERRIDES):
        raise ValueError(f"a run has no setting {', '.join(unknown)}; it has {', '.join(sorted(OVERRIDES))}")
    if experiment.compares_networks and "net" in overrides:
        raise ValueError(
            f"{experiment.name} compares networks, so --net would make its rows alike; leave it out"
        )
    chosen = {**SCALES[scale], **overrides}
    source = Source(data, **{f.name: chosen[f.name] for f in fields(Source) if f.name in chosen})
    if "epochs" not in overrides and any(cell.epochs not in ("sto", 1) for cell in experiment.cells):
        chosen["epochs"] = max(chosen.get("epochs", Config.epochs), 15)  # so that the shares differ
    config = Config(**{f.name: chosen[f.name] for f in fields(Config) if f.name in chosen})
    found: dict[str, Job] = {}
    for seed in seeds:
        if chosen.get("subset") == "seed":
            source = replace(source, subset=seed)
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
            same = found.get(job.name, job).label
            if same.startswith("teacher of "):  # a row that is a teacher as well is one run
                found[job.name] = job
            elif found.setdefault(job.name, job).label != cell.label:
                few = (
                    f": {config.epochs} epochs are too few for {experiment.name}" if cell.epochs != 1 else ""
                )
                raise ValueError(f"{cell.label} and {same} would be the same run{few}")
    return sorted(found.values(), key=lambda job: job.teacher is not None)


def choose(
    experiment: Experiment, rows: Sequence[str] | None = None, teacher_net: str | None = None
) -> Experiment:
    """The experiment with fewer rows, or with another network as KD's teacher.

    Args:
        experiment: whole.
        rows: labels, or methods where no label is so called, in any case of letters; None keeps all. One's own
            method, as package.module:CLASS, becomes a row, compared with the table's first.
        teacher_net: for resnet.build.

    Raises:
        ValueError: there is no such row or network, or no teacher is trained beforehand.
    """
    cells = experiment.cells
    for word in rows or ():
        if is_own(word) and word not in (cell.method for cell in cells):
            cells += (Cell(word, word, cells[0].net, against=cells[0].label),)
        if not any(word.casefold() in (cell.label.casefold(), cell.method.casefold()) for cell in cells):
            known = ", ".join(repr(cell.label) for cell in cells)
            raise ValueError(f"{experiment.name} has no row {word!r}; it has {known}")
    if rows:
        labels = {cell.label.casefold() for cell in cells}
        wanted = {word.casefold() for word in rows}
        cells = tuple(
            cell
            for cell in cells
            if cell.label.casefold() in wanted or cell.method.casefold() in wanted - labels
        )
    if teacher_net:
        if not is_own(teacher_net) and teacher_net not in NETWORKS:
            raise ValueError(f"no network is called {teacher_net!r}; there are {', '.join(NETWORKS)}")
        if not any(cell.teacher for cell in cells):
            raise ValueError(f"no row of {experiment.name} that is run has a teacher trained beforehand")
        cells = tuple(replace(cell, teacher=cell.teacher and teacher_net) for cell in cells)
    return replace(experiment, cells=cells)


def cell_settings(cell: Cell, epochs: int) -> Settings:
    """The cell's settings; a schedule shorter than the paper's 300 epochs shortens the 80 epochs of a ramp too."""
    ramp = round(80 / 300 * epochs)
    defaults = {field.name: field.default for field in fields(registry.find(cell.method))}
    if defaults.get("ramp") != 80 or "ramp" in cell.settings or ramp >= 80:
        return cell.settings
    return {**cell.settings, "ramp": max(1, ramp)}


def cell_epochs(cell: Cell, config: Config, size: int) -> int:
    """How many epochs a cell takes where the protocol has config.epochs."""
    if cell.epochs == "sto":
        sto, own = (
            costs.step_cost(registry.make(name, **settings), config.net, size)
            for name, settings in (("sto", {}), (cell.method, cell.settings))
        )
        return round(config.epochs * sto / own)
    return max(1, round(config.epochs * float(cell.epochs)))
