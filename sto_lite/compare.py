"""Figures of finished runs, as files: curves, confusion matrices, errors by class (chapters 6 and 8)."""

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sto_lite.about import wilson
from sto_lite.checkpoints import DAMAGE, decode
from sto_lite.errors import RunError
from sto_lite.faces import EXPRESSIONS
from sto_lite.files import expand, read, save
from sto_lite.records import Record, read_record
from sto_lite.sets import PUBLISHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sto_lite.experiments.tables import Table

NAMED = 20  # classes up to which each has its name and its number in a figure


class Finished(NamedTuple):
    """A finished run: its name in legends and files, its record, and its classes."""

    name: str
    record: Record
    classes: tuple[str, ...]

    def confusion(self, split: str) -> np.ndarray:
        """(classes, classes) counts of a split: a row for each label, a column for each prediction."""
        counts = np.zeros((len(self.classes),) * 2, int)
        np.add.at(counts, (self.record["labels"][split], self.record["predictions"][split]), 1)
        return counts


def read_runs(paths: Sequence[Path]) -> list[Finished]:
    """Finished runs from their folders or record files, with names that tell them apart. Raises RunError if one is
    missing, or no record of a run.
    """
    places = [expand(path) for path in paths]
    files = [place / "record.json" if place.is_dir() else place for place in places]
    wholes = [(file.parent if file.name == "record.json" else file).resolve() for file in files]
    shared = Path(os.path.commonpath([whole.parent for whole in wholes]))
    found: list[Finished] = []
    for whole, file in zip(wholes, files, strict=True):
        record = read_record(file)
        if "kind" in record:
            raise RunError(f"{file} is a record of another kind ({record['kind']}), which has no curves here")
        name = "-".join(whole.relative_to(shared).parts).removesuffix(".json")
        while name in [run.name for run in found]:
            name += "-again"
        found.append(Finished(name, record, classes_of(record, file.parent / "network.pt")))
    return found


def classes_of(record: Record, network: Path) -> tuple[str, ...]:
    """The names of a run's classes: of its set, else from the network beside it, else numbers."""
    name = record["data"]["name"]
    if name == "faces":
        return EXPRESSIONS
    if name in PUBLISHED and PUBLISHED[name].classes:
        return PUBLISHED[name].classes
    if network.exists():
        try:
            classes = json.loads(decode(read(network))["about"])["classes"]
            return tuple(name.replace("$", r"\$") for name in classes)  # which begins a formula in figures
        except DAMAGE:  # older, or damaged: numbers will do
            pass
    highest = max(max(values) for part in ("labels", "predictions") for values in record[part].values())
    return tuple(map(str, range(highest + 1)))


def draw(runs: Sequence[Finished], out: Path, kind: str = "png") -> list[Path]:
    """Write the figures of runs into a folder: curves, errors by class, and a confusion matrix for each run. Raises
    RunError if matplotlib is missing; the runs have other classes or test splits; a file cannot be written.
    """
    split = list(runs[0].record["result"])[-1]
    for run in runs:
        if run.classes != runs[0].classes or split not in run.record["result"]:
            told = f"{run.name} and {runs[0].name} are of other image sets"
            raise RunError(f"{told}, so they do not go into one figure; plot them one by one")

    def figures() -> "dict[str, Figure]":
        several = {"curves": curves(runs, split), "classes": class_errors(runs, split)}
        names = ["confusion" if len(runs) == 1 else f"confusion-{run.name}" for run in runs]
        return several | {name: confusion(run, split) for name, run in zip(names, runs, strict=True)}

    return write(figures, out, kind)


def draw_table(table: "Table", out: Path, kind: str = "png") -> list[Path]:
    """Write an experiment's figures into a folder: curves as in the paper's Figure 3, and gains; raises as `draw`."""
    return write(lambda: {"curves": table_curves(table), "gains": gains(table)}, out, kind)


def write(make: "Callable[[], dict[str, Figure]]", out: Path, kind: str) -> list[Path]:
    """Make figures in the book's style, on white, and write them as OUT/NAME.KIND; raises as `draw`."""
    try:
        import matplotlib
    except ImportError as error:
        raise RunError("plot needs matplotlib: pip install matplotlib") from error
    from sto_lite import plots
    from sto_lite.page import INK

    matplotlib.use("Agg")
    paths = []
    with matplotlib.rc_context():
        plots.style()
        black = {key: "black" for key, value in matplotlib.rcParams.items() if value == INK}
        matplotlib.rcParams.update({**black, "figure.facecolor": "white"})
        for name, fig in make().items():
            file = io.BytesIO()
            fig.savefig(file, format=kind, dpi=150)
            save(out / f"{name}.{kind}", file.getvalue())
            paths.append(out / f"{name}.{kind}")
    return paths


def axes(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of so many inches, and its one pair of axes."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height))
    return fig, fig.add_subplot()


def curves(runs: Sequence[Finished], split: str) -> "Figure":
    """Test error over epochs, a line for each run, and training error behind it."""
    fig, ax = axes(7, 4)
    for number, run in enumerate(runs):
        history, colour = run.record["history"], f"C{number % 6}"
        train = history["train_error"]
        ax.plot(range(1, len(train) + 1), train, color=colour, linestyle=":", linewidth=1, alpha=0.8)
        label = f"{run.name}: {run.record['result'][split]['error']:.2f} %"
        epochs, errors = history["test_epoch"], history[f"{split}_error"]
        marker = "o" if len(epochs) < 30 else None
        ax.plot(epochs, errors, color=colour, linestyle="-", marker=marker, label=label)
    ax.set(xlabel="epoch", ylabel="error (%)", ylim=(0, None))
    ax.set_title(f"error on the {split} images (dotted: in training)")
    fig.legend(loc="outside lower center", ncols=min(len(runs), 2))
    return fig


def table_curves(table: "Table") -> "Figure":
    """Test error over epochs, a line for each row: the mean over its seeds, within their range."""
    fig, ax = axes(7, 4)
    for number, row in enumerate(row for row in table.rows if row.records):
        found = [record["history"] for record in row.records]
        errors = np.array([history[f"{table.split}_error"] for history in found])
        epochs, look = found[0]["test_epoch"], {"color": f"C{number % 6}"}
        ax.fill_between(epochs, errors.min(0), errors.max(0), alpha=0.2, linewidth=0, **look)
        dashes = ("-", "--", "-.", ":")[number // 6 % 4]
        ax.plot(epochs, errors.mean(0), dashes, label=f"{row.cell.label} ({len(found)} seeds)", **look)
    ax.set(xlabel="epoch", ylabel=f"error on the {table.split} images (%)", ylim=(0, None))
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def gains(table: "Table") -> "Figure":
    """How much less each row errs than the one it is compared with, with its 95 % interval, and the verdict."""
    rows = [row for row in table.rows if row.gain]
    fig, ax = axes(7, 1.5 + 0.4 * len(rows))
    for place, row in enumerate(rows):
        found = row.block.wide if row.block else row.gain
        assert found
        colour = "C1" if row.verdict in ("better", "reproduced") else "C5"
        ax.plot([found.mean], [place], "o", color=colour)
        if found.seeds > 1:
            ax.plot([found.low, found.high], [place] * 2, "-", color=colour)
    labels = [f"{row.cell.label}\nover {row.cell.against}: {row.verdict}" for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=9)
    ax.axvline(0, color="black", linewidth=1)
    ax.set(xlabel="gain (points), 95 % interval", ylim=(len(rows) - 0.5, -0.5))
    return fig


def class_errors(runs: Sequence[Finished], split: str) -> "Figure":
    """The error of each class with its 95 % interval (Wilson 1927), the runs side by side."""
    count = len(runs[0].classes)
    fig, ax = axes(7, min(20.0, max(3.0, 1 + 0.18 * count * (1 + len(runs)))))
    for number, run in enumerate(runs):
        matrix = run.confusion(split)
        images, wrong = matrix.sum(1), matrix.sum(1) - matrix.diagonal()
        there = images > 0
        error = 100 * wrong[there] / images[there]
        bounds = np.array([wilson(int(w), int(n)) for w, n in zip(wrong[there], images[there], strict=True)])
        y = np.arange(count)[there] + 0.6 * ((number + 0.5) / len(runs) - 0.5)
        reach = np.abs(bounds.T - error)
        ax.errorbar(error, y, xerr=reach, fmt="osDv^PX"[number % 7], color=f"C{number % 6}", label=run.name)
    ax.set_yticks(range(count), runs[0].classes, fontsize=11 if count <= NAMED else 6)
    ax.invert_yaxis()
    ax.set(xlabel=f"error on the {split} images (%), 95 % interval", xlim=(0, None))
    fig.legend(loc="outside upper center", ncols=min(len(runs), 3))
    return fig


def confusion(run: Finished, split: str) -> "Figure":
    """Which class is taken for which, in % of the images of a class."""
    matrix = run.confusion(split)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    count, side = len(run.classes), min(12.0, 3.5 + 0.4 * len(run.classes))
    fig, ax = axes(side + 0.5, side)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ax.grid(False)
    small = 11 if count <= NAMED else 5
    ax.set_xticks(range(count), run.classes, rotation=90, fontsize=small)
    ax.set_yticks(range(count), run.classes, fontsize=small)
    for row, column in np.argwhere(share > 0) if count <= NAMED else ():
        value = share[row, column]
        colour = "white" if value > 50 else "black"
        ax.text(column, row, f"{value:.0f}" if value >= 1 else "<1", ha="center", va="center", color=colour)
    ax.set(xlabel="predicted", ylabel="label")
    ax.set_title(f"{run.name}: % of each class's {split} images")
    return fig
